//! Sine and cosine in `f32`.
//!
//! The argument is reduced as in [`crate::math`]'s bodies in `f64`, with a low part, by three parts of `pi/2`.

use super::super::coefficients::{COS_F32, SIN_F32};
use super::super::real::Real;
use super::ROUNDER;
use crate::dtype::DType;
use std::f64::consts::FRAC_2_PI;

/// Three parts of `pi/2`, of 24 bits each.
const FRAC_PI_2: [f64; 3] = [1.570_796_370_506_286_6, -4.371_138_828_673_793e-8, -1.715_124_510_005_881_9e-15];
/// From here on another body is needed: the product of the quotient and the first part has too many bits.
const LARGE: f64 = 131_072.0;

/// `sin(x + turn pi/2)` for a `turn` of 0 or 1; `large` is the function in `f64` for large arguments.
///
/// A back end may skip those: see [`crate::kernel::rare`].
pub(in crate::math) fn sine<'s>(x: Real<'s>, turn: u64, large: impl FnOnce(Real<'s>) -> Real<'s>) -> Real<'s> {
    let ax = x.abs();
    let is_large = ax.ge(LARGE);
    let large = large(x.cast(DType::F64)).cast(DType::F32);
    let shifted = ax.fma(FRAC_2_PI, ROUNDER);
    let n = shifted - ROUNDER;
    // Exact: a multiple of 2^-23 that is below 1.
    let head = n.fma(-FRAC_PI_2[0], ax);
    // Exact as well, for `head` is a multiple of the product's last bit: a fast two-sum with the product's own error.
    let t = head - n * FRAC_PI_2[1];
    let low = n.fma(-FRAC_PI_2[2], n.fma(-FRAC_PI_2[1], head - t));
    let z = t * t;
    let sine = t + z.polynomial(&SIN_F32).fma(t * z, low);
    // 1 - z/2 with its rounding error, and t low of cos(t + low).
    let one = z.fma(-0.5, 1.0);
    let lost = z.fma(-0.5, 1.0 - one);
    let cosine = one + z.polynomial(&COS_F32).fma(z * z, (-t).fma(low, lost));
    let quadrant = if turn == 0 { shifted.bits() } else { shifted.bits() + turn };
    let y = (quadrant & 1).ne(0).select(cosine, sine);
    let sign = quadrant.shl(30);
    let sign = if turn == 0 { sign ^ x.bits() } else { sign };
    is_large.select(large, y.flip(sign & 0x8000_0000))
}
