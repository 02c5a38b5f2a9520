//! Element types: what one element of an array is, and which type two of them promote to.
//!
//! Invariants: a `DType` is a plain storage type, never a vector or a pair; its size is a power of two; promotion
//! is NumPy 2's (NEP 50) and lives only here. To add a dtype, add the variant, one row in [`DType::info`], its place
//! in [`DType::promote`], and its reading in `literal.rs`; exhaustive matches lead to the rest.

use std::fmt;

/// The type of one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Signed integers, two's complement, wrapping.
    I8,
    /// 16-bit signed integer.
    I16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// Unsigned integers, wrapping.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

/// What sort of number a dtype holds; weak literals have a kind and no width.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Truth values.
    Bool,
    /// Signed integers.
    Int,
    /// Unsigned integers.
    Uint,
    /// Floating point.
    Float,
}

/// Name, size and kind of a dtype: one row each.
#[derive(Clone, Copy, Debug)]
pub struct DTypeInfo {
    /// The name in text, as in `f64[3]`.
    pub name: &'static str,
    /// NumPy's name, accepted as an alias.
    pub numpy: &'static str,
    /// Bytes per element.
    pub size: usize,
    /// Bool, int, uint or float.
    pub kind: Kind,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 11] = [
        DType::Bool,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F32,
        DType::F64,
    ];

    /// The row of this dtype.
    #[inline]
    pub const fn info(self) -> DTypeInfo {
        const fn row(name: &'static str, numpy: &'static str, size: usize, kind: Kind) -> DTypeInfo {
            DTypeInfo { name, numpy, size, kind }
        }
        match self {
            DType::Bool => row("bool", "bool_", 1, Kind::Bool),
            DType::I8 => row("i8", "int8", 1, Kind::Int),
            DType::I16 => row("i16", "int16", 2, Kind::Int),
            DType::I32 => row("i32", "int32", 4, Kind::Int),
            DType::I64 => row("i64", "int64", 8, Kind::Int),
            DType::U8 => row("u8", "uint8", 1, Kind::Uint),
            DType::U16 => row("u16", "uint16", 2, Kind::Uint),
            DType::U32 => row("u32", "uint32", 4, Kind::Uint),
            DType::U64 => row("u64", "uint64", 8, Kind::Uint),
            DType::F32 => row("f32", "float32", 4, Kind::Float),
            DType::F64 => row("f64", "float64", 8, Kind::Float),
        }
    }

    /// The name in text.
    #[inline]
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// Bytes per element.
    #[inline]
    pub const fn size(self) -> usize {
        SIZES[self as usize] as usize
    }

    /// Bits per element.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.size() as u32 * 8
    }

    /// Bool, int, uint or float.
    #[inline]
    pub const fn kind(self) -> Kind {
        KINDS[self as usize]
    }

    /// True for `f32` and `f64`.
    #[inline]
    pub const fn is_float(self) -> bool {
        matches!(self.kind(), Kind::Float)
    }

    /// True for signed and unsigned integers, not for `bool`.
    #[inline]
    pub const fn is_int(self) -> bool {
        matches!(self.kind(), Kind::Int | Kind::Uint)
    }

    /// True for `i8..i64`.
    #[inline]
    pub const fn is_signed(self) -> bool {
        matches!(self.kind(), Kind::Int)
    }

    /// The unsigned integer with as many bits, for bit tricks on floats. `bool` gives `u8`.
    #[inline]
    pub const fn bits_dtype(self) -> DType {
        match self.size() {
            1 => DType::U8,
            2 => DType::U16,
            4 => DType::U32,
            _ => DType::U64,
        }
    }

    /// The dtype of this name (`f64`) or NumPy name (`float64`).
    pub fn from_name(name: &str) -> Option<DType> {
        let name = if name == "bool_" { "bool" } else { name };
        DType::ALL.into_iter().find(|d| d.info().name == name || d.info().numpy == name)
    }

    /// The dtype both operands of a binary operator are cast to, as `numpy.promote_types`.
    /// `promote(i64, u64)` is `f64`, and an integer with more bits than `f32`'s 24-bit significand lifts it to `f64`.
    #[inline]
    pub fn promote(self, other: DType) -> DType {
        use Kind::{Bool, Float, Int, Uint};
        let (low, high) = if self.kind() <= other.kind() { (self, other) } else { (other, self) };
        match (low.kind(), high.kind()) {
            (a, b) if a == b => {
                if low.size() >= high.size() {
                    low
                } else {
                    high
                }
            }
            (Bool, _) => high,
            (Int, Uint) => {
                if low.size() > high.size() {
                    low
                } else {
                    match high {
                        DType::U8 => DType::I16,
                        DType::U16 => DType::I32,
                        DType::U32 => DType::I64,
                        _ => DType::F64,
                    }
                }
            }
            (Int | Uint, Float) => {
                if low.size() <= 2 {
                    high
                } else {
                    DType::F64
                }
            }
            _ => high,
        }
    }

    /// The dtype in which functions of real numbers compute: floats as they are, 8- and 16-bit integers and `bool`
    /// in `f32`, wider integers in `f64`. (NumPy computes `bool` and 8-bit integers in `float16`.)
    #[inline]
    pub const fn to_float(self) -> DType {
        match self {
            DType::F32 | DType::F64 => self,
            _ if self.size() <= 2 => DType::F32,
            _ => DType::F64,
        }
    }

    /// The dtype in which sums and products accumulate: 64 bits for bools and integers (NumPy's rule), floats as they are.
    #[inline]
    pub const fn accumulator(self) -> DType {
        match self.kind() {
            Kind::Bool | Kind::Int => DType::I64,
            Kind::Uint => DType::U64,
            Kind::Float => self,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sizes and kinds of all rows, by dtype: a compiler asks for them all the time.
const SIZES: [u8; DType::ALL.len()] = {
    let mut sizes = [0; DType::ALL.len()];
    let mut i = 0;
    while i < sizes.len() {
        sizes[DType::ALL[i] as usize] = DType::ALL[i].info().size as u8;
        i += 1;
    }
    sizes
};
const KINDS: [Kind; DType::ALL.len()] = {
    let mut kinds = [Kind::Bool; DType::ALL.len()];
    let mut i = 0;
    while i < kinds.len() {
        kinds[DType::ALL[i] as usize] = DType::ALL[i].info().kind;
        i += 1;
    }
    kinds
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promotion_is_numpys() {
        // numpy.promote_types, NumPy 2.
        for (a, b, want) in [
            (DType::I64, DType::U64, DType::F64),
            (DType::I32, DType::U32, DType::I64),
            (DType::I8, DType::U8, DType::I16),
            (DType::I64, DType::U32, DType::I64),
            (DType::I32, DType::F32, DType::F64),
            (DType::I16, DType::F32, DType::F32),
            (DType::U16, DType::F32, DType::F32),
            (DType::Bool, DType::U8, DType::U8),
            (DType::F32, DType::F64, DType::F64),
        ] {
            assert_eq!(a.promote(b), want, "{a} {b}");
            assert_eq!(b.promote(a), want, "{b} {a}");
        }
    }

    #[test]
    fn names_round_trip() {
        for d in DType::ALL {
            assert_eq!(DType::from_name(d.name()), Some(d));
            assert_eq!(DType::from_name(d.info().numpy), Some(d));
        }
    }
}
