//! Arrays of other libraries on a CUDA device: CuPy, PyTorch, JAX, Numba and whoever else has `__cuda_array_interface__` or
//! DLPack. Nothing is copied.
//!
//! What is to be read is waited for by the device, not by the host: on the stream that the interface tells of, or by the
//! producer, which DLPack gives our stream. Afterwards the other library's stream waits for ours where it is known. DLPack
//! does not tell it: then the default stream does.

use crate::error::{raise, refuse};
use crate::raw::dlpack::{self, Imported};
use crate::raw::foreign::{self, DEFAULT_STREAM, Described};
use numfuse::{Array, Code, DType, Device, Diagnostic};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyTuple};
use std::sync::Arc;

/// An array of another library.
pub struct Foreign {
    pub array: Array,
    pub is_writeable: bool,
    /// Whether the stream that the other library uses it on is not known.
    pub is_unordered: bool,
}

/// An object as an array on a device, if it is one; `what` is what messages call it.
pub fn array(object: &Bound<'_, PyAny>, what: &str) -> PyResult<Option<Foreign>> {
    let py = object.py();
    let place = match object.getattr_opt(intern!(py, "__dlpack_device__"))? {
        Some(place) => Some(place.call0()?.extract::<(i32, i32)>()?),
        None => None,
    };
    if place.is_some_and(|(kind, _)| !matches!(kind, dlpack::CUDA | dlpack::CUDA_MANAGED)) {
        return Ok(None);
    }
    let interface = object.getattr_opt(intern!(py, "__cuda_array_interface__"))?;
    let interface = interface.map(|interface| interface.cast_into::<PyDict>()).transpose()?;
    let index = place.map(|(_, index)| index);
    match interface {
        // Before version 3 it does not say which stream is to be waited for.
        Some(interface) if place.is_none() || version(&interface)? >= 3 => {
            from_interface(object, &interface, &device(py, index, what)?, what).map(Some)
        }
        _ if place.is_some() => from_dlpack(object, &device(py, index, what)?, what).map(Some),
        _ => Ok(None),
    }
}

/// The device of this number; without one, the only one that there is.
fn device(py: Python<'_>, index: Option<i32>, what: &str) -> PyResult<Device> {
    let index = match index {
        Some(index) => usize::try_from(index).unwrap_or(0),
        None if py.detach(Device::all).len() > 2 => {
            let error = Diagnostic::new(Code::DeviceMismatch, format!("{what} does not say which device it is on"));
            return Err(refuse(py, error.hint("there are several; arrays with `__dlpack_device__` do")));
        }
        None => 0,
    };
    py.detach(|| Device::cuda(index)).map_err(|e| raise(py, &e))
}

fn version(interface: &Bound<'_, PyDict>) -> PyResult<i64> {
    interface.get_item(intern!(interface.py(), "version"))?.map_or(Ok(0), |version| version.extract())
}

fn from_interface(
    object: &Bound<'_, PyAny>,
    interface: &Bound<'_, PyDict>,
    device: &Device,
    what: &str,
) -> PyResult<Foreign> {
    let py = object.py();
    let wrong = |part: &str| {
        let title = format!("`__cuda_array_interface__` of {what} has no `{part}` that can be used");
        refuse(py, Diagnostic::new(Code::InputMismatch, title))
    };
    let get = |part: &str| Ok::<_, PyErr>(interface.get_item(part)?.filter(|part| !part.is_none()));
    let need = |part: &str| get(part)?.ok_or_else(|| wrong(part));
    if get("mask")?.is_some() {
        let error = Diagnostic::new(Code::DTypeMismatch, format!("{what} is a masked array"));
        return Err(refuse(py, error.why("numfuse would compute with what is under the mask")));
    }
    let typestr: String = need("typestr")?.extract()?;
    let Some(dtype) = dtype(&typestr) else { return Err(unsupported(py, what, &typestr)) };
    let (address, is_readonly): (u64, bool) = need("data")?.extract()?;
    let shape: Vec<usize> = need("shape")?.extract()?;
    let strides = match get("strides")? {
        Some(strides) => strides.extract()?,
        None => dlpack::row_major(&shape, dtype.size() as isize).ok_or_else(|| wrong("shape"))?,
    };
    let stream = match get("stream")? {
        Some(stream) => Some(stream.extract().ok().filter(|stream| *stream > 0).ok_or_else(|| wrong("stream"))?),
        // Up to version 2 everyone used the default stream; now this says that there is nothing to wait for.
        None => (version(interface)? < 3).then_some(DEFAULT_STREAM),
    };
    let described = Described { address, dtype, shape, strides, stream };
    let array = foreign::array(device, &described, Arc::new(object.clone().unbind())).map_err(|e| raise(py, &e))?;
    Ok(Foreign { array, is_writeable: !is_readonly, is_unordered: stream.is_none() })
}

fn from_dlpack(object: &Bound<'_, PyAny>, device: &Device, what: &str) -> PyResult<Foreign> {
    let py = object.py();
    let export = object.getattr(intern!(py, "__dlpack__"))?;
    let options = [("stream", device.stream())].into_py_dict(py)?;
    let old = options.copy()?;
    options.set_item("max_version", dlpack::VERSION)?;
    let capsule = match export.call((), Some(&options)) {
        // It knows nothing of versions.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => export.call((), Some(&old)),
        capsule => capsule,
    }?;
    let imported = Imported::new(&capsule)?;
    if imported.device().1 != device.index().unwrap_or(0) as i32 {
        let error = Diagnostic::new(Code::DeviceMismatch, format!("{what} is not on the device that it says it is on"));
        return Err(refuse(py, error));
    }
    let Some(described) = imported.describe() else { return Err(unsupported(py, what, &imported.dtype_name())) };
    let is_writeable = imported.is_writeable();
    let array = foreign::array(device, &described, Arc::new(imported)).map_err(|e| raise(py, &e))?;
    Ok(Foreign { array, is_writeable, is_unordered: true })
}

/// As `__cuda_array_interface__` has it, version 3.
pub fn describe<'py>(py: Python<'py>, array: &Array) -> PyResult<Bound<'py, PyDict>> {
    let shape = array.shape();
    let strides = match dlpack::row_major(&shape, array.dtype().size() as isize) {
        Some(row_major) if row_major == array.strides() => None,
        _ => Some(PyTuple::new(py, array.strides())?),
    };
    let interface = PyDict::new(py);
    interface.set_item("shape", PyTuple::new(py, shape)?)?;
    interface.set_item("typestr", typestr(array.dtype()))?;
    interface.set_item("data", (array.device_address().unwrap_or(0), false))?;
    interface.set_item("strides", strides)?;
    interface.set_item("stream", array.device().stream())?;
    interface.set_item("version", 3)?;
    Ok(interface)
}

const TYPES: [(&str, DType); 11] = [
    ("|b1", DType::Bool),
    ("|i1", DType::I8),
    ("<i2", DType::I16),
    ("<i4", DType::I32),
    ("<i8", DType::I64),
    ("|u1", DType::U8),
    ("<u2", DType::U16),
    ("<u4", DType::U32),
    ("<u8", DType::U64),
    ("<f4", DType::F32),
    ("<f8", DType::F64),
];

/// The order of the bytes of a single one says nothing.
fn dtype(typestr: &str) -> Option<DType> {
    let named = |name: &str| TYPES.iter().find(|(known, _)| known[1..] == name[1..] && name.is_ascii());
    let (known, dtype) = named(typestr.get(1..).map(|_| typestr)?)?;
    (known.starts_with('|') || typestr.starts_with(['<', '='])).then_some(*dtype)
}

/// As `numpy.dtype(...).str` has it.
pub fn typestr(dtype: DType) -> &'static str {
    TYPES.iter().find(|(_, known)| *known == dtype).map_or("", |(name, _)| name)
}

fn unsupported(py: Python<'_>, what: &str, dtype: &str) -> PyErr {
    let error = Diagnostic::new(Code::DTypeMismatch, format!("{what} is an array of {dtype} on a device"));
    let why = "elements are bools, integers of 8 to 64 bits, float32 or float64, in the byte order of the machine";
    refuse(py, error.why(why).hint("convert it with the library that it is of"))
}
