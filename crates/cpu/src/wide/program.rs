//! What a loop or a row stage computes, as straight-line code on lanes: the instructions of a stage with the steps of
//! its reductions inlined, in the order in which they are emitted.
//!
//! A [`Program`] runs for `lanes` elements at a time. A value is *uniform* if it is the same for all elements of the
//! loop: uniform values are computed once, before the loop. It is *shared* if it is the same for all elements of one
//! iteration. Rare work ([`numfuse_core::kernel::rare`]) is a program of its own, which may have fewer lanes because
//! its dtypes are wider; the program that contains it jumps over it unless some lane needs it.

use super::asm::{Gpr, Isa};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Body, Inst, Prim};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// A node's index.
pub(super) type NodeId = u32;

/// A place's index in its program.
pub(super) type PlaceId = u32;

/// What a node does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum What {
    Prim(Prim),
    Const(Literal),
    /// The n-th parameter of the launch.
    Param(u32),
    /// A word of the frame.
    Frame(u32),
    /// The first element at a place, for all lanes.
    Splat(PlaceId),
    /// The elements at a place.
    Load(PlaceId),
    /// Writes the argument to a place.
    Store(PlaceId),
    /// Writes the first lane of the argument to a place.
    StoreFirst(PlaceId),
    /// Writes the argument, of which all lanes are the same, to a word of the frame.
    StoreFrame(u32),
    /// The n-th value that a loop carries.
    Carried(u32),
    /// An integer in a stack slot, as the node's dtype.
    Int(Slot),
    /// How many elements a lane of a leaf has folded, this one included; the leaf has `1 << shift` lanes.
    Count {
        shift: u8,
    },
    /// The argument's lanes from this one on, moved to the beginning.
    High(u8),
    /// A bool: true for the lanes below the integer in a stack slot.
    Below(Slot),
    /// A selection of the rare part that begins here.
    Rare,
    /// A quotient, see [`Program::divide`]: of the dividend and the divisor, the reciprocal, what is left of it, and the largest
    /// dividend.
    Quotient,
}

/// An offset from the stack pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(pub i32);

/// A node: an instruction on lanes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub what: What,
    /// The dtype of the result, or of what is stored.
    pub dtype: DType,
    pub args: SmallVec<[NodeId; 3]>,
}

/// Where a base address is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    Gpr(Gpr),
    /// In a stack slot.
    Spilled(Slot),
    /// It is a stack address.
    Stack(Slot),
}

/// How the elements of a place follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Adjacent, indexed by the loop.
    Unit,
    /// By the stride in a stack slot, indexed by the loop.
    Strided(Slot),
    /// One of each row, from the base on, by the stride in a stack slot, which may well be that of adjacent elements or
    /// zero: the code asks when it runs.
    Rows(Slot),
    /// Adjacent: a vector of an array, at the byte offset in RBX.
    Vectors,
    /// Adjacent, always the same ones.
    Fixed,
    /// Adjacent, indexed by the loop's index modulo this power of two.
    Lanes(u32),
}

/// Where elements are in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub base: Base,
    pub step: Step,
    pub dtype: DType,
}

/// How often a value changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Uniform,
    Shared,
    Varying,
}

/// Rare work within a program.
#[derive(Debug)]
pub(super) struct RarePart {
    /// The first of its selections, [`What::Rare`] nodes next to each other.
    pub at: NodeId,
    /// For each selection the value where the condition does not hold.
    pub otherwise: SmallVec<[NodeId; 2]>,
    pub condition: NodeId,
    /// Every node whose value it needs: the condition, the values otherwise, and more; no constants.
    pub inputs: Vec<NodeId>,
    /// Its first places are buffers of the inputs, the next ones of the selections.
    pub program: Program,
}

/// Stands for no node.
const UNUSED: NodeId = NodeId::MAX;

/// Straight-line code on lanes.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub nodes: Vec<Node>,
    pub places: Vec<Place>,
    /// What each carried value becomes.
    pub results: SmallVec<[NodeId; 4]>,
    pub rare: Vec<RarePart>,
    /// The classes of the nodes.
    pub classes: Vec<Class>,
    /// Nothing is uniform but constants: the code runs once.
    pub straight: bool,
    /// Elements at a time.
    pub lanes: usize,
    /// An upper bound of `lanes`; 0 for none.
    pub most_lanes: usize,
    /// For each node where its uses begin in `uses`; one more at the end.
    use_starts: Vec<u32>,
    /// The nodes that use each node, in order.
    uses: Vec<NodeId>,
    /// The last of them, or [`UNUSED`].
    last_uses: Vec<NodeId>,
}

impl Program {
    /// A program that runs once.
    pub fn straight(lanes: usize) -> Program {
        Program { straight: true, lanes, ..Program::default() }
    }

    pub fn push(&mut self, what: What, dtype: DType, args: &[NodeId]) -> NodeId {
        let class = match what {
            What::Const(_) => Class::Uniform,
            _ if self.straight => Class::Varying,
            What::Param(_) | What::Frame(_) | What::Splat(_) | What::Int(_) => Class::Uniform,
            What::Count { .. } => Class::Shared,
            What::Prim(_) => args.iter().map(|a| self.classes[*a as usize]).max().unwrap_or(Class::Uniform),
            _ => Class::Varying,
        };
        self.classes.push(class);
        self.nodes.push(Node { what, dtype, args: args.into() });
        self.nodes.len() as NodeId - 1
    }

    pub fn constant(&mut self, literal: Literal) -> NodeId {
        self.push(What::Const(literal), literal.dtype(), &[])
    }

    pub fn place(&mut self, place: Place) -> PlaceId {
        self.places.push(place);
        self.places.len() as PlaceId - 1
    }

    /// Appends a reducer's body.
    pub fn inline(&mut self, body: &Body, args: &[NodeId]) -> SmallVec<[NodeId; 2]> {
        let mut map: SmallVec<[NodeId; 16]> = SmallVec::new();
        for data in &body.insts {
            let id = match &data.inst {
                Inst::Arg(n) => args[*n as usize],
                Inst::Prim(prim, operands) => {
                    let operands: SmallVec<[NodeId; 3]> = operands.iter().map(|v| map[v.index()]).collect();
                    self.push(What::Prim(*prim), data.dtype, &operands)
                }
                Inst::Const(literal) => self.constant(*literal),
                // Reducers are made of these only.
                _ => self.constant(Literal::from_bits(data.dtype, 0)),
            };
            map.push(id);
        }
        body.results.iter().map(|v| map[v.index()]).collect()
    }

    /// Settles uses, and lanes unless they are settled. Nothing may be added afterwards.
    pub fn finish(&mut self, isa: Isa) {
        if self.lanes == 0 {
            self.lanes = isa.bytes() / self.widest();
            if self.most_lanes > 0 {
                self.lanes = self.lanes.min(self.most_lanes);
            }
        }
        self.use_starts = vec![0; self.nodes.len() + 1];
        for node in &self.nodes {
            for a in &node.args {
                self.use_starts[*a as usize + 1] += 1;
            }
        }
        for result in &self.results {
            self.use_starts[*result as usize + 1] += 1;
        }
        for part in &self.rare {
            for a in &part.inputs {
                self.use_starts[*a as usize + 1] += 1;
            }
        }
        for i in 0..self.nodes.len() {
            self.use_starts[i + 1] += self.use_starts[i];
        }
        let mut fill: Vec<u32> = self.use_starts[..self.nodes.len()].to_vec();
        self.uses = vec![0; self.use_starts[self.nodes.len()] as usize];
        self.last_uses = vec![UNUSED; self.nodes.len()];
        let mut rare = self.rare.iter().peekable();
        let last_uses = &mut self.last_uses;
        let mut add = |uses: &mut Vec<NodeId>, value: NodeId, user: NodeId| {
            last_uses[value as usize] = user;
            let at = &mut fill[value as usize];
            uses[*at as usize] = user;
            *at += 1;
        };
        for (i, node) in self.nodes.iter().enumerate() {
            while let Some(part) = rare.next_if(|part| part.at as usize == i) {
                for a in &part.inputs {
                    add(&mut self.uses, *a, part.at);
                }
            }
            for a in &node.args {
                add(&mut self.uses, *a, i as NodeId);
            }
        }
        for result in &self.results {
            add(&mut self.uses, *result, self.nodes.len() as NodeId);
        }
    }

    /// Which sizes of elements, 1, 2, 4 and 8 bytes, need a mask of the lanes that exist if masks are vectors: those of
    /// carried values, and those of adjacent elements that have masked loads and stores.
    pub fn lane_masks(&self) -> [bool; 4] {
        let mut sizes = [false; 4];
        for place in &self.places {
            let size = place.dtype.size();
            if size >= 4 && matches!(place.step, Step::Unit | Step::Lanes(_)) {
                sizes[size.trailing_zeros() as usize] = true;
            }
        }
        for result in &self.results {
            sizes[self.nodes[*result as usize].dtype.size().trailing_zeros() as usize] = true;
        }
        sizes
    }

    /// The size of the widest dtype that uniform nodes have.
    pub fn widest_uniform(&self) -> usize {
        let uniform = self.nodes.iter().zip(&self.classes).filter(|(_, class)| **class == Class::Uniform);
        uniform.map(|(node, _)| node.dtype.size()).max().unwrap_or(1)
    }

    /// How many nodes run for each element.
    pub fn varying(&self) -> usize {
        self.classes.iter().filter(|c| **c != Class::Uniform).count()
    }

    /// True if divisions and square roots are what its time goes by: the unit that computes them takes twice as long for
    /// vectors twice as long, which get in each other's way besides.
    pub fn waits_for_divider(&self) -> bool {
        let varying = self.nodes.iter().zip(&self.classes).filter(|(_, class)| **class != Class::Uniform);
        let is_slow = |node: &Node| {
            matches!(node.what, What::Prim(Prim::Div | Prim::Sqrt)) && matches!(node.dtype, DType::F32 | DType::F64)
        };
        8 * varying.filter(|(node, _)| is_slow(node)).count() >= self.varying().max(1)
    }

    /// The size of the widest dtype that varies.
    pub fn widest(&self) -> usize {
        let mut widest = 1;
        for (node, class) in self.nodes.iter().zip(&self.classes) {
            if *class == Class::Uniform {
                continue;
            }
            widest = widest.max(node.dtype.size());
            // A cast reads its operand, a comparison its two, even if they are uniform.
            for a in &node.args {
                widest = widest.max(self.nodes[*a as usize].dtype.size());
            }
        }
        widest
    }

    /// The nodes that use a node, in order; the number of nodes stands for the next iteration.
    pub fn uses(&self, node: NodeId) -> &[NodeId] {
        &self.uses[self.use_starts[node as usize] as usize..self.use_starts[node as usize + 1] as usize]
    }

    /// The last use of a node, if it is used.
    pub fn last_use(&self, node: NodeId) -> Option<NodeId> {
        Some(self.last_uses[node as usize]).filter(|user| *user != UNUSED)
    }

    /// How many vector values of one copy are alive at once, uniform ones not counted.
    pub fn max_live(&self, isa: Isa) -> usize {
        let mut ends = vec![0usize; self.nodes.len() + 1];
        let (mut live, mut most) = (0usize, 0);
        for (i, node) in self.nodes.iter().enumerate() {
            let mask = isa == Isa::Avx512 && node.dtype == DType::Bool;
            // Carried values have registers of their own, which the values that replace them take.
            let carried = matches!(node.what, What::Carried(_)) || self.results.contains(&(i as NodeId));
            if self.classes[i] != Class::Uniform
                && !mask
                && !carried
                && let Some(last) = self.last_use(i as NodeId)
            {
                live += 1;
                ends[last as usize] += 1;
            }
            most = most.max(live);
            live -= ends[i].min(live);
        }
        most
    }
}
