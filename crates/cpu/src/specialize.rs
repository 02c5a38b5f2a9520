//! What is compiled for a launch, where that is not the kernel of the plan with the accesses of its operands.
//!
//! * Rows of few elements become elements: see [`numfuse_core::kernel::unroll`].
//! * Inputs that many rows share, and whose elements are apart, are made adjacent first: code takes them as they are then. See
//!   `launch/shared.rs`.
//!
//! Invariant: the results are those of the kernel and launch that were given.

use crate::launch::{Place, is_shared, place};
use numfuse_core::kernel::unroll::unroll;
use numfuse_core::kernel::{Access, Kernel, Nest, StageKind};
use numfuse_core::launch::{Launch, Layout, for_each_index};

/// Rows of more elements than this keep their loops: where elements of neighbouring rows are apart, and where they are not.
const LONGEST: (usize, usize) = (32, 64);
/// And those that would take more instructions and operands than this: their code would take long to emit.
const MOST_INSTS: usize = 256;
const MOST_OPERANDS: usize = 200;
/// With fewer rows there is little to gain, and each length of a row has code of its own.
const LEAST_ROWS: usize = 128;
/// So many rows have to follow each other, to fill vectors.
const LEAST_ADJACENT: usize = 8;
/// To make the elements of an input adjacent costs about as much as some rows, and needs memory.
const SHARED_BY: usize = 8;
const SHARED_ELEMENTS: usize = 64;

/// A kernel with its launch.
#[derive(Clone, Debug)]
pub struct Specialized {
    /// The kernel: its operands have the accesses that it is to be compiled with.
    pub kernel: Kernel,
    /// Its launch.
    pub launch: Launch,
    /// For each operand the one whose memory it is in, and how many bytes after that one its first element is.
    pub operands: Vec<(usize, isize)>,
    /// How many elements the rows have that have become elements.
    pub unrolled: Option<usize>,
    /// The operands whose elements are made adjacent first.
    pub shared: Vec<usize>,
}

/// The kernel to compile for this launch, if it is another one.
pub fn specialize(kernel: &Kernel, launch: &Launch) -> Option<Specialized> {
    specialize_from(LEAST_ROWS, kernel, launch)
}

/// The same where rows become elements from so many on, so that tests need few.
#[doc(hidden)]
pub fn specialize_from(least_rows: usize, kernel: &Kernel, launch: &Launch) -> Option<Specialized> {
    let unrolled = Some(launch).filter(|at| at.rows() >= least_rows).and_then(|at| unrolled(kernel, at));
    let (current, at) = unrolled.as_ref().map_or((kernel, launch), |other| (&other.kernel, &other.launch));
    let gains = current.nest == Nest::Rows
        && current.is_elementwise()
        && at.rows() >= SHARED_BY
        && at.inner_len() >= SHARED_ELEMENTS;
    let shared: Vec<usize> =
        (0..current.operands.len()).filter(|n| gains && is_shared(&current.operands[*n], &at.layouts[*n])).collect();
    if shared.is_empty() {
        return unrolled;
    }
    let mut specialized = unrolled.unwrap_or_else(|| Specialized {
        kernel: kernel.clone(),
        launch: launch.clone(),
        operands: (0..kernel.operands.len()).map(|n| (n, 0)).collect(),
        unrolled: None,
        shared: Vec::new(),
    });
    for n in &shared {
        specialized.kernel.operands[*n].access = Access::Unit;
    }
    Some(Specialized { shared, ..specialized })
}

fn unrolled(kernel: &Kernel, launch: &Launch) -> Option<Specialized> {
    let elements = launch.inner_len();
    let (rows, outer) = launch.outer.split_last()?;
    let loops = kernel.stages.iter().filter(|stage| stage.kind == StageKind::Loop);
    let insts: usize = loops.map(|stage| stage.values().len()).sum();
    let mut operands = kernel.operands.iter().zip(&launch.layouts);
    let is_apart = operands.any(|(operand, layout)| place(operand, layout) == Place::Apart);
    let longest = if is_apart { LONGEST.0 } else { LONGEST.1 };
    let fits = (1..=longest).contains(&elements)
        && elements * insts <= MOST_INSTS
        && elements * kernel.operands.len() <= MOST_OPERANDS
        && (*rows >= LEAST_ADJACENT || outer.is_empty());
    let unrolled = if fits { unroll(kernel, elements)? } else { return None };
    let mut kernel = unrolled.kernel;
    // For each element of a row, how many bytes after the first one it is.
    let mut offsets: Vec<Vec<isize>> = vec![Vec::new(); launch.layouts.len()];
    let strides: Vec<&[isize]> = launch.layouts.iter().map(|layout| layout.inner.as_slice()).collect();
    for_each_index(&launch.inner, &strides, |at| offsets.iter_mut().zip(at).for_each(|(all, at)| all.push(*at)));
    let operands: Vec<(usize, isize)> =
        unrolled.operands.iter().map(|(n, element)| (*n, offsets[*n][*element])).collect();
    let layout = |(n, _): &(usize, isize)| {
        let (row, outer) = launch.layouts[*n].outer.split_last()?;
        Some(Layout { outer: outer.into(), reduced: Default::default(), inner: [*row].into_iter().collect() })
    };
    let launch = Launch {
        outer: outer.into(),
        reduced: Default::default(),
        inner: [*rows].into_iter().collect(),
        layouts: operands.iter().map(layout).collect::<Option<_>>()?,
    };
    launch.set_accesses(&mut kernel);
    Some(Specialized { kernel, launch, operands, unrolled: Some(elements), shared: Vec::new() })
}
