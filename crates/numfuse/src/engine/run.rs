//! One evaluation: memory for the results and temporaries, the steps in order, and what must not happen afterwards.
//!
//! Outputs that overlap inputs give the same result as outputs that do not. A single elementwise kernel whose input lies
//! exactly where it writes runs in place; any other input that shares memory with an output is copied first.
//!
//! Invariant: results are handed out only after every step has run and every guard has been looked at.

use super::Shared;
use super::limits::{CancelToken, Flag};
use super::program::{Call, Program, Slot, is_own};
use crate::array::Array;
use crate::env::AsArrayRef;
use crate::error::{Error, Result};
use crate::layout::overlap;
use crate::view::{Arena, ArrayMut, ArrayRef, Frame, Memory};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_cpu::RunOptions;
use smallvec::SmallVec;

/// The results of one evaluation.
pub type Results = SmallVec<[Array; 1]>;

/// Evaluates a program into new arrays.
pub(crate) fn run(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    token: Option<&CancelToken>,
) -> Result<Results> {
    let flag = Flag::new(token, shared.limits.time);
    let call = program.call(shared, inputs, None)?;
    let mut results = Results::new();
    for (dtype, place) in &call.outputs {
        results.push(Array::uninitialized_at(*dtype, place.clone())?);
    }
    let outputs: SmallVec<[ArrayMut<'_>; 2]> = results.iter_mut().map(Array::view_mut).collect();
    steps(shared, &call, inputs, outputs, &flag).map_err(|e| e.with_text(program.text.as_ref()))?;
    Ok(results)
}

/// Evaluates a program into arrays of the caller.
pub(crate) fn run_into(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    outputs: SmallVec<[ArrayMut<'_>; 2]>,
    token: Option<&CancelToken>,
) -> Result<()> {
    let flag = Flag::new(token, shared.limits.time);
    let call = program.call(shared, inputs, Some(&outputs))?;
    let spans: SmallVec<[_; 2]> = outputs.iter().map(ArrayMut::span).collect();
    for (i, span) in spans.iter().enumerate() {
        if spans[..i].iter().any(|other| overlap(span, other)) {
            return Err(Diagnostic::new(Code::Output, "two outputs share memory")
                .why("the second would overwrite the first")
                .into());
        }
    }
    let shares = |input: &ArrayRef<'_>| spans.iter().any(|span| overlap(span, &input.span()));
    let in_text = |error: Error| error.with_text(program.text.as_ref());
    if !inputs.iter().any(|input| shares(input)) || runs_in_place(&call, inputs, &outputs) {
        return steps(shared, &call, inputs, outputs, &flag).map_err(in_text);
    }
    let copies: SmallVec<[Option<Array>; 3]> =
        inputs.iter().map(|i| shares(i).then(|| Array::copy_of(*i)).transpose()).collect::<Result<_>>()?;
    let views: SmallVec<[ArrayRef<'_>; 3]> = inputs
        .iter()
        .zip(&copies)
        .map(|(input, copy)| copy.as_ref().map_or_else(|| (*input).clone(), AsArrayRef::as_array_ref))
        .collect();
    let inputs: SmallVec<[&ArrayRef<'_>; 3]> = views.iter().collect();
    let call = program.call(shared, &inputs, Some(&outputs))?;
    steps(shared, &call, &inputs, outputs, &flag).map_err(in_text)
}

/// True if the call is one kernel that reads each element where it writes it, if it reads what is written at all.
fn runs_in_place(call: &Call, inputs: &[&ArrayRef<'_>], outputs: &[ArrayMut<'_>]) -> bool {
    let copies_results = (0..outputs.len()).any(|n| !is_own(&call.variant.plan, n));
    let [(kernel, step)] = call.steps.as_slice() else { return false };
    !copies_results
        && step.runs_in_place(kernel, |buffer| match call.buffers[buffer.index()] {
            Slot::Input(n) => inputs[n as usize].first(),
            Slot::Output(n) => outputs[n as usize].as_ref().first(),
            Slot::Temp { .. } => None,
        })
}

/// Runs the steps of a call into outputs at its places, which share no memory with inputs unless it runs in place.
pub(super) fn steps(
    shared: &Shared,
    call: &Call,
    inputs: &[&ArrayRef<'_>],
    mut outputs: SmallVec<[ArrayMut<'_>; 2]>,
    flag: &Flag<'_>,
) -> Result<()> {
    let plan = &call.variant.plan;
    let mut cells: SmallVec<[u64; 4]> = SmallVec::from_elem(0, inputs.len());
    let mut memory = if call.arena_bytes > 0 { Some(Memory::uninit(call.arena_bytes)?) } else { None };
    let arena = memory.as_mut().map(Arena::new);
    {
        // The plan has one buffer for each input and at most one for each output.
        let twice = || Error::new(Code::Internal, "a plan with two buffers for one array");
        let mut cells = cells.iter_mut();
        let mut outputs: SmallVec<[Option<&mut ArrayMut<'_>>; 2]> = outputs.iter_mut().map(Some).collect();
        let mut frame = Frame::new();
        for slot in &call.buffers {
            match *slot {
                Slot::Input(n) => frame.push_input(inputs[n as usize], cells.next().ok_or_else(twice)?),
                Slot::Output(n) => frame.push_output(outputs[n as usize].take().ok_or_else(twice)?.reborrow()),
                Slot::Temp { offset, len } => match &arena {
                    Some(arena) => frame.push_temp(arena, offset, len)?,
                    None => return Err(Error::new(Code::Internal, "a temporary without memory")),
                },
            }
        }
        let options = RunOptions { threads: shared.threads, cancel: flag.get() };
        for (_, step) in &call.steps {
            if flag.is_set() {
                return Err(stopped(flag));
            }
            frame.run(step, &options).map_err(|e| if e.code() == Code::Cancelled { stopped(flag) } else { e })?;
        }
        for (guard, buffer) in plan.graph.guards.iter().zip(&plan.guards) {
            if frame.truth(*buffer) {
                return Err(guard.error.clone().into());
            }
        }
    }
    // Outputs that are the same node were computed once.
    for n in 0..outputs.len() {
        if let Slot::Output(own) = call.buffers[plan.outputs[n].index()]
            && own as usize != n
        {
            let (before, after) = outputs.split_at_mut(n);
            after[0].copy_from(&before[own as usize].as_ref())?;
        }
    }
    Ok(())
}

fn stopped(flag: &Flag<'_>) -> Error {
    if flag.is_late() {
        return Diagnostic::new(Code::Cancelled, "the evaluation took too long").why("`Limits::time` is over").into();
    }
    Error::new(Code::Cancelled, "the evaluation was cancelled")
}
