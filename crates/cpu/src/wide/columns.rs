//! Column kernels: a fold over reduced indices for each of many columns at once. The phases and the blocks of states
//! are those of [`crate::clif`]'s columns.

use super::asm::{Alu, Cond, Mem, RAX, RBX, RCX, RDI, RDX};
use super::body::Body;
use super::fold::Fold;
use super::program::{Args, NodeId, Place, PlaceId, Program, Slot, Step, What};
use super::rows::{StageProgram, copies_for, loops, run_once};
use super::{Gen, call_offset};
use crate::clif::operands_of;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Access, Inst, Value};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

/// Emits the code of a column kernel.
pub(super) fn emit(g: &mut Gen<'_>) {
    let folds: Vec<Fold> = (0..g.kernel.reductions.len()).map(|i| Fold::new(g, i)).collect();
    for (number, emit) in [fold_rows, merge_blocks, last_stage].into_iter().enumerate() {
        g.load_call(RCX, call_offset!(first));
        g.a.alu_imm(Alu::Cmp, RCX, number as i32);
        g.unless(Cond::NotEqual, |g| emit(g, &folds));
    }
}

/// The place of a state component in a block (a field of the call), such that a column's index addresses its state.
fn state_place(g: &mut Gen<'_>, program: &mut StageProgram, block: i32, component: usize, dtype: DType) -> PlaceId {
    g.load_component(block, component);
    g.load_call(RDX, call_offset!(begin));
    g.a.imul_imm(RDX, RDX, dtype.size() as i32);
    g.a.alu(Alu::Sub, RCX, RDX);
    let base = program.base(g);
    program.program.place(Place { base, step: Step::Unit, dtype })
}

/// Emits the loops of a program over the columns.
fn over_columns(g: &mut Gen<'_>, program: &Program, end: Slot) {
    let homes = Body::new(g, program, &[], 1, false).emit_uniforms();
    g.load_call(RAX, call_offset!(begin));
    let copies = copies_for(program, g.a.isa, usize::MAX);
    loops(g, program, &homes, copies, end);
}

fn end_slot(g: &mut Gen<'_>) -> Slot {
    let end = g.word_slot();
    g.load_call(RCX, call_offset!(end));
    g.a.store(end.mem(), RCX);
    end
}

fn fold_rows(g: &mut Gen<'_>, folds: &[Fold]) {
    let end = end_slot(g);
    g.load_call(RCX, call_offset!(count));
    g.a.test(RCX, RCX);
    g.unless(Cond::NotEqual, |g| {
        for fold in folds {
            for (c, literal) in fold.init.iter().enumerate() {
                let mut program = StageProgram::new(g, 1, false);
                let block = call_offset!(states);
                let place = state_place(g, &mut program, block, fold.component + c, fold.dtype);
                let x = program.program.constant(*literal);
                program.program.push(What::Store(place), fold.dtype, &[x]);
                let program = program.finish(g);
                over_columns(g, &program, end);
            }
        }
    });
    let count = g.word_slot();
    g.a.mov_imm(RBX, 0);
    let (head, exit) = (g.a.label(), g.a.label());
    g.a.bind(head);
    g.a.alu_mem(Alu::Cmp, RBX, Mem::at(RDI, call_offset!(rows)));
    g.a.jump_if(Cond::AboveEqual, exit);
    row_stores(g);
    g.load_call(RCX, call_offset!(count));
    g.a.lea(RCX, Mem { base: RCX, index: Some((RBX, 0)), disp: 1 });
    g.a.store(count.mem(), RCX);
    let mut program = StageProgram::new(g, 1, false);
    add_row_values(g, &mut program, false);
    program.add_insts(g);
    for fold in folds {
        let places: SmallVec<[PlaceId; 2]> = (0..fold.init.len())
            .map(|c| state_place(g, &mut program, call_offset!(states), fold.component + c, fold.dtype))
            .collect();
        let mut args: SmallVec<[NodeId; 4]> =
            places.iter().map(|place| program.program.push(What::Load(*place), fold.dtype, &[])).collect();
        args.push(program.node(g, fold.input));
        if fold.reducer.counts() {
            args.push(program.program.push(What::Int(count), fold.dtype, &[]));
        }
        let next = program.program.inline(&fold.step, &args);
        for (place, x) in places.iter().zip(next) {
            program.program.push(What::Store(*place), fold.dtype, &[x]);
        }
    }
    let program = program.finish(g);
    over_columns(g, &program, end);
    g.a.alu_imm(Alu::Add, RBX, 1);
    g.a.jump(head);
    g.a.bind(exit);
}

/// Emits the stores of the first stage, with what they need, for the reduced index in RBX. Every tile of columns writes the
/// same.
fn row_stores(g: &mut Gen<'_>) {
    let kernel = g.kernel;
    let mut needed: FxHashSet<Value> = FxHashSet::default();
    for v in kernel.stages[0].values().rev() {
        let inst = kernel.inst(v);
        if matches!(inst, Inst::Store(..)) || needed.contains(&v) {
            needed.insert(v);
            needed.extend(operands_of(inst));
        }
    }
    if needed.is_empty() {
        return;
    }
    let mut program = StageProgram::new(g, 0, true);
    kernel.stages[0].values().filter(|v| needed.contains(v)).for_each(|v| program.add_inst(g, v));
    let program = program.finish(g);
    run_once(g, &program);
}

/// Appends the values of the first stage, which are uniform here; with `fixed`, those only that are the same for all
/// reduced indices.
fn add_row_values(g: &mut Gen<'_>, program: &mut StageProgram, fixed: bool) {
    let kernel = g.kernel;
    let mut known: FxHashSet<Value> = FxHashSet::default();
    for v in kernel.stages[0].values() {
        let dtype = kernel.dtype(v);
        match kernel.inst(v) {
            Inst::Const(_) | Inst::Param(_) => {
                program.node(g, v);
                known.insert(v);
            }
            inst @ Inst::Prim(prim, _) if operands_of(inst).iter().all(|a| is_known(g, &known, *a)) => {
                let operands = operands_of(inst);
                let args = Args::new(operands.len(), |i| program.node(g, operands[i]));
                let node = program.program.prim(g.a.isa, *prim, dtype, args);
                program.set(v, node);
                known.insert(v);
            }
            Inst::Load(n) if !fixed && kernel.operands[*n as usize].access != Access::Strided => {
                let place = program.operand_place(g, *n, true);
                let node = program.program.push(What::Splat(place), dtype, &[]);
                program.set(v, node);
                known.insert(v);
            }
            Inst::Store(..) => {}
            _ if fixed => {}
            _ => g.refuse("a row value of a column kernel that varies along its columns"),
        }
    }
}

fn is_known(g: &Gen<'_>, known: &FxHashSet<Value>, v: Value) -> bool {
    known.contains(&v) || matches!(g.kernel.inst(v), Inst::Const(_) | Inst::Param(_))
}

fn merge_blocks(g: &mut Gen<'_>, folds: &[Fold]) {
    let end = end_slot(g);
    let [left_count, right_count] = [call_offset!(count), call_offset!(other_count)].map(|field| {
        let slot = g.word_slot();
        g.load_call(RCX, field);
        g.a.store(slot.mem(), RCX);
        slot
    });
    for fold in folds {
        let mut program = StageProgram::new(g, 1, false);
        let mut args: SmallVec<[NodeId; 6]> = SmallVec::new();
        let mut targets: SmallVec<[PlaceId; 2]> = SmallVec::new();
        for block in [call_offset!(states), call_offset!(other)] {
            for c in 0..fold.init.len() {
                let place = state_place(g, &mut program, block, fold.component + c, fold.dtype);
                args.push(program.program.push(What::Load(place), fold.dtype, &[]));
                if targets.len() < fold.init.len() {
                    targets.push(place);
                }
            }
        }
        if fold.reducer.counts() {
            for slot in [left_count, right_count] {
                args.push(program.program.push(What::Int(slot), fold.dtype, &[]));
            }
        }
        let merged = program.program.inline(&fold.merge, &args);
        for (place, x) in targets.into_iter().zip(merged) {
            program.program.push(What::Store(place), fold.dtype, &[x]);
        }
        let program = program.finish(g);
        over_columns(g, &program, end);
    }
}

fn last_stage(g: &mut Gen<'_>, folds: &[Fold]) {
    let end = end_slot(g);
    g.a.mov_imm(RBX, 0);
    let mut program = StageProgram::new(g, 2, false);
    for fold in folds {
        let component = fold.component + fold.reducer.result();
        let place = state_place(g, &mut program, call_offset!(states), component, fold.dtype);
        program.reduced.push(place);
    }
    add_row_values(g, &mut program, true);
    program.add_insts(g);
    let program = program.finish(g);
    over_columns(g, &program, end);
}
