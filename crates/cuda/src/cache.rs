//! Machine code on disk, by content: what one process has compiled, the next one reads.
//!
//! ```text
//! FOLDER/sm_90/nvrtc-13.0/SHA256.cubin      the hash is that of the text, the options and the architecture
//! ```
//!
//! * An entry holds its own key, length and checksum. One that is damaged is deleted and made again.
//! * Files are written beside their place and renamed, so that no other thread or process sees half of one.
//! * Several threads that want one thing at a time have it compiled once. Processes may do the work twice; either result
//!   stays.
//! * The cache only saves time: a folder that is not there, cannot be written to or is full is no error.
//! * It is bounded: what was not used for the longest time goes first. An entry's time of modification is that of its last
//!   use. Several processes together may exceed the bound by a sixteenth each.
//! * Only files of the form above are ever deleted, whatever folder the user names.

use crate::Error;
use crate::nvrtc::{Arch, Compiler, Options, Version};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The most bytes that the cache of [`Cache::from_environment`] takes.
pub const DEFAULT_BOUND: u64 = 256 << 20;

/// Begins every file. Its last digit counts the forms that files have had; hashes depend on it, too.
const MAGIC: &[u8; 16] = b"numfuse cubin 1\n";
/// Magic, key, length and checksum.
const HEADER: usize = MAGIC.len() + 32 + 8 + 32;
/// A file that is still not renamed after this time is one that a killed process has left.
const ABANDONED: Duration = Duration::from_secs(3600);

type Hash = [u8; 32];
/// One thing that is being made; the result is there once the lock is free.
type Making = Arc<Mutex<Option<Result<Arc<[u8]>, Error>>>>;

/// Everything that machine code depends on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// CUDA C.
    pub text: &'a str,
    /// The architecture of the device.
    pub arch: Arch,
    /// How it is compiled.
    pub options: Options,
    /// Which compiler would compile it. `None` where there is none: then the code of any will do that the driver takes.
    pub compiler: Option<Version>,
}

/// A folder of machine code. All threads share one.
#[derive(Debug)]
pub struct Cache {
    /// `None` keeps nothing.
    folder: Option<PathBuf>,
    bound: u64,
    /// How many bytes may be written before the size of the folder is looked at again.
    allowance: AtomicU64,
    making: Mutex<FxHashMap<(Hash, Option<Version>), Making>>,
}

impl Cache {
    /// The user's cache: `$NUMFUSE_CUDA_CACHE`, else `numfuse/cuda` in the folder that the system has for such things. If
    /// the variable is set and empty, or there is no such folder, nothing is kept.
    pub fn from_environment() -> Cache {
        Cache { folder: users_folder(&|name| std::env::var_os(name)), ..Cache::nowhere() }
    }

    /// A cache in this folder of at most this many bytes. The folder is made when there is something to keep.
    pub fn at(folder: impl Into<PathBuf>, bound: u64) -> Cache {
        Cache { folder: Some(folder.into()), bound, ..Cache::nowhere() }
    }

    /// A cache that keeps nothing.
    pub fn nowhere() -> Cache {
        Cache { folder: None, bound: DEFAULT_BOUND, allowance: AtomicU64::new(0), making: Mutex::default() }
    }

    /// Where the machine code is kept.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The machine code of a text for devices of this architecture, compiled by the compiler of this process unless it is
    /// here already. Without a compiler, what another one has left here will do, if the driver takes it.
    pub fn machine_code(&self, text: &str, arch: Arch, options: Options) -> Result<Arc<[u8]>, Error> {
        let compiler = Compiler::load();
        let version = compiler.as_ref().ok().map(Compiler::version);
        self.get_or_compile(&Request { text, arch, options, compiler: version }, || {
            Ok(compiler?.compile(text, arch, options)?.cubin)
        })
    }

    /// What is kept for this request; otherwise the result of `compile`, which is kept from then on. Errors are not kept.
    ///
    /// Of several threads that ask for the same thing, one compiles and the others wait for its result.
    pub fn get_or_compile(
        &self,
        request: &Request<'_>,
        compile: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Arc<[u8]>, Error> {
        let hash = request.hash();
        let key = (hash, request.compiler);
        let making = Arc::clone(lock(&self.making).entry(key).or_default());
        let mut result = lock(&making);
        if let Some(result) = &*result {
            return result.clone();
        }
        let made = match self.read(request, &hash) {
            Some(code) => Ok(code),
            None => compile().map(|code| {
                self.keep(request, &hash, &code);
                Arc::from(code)
            }),
        };
        *result = Some(made.clone());
        // From here on the file answers. Threads that wait for this result hold on to it.
        lock(&self.making).remove(&key);
        made
    }

    /// What is kept for a request.
    fn read(&self, request: &Request<'_>, hash: &Hash) -> Option<Arc<[u8]>> {
        let name = file_name(hash);
        let arch = self.folder.as_ref()?.join(request.arch.to_string());
        let folders = match request.compiler {
            Some(version) => vec![arch.join(folder_name(version))],
            None => {
                let driver = crate::nvrtc::driver_version();
                versions(&arch).into_iter().rev().filter(|(v, _)| v.suits(driver)).map(|(_, folder)| folder).collect()
            }
        };
        folders.iter().find_map(|folder| read_file(&folder.join(&name), hash))
    }

    /// Keeps machine code, where that is possible.
    fn keep(&self, request: &Request<'_>, hash: &Hash, code: &[u8]) {
        let (Some(folder), Some(version)) = (&self.folder, request.compiler) else { return };
        let size = (HEADER + code.len()) as u64;
        if size > self.bound {
            return;
        }
        let place = folder.join(request.arch.to_string()).join(folder_name(version));
        if write_file(&place, hash, code).is_ok() {
            let spend = self.allowance.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(size));
            if spend.is_err() {
                self.allowance.store(make_room(folder, self.bound), Relaxed);
            }
        }
    }
}

impl Request<'_> {
    /// The compiler is not in it: it names the folder.
    fn hash(&self) -> Hash {
        let mut hash = Sha256::new_with_prefix(MAGIC);
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(self.arch.to_string().as_bytes());
        field(self.options.flags().join(" ").as_bytes());
        field(self.text.as_bytes());
        hash.finalize().into()
    }
}

fn file_name(hash: &Hash) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex + ".cubin"
}

fn folder_name(version: Version) -> String {
    format!("nvrtc-{version}")
}

/// The folders of an architecture, by the version that has compiled what is in them.
fn versions(arch: &Path) -> BTreeMap<Version, PathBuf> {
    let version = |name: &str| {
        let (major, minor) = name.strip_prefix("nvrtc-")?.split_once('.')?;
        Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
    };
    entries(arch).into_iter().filter_map(|(name, path)| Some((version(&name)?, path))).collect()
}

/// Reads an entry, and says that it is in use. One that is damaged is deleted.
fn read_file(path: &Path, hash: &Hash) -> Option<Arc<[u8]>> {
    let bytes = fs::read(path).ok()?;
    let Some(code) = unwrap(&bytes, hash) else {
        // If it cannot be deleted, the new one replaces it.
        let _ = fs::remove_file(path);
        return None;
    };
    // A folder that cannot be written to is as good for reading.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    Some(Arc::from(code))
}

/// The machine code in an entry, if all of it is there.
fn unwrap<'a>(bytes: &'a [u8], hash: &Hash) -> Option<&'a [u8]> {
    let (header, code) = bytes.split_at_checked(HEADER)?;
    (header == self::header(hash, code)).then_some(code)
}

fn header(hash: &Hash, code: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let parts: [&[u8]; 4] = [MAGIC, hash, &(code.len() as u64).to_le_bytes(), &Sha256::digest(code)];
    for (to, from) in header.iter_mut().zip(parts.concat()) {
        *to = from;
    }
    header
}

/// Writes an entry beside its place and renames it.
fn write_file(folder: &Path, hash: &Hash, code: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let name = file_name(hash);
    // Processes in different containers may have the same number, so the time takes part.
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let part = format!("{name}.{}-{time}-{}.part", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let part = folder.join(part);
    let write = || {
        let mut file = File::create_new(&part)?;
        file.write_all(&header(hash, code))?;
        file.write_all(code)?;
        drop(file);
        fs::rename(&part, folder.join(name))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

/// Deletes the entries that were not used for the longest time, if there are more bytes than the bound; then well below
/// it, so that this is rare. Returns how many bytes may be written until it has to be looked at again.
fn make_room(folder: &Path, bound: u64) -> u64 {
    let mut total = 0;
    let mut found = Vec::new();
    let archs = entries(folder).into_iter().filter(|(name, _)| name.starts_with("sm_"));
    for (name, path) in archs.flat_map(|(_, arch)| versions(&arch).into_values()).flat_map(|folder| entries(&folder)) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if is_entry(&name) {
            total += metadata.len();
            found.push((used, path, metadata.len()));
        } else if is_part(&name) && used.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(path);
        }
    }
    if total > bound {
        found.sort();
        for (_, path, size) in found {
            if total <= bound - bound / 8 {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
    bound.saturating_sub(total).min(bound / 16)
}

fn is_entry(name: &str) -> bool {
    let hash = name.strip_suffix(".cubin");
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_part(name: &str) -> bool {
    name.ends_with(".part") && name.split_at_checked(64 + ".cubin".len()).is_some_and(|(entry, _)| is_entry(entry))
}

/// Names and paths of what is in a folder; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// The folder of the user's cache. `variable` is the environment.
fn users_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("NUMFUSE_CUDA_CACHE") {
        return Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty());
    }
    // A relative path would be another folder for each process.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        absolute("LOCALAPPDATA")?
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?
    };
    Some(caches.join("numfuse").join("cuda"))
}

/// A result that a panic has kept from being there is made by the next thread, so what the lock holds is always sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_users() {
        let folder = |variables: &[(&str, &str)]| {
            let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| OsString::from(v.1));
            users_folder(&variable).map(|path| path.display().to_string())
        };
        if cfg!(unix) {
            let home = ("HOME", "/home/me");
            assert_eq!(folder(&[home]).as_deref(), Some("/home/me/.cache/numfuse/cuda"));
            assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/fast")]).as_deref(), Some("/fast/numfuse/cuda"));
            assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "here")]).as_deref(), Some("/home/me/.cache/numfuse/cuda"));
            assert_eq!(folder(&[home, ("NUMFUSE_CUDA_CACHE", "here")]).as_deref(), Some("here"));
            assert_eq!(folder(&[home, ("NUMFUSE_CUDA_CACHE", "")]), None, "turned off");
        }
        assert_eq!(folder(&[]), None, "nobody's");
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let hash = |text, (major, minor), fast| {
            Request { text, arch: Arch::new(major, minor), options: Options { fast }, compiler: None }.hash()
        };
        let one = hash("a", (9, 0), false);
        for other in [hash("b", (9, 0), false), hash("a", (8, 0), false), hash("a", (9, 0), true)] {
            assert_ne!(one, other);
        }
        assert_eq!(one, hash("a", (9, 0), false));
    }

    #[test]
    fn only_files_of_the_cache_have_its_names() {
        let entry = file_name(&[0xab; 32]);
        assert!(is_entry(&entry) && !is_part(&entry));
        let part = format!("{entry}.12-3456-0.part");
        assert!(is_part(&part) && !is_entry(&part));
        for other in ["notes.cubin", "a.part", "", &format!("{}.cubin", "x".repeat(64)), &"ä".repeat(60)] {
            assert!(!is_entry(other) && !is_part(other), "{other}");
        }
    }
}
