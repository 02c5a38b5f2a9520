//! CUDA C to machine code, by NVRTC: NVIDIA's compiler in the form of a library.
//!
//! * The library is looked for when it is first needed, loaded once per process, and stays loaded. Where
//!   there is none, [`Compiler::load`] says what was tried; nothing panics.
//! * The result is machine code (CUBIN) of one architecture, never PTX: the driver would have to compile that again, and
//!   refuses it when the library is newer than itself. Machine code of one major version needs a driver for that version or
//!   a newer one: a library that is too new for the driver of this machine is passed over.
//! * Without [`Options::fast`], arithmetic is IEEE 754's: no contraction, no flushing of subnormals, correctly rounded
//!   division and square root. With these, `+ - * /` and `sqrt` have the interpreter's bits.
//! * A text that does not compile is a bug in numfuse: it is saved to a file, which the error names.
//!
//! `library.rs` is the binding (the only `unsafe` here), `usage.rs` reads what a kernel needs from the compiler's log.

pub(crate) mod library;
mod usage;

pub use usage::Usage;

use crate::Error;
use crate::search::{self, Sought};
use library::{Failure, Library};
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const NVRTC: Sought = Sought {
    variable: "NUMFUSE_NVRTC",
    names: if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12"]
    },
    packages: &["nvidia/cu13/lib", "nvidia/cu13/bin/x86_64", "nvidia/cuda_nvrtc/lib", "nvidia/cuda_nvrtc/bin"],
};

/// The oldest version that is told to leave out what no text uses.
const MINIMAL: Version = Version { major: 13, minor: 0 };

/// What machine code is for: a compute capability. Shown as the compiler spells it, `sm_90`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Arch {
    /// The generation. Code of another one does not run.
    pub major: u32,
    /// The member of the generation. Code of an older one runs.
    pub minor: u32,
}

impl Arch {
    /// The architecture of devices of this compute capability.
    pub const fn new(major: u32, minor: u32) -> Arch {
        Arch { major, minor }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

/// The version of the compiler, which is also that of the CUDA toolkit it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Machine code of one major version needs a driver of that or a newer one.
    pub major: u32,
    /// Drivers of the same major version take the code of every minor one.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How to compile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Options {
    /// Trades the interpreter's bits for speed: contraction, subnormals flushed to zero, approximate division and roots.
    pub fast: bool,
}

impl Options {
    /// The options in the compiler's words; the architecture is not among them.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        const STRICT: &[&str] = &["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];
        const FAST: &[&str] = &["--std=c++17", "--use_fast_math"];
        if self.fast { FAST } else { STRICT }
    }
}

/// Machine code, and what the compiler had to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// The machine code, as the driver loads it.
    pub cubin: Vec<u8>,
    /// Warnings, and what each entry needs.
    pub log: String,
}

impl Compiled {
    /// What each entry needs, in the order of the log.
    pub fn usage(&self) -> Vec<Usage> {
        usage::parse(&self.log)
    }
}

/// A loaded NVRTC. Cheap to clone; any thread may compile, several at once.
#[derive(Clone)]
pub struct Compiler {
    library: Arc<Library>,
}

impl Compiler {
    /// The library that this process finds first; every call returns the same one, or the same error.
    ///
    /// Looked for in this order: the file or folder that `$NUMFUSE_NVRTC` names, and no other if it is set; where the
    /// system's loader looks; the active Python environment; a CUDA toolkit. If there is a driver, one whose code it takes.
    pub fn load() -> Result<Compiler, Error> {
        static LOADED: OnceLock<Result<Compiler, Error>> = OnceLock::new();
        let candidates = || search::candidates(&NVRTC, &|name| std::env::var_os(name));
        LOADED.get_or_init(|| open_first(&candidates(), driver_version())).clone()
    }

    /// The library of this file, or the newest one in this folder, whatever the driver.
    pub fn load_from(path: &Path) -> Result<Compiler, Error> {
        open_first(&search::at(&NVRTC, path), None)
    }

    /// The version of the library.
    pub fn version(&self) -> Version {
        self.library.version()
    }

    /// Compiles a translation unit for devices of this architecture.
    ///
    /// For one that is newer than the library, the result is code of the newest older member of the same generation,
    /// which runs there too.
    pub fn compile(&self, text: &str, arch: Arch, options: Options) -> Result<Compiled, Error> {
        let target = newest_compatible(self.library.archs(), arch).ok_or_else(|| self.unknown(arch))?;
        // The log tells registers, stack and shared memory of each entry.
        let mut flags = vec![format!("--gpu-architecture={target}"), "--ptxas-options=-v".to_owned()];
        flags.extend(options.flags().iter().map(|&flag| flag.to_owned()));
        if self.version() >= MINIMAL {
            // Declares no textures and nothing of the host's functions, which takes time in each compilation. The code is
            // the same, and so what is on disk does not depend on it.
            flags.push("--minimal".to_owned());
        }
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::Internal("the text of a kernel has a zero byte in it".to_owned()))
        };
        let flags = flags.iter().map(|flag| c_string(flag)).collect::<Result<Vec<_>, _>>()?;
        match self.library.compile(&c_string(text)?, &flags) {
            Ok((cubin, log)) => Ok(Compiled { cubin, log }),
            Err(Failure::Text(log)) => Err(Error::Compile { file: save_text(text), log }),
            Err(Failure::Compiler(reason)) => Err(Error::NoCompiler(format!("{self:?} fails: {reason}"))),
        }
    }

    fn unknown(&self, arch: Arch) -> Error {
        let archs: Vec<String> = self.library.archs().iter().map(Arch::to_string).collect();
        let known = archs.join(", ");
        Error::NoCompiler(format!("{self:?} makes no code for {arch}; it knows {known}. Another CUDA version does"))
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {} ({})", self.version(), self.library.path().display())
    }
}

/// Saves the text of a kernel to a file, for whoever looks into what is wrong with it; returns where it is.
pub fn save_text(text: &str) -> String {
    let hash = Sha256::digest(text);
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let file = std::env::temp_dir().join(format!("numfuse-{name}.cu"));
    // Never through a file that is there already: in a folder that all users share, it may be a link of somebody else's.
    let write = || fs::File::create_new(&file)?.write_all(text.as_bytes());
    let place = file.display();
    match write() {
        Ok(()) => place.to_string(),
        Err(_) if fs::read(&file).is_ok_and(|there| there == text.as_bytes()) => place.to_string(),
        Err(error) => format!("{place} (which cannot be written: {error})"),
    }
}

/// The version of CUDA that the driver of this machine is for; none without a driver.
pub(crate) fn driver_version() -> Option<Version> {
    crate::driver::installed().map(|(major, minor)| Version { major, minor })
}

impl Version {
    /// True if a driver for a version of CUDA takes machine code of this compiler; without a driver there is nothing to ask.
    pub(crate) fn suits(self, driver: Option<Version>) -> bool {
        driver.is_none_or(|driver| self.major <= driver.major)
    }
}

/// Opens the first library that can be and whose code a driver takes; otherwise the error says why each is none.
fn open_first(candidates: &[std::path::PathBuf], driver: Option<Version>) -> Result<Compiler, Error> {
    let mut reasons = Vec::new();
    let mut newer: Option<Compiler> = None;
    for path in candidates {
        match Library::open(path) {
            Ok(library) => {
                let compiler = Compiler { library: Arc::new(library) };
                if compiler.version().suits(driver) {
                    return Ok(compiler);
                }
                newer.get_or_insert(compiler);
            }
            Err(reason) => reasons.push(format!("\n  {}: {reason}", path.display())),
        }
    }
    if let (Some(compiler), Some(driver)) = (newer, driver) {
        let (has, Version { major: wants, .. }) = (driver.major, compiler.version());
        let also = match has {
            12.. => format!(", or have a compiler for it beside: `pip install nvidia-cuda-nvrtc-cu{has}`"),
            _ => String::new(),
        };
        return Err(Error::DriverTooOld(format!(
            "it is for CUDA {driver}, and the compiler that was found, {compiler:?}, makes code for drivers of CUDA {wants}.0 or \
             newer: update the driver{also}"
        )));
    }
    let tried = if reasons.is_empty() { " nothing that could be it".to_owned() } else { reasons.concat() };
    Err(Error::NoCompiler(format!(
        "NVRTC cannot be loaded. It comes with the CUDA toolkit and with `pip install nvidia-cuda-nvrtc`; \
         $NUMFUSE_NVRTC may name the library or its folder. Found:{tried}"
    )))
}

/// Code runs on devices of its own generation that are not older than what it was compiled for.
fn newest_compatible(known: &[Arch], device: Arch) -> Option<Arch> {
    known.iter().copied().filter(|arch| arch.major == device.major && arch.minor <= device.minor).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_for_the_newest_architecture_that_the_device_runs() {
        let known = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0)].map(|(major, minor)| Arch::new(major, minor));
        let target = |major, minor| newest_compatible(&known, Arch::new(major, minor)).map(|arch| arch.to_string());
        assert_eq!(target(8, 0).as_deref(), Some("sm_80"));
        assert_eq!(target(8, 7).as_deref(), Some("sm_86"));
        assert_eq!(target(10, 3).as_deref(), Some("sm_100"));
        assert_eq!(target(7, 0), None, "older than all of its generation");
        assert_eq!(target(12, 0), None, "a generation that is not known");
    }

    #[test]
    fn a_text_is_saved_once() {
        let text = format!("// {:?}\n", std::time::SystemTime::now());
        let file = save_text(&text);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(save_text(&text), file);
        fs::write(&file, "another").unwrap();
        assert!(save_text(&text).contains("cannot be written"), "a file that is there is not written to");
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_library_that_is_none_is_an_error_that_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NVRTC.names[0]);
        fs::write(&file, "no library").unwrap();
        let Err(Error::NoCompiler(reason)) = Compiler::load_from(folder.path()) else { panic!("that is no library") };
        assert!(reason.contains(&format!("\n  {}: ", file.display())), "{reason}");
        let Err(Error::NoCompiler(reason)) = Compiler::load_from(&folder.path().join("gone")) else { panic!("gone") };
        assert!(reason.contains("gone: "), "{reason}");
    }
}
