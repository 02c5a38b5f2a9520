//! Sine, cosine, tangent and their inverses.
//!
//! The argument is reduced to `t = x - n pi/2` with `|t| <= pi/4`, with a low part: after Cody and Waite with three
//! parts of `pi/2` up to 2^30, after Payne and Hanek ("Radian Reduction for Trigonometric Functions", 1983) beyond, see
//! [`super::payne_hanek`]. Both kernels, `sin t` and `cos t`, follow fdlibm's `k_sin.c` and `k_cos.c` with minimax
//! polynomials; `n` chooses between them.

use super::coefficients::{ASIN, ATAN, ATAN_LOW, ATAN_SINGLE, COS, COS_F32, COS_SINGLE, SIN, SIN_F32, SIN_SINGLE};
use super::exp::{ROUNDER, rounder};
use super::payne_hanek;
use super::real::{
    Bits, Goal, Pair, Real, fast_two_sum, in_dtype, in_either, in_f64, quotient, split_polynomial, two_product, two_sum,
};
use super::single;
use crate::dtype::DType;
use crate::kernel::{Builder, Prim, Value};
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, PI};

/// `pi/2` is the sum of `FRAC_PI_2` and these.
pub(super) const FRAC_PI_2_LOW: f64 = 6.123233995736766e-17;
const FRAC_PI_2_LOWEST: f64 = -1.4973849048591698e-33;
/// `pi - PI`
const PI_LOW: f64 = 2.0 * FRAC_PI_2_LOW;
/// From here on [`payne_hanek`] reduces.
const HUGE: f64 = 1_073_741_824.0;
/// Three parts of `pi/2` of 24 bits each.
const FRAC_PI_2_SINGLE: [f64; 3] = [1.570_796_370_506_286_6, -4.371_138_828_673_793e-8, -1.715_124_510_005_881_9e-15];
/// From here on [`sine`] reduces an `f32` in `f64`: the second part's product would have too many bits.
const LARGE_SINGLE: f64 = 131_072.0;

/// An angle reduced to `|t| <= pi/4` and its quadrant.
pub(super) struct Reduced<'s> {
    /// `x - n pi/2`.
    pub(super) t: Pair<'s>,
    /// `n` modulo 4 in the two lowest bits.
    pub(super) quadrant: Bits<'s>,
}

impl<'s> Reduced<'s> {
    /// Of a number below [`HUGE`] in magnitude; anything for others.
    fn of(x: Real<'s>, goal: Goal) -> Reduced<'s> {
        let shifted = x.fma(FRAC_2_PI, ROUNDER);
        let n = shifted - ROUNDER;
        // Exact: a multiple of 2^-53 that is below 1.
        let head = n.fma(-FRAC_PI_2, x);
        let t = match goal {
            Goal::Double => {
                let second = two_product(n, -FRAC_PI_2_LOW);
                let sum = two_sum(head, second.high);
                Pair { high: sum.high, low: n.fma(-FRAC_PI_2_LOWEST, sum.low + second.low) }
            }
            Goal::Single => Pair { high: n.fma(-FRAC_PI_2_LOW, head), low: x.constant(0.0) },
        };
        Reduced { t, quadrant: shifted.bits() }
    }

    /// Of a number whose magnitude may be [`HUGE`] and above, for [`Goal::Single`].
    fn of_any(x: Real<'s>) -> Reduced<'s> {
        let (huge, other) = (payne_hanek::reduce(x, Goal::Single), Reduced::of(x, Goal::Single));
        let is_huge = x.abs().ge(HUGE);
        let high = is_huge.select(huge.t.high, other.t.high);
        Reduced { t: Pair { high, low: other.t.low }, quadrant: is_huge.select_bits(huge.quadrant, other.quadrant) }
    }

    /// `sin t` as an unevaluated sum.
    fn sine(&self, goal: Goal) -> Pair<'s> {
        let t = self.t.high;
        let z = t * t;
        let cubic = z.polynomial(goal.pick(&SIN, &SIN_SINGLE));
        let low = match goal {
            // sin(t + low) = sin t + low cos t
            Goal::Double => cubic.fma(t * z, (z * -0.5).fma(self.t.low, self.t.low)),
            Goal::Single => cubic * (t * z),
        };
        Pair { high: t, low }
    }

    /// `cos t` as an unevaluated sum.
    fn cosine(&self, goal: Goal) -> Pair<'s> {
        let t = self.t.high;
        let z = t * t;
        let quartic = z.polynomial(goal.pick(&COS, &COS_SINGLE));
        let half = z * 0.5;
        let high = 1.0 - half;
        match goal {
            Goal::Double => {
                let lost = (1.0 - high) - half;
                Pair { high, low: quartic.fma(z * z, (-t).fma(self.t.low, lost)) }
            }
            Goal::Single => Pair { high, low: quartic * (z * z) },
        }
    }

    /// `sin(t + (n + turn) pi/2)`.
    fn rotated(&self, turn: u64, goal: Goal) -> Real<'s> {
        let (sine, cosine) = (self.sine(goal).round(), self.cosine(goal).round());
        let quadrant = if turn == 0 { self.quadrant } else { self.quadrant + turn };
        let odd = (quadrant & 1).ne(0);
        odd.select(cosine, sine).flip(quadrant.shr(1).shl(63))
    }
}

/// Sine. Error at most 0.90 ULP, for arguments of any size.
pub fn sin(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| sine(x, 0))
}

/// Cosine. Error at most 0.90 ULP, for arguments of any size.
pub fn cos(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| sine(x, 1))
}

/// `sin(x + turn pi/2)` for a `turn` of 0 or 1.
fn sine(x: Real<'_>, turn: u64) -> Real<'_> {
    let parts = x.pick([FRAC_PI_2, FRAC_PI_2_LOW, FRAC_PI_2_LOWEST], FRAC_PI_2_SINGLE);
    let rounder = rounder(x);
    let ax = x.abs();
    let is_large = ax.ge(x.pick(HUGE, LARGE_SINGLE));
    let large = x.large(if turn == 0 { Prim::LargeSin } else { Prim::LargeCos });
    let shifted = ax.fma(FRAC_2_PI, rounder);
    let n = shifted - rounder;
    // Exact: a multiple of the unit of 1 that is below 1.
    let head = n.fma(-parts[0], ax);
    // A fast two-sum, for `head` is a multiple of the product's unit; the low part has the product's own error as well.
    let t = head - n * parts[1];
    let low = n.fma(-parts[2], n.fma(-parts[1], head - t));
    let z = t * t;
    let sine = t + z.either_polynomial(&SIN, &SIN_F32).fma(t * z, low);
    // 1 - z/2 with its rounding error, and t low of cos(t + low).
    let one = z.fma(-0.5, 1.0);
    let lost = z.fma(-0.5, 1.0 - one);
    let cosine = one + z.either_polynomial(&COS, &COS_F32).fma(z * z, (-t).fma(low, lost));
    let quadrant = if turn == 0 { shifted.bits() } else { shifted.bits() + turn };
    let y = (quadrant & 1).ne(0).select(cosine, sine);
    let sign = quadrant.shl(x.pick(62, 30));
    // The sine of |x| has the sign of x to take.
    let sign = if turn == 0 { sign ^ x.bits() } else { sign };
    is_large.select(large, y.flip(sign & x.pick(1 << 63, 1 << 31)))
}

/// What computes [`Prim::LargeSin`].
pub(crate) fn large_sin(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| large_sine(x, 0))
}

/// What computes [`Prim::LargeCos`].
pub(crate) fn large_cos(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| large_sine(x, 1))
}

/// As [`sine`], from [`HUGE`] on, or from [`LARGE_SINGLE`] in `f32`.
fn large_sine(x: Real<'_>, turn: u64) -> Real<'_> {
    if x.pick(true, false) {
        return payne_hanek::reduce(x, Goal::Double).rotated(turn, Goal::Double);
    }
    let wide = x.cast(DType::F64);
    Reduced::of_any(wide).rotated(turn, Goal::Single).cast(DType::F32)
}

/// Tangent. Error at most 0.90 ULP in `f64`, 0.51 in `f32`, for arguments of any size.
///
/// The quotient of sine and cosine, as pairs.
pub fn tan(b: &mut Builder, args: &[Value]) -> Value {
    let large = b.prim(Prim::LargeTan, args);
    in_dtype(b, &[args[0], large], |[x, large]| {
        let is_huge = x.abs().ge(HUGE);
        is_huge.select(large, tangent(x, Reduced::of))
    })
}

/// What computes [`Prim::LargeTan`].
pub(crate) fn large_tan(b: &mut Builder, args: &[Value]) -> Value {
    in_dtype(b, args, |[x]| tangent(x, payne_hanek::reduce))
}

/// The tangent of an angle that a function reduces.
fn tangent<'s>(x: Real<'s>, reduce: impl FnOnce(Real<'s>, Goal) -> Reduced<'s>) -> Real<'s> {
    let goal = x.pick(Goal::Double, Goal::Single);
    let wide = x.cast(DType::F64);
    let angle = reduce(wide, goal);
    let (s, c) = (angle.sine(goal), angle.cosine(goal));
    let odd = (angle.quadrant & 1).ne(0);
    let y = match goal {
        Goal::Double => {
            let (s, c) = (fast_two_sum(s.high, s.low), fast_two_sum(c.high, c.low));
            let n = Pair { high: odd.select(c.high, s.high), low: odd.select(c.low, s.low) };
            let d = Pair { high: odd.select(s.high, c.high), low: odd.select(s.low, c.low) };
            quotient(n, d).round()
        }
        Goal::Single => {
            let (s, c) = (s.round(), c.round());
            odd.select(c, s) / odd.select(s, c)
        }
    };
    let y = y.flip(angle.quadrant.shl(63));
    wide.abs().lt(1e-9).select(wide, y).cast(x.pick(DType::F64, DType::F32))
}

/// `(asin(t) - t) / t` from `z = t^2 <= 1/4`.
fn arcsine_excess(z: Real<'_>) -> Real<'_> {
    z.polynomial(&ASIN) * z
}

/// Inverse sine. Error at most 0.60 ULP in `f64`, 0.75 in `f32`.
///
/// `asin x` by a polynomial up to 1/2, `pi/2 - 2 asin sqrt((1 - x)/2)` above (fdlibm's `e_asin.c`).
pub fn arcsin(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::trig::arcsin(x),
        |[x]| {
            let ax = x.abs();
            let small = ax.lt(0.5);
            // Exact where it is used. Beyond 1 the root is NaN, and so is the result.
            let half = (-0.5 * ax) + 0.5;
            let z = small.select(x * x, half);
            let excess = arcsine_excess(z);
            let root = half.sqrt();
            let double = root + root;
            // Twice the error of the root is its square's divided by it. That counts where the root is between 1/3 and
            // 1/2, and the line is near enough to its reciprocal there.
            let error = (-root).fma(root, half) * root.fma(-5.6, 4.8);
            let low = double.fma(excess, error - FRAC_PI_2_LOW);
            let sum = fast_two_sum(x.constant(FRAC_PI_2), -double);
            let above = sum.high + (sum.low - low);
            small.select(ax.fma(excess, ax), above).with_sign(x)
        },
    )
}

/// Inverse cosine. Error at most 0.60 ULP in `f64`, 0.98 in `f32`.
///
/// `pi/2 - asin x` up to 1/2 in magnitude, `2 asin sqrt((1 - x)/2)` above, `pi` less that below.
pub fn arccos(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::trig::arccos(x),
        |[x]| {
            let ax = x.abs();
            let small = ax.lt(0.5);
            let half = (-0.5 * ax) + 0.5;
            let z = small.select(x * x, half);
            let excess = arcsine_excess(z);
            let root = half.sqrt();
            let negative = x.lt(0.0);
            // The root's own rounding error, twice: the divisor is 0 only if the root is.
            let rest = (-root).fma(root, half) * (1.0 / root.max(f64::MIN_POSITIVE));
            let double = root + root;
            let arc = small.select(x, double);
            let arc_low = small.select(x * excess, double.fma(excess, rest));
            // acos = base + sign * (arc + arc_low), with base pi/2, 0 or pi.
            let base = small.select(x.constant(FRAC_PI_2), negative.select(x.constant(PI), 0.0));
            let base_low = small.select(x.constant(FRAC_PI_2_LOW), negative.select(x.constant(PI_LOW), 0.0));
            let minus = (small | negative).select(x.constant(-1.0), 1.0);
            let sum = fast_two_sum(base, minus * arc);
            sum.high + (sum.low + minus.fma(arc_low, base_low))
        },
    )
}

/// `atan(t + low)` for `0 <= t <= 1` as an unevaluated sum.
fn arctangent<'s>(t: Real<'s>, low: Real<'s>) -> Pair<'s> {
    let p = split_polynomial(t.fma(t, -0.4375), &ATAN, ATAN_LOW);
    let product = two_product(t, p.high);
    // The derivative 1 / (1 + t^2) to within a tenth is enough for the low part.
    Pair { high: product.high, low: t.fma(p.low, low.fma(t.fma(-0.5, 1.0), product.low)) }
}

/// `atan(t)` for `0 <= t <= 1`, for an `f32`.
fn arctangent_single(t: Real<'_>) -> Real<'_> {
    let z = t * t;
    z.polynomial(&ATAN_SINGLE).fma(t * z, t)
}

/// Inverse tangent. Error at most 0.75 ULP in `f64`, 0.98 in `f32`.
///
/// A polynomial up to 1, `pi/2 - atan(1/x)` above.
pub fn arctan(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::trig::arctan(x),
        |[x]| {
            let ax = x.abs();
            let inverse = 1.0 / ax;
            let t = inverse.min(ax);
            let large = ax.gt(1.0);
            let rest = (-inverse).fma(ax, 1.0) * inverse;
            let low = large.select(rest, 0.0);
            let arc = arctangent(t, low);
            let sum = fast_two_sum(x.constant(FRAC_PI_2), -arc.high);
            let above = sum.high + (sum.low + (FRAC_PI_2_LOW - arc.low));
            let above = inverse.eq(0.0).select(x.constant(FRAC_PI_2), above);
            let y = large.select(above, arc.round());
            ax.is_nan().select(x, y.with_sign(x))
        },
    )
}

/// The angle of the point `(x, y)`, given `y` first. Error at most 0.85 ULP in `f64`, 0.51 in `f32`.
pub fn arctan2(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[y, x], goal| {
        let (ax, ay) = (x.abs(), y.abs());
        let steep = ay.gt(ax);
        let (lesser, greater) = (steep.select(ax, ay), steep.select(ay, ax));
        // The bits decide: -0.0 is a negative x.
        let negative = x.sign().ne(0);
        let base = steep.select(x.constant(FRAC_PI_2), negative.select(x.constant(PI), 0.0));
        let minus = (steep ^ negative).select(x.constant(-1.0), 1.0);
        let angle = match goal {
            Goal::Double => {
                let q = lesser / greater;
                let rest = (-q).fma(greater, lesser) / greater;
                let q = ax.eq(ay).select(x.constant(1.0), q);
                let q = greater.eq(0.0).select(x.constant(0.0), q);
                let rest = (rest.abs().lt(1.0) & ax.ne(ay)).select(rest, 0.0);
                let arc = arctangent(q, rest);
                let base_low = steep.select(x.constant(FRAC_PI_2_LOW), negative.select(x.constant(PI_LOW), 0.0));
                let sum = fast_two_sum(base, minus * arc.high);
                sum.high + (sum.low + minus.fma(arc.low, base_low))
            }
            Goal::Single => {
                let q = lesser / greater;
                let q = ax.eq(ay).select(x.constant(1.0), q);
                let q = greater.eq(0.0).select(x.constant(0.0), q);
                minus.fma(arctangent_single(q), base)
            }
        };
        let unordered = x.is_nan() | y.is_nan();
        unordered.select(x + y, angle.with_sign(y))
    })
}
