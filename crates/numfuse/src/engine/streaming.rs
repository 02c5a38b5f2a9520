//! Arrays of the host through a device: copied there, computed, and copied back.
//!
//! Where a plan can be run for some rows at a time (`split.rs`), arrays go through in parts, so that they may be larger than
//! the memory of the device: while one part is computed, the next one is on its way there and the one before on its way
//! back. Pinned memory of the host lies in between, which the device copies from and to by itself; threads fill and empty
//! it. Otherwise all arrays have to fit.
//!
//! Invariant: the results have the same bits either way.

mod split;

use super::limits::Flag;
use super::program::{Program, check_output};
use super::run::{self, Results};
use super::{Shared, device};
use crate::array::Array;
use crate::error::{Error, Result, cuda_error};
use crate::layout::overlap;
use crate::view::{ArrayMut, ArrayRef, DeviceMemory};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_cuda::Backend;
use numfuse_cuda::driver::{Pinned, Stream};
use smallvec::SmallVec;
use split::Split;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Parts that are on their way at one time.
const SLOTS: usize = 3;
/// About how many bytes of inputs and results a part has, where the device has memory enough.
const PART: u64 = 48 << 20;
/// Fewer bytes than this are one part, whatever the device has free: asking it takes longer than they do.
const SMALL: usize = 1 << 20;
/// A part takes no more than this share of what the device has free: there are several, and temporaries besides.
const SHARE: u64 = 16;
/// Copies between memories of the host are shared out to threads in pieces of at least this many bytes.
const PIECE: usize = 1 << 20;
/// More threads than this do not copy faster.
const COPIERS: usize = 8;

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
    let parts = split::split(&variant.plan, &sizes).and_then(|split| Parts::new(backend, inputs, &types, split));
    let parts = parts.filter(|parts| parts.fit(program, inputs));
    let overlaps = |outputs: &[ArrayMut<'_>]| {
        let meets = |output: &ArrayMut<'_>| inputs.iter().any(|input| overlap(&input.span(), &output.span()));
        outputs.iter().any(meets)
    };
    match (parts, outputs) {
        // Nothing may be written before everything was read.
        (Some(parts), Some(outputs)) if !overlaps(outputs) => {
            parts.run(shared, backend, program, inputs, outputs, flag)?;
            Ok(Results::new())
        }
        (parts, outputs) => {
            let results = match parts {
                None => whole(shared, program, inputs, flag)?,
                Some(parts) => {
                    let new = |(dtype, place): &(DType, Strided)| Array::uninitialized_at(*dtype, place.clone());
                    let mut results: Results = types.iter().map(new).collect::<Result<_>>()?;
                    let mut views: SmallVec<[ArrayMut<'_>; 1]> = results.iter_mut().map(Array::view_mut).collect();
                    parts.run(shared, backend, program, inputs, &mut views, flag)?;
                    drop(views);
                    results
                }
            };
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

/// Evaluates a program with all of each array at once.
fn whole(shared: &Shared, program: &Program, inputs: &[&ArrayRef<'_>], flag: &Flag<'_>) -> Result<Results> {
    let arrays = uploaded(shared, inputs, |_| true)?;
    let mut views: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
    for (input, array) in inputs.iter().zip(&arrays) {
        views.push(array.as_ref().map_or_else(|| (*input).clone(), Array::view));
    }
    computed(shared, program, &views, flag)?.iter().map(Array::to_host).collect()
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

/// Arrays of which a part is on its way at a time.
struct Parts {
    split: Split,
    /// Rows of a part.
    rows: usize,
    /// What a part of each input that is cut, and of each result, is made of.
    inputs: SmallVec<[(usize, Cell); 3]>,
    outputs: SmallVec<[Cell; 1]>,
}

/// What one row of an array takes.
struct Cell {
    dtype: DType,
    /// The shape of a row.
    shape: SmallVec<[u64; 4]>,
    bytes: usize,
}

impl Cell {
    fn new(dtype: DType, shape: &[u64]) -> Cell {
        let shape: SmallVec<[u64; 4]> = shape[1..].into();
        let bytes = shape.iter().product::<u64>() as usize * dtype.size();
        Cell { dtype, shape, bytes }
    }

    /// Where so many rows are, one after the other.
    fn place(&self, rows: usize) -> Result<Strided> {
        let shape: SmallVec<[u64; 4]> = std::iter::once(rows as u64).chain(self.shape.iter().copied()).collect();
        Ok(Strided::row_major(&shape, self.dtype)?)
    }
}

/// Where one array after the other begins, at multiples of 256.
fn offsets<'c>(cells: impl Iterator<Item = &'c Cell>, rows: usize) -> (SmallVec<[usize; 4]>, usize) {
    let (mut begins, mut end) = (SmallVec::new(), 0usize);
    for cell in cells {
        begins.push(end);
        end = (end + cell.bytes * rows).next_multiple_of(256);
    }
    (begins, end)
}

impl Parts {
    /// How arrays go through in parts; none if they are no more than one.
    fn new(backend: &Backend, inputs: &[&ArrayRef<'_>], types: &[(DType, Strided)], split: Split) -> Option<Parts> {
        let total = usize::try_from(split.rows).ok().filter(|rows| *rows > 1)?;
        let cut = inputs.iter().enumerate().filter(|(n, _)| split.cut[*n]);
        let inputs: SmallVec<[(usize, Cell); 3]> = cut.map(|(n, i)| (n, Cell::new(i.dtype(), i.shape()))).collect();
        let outputs: SmallVec<[Cell; 1]> = types.iter().map(|(dtype, place)| Cell::new(*dtype, &place.shape)).collect();
        let row: usize = inputs.iter().map(|(_, cell)| cell.bytes).chain(outputs.iter().map(|cell| cell.bytes)).sum();
        if row.saturating_mul(total) <= SMALL {
            return None;
        }
        let device = backend.device();
        let stats = device.memory_stats().ok()?;
        let free = device.memory_free().ok()?.saturating_add(stats.reserved.saturating_sub(stats.used));
        let rows = (PART.min(free / SHARE) / row.max(1) as u64).clamp(1, split.rows) as usize;
        (rows < total).then_some(Parts { split, rows, inputs, outputs })
    }

    /// True if the expression takes parts: sizes that have to be equal still are.
    fn fit(&self, program: &Program, inputs: &[&ArrayRef<'_>]) -> bool {
        let last = self.split.rows as usize % self.rows;
        [self.rows, last].into_iter().filter(|rows| *rows > 0).all(|rows| {
            let mut parts: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
            for (n, input) in inputs.iter().enumerate() {
                let part = if self.split.cut[n] { input.slice(0, 0..rows) } else { Ok((*input).clone()) };
                parts.extend(part);
            }
            program.takes(&parts.iter().collect::<SmallVec<[&ArrayRef<'_>; 8]>>())
        })
    }

    /// Evaluates a program into arrays that overlap no input.
    fn run(
        &self,
        shared: &Shared,
        backend: &Backend,
        program: &Program,
        inputs: &[&ArrayRef<'_>],
        outputs: &mut [ArrayMut<'_>],
        flag: &Flag<'_>,
    ) -> Result<()> {
        let total = self.split.rows as usize;
        let count = total.div_ceil(self.rows);
        let rows = |part: usize| part * self.rows..((part + 1) * self.rows).min(total);
        let kept = uploaded(shared, inputs, |n| !self.split.cut[n])?;
        let threads = shared.threads.min(COPIERS);
        let (input_begins, input_bytes) = offsets(self.inputs.iter().map(|(_, cell)| cell), self.rows);
        let (output_begins, output_bytes) = offsets(self.outputs.iter(), self.rows);
        let mut staging = shared.staging.take(backend, input_bytes, output_bytes)?;
        for k in 0..count + SLOTS - 1 {
            if k < count {
                let Slot { to_device, from_device, memory } = &mut staging.slots[k % SLOTS];
                let range = rows(k);
                let staged = to_device.bytes_mut().map_err(cuda_error)?;
                for ((n, cell), begin) in self.inputs.iter().zip(&input_begins) {
                    let place = cell.place(range.len())?;
                    let bytes = &mut staged[*begin..begin + cell.bytes * range.len()];
                    let mut to = ArrayMut::of_bytes(bytes, cell.dtype, place)?;
                    copy_rows(&mut to, &inputs[*n].slice(0, range.clone())?, threads)?;
                }
                // The part before in this slot is given back only now, when the device is done with it.
                *memory = None;
                let memory = memory.insert(DeviceMemory::uninit_on(&staging.copy_in, backend, input_bytes)?);
                memory.upload(&staging.copy_in, to_device)?;
                let mut views: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
                for (input, kept) in inputs.iter().zip(&kept) {
                    views.push(kept.as_ref().map_or_else(|| (*input).clone(), Array::view));
                }
                for ((n, cell), begin) in self.inputs.iter().zip(&input_begins) {
                    views[*n] = memory.array_at(*begin, cell.dtype, &cell.place(range.len())?)?;
                }
                let results = computed(shared, program, &views, flag)?;
                for (result, begin) in results.iter().zip(&output_begins) {
                    let Some(memory) = result.device_memory() else {
                        return Err(Error::new(Code::Internal, "a result that is not on the device"));
                    };
                    memory.download(&staging.copy_out, from_device, *begin)?;
                }
            }
            if let Some(part) = k.checked_sub(SLOTS - 1) {
                let range = rows(part);
                let staged = staging.slots[part % SLOTS].from_device.bytes().map_err(cuda_error)?;
                for ((output, cell), begin) in outputs.iter_mut().zip(&self.outputs).zip(&output_begins) {
                    let bytes = &staged[*begin..begin + cell.bytes * range.len()];
                    let from = ArrayRef::of_bytes(bytes, cell.dtype, cell.place(range.len())?)?;
                    copy_rows(&mut output.slice(0, range.clone())?, &from, threads)?;
                }
            }
        }
        shared.staging.give(staging);
        Ok(())
    }
}

/// Copies an array of the host by several threads, each some of the rows.
fn copy_rows(to: &mut ArrayMut<'_>, from: &ArrayRef<'_>, threads: usize) -> Result<()> {
    let bytes = from.len() * from.dtype().size();
    let rows = from.shape().first().map_or(1, |n| *n as usize);
    let pieces = (bytes / PIECE).clamp(1, threads.max(1)).min(rows.max(1));
    if pieces == 1 {
        return to.copy_from(from);
    }
    let range = |piece: usize| -> Range<usize> { rows * piece / pieces..rows * (piece + 1) / pieces };
    let mut rest = to.reborrow();
    let mut jobs = Vec::with_capacity(pieces);
    for piece in 0..pieces {
        let (first, after) = rest.split_rows(range(piece).len())?;
        jobs.push((first, from.slice(0, range(piece))?));
        rest = after;
    }
    std::thread::scope(|scope| {
        let mut jobs = jobs.into_iter();
        let own = jobs.next();
        let others: Vec<_> = jobs.map(|(mut to, from)| scope.spawn(move || to.copy_from(&from))).collect();
        let mut done = own.map_or(Ok(()), |(mut to, from)| to.copy_from(&from));
        for other in others {
            let copied = other.join().unwrap_or_else(|_| Err(Error::new(Code::Internal, "a copying thread panicked")));
            done = done.and(copied);
        }
        done
    })
}

/// What parts go through: streams, and memory of the host for the device to copy.
struct Staging {
    slots: [Slot; SLOTS],
    copy_in: Stream,
    copy_out: Stream,
    input_bytes: usize,
    output_bytes: usize,
}

struct Slot {
    to_device: Pinned,
    from_device: Pinned,
    /// Where the part is on the device.
    memory: Option<DeviceMemory>,
}

/// The staging that an engine keeps, since pinned memory is slow to make.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<Staging>>);

impl Kept {
    /// Staging of at least these sizes: what is kept, or a new one.
    fn take(&self, backend: &Backend, input_bytes: usize, output_bytes: usize) -> Result<Staging> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(kept) = kept.filter(|k| k.input_bytes >= input_bytes && k.output_bytes >= output_bytes) {
            return Ok(kept);
        }
        let device = backend.device();
        let slot = || -> Result<Slot, numfuse_cuda::Error> {
            let [to_device, from_device] = [Pinned::new(device, input_bytes)?, Pinned::new(device, output_bytes)?];
            Ok(Slot { to_device, from_device, memory: None })
        };
        let staging = || {
            let slots = [slot()?, slot()?, slot()?];
            let [copy_in, copy_out] = [Stream::new(device)?, Stream::new(device)?];
            Ok(Staging { slots, copy_in, copy_out, input_bytes, output_bytes })
        };
        staging().map_err(cuda_error)
    }

    /// Keeps staging for the next one who needs it.
    fn give(&self, mut staging: Staging) {
        for slot in &mut staging.slots {
            slot.memory = None;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging);
    }
}
