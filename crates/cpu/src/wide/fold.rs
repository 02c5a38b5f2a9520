//! Folding the elements of a loop, in the order that [`numfuse_core::kernel::reduce`] fixes for rows.
//!
//! The states of a leaf's lanes live in the stack frame, 256 bytes or less for each component. If the copies of a body
//! make up all lanes of a leaf exactly, the loop carries the states in registers, and what is left over is folded under
//! masks (AVX-512) or in memory; long bodies fold in memory from the beginning. The lanes of a leaf merge in straight-line code, vectors
//! first and then the halves of one vector. Leaves merge in their own phase.

use super::asm::{Alu, Cond, Isa, Label, Mem, R11, RAX, RCX, RDX, Shift};
use super::body::Body;
use super::program::{Base, NodeId, Place, Program, Slot, Step, What};
use super::rows::{FAR_AHEAD, StageProgram, copies_for, loops, rest_loop, run_once};
use super::{Gen, call_offset};
use crate::clif::STATE_WORD;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::reduce::{self, State};
use numfuse_core::kernel::{Body as Steps, Nest, Prim, Reducer, Value};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// Elements of a leaf.
const LEAF: usize = reduce::leaf(Nest::Rows);
/// A body that has more nodes than this, all copies together, does not carry states in registers.
const CARRIED_NODES: usize = 160;

/// One reduction while its loop is emitted.
pub(super) struct Fold {
    pub reducer: Reducer,
    pub dtype: DType,
    pub input: Value,
    pub init: State<Literal>,
    pub step: Steps,
    pub merge: Steps,
    /// Its first component among all states.
    pub component: usize,
    lanes: usize,
    /// Where the lanes of each component are.
    slots: SmallVec<[Slot; 2]>,
}

impl Fold {
    pub fn new(g: &Gen<'_>, index: usize) -> Fold {
        let reduction = &g.kernel.reductions[index];
        let (reducer, dtype) = (reduction.reducer, reduction.dtype);
        Fold {
            reducer,
            dtype,
            input: reduction.input,
            init: reducer.init(dtype),
            step: reducer.step(dtype),
            merge: reducer.merge(dtype),
            component: g.analysis.components[index],
            lanes: reduce::lanes(g.kernel.nest, dtype),
            slots: SmallVec::new(),
        }
    }

    /// All folds of a stage.
    fn of_stage(g: &Gen<'_>, stage: usize) -> Vec<Fold> {
        g.kernel.reductions_of(stage).map(|(i, _)| Fold::new(g, i)).collect()
    }
}

/// Emits the leaves of a loop with reductions: from the call's `begin` to its `end`, the states going to its states.
pub(super) fn leaves(g: &mut Gen<'_>, stage: usize) {
    let mut folds = Fold::of_stage(g, stage);
    for fold in &mut folds {
        for _ in 0..fold.init.len() {
            // Narrow lanes are merged as vectors that reach beyond them.
            let bytes = (fold.lanes * fold.dtype.size()).max(64) as i32;
            fold.slots.push(g.slot(bytes + 64, 64));
        }
    }
    let [end, len, leaf_end, stop] = [(); 4].map(|()| g.word_slot());
    g.load_call(RCX, call_offset!(end));
    g.a.store(end.mem(), RCX);
    let carried = carried_program(g, stage, &folds);
    let carried_homes = carried.as_ref().map(|(program, _)| Body::new(g, program, &[], 1, false).emit_uniforms());
    // What is left over is folded in registers too, if there is room for masks.
    let in_registers = carried.as_ref().is_some_and(|(program, copies)| masks_fit(g, program, *copies));
    let memory = (!in_registers).then(|| memory_program(g, stage, &folds));
    let homes = memory.as_ref().map(|program| Body::new(g, program, &[], 1, false).emit_uniforms());
    let states: Vec<(usize, Slot)> = folds
        .iter()
        .flat_map(|f| (0..f.init.len()).map(|c| f.component + c))
        .map(|component| (component, g.word_slot()))
        .collect();
    g.load_call(RAX, call_offset!(begin));
    let again = g.a.here();
    g.a.load(RCX, end.mem());
    g.a.alu(Alu::Sub, RCX, RAX);
    g.limit_rcx(LEAF);
    g.a.store(len.mem(), RCX);
    g.a.alu(Alu::Add, RCX, RAX);
    g.a.store(leaf_end.mem(), RCX);
    // Where the leaf's state goes.
    for (component, slot) in &states {
        g.load_component(call_offset!(states), *component);
        g.a.mov(RDX, RAX);
        g.a.shift(Shift::Right, RDX, LEAF.trailing_zeros() as u8);
        g.a.lea(RCX, Mem { base: RCX, index: Some((RDX, STATE_WORD.trailing_zeros() as u8)), disp: 0 });
        g.a.store(slot.mem(), RCX);
    }
    let mut source = Source::Memory;
    if let (Some((program, copies)), Some(homes)) = (&carried, &carried_homes) {
        let registers = carried_leaf(g, &folds, program, homes, *copies, in_registers, (len, leaf_end, stop));
        if in_registers {
            source = Source::Registers { registers, copies: *copies, lanes: program.lanes };
        }
    } else {
        clear(g, &folds);
    }
    if let (Some(memory), Some(homes)) = (&memory, &homes) {
        if carried.is_some() {
            rest_loop(g, memory, homes, leaf_end, false);
        } else {
            let most = folds.iter().map(|f| f.lanes).min().unwrap_or(1);
            let copies = copies_for(memory, g.a.isa, most);
            loops(g, memory, homes, copies, leaf_end);
        }
    }
    for (n, fold) in folds.iter().enumerate() {
        let first: usize = folds[..n].iter().map(|f| f.init.len()).sum();
        if fold.reducer.counts() {
            let done = g.a.label();
            g.a.load(RCX, len.mem());
            g.a.alu_imm(Alu::Cmp, RCX, LEAF as i32);
            g.unless(Cond::Equal, |g| {
                merge_lanes(g, fold, &source, first, &states, Some(len));
                g.a.jump(done);
            });
            merge_lanes(g, fold, &source, first, &states, None);
            g.a.bind(done);
        } else {
            merge_lanes(g, fold, &source, first, &states, None);
        }
    }
    g.a.load(RAX, leaf_end.mem());
    g.a.alu_mem(Alu::Cmp, RAX, end.mem());
    g.a.jump_if(Cond::Below, again);
}

/// Where the states of a leaf's lanes are when it is folded.
enum Source {
    Memory,
    /// For each component one register per copy, of so many lanes.
    Registers {
        registers: Vec<u8>,
        copies: usize,
        lanes: usize,
    },
}

/// The stage with the states carried by the loop, and the copies that make up all lanes; if that is possible.
fn carried_program(g: &mut Gen<'_>, stage: usize, folds: &[Fold]) -> Option<(Program, usize)> {
    if folds.iter().any(|f| f.lanes != folds[0].lanes || f.dtype == DType::Bool) {
        return None;
    }
    let kernel_stage = &g.kernel.stages[stage];
    let steps: usize = folds.iter().map(|f| f.step.insts.len()).sum();
    let insts = (kernel_stage.end - kernel_stage.start) as usize + steps;
    // Addresses are only worth it if the program is going to be used.
    if insts * 4 > CARRIED_NODES {
        return None;
    }
    let mut program = StageProgram::new(g, stage, false);
    let mut carried = Vec::new();
    for fold in folds {
        for _ in 0..fold.init.len() {
            let n = carried.len() as u32;
            carried.push(program.program.push(What::Carried(n), fold.dtype, &[]));
        }
    }
    program.add_insts(g);
    let mut rest = carried.as_slice();
    for fold in folds {
        let (state, after) = rest.split_at(fold.init.len());
        rest = after;
        let next = step(g, &mut program, fold, state);
        program.program.results.extend(next);
    }
    let program = program.finish(g);
    let copies = folds[0].lanes / program.lanes;
    let registers = usize::from(g.a.isa.registers());
    let live = copies * program.results.len() + program.max_live(g.a.isa);
    let fits = copies * program.lanes == folds[0].lanes && live + 4 <= registers;
    (fits && copies * program.varying() <= CARRIED_NODES).then_some((program, copies))
}

/// The stage with the states in memory.
fn memory_program(g: &mut Gen<'_>, stage: usize, folds: &[Fold]) -> Program {
    let mut program = StageProgram::new(g, stage, false);
    let mut places = Vec::new();
    for fold in folds {
        for slot in &fold.slots {
            let step = Step::Lanes(fold.lanes as u32);
            places.push(program.program.place(Place { base: Base::Stack(*slot), step, dtype: fold.dtype }));
        }
    }
    program.program.most_lanes = folds.iter().map(|f| f.lanes).min().unwrap_or(0);
    program.add_insts(g);
    let mut rest = places.as_slice();
    for fold in folds {
        let (places, after) = rest.split_at(fold.init.len());
        rest = after;
        let state: SmallVec<[NodeId; 2]> =
            places.iter().map(|place| program.program.push(What::Load(*place), fold.dtype, &[])).collect();
        let next = step(g, &mut program, fold, &state);
        for (place, x) in places.iter().zip(next) {
            program.program.push(What::Store(*place), fold.dtype, &[x]);
        }
    }
    program.finish(g)
}

/// Appends the step of a reduction.
fn step(g: &mut Gen<'_>, program: &mut StageProgram, fold: &Fold, state: &[NodeId]) -> SmallVec<[NodeId; 2]> {
    let mut args: SmallVec<[NodeId; 4]> = state.into();
    args.push(program.node(g, fold.input));
    if fold.reducer.counts() {
        let shift = fold.lanes.trailing_zeros() as u8;
        args.push(program.program.push(What::Count { shift }, fold.dtype, &[]));
    }
    program.program.inline(&fold.step, &args)
}

/// True if a masked body that carries all states has registers enough for its masks.
fn masks_fit(g: &Gen<'_>, program: &Program, copies: usize) -> bool {
    let masks = program.lane_masks().into_iter().filter(|wanted| *wanted).count();
    let live = copies * program.results.len() + program.max_live(g.a.isa) + masks;
    g.a.isa == Isa::Avx512 || live + 4 <= usize::from(g.a.isa.registers())
}

/// Emits the loop of a leaf that carries states, and returns their registers. If it is `all`, all of the leaf is folded;
/// otherwise the part that fills all lanes evenly, and the states go to memory.
fn carried_leaf(
    g: &mut Gen<'_>,
    folds: &[Fold],
    program: &Program,
    homes: &[Option<Slot>],
    copies: usize,
    all: bool,
    (len, leaf_end, stop): (Slot, Slot, Slot),
) -> Vec<u8> {
    let lanes = folds[0].lanes as i32;
    g.a.load(RCX, len.mem());
    g.a.alu_imm(Alu::And, RCX, -lanes);
    g.a.alu(Alu::Add, RCX, RAX);
    g.a.store(stop.mem(), RCX);
    let mut body = Body::new(g, program, homes, copies, false);
    body.sequential = true;
    body.reserve_carried();
    let components: Vec<(&Fold, usize)> = folds.iter().flat_map(|f| (0..f.init.len()).map(move |c| (f, c))).collect();
    for (n, (fold, c)) in components.iter().enumerate() {
        for copy in 0..copies {
            let reg = body.carried_reg(n, copy);
            body.splat_literal(reg, fold.init[*c]);
        }
    }
    let registers = body.carried_registers().to_vec();
    let exit = body.g.a.label();
    body.g.a.alu_mem(Alu::Cmp, RAX, stop.mem());
    body.g.a.jump_if(Cond::AboveEqual, exit);
    body.pin_uniforms();
    body.g.a.align_loop();
    let again = body.g.a.here();
    body.prefetch(FAR_AHEAD, false);
    body.emit_nodes();
    body.g.a.alu_imm(Alu::Add, RAX, lanes);
    body.g.a.alu_mem(Alu::Cmp, RAX, stop.mem());
    body.g.a.jump_if(Cond::Below, again);
    body.g.a.bind(exit);
    if all {
        carried_rest(g, program, homes, copies, &registers, leaf_end);
        return registers;
    }
    for (n, (fold, c)) in components.iter().enumerate() {
        for copy in 0..copies {
            let (reg, len) = (body.carried_reg(n, copy), body.len(fold.dtype));
            let offset = (copy * program.lanes * fold.dtype.size()) as i32;
            body.g.store_slot(Slot(fold.slots[*c].0 + offset), reg, len);
        }
    }
    registers
}

/// Emits what is left of a leaf from RAX on: one copy after the other, as long as there are elements. The last one may be a
/// part. With AVX-512 all of them are emitted as if they were: masks cost next to nothing there.
fn carried_rest(
    g: &mut Gen<'_>,
    program: &Program,
    homes: &[Option<Slot>],
    copies: usize,
    registers: &[u8],
    leaf_end: Slot,
) {
    let done = g.a.label();
    let masks_are_free = g.a.isa == Isa::Avx512;
    let mut body = Body::new(g, program, homes, copies, masks_are_free);
    body.adopt_carried(registers);
    let mut parts = Vec::new();
    for copy in 0..copies {
        let a = &mut body.g.a;
        a.load(RCX, leaf_end.mem());
        a.alu(Alu::Sub, RCX, RAX);
        a.alu_imm(Alu::Sub, RCX, (copy * program.lanes) as i32);
        a.jump_if(Cond::LessEqual, done);
        if masks_are_free {
            set_part(&mut body);
        } else {
            let part = a.label();
            parts.push(part);
            a.alu_imm(Alu::Cmp, RCX, program.lanes as i32);
            // There are fewer elements than all copies have lanes.
            if copy + 1 == copies {
                a.jump(part);
                break;
            }
            a.jump_if(Cond::Less, part);
        }
        body.emit_copy(copy);
    }
    for (copy, part) in parts.into_iter().enumerate() {
        g.a.bind(part);
        let mut body = Body::new(g, program, homes, copies, true);
        body.first_copy = copy;
        body.adopt_carried(registers);
        body.reserve_lane_masks();
        set_part(&mut body);
        body.emit_copy(copy);
        g.a.jump(done);
    }
    g.a.bind(done);
}

/// RCX elements are left for a masked body, or more than it has lanes.
fn set_part(body: &mut Body<'_, '_, '_>) {
    let rest = body.g.rest_slot();
    body.g.limit_rcx(body.program.lanes);
    body.g.a.store(rest.mem(), RCX);
    body.set_lane_masks();
}

/// Sets all lanes to their initial states.
fn clear(g: &mut Gen<'_>, folds: &[Fold]) {
    for fold in folds {
        let mut program = Program::straight((g.a.isa.bytes() / fold.dtype.size()).min(fold.lanes));
        for (literal, slot) in fold.init.iter().zip(&fold.slots) {
            let x = program.constant(*literal);
            for part in 0..fold.lanes / program.lanes {
                let base = Base::Stack(Slot(slot.0 + (part * program.lanes * fold.dtype.size()) as i32));
                let place = program.place(Place { base, step: Step::Fixed, dtype: fold.dtype });
                program.push(What::Store(place), fold.dtype, &[x]);
            }
        }
        program.finish(g.a.isa);
        run_once(g, &program);
    }
}

/// Emits the merging of a leaf's lanes, whose state goes to the addresses in `states`. The fold's components begin at
/// `first_component` of the stage's. A leaf that is not full, of a reduction that counts, has its length in a slot.
fn merge_lanes(
    g: &mut Gen<'_>,
    fold: &Fold,
    source: &Source,
    first_component: usize,
    states: &[(usize, Slot)],
    len: Option<Slot>,
) {
    let dtype = fold.dtype;
    let lanes = match source {
        Source::Memory => (g.a.isa.bytes() / dtype.size()).min(fold.lanes),
        Source::Registers { lanes, .. } => *lanes,
    };
    let mut program = Program::straight(lanes);
    let mut shares = len.map(|len| Shares::begin(g, fold, lanes, len));
    let mut parts: Vec<SmallVec<[NodeId; 2]>> = Vec::new();
    for part in 0..fold.lanes / lanes {
        let components = (0..fold.init.len()).map(|c| match source {
            Source::Memory => {
                let base = Base::Stack(Slot(fold.slots[c].0 + (part * lanes * dtype.size()) as i32));
                let place = program.place(Place { base, step: Step::Fixed, dtype });
                program.push(What::Load(place), dtype, &[])
            }
            Source::Registers { copies, .. } => {
                program.push(What::Carried(((first_component + c) * copies + part) as u32), dtype, &[])
            }
        });
        parts.push(components.collect());
    }
    let mut half = fold.lanes / 2;
    while half > 0 {
        if parts.len() > 1 {
            let right = parts.split_off(parts.len() / 2);
            for (n, (left, right)) in parts.iter_mut().zip(right).enumerate() {
                *left = merge_halves(g, &mut program, fold, left, &right, half, n * lanes, shares.as_mut());
            }
        } else {
            let high: SmallVec<[NodeId; 2]> =
                parts[0].iter().map(|x| program.push(What::High(half as u8), dtype, &[*x])).collect();
            let left = parts[0].clone();
            parts[0] = merge_halves(g, &mut program, fold, &left, &high, half, 0, shares.as_mut());
        }
        half /= 2;
    }
    for (c, x) in parts[0].iter().enumerate() {
        let slot = states.iter().find(|(component, _)| *component == fold.component + c).map(|(_, slot)| *slot);
        let base = Base::Spilled(slot.unwrap_or(fold.slots[c]));
        let place = program.place(Place { base, step: Step::Fixed, dtype });
        program.push(What::StoreFirst(place), dtype, &[*x]);
    }
    program.finish(g.a.isa);
    let registers: &[u8] = match source {
        Source::Memory => &[],
        Source::Registers { registers, .. } => registers,
    };
    if let Some(shares) = shares {
        shares.end(g, registers);
    }
    let mut body = Body::new(g, &program, &[], 1, false);
    body.adopt_carried(registers);
    body.emit_nodes();
}

/// What the merging of a leaf that is not full needs of the counts of its lanes, which follow from its length: it is computed
/// when that is not the length of the last one, for rows of a matrix mostly once, since there are divisions in it.
struct Shares {
    len: Slot,
    /// Where the code goes on if everything is there.
    there: Label,
    program: Program,
    /// What a merge needs of the two counts; and the merge, with that in place of them.
    of_counts: Steps,
    of_states: Steps,
}

impl Shares {
    fn begin(g: &mut Gen<'_>, fold: &Fold, lanes: usize, len: Slot) -> Shares {
        let last = g.zeroed_slot();
        let there = g.a.label();
        g.a.load(RCX, len.mem());
        g.a.alu_mem(Alu::Cmp, RCX, last.mem());
        g.a.jump_if(Cond::Equal, there);
        g.a.store(last.mem(), RCX);
        let (of_counts, of_states) = fold.merge.split(2 * fold.init.len() as u32);
        Shares { len, there, program: Program::straight(lanes), of_counts, of_states }
    }

    /// Emits what is computed once. Registers of carried values stay as they are.
    fn end(mut self, g: &mut Gen<'_>, carried: &[u8]) {
        self.program.finish(g.a.isa);
        let mut body = Body::new(g, &self.program, &[], 1, false);
        body.adopt_carried(carried);
        body.emit_nodes();
        g.a.bind(self.there);
    }
}

/// Appends the merge of lanes `first..` with those `half` further on.
#[expect(clippy::too_many_arguments, reason = "both sides and where they are")]
fn merge_halves(
    g: &mut Gen<'_>,
    program: &mut Program,
    fold: &Fold,
    left: &[NodeId],
    right: &[NodeId],
    half: usize,
    first: usize,
    shares: Option<&mut Shares>,
) -> SmallVec<[NodeId; 2]> {
    let mut args: SmallVec<[NodeId; 6]> = left.iter().chain(right).copied().collect();
    let Some(Shares { len, program: once, of_counts, of_states, .. }) = shares else {
        if fold.reducer.counts() {
            let each = program.constant(Literal::from_i64(fold.dtype, (LEAF / (2 * half)) as i64));
            args.extend([each, each]);
        }
        return program.inline(&fold.merge, &args);
    };
    // Lanes have folded onto each other: lane `l` holds every `2 * half`-th element from its own on, and there is a
    // right side for those lanes whose partner has any.
    let counts = [0, half].map(|offset| lane_counts(g, once, fold, *len, half, first, offset));
    for x in once.inline(of_counts, &counts) {
        let dtype = once.nodes[x as usize].dtype;
        let place = Place { base: Base::Stack(g.vector_slot()), step: Step::Fixed, dtype };
        let to = once.place(place);
        once.push(What::Store(to), dtype, &[x]);
        let from = program.place(place);
        args.push(program.push(What::Load(from), dtype, &[]));
    }
    let merged = program.inline(of_states, &args);
    let active = clamped(g, *len, (half + first) as i32);
    let active = program.push(What::Below(active), DType::Bool, &[]);
    merged
        .iter()
        .zip(left)
        .map(|(merged, left)| program.push(What::Prim(Prim::Select), fold.dtype, &[active, *merged, *left]))
        .collect()
}

/// Appends the number of elements in lanes `first + offset ..`, if the leaf has `len` elements and `2 * half` lanes are
/// left.
fn lane_counts(
    g: &mut Gen<'_>,
    program: &mut Program,
    fold: &Fold,
    len: Slot,
    half: usize,
    first: usize,
    offset: usize,
) -> NodeId {
    // With `q` and `r` such that `len - offset = q * 2 * half + r`: one more than `q` in the lanes below `r`.
    let [quotient, more, rest] = [(); 3].map(|()| g.word_slot());
    let shift = (2 * half).trailing_zeros() as u8;
    load_difference(g, len, offset as i32);
    g.a.mov(RDX, RCX);
    g.a.shift(Shift::Right, RDX, shift);
    g.a.store(quotient.mem(), RDX);
    g.a.alu_imm(Alu::Add, RDX, 1);
    g.a.store(more.mem(), RDX);
    g.a.alu_imm(Alu::And, RCX, 2 * half as i32 - 1);
    g.a.store(rest.mem(), RCX);
    let rest = clamped(g, rest, first as i32);
    let quotient = program.push(What::Int(quotient), fold.dtype, &[]);
    let more = program.push(What::Int(more), fold.dtype, &[]);
    let below = program.push(What::Below(rest), DType::Bool, &[]);
    program.push(What::Prim(Prim::Select), fold.dtype, &[below, more, quotient])
}

/// A slot with the integer in another one less a number, between 0 and 64.
fn clamped(g: &mut Gen<'_>, from: Slot, less: i32) -> Slot {
    load_difference(g, from, less);
    g.limit_rcx(64);
    let to = g.word_slot();
    g.a.store(to.mem(), RCX);
    to
}

/// RCX: the integer in a slot less a number, at least 0.
fn load_difference(g: &mut Gen<'_>, from: Slot, less: i32) {
    g.a.load(RCX, from.mem());
    g.a.mov_imm(R11, 0);
    g.a.alu_imm(Alu::Sub, RCX, less);
    g.a.mov_if(Cond::Less, RCX, R11);
}

/// Emits the merging of a row's leaves, the phase after the loop of `stage`. State 0 is then the row's.
pub(super) fn merge_leaves(g: &mut Gen<'_>, stage: usize) {
    let folds = Fold::of_stage(g, stage);
    let [leaves, distance, left, left_count, right_count] = [(); 5].map(|()| g.word_slot());
    let mut places: Vec<[Slot; 2]> = Vec::new();
    let components: Vec<usize> = folds.iter().flat_map(|f| (0..f.init.len()).map(move |c| f.component + c)).collect();
    for _ in &components {
        places.push([g.word_slot(), g.word_slot()]);
    }
    g.load_call(RCX, call_offset!(len));
    g.a.test(RCX, RCX);
    g.unless(Cond::NotEqual, |g| {
        for fold in &folds {
            // Like the interpreter: empty minima are refused before they get here.
            let empty = fold.reducer.empty(fold.dtype).unwrap_or(Literal::from_bits(fold.dtype, 0));
            let component = fold.component + fold.reducer.result();
            g.load_component(call_offset!(states), component);
            g.a.mov_imm(RDX, empty.bits() as i64);
            g.a.store_int(Mem::at(RCX, 0), RDX, fold.dtype.size());
        }
    });
    g.load_call(RCX, call_offset!(len));
    g.a.alu_imm(Alu::Add, RCX, LEAF as i32 - 1);
    g.a.shift(Shift::Right, RCX, LEAF.trailing_zeros() as u8);
    g.a.store(leaves.mem(), RCX);
    // Neighbours at distance 1, 2, 4, ... merge into the left one, which stays where it is.
    g.a.mov_imm(RCX, 1);
    g.a.store(distance.mem(), RCX);
    let exit = g.a.label();
    let round = g.a.here();
    g.a.load(RCX, distance.mem());
    g.a.alu_mem(Alu::Cmp, RCX, leaves.mem());
    g.a.jump_if(Cond::AboveEqual, exit);
    g.a.mov_imm(RCX, 0);
    g.a.store(left.mem(), RCX);
    let pair = g.a.here();
    for (component, [left_at, right_at]) in components.iter().zip(&places) {
        g.load_component(call_offset!(states), *component);
        let scale = STATE_WORD.trailing_zeros() as u8;
        g.a.load(RDX, left.mem());
        g.a.lea(RCX, Mem { base: RCX, index: Some((RDX, scale)), disp: 0 });
        g.a.store(left_at.mem(), RCX);
        g.a.load(RDX, distance.mem());
        g.a.lea(RCX, Mem { base: RCX, index: Some((RDX, scale)), disp: 0 });
        g.a.store(right_at.mem(), RCX);
    }
    if folds.iter().any(|f| f.reducer.counts()) {
        // The left side is complete, since there is something to its right.
        let shift = LEAF.trailing_zeros() as u8;
        g.a.load(RDX, distance.mem());
        g.a.mov(R11, RDX);
        g.a.shift(Shift::Left, RDX, shift);
        g.a.store(left_count.mem(), RDX);
        g.a.alu_mem(Alu::Add, R11, left.mem());
        g.a.shift(Shift::Left, R11, shift);
        g.load_call(RCX, call_offset!(len));
        g.a.alu(Alu::Sub, RCX, R11);
        g.a.alu(Alu::Cmp, RCX, RDX);
        g.a.mov_if(Cond::Above, RCX, RDX);
        g.a.store(right_count.mem(), RCX);
    }
    let mut at = places.as_slice();
    for fold in &folds {
        let (places, after) = at.split_at(fold.init.len());
        at = after;
        let mut program = Program::straight(1);
        let mut args: SmallVec<[NodeId; 6]> = SmallVec::new();
        let mut targets = Vec::new();
        for side in 0..2 {
            for slots in places {
                let place = Place { base: Base::Spilled(slots[side]), step: Step::Fixed, dtype: fold.dtype };
                let place = program.place(place);
                if side == 0 {
                    targets.push(place);
                }
                args.push(program.push(What::Load(place), fold.dtype, &[]));
            }
        }
        if fold.reducer.counts() {
            for slot in [left_count, right_count] {
                args.push(program.push(What::Int(slot), fold.dtype, &[]));
            }
        }
        let merged = program.inline(&fold.merge, &args);
        for (place, x) in targets.into_iter().zip(merged) {
            program.push(What::Store(place), fold.dtype, &[x]);
        }
        program.finish(g.a.isa);
        run_once(g, &program);
    }
    g.a.load(RCX, distance.mem());
    g.a.load(RDX, left.mem());
    g.a.lea(RDX, Mem { base: RDX, index: Some((RCX, 1)), disp: 0 });
    g.a.store(left.mem(), RDX);
    g.a.alu(Alu::Add, RDX, RCX);
    g.a.alu_mem(Alu::Cmp, RDX, leaves.mem());
    g.a.jump_if(Cond::Below, pair);
    g.a.shift(Shift::Left, RCX, 1);
    g.a.store(distance.mem(), RCX);
    g.a.jump(round);
    g.a.bind(exit);
}
