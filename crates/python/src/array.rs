//! `DeviceArray`: what evaluations on a device return, for Python and for other libraries.
//!
//! Invariant: memory that another library was shown is given back when the device has done everything, as that library may
//! have begun work on it that is known to nobody else; all other memory, in the order of our own stream.

use crate::device::Device;
use crate::error::{raise, refuse};
use crate::raw::dlpack;
use crate::raw::foreign::{self, DEFAULT_STREAM};
use crate::{interface, raw};
use numfuse::{Array, ArrayMut, ArrayRef, Code, Diagnostic};
use numpy::{PyArrayDescr, PyUntypedArray};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An array of ours, which capsules and work of the device may keep alive longer than Python does.
pub struct Shared {
    array: Array,
    /// Whether other libraries know its address.
    is_lent: AtomicBool,
}

impl Shared {
    /// Waits for what other libraries may do with it.
    fn settle(&self) {
        if self.is_lent.swap(false, Ordering::Relaxed) {
            // A lost device does nothing any more.
            let _ = self.array.device().synchronize();
        }
    }
}

impl Deref for Shared {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.array
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.settle();
    }
}

/// An array in the memory of a device: what ``evaluate`` returns for arrays of a device, and ``to_device`` makes.
///
/// CuPy, PyTorch, JAX and Numba take it without a copy, by ``__cuda_array_interface__`` or by DLPack, as ``cupy.asarray(y)``
/// and ``torch.from_dlpack(y)`` do; ``to_host()`` and ``numpy.asarray(y)`` copy it to the host, when it is computed.
#[pyclass(frozen, module = "numfuse")]
pub struct DeviceArray {
    array: Arc<Shared>,
}

impl DeviceArray {
    pub fn new(array: Array) -> DeviceArray {
        DeviceArray { array: Arc::new(Shared { array, is_lent: AtomicBool::new(false) }) }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.array
    }
}

impl Drop for DeviceArray {
    fn drop(&mut self) {
        if self.array.is_lent.load(Ordering::Relaxed) && Arc::strong_count(&self.array) == 1 {
            // Others run meanwhile, unless the interpreter is at its end.
            let _ = Python::try_attach(|py| py.detach(|| self.array.settle()));
        }
    }
}

#[pymethods]
impl DeviceArray {
    /// The sizes, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.array.shape())
    }

    /// The steps from element to element along each dimension, in bytes.
    #[getter]
    fn strides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.array.strides())
    }

    /// The type of the elements, as NumPy has it.
    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDescr>> {
        PyArrayDescr::new(py, interface::typestr(self.array.dtype()))
    }

    /// The number of dimensions.
    #[getter]
    fn ndim(&self) -> usize {
        self.array.rank()
    }

    /// The number of elements.
    #[getter]
    fn size(&self) -> usize {
        self.array.len()
    }

    /// The number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.array.len() * self.array.dtype().size()
    }

    /// Where it is.
    #[getter]
    fn device(&self) -> Device {
        Device::new(self.array.device())
    }

    /// A copy on the host: an array of NumPy. Waits until everything that it depends on is computed.
    fn to_host<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyUntypedArray>> {
        let shape: Vec<u64> = self.array.shape().iter().map(|n| *n as u64).collect();
        let copy = raw::new_array(py, self.array.dtype(), &shape, None)?;
        let mut view = raw::view_mut(&copy, self.array.dtype()).map_err(|e| raise(py, &e))?;
        py.detach(|| self.array.view().copy_into(&mut view)).map_err(|e| raise(py, &e))?;
        drop(view);
        Ok(copy)
    }

    /// The only element, as a number of Python.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.to_host(py)?.call_method0(intern!(py, "item"))
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(PyValueError::new_err(format!(
                "an array on {} is not one of the host without a copy",
                self.array.device().name()
            )));
        }
        let array = self.to_host(py)?.into_any();
        match dtype {
            Some(dtype) => array.call_method(intern!(py, "astype"), (dtype,), None),
            None => Ok(array),
        }
    }

    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.array.is_lent.store(true, Ordering::Relaxed);
        // Some consumers take no notice of the stream that the interface tells of, PyTorch among them.
        foreign::precede(&self.array.device(), DEFAULT_STREAM).map_err(|e| raise(py, &e))?;
        interface::describe(py, &self.array)
    }

    fn __dlpack_device__(&self) -> (i32, usize) {
        (dlpack::CUDA, self.array.device().index().unwrap_or(0))
    }

    /// A capsule for `from_dlpack` of another library, whose stream waits until the array is computed.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i64)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let device = self.array.device();
        let here = (dlpack::CUDA, device.index().unwrap_or(0) as i64);
        if dl_device.is_some_and(|wanted| wanted != here) {
            let text = format!("the array is on {}, and is not moved: `to_host` copies", device.name());
            return Err(PyBufferError::new_err(text));
        }
        // Without a stream it is the default one, -1 says that nothing needs to wait.
        let stream = match stream {
            None => Some(DEFAULT_STREAM),
            Some(-1) => None,
            Some(stream @ 1..) => Some(stream as u64),
            Some(other) => return Err(PyValueError::new_err(format!("{other} is no stream of CUDA"))),
        };
        let copied = match copy {
            Some(true) => {
                let copy = py.detach(|| Array::copy_of(&self.array.array)).map_err(|e| raise(py, &e))?;
                Some(DeviceArray::new(copy))
            }
            _ => None,
        };
        let array = &copied.as_ref().unwrap_or(self).array;
        if let Some(stream) = stream {
            foreign::precede(&device, stream).map_err(|e| raise(py, &e))?;
        }
        array.is_lent.store(true, Ordering::Relaxed);
        let versioned = max_version.is_some_and(|(major, _)| major >= dlpack::VERSION.0);
        dlpack::export(py, array, versioned, copied.is_some())
    }

    fn __len__(&self) -> PyResult<usize> {
        self.array.shape().first().copied().ok_or_else(|| PyTypeError::new_err("len() of unsized object"))
    }

    fn __repr__(&self) -> String {
        let array = &self.array;
        format!("<numfuse.DeviceArray {}{:?} on {}>", array.dtype(), array.shape(), array.device().name())
    }
}

/// An operand on a device.
pub enum Operand {
    Own(Arc<Shared>),
    Foreign(interface::Foreign),
}

impl Operand {
    /// An object as an array on a device, if it is one; `what` is what messages call it.
    pub fn new(object: &Bound<'_, PyAny>, what: &str) -> PyResult<Option<Operand>> {
        if let Ok(own) = object.cast_exact::<DeviceArray>() {
            return Ok(Some(Operand::Own(own.get().array.clone())));
        }
        Ok(interface::array(object, what)?.map(Operand::Foreign))
    }

    pub fn view(&self) -> ArrayRef<'_> {
        match self {
            Operand::Own(array) => array.view(),
            Operand::Foreign(foreign) => foreign.array.view(),
        }
    }

    pub fn device(&self) -> numfuse::Device {
        match self {
            Operand::Own(array) => array.device(),
            Operand::Foreign(foreign) => foreign.array.device(),
        }
    }

    /// Whether another library uses it on a stream that is not known.
    pub fn is_unordered(&self) -> bool {
        matches!(self, Operand::Foreign(foreign) if foreign.is_unordered)
    }

    /// Has the default stream, which other libraries use unless they are told to use another, wait for what was begun on
    /// the device.
    pub fn order_after(&self) -> numfuse::Result<()> {
        foreign::precede(&self.device(), DEFAULT_STREAM)
    }

    /// The array, to write a result to.
    pub fn view_mut(&mut self, py: Python<'_>) -> PyResult<ArrayMut<'_>> {
        match self {
            Operand::Own(array) => foreign::view_mut(array).map_err(|e| raise(py, &e)),
            Operand::Foreign(foreign) if foreign.is_writeable => Ok(foreign.array.view_mut()),
            Operand::Foreign(_) => Err(refuse(py, Diagnostic::new(Code::Output, "`out` is read-only"))),
        }
    }
}
