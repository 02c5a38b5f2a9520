//! Bodies of the functions in the op table, in primitives, each with its source and error bound.
//!
//! A body is a straight line of primitives, so every back end computes the same bits at its full vector width, and it
//! fuses with the arithmetic around it. Both sides of a `select` are evaluated (save for what [`crate::kernel::rare`]
//! finds, so the rare case is its first operand): the number of primitives is the running time. Conversions between
//! floats and integers are avoided in favour of adding 1.5 * 2^52 and reading bits, since few targets convert vectors of
//! 64-bit integers.
//!
//! Error bounds are in ULPs: units in the last place of the exact result, subnormal results included, over the whole
//! domain. The `f32` functions that matter most have bodies in `f32`, in `single`; the others compute in `f64` with
//! shorter polynomials and round once, which makes them the nearest `f32` but for one case in hundreds. Results at
//! zeros, infinities, NaN and outside the domain are C99's and NumPy's. `scripts/coefficients.py` derives the
//! polynomials; `docs/accuracy.md` has the measured errors.
//!
//! To add a function: a body here, with its formula and bound in the comment, a row in [`crate::ops`], and a
//! line in `tests/reference`.

#[expect(clippy::approx_constant, reason = "a coefficient may be near a known number")]
mod coefficients;
mod real;

mod divide;
mod erf;
mod exp;
mod log;
mod parts;
mod payne_hanek;
mod pow;
mod single;
mod trig;

pub use divide::{floor_divide, remainder};
pub use erf::{erf, erfc, gelu};
pub(crate) use exp::scale;
pub use exp::{cosh, exp, exp2, expm1, sigmoid, sinh, tanh};
pub use log::{arccosh, arcsinh, arctanh, log, log1p, log2, log10, softplus};
pub use parts::{
    abs, clip, copysign, deg2rad, fmax, fmin, isfinite, isinf, isnan, nextafter, rad2deg, relu, sign, signbit,
};
pub use pow::{cbrt, hypot, pow};
pub use trig::{arccos, arcsin, arctan, arctan2, cos, sin, tan};
pub(crate) use trig::{large_cos, large_sin, large_tan};

use crate::kernel::{Builder, Value};

/// The lesser of two, NaN if either is NaN, `-0.0 < 0.0` (IEEE 754-2019 `minimum`).
///
/// `Min` returns its second operand for NaNs and zeros, so the two orders differ only there, and the bitwise or of the
/// two is a NaN or `-0.0` just when one of them is.
pub fn minimum(b: &mut Builder, args: &[Value]) -> Value {
    let (x, y) = (args[0], args[1]);
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return b.min(x, y);
    }
    if let Some((fixed, x)) = fixed_first(b, x, y) {
        // The second operand is right, unless the first is NaN, or -0.0 and the second is 0.0. The bits that mend that do
        // nothing to what else there is: below a number of either sign there are only numbers of its sign or negative ones.
        let (least, mends) = (b.min(fixed, x), zero_or_nan(b, fixed));
        return bitwise_or(b, least, mends);
    }
    let (least, swapped) = (b.min(x, y), b.min(y, x));
    bitwise_or(b, least, swapped)
}

/// The greater of two, NaN if either is NaN, `-0.0 < 0.0` (IEEE 754-2019 `maximum`).
pub fn maximum(b: &mut Builder, args: &[Value]) -> Value {
    let (x, y) = (args[0], args[1]);
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return b.max(x, y);
    }
    if let Some((fixed, x)) = fixed_first(b, x, y) {
        // As above, with a sum: -0.0 added to anything is that thing, and 0.0 to anything but -0.0.
        let (greatest, mends) = (b.max(fixed, x), zero_or_nan(b, fixed));
        return b.add(greatest, mends);
    }
    let (minus_x, minus_y) = (b.neg(x), b.neg(y));
    let least = minimum(b, &[minus_x, minus_y]);
    b.neg(least)
}

/// Two values, if a loop changes one of them: the other one first.
fn fixed_first(b: &Builder, x: Value, y: Value) -> Option<(Value, Value)> {
    match (b.is_loop_value(x), b.is_loop_value(y)) {
        (false, true) => Some((x, y)),
        (true, false) => Some((y, x)),
        _ => None,
    }
}

/// A zero with the sign of `x`; NaN for NaN.
fn zero_or_nan(b: &mut Builder, x: Value) -> Value {
    let dtype = b.dtype(x);
    let (zero, minus_zero) = (b.float(dtype, 0.0), b.float(dtype, -0.0));
    let below = b.min(zero, x);
    b.max(minus_zero, below)
}

/// The bits that one of two floats has or the other.
fn bitwise_or(b: &mut Builder, x: Value, y: Value) -> Value {
    let dtype = b.dtype(x);
    let (x, y) = (b.bitcast(x, dtype.bits_dtype()), b.bitcast(y, dtype.bits_dtype()));
    let bits = b.or(x, y);
    b.bitcast(bits, dtype)
}
