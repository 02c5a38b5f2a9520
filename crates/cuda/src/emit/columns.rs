//! Column kernels: reductions down the columns.
//!
//! A thread folds one leaf of some neighbouring columns. The leaves of a block meet in shared memory; if there are more, what
//! the blocks leave meets in the workspace, where a second entry joins it. Whoever has the results runs the last stage.

use super::class::COLUMN_LEAF;
use super::fold::Fold;
use super::map::blocks;
use super::rows::Room;
use super::stage::Tile;
use super::{Class, Dispatch, Field, Grid, Group, Schedule, Unit};
use numfuse_core::kernel::{Inst, Kernel, Value};
use numfuse_core::launch::Launch;
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeSet;

/// Reduced indices that a thread loads ahead.
const AHEAD: usize = 4;

/// How columns and leaves are shared out.
#[derive(Clone, Copy)]
struct Spread {
    /// Threads along the columns.
    across: usize,
    /// Threads along the leaves.
    down: usize,
    /// Columns of a thread.
    vector: usize,
}

impl Spread {
    fn new(class: &Class) -> Spread {
        let Schedule::Columns { across, down, vector } = class.schedule else { unreachable!("not columns") };
        Spread { across: across.into(), down: down.into(), vector: vector.into() }
    }

    fn tile(&self) -> Tile {
        Tile { vector: self.vector, count: 1, spacing: 0, aligned: true }
    }

    /// The column of a tile that a loop is at.
    fn k(&self) -> &'static str {
        if self.vector > 1 { "k" } else { "0" }
    }
}

pub(super) fn emit(unit: &mut Unit<'_>) {
    let spread = Spread::new(unit.class);
    let folds = Fold::of(unit, 1);
    fold_entry(unit, &spread, &folds);
    join_entry(unit, &spread, &folds);
}

/// What both entries begin with.
fn preamble(unit: &mut Unit<'_>, spread: &Spread) {
    let Spread { across, down, vector } = *spread;
    let n = unit.fields.word(Field::Count(Group::Inner));
    let reduced = unit.fields.word(Field::Count(Group::Reduced));
    unit.text.line(&format!("const idx n = (idx){n}, reduced = (idx){reduced};"));
    unit.text.line(&format!("const idx leaves = (reduced + {}) / {COLUMN_LEAF};", COLUMN_LEAF - 1));
    unit.text.line(&format!("const u32 tiles = (u32)((n + {}) / {});", across * vector - 1, across * vector));
    unit.text.line("const idx row = (idx)(blockIdx.x / tiles);");
    unit.text.line(&format!("const idx first = ((idx)(blockIdx.x % tiles) * {across} + (idx)threadIdx.x) * {vector};"));
    unit.text.line(&format!("const i64 chunks = leaves > {down} ? (leaves + {}) / {down} : 1;", down - 1));
    let base = unit.fields.word(Field::Workspace);
    let components = Room::new(unit.kernel).components;
    unit.text.line(&format!("char* const partials = {base} + (i64)row * {} * chunks * n;", 8 * components));
    unit.indices(Group::Outer, "row", "o");
    for operand in 0..unit.kernel.operands.len() {
        let word = unit.fields.word(Field::Operand(operand as u32));
        unit.row_pointer(operand, Group::Outer, "o", "p", &word);
    }
}

fn fold_entry(unit: &mut Unit<'_>, spread: &Spread, folds: &[Fold]) {
    let Spread { across, down, vector } = *spread;
    unit.open_entry("kernel_columns", (across * down) as u32);
    preamble(unit, spread);
    unit.text.line(&format!(
        "const idx chunk = (idx)blockIdx.y * {down}, begin = (chunk + (idx)threadIdx.y) * {COLUMN_LEAF};"
    ));
    unit.text.line(&format!("const idx end = begin + {COLUMN_LEAF} < reduced ? begin + {COLUMN_LEAF} : reduced;"));
    for fold in folds {
        fold.declare_states(unit, vector);
    }
    unit.text.open(&format!("for (idx at = begin; at < end; at += {AHEAD})"));
    unit.text.line("#pragma unroll");
    unit.text.open(&format!("for (int u = 0; u < {AHEAD}; u++)"));
    unit.text.line("const idx r = at + u < end ? at + u : end - 1;");
    unit.indices(Group::Reduced, "r", "d");
    for operand in 0..unit.kernel.operands.len() {
        if super::class::uses(unit.kernel, 0, operand) || super::class::uses(unit.kernel, 1, operand) {
            unit.row_pointer(operand, Group::Reduced, "d", "w", &format!("p{operand}"));
        }
    }
    let none = |_: u32| unreachable!("nothing is reduced yet");
    unit.row_stage(0, "w", &none, Some("blockIdx.x % tiles == 0 && threadIdx.x == 0 && at + u < end"));
    let tile = spread.tile();
    unit.load_tile(1, &tile, "w");
    let k = spread.k();
    unit.compute_tile(1, &tile, &none, |unit| {
        unit.text.open("if (at + u < end)");
        for fold in folds {
            fold.step(unit, k, "(at + u - begin + 1)");
        }
        unit.text.close();
    });
    unit.store_tile(1, &tile, "w", Some("at + u < end"));
    unit.text.close();
    unit.text.close();
    if down > 1 {
        in_shared_memory(unit, spread, folds);
    }
    unit.text.line("if (threadIdx.y != 0) return;");
    unit.text.open("if (chunks > 1)");
    columns(unit, spread, |unit| {
        let mut component = 0;
        for fold in folds {
            for c in 0..fold.components() {
                let place = partial(fold, component + c, "blockIdx.y", k);
                unit.text.line(&format!("{place} = s{}_{c}[{k}];", fold.index));
            }
            component += fold.components();
        }
    });
    unit.text.line("return;");
    unit.text.close();
    finish(unit, spread, folds);
    unit.text.close();
}

/// A loop over the columns of a thread that exist.
fn columns(unit: &mut Unit<'_>, spread: &Spread, body: impl FnOnce(&mut Unit<'_>)) {
    if spread.vector > 1 {
        unit.text.line("#pragma unroll");
        unit.text.open(&format!("for (int k = 0; k < {}; k++)", spread.vector));
    }
    unit.text.open(&format!("if (first + {} < n)", spread.k()));
    body(unit);
    unit.text.close();
    if spread.vector > 1 {
        unit.text.close();
    }
}

/// Merges the leaves of a block into the states of its first threads.
fn in_shared_memory(unit: &mut Unit<'_>, spread: &Spread, folds: &[Fold]) {
    let Spread { across, down, vector } = *spread;
    let k = spread.k();
    let place = |fold: &Fold, component: usize, leaf: &str| {
        let width = across * vector;
        fold.place(
            "shared",
            component,
            &(down * width).to_string(),
            &format!("({leaf}) * {width} + threadIdx.x * {vector} + {k}"),
        )
    };
    let save = |unit: &mut Unit<'_>| {
        open_elements(unit, spread);
        let mut component = 0;
        for fold in folds {
            for c in 0..fold.components() {
                unit.text.line(&format!("{} = s{}_{c}[{k}];", place(fold, component + c, "threadIdx.y"), fold.index));
            }
            component += fold.components();
        }
        close_elements(unit, spread);
    };
    unit.text.line("extern __shared__ __align__(16) unsigned char shared[];");
    unit.text.line(&format!(
        "const int count = (int)(leaves - chunk < {down} ? leaves - chunk : {down}), own = threadIdx.y;"
    ));
    save(unit);
    unit.text.line("__syncthreads();");
    unit.text.open("for (int d = 1; d < count; d *= 2)");
    unit.text.open("if (own % (2 * d) == 0 && own + d < count)");
    elements_of(
        unit,
        folds,
        "begin",
        &format!("begin + (i64)d * {COLUMN_LEAF}"),
        &format!("begin + 2ll * d * {COLUMN_LEAF}"),
    );
    open_elements(unit, spread);
    let mut component = 0;
    for fold in folds {
        for c in 0..fold.components() {
            let other = place(fold, component + c, "own + d");
            unit.text.line(&format!("{} b{}_{c} = {other};", super::prim::value_type(fold.dtype), fold.index));
        }
        let r = fold.index;
        fold.merge(
            unit,
            |c| format!("s{r}_{c}[{k}]"),
            |c| format!("b{r}_{c}"),
            ["(middle - before)", "(after - middle)"],
        );
        component += fold.components();
    }
    close_elements(unit, spread);
    save(unit);
    unit.text.close();
    unit.text.line("__syncthreads();");
    unit.text.close();
}

/// Declares how many reduced indices are before, in between and after two neighbours, if a reducer counts.
fn elements_of(unit: &mut Unit<'_>, folds: &[Fold], before: &str, middle: &str, after: &str) {
    if folds.iter().any(|fold| fold.reducer.counts()) {
        unit.uses.least = true;
        unit.text.line(&format!(
            "const i64 before = least({before}, reduced), middle = least({middle}, reduced), after = least({after}, reduced);"
        ));
    }
}

fn open_elements(unit: &mut Unit<'_>, spread: &Spread) {
    if spread.vector > 1 {
        unit.text.line("#pragma unroll");
        unit.text.open(&format!("for (int k = 0; k < {}; k++)", spread.vector));
    } else {
        unit.text.open("");
    }
}

fn close_elements(unit: &mut Unit<'_>, _: &Spread) {
    unit.text.close();
}

/// A component of a state in the workspace.
fn partial(fold: &Fold, component: usize, chunk: &str, k: &str) -> String {
    fold.place("partials", component, "chunks * n", &format!("(i64)({chunk}) * n + first + {k}"))
}

/// The entry that joins what blocks leave, if there are several to a column.
fn join_entry(unit: &mut Unit<'_>, spread: &Spread, folds: &[Fold]) {
    let Spread { across, down, vector } = *spread;
    let k = spread.k();
    unit.open_entry("kernel_join", (across * down) as u32);
    preamble(unit, spread);
    unit.text.open("for (i64 d = 1; d < chunks; d *= 2)");
    unit.text.open(&format!("for (i64 at = (i64)threadIdx.y * 2 * d; at + d < chunks; at += {} * d)", 2 * down));
    let elements = |at: &str| format!("({at}) * {}", down * COLUMN_LEAF);
    elements_of(unit, folds, &elements("at"), &elements("at + d"), &elements("at + 2 * d"));
    columns(unit, spread, |unit| {
        let mut component = 0;
        for fold in folds {
            let r = fold.index;
            let ty = super::prim::value_type(fold.dtype);
            for c in 0..fold.components() {
                for (side, chunk) in [("a", "at"), ("b", "at + d")] {
                    let place = partial(fold, component + c, chunk, k);
                    unit.text.line(&format!("{ty} {side}{r}_{c} = {place};"));
                }
            }
            fold.merge(
                unit,
                |c| format!("a{r}_{c}"),
                |c| format!("b{r}_{c}"),
                ["(middle - before)", "(after - middle)"],
            );
            for c in 0..fold.components() {
                let place = partial(fold, component + c, "at", k);
                unit.text.line(&format!("{place} = a{r}_{c};"));
            }
            component += fold.components();
        }
    });
    unit.text.close();
    unit.text.line("__syncthreads();");
    unit.text.close();
    unit.text.line("if (threadIdx.y != 0) return;");
    for fold in folds {
        fold.declare_states(unit, vector);
    }
    columns(unit, spread, |unit| {
        let mut component = 0;
        for fold in folds {
            for c in 0..fold.components() {
                let place = partial(fold, component + c, "0", k);
                unit.text.line(&format!("s{}_{c}[{k}] = {place};", fold.index));
            }
            component += fold.components();
        }
    });
    finish(unit, spread, folds);
    unit.text.close();
}

/// The last stage, from the states of a thread's columns.
fn finish(unit: &mut Unit<'_>, spread: &Spread, folds: &[Fold]) {
    let needed = needed_by_last(unit.kernel);
    let none = |_: u32| unreachable!("row values come before reductions");
    unit.row_stage_only(0, "p", &none, &needed);
    let tile = spread.tile();
    let k = spread.k();
    unit.load_tile(2, &tile, "p");
    let result = |r: u32| {
        let fold = folds.iter().find(|fold| fold.index == r as usize);
        fold.map(|fold| fold.column_result(&format!("s{r}_{}[{k}]", fold.reducer.result()))).unwrap_or_default()
    };
    unit.compute_tile(2, &tile, &result, |_| {});
    unit.store_tile(2, &tile, "p", None);
}

/// The row values that the last stage is made of: they do not vary along what is reduced.
fn needed_by_last(kernel: &Kernel) -> BTreeSet<Value> {
    let first = &kernel.stages[0];
    let mut needed = BTreeSet::new();
    let mut open: Vec<Value> = kernel.stages[2].values().flat_map(|v| kernel.inst(v).operands()).copied().collect();
    while let Some(v) = open.pop() {
        if v.0 >= first.start && v.0 < first.end && needed.insert(v) {
            open.extend(kernel.inst(v).operands());
        }
    }
    debug_assert!(!needed.iter().any(|v| matches!(kernel.inst(*v), Inst::Store(..))));
    needed
}

pub(super) fn dispatch(class: &Class, room: &Room, launch: &Launch) -> Option<Dispatch> {
    let Spread { across, down, vector } = Spread::new(class);
    let (n, rows) = (launch.inner_len(), launch.rows());
    if n == 0 || rows == 0 {
        return Some(Dispatch { grids: smallvec![], workspace: 0 });
    }
    let leaves = launch.reduced_len().div_ceil(COLUMN_LEAF);
    let chunks = leaves.div_ceil(down).max(1);
    let x = blocks(n.div_ceil(across * vector).checked_mul(rows)? as u64)?;
    let y = u32::try_from(chunks).ok().filter(|y| *y <= 65_535)?;
    let threads = [across as u32, down as u32, 1];
    let shared = if down > 1 { 8 * room.components * across * down * vector } else { 0 } as u32;
    let mut grids: SmallVec<[Grid; 2]> = smallvec![Grid { entry: 0, blocks: [x, y, 1], threads, shared }];
    let mut workspace = 0;
    if chunks > 1 {
        grids.push(Grid { entry: 1, blocks: [x, 1, 1], threads, shared: 0 });
        workspace =
            [rows, room.components, chunks, n].iter().try_fold(8u64, |bytes, x| bytes.checked_mul(*x as u64))?;
    }
    Some(Dispatch { grids, workspace })
}
