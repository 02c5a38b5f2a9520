//! The error function, its complement, and the Gaussian error linear unit.
//!
//! For large arguments `erfc(x) = e^(-x^2) F(x)`; `F` times a linear factor is nearly constant, and a polynomial in
//! `t = (x - c) / (x + c)` approximates it on the whole half-line (Shepherd and Laframboise, "Chebyshev approximation of
//! (1 + 2x) exp(x^2) erfc x", Math. Comp. 36, 1981). `x^2` is exact as a pair.

use super::coefficients::{
    ERF, ERF_SINGLE, ERF_TAIL, ERF_TAIL_SINGLE, ERFC, ERFC_LOW, ERFC_SINGLE, NORMAL_TAIL, NORMAL_TAIL_LOW,
    NORMAL_TAIL_SINGLE,
};
use super::exp::Exponential;
use super::real::{Goal, Pair, Real, fast_two_sum, in_f64, quotient, two_product, two_sum};
use crate::kernel::{Builder, Value};
use std::f64::consts::FRAC_2_SQRT_PI;

/// `2 / sqrt(pi) - FRAC_2_SQRT_PI`
const FRAC_2_SQRT_PI_LOW: f64 = 1.533545961316588e-17;

/// `e^-(s x^2) p(t) / (1 + a x)` with `t = (x - c) / (x + c)`, as a significand pair and its power of two.
struct Tail<'s> {
    significand: Pair<'s>,
    power: Exponential<'s>,
}

impl<'s> Tail<'s> {
    fn of(x: Real<'s>, center: f64, slope: f64, minus: f64, coefficients: &[f64], constant_low: f64) -> Tail<'s> {
        let t = (x - center) / (x + center);
        let square = two_product(x, x);
        let power = Exponential::of_sum(square.high * minus, square.low * minus);
        let (constant, rest) = coefficients.split_first().expect("a polynomial has coefficients");
        let p = fast_two_sum(x.constant(*constant), t.polynomial(rest) * t);
        let p = Pair { high: p.high, low: p.low + constant_low };
        let d = two_sum(x * slope, x.constant(1.0));
        let q = quotient(p, d);
        let m = power.significand();
        let product = two_product(q.high, m.high);
        let low = q.high.fma(m.low, q.low.fma(m.high, product.low));
        Tail { significand: fast_two_sum(product.high, low), power }
    }
}

/// `p(t) e^-(s x^2) / (1 + a x)` for an `f32`; the power stays normal.
fn single_tail<'s>(x: Real<'s>, center: f64, slope: f64, minus: f64, coefficients: &[f64]) -> Real<'s> {
    let t = (x - center) / (x + center);
    let e = Exponential::of(x * x * minus, Goal::Single).normal(Goal::Single);
    t.polynomial(coefficients) * e / x.fma(slope, 1.0)
}

/// The error function. Error at most 0.85 ULP in `f64`, 0.51 in `f32`.
///
/// An odd polynomial up to 1.5, `1 - erfc` above.
pub fn erf(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let z = x * x;
        let p = z.polynomial(goal.pick(&ERF, &ERF_SINGLE));
        let near = match goal {
            Goal::Double => {
                let head = two_product(ax, FRAC_2_SQRT_PI);
                head.high + (ax * z).fma(p, ax.fma(FRAC_2_SQRT_PI_LOW, head.low))
            }
            Goal::Single => ax * z.fma(p, FRAC_2_SQRT_PI),
        };
        let bounded = ax.clamp(1.0, 6.0);
        let t = (bounded - 3.0) / (bounded + 3.0);
        let f = t.polynomial(goal.pick(&ERF_TAIL, &ERF_TAIL_SINGLE));
        let e = Exponential::of(-(bounded * bounded), goal).normal(goal);
        let far = 1.0 - f * e;
        let y = ax.lt(1.5).select(near, far);
        ax.is_nan().select(x, y.with_sign(x))
    })
}

/// `1 - erf(x)`. Error at most 0.95 ULP in `f64`, 0.51 in `f32`.
pub fn erfc(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let negative = x.lt(0.0);
        let y = match goal {
            Goal::Double => {
                let tail = Tail::of(ax.clamp(0.0, 28.0), 4.0, 2.0, -1.0, &ERFC, ERFC_LOW);
                let m = tail.significand;
                let [s, t] = tail.power.scales();
                let (high, low) = (m.high * s * t, m.low * s * t);
                let reflected = fast_two_sum(x.constant(2.0), -high);
                negative.select(reflected.high + (reflected.low - low), m.round() * s * t)
            }
            Goal::Single => {
                let tail = single_tail(ax.clamp(0.0, 11.0), 4.0, 2.0, -1.0, &ERFC_SINGLE);
                negative.select(2.0 - tail, tail)
            }
        };
        ax.is_nan().select(x, y)
    })
}

/// `x` times the normal distribution function of `x`: `x erfc(-x / sqrt 2) / 2`. Error at most 1 ULP in `f64`, 0.51 in
/// `f32`.
pub fn gelu(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let negative = x.lt(0.0);
        let y = match goal {
            Goal::Double => {
                let tail = Tail::of(ax.clamp(0.0, 39.0), 5.0, 1.0, -0.5, &NORMAL_TAIL, NORMAL_TAIL_LOW);
                let m = tail.significand;
                let [s, t] = tail.power.scales();
                let below = two_product(x.max(-39.0), m.high);
                let below = (below.high + x.max(-39.0).fma(m.low, below.low)) * s * t;
                let d = fast_two_sum(x.constant(1.0), -(m.high * s * t));
                let above = two_product(x, d.high);
                let low = x.fma(d.low - m.low * s * t, above.low);
                // At infinity the low part is NaN.
                let above = x.lt(1e300).select(above.high + low, x);
                negative.select(below, above)
            }
            Goal::Single => {
                let tail = single_tail(ax.clamp(0.0, 15.0), 5.0, 1.0, -0.5, &NORMAL_TAIL_SINGLE);
                let bounded = x.max(-15.0);
                let y = negative.select(bounded * tail, x * (1.0 - tail));
                ax.is_nan().select(x, y)
            }
        };
        // -0.0 for -0.0, and where the result underflows.
        y.with_sign(x)
    })
}
