//! One primitive on scalars, as [`numfuse_core::interp::eval`] defines it.
//!
//! Invariants: no instruction emitted here can trap, whatever its operands: divisors are replaced before they are
//! divided by, and float to integer conversions saturate. A bool is an `i8` that is 0 or 1. What the host lacks
//! (`fma`, rounding) and what no host has (`fmod`) is a call of a Rust function through its address, so the code has
//! no relocations.

use super::Gen;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, MemFlagsData, Signature, Type, types};
use numfuse_core::dtype::{DType, Kind};
use numfuse_core::kernel::{Prim, expand};
use numfuse_core::literal::Literal;

/// The Cranelift type of a scalar.
pub(crate) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::Bool | DType::I8 | DType::U8 => types::I8,
        DType::I16 | DType::U16 => types::I16,
        DType::I32 | DType::U32 => types::I32,
        DType::I64 | DType::U64 => types::I64,
        DType::F32 => types::F32,
        DType::F64 => types::F64,
    }
}

/// The integer comparison that a primitive is for this dtype.
pub(super) fn int_cc(prim: Prim, dtype: DType) -> IntCC {
    match (prim, dtype.is_signed()) {
        (Prim::Eq, _) => IntCC::Equal,
        (Prim::Ne, _) => IntCC::NotEqual,
        (Prim::Lt | Prim::Min, true) => IntCC::SignedLessThan,
        (Prim::Lt | Prim::Min, false) => IntCC::UnsignedLessThan,
        (Prim::Max, true) => IntCC::SignedGreaterThan,
        (Prim::Max, false) => IntCC::UnsignedGreaterThan,
        (_, true) => IntCC::SignedLessThanOrEqual,
        (_, false) => IntCC::UnsignedLessThanOrEqual,
    }
}

/// The float comparison that a primitive is.
pub(super) fn float_cc(prim: Prim) -> FloatCC {
    match prim {
        Prim::Eq => FloatCC::Equal,
        Prim::Ne => FloatCC::NotEqual,
        Prim::Max => FloatCC::GreaterThan,
        Prim::Lt | Prim::Min => FloatCC::LessThan,
        _ => FloatCC::LessThanOrEqual,
    }
}

impl Gen<'_> {
    /// A constant.
    pub(crate) fn constant(&mut self, literal: Literal) -> ir::Value {
        match literal.dtype() {
            DType::F64 => self.b.ins().f64const(f64::from_bits(literal.bits())),
            DType::F32 => self.b.ins().f32const(f32::from_bits(literal.bits() as u32)),
            dtype => self.int(scalar_type(dtype), literal.bits() as i64),
        }
    }

    /// An integer constant, cut to the width of its type.
    pub(crate) fn int(&mut self, ty: Type, value: i64) -> ir::Value {
        let unused = 64 - ty.bits();
        self.b.ins().iconst(ty, ((value as u64) << unused >> unused) as i64)
    }

    /// A primitive. `operand` is the dtype of the first operand (of the second, for `Select`).
    pub(crate) fn scalar_prim(&mut self, prim: Prim, result: DType, operand: DType, args: &[ir::Value]) -> ir::Value {
        let x = args[0];
        match prim {
            Prim::Select => self.b.ins().select(x, args[1], args[2]),
            Prim::Cast => self.scalar_cast(operand, result, x),
            Prim::Bitcast if scalar_type(operand) == scalar_type(result) => x,
            Prim::Bitcast => self.b.ins().bitcast(scalar_type(result), MemFlagsData::new(), x),
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le if operand.is_float() => {
                self.b.ins().fcmp(float_cc(prim), x, args[1])
            }
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => self.b.ins().icmp(int_cc(prim, operand), x, args[1]),
            _ if result.is_float() => match expand::body(prim, result) {
                Some(body) => self.scalar_inline(body, args)[0],
                None => self.scalar_float(prim, result, args),
            },
            _ => self.scalar_int(prim, result, args),
        }
    }

    fn scalar_float(&mut self, prim: Prim, dtype: DType, args: &[ir::Value]) -> ir::Value {
        let x = args[0];
        let rounds = matches!(prim, Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::RoundEven);
        if prim == Prim::Rem || (prim == Prim::Fma && !self.target.fma) || (rounds && !self.target.round) {
            return self.call_helper(prim, dtype, args);
        }
        match prim {
            Prim::Neg => self.b.ins().fneg(x),
            Prim::Abs => self.b.ins().fabs(x),
            Prim::Add => self.b.ins().fadd(x, args[1]),
            Prim::Sub => self.b.ins().fsub(x, args[1]),
            Prim::Mul => self.b.ins().fmul(x, args[1]),
            Prim::Div => self.b.ins().fdiv(x, args[1]),
            Prim::Fma => self.b.ins().fma(x, args[1], args[2]),
            Prim::Sqrt => self.b.ins().sqrt(x),
            Prim::Floor => self.b.ins().floor(x),
            Prim::Ceil => self.b.ins().ceil(x),
            Prim::Trunc => self.b.ins().trunc(x),
            Prim::RoundEven => self.b.ins().nearest(x),
            Prim::Min | Prim::Max => {
                let first = self.b.ins().fcmp(float_cc(prim), x, args[1]);
                self.b.ins().select(first, x, args[1])
            }
            _ => self.unsupported(format!("{} of {dtype}", prim.name()), scalar_type(dtype)),
        }
    }

    fn scalar_int(&mut self, prim: Prim, dtype: DType, args: &[ir::Value]) -> ir::Value {
        let x = args[0];
        let ty = scalar_type(dtype);
        let width = i64::from(dtype.bits());
        match prim {
            Prim::Neg => self.b.ins().ineg(x),
            Prim::Abs => {
                let minus = self.b.ins().ineg(x);
                let zero = self.int(ty, 0);
                let negative = self.b.ins().icmp(IntCC::SignedLessThan, x, zero);
                self.b.ins().select(negative, minus, x)
            }
            Prim::Add => self.b.ins().iadd(x, args[1]),
            Prim::Sub => self.b.ins().isub(x, args[1]),
            Prim::Mul => self.b.ins().imul(x, args[1]),
            Prim::Div | Prim::Rem => self.scalar_divide(prim, dtype, x, args[1]),
            Prim::Min | Prim::Max => {
                let first = self.b.ins().icmp(int_cc(prim, dtype), x, args[1]);
                self.b.ins().select(first, x, args[1])
            }
            Prim::And => self.b.ins().band(x, args[1]),
            Prim::Or => self.b.ins().bor(x, args[1]),
            Prim::Xor => self.b.ins().bxor(x, args[1]),
            Prim::Not if dtype == DType::Bool => self.b.ins().bxor_imm_u(x, 1),
            Prim::Not => self.b.ins().bnot(x),
            Prim::Shl | Prim::Shr => {
                // Cranelift takes the count modulo the width.
                let limit = self.int(ty, width);
                let fits = self.b.ins().icmp(IntCC::UnsignedLessThan, args[1], limit);
                if prim == Prim::Shr && dtype.is_signed() {
                    let most = self.int(ty, width - 1);
                    let count = self.b.ins().select(fits, args[1], most);
                    return self.b.ins().sshr(x, count);
                }
                let shifted =
                    if prim == Prim::Shl { self.b.ins().ishl(x, args[1]) } else { self.b.ins().ushr(x, args[1]) };
                let zero = self.int(ty, 0);
                self.b.ins().select(fits, shifted, zero)
            }
            _ => self.unsupported(format!("{} of {dtype}", prim.name()), ty),
        }
    }

    /// Division without traps: a divisor of 0 or -1 is replaced by 1 and the result mended.
    fn scalar_divide(&mut self, prim: Prim, dtype: DType, x: ir::Value, y: ir::Value) -> ir::Value {
        let ty = scalar_type(dtype);
        if dtype.size() < 4 {
            // The host divides 32 or 64 bits. MIN / -1 is then representable and wraps when it is cut.
            let wide = if dtype.is_signed() { DType::I32 } else { DType::U32 };
            let (x, y) = (self.scalar_cast(dtype, wide, x), self.scalar_cast(dtype, wide, y));
            let quotient = self.scalar_divide(prim, wide, x, y);
            return self.b.ins().ireduce(ty, quotient);
        }
        let zero = self.int(ty, 0);
        let one = self.int(ty, 1);
        let by_zero = self.b.ins().icmp(IntCC::Equal, y, zero);
        if !dtype.is_signed() {
            let divisor = self.b.ins().select(by_zero, one, y);
            let result = if prim == Prim::Div { self.b.ins().udiv(x, divisor) } else { self.b.ins().urem(x, divisor) };
            return self.b.ins().select(by_zero, zero, result);
        }
        let minus_one = self.int(ty, -1);
        let by_minus_one = self.b.ins().icmp(IntCC::Equal, y, minus_one);
        let special = self.b.ins().bor(by_zero, by_minus_one);
        let divisor = self.b.ins().select(special, one, y);
        if prim == Prim::Rem {
            // x % 1 is 0, which is also what 0 and -1 give.
            return self.b.ins().srem(x, divisor);
        }
        let quotient = self.b.ins().sdiv(x, divisor);
        let minus_x = self.b.ins().ineg(x);
        let quotient = self.b.ins().select(by_minus_one, minus_x, quotient);
        self.b.ins().select(by_zero, zero, quotient)
    }

    /// A conversion, as [`Literal::cast`].
    pub(crate) fn scalar_cast(&mut self, from: DType, to: DType, x: ir::Value) -> ir::Value {
        let (ty, from_ty) = (scalar_type(to), scalar_type(from));
        match (from.kind(), to.kind()) {
            (Kind::Float, Kind::Bool) => {
                let zero = self.constant(Literal::from_bits(from, 0));
                self.b.ins().fcmp(FloatCC::NotEqual, x, zero)
            }
            (_, Kind::Bool) => self.b.ins().icmp_imm_u(IntCC::NotEqual, x, 0),
            (Kind::Float, Kind::Float) if from == to => x,
            (Kind::Float, Kind::Float) if to == DType::F64 => self.b.ins().fpromote(ty, x),
            (Kind::Float, Kind::Float) => self.b.ins().fdemote(ty, x),
            (Kind::Float, _) => {
                let wide = if to.size() == 8 { types::I64 } else { types::I32 };
                if to.size() >= 4 {
                    return if to.is_signed() {
                        self.b.ins().fcvt_to_sint_sat(wide, x)
                    } else {
                        self.b.ins().fcvt_to_uint_sat(wide, x)
                    };
                }
                // Narrow integers: saturate to 32 bits, then to the dtype's range.
                let whole = self.b.ins().fcvt_to_sint_sat(wide, x);
                let low = self.int(wide, Literal::min_of(to).as_i64());
                let high = self.int(wide, Literal::max_of(to).as_i64());
                let below = self.b.ins().icmp(IntCC::SignedLessThan, whole, low);
                let whole = self.b.ins().select(below, low, whole);
                let above = self.b.ins().icmp(IntCC::SignedGreaterThan, whole, high);
                let whole = self.b.ins().select(above, high, whole);
                self.b.ins().ireduce(ty, whole)
            }
            (_, Kind::Float) => {
                // Everything below 64 unsigned bits converts as a signed integer of enough bits.
                if from == DType::U64 {
                    return self.b.ins().fcvt_from_uint(ty, x);
                }
                let x = match (from.size(), from.is_signed()) {
                    (8, _) | (4, true) => x,
                    (4, false) => self.b.ins().uextend(types::I64, x),
                    (_, true) => self.b.ins().sextend(types::I32, x),
                    (_, false) => self.b.ins().uextend(types::I32, x),
                };
                self.b.ins().fcvt_from_sint(ty, x)
            }
            _ if ty == from_ty => x,
            _ if ty.bits() < from_ty.bits() => self.b.ins().ireduce(ty, x),
            (Kind::Int, _) => self.b.ins().sextend(ty, x),
            _ => self.b.ins().uextend(ty, x),
        }
    }

    /// A call of the Rust function that computes `prim`.
    fn call_helper(&mut self, prim: Prim, dtype: DType, args: &[ir::Value]) -> ir::Value {
        let ty = scalar_type(dtype);
        let address = helper_address(prim, dtype);
        let mut signature = Signature::new(self.target.call_conv);
        signature.params.extend(args.iter().map(|_| AbiParam::new(ty)));
        signature.returns.push(AbiParam::new(ty));
        let key = (args.len(), ty);
        let signature = match self.signatures.iter().find(|(k, _)| *k == key) {
            Some((_, known)) => *known,
            None => {
                let new = self.b.import_signature(signature);
                self.signatures.push((key, new));
                new
            }
        };
        let callee = self.int(types::I64, address as i64);
        let call = self.b.ins().call_indirect(signature, callee, args);
        self.b.inst_results(call)[0]
    }
}

macro_rules! helpers {
    ($($name32:ident $name64:ident ($($arg:ident),*) $value:expr;)*) => {
        $(
            extern "C" fn $name32($($arg: f32),*) -> f32 { $value }
            extern "C" fn $name64($($arg: f64),*) -> f64 { $value }
        )*
    };
}

helpers! {
    rem32 rem64 (x, y) x % y;
    fma32 fma64 (x, y, z) x.mul_add(y, z);
    floor32 floor64 (x) x.floor();
    ceil32 ceil64 (x) x.ceil();
    trunc32 trunc64 (x) x.trunc();
    round_even32 round_even64 (x) x.round_ties_even();
}

/// Where the Rust function for a primitive begins.
fn helper_address(prim: Prim, dtype: DType) -> usize {
    let f32 = dtype == DType::F32;
    let address = match prim {
        Prim::Rem if f32 => rem32 as *const (),
        Prim::Rem => rem64 as *const (),
        Prim::Fma if f32 => fma32 as *const (),
        Prim::Fma => fma64 as *const (),
        Prim::Floor if f32 => floor32 as *const (),
        Prim::Floor => floor64 as *const (),
        Prim::Ceil if f32 => ceil32 as *const (),
        Prim::Ceil => ceil64 as *const (),
        Prim::Trunc if f32 => trunc32 as *const (),
        Prim::Trunc => trunc64 as *const (),
        _ if f32 => round_even32 as *const (),
        _ => round_even64 as *const (),
    };
    address as usize
}
