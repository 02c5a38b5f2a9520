//! An assembler for the x86-64 instructions that the wide tier uses: legacy integer code, and vector code in VEX
//! (AVX2, masks) or EVEX (AVX-512) encoding.
//!
//! A vector instruction is an [`Op`], its encoding fields as the processor manual gives them, emitted by
//! [`Asm::vector`] for any register length; the same opcode serves both encodings. Constants live in a pool behind the
//! code and are addressed relative to it, so the code can be copied anywhere.

use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// The instruction sets that the tier knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Isa {
    /// AVX2, FMA and BMI: 16 registers of 32 bytes.
    Avx2,
    /// AVX-512 F, DQ, BW and VL: 32 registers of 64 bytes, and masks.
    Avx512,
}

impl Isa {
    /// Bytes of a vector register.
    pub const fn bytes(self) -> usize {
        match self {
            Isa::Avx2 => 32,
            Isa::Avx512 => 64,
        }
    }

    /// How many vector registers there are.
    pub const fn registers(self) -> u8 {
        match self {
            Isa::Avx2 => 16,
            Isa::Avx512 => 32,
        }
    }
}

/// An integer register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gpr(pub u8);

pub(super) const RAX: Gpr = Gpr(0);
pub(super) const RCX: Gpr = Gpr(1);
pub(super) const RDX: Gpr = Gpr(2);
pub(super) const RBX: Gpr = Gpr(3);
pub(super) const RSP: Gpr = Gpr(4);
pub(super) const RBP: Gpr = Gpr(5);
pub(super) const RSI: Gpr = Gpr(6);
pub(super) const RDI: Gpr = Gpr(7);
pub(super) const R8: Gpr = Gpr(8);
pub(super) const R9: Gpr = Gpr(9);
pub(super) const R10: Gpr = Gpr(10);
pub(super) const R11: Gpr = Gpr(11);
pub(super) const R12: Gpr = Gpr(12);
pub(super) const R13: Gpr = Gpr(13);
pub(super) const R14: Gpr = Gpr(14);
pub(super) const R15: Gpr = Gpr(15);

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mem {
    pub base: Gpr,
    /// An index register, never RSP, and the power of two that it is multiplied by.
    pub index: Option<(Gpr, u8)>,
    pub disp: i32,
}

impl Mem {
    /// At a distance from a register.
    pub fn at(base: Gpr, disp: i32) -> Mem {
        Mem { base, index: None, disp }
    }
}

/// A constant in the pool: its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PoolAt(pub u32);

/// The last operand of an instruction: a register (vector, mask or integer), memory, or a constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rm {
    Reg(u8),
    Mem(Mem),
    Pool(PoolAt),
}

/// The encoding of a vector instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Op {
    /// The implied prefix: 0 none, 1 `66`, 2 `F3`, 3 `F2`.
    pub prefix: u8,
    /// The opcode map: 1 `0F`, 2 `0F38`, 3 `0F3A`.
    pub map: u8,
    pub opcode: u8,
    /// The W bit in EVEX.
    pub evex_w: bool,
    /// The W bit in VEX.
    pub vex_w: bool,
}

/// A vector instruction with one W bit for EVEX and none for VEX.
pub(super) const fn op(prefix: u8, map: u8, opcode: u8, evex_w: bool) -> Op {
    Op { prefix, map, opcode, evex_w, vex_w: false }
}

/// A vector instruction with the same W bit in both encodings.
pub(super) const fn op_w(prefix: u8, map: u8, opcode: u8, w: bool) -> Op {
    Op { prefix, map, opcode, evex_w: w, vex_w: w }
}

/// What EVEX adds to an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Masking {
    /// The mask register; 0 for none.
    pub mask: u8,
    /// Lanes without mask become zero; otherwise they keep what the destination had.
    pub zero: bool,
    /// The memory operand is one element for all lanes.
    pub broadcast: bool,
}

/// No mask and no broadcast.
pub(super) const PLAIN: Masking = Masking { mask: 0, zero: false, broadcast: false };

/// How long the vectors of an instruction are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Len {
    L128,
    L256,
    L512,
}

impl Len {
    /// The shortest that holds so many bytes.
    pub fn of(bytes: usize) -> Len {
        match bytes {
            0..=16 => Len::L128,
            17..=32 => Len::L256,
            _ => Len::L512,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Len::L128 => 16,
            Len::L256 => 32,
            Len::L512 => 64,
        }
    }
}

/// A place in the code that jumps may name before it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(u32);

/// A condition of a jump, as the low bits of its opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cond {
    Below = 0x2,
    AboveEqual = 0x3,
    Equal = 0x4,
    NotEqual = 0x5,
    BelowEqual = 0x6,
    Above = 0x7,
    Less = 0xc,
    LessEqual = 0xe,
    Greater = 0xf,
}

/// Integer instructions with two operands; the opcode of the form `r, r/m`, and the extension of the immediate form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts by a constant or by CL; the opcode extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shift {
    Left = 4,
    Right = 5,
    Arithmetic = 7,
}

/// Code being written.
pub(super) struct Asm {
    pub isa: Isa,
    code: Vec<u8>,
    pool: Vec<u8>,
    /// The constants in the pool, by their bits and bytes.
    constants: FxHashMap<(u64, u8), PoolAt>,
    /// Displacements to patch: where, the pool offset, and how many bytes the instruction goes on after it.
    pool_uses: Vec<(usize, u32, usize)>,
    labels: Vec<Option<usize>>,
    label_uses: Vec<(usize, Label)>,
    /// Where each instruction begins and what it is to be.
    #[cfg(test)]
    pub asked: Vec<(usize, Asked)>,
}

/// What an instruction was meant to be, for tests to hold its bytes against.
#[cfg(test)]
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Asked {
    Vector {
        evex: bool,
        op: Op,
        len: Len,
        reg: u8,
        vvvv: u8,
        rm: Rm,
        imm: Option<u8>,
        how: Masking,
        memory: usize,
    },
    Legacy {
        opcode: Vec<u8>,
        wide: bool,
        reg: u8,
        rm: Rm,
    },
    Jump(Label),
    /// Its operands, if any, are part of the opcode.
    Fixed,
}

impl Asm {
    #[cfg(test)]
    pub fn new(isa: Isa) -> Asm {
        Asm::with_room(isa, 0)
    }

    /// No code yet, and room for about so many bytes.
    pub fn with_room(isa: Isa, room: usize) -> Asm {
        Asm {
            isa,
            code: Vec::with_capacity(room),
            pool: Vec::new(),
            constants: FxHashMap::default(),
            pool_uses: Vec::new(),
            labels: Vec::new(),
            label_uses: Vec::new(),
            #[cfg(test)]
            asked: Vec::new(),
        }
    }

    /// Notes what the next instruction is to be. An instruction emitted by way of another method counts once.
    #[cfg(test)]
    fn note(&mut self, asked: Asked) {
        if self.asked.last().is_none_or(|(at, _)| *at != self.code.len()) {
            self.asked.push((self.code.len(), asked));
        }
    }

    /// Where a label is.
    #[cfg(test)]
    pub fn place_of(&self, label: Label) -> Option<usize> {
        self.labels[label.0 as usize]
    }

    /// Bytes of the instructions so far; the constants follow them at the next multiple of 64.
    pub fn code_len(&self) -> usize {
        self.code.len()
    }

    /// The code with its pool.
    pub fn finish(mut self) -> Vec<u8> {
        for (at, label) in std::mem::take(&mut self.label_uses) {
            let target = self.labels[label.0 as usize].unwrap_or(at);
            self.patch(at, target as i64 - (at as i64 + 4));
        }
        if !self.pool.is_empty() {
            self.align(64, 0xcc);
            let base = self.code.len();
            for (at, offset, rest) in std::mem::take(&mut self.pool_uses) {
                self.patch(at, (base + offset as usize) as i64 - (at + 4 + rest) as i64);
            }
            self.code.extend_from_slice(&self.pool);
        }
        self.code
    }

    fn patch(&mut self, at: usize, distance: i64) {
        self.code[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
    }

    fn align(&mut self, to: usize, fill: u8) {
        self.code.resize(self.code.len().next_multiple_of(to), fill);
    }

    /// Fills up with instructions that do nothing, so that a loop begins at a line of the instruction cache.
    pub fn align_loop(&mut self) {
        const NOPS: [&[u8]; 9] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
            &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        ];
        let mut missing = self.code.len().next_multiple_of(32) - self.code.len();
        while missing > 0 {
            #[cfg(test)]
            self.note(Asked::Fixed);
            let nop = NOPS[missing.min(NOPS.len()) - 1];
            self.code.extend_from_slice(nop);
            missing -= nop.len();
        }
    }

    /// A constant of 4 or 8 bytes, or (AVX2) a vector that repeats it.
    pub fn constant(&mut self, bits: u64, bytes: usize) -> PoolAt {
        let slot = match self.constants.entry((bits, bytes as u8)) {
            Entry::Occupied(known) => return *known.get(),
            Entry::Vacant(slot) => slot,
        };
        let times = match self.isa {
            Isa::Avx2 => 32 / bytes,
            Isa::Avx512 => 1,
        };
        let begin = self.pool.len().next_multiple_of(bytes * times);
        self.pool.resize(begin, 0);
        for _ in 0..times {
            self.pool.extend_from_slice(&bits.to_le_bytes()[..bytes]);
        }
        *slot.insert(PoolAt(begin as u32))
    }

    /// A constant of up to 32 bytes, at a multiple of 32.
    pub fn table(&mut self, bytes: &[u8]) -> PoolAt {
        let begin = self.pool.len().next_multiple_of(32);
        self.pool.resize(begin, 0);
        self.pool.extend_from_slice(bytes);
        self.pool.resize(begin + 32, 0);
        PoolAt(begin as u32)
    }

    // Labels and jumps.

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    pub fn bind(&mut self, label: Label) {
        self.labels[label.0 as usize] = Some(self.code.len());
    }

    /// A label here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    pub fn jump(&mut self, to: Label) {
        #[cfg(test)]
        self.note(Asked::Jump(to));
        self.code.push(0xe9);
        self.jump_target(to);
    }

    pub fn jump_if(&mut self, cond: Cond, to: Label) {
        #[cfg(test)]
        self.note(Asked::Jump(to));
        self.code.extend_from_slice(&[0x0f, 0x80 | cond as u8]);
        self.jump_target(to);
    }

    fn jump_target(&mut self, to: Label) {
        self.label_uses.push((self.code.len(), to));
        self.code.extend_from_slice(&[0; 4]);
    }

    // Integer instructions. All work on 64 bits unless they say otherwise.

    /// A legacy instruction with a ModRM byte; `opcode` with its escape bytes.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the encoding")]
    fn legacy(&mut self, prefix: Option<u8>, opcode: &[u8], wide: bool, byte_reg: bool, reg: u8, rm: Rm, rest: usize) {
        #[cfg(test)]
        self.note(Asked::Legacy { opcode: opcode.to_vec(), wide, reg, rm });
        self.code.extend(prefix);
        let (x, b) = high_bits(rm);
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3 & 1) << 2 | (x & 1) << 1 | (b & 1);
        // Byte registers 4 to 7 are only meant with a prefix.
        if rex != 0x40 || (byte_reg && reg >= 4) {
            self.code.push(rex);
        }
        self.code.extend_from_slice(opcode);
        self.modrm(reg, rm, rest, 0);
    }

    pub fn mov(&mut self, to: Gpr, from: Gpr) {
        if to != from {
            self.legacy(None, &[0x8b], true, false, to.0, Rm::Reg(from.0), 0);
        }
    }

    pub fn mov_imm(&mut self, to: Gpr, imm: i64) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        if imm == 0 {
            self.legacy(None, &[0x33], false, false, to.0, Rm::Reg(to.0), 0);
        } else if let Ok(imm) = u32::try_from(imm) {
            if to.0 >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | to.0 & 7);
            self.code.extend_from_slice(&imm.to_le_bytes());
        } else {
            self.code.extend_from_slice(&[0x48 | to.0 >> 3, 0xb8 | to.0 & 7]);
            self.code.extend_from_slice(&imm.to_le_bytes());
        }
    }

    pub fn load(&mut self, to: Gpr, from: Mem) {
        self.legacy(None, &[0x8b], true, false, to.0, Rm::Mem(from), 0);
    }

    pub fn store(&mut self, to: Mem, from: Gpr) {
        self.legacy(None, &[0x89], true, false, from.0, Rm::Mem(to), 0);
    }

    /// Loads an integer of some bytes, extended to 64 bits.
    pub fn load_int(&mut self, to: Gpr, from: Mem, bytes: usize, signed: bool) {
        let rm = Rm::Mem(from);
        match (bytes, signed) {
            (1, false) => self.legacy(None, &[0x0f, 0xb6], false, false, to.0, rm, 0),
            (2, false) => self.legacy(None, &[0x0f, 0xb7], false, false, to.0, rm, 0),
            (4, false) => self.legacy(None, &[0x8b], false, false, to.0, rm, 0),
            (1, true) => self.legacy(None, &[0x0f, 0xbe], true, false, to.0, rm, 0),
            (2, true) => self.legacy(None, &[0x0f, 0xbf], true, false, to.0, rm, 0),
            (4, true) => self.legacy(None, &[0x63], true, false, to.0, rm, 0),
            _ => self.load(to, from),
        }
    }

    /// Stores the low bytes of a register.
    pub fn store_int(&mut self, to: Mem, from: Gpr, bytes: usize) {
        match bytes {
            1 => self.legacy(None, &[0x88], false, true, from.0, Rm::Mem(to), 0),
            2 => self.legacy(Some(0x66), &[0x89], false, false, from.0, Rm::Mem(to), 0),
            4 => self.legacy(None, &[0x89], false, false, from.0, Rm::Mem(to), 0),
            _ => self.store(to, from),
        }
    }

    pub fn lea(&mut self, to: Gpr, address: Mem) {
        self.legacy(None, &[0x8d], true, false, to.0, Rm::Mem(address), 0);
    }

    pub fn alu(&mut self, what: Alu, to: Gpr, from: Gpr) {
        self.legacy(None, &[0x03 | (what as u8) << 3], true, false, to.0, Rm::Reg(from.0), 0);
    }

    pub fn alu_mem(&mut self, what: Alu, to: Gpr, from: Mem) {
        self.legacy(None, &[0x03 | (what as u8) << 3], true, false, to.0, Rm::Mem(from), 0);
    }

    pub fn alu_imm(&mut self, what: Alu, to: Gpr, imm: i32) {
        if let Ok(short) = i8::try_from(imm) {
            self.legacy(None, &[0x83], true, false, what as u8, Rm::Reg(to.0), 1);
            self.code.push(short as u8);
        } else {
            self.legacy(None, &[0x81], true, false, what as u8, Rm::Reg(to.0), 4);
            self.code.extend_from_slice(&imm.to_le_bytes());
        }
    }

    /// Compares an integer in memory with a small number.
    pub fn compare_mem(&mut self, with: Mem, imm: i8) {
        self.legacy(None, &[0x83], true, false, Alu::Cmp as u8, Rm::Mem(with), 1);
        self.code.push(imm as u8);
    }

    pub fn imul(&mut self, to: Gpr, from: Gpr) {
        self.legacy(None, &[0x0f, 0xaf], true, false, to.0, Rm::Reg(from.0), 0);
    }

    pub fn imul_mem(&mut self, to: Gpr, from: Mem) {
        self.legacy(None, &[0x0f, 0xaf], true, false, to.0, Rm::Mem(from), 0);
    }

    pub fn imul_imm(&mut self, to: Gpr, from: Gpr, imm: i32) {
        self.legacy(None, &[0x69], true, false, to.0, Rm::Reg(from.0), 4);
        self.code.extend_from_slice(&imm.to_le_bytes());
    }

    pub fn shift(&mut self, what: Shift, to: Gpr, by: u8) {
        self.legacy(None, &[0xc1], true, false, what as u8, Rm::Reg(to.0), 1);
        self.code.push(by);
    }

    /// Shifts by CL, whose low six bits count.
    pub fn shift_cl(&mut self, what: Shift, to: Gpr) {
        self.legacy(None, &[0xd3], true, false, what as u8, Rm::Reg(to.0), 0);
    }

    pub fn neg(&mut self, to: Gpr) {
        self.legacy(None, &[0xf7], true, false, 3, Rm::Reg(to.0), 0);
    }

    pub fn test(&mut self, a: Gpr, b: Gpr) {
        self.legacy(None, &[0x85], true, false, b.0, Rm::Reg(a.0), 0);
    }

    pub fn test_imm(&mut self, a: Gpr, imm: u32) {
        self.legacy(None, &[0xf7], false, false, 0, Rm::Reg(a.0), 4);
        self.code.extend_from_slice(&imm.to_le_bytes());
    }

    pub fn mov_if(&mut self, cond: Cond, to: Gpr, from: Gpr) {
        self.legacy(None, &[0x0f, 0x40 | cond as u8], true, false, to.0, Rm::Reg(from.0), 0);
    }

    /// RDX:RAX, the sign of RAX in RDX.
    pub fn sign_extend_rax(&mut self) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        self.code.extend_from_slice(&[0x48, 0x99]);
    }

    /// RAX = RDX:RAX / by, RDX = the remainder.
    pub fn divide(&mut self, by: Gpr, signed: bool) {
        self.legacy(None, &[0xf7], true, false, if signed { 7 } else { 6 }, Rm::Reg(by.0), 0);
    }

    pub fn push(&mut self, r: Gpr) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        if r.0 >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x50 | r.0 & 7);
    }

    pub fn pop(&mut self, r: Gpr) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        if r.0 >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x58 | r.0 & 7);
    }

    /// Calls the function whose address is in memory.
    pub fn call_mem(&mut self, target: Mem) {
        self.legacy(None, &[0xff], false, false, 2, Rm::Mem(target), 0);
    }

    /// Asks for the cache line of an address, to be read or to be written.
    pub fn prefetch(&mut self, mem: Mem, writes: bool) {
        self.legacy(None, &[0x0f, if writes { 0x0d } else { 0x18 }], false, false, 1, Rm::Mem(mem), 0);
    }

    pub fn ret(&mut self) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        self.code.push(0xc3);
    }

    /// `to` = `from` with only the bits below the number in `count` (its low byte); BMI2.
    pub fn low_bits(&mut self, to: Gpr, from: Gpr, count: Gpr) {
        let bzhi = Op { prefix: 0, map: 2, opcode: 0xf5, evex_w: true, vex_w: true };
        self.vex(bzhi, Len::L128, to.0, count.0, Rm::Reg(from.0), 0);
    }

    /// The x87 instructions of the remainder: loads, the step, its status, and the store.
    pub fn x87_load(&mut self, from: Mem, bytes: usize) {
        self.legacy(None, &[if bytes == 8 { 0xdd } else { 0xd9 }], false, false, 0, Rm::Mem(from), 0);
    }

    pub fn x87_store_pop(&mut self, to: Mem, bytes: usize) {
        self.legacy(None, &[if bytes == 8 { 0xdd } else { 0xd9 }], false, false, 3, Rm::Mem(to), 0);
    }

    /// Replaces ST(0) by a partial remainder by ST(1), exactly; bit 10 of the status in AX is set if it is not finished.
    pub fn x87_remainder_step(&mut self) {
        for instruction in [[0xd9, 0xf8], [0xdf, 0xe0]] {
            #[cfg(test)]
            self.note(Asked::Fixed);
            self.code.extend_from_slice(&instruction);
        }
    }

    /// Drops ST(0).
    pub fn x87_drop(&mut self) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        self.code.extend_from_slice(&[0xdd, 0xd8]);
    }

    // Vector instructions.

    /// Waits until what was stored past the caches is there for all threads.
    pub fn store_fence(&mut self) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        self.code.extend_from_slice(&[0x0f, 0xae, 0xf8]);
    }

    /// Clears the upper halves of all vector registers, so that other code does not pay for them.
    pub fn zero_upper(&mut self) {
        #[cfg(test)]
        self.note(Asked::Fixed);
        self.code.extend_from_slice(&[0xc5, 0xf8, 0x77]);
    }

    /// A vector instruction in the encoding of the instruction set. `vvvv` is the middle operand (0 if there is none);
    /// `memory` the bytes that the memory operand has, if there is one.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the encoding")]
    pub fn vector(
        &mut self,
        op: Op,
        len: Len,
        reg: u8,
        vvvv: u8,
        rm: Rm,
        imm: Option<u8>,
        how: Masking,
        memory: usize,
    ) {
        #[cfg(test)]
        self.note(Asked::Vector { evex: self.isa == Isa::Avx512, op, len, reg, vvvv, rm, imm, how, memory });
        let rest = usize::from(imm.is_some());
        match self.isa {
            Isa::Avx2 => self.vex(op, len, reg, vvvv, rm, rest),
            Isa::Avx512 => {
                let (x, b) = high_bits(rm);
                let inverted = (reg >> 3 & 1) << 7 | (x & 1) << 6 | (b & 1) << 5 | (reg >> 4 & 1) << 4;
                let flags = u8::from(how.zero) << 7 | u8::from(how.broadcast) << 4 | (!vvvv >> 4 & 1) << 3 | how.mask;
                let prefix = [
                    0x62,
                    (inverted ^ 0xf0) | op.map,
                    u8::from(op.evex_w) << 7 | (!vvvv & 15) << 3 | 4 | op.prefix,
                    (len as u8) << 5 | flags,
                    op.opcode,
                ];
                self.code.extend_from_slice(&prefix);
                self.modrm(reg, rm, rest, memory);
            }
        }
        if let Some(imm) = imm {
            self.code.push(imm);
        }
    }

    /// An instruction in VEX encoding, whatever the instruction set; `rest` bytes of it follow the operands.
    pub fn vex(&mut self, op: Op, len: Len, reg: u8, vvvv: u8, rm: Rm, rest: usize) {
        #[cfg(test)]
        self.note(Asked::Vector { evex: false, op, len, reg, vvvv, rm, imm: None, how: PLAIN, memory: 0 });
        let (x, b) = high_bits(rm);
        let r = reg >> 3 & 1;
        let last = (!vvvv & 15) << 3 | u8::from(len != Len::L128) << 2 | op.prefix;
        if x == 0 && b == 0 && op.map == 1 && !op.vex_w {
            self.code.extend_from_slice(&[0xc5, (1 ^ r) << 7 | last, op.opcode]);
        } else {
            let first = (1 ^ r) << 7 | (1 ^ x) << 6 | (1 ^ b) << 5 | op.map;
            self.code.extend_from_slice(&[0xc4, first, u8::from(op.vex_w) << 7 | last, op.opcode]);
        }
        self.modrm(reg, rm, rest, 0);
    }

    /// A VEX instruction on mask registers with an immediate byte.
    pub fn vex_imm(&mut self, op: Op, reg: u8, rm: u8, imm: u8) {
        #[cfg(test)]
        {
            let (len, rm, imm) = (Len::L128, Rm::Reg(rm), Some(imm));
            self.note(Asked::Vector { evex: false, op, len, reg, vvvv: 0, rm, imm, how: PLAIN, memory: 0 });
        }
        self.vex(op, Len::L128, reg, 0, Rm::Reg(rm), 1);
        self.code.push(imm);
    }

    /// The operand bytes. `memory` is the unit of short displacements, a power of two; 0 if they count bytes.
    fn modrm(&mut self, reg: u8, rm: Rm, rest: usize, memory: usize) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.code.push(0xc0 | reg | r & 7),
            Rm::Pool(PoolAt(offset)) => {
                self.pool_uses.push((self.code.len() + 1, offset, rest));
                self.code.extend_from_slice(&[reg | 5, 0, 0, 0, 0]);
            }
            Rm::Mem(Mem { base, index, disp }) => {
                let shift = memory.trailing_zeros() & 31;
                let units = disp >> shift;
                let short = i8::try_from(units).ok().filter(|_| units << shift == disp);
                let mode = match short {
                    Some(0) if base.0 & 7 != 5 => 0x00,
                    Some(_) => 0x40,
                    None => 0x80,
                };
                match index {
                    None if base.0 & 7 != 4 => self.code.push(mode | reg | base.0 & 7),
                    None => self.code.extend_from_slice(&[mode | reg | 4, 0x20 | base.0 & 7]),
                    Some((index, scale)) => {
                        self.code.extend_from_slice(&[mode | reg | 4, scale << 6 | (index.0 & 7) << 3 | base.0 & 7]);
                    }
                }
                match (mode, short) {
                    (0x40, Some(short)) => self.code.push(short as u8),
                    (0x80, _) => self.code.extend_from_slice(&disp.to_le_bytes()),
                    _ => {}
                }
            }
        }
    }
}

/// The fourth bits of an operand's registers: index (for a vector register its fifth bit), and base.
fn high_bits(rm: Rm) -> (u8, u8) {
    match rm {
        Rm::Reg(r) => (r >> 4, r >> 3 & 1),
        Rm::Mem(m) => (m.index.map_or(0, |(index, _)| index.0 >> 3), m.base.0 >> 3),
        Rm::Pool(_) => (0, 0),
    }
}
