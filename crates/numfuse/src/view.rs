//! Borrowed arrays, and the only file of this crate with `unsafe`: here pointers become elements and elements pointers.
//!
//! # Invariants
//!
//! * An [`ArrayRef`] or [`ArrayMut`] of a lifetime `'a` points to memory in which every element of its shape, at its
//!   byte strides, may be read (or written) during `'a`. Strides may be zero, negative, and no multiple of the element
//!   size; addresses need no alignment. A bool is a byte that is 0 or 1. Zero-size arrays touch no memory.
//! * [`Frame::run`] checks, for each operand of each kernel, that all bytes that the launch can reach lie inside of the
//!   buffer that it was given, and that what is written may be written. Whatever a planner gets wrong, no byte outside
//!   of a caller's array is touched.
//! * Elements are little-endian, as the host is.

use crate::element::Element;
use crate::error::{Error, Result, cpu_error};
use crate::layout::{extent, is_row_major, overlap, place, reach, reach_of, shaped, span, vector};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::interp;
use numfuse_core::kernel::{Inst, Kernel, Level, Role};
use numfuse_core::launch::{Launch, Layout, for_each_index};
use numfuse_core::literal::Literal;
use numfuse_core::plan::{Bound, BufferId, Strided};
use numfuse_cpu::{AlignedBuffer, BufferPool, Compiled, RunOptions};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

#[cfg(not(target_endian = "little"))]
compile_error!("numfuse reads and writes elements in little-endian order");

/// An array that someone else owns: where its elements are, and what they are. Cheap to make and to clone.
///
/// [`AsArrayRef`](crate::AsArrayRef) makes one of slices, vectors, scalars, `ndarray` arrays and views of any strides.
#[derive(Clone)]
pub struct ArrayRef<'a> {
    data: Data,
    dtype: DType,
    place: Strided,
    life: PhantomData<&'a [u8]>,
}

#[derive(Clone, Copy)]
enum Data {
    /// The first element.
    Memory(*const u8),
    /// A number that needs no memory.
    Scalar {
        value: Literal,
        /// Whether its dtype gives way to that of any array.
        weak: bool,
    },
}

/// An array that someone else owns and that a result is written to.
pub struct ArrayMut<'a> {
    first: *mut u8,
    dtype: DType,
    place: Strided,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: an `ArrayRef` stands for a `&'a [T]`, an `ArrayMut` for a `&'a mut [T]`, of plain old data.
unsafe impl Send for ArrayRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for ArrayRef<'_> {}
// SAFETY: as above.
unsafe impl Send for ArrayMut<'_> {}
// SAFETY: as above; a shared `ArrayMut` can only be read.
unsafe impl Sync for ArrayMut<'_> {}

impl<'a> ArrayRef<'a> {
    /// A slice as an array of rank 1.
    #[inline]
    pub fn from_slice<T: Element>(slice: &'a [T]) -> ArrayRef<'a> {
        ArrayRef {
            data: Data::Memory(slice.as_ptr().cast()),
            dtype: T::DTYPE,
            place: vector(slice.len(), size_of::<T>()),
            life: PhantomData,
        }
    }

    /// A slice as an array of this shape, in row-major order.
    ///
    /// # Errors
    /// If the shape does not have as many elements as the slice.
    pub fn shaped<T: Element>(slice: &'a [T], shape: &[usize]) -> Result<ArrayRef<'a>> {
        let place = shaped(shape, slice.len(), T::DTYPE)?;
        Ok(ArrayRef { place, ..ArrayRef::from_slice(slice) })
    }

    /// A plain number. Like a literal in the text, it is computed in the dtype of the arrays that it meets.
    pub fn number<T: Element>(value: T) -> ArrayRef<'static> {
        match value.weak_literal() {
            Some(literal) => ArrayRef::from_literal(literal, true),
            // No weak dtype holds it.
            None => ArrayRef::from_literal(value.literal(), false),
        }
    }

    /// A scalar.
    pub(crate) fn from_literal(value: Literal, weak: bool) -> ArrayRef<'static> {
        let data = Data::Scalar { value, weak };
        ArrayRef { data, dtype: value.dtype(), place: Strided::default(), life: PhantomData }
    }

    /// An `ndarray` view, strides and all.
    #[cfg(feature = "ndarray")]
    pub fn from_ndarray<T: Element, D: ndarray::Dimension>(view: ndarray::ArrayView<'a, T, D>) -> ArrayRef<'a> {
        let data = Data::Memory(view.as_ptr().cast());
        ArrayRef {
            data,
            dtype: T::DTYPE,
            place: crate::layout::nd_place::<T>(view.shape(), view.strides()),
            life: PhantomData,
        }
    }

    /// An array from its parts: for other languages' arrays.
    ///
    /// # Errors
    /// If the lengths of shape and strides differ, the rank is above 32, or the extent in bytes overflows.
    ///
    /// # Safety
    /// Every element of the shape, `first` plus a multiple of each byte stride, lies in memory that may be read, and is
    /// not written by anyone else, for `'a`. Bools are 0 or 1.
    pub unsafe fn from_raw(first: *const u8, dtype: DType, shape: &[usize], strides: &[isize]) -> Result<ArrayRef<'a>> {
        let place = place(shape, strides)?;
        reach_of(&place, dtype)?;
        Ok(ArrayRef { data: Data::Memory(first), dtype, place, life: PhantomData })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.place.shape
    }

    /// The byte strides, one for each size.
    pub fn strides(&self) -> &[isize] {
        &self.place.strides
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.place.count() as usize
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.place.shape.contains(&0)
    }

    /// True for a plain number, whose dtype gives way to that of any array.
    pub fn is_weak(&self) -> bool {
        matches!(self.data, Data::Scalar { weak: true, .. })
    }

    pub(crate) fn place(&self) -> &Strided {
        &self.place
    }

    /// The elements as a slice, if they are of this type, aligned, and in row-major order without gaps.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        let Data::Memory(first) = self.data else { return None };
        if T::DTYPE != self.dtype || !is_row_major(&self.place, self.dtype.size()) {
            return None;
        }
        if self.is_empty() {
            return Some(&[]);
        }
        let first = first.cast::<T>();
        // SAFETY: row-major without gaps, so the elements are consecutive; of type `T`, since the dtype is its; readable
        // for `'a` by the invariant of this type; aligned, as checked. Every bit pattern is a `T` (bools are 0 or 1).
        first.is_aligned().then(|| unsafe { std::slice::from_raw_parts(first, self.len()) })
    }

    /// The elements in row-major order, one at a time; for printing and comparing rather than for computing.
    pub fn elements(&self) -> impl Iterator<Item = Literal> + use<'_, 'a> {
        let shape = self.shape();
        let mut index: Vec<usize> = vec![0; shape.len()];
        (0..self.len()).filter_map(move |_| {
            let element = self.get(&index);
            for (i, n) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if (*i as u64) < *n {
                    break;
                }
                *i = 0;
            }
            element
        })
    }

    /// The same array with its dimensions in the opposite order.
    #[must_use]
    pub fn transposed(&self) -> ArrayRef<'a> {
        let mut transposed = self.clone();
        transposed.place.shape.reverse();
        transposed.place.strides.reverse();
        transposed
    }

    /// The element at an index for each dimension; none if it is out of range.
    pub fn get(&self, index: &[usize]) -> Option<Literal> {
        let place = &self.place;
        if index.len() != place.shape.len() || index.iter().zip(&place.shape).any(|(i, n)| *i as u64 >= *n) {
            return None;
        }
        let offset = index.iter().zip(&place.strides).map(|(i, s)| *i as isize * s).sum();
        match self.data {
            Data::Scalar { value, .. } => Some(value),
            // SAFETY: the index is in range, so the element is one of the array's.
            Data::Memory(first) => Some(unsafe { read(first.offset(offset), self.dtype) }),
        }
    }

    /// The bytes of the elements, if they are in row-major order without gaps and in memory.
    pub(crate) fn as_bytes(&self) -> Option<&'a [u8]> {
        let Data::Memory(first) = self.data else { return None };
        if !is_row_major(&self.place, self.dtype.size()) {
            return None;
        }
        if self.is_empty() {
            return Some(&[]);
        }
        // SAFETY: the elements are consecutive and readable for `'a`, and plain old data has no padding.
        Some(unsafe { std::slice::from_raw_parts(first, self.len() * self.dtype.size()) })
    }

    /// The address of the first element, if it is in memory.
    pub(crate) fn first(&self) -> Option<usize> {
        match self.data {
            Data::Memory(first) => Some(first as usize),
            Data::Scalar { .. } => None,
        }
    }

    /// Where the elements begin and end in memory; none without elements.
    pub(crate) fn span(&self) -> Option<std::ops::Range<usize>> {
        match self.data {
            Data::Memory(first) => span(first as usize, &self.place, self.dtype),
            Data::Scalar { .. } => None,
        }
    }
}

impl<'a> ArrayMut<'a> {
    /// A slice as an array of rank 1.
    #[inline]
    pub fn from_slice<T: Element>(slice: &'a mut [T]) -> ArrayMut<'a> {
        let place = vector(slice.len(), size_of::<T>());
        ArrayMut { first: slice.as_mut_ptr().cast(), dtype: T::DTYPE, place, life: PhantomData }
    }

    /// A slice as an array of this shape, in row-major order.
    ///
    /// # Errors
    /// If the shape does not have as many elements as the slice.
    pub fn shaped<T: Element>(slice: &'a mut [T], shape: &[usize]) -> Result<ArrayMut<'a>> {
        let place = shaped(shape, slice.len(), T::DTYPE)?;
        Ok(ArrayMut { place, ..ArrayMut::from_slice(slice) })
    }

    /// An `ndarray` view, strides and all.
    #[cfg(feature = "ndarray")]
    pub fn from_ndarray<T: Element, D: ndarray::Dimension>(mut view: ndarray::ArrayViewMut<'a, T, D>) -> ArrayMut<'a> {
        let first = view.as_mut_ptr().cast();
        ArrayMut {
            first,
            dtype: T::DTYPE,
            place: crate::layout::nd_place::<T>(view.shape(), view.strides()),
            life: PhantomData,
        }
    }

    /// The elements as a slice, if they are of this type, aligned, and in row-major order without gaps.
    pub fn into_slice<T: Element>(self) -> Option<&'a mut [T]> {
        let len = self.as_ref().as_slice::<T>()?.len();
        if len == 0 {
            return Some(&mut []);
        }
        // SAFETY: `as_slice` has checked type, order and alignment; the memory is writable for `'a` and ours alone.
        Some(unsafe { std::slice::from_raw_parts_mut(self.first.cast(), len) })
    }

    /// An array from its parts: for other languages' arrays.
    ///
    /// # Errors
    /// If the lengths of shape and strides differ, the rank is above 32, or the extent in bytes overflows.
    ///
    /// # Safety
    /// Every element of the shape, `first` plus a multiple of each byte stride, lies in memory that may be read and
    /// written, and that nobody else touches, for `'a`; but inputs of the same evaluation may overlap it.
    pub unsafe fn from_raw(first: *mut u8, dtype: DType, shape: &[usize], strides: &[isize]) -> Result<ArrayMut<'a>> {
        let place = place(shape, strides)?;
        reach_of(&place, dtype)?;
        Ok(ArrayMut { first, dtype, place, life: PhantomData })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.place.shape
    }

    /// The byte strides, one for each size.
    pub fn strides(&self) -> &[isize] {
        &self.place.strides
    }

    /// The same array, to read.
    pub fn as_ref(&self) -> ArrayRef<'_> {
        let Self { first, dtype, ref place, .. } = *self;
        ArrayRef { data: Data::Memory(first), dtype, place: place.clone(), life: PhantomData }
    }

    /// The same array for a shorter time.
    pub fn reborrow(&mut self) -> ArrayMut<'_> {
        ArrayMut { first: self.first, dtype: self.dtype, place: self.place.clone(), life: PhantomData }
    }

    pub(crate) fn place(&self) -> &Strided {
        &self.place
    }

    pub(crate) fn span(&self) -> Option<std::ops::Range<usize>> {
        span(self.first as usize, &self.place, self.dtype)
    }

    /// Copies the elements of an array of the same dtype and shape. The two do not overlap.
    pub(crate) fn copy_from(&mut self, from: &ArrayRef<'_>) -> Result<()> {
        if from.dtype != self.dtype || from.place.shape != self.place.shape {
            return Err(Error::new(Code::Internal, "a copy between arrays of different types"));
        }
        if self.place.shape.contains(&0) {
            return Ok(());
        }
        let size = self.dtype.size();
        let source = match from.data {
            Data::Memory(first) => first,
            Data::Scalar { value, .. } => {
                // SAFETY: a scalar has one element, at `first`; the value has its dtype.
                unsafe { write(self.first, value) };
                return Ok(());
            }
        };
        if is_row_major(&self.place, size) && is_row_major(&from.place, size) {
            // SAFETY: both are consecutive, of the same length, and the caller promises that they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(source, self.first, size * from.len()) };
            return Ok(());
        }
        let rank = self.place.shape.len();
        let shape: SmallVec<[usize; 4]> = self.place.shape.iter().map(|n| *n as usize).collect();
        let (outer, inner) = shape.split_at(rank.saturating_sub(1));
        let inner = inner.first().copied().unwrap_or(1);
        let last = |strides: &[isize]| strides.last().copied().unwrap_or(0);
        let (from_step, to_step) = (last(&from.place.strides), last(&self.place.strides));
        let outer_strides = [&from.place.strides[..outer.len()], &self.place.strides[..outer.len()]];
        for_each_index(outer, &outer_strides, |offsets| {
            // SAFETY: the outer index is in range, and the loops stay below the size of the inner dimension, so every
            // address is that of an element of either array, which their invariants allow to be read or written.
            unsafe {
                let (from, to) = (source.offset(offsets[0]), self.first.offset(offsets[1]));
                match size {
                    1 => copy_line::<u8>(from, from_step, to, to_step, inner),
                    2 => copy_line::<u16>(from, from_step, to, to_step, inner),
                    4 => copy_line::<u32>(from, from_step, to, to_step, inner),
                    _ => copy_line::<u64>(from, from_step, to, to_step, inner),
                }
            }
        });
        Ok(())
    }
}

/// The type, as `f64[2, 3]`.
impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())
    }
}

/// The type, as `f64[2, 3]`.
impl fmt::Debug for ArrayMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())
    }
}

/// Copies `count` elements at byte steps.
///
/// # Safety
/// The elements may be read and written; they need no alignment.
unsafe fn copy_line<T: Copy>(from: *const u8, from_step: isize, to: *mut u8, to_step: isize, count: usize) {
    for i in 0..count as isize {
        // SAFETY: by the caller's promise.
        unsafe {
            to.offset(i * to_step).cast::<T>().write_unaligned(from.offset(i * from_step).cast::<T>().read_unaligned())
        }
    }
}

/// # Safety
/// `at` points to a readable element of this dtype.
unsafe fn read(at: *const u8, dtype: DType) -> Literal {
    let mut word = [0u8; 8];
    // SAFETY: an element has `dtype.size()` bytes, at most 8.
    unsafe { std::ptr::copy_nonoverlapping(at, word.as_mut_ptr(), dtype.size()) };
    Literal::from_bits(dtype, u64::from_le_bytes(word))
}

/// # Safety
/// `at` points to a writable element of the literal's dtype.
unsafe fn write(at: *mut u8, literal: Literal) {
    let word = literal.bits().to_le_bytes();
    // SAFETY: an element has `dtype.size()` bytes, at most 8.
    unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), at, literal.dtype().size()) };
}

/// Memory of an owned array or of temporaries: aligned to 64 bytes; what is dropped is kept for the next one, up to a bound.
pub(crate) struct Memory {
    /// At least `len` bytes; gone only while it is dropped.
    buffer: Option<AlignedBuffer>,
    len: usize,
}

/// Buffers up to this size have it, and each thread keeps a few: aligned ones cost the allocator more than a small
/// evaluation does.
const SMALL: usize = 1 << 10;
const SMALL_KEPT: usize = 16;

thread_local! {
    static SMALL_ONES: RefCell<Vec<AlignedBuffer>> = const { RefCell::new(Vec::new()) };
}

/// Buffers from this size on are kept for the next evaluation; the allocator is good at smaller ones.
const POOLED: usize = 64 << 10;
static POOL: BufferPool = BufferPool::new(512 << 20);

impl Memory {
    /// Memory that is not initialised: who hands it out has written all of it. Debug builds fill it with a pattern.
    pub fn uninit(len: usize) -> Result<Memory> {
        let buffer = match len {
            0..=SMALL => match SMALL_ONES.try_with(|kept| kept.borrow_mut().pop()) {
                Ok(Some(buffer)) => Ok(buffer),
                Ok(None) | Err(_) => AlignedBuffer::uninit(SMALL),
            },
            POOLED.. => POOL.take(len),
            _ => AlignedBuffer::uninit(len),
        };
        let mut memory = Memory { buffer: Some(buffer.map_err(cpu_error)?), len };
        if cfg!(debug_assertions) {
            memory.filled_with(0xA5);
        }
        Ok(memory)
    }

    /// The bytes, all set to one value.
    pub fn filled_with(&mut self, byte: u8) -> &mut [u8] {
        let (first, len) = (self.first(), self.len);
        // SAFETY: the buffer has `len` bytes, and it is ours alone; they are initialised before a reference is made.
        unsafe {
            first.write_bytes(byte, len);
            std::slice::from_raw_parts_mut(first, len)
        }
    }

    /// An array in this memory, at byte strides from its start; all of its elements have been written.
    ///
    /// # Panics
    /// If it does not lie inside: that is a bug of the caller.
    pub fn array(&self, dtype: DType, place: &Strided) -> ArrayRef<'_> {
        self.check(dtype, place);
        ArrayRef { data: Data::Memory(self.first()), dtype, place: place.clone(), life: PhantomData }
    }

    /// As [`Memory::array`], to write; nothing need have been written.
    pub fn array_mut(&mut self, dtype: DType, place: &Strided) -> ArrayMut<'_> {
        self.check(dtype, place);
        ArrayMut { first: self.first(), dtype, place: place.clone(), life: PhantomData }
    }

    fn first(&self) -> *mut u8 {
        self.buffer.as_ref().map_or(std::ptr::dangling_mut(), |b| b.as_ptr().cast_mut())
    }

    fn check(&self, dtype: DType, place: &Strided) {
        let inside = matches!(reach_of(place, dtype), Ok((0, high)) if high <= self.len as isize);
        assert!(inside, "an array of shape {:?} in {} bytes", place.shape, self.len);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        if buffer.len() >= POOLED {
            POOL.give(buffer);
        } else if buffer.len() == SMALL {
            // While a thread ends there is no list any more.
            let _ = SMALL_ONES.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < SMALL_KEPT {
                    kept.push(buffer);
                }
            });
        }
    }
}

/// A step with sizes: the kernel's launch and, for each operand, the bytes of its buffer that the launch reaches.
pub(crate) struct BoundStep {
    tier: Tier,
    launch: Launch,
    operands: SmallVec<[Operand; 6]>,
    params: SmallVec<[u64; 4]>,
    /// The same parameters as the interpreter takes them.
    literals: SmallVec<[Literal; 4]>,
}

/// What runs a step.
#[derive(Clone)]
pub(crate) enum Tier {
    /// Machine code of the kernel.
    Compiled(Arc<Compiled>),
    /// The interpreter.
    Interpreted(Arc<Kernel>),
}

struct Operand {
    buffer: u32,
    writes: bool,
    /// Of the first element, from that of the buffer.
    offset: isize,
    /// Bytes reached, from the first element of the buffer; equal if none is.
    low: isize,
    high: isize,
}

impl BoundStep {
    /// Binds a kernel's code to a launch of it. `empty` tells of each buffer whether it has no elements.
    pub fn new(
        kernel: &Kernel,
        tier: Tier,
        bound: Bound,
        buffers: impl Iterator<Item = BufferId>,
        empty: impl Fn(BufferId) -> bool,
    ) -> Result<BoundStep> {
        let broken = |what: &str| Error::new(Code::Internal, format!("a step binds wrongly: {what}"));
        let Bound { launch, offsets, params, .. } = bound;
        let buffers: SmallVec<[BufferId; 8]> = buffers.collect();
        let count = kernel.operands.len();
        if buffers.len() != count || offsets.len() != count || launch.layouts.len() != count {
            return Err(broken("operand count"));
        }
        if params.len() != kernel.params.len() || params.iter().zip(&kernel.params).any(|(p, d)| p.dtype() != *d) {
            return Err(broken("parameters"));
        }
        let mut operands = SmallVec::new();
        for (((operand, layout), buffer), offset) in
            kernel.operands.iter().zip(&launch.layouts).zip(buffers).zip(offsets)
        {
            let Layout { outer, reduced, inner } = layout;
            if (outer.len(), reduced.len(), inner.len())
                != (launch.outer.len(), launch.reduced.len(), launch.inner.len())
            {
                return Err(broken("layout"));
            }
            let mut dims: SmallVec<[(usize, isize); 8]> = SmallVec::new();
            dims.extend(launch.outer.iter().copied().zip(outer.iter().copied()));
            dims.extend(launch.reduced.iter().copied().zip(reduced.iter().copied()));
            if operand.level == Level::Inner {
                dims.extend(launch.inner.iter().copied().zip(inner.iter().copied()));
            }
            let reaches_nothing = empty(buffer)
                || launch.outer.contains(&0)
                || (operand.level == Level::Inner && launch.inner.contains(&0))
                || (launch.reduced.contains(&0) && folds_only(kernel, operands.len() as u32));
            let (low, high) = if reaches_nothing {
                (0, 0)
            } else {
                let dims = dims.iter().map(|(n, s)| ((*n).max(1), *s));
                let (low, high) = reach(dims, operand.dtype.size()).ok_or_else(|| broken("extent"))?;
                let end = high.checked_add(offset).ok_or_else(|| broken("extent"))?;
                (low.checked_add(offset).ok_or_else(|| broken("extent"))?, end)
            };
            operands.push(Operand { buffer: buffer.0, writes: operand.role == Role::Out, offset, low, high });
        }
        let literals: SmallVec<[Literal; 4]> = params.iter().copied().collect();
        let params = literals.iter().map(|p| p.bits()).collect();
        Ok(BoundStep { tier, launch, operands, params, literals })
    }

    /// True if the step reads memory that it writes, if at all, only element by element at the very place that it
    /// writes. `first` tells the address of the first element of a buffer, or none if nothing overlaps it.
    pub fn runs_in_place(&self, kernel: &Kernel, first: impl Fn(BufferId) -> Option<usize>) -> bool {
        let interpreted = matches!(self.tier, Tier::Interpreted(_));
        let is_map = kernel.reductions.is_empty() && kernel.scratch.is_empty();
        let place = |i: usize| {
            let Operand { buffer, offset, low, high, .. } = self.operands[i];
            let first = first(BufferId(buffer)).filter(|_| low < high)?;
            let at = |offset| first.wrapping_add_signed(offset);
            Some((at(offset), Some(at(low)..at(high))))
        };
        let all = 0..self.operands.len();
        all.clone().filter(|o| self.operands[*o].writes).all(|o| {
            all.clone().filter(|i| !self.operands[*i].writes).all(|i| {
                let (Some((out, out_span)), Some((input, input_span))) = (place(o), place(i)) else { return true };
                if !overlap(&out_span, &input_span) {
                    return true;
                }
                let (a, b) = (&kernel.operands[o], &kernel.operands[i]);
                is_map
                    && !interpreted
                    && out == input
                    && a.dtype.size() == b.dtype.size()
                    && a.level == b.level
                    && self.launch.layouts[o] == self.launch.layouts[i]
            })
        })
    }
}

/// True if an operand is used for each reduced index only, not after the folding.
fn folds_only(kernel: &Kernel, operand: u32) -> bool {
    let uses = |inst: &Inst| matches!(inst, Inst::Load(n) | Inst::Store(n, _) if *n == operand);
    kernel.stages.get(2).is_some_and(|last| !last.values().any(|v| uses(kernel.inst(v))))
}

fn low_is_high(span: &Option<std::ops::Range<usize>>) -> bool {
    span.as_ref().is_none_or(|s| s.start >= s.end)
}

/// The buffers of one evaluation, by [`BufferId`].
#[derive(Default)]
pub(crate) struct Frame<'a> {
    windows: SmallVec<[Window; 8]>,
    life: PhantomData<&'a mut [u8]>,
}

/// The memory of one buffer: a pointer to its first element and the bytes around it that belong to it.
#[derive(Clone, Copy)]
struct Window {
    first: *mut u8,
    low: isize,
    high: isize,
    writable: bool,
}

/// Memory for the temporaries and guards of one evaluation. Its parts may overlap: two temporaries that do not live at
/// the same time share bytes.
pub(crate) struct Arena<'a> {
    bytes: *mut u8,
    len: usize,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> Arena<'a> {
    pub fn new(memory: &'a mut Memory) -> Arena<'a> {
        Arena { bytes: memory.first(), len: memory.len, life: PhantomData }
    }
}

impl<'a> Frame<'a> {
    pub fn new() -> Frame<'a> {
        Frame::default()
    }

    /// The next buffer is an input. A plain number is put into `cell`, in the given dtype.
    pub fn push_input(&mut self, input: &ArrayRef<'a>, cell: &'a mut u64) {
        let first = match input.data {
            Data::Memory(first) => first.cast_mut(),
            Data::Scalar { value, .. } => {
                *cell = value.bits();
                std::ptr::from_mut(cell).cast()
            }
        };
        let (low, high) = extent(&input.place, input.dtype);
        self.windows.push(Window { first, low, high, writable: false });
    }

    /// The next buffer is an output.
    pub fn push_output(&mut self, output: ArrayMut<'a>) {
        let (low, high) = extent(&output.place, output.dtype);
        self.windows.push(Window { first: output.first, low, high, writable: true });
    }

    /// The next buffer is the part of the arena that begins at `offset`.
    pub fn push_temp(&mut self, arena: &Arena<'a>, offset: usize, len: usize) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > arena.len) {
            return Err(Error::new(Code::Internal, "a temporary outside of the arena"));
        }
        // SAFETY: the offset is inside of the arena, or one past its end.
        let first = unsafe { arena.bytes.add(offset) };
        self.windows.push(Window { first, low: 0, high: len as isize, writable: true });
        Ok(())
    }

    /// The bool scalar in a buffer that a step has written.
    pub fn truth(&self, buffer: BufferId) -> bool {
        let window = self.windows[buffer.index()];
        // SAFETY: the window has a byte, and `'a` is not over.
        window.high > 0 && unsafe { window.first.read() } != 0
    }

    /// Runs a step.
    pub fn run(&mut self, step: &BoundStep, options: &RunOptions<'_>) -> Result<()> {
        let mut pointers: SmallVec<[*mut u8; 8]> = SmallVec::new();
        for operand in &step.operands {
            let Some(window) = self.windows.get(operand.buffer as usize) else {
                return Err(Error::new(Code::Internal, "a step of another plan"));
            };
            let inside = operand.low == operand.high || (operand.low >= window.low && operand.high <= window.high);
            if !inside || (operand.writes && !window.writable) {
                return Err(Error::new(Code::Internal, "a step reaches outside of its buffer"));
            }
            // An operand that reaches nothing may have an offset outside of its buffer.
            pointers.push(window.first.wrapping_offset(operand.offset));
        }
        match &step.tier {
            Tier::Compiled(compiled) => {
                // SAFETY: each operand stays inside of its window, as checked against the launch that is passed, and the
                // window is memory that may be read, or written where the kernel writes, for `'a`. Launch, operands
                // and parameters fit the kernel, as `BoundStep::new` checked. What overlaps was ruled out or found to
                // be in place by the engine.
                unsafe { compiled.run(&step.launch, &pointers, &step.params, options) }.map_err(cpu_error)
            }
            Tier::Interpreted(kernel) => self.interpret(kernel, step),
        }
    }

    fn interpret(&mut self, kernel: &Kernel, step: &BoundStep) -> Result<()> {
        let bytes = |operand: &Operand| {
            let window = self.windows[operand.buffer as usize];
            let (low, high) = (operand.low, operand.high);
            (window.first.wrapping_offset(low), (high - low) as usize, operand.offset - low)
        };
        let spans: SmallVec<[_; 8]> = step
            .operands
            .iter()
            .map(|operand| {
                let (first, len, _) = bytes(operand);
                Some(first as usize..first as usize + len)
            })
            .collect();
        for (i, out) in step.operands.iter().enumerate().filter(|(_, o)| o.writes) {
            if spans
                .iter()
                .enumerate()
                .any(|(j, s)| j != i && !low_is_high(s) && out.low < out.high && overlap(s, &spans[i]))
            {
                return Err(Error::new(Code::Internal, "interpreted operands overlap"));
            }
        }
        let mut memory: Vec<interp::Memory<'_>> = step
            .operands
            .iter()
            .map(|operand| {
                let (first, len, offset) = bytes(operand);
                let first = if len == 0 { std::ptr::NonNull::dangling().as_ptr() } else { first };
                let offset = if len == 0 { 0 } else { offset as usize };
                // SAFETY: the bytes are inside of the window, as `run` checked; no written one overlaps another.
                let bytes = unsafe {
                    if operand.writes {
                        interp::Bytes::Out(std::slice::from_raw_parts_mut(first, len))
                    } else {
                        interp::Bytes::In(std::slice::from_raw_parts(first, len))
                    }
                };
                interp::Memory { bytes, offset }
            })
            .collect();
        interp::run(kernel, &step.launch, &mut memory, &step.literals);
        Ok(())
    }
}
