//! The plan: what is run, in which order, on which buffers: kernels, and products of matrices, which are left to whoever
//! does them best. Sizes are still unknown; [`Step::bind`] fills them in.
//!
//! Invariants: a buffer is written by one step, before every step that reads it; inputs are never written; each output
//! buffer is written whole. Every size and stride of a call is computed here, checked for overflow, from the sizes
//! that [`crate::shape::Dims::sizes`] returned.

mod products;

use crate::diagnostic::{Code, Diagnostic};
use crate::dtype::DType;
use crate::graph::{Graph, IndexItem, Items};
use crate::kernel::{Kernel, Level, Nest, Role};
use crate::launch::{Launch, Layout, Sizes};
use crate::literal::Literal;
use crate::shape::{DimId, Shape, Slice, checked_count};
use smallvec::SmallVec;
use std::fmt::{self, Write};

pub use products::{BoundProduct, FusedKernel, Fusible};

/// At most so many steps run together.
const TOGETHER: usize = 8;

/// A buffer of a [`Plan`]; prints as `b2`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BufferId(pub u32);

impl BufferId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for BufferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

/// Where a buffer's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferKind {
    /// The n-th input of the graph, with the caller's strides.
    Input(u32),
    /// The n-th output of the graph.
    Output(u32),
    /// A bool scalar: the n-th guard of the graph.
    Guard(u32),
    /// Memory that lives from the step that writes it to the last step that reads it; row-major.
    Temp,
}

/// A buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Where its memory comes from.
    pub kind: BufferKind,
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Shape,
    /// The first step that uses it (for inputs) or writes it; or an earlier one that runs together with that.
    pub first: usize,
    /// The last step that uses it; or a later one that runs together with that.
    pub last: usize,
}

/// A change of view: no element moves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum View {
    /// As [`crate::graph::NodeKind::Transpose`].
    Transpose(SmallVec<[u8; 4]>),
    /// As [`crate::graph::NodeKind::Index`].
    Index(Items),
}

impl View {
    /// True if the view neither moves nor drops elements: it only adds dimensions of size 1.
    pub fn only_adds_axes(&self) -> bool {
        match self {
            View::Transpose(_) => false,
            View::Index(items) => only_adds_axes(items),
        }
    }
}

/// True if an index neither moves nor drops elements: it only adds dimensions of size 1.
pub(crate) fn only_adds_axes(items: &[IndexItem]) -> bool {
    items.iter().all(|i| matches!(i, IndexItem::NewAxis) || *i == IndexItem::Slice(Slice::ALL))
}

/// What a memory operand of a step is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Access {
    /// The buffer.
    pub buffer: BufferId,
    /// The views through which it is seen, first one first.
    pub views: SmallVec<[View; 1]>,
    /// The domain axis along which each dimension of the viewed buffer runs. A dimension of size 1 may run along a
    /// larger axis: it is broadcast.
    pub axes: SmallVec<[u8; 4]>,
}

impl Access {
    /// The strides along a domain of so many axes of a buffer that lies like this, and how many bytes its first element
    /// moves.
    fn strides(&self, mut place: Strided, rank: usize) -> (SmallVec<[isize; 8]>, isize) {
        let mut offset = 0isize;
        for view in &self.views {
            offset = offset.wrapping_add(place.view(view));
        }
        let mut strides: SmallVec<[isize; 8]> = SmallVec::from_elem(0, rank);
        for ((axis, size), stride) in self.axes.iter().zip(&place.shape).zip(&place.strides) {
            if *size != 1 {
                strides[*axis as usize] = *stride;
            }
        }
        (strides, offset)
    }
}

/// What a kernel's scalar parameter is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ParamSource {
    /// A constant of the expression.
    Const(Literal),
    /// The number of elements of these dimensions, as `i64`.
    Size(SmallVec<[DimId; 2]>),
}

/// What a step does with its operands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Runs a kernel; its operands' `access` is set when it is bound.
    Kernel(Kernel),
    /// Multiplies matrices of floats of this dtype: for each index of the outer dimensions, `out[i, j]` becomes the sum of
    /// `left[i, k] * right[k, j]` over the one reduced dimension `k`; `i` and `j` are the inner dimensions. The operands
    /// are `left`, `right` and `out`.
    Matmul(DType),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Kernel(kernel) => kernel.fmt(f),
            Work::Matmul(dtype) => write!(
                f,
                "matmul {dtype} {{\n  in  m0, m1\n  out m2\n  m2[i, j] = sum over k of m0[i, k] * m1[k, j]\n}}"
            ),
        }
    }
}

/// One piece of work and what it runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What it does.
    pub work: Work,
    /// One for each operand of the work.
    pub operands: Vec<Access>,
    /// One for each parameter of the kernel.
    pub params: Vec<ParamSource>,
    /// The sizes of the domain's axes.
    pub domain: Shape,
    /// The axes of the domain that are the outer, reduced and inner dimensions, each in order.
    pub outer: SmallVec<[u8; 4]>,
    /// See `outer`.
    pub reduced: SmallVec<[u8; 4]>,
    /// See `outer`.
    pub inner: SmallVec<[u8; 4]>,
    /// Why this is a step of its own, for `explain`.
    pub reason: String,
    /// The first of the steps, all between it and this one among them, that this one may run together with: they run
    /// over the same domain, read a same array of it, and do not wait for each other. What they read is then read from
    /// memory once, if a back end runs all of them on one part of the domain after the other.
    pub together: Option<usize>,
    /// The product of matrices that this kernel may be fused into. What is fused is no step of its own then; a back end that
    /// does not fuse runs the steps as they are.
    pub fusible: Option<Fusible>,
}

/// What is to be run for a graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph after simplification: its inputs, dimensions, constraints and guards are the plan's.
    pub graph: Graph,
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// What is to be run, in order.
    pub steps: Vec<Step>,
    /// The buffer of each output of the graph; outputs that are the same node share one.
    pub outputs: Vec<BufferId>,
    /// The buffer of each guard.
    pub guards: Vec<BufferId>,
}

/// Where an array's elements are: shape and byte strides from its first element.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Strided {
    /// Sizes, outermost first.
    pub shape: SmallVec<[u64; 4]>,
    /// Byte strides, one for each size.
    pub strides: SmallVec<[isize; 4]>,
}

impl Strided {
    /// Row-major without gaps; an error if the bytes do not fit `isize`.
    pub fn row_major(shape: &[u64], dtype: DType) -> Result<Strided, Diagnostic> {
        let too_large = || {
            Diagnostic::new(Code::TooLarge, format!("an array of shape {shape:?} is too large"))
                .why("its size in bytes overflows")
        };
        let count = checked_count(shape)?;
        count.checked_mul(dtype.size() as u64).filter(|n| *n <= isize::MAX as u64).ok_or_else(too_large)?;
        let mut stride = dtype.size() as isize;
        let mut strides: SmallVec<[isize; 4]> = shape
            .iter()
            .rev()
            .map(|size| {
                let here = stride;
                // With a size of zero elsewhere the product may overflow; no element is reached then.
                stride = stride.wrapping_mul((*size).max(1) as isize);
                here
            })
            .collect();
        strides.reverse();
        Ok(Strided { shape: shape.into(), strides })
    }

    /// The number of elements.
    pub fn count(&self) -> u64 {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Applies a view; returns how many bytes the first element moves.
    pub fn view(&mut self, view: &View) -> isize {
        match view {
            View::Transpose(perm) => {
                *self = Strided {
                    shape: perm.iter().map(|p| self.shape[*p as usize]).collect(),
                    strides: perm.iter().map(|p| self.strides[*p as usize]).collect(),
                };
                0
            }
            View::Index(items) => {
                let mut viewed = Strided::default();
                let mut moved = 0isize;
                let mut dims = self.shape.iter().zip(&self.strides);
                for item in items {
                    if let IndexItem::NewAxis = item {
                        viewed.shape.push(1);
                        viewed.strides.push(0);
                        continue;
                    }
                    let Some((size, stride)) = dims.next() else { break };
                    match item {
                        IndexItem::At(index) => {
                            let index = if *index < 0 { *index + *size as i64 } else { *index };
                            moved = moved.wrapping_add(stride.wrapping_mul(index as isize));
                        }
                        IndexItem::Slice(slice) => {
                            let (start, count) = slice.resolve(*size);
                            moved = moved.wrapping_add(stride.wrapping_mul(start as isize));
                            viewed.shape.push(count);
                            viewed.strides.push(if count > 1 { stride.wrapping_mul(slice.step as isize) } else { 0 });
                        }
                        IndexItem::NewAxis => {}
                    }
                }
                *self = viewed;
                moved
            }
        }
    }
}

/// A step with sizes: what [`Step::bind`] returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Sizes and strides, canonical; every layout is relative to its buffer's first element plus the offset below.
    pub launch: Launch,
    /// For each operand, how many bytes its first element is from that of its buffer.
    pub offsets: SmallVec<[isize; 8]>,
    /// For each parameter, its value.
    pub params: SmallVec<[Literal; 8]>,
    /// True if no element is written: some output dimension is 0.
    pub is_empty: bool,
}

impl Step {
    /// The launch of this step for these sizes (of every dimension of the plan's graph) and these buffers (by
    /// [`BufferId`]). The constraints of the graph have been checked.
    pub fn bind(&self, sizes: &[u64], buffers: &[Strided]) -> Result<Bound, Diagnostic> {
        let domain = self.domain_sizes(sizes)?;
        let mut launch = self.launch(&domain);
        let mut offsets = SmallVec::new();
        for access in &self.operands {
            let (strides, offset) = access.strides(buffers[access.buffer.index()].clone(), domain.len());
            launch.layouts.push(self.layout(&strides));
            offsets.push(offset);
        }
        let is_empty = launch.outer.contains(&0) || (launch.inner.contains(&0) && !self.stores_per_row());
        match &self.work {
            Work::Kernel(kernel) => launch.canonicalize(kernel),
            Work::Matmul(_) => launch.merge_outer(),
        }
        let params = self.param_values(sizes);
        Ok(Bound { launch, offsets, params, is_empty })
    }

    /// The sizes of the domain's axes.
    fn domain_sizes(&self, sizes: &[u64]) -> Result<SmallVec<[u64; 4]>, Diagnostic> {
        let domain: SmallVec<[u64; 4]> = self.domain.iter().map(|d| sizes[d.index()]).collect();
        checked_count(&domain)?;
        Ok(domain)
    }

    /// The launch over a domain, without layouts.
    fn launch(&self, domain: &[u64]) -> Launch {
        let group = |axes: &[u8]| -> Sizes { axes.iter().map(|a| domain[*a as usize] as usize).collect() };
        let (outer, reduced, inner) = (group(&self.outer), group(&self.reduced), group(&self.inner));
        Launch { outer, reduced, inner, layouts: Vec::with_capacity(self.operands.len()) }
    }

    /// The layout of an operand with these strides along the domain's axes.
    fn layout(&self, strides: &[isize]) -> Layout {
        let group = |axes: &[u8]| axes.iter().map(|a| strides[*a as usize]).collect();
        Layout { outer: group(&self.outer), reduced: group(&self.reduced), inner: group(&self.inner) }
    }

    fn param_values(&self, sizes: &[u64]) -> SmallVec<[Literal; 8]> {
        let value = |source: &ParamSource| match source {
            ParamSource::Const(literal) => *literal,
            ParamSource::Size(dims) => Literal::i64(dims.iter().map(|d| sizes[d.index()]).product::<u64>() as i64),
        };
        self.params.iter().map(value).collect()
    }

    /// The kernel, if it runs one.
    pub fn kernel(&self) -> Option<&Kernel> {
        match &self.work {
            Work::Kernel(kernel) => Some(kernel),
            Work::Matmul(_) => None,
        }
    }

    /// The work, a kernel with the access of each operand that this launch has: what the code cache is keyed by.
    pub fn specialize(&self, launch: &Launch) -> Work {
        let mut work = self.work.clone();
        if let Work::Kernel(kernel) = &mut work {
            launch.set_accesses(kernel);
        }
        work
    }

    /// True if this step and another one may run at the same time and gain from it; see [`Step::together`].
    fn goes_with(&self, other: &Step, buffers: &[Buffer]) -> bool {
        let (Some(kernel), Some(other_kernel)) = (self.kernel(), other.kernel()) else { return false };
        let writes = |step: &Step, buffer: BufferId| step.accesses(Role::Out).any(|a| a.buffer == buffer);
        let waits = |step: &Step, other: &Step| step.accesses(Role::In).any(|a| writes(other, a.buffer));
        let whole = |access: &Access| {
            let shape = &buffers[access.buffer.index()].shape;
            let fits = |(size, axis): (&DimId, &u8)| *size == self.domain[*axis as usize];
            access.axes.len() == self.domain.len()
                && (!access.views.is_empty() || shape.iter().zip(&access.axes).all(fits))
        };
        (kernel.nest, other_kernel.nest) == (Nest::Rows, Nest::Rows)
            && !self.domain.is_empty()
            && self.domain == other.domain
            && !waits(self, other)
            && !waits(other, self)
            && self.accesses(Role::In).any(|a| whole(a) && other.accesses(Role::In).any(|b| a == b))
    }

    /// What it reads, or writes.
    pub fn accesses(&self, role: Role) -> impl Iterator<Item = &Access> {
        self.operands.iter().enumerate().filter(move |(n, _)| self.role(*n) == role).map(|(_, access)| access)
    }

    /// Whether it reads its n-th operand, or writes it.
    pub fn role(&self, n: usize) -> Role {
        match &self.work {
            Work::Kernel(kernel) => kernel.operands[n].role,
            Work::Matmul(_) if n < 2 => Role::In,
            Work::Matmul(_) => Role::Out,
        }
    }

    /// True if it stores something even if there are no inner elements.
    fn stores_per_row(&self) -> bool {
        self.kernel().is_some_and(|kernel| {
            kernel.nest == Nest::Rows && kernel.operands.iter().any(|o| o.role == Role::Out && o.level == Level::Row)
        })
    }
}

impl Plan {
    /// Marks the steps that may run together, and has what they use live as long as any of them runs.
    pub(crate) fn group_steps(&mut self) {
        let mut first = 0;
        for i in 1..self.steps.len() {
            let (before, step) = (&self.steps[first..i], &self.steps[i]);
            if before.len() < TOGETHER && before.iter().all(|other| step.goes_with(other, &self.buffers)) {
                let others: Vec<String> = (first..i).map(|k| format!("k{k}")).collect();
                let step = &mut self.steps[i];
                step.together = Some(first);
                let _ = write!(step.reason, "; may run together with {}: they read the same arrays", others.join(", "));
            } else {
                first = i;
            }
        }
        let firsts: Vec<usize> = self.steps.iter().enumerate().map(|(i, s)| s.together.unwrap_or(i)).collect();
        for buffer in self.buffers.iter_mut().filter(|buffer| buffer.first <= buffer.last) {
            let group = firsts[buffer.last];
            buffer.first = firsts[buffer.first];
            buffer.last += firsts[buffer.last..].iter().take_while(|f| **f == group).count() - 1;
        }
    }

    /// The place of each buffer: inputs as given (by input index), the others row-major.
    pub fn places(&self, sizes: &[u64], inputs: &[Strided]) -> Result<Vec<Strided>, Diagnostic> {
        self.buffers
            .iter()
            .map(|buffer| match buffer.kind {
                BufferKind::Input(n) => Ok(inputs[n as usize].clone()),
                BufferKind::Output(_) | BufferKind::Guard(_) | BufferKind::Temp => {
                    let shape: SmallVec<[u64; 4]> = buffer.shape.iter().map(|d| sizes[d.index()]).collect();
                    Strided::row_major(&shape, buffer.dtype)
                }
            })
            .collect()
    }
}
