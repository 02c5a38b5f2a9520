//! Runs chunks of one job on several threads, and keeps the threads.
//!
//! Chunks are dealt out in *shares*, contiguous ones, one for each thread that may take part. Whoever takes part begins
//! with the same share each time, so that a job that is repeated finds in each core's cache what it left there, and goes
//! on with what is left of the others' shares. The caller takes part, and never waits for a helper that has not begun, so
//! a job is hardly ever slower than serial.
//!
//! To wake a thread takes longer than a small job does. So a helper lingers: after its last job it looks for another one
//! for some microseconds before it sleeps. Small jobs are offered to those that linger, large ones wake those that sleep;
//! and small ones that follow each other closely wake one for those to come ([`is_anyone_awake`]). Who is woken is kept off the
//! core of who wakes it until it runs: systems like to put it there, where it would wait for milliseconds.
//!
//! A pool belongs to the process that made it: a forked child has none of its threads, so it forgets the pool and makes
//! another. A thread that cannot be made leaves its share to the others.
//!
//! Invariants: a [`Job`] is on its caller's stack, and who has its address but the caller are helpers to which it was
//! offered: the caller leaves only when each offer was withdrawn, or served to its end. A process that asks for nothing
//! comes to rest within [`LINGER`].

use super::Team;
use super::fork::forks;
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper lingers: some times as long as it takes to wake it.
const LINGER: Duration = Duration::from_micros(50);

/// So many small jobs in a row, each begun so soon after the one before it, wake a helper for the next one. Small ones are
/// those that should take less than it takes to wake a thread; one that waits for memory takes some times as long, which must
/// not make it look like a job after a pause.
const CLOSE_JOBS: u64 = 3;
const CLOSE: Duration = LINGER.saturating_mul(3);

/// How often a caller looks whether helpers have finished before it sleeps.
const LOOKS: usize = 2000;

/// Consecutive chunks: those that one thread begins with. On a cache line of its own.
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
    end: usize,
}

/// What helpers need to take part.
struct Job<'a> {
    shares: &'a [Share],
    run: &'a (dyn Fn(usize) + Sync),
    /// How many offers are neither withdrawn nor served; with [`SLEEPING`] once the caller waits for the last of them.
    offers: AtomicUsize,
    caller: Thread,
    /// The core that the caller was on.
    core: Option<usize>,
    /// Set by a helper whose chunk panicked.
    panicked: AtomicBool,
}

const SLEEPING: usize = 1 << (usize::BITS - 1);

impl Job<'_> {
    /// Runs chunks as long as there are any, those of one share first; `between` is called before each.
    fn work(&self, first: usize, mut between: impl FnMut()) {
        let (before, from) = self.shares.split_at(first % self.shares.len());
        for share in from.iter().chain(before) {
            while share.next.load(Ordering::Relaxed) < share.end {
                let chunk = share.next.fetch_add(1, Ordering::Relaxed);
                if chunk < share.end {
                    between();
                    (self.run)(chunk);
                }
            }
        }
    }

    /// Leaves nothing to be begun.
    fn give_up(&self) {
        for share in self.shares {
            share.next.store(share.end, Ordering::Relaxed);
        }
    }

    /// An offer has been served. The job may be gone after this.
    fn served(&self) {
        let mut offers = self.offers.load(Ordering::Relaxed);
        loop {
            // Whoever waits has to be known before this says that he need not wait any more.
            let caller = (offers == SLEEPING + 1).then(|| self.caller.clone());
            match self.offers.compare_exchange(offers, offers - 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if let Some(caller) = caller {
                        caller.unpark();
                    }
                    return;
                }
                Err(changed) => offers = changed,
            }
        }
    }

    /// Waits until each offer that was not withdrawn has been served.
    fn wait(&self) {
        for _ in 0..LOOKS {
            if self.offers.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut offers = self.offers.fetch_or(SLEEPING, Ordering::AcqRel) | SLEEPING;
        while offers != SLEEPING {
            std::thread::park();
            offers = self.offers.load(Ordering::Acquire);
        }
    }
}

/// A thread that helps, or that will be made when it is needed first.
#[repr(align(128))]
struct Helper {
    /// What it does, [`ASLEEP`], [`AWAKE`] or [`BUSY`]; or the address of a job that it is offered.
    desk: AtomicPtr<()>,
    /// The core of whoever woke it last without offering it a job; [`NO_CORE`] if that is not known.
    woken_from: AtomicUsize,
    /// The system's number of the thread, zero until it runs.
    id: AtomicI32,
    /// The core that it is kept off until it has been woken. Locked while that changes where the thread may run, so that nobody
    /// takes a second core from it before it has the first one back.
    kept_off: Mutex<Option<usize>>,
    is_made: AtomicBool,
    thread: OnceLock<Thread>,
}

const NO_CORE: usize = usize::MAX;

/// On a helper's desk: it sleeps, or there is none yet.
const ASLEEP: *mut () = std::ptr::null_mut();
/// It lingers.
const AWAKE: *mut () = std::ptr::without_provenance_mut(1);
/// It works.
const BUSY: *mut () = std::ptr::without_provenance_mut(2);

impl Helper {
    const fn new() -> Helper {
        Helper {
            desk: AtomicPtr::new(ASLEEP),
            woken_from: AtomicUsize::new(NO_CORE),
            id: AtomicI32::new(0),
            kept_off: Mutex::new(None),
            is_made: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// The thread; none if it cannot be made, or someone is making it at the moment.
    fn thread(&'static self, index: usize, linger: Duration) -> Option<&'static Thread> {
        if self.thread.get().is_none() && !self.is_made.swap(true, Ordering::Relaxed) {
            let builder = std::thread::Builder::new().name(format!("numfuse-{index}"));
            match builder.spawn(move || self.serve(index + 1, linger)) {
                Ok(made) => drop(self.thread.set(made.thread().clone())),
                Err(_) => self.is_made.store(false, Ordering::Relaxed),
            }
        }
        self.thread.get()
    }

    /// Wakes the thread, on another core than this one if it may be elsewhere: here it would have to wait until this thread
    /// pauses, which is in milliseconds.
    fn wake(&self, thread: &Thread) {
        let id = self.id.load(Ordering::Acquire);
        if id != 0
            && let Some(core) = core()
            && let Ok(mut kept_off) = self.kept_off.try_lock()
            && kept_off.is_none()
            && let Some(others) = Cores::of(id).and_then(|all| all.without(core))
            && others.allow(id)
        {
            *kept_off = Some(core);
        }
        thread.unpark();
    }

    /// What the thread does: it begins with this share of each job.
    fn serve(&self, share: usize, linger: Duration) {
        let change = |from, to| self.desk.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.id.store(thread_id(), Ordering::Release);
        loop {
            if self.desk.load(Ordering::Acquire) == ASLEEP {
                std::thread::park();
                if let Ok(mut kept_off) = self.kept_off.lock()
                    && let Some(core) = kept_off.take()
                    && let Some(all) = Cores::of(0).and_then(|cores| cores.with(core))
                {
                    all.allow(0);
                }
                // Perhaps for nothing but to be there for the next job: then it would linger in the way of whoever woke it.
                if change(ASLEEP, AWAKE) {
                    leave(Some(self.woken_from.swap(NO_CORE, Ordering::Relaxed)));
                }
            }
            let mut end = Instant::now() + linger;
            loop {
                let offer = self.desk.load(Ordering::Acquire);
                if offer == AWAKE {
                    if Instant::now() >= end && change(AWAKE, ASLEEP) {
                        break;
                    }
                    for _ in 0..16 {
                        if self.desk.load(Ordering::Relaxed) != AWAKE {
                            break;
                        }
                        std::hint::spin_loop();
                    }
                    continue;
                }
                if offer == ASLEEP {
                    // A job was offered and withdrawn while it slept.
                    change(ASLEEP, AWAKE);
                    continue;
                }
                // What was on the desk now: an offer may have been withdrawn, and another made at the same address.
                let Ok(offer) = self.desk.compare_exchange(offer, BUSY, Ordering::AcqRel, Ordering::Acquire) else {
                    continue;
                };
                // SAFETY: the address is that of a job that was offered and not withdrawn, so it is there until
                // `served` has been called for it; lifetimes end there, too.
                let job = unsafe { &*offer.cast::<Job<'_>>() };
                leave(job.core);
                if catch_unwind(AssertUnwindSafe(|| job.work(share, || {}))).is_err() {
                    job.panicked.store(true, Ordering::Relaxed);
                    job.give_up();
                }
                // In this order: the caller's next job finds a helper that is there.
                self.desk.store(AWAKE, Ordering::Release);
                job.served();
                end = Instant::now() + linger;
            }
        }
    }
}

/// The core that this thread is on, if the system tells.
fn core() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: asks for a number, and touches no memory of ours.
    return usize::try_from(unsafe { libc::sched_getcpu() }).ok();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// The system's number of this thread; zero if it has none.
fn thread_id() -> i32 {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: asks for a number, and touches no memory of ours.
    return unsafe { libc::gettid() };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    0
}

/// The cores that a thread may run on.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
struct Cores(libc::cpu_set_t);
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
struct Cores;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
impl Cores {
    const SIZE: usize = size_of::<libc::cpu_set_t>();

    /// Those of a thread. Zero stands for this one.
    fn of(thread: i32) -> Option<Cores> {
        // SAFETY: a set of cores is plain data, of which all zeros is one; the call writes `SIZE` bytes of it.
        unsafe {
            let mut cores = Cores(std::mem::zeroed());
            (libc::sched_getaffinity(thread, Cores::SIZE, &mut cores.0) == 0).then_some(cores)
        }
    }

    /// These without one of them; none if it is not among them, or the only one.
    fn without(&self, core: usize) -> Option<Cores> {
        let mut others = Cores(self.0);
        // SAFETY: the set has room for that core, which is checked first.
        unsafe {
            if core >= 8 * Cores::SIZE || !libc::CPU_ISSET(core, &others.0) {
                return None;
            }
            libc::CPU_CLR(core, &mut others.0);
            (libc::CPU_COUNT(&others.0) > 0).then_some(others)
        }
    }

    /// These and one more, if there is such a core.
    fn with(&self, core: usize) -> Option<Cores> {
        let mut all = Cores(self.0);
        // SAFETY: the set has room for that core, as checked.
        (core < 8 * Cores::SIZE).then(|| unsafe { libc::CPU_SET(core, &mut all.0) })?;
        Some(all)
    }

    /// Allows a thread to run on these, and on no others.
    fn allow(&self, thread: i32) -> bool {
        // SAFETY: the call reads `SIZE` bytes of the set.
        unsafe { libc::sched_setaffinity(thread, Cores::SIZE, &self.0) == 0 }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
impl Cores {
    fn of(_thread: i32) -> Option<Cores> {
        None
    }

    fn without(&self, _core: usize) -> Option<Cores> {
        None
    }

    fn with(&self, _core: usize) -> Option<Cores> {
        None
    }

    fn allow(&self, _thread: i32) -> bool {
        false
    }
}

/// Has this thread go on on another core than this one, if it is there and may be elsewhere. Systems like to wake a helper on
/// the core of whoever wakes it, and leave it there for milliseconds; the two would work one after the other.
fn leave(taken: Option<usize>) {
    if let Some(taken) = taken.filter(|taken| core() == Some(*taken))
        && let Some(all) = Cores::of(0)
        && let Some(others) = all.without(taken)
        && others.allow(0)
    {
        all.allow(0);
    }
}

/// A job with the helpers to which it is offered. Dropped, it withdraws the offers and waits for whoever has begun.
struct Offered<'a> {
    job: &'a Job<'a>,
    /// The helpers, and what they did before.
    to: SmallVec<[(&'static Helper, *mut ()); 8]>,
    /// How many more may be woken.
    wakes: usize,
}

impl Offered<'_> {
    /// Offers the job to helpers, as long as so many are wanted: to those that are awake, and then to some that sleep.
    fn offer(&mut self, pool: &'static Pool, wanted: usize) {
        let address = std::ptr::from_ref(self.job).cast_mut().cast::<()>();
        for state in [AWAKE, ASLEEP] {
            for (index, helper) in pool.helpers.iter().enumerate() {
                if self.to.len() >= wanted || (state == ASLEEP && self.wakes == 0) {
                    return;
                }
                if helper.desk.load(Ordering::Relaxed) != state {
                    continue;
                }
                let Some(thread) = helper.thread(index, pool.linger(index)) else { continue };
                self.job.offers.fetch_add(1, Ordering::Relaxed);
                if helper.desk.compare_exchange(state, address, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    self.job.offers.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                if state == ASLEEP {
                    helper.wake(thread);
                    self.wakes -= 1;
                }
                self.to.push((helper, state));
            }
        }
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        // If the caller's own chunk panics, others are not begun.
        self.job.give_up();
        let address = std::ptr::from_ref(self.job).cast_mut().cast::<()>();
        for (helper, before) in &self.to {
            if helper.desk.compare_exchange(address, *before, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.job.offers.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.job.wait();
    }
}

/// Runs `run(0)` to `run(total - 1)`, each once, on at most so many threads, and returns when all have finished.
pub(super) fn for_each_chunk(total: usize, team: Team, run: &(dyn Fn(usize) + Sync)) {
    let helpers = team.threads.min(total).saturating_sub(1);
    let pool = if helpers > 0 { pool() } else { None };
    let Some(pool) = pool else {
        (0..total).for_each(run);
        return;
    };
    let helpers = helpers.min(pool.helpers.len());
    let count = helpers + 1;
    let begin = |share: usize| (total / count) * share + (total % count).min(share);
    let shares: SmallVec<[Share; 4]> =
        (0..count).map(|i| Share { next: AtomicUsize::new(begin(i)), end: begin(i + 1) }).collect();
    let job = Job {
        shares: &shares,
        run,
        offers: AtomicUsize::new(0),
        caller: std::thread::current(),
        core: core(),
        panicked: AtomicBool::new(false),
    };
    let mut offered = Offered { job: &job, to: SmallVec::new(), wakes: team.wakes };
    offered.offer(pool, helpers);
    // Helpers that were busy may be free by now.
    job.work(0, || {
        if offered.wakes > 0 && offered.to.len() < helpers {
            offered.offer(pool, helpers);
        }
    });
    drop(offered);
    assert!(!job.panicked.load(Ordering::Relaxed), "a chunk panicked on another thread");
}

/// True if a helper lingers, so that even a small job is worth sharing. If it is not, but such jobs follow each other
/// closely, one is woken for the next.
pub(super) fn is_anyone_awake() -> bool {
    let Some(pool) = pool() else { return false };
    let Some(first) = pool.helpers.first() else { return false };
    // The first helper is the one that is asked first.
    if first.desk.load(Ordering::Relaxed) == AWAKE {
        return true;
    }
    if pool.linger(0).is_zero() {
        // It would be asleep again before the next job.
        return false;
    }
    let now = pool.since.elapsed().as_nanos() as u64;
    let before = pool.last.swap(now, Ordering::Relaxed);
    if now.saturating_sub(before) > CLOSE.as_nanos() as u64 {
        pool.close_jobs.store(0, Ordering::Relaxed);
        return false;
    }
    if pool.close_jobs.fetch_add(1, Ordering::Relaxed) >= CLOSE_JOBS
        && first.desk.load(Ordering::Relaxed) == ASLEEP
        && let Some(thread) = first.thread(0, pool.linger(0))
    {
        pool.close_jobs.store(0, Ordering::Relaxed);
        first.woken_from.store(core().unwrap_or(NO_CORE), Ordering::Relaxed);
        first.wake(thread);
    }
    false
}

/// The helpers of a process. It is never freed.
struct Pool {
    process: u64,
    helpers: Box<[Helper]>,
    cores: usize,
    /// When it was made.
    since: Instant,
    /// When the last job came that was too small to wake anyone, in nanoseconds since then; and how many such jobs have
    /// followed each other closely.
    last: AtomicU64,
    close_jobs: AtomicU64,
}

impl Pool {
    fn new(process: u64) -> Pool {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Even on one core there are some, for who asks for them.
        let helpers = (0..cores.clamp(4, 256) - 1).map(|_| Helper::new()).collect();
        let (since, last, close_jobs) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
        Pool { process, helpers, cores, since, last, close_jobs }
    }

    /// How long this helper lingers: not at all if that would take a core away from who works.
    fn linger(&self, index: usize) -> Duration {
        if index + 1 < self.cores { LINGER } else { Duration::ZERO }
    }
}

static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

/// The pool of this process.
fn pool() -> Option<&'static Pool> {
    let process = forks();
    let known = POOL.load(Ordering::Acquire);
    // SAFETY: a pointer in `POOL` came from `Box::into_raw` below and is never freed.
    match unsafe { known.as_ref() } {
        Some(pool) if pool.process == process => Some(pool),
        _ => new_pool(process, known),
    }
}

#[cold]
fn new_pool(process: u64, known: *mut Pool) -> Option<&'static Pool> {
    let new = Box::into_raw(Box::new(Pool::new(process)));
    let winner = match POOL.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
        // The parent's pool, if there was one, has no threads here and cannot be dropped.
        Ok(_) => new,
        Err(winner) => {
            // SAFETY: `new` was never shared.
            drop(unsafe { Box::from_raw(new) });
            winner
        }
    };
    // SAFETY: as in `pool`.
    unsafe { winner.as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn team(threads: usize) -> Team {
        Team { threads, wakes: threads }
    }

    #[test]
    fn every_chunk_runs_once() {
        for (total, threads) in [(0, 3), (1, 3), (2, 2), (7, 3), (1000, 3), (1000, 1), (5000, 64)] {
            let seen: Vec<AtomicU32> = (0..total).map(|_| AtomicU32::new(0)).collect();
            for_each_chunk(total, team(threads), &|chunk| {
                seen[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{total} {threads}");
        }
    }

    #[test]
    fn jobs_that_follow_each_other_are_each_done_once() {
        // With pauses shorter and longer than helpers linger.
        for round in 0..300 {
            let seen: Vec<AtomicU32> = (0..20).map(|_| AtomicU32::new(0)).collect();
            for_each_chunk(seen.len(), Team { threads: 3, wakes: round % 2 }, &|chunk| {
                seen[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "round {round}");
            if round % 10 == 0 {
                std::thread::sleep(Duration::from_micros(5 * round as u64));
            }
        }
    }

    #[test]
    fn no_more_threads_take_part_than_asked_for() {
        for_each_chunk(100, team(8), &|_| {});
        for threads in [1, 2, 3] {
            let took_part = Mutex::new(Vec::new());
            for_each_chunk(200, team(threads), &|_| {
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
                        for_each_chunk(50, team(3), &|chunk| {
                            sum.fetch_add(chunk, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 1225);
                    }
                });
            }
        });
    }

    /// Callers on several cores keep helpers off theirs only until these have been woken.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn helpers_may_run_wherever_they_might_before() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        for_each_chunk(8, team(3), &|_| {});
                        std::thread::sleep(2 * LINGER);
                    }
                });
            }
        });
        let here = Cores::of(0).unwrap();
        let may_run_here = |helper: &Helper| {
            let id = helper.id.load(Ordering::Acquire);
            // SAFETY: the calls read both sets.
            id == 0 || Cores::of(id).is_some_and(|cores| unsafe { libc::CPU_EQUAL(&cores.0, &here.0) })
        };
        // Others use the pool at the same time.
        let end = Instant::now() + Duration::from_secs(20);
        while !pool().unwrap().helpers.iter().all(may_run_here) {
            assert!(Instant::now() < end, "a helper has lost a core");
            std::thread::sleep(LINGER);
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_forked_child_makes_its_own_pool() {
        for_each_chunk(100, team(3), &|_| {});
        // SAFETY: the child only runs chunks and `_exit`; it never returns into the test harness.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                let sum = AtomicUsize::new(0);
                for_each_chunk(100, team(3), &|chunk| {
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
