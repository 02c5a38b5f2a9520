//! How a kernel, or a product of matrices, meets memory: the sizes of its domain and where each operand lies in it.
//!
//! A [`Launch`] is made for each call from the concrete shapes and strides; a kernel has neither. All strides are in
//! bytes, may be zero or negative, and need not be multiples of the element size. Pointers are not part of it, so one
//! launch serves every call with the same layout.
//!
//! Invariants: every layout has one stride for each dimension of its group; after [`Launch::canonicalize`] no group has
//! a dimension of size 1 or two neighbours that could be one dimension for all operands.

use crate::kernel::{Access, Kernel, Level, Operand, Role};
use smallvec::SmallVec;

/// Sizes of one group of dimensions, outermost first.
pub type Sizes = SmallVec<[usize; 4]>;
/// Byte strides of one operand over one group of dimensions.
pub type ByteStrides = SmallVec<[isize; 4]>;

/// Where an operand's element is for each index of the domain, relative to the pointer given with the call.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Layout {
    /// Along the outer dimensions.
    pub outer: ByteStrides,
    /// Along the reduced dimensions.
    pub reduced: ByteStrides,
    /// Along the inner dimensions.
    pub inner: ByteStrides,
}

/// A domain and the layouts of a kernel's operands in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Launch {
    /// Sizes of the outer dimensions.
    pub outer: Sizes,
    /// Sizes of the reduced dimensions (column kernels only).
    pub reduced: Sizes,
    /// Sizes of the inner dimensions.
    pub inner: Sizes,
    /// One for each operand of the kernel, in order.
    pub layouts: Vec<Layout>,
}

impl Launch {
    /// The number of rows: the product of the outer sizes.
    pub fn rows(&self) -> usize {
        self.outer.iter().product()
    }

    /// The number of reduced indices.
    pub fn reduced_len(&self) -> usize {
        self.reduced.iter().product()
    }

    /// The number of inner elements.
    pub fn inner_len(&self) -> usize {
        self.inner.iter().product()
    }

    /// Drops dimensions of size 1 and merges neighbours that all operands step through evenly. For kernels without
    /// reductions and without scratch, and for column kernels, inner dimensions but the last become outer ones. No element
    /// changes its place.
    pub fn canonicalize(&mut self, kernel: &Kernel) {
        self.merge_outer();
        merge(&mut self.reduced, &mut self.layouts, |l| &mut l.reduced);
        merge(&mut self.inner, &mut self.layouts, |l| &mut l.inner);
        if kernel.has_independent_elements() && self.inner.len() > 1 {
            while self.inner.len() > 1 {
                self.outer.push(self.inner.remove(0));
                for (layout, operand) in self.layouts.iter_mut().zip(&kernel.operands) {
                    let stride = layout.inner.remove(0);
                    layout.outer.push(if operand.level == Level::Row { 0 } else { stride });
                }
            }
            self.merge_outer();
        }
    }

    /// Drops outer dimensions of size 1 and merges those that all operands step through evenly.
    pub fn merge_outer(&mut self) {
        merge(&mut self.outer, &mut self.layouts, |l| &mut l.outer);
    }

    /// Gives a kernel the accesses of this launch: what it is compiled for.
    pub fn set_accesses(&self, kernel: &mut Kernel) {
        for (operand, layout) in kernel.operands.iter_mut().zip(&self.layouts) {
            operand.access = access(operand, layout);
        }
    }
}

/// The access of one operand along the inner loop. With several inner dimensions an inner-level input that does not step
/// evenly has to be packed first, and counts as `Unit`.
pub fn access(operand: &Operand, layout: &Layout) -> Access {
    if operand.level == Level::Row {
        return Access::Unit;
    }
    match layout.inner.as_slice() {
        [] if operand.role == Role::In => Access::Broadcast,
        [] => Access::Unit,
        [stride] if *stride == operand.dtype.size() as isize => Access::Unit,
        [0] if operand.role == Role::In => Access::Broadcast,
        [_] => Access::Strided,
        _ if operand.role == Role::In && layout.inner.iter().all(|s| *s == 0) => Access::Broadcast,
        _ => Access::Unit,
    }
}

/// Merges neighbouring dimensions of one group.
fn merge(sizes: &mut Sizes, layouts: &mut [Layout], group: impl Fn(&mut Layout) -> &mut ByteStrides) {
    let mut i = 0;
    while i < sizes.len() {
        if sizes[i] == 1 {
            sizes.remove(i);
            for layout in layouts.iter_mut() {
                group(layout).remove(i);
            }
            continue;
        }
        if i > 0 {
            let size = sizes[i] as isize;
            let even = layouts.iter_mut().all(|l| {
                let strides = group(l);
                strides[i].checked_mul(size) == Some(strides[i - 1])
            });
            if even {
                sizes[i - 1] *= sizes[i];
                sizes.remove(i);
                for layout in layouts.iter_mut() {
                    let strides = group(layout);
                    strides[i - 1] = strides[i];
                    strides.remove(i);
                }
                continue;
            }
        }
        i += 1;
    }
}

/// Visits every index of a group of dimensions in row-major order, with each operand's byte offset.
pub fn for_each_index(sizes: &[usize], strides: &[&[isize]], mut visit: impl FnMut(&[isize])) {
    if sizes.contains(&0) {
        return;
    }
    let mut offsets = vec![0isize; strides.len()];
    let mut index = vec![0usize; sizes.len()];
    loop {
        visit(&offsets);
        let mut axis = sizes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            for (offset, s) in offsets.iter_mut().zip(strides) {
                *offset += s[axis];
            }
            if index[axis] < sizes[axis] {
                break;
            }
            for (offset, s) in offsets.iter_mut().zip(strides) {
                *offset -= s[axis] * sizes[axis] as isize;
            }
            index[axis] = 0;
        }
    }
}
