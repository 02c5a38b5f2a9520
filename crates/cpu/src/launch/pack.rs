//! Packing: the elements of operands whose inner dimensions do not merge, made adjacent for a piece of a loop.

use super::{AlignedBuffer, BUFFERS, Places, Run};
use crate::Error;
use crate::clif::OperandAt;
use numfuse_core::kernel::{Access, Level, Role};
use smallvec::SmallVec;

/// The operands of a stage for the inner elements `begin..end`: packed where need be.
pub(super) struct Packed {
    pub places: Places,
    tiles: SmallVec<[(u32, AlignedBuffer, *mut u8); 4]>,
    begin: usize,
    end: usize,
}

impl Packed {
    /// Packs the inputs among `used` and makes room for the outputs. `places` has one entry for each operand.
    pub fn new(
        run: &Run<'_>,
        used: &[u32],
        places: *const OperandAt,
        begin: usize,
        end: usize,
    ) -> Result<Packed, Error> {
        // SAFETY: the run's places have one entry for each operand and outlive this call.
        let mut places: Places = unsafe { std::slice::from_raw_parts(places, run.pointers.len()) }.into();
        let mut tiles = SmallVec::new();
        for operand in used.iter().copied().filter(|n| run.is_packed(*n)) {
            let place = &mut places[operand as usize];
            let size = run.compiled.operands[operand as usize].dtype.size();
            let mut tile = BUFFERS.take((end - begin) * size)?;
            let origin = place.pointer;
            let start = tile.as_mut_ptr();
            if run.role(operand) == Role::In {
                copy(run, operand, origin, start, begin, end, false);
            }
            // Element `begin` of the loop is the first of the tile.
            place.pointer = start.wrapping_byte_sub(begin * size);
            place.inner = size as isize;
            tiles.push((operand, tile, origin));
        }
        Ok(Packed { places, tiles, begin, end })
    }

    /// Writes the outputs to where they belong.
    pub fn unpack(mut self, run: &Run<'_>) {
        for (operand, tile, origin) in &mut self.tiles {
            if run.role(*operand) == Role::Out {
                copy(run, *operand, *origin, tile.as_mut_ptr(), self.begin, self.end, true);
            }
        }
        for (_, tile, _) in self.tiles.drain(..) {
            BUFFERS.give(tile);
        }
    }
}

/// Copies elements `begin..end` of an operand's inner dimensions, which begin at `origin`, to a tile, or back.
pub(super) fn copy(run: &Run<'_>, operand: u32, origin: *mut u8, tile: *mut u8, begin: usize, end: usize, back: bool) {
    let sizes = &run.launch.inner;
    let strides = &run.launch.layouts[operand as usize].inner;
    let size = run.compiled.operands[operand as usize].dtype.size();
    let (Some(width), Some(step)) = (sizes.last().copied(), strides.last().copied()) else { return };
    let mut at = begin;
    let mut target = tile;
    while at < end {
        // The run along the last dimension that `at` is in.
        let column = at % width;
        let count = (width - column).min(end - at);
        let mut rest = at / width;
        let mut offset = column as isize * step;
        for (n, stride) in sizes.iter().zip(strides).rev().skip(1) {
            offset += (rest % n) as isize * stride;
            rest /= n;
        }
        let mut source = origin.wrapping_byte_offset(offset);
        at += count;
        if step == size as isize {
            let (from, to) = if back { (target, source) } else { (source, target) };
            // SAFETY: as below; the elements are adjacent, and a tile overlaps no operand.
            unsafe { std::ptr::copy_nonoverlapping(from, to, count * size) };
            target = target.wrapping_byte_add(count * size);
            continue;
        }
        for _ in 0..count {
            // SAFETY: `source` is an element of the launch's domain, which the caller of `Compiled::run` vouches for;
            // the tile has room for `end - begin` elements.
            unsafe {
                let (from, to) = if back { (target, source) } else { (source, target) };
                match size {
                    8 => to.cast::<[u8; 8]>().write(from.cast::<[u8; 8]>().read()),
                    4 => to.cast::<[u8; 4]>().write(from.cast::<[u8; 4]>().read()),
                    2 => to.cast::<[u8; 2]>().write(from.cast::<[u8; 2]>().read()),
                    _ => to.write(from.read()),
                }
            }
            source = source.wrapping_byte_offset(step);
            target = target.wrapping_byte_add(size);
        }
    }
}

impl Run<'_> {
    /// The elements of an operand are packed when several inner dimensions do not step evenly.
    fn is_packed(&self, operand: u32) -> bool {
        let info = &self.compiled.operands[operand as usize];
        let layout = &self.launch.layouts[operand as usize];
        if info.level == Level::Row || info.access != Access::Unit {
            return false;
        }
        let mut expected = info.dtype.size() as isize;
        for (size, stride) in self.launch.inner.iter().zip(&layout.inner).rev() {
            if *stride != expected {
                return true;
            }
            expected *= *size as isize;
        }
        false
    }

    fn role(&self, operand: u32) -> Role {
        self.compiled.operands[operand as usize].role
    }
}
