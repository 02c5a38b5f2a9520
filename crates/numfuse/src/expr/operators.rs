//! Rust's operators on expressions, references to expressions, and plain numbers.

use super::Expr;
use numfuse_core::ops::Op;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

// On the right stands whatever converts to an expression. On the left, numbers of one type for each sort of literal:
// with more, `2.0 * &x` would have no type of its own, and `(2.0 * &x).sum(0)` would not compile.
macro_rules! binary {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl<'a, T: Into<Expr<'a>>> $trait<T> for Expr<'a> {
            type Output = Expr<'a>;

            fn $method(self, other: T) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self, other.into()])
            }
        }
        impl<'a, T: Into<Expr<'a>>> $trait<T> for &Expr<'a> {
            type Output = Expr<'a>;

            fn $method(self, other: T) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self.clone(), other.into()])
            }
        }
        binary!(@numbers $trait $method $op, f64 i64 bool);
    )*};
    (@numbers $trait:ident $method:ident $op:ident, $($t:ty)*) => {$(
        impl<'a> $trait<Expr<'a>> for $t {
            type Output = Expr<'a>;

            fn $method(self, other: Expr<'a>) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self.into(), other])
            }
        }
        impl<'a> $trait<&Expr<'a>> for $t {
            type Output = Expr<'a>;

            fn $method(self, other: &Expr<'a>) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self.into(), other.clone()])
            }
        }
    )*};
}
binary! {
    Add add ADD;
    Sub sub SUB;
    Mul mul MUL;
    Div div DIV;
    Rem rem REMAINDER;
    BitAnd bitand BITWISE_AND;
    BitOr bitor BITWISE_OR;
    BitXor bitxor BITWISE_XOR;
    Shl shl LEFT_SHIFT;
    Shr shr RIGHT_SHIFT;
}

macro_rules! unary {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl<'a> $trait for Expr<'a> {
            type Output = Expr<'a>;

            fn $method(self) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self])
            }
        }
        impl<'a> $trait for &Expr<'a> {
            type Output = Expr<'a>;

            fn $method(self) -> Expr<'a> {
                Expr::apply(Op::$op, vec![self.clone()])
            }
        }
    )*};
}
unary! {
    Neg neg NEGATIVE;
    Not not INVERT;
}

/// The ops that Rust's operators stand for.
#[cfg(test)]
pub(super) const OPERATORS: &[Op] = &[
    Op::ADD,
    Op::SUB,
    Op::MUL,
    Op::DIV,
    Op::REMAINDER,
    Op::BITWISE_AND,
    Op::BITWISE_OR,
    Op::BITWISE_XOR,
    Op::LEFT_SHIFT,
    Op::RIGHT_SHIFT,
    Op::NEGATIVE,
    Op::INVERT,
];

macro_rules! numbers {
    ($($t:ty)*) => {$(
        /// A plain number: its dtype gives way to that of any array.
        impl From<$t> for Expr<'_> {
            fn from(value: $t) -> Self {
                Expr::number(value)
            }
        }
    )*};
}
numbers!(bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64);

impl<'a> std::iter::Sum for Expr<'a> {
    /// The sum of many expressions, elementwise; the empty sum is 0.
    fn sum<I: Iterator<Item = Expr<'a>>>(terms: I) -> Expr<'a> {
        terms.reduce(|sum, term| sum + term).unwrap_or_else(|| Expr::number(0))
    }
}
