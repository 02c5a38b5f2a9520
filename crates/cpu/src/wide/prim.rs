//! One node to instructions: every primitive, for every dtype.
//!
//! With AVX-512 a bool is a mask register; with AVX2 it is a vector, all ones or all zeros in each lane, whose lanes
//! are as wide as the program's widest dtype. Instructions are chosen to give the bits that [`Prim`] promises, also for
//! NaN, zeros and shifts too far. What has no vector form is computed lane by lane in `lanes.rs`.

use super::asm::{Isa, Len, Op, op, op_w};
use super::body::{Bank, Body, Operand};
use super::contract::fused_opcode;
use super::program::{NodeId, What};
use super::routine::is_routine;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Prim;

pub(super) const XOR_D: Op = op(1, 1, 0xef, false);
pub(super) const ADD_Q: Op = op(1, 1, 0xd4, true);

/// A floating point instruction in its `pd` or `ps` form.
pub(super) const fn float(opcode: u8, dtype: DType) -> Op {
    let double = matches!(dtype, DType::F64);
    op(if double { 1 } else { 0 }, 1, opcode, double)
}

/// A bitwise instruction: `db` and, `df` and-not (of the first), `eb` or, `ef` exclusive or.
pub(super) const fn bitwise(opcode: u8, size: usize) -> Op {
    op(1, 1, opcode, size == 8)
}

/// The size by which a bitwise instruction reads a broadcast operand.
pub(super) const fn bitwise_element(size: usize) -> usize {
    if size == 8 { 8 } else { 4 }
}

/// Emits a node.
pub(super) fn emit(body: &mut Body<'_, '_, '_>, copy: usize, node: NodeId) {
    match body.program.nodes[node as usize].what {
        What::Prim(prim) => body.prim(copy, node, prim),
        What::Const(_) | What::Rare => {}
        What::Quotient => body.quotient(copy, node),
        What::Root(number) => body.root(copy, node, number),
        What::Fused { minus_product, minus_addend } => body.fma(copy, node, minus_product, minus_addend),
        What::Logic(table) => body.logic(copy, node, table),
        What::Carried(n) => body.enter_carried(copy, node, n as usize),
        _ => body.memory_node(copy, node),
    }
}

impl Body<'_, '_, '_> {
    fn prim(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let dtype = self.dtype(node);
        let operand = self.dtype(self.arg(node, 0));
        if dtype == DType::Bool && operand == DType::Bool && prim != Prim::Cast {
            return self.bool_prim(copy, node, prim);
        }
        let float_op = |opcode| float(opcode, dtype);
        let avx512 = self.g.a.isa == Isa::Avx512;
        let size = dtype.size();
        match prim {
            Prim::Add | Prim::Mul | Prim::Sub | Prim::Div | Prim::Min | Prim::Max if dtype.is_float() => {
                let (opcode, commutes) = match prim {
                    Prim::Add => (0x58, true),
                    Prim::Mul => (0x59, true),
                    Prim::Sub => (0x5c, false),
                    Prim::Min => (0x5d, false),
                    Prim::Div => (0x5e, false),
                    _ => (0x5f, false),
                };
                self.binary(copy, node, float_op(opcode), size, commutes);
            }
            Prim::Sqrt => self.unary(copy, node, float_op(0x51), None),
            Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::RoundEven => {
                // The rounding mode, without a precision exception.
                let mode = match prim {
                    Prim::Floor => 0x9,
                    Prim::Ceil => 0xa,
                    Prim::Trunc => 0xb,
                    _ => 0x8,
                };
                let double = dtype == DType::F64;
                self.unary(copy, node, op(1, 3, if double { 0x09 } else { 0x08 }, double), Some(mode));
            }
            Prim::Fma => self.fma(copy, node, false, false),
            Prim::Scale if avx512 => self.binary(copy, node, op(1, 2, 0x2c, dtype == DType::F64), size, false),
            Prim::Neg | Prim::Abs if dtype.is_float() => {
                let sign = 1u64 << (8 * size - 1);
                let (opcode, bits) = if prim == Prim::Neg { (0xef, sign) } else { (0xdb, sign - 1) };
                let x = self.reg(copy, self.arg(node, 0));
                let bits = self.bits_operand(bits, size);
                let to = self.define(copy, node);
                let len = self.len(dtype);
                self.emit(bitwise(opcode, size), len, to, x, bits, None);
            }
            Prim::Neg => {
                let zero = self.temp();
                let len = self.len(dtype);
                self.emit(XOR_D, len, zero, zero, Operand::reg(zero), None);
                let x = self.operand(copy, self.arg(node, 0), size);
                let to = self.define(copy, node);
                self.emit(integer_sub(size), len, to, zero, x, None);
            }
            Prim::Abs if size < 8 || avx512 => {
                let opcode = match size {
                    1 => 0x1c,
                    2 => 0x1d,
                    4 => 0x1e,
                    _ => 0x1f,
                };
                self.unary(copy, node, op(1, 2, opcode, size == 8), None);
            }
            Prim::Add => {
                let opcode = match size {
                    1 => 0xfc,
                    2 => 0xfd,
                    4 => 0xfe,
                    _ => 0xd4,
                };
                self.binary(copy, node, op(1, 1, opcode, size == 8), size, true);
            }
            Prim::Sub => self.binary(copy, node, integer_sub(size), size, false),
            Prim::Mul if size == 2 => self.binary(copy, node, op(1, 1, 0xd5, false), size, true),
            Prim::Mul if size == 4 || (size == 8 && avx512) => {
                self.binary(copy, node, op(1, 2, 0x40, size == 8), size, true);
            }
            Prim::Mul if size == 1 => self.mul_bytes(copy, node),
            Prim::Mul => self.mul_quads(copy, node),
            Prim::Min | Prim::Max if size < 8 || avx512 => {
                let op = integer_extremum(prim == Prim::Max, dtype);
                self.binary(copy, node, op, size, true);
            }
            Prim::And => self.binary(copy, node, bitwise(0xdb, size), bitwise_element(size), true),
            Prim::Or => self.binary(copy, node, bitwise(0xeb, size), bitwise_element(size), true),
            Prim::Xor => self.binary(copy, node, bitwise(0xef, size), bitwise_element(size), true),
            Prim::Not => {
                let x = self.reg(copy, self.arg(node, 0));
                let ones = self.bits_operand(u64::MAX >> (64 - 8 * bitwise_element(size)), bitwise_element(size));
                let to = self.define(copy, node);
                let len = self.len(dtype);
                self.emit(bitwise(0xef, size), len, to, x, ones, None);
            }
            Prim::Shl | Prim::Shr => self.shift(copy, node, prim),
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => self.compare(copy, node, prim),
            Prim::Select => self.select(copy, node),
            Prim::Cast => self.cast(copy, node),
            Prim::Bitcast => self.define_as(copy, node, self.arg(node, 0)),
            _ if is_routine(prim) => self.call_routine(copy, node, prim),
            _ => self.lane_by_lane(copy, node, prim),
        }
    }

    /// `x op y`; a commutative operation has the operand that is in memory last.
    pub(super) fn binary(&mut self, copy: usize, node: NodeId, op: Op, element: usize, commutes: bool) {
        let (mut x, mut y) = (self.arg(node, 0), self.arg(node, 1));
        if commutes && !self.in_register(copy, x) && self.in_register(copy, y) {
            std::mem::swap(&mut x, &mut y);
        }
        let first = self.reg(copy, x);
        let last = self.operand(copy, y, element);
        let to = self.define(copy, node);
        let len = self.len(self.dtype(node));
        self.emit(op, len, to, first, last, None);
    }

    pub(super) fn unary(&mut self, copy: usize, node: NodeId, op: Op, imm: Option<u8>) {
        let dtype = self.dtype(node);
        let x = self.operand(copy, self.arg(node, 0), dtype.size());
        let to = self.define(copy, node);
        let len = self.len(dtype);
        self.emit(op, len, to, 0, x, imm);
    }

    /// `x * y + z`, with the product or `z` negated or not, in the form whose destination is an operand that is not used again.
    fn fma(&mut self, copy: usize, node: NodeId, minus_product: bool, minus_addend: bool) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let form = |opcode| fused_opcode(opcode, minus_product, minus_addend, dtype == DType::F64);
        let [mut x, mut y, z] = [self.arg(node, 0), self.arg(node, 1), self.arg(node, 2)];
        if !self.in_register(copy, x) {
            std::mem::swap(&mut x, &mut y);
        }
        let dying = |body: &Self, v: NodeId| body.in_register(copy, v) && body.dies(v, node);
        // A destination that is used as another operand too must not be overwritten before it is read; it is not, the
        // instruction reads all of them first.
        if dying(self, z) {
            let first = self.reg(copy, x);
            let last = self.operand(copy, y, size);
            self.reg(copy, z);
            if let Some(to) = self.take_over(copy, z, node) {
                return self.emit(form(0xb8), len, to, first, last, None);
            }
        }
        for (this, other) in [(x, y), (y, x)] {
            if !dying(self, this) || this == z {
                continue;
            }
            self.reg(copy, this);
            // One of the others may be in memory: `this * mem + z` or `this * other + mem`.
            let (opcode, first, last) = if self.in_register(copy, other) || !self.in_register(copy, z) {
                let first = self.reg(copy, other);
                (0xa8, first, self.operand(copy, z, size))
            } else {
                let first = self.reg(copy, z);
                (0x98, first, self.operand(copy, other, size))
            };
            if let Some(to) = self.take_over(copy, this, node) {
                return self.emit(form(opcode), len, to, first, last, None);
            }
        }
        let first = self.reg(copy, x);
        if self.in_register(copy, y) {
            self.reg(copy, y);
        }
        let addend = self.operand(copy, z, size);
        let to = self.define_apart(copy, node);
        match (addend.rm, addend.broadcast) {
            (super::asm::Rm::Reg(r), _) => self.move_vector(to, r, dtype),
            (_, true) => {
                self.emit(super::memory::splat(size), len, to, 0, Operand { broadcast: false, ..addend }, None)
            }
            _ => self.emit(super::memory::LOAD, len, to, 0, addend, None),
        }
        let last = self.operand(copy, y, size);
        self.emit(form(0xb8), len, to, first, last, None);
    }

    fn bool_prim(&mut self, copy: usize, node: NodeId, prim: Prim) {
        if self.bank(DType::Bool) == Bank::Vector {
            return self.bool_prim_vectors(copy, node, prim);
        }
        let x = self.reg(copy, self.arg(node, 0));
        match prim {
            Prim::Not => {
                let to = self.define(copy, node);
                self.g.mask_not(to, x);
            }
            Prim::Select => {
                let (then, other) = (self.reg(copy, self.arg(node, 1)), self.reg(copy, self.arg(node, 2)));
                let picked = self.mask_temp();
                self.g.mask_op(0x41, picked, x, then);
                let to = self.define_apart(copy, node);
                self.g.mask_op(0x42, to, x, other);
                self.g.mask_op(0x45, to, to, picked);
            }
            _ => {
                let y = self.reg(copy, self.arg(node, 1));
                let to = self.define(copy, node);
                let opcode = match prim {
                    Prim::And => 0x41,
                    Prim::Or => 0x45,
                    Prim::Eq => 0x46,
                    _ => 0x47,
                };
                self.g.mask_op(opcode, to, x, y);
            }
        }
    }

    fn bool_prim_vectors(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let len = self.len(DType::Bool);
        let x = self.reg(copy, self.arg(node, 0));
        match prim {
            Prim::Select => {
                let (then, other) = (self.reg(copy, self.arg(node, 1)), self.reg(copy, self.arg(node, 2)));
                let to = self.define(copy, node);
                self.blend(to, len, other, Operand::reg(then), x);
            }
            Prim::Not => {
                let ones = self.bits_operand(u64::MAX, 8);
                let to = self.define(copy, node);
                self.emit(XOR_D, len, to, x, ones, None);
            }
            _ => {
                let y = self.reg(copy, self.arg(node, 1));
                let to = self.define(copy, node);
                let opcode = match prim {
                    Prim::And => 0xdb,
                    Prim::Or => 0xeb,
                    _ => 0xef,
                };
                self.emit(bitwise(opcode, 4), len, to, x, Operand::reg(y), None);
                if prim == Prim::Eq {
                    let ones = self.bits_operand(u64::MAX, 8);
                    self.emit(XOR_D, len, to, to, ones, None);
                }
            }
        }
    }

    /// Byte by byte `then` where the mask register (AVX2) is set, else `other`.
    pub(super) fn blend(&mut self, to: u8, len: Len, other: u8, then: Operand, mask: u8) {
        self.emit(op(1, 3, 0x4c, false), len, to, other, then, Some(mask << 4));
    }

    fn compare(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let (x, y) = (self.arg(node, 0), self.arg(node, 1));
        let dtype = self.dtype(x);
        let (size, len) = (dtype.size(), self.len(dtype));
        if dtype.is_float() {
            // Quiet; not-equal is true for NaN, the others are false.
            let predicate = match prim {
                Prim::Eq => 0x00,
                Prim::Ne => 0x04,
                Prim::Lt => 0x11,
                _ => 0x12,
            };
            let first = self.reg(copy, x);
            let last = self.operand(copy, y, size);
            let to = self.define(copy, node);
            self.emit(float(0xc2, dtype), len, to, first, last, Some(predicate));
            return self.widen_mask(to, size);
        }
        if self.g.a.isa == Isa::Avx512 {
            let predicate = match prim {
                Prim::Eq => 0,
                Prim::Ne => 4,
                Prim::Lt => 1,
                _ => 2,
            };
            let opcode = match (size >= 4, dtype.is_signed()) {
                (true, true) => 0x1f,
                (true, false) => 0x1e,
                (false, true) => 0x3f,
                (false, false) => 0x3e,
            };
            let wide = size == 8 || size == 2;
            let first = self.reg(copy, x);
            let last = self.operand(copy, y, size);
            let to = self.define(copy, node);
            return self.emit(op(1, 3, opcode, wide), len, to, first, last, Some(predicate));
        }
        let (mut first, mut last) = (self.reg(copy, x), self.reg(copy, y));
        if matches!(prim, Prim::Lt | Prim::Le) && !dtype.is_signed() {
            // With the sign bits flipped, the order of signed integers is that of unsigned ones.
            let sign = (1u64 << (8 * size - 1))
                * if size == 1 {
                    0x0101_0101
                } else if size == 2 {
                    0x1_0001
                } else {
                    1
                };
            for r in [&mut first, &mut last] {
                let flipped = self.temp();
                let bits = self.bits_operand(sign, bitwise_element(size));
                self.emit(bitwise(0xef, size), len, flipped, *r, bits, None);
                *r = flipped;
            }
        }
        let to = self.define(copy, node);
        let invert = matches!(prim, Prim::Ne | Prim::Le);
        match prim {
            Prim::Eq | Prim::Ne => {
                let equal = match size {
                    1 => op(1, 1, 0x74, false),
                    2 => op(1, 1, 0x75, false),
                    4 => op(1, 1, 0x76, false),
                    _ => op(1, 2, 0x29, false),
                };
                self.emit(equal, len, to, first, Operand::reg(last), None);
            }
            // x < y is y > x; x <= y is not x > y.
            Prim::Lt => self.emit(greater(size), len, to, last, Operand::reg(first), None),
            _ => self.emit(greater(size), len, to, first, Operand::reg(last), None),
        }
        if invert {
            let ones = self.bits_operand(u64::MAX, 8);
            self.emit(XOR_D, len, to, to, ones, None);
        }
        self.widen_mask(to, size);
    }

    /// A mask just made from elements of some bytes gets the width that the program's masks have (AVX2).
    pub(super) fn widen_mask(&mut self, reg: u8, size: usize) {
        if self.g.a.isa == Isa::Avx2 {
            let width = self.mask_width();
            self.resize_mask(reg, reg, size, width);
        }
    }

    fn select(&mut self, copy: usize, node: NodeId) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let condition = self.reg(copy, self.arg(node, 0));
        let other = self.reg(copy, self.arg(node, 2));
        let then = self.operand(copy, self.arg(node, 1), size);
        match self.g.a.isa {
            Isa::Avx512 => {
                let blend = op(1, 2, if size >= 4 { 0x64 } else { 0x66 }, size == 8 || size == 2);
                let to = self.define(copy, node);
                self.emit_masked(blend, len, to, other, then, None, condition, false);
            }
            Isa::Avx2 => {
                let mut mask = condition;
                let width = self.mask_width();
                if width != size {
                    mask = self.temp();
                    self.resize_mask(mask, condition, width, size);
                }
                let to = self.define(copy, node);
                self.blend(to, len, other, then, mask);
            }
        }
    }

    fn shift(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let bits = 8 * size as u64;
        let arithmetic = prim == Prim::Shr && dtype.is_signed();
        let avx512 = self.g.a.isa == Isa::Avx512;
        if let Some(count) = self.literal(self.arg(node, 1)) {
            let mut count = count.bits() & (u64::MAX >> (64 - bits));
            if count >= bits && !arithmetic {
                let to = self.define(copy, node);
                return self.emit(XOR_D, len, to, to, Operand::reg(to), None);
            }
            count = count.min(bits - 1);
            if size >= 2 && (!arithmetic || size < 8 || avx512) {
                let x = self.reg(copy, self.arg(node, 0));
                let to = self.define(copy, node);
                let (group, extension) = immediate_shift(prim == Prim::Shl, arithmetic, size);
                return self.emit(group, len, extension, to, Operand::reg(x), Some(count as u8));
            }
        }
        // Counts of the width or more give zeros, or the sign, in hardware too.
        match size {
            1 if avx512 => self.shift_bytes(copy, node, prim == Prim::Shl, arithmetic),
            2 if avx512 => {
                let opcode = if prim == Prim::Shl {
                    0x12
                } else if arithmetic {
                    0x11
                } else {
                    0x10
                };
                self.binary(copy, node, op(1, 2, opcode, true), size, false);
            }
            4 | 8 if !arithmetic || size == 4 || avx512 => {
                self.binary(copy, node, variable_shift(prim == Prim::Shl, arithmetic, size), size, false);
            }
            _ if is_routine(prim) => self.call_routine(copy, node, prim),
            _ => self.lane_by_lane(copy, node, prim),
        }
    }

    /// Shifts bytes as the halves of 16-bit lanes.
    fn shift_bytes(&mut self, copy: usize, node: NodeId, left: bool, arithmetic: bool) {
        let len = self.len(DType::I8);
        let (x, count) = (self.reg(copy, self.arg(node, 0)), self.reg(copy, self.arg(node, 1)));
        let (low, low_count, high, high_count) = (self.temp(), self.temp(), self.temp(), self.temp());
        let by = op(
            1,
            2,
            if left {
                0x12
            } else if arithmetic {
                0x11
            } else {
                0x10
            },
            true,
        );
        let words = op(1, 1, 0x71, false);
        let (down, up) = (2, 6);
        let low_bytes = self.bits_operand(0x00ff_00ff, 4);
        let high_bytes = self.bits_operand(0xff00_ff00, 4);
        self.emit(bitwise(0xdb, 4), len, low_count, count, low_bytes, None);
        self.emit(words, len, down, high_count, Operand::reg(count), Some(8));
        if arithmetic {
            self.emit(words, len, up, low, Operand::reg(x), Some(8));
            self.emit(by, len, low, low, Operand::reg(low_count), None);
            self.emit(words, len, down, low, Operand::reg(low), Some(8));
            self.emit(by, len, high, x, Operand::reg(high_count), None);
            self.emit(bitwise(0xdb, 4), len, high, high, high_bytes, None);
        } else if left {
            self.emit(by, len, low, x, Operand::reg(low_count), None);
            self.emit(bitwise(0xdb, 4), len, low, low, low_bytes, None);
            self.emit(bitwise(0xdb, 4), len, high, x, high_bytes, None);
            self.emit(by, len, high, high, Operand::reg(high_count), None);
        } else {
            self.emit(bitwise(0xdb, 4), len, low, x, low_bytes, None);
            self.emit(by, len, low, low, Operand::reg(low_count), None);
            self.emit(by, len, high, x, Operand::reg(high_count), None);
            self.emit(bitwise(0xdb, 4), len, high, high, high_bytes, None);
        }
        let to = self.define(copy, node);
        self.emit(bitwise(0xeb, 4), len, to, low, Operand::reg(high), None);
    }

    /// Multiplies bytes as the halves of 16-bit lanes.
    fn mul_bytes(&mut self, copy: usize, node: NodeId) {
        let len = self.len(DType::I8);
        let (x, y) = (self.reg(copy, self.arg(node, 0)), self.reg(copy, self.arg(node, 1)));
        let (low, high, other) = (self.temp(), self.temp(), self.temp());
        let mul = op(1, 1, 0xd5, false);
        let low_bytes = self.bits_operand(0x00ff_00ff, 4);
        let high_bytes = self.bits_operand(0xff00_ff00, 4);
        self.emit(mul, len, low, x, Operand::reg(y), None);
        self.emit(bitwise(0xdb, 4), len, low, low, low_bytes, None);
        // The high bytes: (x >> 8) * (y & 0xff00) has their product on top.
        self.emit(op(1, 1, 0x71, false), len, 2, high, Operand::reg(x), Some(8));
        self.emit(bitwise(0xdb, 4), len, other, y, high_bytes, None);
        self.emit(mul, len, high, high, Operand::reg(other), None);
        let to = self.define(copy, node);
        self.emit(bitwise(0xeb, 4), len, to, low, Operand::reg(high), None);
    }

    /// Multiplies 64-bit lanes by their 32-bit halves (AVX2).
    fn mul_quads(&mut self, copy: usize, node: NodeId) {
        let len = self.len(DType::I64);
        let (x, y) = (self.reg(copy, self.arg(node, 0)), self.reg(copy, self.arg(node, 1)));
        let (cross, half, low) = (self.temp(), self.temp(), self.temp());
        let mul = op(1, 1, 0xf4, true);
        let quads = op(1, 1, 0x73, true);
        self.emit(quads, len, 2, half, Operand::reg(x), Some(32));
        self.emit(mul, len, cross, half, Operand::reg(y), None);
        self.emit(quads, len, 2, half, Operand::reg(y), Some(32));
        self.emit(mul, len, half, half, Operand::reg(x), None);
        self.emit(ADD_Q, len, cross, cross, Operand::reg(half), None);
        self.emit(quads, len, 6, cross, Operand::reg(cross), Some(32));
        self.emit(mul, len, low, x, Operand::reg(y), None);
        let to = self.define(copy, node);
        self.emit(ADD_Q, len, to, low, Operand::reg(cross), None);
    }
}

pub(super) const fn integer_sub(size: usize) -> Op {
    let opcode = match size {
        1 => 0xf8,
        2 => 0xf9,
        4 => 0xfa,
        _ => 0xfb,
    };
    op(1, 1, opcode, size == 8)
}

/// Signed `x > y` (AVX2).
pub(super) const fn greater(size: usize) -> Op {
    match size {
        1 => op(1, 1, 0x64, false),
        2 => op(1, 1, 0x65, false),
        4 => op(1, 1, 0x66, false),
        _ => op(1, 2, 0x37, false),
    }
}

/// The least or greatest of two integers.
pub(super) fn integer_extremum(greatest: bool, dtype: DType) -> Op {
    let (map, opcode) = match (dtype.size(), dtype.is_signed(), greatest) {
        (1, true, false) => (2, 0x38),
        (1, true, true) => (2, 0x3c),
        (1, false, false) => (1, 0xda),
        (1, false, true) => (1, 0xde),
        (2, true, false) => (1, 0xea),
        (2, true, true) => (1, 0xee),
        (2, false, false) => (2, 0x3a),
        (2, false, true) => (2, 0x3e),
        (_, true, false) => (2, 0x39),
        (_, true, true) => (2, 0x3d),
        (_, false, false) => (2, 0x3b),
        (_, false, true) => (2, 0x3f),
    };
    op(1, map, opcode, dtype.size() == 8)
}

/// The group and its extension of shifts by a constant: 16, 32 or 64-bit lanes.
pub(super) const fn immediate_shift(left: bool, arithmetic: bool, size: usize) -> (Op, u8) {
    let extension = if left {
        6
    } else if arithmetic {
        4
    } else {
        2
    };
    match size {
        2 => (op(1, 1, 0x71, false), extension),
        4 => (op(1, 1, 0x72, false), extension),
        _ => (op(1, 1, if arithmetic { 0x72 } else { 0x73 }, true), extension),
    }
}

/// Shifts by a count for each lane: 32 or 64-bit lanes.
const fn variable_shift(left: bool, arithmetic: bool, size: usize) -> Op {
    let opcode = if left {
        0x47
    } else if arithmetic {
        0x46
    } else {
        0x45
    };
    op_w(1, 2, opcode, size == 8)
}
