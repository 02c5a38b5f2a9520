//! What `scripts/gpu-check` runs where a GPU is, on the stand-in for the driver: every part of it comes to its end and says
//! what it found. What it measures here is worth nothing.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::duplicate_mod, reason = "each program has modules of its own, some of them the same")]

#[path = "../../numfuse/tests/common/cuda.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
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
use std::fs;
use std::path::Path;

/// By this test the stand-in of NVRTC has texts compiled.
#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
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
        for kind in ["rows", "columns", "graphs"] {
            let found = check(&format!("check {kind} --count 6"));
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
