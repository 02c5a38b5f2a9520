//! Emitting rare work: out of the way of everything else, behind a jump.
//!
//! All values wait in memory while it runs, and its program begins with every register free, reading its inputs from
//! there. It may take several turns, if its dtypes are wider than those around it.

use super::super::asm::{Alu, Cond, Label, Len, RAX, RCX};
use super::super::program::{Base, NodeId, RarePart, Slot};
use super::{Bank, Body};
use numfuse_core::dtype::DType;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// As many parts or copies share code, since their numbers are compared as signed bytes.
const MOST_SHARED: usize = 127;

/// The code of a rare program that several parts or copies run: each puts its number and its inputs where the code looks
/// for them, and the code goes on behind the part of that number.
pub(super) struct Shared {
    program: usize,
    /// How many run it.
    users: usize,
    begin: Label,
    number: Slot,
    inputs: Vec<Slot>,
    outputs: SmallVec<[Slot; 2]>,
    /// Where it goes on, for those that have not been emitted.
    ends: VecDeque<(u8, Label)>,
}

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
        let mut inputs: Vec<Slot> = Vec::with_capacity(part.inputs.len());
        for input in &part.inputs {
            let index = self.index(copy, *input);
            let kept = saved.iter().find(|s| s.index == index).map(|s| s.slot).or(self.vars[index].slot);
            let Some(slot) = kept else {
                self.g.refuse("an input of rare work is nowhere");
                return;
            };
            inputs.push(slot);
        }
        let outputs = self.rare_program(part, &inputs);
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
        self.g.a.bind(skip);
        self.end_node();
        for input in part.inputs.iter().chain(&part.otherwise).chain([&part.condition]) {
            if self.dies(*input, part.at) {
                self.forget(copy, *input);
            }
        }
    }

    /// Emits the program of a part, or a jump to where it is; returns where its results are until more is emitted.
    fn rare_program(&mut self, part: &RarePart, inputs: &[Slot]) -> SmallVec<[Slot; 2]> {
        let program = &self.program.rare_programs[part.program];
        let input_places = &program.places[..inputs.len()];
        let known = self.shared.iter().position(|s| s.program == part.program && !s.ends.is_empty());
        let users = self.copies * self.program.rare.iter().filter(|p| p.program == part.program).count();
        let is_bool = |n: usize| input_places[n].dtype == DType::Bool;
        if known.is_none() && users == 1 {
            let mut inputs: SmallVec<[Slot; 16]> = SmallVec::from_slice(inputs);
            for n in (0..inputs.len()).filter(|n| is_bool(*n)) {
                let to = self.g.vector_slot();
                self.bools_to_memory(inputs[n], to);
                inputs[n] = to;
            }
            let outputs: SmallVec<[Slot; 2]> = part.otherwise.iter().map(|_| self.g.vector_slot()).collect();
            self.rare_code(part.program, &inputs, &outputs);
            self.free_slots.extend_from_slice(&outputs);
            return outputs;
        }
        let known = known.unwrap_or_else(|| {
            let served: usize = self.shared.iter().filter(|s| s.program == part.program).map(|s| s.users).sum();
            let users = users.saturating_sub(served).clamp(1, MOST_SHARED);
            let ends = (0..users as u8).map(|number| (number, self.g.a.label())).collect();
            let begin = self.g.a.label();
            let number = self.g.word_slot();
            let inputs = inputs.iter().map(|_| self.g.vector_slot()).collect();
            let outputs = part.otherwise.iter().map(|_| self.g.vector_slot()).collect();
            self.shared.push(Shared { program: part.program, users, begin, number, inputs, outputs, ends });
            self.shared.len() - 1
        });
        let is_new = self.shared[known].ends.len() == self.shared[known].users;
        for (n, from) in inputs.iter().enumerate() {
            let to = self.shared[known].inputs[n];
            if is_bool(n) {
                self.bools_to_memory(*from, to);
            } else {
                let (reg, len) = (self.temp(), self.len(input_places[n].dtype));
                self.g.load_slot(reg, *from, len);
                self.g.store_slot(to, reg, len);
            }
            self.end_node();
        }
        let Shared { begin, number, ref inputs, ref outputs, ref mut ends, .. } = self.shared[known];
        let (inputs, outputs) = (inputs.clone(), outputs.clone());
        let Some((this, end)) = ends.pop_front() else { return outputs };
        let others: Vec<(u8, Label)> = ends.iter().copied().collect();
        self.g.a.mov_imm(RCX, i64::from(this));
        self.g.a.store(number.mem(), RCX);
        if is_new {
            self.g.a.bind(begin);
            self.rare_code(part.program, &inputs, &outputs);
            for (other, end) in others {
                self.g.a.compare_mem(number.mem(), other as i8);
                self.g.a.jump_if(Cond::Equal, end);
            }
        } else {
            self.g.a.jump(begin);
        }
        self.g.a.bind(end);
        outputs
    }

    /// Emits a rare program, which reads and writes these slots. Registers that are not reserved are lost.
    fn rare_code(&mut self, program: usize, inputs: &[Slot], outputs: &[Slot]) {
        let program = &self.program.rare_programs[program];
        let index_slot = self.g.word_slot();
        let lanes = self.lanes;
        self.g.a.store(index_slot.mem(), RAX);
        self.g.a.mov_imm(RAX, 0);
        let again = self.g.a.here();
        let mut rare = Body::new(self.g, program, &[], 1, false);
        for (place, slot) in rare.places.iter_mut().zip(inputs.iter().chain(outputs)) {
            place.base = Base::Stack(*slot);
        }
        rare.reserved = self.reserved;
        rare.first_mask = self.first_mask;
        rare.emit_nodes();
        self.g.a.alu_imm(Alu::Add, RAX, program.lanes as i32);
        self.g.a.alu_imm(Alu::Cmp, RAX, lanes as i32);
        self.g.a.jump_if(Cond::Below, again);
        self.g.a.load(RAX, index_slot.mem());
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
