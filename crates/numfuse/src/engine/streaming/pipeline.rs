//! Parts of arrays of the host on their way through a device: while one is computed, the next one is on its way there and
//! the one before on its way back.
//!
//! Pinned memory of the host lies in between, which the device copies from and to by itself; threads fill and empty it. Where the
//! system pins nothing, ordinary memory does, with less at the same time. What is filled in is packed: elements may lie anywhere, at any strides and addresses, and are aligned on the device.
//!
//! Invariant: a slot of pinned memory is filled again only when the device is done with it.

use crate::array::Array;
use crate::engine::Shared;
use crate::engine::run::Results;
use crate::error::{Error, Result, cuda_error};
use crate::view::{ArrayMut, ArrayRef, DeviceMemory};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_cuda::Backend;
use numfuse_cuda::driver::{Pinned, Stream};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::tiles::Ranges;

/// Parts that are on their way at one time.
pub(super) const SLOTS: usize = 4;
/// How many parts later a result is fetched: until then two others are on the device.
const LAG: usize = SLOTS - 1;
/// Copies between memories of the host are shared out to threads in pieces of about this many bytes.
const PIECE: usize = 2 << 20;
/// More threads than this do not copy faster.
const COPIERS: usize = 16;
/// Where an array begins in a slot: at a multiple of this.
const ALIGN: usize = 256;

/// A part of the work.
pub(super) struct Part<'a> {
    /// What it takes to the device.
    pub inputs: SmallVec<[Staged<'a>; 3]>,
    /// Which box of each output its results are; none if it has no results of its own.
    pub results: Option<SmallVec<[Ranges; 1]>>,
}

/// An array of a part.
pub(super) struct Staged<'a> {
    /// Which input of the program it is.
    pub input: usize,
    pub dtype: DType,
    /// Its shape there, where it is row-major.
    pub shape: SmallVec<[u64; 4]>,
    /// What it consists of, one after the other, each in its own row-major order.
    pub pieces: SmallVec<[ArrayRef<'a>; 1]>,
}

impl Staged<'_> {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<u64>() as usize * self.dtype.size()
    }

    /// A copy of its own on the host.
    pub fn packed(self, threads: usize) -> Result<Array> {
        let mut array = Array::uninitialized(self.dtype, &self.shape)?;
        let mut copies = Vec::new();
        self.copies(array.zeroed_bytes(), &mut copies)?;
        copy_all(copies, threads)?;
        Ok(array)
    }
}

impl<'a> Staged<'a> {
    /// The copies that fill memory with its pieces.
    fn copies<'m>(self, mut memory: &'m mut [u8], copies: &mut Vec<(ArrayMut<'m>, ArrayRef<'m>)>) -> Result<()>
    where
        'a: 'm,
    {
        for piece in self.pieces {
            let bytes;
            let len = piece.len() * self.dtype.size();
            let short = || Error::new(Code::Internal, "a part that is larger than its memory");
            (bytes, memory) = memory.split_at_mut_checked(len).ok_or_else(short)?;
            let place = Strided::row_major(piece.shape(), self.dtype)?;
            copies.push((ArrayMut::of_bytes(bytes, self.dtype, place)?, piece));
        }
        Ok(())
    }
}

/// Bytes of a slot for arrays of these many bytes each.
pub(super) fn room(bytes: impl Iterator<Item = usize>) -> usize {
    bytes.map(|bytes| bytes.next_multiple_of(ALIGN)).sum()
}

/// Who runs parts.
pub(super) struct Pipeline<'s> {
    pub shared: &'s Shared,
    pub backend: &'s Backend,
    /// The most bytes that a part takes there, and brings back; see [`room`].
    pub input_bytes: usize,
    pub output_bytes: usize,
}

impl Pipeline<'_> {
    /// Runs so many parts, in order, and writes their results into outputs, which overlap no input. `views` are the inputs of
    /// the program that are the same for each part, and whatever in place of the others; `compute` gets those of a part.
    pub fn run<'a>(
        &self,
        count: usize,
        views: &[ArrayRef<'_>],
        outputs: &mut [ArrayMut<'_>],
        part: impl Fn(usize) -> Result<Part<'a>>,
        mut compute: impl FnMut(usize, &[ArrayRef<'_>]) -> Result<Results>,
    ) -> Result<()> {
        let Pipeline { shared, backend, input_bytes, output_bytes } = *self;
        let threads = shared.threads.min(COPIERS);
        let mut staging = shared.staging.take(backend, input_bytes, output_bytes)?;
        // Of each slot, the boxes that its results are.
        let mut boxes: [Option<SmallVec<[Ranges; 1]>>; SLOTS] = Default::default();
        for k in 0..count + LAG {
            let Staging { slots, copy_in, copy_out, .. } = &mut staging;
            // This part's slot, and that of the part which has been on its way for the longest time.
            let slots = slots.get_disjoint_mut([k % SLOTS, (k + SLOTS - LAG) % SLOTS]);
            let [own, old] = slots.map_err(|e| Error::new(Code::Internal, e.to_string()))?;
            // Both copies between memories of the host are made at once: they are what takes the time.
            let mut copies = Vec::new();
            let mut places: SmallVec<[(usize, usize, DType, Strided); 3]> = SmallVec::new();
            let next = if k < count { Some(part(k)?) } else { None };
            let (next, results) = next.map_or((None, None), |next| (Some(next.inputs), next.results));
            if let Some(inputs) = next {
                let mut staged = own.to_device.bytes_mut().map_err(cuda_error)?;
                let mut begin = 0;
                for input in inputs {
                    let room = input.bytes().next_multiple_of(ALIGN);
                    let place = Strided::row_major(&input.shape, input.dtype)?;
                    places.push((input.input, begin, input.dtype, place));
                    let bytes;
                    let short = || Error::new(Code::Internal, "a part that is larger than its slot");
                    (bytes, staged) = staged.split_at_mut_checked(room).ok_or_else(short)?;
                    input.copies(bytes, &mut copies)?;
                    begin += room;
                }
            }
            if let Some(old_boxes) = boxes[(k + SLOTS - LAG) % SLOTS].take() {
                let mut staged = old.from_device.bytes().map_err(cuda_error)?;
                for (output, ranges) in outputs.iter_mut().zip(&old_boxes) {
                    let to = output.part(ranges)?;
                    let place = Strided::row_major(to.shape(), to.dtype())?;
                    let room = (place.count() as usize * to.dtype().size()).next_multiple_of(ALIGN);
                    let bytes;
                    let short = || Error::new(Code::Internal, "results that are larger than their slot");
                    (bytes, staged) = staged.split_at_checked(room).ok_or_else(short)?;
                    let from = ArrayRef::of_bytes(bytes, to.dtype(), place)?;
                    copies.push((to, from));
                }
            }
            copy_all(copies, threads)?;
            if k >= count {
                continue;
            }
            // The part before in this slot is given back only now, when the device is done with it.
            own.memory = None;
            let mut views: SmallVec<[ArrayRef<'_>; 3]> = views.iter().cloned().collect();
            if !places.is_empty() {
                let memory = own.memory.insert(DeviceMemory::uninit_on(copy_in, backend, input_bytes)?);
                memory.upload(copy_in, &mut own.to_device)?;
                for (input, begin, dtype, place) in places {
                    views[input] = memory.array_at(begin, dtype, &place)?;
                }
            }
            let computed = compute(k, &views)?;
            if results.is_some() {
                let mut begin = 0;
                for result in &computed {
                    let Some(memory) = result.device_memory() else {
                        return Err(Error::new(Code::Internal, "a result that is not on the device"));
                    };
                    memory.download(copy_out, &mut own.from_device, begin)?;
                    begin += (result.len() * result.dtype().size()).next_multiple_of(ALIGN);
                }
            }
            boxes[k % SLOTS] = results;
        }
        shared.staging.give(staging);
        Ok(())
    }
}

/// Copies arrays of the host, by several threads if there is enough to copy.
fn copy_all(copies: Vec<(ArrayMut<'_>, ArrayRef<'_>)>, threads: usize) -> Result<()> {
    let mut pieces = Vec::new();
    for (mut to, from) in copies {
        // Along the first dimension that there is anything to cut of.
        let Some(axis) = from.shape().iter().position(|n| *n > 1) else {
            pieces.push((to, from));
            continue;
        };
        let rows = from.shape()[axis] as usize;
        let count = (from.len() * from.dtype().size() / PIECE).clamp(1, rows);
        for piece in 0..count {
            let range: Range<usize> = rows * piece / count..rows * (piece + 1) / count;
            let (first, rest) = to.split(axis, range.len())?;
            pieces.push((first, from.slice(axis, range)?));
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
        // Passes take turns with different sizes: what is made anew is enough for those before, too.
        let (mut inputs, mut outputs) = (input_bytes, output_bytes);
        if let Some(kept) = kept {
            if kept.input_bytes >= input_bytes && kept.output_bytes >= output_bytes {
                return Ok(kept);
            }
            (inputs, outputs) = (inputs.max(kept.input_bytes), outputs.max(kept.output_bytes));
        }
        let (input_bytes, output_bytes) = (inputs, outputs);
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

    /// Keeps staging for the next one who needs it; where not all of it is pinned, the next one may have better luck.
    fn give(&self, mut staging: Staging) {
        for slot in &mut staging.slots {
            slot.memory = None;
        }
        if !staging.slots.iter().all(|slot| slot.to_device.is_pinned() && slot.from_device.is_pinned()) {
            return;
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
