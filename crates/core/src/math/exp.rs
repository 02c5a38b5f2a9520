//! Exponentials: `e^x`, `2^x`, `e^x - 1`, and what is made of them: the logistic and the hyperbolic functions.
//!
//! All reduce `x = k ln 2 + r` with `|r| <= ln(2)/2` after Cody and Waite ("Software Manual for the Elementary
//! Functions", 1980), and evaluate `e^r = 1 + r + r^2 q(r)` with a minimax `q`: by Horner's rule where it is the result,
//! as a pair where it is on the way to one. `2^k` is a product by a power made in the exponent field where that cannot leave
//! the normal range, and [`Prim::Scale`](crate::kernel::Prim::Scale) where it can.

use super::coefficients::{
    EXP, EXP_F32, EXP_MINUS_ONE, EXP_MINUS_ONE_F32, EXP_SINGLE, EXP2, EXP2_F32, EXP2_SINGLE, SINH, SINH_F32, TANH,
    TANH_DENOMINATOR_F32, TANH_EXP_F32, TANH_F32,
};
use super::real::{Bits, Goal, Pair, Real, fast_two_sum, in_dtype, in_either, two_sum};
use crate::kernel::{Builder, Value};
use std::f64::consts::{LN_2, LOG2_E};

/// `1.5 * 2^52`: added to a number below 2^51 it rounds it to an integer, which then stands in the low bits.
pub(super) const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// `ln 2 - LN_2`
pub(super) const LN_2_LOW: f64 = 2.3190468138462996e-17;
/// `ln 2` in 24 bits, and what it misses.
const LN_2_F32: f64 = 0.693_147_182_464_599_6;
const LN_2_F32_LOW: f64 = -1.904_654_299_957_768e-9;
/// The bits of `1.0`.
const ONE: u64 = 0x3ff0_0000_0000_0000;

/// `1.5 * 2^52`, or `1.5 * 2^23` in `f32`, as [`ROUNDER`].
pub(super) fn rounder(x: Real<'_>) -> f64 {
    x.pick(ROUNDER, 12_582_912.0)
}

/// The bias of the exponent field.
pub(super) fn bias(x: Real<'_>) -> f64 {
    x.pick(1023.0, 127.0)
}

/// The integer in the low bits as an exponent field: `2^k`, if `k` and the bias are there.
pub(super) fn power(shifted: Real<'_>) -> Real<'_> {
    shifted.bits().shl(shifted.pick(52, 23)).real()
}

/// Two powers of two, both normal, whose product is `2^k`, where `k` and twice the bias stand in the low bits.
pub(super) fn scales(shifted: Real<'_>) -> [Real<'_>; 2] {
    let (digits, field) = shifted.pick((52, 0x7ff0_0000_0000_0000), (23, 0x7f80_0000));
    let bits = shifted.bits();
    // Half of the number, rounded down, and the rest: bits above the field drop out.
    let half = bits.shl(digits - 1) & field;
    [half, bits.shl(digits) - half].map(|field| field.real())
}

/// What computes [`Prim::Scale`](crate::kernel::Prim::Scale). The first product is exact, unless the second one is zero or infinite in
/// any case.
pub(crate) fn scale(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x, k]| {
        let [s, t] = scales(k + (rounder(x) + 2.0 * bias(x)));
        x * s * t
    })
}

/// `x` less a multiple of `ln 2`.
pub(super) struct Reduced<'s> {
    /// An integer `k` and a bias in its low bits.
    pub(super) shifted: Real<'s>,
    k: Real<'s>,
    /// `x - k ln 2`, to half an ULP.
    r: Real<'s>,
    /// What `r` misses, for the builder to drop where it is not used.
    r_low: Real<'s>,
}

impl<'s> Reduced<'s> {
    /// Of a number for which `k` and the bias are in the range of [`power`] or [`scales`].
    fn of(x: Real<'s>, bias: f64) -> Reduced<'s> {
        let (ln_2, ln_2_low) = x.pick((LN_2, LN_2_LOW), (LN_2_F32, LN_2_F32_LOW));
        let rounder = rounder(x) + bias;
        let shifted = x.fma(LOG2_E, rounder);
        let k = shifted - rounder;
        // The first product and difference are exact together.
        let head = k.fma(-ln_2, x);
        let r = k.fma(-ln_2_low, head);
        Reduced { shifted, k, r, r_low: k.fma(-ln_2_low, head - r) }
    }

    /// Of a number whose exponential may be out of range, for [`scales`].
    pub(super) fn wide(x: Real<'s>) -> Reduced<'s> {
        Reduced::of(x, 2.0 * bias(x))
    }

    /// `e^r`: its error is a half of an ULP for the sum, and almost as much for the rounding of `r` and of `r u`.
    fn significand(&self) -> Real<'s> {
        let r = self.r;
        r.either_polynomial(&EXP, &EXP_F32).fma(r, 1.0).fma(r, 1.0)
    }

    /// `e^r` as a pair: the rounding of `r` is left, a quarter of an ULP.
    pub(super) fn significand_pair(&self) -> Pair<'s> {
        let r = self.r;
        let q = r.either_polynomial(&EXP, &EXP_F32);
        let high = q.fma(r, 1.0).fma(r, 1.0);
        // Both differences are exact.
        Pair { high, low: q.fma(r * r, r - (high - 1.0)) }
    }
}

/// `2^r` for `|r| <= 1/2`.
pub(super) fn power_of_fraction(r: Real<'_>) -> Real<'_> {
    r.either_polynomial(&EXP2, &EXP2_F32).fma(r, 1.0)
}

/// `2^(x + low)`, rounded once more where it is subnormal; `x` is within the range of exponents and a little more.
pub(super) fn power_of_two<'s>(x: Real<'s>, low: Option<Real<'s>>) -> Real<'s> {
    let rounder = rounder(x);
    let k = (x + rounder) - rounder;
    let r = x - k;
    power_of_fraction(low.map_or(r, |low| r + low)).scale(k)
}

/// `2^x` for an `f32` from an `x` below 1000.
pub(super) fn power_of_two_single(x: Real<'_>) -> Real<'_> {
    let rounder = ROUNDER + 1023.0;
    let shifted = x + rounder;
    let r = x - (shifted - rounder);
    r.polynomial(&EXP2_SINGLE).fma(r, 1.0) * power(shifted)
}

/// `2^k (1 + r + tail)` in `f64`, for arguments that are sums; `k` stands in the low bits of `exponent`.
pub(super) struct Exponential<'s> {
    exponent: Bits<'s>,
    r: Real<'s>,
    tail: Real<'s>,
}

impl<'s> Exponential<'s> {
    /// `e^x` for `|x| < 2^40`; for [`Goal::Single`] `|x| < 2^10`.
    pub(super) fn of(x: Real<'s>, goal: Goal) -> Exponential<'s> {
        Exponential::reduced(x, None, goal, &EXP)
    }

    /// `e^(x + low)` with `|low|` small beside 1.
    pub(super) fn of_sum(x: Real<'s>, low: Real<'s>) -> Exponential<'s> {
        Exponential::reduced(x, Some(low), Goal::Double, &EXP_MINUS_ONE)
    }

    /// `x - k ln 2` is exact with `ln 2` in 53 bits: it is a multiple of 2^-54 below 1.
    fn reduced(x: Real<'s>, low: Option<Real<'s>>, goal: Goal, coefficients: &[f64]) -> Exponential<'s> {
        let shifted = x.fma(LOG2_E, ROUNDER);
        let k = shifted - ROUNDER;
        let head = k.fma(-LN_2, x);
        if goal == Goal::Single {
            return Exponential::of_reduced(shifted.bits(), head, None, &EXP_SINGLE);
        }
        let r = k.fma(-LN_2_LOW, head);
        let r_low = k.fma(-LN_2_LOW, head - r);
        let sum = match low {
            Some(low) => fast_two_sum(r, r_low + low),
            None => Pair { high: r, low: r_low },
        };
        Exponential::of_reduced(shifted.bits(), sum.high, Some(sum.low), coefficients)
    }

    /// `2^k e^(r + low)` for `|r| <= ln(2)/2`.
    fn of_reduced(exponent: Bits<'s>, r: Real<'s>, low: Option<Real<'s>>, coefficients: &[f64]) -> Exponential<'s> {
        let q = r.polynomial(coefficients);
        let square = r * r;
        let tail = match low {
            Some(low) => q.fma(square, low.fma(r, low)),
            None => q * square,
        };
        Exponential { exponent, r, tail }
    }

    /// `1 + r + tail`, normalised.
    pub(super) fn significand(&self) -> Pair<'s> {
        let sum = 1.0 + self.r;
        fast_two_sum(sum, self.r - (sum - 1.0) + self.tail)
    }

    /// The value, rounded; `k` is in the normal range.
    pub(super) fn normal(&self, goal: Goal) -> Real<'s> {
        let y = match goal {
            Goal::Double => {
                let sum = 1.0 + self.r;
                sum + (self.r - (sum - 1.0) + self.tail)
            }
            Goal::Single => 1.0 + (self.r + self.tail),
        };
        y * self.power()
    }

    /// `2^k`, in the normal range.
    fn power(&self) -> Real<'s> {
        (self.exponent.shl(52) + ONE).real()
    }

    /// Two powers of two, both normal, whose product is `2^k`; `|k| < 2000`.
    pub(super) fn scales(&self) -> [Real<'s>; 2] {
        let half = self.exponent.shr(1);
        [half, self.exponent - half].map(|k| (k.shl(52) + ONE).real())
    }
}

/// `e^x`. Error at most 0.90 ULP.
pub fn exp(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let (low, high) = x.pick((-746.0, 710.0), (-104.5, 89.0));
        let reduced = Reduced::of(x.clamp(low, high), 0.0);
        reduced.significand().scale(reduced.k)
    })
}

/// `2^x`. Error at most 0.90 ULP; exact for integers.
pub fn exp2(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let (low, high) = x.pick((-1080.0, 1025.0), (-151.0, 129.0));
        power_of_two(x.clamp(low, high), None)
    })
}

/// `e^x - 1`. Error at most 0.85 ULP in `f64`, 0.96 in `f32`.
///
/// Half of it is `(2^(k-1) - 1/2) + 2^(k-1) r`, with its rounding errors, and `2^(k-1)` times the rest.
pub fn expm1(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let (low, high) = x.pick((-40.0, 710.0), (-20.0, 89.0));
        let Reduced { shifted, r, r_low, .. } = Reduced::of(x.clamp(low, high), bias(x) - 1.0);
        let s = power(shifted);
        let head = s - 0.5;
        let high = s.fma(r, head);
        let low = s.fma(r, head - high) + ((s - head) - 0.5);
        let q = r.either_polynomial(&EXP_MINUS_ONE, &EXP_MINUS_ONE_F32);
        // In f32 ln 2 is so near 24 bits that r hardly misses anything where that counts, for k = 1.
        let tail = if x.pick(true, false) { q.fma(r * r, r_low.fma(r, r_low)) } else { q * (r * r) };
        let half = high + s.fma(tail, low);
        // Half of a subnormal is not exact, and zeros keep their signs.
        x.abs().lt(x.pick(1e-17, 1e-8)).select(x, half + half)
    })
}

/// `1 / (1 + e^-x)`. Error at most 0.85 ULP.
///
/// Numerator and denominator are over a power of two, so that neither overflows before the result underflows.
pub fn sigmoid(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let (shift, low, high) = x.pick((512, -746.0, 40.0), (64, -104.5, 18.0));
        let unit = 2.0_f64.powi(-shift);
        let reduced = Reduced::of(-x.clamp(low, high), bias(x) - f64::from(shift));
        let power = power(reduced.shifted);
        let e = reduced.significand_pair();
        let sum = two_sum(e.high * power, x.constant(unit));
        let low = e.low.fma(power, sum.low);
        let y = 1.0 / sum.high;
        let minus_y = -y;
        let rest = minus_y.fma(low, minus_y.fma(sum.high, 1.0));
        rest.fma(y, y) * unit
    })
}

/// `tanh(x)`. Error at most 0.95 ULP in `f64`, 0.98 in `f32`.
pub fn tanh(b: &mut Builder, args: &[Value]) -> Value {
    in_either(b, args, |[x]| tanh_single(x), |[x]| tanh_double(x))
}

/// `x + x z P(z)/Q(z)` with `z = x^2` up to 0.95, `1 - 1 / (e^2|x| / 2 + 1/2)` above, in one division and one last sum.
///
/// Where these meet the quotient counts most. So its operands are just below powers of two there, which is what 7/8 is
/// for, and rounded by less.
fn tanh_single(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let z = ax * ax;
    // 2|x| = k ln 2 + 2r. From this bound on tanh is 1, and one part of ln 2 is precise enough.
    let bounded = x.constant(9.1).min(ax);
    let rounder = rounder(x) + (bias(x) - 1.0);
    let shifted = bounded.fma(2.0 * LOG2_E, rounder);
    let r = (shifted - rounder).fma(-0.5 * LN_2, bounded);
    let e = r.polynomial(&TANH_EXP_F32).fma(r, 0.875);
    let near = ax.lt(0.95);
    let numerator = near.select(z.polynomial(&TANH_F32) * z, -0.875);
    let denominator = near.select(z.polynomial(&TANH_DENOMINATOR_F32), e.fma(power(shifted), 0.4375));
    let base = near.select(ax, 1.0);
    (numerator / denominator).fma(base, base).with_sign(x)
}

/// `1/d - 1` with `d = (1 + e^-2|x|) / 2` as a pair between 1/2 and 1: its reciprocal less 1 is exact, and what the
/// reciprocal misses is added last.
fn tanh_double(x: Real<'_>) -> Real<'_> {
    // From this bound on tanh is 1. -2|x| = k ln 2 + 2r, and r is exact but for the second part of ln 2.
    let minus_ax = x.constant(-20.0).max(x.minus_abs());
    // The bit above the exponent makes it -2^k.
    let rounder = ROUNDER + 2048.0 + bias(x);
    let shifted = minus_ax.fma(2.0 * LOG2_E, rounder);
    let minus_power = power(shifted);
    let k = shifted - rounder;
    let r = k.fma(-0.5 * LN_2, minus_ax);
    // e^2r / 2 = 1/2 + r + tail
    let square = r * r;
    let tail = r.polynomial_by_square(square, &TANH).fma(square, k * (-0.5 * LN_2_LOW));
    let minus_d = minus_power.fma(tail, minus_power.fma(r, minus_power.fma(0.5, -0.5)));
    // The same sum from the other end: what the first one lost.
    let rest = minus_power.fma(tail, minus_power.fma(r, minus_power.fma(0.5, -0.5 - minus_d)));
    let y = -1.0 / minus_d;
    let missed = y.fma(rest, y.fma(minus_d, 1.0));
    let y = missed.fma(y, y - 1.0).with_sign(x);
    // The units of what is added are those of 1.
    minus_ax.gt(-1e-8).select(x, y)
}

/// `sinh(x)`. Error at most 0.90 ULP.
///
/// A polynomial up to 1, twice `h - 1 / (16 h)` with `h = e^|x| / 4` above.
pub fn sinh(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let ax = x.abs();
        let z = ax * ax;
        let near = z.either_polynomial(&SINH, &SINH_F32).fma(ax * z, ax);
        let h = quarter_exponential(ax);
        let half = h.high + (h.low - 0.0625 / h.high);
        ax.lt(1.0).select(near, half + half).with_sign(x)
    })
}

/// `cosh(x)`. Error at most 0.95 ULP.
///
/// Twice `h + 1 / (16 h)` with `h = e^|x| / 4`: no overflow before the result's.
pub fn cosh(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| {
        let h = quarter_exponential(x.abs());
        let half = h.high + (h.low + 0.0625 / h.high);
        half + half
    })
}

/// `e^ax / 4` as a pair, for a number not below 0; finite wherever the hyperbolic functions are.
fn quarter_exponential(ax: Real<'_>) -> Pair<'_> {
    let most = ax.constant(ax.pick(710.6, 89.5));
    let reduced = Reduced::of(most.min(ax), bias(ax) - 2.0);
    let power = power(reduced.shifted);
    let e = reduced.significand_pair();
    Pair { high: e.high * power, low: e.low * power }
}
