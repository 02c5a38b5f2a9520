//! Folding the elements of a loop, in the order that [`numfuse_core::kernel::reduce`] fixes for rows.
//!
//! The states of a leaf's lanes live in a stack slot for each component, 256 bytes each. A short body first runs
//! *passes* over the leaf, each of which keeps a few lanes in registers and visits their elements only; then (or from
//! the beginning, for long bodies and for reductions with different lane counts in one loop) the elements are visited
//! in order, with the states in memory; the last few run through the scalar body. Lanes then merge: as vectors where
//! all lanes are in use or unused ones do not matter (their state is an exact identity of the merge), one by one
//! otherwise. Leaves merge in their own phase.

use super::body::{Loop, ScalarValues, VectorValues};
use super::vector::{Lanes, Parts, Vector, part_count};
use super::{Analysis, Gen, STATE_WORD, field};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder, StackSlot, StackSlotData, StackSlotKind, types};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::reduce::{self, State};
use numfuse_core::kernel::{Body, Kernel, Nest, Reduction};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// Elements of a leaf.
const LEAF: usize = reduce::leaf(Nest::Rows);
/// Above this many instructions, a body is not emitted a third time for passes.
const PASS_LIMIT: usize = 16;
/// A pass visits so many elements of each lane before the next pass begins.
const PASS_BLOCK: usize = 4;
/// Merges of more instructions than this are emitted as a loop over lanes.
const UNROLLED_MERGE: usize = 3;

/// One reduction while its loop is emitted.
pub(super) struct Fold<'k> {
    pub reduction: &'k Reduction,
    pub init: State<Literal>,
    pub step: Body,
    pub merge: Body,
    /// Its first component among all states.
    pub component: usize,
    lanes: usize,
    /// The lanes of each component.
    slots: SmallVec<[StackSlot; 2]>,
}

impl<'k> Fold<'k> {
    pub fn new(kernel: &'k Kernel, analysis: &Analysis, index: usize) -> Fold<'k> {
        let reduction = &kernel.reductions[index];
        let (reducer, dtype) = (reduction.reducer, reduction.dtype);
        Fold {
            reduction,
            init: reducer.init(dtype),
            step: reducer.step(dtype),
            merge: reducer.merge(dtype),
            component: analysis.components[index],
            lanes: reduce::lanes(kernel.nest, dtype),
            slots: SmallVec::new(),
        }
    }

    pub fn dtype(&self) -> DType {
        self.reduction.dtype
    }

    fn allocate(&mut self, g: &mut Gen<'_>) {
        let bytes = (self.lanes * self.dtype().size()) as u32;
        for _ in &self.init {
            let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4);
            self.slots.push(g.b.create_sized_stack_slot(slot));
        }
    }

    /// Where a component of lane `lane` is.
    fn lane_address(&self, g: &mut Gen<'_>, component: usize, lane: ir::Value) -> ir::Value {
        let base = g.b.ins().stack_addr(types::I64, self.slots[component], 0);
        let offset = g.b.ins().imul_imm_u(lane, self.dtype().size() as i64);
        g.b.ins().iadd(base, offset)
    }

    /// A count of elements as the reduction's dtype.
    pub fn count(&self, g: &mut Gen<'_>, count: ir::Value) -> ir::Value {
        g.scalar_cast(DType::I64, self.dtype(), count)
    }

    /// One step on vectors. `count` is the number of elements folded into each lane, this one included.
    pub fn step_vectors(
        &self,
        g: &mut Gen<'_>,
        state: &[Vector],
        x: Lanes,
        count: ir::Value,
        lanes: usize,
    ) -> SmallVec<[Vector; 2]> {
        let mut args: SmallVec<[Lanes; 4]> = state.iter().cloned().map(Lanes::from).collect();
        args.push(x);
        if self.reduction.reducer.counts() {
            let count = self.count(g, count);
            args.push(Lanes { vector: g.splat(self.dtype(), count), scalar: Some(count), literal: None });
        }
        g.vector_inline(&self.step, &args, lanes)
    }

    /// One step on scalars.
    pub fn step_scalars(
        &self,
        g: &mut Gen<'_>,
        state: &[ir::Value],
        x: ir::Value,
        count: ir::Value,
    ) -> SmallVec<[ir::Value; 2]> {
        let mut args: SmallVec<[ir::Value; 4]> = SmallVec::from_slice(state);
        args.push(x);
        if self.reduction.reducer.counts() {
            args.push(self.count(g, count));
        }
        g.scalar_inline(&self.step, &args)
    }

    /// Merges two states; `counts` are the elements on either side.
    pub fn merge_scalars(
        &self,
        g: &mut Gen<'_>,
        left: &[ir::Value],
        right: &[ir::Value],
        counts: impl FnOnce(&mut Gen<'_>) -> (ir::Value, ir::Value),
    ) -> SmallVec<[ir::Value; 2]> {
        let mut args: SmallVec<[ir::Value; 6]> = left.iter().chain(right).copied().collect();
        if self.reduction.reducer.counts() {
            let (a, b) = counts(g);
            let (a, b) = (self.count(g, a), self.count(g, b));
            args.extend([a, b]);
        }
        g.scalar_inline(&self.merge, &args)
    }
}

/// Emits the leaves of a loop with reductions: from `begin` to `end`, the states going to the call's states.
pub(super) fn leaves(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    analysis: &Analysis,
    body: &mut Loop<'_>,
    lanes: usize,
    (begin, end): (ir::Value, ir::Value),
) {
    let mut folds: Vec<Fold<'_>> =
        kernel.reductions_of(body.stage).map(|(i, _)| Fold::new(kernel, analysis, i)).collect();
    for fold in &mut folds {
        fold.allocate(g);
    }
    if lanes > 1 {
        body.splat_uniforms(g);
    }
    let step = LEAF as i64;
    g.count_loop(begin, end, step, &[], |g, first, _| {
        let rest = g.b.ins().isub(end, first);
        let full = g.int(types::I64, step);
        let len = g.b.ins().umin(rest, full);
        leaf(g, kernel, body, &folds, lanes, first, len);
        let index = g.b.ins().ushr_imm_u(first, i64::from(LEAF.trailing_zeros()));
        let states = field!(g, states);
        let stride = field!(g, state_stride);
        for fold in &folds {
            for (c, slot) in fold.slots.iter().enumerate() {
                let lane = g.b.ins().stack_addr(types::I64, *slot, 0);
                let state = g.load_scalar(fold.dtype(), lane, 0);
                let offset = g.b.ins().imul_imm_u(stride, (fold.component + c) as i64);
                let base = g.b.ins().iadd(states, offset);
                let at = g.b.ins().imul_imm_u(index, STATE_WORD as i64);
                let address = g.b.ins().iadd(base, at);
                g.store_scalar(state, address);
            }
        }
        Vec::new()
    });
}

/// Emits one leaf; its state ends up in lane 0.
fn leaf(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    body: &Loop<'_>,
    folds: &[Fold<'_>],
    lanes: usize,
    first: ir::Value,
    len: ir::Value,
) {
    let stage = &kernel.stages[body.stage];
    let equal = folds.iter().all(|f| f.lanes == folds[0].lanes) && lanes <= folds[0].lanes;
    let mut done = g.int(types::I64, 0);
    clear(g, folds, lanes > 1);
    let insts = stage.values().count() + folds.iter().map(|f| f.step.insts.len()).sum::<usize>();
    if lanes > 1 && equal && insts <= PASS_LIMIT {
        done = passes(g, body, folds, lanes, first, len);
    }
    if lanes > 1 {
        let whole = g.b.ins().band_imm_s(len, -(lanes as i64));
        let ends = g.count_loop(done, whole, lanes as i64, &[done], |g, j, _| {
            let index = g.b.ins().iadd(first, j);
            let values = body.vector_body(g, index, lanes);
            step_memory(g, body, folds, &values, j, lanes);
            let next = g.b.ins().iadd_imm_u(j, lanes as i64);
            vec![next]
        });
        done = ends[0];
    }
    g.count_loop(done, len, 1, &[], |g, j, _| {
        let index = g.b.ins().iadd(first, j);
        let values = body.scalar_body(g, index);
        step_scalar_memory(g, body, folds, &values, j);
        Vec::new()
    });
    for fold in folds {
        merge_lanes(g, fold, lanes > 1, len);
    }
}

/// The passes over the elements that fill all lanes evenly; returns how many elements those are. They go over one
/// [`PASS_BLOCK`] after the other, since the hardware fetches memory ahead only if it is read more or less in order.
fn passes(
    g: &mut Gen<'_>,
    body: &Loop<'_>,
    folds: &[Fold<'_>],
    lanes: usize,
    first: ir::Value,
    len: ir::Value,
) -> ir::Value {
    let all = folds[0].lanes;
    let even = g.b.ins().band_imm_s(len, -(all as i64));
    let zero = g.int(types::I64, 0);
    let stop = g.int(types::I64, all as i64);
    let block = (PASS_BLOCK * all) as i64;
    g.count_loop(zero, even, block, &[], |g, from, _| {
        let rest = g.b.ins().isub(even, from);
        let full = g.int(types::I64, block);
        let here = g.b.ins().umin(rest, full);
        let from = g.b.ins().iadd(first, from);
        g.count_loop(zero, stop, lanes as i64, &[], |g, lane, _| {
            let start = g.b.ins().iadd(from, lane);
            let end = g.b.ins().iadd(start, here);
            let mut carried: Vec<ir::Value> = Vec::new();
            for fold in folds {
                for c in 0..fold.init.len() {
                    let address = fold.lane_address(g, c, lane);
                    carried.extend(g.load_vector(fold.dtype(), lanes, address, 0).parts);
                }
            }
            let after = g.count_loop(start, end, all as i64, &carried, |g, index, carried| {
                let values = body.vector_body(g, index, lanes);
                let before = g.b.ins().isub(index, first);
                let count = count_at(g, before, all);
                let mut next = Vec::new();
                for (fold, state) in folds.iter().zip(unpack(folds, carried, lanes)) {
                    let x = body.lanes(g, &values, fold.reduction.input);
                    for component in fold.step_vectors(g, &state, x, count, lanes) {
                        next.extend(carried_parts(g, fold.dtype(), lanes, &component));
                    }
                }
                next
            });
            for (fold, state) in folds.iter().zip(unpack(folds, &after, lanes)) {
                for (c, component) in state.iter().enumerate() {
                    let address = fold.lane_address(g, c, lane);
                    g.store_vector(fold.dtype(), lanes, component, address, 0);
                }
            }
            Vec::new()
        });
        Vec::new()
    });
    even
}

/// The states that a loop carries, as vectors.
fn unpack(folds: &[Fold<'_>], carried: &[ir::Value], lanes: usize) -> Vec<SmallVec<[Vector; 2]>> {
    let mut rest = carried;
    folds
        .iter()
        .map(|fold| {
            let width = fold.dtype().size();
            fold.init
                .iter()
                .map(|_| {
                    let (parts, after) = rest.split_at(part_count(lanes, width));
                    rest = after;
                    Vector { parts: Parts::from_slice(parts), width, same: false }
                })
                .collect()
        })
        .collect()
}

/// A state's parts in the form that a loop carries: bools as byte masks.
fn carried_parts(g: &mut Gen<'_>, dtype: DType, lanes: usize, state: &Vector) -> Parts {
    let state = if dtype == DType::Bool { g.mask(state, lanes, 1) } else { state.clone() };
    (0..part_count(lanes, dtype.size())).map(|k| state.part(k)).collect()
}

/// Sets all lanes to their initial states.
fn clear(g: &mut Gen<'_>, folds: &[Fold<'_>], vectors: bool) {
    for fold in folds {
        for (literal, slot) in fold.init.iter().zip(&fold.slots) {
            let base = g.b.ins().stack_addr(types::I64, *slot, 0);
            let size = fold.dtype().size();
            if vectors {
                let splat = g.splat_constant(*literal);
                g.store_vector(fold.dtype(), fold.lanes, &splat, base, 0);
                continue;
            }
            let zero = g.int(types::I64, 0);
            let end = g.int(types::I64, (fold.lanes * size) as i64);
            let x = g.constant(*literal);
            g.count_loop(zero, end, size as i64, &[], |g, at, _| {
                let address = g.b.ins().iadd(base, at);
                g.store_scalar(x, address);
                Vec::new()
            });
        }
    }
}

/// Folds the elements `j .. j + lanes` of a leaf into states in memory.
fn step_memory(
    g: &mut Gen<'_>,
    body: &Loop<'_>,
    folds: &[Fold<'_>],
    values: &VectorValues,
    j: ir::Value,
    lanes: usize,
) {
    for fold in folds {
        let lane = g.b.ins().band_imm_u(j, fold.lanes as i64 - 1);
        let addresses: SmallVec<[ir::Value; 2]> = (0..fold.init.len()).map(|c| fold.lane_address(g, c, lane)).collect();
        let state: SmallVec<[Vector; 2]> =
            addresses.iter().map(|a| g.load_vector(fold.dtype(), lanes, *a, 0)).collect();
        let x = body.lanes(g, values, fold.reduction.input);
        let count = count_at(g, j, fold.lanes);
        let next = fold.step_vectors(g, &state, x, count, lanes);
        for (component, address) in next.iter().zip(&addresses) {
            g.store_vector(fold.dtype(), lanes, component, *address, 0);
        }
    }
}

/// Folds element `j` of a leaf into states in memory.
fn step_scalar_memory(g: &mut Gen<'_>, body: &Loop<'_>, folds: &[Fold<'_>], values: &ScalarValues, j: ir::Value) {
    for fold in folds {
        let lane = g.b.ins().band_imm_u(j, fold.lanes as i64 - 1);
        let addresses: SmallVec<[ir::Value; 2]> = (0..fold.init.len()).map(|c| fold.lane_address(g, c, lane)).collect();
        let state: SmallVec<[ir::Value; 2]> = addresses.iter().map(|a| g.load_scalar(fold.dtype(), *a, 0)).collect();
        let x = body.scalar(g, values, fold.reduction.input);
        let count = count_at(g, j, fold.lanes);
        let next = fold.step_scalars(g, &state, x, count);
        for (component, address) in next.iter().zip(&addresses) {
            g.store_scalar(*component, *address);
        }
    }
}

/// How many elements the lane of element `j` has folded, `j` included.
fn count_at(g: &mut Gen<'_>, j: ir::Value, lanes: usize) -> ir::Value {
    let rounds = g.b.ins().ushr_imm_u(j, i64::from(lanes.trailing_zeros()));
    g.b.ins().iadd_imm_u(rounds, 1)
}

/// Merges the lanes of a leaf of `len` elements into lane 0.
fn merge_lanes(g: &mut Gen<'_>, fold: &Fold<'_>, vectors: bool, len: ir::Value) {
    if !vectors {
        return merge_lanes_singly(g, fold, len);
    }
    if !fold.reduction.reducer.counts() {
        // Unused lanes hold identities.
        return merge_lanes_as_vectors(g, fold);
    }
    let (all, some, after) = (g.b.create_block(), g.b.create_block(), g.b.create_block());
    let full = g.b.ins().icmp_imm_u(IntCC::Equal, len, LEAF as i64);
    g.b.ins().brif(full, all, &[], some, &[]);
    g.b.switch_to_block(all);
    merge_lanes_as_vectors(g, fold);
    g.b.ins().jump(after, &[]);
    g.b.switch_to_block(some);
    merge_lanes_singly(g, fold, len);
    g.b.ins().jump(after, &[]);
    g.b.switch_to_block(after);
}

/// Merges the lanes of a full leaf, or of one whose unused lanes hold identities.
fn merge_lanes_as_vectors(g: &mut Gen<'_>, fold: &Fold<'_>) {
    let dtype = fold.dtype();
    let bases: SmallVec<[ir::Value; 2]> =
        fold.slots.iter().map(|slot| g.b.ins().stack_addr(types::I64, *slot, 0)).collect();
    let mut lanes = fold.lanes;
    let one_part = 16 / dtype.size();
    if fold.merge.insts.len() > UNROLLED_MERGE && lanes > one_part {
        merge_parts(g, fold, &bases, one_part);
        lanes = one_part;
    }
    let mut state: SmallVec<[Vector; 2]> = bases.iter().map(|base| g.load_vector(dtype, lanes, *base, 0)).collect();
    while lanes > 1 {
        let each = LEAF / lanes;
        lanes /= 2;
        let (left, right): (SmallVec<[Vector; 2]>, SmallVec<[Vector; 2]>) =
            state.iter().map(|component| g.halves(component, lanes)).unzip();
        let each = Literal::from_i64(dtype, each as i64);
        let count = Lanes { vector: g.splat_constant(each), scalar: None, literal: Some(each) };
        state = merge_vectors(g, fold, left, right, count, lanes);
        if dtype == DType::Bool {
            state = state.iter().map(|mask| g.mask(mask, lanes, 1)).collect();
        }
    }
    for (component, base) in state.iter().zip(&bases) {
        g.store_vector(dtype, 1, component, *base, 0);
    }
}

/// Merges lanes in memory, a part at a time in two nested loops, until `one_part` lanes are left.
fn merge_parts(g: &mut Gen<'_>, fold: &Fold<'_>, bases: &[ir::Value], one_part: usize) {
    let dtype = fold.dtype();
    let size = dtype.size() as i64;
    let (level, exit) = (g.b.create_block(), g.b.create_block());
    // Bytes of half the lanes, and elements of each lane.
    let half = g.b.append_block_param(level, types::I64);
    let each = g.b.append_block_param(level, types::I64);
    let first_half = g.int(types::I64, fold.lanes as i64 / 2 * size);
    let first_each = g.int(types::I64, (LEAF / fold.lanes) as i64);
    g.b.ins().jump(level, &[first_half.into(), first_each.into()]);
    g.b.switch_to_block(level);
    let count = if fold.reduction.reducer.counts() {
        let count = fold.count(g, each);
        Lanes { vector: g.splat(dtype, count), scalar: Some(count), literal: None }
    } else {
        Lanes::from(Vector { parts: Parts::new(), width: dtype.size(), same: true })
    };
    let zero = g.int(types::I64, 0);
    g.count_loop(zero, half, 16, &[], |g, at, _| {
        let load = |g: &mut Gen<'_>, base: ir::Value, at: ir::Value| {
            let address = g.b.ins().iadd(base, at);
            g.load_vector(dtype, one_part, address, 0)
        };
        let right_at = g.b.ins().iadd(at, half);
        let left = bases.iter().map(|base| load(g, *base, at)).collect();
        let right = bases.iter().map(|base| load(g, *base, right_at)).collect();
        let merged = merge_vectors(g, fold, left, right, count, one_part);
        for (component, base) in merged.iter().zip(bases) {
            let address = g.b.ins().iadd(*base, at);
            g.store_vector(dtype, one_part, component, address, 0);
        }
        Vec::new()
    });
    let next = g.b.ins().ushr_imm_u(half, 1);
    let twice = g.b.ins().ishl_imm_u(each, 1);
    let more = g.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, next, 16);
    g.b.ins().brif(more, level, &[next.into(), twice.into()], exit, &[]);
    g.b.switch_to_block(exit);
}

/// One merge on vectors; `count` is the number of elements on either side.
fn merge_vectors(
    g: &mut Gen<'_>,
    fold: &Fold<'_>,
    left: SmallVec<[Vector; 2]>,
    right: SmallVec<[Vector; 2]>,
    count: Lanes,
    lanes: usize,
) -> SmallVec<[Vector; 2]> {
    let mut args: SmallVec<[Lanes; 6]> = left.into_iter().chain(right).map(Lanes::from).collect();
    if fold.reduction.reducer.counts() {
        args.extend([count.clone(), count]);
    }
    g.vector_inline(&fold.merge, &args, lanes)
}

/// Merges the lanes of a leaf of any length.
fn merge_lanes_singly(g: &mut Gen<'_>, fold: &Fold<'_>, len: ir::Value) {
    let dtype = fold.dtype();
    let mut half = fold.lanes / 2;
    let all = g.int(types::I64, fold.lanes as i64);
    let mut used = g.b.ins().umin(len, all);
    while half > 0 {
        let zero = g.int(types::I64, 0);
        let half_value = g.int(types::I64, half as i64);
        // Pairs are those lanes `l` below `half` with `l + half` below `used`.
        let least = g.b.ins().umax(used, half_value);
        let pairs = g.b.ins().isub(least, half_value);
        g.count_loop(zero, pairs, 1, &[], |g, l, _| {
            let partner = g.b.ins().iadd_imm_u(l, half as i64);
            let load = |g: &mut Gen<'_>, lane| -> SmallVec<[ir::Value; 2]> {
                (0..fold.init.len())
                    .map(|c| {
                        let address = fold.lane_address(g, c, lane);
                        g.load_scalar(dtype, address, 0)
                    })
                    .collect()
            };
            let (left, right) = (load(g, l), load(g, partner));
            let merged = fold.merge_scalars(g, &left, &right, |g| {
                // Lanes have folded onto each other, so a lane holds every `2 * half`-th element from its own on.
                let elements = |g: &mut Gen<'_>, lane| {
                    let rest = g.b.ins().isub(len, lane);
                    let rounded = g.b.ins().iadd_imm_u(rest, 2 * half as i64 - 1);
                    g.b.ins().ushr_imm_u(rounded, i64::from((2 * half).trailing_zeros()))
                };
                (elements(g, l), elements(g, partner))
            });
            for (c, x) in merged.iter().enumerate() {
                let address = fold.lane_address(g, c, l);
                g.store_scalar(*x, address);
            }
            Vec::new()
        });
        used = g.b.ins().umin(used, half_value);
        half /= 2;
    }
}

/// Emits the merging of a row's leaves, the phase after the loop of `stage`. State 0 is then the row's.
pub(super) fn merge_leaves(g: &mut Gen<'_>, kernel: &Kernel, analysis: &Analysis, stage: usize) {
    let folds: Vec<Fold<'_>> = kernel.reductions_of(stage).map(|(i, _)| Fold::new(kernel, analysis, i)).collect();
    let len = field!(g, len);
    let states = field!(g, states);
    let stride = field!(g, state_stride);
    let address = |g: &mut Gen<'_>, component: usize, leaf: ir::Value| {
        let offset = g.b.ins().imul_imm_u(stride, component as i64);
        let base = g.b.ins().iadd(states, offset);
        let at = g.b.ins().imul_imm_u(leaf, STATE_WORD as i64);
        g.b.ins().iadd(base, at)
    };
    let zero = g.int(types::I64, 0);
    let none = g.b.ins().icmp_imm_u(IntCC::Equal, len, 0);
    g.when(none, |g| {
        for fold in &folds {
            let (reducer, dtype) = (fold.reduction.reducer, fold.dtype());
            // Like the interpreter: empty minima are refused before they get here.
            let empty = reducer.empty(dtype).unwrap_or(Literal::from_bits(dtype, 0));
            let x = g.constant(empty);
            let at = address(g, fold.component + reducer.result(), zero);
            g.store_scalar(x, at);
        }
    });
    let rounded = g.b.ins().iadd_imm_u(len, LEAF as i64 - 1);
    let leaves = g.b.ins().ushr_imm_u(rounded, i64::from(LEAF.trailing_zeros()));
    // Neighbours at distance 1, 2, 4, ... merge into the left one, which stays where it is.
    let (head, round, exit) = (g.b.create_block(), g.b.create_block(), g.b.create_block());
    let distance = g.b.append_block_param(head, types::I64);
    let one = g.int(types::I64, 1);
    g.b.ins().jump(head, &[one.into()]);
    g.b.switch_to_block(head);
    let more = g.b.ins().icmp(IntCC::UnsignedLessThan, distance, leaves);
    g.b.ins().brif(more, round, &[], exit, &[]);
    g.b.switch_to_block(round);
    let lefts = g.b.ins().isub(leaves, distance);
    let twice = g.b.ins().ishl_imm_u(distance, 1);
    let inside = g.b.create_block();
    let after = g.b.create_block();
    let left = g.b.append_block_param(inside, types::I64);
    g.b.ins().jump(inside, &[zero.into()]);
    g.b.switch_to_block(inside);
    let right = g.b.ins().iadd(left, distance);
    for fold in &folds {
        let load = |g: &mut Gen<'_>, leaf| -> SmallVec<[ir::Value; 2]> {
            (0..fold.init.len())
                .map(|c| {
                    let at = address(g, fold.component + c, leaf);
                    g.load_scalar(fold.dtype(), at, 0)
                })
                .collect()
        };
        let (a, b) = (load(g, left), load(g, right));
        let merged = fold.merge_scalars(g, &a, &b, |g| {
            // The left side is complete, since there is something to its right.
            let shift = i64::from(LEAF.trailing_zeros());
            let whole = g.b.ins().ishl_imm_u(distance, shift);
            let before = g.b.ins().ishl_imm_u(right, shift);
            let rest = g.b.ins().isub(len, before);
            let rest = g.b.ins().umin(rest, whole);
            (whole, rest)
        });
        for (c, x) in merged.iter().enumerate() {
            let at = address(g, fold.component + c, left);
            g.store_scalar(*x, at);
        }
    }
    let next = g.b.ins().iadd(left, twice);
    let again = g.b.ins().icmp(IntCC::UnsignedLessThan, next, lefts);
    g.b.ins().brif(again, inside, &[next.into()], after, &[]);
    g.b.switch_to_block(after);
    g.b.ins().jump(head, &[twice.into()]);
    g.b.switch_to_block(exit);
}

impl Gen<'_> {
    /// The lower and upper half of a vector of `2 * lanes` lanes, each as a vector of `lanes` lanes.
    fn halves(&mut self, x: &Vector, lanes: usize) -> (Vector, Vector) {
        let bytes = lanes * x.width;
        if bytes >= 16 {
            let (low, high) = x.parts.split_at(x.parts.len() / 2);
            let half = |parts: &[ir::Value]| Vector { parts: Parts::from_slice(parts), ..*x };
            return (half(low), half(high));
        }
        let part = x.part(0);
        let ty = self.b.func.dfg.value_type(part);
        let high = self.shift_down(ty, part, bytes);
        (x.clone(), Vector { parts: SmallVec::from_elem(high, 1), width: x.width, same: false })
    }
}
