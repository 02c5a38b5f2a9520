//! The steps of an evaluation, bound to the places of its arrays, and the running of them.
//!
//! What can be checked without pointers is checked once, when a step is added: that each operand of its kernel stays
//! inside of the array, or the part of the arena, that it was bound to. [`Steps::fit`] then compares an evaluation's
//! arrays with those places; what runs is a [`Fit`], so that nothing else can be run.
//!
//! Invariants: an operand that is written is bound to an output or to a part of the arena. Offsets of all operands lie
//! inside of their buffers, as far as the launch reaches; see [`Operand`].

mod device;
mod lent;

pub(crate) use lent::Lent;

use super::{ArrayMut, ArrayRef, Data, Memory};
use crate::array::Array;
use crate::error::{Error, Result, cpu_error};
use crate::layout::{copy, overlap, reach, reach_of, same};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::interp;
use numfuse_core::kernel::{Inst, Kernel, Level, Role};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::literal::Literal;
use numfuse_core::plan::{Bound, BufferId, Strided};
use numfuse_cpu::{Compiled, Matmul, Prepared, RunOptions};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// The steps of an evaluation with its sizes: everything but the pointers.
pub(crate) struct Steps {
    inputs: SmallVec<[Binding; 3]>,
    outputs: SmallVec<[Binding; 1]>,
    /// True if the outputs lie as those of new arrays do: row-major.
    new_arrays: bool,
    /// Outputs that are the same as an earlier one, which is computed once: the earlier one and the copy.
    copies: Vec<(usize, usize)>,
    /// What each buffer of the plan is.
    buffers: SmallVec<[Slot; 6]>,
    guards: SmallVec<[BufferId; 1]>,
    arena_bytes: usize,
    steps: Vec<Step>,
    nanoseconds: f64,
    /// Where they run, if it is not on the host.
    device: Option<Box<device::Target>>,
}

/// About how many nanoseconds the interpreter takes for an instruction and an element.
const INTERPRETED: f64 = 10.0;

/// The dtype and place of an array.
pub(crate) struct Binding {
    dtype: DType,
    place: Strided,
    /// The bytes that it covers, from its first element; equal if it has none.
    low: isize,
    high: isize,
}

/// What a buffer of a plan is.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Input(u32),
    Output(u32),
    /// A part of the arena. Parts may overlap: two temporaries that do not live at the same time share bytes.
    Temp {
        offset: usize,
        len: usize,
    },
}

/// What runs a kernel.
#[derive(Clone)]
pub(crate) enum Tier {
    /// Machine code.
    Compiled(Arc<Compiled>),
    /// The interpreter.
    Interpreted(Arc<Kernel>),
}

/// A kernel or a product of matrices with its launch and, for each operand, the bytes of its buffer that the launch
/// reaches.
struct Step {
    code: Runner,
    operands: SmallVec<[Operand; 6]>,
    /// The bits of the parameters.
    params: SmallVec<[u64; 4]>,
    /// True if each element is written after everything that it depends on was read, and nothing else depends on that.
    is_map: bool,
    /// True if this runs together with the step before it: both are large, and what either writes the other one and
    /// those that it runs together with do not use.
    joins: bool,
}

enum Runner {
    Compiled(Prepared),
    Interpreted {
        kernel: Arc<Kernel>,
        launch: Launch,
        params: SmallVec<[Literal; 4]>,
    },
    Matmul(Matmul),
    InterpretedMatmul(DType, Launch),
    /// On a device.
    Launched(Box<device::Launched>),
}

struct Operand {
    buffer: Slot,
    writes: bool,
    level: Level,
    size: usize,
    /// Of the first element, from that of the buffer. Of an operand that reaches nothing it may be anything.
    offset: isize,
    /// Bytes reached, from the first element of the buffer; equal if none is.
    low: isize,
    high: isize,
}

/// Steps with arrays of the places that they were bound to.
pub(crate) struct Fit<'c, 'o> {
    steps: &'c Steps,
    inputs: &'c [&'c ArrayRef<'c>],
    /// If there are none, new arrays are made.
    outputs: Option<&'c mut [ArrayMut<'o>]>,
}

/// A part of the temporaries.
#[inline]
fn in_arena(arena: &Option<Memory>, offset: usize) -> *mut u8 {
    arena.as_ref().map_or(std::ptr::null_mut(), |arena| arena.first().wrapping_add(offset))
}

/// How the memory of outputs lies to that of other arrays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Apart.
    Apart,
    /// On top of inputs, where the one kernel reads each element before it writes it, and nothing else.
    InPlace,
    /// On top of inputs.
    Inputs,
    /// On top of another output.
    Outputs,
}

/// Why a run gave no results.
pub(crate) enum Ended {
    /// It was cancelled.
    Cancelled,
    /// The n-th guard is true.
    Guard(usize),
    /// Something else is wrong.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

fn broken(what: &str) -> Error {
    Error::new(Code::Internal, format!("a step binds wrongly: {what}"))
}

impl Binding {
    pub fn new(dtype: DType, place: Strided) -> Result<Binding> {
        let (low, high) = reach_of(&place, dtype)?;
        Ok(Binding { dtype, place, low, high })
    }

    #[inline]
    fn fits(&self, dtype: DType, place: &Strided) -> bool {
        self.dtype == dtype && same(&self.place, place)
    }

    #[inline]
    fn span(&self, first: *const u8) -> Option<Range<usize>> {
        let at = |offset: isize| (first as usize).wrapping_add_signed(offset);
        (self.low < self.high).then(|| at(self.low)..at(self.high))
    }
}

impl Steps {
    /// No steps yet. `new_arrays` tells that the outputs lie as those of new arrays do; of each pair of `copies` the
    /// second output becomes a copy of the first one.
    pub fn new(
        inputs: SmallVec<[Binding; 3]>,
        outputs: SmallVec<[Binding; 1]>,
        new_arrays: bool,
        copies: Vec<(usize, usize)>,
        buffers: SmallVec<[Slot; 6]>,
        guards: &[BufferId],
    ) -> Result<Steps> {
        let mut arena_bytes = 0;
        for (i, slot) in buffers.iter().enumerate() {
            let known = match *slot {
                Slot::Input(n) => (n as usize) < inputs.len(),
                // Each output is one buffer at most, so that nothing is written through two pointers.
                Slot::Output(n) => {
                    let twice = |other: &Slot| matches!(other, Slot::Output(m) if *m == n);
                    (n as usize) < outputs.len() && !buffers[..i].iter().any(twice)
                }
                Slot::Temp { offset, len } => {
                    let end = offset.checked_add(len).filter(|end| *end <= isize::MAX as usize);
                    arena_bytes = arena_bytes.max(end.unwrap_or(0));
                    end.is_some()
                }
            };
            if !known {
                return Err(broken("a buffer without memory"));
            }
        }
        let in_arena = |guard: &BufferId| matches!(buffers.get(guard.index()), Some(Slot::Temp { len: 1.., .. }));
        if !guards.iter().all(in_arena) {
            return Err(broken("a guard without memory"));
        }
        if new_arrays && outputs.iter().any(|output| output.low != 0) {
            return Err(broken("a new array that begins before its first element"));
        }
        if !copies.iter().all(|(from, to)| from < to && *to < outputs.len()) {
            return Err(broken("a copy of no output"));
        }
        let guards = guards.into();
        let (steps, nanoseconds) = (Vec::new(), 0.0);
        let device = None;
        Ok(Steps { inputs, outputs, new_arrays, copies, buffers, guards, arena_bytes, steps, nanoseconds, device })
    }

    /// The dtype and shape of each output.
    pub fn results(&self) -> impl ExactSizeIterator<Item = (DType, &[u64])> {
        self.outputs.iter().map(|output| (output.dtype, output.place.shape.as_slice()))
    }

    /// Bytes of temporaries.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// About how long these steps take on one thread.
    pub fn nanoseconds(&self) -> f64 {
        self.nanoseconds
    }

    /// Adds a step: a kernel with a launch of it, which runs on these buffers. It `may_join` the step before it, to run
    /// together with that, if both gain from it.
    pub fn push(
        &mut self,
        kernel: &Kernel,
        tier: Tier,
        bound: Bound,
        buffers: SmallVec<[BufferId; 8]>,
        may_join: bool,
    ) -> Result<()> {
        let Bound { launch, offsets, params, .. } = bound;
        let count = kernel.operands.len();
        if buffers.len() != count || offsets.len() != count || launch.layouts.len() != count {
            return Err(broken("operand count"));
        }
        if params.len() != kernel.params.len() || params.iter().zip(&kernel.params).any(|(p, d)| p.dtype() != *d) {
            return Err(broken("parameters"));
        }
        let mut operands: SmallVec<[Operand; 6]> = SmallVec::new();
        for (n, (operand, layout)) in kernel.operands.iter().zip(&launch.layouts).enumerate() {
            let folds_only = !launch.reduced.is_empty() && folds_only(kernel, n as u32);
            let (level, size, writes) = (operand.level, operand.dtype.size(), operand.role == Role::Out);
            operands.push(self.operand(
                buffers[n],
                offsets[n],
                &launch,
                layout,
                Use { level, size, writes, folds_only },
            )?);
        }
        let is_map = kernel.reductions.is_empty() && kernel.scratch.is_empty();
        let bits = params.iter().map(|p| p.bits()).collect();
        let code = match tier {
            Tier::Compiled(compiled) => {
                let prepared = Prepared::new(compiled, launch).map_err(cpu_error)?;
                self.nanoseconds += prepared.nanoseconds();
                Runner::Compiled(prepared)
            }
            Tier::Interpreted(kernel) => {
                let sizes = launch.outer.iter().chain(&launch.reduced).chain(&launch.inner);
                self.nanoseconds += INTERPRETED * kernel.insts.len() as f64 * sizes.map(|n| *n as f64).product::<f64>();
                Runner::Interpreted { kernel, launch, params: params.into_iter().collect() }
            }
        };
        let mut step = Step { code, operands, params: bits, is_map, joins: false };
        step.joins = may_join && self.joins_last(&step);
        self.steps.push(step);
        Ok(())
    }

    /// Adds a product of matrices, native or interpreted, with a launch of it, which runs on these buffers.
    pub fn push_matmul(
        &mut self,
        dtype: DType,
        is_native: bool,
        bound: Bound,
        buffers: impl Iterator<Item = BufferId>,
    ) -> Result<()> {
        let Bound { launch, offsets, .. } = bound;
        let buffers: SmallVec<[BufferId; 8]> = buffers.collect();
        if (buffers.len(), offsets.len(), launch.layouts.len()) != (3, 3, 3) {
            return Err(broken("operand count"));
        }
        let mut operands: SmallVec<[Operand; 6]> = SmallVec::new();
        for (n, layout) in launch.layouts.iter().enumerate() {
            let writes = n == 2;
            let how = Use { level: Level::Inner, size: dtype.size(), writes, folds_only: !writes };
            operands.push(self.operand(buffers[n], offsets[n], &launch, layout, how)?);
        }
        let code = if is_native {
            let matmul = Matmul::new(dtype, launch).map_err(cpu_error)?;
            self.nanoseconds += matmul.nanoseconds();
            Runner::Matmul(matmul)
        } else {
            let sizes = launch.outer.iter().chain(&launch.reduced).chain(&launch.inner);
            self.nanoseconds += INTERPRETED * sizes.map(|n| *n as f64).product::<f64>();
            Runner::InterpretedMatmul(dtype, launch)
        };
        self.steps.push(Step { code, operands, params: SmallVec::new(), is_map: false, joins: false });
        Ok(())
    }

    /// An operand of a step, if it stays inside of its buffer.
    fn operand(&self, buffer: BufferId, offset: isize, launch: &Launch, layout: &Layout, how: Use) -> Result<Operand> {
        let (first, end, writable) = self.window(buffer).ok_or_else(|| broken("a buffer that is not there"))?;
        let Use { level, size, writes, .. } = how;
        let (low, high) = match first == end {
            true => (0, 0),
            false => reached(how, launch, layout, offset)?,
        };
        if (low < high && (low < first || high > end)) || (writes && !writable) {
            return Err(broken("it reaches outside of its buffer"));
        }
        Ok(Operand { buffer: self.buffers[buffer.index()], writes, level, size, offset, low, high })
    }

    /// True if a step can run together with those that were added last, and may gain from it.
    fn joins_last(&self, step: &Step) -> bool {
        let is_large = |step: &Step| matches!(&step.code, Runner::Compiled(prepared) if prepared.is_large());
        let first = self.steps.iter().rposition(|step| !step.joins);
        let group = first.map_or(&[][..], |first| &self.steps[first..]);
        !group.is_empty()
            && is_large(step)
            && group.iter().all(|other| is_large(other) && !step.disturbs(other) && !other.disturbs(step))
    }

    /// The bytes of a buffer, from its first element, and whether they may be written.
    fn window(&self, buffer: BufferId) -> Option<(isize, isize, bool)> {
        Some(match *self.buffers.get(buffer.index())? {
            Slot::Input(n) => (self.inputs[n as usize].low, self.inputs[n as usize].high, false),
            Slot::Output(n) => (self.outputs[n as usize].low, self.outputs[n as usize].high, true),
            Slot::Temp { len, .. } => (0, len as isize, true),
        })
    }

    /// These steps on arrays, if they have the dtypes and places that the steps were bound to. Without outputs the
    /// results are new arrays.
    #[inline(always)]
    pub fn fit<'c, 'o>(
        &'c self,
        inputs: &'c [&'c ArrayRef<'c>],
        outputs: Option<&'c mut [ArrayMut<'o>]>,
    ) -> Option<Fit<'c, 'o>> {
        self.fits(inputs, outputs.as_deref()).then_some(Fit { steps: self, inputs, outputs })
    }

    #[inline]
    fn fits(&self, inputs: &[&ArrayRef<'_>], outputs: Option<&[ArrayMut<'_>]>) -> bool {
        self.inputs.len() == inputs.len()
            && self.inputs.iter().zip(inputs).all(|(binding, input)| binding.fits(input.dtype, &input.place))
            && match outputs {
                None => self.new_arrays,
                Some(outputs) => {
                    self.outputs.len() == outputs.len()
                        && (self.device.is_some() || outputs.iter().all(|output| output.memory.is_none()))
                        && self
                            .outputs
                            .iter()
                            .zip(outputs.iter())
                            .all(|(b, output)| b.fits(output.dtype, &output.place))
                }
            }
            && match &self.device {
                None => inputs.iter().all(|input| !matches!(input.data, Data::Device(..))),
                Some(device) => device.fits(inputs, outputs),
            }
    }
}

impl Step {
    /// True if this writes what another step uses.
    fn disturbs(&self, other: &Step) -> bool {
        let mut written = self.operands.iter().filter(|operand| operand.writes);
        written.any(|written| other.operands.iter().any(|used| written.meets(used)))
    }
}

impl Operand {
    /// True if two operands may reach the same bytes, of an array or of the arena. Outputs overlap no other array.
    fn meets(&self, other: &Operand) -> bool {
        let reach = |operand: &Operand, start: usize| {
            let at = |end: isize| start.wrapping_add_signed(end);
            (operand.low < operand.high).then(|| at(operand.low)..at(operand.high))
        };
        match (self.buffer, other.buffer) {
            (Slot::Output(n), Slot::Output(m)) => n == m,
            (Slot::Temp { offset: a, .. }, Slot::Temp { offset: b, .. }) => overlap(&reach(self, a), &reach(other, b)),
            _ => false,
        }
    }
}

/// How a step uses an operand.
#[derive(Clone, Copy)]
struct Use {
    level: Level,
    size: usize,
    writes: bool,
    /// True if it is used for each reduced index only, not after the folding.
    folds_only: bool,
}

/// The bytes of its buffer that an operand reaches in a launch.
fn reached(how: Use, launch: &Launch, layout: &Layout, offset: isize) -> Result<(isize, isize)> {
    let Layout { outer, reduced, inner } = layout;
    if (outer.len(), reduced.len(), inner.len()) != (launch.outer.len(), launch.reduced.len(), launch.inner.len()) {
        return Err(broken("layout"));
    }
    let along_inner = how.level == Level::Inner;
    let nothing = launch.outer.contains(&0)
        || (along_inner && launch.inner.contains(&0))
        || (launch.reduced.contains(&0) && how.folds_only);
    if nothing {
        return Ok((0, 0));
    }
    let outer = launch.outer.iter().zip(outer);
    let reduced = launch.reduced.iter().zip(reduced);
    let inner = launch.inner.iter().zip(inner).filter(|_| along_inner);
    let dims = outer.chain(reduced).chain(inner).map(|(n, stride)| ((*n).max(1), *stride));
    let extent = reach(dims, how.size);
    let moved = extent.and_then(|(low, high)| Some((low.checked_add(offset)?, high.checked_add(offset)?)));
    moved.ok_or_else(|| broken("extent"))
}

/// True if an operand is used for each reduced index only, not after the folding.
fn folds_only(kernel: &Kernel, operand: u32) -> bool {
    let uses = |inst: &Inst| matches!(inst, Inst::Load(n) | Inst::Store(n, _) if *n == operand);
    kernel.stages.get(2).is_some_and(|last| !last.values().any(|v| uses(kernel.inst(v))))
}

impl Fit<'_, '_> {
    /// How the memory of outputs lies to that of other arrays.
    #[inline]
    pub fn overlap(&self) -> Overlap {
        let Some(outputs) = &self.outputs else { return Overlap::Apart };
        let mut apart = true;
        for (i, (binding, output)) in self.steps.outputs.iter().zip(outputs.iter()).enumerate() {
            let span = binding.span(output.first);
            for (binding, other) in self.steps.outputs.iter().zip(&outputs[..i]) {
                if overlap(&span, &binding.span(other.first)) {
                    return Overlap::Outputs;
                }
            }
            for (binding, input) in self.steps.inputs.iter().zip(self.inputs) {
                if !matches!(input.data, Data::Scalar { .. }) {
                    apart &= !overlap(&span, &binding.span(input.first()));
                }
            }
        }
        if apart {
            return Overlap::Apart;
        }
        if self.runs_in_place() { Overlap::InPlace } else { Overlap::Inputs }
    }

    /// True if there is one kernel and it reads memory that it writes, if at all, only element by element at the very
    /// place that it writes.
    fn runs_in_place(&self) -> bool {
        let [step] = self.steps.steps.as_slice() else { return false };
        let layouts = match (&step.code, self.steps.copies.as_slice()) {
            (Runner::Compiled(prepared), []) => prepared.launch().layouts.as_slice(),
            (Runner::Launched(launched), []) => launched.layouts(),
            _ => return false,
        };
        let place = |operand: &Operand| {
            let first = self.given(operand.buffer)? as usize;
            let at = |offset| first.wrapping_add_signed(offset);
            (operand.low < operand.high).then(|| (at(operand.offset), Some(at(operand.low)..at(operand.high))))
        };
        let all = || step.operands.iter().zip(layouts);
        all().filter(|(o, _)| o.writes).all(|(output, out_layout)| {
            all().filter(|(o, _)| !o.writes).all(|(input, in_layout)| {
                let (Some((out, out_span)), Some((first, in_span))) = (place(output), place(input)) else {
                    return true;
                };
                !overlap(&out_span, &in_span)
                    || (step.is_map
                        && out == first
                        && (output.size, output.level) == (input.size, input.level)
                        && out_layout == in_layout)
            })
        })
    }

    /// The first element of an array that was given.
    #[inline]
    fn given(&self, slot: Slot) -> Option<*mut u8> {
        match (slot, &self.outputs) {
            (Slot::Input(n), _) => Some(self.inputs[n as usize].first().cast_mut()),
            (Slot::Output(n), Some(outputs)) => Some(outputs[n as usize].first),
            (Slot::Output(_), None) | (Slot::Temp { .. }, _) => None,
        }
    }

    /// Runs the steps in order, as long as `go_on` agrees; returns the arrays that were made for the results. That
    /// outputs overlap nothing, or inputs only in place, is up to the caller.
    #[inline]
    pub fn run(mut self, options: &RunOptions<'_>, go_on: impl Fn() -> bool) -> Result<SmallVec<[Array; 1]>, Ended> {
        if self.outputs.is_some() {
            return self.run_into(options, go_on).map(|()| SmallVec::new());
        }
        let steps = self.steps;
        let mut results: SmallVec<[Memory; 1]> = SmallVec::new();
        for output in &steps.outputs {
            results.push(Memory::uninit(output.high as usize)?);
        }
        let arena = self.arena()?;
        let first = |slot: Slot| match (self.given(slot), slot) {
            (Some(first), _) => first,
            (None, Slot::Temp { offset, .. }) => in_arena(&arena, offset),
            (None, Slot::Output(n) | Slot::Input(n)) => results[n as usize].first(),
        };
        steps.execute(first, options, go_on)?;
        let mut arrays: SmallVec<[Array; 1]> = SmallVec::new();
        for (memory, binding) in results.into_iter().zip(&steps.outputs) {
            arrays.push(Array::of_memory(memory, binding.dtype, copy(&binding.place)));
        }
        self.copy_outputs(&mut arrays)?;
        Ok(arrays)
    }

    /// As [`Fit::run`], into outputs that were given.
    #[inline]
    pub fn run_into(mut self, options: &RunOptions<'_>, go_on: impl Fn() -> bool) -> Result<(), Ended> {
        if self.outputs.is_none() {
            return Err(broken("a run into outputs that are not there").into());
        }
        let arena = self.arena()?;
        let first = |slot: Slot| match (self.given(slot), slot) {
            (Some(first), _) => first,
            (None, Slot::Temp { offset, .. }) => in_arena(&arena, offset),
            (None, Slot::Output(_) | Slot::Input(_)) => unreachable!("all outputs are given"),
        };
        self.steps.execute(first, options, go_on)?;
        if !self.steps.copies.is_empty() {
            self.copy_outputs(&mut [])?;
        }
        Ok(())
    }

    /// Memory for the temporaries.
    #[inline]
    fn arena(&self) -> Result<Option<Memory>> {
        match self.steps.arena_bytes {
            0 => Ok(None),
            bytes => Memory::uninit(bytes).map(Some),
        }
    }

    /// Makes those outputs, or new arrays, that are copies of others.
    #[inline]
    fn copy_outputs(&mut self, arrays: &mut [Array]) -> Result<()> {
        for (from, to) in &self.steps.copies {
            match &mut self.outputs {
                Some(outputs) => {
                    let (before, after) = outputs.split_at_mut(*to);
                    after[0].copy_from(&before[*from].as_ref())?;
                }
                None => {
                    let (before, after) = arrays.split_at_mut(*to);
                    after[0].view_mut().copy_from(&before[*from].view())?;
                }
            }
        }
        Ok(())
    }
}

impl Steps {
    /// Runs the kernels in order and looks at the guards; `first` finds the first element of whatever a slot is. They are
    /// those of arrays that fit, and of an arena; what must not overlap does not.
    #[inline]
    fn execute(
        &self,
        first: impl Fn(Slot) -> *mut u8,
        options: &RunOptions<'_>,
        go_on: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        let steps = self;
        let place = |step: &Step, pointers: &mut [*mut u8]| {
            for (pointer, operand) in pointers.iter_mut().zip(&step.operands) {
                // An operand that reaches nothing may have an offset outside of its buffer.
                *pointer = first(operand.buffer).wrapping_offset(operand.offset);
            }
        };
        // Most kernels have few operands.
        let (mut few, mut many) = ([std::ptr::null_mut(); 8], Vec::new());
        for group in steps.steps.chunk_by(|_, next| next.joins) {
            if !go_on() {
                return Err(Ended::Cancelled);
            }
            let [step] = group else {
                run_together(group, &place, options)?;
                continue;
            };
            let pointers: &mut [*mut u8] = match step.operands.len() {
                count @ 0..=8 => &mut few[..count],
                count => {
                    many.resize(count, std::ptr::null_mut());
                    &mut many
                }
            };
            place(step, pointers);
            match &step.code {
                Runner::Compiled(prepared) => {
                    // SAFETY: each operand stays inside of its buffer, as `push` checked for this launch; the buffer is
                    // an array of the very place that was checked, which may be read, or written where the kernel
                    // writes, as long as it is lent, or memory of ours of the size that was checked. What
                    // overlaps was ruled out or found to be in place by the caller.
                    let ran = unsafe { prepared.run(pointers, &step.params, options) };
                    ran.map_err(ended)?;
                }
                Runner::Interpreted { kernel, launch, params } => {
                    interpret(step, pointers, |memory| interp::run(kernel, launch, memory, params))?;
                }
                Runner::Matmul(matmul) => {
                    // SAFETY: as above; the operands are as many as a product has, each checked for its launch.
                    let ran = unsafe { matmul.run([pointers[0], pointers[1], pointers[2]], options) };
                    ran.map_err(ended)?;
                }
                Runner::InterpretedMatmul(dtype, launch) => {
                    interpret(step, pointers, |memory| interp::matmul(*dtype, launch, memory))?;
                }
                Runner::Launched(_) => return Err(broken("a step of a device").into()),
            }
        }
        for (n, guard) in steps.guards.iter().enumerate() {
            // SAFETY: a guard is a part of the arena of one byte at least, and a step has written it.
            if unsafe { first(steps.buffers[guard.index()]).read() } != 0 {
                return Err(Ended::Guard(n));
            }
        }
        Ok(())
    }
}

#[cold]
fn ended(error: numfuse_cpu::Error) -> Ended {
    match error {
        numfuse_cpu::Error::Cancelled => Ended::Cancelled,
        error => Ended::Failed(cpu_error(error)),
    }
}

/// Runs steps that [`Steps::push`] has found to join each other; `place` finds the pointers of a step, as in `Steps::execute`.
fn run_together(group: &[Step], place: &dyn Fn(&Step, &mut [*mut u8]), options: &RunOptions<'_>) -> Result<(), Ended> {
    let mut pointers: Vec<Vec<*mut u8>> = Vec::with_capacity(group.len());
    for step in group {
        let mut places = vec![std::ptr::null_mut(); step.operands.len()];
        place(step, &mut places);
        pointers.push(places);
    }
    let mut runs: Vec<(&Prepared, &[*mut u8], &[u64])> = Vec::with_capacity(group.len());
    for (step, pointers) in group.iter().zip(&pointers) {
        let Runner::Compiled(prepared) = &step.code else { return Err(broken("interpreted together").into()) };
        runs.push((prepared, pointers, &step.params));
    }
    // SAFETY: as in `Steps::execute`. There is more than one kernel, so nothing is in place: outputs overlap no other array.
    // What one step writes no other one of them uses: that is what joins steps.
    unsafe { Prepared::run_together(&runs, options) }.map_err(ended)
}

/// Runs a step by a function of the interpreter. The pointers are those of `Steps::execute`.
fn interpret(step: &Step, pointers: &[*mut u8], run: impl FnOnce(&mut [interp::Memory<'_>])) -> Result<(), Error> {
    let bytes = |(operand, pointer): (&Operand, &*mut u8)| {
        let Operand { low, high, offset, .. } = *operand;
        match (high - low) as usize {
            0 => (std::ptr::dangling_mut(), 0, 0),
            len => (pointer.wrapping_offset(low - offset), len, (offset - low) as usize),
        }
    };
    let spans: SmallVec<[_; 8]> = step
        .operands
        .iter()
        .zip(pointers)
        .map(|operand| {
            let (first, len, _) = bytes(operand);
            (len > 0).then(|| first as usize..first as usize + len)
        })
        .collect();
    for i in (0..spans.len()).filter(|i| step.operands[*i].writes) {
        if spans.iter().enumerate().any(|(j, span)| j != i && overlap(span, &spans[i])) {
            return Err(Error::new(Code::Internal, "interpreted operands overlap"));
        }
    }
    let mut memory: Vec<interp::Memory<'_>> = step
        .operands
        .iter()
        .zip(pointers)
        .map(|operand| {
            let (first, len, offset) = bytes(operand);
            // SAFETY: the bytes are inside of the operand's buffer, as `Steps::push` checked; no written one overlaps
            // another.
            let bytes = unsafe {
                if operand.0.writes {
                    interp::Bytes::Out(std::slice::from_raw_parts_mut(first, len))
                } else {
                    interp::Bytes::In(std::slice::from_raw_parts(first, len))
                }
            };
            interp::Memory { bytes, offset }
        })
        .collect();
    run(&mut memory);
    Ok(())
}
