//! What the elementary functions should return, from libraries that have nothing to do with this project: CORE-MATH
//! (correctly rounded C functions) and astro-float (arbitrary precision).
//!
//! An `f32` result is compared with the function in `f64`, 29 bits more precise. An `f64` result that differs from the
//! correctly rounded one, or has none to compare with, is compared with the function in 192 bits. To add a function, add
//! a row to [`FUNCTIONS`]. [`Points`] are where the functions are compared.

use astro_float::{BigFloat, Consts, RoundingMode};
use std::f64::consts::FRAC_1_SQRT_2;

/// One function: its name in the op table, its value in `f64`, and in many bits.
pub struct Function {
    pub name: &'static str,
    /// The value rounded to `f64`, correctly if `correct`, to a few ULPs otherwise. Exact at special values.
    near: fn(f64, f64) -> f64,
    correct: bool,
    /// The correctly rounded value in `f32`.
    single: Option<fn(f32, f32) -> f32>,
    wide: fn(&mut Wide, BigFloat, BigFloat) -> BigFloat,
}

/// The functions that have a row in the op table with a bound.
pub static FUNCTIONS: &[Function] = &[
    Function {
        name: "exp",
        single: Some(|x, _| core_math::expf(x)),
        near: |x, _| core_math::exp(x),
        correct: true,
        wide: |w, x, _| w.exp(&x),
    },
    Function {
        name: "exp2",
        single: Some(|x, _| core_math::exp2f(x)),
        near: |x, _| core_math::exp2(x),
        correct: true,
        wide: |w, x, _| {
            let ln_2 = w.consts.ln_2(BITS, NEAREST);
            let x = w.mul(&x, &ln_2);
            w.exp(&x)
        },
    },
    Function {
        name: "expm1",
        single: Some(|x, _| core_math::expm1f(x)),
        near: |x, _| core_math::expm1(x),
        correct: true,
        wide: |w, x, _| w.expm1(&x),
    },
    Function {
        name: "log",
        single: Some(|x, _| core_math::logf(x)),
        near: |x, _| core_math::log(x),
        correct: true,
        wide: |w, x, _| w.log(&x),
    },
    Function {
        name: "log2",
        single: Some(|x, _| core_math::log2f(x)),
        near: |x, _| core_math::log2(x),
        correct: true,
        wide: |w, x, _| x.log2(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "log10",
        single: Some(|x, _| core_math::log10f(x)),
        near: |x, _| core_math::log10(x),
        correct: true,
        wide: |w, x, _| x.log10(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "log1p",
        single: Some(|x, _| core_math::log1pf(x)),
        near: |x, _| core_math::log1p(x),
        correct: true,
        wide: |w, x, _| w.log1p(&x),
    },
    Function {
        name: "sin",
        single: Some(|x, _| core_math::sinf(x)),
        near: |x, _| core_math::sin(x),
        correct: true,
        wide: |w, x, _| x.sin(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "cos",
        single: Some(|x, _| core_math::cosf(x)),
        near: |x, _| core_math::cos(x),
        correct: true,
        wide: |w, x, _| x.cos(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "tan",
        single: Some(|x, _| core_math::tanf(x)),
        near: |x, _| core_math::tan(x),
        correct: true,
        wide: |w, x, _| x.tan(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arcsin",
        single: Some(|x, _| core_math::asinf(x)),
        near: |x, _| core_math::asin(x),
        correct: true,
        wide: |w, x, _| x.asin(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arccos",
        single: Some(|x, _| core_math::acosf(x)),
        near: |x, _| core_math::acos(x),
        correct: true,
        wide: |w, x, _| x.acos(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arctan",
        single: Some(|x, _| core_math::atanf(x)),
        near: |x, _| core_math::atan(x),
        correct: true,
        wide: |w, x, _| x.atan(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arctan2",
        single: Some(core_math::atan2f),
        near: core_math::atan2,
        correct: true,
        wide: |w, y, x| {
            let ratio = y.div(&x, BITS, NEAREST);
            let angle = ratio.atan(BITS, NEAREST, &mut w.consts);
            let pi = w.consts.pi(BITS, NEAREST);
            match (x.is_negative(), y.is_negative()) {
                (false, _) => angle,
                (true, false) => w.add(&angle, &pi),
                (true, true) => w.sub(&angle, &pi),
            }
        },
    },
    Function {
        name: "sinh",
        single: Some(|x, _| core_math::sinhf(x)),
        near: |x, _| core_math::sinh(x),
        correct: true,
        wide: |w, x, _| x.sinh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "cosh",
        single: Some(|x, _| core_math::coshf(x)),
        near: |x, _| core_math::cosh(x),
        correct: true,
        wide: |w, x, _| x.cosh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "tanh",
        single: Some(|x, _| core_math::tanhf(x)),
        near: |x, _| core_math::tanh(x),
        correct: true,
        wide: |w, x, _| x.tanh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arcsinh",
        single: Some(|x, _| core_math::asinhf(x)),
        near: |x, _| core_math::asinh(x),
        correct: true,
        wide: |w, x, _| x.asinh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arccosh",
        single: Some(|x, _| core_math::acoshf(x)),
        near: |x, _| core_math::acosh(x),
        correct: true,
        wide: |w, x, _| x.acosh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "arctanh",
        single: Some(|x, _| core_math::atanhf(x)),
        near: |x, _| core_math::atanh(x),
        correct: true,
        wide: |w, x, _| x.atanh(BITS, NEAREST, &mut w.consts),
    },
    Function {
        name: "pow",
        single: Some(core_math::powf),
        near: core_math::pow,
        correct: true,
        wide: |w, x, y| {
            let odd = x.is_negative() && y.rem(&w.number(2.0)).abs().cmp(&w.number(1.0)) == Some(0);
            let log = w.log(&x.abs());
            let product = w.mul(&y, &log);
            let power = w.exp(&product);
            if odd { power.neg() } else { power }
        },
    },
    Function {
        name: "cbrt",
        single: Some(|x, _| core_math::cbrtf(x)),
        near: |x, _| core_math::cbrt(x),
        correct: true,
        wide: |_, x, _| x.cbrt(BITS, NEAREST),
    },
    Function {
        name: "hypot",
        single: Some(core_math::hypotf),
        near: core_math::hypot,
        correct: true,
        wide: |w, x, y| {
            let (x2, y2) = (w.mul(&x, &x), w.mul(&y, &y));
            w.add(&x2, &y2).sqrt(BITS, NEAREST)
        },
    },
    Function {
        name: "erf",
        single: Some(|x, _| core_math::erff(x)),
        near: |x, _| core_math::erf(x),
        correct: true,
        wide: |w, x, _| {
            if x.abs().cmp(&w.number(1.0)).is_some_and(|o| o < 0) {
                w.erf_series(&x, BITS)
            } else {
                let complement = w.erfc(&x.abs());
                let y = w.sub(&w.number(1.0), &complement);
                if x.is_negative() { y.neg() } else { y }
            }
        },
    },
    Function {
        name: "erfc",
        single: Some(|x, _| core_math::erfcf(x)),
        near: |x, _| core_math::erfc(x),
        correct: true,
        wide: |w, x, _| w.erfc(&x),
    },
    Function {
        name: "sigmoid",
        single: None,
        near: |x, _| {
            let e = core_math::exp(-x.abs());
            if x > 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
        },
        correct: false,
        wide: |w, x, _| {
            let e = w.exp(&x.neg());
            let d = w.add(&e, &w.number(1.0));
            d.reciprocal(BITS, NEAREST)
        },
    },
    Function {
        name: "softplus",
        single: None,
        near: |x, _| if x.is_nan() { x } else { x.max(0.0) + core_math::log1p(core_math::exp(-x.abs())) },
        correct: false,
        wide: |w, x, _| {
            let e = w.exp(&x.abs().neg());
            let log = w.log1p(&e);
            if x.is_negative() { log } else { w.add(&x, &log) }
        },
    },
    Function {
        name: "gelu",
        single: None,
        near: |x, _| if x == f64::NEG_INFINITY { -0.0 } else { x * (0.5 * core_math::erfc(-x * FRAC_1_SQRT_2)) },
        correct: false,
        wide: |w, x, _| {
            let root = w.number(2.0).sqrt(BITS + 64, NEAREST);
            let scaled = x.neg().div(&root, BITS + 64, NEAREST);
            let tail = w.erfc(&scaled);
            w.mul(&w.mul(&tail, &x), &w.number(0.5))
        },
    },
];

/// Splitmix64: the same points in every run, whatever the threads.
pub struct Points(u64);

impl Points {
    pub fn new(seed: u64) -> Points {
        Points(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[low, high)`.
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.bits() >> 11) as f64 * 2.0_f64.powi(-53))
    }

    /// Any bits of an `f32` or of an `f64`.
    pub fn any(&mut self, single: bool) -> f64 {
        if single { f64::from(f32::from_bits(self.bits() as u32)) } else { f64::from_bits(self.bits()) }
    }
}

/// The row of this name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

impl Function {
    /// The error of `got` as the `f32` value of the function, in ULPs: `None` if it is the correctly rounded value,
    /// infinite if a special value is wrong.
    pub fn error_f32(&self, args: &[f32], got: f32) -> Option<f64> {
        let second = args.get(1).copied().unwrap_or(0.0);
        if self.single.is_some_and(|nearest| same(f64::from(nearest(args[0], second)), f64::from(got))) {
            return None;
        }
        let want = (self.near)(f64::from(args[0]), f64::from(second));
        let nearest = want as f32;
        if same(f64::from(nearest), f64::from(got)) {
            return None;
        }
        if wrong_kind(want, f64::from(got), f64::from(f32::MAX)) {
            return Some(f64::INFINITY);
        }
        let got = if got.is_infinite() { 2.0_f64.powi(128).copysign(want) } else { f64::from(got) };
        let exponent = ((want.abs().to_bits() >> 52) as i32 - 1023).max(-126);
        Some((got - want).abs() / 2.0_f64.powi(exponent - 23))
    }

    /// The error of `got` as the `f64` value of the function, in ULPs: `None` if it is the correctly rounded value,
    /// infinite if a special value is wrong.
    pub fn error_f64(&self, wide: &mut Wide, args: &[f64], got: f64) -> Option<f64> {
        let second = args.get(1).copied().unwrap_or(0.0);
        let want = (self.near)(args[0], second);
        let special = self.correct || args.iter().any(|x| *x == 0.0 || !x.is_finite());
        if special && same(want, got) {
            return None;
        }
        if wrong_kind(want, got, f64::MAX) || args.iter().any(|x| !x.is_finite()) {
            return Some(f64::INFINITY);
        }
        let exact = (self.wide)(wide, wide.number(args[0]), wide.number(second));
        let of_got = if got.is_infinite() {
            let mut limit = wide.number(1.0_f64.copysign(got));
            limit.set_exponent(1025);
            limit
        } else {
            wide.number(got)
        };
        let difference = of_got.sub(&exact, BITS + 1200, NEAREST);
        // A number is a significand in [1/2, 1) times 2^exponent.
        let ulp = exact.exponent().unwrap_or(-1200).max(-1021) - 53;
        Some(size(&difference, ulp))
    }
}

/// The same bits, or both NaN.
fn same(x: f64, y: f64) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

/// True if one is NaN and the other is not, if signs differ, or if one is infinite and the other far from it.
fn wrong_kind(want: f64, got: f64, largest: f64) -> bool {
    want.is_nan() != got.is_nan()
        || want.is_sign_negative() != got.is_sign_negative()
        || want.is_infinite() && got.abs() < largest
        || got.is_infinite() && want.abs() < largest
}

/// `|x| 2^-exponent`
fn size(x: &BigFloat, exponent: i32) -> f64 {
    let Some((words, _, _, e, _)) = x.as_raw_parts() else { return f64::INFINITY };
    let top = words.last().copied().unwrap_or(0) as f64 * 2.0_f64.powi(-64);
    top * 2.0_f64.powi((e - exponent).clamp(-1000, 1000))
}

const BITS: usize = 192;
const NEAREST: RoundingMode = RoundingMode::None;

/// Arithmetic in [`BITS`] bits, rounded somehow, and functions that astro-float lacks.
pub struct Wide {
    consts: Consts,
}

impl Wide {
    pub fn new() -> Wide {
        Wide { consts: Consts::new().expect("constants fit in memory") }
    }

    fn number(&self, x: f64) -> BigFloat {
        if x.is_normal() || x == 0.0 {
            return BigFloat::from_f64(x, BITS);
        }
        // astro-float 0.9.6 reads subnormals wrongly.
        let mut scaled = BigFloat::from_f64(x * 2.0_f64.powi(54), BITS);
        scaled.set_exponent(scaled.exponent().unwrap_or(0) - 54);
        scaled
    }

    fn add(&self, x: &BigFloat, y: &BigFloat) -> BigFloat {
        x.add(y, BITS, NEAREST)
    }

    fn sub(&self, x: &BigFloat, y: &BigFloat) -> BigFloat {
        x.sub(y, BITS, NEAREST)
    }

    fn mul(&self, x: &BigFloat, y: &BigFloat) -> BigFloat {
        x.mul(y, BITS, NEAREST)
    }

    fn exp(&mut self, x: &BigFloat) -> BigFloat {
        x.exp(BITS, NEAREST, &mut self.consts)
    }

    fn log(&mut self, x: &BigFloat) -> BigFloat {
        x.ln(BITS, NEAREST, &mut self.consts)
    }

    fn tiny(&self, x: &BigFloat) -> bool {
        x.exponent().is_none_or(|e| e < -70)
    }

    fn expm1(&mut self, x: &BigFloat) -> BigFloat {
        if self.tiny(x) {
            let square = self.mul(&self.mul(x, x), &self.number(0.5));
            return self.add(x, &square);
        }
        let e = x.exp(BITS + 128, NEAREST, &mut self.consts);
        e.sub(&self.number(1.0), BITS + 128, NEAREST)
    }

    fn log1p(&mut self, x: &BigFloat) -> BigFloat {
        if self.tiny(x) {
            let square = self.mul(&self.mul(x, x), &self.number(0.5));
            return self.sub(x, &square);
        }
        let sum = x.add(&self.number(1.0), BITS + 128, NEAREST);
        sum.ln(BITS + 128, NEAREST, &mut self.consts)
    }

    /// `erf(x) = 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`, whose terms have one sign.
    fn erf_series(&mut self, x: &BigFloat, bits: usize) -> BigFloat {
        let square = x.mul(x, bits, NEAREST);
        let doubled = square.mul(&self.number(2.0), bits, NEAREST);
        let (mut term, mut sum) = (x.clone(), x.clone());
        for n in 1_u64.. {
            term = term.mul(&doubled, bits, NEAREST);
            term = term.div(&BigFloat::from_word(2 * n + 1, 64), bits, NEAREST);
            sum = sum.add(&term, bits, NEAREST);
            let (Some(t), Some(s)) = (term.exponent(), sum.exponent()) else { break };
            if t < s - bits as i32 {
                break;
            }
        }
        let e = square.neg().exp(bits, NEAREST, &mut self.consts);
        let root = self.consts.pi(bits, NEAREST).sqrt(bits, NEAREST);
        sum.mul(&e, bits, NEAREST).mul(&self.number(2.0), bits, NEAREST).div(&root, bits, NEAREST)
    }

    /// By the series up to 4, by the continued fraction `e^(-x^2) / sqrt(pi) / (x + (1/2) / (x + 1 / (x + (3/2) / ...)))`
    /// beyond.
    fn erfc(&mut self, x: &BigFloat) -> BigFloat {
        if x.cmp(&self.number(-4.0)).is_some_and(|o| o < 0) {
            let reflected = self.erfc(&x.neg());
            return self.number(2.0).sub(&reflected, BITS + 64, NEAREST);
        }
        if x.cmp(&self.number(1e6)).is_some_and(|o| o > 0) {
            return self.number(0.0);
        }
        if x.cmp(&self.number(4.0)).is_some_and(|o| o < 0) {
            // 1 - erf loses 25 bits.
            let erf = self.erf_series(x, BITS + 64);
            return self.number(1.0).sub(&erf, BITS + 64, NEAREST);
        }
        let size = size(x, 0);
        let terms = (1800.0 / (size * size)) as u64 + 30;
        let mut tail = x.clone();
        for n in (1..=terms).rev() {
            let half = self.mul(&BigFloat::from_word(n, 64), &self.number(0.5));
            tail = self.add(x, &half.div(&tail, BITS, NEAREST));
        }
        let square = x.mul(x, BITS + 64, NEAREST);
        let e = square.neg().exp(BITS, NEAREST, &mut self.consts);
        let root = self.consts.pi(BITS, NEAREST).sqrt(BITS, NEAREST);
        e.div(&self.mul(&root, &tail), BITS, NEAREST)
    }
}
