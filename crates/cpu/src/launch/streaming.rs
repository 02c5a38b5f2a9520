//! Whether a kernel stores past the caches. Such stores spare reading what is written over, a third of what an addition moves,
//! but evict the result. For results larger than a core's own cache that costs who reads them next nothing that was measured;
//! which is quicker differs between hosts, and between memory that is there and memory whose pages the system has yet to clear,
//! so the first runs of a kernel try both. `docs/decisions/streaming-stores.md` has the numbers.
//!
//! Invariants: results do not depend on it. Runs that write less than [`from`] bytes do not measure anything.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// Runs go one way, one after the other, until they took so many nanoseconds together: what stores past the caches leaves them
/// without the result, and some caches take dozens of runs to find out that they had better keep it.
const LEARNING: u64 = 3_000_000;
/// Of so many runs in a row the median counts: a single one may find free what is not, or wait for another program. One that takes
/// as long as [`LEARNING`] is a series by itself: what it finds free is little of it, and two dozen would be half a second.
const SERIES: usize = 6;
/// They go on until a series was not quicker than the best one before it, by a fiftieth, but no further than so many runs.
const RUNS: u32 = 60;
/// Results of fewer bytes count as memory that is there: to ask would take a noticeable part of the time.
const ASKED_FROM: usize = 4 << 20;

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
    /// Runs through the caches, and past them.
    ways: [Way; 2],
}

#[derive(Debug, Default)]
struct Way {
    runs: AtomicU32,
    /// Nanoseconds of all runs.
    spent: AtomicU64,
    /// Nanoseconds for a MiB, of the last runs.
    series: [AtomicU64; SERIES],
    /// The median of the quickest series; 0 if there is none yet.
    best: AtomicU64,
    /// The last series was not quicker.
    is_settled: AtomicBool,
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
        let is_new = bytes >= ASKED_FROM && !is_there(address.wrapping_add(bytes / 2));
        let class = 4 * bytes.ilog2() + 2 * u32::from(is_new) + u32::from(is_shared);
        Some(self.learnt[usize::from(is_new)].begin(bytes, class))
    }
}

impl Learnt {
    fn begin(&self, bytes: usize, class: u32) -> Trial<'_> {
        if self.class.swap(class, Ordering::Relaxed) != class {
            self.ways.iter().for_each(Way::forget);
        }
        let first = VERDICTS[class as usize].load(Ordering::Relaxed) == 1;
        match [first, !first].into_iter().find(|streams| !self.ways[usize::from(*streams)].is_known()) {
            Some(streams) => Trial { of: self, class, bytes, start: Some(Instant::now()), streams },
            None => Trial { of: self, class, bytes, start: None, streams: self.is_quicker_past() },
        }
    }

    /// By a tenth at least: a result that is in the caches is worth something to whoever reads it.
    fn is_quicker_past(&self) -> bool {
        let [through, past] = self.ways.each_ref().map(|way| way.best.load(Ordering::Relaxed));
        past < through / 10 * 9
    }
}

impl Way {
    fn forget(&self) {
        self.runs.store(0, Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
        self.best.store(0, Ordering::Relaxed);
        self.is_settled.store(false, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.spent.load(Ordering::Relaxed) >= LEARNING
            && (self.is_settled.load(Ordering::Relaxed) || self.runs.load(Ordering::Relaxed) >= RUNS)
    }

    /// A run took so many nanoseconds, and so many for a MiB.
    fn learn(&self, time: u64, of_a_mib: u64) {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) as usize;
        self.spent.fetch_add(time, Ordering::Relaxed);
        self.series[run % SERIES].store(of_a_mib, Ordering::Relaxed);
        let median = if time >= LEARNING {
            of_a_mib
        } else if run % SERIES == SERIES - 1 {
            let mut series = self.series.each_ref().map(|time| time.load(Ordering::Relaxed));
            series.sort_unstable();
            series[SERIES / 2]
        } else {
            return;
        };
        let (median, best) = (median.max(1), self.best.load(Ordering::Relaxed));
        self.is_settled.store(best != 0 && median >= best / 50 * 49, Ordering::Relaxed);
        if best == 0 || median < best {
            self.best.store(median, Ordering::Relaxed);
        }
    }
}

impl Trial<'_> {
    /// The run has ended well.
    pub fn end(self) {
        let Some(start) = self.start else { return };
        let time = start.elapsed().as_nanos() as u64;
        let of_a_mib = (time as f64 * f64::from(1 << 20) / self.bytes as f64) as u64;
        self.of.ways[usize::from(self.streams)].learn(time, of_a_mib);
        if self.of.ways.iter().all(Way::is_known) {
            VERDICTS[self.class as usize].store(u32::from(self.of.is_quicker_past()), Ordering::Relaxed);
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
    use std::time::Duration;

    #[test]
    fn small_results_stay_in_the_caches() {
        assert!(Streaming::default().begin(from() - 1, 0, false).is_none());
        assert!(Streaming::default().begin(from(), 0, false).is_some());
    }

    /// Runs a kernel's trials, each as long as `nanoseconds` says of its way and of the one before; what comes out.
    fn learn(bytes: usize, nanoseconds: impl Fn(bool, bool) -> u64) -> (Streaming, bool) {
        let (streaming, mut last) = (Streaming::default(), true);
        loop {
            let mut trial = streaming.begin(bytes, 0, false).unwrap();
            if trial.start.is_none() {
                let streams = trial.streams;
                return (streaming, streams);
            }
            trial.start = Some(Instant::now() - Duration::from_nanos(nanoseconds(trial.streams, last)));
            last = trial.streams;
            trial.end();
        }
    }

    #[test]
    fn the_quicker_way_is_taken() {
        let bytes = from() << 4;
        for quicker in [false, true] {
            let (streaming, streams) = learn(bytes, |streams, _| if streams == quicker { 1 << 20 } else { 1 << 24 });
            assert_eq!(streams, quicker);
            // Others begin with it, and another size begins anew.
            assert_eq!(Streaming::default().begin(bytes, 0, false).unwrap().streams, quicker);
            assert!(streaming.begin(bytes << 1, 0, false).unwrap().start.is_some());
        }
    }

    /// Runs past the caches leave nothing there for the next one through them, which says nothing of the one after that.
    #[test]
    fn a_run_after_another_kind_is_not_what_counts() {
        let bytes = from() << 2;
        VERDICTS[4 * bytes.ilog2() as usize].store(1, Ordering::Relaxed);
        assert!(!learn(bytes, |streams, last| if streams || last { 1 << 24 } else { 1 << 20 }).1);
    }

    /// As when a run past the caches finds them full of what others have left there to be written.
    #[test]
    fn a_single_quick_run_is_no_proof() {
        let (bytes, runs) = (from() << 3, std::cell::Cell::new(0));
        VERDICTS[4 * bytes.ilog2() as usize].store(0, Ordering::Relaxed);
        let (_, streams) = learn(bytes, |streams, _| {
            runs.set(runs.get() + i32::from(streams));
            match (streams, runs.get()) {
                (false, _) => 1 << 23,
                (true, 1) => 1 << 20,
                (true, _) => 1 << 24,
            }
        });
        assert!(!streams && runs.get() > 1);
    }

    /// Half a second of runs would be more than most programs have.
    #[test]
    fn long_runs_teach_at_once() {
        for quicker in [false, true] {
            let runs = std::cell::Cell::new(0);
            let (_, streams) = learn(from() << 7, |streams, _| {
                runs.set(runs.get() + 1);
                if streams == quicker { 10_000_000 } else { 15_000_000 }
            });
            assert_eq!((streams, runs.get()), (quicker, 4));
        }
    }

    /// A cache that takes its time to keep the result is waited for.
    #[test]
    fn as_long_as_runs_get_quicker_they_go_on() {
        let (bytes, runs) = (from() << 6, std::cell::Cell::new(0));
        let (_, streams) = learn(bytes, |streams, _| {
            runs.set(runs.get() + i32::from(!streams));
            if streams { 1 << 24 } else { (f64::from(1 << 26) * 0.9f64.powi(runs.get().min(20))) as u64 }
        });
        assert!(!streams && runs.get() > 20);
    }

    /// Memory of this size comes from the system, page by page when it is written.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn new_memory_is_learnt_of_by_itself() {
        let mut memory = Vec::<u8>::with_capacity(1 << 26);
        let (address, bytes) = (memory.as_ptr() as usize, memory.capacity());
        let streaming = Streaming::default();
        assert!(!is_there(address + bytes / 2));
        let trial = streaming.begin(bytes, address, false).unwrap();
        let class = trial.class;
        trial.end();
        memory.resize(bytes, 1);
        assert!(is_there(address + bytes / 2));
        let trial = streaming.begin(bytes, address, false).unwrap();
        assert_ne!(trial.class, class);
        trial.end();
        let runs = streaming
            .learnt
            .each_ref()
            .map(|learnt| learnt.ways.iter().map(|way| way.runs.load(Ordering::Relaxed)).sum::<u32>());
        assert_eq!(runs, [1, 1]);
    }
}
