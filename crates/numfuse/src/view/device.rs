//! Arrays in the memory of a device: memory of our own there, and every copy to, from and on a device.
//!
//! Invariants: what is on a device is reached through kernels and copies of its stream only; its address is never
//! accessed. All elements of an array lie inside of its [`DeviceMemory`], as those of an array of the host do.

use super::{ArrayMut, ArrayRef, Data, Memory};
use crate::array::Array;
use crate::device::Device;
use crate::error::{Error, Result, cuda_error};
use crate::layout::{is_row_major, reach_of};
use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Reducer, Role, StageKind};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::literal::Literal;
use numfuse_core::plan::Strided;
use numfuse_cuda::Backend;
use numfuse_cuda::driver::{Pinned, Stream};
use smallvec::{SmallVec, smallvec};
use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

/// Memory of arrays on a device.
pub(crate) struct DeviceMemory {
    memory: numfuse_cuda::driver::Memory,
    backend: Backend,
    /// How far the first element of the array is from the first byte: not at all, unless strides are negative.
    first: usize,
}

impl DeviceMemory {
    /// Memory that is not initialised, for work that is given to the device from now on.
    #[inline]
    pub fn uninit(backend: &Backend, bytes: usize) -> Result<DeviceMemory> {
        DeviceMemory::uninit_on(backend.stream(), backend, bytes)
    }

    /// The same for work of another stream of the device.
    #[inline]
    pub fn uninit_on(stream: &Stream, backend: &Backend, bytes: usize) -> Result<DeviceMemory> {
        let memory = stream.allocate(bytes).map_err(cuda_error)?;
        Ok(DeviceMemory { memory, backend: backend.clone(), first: 0 })
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device::of_backend(self.backend.clone())
    }

    /// Which of the CUDA devices it is.
    #[inline]
    pub fn device_index(&self) -> usize {
        self.backend.device().index()
    }

    /// The address of the first byte.
    #[inline]
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Has what this memory was used for come before what the stream is given from now on.
    #[inline]
    pub(super) fn used_on(&self, stream: &Stream) -> Result<()> {
        self.memory.used_on(stream).map_err(cuda_error)
    }

    /// An array in this memory, at byte strides from its start; all of its elements have been written.
    pub fn array(&self, dtype: DType, place: &Strided) -> ArrayRef<'_> {
        self.check(dtype, place);
        ArrayRef { data: Data::Device(self.first_address(), self), dtype, place: place.clone(), life: PhantomData }
    }

    /// As [`DeviceMemory::array`], to write; nothing need have been written.
    pub fn array_mut(&mut self, dtype: DType, place: &Strided) -> ArrayMut<'_> {
        self.shared_array_mut(dtype, place)
    }

    /// The same, where the caller answers for nobody else using the elements.
    fn shared_array_mut(&self, dtype: DType, place: &Strided) -> ArrayMut<'_> {
        self.check(dtype, place);
        let first = std::ptr::without_provenance_mut(self.first_address() as usize);
        ArrayMut { first, memory: Some(self), dtype, place: place.clone(), life: PhantomData }
    }

    /// As [`DeviceMemory::array`], so many bytes from the start.
    ///
    /// # Errors
    /// If it does not lie inside.
    pub fn array_at(&self, at: usize, dtype: DType, place: &Strided) -> Result<ArrayRef<'_>> {
        super::check_inside(self.memory.len().saturating_sub(at), dtype, place)?;
        let data = Data::Device(self.address() + at as u64, self);
        Ok(ArrayRef { data, dtype, place: place.clone(), life: PhantomData })
    }

    /// Copies pinned memory to the beginning of this one, when a stream gets there.
    pub fn upload(&self, stream: &Stream, from: &mut Pinned) -> Result<()> {
        let bytes = from.len().min(self.memory.len());
        stream.upload_pinned(&self.memory, 0, from, 0..bytes).map_err(cuda_error)
    }

    /// Copies all of it to pinned memory, when a stream gets there.
    pub fn download(&self, stream: &Stream, into: &mut Pinned, at: usize) -> Result<()> {
        stream.download_pinned(&self.memory, 0..self.memory.len(), into, at).map_err(cuda_error)
    }

    fn check(&self, dtype: DType, place: &Strided) {
        let first = self.first as isize;
        let fits = |(low, high): (isize, isize)| first + low >= 0 && first + high <= self.memory.len() as isize;
        let inside = reach_of(place, dtype).is_ok_and(fits);
        assert!(inside, "an array of shape {:?} in {} bytes of a device", place.shape, self.memory.len());
    }

    /// The address of the array's first element.
    pub fn first_address(&self) -> u64 {
        self.address() + self.first as u64
    }

    /// How far an address is from the first byte.
    fn offset(&self, address: u64) -> usize {
        address.wrapping_sub(self.address()) as usize
    }

    /// Copies one byte of the memory to the host, when what was given to the device is done.
    pub(super) fn read_byte(&self, at: usize) -> Result<u8> {
        let mut byte = [0];
        self.backend.stream().download(&self.memory, at, &mut byte).map_err(cuda_error)?;
        Ok(byte[0])
    }
}

impl Array {
    /// An array of a device in memory of another library, which is not copied: `address` is that of the first element,
    /// strides are in bytes. Work on it is done in the order of `stream`, a `CUstream` of the device, if the other library
    /// has one, else after what was given to the device so far. `owner` is dropped when the array is, and all work on
    /// it was given to the stream; or, without a stream, is done.
    ///
    /// # Errors
    /// If the device is the CPU or lost, the lengths of shape and strides differ, the rank is above 32, or the extent in
    /// bytes overflows.
    ///
    /// # Safety
    /// Every element of the shape lies in memory of the device that may be read, and is written by nobody else in the
    /// meantime, as long as `owner` lives; written, too, if the array is used as an output. Bools are 0 or 1. The stream is
    /// one of the device's primary context for as long as `owner` lives.
    pub unsafe fn from_device(
        device: &Device,
        address: u64,
        dtype: DType,
        shape: &[usize],
        strides: &[isize],
        stream: Option<u64>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<Array> {
        let Some(backend) = device.backend() else {
            return Err(Error::new(Code::DeviceMismatch, "memory of a device was given as that of the CPU"));
        };
        let place = crate::layout::place(shape, strides)?;
        let (low, high) = reach_of(&place, dtype)?;
        let stream = match stream {
            Some(raw) => {
                let owner = Box::new(owner.clone());
                // SAFETY: as the caller promises.
                unsafe { Stream::import(backend.device(), raw, owner) }.map_err(cuda_error)?
            }
            None => backend.stream().clone(),
        };
        let (bytes, start) = ((high - low) as usize, address.wrapping_add_signed(low as i64));
        // SAFETY: as the caller promises, these bytes live as long as their owner.
        let memory = unsafe { numfuse_cuda::driver::Memory::import(&stream, start, bytes, Box::new(owner)) };
        let memory = DeviceMemory { memory, backend: backend.clone(), first: low.unsigned_abs() };
        Ok(Array::of_device_memory(Box::new(memory), dtype, place))
    }
}

impl Array {
    /// The components of two states of a reducer, each of an array of the device, merged element by element: each pair by
    /// [`Reducer::merge`], the left one of earlier elements. `counts` are how many elements each side is of.
    pub(crate) fn merged(
        reducer: Reducer,
        left: &[Array],
        right: &[Array],
        counts: [u64; 2],
    ) -> Result<SmallVec<[Array; 2]>> {
        let broken = || Error::new(Code::Internal, "states that do not go together");
        let first = left.first().ok_or_else(broken)?;
        let (dtype, place, count) = (first.dtype(), first.view().place().clone(), first.len());
        let components = reducer.init(dtype).len();
        let states: SmallVec<[&Array; 4]> = left.iter().chain(right).collect();
        let alike = |state: &&Array| state.dtype() == dtype && *state.view().place() == place;
        let packed = is_row_major(&place, dtype.size());
        if (left.len(), right.len()) != (components, components) || !packed || !states.iter().all(alike) {
            return Err(broken());
        }
        let mut builder = Builder::kernel(Nest::Rows);
        let mut operand = |role| builder.operand(dtype, role, Level::Inner);
        let inputs: SmallVec<[u32; 4]> = states.iter().map(|_| operand(Role::In)).collect();
        let outputs: SmallVec<[u32; 2]> = left.iter().map(|_| operand(Role::Out)).collect();
        let counts = if reducer.counts() { &counts[..] } else { &[] };
        let params: SmallVec<[_; 2]> = counts.iter().map(|_| builder.param(dtype)).collect();
        builder.stage(StageKind::Loop);
        let mut args: SmallVec<[_; 6]> = inputs.iter().map(|n| builder.load(*n)).collect();
        args.extend(params);
        let merged = builder.inline(&reducer.merge(dtype), &args);
        outputs.iter().zip(&merged).for_each(|(n, value)| builder.store(*n, *value));
        let memory: SmallVec<[&DeviceMemory; 4]> = states.iter().filter_map(|state| state.device_memory()).collect();
        let backend = &memory.first().ok_or_else(broken)?.backend;
        let mut results: SmallVec<[Array; 2]> = SmallVec::new();
        for _ in 0..components {
            let memory = Box::new(DeviceMemory::uninit(backend, count * dtype.size())?);
            results.push(Array::of_device_memory(memory, dtype, place.clone()));
        }
        let layout = Layout { inner: SmallVec::from_iter([dtype.size() as isize]), ..Layout::default() };
        let arrays = || states.iter().copied().chain(&results);
        let launch = Launch {
            inner: SmallVec::from_iter([count]),
            layouts: arrays().map(|_| layout.clone()).collect(),
            ..Launch::default()
        };
        let addresses: SmallVec<[u64; 8]> = arrays().filter_map(Array::device_address).collect();
        if addresses.len() != launch.layouts.len() {
            return Err(broken());
        }
        let params: SmallVec<[u64; 2]> = counts.iter().map(|n| Literal::from_i64(dtype, *n as i64).bits()).collect();
        let memory = arrays().filter_map(Array::device_memory);
        // SAFETY: the launch goes along the elements of arrays that were just found to have as many, in their own memory; those
        // that are written are new.
        unsafe { launched(backend, builder.finish(), launch, &addresses, &params, memory) }?;
        Ok(results)
    }

    /// As [`Array::view_mut`], of an array of a device that several hold, as those of another language may.
    ///
    /// # Errors
    /// If the array is on the host.
    ///
    /// # Safety
    /// Until the work on it is done, nobody else uses the elements but in the order of the device's stream.
    pub unsafe fn shared_view_mut(&self) -> Result<ArrayMut<'_>> {
        let memory =
            self.device_memory().ok_or_else(|| Error::new(Code::DeviceMismatch, "the array is on the host"))?;
        Ok(memory.shared_array_mut(self.dtype(), self.view().place()))
    }
}

impl Device {
    /// Has a `CUstream` of the device wait, before it does what it is given from now on, for all that numfuse has given to
    /// the device so far: as it has to before another library reads what is computed here, or writes to what is read
    /// here. The CPU has nothing to wait for.
    ///
    /// # Errors
    /// If the device is lost.
    ///
    /// # Safety
    /// The stream is one of the device's primary context, or 1 or 2, the default streams.
    pub unsafe fn precede(&self, stream: u64) -> Result<()> {
        let Some(backend) = self.backend() else { return Ok(()) };
        // SAFETY: as the caller promises; it is used during this call only.
        let stream = unsafe { Stream::import(backend.device(), stream, Box::new(())) }.map_err(cuda_error)?;
        stream.wait_stream(backend.stream()).map_err(cuda_error)
    }
}

/// Copies the elements of an array of the same dtype and shape; one of the two at least is on a device. They do not
/// overlap. Copies on a device do not wait, all others do.
#[cold]
pub(super) fn copy(to: &mut ArrayMut<'_>, from: &ArrayRef<'_>) -> Result<()> {
    let size = to.dtype.size();
    let packed = |place: &Strided| is_row_major(place, size);
    let bytes = size * from.len();
    match (to.memory, from.data) {
        (Some(target), Data::Device(address, source)) if target.device_index() == source.device_index() => {
            let stream = target.backend.stream();
            if packed(&to.place) && packed(&from.place) {
                let (at, start) = (target.offset(to.first as u64), source.offset(address));
                return stream.copy(&target.memory, at, &source.memory, start..start + bytes).map_err(cuda_error);
            }
            copy_elements(to, target, from, address, source)
        }
        (Some(target), Data::Memory(_) | Data::Scalar { .. }) => {
            if !packed(&to.place) {
                return to.copy_from(&Array::copy_to(from, &target.device())?.view());
            }
            let number = match from.data {
                Data::Scalar { bits, .. } => Some(bits.to_le_bytes()),
                Data::Memory(_) | Data::Device(..) => None,
            };
            let at = target.offset(to.first as u64);
            let upload = |bytes: &[u8]| target.backend.stream().upload(&target.memory, at, bytes).map_err(cuda_error);
            match (number, from.as_bytes()) {
                (Some(number), _) => upload(&number[..size]),
                (None, Some(bytes)) => upload(bytes),
                (None, None) => upload(Array::copy_of(from)?.view().as_bytes().unwrap_or_default()),
            }
        }
        // To the host, or to another device by way of the host.
        (_, Data::Device(address, source)) => {
            if !packed(&from.place) {
                return to.copy_from(&Array::copy_of(from)?.view());
            }
            let mut memory = Memory::uninit(bytes)?;
            let stream = source.backend.stream();
            stream
                .download_uninit(&source.memory, source.offset(address), memory.uninit_bytes())
                .map_err(cuda_error)?;
            let place = Strided::row_major(&from.place.shape, from.dtype)?;
            to.copy_from(&memory.array(from.dtype, &place))
        }
        (None, Data::Memory(_) | Data::Scalar { .. }) => {
            Err(Error::new(Code::Internal, "a copy on the host was given to a device"))
        }
    }
}

/// Copies between two arrays of one device, of any strides, by a kernel.
fn copy_elements(
    to: &ArrayMut<'_>,
    target: &DeviceMemory,
    from: &ArrayRef<'_>,
    address: u64,
    source: &DeviceMemory,
) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    let mut builder = Builder::kernel(Nest::Rows);
    let [input, output] = [Role::In, Role::Out].map(|role| builder.operand(to.dtype, role, Level::Inner));
    builder.stage(StageKind::Loop);
    let element = builder.load(input);
    builder.store(output, element);
    let kernel = builder.finish();
    let layout = |place: &Strided| Layout { inner: place.strides.iter().copied().collect(), ..Layout::default() };
    let launch = Launch {
        inner: to.place.shape.iter().map(|n| *n as usize).collect(),
        layouts: vec![layout(&from.place), layout(&to.place)],
        ..Launch::default()
    };
    let addresses: SmallVec<[u64; 2]> = smallvec![address, to.first as u64];
    // SAFETY: the launch reaches the elements of the two arrays; the caller promises that they do not overlap.
    unsafe { launched(&target.backend, kernel, launch, &addresses, &[], [source, target]) }
}

/// Has a device run a kernel without reductions.
///
/// # Safety
/// From its address each operand reaches, in this launch, its own memory of that device only, which is given back in the order of
/// the device's stream; what is written overlaps no input.
unsafe fn launched<'m>(
    backend: &Backend,
    mut kernel: Kernel,
    mut launch: Launch,
    addresses: &[u64],
    params: &[u64],
    memory: impl IntoIterator<Item = &'m DeviceMemory>,
) -> Result<()> {
    launch.canonicalize(&kernel);
    launch.set_accesses(&mut kernel);
    let prepared = backend.prepare(&kernel, &launch, addresses).map_err(cuda_error)?;
    let workspace = backend.stream().allocate(prepared.workspace() as usize).map_err(cuda_error)?;
    memory.into_iter().try_for_each(|memory| memory.used_on(backend.stream()))?;
    // SAFETY: as the caller promises.
    unsafe { prepared.run(backend.stream(), addresses, params, workspace.address()) }.map_err(cuda_error)
}
