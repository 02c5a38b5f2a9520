//! Python objects as inputs: arrays as they lie in memory, also in that of a device, numbers by value, and anything else as
//! `numpy.asarray` has it.

use crate::array::Operand;
use crate::error::refuse;
use crate::raw;
use numfuse::{ArrayRef, Code, DType, Diagnostic};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyFloatMethods, PyInt};

/// What a name is bound to.
pub enum Input<'py> {
    /// An array that numfuse can compute with.
    Array(Bound<'py, PyUntypedArray>, DType),
    /// An array on a device, of ours or of another library; boxed, since other inputs are small.
    Device(Box<Operand>),
    /// A number of Python, whose dtype gives way to that of any array.
    Number(Number),
    /// Nothing: the name of a constant, such as `pi`.
    Unbound,
}

/// A number of Python.
#[derive(Clone, Copy)]
pub enum Number {
    Bool(bool),
    Signed(i64),
    /// One that is too large for the others.
    Unsigned(u64),
    Float(f64),
}

impl<'py> Input<'py> {
    /// An object as an input; `name` is what messages call it.
    #[inline]
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Input<'py>> {
        if raw::is_plain_array(object.as_borrowed())
            && let Ok(array) = object.cast::<PyUntypedArray>()
            && let Some(dtype) = raw::dtype(array)
        {
            return Ok(Input::Array(array.clone(), dtype));
        }
        if let Ok(number) = object.cast_exact::<PyFloat>() {
            return Ok(Input::Number(Number::Float(number.value())));
        }
        rare(object, name)
    }

    /// The array, borrowed.
    #[inline]
    pub fn view(&self) -> numfuse::Result<Option<ArrayRef<'_>>> {
        match self {
            Input::Array(array, dtype) => raw::view(array, *dtype).map(Some),
            Input::Device(operand) => Ok(Some(operand.view())),
            Input::Number(Number::Bool(value)) => Ok(Some(ArrayRef::number(*value))),
            Input::Number(Number::Signed(value)) => Ok(Some(ArrayRef::number(*value))),
            Input::Number(Number::Unsigned(value)) => Ok(Some(ArrayRef::number(*value))),
            Input::Number(Number::Float(value)) => Ok(Some(ArrayRef::number(*value))),
            Input::Unbound => Ok(None),
        }
    }
}

#[cold]
fn rare<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Input<'py>> {
    let py = object.py();
    if let Ok(truth) = object.cast_exact::<PyBool>() {
        return Ok(Input::Number(Number::Bool(truth.is_true())));
    }
    // Scalars of NumPy have a dtype of their own; some of them are Python numbers as well.
    if !raw::is_scalar(object) {
        if object.is_instance_of::<PyInt>() {
            return integer(object, name);
        }
        if object.is_instance_of::<PyFloat>() {
            return Ok(Input::Number(Number::Float(object.extract::<f64>()?)));
        }
    }
    if is_masked(object)? {
        let error = Diagnostic::new(Code::DTypeMismatch, format!("input `{name}` is a masked array"));
        let error = error.why("numfuse would compute with what is under the mask");
        return Err(refuse(py, error.hint(format!("fill it: `{name}.filled(...)`, for example with `numpy.nan`"))));
    }
    let array = match object.cast::<PyUntypedArray>() {
        Ok(array) => array.clone(),
        Err(_) => {
            if let Some(operand) = Operand::new(object, &format!("input `{name}`"))? {
                return Ok(Input::Device(Box::new(operand)));
            }
            let made = py.import(intern!(py, "numpy"))?.call_method1(intern!(py, "asarray"), (object,))?;
            made.cast_into::<PyUntypedArray>()?
        }
    };
    match raw::dtype(&array) {
        Some(dtype) => Ok(Input::Array(array, dtype)),
        None => Err(unsupported(&array, object, name)),
    }
}

fn integer<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Input<'py>> {
    if let Ok(value) = object.extract::<i64>() {
        return Ok(Input::Number(Number::Signed(value)));
    }
    if let Ok(value) = object.extract::<u64>() {
        return Ok(Input::Number(Number::Unsigned(value)));
    }
    let error = Diagnostic::new(Code::LiteralRange, format!("input `{name}` is an integer of more than 64 bits"));
    Err(refuse(object.py(), error.hint(format!("`float({name})` is a number that fits"))))
}

/// True for `numpy.ma.MaskedArray`; where nobody has imported `numpy.ma`, there is none.
fn is_masked(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    match modules.cast::<PyDict>()?.get_item(intern!(py, "numpy.ma"))? {
        Some(module) => object.is_instance(&module.getattr(intern!(py, "MaskedArray"))?),
        None => Ok(false),
    }
}

fn unsupported(array: &Bound<'_, PyUntypedArray>, object: &Bound<'_, PyAny>, name: &str) -> PyErr {
    let make = || {
        let dtype = array.dtype();
        let kind: char = dtype.getattr("kind")?.extract()?;
        let native: bool = dtype.getattr("isnative")?.extract()?;
        let size: usize = dtype.getattr("itemsize")?.extract()?;
        let is_array = object.is_instance_of::<PyUntypedArray>();
        let title = if is_array {
            format!("input `{name}` has dtype {dtype}")
        } else {
            format!("input `{name}` is a `{}`, as an array of dtype {dtype}", object.get_type().name()?)
        };
        let hint = match kind {
            'f' | 'i' | 'u' if !native => {
                format!("swap the bytes: `{name}.astype({name}.dtype.newbyteorder(\"=\"))`")
            }
            'f' if size == 2 => format!("convert it: `{name}.astype(numpy.float32)`"),
            'f' => format!("convert it: `{name}.astype(numpy.float64)`"),
            'c' => format!("compute with `{name}.real` and `{name}.imag`"),
            'M' | 'm' => format!("look at it as integers: `{name}.view(numpy.int64)`"),
            'O' => format!("convert it: `numpy.asarray({name}, dtype=float)`"),
            'V' => format!("bind one of its fields: `{name}[\"field\"]`"),
            _ => format!("convert it to numbers: `{name}.astype(float)`"),
        };
        let error = Diagnostic::new(Code::DTypeMismatch, title);
        let why = "elements are bools, integers of 8 to 64 bits, float32 or float64, in the byte order of the machine";
        PyResult::Ok(refuse(array.py(), error.why(why).hint(hint)))
    };
    make().unwrap_or_else(|e| e)
}
