//! Memory: of the device, in the order of streams, and of the host, pinned so that the device copies it by itself.

use super::api::{SUCCESS, Status};
use super::call;
use super::device::Device;
use super::stream::{Event, Stream, new_event};
use crate::Error;
use cudarc::driver::sys::{CUdeviceptr, CUevent_flags_enum as EventFlags, CUresult};
use smallvec::SmallVec;
use std::alloc::{self, Layout};
use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Bytes of a device, which belong to a stream: they can be used by work that is submitted to it after they were
/// allocated, and are given back, when this is dropped, after all work that was submitted before.
///
/// On another stream they are used after [`Memory::used_on`], which the copies of [`Stream`] call themselves. An address is
/// aligned to 256 bytes at least, unless it is imported.
pub struct Memory {
    stream: Stream,
    address: CUdeviceptr,
    bytes: usize,
    origin: Origin,
    /// Other streams that have used it.
    users: Mutex<SmallVec<[Stream; 1]>>,
}

enum Origin {
    /// The device's pool.
    Pool,
    /// The device, which waits for everything when it takes memory back.
    Plain,
    /// Another library; there are no bytes to be had of nowhere, either.
    Foreign(Option<Box<dyn Any + Send + Sync>>),
}

/// See [`Stream::allocate`].
pub(super) fn allocate(stream: &Stream, bytes: usize) -> Result<Memory, Error> {
    let device = stream.device();
    let memory = |address, origin| Memory { stream: stream.clone(), address, bytes, origin, users: Mutex::default() };
    device.release_parked();
    let _current = device.enter()?;
    if bytes == 0 {
        return Ok(memory(0, Origin::Foreign(None)));
    }
    let mut address = 0;
    // SAFETY: the pool is the device's, and the result goes to a place of its type.
    let mut attempt = || unsafe {
        let api = device.api();
        match device.pool() {
            Some(pool) => {
                let status = (api.cuMemAllocFromPoolAsync)(&mut address, bytes, pool, stream.raw());
                ("cuMemAllocFromPoolAsync", status)
            }
            None => ("cuMemAlloc", (api.cuMemAlloc_v2)(&mut address, bytes)),
        }
    };
    let (mut call, mut status) = attempt();
    if status == OUT_OF_MEMORY {
        // Memory may be on its way back, or be kept for reuse in pieces that are too small.
        device.trim()?;
        (call, status) = attempt();
    }
    if status == OUT_OF_MEMORY {
        let (asked, free, total) = (bytes as u64, device.memory_free()?, device.memory_total());
        return Err(Error::OutOfMemory { asked, free, total });
    }
    device.check(call, status)?;
    device.add_used(bytes as u64);
    Ok(memory(address, if device.pool().is_some() { Origin::Pool } else { Origin::Plain }))
}

const OUT_OF_MEMORY: Status = CUresult::CUDA_ERROR_OUT_OF_MEMORY as Status;

impl Memory {
    /// Memory of another library, which belongs to a stream from now on: the other library's own, where it is known (see
    /// [`Stream::import`]), else any. `owner` keeps it alive. It is dropped when this is: after the stream was told to
    /// wait for all work that uses the memory, if the stream is the other library's, else when that work is done.
    ///
    /// # Safety
    ///
    /// The bytes are of the stream's device, live for as long as `owner` does, and have their contents when the stream
    /// gets to the work that is submitted next.
    pub unsafe fn import(stream: &Stream, address: u64, bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Memory {
        let origin = Origin::Foreign(Some(owner));
        Memory { stream: stream.clone(), address, bytes, origin, users: Mutex::default() }
    }

    /// The address of its first byte on the device; 0 if it has none.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stream it belongs to.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        self.stream.device()
    }

    /// Lets a stream use it: what is submitted to that stream next is done after what was submitted to the memory's own so
    /// far, and the memory is given back only after what that stream has been told to do by then.
    #[inline]
    pub fn used_on(&self, stream: &Stream) -> Result<(), Error> {
        if *stream == self.stream { Ok(()) } else { self.used_on_other(stream) }
    }

    #[cold]
    fn used_on_other(&self, stream: &Stream) -> Result<(), Error> {
        stream.device().check_same(self.device())?;
        stream.wait_stream(&self.stream)?;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if !users.contains(stream) {
            users.push(stream.clone());
        }
        Ok(())
    }

    /// The address of one of its bytes.
    pub(super) fn at(&self, offset: usize) -> CUdeviceptr {
        self.address.wrapping_add(offset as u64)
    }

    /// Parks the owner of imported memory until the work on it is done, if there is any.
    fn park(&self, owner: Box<dyn Any + Send + Sync>) {
        let device = self.device();
        let busy = self.stream.is_idle() == Ok(false);
        let Some(_current) = device.enter_to_free().filter(|_| busy) else { return };
        let Ok(event) = new_event(device, EventFlags::CU_EVENT_DISABLE_TIMING) else {
            let _ = self.stream.synchronize();
            return;
        };
        // SAFETY: both are live and of one context.
        let recorded = unsafe { call!(device, cuEventRecord(event, self.stream.raw())) };
        if recorded.is_err() {
            let _ = self.stream.synchronize();
        }
        device.park(event, owner);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let users = std::mem::take(self.users.get_mut().unwrap_or_else(PoisonError::into_inner));
        for user in &users {
            // Without an order, only waiting is left. A lost device does no work, and a child has none.
            if self.stream.wait_stream(user).is_err() {
                let _ = user.synchronize();
            }
        }
        match std::mem::replace(&mut self.origin, Origin::Foreign(None)) {
            Origin::Foreign(owner) => {
                if let Some(owner) = owner.filter(|_| !self.stream.is_foreign()) {
                    self.park(owner);
                }
                self.device().release_parked();
            }
            origin => {
                let device = self.device();
                device.subtract_used(self.bytes as u64);
                let plain = matches!(origin, Origin::Plain);
                if plain {
                    let _ = self.stream.synchronize();
                }
                let Some(_current) = device.enter_to_free() else { return };
                // SAFETY: the memory was allocated this way, and nobody has its address any more but work that was
                // submitted before.
                let _ = unsafe {
                    if plain {
                        call!(device, cuMemFree_v2(self.address))
                    } else {
                        call!(device, cuMemFreeAsync(self.address, self.stream.raw()))
                    }
                };
            }
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes at {:#x} of {:?})", self.bytes, self.address, self.device())
    }
}

/// Memory of the host that the device copies to and from by itself, while the host does something else.
///
/// Where the system has no pages to pin it is ordinary memory, of which all is true but that: the driver copies it by way of
/// pages of its own, and the host waits for some of that.
pub struct Pinned {
    device: Device,
    bytes: NonNull<u8>,
    len: usize,
    /// Not from the driver.
    ordinary: bool,
    /// The end of the last copy. Copies of one `Pinned` are in order, whatever their streams.
    copied: Option<Event>,
}

// SAFETY: it owns its bytes.
unsafe impl Send for Pinned {}
// SAFETY: bytes are written through `&mut` alone, or by copies that every access waits for.
unsafe impl Sync for Pinned {}

/// Where ordinary memory begins: at a multiple of this, as pinned memory does.
const PAGE: usize = 4096;
/// What the driver says where there is nothing to be pinned, or it may not be.
const NOT_PINNED: [CUresult; 4] = [
    CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    CUresult::CUDA_ERROR_OPERATING_SYSTEM,
    CUresult::CUDA_ERROR_NOT_PERMITTED,
    CUresult::CUDA_ERROR_NOT_SUPPORTED,
];

impl Pinned {
    /// Memory of zeros. Pinned, it is an expensive thing to make: pages are locked one by one.
    pub fn new(device: &Device, len: usize) -> Result<Pinned, Error> {
        let _current = device.enter()?;
        let pinned = |bytes, ordinary| Pinned { device: device.clone(), bytes, len, ordinary, copied: None };
        if len == 0 {
            return Ok(pinned(NonNull::dangling(), false));
        }
        let mut bytes = std::ptr::null_mut();
        // Not write-combined: the host also reads it.
        // SAFETY: the result goes to a place of its type.
        let status = unsafe { (device.api().cuMemHostAlloc)(&mut bytes, len, 0) };
        if !NOT_PINNED.iter().any(|refused| *refused as Status == status) {
            device.check("cuMemHostAlloc", status)?;
        }
        match NonNull::new(bytes.cast::<u8>()).filter(|_| status == SUCCESS) {
            Some(bytes) => {
                // SAFETY: it is memory of that many bytes.
                unsafe { bytes.write_bytes(0, len) };
                Ok(pinned(bytes, false))
            }
            None => {
                let none = || Error::HostMemory { asked: len as u64 };
                let layout = Layout::from_size_align(len, PAGE).map_err(|_| none())?;
                // SAFETY: there are some bytes.
                let bytes = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or_else(none)?;
                Ok(pinned(bytes, true))
            }
        }
    }

    /// Whether it is pinned, as it is wherever that can be had.
    pub fn is_pinned(&self) -> bool {
        !self.ordinary
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Waits until all copies are done.
    pub fn wait(&self) -> Result<(), Error> {
        match &self.copied {
            Some(copied) => copied.synchronize(),
            // Also tells of a lost device, and of a child, where these pages may not be.
            None => self.device.enter().map(drop),
        }
    }

    /// The bytes. Waits until all copies are done.
    pub fn bytes(&self) -> Result<&[u8], Error> {
        self.wait()?;
        // SAFETY: the bytes are initialised, and no copy writes to them while they are borrowed: copies borrow mutably.
        Ok(unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) })
    }

    /// The bytes, to be written. Waits until all copies are done.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], Error> {
        self.wait()?;
        // SAFETY: as in `bytes`; the borrow is the only one.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Submits a copy of some of the bytes to a stream, after the copies before.
    pub(super) fn copied_on(
        &mut self,
        stream: &Stream,
        copy: impl FnOnce(*mut u8) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let copied = match &self.copied {
            Some(copied) => {
                stream.wait(copied)?;
                copied
            }
            None => self.copied.insert(Event::new(&self.device)?),
        };
        copy(self.bytes.as_ptr())?;
        // A copy that nothing waits for must not be left.
        copied.record(stream).inspect_err(|_| {
            let _ = stream.finish();
        })
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes for {:?})", self.len, self.device)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.wait().is_err() {
            let _ = self.device.synchronize();
        }
        if self.len == 0 {
            return;
        }
        if let (true, Ok(layout)) = (self.ordinary, Layout::from_size_align(self.len, PAGE)) {
            // SAFETY: the memory was allocated with this layout, and no copy is at work on it.
            unsafe { alloc::dealloc(self.bytes.as_ptr(), layout) };
            return;
        }
        let Some(_current) = self.device.enter_to_free() else { return };
        // SAFETY: the memory was allocated this way, and no copy is at work on it.
        let _ = unsafe { call!(self.device, cuMemFreeHost(self.bytes.as_ptr().cast())) };
    }
}

/// An error if a range is not inside of something.
pub(super) fn check_range(what: &str, at: usize, bytes: usize, len: usize) -> Result<(), Error> {
    if at.checked_add(bytes).is_some_and(|end| end <= len) {
        return Ok(());
    }
    Err(Error::Internal(format!("{what} of {bytes} bytes at byte {at} of {len}")))
}
