//! What NumPy's C structures say, and the frame that called us. With what is inside of it, the type of compiled functions and
//! other libraries' arrays on devices, the only module of this crate with `unsafe`.
//!
//! # Aliasing
//!
//! Elements are only ever reached through raw pointers, here and in machine code; no Rust reference to an element is
//! made. As with NumPy's own functions, other Python threads may write to an array while it is being read: which of the
//! two values is read is not specified, and nothing worse can happen, because no address depends on an element. What must
//! not happen is that the memory goes away: the array is kept alive by the borrow, and `ndarray.resize`, the one way to
//! free memory under a live array, refuses arrays that have other references unless it is told not to look.

pub mod callable;
pub mod dlpack;
pub mod foreign;
mod memory;

use numfuse::{ArrayMut, ArrayRef, DType, RawArray, Result};
use numpy::npyffi::{
    NPY_ARRAY_WRITEABLE, NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArrayObject, PyArrayObject_fields, get_type_object,
    npy_intp,
};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smallvec::SmallVec;
use std::ffi::c_int;

/// Loads NumPy's C functions, so that they are there when they are called.
pub fn load_numpy(py: Python<'_>) -> PyResult<()> {
    py.import("numpy")?;
    // SAFETY: the interpreter is attached, and NumPy is there.
    let version = unsafe { PY_ARRAY_API.PyArray_GetNDArrayCFeatureVersion(py) };
    debug_assert!(version > 0);
    Ok(())
}

/// The dtype of an array's elements; none if numfuse does not compute with them, or their bytes are swapped.
#[inline]
pub fn dtype(array: &Bound<'_, PyUntypedArray>) -> Option<DType> {
    element_type(fields(array))
}

#[inline]
fn element_type(fields: &PyArrayObject_fields) -> Option<DType> {
    let (type_num, byteorder) = {
        // SAFETY: an array has a descriptor for as long as it lives.
        let descr = unsafe { &(*fields.descr).fields };
        (descr.type_num, descr.byteorder as u8)
    };
    const SWAPPED: u8 = if cfg!(target_endian = "little") { b'>' } else { b'<' };
    if byteorder == SWAPPED { None } else { dtype_of(type_num) }
}

/// The dtype of a type number. C's `long` is as wide as the system says.
#[inline]
fn dtype_of(type_num: c_int) -> Option<DType> {
    const LONG: (DType, DType) =
        if size_of::<std::ffi::c_long>() == 8 { (DType::I64, DType::U64) } else { (DType::I32, DType::U32) };
    const DTYPES: [DType; 13] = [
        DType::Bool,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        LONG.0,
        LONG.1,
        DType::I64,
        DType::U64,
        DType::F32,
        DType::F64,
    ];
    DTYPES.get(usize::try_from(type_num).ok()?).copied()
}

/// NumPy's type for a dtype: the one that `numpy.dtype` gives for its name.
fn type_of(dtype: DType) -> NPY_TYPES {
    let long_is_64 = size_of::<std::ffi::c_long>() == 8;
    match dtype {
        DType::Bool => NPY_TYPES::NPY_BOOL,
        DType::I8 => NPY_TYPES::NPY_BYTE,
        DType::I16 => NPY_TYPES::NPY_SHORT,
        DType::I32 => NPY_TYPES::NPY_INT,
        DType::I64 if long_is_64 => NPY_TYPES::NPY_LONG,
        DType::I64 => NPY_TYPES::NPY_LONGLONG,
        DType::U8 => NPY_TYPES::NPY_UBYTE,
        DType::U16 => NPY_TYPES::NPY_USHORT,
        DType::U32 => NPY_TYPES::NPY_UINT,
        DType::U64 if long_is_64 => NPY_TYPES::NPY_ULONG,
        DType::U64 => NPY_TYPES::NPY_ULONGLONG,
        DType::F32 => NPY_TYPES::NPY_FLOAT,
        DType::F64 => NPY_TYPES::NPY_DOUBLE,
    }
}

/// True if the object is an array and not of a subclass, which may give its elements another meaning.
#[inline]
pub fn is_plain_array<'py>(object: Borrowed<'_, 'py, PyAny>) -> bool {
    // SAFETY: the interpreter is attached; type objects live forever.
    object.get_type_ptr() == unsafe { get_type_object(object.py(), NpyTypes::PyArray_Type) }
}

/// True if the object is a scalar of NumPy.
pub fn is_scalar(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the interpreter is attached; type objects live forever.
    unsafe {
        let generic = get_type_object(object.py(), NpyTypes::PyGenericArrType_Type);
        pyo3::ffi::PyObject_TypeCheck(object.as_ptr(), generic) != 0
    }
}

/// True if elements may be written.
#[inline]
pub fn is_writeable(array: &Bound<'_, PyUntypedArray>) -> bool {
    fields(array).flags & NPY_ARRAY_WRITEABLE != 0
}

/// An object as it lies in memory, if it is a plain array of a dtype that numfuse computes with, and whether its elements
/// may be written. Its sizes and strides are borrowed: they may change as soon as other Python code runs.
#[inline]
pub fn array<'a>(object: Borrowed<'a, '_, PyAny>) -> Option<(RawArray<'a>, bool)> {
    if !is_plain_array(object) {
        return None;
    }
    // SAFETY: it is an array; see `fields`.
    let fields: &'a PyArrayObject_fields = unsafe { &(*object.as_ptr().cast::<PyArrayObject>()).fields };
    let dtype = element_type(fields)?;
    let (shape, strides): (&[usize], &[isize]) = match fields.nd {
        rank @ 1.. => {
            // SAFETY: there is a size, which is not negative, and a stride for each dimension.
            unsafe {
                let rank = rank as usize;
                let shape = std::slice::from_raw_parts(fields.dimensions.cast(), rank);
                (shape, std::slice::from_raw_parts(fields.strides, rank))
            }
        }
        _ => (&[], &[]),
    };
    // SAFETY: as in `view`.
    let array = unsafe { RawArray::new(fields.data.cast(), dtype, shape, strides) };
    Some((array, fields.flags & NPY_ARRAY_WRITEABLE != 0))
}

/// An array of this dtype, which is that of its elements, to read.
#[inline]
pub fn view<'a>(array: &'a Bound<'_, PyUntypedArray>, dtype: DType) -> Result<ArrayRef<'a>> {
    // SAFETY: NumPy's arrays have all their elements in memory that lives as long as they do; others may write there
    // meanwhile, see the top of this file. Bytes of bools are looked at by kernels, not by Rust, which take any but 0 for 1.
    unsafe { ArrayRef::from_raw(fields(array).data.cast(), dtype, array.shape(), array.strides()) }
}

/// An array of this dtype, which is that of its elements, to write: the caller has looked at [`is_writeable`].
#[inline]
pub fn view_mut<'a>(array: &'a Bound<'_, PyUntypedArray>, dtype: DType) -> Result<ArrayMut<'a>> {
    // SAFETY: as in `view`.
    unsafe { ArrayMut::from_raw(fields(array).data.cast(), dtype, array.shape(), array.strides()) }
}

#[inline]
fn fields<'a>(array: &'a Bound<'_, PyUntypedArray>) -> &'a PyArrayObject_fields {
    // SAFETY: it is an array. Its fields change only while a thread is attached that changes them, which is not while
    // this one is, and no borrow of them is kept across calls of Python.
    unsafe { &(*array.as_array_ptr()).fields }
}

/// A new array: in row-major order, or with `axes` from the one with the longest steps in memory to the one with the
/// shortest. Its elements hold nothing yet: all of them are to be written before it is handed out.
pub fn new_array<'py>(
    py: Python<'py>,
    dtype: DType,
    shape: &[u64],
    axes: Option<&[usize]>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut dims: SmallVec<[npy_intp; 4]> = shape.iter().map(|n| *n as npy_intp).collect();
    let mut strides: SmallVec<[npy_intp; 4]> = SmallVec::new();
    if let Some(axes) = axes {
        strides.resize(dims.len(), 0);
        let mut step = dtype.size() as npy_intp;
        for axis in axes.iter().rev() {
            strides[*axis] = step;
            step = step.saturating_mul(dims[*axis].max(1));
        }
    }
    let bytes = shape.iter().fold(dtype.size() as u64, |bytes, n| bytes.saturating_mul(*n));
    let _handler = if bytes >= memory::LARGE { memory::handler(py)? } else { None };
    // SAFETY: the interpreter is attached. The descriptor is a new reference, which `PyArray_NewFromDescr` takes over. It
    // copies sizes and strides, makes memory for all elements, which lie without gaps at these strides, and returns a new
    // reference to an array, or null with an error set.
    unsafe {
        let plain = get_type_object(py, NpyTypes::PyArray_Type);
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, type_of(dtype) as c_int);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            plain,
            descr,
            dims.len() as c_int,
            dims.as_mut_ptr(),
            if axes.is_some() { strides.as_mut_ptr() } else { std::ptr::null_mut() },
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// The global names of the Python code that called us; none without such code.
pub fn caller_globals(py: Python<'_>) -> Option<Bound<'_, PyDict>> {
    // SAFETY: the interpreter is attached; the result is borrowed, a dictionary or null.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, pyo3::ffi::PyEval_GetGlobals())?.cast_into().ok() }
}

/// The frame of the Python code that called us; none without such code.
pub fn caller_frame(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is attached; the result is borrowed, or null.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, pyo3::ffi::PyEval_GetFrame().cast()) }
}

/// How many references to an object there are, this one included.
pub fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is alive and the interpreter attached.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}
