//! From a graph to a plan: every stage once, in order, named, verified. The page to open first.

use crate::diagnostic::{Code, Diagnostic};
use crate::graph::{self, Graph};
use crate::kernel;
use crate::plan::Plan;
use crate::{fuse, simplify};

/// A stage's name and its result as text, for `explain`.
pub type Observer<'a> = dyn FnMut(&'static str, &dyn std::fmt::Display) + 'a;

/// Plans a graph. `observe` sees the graph after each stage that may change it.
pub fn plan(graph: Graph, options: Options, observe: &mut Observer<'_>) -> Result<Plan, Diagnostic> {
    check(options, || graph::verify::verify(&graph), || graph.to_string())?;
    observe("graph", &graph);
    let graph = if options.simplify { simplify::simplify(graph).0 } else { graph };
    let graph = if options.simplify { simplify::sink_views(graph) } else { graph };
    check(options, || graph::verify::verify(&graph), || graph.to_string())?;
    observe("simplified", &graph);
    let groups = fuse::fuse(&graph, options.fuse);
    let plan = kernel::lower::lower(graph, groups);
    for step in &plan.steps {
        check(options, || step.kernel().map_or(Ok(()), kernel::verify), || step.work.to_string())?;
    }
    Ok(plan)
}

/// How graphs are planned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// Whether to rewrite the graph; off only in tests, which hold one against the other.
    pub simplify: bool,
    /// Whether kernels may compute more than one node; off only in tests.
    pub fuse: bool,
    /// Whether to verify after each stage.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { simplify: true, fuse: true, verify: cfg!(debug_assertions) }
    }
}

/// A failed check is a bug in numfuse, and says so with the text of what is broken.
fn check(
    options: Options,
    verify: impl FnOnce() -> Result<(), String>,
    text: impl FnOnce() -> String,
) -> Result<(), Diagnostic> {
    if !options.verify {
        return Ok(());
    }
    verify().map_err(|reason| {
        Diagnostic::new(Code::Internal, format!("a broken invariant: {reason}"))
            .why(format!("this is a bug in numfuse; please report it with this text:\n{}", text()))
    })
}
