//! What is made of exponentials in `f32`: `e^x - 1`, the logistic function, the hyperbolic sine and cosine.
//!
//! `x = k ln 2 + r` as in [`crate::math`]'s bodies in `f64`. Where an exponential is not the result, but on the way to
//! it, it is a pair: then only the rounding of `r` is left of its error, a quarter of an ULP.

use super::super::coefficients::{EXP_F32, EXP_MINUS_ONE_F32, SINH_F32};
use super::super::real::{Pair, Real, two_sum};
use super::{LN_2, ROUNDER};
use std::f64::consts::LOG2_E;

/// The bias of the exponent field.
const BIAS: f64 = 127.0;

/// `x` less a multiple of `ln 2`.
pub(super) struct Reduced<'s> {
    /// An integer `k` and a bias in its low bits.
    pub(super) shifted: Real<'s>,
    /// `x - k ln 2`, to half an ULP.
    r: Real<'s>,
}

impl<'s> Reduced<'s> {
    /// Of a small number.
    fn of(x: Real<'s>, bias: f64) -> Reduced<'s> {
        let rounder = ROUNDER + bias;
        let shifted = x.fma(LOG2_E, rounder);
        let k = shifted - rounder;
        // The first product and difference are exact together.
        let r = k.fma(-LN_2.1, k.fma(-LN_2.0, x));
        Reduced { shifted, r }
    }

    /// Of a number from -104.5 up, for [`scales`](crate::math::exp::scales).
    pub(super) fn wide(x: Real<'s>) -> Reduced<'s> {
        Reduced::of(x, 2.0 * BIAS)
    }

    /// `e^r` as a pair.
    pub(super) fn significand_pair(&self) -> Pair<'s> {
        let r = self.r;
        let q = r.polynomial(&EXP_F32);
        let high = q.fma(r, 1.0).fma(r, 1.0);
        // Both differences are exact.
        Pair { high, low: q.fma(r * r, r - (high - 1.0)) }
    }

    /// `2^k`, if the bias is that of the field; that over `2^n` if it is less by `n`.
    fn power(&self) -> Real<'s> {
        self.shifted.bits().shl(23).real()
    }
}

/// `e^x - 1`: half of it as `(2^(k-1) - 1/2) + 2^(k-1) r`, with its rounding errors, and `2^(k-1)` times the rest.
pub(in crate::math) fn expm1(x: Real<'_>) -> Real<'_> {
    let reduced = Reduced::of(x.clamp(-20.0, 89.0), BIAS - 1.0);
    let r = reduced.r;
    let s = reduced.power();
    let head = s - 0.5;
    let high = s.fma(r, head);
    let low = s.fma(r, head - high) + ((s - head) - 0.5);
    let half = high + s.fma(r.polynomial(&EXP_MINUS_ONE_F32) * (r * r), low);
    // Half of a subnormal is not exact, and zeros keep their signs.
    x.abs().lt(1e-8).select(x, half + half)
}

/// `1 / (1 + e^-x)`: numerator and denominator over 2^64, so that neither overflows before the result underflows.
pub(in crate::math) fn sigmoid(x: Real<'_>) -> Real<'_> {
    let unit = 2.0_f64.powi(-64);
    let reduced = Reduced::of(-x.clamp(-104.5, 18.0), BIAS - 64.0);
    let power = reduced.power();
    let e = reduced.significand_pair();
    let sum = two_sum(e.high * power, x.constant(unit));
    let low = e.low.fma(power, sum.low);
    let y = 1.0 / sum.high;
    let minus_y = -y;
    let rest = minus_y.fma(low, minus_y.fma(sum.high, 1.0));
    rest.fma(y, y) * unit
}

/// `e^|x| / 4` as a pair; for `cosh` and `sinh`, and finite wherever they are.
fn quarter(x: Real<'_>) -> Pair<'_> {
    let reduced = Reduced::of(x.constant(89.5).min(x.abs()), BIAS - 2.0);
    let power = reduced.power();
    let e = reduced.significand_pair();
    Pair { high: e.high * power, low: e.low * power }
}

/// `cosh(x)`: twice `h + 1 / (16 h)` with `h = e^|x| / 4`.
pub(in crate::math) fn cosh(x: Real<'_>) -> Real<'_> {
    let h = quarter(x);
    let half = h.high + (h.low + 0.0625 / h.high);
    half + half
}

/// `sinh(x)`: a polynomial up to 1, twice `h - 1 / (16 h)` with `h = e^|x| / 4` above.
pub(in crate::math) fn sinh(x: Real<'_>) -> Real<'_> {
    let h = quarter(x);
    let half = h.high + (h.low - 0.0625 / h.high);
    let ax = x.abs();
    let z = ax * ax;
    let near = z.polynomial(&SINH_F32).fma(ax * z, ax);
    ax.lt(1.0).select(near, half + half).with_sign(x)
}
