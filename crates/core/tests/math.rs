//! The function bodies against libraries that have nothing to do with this project, at samples of the whole domain.
//! `cargo run --release --example accuracy` measures the same functions at all `f32`s and millions of `f64`s.

mod reference;

use numfuse_core::dtype::DType;
use numfuse_core::interp::eval_body;
use numfuse_core::kernel::{Body, Builder};
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Op, OpKind};
use reference::{Points, Wide, function};

/// The body of an op for operands of this dtype; operands with a value in `constants` are constants.
fn body(op: Op, dtype: DType, constants: &[Option<f64>]) -> Body {
    let OpKind::Elementwise(lower) = op.def().kind else { panic!("{op} is not elementwise") };
    let mut b = Builder::body();
    let args: Vec<_> = (0..op.def().params.len())
        .map(|n| match constants.get(n).copied().flatten() {
            Some(x) => b.float(dtype, x),
            None => b.arg(n as u32, dtype),
        })
        .collect();
    let result = lower(&mut b, &args);
    b.finish_body(&[result])
}

fn call(body: &Body, dtype: DType, args: &[f64]) -> f64 {
    let args: Vec<Literal> = args.iter().map(|x| Literal::from_f64(dtype, *x)).collect();
    eval_body(body, &args)[0].as_f64()
}

/// Zeros, ones, limits, and where functions change their way of computing.
fn special() -> Vec<f64> {
    let tiny = f64::from(f32::from_bits(1));
    let positive = [
        0.0,
        5e-324,
        2.2e-308,
        f64::MIN_POSITIVE,
        1e-300,
        tiny,
        1e-40,
        f64::from(f32::MIN_POSITIVE),
        1e-17,
        1e-8,
        0.25,
        0.5,
        1.0 - f64::EPSILON / 2.0,
        1.0 - f64::from(f32::EPSILON) / 2.0,
        1.0,
        1.0 + f64::EPSILON,
        1.0 + f64::from(f32::EPSILON),
        1.25,
        1.5,
        2.0,
        2.5,
        3.0,
        4.0,
        10.0,
        64.0,
        100.0,
        1e3,
        1e6,
        1e10,
        1e15,
        1e16,
        1e22,
        4_503_599_627_370_497.5,
        9_007_199_254_740_991.0,
        9_007_199_254_740_993.0,
        1e30,
        f64::from(f32::MAX),
        1e300,
        f64::MAX,
        f64::INFINITY,
        // About the ends of the ranges of exp, exp2, expm1, sinh, erfc.
        88.722_83,
        88.722_84,
        103.972_07,
        103.972_08,
        127.999,
        128.0,
        149.0,
        150.0,
        709.782_712_893_384,
        709.782_712_893_384_1,
        710.475_860_073_943_9,
        710.475_860_073_944,
        745.133_219_101_941_1,
        745.133_219_101_942,
        1023.5,
        1024.0,
        1074.0,
        1075.0,
        5.9,
        9.2,
        10.05,
        26.54,
        26.55,
        27.226,
        27.23,
        37.5,
        38.6,
        // The doubles and floats nearest a multiple of pi/2, and the multiple itself.
        6_381_956_970_095_103.0 * 2.0_f64.powi(797),
        16_367_173.0 * 2.0_f64.powi(72),
        std::f64::consts::FRAC_PI_2,
        std::f64::consts::PI,
        2.0_f64.powi(30),
        1_073_741_823.9,
    ];
    positive.into_iter().flat_map(|x| [x, -x]).chain([f64::NAN]).collect()
}

/// Checks one point; the error if it is over the bound.
fn error(op: Op, dtype: DType, wide: &mut Wide, args: &[f64], got: f64) -> f64 {
    let reference = function(op.name()).unwrap_or_else(|| panic!("{op} has no reference"));
    if dtype == DType::F32 {
        let args: Vec<f32> = args.iter().map(|x| *x as f32).collect();
        reference.error_f32(&args, got as f32).unwrap_or(0.5)
    } else {
        reference.error_f64(wide, args, got).unwrap_or(0.5)
    }
}

fn check(op: Op, dtype: DType, wide: &mut Wide, body: &Body, args: &[f64]) {
    let args: Vec<f64> = args.iter().map(|x| Literal::from_f64(dtype, *x).as_f64()).collect();
    let got = call(body, dtype, &args);
    let bound = op.def().check.map_or(0.5, |check| check.ulp);
    let error = error(op, dtype, wide, &args, got);
    assert!(error <= bound, "{op}{args:?}: {dtype} {got:e} is {error} ULPs off, bound {bound}");
}

fn checked() -> impl Iterator<Item = Op> {
    Op::all().filter(|op| op.def().check.is_some())
}

#[test]
fn every_function_with_a_bound_has_a_reference() {
    for op in checked() {
        assert!(function(op.name()).is_some(), "{op}");
    }
    for f in reference::FUNCTIONS {
        assert!(checked().any(|op| op.name() == f.name), "{}", f.name);
    }
}

#[test]
fn functions_are_within_their_bounds() {
    let mut wide = Wide::new();
    let mut points = Points::new(1);
    for op in checked() {
        let (low, high) = op.def().check.map(|c| c.range).unwrap_or((-10.0, 10.0));
        for dtype in [DType::F32, DType::F64] {
            let body = body(op, dtype, &[]);
            let binary = op.def().params.len() == 2;
            let special = special();
            for (i, x) in special.iter().enumerate() {
                if binary {
                    for y in special.iter().skip(i % 3).step_by(3) {
                        check(op, dtype, &mut wide, &body, &[*x, *y]);
                    }
                } else {
                    check(op, dtype, &mut wide, &body, &[*x]);
                }
            }
            for i in 0..4000 {
                let x = match i % 4 {
                    0 => points.any(dtype == DType::F32),
                    1 => points.within(-2.0, 2.0),
                    // Of every size: sums of large terms lose small ones.
                    2 => points.within(low, high) * 2.0_f64.powf(points.within(-70.0, 0.0)),
                    _ => points.within(low, high),
                };
                let y = match i % 5 {
                    0 => points.any(dtype == DType::F32),
                    1 => points.within(-2.0, 2.0),
                    2 => points.within(-70.0, 70.0).round(),
                    _ => points.within(low, high),
                };
                check(op, dtype, &mut wide, &body, &[x, y][..op.def().params.len()]);
            }
        }
    }
}

#[test]
fn angles_near_multiples_of_half_pi_are_reduced() {
    let mut wide = Wide::new();
    let mut points = Points::new(2);
    for op in [Op::SIN, Op::COS, Op::TAN] {
        for dtype in [DType::F32, DType::F64] {
            let body = body(op, dtype, &[]);
            for i in 0..3000 {
                let largest = if dtype == DType::F32 { 40.0 } else { 100.0 };
                let n = 2.0_f64.powf(points.within(0.0, largest)).round();
                let x = n * std::f64::consts::FRAC_PI_2;
                check(op, dtype, &mut wide, &body, &[x]);
                let huge = points.within(-1.0, 1.0) * 2.0_f64.powf(points.within(29.0, largest * 3.0));
                check(op, dtype, &mut wide, &body, &[if i % 2 == 0 { huge } else { f64::from_bits(x.to_bits() + 1) }]);
            }
        }
    }
}

#[test]
fn powers_reach_from_overflow_to_subnormals() {
    let mut wide = Wide::new();
    let mut points = Points::new(3);
    for dtype in [DType::F32, DType::F64] {
        let largest = if dtype == DType::F32 { 150.0 } else { 1080.0 };
        let general = body(Op::POW, dtype, &[]);
        for _ in 0..3000 {
            // y log2(x) spread over the range of exponents, with x near 1 or not.
            let log = points.within(-1.0, 1.0) * 2.0_f64.powf(points.within(-30.0, 6.0));
            let (x, y) = (log.exp2(), points.within(-largest, largest) / log);
            check(Op::POW, dtype, &mut wide, &general, &[x, y]);
        }
        for n in [-64, -33, -7, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 17, 31, 63, 64] {
            let n = f64::from(n);
            let constant = body(Op::POW, dtype, &[None, Some(n)]);
            for x in special() {
                check_constant_power(dtype, &mut wide, &constant, x, n);
            }
            for _ in 0..200 {
                let x = points.within(-largest, largest) / f64::max(n.abs(), 1.0);
                check_constant_power(dtype, &mut wide, &constant, x.exp2(), n);
                check_constant_power(dtype, &mut wide, &constant, -x.exp2(), n);
            }
        }
    }
}

fn check_constant_power(dtype: DType, wide: &mut Wide, body: &Body, x: f64, n: f64) {
    let x = Literal::from_f64(dtype, x).as_f64();
    let got = call(body, dtype, &[x, n]);
    let error = error(Op::POW, dtype, wide, &[x, n], got);
    assert!(error <= 1.0, "pow({x:e}, {n}): {dtype} {got:e} is {error} ULPs off");
}

#[test]
fn exact_results_are_exact() {
    for dtype in [DType::F32, DType::F64] {
        let [log2, log10, exp2, cbrt, pow] =
            [Op::LOG2, Op::LOG10, Op::EXP2, Op::CBRT, Op::POW].map(|op| body(op, dtype, &[]));
        let (least, most) = if dtype == DType::F32 { (-149, 127) } else { (-1074, 1023) };
        for n in least..=most {
            // powi would pass through an infinity on its way to a subnormal.
            let power = 2.0_f64.powi(n / 2) * 2.0_f64.powi(n - n / 2);
            let n = f64::from(n);
            assert_eq!(call(&log2, dtype, &[power]), n, "{dtype}");
            assert_eq!(call(&exp2, dtype, &[n]), power, "{dtype}");
            assert_eq!(call(&pow, dtype, &[2.0, n]), power, "{dtype}");
        }
        for n in 0..=if dtype == DType::F32 { 10 } else { 22 } {
            assert_eq!(call(&log10, dtype, &[10.0_f64.powi(n)]), f64::from(n), "{dtype}");
        }
        for n in 0..250 {
            let n = f64::from(n);
            assert_eq!(call(&cbrt, dtype, &[n * n * n]), n, "{dtype}");
            assert_eq!(call(&pow, dtype, &[n, 3.0]), n * n * n, "{dtype}");
        }
    }
}

#[test]
fn half_powers_are_square_roots() {
    for dtype in [DType::F32, DType::F64] {
        let root = body(Op::POW, dtype, &[None, Some(0.5)]);
        for x in special() {
            let x = Literal::from_f64(dtype, x).as_f64();
            let (got, want) = (call(&root, dtype, &[x]), core_math::pow(x, 0.5));
            let want = Literal::from_f64(dtype, want).as_f64();
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{x:e}: {got:e} {want:e}");
        }
    }
}

#[test]
fn integer_powers_wrap() {
    let integers = DType::ALL.into_iter().filter(|d| d.is_int());
    for dtype in integers {
        let general = body(Op::POW, dtype, &[]);
        for n in 0..70_i64 {
            let exponent = Literal::from_i64(dtype, n);
            let constant = {
                let mut b = Builder::body();
                let (x, n) = (b.arg(0, dtype), b.constant(exponent));
                let OpKind::Elementwise(lower) = Op::POW.def().kind else { panic!("pow is elementwise") };
                let result = lower(&mut b, &[x, n]);
                b.finish_body(&[result])
            };
            for x in [0, 1, 2, 3, 5, 7, 10, 100, -1, -2, -3, i64::MAX, i64::MIN] {
                let x = Literal::from_i64(dtype, x);
                let want = Literal::from_i64(dtype, x.as_i64().wrapping_pow(n as u32));
                assert_eq!(eval_body(&general, &[x, exponent])[0], want, "{x:?} ** {n}");
                assert_eq!(eval_body(&constant, &[x])[0], want, "{x:?} ** {n}");
            }
        }
    }
}

/// Rows that `numpy_results.py` wrote: the op, the dtype, and the bits of the results at all pairs of the points.
#[test]
fn exact_operations_agree_with_numpy() {
    let text = include_str!("numpy_results.txt");
    let mut points: Vec<Literal> = Vec::new();
    let mut rows = 0;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (head, bits) = line.split_once(':').expect("a head and values");
        let bits = bits.split_whitespace().map(|w| u64::from_str_radix(w, 16).expect("hexadecimal"));
        let (name, dtype) = head.split_once(' ').expect("an op and a dtype");
        let dtype = DType::from_name(dtype).expect("a dtype");
        if name == "points" {
            points = bits.map(|b| Literal::from_bits(dtype, b)).collect();
            continue;
        }
        let op = Op::named(name).unwrap_or_else(|| panic!("no op {name}"));
        let body = body(op, dtype, &[]);
        let result = body.insts[body.results[0].index()].dtype;
        let arity = op.def().params.len();
        let args = points.iter().flat_map(|x| match arity {
            1 => vec![vec![*x]],
            _ => points.iter().map(|y| vec![*x, *y]).collect(),
        });
        let mut compared = 0;
        for (args, bits) in args.zip(bits.clone()) {
            let (got, want) = (eval_body(&body, &args)[0], Literal::from_bits(result, bits));
            let both_nan = result.is_float() && got.as_f64().is_nan() && want.as_f64().is_nan();
            assert!(got == want || both_nan, "{name}{args:?}: {got:?}, NumPy {want:?}");
            compared += 1;
        }
        assert_eq!(compared, points.len().pow(arity as u32), "{head}");
        rows += 1;
    }
    assert!(rows > 50, "{rows} rows");
}
