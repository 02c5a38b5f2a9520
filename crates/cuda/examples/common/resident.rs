//! A case of the benchmark in the memory of a device, ready to run as often as wanted.

use super::cases::Bound;
use numfuse_core::plan::BufferKind;
use numfuse_cuda::driver::{Memory, Stream};
use numfuse_cuda::{Backend, Error, Prepared};

/// Operands, temporaries and prepared launches.
pub struct Resident<'a> {
    stream: &'a Stream,
    /// One for each buffer of the plan.
    memory: Vec<Memory>,
    workspace: Memory,
    steps: Vec<(Prepared, Vec<u64>, Vec<u64>)>,
    outputs: Vec<usize>,
}

impl<'a> Resident<'a> {
    /// Allocates everything; `fill` makes the contents of each input, by its number.
    pub fn new(
        backend: &'a Backend,
        bound: &Bound,
        mut fill: impl FnMut(usize, &Memory) -> Result<(), Error>,
    ) -> Result<Resident<'a>, Error> {
        let stream = backend.stream();
        let mut memory = Vec::new();
        for (n, buffer) in bound.plan.buffers.iter().enumerate() {
            let there = stream.allocate(bound.bytes(n).max(1))?;
            match buffer.kind {
                BufferKind::Input(input) => fill(input as usize, &there)?,
                _ => stream.fill(&there, 0..there.len(), 0xa5)?,
            }
            memory.push(there);
        }
        let mut steps = Vec::new();
        let mut most = 1;
        for step in &bound.steps {
            let first = |(b, at): (&usize, &isize)| memory[*b].address().wrapping_add_signed(*at as i64);
            let addresses: Vec<u64> = step.buffers.iter().zip(&step.offsets).map(first).collect();
            let prepared = backend.prepare(&step.kernel, &step.launch, &addresses)?;
            most = most.max(usize::try_from(prepared.workspace()).map_err(|e| Error::Internal(e.to_string()))?);
            steps.push((prepared, addresses, step.params.iter().map(|p| p.bits()).collect()));
        }
        let workspace = stream.allocate(most)?;
        let outputs = bound.plan.outputs.iter().map(|id| id.index()).collect();
        Ok(Resident { stream, memory, workspace, steps, outputs })
    }

    /// Submits one evaluation.
    pub fn run(&self) -> Result<(), Error> {
        self.steps.iter().try_for_each(|(prepared, addresses, params)| {
            // SAFETY: the memory of every operand is that of a buffer of the plan, as large as its place says, and lives as
            // long as this; the plan orders what its steps write and read.
            unsafe { prepared.run(self.stream, addresses, params, self.workspace.address()) }
        })
    }

    /// The launches of one evaluation.
    pub fn launches(&self) -> usize {
        self.steps.iter().map(|(prepared, ..)| prepared.grids().len()).sum()
    }

    /// True if the beginning and the end of every output were written since all of it was poison.
    pub fn wrote(&self) -> Result<bool, Error> {
        for n in &self.outputs {
            let memory = &self.memory[*n];
            let some = memory.len().min(4096);
            for at in [0, memory.len() - some] {
                let mut bytes = vec![0; some];
                self.stream.download(memory, at, &mut bytes)?;
                if bytes.iter().all(|byte| *byte == 0xa5) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
