//! `compile`: an expression as a function of its names.

use crate::call::Expression;
use crate::error::refuse;
use crate::input::Input;
use crate::run::{self, Inputs};
use numfuse::{Code, Diagnostic, suggest};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyTuple};

/// An expression as a function of its names: what `compile` returns.
#[pyclass(frozen, module = "numfuse")]
pub struct Function {
    expression: Expression,
    /// The names that are not constants: what a call binds.
    names: Vec<usize>,
    /// The number of threads that was asked for.
    threads: Option<isize>,
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
#[pyfunction]
#[pyo3(signature = (expr, *, threads=None))]
pub fn compile(py: Python<'_>, expr: &Bound<'_, PyString>, threads: Option<isize>) -> PyResult<Function> {
    let expression = Expression::new(py, expr.to_str()?, crate::threads::number(threads)?)?;
    let names = expression.names.iter().enumerate().filter(|(_, name)| !name.is_constant).map(|(i, _)| i).collect();
    Ok(Function { expression, names, threads })
}

#[pymethods]
impl Function {
    /// The names that a call binds, in the order of their first use in the expression.
    #[getter]
    fn names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.names.iter().map(|i| self.expression.names[*i].object.bind(py)))
    }

    /// The expression.
    #[getter]
    fn expr(&self) -> &str {
        self.expression.function.text()
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<String> {
        Ok(format!("numfuse.compile({})", PyString::new(py, self.expr()).repr()?))
    }

    /// As a call of `compile`: machine code is not taken along.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (&str,))> {
        let compile = py.import("numfuse")?.getattr("compile")?;
        let Some(threads) = self.threads else { return Ok((compile, (self.expr(),))) };
        let options = [("threads", threads)].into_py_dict(py)?;
        let partial = py.import("functools")?.getattr("partial")?.call((compile,), Some(&options))?;
        Ok((partial, (self.expr(),)))
    }

    /// Evaluate the expression.
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let names = &self.expression.names;
        let mut inputs: Inputs<'py> = names.iter().map(|_| Input::Unbound).collect();
        if args.len() > self.names.len() {
            let title = format!("{} arguments for {}", args.len(), self.takes());
            return Err(refuse(py, Diagnostic::new(Code::Arguments, title)));
        }
        for (argument, i) in args.iter_borrowed().zip(&self.names) {
            inputs[*i] = Input::new(&argument, &names[*i].text)?;
        }
        let mut out = None;
        if let Some(kwargs) = kwargs {
            let mut known = 0;
            for (i, name) in names.iter().enumerate() {
                if let Some(argument) = kwargs.get_item(name.object.bind(py))? {
                    known += 1;
                    if !matches!(inputs[i], Input::Unbound) {
                        let title = format!("`{}` is given twice", name.text);
                        return Err(refuse(py, Diagnostic::new(Code::Arguments, title)));
                    }
                    inputs[i] = Input::new(&argument, &name.text)?;
                }
            }
            if known < kwargs.len() {
                out = kwargs.get_item(intern!(py, "out"))?;
                if known + usize::from(out.is_some()) < kwargs.len() {
                    return Err(self.unknown(kwargs));
                }
            }
        }
        if let Some(missing) = self.names.iter().find(|i| matches!(inputs[**i], Input::Unbound)) {
            let title = format!("argument `{}` is missing", names[*missing].text);
            return Err(refuse(py, Diagnostic::new(Code::Arguments, title).hint(format!("give {}", self.takes()))));
        }
        run::run(py, &self.expression.function, &inputs, out.filter(|out| !out.is_none()).as_ref())
    }
}

impl Function {
    /// The names, for messages.
    fn takes(&self) -> String {
        match self.names.as_slice() {
            [] => "an expression without names".to_owned(),
            some => some.iter().map(|i| format!("`{}`", self.expression.names[*i].text)).collect::<Vec<_>>().join(", "),
        }
    }

    #[cold]
    fn unknown(&self, kwargs: &Bound<'_, PyDict>) -> PyErr {
        let known: Vec<&str> = self.expression.names.iter().map(|n| n.text.as_str()).collect();
        let is_known = |name: &str| name == "out" || known.contains(&name);
        let given: Vec<String> = kwargs.keys().iter().filter_map(|k| k.extract().ok()).collect();
        let name = given.into_iter().find(|name| !is_known(name)).unwrap_or_default();
        let error = Diagnostic::new(Code::Arguments, format!("the expression has no `{name}`"));
        refuse(
            kwargs.py(),
            match suggest(&name, known) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("it takes {}", self.takes())),
            },
        )
    }
}
