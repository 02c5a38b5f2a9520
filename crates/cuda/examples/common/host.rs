//! A kernel whose operands are in memory of the host, run on a device: up, over, down. For checks, which compare every byte.

use numfuse_core::interp::{Bytes, Memory};
use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use numfuse_core::literal::Literal;
use numfuse_cuda::{Backend, Error};

/// Does what [`numfuse_core::interp::run`] does.
pub fn run(
    backend: &Backend,
    kernel: &Kernel,
    launch: &Launch,
    operands: &mut [Memory<'_>],
    params: &[Literal],
) -> Result<(), Error> {
    let stream = backend.stream();
    let mut memory = Vec::with_capacity(operands.len());
    for operand in operands.iter() {
        let bytes: &[u8] = match &operand.bytes {
            Bytes::In(bytes) => bytes,
            Bytes::Out(bytes) => bytes,
        };
        // No memory is of no bytes, and everything has an address.
        let there = stream.allocate(bytes.len().max(1))?;
        stream.upload(&there, 0, bytes)?;
        memory.push(there);
    }
    let addresses: Vec<u64> =
        memory.iter().zip(operands.iter()).map(|(m, operand)| m.address() + operand.offset as u64).collect();
    let prepared = backend.prepare(kernel, launch, &addresses)?;
    let bytes = usize::try_from(prepared.workspace()).map_err(|e| Error::Internal(e.to_string()))?;
    let workspace = stream.allocate(bytes.max(1))?;
    stream.fill(&workspace, 0..workspace.len(), 0xa5)?;
    let params: Vec<u64> = params.iter().map(|p| p.bits()).collect();
    // SAFETY: each piece of memory covers what the launch reaches in its operand, as it does on the host; no two overlap;
    // all of them live until the downloads below have waited for the stream.
    unsafe { prepared.run(stream, &addresses, &params, workspace.address()) }?;
    for (operand, there) in operands.iter_mut().zip(&memory) {
        if let Bytes::Out(bytes) = &mut operand.bytes {
            stream.download(there, 0, bytes)?;
        }
    }
    stream.synchronize()
}
