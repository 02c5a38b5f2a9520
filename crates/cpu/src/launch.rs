//! Running compiled kernels: the outer loops, threads, packing, and the memory that a run needs besides its operands.
//!
//! A row kernel runs in one of two ways. *Whole rows*: the compiled function runs all stages of a range of rows (and,
//! if the kernel is splittable, of a range of inner elements); threads share out the rows. *Staged*: one row at a time,
//! one loop at a time, each loop cut at leaf boundaries into pieces that threads share out; for few long rows, and for
//! inner dimensions that do not merge, whose operands are packed piece by piece; see `staged.rs`. Column kernels are in
//! `columns.rs`, rows that share inputs in `shared.rs`, and short ones in `short.rs`, runs that share their input in `together.rs`.
//!
//! Invariants: results do not depend on how work is cut. A small serial run allocates nothing. The floating point
//! state of a thread is the default one (round to nearest, subnormals kept) while it runs compiled code, and the host's
//! again afterwards. Compiled code is only called here.

mod buffer;
mod columns;
mod environment;
mod fork;
mod matmul;
mod pack;
mod pool;
mod shared;
mod short;
mod staged;
mod streaming;
mod together;

pub use buffer::{AlignedBuffer, BufferPool};
pub use fork::forks;
pub use matmul::Matmul;
pub(crate) use shared::is_shared;
pub(crate) use short::{Place, place};

use crate::clif::{Analysis, Call, OperandAt, STATE_WORD};
use crate::jit::CodeBlock;
use crate::wide::{self, SideBySide, side_by_side};
use crate::{Error, Tier};
use environment::FloatEnvironment;
use numfuse_core::kernel::reduce;
use numfuse_core::kernel::{Access, Inst, Kernel, Level, Nest, Operand, Prim, Reduction, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use smallvec::SmallVec;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use streaming::Streaming;

/// How a kernel is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'a> {
    /// At most so many threads take part, the caller included.
    pub threads: usize,
    /// Polled at least every few milliseconds; once it is true the run ends with [`Error::Cancelled`].
    pub cancel: &'a AtomicBool,
}

/// Who takes part in some work.
#[derive(Clone, Copy, Debug)]
struct Team {
    /// At most so many threads, the caller included.
    threads: usize,
    /// So many of them may have to be woken.
    wakes: usize,
}

impl Team {
    const ALONE: Team = Team { threads: 1, wakes: 0 };

    /// How many nanoseconds of work a chunk should be: so that there are as many chunks for each thread, and enough of them
    /// for who is done first to have something to take over, and to wait for little more than he would linger for.
    fn chunk(self, cost: f64) -> f64 {
        let share = cost / self.threads as f64;
        let chunks = (share / CHUNK.0).floor().clamp(1.0, 16.0).max((share / CHUNK.1).ceil());
        share / chunks
    }
}

impl RunOptions<'_> {
    /// Who takes part in work of so many nanoseconds.
    fn team(&self, cost: f64) -> Team {
        let is_small = cost < SHARE_FROM.1;
        if self.threads <= 1 || cost < SHARE_FROM.0 || (is_small && !pool::is_anyone_awake()) {
            return Team::ALONE;
        }
        let worth = |least: f64| (cost / least) as usize;
        let wakes = if is_small { 0 } else { worth(WORTH.1) };
        Team { threads: self.threads.min(worth(WORTH.0).max(1)), wakes }
    }

    /// Runs chunks on the threads of a team, until one fails or the run is cancelled.
    fn share(&self, chunks: usize, team: Team, run: impl Fn(usize) -> Result<(), Error> + Sync) -> Result<(), Error> {
        let cancel = self.cancel;
        if team.threads <= 1 || chunks <= 1 {
            for chunk in 0..chunks {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                run(chunk)?;
            }
            return Ok(());
        }
        let failed = AtomicBool::new(false);
        let failure = std::sync::Mutex::new(None);
        pool::for_each_chunk(chunks, team, &|chunk| {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            let result = if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { run(chunk) };
            if let Err(error) = result {
                failed.store(true, Ordering::Relaxed);
                if let Ok(mut failure) = failure.lock() {
                    *failure = Some(error);
                }
            }
        });
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(Error::Internal("a worker panicked".into())),
        }
    }
}

impl Default for RunOptions<'_> {
    /// All cores, and no way to cancel.
    fn default() -> Self {
        static CORES: OnceLock<usize> = OnceLock::new();
        static NEVER: AtomicBool = AtomicBool::new(false);
        let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
        RunOptions { threads: *cores, cancel: &NEVER }
    }
}

/// A kernel as machine code. Its code memory is freed with it.
#[derive(Debug)]
pub struct Compiled {
    code: CodeBlock,
    tier: Tier,
    nest: Nest,
    operands: Vec<Operand>,
    params: usize,
    stages: Vec<StageInfo>,
    reductions: Vec<Reduction>,
    analysis: Analysis,
    /// Estimated nanoseconds for an inner element.
    cost: f64,
    /// Which short rows the code runs side by side.
    side_by_side: Option<SideBySide>,
    /// If the code can store past the caches: its output, and whether it should.
    streaming: Option<(usize, Streaming)>,
}

/// What the driver knows of a stage.
#[derive(Debug)]
struct StageInfo {
    kind: StageKind,
    /// Operands that it loads or stores.
    operands: SmallVec<[u32; 4]>,
}

/// Work of fewer nanoseconds than the first is not shared out; of fewer than the second only with helpers that are awake.
const SHARE_FROM: (f64, f64) = (6_000.0, 20_000.0);
/// The nanoseconds of work for which it pays to have one more thread take part, and to wake one.
const WORTH: (f64, f64) = (2_500.0, 20_000.0);
/// The nanoseconds of work that a chunk should be, at least and at most.
const CHUNK: (f64, f64) = (4_000.0, 100_000.0);
/// A row of more nanoseconds is run loop by loop: among few rows if they are shared out, and in any case.
const LONG_ROW: (f64, f64) = (20_000.0, 1_000_000.0);
/// Work of more nanoseconds is cut even on one thread, to look now and then whether it is cancelled.
const ONE_PIECE: f64 = 1_000_000.0;
/// Rows and inner elements of a block with transposed operands.
const TILE: usize = 128;
/// Elements of a leaf of rows.
const LEAF: usize = reduce::leaf(Nest::Rows);

/// Buffers that runs have used: partial results, scratch rows, packed operands.
static BUFFERS: BufferPool = BufferPool::new(256 << 20);

/// The places of all operands.
type Places = SmallVec<[OperandAt; 8]>;

/// A kernel with a launch of it, checked once: to be run again and again with other pointers.
#[derive(Debug)]
pub struct Prepared {
    compiled: Arc<Compiled>,
    launch: Launch,
    form: Form,
}

/// What of a run follows from the kernel and the launch.
#[derive(Debug)]
struct Form {
    rows: usize,
    inner: usize,
    /// Bytes of the output, if the code can store it past the caches.
    streamed: usize,
    /// Some inputs are made adjacent first: see `shared.rs`.
    has_shared_inputs: bool,
    direct: Option<Direct>,
}

/// A run that is one call of the compiled function, on the calling thread and without memory of its own: small work.
#[derive(Debug)]
struct Direct {
    /// True if it is worth sharing out, should there be helpers that are awake.
    may_share: bool,
    /// Byte strides of each operand along the rows and along the inner dimension.
    strides: SmallVec<[(isize, isize); DIRECT_OPERANDS]>,
    room: Room,
}

/// A kernel with more operands than this is never run directly.
const DIRECT_OPERANDS: usize = 8;

/// A run: everything that stays the same for all of its threads.
struct Run<'a> {
    compiled: &'a Compiled,
    launch: &'a Launch,
    pointers: &'a [*mut u8],
    params: &'a [u64],
    options: &'a RunOptions<'a>,
    inner: usize,
    /// Outputs are written past the caches.
    streams: bool,
}

// SAFETY: the pointers are used as the contract of `Compiled::run` allows, from any thread; chunks write disjoint
// elements (or the same bytes to the same place).
unsafe impl Sync for Run<'_> {}

impl Compiled {
    pub(crate) fn new(kernel: &Kernel, analysis: Analysis, code: CodeBlock, tier: Tier, streams: bool) -> Compiled {
        let stages = kernel
            .stages
            .iter()
            .map(|stage| {
                let mut operands = SmallVec::new();
                for v in stage.values() {
                    if let Inst::Load(n) | Inst::Store(n, _) = kernel.inst(v)
                        && !operands.contains(n)
                    {
                        operands.push(*n);
                    }
                }
                StageInfo { kind: stage.kind, operands }
            })
            .collect();
        let cost = estimate(kernel, &analysis, tier);
        let output = kernel.operands.iter().position(|operand| operand.role == Role::Out);
        let side_by_side = tier.code_isa().and_then(|isa| side_by_side(kernel, &analysis, isa));
        Compiled {
            code,
            tier,
            nest: kernel.nest,
            operands: kernel.operands.clone(),
            params: kernel.params.len(),
            stages,
            reductions: kernel.reductions.clone(),
            analysis,
            cost,
            side_by_side,
            streaming: output.filter(|_| streams).map(|output| (output, Streaming::default())),
        }
    }

    /// The code generator that made the code.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> usize {
        self.code.len()
    }

    /// Pretends that an inner element costs so many nanoseconds, so that tests share out small work too.
    #[doc(hidden)]
    pub fn assume_cost(&mut self, nanoseconds: f64) {
        self.cost = nanoseconds;
    }

    /// Stores past the caches if the code can, so that tests of small results do that too.
    #[doc(hidden)]
    pub fn assume_large_results(&mut self) {
        if let Some((_, streaming)) = &mut self.streaming {
            streaming.always = true;
        }
    }

    /// Runs the kernel. `pointers[i]` is the element of operand `i` with all indices zero; `params` are the bits of
    /// the parameters, as [`numfuse_core::literal::Literal::bits`] has them.
    ///
    /// # Safety
    ///
    /// For each index of the launch's domain the element of each operand, which the launch's layouts place relative to
    /// its pointer, must be in memory that is valid for reads, and for writes if the operand is an output, until the
    /// call returns. No output may overlap another operand, unless that is an input of the same layout and the same
    /// pointer; nobody else may write to any of them, or read an output, during the call.
    pub unsafe fn run(
        &self,
        launch: &Launch,
        pointers: &[*mut u8],
        params: &[u64],
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        let form = self.form(launch)?;
        // SAFETY: the caller's promise.
        unsafe { self.run_form(launch, &form, pointers, params, options) }
    }

    /// # Safety
    ///
    /// As [`Compiled::run`]; the form is that of the launch.
    #[inline]
    unsafe fn run_form(
        &self,
        launch: &Launch,
        form: &Form,
        pointers: &[*mut u8],
        params: &[u64],
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        if pointers.len() != self.operands.len() || params.len() != self.params {
            return Err(misfit("another number of operands or parameters"));
        }
        if options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if let Some(direct) = &form.direct
            && !(direct.may_share && options.threads > 1 && pool::is_anyone_awake())
        {
            // SAFETY: the caller's promise.
            unsafe { self.run_direct(form, direct, pointers, params) };
            return Ok(());
        }
        let trial = self.streaming.as_ref().and_then(|(output, streaming)| {
            streaming.begin(form.streamed, pointers[*output] as usize, options.threads > 1)
        });
        let streams = trial.as_ref().is_some_and(|trial| trial.streams);
        let run = Run { compiled: self, launch, pointers, params, options, inner: form.inner, streams };
        match self.nest {
            _ if form.rows == 0 => Ok(()),
            Nest::Columns => run.columns(),
            Nest::Rows if form.has_shared_inputs => run.rows_with_shared_inputs(form.rows),
            Nest::Rows => run.rows(form.rows),
        }?;
        if let Some(trial) = trial {
            trial.end();
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`Compiled::run`]; the form is that of the launch, and there is a pointer for each of its operands.
    #[inline]
    unsafe fn run_direct(&self, form: &Form, direct: &Direct, pointers: &[*mut u8], params: &[u64]) {
        let mut places = [const { MaybeUninit::<OperandAt>::uninit() }; DIRECT_OPERANDS];
        for ((place, pointer), (row, inner)) in places.iter_mut().zip(pointers).zip(&direct.strides) {
            place.write(OperandAt { pointer: *pointer, row: *row, inner: *inner });
        }
        let inline = Inline::new([const { MaybeUninit::uninit() }; INLINE_WORDS]);
        // Changed in place: a copy of what has just been written in smaller pieces takes longer than all of the rest.
        let mut call = direct.room.call(inline.get().cast(), params, form.inner);
        call.operands = places.as_ptr().cast();
        call.rows = form.rows;
        call.end = form.inner;
        call.last = phases(self);
        // SAFETY: the call is for all rows and inner elements of the launch, with a place for each operand; the room fits the
        // inline words.
        unsafe { invoke(&self.code, &call) };
    }

    /// What follows from a launch, after a check that it fits: a launch that does not would make the code reach other
    /// memory than the caller vouches for.
    fn form(&self, launch: &Launch) -> Result<Form, Error> {
        let has_shared_inputs = self.check(launch)?;
        let (rows, inner) = (launch.rows(), launch.inner_len());
        let cost = self.row_cost(inner) * rows as f64;
        let simple = self.nest == Nest::Rows
            && rows > 0
            && !has_shared_inputs
            && launch.outer.len() <= 1
            && launch.inner.len() <= 1
            && self.operands.len() <= DIRECT_OPERANDS
            && cost < SHARE_FROM.1
            && !(self.analysis.splittable && tile(launch, inner) < inner);
        let room = if simple { Some(Room::new(&self.analysis, inner)?) } else { None };
        let strides =
            |layout: &Layout| (layout.outer.last().copied().unwrap_or(0), layout.inner.last().copied().unwrap_or(0));
        let direct = room.filter(|room| room.bytes <= 8 * INLINE_WORDS).map(|room| Direct {
            may_share: cost >= SHARE_FROM.0,
            strides: launch.layouts.iter().map(strides).collect(),
            room,
        });
        let outputs = self.operands.iter().filter(|o| o.role == Role::Out && o.level == Level::Inner);
        let element = outputs.map(|o| o.dtype.size()).max().unwrap_or(0);
        let streamed = rows.saturating_mul(inner).saturating_mul(element);
        Ok(Form { rows, inner, streamed, has_shared_inputs, direct })
    }

    /// Estimated nanoseconds for a row of so many inner elements.
    fn row_cost(&self, inner: usize) -> f64 {
        self.cost * inner as f64 + 10.0
    }

    /// Whether the launch fits; true if it has inputs that have to be made adjacent first.
    fn check(&self, launch: &Launch) -> Result<bool, Error> {
        let fail = |what: &str| Err(misfit(what));
        if launch.layouts.len() != self.operands.len() {
            return fail("another number of operands");
        }
        if self.nest == Nest::Rows && !launch.reduced.is_empty() {
            return fail("reduced dimensions of a row kernel");
        }
        if self.nest == Nest::Columns && launch.inner.len() > 1 {
            return fail("several inner dimensions of a column kernel: it is not canonical");
        }
        let may_share = self.nest == Nest::Rows && self.reductions.is_empty() && self.analysis.scratch_bytes == 0;
        let mut has_shared_inputs = false;
        for (operand, layout) in self.operands.iter().zip(&launch.layouts) {
            if layout.outer.len() != launch.outer.len()
                || layout.reduced.len() != launch.reduced.len()
                || layout.inner.len() != launch.inner.len()
            {
                return fail("a layout of another rank");
            }
            if numfuse_core::launch::access(operand, layout) != operand.access {
                if !(may_share && operand.access == Access::Unit && is_shared(operand, layout)) {
                    return fail("an operand of another access");
                }
                has_shared_inputs = true;
            }
        }
        Ok(has_shared_inputs)
    }
}

impl Prepared {
    /// A kernel and a launch of it.
    pub fn new(compiled: Arc<Compiled>, launch: Launch) -> Result<Prepared, Error> {
        let form = compiled.form(&launch)?;
        Ok(Prepared { compiled, launch, form })
    }

    /// The launch.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// About how long a run takes on one thread.
    pub fn nanoseconds(&self) -> f64 {
        let rows = self.form.rows as f64 * self.launch.reduced_len() as f64;
        self.compiled.row_cost(self.form.inner) * rows
    }

    /// Runs the kernel; see [`Compiled::run`].
    ///
    /// # Safety
    ///
    /// As [`Compiled::run`].
    #[inline]
    pub unsafe fn run(&self, pointers: &[*mut u8], params: &[u64], options: &RunOptions<'_>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.compiled.run_form(&self.launch, &self.form, pointers, params, options) }
    }
}

#[cold]
fn misfit(what: &str) -> Error {
    Error::Internal(format!("the launch does not fit the kernel: {what}"))
}

/// Nanoseconds for an inner element, about: vectors as wide as the tier's, and operands that are in the second-level cache. Those
/// from main memory take longer, but then there is enough work to share out anyway. Rare work is not counted.
fn estimate(kernel: &Kernel, analysis: &Analysis, tier: Tier) -> f64 {
    let narrow = match tier {
        Tier::Avx512 => 0.25,
        Tier::Avx2 => 0.5,
        Tier::Cranelift | Tier::Widest => 1.0,
    };
    let of_value = |v: Value| {
        let size = kernel.dtype(v).size() as f64;
        match kernel.inst(v) {
            Inst::Prim(Prim::Rem, _) => 4.0,
            Inst::Prim(Prim::Div, _) if kernel.dtype(v).is_int() => 3.0,
            Inst::Prim(Prim::Div, _) => 0.07 * size,
            Inst::Prim(Prim::Sqrt, _) => 0.1 * size,
            Inst::Prim(..) => 0.008 * narrow * size,
            Inst::Load(_) | Inst::Store(..) => 0.01 * size,
            Inst::ScratchLoad(_) | Inst::ScratchStore(..) => 0.005 * size,
            Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) | Inst::Reduced(_) => 0.0,
        }
    };
    let mut cost = 0.05 + 0.1 * kernel.reductions.len() as f64;
    for (stage, _) in kernel.stages.iter().enumerate().filter(|(_, stage)| stage.kind == StageKind::Loop) {
        cost += kernel.stages[stage].values().map(of_value).sum::<f64>();
        cost -= analysis.rare[stage].iter().flat_map(|part| &part.needed).copied().map(of_value).sum::<f64>();
    }
    cost
}

/// How many phases a kernel has; all of them.
fn phases(compiled: &Compiled) -> usize {
    2 * compiled.stages.len()
}

/// How many inner elements to run at a time: fewer than all if an operand steps far along the inner loop but little
/// along the rows, so that the cache lines it touches serve several rows.
fn tile(launch: &Launch, inner: usize) -> usize {
    const LINE: usize = 64;
    let transposed = launch.layouts.iter().any(|layout| match (layout.outer.last(), layout.inner.last()) {
        (Some(row), Some(inner)) => inner.unsigned_abs() >= LINE && row.unsigned_abs() < LINE && *row != 0,
        _ => false,
    });
    if transposed { inner.min(TILE) } else { inner }
}

/// The smallest number that is at least as large, and not 0; what was rounded up is not rounded up again.
fn at_least(x: f64) -> usize {
    ((x - 1e-6).ceil() as usize).max(1)
}

impl Run<'_> {
    fn rows(&self, rows: usize) -> Result<(), Error> {
        let compiled = self.compiled;
        let row_cost = compiled.row_cost(self.inner);
        let cost = row_cost * rows as f64;
        let team = self.options.team(cost);
        let threads = team.threads;
        let chunk_cost = team.chunk(cost);
        let long = row_cost > LONG_ROW.1 || (threads > 1 && rows < 4 * threads && row_cost > LONG_ROW.0);
        if let Some(short) = short::ShortRows::new(self, rows, team)? {
            return short.run(team, chunk_cost, row_cost);
        }
        let packs = self.launch.inner.len() > 1;
        if !packs && compiled.analysis.splittable {
            let tile = tile(self.launch, self.inner);
            if cost <= ONE_PIECE && threads == 1 && tile >= self.inner {
                return self.whole_rows(0, rows, (0, self.inner));
            }
            if tile < self.inner {
                // Transposed operands: blocks of rows, tile by tile.
                let block = rows.min(TILE);
                let tiles = self.inner.div_ceil(tile);
                return self.share(rows.div_ceil(block) * tiles, team, |chunk| {
                    let (first, begin) = (chunk / tiles * block, chunk % tiles * tile);
                    self.whole_rows(first, (first + block).min(rows), (begin, (begin + tile).min(self.inner)))
                });
            }
            // Chunks are rectangles: some rows by some inner elements, cut at a multiple of every lane count.
            let pieces = at_least(row_cost / chunk_cost);
            let piece = self.inner.div_ceil(pieces).next_multiple_of(256);
            let pieces = self.inner.div_ceil(piece).max(1);
            let block = at_least(chunk_cost * pieces as f64 / row_cost).min(rows);
            let block = if pieces > 1 { 1 } else { block };
            let blocks = rows.div_ceil(block);
            return self.share(blocks * pieces, team, |chunk| {
                let (block_index, piece_index) = (chunk / pieces, chunk % pieces);
                let first = block_index * block;
                let begin = piece_index * piece;
                self.whole_rows(first, (first + block).min(rows), (begin, (begin + piece).min(self.inner)))
            });
        }
        if packs || long {
            if rows >= 4 * threads || threads == 1 {
                return self.share(rows, team, |row| self.staged_row(row, Team::ALONE, chunk_cost));
            }
            return (0..rows).try_for_each(|row| self.staged_row(row, team, chunk_cost));
        }
        if cost <= ONE_PIECE && threads == 1 {
            return self.whole_rows(0, rows, (0, self.inner));
        }
        let block = at_least(chunk_cost / row_cost).min(rows);
        self.share(rows.div_ceil(block), team, |chunk| {
            self.whole_rows(chunk * block, (chunk * block + block).min(rows), (0, self.inner))
        })
    }

    /// Runs chunks on the threads of a team, until one fails or the run is cancelled.
    fn share(&self, chunks: usize, team: Team, run: impl Fn(usize) -> Result<(), Error> + Sync) -> Result<(), Error> {
        self.options.share(chunks, team, run)
    }

    /// The operands at an outer index (all but the last dimension fixed); rows step along the last one.
    fn places(&self, index: &[usize], row_strides: bool) -> Places {
        self.pointers
            .iter()
            .zip(&self.launch.layouts)
            .map(|(pointer, layout)| {
                let offset: isize = index.iter().zip(&layout.outer).map(|(i, s)| *i as isize * s).sum();
                OperandAt {
                    pointer: pointer.wrapping_byte_offset(offset),
                    row: if row_strides { layout.outer.last().copied().unwrap_or(0) } else { 0 },
                    inner: layout.inner.last().copied().unwrap_or(0),
                }
            })
            .collect()
    }

    /// Runs rows `first..end` of all outer dimensions together, all stages, over a range of inner elements.
    fn whole_rows(&self, first: usize, end: usize, (begin, stop): (usize, usize)) -> Result<(), Error> {
        let compiled = self.compiled;
        let workspace = Workspace::new(&compiled.analysis, self.inner)?;
        let last = self.launch.outer.last().copied().unwrap_or(1);
        let mut row = first;
        while row < end {
            // A run along the last outer dimension.
            let along = row % last;
            let count = (last - along).min(end - row);
            let index = self.outer_index(row);
            let places = self.places(&index, true);
            let call = Call {
                operands: places.as_ptr(),
                rows: count,
                begin,
                end: stop,
                first: 0,
                last: phases(compiled),
                streams: usize::from(self.streams),
                ..workspace.call(self.params, self.inner)
            };
            // SAFETY: the places are those of the rows asked for, which `Compiled::run`'s caller vouches for; the
            // workspace has the sizes that the analysis asks for.
            unsafe { invoke(&compiled.code, &call) };
            row += count;
        }
        Ok(())
    }

    /// The outer index with this row number.
    fn outer_index(&self, row: usize) -> SmallVec<[usize; 4]> {
        let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, self.launch.outer.len());
        let mut rest = row;
        for (i, size) in index.iter_mut().zip(&self.launch.outer).rev() {
            *i = rest % size;
            rest /= size;
        }
        index
    }
}

/// A call that several threads copy and adapt, with the operands that it points to.
struct SharedCall(Call);

// SAFETY: what the call points to outlives the scope that shares it; threads write to different parts of it.
unsafe impl Sync for SharedCall {}

impl SharedCall {
    fn get(&self) -> &Call {
        &self.0
    }

    fn places(&self) -> *const OperandAt {
        self.0.operands
    }
}

/// Words that a workspace has without allocating.
const INLINE_WORDS: usize = 128;

/// Uninitialised on purpose: compiled code writes each word before it reads it.
type Inline = UnsafeCell<[MaybeUninit<u64>; INLINE_WORDS]>;

/// What a run needs besides its operands: the frame, the leaf states and the scratch rows of one row.
#[derive(Clone, Copy, Debug)]
struct Room {
    frame_words: usize,
    state_words: usize,
    states: usize,
    scratch_len: usize,
    bytes: usize,
}

impl Room {
    fn new(analysis: &Analysis, inner: usize) -> Result<Room, Error> {
        let state_words = inner.div_ceil(LEAF).max(1);
        let scratch_len = if analysis.scratch_bytes > 0 { inner.next_multiple_of(8) } else { 0 };
        let (frame_words, states) = (analysis.frame, analysis.states);
        // Sixteen bytes more than the scratch rows need, to begin them at a multiple of 16.
        let bytes = scratch_len
            .checked_mul(analysis.scratch_bytes)
            .and_then(|bytes| bytes.checked_add(8 * (frame_words + states * state_words) + 16));
        let Some(bytes) = bytes else { return Err(Error::OutOfMemory { bytes: usize::MAX }) };
        Ok(Room { frame_words, state_words, states, scratch_len, bytes })
    }

    /// A call that uses the memory at `start`, as much as this needs, and nothing else.
    #[inline]
    fn call(&self, start: *mut u8, params: &[u64], len: usize) -> Call {
        let states = start.wrapping_add(8 * self.frame_words);
        let mut call = Workspace::empty(params, len);
        call.frame = start.cast();
        call.scratch = states.wrapping_add(8 * self.states * self.state_words);
        call.scratch_len = self.scratch_len;
        call.states = states;
        call.state_stride = STATE_WORD * self.state_words;
        call
    }
}

/// The memory of a [`Room`].
struct Workspace {
    inline: Inline,
    buffer: Option<AlignedBuffer>,
    room: Room,
}

impl Workspace {
    fn new(analysis: &Analysis, inner: usize) -> Result<Workspace, Error> {
        let room = Room::new(analysis, inner)?;
        let buffer = if room.bytes > 8 * INLINE_WORDS { Some(BUFFERS.take(room.bytes)?) } else { None };
        Ok(Workspace { inline: Inline::new([const { MaybeUninit::uninit() }; INLINE_WORDS]), buffer, room })
    }

    /// A call that uses nothing but parameters.
    #[inline]
    fn empty(params: &[u64], len: usize) -> Call {
        Call {
            operands: std::ptr::null(),
            params: params.as_ptr(),
            frame: std::ptr::null_mut(),
            scratch: std::ptr::null_mut(),
            scratch_len: 0,
            states: std::ptr::null_mut(),
            other: std::ptr::null(),
            state_stride: 0,
            rows: 0,
            begin: 0,
            end: 0,
            len,
            first: 0,
            last: 0,
            count: 0,
            other_count: 0,
            streams: 0,
            routines: wide::table(),
        }
    }

    /// A call that uses this workspace and nothing else. Valid until the workspace moves.
    fn call(&self, params: &[u64], len: usize) -> Call {
        let start = match &self.buffer {
            Some(buffer) => buffer.as_ptr().cast_mut(),
            None => self.inline.get().cast::<u8>(),
        };
        self.room.call(start, params, len)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            BUFFERS.give(buffer);
        }
    }
}

/// Calls compiled code in the default floating point environment.
///
/// # Safety
///
/// The call must describe memory that the code may use as its phases require.
#[inline]
unsafe fn invoke(code: &CodeBlock, call: &Call) {
    let _environment = FloatEnvironment::enter();
    // SAFETY: the block holds a function of this type, which `clif::build` emitted, and lives as long as `code`.
    unsafe {
        let function = std::mem::transmute::<usize, unsafe extern "C" fn(*const Call)>(code.address());
        function(call);
    }
}
