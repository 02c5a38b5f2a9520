//! One row, loop by loop: each loop cut at leaf boundaries into pieces, whose operands are packed if need be.
//!
//! Phases are those of [`Call`]: `2 * s` runs stage `s`, `2 * s + 1` merges what it has folded. Invariant: a piece of a
//! loop runs after all earlier phases; pieces of one loop write different elements and leaf states, and may run in any
//! order and at the same time.

use super::{LEAF, Places, Run, Team, Workspace, invoke, pack, phases};
use crate::Error;
use crate::clif::Call;
use numfuse_core::kernel::StageKind;

/// Inner elements that are packed at a time: few, so that they are in the first-level cache when they are used.
const PACKED: usize = 2 * LEAF;

/// A row that is being run.
pub(super) struct StagedRow<'a> {
    run: &'a Run<'a>,
    workspace: Workspace,
    places: Places,
    packs: bool,
}

// SAFETY: the workspace and what the places point to outlive the row; threads that run pieces write to different parts
// of them, and every other phase takes the row by `&mut`.
unsafe impl Sync for StagedRow<'_> {}

impl<'a> StagedRow<'a> {
    pub fn new(run: &'a Run<'a>, row: usize) -> Result<StagedRow<'a>, Error> {
        let workspace = Workspace::new(&run.compiled.analysis, run.inner)?;
        let places = run.places(&run.outer_index(row), false);
        Ok(StagedRow { run, workspace, places, packs: run.launch.inner.len() > 1 })
    }

    /// A call for this row that runs nothing yet.
    fn call(&self) -> Call {
        let inner = self.run.inner;
        Call { operands: self.places.as_ptr(), rows: 1, end: inner, ..self.workspace.call(self.run.params, inner) }
    }

    /// Runs phases without a loop: row stages, and the merging of leaves.
    pub fn between_loops(&mut self, first: usize, last: usize) {
        if first < last {
            let call = Call { first, last, begin: 0, end: 0, ..self.call() };
            // SAFETY: as in `Run::whole_rows`; row stages and the merging of leaves only touch row-level operands, which
            // are never packed, and the workspace.
            unsafe { invoke(&self.run.compiled.code, &call) };
        }
    }

    /// Runs all phases before the loop of a stage, the first one.
    pub fn start(&mut self, stage: usize) {
        self.between_loops(0, 2 * stage);
    }

    /// Runs all phases after the loop of a stage, the last one.
    pub fn finish(&mut self, stage: usize) {
        self.between_loops(2 * stage + 1, phases(self.run.compiled));
    }

    /// Runs the loop of a stage over the elements from `begin`, a multiple of [`LEAF`], to `end`, which is one, or to
    /// the end of the row.
    pub fn piece(&self, stage: usize, begin: usize, end: usize) -> Result<(), Error> {
        let end = end.min(self.run.inner);
        let call = Call { first: 2 * stage, last: 2 * stage + 1, begin, end, ..self.call() };
        let code = &self.run.compiled.code;
        if !self.packs {
            // SAFETY: as in `Run::whole_rows`; pieces write to different elements and leaf states.
            unsafe { invoke(code, &call) };
            return Ok(());
        }
        for begin in (begin..end).step_by(PACKED) {
            let end = end.min(begin + PACKED);
            let used = &self.run.compiled.stages[stage].operands;
            let packed = pack::Packed::new(self.run, used, self.places.as_ptr(), begin, end)?;
            let call = Call { operands: packed.places.as_ptr(), begin, end, ..call };
            // SAFETY: packed operands have the elements from `begin` to `end`, the others are as in `Run::whole_rows`.
            unsafe { invoke(code, &call) };
            packed.unpack(self.run);
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Runs one row loop by loop, each loop in pieces.
    pub(super) fn staged_row(&self, row: usize, team: Team, chunk_cost: f64) -> Result<(), Error> {
        let mut staged = StagedRow::new(self, row)?;
        let piece = ((chunk_cost / self.compiled.cost) as usize)
            .clamp(LEAF, if staged.packs { 16 * LEAF } else { 1024 * LEAF });
        let piece = piece.next_multiple_of(LEAF);
        // Phases not run yet that need no loop: they run before the next one.
        let mut pending = 0;
        for (s, stage) in self.compiled.stages.iter().enumerate() {
            if stage.kind == StageKind::Row {
                continue;
            }
            staged.between_loops(pending, 2 * s);
            pending = 2 * s + 1;
            self.share(self.inner.div_ceil(piece), team, |chunk| staged.piece(s, chunk * piece, (chunk + 1) * piece))?;
        }
        staged.between_loops(pending, phases(self.compiled));
        Ok(())
    }
}
