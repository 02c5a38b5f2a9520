//! Parts of numbers and choices between numbers: exact, a few primitives each.

use super::real::{in_dtype, test};
use super::{maximum, minimum};
use crate::dtype::{DType, Kind};
use crate::kernel::{Builder, Value};
use std::f64::consts::PI;

/// The lesser of two; the other one if one is NaN.
pub fn fmin(b: &mut Builder, args: &[Value]) -> Value {
    let least = minimum(b, args);
    unless_nan(b, args, least)
}

/// The greater of two; the other one if one is NaN.
pub fn fmax(b: &mut Builder, args: &[Value]) -> Value {
    let greatest = maximum(b, args);
    unless_nan(b, args, greatest)
}

/// `chosen`, or the other argument if one is NaN.
fn unless_nan(b: &mut Builder, args: &[Value], chosen: Value) -> Value {
    let (x, y) = (args[0], args[1]);
    if !b.dtype(x).is_float() {
        return chosen;
    }
    let (no_x, no_y) = (b.ne(x, x), b.ne(y, y));
    let chosen = b.select(no_y, x, chosen);
    b.select(no_x, y, chosen)
}

/// `minimum(maximum(x, low), high)`: `high` if `low > high`, NaN if any is NaN.
pub fn clip(b: &mut Builder, args: &[Value]) -> Value {
    let raised = maximum(b, &args[..2]);
    minimum(b, &[raised, args[2]])
}

/// `|x|`; `x` itself for unsigned integers; the least signed integer is its own.
pub fn abs(b: &mut Builder, args: &[Value]) -> Value {
    match b.dtype(args[0]).kind() {
        Kind::Float | Kind::Int => b.abs(args[0]),
        Kind::Uint | Kind::Bool => args[0],
    }
}

/// -1, 0 or 1; NaN for NaN, 0.0 for -0.0.
pub fn sign(b: &mut Builder, args: &[Value]) -> Value {
    let x = args[0];
    let dtype = b.dtype(x);
    let (zero, one) = (b.int(dtype, 0), b.int(dtype, 1));
    let positive = b.lt(zero, x);
    if !dtype.is_float() && !dtype.is_signed() {
        return b.select(positive, one, zero);
    }
    let (minus_one, negative) = (b.int(dtype, -1), b.lt(x, zero));
    let rest = if dtype.is_float() { b.add(x, zero) } else { zero };
    let below = b.select(negative, minus_one, rest);
    b.select(positive, one, below)
}

/// `x` with the sign bit of `y`.
pub fn copysign(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x, y]| x.abs().with_sign(y))
}

/// True if the sign bit is set: also for -0.0.
pub fn signbit(b: &mut Builder, args: &[Value]) -> Value {
    let x = args[0];
    let dtype = b.dtype(x);
    if dtype.is_float() {
        return test(b, args, |[x]| x.sign().ne(0));
    }
    if !dtype.is_signed() {
        return b.bits(DType::Bool, 0);
    }
    let zero = b.int(dtype, 0);
    b.lt(x, zero)
}

/// The next float from `x` towards `y`; `y` if they are equal.
///
/// Away from zero the bits count up, towards it down; from zero the first step has the sign of `y`.
pub fn nextafter(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x, y]| {
        let outward = x.lt(0.0) ^ x.lt(y);
        let bits = x.bits();
        let step = outward.select_bits(bits + 1, bits - 1).real();
        let first = bits.constant(1).real().with_sign(y);
        let next = x.eq(0.0).select(first, step);
        let next = x.eq(y).select(y, next);
        (x.is_nan() | y.is_nan()).select(x + y, next)
    })
}

/// True for NaN.
pub fn isnan(b: &mut Builder, args: &[Value]) -> Value {
    if !b.dtype(args[0]).is_float() {
        return b.bits(DType::Bool, 0);
    }
    test(b, args, |[x]| x.is_nan())
}

/// True for `inf` and `-inf`.
pub fn isinf(b: &mut Builder, args: &[Value]) -> Value {
    if !b.dtype(args[0]).is_float() {
        return b.bits(DType::Bool, 0);
    }
    test(b, args, |[x]| x.abs().eq(f64::INFINITY))
}

/// True for all but infinities and NaN.
pub fn isfinite(b: &mut Builder, args: &[Value]) -> Value {
    if !b.dtype(args[0]).is_float() {
        return b.bits(DType::Bool, 1);
    }
    test(b, args, |[x]| x.abs().lt(f64::INFINITY))
}

/// `x` where it is positive, 0 elsewhere; NaN for NaN.
pub fn relu(b: &mut Builder, args: &[Value]) -> Value {
    let x = args[0];
    let dtype = b.dtype(x);
    let zero = b.int(dtype, 0);
    // The second operand of `Max` if either is NaN or both are zeros.
    let rest = b.max(zero, x);
    if dtype.is_float() { b.add(rest, zero) } else { rest }
}

/// Degrees to radians: one multiplication, as in NumPy.
pub fn deg2rad(b: &mut Builder, args: &[Value]) -> Value {
    let single = b.dtype(args[0]) == DType::F32;
    in_dtype(b, args, |[x]| x * if single { f64::from(std::f32::consts::PI / 180.0) } else { PI / 180.0 })
}

/// Radians to degrees: one multiplication, as in NumPy.
pub fn rad2deg(b: &mut Builder, args: &[Value]) -> Value {
    let single = b.dtype(args[0]) == DType::F32;
    in_dtype(b, args, |[x]| x * if single { f64::from(180.0 / std::f32::consts::PI) } else { 180.0 / PI })
}
