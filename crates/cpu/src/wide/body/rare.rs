//! Emitting rare work: out of the way of everything else, behind a jump.
//!
//! All values wait in memory while it runs, and its program begins with every register free, reading its inputs from
//! there. It may take several turns, if its dtypes are wider than those around it.

use super::super::asm::{Alu, Cond, Len, RAX};
use super::super::program::{Base, NodeId, RarePart, Slot};
use super::{Bank, Body};
use numfuse_core::dtype::DType;
use smallvec::SmallVec;

impl Body<'_, '_, '_> {
    /// Emits rare work and its selections, behind a jump that is taken unless some lane needs it. Everything that is
    /// in registers waits in memory meanwhile.
    pub(super) fn rare_part(&mut self, copy: usize, part: &RarePart) {
        for (i, otherwise) in part.otherwise.iter().enumerate() {
            let select = part.at + i as NodeId;
            let from = self.reg(copy, *otherwise);
            let to = self.define_apart(copy, select);
            self.move_vector(to, from, self.dtype(select));
            self.end_node();
        }
        for input in &part.inputs {
            let index = self.index(copy, *input);
            if self.vars[index].pending {
                self.reg(copy, *input);
                self.end_node();
            }
        }
        let condition = self.reg(copy, part.condition);
        let skip = self.g.a.label();
        self.test_lanes(condition);
        self.g.a.jump_if(Cond::Equal, skip);
        let saved = self.save_registers();
        // Now every register that is not reserved is free, until they are loaded again.
        let held = (std::mem::take(&mut self.regs), std::mem::take(&mut self.masks), std::mem::take(&mut self.held));
        let mut places = part.program.places.clone();
        for (place, input) in places.iter_mut().zip(&part.inputs) {
            let index = self.index(copy, *input);
            let kept = saved.iter().find(|s| s.index == index).map(|s| s.slot).or(self.vars[index].slot);
            let Some(slot) = kept else {
                self.g.refuse("an input of rare work is nowhere");
                return;
            };
            place.base = Base::Stack(if place.dtype == DType::Bool { self.bools_to_memory(slot) } else { slot });
        }
        let outputs: SmallVec<[Slot; 2]> = part.otherwise.iter().map(|_| self.g.vector_slot()).collect();
        for (place, slot) in places[part.inputs.len()..].iter_mut().zip(&outputs) {
            place.base = Base::Stack(*slot);
        }
        let index_slot = self.g.word_slot();
        let lanes = self.lanes;
        self.g.a.store(index_slot.mem(), RAX);
        self.g.a.mov_imm(RAX, 0);
        let again = self.g.a.here();
        let mut rare = Body::new(self.g, &part.program, &[], 1, false);
        rare.places = places;
        rare.reserved = self.reserved;
        rare.first_mask = self.first_mask;
        rare.emit_nodes();
        self.g.a.alu_imm(Alu::Add, RAX, part.program.lanes as i32);
        self.g.a.alu_imm(Alu::Cmp, RAX, lanes as i32);
        self.g.a.jump_if(Cond::Below, again);
        self.g.a.load(RAX, index_slot.mem());
        (self.regs, self.masks, self.held) = held;
        for s in &saved {
            match s.bank {
                Bank::Vector => self.g.load_slot(s.reg, s.slot, s.len),
                Bank::Mask => self.g.load_mask(s.reg, s.slot),
            }
        }
        for (i, slot) in outputs.iter().enumerate() {
            let select = part.at + i as NodeId;
            let to = self.reg(copy, select);
            let len = self.len(self.dtype(select));
            self.g.load_slot(to, *slot, len);
        }
        for s in saved.iter().filter(|s| s.fresh && s.bank == Bank::Vector) {
            self.free_slots.push(s.slot);
        }
        self.free_slots.extend(outputs);
        self.g.a.bind(skip);
        self.end_node();
        for input in part.inputs.iter().chain(&part.otherwise).chain([&part.condition]) {
            if self.dies(*input, part.at) {
                self.forget(copy, *input);
            }
        }
    }

    /// Writes everything that is in registers to memory.
    fn save_registers(&mut self) -> Vec<Saved> {
        let vectors =
            (0..32u8).filter(|r| self.reserved >> r & 1 == 0).filter_map(|r| Some((r, self.regs[usize::from(r)]?)));
        let vectors: SmallVec<[_; 32]> = vectors.map(|(r, holder)| (Bank::Vector, r, holder)).collect();
        let masks = (0..8u8).filter_map(|r| Some((Bank::Mask, r, self.masks[usize::from(r)]?)));
        let all: SmallVec<[_; 32]> = vectors.into_iter().chain(masks).collect();
        let mut saved = Vec::with_capacity(all.len());
        for (bank, reg, (copy, node)) in all {
            let index = self.index(usize::from(copy), node);
            let (slot, fresh) = match self.vars[index].slot {
                Some(slot) => (slot, false),
                None => (self.slot(bank), true),
            };
            if fresh {
                self.write_slot(index, node, bank, slot);
            }
            saved.push(Saved { bank, reg, slot, len: self.len(self.dtype(node)), index, fresh });
        }
        saved
    }
}

/// A register whose value waits in memory.
struct Saved {
    bank: Bank,
    reg: u8,
    slot: Slot,
    len: Len,
    /// The value.
    index: usize,
    /// The slot is not the value's, which stays in its register.
    fresh: bool,
}
