//! Exponentials: `e^x`, `2^x`, `e^x - 1`, and what is made of them: the logistic and the hyperbolic functions.
//!
//! All reduce `x = k ln 2 + r` with `|r| <= ln(2)/2` after Cody and Waite ("Software Manual for the Elementary
//! Functions", 1980), and evaluate `e^r = 1 + r + r^2 q(r)` with a minimax `q`. The reduced argument keeps a low part,
//! and `1 + r` is summed exactly, so that little but the final rounding is lost. `2^k` is applied by adding `k` to the
//! exponent field: in one step where that cannot leave the normal range, in two where it can.

use super::coefficients::{EXP, EXP_MINUS_ONE, EXP_SINGLE};
use super::real::{Bits, Goal, Pair, Real, fast_two_sum, in_either, in_f64, quotient, two_sum};
use super::single;
use crate::kernel::{Builder, Value};
use std::f64::consts::{LN_2, LOG2_E};

/// `1.5 * 2^52`: added to a number below 2^51 it rounds it to an integer, which then stands in the low bits.
pub(super) const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// `ln 2 - LN_2`
pub(super) const LN_2_LOW: f64 = 2.3190468138462996e-17;
/// The bits of `1.0`.
const ONE: u64 = 0x3ff0_0000_0000_0000;

/// `2^k (1 + r + tail)`; `k` stands in the low bits of `exponent`.
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

    /// As [`Exponential::of`], for [`Exponential::minus_one`].
    fn of_minus_one(x: Real<'s>, goal: Goal) -> Exponential<'s> {
        Exponential::reduced(x, None, goal, &EXP_MINUS_ONE)
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

    /// `2^(x + low)` for `|x| < 2^50`.
    pub(super) fn of_power_of_two(x: Real<'s>, low: Option<Real<'s>>, goal: Goal) -> Exponential<'s> {
        let shifted = x + ROUNDER;
        let fraction = x - (shifted - ROUNDER);
        let fraction = low.map_or(fraction, |low| fraction + low);
        let r = fraction * LN_2;
        let r_low = match goal {
            Goal::Double => Some(fraction.fma(LN_2_LOW, fraction.fma(LN_2, -r))),
            Goal::Single => None,
        };
        Exponential::of_reduced(shifted.bits(), r, r_low, goal.pick(&EXP, &EXP_SINGLE))
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

    /// The value, rounded once more where it is subnormal; infinite from `2^1024`.
    pub(super) fn round(&self) -> Real<'s> {
        let sum = 1.0 + self.r;
        self.scale(sum + (self.r - (sum - 1.0) + self.tail))
    }

    /// `e^x - 1` for an `f32`.
    fn minus_one_single(&self) -> Real<'s> {
        let scale = self.power();
        scale.fma(self.r + self.tail, scale - 1.0)
    }

    /// `y 2^k` for `y` near 1.
    pub(super) fn scale(&self, y: Real<'s>) -> Real<'s> {
        let [s, t] = self.scales();
        y * s * t
    }

    /// `2^-shift (e^x - 1)`, normalised; the shift keeps the power of two in range.
    pub(super) fn minus_one(&self, shift: u32) -> Pair<'s> {
        let one = 0.5_f64.powi(shift as i32);
        let scale = (self.exponent.shl(52) + one.to_bits()).real();
        let head = scale - one;
        let lost = (scale - head) - one;
        let sum = fast_two_sum(head, scale * self.r);
        fast_two_sum(sum.high, scale.fma(self.tail, sum.low + lost))
    }
}

/// `e^x`. Error at most 0.75 ULP in `f64`, 0.90 in `f32`.
pub fn exp(b: &mut Builder, args: &[Value]) -> Value {
    in_either(b, args, |[x]| single::exp::exp(x), |[x]| Exponential::of(x.clamp(-746.0, 710.0), Goal::Double).round())
}

/// `2^x`. Error at most 0.75 ULP in `f64`, 0.90 in `f32`; exact for integers.
pub fn exp2(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::exp::exp2(x),
        |[x]| Exponential::of_power_of_two(x.clamp(-1080.0, 1025.0), None, Goal::Double).round(),
    )
}

/// `e^x - 1`. Error at most 0.85 ULP in `f64`, 0.95 in `f32`.
///
/// `2^k (1 + r + tail) - 1` is summed as `(2^k - 1) + 2^k r` with its rounding errors, and `2^k tail`.
pub fn expm1(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::exp::expm1(x),
        |[x]| {
            let half = Exponential::of_minus_one(x.clamp(-50.0, 709.8), Goal::Double).minus_one(1);
            x.abs().lt(1e-17).select(x, half.high + half.high)
        },
    )
}

/// `1 / (1 + e^-x)`. Error at most 0.75 ULP in `f64`, 0.85 in `f32`.
///
/// With `e = e^-|x|` that is `1 / (1 + e)` or `e / (1 + e)`; the quotient is of pairs, and the power of two of the
/// numerator is applied last, so that subnormal results are rounded once more only.
pub fn sigmoid(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::exp::sigmoid(x),
        |[x]| {
            let e = Exponential::of((-x.abs()).clamp(-746.0, 0.0), Goal::Double);
            let [s, t] = e.scales();
            let m = e.significand();
            let d = fast_two_sum(x.constant(1.0), m.high * s * t);
            let d = Pair { high: d.high, low: d.low + m.low * s * t };
            let negative = x.lt(0.0);
            let n = Pair { high: negative.select(m.high, 1.0), low: negative.select(m.low, 0.0) };
            let y = quotient(n, d).round();
            negative.select(y * s * t, y)
        },
    )
}

/// `tanh(x)`. Error at most 0.70 ULP in `f64`, 0.98 in `f32`.
///
/// `h / (h + 1)` with `h = (e^2|x| - 1) / 2`, as a quotient of pairs.
pub fn tanh(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::exp::tanh(x),
        |[x]| {
            let ax = x.abs();
            let h = Exponential::of_minus_one((ax + ax).clamp(0.0, 45.0), Goal::Double).minus_one(1);
            let d = two_sum(h.high, x.constant(1.0));
            let y = quotient(h, Pair { high: d.high, low: d.low + h.low }).round();
            ax.lt(1e-9).select(ax, y).with_sign(x)
        },
    )
}

/// `sinh(x)`. Error at most 0.75 ULP in `f64`, 0.51 in `f32`.
///
/// `2 (h + h / (1 + 4h))` with `h = (e^|x| - 1) / 4`: no cancellation for small `x`, no overflow before the result's.
pub fn sinh(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let y = match goal {
            Goal::Double => {
                let h = Exponential::of_minus_one(ax.clamp(0.0, 710.6), goal).minus_one(2);
                // Beyond 2^60 the quotient is 1/4 for any `h`; its parts must only stay finite.
                let near = h.high.lt(1e18);
                let (high, low) = (near.select(h.high, 1e18), near.select(h.low, 0.0));
                let d = two_sum(high * 4.0, x.constant(1.0));
                let q = quotient(Pair { high, low }, Pair { high: d.high, low: low.fma(4.0, d.low) });
                let y = fast_two_sum(h.high, q.high);
                let y = y.high + (y.low + (h.low + q.low));
                ax.lt(1e-9).select(ax, y + y)
            }
            Goal::Single => {
                let e = Exponential::of(ax.clamp(0.0, 150.0), goal);
                let minus_one = e.minus_one_single();
                0.5 * (minus_one + minus_one / (minus_one + 1.0))
            }
        };
        y.with_sign(x)
    })
}

/// `cosh(x)`. Error at most 0.65 ULP in `f64`, 0.51 in `f32`.
///
/// `2 (h + 1 / (16h))` with `h = e^|x| / 4`: no overflow before the result's.
pub fn cosh(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        match goal {
            Goal::Double => {
                let e = Exponential::of(ax.clamp(0.0, 710.6), goal);
                let m = e.significand();
                let quarter = (e.exponent.shl(52) + 0.25_f64.to_bits()).real();
                let (high, low) = (m.high * quarter, m.low * quarter);
                let q = 0.0625 / high;
                // Beyond 2^60 the quotient does not matter, and neither does its error.
                let q_low = q.fma(low, q.fma(high, -0.0625)) * (-16.0 * q);
                let sum = fast_two_sum(high, q);
                let y = sum.high + (sum.low + (low + q_low));
                y + y
            }
            Goal::Single => {
                let e = Exponential::of(ax.clamp(0.0, 150.0), goal).normal(goal);
                0.5 * (e + 1.0 / e)
            }
        }
    })
}
