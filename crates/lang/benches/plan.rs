//! What it costs to get from a text to a plan, stage by stage: the time before any code is generated.
//!
//! ```text
//! cargo bench -p numfuse-lang
//! ```
//!
//! Each bench runs with a formula of ten operations, one of a hundred, and sums of many terms, whose cost for each node
//! has to stay what it is for a few.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use numfuse_core::dtype::DType;
use numfuse_core::fuse::fuse;
use numfuse_core::graph::Graph;
use numfuse_core::pipeline::{Options, plan};
use numfuse_core::{kernel, simplify};
use numfuse_lang::{Ast, DimSpec, InputType, SourceLimits, lower, parse};

fn main() {
    divan::main();
}

const TEXTS: [Text; 6] =
    [Text::Arithmetic, Text::Ten, Text::Hundred, Text::Sum(100), Text::Sum(10_000), Text::Sum(100_000)];

/// What is planned.
#[derive(Clone, Copy, Debug)]
enum Text {
    /// Ten operations of arithmetic.
    Arithmetic,
    /// Ten operations with `exp`, `sin` and `sqrt`.
    Ten,
    /// A hundred operations, ten of them elementary functions.
    Hundred,
    /// A sum of so many products.
    Sum(usize),
}

impl Text {
    fn text(self) -> String {
        let terms = |count: usize, term: &dyn Fn(usize) -> String| (0..count).map(term).collect::<Vec<_>>().join(" + ");
        match self {
            Text::Arithmetic => "(a - b)*2 + (a + b)*3 - a*b + (b - 1)*a".to_owned(),
            Text::Ten => "exp(-(a - b)**2 / 2) * sin(a) + sqrt(abs(b)) * 3 - 1".to_owned(),
            Text::Hundred => terms(10, &|i| {
                let function = ["exp", "sin", "log", "cos", "tanh"][i % 5];
                format!("{function}(a*{}.5 + b) * (c - {i}) + (a*b - c)*(b + {i}.25)", i + 1)
            }),
            Text::Sum(count) => terms(count, &|i| ["a*b", "b*c", "c*2", "a*3"][i % 4].to_owned()),
        }
    }

    fn ast(self) -> Ast {
        let (ast, mistakes) = parse(&self.text(), &limits());
        ast.filter(|_| mistakes.is_empty()).expect("the text is right")
    }

    fn graph(self) -> Graph {
        typed(&self.ast())
    }

    fn simplified(self) -> Graph {
        simplify::sink_views(simplify::simplify(self.graph()).0)
    }
}

fn limits() -> SourceLimits {
    SourceLimits { tokens: 1 << 20, ..SourceLimits::default() }
}

/// The graph for vectors of `f64`.
fn typed(ast: &Ast) -> Graph {
    let input = |name| InputType { name, dtype: DType::F64, weak: false, shape: &[DimSpec::Unknown] };
    let (graph, _) = lower(ast, &["a", "b", "c"].map(input), Some(vec![1000; 3]), &limits());
    graph.expect("the inputs are right")
}

#[divan::bench(args = TEXTS)]
fn a_parse(bencher: Bencher<'_, '_>, text: Text) {
    let source = text.text();
    bencher.bench_local(|| parse(black_box(&source), &limits()));
}

#[divan::bench(args = TEXTS)]
fn b_type(bencher: Bencher<'_, '_>, text: Text) {
    let ast = text.ast();
    bencher.bench_local(|| typed(black_box(&ast)));
}

#[divan::bench(args = TEXTS)]
fn c_simplify(bencher: Bencher<'_, '_>, text: Text) {
    let graph = text.graph();
    bencher.with_inputs(|| graph.clone()).bench_local_values(|graph| simplify::sink_views(simplify::simplify(graph).0));
}

#[divan::bench(args = TEXTS)]
fn d_fuse(bencher: Bencher<'_, '_>, text: Text) {
    let graph = text.simplified();
    bencher.bench_local(|| fuse(black_box(&graph), true));
}

#[divan::bench(args = TEXTS)]
fn e_kernels(bencher: Bencher<'_, '_>, text: Text) {
    let graph = text.simplified();
    let groups = fuse(&graph, true);
    bencher
        .with_inputs(|| (graph.clone(), groups.clone()))
        .bench_local_values(|(graph, groups)| kernel::lower::lower(graph, groups));
}

#[divan::bench(args = TEXTS)]
fn f_verify(bencher: Bencher<'_, '_>, text: Text) {
    let graph = text.simplified();
    let groups = fuse(&graph, true);
    let plan = kernel::lower::lower(graph, groups);
    bencher.bench_local(|| {
        plan.steps.iter().filter_map(|step| step.kernel()).all(|k| kernel::verify(black_box(k)).is_ok())
    });
}

/// All of it but the verification, which belongs to the back ends.
#[divan::bench(args = TEXTS)]
fn text_to_plan(bencher: Bencher<'_, '_>, text: Text) {
    let source = text.text();
    let nodes = text.graph().len();
    bencher.counter(ItemsCount::new(nodes)).bench_local(|| {
        let (ast, _) = parse(black_box(&source), &limits());
        let graph = typed(&ast.expect("the text is right"));
        plan(graph, Options { verify: false, ..Options::default() }, &mut |_, _| {})
    });
}
