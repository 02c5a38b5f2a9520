//! Primitives in terms of others, for machines that have no instruction for them.

use super::{Body, Builder, Prim, Value};
use crate::dtype::DType;
use crate::math;
use smallvec::SmallVec;
use std::sync::OnceLock;

/// What computes a primitive of a float dtype; none for those that every machine has an instruction for, or a sequence of its own.
///
/// Arguments and the result are those of the primitive. The trigonometric functions of large angles are long, and
/// [rare](super::rare): as one instruction each they cost a kernel little.
pub fn body(prim: Prim, dtype: DType) -> Option<&'static Body> {
    static BODIES: [[OnceLock<Body>; 2]; 4] = [const { [const { OnceLock::new() }; 2] }; 4];
    type Function = fn(&mut Builder, &[Value]) -> Value;
    let (n, function): (usize, Function) = match prim {
        Prim::Scale => (0, math::scale),
        Prim::LargeSin => (1, math::large_sin),
        Prim::LargeCos => (2, math::large_cos),
        Prim::LargeTan => (3, math::large_tan),
        _ => return None,
    };
    Some(BODIES[n][usize::from(dtype == DType::F64)].get_or_init(|| {
        let mut b = Builder::body();
        let args: SmallVec<[Value; 2]> = (0..prim.arity() as u32).map(|n| b.arg(n, dtype)).collect();
        let result = function(&mut b, &args);
        b.finish_body(&[result])
    }))
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
