//! The error function in `f32`.

use crate::math::coefficients::{ERF_F32, ERFC_LOG2_F32};
use crate::math::exp::{bias, power, power_of_fraction, rounder};
use crate::math::real::Real;

/// The error function: an odd polynomial up to 0.85, `1 - 2^-(x p(x))` above.
///
/// `p` is kept small by 5/2, so that the fractional part of the exponent is rounded once, near 1/2.
pub(in crate::math) fn erf(x: Real<'_>) -> Real<'_> {
    let ax = x.abs();
    let near = (ax * ax).polynomial(&ERF_F32).fma(ax, ax);
    let bounded = x.constant(4.0).min(ax);
    let p = bounded.polynomial(&ERFC_LOG2_F32);
    let rounder = x.constant(rounder(x) + bias(x));
    let shifted = rounder - bounded.fma(p, 2.5 * bounded);
    let k = shifted - rounder;
    let r = (-bounded).fma(p, bounded.fma(-2.5, -k));
    let far = (-power_of_fraction(r)).fma(power(shifted), 1.0);
    ax.lt(0.85).select(near, far).with_sign(x)
}
