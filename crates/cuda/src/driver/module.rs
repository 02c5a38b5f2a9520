//! Machine code of a device, and its functions.

use super::call;
use super::device::Device;
use crate::Error;
use crate::emit::Grid;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute_enum as Attribute, CUmodule};
use std::ffi::CString;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Machine code on a device. A clone is the same module, which is unloaded when the last clone and the last function are
/// gone: that waits for all work of the device.
#[derive(Clone)]
pub struct Module(Arc<Inner>);

struct Inner {
    device: Device,
    raw: CUmodule,
}

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Inner {}
// SAFETY: the driver's functions may be called by several threads at once.
unsafe impl Sync for Inner {}

/// An entry point of a module. A clone is the same function.
#[derive(Clone)]
pub struct Function(Arc<Entry>);

struct Entry {
    module: Module,
    raw: CUfunction,
    /// Words of its argument, where the driver can tell.
    words: Option<usize>,
    registers: u32,
    local: u32,
    max_threads: u32,
    /// Bytes of shared memory that it has for itself.
    shared: u32,
    /// The most dynamic shared memory that launches may ask for at present.
    allowed: AtomicU32,
    /// Held while more is asked for, so that nobody asks for less in between.
    allowing: Mutex<()>,
}

// SAFETY: as for modules.
unsafe impl Send for Entry {}
// SAFETY: as for modules.
unsafe impl Sync for Entry {}

/// Shared memory that every function may use without asking for more.
const SHARED: u32 = 48 << 10;

impl Module {
    /// Loads machine code for the device's architecture: the bytes of a cubin.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when it is not machine code, or is cut short: the driver believes the sizes in it.
    pub fn load(device: &Device, cubin: &[u8]) -> Result<Module, Error> {
        if elf_extent(cubin).is_none_or(|extent| extent > cubin.len() as u64) {
            return Err(Error::Internal(format!("{} bytes are not machine code of a device", cubin.len())));
        }
        let _current = device.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: what the headers speak of is inside of the bytes; the result goes to a place of its type.
        unsafe { call!(device, cuModuleLoadData(&mut raw, cubin.as_ptr().cast())) }?;
        Ok(Module(Arc::new(Inner { device: device.clone(), raw })))
    }

    /// An entry point by its name.
    pub fn function(&self, name: &str) -> Result<Function, Error> {
        let device = &self.0.device;
        let name = CString::new(name).map_err(|_| Error::Internal(format!("{name:?} is no name of a function")))?;
        let _current = device.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is live, the name ends in a zero, and the result goes to a place of its type.
        unsafe { call!(device, cuModuleGetFunction(&mut raw, self.0.raw, name.as_ptr())) }?;
        let get = |attribute| {
            let mut value = 0;
            // SAFETY: the function is live and the result goes to a place of its type.
            unsafe { call!(device, cuFuncGetAttribute(&mut value, attribute, raw)) }?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let words = device.api().cuFuncGetParamInfo.and_then(|info| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is live and the results go to places of their types.
            let found = unsafe { device.check("cuFuncGetParamInfo", info(raw, 0, &mut offset, &mut size)) };
            found.is_ok().then_some(size / size_of::<u64>())
        });
        Ok(Function(Arc::new(Entry {
            module: self.clone(),
            raw,
            words,
            registers: get(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local: get(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            max_threads: get(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared: get(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            allowed: AtomicU32::new(0),
            allowing: Mutex::new(()),
        })))
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        &self.0.device
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({:?} on {:?})", self.0.raw, self.0.device)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(_current) = self.device.enter_to_free() else { return };
        // Code that may still run stays.
        // SAFETY: nobody has the handle or one of its functions any more, and no work that uses its code goes on.
        unsafe {
            if call!(self.device, cuCtxSynchronize()).is_ok() {
                let _ = call!(self.device, cuModuleUnload(self.raw));
            }
        }
    }
}

impl Function {
    /// Registers of a thread.
    pub fn registers(&self) -> u32 {
        self.0.registers
    }

    /// Bytes of memory that a thread has for what does not fit into registers.
    pub fn local_bytes(&self) -> u32 {
        self.0.local
    }

    /// The most threads that a block of it can have.
    pub fn max_threads(&self) -> u32 {
        self.0.max_threads
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        self.0.module.device()
    }

    pub(super) fn raw(&self) -> CUfunction {
        self.0.raw
    }

    /// Holds a launch against the function, and has the driver allow as much shared memory as it asks for.
    #[inline]
    pub(super) fn prepare(&self, grid: &Grid, words: &[u64]) -> Result<(), Error> {
        let entry = &*self.0;
        if entry.words.is_some_and(|expected| expected != words.len()) {
            let expected = entry.words.unwrap_or(0);
            return Err(Error::Internal(format!("a function of {expected} words was given {}", words.len())));
        }
        if grid.shared > entry.allowed.load(Ordering::Relaxed) { self.allow(grid.shared) } else { Ok(()) }
    }

    #[cold]
    fn allow(&self, shared: u32) -> Result<(), Error> {
        let (entry, device) = (&*self.0, self.device());
        let (together, most) = (entry.shared.saturating_add(shared), device.max_shared());
        if together > SHARED.max(most) {
            return Err(Error::Unsupported(format!(
                "a block would need {together} bytes of shared memory, and {device:?} has {most}"
            )));
        }
        let _allowing = entry.allowing.lock().unwrap_or_else(PoisonError::into_inner);
        if shared <= entry.allowed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if together > SHARED {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is live. The context is current: this is part of a launch.
            unsafe { call!(device, cuFuncSetAttribute(entry.raw, attribute, shared.cast_signed())) }?;
        }
        entry.allowed.store(shared, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { registers, local, max_threads, .. } = &*self.0;
        write!(f, "Function({registers} registers, {local} local bytes, {max_threads} threads at most)")
    }
}

/// The byte after the last that the headers of a 64-bit ELF file speak of; none if it is not one.
fn elf_extent(bytes: &[u8]) -> Option<u64> {
    let number = |at: u64, size: usize| {
        let at = usize::try_from(at).ok()?;
        let mut number = [0; 8];
        number[..size].copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(number))
    };
    // The class is 64 bits, the order of bytes is little-endian.
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (segments, sections) = (number(0x20, 8)?, number(0x28, 8)?);
    let (segment_size, segment_count) = (number(0x36, 2)?, number(0x38, 2)?);
    let (section_size, section_count) = (number(0x3a, 2)?, number(0x3c, 2)?);
    let mut extent = segments.checked_add(segment_size * segment_count)?;
    extent = extent.max(sections.checked_add(section_size * section_count)?);
    for i in 0..segment_count {
        let header = segments.checked_add(i * segment_size)?;
        let (offset, size) = (number(header.checked_add(0x08)?, 8)?, number(header.checked_add(0x20)?, 8)?);
        extent = extent.max(offset.checked_add(size)?);
    }
    // Sections of this type have no bytes in the file.
    const NO_BITS: u64 = 8;
    for i in 0..section_count {
        let header = sections.checked_add(i * section_size)?;
        let kind = number(header.checked_add(0x04)?, 4)?;
        let (offset, size) = (number(header.checked_add(0x18)?, 8)?, number(header.checked_add(0x20)?, 8)?);
        extent = extent.max(if kind == NO_BITS { 0 } else { offset.checked_add(size)? });
    }
    Some(extent)
}
