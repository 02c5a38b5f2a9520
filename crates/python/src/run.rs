//! One call: inputs in, results made by NumPy, and the kernels in between: at once if they are quick, without the GIL if
//! they take longer, and on a thread of their own, so that Ctrl-C is heard, if they take long.

use crate::error::{raise, refuse};
use crate::input::Input;
use crate::raw;
use numfuse::{ArrayMut, ArrayRef, CancelToken, Code, Diagnostic, FunctionCall};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Calls that take less keep the GIL: they are over before another thread could have made use of it.
const QUICK: Duration = Duration::from_micros(5);
/// Calls that take more may take so long that someone presses Ctrl-C.
const LONG: Duration = Duration::from_millis(50);
/// How often a long call looks for signals.
const TICK: Duration = Duration::from_millis(20);

/// What the names of an expression are bound to, in order.
pub type Inputs<'py> = SmallVec<[Input<'py>; 4]>;
type Outputs<'o> = SmallVec<[ArrayMut<'o>; 2]>;
type Arrays<'py> = SmallVec<[Bound<'py, PyUntypedArray>; 2]>;

/// Calls a function, into `out` if it is given; returns what Python gets.
pub fn run<'py>(
    py: Python<'py>,
    function: &numfuse::Function,
    inputs: &Inputs<'py>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut views: SmallVec<[Option<ArrayRef<'_>>; 4]> = SmallVec::new();
    for input in inputs {
        views.push(input.view().map_err(|e| raise(py, &e))?);
    }
    let call = match function.bind_known(&views) {
        Some(call) => call,
        None => py.detach(|| function.bind(&views)).map_err(|e| raise(py, &e))?,
    };
    if let Some(out) = out {
        write(py, &call, &given(out)?)?;
        return Ok(out.clone());
    }
    let mut results: Arrays<'py> = SmallVec::new();
    for (dtype, shape) in call.results() {
        let order = order(shape, &views);
        results.push(raw::new_array(py, dtype, shape, order.as_deref())?);
    }
    write(py, &call, &results)?;
    match results.len() {
        1 => Ok(results.remove(0).into_any()),
        _ => Ok(PyTuple::new(py, results)?.into_any()),
    }
}

/// Runs a call into arrays.
fn write(py: Python<'_>, call: &FunctionCall<'_, '_>, arrays: &[Bound<'_, PyUntypedArray>]) -> PyResult<()> {
    let mut outputs: Outputs<'_> = SmallVec::new();
    for array in arrays {
        outputs.push(output(array)?);
    }
    // Other layouts may be new to the kernels, which then are compiled.
    let is_ready = arrays.iter().all(|array| array.is_c_contiguous());
    match call.estimate() {
        time if time < QUICK && is_ready => call.run_into(outputs, None),
        time if time < LONG => py.detach(|| call.run_into(outputs, None)),
        _ => return run_long(py, call, outputs),
    }
    .map_err(|e| raise(py, &e))
}

/// Runs a call on a thread of its own. This one looks for signals, which Python handles on its main thread only; if a
/// handler raises, as that of Ctrl-C does, the call is cancelled.
fn run_long(py: Python<'_>, call: &FunctionCall<'_, '_>, mut outputs: Outputs<'_>) -> PyResult<()> {
    let token = CancelToken::new();
    let (ran, raised) = py.detach(|| {
        let ran = std::thread::scope(|scope| {
            let (done, waiting) = channel();
            let lent: Outputs<'_> = outputs.iter_mut().map(ArrayMut::reborrow).collect();
            let token = &token;
            let run = move || {
                // Nobody waits only if a signal has ended the call.
                let _ = done.send(call.run_into(lent, Some(token)));
            };
            std::thread::Builder::new().name("numfuse-call".into()).spawn_scoped(scope, run).ok()?;
            let mut raised = None;
            loop {
                match waiting.recv_timeout(TICK) {
                    Ok(ran) => return Some((ran, raised)),
                    Err(RecvTimeoutError::Disconnected) => return Some((Err(panicked()), raised)),
                    Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                        if let Some(Err(error)) = Python::try_attach(|py| py.check_signals()) {
                            token.cancel();
                            raised = Some(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        });
        // Without a thread of its own the call runs on this one.
        ran.unwrap_or_else(|| (call.run_into(outputs, None), None))
    });
    match raised {
        Some(error) => Err(error),
        None => ran.map_err(|e| raise(py, &e)),
    }
}

fn panicked() -> numfuse::Error {
    numfuse::Error::new(Code::Internal, "the call panicked")
}

/// The axes of a result that lies in memory as the inputs of its shape do, the outermost first; none if that is row by
/// row.
fn order(shape: &[u64], inputs: &[Option<ArrayRef<'_>>]) -> Option<SmallVec<[usize; 4]>> {
    // With one element along an axis, or none, its stride says nothing.
    if shape.len() < 2 || shape.iter().any(|n| *n < 2) {
        return None;
    }
    let is_broadcast = |input: &ArrayRef<'_>| input.shape() != shape || input.strides().contains(&0);
    let mut inputs = inputs.iter().flatten().filter(|input| !is_broadcast(input));
    let axes = axes_by_stride(inputs.next()?.strides());
    let is_row_major = axes.is_sorted();
    (!is_row_major && inputs.all(|input| axes_by_stride(input.strides()) == axes)).then_some(axes)
}

/// The axes from the one with the longest steps in memory to the one with the shortest.
fn axes_by_stride(strides: &[isize]) -> SmallVec<[usize; 4]> {
    let mut axes: SmallVec<[usize; 4]> = (0..strides.len()).collect();
    axes.sort_by_key(|axis| std::cmp::Reverse(strides[*axis].unsigned_abs()));
    axes
}

/// The arrays of `out=`.
fn given<'py>(out: &Bound<'py, PyAny>) -> PyResult<Arrays<'py>> {
    if let Ok(array) = out.cast::<PyUntypedArray>() {
        return Ok(SmallVec::from_iter([array.clone()]));
    }
    let wrong = |object: &Bound<'py, PyAny>| {
        let title = format!("`out` is a `{}`", object.get_type());
        let error = Diagnostic::new(Code::Output, title);
        refuse(out.py(), error.hint("give a `numpy.ndarray`, or a tuple of one for each result"))
    };
    let Ok(arrays) = out.cast::<PyTuple>() else { return Err(wrong(out)) };
    arrays.iter().map(|array| array.cast_into::<PyUntypedArray>().map_err(|e| wrong(&e.into_inner()))).collect()
}

/// An array to write to.
fn output<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<ArrayMut<'a>> {
    let wrong = |title: String, hint: &str| refuse(array.py(), Diagnostic::new(Code::Output, title).hint(hint));
    if !raw::is_writeable(array) {
        return Err(wrong("`out` is read-only".to_owned(), "give an array whose `flags.writeable` is true"));
    }
    match raw::dtype(array) {
        Some(dtype) => raw::view_mut(array, dtype).map_err(|e| raise(array.py(), &e)),
        None => {
            let hint = "give an array of the result's dtype, and convert it afterwards";
            Err(wrong(format!("`out` has dtype {}", array.dtype()), hint))
        }
    }
}
