//! Row kernels with short rows: a vector has one lane for each of several rows.
//!
//! A row of three elements fills no vector, and finding out that it is short costs more than its work. So if there are
//! enough rows and each is short, a group of rows runs together: every loop goes over the inner elements one by one,
//! and its instructions are those of the stage, on lanes that are rows. Row values, scratch and states are vectors in
//! the stack frame. The order of a reduction is that of [`numfuse_core::kernel::reduce`]: a row has one leaf, with a lane
//! for each element, and the lanes are an array of vectors here. Rows that are left over run one by one.

use super::Gen;
use super::asm::{Alu, Cond, Isa, Mem, RAX, RBX, RCX, RDI, RDX, Shift};
use super::call_offset;
use super::fold::Fold;
use super::program::{NodeId, PlaceId, Slot, What};
use super::rows::{Across, StageProgram, run_once};
use crate::clif::stage_is_empty;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Nest, StageKind, reduce};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// Rows of more elements than this run one by one: no more than a leaf has lanes.
const LONGEST: usize = 24;
const _: () = assert!(LONGEST <= reduce::lanes(Nest::Rows, DType::F64));
/// Kernels with more instructions than this have no such code.
const INST_LIMIT: usize = 400;
/// Kernels that need more vectors in the stack frame than this have none either.
const VECTOR_LIMIT: usize = 512;

/// Emits the loop over groups of rows, and leaves in RBX, which is 0 before, how many rows it has run.
pub(super) fn emit(g: &mut Gen<'_>) {
    let kernel = g.kernel;
    let vectors = g.analysis.frame + LONGEST * (kernel.scratch.len() + g.analysis.states);
    if g.analysis.splittable || kernel.insts.len() > INST_LIMIT || vectors > VECTOR_LIMIT {
        return;
    }
    let lanes = group(g);
    if lanes < 2 {
        return;
    }
    let exit = g.a.label();
    g.load_call(RCX, call_offset!(len));
    g.a.mov(RDX, RCX);
    g.a.alu_imm(Alu::Sub, RDX, 1);
    g.a.alu_imm(Alu::Cmp, RDX, LONGEST as i32 - 1);
    g.a.jump_if(Cond::Above, exit);
    g.a.alu_mem(Alu::Cmp, RCX, Mem::at(RDI, call_offset!(end)));
    g.a.jump_if(Cond::NotEqual, exit);
    g.load_call(RCX, call_offset!(begin));
    g.a.alu_mem(Alu::Or, RCX, Mem::at(RDI, call_offset!(first)));
    g.a.jump_if(Cond::NotEqual, exit);
    g.load_call(RCX, call_offset!(last));
    g.a.alu_imm(Alu::Cmp, RCX, 2 * kernel.stages.len() as i32);
    g.a.jump_if(Cond::NotEqual, exit);
    let end = g.word_slot();
    g.load_call(RCX, call_offset!(rows));
    g.a.alu_imm(Alu::And, RCX, -(lanes as i32));
    g.a.store(end.mem(), RCX);
    g.a.test(RCX, RCX);
    g.a.jump_if(Cond::Equal, exit);
    let across = Across {
        frame: (0..g.analysis.frame).map(|_| g.vector_slot()).collect(),
        scratch: kernel.scratch.iter().map(|_| g.slot(64 * LONGEST as i32, 64)).collect(),
        states: (0..g.analysis.states).map(|_| g.slot(64 * LONGEST as i32, 64)).collect(),
    };
    g.a.mov_imm(RAX, 0);
    let again = g.a.here();
    for stage in 0..kernel.stages.len() {
        if stage_is_empty(kernel, stage) {
            continue;
        }
        match kernel.stages[stage].kind {
            StageKind::Row => {
                g.a.mov_imm(RBX, 0);
                let mut program = stage_program(g, stage, &across, lanes);
                program.add_insts(g);
                let program = program.finish(g);
                run_once(g, &program);
            }
            StageKind::Loop => {
                let folds: Vec<Fold> = kernel.reductions_of(stage).map(|(i, _)| Fold::new(g, i)).collect();
                clear(g, &folds, &across, lanes);
                elements(g, stage, &folds, &across, lanes);
                for fold in &folds {
                    merge(g, fold, &across, lanes);
                }
            }
        }
    }
    g.a.alu_imm(Alu::Add, RAX, lanes as i32);
    g.a.alu_mem(Alu::Cmp, RAX, end.mem());
    g.a.jump_if(Cond::Below, again);
    g.a.mov(RBX, RAX);
    g.a.bind(exit);
}

/// How many rows make a group: as many as lanes of the widest dtype.
fn group(g: &Gen<'_>) -> usize {
    let widest = g.kernel.insts.iter().map(|data| data.dtype.size()).max().unwrap_or(8);
    let narrow = if g.a.isa == Isa::Avx2 { 8 } else { 16 };
    (g.a.isa.bytes() / widest).min(narrow)
}

fn stage_program(g: &Gen<'_>, stage: usize, across: &Across, lanes: usize) -> StageProgram {
    let mut program = StageProgram::new(g, stage, true);
    program.program.lanes = lanes;
    program.across = Some(across.clone());
    program
}

/// Emits `body` for RBX from 0 up to an integer in a slot.
fn count_loop(g: &mut Gen<'_>, to: Slot, body: impl FnOnce(&mut Gen<'_>)) {
    g.a.mov_imm(RBX, 0);
    g.a.alu_mem(Alu::Cmp, RBX, to.mem());
    g.unless(Cond::AboveEqual, |g| {
        let again = g.a.here();
        body(g);
        g.a.alu_imm(Alu::Add, RBX, 1);
        g.a.alu_mem(Alu::Cmp, RBX, to.mem());
        g.a.jump_if(Cond::Below, again);
    });
}

/// A slot with the number of inner elements.
fn len_slot(g: &mut Gen<'_>) -> Slot {
    let len = g.word_slot();
    g.load_call(RCX, call_offset!(len));
    g.a.store(len.mem(), RCX);
    len
}

/// Sets the states in use, one for each element, to the initial ones.
fn clear(g: &mut Gen<'_>, folds: &[Fold], across: &Across, lanes: usize) {
    for fold in folds {
        let len = len_slot(g);
        count_loop(g, len, |g| {
            let mut program = stage_program(g, 0, across, lanes);
            for (c, literal) in fold.init.iter().enumerate() {
                let place = program.vector_place(g, across.states[fold.component + c], fold.dtype);
                let x = program.program.constant(*literal);
                program.program.push(What::Store(place), fold.dtype, &[x]);
            }
            let program = program.finish(g);
            run_once(g, &program);
        });
    }
}

/// Runs a loop's instructions for each inner element, and folds.
fn elements(g: &mut Gen<'_>, stage: usize, folds: &[Fold], across: &Across, lanes: usize) {
    let len = len_slot(g);
    count_loop(g, len, |g| {
        let mut program = stage_program(g, stage, across, lanes);
        program.add_insts(g);
        for fold in folds {
            let mut args: SmallVec<[NodeId; 4]> = SmallVec::new();
            let mut places: SmallVec<[PlaceId; 2]> = SmallVec::new();
            for c in 0..fold.init.len() {
                let place = program.vector_place(g, across.states[fold.component + c], fold.dtype);
                places.push(place);
                args.push(program.program.push(What::Load(place), fold.dtype, &[]));
            }
            args.push(program.node(g, fold.input));
            if fold.reducer.counts() {
                args.push(program.program.constant(Literal::from_i64(fold.dtype, 1)));
            }
            let next = program.program.inline(&fold.step, &args);
            for (place, x) in places.iter().zip(next) {
                program.program.push(What::Store(*place), fold.dtype, &[x]);
            }
        }
        let program = program.finish(g);
        run_once(g, &program);
    });
}

/// Merges the states in use, halving them, into the first.
fn merge(g: &mut Gen<'_>, fold: &Fold, across: &Across, lanes: usize) {
    let [pairs, left_count, right_count] = [(); 3].map(|()| g.word_slot());
    // With more lanes in a half than a row has elements, none has a partner.
    let mut half = LONGEST.next_power_of_two() / 2;
    while half > 0 {
        // Those lanes `l` below `half` with `l + half` below the length.
        g.load_call(RCX, call_offset!(len));
        g.a.mov_imm(RDX, 0);
        g.a.alu_imm(Alu::Sub, RCX, half as i32);
        g.a.mov_if(Cond::Less, RCX, RDX);
        g.limit_rcx(half);
        g.a.store(pairs.mem(), RCX);
        count_loop(g, pairs, |g| {
            let mut program = stage_program(g, 0, across, lanes);
            let mut args: SmallVec<[NodeId; 6]> = SmallVec::new();
            let mut targets: SmallVec<[PlaceId; 2]> = SmallVec::new();
            for side in [0, half] {
                for c in 0..fold.init.len() {
                    let states = across.states[fold.component + c];
                    let place = program.vector_place(g, Slot(states.0 + 64 * side as i32), fold.dtype);
                    args.push(program.program.push(What::Load(place), fold.dtype, &[]));
                    if side == 0 {
                        targets.push(place);
                    }
                }
            }
            if fold.reducer.counts() {
                for (side, slot) in [(0, left_count), (half, right_count)] {
                    // A lane holds every `2 * half`-th element from its own on.
                    g.load_call(RCX, call_offset!(len));
                    g.a.alu(Alu::Sub, RCX, RBX);
                    g.a.alu_imm(Alu::Add, RCX, 2 * half as i32 - 1 - side as i32);
                    g.a.shift(Shift::Right, RCX, (2 * half).trailing_zeros() as u8);
                    g.a.store(slot.mem(), RCX);
                    args.push(program.program.push(What::Int(slot), fold.dtype, &[]));
                }
            }
            let merged = program.program.inline(&fold.merge, &args);
            for (place, x) in targets.iter().zip(merged) {
                program.program.push(What::Store(*place), fold.dtype, &[x]);
            }
            let program = program.finish(g);
            run_once(g, &program);
        });
        half /= 2;
    }
}
