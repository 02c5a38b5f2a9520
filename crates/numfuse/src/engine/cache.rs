//! Machine code by kernel: bounded in bytes, and compiled once however many threads ask for it.
//!
//! The key is the whole kernel, so two expressions with the same loops share code; sizes, strides and constants are not
//! part of it. No lock is held while code is compiled or run. Who runs code holds it, so that evicted code stays until
//! its last user drops it.

use super::process::PerProcess;
use crate::error::{Result, cpu_error};
use crate::view::Tier;
use numfuse_core::kernel::Kernel;
use numfuse_cpu::{Compiled, Compiler};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What runs kernels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Machine code; where the system does not allow that, the interpreter, with one warning on standard error.
    #[default]
    Auto,
    /// The interpreter, which defines the meaning of kernels: slow, and the same bits.
    Interp,
    /// Machine code, or an error.
    Jit,
}

pub(crate) struct CodeCache {
    backend: Backend,
    compiler: Option<Compiler>,
    /// True once the system has refused to execute memory: it is not asked again.
    refused: AtomicBool,
    code: PerProcess<Cache<Kernel, Arc<Compiled>, CodeBytes, RandomState>>,
    pub compiled: AtomicU64,
}

#[derive(Clone)]
struct CodeBytes;

impl Weighter<Kernel, Arc<Compiled>> for CodeBytes {
    fn weight(&self, kernel: &Kernel, code: &Arc<Compiled>) -> u64 {
        // Key and bookkeeping take memory as well.
        (code.code_bytes() + 64 * kernel.insts.len() + 512) as u64
    }
}

impl CodeCache {
    pub fn new(backend: Backend, tier: numfuse_cpu::Tier, bytes: u64) -> Result<CodeCache> {
        let options = numfuse_cpu::Options { tier, ..Default::default() };
        let compiler = match backend {
            Backend::Interp => None,
            Backend::Jit => Some(Compiler::new(options).map_err(cpu_error)?),
            Backend::Auto => match Compiler::new(options) {
                Ok(compiler) => Some(compiler),
                Err(error) => {
                    warn(&error);
                    None
                }
            },
        };
        // Of one shard, so that the bound is exact; it is not looked at while running.
        let code = super::caches(bytes, CodeBytes)?;
        Ok(CodeCache { backend, compiler, refused: AtomicBool::new(false), code, compiled: AtomicU64::new(0) })
    }

    /// What runs this kernel.
    pub fn get(&self, kernel: &Kernel) -> Result<Tier> {
        let Some(compiler) = self.compiler.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) else {
            return Ok(Tier::Interpreted(Arc::new(kernel.clone())));
        };
        let compiled = self.code.get().get_or_insert_with(kernel, || {
            let compiled = compiler.compile(kernel)?;
            self.compiled.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(compiled))
        });
        match compiled {
            Ok(compiled) => Ok(Tier::Compiled(compiled)),
            Err(error @ (numfuse_cpu::Error::Host(_) | numfuse_cpu::Error::CodeMemory(_)))
                if self.backend == Backend::Auto =>
            {
                // A kernel that is too much for the code generators says nothing of others.
                if matches!(error, numfuse_cpu::Error::CodeMemory(_)) {
                    self.refused.store(true, Ordering::Relaxed);
                }
                warn(&error);
                Ok(Tier::Interpreted(Arc::new(kernel.clone())))
            }
            Err(error) => Err(cpu_error(error)),
        }
    }

    pub fn compiler(&self) -> Option<&Compiler> {
        self.compiler.as_ref()
    }

    /// Kernels and their bytes.
    pub fn held(&self) -> (usize, u64) {
        let code = self.code.get();
        (code.len(), code.weight())
    }

    pub fn clear(&self) {
        self.code.get().clear();
    }
}

fn warn(error: &numfuse_cpu::Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        eprintln!("numfuse: {error}; expressions are interpreted, which is slow");
    }
}
