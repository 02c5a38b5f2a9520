//! How a domain is cut into tiles, and which boxes of an array a tile is. Pure arithmetic.
//!
//! A domain has groups of dimensions, each of which counts as one. At most one of them is folded: it is cut at multiples of
//! a grain times a power of two, so that what the tiles of it give are the states of whole subtrees of the reduction's tree
//! (`kernel/reduce.rs` in core). Tiles of the folded group follow each other: they are a *chain*, which gives one result.
//!
//! Invariant: tiles do not overlap and cover the domain. Where the folded group is cut, those before it are at one index.

use smallvec::SmallVec;
use std::ops::Range;

/// A range of indices of each group.
pub(super) type Ranges = SmallVec<[Range<u64>; 4]>;

/// A cut of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tiling {
    /// How many indices each group has; none is 0.
    lens: SmallVec<[u64; 4]>,
    /// How many of them a tile has; the last one may have fewer.
    tile: SmallVec<[u64; 4]>,
    folded: Option<usize>,
}

impl Tiling {
    /// Tiles of about `budget` elements at most. `folded` is the group that is folded, and its grain.
    pub fn new(lens: &[u64], folded: Option<(usize, u64)>, budget: u64) -> Tiling {
        let budget = budget.max(1);
        let mut tile: SmallVec<[u64; 4]> = lens.into();
        let rest_of = |g: usize| lens[g + 1..].iter().fold(1u64, |n, len| n.saturating_mul(*len));
        let mut g = 0;
        // Groups before one that fits as a whole are cut to one index each.
        while g < lens.len() && lens[g].saturating_mul(rest_of(g)) > budget {
            let rest = rest_of(g);
            match folded {
                Some((fold, grain)) if fold == g => {
                    tile[g] = lens[g].min(grain.saturating_mul(power_below(budget / rest.max(1) / grain)));
                    if tile[g].saturating_mul(rest) > budget {
                        // Not even a grain of whole rows: those are cut, too.
                        let inner = Tiling::new(&lens[g + 1..], None, budget / tile[g]);
                        tile[g + 1..].copy_from_slice(&inner.tile);
                    }
                    break;
                }
                _ if rest <= budget => {
                    // As few as these allow, and of about the same size.
                    let count = lens[g].div_ceil(budget / rest);
                    tile[g] = lens[g].div_ceil(count);
                    break;
                }
                _ => tile[g] = 1,
            }
            g += 1;
        }
        Tiling { lens: lens.into(), tile, folded: folded.map(|(fold, _)| fold) }
    }

    /// How many tiles there are.
    pub fn count(&self) -> usize {
        (0..self.lens.len()).fold(1u64, |n, g| n.saturating_mul(self.tiles(g))) as usize
    }

    /// True if a group is in more than one tile.
    pub fn is_cut(&self, g: usize) -> bool {
        self.tiles(g) > 1
    }

    /// The size of the largest tile along each group.
    pub fn largest(&self) -> &[u64] {
        &self.tile
    }

    /// The n-th tile.
    pub fn ranges(&self, n: usize) -> Ranges {
        let mut rest = n as u64;
        let mut ranges: Ranges = self.lens.iter().map(|len| 0..*len).collect();
        // The folded group counts fastest.
        let others = (0..self.lens.len()).rev().filter(|g| Some(*g) != self.folded);
        for g in self.folded.into_iter().chain(others) {
            let begin = rest % self.tiles(g) * self.tile[g];
            rest /= self.tiles(g);
            ranges[g] = begin..(begin + self.tile[g]).min(self.lens[g]);
        }
        ranges
    }

    /// True if the n-th tile is the last of its chain.
    pub fn ends_chain(&self, n: usize) -> bool {
        self.folded.is_none_or(|fold| (n as u64 + 1).is_multiple_of(self.tiles(fold)))
    }

    fn tiles(&self, g: usize) -> u64 {
        self.lens[g].div_ceil(self.tile[g])
    }
}

/// The largest power of two that is not larger; 1 below that.
fn power_below(n: u64) -> u64 {
    1 << n.max(1).ilog2()
}

/// The boxes of some dimensions that a range of their indices in row-major order is, in order: ranges of each dimension. Each
/// box is consecutive in that order.
pub(super) fn boxes(dims: &[u64], range: Range<u64>) -> SmallVec<[Ranges; 1]> {
    let mut found = SmallVec::new();
    let mut at = range.start;
    while at < range.end {
        let mut index: SmallVec<[u64; 4]> = SmallVec::from_elem(0, dims.len());
        let mut rest = at;
        for (i, n) in index.iter_mut().zip(dims).rev() {
            (*i, rest) = (rest % n, rest / n);
        }
        // Along the outermost axis that can be gone along from here: all inside of it is at its begin, and fits.
        let mut axis = dims.len();
        let (mut block, mut count) = (1, 1);
        let mut inside = 1u64;
        while axis > 0 {
            let steps = (dims[axis - 1] - index[axis - 1]).min((range.end - at) / inside);
            if steps == 0 {
                break;
            }
            axis -= 1;
            (block, count) = (inside, steps);
            if index[axis] != 0 || steps < dims[axis] {
                break;
            }
            inside *= dims[axis];
        }
        let side = |i: usize| match i.cmp(&axis) {
            std::cmp::Ordering::Less => index[i]..index[i] + 1,
            std::cmp::Ordering::Equal => index[i]..index[i] + count,
            std::cmp::Ordering::Greater => 0..dims[i],
        };
        found.push((0..dims.len()).map(side).collect());
        at += block * count;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The indices of all tiles in row-major order, sorted: each once if the tiles are right.
    fn covered(tiling: &Tiling) -> bool {
        let mut seen = vec![0; tiling.lens.iter().product::<u64>() as usize];
        for n in 0..tiling.count() {
            let ranges = tiling.ranges(n);
            let mut at = vec![0usize];
            for (range, len) in ranges.iter().zip(&tiling.lens) {
                assert!(!range.is_empty());
                at = at.iter().flat_map(|i| range.clone().map(move |k| i * *len as usize + k as usize)).collect();
            }
            at.iter().for_each(|i| seen[*i] += 1);
        }
        seen.iter().all(|n| *n == 1)
    }

    #[test]
    fn tiles_cover_the_domain_once() {
        for lens in [&[1][..], &[7], &[3, 5], &[4, 1, 6], &[2, 9, 3, 2]] {
            for budget in [0, 1, 2, 3, 5, 8, 16, 1000] {
                assert!(covered(&Tiling::new(lens, None, budget)), "{lens:?} {budget}");
                for fold in 0..lens.len() {
                    let tiling = Tiling::new(lens, Some((fold, 2)), budget);
                    assert!(covered(&tiling), "{lens:?} {budget}, {fold} is folded");
                    if tiling.is_cut(fold) {
                        assert!(tiling.tile[fold].is_power_of_two() && tiling.tile[fold] > 1);
                        assert!(tiling.tile[..fold].iter().all(|n| *n == 1));
                    }
                }
            }
        }
    }

    #[test]
    fn a_folded_group_is_cut_at_powers_of_its_grain() {
        let tiling = Tiling::new(&[3, 10_000], Some((1, 1024)), 5000);
        assert_eq!(tiling.largest(), [1, 4096]);
        assert_eq!(tiling.count(), 9);
        assert_eq!(tiling.ranges(4).as_slice(), [1..2, 4096..8192]);
        assert_eq!((0..9).filter(|n| tiling.ends_chain(*n)).collect::<Vec<_>>(), [2, 5, 8]);
        // All of it where it fits, and other groups are cut first.
        assert_eq!(Tiling::new(&[3, 10_000], Some((1, 1024)), 20_000).largest(), [2, 10_000]);
        // Columns: rows that are too long for a grain of them are cut.
        assert_eq!(Tiling::new(&[1000, 50], Some((0, 128)), 20_000).largest(), [256, 50]);
        assert_eq!(Tiling::new(&[1000, 50], Some((0, 128)), 1300).largest(), [128, 10]);
    }

    #[test]
    fn boxes_are_the_range_in_order() {
        for dims in [&[5][..], &[3, 4], &[2, 3, 4], &[1, 6, 1], &[2, 1, 3, 2]] {
            let all: u64 = dims.iter().product();
            for begin in 0..=all {
                for end in begin..=all {
                    let mut at = begin;
                    for found in boxes(dims, begin..end) {
                        let mut indices = vec![0];
                        for (side, n) in found.iter().zip(dims) {
                            indices = indices.iter().flat_map(|i| side.clone().map(move |k| i * n + k)).collect();
                        }
                        for i in indices {
                            assert_eq!(i, at, "{dims:?} {begin}..{end}");
                            at += 1;
                        }
                    }
                    assert_eq!(at, end);
                }
            }
        }
        assert!(boxes(&[100, 100, 100], 1..999_999).len() <= 5);
    }
}
