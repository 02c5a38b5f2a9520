//! Arrays of other libraries on a device, as those describe them: what is taken on trust, in one place.
//!
//! Their addresses are numbers that go to kernels and copies of the device, which work in the order of streams; nothing
//! here reads what is behind them. Whoever describes an array promises what [`numfuse::Array::from_device`] asks for: that is
//! what `__cuda_array_interface__` and DLPack are about.

use crate::array::Shared;
use numfuse::{Array, ArrayMut, DType, Device, Result};
use std::any::Any;
use std::sync::Arc;

/// An array of another library on a device.
pub struct Described {
    /// Of the first element.
    pub address: u64,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// In bytes.
    pub strides: Vec<isize>,
    /// The stream in whose order the other library uses it, if that is known.
    pub stream: Option<u64>,
}

/// The default stream of CUDA that all others but non-blocking ones wait for, and that waits for them.
pub const DEFAULT_STREAM: u64 = 1;

/// A described array, which is not copied. The owner is let go of when all work on the array is done, or is in order with
/// its stream.
pub fn array(device: &Device, described: &Described, owner: Arc<dyn Any + Send + Sync>) -> Result<Array> {
    let Described { address, dtype, ref shape, ref strides, stream } = *described;
    // SAFETY: as the library promises that described it; it is there as long as its owner.
    unsafe { Array::from_device(device, address, dtype, shape, strides, stream, owner) }
}

/// An array of ours, to be written.
pub fn view_mut(array: &Shared) -> Result<ArrayMut<'_>> {
    // SAFETY: whoever has an array of Python may write to it; all that numfuse does with it is done in the order of the
    // device's stream, and other libraries put their work in order with that.
    unsafe { array.shared_view_mut() }
}

/// Has a stream wait for all that the device was given so far.
pub fn precede(device: &Device, stream: u64) -> Result<()> {
    // SAFETY: it is a default stream, or one that another library has given to be used like this.
    unsafe { device.precede(stream) }
}
