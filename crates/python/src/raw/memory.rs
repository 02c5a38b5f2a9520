//! Memory of large new arrays: numfuse's own, which is used again. A program that drops one result before it asks for the next
//! then does not wait for the system to clear pages.
//!
//! NumPy asks a *handler* for memory (NEP 49), and remembers with each array which one to give it back to. Ours is in place
//! while a single array is made. To Python such an array is like any other: it owns its data and can be resized.
//!
//! Invariant: what NumPy has from this handler is in [`LENT`], each under its address, until NumPy gives it back.

use numfuse::Memory;
use pyo3::ffi::{PyCapsule_New, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Arrays of fewer bytes have NumPy's memory: that is used again as well.
pub const LARGE: u64 = 4 << 20;

/// Memory that NumPy has, by its address. Whoever locks this is attached to the interpreter, as whoever forks in Python
/// is: no child finds it locked.
static LENT: LazyLock<Mutex<HashMap<usize, Memory>>> = LazyLock::new(Mutex::default);

/// `PyDataMem_Handler` of NumPy, version 1.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

// SAFETY: the context is null, and the rest is never written to.
unsafe impl Sync for Handler {}

static OURS: Handler =
    Handler { name: named(b"numfuse"), version: 1, context: std::ptr::null_mut(), malloc, calloc, realloc, free };

/// What capsules of handlers are called.
const CAPSULE: &CStr = c"mem_handler";
/// The handler that NumPy has unless somebody has set another one.
const OF_NUMPY: [c_char; 127] = named(b"default_allocator");

/// `PyDataMem_SetHandler`: takes a capsule, which it keeps a reference to, and returns a new reference to the one before.
type SetHandler = unsafe extern "C" fn(*mut PyObject) -> *mut PyObject;
/// Its place in the table of NumPy's C functions.
const SET_HANDLER: usize = 304;

/// NumPy's handler is ours until this is dropped.
pub struct InPlace<'py> {
    set: SetHandler,
    before: Bound<'py, PyAny>,
}

/// Puts our handler in the place of NumPy's; none if somebody else's is there, who wants arrays in memory of their own.
pub fn handler(py: Python<'_>) -> PyResult<Option<InPlace<'_>>> {
    static NUMPY: PyOnceLock<(SetHandler, Py<PyAny>)> = PyOnceLock::new();
    let (set, ours) = NUMPY.get_or_try_init(py, || {
        let table = py.import("numpy._core.multiarray")?.getattr("_ARRAY_API")?.cast_into::<PyCapsule>()?;
        let functions = table.pointer_checked(None)?.cast::<*const c_void>();
        // SAFETY: NumPy has had this function at this place since 1.22, and ours needs 2.0. A capsule of a handler is a
        // pointer with that name, and ours is valid forever.
        unsafe {
            let set = std::mem::transmute::<*const c_void, SetHandler>(functions.as_ptr().add(SET_HANDLER).read());
            let capsule = PyCapsule_New((&raw const OURS).cast_mut().cast(), CAPSULE.as_ptr(), None);
            PyResult::Ok((set, Bound::from_owned_ptr_or_err(py, capsule)?.unbind()))
        }
    })?;
    // SAFETY: the interpreter is attached, the capsule is one of a handler, and the result a new reference or null with an
    // error set.
    let before = unsafe { Bound::from_owned_ptr_or_err(py, set(ours.as_ptr()))? };
    let in_place = InPlace { set: *set, before };
    let before = in_place.before.cast::<PyCapsule>()?.pointer_checked(Some(CAPSULE))?.cast::<Handler>();
    // SAFETY: capsules of this name point to handlers.
    let is_of_numpy = unsafe { before.as_ref().name == OF_NUMPY };
    Ok(is_of_numpy.then_some(in_place))
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        // SAFETY: the interpreter is attached, and this was the handler before. The result is a new reference, or null with an
        // error set, which is not to stay: there is nobody to tell.
        unsafe {
            match Bound::from_owned_ptr_or_opt(self.before.py(), (self.set)(self.before.as_ptr())) {
                Some(_) => {}
                None => drop(PyErr::take(self.before.py())),
            }
        }
    }
}

unsafe extern "C" fn malloc(_context: *mut c_void, size: usize) -> *mut c_void {
    lend(size)
}

unsafe extern "C" fn calloc(_context: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else { return std::ptr::null_mut() };
    let first = lend(size);
    if !first.is_null() {
        // SAFETY: there are so many bytes.
        unsafe { first.cast::<u8>().write_bytes(0, size) };
    }
    first
}

unsafe extern "C" fn realloc(_context: *mut c_void, old: *mut c_void, size: usize) -> *mut c_void {
    let first = lend(size);
    if !first.is_null()
        && let Some(memory) = take_back(old)
    {
        // SAFETY: both are as long as that, and they are two.
        unsafe { first.cast::<u8>().copy_from_nonoverlapping(old.cast(), memory.len().min(size)) };
    }
    first
}

unsafe extern "C" fn free(_context: *mut c_void, first: *mut c_void, _size: usize) {
    drop(take_back(first));
}

/// Memory of so many bytes, or null if there is not so much.
fn lend(size: usize) -> *mut c_void {
    let Ok(mut memory) = Memory::uninit(size) else { return std::ptr::null_mut() };
    let first = memory.as_mut_ptr();
    lent().insert(first as usize, memory);
    first.cast()
}

fn take_back(first: *mut c_void) -> Option<Memory> {
    lent().remove(&(first as usize))
}

fn lent() -> MutexGuard<'static, HashMap<usize, Memory>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name as C has it in a structure.
const fn named(name: &[u8]) -> [c_char; 127] {
    let mut padded = [0; 127];
    let mut i = 0;
    while i < name.len() {
        padded[i] = name[i] as c_char;
        i += 1;
    }
    padded
}
