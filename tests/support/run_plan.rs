//! Runs a plan in the interpreter, over plain vectors: what tests hold plans and back ends against.

use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::Role;
use numfuse_core::literal::Literal;
use numfuse_core::plan::{BufferKind, Plan, Strided};

/// An array in row-major order.
#[derive(Clone, PartialEq, Debug)]
pub struct Dense {
    /// Sizes.
    pub shape: Vec<u64>,
    /// Elements.
    pub data: Vec<Literal>,
}

/// The outputs of a plan for these sizes of the symbols and these inputs, row-major.
pub fn run_plan(plan: &Plan, symbols: &[u64], inputs: &[Dense]) -> Vec<Dense> {
    let sizes = plan.graph.dims.sizes(symbols);
    plan.graph.dims.check(&sizes).unwrap_or_else(|e| panic!("{e:?}"));
    let dtypes: Vec<_> = plan.graph.inputs().iter().map(|i| plan.graph.node(i.node).dtype).collect();
    let places: Vec<Strided> = inputs
        .iter()
        .zip(&dtypes)
        .map(|(x, dtype)| Strided::row_major(&x.shape, *dtype).unwrap_or_else(|e| panic!("{e}")))
        .collect();
    let places = plan.places(&sizes, &places).unwrap_or_else(|e| panic!("{e}"));
    let mut memory: Vec<Vec<u8>> = plan
        .buffers
        .iter()
        .zip(&places)
        .map(|(buffer, place)| match buffer.kind {
            BufferKind::Input(n) => {
                let size = buffer.dtype.size();
                inputs[n as usize].data.iter().flat_map(|x| x.bits().to_le_bytes()[..size].to_vec()).collect()
            }
            _ => vec![0xA5; place.count() as usize * buffer.dtype.size()],
        })
        .collect();
    for step in &plan.steps {
        let bound = step.bind(&sizes, &places).unwrap_or_else(|e| panic!("{e}"));
        if bound.is_empty {
            continue;
        }
        let kernel = step.specialize(&bound.launch);
        numfuse_core::kernel::verify(&kernel).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
        let copies: Vec<Vec<u8>> = step.operands.iter().map(|a| memory[a.buffer.index()].clone()).collect();
        let mut taken: Vec<(usize, Vec<u8>)> = Vec::new();
        for (access, operand) in step.operands.iter().zip(&kernel.operands) {
            let out =
                if operand.role == Role::Out { std::mem::take(&mut memory[access.buffer.index()]) } else { vec![] };
            taken.push((access.buffer.index(), out));
        }
        let mut operands: Vec<Memory<'_>> = Vec::new();
        for (((_, out), copy), (operand, offset)) in
            taken.iter_mut().zip(&copies).zip(kernel.operands.iter().zip(&bound.offsets))
        {
            let bytes = if operand.role == Role::Out { Bytes::Out(out) } else { Bytes::In(copy) };
            operands.push(Memory { bytes, offset: *offset as usize });
        }
        interp::run(&kernel, &bound.launch, &mut operands, &bound.params);
        drop(operands);
        for ((index, out), operand) in taken.into_iter().zip(&kernel.operands) {
            if operand.role == Role::Out {
                memory[index] = out;
            }
        }
    }
    plan.outputs
        .iter()
        .map(|id| {
            let (buffer, place) = (&plan.buffers[id.index()], &places[id.index()]);
            let size = buffer.dtype.size();
            let data = memory[id.index()]
                .chunks(size)
                .map(|bytes| {
                    let mut word = [0; 8];
                    word[..size].copy_from_slice(bytes);
                    Literal::from_bits(buffer.dtype, u64::from_le_bytes(word))
                })
                .collect();
            Dense { shape: place.shape.to_vec(), data }
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
