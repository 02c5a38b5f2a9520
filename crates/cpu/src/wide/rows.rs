//! Row kernels: for each row the stages in order, each of them a phase, and the merging of leaves after a loop.

use super::asm::{Alu, Cond, Gpr, Label, Mem, R8, R9, R10, R11, R12, R13, R14, RAX, RBX, RCX, RDI, RDX, RSI, Shift};
use super::body::Body;
use super::program::{Args, Base, Node, NodeId, Place, PlaceId, Program, RarePart, Slot, Step, What};
use super::{Gen, across, asm::Isa, call_offset, fold, whole};
use crate::clif::{Analysis, OperandAt, operands_of, stage_is_empty};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::rare::Rare;
use numfuse_core::kernel::{Access, Inst, Kernel, Level, Nest, Prim, Role, Stage, StageKind, Value};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::mem::offset_of;

/// Registers for base addresses.
const BASES: [Gpr; 7] = [RSI, R8, R9, R10, R12, R13, R14];
/// Two copies of a body with at most so many nodes hide each other's latencies; four of one with at most so many.
const COPIED_NODES: [usize; 2] = [64, 20];
/// A body that has more nodes than this is long: so long that it is emitted once. With AVX-512 that is with masks, which cost
/// next to nothing then; without strided elements, and with them: they are quicker to get without masks.
const LONG_NODES: (usize, usize) = (40, 128);
/// With so many vectors or more it pays to begin with a part of one, so that the stores of the others are aligned. Vectors
/// of 64 bytes that are not aligned straddle two cache lines each, and masks are quick where there are such vectors. Of
/// those of 32 bytes it is every other one: rows of 400 and of 1000 elements that stay in the caches took up to a quarter
/// longer with a part first (Zen 3), a row of 8000 3 % less.
const ALIGN_FROM: (usize, usize) = (512, 16);
/// The same for stores past the caches, which have to be aligned.
const STREAM_FROM: usize = 16;
/// A body of so many nodes may wait for memory, so that it matters how much goes there and back.
const STREAMING_NODES: usize = 32;
/// A loop that touches so many bytes asks for cache lines so many bytes ahead: what is not in the first cache of a core, but in the
/// second, takes up to a quarter less time then. If all is in the first cache the requests are in the way of the loads.
const AHEAD_FROM: usize = 32 << 10;
const AHEAD: i32 = 1 << 10;
/// Reductions, and loops that store past the caches, ask for what they load so many bytes ahead, however long they are: they take
/// up to a third less time.
pub(super) const FAR_AHEAD: i32 = 2 << 10;
/// The others have no more nodes and places than these: with more, the requests take as long as they save.
const AHEAD_MOST: (usize, usize) = (12, 3);

/// Emits the code of a row kernel.
pub(super) fn emit(g: &mut Gen<'_>) {
    g.a.mov_imm(RBX, 0);
    across::emit(g);
    let (head, exit) = (g.a.label(), g.a.label());
    g.a.bind(head);
    g.a.alu_mem(Alu::Cmp, RBX, Mem::at(RDI, call_offset!(rows)));
    g.a.jump_if(Cond::AboveEqual, exit);
    for stage in 0..g.kernel.stages.len() {
        if stage_is_empty(g.kernel, stage) {
            continue;
        }
        phase(g, 2 * stage, |g| match g.kernel.stages[stage].kind {
            StageKind::Row if g.rows_are_loaded_late => {}
            StageKind::Row => row_stage(g, stage),
            StageKind::Loop => {
                g.load_call(RCX, call_offset!(begin));
                g.a.alu_mem(Alu::Cmp, RCX, Mem::at(RDI, call_offset!(end)));
                g.unless(Cond::AboveEqual, |g| {
                    if g.kernel.reductions_of(stage).next().is_some() {
                        fold::leaves(g, stage);
                    } else {
                        loop_stage(g, stage);
                    }
                });
            }
        });
        if g.kernel.reductions_of(stage).next().is_some() {
            phase(g, 2 * stage + 1, |g| fold::merge_leaves(g, stage));
        }
    }
    g.a.alu_imm(Alu::Add, RBX, 1);
    g.a.jump(head);
    g.a.bind(exit);
}

/// True if row stages compute nothing, but at most load elements, and nothing that the loop needs is lost if it loads them itself.
pub(super) fn are_loaded_late(kernel: &Kernel, analysis: &Analysis) -> bool {
    let mut rows = kernel.stages.iter().filter(|stage| stage.kind == StageKind::Row).flat_map(Stage::values);
    analysis.splittable && rows.all(|v| matches!(kernel.inst(v), Inst::Const(_) | Inst::Param(_) | Inst::Load(_)))
}

/// Emits a phase, skipped unless the call asks for it. Splittable kernels always run all phases.
fn phase(g: &mut Gen<'_>, number: usize, emit: impl FnOnce(&mut Gen<'_>)) {
    if g.analysis.splittable {
        return emit(g);
    }
    g.a.mov_imm(RCX, number as i64);
    g.load_call(R11, call_offset!(first));
    g.load_call(RDX, call_offset!(last));
    g.a.alu(Alu::Sub, RCX, R11);
    g.a.alu(Alu::Sub, RDX, R11);
    g.a.alu(Alu::Cmp, RCX, RDX);
    g.unless(Cond::AboveEqual, emit);
}

fn row_stage(g: &mut Gen<'_>, stage: usize) {
    let mut stage = StageProgram::new(g, stage, true);
    stage.add_insts(g);
    let program = stage.finish(g);
    run_once(g, &program);
}

/// Emits a program that runs once.
pub(super) fn run_once(g: &mut Gen<'_>, program: &Program) {
    Body::new(g, program, &[], 1, false).emit_nodes();
}

fn loop_stage(g: &mut Gen<'_>, stage: usize) {
    let mut stage = StageProgram::new(g, stage, false);
    stage.add_insts(g);
    let outputs = stage.outputs();
    if g.a.isa == Isa::Avx512 && stage.program.waits_for_divider() {
        stage.program.most_lanes = (g.a.isa.bytes() / 2 / stage.program.widest()).max(1);
    }
    let program = stage.finish(g);
    g.load_call(RAX, call_offset!(begin));
    g.load_call(RCX, call_offset!(end));
    let end = g.word_slot();
    g.a.store(end.mem(), RCX);
    let homes = Body::new(g, &program, &[], 1, false).emit_uniforms();
    let copies = copies_for(&program, g.a.isa, usize::MAX);
    if g.a.isa == Isa::Avx2 && copies == 1 && program.varying() > LONG_NODES.0 {
        whole::emit(g, &program, &homes, end);
    } else {
        loops_aligned(g, &program, &homes, copies, end, &outputs);
    }
}

/// How many copies of a body overlap well and fit the registers; a power of two, with no more than `most` lanes.
pub(super) fn copies_for(program: &Program, isa: Isa, most: usize) -> usize {
    let live = program.max_live(isa).max(1);
    // Steps to a square root wait for each other, one after the other: there have to be others in between.
    let nodes = if program.has_roots() { program.varying() / 4 } else { program.varying() }.max(1);
    let registers = usize::from(isa.registers()) - 4;
    let mut copies = 1;
    for most_nodes in COPIED_NODES {
        let more = 2 * copies;
        if more * live > registers || nodes > most_nodes || more * program.lanes > most {
            break;
        }
        copies = more;
    }
    copies
}

/// Emits the loops over all elements from RAX to `end`: whole bodies, and what is left.
pub(super) fn loops(g: &mut Gen<'_>, program: &Program, homes: &[Option<Slot>], copies: usize, end: Slot) {
    if is_emitted_once(g, program, copies) {
        return rest_loop(g, program, homes, end, true);
    }
    main_loop(g, program, homes, copies, end, Caching::Plain);
    rest_loop(g, program, homes, end, false);
}

/// True for a long body if masks cost next to nothing.
fn is_emitted_once(g: &Gen<'_>, program: &Program, copies: usize) -> bool {
    let strided = program.places.iter().any(|place| matches!(place.step, Step::Strided(_)));
    let long = if strided { LONG_NODES.1 } else { LONG_NODES.0 };
    g.a.isa == Isa::Avx512 && copies == 1 && program.varying() > long
}

/// The same as [`loops`] for loops that store to outputs of adjacent elements: the loop over what is left comes first, too,
/// up to where the vectors of an output begin at multiples of their size. Then they do not straddle cache lines, neither do
/// loads of arrays that begin at the same offset in their lines, as those of one library often do; and they can go past
/// the caches.
fn loops_aligned(
    g: &mut Gen<'_>,
    program: &Program,
    homes: &[Option<Slot>],
    copies: usize,
    end: Slot,
    outputs: &[PlaceId],
) {
    let place = |output: &PlaceId| program.places[*output as usize];
    let widest = outputs.iter().copied().max_by_key(|output| place(output).dtype.size());
    let Some(output) = widest.filter(|_| !is_emitted_once(g, program, copies)) else {
        return loops(g, program, homes, copies, end);
    };
    let bytes = program.lanes * place(&output).dtype.size();
    let streams = outputs.len() == 1 && program.varying() <= STREAMING_NODES && bytes >= Isa::Avx2.bytes();
    let (main, rest) = (g.a.label(), g.a.label());
    let until = g.word_slot();
    g.a.load(RCX, end.mem());
    g.a.alu(Alu::Sub, RCX, RAX);
    let align_from = if g.a.isa == Isa::Avx512 { ALIGN_FROM.1 } else { ALIGN_FROM.0 };
    if streams && align_from > STREAM_FROM {
        let aligns = g.a.label();
        g.a.alu_imm(Alu::Cmp, RCX, (align_from * program.lanes) as i32);
        g.a.jump_if(Cond::AboveEqual, aligns);
        g.a.compare_mem(Mem::at(RDI, call_offset!(streams)), 0);
        g.a.jump_if(Cond::Equal, main);
        g.a.alu_imm(Alu::Cmp, RCX, (STREAM_FROM * program.lanes) as i32);
        g.a.jump_if(Cond::Below, main);
        g.a.bind(aligns);
    } else {
        g.a.alu_imm(Alu::Cmp, RCX, (align_from * program.lanes) as i32);
        g.a.jump_if(Cond::Below, main);
    }
    address(g, place(&output));
    g.a.neg(RCX);
    g.a.shift(Shift::Right, RCX, place(&output).dtype.size().trailing_zeros() as u8);
    g.a.alu_imm(Alu::And, RCX, program.lanes as i32 - 1);
    g.a.jump_if(Cond::Equal, main);
    g.a.alu(Alu::Add, RCX, RAX);
    g.a.store(until.mem(), RCX);
    g.a.jump(rest);
    g.a.bind(main);
    let after = g.a.label();
    if streams {
        g.streams = true;
        let caches = g.a.label();
        g.a.compare_mem(Mem::at(RDI, call_offset!(streams)), 0);
        g.a.jump_if(Cond::Equal, caches);
        // It may be short, or an array whose elements are not where they should be.
        address(g, place(&output));
        g.a.test_imm(RCX, bytes as u32 - 1);
        g.a.jump_if(Cond::NotEqual, caches);
        main_loop(g, program, homes, copies, end, Caching::Past(output));
        g.a.jump(after);
        g.a.bind(caches);
        if asks_ahead(g, program) {
            let near = g.a.label();
            g.a.load(RCX, end.mem());
            g.a.alu(Alu::Sub, RCX, RAX);
            let bytes: usize = adjacent(program).map(|place| place.dtype.size()).sum();
            g.a.alu_imm(Alu::Cmp, RCX, (AHEAD_FROM / bytes) as i32);
            g.a.jump_if(Cond::Below, near);
            main_loop(g, program, homes, copies, end, Caching::Ahead);
            g.a.jump(after);
            g.a.bind(near);
        }
    }
    main_loop(g, program, homes, copies, end, Caching::Plain);
    g.a.bind(after);
    g.a.load(RCX, end.mem());
    g.a.store(until.mem(), RCX);
    g.a.bind(rest);
    rest_loop(g, program, homes, until, false);
    // That loop steps by whole vectors.
    g.a.load(RAX, until.mem());
    g.a.alu_mem(Alu::Cmp, RAX, end.mem());
    g.a.jump_if(Cond::Below, main);
}

/// True for a loop that waits for memory more than for anything else, if there is much of it.
fn asks_ahead(g: &Gen<'_>, program: &Program) -> bool {
    let (nodes, places) = AHEAD_MOST;
    g.a.isa == Isa::Avx512 && program.varying() <= nodes && adjacent(program).count() <= places
}

/// Places that each body reads or writes other elements of.
fn adjacent(program: &Program) -> impl Iterator<Item = &Place> {
    program.places.iter().filter(|place| place.step == Step::Unit)
}

/// RCX: the address of the element at RAX.
fn address(g: &mut Gen<'_>, place: Place) {
    g.a.mov(RCX, RAX);
    g.a.shift(Shift::Left, RCX, place.dtype.size().trailing_zeros() as u8);
    g.add_base(place.base);
}

/// What a loop does about the caches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caching {
    Plain,
    /// It asks for the lines that it will need [`AHEAD`].
    Ahead,
    /// Its stores to a place go past them, and it asks for what it will load.
    Past(PlaceId),
}

/// Emits the loop over whole bodies, from RAX as long as they fit before `end`. Returns where it is entered without asking
/// whether one fits.
pub(super) fn main_loop(
    g: &mut Gen<'_>,
    program: &Program,
    homes: &[Option<Slot>],
    copies: usize,
    end: Slot,
    caching: Caching,
) -> Label {
    let step = (copies * program.lanes) as i32;
    let mut body = Body::new(g, program, homes, copies, false);
    if let Caching::Past(place) = caching {
        body.streamed = Some(place);
    }
    let exit = body.g.a.label();
    body.g.a.lea(RCX, Mem::at(RAX, step));
    body.g.a.alu_mem(Alu::Cmp, RCX, end.mem());
    body.g.a.jump_if(Cond::Above, exit);
    let enter = body.g.a.here();
    body.pin_uniforms();
    body.g.a.align_loop();
    let again = body.g.a.here();
    match caching {
        Caching::Plain => {}
        Caching::Ahead => body.prefetch(AHEAD, true),
        Caching::Past(_) => body.prefetch(FAR_AHEAD, false),
    }
    body.emit_nodes();
    g.a.alu_imm(Alu::Add, RAX, step);
    g.a.lea(RCX, Mem::at(RAX, step));
    g.a.alu_mem(Alu::Cmp, RCX, end.mem());
    g.a.jump_if(Cond::BelowEqual, again);
    g.a.bind(exit);
    enter
}

/// Emits the loop over what is left from RAX to `end`, a body of some lanes at a time. If it is `all`, uniform values
/// are worth registers.
pub(super) fn rest_loop(g: &mut Gen<'_>, program: &Program, homes: &[Option<Slot>], end: Slot, all: bool) {
    let lanes = program.lanes as i32;
    let exit = g.a.label();
    g.a.alu_mem(Alu::Cmp, RAX, end.mem());
    g.a.jump_if(Cond::AboveEqual, exit);
    let rest = g.rest_slot();
    let mut body = Body::new(g, program, homes, 1, true);
    body.mostly_whole = all;
    body.reserve_lane_masks();
    if all {
        body.pin_uniforms();
    }
    let part = body.g.a.here();
    body.g.a.load(RCX, end.mem());
    body.g.a.alu(Alu::Sub, RCX, RAX);
    body.g.limit_rcx(program.lanes);
    body.g.a.store(rest.mem(), RCX);
    body.set_lane_masks();
    if all {
        body.g.a.align_loop();
    }
    let whole = body.g.a.here();
    body.emit_nodes();
    g.a.alu_imm(Alu::Add, RAX, lanes);
    if all {
        // With a whole body left this one was whole too: all lanes still exist.
        g.a.lea(RCX, Mem::at(RAX, lanes));
        g.a.alu_mem(Alu::Cmp, RCX, end.mem());
        g.a.jump_if(Cond::BelowEqual, whole);
    }
    g.a.alu_mem(Alu::Cmp, RAX, end.mem());
    g.a.jump_if(Cond::Below, part);
    g.a.bind(exit);
}

/// Where values lie if a vector has one lane for each of several rows: vectors in the stack frame.
#[derive(Clone, Debug)]
pub(super) struct Across {
    /// For each word of the frame.
    pub frame: Vec<Slot>,
    /// For each scratch slot an array of vectors.
    pub scratch: Vec<Slot>,
    /// For each state component an array of vectors.
    pub states: Vec<Slot>,
    /// Where each operand is; inputs that vary along the rows in adjacent rows.
    pub operands: Vec<OperandSlots>,
}

/// Slots with the place of an operand: as [`OperandAt`] has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OperandSlots {
    pub pointer: Slot,
    pub row: Slot,
    pub inner: Slot,
}

/// A program being made from a stage of the kernel.
pub(super) struct StageProgram {
    pub program: Program,
    stage: usize,
    /// Where values lie if a vector has one lane for each of several rows.
    pub across: Option<Across>,
    /// The node of each value of the kernel that has one.
    nodes: Vec<Option<NodeId>>,
    /// The places of operands and of scratch slots.
    places: FxHashMap<(bool, u32), PlaceId>,
    bases: usize,
    /// Column kernels: where the results of reductions are, for the last stage.
    pub reduced: Vec<PlaceId>,
    /// For each value of the kernel [`Known::Nowhere`], but while rare work is taken out.
    rare_nodes: Vec<Known>,
}

/// What is known of a value in rare work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nowhere,
    /// It is going to be computed.
    Later,
    As(NodeId),
}

impl StageProgram {
    pub fn new(g: &Gen<'_>, stage: usize, straight: bool) -> StageProgram {
        let mut program = if straight { Program::straight(1) } else { Program::default() };
        // About as many nodes as the stage has instructions, and constants of others.
        program.nodes.reserve(g.kernel.stages[stage].values().len() * 5 / 4 + 16);
        StageProgram {
            program,
            stage,
            across: None,
            nodes: vec![None; g.kernel.insts.len()],
            places: FxHashMap::default(),
            bases: 0,
            reduced: Vec::new(),
            rare_nodes: Vec::new(),
        }
    }

    /// The node of a value: of this stage, or a constant, a parameter or a row value of another one.
    pub fn node(&mut self, g: &mut Gen<'_>, v: Value) -> NodeId {
        if let Some(node) = self.nodes[v.index()] {
            return node;
        }
        let dtype = g.kernel.dtype(v);
        let node = match (g.kernel.inst(v), g.analysis.frame_slots[v.index()]) {
            (Inst::Const(literal), _) => self.program.constant(*literal),
            (Inst::Param(n), _) => self.program.push(What::Param(*n), dtype, &[]),
            (Inst::Load(n), _) if g.rows_are_loaded_late && self.across.is_none() => {
                self.program.push(What::Row(*n), dtype, &[])
            }
            (_, Some(word)) if self.across.is_some() => {
                let place = self.across_frame(word, dtype);
                self.program.push(What::Load(place), dtype, &[])
            }
            (_, Some(word)) => self.program.push(What::Frame(word), dtype, &[]),
            (_, None) => {
                g.refuse("a row value has no place");
                self.program.push(What::Frame(0), dtype, &[])
            }
        };
        self.nodes[v.index()] = Some(node);
        node
    }

    /// Says which node a value is.
    pub fn set(&mut self, v: Value, node: NodeId) {
        self.nodes[v.index()] = Some(node);
    }

    /// A register for a base address, or a stack slot if there is none left. The address is in RCX.
    pub fn base(&mut self, g: &mut Gen<'_>) -> Base {
        match BASES.get(self.bases) {
            Some(base) => {
                self.bases += 1;
                g.a.mov(*base, RCX);
                Base::Gpr(*base)
            }
            None => {
                let slot = g.word_slot();
                g.a.store(slot.mem(), RCX);
                Base::Spilled(slot)
            }
        }
    }

    /// The place of a memory operand at the row in RBX.
    pub fn operand_place(&mut self, g: &mut Gen<'_>, n: u32, fixed: bool) -> PlaceId {
        if let Some(place) = self.places.get(&(true, n)) {
            return *place;
        }
        let operand = &g.kernel.operands[n as usize];
        if let Some(across) = &self.across {
            let at = across.operands[n as usize];
            let base = self.row_base(g, at);
            // The loop over the inner elements moves the base.
            let adjacent = operand.level == Level::Inner && operand.role == Role::In;
            let step = if adjacent { Step::Fixed } else { Step::Rows(at.row) };
            let place = self.program.place(Place { base, step, dtype: operand.dtype });
            self.places.insert((true, n), place);
            return place;
        }
        g.load_row_address(n);
        let base = self.base(g);
        let step = match operand.access {
            _ if fixed => Step::Fixed,
            Access::Unit => Step::Unit,
            Access::Broadcast => Step::Fixed,
            Access::Strided => {
                let slot = g.word_slot();
                let at = n as usize * size_of::<OperandAt>() + offset_of!(OperandAt, inner);
                g.a.load(RCX, Mem::at(RDX, at as i32));
                g.a.store(slot.mem(), RCX);
                Step::Strided(slot)
            }
        };
        let place = self.program.place(Place { base, step, dtype: operand.dtype });
        self.places.insert((true, n), place);
        place
    }

    /// The address of an operand's element in the row in RAX.
    pub fn row_base(&mut self, g: &mut Gen<'_>, at: OperandSlots) -> Base {
        g.a.mov(RCX, RAX);
        g.a.imul_mem(RCX, at.row.mem());
        g.a.alu_mem(Alu::Add, RCX, at.pointer.mem());
        self.base(g)
    }

    fn scratch_place(&mut self, g: &mut Gen<'_>, n: u32) -> PlaceId {
        if let Some(place) = self.places.get(&(false, n)) {
            return *place;
        }
        if let Some(across) = &self.across {
            let base = Base::Stack(across.scratch[n as usize]);
            let dtype = g.kernel.scratch[n as usize];
            let place = self.program.place(Place { base, step: Step::Vectors, dtype });
            self.places.insert((false, n), place);
            return place;
        }
        let before: usize = g.kernel.scratch[..n as usize].iter().map(|d| d.size()).sum();
        g.load_call(RCX, call_offset!(scratch_len));
        g.a.imul_imm(RCX, RCX, before as i32);
        g.a.alu_mem(Alu::Add, RCX, Mem::at(RDI, call_offset!(scratch)));
        let base = self.base(g);
        let place = self.program.place(Place { base, step: Step::Unit, dtype: g.kernel.scratch[n as usize] });
        self.places.insert((false, n), place);
        place
    }

    /// Appends the instructions of the stage.
    pub fn add_insts(&mut self, g: &mut Gen<'_>) {
        let kernel = g.kernel;
        let looks = !self.program.straight || self.across.is_some();
        let parts = if looks { g.analysis.rare[self.stage].as_slice() } else { &[] };
        if parts.is_empty() {
            return kernel.stages[self.stage].values().for_each(|v| self.add_inst(g, v));
        }
        let mut deferred = vec![false; kernel.insts.len()];
        for v in parts.iter().flat_map(|part| part.needed.iter().chain(&part.selects)) {
            deferred[v.index()] = true;
        }
        // In the order of their first selections.
        let mut parts = parts.iter().peekable();
        for v in kernel.stages[self.stage].values() {
            while let Some(part) = parts.next_if(|part| part.selects[0] == v) {
                self.add_rare(g, part);
            }
            if !deferred[v.index()] {
                self.add_inst(g, v);
            }
        }
    }

    pub fn add_inst(&mut self, g: &mut Gen<'_>, v: Value) {
        let kernel = g.kernel;
        let dtype = kernel.dtype(v);
        let node = match kernel.inst(v) {
            Inst::Const(_) | Inst::Param(_) => {
                self.node(g, v);
                return;
            }
            Inst::Prim(prim, args) => {
                let args = Args::new(args.len(), |i| self.node(g, args[i]));
                match prim {
                    Prim::Div => self.program.divide(g.a.isa, dtype, args[0], args[1]),
                    _ => self.program.prim(g.a.isa, *prim, dtype, args),
                }
            }
            Inst::Load(n) => {
                let row = self.program.straight && self.across.is_none();
                let splat = !self.program.straight && kernel.operands[*n as usize].access == Access::Broadcast;
                let place = self.operand_place(g, *n, row);
                self.program.push(if splat { What::Splat(place) } else { What::Load(place) }, dtype, &[])
            }
            Inst::Store(n, x) => {
                let x = self.node(g, *x);
                let place = self.operand_place(g, *n, self.program.straight);
                self.program.push(What::Store(place), dtype, &[x])
            }
            Inst::ScratchLoad(n) => {
                let place = self.scratch_place(g, *n);
                self.program.push(What::Load(place), dtype, &[])
            }
            Inst::ScratchStore(n, x) => {
                let x = self.node(g, *x);
                let place = self.scratch_place(g, *n);
                self.program.push(What::Store(place), dtype, &[x])
            }
            Inst::Reduced(n) if self.across.is_some() => {
                let component = g.analysis.components[*n as usize] + kernel.reductions[*n as usize].reducer.result();
                let slot = self.across.as_ref().map_or(Slot(0), |across| across.states[component]);
                let place = self.program.place(Place { base: Base::Stack(slot), step: Step::Fixed, dtype });
                self.program.push(What::Load(place), dtype, &[])
            }
            Inst::Reduced(n) if self.program.straight => {
                let component = g.analysis.components[*n as usize] + kernel.reductions[*n as usize].reducer.result();
                g.load_component(call_offset!(states), component);
                let base = self.base(g);
                let place = self.program.place(Place { base, step: Step::Fixed, dtype });
                self.program.push(What::Load(place), dtype, &[])
            }
            Inst::Reduced(n) => match self.reduced.get(*n as usize) {
                Some(place) => self.program.push(What::Load(*place), dtype, &[]),
                None => return g.refuse("the result of a reduction in a loop"),
            },
            Inst::Arg(_) => return g.refuse("an argument in a kernel"),
        };
        self.nodes[v.index()] = Some(node);
        // A column kernel has no frame: whoever needs a row value computes it.
        if self.program.straight
            && kernel.nest == Nest::Rows
            && let Some(word) = g.analysis.frame_slots[v.index()]
            && !matches!(kernel.inst(v), Inst::Store(..))
        {
            let what = match self.across {
                Some(_) => What::Store(self.across_frame(word, dtype)),
                None => What::StoreFrame(word),
            };
            self.program.push(what, dtype, &[node]);
        }
    }

    /// The place of a row value, if a vector has one lane for each of several rows.
    fn across_frame(&mut self, word: u32, dtype: DType) -> PlaceId {
        let slot = self.across.as_ref().map_or(Slot(0), |across| across.frame[word as usize]);
        self.program.place(Place { base: Base::Stack(slot), step: Step::Fixed, dtype })
    }

    /// The outputs of adjacent elements.
    fn outputs(&self) -> SmallVec<[PlaceId; 2]> {
        let is_output = |place: PlaceId| {
            let stores = |node: &Node| node.what == What::Store(place);
            self.program.places[place as usize].step == Step::Unit && self.program.nodes.iter().any(stores)
        };
        let mut outputs: SmallVec<[PlaceId; 2]> = self
            .places
            .iter()
            .filter(|((operand, _), place)| *operand && is_output(**place))
            .map(|(_, at)| *at)
            .collect();
        outputs.sort_unstable();
        outputs
    }

    /// The bases that move with the inner element, and by how much.
    pub fn moving(&self, across: &Across) -> SmallVec<[(Base, Slot); 8]> {
        let mut operands: SmallVec<[(u32, PlaceId); 8]> =
            self.places.iter().filter(|((operand, _), _)| *operand).map(|((_, n), place)| (*n, *place)).collect();
        operands.sort_unstable();
        let base = |place: PlaceId| self.program.places[place as usize].base;
        operands.into_iter().map(|(n, place)| (base(place), across.operands[n as usize].inner)).collect()
    }

    /// Appends rare work: as a part of its own, if the condition varies.
    fn add_rare(&mut self, g: &mut Gen<'_>, rare: &Rare) {
        let kernel = g.kernel;
        let condition = self.node(g, rare.condition);
        if self.program.class(condition) != super::program::Class::Varying {
            for v in rare.needed.iter().chain(&rare.selects) {
                self.add_inst(g, *v);
            }
            return;
        }
        let mut part = Program::default();
        part.nodes.reserve(rare.needed.len() * 3 / 2 + 16);
        let mut inputs: Vec<NodeId> = Vec::new();
        // The nodes that values have in the part. Those that it computes have none yet.
        let mut nodes = std::mem::take(&mut self.rare_nodes);
        nodes.resize(kernel.insts.len(), Known::Nowhere);
        for v in &rare.needed {
            nodes[v.index()] = Known::Later;
        }
        let mut outside: Vec<Value> = Vec::with_capacity(rare.needed.len());
        outside.push(rare.condition);
        for v in rare.selects.iter().chain(&rare.needed) {
            outside.extend_from_slice(operands_of(kernel.inst(*v)));
        }
        outside.retain(|v| {
            if nodes[v.index()] != Known::Nowhere {
                return false;
            }
            let dtype = kernel.dtype(*v);
            let node = match kernel.inst(*v) {
                Inst::Const(literal) => part.constant(*literal),
                _ => {
                    inputs.push(self.node(g, *v));
                    // Where it is is settled when the code is emitted.
                    let place = part.place(Place { base: Base::Stack(Slot(0)), step: Step::Unit, dtype });
                    part.push(What::Load(place), dtype, &[])
                }
            };
            nodes[v.index()] = Known::As(node);
            true
        });
        let lookup = |nodes: &[Known], v: Value| match nodes[v.index()] {
            Known::As(node) => node,
            Known::Nowhere | Known::Later => 0,
        };
        for v in rare.needed.iter().chain(&rare.selects) {
            if let Inst::Prim(prim, args) = kernel.inst(*v) {
                let args = Args::new(args.len(), |i| lookup(&nodes, args[i]));
                nodes[v.index()] = Known::As(part.prim(g.a.isa, *prim, kernel.dtype(*v), args));
            }
        }
        let places: SmallVec<[PlaceId; 2]> = rare
            .selects
            .iter()
            .map(|v| part.place(Place { base: Base::Stack(Slot(0)), step: Step::Unit, dtype: kernel.dtype(*v) }))
            .collect();
        for (select, place) in rare.selects.iter().zip(places) {
            part.push(What::Store(place), kernel.dtype(*select), &[lookup(&nodes, *select)]);
        }
        for v in outside.iter().chain(&rare.needed).chain(&rare.selects) {
            nodes[v.index()] = Known::Nowhere;
        }
        self.rare_nodes = nodes;
        let mut otherwise = SmallVec::new();
        for select in &rare.selects {
            if let Some(other) = operands_of(kernel.inst(*select)).get(2) {
                otherwise.push(self.node(g, *other));
            }
        }
        let program = self.program.rare_program(part);
        let at = self.program.nodes.len() as NodeId;
        for select in &rare.selects {
            let node = self.program.push(What::Rare, kernel.dtype(*select), &[]);
            self.nodes[select.index()] = Some(node);
        }
        self.program.rare.push(RarePart { at, otherwise, condition, inputs, program });
    }

    /// The program, ready to be emitted.
    pub fn finish(mut self, g: &mut Gen<'_>) -> Program {
        self.program.finish(g.a.isa);
        let lanes = self.program.lanes;
        for rare in &mut self.program.rare_programs {
            rare.most_lanes = lanes;
            rare.finish(g.a.isa);
        }
        self.program
    }
}
