//! What a loop or a row stage computes, as straight-line code on lanes: the instructions of a stage with the steps of
//! its reductions inlined, in the order in which they are emitted.
//!
//! A [`Program`] runs for `lanes` elements at a time. A value is *uniform* if it is the same for all elements of the
//! loop: uniform values are computed once, before the loop. It is *shared* if it is the same for all elements of one
//! iteration. Rare work ([`numfuse_core::kernel::rare`]) is a program of its own, which may have fewer lanes because
//! its dtypes are wider; the program that contains it jumps over it unless some lane needs it.

use super::asm::{Gpr, Isa};
use super::routine::is_routine;
use numfuse_core::dtype::DType;
use numfuse_core::interp;
use numfuse_core::kernel::{Body, Inst, Prim, expand};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;
use std::ops::Deref;

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
    /// An operand's element of the row, for all lanes.
    Row(u32),
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
    /// A fused product of which signs are changed, see [`Program::contract`].
    Fused {
        minus_product: bool,
        minus_addend: bool,
    },
    /// Three operands combined bit by bit by a truth table, see [`Program::contract`].
    Logic(u8),
    /// A quotient, see [`Program::divide`]: of the dividend and the divisor, the reciprocal, what is left of it, and the largest
    /// dividend.
    Quotient,
    /// The n-th square root, see [`Program::balance_roots`].
    Root(u32),
}

/// An offset from the stack pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(pub i32);

/// A node: an instruction on lanes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Node {
    pub what: What,
    pub args: Args,
    /// The dtype of the result, or of what is stored.
    pub dtype: DType,
    pub class: Class,
}

/// Up to five nodes. A slice in place, so that nodes are plain data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Args {
    nodes: [NodeId; 5],
    len: u8,
}

impl Args {
    /// As many as `len`, at most five.
    #[inline]
    pub fn new(len: usize, mut node: impl FnMut(usize) -> NodeId) -> Args {
        let nodes = match len {
            0 => [0; 5],
            1 => [node(0), 0, 0, 0, 0],
            2 => [node(0), node(1), 0, 0, 0],
            3 => [node(0), node(1), node(2), 0, 0],
            _ => std::array::from_fn(|i| if i < len { node(i) } else { 0 }),
        };
        Args { nodes, len: len.min(5) as u8 }
    }
}

impl Deref for Args {
    type Target = [NodeId];

    #[inline]
    fn deref(&self) -> &[NodeId] {
        &self.nodes[..usize::from(self.len)]
    }
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
    /// Which of the [`Program::rare_programs`] does it.
    pub program: usize,
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
    /// What is to be done for them, each program once: its first places are buffers of the inputs, the next ones of the
    /// selections.
    pub rare_programs: Vec<Program>,
    /// Nothing is uniform but constants: the code runs once.
    pub straight: bool,
    /// Elements at a time.
    pub lanes: usize,
    /// An upper bound of `lanes`; 0 for none.
    pub most_lanes: usize,
    /// How many of [`super::root::PARTS`] of the [`What::Root`]s take the divider.
    pub parts_of_divider: u32,
    /// Of the copies of each [`What::Quotient`] half take it.
    pub shares_quotients: bool,
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
        self.push_args(what, dtype, Args::new(args.len(), |i| args[i]))
    }

    pub fn push_args(&mut self, what: What, dtype: DType, args: Args) -> NodeId {
        let class = match what {
            What::Const(_) => Class::Uniform,
            _ if self.straight => Class::Varying,
            What::Param(_) | What::Frame(_) | What::Row(_) | What::Splat(_) | What::Int(_) => Class::Uniform,
            What::Count { .. } => Class::Shared,
            What::Prim(_) => args.iter().map(|a| self.class(*a)).max().unwrap_or(Class::Uniform),
            _ => Class::Varying,
        };
        self.nodes.push(Node { what, args, dtype, class });
        self.nodes.len() as NodeId - 1
    }

    /// True if a user of a value runs in the loop; past the last node there is the next iteration.
    pub fn varies(&self, user: NodeId) -> bool {
        self.nodes.get(user as usize).is_none_or(|node| node.class != Class::Uniform)
    }

    /// How often a node's value changes.
    #[inline]
    pub fn class(&self, node: NodeId) -> Class {
        self.nodes[node as usize].class
    }

    /// A primitive, in instructions and calls of routines.
    pub fn prim(&mut self, isa: Isa, prim: Prim, dtype: DType, args: Args) -> NodeId {
        match expand::body(prim, dtype) {
            Some(body) if isa == Isa::Avx2 && !is_routine(prim) => self.inline(body, &args)[0],
            _ => self.push_args(What::Prim(prim), dtype, args),
        }
    }

    /// True if nobody needs a node: another one does its work.
    pub fn is_dead(&self, node: NodeId) -> bool {
        matches!(self.nodes[node as usize].what, What::Prim(_)) && self.last_use(node).is_none()
    }

    pub fn constant(&mut self, literal: Literal) -> NodeId {
        self.push(What::Const(literal), literal.dtype(), &[])
    }

    /// The rare program that does what this one does; it is added if there is none yet.
    pub fn rare_program(&mut self, program: Program) -> usize {
        let same = |known: &Program| known.nodes == program.nodes && known.places == program.places;
        self.rare_programs.iter().position(same).unwrap_or_else(|| {
            self.rare_programs.push(program);
            self.rare_programs.len() - 1
        })
    }

    pub fn place(&mut self, place: Place) -> PlaceId {
        self.places.push(place);
        self.places.len() as PlaceId - 1
    }

    /// Appends a body, of which every primitive has an instruction. What follows from constants is one.
    pub fn inline(&mut self, body: &Body, args: &[NodeId]) -> SmallVec<[NodeId; 2]> {
        let mut map: SmallVec<[NodeId; 16]> = SmallVec::new();
        for data in &body.insts {
            let id = match &data.inst {
                Inst::Arg(n) => args[*n as usize],
                Inst::Prim(prim, operands) => {
                    let operands = Args::new(operands.len(), |i| map[operands[i].index()]);
                    match self.literals(&operands) {
                        Some(literals) => self.constant(interp::eval(*prim, data.dtype, &literals)),
                        None => self.push_args(What::Prim(*prim), data.dtype, operands),
                    }
                }
                Inst::Const(literal) => self.constant(*literal),
                // Bodies are made of these only.
                _ => self.constant(Literal::from_bits(data.dtype, 0)),
            };
            map.push(id);
        }
        body.results.iter().map(|v| map[v.index()]).collect()
    }

    /// The values of nodes, if all of them are constants.
    fn literals(&self, nodes: &[NodeId]) -> Option<SmallVec<[Literal; 3]>> {
        let literal = |node: &NodeId| match self.nodes[*node as usize].what {
            What::Const(literal) => Some(literal),
            _ => None,
        };
        nodes.iter().map(literal).collect()
    }

    /// Settles uses, and lanes unless they are settled. Nothing may be added afterwards.
    pub fn finish(&mut self, isa: Isa) {
        self.balance_roots(isa);
        self.share_quotients();
        if self.lanes == 0 {
            self.lanes = isa.bytes() / self.widest();
            if self.most_lanes > 0 {
                self.lanes = self.lanes.min(self.most_lanes);
            }
        }
        let count = self.nodes.len();
        // First how many uses there are, then where they end; then they are filled in from the last to the first.
        let mut starts = vec![0u32; count + 1];
        for node in &self.nodes {
            for a in &*node.args {
                starts[*a as usize] += 1;
            }
        }
        for a in self.rare.iter().flat_map(|part| &part.inputs).chain(&self.results) {
            starts[*a as usize] += 1;
        }
        self.contract(isa, &mut starts);
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        self.uses = vec![0; total as usize];
        self.last_uses = vec![UNUSED; count];
        let (uses, last_uses) = (&mut self.uses, &mut self.last_uses);
        let mut add = |value: NodeId, user: NodeId| {
            let (last, at) = (&mut last_uses[value as usize], &mut starts[value as usize]);
            if *last == UNUSED {
                *last = user;
            }
            *at -= 1;
            uses[*at as usize] = user;
        };
        for result in &self.results {
            add(*result, count as NodeId);
        }
        let mut parts = self.rare.iter().rev().peekable();
        for (i, node) in self.nodes.iter().enumerate().rev() {
            for a in &*node.args {
                add(*a, i as NodeId);
            }
            while let Some(part) = parts.next_if(|part| part.at as usize == i) {
                for a in &part.inputs {
                    add(*a, part.at);
                }
            }
        }
        self.use_starts = starts;
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
        let uniform = self.nodes.iter().filter(|node| node.class == Class::Uniform);
        uniform.map(|node| node.dtype.size()).max().unwrap_or(1)
    }

    /// How many nodes run for each element.
    pub fn varying(&self) -> usize {
        self.nodes.iter().filter(|node| node.class != Class::Uniform).count()
    }

    /// True if divisions are what its time goes by: the unit that computes them takes twice as long for vectors twice as
    /// long, which get in each other's way besides.
    pub fn waits_for_divider(&self) -> bool {
        let varying = self.nodes.iter().filter(|node| node.class != Class::Uniform);
        let is_slow = |node: &&Node| node.what == What::Prim(Prim::Div) && node.dtype.is_float();
        8 * varying.filter(is_slow).count() >= self.varying().max(1)
    }

    /// The size of the widest dtype that varies.
    pub fn widest(&self) -> usize {
        let mut widest = 1;
        for node in self.nodes.iter().filter(|node| node.class != Class::Uniform) {
            widest = widest.max(node.dtype.size());
            // A cast reads its operand, a comparison its two, even if they are uniform.
            for a in &*node.args {
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

    /// How many vector values of one copy are alive at once, uniform ones not counted; what a node computes comes with
    /// all of its operands.
    pub fn max_live(&self, isa: Isa) -> usize {
        self.liveness(isa).map(|(with_operands, _)| with_operands).max().unwrap_or(0)
    }

    /// The same when nodes are done: what registers copies that go on node by node really need.
    pub fn most_left(&self, isa: Isa) -> usize {
        self.liveness(isa).map(|(_, after)| after).max().unwrap_or(0)
    }

    /// True if each node is an instruction or two of floats, or of their bits, that need no registers besides their
    /// operands and their result.
    pub fn is_plain(&self) -> bool {
        let Some(size) = self.nodes.iter().map(|node| node.dtype.size()).max() else { return false };
        let is_plain = |node: &Node| {
            let operands = node.args.iter().map(|a| self.nodes[*a as usize].dtype);
            let sizes_fit = operands.chain([node.dtype]).all(|dtype| dtype == DType::Bool || dtype.size() == size);
            let has_form = match node.what {
                What::Prim(Prim::And | Prim::Or | Prim::Xor | Prim::Bitcast) => true,
                What::Prim(Prim::Cast | Prim::Rem | Prim::Scale | Prim::Shl | Prim::Shr) => false,
                What::Prim(prim) if is_routine(prim) => false,
                What::Prim(_) => node.args.iter().all(|a| !self.nodes[*a as usize].dtype.is_int()),
                What::Load(place) | What::Store(place) => self.places[place as usize].step == Step::Unit,
                What::Fused { .. } | What::Logic(_) | What::Carried(_) => true,
                _ => false,
            };
            node.class == Class::Uniform || (sizes_fit && has_form)
        };
        self.rare.is_empty() && self.nodes.iter().all(is_plain)
    }

    /// For each node how many vector values of one copy are alive: with its operands, and when it is done.
    fn liveness(&self, isa: Isa) -> impl Iterator<Item = (usize, usize)> {
        let mut ends = vec![0usize; self.nodes.len() + 1];
        let mut live = 0usize;
        self.nodes.iter().enumerate().map(move |(i, node)| {
            let mask = isa == Isa::Avx512 && node.dtype == DType::Bool;
            // Carried values have registers of their own, which the values that replace them take.
            let carried = matches!(node.what, What::Carried(_)) || self.results.contains(&(i as NodeId));
            if node.class != Class::Uniform
                && !mask
                && !carried
                && let Some(last) = self.last_use(i as NodeId)
            {
                live += 1;
                ends[last as usize] += 1;
            }
            let with_operands = live;
            live -= ends[i].min(live);
            (with_operands, live)
        })
    }
}
