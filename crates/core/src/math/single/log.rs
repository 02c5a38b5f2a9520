//! Logarithms in `f32`.
//!
//! `x = 2^k (1 + f)` with `1 + f` within a factor `sqrt 2` of 1, and `log(1 + f) = f + f^2 u(f)` with a polynomial `u`:
//! no division. `k ln 2 + f` is summed with its rounding error, and the rest is small beside it.

use crate::math::coefficients::{LOG_F32, LOG_LONG_F32, LOG_UPPER_F32, LOG2_F32, LOG10_F32};
use crate::math::exp::{Reduced, scales};
use crate::math::log::of_any;
use crate::math::real::{Bits, Pair, Real, two_product, two_sum};
use std::f64::consts::{LOG2_E, LOG10_E};

/// `ln 2` and `log10(2)` cut to 16 bits, so that a product with an exponent is exact, and what they miss.
const LN_2_CUT: f64 = 0.693_145_751_953_125;
const LN_2_REST: f64 = 1.428_606_820_309_417_2e-6;
const LOG10_2_CUT: f64 = 0.301_025_390_625;
const LOG10_2_REST: f64 = 4.605_038_981_195_214e-6;
/// The bits of `sqrt(1/2)`.
const SQRT_HALF: u32 = 0x3f35_04f3;
const MANTISSA: u64 = 0x007f_ffff;

/// `2^k (1 + f)`
struct Split<'s> {
    k: Real<'s>,
    f: Real<'s>,
}

impl<'s> Split<'s> {
    /// Of `2^offset x`, where `x` is positive, finite and normal; anything for others.
    fn of(x: Real<'s>, offset: f64) -> Split<'s> {
        // The exponent stands above the mantissa's distance from that of sqrt(1/2).
        let distance = x.bits() + u64::from(((offset as i32) << 23).wrapping_sub_unsigned(SQRT_HALF).cast_unsigned());
        let m = (distance & MANTISSA) + u64::from(SQRT_HALF);
        Split { k: distance.quotient_f32(23), f: m.real() - 1.0 }
    }

    /// `k log_2 + g` exactly, where `g` is `f` or about that, and `log_2` has 16 bits.
    fn head(&self, log_2: f64, g: Real<'s>) -> Pair<'s> {
        let high = self.k.fma(log_2, g);
        Pair { high, low: g - self.k.fma(-log_2, high) }
    }

    /// The logarithm to another base, of which `log_2` is the logarithm of 2, `scale` that of e, and `u` is a multiple.
    fn base(&self, log_2: (f64, f64), scale: f64, u: &[f32]) -> Real<'s> {
        let f = self.f;
        let g = two_product(f, scale);
        let sum = self.head(log_2.0, g.high);
        // What the scale misses of the exact factor.
        let missed = scale - f64::from(scale as f32);
        let low = f.fma(missed, g.low) + sum.low;
        let low = if log_2.1 == 0.0 { low } else { self.k.fma(log_2.1, low) };
        sum.high + (f * f).fma(f.polynomial(u), low)
    }
}

/// `u` of the natural logarithm.
fn square_term<'s>(f: Real<'s>, coefficients: &[f32]) -> Real<'s> {
    f.polynomial(coefficients).fma(f, -0.5)
}

/// Natural logarithm.
pub(in crate::math) fn log(x: Real<'_>) -> Real<'_> {
    of_any(x, |x, offset| {
        let split = Split::of(x, offset);
        let f = split.f;
        let sum = split.head(LN_2_CUT, f);
        let low = (f * f).fma(square_term(f, &LOG_F32), split.k.fma(LN_2_REST, sum.low));
        sum.high + low
    })
}

/// Logarithm to base 2.
pub(in crate::math) fn log2(x: Real<'_>) -> Real<'_> {
    of_any(x, |x, offset| Split::of(x, offset).base((1.0, 0.0), LOG2_E, &LOG2_F32))
}

/// Logarithm to base 10.
pub(in crate::math) fn log10(x: Real<'_>) -> Real<'_> {
    of_any(x, |x, offset| Split::of(x, offset).base((LOG10_2_CUT, LOG10_2_REST), LOG10_E, &LOG10_F32))
}

/// `log(1 + x)`: of the sum with its rounding error.
pub(in crate::math) fn log1p(x: Real<'_>) -> Real<'_> {
    let sum = two_sum(x, x.constant(1.0));
    let bits = sum.high.bits();
    let exponent: Bits<'_> = (bits - u64::from(SQRT_HALF)) & !MANTISSA & 0xffff_ffff;
    let f = (bits - exponent).real() - 1.0;
    let split = Split { k: exponent.quotient_f32(23), f };
    // 2^(1-k), which is 0 instead of subnormal for the largest numbers, whose low part does not matter; then half of it,
    // over 1 + f, near enough.
    let scale = (bits.constant(128 << 23) - exponent).real();
    let f_low = sum.low * scale * f.fma(f.fma(0.35, -0.5), 0.5);
    let head = split.head(LN_2_CUT, f);
    let low = split.k.fma(LN_2_REST, head.low) + f_low;
    let y = head.high + (f * f).fma(square_term(f, &LOG_LONG_F32), low);
    let outside = x.eq(-1.0).select(x.constant(f64::NEG_INFINITY), f64::NAN);
    // Zeros keep their signs.
    x.le(-1.0).select(outside, y.unless_infinite(x)).with_sign(x)
}

/// `log(1 + e^x)`: `max(x, 0) + log(1 + e)` with `e = e^-|x|` as a pair. Neither `1 + f = 1 + e` up to 1/2 nor half of
/// that above is rounded.
pub(in crate::math) fn softplus(x: Real<'_>) -> Real<'_> {
    let reduced = Reduced::wide(x.constant(-104.5).max(-x.abs()));
    let [s, t] = scales(reduced.shifted);
    let e = reduced.significand_pair();
    let (e, e_low) = (e.high * s * t, e.low * s * t);
    let large = e.gt(0.5);
    let f = large.select(e.fma(0.5, -0.5), e);
    let f_low = large.select(e_low * 0.5, e_low) * (1.0 - f);
    let rest = (f * f).fma(square_term(f, &LOG_UPPER_F32), f_low);
    let (log_2, log_2_low) = (large.select(x.constant(LN_2_CUT), 0.0), large.select(x.constant(LN_2_REST), 0.0));
    let log = log_2 + f;
    let log_low = f - (log - log_2);
    let sum = two_sum(x.max(0.0), log);
    let y = sum.high + (rest + ((log_low + log_2_low) + sum.low));
    y.unless_infinite(x)
}
