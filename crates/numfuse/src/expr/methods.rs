//! A method for every function and reduction of the op table. A test holds this list against the table; the meaning of
//! each is the table's, shown by `numfuse functions NAME` and in `docs/functions.md`.

use super::{Expr, Over};
use numfuse_core::ops::Op;

macro_rules! methods {
    (
        unary { $($u:ident $u_op:ident)* }
        binary { $($b:ident $b_op:ident)* }
        reductions { $($r:ident $r_op:ident)* }
    ) => {
        impl<'a> Expr<'a> {
            $(
                #[doc = concat!("`", stringify!($u), "` of each element.")]
                #[must_use]
                pub fn $u(&self) -> Expr<'a> {
                    Expr::apply(Op::$u_op, vec![self.clone()])
                }
            )*
            $(
                #[doc = concat!("`", stringify!($b), "` of each element of this expression and of another.")]
                #[must_use]
                pub fn $b(&self, other: impl Into<Expr<'a>>) -> Expr<'a> {
                    Expr::apply(Op::$b_op, vec![self.clone(), other.into()])
                }
            )*
            $(
                #[doc = concat!("`", stringify!($r), "` along axes.")]
                #[must_use]
                pub fn $r(&self, over: impl Into<Over>) -> Expr<'a> {
                    self.reduce(Op::$r_op, over.into(), 0)
                }
            )*
        }

        #[cfg(test)]
        const METHODS: &[Op] = &[$(Op::$u_op,)* $(Op::$b_op,)* $(Op::$r_op,)*];
    };
}

methods! {
    unary {
        positive POSITIVE
        logical_not LOGICAL_NOT
        abs ABS sign SIGN signbit SIGNBIT floor FLOOR ceil CEIL trunc TRUNC round ROUND
        isnan ISNAN isinf ISINF isfinite ISFINITE
        sqrt SQRT cbrt CBRT square SQUARE reciprocal RECIPROCAL
        exp EXP exp2 EXP2 expm1 EXPM1 log LOG log2 LOG2 log10 LOG10 log1p LOG1P
        sin SIN cos COS tan TAN arcsin ARCSIN arccos ARCCOS arctan ARCTAN deg2rad DEG2RAD rad2deg RAD2DEG
        sinh SINH cosh COSH tanh TANH arcsinh ARCSINH arccosh ARCCOSH arctanh ARCTANH
        erf ERF erfc ERFC sigmoid SIGMOID softplus SOFTPLUS relu RELU gelu GELU
    }
    binary {
        floor_divide FLOOR_DIVIDE pow POW
        less LESS less_equal LESS_EQUAL greater GREATER greater_equal GREATER_EQUAL equal EQUAL not_equal NOT_EQUAL
        logical_and LOGICAL_AND logical_or LOGICAL_OR logical_xor LOGICAL_XOR
        minimum MINIMUM maximum MAXIMUM fmin FMIN fmax FMAX
        copysign COPYSIGN nextafter NEXTAFTER fmod FMOD hypot HYPOT arctan2 ARCTAN2
    }
    reductions {
        sum SUM prod PROD min MIN max MAX any ANY all ALL mean MEAN var VAR std STD
    }
}

impl<'a> Expr<'a> {
    /// `x` where this condition is true, `y` elsewhere: `where` in text, which is a keyword of Rust.
    #[must_use]
    pub fn select(&self, x: impl Into<Expr<'a>>, y: impl Into<Expr<'a>>) -> Expr<'a> {
        Expr::apply(Op::WHERE, vec![self.clone(), x.into(), y.into()])
    }

    /// The matrix product, `@` in text: of vectors, matrices, and stacks of matrices.
    ///
    /// ```
    /// use numfuse::{eval, lazy};
    /// let (m, x) = (ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0]]), [10.0, 100.0]);
    /// let (m, x) = (lazy(&m), lazy(&x));
    /// assert_eq!(eval(m.matmul(&x))?.as_slice::<f64>()?, [210.0, 430.0]);
    /// assert_eq!(eval(m.t().matmul(&m).index(0))?.as_slice::<f64>()?, [10.0, 14.0]);
    /// # Ok::<(), numfuse::Error>(())
    /// ```
    #[must_use]
    pub fn matmul(&self, other: impl Into<Expr<'a>>) -> Expr<'a> {
        Expr::apply(Op::MATMUL, vec![self.clone(), other.into()])
    }

    /// NumPy's `dot`: the matrix product of vectors and matrices; of a scalar, its product with the other operand.
    #[must_use]
    pub fn dot(&self, other: impl Into<Expr<'a>>) -> Expr<'a> {
        Expr::apply(Op::DOT, vec![self.clone(), other.into()])
    }

    /// Held between two bounds.
    #[must_use]
    pub fn clip(&self, low: impl Into<Expr<'a>>, high: impl Into<Expr<'a>>) -> Expr<'a> {
        Expr::apply(Op::CLIP, vec![self.clone(), low.into(), high.into()])
    }

    /// `self * y + z`, rounded once.
    #[must_use]
    pub fn fma(&self, y: impl Into<Expr<'a>>, z: impl Into<Expr<'a>>) -> Expr<'a> {
        Expr::apply(Op::FMA, vec![self.clone(), y.into(), z.into()])
    }

    /// The variance along axes, divided by the count less `ddof`.
    #[must_use]
    pub fn var_ddof(&self, over: impl Into<Over>, ddof: i64) -> Expr<'a> {
        self.reduce(Op::VAR, over.into(), ddof)
    }

    /// The standard deviation along axes; the variance is divided by the count less `ddof`.
    #[must_use]
    pub fn std_ddof(&self, over: impl Into<Over>, ddof: i64) -> Expr<'a> {
        self.reduce(Op::STD, over.into(), ddof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::operators::OPERATORS;

    #[test]
    fn every_op_has_a_method_or_an_operator() {
        let by_hand = [Op::WHERE, Op::CLIP, Op::FMA, Op::MATMUL, Op::DOT];
        for op in Op::all() {
            let has = METHODS.contains(&op) || OPERATORS.contains(&op) || by_hand.contains(&op);
            assert!(has, "`{op}` of the op table needs a method in expr/methods.rs");
        }
    }
}
