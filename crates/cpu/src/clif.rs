//! Kernel to Cranelift IR: one function for each kernel, `extern "C" fn(*const Call)`.
//!
//! # The function
//!
//! A **rows** kernel ([`rows`]) loops over the last outer dimension and runs the stages of each row. A *phase* is a
//! stage (`2s`) or the merging of the leaves that the loop of stage `s` left behind (`2s + 1`); a [`Call`] names the
//! phases and the range of inner elements that it wants, so the driver may run whole rows, or one loop in pieces on
//! many threads. Row values that other stages use live in a *frame* in memory, which makes phases independent of each
//! other. A **columns** kernel ([`columns`]) has three entries instead, numbered like phases: fold a run of reduced
//! indices into the states of a tile of columns, merge two such states, and run the last stage.
//!
//! # Loops
//!
//! Each loop has a body for N lanes ([`vector`]) and one for a single element ([`scalar`]), which runs what is left
//! over. N is [`lanes_for`]: a few 128-bit registers of the widest dtype, fewer for long bodies. Reductions follow the
//! order of [`numfuse_core::kernel::reduce`] whatever N is ([`fold`]).
//!
//! # Invariants
//!
//! Nothing emitted can trap or needs a relocation. Memory is touched for elements of the range only, except that
//! padding of our own buffers may be. No recursion: bodies have thousands of instructions. To add a primitive, add it
//! to `scalar.rs` and, if the host has it, to `vector.rs`.

mod body;
mod cast;
mod columns;
mod fold;
mod rows;
mod scalar;
mod vector;

use crate::Error;
use crate::wide;
use cranelift_codegen::ir::{self, AbiParam, Block, InstBuilder, MemFlagsData, SigRef, Signature, Type, types};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use numfuse_core::kernel::rare::{Rare, rare};
use numfuse_core::kernel::{Access, Inst, Kernel, Level, Nest, Prim, Stage, StageKind, Value};
use rustc_hash::FxHashSet;
use std::mem::offset_of;

/// Where an operand is, for one call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct OperandAt {
    /// The element with all indices zero.
    pub pointer: *mut u8,
    /// Bytes from one row to the next: along the last outer dimension, or the last reduced one of column kernels.
    pub row: isize,
    /// Bytes from one inner element to the next.
    pub inner: isize,
}

/// The argument of the compiled function.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Call {
    /// One for each operand.
    pub operands: *const OperandAt,
    /// The bits of the parameters.
    pub params: *const u64,
    /// The row values that outlive their stage: [`Analysis::frame`] words.
    pub frame: *mut u64,
    /// Scratch slot `s` begins at `scratch_len` times the sizes of the slots before it.
    pub scratch: *mut u8,
    /// Elements of a scratch slot: at least `len`.
    pub scratch_len: usize,
    /// Rows: a word for each leaf of each state component. Columns: a block of states, see `columns.rs`.
    pub states: *mut u8,
    /// Columns: the block of states to merge into `states`.
    pub other: *const u8,
    /// Bytes from one state component to the next.
    pub state_stride: usize,
    /// Rows or reduced indices to run.
    pub rows: usize,
    /// The inner elements to run; a multiple of the leaf size if phases are run in pieces.
    pub begin: usize,
    /// One past the last inner element to run.
    pub end: usize,
    /// All inner elements.
    pub len: usize,
    /// The first phase to run.
    pub first: usize,
    /// One past the last phase to run.
    pub last: usize,
    /// Columns: reduced indices already in `states`.
    pub count: usize,
    /// Columns: reduced indices in `other`.
    pub other_count: usize,
    /// Whether outputs are written past the caches, if the code can do that: not 0.
    pub streams: usize,
    /// The routines that code of the wide tier calls.
    pub routines: *const wide::Table,
}

/// Bytes from one state to the next in a row kernel's states, whatever their dtype.
pub(crate) const STATE_WORD: usize = 8;

/// What the host can do, as far as the code differs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Fused multiply-add.
    pub fma: bool,
    /// Rounding to integers.
    pub round: bool,
    /// Vector instructions take memory operands at any address.
    pub unaligned: bool,
    /// How `extern "C"` functions are called.
    pub call_conv: CallConv,
    /// Whether to use vectors.
    pub vectorize: bool,
}

impl Target {
    /// The abilities of an instruction set with its flags.
    pub fn new(isa: &dyn TargetIsa, vectorize: bool) -> Target {
        let flag = |name: &str| isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true));
        let x86 = isa.name() == "x64";
        Target {
            fma: !x86 || (flag("has_fma") && flag("has_avx")),
            round: !x86 || flag("has_sse41"),
            unaligned: !x86 || flag("has_avx"),
            call_conv: isa.default_call_conv(),
            // Older hosts have no byte shuffle; Cranelift would call a function for it.
            vectorize: vectorize && (!x86 || (flag("has_ssse3") && flag("has_sse41"))),
        }
    }
}

/// What the driver has to know about a kernel besides its operands.
#[derive(Clone, Debug)]
pub(crate) struct Analysis {
    /// For each value the word of the frame that it lives in.
    pub frame_slots: Vec<Option<u32>>,
    /// Words of the frame.
    pub frame: usize,
    /// For each reduction its first state component.
    pub components: Vec<usize>,
    /// State components in all.
    pub states: usize,
    /// Bytes of an element in all scratch slots.
    pub scratch_bytes: usize,
    /// True if inner elements are independent, row stages may be repeated, and so the inner loop may be cut anywhere.
    pub splittable: bool,
    /// The rare work of each stage.
    pub rare: Vec<Vec<Rare>>,
}

impl Analysis {
    /// Looks at a kernel once.
    pub fn new(kernel: &Kernel) -> Analysis {
        let mut frame_slots = vec![None; kernel.insts.len()];
        let mut frame = 0;
        let mut use_value = |v: Value, stage: &Stage| {
            let outside = v.0 < stage.start || v.0 >= stage.end;
            let constant = || matches!(kernel.inst(v), Inst::Const(_) | Inst::Param(_));
            if outside && frame_slots[v.index()].is_none() && !constant() {
                frame_slots[v.index()] = Some(frame);
                frame += 1;
            }
        };
        for (s, stage) in kernel.stages.iter().enumerate() {
            for v in stage.values() {
                for operand in operands_of(kernel.inst(v)) {
                    use_value(*operand, stage);
                }
            }
            for (_, reduction) in kernel.reductions_of(s) {
                use_value(reduction.input, stage);
            }
        }
        let mut components = Vec::new();
        let mut states = 0;
        for reduction in &kernel.reductions {
            components.push(states);
            states += reduction.reducer.init(reduction.dtype).len();
        }
        let row_output =
            kernel.operands.iter().any(|o| o.level == Level::Row && o.role == numfuse_core::kernel::Role::Out);
        Analysis {
            rare: (0..kernel.stages.len()).map(|stage| rare(kernel, stage)).collect(),
            frame_slots,
            frame: frame as usize,
            components,
            states,
            scratch_bytes: kernel.scratch.iter().map(|d| d.size()).sum(),
            splittable: kernel.nest == Nest::Rows
                && kernel.reductions.is_empty()
                && kernel.scratch.is_empty()
                && !row_output,
        }
    }
}

/// The values that an instruction uses.
pub(crate) fn operands_of(inst: &Inst) -> &[Value] {
    match inst {
        Inst::Prim(_, args) => args,
        Inst::Store(_, v) | Inst::ScratchStore(_, v) => std::slice::from_ref(v),
        Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) | Inst::Load(_) | Inst::ScratchLoad(_) | Inst::Reduced(_) => &[],
    }
}

/// Lanes of the vector body of a loop stage; 1 means that it has none.
pub(crate) fn lanes_for(kernel: &Kernel, analysis: &Analysis, stage: usize, target: &Target) -> usize {
    if !target.vectorize {
        return 1;
    }
    let mut widest = 1;
    let mut ops = 0;
    let mut scalarised = 0;
    let range = &kernel.stages[stage];
    let rare: FxHashSet<Value> = analysis.rare[stage].iter().flat_map(|rare| &rare.needed).copied().collect();
    for v in range.values().filter(|v| !rare.contains(v)) {
        widest = widest.max(kernel.dtype(v).size());
        if let Inst::Prim(prim, args) = kernel.inst(v) {
            ops += 1;
            widest = widest.max(kernel.dtype(args[0]).size());
            let uniform = args.get(1).is_some_and(|count| count.0 < range.start);
            let operand = if *prim == Prim::Select { kernel.dtype(v) } else { kernel.dtype(args[0]) };
            if vector::is_scalarised(*prim, kernel.dtype(v), operand, uniform, target) {
                scalarised += 1;
            }
        }
        if let Inst::Load(n) | Inst::Store(n, _) = kernel.inst(v)
            && kernel.operands[*n as usize].access == Access::Strided
        {
            scalarised += 1;
        }
    }
    for (_, reduction) in kernel.reductions_of(stage) {
        widest = widest.max(reduction.dtype.size());
    }
    let one_part = 16 / widest;
    if scalarised * one_part > 256 {
        return 1;
    }
    let parts = match ops {
        _ if scalarised > 0 => 1,
        0..=30 => 4,
        31..=80 => 2,
        _ => 1,
    };
    one_part * parts
}

/// Emits the function of a kernel.
pub(crate) fn build(
    kernel: &Kernel,
    analysis: &Analysis,
    target: Target,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
) -> Result<(), Error> {
    func.signature = Signature::new(target.call_conv);
    func.signature.params.push(AbiParam::new(types::I64));
    let mut b = FunctionBuilder::new(func, context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let call = b.block_params(entry)[0];
    let mut g = Gen { b, target, signatures: Vec::new(), call, error: None };
    match kernel.nest {
        Nest::Rows => rows::emit(&mut g, kernel, analysis),
        Nest::Columns => columns::emit(&mut g, kernel, analysis),
    }
    g.b.ins().return_(&[]);
    g.b.seal_all_blocks();
    let error = g.error.take();
    g.b.finalize(isa.frontend_config());
    match error {
        None => Ok(()),
        Some(reason) => Err(Error::Internal(format!("{reason}\n{kernel}"))),
    }
}

/// The function being emitted.
pub(crate) struct Gen<'a> {
    /// The builder, at the place where code goes next.
    pub b: FunctionBuilder<'a>,
    /// What the host can do.
    pub target: Target,
    /// Signatures of called Rust functions.
    signatures: Vec<((usize, Type), SigRef)>,
    /// The function's argument.
    pub call: ir::Value,
    /// What the kernel asked for that it may not: a kernel that does not verify.
    pub error: Option<String>,
}

/// A field of [`Call`] by name.
macro_rules! field {
    ($g:expr, $name:ident) => {
        $g.call_field(std::mem::offset_of!($crate::clif::Call, $name))
    };
}
pub(crate) use field;

impl Gen<'_> {
    /// Notes that the kernel is malformed; returns a value of the type so that emission can go on.
    pub fn unsupported(&mut self, what: String, ty: Type) -> ir::Value {
        self.error.get_or_insert(what);
        if ty.is_vector() {
            self.zeros(ty)
        } else if ty == types::F64 {
            self.b.ins().f64const(0.0)
        } else if ty == types::F32 {
            self.b.ins().f32const(0.0)
        } else {
            self.int(ty, 0)
        }
    }

    /// Loads a word of the call.
    pub fn call_field(&mut self, offset: usize) -> ir::Value {
        self.b.ins().load(types::I64, MemFlagsData::trusted(), self.call, offset as i32)
    }

    /// Loads a word of an operand's place.
    fn operand_field(&mut self, operand: usize, offset: usize) -> ir::Value {
        let table = field!(self, operands);
        let at = operand * size_of::<OperandAt>() + offset;
        self.b.ins().load(types::I64, MemFlagsData::trusted(), table, at as i32)
    }

    /// The address of an operand's first inner element in a row.
    pub fn row_address(&mut self, operand: usize, row: ir::Value) -> ir::Value {
        let pointer = self.operand_field(operand, offset_of!(OperandAt, pointer));
        let stride = self.operand_field(operand, offset_of!(OperandAt, row));
        let offset = self.b.ins().imul(row, stride);
        self.b.ins().iadd(pointer, offset)
    }

    /// Bytes from one inner element of an operand to the next.
    pub fn inner_stride(&mut self, operand: usize) -> ir::Value {
        self.operand_field(operand, offset_of!(OperandAt, inner))
    }

    /// The value of a parameter.
    pub fn param(&mut self, n: u32, dtype: numfuse_core::dtype::DType) -> ir::Value {
        let table = field!(self, params);
        self.b.ins().load(scalar::scalar_type(dtype), MemFlagsData::trusted(), table, 8 * n as i32)
    }

    /// Emits a loop: `from`, `from + step`, ... while below `to`, carrying `carried`; returns the carried values at the
    /// end. The body gets the index and the carried values, and returns the next ones.
    pub fn count_loop(
        &mut self,
        from: ir::Value,
        to: ir::Value,
        step: i64,
        carried: &[ir::Value],
        body: impl FnOnce(&mut Self, ir::Value, &[ir::Value]) -> Vec<ir::Value>,
    ) -> Vec<ir::Value> {
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        let index = self.b.append_block_param(head, types::I64);
        let mut inside = Vec::new();
        for x in carried {
            let ty = self.b.func.dfg.value_type(*x);
            inside.push(self.b.append_block_param(head, ty));
            self.b.append_block_param(exit, ty);
        }
        let mut enter: Vec<ir::BlockArg> = vec![from.into()];
        enter.extend(carried.iter().map(|x| ir::BlockArg::from(*x)));
        let some = self.b.ins().icmp(ir::condcodes::IntCC::UnsignedLessThan, from, to);
        self.b.ins().brif(some, head, &enter, exit, &enter[1..]);
        self.b.switch_to_block(head);
        let next = body(self, index, &inside);
        let after = self.b.ins().iadd_imm_u(index, step);
        let mut again: Vec<ir::BlockArg> = vec![after.into()];
        again.extend(next.iter().map(|x| ir::BlockArg::from(*x)));
        let more = self.b.ins().icmp(ir::condcodes::IntCC::UnsignedLessThan, after, to);
        self.b.ins().brif(more, head, &again, exit, &again[1..]);
        self.b.switch_to_block(exit);
        self.b.block_params(exit).to_vec()
    }

    /// Emits `then` under a condition. Nothing defined in it may be used after it.
    pub fn when(&mut self, condition: ir::Value, then: impl FnOnce(&mut Self)) {
        let (inside, after): (Block, Block) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        then(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }
}

/// True if a stage does anything.
pub(crate) fn stage_is_empty(kernel: &Kernel, stage: usize) -> bool {
    let range = &kernel.stages[stage];
    let inert = range.values().all(|v| matches!(kernel.inst(v), Inst::Const(_) | Inst::Param(_)));
    inert && (range.kind == StageKind::Row || kernel.reductions_of(stage).next().is_none())
}
