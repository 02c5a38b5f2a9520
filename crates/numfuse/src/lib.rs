#![doc = include_str!("../../../README.md")]
#![deny(unsafe_code)]

mod array;
mod device;
mod element;
mod engine;
mod env;
mod error;
pub mod explain;
mod expr;
mod layout;
pub mod npy;
#[allow(unsafe_code, reason = "pointers to elements are read and written here, and only here")]
mod view;

pub use array::Array;
pub use device::{Device, MemoryStats};
pub use element::Element;
pub use engine::{
    Backend, Builder, CancelToken, Engine, Function, FunctionCall, Kernel, KnownCall, Limits, ReadyCall, Results, Stats,
};
pub use env::{AsArrayMut, AsArrayRef, Env, Outputs};
pub use error::{Error, Result};
pub use expr::{Axis, Expr, Exprs, Index, IntoIndex, Over, lazy};
pub use numfuse_core::diagnostic::{Code, Diagnostic, Span, suggest};
pub use numfuse_core::dtype::DType;
pub use numfuse_core::ops;
pub use numfuse_cpu::Tier;
pub use numfuse_lang::is_constant;
pub use view::{ArrayMut, ArrayRef, Memory, RawArray};

/// The page on GPUs, whose examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/gpu.md")]
pub struct GpuPage;

/// Evaluates a text with one result, on the default [`Engine`]: all cores, code kept for the next time.
///
/// ```
/// use numfuse::{evaluate, vars};
/// let (a, b) = (vec![1.0, 2.0], [3.0, 4.0]);
/// assert_eq!(evaluate("2*a + 3*b**2", &vars! { a, b })?.as_slice::<f64>()?, [29.0, 52.0]);
/// # Ok::<(), numfuse::Error>(())
/// ```
///
/// # Errors
/// If the text is wrong, with the place in it; if an input is missing or its type or shape does not fit.
pub fn evaluate(text: &str, env: &Env<'_>) -> Result<Array> {
    Engine::shared_default().evaluate(text, env)
}

/// Computes expressions of [`lazy`] arrays together, on the default [`Engine`]: a single one, or a tuple or vector.
///
/// # Errors
/// If operands have dtypes or shapes that do not go together, or there is an input without data.
pub fn eval<'a, E: Exprs<'a>>(exprs: E) -> Result<E::Arrays> {
    Engine::shared_default().eval(exprs)
}
