//! Axes of reductions, and items of basic indices, as Rust values convert to them.

use numfuse_core::shape::Slice;
use smallvec::SmallVec;
use std::ops::{Range, RangeFrom, RangeFull, RangeTo};

/// The axes along which a reduction runs. A number, an array or a tuple of numbers converts to it; negative ones count
/// from the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Axis {
    /// All of them: the result is a scalar.
    All,
    /// The last one.
    Last,
    /// One.
    At(i64),
    /// Several.
    Many(SmallVec<[i64; 4]>),
}

impl Axis {
    /// These axes, with the reduced dimensions kept as dimensions of size 1.
    pub fn keepdims(self) -> Over {
        Over { axis: self, keepdims: true }
    }

    pub(super) fn into_axes(self) -> Option<SmallVec<[i64; 4]>> {
        match self {
            Axis::All => None,
            Axis::Last => Some(SmallVec::from_slice(&[-1])),
            Axis::At(axis) => Some(SmallVec::from_slice(&[axis])),
            Axis::Many(axes) => Some(axes),
        }
    }
}

/// What a reduction runs over: axes, and whether they stay. Whatever converts to an [`Axis`] converts to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Over {
    /// The axes.
    pub axis: Axis,
    /// Whether reduced dimensions stay, with size 1.
    pub keepdims: bool,
}

impl From<Axis> for Over {
    fn from(axis: Axis) -> Over {
        Over { axis, keepdims: false }
    }
}

macro_rules! axes {
    ($([$($generics:tt)*] $t:ty => |$x:pat_param| $axis:expr;)*) => {$(
        impl<$($generics)*> From<$t> for Axis {
            fn from($x: $t) -> Axis {
                $axis
            }
        }
        impl<$($generics)*> From<$t> for Over {
            fn from(axes: $t) -> Over {
                Axis::from(axes).into()
            }
        }
    )*};
}
axes! {
    [] i32 => |axis| Axis::At(i64::from(axis));
    [] i64 => |axis| Axis::At(axis);
    [const N: usize] [i32; N] => |axes| Axis::Many(axes.into_iter().map(i64::from).collect());
    [const N: usize] [i64; N] => |axes| Axis::Many(axes.into_iter().collect());
    [] Vec<i64> => |axes| Axis::Many(axes.into_iter().collect());
    [] &[i64] => |axes| Axis::Many(axes.into());
    [] (i32, i32) => |(a, b)| Axis::from([a, b]);
    [] (i32, i32, i32) => |(a, b, c)| Axis::from([a, b, c]);
}

/// One item of a basic index. Numbers and ranges convert to it: `0`, `..`, `1..`, `..-1`, `1..-1`; negative bounds count
/// from the end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Index {
    /// One index: the dimension goes away.
    At(i64),
    /// `start:stop:step`: the dimension stays.
    Slice {
        /// The first index.
        start: Option<i64>,
        /// One past the last index.
        stop: Option<i64>,
        /// The distance between indices; may be negative, not 0.
        step: i64,
    },
    /// A new dimension of size 1.
    NewAxis,
    /// As many whole dimensions as are left; at most one.
    Ellipsis,
}

impl Index {
    pub(super) fn slice(start: Option<i64>, stop: Option<i64>) -> Index {
        let Slice { step, .. } = Slice::ALL;
        Index::Slice { start, stop, step }
    }
}

macro_rules! indices {
    ($($t:ty)*) => {$(
        impl From<$t> for Index {
            fn from(at: $t) -> Index {
                Index::At(i64::from(at))
            }
        }
        impl From<Range<$t>> for Index {
            fn from(range: Range<$t>) -> Index {
                Index::slice(Some(i64::from(range.start)), Some(i64::from(range.end)))
            }
        }
        impl From<RangeFrom<$t>> for Index {
            fn from(range: RangeFrom<$t>) -> Index {
                Index::slice(Some(i64::from(range.start)), None)
            }
        }
        impl From<RangeTo<$t>> for Index {
            fn from(range: RangeTo<$t>) -> Index {
                Index::slice(None, Some(i64::from(range.end)))
            }
        }
    )*};
}
indices!(i32 i64);

impl From<RangeFull> for Index {
    fn from(_: RangeFull) -> Index {
        Index::slice(None, None)
    }
}

/// A basic index: one item, or a tuple, array or vector of items.
pub trait IntoIndex {
    /// The items, in order.
    fn into_index(self) -> Vec<Index>;
}

impl<T: Into<Index>> IntoIndex for T {
    fn into_index(self) -> Vec<Index> {
        vec![self.into()]
    }
}

impl IntoIndex for Vec<Index> {
    fn into_index(self) -> Vec<Index> {
        self
    }
}

impl<const N: usize> IntoIndex for [Index; N] {
    fn into_index(self) -> Vec<Index> {
        self.into()
    }
}

macro_rules! tuples {
    ($(($($x:ident $t:ident)*))*) => {$(
        impl<$($t: Into<Index>),*> IntoIndex for ($($t,)*) {
            fn into_index(self) -> Vec<Index> {
                let ($($x,)*) = self;
                vec![$($x.into()),*]
            }
        }
    )*};
}
tuples! {
    (a A) (a A b B) (a A b B c C) (a A b B c C d D) (a A b B c C d D e E) (a A b B c C d D e E f F)
}
