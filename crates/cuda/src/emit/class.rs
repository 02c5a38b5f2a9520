//! How a launch is spread over threads: all that sizes, strides and addresses decide about the text of a kernel.
//!
//! The decision depends on the kernel and the launch only and never changes a bit of the results; [`Class::narrower`] is what
//! else may run where registers do not suffice, which only the compiler can tell.

use super::Group;
use crate::Error;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::reduce;
use numfuse_core::kernel::{Access, Kernel, Level, Nest, Operand, Role, StageKind};
use numfuse_core::launch::{Launch, Layout};

/// Threads of a block, unless a schedule says otherwise.
pub(super) const BLOCK: usize = 256;
/// Bytes of the widest load or store.
const WIDEST: usize = 16;
/// Bytes that each thread should have on the way at once: 2,048 threads of a multiprocessor then cover the latency of the
/// memory (Little's law; the fastest devices ask for 48 KiB).
const IN_FLIGHT: usize = 32;
/// Kernels with more primitives than this compute one element a thread: they wait for arithmetic, not for memory.
const HEAVY: usize = 96;
/// Those with more than this do not load several vectors ahead.
pub(super) const MEDIUM: usize = 24;
/// Threads that share the lanes of one leaf.
pub(super) const LEAF_THREADS: usize = 16;
/// Elements of a leaf of a row.
pub(super) const LEAF: usize = reduce::leaf(Nest::Rows);
/// Rows indices of a leaf of a column.
pub(super) const COLUMN_LEAF: usize = reduce::leaf(Nest::Columns);
/// The most leaves of one row that run side by side in a block.
const MOST_GROUPS: usize = 32;
/// Bytes of shared memory that a block may use: what the smallest of the supported devices has, less what it keeps.
const SHARED_LIMIT: usize = 96 << 10;
/// A row of more leaves than this, where there are few rows, is spread over blocks.
const LONG_ROW: usize = 64;
/// Leaves of a block of a staged kernel, if there are few and if there are many.
const STAGED_LEAVES: [u8; 2] = [16, 64];
/// So many blocks are several for each place that a device has.
const MANY_BLOCKS: usize = 2048;
/// So many rows keep a device busy, a block each.
const MANY_ROWS: usize = 256;
/// Offsets that 32 bits are enough for; what is left is room for tiles that reach beyond the end.
const NARROW: u64 = (1 << 31) - (1 << 20);

/// Which threads compute what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Schedule {
    /// Elements are independent: each thread computes some.
    Map {
        /// Elements of one load or store.
        vector: u8,
        /// Vectors of a thread.
        unroll: u8,
        /// True if rows are short, and consecutive threads go from one row to the next.
        flat: bool,
    },
    /// Elements are independent, and some operands are read across the rows: a block computes a square.
    Transposed {
        /// The outer dimension along which those operands step from one element to the next.
        axis: u8,
        /// Which operands they are: bit `n` for operand `n`.
        operands: u32,
    },
    /// A group of threads, at most a block, runs all stages of a row.
    Rows {
        /// Threads that share a leaf.
        threads: u8,
        /// Leaves side by side; more than one only for a block that has one row.
        groups: u8,
        /// True if vectors are aligned.
        aligned: bool,
    },
    /// A launch for each loop; blocks share out a row.
    Staged {
        /// True if vectors are aligned.
        aligned: bool,
        /// Leaves of a block.
        leaves: u8,
    },
    /// A thread folds one leaf of some columns.
    Columns {
        /// Threads of a block along the columns.
        across: u16,
        /// Threads of a block along the leaves.
        down: u16,
        /// Columns of a thread.
        vector: u8,
    },
}

impl Schedule {
    /// Elements of one load or store of a map, else 1.
    pub(super) fn vector(self) -> usize {
        match self {
            Schedule::Map { vector, .. } => vector.into(),
            _ => 1,
        }
    }
}

/// All that a launch decides about the text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Class {
    /// Which threads compute what.
    pub schedule: Schedule,
    /// How many dimensions the outer, the reduced, and the inner group have.
    pub ranks: [u8; 3],
    /// True if indices and offsets are 64 bits wide.
    pub wide: bool,
    /// True if threads of row kernels may load several vectors before they use the first.
    pub ahead: bool,
}

impl Class {
    /// The class of a canonical launch whose operands' first elements are at these addresses; an error if there are
    /// elements that do not lie at a multiple of their size, which no device loads.
    pub fn new(kernel: &Kernel, launch: &Launch, addresses: &[u64]) -> Result<Class, Error> {
        for ((operand, layout), address) in kernel.operands.iter().zip(&launch.layouts).zip(addresses) {
            let size = operand.dtype.size() as u64;
            let mut strides = layout.outer.iter().chain(&layout.reduced).chain(&layout.inner);
            if !address.is_multiple_of(size) || strides.any(|s| !(*s as u64).is_multiple_of(size)) {
                return Err(Error::Unsupported(format!("{} elements that are not aligned", operand.dtype)));
            }
        }
        let ranks = [launch.outer.len() as u8, launch.reduced.len() as u8, launch.inner.len() as u8];
        let wide = needs_wide(kernel, launch);
        let schedule = match kernel.nest {
            Nest::Columns => columns(kernel, launch, addresses),
            Nest::Rows if kernel.is_elementwise() => {
                super::transposed::schedule(kernel, launch).unwrap_or_else(|| map(kernel, launch, addresses))
            }
            Nest::Rows => rows(kernel, launch, addresses),
        };
        Ok(Class { schedule, ranks, wide, ahead: true })
    }

    /// A class for the same launches whose threads have fewer elements at a time, and need fewer registers for them.
    pub fn narrower(&self) -> Option<Class> {
        let schedule = match self.schedule {
            Schedule::Map { vector, unroll: 2.., flat } => Schedule::Map { vector, unroll: 1, flat },
            Schedule::Map { vector: vector @ 2.., unroll, flat } => Schedule::Map { vector: vector / 2, unroll, flat },
            Schedule::Columns { across, down, vector: vector @ 2.. } => {
                Schedule::Columns { across, down, vector: vector / 2 }
            }
            Schedule::Rows { .. } | Schedule::Staged { .. } if self.ahead => {
                return Some(Class { ahead: false, ..*self });
            }
            _ => return None,
        };
        Some(Class { schedule, ..*self })
    }

    /// How many dimensions a group has.
    pub(super) fn rank(&self, group: Group) -> u8 {
        self.ranks[group as usize]
    }
}

fn needs_wide(kernel: &Kernel, launch: &Launch) -> bool {
    let count = |sizes: &[usize]| sizes.iter().map(|s| *s as u64).fold(1, u64::saturating_mul);
    let elements =
        count(&launch.outer).saturating_mul(count(&launch.inner)).saturating_mul(count(&launch.reduced).max(1));
    let reach = |(layout, operand): (&Layout, &Operand)| {
        let groups =
            [(&launch.outer, &layout.outer), (&launch.reduced, &layout.reduced), (&launch.inner, &layout.inner)];
        let dims = groups.into_iter().flat_map(|(sizes, strides)| sizes.iter().zip(strides));
        dims.map(|(size, stride)| (*size as u64).saturating_mul(stride.unsigned_abs() as u64))
            .fold(operand.dtype.size() as u64, u64::saturating_add)
    };
    elements > NARROW || launch.layouts.iter().zip(&kernel.operands).map(reach).any(|bytes| bytes > NARROW)
}

/// The operands that step from one element to the next along the innermost dimension.
fn unit_operands<'a>(kernel: &'a Kernel, launch: &Launch) -> impl Iterator<Item = (usize, &'a Operand)> {
    let single = launch.inner.len() == 1;
    kernel
        .operands
        .iter()
        .enumerate()
        .filter(move |(_, o)| single && o.level == Level::Inner && o.access == Access::Unit)
}

/// The most elements, up to a number, that are aligned for every operand wherever a row begins.
fn aligned(kernel: &Kernel, launch: &Launch, addresses: &[u64], most: usize) -> usize {
    let mut vector = most;
    for (i, operand) in unit_operands(kernel, launch) {
        let layout = &launch.layouts[i];
        let strides = layout.outer.iter().chain(&layout.reduced).map(|s| s.unsigned_abs() as u64);
        for address in strides.chain([addresses[i]]) {
            while vector > 1 && !address.is_multiple_of((vector * operand.dtype.size()) as u64) {
                vector /= 2;
            }
        }
    }
    vector
}

/// Elements of which the widest operand fills a load.
fn full_vector(kernel: &Kernel, launch: &Launch) -> usize {
    unit_operands(kernel, launch).map(|(_, o)| o.dtype.size()).max().map_or(1, |widest| WIDEST / widest)
}

fn map(kernel: &Kernel, launch: &Launch, addresses: &[u64]) -> Schedule {
    let n = launch.inner_len();
    let ops = kernel.ops_per_element();
    let full = if ops > HEAVY { 1 } else { full_vector(kernel, launch) };
    let vector = aligned(kernel, launch, addresses, full);
    let read: usize = kernel.operands.iter().filter(|o| o.role == Role::In).map(|o| o.dtype.size()).sum();
    let unroll = if ops > MEDIUM { 1 } else { (IN_FLIGHT / (vector * read).max(1)).clamp(1, 4) };
    if !launch.outer.is_empty() && n < BLOCK * vector * unroll {
        let mut vector = vector;
        while !n.is_multiple_of(vector) {
            vector /= 2;
        }
        return Schedule::Map { vector: vector as u8, unroll: 1, flat: true };
    }
    Schedule::Map { vector: vector as u8, unroll: unroll as u8, flat: false }
}

/// Elements of a thread in one step over a leaf: the lanes of the narrowest reduction whose order matters, shared out.
pub(super) fn row_vector(kernel: &Kernel) -> usize {
    let ordered = kernel.reductions.iter().filter(|r| !r.reducer.any_order(r.dtype));
    let lanes = ordered.map(|r| reduce::lanes(Nest::Rows, r.dtype)).min();
    let lanes = lanes.unwrap_or_else(|| {
        let widest = kernel.operands.iter().map(|o| o.dtype).max_by_key(|d| d.size()).unwrap_or(DType::F64);
        reduce::lanes(Nest::Rows, widest)
    });
    lanes / LEAF_THREADS
}

fn rows(kernel: &Kernel, launch: &Launch, addresses: &[u64]) -> Schedule {
    let (n, rows) = (launch.inner_len(), launch.rows());
    let vector = row_vector(kernel);
    let aligned = aligned(kernel, launch, addresses, vector) == vector;
    let leaves = n.div_ceil(LEAF);
    if leaves <= 1 {
        // Lanes that a short row does not use need no thread.
        let threads = n.div_ceil(vector).next_power_of_two().clamp(1, LEAF_THREADS);
        return Schedule::Rows { threads: threads as u8, groups: 1, aligned };
    }
    let room = super::rows::Room::new(kernel);
    let few = rows < MANY_ROWS && leaves > LONG_ROW;
    if few || room.shared(n, 1) > SHARED_LIMIT {
        let many = rows.saturating_mul(leaves) / usize::from(STAGED_LEAVES[1]) >= MANY_BLOCKS;
        return Schedule::Staged { aligned, leaves: STAGED_LEAVES[usize::from(many)] };
    }
    let groups = leaves.next_power_of_two().min(MOST_GROUPS);
    Schedule::Rows { threads: LEAF_THREADS as u8, groups: groups as u8, aligned }
}

fn columns(kernel: &Kernel, launch: &Launch, addresses: &[u64]) -> Schedule {
    let full = if kernel.ops_per_element() > HEAVY { 1 } else { full_vector(kernel, launch).min(4) };
    let vector = aligned(kernel, launch, addresses, full);
    let leaves = launch.reduced_len().div_ceil(COLUMN_LEAF).max(1);
    let columns = launch.inner_len().div_ceil(vector).max(1);
    // A warp along the columns, unless there are fewer; more where there are not enough leaves to fill a block.
    let across = columns.next_power_of_two().min(32);
    let down = leaves.next_power_of_two().min(BLOCK / across);
    let across = (BLOCK / down).min(columns.next_power_of_two().max(32));
    Schedule::Columns { across: across as u16, down: down as u16, vector: vector as u8 }
}

/// True if an operand is loaded or stored in a stage.
pub(super) fn uses(kernel: &Kernel, stage: usize, operand: usize) -> bool {
    use numfuse_core::kernel::Inst;
    kernel.stages[stage].values().any(|v| match kernel.inst(v) {
        Inst::Load(n) | Inst::Store(n, _) => *n as usize == operand,
        _ => false,
    })
}

/// The stages that are loops.
pub(super) fn loops(kernel: &Kernel) -> impl Iterator<Item = usize> {
    kernel.stages.iter().enumerate().filter(|(_, s)| s.kind == StageKind::Loop).map(|(i, _)| i)
}
