//! Constants: in the pool behind the code, and in registers.

use super::super::asm::{Isa, Len, PoolAt, Rm};
use super::super::memory::{LOAD, SPLAT_D, SPLAT_Q};
use super::super::program::NodeId;
use super::{Body, Operand, prim};
use numfuse_core::dtype::DType;
use numfuse_core::literal::Literal;

impl Body<'_, '_, '_> {
    /// The constant in the pool that a node is.
    pub(super) fn pool(&mut self, node: NodeId) -> Option<PoolAt> {
        let literal = self.literal(node)?;
        Some(self.pool_literal(literal))
    }

    fn pool_literal(&mut self, literal: Literal) -> PoolAt {
        let dtype = literal.dtype();
        let bits = literal.bits();
        match dtype.size() {
            8 => self.g.a.constant(bits, 8),
            4 => self.g.a.constant(bits & 0xffff_ffff, 4),
            2 => self.g.a.constant((bits & 0xffff) * 0x1_0001, 4),
            _ if dtype == DType::Bool => {
                let all = if literal.as_bool() { u64::MAX } else { 0 };
                self.g.a.constant(all, 8)
            }
            _ => self.g.a.constant((bits & 0xff) * 0x0101_0101, 4),
        }
    }

    /// Writes a constant to all lanes of a register.
    pub fn splat_literal(&mut self, reg: u8, literal: Literal) {
        let len = if literal.dtype() == DType::Bool { Len::L256 } else { self.len(literal.dtype()) };
        if literal.bits() == 0 {
            self.emit(prim::XOR_D, len, reg, reg, Operand::reg(reg), None);
            return;
        }
        let at = self.pool_literal(literal);
        match self.g.a.isa {
            Isa::Avx2 => {
                self.emit(LOAD, len, reg, 0, Operand { rm: Rm::Pool(at), broadcast: false, bytes: 32 }, None);
            }
            Isa::Avx512 => {
                let eight = literal.dtype().size() == 8;
                let op = if eight { SPLAT_Q } else { SPLAT_D };
                let bytes = if eight { 8 } else { 4 };
                self.emit(op, len, reg, 0, Operand { rm: Rm::Pool(at), broadcast: false, bytes }, None);
            }
        }
    }

    /// Writes bits to all lanes of 4 or 8 bytes of a temporary, or has them as an operand.
    pub fn bits_operand(&mut self, bits: u64, element: usize) -> Operand {
        let at = self.g.a.constant(bits, element);
        match self.g.a.isa {
            Isa::Avx2 => Operand { rm: Rm::Pool(at), broadcast: false, bytes: 32 },
            Isa::Avx512 => Operand { rm: Rm::Pool(at), broadcast: true, bytes: element },
        }
    }
}
