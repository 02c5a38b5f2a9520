//! Kernel to CUDA C: pure text, and what a launch of it is. Nothing here knows a driver.
//!
//! A [`Source`] is a translation unit with no includes. Each of its entries has the form
//!
//! ```text
//! extern "C" __global__ void __launch_bounds__(256) kernel_map(const __grid_constant__ Args a)
//! ```
//!
//! where `Args` is a struct of 8-byte words (pointers, strides, sizes, parameters), in the order of [`Source::fields`].

use smallvec::SmallVec;

/// A translation unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// CUDA C, C++17, for NVRTC with strict floating point options.
    pub text: String,
    /// The names of its entry points.
    pub entries: SmallVec<[String; 2]>,
}

/// One launch of an entry point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// The entry, as an index into [`Source::entries`].
    pub entry: usize,
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}
