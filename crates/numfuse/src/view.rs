//! Borrowed arrays, and the only module of this crate with `unsafe`: here pointers become elements and elements pointers.
//! Memory of our own is in `memory`, that of devices and the copies to and from it in `device`, the running of kernels in
//! `steps`.
//!
//! # Invariants
//!
//! * An [`ArrayRef`] or [`ArrayMut`] of a lifetime `'a` points to memory in which every element of its shape, at its
//!   byte strides, may be read (or written) during `'a`. Strides may be zero, negative, and no multiple of the element
//!   size; addresses need no alignment. A bool is a byte that is 0 or 1. Zero-size arrays touch no memory.
//! * [`Steps`] are checked once: for each operand of each kernel, all bytes that the launch can reach lie inside of the
//!   buffer that it was bound to, and what is written may be written. They run on arrays of the very places that they
//!   were bound to. Whatever a planner gets wrong, no byte outside of a caller's array is touched.
//! * An array of a device has its address there in place of a pointer. It is never accessed here: what reads or writes
//!   elements refuses such an array or has the device do it.
//! * Elements are little-endian, as the host is.

mod device;
mod memory;
mod steps;

pub(crate) use device::DeviceMemory;
pub use memory::Memory;
pub(crate) use steps::{Binding, Ended, Fit, Lent, Overlap, Slot, Steps, Tier};

use crate::device::Device;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{is_row_major, place, reach_of, shaped, span, vector};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::launch::for_each_index;
use numfuse_core::literal::Literal;
use numfuse_core::plan::{Strided, View};
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
    data: Data<'a>,
    dtype: DType,
    place: Strided,
    life: PhantomData<&'a [u8]>,
}

#[derive(Clone, Copy)]
enum Data<'a> {
    /// The first element.
    Memory(*const u8),
    /// The address of the first element on a device, and the memory that it is in.
    Device(u64, &'a DeviceMemory),
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
    /// Of an array of a device this is its address there.
    first: *mut u8,
    /// The memory of a device that it is in; none if it is on the host.
    memory: Option<&'a DeviceMemory>,
    dtype: DType,
    place: Strided,
    life: PhantomData<&'a mut [u8]>,
}

/// An array of another language, as that has it: nothing of it is copied or looked at before it is used.
#[derive(Clone, Copy)]
pub struct RawArray<'a> {
    first: *mut u8,
    dtype: DType,
    shape: &'a [usize],
    strides: &'a [isize],
}

impl<'a> RawArray<'a> {
    /// An array from its parts.
    ///
    /// # Safety
    /// As [`ArrayRef::from_raw`] where it is given as an input, and as [`ArrayMut::from_raw`] as an output.
    #[inline]
    pub unsafe fn new(first: *mut u8, dtype: DType, shape: &'a [usize], strides: &'a [isize]) -> RawArray<'a> {
        RawArray { first, dtype, shape, strides }
    }

    /// The element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    #[inline]
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The byte strides, one for each size.
    #[inline]
    pub fn strides(&self) -> &'a [isize] {
        self.strides
    }
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

    /// Elements that are the bytes of some memory, which need not be aligned; those of bools are 0 or 1.
    ///
    /// # Errors
    /// If they do not lie inside.
    pub(crate) fn of_bytes(bytes: &'a [u8], dtype: DType, place: Strided) -> Result<ArrayRef<'a>> {
        check_inside(bytes.len(), dtype, &place)?;
        Ok(ArrayRef { data: Data::Memory(bytes.as_ptr()), dtype, place, life: PhantomData })
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
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    #[inline]
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
    #[inline]
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

    /// The elements in row-major order, one at a time; for printing and comparing rather than for computing. None of an
    /// array on a device: see [`Array::to_host`](crate::Array::to_host).
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

    /// The element at an index for each dimension; none if it is out of range, or on a device.
    pub fn get(&self, index: &[usize]) -> Option<Literal> {
        let place = &self.place;
        if index.len() != place.shape.len() || index.iter().zip(&place.shape).any(|(i, n)| *i as u64 >= *n) {
            return None;
        }
        let offset = index.iter().zip(&place.strides).map(|(i, s)| *i as isize * s).sum();
        match self.data {
            Data::Scalar { bits, .. } => Some(Literal::from_bits(self.dtype, bits)),
            Data::Device(..) => None,
            // SAFETY: the index is in range, so the element is one of the array's.
            Data::Memory(first) => Some(unsafe { read(first.offset(offset), self.dtype) }),
        }
    }

    /// Some of the indices of one dimension: those of the range.
    ///
    /// # Errors
    /// If there is no such dimension or the range is not inside of it.
    pub fn slice(&self, axis: usize, range: std::ops::Range<usize>) -> Result<ArrayRef<'a>> {
        let mut part = self.clone();
        part.data = moved(self.data, slice(&mut part.place, axis, &range)?);
        Ok(part)
    }

    /// A box of the elements: those of a range of indices of each dimension.
    ///
    /// # Errors
    /// As [`ArrayRef::slice`].
    pub(crate) fn part(&self, ranges: &[std::ops::Range<u64>]) -> Result<ArrayRef<'a>> {
        let mut part = self.clone();
        for (axis, range) in ranges.iter().enumerate() {
            part.data = moved(part.data, slice(&mut part.place, axis, &(range.start as usize..range.end as usize))?);
        }
        Ok(part)
    }

    /// What views show, in a larger domain: its dimension `i` runs along dimension `axes[i]` of the domain. Where it has size
    /// 1, and along the other dimensions, elements repeat. Indices of the views are in range.
    ///
    /// # Errors
    /// If the sizes do not go together.
    pub(crate) fn spread(&self, views: &[View], axes: &[u8], domain: &[u64]) -> Result<ArrayRef<'a>> {
        let mut spread = self.clone();
        for view in views {
            spread.data = moved(spread.data, spread.place.view(view));
        }
        let mut place = Strided { shape: domain.into(), strides: SmallVec::from_elem(0, domain.len()) };
        let Strided { shape, strides } = &spread.place;
        for ((axis, size), stride) in axes.iter().zip(shape).zip(strides) {
            let (axis, wanted) = (usize::from(*axis), domain.get(usize::from(*axis)));
            if *size == 1 {
                continue;
            }
            if wanted != Some(size) {
                return Err(Error::new(Code::Internal, format!("an array of shape {shape:?} in {domain:?}")));
            }
            place.strides[axis] = *stride;
        }
        spread.place = place;
        Ok(spread)
    }

    /// The same elements seen as an array of a larger shape: dimensions of size 1 are repeated, and new ones come first.
    ///
    /// # Errors
    /// If the shapes do not go together.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<ArrayRef<'a>> {
        let place = crate::layout::broadcast(&self.place, shape)?;
        Ok(ArrayRef { place, ..self.clone() })
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        self.memory().map_or(Device::cpu(), DeviceMemory::device)
    }

    /// A row-major copy on a device; see [`Array::to_device`](crate::Array::to_device).
    ///
    /// # Errors
    /// As there.
    pub fn to_device(&self, device: &Device) -> Result<crate::Array> {
        crate::Array::copy_to(self, device)
    }

    /// Copies the elements into an array of the same dtype and shape, wherever the two are.
    ///
    /// # Errors
    /// If the dtypes or shapes differ, the two share memory, or a device is lost.
    pub fn copy_into(&self, to: &mut ArrayMut<'_>) -> Result<()> {
        if crate::layout::overlap(&self.span(), &to.span()) {
            return Err(Error::new(Code::Output, "an array was to be copied into its own memory"));
        }
        if (to.dtype(), to.shape()) != (self.dtype(), self.shape()) {
            return Err(Error::new(Code::Output, format!("{self:?} was to be copied into {to:?}")));
        }
        to.copy_from(self)
    }

    /// The memory of a device that the elements are in; none if they are on the host.
    pub(crate) fn memory(&self) -> Option<&'a DeviceMemory> {
        match self.data {
            Data::Device(_, memory) => Some(memory),
            Data::Memory(_) | Data::Scalar { .. } => None,
        }
    }

    /// True for a number that needs no memory.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.data, Data::Scalar { .. })
    }

    /// The bytes of the elements, if they are in row-major order without gaps and in memory of the host.
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
            Data::Device(first, _) => span(first as usize, &self.place, self.dtype),
            Data::Scalar { .. } => None,
        }
    }

    /// The first element, wherever it is; to be read, unless it is on a device, as long as this is borrowed.
    #[inline]
    fn first(&self) -> *const u8 {
        match &self.data {
            Data::Memory(first) => *first,
            Data::Device(first, _) => std::ptr::without_provenance(*first as usize),
            Data::Scalar { bits, .. } => std::ptr::from_ref(bits).cast(),
        }
    }
}

impl<'a> ArrayMut<'a> {
    /// A slice as an array of rank 1.
    #[inline]
    pub fn from_slice<T: Element>(slice: &'a mut [T]) -> ArrayMut<'a> {
        let place = vector(slice.len(), size_of::<T>());
        ArrayMut { first: slice.as_mut_ptr().cast(), memory: None, dtype: T::DTYPE, place, life: PhantomData }
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
            memory: None,
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

    /// As [`ArrayRef::of_bytes`], to write.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_bytes(bytes: &'a mut [u8], dtype: DType, place: Strided) -> Result<ArrayMut<'a>> {
        check_inside(bytes.len(), dtype, &place)?;
        Ok(ArrayMut { first: bytes.as_mut_ptr(), memory: None, dtype, place, life: PhantomData })
    }

    /// The first indices of a dimension and the others. The elements of an array that is written lie apart.
    ///
    /// # Errors
    /// If there are not so many indices, or elements share memory.
    pub(crate) fn split(mut self, axis: usize, count: usize) -> Result<(ArrayMut<'a>, ArrayMut<'a>)> {
        if crate::layout::overlaps_itself(&self.place, self.dtype) {
            return Err(Error::new(Code::Internal, "a split of an array whose elements share memory"));
        }
        let Self { first, memory, dtype, ref place, .. } = self;
        let mut head = ArrayMut { first, memory, dtype, place: place.clone(), life: PhantomData };
        let all = head.place.shape.get(axis).map_or(0, |n| *n as usize);
        slice(&mut head.place, axis, &(0..count))?;
        self.first = self.first.wrapping_offset(slice(&mut self.place, axis, &(count..all))?);
        Ok((head, self))
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
        Ok(ArrayMut { first, memory: None, dtype, place, life: PhantomData })
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
        let Self { first, memory, dtype, ref place, .. } = *self;
        let data = memory.map_or(Data::Memory(first), |memory| Data::Device(first as u64, memory));
        ArrayRef { data, dtype, place: place.clone(), life: PhantomData }
    }

    /// The same array for a shorter time.
    pub fn reborrow(&mut self) -> ArrayMut<'_> {
        let Self { first, memory, dtype, ref place, .. } = *self;
        ArrayMut { first, memory, dtype, place: place.clone(), life: PhantomData }
    }

    /// Some of the indices of one dimension: those of the range.
    ///
    /// # Errors
    /// If there is no such dimension or the range is not inside of it.
    pub fn slice(&mut self, axis: usize, range: std::ops::Range<usize>) -> Result<ArrayMut<'_>> {
        let mut part = self.reborrow();
        part.first = part.first.wrapping_offset(slice(&mut part.place, axis, &range)?);
        Ok(part)
    }

    /// A box of the elements, as [`ArrayRef::part`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn part(&mut self, ranges: &[std::ops::Range<u64>]) -> Result<ArrayMut<'_>> {
        let mut part = self.reborrow();
        for (axis, range) in ranges.iter().enumerate() {
            let by = slice(&mut part.place, axis, &(range.start as usize..range.end as usize))?;
            part.first = part.first.wrapping_offset(by);
        }
        Ok(part)
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        self.memory.map_or(Device::cpu(), DeviceMemory::device)
    }

    /// The memory of a device that the elements are in; none if they are on the host.
    pub(crate) fn memory(&self) -> Option<&DeviceMemory> {
        self.memory
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
        if self.memory.is_some() {
            return device::copy(self, from);
        }
        let source = match from.data {
            Data::Device(..) => return device::copy(self, from),
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

/// An error if an array that begins with some memory does not lie inside of it.
fn check_inside(bytes: usize, dtype: DType, place: &Strided) -> Result<()> {
    match reach_of(place, dtype)? {
        (0, high) if high as usize <= bytes => Ok(()),
        _ => Err(Error::new(Code::Internal, format!("an array of shape {:?} in {bytes} bytes", place.shape))),
    }
}

/// Cuts a dimension down to a range of its indices; returns how many bytes the first element moves.
fn slice(place: &mut Strided, axis: usize, range: &std::ops::Range<usize>) -> Result<isize> {
    let inside = |size: &u64| range.start <= range.end && range.end as u64 <= *size;
    let Some(size) = place.shape.get_mut(axis) else {
        return Err(Error::new(Code::Axis, format!("axis {axis} of an array of {} dimensions", place.strides.len())));
    };
    if !inside(size) {
        return Err(Error::new(Code::Index, format!("indices {range:?} of a dimension of {size}")));
    }
    *size = range.len() as u64;
    // An array without elements is nowhere.
    Ok(if place.shape.contains(&0) { 0 } else { place.strides[axis] * range.start as isize })
}

/// Where a first element is after it has moved by so many bytes.
fn moved(data: Data<'_>, by: isize) -> Data<'_> {
    match data {
        Data::Memory(first) => Data::Memory(first.wrapping_offset(by)),
        Data::Device(first, memory) => Data::Device(first.wrapping_add_signed(by as i64), memory),
        Data::Scalar { .. } => data,
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
