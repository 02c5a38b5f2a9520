//! A device: its primary context, which all of a process's CUDA libraries share, and how calls into it fail.

use super::api::{Api, SUCCESS, Status};
use super::stream::{self, Stream};
use super::{Driver, call};
use crate::Error;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute_enum as Attribute, CUevent, CUmemAllocationType, CUmemLocationType,
    CUmemPool_attribute_enum as PoolAttribute, CUmemPoolProps, CUmemoryPool, CUresult,
};
use std::any::Any;
use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A device with its context. A clone is the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

/// Memory of a device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStats {
    /// What is allocated at present by this process through numfuse.
    pub used: u64,
    /// The most that ever was.
    pub peak: u64,
    /// What is held from the device: what is used, what is kept for reuse, and what is freed but for work to come.
    pub reserved: u64,
}

struct Inner {
    driver: Driver,
    index: usize,
    handle: CUdevice,
    context: CUcontext,
    /// Where memory comes from; none where devices have no pools.
    pool: Option<CUmemoryPool>,
    properties: Properties,
    /// The first error after which no call works.
    lost: OnceLock<Error>,
    used: AtomicU64,
    peak: AtomicU64,
    /// The stream that is shared, while somebody has it.
    stream: Mutex<Weak<stream::Inner>>,
    parked: Mutex<Vec<Parked>>,
}

struct Properties {
    name: String,
    arch: (u32, u32),
    multiprocessors: u32,
    shared: u32,
    total: u64,
}

/// What is to be dropped once an event has happened.
struct Parked {
    event: CUevent,
    _keep: Box<dyn Any + Send + Sync>,
}

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Inner {}
// SAFETY: the driver's functions may be called by several threads at once.
unsafe impl Sync for Inner {}
// SAFETY: as above.
unsafe impl Send for Parked {}

/// The devices that are open: there is one [`Inner`] for each, so that all who use a device see its errors.
static OPEN: Mutex<Vec<(usize, Weak<Inner>)>> = Mutex::new(Vec::new());

impl Device {
    /// Opens a device, which stays open until whatever was made from it is gone. An open device is found again.
    ///
    /// # Errors
    ///
    /// Those of [`Driver::load`]; [`Error::NoDevice`]; an earlier error of the device, if it is lost.
    pub fn open(index: usize) -> Result<Device, Error> {
        let driver = Driver::load()?;
        let count = driver.device_count();
        if index >= count {
            return Err(Error::NoDevice { index, count });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, device)| device.strong_count() > 0);
        let found = open.iter().find(|(i, _)| *i == index).and_then(|(_, device)| device.upgrade());
        if let Some(found) = found {
            drop(open);
            return found.lost.get().map_or_else(|| Ok(Device(found.clone())), |e| Err(e.clone()));
        }
        let device = Device::create(driver, index)?;
        open.push((index, Arc::downgrade(&device.0)));
        Ok(device)
    }

    fn create(driver: Driver, index: usize) -> Result<Device, Error> {
        let ordinal = i32::try_from(index).map_err(|_| Error::NoDevice { index, count: driver.device_count() })?;
        let (mut handle, mut context) = (0, std::ptr::null_mut());
        // SAFETY: the driver is initialised, the index is in range, and results go to places of their types.
        let properties = unsafe {
            call!(driver, cuDeviceGet(&mut handle, ordinal))?;
            let properties = Properties::of(driver, handle)?;
            call!(driver, cuDevicePrimaryCtxRetain(&mut context, handle))?;
            properties
        };
        // From here on, the context is given back when the device is dropped.
        let mut inner = Inner {
            driver,
            index,
            handle,
            context,
            pool: None,
            properties,
            lost: OnceLock::new(),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            stream: Mutex::default(),
            parked: Mutex::default(),
        };
        let pools = attribute(driver, handle, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        if pools {
            inner.pool = inner.create_pool()?;
        }
        Ok(Device(Arc::new(inner)))
    }

    /// Which of the devices it is.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Its name, as in `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.0.properties.name
    }

    /// Its compute capability: (9, 0) is the architecture `sm_90`.
    pub fn arch(&self) -> (u32, u32) {
        self.0.properties.arch
    }

    /// The number of its multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.0.properties.multiprocessors
    }

    /// The bytes of shared memory that a block can have at most.
    pub fn max_shared(&self) -> u32 {
        self.0.properties.shared
    }

    /// The bytes of its memory.
    pub fn memory_total(&self) -> u64 {
        self.0.properties.total
    }

    /// The bytes of its memory that no process uses at present.
    pub fn memory_free(&self) -> Result<u64, Error> {
        let (mut free, mut total) = (0, 0);
        let _current = self.enter()?;
        // SAFETY: results go to places of their types.
        unsafe { call!(self, cuMemGetInfo_v2(&mut free, &mut total)) }?;
        Ok(free as u64)
    }

    /// What memory is used for.
    pub fn memory_stats(&self) -> Result<MemoryStats, Error> {
        let used = self.0.used.load(Ordering::Relaxed);
        let mut reserved = used;
        let _current = self.enter()?;
        if let Some(pool) = self.0.pool {
            let current = PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
            // SAFETY: the pool is the device's, and this attribute is a number of 64 bits.
            unsafe { call!(self, cuMemPoolGetAttribute(pool, current, (&raw mut reserved).cast())) }?;
        }
        Ok(MemoryStats { used, peak: self.0.peak.load(Ordering::Relaxed), reserved })
    }

    /// Waits until all that was submitted to the device is done.
    pub fn synchronize(&self) -> Result<(), Error> {
        {
            let _current = self.enter()?;
            // SAFETY: the context is current.
            unsafe { call!(self, cuCtxSynchronize()) }?;
        }
        self.release_parked();
        Ok(())
    }

    /// Gives back the memory that is kept for reuse. Waits until all that was submitted is done.
    pub fn trim(&self) -> Result<(), Error> {
        self.synchronize()?;
        if let Some(pool) = self.0.pool {
            let _current = self.enter()?;
            // SAFETY: the pool is the device's.
            unsafe { call!(self, cuMemPoolTrimTo(pool, 0)) }?;
        }
        Ok(())
    }

    /// The stream of everybody who has none of their own.
    pub fn stream(&self) -> Result<Stream, Error> {
        let _current = self.enter()?;
        let mut shared = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = Stream::upgrade(&shared) {
            return Ok(stream);
        }
        let stream = Stream::new(self)?;
        *shared = stream.downgrade();
        Ok(stream)
    }

    /// The driver.
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    pub(super) fn api(&self) -> &'static Api {
        self.0.driver.api()
    }

    pub(super) fn pool(&self) -> Option<CUmemoryPool> {
        self.0.pool
    }

    /// Makes the context current on this thread for as long as the result lives.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Current, Error> {
        if let Some(error) = self.0.lost.get() {
            return Err(error.clone());
        }
        self.0.enter()
    }

    /// The same to free something, which even a lost device can do; nothing in a forked child, where the handles are
    /// those of the parent, nor at the end of the process.
    pub(crate) fn enter_to_free(&self) -> Option<Current> {
        self.0.enter().ok()
    }

    /// The error that a status is. Remembers it, if it is one after which nothing works.
    #[inline]
    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<(), Error> {
        if status == SUCCESS { Ok(()) } else { Err(self.failed(call, status)) }
    }

    #[cold]
    fn failed(&self, call: &'static str, status: Status) -> Error {
        let error = Error::Driver { call, reason: self.api().describe(status) };
        if is_fatal(status) { self.0.lost.get_or_init(|| error).clone() } else { error }
    }

    /// An error for things of two devices in one call.
    pub(crate) fn check_same(&self, other: &Device) -> Result<(), Error> {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ok(());
        }
        let (a, b) = (self.index(), other.index());
        Err(Error::Internal(format!("a stream of device {a} was given something of device {b}")))
    }

    /// Counts memory that was allocated.
    pub(super) fn add_used(&self, bytes: u64) {
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(used, Ordering::Relaxed);
    }

    /// Counts memory that was freed.
    pub(super) fn subtract_used(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Keeps something until an event, which becomes the device's, has happened. Looked after when memory is asked for or
    /// given back, and when somebody waits.
    pub(super) fn park(&self, event: CUevent, keep: Box<dyn Any + Send + Sync>) {
        self.0.parked.lock().unwrap_or_else(PoisonError::into_inner).push(Parked { event, _keep: keep });
    }

    /// Drops what is parked and need not be any more.
    pub(super) fn release_parked(&self) {
        // A child may find the lock held by a thread that only its parent has.
        if self.0.driver.check_fork().is_err() {
            return;
        }
        // Keepers are dropped after the lock and the context are given back: they run code of others.
        let mut released = Vec::new();
        {
            let mut parked = self.0.parked.lock().unwrap_or_else(PoisonError::into_inner);
            if parked.is_empty() {
                return;
            }
            let Some(_current) = self.enter_to_free() else { return };
            let api = self.api();
            // A failure means that the device is lost and no work goes on.
            let not_ready = CUresult::CUDA_ERROR_NOT_READY as Status;
            // SAFETY: the events are the device's, and this is the only place that destroys them while it is open.
            let happened = |p: &mut Parked| unsafe {
                let happened = (api.cuEventQuery)(p.event) != not_ready;
                if happened {
                    (api.cuEventDestroy_v2)(p.event);
                }
                happened
            };
            released.extend(parked.extract_if(.., happened));
        }
        drop(released);
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.arch();
        write!(f, "Device({}: {}, sm_{major}{minor})", self.index(), self.name())
    }
}

impl Inner {
    fn enter(&self) -> Result<Current, Error> {
        self.driver.check_fork()?;
        let mut previous = std::ptr::null_mut();
        // SAFETY: the context is retained until the device is dropped, and the result goes to a place of its type.
        unsafe {
            call!(self.driver, cuCtxGetCurrent(&mut previous))?;
            if previous != self.context {
                call!(self.driver, cuCtxSetCurrent(self.context))?;
            }
        }
        let restore = !previous.is_null() && previous != self.context;
        Ok(Current { driver: self.driver, previous: restore.then_some(previous) })
    }

    /// A pool of our own, since settings of the device's default pool are everybody's. What is freed stays in it: mapping
    /// memory anew costs more than most kernels.
    fn create_pool(&self) -> Result<Option<CUmemoryPool>, Error> {
        let _current = self.enter()?;
        let mut pool = std::ptr::null_mut();
        let mut threshold = u64::MAX;
        let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: all zeros are a value of this struct, whose enums have one of value 0. The pool is on this device; the
        // attribute is a number of 64 bits.
        unsafe {
            let mut properties = std::mem::zeroed::<CUmemPoolProps>();
            properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
            properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
            properties.location.id = self.handle;
            match (self.driver.api().cuMemPoolCreate)(&mut pool, &properties) {
                NOT_SUPPORTED => return Ok(None),
                status => self.driver.check("cuMemPoolCreate", status)?,
            }
            let set = call!(self.driver, cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()));
            if let Err(error) = set {
                let _ = call!(self.driver, cuMemPoolDestroy(pool));
                return Err(error);
            }
        }
        Ok(Some(pool))
    }
}

impl Drop for Inner {
    /// Whoever used the device is gone: what is left is what waits for the last work, the pool, and the context. Not in a
    /// forked child, nor at the end of the process.
    fn drop(&mut self) {
        let parked = std::mem::take(self.parked.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Ok(current) = self.enter() else { return };
        // SAFETY: each handle is the device's and used for the last time. The context was retained once.
        unsafe {
            for parked in &parked {
                let _ = call!(self.driver, cuEventSynchronize(parked.event));
                let _ = call!(self.driver, cuEventDestroy_v2(parked.event));
            }
            if let Some(pool) = self.pool {
                let _ = call!(self.driver, cuMemPoolDestroy(pool));
            }
            drop(current);
            let _ = call!(self.driver, cuDevicePrimaryCtxRelease_v2(self.handle));
        }
    }
}

/// The context of a device is current on this thread, where this stays.
pub(crate) struct Current {
    driver: Driver,
    /// The context of somebody else, which is made current again. A thread that had none keeps this one: whoever needs
    /// another makes it current, and the next call finds it.
    previous: Option<CUcontext>,
}

impl Drop for Current {
    #[inline]
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // SAFETY: it was current when the call began.
            let _ = unsafe { call!(self.driver, cuCtxSetCurrent(previous)) };
        }
    }
}

impl Properties {
    fn of(driver: Driver, handle: CUdevice) -> Result<Properties, Error> {
        let mut name = [0_u8; 256];
        let mut total = 0;
        // SAFETY: the handle is the driver's; results go to places of their types and sizes.
        unsafe {
            call!(driver, cuDeviceGetName(name.as_mut_ptr().cast(), 256, handle))?;
            call!(driver, cuDeviceTotalMem_v2(&mut total, handle))?;
        }
        let get = |a| attribute(driver, handle, a).map(i32::cast_unsigned);
        Ok(Properties {
            name: CStr::from_bytes_until_nul(&name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            arch: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            total: total as u64,
        })
    }
}

/// Some virtual devices say that they have pools.
const NOT_SUPPORTED: Status = CUresult::CUDA_ERROR_NOT_SUPPORTED as Status;

fn attribute(driver: Driver, handle: CUdevice, attribute: Attribute) -> Result<i32, Error> {
    let mut value = 0;
    // SAFETY: the handle is the driver's, and the result goes to a place of its type.
    unsafe { call!(driver, cuDeviceGetAttribute(&mut value, attribute, handle)) }?;
    Ok(value)
}

/// Whether the context is of no use after an error: the documentation of each of these says that the process has to be
/// started anew to continue with CUDA.
fn is_fatal(status: Status) -> bool {
    const FATAL: &[CUresult] = &[
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
        CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        CUresult::CUDA_ERROR_CONTAINED,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
        CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        CUresult::CUDA_ERROR_ASSERT,
        CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        CUresult::CUDA_ERROR_INVALID_PC,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK,
    ];
    FATAL.iter().any(|fatal| *fatal as Status == status)
}
