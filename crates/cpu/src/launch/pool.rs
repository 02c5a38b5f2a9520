//! Runs chunks of one job on several threads. The caller takes part: helpers and caller claim chunks from one counter,
//! and the caller never waits for a helper that has claimed nothing, so a job is hardly ever slower than serial.
//!
//! Helpers run in a rayon pool of our own. It is made when the first job needs it and belongs to the process that made
//! it: a forked child has none of its threads, so it forgets the pool and makes another. A pool that cannot be made
//! leaves the work to the caller.
//!
//! To wake a thread takes longer than a small job does, so a helper that has nothing left to do lingers: for some
//! microseconds it looks at a board where the next job is posted, before it goes back to the pool and sleeps. A post is an
//! offer and no more: whether none, one or several helpers see it, the job is done, by the caller if need be.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper lingers after its last chunk.
const LINGER: Duration = Duration::from_micros(50);

/// A job of `total` chunks.
struct Job {
    next: AtomicUsize,
    finished: AtomicUsize,
    total: usize,
    /// How many more helpers may take part.
    places: AtomicUsize,
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
    /// Takes part as a helper, if one more may. Returns whether there was anything to do.
    fn help(&self) -> bool {
        let one_less = |places: usize| places.checked_sub(1);
        self.next.load(Ordering::Relaxed) < self.total
            && self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
            && {
                self.work();
                true
            }
    }

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
    let helpers = helpers.min(pool.threads.current_num_threads());
    // SAFETY: only the lifetime changes; the job is used up before this function returns.
    let run =
        unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync + 'static)>(run) };
    let job = Arc::new(Job {
        next: AtomicUsize::new(0),
        finished: AtomicUsize::new(0),
        total,
        places: AtomicUsize::new(helpers),
        sleeping: AtomicBool::new(false),
        caller: std::thread::current(),
        run,
    });
    let lingering = pool.board.post(&job);
    for _ in lingering..helpers {
        let job = Arc::clone(&job);
        pool.threads.spawn(move || {
            job.help();
            drop(job);
            pool.board.linger();
        });
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
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
    let wait = Wait(&job);
    job.work();
    drop(wait);
}

/// Where the job is posted that was begun last, for helpers that linger.
#[derive(Default)]
struct Board {
    /// How many helpers look at it.
    lingering: AtomicUsize,
    /// Changes with each post.
    posts: AtomicU64,
    /// Nobody waits for this lock, so that nothing depends on who holds it.
    job: Mutex<Option<Arc<Job>>>,
}

impl Board {
    /// Posts a job, if there is anyone to see it; returns for how many helpers.
    fn post(&self, job: &Arc<Job>) -> usize {
        let lingering = self.lingering.load(Ordering::Relaxed);
        if lingering == 0 {
            return 0;
        }
        let Ok(mut posted) = self.job.try_lock() else { return 0 };
        let old = posted.replace(Arc::clone(job));
        drop(posted);
        self.posts.fetch_add(1, Ordering::Release);
        drop(old);
        lingering
    }

    /// Helps with what is posted, until nothing has been for a while.
    fn linger(&self) {
        let mut seen = self.posts.load(Ordering::Acquire);
        self.lingering.fetch_add(1, Ordering::Relaxed);
        let mut end = Instant::now() + LINGER;
        'look: while Instant::now() < end {
            for _ in 0..32 {
                std::hint::spin_loop();
                let posts = self.posts.load(Ordering::Acquire);
                if posts == seen {
                    continue;
                }
                seen = posts;
                let job = self.job.try_lock().ok().and_then(|job| job.clone());
                if let Some(job) = job {
                    self.lingering.fetch_sub(1, Ordering::Relaxed);
                    let helped = job.help();
                    drop(job);
                    self.lingering.fetch_add(1, Ordering::Relaxed);
                    if helped {
                        end = Instant::now() + LINGER;
                    }
                    continue 'look;
                }
            }
        }
        // Whoever leaves last takes the post with him: it is over, or its caller does without.
        if self.lingering.fetch_sub(1, Ordering::Relaxed) == 1 {
            let over = self.job.try_lock().ok().and_then(|mut job| job.take());
            drop(over);
        }
    }
}

struct Pool {
    threads: rayon::ThreadPool,
    board: Board,
}

struct Owned {
    process: u32,
    pool: Pool,
}

static POOL: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());

/// The pool of this process.
fn pool() -> Option<&'static Pool> {
    let process = std::process::id();
    let known = POOL.load(Ordering::Acquire);
    // SAFETY: a pointer in `POOL` came from `Box::into_raw` below and is never freed.
    if let Some(owned) = unsafe { known.as_ref() }
        && owned.process == process
    {
        return Some(&owned.pool);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(cores.clamp(4, 256) - 1)
        .thread_name(|i| format!("numfuse-{i}"))
        .build()
        .ok()?;
    let pool = Pool { threads, board: Board::default() };
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
    fn jobs_that_follow_each_other_are_each_done_once() {
        // With pauses shorter and longer than helpers linger.
        for round in 0..300u64 {
            let seen: Vec<AtomicU32> = (0..20).map(|_| AtomicU32::new(0)).collect();
            for_each_chunk(seen.len(), 3, &|chunk| {
                seen[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "round {round}");
            if round % 10 == 0 {
                std::thread::sleep(Duration::from_micros(5 * round));
            }
        }
    }

    #[test]
    fn no_more_threads_take_part_than_asked_for() {
        for_each_chunk(100, 8, &|_| {});
        for threads in [1, 2, 3] {
            let took_part = Mutex::new(Vec::new());
            for_each_chunk(200, threads, &|_| {
                let mut took_part = took_part.lock().unwrap();
                let current = std::thread::current().id();
                if !took_part.contains(&current) {
                    took_part.push(current);
                }
            });
            assert!(took_part.into_inner().unwrap().len() <= threads);
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
