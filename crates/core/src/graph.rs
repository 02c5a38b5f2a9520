//! The graph: what is to be computed, typed when it is made, every distinct computation once.
//!
//! # Invariants (checked by [`verify`])
//!
//! * Operands precede their users: a node's operands have smaller ids. Walks are loops over ids, never recursion.
//! * Hash-consing: no two nodes are equal, so equal computations are the same [`NodeId`].
//! * An `Apply` has operands of exactly the dtypes that its row computes in ([`crate::ops::resolve`]); casts are
//!   explicit. Shapes broadcast implicitly, as NumPy's; what that asks of unknown sizes is in [`Dims::constraints`].
//! * A weak node is a literal, a size, a weak input, or computed from such alone; its dtype is bool, i64 or f64.
//!
//! The methods that make nodes take the user's view (any dtypes, negative axes) and return a diagnostic when it is
//! wrong; `lang` and the facade add the place. The printed form ([`mod@print`]) reads back ([`parse`]).

pub mod parse;
pub mod print;
pub mod verify;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::dtype::{DType, Kind};
use crate::intern::{self, Index};
use crate::kernel::Reducer;
use crate::literal::Literal;
use crate::ops::{self, ArgType, Composite, Op, OpKind, Product, Types};
use crate::shape::{ConstraintKind, DimId, Dims, MAX_RANK, Shape, Slice, in_range, out_of_range};
use smallvec::SmallVec;
use std::fmt;

/// A node of a [`Graph`]; prints as `n7`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One item of a basic index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndexItem {
    /// One index: the dimension goes away.
    At(i64),
    /// A slice: the dimension stays.
    Slice(Slice),
    /// `None`: a new dimension of size 1.
    NewAxis,
}

/// The items of an index. On the heap, since they are large and few nodes have any.
pub type Items = Box<[IndexItem]>;

/// What a node computes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NodeKind {
    /// The n-th input.
    Input(u32),
    /// A scalar.
    Const(Literal),
    /// The number of elements of these dimensions, as a weak `i64` scalar.
    Size(SmallVec<[DimId; 2]>),
    /// An elementwise op.
    Apply(Op, SmallVec<[NodeId; 3]>),
    /// Conversion to the node's dtype.
    Cast(NodeId),
    /// A fold along these axes, ascending and not empty; the axes go away.
    Reduce(Reducer, NodeId, SmallVec<[u8; 4]>),
    /// The matrix product of two arrays of floats, over their last two dimensions; those before are broadcast. Products
    /// with vectors and products of integers are sums of products instead, which fuse with what is around them.
    Matmul([NodeId; 2]),
    /// Dimensions in another order: dimension `i` of the result is dimension `perm[i]` of the operand.
    Transpose(NodeId, SmallVec<[u8; 4]>),
    /// A basic index with one item for each dimension of the operand, besides new axes.
    Index(NodeId, Items),
}

/// A node: what it computes and the type of the result.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// What it computes.
    pub kind: NodeKind,
    /// The element type of the result.
    pub dtype: DType,
    /// True if the dtype gives way to that of any array; see [`ops::ArgType`].
    pub weak: bool,
    /// The shape of the result.
    pub shape: Shape,
}

impl Node {
    /// The nodes that it uses.
    pub fn operands(&self) -> &[NodeId] {
        match &self.kind {
            NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_) => &[],
            NodeKind::Apply(_, args) => args,
            NodeKind::Matmul(operands) => operands,
            NodeKind::Cast(x) | NodeKind::Reduce(_, x, _) | NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => {
                std::slice::from_ref(x)
            }
        }
    }

    /// The nodes that it uses, to be replaced by others of the same types.
    pub(crate) fn operands_mut(&mut self) -> &mut [NodeId] {
        match &mut self.kind {
            NodeKind::Input(_) | NodeKind::Const(_) | NodeKind::Size(_) => &mut [],
            NodeKind::Apply(_, args) => args,
            NodeKind::Matmul(operands) => operands,
            NodeKind::Cast(x) | NodeKind::Reduce(_, x, _) | NodeKind::Transpose(x, _) | NodeKind::Index(x, _) => {
                std::slice::from_mut(x)
            }
        }
    }
}

/// An input of a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: NodeId,
}

/// A condition on values that must not be true anywhere, and the error if it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// A bool scalar.
    pub node: NodeId,
    /// What to report when it is true.
    pub error: Diagnostic,
}

/// A computation: inputs, nodes, outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    interned: Index,
    inputs: Vec<Input>,
    /// What is to be computed, in order; may name a node more than once.
    pub outputs: Vec<NodeId>,
    /// What must not happen at run time.
    pub guards: Vec<Guard>,
    /// The dimensions of the nodes' shapes.
    pub dims: Dims,
    /// Where in the text the nodes being made come from; constraints remember it.
    pub site: Option<Span>,
}

/// Options of a reduction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReduceOptions {
    /// The axes to reduce, negative from the end; all of them if none are given.
    pub axes: Option<SmallVec<[i64; 4]>>,
    /// Whether reduced dimensions stay with size 1.
    pub keepdims: bool,
    /// What `var` and `std` take from the count.
    pub ddof: i64,
}

type Result<T = NodeId> = std::result::Result<T, Diagnostic>;

impl Graph {
    /// An empty graph. With `symbol_hints` it is built for a call with these sizes; see [`crate::shape`].
    pub fn new(symbol_hints: Option<Vec<u64>>) -> Graph {
        Graph { dims: Dims::new(symbol_hints), ..Graph::default() }
    }

    /// The node of an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All ids, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The inputs, in the order in which they were made.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The constant that a node is, if it is one.
    pub fn as_const(&self, id: NodeId) -> Option<Literal> {
        match self.node(id).kind {
            NodeKind::Const(literal) => Some(literal),
            _ => None,
        }
    }

    // Making nodes, as the user sees it.

    /// A new input. Scalars (no dimensions) may be weak.
    pub fn input(&mut self, name: &str, dtype: DType, weak: bool, shape: &[DimId]) -> Result {
        if shape.len() > MAX_RANK {
            return Err(rank_error(shape.len()));
        }
        Ok(self.declare(name, dtype, weak, shape.into()))
    }

    /// A constant; literals of the text are weak.
    pub fn constant(&mut self, literal: Literal, weak: bool) -> NodeId {
        let dtype = literal.dtype();
        self.intern(Node { kind: NodeKind::Const(literal), dtype, weak, shape: Shape::new() })
    }

    /// An op of operands of any dtypes: elementwise, of shapes that broadcast; a product; or a reduction of all elements.
    pub fn apply(&mut self, op: Op, args: &[NodeId]) -> Result {
        let def = op.def();
        if def.is_reduction() {
            return self.reduce(op, args[0], &ReduceOptions::default());
        }
        if args.len() != def.params.len() {
            return Err(arity_error(op, args.len()));
        }
        if let OpKind::Product(product) = def.kind {
            return self.product(op, product, [args[0], args[1]]);
        }
        let types: SmallVec<[ArgType; 3]> = args.iter().map(|a| self.arg_type_in(op, *a, args)).collect();
        let signature = ops::resolve(op, &types)?;
        let mut cast: SmallVec<[NodeId; 3]> = SmallVec::new();
        for (arg, dtype) in args.iter().zip(&signature.args) {
            cast.push(self.implicit_cast(*arg, *dtype)?);
        }
        if op == Op::POW && signature.result.dtype.is_int() {
            self.guard_exponent(cast[1])?;
        }
        self.apply_exact(op, cast, signature.result)
    }

    /// Conversion to `dtype`.
    pub fn cast(&mut self, x: NodeId, dtype: DType) -> NodeId {
        let node = self.node(x);
        if node.dtype == dtype && !node.weak {
            return x;
        }
        if let NodeKind::Const(literal) = node.kind {
            return self.constant(literal.cast(dtype), false);
        }
        let shape = node.shape.clone();
        self.intern(Node { kind: NodeKind::Cast(x), dtype, weak: false, shape })
    }

    /// A reduction by its row in the table.
    pub fn reduce(&mut self, op: Op, x: NodeId, options: &ReduceOptions) -> Result {
        let def = op.def();
        let axes = self.axes(x, options.axes.as_deref())?;
        let node = self.node(x);
        let signature = ops::resolve(op, &[ArgType { dtype: node.dtype, weak: node.weak }])?;
        let dtype = signature.args[0];
        let x = self.implicit_cast(x, dtype)?;
        let reduced = match def.kind {
            OpKind::Elementwise(_) | OpKind::Product(_) => {
                return Err(Diagnostic::new(Code::Internal, format!("`{op}` is no reduction")));
            }
            OpKind::Reduce(reducer) => {
                // The least and the greatest truth value are `all` and `any`.
                let reducer = match (reducer, dtype) {
                    (Reducer::Min, DType::Bool) => Reducer::All,
                    (Reducer::Max, DType::Bool) => Reducer::Any,
                    _ => reducer,
                };
                if matches!(def.kind, OpKind::Reduce(Reducer::Min | Reducer::Max)) && !axes.is_empty() {
                    let dims = axes.iter().map(|a| self.node(x).shape[*a as usize]).collect();
                    self.dims.require(ConstraintKind::NonEmpty(dims, def.name), self.site);
                }
                self.fold(reducer, x, &axes)
            }
            OpKind::Composite(composite) => self.composite(composite, x, &axes, options.ddof)?,
        };
        if !options.keepdims {
            return Ok(reduced);
        }
        let rank = self.node(x).shape.len();
        let items = (0..rank as u8)
            .map(|a| if axes.contains(&a) { IndexItem::NewAxis } else { IndexItem::Slice(Slice::ALL) })
            .collect();
        self.index_exact(reduced, items)
    }

    /// A product of vectors and matrices: a node of its own if both are matrices of floats, else a sum of products.
    fn product(&mut self, op: Op, product: Product, operands: [NodeId; 2]) -> Result {
        let ranks = operands.map(|x| self.rank(x));
        match product {
            Product::Dot if ranks.contains(&0) => return self.apply(Op::MUL, &operands),
            Product::Dot if ranks.iter().any(|rank| *rank > 2) => {
                let error = Diagnostic::new(Code::MatrixProduct, "`dot` of an array of more than 2 dimensions");
                return Err(error.hint("for stacks of matrices write `x @ y`"));
            }
            Product::Matmul if ranks.contains(&0) => {
                let error = Diagnostic::new(Code::MatrixProduct, "a scalar has no matrix product");
                return Err(error.hint("to multiply each element write `x * y`"));
            }
            Product::Matmul | Product::Dot => {}
        }
        let signature =
            ops::resolve(op, &operands.map(|x| ArgType { dtype: self.node(x).dtype, weak: self.node(x).weak }))?;
        let [x, y] = operands;
        let (x, y) = (self.implicit_cast(x, signature.args[0])?, self.implicit_cast(y, signature.args[1])?);
        let [left, right] = [x, y].map(|x| self.node(x).shape.clone());
        self.dims.contract(&left, &right, self.site)?;
        let ArgType { dtype, weak } = signature.result;
        match (left.as_slice(), right.as_slice()) {
            ([outer_left @ .., m, _], [outer_right @ .., _, n]) if dtype.is_float() => {
                let mut shape = self.dims.broadcast_shapes(outer_left, outer_right, self.site)?;
                shape.extend([*m, *n]);
                Ok(self.intern(Node { kind: NodeKind::Matmul([x, y]), dtype, weak, shape }))
            }
            // What is transposed is read as it lies.
            ([_, _], [_]) if let Some(x) = self.transposed(x) => self.sum_of_products(y, x, signature.result),
            ([_], [_, _]) if let Some(y) = self.transposed(y) => self.sum_of_products(y, x, signature.result),
            _ => self.sum_of_products(x, y, signature.result),
        }
    }

    /// The matrix of which a matrix is the transpose, if it is known to be one.
    fn transposed(&self, x: NodeId) -> Option<NodeId> {
        match self.node(x).kind {
            NodeKind::Transpose(x, _) if self.rank(x) == 2 => Some(x),
            _ => None,
        }
    }

    /// A matrix product as a reduction: of a vector with a vector or a matrix, and of what is not of floats.
    fn sum_of_products(&mut self, x: NodeId, y: NodeId, result: ArgType) -> Result {
        // The products have the dimensions of a matrix on the left, then those of one on the right less the first two.
        let (left, right) = (self.rank(x), self.rank(y));
        let (x, y, axis) = match (left, right) {
            (_, 1) => (x, y, left - 1),
            (1, _) => (self.index(x, &[IndexItem::Slice(Slice::ALL), IndexItem::NewAxis])?, y, right - 2),
            _ => {
                let whole = |rank: usize| std::iter::repeat_n(IndexItem::Slice(Slice::ALL), rank);
                let new = [IndexItem::NewAxis];
                let column = self.index_exact(x, whole(left).chain(new).collect())?;
                let row = self.index_exact(y, whole(right - 2).chain(new).chain(whole(2)).collect())?;
                (column, row, left.max(right) - 1)
            }
        };
        let products = self.apply_exact(Op::MUL, SmallVec::from_slice(&[x, y]), result)?;
        // As `+` of bools is `or`.
        let reducer = if result.dtype == DType::Bool { Reducer::Any } else { Reducer::Sum };
        Ok(self.fold(reducer, products, &[axis as u8]))
    }

    /// Dimensions in another order: all reversed if none is given.
    pub fn transpose(&mut self, x: NodeId, perm: Option<&[i64]>) -> Result {
        let rank = self.node(x).shape.len();
        let perm: SmallVec<[u8; 4]> = match perm {
            None => (0..rank as u8).rev().collect(),
            Some(perm) => {
                let resolved = self.resolve_axes(rank, perm)?;
                if resolved.len() != rank {
                    return Err(Diagnostic::new(
                        Code::Axis,
                        format!("{} axes for an array of rank {rank}", resolved.len()),
                    )
                    .why("a transposition names every axis once"));
                }
                resolved
            }
        };
        if perm.iter().enumerate().all(|(i, p)| i == *p as usize) {
            return Ok(x);
        }
        let Node { dtype, weak, ref shape, .. } = *self.node(x);
        let shape = perm.iter().map(|p| shape[*p as usize]).collect();
        Ok(self.intern(Node { kind: NodeKind::Transpose(x, perm), dtype, weak, shape }))
    }

    /// A basic index: items for the first dimensions; the rest are taken whole. An ellipsis is the caller's to expand
    /// (see [`Graph::rank`]).
    pub fn index(&mut self, x: NodeId, items: &[IndexItem]) -> Result {
        let rank = self.rank(x);
        let used = items.iter().filter(|i| !matches!(i, IndexItem::NewAxis)).count();
        if used > rank {
            return Err(Diagnostic::new(Code::Index, format!("{used} indices for an array of rank {rank}"))
                .why("each index or slice takes one dimension"));
        }
        let rest = (used..rank).map(|_| IndexItem::Slice(Slice::ALL));
        self.index_exact(x, items.iter().copied().chain(rest).collect())
    }

    /// The number of dimensions.
    pub fn rank(&self, x: NodeId) -> usize {
        self.node(x).shape.len()
    }

    // Making nodes of exact types; used by the methods above, by the rewrites, and by the reader of printed graphs.

    /// The node equal to this one; made if there is none. The caller answers for its type.
    pub fn intern(&mut self, node: Node) -> NodeId {
        let new = self.nodes.len() as u32;
        let id = self.interned.id_of(hash(&node), new, |id| self.nodes[id as usize] == node);
        if id == new {
            self.nodes.push(node);
        }
        NodeId(id)
    }

    /// A new graph of the nodes that outputs and guards need, in order, each through `make`, which gets the new graph,
    /// the old id, and the node with its operands already renamed. Inputs come first and in order, needed or not.
    pub(crate) fn rebuild(self, mut make: impl FnMut(&mut Graph, NodeId, Node) -> NodeId) -> Graph {
        let live = self.live();
        let mut renamed = vec![NodeId(u32::MAX); self.nodes.len()];
        let Graph { nodes, inputs, outputs, guards, dims, .. } = self;
        let mut new = Graph { nodes: Vec::with_capacity(nodes.len()), dims, ..Graph::default() };
        for Input { name, node } in inputs {
            let Node { dtype, weak, ref shape, .. } = nodes[node.index()];
            renamed[node.index()] = new.declare(name, dtype, weak, shape.clone());
        }
        for (i, mut node) in nodes.into_iter().enumerate().filter(|(i, _)| live[*i]) {
            if matches!(node.kind, NodeKind::Input(_)) {
                continue;
            }
            for operand in node.operands_mut() {
                *operand = renamed[operand.index()];
            }
            renamed[i] = make(&mut new, NodeId(i as u32), node);
        }
        new.outputs = outputs.into_iter().map(|o| renamed[o.index()]).collect();
        new.guards = guards.into_iter().map(|g| Guard { node: renamed[g.node.index()], error: g.error }).collect();
        new
    }

    /// The graph without the nodes that no output and no guard needs; inputs stay.
    pub(crate) fn without_dead_nodes(self) -> Graph {
        self.rebuild(|new, _, node| new.intern(node))
    }

    /// Which nodes outputs and guards need.
    pub(crate) fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for root in self.outputs.iter().chain(self.guards.iter().map(|g| &g.node)) {
            live[root.index()] = true;
        }
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if live[i] {
                for operand in node.operands() {
                    live[operand.index()] = true;
                }
            }
        }
        live
    }

    /// A new input whose rank is in bounds.
    pub fn declare(&mut self, name: impl Into<String>, dtype: DType, weak: bool, shape: Shape) -> NodeId {
        let kind = NodeKind::Input(self.inputs.len() as u32);
        let node = self.intern(Node { kind, dtype, weak, shape });
        self.inputs.push(Input { name: name.into(), node });
        node
    }

    /// An elementwise op of operands that have the dtypes of its signature already.
    pub fn apply_exact(&mut self, op: Op, args: SmallVec<[NodeId; 3]>, result: ArgType) -> Result {
        let mut shape = self.node(args[0]).shape.clone();
        for arg in &args[1..] {
            let other = &self.nodes[arg.index()].shape;
            if *other != shape {
                shape = self.dims.broadcast_shapes(&shape, other, self.site)?;
            }
        }
        Ok(self.intern(Node { kind: NodeKind::Apply(op, args), dtype: result.dtype, weak: result.weak, shape }))
    }

    /// An index with one item for each dimension.
    pub fn index_exact(&mut self, x: NodeId, items: Items) -> Result {
        let Node { dtype, weak, shape: ref from, .. } = *self.node(x);
        let from = from.clone();
        let mut dims = from.iter();
        let mut shape = Shape::new();
        for item in &items {
            if let IndexItem::NewAxis = item {
                shape.push(self.dims.fixed(1));
                continue;
            }
            let Some(dim) = dims.next() else {
                return Err(Diagnostic::new(Code::Internal, "an index with more items than dimensions"));
            };
            match item {
                IndexItem::At(index) => match self.dims.known(*dim) {
                    Some(size) if !in_range(*index, size) => return Err(out_of_range(*index, size, self.site)),
                    Some(_) => {}
                    None => self.dims.require(ConstraintKind::InRange(*dim, *index), self.site),
                },
                IndexItem::Slice(slice) => shape.push(self.dims.sliced(*dim, *slice)),
                IndexItem::NewAxis => {}
            }
        }
        if shape.len() > MAX_RANK {
            return Err(rank_error(shape.len()));
        }
        if items.iter().all(|i| *i == IndexItem::Slice(Slice::ALL)) {
            return Ok(x);
        }
        Ok(self.intern(Node { kind: NodeKind::Index(x, items), dtype, weak, shape }))
    }

    /// A fold along axes that are in range, ascending and distinct.
    pub fn fold(&mut self, reducer: Reducer, x: NodeId, axes: &[u8]) -> NodeId {
        if axes.is_empty() && reducer != Reducer::Moments {
            return x;
        }
        let Node { dtype, weak, ref shape, .. } = *self.node(x);
        let shape = (0..shape.len() as u8).filter(|a| !axes.contains(a)).map(|a| shape[a as usize]).collect();
        self.intern(Node { kind: NodeKind::Reduce(reducer, x, axes.into()), dtype, weak, shape })
    }

    // Helpers.

    fn composite(&mut self, composite: Composite, x: NodeId, axes: &[u8], ddof: i64) -> Result {
        let Node { dtype, ref shape, .. } = *self.node(x);
        let dims: SmallVec<[DimId; 2]> = axes.iter().map(|a| shape[*a as usize]).collect();
        let count = match dims.iter().map(|d| self.dims.known(*d)).try_fold(1u64, |n, d| n.checked_mul(d?)) {
            Some(n) => self.constant(Literal::i64(n as i64), true),
            None => {
                self.intern(Node { kind: NodeKind::Size(dims), dtype: DType::I64, weak: true, shape: Shape::new() })
            }
        };
        match composite {
            Composite::Mean => {
                let sum = self.fold(Reducer::Sum, x, axes);
                let count = self.cast(count, dtype);
                self.apply(Op::DIV, &[sum, count])
            }
            Composite::Var => {
                let moments = if axes.is_empty() {
                    // The deviation of a single element from itself: 0, or NaN where it is not finite.
                    self.apply(Op::SUB, &[x, x])?
                } else {
                    self.fold(Reducer::Moments, x, axes)
                };
                let ddof = self.constant(Literal::i64(ddof), true);
                let degrees = self.apply(Op::SUB, &[count, ddof])?;
                let zero = self.constant(Literal::i64(0), true);
                let degrees = self.apply(Op::MAXIMUM, &[degrees, zero])?;
                let degrees = self.cast(degrees, dtype);
                self.apply(Op::DIV, &[moments, degrees])
            }
            Composite::Std => {
                let variance = self.composite(Composite::Var, x, axes, ddof)?;
                self.apply(Op::SQRT, &[variance])
            }
        }
    }

    /// Axes as given by the user: in range, ascending, distinct; all of them for none.
    fn axes(&self, x: NodeId, axes: Option<&[i64]>) -> Result<SmallVec<[u8; 4]>> {
        let rank = self.rank(x);
        match axes {
            None => Ok((0..rank as u8).collect()),
            Some(axes) => {
                let mut axes = self.resolve_axes(rank, axes)?;
                axes.sort_unstable();
                Ok(axes)
            }
        }
    }

    fn resolve_axes(&self, rank: usize, axes: &[i64]) -> Result<SmallVec<[u8; 4]>> {
        let mut resolved: SmallVec<[u8; 4]> = SmallVec::new();
        for axis in axes {
            if !in_range(*axis, rank as u64) {
                let error = Diagnostic::new(Code::Axis, format!("axis {axis} of an array of rank {rank}"));
                return Err(if rank == 0 {
                    error.why("a scalar has no axes")
                } else {
                    error.why(format!("axes go from -{rank} to {}", rank - 1))
                });
            }
            let axis = if *axis < 0 { axis + rank as i64 } else { *axis } as u8;
            if resolved.contains(&axis) {
                return Err(Diagnostic::new(Code::Axis, format!("axis {axis} is named twice")));
            }
            resolved.push(axis);
        }
        Ok(resolved)
    }

    /// The operand's type as `op` sees it. A literal that a comparison's other side cannot represent keeps its own
    /// dtype, so that `u8_array < 300` is true rather than an error.
    fn arg_type_in(&self, op: Op, arg: NodeId, args: &[NodeId]) -> ArgType {
        let Node { dtype, weak, .. } = *self.node(arg);
        let strong = ArgType { dtype, weak };
        if !weak || op.def().types != Types::Compare {
            return strong;
        }
        let Some(literal) = self.as_const(arg).filter(|l| l.dtype().kind() == Kind::Int) else { return strong };
        let common =
            ops::promote(args.iter().map(|a| ArgType { dtype: self.node(*a).dtype, weak: self.node(*a).weak }));
        let fits = !common.dtype.is_int() || fits(literal, common.dtype);
        ArgType { dtype, weak: fits }
    }

    /// A cast that promotion asks for. An integer literal has to fit the integer dtype that it meets.
    fn implicit_cast(&mut self, x: NodeId, dtype: DType) -> Result {
        let node = self.node(x);
        if node.dtype == dtype {
            return Ok(x);
        }
        let weak = node.weak;
        // What took another dtype from an array does not give way again.
        let stays_weak = weak && matches!(dtype, DType::Bool | DType::I64 | DType::F64);
        if let NodeKind::Const(literal) = node.kind {
            if weak && dtype.is_int() && literal.dtype().kind() == Kind::Int && !fits(literal, dtype) {
                return Err(Diagnostic::new(Code::LiteralRange, format!("{literal} does not fit {dtype}"))
                    .why(format!(
                        "a literal takes the dtype of the array it meets; {dtype} holds {} to {}",
                        Literal::min_of(dtype),
                        Literal::max_of(dtype)
                    ))
                    .hint(format!("convert the array first, as in `i64(x)`, or wrap the literal on purpose with `{dtype}({literal})`")));
            }
            return Ok(self.constant(literal.cast(dtype), stays_weak));
        }
        let (from, shape) = (node.dtype, node.shape.clone());
        let cast = self.intern(Node { kind: NodeKind::Cast(x), dtype, weak: stays_weak, shape });
        if weak && from == DType::I64 && dtype.is_int() {
            self.guard_number(x, cast)?;
        }
        Ok(cast)
    }

    /// A number given with a call is held to what a literal is: it has to fit the integer dtype that it meets, which only
    /// its value can tell.
    fn guard_number(&mut self, x: NodeId, cast: NodeId) -> Result<()> {
        let dtype = self.node(cast).dtype;
        // 64 bits without a sign hold all but the negative numbers; from fewer bits another number comes back.
        let differs = if dtype == DType::U64 {
            let zero = self.constant(Literal::i64(0), true);
            self.apply(Op::LESS, &[x, zero])?
        } else {
            let back = self.cast(cast, DType::I64);
            self.apply(Op::NOT_EQUAL, &[x, back])?
        };
        let axes: SmallVec<[u8; 4]> = (0..self.rank(differs) as u8).collect();
        let node = self.fold(Reducer::Any, differs, &axes);
        let error = Diagnostic::new(Code::LiteralRange, format!("a number does not fit {dtype}"))
            .why(format!(
                "a plain number takes the dtype of the array it meets; {dtype} holds {} to {}",
                Literal::min_of(dtype),
                Literal::max_of(dtype)
            ))
            .hint("convert the array first, as in `i64(x)`");
        self.guard(node, error, "the number is used here");
        Ok(())
    }

    /// Refuses the evaluation when a bool scalar is true.
    fn guard(&mut self, node: NodeId, error: Diagnostic, label: &str) {
        if !self.guards.iter().any(|g| g.node == node) {
            let error = match self.site {
                Some(span) => error.at(span, label),
                None => error,
            };
            self.guards.push(Guard { node, error });
        }
    }

    /// Integers have no negative powers: refused at once for a constant exponent, at run time otherwise.
    fn guard_exponent(&mut self, exponent: NodeId) -> Result<()> {
        let Node { dtype, weak, ref shape, .. } = *self.node(exponent);
        let error = Diagnostic::new(Code::NegativeIntPower, "an integer to a negative integer power")
            .why("the result would not be an integer")
            .hint("make the base a float: `2.0 ** -1`, or `f64(x) ** y`");
        if !dtype.is_signed() {
            return Ok(());
        }
        if let Some(literal) = self.as_const(exponent) {
            return if literal.as_i64() < 0 { Err(error) } else { Ok(()) };
        }
        let axes: SmallVec<[u8; 4]> = (0..shape.len() as u8).collect();
        let zero = self.constant(Literal::from_i64(dtype, 0), weak);
        let negative = self.apply(Op::LESS, &[exponent, zero])?;
        let node = self.fold(Reducer::Any, negative, &axes);
        self.guard(node, error, "some exponent is negative");
        Ok(())
    }
}

/// The hash of a node. Its shape follows from the rest, nearly always: comparing that is enough.
fn hash(node: &Node) -> u64 {
    intern::hash(&(&node.kind, node.dtype))
}

/// True if an integer literal is a value of an integer dtype.
fn fits(literal: Literal, dtype: DType) -> bool {
    let wrapped = literal.cast(dtype);
    match dtype.kind() {
        Kind::Uint => literal.as_i64() >= 0 && wrapped.bits() == literal.bits(),
        _ => wrapped.as_i64() == literal.as_i64(),
    }
}

fn arity_error(op: Op, given: usize) -> Diagnostic {
    let params = op.def().params;
    let plural = if params.len() == 1 { "" } else { "s" };
    Diagnostic::new(Code::Arguments, format!("`{op}` takes {} argument{plural}, not {given}", params.len()))
        .hint(format!("write `{op}({})`", params.join(", ")))
}

fn rank_error(rank: usize) -> Diagnostic {
    Diagnostic::new(Code::Rank, format!("{rank} dimensions")).why(format!("an array has at most {MAX_RANK}"))
}
