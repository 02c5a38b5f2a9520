//! Products of matrices as passes: some rows and columns of one matrix at a time, or some matrices of a stack.
//!
//! Of one operand as many lines as there is room for (rows of the left one, or columns of the right one: a *panel*) stay on the
//! device while all lines of the other one go through in parts; then comes the next panel. The depth is never cut, so that an
//! element is one product of a row with a column.

use super::pass::staged;
use super::passes::Pass;
use super::pipeline::{self, Part, Pipeline};
use super::tiles::Ranges;
use super::{Job, PART, Room, SHARE, computed};
use crate::array::Array;
use crate::error::Result;
use crate::view::{ArrayMut, ArrayRef};
use numfuse_core::dtype::DType;
use smallvec::SmallVec;
use std::ops::Range;

/// A panel takes no more than this share of what the device has free.
const PANEL: u64 = 4;

/// How many elements of a pass's domain a part has that takes whole matrices of a stack; none if not even one of each operand
/// and of the result is a part.
pub(super) fn whole_matrices(lens: &[u64], dtype: DType, part: u64) -> Option<u64> {
    let &[.., i, k, j] = lens else { return None };
    let bytes = [[i, k], [k, j], [i, j]]
        .iter()
        .fold(0u64, |sum, [x, y]| sum.saturating_add(x.saturating_mul(*y).saturating_mul(dtype.size() as u64)));
    let matrices = part / bytes.max(1);
    (matrices > 0).then(|| matrices.saturating_mul(i.saturating_mul(k).saturating_mul(j)))
}

/// How one product is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cut {
    /// The operand that panels are of; the other one goes through in parts.
    held: usize,
    /// Lines of a panel and of a part.
    panel: u64,
    part: u64,
}

impl Cut {
    /// The way in which fewer bytes go to the device; where both do the same, the smaller operand stays there.
    fn new(lens: &[u64], size: u64, room: &Room) -> Cut {
        let [i, k, j] = [3, 2, 1].map(|back| lens[lens.len() - back]);
        let line = k.saturating_mul(size).max(1);
        let lines = [i, j];
        let cut = |held: usize| {
            let (own, other) = (lines[held], lines[1 - held]);
            let most = (room.free / PANEL / line).clamp(1, own);
            // As few as these allow, and of about the same size.
            let count = own.div_ceil(most);
            let panel = own.div_ceil(count);
            // A line of the part goes there, and one of the result comes back.
            let bytes = line.saturating_add(panel.saturating_mul(size));
            let part = (PART.min(room.free / SHARE) / bytes).clamp(1, other);
            let carried = u128::from(own) + u128::from(count) * u128::from(other);
            ((carried, own), Cut { held, panel, part })
        };
        let [left, right] = [cut(0), cut(1)];
        if right.0 < left.0 { right.1 } else { left.1 }
    }
}

/// Runs the product of a pass, whose operands are seen in its domain, into the place of its root.
pub(super) fn run(
    job: Job<'_>,
    pass: &Pass,
    room: &Room,
    sources: &[ArrayRef<'_>],
    lens: &[u64],
    results: &mut [ArrayMut<'_>],
) -> Result<()> {
    let Job { shared, backend, flag, .. } = job;
    let stack = lens.len() - 3;
    let size = results[0].dtype().size() as u64;
    let Cut { held, panel, part } = Cut::new(lens, size, room);
    let (own, other) = if held == 0 { (stack, stack + 2) } else { (stack + 2, stack) };
    let (input_bytes, output_bytes) = (lens[stack + 1] * part * size, panel * part * size);
    let pipeline = Pipeline {
        shared,
        backend,
        input_bytes: pipeline::room(std::iter::once(input_bytes as usize)),
        output_bytes: pipeline::room(std::iter::once(output_bytes as usize)),
    };
    let matrices: u64 = lens[..stack].iter().product();
    for matrix in 0..matrices {
        let mut ranges: Ranges = lens.iter().map(|len| 0..*len).collect();
        let mut rest = matrix;
        for (range, len) in ranges[..stack].iter_mut().zip(lens).rev() {
            *range = rest % len..rest % len + 1;
            rest /= len;
        }
        for first in (0..lens[own]).step_by(panel as usize) {
            ranges[own] = first..(first + panel).min(lens[own]);
            let of_held = |g: usize| if pass.operands[held].runs[g] { ranges[g].clone() } else { 0..1 };
            let lines: Ranges = (0..lens.len()).map(of_held).collect();
            let lines = sources[held].part(&lines)?;
            // What is not consecutive would go there with all that is in between.
            let kept = match lines.as_bytes() {
                Some(_) => Array::copy_to(&lines, &shared.device)?,
                None => {
                    staged(pass, held, &sources[held], &ranges)?.packed(shared.threads)?.to_device(&shared.device)?
                }
            };
            let mut views: SmallVec<[ArrayRef<'_>; 2]> = sources.iter().cloned().collect();
            views[held] = kept.view();
            let of_part = |n: usize| -> Range<u64> {
                let first = n as u64 * part;
                first..(first + part).min(lens[other])
            };
            let next = |n: usize| {
                let mut ranges = ranges.clone();
                ranges[other] = of_part(n);
                let input = staged(pass, 1 - held, &sources[1 - held], &ranges)?;
                ranges.remove(stack + 1);
                Ok(Part { inputs: SmallVec::from_iter([input]), results: Some(SmallVec::from_iter([ranges])) })
            };
            let count = lens[other].div_ceil(part) as usize;
            pipeline.run(count, &views, results, next, |_, views| computed(shared, &pass.program, views, flag))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_is_carried_once() {
        let room = |free| Room { free, total: free, needed: 0 };
        // All of the smaller one stays there.
        assert_eq!(Cut::new(&[1000, 10, 20], 8, &room(1 << 20)), Cut { held: 1, panel: 20, part: 273 });
        assert_eq!(Cut::new(&[20, 10, 1000], 8, &room(1 << 20)), Cut { held: 0, panel: 20, part: 273 });
        // Neither fits: the left one thrice and the right one once, rather than the left one once and the right one eight
        // times. Panels are of equal size.
        let cut = Cut::new(&[3000, 1000, 1000], 8, &room(12 << 20));
        assert_eq!(cut, Cut { held: 1, panel: 334, part: 73 });
        // Lines that are as large as all that there is are still tried, one by one.
        assert_eq!(Cut::new(&[3, 1 << 20, 3], 8, &room(1 << 20)), Cut { held: 0, panel: 1, part: 1 });
    }

    #[test]
    fn small_matrices_of_a_stack_go_together() {
        let bytes = 8 * (4 * 5 + 5 * 6 + 4 * 6);
        assert_eq!(whole_matrices(&[100, 4, 5, 6], DType::F64, 3 * bytes + 1), Some(3 * 4 * 5 * 6));
        assert_eq!(whole_matrices(&[4, 5, 6], DType::F64, bytes), Some(4 * 5 * 6));
        assert_eq!(whole_matrices(&[100, 4, 5, 6], DType::F64, bytes - 1), None);
    }
}
