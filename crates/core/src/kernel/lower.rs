//! A group of nodes to a kernel: places loads, bodies, reductions and stores in stages, and says what each memory
//! operand and parameter is.
//!
//! Everything is done on *terms*: a term is a node with the axes of the domain along which its dimensions run, found once
//! and numbered, so that what is known of it is in plain vectors.
//!
//! Loops are numbered by *phase*: a term that uses no reduction has phase 0, a reduction's result has one more than
//! its operand. Loop `p` folds the reductions whose operands have phase `p` and stores the elements of phase `p`. A
//! costly element that a later loop needs again waits in row-sized scratch; a cheap one is computed again. What does
//! not vary along the inner axes leaves the loops by itself, in [`Builder`].

use super::{Builder, Level, Nest, Role, StageKind, Value};
use crate::dtype::DType;
use crate::fuse::{
    Axes, Frame, Group, base_of_views, is_trivial_view, memory_of, of_operand, op_cost, through_trivial_view,
};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::intern::{self, Index};
use crate::literal::Literal;
use crate::ops::{Op, OpKind};
use crate::plan::{Access, Buffer, BufferId, BufferKind, ParamSource, Plan, Step, View, Work};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// From this many primitives on, an element that several loops need is kept in scratch.
const SCRATCH_COST: u32 = 12;

/// Integer exponents and counts up to this are constants of the kernel: the body of `pow` has products for them.
const SMALL: i64 = 64;

/// The plan of a graph: a step for each group, in their order, and the buffers between them.
pub fn lower(graph: Graph, groups: Vec<Group>) -> Plan {
    let mut buffers = Buffers { buffers: Vec::new(), stored: vec![None; graph.len()], first_input: 0 };
    // An output that is an input is a copy of it, in a buffer of its own; loads of the input go to the input's.
    let outputs = (0..).zip(&graph.outputs).map(|(i, o)| buffers.store(&graph, *o, BufferKind::Output(i))).collect();
    let guards = (0..).zip(&graph.guards).map(|(i, g)| buffers.store(&graph, g.node, BufferKind::Guard(i))).collect();
    for (root, _) in groups.iter().flat_map(|g| &g.roots) {
        buffers.store(&graph, *root, BufferKind::Temp);
    }
    buffers.first_input = buffers.buffers.len() as u32;
    for (i, input) in (0..).zip(graph.inputs()) {
        buffers.add(&graph, input.node, BufferKind::Input(i));
    }
    let mut steps: Vec<Step> = Vec::with_capacity(groups.len());
    for group in groups {
        let step = match graph.node(group.roots[0].0).kind {
            NodeKind::Matmul(operands) => matmul(&graph, group, operands, &buffers),
            _ => lower_group(&graph, group, &buffers),
        };
        for access in &step.operands {
            let buffer = &mut buffers.buffers[access.buffer.index()];
            buffer.first = buffer.first.min(steps.len());
            buffer.last = buffer.last.max(steps.len());
        }
        steps.push(step);
    }
    let mut plan = Plan { buffers: buffers.buffers, steps, outputs, guards, graph };
    plan.group_steps();
    plan.mark_fusible();
    plan
}

/// The buffers of a plan, and which node is in which.
struct Buffers {
    buffers: Vec<Buffer>,
    /// The buffers that steps write, by node.
    stored: Vec<Option<BufferId>>,
    first_input: u32,
}

impl Buffers {
    fn add(&mut self, graph: &Graph, node: NodeId, kind: BufferKind) -> BufferId {
        let found = graph.node(node);
        let (dtype, shape) = (found.dtype, found.shape.clone());
        self.buffers.push(Buffer { kind, dtype, shape, first: usize::MAX, last: 0 });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// The buffer into which a node is stored; a new one of this kind if there is none yet.
    fn store(&mut self, graph: &Graph, node: NodeId, kind: BufferKind) -> BufferId {
        if let Some(known) = self.stored[node.index()] {
            return known;
        }
        let buffer = self.add(graph, node, kind);
        self.stored[node.index()] = Some(buffer);
        buffer
    }

    /// The buffer from which a node is read.
    fn read(&self, graph: &Graph, node: NodeId) -> BufferId {
        match graph.node(node).kind {
            NodeKind::Input(n) => BufferId(self.first_input + n),
            _ => self.written(node),
        }
    }

    /// The buffer of a stored node.
    fn written(&self, node: NodeId) -> BufferId {
        match self.stored[node.index()] {
            Some(buffer) => buffer,
            None => unreachable!("fusion stores what another kernel reads"),
        }
    }
}

/// The step of a product of matrices.
fn matmul(graph: &Graph, group: Group, operands: [NodeId; 2], buffers: &Buffers) -> Step {
    let Group { roots, reads, reason, .. } = group;
    let root = roots[0].0;
    let node = graph.node(root);
    // The axes of the domain: the outer ones, then those of `i`, `k` and `j`.
    let outer = node.shape.len() as u8 - 2;
    let (i, k, j) = (outer, outer + 1, outer + 2);
    let access = |x: NodeId, matrix: [u8; 2]| {
        let (base, views) = through_views(graph, x, &reads);
        let leading = (graph.rank(x) - 2) as u8;
        let axes = (outer - leading..outer).chain(matrix).collect();
        Access { buffer: buffers.read(graph, base), views, axes }
    };
    let out =
        Access { buffer: buffers.written(root), views: SmallVec::new(), axes: (0..outer).chain([i, j]).collect() };
    let mut domain = node.shape.clone();
    let left = &graph.node(operands[0]).shape;
    domain.insert(k as usize, left[left.len() - 1]);
    Step {
        work: Work::Matmul(node.dtype),
        operands: vec![access(operands[0], [i, k]), access(operands[1], [k, j]), out],
        params: Vec::new(),
        domain,
        outer: (0..outer).collect(),
        reduced: SmallVec::from_slice(&[k]),
        inner: SmallVec::from_slice(&[i, j]),
        reason,
        together: None,
        fusible: None,
    }
}

/// The memory of a node, one of `reads` or an input, and the views through which it is seen.
fn through_views(graph: &Graph, node: NodeId, reads: &[NodeId]) -> (NodeId, SmallVec<[View; 1]>) {
    let base = memory_of(graph, node, |id| reads.binary_search(&id).is_ok());
    let mut views: SmallVec<[View; 1]> = SmallVec::new();
    let mut at = node;
    while at != base {
        match &graph.node(at).kind {
            NodeKind::Transpose(x, perm) => {
                views.push(View::Transpose(perm.clone()));
                at = *x;
            }
            NodeKind::Index(x, items) => {
                views.push(View::Index(items.clone()));
                at = *x;
            }
            _ => break,
        }
    }
    views.reverse();
    (base, views)
}

/// The kernel of a group.
fn lower_group(graph: &Graph, group: Group, buffers: &Buffers) -> Step {
    let Group { frame, roots, reads, reductions, reason, .. } = group;
    let builder = Builder::kernel(frame.nest);
    let mut lowering = Lowering {
        graph,
        frame,
        reads,
        buffers,
        builder,
        operands: Vec::new(),
        operand_of: FxHashMap::default(),
        params: Vec::new(),
        terms: Vec::new(),
        numbering: Index::default(),
        folds: Vec::new(),
        fold_of: FxHashMap::default(),
        elements: Vec::new(),
        loop_index: 0,
    };
    let roots = lowering.explore(&roots, &reductions);
    match lowering.frame.nest {
        Nest::Rows => lowering.rows(&roots),
        Nest::Columns => lowering.columns(&roots),
    }
    let Lowering { builder, operands, params, frame, .. } = lowering;
    let axes = |range: std::ops::Range<usize>| range.map(|a| a as u8).collect();
    let rank = frame.domain.len();
    Step {
        work: Work::Kernel(builder.finish()),
        operands,
        params,
        outer: axes(0..frame.outer),
        reduced: axes(frame.outer..frame.outer + frame.reduced),
        inner: axes(frame.outer + frame.reduced..rank),
        domain: frame.domain,
        reason,
        together: None,
        fusible: None,
    }
}

/// The index of a [`Term`].
type TermId = u32;

/// A node with the axes of the domain along which its dimensions run.
struct Term {
    node: NodeId,
    axes: Axes,
    /// What it is computed from; nothing if it is loaded or folded.
    operands: SmallVec<[TermId; 3]>,
    /// True if it is loaded from the buffer of a node that another group stores.
    is_read: bool,
    phase: u32,
    /// The value, if it is known at this point: those of rows and parameters stay, those of elements go with the loop.
    value: Option<Value>,
    /// The loop that computes it first as an element, if there are several loops.
    first_loop: Option<u32>,
    scratch: Scratch,
}

/// Whether an element waits in scratch for later loops.
#[derive(Clone, Copy, PartialEq)]
enum Scratch {
    No,
    Wanted,
    Slot(u32),
}

/// A reduction that the kernel computes.
struct Fold {
    node: NodeId,
    operand: TermId,
    /// Its number in the kernel, once it is folded.
    index: Option<u32>,
}

struct Lowering<'a> {
    graph: &'a Graph,
    frame: Frame,
    /// What it reads of other groups, in order.
    reads: Vec<NodeId>,
    buffers: &'a Buffers,
    builder: Builder,
    operands: Vec<Access>,
    operand_of: FxHashMap<(Access, Level), u32>,
    params: Vec<ParamSource>,
    terms: Vec<Term>,
    numbering: Index,
    folds: Vec<Fold>,
    /// The folds by their node and the axes of their result.
    fold_of: FxHashMap<(NodeId, Axes), u32>,
    /// The terms with values of the open loop.
    elements: Vec<TermId>,
    loop_index: u32,
}

impl Lowering<'_> {
    // Finding the terms.

    /// Makes the terms of all that the kernel computes and loads; returns those of the roots.
    fn explore(&mut self, roots: &[(NodeId, Axes)], reductions: &[(NodeId, Axes)]) -> Vec<TermId> {
        let roots: Vec<TermId> = roots.iter().map(|(node, axes)| self.term(*node, axes)).collect();
        for (node, operand_axes) in reductions {
            if let NodeKind::Reduce(_, x, reduced) = &self.graph.node(*node).kind {
                let kept = |(i, _): &(usize, &u8)| !reduced.contains(&(*i as u8));
                let kept: Axes = operand_axes.iter().enumerate().filter(kept).map(|(_, a)| *a).collect();
                self.fold_of.insert((*node, kept), self.folds.len() as u32);
                let operand = self.term(*x, operand_axes);
                self.folds.push(Fold { node: *node, operand, index: None });
            }
        }
        let mut next = 0;
        while next < self.terms.len() {
            self.terms[next].operands = self.operands_of(next);
            next += 1;
        }
        self.number_phases();
        roots
    }

    /// The term of a node along these axes.
    fn term(&mut self, node: NodeId, axes: &Axes) -> TermId {
        let new = self.terms.len() as u32;
        let terms = &self.terms;
        let id = self.numbering.id_of(intern::hash(&(node, axes)), new, |id| {
            let term = &terms[id as usize];
            term.node == node && term.axes == *axes
        });
        if id == new {
            self.terms.push(Term {
                node,
                axes: axes.clone(),
                operands: SmallVec::new(),
                is_read: self.is_read(node),
                phase: 0,
                value: None,
                first_loop: None,
                scratch: Scratch::No,
            });
        }
        id
    }

    /// The terms that a term is computed from inside the kernel.
    fn operands_of(&mut self, term: usize) -> SmallVec<[TermId; 3]> {
        let mut operands = SmallVec::new();
        if self.terms[term].is_read {
            return operands;
        }
        let graph = self.graph;
        let axes = self.terms[term].axes.clone();
        let kind = &graph.node(self.terms[term].node).kind;
        match kind {
            NodeKind::Apply(_, args) => {
                for x in args {
                    operands.push(self.term(*x, &of_operand(&axes, graph.rank(*x))));
                }
            }
            NodeKind::Cast(x) => operands.push(self.term(*x, &axes)),
            NodeKind::Index(x, _) | NodeKind::Transpose(x, _) if !self.is_memory(*x) => {
                let base = base_of_views(graph, *x);
                if is_trivial_view(kind) {
                    operands.push(self.term(*x, &through_trivial_view(kind, &axes)));
                } else if graph.rank(base) == 0 {
                    operands.push(self.term(base, &Axes::new()));
                }
            }
            NodeKind::Index(..) | NodeKind::Transpose(..) => {}
            NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_) => {}
            NodeKind::Reduce(..) | NodeKind::Matmul(_) => {}
        }
        operands
    }

    fn is_read(&self, node: NodeId) -> bool {
        self.reads.binary_search(&node).is_ok()
    }

    /// True if a node, seen through views, is in memory.
    fn is_memory(&self, mut id: NodeId) -> bool {
        loop {
            if self.is_read(id) {
                return true;
            }
            match self.graph.node(id).kind {
                NodeKind::Input(_) => return true,
                NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => id = x,
                _ => return false,
            }
        }
    }

    /// The fold whose result a term is.
    fn fold_of(&self, term: &Term) -> Option<usize> {
        self.fold_of.get(&(term.node, term.axes.clone())).map(|i| *i as usize)
    }

    fn number_phases(&mut self) {
        if self.folds.is_empty() {
            return;
        }
        for id in self.operands_first() {
            let term = &self.terms[id as usize];
            let phase = match self.graph.node(term.node).kind {
                _ if term.is_read => 0,
                NodeKind::Reduce(..) => self.fold_of(term).map_or(0, |f| self.phase(self.folds[f].operand) + 1),
                _ => term.operands.iter().map(|x| self.phase(*x)).max().unwrap_or(0),
            };
            self.terms[id as usize].phase = phase;
        }
    }

    /// All terms, each after those that it is computed from.
    fn operands_first(&self) -> Vec<TermId> {
        let mut order: Vec<TermId> = (0..self.terms.len() as u32).collect();
        order.sort_unstable_by_key(|id| self.terms[*id as usize].node);
        order
    }

    fn phase(&self, term: TermId) -> u32 {
        self.terms[term as usize].phase
    }

    // The stages.

    fn rows(&mut self, roots: &[TermId]) {
        if self.folds.is_empty() {
            self.frame.outer = self.row_axes();
        }
        let (mut elements, mut rows): (Vec<TermId>, Vec<TermId>) = roots.iter().partition(|r| self.is_element(**r));
        let mut folds: Vec<usize> = (0..self.folds.len()).collect();
        // Each in the order of its loop.
        folds.sort_by_key(|f| (self.phase(self.folds[*f].operand), self.folds[*f].node));
        elements.sort_by_key(|r| self.phase(*r));
        rows.sort_by_key(|r| self.phase(*r));
        let last_fold = folds.last().map(|f| self.folds[*f].operand);
        let loops = last_fold.iter().chain(elements.last()).map(|t| self.phase(*t) + 1).max().unwrap_or(0);
        self.plan_scratch(&folds, &elements, loops);
        let (mut folds, mut elements, mut rows) =
            (folds.into_iter().peekable(), elements.into_iter().peekable(), rows.into_iter().peekable());
        for p in 0..=loops {
            // The row stage before loop `p`: results of the loops so far.
            while let Some(root) = rows.next_if(|r| self.phase(*r) == p) {
                self.store(root, Level::Row);
            }
            if p == loops {
                break;
            }
            self.open_loop(p);
            while let Some(fold) = folds.next_if(|f| self.phase(self.folds[*f].operand) == p) {
                self.fold(fold);
            }
            while let Some(root) = elements.next_if(|r| self.phase(*r) == p) {
                self.store(root, Level::Inner);
            }
            self.builder.stage(StageKind::Row);
            self.forget_elements();
        }
    }

    fn columns(&mut self, roots: &[TermId]) {
        self.open_loop(0);
        for fold in 0..self.folds.len() {
            self.fold(fold);
        }
        self.open_loop(1);
        // There are no rows after the folding: all but the parameters is computed anew.
        for term in &mut self.terms {
            if !matches!(self.graph.node(term.node).kind, NodeKind::Const(_) | NodeKind::Size(_)) {
                term.value = None;
            }
        }
        for root in roots {
            self.store(*root, Level::Inner);
        }
    }

    fn open_loop(&mut self, index: u32) {
        self.builder.stage(StageKind::Loop);
        self.loop_index = index;
        self.forget_elements();
    }

    fn forget_elements(&mut self) {
        for term in self.elements.drain(..) {
            self.terms[term as usize].value = None;
        }
    }

    fn fold(&mut self, fold: usize) {
        let Fold { node, operand, .. } = self.folds[fold];
        if let NodeKind::Reduce(reducer, ..) = self.graph.node(node).kind {
            let value = self.value(operand);
            self.folds[fold].index = Some(self.builder.reduce(reducer, value));
        }
    }

    fn store(&mut self, root: TermId, level: Level) {
        let value = self.value(root);
        let Term { node, ref axes, .. } = self.terms[root as usize];
        let operand = self.builder.operand(self.builder.dtype(value), Role::Out, level);
        let buffer = self.buffers.written(node);
        self.operands.push(Access { buffer, views: SmallVec::new(), axes: axes.clone() });
        self.builder.store(operand, value);
    }

    /// True if axes reach into the inner ones; a root with no axes is an element of a kernel that folds nothing.
    fn is_element(&self, root: TermId) -> bool {
        let axes = &self.terms[root as usize].axes;
        axes.len() == self.frame.domain.len() && (self.folds.is_empty() || axes.len() > self.frame.outer)
    }

    /// How many axes of a kernel without reductions become rows: those along which inputs vary that do not vary along
    /// the last one, so that what depends on these alone is computed once a row.
    fn row_axes(&self) -> usize {
        let rank = self.frame.domain.len();
        if rank < 2 {
            return 0;
        }
        let mut outer = 0;
        for term in &self.terms {
            let is_view =
                |kind: &NodeKind| matches!(kind, NodeKind::Input(_) | NodeKind::Index(..) | NodeKind::Transpose(..));
            if term.is_read || is_view(&self.graph.node(term.node).kind) {
                let (last, varies) = self.varying(term).fold((None, false), |(last, inner), a| {
                    (last.max(Some(a as usize)), inner || a as usize == rank - 1)
                });
                if !varies {
                    outer = outer.max(last.map_or(0, |a| a + 1));
                }
            }
        }
        outer
    }

    /// The axes along which a term really varies: those of its dimensions that are not 1.
    fn varying<'t>(&'t self, term: &'t Term) -> impl Iterator<Item = u8> + 't {
        let shape = &self.graph.node(term.node).shape;
        term.axes.iter().zip(shape).filter(|(_, d)| !self.graph.dims.is_one(**d)).map(|(a, _)| *a)
    }

    /// Finds the elements that more than one loop computes, and marks the costly ones for scratch. `folds` and
    /// `elements` are in the order of their loops.
    fn plan_scratch(&mut self, folds: &[usize], elements: &[TermId], loops: u32) {
        if loops < 2 {
            return;
        }
        let cost = self.inline_costs();
        let roots = folds.iter().map(|f| &self.folds[*f].operand).chain(elements);
        let mut roots: Vec<(u32, TermId)> = roots.map(|r| (self.phase(*r), *r)).collect();
        roots.sort_unstable();
        // The last loop that has visited each term.
        let mut visited: Vec<Option<u32>> = vec![None; self.terms.len()];
        for roots in roots.chunk_by(|a, b| a.0 == b.0) {
            let p = roots[0].0;
            let mut stack: Vec<TermId> = roots.iter().map(|(_, root)| *root).collect();
            while let Some(id) = stack.pop() {
                if visited[id as usize].replace(p) == Some(p) {
                    continue;
                }
                if !self.varying(&self.terms[id as usize]).any(|a| a as usize >= self.frame.outer) {
                    continue;
                }
                let term = &mut self.terms[id as usize];
                match term.first_loop {
                    Some(first) if first < p && cost[id as usize] >= SCRATCH_COST => {
                        term.scratch = Scratch::Wanted;
                        continue;
                    }
                    Some(_) => {}
                    None => term.first_loop = Some(p),
                }
                stack.extend(&term.operands);
            }
        }
    }

    /// The primitives that computing each term takes, down to loads and reductions.
    fn inline_costs(&self) -> Vec<u32> {
        let mut costs = vec![0u32; self.terms.len()];
        for id in self.operands_first() {
            let term = &self.terms[id as usize];
            let own = match self.graph.node(term.node).kind {
                _ if term.is_read => 0,
                NodeKind::Apply(op, _) => op_cost(op),
                NodeKind::Cast(_) => 1,
                _ => 0,
            };
            let below = term.operands.iter().fold(own, |sum, x| sum.saturating_add(costs[*x as usize]));
            costs[id as usize] = below;
        }
        costs
    }

    // Values.

    /// The value of a term in the open stage. Depth first with a stack of its own: expressions may be very deep.
    fn value(&mut self, term: TermId) -> Value {
        let mut stack: Vec<TermId> = vec![term];
        loop {
            let id = stack[stack.len() - 1];
            let mut value = self.terms[id as usize].value;
            if value.is_none() {
                // The first operand on top, so that loads are numbered as they are written.
                let before = stack.len();
                let missing = |x: &&TermId| self.terms[**x as usize].value.is_none();
                stack.extend(self.terms[id as usize].operands.iter().rev().filter(missing));
                if stack.len() == before {
                    value = Some(self.compute(id));
                    self.remember(id, value);
                }
            }
            if let Some(value) = value {
                stack.pop();
                if stack.is_empty() {
                    return value;
                }
            }
        }
    }

    fn remember(&mut self, id: TermId, value: Option<Value>) {
        let term = &mut self.terms[id as usize];
        term.value = value;
        let Some(value) = value.filter(|v| self.builder.is_loop_value(*v)) else { return };
        self.elements.push(id);
        if term.scratch == Scratch::Wanted && term.first_loop == Some(self.loop_index) {
            let slot = self.builder.scratch(self.builder.dtype(value));
            term.scratch = Scratch::Slot(slot);
            self.builder.scratch_store(slot, value);
        }
    }

    /// The value of a term whose operands have values.
    fn compute(&mut self, id: TermId) -> Value {
        let term = &self.terms[id as usize];
        if let Scratch::Slot(slot) = term.scratch
            && term.first_loop.is_some_and(|first| first < self.loop_index)
        {
            return self.builder.scratch_load(slot);
        }
        if term.is_read {
            return self.load(id);
        }
        let mut operands: SmallVec<[Value; 3]> =
            term.operands.iter().filter_map(|x| self.terms[*x as usize].value).collect();
        let node = self.graph.node(term.node);
        match &node.kind {
            NodeKind::Const(literal) => {
                self.params.push(ParamSource::Const(*literal));
                self.builder.param(literal.dtype())
            }
            NodeKind::Size(dims) => {
                self.params.push(ParamSource::Size(dims.clone()));
                self.builder.param(DType::I64)
            }
            NodeKind::Input(_) => self.load(id),
            NodeKind::Index(..) | NodeKind::Transpose(..) => match *operands {
                [x] => x,
                _ => self.load(id),
            },
            NodeKind::Cast(_) => self.builder.cast(operands[0], node.dtype),
            NodeKind::Reduce(..) => match self.fold_of(term).and_then(|f| self.folds[f].index) {
                Some(index) => self.builder.reduced(index),
                None => unreachable!("fusion placed {} in this kernel", term.node),
            },
            NodeKind::Matmul(_) => unreachable!("{} is no part of a kernel", term.node),
            NodeKind::Apply(op, args) => {
                let OpKind::Elementwise(body) = op.def().kind else { unreachable!("{op} is elementwise") };
                if let Some(constant) = args.get(1).and_then(|a| small_constant(self.graph, *op, *a)) {
                    operands[1] = self.builder.constant(constant);
                }
                let value = body(&mut self.builder, &operands);
                debug_assert_eq!(self.builder.dtype(value), node.dtype, "the body of {op} returns another dtype");
                value
            }
        }
    }

    /// Loads a term that is in memory, or a view of one.
    fn load(&mut self, id: TermId) -> Value {
        let term = &self.terms[id as usize];
        let (base, views) = through_views(self.graph, term.node, &self.reads);
        let inner = self.frame.outer + self.frame.reduced;
        let along_inner = self.varying(term).any(|a| a as usize >= inner);
        // After the folding, a column kernel has no rows: everything there belongs to a column.
        let level = if along_inner || (self.frame.nest == Nest::Columns && self.loop_index == 1) {
            Level::Inner
        } else {
            Level::Row
        };
        let access = Access { buffer: self.buffers.read(self.graph, base), views, axes: term.axes.clone() };
        let operand = *self.operand_of.entry((access, level)).or_insert_with_key(|(access, level)| {
            self.operands.push(access.clone());
            self.builder.operand(self.graph.node(term.node).dtype, Role::In, *level)
        });
        self.builder.load(operand)
    }
}

/// The constant second operand that an op's body makes use of, rather than a parameter: small integer powers and shift
/// counts. There are few of them, so they do not multiply kernels.
fn small_constant(graph: &Graph, op: Op, arg: NodeId) -> Option<Literal> {
    if !matches!(op, Op::POW | Op::LEFT_SHIFT | Op::RIGHT_SHIFT) {
        return None;
    }
    let literal = graph.as_const(arg)?;
    let is_half = op == Op::POW && literal.dtype().is_float() && literal.as_f64().abs() == 0.5;
    (is_half || literal.as_exact_i64().is_some_and(|k| k.abs() <= SMALL)).then_some(literal)
}
