//! Noticing that this process is a forked child: of its parent's threads it has only one, so whatever the others held or
//! were about to do stays as it was. What cannot be used after that is made anew for each number that [`forks`] returns.

use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// A number that a forked child does not share with its parent. The first call has to come before the fork.
#[inline]
pub fn forks() -> u64 {
    #[cfg(unix)]
    {
        static HANDLER: std::sync::OnceLock<()> = std::sync::OnceLock::new();
        HANDLER.get_or_init(|| {
            // SAFETY: the handler is a function without arguments that lives as long as the program, and only adds to
            // an atomic. Should the registration fail, children are not told from their parents.
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
            }
        });
    }
    FORKS.load(Ordering::Relaxed)
}

#[cfg(unix)]
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}
