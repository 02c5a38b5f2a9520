//! Row kernels with short rows: a vector has one lane for each of several rows.
//!
//! A row of three elements fills no vector, and finding out that it is short costs more than its work. So if there are
//! enough rows and each is short, a group of rows runs together: every loop goes over the inner elements one by one,
//! and its instructions are those of the stage, on lanes that are rows. Inputs whose rows are not adjacent are gathered
//! first, those that are the same for all rows only once. They, row values, scratch and states are vectors in
//! the stack frame. The order of a reduction is that of [`numfuse_core::kernel::reduce`]: a row has one leaf, whose lanes are
//! an array of vectors here; its elements are a few rounds over them, and the first one needs no state.
//!
//! RAX is the first row of the group, RBX the inner element as the byte offset of its vector in such an array. The last
//! group begins where it fits, so some rows may run twice, unless the kernel writes where it reads: then rows that are
//! left over run one by one.

use super::Gen;
use super::asm::{Alu, Cond, Isa, Label, Mem, R11, RAX, RBX, RCX, RDI, RDX, Shift};
use super::call_offset;
use super::fold::Fold;
use super::program::{Base, NodeId, Place, PlaceId, Program, Slot, Step, What};
use super::rows::{Across, OperandSlots, StageProgram, run_once};
use crate::clif::{Analysis, OperandAt, stage_is_empty};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Inst, Kernel, Level, Nest, Operand, Role, StageKind, reduce};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;
use std::mem::offset_of;

/// Kernels with more instructions than this have no such code.
const INST_LIMIT: usize = 400;
/// Kernels that need more vectors in the stack frame than this have none either.
const VECTOR_LIMIT: usize = 512;
/// The bytes of a vector in the stack frame, as a power of two.
const VECTOR: u8 = 6;
/// Rows have no more elements than this for each lane of a leaf: beyond, rows on their own are as fast.
const ROUNDS: usize = 2;

/// Rows of more elements than this run one by one unless the elements of neighbouring rows are adjacent, or the same.
const GATHERED: usize = 24;

/// Which short rows the code of a kernel runs side by side, if all phases are asked for at once: all rows of a call, if no
/// output has the place of an input. [`SideBySide::runs`] says in Rust what [`emit`] has the code look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideBySide {
    /// There have to be so many.
    pub rows: usize,
    /// They have no more elements than this, and at least one.
    pub longest: usize,
    /// If they have more elements than this, every operand that varies along them has adjacent rows, or the same for all.
    pub gathered: usize,
}

impl SideBySide {
    /// True if the code runs so many rows of this length at these places side by side.
    pub fn runs(&self, rows: usize, len: usize, operands: &[Operand], places: &[OperandAt]) -> bool {
        let is_near = |operand: &Operand, row: isize| row == 0 || row == operand.dtype.size() as isize;
        let mut along = operands.iter().zip(places).filter(|(operand, _)| operand.level == Level::Inner);
        rows >= self.rows
            && (1..=self.longest).contains(&len)
            && (len <= self.gathered || along.all(|(operand, place)| is_near(operand, place.row)))
    }
}

/// What the code of a kernel does with short rows, unless it has no such code.
pub(crate) fn side_by_side(kernel: &Kernel, analysis: &Analysis, isa: Isa) -> Option<SideBySide> {
    let (states, rounds) = rounds(kernel);
    let arrays = kernel.scratch.len() + inputs_along_rows(kernel).len();
    let vectors = |longest: usize| analysis.frame + states * analysis.states + longest * arrays;
    // As long as they fit.
    let mut longest = states * rounds;
    while longest > states && vectors(longest) > VECTOR_LIMIT {
        longest /= 2;
    }
    // As many as lanes of the widest dtype.
    let widest = kernel.insts.iter().map(|data| data.dtype.size()).max().unwrap_or(8);
    let rows = (isa.bytes() / widest).min(if isa == Isa::Avx2 { 8 } else { 16 });
    let fits = kernel.nest == Nest::Rows
        && !analysis.splittable
        && kernel.insts.len() <= INST_LIMIT
        && vectors(longest) <= VECTOR_LIMIT
        && rows >= 2;
    fits.then_some(SideBySide { rows, longest, gathered: GATHERED })
}

/// How many states a reduction has for each of its components, and how many elements at most each of them folds.
fn rounds(kernel: &Kernel) -> (usize, usize) {
    let mut lanes = kernel.reductions.iter().map(|r| reduce::lanes(Nest::Rows, r.dtype));
    let Some(first) = lanes.next() else { return (reduce::lanes(Nest::Rows, DType::F64), 1) };
    let least = lanes.clone().fold(first, usize::min);
    let one = lanes.any(|n| n != first) || kernel.reductions.iter().any(|r| r.reducer.counts());
    (least, if one { 1 } else { ROUNDS })
}

/// The operands that are loaded in loops.
fn inputs_along_rows(kernel: &Kernel) -> SmallVec<[usize; 8]> {
    let mut inputs: SmallVec<[usize; 8]> = SmallVec::new();
    for data in &kernel.insts {
        if let Inst::Load(n) = data.inst
            && kernel.operands[n as usize].level == Level::Inner
            && !inputs.contains(&(n as usize))
        {
            inputs.push(n as usize);
        }
    }
    inputs
}

/// Emits the loop over groups of rows, and leaves in RBX, which is 0 before, how many rows it has run.
pub(super) fn emit(g: &mut Gen<'_>) {
    let kernel = g.kernel;
    let Some(SideBySide { rows: lanes, longest, gathered }) = side_by_side(kernel, g.analysis, g.a.isa) else { return };
    let exit = g.a.label();
    g.load_call(RCX, call_offset!(len));
    g.a.mov(RDX, RCX);
    g.a.alu_imm(Alu::Sub, RDX, 1);
    g.a.alu_imm(Alu::Cmp, RDX, longest as i32 - 1);
    g.a.jump_if(Cond::Above, exit);
    g.a.alu_mem(Alu::Cmp, RCX, Mem::at(RDI, call_offset!(end)));
    g.a.jump_if(Cond::NotEqual, exit);
    g.load_call(RCX, call_offset!(begin));
    g.a.alu_mem(Alu::Or, RCX, Mem::at(RDI, call_offset!(first)));
    g.a.jump_if(Cond::NotEqual, exit);
    g.load_call(RCX, call_offset!(last));
    g.a.alu_imm(Alu::Cmp, RCX, 2 * kernel.stages.len() as i32);
    g.a.jump_if(Cond::NotEqual, exit);
    let last = g.word_slot();
    g.load_call(RCX, call_offset!(rows));
    g.a.alu_imm(Alu::Sub, RCX, lanes as i32);
    g.a.jump_if(Cond::Below, exit);
    g.a.store(last.mem(), RCX);
    g.load_call(RDX, call_offset!(operands));
    g.a.compare_mem(Mem::at(RDI, call_offset!(len)), gathered as i8);
    g.unless(Cond::BelowEqual, |g| {
        for (n, operand) in kernel.operands.iter().enumerate().filter(|(_, o)| o.level == Level::Inner) {
            g.a.load(RCX, operand_field(n, offset_of!(OperandAt, row)));
            g.a.test(RCX, RCX);
            g.unless(Cond::Equal, |g| {
                g.a.alu_imm(Alu::Cmp, RCX, operand.dtype.size() as i32);
                g.a.jump_if(Cond::NotEqual, exit);
            });
        }
    });
    let states = rounds(kernel).0;
    let across = Across {
        frame: (0..g.analysis.frame).map(|_| g.vector_slot()).collect(),
        scratch: kernel.scratch.iter().map(|_| g.slot((longest as i32) << VECTOR, 64)).collect(),
        states: (0..g.analysis.states).map(|_| g.slot((states as i32) << VECTOR, 64)).collect(),
        operands: (0..kernel.operands.len()).map(|n| operand_slots(g, n)).collect(),
    };
    let in_place = in_place(g);
    let gathers = gathers(g, &across, longest);
    g.a.mov_imm(RAX, 0);
    let again = g.a.here();
    for gather in &gathers {
        gather.emit(g, &across, lanes);
    }
    for stage in 0..kernel.stages.len() {
        if stage_is_empty(kernel, stage) {
            continue;
        }
        match kernel.stages[stage].kind {
            StageKind::Row => {
                let mut program = stage_program(g, stage, &across, lanes);
                program.add_insts(g);
                let program = program.finish(g);
                run_once(g, &program);
            }
            StageKind::Loop => {
                let folds: Vec<Fold> = kernel.reductions_of(stage).map(|(i, _)| Fold::new(g, i)).collect();
                elements(g, stage, &folds, &across, lanes, (states, longest));
                for fold in &folds {
                    merge(g, fold, &across, lanes, states);
                }
            }
        }
    }
    g.a.alu_imm(Alu::Add, RAX, lanes as i32);
    g.a.alu_mem(Alu::Cmp, RAX, last.mem());
    g.a.jump_if(Cond::BelowEqual, again);
    g.a.mov(RBX, RAX);
    g.a.alu_mem(Alu::Cmp, RBX, Mem::at(RDI, call_offset!(rows)));
    g.a.jump_if(Cond::AboveEqual, exit);
    g.a.load(RCX, in_place.mem());
    g.a.test(RCX, RCX);
    g.a.jump_if(Cond::NotEqual, exit);
    g.a.load(RAX, last.mem());
    g.a.jump(again);
    g.a.bind(exit);
}

/// A field of an operand's place; RDX points to the first operand's.
fn operand_field(n: usize, field: usize) -> Mem {
    Mem::at(RDX, (n * size_of::<OperandAt>() + field) as i32)
}

/// Slots with what the call says about an operand. RDX points to the first operand's place.
fn operand_slots(g: &mut Gen<'_>, n: usize) -> OperandSlots {
    let [pointer, row, inner] =
        [offset_of!(OperandAt, pointer), offset_of!(OperandAt, row), offset_of!(OperandAt, inner)].map(|field| {
            let slot = g.word_slot();
            g.a.load(RCX, operand_field(n, field));
            g.a.store(slot.mem(), RCX);
            slot
        });
    OperandSlots { pointer, row, inner }
}

/// An input that varies along the rows, which is gathered into vectors unless neighbouring rows are adjacent.
struct Gather {
    operand: usize,
    vectors: Slot,
    /// What the call says about it: [`Across::operands`] says where the vectors are.
    at: OperandSlots,
    /// Not zero if there is anything to gather for the next group.
    wanted: Slot,
}

/// Decides for each input that varies along the rows whether it has to be gathered. RDX points to the first operand's
/// place.
fn gathers(g: &mut Gen<'_>, across: &Across, longest: usize) -> Vec<Gather> {
    let inputs = inputs_along_rows(g.kernel);
    let each = inputs.into_iter().map(|operand| {
        let vectors = g.slot((longest as i32) << VECTOR, 64);
        let (slots, wanted) = (across.operands[operand], g.word_slot());
        let at = operand_slots(g, operand);
        g.a.mov_imm(R11, 0);
        g.a.load(RCX, at.row.mem());
        g.a.alu_imm(Alu::Sub, RCX, g.kernel.operands[operand].dtype.size() as i32);
        g.unless(Cond::Equal, |g| {
            g.a.store(slots.row.mem(), R11);
            g.a.lea(R11, vectors.mem());
            g.a.store(slots.pointer.mem(), R11);
            g.a.mov_imm(R11, 1 << VECTOR);
            g.a.store(slots.inner.mem(), R11);
        });
        g.a.store(wanted.mem(), RCX);
        Gather { operand, vectors, at, wanted }
    });
    each.collect()
}

impl Gather {
    /// Emits the gathering for the group of RAX.
    fn emit(&self, g: &mut Gen<'_>, across: &Across, lanes: usize) {
        // Bits are moved, whatever they mean: bools too.
        let dtype = match g.kernel.operands[self.operand].dtype.size() {
            1 => DType::U8,
            2 => DType::U16,
            4 => DType::U32,
            _ => DType::U64,
        };
        let done = g.a.label();
        g.a.compare_mem(self.wanted.mem(), 0);
        g.a.jump_if(Cond::Equal, done);
        let mut program = stage_program(g, 0, across, lanes);
        let base = program.row_base(g, self.at);
        let from = program.program.place(Place { base, step: Step::Rows(self.at.row), dtype });
        let to = program.program.place(Place { base: Base::Stack(self.vectors), step: Step::Vectors, dtype });
        let x = program.program.push(What::Load(from), dtype, &[]);
        program.program.push(What::Store(to), dtype, &[x]);
        let program = program.finish(g);
        let end = len_in_vectors(g);
        vector_loop(g, end, |g| {
            run_once(g, &program);
            advance(g, base, self.at.inner);
        });
        // Once is enough if it is the same for all rows.
        g.a.load(RCX, self.at.row.mem());
        g.a.store(self.wanted.mem(), RCX);
        g.a.bind(done);
    }
}

/// A slot with the number of inner elements as the byte offset of a vector.
fn len_in_vectors(g: &mut Gen<'_>) -> Slot {
    let end = g.word_slot();
    g.load_call(RCX, call_offset!(len));
    g.a.shift(Shift::Left, RCX, VECTOR);
    g.a.store(end.mem(), RCX);
    end
}

/// Moves a base address on by the bytes in a slot.
fn advance(g: &mut Gen<'_>, base: Base, by: Slot) {
    match base {
        Base::Gpr(r) => g.a.alu_mem(Alu::Add, r, by.mem()),
        Base::Spilled(slot) => {
            g.a.load(RCX, slot.mem());
            g.a.alu_mem(Alu::Add, RCX, by.mem());
            g.a.store(slot.mem(), RCX);
        }
        Base::Stack(_) => {}
    }
}

/// A slot that is not zero if an output has the place of an input. RDX points to the first operand's.
fn in_place(g: &mut Gen<'_>) -> Slot {
    let slot = g.word_slot();
    let pointer = |n: usize| operand_field(n, offset_of!(OperandAt, pointer));
    let operands = &g.kernel.operands;
    let of_role = |role: Role| (0..operands.len()).filter(move |n| operands[*n].role == role);
    let done = g.a.label();
    g.a.mov_imm(R11, 1);
    for output in of_role(Role::Out) {
        g.a.load(RCX, pointer(output));
        for input in of_role(Role::In) {
            g.a.alu_mem(Alu::Cmp, RCX, pointer(input));
            g.a.jump_if(Cond::Equal, done);
        }
    }
    g.a.mov_imm(R11, 0);
    g.a.bind(done);
    g.a.store(slot.mem(), R11);
    slot
}

fn stage_program(g: &Gen<'_>, stage: usize, across: &Across, lanes: usize) -> StageProgram {
    let mut program = StageProgram::new(g, stage, true);
    program.program.lanes = lanes;
    program.across = Some(across.clone());
    program
}

/// Emits `body` for RBX from 0 up to the byte offset in a slot, which is not 0.
fn vector_loop(g: &mut Gen<'_>, to: Slot, body: impl FnOnce(&mut Gen<'_>)) {
    g.a.mov_imm(RBX, 0);
    vector_loop_on(g, to, body);
}

/// Emits `body` from RBX on up to the byte offset in a slot, which is greater.
fn vector_loop_on(g: &mut Gen<'_>, to: Slot, body: impl FnOnce(&mut Gen<'_>)) {
    g.a.align_loop();
    let again = g.a.here();
    body(g);
    g.a.alu_imm(Alu::Add, RBX, 1 << VECTOR);
    g.a.alu_mem(Alu::Cmp, RBX, to.mem());
    g.a.jump_if(Cond::Below, again);
}

/// Runs a loop's instructions for each inner element, which gives or changes the state of its lane: there are so many
/// states for rows of so many elements at most.
fn elements(
    g: &mut Gen<'_>,
    stage: usize,
    folds: &[Fold],
    across: &Across,
    lanes: usize,
    (states, longest): (usize, usize),
) {
    let end = len_in_vectors(g);
    let round = (states as i32) << VECTOR;
    let several = !folds.is_empty() && longest > states;
    g.a.mov_imm(RBX, 0);
    let stop = if several { round_end(g, end, round) } else { end };
    let mut program = stage_program(g, stage, across, lanes);
    program.add_insts(g);
    for fold in folds {
        let x = program.node(g, fold.input);
        let mut first: SmallVec<[NodeId; 2]> = SmallVec::from_elem(x, 1);
        if fold.reducer.counts() {
            let mut args: SmallVec<[NodeId; 4]> = fold.init.iter().map(|x| program.program.constant(*x)).collect();
            args.extend([x, program.program.constant(Literal::from_i64(fold.dtype, 1))]);
            first = program.program.inline(&fold.step, &args);
        }
        // Without counts the initial state is an identity.
        let places = places(&mut program, fold, across, Step::Vectors, 0);
        store(&mut program, &places, fold.dtype, &first);
    }
    let moving = program.moving(across);
    let program = program.finish(g);
    let element = |g: &mut Gen<'_>, program: &Program, moving: &[(Base, Slot)]| {
        run_once(g, program);
        moving.iter().for_each(|(base, step)| advance(g, *base, *step));
    };
    vector_loop_on(g, stop, |g| element(g, &program, &moving));
    if !several {
        return;
    }
    let done = g.a.label();
    g.a.alu_mem(Alu::Cmp, RBX, end.mem());
    g.a.jump_if(Cond::AboveEqual, done);
    let mut program = stage_program(g, stage, across, lanes);
    // Such that an element's offset is its state's.
    let mut bases: SmallVec<[Base; 4]> = SmallVec::new();
    for fold in folds {
        for c in 0..fold.init.len() {
            g.a.lea(RCX, Slot(across.states[fold.component + c].0 - round).mem());
            bases.push(program.base(g));
        }
    }
    program.add_insts(g);
    let mut rest = bases.as_slice();
    for fold in folds {
        let (these, after) = rest.split_at(fold.init.len());
        rest = after;
        let place = |base: &Base| Place { base: *base, step: Step::Vectors, dtype: fold.dtype };
        let places: SmallVec<[PlaceId; 2]> = these.iter().map(|base| program.program.place(place(base))).collect();
        let mut args: SmallVec<[NodeId; 4]> = load(&mut program, &places, fold.dtype).into_iter().collect();
        args.push(program.node(g, fold.input));
        let next = program.program.inline(&fold.step, &args);
        store(&mut program, &places, fold.dtype, &next);
    }
    let moving = program.moving(across);
    let program = program.finish(g);
    let ahead = g.word_slot();
    for (base, step) in &moving {
        g.a.load(RCX, step.mem());
        g.a.imul_imm(RCX, RCX, states as i32);
        g.a.store(ahead.mem(), RCX);
        advance(g, *base, ahead);
    }
    let back = g.word_slot();
    g.a.mov_imm(RCX, i64::from(-round));
    g.a.store(back.mem(), RCX);
    let again = g.a.here();
    let stop = round_end(g, end, round);
    vector_loop_on(g, stop, |g| element(g, &program, &moving));
    bases.iter().for_each(|base| advance(g, *base, back));
    g.a.alu_mem(Alu::Cmp, RBX, end.mem());
    g.a.jump_if(Cond::Below, again);
    g.a.bind(done);
}

/// A slot with the end of the round that begins at RBX.
fn round_end(g: &mut Gen<'_>, end: Slot, round: i32) -> Slot {
    let stop = g.word_slot();
    g.a.lea(RCX, Mem::at(RBX, round));
    g.a.load(R11, end.mem());
    g.a.alu(Alu::Cmp, RCX, R11);
    g.a.mov_if(Cond::Above, RCX, R11);
    g.a.store(stop.mem(), RCX);
    stop
}

/// So many states merge without a loop.
const UNROLLED: usize = 8;
/// Merging that takes more instructions is always a loop.
const UNROLLED_INSTS: usize = 2;

/// Merges the states in use, halving them, into the first.
fn merge(g: &mut Gen<'_>, fold: &Fold, across: &Across, lanes: usize, states: usize) {
    let pairs = g.word_slot();
    let counts = fold.reducer.counts().then(|| [g.word_slot(), g.word_slot()]);
    let unrolls = counts.is_none() && fold.merge.insts.len() <= UNROLLED_INSTS + 2 * fold.init.len();
    let done = g.a.label();
    let mut unrolled: SmallVec<[(usize, Label); 8]> = SmallVec::new();
    let mut half = states / 2;
    while half > 0 {
        // Those states `l` below `half` with `l + half` below the length.
        g.load_call(RCX, call_offset!(len));
        g.a.alu_imm(Alu::Sub, RCX, half as i32);
        g.unless(Cond::BelowEqual, |g| {
            g.limit_rcx(half);
            g.a.shift(Shift::Left, RCX, VECTOR);
            g.a.store(pairs.mem(), RCX);
            vector_loop(g, pairs, |g| {
                let mut program = stage_program(g, 0, across, lanes);
                let [left, right] = [0, half].map(|n| places(&mut program, fold, across, Step::Vectors, n));
                let [x, y] = [&left, &right].map(|places| load(&mut program, places, fold.dtype));
                let mut args: SmallVec<[NodeId; 6]> = x.into_iter().chain(y).collect();
                for (side, slot) in counts.iter().flatten().enumerate() {
                    // A lane holds every `2 * half`-th element from its own on.
                    g.a.mov(RDX, RBX);
                    g.a.shift(Shift::Right, RDX, VECTOR);
                    g.load_call(RCX, call_offset!(len));
                    g.a.alu(Alu::Sub, RCX, RDX);
                    g.a.alu_imm(Alu::Add, RCX, (2 * half - 1 - side * half) as i32);
                    g.a.shift(Shift::Right, RCX, (2 * half).trailing_zeros() as u8);
                    g.a.store(slot.mem(), RCX);
                    args.push(program.program.push(What::Int(*slot), fold.dtype, &[]));
                }
                let merged = program.program.inline(&fold.merge, &args);
                store(&mut program, &left, fold.dtype, &merged);
                let program = program.finish(g);
                run_once(g, &program);
            });
            // From here on every half is full.
            if unrolls && half <= UNROLLED {
                let all = g.a.label();
                g.a.jump(if half == 1 { done } else { all });
                unrolled.push((half, all));
            }
        });
        half /= 2;
    }
    g.a.jump(done);
    for (count, label) in unrolled.into_iter().filter(|(count, _)| *count > 1) {
        g.a.bind(label);
        let mut program = stage_program(g, 0, across, lanes);
        let first = places(&mut program, fold, across, Step::Fixed, 0);
        let mut parts: Vec<SmallVec<[NodeId; 2]>> = Vec::new();
        for n in 0..count {
            let places = places(&mut program, fold, across, Step::Fixed, n);
            parts.push(load(&mut program, &places, fold.dtype));
        }
        while parts.len() > 1 {
            let right = parts.split_off(parts.len() / 2);
            for (x, y) in parts.iter_mut().zip(right) {
                let args: SmallVec<[NodeId; 4]> = x.iter().copied().chain(y).collect();
                *x = program.program.inline(&fold.merge, &args);
            }
        }
        store(&mut program, &first, fold.dtype, &parts[0]);
        let program = program.finish(g);
        run_once(g, &program);
        g.a.jump(done);
    }
    g.a.bind(done);
}

/// The places of the components of the n-th state, or of the n-th from the inner element on.
fn places(program: &mut StageProgram, fold: &Fold, across: &Across, step: Step, n: usize) -> SmallVec<[PlaceId; 2]> {
    let component = |c: usize| Slot(across.states[fold.component + c].0 + ((n as i32) << VECTOR));
    let dtype = fold.dtype;
    let places = (0..fold.init.len()).map(|c| Place { base: Base::Stack(component(c)), step, dtype });
    places.map(|place| program.program.place(place)).collect()
}

fn load(program: &mut StageProgram, places: &[PlaceId], dtype: DType) -> SmallVec<[NodeId; 2]> {
    places.iter().map(|place| program.program.push(What::Load(*place), dtype, &[])).collect()
}

fn store(program: &mut StageProgram, places: &[PlaceId], dtype: DType, values: &[NodeId]) {
    for (place, x) in places.iter().zip(values) {
        program.program.push(What::Store(*place), dtype, &[*x]);
    }
}
