//! Steps on arrays that another language has lent: nothing of them is copied but their addresses, so that a small call
//! spends its time on its elements.
//!
//! Invariant: the arrays of a [`Lent`] have the dtypes and places that its steps were bound to, on the host.

use super::{Binding, Ended, Memory, Slot, Steps, in_arena};
use crate::layout::{copy, overlap};
use crate::view::{ArrayMut, RawArray};
use numfuse_core::plan::Strided;
use numfuse_cpu::RunOptions;
use smallvec::SmallVec;
use std::marker::PhantomData;

/// Arrays of another language for an evaluation: where their first elements are. The rest is as it was bound.
pub(crate) struct Lent<'c> {
    steps: &'c Steps,
    inputs: SmallVec<[*mut u8; 4]>,
    outputs: SmallVec<[*mut u8; 2]>,
    life: PhantomData<&'c mut [u8]>,
}

// SAFETY: it stands for arrays, which may be sent, too.
unsafe impl Send for Lent<'_> {}

impl Lent<'_> {
    /// True if outputs share memory neither with each other nor with inputs.
    #[inline]
    pub fn is_apart(&self) -> bool {
        let Steps { inputs, outputs, .. } = self.steps;
        let outputs: SmallVec<[_; 2]> = outputs.iter().zip(&self.outputs).map(|(b, first)| b.span(*first)).collect();
        let mut inputs = inputs.iter().zip(&self.inputs).map(|(b, first)| b.span(*first));
        inputs.all(|input| !outputs.iter().any(|output| overlap(output, &input)))
            && (1..outputs.len()).all(|i| !outputs[..i].iter().any(|output| overlap(output, &outputs[i])))
    }

    /// Runs the steps in order, as long as `go_on` agrees. That outputs are apart is up to the caller.
    #[inline]
    pub fn run(self, options: &RunOptions<'_>, go_on: impl Fn() -> bool) -> Result<(), Ended> {
        let Lent { steps, inputs, outputs, .. } = self;
        let arena = if steps.arena_bytes > 0 { Some(Memory::uninit(steps.arena_bytes)?) } else { None };
        let first = |slot: Slot| match slot {
            Slot::Input(n) => inputs[n as usize],
            Slot::Output(n) => outputs[n as usize],
            Slot::Temp { offset, .. } => in_arena(&arena, offset),
        };
        steps.execute(first, options, go_on)?;
        for (from, to) in &steps.copies {
            let array = |n: usize| {
                let Binding { dtype, place, .. } = &steps.outputs[n];
                ArrayMut { first: outputs[n], dtype: *dtype, place: copy(place), life: PhantomData, memory: None }
            };
            array(*to).copy_from(&array(*from).as_ref())?;
        }
        Ok(())
    }
}

impl Steps {
    /// True if these arrays have the dtypes and places of the inputs, one for each of them.
    #[inline]
    pub fn takes(&self, inputs: &[Option<RawArray<'_>>]) -> bool {
        let mut bindings = self.inputs.iter();
        self.device.is_none()
            && inputs.iter().flatten().all(|input| bindings.next().is_some_and(|binding| binding.fits_raw(input)))
            && bindings.next().is_none()
    }

    /// Arrays of other languages as inputs and outputs, if they have the dtypes and places of these.
    #[inline]
    pub fn lent<'c>(&'c self, inputs: &[Option<RawArray<'c>>], outputs: &[RawArray<'c>]) -> Option<Lent<'c>> {
        let fits = self.takes(inputs)
            && self.outputs.len() == outputs.len()
            && self.outputs.iter().zip(outputs).all(|(binding, output)| binding.fits_raw(output));
        fits.then(|| Lent {
            steps: self,
            inputs: inputs.iter().flatten().map(|input| input.first).collect(),
            outputs: outputs.iter().map(|output| output.first).collect(),
            life: PhantomData,
        })
    }
}

impl Binding {
    #[inline]
    fn fits_raw(&self, array: &RawArray<'_>) -> bool {
        let Strided { shape, strides } = &self.place;
        self.dtype == array.dtype
            && shape.len() == array.shape.len()
            && strides.len() == array.strides.len()
            && shape.iter().zip(array.shape).all(|(a, b)| *a == *b as u64)
            && strides.iter().zip(array.strides).all(|(a, b)| a == b)
    }
}
