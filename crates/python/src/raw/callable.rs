//! The type of compiled functions, `numfuse.Function`, for Python's vectorcall protocol: arguments come as an array of
//! pointers, and neither a tuple nor a dictionary is made for them. The classes of pyo3 do not speak it, so this type is
//! made by hand; what its methods do stands in `function.rs`.
//!
//! Invariants: an object of this type is an [`Object`] whose function is there until it is deallocated. Nothing of Rust
//! unwinds into Python.

use crate::function::Function;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use smallvec::SmallVec;
use std::any::Any;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};

/// A function as Python has it.
#[repr(C)]
struct Object {
    head: ffi::PyObject,
    /// What Python calls; the type says where it is.
    vectorcall: Vectorcall,
    function: Function,
}

// Python's allocator gives no more.
const _: () = assert!(align_of::<Object>() <= align_of::<usize>());

type Vectorcall = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

// These are of Python's stable interface since 3.12, and what they are since 3.9.
const HAVE_VECTORCALL: c_uint = 1 << 11;
const ARGUMENTS_OFFSET: usize = 1 << (usize::BITS - 1);

/// The arguments of a call.
pub struct Arguments<'a, 'py> {
    py: Python<'py>,
    /// Those in order, and then one for each of `names`. All are objects that live as long as the call.
    objects: &'a [*mut ffi::PyObject],
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// Those that are given in order.
    pub fn in_order(&self) -> impl ExactSizeIterator<Item = Borrowed<'a, 'py, PyAny>> {
        let named = self.names.map_or(0, |names| names.len());
        let (objects, _) = self.objects.split_at(self.objects.len().saturating_sub(named));
        // SAFETY: the pointers are those of objects that live for `'a`.
        objects.iter().map(|object| unsafe { Borrowed::from_ptr(self.py, *object) })
    }

    /// Those that are given by name, with their names.
    pub fn by_name(&self) -> impl Iterator<Item = (Borrowed<'_, 'py, PyAny>, Borrowed<'a, 'py, PyAny>)> {
        let in_order = self.in_order().len();
        let names = self.names.iter().flat_map(|names| names.iter_borrowed());
        // SAFETY: as above.
        let object = |object: &*mut ffi::PyObject| unsafe { Borrowed::from_ptr(self.py, *object) };
        names.zip(self.objects[in_order..].iter().map(object))
    }
}

/// A function for Python.
pub fn object(py: Python<'_>, function: Function) -> PyResult<Bound<'_, PyAny>> {
    let class = class(py)?.as_type_ptr();
    // SAFETY: the interpreter is attached. Objects of this type are as large as an `Object`; a new one is nobody else's,
    // and its fields hold nothing that would have to be dropped.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class, 0))?;
        let fields = object.as_ptr().cast::<Object>();
        (&raw mut (*fields).vectorcall).write(vectorcall);
        (&raw mut (*fields).function).write(function);
        Ok(object)
    }
}

/// The type.
pub fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.get_or_try_init(py, || new_class(py).map(Bound::unbind)).map(|class| class.bind(py))
}

fn new_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    // Python keeps pointers to methods and attributes as long as the type lives, which is forever.
    let attribute = |name: &'static CStr, get: ffi::getter, doc: &'static CStr| ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        doc: doc.as_ptr(),
        ..Default::default()
    };
    let attributes = Box::leak(Box::new([
        attribute(c"names", names, c"The names that a call binds, in the order of their first use in the expression."),
        attribute(c"expr", expr, c"The expression."),
        attribute(c"__signature__", signature, c"The names, as `inspect.signature` tells them."),
        ffi::PyGetSetDef::default(),
    ]));
    let methods = Box::leak(Box::new([
        ffi::PyMethodDef {
            ml_name: c"__reduce__".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: reduce },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"As a call of `compile`: machine code is not taken along.".as_ptr(),
        },
        ffi::PyMethodDef::zeroed(),
    ]));
    let members = Box::leak(Box::new([
        ffi::PyMemberDef {
            name: c"__vectorcalloffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset_of!(Object, vectorcall) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: null(),
        },
        ffi::PyMemberDef::default(),
    ]));
    let doc: &'static CStr = c"An expression as a function of its names: what `compile` returns.";
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_dealloc, deallocate as ffi::destructor as *mut c_void),
        slot(ffi::Py_tp_repr, repr as ffi::reprfunc as *mut c_void),
        slot(ffi::Py_tp_call, call as ffi::ternaryfunc as *mut c_void),
        slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        ffi::PyType_Slot::default(),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_IMMUTABLETYPE | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"numfuse.Function".as_ptr(),
        basicsize: size_of::<Object>() as c_int,
        itemsize: 0,
        flags: flags as c_uint | HAVE_VECTORCALL,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the interpreter is attached. The lists end with an empty entry, and what Python keeps of them lives
    // forever; each function has the signature of its slot, and is for objects of this type only.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))?.cast_into_unchecked()) }
}

/// The function of an object, as long as the object is borrowed.
///
/// # Safety
/// The interpreter is attached, and the object is one of [`object`], and alive for `'a`.
#[inline]
unsafe fn of<'a, 'py>(object: *mut ffi::PyObject) -> (Python<'py>, &'a Function) {
    // SAFETY: as the caller promises. The function does not change until the object is deallocated.
    unsafe { (Python::assume_attached(), &(*object.cast::<Object>()).function) }
}

/// What Python gets: an error, or a panic, is raised, and null returned.
#[inline]
fn answer<'py>(py: Python<'py>, body: impl FnOnce() -> PyResult<Bound<'py, PyAny>>) -> *mut ffi::PyObject {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(result)) => result.into_ptr(),
        Ok(Err(error)) => raised(py, error),
        Err(payload) => raised(py, panicked(payload.as_ref())),
    }
}

#[cold]
fn raised(py: Python<'_>, error: PyErr) -> *mut ffi::PyObject {
    error.restore(py);
    null_mut()
}

#[cold]
fn panicked(payload: &(dyn Any + Send)) -> PyErr {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    PanicException::new_err(text.unwrap_or("panic from Rust code").to_owned())
}

/// # Safety
/// As Python calls its functions: with an object of the type, so many arguments, and a tuple of names or null.
unsafe extern "C" fn vectorcall(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    in_order: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || {
        // SAFETY: it is null or a tuple, which lives as long as the call.
        let names = unsafe { Borrowed::from_ptr_or_opt(py, names).map(|names| names.cast_unchecked::<PyTuple>()) };
        let count = (in_order & !ARGUMENTS_OFFSET) + names.map_or(0, |names| names.len());
        let objects = match count {
            0 => &[],
            // SAFETY: so many arguments are there, those with names last; the caller keeps them alive.
            _ => unsafe { std::slice::from_raw_parts(arguments, count) },
        };
        function.call(py, &Arguments { py, objects, names })
    })
}

/// What is called with a tuple and a dictionary, as `f.__call__` is.
///
/// # Safety
/// As Python calls its functions: with an object of the type, a tuple, and a dictionary or null.
unsafe extern "C" fn call(
    object: *mut ffi::PyObject,
    in_order: *mut ffi::PyObject,
    by_name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || {
        // SAFETY: it is a tuple, and a dictionary or null, which live as long as the call.
        let (in_order, by_name) = unsafe {
            let by_name = Borrowed::from_ptr_or_opt(py, by_name).map(|by_name| by_name.cast_unchecked::<PyDict>());
            (Borrowed::from_ptr(py, in_order).cast_unchecked::<PyTuple>(), by_name)
        };
        // What is borrowed from a dictionary may go away while Python code runs.
        let named: Vec<_> = by_name.iter().flat_map(|by_name| by_name.iter()).collect();
        let names = PyTuple::new(py, named.iter().map(|(name, _)| name))?;
        let in_order = in_order.iter_borrowed().map(|object| object.as_ptr());
        let objects: SmallVec<[_; 8]> = in_order.chain(named.iter().map(|(_, object)| object.as_ptr())).collect();
        function.call(py, &Arguments { py, objects: &objects, names: Some(names.as_borrowed()) })
    })
}

/// # Safety
/// As Python calls its functions: with an object of the type.
unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || function.repr(py))
}

/// # Safety
/// As [`repr`].
unsafe extern "C" fn names(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || function.names(py))
}

/// # Safety
/// As [`repr`].
unsafe extern "C" fn expr(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || function.expr(py))
}

/// # Safety
/// As [`repr`].
unsafe extern "C" fn signature(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || function.signature(py))
}

/// # Safety
/// As [`repr`].
unsafe extern "C" fn reduce(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as Python promises.
    let (py, function) = unsafe { of(object) };
    answer(py, || function.reduce(py))
}

/// # Safety
/// As Python calls its functions: with an object of the type that nobody has any more.
unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter is attached; nobody has the object, so that its function is dropped once, and the memory
    // is what `PyType_GenericAlloc` gave. Each object holds a reference to its type.
    unsafe {
        let class = ffi::Py_TYPE(object);
        let function = &raw mut (*object.cast::<Object>()).function;
        // References to Python's objects are let go of at once only if pyo3 knows that the interpreter is attached.
        Python::attach_unchecked(|_| std::ptr::drop_in_place(function));
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}
