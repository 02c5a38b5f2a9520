//! One call: inputs in, results made by NumPy, and the kernels in between: at once if they are quick, without the GIL if
//! they take longer, and on a thread of their own, so that Ctrl-C is heard, if they take long. On a device: work is begun,
//! without the GIL, and results are arrays of the device; those of the host are sent through it.

use crate::array::{DeviceArray, Operand};
use crate::call::Expression;
use crate::error::{raise, refuse};
use crate::input::Input;
use crate::{device, raw};
use numfuse::{ArrayMut, ArrayRef, CancelToken, Code, Device, Diagnostic, Function, FunctionCall, KnownCall, RawArray};
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
type Views<'a> = SmallVec<[Option<ArrayRef<'a>>; 4]>;

/// Calls a function with plain arrays, or none, for its names, if one of its last calls was like this one; nothing if there
/// was none such, or if there is something to be said about `out`: then [`run`] is to be called. It is the same
/// without looking at anything twice.
#[inline]
pub fn run_known<'py>(
    py: Python<'py>,
    function: &Function,
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

/// Evaluates an expression, into `out` if it is given: on the device that is wanted, or where the arrays are. Returns what
/// Python gets.
pub fn run<'py>(
    py: Python<'py>,
    expression: &Expression,
    wanted: Option<&Device>,
    inputs: &Inputs<'py>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let device = match (wanted, out) {
        (Some(wanted), _) => Some(wanted.clone()),
        (None, None) => device::of(inputs),
        (None, Some(out)) => match device::of(inputs) {
            None if !is_of_host(out) => targets(out)?.iter().find_map(Target::device),
            device => device,
        },
    };
    match device.filter(|device| !device.is_cpu()) {
        None => run_on_cpu(py, &expression.function, inputs, out),
        Some(device) => {
            let function = py.detach(|| expression.on(&device)).map_err(|e| raise(py, &e))?;
            let result = run_on_device(py, &function, inputs, out);
            // Also what has failed may have begun to read.
            device::after(py, inputs).and(result)
        }
    }
}

/// Calls a function of a device: with arrays of devices, with those of the host, or with numbers alone.
#[cold]
fn run_on_device<'py>(
    py: Python<'py>,
    function: &Function,
    inputs: &Inputs<'py>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let views = views(py, inputs)?;
    if let Some(out) = out {
        run_into_targets(py, function, &views, targets(out)?)?;
        return Ok(out.clone());
    }
    let is_of_host = |input: &Input<'_>| matches!(input, Input::Array(array, _) if array.ndim() > 0);
    if device::of(inputs).is_some() || !inputs.iter().any(is_of_host) {
        let results = py.detach(|| function.run(&views, None)).map_err(|e| raise(py, &e))?;
        let mut arrays = Vec::new();
        for array in results {
            arrays.push(Bound::new(py, DeviceArray::new(array))?.into_any());
        }
        return match arrays.len() {
            1 => Ok(arrays.remove(0)),
            _ => Ok(PyTuple::new(py, arrays)?.into_any()),
        };
    }
    let types = py.detach(|| function.results(&views)).map_err(|e| raise(py, &e))?;
    let mut results: Arrays<'py> = SmallVec::new();
    for (dtype, shape) in types {
        results.push(raw::new_array(py, dtype, &shape, None)?);
    }
    let mut outputs: Outputs<'_> = SmallVec::new();
    for array in &results {
        outputs.push(output(array)?);
    }
    interruptible(py, outputs, |outputs, token| function.run_into(&views, outputs, token))?;
    python_results(py, results)
}

/// Calls a function of a device into the arrays of `out=`.
fn run_into_targets(
    py: Python<'_>,
    function: &Function,
    views: &Views<'_>,
    mut targets: Vec<Target<'_>>,
) -> PyResult<()> {
    let is_of_host = targets.iter().any(|target| matches!(target, Target::Host(_)));
    let unordered = targets.iter().filter(|t| matches!(t, Target::Device(operand) if operand.is_unordered()));
    let unordered: SmallVec<[Device; 1]> = unordered.filter_map(Target::device).collect();
    let mut outputs: Outputs<'_> = SmallVec::new();
    for target in &mut targets {
        outputs.push(match target {
            Target::Host(array) => output(array)?,
            Target::Device(operand) => operand.view_mut(py)?,
        });
    }
    if is_of_host {
        interruptible(py, outputs, |outputs, token| function.run_into(views, outputs, token))?;
    } else {
        // The call only begins the work.
        py.detach(|| function.run_into(views, outputs, None)).map_err(|e| raise(py, &e))?;
    }
    // Whoever the array is of may read it on a stream that nobody has told of.
    unordered.iter().try_for_each(|device| py.detach(|| device.synchronize())).map_err(|e| raise(py, &e))
}

fn views<'a>(py: Python<'_>, inputs: &'a Inputs<'_>) -> PyResult<Views<'a>> {
    let mut views = Views::new();
    for input in inputs {
        views.push(input.view().map_err(|e| raise(py, &e))?);
    }
    Ok(views)
}

/// Calls a function of the CPU, into `out` if it is given.
fn run_on_cpu<'py>(
    py: Python<'py>,
    function: &Function,
    inputs: &Inputs<'py>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let views = views(py, inputs)?;
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
        _ => return interruptible(py, outputs, |outputs, token| call.run_into(outputs, token)),
    }
    .map_err(|e| raise(py, &e))
}

/// Runs a call on a thread of its own. This one looks for signals, which Python handles on its main thread only; if a
/// handler raises, as that of Ctrl-C does, the call is cancelled.
fn interruptible<'o>(
    py: Python<'_>,
    mut outputs: Outputs<'o>,
    call: impl for<'a> Fn(Outputs<'a>, Option<&CancelToken>) -> numfuse::Result<()> + Sync,
) -> PyResult<()> {
    let token = CancelToken::new();
    let (ran, raised) = py.detach(|| {
        let ran = std::thread::scope(|scope| {
            let (done, waiting) = channel();
            let lent: Outputs<'_> = outputs.iter_mut().map(ArrayMut::reborrow).collect();
            let (token, call) = (&token, &call);
            let run = move || {
                // Nobody waits only if a signal has ended the call.
                let _ = done.send(call(lent, Some(token)));
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
        ran.unwrap_or_else(|| (call(outputs, None), None))
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

/// An array of `out=`.
enum Target<'py> {
    Host(Bound<'py, PyUntypedArray>),
    Device(Operand),
}

impl Target<'_> {
    fn device(&self) -> Option<Device> {
        match self {
            Target::Host(_) => None,
            Target::Device(operand) => Some(operand.device()),
        }
    }
}

/// True if an `out=` has no arrays but those of NumPy.
fn is_of_host(out: &Bound<'_, PyAny>) -> bool {
    let is_array = |object: &Bound<'_, PyAny>| object.is_instance_of::<PyUntypedArray>();
    is_array(out) || out.cast::<PyTuple>().is_ok_and(|arrays| arrays.iter().all(|array| is_array(&array)))
}

/// The arrays of an `out=`, wherever they are.
fn targets<'py>(out: &Bound<'py, PyAny>) -> PyResult<Vec<Target<'py>>> {
    let target = |object: Bound<'py, PyAny>| match object.cast_into::<PyUntypedArray>() {
        Ok(array) => Ok(Target::Host(array)),
        Err(error) => {
            let object = error.into_inner();
            Operand::new(&object, "`out`")?.map(Target::Device).ok_or_else(|| no_output(&object))
        }
    };
    match out.cast::<PyTuple>() {
        Ok(arrays) => arrays.iter().map(target).collect(),
        Err(_) => Ok(vec![target(out.clone())?]),
    }
}

#[cold]
fn no_output(object: &Bound<'_, PyAny>) -> PyErr {
    let error = Diagnostic::new(Code::Output, format!("`out` is a `{}`", object.get_type()));
    refuse(object.py(), error.hint("give a `numpy.ndarray`, an array of a device, or a tuple of one for each result"))
}

/// The arrays of `out=` for a call of the CPU.
fn given<'py>(out: &Bound<'py, PyAny>) -> PyResult<Arrays<'py>> {
    if let Ok(array) = out.cast::<PyUntypedArray>() {
        return Ok(SmallVec::from_iter([array.clone()]));
    }
    let Ok(arrays) = out.cast::<PyTuple>() else { return Err(no_output(out)) };
    arrays.iter().map(|array| array.cast_into::<PyUntypedArray>().map_err(|e| no_output(&e.into_inner()))).collect()
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
