//! The CUDA driver: devices, their memory, streams of work, and launches.
//!
//! A thin layer over the driver's C interface that is safe wherever that can be had cheaply. In reading order: `api` (the
//! entry points, found or refused when the library is loaded), `device` (contexts and errors), `stream` (what is done in
//! order, copies, launches, events), `memory` (of the device, and pinned memory of the host), `module` (machine code),
//! `graph` (launches that are repeated as one), `fork` (forked children).
//!
//! ```text
//! Driver ── Device ──┬── Stream ── Memory, Event
//!                    ├── Module ── Function
//!                    ├── Pinned
//!                    └── Graph
//! ```
//!
//! Invariants:
//!
//! * Nothing panics, whatever is missing or fails. Who holds a thing keeps what it needs: a [`Memory`] its stream, a
//!   [`Function`] its module, everything its device; so the order of drops does not matter, nor does the thread.
//! * Any thread may call. The device's context is current on the thread during a call; a context that was current before
//!   is so again after it.
//! * Work is done in the order of its stream. Memory is given back in that order too: work that was submitted may use it
//!   for as long as it runs. Two streams have no order but by [`Stream::wait`], [`Stream::wait_stream`] and
//!   [`Memory::used_on`].
//! * The host never reads or writes memory that a copy is at work on: copies with slices wait, [`Pinned`] waits when its
//!   bytes are asked for or it goes away.
//! * A device that is lost (a kernel of anybody's in this process touched what is not its own) fails every later call with the
//!   error that told of it.
//! * A forked child of a process that has loaded the driver gets [`Error::Forked`] from every call, and frees nothing.
//!
//! `unsafe` to call are only those functions whose promise the compiler cannot see: [`Stream::launch`], [`Graph::launch`],
//! [`Memory::import`] and [`Stream::import`].

mod api;
mod device;
mod fork;
mod graph;
mod memory;
mod module;
mod stream;

pub use device::{Device, MemoryStats};
pub use graph::{Capture, Graph};
pub use memory::{Memory, Pinned};
pub use module::{Function, Module};
pub use stream::{Event, Stream};

use crate::Error;
use api::{Api, Missing, SUCCESS, Status};
use cudarc::driver::sys::CUresult;
use std::fmt;
use std::sync::OnceLock;

/// The oldest CUDA whose driver has what is needed, as the driver counts versions.
const OLDEST: i32 = 11_040;

/// The driver library, loaded and initialised: once per process, for as long as it lives.
#[derive(Clone, Copy)]
pub struct Driver(&'static Loaded);

struct Loaded {
    api: Api,
    version: i32,
    devices: usize,
    /// What [`fork::forks`] was when the driver was initialised.
    forks: u64,
}

/// Calls an entry point of a [`Device`] (or whatever has `api` and `check`) and names it in the error.
macro_rules! call {
    ($device:expr, $name:ident($($argument:expr),* $(,)?)) => {
        $device.check(stringify!($name), ($device.api().$name)($($argument),*))
    };
}
use call;

impl Driver {
    /// Loads and initialises the driver. The first call decides for the process.
    ///
    /// # Errors
    ///
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::Forked`], and [`Error::Driver`] when the driver cannot be
    /// initialised. A driver without devices is no error.
    pub fn load() -> Result<Driver, Error> {
        static LOADED: OnceLock<Result<Loaded, Error>> = OnceLock::new();
        fork::count();
        let loaded = LOADED.get_or_init(Loaded::new).as_ref().map_err(Error::clone)?;
        let driver = Driver(loaded);
        driver.check_fork().map(|()| driver)
    }

    /// How many devices there are.
    pub fn device_count(self) -> usize {
        self.0.devices
    }

    /// The newest version of CUDA that the driver is for, as (major, minor).
    pub fn version(self) -> (u32, u32) {
        major_minor(self.0.version)
    }

    fn api(self) -> &'static Api {
        &self.0.api
    }

    /// The error of a call that belongs to no device yet.
    fn check(self, call: &'static str, status: Status) -> Result<(), Error> {
        self.0.api.check(call, status)
    }

    /// An error in a process that is a child of the one that initialised the driver.
    fn check_fork(self) -> Result<(), Error> {
        if fork::forks() == self.0.forks { Ok(()) } else { Err(Error::Forked) }
    }
}

/// The newest version of CUDA that the driver of this machine is for, as (major, minor); none if there is no driver. It is not
/// initialised for that, so that processes may still fork.
pub(crate) fn installed() -> Option<(u32, u32)> {
    static VERSION: OnceLock<Option<i32>> = OnceLock::new();
    VERSION.get_or_init(|| Api::load().1).map(major_minor)
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version();
        write!(f, "Driver(CUDA {major}.{minor}, {} devices)", self.0.devices)
    }
}

impl Loaded {
    fn new() -> Result<Loaded, Error> {
        let forks = fork::forks();
        let (api, version) = Api::load();
        if let Some(version) = version.filter(|v| *v < OLDEST) {
            let ((major, minor), oldest) = (major_minor(version), major_minor(OLDEST));
            return Err(Error::DriverTooOld(format!(
                "it is for CUDA {major}.{minor}, and at least {}.{} is needed",
                oldest.0, oldest.1
            )));
        }
        let api = api.map_err(|missing| match missing {
            Missing::Library(reason) => Error::NoDriver(reason),
            Missing::Symbol(name) => Error::DriverTooOld(format!("it has no function {name}")),
        })?;
        let mut devices = 0;
        // SAFETY: 0 is the only flag there is; nothing else has to come before it.
        match unsafe { (api.cuInit)(0) } {
            SUCCESS => {
                // SAFETY: the driver is initialised and the number is written to a place of its type.
                api.check("cuDeviceGetCount", unsafe { (api.cuDeviceGetCount)(&mut devices) })?;
            }
            NO_DEVICE => {}
            STUB => return Err(Error::NoDriver(api.describe(STUB))),
            status => api.check("cuInit", status)?,
        }
        Ok(Loaded { api, version: version.unwrap_or(OLDEST), devices: usize::try_from(devices).unwrap_or(0), forks })
    }
}

const NO_DEVICE: Status = CUresult::CUDA_ERROR_NO_DEVICE as Status;
/// The library is the toolkit's, which is there to link against.
const STUB: Status = CUresult::CUDA_ERROR_STUB_LIBRARY as Status;

impl Api {
    fn check(&self, call: &'static str, status: Status) -> Result<(), Error> {
        if status == SUCCESS { Ok(()) } else { Err(Error::Driver { call, reason: self.describe(status) }) }
    }
}

/// A version as the driver counts them, as (major, minor).
fn major_minor(version: i32) -> (u32, u32) {
    let version = version.unsigned_abs();
    (version / 1000, version % 1000 / 10)
}
