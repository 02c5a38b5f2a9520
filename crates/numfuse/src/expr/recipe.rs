//! An expression as a list: what is left of it when names and data are taken away. Two expressions of the same form have
//! equal recipes, which is what the engine's cache knows them by; a graph is built from one as often as sizes ask for.
//!
//! Invariants: operands precede their users; each node and each named input is there once.

use super::{Expr, Index, Input, Kind, Node, Size};
use crate::error::{Error, Result};
use crate::view::ArrayRef;
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::graph::{Graph, IndexItem, NodeId, ReduceOptions};
use numfuse_core::literal::Literal;
use numfuse_core::ops::Op;
use numfuse_core::shape::{DimId, Slice};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::hash::{Hash, Hasher};

/// See the module text.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Recipe {
    pub inputs: Vec<Input>,
    nodes: Vec<Part>,
    outputs: Vec<u32>,
}

#[derive(PartialEq, Eq, Debug)]
struct Part {
    kind: PartKind,
    operands: SmallVec<[u32; 3]>,
}

#[derive(PartialEq, Eq, Debug)]
enum PartKind {
    Input(u32),
    Scalar(Literal),
    Apply(Op),
    Reduce(Op, ReduceOptions),
    Index(Vec<Index>),
    Transpose(Option<SmallVec<[i64; 4]>>),
    Cast(DType),
}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.kind).hash(state);
        self.operands.hash(state);
        match &self.kind {
            PartKind::Input(n) => n.hash(state),
            PartKind::Scalar(literal) => literal.hash(state),
            PartKind::Apply(op) => op.hash(state),
            PartKind::Reduce(op, options) => (op, &options.axes, options.keepdims, options.ddof).hash(state),
            PartKind::Index(items) => items.hash(state),
            PartKind::Transpose(axes) => axes.hash(state),
            PartKind::Cast(dtype) => dtype.hash(state),
        }
    }
}

impl Recipe {
    /// The recipe of expressions that are computed together, and the arrays that they are bound to: the recipe's last
    /// inputs, in order.
    pub fn of<'a>(exprs: &[Expr<'a>], max_nodes: usize) -> Result<(Recipe, Vec<ArrayRef<'a>>)> {
        let mut recipe = Recipe { inputs: Vec::new(), nodes: Vec::new(), outputs: Vec::new() };
        let mut data: Vec<(u32, ArrayRef<'a>)> = Vec::new();
        let mut known: FxHashMap<*const Node<'a>, u32> = FxHashMap::default();
        // Named inputs by name.
        let mut named: FxHashMap<&str, u32> = FxHashMap::default();
        let id = |e: &Expr<'a>| std::sync::Arc::as_ptr(&e.0);
        for root in exprs {
            let mut open: Vec<&Expr<'a>> = vec![root];
            while let Some(expr) = open.last().copied() {
                if known.contains_key(&id(expr)) {
                    open.pop();
                    continue;
                }
                let waiting = open.len();
                open.extend(expr.0.operands.iter().filter(|o| !known.contains_key(&id(o))));
                if open.len() > waiting {
                    continue;
                }
                open.pop();
                let operands = expr.0.operands.iter().map(|o| known[&id(o)]).collect();
                let kind = match &expr.0.kind {
                    Kind::Input(input) => {
                        let next = recipe.inputs.len() as u32;
                        let n = *named.entry(&input.name).or_insert(next);
                        if n == next {
                            recipe.inputs.push(Input::clone(input));
                        } else if recipe.inputs[n as usize] != **input {
                            let title = format!("input `{}` is declared in two ways", input.name);
                            return Err(Error::new(Code::InputMismatch, title));
                        }
                        PartKind::Input(n)
                    }
                    Kind::Data(array) => {
                        data.push((recipe.nodes.len() as u32, array.clone()));
                        PartKind::Input(u32::MAX)
                    }
                    Kind::Scalar(literal) => PartKind::Scalar(*literal),
                    Kind::Apply(op) => PartKind::Apply(*op),
                    Kind::Reduce(op, options) => PartKind::Reduce(*op, options.clone()),
                    Kind::Index(items) => PartKind::Index(items.clone()),
                    Kind::Transpose(axes) => PartKind::Transpose(axes.clone()),
                    Kind::Cast(dtype) => PartKind::Cast(*dtype),
                };
                if recipe.nodes.len() >= max_nodes {
                    let error =
                        Diagnostic::new(Code::GraphLimit, format!("an expression of more than {max_nodes} operations"));
                    return Err(error.hint("raise `Limits::nodes`, or evaluate it in parts").into());
                }
                known.insert(id(expr), recipe.nodes.len() as u32);
                recipe.nodes.push(Part { kind, operands });
            }
            recipe.outputs.push(known[&id(root)]);
        }
        // Data comes after all named inputs; its names are only shown.
        for (node, array) in &data {
            recipe.nodes[*node as usize].kind = PartKind::Input(recipe.inputs.len() as u32);
            recipe.inputs.push(Input {
                name: format!("array{}", recipe.inputs.len()),
                dtype: array.dtype(),
                weak: array.is_weak(),
                shape: array.shape().iter().map(|_| Size::Unknown).collect(),
            });
        }
        Ok((recipe, data.into_iter().map(|(_, array)| array).collect()))
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The graph, for a call with these sizes of its unknown dimensions if they are given.
    pub fn graph(&self, symbol_hints: Option<Vec<u64>>) -> Result<Graph> {
        let mut graph = Graph::new(symbol_hints);
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let shape: SmallVec<[DimId; 4]> = input
                .shape
                .iter()
                .map(|size| match size {
                    Size::Fixed(size) => graph.dims.fixed(*size),
                    Size::Named(name) => graph.dims.named(name),
                    Size::Unknown => graph.dims.fresh(),
                })
                .collect();
            inputs.push(graph.input(&input.name, input.dtype, input.weak, &shape)?);
        }
        let mut made: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        for Part { kind, operands } in &self.nodes {
            let operands: SmallVec<[NodeId; 3]> = operands.iter().map(|o| made[*o as usize]).collect();
            made.push(match kind {
                PartKind::Input(n) => inputs[*n as usize],
                PartKind::Scalar(literal) => graph.constant(*literal, true),
                PartKind::Apply(op) => graph.apply(*op, &operands)?,
                PartKind::Reduce(op, options) => graph.reduce(*op, operands[0], options)?,
                PartKind::Index(items) => {
                    let items = expand(items, graph.rank(operands[0]))?;
                    graph.index(operands[0], &items)?
                }
                PartKind::Transpose(axes) => graph.transpose(operands[0], axes.as_deref())?,
                PartKind::Cast(dtype) => graph.cast(operands[0], *dtype),
            });
        }
        graph.outputs = self.outputs.iter().map(|o| made[*o as usize]).collect();
        Ok(graph)
    }
}

/// The items of an index of an array of this rank, the ellipsis spelled out.
fn expand(items: &[Index], rank: usize) -> Result<Vec<IndexItem>> {
    let used = items.iter().filter(|i| matches!(i, Index::At(_) | Index::Slice { .. })).count();
    let mut expanded = Vec::with_capacity(items.len());
    let mut ellipsis = false;
    for item in items {
        match *item {
            Index::At(at) => expanded.push(IndexItem::At(at)),
            Index::Slice { step: 0, .. } => {
                let error = Diagnostic::new(Code::Index, "a slice with step 0");
                return Err(error.why("it would select the same element without end").into());
            }
            Index::Slice { start, stop, step } => expanded.push(IndexItem::Slice(Slice { start, stop, step })),
            Index::NewAxis => expanded.push(IndexItem::NewAxis),
            Index::Ellipsis if ellipsis => return Err(Error::new(Code::Index, "an index with two ellipses")),
            Index::Ellipsis => {
                ellipsis = true;
                expanded.extend((used..rank).map(|_| IndexItem::Slice(Slice::ALL)));
            }
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::lazy;

    #[test]
    fn what_is_shared_is_there_once() {
        let mut b = Expr::input("a", DType::F64, [None]).unwrap();
        for _ in 0..64 {
            b = &b + &b;
        }
        let (recipe, _) = Recipe::of(&[b], 1000).unwrap();
        assert_eq!(recipe.nodes.len(), 65);
        assert_eq!(recipe.graph(None).unwrap().len(), 65);
    }

    #[test]
    fn long_chains_need_no_stack() {
        let work = || {
            let a = [1.0];
            let mut sum = lazy(&a);
            for i in 0..1_000_000 {
                sum = sum + i64::from(i);
            }
            let (recipe, data) = Recipe::of(std::slice::from_ref(&sum), usize::MAX).unwrap();
            assert_eq!((recipe.nodes.len(), data.len()), (2_000_001, 1));
        };
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(work).unwrap();
        assert!(thread.join().is_ok());
    }

    #[test]
    fn equal_forms_have_equal_recipes() {
        let (a, b) = ([1.0, 2.0], [3.0]);
        let of = |x: &[f64], k: f64| Recipe::of(&[(lazy(x) * k).sum(0)], 100).unwrap().0;
        assert_eq!(of(&a, 2.0), of(&b, 2.0));
        assert_ne!(of(&a, 2.0), of(&a, 3.0));
    }

    #[test]
    fn mistakes_are_reported_when_the_graph_is_built() {
        let x = Expr::input("x", DType::F64, [None, Some(3)]).unwrap();
        let code = |e: Expr<'_>| Recipe::of(&[e], 100).unwrap().0.graph(None).unwrap_err().code();
        assert_eq!(code(x.sum(2)), Code::Axis);
        assert_eq!(code(x.index((0, 3))), Code::Index);
        assert_eq!(code(x.index((0, 0, 0))), Code::Index);
        assert_eq!(code(x.index([Index::Ellipsis, Index::Ellipsis])), Code::Index);
        assert_eq!(code(&x & 1), Code::DTypeMismatch);
        let other = Expr::input("x", DType::F32, [None]).unwrap();
        assert_eq!(Recipe::of(&[x + other], 100).unwrap_err().code(), Code::InputMismatch);
        assert_eq!(Expr::input("x", DType::F64, [None; 33]).unwrap_err().code(), Code::Rank);
        assert_eq!(Expr::call("arctan_2", []).unwrap_err().code(), Code::UnknownFunction);
        assert_eq!(Expr::call("sin", []).unwrap_err().code(), Code::Arguments);
    }
}
