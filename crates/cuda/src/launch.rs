//! Kernels on a device: from a kernel and a launch to loaded functions and their arguments.
//!
//! A [`Backend`] is a device with its stream, its caches and its compiler. [`Backend::prepare`] finds the class of a launch,
//! and the functions of the kernel for that class: loaded already, on disk, or compiled now. A [`Prepared`] launch holds
//! everything but addresses and parameters; running it writes those into its argument block and calls the driver.
//!
//! Code whose threads lack registers is compiled again for fewer elements a thread, and the better of the two is kept.
//!
//! Invariants: a prepared launch runs only with addresses that are aligned as those it was prepared for. No lock is held
//! while anything is compiled or launched. `matmul` does the same for products of matrices.

mod matmul;

pub use matmul::PreparedMatmul;

use crate::driver::{Function, Module, Stream};
use crate::emit::{Class, Dispatch, Field, Grid, Program, Source};
use crate::nvrtc::{Arch, Options};
use crate::{Cache, Device, Error};
use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Runs kernels on one device. Cheap to clone; any thread may use it.
#[derive(Clone)]
pub struct Backend(Arc<Shared>);

/// What the clones of a [`Backend`] share; of use to hold on to one weakly.
pub struct Shared {
    device: Device,
    stream: Stream,
    cache: Cache,
    options: Options,
    loaded: Mutex<FxHashMap<(Kernel, Class), Arc<Loaded>>>,
    compiled: AtomicU64,
    products: matmul::Products,
}

/// The functions of a kernel for one class.
struct Loaded {
    program: Program,
    functions: SmallVec<[Function; 2]>,
}

/// Programs that a backend keeps loaded; past that it forgets all of them, and what is in use stays.
const MOST_LOADED: usize = 4096;

/// The bytes that addresses are compared by: those of the widest load.
const ALIGNMENT: u64 = 16;

impl Backend {
    /// A backend on a device, with machine code kept in a cache.
    ///
    /// # Errors
    /// If the device gives no stream.
    pub fn new(device: Device, cache: Cache, options: Options) -> Result<Backend, Error> {
        let stream = device.stream()?;
        let (loaded, compiled, products) = (Mutex::default(), AtomicU64::new(0), matmul::Products::default());
        Ok(Backend(Arc::new(Shared { device, stream, cache, options, loaded, compiled, products })))
    }

    /// A backend that is still in use.
    pub fn upgrade(shared: &Weak<Shared>) -> Option<Backend> {
        shared.upgrade().map(Backend)
    }

    /// A reference that does not keep it in use.
    pub fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// How kernels are compiled.
    pub fn options(&self) -> Options {
        self.0.options
    }

    /// The stream that kernels run on, in order.
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// How many kernels have been loaded: one for each class of each.
    pub fn kernels_loaded(&self) -> u64 {
        self.0.compiled.load(Ordering::Relaxed)
    }

    /// Everything for runs of a kernel with this canonical launch, on operands whose first elements are at these addresses, or
    /// at others that are aligned like them.
    ///
    /// # Errors
    /// If the kernel or the launch is too much for a device, or there is no machine code for it and no compiler.
    pub fn prepare(&self, kernel: &Kernel, launch: &Launch, addresses: &[u64]) -> Result<Prepared, Error> {
        let class = Class::new(kernel, launch, addresses)?;
        let loaded = self.loaded(kernel, &class)?;
        let dispatch = loaded.program.dispatch(launch)?;
        let most = self.0.device.max_shared();
        if let Some(grid) = dispatch.grids.iter().find(|grid| grid.shared > most) {
            return Err(Error::Unsupported(format!("{} bytes of shared memory; the device has {most}", grid.shared)));
        }
        let none = vec![0; kernel.params.len()];
        let words = loaded.program.words(launch, addresses, &none, 0);
        let places = loaded.program.fields().iter().enumerate().filter_map(|(at, field)| {
            Some(match field {
                Field::Operand(n) => (at, Place::Operand(*n)),
                Field::Param(n) => (at, Place::Param(*n)),
                Field::Workspace => (at, Place::Workspace),
                _ => return None,
            })
        });
        let places = places.collect();
        let alignments = addresses.iter().map(|a| (a % ALIGNMENT) as u8).collect();
        Ok(Prepared { loaded, dispatch, words, places, alignments })
    }

    /// The functions of a kernel for a class.
    fn loaded(&self, kernel: &Kernel, class: &Class) -> Result<Arc<Loaded>, Error> {
        let lock = || self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kernel.clone(), *class);
        if let Some(loaded) = lock().get(&key) {
            return Ok(loaded.clone());
        }
        // Loaded code tells what its threads keep in memory, also where it was compiled long ago.
        let (program, functions) = Program::fitted(kernel, class, |program| {
            let functions = self.functions(program.source())?;
            let local = functions.iter().map(Function::local_bytes).max().unwrap_or(0);
            Ok((functions, local))
        })?;
        let loaded = Arc::new(Loaded { program, functions });
        self.0.compiled.fetch_add(1, Ordering::Relaxed);
        let mut all = lock();
        if all.len() >= MOST_LOADED {
            all.clear();
        }
        // Another thread may have been faster: there is one of each.
        Ok(all.entry(key).or_insert(loaded).clone())
    }

    /// The entries of a text, compiled and loaded.
    fn functions(&self, source: &Source) -> Result<SmallVec<[Function; 2]>, Error> {
        let (major, minor) = self.0.device.arch();
        let code = self.0.cache.machine_code(&source.text, Arch { major, minor }, self.0.options)?;
        let module = Module::load(&self.0.device, &code)?;
        source.entries.iter().map(|name| module.function(name)).collect()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({:?})", self.0.device)
    }
}

/// A word of the argument block that changes from run to run.
#[derive(Clone, Copy)]
enum Place {
    Operand(u32),
    Param(u32),
    Workspace,
}

/// A kernel and a launch of it on a device: everything but addresses and parameters.
pub struct Prepared {
    loaded: Arc<Loaded>,
    dispatch: Dispatch,
    words: SmallVec<[u64; 32]>,
    places: SmallVec<[(usize, Place); 8]>,
    alignments: SmallVec<[u8; 8]>,
}

impl Prepared {
    /// Bytes of memory that a run needs besides its operands, at a multiple of 256.
    pub fn workspace(&self) -> u64 {
        self.dispatch.workspace
    }

    /// The launches of a run, in order.
    pub fn grids(&self) -> &[Grid] {
        &self.dispatch.grids
    }

    /// True if a run with these addresses is one that this was prepared for.
    pub fn fits(&self, addresses: &[u64]) -> bool {
        addresses.len() == self.alignments.len()
            && addresses.iter().zip(&self.alignments).all(|(a, low)| a % ALIGNMENT == u64::from(*low))
    }

    /// Puts a run on a stream: `addresses` are those of each operand's first element, `params` the bits of each parameter,
    /// `workspace` the address of as many bytes as [`Prepared::workspace`] says. Does not wait.
    ///
    /// # Errors
    /// If the addresses do not fit, or the driver refuses the launch.
    ///
    /// # Safety
    /// From each address the launch reaches memory of the stream's device that is live until the run is over; what is written
    /// is used by nothing else meanwhile, and overlaps no input but one of exactly the same layout.
    pub unsafe fn run(&self, stream: &Stream, addresses: &[u64], params: &[u64], workspace: u64) -> Result<(), Error> {
        // SAFETY: as the caller promises; a launch needs no more than that.
        unsafe { self.each(addresses, params, workspace, |function, grid, words| stream.launch(function, grid, words)) }
    }

    /// Calls `launch` with each launch of a run.
    ///
    /// # Errors
    /// If the addresses do not fit; and those of `launch`.
    pub fn each(
        &self,
        addresses: &[u64],
        params: &[u64],
        workspace: u64,
        mut launch: impl FnMut(&Function, &Grid, &[u64]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.fits(addresses) {
            return Err(Error::Internal("a launch with other addresses than it was prepared for".into()));
        }
        let mut words = self.words.clone();
        for (at, place) in &self.places {
            words[*at] = match place {
                Place::Operand(n) => addresses[*n as usize],
                Place::Param(n) => *params.get(*n as usize).unwrap_or(&0),
                Place::Workspace => workspace,
            };
        }
        self.dispatch.grids.iter().try_for_each(|grid| launch(&self.loaded.functions[grid.entry], grid, &words))
    }
}
