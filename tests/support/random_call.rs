//! A random graph with data to run it on, from a seed: what differential tests draw.

use super::random_graph::{Choices, Options, RandomGraph, random_graph, values};
use super::run_plan::{Dense, Placed};
use numfuse_core::graph::Graph;
use numfuse_core::pipeline::{self, plan};
use numfuse_core::plan::Plan;

/// A graph, the sizes of its symbols, and its inputs: row-major, and the same values with other strides.
pub struct RandomCall {
    /// The graph.
    pub graph: Graph,
    /// The size of each symbol.
    pub symbols: Vec<u64>,
    /// The inputs in row-major order.
    pub packed: Vec<Placed>,
    /// The same inputs with permuted, padded, reversed and unaligned strides.
    pub strided: Vec<Placed>,
}

/// Sizes past the leaves of both nests, with small ones to go with them.
const LONG: &[u64] = &[2, 3, 2500, 1, 1025];

/// No array of a graph has more elements than this: those of an unfused plan are all in memory.
const MOST_ELEMENTS: u64 = 10_000_000;

/// The call of a seed; none if its sizes break a constraint of its graph, or are too much.
pub fn random_call(seed: u64, ops: usize) -> Option<RandomCall> {
    let list = numbers(seed, 30 + 8 * ops);
    let mut choices = Choices::new(&list);
    // Now and then a dimension of several leaves, to which reductions give an order of its own.
    let sizes = if seed % 8 == 1 { LONG } else { Options::default().sizes };
    let options = Options { ops, functions: seed.is_multiple_of(4), sizes };
    let RandomGraph { graph, sizes: symbols } = random_graph(&mut choices, options);
    if symbols.iter().filter(|n| **n > 1000).count() > 1 {
        return None;
    }
    let sizes = graph.dims.sizes(&symbols);
    graph.dims.check(&sizes).ok()?;
    // One long dimension may be that of several axes.
    let elements = |id| graph.node(id).shape.iter().fold(1, |n: u64, d| n.saturating_mul(sizes[d.index()]));
    if graph.ids().any(|id| elements(id) > MOST_ELEMENTS) {
        return None;
    }
    let (mut packed, mut strided) = (Vec::new(), Vec::new());
    let more = numbers(!seed, 400);
    let mut choices = Choices::new(&more);
    for input in graph.inputs() {
        let node = graph.node(input.node);
        let shape: Vec<u64> = node.shape.iter().map(|d| sizes[d.index()]).collect();
        let rank = shape.len();
        let count = shape.iter().product::<u64>() as usize;
        let array = Dense { shape, data: values(&mut choices, node.dtype, count) };
        let mut order: Vec<usize> = (0..rank).collect();
        for i in 1..rank {
            order.swap(i, choices.below(i + 1));
        }
        let gaps: Vec<usize> = (0..rank).map(|_| choices.pick(&[0, 0, 1, 3])).collect();
        let reversed: Vec<bool> = (0..rank).map(|_| choices.once_in(3)).collect();
        let shift = choices.pick(&[0, 1, 8, 13]);
        packed.push(array.packed(node.dtype));
        strided.push(array.placed(node.dtype, &order, &gaps, &reversed, shift));
    }
    Some(RandomCall { graph, symbols, packed, strided })
}

/// The plan of a graph, verified after every stage.
pub fn planned(graph: &Graph, simplify: bool, fuse: bool) -> Plan {
    let options = pipeline::Options { simplify, fuse, verify: true };
    plan(graph.clone(), options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// The seeds to try: `NUMFUSE_ROUNDS` of them, or `rounds`, from `NUMFUSE_SEED` on.
pub fn seeds(rounds: u64) -> std::ops::Range<u64> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = variable("NUMFUSE_SEED").unwrap_or(0);
    first..first + variable("NUMFUSE_ROUNDS").unwrap_or(rounds)
}

/// Names the seed and shows the graph if the test panics.
pub struct Announce<'a>(pub u64, pub &'a Graph);

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}\n{}", self.0, self.1);
        }
    }
}

/// Random numbers (splitmix64).
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
