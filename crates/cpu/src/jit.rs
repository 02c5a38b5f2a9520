//! Code memory: where machine code lives, for as long as someone holds it.
//!
//! Code is kept in slabs of 1 MiB, each a memory file mapped once, readable and executable. New code is written to the
//! file with `pwrite`, so no page is ever writable and executable, not even at two addresses, and publishing does not
//! disturb code that runs in the same page. Blocks are 64-byte aligned; a dropped [`CodeBlock`] is filled with
//! breakpoints and returned to its slab's free list; a slab without blocks is unmapped, except for one. Where memory
//! files may not be executed, each block is a private mapping, written first and then made executable. Where that is
//! refused too, [`CodeBlock::publish`] is an error, and the caller interprets.
//!
//! Invariants:
//!
//! * free ranges of a slab are sorted, disjoint, and no two touch;
//! * after `fork` both processes share the pages of a slab, so neither writes to it again: a slab belongs to the
//!   *epoch* that made it, and a fork begins a new epoch. Blocks of older epochs are only counted down;
//! * the lock is taken by the fork handlers, so a child never inherits it locked or the lists half changed.
//!
//! See `docs/decisions/0001-code-memory.md` for what was measured.

use crate::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes of a slab.
const SLAB: usize = 1 << 20;
/// Alignment of a block.
const ALIGN: usize = 64;

/// How much code memory is in use, in the whole process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStats {
    /// Bytes of live blocks, rounded up to their alignment.
    pub used: usize,
    /// Bytes of all mappings.
    pub mapped: usize,
    /// Live blocks.
    pub blocks: usize,
}

/// Executable machine code; freed when dropped.
#[derive(Debug)]
pub(crate) struct CodeBlock {
    address: usize,
    len: usize,
    home: Home,
}

#[derive(Debug)]
enum Home {
    /// A range of a slab.
    Slab(Arc<Slab>),
    /// A mapping of its own.
    Own,
}

#[derive(Debug)]
struct Slab {
    address: usize,
    file: i32,
    epoch: usize,
    /// Live blocks.
    blocks: AtomicUsize,
}

/// The slabs of this process and what is free in them.
struct Arena {
    slabs: Vec<OpenSlab>,
    epoch: usize,
    /// Memory files cannot be executed here.
    refused: bool,
}

struct OpenSlab {
    slab: Arc<Slab>,
    /// Free ranges as offset and length.
    free: Vec<(usize, usize)>,
}

static LOCK: AtomicBool = AtomicBool::new(false);
static BLOCKS: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// What [`LOCK`] guards.
struct Guarded(std::cell::UnsafeCell<Arena>);

// SAFETY: the arena is reached through `with_arena` and the fork handlers only, which hold `LOCK`.
unsafe impl Sync for Guarded {}

static ARENA: Guarded = Guarded(std::cell::UnsafeCell::new(Arena { slabs: Vec::new(), epoch: 0, refused: false }));

fn acquire() {
    let mut spins = 0u32;
    while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spins += 1;
        if spins < 64 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

fn release() {
    LOCK.store(false, Ordering::Release);
}

fn with_arena<T>(f: impl FnOnce(&mut Arena) -> T) -> T {
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            release();
        }
    }
    static HANDLERS: OnceLock<()> = OnceLock::new();
    HANDLERS.get_or_init(|| {
        // SAFETY: the handlers are functions without arguments that live as long as the program; they take a spin lock
        // and change an integer. Should the registration fail, forks merely share slabs with their parent.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork));
        }
    });
    acquire();
    let _release = Release;
    // SAFETY: the lock is held until `_release` is dropped, after the borrow.
    f(unsafe { &mut *ARENA.0.get() })
}

extern "C" fn before_fork() {
    acquire();
    // SAFETY: the lock is held.
    let arena = unsafe { &mut *ARENA.0.get() };
    arena.epoch += 1;
}

extern "C" fn after_fork() {
    release();
}

/// Code memory in use now.
pub(crate) fn stats() -> MemoryStats {
    MemoryStats {
        used: USED.load(Ordering::Relaxed),
        mapped: MAPPED.load(Ordering::Relaxed),
        blocks: BLOCKS.load(Ordering::Relaxed),
    }
}

impl CodeBlock {
    /// Makes a copy of the code executable.
    pub fn publish(code: &[u8]) -> Result<CodeBlock, Error> {
        let len = code.len().max(1).next_multiple_of(ALIGN);
        let block = match with_arena(|arena| arena.place(code, len)) {
            Some((slab, offset)) => CodeBlock { address: slab.address + offset, len, home: Home::Slab(slab) },
            None => {
                let address = map_private(code)?;
                MAPPED.fetch_add(page_ceil(len), Ordering::Relaxed);
                CodeBlock { address, len, home: Home::Own }
            }
        };
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        USED.fetch_add(len, Ordering::Relaxed);
        flush_instruction_cache(block.address, len);
        Ok(block)
    }

    /// Where the code begins.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for CodeBlock {
    fn drop(&mut self) {
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        USED.fetch_sub(self.len, Ordering::Relaxed);
        match &self.home {
            Home::Slab(slab) => with_arena(|arena| arena.free(slab, self.address - slab.address, self.len)),
            Home::Own => {
                MAPPED.fetch_sub(page_ceil(self.len), Ordering::Relaxed);
                // SAFETY: the mapping was made by `map_private` with this length, and the block was its only user.
                unsafe {
                    libc::munmap(self.address as *mut libc::c_void, page_ceil(self.len));
                }
            }
        }
    }
}

impl Arena {
    /// Finds room for code and writes it there. None if memory files are refused.
    fn place(&mut self, code: &[u8], len: usize) -> Option<(Arc<Slab>, usize)> {
        if self.refused || len > SLAB {
            return None;
        }
        let epoch = self.epoch;
        // Slabs of older epochs are kept alive by their blocks; nothing is added to them.
        self.slabs.retain(|open| open.slab.epoch == epoch);
        let mut found = None;
        for (i, open) in self.slabs.iter_mut().enumerate() {
            if let Some(offset) = take(&mut open.free, len) {
                found = Some((i, offset));
                break;
            }
        }
        let (i, offset) = match found {
            Some(found) => found,
            None => {
                let Some(slab) = Slab::new(epoch) else {
                    self.refused = true;
                    return None;
                };
                self.slabs.push(OpenSlab { slab: Arc::new(slab), free: vec![(len, SLAB - len)] });
                (self.slabs.len() - 1, 0)
            }
        };
        let open = &mut self.slabs[i];
        if !open.slab.write(offset, code) {
            give(&mut open.free, offset, len);
            return None;
        }
        open.slab.blocks.fetch_add(1, Ordering::Relaxed);
        Some((Arc::clone(&open.slab), offset))
    }

    fn free(&mut self, slab: &Arc<Slab>, offset: usize, len: usize) {
        let left = slab.blocks.fetch_sub(1, Ordering::Relaxed) - 1;
        if slab.epoch != self.epoch {
            return;
        }
        let Some(i) = self.slabs.iter().position(|open| Arc::ptr_eq(&open.slab, slab)) else { return };
        const BREAKPOINTS: [u8; 4096] = [0xcc; 4096];
        let mut at = offset;
        while at < offset + len {
            let chunk = (offset + len - at).min(BREAKPOINTS.len());
            slab.write(at, &BREAKPOINTS[..chunk]);
            at += chunk;
        }
        give(&mut self.slabs[i].free, offset, len);
        let empty = |open: &OpenSlab| open.slab.blocks.load(Ordering::Relaxed) == 0;
        if left == 0 && self.slabs.iter().filter(|open| empty(open)).count() > 1 {
            self.slabs.swap_remove(i);
        }
    }
}

/// Cuts a range of this length off the free ranges; returns its offset.
fn take(free: &mut Vec<(usize, usize)>, len: usize) -> Option<usize> {
    let i = free.iter().position(|(_, size)| *size >= len)?;
    let (offset, size) = free[i];
    if size == len {
        free.remove(i);
    } else {
        free[i] = (offset + len, size - len);
    }
    Some(offset)
}

/// Returns a range to the free ranges, joined with its neighbours.
fn give(free: &mut Vec<(usize, usize)>, offset: usize, len: usize) {
    let i = free.partition_point(|(at, _)| *at < offset);
    let joins_next = free.get(i).is_some_and(|(at, _)| *at == offset + len);
    let joins_last = i > 0 && free[i - 1].0 + free[i - 1].1 == offset;
    match (joins_last, joins_next) {
        (true, true) => {
            free[i - 1].1 += len + free[i].1;
            free.remove(i);
        }
        (true, false) => free[i - 1].1 += len,
        (false, true) => free[i] = (offset, len + free[i].1),
        (false, false) => free.insert(i, (offset, len)),
    }
}

impl Slab {
    /// A new slab; none if memory files cannot be had or executed.
    #[cfg(target_os = "linux")]
    fn new(epoch: usize) -> Option<Slab> {
        // Kernels from 6.3 on want to be told that the file is to be executed; older ones do not know the flag.
        const MFD_EXEC: libc::c_uint = 0x10;
        let name = c"numfuse-code";
        // SAFETY: the name is a C string; the flags are plain bits.
        let open = |flags| unsafe { libc::memfd_create(name.as_ptr(), flags) };
        let mut file = open(libc::MFD_CLOEXEC | MFD_EXEC);
        if file < 0 {
            file = open(libc::MFD_CLOEXEC);
        }
        if file < 0 {
            return None;
        }
        // SAFETY: `file` is a descriptor that nobody else has; the mapping is new and its address is the system's
        // choice.
        unsafe {
            if libc::ftruncate(file, SLAB as libc::off_t) == 0 {
                let protection = libc::PROT_READ | libc::PROT_EXEC;
                let address = libc::mmap(std::ptr::null_mut(), SLAB, protection, libc::MAP_SHARED, file, 0);
                if address != libc::MAP_FAILED {
                    MAPPED.fetch_add(SLAB, Ordering::Relaxed);
                    return Some(Slab { address: address as usize, file, epoch, blocks: AtomicUsize::new(0) });
                }
            }
            libc::close(file);
        }
        None
    }

    #[cfg(not(target_os = "linux"))]
    fn new(_epoch: usize) -> Option<Slab> {
        None
    }

    /// Writes bytes into the slab; false if the system refused.
    fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            // SAFETY: `file` is open as long as the slab lives, and `rest` is readable for its length.
            let written =
                unsafe { libc::pwrite(self.file, rest.as_ptr().cast(), rest.len(), (offset + done) as libc::off_t) };
            match written {
                1.. => done += written as usize,
                _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        MAPPED.fetch_sub(SLAB, Ordering::Relaxed);
        // SAFETY: the mapping and the descriptor are the slab's own, and no block of it is left.
        unsafe {
            libc::munmap(self.address as *mut libc::c_void, SLAB);
            libc::close(self.file);
        }
    }
}

fn page_ceil(len: usize) -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    // SAFETY: `sysconf` only reads a number.
    let page = PAGE.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096));
    len.next_multiple_of(*page)
}

/// Copies code to a mapping of its own and makes that executable.
fn map_private(code: &[u8]) -> Result<usize, Error> {
    let len = page_ceil(code.len().max(1).next_multiple_of(ALIGN));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the mapping is new, long enough for the code, writable while it is copied, and nobody else knows it.
    unsafe {
        let address = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if address == libc::MAP_FAILED {
            return Err(Error::OutOfMemory { bytes: len });
        }
        std::ptr::copy_nonoverlapping(code.as_ptr(), address.cast(), code.len());
        if libc::mprotect(address, len, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            let reason = std::io::Error::last_os_error();
            libc::munmap(address, len);
            return Err(Error::CodeMemory(reason.to_string()));
        }
        Ok(address as usize)
    }
}

/// Lets every core see new instructions. x86 does so by itself.
#[cfg(target_arch = "x86_64")]
fn flush_instruction_cache(_address: usize, _len: usize) {}

/// Lets every core see new instructions: cleans the lines to the point of unification and drops stale ones.
#[cfg(target_arch = "aarch64")]
fn flush_instruction_cache(address: usize, len: usize) {
    // The least line size that the architecture allows would be slow; 16 bytes is right on every core nevertheless,
    // and code is published rarely.
    const LINE: usize = 16;
    // SAFETY: cache maintenance by address on mapped memory changes no data; barriers change nothing.
    unsafe {
        for line in (address..address + len).step_by(LINE) {
            std::arch::asm!("dc cvau, {}", in(reg) line);
        }
        std::arch::asm!("dsb ish");
        for line in (address..address + len).step_by(LINE) {
            std::arch::asm!("ic ivau, {}", in(reg) line);
        }
        std::arch::asm!("dsb ish", "isb");
        // Other cores have to refetch as well: MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, registered first.
        #[cfg(target_os = "linux")]
        {
            libc::syscall(libc::SYS_membarrier, 1 << 6, 0, 0);
            libc::syscall(libc::SYS_membarrier, 1 << 5, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function that returns its number, as machine code: `mov eax, n; ret`.
    fn returns(n: u32) -> Vec<u8> {
        let mut code = vec![0xb8];
        code.extend(n.to_le_bytes());
        code.push(0xc3);
        code
    }

    fn call(block: &CodeBlock) -> u32 {
        // SAFETY: the block holds `mov eax, n; ret`, a function without arguments.
        unsafe { std::mem::transmute::<usize, extern "C" fn() -> u32>(block.address())() }
    }

    /// Slabs that are mapped.
    fn mappings() -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.lines().filter(|line| line.contains("numfuse-code")).count()
    }

    #[test]
    fn free_ranges_join() {
        let mut free = vec![(0, 1024)];
        let a = take(&mut free, 64).unwrap();
        let b = take(&mut free, 128).unwrap();
        let c = take(&mut free, 64).unwrap();
        assert_eq!((a, b, c), (0, 64, 192));
        give(&mut free, a, 64);
        give(&mut free, c, 64);
        assert_eq!(free, [(0, 64), (192, 832)]);
        give(&mut free, b, 128);
        assert_eq!(free, [(0, 1024)]);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn code_runs_and_its_memory_is_used_again() {
        let before = mappings();
        let mut blocks: Vec<Option<CodeBlock>> = Vec::new();
        for n in 0..20_000 {
            blocks.push(Some(CodeBlock::publish(&returns(n)).unwrap()));
        }
        for (n, block) in blocks.iter().enumerate() {
            assert_eq!(call(block.as_ref().unwrap()), n as u32);
        }
        // 20,000 blocks of 64 bytes are two slabs. Other tests have some of their own.
        assert!(mappings() < before + 6, "{before} {}", mappings());
        for n in (0..blocks.len()).step_by(2) {
            blocks[n] = None;
        }
        for n in (0..blocks.len()).step_by(2) {
            blocks[n] = Some(CodeBlock::publish(&returns(n as u32 + 7)).unwrap());
        }
        for (n, block) in blocks.iter().enumerate() {
            let want = if n % 2 == 0 { n as u32 + 7 } else { n as u32 };
            assert_eq!(call(block.as_ref().unwrap()), want);
        }
        assert!(mappings() < before + 6);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn mappings_stay_flat() {
        let code = vec![0xc3; 900];
        drop(CodeBlock::publish(&code).unwrap());
        let before = mappings();
        for _ in 0..100_000 {
            let block = CodeBlock::publish(&code).unwrap();
            assert!(block.address().is_multiple_of(ALIGN));
        }
        assert!(mappings() < before + 6);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn private_mappings_are_the_fall_back() {
        let code = returns(41);
        let address = map_private(&code).unwrap();
        let block = CodeBlock { address, len: 64, home: Home::Own };
        MAPPED.fetch_add(page_ceil(64), Ordering::Relaxed);
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        USED.fetch_add(64, Ordering::Relaxed);
        assert_eq!(call(&block), 41);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn a_forked_child_cannot_reach_the_parents_code() {
        let kept = CodeBlock::publish(&returns(1)).unwrap();
        let dropped = CodeBlock::publish(&returns(2)).unwrap();
        // SAFETY: the child only calls functions of this file and `_exit`; it never returns into the test harness.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                drop(dropped);
                let new = CodeBlock::publish(&returns(3));
                let fine = call(&kept) == 1 && new.is_ok_and(|block| call(&block) == 3);
                libc::_exit(if fine { 0 } else { 1 });
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            assert_eq!(status, 0);
        }
        assert_eq!((call(&kept), call(&dropped)), (1, 2));
    }
}
