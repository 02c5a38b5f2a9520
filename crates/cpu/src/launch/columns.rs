//! Column kernels: tiles of columns, leaves of reduced indices, and the tree that joins them.
//!
//! The tree of [`numfuse_core::kernel::reduce`] joins neighbours level by level. A run of `2^k` leaves that begins at a
//! multiple of `2^k` is one whole subtree, so it can be folded by itself: within such a *group* finished blocks wait on
//! a stack until their neighbour of the same size is finished; groups are folded by different threads and joined level
//! by level.

use super::{AlignedBuffer, BUFFERS, CHUNK, Run, SharedCall, Workspace, invoke};
use crate::Error;
use crate::clif::Call;
use numfuse_core::kernel::Nest;
use numfuse_core::kernel::reduce;
use smallvec::SmallVec;

/// Columns of a tile: their states stay in the first-level cache.
const TILE: usize = 1024;
/// Reduced indices of a leaf.
const LEAF: usize = reduce::leaf(Nest::Columns);

/// Where blocks of states lie.
struct Blocks {
    buffer: AlignedBuffer,
    /// Bytes of a block.
    block: usize,
    /// Bytes of a component in a block.
    component: usize,
}

impl Blocks {
    fn new(run: &Run<'_>, columns: usize, blocks: usize) -> Result<Blocks, Error> {
        // A state is at most a word; blocks begin at cache lines.
        let component = (columns * 8).next_multiple_of(64);
        let block = component * run.compiled.analysis.states.max(1);
        let Some(bytes) = block.checked_mul(blocks.max(1)) else {
            return Err(Error::OutOfMemory { bytes: usize::MAX });
        };
        Ok(Blocks { buffer: BUFFERS.take(bytes)?, block, component })
    }

    fn at(&self, index: usize) -> *mut u8 {
        self.buffer.as_ptr().cast_mut().wrapping_byte_add(index * self.block)
    }

    fn give(self) {
        BUFFERS.give(self.buffer);
    }
}

/// One outer index and one tile of its columns.
struct Tile<'r, 'a> {
    run: &'r Run<'a>,
    call: SharedCall,
    reduced: usize,
}

impl Run<'_> {
    /// Runs a column kernel.
    pub(super) fn columns(&self) -> Result<(), Error> {
        let (outer, columns, reduced) = (self.launch.rows(), self.inner, self.launch.reduced_len());
        if columns == 0 {
            return Ok(());
        }
        let cost = self.compiled.cost * (columns as f64) * (reduced as f64 + 1.0) * outer as f64;
        let team = self.options.team(cost);
        let threads = team.threads;
        // Tiles are narrower if that gives every thread one, but not narrower than a few cache lines.
        let mut width = TILE;
        while threads > 1 && width > 64 && outer * columns.div_ceil(width) < 2 * threads {
            width /= 2;
        }
        let tiles = columns.div_ceil(width);
        let leaves = reduced.div_ceil(LEAF);
        let units = outer * tiles;
        let unit_cost = cost / units as f64;
        // How many leaves a group has, if groups are needed: a power of two.
        let groups_wanted = if units >= 2 * threads { 1.0 } else { (unit_cost / CHUNK.1).min(8.0 * threads as f64) };
        let group = (leaves as f64 / groups_wanted.max(1.0)).ceil().max(1.0) as usize;
        let group = group.next_power_of_two();
        let tile = |unit: usize| {
            let (row, tile) = (unit / tiles, unit % tiles);
            (row, tile * width, ((tile + 1) * width).min(columns))
        };
        if threads == 1 || leaves <= group {
            return self.share(units, team, |unit| {
                let (row, begin, end) = tile(unit);
                self.with_tile(row, begin, end, |tile| {
                    let blocks = tile.stack(leaves)?;
                    tile.fold(0, leaves, &blocks)?;
                    tile.finish(blocks.at(0));
                    blocks.give();
                    Ok(())
                })
            });
        }
        for unit in 0..units {
            let (row, begin, end) = tile(unit);
            self.with_tile(row, begin, end, |tile| {
                let groups = leaves.div_ceil(group);
                let joined = Blocks::new(self, end - begin, groups)?;
                let at = |index: usize| Address(joined.at(index));
                self.share(groups, team, |index| {
                    let (first, last) = (index * group, ((index + 1) * group).min(leaves));
                    let blocks = tile.stack(last - first)?;
                    tile.fold(first, last, &blocks)?;
                    // SAFETY: both blocks have `joined.block` bytes; this group's is written by nobody else.
                    unsafe { std::ptr::copy_nonoverlapping(blocks.at(0), at(index).0, joined.block) };
                    blocks.give();
                    Ok(())
                })?;
                let mut distance = 1;
                while distance < groups {
                    for left in (0..groups - distance).step_by(2 * distance) {
                        let right = left + distance;
                        let before = left * group * LEAF;
                        let middle = right * group * LEAF;
                        let after = ((right + distance) * group * LEAF).min(reduced);
                        tile.merge(joined.at(left), middle - before, joined.at(right), after - middle);
                    }
                    distance *= 2;
                }
                tile.finish(joined.at(0));
                joined.give();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn with_tile(
        &self,
        row: usize,
        begin: usize,
        end: usize,
        run: impl FnOnce(&Tile<'_, '_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut places = self.places(&self.outer_index(row), false);
        for (place, layout) in places.iter_mut().zip(&self.launch.layouts) {
            place.row = layout.reduced.last().copied().unwrap_or(0);
        }
        let component = ((end - begin) * 8).next_multiple_of(64);
        let call = Call {
            operands: places.as_ptr(),
            begin,
            end,
            state_stride: component,
            ..Workspace::empty(self.params, self.inner)
        };
        run(&Tile { run: self, call: SharedCall(call), reduced: self.launch.reduced_len() })
    }
}

/// An address that threads may share.
struct Address(*mut u8);

impl Tile<'_, '_> {
    /// Room for the blocks that wait while `leaves` leaves are folded.
    fn stack(&self, leaves: usize) -> Result<Blocks, Error> {
        let call = self.call.get();
        let depth = usize::BITS as usize - leaves.leading_zeros() as usize + 1;
        let blocks = Blocks::new(self.run, call.end - call.begin, depth)?;
        debug_assert_eq!(blocks.component, call.state_stride);
        Ok(blocks)
    }

    /// Folds leaves `first..last`, a subtree, into block 0.
    fn fold(&self, first: usize, last: usize, blocks: &Blocks) -> Result<(), Error> {
        if first == last {
            self.fill_empty(blocks.at(0));
            return Ok(());
        }
        // Waiting blocks: the leaf that each begins with.
        let mut waiting: SmallVec<[usize; 64]> = SmallVec::new();
        let elements = |leaf: usize| (leaf * LEAF).min(self.reduced);
        let join = |waiting: &mut SmallVec<[usize; 64]>, end: usize| {
            let Some(right) = waiting.pop() else { return };
            let Some(left) = waiting.last().copied() else { return };
            let n = waiting.len();
            let (left_count, right_count) = (elements(right) - elements(left), elements(end) - elements(right));
            self.merge(blocks.at(n - 1), left_count, blocks.at(n), right_count);
        };
        for leaf in first..last {
            if leaf % 64 == 63 && self.run.options.cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            self.leaf(leaf, blocks.at(waiting.len()));
            waiting.push(leaf);
            // Each block of 2^k leaves that ends here has a finished neighbour of the same size.
            for _ in 0..(leaf + 1 - first).trailing_zeros() {
                join(&mut waiting, leaf + 1);
            }
        }
        while waiting.len() > 1 {
            join(&mut waiting, last);
        }
        Ok(())
    }

    /// Folds one leaf into a block, a run along the last reduced dimension at a time.
    fn leaf(&self, leaf: usize, block: *mut u8) {
        let run = self.run;
        let sizes = &run.launch.reduced;
        let last = sizes.last().copied().unwrap_or(1);
        let (mut at, end) = (leaf * LEAF, ((leaf + 1) * LEAF).min(self.reduced));
        let mut count = 0;
        // SAFETY: the call's operands are the places of `with_tile`, one for each operand.
        let base = unsafe { std::slice::from_raw_parts(self.call.places(), run.pointers.len()) };
        while at < end {
            let rows = (last - at % last).min(end - at);
            let mut places: super::Places = base.into();
            for (place, layout) in places.iter_mut().zip(&run.launch.layouts) {
                let mut rest = at;
                for (size, stride) in sizes.iter().zip(&layout.reduced).rev() {
                    place.pointer = place.pointer.wrapping_byte_offset((rest % size) as isize * stride);
                    rest /= size;
                }
            }
            let call = Call { operands: places.as_ptr(), rows, states: block, count, first: 0, ..*self.call.get() };
            // SAFETY: the places are those of reduced indices `at..at + rows`; the block has room for the tile.
            unsafe { invoke(&run.compiled.code, &call) };
            count += rows;
            at += rows;
        }
    }

    /// Joins two blocks into the left one.
    fn merge(&self, left: *mut u8, left_count: usize, right: *mut u8, right_count: usize) {
        let call = Call {
            states: left,
            other: right,
            count: left_count,
            other_count: right_count,
            first: 1,
            ..*self.call.get()
        };
        // SAFETY: both blocks hold the states of this tile.
        unsafe { invoke(&self.run.compiled.code, &call) };
    }

    /// Runs the last stage on a block.
    fn finish(&self, block: *mut u8) {
        let call = Call { states: block, first: 2, ..*self.call.get() };
        // SAFETY: the block holds the results of this tile; operands of the last stage have no extent along the
        // reduced dimensions.
        unsafe { invoke(&self.run.compiled.code, &call) };
    }

    /// Writes the results of empty reductions to a block.
    fn fill_empty(&self, block: *mut u8) {
        let call = self.call.get();
        let compiled = self.run.compiled;
        for (reduction, first) in compiled.reductions.iter().zip(&compiled.analysis.components) {
            let (reducer, dtype) = (reduction.reducer, reduction.dtype);
            // Like the interpreter: empty minima are refused before they get here.
            let bits = reducer.empty(dtype).map_or(0, |literal| literal.bits());
            let component = block.wrapping_byte_add((first + reducer.result()) * call.state_stride);
            for column in 0..call.end - call.begin {
                // SAFETY: the block has room for a state of each component for each column of the tile.
                unsafe {
                    let to = component.byte_add(column * dtype.size());
                    std::ptr::copy_nonoverlapping(bits.to_le_bytes().as_ptr(), to, dtype.size());
                }
            }
        }
    }
}
