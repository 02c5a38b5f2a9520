//! Rust types that are elements of arrays, and how a scalar of each reads as a literal.

use numfuse_core::dtype::DType;
use numfuse_core::literal::Literal;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type with a [`DType`] of the same size and bits: `bool`, `i8` to `i64`, `u8` to `u64`, `f32`, `f64`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an element type of numfuse",
    note = "elements are `bool`, `i8`..`i64`, `u8`..`u64`, `f32` and `f64`"
)]
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// The dtype.
    const DTYPE: DType;

    /// The value as a literal of the dtype.
    fn literal(self) -> Literal;

    /// The value of a literal of the dtype.
    fn from_literal(literal: Literal) -> Self;

    /// The value as a literal whose dtype gives way to that of any array, as a Python number's does: `bool`, `i64` or
    /// `f64`. Unsigned numbers above `i64::MAX` have none.
    fn weak_literal(self) -> Option<Literal>;
}

macro_rules! elements {
    ($($t:ty => $dtype:ident, |$x:ident| $literal:expr, |$l:ident| $value:expr, $weak:expr;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn literal(self) -> Literal {
                let $x = self;
                $literal
            }
            fn from_literal($l: Literal) -> $t {
                $value
            }
            fn weak_literal(self) -> Option<Literal> {
                let $x = self;
                $weak
            }
        }
    )*};
}

elements! {
    bool => Bool, |x| Literal::bool(x), |l| l.as_bool(), Some(Literal::bool(x));
    i8 => I8, |x| Literal::from_i64(DType::I8, i64::from(x)), |l| l.as_i64() as i8, Some(Literal::i64(i64::from(x)));
    i16 => I16, |x| Literal::from_i64(DType::I16, i64::from(x)), |l| l.as_i64() as i16, Some(Literal::i64(i64::from(x)));
    i32 => I32, |x| Literal::from_i64(DType::I32, i64::from(x)), |l| l.as_i64() as i32, Some(Literal::i64(i64::from(x)));
    i64 => I64, |x| Literal::i64(x), |l| l.as_i64(), Some(Literal::i64(x));
    u8 => U8, |x| Literal::from_i64(DType::U8, i64::from(x)), |l| l.bits() as u8, Some(Literal::i64(i64::from(x)));
    u16 => U16, |x| Literal::from_i64(DType::U16, i64::from(x)), |l| l.bits() as u16, Some(Literal::i64(i64::from(x)));
    u32 => U32, |x| Literal::from_i64(DType::U32, i64::from(x)), |l| l.bits() as u32, Some(Literal::i64(i64::from(x)));
    u64 => U64, |x| Literal::u64(x), |l| l.bits(), i64::try_from(x).ok().map(Literal::i64);
    f32 => F32, |x| Literal::f32(x), |l| l.as_f64() as f32, Some(Literal::f64(f64::from(x)));
    f64 => F64, |x| Literal::f64(x), |l| l.as_f64(), Some(Literal::f64(x));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Element + PartialEq>(values: &[T]) {
        for x in values {
            assert_eq!(T::from_literal(x.literal()), *x);
            assert_eq!(x.literal().dtype(), T::DTYPE);
            assert_eq!(T::DTYPE.size(), size_of::<T>());
        }
    }

    #[test]
    fn literals_round_trip() {
        round_trip(&[false, true]);
        round_trip(&[i8::MIN, -1, i8::MAX]);
        round_trip(&[i16::MIN, -1, i16::MAX]);
        round_trip(&[i32::MIN, -1, i32::MAX]);
        round_trip(&[i64::MIN, -1, i64::MAX]);
        round_trip(&[0u8, u8::MAX]);
        round_trip(&[0u16, u16::MAX]);
        round_trip(&[0u32, u32::MAX]);
        round_trip(&[0u64, u64::MAX]);
        round_trip(&[-0.0f32, 1e-45, f32::INFINITY]);
        round_trip(&[-0.0f64, 5e-324, f64::INFINITY]);
        assert_eq!(u64::MAX.weak_literal(), None);
    }
}
