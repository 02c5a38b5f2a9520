//! Calls of an engine with a device: which arrays it takes, and where the results are.
//!
//! Arrays of the device are computed on there, and the results are arrays of the device. Arrays of the host are streamed
//! through the device (`streaming.rs`), and the results are arrays of the host. Plain numbers and scalars of the host go
//! with either; a call with both kinds of arrays is an error, as is one with arrays of another device.

use super::limits::Flag;
use super::program::{Call, Program};
use super::run::{self, Results};
use super::{Shared, streaming};
use crate::device::{Device, mismatch};
use crate::error::{Error, Result, cuda_error};
use crate::view::{ArrayMut, ArrayRef};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::kernel::Role;
use numfuse_core::plan::{BoundProduct, BufferId, BufferKind, Plan, Strided};
use numfuse_cuda::Backend;
use numfuse_cuda::matmul::Product;
use smallvec::SmallVec;

/// What is fused into the products of a plan on a device: what is fused is no step of its own, and is not stored.
#[derive(Default)]
pub(super) struct Fusion {
    /// The last step that each of these products takes the place of, the product, without and with what is fused into it.
    pub products: Vec<(usize, Product, BoundProduct)>,
    /// The steps that they take the place of.
    pub steps: Vec<usize>,
    /// The buffers that nobody uses then.
    pub unused: Vec<BufferId>,
}

impl Fusion {
    /// All that may be fused, where the device is better off with it.
    pub fn new(
        backend: &Backend,
        plan: &Plan,
        sizes: &[u64],
        inputs: &[&ArrayRef<'_>],
        places: &[Strided],
    ) -> Result<Fusion> {
        let mut fusion = Fusion::default();
        let is_number = |buffer: BufferId| match plan.buffers[buffer.index()].kind {
            BufferKind::Input(n) => inputs[n as usize].is_number(),
            _ => false,
        };
        for product in (0..plan.steps.len()).filter(|i| plan.steps[*i].kernel().is_none()) {
            // What is computed from numbers alone has no place in memory.
            let written = |step: usize| plan.steps[step].accesses(Role::Out).count();
            let reads = |step: &usize| {
                plan.steps[*step].operands.iter().filter(|a| !is_number(a.buffer)).count() > written(*step)
            };
            let fused = plan.fusible(product).map(|step| step.filter(reads));
            let Some(last) = fused.iter().flatten().max() else { continue };
            let alone = plan.bind_product(product, [None; 3], sizes, places)?;
            let alone = Product::new(alone.dtype, &alone.launch).map_err(cuda_error)?;
            if !backend.fuses(&alone) {
                continue;
            }
            let operands = &plan.steps[product].operands;
            fusion.unused.extend((0..3).filter(|n| fused[*n].is_some()).map(|n| operands[n].buffer));
            fusion.steps.extend(fused.iter().flatten().copied().chain([product]));
            let bound = plan.bind_product(product, fused, sizes, places)?;
            fusion.products.push(((*last).max(product), alone, bound));
        }
        Ok(fusion)
    }
}

/// Evaluates a program into new arrays, by an engine with a device.
pub(super) fn run(
    shared: &Shared,
    backend: &Backend,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    flag: &Flag<'_>,
) -> Result<Results> {
    if are_of_host(shared, program, inputs, None)? {
        return streaming::run(shared, backend, program, inputs, None, flag);
    }
    with_numbers(inputs, |inputs| {
        program.with_call(shared, inputs, None, |call, fit| run::steps(shared, call, fit, flag))
    })
}

/// Evaluates a program into arrays of the caller, by an engine with a device.
pub(super) fn run_into(
    shared: &Shared,
    backend: &Backend,
    program: &Program,
    known: Option<&Call>,
    inputs: &[&ArrayRef<'_>],
    outputs: &mut [ArrayMut<'_>],
    flag: &Flag<'_>,
) -> Result<()> {
    if are_of_host(shared, program, inputs, Some(outputs))? {
        return streaming::run(shared, backend, program, inputs, Some(outputs), flag).map(|_| ());
    }
    with_numbers(inputs, |inputs| run::run_into_here(shared, program, known, inputs, outputs, flag))
}

/// True if a call is one with arrays of the host, false if it is one with arrays of the device.
fn are_of_host(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    outputs: Option<&[ArrayMut<'_>]>,
) -> Result<bool> {
    let mut host = None;
    let mut on_device = false;
    for (n, input) in inputs.iter().enumerate() {
        match input.memory() {
            Some(memory) if shared.device.has(memory) => on_device = true,
            Some(memory) => return Err(mismatch(&input_name(program, n), &memory.device(), &shared.device)),
            None if input.shape().is_empty() => {}
            None => host = host.or_else(|| Some(input_name(program, n))),
        }
    }
    for (n, output) in outputs.unwrap_or_default().iter().enumerate() {
        match output.memory() {
            Some(memory) if shared.device.has(memory) => on_device = true,
            Some(memory) => return Err(mismatch(&output_name(n), &memory.device(), &shared.device)),
            None => host = host.or_else(|| Some(output_name(n))),
        }
    }
    match host {
        Some(name) if on_device => {
            let (cpu, device) = (Device::cpu().name(), shared.device.name());
            let error =
                Diagnostic::new(Code::DeviceMismatch, format!("{name} is on {cpu}, other arrays are on {device}"));
            Err(error.why("arrays are never moved unasked").hint("`to_device` copies it there").into())
        }
        host => Ok(host.is_some()),
    }
}

/// Calls `then` with inputs of which those scalars that are on the host are numbers.
#[inline]
pub(super) fn with_numbers<T>(inputs: &[&ArrayRef<'_>], then: impl FnOnce(&[&ArrayRef<'_>]) -> Result<T>) -> Result<T> {
    let is_other = |input: &ArrayRef<'_>| input.memory().is_none() && !input.is_number();
    if !inputs.iter().any(|input| is_other(input)) {
        return then(inputs);
    }
    let mut numbers: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
    for input in inputs {
        numbers.push(match input.get(&[]) {
            Some(literal) if is_other(input) => ArrayRef::from_literal(literal, false),
            _ => (*input).clone(),
        });
    }
    then(&numbers.iter().collect::<SmallVec<[&ArrayRef<'_>; 8]>>())
}

/// An error if the arrays of a call are not where the engine computes.
pub(super) fn check_devices(
    shared: &Shared,
    program: &Program,
    inputs: &[&ArrayRef<'_>],
    outputs: Option<&[ArrayMut<'_>]>,
) -> Result<()> {
    let wrong = |name: String, device: Device| -> Error { mismatch(&name, &device, &shared.device) };
    for (n, input) in inputs.iter().enumerate() {
        let fits = input.memory().map_or(shared.device.is_cpu() || input.is_number(), |m| shared.device.has(m));
        if !fits {
            return Err(wrong(input_name(program, n), input.device()));
        }
    }
    for (n, output) in outputs.unwrap_or_default().iter().enumerate() {
        if !output.memory().map_or(shared.device.is_cpu(), |m| shared.device.has(m)) {
            return Err(wrong(output_name(n), output.device()));
        }
    }
    Ok(())
}

/// What messages call an input.
fn input_name(program: &Program, n: usize) -> String {
    program.inputs.get(n).map_or_else(|| format!("input {n}"), |input| format!("input `{}`", input.name))
}

/// What messages call an output.
fn output_name(n: usize) -> String {
    if n == 0 { "the output".to_owned() } else { format!("output {n}") }
}
