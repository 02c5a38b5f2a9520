//! A GPU that is not there: the stand-in of the driver with one of NVRTC beside it, so that the facade runs on a device as
//! it would on a real one, kernels and all. Each test has a process; see `fake.rs`.

#![allow(dead_code, reason = "each test file uses a part of it")]

#[path = "../../../cuda/tests/common/emulator.rs"]
pub mod emulator;
#[path = "../../../cuda/tests/common/fake.rs"]
pub mod fake;

use emulator::compiler_version;
use fake::Fake;
use numfuse_cuda::emit::Source;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One device on which nothing goes wrong.
pub fn gpu() -> Fake {
    let program = std::env::current_exe().expect("the test program");
    Fake::new()
        .variable("NUMFUSE_NVRTC", compiler().display())
        .variable("NUMFUSE_CUDA_CACHE", "")
        .variable("FAKE_NVRTC_PROGRAM", program.display())
}

/// The same, or with `NUMFUSE_TEST_GPU=1` this machine's first GPU, for a test that expects nothing but what every device
/// does.
pub fn any_gpu() -> Fake {
    if is_real() { Fake::or_real() } else { gpu() }
}

/// True if [`any_gpu`] is a real one, whose driver does not count its calls.
pub fn is_real() -> bool {
    std::env::var_os("NUMFUSE_TEST_GPU").is_some_and(|value| value == "1")
}

/// The body of the test by which the stand-in of NVRTC has a text compiled; in a usual run of the tests it does nothing.
pub fn compile_for_the_stand_in() {
    let Some(file) = std::env::var_os("FAKE_NVRTC_TEXT") else { return };
    let text = fs::read_to_string(&file).expect("the text of a kernel");
    let is_entry = |line: &&str| line.contains("extern \"C\" __global__");
    let name = |line: &str| {
        let before = line.split_once("(const __grid_constant__")?.0;
        Some(before.rsplit(' ').next()?.to_owned())
    };
    let entries = text.lines().filter(is_entry).map(|line| name(line).expect("the name of an entry")).collect();
    let library = emulator::library(&Source { text, entries });
    let mut result = file;
    result.push(".so");
    fs::copy(library, result).expect("a copy of the library");
}

/// The stand-in of NVRTC.
pub fn compiler() -> PathBuf {
    const SOURCE: &str = include_str!("nvrtc.cpp");
    const FLAGS: &[&str] = &["-std=c++17", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared"];
    let mut hash = Sha256::new();
    for part in [SOURCE, compiler_version(), &FLAGS.concat()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("cuda-emulator");
    fs::create_dir_all(&target).expect("a folder in the target folder");
    let library = target.join(format!("libnvrtc-{key}.so"));
    if library.exists() {
        return library;
    }
    // Made under a name of its own, and then given its name, so that others see all of it or nothing.
    let making = target.join(format!("nvrtc-{key}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../numfuse/tests/common/nvrtc.cpp");
    let output = Command::new("g++").args(FLAGS).arg(source).arg("-o").arg(&making).output().expect("g++ starts");
    assert!(output.status.success(), "g++ refuses nvrtc.cpp:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&making, &library).expect("a file that was just made");
    library
}
