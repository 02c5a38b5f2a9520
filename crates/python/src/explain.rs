//! `explain`: every stage of an expression as text.

use crate::call::{Expression, Scope};
use crate::error::{raise, refuse};
use crate::input::Input;
use crate::threads;
use numfuse::explain::Stage;
use numfuse::{Code, Diagnostic, Env};
use numpy::PyArrayDescr;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

/// Show what becomes of an expression: the tree, the graph, the plan, the loops, the machine code.
///
/// Inputs are given by name: arrays, numbers, dtypes (for arrays of one dimension), or declarations such as
/// ``"f64[n, 3]"``. Names that are not given are looked up where ``evaluate`` would.
///
/// >>> import numfuse
/// >>> print(numfuse.explain("sum(a * b)", a="f32[n]", b="f32[n]", stage="plan"))
/// k0: a, b -> out
///     output 0: one loop over [n]
///     1 operations, 8 bytes read, 0 bytes written for each of [n]
/// temporaries: none
/// <BLANKLINE>
///
/// ``stage`` is one of ``"parse"``, ``"graph"``, ``"simplified"``, ``"plan"``, ``"kernel"``, ``"clif"``, ``"asm"`` and
/// ``"cuda"``; without it, all of them but the last are shown.
#[pyfunction]
#[pyo3(signature = (expr, /, *, stage=None, **inputs))]
pub fn explain<'py>(
    py: Python<'py>,
    expr: &Bound<'py, PyString>,
    stage: Option<&str>,
    inputs: Option<&Bound<'py, PyDict>>,
) -> PyResult<String> {
    let text = expr.to_str()?;
    let stage = match stage.map(|name| Stage::named(name).ok_or(name)).transpose() {
        Ok(stage) => stage,
        Err(name) => {
            let known = Stage::ALL.map(Stage::name).join("`, `");
            let error = Diagnostic::new(Code::Arguments, format!("there is no stage `{name}`"));
            return Err(refuse(py, error.hint(format!("the stages are `{known}`"))));
        }
    };
    let engine = threads::engine(threads::get_num_threads()).map_err(|e| raise(py, &e))?;
    let expression = Expression::new(py, text, threads::get_num_threads())?;
    let scope = Scope::new(py, None, None)?;
    let mut arrays = Vec::new();
    let mut declarations = Vec::new();
    for name in &expression.names {
        let given = inputs.map(|inputs| inputs.get_item(name.object.bind(py))).transpose()?.flatten();
        let object = match given {
            Some(object) => object,
            None => match scope.get(name.object.bind(py))? {
                Some(object) => object,
                None => continue,
            },
        };
        match declaration(&object)? {
            Some(declared) => declarations.push(format!("{}: {declared}", name.text)),
            None => arrays.push((name.text.as_str(), Input::new(&object, &name.text)?)),
        }
    }
    drop(scope);
    let mut views = Vec::new();
    for (name, input) in &arrays {
        views.extend(input.view().map_err(|e| raise(py, &e))?.map(|view| (*name, view)));
    }
    let (mut env, mut mixed) = (Env::new(), Vec::new());
    for (name, view) in &views {
        if declarations.is_empty() {
            env.insert(*name, view);
        } else {
            mixed.push(format!("{name}: {}{:?}", view.dtype(), view.shape()));
        }
    }
    declarations.append(&mut mixed);
    let explanation = if declarations.is_empty() {
        engine.explain(text, &env)
    } else {
        engine.explain_types(text, &declarations.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let explanation = explanation.map_err(|e| raise(py, &e))?;
    Ok(match stage {
        Some(stage) => explanation.stage(stage).to_owned(),
        None => explanation.to_string(),
    })
}

/// The declaration that an object stands for, if it is a type and not a value.
fn declaration(object: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if let Ok(text) = object.cast::<PyString>() {
        return Ok(Some(text.to_str()?.to_owned()));
    }
    if object.is_instance_of::<PyType>() || object.is_instance_of::<PyArrayDescr>() {
        let dtype = PyArrayDescr::new(object.py(), object)?;
        return Ok(Some(format!("{}[_]", dtype.getattr("name")?)));
    }
    Ok(None)
}
