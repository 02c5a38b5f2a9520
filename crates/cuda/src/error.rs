//! What can go wrong between a kernel and a device.

/// Why a kernel could not be compiled or run on a device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver library cannot be loaded: there is no NVIDIA driver.
    #[error("no CUDA: the NVIDIA driver library cannot be loaded ({0})")]
    NoDriver(String),
    /// The driver is there, but is older than what is needed.
    #[error("the NVIDIA driver is too old: {0}")]
    DriverTooOld(String),
    /// There is no such device.
    #[error("there is no CUDA device {index}: this machine has {count}")]
    NoDevice {
        /// The device that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The run-time compiler cannot be loaded.
    #[error("no CUDA compiler: {0}")]
    NoCompiler(String),
    /// The emitted text does not compile: a bug in numfuse. The text is saved to a file.
    #[error("internal error in the CUDA back end: NVRTC does not compile a kernel, whose text is in {file}\n{log}")]
    Compile {
        /// Where the text of the kernel is.
        file: String,
        /// What the compiler says.
        log: String,
    },
    /// The device has no memory left, not even after giving back what is kept for reuse.
    #[error("out of memory on the device: {asked} bytes were asked for, {free} of {total} are free")]
    OutOfMemory {
        /// The bytes asked for.
        asked: u64,
        /// The bytes that the device has left.
        free: u64,
        /// The bytes that it has in all.
        total: u64,
    },
    /// The host has no memory left for copies from and to the device.
    #[error("out of memory on the host: {asked} bytes were asked for")]
    HostMemory {
        /// The bytes asked for.
        asked: u64,
    },
    /// The kernel is too much for the device.
    #[error("no CUDA code: {0}")]
    Unsupported(String),
    /// The driver refuses a call. Once a device is lost, every call fails with this.
    #[error("CUDA error in {call}: {reason}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The name and the text of the error.
        reason: String,
    },
    /// This process is a child of one that uses CUDA, made by `fork` alone.
    #[error(
        "CUDA does not work in a forked child of a process that uses it: start the child anew (in Python, the start method \
         \"spawn\" of multiprocessing does)"
    )]
    Forked,
    /// A bug in numfuse: the kernel does not verify, or the launch does not fit it.
    #[error("internal error in the CUDA back end: {0}")]
    Internal(String),
}
