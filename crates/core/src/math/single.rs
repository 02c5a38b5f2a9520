//! Function bodies in `f32` arithmetic: at twice the lanes of `f64`, and without conversions.
//!
//! Errors are below 1 ULP, but not near 1/2: a second rounding costs up to a half, and what comes before it is therefore
//! kept to rounding errors of small terms. A sum `high + low` ends a body, whose low part has all of those. Where that
//! takes so many operations that `f64` is as fast, the function has no body here.

pub(super) mod erf;
pub(super) mod log;
pub(super) mod trig;
