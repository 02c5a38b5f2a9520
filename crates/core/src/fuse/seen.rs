//! What a walk over the nodes of a group has seen, so that it visits each of them once for each of its uses.
//!
//! Invariant: nothing that was noted in an earlier walk is found in a later one.

use super::Axes;
use crate::graph::NodeId;
use crate::intern::{self, Index};
use rustc_hash::FxHashSet;

/// The index of axes in [`Seen`].
pub(super) type AxesId = u32;

/// What a walk has seen. A node is nearly always seen with the same axes: the first visit is noted at the node, and only
/// further ones in a set. Kept between walks, since many of them may go over few nodes each.
#[derive(Default)]
pub(super) struct Seen {
    /// The number of this walk: what was noted in others is void.
    walk: u32,
    first: Vec<Visit>,
    more: FxHashSet<(NodeId, AxesId, bool)>,
    /// All axes met so far.
    pub axes: Vec<Axes>,
    numbering: Index,
}

/// The first visit of a node in a walk.
#[derive(Clone, Copy, Default)]
struct Visit {
    walk: u32,
    axes: AxesId,
    inside: bool,
    /// True once the node is among those that the group computes.
    is_inline: bool,
}

impl Seen {
    pub fn new(nodes: usize) -> Seen {
        Seen { first: vec![Visit::default(); nodes], ..Seen::default() }
    }

    pub fn start(&mut self) {
        self.walk += 1;
        self.more.clear();
    }

    pub fn number(&mut self, axes: &[u8]) -> AxesId {
        let new = self.axes.len() as u32;
        let id = self.numbering.id_of(intern::hash(&axes), new, |id| *self.axes[id as usize] == *axes);
        if id == new {
            self.axes.push(axes.into());
        }
        id
    }

    /// Notes a visit: true if it is new; and true if it is the first one of the node.
    pub fn visit(&mut self, node: NodeId, axes: AxesId, inside: bool) -> (bool, bool) {
        let first = &mut self.first[node.index()];
        if first.walk != self.walk {
            *first = Visit { walk: self.walk, axes, inside, is_inline: false };
            return (true, true);
        }
        let is_new = (first.axes, first.inside) != (axes, inside) && self.more.insert((node, axes, inside));
        (is_new, false)
    }

    /// Notes that the group computes a visited node: true the first time.
    pub fn compute(&mut self, node: NodeId) -> bool {
        !std::mem::replace(&mut self.first[node.index()].is_inline, true)
    }
}
