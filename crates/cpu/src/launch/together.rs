//! Runs that read the same large arrays, chunk by chunk: a part of one run, then the part of the next that reads about
//! the same elements, while these are in the cache. Memory is read once instead of once for each run.
//!
//! A run has one of two simple forms here: several rows, cut between rows, or one row with one loop, cut at leaf
//! boundaries. Cuts there change no result, so each run gives the bits that it gives alone. If runs are not of these
//! forms, or not large enough to gain, they run one after the other.

use super::staged::StagedRow;
use super::{LEAF, Prepared, Run, RunOptions, tile};
use crate::Error;
use numfuse_core::kernel::{Level, Nest, Operand, Role, StageKind};
use numfuse_core::launch::{Launch, Layout};
use smallvec::SmallVec;
use std::sync::atomic::Ordering;

/// A run that reads fewer bytes gains nothing: they stay in the caches anyway.
const LARGE: usize = 4 << 20;
/// The bytes that a run should read in a chunk, at most: all runs of a group use about half of a second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// With chunks of more bytes nothing is left in the cache for the next run.
const CHUNK_LIMIT: usize = 1 << 20;
/// With many threads chunks are smaller, but not smaller than this.
const CHUNK_LEAST: usize = 32 << 10;

/// How a run is cut into chunks.
#[derive(Clone, Copy)]
enum Cut {
    /// Into rows.
    Rows,
    /// Its one row into leaves, in the loop of this stage.
    Leaves(usize),
}

/// A run under way.
enum Part<'a> {
    Rows(&'a Run<'a>),
    Leaves(StagedRow<'a>, usize),
}

impl Prepared {
    /// True if a run of this reads so much that it may gain from [`Prepared::run_together`].
    pub fn is_large(&self) -> bool {
        self.cut().is_some() && self.bytes_read() >= LARGE
    }

    /// Runs kernels that read the same arrays over the same domain, so that these are read from memory once if that is
    /// worth it. Each entry is a kernel with its pointers and parameters, as in [`Prepared::run`]. The results are those
    /// of running one after the other.
    ///
    /// # Safety
    ///
    /// As [`super::Compiled::run`], for all of them at once: what one of them writes no other one reads or writes.
    pub unsafe fn run_together(
        runs: &[(&Prepared, &[*mut u8], &[u64])],
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        let threads = options.threads.max(1);
        let fits = |(prepared, pointers, params): &(&Prepared, &[*mut u8], &[u64])| {
            pointers.len() == prepared.compiled.operands.len() && params.len() == prepared.compiled.params
        };
        let chunks = chunks(runs.iter().map(|(prepared, ..)| *prepared), threads);
        let (Some(chunks), true) = (chunks, runs.iter().all(fits)) else {
            for (prepared, pointers, params) in runs {
                // SAFETY: the caller's promise.
                unsafe { prepared.run(pointers, params, options)? };
            }
            return Ok(());
        };
        let started: SmallVec<[(Run<'_>, Cut, usize); 4]> = runs
            .iter()
            .filter_map(|(prepared, pointers, params)| {
                let Prepared { compiled, launch, form } = prepared;
                let run = Run { compiled, launch, pointers, params, options, inner: form.inner };
                Some((run, prepared.cut()?, prepared.units()))
            })
            .collect();
        let mut parts: SmallVec<[(Part<'_>, usize); 4]> = SmallVec::new();
        for (run, cut, units) in &started {
            parts.push((Part::new(run, *cut)?, *units));
        }
        let Some((first, ..)) = started.first() else { return Ok(()) };
        parts.iter_mut().for_each(|(part, _)| part.start());
        first.share(chunks, threads, |chunk| {
            let at = |units: usize, chunk: usize| (units as u128 * chunk as u128 / chunks as u128) as usize;
            for (part, units) in &parts {
                if options.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                part.chunk(at(*units, chunk), at(*units, chunk + 1))?;
            }
            Ok(())
        })?;
        parts.iter_mut().for_each(|(part, _)| part.finish());
        Ok(())
    }

    /// How this may be cut; nothing if it may not, or would run slower.
    fn cut(&self) -> Option<Cut> {
        let (compiled, launch) = (&self.compiled, &self.launch);
        if compiled.nest != Nest::Rows || self.form.direct.is_some() || self.form.rows == 0 || self.form.inner == 0 {
            return None;
        }
        if compiled.analysis.splittable && tile(launch, self.form.inner) < self.form.inner {
            return None;
        }
        if self.form.rows > 1 {
            return (launch.inner.len() <= 1).then_some(Cut::Rows);
        }
        let mut loops = compiled.stages.iter().enumerate().filter(|(_, stage)| stage.kind == StageKind::Loop);
        match (loops.next(), loops.next()) {
            (Some((stage, _)), None) => Some(Cut::Leaves(stage)),
            _ => None,
        }
    }

    /// Into how many pieces this may be cut.
    fn units(&self) -> usize {
        if self.form.rows > 1 { self.form.rows } else { self.form.inner.div_ceil(LEAF) }
    }

    /// Bytes of the inputs that are read, each element once.
    fn bytes_read(&self) -> usize {
        let operands = self.compiled.operands.iter().zip(&self.launch.layouts);
        let inputs = operands.filter(|(operand, _)| operand.role == Role::In && operand.level == Level::Inner);
        inputs.map(|(operand, layout)| extent(operand, layout, &self.launch)).fold(0, usize::saturating_add)
    }
}

/// Bytes of an input's elements.
fn extent(operand: &Operand, layout: &Layout, launch: &Launch) -> usize {
    let outer = launch.outer.iter().zip(&layout.outer);
    let inner = launch.inner.iter().zip(&layout.inner);
    let sizes = outer.chain(inner).filter(|(_, stride)| **stride != 0).map(|(size, _)| *size);
    sizes.fold(operand.dtype.size(), usize::saturating_mul)
}

/// Into how many chunks runs are cut, each of them; nothing if they had better run one after the other.
fn chunks<'a>(runs: impl ExactSizeIterator<Item = &'a Prepared> + Clone, threads: usize) -> Option<usize> {
    if runs.len() < 2 || !runs.clone().all(Prepared::is_large) {
        return None;
    }
    let bytes = runs.clone().map(Prepared::bytes_read).max()?;
    let units = runs.map(Prepared::units).min()?;
    let for_threads = (4 * threads).min(bytes / CHUNK_LEAST);
    let chunks = bytes.div_ceil(CHUNK_BYTES).max(for_threads).min(units);
    (chunks > 0 && bytes / chunks <= CHUNK_LIMIT).then_some(chunks)
}

impl<'a> Part<'a> {
    fn new(run: &'a Run<'a>, cut: Cut) -> Result<Part<'a>, Error> {
        Ok(match cut {
            Cut::Rows => Part::Rows(run),
            Cut::Leaves(stage) => Part::Leaves(StagedRow::new(run, 0)?, stage),
        })
    }

    /// Runs what comes before the loop.
    fn start(&mut self) {
        if let Part::Leaves(row, stage) = self {
            row.start(*stage);
        }
    }

    /// Runs these rows, or leaves.
    fn chunk(&self, first: usize, end: usize) -> Result<(), Error> {
        match self {
            Part::Rows(run) => run.whole_rows(first, end, (0, run.inner)),
            Part::Leaves(row, stage) => row.piece(*stage, first * LEAF, end * LEAF),
        }
    }

    /// Runs what comes after the loop.
    fn finish(&mut self) {
        if let Part::Leaves(row, stage) = self {
            row.finish(*stage);
        }
    }
}
