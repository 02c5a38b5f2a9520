//! Runs that read the same large arrays, chunk by chunk: a part of one run, then the part of the next that reads about
//! the same elements, while these are in the cache. Memory is read once instead of once for each run.
//!
//! A run has one of two simple forms here: several rows, cut between rows, or one row with one loop, cut at leaf
//! boundaries. Cuts there change no result, so each run gives the bits that it gives alone. Runs that are not of these
//! forms, or would not gain, run one after the other: small ones stay in the caches anyway, and those that compute much
//! have their elements fetched while they compute, which the many short streams of chunks only disturb.

use super::staged::StagedRow;
use super::{Form, LEAF, Prepared, Run, RunOptions, tile};
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

/// How many bytes memory delivers in a nanosecond, about: to one core, and to all of them.
const BANDWIDTH: (f64, f64) = (20.0, 80.0);

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
    Leaves(Box<StagedRow<'a>>, usize),
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
                let run = Run { compiled, launch, pointers, params, options, inner: form.inner, streams: false };
                Some((run, prepared.cut()?, prepared.units()))
            })
            .collect();
        let mut parts: SmallVec<[(Part<'_>, usize); 4]> = SmallVec::new();
        for (run, cut, units) in &started {
            parts.push((Part::new(run, *cut)?, *units));
        }
        let Some((first, ..)) = started.first() else { return Ok(()) };
        parts.iter_mut().for_each(|(part, _)| part.start());
        let cost: f64 = runs.iter().map(|(prepared, ..)| prepared.nanoseconds()).sum();
        first.share(chunks, options.team(cost), |chunk| {
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
        let Form { rows, inner, has_shared_inputs, ref direct, .. } = self.form;
        if compiled.nest != Nest::Rows || direct.is_some() || has_shared_inputs || rows == 0 || inner == 0 {
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
    let bandwidth = BANDWIDTH.0.min(BANDWIDTH.1 / threads as f64);
    let waits = |run: &Prepared| run.bytes_read() as f64 / bandwidth >= run.nanoseconds();
    if !runs.clone().all(waits) {
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
            Cut::Leaves(stage) => Part::Leaves(Box::new(StagedRow::new(run, 0)?), stage),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compiler, Options};
    use numfuse_core::kernel::{Builder, Reducer};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// The sum of each row's elements, `x + y` of two inputs, where `y` has one row; if `flat`, of all elements.
    fn sums(rows: usize, columns: usize, flat: bool, cost: f64) -> Prepared {
        let mut b = Builder::kernel(Nest::Rows);
        let dtype = numfuse_core::dtype::DType::F64;
        let [x, y] = [0, 1].map(|_| b.operand(dtype, Role::In, Level::Inner));
        let out = b.operand(dtype, Role::Out, Level::Row);
        b.stage(StageKind::Loop);
        let (x, y) = (b.load(x), b.load(y));
        let sum = b.add(x, y);
        let sum = b.reduce(Reducer::Sum, sum);
        b.stage(StageKind::Row);
        let sum = b.reduced(sum);
        b.store(out, sum);
        let mut kernel = b.finish();
        let mut launch = Launch::default();
        let row = 8 * columns as isize;
        for strides in [[row, 8], [0, 8], if flat { [0, 0] } else { [8, 0] }] {
            let mut layout = Layout::default();
            if flat {
                layout.inner.extend(strides);
            } else {
                layout.outer.push(strides[0]);
                layout.inner.push(strides[1]);
            }
            launch.layouts.push(layout);
        }
        if flat {
            launch.inner.extend([rows, columns]);
        } else {
            launch.outer.push(rows);
            launch.inner.push(columns);
        }
        launch.canonicalize(&kernel);
        launch.set_accesses(&mut kernel);
        let mut compiled = Compiler::new(Options::default()).unwrap().compile(&kernel).unwrap();
        compiled.assume_cost(cost);
        Prepared::new(Arc::new(compiled), launch).unwrap()
    }

    fn cut(rows: usize, columns: usize, cost: f64) -> Option<usize> {
        let [flat, by_row] = [true, false].map(|flat| sums(rows, columns, flat, cost));
        chunks([&flat, &by_row].into_iter(), 1)
    }

    #[test]
    fn large_runs_that_wait_for_memory_are_cut() {
        assert_eq!(cut(1000, 1000, 0.1), Some(31));
        assert_eq!(cut(10, 100_000, 0.1), Some(10));
        // Small; few rows, so that chunks would be too large; more work than memory to wait for.
        assert_eq!(cut(400, 1000, 0.1), None);
        assert_eq!(cut(4, 1_000_000, 0.1), None);
        assert_eq!(cut(1000, 1000, 1.0), None);
    }

    #[test]
    fn chunks_give_the_bits_of_whole_runs() {
        let never = AtomicBool::new(false);
        for (rows, columns) in [(1000, 1000), (520, 1025), (4300, 127), (31, 20_000)] {
            let runs = [true, false].map(|flat| sums(rows, columns, flat, 0.1));
            let mut x: Vec<f64> = (0..rows * columns).map(|i| ((i * 7919) % 10_007) as f64 / 97.0).collect();
            let mut y = vec![0.1; columns];
            for threads in 1..=3 {
                assert!(chunks(runs.iter(), threads).is_some(), "{rows} x {columns}");
                let options = RunOptions { threads, cancel: &never };
                let results = [true, false].map(|together| {
                    let mut out = [vec![0.0f64; 1], vec![0.0; rows]];
                    let [first, second] = &mut out;
                    let at = |v: &mut Vec<f64>| v.as_mut_ptr().cast::<u8>();
                    let pointers = [[at(&mut x), at(&mut y), at(first)], [at(&mut x), at(&mut y), at(second)]];
                    // SAFETY: the arrays have the sizes of the launches.
                    unsafe {
                        if together {
                            let all = [(&runs[0], &pointers[0][..], &[][..]), (&runs[1], &pointers[1][..], &[][..])];
                            Prepared::run_together(&all, &options).unwrap();
                        } else {
                            runs[0].run(&pointers[0], &[], &options).unwrap();
                            runs[1].run(&pointers[1], &[], &options).unwrap();
                        }
                    }
                    out.concat().into_iter().map(f64::to_bits).collect::<Vec<u64>>()
                });
                assert!(results[0] == results[1], "{rows} x {columns}, {threads} threads");
            }
        }
    }

    #[test]
    fn they_can_be_cancelled() {
        let runs = [true, false].map(|flat| sums(1000, 1000, flat, 0.1));
        let (mut x, mut y, mut out) = (vec![1.0; 1_000_000], vec![1.0; 1000], vec![0.0; 1001]);
        let at = |v: &mut [f64]| v.as_mut_ptr().cast::<u8>();
        let (first, second) = out.split_at_mut(1);
        let pointers = [[at(&mut x), at(&mut y), at(first)], [at(&mut x), at(&mut y), at(second)]];
        let all = [(&runs[0], &pointers[0][..], &[][..]), (&runs[1], &pointers[1][..], &[][..])];
        let options = RunOptions { threads: 2, cancel: &AtomicBool::new(true) };
        // SAFETY: the arrays have the sizes of the launches.
        assert_eq!(unsafe { Prepared::run_together(&all, &options) }, Err(Error::Cancelled));
    }
}
