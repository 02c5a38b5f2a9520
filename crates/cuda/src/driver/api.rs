//! The entry points of the driver library: all of them are found when the library is loaded, or it is refused, so that
//! no later call can miss one.
//!
//! Types and constants are those that cudarc generates from NVIDIA's header, and the compiler holds every signature below
//! against them. cudarc's own functions are not called: they panic when a library or a symbol is missing, and they return
//! errors as a Rust enum, which an error newer than the bindings must not be stored in. Here an error is a number.
//!
//! To use another entry point, add its line to [`Api`]'s table.

use cudarc::driver;
use cudarc::driver::sys::*;
use libloading::Library;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};

/// What a call returns: 0, or a number of `CUresult`, perhaps one that no binding knows yet.
pub(super) type Status = u32;

/// The status of a call that did what it was asked to.
pub(super) const SUCCESS: Status = CUresult::CUDA_SUCCESS as Status;

/// Names of the library: the one that the driver's package installs comes first. The last is where it is inside of WSL.
#[cfg(not(windows))]
const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"];
#[cfg(windows)]
const NAMES: &[&str] = &["nvcuda.dll"];

/// Why the library cannot be used.
pub(super) enum Missing {
    /// There is no such library.
    Library(String),
    /// It has no such entry point.
    Symbol(&'static str),
}

macro_rules! entry_points {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The entry points, under the names that the library exports them by.
        #[allow(non_snake_case, reason = "the names are NVIDIA's")]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> Status,)*
            /// `cuGetErrorName` and `cuGetErrorString`: of any number.
            pub(super) cuGetErrorName: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
            pub(super) cuGetErrorString: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
            /// `cuEventElapsedTime_v2`, or the same under its name before CUDA 12.8.
            pub(super) cuEventElapsedTime: unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> Status,
            /// Since CUDA 12.4.
            pub(super) cuFuncGetParamInfo:
                Option<unsafe extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> Status>,
        }

        // SAFETY: types are compared, nothing is called.
        $(const _: unsafe fn($($argument),*) -> CUresult = driver::sys::$name;)*

        impl Api {
            /// Finds every entry point in a library.
            fn find(library: &Library) -> Result<Api, Missing> {
                // SAFETY: the types are those of the functions: the compiler held them against generated bindings, but
                // for errors, which are numbers to the library. Copies of the addresses stay valid, since the
                // library is never unloaded (see `load`).
                unsafe {
                    Ok(Api {
                        $($name: symbol(library, stringify!($name))?,)*
                        cuGetErrorName: symbol(library, "cuGetErrorName")?,
                        cuGetErrorString: symbol(library, "cuGetErrorString")?,
                        cuEventElapsedTime: symbol(library, "cuEventElapsedTime_v2")
                            .or_else(|_| symbol(library, "cuEventElapsedTime"))?,
                        cuFuncGetParamInfo: symbol(library, "cuFuncGetParamInfo").ok(),
                    })
                }
            }
        }
    };
}

// SAFETY: as in the table.
const _: unsafe fn(*mut c_int) -> CUresult = cuDriverGetVersion;
const _: unsafe fn(*mut f32, CUevent, CUevent) -> CUresult = cuEventElapsedTime_v2;
const _: unsafe fn(CUfunction, usize, *mut usize, *mut usize) -> CUresult = cuFuncGetParamInfo;

entry_points! {
    cuInit(c_uint);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxGetCurrent(*mut CUcontext);
    cuCtxSetCurrent(CUcontext);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemPoolCreate(*mut CUmemoryPool, *const CUmemPoolProps);
    cuMemPoolDestroy(CUmemoryPool);
    cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, *mut c_void);
    cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute, *mut c_void);
    cuMemPoolTrimTo(CUmemoryPool, usize);
    cuMemAllocFromPoolAsync(*mut CUdeviceptr, usize, CUmemoryPool, CUstream);
    cuMemFreeAsync(CUdeviceptr, CUstream);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, c_uchar, usize, CUstream);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamQuery(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamWaitEvent(CUstream, CUevent, c_uint);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventDestroy_v2(CUevent);
    cuEventRecord(CUevent, CUstream);
    cuEventQuery(CUevent);
    cuEventSynchronize(CUevent);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncGetAttribute(*mut c_int, CUfunction_attribute, CUfunction);
    cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void
    );
    cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
    cuStreamEndCapture(CUstream, *mut CUgraph);
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphDestroy(CUgraph);
    cuGraphExecDestroy(CUgraphExec);
    cuGraphLaunch(CUgraphExec, CUstream);
}

impl Api {
    /// Loads the library for as long as the process lives. Also returns the version of CUDA that it is for, if it can
    /// tell, as `1000 * major + 10 * minor`, even when the library lacks something.
    pub(super) fn load() -> (Result<Api, Missing>, Option<i32>) {
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: initialisation routines of the driver library run here, as they do in every program that uses CUDA.
            match unsafe { Library::new(*name) } {
                Ok(library) => {
                    // Addresses of functions are kept, and what the driver starts does not survive its code.
                    let library: &'static Library = Box::leak(Box::new(library));
                    return (Api::find(library), version(library));
                }
                // The source is what the loader says.
                Err(e) => reasons.push(e.source().map_or_else(|| e.to_string(), ToString::to_string)),
            }
        }
        // The first name is the one that a message should be about.
        reasons.truncate(1);
        (Err(Missing::Library(reasons.concat())), None)
    }

    /// The name and the text of an error.
    pub(super) fn describe(&self, status: Status) -> String {
        // SAFETY: both take any number, and on success hand out a text that is never freed.
        let text = |get: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| unsafe {
            let mut text = std::ptr::null();
            let found = get(status, &mut text) == SUCCESS && !text.is_null();
            found.then(|| CStr::from_ptr(text).to_string_lossy())
        };
        match (text(self.cuGetErrorName), text(self.cuGetErrorString)) {
            (Some(name), Some(meaning)) => format!("{meaning} ({name})"),
            (Some(name), None) => name.into_owned(),
            _ => format!("error {status}, which the driver has no name for"),
        }
    }
}

/// # Safety
///
/// The symbol is a function of type `F`, and the library is never unloaded.
unsafe fn symbol<F: Copy>(library: &Library, name: &'static str) -> Result<F, Missing> {
    // SAFETY: as the caller promises.
    unsafe { library.get::<F>(name.as_bytes()) }.map(|f| *f).map_err(|_| Missing::Symbol(name))
}

/// The version of CUDA that a library is for.
fn version(library: &'static Library) -> Option<i32> {
    let mut version = 0;
    // SAFETY: this is the type of that function since the first version of CUDA; it may be called before `cuInit`.
    unsafe {
        let get: unsafe extern "C" fn(*mut c_int) -> Status = symbol(library, "cuDriverGetVersion").ok()?;
        (get(&mut version) == SUCCESS).then_some(version)
    }
}
