//! Row kernels: reductions along rows, and what uses them.
//!
//! A leaf of a row belongs to sixteen threads, which hold its lanes: each has some neighbouring ones, so that a step over
//! the leaf loads vectors. Short rows have as many threads as their lanes need, and a block has several of them; longer
//! ones have a block, whose groups of sixteen threads take leaves in turn. Long rows, where there are few, are *staged*: a launch
//! for each loop, whose blocks share out the leaves, and one that joins what they leave. Every thread computes the row stages;
//! one stores what they store.
//!
//! Scratch is in shared memory, or in the workspace if the kernel is staged. An element belongs to one thread in
//! every loop, so nobody waits for it; and that thread may put a new value where the one was that it has read for the last time, so
//! slots of one dtype share a row of memory if one is stored in the last loop that loads the other, or later.

use super::class::{BLOCK, LEAF, LEAF_THREADS, loops, row_vector};
use super::fold::{Fold, Tree, phases, trees};
use super::map::blocks;
use super::prim::memory_type;
use super::stage::Tile;
use super::{Class, Dispatch, Field, Grid, Group, Schedule, Unit};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Inst, Kernel, Reducer, Role, StageKind};
use numfuse_core::launch::Launch;
use smallvec::{SmallVec, smallvec};

/// Threads that run short rows, if their scratch lets them: fewer for kernels that have some.
const SCRATCH_BLOCK: usize = 64;
/// Bytes that a thread of a row kernel has on the way.
const IN_FLIGHT: usize = 64;
/// Kernels with more primitives than this do not load ahead.
const MEDIUM: usize = 24;

/// What a row needs besides its operands.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Components of the states of the loop that has most.
    pub components: usize,
    /// Reductions.
    pub results: usize,
    /// The loops with reductions.
    pub folded: SmallVec<[bool; 4]>,
    /// The rows of scratch.
    scratch: Vec<DType>,
    /// Which of them each slot is.
    slots: Vec<usize>,
}

impl Room {
    pub fn new(kernel: &Kernel) -> Room {
        let of = |stage: usize| kernel.reductions_of(stage).map(|(_, r)| components(r.reducer, r.dtype)).sum();
        let (scratch, slots) = scratch_rows(kernel);
        Room {
            components: loops(kernel).map(of).max().unwrap_or(0),
            results: kernel.reductions.len(),
            folded: loops(kernel).map(|stage| of(stage) > 0).collect(),
            scratch,
            slots,
        }
    }

    /// Bytes of the scratch of a row.
    fn scratch(&self, n: usize) -> usize {
        self.scratch.iter().map(|d| (n * d.size()).next_multiple_of(16)).sum()
    }

    /// Bytes of shared memory for so many rows of `n` elements.
    pub fn shared(&self, n: usize, rows: usize) -> usize {
        let leaves = n.div_ceil(LEAF);
        let states = if leaves > 1 { 8 * self.components * leaves.next_multiple_of(2) } else { 0 };
        states + rows * self.scratch(n)
    }
}

/// Rows of scratch, and which of them each slot is. A tile of a loop is loaded before it is stored.
fn scratch_rows(kernel: &Kernel) -> (Vec<DType>, Vec<usize>) {
    let mut lives: Vec<(usize, usize)> = vec![(usize::MAX, 0); kernel.scratch.len()];
    for (stage, insts) in kernel.stages.iter().enumerate() {
        for v in insts.values() {
            match kernel.inst(v) {
                Inst::ScratchStore(slot, _) => lives[*slot as usize].0 = stage,
                Inst::ScratchLoad(slot) => lives[*slot as usize].1 = stage,
                _ => {}
            }
        }
    }
    // In the order in which they are stored.
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|slot| lives[*slot].0);
    let (mut rows, mut free_from): (Vec<DType>, Vec<usize>) = Default::default();
    let mut slots = vec![0; lives.len()];
    for slot in order {
        let (dtype, (stored, loaded)) = (kernel.scratch[slot], lives[slot]);
        let free = (0..rows.len()).find(|row| rows[*row] == dtype && free_from[*row] <= stored);
        slots[slot] = free.unwrap_or_else(|| {
            rows.push(dtype);
            free_from.push(0);
            rows.len() - 1
        });
        free_from[slots[slot]] = loaded.max(stored);
    }
    (rows, slots)
}

fn components(reducer: Reducer, dtype: DType) -> usize {
    reducer.init(dtype).len()
}

/// The threads of a block, and how many rows they run.
fn block(room: &Room, threads: usize, groups: usize) -> (usize, usize) {
    match groups {
        1 => {
            let block = if room.scratch.is_empty() { BLOCK } else { SCRATCH_BLOCK };
            (block, block / threads)
        }
        _ => (threads * groups, 1),
    }
}

/// How the elements of a row are shared out.
struct Spread {
    /// Threads that share a leaf.
    threads: usize,
    /// Leaves side by side.
    groups: usize,
    /// Elements of a thread in a step.
    vector: usize,
    aligned: bool,
    /// The first leaf and the one past the last, as expressions.
    leaves: [&'static str; 2],
    /// Where the states of leaves are left; none if the row has one leaf.
    states: bool,
}

pub(super) fn emit(unit: &mut Unit<'_>) {
    match unit.class.schedule {
        Schedule::Rows { threads, groups, aligned } => whole(unit, threads.into(), groups.into(), aligned),
        Schedule::Staged { aligned, leaves } => staged(unit, aligned, leaves.into()),
        _ => unreachable!("not a row schedule"),
    }
}

/// All stages in one entry.
fn whole(unit: &mut Unit<'_>, threads: usize, groups: usize, aligned: bool) {
    let room = Room::new(unit.kernel);
    let (size, rows) = block(&room, threads, groups);
    unit.open_entry("kernel_rows", size as u32);
    let n = unit.fields.word(Field::Count(Group::Inner));
    let count = unit.fields.word(Field::Count(Group::Outer));
    unit.text.line(&format!("const idx n = (idx){n}, leaves = (n + {}) / {LEAF};", LEAF - 1));
    unit.text.line(&format!("const int t = threadIdx.x % {threads};"));
    let single = rows == 1;
    if single {
        unit.text.line("const idx row = (idx)blockIdx.x;");
        unit.text.line(&format!("const int group = threadIdx.x / {threads};"));
    } else {
        unit.text.line(&format!("const i64 at = (i64)blockIdx.x * {rows} + threadIdx.x / {threads};"));
        unit.text.line(&format!("const bool live = at < {count};"));
        unit.text.line(&format!("const idx row = live ? (idx)at : (idx)({count} - 1);"));
    }
    pointers(unit);
    if room.shared(2 * LEAF, 1) > 0 && (groups > 1 || !room.scratch.is_empty()) {
        unit.text.line("extern __shared__ __align__(16) unsigned char shared[];");
    }
    if !room.scratch.is_empty() {
        let states = if groups > 1 { 8 * room.components } else { 0 };
        let mut base = match states {
            0 => "shared".to_owned(),
            _ => format!("shared + {states} * ((leaves + 1) & ~1)"),
        };
        if !single {
            let bytes: Vec<String> = room.scratch.iter().map(|d| format!("((n * {} + 15) & ~15)", d.size())).collect();
            base = format!("{base} + threadIdx.x / {threads} * ({})", bytes.join(" + "));
        }
        scratch_pointers(unit, &room, &base);
    }
    let spread = Spread {
        threads,
        groups,
        vector: row_vector(unit.kernel),
        aligned,
        leaves: ["0", "leaves"],
        states: groups > 1,
    };
    let stores = if single { "threadIdx.x == 0" } else { "live && t == 0" };
    let result = |r: u32| format!("r{r}");
    for stage in 0..unit.kernel.stages.len() {
        if unit.kernel.stages[stage].kind == StageKind::Row {
            unit.row_stage(stage, "p", &result, Some(stores));
            continue;
        }
        let folds = Fold::of(unit, stage);
        for fold in &folds {
            fold.declare_result(unit);
        }
        leaves(unit, stage, &folds, &spread, &result, if single { None } else { Some("live") });
        if !spread.states {
            for fold in &folds {
                fold.share_result(unit, threads);
            }
        } else if !folds.is_empty() {
            let tree = Tree { base: "shared", count: "leaves", start: "0", unit: LEAF, threads: size, radix: 2 };
            trees(unit, &folds, &tree);
            let mut first = 0;
            for fold in &folds {
                let place = fold.place("shared", first + fold.reducer.result(), "leaves", "0");
                unit.text.line(&format!("r{} = {place};", fold.index));
                first += fold.components();
            }
            // The next loop leaves its states in the same place.
            unit.text.line("__syncthreads();");
        }
    }
    unit.text.close();
}

/// Declares where the operands of a row are: `p{operand}`.
fn pointers(unit: &mut Unit<'_>) {
    if unit.class.rank(Group::Outer) > 0 {
        unit.indices(Group::Outer, "row", "o");
    }
    for operand in 0..unit.kernel.operands.len() {
        let word = unit.fields.word(Field::Operand(operand as u32));
        unit.row_pointer(operand, Group::Outer, "o", "p", &word);
    }
}

/// Declares where the scratch slots of a row are: `q{slot}`.
fn scratch_pointers(unit: &mut Unit<'_>, room: &Room, base: &str) {
    let mut base = base.to_owned();
    for (row, dtype) in room.scratch.iter().enumerate() {
        let mut slots = (0..room.slots.len()).filter(|slot| room.slots[*slot] == row);
        let Some(first) = slots.next() else { continue };
        let ty = if base.starts_with("shared") || row > 0 { "auto" } else { "char*" };
        unit.text.line(&format!("{ty} const q{first} = {base};"));
        for slot in slots {
            unit.text.line(&format!("auto const q{slot} = q{first};"));
        }
        base = format!("q{first} + ((n * {} + 15) & ~15)", dtype.size());
    }
}

/// The tile of a step of a loop.
fn tile(unit: &Unit<'_>, stage: usize, spread: &Spread, phases: usize) -> Tile {
    let kernel = unit.kernel;
    let elements = spread.threads * spread.vector;
    let read: usize = kernel
        .operands
        .iter()
        .enumerate()
        .filter(|(n, o)| o.role == Role::In && super::class::uses(kernel, stage, *n))
        .map(|(_, o)| o.dtype.size())
        .sum();
    let prims = kernel.stages[stage].values().filter(|v| matches!(kernel.inst(*v), Inst::Prim(..))).count();
    let ahead =
        if prims > MEDIUM || !unit.class.ahead { 1 } else { (IN_FLIGHT / (read * spread.vector).max(1)).clamp(1, 4) };
    let count = if spread.threads < LEAF_THREADS { 1 } else { (1 << ahead.ilog2()).max(phases) };
    Tile { vector: spread.vector, count, spacing: elements, aligned: spread.aligned }
}

/// Emits the loop of a stage over the leaves of a row.
fn leaves(
    unit: &mut Unit<'_>,
    stage: usize,
    folds: &[Fold],
    spread: &Spread,
    result: &dyn Fn(u32) -> String,
    live: Option<&str>,
) {
    let Spread { threads, groups, vector, .. } = *spread;
    let elements = threads * vector;
    let phases = phases(folds, elements, threads < LEAF_THREADS);
    let tile = tile(unit, stage, spread, phases.iter().copied().max().unwrap_or(1));
    let steps = if threads < LEAF_THREADS { 1 } else { LEAF / elements };
    let [first, last] = spread.leaves;
    unit.text.open(&format!("for (idx batch = {first}; batch < {last}; batch += {groups})"));
    let leaf = if groups > 1 { "(batch + group)" } else { "batch" };
    unit.text.line(&format!("const idx begin = {leaf} * {LEAF};"));
    for (fold, phases) in folds.iter().zip(&phases) {
        fold.declare_states(unit, vector * phases);
    }
    if steps > tile.count {
        unit.text.open(&format!("for (int step = 0; step < {steps}; step += {})", tile.count));
        unit.text.line(&format!("if (begin + step * {elements} >= n) break;"));
        unit.text.line(&format!("const idx first = begin + step * {elements} + t * {vector};"));
    } else {
        unit.text.open("if (begin < n)");
        unit.text.line("const int step = 0;");
        unit.text.line(&format!("const idx first = begin + t * {vector};"));
    }
    unit.load_tile(stage, &tile, "p");
    unit.compute_tile(stage, &tile, result, |unit| {
        if folds.is_empty() {
            return;
        }
        unit.text.open(if tile.vector > 1 { "if (i + k < n)" } else { "if (i < n)" });
        for (fold, phases) in folds.iter().zip(&phases) {
            let vector_index = if tile.count > 1 { "u" } else { "0" };
            let lane = if *phases > 1 { format!("{vector_index} % {phases} * {vector} + k") } else { "k".to_owned() };
            fold.step(unit, &lane, &format!("((step + {vector_index}) / {phases} + 1)"));
        }
        unit.text.close();
    });
    unit.store_tile(stage, &tile, "p", live);
    unit.text.close();
    if folds.iter().any(|fold| fold.reducer.counts()) {
        unit.text.line(&format!("const idx size = n - begin < {LEAF} ? n - begin : {LEAF};"));
    }
    for (fold, phases) in folds.iter().zip(&phases) {
        fold.merge_lanes(unit, threads, vector, *phases, "size");
    }
    if spread.states && !folds.is_empty() {
        let [base, count, at] = if spread.leaves[0] == "0" {
            ["shared", "leaves", leaf]
        } else {
            ["shared", "count", "(batch + group - chunk)"]
        };
        unit.text.open("if (t == 0 && begin < n)");
        let mut component = 0;
        for fold in folds {
            for c in 0..fold.components() {
                let place = fold.place(base, component + c, count, at);
                unit.text.line(&format!("{place} = s{}_{c}[0];", fold.index));
            }
            component += fold.components();
        }
        unit.text.close();
    } else {
        for fold in folds {
            unit.text.line(&format!("r{} = {};", fold.index, fold.lane_result()));
        }
    }
    unit.text.close();
}

/// Leaves side by side in a block of a staged kernel.
const GROUPS: usize = BLOCK / LEAF_THREADS;
/// Threads of a block that joins what the blocks of a loop leave, and how many neighbours each merges at once: one block
/// does it for a row, and waits for memory at each level.
const JOIN_BLOCK: usize = 1024;
const JOIN_RADIX: usize = 8;

/// An entry for each loop, and one that joins what its blocks leave.
fn staged(unit: &mut Unit<'_>, aligned: bool, chunk: usize) {
    let room = Room::new(unit.kernel);
    let kernel = unit.kernel;
    let spread = Spread {
        threads: LEAF_THREADS,
        groups: GROUPS,
        vector: row_vector(kernel),
        aligned,
        leaves: ["chunk", "end"],
        states: true,
    };
    let stages: Vec<usize> = loops(kernel).collect();
    for (l, stage) in stages.iter().copied().enumerate() {
        let folds = Fold::of(unit, stage);
        unit.open_entry(&format!("kernel_loop{l}"), BLOCK as u32);
        preamble(unit, chunk);
        unit.text.line("const idx row = (idx)(blockIdx.x / (u32)chunks);");
        unit.text.line(&format!("const idx chunk = (idx)(blockIdx.x % (u32)chunks) * {chunk};"));
        unit.text.line(&format!("const idx end = chunk + {chunk} < leaves ? chunk + {chunk} : leaves;"));
        unit.text.line(&format!("const int t = threadIdx.x % {LEAF_THREADS}, group = threadIdx.x / {LEAF_THREADS};"));
        pointers(unit);
        workspace(unit, &room);
        if !folds.is_empty() {
            unit.text.line("extern __shared__ __align__(16) unsigned char shared[];");
            unit.text.line("const idx count = end - chunk;");
        }
        // Row stages that no joining entry runs store here.
        let last = l + 1 == stages.len();
        rows_before(unit, stage, "chunk == 0 && threadIdx.x == 0");
        leaves(unit, stage, &folds, &spread, &|r| frame(kernel, r), None);
        if folds.is_empty() {
            if last {
                rows_after(unit, stage, "chunk == 0 && threadIdx.x == 0");
            }
        } else {
            let start = format!("(i64)chunk * {LEAF}");
            let tree = Tree { base: "shared", count: "count", start: &start, unit: LEAF, threads: BLOCK, radix: 2 };
            trees(unit, &folds, &tree);
            unit.text.open("if (threadIdx.x == 0)");
            copy_states(unit, &folds, "shared", "count", "0", &format!("(chunk / {chunk})"));
            unit.text.close();
        }
        unit.text.close();
        if !folds.is_empty() {
            join(unit, l, stage, &folds, &room, chunk);
        }
    }
}

/// Copies states to those of the chunks of a row.
fn copy_states(unit: &mut Unit<'_>, folds: &[Fold], from: &str, count: &str, at: &str, chunk: &str) {
    let mut component = 0;
    for fold in folds {
        for c in 0..fold.components() {
            let to = fold.place("partials", component + c, "chunks", chunk);
            let from = fold.place(from, component + c, count, at);
            unit.text.line(&format!("{to} = {from};"));
        }
        component += fold.components();
    }
}

fn preamble(unit: &mut Unit<'_>, chunk: usize) {
    let n = unit.fields.word(Field::Count(Group::Inner));
    unit.text.line(&format!("const idx n = (idx){n}, leaves = (n + {}) / {LEAF};", LEAF - 1));
    unit.text.line(&format!("const i64 chunks = (leaves + {}) / {chunk};", chunk - 1));
}

/// Declares where the parts of the workspace are: `frame` (the results of a row), `partials` (the states of its chunks), and
/// scratch.
fn workspace(unit: &mut Unit<'_>, room: &Room) {
    let base = unit.fields.word(Field::Workspace);
    let rows = unit.fields.word(Field::Count(Group::Outer));
    unit.text.line(&format!("char* const frame = {base} + (i64)row * {};", 8 * room.results));
    unit.text.line(&format!(
        "char* const partials = {base} + {rows} * {} + (i64)row * {} * chunks;",
        8 * room.results,
        8 * room.components
    ));
    if !room.scratch.is_empty() {
        let bytes: Vec<String> = room.scratch.iter().map(|d| format!("(((i64)n * {} + 15) & ~15)", d.size())).collect();
        unit.text.line(&format!(
            "char* const scratch = {base} + (({rows} * ({} + {} * chunks) + 15) & ~15) + row * ({});",
            8 * room.results,
            8 * room.components,
            bytes.join(" + ")
        ));
        scratch_pointers(unit, room, "scratch");
    }
}

/// The result of a reduction that has been joined.
fn frame(kernel: &Kernel, r: u32) -> String {
    let dtype = kernel.reductions[r as usize].dtype;
    let element = format!("*(const {}*)(frame + {})", memory_type(dtype), 8 * r);
    if dtype == DType::Bool { format!("{element} != 0") } else { element }
}

/// The row stages before a loop; those that follow no reduction store if `condition` holds, in the first loop after them.
fn rows_before(unit: &mut Unit<'_>, stage: usize, condition: &str) {
    let kernel = unit.kernel;
    for s in 0..stage {
        if kernel.stages[s].kind != StageKind::Row {
            continue;
        }
        let joined = s > 0 && kernel.reductions_of(s - 1).next().is_some();
        let first_after = loops(kernel).find(|l| *l > s) == Some(stage);
        let stores = (!joined && first_after).then_some(condition);
        unit.row_stage(s, "p", &|r| frame(kernel, r), stores);
    }
}

/// The row stages after the last loop.
fn rows_after(unit: &mut Unit<'_>, stage: usize, condition: &str) {
    let kernel = unit.kernel;
    for s in stage + 1..kernel.stages.len() {
        unit.row_stage(s, "p", &|r| frame(kernel, r), Some(condition));
    }
}

/// The entry that joins the chunks of each row, and runs the row stages up to the next loop.
fn join(unit: &mut Unit<'_>, number: usize, stage: usize, folds: &[Fold], room: &Room, leaves: usize) {
    let kernel = unit.kernel;
    unit.open_entry(&format!("kernel_join{number}"), JOIN_BLOCK as u32);
    preamble(unit, leaves);
    unit.text.line("const idx row = (idx)blockIdx.x;");
    pointers(unit);
    workspace(unit, room);
    let tree = Tree {
        base: "partials",
        count: "chunks",
        start: "0",
        unit: leaves * LEAF,
        threads: JOIN_BLOCK,
        radix: JOIN_RADIX,
    };
    trees(unit, folds, &tree);
    unit.text.line("if (threadIdx.x != 0) return;");
    let mut component = 0;
    for fold in folds {
        let place = fold.place("partials", component + fold.reducer.result(), "chunks", "0");
        unit.text.line(&format!("*({}*)(frame + {}) = {place};", memory_type(fold.dtype), 8 * fold.index));
        component += fold.components();
    }
    let next = loops(kernel).find(|l| *l > stage).unwrap_or(kernel.stages.len());
    let stores: Vec<usize> = (stage + 1..next).collect();
    if stores.iter().any(|s| kernel.stages[*s].values().any(|v| matches!(kernel.inst(v), Inst::Store(..)))) {
        for s in (0..next).filter(|s| kernel.stages[*s].kind == StageKind::Row) {
            let stores = stores.contains(&s).then_some("true");
            unit.row_stage(s, "p", &|r| frame(kernel, r), stores);
        }
    }
    unit.text.close();
}

pub(super) fn dispatch(class: &Class, room: &Room, launch: &Launch) -> Option<Dispatch> {
    let (n, rows) = (launch.inner_len(), launch.rows());
    if rows == 0 {
        return Some(Dispatch { grids: smallvec![], workspace: 0 });
    }
    match class.schedule {
        Schedule::Rows { threads, groups, .. } => {
            let (size, rows_of_block) = block(room, threads.into(), groups.into());
            let grid = Grid {
                entry: 0,
                blocks: [blocks(rows.div_ceil(rows_of_block) as u64)?, 1, 1],
                threads: [size as u32, 1, 1],
                shared: room.shared(n, rows_of_block) as u32,
            };
            Some(Dispatch { grids: smallvec![grid], workspace: 0 })
        }
        Schedule::Staged { leaves, .. } => {
            let chunk = usize::from(leaves);
            let chunks = n.div_ceil(LEAF).div_ceil(chunk) as u64;
            let all = blocks((rows as u64).checked_mul(chunks)?)?;
            let mut grids = SmallVec::new();
            for folded in &room.folded {
                let shared = if *folded { 8 * room.components * chunk } else { 0 } as u32;
                let threads = [BLOCK as u32, 1, 1];
                grids.push(Grid { entry: grids.len(), blocks: [all, 1, 1], threads, shared });
                if *folded {
                    let threads = [JOIN_BLOCK as u32, 1, 1];
                    grids.push(Grid { entry: grids.len(), blocks: [blocks(rows as u64)?, 1, 1], threads, shared: 0 });
                }
            }
            let states = rows as u64 * 8 * (room.results as u64 + room.components as u64 * chunks);
            let scratch = (room.scratch(n) as u64).checked_mul(rows as u64)?;
            Some(Dispatch { grids, workspace: states.next_multiple_of(16).checked_add(scratch)? })
        }
        _ => unreachable!("not a row schedule"),
    }
}
