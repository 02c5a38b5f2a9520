//! Short rows with inputs that many of them share, such as the `y` of `sum((x[:,None] - y[None])**2, axis=-1)`, which is the
//! same for every `x`.
//!
//! The wide tier runs short rows side by side, and quickest if the elements of neighbouring rows are adjacent. So such
//! inputs are transposed once, in tiles of some rows, and a tile serves all outer indices: it stays in the
//! first-level cache meanwhile.
//!
//! Invariant: of a transposed input neither the elements of a row are adjacent nor those of other tiles in reach, so
//! the code must run all rows of each call side by side; [`ShortRows::new`] makes sure of that, and [`SideBySide::runs`]
//! is what that takes.

use super::{AlignedBuffer, BUFFERS, Places, Run, Team, Workspace, invoke, phases};
use crate::Error;
use crate::clif::{Call, OperandAt};
use crate::wide::SideBySide;
use numfuse_core::kernel::{Level, Operand, Role};
use numfuse_core::launch::Layout;
use smallvec::SmallVec;

/// The bytes of a tile of all transposed inputs: half of a small first-level cache.
const TILE_BYTES: usize = 24 << 10;
/// Transposing costs about as much as one outer index, so there have to be more.
const LEAST_OUTER: usize = 4;

/// A run of short rows, with its shared inputs transposed.
pub(super) struct ShortRows<'a> {
    run: &'a Run<'a>,
    limits: SideBySide,
    /// The operands that are transposed, and where their tiles are: one after the other.
    transposed: SmallVec<[(usize, AlignedBuffer); 2]>,
    /// Rows of a tile; the last tile begins where it fits.
    tile: usize,
    tiles: usize,
    /// Rows along the last outer dimension, and how often they run.
    last: usize,
    outer: usize,
}

// SAFETY: threads only read what it points to, except for the outputs, as `Run` says.
unsafe impl Sync for ShortRows<'_> {}

impl<'a> ShortRows<'a> {
    /// The run in this form, if it gains from it and there is memory for it.
    pub fn new(run: &'a Run<'a>, rows: usize, team: Team) -> Result<Option<ShortRows<'a>>, Error> {
        let Some(limits) = run.compiled.side_by_side else { return Ok(None) };
        let launch = run.launch;
        let (Some(last), Some(inner)) = (launch.outer.last().copied(), launch.inner.first().copied()) else {
            return Ok(None);
        };
        let outer = rows / last;
        if launch.inner.len() != 1 || inner == 0 || inner > limits.longest || last < limits.rows || outer < LEAST_OUTER
        {
            return Ok(None);
        }
        let operands = &run.compiled.operands;
        let mut transposed: SmallVec<[usize; 2]> = SmallVec::new();
        for (n, (operand, layout)) in operands.iter().zip(&launch.layouts).enumerate() {
            match place(operand, layout) {
                Place::Near => {}
                Place::Shared => transposed.push(n),
                Place::Apart if inner <= limits.gathered => {}
                Place::Apart => return Ok(None),
            }
        }
        let in_place = |output: &*mut u8| {
            operands.iter().zip(run.pointers).any(|(o, pointer)| o.role == Role::In && pointer == output)
        };
        if transposed.is_empty() || operands.iter().zip(run.pointers).any(|(o, p)| o.role == Role::Out && in_place(p)) {
            return Ok(None);
        }
        let bytes: usize = transposed.iter().map(|n| inner * operands[*n].dtype.size()).sum();
        let tiles = last.div_ceil((TILE_BYTES / bytes).max(limits.rows));
        let tile = last.div_ceil(tiles).next_multiple_of(limits.rows).min(last);
        let tiles = last.div_ceil(tile);
        let mut short = ShortRows { run, limits, transposed: SmallVec::new(), tile, tiles, last, outer };
        for n in transposed {
            let size = operands[n].dtype.size();
            let Some(bytes) = (tiles * tile).checked_mul(inner * size) else { return Ok(None) };
            let Ok(buffer) = BUFFERS.take(bytes) else { return Ok(None) };
            short.transposed.push((n, buffer));
        }
        run.share(tiles, team, |tile| {
            short.transposed.iter().for_each(|(n, buffer)| short.transpose(*n, tile, buffer));
            Ok(())
        })?;
        Ok(Some(short))
    }

    /// Where a tile begins, in rows.
    fn first_row(&self, tile: usize) -> usize {
        (tile * self.tile).min(self.last - self.tile)
    }

    /// Where a tile of an operand is in its buffer.
    fn start(&self, n: usize, tile: usize, buffer: &AlignedBuffer) -> *mut u8 {
        let bytes = self.run.inner * self.tile * self.run.compiled.operands[n].dtype.size();
        buffer.as_ptr().cast_mut().wrapping_byte_add(tile * bytes)
    }

    fn transpose(&self, n: usize, tile: usize, buffer: &AlignedBuffer) {
        let (layout, inner) = (&self.run.launch.layouts[n], self.run.inner);
        let size = self.run.compiled.operands[n].dtype.size();
        let along = |strides: &[isize]| strides.last().copied().unwrap_or(0);
        let (row, element) = (along(&layout.outer), along(&layout.inner));
        let origin = self.run.pointers[n].wrapping_byte_offset(self.first_row(tile) as isize * row);
        let mut to = self.start(n, tile, buffer);
        for i in 0..inner {
            let mut from = origin.wrapping_byte_offset(i as isize * element);
            for _ in 0..self.tile {
                // SAFETY: `from` is an element of the launch's domain, which the caller of `Compiled::run` vouches for;
                // the buffer has room for `inner * self.tile` elements of each tile, and each tile is written by one
                // thread, before any is read.
                unsafe {
                    match size {
                        8 => to.cast::<[u8; 8]>().write(from.cast::<[u8; 8]>().read()),
                        4 => to.cast::<[u8; 4]>().write(from.cast::<[u8; 4]>().read()),
                        2 => to.cast::<[u8; 2]>().write(from.cast::<[u8; 2]>().read()),
                        _ => to.write(from.read()),
                    }
                }
                from = from.wrapping_byte_offset(row);
                to = to.wrapping_byte_add(size);
            }
        }
    }

    /// Runs all rows, in chunks of about so many nanoseconds if a row takes so many.
    pub fn run(&self, team: Team, chunk_cost: f64, row_cost: f64) -> Result<(), Error> {
        // Outer indices of a chunk.
        let block = ((chunk_cost / (row_cost * self.tile as f64)) as usize).clamp(1, self.outer);
        let blocks = self.outer.div_ceil(block);
        self.run.share(self.tiles * blocks, team, |chunk| {
            let first = chunk % blocks * block;
            self.chunk(chunk / blocks, first, (first + block).min(self.outer))
        })
    }

    /// Runs a tile for some outer indices.
    fn chunk(&self, tile: usize, first: usize, end: usize) -> Result<(), Error> {
        let run = self.run;
        let workspace = Workspace::new(&run.compiled.analysis, run.inner)?;
        let mut at = first;
        while at < end {
            // A run along the last but one of the outer dimensions.
            let along = run.launch.outer.iter().rev().nth(1).copied().unwrap_or(1);
            let count = (along - at % along).min(end - at);
            let mut places = run.places(&run.outer_index(at * self.last + self.first_row(tile)), true);
            let mut steps: SmallVec<[isize; 8]> =
                run.launch.layouts.iter().map(|l| l.outer.iter().rev().nth(1).copied().unwrap_or(0)).collect();
            self.redirect(tile, &mut places, &mut steps);
            debug_assert!(self.limits.runs(self.tile, run.inner, &run.compiled.operands, &places));
            for _ in 0..count {
                let call = Call {
                    operands: places.as_ptr(),
                    rows: self.tile,
                    end: run.inner,
                    last: phases(run.compiled),
                    ..workspace.call(run.params, run.inner)
                };
                // SAFETY: as in `Run::whole_rows`; transposed inputs have the elements of the tile's rows, each at its
                // strides, and the code runs all rows side by side.
                unsafe { invoke(&run.compiled.code, &call) };
                for (place, step) in places.iter_mut().zip(&steps) {
                    place.pointer = place.pointer.wrapping_byte_offset(*step);
                }
            }
            at += count;
        }
        Ok(())
    }

    /// Replaces the places of transposed inputs by those in a tile.
    fn redirect(&self, tile: usize, places: &mut Places, steps: &mut [isize]) {
        for (n, buffer) in &self.transposed {
            let size = self.run.compiled.operands[*n].dtype.size();
            places[*n] = OperandAt {
                pointer: self.start(*n, tile, buffer),
                row: size as isize,
                inner: (self.tile * size) as isize,
            };
            steps[*n] = 0;
        }
    }
}

impl Drop for ShortRows<'_> {
    fn drop(&mut self) {
        for (_, buffer) in self.transposed.drain(..) {
            BUFFERS.give(buffer);
        }
    }
}

/// How an operand's rows follow each other along the last outer dimension.
#[derive(PartialEq, Eq)]
pub(crate) enum Place {
    /// Adjacent, or the same, or it has one element for each row.
    Near,
    /// Apart, in an input that is the same for all other outer indices.
    Shared,
    Apart,
}

pub(crate) fn place(operand: &Operand, layout: &Layout) -> Place {
    let Some((row, others)) = layout.outer.split_last() else { return Place::Near };
    let near = operand.level == Level::Row || *row == 0 || *row == operand.dtype.size() as isize;
    match operand.role {
        _ if near => Place::Near,
        Role::In if !others.is_empty() && others.iter().all(|stride| *stride == 0) => Place::Shared,
        Role::In | Role::Out => Place::Apart,
    }
}
