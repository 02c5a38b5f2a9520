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
const SLOTS: usize = 4;
/// How many parts later a result is fetched: until then two others are on the device.
const LAG: usize = SLOTS - 1;
/// About how many bytes of inputs and results a part has, where the device has memory enough.
const PART: u64 = 64 << 20;
/// Fewer bytes than this are one part, whatever the device has free: asking it takes longer than they do.
const SMALL: usize = 1 << 20;
/// A part takes no more than this share of what the device has free: there are several, and temporaries besides.
const SHARE: u64 = 16;
/// Copies between memories of the host are shared out to threads in pieces of about this many bytes.
const PIECE: usize = 2 << 20;
/// More threads than this do not copy faster.
const COPIERS: usize = 16;

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

    /// Bytes that so many rows take, up to where the next array begins.
    fn room(&self, rows: usize) -> usize {
        (self.bytes * rows).next_multiple_of(256)
    }

    /// Where so many rows are, one after the other.
    fn place(&self, rows: usize) -> Result<Strided> {
        let shape: SmallVec<[u64; 4]> = std::iter::once(rows as u64).chain(self.shape.iter().copied()).collect();
        Ok(Strided::row_major(&shape, self.dtype)?)
    }
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
        let input_bytes = self.inputs.iter().map(|(_, cell)| cell.room(self.rows)).sum();
        let output_bytes = self.outputs.iter().map(|cell| cell.room(self.rows)).sum();
        let mut staging = shared.staging.take(backend, input_bytes, output_bytes)?;
        for k in 0..count + LAG {
            let Staging { slots, copy_in, copy_out, .. } = &mut staging;
            // This part's slot, and that of the part which has been on its way for the longest time.
            let slots = slots.get_disjoint_mut([k % SLOTS, (k + SLOTS - LAG) % SLOTS]);
            let [own, old] = slots.map_err(|e| Error::new(Code::Internal, e.to_string()))?;
            // Both copies between memories of the host are made at once: they are what takes the time.
            let mut copies = Vec::new();
            if k < count {
                let mut staged = own.to_device.bytes_mut().map_err(cuda_error)?;
                for (n, cell) in &self.inputs {
                    let bytes;
                    (bytes, staged) = staged.split_at_mut(cell.room(self.rows));
                    let to = ArrayMut::of_bytes(bytes, cell.dtype, cell.place(rows(k).len())?)?;
                    copies.push((to, inputs[*n].slice(0, rows(k))?));
                }
            }
            if let Some(part) = k.checked_sub(LAG) {
                let mut staged = old.from_device.bytes().map_err(cuda_error)?;
                for (output, cell) in outputs.iter_mut().zip(&self.outputs) {
                    let bytes;
                    (bytes, staged) = staged.split_at(cell.room(self.rows));
                    let from = ArrayRef::of_bytes(bytes, cell.dtype, cell.place(rows(part).len())?)?;
                    copies.push((output.slice(0, rows(part))?, from));
                }
            }
            copy_all(copies, threads)?;
            if k >= count {
                continue;
            }
            // The part before in this slot is given back only now, when the device is done with it.
            own.memory = None;
            let memory = own.memory.insert(DeviceMemory::uninit_on(copy_in, backend, input_bytes)?);
            memory.upload(copy_in, &mut own.to_device)?;
            let mut views: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
            for (input, kept) in inputs.iter().zip(&kept) {
                views.push(kept.as_ref().map_or_else(|| (*input).clone(), Array::view));
            }
            let mut begin = 0;
            for (n, cell) in &self.inputs {
                views[*n] = memory.array_at(begin, cell.dtype, &cell.place(rows(k).len())?)?;
                begin += cell.room(self.rows);
            }
            let results = computed(shared, program, &views, flag)?;
            let mut begin = 0;
            for (result, cell) in results.iter().zip(&self.outputs) {
                let Some(memory) = result.device_memory() else {
                    return Err(Error::new(Code::Internal, "a result that is not on the device"));
                };
                memory.download(copy_out, &mut own.from_device, begin)?;
                begin += cell.room(self.rows);
            }
        }
        shared.staging.give(staging);
        Ok(())
    }
}

/// Copies arrays of the host, by several threads if there is enough to copy.
fn copy_all(copies: Vec<(ArrayMut<'_>, ArrayRef<'_>)>, threads: usize) -> Result<()> {
    let mut pieces = Vec::new();
    for (mut to, from) in copies {
        let rows = from.shape().first().map_or(1, |n| *n as usize);
        let count = (from.len() * from.dtype().size() / PIECE).clamp(1, rows.max(1));
        for piece in 0..count {
            let range: Range<usize> = rows * piece / count..rows * (piece + 1) / count;
            let (first, rest) = to.split_rows(range.len())?;
            pieces.push((first, from.slice(0, range)?));
            to = rest;
        }
    }
    let helpers = threads.min(pieces.len()).saturating_sub(1);
    let pieces = Mutex::new(pieces.into_iter());
    let copy = || {
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((mut to, from)) = next() {
            to.copy_from(&from)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> =
            (0..helpers).filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, copy).ok()).collect();
        let mut done = copy();
        for helper in helpers {
            let copied = helper.join().unwrap_or_else(|_| Err(Error::new(Code::Internal, "a copying thread panicked")));
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
            let slots = [slot()?, slot()?, slot()?, slot()?];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_out_copies() {
        let count = 1_200_000;
        let from = Array::from_vec((0..count).map(f64::from).collect(), &[1000, 1200]).unwrap();
        let small = Array::from_vec(vec![1i8, 2, 3], &[3]).unwrap();
        for threads in [1, 4] {
            let mut to = Array::zeros(DType::F64, &[1200, 1000]).unwrap();
            let mut small_to = Array::zeros(DType::I8, &[3]).unwrap();
            let transposed = from.view().transposed();
            copy_all(vec![(to.view_mut(), transposed.clone()), (small_to.view_mut(), small.view())], threads).unwrap();
            assert!(to == Array::copy_of(&transposed).unwrap() && small_to == small);
        }
        copy_all(Vec::new(), 4).unwrap();
    }
}
