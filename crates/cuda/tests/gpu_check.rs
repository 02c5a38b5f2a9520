//! What `scripts/gpu-check` runs where a GPU is, on the stand-in for the driver: every part of it comes to its end and says
//! what it found. What it measures here is worth nothing.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::duplicate_mod, reason = "each program has modules of its own, some of them the same")]

#[path = "../../numfuse/tests/common/cuda.rs"]
mod cuda;
#[path = "../examples/device_bench.rs"]
mod device_bench;
#[path = "../examples/device_check.rs"]
mod device_check;
#[path = "common/shapes.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod shapes;

use numfuse_cuda::cache::Request;
use numfuse_cuda::emit::{Class, Program};
use numfuse_cuda::nvrtc::Options;
use numfuse_cuda::{Arch, Cache, Compiler, Device};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// By this test the stand-in of NVRTC has texts compiled.
#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

/// This test is the programs of the archive that [`the_archive_runs_in_an_empty_directory`] packs.
#[test]
fn acts_as_a_program() {
    let Ok(program) = std::env::var("GPU_CHECK_PROGRAM") else { return };
    let words = std::env::var("GPU_CHECK_WORDS").unwrap();
    let words = words.split('\n').map(str::to_owned);
    let run = if program == "device_check" { device_check::run(words) } else { device_bench::run(words) };
    if let Err(error) = run {
        // A panic would be the harness's report of a test.
        eprintln!("{program}: {error}");
        std::process::exit(1);
    }
}

/// Runs a program of the examples; returns what it wrote.
fn lines(run: impl FnOnce(Vec<String>) -> Result<(), String>, words: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("lines");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/gpu/cases.txt");
    let mut words: Vec<String> = words.split(' ').map(String::from).collect();
    for (name, file) in [("--json", &json), ("--cases", &cases)] {
        words.extend([name.to_owned(), file.display().to_string()]);
    }
    run(words).unwrap();
    fs::read_to_string(json).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_device_passes_the_checks() {
    cuda::gpu().run(|| {
        let check = |words: &str| lines(device_check::run, words);
        let smoke = check("smoke");
        assert!(smoke[0].contains("\"result\":\"equal\""), "{smoke:?}");
        for kind in ["rows", "columns", "graphs", "huge"] {
            let found = check(&format!("check {kind} --count 6 --bytes 3000000"));
            assert!(found[0].contains("\"failed\":0") && !found[0].contains("\"done\":0,"), "{found:?}");
        }
    });
}

/// Machine code of another kernel lies in the cache, where that of the smoke test's belongs.
#[test]
fn a_kernel_that_is_wrong_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = cuda::gpu().variable("NUMFUSE_CUDA_CACHE", folder.path().display()).run(|| {
        let shape = shapes::shapes().swap_remove(0);
        let shapes::Shape { kernel, launch, .. } = shapes::shape(shape.name, shape.kernel, [1, 0, 100_003]);
        let class = Class::new(&kernel, &launch, &[256; 3]).unwrap();
        let text = Program::new(&kernel, &class).unwrap().source().text.clone();
        let wrong = text.replace(" + v", " - v");
        assert_ne!(text, wrong);
        let (major, minor) = Device::open(0).unwrap().arch();
        let (arch, options) = (Arch { major, minor }, Options::default());
        let compiler = Compiler::load().unwrap();
        let request = Request { text: &text, arch, options, compiler: Some(compiler.version()) };
        let planted =
            Cache::from_environment().get_or_compile(&request, || Ok(compiler.compile(&wrong, arch, options)?.cubin));
        assert!(planted.is_ok());
        let error = device_check::run(["smoke".to_owned()]).unwrap_err();
        assert!(error.contains("operand 2, element 0: interpreter"), "{error}");
    });
    assert!(!outcome.is_known() || outcome.text().contains("\"result\":\"different\""), "{}", outcome.text());
}

#[test]
fn a_failure_is_told() {
    // The stand-in's memory has fewer bytes than the first sample wants.
    let outcome = cuda::gpu().with("MEMORY", 64).run_leaky(|| {
        let error = device_check::run(["check", "rows", "--count", "3"].map(String::from)).unwrap_err();
        assert!(error.contains("rows failed"), "{error}");
    });
    assert!(!outcome.is_known() || outcome.text().contains("out of memory"), "{}", outcome.text());
}

#[test]
fn every_part_of_the_benchmark_writes_what_it_finds() {
    cuda::gpu().run(|| {
        let words = "--only copy,sum,softmax --small sum --sizes 1000 --bytes 80000 --reps 2";
        let found = lines(device_bench::run, words);
        let kinds = ["ceiling", "large", "small", "transfer", "compile"];
        let counts =
            kinds.map(|kind| found.iter().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count());
        assert_eq!(counts, [2, 3, 1, 4, 3], "{found:#?}");
    });
}

/// Runs a command, which has to succeed; returns what it printed.
fn command(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

#[test]
fn the_archive_runs_in_an_empty_directory() {
    let python = Command::new("python3").args(["-c", "import numpy"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED the_archive_runs_in_an_empty_directory: there is no Python with NumPy");
        return;
    }
    cuda::gpu().run(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("bin")).unwrap();
        let own = std::env::current_exe().unwrap();
        for program in ["device_check", "device_bench"] {
            let script = format!(
                "#!/bin/sh\nIFS='\n'\nGPU_CHECK_PROGRAM={program} GPU_CHECK_WORDS=\"$*\" exec '{}' acts_as_a_program --exact --nocapture\n",
                own.display()
            );
            fs::write(path("bin").join(program), script).unwrap();
            fs::set_permissions(path("bin").join(program), Permissions::from_mode(0o755)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gpu-check");
        let archive = path("archive.tar.gz");
        command(Command::new(script).arg("pack").arg("--bin").arg(path("bin")).arg("--output").arg(&archive));
        command(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(folder.path()));
        let unpacked = path("numfuse-gpu-check");
        let stages = "check rows,check cases,memcheck,bench,peer";
        let printed = command(
            Command::new("./run.sh").current_dir(&unpacked).args(["--small", "--only", stages]).env_remove("CARGO_TARGET_DIR"),
        );
        let result = fs::read_to_string(unpacked.join("gpu-check-result/result.json")).unwrap();
        for found in ["\"small\": true", "\"stage\": \"peer numpy\"", "\"kind\": \"ceiling\"", "emulated device 0"] {
            assert!(result.contains(found), "{found}: {result}\n{printed}");
        }
        let report = fs::read_to_string(unpacked.join("gpu-check-result/report.md")).unwrap();
        assert!(report.contains("the numbers mean nothing"), "{report}");
        assert!(report.contains("| rows | 5 | 0 |"), "{report}");
        // Numbers of a stand-in are refused, whatever the page.
        let record = Command::new("python3")
            .current_dir(&unpacked)
            .args(["benches/gpu/report.py", "gpu-check-result/result.json", "--record"])
            .output()
            .unwrap();
        assert!(!record.status.success(), "a trial was recorded");
    });
}
