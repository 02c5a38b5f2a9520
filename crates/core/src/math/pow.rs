//! Powers and roots: `pow` of floats and integers, `cbrt`, `hypot`.

use super::coefficients::{INVERSE_CUBE_ROOT, LOG_TAIL};
use super::exp::{self, ROUNDER};
use super::log;
use super::real::{Bits, Goal, Pair, Real, fast_two_sum, in_dtype, in_f64, quotient, two_product};
use crate::dtype::DType;
use crate::kernel::{Builder, Value};

/// `x` to the power `y`. Error at most 0.90 ULP in `f64`, 0.51 in `f32`; special cases as C99's `pow`.
///
/// `2^(y log2 |x|)` with the logarithm and the product as pairs. A constant `y` that is an integer up to 64 in magnitude
/// is a chain of exact products instead, and 0.5 a square root. Integers wrap; their negative powers have no meaning,
/// and the caller refuses them.
pub fn pow(b: &mut Builder, args: &[Value]) -> Value {
    let dtype = b.dtype(args[0]);
    if !dtype.is_float() {
        return integer_power(b, args[0], args[1]);
    }
    match b.as_const(args[1]).map(|y| y.as_f64()) {
        Some(0.5) => in_dtype(b, &args[..1], |[x]| {
            // The root of -0.0 is -0.0, but its power is 0.0; that of -inf is NaN, but its power is inf.
            let root = (x + 0.0).sqrt();
            x.eq(f64::NEG_INFINITY).select(x.constant(f64::INFINITY), root)
        }),
        Some(1.0) => args[0],
        Some(2.0) => b.mul(args[0], args[0]),
        Some(-1.0) => {
            let one = b.float(dtype, 1.0);
            b.div(one, args[0])
        }
        Some(y) if y.fract() == 0.0 && y.abs() <= 64.0 => {
            in_f64(b, &args[..1], |[x], goal| constant_power(x, y as i32, goal))
        }
        _ => in_dtype(b, args, |[x, y]| general_power(x, y)),
    }
}

/// `x^n` by squaring; in `f64` with pairs, so that only the last rounding counts.
fn constant_power(x: Real<'_>, n: i32, goal: Goal) -> Real<'_> {
    if n == 0 {
        return x.constant(1.0);
    }
    if goal == Goal::Single {
        // In f64 the power overflows or underflows only where the f32 does.
        let (a, b) = last_factors(x, n.unsigned_abs(), |a, b| a * b);
        return if n < 0 { 1.0 / (a * b) } else { a * b };
    }
    let count = n.unsigned_abs();
    let mut base = if n > 0 {
        Factor { high: x, low: None }
    } else {
        // A power of the reciprocal: a reciprocal of the power could overflow on the way to a subnormal result.
        let inverse = 1.0 / x;
        Factor { high: inverse, low: Some((-inverse).fma(x, 1.0) * inverse) }
    };
    // Near the subnormals the products of low parts round, which is too much where there are two of them: then small
    // bases are scaled up, and their power is scaled down in the end.
    let mut back = None;
    if count > 5 && !count.is_power_of_two() && !(count - 1).is_power_of_two() || n < -2 {
        let bits = 300_u32.div_ceil(count);
        let small = base.high.abs().lt(2.0_f64.powi(-(400 / count as i32)));
        let scale = small.select(x.constant(2.0_f64.powi(bits as i32)), 1.0);
        base = Factor { high: base.high * scale, low: base.low.map(|low| low * scale) };
        back = Some(small.select(x.constant(2.0_f64.powi(-((bits * count) as i32))), 1.0));
    }
    let (a, b) = last_factors(base, count, |a, b| {
        let p = two_product(a.high, b.high);
        Factor { high: p.high, low: Some(cross_terms(a, b, p.low)) }
    });
    let head = a.high * b.high;
    let power = match (a.low, b.low) {
        (None, None) => head,
        (Some(low), None) => a.high.fma(b.high, low * b.high),
        (None, Some(low)) => a.high.fma(b.high, a.high * low),
        (Some(low), Some(_)) if count.is_power_of_two() => a.high.fma(b.high, (low + low) * b.high),
        (Some(low), Some(b_low)) => a.high.fma(b.high, low.fma(b.high, a.high * b_low)),
    };
    // Where a factor is infinite, its low part is as well, or NaN; and those of zeros have any sign.
    let size = head.abs();
    let infinite = size.eq(f64::INFINITY);
    let power = if n > 0 { infinite } else { infinite | size.eq(0.0) }.select(head, power);
    let power = back.map_or(power, |back| power * back);
    if n & 1 == 0 { power } else { power.with_sign(x) }
}

/// `high + low`, or `high` exactly.
#[derive(Clone, Copy)]
struct Factor<'s> {
    high: Real<'s>,
    low: Option<Real<'s>>,
}

/// `a.high * b.low + a.low * b.high + sum`
fn cross_terms<'s>(a: Factor<'s>, b: Factor<'s>, sum: Real<'s>) -> Real<'s> {
    let sum = b.low.map_or(sum, |low| a.high.fma(low, sum));
    a.low.map_or(sum, |low| low.fma(b.high, sum))
}

/// The factors of the last of the products that give `x^n` by squaring, for `n > 1`.
fn last_factors<T: Copy>(x: T, n: u32, mut product: impl FnMut(T, T) -> T) -> (T, T) {
    let (mut result, mut square, mut rest) = (None, x, n);
    loop {
        match (result, rest) {
            (None, 2) => return (square, square),
            (Some(result), 1) => return (result, square),
            _ => {}
        }
        if rest & 1 != 0 {
            result = Some(result.map_or(square, |r| product(r, square)));
        }
        square = product(square, square);
        rest >>= 1;
    }
}

fn general_power<'s>(x: Real<'s>, y: Real<'s>) -> Real<'s> {
    let ax = x.abs();
    let magnitude = if x.pick(false, true) {
        // 2^-33 or so of the result, and no power is out of range.
        let l = log::log2_single(ax.cast(DType::F64));
        let e = (y.cast(DType::F64) * l).clamp(-200.0, 200.0);
        exp::power_of_two_single(e).cast(DType::F32)
    } else {
        let l = log2(ax);
        let e = two_product(y, l.high);
        // Where the product overflows its low part is NaN, and any will do.
        let low = y.fma(l.low, e.low).max(-1.0).min(1.0);
        exp::power_of_two(e.high.clamp(-1100.0, 1100.0), Some(low))
    };
    // NaN or infinite for such y, x for all others.
    let probe = y.fma(0.0, x);
    let ordinary = probe.gt(0.0) & probe.lt(f64::INFINITY);
    (!ordinary).select(special_power(x, y, magnitude), magnitude)
}

/// `x^y`, given that of `|x|` if `x` is finite and not 0, and `y` finite.
fn special_power<'s>(x: Real<'s>, y: Real<'s>, magnitude: Real<'s>) -> Real<'s> {
    let (ax, ay) = (x.abs(), y.abs());
    let infinite = ay.eq(f64::INFINITY);
    let limit = (y * (ax - 1.0)).gt(0.0).select(x.constant(f64::INFINITY), 0.0);
    let at_limit = infinite | ax.eq(0.0) | ax.eq(f64::INFINITY);
    let magnitude = at_limit.select(limit, magnitude);
    // Whether y is an integer, and an odd one; every float from 2^53 is even.
    let whole = y.floor().eq(y);
    let half = y * 0.5;
    let odd = whole & half.floor().ne(half);
    let signed = magnitude.flip(odd.select_bits(x.sign(), x.sign().constant(0)));
    let undefined = x.lt(0.0) & ax.lt(f64::INFINITY) & !whole;
    let unordered = ax.is_nan() | y.is_nan();
    let result = (undefined | unordered).select(x.constant(f64::NAN), signed);
    let one = x.eq(1.0) | y.eq(0.0) | (infinite & ax.eq(1.0));
    one.select(x.constant(1.0), result)
}

/// `log2(x)` of a positive finite number to about 2^-66, relative to the result.
///
/// `log(1 + f) = 2 atanh(s)` with `s = f / (2 + f)` as a pair. Of `atanh(s) = s + s z (1/3 + z (1/5 + ...))`, `z = s^2`,
/// all but the inner sum are pairs.
fn log2(x: Real<'_>) -> Pair<'_> {
    let (k, f) = log::binary_parts(x);
    let d = fast_two_sum(x.constant(2.0), f);
    let s = quotient(Pair { high: f, low: x.constant(0.0) }, d);
    let z = two_product(s.high, s.high);
    let z_low = (s.high + s.high).fma(s.low, z.low);
    // Times 2 / ln 2 from here on.
    let (scale, scale_low) = (2.0 * log::INVERSE_LN_2.0, 2.0 * log::INVERSE_LN_2.1);
    let first = two_product(s.high, scale);
    let first_low = s.low.fma(scale, s.high.fma(scale_low, first.low));
    let u = fast_two_sum(x.constant(CUBIC), z.high * z.high.polynomial(&LOG_TAIL));
    let u_low = u.low + CUBIC_LOW;
    let w = two_product(z.high, u.high);
    let w_low = z.high.fma(u_low, z_low.fma(u.high, w.low));
    let p = two_product(s.high, w.high);
    let p_low = s.high.fma(w_low, s.low.fma(w.high, p.low));
    let a = fast_two_sum(first.high, p.high);
    let sum = fast_two_sum(k, a.high);
    Pair { high: sum.high, low: sum.low + (a.low + (first_low + p_low)) }
}

/// `2 / (3 ln 2)`, and what it misses.
const CUBIC: f64 = 0.9617966939259756;
const CUBIC_LOW: f64 = 5.0577616648125907e-17;

/// Wrapping `x^n` for `n >= 0`, by squaring over the bits of `n`; a constant `n` needs only its own bits.
fn integer_power(b: &mut Builder, x: Value, n: Value) -> Value {
    let dtype = b.dtype(x);
    let one = b.int(dtype, 1);
    if let Some(n) = b.as_const(n) {
        let mut rest = if dtype.is_signed() { n.as_i64().max(0) as u64 } else { n.bits() };
        let (mut result, mut square) = (one, x);
        while rest > 0 {
            if rest & 1 != 0 {
                result = if result == one { square } else { b.mul(result, square) };
            }
            rest >>= 1;
            if rest > 0 {
                square = b.mul(square, square);
            }
        }
        return result;
    }
    let (mut result, mut square) = (one, x);
    let zero = b.int(dtype, 0);
    for bit in 0..dtype.bits() {
        let mask = b.bits(dtype, 1 << bit);
        let bit_of_n = b.and(n, mask);
        let set = b.ne(bit_of_n, zero);
        let factor = b.select(set, square, one);
        result = b.mul(result, factor);
        square = b.mul(square, square);
    }
    result
}

/// Cube root. Error at most 0.51 ULP in `f64`, 0.51 in `f32`.
///
/// `x = 8^k m`; two third-order steps from a polynomial towards `m^(-1/3)`, and one exact correction of `m^(1/3)`.
pub fn cbrt(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let (scaled, shift) = match goal {
            Goal::Double => {
                let subnormal = ax.lt(f64::MIN_POSITIVE);
                (subnormal.select(ax * 18_014_398_509_481_984.0, ax), subnormal.select(ax.constant(-18.0), 0.0))
            }
            Goal::Single => (ax, ax.constant(0.0)),
        };
        // A third of the exponent, rounded; the exponent is read as a float as in the logarithm.
        let exponent = (scaled.bits().shr(52) | 0x4330_0000_0000_0000).real() - (4_503_599_627_370_496.0 + 1023.0);
        let shifted = exponent.fma(1.0 / 3.0, ROUNDER);
        let k: Bits<'_> = shifted.bits();
        let thrice = k.shl(1) + k;
        let m = (scaled.bits() - thrice.shl(52)).real();
        let mut r = m.polynomial(&INVERSE_CUBE_ROOT);
        for _ in 0..2 {
            let h = (-m * r).fma(r * r, 1.0);
            // (1 - h)^(-1/3) = 1 + h/3 + 2 h^2/9 + ...
            r = (h * r).fma(h.fma(2.0 / 9.0, 1.0 / 3.0), r);
        }
        let square = r * r;
        let y = m * square;
        let y = match goal {
            Goal::Double => {
                // y - (y^3 - m) / (3 y^2), with y^3 to twice the precision.
                let yy = two_product(y, y);
                let cube = two_product(yy.high, y);
                let excess = (cube.high - m) + yy.low.fma(y, cube.low);
                (excess * square).fma(-1.0 / 3.0, y)
            }
            Goal::Single => y,
        };
        let power = (shifted + shift).bits().shl(52) + 0x3ff0_0000_0000_0000;
        let y = y * power.real();
        ax.eq(0.0).select(ax, y.unless_infinite(ax)).with_sign(x)
    })
}

/// `sqrt(x^2 + y^2)` without overflow or underflow on the way. Error at most 0.99 ULP. Infinite if either is, even if the
/// other is NaN.
///
/// Of both over a power of two near the greater one. There the square of the lesser is rounded to an eighth of the
/// root's ULP, the sum to 3/8, and the root to a half.
pub fn hypot(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x, y]| {
        let (ax, ay) = (x.abs(), y.abs());
        // One of these is NaN if either argument is.
        let (greater, lesser) = (ax.max(ay), ay.min(ax));
        let (digits, field) = x.pick((52, 0x7ff0_0000_0000_0000), (23, 0x7f80_0000));
        // From this bound on half the power of two, and its reciprocal, are normal.
        let bounded = greater.max(x.pick(2.0 * f64::MIN_POSITIVE, 2.0 * f64::from(f32::MIN_POSITIVE)));
        let exponent = bounded.bits() & field;
        let power = (exponent - (1 << digits)).real();
        let inverse = (exponent.constant(field) - exponent).real();
        let (greater, lesser) = (greater * inverse, lesser * inverse);
        let root = greater.fma(greater, lesser * lesser).sqrt() * power;
        let infinite = ax.eq(f64::INFINITY) | ay.eq(f64::INFINITY);
        infinite.select(x.constant(f64::INFINITY), root)
    })
}
