//! Moves views (transpositions and indices) down to where they cost nothing: `(a + b)[1:]` becomes `a[1:] + b[1:]`,
//! a change of strides instead of an array in between.
//!
//! A view moves through an elementwise node that only it uses, or that is cheaper to compute twice than to store. One
//! that cannot move stays on its operand, which fusion then gives a buffer of its own.

use crate::graph::{Graph, IndexItem, Node, NodeId, NodeKind};
use crate::ops::OpKind;
use crate::plan::View;
use crate::shape::{DimId, Shape, Slice};
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

/// Elementwise nodes with no more nodes than this below them are computed again rather than stored.
const CHEAP: u32 = 6;

type Views = SmallVec<[View; 1]>;

/// The graph with its views as far down as they go.
pub fn sink_views(graph: Graph) -> Graph {
    if !graph.ids().any(|id| matches!(graph.node(id).kind, NodeKind::Transpose(..) | NodeKind::Index(..))) {
        return graph;
    }
    let old = graph.clone();
    let facts = Facts::of(&old);
    let mut made: FxHashMap<(NodeId, Views), NodeId> = FxHashMap::default();
    let mut renamed: Vec<NodeId> = vec![NodeId(u32::MAX); old.len()];
    for (n, input) in old.inputs().iter().enumerate() {
        // `rebuild` declares the inputs first and in order.
        renamed[input.node.index()] = NodeId(n as u32);
    }
    let graph = graph.rebuild(|new, id, node| {
        let made_now = match &node.kind {
            NodeKind::Transpose(..) if facts.of_products[id.index()] => new.intern(node),
            NodeKind::Transpose(..) | NodeKind::Index(..) => sink(new, &old, &facts, &renamed, &mut made, id),
            _ => new.intern(node),
        };
        renamed[id.index()] = made_now;
        made_now
    });
    // Nodes whose every use was a view that moved below them are dead now.
    graph.without_dead_nodes()
}

struct Facts {
    uses: Vec<u32>,
    /// How many elementwise nodes are computed for one element, counting each use; saturating.
    cost: Vec<u32>,
    /// Nodes that only matrix products use. Those read any strides, so that a transposed operand stays as it is: to
    /// compute it transposed would only be slower.
    of_products: Vec<bool>,
}

impl Facts {
    fn of(graph: &Graph) -> Facts {
        let live = graph.live();
        let mut facts =
            Facts { uses: vec![0; graph.len()], cost: vec![0; graph.len()], of_products: vec![true; graph.len()] };
        for root in graph.outputs.iter().chain(graph.guards.iter().map(|g| &g.node)) {
            // An output is stored whole: a view of it may read what is stored.
            facts.uses[root.index()] += 2;
            facts.of_products[root.index()] = false;
        }
        for id in graph.ids().filter(|id| live[id.index()]) {
            let node = graph.node(id);
            let below = node.operands().iter().fold(0u32, |sum, x| sum.saturating_add(facts.cost[x.index()]));
            facts.cost[id.index()] = match &node.kind {
                NodeKind::Apply(op, _) => {
                    let own = if op.def().check.is_some() { CHEAP + 1 } else { 1 };
                    below.saturating_add(own)
                }
                NodeKind::Cast(_) => below.saturating_add(1),
                _ => below,
            };
            for operand in node.operands() {
                facts.uses[operand.index()] += 1;
                facts.of_products[operand.index()] &= matches!(node.kind, NodeKind::Matmul(_));
            }
        }
        facts
    }

    fn may_pass(&self, graph: &Graph, id: NodeId) -> bool {
        let elementwise = match &graph.node(id).kind {
            NodeKind::Apply(op, _) => matches!(op.def().kind, OpKind::Elementwise(_)),
            NodeKind::Cast(_) => true,
            _ => false,
        };
        elementwise && (self.uses[id.index()] == 1 || self.cost[id.index()] <= CHEAP)
    }
}

/// The node that is `id` of the old graph, a view, with its views moved down. Depth first with a stack of its own.
fn sink(
    new: &mut Graph,
    old: &Graph,
    facts: &Facts,
    renamed: &[NodeId],
    made: &mut FxHashMap<(NodeId, Views), NodeId>,
    id: NodeId,
) -> NodeId {
    let mut stack: Vec<(NodeId, Views)> = vec![(id, Views::new())];
    let mut result = NodeId(u32::MAX);
    while let Some((id, views)) = stack.last().cloned() {
        if let Some(known) = made.get(&(id, views.clone())) {
            result = *known;
            stack.pop();
            continue;
        }
        let node = old.node(id);
        // A view joins the views above it.
        let (under, view) = match &node.kind {
            NodeKind::Transpose(x, perm) => (Some(*x), Some(View::Transpose(perm.clone()))),
            NodeKind::Index(x, items) => (Some(*x), Some(View::Index(items.clone()))),
            _ => (None, None),
        };
        if let (Some(x), Some(view)) = (under, view) {
            let mut joined: Views = smallvec![view];
            joined.extend(views.iter().cloned());
            match made.get(&(x, joined.clone())) {
                Some(known) => {
                    result = *known;
                    made.insert((id, views), result);
                    stack.pop();
                }
                None => stack.push((x, joined)),
            }
            continue;
        }
        // New dimensions alone cost nothing where they are, and a scalar has no dimension that could carry a view.
        if views.iter().all(View::only_adds_axes) || node.shape.is_empty() || !facts.may_pass(old, id) {
            result = with_views(new, renamed[id.index()], &views);
            made.insert((id, views), result);
            stack.pop();
            continue;
        }
        // An elementwise node: its operands get the views, adapted to their shapes.
        let operands = node.operands();
        let wanted: SmallVec<[(NodeId, Views); 3]> =
            operands.iter().map(|x| (*x, adapt(old, &node.shape, *x, &views))).collect();
        match wanted.iter().find(|key| !made.contains_key(*key)) {
            Some(missing) => stack.push(missing.clone()),
            None => {
                let mut moved = Node { shape: viewed_shape(new, &node.shape, &views), ..node.clone() };
                for (operand, key) in moved.operands_mut().iter_mut().zip(&wanted) {
                    *operand = made[key];
                }
                result = new.intern(moved);
                made.insert((id, views), result);
                stack.pop();
            }
        }
    }
    result
}

/// The views as an operand of an elementwise node of `shape` needs them: dimensions that it lacks, or has with size 1,
/// are not sliced.
fn adapt(graph: &Graph, shape: &[DimId], operand: NodeId, views: &[View]) -> Views {
    let from = &graph.node(operand).shape;
    if from.is_empty() {
        // A scalar has the same value under every view.
        return Views::new();
    }
    let mut adapted = Views::new();
    let lead = shape.len() - from.len();
    // Which dimensions of the result, at this point of the chain of views, are broadcast dimensions of the operand.
    let mut single: SmallVec<[bool; 4]> = (0..shape.len())
        .map(|i| i < lead || (graph.dims.is_one(from[i - lead]) && from[i - lead] != shape[i]))
        .collect();
    if lead > 0 {
        let kept = from.iter().map(|_| IndexItem::Slice(Slice::ALL));
        adapted.push(View::Index(std::iter::repeat_n(IndexItem::NewAxis, lead).chain(kept).collect()));
    }
    for view in views {
        match view {
            View::Transpose(perm) => {
                single = perm.iter().map(|p| single[*p as usize]).collect();
                adapted.push(view.clone());
            }
            View::Index(items) => {
                let mut dims = single.iter();
                let mut after: SmallVec<[bool; 4]> = SmallVec::new();
                let mut own: Vec<IndexItem> = Vec::with_capacity(items.len());
                for item in items {
                    let is_single = match item {
                        IndexItem::NewAxis => false,
                        _ => *dims.next().unwrap_or(&false),
                    };
                    own.push(match item {
                        IndexItem::At(_) if is_single => IndexItem::At(0),
                        IndexItem::Slice(_) if is_single => IndexItem::Slice(Slice::ALL),
                        other => *other,
                    });
                    if !matches!(item, IndexItem::At(_)) {
                        after.push(is_single);
                    }
                }
                single = after;
                adapted.push(View::Index(own.into()));
            }
        }
    }
    adapted
}

fn with_views(graph: &mut Graph, mut x: NodeId, views: &[View]) -> NodeId {
    for view in views {
        let Node { dtype, weak, ref shape, .. } = *graph.node(x);
        let from = shape.clone();
        let shape = viewed_shape(graph, &from, std::slice::from_ref(view));
        let kind = match view {
            View::Transpose(perm) => NodeKind::Transpose(x, perm.clone()),
            View::Index(items) if items.iter().all(|i| *i == IndexItem::Slice(Slice::ALL)) => continue,
            View::Index(items) => NodeKind::Index(x, items.clone()),
        };
        x = graph.intern(Node { kind, dtype, weak, shape });
    }
    x
}

fn viewed_shape(graph: &mut Graph, shape: &[DimId], views: &[View]) -> Shape {
    let mut shape: Shape = shape.into();
    for view in views {
        shape = match view {
            View::Transpose(perm) => perm.iter().map(|p| shape[*p as usize]).collect(),
            View::Index(items) => {
                let mut dims = shape.iter();
                let mut viewed = Shape::new();
                for item in items {
                    match item {
                        IndexItem::NewAxis => viewed.push(graph.dims.fixed(1)),
                        IndexItem::At(_) => {
                            dims.next();
                        }
                        IndexItem::Slice(slice) => {
                            if let Some(dim) = dims.next() {
                                viewed.push(graph.dims.sliced(*dim, *slice));
                            }
                        }
                    }
                }
                viewed
            }
        };
    }
    shape
}
