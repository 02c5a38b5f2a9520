//! `Device`, `devices` and `to_device`: the CPU and the GPUs, for Python.

use crate::array::{DeviceArray, Operand};
use crate::error::raise;
use crate::input::Input;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// The CPU, or a GPU: ``"cpu"``, ``"cuda:0"``, ``"cuda"``, which is the first one, or ``"auto"``, which is the first one too
/// but the CPU where there is none.
///
/// >>> import numfuse
/// >>> numfuse.Device("cpu")
/// numfuse.Device('cpu')
/// >>> str(numfuse.Device("cpu"))
/// 'cpu'
///
/// What takes a device takes its name as well.
#[pyclass(frozen, module = "numfuse")]
pub struct Device(numfuse::Device);

impl Device {
    pub fn new(device: numfuse::Device) -> Device {
        Device(device)
    }
}

#[pymethods]
impl Device {
    #[new]
    #[pyo3(signature = (name, /))]
    fn named(py: Python<'_>, name: &str) -> PyResult<Device> {
        // The first time, the driver is loaded.
        py.detach(|| name.parse()).map(Device).map_err(|e| raise(py, &e))
    }

    /// The name, as in ``"cuda:0"``.
    #[getter]
    fn name(&self) -> String {
        self.0.name()
    }

    /// What its memory is used for, in bytes: ``used`` by arrays and temporaries of numfuse, ``peak``, the most that
    /// ever was, ``reserved``, what is used or kept for the next arrays, ``free`` and ``total``, of the device. Of the CPU
    /// nothing is counted.
    fn memory_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.memory_stats().map_err(|e| raise(py, &e))?;
        let dict = PyDict::new(py);
        for (name, bytes) in [
            ("used", stats.used),
            ("peak", stats.peak),
            ("reserved", stats.reserved),
            ("free", stats.free),
            ("total", stats.total),
        ] {
            dict.set_item(name, bytes)?;
        }
        Ok(dict)
    }

    /// Wait until everything is done that was begun on it. What reads results waits by itself.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.synchronize()).map_err(|e| raise(py, &e))
    }

    fn __str__(&self) -> String {
        self.0.name()
    }

    fn __repr__(&self) -> String {
        format!("numfuse.Device('{}')", self.0.name())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Device>().is_ok_and(|other| other.get().0 == self.0)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.index().hash(&mut hasher);
        hasher.finish()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyAny>, (String,)) {
        (slf.get_type().into_any(), (slf.get().0.name(),))
    }
}

/// What computes here: the CPU first, and each CUDA device that can be used.
///
/// >>> import numfuse
/// >>> numfuse.devices()[0]
/// numfuse.Device('cpu')
#[pyfunction]
pub fn devices(py: Python<'_>) -> Vec<Device> {
    py.detach(numfuse::Device::all).into_iter().map(Device).collect()
}

/// Copy an array to a device.
///
/// ``array`` is one of NumPy, of this or of another device, or whatever ``numpy.asarray`` takes. The copy is a
/// ``DeviceArray``; from the host it is made when this returns. For ``"cpu"``, and for ``"auto"`` without a GPU, it is an
/// array of NumPy.
///
/// >>> import numfuse
/// >>> numfuse.to_device([1.0, 2.0], "cpu")
/// array([1., 2.])
#[pyfunction]
#[pyo3(signature = (array, device=None), text_signature = "(array, device='cuda')")]
pub fn to_device<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyAny>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let device = match device {
        Some(device) => wanted(Some(device))?.unwrap_or(numfuse::Device::cpu()),
        None => py.detach(|| numfuse::Device::cuda(0)).map_err(|e| raise(py, &e))?,
    };
    let input = Input::new(array, "array")?;
    // Of what `numpy.asarray` takes, numbers are given by value.
    let input = match input {
        Input::Number(_) => Input::new(&py.import("numpy")?.call_method1("asarray", (array,))?, "array")?,
        other => other,
    };
    let Some(view) = input.view().map_err(|e| raise(py, &e))? else {
        return Err(PyTypeError::new_err("there is no array"));
    };
    let copy = py.detach(|| view.to_device(&device)).map_err(|e| raise(py, &e))?;
    drop(view);
    after(py, &[input])?;
    let copy = Bound::new(py, DeviceArray::new(copy))?;
    match device.is_cpu() {
        true => copy.call_method0("to_host"),
        false => Ok(copy.into_any()),
    }
}

/// The device of a `device=`: a name or a [`Device`]; nothing for `None`.
pub fn wanted(device: Option<&Bound<'_, PyAny>>) -> PyResult<Option<numfuse::Device>> {
    let Some(device) = device.filter(|device| !device.is_none()) else { return Ok(None) };
    if let Ok(device) = device.cast::<Device>() {
        return Ok(Some(device.get().0.clone()));
    }
    if let Ok(name) = device.cast::<PyString>() {
        return Ok(Some(Device::named(device.py(), name.to_str()?)?.0));
    }
    let text = format!("`device` is a `{}`; give a name, such as \"cuda:0\", or a `Device`", device.get_type());
    Err(PyTypeError::new_err(text))
}

/// The first device that one of these is on, other than the CPU.
pub fn of(inputs: &[Input<'_>]) -> Option<numfuse::Device> {
    inputs.iter().find_map(|input| match input {
        Input::Device(operand) => Some(operand.device()),
        Input::Array(..) | Input::Number(_) | Input::Unbound => None,
    })
}

/// Has other libraries do nothing to these inputs before they have been read.
pub fn after(py: Python<'_>, inputs: &[Input<'_>]) -> PyResult<()> {
    let unordered = inputs.iter().find_map(|input| match input {
        Input::Device(operand) if operand.is_unordered() => Some(&**operand),
        _ => None,
    });
    let ordered = unordered.map(Operand::order_after).transpose();
    ordered.map(|_| ()).map_err(|e| raise(py, &e))
}
