//! A text as a function of its names, called in two steps: first the types and sizes of the results are known, then they
//! are written into memory that the caller made for them. It is what bindings to other languages are built on, whose
//! arrays are made by a library of their own.
//!
//! Invariant: a [`FunctionCall`] runs into outputs of its results' types only, and as if all inputs had been read first.

use super::program::{Call, Program};
use super::run;
use super::{CancelToken, Engine, Inputs, Results, Shared, Text, type_key};
use crate::env::Outputs;
use crate::error::Result;
use crate::view::{ArrayRef, Lent, RawArray};
use numfuse_core::dtype::DType;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

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

/// A call of a [`Function`] that is like one of the last ones; [`Function::with_known`] finds it.
pub struct KnownCall<'c> {
    shared: &'c Shared,
    program: &'c Program,
    /// At least one. Those after the first may be for inputs of other places.
    calls: &'c [Arc<Call>],
    inputs: &'c [Option<RawArray<'c>>],
}

/// A [`KnownCall`] with its outputs.
pub struct ReadyCall<'c> {
    shared: &'c Shared,
    program: &'c Program,
    call: &'c Call,
    arrays: Lent<'c>,
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

    /// The dtype and the shape of each result of a call with these inputs, in order, wherever they are.
    ///
    /// # Errors
    /// As [`Function::bind`].
    pub fn results(&self, inputs: &[Option<ArrayRef<'_>>]) -> Result<Vec<(DType, Vec<u64>)>> {
        let (program, inputs) = self.program(inputs);
        let types = program.variant(&self.engine.shared, &inputs).and_then(|(v, sizes)| v.results(&sizes));
        let types = types.map_err(|error| error.with_text(program.text.as_ref()))?;
        Ok(types.into_iter().map(|(dtype, place)| (dtype, place.shape.to_vec())).collect())
    }

    /// Evaluates the function into new arrays, which are where [`Engine`]s put their results: on the device, if that is
    /// where the inputs are.
    ///
    /// # Errors
    /// As [`Function::bind`] and [`Kernel::run`](super::Kernel::run).
    pub fn run(&self, inputs: &[Option<ArrayRef<'_>>], token: Option<&CancelToken>) -> Result<Results> {
        let (program, inputs) = self.program(inputs);
        run::run(&self.engine.shared, &program, &inputs, token)
    }

    /// Evaluates the function into arrays of the results' dtypes and shapes, of any strides. Unlike a call that was bound
    /// first, it takes arrays of the host to an engine of a device as well.
    ///
    /// # Errors
    /// As [`Function::bind`] and [`Kernel::run_into`](super::Kernel::run_into).
    pub fn run_into<'o>(
        &self,
        inputs: &[Option<ArrayRef<'_>>],
        outputs: impl Outputs<'o>,
        token: Option<&CancelToken>,
    ) -> Result<()> {
        let (program, inputs) = self.program(inputs);
        run::run_into(&self.engine.shared, &program, None, &inputs, &mut outputs.into_arrays(), token)
    }

    /// If one of the last calls had arrays of the same types, sizes and strides, calls `then` with it: in no more time
    /// than some comparisons take. There is an array, or none, for each name.
    #[inline]
    pub fn with_known<T>(&self, inputs: &[Option<RawArray<'_>>], then: impl FnOnce(KnownCall<'_>) -> T) -> Option<T> {
        let shared = &*self.engine.shared;
        let is = |(key, array): (&u32, &Option<RawArray<'_>>)| {
            *key == array.as_ref().map_or(0, |array| type_key(array.dtype(), false, array.shape().len()))
        };
        let programs = self.text.programs.get();
        let mut fitting =
            programs.iter().filter(|(types, _)| types.len() == inputs.len() && types.iter().zip(inputs).all(is));
        let (_, program) = fitting.next()?;
        program.with_calls_since(inputs, |calls| then(KnownCall { shared, program, calls, inputs }))
    }

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

impl<'c> KnownCall<'c> {
    /// The dtype and the shape of each result, in order.
    #[inline]
    pub fn results(&self) -> impl ExactSizeIterator<Item = (DType, &'c [u64])> + use<'c> {
        self.calls[0].steps.results()
    }

    /// As [`FunctionCall::estimate`].
    #[inline]
    pub fn estimate(&self) -> Duration {
        estimate(&self.calls[0])
    }

    /// The call with its outputs, if one of the last calls had outputs of these types, sizes and strides as well, and they
    /// share no memory with each other or with inputs.
    #[inline]
    pub fn with_outputs(&self, outputs: &[RawArray<'c>]) -> Option<ReadyCall<'c>> {
        let (call, arrays) = self.calls.iter().find_map(|call| Some((call, call.steps.lent(self.inputs, outputs)?)))?;
        arrays.is_apart().then_some(ReadyCall { shared: self.shared, program: self.program, call, arrays })
    }
}

impl ReadyCall<'_> {
    /// Evaluates the function.
    ///
    /// # Errors
    /// As [`Kernel::run_into`](super::Kernel::run_into).
    #[inline]
    pub fn run(self) -> Result<()> {
        run::run_lent(self.shared, self.program, self.call, self.arrays)
    }
}

/// About how long a call takes on one thread.
#[inline]
fn estimate(call: &Call) -> Duration {
    Duration::from_nanos(call.steps.nanoseconds() as u64)
}

impl FunctionCall<'_, '_> {
    /// The dtype and the shape of each result, in order.
    pub fn results(&self) -> impl ExactSizeIterator<Item = (DType, &[u64])> {
        self.call.steps.results()
    }

    /// About how long the call takes on one thread: whether it is worth something to let others work meanwhile.
    #[inline]
    pub fn estimate(&self) -> Duration {
        estimate(&self.call)
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
