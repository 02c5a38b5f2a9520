//! Products of matrices through the back end: a stand-in for cuBLAS gets those that it can do and says no to what the
//! library says no to; where it is absent, off, too new or broken, our own text takes its place. With
//! `NUMFUSE_TEST_GPU=1` the real library does the first of these tests.

// The emulator is for this machine and system.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../../numfuse/tests/common/cuda.rs"]
mod cuda;
#[path = "common/products.rs"]
mod products;

use cuda::fake::{Fake, Outcome};
use cuda::{any_gpu, emulator, gpu};
use numfuse_core::dtype::DType;
use numfuse_cuda::matmul::Product;
use numfuse_cuda::nvrtc::Options;
use numfuse_cuda::{Backend, Cache, Device, Error};
use products::{Case, Lie, ROWS, Random, integers, is_exact};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Not a test of its own: what the stand-in of NVRTC calls.
#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

/// The stand-in of cuBLAS.
fn library() -> PathBuf {
    const SOURCE: &str = include_str!("emulator/cublas.cpp");
    const FLAGS: &[&str] = &["-std=c++17", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared"];
    let mut hash = Sha256::new();
    for part in [SOURCE, emulator::compiler_version(), &FLAGS.concat()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("cuda-emulator");
    fs::create_dir_all(&target).expect("a folder in the target folder");
    let library = target.join(format!("libcublas-{key}.so"));
    if library.exists() {
        return library;
    }
    // Made under a name of its own, and then given its name, so that others see all of it or nothing.
    let making = target.join(format!("cublas-{key}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator/cublas.cpp");
    let output = Command::new("g++").args(FLAGS).arg(source).arg("-ldl").arg("-o").arg(&making).output();
    let output = output.expect("g++ starts");
    assert!(output.status.success(), "g++ refuses cublas.cpp:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&making, &library).expect("a file that was just made");
    library
}

/// A device with the stand-in.
fn with_cublas() -> Fake {
    gpu().variable("NUMFUSE_CUBLAS", library().display())
}

fn backend() -> Backend {
    Backend::new(Device::open(0).expect("a device"), Cache::nowhere(), Options::default()).expect("a back end")
}

/// With nothing fused into it.
fn product(case: &Case) -> Result<Product, Error> {
    Product::new(case.dtype, &case.launch)
}

/// Who did it, and the bytes of the result.
fn multiply(backend: &Backend, case: &Case) -> Result<(&'static str, Vec<u8>), Error> {
    let stream = backend.stream();
    let mut memories = Vec::new();
    for (bytes, _) in &case.memory {
        let memory = stream.allocate(bytes.len().max(1))?;
        stream.upload(&memory, 0, bytes)?;
        memories.push(memory);
    }
    let addresses: Vec<u64> =
        memories.iter().zip(&case.memory).map(|(memory, (_, first))| memory.address() + *first as u64).collect();
    let prepared = backend.prepare_matmul(&product(case)?, &addresses)?;
    assert_eq!(prepared.grids().is_none(), prepared.runs_on() == "cuBLAS");
    let workspace = stream.allocate((prepared.workspace() as usize).max(1))?;
    // SAFETY: the memory has what the launch reaches, and the download waits for the run.
    unsafe { prepared.run(stream, &addresses, &[], workspace.address()) }?;
    let mut result = vec![0; case.memory[2].0.len()];
    stream.download(&memories[2], 0, &mut result)?;
    Ok((prepared.runs_on(), result))
}

fn case(dtype: DType, outer: &[usize], sizes: [usize; 3], lie: Lie) -> Case {
    Case::new(dtype, outer, sizes, lie, integers())
}

/// Small products of every kind.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for seed in 0..12 {
        let mut random = Random(seed);
        let mut size = || 1 + random.below(9);
        let (outer, sizes) = ([vec![], vec![size()], vec![size(), 2]], [size(), size(), size()]);
        let dtype = [DType::F32, DType::F64][seed as usize % 2];
        for outer in outer {
            for lie in [ROWS, Lie::Odd, Lie::Columns { left: seed % 2 == 0, right: true }, Lie::Any(seed)] {
                cases.push(case(dtype, &outer, sizes, lie));
            }
        }
    }
    cases
}

#[test]
fn products_are_exact_whoever_does_them() {
    any_gpu().run(|| {
        let backend = backend();
        for case in cases().iter().step_by(3) {
            let (_, found) = multiply(&backend, case).unwrap_or_else(|error| panic!("{}: {error}", case.what));
            is_exact(case, &found);
        }
        if let Some(reason) = backend.without_cublas() {
            println!("{reason}");
        }
    });
}

#[test]
fn the_library_does_what_it_can() {
    let outcome = with_cublas().run(|| {
        let backend = backend();
        assert_eq!(backend.without_cublas(), None);
        let columns = |left, right| Lie::Columns { left, right };
        for dtype in [DType::F32, DType::F64] {
            for (outer, sizes, lie, who) in [
                (&[][..], [3, 4, 5], ROWS, "cuBLAS"),
                (&[], [3, 4, 5], Lie::Rows { out: false }, "cuBLAS"),
                (&[], [3, 4, 5], columns(true, false), "cuBLAS"),
                (&[], [3, 4, 5], columns(false, true), "cuBLAS"),
                (&[], [3, 4, 5], columns(true, true), "cuBLAS"),
                (&[], [3, 4, 5], Lie::Odd, "cuBLAS"),
                (&[], [1, 4, 5], ROWS, "cuBLAS"),
                (&[], [3, 4, 1], ROWS, "cuBLAS"),
                (&[], [1, 7, 1], columns(true, false), "cuBLAS"),
                (&[], [3, 1, 5], ROWS, "cuBLAS"),
                (&[6], [3, 4, 5], ROWS, "cuBLAS"),
                (&[6], [3, 4, 5], columns(true, true), "cuBLAS"),
                // Two dimensions of a stack, which are not merged here; and nothing to be added up.
                (&[2, 3], [3, 4, 5], ROWS, "emitted"),
                (&[], [3, 0, 5], ROWS, "emitted"),
            ] {
                let case = case(dtype, outer, sizes, lie);
                let (by, found) = multiply(&backend, &case).unwrap_or_else(|error| panic!("{}: {error}", case.what));
                assert_eq!(by, who, "{}", case.what);
                is_exact(&case, &found);
            }
        }
        // Whatever it is given it can do; the rest is emitted.
        let mut by_library = 0;
        for case in cases() {
            let (by, found) = multiply(&backend, &case).unwrap_or_else(|error| panic!("{}: {error}", case.what));
            by_library += usize::from(by == "cuBLAS");
            is_exact(&case, &found);
        }
        assert!(by_library > 70, "{by_library}");
    });
    left_nothing(&outcome);
}

/// The stand-in tells how many handles there are at the end.
fn left_nothing(outcome: &Outcome) {
    let text = outcome.text();
    assert!(!outcome.is_known() || text.contains("fake cuBLAS: at exit: handles 0, "), "{text}");
}

/// Products are exact without the library, and this is why it is not used.
fn expect_emitted(reason: &str) {
    let backend = backend();
    let case = case(DType::F32, &[], [5, 40, 6], ROWS);
    let (by, found) = multiply(&backend, &case).expect("it runs");
    assert_eq!(by, "emitted");
    is_exact(&case, &found);
    let why = backend.without_cublas().expect("there is a reason");
    assert!(why.contains(reason), "{why}");
}

/// With the library only what it does not do, and what is shallow, is fused with what is around it; without it, everything.
#[test]
fn shallow_products_are_fused() {
    let fuses =
        |backend: &Backend, sizes, lie| backend.fuses(&product(&case(DType::F32, &[], sizes, lie)).expect("a product"));
    with_cublas().run(|| {
        let backend = backend();
        assert!(fuses(&backend, [300, 64, 200], ROWS) && !fuses(&backend, [300, 65, 200], ROWS));
        let two = case(DType::F32, &[2, 3], [3, 100, 5], ROWS);
        assert!(backend.fuses(&product(&two).expect("a product")), "a stack of two dimensions is not the library's");
    });
    gpu().variable("NUMFUSE_CUBLAS", 0).run(|| assert!(fuses(&backend(), [300, 4096, 200], ROWS)));
}

#[test]
fn without_the_library_products_are_emitted() {
    gpu().variable("NUMFUSE_CUBLAS", "/there/is/none").run(|| expect_emitted("/there/is/none: "));
}

#[test]
fn the_library_can_be_turned_off() {
    gpu().variable("NUMFUSE_CUBLAS", 0).run(|| expect_emitted("NUMFUSE_CUBLAS=0"));
}

#[test]
fn a_library_that_is_newer_than_the_driver_is_not_used() {
    with_cublas().variable("FAKE_CUBLAS_MAJOR", 99).run(|| expect_emitted("it is of CUDA 99, and the driver of 1"));
}

#[test]
fn a_library_that_does_not_start_is_not_used() {
    let fails = |function: &str| with_cublas().variable("FAKE_CUBLAS_FAIL", function);
    let reason = "CUDA error in cublasCreate: not initialized";
    left_nothing(&fails("cublasCreate_v2:1").run(|| expect_emitted(reason)));
    let reason = "CUDA error in cublasSetMathMode: status 14";
    left_nothing(&fails("cublasSetMathMode:14").run(|| expect_emitted(reason)));
}

#[test]
fn what_is_no_library_is_not_used() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    gpu().variable("NUMFUSE_CUBLAS", file).run(|| expect_emitted("Cargo.toml: "));
}

#[test]
fn a_call_that_fails_is_an_error() {
    for (function, message) in [
        ("cublasSgemmStridedBatched:13", "CUDA error in cublasSgemmStridedBatched: execution failed"),
        ("cublasSetStream_v2:13", "CUDA error in cublasSetStream: execution failed"),
    ] {
        let outcome = with_cublas().variable("FAKE_CUBLAS_FAIL", function).run(|| {
            let error = multiply(&backend(), &case(DType::F32, &[], [3, 4, 5], ROWS)).expect_err("it fails");
            assert_eq!(error.to_string(), message);
        });
        left_nothing(&outcome);
    }
}

#[test]
fn addresses_that_lie_otherwise_are_refused() {
    with_cublas().run(|| {
        let backend = backend();
        for case in [case(DType::F32, &[], [4, 4, 4], ROWS), case(DType::F32, &[2, 2], [4, 4, 4], ROWS)] {
            let prepared =
                backend.prepare_matmul(&product(&case).expect("a product"), &[256, 512, 1024]).expect("a product");
            assert!(
                prepared.fits(&[4096, 256, 16]) && !prepared.fits(&[256, 512, 1028]) && !prepared.fits(&[256, 512])
            );
            // SAFETY: nothing is run.
            let error =
                unsafe { prepared.run(backend.stream(), &[256, 512, 1028], &[], 0) }.expect_err("it does not fit");
            assert!(matches!(error, Error::Internal(_)), "{error}");
            let error = backend.prepare_matmul(&product(&case).expect("a product"), &[256, 514, 1024]).map(|_| ());
            assert!(matches!(error, Err(Error::Unsupported(_))), "{error:?}");
        }
    });
}
