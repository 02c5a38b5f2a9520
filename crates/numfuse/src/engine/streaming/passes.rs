//! A graph as passes over arrays: how plans are run in parts whose rows depend on each other.
//!
//! Every reduction ends a pass: what it gives is kept on the host, and is an input of later passes, as are other values that
//! a view cannot be moved below. So `(x - mean(x)) / std(x)` is one pass for the two reductions and one for what is done to
//! each element. A pass is a small graph of its own over arrays with a dimension for each *group* of its domain: each
//! dimension is a group, save for those that a reduction folds, which are one together, in the order in which it goes
//! through them. A range of that group is then a range of the reduction's elements, whatever the shape.
//!
//! A product of matrices is a pass of its own, over the dimensions of its stack, its rows, its depth and its columns. What its
//! operands are computed from is stored before, unless they are inputs or views of them.
//!
//! Invariants: a pass reads inputs and what earlier passes have stored. Whether a reduction runs along rows or down columns
//! is as in the graph, and with it the order of its elements.

use crate::engine::{Program, Source as ProgramSource};
use crate::expr::{Input, Size};
use numfuse_core::diagnostic::Diagnostic;
use numfuse_core::graph::{Graph, IndexItem, Node, NodeId, NodeKind};
use numfuse_core::kernel::{Nest, Reducer, reduce};
use numfuse_core::ops::{ArgType, Op};
use numfuse_core::plan::View;
use numfuse_core::shape::{DimId, Shape, Slice};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::ops::Range;

/// See the module text.
pub(crate) struct Passes {
    pub list: Vec<Pass>,
    /// What is stored between passes.
    pub stored: Vec<NodeId>,
    /// Where each output comes from.
    pub outputs: Vec<Output>,
    /// Guards, by what is stored for each.
    pub guards: Vec<(Place, usize)>,
}

/// Something that is stored, as an index into [`Passes::stored`].
pub(crate) type Place = usize;

/// Where an output comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// A pass writes it.
    Written,
    /// It is what is stored there.
    Stored(Place),
    /// It is the same as another output.
    Same(usize),
}

/// One pass.
pub(crate) struct Pass {
    /// The sizes of the domain's dimensions, in the order of the groups.
    pub domain: Shape,
    /// The dimensions of each group.
    pub groups: Vec<Range<usize>>,
    /// The group that is folded, and how.
    pub folded: Option<(usize, Nest)>,
    /// The inputs of the program.
    pub operands: Vec<Operand>,
    pub roots: Vec<Root>,
    /// Whether it is a product of matrices: the last three groups are its rows, its depth and its columns, its operands are
    /// the left one and the right one, and the depth is not a group of its root.
    pub is_product: bool,
    /// What computes a part of the roots: for each root its value, or the components of its state.
    pub program: Program,
}

/// What a pass reads.
pub(crate) struct Operand {
    pub source: Source,
    pub views: SmallVec<[View; 1]>,
    /// The dimension of the domain along which each dimension of the viewed array runs.
    pub axes: SmallVec<[u8; 4]>,
    /// For each group whether it runs along; none of a scalar.
    pub runs: SmallVec<[bool; 4]>,
}

/// Where an operand comes from.
pub(crate) enum Source {
    Input(u32),
    Stored(Place),
    /// The number of elements of these dimensions.
    Size(SmallVec<[DimId; 2]>),
}

/// What a pass computes.
pub(crate) struct Root {
    pub node: NodeId,
    pub target: Target,
    /// How it is folded, if it is.
    pub reducer: Option<Reducer>,
}

/// Where a pass writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Output(usize),
    Stored(Place),
}

impl Root {
    /// The reducers whose results are the components of its state, in order.
    pub fn components(&self) -> &'static [Reducer] {
        match self.reducer {
            None => &[],
            Some(Reducer::Sum) => &[Reducer::Sum],
            Some(Reducer::Prod) => &[Reducer::Prod],
            Some(Reducer::Min) => &[Reducer::Min],
            Some(Reducer::Max) => &[Reducer::Max],
            Some(Reducer::Any) => &[Reducer::Any],
            Some(Reducer::All) => &[Reducer::All],
            Some(Reducer::Moments | Reducer::Center) => &[Reducer::Center, Reducer::Moments],
        }
    }
}

impl Pass {
    /// The number of indices of each group, for these sizes of all dimensions.
    pub fn lens(&self, sizes: &[u64]) -> SmallVec<[u64; 4]> {
        let len = |group: &Range<usize>| self.domain[group.clone()].iter().map(|dim| sizes[dim.index()]).product();
        self.groups.iter().map(len).collect()
    }

    /// The group that is folded, and where it may be cut: at multiples of so many times a power of two.
    pub fn grain(&self) -> Option<(usize, u64)> {
        self.folded.map(|(group, nest)| (group, reduce::leaf(nest) as u64))
    }
}

impl Passes {
    /// The passes of a graph.
    pub fn new(graph: &Graph) -> Result<Passes, Diagnostic> {
        passes(graph)
    }

    /// Whether there are products of matrices.
    pub fn have_products(&self) -> bool {
        self.list.iter().any(|pass| pass.is_product)
    }
}

fn passes(graph: &Graph) -> Result<Passes, Diagnostic> {
    let live: Vec<NodeId> = reachable(graph);
    let mut finder =
        Finder { graph, canonical: graph.dims.canonical(), places: FxHashMap::default(), stored: Vec::new() };
    for id in &live {
        match &graph.node(*id).kind {
            NodeKind::Reduce(..) => finder.store(*id),
            NodeKind::Matmul(operands) => operands.iter().for_each(|operand| finder.store_below(*operand)),
            NodeKind::Transpose(..) | NodeKind::Index(..) if !is_trivial(&graph.node(*id).kind) => {
                finder.store_below(*id);
            }
            _ => {}
        }
        // A product that is only a result goes to where that belongs.
        for operand in graph.node(*id).operands() {
            if matches!(graph.node(*operand).kind, NodeKind::Matmul(_)) {
                finder.store(*operand);
            }
        }
    }
    for guard in &graph.guards {
        finder.store(guard.node);
    }
    // Everything that is written, operands before users.
    let mut outputs = Vec::new();
    let mut targets: Vec<(NodeId, Target)> =
        finder.stored.iter().enumerate().map(|(place, id)| (*id, Target::Stored(place))).collect();
    for (n, id) in graph.outputs.iter().enumerate() {
        let same = graph.outputs[..n].iter().position(|other| other == id);
        outputs.push(match (same, finder.places.get(id)) {
            (_, Some(place)) => Output::Stored(*place),
            (Some(same), None) => Output::Same(same),
            (None, None) => {
                targets.push((*id, Target::Output(n)));
                Output::Written
            }
        });
    }
    targets.sort_by_key(|(id, _)| *id);
    let mut levels: Vec<u32> = vec![0; finder.stored.len()];
    let mut drafts: Vec<Draft> = Vec::new();
    for (node, target) in targets {
        let frame = finder.frame(node);
        let root = DraftRoot { node, target, needs: finder.needs(node, &frame) };
        let read = root.needs.iter().filter(|(id, _)| *id != node || !finder.places.contains_key(id));
        let below = read.filter_map(|(id, _)| finder.read(*id)).map(|place| levels[place] + 1).max();
        let level = below.unwrap_or(0);
        if let Target::Stored(place) = target {
            levels[place] = level;
        }
        let same = |draft: &&mut Draft| draft.level == level && finder.same_loops(&draft.frame, &frame);
        match drafts.iter_mut().find(same) {
            Some(draft) => draft.roots.push(root),
            None => drafts.push(Draft { level, frame, roots: vec![root] }),
        }
    }
    drafts.sort_by_key(|draft| draft.level);
    let list = drafts.into_iter().map(|draft| finder.pass(draft)).collect::<Result<_, _>>()?;
    let guards = graph.guards.iter().enumerate();
    let guards = guards.filter_map(|(n, guard)| Some((*finder.places.get(&guard.node)?, n))).collect();
    Ok(Passes { list, stored: finder.stored, outputs, guards })
}

/// The loops of a pass.
struct Frame {
    /// The dimension of the operand's (or of the root's) shape that each one of the domain is.
    order: SmallVec<[u8; 4]>,
    domain: Shape,
    outer: usize,
    /// How many dimensions after the outer ones are folded, and how; none if nothing is.
    folded: Option<(usize, Nest)>,
    is_product: bool,
}

struct DraftRoot {
    node: NodeId,
    target: Target,
    /// The nodes below it, with their axes in the domain.
    needs: Vec<Key>,
}

struct Draft {
    level: u32,
    frame: Frame,
    roots: Vec<DraftRoot>,
}

/// A node, and the dimension of the domain along which each of its own runs.
type Key = (NodeId, SmallVec<[u8; 4]>);

struct Finder<'g> {
    graph: &'g Graph,
    canonical: Vec<DimId>,
    places: FxHashMap<NodeId, Place>,
    stored: Vec<NodeId>,
}

impl Finder<'_> {
    fn store(&mut self, id: NodeId) {
        let stored = &mut self.stored;
        self.places.entry(id).or_insert_with(|| {
            stored.push(id);
            stored.len() - 1
        });
    }

    /// Stores what a view is of, unless that is an input.
    fn store_below(&mut self, id: NodeId) {
        let (base, _) = self.viewed(id);
        if !matches!(self.graph.node(base).kind, NodeKind::Input(_)) {
            self.store(base);
        }
    }

    /// What a chain of views is of, and the views, first one first.
    fn viewed(&self, id: NodeId) -> (NodeId, SmallVec<[View; 1]>) {
        let (mut base, mut views) = (id, SmallVec::<[View; 1]>::new());
        loop {
            let (below, view) = match &self.graph.node(base).kind {
                NodeKind::Transpose(x, order) => (*x, View::Transpose(order.clone())),
                NodeKind::Index(x, items) => (*x, View::Index(items.clone())),
                _ => break,
            };
            views.insert(0, view);
            base = below;
        }
        (base, views)
    }

    /// True if a pass reads this node rather than computes it: an input or something stored, or a view of one.
    fn is_memory(&self, id: NodeId) -> bool {
        let (base, _) = self.viewed(id);
        self.places.contains_key(&base) || matches!(self.graph.node(base).kind, NodeKind::Input(_))
    }

    /// What is stored, if a pass that reads this node reads that.
    fn read(&self, id: NodeId) -> Option<Place> {
        self.places.get(&self.viewed(id).0).copied()
    }

    fn frame(&self, root: NodeId) -> Frame {
        let node = self.graph.node(root);
        let NodeKind::Reduce(_, x, axes) = &node.kind else {
            let mut domain = node.shape.clone();
            let is_product = if let NodeKind::Matmul([left, _]) = node.kind {
                let left = &self.graph.node(left).shape;
                domain.insert(domain.len() - 1, left[left.len() - 1]);
                true
            } else {
                false
            };
            let outer = domain.len();
            return Frame { order: (0..outer as u8).collect(), domain, outer, folded: None, is_product };
        };
        let shape = &self.graph.node(*x).shape;
        let last = shape.len() as u8 - 1;
        let nest = if axes.contains(&last) { Nest::Rows } else { Nest::Columns };
        // Dimensions behind the last one that is folded are the columns.
        let end = axes.last().copied().unwrap_or(last);
        let outer: SmallVec<[u8; 4]> = (0..end).filter(|axis| !axes.contains(axis)).collect();
        let order: SmallVec<[u8; 4]> =
            outer.iter().copied().chain(axes.iter().copied()).chain(end + 1..=last).collect();
        let domain = order.iter().map(|axis| shape[*axis as usize]).collect();
        Frame { order, domain, outer: outer.len(), folded: Some((axes.len(), nest)), is_product: false }
    }

    fn same_loops(&self, a: &Frame, b: &Frame) -> bool {
        let same = |x: &DimId, y: &DimId| self.canonical[x.index()] == self.canonical[y.index()];
        (a.outer, a.folded) == (b.outer, b.folded)
            && !(a.is_product || b.is_product)
            && a.domain.len() == b.domain.len()
            && a.domain.iter().zip(&b.domain).all(|(x, y)| same(x, y))
    }

    /// The nodes that a root needs, itself (or what it folds) first, down to what is read.
    fn needs(&self, root: NodeId, frame: &Frame) -> Vec<Key> {
        if let NodeKind::Matmul([left, right]) = self.graph.node(root).kind {
            let (stack, [i, k, j]) = (frame.outer - 3, [3, 2, 1].map(|back| (frame.outer - back) as u8));
            let axes = |x: NodeId, matrix: [u8; 2]| {
                let leading = self.graph.rank(x) - 2;
                (x, ((stack - leading) as u8..stack as u8).chain(matrix).collect())
            };
            return vec![axes(left, [i, k]), axes(right, [k, j])];
        }
        let mut start: SmallVec<[u8; 4]> = frame.order.clone();
        for (place, axis) in frame.order.iter().enumerate() {
            start[*axis as usize] = place as u8;
        }
        let first = match &self.graph.node(root).kind {
            NodeKind::Reduce(_, x, _) => *x,
            _ => root,
        };
        let mut open: Vec<Key> = vec![(first, start)];
        let mut seen: FxHashSet<Key> = open.iter().cloned().collect();
        let mut found = Vec::new();
        while let Some((id, axes)) = open.pop() {
            if id == root || !self.is_memory(id) {
                for below in self.below(id, &axes) {
                    if seen.insert(below.clone()) {
                        open.push(below);
                    }
                }
            }
            found.push((id, axes));
        }
        found
    }

    /// The operands of a node that a pass computes, with their axes. A view there only adds dimensions, unless the node is a
    /// root that is a view: that is read.
    fn below(&self, id: NodeId, axes: &[u8]) -> SmallVec<[Key; 3]> {
        match &self.graph.node(id).kind {
            NodeKind::Apply(_, args) => {
                let of = |arg: &NodeId| (*arg, axes[axes.len() - self.graph.rank(*arg)..].into());
                args.iter().map(of).collect()
            }
            NodeKind::Cast(x) => SmallVec::from_iter([(*x, axes.into())]),
            NodeKind::Index(x, items) if !self.is_memory(id) => {
                let kept = items.iter().zip(axes).filter(|(item, _)| !matches!(item, IndexItem::NewAxis));
                SmallVec::from_iter([(*x, kept.map(|(_, axis)| *axis).collect())])
            }
            _ => SmallVec::new(),
        }
    }

    /// The pass of a draft.
    fn pass(&self, draft: Draft) -> Result<Pass, Diagnostic> {
        let Draft { frame, roots, .. } = draft;
        let Frame { domain, outer, folded, is_product, .. } = frame;
        let count = folded.map_or(0, |(count, _)| count);
        let inner = domain.len() - outer - count;
        let one = |at: usize| at..at + 1;
        let mut groups: Vec<Range<usize>> = (0..outer).map(one).collect();
        groups.extend(folded.map(|_| outer..outer + count));
        groups.extend((0..inner).map(|i| one(outer + count + i)));
        let is_one = |group: &Range<usize>| domain[group.clone()].iter().all(|dim| self.graph.dims.is_one(*dim));
        let mut needs: Vec<Key> = roots.iter().flat_map(|root| root.needs.iter().cloned()).collect();
        // Operands before users; those of a product are read, and stay in order.
        if !is_product {
            needs.sort();
            needs.dedup();
        }
        let mut new = Graph::new(None);
        let mut made: FxHashMap<Key, NodeId> = FxHashMap::default();
        let (mut operands, mut inputs) = (Vec::new(), Vec::new());
        let written: FxHashSet<NodeId> = roots.iter().map(|root| root.node).collect();
        for key in needs {
            let (id, axes) = &key;
            let node = self.graph.node(*id);
            let is_root = written.contains(id) && !matches!(node.kind, NodeKind::Reduce(..));
            let operand = |x: &NodeId, axes: &[u8]| made[&(*x, axes[axes.len() - self.graph.rank(*x)..].into())];
            let value = match &node.kind {
                NodeKind::Const(literal) => new.constant(*literal, node.weak),
                NodeKind::Apply(op, args) if is_root || !self.is_memory(*id) => {
                    let args = args.iter().map(|arg| operand(arg, axes)).collect();
                    new.apply_exact(*op, args, ArgType { dtype: node.dtype, weak: node.weak })?
                }
                NodeKind::Cast(x) if is_root || !self.is_memory(*id) => {
                    let x = operand(x, axes);
                    let shape = new.node(x).shape.clone();
                    new.intern(Node { kind: NodeKind::Cast(x), dtype: node.dtype, weak: node.weak, shape })
                }
                NodeKind::Index(..) if !self.is_memory(*id) => made[&self.below(*id, axes)[0]],
                kind => {
                    let (base, views) = self.viewed(*id);
                    let source = match (kind, &self.graph.node(base).kind) {
                        (NodeKind::Size(dims), _) => Source::Size(dims.clone()),
                        (_, NodeKind::Input(n)) => Source::Input(*n),
                        _ => match self.places.get(&base) {
                            Some(place) => Source::Stored(*place),
                            None => return Err(broken(*id)),
                        },
                    };
                    let along = |dim: usize| {
                        (0..axes.len()).any(|k| usize::from(axes[k]) == dim && !self.graph.dims.is_one(node.shape[k]))
                    };
                    // A scalar has no dimensions, everything else has all of them.
                    let groups = if node.shape.is_empty() { &[][..] } else { &groups[..] };
                    let runs: SmallVec<[bool; 4]> =
                        groups.iter().map(|group| !is_one(group) && group.clone().any(along)).collect();
                    let (mut shape, mut spec) = (Shape::new(), SmallVec::new());
                    for (g, runs) in runs.iter().enumerate() {
                        let name = format!("d{g}");
                        shape.push(if *runs { new.dims.named(&name) } else { new.dims.fixed(1) });
                        spec.push(if *runs { Size::Named(name) } else { Size::Fixed(1) });
                    }
                    let name = format!("x{}", operands.len());
                    inputs.push(Input { name: name.clone(), dtype: node.dtype, weak: node.weak, shape: spec });
                    operands.push(Operand { source, views, axes: axes.clone(), runs });
                    new.declare(name, node.dtype, node.weak, shape)
                }
            };
            made.insert(key, value);
        }
        let mut done = Vec::new();
        for DraftRoot { node, target, needs } in roots {
            let mut value = made[&needs[0]];
            if is_product {
                // Of each operand the dimensions that it runs along: all but the other one's.
                let mut without = |x: NodeId, dropped: usize| {
                    let all = (0..outer).map(|dim| match dim == dropped {
                        true => IndexItem::At(0),
                        false => IndexItem::Slice(Slice::ALL),
                    });
                    new.index_exact(x, all.collect())
                };
                let [left, right] = [without(value, outer - 1)?, without(made[&needs[1]], outer - 3)?];
                value = new.apply(Op::MATMUL, &[left, right])?;
            }
            let reducer = match &self.graph.node(node).kind {
                NodeKind::Reduce(reducer, ..) => Some(*reducer),
                _ => None,
            };
            let root = Root { node, target, reducer };
            match reducer {
                None => new.outputs.push(value),
                Some(_) => {
                    for component in root.components() {
                        let state = new.fold(*component, value, &[outer as u8]);
                        new.outputs.push(state);
                    }
                }
            }
            done.push(root);
        }
        let folded = folded.map(|(_, nest)| (outer, nest));
        let program = Program::new(ProgramSource::Graph(Box::new(new)), None, inputs);
        Ok(Pass { domain, groups, folded, operands, roots: done, is_product, program })
    }
}

fn broken(id: NodeId) -> Diagnostic {
    Diagnostic::new(numfuse_core::diagnostic::Code::Internal, format!("a pass needs {id}, which no pass has stored"))
}

/// True of a view that only adds dimensions of size 1.
fn is_trivial(kind: &NodeKind) -> bool {
    match kind {
        NodeKind::Index(_, items) => View::Index(items.clone()).only_adds_axes(),
        _ => false,
    }
}

/// The nodes that outputs and guards need, operands before users.
fn reachable(graph: &Graph) -> Vec<NodeId> {
    let mut live = vec![false; graph.len()];
    for root in graph.outputs.iter().chain(graph.guards.iter().map(|guard| &guard.node)) {
        live[root.index()] = true;
    }
    for id in graph.ids().rev() {
        if live[id.index()] {
            graph.node(id).operands().iter().for_each(|operand| live[operand.index()] = true);
        }
    }
    graph.ids().filter(|id| live[id.index()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::view::ArrayRef;
    use crate::{Array, DType};

    /// The passes of a text of `a`: [8, 4], `b`: [8], `c`: [4], `s`: [8, 8]: what each folds, or how many maps it has; then
    /// how many groups there are, and how many operands.
    fn shown(text: &str) -> String {
        let zeros = |shape: &[usize]| Array::zeros(DType::F64, shape).unwrap();
        let arrays = [("a", zeros(&[8, 4])), ("b", zeros(&[8])), ("c", zeros(&[4])), ("s", zeros(&[8, 8]))];
        let engine = Engine::default();
        let env = arrays.iter().fold(crate::Env::new(), |env, (name, array)| env.with(*name, array));
        let (program, inputs) = engine.program(text, &env).unwrap();
        let inputs: Vec<&ArrayRef<'_>> = inputs.to_vec();
        let (variant, _) = program.variant(engine.shared(), &inputs).unwrap();
        let passes = variant.passes().unwrap();
        let show = |pass: &Pass| {
            if pass.is_product {
                return format!("product of {}, {} operands", pass.groups.len(), pass.operands.len());
            }
            let names: Vec<&str> = pass.roots.iter().filter_map(|root| Some(root.reducer?.name())).collect();
            let what = if names.is_empty() { format!("{} maps", pass.roots.len()) } else { names.join(" and ") };
            format!("{what} of {}, {} operands", pass.groups.len(), pass.operands.len())
        };
        passes.list.iter().map(show).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn reductions_end_passes() {
        let is = |text: &str, want: &str| assert_eq!(shown(text), want, "{text}");
        // A whole reduction is over one group; rows and columns have others around it.
        is("sum(a)", "sum of 1, 1 operands");
        is("sum(a, axis=1)", "sum of 2, 1 operands");
        is("sum(a, axis=0)", "sum of 2, 1 operands");
        is("sum((a - b[:, None])**2)", "sum of 1, 2 operands");
        // What uses a result waits for it; the number of elements and the results are operands.
        is("mean(b)", "sum of 1, 1 operands; 1 maps of 0, 2 operands");
        is("(b - mean(b)) / std(b)", "sum and moments of 1, 1 operands; 1 maps of 1, 4 operands");
        is("a.T + c[:, None]", "1 maps of 2, 2 operands");
        is("sum(a / sum(a, axis=1, keepdims=True))", "sum of 2, 1 operands; sum of 1, 2 operands");
        // One pass for what has the same loops, and outputs that are the same are computed once.
        is("sum(a), max(a), sum(a), b + 1, b - 1", "sum and max of 1, 1 operands; 2 maps of 1, 1 operands");
        // A view that stays above its operand has that stored first.
        let twice = "(exp(b) * exp(-b) * sin(b) + exp(b[::-1] * sin(b)))[::-1]";
        is(twice, "1 maps of 1, 1 operands; 1 maps of 1, 3 operands");
        is("sum(a, axis=0)[::-1] * c", "sum of 2, 1 operands; 1 maps of 1, 2 operands");
    }

    #[test]
    fn products_of_matrices_are_passes_of_their_own() {
        let is = |text: &str, want: &str| assert_eq!(shown(text), want, "{text}");
        is("a.T @ a", "product of 3, 2 operands");
        is("a @ a.T, a @ a.T", "product of 3, 2 operands");
        is("(a - c) @ a.T + b", "1 maps of 2, 2 operands; product of 3, 2 operands; 1 maps of 2, 2 operands");
        is("sum(s @ s)", "product of 3, 2 operands; sum of 1, 1 operands");
        is("(s @ a).T", "product of 3, 2 operands; 1 maps of 2, 1 operands");
        is("s @ s @ a", "product of 3, 2 operands; product of 3, 2 operands");
        is("s[None] @ a[None]", "product of 4, 2 operands");
        // With a vector it is a sum.
        is("s @ b", "sum of 2, 2 operands");
    }
}
