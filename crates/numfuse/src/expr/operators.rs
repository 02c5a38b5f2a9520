//! Rust's operators on expressions, references to expressions, and plain numbers.

use super::Expr;
use numfuse_core::ops::Op;
use smallvec::smallvec;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

macro_rules! binary {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        binary!(@pair $trait $method $op, Expr<'a>, Expr<'a>);
        binary!(@pair $trait $method $op, Expr<'a>, &Expr<'a>);
        binary!(@pair $trait $method $op, &Expr<'a>, Expr<'a>);
        binary!(@pair $trait $method $op, &Expr<'a>, &Expr<'a>);
        binary!(@numbers $trait $method $op, f64 f32 i64 i32 bool);
    )*};
    (@numbers $trait:ident $method:ident $op:ident, $($t:ty)*) => {$(
        binary!(@pair $trait $method $op, Expr<'a>, $t);
        binary!(@pair $trait $method $op, &Expr<'a>, $t);
        binary!(@pair $trait $method $op, $t, Expr<'a>);
        binary!(@pair $trait $method $op, $t, &Expr<'a>);
    )*};
    (@pair $trait:ident $method:ident $op:ident, $left:ty, $right:ty) => {
        impl<'a> $trait<$right> for $left {
            type Output = Expr<'a>;

            fn $method(self, other: $right) -> Expr<'a> {
                Expr::apply(Op::$op, smallvec![self.into(), other.into()])
            }
        }
    };
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
                Expr::apply(Op::$op, smallvec![self])
            }
        }
        impl<'a> $trait for &Expr<'a> {
            type Output = Expr<'a>;

            fn $method(self) -> Expr<'a> {
                Expr::apply(Op::$op, smallvec![self.clone()])
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
