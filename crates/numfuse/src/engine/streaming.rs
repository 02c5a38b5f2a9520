//! Arrays of the host through a device: copied there, computed, and copied back, whole or in parts.
//!
//! * Where a plan treats rows independently of each other (`split.rs`), some rows at a time go through (`rows.rs`).
//! * Otherwise the work is cut into passes over the arrays (`passes.rs`), each of which goes through in tiles (`pass.rs`):
//!   reductions are cut where their order allows it, and the states of the parts merged in the same tree.
//! * What fits and is read only once goes there whole: several passes would carry it several times.
//! * Products of matrices are cut into rows, columns and matrices of a stack, never along their depth (`products.rs`).
//!
//! So arrays may be larger than the memory of the device. `pipeline.rs` has the parts on their way, `tiles.rs` the arithmetic.
//!
//! Invariant: the results have the same bits in every way, save for products of matrices of floats, which are the products of
//! the parts.

mod pass;
mod passes;
mod pipeline;
mod products;
mod rows;
mod split;
mod tiles;

pub(crate) use passes::Passes;
pub(crate) use pipeline::Kept;

use super::limits::Flag;
use super::program::{Program, Variant, check_output};
use super::run::{self, Results};
use super::{Shared, device};
use crate::array::Array;
use crate::error::{Error, Result};
use crate::layout::overlap;
use crate::view::{ArrayMut, ArrayRef};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_cuda::Backend;
use rows::Rows;
use smallvec::SmallVec;

/// About how many bytes of inputs and results a part has, where the device has memory enough.
const PART: u64 = 64 << 20;
/// Fewer bytes than this are one part, whatever the device has free: asking it takes longer than they do.
const SMALL: u64 = 1 << 20;
/// A part takes no more than this share of what the device has free: there are several, and temporaries besides.
const SHARE: u64 = 16;

/// What there is room for.
struct Room {
    /// Bytes of the device that an evaluation may take.
    free: u64,
    /// Bytes that the device has.
    total: u64,
    /// Bytes of inputs and results.
    needed: u64,
}

/// Evaluates a program of arrays of the host into new arrays of the host, or into those of the caller.
pub(super) fn run(
    shared: &Shared,
    backend: &Backend,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    outputs: Option<&mut [ArrayMut<'_>]>,
    flag: &Flag<'_>,
) -> Result<Results> {
    let (variant, sizes) = program.variant(shared, inputs)?;
    let types = variant.results(&sizes)?;
    let bytes =
        types.iter().fold(0usize, |sum, (dtype, place)| sum.saturating_add(place.count() as usize * dtype.size()));
    super::program::limit("results", bytes, shared.limits.output_bytes)?;
    if let Some(outputs) = &outputs {
        check_outputs(outputs, &types)?;
    }
    let job = Job { shared, backend, program, variant: &variant, sizes: &sizes, types: &types, inputs, flag };
    let overlaps = |outputs: &[ArrayMut<'_>]| {
        let meets = |output: &ArrayMut<'_>| inputs.iter().any(|input| overlap(&input.span(), &output.span()));
        outputs.iter().any(meets)
    };
    match outputs {
        Some(outputs) if !overlaps(outputs) => {
            job.run(outputs)?;
            Ok(Results::new())
        }
        outputs => {
            // Nothing may be written before everything was read.
            let new = |(dtype, place): &(DType, Strided)| Array::uninitialized_at(*dtype, place.clone());
            let mut results: Results = types.iter().map(new).collect::<Result<_>>()?;
            let mut views: SmallVec<[ArrayMut<'_>; 1]> = results.iter_mut().map(Array::view_mut).collect();
            job.run(&mut views)?;
            drop(views);
            let Some(outputs) = outputs else { return Ok(results) };
            for (output, result) in outputs.iter_mut().zip(&results) {
                output.copy_from(&result.view())?;
            }
            Ok(Results::new())
        }
    }
}

/// An error if outputs are not ones for results of these types.
fn check_outputs(outputs: &[ArrayMut<'_>], types: &[(DType, Strided)]) -> Result<()> {
    if outputs.len() != types.len() {
        return Err(Error::new(Code::Output, format!("{} outputs for {} results", outputs.len(), types.len())));
    }
    for (n, (output, (dtype, place))) in outputs.iter().zip(types).enumerate() {
        check_output(n, output, *dtype, place)?;
        if outputs[..n].iter().any(|other| overlap(&other.span(), &output.span())) {
            let error = Diagnostic::new(Code::Output, "two outputs share memory");
            return Err(error.why("the second would overwrite the first").into());
        }
    }
    Ok(())
}

/// An evaluation.
#[derive(Clone, Copy)]
struct Job<'j> {
    shared: &'j Shared,
    backend: &'j Backend,
    program: &'j Program,
    variant: &'j Variant,
    sizes: &'j [u64],
    types: &'j [(DType, Strided)],
    inputs: &'j [&'j ArrayRef<'j>],
    flag: &'j Flag<'j>,
}

impl Job<'_> {
    /// Evaluates into arrays that overlap no input. A way for which there is no memory is followed by one that takes less.
    fn run(self, outputs: &mut [ArrayMut<'_>]) -> Result<()> {
        let Job { backend, program, variant, sizes, types, inputs, .. } = self;
        let of_inputs = inputs.iter().map(|input| input.len() * input.dtype().size());
        let of_results = types.iter().map(|(dtype, place)| place.count() as usize * dtype.size());
        let needed = of_inputs.chain(of_results).fold(0u64, |sum, bytes| sum.saturating_add(bytes as u64));
        if needed <= SMALL {
            return self.whole(outputs);
        }
        let (device, stats) = (backend.device(), backend.device().memory_stats());
        let (Ok(free), Ok(stats)) = (device.memory_free(), stats) else { return self.whole(outputs) };
        let kept = stats.reserved.saturating_sub(stats.used);
        let room = Room { free: free.saturating_add(kept), total: device.memory_total(), needed };
        let rows = split::split(&variant.plan, sizes).and_then(|split| Rows::new(&room, inputs, types, split));
        let mut out_of_memory = None;
        let mut refused = |result: Result<()>| match result {
            Err(error) if error.code() == Code::OutOfMemory => {
                out_of_memory = Some(error);
                None
            }
            result => Some(result),
        };
        if let Some(rows) = rows.filter(|rows| rows.fit(program, inputs))
            && let Some(done) = refused(rows.run(self, outputs))
        {
            return done;
        }
        let graph = &variant.plan.graph;
        let passes = variant.passes()?;
        let passes = pass::bytes(graph, passes, sizes).map(|bytes| (passes, bytes));
        // Passes keep copies and work going at the same time; the whole is carried once, and products are better done whole.
        let is_quicker =
            needed > PART && passes.is_some_and(|(passes, bytes)| bytes <= needed && !passes.have_products());
        if !is_quicker
            && (needed <= room.free / 4 * 3 || passes.is_none())
            && let Some(done) = refused(self.whole(outputs))
        {
            return done;
        }
        if let Some((passes, _)) = passes
            && let Some(done) = refused(pass::run(self, passes, &room, outputs))
        {
            return done;
        }
        let why = match passes {
            Some((passes, _)) if passes.have_products() => {
                "even in parts they are too much: of a product of matrices the device has some whole rows and columns at a time"
            }
            _ => "even in parts they are too much",
        };
        Err(too_large(&room, backend, why, out_of_memory))
    }

    /// Evaluates with all of each array at once.
    fn whole(self, outputs: &mut [ArrayMut<'_>]) -> Result<()> {
        let Job { shared, program, inputs, flag, .. } = self;
        let arrays = uploaded(shared, inputs, |_| true)?;
        let mut views: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
        for (input, array) in inputs.iter().zip(&arrays) {
            views.push(array.as_ref().map_or_else(|| (*input).clone(), Array::view));
        }
        let results = computed(shared, program, &views, flag)?;
        outputs.iter_mut().zip(&results).try_for_each(|(output, result)| output.copy_from(&result.view()))
    }
}

/// What does not fit, and what to do.
#[cold]
fn too_large(room: &Room, backend: &Backend, why: &str, error: Option<Error>) -> Error {
    let Room { free, total, needed } = room;
    let asked = error.map(|error| format!("; last, {}", error.diagnostics()[0].title)).unwrap_or_default();
    let title = format!("{needed} bytes of inputs and results do not fit into cuda:{}", backend.device().index());
    Diagnostic::new(Code::OutOfMemory, title)
        .why(format!("{free} of its {total} bytes are free, and {why}{asked}"))
        .hint("an engine without a device computes it on the CPU; or give the arrays in parts of your own")
        .into()
}

/// Copies on the device of those inputs that are chosen and are no scalars.
fn uploaded(
    shared: &Shared,
    inputs: &[&ArrayRef<'_>],
    choose: impl Fn(usize) -> bool,
) -> Result<SmallVec<[Option<Array>; 3]>> {
    let upload = |(n, input): (usize, &&ArrayRef<'_>)| {
        let wanted = !input.shape().is_empty() && choose(n);
        wanted.then(|| Array::copy_to(input, &shared.device)).transpose()
    };
    inputs.iter().enumerate().map(upload).collect()
}

/// Evaluates a program of arrays of the device.
fn computed(shared: &Shared, program: &Program, inputs: &[ArrayRef<'_>], flag: &Flag<'_>) -> Result<Results> {
    let inputs: SmallVec<[&ArrayRef<'_>; 8]> = inputs.iter().collect();
    device::with_numbers(&inputs, |inputs| {
        program.with_call(shared, inputs, None, |call, fit| run::steps(shared, call, fit, flag))
    })
}
