//! Row kernels: for each row the stages in order, each of them a phase, and the merging of leaves after a loop.

use super::body::{Loop, RowValues};
use super::{Analysis, Gen, field, fold, lanes_for, stage_is_empty};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder, types};
use numfuse_core::kernel::{Kernel, StageKind};

/// Emits the function of a row kernel.
pub(super) fn emit(g: &mut Gen<'_>, kernel: &Kernel, analysis: &Analysis) {
    let rows = field!(g, rows);
    let zero = g.int(types::I64, 0);
    g.count_loop(zero, rows, 1, &[], |g, row, _| {
        for stage in 0..kernel.stages.len() {
            if stage_is_empty(kernel, stage) {
                continue;
            }
            phase(g, analysis, 2 * stage, |g| match kernel.stages[stage].kind {
                StageKind::Row => {
                    let values = g.row_stage(kernel, analysis, stage, row);
                    g.store_frame(kernel, analysis, stage, &values);
                }
                StageKind::Loop => {
                    let (begin, end) = (field!(g, begin), field!(g, end));
                    let some = g.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
                    g.when(some, |g| loop_stage(g, kernel, analysis, stage, row, begin, end));
                }
            });
            if kernel.reductions_of(stage).next().is_some() {
                phase(g, analysis, 2 * stage + 1, |g| fold::merge_leaves(g, kernel, analysis, stage));
            }
        }
        Vec::new()
    });
}

/// Emits a phase, skipped unless the call asks for it. Splittable kernels always run all phases.
fn phase(g: &mut Gen<'_>, analysis: &Analysis, number: usize, emit: impl FnOnce(&mut Gen<'_>)) {
    if analysis.splittable {
        return emit(g);
    }
    let (first, last) = (field!(g, first), field!(g, last));
    let count = g.b.ins().isub(last, first);
    let number = g.int(types::I64, number as i64);
    let distance = g.b.ins().isub(number, first);
    let wanted = g.b.ins().icmp(IntCC::UnsignedLessThan, distance, count);
    g.when(wanted, emit);
}

fn loop_stage(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    analysis: &Analysis,
    stage: usize,
    row: ir::Value,
    begin: ir::Value,
    end: ir::Value,
) {
    let mut body = Loop::new(g, kernel, analysis, stage, row, &RowValues::default());
    let lanes = lanes_for(kernel, analysis, stage, &g.target);
    if kernel.reductions_of(stage).next().is_some() {
        return fold::leaves(g, kernel, analysis, &mut body, lanes, (begin, end));
    }
    plain_loop(g, &mut body, lanes, begin, end, |_, _, _| {}, |_, _, _| {});
}

/// Emits a loop over elements: the vector body while it fits, the scalar body for the rest. The sinks get the values
/// of each body and the index of its first element.
pub(super) fn plain_loop<'k>(
    g: &mut Gen<'_>,
    body: &mut Loop<'k>,
    lanes: usize,
    begin: ir::Value,
    end: ir::Value,
    vector_sink: impl FnOnce(&mut Gen<'_>, &super::body::VectorValues, (&Loop<'k>, ir::Value)),
    scalar_sink: impl FnOnce(&mut Gen<'_>, &super::body::ScalarValues, (&Loop<'k>, ir::Value)),
) {
    let mut from = begin;
    if lanes > 1 {
        let len = g.b.ins().isub(end, begin);
        let whole = g.b.ins().band_imm_s(len, -(lanes as i64));
        let stop = g.b.ins().iadd(begin, whole);
        let some = g.b.ins().icmp(IntCC::UnsignedLessThan, begin, stop);
        g.when(some, |g| {
            body.splat_uniforms(g);
            g.count_loop(begin, stop, lanes as i64, &[], |g, index, _| {
                let values = body.vector_body(g, index, lanes);
                vector_sink(g, &values, (body, index));
                Vec::new()
            });
        });
        from = stop;
    }
    g.count_loop(from, end, 1, &[], |g, index, _| {
        let values = body.scalar_body(g, index);
        scalar_sink(g, &values, (body, index));
        Vec::new()
    });
}
