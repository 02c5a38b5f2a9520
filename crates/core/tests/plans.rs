//! Random graphs: simplified and fused plans give the bits of plans that do neither, in the interpreter, whatever the
//! strides of the inputs.

use numfuse_core::interp;

#[path = "../../../tests/support/random_call.rs"]
mod random_call;
#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;
#[path = "../../../tests/support/run_plan.rs"]
mod run_plan;

use random_call::{Announce, RandomCall, planned, random_call, seeds};
use run_plan::{run_plan, same};

#[test]
fn fusion_and_simplification_keep_every_bit() {
    for seed in seeds(500) {
        let Some(RandomCall { graph, symbols, packed, strided }) = random_call(seed, 14) else { continue };
        let _announce = Announce(seed, &graph);
        let want = run_plan(&planned(&graph, false, false), &symbols, &packed, interp::run);
        for (simplify, fuse) in [(false, true), (true, false), (true, true)] {
            let plan = planned(&graph, simplify, fuse);
            let got = run_plan(&plan, &symbols, &strided, interp::run);
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                let kernels = || plan.steps.iter().map(|s| format!("{}\n{}\n", s.reason, s.work)).collect::<String>();
                assert!(
                    same(want, got),
                    "simplify {simplify}, fuse {fuse}, sizes {symbols:?}, output {i}\nwant {want:?}\ngot {got:?}\n{}",
                    kernels()
                );
            }
        }
    }
}
