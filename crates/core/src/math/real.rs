//! Arithmetic notation for function bodies: `x * x + 1.0` instead of a call for each primitive.
//!
//! A [`Real`], [`Bits`] or [`Mask`] is a [`Value`] together with the builder that it belongs to; each operator appends
//! the one primitive of its name, and nothing else, so a formula written here is exactly what runs. A literal operand
//! becomes a constant of the other operand's dtype. There is no contraction: only [`Real::fma`] fuses.

use crate::dtype::DType;
use crate::kernel::{Builder, Prim, Value};
use std::cell::RefCell;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

/// The builder that the terms of a body share.
pub(super) type Scope<'s> = RefCell<&'s mut Builder>;

/// How accurate a result has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    /// The `f64` result itself: well under 2^-53.
    Double,
    /// An `f32` that the `f64` result is rounded to: 2^-33 or so. Arguments are `f32`s, so never subnormal `f64`s.
    Single,
}

impl Goal {
    /// One of two coefficient tables.
    pub(super) fn pick<'t>(self, double: &'t [f64], single: &'t [f64]) -> &'t [f64] {
        match self {
            Goal::Double => double,
            Goal::Single => single,
        }
    }
}

/// Builds a body of float arguments that computes in `f64`: `f32` arguments are widened and the result is rounded.
///
/// For functions that [`super::single`] lacks. That keeps an `f32` result within 0.51 ULP, and its whole domain, subnormals included, lies amid the normal `f64`s.
pub(super) fn in_f64<const N: usize>(
    b: &mut Builder,
    args: &[Value],
    body: impl for<'s> FnOnce([Real<'s>; N], Goal) -> Real<'s>,
) -> Value {
    let dtype = b.dtype(args[0]);
    let goal = if dtype == DType::F32 { Goal::Single } else { Goal::Double };
    let wide: [Value; N] = std::array::from_fn(|i| b.cast(args[i], DType::F64));
    let scope = RefCell::new(&mut *b);
    let result = body(wide.map(|value| Real { scope: &scope, value }), goal).value;
    b.cast(result, dtype)
}

/// Builds a body in the dtype of its float arguments, of which there is one for `f32` and one for `f64`.
pub(super) fn in_either<const N: usize>(
    b: &mut Builder,
    args: &[Value],
    single: impl for<'s> FnOnce([Real<'s>; N]) -> Real<'s>,
    double: impl for<'s> FnOnce([Real<'s>; N]) -> Real<'s>,
) -> Value {
    if b.dtype(args[0]) == DType::F32 { in_dtype(b, args, single) } else { in_dtype(b, args, double) }
}

/// Builds a body in the dtype of its float arguments.
pub(super) fn in_dtype<const N: usize>(
    b: &mut Builder,
    args: &[Value],
    body: impl for<'s> FnOnce([Real<'s>; N]) -> Real<'s>,
) -> Value {
    let scope = RefCell::new(&mut *b);
    body(std::array::from_fn(|i| Real { scope: &scope, value: args[i] })).value
}

/// As [`in_dtype`], for a body that returns a bool.
pub(super) fn test<const N: usize>(
    b: &mut Builder,
    args: &[Value],
    body: impl for<'s> FnOnce([Real<'s>; N]) -> Mask<'s>,
) -> Value {
    let scope = RefCell::new(&mut *b);
    body(std::array::from_fn(|i| Real { scope: &scope, value: args[i] })).value
}

/// A float value.
#[derive(Clone, Copy)]
pub(super) struct Real<'s> {
    scope: &'s Scope<'s>,
    value: Value,
}

/// The bits of a float as an unsigned integer of its width.
#[derive(Clone, Copy)]
pub(super) struct Bits<'s> {
    scope: &'s Scope<'s>,
    value: Value,
}

/// A bool value.
#[derive(Clone, Copy)]
pub(super) struct Mask<'s> {
    scope: &'s Scope<'s>,
    value: Value,
}

/// What may stand beside a [`Real`]: another one, or a literal.
pub(super) trait Term<'s> {
    /// As a value of the dtype of `like`.
    fn like(self, like: Real<'s>) -> Real<'s>;
}

impl<'s> Term<'s> for Real<'s> {
    fn like(self, _: Real<'s>) -> Real<'s> {
        self
    }
}

impl<'s> Term<'s> for f64 {
    fn like(self, like: Real<'s>) -> Real<'s> {
        like.constant(self)
    }
}

impl<'s> Real<'s> {
    fn dtype(self) -> DType {
        self.scope.borrow().dtype(self.value)
    }

    fn prim(self, prim: Prim, rest: &[Real<'s>]) -> Real<'s> {
        let mut args = [self.value; 3];
        for (arg, x) in args[1..].iter_mut().zip(rest) {
            *arg = x.value;
        }
        let value = self.scope.borrow_mut().prim(prim, &args[..=rest.len()]);
        Real { scope: self.scope, value }
    }

    fn compare(self, prim: Prim, other: impl Term<'s>) -> Mask<'s> {
        let other = other.like(self);
        let value = self.scope.borrow_mut().prim(prim, &[self.value, other.value]);
        Mask { scope: self.scope, value }
    }

    /// A constant of this value's dtype.
    pub(super) fn constant(self, x: f64) -> Real<'s> {
        let dtype = self.dtype();
        let value = self.scope.borrow_mut().float(dtype, x);
        Real { scope: self.scope, value }
    }

    /// `self * m + a`, rounded once.
    pub(super) fn fma(self, m: impl Term<'s>, a: impl Term<'s>) -> Real<'s> {
        let (m, a) = (m.like(self), a.like(self));
        self.prim(Prim::Fma, &[m, a])
    }

    /// `self * 2^k`, rounded once, as [`Prim::Scale`].
    pub(super) fn scale(self, k: Real<'s>) -> Real<'s> {
        self.prim(Prim::Scale, &[k])
    }

    /// A primitive for large angles.
    pub(super) fn large(self, prim: Prim) -> Real<'s> {
        self.prim(prim, &[])
    }

    /// `|self|`
    pub(super) fn abs(self) -> Real<'s> {
        self.prim(Prim::Abs, &[])
    }

    /// `-|self|`
    pub(super) fn minus_abs(self) -> Real<'s> {
        (self.bits() | (1 << (self.dtype().bits() - 1))).real()
    }

    /// Square root.
    pub(super) fn sqrt(self) -> Real<'s> {
        self.prim(Prim::Sqrt, &[])
    }

    /// The remainder of truncated division, exact.
    pub(super) fn rem(self, d: Real<'s>) -> Real<'s> {
        self.prim(Prim::Rem, &[d])
    }

    /// Rounded down.
    pub(super) fn floor(self) -> Real<'s> {
        self.prim(Prim::Floor, &[])
    }

    /// Rounded to nearest, ties to even.
    pub(super) fn round_even(self) -> Real<'s> {
        self.prim(Prim::RoundEven, &[])
    }

    /// `self < other ? self : other`: `other` if either is NaN.
    pub(super) fn min(self, other: impl Term<'s>) -> Real<'s> {
        let other = other.like(self);
        self.prim(Prim::Min, &[other])
    }

    /// `self > other ? self : other`: `other` if either is NaN.
    pub(super) fn max(self, other: impl Term<'s>) -> Real<'s> {
        let other = other.like(self);
        self.prim(Prim::Max, &[other])
    }

    /// `min(max(self, low), high)` that keeps NaN.
    pub(super) fn clamp(self, low: f64, high: f64) -> Real<'s> {
        let bounded = self.constant(low).max(self);
        self.constant(high).min(bounded)
    }

    /// `self < other`
    pub(super) fn lt(self, other: impl Term<'s>) -> Mask<'s> {
        self.compare(Prim::Lt, other)
    }

    /// `self > other`
    pub(super) fn gt(self, other: impl Term<'s>) -> Mask<'s> {
        other.like(self).compare(Prim::Lt, self)
    }

    /// `self >= other`
    pub(super) fn ge(self, other: impl Term<'s>) -> Mask<'s> {
        other.like(self).compare(Prim::Le, self)
    }

    /// `self <= other`
    pub(super) fn le(self, other: impl Term<'s>) -> Mask<'s> {
        self.compare(Prim::Le, other)
    }

    /// `self == other`
    pub(super) fn eq(self, other: impl Term<'s>) -> Mask<'s> {
        self.compare(Prim::Eq, other)
    }

    /// `self != other`
    pub(super) fn ne(self, other: impl Term<'s>) -> Mask<'s> {
        self.compare(Prim::Ne, other)
    }

    /// True for NaN.
    pub(super) fn is_nan(self) -> Mask<'s> {
        self.ne(self)
    }

    /// One of two, by the dtype: for bodies that both share.
    pub(super) fn pick<T>(self, double: T, single: T) -> T {
        if self.dtype() == DType::F32 { single } else { double }
    }

    /// Converted to another float dtype.
    pub(super) fn cast(self, dtype: DType) -> Real<'s> {
        let value = self.scope.borrow_mut().cast(self.value, dtype);
        Real { scope: self.scope, value }
    }

    /// `self`, but infinite where `x` is, and NaN where `x` is; everywhere else it has to be above `x` less the largest
    /// number.
    ///
    /// A selection would put the common case first, which [`crate::kernel::rare`] takes for the rare one.
    pub(super) fn unless_infinite(self, x: Real<'s>) -> Real<'s> {
        self.max(x - x.pick(f64::MAX, f64::from(f32::MAX)))
    }

    /// The bits.
    pub(super) fn bits(self) -> Bits<'s> {
        let dtype = self.dtype().bits_dtype();
        let value = self.scope.borrow_mut().bitcast(self.value, dtype);
        Bits { scope: self.scope, value }
    }

    /// The sign bit alone.
    pub(super) fn sign(self) -> Bits<'s> {
        self.bits() & (1 << (self.dtype().bits() - 1))
    }

    /// The sign flipped where the sign bit of `sign` is set.
    pub(super) fn flip(self, sign: Bits<'s>) -> Real<'s> {
        (self.bits() ^ sign).real()
    }

    /// A non-negative number with the sign of another.
    pub(super) fn with_sign(self, of: Real<'s>) -> Real<'s> {
        (self.bits() | of.sign()).real()
    }

    /// The polynomial whose coefficients for this dtype these are.
    pub(super) fn either_polynomial(self, double: &[f64], single: &[f32]) -> Real<'s> {
        if self.dtype() == DType::F32 { self.polynomial(single) } else { self.polynomial(double) }
    }

    /// The polynomial with these coefficients, lowest first, by Horner's rule: the fewest operations.
    pub(super) fn polynomial<C: Copy + Into<f64>>(self, coefficients: &[C]) -> Real<'s> {
        let (last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
        rest.iter().rev().fold(self.constant((*last).into()), |sum, c| sum.fma(self, (*c).into()))
    }

    /// The polynomial with these two or more coefficients, lowest first, from those of its even and its odd ones: as many
    /// operations where the square is there already, and half as many wait for each other.
    pub(super) fn polynomial_by_square(self, square: Real<'s>, coefficients: &[f64]) -> Real<'s> {
        let half = |first: usize| coefficients[first..].iter().step_by(2).copied().collect::<Vec<f64>>();
        square.polynomial(&half(1)).fma(self, square.polynomial(&half(0)))
    }
}

/// The polynomial as a pair, its first coefficient being `coefficients[0] + low` and large beside the rest.
pub(super) fn split_polynomial<'s>(x: Real<'s>, coefficients: &[f64], low: f64) -> Pair<'s> {
    let (first, rest) = coefficients.split_first().expect("a polynomial has coefficients");
    let sum = fast_two_sum(x.constant(*first), x.polynomial(rest) * x);
    Pair { high: sum.high, low: sum.low + low }
}

impl<'s> Bits<'s> {
    fn prim(self, prim: Prim, other: Bits<'s>) -> Bits<'s> {
        let value = self.scope.borrow_mut().prim(prim, &[self.value, other.value]);
        Bits { scope: self.scope, value }
    }

    /// A constant of this value's dtype.
    pub(super) fn constant(self, x: u64) -> Bits<'s> {
        let mut b = self.scope.borrow_mut();
        let dtype = b.dtype(self.value);
        let value = b.bits(dtype, x);
        Bits { scope: self.scope, value }
    }

    /// Shifted left by a constant.
    pub(super) fn shl(self, count: u64) -> Bits<'s> {
        self.prim(Prim::Shl, self.constant(count))
    }

    /// Shifted right by a constant, filled with zeros.
    pub(super) fn shr(self, count: u64) -> Bits<'s> {
        self.prim(Prim::Shr, self.constant(count))
    }

    /// Of 32 bits: the signed integer over `2^count`, rounded down, as an `f32`.
    pub(super) fn quotient_f32(self, count: u64) -> Real<'s> {
        let mut b = self.scope.borrow_mut();
        let signed = b.bitcast(self.value, DType::I32);
        let count = b.bits(DType::I32, count);
        let quotient = b.shr(signed, count);
        let value = b.cast(quotient, DType::F32);
        Real { scope: self.scope, value }
    }

    /// `self != x`
    pub(super) fn ne(self, x: u64) -> Mask<'s> {
        let x = self.constant(x);
        let value = self.scope.borrow_mut().prim(Prim::Ne, &[self.value, x.value]);
        Mask { scope: self.scope, value }
    }

    /// The float with these bits.
    pub(super) fn real(self) -> Real<'s> {
        let mut b = self.scope.borrow_mut();
        let dtype = if b.dtype(self.value).size() == 4 { DType::F32 } else { DType::F64 };
        let value = b.bitcast(self.value, dtype);
        Real { scope: self.scope, value }
    }
}

impl<'s> Mask<'s> {
    /// `self ? x : y`
    pub(super) fn select(self, x: Real<'s>, y: impl Term<'s>) -> Real<'s> {
        let y = y.like(x);
        let value = self.scope.borrow_mut().select(self.value, x.value, y.value);
        Real { scope: self.scope, value }
    }

    /// `self ? x : y`
    pub(super) fn select_bits(self, x: Bits<'s>, y: Bits<'s>) -> Bits<'s> {
        let value = self.scope.borrow_mut().select(self.value, x.value, y.value);
        Bits { scope: self.scope, value }
    }

    fn prim(self, prim: Prim, other: Mask<'s>) -> Mask<'s> {
        let value = self.scope.borrow_mut().prim(prim, &[self.value, other.value]);
        Mask { scope: self.scope, value }
    }
}

impl<'s> Neg for Real<'s> {
    type Output = Real<'s>;
    fn neg(self) -> Real<'s> {
        self.prim(Prim::Neg, &[])
    }
}

impl<'s> Not for Mask<'s> {
    type Output = Mask<'s>;
    fn not(self) -> Mask<'s> {
        let value = self.scope.borrow_mut().not(self.value);
        Mask { scope: self.scope, value }
    }
}

macro_rules! real_operator {
    ($($operator:ident $method:ident $prim:ident;)*) => {$(
        impl<'s, T: Term<'s>> $operator<T> for Real<'s> {
            type Output = Real<'s>;
            fn $method(self, other: T) -> Real<'s> {
                let other = other.like(self);
                self.prim(Prim::$prim, &[other])
            }
        }
        impl<'s> $operator<Real<'s>> for f64 {
            type Output = Real<'s>;
            fn $method(self, other: Real<'s>) -> Real<'s> {
                other.constant(self).prim(Prim::$prim, &[other])
            }
        }
    )*};
}
real_operator! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
}

macro_rules! bits_operator {
    ($($operator:ident $method:ident $prim:ident;)*) => {$(
        impl<'s> $operator for Bits<'s> {
            type Output = Bits<'s>;
            fn $method(self, other: Bits<'s>) -> Bits<'s> {
                self.prim(Prim::$prim, other)
            }
        }
        impl<'s> $operator<u64> for Bits<'s> {
            type Output = Bits<'s>;
            fn $method(self, other: u64) -> Bits<'s> {
                self.prim(Prim::$prim, self.constant(other))
            }
        }
    )*};
}
bits_operator! {
    Add add Add;
    Sub sub Sub;
    BitAnd bitand And;
    BitOr bitor Or;
    BitXor bitxor Xor;
}

macro_rules! mask_operator {
    ($($operator:ident $method:ident $prim:ident;)*) => {$(
        impl<'s> $operator for Mask<'s> {
            type Output = Mask<'s>;
            fn $method(self, other: Mask<'s>) -> Mask<'s> {
                self.prim(Prim::$prim, other)
            }
        }
    )*};
}
mask_operator! {
    BitAnd bitand And;
    BitOr bitor Or;
    BitXor bitxor Xor;
}

/// An unevaluated sum `high + low`, with `|low|` at most a rounding error of `high`: about 106 bits.
#[derive(Clone, Copy)]
pub(super) struct Pair<'s> {
    /// The nearest float.
    pub(super) high: Real<'s>,
    /// What it misses.
    pub(super) low: Real<'s>,
}

/// `x + y` exactly (Knuth's two-sum; 6 operations, any magnitudes).
pub(super) fn two_sum<'s>(x: Real<'s>, y: Real<'s>) -> Pair<'s> {
    let high = x + y;
    let y_part = high - x;
    let low = (x - (high - y_part)) + (y - y_part);
    Pair { high, low }
}

/// `x + y` exactly where `|x| >= |y|` or `x == 0` (Dekker's fast two-sum; 3 operations).
pub(super) fn fast_two_sum<'s>(x: Real<'s>, y: Real<'s>) -> Pair<'s> {
    let high = x + y;
    Pair { high, low: y - (high - x) }
}

/// `x * y` exactly, if the low part does not underflow.
pub(super) fn two_product<'s>(x: Real<'s>, y: impl Term<'s>) -> Pair<'s> {
    let y = y.like(x);
    let high = x * y;
    Pair { high, low: x.fma(y, -high) }
}

/// `n / d` to about 2^-100, with one division; the low part is rough where the quotient is subnormal.
pub(super) fn quotient<'s>(n: Pair<'s>, d: Pair<'s>) -> Pair<'s> {
    let reciprocal = 1.0 / d.high;
    let high = n.high * reciprocal;
    let minus_high = -high;
    let remainder = minus_high.fma(d.low, minus_high.fma(d.high, n.high) + n.low);
    Pair { high, low: remainder * reciprocal }
}

impl<'s> Pair<'s> {
    /// The nearest float.
    pub(super) fn round(self) -> Real<'s> {
        self.high + self.low
    }
}
