//! Quotients by what is the same for all elements, which the wide tier computes without the divider, against the divider: every
//! significand of single precision, quotients of double precision that are almost between two numbers, all magnitudes, and what
//! is not finite. The oracle is the host's division, one number at a time.

mod common;

use common::Rng;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Level, Nest, Role, StageKind};
use numfuse_core::launch::{Launch, Layout};
use numfuse_cpu::{Compiled, Compiler, Options, RunOptions};

/// `x / divisor`, the divisor a parameter.
fn division(dtype: DType) -> Compiled {
    let mut b = Builder::kernel(Nest::Rows);
    let (x, out) = (b.operand(dtype, Role::In, Level::Inner), b.operand(dtype, Role::Out, Level::Inner));
    let divisor = b.param(dtype);
    b.stage(StageKind::Loop);
    let x = b.load(x);
    let y = b.div(x, divisor);
    b.store(out, y);
    Compiler::new(Options::default()).unwrap().compile(&b.finish()).unwrap()
}

fn run<T: Copy>(compiled: &Compiled, x: &[T], divisor: u64, zero: T) -> Vec<T> {
    let mut out = vec![zero; x.len()];
    let layout = Layout {
        outer: Default::default(),
        reduced: Default::default(),
        inner: [size_of::<T>() as isize].into_iter().collect(),
    };
    let launch = Launch {
        outer: Default::default(),
        reduced: Default::default(),
        inner: [x.len()].into_iter().collect(),
        layouts: [layout.clone(), layout].into_iter().collect(),
    };
    let pointers = [x.as_ptr().cast_mut().cast::<u8>(), out.as_mut_ptr().cast()];
    // SAFETY: the input and the output have as many elements as the launch says, and are apart.
    unsafe { compiled.run(&launch, &pointers, &[divisor], &RunOptions::default()) }.unwrap();
    out
}

fn check_f32(compiled: &Compiled, x: &[f32], divisor: f32) {
    for (x, y) in x.iter().zip(run(compiled, x, u64::from(divisor.to_bits()), 0.0)) {
        let want = x / divisor;
        assert!(
            y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
            "{x:e} / {divisor:e}: {y:e}, not {want:e}"
        );
    }
}

fn check_f64(compiled: &Compiled, x: &[f64], divisor: f64) {
    for (x, y) in x.iter().zip(run(compiled, x, divisor.to_bits(), 0.0)) {
        let want = x / divisor;
        assert!(
            y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
            "{x:e} / {divisor:e}: {y:e}, not {want:e}"
        );
    }
}

/// Divisors with few bits, with many, next to powers of two, on both sides of what is in range, and none.
const DIVISORS: [f64; 24] = [
    3.0,
    -7.0,
    10.0,
    255.0,
    0.1,
    1.75,
    1.0,
    -0.5,
    1.999_999_9,
    1.000_000_1,
    0.999_999_94,
    16_777_216.0,
    16_777_217.0,
    5.9e-8,
    6.0e-8,
    1e18,
    1e19,
    1e-19,
    1e30,
    0.0,
    -0.0,
    f64::INFINITY,
    f64::NAN,
    1e-40,
];

#[test]
fn every_significand_of_single_precision() {
    let compiled = division(DType::F32);
    let ones: Vec<f32> = (0..1 << 23).map(|bits| f32::from_bits(127 << 23 | bits)).collect();
    for divisor in DIVISORS {
        check_f32(&compiled, &ones, divisor as f32);
    }
}

#[test]
fn every_magnitude() {
    let mut rng = Rng(7);
    let (single, double) = (division(DType::F32), division(DType::F64));
    for divisor in DIVISORS {
        let mut bits = |exponents: u64, significand: u32| -> Vec<u64> {
            let signs = [0, 1u64 << (significand + exponents.trailing_ones())];
            (0..=exponents)
                .flat_map(|e| {
                    [0, 1, rng.next() & ((1 << significand) - 1), (1 << significand) - 1].map(|s| e << significand | s)
                })
                .flat_map(|bits| signs.map(|sign| bits | sign))
                .collect()
        };
        let x: Vec<f32> = bits(255, 23).into_iter().map(|bits| f32::from_bits(bits as u32)).collect();
        // In vectors together with what is in range, and without.
        check_f32(&single, &x, divisor as f32);
        let x: Vec<f64> = bits(2047, 52).into_iter().map(f64::from_bits).collect();
        check_f64(&double, &x, divisor);
        for x in x.chunks_exact(8) {
            check_f64(&double, x, divisor);
        }
    }
}

#[test]
fn quotients_of_double_precision_almost_between_two_numbers() {
    let mut rng = Rng(11);
    let compiled = division(DType::F64);
    let number = |rng: &mut Rng| f64::from_bits(1023 << 52 | rng.next() >> 12);
    for round in 0..300 {
        let divisor = match round % 3 {
            0 => number(&mut rng),
            1 => (rng.next() % 1000 + 1) as f64,
            // Few bits at the end differ from a power of two.
            _ => f64::from_bits((1023u64 << 52).wrapping_add(rng.next() % 64).wrapping_sub(32)),
        };
        let mut x = Vec::new();
        for _ in 0..4000 {
            let quotient = number(&mut rng);
            // Half an ULP further, exactly, times the divisor, rounded; and the numbers next to it.
            let half = f64::from_bits((quotient.to_bits() >> 52) << 52) * 2f64.powi(-53);
            let near = quotient.mul_add(divisor, half * divisor);
            x.extend([near, near.next_up(), near.next_down(), quotient * divisor]);
        }
        check_f64(&compiled, &x, divisor);
    }
}
