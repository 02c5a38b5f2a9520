//! Kernels without reductions: each thread computes some elements of one row.
//!
//! Long rows are cut into tiles of a block, with rows along y and z of the grid; short ones are laid end to end, so that
//! consecutive threads go from one row to the next.

use super::class::BLOCK;
use super::stage::Tile;
use super::{Class, Dispatch, Field, Grid, Group, Schedule, Unit};
use numfuse_core::kernel::StageKind;
use numfuse_core::launch::Launch;
use smallvec::smallvec;

pub(super) fn emit(unit: &mut Unit<'_>) {
    let Schedule::Map { vector, unroll, flat } = unit.class.schedule else { unreachable!("not a map") };
    let (vector, unroll) = (usize::from(vector), usize::from(unroll));
    let has_rows = unit.class.rank(Group::Outer) > 0;
    unit.open_entry("kernel_map", BLOCK as u32);
    let n = unit.fields.word(Field::Count(Group::Inner));
    unit.text.line(&format!("const idx n = (idx){n};"));
    let rows = has_rows.then(|| unit.fields.word(Field::Count(Group::Outer)));
    match &rows {
        Some(rows) if flat => {
            let vectors = unit.fields.word(Field::Vectors);
            let by = unit.fields.word(Field::VectorsDivisor);
            unit.uses.divide = true;
            unit.text.line(&format!("const i64 item = (i64)blockIdx.x * {BLOCK} + threadIdx.x;"));
            unit.text.line(&format!("if (item >= {rows} * {vectors}) return;"));
            unit.text.line(&format!("const idx row = divide((idx)item, {by});"));
            let times = if vector == 1 { String::new() } else { format!(" * {vector}") };
            unit.text.line(&format!("const idx first = ((idx)item - row * (idx){vectors}){times};"));
        }
        _ => {
            let start = format!("((idx)blockIdx.x * {} + (idx)threadIdx.x)", BLOCK * unroll);
            let times = if vector == 1 { String::new() } else { format!(" * {vector}") };
            unit.text.line(&format!("const idx first = {start}{times};"));
            unit.text.line("if (first >= n) return;");
            if let Some(rows) = rows {
                unit.text.line("const i64 at = blockIdx.y + (i64)blockIdx.z * gridDim.y;");
                unit.text.line(&format!("if (at >= {rows}) return;"));
                unit.text.line("const idx row = (idx)at;");
            }
        }
    }
    if has_rows {
        unit.indices(Group::Outer, "row", "o");
    }
    for operand in 0..unit.kernel.operands.len() {
        let word = unit.fields.word(Field::Operand(operand as u32));
        unit.row_pointer(operand, Group::Outer, "o", "r", &word);
    }
    let tile = Tile { vector, count: unroll, spacing: BLOCK * vector, aligned: true };
    for stage in 0..unit.kernel.stages.len() {
        let none = |_: u32| unreachable!("a map has no reductions");
        match unit.kernel.stages[stage].kind {
            StageKind::Row => unit.row_stage(stage, "r", &none, None),
            StageKind::Loop => {
                unit.load_tile(stage, &tile, "r");
                unit.compute_tile(stage, &tile, &none, |_| {});
                unit.store_tile(stage, &tile, "r", None);
            }
        }
    }
    unit.text.close();
}

pub(super) fn dispatch(class: &Class, launch: &Launch) -> Option<Dispatch> {
    let Schedule::Map { vector, unroll, flat } = class.schedule else { unreachable!("not a map") };
    let (n, rows) = (launch.inner_len() as u64, launch.rows() as u64);
    if n == 0 || rows == 0 {
        return Some(Dispatch { grids: smallvec![], workspace: 0 });
    }
    let block = BLOCK as u64;
    let vector = u64::from(vector);
    let blocks = if flat {
        [blocks((rows * (n / vector)).div_ceil(block))?, 1, 1]
    } else {
        let y = rows.min(MOST_ROWS);
        let z = rows.div_ceil(y);
        if z > MOST_ROWS {
            return None;
        }
        [blocks(n.div_ceil(block * vector * u64::from(unroll)))?, y as u32, z as u32]
    };
    let grid = Grid { entry: 0, blocks, threads: [BLOCK as u32, 1, 1], shared: 0 };
    Some(Dispatch { grids: smallvec![grid], workspace: 0 })
}

/// What a grid has along y and z.
pub(crate) const MOST_ROWS: u64 = 65_535;

/// Blocks along x.
pub(crate) fn blocks(count: u64) -> Option<u32> {
    u32::try_from(count).ok().filter(|count| *count < 1 << 31)
}
