//! The wide tier: kernel to AVX-512 or AVX2 machine code, in one pass, in a few microseconds.
//!
//! The code is a function of the same type and meaning as the one that [`crate::clif`] emits, with the same phases, so
//! the driver does not know the difference; the bits are the same too. What this tier cannot do it refuses, and the
//! kernel goes to Cranelift.
//!
//! In reading order: [`program`] (a stage as straight-line code on lanes), [`rows`], [`whole`], [`fold`],
//! [`columns`] and [`across`] (the loops), [`body`] (registers), [`prim`], [`quotient`], [`cast`], [`lanes`],
//! [`masks`] and [`memory`] (instructions), [`routine`] (code that kernels share), [`asm`] (the bytes of instructions).
//!
//! # Conventions of the code
//!
//! RDI points to the [`Call`]; RAX is the index of the inner loop, in elements; RBX the row; RCX, RDX, R11 and R15 are
//! free to use between instructions of the programs; the other registers hold base addresses. Mask register 1 has the
//! lanes that exist in a masked body. The stack is 64-byte aligned, and slots are offsets from RSP.

mod across;
mod asm;
mod body;
mod cast;
mod columns;
mod contract;
mod fold;
mod lanes;
mod masks;
mod memory;
mod prim;
mod program;
mod quotient;
mod root;
mod routine;
mod rows;
#[cfg(test)]
mod tests;
mod whole;

pub(crate) use across::{SideBySide, side_by_side};
pub(crate) use asm::Isa;
pub(crate) use routine::{Routines, Table, name_at, table};

use crate::clif::{Analysis, OperandAt};
use asm::{Alu, Asm, Cond, Gpr, Label, Mem, R11, R12, R13, R14, R15, RBP, RBX, RCX, RDI, RDX, RSP};
use numfuse_core::kernel::{Kernel, Nest};
use program::Slot;
use std::mem::offset_of;

/// The offset of a field of the call.
macro_rules! call_offset {
    ($name:ident) => {
        std::mem::offset_of!(crate::clif::Call, $name) as i32
    };
}
use call_offset;

/// The mask register with the lanes that exist.
const LANE_MASK: u8 = 1;
/// A mask register that is never a value's.
const SCRATCH_MASK: u8 = 0;
/// Kernels with more instructions than this go to Cranelift: a bound for offsets and memory, more than fusion makes.
const INST_LIMIT: usize = 100_000;
/// A kernel may take so many bytes of its thread's stack.
const FRAME_LIMIT: i32 = 128 << 10;

impl Isa {
    /// The best one that this host has. The code follows the System V convention, so there is none on Windows.
    pub fn host() -> Option<Isa> {
        #[cfg(all(target_arch = "x86_64", not(windows)))]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2");
            let avx512 = has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl");
            if avx2 && avx512 {
                return Some(Isa::Avx512);
            }
            if avx2 {
                return Some(Isa::Avx2);
            }
        }
        None
    }
}

/// The machine code of a kernel.
pub(crate) struct Code {
    pub bytes: Vec<u8>,
    /// How many of the bytes are instructions; constants follow them.
    pub instructions: usize,
    /// The code can store past the caches.
    pub streams: bool,
    /// What it calls.
    pub routines: Routines,
}

/// The machine code of a kernel; or why this tier has none.
pub(crate) fn compile(kernel: &Kernel, analysis: &Analysis, isa: Isa) -> Result<Code, &'static str> {
    let g = emit(kernel, analysis, isa)?;
    Ok(Code { instructions: g.a.code_len(), streams: g.streams, routines: g.routines, bytes: g.a.finish() })
}

fn emit<'k>(kernel: &'k Kernel, analysis: &'k Analysis, isa: Isa) -> Result<Gen<'k>, &'static str> {
    if kernel.insts.len() > INST_LIMIT {
        return Err("too many instructions");
    }
    Gen::new(kernel, analysis, isa).function(|g| match kernel.nest {
        Nest::Rows => rows::emit(g),
        Nest::Columns => columns::emit(g),
    })
}

/// Registers that the caller wants back, besides RBP.
const SAVED: [Gpr; 5] = [RBX, R12, R13, R14, R15];

/// The function being emitted.
struct Gen<'k> {
    a: Asm,
    kernel: &'k Kernel,
    analysis: &'k Analysis,
    /// Bytes of the stack frame.
    stack: i32,
    refused: Option<&'static str>,
    strided_buffer: Option<Slot>,
    lane_buffers: Option<[Slot; 2]>,
    index_slot: Option<Slot>,
    rest_slot: Option<Slot>,
    /// Where registers wait while a routine runs.
    saved_slots: Vec<Slot>,
    /// Integers that are 0 when the function begins.
    zeroed: Vec<Slot>,
    /// Some loop can store past the caches.
    streams: bool,
    /// The routines that are called.
    routines: Routines,
    /// Row stages compute nothing, but at most load elements, and the loop does that itself.
    rows_are_loaded_late: bool,
}

impl<'k> Gen<'k> {
    fn new(kernel: &'k Kernel, analysis: &'k Analysis, isa: Isa) -> Gen<'k> {
        Gen {
            a: Asm::with_room(isa, 4096 + 12 * kernel.insts.len()),
            kernel,
            analysis,
            stack: 0,
            refused: None,
            strided_buffer: None,
            lane_buffers: None,
            index_slot: None,
            rest_slot: None,
            saved_slots: Vec::new(),
            zeroed: Vec::new(),
            streams: false,
            routines: Routines::default(),
            rows_are_loaded_late: rows::are_loaded_late(kernel, analysis),
        }
    }

    /// Emits a function with this body.
    fn function(mut self, emit: impl FnOnce(&mut Self)) -> Result<Self, &'static str> {
        let (prologue, body) = (self.a.label(), self.a.label());
        self.a.jump(prologue);
        self.a.bind(body);
        emit(&mut self);
        self.epilogue();
        self.a.bind(prologue);
        self.prologue(body);
        match self.refused {
            None if self.stack > FRAME_LIMIT => Err("too much stack"),
            None => Ok(self),
            Some(reason) => Err(reason),
        }
    }

    /// Notes that the kernel is not for this tier. Emission goes on, to no effect.
    fn refuse(&mut self, why: &'static str) {
        self.refused.get_or_insert(why);
    }

    /// Emitted behind the body, when the size of the frame is known.
    fn prologue(&mut self, body: Label) {
        const PAGE: i32 = 4096;
        let size = (self.stack + 63) & !63;
        self.a.push(RBP);
        self.a.mov(RBP, RSP);
        for r in SAVED {
            self.a.push(r);
        }
        // Pages are touched in order, as the guard page wants it.
        for page in 1..=size / PAGE {
            self.a.store(Mem::at(RSP, -page * PAGE), RDI);
        }
        self.a.alu_imm(Alu::Sub, RSP, size);
        self.a.alu_imm(Alu::And, RSP, -64);
        if !self.zeroed.is_empty() {
            self.a.mov_imm(RCX, 0);
        }
        for slot in &self.zeroed {
            self.a.store(slot.mem(), RCX);
        }
        self.a.jump(body);
    }

    fn epilogue(&mut self) {
        if self.streams {
            self.a.compare_mem(Mem::at(RDI, call_offset!(streams)), 0);
            self.unless(Cond::Equal, |g| g.a.store_fence());
        }
        self.a.zero_upper();
        self.a.lea(RSP, Mem::at(RBP, -8 * SAVED.len() as i32));
        for r in SAVED.into_iter().rev() {
            self.a.pop(r);
        }
        self.a.pop(RBP);
        self.a.ret();
    }

    // The stack frame.

    fn slot(&mut self, bytes: i32, align: i32) -> Slot {
        let at = (self.stack + align - 1) & -align;
        self.stack = at + bytes;
        Slot(at)
    }

    /// Room for a vector.
    fn vector_slot(&mut self) -> Slot {
        self.slot(64, 64)
    }

    /// Room for an integer.
    fn word_slot(&mut self) -> Slot {
        self.slot(8, 8)
    }

    /// Room for an integer that is 0 when the function begins.
    fn zeroed_slot(&mut self) -> Slot {
        let slot = self.word_slot();
        self.zeroed.push(slot);
        slot
    }

    /// Room for the strided elements of one vector.
    fn strided_buffer(&mut self) -> Slot {
        let slot = self.strided_buffer.unwrap_or_else(|| self.vector_slot());
        *self.strided_buffer.insert(slot)
    }

    /// Room for the operands of a primitive that is computed lane by lane.
    fn lane_buffers(&mut self) -> [Slot; 2] {
        let slots = self.lane_buffers.unwrap_or_else(|| [self.vector_slot(), self.vector_slot()]);
        *self.lane_buffers.insert(slots)
    }

    /// Where RAX waits while a primitive is computed lane by lane.
    fn index_slot(&mut self) -> Slot {
        let slot = self.index_slot.unwrap_or_else(|| self.word_slot());
        *self.index_slot.insert(slot)
    }

    /// Where the n-th register waits while a routine runs.
    fn saved_slot(&mut self, n: usize) -> Slot {
        while self.saved_slots.len() <= n {
            let slot = self.vector_slot();
            self.saved_slots.push(slot);
        }
        self.saved_slots[n]
    }

    /// How many lanes exist in a masked body.
    fn rest_slot(&mut self) -> Slot {
        let slot = self.rest_slot.unwrap_or_else(|| self.word_slot());
        *self.rest_slot.insert(slot)
    }

    // The call.

    /// Loads a field of the call.
    fn load_call(&mut self, to: Gpr, offset: i32) {
        self.a.load(to, Mem::at(RDI, offset));
    }

    /// RCX: where a state component begins, in the block that a field of the call points to.
    fn load_component(&mut self, block: i32, component: usize) {
        self.load_call(RCX, call_offset!(state_stride));
        self.a.imul_imm(RCX, RCX, component as i32);
        self.a.alu_mem(Alu::Add, RCX, Mem::at(RDI, block));
    }

    /// RCX: where an operand begins in the row in RBX. RDX: the call's operands.
    fn load_row_address(&mut self, operand: u32) {
        let at = |field: usize| Mem::at(RDX, (operand as usize * size_of::<OperandAt>() + field) as i32);
        self.load_call(RDX, call_offset!(operands));
        self.a.mov(RCX, RBX);
        self.a.imul_mem(RCX, at(offset_of!(OperandAt, row)));
        self.a.alu_mem(Alu::Add, RCX, at(offset_of!(OperandAt, pointer)));
    }

    /// Limits RCX, without sign, to a number. R11 is lost.
    fn limit_rcx(&mut self, most: usize) {
        self.a.mov_imm(R11, most as i64);
        self.a.alu(Alu::Cmp, RCX, R11);
        self.a.mov_if(Cond::Above, RCX, R11);
    }

    /// Emits `then` unless the condition, just tested, holds.
    fn unless(&mut self, cond: Cond, then: impl FnOnce(&mut Self)) {
        let skip = self.a.label();
        self.a.jump_if(cond, skip);
        then(self);
        self.a.bind(skip);
    }
}
