//! The texts that a program will need, compiled into a cache beforehand, on all cores. It takes no device.

use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use numfuse_cuda::emit::{Class, Program};
use numfuse_cuda::nvrtc::{Arch, Options};
use numfuse_cuda::{Cache, Error};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What memory of a device begins at a multiple of, whoever allocates it.
const BASE: u64 = 256;

/// Texts, each once.
#[derive(Default)]
pub struct Texts(BTreeSet<String>);

impl Texts {
    /// Adds the text for a launch on operands that are this far from the beginnings of their memory.
    pub fn add(&mut self, kernel: &Kernel, launch: &Launch, offsets: &[isize]) -> Result<(), Error> {
        // Only the last bits of an address decide.
        let addresses: Vec<u64> = offsets.iter().map(|at| (BASE << 32).wrapping_add_signed(*at as i64)).collect();
        let class = Class::new(kernel, launch, &addresses)?;
        self.0.insert(Program::new(kernel, &class)?.source().text.clone());
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Has the cache hold machine code of all of them.
    pub fn compile(&self, cache: &Cache, arch: Arch, threads: usize) -> Result<(), Error> {
        let texts: Vec<&String> = self.0.iter().collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            while let Some(text) = texts.get(next.fetch_add(1, Relaxed)) {
                if let Err(error) = cache.machine_code(text, arch, Options::default()) {
                    failure().get_or_insert(error);
                    next.store(texts.len(), Relaxed);
                }
            }
        };
        std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
