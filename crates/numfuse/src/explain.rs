//! What becomes of a text: every stage from the tree to machine code, as text for people.
//!
//! [`Engine::explain`] is what `numfuse explain` prints. The stages are those of `core::pipeline`, in order; what a stage
//! does not change says so. Without sizes, the kernels and their code are those for row-major inputs of some size. The
//! machine code is that of the code generator that the engine uses for the kernel, whose name stands above it.

use crate::engine::{Engine, Kernel as Compiled, Program, Shared};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::expr::{Input, Size};
use numfuse_core::diagnostic::{Code, Diagnostic, suggest};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Kernel, Level, Role, StageKind};
use numfuse_core::launch::Launch;
use numfuse_core::pipeline;
use numfuse_core::plan::{BufferId, BufferKind, FusedKernel, Fusible, Plan, Step, Strided, Work};
use numfuse_core::shape::{ConstraintKind, DimId, MAX_RANK, contracted};
use numfuse_cpu::{Specialized, Tier};
use numfuse_cuda::emit::{self, Class, Fused};
use numfuse_cuda::matmul::{self, Classified, Product};
use numfuse_cuda::nvrtc::{Options, Usage};
use numfuse_cuda::{Arch, Compiler};
use std::fmt::{self, Write};
use std::sync::OnceLock;

/// A stage of compilation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// The text as it was understood, one statement a line.
    Parse,
    /// The typed graph.
    Graph,
    /// The graph after simplification.
    Simplified,
    /// What runs: which kernels, on what, why, and what they cost.
    Plan,
    /// The loop nests in primitives.
    Kernel,
    /// The loop nests in Cranelift's representation, whether or not Cranelift makes their code.
    Clif,
    /// The machine code, and which code generator made it.
    Asm,
    /// CUDA C, as it is compiled for a GPU, whether or not there is one. Shown only when it is asked for. Where NVIDIA's
    /// compiler can be loaded, comments tell the registers, spills and shared memory of each kernel.
    Cuda,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 8] = [
        Stage::Parse,
        Stage::Graph,
        Stage::Simplified,
        Stage::Plan,
        Stage::Kernel,
        Stage::Clif,
        Stage::Asm,
        Stage::Cuda,
    ];

    /// The name, as `numfuse explain --stage` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Parse => "parse",
            Stage::Graph => "graph",
            Stage::Simplified => "simplified",
            Stage::Plan => "plan",
            Stage::Kernel => "kernel",
            Stage::Clif => "clif",
            Stage::Asm => "asm",
            Stage::Cuda => "cuda",
        }
    }

    /// The stage of this name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// The stages of one text as text.
#[derive(Clone, Debug)]
pub struct Explanation {
    stages: Vec<(Stage, String)>,
    /// What runs on a GPU, and its text once it is asked for: the compiler takes its time.
    on_device: OnDevice,
    cuda: OnceLock<String>,
}

impl Explanation {
    /// What a stage looks like.
    pub fn stage(&self, stage: Stage) -> &str {
        if stage == Stage::Cuda {
            return self.cuda.get_or_init(|| cuda_text(&self.on_device));
        }
        self.stages.iter().find(|(s, _)| *s == stage).map_or("", |(_, text)| text)
    }
}

/// All stages but [`Stage::Cuda`] under their names.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (stage, text)) in self.stages.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}=== {} ===\n{}\n", stage.name(), text.trim_end())?;
        }
        Ok(())
    }
}

impl Engine {
    /// Every stage of a text for inputs of the types of `env`.
    ///
    /// ```
    /// use numfuse::{Engine, explain::Stage, vars};
    /// let explanation = Engine::default().explain("sum(a * b)", &vars! { a: [1.0], b: [2.0] })?;
    /// assert!(explanation.stage(Stage::Plan).contains("temporaries: none"));
    /// # Ok::<(), numfuse::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the text is wrong, or the types do not fit it.
    pub fn explain(&self, text: &str, env: &Env<'_>) -> Result<Explanation> {
        let bound = env.names().filter_map(|name| Some((name, env.get(name)?)));
        let input = |(name, array): (&str, &crate::ArrayRef<'_>)| Input {
            name: name.to_owned(),
            dtype: array.dtype(),
            weak: array.is_weak(),
            shape: array.shape().iter().map(|_| Size::Unknown).collect(),
        };
        let program = self.program_of_types(text, bound.map(input).collect())?;
        let shapes: Vec<&[u64]> = program.inputs.iter().filter_map(|i| env.get(&i.name)).map(|a| a.shape()).collect();
        let symbols = shapes.concat();
        explain(self.shared(), &program, Some(symbols))
    }

    /// Every stage of a text for inputs declared as `a: f64[n, 3]`: a dtype, and for arrays the sizes of the dimensions,
    /// each a number, a name that stands for one size wherever it is used, or `_` for any size.
    ///
    /// # Errors
    /// If the text or a declaration is wrong, or the types do not fit the text.
    pub fn explain_types(&self, text: &str, inputs: &[&str]) -> Result<Explanation> {
        let inputs = inputs.iter().map(|i| declaration(i)).collect::<Result<Vec<Input>>>()?;
        explain(self.shared(), &self.program_of_types(text, inputs)?, None)
    }
}

impl<A> Compiled<A> {
    /// Every stage of this kernel, for inputs of any sizes. Kernels of expressions have no [`Stage::Parse`].
    ///
    /// # Errors
    /// If a stage is broken, which is a bug.
    pub fn explain(&self) -> Result<Explanation> {
        explain(&self.shared, &self.program, None)
    }
}

/// Reads `a: f64[n, 3]`.
fn declaration(text: &str) -> Result<Input> {
    let bad = |why: String| {
        let error = Diagnostic::new(Code::Arguments, format!("`{text}` declares no input")).why(why);
        Error::from(error.hint("write a name, a dtype and sizes, as in `a:f64[n, 3]`; a scalar is `a:f64`"))
    };
    let (name, type_) = text.split_once(':').ok_or_else(|| bad("there is no `:`".into()))?;
    let (name, type_) = (name.trim(), type_.trim());
    let is_word = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !is_word(name) {
        return Err(bad("the part before `:` is no name".into()));
    }
    let (dtype, sizes) = match type_.split_once('[') {
        None => (type_, None),
        Some((dtype, sizes)) => {
            let sizes = sizes.strip_suffix(']').ok_or_else(|| bad("the `[` is never closed".into()))?;
            (dtype.trim(), Some(sizes.trim()))
        }
    };
    let dtype = DType::from_name(dtype).ok_or_else(|| {
        let near = suggest(dtype, DType::ALL.iter().map(|d| d.name()));
        bad(format!("there is no dtype `{dtype}`{}", near.map_or(String::new(), |n| format!("; did you mean `{n}`?"))))
    })?;
    let mut shape = smallvec::SmallVec::new();
    for size in sizes.filter(|s| !s.is_empty()).into_iter().flat_map(|s| s.split(',')) {
        let size = size.trim();
        shape.push(match size {
            "_" => Size::Unknown,
            _ if size.starts_with(|c: char| c.is_ascii_digit()) => {
                Size::Fixed(size.parse().map_err(|_| bad(format!("`{size}` is no size")))?)
            }
            _ if is_word(size) => Size::Named(size.to_owned()),
            _ => return Err(bad(format!("`{size}` is no size"))),
        });
    }
    if shape.len() > MAX_RANK {
        return Err(bad(format!("an array has at most {MAX_RANK} dimensions")));
    }
    Ok(Input { name: name.to_owned(), dtype, weak: false, shape })
}

/// The sizes that unknown dimensions are taken to have when kernels are specialised: large, or small if there are no arrays of so many
/// dimensions of that size.
const SIZES: [u64; 2] = [4096, 8];

fn explain(shared: &Shared, program: &Program, symbols: Option<Vec<u64>>) -> Result<Explanation> {
    let mut stages: Vec<(Stage, String)> = program.tree().map(|tree| (Stage::Parse, tree)).into_iter().collect();
    let graph = program.graph(shared, symbols.clone())?;
    let mut shown: Vec<(&'static str, String)> = Vec::new();
    let mut observe = |name: &'static str, text: &dyn fmt::Display| shown.push((name, text.to_string()));
    let in_text = |e: Diagnostic| Error::from(e).with_text(program.text.as_ref());
    let plan = pipeline::plan(graph, pipeline::Options::default(), &mut observe).map_err(in_text)?;
    let mut before = String::new();
    for (name, text) in shown {
        let Some(stage) = Stage::named(name) else { continue };
        let same = text == before;
        before.clone_from(&text);
        stages.push((stage, if same { "unchanged".to_owned() } else { text }));
    }
    let count = plan.graph.dims.symbol_count();
    let sizes = |size: u64| plan.graph.dims.sizes(&symbols.clone().unwrap_or_else(|| vec![size; count]));
    let [large, small] = SIZES.map(sizes);
    stages.push((Stage::Plan, plan_text(&plan, symbols.is_some().then_some(small.as_slice()))));

    let (sizes, steps) = match steps(&plan, &large) {
        Ok(steps) => (large, steps),
        Err(_) => (small.clone(), steps(&plan, &small).map_err(in_text)?),
    };
    let compiler = shared.code.compiler();
    let on_host = shared.device.is_cpu() && compiler.is_some();
    let specialized: Vec<Option<Specialized>> = steps
        .iter()
        .map(|(work, launch)| match work {
            Work::Kernel(kernel) if on_host => numfuse_cpu::specialize(kernel, launch),
            _ => None,
        })
        .collect();
    let mut each = |stage: Stage, title: &dyn Fn(&Kernel) -> String, show: &dyn Fn(&Kernel) -> String| {
        let mut text = String::new();
        for (i, ((work, _), specialized)) in steps.iter().zip(&specialized).enumerate() {
            let _ = match work {
                Work::Kernel(kernel) => {
                    let (kernel, how) = specialized.as_ref().map_or((kernel, String::new()), |s| (&s.kernel, form(s)));
                    writeln!(text, "k{i}:{how}{}\n{}", title(kernel), show(kernel).trim_end())
                }
                Work::Matmul(_) if stage == Stage::Kernel => writeln!(text, "k{i}:\n{work}"),
                Work::Matmul(dtype) => writeln!(text, "k{i}: no kernel, but a product of matrices of {dtype}"),
            };
        }
        stages.push((stage, text));
    };
    let untitled = |_: &Kernel| String::new();
    each(Stage::Kernel, &untitled, &|kernel| kernel.to_string());
    let native = |show: &dyn Fn(&numfuse_cpu::Compiler) -> Result<String, numfuse_cpu::Error>| match compiler {
        None => "interpreted: there is no machine code".to_owned(),
        Some(compiler) => show(compiler).unwrap_or_else(|e| e.to_string()),
    };
    let tier = |kernel: &Kernel| compiler.and_then(|compiler| compiler.tier(kernel).ok());
    let unused = |kernel: &Kernel| match tier(kernel) {
        Some((tier, _)) if tier != Tier::Cranelift => format!(" not what runs, which is {}", tier.name()),
        _ => String::new(),
    };
    let made_by = |kernel: &Kernel| match tier(kernel) {
        None => String::new(),
        Some((tier, None)) => format!(" {}", tier.name()),
        Some((tier, Some(reason))) => format!(" {}, nothing wider: {reason}", tier.name()),
    };
    each(Stage::Clif, &unused, &|kernel| native(&|compiler| compiler.clif(kernel)));
    each(Stage::Asm, &made_by, &|kernel| native(&|compiler| compiler.disassemble(kernel)));

    let (arch, options) = match shared.device.backend() {
        Some(backend) => {
            let (major, minor) = backend.device().arch();
            (Arch { major, minor }, backend.options())
        }
        None => (SOME_ARCH, Options::default()),
    };
    Ok(Explanation { stages, on_device: OnDevice { plan, sizes, steps, arch, options }, cuda: OnceLock::new() })
}

/// How what is compiled differs from the kernel of the plan.
fn form(specialized: &Specialized) -> String {
    let mut text = String::new();
    if let Some(elements) = specialized.unrolled {
        let _ = write!(text, " rows of {elements} unrolled;");
    }
    if !specialized.shared.is_empty() {
        let names: Vec<String> = specialized.shared.iter().map(|n| format!("m{n}")).collect();
        let _ = write!(text, " {} packed first;", names.join(", "));
    }
    text
}

/// What runs on a GPU, and what its text is compiled for, and how, to tell what it needs.
#[derive(Clone, Debug)]
struct OnDevice {
    plan: Plan,
    sizes: Vec<u64>,
    steps: Vec<(Work, Launch)>,
    arch: Arch,
    options: Options,
}

/// The architecture of an engine without a GPU.
const SOME_ARCH: Arch = Arch::new(9, 0);

/// The CUDA C of each step, for operands that are aligned; of products, and what is fused into them, what runs where there is
/// no cuBLAS. Where the compiler can be loaded, it is what that makes the best code of, and comments tell what the code needs.
fn cuda_text(OnDevice { plan, sizes, steps, arch, options }: &OnDevice) -> String {
    let compiler = Compiler::load().ok();
    let usage = |source: &emit::Source| match &compiler {
        Some(compiler) => compiler.compile(&source.text, *arch, *options).map(|compiled| compiled.usage()),
        None => Ok(Vec::new()),
    };
    let source = |i: usize, work: &Work, launch: &Launch| match work {
        Work::Kernel(kernel) => {
            let aligned = vec![0; kernel.operands.len()];
            let class = Class::new(kernel, launch, &aligned)?;
            let note = match plan.steps[i].fusible {
                Some(Fusible { product, .. }) => format!(": where cuBLAS computes k{product}"),
                None => String::new(),
            };
            let (program, usage) = emit::Program::fitted(kernel, &class, |program| {
                let usage = usage(program.source())?;
                let local = usage.iter().map(|entry| entry.stack).max().unwrap_or(0);
                Ok((usage, local))
            })?;
            let grids = program.dispatch(launch)?.grids;
            Ok((note, program.source().clone(), usage, grids))
        }
        Work::Matmul(dtype) => {
            let fusible = plan.fusible(i);
            let places = places(plan, sizes).map_err(|e| numfuse_cuda::Error::Internal(e.to_string()))?;
            let bound = plan.bind_product(i, fusible, sizes, &places);
            let bound = bound.map_err(|e| numfuse_cuda::Error::Internal(e.to_string()))?;
            let fused = bound.fused.map(|fused| fused.map(|FusedKernel { kernel, value, .. }| Fused { kernel, value }));
            let aligned = vec![0; bound.operands.len()];
            let product = Product::new(*dtype, launch)?.fuse(&bound.launch, fused)?;
            let product = Classified::new(&product, &aligned)?;
            let source = matmul::Program::new(product.class(), &product.fused()).source().clone();
            let with: Vec<String> = fusible.iter().flatten().map(|step| format!("k{step}")).collect();
            let with =
                if with.is_empty() { String::new() } else { format!(", with {} fused into it", with.join(", ")) };
            let (note, usage) =
                (format!(": a product of matrices of {dtype}{with}, where there is no cuBLAS"), usage(&source)?);
            Ok((note, source, usage, Default::default()))
        }
    };
    let mut text = String::new();
    for (i, (work, launch)) in steps.iter().enumerate() {
        let (note, source, usage, grids) = match source(i, work, launch) {
            Ok(found) => found,
            Err::<_, numfuse_cuda::Error>(error) => {
                let _ = writeln!(text, "// k{i}: {}", error.to_string().replace('\n', "\n// "));
                continue;
            }
        };
        let _ = writeln!(text, "// k{i}{note}");
        for needs in usage {
            let entry = source.entries.iter().position(|name| *name == needs.entry);
            let of_launch = grids.iter().filter(|grid| Some(grid.entry) == entry).map(|grid| grid.shared).max();
            let Usage { entry, registers, spills, stack, shared } = needs;
            let shared = shared + of_launch.unwrap_or(0);
            let _ = writeln!(
                text,
                "// {entry} on {arch}: {registers} registers, {spills} bytes spilled, {stack} bytes of stack, {shared} bytes of \
                 shared memory"
            );
        }
        let _ = writeln!(text, "{}", source.text.trim_end());
    }
    text
}

/// The steps of a plan, kernels as they are compiled for row-major inputs of these sizes, and their launches.
fn steps(plan: &Plan, sizes: &[u64]) -> Result<Vec<(Work, Launch)>, Diagnostic> {
    let places = places(plan, sizes)?;
    let bind = |step: &Step| {
        let launch = step.bind(sizes, &places)?.launch;
        Ok((step.specialize(&launch), launch))
    };
    plan.steps.iter().map(bind).collect()
}

/// The places of all buffers, for row-major inputs of these sizes.
fn places(plan: &Plan, sizes: &[u64]) -> Result<Vec<Strided>, Diagnostic> {
    let inputs = plan.graph.inputs().iter().map(|input| {
        let node = plan.graph.node(input.node);
        let shape: Vec<u64> = node.shape.iter().map(|d| sizes[d.index()]).collect();
        Strided::row_major(&shape, node.dtype)
    });
    plan.places(sizes, &inputs.collect::<Result<Vec<_>, _>>()?)
}

/// A plan as text: for each kernel what it reads and writes, why it is one of its own, and what it costs; then the
/// temporaries. With the sizes of all dimensions, in bytes and operations; without, per element.
pub fn plan_text(plan: &Plan, sizes: Option<&[u64]>) -> String {
    let dims = &plan.graph.dims;
    let name = |id: BufferId| match plan.buffers[id.index()].kind {
        BufferKind::Input(n) => plan.graph.inputs()[n as usize].name.clone(),
        BufferKind::Output(_) if plan.outputs.len() == 1 => "out".to_owned(),
        BufferKind::Output(n) => format!("out{n}"),
        BufferKind::Guard(n) => format!("guard{n}"),
        BufferKind::Temp => id.to_string(),
    };
    let typed = |id: BufferId| {
        let buffer = &plan.buffers[id.index()];
        let shape = if buffer.shape.is_empty() { String::new() } else { dims.display(&buffer.shape).to_string() };
        format!("{}: {}{shape}", name(id), buffer.dtype)
    };
    let count = |shape: &[DimId], sizes: &[u64]| shape.iter().map(|d| sizes[d.index()]).fold(1, u64::saturating_mul);
    let bytes = |id: BufferId, sizes: &[u64]| {
        let buffer = &plan.buffers[id.index()];
        count(&buffer.shape, sizes).saturating_mul(buffer.dtype.size() as u64)
    };
    let mut text = String::new();
    for (i, step) in plan.steps.iter().enumerate() {
        let buffers = |role: Role| {
            let mut found: Vec<BufferId> = step.accesses(role).map(|a| a.buffer).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let names = |role: Role| match buffers(role).as_slice() {
            [] => "nothing".to_owned(),
            found => found.iter().map(|b| name(*b)).collect::<Vec<_>>().join(", "),
        };
        let _ = writeln!(text, "k{i}: {} -> {}", names(Role::In), names(Role::Out));
        let _ = writeln!(text, "    {}", step.reason);
        let each =
            if step.domain.is_empty() { String::new() } else { format!(" for each of {}", dims.display(&step.domain)) };
        let operations = match &step.work {
            Work::Kernel(kernel) => {
                let moved = |role: Role| -> usize {
                    let inner = kernel.operands.iter().filter(|o| o.role == role && o.level == Level::Inner);
                    inner.map(|o| o.dtype.size()).sum()
                };
                let (operations, read, written) = (kernel.ops_per_element(), moved(Role::In), moved(Role::Out));
                let loops = kernel.stages.iter().filter(|s| s.kind == StageKind::Loop).count();
                let passes = if loops > 1 { format!(", in {loops} passes over a row") } else { String::new() };
                let _ = writeln!(
                    text,
                    "    {operations} operations, {read} bytes read, {written} bytes written{each}{passes}"
                );
                operations
            }
            // A multiplication and an addition.
            Work::Matmul(_) => {
                let _ = writeln!(text, "    2 operations{each}");
                2
            }
        };
        if let Some(sizes) = sizes {
            let moved = |role: Role| buffers(role).into_iter().map(|b| bytes(b, sizes)).fold(0, u64::saturating_add);
            let total = count(&step.domain, sizes).saturating_mul(operations as u64);
            let _ = writeln!(
                text,
                "    in all {total} operations, {} bytes in, {} bytes out",
                moved(Role::In),
                moved(Role::Out)
            );
        }
    }
    let temps: Vec<BufferId> = (0..plan.buffers.len() as u32)
        .map(BufferId)
        .filter(|b| plan.buffers[b.index()].kind == BufferKind::Temp)
        .collect();
    let list = if temps.is_empty() {
        "none".to_owned()
    } else {
        temps.iter().map(|b| typed(*b)).collect::<Vec<_>>().join(", ")
    };
    let _ = write!(text, "temporaries: {list}");
    if let (Some(sizes), false) = (sizes, temps.is_empty()) {
        let _ = write!(text, " ({} bytes)", temps.iter().map(|b| bytes(*b, sizes)).fold(0, u64::saturating_add));
    }
    text.push('\n');
    for (guard, buffer) in plan.graph.guards.iter().zip(&plan.guards) {
        let _ = writeln!(text, "{}: {}", name(*buffer), guard.error.title);
    }
    for constraint in dims.constraints() {
        let _ = writeln!(text, "requires: {}", requirement(plan, &constraint.kind));
    }
    text
}

fn requirement(plan: &Plan, kind: &ConstraintKind) -> String {
    let dims = &plan.graph.dims;
    let show = |d: &DimId| dims.name(*d);
    match kind {
        ConstraintKind::Equal(a, b) => format!("{} == {}", show(a), show(b)),
        ConstraintKind::One(d) => format!("{} == 1", show(d)),
        ConstraintKind::InRange(d, index) => format!("index {index} in range of {}", show(d)),
        ConstraintKind::NonEmpty(list, name) => {
            format!("{} > 0, for `{name}`", list.iter().map(show).collect::<Vec<_>>().join(" * "))
        }
        ConstraintKind::Product(left, right) => {
            let (a, b) = contracted(left, right);
            format!("{} == {}, for a matrix product", show(&a), show(&b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let input = declaration(" a : f32[n, 3,_]").unwrap();
        assert_eq!((input.name.as_str(), input.dtype), ("a", DType::F32));
        assert_eq!(input.shape.as_slice(), [Size::Named("n".into()), Size::Fixed(3), Size::Unknown]);
        assert!(declaration("k:float64").unwrap().shape.is_empty());
        assert!(declaration("k:i8[]").unwrap().shape.is_empty());
        for bad in ["a", "a:", ":f32", "a:f31", "a:f32[", "a:f32[n m]", "a:f32[-1]", "a:f32[,]", "a b:f32", "a:f32[9x]"]
        {
            assert_eq!(declaration(bad).unwrap_err().code(), Code::Arguments, "{bad}");
        }
        assert!(declaration(&format!("a:f32[{}]", ["1"; 33].join(","))).is_err());
    }

    #[test]
    fn every_stage_is_shown() {
        let engine = Engine::default();
        let all = engine.explain_types("sum(a*b)", &["a:f32[n]", "b:f32[n]"]).unwrap();
        for stage in Stage::ALL {
            assert!(!all.stage(stage).is_empty(), "{}", stage.name());
            let shown = all.to_string().contains(&format!("=== {} ===", stage.name()));
            assert_eq!(shown, stage != Stage::Cuda, "{}", stage.name());
        }
        let cuda = all.stage(Stage::Cuda);
        assert!(cuda.starts_with("// k0\n") && cuda.contains("extern \"C\" __global__"), "{cuda}");
        assert_eq!(all.stage(Stage::Parse), "sum(a * b)");
        assert!(all.stage(Stage::Plan).starts_with("k0: a, b -> out\n"), "{}", all.stage(Stage::Plan));
    }

    #[test]
    fn every_kernel_says_who_makes_its_code() {
        for tier in Tier::ALL {
            let engine = Engine::builder().tier(tier).build().unwrap();
            let all = engine.explain_types("abs(a)*b", &["a:f64[n]", "b:f64[n]"]).unwrap();
            let asm = all.stage(Stage::Asm);
            let title = asm.lines().next().unwrap();
            match tier {
                Tier::Cranelift => assert_eq!(title, "k0: cranelift"),
                Tier::Avx512 | Tier::Avx2 if tier.is_on_host() => {
                    assert_eq!(title, format!("k0: {}", tier.name()));
                    assert!(asm.contains("; 0x7fffffffffffffff") && asm.contains("loop0:"), "{asm}");
                    assert!(all.stage(Stage::Clif).starts_with("k0: not what runs"), "{}", all.stage(Stage::Clif));
                }
                Tier::Avx512 | Tier::Avx2 => {
                    assert!(title.starts_with("k0: cranelift, nothing wider: this host has no"), "{title}")
                }
                _ => assert!(title.starts_with("k0: "), "{title}"),
            }
        }
    }

    #[test]
    fn with_sizes_the_plan_has_totals() {
        let a = vec![1.0; 100];
        let all = Engine::default().explain("2*a + 1", &crate::vars! { a }).unwrap();
        let plan = all.stage(Stage::Plan);
        assert!(plan.contains("800 bytes in, 800 bytes out"), "{plan}");
    }

    #[test]
    fn mistakes_in_the_text_have_a_place() {
        let error = Engine::default().explain_types("a + b", &["a:f32[2]", "b:f32[3]"]).unwrap_err();
        assert_eq!(error.code(), Code::Broadcast);
        assert!(error.diagnostics()[0].span.is_some());
    }
}
