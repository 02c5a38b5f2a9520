//! Decides what shares a loop: turns a graph into groups of nodes, each of which becomes one kernel.
//!
//! This is the only place that decides it. Everything that can share a loop does:
//!
//! * An elementwise node is computed where it is used. It gets a buffer (it is *stored*) only as an output, under a
//!   view that could not be moved below it, if it is a costly value of lower rank that would be computed for each
//!   element of a larger loop, if two kernels would repeat much work, or if the kernel would become too large.
//! * A reduction whose last axis is reduced runs along the rows of its operand (`Nest::Rows`); what consumes it joins
//!   the kernel if it has the same rows, so that softmax is one kernel. Other reductions run down the columns
//!   (`Nest::Columns`), and what consumes them joins if it has the shape of the result.
//! * A reduction over everything has one row: what consumes it per element has to wait for the whole of it.
//! * A product of matrices is a step of its own, which no kernel takes part in: its operands are stored, and so is it. It
//!   reads them through any views. Which kernels a back end may fuse into it, [`crate::plan::Fusible`] says.
//! * Stored nodes with the same loops join one kernel (several outputs in one pass), unless one has to wait for another.
//!
//! Invariants: nothing that a group reads depends on what the group stores; each stored node belongs to one group.

mod groups;
mod seen;

use crate::graph::NodeKind;
use crate::kernel::Nest;
use crate::ops::Op;
use crate::plan::only_adds_axes;
use crate::shape::{Dims, Shape};
use smallvec::SmallVec;

pub use groups::{Frame, Group, fuse};
pub(crate) use groups::{base_of_views, memory_of};

/// Axes of a kernel's domain, one for each dimension of a node.
pub type Axes = SmallVec<[u8; 4]>;

/// The largest number of elementwise nodes in one kernel: larger ones compile slowly and spill registers.
pub(crate) const KERNEL_NODES: f32 = 1000.0;

/// What an op costs, in primitives: enough to tell cheap from costly.
pub(crate) fn op_cost(op: Op) -> u32 {
    match op {
        Op::DIV | Op::SQRT | Op::RECIPROCAL | Op::FLOOR_DIVIDE | Op::REMAINDER | Op::FMOD => 4,
        _ if op.def().check.is_some() => 30,
        _ => 1,
    }
}

/// True if a node is a view that only adds dimensions of size 1.
pub(crate) fn is_trivial_view(kind: &NodeKind) -> bool {
    match kind {
        NodeKind::Index(_, items) => only_adds_axes(items),
        _ => false,
    }
}

/// The axes along which a dimension-adding view's operand runs, for the view's axes.
pub(crate) fn through_trivial_view(kind: &NodeKind, axes: &[u8]) -> Axes {
    use crate::graph::IndexItem;
    match kind {
        NodeKind::Index(_, items) => {
            items.iter().zip(axes).filter(|(i, _)| !matches!(i, IndexItem::NewAxis)).map(|(_, a)| *a).collect()
        }
        _ => axes.into(),
    }
}

/// The axes along which an operand of an elementwise node runs, for the node's axes: aligned at the last.
pub(crate) fn of_operand(axes: &[u8], rank: usize) -> Axes {
    axes[axes.len() - rank..].into()
}

/// The shape of a kernel's nest in words.
pub(crate) fn describe(nest: Nest, domain: &Shape, outer: usize, dims: &Dims) -> String {
    match nest {
        Nest::Rows if outer == 0 => format!("one loop over {}", dims.display(domain)),
        Nest::Rows => format!("rows {} of {}", dims.display(&domain[..outer]), dims.display(&domain[outer..])),
        Nest::Columns => format!("columns of {}", dims.display(domain)),
    }
}
