//! Which kernels may be fused into a product of matrices: what computes an operand, as the product reads it (a
//! *prologue*), and what becomes of the result, before it is stored (an *epilogue*).
//!
//! This is the only place that decides it. The steps stay as they are, so a back end that leaves products to a library runs
//! one after the other; one that multiplies with code of its own binds them together ([`Plan::bind_product`]) and stores
//! nothing in between. The bits are the same: a kernel's elements are computed from the very same values.
//!
//! * An epilogue is the only reader of the product, and its loop covers exactly the product's elements.
//! * A prologue has no other reader than the product, and costs a few primitives: each tile of the result repeats them. It may
//!   compute both operands, as in `(a - m).T @ (a - m)`.
//! * A kernel that could be both, between two products, is the epilogue of the first: so it is computed once.
//!
//! Invariant: whoever runs a product with what is fused into it does so at the last of these steps; what any of them reads is
//! live until then.

use super::{Access, BufferId, BufferKind, Plan, Strided, View, Work};
use crate::diagnostic::Diagnostic;
use crate::dtype::DType;
use crate::kernel::{Inst, Kernel, Prim, Role, StageKind};
use crate::launch::Launch;
use crate::literal::Literal;
use crate::shape::DimId;
use smallvec::SmallVec;
use std::fmt::Write;

/// Primitives of a prologue, at most, none of them a division or a root.
const PROLOGUE: usize = 4;
/// Primitives of an epilogue, at most. What is more does not wait for memory, and needs the registers that sums are in.
const EPILOGUE: usize = 96;
/// Those of them that do not vary along a row, at most: a kernel of its own computes them once for each row.
const ONCE_A_ROW: usize = 4;

/// The product of matrices that a kernel may be fused into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fusible {
    /// The step of the product.
    pub product: usize,
    /// Which of the product's operands the kernel has to do with: it computes operand 0 or 1, or reads operand 2. A kernel that
    /// computes both has to do with 0.
    pub operand: usize,
}

/// A kernel that is fused into a product.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FusedKernel {
    /// The kernel; the access of its operands means nothing.
    pub kernel: Kernel,
    /// The operand of the kernel that the product computes or reads, and that is not in memory.
    pub value: usize,
    /// For each parameter, its value.
    pub params: SmallVec<[Literal; 8]>,
}

impl FusedKernel {
    /// The operands that are in memory.
    pub fn memory(&self) -> impl Iterator<Item = usize> + use<> {
        let value = self.value;
        (0..self.kernel.operands.len()).filter(move |n| *n != value)
    }
}

/// A product of matrices, with what is fused into it, and sizes: what [`Plan::bind_product`] returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoundProduct {
    /// Of the elements.
    pub dtype: DType,
    /// What is fused into `left`, `right` and `out`.
    pub fused: [Option<FusedKernel>; 3],
    /// The domain of the product. There is a layout for each operand in memory: of `left`, `right` and `out`, each, either it
    /// or the operands of what is fused into it.
    pub launch: Launch,
    /// The buffer of each of them, and how many bytes its first element is from that of its buffer.
    pub operands: SmallVec<[(BufferId, isize); 8]>,
    /// True if no element is written.
    pub is_empty: bool,
}

impl Plan {
    /// Marks the kernels that may be fused into a product, says of those beside a product why not, and has what they read
    /// live long enough.
    pub(crate) fn mark_fusible(&mut self) {
        let products: Vec<usize> =
            (0..self.steps.len()).filter(|i| matches!(self.steps[*i].work, Work::Matmul(_))).collect();
        if products.is_empty() {
            return;
        }
        let canonical = self.graph.dims.canonical();
        // Epilogues first: what could be both is one.
        for operand in [2, 0, 1] {
            for &product in &products {
                let found =
                    if operand == 2 { self.epilogue(product, &canonical) } else { self.prologue(product, operand) };
                let Some((step, verdict)) = found else { continue };
                let note = match &verdict {
                    Ok(()) if operand == 2 => format!("may be fused into k{product}, before its result is stored"),
                    Ok(()) => format!("may be fused into k{product}, which reads it"),
                    Err(why) => format!("not fused into k{product}: {why}"),
                };
                // Of a product that reads two results of a kernel it is said once.
                if !self.steps[step].reason.contains(&note) {
                    let _ = write!(self.steps[step].reason, "; {note}");
                }
                if verdict.is_ok() {
                    self.steps[step].fusible = Some(Fusible { product, operand });
                }
            }
        }
        for product in products {
            let fused = self.fusible(product);
            let steps = || fused.iter().flatten().copied().chain([product]);
            let last = steps().max().unwrap_or(product);
            let read: Vec<BufferId> =
                steps().flat_map(|step| self.steps[step].accesses(Role::In).map(|access| access.buffer)).collect();
            for buffer in read {
                let buffer = &mut self.buffers[buffer.index()];
                buffer.last = buffer.last.max(last);
            }
        }
    }

    /// The steps that may be fused into a product: into its `left`, its `right` and its `out`.
    pub fn fusible(&self, product: usize) -> [Option<usize>; 3] {
        let into = |operand| Some(Fusible { product, operand });
        let operands = &self.steps[product].operands;
        let is_same = operands[0].buffer == operands[1].buffer;
        [0, if is_same { 0 } else { 1 }, 2]
            .map(|operand| self.steps.iter().position(|step| step.fusible == into(operand)))
    }

    /// The launch of a product for these sizes and buffers, as for [`super::Step::bind`], with what is fused into each of its
    /// operands: some of [`Plan::fusible`].
    pub fn bind_product(
        &self,
        product: usize,
        fused: [Option<usize>; 3],
        sizes: &[u64],
        buffers: &[Strided],
    ) -> Result<BoundProduct, Diagnostic> {
        let step = &self.steps[product];
        let Work::Matmul(dtype) = step.work else { unreachable!("k{product} is no product of matrices") };
        let domain = step.domain_sizes(sizes)?;
        let mut bound = BoundProduct {
            dtype,
            fused: [None, None, None],
            launch: Launch { layouts: Vec::new(), ..step.launch(&domain) },
            operands: SmallVec::new(),
            is_empty: false,
        };
        bound.is_empty = bound.launch.outer.contains(&0) || bound.launch.inner.contains(&0);
        let mut add = |access: &Access, strides: &[isize], offset: isize| {
            bound.launch.layouts.push(step.layout(strides));
            bound.operands.push((access.buffer, offset));
        };
        for (operand, access) in step.operands.iter().enumerate() {
            let Some(kernel_step) = fused[operand].map(|n| &self.steps[n]) else {
                let (strides, offset) = access.strides(buffers[access.buffer.index()].clone(), domain.len());
                add(access, &strides, offset);
                continue;
            };
            let kernel_domain = kernel_step.domain_sizes(sizes)?;
            let value = kernel_step.operands.iter().position(|other| other.buffer == access.buffer);
            let (Some(kernel), Some(value)) = (kernel_step.kernel(), value) else {
                unreachable!("a step that is fused is a kernel with the product's operand")
            };
            for (n, other) in kernel_step.operands.iter().enumerate().filter(|(n, _)| *n != value) {
                debug_assert!(operand == 2 || kernel_step.role(n) == Role::In);
                let (own, offset) = other.strides(buffers[other.buffer.index()].clone(), kernel_domain.len());
                let shared = &kernel_step.operands[value];
                let (strides, moved) = match operand {
                    2 => (of_consumer(shared, access, &own, domain.len()), 0),
                    _ => of_producer(shared, access, &own, &kernel_domain, domain.len()),
                };
                add(other, &strides, offset.wrapping_add(moved));
            }
            let params = kernel_step.param_values(sizes);
            bound.fused[operand] = Some(FusedKernel { kernel: kernel.clone(), value, params });
        }
        bound.launch.merge_outer();
        Ok(bound)
    }

    /// The kernel that reads a product, and whether it may be fused into it; none if there is nothing to be said.
    fn epilogue(&self, product: usize, canonical: &[DimId]) -> Option<(usize, Result<(), String>)> {
        let buffer = self.steps[product].operands[2].buffer;
        let readers = self.readers(buffer);
        let &[(reader, access)] = readers.as_slice() else {
            let (first, _) = *readers.iter().find(|(step, _)| self.steps[*step].kernel().is_some())?;
            return Some((first, Err("it is not all that reads it".into())));
        };
        let step = &self.steps[reader];
        let kernel = step.kernel()?;
        if self.buffers[buffer.index()].kind != BufferKind::Temp {
            return Some((reader, Err("that is an output".into())));
        }
        if let Some(Fusible { product, .. }) = step.fusible {
            return Some((reader, Err(format!("k{product} comes first"))));
        }
        let verdict = check_elementwise(kernel).and_then(|()| {
            let shape = &self.buffers[buffer.index()].shape;
            let axes = permutation(&step.operands[access]);
            let same = |a: DimId, b: DimId| canonical[a.index()] == canonical[b.index()];
            let covers = axes.as_ref().is_some_and(|axes| {
                axes.len() == step.domain.len()
                    && axes.iter().zip(shape).all(|(axis, size)| same(step.domain[*axis as usize], *size))
            });
            let (once, all) = (operations(kernel, StageKind::Row).count(), operations(kernel, StageKind::Loop).count());
            match () {
                () if !covers => Err("its loop does not run over exactly the elements of that".into()),
                () if once > ONCE_A_ROW => Err(format!("{once} operations are better done once a row")),
                () if once + all > EPILOGUE => Err(format!("it takes {} operations", once + all)),
                () => Ok(()),
            }
        });
        Some((reader, verdict))
    }

    /// The kernel that computes an operand of a product, and whether it may be fused into it; none if there is nothing to
    /// be said.
    fn prologue(&self, product: usize, operand: usize) -> Option<(usize, Result<(), String>)> {
        let access = &self.steps[product].operands[operand];
        let buffer = access.buffer;
        let writer = self.steps.iter().position(|step| step.accesses(Role::Out).any(|a| a.buffer == buffer))?;
        let step = &self.steps[writer];
        let kernel = step.kernel()?;
        if step.fusible.is_some() {
            return None;
        }
        if self.buffers[buffer.index()].kind != BufferKind::Temp {
            return Some((writer, Err("it is an output, too".into())));
        }
        if self.readers(buffer).iter().any(|(step, _)| *step != product) {
            return Some((writer, Err("it is not all that reads it".into())));
        }
        let verdict = check_elementwise(kernel).and_then(|()| {
            let all = || operations(kernel, StageKind::Row).chain(operations(kernel, StageKind::Loop));
            let outputs = step.accesses(Role::Out).count();
            let is_costly = |prim: Prim| matches!(prim, Prim::Div | Prim::Rem | Prim::Sqrt);
            match () {
                () if outputs > 1 => Err("it stores several results".into()),
                () if all().count() > PROLOGUE => {
                    Err(format!("each tile of the result would repeat {} operations", all().count()))
                }
                () if all().any(is_costly) => Err("each tile of the result would repeat a division or a root".into()),
                () => Ok(()),
            }
        });
        Some((writer, verdict))
    }

    /// The steps that read a buffer, with the operand of each that does.
    fn readers(&self, buffer: BufferId) -> Vec<(usize, usize)> {
        let mut readers = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            let reads = |n: &usize| step.role(*n) == Role::In && step.operands[*n].buffer == buffer;
            readers.extend((0..step.operands.len()).filter(reads).map(|n| (i, n)));
        }
        readers
    }
}

/// An error if a kernel does anything but compute elements, each for itself.
fn check_elementwise(kernel: &Kernel) -> Result<(), String> {
    if kernel.is_elementwise() { Ok(()) } else { Err("it is not elementwise".into()) }
}

/// The primitives of a kernel's stages of a kind.
fn operations(kernel: &Kernel, kind: StageKind) -> impl Iterator<Item = Prim> {
    let values = kernel.stages.iter().filter(move |stage| stage.kind == kind).flat_map(|stage| stage.values());
    values.filter_map(|v| if let Inst::Prim(prim, _) = kernel.inst(v) { Some(*prim) } else { None })
}

/// For each dimension of a buffer, the axis along which it runs, if the buffer is seen whole, be it transposed.
fn permutation(access: &Access) -> Option<SmallVec<[u8; 4]>> {
    let mut dims: SmallVec<[u8; 4]> = (0..access.axes.len() as u8).collect();
    for view in &access.views {
        let View::Transpose(order) = view else { return None };
        if order.len() != dims.len() {
            return None;
        }
        dims = order.iter().map(|n| dims[*n as usize]).collect();
    }
    let mut axes = SmallVec::from_elem(0, dims.len());
    for (dim, axis) in dims.iter().zip(&access.axes) {
        axes[*dim as usize] = *axis;
    }
    Some(axes)
}

/// The strides along a product's domain of an operand that has these along the domain of the kernel that reads the product:
/// `reads` is the kernel's access to what the product writes, `writes` the product's.
fn of_consumer(reads: &Access, writes: &Access, own: &[isize], rank: usize) -> SmallVec<[isize; 8]> {
    let Some(axes) = permutation(reads) else { unreachable!("an epilogue reads all of the product") };
    let mut strides = SmallVec::from_elem(0, rank);
    for (from, to) in axes.iter().zip(&writes.axes) {
        strides[*to as usize] = own[*from as usize];
    }
    strides
}

/// The strides along a product's domain of an operand that has these along the domain of the kernel that computes an operand
/// of the product, and how many bytes its first element moves: `writes` is the kernel's access to it, `reads` the product's.
fn of_producer(
    writes: &Access,
    reads: &Access,
    own: &[isize],
    domain: &[u64],
    rank: usize,
) -> (SmallVec<[isize; 8]>, isize) {
    let as_if_stored = Strided {
        shape: writes.axes.iter().map(|axis| domain[*axis as usize]).collect(),
        strides: writes.axes.iter().map(|axis| own[*axis as usize]).collect(),
    };
    reads.strides(as_if_stored, rank)
}
