//! A driver without a GPU: builds the stand-in of `tests/emulator/driver.cpp`, and runs the body of a test in a child
//! process that finds it where a driver would be. A process loads its driver once, so every test has a process.
//!
//! ```text
//! #[test]
//! fn copies_arrive() {
//!     Fake::new().run(|| { let device = Device::open(0).unwrap(); ... });
//! }
//! ```
//!
//! With `NUMFUSE_TEST_GPU=1`, the bodies of [`Fake::or_real`] run on the first device of this machine's driver, and code comes
//! from NVRTC; other tests say that they are skipped.

#![allow(dead_code, reason = "each test file uses a part of it")]

use super::emulator::{self, Build};
use numfuse_cuda::emit::Source;
use numfuse_cuda::nvrtc::Options;
use numfuse_cuda::{Arch, Compiler, Device};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How the driver is to behave in a test.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    settings: Vec<(String, String)>,
    /// An entry point that the library lacks.
    without: Option<&'static str>,
    /// No library at all.
    absent: bool,
    /// A real device does as well.
    or_real: bool,
}

/// How a test's process ended; nothing if this is it, or there was none.
pub struct Outcome {
    output: Option<Output>,
}

/// Tells a child process that it is one.
const CHILD: &str = "NUMFUSE_FAKE_CHILD";
/// Asks for a real device.
const REAL: &str = "NUMFUSE_TEST_GPU";
/// What a body that came to its end prints.
const DONE: &str = "the body of the test is done";

impl Fake {
    /// One device, on which nothing goes wrong.
    pub fn new() -> Fake {
        Fake::default()
    }

    /// The same, for a body that expects nothing but what every device does.
    pub fn or_real() -> Fake {
        Fake { or_real: true, ..Fake::default() }
    }

    /// With a variable of `driver.cpp`, whose name is given without `FAKE_CUDA_`.
    pub fn with(mut self, name: &str, value: impl ToString) -> Fake {
        self.settings.push((format!("FAKE_CUDA_{name}"), value.to_string()));
        self
    }

    /// With any other variable.
    pub fn variable(mut self, name: &str, value: impl ToString) -> Fake {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Without an entry point.
    pub fn without(mut self, symbol: &'static str) -> Fake {
        self.without = Some(symbol);
        self
    }

    /// Without a driver.
    pub fn absent() -> Fake {
        Fake { absent: true, ..Fake::default() }
    }

    /// The variables with which any program finds it.
    pub fn variables(self) -> Vec<(String, String)> {
        let folder = if self.absent { nowhere() } else { folder(self.without) };
        let mut variables = self.settings;
        variables.push(("LD_LIBRARY_PATH".to_owned(), folder.display().to_string()));
        variables
    }

    /// Runs the body of the test that calls this. It has to pass, to leave nothing behind, and to do nothing that a driver
    /// leaves undefined.
    pub fn run(self, body: impl FnOnce()) -> Outcome {
        let outcome = self.spawn(body);
        outcome.expect_done();
        outcome.expect_no_leaks();
        outcome
    }

    /// The same for a body that does not free what it has, as when the device is lost.
    pub fn run_leaky(self, body: impl FnOnce()) -> Outcome {
        let outcome = self.with("LEAKS", 1).spawn(body);
        outcome.expect_done();
        outcome
    }

    /// The same for a body that the driver ends because of what it does.
    pub fn expect_violation(self, message: &str, body: impl FnOnce()) {
        let outcome = self.spawn(body);
        let text = outcome.text();
        assert!(outcome.output.is_none() || text.contains(&format!("VIOLATION: {message}")), "{text}");
    }

    /// In the parent: a child process, ended. In the child: the body, and the end.
    fn spawn<F: FnOnce()>(self, body: F) -> Outcome {
        // A test may do this several times: each child is for one of them, and passes by the others.
        let test = test_of::<F>();
        let turn = turn(test);
        if let Some(own) = std::env::var_os(CHILD) {
            if own.to_str() == Some(&turn) {
                body();
                eprintln!("{DONE}");
            }
            return Outcome { output: None };
        }
        if is_real() && !self.fits_real() {
            eprintln!("SKIPPED: {test}, process {turn}, is not for a real device");
            return Outcome { output: None };
        }
        let mut child = Command::new(std::env::current_exe().expect("the test program"));
        child.args([test, "--exact", "--nocapture", "--include-ignored"]).env(CHILD, turn);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FAKE_CUDA_") {
                child.env_remove(name);
            }
        }
        child.envs(self.settings);
        if !is_real() {
            let folder = if self.absent { nowhere() } else { folder(self.without) };
            child.env("LD_LIBRARY_PATH", folder);
        }
        Outcome { output: Some(child.output().expect("the test program starts")) }
    }

    /// Whether a real device is as good, the first time.
    fn fits_real(&self) -> bool {
        let setting = |(name, value): &(String, String)| match name.as_str() {
            "FAKE_CUDA_SEED" => value == "0",
            name => name == "FAKE_CUDA_LEAKS",
        };
        self.or_real && self.settings.iter().all(setting)
    }
}

impl Outcome {
    /// Everything that the process printed.
    pub fn text(&self) -> String {
        let printed = self.output.iter().flat_map(|output| [&output.stdout, &output.stderr]);
        printed.map(|bytes| String::from_utf8_lossy(bytes)).collect()
    }

    /// How often a function of the driver was called.
    pub fn calls(&self, name: &str) -> usize {
        let text = self.text();
        let count = text.lines().find_map(|line| line.strip_prefix(&format!("fake driver: {name} was called ")));
        count.and_then(|count| count.split(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// Whether the stand-in has told how it was used: not to the process itself.
    pub fn is_known(&self) -> bool {
        self.left().is_some()
    }

    /// What was there at the end.
    fn left(&self) -> Option<String> {
        self.text().lines().find_map(|line| line.strip_prefix("fake driver: at exit: ").map(str::to_owned))
    }

    fn expect_done(&self) {
        if let Some(output) = &self.output {
            let text = self.text();
            assert!(output.status.success() && text.contains(DONE), "{text}");
        }
    }

    fn expect_no_leaks(&self) {
        if let Some(left) = self.left() {
            assert!(left.split(", ").all(|what| what.ends_with(" 0")), "something leaks: {left}\n{}", self.text());
        }
    }
}

/// A kernel's text as machine code of the first device, or as what the stand-in takes for that.
pub fn machine_code(source: &Source) -> Vec<u8> {
    if is_real() {
        let (major, minor) = Device::open(0).expect("a real device").arch();
        let compiled =
            Compiler::load().and_then(|nvrtc| nvrtc.compile(&source.text, Arch { major, minor }, Options::default()));
        return compiled.expect("machine code").cubin;
    }
    fs::read(emulator::library(source)).expect("a library that was just made")
}

fn is_real() -> bool {
    std::env::var_os(REAL).is_some_and(|value| value == "1")
}

/// The test that a closure is written in: its type is named after the function.
fn test_of<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    assert!(path.contains("::{{closure}}"), "{path} does not tell its test: a body is a closure");
    let path = path.split_once("::").map_or(path, |(_, path)| path);
    path.split_once("::{{closure}}").map_or(path, |(path, _)| path)
}

/// Which of a test's processes the next one is.
fn turn(test: &'static str) -> String {
    thread_local! {
        static TURNS: RefCell<HashMap<&'static str, usize>> = RefCell::default();
    }
    TURNS.with_borrow_mut(|turns| {
        let turn = turns.entry(test).or_default();
        *turn += 1;
        turn.to_string()
    })
}

/// The folder in which the stand-in lies under the name of the driver's library.
fn folder(without: Option<&str>) -> PathBuf {
    const SOURCE: &str = include_str!("../emulator/driver.cpp");
    const INTERFACE: &str = include_str!("../emulator/emulator.h");
    const FLAGS: &[&str] = &["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"];
    let runtime = emulator::runtime(Build::Plain);
    let mut hash = Sha256::new();
    for part in [SOURCE, INTERFACE, emulator::compiler_version(), without.unwrap_or(""), &runtime.to_string_lossy()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(FLAGS.concat());
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = root().join(format!("driver-{key}"));
    if folder.join("libcuda.so.1").exists() {
        return folder;
    }
    // Made under a name of its own, and then given its name, so that others see all of it or nothing.
    let making = root().join(format!("making-{key}-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir_all(&making).expect("a folder in the target folder");
    // The tests of other crates use this file, too.
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda/tests/emulator/driver.cpp");
    let mut command = Command::new("g++");
    command.args(FLAGS).arg(source).arg(&runtime);
    command.arg("-o").arg(making.join("libcuda.so.1"));
    if let Some(symbol) = without {
        let script = making.join("hidden");
        fs::write(&script, format!("{{ local: {symbol}; }};")).expect("a file in the target folder");
        command.arg(format!("-Wl,--version-script={}", script.display()));
    }
    let output = command.output().expect("g++ starts");
    assert!(output.status.success(), "g++ refuses driver.cpp:\n{}", String::from_utf8_lossy(&output.stderr));
    if fs::rename(&making, &folder).is_err() {
        // Another test was faster.
        let _ = fs::remove_dir_all(&making);
    }
    folder
}

/// A folder whose driver cannot be loaded, so that one that the machine may have is not found.
fn nowhere() -> PathBuf {
    let folder = root().join("no-driver");
    fs::create_dir_all(&folder).expect("a folder in the target folder");
    for name in ["libcuda.so.1", "libcuda.so"] {
        fs::write(folder.join(name), "no library").expect("a file in the target folder");
    }
    folder
}

/// Where everything that is made here lies.
fn root() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    target.join("cuda-emulator")
}
