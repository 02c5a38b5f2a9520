//! Exponentials and what is made of them, in `f32`.
//!
//! `x = k ln 2 + r` as in [`crate::math`]'s bodies in `f64`. Where an exponential is not the result, but on the way to
//! it, it is a pair: then only the rounding of `r` is left of its error, a quarter of an ULP.

use super::super::coefficients::{EXP_F32, EXP_MINUS_ONE_F32, EXP_TWICE_F32, EXP2_F32, TANH_F32};
use super::super::real::{Pair, Real, two_sum};
use super::{EXPONENT, LN_2, LN_2_LOW, ROUNDER};
use std::f64::consts::LOG2_E;

/// With this bias [`scale`] is exact for any result, subnormal or not.
const WIDE: f64 = 254.0;
/// With this bias [`Reduced::power`] is `2^k`.
const NARROW: f64 = 127.0;

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
        let r = k.fma(-LN_2_LOW, k.fma(-LN_2, x));
        Reduced { shifted, r }
    }

    /// Of a number from -104.5 up, for [`scale`].
    pub(super) fn wide(x: Real<'s>) -> Reduced<'s> {
        Reduced::of(x, WIDE)
    }

    /// `e^r`, rounded.
    fn significand(&self) -> Real<'s> {
        let r = self.r;
        r.polynomial(&EXP_F32).fma(r, 1.0).fma(r, 1.0)
    }

    /// `e^r` as a pair.
    pub(super) fn significand_pair(&self) -> Pair<'s> {
        let r = self.r;
        let q = r.polynomial(&EXP_F32);
        let high = q.fma(r, 1.0).fma(r, 1.0);
        // Both differences are exact.
        Pair { high, low: q.fma(r * r, r - (high - 1.0)) }
    }

    /// `2^k`, if the bias is [`NARROW`]; that over `2^n` if the bias is less by `n`.
    fn power(&self) -> Real<'s> {
        self.shifted.bits().shl(23).real()
    }
}

/// Two powers of two, both normal, whose product is `2^k`; the bias is [`WIDE`].
pub(super) fn scales(shifted: Real<'_>) -> [Real<'_>; 2] {
    let bits = shifted.bits();
    let half = bits.shl(22) & EXPONENT;
    // The exponent fields add up to k + 254; the bit that the shift drops is that of 512.
    [half, bits.shl(23) - half].map(|field| field.real())
}

/// `y 2^k` for `y` near 1, rounded where it is subnormal.
fn scale<'s>(y: Real<'s>, shifted: Real<'s>) -> Real<'s> {
    let [s, t] = scales(shifted);
    y * s * t
}

/// `e^x`
pub(in crate::math) fn exp(x: Real<'_>) -> Real<'_> {
    let reduced = Reduced::wide(x.clamp(-104.5, 89.0));
    scale(reduced.significand(), reduced.shifted)
}

/// `2^x`
pub(in crate::math) fn exp2(x: Real<'_>) -> Real<'_> {
    let x = x.clamp(-151.0, 129.0);
    let rounder = ROUNDER + WIDE;
    let shifted = x + rounder;
    let r = x - (shifted - rounder);
    scale(power_of_two(r), shifted)
}

/// `2^r` for `|r| <= 1/2`
pub(super) fn power_of_two(r: Real<'_>) -> Real<'_> {
    r.polynomial(&EXP2_F32).fma(r, 1.0)
}

/// `e^x - 1`: half of it as `(2^(k-1) - 1/2) + 2^(k-1) r`, with its rounding errors, and `2^(k-1)` times the rest.
pub(in crate::math) fn expm1(x: Real<'_>) -> Real<'_> {
    let reduced = Reduced::of(x.clamp(-20.0, 89.0), NARROW - 1.0);
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
    let reduced = Reduced::of(-x.clamp(-104.5, 18.0), NARROW - 64.0);
    let power = reduced.power();
    let e = reduced.significand_pair();
    let sum = two_sum(e.high * power, x.constant(unit));
    let low = e.low.fma(power, sum.low);
    let y = 1.0 / sum.high;
    let minus_y = -y;
    let rest = minus_y.fma(low, minus_y.fma(sum.high, 1.0));
    rest.fma(y, y) * unit
}

/// `tanh(x)`: a polynomial up to 1, `1 - 1 / (e^2|x| / 2 + 1/2)` above, where the quotient is below 1/4.
pub(in crate::math) fn tanh(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let z = ax * ax;
    let near = z.polynomial(&TANH_F32).fma(ax * z, ax);
    // 2|x| = k ln 2 + 2r; the quotient needs no more than one part of ln 2.
    let bounded = x.constant(9.1).min(ax);
    let rounder = ROUNDER + NARROW - 1.0;
    let shifted = bounded.fma(2.0 * LOG2_E, rounder);
    let r = (shifted - rounder).fma(-0.5 * LN_2, bounded);
    let e = r.polynomial(&EXP_TWICE_F32).fma(r, 1.0);
    let power = shifted.bits().shl(23).real();
    let far = 1.0 - 1.0 / e.fma(power, 0.5);
    ax.lt(1.0).select(near, far).with_sign(x)
}
