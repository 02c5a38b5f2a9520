//! Values that are the same for all elements of a loop: they are computed before it, and have a home in memory. A loop has
//! those in registers that it has registers for.

use super::super::asm::{Alu, Len, RCX};
use super::super::memory::splat;
use super::super::program::{Class, Node, NodeId, Slot, What};
use super::{Bank, Body, Operand};
use numfuse_core::dtype::DType;

impl Body<'_, '_, '_> {
    /// Emits the nodes that are uniform, and gives those that others need a home. There may be dtypes among them that
    /// are wider than all others, so fewer lanes are computed, and then repeated.
    pub fn emit_uniforms(&mut self) -> Vec<Option<Slot>> {
        let is_computed = |node: &Node| node.class == Class::Uniform && !matches!(node.what, What::Const(_));
        if !self.program.nodes.iter().any(is_computed) {
            return Vec::new();
        }
        let mut homes = vec![None; self.program.nodes.len()];
        self.lanes = self.lanes.min(self.g.a.isa.bytes() / self.program.widest_uniform());
        for node in 0..self.program.nodes.len() as NodeId {
            let i = node as usize;
            if !is_computed(&self.program.nodes[i]) {
                continue;
            }
            self.at = node;
            self.emit_node(0, node);
            if self.program.uses(node).iter().any(|user| self.program.varies(*user)) {
                homes[i] = Some(self.home(node));
            }
            self.finish_node(0, node);
        }
        homes
    }

    /// Writes a uniform value, for all lanes of the program, to a new slot.
    fn home(&mut self, node: NodeId) -> Slot {
        let dtype = self.dtype(node);
        let bank = self.bank(dtype);
        let slot = self.slot(bank);
        let reg = self.reg(0, node);
        match bank {
            Bank::Vector if self.lanes == self.program.lanes => self.g.store_slot(slot, reg, self.len(dtype)),
            Bank::Vector => {
                let all = self.temp();
                // A bool's bytes are all the same.
                let size = dtype.size();
                let len = if dtype == DType::Bool { Len::L256 } else { Len::of(self.program.lanes * size) };
                self.emit(splat(size), len, all, 0, Operand::reg(reg), None);
                self.g.store_slot(slot, all, len);
            }
            Bank::Mask => {
                // All ones or all zeros.
                self.g.int_from_mask(RCX, reg);
                self.g.a.alu_imm(Alu::And, RCX, 1);
                self.g.a.neg(RCX);
                self.g.a.store(slot.mem(), RCX);
            }
        }
        slot
    }

    /// Keeps uniform values in registers that the body does not need otherwise: the most used ones first. Call before
    /// anything is emitted, outside the loop.
    pub fn pin_uniforms(&mut self) {
        let registers = usize::from(self.g.a.isa.registers());
        let at_once = if self.sequential { 1 } else { self.copies };
        // A value that is in memory may have to come to a register. Masks are there already.
        let besides = if self.program.is_plain() && !self.masked { 1 } else { 4 };
        let wanted = at_once * self.program.most_left(self.g.a.isa) + self.carried.len() + besides;
        let Some(room) = registers.checked_sub(wanted) else { return };
        let room = room.min(registers - 8);
        let mut candidates: Vec<(usize, NodeId)> = Vec::new();
        for (i, node) in self.program.nodes.iter().enumerate() {
            if node.class != Class::Uniform || self.bank(node.dtype) == Bank::Mask {
                continue;
            }
            let uses = self.program.uses(i as NodeId).iter().filter(|user| self.program.varies(**user)).count();
            if uses > 0 {
                candidates.push((uses, i as NodeId));
            }
        }
        candidates.sort_by_key(|(uses, node)| (std::cmp::Reverse(*uses), *node));
        for (_, node) in candidates.into_iter().take(room) {
            let reg = self.reg(0, node);
            self.reserved |= 1 << reg;
            self.end_node();
        }
    }
}
