//! Inputs that all rows of an elementwise kernel share, and whose elements are apart, such as the coordinates of `y` in
//! `(x0[:,None] - y[:,0])**2 + (x1[:,None] - y[:,1])**2`.
//!
//! They are made adjacent once, in tiles of some elements, and a tile serves all rows: it stays in the first-level cache
//! meanwhile.
//!
//! Invariant: operands for which [`is_shared`] holds are the only ones of a launch whose elements may be elsewhere than the
//! code expects them.

use super::{AlignedBuffer, BUFFERS, Run, pack};
use crate::Error;
use numfuse_core::kernel::{Level, Operand, Role};
use numfuse_core::launch::Layout;
use smallvec::SmallVec;

/// The bytes of a tile of all shared inputs: most of a small first-level cache.
const TILE_BYTES: usize = 24 << 10;
/// A tile has at least so many elements, so that a row of it takes longer than to begin it, even if it has to come from the
/// second-level cache.
const LEAST_TILE: usize = 128;
/// The elements of a tile are a multiple of this, as those of any vector are.
const VECTORS: usize = 64;

/// True for an input that is the same for all rows, and steps through its memory by another size than its elements'.
pub(crate) fn is_shared(operand: &Operand, layout: &Layout) -> bool {
    let size = operand.dtype.size() as isize;
    (operand.role, operand.level) == (Role::In, Level::Inner)
        && !layout.outer.is_empty()
        && layout.outer.iter().all(|stride| *stride == 0)
        && matches!(layout.inner.as_slice(), [stride] if *stride != 0 && *stride != size)
}

impl Run<'_> {
    /// Runs all rows of a launch with one inner dimension and such inputs.
    pub(super) fn rows_with_shared_inputs(&self, rows: usize) -> Result<(), Error> {
        let operands = &self.compiled.operands;
        let is_shared = |n: &usize| is_shared(&operands[*n], &self.launch.layouts[*n]);
        let shared: SmallVec<[usize; 8]> = (0..operands.len()).filter(is_shared).collect();
        let bytes: usize = shared.iter().map(|n| operands[*n].dtype.size()).sum();
        let tiles = self.inner.div_ceil((TILE_BYTES / bytes.max(1)).max(LEAST_TILE));
        // Whole vectors, so that rows of the next tile begin as aligned as the first one.
        let tile = self.inner.div_ceil(tiles.max(1)).next_multiple_of(VECTORS);
        let mut launch = self.launch.clone();
        let mut buffers: SmallVec<[AlignedBuffer; 8]> = SmallVec::new();
        for n in &shared {
            let size = operands[*n].dtype.size();
            launch.layouts[*n].inner[0] = size as isize;
            buffers.push(BUFFERS.take(tile * size)?);
        }
        let mut pointers: SmallVec<[*mut u8; 8]> = self.pointers.into();
        for begin in (0..self.inner).step_by(tile.max(1)) {
            let end = (begin + tile).min(self.inner);
            launch.inner[0] = end - begin;
            for ((pointer, first), layout) in pointers.iter_mut().zip(self.pointers).zip(&self.launch.layouts) {
                *pointer = first.wrapping_byte_offset(begin as isize * layout.inner[0]);
            }
            for (n, buffer) in shared.iter().zip(&mut buffers) {
                pack::copy(self, *n as u32, self.pointers[*n], buffer.as_mut_ptr(), begin, end, false);
                pointers[*n] = buffer.as_mut_ptr();
            }
            let run = Run { launch: &launch, pointers: &pointers, inner: end - begin, ..*self };
            run.rows(rows)?;
        }
        buffers.into_iter().for_each(|buffer| BUFFERS.give(buffer));
        Ok(())
    }
}
