//! Conversions. Floats to integers saturate and NaN gives 0, which the hardware does in part only.

use super::asm::{Isa, Op, op, op_w};
use super::body::{Body, Operand};
use super::memory::masked_move;
use super::prim::{ADD_Q, XOR_D, bitwise, float, immediate_shift};
use super::program::NodeId;
use numfuse_core::dtype::DType;
use numfuse_core::literal::Literal;

/// Predicates of comparisons of floats.
const ORDERED: u8 = 0x07;
const UNORDERED: u8 = 0x03;
const GREATER_EQUAL: u8 = 0x1d;
const NOT_EQUAL: u8 = 0x04;

// AVX2 has no instructions for integers beyond `i32`. Their halves become floats, and back, by way of a float so large
// that its last bit is worth 1, or 2^32: an integer added to it, or put into its low bits, is its low bits.

/// 2^52: with an unsigned 32-bit integer as its low bits it is that much more.
const LOW_HALF: u64 = 0x4330_0000_0000_0000;
/// 2^84: with an unsigned 32-bit integer as its low bits it is 2^32 times that more.
const HIGH_HALF: u64 = 0x4530_0000_0000_0000;
/// 2^52 + 2^51: with a signed 32-bit integer added, that is its low bits.
const SIGNED_LOW_HALF: u64 = 0x4338_0000_0000_0000;
const TWO_TO_32: f64 = 4_294_967_296.0;
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// The integer of a float, by one of two rounding modes, without a precision exception.
const ROUND: Op = op(1, 3, 0x09, true);
const TOWARDS_ZERO: u8 = 0xb;
const DOWN: u8 = 0x9;
/// The destination less a product.
const MINUS_PRODUCT: Op = op_w(1, 2, 0xbc, true);
/// The even 32-bit lanes of one operand and the odd ones of the other (AVX2), or 16-bit lanes.
const BLEND_D: Op = op(1, 3, 0x02, false);
const BLEND_W: Op = op(1, 3, 0x0e, false);
/// The last operand in odd lanes, and in even ones.
const ODD_LANES: u8 = 0b1010_1010;
const EVEN_LANES: u8 = 0b0101_0101;

impl Body<'_, '_, '_> {
    /// Emits a cast.
    pub(super) fn cast(&mut self, copy: usize, node: NodeId) {
        let value = self.arg(node, 0);
        let (from, to) = (self.dtype(value), self.dtype(node));
        match (from, to) {
            _ if from == to => self.define_as(copy, node, value),
            (DType::Bool, _) => self.bool_to_number(copy, node, value),
            (_, DType::Bool) => self.number_to_bool(copy, node, value),
            (DType::F32, DType::F64) => self.convert(copy, node, op(0, 1, 0x5a, false), 8),
            (DType::F64, DType::F32) => self.convert(copy, node, op(1, 1, 0x5a, true), 8),
            _ if from.is_float() => self.float_to_int(copy, node, value),
            _ if to.is_float() => self.int_to_float(copy, node, value),
            _ if from.size() == to.size() => self.define_as(copy, node, value),
            _ => {
                let x = self.reg(copy, value);
                let result = self.define(copy, node);
                self.resize_int(result, x, from, to.size());
            }
        }
    }

    /// One instruction, whose length is that of lanes of `width` bytes.
    fn convert(&mut self, copy: usize, node: NodeId, op: Op, width: usize) {
        let x = self.reg(copy, self.arg(node, 0));
        let to = self.define(copy, node);
        let len = self.len_of(width);
        self.emit(op, len, to, 0, Operand::reg(x), None);
    }

    fn bool_to_number(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let mask = self.reg(copy, value);
        let one = self.temp();
        self.splat_literal(one, Literal::from_i64(dtype, 1));
        match self.g.a.isa {
            Isa::Avx512 => {
                let to = self.define(copy, node);
                self.emit_masked(masked_move(size), len, to, 0, Operand::reg(one), None, mask, true);
            }
            Isa::Avx2 => {
                let resized = self.temp();
                let width = self.mask_width();
                self.resize_mask(resized, mask, width, size);
                let to = self.define(copy, node);
                self.emit(bitwise(0xdb, 4), len, to, resized, Operand::reg(one), None);
            }
        }
    }

    fn number_to_bool(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let dtype = self.dtype(value);
        let (size, len) = (dtype.size(), self.len(dtype));
        let x = self.reg(copy, value);
        if self.g.a.isa == Isa::Avx512 && !dtype.is_float() {
            let test = op(1, 2, if size >= 4 { 0x27 } else { 0x26 }, size == 8 || size == 2);
            let to = self.define(copy, node);
            return self.emit(test, len, to, x, Operand::reg(x), None);
        }
        let zero = self.temp();
        self.emit(XOR_D, len, zero, zero, Operand::reg(zero), None);
        if dtype.is_float() {
            let to = self.define(copy, node);
            self.emit(float(0xc2, dtype), len, to, x, Operand::reg(zero), Some(NOT_EQUAL));
            return self.widen_mask(to, size);
        }
        let to = self.define(copy, node);
        let equal = match size {
            1 => op(1, 1, 0x74, false),
            2 => op(1, 1, 0x75, false),
            4 => op(1, 1, 0x76, false),
            _ => op(1, 2, 0x29, false),
        };
        self.emit(equal, len, to, x, Operand::reg(zero), None);
        let ones = self.bits_operand(u64::MAX, 8);
        self.emit(XOR_D, len, to, to, ones, None);
        self.widen_mask(to, size);
    }

    /// Integer lanes of another size; `to` may be `from`.
    pub(super) fn resize_int(&mut self, to: u8, from: u8, dtype: DType, size: usize) {
        let old = dtype.size();
        if old < size {
            let base = if dtype.is_signed() { 0x20 } else { 0x30 };
            let step = match (old, size) {
                (1, 2) => 0,
                (1, 4) => 1,
                (1, _) => 2,
                (2, 4) => 3,
                (2, _) => 4,
                _ => 5,
            };
            let len = self.len_of(size);
            return self.emit(op(1, 2, base + step, false), len, to, 0, Operand::reg(from), None);
        }
        if old == size {
            let len = self.len_of(size);
            if to != from {
                self.emit(super::memory::MOVE, len, to, 0, Operand::reg(from), None);
            }
            return;
        }
        let len = self.len_of(old);
        if self.g.a.isa == Isa::Avx512 {
            let opcode = match (old, size) {
                (2, _) => 0x30,
                (4, 1) => 0x31,
                (8, 1) => 0x32,
                (4, _) => 0x33,
                (8, 2) => 0x34,
                _ => 0x35,
            };
            // The destination is the last operand.
            return self.emit(op(2, 2, opcode, false), len, from, 0, Operand::reg(to), None);
        }
        // The instructions that narrow saturate, so only the bits that stay may be there: sign-extended ones.
        let mut at = from;
        if old < 8 {
            let left = 8 * (old - size) as u8;
            let scratch = self.temp();
            let (up, up_extension) = immediate_shift(true, false, old);
            let (down, down_extension) = immediate_shift(false, true, old);
            self.emit(up, len, up_extension, scratch, Operand::reg(at), Some(left));
            self.emit(down, len, down_extension, scratch, Operand::reg(scratch), Some(left));
            at = scratch;
            return self.resize_mask(to, at, old, size);
        }
        self.resize_mask(to, at, 8, 4);
        if size < 4 {
            self.resize_int(to, to, DType::I32, size);
        }
    }

    fn int_to_float(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let (from, to) = (self.dtype(value), self.dtype(node));
        let double = to == DType::F64;
        let mut x = self.reg(copy, value);
        let mut from = from;
        if from.size() < 4 {
            let wide = self.temp();
            self.resize_int(wide, x, from, 4);
            (x, from) = (wide, DType::I32);
        }
        let avx2 = self.g.a.isa == Isa::Avx2;
        let (op, width) = match (from, double) {
            (DType::I32, true) => (op(2, 1, 0xe6, false), 8),
            (DType::I32, false) => (op(0, 1, 0x5b, false), 4),
            (DType::U32, true) if !avx2 => (op(2, 1, 0x7a, false), 8),
            (DType::U32, false) if !avx2 => (op(3, 1, 0x7a, false), 4),
            (DType::I64, true) if !avx2 => (op(2, 1, 0xe6, true), 8),
            (DType::I64, false) if !avx2 => (op(0, 1, 0x5b, true), 8),
            (_, true) if !avx2 => (op(2, 1, 0x7a, true), 8),
            (_, false) if !avx2 => (op(3, 1, 0x7a, true), 8),
            _ => return self.large_int_to_float(copy, node, x, from, to),
        };
        let result = self.define(copy, node);
        let len = self.len_of(width);
        self.emit(op, len, result, 0, Operand::reg(x), None);
    }

    fn float_to_int(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let (from, to) = (self.dtype(value), self.dtype(node));
        if to.size() < 4 {
            return self.float_to_small_int(copy, node, value);
        }
        if self.g.a.isa == Isa::Avx2 {
            return match to {
                DType::I32 => self.float_to_i32(copy, node, value),
                DType::U32 => self.float_to_u32(copy, node, value),
                _ => self.float_to_quad(copy, node, value),
            };
        }
        let double = from == DType::F64;
        let from_len = self.len(from);
        let width = from.size().max(to.size());
        let len = self.len_of(width);
        let (prefix, opcode) = match (to, double) {
            (DType::I64, _) => (1, 0x7a),
            (DType::U64, _) => (1, 0x78),
            (DType::I32, true) => (1, 0xe6),
            (DType::I32, false) => (2, 0x5b),
            _ => (0, 0x78),
        };
        let convert = op(prefix, 1, opcode, double);
        let x = self.reg(copy, value);
        if !to.is_signed() {
            // Below 0 and NaN become 0; too much becomes all ones.
            let least = self.temp();
            let zero = self.temp();
            self.emit(XOR_D, from_len, zero, zero, Operand::reg(zero), None);
            self.emit(float(0x5f, from), from_len, least, x, Operand::reg(zero), None);
            let result = self.define(copy, node);
            return self.emit(convert, len, result, 0, Operand::reg(least), None);
        }
        // Too little and too much become the least integer, and so does NaN.
        let (too_much, is_nan) = (self.mask_temp(), self.mask_temp());
        let limit =
            Literal::from_f64(from, if to == DType::I64 { 9_223_372_036_854_775_808.0 } else { 2_147_483_648.0 });
        let limit = self.bits_operand(limit.bits(), from.size());
        self.emit(float(0xc2, from), from_len, too_much, x, limit, Some(GREATER_EQUAL));
        self.emit(float(0xc2, from), from_len, is_nan, x, Operand::reg(x), Some(UNORDERED));
        let result = self.define(copy, node);
        self.emit(convert, len, result, 0, Operand::reg(x), None);
        let to_len = self.len(to);
        let greatest = self.bits_operand(Literal::max_of(to).bits(), to.size());
        let splat = super::memory::splat(to.size());
        let greatest = Operand { broadcast: false, ..greatest };
        self.emit_masked(splat, to_len, result, 0, greatest, None, too_much, false);
        let zero = bitwise(0xef, to.size());
        self.emit_masked(zero, to_len, result, result, Operand::reg(result), None, is_nan, false);
    }

    /// 8 and 16-bit integers: clamped as floats, by way of 32 bits.
    fn float_to_small_int(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let (from, to) = (self.dtype(value), self.dtype(node));
        let len = self.len(from);
        let x = self.reg(copy, value);
        let clamped = self.clear_nan(x, from);
        let bound = |literal: Literal| literal.cast(from).bits();
        let least = self.bits_operand(bound(Literal::min_of(to)), from.size());
        self.emit(float(0x5f, from), len, clamped, clamped, least, None);
        let most = self.bits_operand(bound(Literal::max_of(to)), from.size());
        self.emit(float(0x5d, from), len, clamped, clamped, most, None);
        let convert = if from == DType::F64 { op(1, 1, 0xe6, true) } else { op(2, 1, 0x5b, false) };
        self.emit(convert, len, clamped, 0, Operand::reg(clamped), None);
        let result = self.define(copy, node);
        self.resize_int(result, clamped, DType::I32, to.size());
    }

    /// In a temporary, the value with NaN replaced by 0.
    fn clear_nan(&mut self, x: u8, dtype: DType) -> u8 {
        let len = self.len(dtype);
        let cleared = self.temp();
        match self.g.a.isa {
            Isa::Avx512 => {
                let ordered = self.mask_temp();
                self.emit(float(0xc2, dtype), len, ordered, x, Operand::reg(x), Some(ORDERED));
                self.emit_masked(masked_move(dtype.size()), len, cleared, 0, Operand::reg(x), None, ordered, true);
            }
            Isa::Avx2 => {
                self.emit(float(0xc2, dtype), len, cleared, x, Operand::reg(x), Some(ORDERED));
                self.emit(bitwise(0xdb, 4), len, cleared, cleared, Operand::reg(x), None);
            }
        }
        cleared
    }

    /// Saturated 32-bit integers (AVX2).
    fn float_to_i32(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let from = self.dtype(value);
        let len = self.len(from);
        let x = self.reg(copy, value);
        let cleared = self.clear_nan(x, from);
        if from == DType::F64 {
            let most = self.bits_operand(2_147_483_647.0f64.to_bits(), 8);
            self.emit(float(0x5d, from), len, cleared, cleared, most, None);
            let result = self.define(copy, node);
            // Too little becomes the least integer by itself.
            return self.emit(op(1, 1, 0xe6, true), len, result, 0, Operand::reg(cleared), None);
        }
        // The least integer, which is what too much becomes, with all bits flipped is the greatest.
        let too_much = self.temp();
        let limit = self.bits_operand(u64::from(2_147_483_648.0f32.to_bits()), 4);
        self.emit(float(0xc2, from), len, too_much, cleared, limit, Some(GREATER_EQUAL));
        self.emit(op(2, 1, 0x5b, false), len, cleared, 0, Operand::reg(cleared), None);
        let result = self.define(copy, node);
        self.emit(XOR_D, len, result, cleared, Operand::reg(too_much), None);
    }

    /// `u32`, `i64` and `u64` to floats, rounded once (AVX2).
    fn large_int_to_float(&mut self, copy: usize, node: NodeId, x: u8, from: DType, to: DType) {
        let wide = self.len_of(8);
        match (from, to) {
            (DType::U32, DType::F64) => {
                let quads = self.temp();
                self.resize_int(quads, x, from, 8);
                let magic = self.bits_operand(LOW_HALF, 8);
                self.emit(bitwise(0xeb, 8), wide, quads, quads, magic, None);
                let result = self.define(copy, node);
                self.emit(float(0x5c, to), wide, result, quads, magic, None);
            }
            (DType::U32, _) => {
                // 2^23 more by the low 16 bits, and 2^39 more by the high ones.
                let len = self.len_of(4);
                let (low, high) = (self.temp(), self.temp());
                let magic = self.bits_operand(0x4b00_0000, 4);
                self.emit(BLEND_W, len, low, x, magic, Some(ODD_LANES));
                let (shift, right) = immediate_shift(false, false, 4);
                self.emit(shift, len, right, high, Operand::reg(x), Some(16));
                let magic = self.bits_operand(0x5300_0000, 4);
                self.emit(bitwise(0xeb, 4), len, high, high, magic, None);
                let both = self.bits_operand(u64::from((549_755_813_888.0f32 + 8_388_608.0).to_bits()), 4);
                self.emit(float(0x5c, to), len, high, high, both, None);
                let result = self.define(copy, node);
                self.emit(float(0x58, to), len, result, high, Operand::reg(low), None);
            }
            (_, DType::F64) => {
                let (low, high) = (self.temp(), self.temp());
                self.quad_halves(low, high, x, from);
                let result = self.define(copy, node);
                self.emit(float(0x58, to), wide, result, high, Operand::reg(low), None);
            }
            _ => {
                let (odd, high) = (self.temp(), self.temp());
                self.round_to_odd(odd, high, x, from);
                self.quad_halves(high, odd, odd, from);
                self.emit(float(0x58, DType::F64), wide, high, odd, Operand::reg(high), None);
                let result = self.define(copy, node);
                self.emit(op(1, 1, 0x5a, true), wide, result, 0, Operand::reg(high), None);
            }
        }
    }

    /// `high + low`, as `f64`, is the 64-bit integer `x`; `high` may be `x`.
    fn quad_halves(&mut self, low: u8, high: u8, x: u8, dtype: DType) {
        let len = self.len_of(8);
        // With the sign bit flipped a signed integer is 2^63 more, and not negative.
        let offset = if dtype.is_signed() { 1 << 31 } else { 0 };
        let magic = self.bits_operand(LOW_HALF, 8);
        self.emit(BLEND_D, len, low, x, magic, Some(ODD_LANES));
        let (shift, right) = immediate_shift(false, false, 8);
        self.emit(shift, len, right, high, Operand::reg(x), Some(32));
        let magic = self.bits_operand(HIGH_HALF | offset, 8);
        self.emit(bitwise(0xef, 8), len, high, high, magic, None);
        // 2^84 + 2^52, and 2^63 if that much was added.
        let magic = self.bits_operand(HIGH_HALF | offset | 1 << 20, 8);
        self.emit(float(0x5c, DType::F64), len, high, high, magic, None);
    }

    /// In `to`, the 64-bit integer `x` unless `f64` cannot hold it; then with bit 11 standing for itself and all below, which
    /// is enough to round it to `f32`. `other` is lost.
    fn round_to_odd(&mut self, to: u8, other: u8, x: u8, dtype: DType) {
        let len = self.len_of(8);
        let below = self.bits_operand(0x7ff, 8);
        // Carries into bit 11 if any bit below is set.
        self.emit(bitwise(0xdb, 8), len, to, x, below, None);
        self.emit(ADD_Q, len, to, to, below, None);
        self.emit(bitwise(0xeb, 8), len, to, to, Operand::reg(x), None);
        let above = self.bits_operand(!0x7ff, 8);
        self.emit(bitwise(0xdb, 8), len, to, to, above, None);
        // In size below 2^53: the other bits are zeros.
        let mut unsigned = x;
        if dtype.is_signed() {
            let offset = self.bits_operand(1 << 53, 8);
            self.emit(ADD_Q, len, other, x, offset, None);
            unsigned = other;
        }
        let (shift, right) = immediate_shift(false, false, 8);
        let bits = if dtype.is_signed() { 54 } else { 53 };
        self.emit(shift, len, right, other, Operand::reg(unsigned), Some(bits));
        let zero = self.temp();
        self.emit(XOR_D, len, zero, zero, Operand::reg(zero), None);
        self.emit(op(1, 2, 0x29, false), len, other, other, Operand::reg(zero), None);
        self.blend(to, len, to, Operand::reg(x), other);
    }

    /// Saturated unsigned 32-bit integers (AVX2).
    fn float_to_u32(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let from = self.dtype(value);
        let len = self.len(from);
        let x = self.reg(copy, value);
        let (clamped, other) = (self.temp(), self.temp());
        // NaN becomes 0 too: it is the last operand that counts then.
        self.emit(XOR_D, len, other, other, Operand::reg(other), None);
        self.emit(float(0x5f, from), len, clamped, x, Operand::reg(other), None);
        if from == DType::F64 {
            let most = self.bits_operand(f64::from(u32::MAX).to_bits(), 8);
            self.emit(float(0x5d, from), len, clamped, clamped, most, None);
            self.emit(ROUND, len, clamped, 0, Operand::reg(clamped), Some(TOWARDS_ZERO));
            let magic = self.bits_operand(LOW_HALF, 8);
            self.emit(float(0x58, from), len, clamped, clamped, magic, None);
            let result = self.define(copy, node);
            return self.resize_mask(result, clamped, 8, 4);
        }
        // The conversion to signed integers gives 2^31 for everything that is too much for it.
        let convert = op(2, 1, 0x5b, false);
        let limit = self.bits_operand(u64::from(2_147_483_648.0f32.to_bits()), 4);
        self.emit(float(0x5c, from), len, other, clamped, limit, None);
        self.emit(convert, len, other, 0, Operand::reg(other), None);
        let too_much = self.temp();
        let limit = self.bits_operand(u64::from((TWO_TO_32 as f32).to_bits()), 4);
        self.emit(float(0xc2, from), len, too_much, clamped, limit, Some(GREATER_EQUAL));
        self.emit(convert, len, clamped, 0, Operand::reg(clamped), None);
        self.emit(bitwise(0xeb, 4), len, too_much, too_much, Operand::reg(clamped), None);
        let (shift, right) = immediate_shift(false, true, 4);
        self.emit(shift, len, right, clamped, Operand::reg(clamped), Some(31));
        self.emit(bitwise(0xdb, 4), len, clamped, clamped, Operand::reg(other), None);
        let result = self.define(copy, node);
        self.emit(bitwise(0xeb, 4), len, result, clamped, Operand::reg(too_much), None);
    }

    /// Saturated 64-bit integers (AVX2).
    fn float_to_quad(&mut self, copy: usize, node: NodeId, value: NodeId) {
        let signed = self.dtype(node).is_signed();
        let double = DType::F64;
        let len = self.len_of(8);
        let mut x = self.reg(copy, value);
        let (clamped, other) = (self.temp(), self.temp());
        if self.dtype(value) == DType::F32 {
            self.emit(op(0, 1, 0x5a, false), len, clamped, 0, Operand::reg(x), None);
            x = clamped;
        }
        let limit = if signed { TWO_TO_63 } else { TWO_TO_64 };
        if signed {
            self.emit(float(0xc2, double), len, other, x, Operand::reg(x), Some(ORDERED));
            self.emit(bitwise(0xdb, 8), len, clamped, other, Operand::reg(x), None);
            let least = self.bits_operand((-limit).to_bits(), 8);
            self.emit(float(0x5f, double), len, clamped, clamped, least, None);
        } else {
            // NaN becomes 0 too: it is the last operand that counts then.
            self.emit(XOR_D, len, other, other, Operand::reg(other), None);
            self.emit(float(0x5f, double), len, clamped, x, Operand::reg(other), None);
        }
        let most = self.bits_operand(limit.to_bits(), 8);
        self.emit(float(0x5d, double), len, clamped, clamped, most, None);
        let too_much = self.temp();
        self.emit(float(0xc2, double), len, too_much, clamped, most, Some(GREATER_EQUAL));
        self.emit(ROUND, len, clamped, 0, Operand::reg(clamped), Some(TOWARDS_ZERO));
        // The halves: `high * 2^32 + low`, `low` not negative, all exact.
        let scale = self.bits_operand((1.0 / TWO_TO_32).to_bits(), 8);
        self.emit(float(0x59, double), len, other, clamped, scale, None);
        self.emit(ROUND, len, other, 0, Operand::reg(other), Some(DOWN));
        let scale = self.bits_operand(TWO_TO_32.to_bits(), 8);
        self.emit(MINUS_PRODUCT, len, clamped, other, scale, None);
        let magic = self.bits_operand(LOW_HALF, 8);
        self.emit(float(0x58, double), len, clamped, clamped, magic, None);
        let magic = self.bits_operand(if signed { SIGNED_LOW_HALF } else { LOW_HALF }, 8);
        self.emit(float(0x58, double), len, other, other, magic, None);
        let (shift, left) = immediate_shift(true, false, 8);
        self.emit(shift, len, left, other, Operand::reg(other), Some(32));
        self.emit(BLEND_D, len, other, other, Operand::reg(clamped), Some(EVEN_LANES));
        // The limit itself has become the least integer, or 0: with all bits flipped it is the greatest.
        let result = self.define(copy, node);
        self.emit(XOR_D, len, result, other, Operand::reg(too_much), None);
    }
}
