//! A compiled expression to be run again and again, from any thread, with arrays of any sizes.

use super::program::Program;
use super::run::{self, Results};
use super::{CancelToken, Shared};
use crate::array::Array;
use crate::env::{Env, Outputs};
use crate::error::{Error, Result};
use crate::view::ArrayRef;
use numfuse_core::diagnostic::{Code, Diagnostic, suggest};
use smallvec::SmallVec;
use std::sync::Arc;

/// A compiled expression; [`Engine::compile`](super::Engine::compile) and [`Engine::prepare`](super::Engine::prepare)
/// return one. Runs hold no lock, so that threads do not wait for each other; new sizes do not compile anything anew, but for
/// the first rows of a length up to 64.
///
/// ```
/// use numfuse::{Array, DType, Engine, Expr, Kernel, vars};
/// let x = Expr::input("x", DType::F64, [None])?;
/// let kernel: Kernel<(Array, Array)> = Engine::default().compile((x.sum(0), &x * 2))?;
/// let (sum, twice) = kernel.run(&vars! { x: [1.0, 2.0] })?;
/// assert_eq!((sum.item::<f64>()?, twice.as_slice::<f64>()?), (3.0, &[2.0, 4.0][..]));
///
/// let mut total = [0.0];
/// let mut out = vec![0.0; 3];
/// let mut sum = numfuse::ArrayMut::shaped(&mut total, &[])?;
/// kernel.run_into(&vars! { x: [1.0, 2.0, 3.0] }, (&mut sum, &mut out))?;
/// assert_eq!((total, out), ([6.0], vec![2.0, 4.0, 6.0]));
/// # Ok::<(), numfuse::Error>(())
/// ```
pub struct Kernel<A = Array> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) program: Arc<Program>,
    pub(super) collect: fn(Results) -> A,
}

impl<A> Clone for Kernel<A> {
    fn clone(&self) -> Kernel<A> {
        Kernel { shared: self.shared.clone(), program: self.program.clone(), collect: self.collect }
    }
}

impl<A> std::fmt::Debug for Kernel<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.program.inputs.iter().map(|i| i.name.as_str()).collect();
        write!(f, "Kernel({})", names.join(", "))
    }
}

impl<A> Kernel<A> {
    /// Evaluates the expression with arrays of any sizes that fit it.
    ///
    /// # Errors
    /// If an input is missing or of another dtype or rank than declared, or the sizes do not fit the expression.
    pub fn run(&self, env: &Env<'_>) -> Result<A> {
        self.run_with(env, None)
    }

    /// As [`Kernel::run`], until the token is cancelled.
    ///
    /// # Errors
    /// As [`Kernel::run`], and if it was cancelled.
    pub fn run_with(&self, env: &Env<'_>, token: Option<&CancelToken>) -> Result<A> {
        let run = |inputs: &[&ArrayRef<'_>]| run::run(&self.shared, &self.program, inputs, token);
        with_inputs(&self.program, env, run).map(self.collect)
    }

    /// Evaluates the expression into arrays of the caller, one for each result: `&mut out`, or a tuple or vector.
    /// They may be strided, and may overlap inputs: the results are those that separate arrays would get.
    ///
    /// # Errors
    /// As [`Kernel::run`]; and if an output has another dtype or shape than its result, or shares memory with itself or
    /// another output. Outputs are not touched then. If the evaluation fails later (an overflowing exponent, no memory,
    /// cancelled), what they hold is not specified.
    pub fn run_into<'o>(&self, env: &Env<'_>, outputs: impl Outputs<'o>) -> Result<()> {
        self.run_into_with(env, outputs, None)
    }

    /// As [`Kernel::run_into`], until the token is cancelled.
    ///
    /// # Errors
    /// As [`Kernel::run_into`], and if it was cancelled.
    pub fn run_into_with<'o>(
        &self,
        env: &Env<'_>,
        outputs: impl Outputs<'o>,
        token: Option<&CancelToken>,
    ) -> Result<()> {
        let mut outputs = outputs.into_arrays();
        with_inputs(&self.program, env, |inputs| {
            run::run_into(&self.shared, &self.program, None, inputs, &mut outputs, token)
        })
    }
}

/// Calls `then` with the arrays of the program's inputs, in order.
fn with_inputs<T>(program: &Program, env: &Env<'_>, then: impl FnOnce(&[&ArrayRef<'_>]) -> Result<T>) -> Result<T> {
    let mut inputs: SmallVec<[&ArrayRef<'_>; 8]> = SmallVec::new();
    for (i, input) in program.inputs.iter().enumerate() {
        let Some(array) = env.get_near(i, &input.name) else { return Err(missing(&input.name, env)) };
        let same = array.dtype() == input.dtype && array.is_weak() == input.weak;
        if !same || array.shape().len() != input.shape.len() {
            let converted = convert(program, env)?;
            return then(&converted.iter().collect::<SmallVec<[&ArrayRef<'_>; 8]>>());
        }
        inputs.push(array);
    }
    then(&inputs)
}

/// The arrays of the program's inputs, where a plain number takes the dtype of the scalar that it is given for.
fn convert<'a>(program: &Program, env: &Env<'a>) -> Result<Vec<ArrayRef<'a>>> {
    let mut inputs = Vec::with_capacity(program.inputs.len());
    for input in &program.inputs {
        let name = &input.name;
        let array = env.get(name).ok_or_else(|| missing(name, env))?;
        let wrong = |title: String, why: String| Err(Diagnostic::new(Code::InputMismatch, title).why(why).into());
        let rank = |n: usize| if n == 1 { "1 dimension".to_owned() } else { format!("{n} dimensions") };
        if array.shape().len() != input.shape.len() {
            let title = format!("input `{name}` has {}", rank(array.shape().len()));
            return wrong(title, format!("it was declared with {}", rank(input.shape.len())));
        }
        inputs.push(if array.dtype() == input.dtype && array.is_weak() == input.weak {
            array.clone()
        } else if let (true, Some(number)) = (array.is_weak() && !input.weak, array.get(&[])) {
            ArrayRef::from_literal(number.cast(input.dtype), false)
        } else {
            return wrong(
                format!("input `{name}` is of {}", array.dtype()),
                format!("it was declared as {}", input.dtype),
            );
        });
    }
    Ok(inputs)
}

fn missing(name: &str, env: &Env<'_>) -> Error {
    let error = Diagnostic::new(Code::MissingInput, format!("input `{name}` is missing"));
    match suggest(name, env.names()) {
        Some(near) => error.hint(format!("did you mean `{name}` by `{near}`?")),
        None => error,
    }
    .into()
}
