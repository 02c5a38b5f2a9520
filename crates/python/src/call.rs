//! `evaluate`: an expression over the variables of whoever calls it.
//!
//! The last expressions are remembered by the identity of their text, which a caller in a loop gives again and again:
//! finding one compares a pointer.

use crate::error::raise;
use crate::input::Input;
use crate::run::{self, Inputs};
use crate::{device, raw, threads};
use numfuse::{ArrayRef, Device, Env};
use pyo3::exceptions::PyKeyError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyMapping, PyString};
use std::sync::{Arc, Mutex, PoisonError};

/// A text with the names in it, as Python wants them.
pub struct Expression {
    /// On the CPU.
    pub function: numfuse::Function,
    pub names: Vec<Name>,
    pub threads: usize,
    /// On the devices that it was called for.
    elsewhere: Mutex<Vec<(Device, numfuse::Function)>>,
}

/// A name in a text.
pub struct Name {
    pub text: String,
    /// Interned, as the names in the dictionaries of frames are.
    pub object: Py<PyString>,
    /// True for a constant, such as `pi`, which need not be bound.
    pub is_constant: bool,
}

/// Texts of at most so many bytes are parsed without letting go of the GIL.
const SHORT: usize = 256;

impl Expression {
    /// The expression of a text.
    pub fn new(py: Python<'_>, text: &str, threads: usize) -> PyResult<Expression> {
        let engine = threads::engine(threads).map_err(|e| raise(py, &e))?;
        let parse = || engine.function(text);
        let function = if text.len() <= SHORT { parse() } else { py.detach(parse) };
        let function = function.map_err(|e| raise(py, &e))?;
        let name = |name: &String| Name {
            text: name.clone(),
            object: PyString::intern(py, name).unbind(),
            is_constant: numfuse::is_constant(name),
        };
        let names = function.names().iter().map(name).collect();
        Ok(Expression { function, names, threads, elsewhere: Mutex::default() })
    }

    /// The function on a device.
    pub fn on(&self, device: &Device) -> numfuse::Result<numfuse::Function> {
        let known = || self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, function)) = known().iter().find(|(on, _)| on == device) {
            return Ok(function.clone());
        }
        let function = threads::engine_on(self.threads, device)?.function(self.function.text())?;
        known().push((device.clone(), function.clone()));
        Ok(function)
    }

    /// The mistake in a call that left names unbound. Names that `candidates` has may be what was meant.
    pub fn unbound(&self, py: Python<'_>, inputs: &Inputs<'_>, candidates: &[String]) -> Option<PyErr> {
        let engine = threads::engine(self.threads).ok()?;
        let mut given: Vec<(&str, ArrayRef<'_>)> = Vec::new();
        for (name, input) in self.names.iter().zip(inputs) {
            given.extend(input.view().ok()?.map(|view| (name.text.as_str(), view)));
        }
        let is_used = |candidate: &String| self.names.iter().any(|name| name.text == *candidate);
        let others = candidates.iter().filter(|candidate| !is_used(candidate));
        given.extend(others.map(|candidate| (candidate.as_str(), ArrayRef::number(0.0))));
        let mut env = Env::new();
        for (name, array) in &given {
            env.insert(*name, array);
        }
        engine.explain(self.function.text(), &env).err().map(|e| raise(py, &e))
    }
}

/// The expressions of the last texts, by the address of the text object.
struct Recent {
    entries: Vec<Option<(Py<PyString>, Arc<Expression>)>>,
}

const RECENT: usize = 256;
static LAST: Mutex<Recent> = Mutex::new(Recent { entries: Vec::new() });

/// The expression of a text object.
fn expression(text: &Bound<'_, PyString>, threads: usize) -> PyResult<Arc<Expression>> {
    let slot = (text.as_ptr() as usize >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - RECENT.ilog2());
    {
        let recent = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((known, expression))) = recent.entries.get(slot)
            && known.as_ptr() == text.as_ptr()
            && expression.threads == threads
        {
            return Ok(expression.clone());
        }
    }
    let expression = Arc::new(Expression::new(text.py(), text.to_str()?, threads)?);
    let entry = Some((text.clone().unbind(), expression.clone()));
    let mut recent = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.entries.is_empty() {
        recent.entries.resize_with(RECENT, || None);
    }
    let old = std::mem::replace(&mut recent.entries[slot], entry);
    drop(recent);
    // A destructor may run Python code.
    drop(old);
    Ok(expression)
}

/// Evaluate an expression over NumPy arrays: fused into as few passes as possible, on all cores.
///
/// >>> import numpy as np, numfuse
/// >>> a, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
/// >>> numfuse.evaluate("2*a + 3*b**2")
/// array([ 2.75, 10.75, 24.75])
///
/// The names in the expression are looked up in ``local_dict``, then in ``global_dict``; by default the local and the
/// global variables of the caller. They may be arrays of any strides, which are not copied, NumPy scalars, Python
/// numbers, whose dtype gives way to that of the arrays, and whatever ``numpy.asarray`` takes.
///
/// >>> numfuse.evaluate("x * scale", {"x": np.float32([1, 2]), "scale": 10})
/// array([10., 20.], dtype=float32)
///
/// The result is an array, of no dimensions where the expression has none; several results are a tuple.
///
/// >>> numfuse.evaluate("sum(a), a - mean(a)")
/// (array(6.), array([-1.,  0.,  1.]))
///
/// ``out`` is an array for the result, or a tuple of one for each: of its dtype and shape, with any strides. It may share
/// memory with the inputs: the result is as if they had been read first.
///
/// >>> _ = numfuse.evaluate("a - a[::-1]", out=a)
/// >>> a
/// array([-2.,  0.,  2.])
///
/// ``threads`` bounds how many threads take part; see ``set_num_threads``.
///
/// Arrays may be on a GPU: those that ``to_device`` makes, and those of CuPy, PyTorch, JAX or whoever else has
/// ``__cuda_array_interface__`` or DLPack. They are not copied either; work is done where they are, and results are
/// ``DeviceArray`` objects, which those libraries take without copies. ``out`` may be such an array. ``device`` says that work is
/// to be done on another one than that of the arrays: ``"cuda:0"`` with arrays of NumPy sends them through the GPU, part by
/// part, and the results are arrays of NumPy. Arrays on one device and work on another, or arrays on several, are a
/// ``DeviceError``: nothing is moved unasked.
#[pyfunction]
#[pyo3(signature = (expr, local_dict=None, global_dict=None, out=None, *, threads=None, device=None))]
pub fn evaluate<'py>(
    py: Python<'py>,
    expr: &Bound<'py, PyString>,
    local_dict: Option<&Bound<'py, PyAny>>,
    global_dict: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    threads: Option<isize>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let wanted = device::wanted(device)?;
    let expression = expression(expr, threads::number(threads)?)?;
    let scope = Scope::new(py, local_dict, global_dict)?;
    let mut inputs = Inputs::new();
    let mut is_bound = true;
    for name in &expression.names {
        inputs.push(match scope.get(name.object.bind(py))? {
            Some(object) => Input::new(&object, &name.text)?,
            None => {
                is_bound &= name.is_constant;
                Input::Unbound
            }
        });
    }
    if !is_bound && let Some(error) = expression.unbound(py, &inputs, &scope.names()) {
        return Err(error);
    }
    drop(scope);
    run::run(py, &expression, wanted.as_ref(), &inputs, out)
}

/// Where names are looked up.
pub struct Scope<'py> {
    local: Option<Bound<'py, PyAny>>,
    global: Option<Bound<'py, PyAny>>,
    /// True if `local` is a copy that the interpreter made of a function's variables because we asked for it.
    is_copy: bool,
}

impl<'py> Scope<'py> {
    pub fn new(
        py: Python<'py>,
        local: Option<&Bound<'py, PyAny>>,
        global: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Scope<'py>> {
        let frame_global = match global {
            Some(_) => None,
            None => raw::caller_globals(py),
        };
        let frame_local = match local {
            Some(_) => None,
            None => raw::caller_frame(py).map(|frame| frame.getattr(intern!(py, "f_locals"))).transpose()?,
        };
        let is_copy = match &frame_local {
            Some(local) if copies_locals(py) => {
                frame_global.as_ref().is_none_or(|global| global.as_ptr() != local.as_ptr())
            }
            _ => false,
        };
        let global = global.cloned().or_else(|| frame_global.map(Bound::into_any));
        Ok(Scope { local: local.cloned().or(frame_local), global, is_copy })
    }

    /// What a name is bound to.
    pub fn get(&self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        for names in [&self.local, &self.global].into_iter().flatten() {
            if let Ok(dict) = names.cast_exact::<PyDict>() {
                if let Some(found) = dict.get_item(name)? {
                    return Ok(Some(found));
                }
                continue;
            }
            match names.get_item(name) {
                Ok(found) => return Ok(Some(found)),
                Err(e) if e.is_instance_of::<PyKeyError>(name.py()) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// The first names, to suggest one of.
    pub fn names(&self) -> Vec<String> {
        let mut all = Vec::new();
        for names in [&self.local, &self.global].into_iter().flatten() {
            let Ok(keys) = names.cast::<PyMapping>().map_err(PyErr::from).and_then(|m| m.keys()) else { continue };
            all.extend(keys.iter().filter_map(|key| key.extract::<String>().ok()).filter(|k| !k.starts_with("__")));
        }
        all
    }
}

impl Drop for Scope<'_> {
    /// Until a function returns, its frame keeps the copy of its variables, and with it arrays that the function itself
    /// has let go of. If nobody else has the copy, it is emptied.
    fn drop(&mut self) {
        if self.is_copy
            && let Some(local) = &self.local
            && raw::references(local) == 2
            && let Ok(copy) = local.cast_exact::<PyDict>()
        {
            copy.clear();
        }
    }
}

/// True before Python 3.13, where a function's `f_locals` is a dictionary made from its variables.
fn copies_locals(py: Python<'_>) -> bool {
    static COPIES: PyOnceLock<bool> = PyOnceLock::new();
    *COPIES.get_or_init(py, || py.version_info() < (3, 13))
}
