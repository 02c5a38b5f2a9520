//! Checks the invariants of a graph that its header lists. A failure is a bug in numfuse, never a mistake of the user:
//! the text says which node breaks which rule. It runs after each stage in debug builds, in tests, and on every graph
//! that is read from text; a graph that verifies can be simplified, fused and interpreted without a panic.

use super::{Graph, IndexItem, Node, NodeId, NodeKind};
use crate::dtype::DType;
use crate::kernel::Reducer;
use crate::ops::{self, ArgType, OpKind};
use crate::shape::{ConstraintKind, Dim, DimId, Dims, MAX_RANK, Slice, in_range};
use smallvec::SmallVec;

type Check = Result<(), String>;

/// Checks every invariant; the error names the first node that breaks one.
pub fn verify(graph: &Graph) -> Check {
    let classes = Classes::new(&graph.dims);
    for id in graph.ids() {
        let node = graph.node(id);
        verify_node(graph, &classes, id, node).map_err(|why| format!("{id}: {why}: {}", graph.display_node(id)))?;
    }
    for (i, input) in graph.inputs.iter().enumerate() {
        let found = graph.nodes.get(input.node.index()).map(|n| &n.kind);
        if found != Some(&NodeKind::Input(i as u32)) {
            return Err(format!("input {i} (`{}`) is {found:?}", input.name));
        }
    }
    let mut names: Vec<&str> = graph.inputs.iter().map(|i| i.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        return Err(format!("two inputs are called `{}`", twice[0]));
    }
    for id in graph.outputs.iter().chain(graph.guards.iter().map(|g| &g.node)) {
        if id.index() >= graph.len() {
            return Err(format!("{id} is returned or guarded, but there are {} nodes", graph.len()));
        }
    }
    for guard in &graph.guards {
        let Node { dtype, ref shape, .. } = *graph.node(guard.node);
        if dtype != DType::Bool || !shape.is_empty() {
            return Err(format!("guard {} is no bool scalar", guard.node));
        }
    }
    Ok(())
}

fn verify_node(graph: &Graph, classes: &Classes, id: NodeId, node: &Node) -> Check {
    if let Some(late) = node.operands().iter().find(|o| **o >= id) {
        return Err(format!("operand {late} does not precede it"));
    }
    if graph.interned.get(super::hash(node), |other| graph.nodes[other as usize] == *node) != Some(id.0) {
        return Err("it is not the interned node of its kind".into());
    }
    if node.weak && !matches!(node.dtype, DType::Bool | DType::I64 | DType::F64) {
        return Err(format!("a weak {}", node.dtype));
    }
    if node.shape.len() > MAX_RANK {
        return Err(format!("rank {}", node.shape.len()));
    }
    if let Some(dim) = node.shape.iter().find(|d| d.index() >= classes.class.len()) {
        return Err(format!("{dim:?} is in no arena"));
    }
    match &node.kind {
        NodeKind::Input(n) => {
            check(graph.inputs.get(*n as usize).is_some_and(|i| i.node == id), || format!("input {n} is another node"))
        }
        NodeKind::Const(literal) => {
            check(literal.dtype() == node.dtype, || format!("the literal is {}", literal.dtype()))?;
            scalar(node)
        }
        NodeKind::Size(dims) => {
            check(!dims.is_empty() && dims.iter().all(|d| d.index() < classes.class.len()), || "no size".into())?;
            check(node.dtype == DType::I64 && node.weak, || "a size is a weak i64".into())?;
            scalar(node)
        }
        NodeKind::Apply(op, args) => {
            let def = op.def();
            check(matches!(def.kind, OpKind::Elementwise(_)), || format!("`{op}` is not elementwise"))?;
            check(args.len() == def.params.len(), || format!("`{op}` takes {} operands", def.params.len()))?;
            let types: SmallVec<[ArgType; 3]> = args.iter().map(|a| type_of(graph.node(*a))).collect();
            let signature = ops::resolve(*op, &types).map_err(|e| e.to_string())?;
            for (arg, want) in types.iter().zip(&signature.args) {
                check(arg.dtype == *want, || format!("an operand is {}, `{op}` computes in {want}", arg.dtype))?;
            }
            check(type_of(node) == signature.result, || format!("the result should be {:?}", signature.result))?;
            let shapes: SmallVec<[&[DimId]; 3]> = args.iter().map(|a| graph.node(*a).shape.as_slice()).collect();
            broadcasts(graph, classes, &node.shape, &shapes)
        }
        NodeKind::Cast(x) => {
            let from = graph.node(*x);
            check(from.weak || !node.weak, || "a weak node made from one that is not".into())?;
            check(type_of(from) != type_of(node), || "a cast that changes nothing".into())?;
            check(from.shape == node.shape, || "a cast that changes the shape".into())
        }
        NodeKind::Reduce(reducer, x, axes) => {
            let from = graph.node(*x);
            check(type_of(from) == type_of(node), || "a reduction that changes the dtype".into())?;
            let takes = match reducer {
                Reducer::Sum | Reducer::Prod | Reducer::Min | Reducer::Max => from.dtype != DType::Bool,
                Reducer::Any | Reducer::All => from.dtype == DType::Bool,
                Reducer::Moments | Reducer::Center => from.dtype.is_float(),
            };
            check(takes, || format!("`{}` of {}", reducer.name(), from.dtype))?;
            let ascending = axes.windows(2).all(|w| w[0] < w[1]);
            let in_range = axes.last().is_some_and(|last| usize::from(*last) < from.shape.len());
            check(ascending && in_range, || format!("axes {axes:?} of rank {}", from.shape.len()))?;
            let kept = (0..from.shape.len()).filter(|a| !axes.contains(&(*a as u8))).map(|a| from.shape[a]);
            check(kept.eq(node.shape.iter().copied()), || "the wrong dimensions are left".into())
        }
        NodeKind::Matmul(operands) => {
            let [x, y] = operands.map(|x| graph.node(x));
            check(node.dtype.is_float(), || "a product of matrices that are not of floats".into())?;
            check([x, y].iter().all(|x| x.dtype == node.dtype), || "a product of another dtype".into())?;
            check(node.weak == (x.weak && y.weak), || {
                "a product that is weak, or is not, against its operands".into()
            })?;
            let (([left @ .., m, k], [right @ .., l, n]), [result @ .., p, q]) = ((&*x.shape, &*y.shape), &*node.shape)
            else {
                return Err("a product of what are no matrices".into());
            };
            check(classes.same(*k, *l), || {
                format!("it sums along {} and {}", graph.dims.name(*k), graph.dims.name(*l))
            })?;
            check((m, n) == (p, q), || "the wrong dimensions".into())?;
            broadcasts(graph, classes, result, &[left, right])
        }
        NodeKind::Transpose(x, perm) => {
            let from = graph.node(*x);
            check(type_of(from) == type_of(node), || "a transposition that changes the dtype".into())?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            let is_perm = sorted.iter().copied().eq(0..from.shape.len() as u8);
            check(is_perm, || format!("{perm:?} is no permutation of {} axes", from.shape.len()))?;
            check(*perm != sorted, || "a transposition that changes nothing".into())?;
            let moved = perm.iter().map(|p| from.shape[*p as usize]);
            check(moved.eq(node.shape.iter().copied()), || "the wrong dimensions".into())
        }
        NodeKind::Index(x, items) => verify_index(graph, node, graph.node(*x), items),
    }
}

fn verify_index(graph: &Graph, node: &Node, from: &Node, items: &[IndexItem]) -> Check {
    check(type_of(from) == type_of(node), || "an index that changes the dtype".into())?;
    let used = items.iter().filter(|i| !matches!(i, IndexItem::NewAxis)).count();
    check(used == from.shape.len(), || format!("{used} items for {} dimensions", from.shape.len()))?;
    check(items.iter().any(|i| *i != IndexItem::Slice(Slice::ALL)), || "an index that changes nothing".into())?;
    let mut dims = from.shape.iter().copied();
    let mut results = node.shape.iter().copied();
    for item in items {
        let dim = if matches!(item, IndexItem::NewAxis) { None } else { dims.next() };
        match (item, dim) {
            (IndexItem::At(index), Some(dim)) => {
                let known = graph.dims.known(dim);
                check(known.is_none_or(|size| in_range(*index, size)), || format!("index {index} is out of range"))?;
            }
            (IndexItem::Slice(slice), Some(dim)) => {
                check(slice.step != 0, || "a slice with step 0".into())?;
                let result = results.next();
                check(result.is_some_and(|r| is_sliced(&graph.dims, r, dim, *slice)), || format!("not `{slice}`"))?;
            }
            (IndexItem::NewAxis, _) => {
                let one = results.next().is_some_and(|d| graph.dims.known(d) == Some(1));
                check(one, || "a new axis of another size than 1".into())?;
            }
            (_, None) => return Err("more items than dimensions".into()),
        }
    }
    check(results.next().is_none(), || "more dimensions than items".into())
}

/// True if `result` is what [`Dims::sliced`] makes of a dimension.
fn is_sliced(dims: &Dims, result: DimId, of: DimId, slice: Slice) -> bool {
    if slice == Slice::ALL || (slice == Slice { step: -1, ..Slice::ALL }) {
        return result == of;
    }
    match dims.known(of) {
        Some(size) => dims.known(result) == Some(slice.resolve(size).1),
        None => *dims.get(result) == Dim::Sliced { of, slice },
    }
}

/// Checks that a shape is what others broadcast to under the graph's constraints.
fn broadcasts(graph: &Graph, classes: &Classes, shape: &[DimId], shapes: &[&[DimId]]) -> Check {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    check(rank == shape.len(), || format!("rank {} from operands of rank {rank}", shape.len()))?;
    for (from_end, result) in shape.iter().rev().enumerate() {
        let met = shapes.iter().filter_map(|s| s.iter().rev().nth(from_end));
        let mut found = false;
        for dim in met {
            let same = classes.same(*dim, *result);
            check(same || classes.is_one(*dim), || {
                format!("size {} where {} is wanted", graph.dims.name(*dim), graph.dims.name(*result))
            })?;
            found |= same;
        }
        check(found, || format!("no operand has size {}", graph.dims.name(*result)))?;
    }
    Ok(())
}

fn type_of(node: &Node) -> ArgType {
    ArgType { dtype: node.dtype, weak: node.weak }
}

fn scalar(node: &Node) -> Check {
    check(node.shape.is_empty(), || "it is a scalar, but has dimensions".into())
}

fn check(holds: bool, why: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(why()) }
}

/// Which dimensions are equal, and which are 1, in every call that meets the constraints.
struct Classes {
    class: Vec<DimId>,
    one: Vec<bool>,
}

impl Classes {
    fn new(dims: &Dims) -> Classes {
        let class = dims.canonical();
        let mut classes = Classes { one: vec![false; class.len()], class };
        let asked = dims.constraints().iter().filter_map(|c| match c.kind {
            ConstraintKind::One(dim) => Some(dim),
            ConstraintKind::Equal(..) | ConstraintKind::InRange(..) => None,
            ConstraintKind::NonEmpty(..) | ConstraintKind::Product(..) => None,
        });
        for dim in dims.iter().filter(|d| dims.known(*d) == Some(1)).chain(asked) {
            let root = classes.root(dim);
            classes.one[root] = true;
        }
        classes
    }

    fn root(&self, dim: DimId) -> usize {
        self.class[dim.index()].index()
    }

    fn same(&self, a: DimId, b: DimId) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        a == b || (self.one[a] && self.one[b])
    }

    fn is_one(&self, dim: DimId) -> bool {
        self.one[self.root(dim)]
    }
}
