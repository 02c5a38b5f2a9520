//! Products of matrices on a device: what [`Backend::prepare_matmul`] returns is run as a kernel is. cuBLAS does those that it
//! can, where it can be loaded; our own text does the others.

use super::{ALIGNMENT, Backend, MOST_LOADED};
use crate::Error;
use crate::cublas::{Gemm, Handle};
use crate::driver::{Function, Stream};
use crate::emit::{Dispatch, Grid};
use crate::matmul::{ADDRESSES, Class, Classified, Product, Program};
use numfuse_core::dtype::DType;
use numfuse_core::launch::Launch;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a backend keeps for products.
#[derive(Default)]
pub(super) struct Products {
    loaded: Mutex<FxHashMap<Class, Functions>>,
    /// cuBLAS on the device, or why it cannot be had.
    library: OnceLock<Result<Arc<Handle>, String>>,
}

type Functions = Arc<SmallVec<[Function; 2]>>;

impl Backend {
    /// Everything for runs of a product of matrices of this dtype, [`numfuse_core::plan::Work::Matmul`], on operands whose
    /// first elements are at these addresses, or at others that are aligned like them.
    ///
    /// # Errors
    /// If the launch is too much for a device, elements are not aligned, or there is no machine code and no compiler.
    pub fn prepare_matmul(&self, dtype: DType, launch: &Launch, addresses: &[u64]) -> Result<PreparedMatmul, Error> {
        let product = Product::new(dtype, launch)?;
        let addresses = three(addresses)?;
        product.check_aligned(addresses)?;
        let alignments = addresses.map(|address| (address % ALIGNMENT) as u8);
        if let Some(gemm) = Gemm::new(&product)
            && let Ok(library) = self.cublas()
        {
            return Ok(PreparedMatmul { work: Work::Library(library.clone(), gemm), alignments });
        }
        let classified = Classified::new(&product, addresses)?;
        let dispatch = classified.dispatch()?;
        let functions = self.functions_of(classified.class())?;
        let words = classified.words();
        Ok(PreparedMatmul {
            work: Work::Text(Box::new(Emitted { classified, dispatch, functions, words })),
            alignments,
        })
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
    fn functions_of(&self, class: &Class) -> Result<Functions, Error> {
        let lock = || self.0.products.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(functions) = lock().get(class) {
            return Ok(functions.clone());
        }
        let functions = Arc::new(self.functions(Program::new(class).source())?);
        self.0.compiled.fetch_add(1, Ordering::Relaxed);
        let mut all = lock();
        if all.len() >= MOST_LOADED {
            all.clear();
        }
        Ok(all.entry(*class).or_insert(functions).clone())
    }
}

/// A product of matrices on a device: everything but addresses.
pub struct PreparedMatmul {
    work: Work,
    alignments: [u8; 3],
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
    words: SmallVec<[u64; 32]>,
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

    /// Puts a run on a stream: `addresses` are those of the first elements of `left`, `right` and `out`, `workspace` that of as
    /// many bytes as [`PreparedMatmul::workspace`] says. Does not wait.
    ///
    /// # Errors
    /// If the addresses do not fit, or the driver or the library refuses.
    ///
    /// # Safety
    /// As for [`super::Prepared::run`]; `out` overlaps no input.
    pub unsafe fn run(&self, stream: &Stream, addresses: &[u64], workspace: u64) -> Result<(), Error> {
        match &self.work {
            // SAFETY: as the caller promises.
            Work::Library(library, gemm) => unsafe { library.multiply(stream, gemm, self.check(addresses)?) },
            Work::Text(_) => self.each(addresses, workspace, |function, grid, words| {
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
        workspace: u64,
        mut launch: impl FnMut(&Function, &Grid, &[u64]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let addresses = self.check(addresses)?;
        match &self.work {
            Work::Library(..) => Err(Error::Internal("a product that a library does has no launches".into())),
            Work::Text(emitted) => {
                let Emitted { classified, dispatch, functions, words } = &**emitted;
                let mut words = words.clone();
                words[..ADDRESSES].copy_from_slice(&classified.addresses(addresses, workspace));
                dispatch.grids.iter().try_for_each(|grid| launch(&functions[grid.entry], grid, &words))
            }
        }
    }

    fn check(&self, addresses: &[u64]) -> Result<[u64; 3], Error> {
        if self.fits(addresses) {
            return three(addresses);
        }
        Err(Error::Internal("a product with other addresses than it was prepared for".into()))
    }
}

fn three(addresses: &[u64]) -> Result<[u64; 3], Error> {
    addresses.try_into().map_err(|_| Error::Internal(format!("a product with {} operands", addresses.len())))
}
