//! A group of nodes to a kernel: places loads, bodies, reductions and stores in stages, and says what each memory
//! operand and parameter is.
//!
//! Loops are numbered by *phase*: a value that uses no reduction has phase 0, a reduction's result has one more than
//! its operand. Loop `p` folds the reductions whose operands have phase `p` and stores the elements of phase `p`. A
//! costly element that a later loop needs again waits in row-sized scratch; a cheap one is computed again. What does
//! not vary along the inner axes leaves the loops by itself, in [`Builder`].

use super::{Builder, Level, Nest, Role, StageKind, Value};
use crate::dtype::DType;
use crate::fuse::{Axes, Frame, Group, base_of_views, is_trivial_view, of_operand, op_cost, through_trivial_view};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::literal::Literal;
use crate::ops::{Op, OpKind};
use crate::plan::{Access, Buffer, BufferId, BufferKind, ParamSource, Plan, Step, View};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// From this many primitives on, an element that several loops need is kept in scratch.
const SCRATCH_COST: u32 = 12;

/// Integer exponents and counts up to this are constants of the kernel: the body of `pow` has products for them.
const SMALL: i64 = 64;

type Key = (NodeId, Axes);

/// The plan of a graph: a kernel for each group, in their order, and the buffers between them.
pub fn lower(graph: Graph, groups: &[Group]) -> Plan {
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut buffer_of: FxHashMap<NodeId, BufferId> = FxHashMap::default();
    let mut add = |node: NodeId, kind: BufferKind, buffers: &mut Vec<Buffer>| -> BufferId {
        *buffer_of.entry(node).or_insert_with(|| {
            let found = graph.node(node);
            buffers.push(Buffer { kind, dtype: found.dtype, shape: found.shape.clone(), first: usize::MAX, last: 0 });
            BufferId(buffers.len() as u32 - 1)
        })
    };
    // An output that is an input is a copy of it, in a buffer of its own; loads of the input go to the input's.
    let outputs: Vec<BufferId> =
        graph.outputs.iter().enumerate().map(|(i, o)| add(*o, BufferKind::Output(i as u32), &mut buffers)).collect();
    let guards: Vec<BufferId> =
        graph.guards.iter().enumerate().map(|(i, g)| add(g.node, BufferKind::Guard(i as u32), &mut buffers)).collect();
    for group in groups {
        for (root, _) in &group.roots {
            add(*root, BufferKind::Temp, &mut buffers);
        }
    }
    let mut input_buffers: FxHashMap<NodeId, BufferId> = FxHashMap::default();
    for (i, input) in graph.inputs().iter().enumerate() {
        let node = graph.node(input.node);
        buffers.push(Buffer {
            kind: BufferKind::Input(i as u32),
            dtype: node.dtype,
            shape: node.shape.clone(),
            first: usize::MAX,
            last: 0,
        });
        input_buffers.insert(input.node, BufferId(buffers.len() as u32 - 1));
    }
    let mut steps = Vec::with_capacity(groups.len());
    for group in groups {
        let step = lower_group(
            &graph,
            group,
            |read| input_buffers.get(&read).copied().unwrap_or_else(|| buffer_of[&read]),
            |root| buffer_of[&root],
        );
        for access in &step.operands {
            let buffer = &mut buffers[access.buffer.index()];
            buffer.first = buffer.first.min(steps.len());
            buffer.last = buffer.last.max(steps.len());
        }
        steps.push(step);
    }
    Plan { graph, buffers, steps, outputs, guards }
}

/// The kernel of a group. `read` gives the buffer of an input or of a stored node of another group, `write` that of
/// a root.
fn lower_group(
    graph: &Graph,
    group: &Group,
    read: impl Fn(NodeId) -> BufferId,
    write: impl Fn(NodeId) -> BufferId,
) -> Step {
    let mut lowering = Lowering {
        graph,
        group,
        frame: group.frame.clone(),
        read: &read,
        builder: Builder::kernel(group.frame.nest),
        operands: Vec::new(),
        operand_of: FxHashMap::default(),
        params: Vec::new(),
        param_of: FxHashMap::default(),
        rows: FxHashMap::default(),
        elements: FxHashMap::default(),
        reductions: FxHashMap::default(),
        reads: group.reads.iter().copied().collect(),
        first_loop: FxHashMap::default(),
        scratch: FxHashMap::default(),
        loop_index: 0,
    };
    match group.frame.nest {
        Nest::Rows => lowering.rows(&write),
        Nest::Columns => lowering.columns(&write),
    }
    let Lowering { builder, operands, params, frame, .. } = lowering;
    let axes = |range: std::ops::Range<usize>| range.map(|a| a as u8).collect();
    let rank = frame.domain.len();
    Step {
        kernel: builder.finish(),
        operands,
        params,
        outer: axes(0..frame.outer),
        reduced: axes(frame.outer..frame.outer + frame.reduced),
        inner: axes(frame.outer + frame.reduced..rank),
        domain: frame.domain,
        reason: group.reason.clone(),
    }
}

struct Lowering<'a> {
    graph: &'a Graph,
    group: &'a Group,
    frame: Frame,
    read: &'a dyn Fn(NodeId) -> BufferId,
    builder: Builder,
    operands: Vec<Access>,
    operand_of: FxHashMap<(Access, Level), u32>,
    params: Vec<ParamSource>,
    param_of: FxHashMap<NodeId, Value>,
    /// Values of row stages, good in every later stage.
    rows: FxHashMap<Key, Value>,
    /// Values of the open loop.
    elements: FxHashMap<Key, Value>,
    /// The index of each reduction that has been folded.
    reductions: FxHashMap<Key, u32>,
    reads: FxHashSet<NodeId>,
    /// The loop that computes an element first, and the scratch slots of those that later loops need.
    first_loop: FxHashMap<Key, u32>,
    scratch: FxHashMap<Key, Option<u32>>,
    loop_index: u32,
}

impl Lowering<'_> {
    fn rows(&mut self, write: &dyn Fn(NodeId) -> BufferId) {
        let roots = self.group.roots.clone();
        if self.group.reductions.is_empty() {
            self.frame.outer = self.row_axes();
        }
        let phases = self.phases();
        let phase = |id: NodeId| phases.get(&id).copied().unwrap_or(0);
        let folds: Vec<(NodeId, NodeId, Axes)> = {
            let mut folds: Vec<(NodeId, NodeId, Axes)> = Vec::new();
            for (id, operand_axes) in &self.group.reductions {
                if let NodeKind::Reduce(_, x, _) = &self.graph.node(*id).kind {
                    folds.push((*id, *x, operand_axes.clone()));
                }
            }
            folds.sort_by_key(|f| f.0);
            folds.dedup();
            folds
        };
        let (per_element, per_row): (Vec<Key>, Vec<Key>) =
            roots.into_iter().partition(|(_, axes)| self.is_element(axes));
        let loops = folds
            .iter()
            .map(|(_, x, _)| phase(*x) + 1)
            .chain(per_element.iter().map(|(r, _)| phase(*r) + 1))
            .max()
            .unwrap_or(0);
        self.plan_scratch(&folds, &per_element, &phases, loops);
        for p in 0..=loops {
            // The row stage before loop `p`: results of the loops so far.
            for (root, axes) in per_row.iter().filter(|(r, _)| phase(*r) == p) {
                let value = self.value(*root, axes);
                self.store(*root, axes, value, Level::Row, write);
            }
            if p == loops {
                break;
            }
            self.builder.stage(StageKind::Loop);
            self.loop_index = p;
            self.elements.clear();
            for (id, x, axes) in folds.iter().filter(|(_, x, _)| phase(*x) == p) {
                let value = self.value(*x, axes);
                self.fold(*id, axes, value);
            }
            for (root, axes) in per_element.iter().filter(|(r, _)| phase(*r) == p) {
                let value = self.value(*root, axes);
                self.store(*root, axes, value, Level::Inner, write);
            }
            self.builder.stage(StageKind::Row);
            self.elements.clear();
        }
    }

    fn columns(&mut self, write: &dyn Fn(NodeId) -> BufferId) {
        self.builder.stage(StageKind::Loop);
        for (id, axes) in self.group.reductions.clone() {
            if let NodeKind::Reduce(_, x, _) = self.graph.node(id).kind {
                let value = self.value(x, &axes);
                self.fold(id, &axes, value);
            }
        }
        self.builder.stage(StageKind::Loop);
        self.loop_index = 1;
        self.elements.clear();
        self.rows.clear();
        for (root, axes) in &self.group.roots {
            let value = self.value(*root, axes);
            self.store(*root, axes, value, Level::Inner, write);
        }
    }

    fn fold(&mut self, id: NodeId, operand_axes: &Axes, value: Value) {
        if let NodeKind::Reduce(reducer, _, reduced) = &self.graph.node(id).kind {
            let index = self.builder.reduce(*reducer, value);
            let kept: Axes = operand_axes
                .iter()
                .enumerate()
                .filter(|(i, _)| !reduced.contains(&(*i as u8)))
                .map(|(_, a)| *a)
                .collect();
            self.reductions.insert((id, kept), index);
        }
    }

    fn store(&mut self, root: NodeId, axes: &Axes, value: Value, level: Level, write: &dyn Fn(NodeId) -> BufferId) {
        let access = Access { buffer: write(root), views: SmallVec::new(), axes: axes.clone() };
        let operand = self.builder.operand(self.builder.dtype(value), Role::Out, level);
        self.operands.push(access);
        self.builder.store(operand, value);
    }

    /// True if axes reach into the inner ones; a root with no axes is an element of a kernel that folds nothing.
    fn is_element(&self, axes: &[u8]) -> bool {
        axes.len() == self.frame.domain.len() && (self.group.reductions.is_empty() || axes.len() > self.frame.outer)
    }

    /// How many axes of a kernel without reductions become rows: those along which inputs vary that do not vary along
    /// the last one, so that what depends on these alone is computed once a row.
    fn row_axes(&self) -> usize {
        let last = self.frame.domain.len().wrapping_sub(1) as u8;
        let mut outer = 0;
        self.visit(self.group.roots.clone(), |id, axes| {
            let node = self.graph.node(id);
            let is_leaf = self.reads.contains(&id)
                || matches!(node.kind, NodeKind::Input(_) | NodeKind::Index(..) | NodeKind::Transpose(..));
            if is_leaf {
                let varies = self.varying(id, axes);
                if !varies.contains(&last) {
                    outer = outer.max(varies.iter().max().map_or(0, |a| *a as usize + 1));
                }
            }
            true
        });
        outer
    }

    /// The axes along which a node really varies: those of its dimensions that are not 1.
    fn varying(&self, id: NodeId, axes: &[u8]) -> Axes {
        let shape = &self.graph.node(id).shape;
        axes.iter().zip(shape).filter(|(_, d)| !self.graph.dims.is_one(**d)).map(|(a, _)| *a).collect()
    }

    /// What a node is computed from inside the kernel, with axes; empty for loads.
    fn children(&self, id: NodeId, axes: &Axes) -> SmallVec<[Key; 3]> {
        if self.reads.contains(&id) {
            return SmallVec::new();
        }
        let node = self.graph.node(id);
        match &node.kind {
            NodeKind::Apply(..) | NodeKind::Cast(_) => {
                node.operands().iter().map(|x| (*x, of_operand(axes, self.graph.rank(*x)))).collect()
            }
            NodeKind::Index(x, _) | NodeKind::Transpose(x, _) if !self.is_memory(*x) => {
                let base = base_of_views(self.graph, *x);
                if is_trivial_view(&node.kind) {
                    SmallVec::from_elem((*x, through_trivial_view(&node.kind, axes)), 1)
                } else if self.graph.rank(base) == 0 {
                    SmallVec::from_elem((base, Axes::new()), 1)
                } else {
                    SmallVec::new()
                }
            }
            _ => SmallVec::new(),
        }
    }

    /// True if a node, seen through views, is in memory.
    fn is_memory(&self, mut id: NodeId) -> bool {
        loop {
            if self.reads.contains(&id) {
                return true;
            }
            match self.graph.node(id).kind {
                NodeKind::Input(_) => return true,
                NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => id = x,
                _ => return false,
            }
        }
    }

    /// Visits what is computed and loaded for these keys, each once, operands of reductions included; goes below a
    /// node if `visit` says so.
    fn visit(&self, keys: Vec<Key>, mut visit: impl FnMut(NodeId, &Axes) -> bool) {
        let mut stack = keys;
        let mut seen: FxHashSet<Key> = FxHashSet::default();
        while let Some((id, axes)) = stack.pop() {
            if seen.insert((id, axes.clone())) && visit(id, &axes) {
                stack.extend(self.children(id, &axes));
            }
        }
    }

    /// The phase of each node that uses a reduction; of all others it is 0.
    fn phases(&self) -> FxHashMap<NodeId, u32> {
        let folded: FxHashSet<NodeId> = self.group.reductions.iter().map(|r| r.0).collect();
        let mut phases: FxHashMap<NodeId, u32> = FxHashMap::default();
        let mut all: Vec<NodeId> = Vec::new();
        let keys = self.group.roots.iter().cloned().chain(self.group.reductions.iter().filter_map(|(id, axes)| {
            match self.graph.node(*id).kind {
                NodeKind::Reduce(_, x, _) => Some((x, axes.clone())),
                _ => None,
            }
        }));
        self.visit(keys.collect(), |id, _| {
            all.push(id);
            true
        });
        all.sort_unstable();
        all.dedup();
        for id in all {
            let node = self.graph.node(id);
            let below = node
                .operands()
                .iter()
                .filter_map(|x| phases.get(x).or_else(|| phases.get(&base_of_views(self.graph, *x))))
                .max()
                .copied()
                .unwrap_or(0);
            let phase = if self.reads.contains(&id) {
                0
            } else if folded.contains(&id) {
                below + 1
            } else {
                below
            };
            if phase > 0 {
                phases.insert(id, phase);
            }
        }
        phases
    }

    /// Finds the elements that more than one loop computes, and marks the costly ones for scratch.
    fn plan_scratch(
        &mut self,
        folds: &[(NodeId, NodeId, Axes)],
        per_element: &[Key],
        phases: &FxHashMap<NodeId, u32>,
        loops: u32,
    ) {
        if loops < 2 {
            return;
        }
        let phase = |id: NodeId| phases.get(&id).copied().unwrap_or(0);
        let mut first_loop: FxHashMap<Key, u32> = FxHashMap::default();
        let mut scratch: FxHashMap<Key, Option<u32>> = FxHashMap::default();
        let mut cost: FxHashMap<NodeId, u32> = FxHashMap::default();
        for p in 0..loops {
            let keys: Vec<Key> = folds
                .iter()
                .filter(|(_, x, _)| phase(*x) == p)
                .map(|(_, x, axes)| (*x, axes.clone()))
                .chain(per_element.iter().filter(|(r, _)| phase(*r) == p).cloned())
                .collect();
            self.visit(keys, |id, axes| {
                let varies = self.varying(id, axes);
                if !varies.iter().any(|a| *a as usize >= self.frame.outer) {
                    return false;
                }
                let key = (id, axes.clone());
                match first_loop.get(&key) {
                    Some(first) if *first < p && self.inline_cost(id, &mut cost) >= SCRATCH_COST => {
                        scratch.insert(key, None);
                        false
                    }
                    Some(_) => true,
                    None => {
                        first_loop.insert(key, p);
                        true
                    }
                }
            });
        }
        self.first_loop = first_loop;
        self.scratch = scratch;
    }

    /// The primitives that computing a node takes, down to loads and reductions.
    fn inline_cost(&self, id: NodeId, known: &mut FxHashMap<NodeId, u32>) -> u32 {
        let mut stack = vec![id];
        while let Some(&here) = stack.last() {
            let node = self.graph.node(here);
            let stops = self.reads.contains(&here)
                || !matches!(node.kind, NodeKind::Apply(..) | NodeKind::Cast(_) | NodeKind::Index(..));
            if stops {
                known.insert(here, 0);
            }
            if known.contains_key(&here) {
                stack.pop();
                continue;
            }
            let operands = node.operands();
            let missing: Vec<NodeId> = operands.iter().copied().filter(|x| !known.contains_key(x)).collect();
            if missing.is_empty() {
                let own = match node.kind {
                    NodeKind::Apply(op, _) => op_cost(op),
                    NodeKind::Cast(_) => 1,
                    _ => 0,
                };
                let below = operands.iter().fold(own, |sum, x| sum.saturating_add(known[x]));
                known.insert(here, below);
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        known[&id]
    }

    /// The value of a node in the open stage. Depth first with a stack of its own: expressions may be very deep.
    fn value(&mut self, id: NodeId, axes: &Axes) -> Value {
        let mut stack: Vec<Key> = vec![(id, axes.clone())];
        let mut last = None;
        while let Some(key) = stack.last().cloned() {
            if let Some(known) = self.known(&key) {
                last = Some(known);
                stack.pop();
                continue;
            }
            let children = self.children(key.0, &key.1);
            let missing: SmallVec<[Key; 3]> = children.iter().filter(|c| self.known(c).is_none()).cloned().collect();
            if !missing.is_empty() {
                // The first operand on top, so that loads are numbered as they are written.
                stack.extend(missing.into_iter().rev());
                continue;
            }
            let operands: SmallVec<[Value; 3]> = children.iter().filter_map(|c| self.known(c)).collect();
            let value = self.compute(&key, &operands);
            self.remember(key, value);
            last = Some(value);
            stack.pop();
        }
        last.unwrap_or(Value(0))
    }

    fn known(&self, key: &Key) -> Option<Value> {
        if let Some(v) = self.rows.get(key).or_else(|| self.elements.get(key)) {
            return Some(*v);
        }
        self.param_of.get(&key.0).copied()
    }

    fn remember(&mut self, key: Key, value: Value) {
        let first_here = self.first_loop.get(&key) == Some(&self.loop_index);
        let is_loop = self.builder.is_loop_value(value);
        if is_loop
            && first_here
            && let Some(slot @ None) = self.scratch.get_mut(&key)
        {
            let index = self.builder.scratch(self.builder.dtype(value));
            *slot = Some(index);
            self.builder.scratch_store(index, value);
        }
        if is_loop {
            self.elements.insert(key, value)
        } else {
            self.rows.insert(key, value)
        };
    }

    /// The value of a node whose operands have values.
    fn compute(&mut self, key: &Key, operands: &[Value]) -> Value {
        let (id, axes) = key;
        if let Some(Some(slot)) = self.scratch.get(key)
            && self.first_loop.get(key).is_some_and(|first| *first < self.loop_index)
        {
            return self.builder.scratch_load(*slot);
        }
        let node = self.graph.node(*id);
        if self.reads.contains(id) {
            return self.load(*id, axes);
        }
        match &node.kind {
            NodeKind::Const(literal) => {
                let value = self.builder.param(literal.dtype());
                self.params.push(ParamSource::Const(*literal));
                self.param_of.insert(*id, value);
                value
            }
            NodeKind::Size(dims) => {
                let value = self.builder.param(DType::I64);
                self.params.push(ParamSource::Size(dims.clone()));
                self.param_of.insert(*id, value);
                value
            }
            NodeKind::Input(_) => self.load(*id, axes),
            NodeKind::Index(..) | NodeKind::Transpose(..) => match operands {
                [x] => *x,
                _ => self.load(*id, axes),
            },
            NodeKind::Cast(_) => self.builder.cast(operands[0], node.dtype),
            NodeKind::Reduce(..) => match self.reductions.get(key) {
                Some(index) => self.builder.reduced(*index),
                None => unreachable!("fusion placed {id} in this kernel"),
            },
            NodeKind::Apply(op, args) => {
                let OpKind::Elementwise(body) = op.def().kind else { unreachable!("{op} is elementwise") };
                let mut operands: SmallVec<[Value; 3]> = operands.into();
                if let Some(constant) = args.get(1).and_then(|a| small_constant(self.graph, *op, *a)) {
                    operands[1] = self.builder.constant(constant);
                }
                let value = body(&mut self.builder, &operands);
                debug_assert_eq!(self.builder.dtype(value), node.dtype, "the body of {op} returns another dtype");
                value
            }
        }
    }

    /// Loads a node that is in memory, or a view of one.
    fn load(&mut self, id: NodeId, axes: &Axes) -> Value {
        let mut views: SmallVec<[View; 1]> = SmallVec::new();
        let mut base = id;
        while !self.reads.contains(&base) {
            match &self.graph.node(base).kind {
                NodeKind::Transpose(x, perm) => {
                    views.push(View::Transpose(perm.clone()));
                    base = *x;
                }
                NodeKind::Index(x, items) => {
                    views.push(View::Index(items.clone()));
                    base = *x;
                }
                _ => break,
            }
        }
        views.reverse();
        let access = Access { buffer: (self.read)(base), views, axes: axes.clone() };
        let inner = self.frame.outer + self.frame.reduced;
        let along_inner = self.varying(id, axes).iter().any(|a| *a as usize >= inner);
        // After the folding, a column kernel has no rows: everything there belongs to a column.
        let level = if along_inner || (self.frame.nest == Nest::Columns && self.loop_index == 1) {
            Level::Inner
        } else {
            Level::Row
        };
        let dtype = self.graph.node(id).dtype;
        let operand = match self.operand_of.get(&(access.clone(), level)) {
            Some(known) => *known,
            None => {
                let operand = self.builder.operand(dtype, Role::In, level);
                self.operands.push(access.clone());
                self.operand_of.insert((access, level), operand);
                operand
            }
        };
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
