//! Loads, stores, and everything else that moves elements between memory, registers and lanes.
//!
//! Lanes of a value that fill less than a register are loaded and stored by their exact bytes. In a masked body only
//! the lanes of the masks in `masks.rs` exist: the others are neither read nor written. Strided elements are gathered one
//! by one; in a masked body through a buffer, by a loop over those that exist, and so are narrow ones with AVX2.

use super::asm::{Alu, Cond, Isa, Len, Mem, Op, PLAIN, R11, R15, RAX, RBX, RCX, RDX, RSP, Rm, Shift, op, op_w};
use super::body::{Body, Operand};
use super::program::{Base, NodeId, Place, PlaceId, Slot, Step, What};
use super::{Gen, LANE_MASK, SCRATCH_MASK};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Nest, reduce};

pub(super) const MOVE: Op = op(0, 1, 0x28, false);
pub(super) const LOAD: Op = op(0, 1, 0x10, false);
pub(super) const STORE: Op = op(0, 1, 0x11, false);
/// Past the caches; of whole vectors at multiples of their size.
const STREAM: Op = op(0, 1, 0x2b, false);
pub(super) const SPLAT_B: Op = op(1, 2, 0x78, false);
pub(super) const SPLAT_W: Op = op(1, 2, 0x79, false);
pub(super) const SPLAT_D: Op = op(1, 2, 0x58, false);
pub(super) const SPLAT_Q: Op = op(1, 2, 0x59, true);
const LOAD_8: Op = op(2, 1, 0x7e, true);
const STORE_8: Op = op(1, 1, 0xd6, true);
const LOAD_4: Op = op(1, 1, 0x6e, false);
const STORE_4: Op = op(1, 1, 0x7e, false);
const STORE_2: Op = op(1, 3, 0x15, false);
const STORE_1: Op = op(1, 3, 0x14, false);
const LOAD_LOW: Op = op(3, 1, 0x10, true);
const LOAD_HIGH: Op = op(1, 1, 0x16, true);
const STORE_LOW: Op = op(1, 1, 0x13, true);
const STORE_HIGH: Op = op(1, 1, 0x17, true);
const INSERT_D: Op = op(1, 3, 0x22, false);
const INSERT_W: Op = op(1, 1, 0xc4, false);
const INSERT_B: Op = op(1, 3, 0x20, false);
const EXTRACT_D: Op = op(1, 3, 0x16, false);
const INSERT_128: Op = op(1, 3, 0x38, false);
pub(super) const EXTRACT_128: Op = op(1, 3, 0x39, false);
pub(super) const EXTRACT_256: Op = op(1, 3, 0x3b, true);
const SHIFT_BYTES: Op = op(1, 1, 0x73, false);
const INT_TO_F64: Op = op_w(3, 1, 0x2a, true);
const INT_TO_F32: Op = op_w(2, 1, 0x2a, true);
const TEST_BYTES: Op = op(1, 2, 0x26, false);
const MASK_TO_BYTES: Op = op(2, 2, 0x28, false);
pub(super) const ABS_B: Op = op(1, 2, 0x1c, false);

/// Loads for the lanes of a mask, by the size of an element.
pub(super) const fn masked_load(size: usize) -> Op {
    match size {
        1 => op(3, 1, 0x6f, false),
        2 => op(3, 1, 0x6f, true),
        4 => op(2, 1, 0x6f, false),
        _ => op(2, 1, 0x6f, true),
    }
}

/// Moves between registers for the lanes of a mask, by the size of an element.
pub(super) const fn masked_move(size: usize) -> Op {
    masked_load(size)
}

const fn masked_store(size: usize) -> Op {
    Op { opcode: 0x7f, ..masked_load(size) }
}

/// Loads of 4 or 8-byte elements for the lanes of a vector mask, the middle operand (AVX2).
const fn masked_load_vex(size: usize) -> Op {
    op_w(1, 2, 0x8c, size == 8)
}

const fn masked_store_vex(size: usize) -> Op {
    Op { opcode: 0x8e, ..masked_load_vex(size) }
}

/// The instruction that loads a power of two of bytes.
fn load_for(bytes: usize) -> (Op, Len) {
    match bytes {
        1 => (SPLAT_B, Len::L128),
        2 => (SPLAT_W, Len::L128),
        4 => (LOAD_4, Len::L128),
        8 => (LOAD_8, Len::L128),
        _ => (LOAD, Len::of(bytes)),
    }
}

/// The instruction that repeats an element of memory or of a register's first lane.
pub(super) const fn splat(size: usize) -> Op {
    match size {
        1 => SPLAT_B,
        2 => SPLAT_W,
        4 => SPLAT_D,
        _ => SPLAT_Q,
    }
}

/// A memory operand of some bytes.
fn memory(mem: Mem, bytes: usize) -> Operand {
    Operand { rm: Rm::Mem(mem), broadcast: false, bytes }
}

impl Slot {
    pub fn mem(self) -> Mem {
        Mem::at(RSP, self.0)
    }
}

impl Gen<'_> {
    fn plain(&mut self, op: Op, len: Len, reg: u8, mem: Mem) {
        self.a.vector(op, len, reg, 0, Rm::Mem(mem), None, PLAIN, len.bytes());
    }

    pub fn load_slot(&mut self, reg: u8, slot: Slot, len: Len) {
        self.plain(LOAD, len, reg, slot.mem());
    }

    pub fn store_slot(&mut self, slot: Slot, reg: u8, len: Len) {
        self.plain(STORE, len, reg, slot.mem());
    }

    /// The memory at a base address. R11 may be part of it.
    pub fn base_mem(&mut self, base: Base) -> Mem {
        match base {
            Base::Gpr(r) => Mem::at(r, 0),
            Base::Stack(slot) => slot.mem(),
            Base::Spilled(slot) => {
                self.a.load(R11, slot.mem());
                Mem::at(R11, 0)
            }
        }
    }

    /// Adds a base address to RCX. R11 may be lost.
    pub fn add_base(&mut self, base: Base) {
        match base {
            Base::Gpr(r) => self.a.alu(Alu::Add, RCX, r),
            Base::Spilled(slot) => self.a.alu_mem(Alu::Add, RCX, slot.mem()),
            Base::Stack(slot) => {
                self.a.lea(R11, slot.mem());
                self.a.alu(Alu::Add, RCX, R11);
            }
        }
    }
}

impl Body<'_, '_, '_> {
    /// Emits a node that loads or stores.
    pub(super) fn memory_node(&mut self, copy: usize, node: NodeId) {
        let dtype = self.dtype(node);
        match self.program.nodes[node as usize].what {
            What::Load(place) if dtype == DType::Bool => {
                let bytes = self.temp();
                self.load_elements(copy, place, bytes);
                self.bytes_to_bool(copy, node, bytes);
            }
            What::Load(_) => {
                let once = self.program.uses(node).len() == 1;
                if once && !self.masked {
                    return self.defer_load(copy, node);
                }
                let reg = self.define(copy, node);
                self.do_load(copy, node, reg);
            }
            What::Store(place) => {
                self.settle_loads();
                let value = self.arg(node, 0);
                if dtype == DType::Bool {
                    let bytes = self.bool_to_bytes(copy, value);
                    self.store_elements(copy, place, bytes);
                } else {
                    let reg = self.reg(copy, value);
                    self.store_elements(copy, place, reg);
                }
            }
            What::StoreFirst(place) => {
                let value = self.arg(node, 0);
                let size = dtype.size();
                let reg = if dtype == DType::Bool { self.bool_to_bytes(copy, value) } else { self.reg(copy, value) };
                match self.place_address(place, 0) {
                    Some((mem, _)) => self.store_bytes(reg, mem, size),
                    None => self.g.refuse("a strided place for one lane"),
                }
            }
            What::StoreFrame(word) => {
                let value = self.arg(node, 0);
                self.g.load_call(RCX, super::call_offset!(frame));
                let mem = Mem::at(RCX, 8 * word as i32);
                let reg = if dtype == DType::Bool { self.bool_to_bytes(copy, value) } else { self.reg(copy, value) };
                self.store_bytes(reg, mem, dtype.size());
            }
            What::Param(n) => {
                self.g.load_call(RCX, super::call_offset!(params));
                self.splat_from(copy, node, Mem::at(RCX, 8 * n as i32));
            }
            What::Frame(word) => {
                self.g.load_call(RCX, super::call_offset!(frame));
                self.splat_from(copy, node, Mem::at(RCX, 8 * word as i32));
            }
            What::Row(n) => {
                self.g.load_row_address(n);
                self.splat_from(copy, node, Mem::at(RCX, 0));
            }
            What::Splat(place) => match self.place_address(place, 0) {
                Some((mem, _)) => self.splat_from(copy, node, mem),
                None => self.g.refuse("a strided place for all lanes"),
            },
            What::Int(slot) => {
                self.g.a.load(RCX, slot.mem());
                self.splat_rcx(copy, node);
            }
            What::Count { shift } => {
                self.g.a.mov(RCX, RAX);
                self.g.a.alu_imm(Alu::And, RCX, reduce::leaf(Nest::Rows) as i32 - 1);
                self.g.a.shift(Shift::Right, RCX, shift);
                self.g.a.alu_imm(Alu::Add, RCX, 1);
                self.splat_rcx(copy, node);
            }
            What::High(lane) => self.high(copy, node, lane),
            What::Below(slot) => {
                self.g.a.load(RCX, slot.mem());
                let to = self.define(copy, node);
                match self.g.a.isa {
                    Isa::Avx512 => self.g.mask_below_rcx(to),
                    Isa::Avx2 => {
                        let width = self.mask_width();
                        self.vector_below_rcx(to, width);
                    }
                }
            }
            _ => self.g.refuse("not a memory node"),
        }
    }

    /// The element at an address, for all lanes.
    fn splat_from(&mut self, copy: usize, node: NodeId, mem: Mem) {
        let dtype = self.dtype(node);
        if dtype == DType::Bool {
            let bytes = self.temp();
            let len = self.len_of(1);
            self.emit(SPLAT_B, len, bytes, 0, memory(mem, 1), None);
            return self.bytes_to_bool(copy, node, bytes);
        }
        let reg = self.define(copy, node);
        let len = self.len(dtype);
        self.emit(splat(dtype.size()), len, reg, 0, memory(mem, dtype.size()), None);
    }

    /// The integer in RCX as the node's dtype, for all lanes.
    fn splat_rcx(&mut self, copy: usize, node: NodeId) {
        let dtype = self.dtype(node);
        let reg = self.define(copy, node);
        let len = self.len(dtype);
        match dtype {
            DType::F64 | DType::F32 => {
                let convert = if dtype == DType::F64 { INT_TO_F64 } else { INT_TO_F32 };
                self.emit(super::prim::XOR_D, Len::L128, reg, reg, Operand::reg(reg), None);
                self.emit(convert, Len::L128, reg, reg, Operand::reg(RCX.0), None);
            }
            _ => {
                let wide = op_w(1, 1, 0x6e, true);
                self.emit(wide, Len::L128, reg, 0, Operand::reg(RCX.0), None);
            }
        }
        self.emit(splat(dtype.size()), len, reg, 0, Operand::reg(reg), None);
    }

    /// A bool from bytes, any of which but 0 is true.
    fn bytes_to_bool(&mut self, copy: usize, node: NodeId, bytes: u8) {
        let len = self.len_of(1);
        match self.g.a.isa {
            Isa::Avx512 => {
                let mask = self.define(copy, node);
                self.emit(TEST_BYTES, len, mask, bytes, Operand::reg(bytes), None);
            }
            Isa::Avx2 => {
                let zero = self.temp();
                self.emit(super::prim::XOR_D, len, zero, zero, Operand::reg(zero), None);
                // Equal to zero, and that is equal to zero.
                let equal = op(1, 1, 0x74, false);
                self.emit(equal, len, bytes, bytes, Operand::reg(zero), None);
                self.emit(equal, len, bytes, bytes, Operand::reg(zero), None);
                let reg = self.define(copy, node);
                let width = self.mask_width();
                self.resize_mask(reg, bytes, 1, width);
            }
        }
    }

    /// A bool as bytes of 0 and 1, in a temporary.
    fn bool_to_bytes(&mut self, copy: usize, value: NodeId) -> u8 {
        let from = self.reg(copy, value);
        let bytes = self.temp();
        let len = self.len_of(1);
        match self.g.a.isa {
            Isa::Avx512 => self.emit(MASK_TO_BYTES, len, bytes, 0, Operand::reg(from), None),
            Isa::Avx2 => {
                let width = self.mask_width();
                self.resize_mask(bytes, from, width, 1);
            }
        }
        self.emit(ABS_B, len, bytes, 0, Operand::reg(bytes), None);
        bytes
    }

    /// Writes the bools in a slot to another, as bytes of which any but 0 is true.
    pub(super) fn bools_to_memory(&mut self, from: Slot, to: Slot) {
        let reg = self.temp();
        let len = self.len_of(1);
        match self.g.a.isa {
            Isa::Avx512 => {
                self.g.load_mask(SCRATCH_MASK, from);
                self.emit(MASK_TO_BYTES, len, reg, 0, Operand::reg(SCRATCH_MASK), None);
            }
            Isa::Avx2 => {
                let width = self.mask_width();
                let from_len = self.len_of(width);
                self.g.load_slot(reg, from, from_len);
                self.resize_mask(reg, reg, width, 1);
            }
        }
        self.store_bytes(reg, to.mem(), self.lanes);
    }

    /// Moves lanes down.
    fn high(&mut self, copy: usize, node: NodeId, lane: u8) {
        let value = self.arg(node, 0);
        let dtype = self.dtype(node);
        let from = self.reg(copy, value);
        if self.bank(dtype) == super::body::Bank::Mask {
            let to = self.define(copy, node);
            return self.g.mask_shift_right(to, from, lane);
        }
        let to = self.define(copy, node);
        self.move_lanes_down(to, from, usize::from(lane) * self.width(dtype));
    }

    /// Moves a register's bytes from 32, 16 or a smaller power of two on to the beginning of another.
    pub(super) fn move_lanes_down(&mut self, to: u8, from: u8, bytes: usize) {
        match bytes {
            32.. => self.emit(EXTRACT_256, Len::L512, from, 0, Operand::reg(to), Some(1)),
            16.. => self.emit(EXTRACT_128, Len::L256, from, 0, Operand::reg(to), Some(1)),
            _ => self.emit(SHIFT_BYTES, Len::L128, 3, to, Operand::reg(from), Some(bytes as u8)),
        }
    }

    /// The address of a value's elements, if they are adjacent; and whether an index moves them.
    fn place_address(&mut self, place: u32, copy: usize) -> Option<(Mem, bool)> {
        let place = self.places[place as usize];
        let size = place.dtype.size();
        let base = self.g.base_mem(place.base);
        let ahead = (copy * self.lanes * size) as i32;
        let scale = size.trailing_zeros() as u8;
        match place.step {
            Step::Fixed => Some((base, false)),
            Step::Unit => Some((Mem { index: Some((RAX, scale)), disp: base.disp + ahead, ..base }, true)),
            Step::Lanes(lanes) => {
                self.g.a.mov(RCX, RAX);
                self.g.a.alu_imm(Alu::And, RCX, lanes as i32 - 1);
                Some((Mem { index: Some((RCX, scale)), disp: base.disp + ahead, ..base }, true))
            }
            Step::Vectors => Some((Mem { index: Some((RBX, 0)), ..base }, false)),
            Step::Strided(_) | Step::Rows(_) => None,
        }
    }

    /// Asks for the cache lines that a body so many bytes further on will read, and with `stores` for those that it will write.
    /// With AVX2 nothing is known of what that gains, and it does nothing.
    pub(super) fn prefetch(&mut self, ahead: i32, stores: bool) {
        if self.g.a.isa != Isa::Avx512 {
            return;
        }
        for node in &self.program.nodes {
            let (place, writes) = match node.what {
                What::Load(place) => (place, false),
                What::Store(place) if stores => (place, true),
                _ => continue,
            };
            let Place { step, dtype, .. } = self.places[place as usize];
            if step != Step::Unit {
                continue;
            }
            let Some((mem, _)) = self.place_address(place, 0) else { continue };
            for line in (0..self.copies * self.lanes * dtype.size()).step_by(64) {
                self.g.a.prefetch(Mem { disp: mem.disp + ahead + line as i32, ..mem }, writes);
            }
        }
    }

    /// The address of a deferred load's elements, if an instruction can read them from there. R11 may be part of it.
    pub(super) fn operand_address(&mut self, copy: usize, node: NodeId) -> Option<Mem> {
        let What::Load(at) = self.program.nodes[node as usize].what else { return None };
        if !matches!(self.places[at as usize].step, Step::Unit | Step::Fixed | Step::Vectors) {
            return None;
        }
        self.place_address(at, copy).map(|(mem, _)| mem)
    }

    /// Does a deferred load.
    pub(super) fn do_load(&mut self, copy: usize, node: NodeId, reg: u8) {
        if let What::Load(place) = self.program.nodes[node as usize].what {
            self.load_elements(copy, place, reg);
        }
    }

    /// Loads the elements at a place.
    fn load_elements(&mut self, copy: usize, place: PlaceId, reg: u8) {
        let size = self.places[place as usize].dtype.size();
        let bytes = self.lanes * size;
        let Some((mem, indexed)) = self.place_address(place, copy) else {
            return self.load_strided(copy, place, reg);
        };
        if self.masked && indexed {
            return match self.g.a.isa {
                Isa::Avx512 if self.mostly_whole => {
                    self.unless_part(|body| body.load_bytes(reg, mem, bytes), |body| body.load_masked(reg, mem, size))
                }
                Isa::Avx512 => self.load_masked(reg, mem, size),
                Isa::Avx2 => match self.lane_mask(size) {
                    Some(mask) if size >= 4 => {
                        let len = self.len_of(size);
                        self.emit(masked_load_vex(size), len, reg, mask, memory(mem, len.bytes()), None);
                    }
                    _ => {
                        self.g.a.lea(RCX, mem);
                        self.g.a.mov_imm(RDX, size as i64);
                        self.load_through_buffer(reg, size);
                    }
                },
            };
        }
        self.load_bytes(reg, mem, bytes);
    }

    /// Loads those elements that exist; zeros for the others.
    fn load_masked(&mut self, reg: u8, mem: Mem, size: usize) {
        let len = self.len_of(size);
        let operand = memory(mem, len.bytes());
        self.emit_masked(masked_load(size), len, reg, 0, operand, None, LANE_MASK, true);
    }

    /// Loads those of the elements at RCX, RDX bytes apart, that exist; anything for the others.
    fn load_through_buffer(&mut self, reg: u8, size: usize) {
        let buffer = self.g.strided_buffer();
        self.copy_strided(buffer, size, true);
        let len = self.len_of(size);
        self.g.load_slot(reg, buffer, len);
    }

    fn load_bytes(&mut self, reg: u8, mem: Mem, bytes: usize) {
        let (op, len) = load_for(bytes);
        self.emit(op, len, reg, 0, memory(mem, bytes), None);
    }

    fn store_bytes(&mut self, reg: u8, mem: Mem, bytes: usize) {
        let (op, len, imm) = match bytes {
            1 => (STORE_1, Len::L128, Some(0)),
            2 => (STORE_2, Len::L128, Some(0)),
            4 => (STORE_4, Len::L128, None),
            8 => (STORE_8, Len::L128, None),
            _ => (STORE, Len::of(bytes), None),
        };
        self.emit(op, len, reg, 0, memory(mem, bytes), imm);
    }

    /// Stores elements at a place.
    fn store_elements(&mut self, copy: usize, place: PlaceId, reg: u8) {
        let size = self.places[place as usize].dtype.size();
        let bytes = self.lanes * size;
        let Some((mem, indexed)) = self.place_address(place, copy) else {
            return self.store_strided(copy, place, reg);
        };
        if self.masked && indexed {
            let len = Len::of(bytes);
            return match self.g.a.isa {
                Isa::Avx512 if self.mostly_whole => self.unless_part(
                    |body| body.store_bytes(reg, mem, bytes),
                    |body| body.store_masked(reg, mem, size, len),
                ),
                Isa::Avx512 => self.store_masked(reg, mem, size, len),
                Isa::Avx2 => match self.lane_mask(size) {
                    Some(mask) if size >= 4 => {
                        self.emit(masked_store_vex(size), len, reg, mask, memory(mem, len.bytes()), None);
                    }
                    _ => {
                        let buffer = self.g.strided_buffer();
                        self.g.store_slot(buffer, reg, len);
                        self.g.a.lea(RCX, mem);
                        self.g.a.mov_imm(RDX, size as i64);
                        self.copy_strided(buffer, size, false);
                    }
                },
            };
        }
        if self.streamed == Some(place) {
            return self.emit(STREAM, Len::of(bytes), reg, 0, memory(mem, bytes), None);
        }
        self.store_bytes(reg, mem, bytes);
    }

    /// Emits an access to all lanes, and one to those that exist for when not all do. An access with a mask is slow where the
    /// memory is in no cache, whatever the mask: 2.2 ns an element against 1.0 in a loop over 24 MB.
    fn unless_part(&mut self, whole: impl FnOnce(&mut Self), part: impl FnOnce(&mut Self)) {
        let (in_part, done) = (self.g.a.label(), self.g.a.label());
        let rest = self.g.rest_slot();
        self.g.a.compare_mem(rest.mem(), self.lanes as i8);
        self.g.a.jump_if(Cond::NotEqual, in_part);
        whole(self);
        self.g.a.jump(done);
        self.g.a.bind(in_part);
        part(self);
        self.g.a.bind(done);
    }

    /// Stores the lanes that exist.
    fn store_masked(&mut self, reg: u8, mem: Mem, size: usize, len: Len) {
        let operand = memory(mem, len.bytes());
        self.emit_masked(masked_store(size), len, reg, 0, operand, None, LANE_MASK, false);
    }

    /// RCX: the first element of a copy; RDX: the stride. R11 may be lost.
    pub(super) fn strided_start(&mut self, copy: usize, place: PlaceId) {
        if let Some((mem, stride)) = self.rows_address(place) {
            self.g.a.lea(RCX, mem);
            return self.g.a.load(RDX, stride.mem());
        }
        let place = self.places[place as usize];
        match place.step {
            Step::Strided(stride) => self.g.a.load(RDX, stride.mem()),
            _ => self.g.a.mov_imm(RDX, place.dtype.size() as i64),
        }
        let ahead = copy * self.lanes;
        if ahead == 0 {
            self.g.a.mov(RCX, RAX);
        } else {
            self.g.a.lea(RCX, Mem::at(RAX, ahead as i32));
        }
        self.g.a.imul(RCX, RDX);
        self.g.add_base(place.base);
    }

    /// The address of the first element and the stride, if the step is by rows. R11 may be lost.
    fn rows_address(&mut self, place: PlaceId) -> Option<(Mem, Slot)> {
        let place = self.places[place as usize];
        let Step::Rows(stride) = place.step else { return None };
        Some((self.g.base_mem(place.base), stride))
    }

    /// Calls `each` for every lane with its address, which RCX, RDX and R11 make up.
    fn each_strided(&mut self, mut each: impl FnMut(&mut Self, usize, Mem)) {
        for lane in 0..self.lanes {
            match lane % 4 {
                0 => {
                    if lane > 0 {
                        self.g.a.lea(RCX, Mem { base: RCX, index: Some((RDX, 2)), disp: 0 });
                    }
                    each(self, lane, Mem::at(RCX, 0));
                }
                1 => each(self, lane, Mem { base: RCX, index: Some((RDX, 0)), disp: 0 }),
                2 => each(self, lane, Mem { base: RCX, index: Some((RDX, 1)), disp: 0 }),
                _ => {
                    self.g.a.lea(R11, Mem { base: RCX, index: Some((RDX, 0)), disp: 0 });
                    each(self, lane, Mem { base: R11, index: Some((RDX, 1)), disp: 0 });
                }
            }
        }
    }

    fn load_strided(&mut self, copy: usize, place: PlaceId, reg: u8) {
        let size = self.places[place as usize].dtype.size();
        let bytes = self.lanes * size;
        if self.masked {
            self.strided_start(copy, place);
            return self.load_through_buffer(reg, size);
        }
        let per_part = 16 / size;
        // Before the jumps: it may have to make room.
        let part = if bytes > 16 { self.temp() } else { reg };
        let done = self.g.a.label();
        if let Some((mem, stride)) = self.rows_address(place) {
            self.g.a.compare_mem(stride.mem(), size as i8);
            self.g.unless(Cond::NotEqual, |g| {
                let (op, len) = load_for(bytes);
                g.a.vector(op, len, reg, 0, Rm::Mem(mem), None, PLAIN, bytes);
                g.a.jump(done);
            });
            self.g.a.compare_mem(stride.mem(), 0);
            self.g.unless(Cond::NotEqual, |g| {
                g.a.vector(splat(size), Len::of(bytes), reg, 0, Rm::Mem(mem), None, PLAIN, size);
                g.a.jump(done);
            });
        }
        self.strided_start(copy, place);
        self.each_strided(|body, lane, mem| {
            let (index, first_part) = (lane % per_part, lane < per_part);
            let to = if first_part { reg } else { part };
            let last = memory(mem, size);
            match (size, index) {
                (8, 0) => body.emit(LOAD_LOW, Len::L128, to, 0, last, None),
                (8, _) => body.emit(LOAD_HIGH, Len::L128, to, to, last, None),
                (4, 0) => body.emit(LOAD_4, Len::L128, to, 0, last, None),
                (4, _) => body.emit(INSERT_D, Len::L128, to, to, last, Some(index as u8)),
                (2, 0) => body.emit(SPLAT_W, Len::L128, to, 0, last, None),
                (2, _) => body.emit(INSERT_W, Len::L128, to, to, last, Some(index as u8)),
                (_, 0) => body.emit(SPLAT_B, Len::L128, to, 0, last, None),
                (_, _) => body.emit(INSERT_B, Len::L128, to, to, last, Some(index as u8)),
            }
            if !first_part && index == per_part - 1 {
                let len = Len::of(bytes);
                body.emit(INSERT_128, len, reg, reg, Operand::reg(to), Some((lane / per_part) as u8));
            }
        });
        self.g.a.bind(done);
    }

    fn store_strided(&mut self, copy: usize, place: PlaceId, reg: u8) {
        let size = self.places[place as usize].dtype.size();
        let bytes = self.lanes * size;
        if self.masked {
            let buffer = self.g.strided_buffer();
            self.g.store_slot(buffer, reg, Len::of(bytes));
            self.strided_start(copy, place);
            return self.copy_strided(buffer, size, false);
        }
        let per_part = 16 / size;
        let part = if bytes > 16 { self.temp() } else { reg };
        let done = self.g.a.label();
        if let Some((mem, stride)) = self.rows_address(place) {
            let apart = self.g.a.label();
            self.g.a.compare_mem(stride.mem(), size as i8);
            self.g.a.jump_if(Cond::NotEqual, apart);
            self.store_bytes(reg, mem, bytes);
            self.g.a.jump(done);
            self.g.a.bind(apart);
        }
        self.strided_start(copy, place);
        self.each_strided(|body, lane, mem| {
            let index = lane % per_part;
            let from = if lane < per_part { reg } else { part };
            if lane >= per_part && index == 0 {
                let len = Len::of(bytes);
                body.emit(EXTRACT_128, len, reg, 0, Operand::reg(part), Some((lane / per_part) as u8));
            }
            let last = memory(mem, size);
            match (size, index) {
                (8, 0) => body.emit(STORE_LOW, Len::L128, from, 0, last, None),
                (8, _) => body.emit(STORE_HIGH, Len::L128, from, 0, last, None),
                (4, _) => body.emit(EXTRACT_D, Len::L128, from, 0, last, Some(index as u8)),
                (2, _) => body.emit(STORE_2, Len::L128, from, 0, last, Some(index as u8)),
                (_, _) => body.emit(STORE_1, Len::L128, from, 0, last, Some(index as u8)),
            }
        });
        self.g.a.bind(done);
    }

    /// Copies the elements that exist, one or more, between a strided place (RCX, RDX) and a buffer. R11: how many; R15: the
    /// last one.
    pub(super) fn copy_strided(&mut self, buffer: Slot, size: usize, load: bool) {
        let rest = self.g.rest_slot();
        self.g.a.mov_imm(R11, 0);
        let again = self.g.a.here();
        let inside = Mem { index: Some((R11, size.trailing_zeros() as u8)), ..buffer.mem() };
        let (from, to) = if load { (Mem::at(RCX, 0), inside) } else { (inside, Mem::at(RCX, 0)) };
        self.g.a.load_int(R15, from, size, false);
        self.g.a.store_int(to, R15, size);
        self.g.a.alu(Alu::Add, RCX, RDX);
        self.g.a.alu_imm(Alu::Add, R11, 1);
        self.g.a.alu_mem(Alu::Cmp, R11, rest.mem());
        self.g.a.jump_if(Cond::Below, again);
    }
}
