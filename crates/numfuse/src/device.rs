//! Where arrays are and expressions run: the host, or a GPU.
//!
//! A [`Device`] is cheap to clone. All that numfuse does on one GPU in a process is done in the order of one stream, so that
//! nothing has to wait for anything but the reading of results.
//!
//! Invariant: no code here or in the arrays accesses an address of a device; addresses are numbers that kernels get.

use crate::error::{Error, Result, cuda_error};
use crate::view::DeviceMemory;
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_cuda::nvrtc::Options;
use numfuse_cuda::{Backend, Cache, Driver};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, Weak};

/// What holds arrays and runs expressions: the CPU with the memory of the host, or a CUDA device.
///
/// ```
/// use numfuse::{Device, Engine, vars};
/// let device = Device::auto();
/// let a = numfuse::Array::from_vec(vec![1.0, 2.0], &[2])?.to_device(&device)?;
/// let engine = Engine::builder().device(&device).build()?;
/// let doubled = engine.evaluate("2*a", &vars! { a })?;
/// assert_eq!(doubled.device(), device);
/// assert_eq!(doubled.to_vec::<f64>()?, [2.0, 4.0]);
/// # Ok::<(), numfuse::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Kind);

#[derive(Clone)]
enum Kind {
    Cpu,
    Cuda(Backend),
}

/// The memory of a device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// What arrays and temporaries of numfuse take at present.
    pub used: u64,
    /// The most that they ever took.
    pub peak: u64,
    /// What numfuse holds from the device: what is used, and what is kept for the next arrays.
    pub reserved: u64,
    /// What no process uses.
    pub free: u64,
    /// What the device has.
    pub total: u64,
}

impl Device {
    /// The CPU, whose arrays are in the memory of the host.
    pub const fn cpu() -> Device {
        Device(Kind::Cpu)
    }

    /// A CUDA device, counted from 0.
    ///
    /// # Errors
    /// If there is no driver, it is too old, there is no such device, or this is a forked child of a process that uses
    /// CUDA.
    pub fn cuda(index: usize) -> Result<Device> {
        // Everybody who asks for a device gets the same one, with the kernels that are loaded there.
        static OPEN: Mutex<Vec<(usize, Weak<numfuse_cuda::Shared>)>> = Mutex::new(Vec::new());
        // First, since a forked child may find the lock taken for ever.
        Driver::load().map_err(cuda_error)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, backend)| backend.strong_count() > 0);
        let device = numfuse_cuda::Device::open(index).map_err(cuda_error)?;
        if let Some(found) = open.iter().find(|(i, _)| *i == index).and_then(|(_, backend)| Backend::upgrade(backend)) {
            return Ok(Device(Kind::Cuda(found)));
        }
        let backend = Backend::new(device, Cache::from_environment(), Options::default()).map_err(cuda_error)?;
        open.push((index, backend.downgrade()));
        Ok(Device(Kind::Cuda(backend)))
    }

    /// The CPU and every CUDA device that can be used.
    pub fn all() -> Vec<Device> {
        let count = Driver::load().map_or(0, Driver::device_count);
        std::iter::once(Device::cpu()).chain((0..count).filter_map(|index| Device::cuda(index).ok())).collect()
    }

    /// The first CUDA device, if there is one that can be used; else the CPU.
    pub fn auto() -> Device {
        Device::cuda(0).unwrap_or(Device::cpu())
    }

    /// True for the CPU.
    pub fn is_cpu(&self) -> bool {
        matches!(self.0, Kind::Cpu)
    }

    /// The name, as in `cpu` and `cuda:0`: what [`Device::from_str`] reads.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Cpu => "cpu".to_owned(),
            Kind::Cuda(backend) => format!("cuda:{}", backend.device().index()),
        }
    }

    /// What the memory of a CUDA device is used for; of the CPU nothing is counted.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn memory_stats(&self) -> Result<MemoryStats> {
        let Kind::Cuda(backend) = &self.0 else { return Ok(MemoryStats::default()) };
        let device = backend.device();
        let stats = device.memory_stats().map_err(cuda_error)?;
        let free = device.memory_free().map_err(cuda_error)?;
        let (used, peak, reserved) = (stats.used, stats.peak, stats.reserved);
        Ok(MemoryStats { used, peak, reserved, free, total: device.memory_total() })
    }

    /// Waits until everything that was begun on the device is done. Reading a result waits by itself.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0 {
            Kind::Cpu => Ok(()),
            Kind::Cuda(backend) => backend.device().synchronize().map_err(cuda_error),
        }
    }

    /// The `CUstream` in whose order everything on a CUDA device is done: other libraries have theirs wait for it, or it
    /// for theirs. None for the CPU.
    pub fn stream(&self) -> Option<u64> {
        self.backend().map(|backend| backend.stream().handle())
    }

    /// Which of the CUDA devices it is; none for the CPU.
    pub fn index(&self) -> Option<usize> {
        self.backend().map(|backend| backend.device().index())
    }

    /// What runs kernels there; none for the CPU.
    #[inline]
    pub(crate) fn backend(&self) -> Option<&Backend> {
        match &self.0 {
            Kind::Cpu => None,
            Kind::Cuda(backend) => Some(backend),
        }
    }

    /// True if memory is on this device.
    #[inline]
    pub(crate) fn has(&self, memory: &DeviceMemory) -> bool {
        self.backend().is_some_and(|backend| backend.device().index() == memory.device_index())
    }

    /// The same device, with kernels that trade bits for speed or with those that do not.
    pub(crate) fn with_fast(&self, fast: bool) -> Result<Device> {
        match &self.0 {
            Kind::Cuda(backend) if backend.options().fast != fast => {
                let device = backend.device();
                if !fast {
                    return Device::cuda(device.index());
                }
                let backend = Backend::new(device.clone(), Cache::from_environment(), Options { fast });
                Ok(Device(Kind::Cuda(backend.map_err(cuda_error)?)))
            }
            Kind::Cuda(_) | Kind::Cpu => Ok(self.clone()),
        }
    }

    /// The CUDA device with these kernels.
    pub(crate) fn of_backend(backend: Backend) -> Device {
        Device(Kind::Cuda(backend))
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.index() == other.index()
    }
}

impl Eq for Device {}

/// The name, and what a CUDA device is called: `cuda:0 (NVIDIA H200)`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match &self.0 {
            Kind::Cpu => Ok(()),
            Kind::Cuda(backend) => write!(f, " ({})", backend.device().name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `cpu`, `cuda:1`, `cuda`, which is the first one, or `auto`, see [`Device::auto`].
impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let index = match text {
            "cpu" => return Ok(Device::cpu()),
            "auto" => return Ok(Device::auto()),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        match index {
            Some(index) => Device::cuda(index),
            None => Err(Diagnostic::new(Code::Device, format!("`{text}` is no device"))
                .hint("write `cpu`, `cuda:0` for the first CUDA device, or `auto`")
                .into()),
        }
    }
}

/// The error of an array that is not where it is to be used.
#[cold]
pub(crate) fn mismatch(what: &str, array: &Device, wanted: &Device) -> Error {
    let error =
        Diagnostic::new(Code::DeviceMismatch, format!("{what} is on {}, not on {}", array.name(), wanted.name()));
    let hint = match wanted.is_cpu() {
        true => "`to_host` copies; an engine of that device computes there",
        false => "`to_device` copies",
    };
    error.why("arrays are never moved unasked").hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert!("cpu".parse::<Device>().unwrap().is_cpu());
        assert_eq!(Device::cpu().to_string(), "cpu");
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert_eq!(wrong.parse::<Device>().unwrap_err().code(), Code::Device, "{wrong}");
        }
        assert!(Device::all().contains(&Device::cpu()));
    }

    #[test]
    fn the_cpu_has_nothing_to_wait_for() {
        assert_eq!(Device::cpu().memory_stats().unwrap(), MemoryStats::default());
        Device::cpu().synchronize().unwrap();
    }
}
