//! Whether a kernel stores past the caches. Such stores spare reading what is written over, a third of what an addition moves,
//! but evict the result. For results larger than a core's own cache that costs who reads them next nothing that was measured;
//! which is quicker differs between hosts, and between memory that is there and memory whose pages the system has yet to clear,
//! so the first runs of a kernel try both. `docs/decisions/streaming-stores.md` has the numbers.
//!
//! Invariants: results do not depend on it. Runs that write less than [`from`] bytes do not measure anything.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// So many runs are timed, of which the quickest of each way counts: one each way, and then most of them the way that is ahead.
const LEARNING: u32 = 16;
/// Of those every fourth goes the other way.
const OTHER: u32 = 4;

/// What is known of a kernel.
#[derive(Debug, Default)]
pub(super) struct Streaming {
    /// Of runs that write to memory that is there, and of those whose pages the system has to find.
    learnt: [Learnt; 2],
    /// Every run stores past the caches, for tests.
    pub always: bool,
}

/// What is known of some runs. Threads that run a kernel at once may lose what others have learnt: then it is learnt later.
#[derive(Debug, Default)]
struct Learnt {
    /// Of what runs the rest says something: how much they write, as a power of two, and whether they share the work.
    class: AtomicU32,
    runs: AtomicU32,
    /// The least nanoseconds for a MiB through the caches, and past them; 0 if there is none yet.
    best: [AtomicU64; 2],
}

/// A run, and what it will teach.
pub(super) struct Trial<'a> {
    of: &'a Learnt,
    class: u32,
    bytes: usize,
    /// None if nothing is to be learnt any more.
    start: Option<Instant>,
    pub streams: bool,
}

/// For each class whether the last kernel that tried was quicker past the caches: where others begin.
static VERDICTS: [AtomicU32; 4 * usize::BITS as usize] = [const { AtomicU32::new(0) }; 4 * usize::BITS as usize];

impl Streaming {
    /// A run that writes so many bytes from an address on, on one thread or on several. None for what should stay in the caches.
    pub fn begin(&self, bytes: usize, address: usize, is_shared: bool) -> Option<Trial<'_>> {
        if self.always {
            return Some(Trial { of: &self.learnt[0], class: 0, bytes, start: None, streams: true });
        }
        if bytes < from() {
            return None;
        }
        let is_new = !is_there(address.wrapping_add(bytes / 2));
        let class = 4 * bytes.ilog2() + 2 * u32::from(is_new) + u32::from(is_shared);
        Some(self.learnt[usize::from(is_new)].begin(bytes, class))
    }
}

impl Learnt {
    fn begin(&self, bytes: usize, class: u32) -> Trial<'_> {
        if self.class.swap(class, Ordering::Relaxed) != class {
            self.runs.store(0, Ordering::Relaxed);
            self.best.iter().for_each(|best| best.store(0, Ordering::Relaxed));
        }
        let runs = self.runs.load(Ordering::Relaxed);
        let [through, past] = [0, 1].map(|way| self.best[way as usize].load(Ordering::Relaxed));
        if runs < LEARNING {
            self.runs.store(runs + 1, Ordering::Relaxed);
            let first = VERDICTS[class as usize].load(Ordering::Relaxed) == 1;
            let streams = if runs < 2 { first != (runs == 1) } else { (past < through) != runs.is_multiple_of(OTHER) };
            return Trial { of: self, class, bytes, start: Some(Instant::now()), streams };
        }
        Trial { of: self, class, bytes, start: None, streams: past < through }
    }
}

impl Trial<'_> {
    /// The run has ended well.
    pub fn end(self) {
        let Some(start) = self.start else { return };
        let time = start.elapsed().as_nanos() as f64 * f64::from(1 << 20) / self.bytes as f64;
        let best = &self.of.best[usize::from(self.streams)];
        let before = best.load(Ordering::Relaxed);
        let time = (time as u64).max(1);
        if before == 0 || time < before {
            best.store(time, Ordering::Relaxed);
        }
        let [through, past] = [0, 1].map(|way| self.of.best[way as usize].load(Ordering::Relaxed));
        if through > 0 && past > 0 {
            VERDICTS[self.class as usize].store(u32::from(past < through), Ordering::Relaxed);
        }
    }
}

/// What writes fewer bytes than this stores through the caches: what the second-level cache of a core has.
fn from() -> usize {
    static FROM: OnceLock<usize> = OnceLock::new();
    *FROM.get_or_init(|| second_level_cache().unwrap_or(1 << 20).max(256 << 10))
}

/// False if the system has no page for an address yet, as in a new large array.
fn is_there(address: usize) -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: asks about a page, which need not be mapped, and writes one byte of ours.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let mut resident = 1;
        let known = libc::mincore((address & !(page - 1)) as *mut _, page, &mut resident) == 0;
        !known || resident & 1 != 0
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    true
}

/// The bytes of a core's second-level cache, if the system tells.
fn second_level_cache() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: asks for a number, and touches no memory of ours.
    return usize::try_from(unsafe { libc::sysconf(libc::_SC_LEVEL2_CACHE_SIZE) }).ok().filter(|bytes| *bytes > 0);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_results_stay_in_the_caches() {
        assert!(Streaming::default().begin(from() - 1, 0, false).is_none());
        assert!(Streaming::default().begin(from(), 0, false).is_some());
    }

    #[test]
    fn the_quicker_way_is_taken() {
        let bytes = from() << 4;
        for quicker in [false, true] {
            let streaming = Streaming::default();
            for _ in 0..LEARNING {
                let mut trial = streaming.begin(bytes, 0, false).unwrap();
                let ago = if trial.streams == quicker { 1 } else { 2 };
                trial.start = Some(Instant::now() - std::time::Duration::from_secs(ago));
                trial.end();
            }
            let settled = streaming.begin(bytes, 0, false).unwrap();
            assert_eq!((settled.streams, settled.start), (quicker, None));
            // Others begin with it, and another size begins anew.
            assert_eq!(Streaming::default().begin(bytes, 0, false).unwrap().streams, quicker);
            assert!(streaming.begin(bytes << 1, 0, false).unwrap().start.is_some());
        }
    }

    /// Memory of this size comes from the system, page by page when it is written.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn new_memory_is_learnt_of_by_itself() {
        let mut memory = Vec::<u8>::with_capacity(1 << 26);
        let (address, bytes) = (memory.as_ptr() as usize, memory.capacity());
        let streaming = Streaming::default();
        assert!(!is_there(address + bytes / 2));
        let class = streaming.begin(bytes, address, false).unwrap().class;
        memory.resize(bytes, 1);
        assert!(is_there(address + bytes / 2));
        let trial = streaming.begin(bytes, address, false).unwrap();
        assert_ne!(trial.class, class);
        assert!(std::ptr::eq(trial.of, &streaming.learnt[0]));
        assert_eq!(streaming.learnt.each_ref().map(|learnt| learnt.runs.load(Ordering::Relaxed)), [1, 1]);
    }
}
