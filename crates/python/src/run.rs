//! One call: inputs in, results made by NumPy, and the kernels in between: at once if they are quick, without the GIL if
//! they take longer, and on a thread of their own, so that Ctrl-C is heard, if they take long.

use crate::error::{raise, refuse};
use crate::input::Input;
use crate::raw;
use numfuse::{ArrayMut, ArrayRef, CancelToken, Code, Diagnostic, FunctionCall, KnownCall, RawArray};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Calls that take less keep the GIL: they are over before another thread could have made use of it.
const QUICK: Duration = Duration::from_micros(10);
/// Calls that take more may take so long that someone presses Ctrl-C.
const LONG: Duration = Duration::from_millis(50);
/// How often a long call looks for signals.
const TICK: Duration = Duration::from_millis(20);

/// What the names of an expression are bound to, in order.
pub type Inputs<'py> = SmallVec<[Input<'py>; 4]>;
type Outputs<'o> = SmallVec<[ArrayMut<'o>; 2]>;
type Arrays<'py> = SmallVec<[Bound<'py, PyUntypedArray>; 2]>;

/// Calls a function with plain arrays, or none, for its names, if one of its last calls was like this one; nothing if there
/// was none such, or if there is something to be said about `out`: then [`run`] is to be called. It is the same
/// without looking at anything twice.
#[inline]
pub fn run_known<'py>(
    py: Python<'py>,
    function: &numfuse::Function,
    inputs: &[Option<RawArray<'_>>],
    out: Option<Borrowed<'_, 'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let ran = function.with_known(inputs, |call| {
        if call.estimate() >= LONG {
            return Ok(None);
        }
        let Some(out) = out else { return run_into_new(py, &call, inputs) };
        match raw::array(out) {
            Some((output, true)) if run_into_known(py, &call, &[output])? => Ok(Some(out.to_owned())),
            _ => Ok(None),
        }
    });
    ran.unwrap_or(Ok(None))
}

/// Runs a call into new arrays, if those have been used before: they are row-major.
#[inline]
fn run_into_new<'py>(
    py: Python<'py>,
    call: &KnownCall<'_>,
    inputs: &[Option<RawArray<'_>>],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut results: Arrays<'py> = SmallVec::new();
    for (dtype, shape) in call.results() {
        let has_shape = |input: &&RawArray<'_>| input.shape().iter().map(|n| *n as u64).eq(shape.iter().copied());
        let of_same_shape = inputs.iter().flatten().filter(has_shape);
        if order(shape, of_same_shape.map(RawArray::strides)).is_some() {
            return Ok(None);
        }
        results.push(raw::new_array(py, dtype, shape, None)?);
    }
    let mut outputs: SmallVec<[RawArray<'_>; 2]> = SmallVec::new();
    for array in &results {
        outputs.extend(raw::array(array.as_any().as_borrowed()).map(|(array, _)| array));
    }
    if !run_into_known(py, call, &outputs)? {
        return Ok(None);
    }
    drop(outputs);
    python_results(py, results).map(Some)
}

/// Runs a call into arrays, if it can be done at once.
#[inline]
fn run_into_known<'a>(py: Python<'_>, call: &KnownCall<'a>, outputs: &[RawArray<'a>]) -> PyResult<bool> {
    let Some(ready) = call.with_outputs(outputs) else { return Ok(false) };
    let ran = if call.estimate() < QUICK { ready.run() } else { py.detach(|| ready.run()) };
    ran.map(|()| true).map_err(|e| raise(py, &e))
}

/// What Python gets: an array, or a tuple of several.
#[inline]
fn python_results<'py>(py: Python<'py>, mut results: Arrays<'py>) -> PyResult<Bound<'py, PyAny>> {
    match results.len() {
        1 => Ok(results.remove(0).into_any()),
        _ => Ok(PyTuple::new(py, results)?.into_any()),
    }
}

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
    let call = py.detach(|| function.bind(&views)).map_err(|e| raise(py, &e))?;
    if let Some(out) = out {
        write(py, &call, &given(out)?)?;
        return Ok(out.clone());
    }
    let mut results: Arrays<'py> = SmallVec::new();
    for (dtype, shape) in call.results() {
        let of_same_shape = views.iter().flatten().filter(|view| view.shape() == shape);
        let order = order(shape, of_same_shape.map(ArrayRef::strides));
        results.push(raw::new_array(py, dtype, shape, order.as_deref())?);
    }
    write(py, &call, &results)?;
    python_results(py, results)
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
fn order<'a>(shape: &[u64], of_same_shape: impl Iterator<Item = &'a [isize]>) -> Option<SmallVec<[usize; 4]>> {
    // With one element along an axis, or none, its stride says nothing.
    if shape.len() < 2 || shape.iter().any(|n| *n < 2) {
        return None;
    }
    let mut strides = of_same_shape.filter(|strides| !strides.contains(&0));
    let axes = axes_by_stride(strides.next()?);
    let is_row_major = axes.is_sorted();
    (!is_row_major && strides.all(|strides| axes_by_stride(strides) == axes)).then_some(axes)
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
