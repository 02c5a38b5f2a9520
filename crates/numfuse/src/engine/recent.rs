//! A short list of what was made last: read without a lock, so that threads neither wait for each other nor, in a forked
//! child, for one that is not there.

use arc_swap::{ArcSwap, Guard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The last few things of a kind, the newest first. They are never changed.
pub(crate) struct Recent<T>(ArcSwap<Vec<T>>);

impl<T: Clone> Recent<T> {
    /// Nothing yet.
    pub fn new() -> Recent<T> {
        Recent(ArcSwap::from_pointee(Vec::new()))
    }

    /// All of them, as they are now.
    #[inline]
    pub fn get(&self) -> Guard<Arc<Vec<T>>> {
        self.0.load()
    }

    /// Adds one; the oldest goes if there are more than `most`.
    pub fn add(&self, item: T, most: usize) {
        self.0.rcu(|items| {
            let kept = items.iter().take(most.saturating_sub(1));
            std::iter::once(&item).chain(kept).cloned().collect::<Vec<T>>()
        });
    }
}

/// The first thing of a kind that was made: kept, and read without any count of its users.
pub(crate) struct First<T> {
    /// Set before the item is, so that only one thread ever sets that, and no other one waits for it: in a forked child
    /// there is no such thread.
    is_claimed: AtomicBool,
    item: OnceLock<T>,
}

impl<T> First<T> {
    /// Nothing yet.
    pub fn new() -> First<T> {
        First { is_claimed: AtomicBool::new(false), item: OnceLock::new() }
    }

    /// The first thing, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.item.get()
    }

    /// Keeps a thing if there was none before.
    pub fn offer(&self, item: T) {
        if !self.is_claimed.swap(true, Ordering::Relaxed) {
            let _ = self.item.set(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_first_and_the_oldest_goes() {
        let recent = Recent::new();
        for n in 0..5 {
            recent.add(n, 3);
        }
        assert_eq!(**recent.get(), [4, 3, 2]);
    }

    #[test]
    fn the_first_stays() {
        let first = First::new();
        assert_eq!(first.get(), None);
        (0..3).for_each(|n| first.offer(n));
        assert_eq!(first.get(), Some(&0));
    }

    #[test]
    fn nothing_that_is_added_is_lost() {
        let recent = Recent::new();
        std::thread::scope(|scope| {
            for t in 0..4 {
                let recent = &recent;
                scope.spawn(move || (0..50).for_each(|n| recent.add(50 * t + n, 1000)));
            }
        });
        let mut all = recent.get().to_vec();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..200));
    }
}
