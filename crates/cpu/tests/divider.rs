//! What the wide tier computes without the divider, against the divider. Quotients by what is the same for all elements: every
//! significand of single precision, quotients of double precision that are almost between two numbers, all magnitudes, and
//! what is not finite. Square roots: the same, and of double precision all that are nearest to the middle of two numbers. The
//! oracle is the host's division and its square root, one number at a time.

mod common;

use common::Rng;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Level, Nest, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_cpu::{AlignedBuffer, Compiled, Compiler, Options, RunOptions};
use std::fmt::{Debug, LowerExp};

/// A kernel of one input and perhaps a parameter.
fn kernel(dtype: DType, f: impl FnOnce(&mut Builder, Value) -> Value) -> Compiled {
    let mut b = Builder::kernel(Nest::Rows);
    let (x, out) = (b.operand(dtype, Role::In, Level::Inner), b.operand(dtype, Role::Out, Level::Inner));
    b.stage(StageKind::Loop);
    let x = b.load(x);
    let y = f(&mut b, x);
    b.store(out, y);
    Compiler::new(Options::default()).unwrap().compile(&b.finish()).unwrap()
}

/// Runs it from the first element on in whole vectors, so that it is known which of the copies of a loop's body computes which.
fn run<T: Copy>(compiled: &Compiled, x: &[T], parameters: &[u64]) -> Vec<T> {
    let mut out = AlignedBuffer::zeroed(size_of_val(x)).unwrap();
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
    let pointers = [x.as_ptr().cast_mut().cast::<u8>(), out.as_mut_ptr()];
    // SAFETY: the input and the output have as many elements as the launch says, and are apart.
    unsafe { compiled.run(&launch, &pointers, parameters, &RunOptions::default()) }.unwrap();
    // SAFETY: the output has that many elements, for which it is aligned, and all of them are written.
    unsafe { std::slice::from_raw_parts(out.as_ptr().cast::<T>(), x.len()) }.to_vec()
}

/// `x / divisor`, the divisor a parameter.
fn division(dtype: DType) -> Compiled {
    kernel(dtype, |b, x| {
        let divisor = b.param(dtype);
        b.div(x, divisor)
    })
}

trait Float: Copy + PartialEq + Debug + LowerExp {
    fn to_bits(self) -> u64;
    fn is_nan(self) -> bool;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
}

macro_rules! float {
    ($type:ident) => {
        impl Float for $type {
            fn to_bits(self) -> u64 {
                u64::from(self.to_bits())
            }

            fn is_nan(self) -> bool {
                self.is_nan()
            }

            fn div(self, other: $type) -> $type {
                self / other
            }

            fn sqrt(self) -> $type {
                self.sqrt()
            }
        }
    };
}

float!(f32);
float!(f64);

fn check_quotients<T: Float>(compiled: &Compiled, x: &[T], divisor: T) {
    for x in in_both_ways(x) {
        for (x, y) in x.iter().zip(run(compiled, x, &[divisor.to_bits()])) {
            let want = x.div(divisor);
            assert!(
                y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
                "{x:e} / {divisor:e}: {y:e}, not {want:e}"
            );
        }
    }
}

/// From several elements on, so that each number is computed in both ways: some copies of the loop's body take the divider, every
/// other one or two in a row.
fn in_both_ways<T>(x: &[T]) -> [&[T]; 3] {
    let vector = 64 / size_of::<T>();
    [0, 1, 2].map(|skipped| &x[(skipped * vector).min(x.len())..])
}

fn check_roots<T: Float>(compiled: &Compiled, x: &[T]) {
    for x in in_both_ways(x) {
        for (x, y) in x.iter().zip(run(compiled, x, &[])) {
            let want = x.sqrt();
            assert!(
                y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
                "square root of {x:e}: {y:e}, not {want:e}"
            );
        }
    }
}

fn root(dtype: DType) -> Compiled {
    kernel(dtype, |b, x| b.sqrt(x))
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
fn quotients_of_every_significand_of_single_precision() {
    let compiled = division(DType::F32);
    let ones: Vec<f32> = (0..1 << 23).map(|bits| f32::from_bits(127 << 23 | bits)).collect();
    for divisor in DIVISORS {
        check_quotients(&compiled, &ones, divisor as f32);
    }
}

/// Every exponent with some significands, and both signs, as bits.
fn magnitudes(rng: &mut Rng, exponents: u64, significand: u32) -> Vec<u64> {
    let signs = [0, 1u64 << (significand + exponents.trailing_ones())];
    (0..=exponents)
        .flat_map(|e| {
            [0, 1, rng.next() & ((1 << significand) - 1), (1 << significand) - 1].map(|s| e << significand | s)
        })
        .flat_map(|bits| signs.map(|sign| bits | sign))
        .collect()
}

fn magnitudes_f32(rng: &mut Rng) -> Vec<f32> {
    magnitudes(rng, 255, 23).into_iter().map(|bits| f32::from_bits(bits as u32)).collect()
}

fn magnitudes_f64(rng: &mut Rng) -> Vec<f64> {
    magnitudes(rng, 2047, 52).into_iter().map(f64::from_bits).collect()
}

#[test]
fn quotients_of_every_magnitude() {
    let mut rng = Rng(7);
    let (single, double) = (division(DType::F32), division(DType::F64));
    for divisor in DIVISORS {
        // In vectors together with what is in range, and without.
        check_quotients(&single, &magnitudes_f32(&mut rng), divisor as f32);
        let x = magnitudes_f64(&mut rng);
        check_quotients(&double, &x, divisor);
        for x in x.chunks_exact(8) {
            check_quotients(&double, x, divisor);
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
        check_quotients(&compiled, &x, divisor);
    }
}

/// Numbers of two binades: multiplied by four, a number has twice the root, of the same significand.
#[test]
fn roots_of_every_significand_of_single_precision() {
    let compiled = root(DType::F32);
    for exponent in [127u32, 128] {
        let x: Vec<f32> = (0..1 << 23).map(|bits| f32::from_bits(exponent << 23 | bits)).collect();
        check_roots(&compiled, &x);
    }
}

#[test]
fn roots_of_every_magnitude() {
    let mut rng = Rng(13);
    let (x, single) = (magnitudes_f32(&mut rng), root(DType::F32));
    check_roots(&single, &x);
    let positive: Vec<f32> =
        x.iter().copied().filter(|x| (1e-38..1e38).contains(x) || *x == 0.0 || x.is_nan()).collect();
    check_roots(&single, &positive);
    let (x, double) = (magnitudes_f64(&mut rng), root(DType::F64));
    check_roots(&double, &x);
    let positive: Vec<f64> =
        x.iter().copied().filter(|x| (1e-307..1e307).contains(x) || *x == 0.0 || x.is_nan()).collect();
    check_roots(&double, &positive);
}

/// Let `m` be in the middle of two numbers next to each other in [1, 2), `m = M * 2^-53` with an odd `M` of 54 bits. A number `a`
/// has a root near `m` if `a - m^2 = c * 2^-106` with a small `c`, and then `M^2 = -c` modulo 2^54, or 2^55 for `a` from 2 on.
/// Odd numbers have four roots there or none, found bit by bit. Steps that are wrong by less than what `|c| = 4095` makes are
/// right for all other numbers; by the analysis in the sources of `wide/root.rs` they are wrong by less than what `|c| = 32` makes.
#[test]
fn roots_of_double_precision_almost_between_two_numbers() {
    let mut x = Vec::new();
    for c in (-4095i64..=4095).step_by(2) {
        let square = (-c) as u64;
        if square % 8 != 1 {
            continue;
        }
        let mut odd = 1u64;
        for bit in 3..58 {
            if odd.wrapping_mul(odd).wrapping_sub(square) >> bit & 1 == 1 {
                odd += 1 << (bit - 1);
            }
        }
        for bits in [54, 55] {
            let half = 1u64 << (bits - 1);
            for middle in [odd, odd.wrapping_neg(), odd.wrapping_add(half), odd.wrapping_neg().wrapping_add(half)] {
                let middle = middle & (2 * half - 1);
                if !(1 << 53..1 << 54).contains(&middle) {
                    continue;
                }
                let number = (u128::from(middle) * u128::from(middle)).wrapping_add_signed(i128::from(c));
                let is_of_binade = (number >> (bits + 52)) == 1;
                if is_of_binade && number.trailing_zeros() >= bits {
                    x.push((number >> bits) as f64 * 2f64.powi(bits as i32 - 106));
                }
            }
        }
    }
    assert!(x.len() > 1400, "{} numbers", x.len());
    let compiled = root(DType::F64);
    for exponent in (-900..=900).step_by(100) {
        let x: Vec<f64> = x.iter().map(|x| x * 2f64.powi(exponent)).collect();
        check_roots(&compiled, &x);
    }
}

#[test]
fn roots_of_squares_and_what_is_next_to_them() {
    let (mut rng, compiled) = (Rng(17), root(DType::F64));
    let mut x = Vec::new();
    for _ in 0..200_000 {
        let root = f64::from_bits(1023 << 52 | rng.next() >> 12);
        let few = (rng.next() >> 38) as f64;
        x.extend([root * root, (root * root).next_up(), few * few, (few * few).next_down()]);
    }
    check_roots(&compiled, &x);
}
