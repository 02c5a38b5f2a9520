//! The cases of the benchmark: `benches/gpu/cases.txt`, planned as any evaluation is, and bound to sizes.
//!
//! ```text
//! case row-sums                what it is called
//! sizes r=* c=4096             the sizes of its symbols; `*` is what is left of the number of elements
//! graph {                      the graph of its expression
//!   ...
//! }
//! ```

use numfuse_core::dtype::DType;
use numfuse_core::graph::{self, Graph};
use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use numfuse_core::literal::Literal;
use numfuse_core::pipeline;
use numfuse_core::plan::{BufferKind, Plan, Strided, Work};
use numfuse_core::shape::Dim;
use std::fs;
use std::path::Path;

/// A case.
pub struct Case {
    /// What it is called.
    pub name: String,
    /// The sizes of its symbols, in their order in the graph.
    sizes: Vec<Size>,
    graph: Graph,
}

/// What a symbol stands for.
enum Size {
    /// A number, or less where there are few elements.
    AtMost(u64),
    /// The elements over the other sizes.
    Rest,
}

/// A case with sizes.
pub struct Bound {
    /// The plan.
    pub plan: Plan,
    /// The sizes of its symbols.
    pub symbols: Vec<u64>,
    /// Where the elements of its inputs are: row-major.
    pub inputs: Vec<Strided>,
    /// Where those of each buffer are.
    pub places: Vec<Strided>,
    /// What is run, in order.
    pub steps: Vec<BoundStep>,
}

/// A kernel and its launch on buffers.
pub struct BoundStep {
    pub kernel: Kernel,
    pub launch: Launch,
    /// The buffer of each operand.
    pub buffers: Vec<usize>,
    /// How many bytes each operand's first element is from the beginning of its buffer.
    pub offsets: Vec<isize>,
    pub params: Vec<Literal>,
}

/// The cases of a file.
pub fn read(file: &Path) -> Result<Vec<Case>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let code: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    code.split("case ").skip(1).map(Case::parse).collect()
}

impl Case {
    fn parse(text: &str) -> Result<Case, String> {
        let (name, rest) = text.split_once('\n').ok_or("a case without lines")?;
        let wrong = |what: &str| format!("case {name}: {what}");
        let (sizes, graph) = rest.split_once('\n').ok_or_else(|| wrong("no graph"))?;
        let graph = graph::parse::parse(graph.trim()).map_err(|e| wrong(&e.to_string()))?;
        let sizes = sizes.strip_prefix("sizes ").ok_or_else(|| wrong("no sizes"))?;
        let mut found: Vec<Option<Size>> = (0..graph.dims.symbol_count()).map(|_| None).collect();
        for word in sizes.split_whitespace() {
            let (symbol, size) = word.split_once('=').ok_or_else(|| wrong("a size without a value"))?;
            let size = match size {
                "*" => Size::Rest,
                number => Size::AtMost(number.parse().map_err(|_| wrong("a size that is no number"))?),
            };
            for dim in graph.dims.iter().filter(|dim| graph.dims.name(*dim) == symbol) {
                if let Dim::Symbol(n) = graph.dims.get(dim) {
                    found[*n as usize] = Some(size);
                    break;
                }
            }
        }
        let sizes = found.into_iter().collect::<Option<_>>().ok_or_else(|| wrong("a symbol without a size"))?;
        Ok(Case { name: name.trim().to_owned(), sizes, graph })
    }

    /// The type of each input.
    pub fn dtypes(&self) -> Vec<DType> {
        self.graph.inputs().iter().map(|input| self.graph.node(input.node).dtype).collect()
    }

    /// The bytes of an element of its widest input.
    pub fn widest(&self) -> usize {
        self.dtypes().into_iter().map(DType::size).max().unwrap_or(1)
    }

    /// The case where its largest input has about so many elements.
    pub fn bind(&self, elements: u64) -> Result<Bound, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("case {}: {e}", self.name);
        // Sizes are those of `benches/gpu/cases.py`.
        let most = elements.isqrt().max(1);
        let fixed = |size: &Size| if let Size::AtMost(n) = size { (*n).min(most) } else { 1 };
        let rest = (elements / self.sizes.iter().map(fixed).product::<u64>()).max(1);
        let size = |s: &Size| if let Size::Rest = s { rest } else { fixed(s) };
        let symbols: Vec<u64> = self.sizes.iter().map(size).collect();
        let plan = pipeline::plan(self.graph.clone(), pipeline::Options::default(), &mut |_, _| {});
        let plan = plan.map_err(|e| wrong(&e))?;
        let sizes = plan.graph.dims.sizes(&symbols);
        plan.graph.dims.check(&sizes).map_err(|e| format!("case {}: {e:?}", self.name))?;
        let inputs = plan.graph.inputs().iter().map(|input| {
            let node = plan.graph.node(input.node);
            let shape: Vec<u64> = node.shape.iter().map(|d| sizes[d.index()]).collect();
            Strided::row_major(&shape, node.dtype).map_err(|e| wrong(&e))
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let places = plan.places(&sizes, &inputs).map_err(|e| wrong(&e))?;
        let mut steps = Vec::new();
        for step in &plan.steps {
            let bound = step.bind(&sizes, &places).map_err(|e| wrong(&e))?;
            let Work::Kernel(kernel) = step.specialize(&bound.launch) else {
                return Err(wrong(&"products of matrices are no kernels"));
            };
            steps.push(BoundStep {
                kernel,
                launch: bound.launch,
                buffers: step.operands.iter().map(|access| access.buffer.index()).collect(),
                offsets: bound.offsets.to_vec(),
                params: bound.params.to_vec(),
            });
        }
        Ok(Bound { plan, symbols, inputs, places, steps })
    }
}

impl Bound {
    /// The bytes of a buffer.
    pub fn bytes(&self, buffer: usize) -> usize {
        self.places[buffer].count() as usize * self.plan.buffers[buffer].dtype.size()
    }

    /// The bytes that any program has to move: inputs once, outputs once.
    pub fn traffic(&self) -> usize {
        let moved = |kind: BufferKind| matches!(kind, BufferKind::Input(_) | BufferKind::Output(_));
        let buffers = self.plan.buffers.iter().enumerate().filter(|(_, buffer)| moved(buffer.kind));
        buffers.map(|(n, _)| self.bytes(n)).sum()
    }
}
