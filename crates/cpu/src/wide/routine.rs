//! Routines: code that kernels call instead of having a copy of it each.
//!
//! The trigonometric functions of large angles take a hundred and more instructions that hardly any element needs, the same ones in
//! every kernel. A routine computes such a primitive for one vector of 64-bit lanes. It is emitted when the first kernel
//! that calls it is compiled, and stays as long as the process.
//!
//! RCX points to its arguments, which the results replace: as many elements as there are 64-bit lanes in a vector. It
//! keeps RAX, RBX, RSP, RBP, RSI, RDI, R8 to R10, and R12 to R15, and loses every other register. Kernels find it in a
//! table that their [`Call`](crate::clif::Call) points to, so their code is the same in every process.

use super::asm::{Isa, Len, Mem, R11, RCX, RSP};
use super::body::Body;
use super::program::{Base, NodeId, Place, Program, Step, What};
use super::{Gen, LANE_MASK, call_offset};
use crate::Error;
use crate::clif::Analysis;
use crate::jit::CodeBlock;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Nest, Prim, expand};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The primitives that are routines.
const PRIMS: [Prim; 3] = [Prim::LargeSin, Prim::LargeCos, Prim::LargeTan];
const DTYPES: [DType; 2] = [DType::F32, DType::F64];
const ISAS: [Isa; 2] = [Isa::Avx2, Isa::Avx512];
const COUNT: usize = PRIMS.len() * DTYPES.len() * ISAS.len();

/// Where the routines are; 0 for those that nobody has needed yet.
pub(crate) type Table = [AtomicUsize; COUNT];

static TABLE: Table = [const { AtomicUsize::new(0) }; COUNT];
static BLOCKS: [OnceLock<CodeBlock>; COUNT] = [const { OnceLock::new() }; COUNT];

/// What [`crate::clif::Call::routines`] points to.
pub(crate) fn table() -> *const Table {
    &raw const TABLE
}

/// A set of routines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Routines(u16);

impl Routines {
    fn insert(&mut self, routine: Routine) {
        self.0 |= 1 << routine.index();
    }

    /// Makes them callable.
    pub fn provide(self) -> Result<(), Error> {
        for n in (0..COUNT).filter(|n| self.0 >> n & 1 != 0) {
            if TABLE[n].load(Ordering::Acquire) == 0 {
                let code = Routine::of_index(n).emit().map_err(|reason| Error::Internal(reason.to_owned()))?;
                let block = CodeBlock::publish(&code)?;
                // Another thread may have been quicker: then this block is dropped.
                TABLE[n].store(BLOCKS[n].get_or_init(|| block).address(), Ordering::Release);
            }
        }
        Ok(())
    }
}

/// True if kernels call a routine for a primitive.
pub(super) fn is_routine(prim: Prim) -> bool {
    PRIMS.contains(&prim)
}

/// The name of the routine that an entry of the table, at this offset in bytes, leads to.
pub(crate) fn name_at(offset: u64) -> Option<String> {
    let n = usize::try_from(offset / size_of::<AtomicUsize>() as u64).ok().filter(|n| *n < COUNT)?;
    let routine = Routine::of_index(n);
    Some(format!("{} of {}", routine.prim.name(), routine.dtype))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Routine {
    prim: Prim,
    dtype: DType,
    isa: Isa,
}

impl Routine {
    /// Its place in the table.
    fn index(self) -> usize {
        let prim = PRIMS.iter().position(|p| *p == self.prim).unwrap_or(0);
        let dtype = usize::from(self.dtype == DType::F64);
        let isa = usize::from(self.isa == Isa::Avx512);
        (isa * DTYPES.len() + dtype) * PRIMS.len() + prim
    }

    fn of_index(n: usize) -> Routine {
        let (rest, prim) = (n / PRIMS.len(), PRIMS[n % PRIMS.len()]);
        Routine { prim, dtype: DTYPES[rest % DTYPES.len()], isa: ISAS[rest / DTYPES.len()] }
    }

    /// How many elements it computes.
    fn lanes(isa: Isa) -> usize {
        isa.bytes() / 8
    }

    /// Its machine code.
    fn emit(self) -> Result<Vec<u8>, &'static str> {
        // It has no operands, parameters or rows.
        let kernel = Builder::kernel(Nest::Rows).finish();
        let analysis = Analysis::new(&kernel);
        let g = Gen::new(&kernel, &analysis, self.isa).function(|g| self.emit_body(g))?;
        Ok(g.a.finish())
    }

    fn emit_body(self, g: &mut Gen<'_>) {
        let pointer = g.word_slot();
        g.a.store(pointer.mem(), RCX);
        let mut program = Program::straight(Routine::lanes(self.isa));
        let place = program.place(Place { base: Base::Spilled(pointer), step: Step::Fixed, dtype: self.dtype });
        let x = program.push(What::Load(place), self.dtype, &[]);
        let y = match expand::body(self.prim, self.dtype) {
            Some(body) => program.inline(body, &[x])[0],
            None => return g.refuse("a routine without a body"),
        };
        program.push(What::Store(place), self.dtype, &[y]);
        program.finish(self.isa);
        Body::new(g, &program, &[], 1, false).emit_nodes();
    }
}

impl Body<'_, '_, '_> {
    /// Emits a call of the routine that computes a primitive.
    pub(super) fn call_routine(&mut self, copy: usize, node: NodeId, prim: Prim) {
        let (dtype, isa) = (self.dtype(node), self.g.a.isa);
        let routine = Routine { prim, dtype, isa };
        self.g.routines.insert(routine);
        let [buffer, _] = self.g.lane_buffers();
        let (x, len) = (self.reg(copy, self.arg(node, 0)), self.len(dtype));
        self.g.store_slot(buffer, x, len);
        self.leave_registers(copy, node);
        // What is left in registers belongs to the loop.
        let whole = Len::of(isa.bytes());
        let reserved = self.reserved_registers();
        for (n, reg) in reserved.clone().enumerate() {
            let slot = self.g.saved_slot(n);
            self.g.store_slot(slot, reg, whole);
        }
        let mask_slot = self.g.saved_slot(reserved.clone().count());
        let has_mask = self.keeps_lane_mask() && isa == Isa::Avx512;
        if has_mask {
            self.g.store_mask(mask_slot, LANE_MASK);
        }
        let lanes = Routine::lanes(isa);
        for first in (0..self.lanes).step_by(lanes) {
            self.g.a.lea(RCX, Mem::at(RSP, buffer.0 + (first * dtype.size()) as i32));
            self.g.load_call(R11, call_offset!(routines));
            self.g.a.call_mem(Mem::at(R11, (routine.index() * size_of::<AtomicUsize>()) as i32));
        }
        for (n, reg) in reserved.enumerate() {
            let slot = self.g.saved_slot(n);
            self.g.load_slot(reg, slot, whole);
        }
        if has_mask {
            self.g.load_mask(LANE_MASK, mask_slot);
        }
        let to = self.define(copy, node);
        self.g.load_slot(to, buffer, len);
    }
}
