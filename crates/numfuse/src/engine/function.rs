//! A text as a function of its names, called in two steps: first the types and sizes of the results are known, then they
//! are written into memory that the caller made for them. It is what bindings to other languages are built on, whose
//! arrays are made by a library of their own.
//!
//! Invariant: a [`FunctionCall`] runs into outputs of its results' types only, and as if all inputs had been read first.

use super::program::{Call, Program};
use super::run;
use super::{CancelToken, Engine, Inputs, Text};
use crate::env::Outputs;
use crate::error::Result;
use crate::view::ArrayRef;
use numfuse_core::dtype::DType;
use smallvec::SmallVec;
use std::sync::Arc;

/// A text as a function of the names in it; any number of results. Compiled once for each combination of dtypes and
/// ranks, as it is called with them.
///
/// ```
/// use numfuse::{ArrayMut, ArrayRef, Engine};
/// let f = Engine::default().function("a + b, sum(a)")?;
/// assert_eq!(f.names(), ["a", "b"]);
/// let inputs = [Some(ArrayRef::from_slice(&[1.0, 2.0])), Some(ArrayRef::number(0.5))];
/// let call = f.bind(&inputs)?;
/// let sizes: Vec<usize> = call.results().map(|(_, shape)| shape.iter().product::<u64>() as usize).collect();
/// assert_eq!(sizes, [2, 1]);
/// let (mut first, mut second) = (vec![0.0; 2], vec![0.0; 1]);
/// call.run_into(vec![ArrayMut::from_slice(&mut first), ArrayMut::shaped(&mut second, &[])?], None)?;
/// assert_eq!((first, second), (vec![1.5, 2.5], vec![3.0]));
/// # Ok::<(), numfuse::Error>(())
/// ```
#[derive(Clone)]
pub struct Function {
    engine: Engine,
    text: Arc<Text>,
}

/// A call of a [`Function`] with its inputs: what the results will be, and how to get them.
pub struct FunctionCall<'f, 'a> {
    function: &'f Function,
    program: Arc<Program>,
    call: Arc<Call>,
    inputs: Inputs<'f, 'a>,
}

impl Engine {
    /// A text as a function of its names.
    ///
    /// # Errors
    /// If the text cannot be parsed, with the place in it.
    pub fn function(&self, text: &str) -> Result<Function> {
        Ok(Function { engine: self.clone(), text: self.shared.text(text)? })
    }
}

impl Function {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text.source
    }

    /// The names that the text uses, in the order in which it uses them first: also those of constants, such as `pi`,
    /// which need not be bound.
    pub fn names(&self) -> &[String] {
        &self.text.names
    }

    /// Calls the function with an array for each of its names, or none for a name that is not bound.
    ///
    /// # Errors
    /// If the types or sizes of the inputs do not fit the text, or a name that is not bound has no meaning.
    pub fn bind<'f, 'a>(&'f self, inputs: &'f [Option<ArrayRef<'a>>]) -> Result<FunctionCall<'f, 'a>> {
        let (program, inputs) = self.program(inputs);
        let call = program.call(&self.engine.shared, &inputs)?;
        Ok(FunctionCall { function: self, program, call, inputs })
    }

    /// As [`Function::bind`], if that takes no longer than a few comparisons, since one of the last calls had the same
    /// types, sizes and strides.
    #[inline]
    pub fn bind_known<'f, 'a>(&'f self, inputs: &'f [Option<ArrayRef<'a>>]) -> Option<FunctionCall<'f, 'a>> {
        let (program, inputs) = self.program(inputs);
        let call = program.known_call(&inputs)?;
        Some(FunctionCall { function: self, program, call, inputs })
    }

    #[inline]
    fn program<'f, 'a>(&self, inputs: &'f [Option<ArrayRef<'a>>]) -> (Arc<Program>, Inputs<'f, 'a>) {
        let mut bound: SmallVec<[Option<&'f ArrayRef<'a>>; 4]> = SmallVec::new();
        let mut arrays = Inputs::new();
        for i in 0..self.text.names.len() {
            // Names beyond those that were given are not bound; more inputs than names have nothing to be bound to.
            let input = inputs.get(i).and_then(Option::as_ref);
            bound.push(input);
            if let Some(input) = input {
                arrays.push(input);
            }
        }
        (self.text.program(&bound, Vec::new), arrays)
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Function({:?})", self.text())
    }
}

impl FunctionCall<'_, '_> {
    /// The dtype and the shape of each result, in order.
    pub fn results(&self) -> impl ExactSizeIterator<Item = (DType, &[u64])> {
        self.call.steps.results()
    }

    /// About how long the call takes on one thread: whether it is worth something to let others work meanwhile.
    #[inline]
    pub fn estimate(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.call.steps.nanoseconds() as u64)
    }

    /// Evaluates the function into arrays of the results' dtypes and shapes, of any strides.
    ///
    /// # Errors
    /// As [`Kernel::run_into`](super::Kernel::run_into).
    #[inline]
    pub fn run_into<'o>(&self, outputs: impl Outputs<'o>, token: Option<&CancelToken>) -> Result<()> {
        let shared = &self.function.engine.shared;
        run::run_into(shared, &self.program, Some(&self.call), &self.inputs, &mut outputs.into_arrays(), token)
    }
}
