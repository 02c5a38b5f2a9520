//! Borrowed arrays, and the only module of this crate with `unsafe`: here pointers become elements and elements pointers.
//! Memory of our own is in `memory`, the running of kernels in `steps`.
//!
//! # Invariants
//!
//! * An [`ArrayRef`] or [`ArrayMut`] of a lifetime `'a` points to memory in which every element of its shape, at its
//!   byte strides, may be read (or written) during `'a`. Strides may be zero, negative, and no multiple of the element
//!   size; addresses need no alignment. A bool is a byte that is 0 or 1. Zero-size arrays touch no memory.
//! * [`Steps`] are checked once: for each operand of each kernel, all bytes that the launch can reach lie inside of the
//!   buffer that it was bound to, and what is written may be written. They run on arrays of the very places that they
//!   were bound to. Whatever a planner gets wrong, no byte outside of a caller's array is touched.
//! * Elements are little-endian, as the host is.

mod memory;
mod steps;

pub(crate) use memory::Memory;
pub(crate) use steps::{Binding, Ended, Fit, Overlap, Slot, Steps, Tier};

use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{is_row_major, place, reach_of, shaped, span, vector};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::launch::for_each_index;
use numfuse_core::literal::Literal;
use numfuse_core::plan::Strided;
use smallvec::SmallVec;
use std::fmt;
use std::marker::PhantomData;

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
        /// As a [`Literal`] of the array's dtype has them: the element comes first.
        bits: u64,
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
        let data = Data::Scalar { bits: value.bits(), weak };
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
    #[inline]
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
            Data::Scalar { bits, .. } => Some(Literal::from_bits(self.dtype, bits)),
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

    /// Where the elements begin and end in memory; none without elements, or of a number.
    pub(crate) fn span(&self) -> Option<std::ops::Range<usize>> {
        match self.data {
            Data::Memory(first) => span(first as usize, &self.place, self.dtype),
            Data::Scalar { .. } => None,
        }
    }

    /// The first element, wherever it is; to be read as long as this is borrowed.
    fn first(&self) -> *const u8 {
        match &self.data {
            Data::Memory(first) => *first,
            Data::Scalar { bits, .. } => std::ptr::from_ref(bits).cast(),
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
    #[inline]
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
            Data::Scalar { bits, .. } => {
                // SAFETY: a scalar has one element, at `first`; the value has its dtype.
                unsafe { write(self.first, Literal::from_bits(self.dtype, bits)) };
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
