//! Noticing that this process is a forked child: the driver's state is its parent's, and every call would hang or fail.

use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// A number that a forked child does not share with its parent, once [`count`] was called.
#[inline]
pub(super) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Has forks counted from now on.
pub(super) fn count() {
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
}

#[cfg(unix)]
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}
