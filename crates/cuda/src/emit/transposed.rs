//! Kernels without reductions that read some operands across their rows: a block computes a square of elements, along the
//! inner dimension and the outer one along which those operands step from element to element.
//!
//! Such operands are loaded along the other dimension, in whole lines, into shared memory, and read from there in the order of
//! the results; a column more than the square has keeps the threads of a warp on different banks.

use super::map::{MOST_ROWS, blocks};
use super::prim::memory_type;
use super::stage::Places;
use super::{Class, Dispatch, Field, Grid, Group, Schedule, Unit};
use numfuse_core::kernel::{Kernel, Level, Nest, Role, StageKind};
use numfuse_core::launch::Launch;
use smallvec::smallvec;

/// Elements of a side of the square, and threads of a block along it.
const SIDE: usize = 32;
/// Threads of a block across it.
const ACROSS: usize = 8;
/// Elements of a thread.
const EACH: usize = SIDE / ACROSS;
/// Bytes of shared memory that a text may ask for without a launch doing so.
const STATIC_SHARED: usize = 48 << 10;

/// The schedule of a map, if there is something to be read across.
pub(super) fn schedule(kernel: &Kernel, launch: &Launch) -> Option<Schedule> {
    debug_assert_eq!(kernel.nest, Nest::Rows);
    if launch.inner.len() != 1 || launch.inner[0] < SIDE || kernel.operands.len() > u32::BITS as usize {
        return None;
    }
    let across = |axis: usize| {
        let mut operands = 0u32;
        for (n, (operand, layout)) in kernel.operands.iter().zip(&launch.layouts).enumerate() {
            let size = operand.dtype.size() as isize;
            let is_strided = operand.level == Level::Inner && layout.inner[0].unsigned_abs() > size.unsigned_abs();
            if operand.role == Role::In && is_strided && layout.outer[axis] == size {
                operands |= 1 << n;
            }
        }
        operands
    };
    let axes = (0..launch.outer.len()).filter(|axis| launch.outer[*axis] >= SIDE);
    let (axis, operands) = axes.map(|axis| (axis, across(axis))).max_by_key(|(_, operands)| operands.count_ones())?;
    let bytes: usize = staged(kernel, operands).map(|n| SIDE * (SIDE + 1) * kernel.operands[n].dtype.size()).sum();
    let others = launch.rows() / launch.outer[axis];
    let fits = others <= MOST_ROWS as usize && launch.outer[axis].div_ceil(SIDE) <= MOST_ROWS as usize;
    (operands != 0 && bytes <= STATIC_SHARED && fits).then_some(Schedule::Transposed { axis: axis as u8, operands })
}

/// The operands that are read across.
fn staged(kernel: &Kernel, operands: u32) -> impl Iterator<Item = usize> {
    (0..kernel.operands.len()).filter(move |n| operands >> n & 1 == 1)
}

pub(super) fn emit(unit: &mut Unit<'_>) {
    let Schedule::Transposed { axis, operands } = unit.class.schedule else { unreachable!("nothing is transposed") };
    let kernel = unit.kernel;
    let is_staged = |n: u32| operands >> n & 1 == 1;
    unit.open_entry("kernel_transposed", (SIDE * ACROSS) as u32);
    let n = unit.fields.word(Field::Count(Group::Inner));
    let size = unit.fields.word(Field::Size(Group::Outer, axis));
    unit.text.line(&format!("const idx n = (idx){n}, rows = (idx){size};"));
    unit.text.line(&format!("const idx left = (idx)blockIdx.x * {SIDE}, top = (idx)blockIdx.y * {SIDE};"));
    unit.text.line("const idx x = (idx)threadIdx.x, y = (idx)threadIdx.y;");
    other_indices(unit, axis);
    for operand in 0..kernel.operands.len() {
        let word = unit.fields.word(Field::Operand(operand as u32));
        let terms: Vec<String> = (0..unit.class.rank(Group::Outer))
            .filter(|d| *d != axis)
            .map(|d| format!("o{d} * (idx){}", unit.fields.word(Field::Stride(operand as u32, Group::Outer, d))))
            .collect();
        let offset = if terms.is_empty() { String::new() } else { format!(" + ({})", terms.join(" + ")) };
        let ty = if kernel.operands[operand].role == Role::In { "const char*" } else { "char*" };
        unit.text.line(&format!("{ty} const p{operand} = {word}{offset};"));
    }
    // What is read across, along the rows; past the edges the last ones stand in.
    for n in staged(kernel, operands) {
        let t = memory_type(kernel.operands[n].dtype);
        unit.text.line(&format!("__shared__ {t} t{n}[{SIDE}][{}];", SIDE + 1));
    }
    each(unit, |unit| {
        unit.text.line(&format!(
            "const idx i = (idx)least(left + y + u * {ACROSS}, n - 1), o = (idx)least(top + x, rows - 1);"
        ));
        for n in staged(kernel, operands) {
            let element = element(unit, n, axis);
            unit.text.line(&format!("t{n}[y + u * {ACROSS}][x] = *(const {}*)({element});", element_type(kernel, n)));
        }
    });
    let loaded: Vec<usize> =
        (0..kernel.operands.len()).filter(|n| kernel.operands[*n].role == Role::In && !is_staged(*n as u32)).collect();
    for n in &loaded {
        unit.text.line(&format!("{} x{n}[{EACH}];", element_type(kernel, *n)));
    }
    if !loaded.is_empty() {
        each(unit, |unit| {
            unit.text.line(&format!(
                "const idx i = (idx)least(left + x, n - 1), o = (idx)least(top + y + u * {ACROSS}, rows - 1);"
            ));
            for n in &loaded {
                let element = element(unit, *n, axis);
                unit.text.line(&format!("x{n}[u] = *(const {}*)({element});", element_type(kernel, *n)));
            }
        });
    }
    unit.uses.least = true;
    unit.text.line("__syncthreads();");
    let outputs: Vec<usize> = (0..kernel.operands.len()).filter(|n| kernel.operands[*n].role == Role::Out).collect();
    for n in &outputs {
        unit.text.line(&format!("{} y{n}[{EACH}];", element_type(kernel, *n)));
    }
    each(unit, |unit| {
        let load = |n: u32| if is_staged(n) { format!("t{n}[x][y + u * {ACROSS}]") } else { format!("x{n}[u]") };
        let store = |n: u32| Some(format!("y{n}[u]"));
        let none = |_: u32| unreachable!("a map has no reductions and no scratch");
        let places = Places { load: &load, store: &store, scratch: &none, reduced: &none, only: None };
        for stage in 0..kernel.stages.len() {
            debug_assert!(matches!(kernel.stages[stage].kind, StageKind::Row | StageKind::Loop));
            unit.stage(stage, &places);
        }
    });
    each(unit, |unit| {
        unit.text.line(&format!("const idx i = left + x, o = top + y + u * {ACROSS};"));
        unit.text.line("if (i >= n || o >= rows) continue;");
        for n in &outputs {
            let element = element(unit, *n, axis);
            unit.text.line(&format!("*({}*)({element}) = y{n}[u];", element_type(kernel, *n)));
        }
    });
    unit.text.close();
}

fn element_type(kernel: &Kernel, n: usize) -> &'static str {
    memory_type(kernel.operands[n].dtype)
}

/// A loop over the elements of a thread.
fn each(unit: &mut Unit<'_>, body: impl FnOnce(&mut Unit<'_>)) {
    unit.text.line("#pragma unroll");
    unit.text.open(&format!("for (int u = 0; u < {EACH}; u++)"));
    body(unit);
    unit.text.close();
}

/// The address of an operand's element `i` of row `o`.
fn element(unit: &mut Unit<'_>, n: usize, axis: u8) -> String {
    let row = unit.fields.word(Field::Stride(n as u32, Group::Outer, axis));
    let inner = if unit.kernel.operands[n].level == Level::Row {
        String::new()
    } else {
        format!(" + i * (idx){}", unit.fields.word(Field::Stride(n as u32, Group::Inner, 0)))
    };
    format!("p{n} + (o * (idx){row}{inner})")
}

/// Declares the indices along the outer dimensions but the one of the square, from the block's number along z.
fn other_indices(unit: &mut Unit<'_>, axis: u8) {
    let dims: Vec<u8> = (0..unit.class.rank(Group::Outer)).filter(|d| *d != axis).collect();
    let mut rest = "(idx)blockIdx.z".to_owned();
    for (i, d) in dims.iter().enumerate().rev() {
        if i == 0 {
            unit.text.line(&format!("const idx o{d} = {rest};"));
            break;
        }
        unit.uses.divide = true;
        let by = unit.fields.word(Field::Divisor(Group::Outer, *d));
        let size = unit.fields.word(Field::Size(Group::Outer, *d));
        unit.text.line(&format!("const idx rest{d} = divide({rest}, {by});"));
        unit.text.line(&format!("const idx o{d} = {rest} - rest{d} * (idx){size};"));
        rest = format!("rest{d}");
    }
}

pub(super) fn dispatch(class: &Class, launch: &Launch) -> Option<Dispatch> {
    let Schedule::Transposed { axis, .. } = class.schedule else { unreachable!("nothing is transposed") };
    let (n, rows) = (launch.inner_len(), launch.rows());
    if n == 0 || rows == 0 {
        return Some(Dispatch { grids: smallvec![], workspace: 0 });
    }
    let size = launch.outer[usize::from(axis)];
    let (y, z) = (size.div_ceil(SIDE), rows / size);
    if y > MOST_ROWS as usize || z > MOST_ROWS as usize {
        return None;
    }
    let grid = Grid {
        entry: 0,
        blocks: [blocks(n.div_ceil(SIDE) as u64)?, y as u32, z as u32],
        threads: [SIDE as u32, ACROSS as u32, 1],
        shared: 0,
    };
    Some(Dispatch { grids: smallvec![grid], workspace: 0 })
}
