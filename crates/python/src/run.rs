//! One call: inputs in, results made by NumPy, the kernels without the GIL if they take long.

use crate::error::{raise, refuse};
use crate::input::Input;
use crate::raw;
use numfuse::{ArrayMut, ArrayRef, Code, Diagnostic, FunctionCall};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use smallvec::SmallVec;

/// Calls with at most so many elements keep the GIL: releasing it and getting it back takes longer than other threads
/// would wait.
const SMALL: usize = 512;

pub type Inputs<'py> = SmallVec<[Input<'py>; 4]>;

/// Calls a function, into `out` if it is given; returns what Python gets.
pub fn run<'py>(
    py: Python<'py>,
    function: &numfuse::Function,
    inputs: &Inputs<'py>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let views: numfuse::Result<SmallVec<[Option<ArrayRef<'_>>; 4]>> = inputs.iter().map(Input::view).collect();
    let views = views.map_err(|e| raise(py, &e))?;
    let largest = inputs.iter().map(Input::len).max().unwrap_or(1);
    if let Some(out) = out {
        return run_into(py, function, &views, largest, out);
    }
    let call = match function.bind_known(&views) {
        Some(call) => call,
        None => py.detach(|| function.bind(&views)).map_err(|e| raise(py, &e))?,
    };
    let mut results: SmallVec<[Bound<'py, PyUntypedArray>; 2]> = SmallVec::new();
    let mut elements = largest;
    for (dtype, shape) in call.results() {
        let result = raw::new_array(py, dtype, shape)?;
        elements = elements.max(result.len());
        results.push(result);
    }
    finish(py, &call, &results, elements <= SMALL)?;
    if results.len() == 1
        && let Some(result) = results.pop()
    {
        return Ok(result.into_any());
    }
    Ok(PyTuple::new(py, results)?.into_any())
}

fn finish<'py>(
    py: Python<'py>,
    call: &FunctionCall<'_, '_>,
    results: &[Bound<'py, PyUntypedArray>],
    small: bool,
) -> PyResult<()> {
    let outputs: numfuse::Result<Vec<ArrayMut<'_>>> =
        results.iter().zip(call.results()).map(|(array, (dtype, _))| raw::view_mut(array, dtype)).collect();
    let ran =
        outputs.and_then(
            |outputs| {
                if small { call.run_into(outputs, None) } else { py.detach(|| call.run_into(outputs, None)) }
            },
        );
    ran.map_err(|e| raise(py, &e))
}

fn run_into<'py>(
    py: Python<'py>,
    function: &numfuse::Function,
    views: &[Option<ArrayRef<'_>>],
    largest: usize,
    out: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arrays: SmallVec<[Bound<'py, PyAny>; 2]> = if let Ok(tuple) = out.cast::<PyTuple>() {
        tuple.iter().collect()
    } else if let Ok(list) = out.cast::<PyList>() {
        list.iter().collect()
    } else {
        SmallVec::from_iter([out.clone()])
    };
    let mut outputs = Vec::with_capacity(arrays.len());
    let mut elements = largest;
    for array in &arrays {
        let output = output(array)?;
        elements = elements.max(array.cast::<PyUntypedArray>()?.len());
        outputs.push(output);
    }
    let ran = if elements <= SMALL {
        function.run_into(views, outputs, None)
    } else {
        py.detach(|| function.run_into(views, outputs, None))
    };
    ran.map_err(|e| raise(py, &e))?;
    Ok(out.clone())
}

/// An array to write to.
fn output<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<ArrayMut<'a>> {
    let py = object.py();
    let wrong = |title: String, hint: &str| refuse(py, Diagnostic::new(Code::Output, title).hint(hint));
    let Ok(array) = object.cast::<PyUntypedArray>() else {
        let hint = "give a `numpy.ndarray`, or a tuple of one for each result";
        return Err(wrong(format!("`out` is a `{}`", object.get_type().name()?), hint));
    };
    if !raw::is_writeable(array) {
        return Err(wrong("`out` is read-only".to_owned(), "give an array with `flags.writeable`"));
    }
    let Some(dtype) = raw::dtype(array) else {
        let title = format!("`out` has dtype {}", array.dtype());
        return Err(wrong(title, "give an array of the result's dtype, and convert it afterwards"));
    };
    raw::view_mut(array, dtype).map_err(|e| raise(py, &e))
}
