//! The Python package as its users get it: built to a wheel by maturin, installed into an environment of its own, and put
//! through its tests (`tests/test_*.py`). Needs Python 3.10 or newer with `venv`, and a package index the first time;
//! without them it fails, since nothing else tests this crate. `test_device.py` runs with stand-ins for a GPU, which are for
//! x86-64 Linux.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "../../numfuse/tests/common/cuda.rs"]
mod cuda;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the tests need beside the wheel.
const PACKAGES: &[&str] = &["maturin>=1.9,<2", "mypy", "numexpr>=2.14", "numpy>=2", "pytest>=8"];

#[test]
fn the_wheel_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = environment(&scratch.join("venv"));
    let wheels = scratch.join("wheels");
    let _ = std::fs::remove_dir_all(&wheels);
    // Cargo has let go of its lock on the target folder by now. The profile is that of the tests, whose dependencies are
    // built already.
    let mut build = Command::new(&python);
    build.args(["-m", "maturin", "build", "--profile", "dev", "--interpreter"]).arg(&python).arg("--out").arg(&wheels);
    run(build.env("CARGO_TARGET_DIR", scratch.join("target")).current_dir(folder));
    let wheel =
        std::fs::read_dir(&wheels).expect("maturin has written here").next().expect("a wheel").expect("its name");
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"])
        .arg(wheel.path()));
    // Not in the folder of the sources: the package is to come from the wheel.
    let tests = folder.join("tests");
    run(Command::new(&python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"])
        .args([&tests, &tests]));
    match stand_in() {
        Some(variables) => run(Command::new(&python)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"])
            .args([&tests, &tests.join("test_device.py")])
            .env("NUMFUSE_TEST_DEVICE", "stand-in")
            .envs(variables)),
        None => eprintln!("SKIPPED: test_device.py: the stand-ins for a GPU are for x86-64 Linux"),
    }
}

/// The variables with which a process finds the stand-ins for a GPU. What is open when the process ends is Python's matter.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn stand_in() -> Option<Vec<(String, String)>> {
    Some(cuda::gpu().with("LEAKS", 1).variables())
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn stand_in() -> Option<Vec<(String, String)>> {
    None
}

/// What the stand-in of NVRTC runs to have a text compiled.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

/// The Python of a virtual environment with [`PACKAGES`], which is made if it is not there.
fn environment(venv: &Path) -> PathBuf {
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = venv.join("packages");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    let system = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    run(Command::new(system).args(["-m", "venv", "--clear"]).arg(venv));
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES));
    std::fs::write(&stamp, wanted).expect("the environment can be written to");
    python
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}; the Python package needs Python 3"));
    assert!(status.success(), "{command:?}: {status}");
}
