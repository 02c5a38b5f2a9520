//! Steps on a device. They are checked like those of the host; what differs is that an address takes the place of each
//! pointer, that nothing waits for a step, and that plain numbers are arguments of the kernels, since they have no address.
//!
//! Invariant: steps of a device run on arrays of that device only, whose addresses are aligned as those they were bound to.

use super::{Ended, Fit, Operand, Role, Runner, Slot, Step, Steps, Use, broken, folds_only};
use crate::array::Array;
use crate::error::{Result, cuda_error};
use crate::layout::copy;
use crate::view::{ArrayMut, ArrayRef, Data, DeviceMemory};
use numfuse_core::kernel::{Inst, Kernel, Level};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::plan::{Bound, BoundProduct, BufferId, FusedKernel};
use numfuse_cuda::driver::{Function, Graph};
use numfuse_cuda::emit::{Fused, Grid};
use numfuse_cuda::matmul::Product;
use numfuse_cuda::{Backend, Prepared, PreparedMatmul};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex};

/// What steps know of the device that they are bound to.
pub(super) struct Target {
    backend: Backend,
    /// How each input lies there.
    inputs: SmallVec<[Lie; 4]>,
    outputs: SmallVec<[Lie; 2]>,
    /// Bytes that kernels need besides the arena, one after the other.
    workspace: usize,
    /// Launches of all steps together; none if a library does some of them.
    launches: Option<usize>,
    /// The last run, to be repeated as a graph.
    last: Mutex<Last>,
}

/// A run and, if there was one like it before, its launches as a graph with the memory for temporaries that they use.
#[derive(Default)]
struct Last {
    key: SmallVec<[u64; 8]>,
    graph: Option<(Graph, Arc<DeviceMemory>)>,
}

/// From so many launches on, one of a graph costs less.
const MANY_LAUNCHES: usize = 3;
/// Steps with more temporaries than this are no graph, which would hold on to them; they are not bound by launches either.
const SMALL_ARENA: usize = 16 << 20;

/// What of an array's address is part of what is bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// A number, which has none.
    Number,
    /// The address, up to multiples of [`ALIGNMENT`].
    Low(u8),
    /// It is on the host.
    Elsewhere,
}

/// The bytes of the widest load.
const ALIGNMENT: u64 = 16;
/// Where the arena's parts and the workspace begin: a multiple of this.
const ARENA: usize = 256;

/// A kernel or a product of matrices on a device, ready to run.
pub(super) struct Launched {
    code: Code,
    /// The inputs that are parameters, and which parameters.
    numbers: SmallVec<[(usize, u32); 2]>,
    /// Of each operand.
    layouts: Vec<Layout>,
}

enum Code {
    Kernel(Box<Prepared>),
    Product(PreparedMatmul),
}

impl Code {
    fn workspace(&self) -> u64 {
        match self {
            Code::Kernel(prepared) => prepared.workspace(),
            Code::Product(prepared) => prepared.workspace(),
        }
    }

    /// How many launches it is; none if it is a library's.
    fn launches(&self) -> Option<usize> {
        match self {
            Code::Kernel(prepared) => Some(prepared.grids().len()),
            Code::Product(prepared) => prepared.grids().map(<[Grid]>::len),
        }
    }
}

impl Lie {
    fn at(address: u64) -> Lie {
        Lie::Low((address % ALIGNMENT) as u8)
    }

    #[inline]
    fn of(array: &ArrayRef<'_>) -> Lie {
        match array.data {
            Data::Device(first, _) => Lie::at(first),
            Data::Scalar { .. } => Lie::Number,
            Data::Memory(_) => Lie::Elsewhere,
        }
    }

    #[inline]
    fn of_output(array: &ArrayMut<'_>) -> Lie {
        if array.memory.is_some() { Lie::at(array.first as u64) } else { Lie::Elsewhere }
    }

    /// An address that lies like this.
    fn example(self) -> u64 {
        match self {
            Lie::Low(low) => low.into(),
            Lie::Number | Lie::Elsewhere => 0,
        }
    }
}

impl Target {
    /// Bytes of the memory for temporaries, in which the workspace comes last.
    fn arena_bytes(&self, steps: &Steps) -> usize {
        steps.arena_bytes.next_multiple_of(ARENA) + self.workspace
    }

    /// An operand, and an address that is aligned as its first element will be.
    fn placed(&self, operand: Operand) -> (Operand, u64) {
        // Of one that reaches nothing any address will do, and one that is aligned serves best.
        if operand.low >= operand.high {
            return (Operand { offset: 0, ..operand }, 0);
        }
        let lie = match operand.buffer {
            Slot::Input(n) => self.inputs[n as usize],
            Slot::Output(n) => self.outputs[n as usize],
            Slot::Temp { .. } => Lie::Low(0),
        };
        let address = lie.example().wrapping_add_signed(operand.offset as i64);
        (operand, address)
    }

    /// True if arrays lie as those that were bound.
    #[inline]
    pub(super) fn fits(&self, inputs: &[&ArrayRef<'_>], outputs: Option<&[ArrayMut<'_>]>) -> bool {
        self.inputs.iter().zip(inputs).all(|(lie, input)| *lie == Lie::of(input))
            && match outputs {
                None => self.outputs.iter().all(|lie| *lie == Lie::Low(0)),
                Some(outputs) => self.outputs.iter().zip(outputs).all(|(lie, output)| *lie == Lie::of_output(output)),
            }
    }
}

impl Steps {
    /// Has steps that are added run on a device; inputs, and outputs if there are any, are there, or numbers.
    pub fn set_device(&mut self, backend: &Backend, inputs: &[&ArrayRef<'_>], outputs: Option<&[ArrayMut<'_>]>) {
        let outputs = match outputs {
            Some(outputs) => outputs.iter().map(Lie::of_output).collect(),
            None => self.outputs.iter().map(|_| Lie::Low(0)).collect(),
        };
        let inputs = inputs.iter().map(|input| Lie::of(input)).collect();
        let last = Mutex::default();
        self.device =
            Some(Box::new(Target { backend: backend.clone(), inputs, outputs, workspace: 0, launches: Some(0), last }));
    }

    /// Adds a kernel with a launch of it, which runs on these buffers on the device.
    pub fn push_on_device(
        &mut self,
        kernel: Kernel,
        bound: Bound,
        buffers: impl Iterator<Item = BufferId>,
    ) -> Result<()> {
        let Some(target) = &self.device else { return Err(broken("there is no device")) };
        let backend = target.backend.clone();
        let slots: SmallVec<[(BufferId, Slot); 8]> =
            buffers.map(|id| Some((id, *self.buffers.get(id.index())?))).collect::<Option<_>>().unwrap_or_default();
        if slots.len() != kernel.operands.len() || bound.offsets.len() != slots.len() {
            return Err(broken("operand count"));
        }
        let is_number = |slot: Slot| matches!(slot, Slot::Input(n) if target.inputs[n as usize] == Lie::Number);
        let Bound { mut launch, offsets, params, .. } = bound;
        let (mut kernel, mut numbers, mut kept) = (kernel, SmallVec::<[u32; 2]>::new(), SmallVec::<[usize; 8]>::new());
        for (n, (_, slot)) in slots.iter().enumerate() {
            match *slot {
                Slot::Input(input) if is_number(*slot) => numbers.push(input),
                _ => kept.push(n),
            }
        }
        if !numbers.is_empty() {
            kernel = with_parameters(&kernel, |n| is_number(slots[n].1));
            launch.layouts = kept.iter().map(|n| launch.layouts[*n].clone()).collect();
        }
        let mut operands: SmallVec<[Operand; 6]> = SmallVec::new();
        let mut addresses: SmallVec<[u64; 8]> = SmallVec::new();
        for (m, (operand, layout)) in kernel.operands.iter().zip(&launch.layouts).enumerate() {
            let ((buffer, _), offset) = (slots[kept[m]], offsets[kept[m]]);
            let how = Use {
                level: operand.level,
                size: operand.dtype.size(),
                writes: operand.role == Role::Out,
                folds_only: !launch.reduced.is_empty() && folds_only(&kernel, m as u32),
            };
            let (operand, address) = target.placed(self.operand(buffer, offset, &launch, layout, how)?);
            operands.push(operand);
            addresses.push(address);
        }
        let prepared = backend.prepare(&kernel, &launch, &addresses).map_err(cuda_error)?;
        let is_map = kernel.reductions.is_empty() && kernel.scratch.is_empty();
        let mut params: SmallVec<[u64; 4]> = params.iter().map(|p| p.bits()).collect();
        let numbers = numbers.into_iter().map(|input| add_number(&mut params, input)).collect();
        let launched = Launched { code: Code::Kernel(Box::new(prepared)), numbers, layouts: launch.layouts };
        self.push_launched(launched, operands, params, is_map);
        Ok(())
    }

    /// Adds a product of matrices, with what is fused into it, which runs on the device; `alone` is it without that.
    pub fn push_product_on_device(&mut self, alone: Product, bound: BoundProduct) -> Result<()> {
        let Some(target) = &self.device else { return Err(broken("there is no device")) };
        let BoundProduct { dtype, fused, mut launch, operands: given, .. } = bound;
        let layouts = std::mem::take(&mut launch.layouts);
        if layouts.len() != given.len() {
            return Err(broken("operand count"));
        }
        let number = |at: usize| match given.get(at).and_then(|(buffer, _)| self.buffers.get(buffer.index())) {
            Some(Slot::Input(n)) if target.inputs[*n as usize] == Lie::Number => Some(*n),
            _ => None,
        };
        let (mut params, mut numbers) = (SmallVec::<[u64; 4]>::new(), SmallVec::new());
        let (mut operands, mut addresses) = (SmallVec::new(), SmallVec::<[u64; 8]>::new());
        let mut add = |launch: &mut Launch, at: usize, how: Use| -> Result<()> {
            let (buffer, offset) = given[at];
            let operand = self.operand(buffer, offset, launch, &layouts[at], how)?;
            let (operand, address) = target.placed(operand);
            launch.layouts.push(layouts[at].clone());
            operands.push(operand);
            addresses.push(address);
            Ok(())
        };
        let mut at = 0;
        let mut kernels = [None, None, None];
        for (side, fused) in fused.into_iter().enumerate() {
            let folds_only = side < 2;
            let Some(FusedKernel { kernel, value, params: own }) = fused else {
                add(&mut launch, at, Use { level: Level::Inner, size: dtype.size(), writes: side == 2, folds_only })?;
                at += 1;
                continue;
            };
            params.extend(own.iter().map(|p| p.bits()));
            // The operands of the kernel, and of the launch, without the one that is not in memory.
            let first = at;
            at += kernel.operands.len() - 1;
            let place = |n: usize| first + n - usize::from(n > value);
            let is_number = |n: usize| n != value && number(place(n)).is_some();
            for n in (0..kernel.operands.len()).filter(|n| *n != value) {
                match number(place(n)) {
                    Some(input) => numbers.push(add_number(&mut params, input)),
                    None => {
                        let (size, writes) = (kernel.operands[n].dtype.size(), kernel.operands[n].role == Role::Out);
                        add(&mut launch, place(n), Use { level: Level::Inner, size, writes, folds_only })?;
                    }
                }
            }
            let before = (0..value).filter(|n| is_number(*n)).count();
            kernels[side] = Some(Fused { kernel: with_parameters(&kernel, is_number), value: value - before });
        }
        let product = match kernels {
            [None, None, None] => alone,
            kernels => alone.fuse(&launch, kernels).map_err(cuda_error)?,
        };
        let prepared = target.backend.prepare_matmul(&product, &addresses).map_err(cuda_error)?;
        let launched = Launched { code: Code::Product(prepared), numbers, layouts: launch.layouts };
        self.push_launched(launched, operands, params, false);
        Ok(())
    }

    fn push_launched(
        &mut self,
        launched: Launched,
        operands: SmallVec<[Operand; 6]>,
        params: SmallVec<[u64; 4]>,
        is_map: bool,
    ) {
        if let Some(target) = &mut self.device {
            target.workspace = target.workspace.max(launched.code.workspace() as usize);
            target.launches = target.launches.zip(launched.code.launches()).map(|(all, these)| all + these);
        }
        self.steps.push(Step { code: Runner::Launched(Box::new(launched)), operands, params, is_map, joins: false });
    }
}

/// Adds a parameter that an input is; returns which.
fn add_number(params: &mut SmallVec<[u64; 4]>, input: u32) -> (usize, u32) {
    params.push(0);
    (params.len() - 1, input)
}

/// A kernel in which some inputs are parameters, which come after those that it has.
fn with_parameters(kernel: &Kernel, is_parameter: impl Fn(usize) -> bool) -> Kernel {
    let mut changed = kernel.clone();
    let mut new = Vec::new();
    changed.operands.clear();
    for (n, operand) in kernel.operands.iter().enumerate() {
        if is_parameter(n) {
            new.push(Inst::Param(changed.params.len() as u32));
            changed.params.push(operand.dtype);
        } else {
            new.push(Inst::Load(changed.operands.len() as u32));
            changed.operands.push(operand.clone());
        }
    }
    for data in &mut changed.insts {
        if let Inst::Load(n) = data.inst {
            data.inst = new[n as usize];
        } else if let Inst::Store(n, _) = &mut data.inst
            && let Inst::Load(at) = new[*n as usize]
        {
            *n = at;
        }
    }
    changed
}

impl Launched {
    /// Where each operand lies.
    pub(super) fn layouts(&self) -> &[Layout] {
        &self.layouts
    }
}

impl Fit<'_, '_> {
    /// As [`Fit::run`], on the device that the steps are bound to. Results are there when the device has done what it was
    /// given; only guards are waited for.
    pub fn run_on_device(mut self, go_on: impl Fn() -> bool) -> Result<SmallVec<[Array; 1]>, Ended> {
        let steps = self.steps;
        let Some(target) = steps.device.as_deref() else { return Err(broken("there is no device").into()) };
        let (backend, stream) = (&target.backend, target.backend.stream());
        let memories = self.inputs.iter().filter_map(|input| input.memory());
        let outputs = self.outputs.iter().flat_map(|outputs| outputs.iter().filter_map(|output| output.memory()));
        for memory in memories.chain(outputs) {
            if memory.device_index() != backend.device().index() {
                return Err(broken("an array of another device").into());
            }
            memory.used_on(stream)?;
        }
        let mut results: SmallVec<[Box<DeviceMemory>; 1]> = SmallVec::new();
        if self.outputs.is_none() {
            for output in &steps.outputs {
                results.push(Box::new(DeviceMemory::uninit(backend, output.high as usize)?));
            }
        }
        let mut arena = None;
        if !self.replay(target, &results, &mut arena, &go_on)? {
            if steps.arena_bytes + target.workspace > 0 {
                arena = Some(Arc::new(DeviceMemory::uninit(backend, target.arena_bytes(steps))?));
            }
            let address = arena.as_ref().map_or(0, |arena| arena.address());
            self.each_launch(&results, address, |launched, addresses, params, workspace| {
                if !go_on() {
                    return Err(Ended::Cancelled);
                }
                // SAFETY: each operand stays inside of its buffer, as `push_on_device` checked for this launch; the buffer
                // is an array of the very place that was checked, in memory of this device that is given back in the order
                // of its stream, or memory of ours of the size that was checked. What overlaps was ruled out or found to be
                // in place by the caller. The workspace is as large as any of the kernels needs.
                let ran = unsafe {
                    match &launched.code {
                        Code::Kernel(prepared) => prepared.run(stream, addresses, params, workspace),
                        Code::Product(prepared) => prepared.run(stream, addresses, params, workspace),
                    }
                };
                ran.map_err(|e| cuda_error(e).into())
            })?;
        }
        for (n, guard) in steps.guards.iter().enumerate() {
            let (Slot::Temp { offset, .. }, Some(arena)) = (steps.buffers[guard.index()], &arena) else {
                return Err(broken("a guard without memory").into());
            };
            if arena.read_byte(offset)? != 0 {
                return Err(Ended::Guard(n));
            }
        }
        let mut arrays: SmallVec<[Array; 1]> = SmallVec::new();
        for (memory, binding) in results.into_iter().zip(&steps.outputs) {
            arrays.push(Array::of_device_memory(memory, binding.dtype, copy(&binding.place)));
        }
        self.copy_outputs(&mut arrays)?;
        Ok(arrays)
    }

    /// Calls `launch` with each step and its addresses, parameters and workspace, where the arena begins at this address.
    fn each_launch(
        &self,
        results: &[Box<DeviceMemory>],
        arena: u64,
        mut launch: impl FnMut(&Launched, &[u64], &[u64], u64) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let workspace = arena + self.steps.arena_bytes.next_multiple_of(ARENA) as u64;
        let address = |slot: Slot| match (self.given(slot), slot) {
            (Some(first), _) => first as u64,
            (None, Slot::Temp { offset, .. }) => arena + offset as u64,
            (None, Slot::Output(n) | Slot::Input(n)) => results[n as usize].address(),
        };
        for step in &self.steps.steps {
            let Runner::Launched(launched) = &step.code else { return Err(broken("a step of the host").into()) };
            let mut addresses: SmallVec<[u64; 8]> = SmallVec::new();
            for operand in &step.operands {
                // An operand that reaches nothing has no address that means anything.
                let reaches = operand.low < operand.high;
                let at = || address(operand.buffer).wrapping_add_signed(operand.offset as i64);
                addresses.push(if reaches { at() } else { 0 });
            }
            let mut params: SmallVec<[u64; 8]> = SmallVec::from_slice(&step.params);
            for (at, n) in &launched.numbers {
                let Data::Scalar { bits, .. } = self.inputs[*n as usize].data else {
                    return Err(broken("an array in place of a number").into());
                };
                params[*at] = bits;
            }
            launch(launched, &addresses, &params, workspace)?;
        }
        Ok(())
    }

    /// Runs the steps as a graph, if that saves launches and the last run was one on the same memory with the same
    /// numbers; `arena` is the graph's then. False if nothing was run.
    fn replay(
        &self,
        target: &Target,
        results: &[Box<DeviceMemory>],
        arena: &mut Option<Arc<DeviceMemory>>,
        go_on: &impl Fn() -> bool,
    ) -> Result<bool, Ended> {
        if target.launches.is_none_or(|launches| launches < MANY_LAUNCHES)
            || target.arena_bytes(self.steps) > SMALL_ARENA
        {
            return Ok(false);
        }
        // Who finds another thread here launches the steps one by one.
        let Ok(mut last) = target.last.try_lock() else { return Ok(false) };
        let key = self.key(results);
        if last.key != key {
            *last = Last { key, graph: None };
            return Ok(false);
        }
        if !go_on() {
            return Err(Ended::Cancelled);
        }
        let stream = target.backend.stream();
        if last.graph.is_none() {
            let memory = Arc::new(DeviceMemory::uninit(&target.backend, target.arena_bytes(self.steps))?);
            let mut ended = Ok(());
            let graph = Graph::capture(target.backend.device(), |capture| {
                let mut failed = Ok(());
                ended = self.each_launch(results, memory.address(), |launched, addresses, params, workspace| {
                    let add = |f: &Function, grid: &Grid, words: &[u64]| capture.launch(f, grid, words);
                    let captured = match &launched.code {
                        Code::Kernel(prepared) => prepared.each(addresses, params, workspace, add),
                        Code::Product(prepared) => prepared.each(addresses, params, workspace, add),
                    };
                    captured.map_err(|e| {
                        failed = Err(e.clone());
                        cuda_error(e).into()
                    })
                });
                failed
            });
            ended?;
            last.graph = Some((graph.map_err(cuda_error)?, memory));
        }
        let Some((graph, memory)) = &last.graph else { return Ok(false) };
        // SAFETY: as for each launch by itself; the addresses are those that were captured, and the arena is the graph's,
        // which runs on one stream.
        unsafe { graph.launch(stream) }.map_err(cuda_error)?;
        *arena = Some(memory.clone());
        Ok(true)
    }

    /// All that decides about the launches of a run: the addresses of arrays, and numbers.
    fn key(&self, results: &[Box<DeviceMemory>]) -> SmallVec<[u64; 8]> {
        let mut key: SmallVec<[u64; 8]> = results.iter().map(|memory| memory.address()).collect();
        if let Some(outputs) = &self.outputs {
            key.extend(outputs.iter().map(|output| output.first as u64));
        }
        for input in self.inputs {
            key.push(match input.data {
                Data::Device(first, _) => first,
                Data::Scalar { bits, .. } => bits,
                Data::Memory(first) => first as u64,
            });
        }
        key
    }
}
