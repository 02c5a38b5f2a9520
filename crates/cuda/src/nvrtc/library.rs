//! The binding: the eleven functions of NVRTC that are used, behind a safe interface.
//!
//! NVRTC may be called from several threads at once, as long as each program is one thread's; here a program lives and
//! dies inside of one call. Libraries are never unloaded: threads may still run in them, and nothing is gained.
#![allow(unsafe_code, reason = "functions of a foreign library")]

use super::{Arch, Version};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;

/// `nvrtcResult`; zero is success.
type Status = c_int;
/// `NVRTC_ERROR_COMPILATION`: the text is at fault, and the log says where.
const COMPILATION: Status = 6;

type Program = *mut c_void;

/// The functions, with their types as in `nvrtc.h` of CUDA 12 and 13.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    arch_count: unsafe extern "C" fn(*mut c_int) -> Status,
    archs: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

/// A loaded NVRTC.
pub(super) struct Library {
    path: PathBuf,
    version: Version,
    archs: Vec<Arch>,
    functions: Functions,
    /// What the functions are in.
    _code: ManuallyDrop<libloading::Library>,
}

/// Why there is no code.
pub(super) enum Failure {
    /// The text does not compile; the compiler's messages.
    Text(String),
    /// The compiler does not work.
    Compiler(String),
}

impl Library {
    /// Loads this file, or what the system's loader finds under a name without a folder.
    pub(super) fn open(path: &Path) -> Result<Library, String> {
        // Some releases look for their second half where the loader looks, and not beside themselves. One that is loaded
        // already is found by its name.
        for file in builtins(path) {
            drop(load(&file).map(ManuallyDrop::new));
        }
        let code = ManuallyDrop::new(load(path)?);
        // SAFETY: the types are those of nvrtc.h, and the library is never unloaded.
        let functions = unsafe {
            Functions {
                version: symbol(&code, "nvrtcVersion")?,
                error_string: symbol(&code, "nvrtcGetErrorString")?,
                arch_count: symbol(&code, "nvrtcGetNumSupportedArchs")?,
                archs: symbol(&code, "nvrtcGetSupportedArchs")?,
                create: symbol(&code, "nvrtcCreateProgram")?,
                destroy: symbol(&code, "nvrtcDestroyProgram")?,
                compile: symbol(&code, "nvrtcCompileProgram")?,
                log_size: symbol(&code, "nvrtcGetProgramLogSize")?,
                log: symbol(&code, "nvrtcGetProgramLog")?,
                cubin_size: symbol(&code, "nvrtcGetCUBINSize")?,
                cubin: symbol(&code, "nvrtcGetCUBIN")?,
            }
        };
        let (version, archs) = functions.describe()?;
        Ok(Library { path: path.to_owned(), version, archs, functions, _code: code })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The architectures that there can be code for, oldest first.
    pub(super) fn archs(&self) -> &[Arch] {
        &self.archs
    }

    /// The machine code of a text, and the log.
    pub(super) fn compile(&self, text: &CStr, options: &[CString]) -> Result<(Vec<u8>, String), Failure> {
        let functions = &self.functions;
        let mut program = OwnedProgram { program: ptr::null_mut(), functions };
        // SAFETY: the strings end with a zero byte and outlive the call, which copies them; there are no headers.
        let status = unsafe {
            let name = c"kernel.cu".as_ptr();
            (functions.create)(&mut program.program, text.as_ptr(), name, 0, ptr::null(), ptr::null())
        };
        functions.check(status).map_err(Failure::Compiler)?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|error| Failure::Compiler(error.to_string()))?;
        // SAFETY: the program exists and is this thread's; the options are that many strings, which outlive the call.
        let status = unsafe { (functions.compile)(program.program, count, pointers.as_ptr()) };
        let log = program.log();
        match functions.check(status) {
            Ok(()) => Ok((program.cubin().map_err(Failure::Compiler)?, log)),
            Err(_) if status == COMPILATION => Err(Failure::Text(log)),
            Err(reason) => Err(Failure::Compiler(format!("{reason}\n{log}"))),
        }
    }
}

impl Functions {
    fn describe(&self) -> Result<(Version, Vec<Arch>), String> {
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the pointers are to integers that outlive the calls.
        self.check(unsafe { (self.version)(&mut major, &mut minor) })?;
        // SAFETY: as above.
        self.check(unsafe { (self.arch_count)(&mut count) })?;
        let mut numbers: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as the library has just said.
        self.check(unsafe { (self.archs)(numbers.as_mut_ptr()) })?;
        let number = |n: c_int| u32::try_from(n).unwrap_or(0);
        let mut archs: Vec<Arch> = numbers.iter().map(|&n| Arch::new(number(n) / 10, number(n) % 10)).collect();
        archs.sort_unstable();
        Ok((Version { major: number(major), minor: number(minor) }, archs))
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a constant string for every status, known or not.
        let name = unsafe { (self.error_string)(status) };
        if name.is_null() {
            return Err(format!("NVRTC error {status}"));
        }
        // SAFETY: as above: it ends with a zero byte and is never freed.
        Err(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }
}

/// A program, or null before it is made.
struct OwnedProgram<'a> {
    program: Program,
    functions: &'a Functions,
}

impl OwnedProgram<'_> {
    /// What the compiler says; empty where it cannot be had.
    fn log(&self) -> String {
        let text = self.bytes(self.functions.log_size, self.functions.log).unwrap_or_default();
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        String::from_utf8_lossy(text).into_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, String> {
        let code = self.bytes(self.functions.cubin_size, self.functions.cubin)?;
        if code.is_empty() { Err("there is no machine code in the result".to_owned()) } else { Ok(code) }
    }

    /// What one of the library's pairs of functions returns: the number of bytes, and the bytes.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>, String> {
        let mut count = 0;
        // SAFETY: the program exists, and the pointer is to an integer that outlives the call.
        self.functions.check(unsafe { size(self.program, &mut count) })?;
        let mut bytes = vec![0_u8; count];
        // SAFETY: the function of the same pair writes as many bytes as it has just said.
        self.functions.check(unsafe { get(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: the program exists, and nothing uses it after this.
            unsafe { (self.functions.destroy)(&mut self.program) };
        }
    }
}

/// A function by its name.
///
/// # Safety
///
/// `T` is the type of a pointer to that function, and `library` is never unloaded.
pub(crate) unsafe fn symbol<T: Copy>(library: &libloading::Library, name: &str) -> Result<T, String> {
    // SAFETY: the caller vouches for the type.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|function| *function).map_err(|error| format!("it is older than CUDA 12: {error}"))
}

/// Loads a library of NVIDIA's, which has a constructor.
pub(crate) fn load(path: &Path) -> Result<libloading::Library, String> {
    // SAFETY: what runs at loading is the initialisation of the library that the user has installed under NVIDIA's name.
    unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())
}

/// The libraries beside this one that hold its built-in headers.
fn builtins(path: &Path) -> Vec<PathBuf> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_builtins = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not `libnvrtc-builtins.alt.so.13.0`, which belongs to another variant.
        name.starts_with("libnvrtc-builtins.so.") || name.starts_with("nvrtc-builtins64_") && name.ends_with(".dll")
    };
    entries.map(|entry| entry.path()).filter(is_builtins).collect()
}
