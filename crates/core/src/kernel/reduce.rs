//! Reducers: how a run of elements is folded to one value, in primitives, and in which order.
//!
//! # The order of a reduction
//!
//! It is fixed by the number of elements and by the nest, and by nothing else: not by threads, vector width, strides,
//! or device. Let `e[0], e[1], ..., e[n-1]` be the elements of one result in row-major order of the reduced indices.
//!
//! 1. They are cut into *leaves* of [`leaf`] consecutive elements; only the last may be shorter.
//! 2. In a leaf, element `i` (counted from the leaf's first) goes to *lane* `i mod` [`lanes`]. Each lane starts from
//!    [`Reducer::init`] and folds its elements in order with [`Reducer::step`], whose count argument is 1 for the
//!    lane's first element, 2 for the second, and so on.
//! 3. With `u = min(elements of the leaf, lanes)` lanes in use and `h = lanes / 2`, halving down to 1: for each
//!    `l < h` with `l + h < u`, lane `l` becomes `merge(lane l, lane l + h)`; then `u = min(u, h)`.
//!    Lane 0 is the leaf's state.
//! 4. Leaves merge as neighbours: in each round, states `2j` and `2j + 1` become state `j`; a last one without
//!    neighbour moves up unchanged; until one state is left. Its result component is the result.
//!
//! [`Reducer::merge`] gets the number of elements on either side. No elements at all give [`Reducer::empty`].
//! Reducers for which [`Reducer::any_order`] holds give the same bits in every order, and a back end may choose one.

use super::{Body, Builder, Nest, Prim};
use crate::dtype::{DType, Kind};
use crate::literal::Literal;
use smallvec::SmallVec;

/// The state of a fold: one or two scalars of the reduction's dtype.
pub type State<T> = SmallVec<[T; 2]>;

/// How elements are folded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reducer {
    /// `x + y`; float or integer.
    Sum,
    /// `x * y`; float or integer.
    Prod,
    /// The least, NaN if any is NaN, `-0.0 < 0.0`; float or integer.
    Min,
    /// The greatest, NaN if any is NaN, `-0.0 < 0.0`; float or integer.
    Max,
    /// `x | y`; bool.
    Any,
    /// `x & y`; bool.
    All,
    /// The sum of squared deviations from the mean, by Welford's update and Chan's merge; float.
    Moments,
    /// The mean that [`Reducer::Moments`] keeps beside its result: whoever merges states of parts of an array needs both.
    Center,
}

/// How many lanes a leaf of this nest has: 256 bytes' worth, at most 64, for rows; one for columns, whose vector
/// runs across the columns instead.
pub const fn lanes(nest: Nest, dtype: DType) -> usize {
    match nest {
        Nest::Rows => {
            let n = 256 / dtype.size();
            if n > 64 { 64 } else { n }
        }
        Nest::Columns => 1,
    }
}

/// How many consecutive elements make a leaf: a multiple of every lane count.
pub const fn leaf(nest: Nest) -> usize {
    match nest {
        Nest::Rows => 1024,
        Nest::Columns => 128,
    }
}

impl Reducer {
    /// Every reducer.
    pub const ALL: [Reducer; 8] = [
        Reducer::Sum,
        Reducer::Prod,
        Reducer::Min,
        Reducer::Max,
        Reducer::Any,
        Reducer::All,
        Reducer::Moments,
        Reducer::Center,
    ];

    /// The name in printed kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Reducer::Sum => "sum",
            Reducer::Prod => "prod",
            Reducer::Min => "min",
            Reducer::Max => "max",
            Reducer::Any => "any",
            Reducer::All => "all",
            Reducer::Moments => "moments",
            Reducer::Center => "center",
        }
    }

    /// The state before any element. For all that do not count it is an exact identity of `merge`: `x + -0.0` is `x`
    /// for every `x`, which `x + 0.0` is not.
    pub fn init(self, dtype: DType) -> State<Literal> {
        let one = |x: Literal| SmallVec::from_elem(x, 1);
        match self {
            Reducer::Sum => {
                one(if dtype.is_float() { Literal::from_f64(dtype, -0.0) } else { Literal::from_i64(dtype, 0) })
            }
            Reducer::Prod => one(Literal::from_i64(dtype, 1)),
            Reducer::Min => one(Literal::max_of(dtype)),
            Reducer::Max => one(Literal::min_of(dtype)),
            Reducer::Any => one(Literal::bool(false)),
            Reducer::All => one(Literal::bool(true)),
            Reducer::Moments | Reducer::Center => SmallVec::from_elem(Literal::from_i64(dtype, 0), 2),
        }
    }

    /// The result of folding no elements; none for `min` and `max`, where it is the caller's error.
    pub fn empty(self, dtype: DType) -> Option<Literal> {
        match self {
            Reducer::Sum | Reducer::Moments | Reducer::Center => Some(Literal::from_i64(dtype, 0)),
            Reducer::Min | Reducer::Max => None,
            Reducer::Prod | Reducer::Any | Reducer::All => Some(self.init(dtype)[0]),
        }
    }

    /// Which component of the state is the result.
    pub const fn result(self) -> usize {
        match self {
            Reducer::Moments => 1,
            _ => 0,
        }
    }

    /// True if every order of folding and merging gives the same bits.
    pub const fn any_order(self, dtype: DType) -> bool {
        match self {
            Reducer::Sum | Reducer::Prod => !matches!(dtype.kind(), Kind::Float),
            Reducer::Min | Reducer::Max | Reducer::Any | Reducer::All => true,
            Reducer::Moments | Reducer::Center => false,
        }
    }

    /// Folding one element: arguments are the state, the element, and (if it [counts](Reducer::counts)) the count as `dtype`, which
    /// includes this element; results are the new state.
    pub fn step(self, dtype: DType) -> Body {
        let mut b = Builder::body();
        if self.counts() {
            // Welford 1962: mean += (x - mean)/k; m2 += (x - mean_before)*(x - mean_after).
            let (mean, m2, x, k) = (b.arg(0, dtype), b.arg(1, dtype), b.arg(2, dtype), b.arg(3, dtype));
            let one = b.float(dtype, 1.0);
            let weight = b.div(one, k);
            let delta = b.sub(x, mean);
            let mean = b.fma(delta, weight, mean);
            let rest = b.sub(x, mean);
            let m2 = b.fma(delta, rest, m2);
            return b.finish_body(&[mean, m2]);
        }
        let (state, x) = (b.arg(0, dtype), b.arg(1, dtype));
        let next = self.combine(&mut b, state, x);
        b.finish_body(&[next])
    }

    /// Merging two states: arguments are the left state, the right state, and (if it counts) the two counts as
    /// `dtype`; results are the merged state. The left side holds the earlier elements.
    pub fn merge(self, dtype: DType) -> Body {
        let mut b = Builder::body();
        if self.counts() {
            // Chan, Golub & LeVeque 1979.
            let (mean_a, m2_a, mean_b, m2_b) = (b.arg(0, dtype), b.arg(1, dtype), b.arg(2, dtype), b.arg(3, dtype));
            let (count_a, count_b) = (b.arg(4, dtype), b.arg(5, dtype));
            let count = b.add(count_a, count_b);
            let share = b.div(count_b, count);
            let delta = b.sub(mean_b, mean_a);
            let mean = b.fma(delta, share, mean_a);
            let m2 = b.add(m2_a, m2_b);
            let spread = b.mul(delta, delta);
            let weight = b.mul(count_a, share);
            let m2 = b.fma(spread, weight, m2);
            return b.finish_body(&[mean, m2]);
        }
        let (left, right) = (b.arg(0, dtype), b.arg(1, dtype));
        let merged = self.combine(&mut b, left, right);
        b.finish_body(&[merged])
    }

    /// True if `step` and `merge` take counts.
    pub const fn counts(self) -> bool {
        matches!(self, Reducer::Moments | Reducer::Center)
    }

    fn combine(self, b: &mut Builder, x: super::Value, y: super::Value) -> super::Value {
        match self {
            Reducer::Sum => b.add(x, y),
            Reducer::Prod => b.mul(x, y),
            Reducer::Min => crate::math::minimum(b, &[x, y]),
            Reducer::Max => crate::math::maximum(b, &[x, y]),
            Reducer::Any => b.or(x, y),
            Reducer::All => b.and(x, y),
            Reducer::Moments | Reducer::Center => b.prim(Prim::Add, &[x, y]),
        }
    }
}
