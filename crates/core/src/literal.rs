//! One scalar of any dtype: a constant in a graph, a parameter of a kernel, a cell of the interpreter.
//!
//! Invariants: equality and hash are those of the dtype and the bits, so `-0.0 != 0.0` and a NaN equals itself;
//! unused high bits are zero, so two equal values have equal representations. Casts are defined here, once, for
//! the interpreter and for constant folding.

use crate::dtype::{DType, Kind};
use std::fmt;

/// A scalar: a dtype and its bits, zero-extended to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Literal {
    dtype: DType,
    bits: u64,
}

impl Literal {
    /// The scalar of `dtype` with these bits; bits above the dtype's width are dropped, and a bool becomes 0 or 1.
    pub const fn from_bits(dtype: DType, bits: u64) -> Literal {
        let bits = match dtype {
            DType::Bool => (bits & 0xff != 0) as u64,
            _ => match dtype.size() {
                1 => bits & 0xff,
                2 => bits & 0xffff,
                4 => bits & 0xffff_ffff,
                _ => bits,
            },
        };
        Literal { dtype, bits }
    }

    /// A bool.
    pub const fn bool(value: bool) -> Literal {
        Literal { dtype: DType::Bool, bits: value as u64 }
    }

    /// An `f64`.
    pub const fn f64(value: f64) -> Literal {
        Literal { dtype: DType::F64, bits: value.to_bits() }
    }

    /// An `f32`.
    pub const fn f32(value: f32) -> Literal {
        Literal { dtype: DType::F32, bits: value.to_bits() as u64 }
    }

    /// An `i64`.
    pub const fn i64(value: i64) -> Literal {
        Literal { dtype: DType::I64, bits: value as u64 }
    }

    /// A `u64`.
    pub const fn u64(value: u64) -> Literal {
        Literal { dtype: DType::U64, bits: value }
    }

    /// The real number `value` rounded to a float dtype, or truncated and wrapped to an integer dtype.
    pub fn from_f64(dtype: DType, value: f64) -> Literal {
        Literal::f64(value).cast(dtype)
    }

    /// The integer `value` wrapped to an integer dtype, or rounded to a float dtype.
    pub fn from_i64(dtype: DType, value: i64) -> Literal {
        Literal::i64(value).cast(dtype)
    }

    /// The dtype.
    #[inline]
    pub const fn dtype(self) -> DType {
        self.dtype
    }

    /// The bits, zero-extended.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// The value as an `f64`: exact for floats and small integers, rounded to nearest for wide integers.
    pub fn as_f64(self) -> f64 {
        match self.dtype.kind() {
            Kind::Float if self.dtype == DType::F32 => f64::from(f32::from_bits(self.bits as u32)),
            Kind::Float => f64::from_bits(self.bits),
            Kind::Int => self.as_i64() as f64,
            Kind::Bool | Kind::Uint => self.bits as f64,
        }
    }

    /// The bits sign-extended if the dtype is signed, zero-extended otherwise. Meaningless for floats.
    pub const fn as_i64(self) -> i64 {
        match self.dtype {
            DType::I8 => self.bits as i8 as i64,
            DType::I16 => self.bits as i16 as i64,
            DType::I32 => self.bits as i32 as i64,
            _ => self.bits as i64,
        }
    }

    /// True unless the value is zero; NaN is true, as in NumPy.
    #[inline]
    pub fn as_bool(self) -> bool {
        match self.dtype.kind() {
            Kind::Float => self.as_f64() != 0.0,
            _ => self.bits != 0,
        }
    }

    /// The value as an integer if it is one: integers and bools, and floats without a fractional part that fit.
    pub fn as_exact_i64(self) -> Option<i64> {
        match self.dtype.kind() {
            Kind::Float => {
                let x = self.as_f64();
                (x.fract() == 0.0 && x.abs() < 9.0e15).then_some(x as i64)
            }
            Kind::Uint => i64::try_from(self.bits).ok(),
            Kind::Bool | Kind::Int => Some(self.as_i64()),
        }
    }

    /// The value converted to `dtype`: integers wrap, float to integer truncates and saturates with NaN to 0,
    /// anything to float rounds to nearest even, anything to bool is `!= 0`.
    pub fn cast(self, dtype: DType) -> Literal {
        if self.dtype == dtype {
            return self;
        }
        let bits = match dtype.kind() {
            Kind::Bool => u64::from(self.as_bool()),
            Kind::Float => {
                // A direct conversion: going through f64 would round wide integers twice.
                let as_f32 = match self.dtype.kind() {
                    Kind::Float => self.as_f64() as f32,
                    Kind::Int => self.as_i64() as f32,
                    Kind::Bool | Kind::Uint => self.bits as f32,
                };
                if dtype == DType::F32 { u64::from(as_f32.to_bits()) } else { self.as_f64().to_bits() }
            }
            Kind::Int | Kind::Uint if self.dtype.is_float() => {
                let x = self.as_f64();
                match dtype {
                    DType::I8 => x as i8 as u64,
                    DType::I16 => x as i16 as u64,
                    DType::I32 => x as i32 as u64,
                    DType::I64 => x as i64 as u64,
                    DType::U8 => u64::from(x as u8),
                    DType::U16 => u64::from(x as u16),
                    DType::U32 => u64::from(x as u32),
                    _ => x as u64,
                }
            }
            Kind::Int | Kind::Uint => self.as_i64() as u64,
        };
        Literal::from_bits(dtype, bits)
    }

    /// The smallest value of a dtype: `-inf` for floats.
    pub fn min_of(dtype: DType) -> Literal {
        match dtype.kind() {
            Kind::Float => Literal::from_f64(dtype, f64::NEG_INFINITY),
            Kind::Int => Literal::from_bits(dtype, 1 << (dtype.bits() - 1)),
            Kind::Bool | Kind::Uint => Literal::from_bits(dtype, 0),
        }
    }

    /// The largest value of a dtype: `inf` for floats.
    pub fn max_of(dtype: DType) -> Literal {
        match dtype.kind() {
            Kind::Float => Literal::from_f64(dtype, f64::INFINITY),
            Kind::Int => Literal::from_bits(dtype, (1 << (dtype.bits() - 1)) - 1),
            Kind::Bool | Kind::Uint => Literal::from_bits(dtype, u64::MAX),
        }
    }
}

/// The value alone, in the shortest decimal form that reads back to the same bits; `nan`, `inf`, `True`.
/// NaNs other than the default one print as `nan(0x...)` with their bits.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::Bool => f.write_str(if self.bits != 0 { "True" } else { "False" }),
            DType::F32 | DType::F64 => {
                let x = self.as_f64();
                let default_nan = Literal::from_f64(self.dtype, f64::NAN).bits;
                if x.is_nan() {
                    if self.bits == default_nan { f.write_str("nan") } else { write!(f, "nan({:#x})", self.bits) }
                } else if x.is_infinite() {
                    f.write_str(if x > 0.0 { "inf" } else { "-inf" })
                } else if self.dtype == DType::F32 {
                    write!(f, "{:?}", x as f32)
                } else {
                    write!(f, "{x:?}")
                }
            }
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => write!(f, "{}", self.bits),
            _ => write!(f, "{}", self.as_i64()),
        }
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.dtype)
    }
}

macro_rules! from_rust {
    ($($ty:ty => $dtype:ident, |$x:ident| $bits:expr;)*) => {$(
        impl From<$ty> for Literal {
            fn from($x: $ty) -> Literal {
                Literal::from_bits(DType::$dtype, $bits)
            }
        }
    )*};
}
from_rust! {
    bool => Bool, |x| u64::from(x);
    i8 => I8, |x| x as u64;
    i16 => I16, |x| x as u64;
    i32 => I32, |x| x as u64;
    i64 => I64, |x| x as u64;
    u8 => U8, |x| u64::from(x);
    u16 => U16, |x| u64::from(x);
    u32 => U32, |x| u64::from(x);
    u64 => U64, |x| x;
    f32 => F32, |x| u64::from(x.to_bits());
    f64 => F64, |x| x.to_bits();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_to_int_saturates() {
        for (x, dtype, want) in [
            (f64::NAN, DType::I64, 0),
            (1e30, DType::I64, i64::MAX),
            (-1e30, DType::I32, i64::from(i32::MIN)),
            (-1.5, DType::U8, 0),
            (300.0, DType::U8, 255),
            (-2.9, DType::I8, -2),
        ] {
            assert_eq!(Literal::f64(x).cast(dtype).as_i64(), want, "{x} {dtype}");
        }
    }

    #[test]
    fn wide_integers_round_once() {
        let x = Literal::i64((1 << 60) + (1 << 36) + 1);
        assert_eq!(x.cast(DType::F32), Literal::f32(((1i64 << 60) + (1 << 36) + 1) as f32));
    }

    #[test]
    fn bits_decide_equality() {
        assert_ne!(Literal::f64(0.0), Literal::f64(-0.0));
        assert_eq!(Literal::f64(f64::NAN), Literal::f64(f64::NAN));
        assert_eq!(Literal::from(-1i8).bits(), 0xff);
    }
}
