//! DLPack: arrays of a device in capsules, which libraries hand to each other.
//!
//! Invariants: a capsule is used up once, by renaming it, and whoever did so calls the deleter once; that of a capsule
//! that nobody used up is called when the capsule goes away. What is exported keeps its array alive until then.
//!
//! The structures are those of `dlpack.h`, versions 0.x and 1.x; see <https://dmlc.github.io/dlpack/latest/c_api.html>.

use crate::array::Shared;
use crate::raw::foreign::Described;
use numfuse::DType;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A device of CUDA, as DLPack numbers kinds of devices.
pub const CUDA: i32 = 2;
/// Memory that CUDA moves to where it is used.
pub const CUDA_MANAGED: i32 = 13;

const NAME: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";
const USED_VERSIONED: &CStr = c"used_dltensor_versioned";

/// The version that is spoken here: its structures are those of all versions with this first number.
pub const VERSION: (u32, u32) = (1, 0);
const READ_ONLY: u64 = 1;
const IS_COPIED: u64 = 2;

const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BOOL: u8 = 6;

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_kind: i32,
    device_index: i32,
    rank: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    /// In elements; null for row-major ones.
    strides: *mut i64,
    byte_offset: u64,
}

type Deleter<T> = Option<unsafe extern "C" fn(*mut T)>;

/// Before version 1.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Deleter<Managed>,
}

#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Deleter<Versioned>,
    flags: u64,
    tensor: Tensor,
}

/// A tensor that was taken out of its capsule.
pub struct Imported(Kind);

enum Kind {
    Managed(NonNull<Managed>),
    Versioned(NonNull<Versioned>),
}

// SAFETY: nothing of it is changed, and a deleter may be called by any thread.
unsafe impl Send for Imported {}
// SAFETY: as above.
unsafe impl Sync for Imported {}

impl Imported {
    /// Takes the tensor out of a capsule.
    pub fn new(capsule: &Bound<'_, PyAny>) -> PyResult<Imported> {
        let (py, object) = (capsule.py(), capsule.as_ptr());
        // SAFETY: the interpreter is attached; a name is that of a valid capsule whose pointer, which is not null, is one to
        // the structure of that name. With its new name nobody else takes it out.
        unsafe {
            let is = |name: &CStr| ffi::PyCapsule_IsValid(object, name.as_ptr()) != 0;
            let take = |name: &CStr, used: &'static CStr| {
                let pointer = ffi::PyCapsule_GetPointer(object, name.as_ptr());
                match NonNull::new(pointer) {
                    Some(pointer) if ffi::PyCapsule_SetName(object, used.as_ptr()) == 0 => Ok(pointer),
                    _ => Err(PyErr::fetch(py)),
                }
            };
            if is(NAME_VERSIONED) {
                let imported = Imported(Kind::Versioned(take(NAME_VERSIONED, USED_VERSIONED)?.cast()));
                return match imported.major() {
                    1 => Ok(imported),
                    major => Err(PyBufferError::new_err(format!("DLPack of version {major}, which is not known here"))),
                };
            }
            if is(NAME) {
                return Ok(Imported(Kind::Managed(take(NAME, USED)?.cast())));
            }
        }
        Err(PyBufferError::new_err("`__dlpack__` has returned no capsule that can be used"))
    }

    fn major(&self) -> u32 {
        match self.0 {
            Kind::Managed(_) => 0,
            // SAFETY: it lives until its deleter is called; the version comes first whatever it is.
            Kind::Versioned(tensor) => unsafe { (*tensor.as_ptr()).major },
        }
    }

    fn tensor(&self) -> &Tensor {
        // SAFETY: it lives until its deleter is called.
        unsafe {
            match self.0 {
                Kind::Managed(tensor) => &(*tensor.as_ptr()).tensor,
                Kind::Versioned(tensor) => &(*tensor.as_ptr()).tensor,
            }
        }
    }

    /// True if elements may be written. Before version 1, nothing is said.
    pub fn is_writeable(&self) -> bool {
        match self.0 {
            Kind::Managed(_) => true,
            // SAFETY: it lives until its deleter is called.
            Kind::Versioned(tensor) => unsafe { (*tensor.as_ptr()).flags & READ_ONLY == 0 },
        }
    }

    /// The kind of its device, and which of them.
    pub fn device(&self) -> (i32, i32) {
        (self.tensor().device_kind, self.tensor().device_index)
    }

    /// What its elements are called, for messages.
    pub fn dtype_name(&self) -> String {
        let Tensor { code, bits, lanes, .. } = *self.tensor();
        let kind = match code {
            INT => "int",
            UINT => "uint",
            FLOAT => "float",
            BOOL => "bool",
            4 => "bfloat",
            5 => "complex",
            _ => return format!("DLPack code {code} with {bits} bits"),
        };
        if lanes == 1 { format!("{kind}{bits}") } else { format!("{kind}{bits} x {lanes}") }
    }

    /// Where the elements are; nothing if numfuse does not compute with such.
    pub fn describe(&self) -> Option<Described> {
        let tensor = self.tensor();
        let dtype = dtype(tensor.code, tensor.bits).filter(|_| tensor.lanes == 1)?;
        let rank = usize::try_from(tensor.rank).ok()?;
        let numbers = |first: *mut i64| match first.is_null() {
            true => &[][..],
            // SAFETY: so many sizes and, if there are any, strides live as long as the tensor.
            false => unsafe { std::slice::from_raw_parts(first, rank) },
        };
        let shape: Vec<usize> =
            numbers(tensor.shape).iter().map(|n| usize::try_from(*n).ok()).collect::<Option<_>>()?;
        let size = dtype.size() as isize;
        let strides = match tensor.strides.is_null() {
            true => row_major(&shape, size)?,
            false => numbers(tensor.strides).iter().map(|n| (*n as isize).checked_mul(size)).collect::<Option<_>>()?,
        };
        let address = (tensor.data as u64).checked_add(tensor.byte_offset)?;
        Some(Described { address, dtype, shape, strides, stream: None })
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        // SAFETY: the tensor is ours since it was taken out of its capsule, and used for the last time.
        unsafe {
            match self.0 {
                Kind::Managed(tensor) => {
                    if let Some(delete) = (*tensor.as_ptr()).deleter {
                        delete(tensor.as_ptr());
                    }
                }
                Kind::Versioned(tensor) => {
                    if let Some(delete) = (*tensor.as_ptr()).deleter {
                        delete(tensor.as_ptr());
                    }
                }
            }
        }
    }
}

/// Strides in row-major order, of elements of so many bytes.
pub fn row_major(shape: &[usize], size: isize) -> Option<Vec<isize>> {
    let mut strides = vec![0; shape.len()];
    let mut step = size;
    for (stride, n) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.checked_mul(isize::try_from((*n).max(1)).ok()?)?;
    }
    Some(strides)
}

fn dtype(code: u8, bits: u8) -> Option<DType> {
    Some(match (code, bits) {
        (BOOL, 8) => DType::Bool,
        (INT, 8) => DType::I8,
        (INT, 16) => DType::I16,
        (INT, 32) => DType::I32,
        (INT, 64) => DType::I64,
        (UINT, 8) => DType::U8,
        (UINT, 16) => DType::U16,
        (UINT, 32) => DType::U32,
        (UINT, 64) => DType::U64,
        (FLOAT, 32) => DType::F32,
        (FLOAT, 64) => DType::F64,
        _ => return None,
    })
}

fn code(dtype: DType) -> u8 {
    match dtype {
        DType::Bool => BOOL,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => INT,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => UINT,
        DType::F32 | DType::F64 => FLOAT,
    }
}

/// What a capsule of ours holds: the tensor comes first, and then what keeps it alive.
#[repr(C)]
struct Exported<T> {
    head: T,
    shape: Vec<i64>,
    strides: Vec<i64>,
    array: Arc<Shared>,
}

/// A capsule with an array of a device, for consumers that know versions or such that do not.
pub fn export<'py>(
    py: Python<'py>,
    array: &Arc<Shared>,
    versioned: bool,
    is_copied: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let size = array.dtype().size() as isize;
    let shape: Vec<i64> = array.shape().iter().map(|n| *n as i64).collect();
    let strides: Vec<i64> = array.strides().iter().map(|stride| (*stride / size) as i64).collect();
    let tensor = Tensor {
        data: std::ptr::without_provenance_mut(array.device_address().unwrap_or(0) as usize),
        device_kind: CUDA,
        device_index: array.device().index().unwrap_or(0) as i32,
        rank: shape.len() as i32,
        code: code(array.dtype()),
        bits: 8 * array.dtype().size() as u8,
        lanes: 1,
        shape: null_mut(),
        strides: null_mut(),
        byte_offset: 0,
    };
    let array = array.clone();
    if versioned {
        let flags = if is_copied { IS_COPIED } else { 0 };
        let (major, minor) = VERSION;
        let head = Versioned { major, minor, context: null_mut(), deleter: Some(delete::<Versioned>), flags, tensor };
        let mut exported = Box::new(Exported { head, shape, strides, array });
        exported.head.tensor.shape = exported.shape.as_mut_ptr();
        exported.head.tensor.strides = exported.strides.as_mut_ptr();
        capsule(py, exported, NAME_VERSIONED, destroy_versioned)
    } else {
        let head = Managed { tensor, context: null_mut(), deleter: Some(delete::<Managed>) };
        let mut exported = Box::new(Exported { head, shape, strides, array });
        exported.head.tensor.shape = exported.shape.as_mut_ptr();
        exported.head.tensor.strides = exported.strides.as_mut_ptr();
        capsule(py, exported, NAME, destroy)
    }
}

fn capsule<'py, T>(
    py: Python<'py>,
    exported: Box<Exported<T>>,
    name: &'static CStr,
    destructor: ffi::PyCapsule_Destructor,
) -> PyResult<Bound<'py, PyAny>> {
    let pointer = Box::into_raw(exported);
    // SAFETY: the interpreter is attached; the pointer is not null, and the name lives forever. Without a capsule, it is
    // still a box of ours.
    unsafe {
        let made =
            Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(pointer.cast(), name.as_ptr(), Some(destructor)));
        made.inspect_err(|_| drop(Box::from_raw(pointer)))
    }
}

/// What a consumer calls when it has done with a tensor.
///
/// # Safety
/// The tensor is the first field of an [`Exported`] in a box, and this is called once.
unsafe extern "C" fn delete<T>(tensor: *mut T) {
    // SAFETY: as the caller promises. Nothing in it belongs to Python, so that any thread may drop it.
    drop(unsafe { Box::from_raw(tensor.cast::<Exported<T>>()) });
}

/// # Safety
/// As Python calls it: with a capsule of [`export`] that goes away.
unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
    // SAFETY: under this name the tensor was not used up, and nobody else deletes it.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) != 0 {
            delete::<Managed>(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}

/// # Safety
/// As [`destroy`].
unsafe extern "C" fn destroy_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as in `destroy`.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME_VERSIONED.as_ptr()) != 0 {
            delete::<Versioned>(ffi::PyCapsule_GetPointer(capsule, NAME_VERSIONED.as_ptr()).cast());
        }
    }
}
