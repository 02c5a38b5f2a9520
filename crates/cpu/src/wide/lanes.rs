//! What vectors cannot do, lane by lane in integer registers or on the x87 stack: division and remainders of integers,
//! the remainder of floats, and (AVX2) shifts and extrema that came with AVX-512.
//!
//! Operands go to buffers, a loop over the lanes computes, and the result is loaded as a vector. The operands are the
//! same as in every other form, so lanes that do not exist may hold anything: nothing here can trap.

use super::asm::{Alu, Cond, Mem, R11, R15, RAX, RCX, RDX, Shift};
use super::body::Body;
use super::program::NodeId;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Prim;

impl Body<'_, '_, '_> {
    /// Emits a primitive as a loop over the lanes.
    pub(super) fn lane_by_lane(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let dtype = self.dtype(node);
        let operand = self.dtype(self.arg(node, 0));
        let known = match prim {
            Prim::Rem => true,
            Prim::Div | Prim::Min | Prim::Max | Prim::Abs | Prim::Shl | Prim::Shr => dtype.is_int(),
            _ => false,
        };
        if !known {
            return self.g.refuse("no code for a primitive");
        }
        let size = operand.size();
        let scale = size.trailing_zeros() as u8;
        let args = self.program.nodes[node as usize].args.len();
        let buffers = self.g.lane_buffers();
        for (n, buffer) in buffers.iter().enumerate().take(args) {
            let reg = self.reg(copy, self.arg(node, n));
            let len = self.len(operand);
            self.g.store_slot(*buffer, reg, len);
        }
        let lane = |n: usize| Mem { index: Some((R11, scale)), ..buffers[n].mem() };
        let index = self.g.index_slot();
        self.g.a.store(index.mem(), RAX);
        self.g.a.mov_imm(R11, 0);
        let again = self.g.a.here();
        if dtype.is_float() {
            self.g.a.x87_load(lane(1), size);
            self.g.a.x87_load(lane(0), size);
            let step = self.g.a.here();
            self.g.a.x87_remainder_step();
            self.g.a.test_imm(RAX, 0x400);
            self.g.a.jump_if(Cond::NotEqual, step);
            self.g.a.x87_store_pop(lane(0), size);
            self.g.a.x87_drop();
        } else {
            self.g.a.load_int(RAX, lane(0), size, dtype.is_signed());
            if args > 1 {
                let signed = dtype.is_signed() && !matches!(prim, Prim::Shl | Prim::Shr);
                self.g.a.load_int(RCX, lane(1), size, signed);
            }
            self.integer_lane(prim, dtype);
            self.g.a.store_int(lane(0), RAX, size);
        }
        self.g.a.alu_imm(Alu::Add, R11, 1);
        self.g.a.alu_imm(Alu::Cmp, R11, self.lanes as i32);
        self.g.a.jump_if(Cond::Below, again);
        self.g.a.load(RAX, index.mem());
        let to = self.define(copy, node);
        let len = self.len(dtype);
        self.g.load_slot(to, buffers[0], len);
    }

    /// RAX becomes `RAX prim RCX`; RDX and R15 are lost.
    fn integer_lane(&mut self, prim: Prim, dtype: DType) {
        let signed = dtype.is_signed();
        let bits = dtype.bits() as i32;
        let a = &mut self.g.a;
        let done = a.label();
        match prim {
            Prim::Div | Prim::Rem => {
                // By 0 gives 0.
                a.mov_imm(RDX, 0);
                a.test(RCX, RCX);
                let divide = a.label();
                a.jump_if(Cond::NotEqual, divide);
                a.mov_imm(RAX, 0);
                a.jump(done);
                a.bind(divide);
                if signed {
                    // By -1 is a negation, which wraps, without remainder.
                    let ordinary = a.label();
                    a.alu_imm(Alu::Cmp, RCX, -1);
                    a.jump_if(Cond::NotEqual, ordinary);
                    if prim == Prim::Div {
                        a.neg(RAX);
                    } else {
                        a.mov_imm(RAX, 0);
                    }
                    a.jump(done);
                    a.bind(ordinary);
                    a.sign_extend_rax();
                }
                a.divide(RCX, signed);
                if prim == Prim::Rem {
                    a.mov(RAX, RDX);
                }
            }
            Prim::Min | Prim::Max => {
                a.alu(Alu::Cmp, RCX, RAX);
                let cond = match (prim == Prim::Max, signed) {
                    (false, true) => Cond::Less,
                    (false, false) => Cond::Below,
                    (true, true) => Cond::Greater,
                    (true, false) => Cond::Above,
                };
                a.mov_if(cond, RAX, RCX);
            }
            Prim::Abs => {
                a.mov(RDX, RAX);
                a.shift(Shift::Arithmetic, RDX, 63);
                a.alu(Alu::Xor, RAX, RDX);
                a.alu(Alu::Sub, RAX, RDX);
            }
            _ => {
                // A count of the width or more is as the width, as far as the bits that stay can tell: shift twice.
                let arithmetic = prim == Prim::Shr && signed;
                let what = match (prim == Prim::Shl, arithmetic) {
                    (true, _) => Shift::Left,
                    (_, true) => Shift::Arithmetic,
                    _ => Shift::Right,
                };
                a.mov_imm(R15, i64::from(bits) - 1);
                a.mov_imm(RDX, i64::from(bits));
                a.alu(Alu::Cmp, RCX, RDX);
                let near = a.label();
                a.jump_if(Cond::Below, near);
                a.shift(what, RAX, 1);
                a.mov(RCX, R15);
                a.bind(near);
                a.shift_cl(what, RAX);
            }
        }
        a.bind(done);
    }
}
