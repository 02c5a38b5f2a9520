//! Makes a graph smaller without changing a bit of its results: one driver, and rules as named rows.
//!
//! The driver rebuilds the graph from the first node to the last, so that a rule sees simplified operands, and
//! drops what no output needs. Equal nodes are one node already (hash-consing). A rule looks at one node and returns
//! another of the same dtype and shape. Every rule here is *exact*: the same bits for every operand, NaNs and signed
//! zeros included; `x + 0.0` is not `x` for `x = -0.0`, and no rule says so. To add a rule: a row in [`RULES`], with its
//! maths in `doc`, and a test in `tests/corpus/simplify`.

mod views;

use crate::dtype::Kind;
use crate::graph::{Graph, Node, NodeId, NodeKind};
use crate::kernel::Builder;
use crate::literal::Literal;
use crate::ops::{Op, OpKind};
use smallvec::SmallVec;

pub use views::sink_views;

/// A rewrite.
pub struct Rule {
    /// Its name, as `explain` shows it.
    pub name: &'static str,
    /// The maths.
    pub doc: &'static str,
    /// Which nodes it looks at.
    pub on: On,
    /// The node that replaces this one, if the rule applies.
    pub rewrite: fn(&mut Graph, &Node) -> Option<NodeId>,
}

/// Which nodes a rule looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// Elementwise nodes of any op.
    AnyOp,
    /// Elementwise nodes of these ops.
    Ops(&'static [Op]),
    /// Casts.
    Cast,
    /// Transpositions.
    Transpose,
}

impl On {
    fn looks_at(self, kind: &NodeKind) -> bool {
        match kind {
            NodeKind::Apply(op, _) => match self {
                On::AnyOp => true,
                On::Ops(ops) => ops.contains(op),
                On::Cast | On::Transpose => false,
            },
            NodeKind::Cast(_) => self == On::Cast,
            NodeKind::Transpose(..) => self == On::Transpose,
            NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_) => false,
            NodeKind::Reduce(..) | NodeKind::Matmul(_) | NodeKind::Index(..) => false,
        }
    }
}

/// A rule that was applied: its name, and the node of the old graph that it replaced.
pub type Applied = (&'static str, NodeId);

/// The graph after all rules, without what no output needs, and which rules were applied.
pub fn simplify(graph: Graph) -> (Graph, Vec<Applied>) {
    let mut applied = Vec::new();
    let graph = graph.rebuild(|new, old, node| {
        for rule in RULES.iter().filter(|rule| rule.on.looks_at(&node.kind)) {
            if let Some(id) = (rule.rewrite)(new, &node) {
                debug_assert_eq!(new.node(id).dtype, node.dtype, "rule {} changed the dtype", rule.name);
                debug_assert_eq!(new.node(id).shape, node.shape, "rule {} changed the shape", rule.name);
                applied.push((rule.name, old));
                return id;
            }
        }
        new.intern(node)
    });
    // What only the replaced nodes used is dead now.
    let graph = if applied.is_empty() { graph } else { graph.without_dead_nodes() };
    (graph, applied)
}

/// The rules, tried in this order; the first that applies wins.
pub static RULES: &[Rule] = &[
    Rule {
        name: "fold-constants",
        doc: "f(c, d) = the value the kernel would compute",
        on: On::AnyOp,
        rewrite: fold_constants,
    },
    Rule {
        name: "cast-constant",
        doc: "cast(c) = the constant of the other dtype",
        on: On::Cast,
        rewrite: cast_constant,
    },
    Rule {
        name: "cast-round-trip",
        doc: "cast(cast(x)) = x, when the dtype between holds every x",
        on: On::Cast,
        rewrite: cast_round_trip,
    },
    Rule {
        name: "pow-square",
        doc: "x ** 2 = x * x: one rounding either way",
        on: On::Ops(&[Op::POW]),
        rewrite: pow_square,
    },
    Rule {
        name: "pow-one",
        doc: "x ** 1 = x",
        on: On::Ops(&[Op::POW]),
        rewrite: |g, n| identity(g, n, Op::POW, 1, |c| c.as_f64() == 1.0),
    },
    Rule {
        name: "times-one",
        doc: "x * 1 = x",
        on: On::Ops(&[Op::MUL]),
        rewrite: |g, n| identity_either(g, n, Op::MUL, is_one),
    },
    Rule {
        name: "divide-by-one",
        doc: "x / 1 = x",
        on: On::Ops(&[Op::DIV]),
        rewrite: |g, n| identity(g, n, Op::DIV, 1, is_one),
    },
    Rule {
        name: "divide-by-power-of-two",
        doc: "x / 2^k = x * 2^-k: both scale exactly, with the same rounding of subnormals",
        on: On::Ops(&[Op::DIV]),
        rewrite: divide_by_power_of_two,
    },
    Rule {
        name: "plus-zero",
        doc: "x + 0 = x for integers; x + -0.0 = x for floats",
        on: On::Ops(&[Op::ADD]),
        rewrite: |g, n| identity_either(g, n, Op::ADD, is_additive_identity),
    },
    Rule {
        name: "minus-zero",
        doc: "x - 0 = x for integers; x - 0.0 = x for floats",
        on: On::Ops(&[Op::SUB]),
        rewrite: |g, n| identity(g, n, Op::SUB, 1, |c| c.bits() == 0),
    },
    Rule {
        name: "or-zero",
        doc: "x | 0 = x",
        on: On::Ops(&[Op::BITWISE_OR]),
        rewrite: |g, n| identity_either(g, n, Op::BITWISE_OR, |c| c.bits() == 0),
    },
    Rule {
        name: "xor-zero",
        doc: "x ^ 0 = x",
        on: On::Ops(&[Op::BITWISE_XOR]),
        rewrite: |g, n| identity_either(g, n, Op::BITWISE_XOR, |c| c.bits() == 0),
    },
    Rule {
        name: "and-ones",
        doc: "x & -1 = x",
        on: On::Ops(&[Op::BITWISE_AND]),
        rewrite: |g, n| identity_either(g, n, Op::BITWISE_AND, is_all_ones),
    },
    Rule {
        name: "shift-by-zero",
        doc: "x << 0 = x >> 0 = x",
        on: On::Ops(&[Op::LEFT_SHIFT, Op::RIGHT_SHIFT]),
        rewrite: shift_by_zero,
    },
    Rule {
        name: "and-true",
        doc: "x and true = x",
        on: On::Ops(&[Op::LOGICAL_AND]),
        rewrite: |g, n| identity_either(g, n, Op::LOGICAL_AND, |c| c.bits() == 1),
    },
    Rule {
        name: "or-false",
        doc: "x or false = x",
        on: On::Ops(&[Op::LOGICAL_OR]),
        rewrite: |g, n| identity_either(g, n, Op::LOGICAL_OR, |c| c.bits() == 0),
    },
    Rule {
        name: "double-negation",
        doc: "-(-x) = x, not not x = x, ~~x = x",
        on: On::Ops(&[Op::NEGATIVE, Op::LOGICAL_NOT, Op::INVERT]),
        rewrite: double_negation,
    },
    Rule { name: "positive", doc: "+x = x", on: On::Ops(&[Op::POSITIVE]), rewrite: positive },
    Rule {
        name: "where-constant",
        doc: "where(true, x, y) = x, where(false, x, y) = y",
        on: On::Ops(&[Op::WHERE]),
        rewrite: where_constant,
    },
    Rule { name: "where-same", doc: "where(c, x, x) = x", on: On::Ops(&[Op::WHERE]), rewrite: where_same },
    Rule {
        name: "transpose-transpose",
        doc: "two transpositions are one",
        on: On::Transpose,
        rewrite: transpose_transpose,
    },
];

fn apply_of(graph: &Graph, id: NodeId, op: Op) -> Option<SmallVec<[NodeId; 3]>> {
    match &graph.node(id).kind {
        NodeKind::Apply(found, args) if *found == op => Some(args.clone()),
        _ => None,
    }
}

fn as_apply(node: &Node, op: Op) -> Option<&[NodeId]> {
    match &node.kind {
        NodeKind::Apply(found, args) if *found == op => Some(args),
        _ => None,
    }
}

/// `x`, if it can stand for `node`: broadcasting must not have changed its shape.
fn replace(graph: &Graph, node: &Node, x: NodeId) -> Option<NodeId> {
    let found = graph.node(x);
    (found.dtype == node.dtype && found.shape == node.shape && found.weak == node.weak).then_some(x)
}

/// `op(x, c) = x` for a constant operand `at` with the property.
fn identity(graph: &mut Graph, node: &Node, op: Op, at: usize, property: fn(Literal) -> bool) -> Option<NodeId> {
    let args = as_apply(node, op)?;
    let constant = graph.as_const(args[at])?;
    if property(constant) { replace(graph, node, args[1 - at]) } else { None }
}

fn identity_either(graph: &mut Graph, node: &Node, op: Op, property: fn(Literal) -> bool) -> Option<NodeId> {
    identity(graph, node, op, 1, property).or_else(|| identity(graph, node, op, 0, property))
}

fn is_one(c: Literal) -> bool {
    c == Literal::from_i64(c.dtype(), 1)
}

fn is_additive_identity(c: Literal) -> bool {
    match c.dtype().kind() {
        Kind::Float => c == Literal::from_f64(c.dtype(), -0.0),
        Kind::Bool | Kind::Int | Kind::Uint => c.bits() == 0,
    }
}

fn is_all_ones(c: Literal) -> bool {
    c == Literal::from_bits(c.dtype(), u64::MAX)
}

fn fold_constants(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let NodeKind::Apply(op, args) = &node.kind else { return None };
    let OpKind::Elementwise(body) = op.def().kind else { return None };
    let literals: SmallVec<[Literal; 3]> = args.iter().map_while(|a| graph.as_const(*a)).collect();
    if literals.len() != args.len() {
        return None;
    }
    // The builder folds every primitive through the interpreter.
    let mut b = Builder::body();
    let values: SmallVec<[_; 3]> = literals.iter().map(|l| b.constant(*l)).collect();
    let result = body(&mut b, &values);
    let literal = b.as_const(result)?;
    Some(graph.constant(literal, node.weak))
}

fn cast_constant(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let NodeKind::Cast(x) = node.kind else { return None };
    let literal = graph.as_const(x)?;
    Some(graph.constant(literal.cast(node.dtype), node.weak))
}

fn cast_round_trip(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let NodeKind::Cast(between) = node.kind else { return None };
    let NodeKind::Cast(x) = graph.node(between).kind else { return None };
    let (from, through) = (graph.node(x).dtype, graph.node(between).dtype);
    let mantissa = if through.size() == 8 { 53 } else { 24 };
    let exact = match (from.kind(), through.kind()) {
        (Kind::Bool, _) => true,
        (Kind::Float, Kind::Float) => from.size() <= through.size(),
        (Kind::Int | Kind::Uint, Kind::Float) => from.bits() <= mantissa,
        (Kind::Int, Kind::Int) | (Kind::Uint, Kind::Uint) => from.size() <= through.size(),
        (Kind::Uint, Kind::Int) => from.size() < through.size(),
        _ => false,
    };
    if exact { replace(graph, node, x) } else { None }
}

fn pow_square(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let [x, y] = *as_apply(node, Op::POW)? else { return None };
    if graph.as_const(y)?.as_f64() != 2.0 {
        return None;
    }
    Some(graph.intern(Node { kind: NodeKind::Apply(Op::MUL, SmallVec::from_slice(&[x, x])), ..node.clone() }))
}

fn divide_by_power_of_two(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let [x, y] = *as_apply(node, Op::DIV)? else { return None };
    let divisor = graph.as_const(y)?;
    let d = divisor.as_f64();
    let mantissa_bits = if divisor.dtype().size() == 8 { 52 } else { 23 };
    let fraction = divisor.bits() & ((1u64 << mantissa_bits) - 1);
    let reciprocal = Literal::from_f64(divisor.dtype(), 1.0 / d);
    let r = reciprocal.as_f64();
    let smallest_normal = if divisor.dtype().size() == 8 { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    let exact =
        fraction == 0 && d.is_finite() && r.is_finite() && d.abs() >= smallest_normal && r.abs() >= smallest_normal;
    if !exact {
        return None;
    }
    let r = graph.constant(reciprocal, graph.node(y).weak);
    Some(graph.intern(Node { kind: NodeKind::Apply(Op::MUL, SmallVec::from_slice(&[x, r])), ..node.clone() }))
}

fn shift_by_zero(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    identity(graph, node, Op::LEFT_SHIFT, 1, |c| c.bits() == 0)
        .or_else(|| identity(graph, node, Op::RIGHT_SHIFT, 1, |c| c.bits() == 0))
}

fn double_negation(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    [Op::NEGATIVE, Op::LOGICAL_NOT, Op::INVERT].into_iter().find_map(|op| {
        let [x] = *as_apply(node, op)? else { return None };
        let [inner] = *apply_of(graph, x, op)?.as_slice() else { return None };
        replace(graph, node, inner)
    })
}

fn positive(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let [x] = *as_apply(node, Op::POSITIVE)? else { return None };
    replace(graph, node, x)
}

fn where_constant(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let [c, x, y] = *as_apply(node, Op::WHERE)? else { return None };
    let chosen = if graph.as_const(c)?.as_bool() { x } else { y };
    replace(graph, node, chosen)
}

fn where_same(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let [_, x, y] = *as_apply(node, Op::WHERE)? else { return None };
    if x == y { replace(graph, node, x) } else { None }
}

fn transpose_transpose(graph: &mut Graph, node: &Node) -> Option<NodeId> {
    let NodeKind::Transpose(x, outer) = &node.kind else { return None };
    let NodeKind::Transpose(y, inner) = graph.node(*x).kind.clone() else { return None };
    let perm: SmallVec<[u8; 4]> = outer.iter().map(|p| inner[*p as usize]).collect();
    if perm.iter().enumerate().all(|(i, p)| i == *p as usize) {
        return replace(graph, node, y);
    }
    Some(graph.intern(Node { kind: NodeKind::Transpose(y, perm), ..node.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn rules_have_names_of_their_own() {
        let mut names: Vec<&str> = RULES.iter().map(|r| r.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }

    #[test]
    fn shapes_are_kept() {
        // where(true, scalar, x) has the shape of x: it must not become the scalar.
        let mut g = Graph::new(None);
        let n = g.dims.named("n");
        let shape: Shape = SmallVec::from_slice(&[n]);
        let (Ok(s), Ok(x)) =
            (g.input("s", crate::dtype::DType::F64, false, &[]), g.input("x", crate::dtype::DType::F64, false, &shape))
        else {
            panic!("inputs");
        };
        let t = g.constant(Literal::bool(true), true);
        let w = g.apply(Op::WHERE, &[t, s, x]).expect("types");
        g.outputs.push(w);
        let (g, applied) = simplify(g);
        assert_eq!(g.node(g.outputs[0]).shape, shape);
        assert!(applied.is_empty());
    }
}
