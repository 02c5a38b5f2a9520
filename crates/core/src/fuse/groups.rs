//! Finds the groups: which nodes are stored, and which stored nodes are computed in one kernel.
//!
//! Stored nodes are taken from the last to the first, so that a node's users are placed before it. Each one either
//! joins a group with the same loops or opens one. Exploring a group from its roots finds what it computes inline and
//! what it reads; a reduction that does not fit the group's loops becomes a stored node of its own.

use super::seen::{AxesId, Seen};
use super::{Axes, KERNEL_NODES, describe, is_trivial_view, of_operand, op_cost, through_trivial_view};
use crate::diagnostic::Code;
use crate::graph::{Graph, NodeId, NodeKind};
use crate::kernel::{Nest, Reducer};
use crate::shape::{DimId, Shape};
use rustc_hash::FxHashSet;
use std::fmt::{self, Write};

/// The loops of a group: a domain whose first axes are the kernel's outer ones, then the reduced, then the inner ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The kernel's nest.
    pub nest: Nest,
    /// The sizes of the domain's axes.
    pub domain: Shape,
    /// How many of them are outer.
    pub outer: usize,
    /// How many are reduced (columns only).
    pub reduced: usize,
}

/// A kernel to be: its loops, what it stores, and why.
#[derive(Clone, Debug)]
pub struct Group {
    /// The loops.
    pub frame: Frame,
    /// What it stores, with the axes of the domain along which each dimension runs.
    pub roots: Vec<(NodeId, Axes)>,
    /// Stored nodes that it reads.
    pub reads: Vec<NodeId>,
    /// Reductions that it computes, with the axes of their operands; the rest of what it computes follows.
    pub reductions: Vec<(NodeId, Axes)>,
    /// Why its roots are stored.
    pub reason: String,
    /// Elementwise nodes that it computes, each once.
    inline: Vec<NodeId>,
    /// Inputs of the graph that it reads, in order.
    inputs: Vec<NodeId>,
}

/// Why a node is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Output(usize),
    Guard(Code),
    TooLarge,
    UnderView,
    LowerRank,
    WholeReduction(Reducer),
    OtherAxes(Reducer),
    /// Computed by several kernels, at this cost.
    Shared(u32),
    Product,
    OperandOfProduct,
    FusionOff,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Output(n) => write!(f, "output {n}"),
            Why::Guard(code) => write!(f, "the check for {code}"),
            Why::TooLarge => f.write_str("the kernel would be too large"),
            Why::UnderView => f.write_str("read through a view that other uses do not share"),
            Why::LowerRank => f.write_str("of lower rank: computed once, not for each element"),
            Why::WholeReduction(reducer) => {
                write!(f, "the whole {} has to be known before the first element", reducer.name())
            }
            Why::OtherAxes(reducer) => write!(f, "this {} runs along other axes than its consumer", reducer.name()),
            Why::Shared(cost) => {
                write!(f, "shared by kernels that would each spend about {cost} operations on it")
            }
            Why::Product => f.write_str("a product of matrices is no kernel"),
            Why::OperandOfProduct => f.write_str("a product of matrices reads it"),
            Why::FusionOff => f.write_str("fusion is off"),
        }
    }
}

/// A value of lower rank that costs this much is computed once, in a kernel of its own.
const HOIST_COST: u32 = 4;
/// How many of the latest groups a stored node tries to join.
const JOIN_CANDIDATES: usize = 8;
/// Work that two kernels would both do is done once and stored, from this cost on.
const SHARE_COST: u32 = 60;

/// The groups of a graph in the order in which they have to run. With `together` off, each node has a group of its own:
/// what tests hold fusion against.
pub fn fuse(graph: &Graph, together: bool) -> Vec<Group> {
    let canonical = graph.dims.canonical();
    let mut grouper = Grouper::new(graph, &canonical);
    if !together {
        let leaf =
            |id: &NodeId| matches!(graph.node(*id).kind, NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_));
        for id in graph.ids().filter(|id| !leaf(id)) {
            grouper.store(id, Why::FusionOff);
        }
        grouper.joins = 0;
        grouper.place();
        return grouper.ordered();
    }
    // Storing shared work changes the groups; a few rounds settle it.
    for round in 0..4 {
        grouper.place();
        if round == 3 || !grouper.store_shared() {
            return grouper.ordered();
        }
    }
    unreachable!("the last round returns")
}

struct Grouper<'g> {
    graph: &'g Graph,
    canonical: &'g [DimId],
    /// Why a node is stored, for those that are.
    stored: Vec<Option<Why>>,
    /// Primitives computed for one element, down to stored nodes.
    cost: Vec<u32>,
    /// True for nodes with a reduction below them, or that are one.
    folds: Vec<bool>,
    /// How many of the latest groups a stored node tries to join.
    joins: usize,
    groups: Vec<Group>,
    /// The group of each root.
    owner: Vec<Option<usize>>,
    /// No group is entered through one root and left through another below this node.
    lowest_shared: NodeId,
    seen: Seen,
}

/// What exploring a group finds.
#[derive(Default)]
struct Found {
    inline: Vec<NodeId>,
    reads: Vec<NodeId>,
    reductions: Vec<(NodeId, Axes)>,
    /// Stored nodes that the group computes on its way: they become its roots.
    absorbed: Vec<(NodeId, Axes)>,
    /// Reductions that do not fit, and costly values of lower rank.
    must_store: Vec<(NodeId, Why)>,
    inputs: Vec<NodeId>,
}

impl<'g> Grouper<'g> {
    fn new(graph: &'g Graph, canonical: &'g [DimId]) -> Grouper<'g> {
        let mut stored: Vec<Option<Why>> = vec![None; graph.len()];
        for (i, output) in graph.outputs.iter().enumerate() {
            stored[output.index()].get_or_insert(Why::Output(i));
        }
        for guard in &graph.guards {
            stored[guard.node.index()].get_or_insert(Why::Guard(guard.error.code));
        }
        let live = graph.live();
        let mut uses = vec![0u32; graph.len()];
        for id in graph.ids().filter(|id| live[id.index()]) {
            for operand in graph.node(id).operands() {
                uses[operand.index()] += 1;
            }
        }
        // The share of elementwise nodes that each user of a node brings into its kernel.
        let mut weight = vec![0f32; graph.len()];
        let mut cost = vec![0u32; graph.len()];
        let mut folds = vec![false; graph.len()];
        for id in graph.ids().filter(|id| live[id.index()]) {
            let node = graph.node(id);
            folds[id.index()] =
                matches!(node.kind, NodeKind::Reduce(..)) || node.operands().iter().any(|x| folds[x.index()]);
            let share = |x: &NodeId| weight[x.index()] / uses[x.index()].max(1) as f32;
            match &node.kind {
                NodeKind::Apply(op, args) => {
                    let own = op_cost(*op);
                    let total = args.iter().map(share).sum::<f32>() + own.min(30) as f32 / 4.0 + 0.75;
                    if total > KERNEL_NODES {
                        stored[id.index()].get_or_insert(Why::TooLarge);
                        continue;
                    }
                    weight[id.index()] = total;
                    cost[id.index()] = args.iter().fold(own, |sum, a| sum.saturating_add(cost[a.index()]));
                }
                NodeKind::Cast(x) => {
                    weight[id.index()] = share(x) + 1.0;
                    cost[id.index()] = cost[x.index()].saturating_add(1);
                }
                NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => {
                    weight[id.index()] = share(x);
                    cost[id.index()] = cost[x.index()];
                    if !is_trivial_view(&node.kind) {
                        // What is under a view that could not be moved needs memory to be viewed.
                        let base = base_of_views(graph, *x);
                        if !matches!(graph.node(base).kind, NodeKind::Input(_)) && graph.rank(base) > 0 {
                            stored[base.index()].get_or_insert(Why::UnderView);
                        }
                    }
                }
                NodeKind::Matmul(operands) => {
                    folds[id.index()] = false;
                    stored[id.index()].get_or_insert(Why::Product);
                    for base in operands.map(|x| base_of_views(graph, x)) {
                        if !matches!(graph.node(base).kind, NodeKind::Input(_)) {
                            let why = &mut stored[base.index()];
                            if matches!(why, None | Some(Why::UnderView)) {
                                *why = Some(Why::OperandOfProduct);
                            }
                            cost[base.index()] = 0;
                        }
                    }
                }
                NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_) | NodeKind::Reduce(..) => {}
            }
        }
        Grouper {
            graph,
            canonical,
            stored,
            cost,
            folds,
            joins: JOIN_CANDIDATES,
            groups: Vec::new(),
            owner: vec![None; graph.len()],
            lowest_shared: NodeId(u32::MAX),
            seen: Seen::new(graph.len()),
        }
    }

    /// Puts every stored node in a group.
    fn place(&mut self) {
        self.groups.clear();
        self.owner.fill(None);
        self.lowest_shared = NodeId(u32::MAX);
        // Exploring a node's group only ever stores nodes before it: the scan from the last one sees them all.
        for id in self.graph.ids().rev() {
            if self.is_stored(id) && self.owner[id.index()].is_none() && !self.join(id) {
                self.open(id);
            }
        }
    }

    fn is_stored(&self, id: NodeId) -> bool {
        self.stored[id.index()].is_some()
    }

    /// Adds a node to one of the latest groups, if it fits its loops and something is then read or computed once
    /// instead of twice.
    fn join(&mut self, id: NodeId) -> bool {
        if self.joins == 0 || self.groups.is_empty() || self.is_product(id) {
            return false;
        }
        let inputs = self.inputs_below(id);
        for index in (0..self.groups.len()).rev().take(self.joins) {
            let group = &self.groups[index];
            let shares = inputs.iter().any(|input| group.inputs.binary_search(input).is_ok());
            let is_kernel = !self.is_product(group.roots[0].0);
            if !shares || !is_kernel || group.inline.len() as f32 > KERNEL_NODES / 2.0 {
                continue;
            }
            let Some(axes) = self.axes_in(&group.frame, id) else { continue };
            let frame = group.frame.clone();
            let mut roots = group.roots.clone();
            roots.push((id, axes));
            match self.explore(&frame, roots) {
                Some((found, roots)) if found.must_store.is_empty() => {
                    self.set(index, frame, roots, found);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// Opens a group for a node, storing what does not fit into it.
    fn open(&mut self, id: NodeId) {
        let (frame, axes) = self.frame_for(id);
        if let NodeKind::Matmul(operands) = &self.graph.node(id).kind {
            let memory = operands.map(|x| memory_of(self.graph, x, |id| self.is_stored(id)));
            let (mut inputs, mut reads): (Vec<NodeId>, Vec<NodeId>) =
                memory.into_iter().partition(|id| !self.is_stored(*id));
            reads.sort_unstable();
            reads.dedup();
            inputs.sort_unstable();
            let found = Found { reads, inputs, ..Found::default() };
            return self.set(self.groups.len(), frame, vec![(id, axes)], found);
        }
        loop {
            match self.explore(&frame, vec![(id, axes.clone())]) {
                Some((found, roots)) if found.must_store.is_empty() => {
                    return self.set(self.groups.len(), frame, roots, found);
                }
                Some((found, _)) => found.must_store.into_iter().for_each(|(node, why)| self.store(node, why)),
                None => unreachable!("a group of one node does not wait for itself"),
            }
        }
    }

    fn set(&mut self, index: usize, frame: Frame, roots: Vec<(NodeId, Axes)>, found: Found) {
        for (root, _) in &roots {
            self.owner[root.index()] = Some(index);
        }
        if roots.len() > 1 {
            let lowest = roots.iter().map(|r| r.0).min().unwrap_or(self.lowest_shared);
            self.lowest_shared = self.lowest_shared.min(lowest);
        }
        let Found { reads, reductions, inline, inputs, .. } = found;
        let group = Group { frame, roots, reads, reductions, reason: String::new(), inline, inputs };
        if index == self.groups.len() { self.groups.push(group) } else { self.groups[index] = group }
    }

    fn store(&mut self, node: NodeId, why: Why) {
        self.stored[node.index()].get_or_insert(why);
        self.cost[node.index()] = 0;
    }

    /// Stores costly nodes that two groups compute; true if there are any.
    fn store_shared(&mut self) -> bool {
        if self.groups.len() < 2 {
            return false;
        }
        let mut count = vec![0u32; self.graph.len()];
        for node in self.groups.iter().flat_map(|g| &g.inline) {
            count[node.index()] += 1;
        }
        // The last of them covers those below it, which later rounds look at again.
        let shared = self.graph.ids().rev().find(|id| {
            count[id.index()] > 1
                && !self.is_stored(*id)
                && self.cost[id.index()] >= SHARE_COST
                && self.is_elementwise(*id)
                && !self.graph.node(*id).shape.is_empty()
        });
        if let Some(node) = shared {
            self.store(node, Why::Shared(self.cost[node.index()]));
        }
        shared.is_some()
    }

    /// What a group stores and why, and its loops, in words.
    fn reason(&self, group: &Group) -> String {
        let mut text = String::new();
        for why in group.roots.iter().filter_map(|(root, _)| self.stored[root.index()]) {
            let _ = write!(text, "{}{why}", if text.is_empty() { "" } else { ", " });
        }
        if let Some(NodeKind::Matmul(operands)) = group.roots.first().map(|(root, _)| &self.graph.node(*root).kind) {
            let [left, right] = operands.map(|x| self.graph.dims.display(&self.graph.node(x).shape).to_string());
            let _ = write!(text, ": the matrix product of {left} and {right}");
            return text;
        }
        let Frame { nest, domain, outer, .. } = &group.frame;
        let _ = write!(text, ": {}", describe(*nest, domain, *outer, &self.graph.dims));
        text
    }

    /// The groups, each after those whose roots it reads.
    fn ordered(mut self) -> Vec<Group> {
        for index in 0..self.groups.len() {
            self.groups[index].reason = self.reason(&self.groups[index]);
        }
        let Grouper { groups, owner, .. } = self;
        let mut state = vec![0u8; groups.len()];
        let mut order = Vec::with_capacity(groups.len());
        // Groups were made from the last node to the first: the reverse is nearly the order already.
        for start in (0..groups.len()).rev() {
            let mut stack = vec![start];
            while let Some(&top) = stack.last() {
                if state[top] == 2 {
                    stack.pop();
                    continue;
                }
                let waiting: Vec<usize> = groups[top]
                    .reads
                    .iter()
                    .filter_map(|r| owner[r.index()])
                    .filter(|g| state[*g] == 0 && *g != top)
                    .collect();
                state[top] = 1;
                if waiting.is_empty() {
                    state[top] = 2;
                    order.push(top);
                    stack.pop();
                } else {
                    stack.extend(waiting);
                }
            }
        }
        let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
        order.into_iter().filter_map(|i| groups[i].take()).collect()
    }

    // Frames.

    fn same(&self, a: DimId, b: DimId) -> bool {
        self.canonical[a.index()] == self.canonical[b.index()]
    }

    fn all_same(&self, a: &[DimId], b: &[DimId]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| self.same(*x, *y))
    }

    /// The axes of a node as a root of this frame: at the element level, at the row level, or at the column level.
    fn axes_in(&self, frame: &Frame, id: NodeId) -> Option<Axes> {
        let node = self.graph.node(id);
        if self.is_product(id) {
            return None;
        }
        let all = |axes: Axes| {
            let dims: Shape = axes.iter().map(|a| frame.domain[*a as usize]).collect();
            self.all_same(&dims, &node.shape).then_some(axes)
        };
        let rank = frame.domain.len();
        let kept: Axes =
            (0..rank).filter(|a| *a < frame.outer || *a >= frame.outer + frame.reduced).map(|a| a as u8).collect();
        if let NodeKind::Reduce(_, x, axes) = &node.kind {
            let (own, _) = self.reduction_frame(*x, axes);
            let fits = own.nest == frame.nest
                && own.outer == frame.outer
                && own.reduced == frame.reduced
                && self.all_same(&own.domain, &frame.domain);
            return match frame.nest {
                Nest::Rows => fits.then(|| (0..frame.outer as u8).collect()),
                Nest::Columns => fits.then_some(kept),
            };
        }
        match frame.nest {
            Nest::Rows => all((0..rank as u8).collect()),
            Nest::Columns => all(kept),
        }
    }

    /// The loops of a reduction, and the axes of its operand in them.
    fn reduction_frame(&self, x: NodeId, axes: &[u8]) -> (Frame, Axes) {
        let shape = &self.graph.node(x).shape;
        let rank = shape.len() as u8;
        let kept = (0..rank).filter(|a| !axes.contains(a));
        let (nest, order, outer): (Nest, Vec<u8>, usize) = if axes.contains(&(rank.wrapping_sub(1))) {
            let outer: Vec<u8> = kept.collect();
            let count = outer.len();
            (Nest::Rows, outer.into_iter().chain(axes.iter().copied()).collect(), count)
        } else {
            let last = axes.last().copied().unwrap_or(0);
            let outer: Vec<u8> = kept.clone().filter(|a| *a < last).collect();
            let count = outer.len();
            (Nest::Columns, outer.into_iter().chain(axes.iter().copied()).chain(last + 1..rank).collect(), count)
        };
        let domain = order.iter().map(|a| shape[*a as usize]).collect();
        let mut places: Axes = Axes::from_elem(0, rank as usize);
        for (place, axis) in order.iter().enumerate() {
            places[*axis as usize] = place as u8;
        }
        let reduced = if nest == Nest::Columns { axes.len() } else { 0 };
        (Frame { nest, domain, outer, reduced }, places)
    }

    /// The loops for a node that opens a group, and its axes in them.
    fn frame_for(&self, id: NodeId) -> (Frame, Axes) {
        let node = self.graph.node(id);
        if let NodeKind::Reduce(_, x, axes) = &node.kind {
            let (frame, places) = self.reduction_frame(*x, axes);
            let kept = (0..places.len() as u8).filter(|a| !axes.contains(a)).map(|a| places[a as usize]).collect();
            return (frame, kept);
        }
        let rank = node.shape.len();
        let own: Axes = (0..rank as u8).collect();
        if !self.folds[id.index()] {
            return (Frame { nest: Nest::Rows, domain: node.shape.clone(), outer: 0, reduced: 0 }, own);
        }
        let mut best: Option<(Frame, Axes)> = None;
        // The reductions that the node uses without another one in between, nearest first.
        let mut queue = std::collections::VecDeque::from([(id, own.clone())]);
        let mut seen: FxHashSet<(NodeId, Axes)> = FxHashSet::default();
        while let Some((here, axes)) = queue.pop_front() {
            if !self.folds[here.index()] || !seen.insert((here, axes.clone())) {
                continue;
            }
            let found = self.graph.node(here);
            match &found.kind {
                NodeKind::Reduce(_, x, reduced) => {
                    if let Some(candidate) = self.consumer_frame(&node.shape, &axes, *x, reduced) {
                        let shares_elements = candidate.0.domain.len() == rank;
                        if shares_elements || best.is_none() {
                            best = Some(candidate);
                        }
                        if shares_elements {
                            break;
                        }
                    }
                }
                _ if here != id && self.is_stored(here) => {}
                NodeKind::Apply(_, args) => {
                    for arg in args {
                        queue.push_back((*arg, of_operand(&axes, self.graph.rank(*arg))));
                    }
                }
                NodeKind::Cast(x) => queue.push_back((*x, axes)),
                NodeKind::Index(x, _) if is_trivial_view(&found.kind) => {
                    queue.push_back((*x, through_trivial_view(&found.kind, &axes)));
                }
                _ => {}
            }
        }
        best.unwrap_or_else(|| (Frame { nest: Nest::Rows, domain: node.shape.clone(), outer: 0, reduced: 0 }, own))
    }

    /// The loops in which a reduction and an elementwise consumer of this shape can share a kernel, and the axes of the
    /// consumer in them; `axes` are the consumer's axes along which the reduction's result runs.
    fn consumer_frame(&self, shape: &[DimId], axes: &[u8], x: NodeId, reduced: &[u8]) -> Option<(Frame, Axes)> {
        let (frame, places) = self.reduction_frame(x, reduced);
        let kept: Vec<u8> = (0..places.len() as u8).filter(|a| !reduced.contains(a)).collect();
        let operand = &self.graph.node(x).shape;
        let matches = kept.len() == axes.len()
            && kept.iter().zip(axes).all(|(k, a)| self.same(operand[*k as usize], shape[*a as usize]));
        if !matches {
            return None;
        }
        let rest: Vec<u8> = (0..shape.len() as u8).filter(|a| !axes.contains(a)).collect();
        let mut own: Axes = Axes::from_elem(0, shape.len());
        for (k, a) in kept.iter().zip(axes) {
            own[*a as usize] = places[*k as usize];
        }
        if rest.is_empty() {
            return Some((frame, own));
        }
        // The consumer runs over the same elements: only in rows, and only if there is a row to run along.
        let reduced_dims: Shape = reduced.iter().map(|a| operand[*a as usize]).collect();
        let rest_dims: Shape = rest.iter().map(|a| shape[*a as usize]).collect();
        if frame.nest == Nest::Columns || frame.outer == 0 || !self.all_same(&reduced_dims, &rest_dims) {
            return None;
        }
        for (i, a) in rest.iter().enumerate() {
            own[*a as usize] = (frame.outer + i) as u8;
        }
        Some((frame, own))
    }

    // Exploring.

    fn is_product(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).kind, NodeKind::Matmul(_))
    }

    fn is_elementwise(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).kind, NodeKind::Apply(..) | NodeKind::Cast(_))
    }

    /// What a group with these roots computes and reads, and its roots with the stored nodes that it computes anyway;
    /// none if something that it reads would have to wait for it.
    fn explore(&mut self, frame: &Frame, mut roots: Vec<(NodeId, Axes)>) -> Option<(Found, Vec<(NodeId, Axes)>)> {
        let mut refused: FxHashSet<NodeId> = FxHashSet::default();
        loop {
            let found = self.walk(frame, &roots, &refused);
            if roots.len() > 1 && self.waits(&found, &roots, None) {
                return None;
            }
            let late: Vec<NodeId> =
                found.absorbed.iter().filter(|a| self.waits(&found, &roots, Some(a))).map(|a| a.0).collect();
            if late.is_empty() {
                roots.extend(found.absorbed.iter().cloned());
                return Some((found, roots));
            }
            refused.extend(late);
        }
    }

    fn walk(&mut self, frame: &Frame, roots: &[(NodeId, Axes)], refused: &FxHashSet<NodeId>) -> Found {
        let mut found = Found::default();
        // The walk takes note while it asks the grouper.
        let mut seen = std::mem::take(&mut self.seen);
        seen.start();
        // The third says that the value is needed for each element: by an element that is stored, or under a reduction.
        // A result of the frame's reductions is then needed in a second loop over the same row, which columns do not
        // have, and which would make one thread go over everything if there is one row only.
        let rank = frame.domain.len();
        let second_loop = frame.nest == Nest::Rows && frame.outer > 0;
        let mut stack: Vec<(NodeId, AxesId, bool)> = roots
            .iter()
            .map(|(r, a)| (*r, seen.number(a), frame.nest == Nest::Rows && a.len() == rank && rank > 0))
            .collect();
        let mut root_axes: Vec<(NodeId, AxesId)> = stack.iter().map(|(r, a, _)| (*r, *a)).collect();
        root_axes.sort_unstable();
        // A kernel without outer axes can still be cut into rows, unless it folds all of its elements.
        let folds = roots.iter().any(|(_, axes)| axes.len() != frame.domain.len());
        while let Some((id, axes_id, inside)) = stack.pop() {
            let (is_new, is_first) = seen.visit(id, axes_id, inside);
            if !is_new {
                continue;
            }
            let node = self.graph.node(id);
            let is_root = self.is_stored(id) && root_axes.binary_search(&(id, axes_id)).is_ok();
            let is_leaf = matches!(node.kind, NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_));
            if !is_root && !is_leaf && self.is_stored(id) {
                let axes = &seen.axes[axes_id as usize];
                let computes = self.joins > 0
                    && self.stored[id.index()] != Some(Why::TooLarge)
                    && !refused.contains(&id)
                    && (!inside || second_loop || self.is_elementwise(id))
                    && self.axes_in(frame, id).as_ref() == Some(axes);
                if !computes {
                    found.reads.push(id);
                    continue;
                }
                if is_first || !found.absorbed.iter().any(|a| a.0 == id) {
                    found.absorbed.push((id, axes.clone()));
                }
            }
            match &node.kind {
                NodeKind::Input(_) => found.inputs.push(id),
                NodeKind::Const(_) | NodeKind::Size(_) => {}
                NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => {
                    if is_trivial_view(&node.kind) {
                        let below = through_trivial_view(&node.kind, &seen.axes[axes_id as usize]);
                        stack.push((*x, seen.number(&below), inside));
                        continue;
                    }
                    let base = base_of_views(self.graph, *x);
                    match self.graph.node(base).kind {
                        NodeKind::Input(_) => found.inputs.push(base),
                        // Every view of a scalar has its value.
                        _ if self.graph.rank(base) == 0 => stack.push((base, seen.number(&[]), inside)),
                        _ => found.reads.push(base),
                    }
                }
                NodeKind::Apply(..) | NodeKind::Cast(_) => {
                    let axes = &seen.axes[axes_id as usize];
                    if !is_root && self.is_better_hoisted(frame, folds, id, axes) {
                        found.must_store.push((id, Why::LowerRank));
                        continue;
                    }
                    let rank = axes.len();
                    if seen.compute(id) {
                        found.inline.push(id);
                    }
                    for operand in node.operands() {
                        let below = match self.graph.rank(*operand) {
                            same if same == rank => axes_id,
                            fewer => seen.number(&of_operand(&seen.axes[axes_id as usize], fewer)),
                        };
                        stack.push((*operand, below, inside));
                    }
                }
                NodeKind::Matmul(_) => unreachable!("a product of matrices is stored, and in no kernel"),
                NodeKind::Reduce(reducer, x, reduced) => {
                    let axes = &seen.axes[axes_id as usize];
                    match self.operand_axes(frame, axes, *x, reduced) {
                        Some(operand) if !inside || second_loop => {
                            stack.push((*x, seen.number(&operand), true));
                            if is_first || !found.reductions.iter().any(|r| r.0 == id && r.1 == operand) {
                                found.reductions.push((id, operand));
                            }
                        }
                        // The root waits for itself, which `waits` refuses.
                        _ if is_root => found.reads.push(id),
                        _ if axes.is_empty() || reduced.len() == self.graph.rank(*x) => {
                            found.must_store.push((id, Why::WholeReduction(*reducer)));
                        }
                        _ => found.must_store.push((id, Why::OtherAxes(*reducer))),
                    }
                }
            }
        }
        self.seen = seen;
        for list in [&mut found.reads, &mut found.inputs] {
            list.sort_unstable();
            list.dedup();
        }
        found.must_store.retain(|(id, _)| !self.is_stored(*id));
        found
    }

    /// The axes of a reduction's operand if its result runs along `axes` and its loops are those of the frame.
    fn operand_axes(&self, frame: &Frame, axes: &[u8], x: NodeId, reduced: &[u8]) -> Option<Axes> {
        let (own, places) = self.reduction_frame(x, reduced);
        let fits = own.nest == frame.nest
            && own.outer == frame.outer
            && own.reduced == frame.reduced
            && self.all_same(&own.domain, &frame.domain);
        let kept = (0..places.len() as u8).filter(|a| !reduced.contains(a)).map(|a| places[a as usize]);
        (fits && kept.eq(axes.iter().copied())).then_some(places)
    }

    /// True if a value varies along the inner loop but not along some loop around it, and is worth a kernel of its own.
    /// What does not vary along the inner loop at all moves out of it by itself.
    fn is_better_hoisted(&self, frame: &Frame, folds: bool, id: NodeId, axes: &[u8]) -> bool {
        if self.cost[id.index()] < HOIST_COST || frame.domain.is_empty() {
            return false;
        }
        let shape = &self.graph.node(id).shape;
        let varies: Vec<u8> =
            axes.iter().zip(shape).filter(|(_, d)| !self.graph.dims.is_one(**d)).map(|(a, _)| *a).collect();
        let last = frame.domain.len() as u8 - 1;
        let reduced = frame.outer as u8..(frame.outer + frame.reduced) as u8;
        let level = match frame.nest {
            Nest::Rows if frame.outer > 0 || folds => frame.outer as u8,
            Nest::Rows => last,
            Nest::Columns => reduced.end,
        };
        let inner = varies.iter().any(|a| *a >= level);
        // What a column kernel computes after the reduction does not vary along the reduced axes, and need not.
        let under_reduction = varies.iter().any(|a| reduced.contains(a));
        let everywhere = (0..=last)
            .filter(|a| !self.graph.dims.is_one(frame.domain[*a as usize]))
            .filter(|a| !reduced.contains(a) || under_reduction)
            .all(|a| varies.contains(&a));
        inner && !everywhere
    }

    fn inputs_below(&mut self, id: NodeId) -> Vec<NodeId> {
        let (frame, axes) = self.frame_for(id);
        self.walk(&frame, &[(id, axes)], &FxHashSet::default()).inputs
    }

    /// True if something that a group reads would be computed from one of its roots, or by a group that is: the two
    /// would wait for each other. `more` is one more root.
    fn waits(&self, found: &Found, roots: &[(NodeId, Axes)], more: Option<&(NodeId, Axes)>) -> bool {
        if found.reads.is_empty() {
            return false;
        }
        let mut targets: Vec<NodeId> = roots.iter().chain(more).map(|r| r.0).collect();
        targets.sort_unstable();
        // Below this id no node is a target, and no group is entered through one root and left through another.
        let lowest = self.lowest_shared.min(targets[0]);
        let mut stack: Vec<NodeId> = found.reads.clone();
        let mut seen: FxHashSet<NodeId> = FxHashSet::default();
        while let Some(id) = stack.pop() {
            if targets.binary_search(&id).is_ok() {
                return true;
            }
            if id < lowest || !seen.insert(id) {
                continue;
            }
            stack.extend(self.graph.node(id).operands());
            if let Some(group) = self.owner[id.index()] {
                stack.extend(self.groups[group].roots.iter().map(|r| r.0));
            }
        }
        false
    }
}

/// The node whose memory a node that is stored, an input, or a view of such, is in.
pub(crate) fn memory_of(graph: &Graph, mut id: NodeId, is_stored: impl Fn(NodeId) -> bool) -> NodeId {
    while !is_stored(id) {
        let (NodeKind::Transpose(x, _) | NodeKind::Index(x, _)) = graph.node(id).kind else { break };
        id = x;
    }
    id
}

/// The node below a chain of views.
pub(crate) fn base_of_views(graph: &Graph, mut id: NodeId) -> NodeId {
    while let NodeKind::Transpose(x, _) | NodeKind::Index(x, _) = graph.node(id).kind {
        id = x;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::ops::Op;

    #[test]
    fn a_very_long_sum_is_cut_into_kernels() {
        let mut graph = Graph::new(None);
        let n = graph.dims.named("n");
        let mut input = |name: &str| graph.input(name, DType::F64, false, &[n]).expect("a vector");
        let (x, y) = (input("x"), input("y"));
        let mut sum = x;
        for i in 0..5000 {
            sum = graph.apply(if i % 2 == 0 { Op::ADD } else { Op::MUL }, &[sum, y]).expect("vectors");
        }
        graph.outputs.push(sum);
        let groups = fuse(&graph, true);
        let sizes: Vec<usize> = groups.iter().map(|g| g.inline.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5000, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size as f32 <= KERNEL_NODES * 1.5), "{sizes:?}");
    }
}
