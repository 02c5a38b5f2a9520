//! Products of matrices, by the `gemm` crate, on our own threads.
//!
//! A product is cut into blocks of rows and columns of the result, which threads share out, and a block into stretches of
//! the sum, between which the run looks whether it is cancelled. What is cut where follows from the shape alone, so the
//! number of threads changes no bit of the result. `gemm` takes its own order of summing and fuses multiplications with
//! additions, so the bits are not the interpreter's: see [`numfuse_core::interp::matmul`].
//!
//! `gemm` reads and writes any strides of whole elements. An operand that is not aligned like one is copied first, or, if
//! it is the result, last.

use super::{AlignedBuffer, BUFFERS, FloatEnvironment, RunOptions, misfit};
use crate::Error;
use gemm_common::Parallelism;
use numfuse_core::dtype::DType;
use numfuse_core::launch::{ByteStrides, Launch, Layout, Sizes, for_each_index};
use smallvec::SmallVec;
use std::sync::atomic::Ordering;

/// Rows and columns of a block, at least and at most. A block packs what it reads of the operands, which pays if it is
/// large; but a product should have some blocks for every thread.
const BLOCK: (usize, usize) = (128, 512);
/// Products that a block adds up before it looks whether the run is cancelled: some milliseconds' worth. To read two
/// elements takes as long as some products.
const STRETCH: usize = 1 << 28;
const READ: usize = 32;
/// Nanoseconds for a multiplication and an addition of `f64`, and for a block besides; both by estimate.
const COST: (f64, f64) = (0.03, 100.0);
/// The nanoseconds of work that a chunk should be at least.
const CHUNK: f64 = 50_000.0;

/// The operands: `left`, `right` and `out`, and the dimensions of a matrix in each, by their place in [`Matmul::sizes`].
const AXES: [[usize; 2]; 3] = [[I, K], [K, J], [I, J]];
const I: usize = 0;
const J: usize = 1;
const K: usize = 2;
const OUT: usize = 2;

/// A product of matrices with a launch of it, checked once: to be run again and again with other pointers.
#[derive(Debug)]
pub struct Matmul {
    dtype: DType,
    /// The sizes of the stack of matrices.
    outer: Sizes,
    /// The sizes of `i`, `j` and `k`.
    sizes: [usize; 3],
    /// Where each operand's elements are.
    places: [Place; 3],
    /// The operand of each place, in the order in which pointers are given.
    given: [usize; 3],
}

/// Byte strides of an operand: over the stack, and along its rows and columns, in the order of [`AXES`].
#[derive(Clone, Debug)]
struct Place {
    outer: ByteStrides,
    matrix: [isize; 2],
}

/// The blocks of a product: how large they are, and how many there are along `i` and `j`.
struct Blocks {
    size: [usize; 2],
    count: [usize; 2],
}

/// An operand with memory.
#[derive(Clone, Copy)]
struct Operand<'a> {
    pointer: *mut u8,
    place: &'a Place,
}

// SAFETY: the pointers are used as the contract of `Matmul::run` allows, from any thread; blocks write disjoint elements.
unsafe impl Sync for Operand<'_> {}

impl Matmul {
    /// A product of matrices of this dtype, a float, as [`numfuse_core::plan::Work::Matmul`] describes it.
    ///
    /// # Errors
    /// If the launch is not that of a product.
    pub fn new(dtype: DType, launch: Launch) -> Result<Matmul, Error> {
        let (&[i, j], &[k], [left, right, out]) =
            (launch.inner.as_slice(), launch.reduced.as_slice(), launch.layouts.as_slice())
        else {
            return Err(misfit("it is that of no product"));
        };
        let fits = |l: &Layout| (l.outer.len(), l.reduced.len(), l.inner.len()) == (launch.outer.len(), 1, 2);
        if !dtype.is_float() || ![left, right, out].into_iter().all(fits) {
            return Err(misfit("it is that of no product"));
        }
        let place = |l: &Layout, matrix: [isize; 2]| Place { outer: l.outer.clone(), matrix };
        let left = place(left, [left.inner[0], left.reduced[0]]);
        let right = place(right, [right.reduced[0], right.inner[1]]);
        let out = place(out, [out.inner[0], out.inner[1]]);
        let outer = launch.outer;
        // `gemm` is made for results whose columns are contiguous; those with rows that are get their transpose computed.
        let [down, along] = out.matrix.map(isize::unsigned_abs);
        Ok(if (along < down || i == 1) && j > 1 {
            let [left, right, out] = [left, right, out].map(|p| Place { matrix: [p.matrix[1], p.matrix[0]], ..p });
            Matmul { dtype, outer, sizes: [j, i, k], places: [right, left, out], given: [1, 0, 2] }
        } else {
            Matmul { dtype, outer, sizes: [i, j, k], places: [left, right, out], given: [0, 1, 2] }
        })
    }

    /// About how long a run takes on one thread.
    pub fn nanoseconds(&self) -> f64 {
        self.stack() as f64 * self.blocks().count.iter().product::<usize>() as f64 * self.block_cost()
    }

    /// Runs the product. `pointers` are those of the elements of `left`, `right` and `out` with all indices zero.
    ///
    /// # Safety
    ///
    /// For each index of the launch's domain the element of each operand, which the launch's layouts place relative to
    /// its pointer, must be in memory that is valid for reads, and for writes if it is `out`, until the call returns.
    /// `out` may not overlap the others; nobody else may write to any of them, or read `out`, during the call.
    pub unsafe fn run(&self, pointers: [*mut u8; 3], options: &RunOptions<'_>) -> Result<(), Error> {
        let pointers = self.given.map(|n| pointers[n]);
        let mut copies: [Option<(AlignedBuffer, Place)>; 3] = [None, None, None];
        for n in 0..3 {
            if !self.is_aligned(n, pointers[n]) {
                copies[n] = Some(self.room_for(n)?);
                if n != OUT {
                    // SAFETY: the caller's promise; the copy has room for every element.
                    unsafe { self.copy(n, pointers[n], &mut copies[n], false) };
                }
            }
        }
        let operand = |n: usize| match &copies[n] {
            Some((buffer, place)) => Operand { pointer: buffer.as_ptr().cast_mut(), place },
            None => Operand { pointer: pointers[n], place: &self.places[n] },
        };
        let operands = [operand(0), operand(1), operand(OUT)];
        let blocks = self.blocks();
        let in_matrix = blocks.count[0] * blocks.count[1];
        let all = self.stack() * in_matrix;
        let in_chunk = ((CHUNK / self.block_cost()) as usize).clamp(1, all.max(1));
        let operands = &operands;
        let ran = options.share(all.div_ceil(in_chunk), options.team(self.nanoseconds()), |chunk| {
            let _environment = FloatEnvironment::enter();
            for block in chunk * in_chunk..(chunk * in_chunk + in_chunk).min(all) {
                // SAFETY: the caller's promise, or memory of ours that is laid out alike.
                unsafe { self.block(operands, &blocks, block / in_matrix, block % in_matrix, options)? };
            }
            Ok(())
        });
        if ran.is_ok() && copies[OUT].is_some() {
            // SAFETY: the caller's promise; the blocks have written every element of the copy.
            unsafe { self.copy(OUT, pointers[OUT], &mut copies[OUT], true) };
        }
        for (buffer, _) in copies.into_iter().flatten() {
            BUFFERS.give(buffer);
        }
        ran
    }

    /// Computes one block of one matrix.
    ///
    /// # Safety
    ///
    /// As [`Matmul::run`], of the operands.
    unsafe fn block(
        &self,
        operands: &[Operand<'_>; 3],
        blocks: &Blocks,
        matrix: usize,
        block: usize,
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        let begin = [block % blocks.count[I] * blocks.size[I], block / blocks.count[I] * blocks.size[J]];
        let [rows, columns] = [I, J].map(|n| blocks.size[n].min(self.sizes[n] - begin[n]));
        let stretch = (STRETCH / (rows * columns).max(READ * (rows + columns))).max(BLOCK.1);
        let size = self.dtype.size() as isize;
        let mut k = 0;
        loop {
            if options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let depth = stretch.min(self.sizes[K] - k);
            let at = [begin[I], begin[J], k];
            let first = [0, 1, OUT].map(|n| {
                let Operand { pointer, place } = operands[n];
                let mut rest = matrix;
                let mut offset = 0;
                for (n, stride) in self.outer.iter().zip(&place.outer).rev() {
                    offset += (rest % n) as isize * stride;
                    rest /= n;
                }
                for (axis, stride) in AXES[n].iter().zip(place.matrix) {
                    offset += at[*axis] as isize * stride;
                }
                pointer.wrapping_byte_offset(offset)
            });
            let strides = [0, 1, OUT].map(|n| operands[n].place.matrix.map(|stride| stride / size));
            // SAFETY: the block lies inside of the matrix; the caller's promise. Strides are of whole elements.
            unsafe { multiply(self.dtype, [rows, columns, depth], first, strides, k > 0) };
            k += depth;
            if k >= self.sizes[K] {
                return Ok(());
            }
        }
    }

    /// How many matrices there are.
    fn stack(&self) -> usize {
        self.outer.iter().fold(1, |stack, n| stack.saturating_mul(*n))
    }

    fn blocks(&self) -> Blocks {
        let size = [self.sizes[I], self.sizes[J]].map(|n| (n / 4).next_multiple_of(64).clamp(BLOCK.0, BLOCK.1));
        Blocks { size, count: [I, J].map(|n| self.sizes[n].div_ceil(size[n])) }
    }

    /// Nanoseconds for a block, by estimate.
    fn block_cost(&self) -> f64 {
        let size = self.blocks().size;
        let products = [I, J].map(|n| size[n].min(self.sizes[n]) as f64).iter().product::<f64>() * self.sizes[K] as f64;
        products * COST.0 * self.dtype.size() as f64 / 8.0 + COST.1
    }

    /// The sizes and strides of all of an operand's dimensions; those along which it does not vary have size 1.
    fn extent(&self, n: usize) -> (Sizes, ByteStrides) {
        let Place { outer, matrix } = &self.places[n];
        let sizes = self.outer.iter().copied().chain(AXES[n].map(|axis| self.sizes[axis]));
        let strides: ByteStrides = outer.iter().chain(matrix).copied().collect();
        let sizes = sizes.zip(&strides).map(|(size, stride)| if *stride == 0 { size.min(1) } else { size }).collect();
        (sizes, strides)
    }

    /// True if the elements of an operand lie where elements of its dtype may.
    fn is_aligned(&self, n: usize, pointer: *mut u8) -> bool {
        let size = self.dtype.size();
        let Place { outer, matrix } = &self.places[n];
        let mut strides = outer.iter().chain(matrix);
        (pointer as usize).is_multiple_of(size) && strides.all(|stride| stride.unsigned_abs().is_multiple_of(size))
    }

    /// Memory for a copy of an operand, and where its elements go.
    fn room_for(&self, n: usize) -> Result<(AlignedBuffer, Place), Error> {
        let (sizes, strides) = self.extent(n);
        let mut step = self.dtype.size();
        let mut dense: SmallVec<[isize; 4]> = SmallVec::from_elem(0, sizes.len());
        for axis in (0..sizes.len()).rev().filter(|axis| strides[*axis] != 0) {
            dense[axis] = step as isize;
            // Elements that share memory have places of their own in the copy, which may be too many.
            step = step.checked_mul(sizes[axis]).ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        }
        let (outer, matrix) = dense.split_at(sizes.len() - 2);
        Ok((BUFFERS.take(step)?, Place { outer: outer.into(), matrix: [matrix[0], matrix[1]] }))
    }

    /// Copies an operand to its copy, or back.
    ///
    /// # Safety
    ///
    /// As [`Matmul::run`]; the copy is what [`Matmul::room_for`] returned, and has been written if it is copied back.
    unsafe fn copy(&self, n: usize, pointer: *mut u8, copy: &mut Option<(AlignedBuffer, Place)>, back: bool) {
        let Some((buffer, Place { outer, matrix })) = copy else { return };
        let (sizes, strides) = self.extent(n);
        let dense: ByteStrides = outer.iter().chain(matrix.iter()).copied().collect();
        let target = buffer.as_mut_ptr();
        for_each_index(&sizes, &[&strides, &dense], |offsets| {
            // SAFETY: the index is in range: the caller's promise, and room for it in the copy.
            unsafe {
                let (there, here) = (pointer.wrapping_byte_offset(offsets[0]), target.wrapping_byte_offset(offsets[1]));
                let (from, to) = if back { (here, there) } else { (there, here) };
                std::ptr::copy_nonoverlapping(from, to, self.dtype.size());
            }
        });
    }
}

/// Makes `out` the product of two matrices, or adds it. Sizes are those of `i`, `j` and `k`, strides are in elements.
///
/// # Safety
///
/// The matrices lie in memory that is valid for reads, and `out` for writes; `out` overlaps neither of the others. The
/// pointers are aligned.
unsafe fn multiply(
    dtype: DType,
    [m, n, k]: [usize; 3],
    [mut left, mut right, mut out]: [*mut u8; 3],
    [mut l, mut r, mut o]: [[isize; 2]; 3],
    adds: bool,
) {
    // `gemm` takes these strides forwards.
    let size = dtype.size() as isize;
    let turn = |pointer: &mut *mut u8, stride: &mut isize, count: usize| {
        *pointer = pointer.wrapping_byte_offset((count as isize - 1) * *stride * size);
        *stride = -*stride;
    };
    if o[0] < 0 {
        turn(&mut out, &mut o[0], m);
        turn(&mut left, &mut l[0], m);
    }
    if o[1] < 0 {
        turn(&mut out, &mut o[1], n);
        turn(&mut right, &mut r[1], n);
    }
    if l[1] < 0 && k > 0 {
        turn(&mut left, &mut l[1], k);
        turn(&mut right, &mut r[0], k);
    }
    macro_rules! call {
        ($t:ty, $function:path) => {{
            let (out, left, right): (*mut $t, *const $t, *const $t) = (out.cast(), left.cast(), right.cast());
            let (alpha, beta) = (if adds { 1.0 } else { 0.0 }, 1.0);
            let one_thread = Parallelism::None;
            // SAFETY: the caller's promise. `gemm` reads and writes the elements of these matrices alone.
            unsafe {
                $function()(
                    m, n, k, out, o[1], o[0], adds, left, l[1], l[0], right, r[1], r[0], alpha, beta, false, false,
                    false, one_thread,
                );
            }
        }};
    }
    match dtype {
        DType::F32 => call!(f32, gemm_f32::gemm::f32::get_gemm_fn),
        _ => call!(f64, gemm_f64::gemm::f64::get_gemm_fn),
    }
}
