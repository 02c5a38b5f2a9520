//! Logarithms, and the inverse hyperbolic functions, which are logarithms of algebraic expressions.
//!
//! All split `x = 2^k m` with `m` in `[sqrt(1/2), sqrt(2))` and use `log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2))` with
//! `f = m - 1` and `s = f / (2 + f)` (fdlibm's `e_log.c`, Ng 1993; minimax `R`). `f` is exact, the two leading terms
//! are summed with their rounding errors, and the rest is small beside them.

use super::coefficients::{LOG, LOG_SINGLE};
use super::exp::Exponential;
use super::real::{Goal, Pair, Real, fast_two_sum, in_either, in_f64, quotient, two_product, two_sum};
use super::single;
use crate::kernel::{Builder, Value};
use std::f64::consts::{LN_2, LOG2_E, LOG10_E};

/// `log2(e) - LOG2_E`
const LOG2_E_LOW: f64 = 2.0355273740931033e-17;
/// `log10(e) - LOG10_E`
const LOG10_E_LOW: f64 = 1.098319650216765e-17;
/// `ln 2` and `log10(2)` cut to 42 bits, so that a product with an exponent is exact, and what they miss.
const LN_2_CUT: f64 = 0.6931471805598903;
const LN_2_REST: f64 = 5.497923018708371e-14;
const LOG10_2_CUT: f64 = 0.30102999566383914;
const LOG10_2_REST: f64 = 1.42050232272661e-13;
/// The bits of `sqrt(1/2)`.
const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
const MANTISSA: u64 = 0x000f_ffff_ffff_ffff;

/// `2^k (1 + f + f_low)`, and the terms of its logarithm.
struct Split<'s> {
    k: Real<'s>,
    f: Real<'s>,
    f_low: Option<Real<'s>>,
}

impl<'s> Split<'s> {
    /// Of `2^offset x`, where `x` is positive, finite and normal. Anything for other arguments.
    fn of(x: Real<'s>, offset: f64) -> Split<'s> {
        // The exponent plus 2048 stands above the mantissa's distance from that of sqrt(1/2).
        let distance = x.bits() + (2048_u64 << 52).wrapping_sub(SQRT_HALF);
        let k = (distance.shr(52) | 0x4330_0000_0000_0000).real() + (offset - BIAS);
        let m = ((distance & MANTISSA) + SQRT_HALF).real();
        Split { k, f: m - 1.0, f_low: None }
    }

    /// Of `x.high + x.low`, a normal number.
    fn of_pair(x: Pair<'s>) -> Split<'s> {
        Split::of_sum(x, None)
    }

    /// Of `x.high + x.low + rest`, a normal number.
    fn of_sum(x: Pair<'s>, rest: Option<Real<'s>>) -> Split<'s> {
        let distance = x.high.bits() + (2048_u64 << 52).wrapping_sub(SQRT_HALF);
        let k = (distance.shr(52) | 0x4330_0000_0000_0000).real() + -BIAS;
        let m = ((distance & MANTISSA) + SQRT_HALF).real();
        // 2^(1-k), which is 0 instead of subnormal for the largest numbers, whose low part does not matter.
        let scale = (distance & !MANTISSA).constant((2048 + 1024) << 52) - (distance & !MANTISSA);
        let scale = scale.real() * 0.5;
        let f = fast_two_sum(m - 1.0, x.low * scale);
        let f_low = rest.map_or(f.low, |rest| rest.fma(scale, f.low));
        Split { k, f: f.high, f_low: Some(f_low) }
    }

    /// `f^2/2`, and `log(1 + f) - f + f^2/2`.
    fn terms(&self) -> (Real<'s>, Real<'s>) {
        let f = self.f;
        let s = f / (f + 2.0);
        let z = s * s;
        let half_square = (f * 0.5) * f;
        let sum = z.polynomial(&LOG).fma(z, half_square);
        let rest = match self.f_low {
            Some(low) => s.fma(sum, (-low).fma(f, low)),
            None => s * sum,
        };
        (half_square, rest)
    }

    /// `log(1 + f)` for a result in `f32`.
    fn single(&self) -> Real<'s> {
        let s = self.f / (self.f + 2.0);
        let z = s * s;
        s * z.polynomial(&LOG_SINGLE).fma(z, 2.0)
    }

    /// The natural logarithm.
    fn natural(&self, goal: Goal) -> Real<'s> {
        match goal {
            Goal::Double => {
                // log(1 + f) = f - s (f - R), fdlibm's e_log.c.
                let f = self.f;
                let s = f / (f + 2.0);
                let z = s * s;
                let excess = (-z.polynomial(&LOG)).fma(z, f);
                let high = self.k.fma(LN_2_CUT, f);
                let low = f - self.k.fma(-LN_2_CUT, high);
                let low = self.k.fma(LN_2_REST, low);
                let low = self.f_low.map_or(low, |f_low| low + (-f_low).fma(f, f_low));
                high + (-s).fma(excess, low)
            }
            Goal::Single => self.k.fma(LN_2, self.single()),
        }
    }

    /// `log(1 + f)` as a pair.
    fn mantissa(&self) -> Pair<'s> {
        let (half_square, rest) = self.terms();
        let high = self.f - half_square;
        Pair { high, low: ((self.f - high) - half_square) + rest }
    }

    /// The logarithm to another base, of which `log_2` is the logarithm of 2 and `scale` that of e.
    fn base(&self, log_2: (f64, f64), scale: (f64, f64), goal: Goal) -> Real<'s> {
        match goal {
            Goal::Double => {
                let m = self.mantissa();
                let p = two_product(m.high, scale.0);
                let p_low = m.low.fma(scale.0, m.high.fma(scale.1, p.low));
                let sum = fast_two_sum(self.k * log_2.0, p.high);
                let p_low = if log_2.1 == 0.0 { p_low } else { self.k.fma(log_2.1, p_low) };
                sum.high + (sum.low + p_low)
            }
            Goal::Single => self.k.fma(log_2.0 + log_2.1, self.single() * scale.0),
        }
    }
}

/// The power of two that makes subnormal numbers normal ones.
const SUBNORMAL_LIFT: f64 = 54.0;
/// What the exponent plus 2048 is lifted by when it is read as a float.
const BIAS: f64 = 4_503_599_627_370_496.0 + 2048.0;

/// A logarithm of any number, given that of `2^offset x` for a positive, finite and normal `x`: what is below the normal
/// numbers is rare.
pub(super) fn of_any<'s>(x: Real<'s>, logarithm: impl Fn(Real<'s>, f64) -> Real<'s>) -> Real<'s> {
    let normal = logarithm(x, 0.0).unless_infinite(x);
    let lift = x.pick(SUBNORMAL_LIFT, 23.0);
    let lifted = logarithm(x * lift.exp2(), -lift);
    let outside = x.eq(0.0).select(x.constant(f64::NEG_INFINITY), f64::NAN);
    let least = x.pick(f64::MIN_POSITIVE, f64::from(f32::MIN_POSITIVE));
    x.lt(least).select(x.le(0.0).select(outside, lifted), normal)
}

/// Natural logarithm. Error at most 0.80 ULP in `f64`, 0.90 in `f32`.
pub fn log(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::log::log(x),
        |[x]| of_any(x, |x, offset| Split::of(x, offset).natural(Goal::Double)),
    )
}

/// Logarithm to base 2. Error at most 0.80 ULP in `f64`, 0.96 in `f32`; exact for powers of two.
pub fn log2(b: &mut Builder, args: &[Value]) -> Value {
    let scale = (LOG2_E, LOG2_E_LOW);
    in_either(
        b,
        args,
        |[x]| single::log::log2(x),
        |[x]| of_any(x, |x, offset| Split::of(x, offset).base((1.0, 0.0), scale, Goal::Double)),
    )
}

/// Logarithm to base 10. Error at most 0.70 ULP in `f64`, 0.86 in `f32`; exact for powers of ten.
pub fn log10(b: &mut Builder, args: &[Value]) -> Value {
    let (log_2, scale) = ((LOG10_2_CUT, LOG10_2_REST), (LOG10_E, LOG10_E_LOW));
    in_either(
        b,
        args,
        |[x]| single::log::log10(x),
        |[x]| of_any(x, |x, offset| Split::of(x, offset).base(log_2, scale, Goal::Double)),
    )
}

/// `log(1 + x)`. Error at most 0.80 ULP in `f64`, 0.90 in `f32`.
pub fn log1p(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::log::log1p(x),
        |[x]| {
            let y = Split::of_pair(two_sum(x, x.constant(1.0))).natural(Goal::Double);
            let outside = x.eq(-1.0).select(x.constant(f64::NEG_INFINITY), f64::NAN);
            let y = x.le(-1.0).select(outside, y.unless_infinite(x));
            // Also keeps the sign of zero.
            x.abs().lt(1e-17).select(x, y)
        },
    )
}

/// `1 + f` for a result in `f32`: near 1 the sum would lose `f`.
fn one_plus(f: Real<'_>) -> Split<'_> {
    let sum = Split::of(f + 1.0, 0.0);
    Split { f: f.abs().lt(0.25).select(f, sum.f), ..sum }
}

/// `log(1 + e^x)` without overflow. Error at most 0.85 ULP in `f64`, 0.95 in `f32`.
pub fn softplus(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::log::softplus(x),
        |[x]| {
            let e = Exponential::of((-x.abs()).clamp(-746.0, 0.0), Goal::Double);
            let m = e.significand();
            let [s, t] = e.scales();
            let u = fast_two_sum(x.constant(1.0), m.high * s * t);
            let split = Split::of_sum(u, Some(m.low * s * t));
            let (half_square, rest) = split.terms();
            // k is 0 or 1 here. Below 2^-54 the logarithm is e itself, whose own rounding then comes last.
            let sum = fast_two_sum(split.k * LN_2_CUT, split.f);
            let low = sum.low - (half_square - split.k.fma(LN_2_REST, rest));
            let total = two_sum(x.max(0.0), sum.high);
            let y = total.high + (total.low + low);
            let y = x.lt(-38.0).select((m.high + m.low) * s * t, y);
            y.unless_infinite(x)
        },
    )
}

/// The square root of a pair, at least 0, as a pair.
fn square_root(x: Pair<'_>) -> Pair<'_> {
    let high = x.high.sqrt();
    let rest = (-high).fma(high, x.high) + x.low;
    // The divisor is 0 only if the whole root is.
    Pair { high, low: rest * (0.5 / high.max(f64::MIN_POSITIVE)) }
}

/// Inverse hyperbolic sine: `log(|x| + sqrt(x^2 + 1))`. Error at most 0.85 ULP in `f64`, 0.51 in `f32`.
pub fn arcsinh(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let y = match goal {
            Goal::Double => {
                // From 2^30 on `sqrt(x^2 + 1)` is `x`, and the argument `2x`.
                let large = ax.gt(1_073_741_824.0);
                let small = large.select(x.constant(1.0), ax);
                let square = two_product(small, small);
                let sum = two_sum(square.high, x.constant(1.0));
                let root = square_root(Pair { high: sum.high, low: sum.low + square.low });
                let u = two_sum(root.high, small);
                let low = large.select(x.constant(0.0), u.low + root.low);
                let mut split = Split::of_pair(Pair { high: large.select(ax, u.high), low });
                split.k = split.k + large.select(x.constant(1.0), 0.0);
                let y = split.natural(goal);
                ax.lt(1e-9).select(ax, y)
            }
            Goal::Single => {
                let square = ax * ax;
                one_plus(ax + square / (1.0 + (square + 1.0).sqrt())).natural(goal)
            }
        };
        y.unless_infinite(ax).with_sign(x)
    })
}

/// Inverse hyperbolic cosine: `log(x + sqrt(x^2 - 1))`. Error at most 0.80 ULP in `f64`, 0.51 in `f32`.
pub fn arccosh(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let y = match goal {
            Goal::Double => {
                let large = x.gt(1_073_741_824.0);
                let small = large.select(x.constant(1.0), x);
                let square = two_product(small, small);
                let difference = two_sum(square.high, x.constant(-1.0));
                let sum = fast_two_sum(difference.high, difference.low + square.low);
                let root = square_root(sum);
                let u = two_sum(small, root.high);
                let low = large.select(x.constant(0.0), u.low + root.low);
                let mut split = Split::of_pair(Pair { high: large.select(x, u.high), low });
                split.k = split.k + large.select(x.constant(1.0), 0.0);
                split.natural(goal)
            }
            Goal::Single => {
                let d = x - 1.0;
                one_plus(d + (d * (x + 1.0)).sqrt()).natural(goal)
            }
        };
        x.lt(1.0).select(x.constant(f64::NAN), y.unless_infinite(x))
    })
}

/// Inverse hyperbolic tangent: `log((1 + x) / (1 - x)) / 2`. Error at most 0.90 ULP in `f64`, 0.51 in `f32`.
pub fn arctanh(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let y = match goal {
            Goal::Double => {
                let d = fast_two_sum(x.constant(1.0), -ax);
                let q = quotient(Pair { high: ax + ax, low: x.constant(0.0) }, d);
                let u = two_sum(q.high, x.constant(1.0));
                let y = Split::of_pair(Pair { high: u.high, low: u.low + q.low }).natural(goal);
                ax.lt(1e-9).select(ax, 0.5 * y)
            }
            Goal::Single => 0.5 * one_plus((ax + ax) / (1.0 - ax)).natural(goal),
        };
        let y = ax.eq(1.0).select(x.constant(f64::INFINITY), y);
        (!ax.le(1.0)).select(x.constant(f64::NAN), y.with_sign(x))
    })
}

/// The exponent of a positive number, and its significand, within a factor `sqrt 2` of 1, less 1.
pub(super) fn binary_parts(x: Real<'_>) -> (Real<'_>, Real<'_>) {
    let subnormal = x.lt(f64::MIN_POSITIVE);
    let lifted = subnormal.select(x * SUBNORMAL_LIFT.exp2(), x);
    let split = Split::of(lifted, 0.0);
    (split.k - subnormal.select(x.constant(SUBNORMAL_LIFT), 0.0), split.f)
}

/// `log2` of a positive number to about 2^-36, relative to the result.
pub(super) fn log2_single(x: Real<'_>) -> Real<'_> {
    Split::of(x, 0.0).base((1.0, 0.0), (LOG2_E, 0.0), Goal::Single)
}

/// `1 / ln 2` as the sum of two numbers.
pub(super) const INVERSE_LN_2: (f64, f64) = (LOG2_E, LOG2_E_LOW);
