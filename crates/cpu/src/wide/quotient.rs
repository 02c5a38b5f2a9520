//! Division by what is the same for all elements of a loop, half of it without the divider: AVX-512's takes sixteen cycles for
//! eight numbers of double precision.
//!
//! The reciprocal is computed once, as a sum of two numbers, so that a product with it is within an ULP of the quotient. From
//! there one step with the exact remainder leads to the rounded quotient, since the first of the two numbers is the rounded
//! reciprocal: P. Markstein, Computation of elementary functions on the IBM RISC System/6000 processor, IBM J. Res. Dev. 34,
//! 1990. On divisors that are known in advance: N. Brisebarre, J.-M. Muller, S. K. Raina, Accelerating correctly rounded
//! floating-point division when the divisor is known in advance, IEEE Trans. Comput. 53, 2004.
//!
//! Invariants: the bits are those of the division. All of that holds only far from where numbers overflow or lose bits: for
//! dividends of [`Range::dividend`] and zeros, and divisors of [`Range::divisor`]. Vectors with others are divided.

use super::asm::{Cond, Isa, Op, op, op_w};
use super::body::{Body, Operand};
use super::memory::MOVE;
use super::prim::{bitwise, float};
use super::program::{Class, NodeId, Program, What};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Prim;
use numfuse_core::literal::Literal;

/// Powers of two between which magnitudes may be.
struct Range {
    dividend: i32,
    divisor: i32,
}

/// The remainder of the largest quotient and that of the smallest have to be exact: the exponent of a dividend is at least the
/// least one of a subnormal plus twice the precision; what else is multiplied does not leave the normal numbers.
const fn range(dtype: DType) -> Range {
    match dtype {
        DType::F64 => Range { dividend: 900, divisor: 60 },
        _ => Range { dividend: 96, divisor: 24 },
    }
}

const NOT_GREATER_EQUAL: u8 = 0x19;
const NOT_LESS_EQUAL: u8 = 0x16;
/// Of two operands the second one's bits where the third one has ones.
const BLEND: u8 = 0xd8;

impl Program {
    /// A division of a value that varies by one that does not, if it is worth more than the divider's instruction.
    pub fn divide(&mut self, isa: Isa, dtype: DType, x: NodeId, divisor: NodeId) -> NodeId {
        let is_by_same = self.class(x) == Class::Varying && self.class(divisor) == Class::Uniform;
        if isa != Isa::Avx512 || !matches!(dtype, DType::F32 | DType::F64) || !is_by_same {
            return self.push(What::Prim(Prim::Div), dtype, &[x, divisor]);
        }
        let one = self.power(dtype, 0);
        let reciprocal = self.push(What::Prim(Prim::Div), dtype, &[one, divisor]);
        let negative = self.push(What::Prim(Prim::Neg), dtype, &[divisor]);
        let error = self.push(What::Prim(Prim::Fma), dtype, &[negative, reciprocal, one]);
        let rest = self.push(What::Prim(Prim::Mul), dtype, &[error, reciprocal]);
        // The largest dividend: none for a divisor that is out of range.
        let range = range(dtype);
        let magnitude = self.push(What::Prim(Prim::Abs), dtype, &[divisor]);
        let (least, most) = (self.power(dtype, -range.divisor), self.power(dtype, range.divisor));
        let is_enough = self.push(What::Prim(Prim::Le), DType::Bool, &[least, magnitude]);
        let is_little = self.push(What::Prim(Prim::Le), DType::Bool, &[magnitude, most]);
        let is_in_range = self.push(What::Prim(Prim::And), DType::Bool, &[is_enough, is_little]);
        let (largest, none) = (self.power(dtype, range.dividend), self.constant(Literal::from_f64(dtype, -1.0)));
        let largest = self.push(What::Prim(Prim::Select), dtype, &[is_in_range, largest, none]);
        self.push(What::Quotient, dtype, &[x, divisor, reciprocal, rest, largest])
    }

    /// Leaves half of the copies' quotients to the divider, which works beside the other units, unless it is busy anyway.
    pub fn share_quotients(&mut self) {
        self.shares_quotients = !self.nodes.iter().any(|node| {
            let divides = matches!(node.what, What::Prim(Prim::Div | Prim::Sqrt) | What::Root(_));
            divides && node.dtype.is_float() && node.class == Class::Varying
        });
    }

    fn power(&mut self, dtype: DType, exponent: i32) -> NodeId {
        self.constant(Literal::from_f64(dtype, 2f64.powi(exponent)))
    }
}

impl Body<'_, '_, '_> {
    /// Emits a [`What::Quotient`].
    pub(super) fn quotient(&mut self, copy: usize, node: NodeId) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let divide = float(0x5e, dtype);
        if self.program.shares_quotients && copy < self.copies / 2 {
            return self.binary(copy, node, divide, size, false);
        }
        let arg = |body: &Self, n| body.arg(node, n);
        let fused = |opcode| op_w(1, 2, opcode, dtype == DType::F64);
        let [x, divisor, reciprocal] = [0, 1, 2].map(|n| {
            let value = arg(self, n);
            self.reg(copy, value)
        });
        let largest = self.reg(copy, arg(self, 4));
        let rest = self.operand(copy, arg(self, 3), size);
        let to = self.define_apart(copy, node);
        let (near, other) = (self.temp(), self.temp());
        let register = Operand::reg;
        // near = x * reciprocal + x * rest, to = x - near * divisor, to = to * reciprocal + near
        self.emit(float(0x59, dtype), len, near, x, rest, None);
        self.emit(fused(0xb8), len, near, x, register(reciprocal), None);
        self.emit(MOVE, len, to, 0, register(x), None);
        self.emit(fused(0xbc), len, to, near, register(divisor), None);
        self.emit(fused(0xa8), len, to, reciprocal, register(near), None);
        // Zeros have the wrong sign.
        let sign = 1u64 << (8 * size - 1);
        self.emit(bitwise(0xef, size), len, other, x, register(divisor), None);
        let bits = self.bits_operand(sign, size);
        self.emit(op(1, 3, 0x25, size == 8), len, to, other, bits, Some(BLEND));
        // What is neither zero nor of the range is divided.
        let bits = self.bits_operand(sign - 1, size);
        self.emit(bitwise(0xdb, size), len, near, x, bits, None);
        let least = self.bits_operand(Literal::from_f64(dtype, 2f64.powi(-range(dtype).dividend)).bits(), size);
        let (small, large) = (self.mask_temp(), self.mask_temp());
        self.emit(float(0xc2, dtype), len, small, near, least, Some(NOT_GREATER_EQUAL));
        self.emit_masked(test(size), len, small, near, register(near), None, small, false);
        self.emit(float(0xc2, dtype), len, large, near, register(largest), Some(NOT_LESS_EQUAL));
        self.g.test_masks(small, large);
        let done = self.g.a.label();
        self.g.a.jump_if(Cond::Equal, done);
        self.emit(divide, len, to, x, register(divisor), None);
        self.g.a.bind(done);
    }
}

/// Compares the bits of lanes with zero.
const fn test(size: usize) -> Op {
    op(1, 2, 0x27, size == 8)
}
