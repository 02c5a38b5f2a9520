//! One evaluation: memory for the results and temporaries, the steps in order, and what must not happen afterwards.
//!
//! Outputs that overlap inputs give the same result as outputs that do not. A single elementwise kernel whose input lies
//! exactly where it writes runs in place; any other input that shares memory with an output is copied first.
//!
//! Invariant: results are handed out only after every step has run and every guard has been looked at.

use super::limits::{CancelToken, Flag};
use super::program::{Call, Program};
use super::{Shared, device};
use crate::array::Array;
use crate::env::AsArrayRef;
use crate::error::{Error, Result};
use crate::layout::overlap;
use crate::view::{ArrayMut, ArrayRef, Ended, Fit, Lent, Overlap};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_cpu::RunOptions;
use smallvec::SmallVec;

/// The results of one evaluation.
pub type Results = SmallVec<[Array; 1]>;

/// Evaluates a program into new arrays.
#[inline]
pub(crate) fn run(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    token: Option<&CancelToken>,
) -> Result<Results> {
    let flag = Flag::new(token, shared.limits.time);
    let results = match shared.device.backend() {
        None => program.with_call(shared, inputs, None, |call, fit| steps(shared, call, fit, &flag)),
        Some(backend) => device::run(shared, backend, program, inputs, &flag),
    };
    results.map_err(|error| error.with_text(program.text.as_ref()))
}

/// Evaluates a program into arrays of the caller. If a call for these inputs is known it is tried first.
#[inline]
pub(crate) fn run_into(
    shared: &Shared,
    program: &Program,
    known: Option<&Call>,
    inputs: &[&ArrayRef<'_>],
    outputs: &mut [ArrayMut<'_>],
    token: Option<&CancelToken>,
) -> Result<()> {
    let flag = Flag::new(token, shared.limits.time);
    match shared.device.backend() {
        None => run_into_here(shared, program, known, inputs, outputs, &flag),
        Some(backend) => device::run_into(shared, backend, program, known, inputs, outputs, &flag),
    }
    .map_err(|error| error.with_text(program.text.as_ref()))
}

/// As [`run_into`], where all arrays are where the engine computes.
#[inline]
pub(super) fn run_into_here(
    shared: &Shared,
    program: &Program,
    known: Option<&Call>,
    inputs: &[&ArrayRef<'_>],
    outputs: &mut [ArrayMut<'_>],
    flag: &Flag<'_>,
) -> Result<()> {
    let into = |call: &Call, fit: Fit<'_, '_>| match fit.overlap() {
        Overlap::Apart | Overlap::InPlace => steps_into(shared, call, fit, flag).map(|()| true),
        Overlap::Inputs => Ok(false),
        Overlap::Outputs => {
            let error = Diagnostic::new(Code::Output, "two outputs share memory");
            Err(error.why("the second would overwrite the first").into())
        }
    };
    let done = match known.and_then(|call| Some((call, call.steps.fit(inputs, Some(&mut *outputs))?))) {
        Some((call, fit)) => into(call, fit),
        None => program.with_call(shared, inputs, Some(&mut *outputs), into),
    };
    match done {
        Ok(true) => Ok(()),
        Ok(false) => run_with_copies(shared, program, inputs, outputs, flag),
        Err(error) => Err(error),
    }
}

/// Evaluates a program into arrays of the caller, with copies of the inputs that share memory with them.
#[cold]
fn run_with_copies(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    outputs: &mut [ArrayMut<'_>],
    flag: &Flag<'_>,
) -> Result<()> {
    let shares = |input: &ArrayRef<'_>| outputs.iter().any(|output| overlap(&output.span(), &input.span()));
    let copies: SmallVec<[Option<Array>; 3]> =
        inputs.iter().map(|i| shares(i).then(|| Array::copy_of(*i)).transpose()).collect::<Result<_>>()?;
    let views: SmallVec<[ArrayRef<'_>; 3]> = inputs
        .iter()
        .zip(&copies)
        .map(|(input, copy)| copy.as_ref().map_or_else(|| (*input).clone(), AsArrayRef::as_array_ref))
        .collect();
    let inputs: SmallVec<[&ArrayRef<'_>; 8]> = views.iter().collect();
    program.with_call(shared, &inputs, Some(outputs), |call, fit| steps_into(shared, call, fit, flag))
}

/// Runs the steps of a call.
#[inline]
pub(super) fn steps(shared: &Shared, call: &Call, fit: Fit<'_, '_>, flag: &Flag<'_>) -> Result<Results> {
    let options = RunOptions { threads: shared.threads, cancel: flag.get() };
    let go_on = || !flag.is_set();
    let ran = if shared.device.is_cpu() { fit.run(&options, go_on) } else { fit.run_on_device(go_on) };
    ran.map_err(|ended| why(call, ended, flag))
}

/// Runs the steps of a call into its outputs.
#[inline]
fn steps_into(shared: &Shared, call: &Call, fit: Fit<'_, '_>, flag: &Flag<'_>) -> Result<()> {
    let options = RunOptions { threads: shared.threads, cancel: flag.get() };
    let go_on = || !flag.is_set();
    let ran = if shared.device.is_cpu() { fit.run_into(&options, go_on) } else { fit.run_on_device(go_on).map(|_| ()) };
    ran.map_err(|ended| why(call, ended, flag))
}

/// Evaluates a call into arrays that another language has lent, which share no memory with each other.
#[inline]
pub(crate) fn run_lent(shared: &Shared, program: &Program, call: &Call, lent: Lent<'_>) -> Result<()> {
    let flag = Flag::new(None, shared.limits.time);
    let options = RunOptions { threads: shared.threads, cancel: flag.get() };
    let ran = lent.run(&options, || !flag.is_set());
    ran.map_err(|ended| why(call, ended, &flag).with_text(program.text.as_ref()))
}

/// Why there is no result.
#[cold]
fn why(call: &Call, ended: Ended, flag: &Flag<'_>) -> Error {
    match ended {
        Ended::Failed(error) => error,
        Ended::Guard(n) => call.variant.plan.graph.guards[n].error.clone().into(),
        Ended::Cancelled => stopped(flag),
    }
}

#[cold]
fn stopped(flag: &Flag<'_>) -> Error {
    if flag.is_late() {
        return Diagnostic::new(Code::Cancelled, "the evaluation took too long").why("`Limits::time` is over").into();
    }
    Error::new(Code::Cancelled, "the evaluation was cancelled")
}
