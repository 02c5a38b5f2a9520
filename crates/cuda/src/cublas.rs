//! cuBLAS: products of matrices by NVIDIA's library, where there is one and the operands lie as it wants them.
//!
//! * The library is looked for when the first product is prepared, loaded once per process, and stays loaded. It is no
//!   error if there is none, if it fails to start, or if `NUMFUSE_CUBLAS=0`: our own text (`matmul.rs`) takes its place.
//! * A [`Gemm`] is a product in the library's words: columns that are contiguous, or their transpose, one stride from
//!   matrix to matrix. What is not like that (no unit stride, negative or zero ones, several dimensions of a stack)
//!   is nothing for it.
//! * The mathematics is the library's default: numbers of `f32` are not shortened to TF32.
//!
//! A handle of the library may be used by one thread at a time and is told the stream with each call.
#![allow(unsafe_code, reason = "functions of a foreign library")]

use crate::Error;
use crate::driver::{Device, Driver, Stream};
use crate::matmul::{I, J, K, Place, Product, Side};
use crate::nvrtc::library::{load, symbol};
use crate::search::{self, Sought};
use numfuse_core::dtype::DType;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

const CUBLAS: Sought = Sought {
    variable: "NUMFUSE_CUBLAS",
    names: if cfg!(windows) {
        &["cublas64_13.dll", "cublas64_12.dll"]
    } else {
        &["libcublas.so.13", "libcublas.so.12"]
    },
    packages: &["nvidia/cu13/lib", "nvidia/cu13/bin/x86_64", "nvidia/cublas/lib", "nvidia/cublas/bin"],
};

/// `cublasStatus_t`; zero is success.
type Status = c_int;
/// `cublasHandle_t`.
type Raw = *mut c_void;
/// `CUBLAS_DEFAULT_MATH`.
const DEFAULT_MATH: c_int = 0;
/// `MAJOR_VERSION` of `libraryPropertyType`.
const MAJOR_VERSION: c_int = 0;

/// `cublasSgemmStridedBatched` and `cublasDgemmStridedBatched`, of one type of numbers.
type GemmFunction<T> = unsafe extern "C" fn(
    Raw,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const T,
    *const T,
    c_int,
    c_longlong,
    *const T,
    c_int,
    c_longlong,
    *const T,
    *mut T,
    c_int,
    c_longlong,
    c_int,
) -> Status;

/// The functions, with their types as in `cublas_api.h` of CUDA 12 and 13.
struct Library {
    property: unsafe extern "C" fn(c_int, *mut c_int) -> Status,
    status_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(*mut Raw) -> Status,
    destroy: unsafe extern "C" fn(Raw) -> Status,
    set_math_mode: unsafe extern "C" fn(Raw, c_int) -> Status,
    set_stream: unsafe extern "C" fn(Raw, *mut c_void) -> Status,
    single: GemmFunction<f32>,
    double: GemmFunction<f64>,
    /// What the functions are in.
    _code: ManuallyDrop<libloading::Library>,
}

impl Library {
    /// The library that this process finds first; every call returns the same one, or the same reason why there is none.
    fn load() -> Result<&'static Library, String> {
        static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
        LOADED.get_or_init(Library::find).as_ref().map_err(String::clone)
    }

    fn find() -> Result<Library, String> {
        if std::env::var_os(CUBLAS.variable).is_some_and(|value| value == "0") {
            return Err(format!("{}=0", CUBLAS.variable));
        }
        let newest = Driver::load().map_err(|error| error.to_string())?.version().0;
        let mut reasons = vec!["cuBLAS cannot be loaded".to_owned()];
        for path in search::candidates(&CUBLAS, &|name| std::env::var_os(name)) {
            match Library::open(&path, newest) {
                Ok(library) => return Ok(library),
                Err(reason) => reasons.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(reasons.join("\n  "))
    }

    /// Loads this file, or what the system's loader finds under a name without a folder, unless it needs a newer driver.
    fn open(path: &Path, newest: u32) -> Result<Library, String> {
        // The library's other half may lie beside it where the loader does not look.
        let other = other_half(path);
        drop(other.map(|file| load(&file).map(ManuallyDrop::new)));
        let code = ManuallyDrop::new(load(path)?);
        // SAFETY: the types are those of cublas_api.h, and the library is never unloaded.
        let library = unsafe {
            Library {
                property: symbol(&code, "cublasGetProperty")?,
                status_string: symbol(&code, "cublasGetStatusString")?,
                create: symbol(&code, "cublasCreate_v2")?,
                destroy: symbol(&code, "cublasDestroy_v2")?,
                set_math_mode: symbol(&code, "cublasSetMathMode")?,
                set_stream: symbol(&code, "cublasSetStream_v2")?,
                single: symbol(&code, "cublasSgemmStridedBatched")?,
                double: symbol(&code, "cublasDgemmStridedBatched")?,
                _code: code,
            }
        };
        let mut major = 0;
        // SAFETY: the result goes to a place of its type.
        let status = unsafe { (library.property)(MAJOR_VERSION, &mut major) };
        library.check("cublasGetProperty", status).map_err(|error| error.to_string())?;
        if i64::from(major) > i64::from(newest) {
            return Err(format!("it is of CUDA {major}, and the driver of {newest}"));
        }
        Ok(library)
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a constant string for every status, known or not.
        let text = unsafe { (self.status_string)(status) };
        let reason = if text.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: as above: it ends with a zero byte and is never freed.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        Err(Error::Driver { call, reason })
    }
}

/// The library on a device.
pub(crate) struct Handle {
    device: Device,
    library: &'static Library,
    raw: Mutex<Raw>,
}

// SAFETY: a handle may be used by any thread, one at a time, which the lock sees to.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// The library on a device, or why it cannot be had.
    pub fn new(device: &Device) -> Result<Handle, String> {
        let library = Library::load()?;
        let _current = device.enter().map_err(|error| error.to_string())?;
        let mut raw = ptr::null_mut();
        // SAFETY: the device's context is current, and the result goes to a place of its type.
        let status = unsafe { (library.create)(&mut raw) };
        library.check("cublasCreate", status).map_err(|error| error.to_string())?;
        let handle = Handle { device: device.clone(), library, raw: Mutex::new(raw) };
        // SAFETY: the handle is live and nobody else has it.
        let status = unsafe { (library.set_math_mode)(raw, DEFAULT_MATH) };
        library.check("cublasSetMathMode", status).map_err(|error| error.to_string())?;
        Ok(handle)
    }

    /// Multiplies, when the stream gets there. The addresses are those of the launch's operands.
    ///
    /// # Safety
    ///
    /// From each address the product reaches memory of the device that is live until then; what is written is used by
    /// nothing else meanwhile, and overlaps no input.
    pub unsafe fn multiply(&self, stream: &Stream, gemm: &Gemm, addresses: [u64; 3]) -> Result<(), Error> {
        stream.device().check_same(&self.device)?;
        let _current = self.device.enter()?;
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the handle and the stream are live and of one context, and this is the only thread that uses the handle.
        let status = unsafe { (self.library.set_stream)(*raw, stream.raw().cast()) };
        self.library.check("cublasSetStream", status)?;
        match gemm.dtype {
            // SAFETY: as the caller promises, of elements of this type.
            DType::F32 => unsafe {
                let status = gemm.call(self.library.single, *raw, addresses, [&1.0, &0.0]);
                self.library.check("cublasSgemmStridedBatched", status)
            },
            // SAFETY: as above.
            _ => unsafe {
                let status = gemm.call(self.library.double, *raw, addresses, [&1.0, &0.0]);
                self.library.check("cublasDgemmStridedBatched", status)
            },
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(_current) = self.device.enter_to_free() else { return };
        let raw = *self.raw.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody else has the handle; the library waits for what it does.
        let _ = unsafe { (self.library.destroy)(raw) };
    }
}

/// A product in the library's words, for which the elements of a column are neighbours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gemm {
    dtype: DType,
    /// `i`, `j` and `k`.
    sizes: [c_int; 3],
    matrices: [Matrix; 3],
    /// How many products.
    count: c_int,
    /// Which of the launch's operands each of the matrices is.
    given: [usize; 3],
}

/// How the matrices of an operand lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Matrix {
    /// The elements of a row are neighbours, not those of a column.
    transposed: bool,
    /// Elements from one column to the next; or row, if transposed.
    leading: c_int,
    /// Elements from one matrix to the next.
    stride: c_longlong,
}

impl Gemm {
    /// The product, if the library can do it. Elements are aligned.
    pub fn new(product: &Product) -> Option<Gemm> {
        // What is zero, or nothing, is no work for a library; nor is what is fused.
        if product.is_empty() || product.sizes[K] == 0 || product.is_fused() {
            return None;
        }
        Gemm::of(product).or_else(|| Gemm::of(&product.transposed()))
    }

    fn of(product: &Product) -> Option<Gemm> {
        let number = |n: usize| c_int::try_from(n).ok();
        let count = match product.outer.as_slice() {
            [] => 1,
            [count] => number(*count)?,
            _ => return None,
        };
        let [left, right, out] = [0, 1, 2].map(|n| Matrix::new(product, n));
        let matrices = [left?, right?, out?];
        let sizes = [number(product.sizes[I])?, number(product.sizes[J])?, number(product.sizes[K])?];
        let can_be_written = !matrices[2].transposed && (count == 1 || matrices[2].stride > 0);
        can_be_written.then_some(Gemm {
            dtype: product.dtype,
            sizes,
            matrices,
            count,
            given: product.sides.each_ref().map(Side::given),
        })
    }

    /// Calls the library.
    ///
    /// # Safety
    ///
    /// As [`Handle::multiply`], with the function for the product's dtype, which nothing else uses the handle for; the
    /// factors live on the host.
    unsafe fn call<T>(&self, function: GemmFunction<T>, raw: Raw, addresses: [u64; 3], factors: [&T; 2]) -> Status {
        let [i, j, k] = self.sizes;
        let [left, right, out] = self.matrices;
        let [x, y, z] = self.given.map(|n| ptr::without_provenance_mut::<T>(addresses[n] as usize));
        let [alpha, beta] = factors.map(ptr::from_ref);
        let (tx, ty) = (c_int::from(left.transposed), c_int::from(right.transposed));
        // SAFETY: as the caller promises; sizes and strides are those of the product.
        unsafe {
            function(
                raw,
                tx,
                ty,
                i,
                j,
                k,
                alpha,
                x,
                left.leading,
                left.stride,
                y,
                right.leading,
                right.stride,
                beta,
                z,
                out.leading,
                out.stride,
                self.count,
            )
        }
    }
}

impl Matrix {
    fn new(product: &Product, n: usize) -> Option<Matrix> {
        let Place { outer, matrix: [down, along] } = product.sides[n].place();
        let [rows, columns] = product.extent(n);
        let size = product.dtype.size() as isize;
        // From one line of neighbours to the next, where they are: at least a line; with one line, any distance will do.
        let leading = |step: isize, length: usize, next: isize, lines: usize| {
            let length = length.max(1);
            let distance = if lines <= 1 { length } else { usize::try_from(next / size).ok()? };
            ((step == size || length == 1) && distance >= length).then(|| c_int::try_from(distance).ok())?
        };
        let (transposed, leading) = match leading(*down, rows, *along, columns) {
            Some(found) => (false, found),
            None => (true, leading(*along, columns, *down, rows)?),
        };
        let stride = outer.first().copied().unwrap_or(0) / size;
        (stride >= 0).then_some(Matrix { transposed, leading, stride: stride as c_longlong })
    }
}

/// `libcublasLt.so.13` beside `libcublas.so.13`, if it is there.
fn other_half(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.replacen("cublas", "cublasLt", 1);
    Some(path.with_file_name(name)).filter(|file| file.exists())
}
