//! Streams: work that a device does in order. Copies, launches, and the events by which streams wait for each other.

use super::api::{SUCCESS, Status};
use super::device::Device;
use super::memory::{Memory, Pinned, check_range};
use super::module::Function;
use super::{call, memory};
use crate::Error;
use crate::emit::Grid;
use cudarc::driver::sys::{CUevent, CUevent_flags_enum as EventFlags, CUresult, CUstream, CUstream_flags_enum};
use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// A queue of work. A clone is the same stream.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

/// What is behind the clones of a [`Stream`].
pub(super) struct Inner {
    device: Device,
    raw: CUstream,
    /// Where the stream was when another last waited for it.
    tail: CUevent,
    /// Who a stream of somebody else belongs to.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: handles of the driver may be used by any thread; the owner is `Send`.
unsafe impl Send for Inner {}
// SAFETY: the driver's functions may be called by several threads at once; the owner is `Sync`.
unsafe impl Sync for Inner {}

impl Stream {
    /// A new stream, which has no order with the legacy default stream.
    pub fn new(device: &Device) -> Result<Stream, Error> {
        let _current = device.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags = CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current and the result goes to a place of its type.
        unsafe { call!(device, cuStreamCreate(&mut raw, flags)) }?;
        let tail = new_event(device, EventFlags::CU_EVENT_DISABLE_TIMING).inspect_err(|_| {
            // SAFETY: the stream is new, and goes away with its only handle.
            let _ = unsafe { call!(device, cuStreamDestroy_v2(raw)) };
        })?;
        Ok(Stream(Arc::new(Inner { device: device.clone(), raw, tail, owner: None })))
    }

    /// A stream of another library, by its `CUstream`; 1 and 2 are the default streams. `owner` is dropped when the last
    /// clone is.
    ///
    /// # Safety
    ///
    /// It is a stream of this device's primary context for as long as `owner` lives, and is not captured into a graph while
    /// it is used here.
    pub unsafe fn import(device: &Device, raw: u64, owner: Box<dyn Any + Send + Sync>) -> Result<Stream, Error> {
        let _current = device.enter()?;
        let raw = usize::try_from(raw).map_err(|_| Error::Internal(format!("{raw:#x} is no stream")))?;
        let tail = new_event(device, EventFlags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Stream(Arc::new(Inner { device: device.clone(), raw: raw as CUstream, tail, owner: Some(owner) })))
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Its `CUstream`, by which other libraries put their work in order with it.
    pub fn handle(&self) -> u64 {
        self.0.raw as usize as u64
    }

    /// Memory of uninitialised bytes, for work of this stream; see [`Memory`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], after what is kept for reuse was given back.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, Error> {
        memory::allocate(self, bytes)
    }

    /// Copies bytes of the host to the device. Waits until they are there.
    pub fn upload(&self, to: &Memory, at: usize, from: &[u8]) -> Result<(), Error> {
        check_range("an upload", at, from.len(), to.len())?;
        if from.is_empty() {
            return Ok(());
        }
        to.used_on(self)?;
        {
            let _current = self.enter()?;
            // SAFETY: both ranges are live and inside of their memory, and the slice is borrowed until the copy is done.
            unsafe {
                call!(self.0.device, cuMemcpyHtoDAsync_v2(to.at(at), from.as_ptr().cast(), from.len(), self.0.raw))
            }?;
        }
        self.finish()
    }

    /// Copies bytes of the device to the host. Waits until they are there.
    pub fn download(&self, from: &Memory, at: usize, into: &mut [u8]) -> Result<(), Error> {
        // SAFETY: bytes that are initialised may be seen as bytes that may not be, as only a copy writes to them.
        let into = unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<MaybeUninit<u8>>(), into.len()) };
        self.download_uninit(from, at, into).map(|_| ())
    }

    /// The same into memory that need not be initialised, and is when this succeeds.
    pub fn download_uninit<'a>(
        &self,
        from: &Memory,
        at: usize,
        into: &'a mut [MaybeUninit<u8>],
    ) -> Result<&'a mut [u8], Error> {
        check_range("a download", at, into.len(), from.len())?;
        if !into.is_empty() {
            from.used_on(self)?;
            {
                let _current = self.enter()?;
                let host = into.as_mut_ptr().cast();
                // SAFETY: both ranges are live and inside of their memory, and the slice is borrowed until the copy is
                // done.
                unsafe { call!(self.0.device, cuMemcpyDtoHAsync_v2(host, from.at(at), into.len(), self.0.raw)) }?;
            }
            self.finish()?;
        }
        // SAFETY: the copy has written every byte; there may be none.
        Ok(unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast(), into.len()) })
    }

    /// Copies a range of pinned memory to the device, when the stream gets there.
    pub fn upload_pinned(&self, to: &Memory, at: usize, from: &mut Pinned, range: Range<usize>) -> Result<(), Error> {
        let bytes = range.len();
        check_range("an upload", at, bytes, to.len())?;
        check_range("an upload", range.start, bytes, from.len())?;
        if bytes == 0 {
            return Ok(());
        }
        self.0.device.check_same(from.device())?;
        to.used_on(self)?;
        let _current = self.enter()?;
        from.copied_on(self, |host| {
            // SAFETY: both ranges are inside of their memory, which lives until the copy is done: `Memory` is freed in
            // the order of streams, and `Pinned` waits.
            unsafe {
                let host = host.add(range.start).cast::<c_void>();
                call!(self.0.device, cuMemcpyHtoDAsync_v2(to.at(at), host, bytes, self.0.raw))
            }
        })
    }

    /// Copies a range of the device's memory to pinned memory, when the stream gets there.
    pub fn download_pinned(
        &self,
        from: &Memory,
        range: Range<usize>,
        into: &mut Pinned,
        at: usize,
    ) -> Result<(), Error> {
        let bytes = range.len();
        check_range("a download", range.start, bytes, from.len())?;
        check_range("a download", at, bytes, into.len())?;
        if bytes == 0 {
            return Ok(());
        }
        self.0.device.check_same(into.device())?;
        from.used_on(self)?;
        let _current = self.enter()?;
        into.copied_on(self, |host| {
            // SAFETY: as in `upload_pinned`.
            unsafe {
                let host = host.add(at).cast::<c_void>();
                call!(self.0.device, cuMemcpyDtoHAsync_v2(host, from.at(range.start), bytes, self.0.raw))
            }
        })
    }

    /// Copies on the device, when the stream gets there. The ranges must not overlap.
    pub fn copy(&self, to: &Memory, at: usize, from: &Memory, range: Range<usize>) -> Result<(), Error> {
        to.used_on(self)?;
        from.used_on(self)?;
        self.record_copy(to, at, from, range)
    }

    /// Sets every byte of a range, when the stream gets there.
    pub fn fill(&self, memory: &Memory, range: Range<usize>, byte: u8) -> Result<(), Error> {
        memory.used_on(self)?;
        self.record_fill(memory, range, byte)
    }

    /// Runs a function of a module, when the stream gets there. The words are its one argument; they are copied now.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when the function wants another number of words, [`Error::Unsupported`] when it wants more
    /// shared memory than a block can have, and what the driver says. What goes wrong in the kernel itself is told by a
    /// later call, as by [`Stream::synchronize`].
    ///
    /// # Safety
    ///
    /// The function may access whatever the words lead it to, within the sizes they give, while it runs. Memory of another
    /// stream was put in order by [`Memory::used_on`].
    pub unsafe fn launch(&self, function: &Function, grid: &Grid, words: &[u64]) -> Result<(), Error> {
        self.0.device.check_same(function.device())?;
        let _current = self.enter()?;
        function.prepare(grid, words)?;
        let mut block = words.as_ptr().cast_mut().cast::<c_void>();
        let ([x, y, z], [i, j, k]) = (grid.blocks, grid.threads);
        // SAFETY: the one argument has the size that the function wants and is copied before the call returns; what it
        // leads to is what the caller promises.
        unsafe {
            call!(
                self.0.device,
                cuLaunchKernel(
                    function.raw(),
                    x,
                    y,
                    z,
                    i,
                    j,
                    k,
                    grid.shared,
                    self.0.raw,
                    &raw mut block,
                    std::ptr::null_mut()
                )
            )
        }
    }

    /// Waits until all that was submitted to the stream is done, and tells what went wrong in it.
    pub fn synchronize(&self) -> Result<(), Error> {
        {
            let _current = self.enter()?;
            // SAFETY: the stream is live.
            unsafe { call!(self.0.device, cuStreamSynchronize(self.0.raw)) }?;
        }
        self.0.device.release_parked();
        Ok(())
    }

    /// [`Stream::synchronize`] for a copy with memory that is only borrowed. If that fails, the copy must not go on: a lost
    /// device does no work, and for anything else there is another way to wait.
    pub(super) fn finish(&self) -> Result<(), Error> {
        self.synchronize().inspect_err(|_| {
            let _ = self.device().synchronize();
        })
    }

    /// Whether all that was submitted to the stream is done.
    pub fn is_idle(&self) -> Result<bool, Error> {
        let _current = self.enter()?;
        // SAFETY: the stream is live.
        let status = unsafe { (self.0.device.api().cuStreamQuery)(self.0.raw) };
        is_ready(&self.0.device, "cuStreamQuery", status)
    }

    /// Has later work of this stream wait for an event.
    pub fn wait(&self, event: &Event) -> Result<(), Error> {
        self.wait_raw(event.raw)
    }

    /// Has later work of this stream wait for all that was submitted to another so far.
    pub fn wait_stream(&self, other: &Stream) -> Result<(), Error> {
        if self == other {
            return Ok(());
        }
        {
            let _current = other.enter()?;
            // Should another thread record the same event before the wait, the wait is for more: never for less.
            // SAFETY: the event and the stream are live and of one context.
            unsafe { call!(other.0.device, cuEventRecord(other.0.tail, other.0.raw)) }?;
        }
        self.wait_raw(other.0.tail)
    }

    fn wait_raw(&self, event: CUevent) -> Result<(), Error> {
        let _current = self.enter()?;
        // SAFETY: both are live; an event may be destroyed while streams wait for it.
        unsafe { call!(self.0.device, cuStreamWaitEvent(self.0.raw, event, 0)) }
    }

    /// [`Stream::copy`] without putting streams in order.
    pub(super) fn record_copy(&self, to: &Memory, at: usize, from: &Memory, range: Range<usize>) -> Result<(), Error> {
        let bytes = range.len();
        check_range("a copy", range.start, bytes, from.len())?;
        check_range("a copy", at, bytes, to.len())?;
        let (target, source) = (to.at(at), from.at(range.start));
        if bytes == 0 {
            return Ok(());
        }
        if target.abs_diff(source) < bytes as u64 {
            return Err(Error::Internal("the ranges of a copy overlap".to_owned()));
        }
        let _current = self.enter()?;
        // SAFETY: both ranges are inside of their memory, which is freed in the order of streams.
        unsafe { call!(self.0.device, cuMemcpyDtoDAsync_v2(target, source, bytes, self.0.raw)) }
    }

    /// [`Stream::fill`] without putting streams in order.
    pub(super) fn record_fill(&self, memory: &Memory, range: Range<usize>, byte: u8) -> Result<(), Error> {
        check_range("a fill", range.start, range.len(), memory.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let _current = self.enter()?;
        // SAFETY: the range is inside of the memory, which is freed in the order of streams.
        unsafe { call!(self.0.device, cuMemsetD8Async(memory.at(range.start), byte, range.len(), self.0.raw)) }
    }

    pub(super) fn enter(&self) -> Result<super::device::Current, Error> {
        self.0.device.enter()
    }

    pub(crate) fn raw(&self) -> CUstream {
        self.0.raw
    }

    /// Whether it belongs to another library.
    pub(super) fn is_foreign(&self) -> bool {
        self.0.owner.is_some()
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn upgrade(inner: &Weak<Inner>) -> Option<Stream> {
        inner.upgrade().map(Stream)
    }
}

/// The same stream, not one that has done the same.
impl PartialEq for Stream {
    #[inline]
    fn eq(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stream {}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?} of {:?})", self.0.raw, self.0.device)
    }
}

impl Drop for Inner {
    /// What was submitted is still done.
    fn drop(&mut self) {
        let Some(_current) = self.device.enter_to_free() else { return };
        // SAFETY: nobody else has the handles; the driver frees what is behind them when the work is done.
        unsafe {
            let _ = call!(self.device, cuEventDestroy_v2(self.tail));
            if self.owner.is_none() {
                let _ = call!(self.device, cuStreamDestroy_v2(self.raw));
            }
        }
    }
}

/// A place in a stream, which can be waited for, and which has a time.
pub struct Event {
    device: Device,
    raw: CUevent,
}

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Event {}
// SAFETY: the driver's functions may be called by several threads at once.
unsafe impl Sync for Event {}

impl Event {
    /// An event that is nowhere yet, and so has happened.
    pub fn new(device: &Device) -> Result<Event, Error> {
        let raw = new_event(device, EventFlags::CU_EVENT_DEFAULT)?;
        Ok(Event { device: device.clone(), raw })
    }

    /// The event is from now on the end of what was submitted to a stream of its device so far.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        stream.device().check_same(&self.device)?;
        let _current = self.device.enter()?;
        // SAFETY: both are live and of one context.
        unsafe { call!(self.device, cuEventRecord(self.raw, stream.raw())) }
    }

    /// Waits until it has happened.
    pub fn synchronize(&self) -> Result<(), Error> {
        let _current = self.device.enter()?;
        // SAFETY: the event is live.
        unsafe { call!(self.device, cuEventSynchronize(self.raw)) }
    }

    /// Whether it has happened.
    pub fn is_done(&self) -> Result<bool, Error> {
        let _current = self.device.enter()?;
        // SAFETY: the event is live.
        let status = unsafe { (self.device.api().cuEventQuery)(self.raw) };
        is_ready(&self.device, "cuEventQuery", status)
    }

    /// The milliseconds of the device from this event to a later one. Waits until both have happened.
    pub fn elapsed_ms(&self, later: &Event) -> Result<f32, Error> {
        self.device.check_same(&later.device)?;
        self.synchronize()?;
        later.synchronize()?;
        let _current = self.device.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: both are live and of one context, and the result goes to a place of its type.
        unsafe { call!(self.device, cuEventElapsedTime(&mut milliseconds, self.raw, later.raw)) }?;
        Ok(milliseconds)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:?} of {:?})", self.raw, self.device)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let Some(_current) = self.device.enter_to_free() else { return };
        // SAFETY: nobody else has the handle; streams that wait for it still do.
        let _ = unsafe { call!(self.device, cuEventDestroy_v2(self.raw)) };
    }
}

/// An event of the driver, which its caller destroys.
pub(super) fn new_event(device: &Device, flags: EventFlags) -> Result<CUevent, Error> {
    let _current = device.enter()?;
    let mut event = std::ptr::null_mut();
    // SAFETY: the context is current and the result goes to a place of its type.
    unsafe { call!(device, cuEventCreate(&mut event, flags as u32)) }?;
    Ok(event)
}

/// What a query found.
fn is_ready(device: &Device, call: &'static str, status: Status) -> Result<bool, Error> {
    match status {
        SUCCESS => Ok(true),
        NOT_READY => Ok(false),
        status => device.check(call, status).map(|()| true),
    }
}

const NOT_READY: Status = CUresult::CUDA_ERROR_NOT_READY as Status;
