//! The error function, its complement, and the Gaussian error linear unit.
//!
//! For large arguments `erfc(x) = e^(-x^2) F(x)`; `F` times a linear factor is nearly constant, and a polynomial in
//! `t = (x - c) / (x + c)` approximates it on the whole half-line (Shepherd and Laframboise, "Chebyshev approximation of
//! (1 + 2x) exp(x^2) erfc x", Math. Comp. 36, 1981; the factor here makes it flat at 0). `x^2` is exact as a pair.

use super::coefficients::{
    ERF, ERF_LOW, ERF_TAIL, ERFC, ERFC_LOW, ERFC_SINGLE, NORMAL_TAIL, NORMAL_TAIL_LOW, NORMAL_TAIL_SINGLE,
};
use super::exp::Exponential;
use super::real::{
    Goal, Pair, Real, fast_two_sum, in_either, in_f64, quotient, split_polynomial, two_product, two_sum,
};
use super::single;
use crate::kernel::{Builder, Value};
use std::f64::consts::FRAC_2_SQRT_PI;

/// `sqrt(2 / pi)`, rounded.
const SQRT_2_PI: f64 = 0.7978845608028654;

/// `e^(minus x^2) p(t) / (1 + slope x)` with `t = (x - center) / (x + center)`, as a significand and its power of two.
struct Tail<'s> {
    significand: Pair<'s>,
    power: Exponential<'s>,
}

impl<'s> Tail<'s> {
    fn of(x: Real<'s>, center: f64, slope: f64, minus: f64, coefficients: &[f64], low: f64) -> Tail<'s> {
        let t = (x - center) / (x + center);
        let square = two_product(x, x);
        let power = Exponential::of_sum(square.high * minus, square.low * minus);
        // The two leading terms are exact; what is left is a tenth of the sum.
        let linear = two_product(t, coefficients[1]);
        let head = fast_two_sum(x.constant(coefficients[0]), linear.high);
        let p = fast_two_sum(head.high, t.polynomial(&coefficients[2..]) * (t * t));
        let p = Pair { high: p.high, low: p.low + (head.low + (linear.low + low)) };
        let scaled = two_product(x, slope);
        let d = two_sum(scaled.high, x.constant(1.0));
        let q = quotient(p, Pair { high: d.high, low: d.low + scaled.low });
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

/// The error function. Error at most 0.95 ULP in `f64`, 0.90 in `f32`.
///
/// An odd polynomial up to 5/4, `1 - erfc` above.
pub fn erf(b: &mut Builder, args: &[Value]) -> Value {
    in_either(
        b,
        args,
        |[x]| single::erf::erf(x),
        |[x]| {
            let ax = x.abs();
            let square = two_product(ax, ax);
            let p = split_polynomial(square.high - 0.75, &ERF, ERF_LOW);
            let product = two_product(ax, p.high);
            let near = product.high + ax.fma(p.low, product.low);
            let bounded = ax.min(6.0);
            let t = (bounded - 3.0) / (bounded + 3.0);
            let square = two_product(bounded, bounded);
            let e = Exponential::of_sum(-square.high, -square.low).normal(Goal::Double);
            let far = (-t.polynomial(&ERF_TAIL)).fma(e, 1.0);
            let y = ax.lt(1.25).select(near, far);
            ax.is_nan().select(x, y.with_sign(x))
        },
    )
}

/// `1 - erf(x)`. Error at most 0.90 ULP in `f64`, 0.51 in `f32`.
pub fn erfc(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let negative = x.lt(0.0);
        let y = match goal {
            Goal::Double => {
                let tail = Tail::of(ax.clamp(0.0, 28.0), 4.0, FRAC_2_SQRT_PI, -1.0, &ERFC, ERFC_LOW);
                let m = tail.significand;
                let [s, t] = tail.power.scales();
                let (high, low) = (m.high * s * t, m.low * s * t);
                let reflected = fast_two_sum(x.constant(2.0), -high);
                negative.select(reflected.high + (reflected.low - low), m.round() * s * t)
            }
            Goal::Single => {
                let tail = single_tail(ax.clamp(0.0, 11.0), 4.0, FRAC_2_SQRT_PI, -1.0, &ERFC_SINGLE);
                negative.select(2.0 - tail, tail)
            }
        };
        ax.is_nan().select(x, y)
    })
}

/// `x` times the normal distribution function of `x`: `x erfc(-x / sqrt 2) / 2`. Error at most 0.90 ULP in `f64`, 0.51 in
/// `f32`.
pub fn gelu(b: &mut Builder, args: &[Value]) -> Value {
    in_f64(b, args, |[x], goal| {
        let ax = x.abs();
        let negative = x.lt(0.0);
        let y = match goal {
            Goal::Double => {
                let tail = Tail::of(ax.clamp(0.0, 39.0), 5.0, SQRT_2_PI, -0.5, &NORMAL_TAIL, NORMAL_TAIL_LOW);
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
                let tail = single_tail(ax.clamp(0.0, 15.0), 5.0, SQRT_2_PI, -0.5, &NORMAL_TAIL_SINGLE);
                let bounded = x.max(-15.0);
                let y = negative.select(bounded * tail, x * (1.0 - tail));
                ax.is_nan().select(x, y)
            }
        };
        // -0.0 for -0.0, and where the result underflows.
        y.with_sign(x)
    })
}
