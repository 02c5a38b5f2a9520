//! Random graphs: simplified and fused plans give the bits of plans that do neither, in the interpreter.

use numfuse_core::graph::Graph;
use numfuse_core::pipeline::{Options, plan};
use numfuse_core::plan::Plan;

#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;
#[path = "../../../tests/support/run_plan.rs"]
mod run_plan;

use run_plan::{Dense, run_plan, same};

fn planned(graph: &Graph, simplify: bool, fuse: bool) -> Plan {
    let options = Options { simplify, fuse, verify: true };
    plan(graph.clone(), options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// Names the seed and shows the graph if the test panics.
struct Announce(u64, String);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}\n{}", self.0, self.1);
        }
    }
}

/// A small generator of numbers (splitmix64), so that a failure names its seed.
fn numbers(seed: u64, count: usize) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z >> 33) as u32
        })
        .collect()
}

#[test]
fn fusion_and_simplification_keep_every_bit() {
    let rounds = std::env::var("NUMFUSE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400u64);
    let first = std::env::var("NUMFUSE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0u64);
    for seed in first..first + rounds {
        let list = numbers(seed, 120);
        let mut choices = random_graph::Choices::new(&list);
        let options = random_graph::Options { ops: 14, functions: seed % 4 == 0, ..Default::default() };
        let random_graph::RandomGraph { graph, sizes } = random_graph::random_graph(&mut choices, options);
        let all = graph.dims.sizes(&sizes);
        if graph.dims.check(&all).is_err() {
            continue;
        }
        let inputs: Vec<Dense> = graph
            .inputs()
            .iter()
            .map(|input| {
                let node = graph.node(input.node);
                let shape: Vec<u64> = node.shape.iter().map(|d| all[d.index()]).collect();
                let count = shape.iter().product::<u64>() as usize;
                Dense { shape, data: random_graph::values(&mut choices, node.dtype, count) }
            })
            .collect();
        let _where = Announce(seed, graph.to_string());
        let plain = planned(&graph, false, false);
        let want = run_plan(&plain, &sizes, &inputs);
        for (simplify, fuse) in [(false, true), (true, false), (true, true)] {
            let candidate = planned(&graph, simplify, fuse);
            let got = run_plan(&candidate, &sizes, &inputs);
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                assert!(
                    same(want, got),
                    "seed {seed}, simplify {simplify}, fuse {fuse}, output {i}\n{graph}\n{}\nsizes {sizes:?}\ninputs \
                     {inputs:?}\nwant {want:?}\ngot {got:?}",
                    candidate.steps.iter().map(|s| format!("{}\n{}\n", s.reason, s.kernel)).collect::<String>()
                );
            }
        }
    }
}
