//! Products of matrices on a device: what [`Backend::prepare_matmul`] returns is run as a kernel is. cuBLAS does those that it
//! can, where it can be loaded; our own text does the others.

use super::{ALIGNMENT, Backend, MOST_LOADED};
use crate::Error;
use crate::cublas::{Gemm, Handle};
use crate::driver::{Function, Stream};
use crate::emit::{Dispatch, Fused, Grid};
use crate::matmul::{Class, Classified, K, Product, Program};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Up to this depth a product is fused with what is around it even where cuBLAS could multiply: memory is what both wait for
/// then, and what is fused is not stored and read again. A sum of `k` products takes `2 k` operations; storing and reading an
/// element of it takes as long as some hundred of them.
const SHALLOW: usize = 64;

/// What a backend keeps for products.
#[derive(Default)]
pub(super) struct Products {
    loaded: Mutex<FxHashMap<Key, Functions>>,
    /// cuBLAS on the device, or why it cannot be had.
    library: OnceLock<Result<Arc<Handle>, String>>,
}

/// What a text is for.
type Key = (Class, [Option<Arc<Fused>>; 3]);
type Functions = Arc<SmallVec<[Function; 2]>>;

impl Backend {
    /// True if a product is better computed by our own text, with what may be fused into it, than by cuBLAS and kernels
    /// before and after it: where cuBLAS does not do it, and where it is shallow. `product` is the one without anything fused.
    pub fn fuses(&self, product: &Product) -> bool {
        product.sizes[K] <= SHALLOW || Gemm::new(product).is_none() || self.cublas().is_err()
    }

    /// Everything for runs of a product of matrices, [`numfuse_core::plan::Work::Matmul`], on operands whose first elements
    /// are at these addresses, or at others that are aligned like them.
    ///
    /// # Errors
    /// If the launch is too much for a device, elements are not aligned, or there is no machine code and no compiler.
    pub fn prepare_matmul(&self, product: &Product, addresses: &[u64]) -> Result<PreparedMatmul, Error> {
        if addresses.len() != product.operands() {
            return Err(Error::Internal(format!("a product with {} operands", addresses.len())));
        }
        product.check_aligned(addresses)?;
        let alignments = addresses.iter().map(|address| (address % ALIGNMENT) as u8).collect();
        if let Some(gemm) = Gemm::new(product)
            && let Ok(library) = self.cublas()
        {
            return Ok(PreparedMatmul { work: Work::Library(library.clone(), gemm), alignments });
        }
        let classified = Classified::new(product, addresses)?;
        let dispatch = classified.dispatch()?;
        let functions = self.functions_of(&classified)?;
        Ok(PreparedMatmul { work: Work::Text(Box::new(Emitted { classified, dispatch, functions })), alignments })
    }

    /// cuBLAS on the device, or why it cannot be had; decided once.
    fn cublas(&self) -> Result<&Arc<Handle>, &str> {
        // A forked child may find the library half loaded, by a thread that only its parent has.
        if self.0.device.enter().is_err() {
            return Err("the device cannot be used");
        }
        let library = self.0.products.library.get_or_init(|| Handle::new(&self.0.device).map(Arc::new));
        library.as_ref().map_err(String::as_str)
    }

    /// Why products of matrices are not left to cuBLAS; nothing where they are. Loads it, if nobody has.
    pub fn without_cublas(&self) -> Option<&str> {
        self.cublas().err()
    }

    /// The functions of a class.
    fn functions_of(&self, classified: &Classified) -> Result<Functions, Error> {
        let lock = || self.0.products.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*classified.class(), classified.fused());
        if let Some(functions) = lock().get(&key) {
            return Ok(functions.clone());
        }
        let functions = Arc::new(self.functions(Program::new(&key.0, &key.1).source())?);
        self.0.compiled.fetch_add(1, Ordering::Relaxed);
        let mut all = lock();
        if all.len() >= MOST_LOADED {
            all.clear();
        }
        Ok(all.entry(key).or_insert(functions).clone())
    }
}

/// A product of matrices on a device: everything but addresses and parameters.
pub struct PreparedMatmul {
    work: Work,
    alignments: SmallVec<[u8; 8]>,
}

/// Who does it.
enum Work {
    Library(Arc<Handle>, Gemm),
    Text(Box<Emitted>),
}

/// A product by our own text.
struct Emitted {
    classified: Classified,
    dispatch: Dispatch,
    functions: Functions,
}

impl PreparedMatmul {
    /// Who does it, for people.
    pub fn runs_on(&self) -> &'static str {
        match self.work {
            Work::Library(..) => "cuBLAS",
            Work::Text(_) => "emitted",
        }
    }

    /// Bytes of memory that a run needs besides its operands, at a multiple of 256.
    pub fn workspace(&self) -> u64 {
        match &self.work {
            Work::Library(..) => 0,
            Work::Text(emitted) => emitted.dispatch.workspace,
        }
    }

    /// The launches of a run, in order; none if a library does it, so that it cannot be part of a graph.
    pub fn grids(&self) -> Option<&[Grid]> {
        match &self.work {
            Work::Library(..) => None,
            Work::Text(emitted) => Some(&emitted.dispatch.grids),
        }
    }

    /// True if a run with these addresses is one that this was prepared for.
    pub fn fits(&self, addresses: &[u64]) -> bool {
        addresses.len() == self.alignments.len()
            && addresses.iter().zip(&self.alignments).all(|(a, low)| a % ALIGNMENT == u64::from(*low))
    }

    /// Puts a run on a stream: `addresses` are those of the first elements of the product's operands, `params` the bits of the
    /// parameters of what is fused into it, `workspace` the address of as many bytes as [`PreparedMatmul::workspace`] says. Does
    /// not wait.
    ///
    /// # Errors
    /// If the addresses do not fit, or the driver or the library refuses.
    ///
    /// # Safety
    /// As for [`super::Prepared::run`]; what is written overlaps no input.
    pub unsafe fn run(&self, stream: &Stream, addresses: &[u64], params: &[u64], workspace: u64) -> Result<(), Error> {
        match &self.work {
            Work::Library(library, gemm) => {
                self.check(addresses)?;
                let three = |_| Error::Internal(format!("a product with {} operands", addresses.len()));
                // SAFETY: as the caller promises.
                unsafe { library.multiply(stream, gemm, addresses.try_into().map_err(three)?) }
            }
            Work::Text(_) => self.each(addresses, params, workspace, |function, grid, words| {
                // SAFETY: as the caller promises; a launch needs no more than that.
                unsafe { stream.launch(function, grid, words) }
            }),
        }
    }

    /// Calls `launch` with each launch of a run.
    ///
    /// # Errors
    /// If the addresses do not fit, or there are no launches; and those of `launch`.
    pub fn each(
        &self,
        addresses: &[u64],
        params: &[u64],
        workspace: u64,
        mut launch: impl FnMut(&Function, &Grid, &[u64]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check(addresses)?;
        match &self.work {
            Work::Library(..) => Err(Error::Internal("a product that a library does has no launches".into())),
            Work::Text(emitted) => {
                let Emitted { classified, dispatch, functions } = &**emitted;
                let words = classified.words(addresses, params, workspace);
                dispatch.grids.iter().try_for_each(|grid| launch(&functions[grid.entry], grid, &words))
            }
        }
    }

    fn check(&self, addresses: &[u64]) -> Result<(), Error> {
        if self.fits(addresses) {
            return Ok(());
        }
        Err(Error::Internal("a product with other addresses than it was prepared for".into()))
    }
}
