//! Function bodies in `f32` arithmetic: at twice the lanes of `f64`, and without conversions.
//!
//! Errors are below 1 ULP, but not near 1/2: a second rounding costs up to a half, and what comes before it is therefore
//! kept to rounding errors of small terms. A sum `high + low` ends a body, whose low part has all of those. Where that
//! takes so many operations that `f64` is as fast, the function has no body here.

pub(super) mod erf;
pub(super) mod exp;
pub(super) mod log;
pub(super) mod trig;

/// `1.5 * 2^23`: added to a number below 2^22 it rounds it to an integer, which then stands in the low bits.
const ROUNDER: f64 = 12_582_912.0;
/// `ln 2` in 24 bits, and what it misses.
const LN_2: f64 = 0.693_147_182_464_599_6;
const LN_2_LOW: f64 = -1.904_654_299_957_768e-9;
/// The exponent field.
const EXPONENT: u64 = 0x7f80_0000;
