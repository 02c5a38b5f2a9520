//! Buffers: 64-byte aligned memory, huge pages for large ones, and a bounded pool of buffers to use again.
//!
//! A fresh 80 MB output costs more in page faults than most kernels cost in work, so large buffers are worth keeping.
//! Buffers from [`AlignedBuffer::uninit`] and [`BufferPool::take`] hold whatever was there before: who hands one on as
//! a result has written all of it.

use crate::Error;
use std::alloc::Layout;
use std::sync::{Mutex, OnceLock};

/// From this size on a buffer is a mapping of its own with advice for huge pages.
const HUGE: usize = 4 << 20;
const HUGE_PAGE: usize = 2 << 20;
const ALIGN: usize = 64;
/// From this size on the system may have the memory of what waits in a pool. That takes some 100 us of a process with threads,
/// which for smaller buffers is a tenth or more of what a kernel needs to fill them.
const LENT: usize = 32 << 20;

/// Memory aligned to 64 bytes, freed when dropped.
#[derive(Debug)]
pub struct AlignedBuffer {
    pointer: *mut u8,
    len: usize,
}

// SAFETY: the buffer owns its memory; access through the pointers is up to whoever holds it, as with any raw pointer.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above: a shared buffer only gives out its address and length.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// A buffer of `len` bytes of unspecified contents.
    pub fn uninit(len: usize) -> Result<AlignedBuffer, Error> {
        Self::allocate(len, false)
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Result<AlignedBuffer, Error> {
        Self::allocate(len, true)
    }

    fn allocate(len: usize, zeroed: bool) -> Result<AlignedBuffer, Error> {
        let refused = Error::OutOfMemory { bytes: len };
        if len == 0 {
            return Ok(AlignedBuffer { pointer: std::ptr::without_provenance_mut(ALIGN), len });
        }
        if len >= HUGE {
            return map(len).map(|pointer| AlignedBuffer { pointer, len }).ok_or(refused);
        }
        let layout = Layout::from_size_align(len, ALIGN).map_err(|_| refused.clone())?;
        // SAFETY: the layout has a non-zero size.
        let pointer = unsafe { if zeroed { std::alloc::alloc_zeroed(layout) } else { std::alloc::alloc(layout) } };
        if pointer.is_null() {
            return Err(refused);
        }
        Ok(AlignedBuffer { pointer, len })
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer
    }

    /// The first byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pointer
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives the contents up. A large buffer's memory is the system's if it runs short of it, and nothing is to be done to
    /// use it again: until then its pages are where they were.
    fn lend_to_system(&mut self) {
        #[cfg(target_os = "linux")]
        if self.len >= LENT && huge_pages_are_there() {
            // SAFETY: `map` made this mapping with this length; what was in it may go, as nobody relies on it.
            unsafe {
                libc::madvise(self.pointer.cast(), mapped_len(self.len), libc::MADV_FREE);
            }
        }
    }
}

/// False if the system has no huge pages. To lend each of many small ones takes longer than most kernels do.
#[cfg(target_os = "linux")]
fn huge_pages_are_there() -> bool {
    static ARE_THERE: OnceLock<bool> = OnceLock::new();
    *ARE_THERE.get_or_init(|| {
        let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        enabled.is_ok_and(|enabled| !enabled.contains("[never]"))
    })
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.len >= HUGE {
            // SAFETY: `map` made this mapping with this length.
            unsafe {
                libc::munmap(self.pointer.cast(), mapped_len(self.len));
            }
        } else if self.len > 0 {
            // SAFETY: `allocate` allocated this with this layout, which it checked.
            unsafe {
                std::alloc::dealloc(self.pointer, Layout::from_size_align_unchecked(self.len, ALIGN));
            }
        }
    }
}

fn mapped_len(len: usize) -> usize {
    len.next_multiple_of(HUGE_PAGE)
}

/// Zeroed memory at a huge page boundary.
fn map(len: usize) -> Option<*mut u8> {
    let len = len.checked_next_multiple_of(HUGE_PAGE)?;
    let all = len.checked_add(HUGE_PAGE)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the mapping is new; what is cut off at both ends is inside of it and not used.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = start as usize;
        let aligned = before.next_multiple_of(HUGE_PAGE);
        if aligned > before {
            libc::munmap(start, aligned - before);
        }
        let after = before + all - (aligned + len);
        if after > 0 {
            libc::munmap(start.byte_add(aligned - before + len), after);
        }
        let pointer = start.byte_add(aligned - before);
        #[cfg(target_os = "linux")]
        libc::madvise(pointer, len, libc::MADV_HUGEPAGE);
        Some(pointer.cast())
    }
}

/// Buffers that nobody uses now, to be used again: at most `limit` bytes of them. A system that runs short of memory takes
/// that of large ones.
#[derive(Debug)]
pub struct BufferPool {
    free: Mutex<Vec<AlignedBuffer>>,
    limit: usize,
}

impl BufferPool {
    /// An empty pool.
    pub const fn new(limit: usize) -> BufferPool {
        BufferPool { free: Mutex::new(Vec::new()), limit }
    }

    /// A buffer of at least `len` bytes, and of less than twice as many, with unspecified contents.
    pub fn take(&self, len: usize) -> Result<AlignedBuffer, Error> {
        // Whoever holds the lock is quick; in a forked child it may be held forever.
        if let Ok(mut free) = self.free.try_lock()
            && let Some(i) = free.iter().position(|buffer| buffer.len >= len && buffer.len / 2 <= len)
        {
            return Ok(free.swap_remove(i));
        }
        AlignedBuffer::uninit(len)
    }

    /// Takes a buffer back. The oldest ones go if there are too many.
    pub fn give(&self, mut buffer: AlignedBuffer) {
        let mut dropped = Vec::new();
        if buffer.len > self.limit {
            return;
        }
        buffer.lend_to_system();
        if let Ok(mut free) = self.free.try_lock() {
            free.push(buffer);
            let mut held: usize = free.iter().map(AlignedBuffer::len).sum();
            while held > self.limit {
                let oldest = free.remove(0);
                held -= oldest.len;
                dropped.push(oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_writable() {
        for len in [0, 1, 63, 4096, HUGE - 1, HUGE, HUGE + 1, 3 * HUGE + 5] {
            let mut buffer = AlignedBuffer::zeroed(len).unwrap();
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % ALIGN), (len, 0));
            // SAFETY: the buffer has `len` bytes and they are zeroed.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), len) };
            assert!(bytes.iter().all(|b| *b == 0));
            bytes.fill(7);
        }
        assert!(matches!(AlignedBuffer::uninit(isize::MAX as usize), Err(Error::OutOfMemory { .. })));
    }

    #[test]
    fn a_pool_reuses_and_is_bounded() {
        let pool = BufferPool::new(1000);
        let first = pool.take(600).unwrap();
        let address = first.as_ptr();
        pool.give(first);
        let again = pool.take(500).unwrap();
        assert_eq!(again.as_ptr(), address);
        pool.give(again);
        pool.give(AlignedBuffer::uninit(700).unwrap());
        assert_eq!(pool.free.lock().unwrap().iter().map(AlignedBuffer::len).collect::<Vec<_>>(), [700]);
        pool.give(AlignedBuffer::uninit(2000).unwrap());
        assert_eq!(pool.free.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_was_lent_to_the_system_is_written_again() {
        let pool = BufferPool::new(LENT);
        pool.give(AlignedBuffer::zeroed(LENT).unwrap());
        let mut buffer = pool.take(LENT).unwrap();
        // SAFETY: the buffer has so many bytes, and they came from a zeroed one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), LENT) };
        bytes.fill(7);
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
