//! `compile`: an expression as a function of its names.

use crate::call::Expression;
use crate::error::refuse;
use crate::input::Input;
use crate::raw::callable::{self, Arguments};
use crate::run::{self, Inputs};
use crate::{device, raw};
use numfuse::{Code, Device, Diagnostic, RawArray, suggest};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use smallvec::SmallVec;

/// An expression as a function of its names: what an object that `compile` returns holds, see `raw/callable.rs`.
pub struct Function {
    expression: Expression,
    /// The names that are not constants: what a call binds.
    names: Vec<usize>,
    /// The number of threads that was asked for.
    threads: Option<isize>,
    /// The device that was asked for.
    device: Option<Device>,
}

/// Compile an expression to a function of its names.
///
/// >>> import numpy as np, numfuse
/// >>> f = numfuse.compile("2*a + b")
/// >>> f
/// numfuse.compile('2*a + b')
/// >>> f.names
/// ('a', 'b')
/// >>> f(a=np.array([1.0, 2.0]), b=1)
/// array([3., 5.])
///
/// Arguments are given by name, or in the order in which the expression uses their names first. ``out`` is as in
/// ``evaluate``, and always given by name.
///
/// >>> f(np.array([1.0, 2.0]), 1, out=np.empty(2))
/// array([3., 5.])
///
/// Machine code is made when the function is first called with arguments of new dtypes or ranks; sizes may vary. Any
/// number of threads may call one function at once. Without ``threads``, a call uses as many as ``get_num_threads`` says
/// when the function is compiled. Functions can be pickled.
///
/// Work is done where the arrays are, or, with ``device``, on that device; see ``evaluate``.
#[pyfunction]
#[pyo3(signature = (expr, *, threads=None, device=None))]
pub fn compile<'py>(
    py: Python<'py>,
    expr: &Bound<'py, PyString>,
    threads: Option<isize>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let device = device::wanted(device)?;
    let expression = Expression::new(py, expr.to_str()?, crate::threads::number(threads)?)?;
    let names = expression.names.iter().enumerate().filter(|(_, name)| !name.is_constant).map(|(i, _)| i).collect();
    callable::object(py, Function { expression, names, threads, device })
}

impl Function {
    /// The names that a call binds, in the order of their first use in the expression.
    pub fn names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyTuple::new(py, self.names.iter().map(|i| self.expression.names[*i].object.bind(py)))?.into_any())
    }

    /// The expression.
    pub fn expr<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyString::new(py, self.text()).into_any())
    }

    /// As code that makes it.
    pub fn repr<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = PyString::new(py, self.text()).repr()?;
        Ok(PyString::new(py, &format!("numfuse.compile({text})")).into_any())
    }

    /// As a call of `compile`: machine code is not taken along.
    pub fn reduce<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut compile = py.import("numfuse")?.getattr("compile")?;
        let options = PyDict::new(py);
        if let Some(threads) = self.threads {
            options.set_item("threads", threads)?;
        }
        if let Some(device) = &self.device {
            options.set_item("device", device.name())?;
        }
        if !options.is_empty() {
            compile = py.import("functools")?.getattr("partial")?.call((compile,), Some(&options))?;
        }
        (compile, (self.text(),)).into_bound_py_any(py)
    }

    /// The names as an `inspect.Signature`; constants can be bound by name.
    pub fn signature<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let inspect = py.import("inspect")?;
        let class = inspect.getattr("Parameter")?;
        let (any, by_name) = (class.getattr("POSITIONAL_OR_KEYWORD")?, class.getattr("KEYWORD_ONLY")?);
        let names = &self.expression.names;
        let mut parameters = Vec::new();
        for i in &self.names {
            parameters.push(class.call1((&names[*i].object, &any))?);
        }
        let optional = names.iter().filter(|name| name.is_constant).map(|name| (&name.text[..], py.Ellipsis()));
        let out = names.iter().all(|name| name.text != "out").then(|| ("out", py.None()));
        for (name, default) in optional.chain(out) {
            let options = [("default", default)].into_py_dict(py)?;
            parameters.push(class.call((name, &by_name), Some(&options))?);
        }
        inspect.getattr("Signature")?.call1((parameters,))
    }

    /// Evaluates the expression.
    #[inline]
    pub fn call<'py>(&self, py: Python<'py>, arguments: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.call_known(py, arguments)? {
            Some(result) => Ok(result),
            None => self.call_anew(py, arguments),
        }
    }

    /// Evaluates the expression, if all arguments are plain arrays and one of the last calls was like this one.
    #[inline]
    fn call_known<'py>(&self, py: Python<'py>, arguments: &Arguments<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut inputs: SmallVec<[Option<RawArray<'_>>; 4]> = SmallVec::from_elem(None, self.expression.names.len());
        let in_order = arguments.in_order();
        if in_order.len() > self.names.len() || self.device.as_ref().is_some_and(|device| !device.is_cpu()) {
            return Ok(None);
        }
        for (argument, i) in in_order.zip(&self.names) {
            let Some((array, _)) = raw::array(argument) else { return Ok(None) };
            inputs[*i] = Some(array);
        }
        let mut out = None;
        for (name, argument) in arguments.by_name() {
            match self.place(&name) {
                Some(i) if inputs[i].is_none() => {
                    let Some((array, _)) = raw::array(argument) else { return Ok(None) };
                    inputs[i] = Some(array);
                }
                None if is_out(&name) => out = Some(argument),
                _ => return Ok(None),
            }
        }
        run::run_known(py, &self.expression.function, &inputs, out.filter(|out| !out.is_none()))
    }

    #[cold]
    fn call_anew<'py>(&self, py: Python<'py>, arguments: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let names = &self.expression.names;
        let mut inputs: Inputs<'py> = SmallVec::new();
        inputs.resize_with(names.len(), || Input::Unbound);
        let in_order = arguments.in_order();
        if in_order.len() > self.names.len() {
            let title = format!("{} arguments for {}", in_order.len(), self.takes());
            return Err(refuse(py, Diagnostic::new(Code::Arguments, title)));
        }
        for (argument, i) in in_order.zip(&self.names) {
            inputs[*i] = Input::new(&argument, &names[*i].text)?;
        }
        let (mut out, mut unknown) = (None, None);
        for (name, argument) in arguments.by_name() {
            match self.place(&name) {
                Some(i) if !matches!(inputs[i], Input::Unbound) => {
                    let title = format!("`{}` is given twice", names[i].text);
                    return Err(refuse(py, Diagnostic::new(Code::Arguments, title)));
                }
                Some(i) => inputs[i] = Input::new(&argument, &names[i].text)?,
                None if is_out(&name) => out = Some(argument),
                None => unknown = unknown.or(Some(name)),
            }
        }
        if let Some(name) = unknown {
            return Err(self.unknown(&name));
        }
        if let Some(missing) = self.names.iter().find(|i| matches!(inputs[**i], Input::Unbound)) {
            let title = format!("argument `{}` is missing", names[*missing].text);
            return Err(refuse(py, Diagnostic::new(Code::Arguments, title).hint(format!("give {}", self.takes()))));
        }
        let out = out.filter(|out| !out.is_none());
        run::run(py, &self.expression, self.device.as_ref(), &inputs, out.as_deref())
    }

    /// The text of the expression.
    fn text(&self) -> &str {
        self.expression.function.text()
    }

    /// Which of the names this one is. Names in code are interned, as ours are: usually a pointer tells.
    fn place(&self, name: &Bound<'_, PyAny>) -> Option<usize> {
        let names = &self.expression.names;
        names.iter().position(|known| known.object.as_ptr() == name.as_ptr()).or_else(|| {
            if name.as_ptr() == intern!(name.py(), "out").as_ptr() {
                return None;
            }
            let name = name.cast::<PyString>().ok()?.to_cow().ok()?;
            names.iter().position(|known| known.text == name)
        })
    }

    /// The names, for messages.
    fn takes(&self) -> String {
        match self.names.as_slice() {
            [] => "an expression without names".to_owned(),
            some => some.iter().map(|i| format!("`{}`", self.expression.names[*i].text)).collect::<Vec<_>>().join(", "),
        }
    }

    #[cold]
    fn unknown(&self, name: &Bound<'_, PyAny>) -> PyErr {
        let known: Vec<&str> = self.expression.names.iter().map(|n| n.text.as_str()).collect();
        let text: String = name.extract().unwrap_or_default();
        let error = Diagnostic::new(Code::Arguments, format!("the expression has no `{text}`"));
        refuse(
            name.py(),
            match suggest(&text, known) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("it takes {}", self.takes())),
            },
        )
    }
}

/// True for the name of the argument for results.
fn is_out(name: &Bound<'_, PyAny>) -> bool {
    let out = intern!(name.py(), "out");
    name.as_ptr() == out.as_ptr() || name.eq(out).unwrap_or(false)
}
