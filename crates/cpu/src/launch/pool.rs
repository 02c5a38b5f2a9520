//! Runs chunks of one job on several threads. The caller takes part: helpers and caller claim chunks from one counter,
//! and the caller never waits for a helper that has claimed nothing, so a job is hardly ever slower than serial.
//!
//! Helpers run in a rayon pool of our own. It is made when the first job needs it and belongs to the process that made
//! it: a forked child has none of its threads, so it forgets the pool and makes another. A pool that cannot be made
//! leaves the work to the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::Thread;

/// A job of `total` chunks.
struct Job {
    next: AtomicUsize,
    finished: AtomicUsize,
    total: usize,
    /// Set before the caller sleeps.
    sleeping: AtomicBool,
    caller: Thread,
    /// The closure, by address. Valid until `finished == total`, that is as long as a chunk can be claimed or runs.
    run: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `run` is `Sync`, and is called only while the caller waits for claimed chunks to finish.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl Job {
    fn work(&self) {
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.total {
                return;
            }
            // A panic must not leave the caller waiting.
            let done = Done(self);
            // SAFETY: this chunk is claimed and not finished, so the caller still waits and the closure is alive.
            unsafe { (*self.run)(chunk) };
            drop(done);
        }
    }
}

struct Done<'a>(&'a Job);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if self.0.finished.fetch_add(1, Ordering::SeqCst) + 1 == self.0.total && self.0.sleeping.load(Ordering::SeqCst)
        {
            self.0.caller.unpark();
        }
    }
}

/// Runs `run(0)` to `run(total - 1)`, each once, on at most `threads` threads, and returns when all have finished.
pub(super) fn for_each_chunk(total: usize, threads: usize, run: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(total).saturating_sub(1);
    let pool = if helpers > 0 { pool() } else { None };
    let Some(pool) = pool else {
        (0..total).for_each(run);
        return;
    };
    // SAFETY: only the lifetime changes; the job is used up before this function returns.
    let run =
        unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync + 'static)>(run) };
    let job = Arc::new(Job {
        next: AtomicUsize::new(0),
        finished: AtomicUsize::new(0),
        total,
        sleeping: AtomicBool::new(false),
        caller: std::thread::current(),
        run,
    });
    for _ in 0..helpers.min(pool.current_num_threads()) {
        let job = Arc::clone(&job);
        pool.spawn(move || job.work());
    }
    /// Waits for the helpers, even if the caller's own chunk panics.
    struct Wait<'a>(&'a Job);
    impl Drop for Wait<'_> {
        fn drop(&mut self) {
            // Nothing more can be claimed after this.
            let claimed = self.0.next.swap(self.0.total, Ordering::Relaxed).min(self.0.total);
            let all = || self.0.finished.load(Ordering::Acquire) >= claimed;
            for _ in 0..2000 {
                if all() {
                    return;
                }
                std::hint::spin_loop();
            }
            self.0.sleeping.store(true, Ordering::SeqCst);
            while self.0.finished.load(Ordering::SeqCst) < claimed {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        }
    }
    let wait = Wait(&job);
    job.work();
    drop(wait);
}

struct Owned {
    process: u32,
    pool: rayon::ThreadPool,
}

static POOL: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());

/// The pool of this process.
fn pool() -> Option<&'static rayon::ThreadPool> {
    let process = std::process::id();
    let known = POOL.load(Ordering::Acquire);
    // SAFETY: a pointer in `POOL` came from `Box::into_raw` below and is never freed.
    if let Some(owned) = unsafe { known.as_ref() }
        && owned.process == process
    {
        return Some(&owned.pool);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores.clamp(4, 256) - 1)
        .thread_name(|i| format!("numfuse-{i}"))
        .build()
        .ok()?;
    let new = Box::into_raw(Box::new(Owned { process, pool }));
    match POOL.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // The parent's pool, if there was one, has no threads here and cannot be dropped.
            // SAFETY: as above.
            Some(unsafe { &(*new).pool })
        }
        Err(winner) => {
            // SAFETY: `new` was never shared; `winner` is in `POOL`, as above.
            unsafe {
                drop(Box::from_raw(new));
                Some(&(*winner).pool)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once() {
        for (total, threads) in [(0, 3), (1, 3), (2, 2), (7, 3), (1000, 3), (1000, 1), (5000, 64)] {
            let seen: Vec<AtomicU32> = (0..total).map(|_| AtomicU32::new(0)).collect();
            for_each_chunk(total, threads, &|chunk| {
                seen[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{total} {threads}");
        }
    }

    #[test]
    fn callers_do_not_wait_for_each_other() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        for_each_chunk(50, 3, &|chunk| {
                            sum.fetch_add(chunk, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 1225);
                    }
                });
            }
        });
    }

    #[test]
    #[cfg(unix)]
    fn a_forked_child_makes_its_own_pool() {
        for_each_chunk(100, 3, &|_| {});
        // SAFETY: the child only runs chunks and `_exit`; it never returns into the test harness.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                let sum = AtomicUsize::new(0);
                for_each_chunk(100, 3, &|chunk| {
                    sum.fetch_add(chunk, Ordering::Relaxed);
                });
                libc::_exit(if sum.into_inner() == 4950 { 0 } else { 1 });
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            assert_eq!(status, 0);
        }
    }
}
