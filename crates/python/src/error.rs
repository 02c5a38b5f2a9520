//! What went wrong, as an exception of `numfuse._errors`: its class by the code, its message with the text and carets.

use numfuse::{Code, Diagnostic, Error};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;

static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let make = || {
        let classes = CLASSES.get_or_try_init(py, || py.import("numfuse._errors").map(Bound::unbind))?;
        let exception = classes.bind(py).getattr(class(error.code()))?.call1((error.report(false).trim_end(),))?;
        exception.setattr("code", error.code().as_str())?;
        Ok(PyErr::from_value(exception))
    };
    make().unwrap_or_else(|e: PyErr| e)
}

/// The exception for an argument that is none.
pub fn refuse(py: Python<'_>, diagnostic: Diagnostic) -> PyErr {
    raise(py, &diagnostic.into())
}

/// The name of the class of a code.
fn class(code: Code) -> &'static str {
    match code {
        Code::BadCharacter
        | Code::BadNumber
        | Code::Syntax
        | Code::Bracket
        | Code::NotAnExpression
        | Code::NotConstant
        | Code::Assignment => "ParseError",
        Code::UnknownName | Code::MissingInput => "UnknownNameError",
        Code::UnknownFunction => "UnknownFunctionError",
        Code::Arguments | Code::DTypeMismatch | Code::InputMismatch => "ArgumentError",
        Code::LiteralRange | Code::NegativeIntPower => "RangeError",
        Code::Broadcast | Code::Axis | Code::Index | Code::EmptyReduction | Code::Rank | Code::MatrixProduct => {
            "ShapeError"
        }
        Code::Output => "OutputError",
        Code::SourceLimit | Code::GraphLimit | Code::TooLarge => "LimitError",
        Code::OutOfMemory => "NoMemoryError",
        Code::Device | Code::DeviceCompiler | Code::DeviceMismatch | Code::DeviceUnsupported | Code::DeviceFailed => {
            "DeviceError"
        }
        // Of these only the last can come from Python: it has no files of ours.
        Code::File | Code::Cancelled | Code::Internal => "InternalError",
    }
}
