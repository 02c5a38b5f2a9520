//! Arrays of more bytes than 32 bits count: on a device, one tile of numbers again and again, so that the results are one tile
//! again and again, too, and the interpreter need compute but one.

use super::kernels::{Block, Case, Rng, put};
use super::shapes::{self, Shape};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Nest, Reducer, Role};
use numfuse_cuda::driver::Memory;
use numfuse_cuda::{Backend, Error};

/// Bytes of a tile of an input.
const TILE: usize = 1 << 20;
/// Elements of a row.
const ROW: usize = 1024;

/// What differs, if anything does, for inputs of about so many bytes each.
pub fn differences(backend: &Backend, bytes: usize) -> Result<Vec<String>, Error> {
    let tiles = (bytes / TILE).max(1);
    let rows = TILE / ROW / DType::F32.size();
    let sum = |b: &mut _, v: &[_]| numfuse_core::kernel::Builder::add(b, v[0], v[1]);
    let map = shapes::map(DType::I8, 2, sum);
    let fold = shapes::fold(Nest::Rows, DType::F32, Reducer::Sum);
    let shape = shapes::shape;
    let pairs = [
        (shape("map of i8", map.clone(), [1, 0, TILE]), shape("map of i8", map, [1, 0, tiles * TILE])),
        (shape("sums of rows", fold.clone(), [rows, 0, ROW]), shape("sums of rows", fold, [tiles * rows, 0, ROW])),
    ];
    let mut found = Vec::new();
    for (one, all) in pairs {
        found.extend(differs(backend, one, &all, tiles)?.map(|what| format!("{} of {tiles} MiB: {what}", all.name)));
    }
    Ok(found)
}

/// Runs a kernel on all tiles and compares each tile of its output with that of the interpreter for one.
fn differs(backend: &Backend, one: Shape, all: &Shape, tiles: usize) -> Result<Option<String>, Error> {
    let mut rng = Rng(tiles as u64);
    let memory = one.kernel.operands.iter().map(|operand| {
        let size = operand.dtype.size();
        // An output has an element for each row, or for each element.
        let count = if one.launch.rows() > 1 && operand.role == Role::Out { one.launch.rows() } else { TILE / size };
        let mut bytes = vec![0xa5; count * size];
        for element in bytes.chunks_mut(size).filter(|_| operand.role == Role::In) {
            let number = rng.below(2000) as f32 / 64.0 - 15.0;
            put(element, 0, operand.dtype, if size == 4 { number.to_bits().into() } else { rng.next() });
        }
        Block { bytes, offset: 0 }
    });
    let case = Case { memory: memory.collect(), kernel: one.kernel, launch: one.launch, params: vec![] };
    let want = case.interpret();
    let stream = backend.stream();
    let mut there = Vec::new();
    for (block, operand) in case.memory.iter().zip(&case.kernel.operands) {
        let memory = stream.allocate(tiles * block.bytes.len())?;
        match operand.role {
            Role::In => repeat(backend, &memory, &block.bytes)?,
            Role::Out => stream.fill(&memory, 0..memory.len(), 0xa5)?,
        }
        there.push(memory);
    }
    let addresses: Vec<u64> = there.iter().map(Memory::address).collect();
    let prepared = backend.prepare(&all.kernel, &all.launch, &addresses)?;
    let bytes = usize::try_from(prepared.workspace()).map_err(|e| Error::Internal(e.to_string()))?;
    let workspace = stream.allocate(bytes.max(1))?;
    // SAFETY: the memory of each operand has the bytes of its tiles, which is what the launch reaches, and lives until the
    // downloads below have waited for the stream.
    unsafe { prepared.run(stream, &addresses, &[], workspace.address()) }?;
    for ((memory, operand), want) in there.iter().zip(&case.kernel.operands).zip(&want) {
        if operand.role == Role::In {
            continue;
        }
        let tile = want.bytes.len();
        // Few copies, each of many tiles.
        let mut part = vec![0; (tile * tiles).min(64 * tile)];
        for first in (0..tiles).step_by(64) {
            let part = &mut part[..tile * (tiles - first).min(64)];
            stream.download(memory, first * tile, part)?;
            if let Some(n) = part.chunks(tile).position(|got| got != want.bytes) {
                return Ok(Some(format!("tile {} of the result differs", first + n)));
            }
        }
    }
    Ok(None)
}

/// Fills memory with copies of a tile.
fn repeat(backend: &Backend, memory: &Memory, tile: &[u8]) -> Result<(), Error> {
    let stream = backend.stream();
    stream.upload(memory, 0, tile)?;
    let mut have = tile.len();
    while have < memory.len() {
        let more = have.min(memory.len() - have);
        stream.copy(memory, have, memory, 0..more)?;
        have += more;
    }
    Ok(())
}
