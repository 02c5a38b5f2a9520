//! Emitting a program: which value is in which register, and when it has to make room.
//!
//! Code is emitted in one pass. A value lives in a register from its definition to its last use; when no register is
//! free, the one whose next use is furthest away goes to a stack slot. Uniform values have a home in memory (a constant
//! in the pool, a slot otherwise) and are operands from there, or in a register where there are enough of them. Several
//! copies of the body, for consecutive elements, are emitted node by node in turn, so that their instructions overlap.
//!
//! Registers of a node's operands are locked while it is emitted. An operand that is not used again is freed before
//! the result gets its register ([`Body::define`]), so instructions that write the result before they have read every
//! operand ask for a register first ([`Body::define_apart`]).

mod constants;
mod rare;
mod uniforms;

use super::asm::{Isa, Len, Masking, Op, PLAIN, Rm};
use super::memory::{MOVE, masked_move};
use super::program::{Class, Node, NodeId, Place, PlaceId, Program, Slot, What};
use super::{Gen, LANE_MASK, prim};
use numfuse_core::dtype::DType;
use numfuse_core::literal::Literal;
use std::ops::Range;

/// The kind of register that a value needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bank {
    Vector,
    Mask,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, Default)]
struct Var {
    reg: Option<u8>,
    /// A valid copy in memory.
    slot: Option<Slot>,
    /// A load that has not been done: its only user may do it.
    pending: bool,
    /// How many of its uses have been passed, as far as anybody has looked.
    passed: u32,
}

/// An operand that may be in memory, with what the instruction needs to know about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub rm: Rm,
    pub broadcast: bool,
    /// Bytes of the memory operand.
    pub bytes: usize,
}

impl Operand {
    pub fn reg(r: u8) -> Operand {
        Operand { rm: Rm::Reg(r), broadcast: false, bytes: 0 }
    }
}

/// A program being emitted, for a number of copies.
pub(super) struct Body<'g, 'k, 'p> {
    pub g: &'g mut Gen<'k>,
    pub program: &'p Program,
    /// Elements of one copy.
    pub lanes: usize,
    pub copies: usize,
    /// One copy is emitted after the other, which takes fewer registers.
    pub sequential: bool,
    /// The copy that comes first, and computes what all of them share.
    pub first_copy: usize,
    /// Only the lanes of mask register 1 exist.
    pub masked: bool,
    /// In a masked body: most of the time all lanes exist, and the rest slot tells.
    pub mostly_whole: bool,
    /// Where what is stored goes past the caches.
    pub streamed: Option<PlaceId>,
    /// The first mask register that values may have: 0 means no mask.
    first_mask: u8,
    /// In a masked body for AVX2: the masks of the lanes that exist, for elements of 1, 2, 4 and 8 bytes.
    pub lane_masks: [Option<u8>; 4],
    /// The program's places; those of rare work are settled when it is emitted.
    pub places: Vec<Place>,
    vars: Vec<Var>,
    /// The value (copy and node) that each vector register holds.
    regs: [Option<(u16, NodeId)>; 32],
    masks: [Option<(u16, NodeId)>; 8],
    /// The vector registers that hold a value.
    held: u32,
    /// For each vector register the key of its value's next use after the last one: see [`Body::next_use`].
    next: [u32; 32],
    /// The registers whose keys are out of date: they are looked up when one has to make room.
    stale: u32,
    /// For each vector register the node that used its value last.
    touched: [NodeId; 32],
    /// Registers that the allocator must not touch: pinned values, carried values.
    reserved: u32,
    /// Registers locked by the node at hand, temporaries among them.
    locked: u32,
    locked_masks: u8,
    /// For each carried value and copy its register.
    carried: Vec<u8>,
    /// Slots of values that are gone.
    free_slots: Vec<Slot>,
    /// The code of rare work that is run from several places.
    shared: Vec<rare::Shared>,
    /// Slots of operands that the node at hand is the last to use, and may read yet.
    dying_slots: Vec<Slot>,
    /// The node at hand.
    at: NodeId,
    /// The operands that the node at hand is the last to use have been freed.
    freed: bool,
}

impl<'g, 'k, 'p> Body<'g, 'k, 'p> {
    pub fn new(
        g: &'g mut Gen<'k>,
        program: &'p Program,
        homes: &[Option<Slot>],
        copies: usize,
        masked: bool,
    ) -> Body<'g, 'k, 'p> {
        let mut body = Body {
            g,
            program,
            lanes: program.lanes,
            copies,
            sequential: false,
            first_copy: 0,
            masked,
            mostly_whole: false,
            streamed: None,
            first_mask: if masked { 2 } else { 1 },
            lane_masks: [None; 4],
            places: program.places.clone(),
            vars: vec![Var::default(); program.nodes.len() * copies],
            regs: [None; 32],
            masks: [None; 8],
            held: 0,
            next: [0; 32],
            stale: 0,
            touched: [0; 32],
            reserved: 0,
            locked: 0,
            locked_masks: 0,
            carried: Vec::new(),
            free_slots: Vec::new(),
            shared: Vec::new(),
            dying_slots: Vec::new(),
            at: 0,
            freed: false,
        };
        for (var, home) in body.vars.iter_mut().zip(homes) {
            var.slot = *home;
        }
        body
    }

    /// Takes registers for the carried values: for each of them one per copy.
    pub fn reserve_carried(&mut self) {
        for n in 0..self.program.results.len() * self.copies {
            // From the top: the allocator begins at the bottom.
            let reg = self.g.a.isa.registers() - 1 - n as u8;
            self.reserved |= 1 << reg;
            self.carried.push(reg);
        }
    }

    /// Takes the registers of another body's carried values, in that body's order.
    pub fn adopt_carried(&mut self, registers: &[u8]) {
        self.carried = registers.to_vec();
        self.reserved |= registers.iter().fold(0, |mask, r| mask | 1 << r);
    }

    /// Takes a register that nothing else has.
    pub fn reserve_register(&mut self) -> u8 {
        // From the top, as for carried values.
        let reg = (0..self.g.a.isa.registers()).rfind(|r| self.reserved >> r & 1 == 0).unwrap_or(0);
        self.reserved |= 1 << reg;
        reg
    }

    /// The registers of all carried values: for each of them one per copy.
    pub fn carried_registers(&self) -> &[u8] {
        &self.carried
    }

    /// A carried value is in its own register until it is replaced.
    pub fn enter_carried(&mut self, copy: usize, node: NodeId, n: usize) {
        let index = self.index(copy, node);
        self.vars[index].reg = Some(self.carried_reg(n, copy));
    }

    /// The register of a carried value.
    pub fn carried_reg(&self, n: usize, copy: usize) -> u8 {
        self.carried[n * self.copies + copy]
    }

    /// Emits all other nodes: the body of a loop, once.
    pub fn emit_nodes(&mut self) {
        if self.sequential {
            (0..self.copies).for_each(|copy| self.emit_copies(copy..copy + 1));
        } else {
            self.emit_copies(0..self.copies);
        }
        self.emit_results(0..self.copies);
        // The next iteration begins as this one did.
        for var in &mut self.vars {
            var.reg = None;
        }
    }

    /// Gives carried values their next ones; in a masked body those of the lanes that exist.
    fn emit_results(&mut self, copies: Range<usize>) {
        self.at = self.program.nodes.len() as NodeId;
        for n in 0..self.program.results.len() {
            for copy in copies.clone() {
                let (node, to) = (self.program.results[n], self.carried_reg(n, copy));
                let dtype = self.dtype(node);
                let from = self.reg(copy, node);
                let len = self.len(dtype);
                match self.lane_mask(dtype.size()) {
                    _ if from == to || !self.masked => self.move_vector(to, from, dtype),
                    Some(mask) => self.blend(to, len, to, Operand::reg(from), mask),
                    None => {
                        let op = masked_move(dtype.size());
                        self.emit_masked(op, len, to, 0, Operand::reg(from), None, LANE_MASK, false);
                    }
                }
                self.end_node();
            }
        }
    }

    /// Emits one copy of a masked body that carries values.
    pub fn emit_copy(&mut self, copy: usize) {
        self.emit_copies(copy..copy + 1);
        self.emit_results(copy..copy + 1);
    }

    /// Emits the nodes of some copies in turn. Shared nodes belong to the first of all.
    fn emit_copies(&mut self, copies: Range<usize>) {
        let mut parts = self.program.rare.iter().peekable();
        self.vars.iter_mut().for_each(|var| var.passed = 0);
        for node in 0..self.program.nodes.len() as NodeId {
            let class = self.program.class(node);
            let elsewhere = class == Class::Uniform || (class == Class::Shared && copies.start > self.first_copy);
            if elsewhere || self.program.is_dead(node) {
                continue;
            }
            self.at = node;
            while let Some(part) = parts.next_if(|part| part.at == node) {
                for copy in copies.clone() {
                    self.rare_part(copy, part);
                }
            }
            let shared = copies.start..copies.start + 1;
            for copy in if class == Class::Shared { shared } else { copies.clone() } {
                self.emit_node(copy, node);
                self.finish_node(copy, node);
            }
        }
    }

    fn emit_node(&mut self, copy: usize, node: NodeId) {
        prim::emit(self, copy, node);
    }

    /// Frees what the node used last.
    fn finish_node(&mut self, copy: usize, node: NodeId) {
        if !std::mem::take(&mut self.freed) {
            self.free_dying(copy, node);
        }
        self.end_node();
        if self.program.last_use(node).is_none() {
            self.forget(copy, node);
        }
    }

    fn end_node(&mut self) {
        self.locked = 0;
        self.locked_masks = 0;
        if !self.dying_slots.is_empty() {
            self.free_slots.append(&mut self.dying_slots);
        }
    }

    // What is known about values.

    pub fn dtype(&self, node: NodeId) -> DType {
        self.program.nodes[node as usize].dtype
    }

    pub fn arg(&self, node: NodeId, n: usize) -> NodeId {
        self.program.nodes[node as usize].args[n]
    }

    /// The value as a literal, if it is a constant.
    pub fn literal(&self, node: NodeId) -> Option<Literal> {
        match self.program.nodes[node as usize].what {
            What::Const(literal) => Some(literal),
            _ => None,
        }
    }

    pub fn bank(&self, dtype: DType) -> Bank {
        if dtype == DType::Bool && self.g.a.isa == Isa::Avx512 { Bank::Mask } else { Bank::Vector }
    }

    /// Bytes of a lane in a register: of a dtype's size, and of the widest one for vector masks.
    pub fn width(&self, dtype: DType) -> usize {
        if dtype == DType::Bool && self.g.a.isa == Isa::Avx2 { self.mask_width() } else { dtype.size() }
    }

    /// Bytes of a lane of a bool in a vector register (AVX2).
    pub fn mask_width(&self) -> usize {
        (self.g.a.isa.bytes() / self.lanes).min(8)
    }

    /// The vector length that holds all lanes of a dtype.
    pub fn len(&self, dtype: DType) -> Len {
        Len::of(self.lanes * self.width(dtype))
    }

    /// The vector length that holds all lanes of some bytes.
    pub fn len_of(&self, width: usize) -> Len {
        Len::of(self.lanes * width)
    }

    fn index(&self, copy: usize, node: NodeId) -> usize {
        self.copy_of(copy, node) * self.program.nodes.len() + node as usize
    }

    /// Which copy a value belongs to.
    fn copy_of(&self, copy: usize, node: NodeId) -> usize {
        if copy > 0 && self.program.class(node) == Class::Varying { copy } else { 0 }
    }

    // Registers.

    /// A register that the node may use until it ends.
    pub fn temp(&mut self) -> u8 {
        let reg = self.take_register();
        self.locked |= 1 << reg;
        reg
    }

    /// A mask register that the node may use until it ends.
    pub fn mask_temp(&mut self) -> u8 {
        let reg = self.take_mask();
        self.locked_masks |= 1 << reg;
        reg
    }

    /// The register of a value; it is loaded if need be.
    pub fn reg(&mut self, copy: usize, node: NodeId) -> u8 {
        let bank = self.bank(self.dtype(node));
        let index = self.index(copy, node);
        if let Some(reg) = self.vars[index].reg {
            self.lock(bank, reg);
            self.touch(bank, reg);
            return reg;
        }
        self.reload(copy, node, index, bank)
    }

    /// The register of a value that is in none.
    fn reload(&mut self, copy: usize, node: NodeId, index: usize, bank: Bank) -> u8 {
        let holder = (self.copy_of(copy, node) as u16, node);
        match bank {
            Bank::Mask => {
                let reg = self.take_mask();
                self.lock(bank, reg);
                match (self.vars[index].slot, self.literal(node)) {
                    (Some(slot), _) => self.g.load_mask(reg, slot),
                    (None, literal) => self.g.set_mask(reg, literal.is_some_and(|x| x.as_bool())),
                }
                self.masks[reg as usize] = Some(holder);
                self.vars[index].reg = Some(reg);
                reg
            }
            Bank::Vector => {
                let reg = self.take_register();
                self.lock(bank, reg);
                if self.vars[index].pending {
                    self.vars[index].pending = false;
                    self.do_load(copy, node, reg);
                } else if let Some(slot) = self.vars[index].slot {
                    let len = self.len(self.dtype(node));
                    self.g.load_slot(reg, slot, len);
                } else if let Some(literal) = self.literal(node) {
                    self.splat_literal(reg, literal);
                }
                self.hold(reg, Some(holder));
                self.touch(bank, reg);
                self.vars[index].reg = Some(reg);
                reg
            }
        }
    }

    /// A value as the last operand of an instruction whose elements have `element` bytes: in a register, or where it
    /// is in memory. R11 may be part of its address, so it is asked for after all others.
    pub fn operand(&mut self, copy: usize, node: NodeId, element: usize) -> Operand {
        let dtype = self.dtype(node);
        let index = self.index(copy, node);
        let var = self.vars[index];
        if var.reg.is_some() || self.bank(dtype) == Bank::Mask {
            return Operand::reg(self.reg(copy, node));
        }
        let bytes = self.lanes * self.width(dtype);
        if var.pending {
            if bytes >= 16
                && dtype.size() == element
                && let Some(mem) = self.operand_address(copy, node)
            {
                return Operand { rm: Rm::Mem(mem), broadcast: false, bytes };
            }
        } else if let Some(slot) = var.slot {
            return Operand { rm: Rm::Mem(slot.mem()), broadcast: false, bytes: self.len(dtype).bytes() };
        } else if let Some(at) = self.pool(node) {
            match self.g.a.isa {
                Isa::Avx2 => return Operand { rm: Rm::Pool(at), broadcast: false, bytes: 32 },
                Isa::Avx512 if element >= 4 && element == dtype.size() => {
                    return Operand { rm: Rm::Pool(at), broadcast: true, bytes: element };
                }
                Isa::Avx512 => {}
            }
        }
        Operand::reg(self.reg(copy, node))
    }

    /// True if using the value as a register costs nothing.
    pub fn in_register(&self, copy: usize, node: NodeId) -> bool {
        let carried = matches!(self.program.nodes[node as usize].what, What::Carried(_));
        carried || self.vars[self.index(copy, node)].reg.is_some()
    }

    /// The register for the result of the node at hand. Operands that are not used again may be in it: it must be
    /// written by the last instruction only.
    pub fn define(&mut self, copy: usize, node: NodeId) -> u8 {
        if let Some(n) = self.replaces(node) {
            let reg = self.carried_reg(n, copy);
            let index = self.index(copy, node);
            self.vars[index].reg = Some(reg);
            return reg;
        }
        self.free_dying(copy, node);
        self.freed = true;
        self.define_apart(copy, node)
    }

    /// The register for the result of the node at hand, none of its operands' registers.
    pub fn define_apart(&mut self, copy: usize, node: NodeId) -> u8 {
        let bank = self.bank(self.dtype(node));
        let reg = if bank == Bank::Mask { self.take_mask() } else { self.take_register() };
        self.assign(copy, node, reg);
        reg
    }

    /// Gives the register of an operand that is not used again to the result of the node at hand.
    pub fn take_over(&mut self, copy: usize, operand: NodeId, node: NodeId) -> Option<u8> {
        if let (What::Carried(n), Some(m)) = (self.program.nodes[operand as usize].what, self.replaces(node))
            && n as usize == m
        {
            return Some(self.define(copy, node));
        }
        if self.replaces(node).is_some() || !self.dies(operand, node) {
            return None;
        }
        let index = self.index(copy, operand);
        let reg = self.vars[index].reg?;
        self.forget(copy, operand);
        self.assign(copy, node, reg);
        Some(reg)
    }

    /// The result is the bits of an operand: in the same register if that is not used again.
    pub fn define_as(&mut self, copy: usize, node: NodeId, operand: NodeId) {
        let from = self.reg(copy, operand);
        if self.take_over(copy, operand, node).is_none() {
            let to = self.define_apart(copy, node);
            match self.bank(self.dtype(node)) {
                Bank::Vector => self.move_vector(to, from, self.dtype(node)),
                Bank::Mask => self.g.move_mask(to, from),
            }
        }
    }

    /// The carried value whose register the node's result may take: it becomes it, and is not used afterwards.
    fn replaces(&self, node: NodeId) -> Option<usize> {
        if self.carried.is_empty() || self.masked {
            return None;
        }
        let n = self.program.results.iter().position(|r| *r == node)?;
        // Carried values are the first nodes, in order.
        let free = self.program.last_use(n as NodeId).is_none_or(|last| last <= node);
        free.then_some(n)
    }

    /// True if the node at hand is the last to use an operand, which is not uniform.
    pub fn dies(&self, operand: NodeId, node: NodeId) -> bool {
        if self.program.last_use(operand).is_some_and(|last| last > node) {
            return false;
        }
        let Node { class, what, .. } = self.program.nodes[operand as usize];
        // Lanes that do not exist keep what is carried. Shared values are used by all copies.
        !(self.masked && matches!(what, What::Carried(_)))
            && (class == Class::Varying || (class == Class::Shared && self.copies == 1))
    }

    fn assign(&mut self, copy: usize, node: NodeId, reg: u8) {
        let bank = self.bank(self.dtype(node));
        self.lock(bank, reg);
        let holder = (self.copy_of(copy, node) as u16, node);
        match bank {
            Bank::Vector => self.hold(reg, Some(holder)),
            Bank::Mask => self.masks[reg as usize] = Some(holder),
        }
        let index = self.index(copy, node);
        self.touch(bank, reg);
        self.vars[index].reg = Some(reg);
    }

    /// The value of a register is used.
    fn touch(&mut self, bank: Bank, reg: u8) {
        if bank == Bank::Vector {
            self.stale |= 1 << reg;
            self.touched[reg as usize] = self.at;
        }
    }

    fn lock(&mut self, bank: Bank, reg: u8) {
        match bank {
            Bank::Vector => self.locked |= 1 << reg,
            Bank::Mask => self.locked_masks |= 1 << reg,
        }
    }

    /// Frees the registers of operands that the node is the last to use.
    fn free_dying(&mut self, copy: usize, node: NodeId) {
        let program = self.program;
        for operand in &*program.nodes[node as usize].args {
            if self.dies(*operand, node) {
                self.forget(copy, *operand);
            }
        }
    }

    /// A value is gone.
    fn forget(&mut self, copy: usize, node: NodeId) {
        let Node { class, dtype, .. } = self.program.nodes[node as usize];
        if class == Class::Uniform {
            return;
        }
        let index = self.index(copy, node);
        let var = std::mem::take(&mut self.vars[index]);
        if var.reg.is_none() && var.slot.is_none() {
            return;
        }
        let bank = self.bank(dtype);
        if let Some(reg) = var.reg {
            match bank {
                Bank::Vector if self.reserved >> reg & 1 == 0 => self.hold(reg, None),
                Bank::Mask => self.masks[reg as usize] = None,
                Bank::Vector => {}
            }
        }
        if let (Some(slot), Bank::Vector) = (var.slot, bank) {
            self.dying_slots.push(slot);
        }
    }

    fn take_register(&mut self) -> u8 {
        let busy = self.reserved | self.locked;
        let registers = self.g.a.isa.registers();
        let free = (!(busy | self.held)).trailing_zeros() as u8;
        if free < registers {
            return free;
        }
        let mut stale = self.stale & !busy;
        self.stale &= busy;
        while stale != 0 {
            let reg = stale.trailing_zeros() as usize;
            stale &= stale - 1;
            if let Some((copy, node)) = self.regs[reg] {
                self.next[reg] = self.next_use(self.index(usize::from(copy), node), node, self.touched[reg]);
            }
        }
        let victim = (0..registers).filter(|r| busy >> r & 1 == 0).max_by_key(|r| self.next[*r as usize]);
        let Some(reg) = victim else {
            self.g.refuse("a node needs more registers than there are");
            return 0;
        };
        if let Some((copy, node)) = self.regs[reg as usize] {
            self.hold(reg, None);
            self.evict(copy as usize, node, Bank::Vector);
        }
        reg
    }

    /// Nothing but what is reserved is in registers any more, and the operands that the node is the last to use are gone.
    pub fn leave_registers(&mut self, copy: usize, node: NodeId) {
        self.free_dying(copy, node);
        self.freed = true;
        for reg in 0..32u8 {
            if self.reserved >> reg & 1 == 0
                && let Some((copy, node)) = self.regs[usize::from(reg)]
            {
                self.hold(reg, None);
                self.evict(usize::from(copy), node, Bank::Vector);
            }
        }
        for reg in 0..self.masks.len() {
            if let Some((copy, node)) = self.masks[reg].take() {
                self.evict(usize::from(copy), node, Bank::Mask);
            }
        }
        self.end_node();
    }

    /// The vector registers that are not the allocator's.
    pub fn reserved_registers(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        let reserved = self.reserved;
        (0..32u8).filter(move |r| reserved >> r & 1 != 0)
    }

    /// True if the mask register of the lanes that exist is not the allocator's.
    pub fn keeps_lane_mask(&self) -> bool {
        self.first_mask > LANE_MASK
    }

    /// Notes what a vector register holds.
    fn hold(&mut self, reg: u8, value: Option<(u16, NodeId)>) {
        self.regs[reg as usize] = value;
        self.held = self.held & !(1 << reg) | u32::from(value.is_some()) << reg;
    }

    fn take_mask(&mut self) -> u8 {
        let first = self.first_mask;
        let busy = self.locked_masks;
        if let Some(reg) = (first..8u8).find(|r| busy >> r & 1 == 0 && self.masks[*r as usize].is_none()) {
            return reg;
        }
        let victim = (first..8u8).filter(|r| busy >> r & 1 == 0).max_by_key(|r| self.mask_next_use(*r));
        let Some(reg) = victim else {
            self.g.refuse("a node needs more masks than there are");
            return 1;
        };
        if let Some((copy, node)) = self.masks[reg as usize].take() {
            self.evict(copy as usize, node, Bank::Mask);
        }
        reg
    }

    /// The next node after one that uses a value, as a key that is greater for those that are better to evict: a value
    /// that has a copy in memory comes after one that has none.
    fn next_use(&mut self, index: usize, node: NodeId, after: NodeId) -> u32 {
        let uses = self.program.uses(node);
        let var = &mut self.vars[index];
        while uses.get(var.passed as usize).is_some_and(|user| *user <= after) {
            var.passed += 1;
        }
        let next = uses.get(var.passed as usize).copied().unwrap_or(self.program.nodes.len() as NodeId);
        let home = var.slot.is_some() || self.program.class(node) == Class::Uniform;
        2 * next + u32::from(home)
    }

    fn mask_next_use(&mut self, reg: u8) -> u32 {
        self.masks[reg as usize]
            .map_or(u32::MAX, |(copy, node)| self.next_use(self.index(usize::from(copy), node), node, self.at))
    }

    fn evict(&mut self, copy: usize, node: NodeId, bank: Bank) {
        let index = self.index(copy, node);
        let constant = self.literal(node).is_some();
        if self.vars[index].slot.is_none() && !constant {
            let slot = self.slot(bank);
            self.vars[index].slot = Some(slot);
            self.write_slot(index, node, bank, slot);
        }
        self.vars[index].reg = None;
    }

    fn write_slot(&mut self, index: usize, node: NodeId, bank: Bank, slot: Slot) {
        let Some(reg) = self.vars[index].reg else { return };
        let len = self.len(self.dtype(node));
        match bank {
            Bank::Vector => self.g.store_slot(slot, reg, len),
            Bank::Mask => self.g.store_mask(slot, reg),
        }
    }

    fn slot(&mut self, bank: Bank) -> Slot {
        match bank {
            Bank::Vector => self.free_slots.pop().unwrap_or_else(|| self.g.vector_slot()),
            Bank::Mask => self.g.word_slot(),
        }
    }

    // Loads.

    /// Notes a load that its only user may do.
    pub fn defer_load(&mut self, copy: usize, node: NodeId) {
        let index = self.index(copy, node);
        self.vars[index].pending = true;
    }

    /// Does the loads that have not been done: memory is about to change.
    pub fn settle_loads(&mut self) {
        for index in 0..self.vars.len() {
            if self.vars[index].pending {
                let (copy, node) = (index / self.program.nodes.len(), index % self.program.nodes.len());
                let locked = self.locked;
                self.reg(copy, node as NodeId);
                // The next one may take what this one needed, and even make room of its value.
                self.locked = locked;
            }
        }
    }

    /// Emits an instruction without mask.
    pub fn emit(&mut self, op: Op, len: Len, to: u8, first: u8, last: Operand, imm: Option<u8>) {
        let how = Masking { broadcast: last.broadcast, ..PLAIN };
        self.g.a.vector(op, len, to, first, last.rm, imm, how, last.bytes);
    }

    /// Emits an instruction for the lanes of a mask; other lanes become zero, or stay.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the encoding")]
    pub fn emit_masked(
        &mut self,
        op: Op,
        len: Len,
        to: u8,
        first: u8,
        last: Operand,
        imm: Option<u8>,
        mask: u8,
        zero: bool,
    ) {
        let how = Masking { broadcast: last.broadcast, mask, zero };
        self.g.a.vector(op, len, to, first, last.rm, imm, how, last.bytes);
    }

    /// Copies a register.
    pub fn move_vector(&mut self, to: u8, from: u8, dtype: DType) {
        if to != from {
            let len = self.len(dtype);
            self.emit(MOVE, len, to, 0, Operand::reg(from), None);
        }
    }
}
