//! Where the elements of arrays are: shapes and byte strides, what they span, and what overlaps. Pure arithmetic.
//!
//! Invariant: nothing here overflows; what would is an error or `None`.

use crate::error::{Error, Result};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_core::shape::MAX_RANK;
use smallvec::SmallVec;

/// The place of a vector of elements of this size.
#[inline]
pub(crate) fn vector(len: usize, size: usize) -> Strided {
    Strided {
        shape: SmallVec::from_buf_and_len([len as u64, 0, 0, 0], 1),
        strides: SmallVec::from_buf_and_len([size as isize, 0, 0, 0], 1),
    }
}

/// A copy: as `clone`, and quicker for the usual ranks.
#[inline]
pub(crate) fn copy(place: &Strided) -> Strided {
    let rank = place.shape.len();
    if rank > 4 || place.strides.len() != rank {
        return place.clone();
    }
    let size = |i: usize| place.shape.get(i).copied().unwrap_or(0);
    let stride = |i: usize| place.strides.get(i).copied().unwrap_or(0);
    Strided {
        shape: SmallVec::from_buf_and_len([size(0), size(1), size(2), size(3)], rank),
        strides: SmallVec::from_buf_and_len([stride(0), stride(1), stride(2), stride(3)], rank),
    }
}

/// True if shapes and strides are equal: as `==`, and quicker for the usual ranks.
#[inline]
pub(crate) fn same(a: &Strided, b: &Strided) -> bool {
    a.shape.len() == b.shape.len()
        && a.shape.iter().zip(&b.shape).all(|(x, y)| x == y)
        && a.strides.len() == b.strides.len()
        && a.strides.iter().zip(&b.strides).all(|(x, y)| x == y)
}

/// `ndarray` counts strides in elements.
#[cfg(feature = "ndarray")]
pub(crate) fn nd_place<T>(shape: &[usize], strides: &[isize]) -> Strided {
    let size = size_of::<T>() as isize;
    Strided { shape: shape.iter().map(|n| *n as u64).collect(), strides: strides.iter().map(|s| s * size).collect() }
}

pub(crate) fn shaped(shape: &[usize], len: usize, dtype: DType) -> Result<Strided> {
    let shape64: SmallVec<[u64; 4]> = shape.iter().map(|n| *n as u64).collect();
    let place = Strided::row_major(&shape64, dtype)?;
    if shape.len() > MAX_RANK {
        return Err(rank_error(shape.len()));
    }
    if place.count() != len as u64 {
        return Err(Error::new(Code::InputMismatch, format!("{len} elements for an array of shape {shape:?}")));
    }
    Ok(place)
}

fn rank_error(rank: usize) -> Error {
    Diagnostic::new(Code::Rank, format!("{rank} dimensions")).why(format!("an array has at most {MAX_RANK}")).into()
}

#[inline]
pub(crate) fn place(shape: &[usize], strides: &[isize]) -> Result<Strided> {
    if shape.len() != strides.len() {
        let text = format!("{} sizes and {} strides", shape.len(), strides.len());
        return Err(Error::new(Code::InputMismatch, text));
    }
    if shape.len() > MAX_RANK {
        return Err(rank_error(shape.len()));
    }
    if shape.len() <= 4 {
        // Quicker for the usual ranks.
        let (mut sizes, mut steps) = ([0; 4], [0; 4]);
        for (i, (n, stride)) in shape.iter().zip(strides).enumerate() {
            (sizes[i], steps[i]) = (*n as u64, *stride);
        }
        let rank = shape.len();
        let (shape, strides) = (SmallVec::from_buf_and_len(sizes, rank), SmallVec::from_buf_and_len(steps, rank));
        return Ok(Strided { shape, strides });
    }
    Ok(Strided { shape: shape.iter().map(|n| *n as u64).collect(), strides: strides.into() })
}

/// The place seen as one of a larger shape: dimensions of size 1 are repeated, and new ones come first.
pub(crate) fn broadcast(place: &Strided, shape: &[usize]) -> Result<Strided> {
    if shape.len() > MAX_RANK {
        return Err(rank_error(shape.len()));
    }
    let refused = || {
        let from: &[u64] = &place.shape;
        Error::new(Code::Broadcast, format!("an array of shape {from:?} does not broadcast to {shape:?}"))
    };
    let new = shape.len().checked_sub(place.shape.len()).ok_or_else(refused)?;
    let mut wide = Strided::default();
    for (axis, size) in shape.iter().map(|n| *n as u64).enumerate() {
        let old = axis.checked_sub(new);
        let stride = match old.map(|old| (place.shape[old], place.strides[old])) {
            Some((n, stride)) if n == size => stride,
            Some((1, _)) | None => 0,
            Some(_) => return Err(refused()),
        };
        wide.shape.push(size);
        wide.strides.push(stride);
    }
    numfuse_core::shape::checked_count(&wide.shape)?;
    Ok(wide)
}

/// True if the elements are consecutive, in order.
pub(crate) fn is_row_major(place: &Strided, size: usize) -> bool {
    let mut expected = size as isize;
    place.shape.iter().zip(&place.strides).rev().all(|(n, stride)| {
        let here = *n <= 1 || *stride == expected;
        expected = expected.wrapping_mul(*n as isize);
        here
    }) || place.shape.contains(&0)
}

/// The bytes that an array covers, relative to its first element: from `low` (at most 0) up to `high`.
#[inline]
pub(crate) fn reach_of(place: &Strided, dtype: DType) -> Result<(isize, isize)> {
    if place.shape.contains(&0) {
        return Ok((0, 0));
    }
    let overflow = || Diagnostic::new(Code::TooLarge, format!("an array of shape {:?} is too large", place.shape));
    numfuse_core::shape::checked_count(&place.shape)?;
    let dims = place.shape.iter().map(|n| *n as usize).zip(place.strides.iter().copied());
    reach(dims, dtype.size()).ok_or_else(|| overflow().why("its extent in bytes overflows").into())
}

/// As [`reach_of`], of dimensions that are not 0; none if it overflows.
pub(crate) fn reach(dims: impl Iterator<Item = (usize, isize)>, size: usize) -> Option<(isize, isize)> {
    let (mut low, mut high) = (0isize, size as isize);
    for (n, stride) in dims {
        let far = stride.checked_mul(isize::try_from(n).ok()? - 1)?;
        if far < 0 {
            low = low.checked_add(far)?;
        } else {
            high = high.checked_add(far)?;
        }
    }
    Some((low, high))
}

pub(crate) fn span(first: usize, place: &Strided, dtype: DType) -> Option<std::ops::Range<usize>> {
    match reach_of(place, dtype) {
        Ok((low, high)) if low < high => Some(first.wrapping_add_signed(low)..first.wrapping_add_signed(high)),
        _ => None,
    }
}

/// True if two ranges of addresses share one.
#[inline]
pub(crate) fn overlap(a: &Option<std::ops::Range<usize>>, b: &Option<std::ops::Range<usize>>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a.start < b.end && b.start < a.end)
}

/// True if some two elements of an array may share a byte. Exotic layouts that interleave without sharing count as well.
pub(crate) fn overlaps_itself(place: &Strided, dtype: DType) -> bool {
    if place.shape.contains(&0) {
        return false;
    }
    let mut dims: SmallVec<[(usize, isize); 4]> = place
        .shape
        .iter()
        .zip(&place.strides)
        .filter(|(n, _)| **n > 1)
        .map(|(n, s)| (s.unsigned_abs(), *n as isize))
        .collect();
    dims.sort_unstable();
    let mut extent = dtype.size();
    for (stride, n) in dims {
        if stride < extent {
            return true;
        }
        extent = extent.saturating_add(stride.saturating_mul(n as usize - 1));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(shape: &[usize], strides: &[isize]) -> Strided {
        place(shape, strides).unwrap()
    }

    #[test]
    fn spans_follow_strides() {
        assert_eq!(reach_of(&at(&[3, 4], &[32, 8]), DType::F64).unwrap(), (0, 96));
        assert_eq!(reach_of(&at(&[3, 4], &[-32, 8]), DType::F64).unwrap(), (-64, 32));
        assert_eq!(reach_of(&at(&[3], &[0]), DType::F32).unwrap(), (0, 4));
        assert_eq!(reach_of(&at(&[3, 0], &[8, isize::MAX]), DType::F32).unwrap(), (0, 0));
        assert!(reach_of(&at(&[3], &[isize::MAX]), DType::F32).is_err());
        assert!(reach_of(&at(&[1 << 62, 4], &[0, 0]), DType::U8).is_err());
        assert!(place(&[1], &[]).is_err() && place(&[1; 33], &[1; 33]).is_err());
    }

    #[test]
    fn sharing_is_found() {
        for (shape, strides, shares) in [
            (&[4, 3][..], &[24, 8][..], false),
            (&[4, 3], &[8, 32], false),
            (&[4, 3], &[-24, -8], false),
            (&[4, 3], &[24, 0], true),
            (&[4], &[4], true),
            (&[4, 3], &[16, 8], true),
            (&[1, 3], &[0, 8], false),
            (&[0, 3], &[0, 0], false),
        ] {
            assert_eq!(overlaps_itself(&at(shape, strides), DType::F64), shares, "{shape:?} {strides:?}");
        }
    }

    #[test]
    fn broadcasting_repeats() {
        let wide = |from: &[usize], strides: &[isize], to: &[usize]| {
            broadcast(&at(from, strides), to).map(|place| (place.shape.to_vec(), place.strides.to_vec())).ok()
        };
        assert_eq!(wide(&[3], &[8], &[2, 3]), Some((vec![2, 3], vec![0, 8])));
        assert_eq!(wide(&[2, 1], &[8, 8], &[2, 3]), Some((vec![2, 3], vec![8, 0])));
        assert_eq!(wide(&[], &[], &[4]), Some((vec![4], vec![0])));
        assert_eq!(wide(&[1], &[8], &[0]), Some((vec![0], vec![0])));
        assert_eq!(wide(&[3], &[8], &[2]), None);
        assert_eq!(wide(&[2, 3], &[24, 8], &[3]), None);
        assert_eq!(wide(&[], &[], &[1 << 40, 1 << 40]), None, "too many elements to count");
    }

    #[test]
    fn row_major_is_recognised() {
        assert!(is_row_major(&at(&[2, 3], &[24, 8]), 8));
        assert!(is_row_major(&at(&[1, 3], &[7, 8]), 8));
        assert!(is_row_major(&at(&[0, 3], &[1, 1]), 8));
        assert!(!is_row_major(&at(&[2, 3], &[8, 16]), 8));
        assert!(!is_row_major(&at(&[2], &[16]), 8));
    }
}
