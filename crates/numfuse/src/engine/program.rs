//! An expression for inputs of certain types, and what has been prepared for it: plans, and calls with their sizes.
//!
//! A [`Program`] knows how to build its graph. Graphs do not depend on sizes, save on which of them are 1 and broadcast;
//! so a program has one plan, or a few ([`Variant`]). A [`Call`] is a plan with the sizes and strides of one evaluation:
//! everything but the pointers. The last few are kept, so that a repeated evaluation only compares sizes and strides.
//!
//! Invariant: a variant or call, once made, never changes; finding one takes no lock.

use super::Shared;
use super::device::{self, Fusion};
use super::recent::{First, Recent};
use super::streaming::Passes;
use crate::error::{Error, Result, cuda_error};
use crate::expr::{Input, Recipe, Size};
use crate::view::{ArrayMut, ArrayRef, Binding, Fit, RawArray, Slot, Steps};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::graph::Graph;
use numfuse_core::kernel::Kernel;
use numfuse_core::pipeline;
use numfuse_core::plan::{Bound, BufferId, BufferKind, Plan, Strided, Work};
use numfuse_core::shape::Unmet;
use numfuse_cuda::matmul::Product;
use numfuse_lang::{Ast, DimSpec, InputType};
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};

/// Where a program's graph comes from.
pub(crate) enum Source {
    Text(Arc<Ast>),
    Recipe(Arc<Recipe>),
    /// The graph itself, in which every size of 1 is known to be one.
    Graph(Box<Graph>),
}

pub(crate) struct Program {
    source: Source,
    /// The text, for messages.
    pub text: Option<Arc<str>>,
    pub inputs: Vec<Input>,
    /// What else was given: a misspelt name is looked for among these, too.
    unused: Vec<Input>,
    variants: Recent<Arc<Variant>>,
    /// The first call of all, which most evaluations are like: found without the reference counts of the others.
    first: First<Arc<Call>>,
    calls: Recent<Arc<Call>>,
}

/// How many calls a program remembers, and how many variants.
const CALLS: usize = 4;
const VARIANTS: usize = 16;

/// A plan.
pub(crate) struct Variant {
    pub plan: Plan,
    /// The same work as passes over parts of arrays of the host, once that is asked for; see `streaming/passes.rs`.
    passes: OnceLock<Result<Passes>>,
}

/// See the module text.
pub(crate) struct Call {
    pub variant: Arc<Variant>,
    pub steps: Steps,
}

impl Program {
    pub fn new(source: Source, text: Option<Arc<str>>, inputs: Vec<Input>) -> Program {
        let (variants, calls) = (Recent::new(), Recent::new());
        Program { source, text, inputs, unused: Vec::new(), variants, first: First::new(), calls }
    }

    /// The program, with inputs that its text does not use.
    pub fn with_unused(self, unused: Vec<Input>) -> Program {
        Program { unused, ..self }
    }

    /// The graph, for a call with these sizes of its symbols if they are given.
    pub fn graph(&self, shared: &Shared, symbol_hints: Option<Vec<u64>>) -> Result<Graph> {
        match &self.source {
            Source::Recipe(recipe) => recipe.graph(symbol_hints),
            Source::Graph(graph) => Ok(Graph::clone(graph)),
            Source::Text(ast) => {
                let given: Vec<&Input> = self.inputs.iter().chain(&self.unused).collect();
                let shapes: Vec<_> = given.iter().map(|input| input.spec()).collect();
                let types: Vec<_> = given.iter().zip(&shapes).map(|(i, shape)| i.as_type(shape)).collect();
                let (graph, diagnostics) = numfuse_lang::lower(ast, &types, symbol_hints, &shared.limits.source());
                graph.ok_or_else(|| Error::from(diagnostics))
            }
        }
        .map_err(|error| error.with_text(self.text.as_ref()))
    }

    /// The text as it was understood; none of an expression.
    pub fn tree(&self) -> Option<String> {
        match &self.source {
            Source::Text(ast) => Some(ast.to_string()),
            Source::Recipe(_) | Source::Graph(_) => None,
        }
    }

    /// A plan without sizes: finds mistakes early.
    pub fn prepare(&self, shared: &Shared) -> Result<Arc<Variant>> {
        self.add_variant(shared, None)
    }

    /// Calls `then` with the call for arrays of these places, and the arrays. Without outputs new arrays are made.
    #[inline]
    pub fn with_call<T>(
        &self,
        shared: &Shared,
        inputs: &[&ArrayRef<'_>],
        mut outputs: Option<&mut [ArrayMut<'_>]>,
        then: impl FnOnce(&Call, Fit<'_, '_>) -> Result<T>,
    ) -> Result<T> {
        if let Some(call) = self.first.get()
            && let Some(fit) = call.steps.fit(inputs, outputs.as_deref_mut())
        {
            return then(call, fit);
        }
        for call in self.calls.get().iter() {
            if let Some(fit) = call.steps.fit(inputs, outputs.as_deref_mut()) {
                return then(call, fit);
            }
        }
        let call = self.add_call(shared, inputs, outputs.as_deref())?;
        match call.steps.fit(inputs, outputs) {
            Some(fit) => then(&call, fit),
            None => Err(Error::new(Code::Internal, "a call does not fit the arrays it was made for")),
        }
    }

    /// The call with inputs at these places, with new arrays for its results.
    pub fn call(&self, shared: &Shared, inputs: &[&ArrayRef<'_>]) -> Result<Arc<Call>> {
        if let Some(call) = self.calls.get().iter().find(|call| call.steps.fit(inputs, None).is_some()) {
            return Ok(call.clone());
        }
        self.add_call(shared, inputs, None).map_err(|error| error.with_text(self.text.as_ref()))
    }

    /// Calls `then` with the calls of the last evaluations, from the first on that had arrays of these places.
    #[inline]
    pub fn with_calls_since<T>(
        &self,
        inputs: &[Option<RawArray<'_>>],
        then: impl FnOnce(&[Arc<Call>]) -> T,
    ) -> Option<T> {
        let calls = self.calls.get();
        let first = calls.iter().position(|call| call.steps.takes(inputs))?;
        Some(then(&calls[first..]))
    }

    #[cold]
    fn add_call(&self, shared: &Shared, inputs: &[&ArrayRef<'_>], given: Option<&[ArrayMut<'_>]>) -> Result<Arc<Call>> {
        let call = Arc::new(self.new_call(shared, inputs, given)?);
        self.first.offer(call.clone());
        self.calls.add(call.clone(), CALLS);
        Ok(call)
    }

    /// Binds sizes to a plan, one that is there or a new one.
    fn new_call(&self, shared: &Shared, inputs: &[&ArrayRef<'_>], given: Option<&[ArrayMut<'_>]>) -> Result<Call> {
        device::check_devices(shared, self, inputs, given)?;
        let (variant, sizes) = self.variant(shared, inputs)?;
        Call::new(shared, variant, &sizes, inputs, given)
    }

    /// The plan for the sizes of these arrays, and the sizes of all of its dimensions.
    pub fn variant(&self, shared: &Shared, inputs: &[&ArrayRef<'_>]) -> Result<(Arc<Variant>, Vec<u64>)> {
        let symbols = self.symbols(inputs)?;
        for variant in self.variants.get().iter() {
            let sizes = variant.plan.graph.dims.sizes(&symbols);
            match variant.plan.graph.dims.check(&sizes) {
                Ok(()) => return Ok((variant.clone(), sizes)),
                Err(Unmet::Respecialize) => {}
                Err(Unmet::Error(error)) => return Err(Error::from(*error)),
            }
        }
        let variant = self.add_variant(shared, Some(symbols.clone()))?;
        let sizes = variant.plan.graph.dims.sizes(&symbols);
        match variant.plan.graph.dims.check(&sizes) {
            Ok(()) => Ok((variant, sizes)),
            Err(Unmet::Error(error)) => Err(Error::from(*error)),
            Err(Unmet::Respecialize) => {
                Err(Error::new(Code::Internal, "a plan does not fit the sizes it was made for"))
            }
        }
    }

    /// True if the sizes of these arrays go together.
    pub fn takes(&self, inputs: &[&ArrayRef<'_>]) -> bool {
        let Ok(symbols) = self.symbols(inputs) else { return false };
        self.variants.get().iter().all(|variant| {
            let sizes = variant.plan.graph.dims.sizes(&symbols);
            !matches!(variant.plan.graph.dims.check(&sizes), Err(Unmet::Error(_)))
        })
    }

    fn add_variant(&self, shared: &Shared, hints: Option<Vec<u64>>) -> Result<Arc<Variant>> {
        let graph = self.graph(shared, hints)?;
        shared.counters.plans.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let plan = pipeline::plan(graph, pipeline::Options::default(), &mut |_, _| {});
        let plan = plan.map_err(|e| Error::from(e).with_text(self.text.as_ref()))?;
        if !plan.graph.inputs().iter().map(|i| &i.name).eq(self.inputs.iter().map(|i| &i.name)) {
            return Err(Error::new(Code::Internal, "a plan with other inputs than its expression"));
        }
        let variant = Arc::new(Variant { plan, passes: OnceLock::new() });
        self.variants.add(variant.clone(), VARIANTS);
        Ok(variant)
    }

    /// The sizes of the symbols of the graph.
    fn symbols(&self, inputs: &[&ArrayRef<'_>]) -> Result<Vec<u64>> {
        let specs: Vec<_> = self.inputs.iter().map(Input::spec).collect();
        let types = self.inputs.iter().zip(&specs).map(|(input, spec)| input.as_type(spec));
        let symbols = numfuse_lang::symbols(types.zip(inputs.iter().map(|i| i.shape())));
        symbols.map_err(|e| Error::from(*e))
    }
}

impl Input {
    fn spec(&self) -> SmallVec<[DimSpec<'_>; 4]> {
        self.shape
            .iter()
            .map(|size| match size {
                Size::Fixed(size) => DimSpec::Fixed(*size),
                Size::Named(name) => DimSpec::Symbol(name),
                Size::Unknown => DimSpec::Unknown,
            })
            .collect()
    }

    fn as_type<'a>(&'a self, shape: &'a [DimSpec<'a>]) -> InputType<'a> {
        InputType { name: &self.name, dtype: self.dtype, weak: self.weak, shape }
    }
}

impl Variant {
    /// The same work as passes over parts of arrays.
    pub fn passes(&self) -> Result<&Passes> {
        let passes = self.passes.get_or_init(|| Passes::new(&self.plan.graph).map_err(Error::from));
        passes.as_ref().map_err(Error::clone)
    }

    /// The dtype of each result, in order, and its place as a new array.
    pub fn results(&self, sizes: &[u64]) -> Result<SmallVec<[(DType, Strided); 1]>> {
        let place = |buffer: &BufferId| {
            let buffer = &self.plan.buffers[buffer.index()];
            let shape: SmallVec<[u64; 4]> = buffer.shape.iter().map(|dim| sizes[dim.index()]).collect();
            Ok((buffer.dtype, Strided::row_major(&shape, buffer.dtype)?))
        };
        self.plan.outputs.iter().map(place).collect()
    }
}

impl Call {
    fn new(
        shared: &Shared,
        variant: Arc<Variant>,
        sizes: &[u64],
        inputs: &[&ArrayRef<'_>],
        given: Option<&[ArrayMut<'_>]>,
    ) -> Result<Call> {
        let plan = &variant.plan;
        if let Some(given) = given.filter(|g| g.len() != plan.outputs.len()) {
            let title = format!("{} outputs for {} results", given.len(), plan.outputs.len());
            return Err(Error::new(Code::Output, title));
        }
        let places: SmallVec<[Strided; 3]> = inputs.iter().map(|i| i.place().clone()).collect();
        let mut places = plan.places(sizes, &places)?;
        let mut outputs = SmallVec::new();
        let mut copies = Vec::new();
        let mut new_arrays = true;
        let mut output_bytes = 0usize;
        for (i, buffer) in plan.outputs.iter().enumerate() {
            let dtype = plan.buffers[buffer.index()].dtype;
            let place = &mut places[buffer.index()];
            output_bytes = output_bytes.saturating_add(place.count() as usize * dtype.size());
            let mut bound = place.clone();
            if let Some(given) = given {
                check_output(i, &given[i], dtype, place)?;
                bound = given[i].place().clone();
            }
            if let BufferKind::Output(own) = plan.buffers[buffer.index()].kind
                && own as usize != i
            {
                copies.push((own as usize, i));
                new_arrays &= Strided::row_major(&bound.shape, dtype)? == bound;
            } else {
                new_arrays &= *place == bound;
                *place = bound.clone();
            }
            outputs.push(Binding::new(dtype, bound)?);
        }
        limit("results", output_bytes, shared.limits.output_bytes)?;
        let bindings = inputs.iter().map(|input| Binding::new(input.dtype(), input.place().clone()));
        let bindings = bindings.collect::<Result<_>>()?;
        let mut fusion = match shared.device.backend() {
            Some(backend) => Fusion::new(backend, plan, sizes, inputs, &places)?,
            None => Fusion::default(),
        };
        let slots = slots(plan, &places, &fusion.unused)?;
        let mut steps = Steps::new(bindings, outputs, new_arrays, copies, slots, &plan.guards)?;
        if let Some(backend) = shared.device.backend() {
            steps.set_device(backend, inputs, given);
        }
        limit("temporaries", steps.arena_bytes(), shared.limits.temp_bytes)?;
        // The first of the steps that the one before, which is not left out, may run together with.
        let mut group = None;
        for (i, step) in plan.steps.iter().enumerate() {
            if let Some(at) = fusion.products.iter().position(|(last, ..)| *last == i) {
                let (_, alone, bound) = fusion.products.swap_remove(at);
                if !bound.is_empty {
                    steps.push_product_on_device(alone, bound)?;
                }
            }
            if fusion.steps.contains(&i) {
                continue;
            }
            let bound = step.bind(sizes, &places)?;
            if bound.is_empty {
                continue;
            }
            let before = group.replace(step.together.unwrap_or(i));
            let buffers = step.operands.iter().map(|o| o.buffer);
            match step.specialize(&bound.launch) {
                Work::Kernel(kernel) if !shared.device.is_cpu() => steps.push_on_device(kernel, bound, buffers)?,
                Work::Kernel(mut kernel) => {
                    let (mut bound, mut buffers) = (bound, buffers.collect::<SmallVec<[BufferId; 8]>>());
                    if shared.code.compiler().is_some() {
                        specialize(&mut kernel, &mut bound, &mut buffers);
                    }
                    let tier = shared.code.get(&kernel)?;
                    steps.push(&kernel, tier, bound, buffers, before == group)?;
                }
                Work::Matmul(_) if !shared.device.is_cpu() => {
                    let bound = plan.bind_product(i, [None; 3], sizes, &places)?;
                    let alone = Product::new(bound.dtype, &bound.launch).map_err(cuda_error)?;
                    steps.push_product_on_device(alone, bound)?;
                }
                Work::Matmul(dtype) => steps.push_matmul(dtype, shared.code.compiler().is_some(), bound, buffers)?,
            }
        }
        Ok(Call { variant, steps })
    }
}

/// Makes of a kernel with a launch of it, which runs on these buffers, what is compiled for that launch.
fn specialize(kernel: &mut Kernel, bound: &mut Bound, buffers: &mut SmallVec<[BufferId; 8]>) {
    if let Some(specialized) = numfuse_cpu::specialize(kernel, &bound.launch) {
        *kernel = specialized.kernel;
        bound.launch = specialized.launch;
        bound.offsets = specialized.operands.iter().map(|(n, by)| bound.offsets[*n].wrapping_add(*by)).collect();
        *buffers = specialized.operands.iter().map(|(n, _)| buffers[*n]).collect();
    }
}

/// An error if an output is not one for a result of this dtype and place.
pub(super) fn check_output(n: usize, given: &ArrayMut<'_>, dtype: DType, place: &Strided) -> Result<()> {
    let title = if n == 0 { "the output".to_owned() } else { format!("output {n}") };
    if given.dtype() != dtype {
        let error = Diagnostic::new(Code::Output, format!("{title} is of {}, the result is of {dtype}", given.dtype()));
        return Err(error.hint(format!("convert in the expression: `{}(...)`", given.dtype())).into());
    }
    if given.shape() != place.shape.as_slice() {
        let error = Diagnostic::new(
            Code::Output,
            format!("{title} has shape {:?}, the result has {:?}", given.shape(), place.shape.as_slice()),
        );
        return Err(error.why("results are not broadcast to an output").into());
    }
    if crate::layout::overlaps_itself(given.place(), dtype) {
        let error = Diagnostic::new(Code::Output, format!("elements of {title} share memory"));
        return Err(error.why(format!("its byte strides are {:?}", given.strides())).into());
    }
    Ok(())
}

/// An error if something takes more bytes than it may.
pub(super) fn limit(what: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let error = Diagnostic::new(Code::TooLarge, format!("{bytes} bytes of {what}"));
    Err(error.why(format!("the limit is {limit} bytes")).into())
}

/// What each buffer is. Temporaries that do not live at the same time share memory; first fit, in order of the steps.
/// Those that are unused have none.
fn slots(plan: &Plan, places: &[Strided], unused: &[BufferId]) -> Result<SmallVec<[Slot; 6]>> {
    const ALIGN: usize = 64;
    let mut slots: SmallVec<[Slot; 6]> = SmallVec::new();
    let mut temps: Vec<usize> = Vec::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        slots.push(match buffer.kind {
            BufferKind::Input(n) => Slot::Input(n),
            BufferKind::Output(n) => Slot::Output(n),
            BufferKind::Temp if unused.contains(&BufferId(i as u32)) => Slot::Temp { offset: 0, len: 0 },
            BufferKind::Guard(_) | BufferKind::Temp => {
                temps.push(i);
                Slot::Temp { offset: 0, len: places[i].count() as usize * buffer.dtype.size() }
            }
        });
    }
    // A guard is read after the last step.
    let last = |i: usize| match plan.buffers[i].kind {
        BufferKind::Guard(_) => usize::MAX,
        _ => plan.buffers[i].last,
    };
    temps.sort_by_key(|i| plan.buffers[*i].first);
    let too_large = || Diagnostic::new(Code::TooLarge, "the temporaries are too large");
    let mut live: Vec<(usize, usize, usize)> = Vec::new();
    for i in temps {
        let Slot::Temp { len, .. } = slots[i] else { continue };
        live.retain(|(_, _, last)| *last >= plan.buffers[i].first);
        live.sort_unstable();
        let size = len.max(1).checked_next_multiple_of(ALIGN).ok_or_else(too_large)?;
        let mut offset = 0;
        for (start, end, _) in &live {
            if start - offset >= size {
                break;
            }
            offset = *end;
        }
        let end = offset.checked_add(size).filter(|end| *end <= isize::MAX as usize).ok_or_else(too_large)?;
        live.push((offset, end, last(i)));
        slots[i] = Slot::Temp { offset, len };
    }
    Ok(slots)
}
