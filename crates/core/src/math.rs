//! Bodies of the functions in the op table, in primitives, each with its source and error bound.

use crate::kernel::{Builder, Value};

/// The lesser of two, NaN if either is NaN, `-0.0 < 0.0` (IEEE 754-2019 `minimum`).
///
/// `Min` returns its second operand for NaNs and zeros, so the two orders differ only there, and the bitwise or of the
/// two is a NaN or `-0.0` just when one of them is.
pub fn minimum(b: &mut Builder, args: &[Value]) -> Value {
    let (x, y) = (args[0], args[1]);
    let dtype = b.dtype(x);
    let least = b.min(x, y);
    if !dtype.is_float() {
        return least;
    }
    let swapped = b.min(y, x);
    let (p, q) = (b.bitcast(least, dtype.bits_dtype()), b.bitcast(swapped, dtype.bits_dtype()));
    let bits = b.or(p, q);
    b.bitcast(bits, dtype)
}

/// The greater of two, NaN if either is NaN, `-0.0 < 0.0` (IEEE 754-2019 `maximum`).
pub fn maximum(b: &mut Builder, args: &[Value]) -> Value {
    let (x, y) = (args[0], args[1]);
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return b.max(x, y);
    }
    let (minus_x, minus_y) = (b.neg(x), b.neg(y));
    let least = minimum(b, &[minus_x, minus_y]);
    b.neg(least)
}
