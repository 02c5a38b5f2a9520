//! Things with locks of which every process has its own. In a forked child a lock may be held by a thread that only its
//! parent has, forever; so the child forgets the thing and makes another.

use arc_swap::{ArcSwap, Guard};
use std::ops::Deref;
use std::sync::Arc;

/// A value of this process.
pub(crate) struct PerProcess<T> {
    value: ArcSwap<Made<T>>,
    make: Box<dyn Fn() -> T + Send + Sync>,
}

/// A value and the process that it was made in.
struct Made<T> {
    process: u64,
    value: T,
}

/// A borrowed value.
pub(crate) struct Borrowed<T>(Guard<Arc<Made<T>>>);

impl<T> Deref for Borrowed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> PerProcess<T> {
    /// A value, and how another like it is made.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> PerProcess<T> {
        let value = Made { process: numfuse_cpu::forks(), value: make() };
        PerProcess { value: ArcSwap::from_pointee(value), make: Box::new(make) }
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> Borrowed<T> {
        let made = self.value.load();
        if made.process == numfuse_cpu::forks() { Borrowed(made) } else { self.remake() }
    }

    #[cold]
    fn remake(&self) -> Borrowed<T> {
        let process = numfuse_cpu::forks();
        let new = Arc::new(Made { process, value: (self.make)() });
        let old = self.value.rcu(|made| if made.process == process { made.clone() } else { new.clone() });
        if old.process != process {
            // A thread that is not there may have been changing it: it is neither used nor taken apart.
            std::mem::forget(old);
        }
        Borrowed(self.value.load())
    }
}
