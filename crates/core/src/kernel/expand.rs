//! Primitives in terms of others, for machines that have no instruction for them.

use super::{Body, Builder, Prim};
use crate::dtype::DType;
use crate::math;
use std::sync::OnceLock;

/// What computes a primitive of a float dtype; none for those that every machine has an instruction for, or a sequence of its own.
///
/// Arguments and the result are those of the primitive. The trigonometric functions of large angles are long, and
/// [rare](super::rare): as one instruction each they cost a kernel little.
pub fn body(prim: Prim, dtype: DType) -> Option<&'static Body> {
    static BODIES: [[OnceLock<Body>; 2]; 4] = [const { [const { OnceLock::new() }; 2] }; 4];
    let unary = |function: fn(&mut Builder, super::Value) -> super::Value| {
        let mut b = Builder::body();
        let x = b.arg(0, dtype);
        let y = function(&mut b, x);
        b.finish_body(&[y])
    };
    let n = match prim {
        Prim::Scale => 0,
        Prim::LargeSin => 1,
        Prim::LargeCos => 2,
        Prim::LargeTan => 3,
        _ => return None,
    };
    Some(BODIES[n][usize::from(dtype == DType::F64)].get_or_init(|| match prim {
        Prim::LargeSin => unary(math::large_sin),
        Prim::LargeCos => unary(math::large_cos),
        Prim::LargeTan => unary(math::large_tan),
        _ => scale(dtype),
    }))
}

/// [`Prim::Scale`] as two products by powers of two, made in the exponent field. The first one is exact, unless the second one
/// is zero or infinite in any case.
fn scale(dtype: DType) -> Body {
    let (word, digits, bias, rounder, field) = match dtype {
        DType::F64 => (DType::U64, 52, 1023.0, 6_755_399_441_055_744.0, 0x7ff0_0000_0000_0000),
        _ => (DType::U32, 23, 127.0, 12_582_912.0, 0x7f80_0000),
    };
    let mut b = Builder::body();
    let (x, k) = (b.arg(0, dtype), b.arg(1, dtype));
    // 1.5 * 2^52, or 2^23, leaves an integer in the low bits: here that of k with the biases of both powers.
    let rounder = b.float(dtype, rounder + 2.0 * bias);
    let biased = b.add(k, rounder);
    let bits = b.bitcast(biased, word);
    // Half of it, rounded down, and the rest. Bits above the field drop out.
    let (less, all, field) = (b.bits(word, digits - 1), b.bits(word, digits), b.bits(word, field));
    let half = b.shl(bits, less);
    let half = b.and(half, field);
    let rest = b.shl(bits, all);
    let rest = b.sub(rest, half);
    let product = [half, rest].into_iter().fold(x, |product, bits| {
        let power = b.bitcast(bits, dtype);
        b.mul(product, power)
    });
    b.finish_body(&[product])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::{eval, eval_body};
    use crate::literal::Literal;

    #[test]
    fn products_scale_as_the_interpreter_does() {
        for (dtype, most) in [(DType::F32, 254), (DType::F64, 2046)] {
            let body = body(Prim::Scale, dtype).expect("a body");
            for x in [0.125, 1.0, 4.0 / 3.0, -2.0 / 3.0, 1.999_999_9, -8.0] {
                for k in -most..=most {
                    let args = [Literal::from_f64(dtype, x), Literal::from_f64(dtype, f64::from(k))];
                    assert_eq!(eval_body(body, &args)[0], eval(Prim::Scale, dtype, &args), "{x} * 2^{k} of {dtype}");
                }
            }
            for k in [1.0, f64::NAN] {
                let args = [f64::NAN, k].map(|x| Literal::from_f64(dtype, x));
                assert!(eval_body(body, &args)[0].as_f64().is_nan());
                assert!(eval(Prim::Scale, dtype, &args).as_f64().is_nan());
            }
        }
    }

    #[test]
    fn subnormal_results_are_rounded_once() {
        let scaled = |x: f64, k: f64| eval(Prim::Scale, DType::F64, &[Literal::f64(x), Literal::f64(k)]).as_f64();
        assert_eq!(scaled(1.5, -1074.0), 1e-323);
        assert_eq!(scaled(2.5, -1074.0), 1e-323);
        assert_eq!(scaled(1.0, -1075.0), 0.0);
        assert_eq!(scaled(1.0 + f64::EPSILON, -1075.0), 5e-324);
        assert_eq!(scaled(1.0, 1024.0), f64::INFINITY);
    }
}
