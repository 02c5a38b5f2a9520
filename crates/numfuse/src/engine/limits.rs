//! What an evaluation may take, and how it is stopped.
//!
//! Sizes are checked before memory is asked for. Time and cancellation are polled by the kernels every few milliseconds:
//! kernels look at one flag, which is the caller's [`CancelToken`], or, if there is a deadline, a flag of the call that
//! a watching thread sets in time.

use numfuse_lang::SourceLimits;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What one evaluation may take at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of source text.
    pub source_bytes: usize,
    /// Brackets in brackets, and whatever else nests.
    pub source_depth: usize,
    /// Operations of an expression.
    pub nodes: usize,
    /// Inputs of an expression.
    pub inputs: usize,
    /// Bytes of all results together.
    pub output_bytes: usize,
    /// Bytes of temporaries.
    pub temp_bytes: usize,
    /// How long an evaluation may run; no limit if none.
    pub time: Option<Duration>,
}

impl Default for Limits {
    /// For trusted callers: memory and time are the system's to bound.
    fn default() -> Limits {
        let SourceLimits { bytes, depth, nodes, .. } = SourceLimits::default();
        Limits {
            source_bytes: bytes,
            source_depth: depth,
            nodes,
            inputs: 4096,
            output_bytes: isize::MAX as usize,
            temp_bytes: isize::MAX as usize,
            time: None,
        }
    }
}

impl Limits {
    /// For expressions of strangers: 64 KiB of text, 10,000 operations, 64 inputs, 256 MiB of results and of temporaries,
    /// 10 seconds.
    pub fn untrusted() -> Limits {
        let SourceLimits { bytes, depth, nodes, .. } = SourceLimits::untrusted();
        Limits {
            source_bytes: bytes,
            source_depth: depth,
            nodes,
            inputs: 64,
            output_bytes: 256 << 20,
            temp_bytes: 256 << 20,
            time: Some(Duration::from_secs(10)),
        }
    }

    pub(crate) fn source(&self) -> SourceLimits {
        SourceLimits {
            bytes: self.source_bytes,
            depth: self.source_depth,
            nodes: self.nodes,
            ..SourceLimits::default()
        }
    }
}

/// Stops evaluations from another thread: those that were given a clone of this token end with an error soon after
/// [`CancelToken::cancel`], and nothing of their results is handed out.
#[derive(Clone, Default, Debug)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Stops all evaluations with this token, running and to come.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True after [`CancelToken::cancel`].
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// The flag that a call's kernels look at.
pub(crate) enum Flag<'a> {
    /// Nobody sets it.
    Never,
    /// The caller's token.
    Token(&'a CancelToken),
    /// The watching thread's, with the deadline.
    Watched(Arc<AtomicBool>, Instant),
}

impl<'a> Flag<'a> {
    #[inline]
    pub fn new(token: Option<&'a CancelToken>, time: Option<Duration>) -> Flag<'a> {
        match (token, time.and_then(|time| Instant::now().checked_add(time))) {
            (None, None) => Flag::Never,
            (Some(token), None) => Flag::Token(token),
            (token, Some(deadline)) => {
                let flag = Arc::new(AtomicBool::new(token.is_some_and(CancelToken::is_cancelled)));
                watch(Watch { flag: flag.clone(), deadline, token: token.cloned() });
                Flag::Watched(flag, deadline)
            }
        }
    }

    #[inline]
    pub fn get(&self) -> &AtomicBool {
        match self {
            Flag::Never => &NEVER,
            Flag::Token(token) => &token.0,
            Flag::Watched(flag, _) => flag,
        }
    }

    /// True if the call is to end; between kernels the clock is read as well.
    #[inline]
    pub fn is_set(&self) -> bool {
        let late = matches!(self, Flag::Watched(_, deadline) if Instant::now() >= *deadline);
        late || self.get().load(Ordering::Relaxed)
    }

    /// True if the call is to end because of its deadline.
    pub fn is_late(&self) -> bool {
        matches!(self, Flag::Watched(_, deadline) if Instant::now() >= *deadline)
    }
}

/// A running call with a deadline. It is over when its flag has no other owner.
struct Watch {
    flag: Arc<AtomicBool>,
    deadline: Instant,
    token: Option<CancelToken>,
}

/// The running calls with deadlines, and the process whose thread watches them: a forked child needs its own.
static WATCHED: Mutex<(Vec<Watch>, u32)> = Mutex::new((Vec::new(), 0));
const TICK: Duration = Duration::from_millis(2);

/// Has the flag set when the deadline is over or the token is cancelled. If no thread can be had, the time is looked at
/// between kernels only.
fn watch(watch: Watch) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.0.push(watch);
    let process = std::process::id();
    if watched.1 != process && std::thread::Builder::new().name("numfuse-deadlines".into()).spawn(tick).is_ok() {
        watched.1 = process;
    }
}

/// Looks at all calls every few milliseconds, as long as there are any.
fn tick() {
    loop {
        std::thread::sleep(TICK);
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        watched.0.retain(|w| {
            if now >= w.deadline || w.token.as_ref().is_some_and(CancelToken::is_cancelled) {
                w.flag.store(true, Ordering::Relaxed);
                return false;
            }
            Arc::strong_count(&w.flag) > 1
        });
        if watched.0.is_empty() {
            watched.1 = 0;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_set_at_the_deadline() {
        let flag = Flag::new(None, Some(Duration::from_millis(20)));
        assert!(!flag.is_set());
        let end = Instant::now() + Duration::from_secs(10);
        while !flag.get().load(Ordering::Relaxed) {
            assert!(Instant::now() < end, "the watching thread never set the flag");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(flag.is_late());
    }

    #[test]
    fn a_token_reaches_a_watched_call() {
        let token = CancelToken::new();
        let flag = Flag::new(Some(&token), Some(Duration::from_secs(1000)));
        token.cancel();
        let end = Instant::now() + Duration::from_secs(10);
        while !flag.is_set() {
            assert!(Instant::now() < end, "the watching thread never looked at the token");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!flag.is_late());
    }
}
