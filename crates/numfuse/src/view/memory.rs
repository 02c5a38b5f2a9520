//! Memory of our own: results and temporaries. Much of it is used again: new memory costs more than a small evaluation
//! does, and its page faults more than a large one.
//!
//! Invariant: memory that is not initialised becomes an array that is read only after all of it has been written.

use super::{ArrayMut, ArrayRef, Data};
use crate::error::{Result, cpu_error};
use crate::layout::reach_of;
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_cpu::{AlignedBuffer, BufferPool};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Memory of an owned array or of temporaries, aligned to 64 bytes. What is dropped is kept to be used again, up to 512 MiB,
/// and of that what is large only until the system runs short of memory.
///
/// Whoever makes arrays for [`Kernel::run_into`](crate::Kernel::run_into) may have the same memory for them.
pub struct Memory {
    /// At least `len` bytes; gone only while it is dropped.
    buffer: Option<AlignedBuffer>,
    len: usize,
}

/// Buffers up to this size have it, and each thread keeps a few.
const SMALL: usize = 1 << 10;
const SMALL_KEPT: usize = 16;

/// Of larger ones, below [`POOLED`], each thread keeps fewer.
const MIDDLE_KEPT: usize = 4;

/// Buffers from this size on are kept for all threads together.
const POOLED: usize = 64 << 10;
static POOL: BufferPool = BufferPool::new(512 << 20);

/// What a thread has freed and may use again.
struct Kept {
    small: Vec<AlignedBuffer>,
    middle: Vec<AlignedBuffer>,
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { small: Vec::new(), middle: Vec::new() }) };
}

impl Memory {
    /// So many bytes that are not initialised: who hands them out has written all of them. Debug builds fill them with a
    /// pattern.
    ///
    /// # Errors
    /// If there is not so much memory.
    #[inline]
    pub fn uninit(len: usize) -> Result<Memory> {
        let kept = match len {
            0..=SMALL => KEPT.try_with(|kept| kept.borrow_mut().small.pop()).ok().flatten(),
            _ => None,
        };
        let buffer = match kept {
            Some(buffer) => buffer,
            None => Memory::find(len)?,
        };
        let mut memory = Memory { buffer: Some(buffer), len };
        if cfg!(debug_assertions) {
            memory.filled_with(0xA5);
        }
        Ok(memory)
    }

    #[cold]
    fn find(len: usize) -> Result<AlignedBuffer> {
        let fits = |buffer: &AlignedBuffer| buffer.len() >= len && buffer.len() / 2 <= len;
        let kept = || {
            let found = KEPT.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                let i = kept.middle.iter().rposition(fits)?;
                Some(kept.middle.remove(i))
            });
            found.ok().flatten()
        };
        let buffer = match len {
            0..=SMALL => AlignedBuffer::uninit(SMALL),
            POOLED.. => POOL.take(len),
            _ => kept().map_or_else(|| AlignedBuffer::uninit(len), Ok),
        };
        buffer.map_err(cpu_error)
    }

    /// The first byte. What it points to may be read and written as long as this is alive.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.first()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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

    /// The bytes, to be initialised.
    pub(super) fn uninit_bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        let (first, len) = (self.first(), self.len);
        // SAFETY: the buffer has `len` bytes, and it is ours alone; whatever they are, they may be uninitialised.
        unsafe { std::slice::from_raw_parts_mut(first.cast(), len) }
    }

    /// An array in this memory, at byte strides from its start; all of its elements have been written.
    ///
    /// # Panics
    /// If it does not lie inside: that is a bug of the caller.
    pub(crate) fn array(&self, dtype: DType, place: &Strided) -> ArrayRef<'_> {
        self.check(dtype, place);
        ArrayRef { data: Data::Memory(self.first()), dtype, place: place.clone(), life: PhantomData }
    }

    /// As [`Memory::array`], to write; nothing need have been written.
    pub(crate) fn array_mut(&mut self, dtype: DType, place: &Strided) -> ArrayMut<'_> {
        self.check(dtype, place);
        ArrayMut { first: self.first(), memory: None, dtype, place: place.clone(), life: PhantomData }
    }

    #[inline]
    pub(super) fn first(&self) -> *mut u8 {
        self.buffer.as_ref().map_or(std::ptr::dangling_mut(), |b| b.as_ptr().cast_mut())
    }

    fn check(&self, dtype: DType, place: &Strided) {
        let inside = matches!(reach_of(place, dtype), Ok((0, high)) if high <= self.len as isize);
        assert!(inside, "an array of shape {:?} in {} bytes", place.shape, self.len);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

impl Drop for Memory {
    #[inline]
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        if buffer.len() >= POOLED {
            POOL.give(buffer);
            return;
        }
        // While a thread ends there is nothing kept any more.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let (list, most) = match buffer.len() {
                SMALL => (&mut kept.small, SMALL_KEPT),
                _ => (&mut kept.middle, MIDDLE_KEPT),
            };
            if list.len() == most {
                // The oldest one makes way: sizes change in the course of a program.
                list.remove(0);
            }
            list.push(buffer);
        });
    }
}
