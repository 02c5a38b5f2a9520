//! Random well-typed graphs and random data for them, for property and differential tests.
//!
//! Every decision is read from a list of numbers, the *choices*; when they run out, the rest are zero, and zero is
//! always the simplest choice. A test that draws the list from `proptest` therefore shrinks to a small graph by itself,
//! and any list at all gives a valid graph. Include the file with `#[path]`; it needs `numfuse_core` alone.
//!
//! Invariants: the graph verifies; it runs with the sizes that come with it ([`RandomGraph::sizes`], one for each
//! symbol) without breaking a constraint. An integer power may still meet a negative exponent and fail at run time.
#![allow(dead_code, reason = "each test that includes the file uses a part of it")]

use numfuse_core::dtype::{DType, Kind};
use numfuse_core::graph::{Graph, IndexItem, NodeId, ReduceOptions};
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Op, OpKind};
use numfuse_core::shape::{DimId, Slice, in_range};

/// A source of decisions; see the header.
pub struct Choices<'a> {
    rest: &'a [u32],
}

impl<'a> Choices<'a> {
    /// Reads decisions from a list.
    pub fn new(list: &'a [u32]) -> Choices<'a> {
        Choices { rest: list }
    }

    /// The next number, 0 at the end.
    pub fn next(&mut self) -> u32 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// True once in `n` times, and not at the end of the choices.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// True if there is something left.
    pub fn any_left(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// A graph and the sizes of its symbols.
pub struct RandomGraph {
    /// The graph.
    pub graph: Graph,
    /// The size of each symbol.
    pub sizes: Vec<u64>,
}

/// Sizes that find mistakes: nothing, one, less than a vector, more than a vector, and more than a leaf of a reduction.
const SIZES: [u64; 8] = [4, 1, 3, 5, 17, 33, 70, 0];

/// What the generator draws from.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The most ops to apply.
    pub ops: usize,
    /// The sizes of dimensions.
    pub sizes: &'static [u64],
    /// Whether functions that are held to an accuracy (`exp`, `sin`, ...) are used; exact ones always are.
    pub functions: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { ops: 20, sizes: &SIZES, functions: true }
    }
}

/// A graph made by these choices.
pub fn random_graph(choices: &mut Choices<'_>, options: Options) -> RandomGraph {
    let sizes: Vec<u64> = (0..3).map(|_| choices.pick(options.sizes)).collect();
    let mut graph = Graph::new(Some(sizes.clone()));
    let mut dims: Vec<DimId> = ["n", "m", "k"].iter().map(|name| graph.dims.named(name)).collect();
    dims.push(graph.dims.fixed(1));
    dims.push(graph.dims.fixed(3));
    let ops: Vec<Op> = Op::all().filter(|op| options.functions || op.def().check.is_none()).collect();

    for i in 0..1 + choices.below(3) {
        let dtype = if choices.once_in(2) { choices.pick(&DType::ALL) } else { DType::F64 };
        let shape: Vec<DimId> = match choices.below(6) {
            0 | 1 => vec![dims[0]],
            2 => vec![dims[1], dims[0]],
            3 => (0..3).map(|_| choices.pick(&dims)).collect(),
            4 => (0..2).map(|_| choices.pick(&dims)).collect(),
            _ => vec![],
        };
        graph.input(&format!("x{i}"), dtype, false, &shape).unwrap_or_else(|e| panic!("{e}"));
    }
    for _ in 0..options.ops {
        if !choices.any_left() {
            break;
        }
        // A refusal (a float shifted, shapes that do not broadcast) is as good as a step not taken.
        let _ = step(&mut graph, &sizes, &ops, choices);
    }
    let last = NodeId(graph.len() as u32 - 1);
    graph.outputs = vec![last];
    for _ in 0..choices.below(3) {
        let id = recent(&graph, choices);
        graph.outputs.push(id);
    }
    RandomGraph { graph, sizes }
}

/// One more node, or a few, or none.
fn step(graph: &mut Graph, symbols: &[u64], ops: &[Op], choices: &mut Choices<'_>) -> Option<()> {
    let x = recent(graph, choices);
    let shape = graph.node(x).shape.clone();
    let sizes: Vec<u64> = {
        let all = graph.dims.sizes(symbols);
        shape.iter().map(|d| all[d.index()]).collect()
    };
    match choices.below(10) {
        0..=5 => {
            let op = choices.pick(ops);
            match op.def().kind {
                OpKind::Elementwise(_) => {
                    let args: Vec<NodeId> = (0..op.def().params.len())
                        .map(|i| {
                            if i == 0 {
                                x
                            } else if choices.once_in(3) {
                                constant(graph, choices)
                            } else {
                                recent(graph, choices)
                            }
                        })
                        .collect();
                    // Large and negative powers of integers are for tests of their own.
                    graph.apply(op, &args).ok()?;
                }
                OpKind::Reduce(_) | OpKind::Composite(_) => reduce(graph, op, x, &sizes, choices)?,
                OpKind::Product(_) => product(graph, op, x, symbols, choices)?,
            }
        }
        6 => {
            reduce(graph, choices.pick(&[Op::SUM, Op::MEAN, Op::MAX, Op::VAR, Op::PROD, Op::ANY]), x, &sizes, choices)?
        }
        7 if choices.once_in(4) => product(graph, Op::MATMUL, x, symbols, choices)?,
        7 => {
            let mut perm: Vec<i64> = (0..shape.len() as i64).rev().collect();
            if !perm.is_empty() && choices.once_in(2) {
                let by = choices.below(perm.len());
                perm.rotate_left(by);
            }
            graph.transpose(x, Some(&perm)).ok()?;
        }
        8 => {
            let mut items = Vec::new();
            for size in &sizes {
                if choices.once_in(5) {
                    items.push(IndexItem::NewAxis);
                }
                items.push(match choices.below(4) {
                    0 => IndexItem::Slice(Slice { step: -1, ..Slice::ALL }),
                    1 => IndexItem::Slice(Slice { start: Some(1), stop: None, step: 1 }),
                    2 => {
                        let index = choices.below(7) as i64 - 3;
                        let all = IndexItem::Slice(Slice::ALL);
                        if in_range(index, *size) { IndexItem::At(index) } else { all }
                    }
                    _ => {
                        let mut bound = || Some(choices.below(9) as i64 - 4);
                        let (start, stop) = (bound(), bound());
                        let step = choices.pick(&[1, 2, -1, -2, 3]);
                        IndexItem::Slice(Slice { start, stop, step })
                    }
                });
            }
            if sizes.len() < 3 && choices.once_in(3) {
                items.push(IndexItem::NewAxis);
            }
            graph.index(x, &items).ok()?;
        }
        _ => {
            graph.cast(x, choices.pick(&DType::ALL));
        }
    }
    Some(())
}

/// A product with another array, or with its transpose, if their sizes allow it; else with the own transpose.
fn product(graph: &mut Graph, op: Op, x: NodeId, symbols: &[u64], choices: &mut Choices<'_>) -> Option<()> {
    let y = recent(graph, choices);
    let others = [y, graph.transpose(y, None).ok()?, graph.transpose(x, None).ok()?];
    let sizes = graph.dims.sizes(symbols);
    // The terms of all sums together, at most.
    let elements = |id: NodeId| graph.node(id).shape.iter().fold(1, |n: u64, d| n.saturating_mul(sizes[d.index()]));
    let others = others.map(|y| (y, elements(x).saturating_mul(elements(y))));
    others.into_iter().find_map(|(y, terms)| if terms < 1_000_000 { graph.apply(op, &[x, y]).ok() } else { None })?;
    Some(())
}

fn reduce(graph: &mut Graph, op: Op, x: NodeId, sizes: &[u64], choices: &mut Choices<'_>) -> Option<()> {
    let axes = match choices.below(3) {
        0 => None,
        _ if sizes.is_empty() => None,
        _ => {
            let first = choices.below(sizes.len());
            let second = choices.below(sizes.len());
            let mut axes = vec![first as i64];
            if second != first {
                axes.push(second as i64 - sizes.len() as i64);
            }
            Some(axes.into_iter().collect())
        }
    };
    // `min` and `max` of no elements are refused when the graph runs.
    if sizes.contains(&0) && matches!(op, Op::MIN | Op::MAX) {
        return None;
    }
    let options = ReduceOptions { axes, keepdims: choices.once_in(2), ddof: choices.below(2) as i64 };
    graph.reduce(op, x, &options).ok().map(|_| ())
}

/// A node, rather a late one.
fn recent(graph: &Graph, choices: &mut Choices<'_>) -> NodeId {
    let n = graph.len();
    let window = if choices.once_in(4) { n } else { n.min(5) };
    let back = choices.below(window);
    NodeId((n - 1 - back) as u32)
}

/// A literal as a user writes it: weak, of moderate size.
fn constant(graph: &mut Graph, choices: &mut Choices<'_>) -> NodeId {
    let literal = match choices.below(6) {
        0 | 1 => Literal::i64(choices.below(7) as i64 - 1),
        2 | 3 => Literal::f64([0.5, 2.0, -1.5, 1e3, 0.0, -0.0, 1.0, 0.1][choices.below(8)]),
        4 => Literal::f64([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324][choices.below(5)]),
        _ => Literal::bool(choices.once_in(2)),
    };
    graph.constant(literal, true)
}

/// Values of a dtype: mostly ordinary, now and then one that finds mistakes.
pub fn values(choices: &mut Choices<'_>, dtype: DType, count: usize) -> Vec<Literal> {
    (0..count).map(|i| value(choices, dtype, i)).collect()
}

fn value(choices: &mut Choices<'_>, dtype: DType, i: usize) -> Literal {
    if !choices.any_left() {
        // A pattern without symmetry, so that a wrong index shows.
        return Literal::f64(((i * 7 + 3) % 11) as f64 / 2.0 - 1.0).cast(dtype);
    }
    let edge = choices.once_in(8);
    match dtype.kind() {
        Kind::Bool => Literal::bool(choices.next().is_multiple_of(2)),
        Kind::Int | Kind::Uint if edge => {
            let edges = [Literal::min_of(dtype), Literal::max_of(dtype), Literal::from_i64(dtype, -1)];
            choices.pick(&edges)
        }
        Kind::Int | Kind::Uint => {
            Literal::from_i64(dtype, choices.below(19) as i64 - if dtype.is_signed() { 4 } else { 0 })
        }
        Kind::Float if edge => {
            let edges = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e-310, 1e300, -1e-45, 3e38, 1e16];
            Literal::from_f64(dtype, choices.pick(&edges))
        }
        Kind::Float => Literal::from_f64(dtype, (f64::from(choices.next() % 20_001) - 10_000.0) / 1024.0),
    }
}
