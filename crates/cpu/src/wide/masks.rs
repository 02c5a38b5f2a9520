//! Masks: bools in registers, and which lanes exist in a masked body.
//!
//! With AVX-512 masks have registers of their own, and register 1 has the lanes that exist. With AVX2 a mask is a vector,
//! all ones or all zeros in each lane; a masked body keeps one of the lanes that exist for each size of element that needs
//! one ([`Body::reserve_lane_masks`]).

use super::asm::{Alu, Isa, Len, R11, RCX, Rm, op, op_w};
use super::body::{Body, Operand};
use super::memory::{EXTRACT_128, MOVE, splat};
use super::program::Slot;
use super::{Gen, LANE_MASK};
use numfuse_core::dtype::DType;

impl Gen<'_> {
    // Mask registers: the instructions are encoded in VEX, on all 64 bits.

    pub fn load_mask(&mut self, to: u8, slot: Slot) {
        self.a.vex(op_w(0, 1, 0x90, true), Len::L128, to, 0, Rm::Mem(slot.mem()), 0);
    }

    pub fn store_mask(&mut self, slot: Slot, from: u8) {
        self.a.vex(op_w(0, 1, 0x91, true), Len::L128, from, 0, Rm::Mem(slot.mem()), 0);
    }

    pub fn move_mask(&mut self, to: u8, from: u8) {
        if to != from {
            self.a.vex(op_w(0, 1, 0x90, true), Len::L128, to, 0, Rm::Reg(from), 0);
        }
    }

    /// All bits of a mask.
    pub fn set_mask(&mut self, to: u8, to_ones: bool) {
        let opcode = if to_ones { 0x46 } else { 0x47 };
        self.mask_op(opcode, to, to, to);
    }

    /// `41` and, `42` and-not (of the first), `45` or, `46` exclusive nor, `47` exclusive or.
    pub fn mask_op(&mut self, opcode: u8, to: u8, a: u8, b: u8) {
        self.a.vex(op_w(0, 1, opcode, true), Len::L256, to, a, Rm::Reg(b), 0);
    }

    pub fn mask_not(&mut self, to: u8, from: u8) {
        self.a.vex(op_w(0, 1, 0x44, true), Len::L128, to, 0, Rm::Reg(from), 0);
    }

    /// Sets the zero flag if no bit of two masks is set.
    pub fn test_masks(&mut self, a: u8, b: u8) {
        self.a.vex(op_w(0, 1, 0x98, true), Len::L128, a, 0, Rm::Reg(b), 0);
    }

    /// Sets the carry flag if one mask has every bit that another one has.
    pub fn test_mask_has(&mut self, mask: u8, bits: u8) {
        self.a.vex(op_w(0, 1, 0x99, true), Len::L128, mask, 0, Rm::Reg(bits), 0);
    }

    pub fn mask_shift_right(&mut self, to: u8, from: u8, by: u8) {
        self.a.vex_imm(op_w(1, 3, 0x31, true), to, from, by);
    }

    pub fn mask_from_int(&mut self, to: u8, from: super::asm::Gpr) {
        self.a.vex(op_w(3, 1, 0x92, true), Len::L128, to, 0, Rm::Reg(from.0), 0);
    }

    pub fn int_from_mask(&mut self, to: super::asm::Gpr, from: u8) {
        self.a.vex(op_w(3, 1, 0x93, true), Len::L128, to.0, 0, Rm::Reg(from), 0);
    }

    /// Sets a mask register to as many ones as RCX says, up to 64.
    pub fn mask_below_rcx(&mut self, to: u8) {
        self.a.alu_imm(Alu::Or, R11, -1);
        self.a.low_bits(R11, R11, RCX);
        self.mask_from_int(to, R11);
    }
}

impl Body<'_, '_, '_> {
    /// Takes registers for masks of the lanes that exist (AVX2). Call before anything is emitted.
    pub(super) fn reserve_lane_masks(&mut self) {
        if self.g.a.isa == Isa::Avx512 {
            return;
        }
        for (n, wanted) in self.program.lane_masks().into_iter().enumerate() {
            if wanted {
                self.lane_masks[n] = Some(self.reserve_register());
            }
        }
    }

    /// Makes the masks of the lanes that exist: as many as RCX says.
    pub(super) fn set_lane_masks(&mut self) {
        match self.g.a.isa {
            Isa::Avx512 => self.g.mask_below_rcx(LANE_MASK),
            Isa::Avx2 => {
                for n in 0..self.lane_masks.len() {
                    if let Some(mask) = self.lane_masks[n] {
                        self.vector_below_rcx(mask, 1 << n);
                    }
                }
            }
        }
    }

    /// The mask of the lanes that exist for elements of a size, if there is one (AVX2).
    pub(super) fn lane_mask(&self, size: usize) -> Option<u8> {
        self.lane_masks[size.trailing_zeros() as usize]
    }

    /// Sets as many lanes of `width` bytes as RCX says, up to 64 (AVX2).
    pub(super) fn vector_below_rcx(&mut self, to: u8, width: usize) {
        let len = self.len_of(width);
        let all = 0..Isa::Avx2.bytes() / width;
        let numbers: Vec<u8> = all.flat_map(|lane| lane.to_le_bytes().into_iter().take(width)).collect();
        let at = self.g.a.table(&numbers);
        self.emit(op_w(1, 1, 0x6e, true), Len::L128, to, 0, Operand::reg(RCX.0), None);
        self.emit(splat(width), len, to, 0, Operand::reg(to), None);
        let lanes = Operand { rm: Rm::Pool(at), broadcast: false, bytes: len.bytes() };
        self.emit(super::prim::greater(width), len, to, to, lanes, None);
    }

    /// Sets the flags to equal unless some lane of a bool is true.
    pub(super) fn test_lanes(&mut self, reg: u8) {
        match self.g.a.isa {
            Isa::Avx512 => {
                self.g.int_from_mask(RCX, reg);
                match self.lanes {
                    64 => self.g.a.test(RCX, RCX),
                    lanes => self.g.a.test_imm(RCX, ((1u64 << lanes) - 1) as u32),
                }
            }
            Isa::Avx2 => {
                // All bits of the register, of which a short program uses a part.
                let len = self.len(DType::Bool);
                self.g.a.vex(op(1, 2, 0x17, false), len, reg, 0, Rm::Reg(reg), 0);
            }
        }
    }

    /// The same mask with lanes of another width, in vector registers; may be the same register (AVX2).
    pub(super) fn resize_mask(&mut self, to: u8, from: u8, from_width: usize, to_width: usize) {
        let extend = |from: usize, to: usize| match (from, to) {
            (1, 2) => op(1, 2, 0x20, false),
            (1, 4) => op(1, 2, 0x21, false),
            (1, _) => op(1, 2, 0x22, false),
            (2, 4) => op(1, 2, 0x23, false),
            (2, _) => op(1, 2, 0x24, false),
            _ => op(1, 2, 0x25, false),
        };
        if from_width < to_width {
            let len = self.len_of(to_width);
            self.emit(extend(from_width, to_width), len, to, 0, Operand::reg(from), None);
            return;
        }
        let mut at = from;
        let mut width = from_width;
        while width > to_width {
            let narrow = width / 2;
            let long = self.lanes * width > 16;
            let high = if long {
                let high = self.temp();
                self.emit(EXTRACT_128, Len::L256, at, 0, Operand::reg(high), Some(1));
                high
            } else {
                at
            };
            match width {
                // The even 32-bit lanes of both halves.
                8 => self.emit(op(0, 1, 0xc6, false), Len::L128, to, at, Operand::reg(high), Some(0x88)),
                4 => self.emit(op(1, 1, 0x6b, false), Len::L128, to, at, Operand::reg(high), None),
                _ => self.emit(op(1, 1, 0x63, false), Len::L128, to, at, Operand::reg(high), None),
            }
            at = to;
            width = narrow;
        }
        if at != to {
            let len = self.len_of(to_width);
            self.emit(MOVE, len, to, 0, Operand::reg(at), None);
        }
    }
}
