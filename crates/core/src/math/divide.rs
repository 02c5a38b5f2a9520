//! Division with remainders: exact, with NumPy's conventions for zeros, signs and infinities.

use super::real::in_dtype;
use crate::kernel::{Builder, Value};

/// Python's `//`: the quotient rounded down. NumPy's `npy_floor_divide`; on integers `x // 0 == 0`.
pub fn floor_divide(b: &mut Builder, args: &[Value]) -> Value {
    let dtype = b.dtype(args[0]);
    if dtype.is_float() {
        return in_dtype(b, args, |[x, y]| {
            let quotient = x / y;
            let rem = x.rem(y);
            // As close to an integer as rounding allows; one less if the remainder has the other sign.
            let exact = (x - rem) / y;
            let below = rem.ne(0.0) & (y.lt(0.0) ^ rem.lt(0.0));
            let exact = below.select(exact - 1.0, exact);
            let floor = exact.floor();
            let nearest = (exact - floor).gt(0.5).select(floor + 1.0, floor);
            let whole = exact.eq(0.0).select(x.constant(0.0).with_sign(quotient), nearest);
            y.eq(0.0).select(quotient, whole)
        });
    }
    let (x, y) = (args[0], args[1]);
    let quotient = b.div(x, y);
    if !dtype.is_signed() {
        return quotient;
    }
    let below = rounds_down(b, x, y);
    let one = b.int(dtype, 1);
    let less = b.sub(quotient, one);
    b.select(below, less, quotient)
}

/// Python's `%`: the remainder of floored division, with the sign of `y`. NumPy's `npy_remainder`; on integers
/// `x % 0 == 0`.
pub fn remainder(b: &mut Builder, args: &[Value]) -> Value {
    let dtype = b.dtype(args[0]);
    if dtype.is_float() {
        return in_dtype(b, args, |[x, y]| {
            let rem = x.rem(y);
            let other_sign = y.lt(0.0) ^ rem.lt(0.0);
            let nonzero = other_sign.select(rem + y, rem);
            // The remainder by zero is NaN, not equal to zero, and stays so.
            rem.eq(0.0).select(x.constant(0.0).with_sign(y), nonzero)
        });
    }
    let (x, y) = (args[0], args[1]);
    let rem = b.rem(x, y);
    if !dtype.is_signed() {
        return rem;
    }
    let below = rounds_down(b, x, y);
    let lifted = b.add(rem, y);
    b.select(below, lifted, rem)
}

/// Whether the floored quotient of two signed integers is below the truncated one: the remainder is not zero and its
/// sign is not that of `y`. False for `y == 0`, where the remainder is 0.
fn rounds_down(b: &mut Builder, x: Value, y: Value) -> Value {
    let rem = b.rem(x, y);
    let zero = {
        let dtype = b.dtype(x);
        b.int(dtype, 0)
    };
    let nonzero = b.ne(rem, zero);
    let signs = b.xor(rem, y);
    let differ = b.lt(signs, zero);
    b.and(nonzero, differ)
}
