//! Inverse trigonometric functions in `f32`: as those in `f64`, with less care for what is far below a rounding error.

use crate::math::coefficients::{ASIN_F32, ATAN_F32};
use crate::math::real::{Real, fast_two_sum};
use std::f64::consts::{FRAC_PI_2, PI};

/// `pi/2` and `pi` less their nearest `f32`s.
const FRAC_PI_2_LOW: f64 = -4.371_139_000_186_241e-8;
const PI_LOW: f64 = 2.0 * FRAC_PI_2_LOW;

/// Twice the root of `half`, and about what that misses: the error of the root's square over the root, to whose
/// reciprocal a line is near enough from 1/3 to 1/2, and small below.
fn twice_root(half: Real<'_>) -> (Real<'_>, Real<'_>) {
    let root = half.sqrt();
    let missed = (-root).fma(root, half) * root.fma(-5.6, 4.8);
    (root + root, missed)
}

/// `asin(t) / t - 1` from `z = t^2 <= 1/4`.
fn arcsine_excess(z: Real<'_>) -> Real<'_> {
    z.polynomial(&ASIN_F32) * z
}

/// `asin x` by a polynomial up to 1/2, `pi/2 - 2 asin sqrt((1 - x)/2)` above.
pub(in crate::math) fn arcsin(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let small = ax.lt(0.5);
    // Exact where it is used. Beyond 1 the root is NaN, and so is the result.
    let half = ax.fma(-0.5, 0.5);
    let excess = arcsine_excess(small.select(ax * ax, half));
    let (double, missed) = twice_root(half);
    let sum = fast_two_sum(x.constant(FRAC_PI_2), -double);
    let above = sum.high + (sum.low + ((-double).fma(excess, FRAC_PI_2_LOW) - missed));
    small.select(ax.fma(excess, ax), above).with_sign(x)
}

/// `pi/2 - asin x` up to 1/2 in magnitude, `2 asin sqrt((1 - x)/2)` above, `pi` less that below.
pub(in crate::math) fn arccos(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let small = ax.lt(0.5);
    let negative = x.lt(0.0);
    let half = ax.fma(-0.5, 0.5);
    let excess = arcsine_excess(small.select(ax * ax, half));
    let (double, missed) = twice_root(half);
    let arc = small.select(x, double);
    let base = small.select(x.constant(FRAC_PI_2), negative.select(x.constant(PI), 0.0));
    let base_low = small.select(x.constant(FRAC_PI_2_LOW), negative.select(x.constant(PI_LOW), 0.0));
    let minus = (small | negative).select(x.constant(-1.0), 1.0);
    let arc = minus * arc;
    let sum = fast_two_sum(base, arc);
    let low = minus.fma(small.select(x.constant(0.0), missed), sum.low + base_low);
    sum.high + arc.fma(excess, low)
}

/// A polynomial up to 1, `pi/2 - atan(1/x)` above, with the error of the reciprocal.
pub(in crate::math) fn arctan(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let inverse = 1.0 / ax;
    let large = ax.gt(1.0);
    let t = large.select(inverse, ax);
    let z = t * t;
    let p = z.polynomial(&ATAN_F32);
    let cube = t * z;
    let near = p.fma(cube, t);
    // The derivative of atan at t is near a line.
    let missed = (-inverse).fma(ax, 1.0) * inverse * t.fma(-0.5, 1.0);
    let sum = fast_two_sum(x.constant(FRAC_PI_2), -t);
    // What is not below a rounding error is added once.
    let above = sum.high + (-p).fma(cube, (sum.low + FRAC_PI_2_LOW) - missed);
    let above = inverse.eq(0.0).select(x.constant(FRAC_PI_2), above);
    large.select(above, near).with_sign(x)
}
