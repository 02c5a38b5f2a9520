//! Keeping every distinct thing of an arena once: which id the thing has that equals this one.
//!
//! An [`Index`] holds hashes and ids alone; the things stay in their arena, so that nothing is kept or copied twice.
//! Graphs, and kernels under construction, are interned with it.

use std::hash::{Hash, Hasher};

/// The ids of an arena by the hash of what they stand for: an open hash table, at most half full. Nothing is removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// A power of two, or none before the first id.
    slots: Vec<Slot>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The low half of the hash: tells most others apart, and is enough to move the slot when the table grows.
    hash: u32,
    id: u32,
}

/// In place of an id where there is none.
const EMPTY: u32 = u32::MAX;

impl Index {
    /// The id that has this hash and is `same`; else `new`, which has it from now on.
    pub fn id_of(&mut self, hash: u64, new: u32, same: impl Fn(u32) -> bool) -> u32 {
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let at = self.probe(hash as u32, same);
        let slot = &mut self.slots[at];
        if slot.id == EMPTY {
            *slot = Slot { hash: hash as u32, id: new };
            self.len += 1;
        }
        slot.id
    }

    /// The id that has this hash and is `same`, if there is one.
    pub fn get(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        Some(self.slots[self.probe(hash as u32, same)].id).filter(|id| *id != EMPTY)
    }

    /// The slot of the id that is `same`, or the empty one where it belongs.
    fn probe(&self, hash: u32, same: impl Fn(u32) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.id == EMPTY || (slot.hash == hash && same(slot.id)) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        // By more than twice: moving costs more than room.
        let size = (self.slots.len() * 4).max(256);
        let old = std::mem::replace(&mut self.slots, vec![Slot { hash: 0, id: EMPTY }; size]);
        for slot in old.into_iter().filter(|s| s.id != EMPTY) {
            // All ids are distinct.
            let at = self.probe(slot.hash, |_| false);
            self.slots[at] = slot;
        }
    }
}

/// The hash of a thing, well mixed in its low bits.
#[inline]
pub(crate) fn hash(thing: &impl Hash) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    thing.hash(&mut hasher);
    // Ids are dense and come in runs, which Fx keeps in runs: a product's high half scatters them.
    let mixed = u128::from(hasher.finish()) * 0x9e37_79b9_7f4a_7c15;
    mixed as u64 ^ (mixed >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_have_one_id() {
        // Few hashes, so that most of them collide.
        let (mut index, mut arena) = (Index::default(), Vec::new());
        for round in 0..2 {
            for thing in 0..1000u32 {
                let id = index.id_of(u64::from(thing % 7), arena.len() as u32, |id| arena[id as usize] == thing);
                if id as usize == arena.len() {
                    assert_eq!(round, 0);
                    arena.push(thing);
                }
                assert_eq!(arena[id as usize], thing);
            }
        }
        assert_eq!(arena.len(), 1000);
    }
}
