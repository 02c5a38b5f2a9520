//! Column kernels: a fold over reduced indices for each of many columns at once.
//!
//! The states of a tile of columns are a *block* in memory: for each component (`state_stride` bytes apart) one state
//! for each column, of its own dtype, beginning with the column `begin`. The three phases of a call:
//!
//! * 0 folds `rows` reduced indices into the block `states`, which holds `count` of them already (0 initialises it);
//! * 1 merges the block `other` (`other_count` reduced indices) into `states` (`count`), its neighbour on the left;
//! * 2 runs the last stage on the results in `states`.

use super::body::{Loop, RowValues};
use super::fold::Fold;
use super::rows::plain_loop;
use super::vector::{Lanes, Vector};
use super::{Analysis, Gen, field, lanes_for, operands_of};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder, types};
use numfuse_core::kernel::{Inst, Kernel, Value};
use smallvec::SmallVec;

/// Emits the function of a column kernel.
pub(super) fn emit(g: &mut Gen<'_>, kernel: &Kernel, analysis: &Analysis) {
    let folds: Vec<Fold<'_>> = (0..kernel.reductions.len()).map(|i| Fold::new(kernel, analysis, i)).collect();
    let phase = field!(g, first);
    let (begin, end) = (field!(g, begin), field!(g, end));
    for (number, emit) in [fold_rows, merge_blocks, last_stage].into_iter().enumerate() {
        let wanted = g.b.ins().icmp_imm_u(IntCC::Equal, phase, number as i64);
        g.when(wanted, |g| emit(g, kernel, analysis, &folds, begin, end));
    }
}

/// The address of column `index`'s state in a block, for each component of a reduction.
fn state_addresses(
    g: &mut Gen<'_>,
    fold: &Fold<'_>,
    bases: &[ir::Value],
    begin: ir::Value,
    index: ir::Value,
) -> SmallVec<[ir::Value; 2]> {
    let column = g.b.ins().isub(index, begin);
    let offset = g.b.ins().imul_imm_u(column, fold.dtype().size() as i64);
    bases[fold.component..fold.component + fold.init.len()].iter().map(|base| g.b.ins().iadd(*base, offset)).collect()
}

/// The beginnings of a block's components.
fn components(g: &mut Gen<'_>, analysis: &Analysis, block: ir::Value) -> Vec<ir::Value> {
    let stride = field!(g, state_stride);
    (0..analysis.states)
        .map(|c| {
            let offset = g.b.ins().imul_imm_u(stride, c as i64);
            g.b.ins().iadd(block, offset)
        })
        .collect()
}

fn fold_rows(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    analysis: &Analysis,
    folds: &[Fold<'_>],
    begin: ir::Value,
    end: ir::Value,
) {
    let lanes = lanes_for(kernel, analysis, 1, &g.target);
    let states = field!(g, states);
    let before = field!(g, count);
    let bases = components(g, analysis, states);
    let fresh = g.b.ins().icmp_imm_u(IntCC::Equal, before, 0);
    g.when(fresh, |g| {
        for fold in folds {
            for (c, literal) in fold.init.iter().enumerate() {
                let x = g.constant(*literal);
                let columns = g.b.ins().isub(end, begin);
                let size = fold.dtype().size() as i64;
                let bytes = g.b.ins().imul_imm_u(columns, size);
                let zero = g.int(types::I64, 0);
                let base = bases[fold.component + c];
                g.count_loop(zero, bytes, size, &[], |g, at, _| {
                    let address = g.b.ins().iadd(base, at);
                    g.store_scalar(x, address);
                    Vec::new()
                });
            }
        }
    });
    let rows = field!(g, rows);
    let zero = g.int(types::I64, 0);
    g.count_loop(zero, rows, 1, &[], |g, row, _| {
        let known = g.row_stage(kernel, analysis, 0, row);
        let mut body = Loop::new(g, kernel, analysis, 1, row, &known);
        let count = g.b.ins().iadd(before, row);
        let count = g.b.ins().iadd_imm_u(count, 1);
        plain_loop(
            g,
            &mut body,
            lanes,
            begin,
            end,
            |g, values, (body, index)| {
                for fold in folds {
                    let addresses = state_addresses(g, fold, &bases, begin, index);
                    let state: SmallVec<[Vector; 2]> =
                        addresses.iter().map(|a| g.load_vector(fold.dtype(), lanes, *a, 0)).collect();
                    let x = body.lanes(g, values, fold.reduction.input);
                    let next = fold.step_vectors(g, &state, x, count, lanes);
                    for (component, address) in next.iter().zip(&addresses) {
                        g.store_vector(fold.dtype(), lanes, component, *address, 0);
                    }
                }
            },
            |g, values, (body, index)| {
                for fold in folds {
                    let addresses = state_addresses(g, fold, &bases, begin, index);
                    let state: SmallVec<[ir::Value; 2]> =
                        addresses.iter().map(|a| g.load_scalar(fold.dtype(), *a, 0)).collect();
                    let x = body.scalar(g, values, fold.reduction.input);
                    let next = fold.step_scalars(g, &state, x, count);
                    for (component, address) in next.iter().zip(&addresses) {
                        g.store_scalar(*component, *address);
                    }
                }
            },
        );
        Vec::new()
    });
}

fn merge_blocks(
    g: &mut Gen<'_>,
    _kernel: &Kernel,
    analysis: &Analysis,
    folds: &[Fold<'_>],
    begin: ir::Value,
    end: ir::Value,
) {
    let (left, right) = (field!(g, states), field!(g, other));
    let (left, right) = (components(g, analysis, left), components(g, analysis, right));
    let (left_count, right_count) = (field!(g, count), field!(g, other_count));
    for fold in folds {
        let dtype = fold.dtype();
        let lanes = if g.target.vectorize { 32 / dtype.size() } else { 1 };
        let counts: SmallVec<[ir::Value; 2]> = if fold.reduction.reducer.counts() {
            [left_count, right_count].iter().map(|n| fold.count(g, *n)).collect()
        } else {
            SmallVec::new()
        };
        let mut from = begin;
        if lanes > 1 {
            let len = g.b.ins().isub(end, begin);
            let whole = g.b.ins().band_imm_s(len, -(lanes as i64));
            let stop = g.b.ins().iadd(begin, whole);
            g.count_loop(begin, stop, lanes as i64, &[], |g, index, _| {
                let lefts = state_addresses(g, fold, &left, begin, index);
                let rights = state_addresses(g, fold, &right, begin, index);
                let mut args: SmallVec<[Lanes; 6]> = lefts
                    .iter()
                    .chain(&rights)
                    .map(|address| Lanes::from(g.load_vector(dtype, lanes, *address, 0)))
                    .collect();
                for n in &counts {
                    args.push(Lanes { vector: g.splat(dtype, *n), scalar: Some(*n), literal: None });
                }
                let merged = g.vector_inline(&fold.merge, &args, lanes);
                for (component, address) in merged.iter().zip(&lefts) {
                    g.store_vector(dtype, lanes, component, *address, 0);
                }
                Vec::new()
            });
            from = stop;
        }
        g.count_loop(from, end, 1, &[], |g, index, _| {
            let lefts = state_addresses(g, fold, &left, begin, index);
            let rights = state_addresses(g, fold, &right, begin, index);
            let mut args: SmallVec<[ir::Value; 6]> =
                lefts.iter().chain(&rights).map(|address| g.load_scalar(dtype, *address, 0)).collect();
            args.extend(counts.iter().copied());
            let merged = g.scalar_inline(&fold.merge, &args);
            for (component, address) in merged.iter().zip(&lefts) {
                g.store_scalar(*component, *address);
            }
            Vec::new()
        });
    }
}

fn last_stage(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    analysis: &Analysis,
    folds: &[Fold<'_>],
    begin: ir::Value,
    end: ir::Value,
) {
    let zero = g.int(types::I64, 0);
    let states = field!(g, states);
    let bases = components(g, analysis, states);
    let some = g.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
    g.when(some, |g| {
        let known = uniform_row_values(g, kernel, analysis);
        let mut body = Loop::new(g, kernel, analysis, 2, zero, &known);
        // So that a column's index addresses its state: the base is where column 0 would be.
        body.reduced = folds
            .iter()
            .map(|fold| {
                let before = g.b.ins().imul_imm_u(begin, fold.dtype().size() as i64);
                g.b.ins().isub(bases[fold.component + fold.reduction.reducer.result()], before)
            })
            .collect();
        let lanes = lanes_for(kernel, analysis, 2, &g.target);
        plain_loop(g, &mut body, lanes, begin, end, |_, _, _| {}, |_, _, _| {});
    });
}

/// The values of the first stage that do not vary along the reduced dimensions, for the last stage.
fn uniform_row_values(g: &mut Gen<'_>, kernel: &Kernel, analysis: &Analysis) -> RowValues {
    let mut known = RowValues::default();
    let is_uniform = |known: &RowValues, v: &Value| {
        matches!(kernel.inst(*v), Inst::Const(_) | Inst::Param(_)) || known.contains_key(v)
    };
    for v in kernel.stages[0].values() {
        if let inst @ Inst::Prim(..) = kernel.inst(v)
            && operands_of(inst).iter().all(|a| is_uniform(&known, a))
        {
            let x = g.row_prim(kernel, analysis, v, &mut known);
            known.insert(v, x);
        }
    }
    known
}
