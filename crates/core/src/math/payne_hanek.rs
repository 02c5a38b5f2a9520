//! Reduction of huge angles: `x mod pi/2` for `|x| >= 2^30`, after Payne and Hanek ("Radian Reduction for Trigonometric
//! Functions", 1983).
//!
//! Of the product of `x` with the bits of `2/pi`, those above 2^2 times the lowest bit of `x` give multiples of 4, which
//! do not count, and those far below it change nothing. So five words of 53 bits suffice; there is no memory to look
//! them up in, and they are selected by the exponent, halving the table five times. Products are exact with [`Real::fma`],
//! sums with [`two_sum`]: the double nearest a multiple of `pi/2` is 2^-61 away from it, and still has a full result.
//!
//! All of this is in the bodies of primitives ([`crate::kernel::expand`]): a kernel has one instruction for it, which a back
//! end can skip where no argument is huge ([`crate::kernel::rare`]).

use super::exp::ROUNDER;
use super::real::{Goal, Pair, Real, fast_two_sum, two_product, two_sum};
use super::trig::{FRAC_PI_2_LOW, Reduced};
use std::f64::consts::FRAC_PI_2;

/// The bits of `2/pi * 2^-24` in words of 53, each as a fraction of 1.
const WORDS: [f64; 23] = [
    3.7945495301450194e-08,
    0.7882157948911473,
    0.37218980944363766,
    0.6925475965561252,
    0.12458933767440683,
    0.5420445373424219,
    0.5759997371517745,
    0.3136985639357054,
    0.9184065558140407,
    0.06357947872985137,
    0.07675848915352457,
    0.7465913763545471,
    0.2078189425594913,
    0.09173502411272216,
    0.1484369936861326,
    0.4744956704819977,
    0.1227602061836982,
    0.37974416669014777,
    0.4746041721269837,
    0.3904716355588054,
    0.4516520884728217,
    0.8436088194713233,
    0.25814061147843537,
];
/// The bits in a word.
const WIDTH: i32 = 53;
/// How many words make a window.
const WINDOW: usize = 5;

/// `x` reduced; anything for `|x| < 2^30`, NaN for infinities.
pub(super) fn reduce(x: Real<'_>, goal: Goal) -> Reduced<'_> {
    match goal {
        Goal::Double => reduce_double(x),
        Goal::Single => reduce_single(x),
    }
}

fn reduce_double(x: Real<'_>) -> Reduced<'_> {
    let mut x = x;
    let mut words: Vec<Real<'_>> = WORDS.iter().map(|w| x.constant(*w)).collect();
    for step in [16, 8, 4, 2, 1] {
        let skip = x.abs().ge(power_of_two(30 + WIDTH * step as i32));
        x = skip.select(x * power_of_two(-WIDTH * step as i32), x);
        words = (0..WINDOW + step - 1)
            .map(|i| words.get(i + step).map_or(words[i], |later| skip.select(*later, words[i])))
            .collect();
    }
    // Now the lowest bit of `x * 2^24` is at least 4, and that number is below 2^108.
    let product = |i: usize| two_product(x * power_of_two(24 - WIDTH * i as i32), words[i]);
    let (p0, p1, p2, p3) = (product(0), product(1), product(2), product(3));
    // Multiples of 2^-51 below 4: their sum is exact.
    let s0 = below_4(p0.high) + below_4(p0.low);
    let s1 = two_sum(s0, below_4(p1.high));
    let s2 = two_sum(p1.low, p2.high);
    let s3 = two_sum(s1.high, s2.high);
    let shifted = s3.high + ROUNDER;
    // The fraction: the sum of the rest, exact but for the last terms.
    let mut high = s3.high - (shifted - ROUNDER);
    let mut low = p3.low + x * power_of_two(24 - 4 * WIDTH) * words[4];
    for term in [s1.low, s2.low, s3.low, p2.low, p3.high] {
        let sum = two_sum(high, term);
        high = sum.high;
        low = low + sum.low;
    }
    let t = two_product(high, FRAC_PI_2);
    let low = t.low + low.fma(FRAC_PI_2, high * FRAC_PI_2_LOW);
    Reduced { t: fast_two_sum(t.high, low), quadrant: shifted.bits() }
}

/// The bits of `2/pi` from 2^-6 down, for `f32`s below 2^79, and from 2^-55 down, for all others.
const SINGLE_WORDS: [[f64; 2]; 3] = [
    [0.01161977236758134, 1.615379788089285e-17],
    [2.276010073078396e-18, 4.018688565460554e-33],
    [1.6682867668608235e-34, 1.610712785318822e-49],
];

/// An `f32` from 2^30 on has its lowest bit at 2^7 or above and 24 bits, so that two windows of three words are enough,
/// and the nearest to a multiple of `pi/2` is 2^-30 away: a fraction to 2^-80 is more than precise.
fn reduce_single(x: Real<'_>) -> Reduced<'_> {
    let large = x.abs().ge(power_of_two(79));
    let [w0, w1, w2] = SINGLE_WORDS.map(|[below, above]| large.select(x.constant(above), below));
    let (p0, p1) = (two_product(x, w0), two_product(x, w1));
    // Integers and fractions; the fractions of p0 are multiples of 2^-51, and so is their sum.
    let (n0, n1, n2) = (p0.high.round_even(), p0.low.round_even(), p1.high.round_even());
    let sum = (p0.high - n0) + (p0.low - n1);
    let n3 = sum.round_even();
    let sum = two_sum(sum - n3, p1.high - n2);
    let n4 = sum.high.round_even();
    let fraction = (sum.high - n4) + (x.fma(w2, p1.low) + sum.low);
    let quadrant = below_4(n0) + n1 + (n2 + n3 + n4) + ROUNDER;
    Reduced { t: Pair { high: fraction * FRAC_PI_2, low: x.constant(0.0) }, quadrant: quadrant.bits() }
}

/// `v` less a multiple of 4, at most 2 in magnitude.
fn below_4(v: Real<'_>) -> Real<'_> {
    (v * 0.25).round_even().fma(-4.0, v)
}

fn power_of_two(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}
