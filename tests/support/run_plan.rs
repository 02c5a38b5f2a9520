//! Runs a plan over plain vectors, each kernel through a function of the caller: the interpreter or a back end. Products
//! of matrices are the interpreter's.

use numfuse_core::dtype::DType;
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::{self, Kernel, Role};
use numfuse_core::launch::Launch;
use numfuse_core::literal::Literal;
use numfuse_core::plan::{BufferKind, Plan, Strided, Work};

/// An array in row-major order.
#[derive(Clone, PartialEq, Debug)]
pub struct Dense {
    /// Sizes.
    pub shape: Vec<u64>,
    /// Elements.
    pub data: Vec<Literal>,
}

/// An array somewhere in memory.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The memory.
    pub bytes: Vec<u8>,
    /// Where the first element begins.
    pub offset: usize,
    /// Sizes and strides.
    pub place: Strided,
}

impl Dense {
    /// The array with its axes in memory in the order `order` (outermost first), each axis `gaps` elements apart from
    /// being packed and backwards where `reversed` says so, and the whole `shift` bytes into its memory.
    pub fn placed(&self, dtype: DType, order: &[usize], gaps: &[usize], reversed: &[bool], shift: usize) -> Placed {
        let size = dtype.size();
        let rank = self.shape.len();
        let mut strides = vec![0isize; rank];
        let mut span = size;
        for axis in order.iter().rev() {
            span += gaps[*axis] * size;
            strides[*axis] = span as isize;
            span *= self.shape[*axis].max(1) as usize;
        }
        let mut offset = shift;
        for axis in 0..rank {
            if reversed[axis] {
                offset += strides[axis] as usize * self.shape[axis].saturating_sub(1) as usize;
                strides[axis] = -strides[axis];
            }
        }
        let mut bytes = vec![0x5A; span + shift + size];
        let mut index = vec![0u64; rank];
        for value in &self.data {
            let at = index.iter().zip(&strides).fold(offset as isize, |at, (i, s)| at + *i as isize * s) as usize;
            bytes[at..at + size].copy_from_slice(&value.bits().to_le_bytes()[..size]);
            for axis in (0..rank).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        let place = Strided { shape: self.shape.iter().copied().collect(), strides: strides.into_iter().collect() };
        Placed { bytes, offset, place }
    }

    /// The array in row-major order.
    pub fn packed(&self, dtype: DType) -> Placed {
        let rank = self.shape.len();
        self.placed(dtype, &(0..rank).collect::<Vec<_>>(), &vec![0; rank], &vec![false; rank], 0)
    }
}

/// The outputs of a plan, row-major, for these sizes of the symbols and these inputs.
pub fn run_plan(
    plan: &Plan,
    symbols: &[u64],
    inputs: &[Placed],
    mut execute: impl FnMut(&Kernel, &Launch, &mut [Memory<'_>], &[Literal]),
) -> Vec<Dense> {
    let sizes = plan.graph.dims.sizes(symbols);
    plan.graph.dims.check(&sizes).unwrap_or_else(|e| panic!("{e:?}"));
    let places: Vec<Strided> = inputs.iter().map(|x| x.place.clone()).collect();
    let places = plan.places(&sizes, &places).unwrap_or_else(|e| panic!("{e}"));
    let input_of = |kind: BufferKind| match kind {
        BufferKind::Input(n) => Some(&inputs[n as usize]),
        BufferKind::Output(_) | BufferKind::Guard(_) | BufferKind::Temp => None,
    };
    let mut memory: Vec<Vec<u8>> = plan
        .buffers
        .iter()
        .zip(&places)
        .map(|(buffer, place)| match input_of(buffer.kind) {
            Some(input) => input.bytes.clone(),
            None => vec![0xA5; place.count() as usize * buffer.dtype.size()],
        })
        .collect();
    for step in &plan.steps {
        let bound = step.bind(&sizes, &places).unwrap_or_else(|e| panic!("{e}"));
        if bound.is_empty {
            continue;
        }
        let work = step.specialize(&bound.launch);
        let buffers: Vec<usize> = step.operands.iter().map(|a| a.buffer.index()).collect();
        let is_out: Vec<bool> = (0..buffers.len()).map(|n| step.role(n) == Role::Out).collect();
        // A kernel reads no buffer that it writes: its outputs are taken out, its inputs are looked at.
        let mut outputs: Vec<Vec<u8>> = buffers
            .iter()
            .zip(&is_out)
            .map(|(b, out)| if *out { std::mem::take(&mut memory[*b]) } else { Vec::new() })
            .collect();
        let mut operands: Vec<Memory<'_>> = Vec::new();
        for (i, output) in outputs.iter_mut().enumerate() {
            let start = input_of(plan.buffers[buffers[i]].kind).map_or(0, |input| input.offset);
            let offset = start.wrapping_add_signed(bound.offsets[i]);
            let bytes = if is_out[i] { Bytes::Out(output) } else { Bytes::In(&memory[buffers[i]]) };
            operands.push(Memory { bytes, offset });
        }
        match &work {
            Work::Kernel(kernel) => {
                kernel::verify(kernel).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
                execute(kernel, &bound.launch, &mut operands, &bound.params);
            }
            Work::Matmul(dtype) => interp::matmul(*dtype, &bound.launch, &mut operands),
        }
        drop(operands);
        for ((buffer, output), out) in buffers.iter().zip(outputs).zip(&is_out) {
            if *out {
                memory[*buffer] = output;
            }
        }
    }
    plan.outputs
        .iter()
        .map(|id| {
            let (buffer, place) = (&plan.buffers[id.index()], &places[id.index()]);
            let size = buffer.dtype.size();
            let element = |bytes: &[u8]| {
                let mut word = [0; 8];
                word[..size].copy_from_slice(bytes);
                Literal::from_bits(buffer.dtype, u64::from_le_bytes(word))
            };
            Dense { shape: place.shape.to_vec(), data: memory[id.index()].chunks(size).map(element).collect() }
        })
        .collect()
}

/// Equality in which any NaN equals any NaN.
pub fn same(a: &Dense, b: &Dense) -> bool {
    a.shape == b.shape
        && a.data.len() == b.data.len()
        && a.data.iter().zip(&b.data).all(|(x, y)| {
            let nan = |l: &Literal| l.dtype().is_float() && l.as_f64().is_nan();
            x == y || (nan(x) && nan(y) && x.dtype() == y.dtype())
        })
}
