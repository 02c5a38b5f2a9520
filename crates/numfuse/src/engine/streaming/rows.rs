//! Rows of a plan that treats them independently of each other (`split.rs`), some at a time.

use super::pipeline::{self, Part, Pipeline, Staged};
use super::split::Split;
use super::{Job, PART, Room, SHARE, SMALL, computed, uploaded};
use crate::array::Array;
use crate::engine::program::Program;
use crate::error::Result;
use crate::view::{ArrayMut, ArrayRef};
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use smallvec::SmallVec;

/// Arrays of which some rows are on their way at a time.
pub(super) struct Rows {
    split: Split,
    /// Rows of a part.
    rows: u64,
    /// Bytes of a row of each input that is cut, and of each result.
    inputs: SmallVec<[usize; 3]>,
    outputs: SmallVec<[usize; 1]>,
}

impl Rows {
    /// How arrays go through in rows; none if they are no more than one part, or a row is too large for one.
    pub fn new(room: &Room, inputs: &[&ArrayRef<'_>], types: &[(DType, Strided)], split: Split) -> Option<Rows> {
        let total = split.rows;
        let bytes = |dtype: DType, shape: &[u64]| shape[1..].iter().product::<u64>() as usize * dtype.size();
        let cut = inputs.iter().enumerate().filter(|(n, _)| split.cut[*n]);
        let inputs: SmallVec<[usize; 3]> = cut.map(|(_, input)| bytes(input.dtype(), input.shape())).collect();
        let outputs: SmallVec<[usize; 1]> = types.iter().map(|(dtype, place)| bytes(*dtype, &place.shape)).collect();
        let row = inputs.iter().chain(&outputs).sum::<usize>().max(1) as u64;
        if total <= 1 || row.saturating_mul(total) <= SMALL || row > room.free / 8 {
            return None;
        }
        let rows = (PART.min(room.free / SHARE) / row).clamp(1, total);
        (rows < total).then_some(Rows { split, rows, inputs, outputs })
    }

    /// True if the expression takes parts: sizes that have to be equal still are.
    pub fn fit(&self, program: &Program, inputs: &[&ArrayRef<'_>]) -> bool {
        let last = self.split.rows % self.rows;
        [self.rows, last].into_iter().filter(|rows| *rows > 0).all(|rows| {
            let mut parts: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
            for (n, input) in inputs.iter().enumerate() {
                let part = if self.split.cut[n] { input.slice(0, 0..rows as usize) } else { Ok((*input).clone()) };
                parts.extend(part);
            }
            program.takes(&parts.iter().collect::<SmallVec<[&ArrayRef<'_>; 8]>>())
        })
    }

    /// Evaluates a program into arrays that overlap no input.
    pub fn run(&self, job: Job<'_>, outputs: &mut [ArrayMut<'_>]) -> Result<()> {
        let Job { shared, backend, program, inputs, flag, .. } = job;
        let total = self.split.rows;
        let rows = |part: usize| part as u64 * self.rows..((part as u64 + 1) * self.rows).min(total);
        let kept = uploaded(shared, inputs, |n| !self.split.cut[n])?;
        let mut views: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
        for (input, kept) in inputs.iter().zip(&kept) {
            views.push(kept.as_ref().map_or_else(|| (*input).clone(), Array::view));
        }
        let most = |bytes: &[usize]| pipeline::room(bytes.iter().map(|row| row * self.rows as usize));
        let (input_bytes, output_bytes) = (most(&self.inputs), most(&self.outputs));
        let shapes: SmallVec<[SmallVec<[u64; 4]>; 1]> = outputs.iter().map(|output| output.shape().into()).collect();
        let part = |k: usize| {
            let mut staged = SmallVec::new();
            for (n, input) in inputs.iter().enumerate().filter(|(n, _)| self.split.cut[*n]) {
                let piece = input.slice(0, rows(k).start as usize..rows(k).end as usize)?;
                let (dtype, shape) = (input.dtype(), piece.shape().into());
                staged.push(Staged { input: n, dtype, shape, pieces: SmallVec::from_iter([piece]) });
            }
            let of =
                |shape: &SmallVec<[u64; 4]>| std::iter::once(rows(k)).chain(shape[1..].iter().map(|n| 0..*n)).collect();
            Ok(Part { inputs: staged, results: Some(shapes.iter().map(of).collect()) })
        };
        let count = total.div_ceil(self.rows) as usize;
        let pipeline = Pipeline { shared, backend, input_bytes, output_bytes };
        pipeline.run(count, &views, outputs, part, |_, views| computed(shared, program, views, flag))
    }
}
