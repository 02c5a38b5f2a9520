//! What a device needs and may not have: a driver, one that is new enough, the device, a compiler that fits the driver, code
//! with enough registers. Each is an error that says what to do, or is made up for. By stand-ins of the driver and of NVRTC.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "common/cuda.rs"]
mod cuda;

use cuda::fake::Fake;
use cuda::gpu;
use numfuse::{Array, Code, Device, Engine, Error, vars};

#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

fn engine(device: &Device) -> Engine {
    Engine::builder().device(device).build().unwrap()
}

fn floats(count: usize, shape: &[usize]) -> Array {
    Array::from_vec((0..count).map(|i| i as f64 * 0.37 - 5.0).collect(), shape).unwrap()
}

/// The error of opening the first device.
fn error_of_opening() -> Error {
    Device::cuda(0).expect_err("there is no device")
}

#[test]
fn no_driver_is_an_error() {
    Fake::absent().run(|| {
        let error = error_of_opening();
        assert_eq!(error.code(), Code::Device);
        assert!(error.to_string().contains("no CUDA on this machine"), "{error}");
        assert_eq!(Device::auto(), Device::cpu());
        assert_eq!(Device::all(), [Device::cpu()]);
    });
}

#[test]
fn an_old_driver_is_an_error() {
    gpu().with("VERSION", 11020).run(|| {
        let error = error_of_opening();
        assert_eq!(error.code(), Code::Device);
        assert!(error.to_string().contains("too old") && error.to_string().contains("11.4"), "{error}");
    });
}

#[test]
fn no_device_is_an_error() {
    gpu().with("DEVICES", 0).run(|| {
        let error = error_of_opening();
        assert_eq!(error.code(), Code::Device);
        assert!(error.to_string().contains("no CUDA device"), "{error}");
    });
}

#[test]
fn a_device_beyond_the_last_is_an_error() {
    gpu().run(|| {
        let error = Device::cuda(3).expect_err("there is one device");
        assert!(error.code() == Code::Device && error.to_string().contains("cuda:3"), "{error}");
    });
}

#[test]
fn no_compiler_is_an_error() {
    gpu().variable("NUMFUSE_NVRTC", "/nowhere/libnvrtc.so").run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(8, &[8]).to_device(&device).unwrap();
        let error = engine(&device).evaluate("a + 1", &vars! { a }).unwrap_err();
        assert_eq!(error.code(), Code::DeviceCompiler);
        assert!(
            error.to_string().contains("/nowhere/libnvrtc.so") && error.to_string().contains("pip install"),
            "{error}"
        );
    });
}

/// A folder with copies of the stand-in of NVRTC under these names, whose endings tell their versions.
fn compilers(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(cuda::compiler(), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn a_compiler_that_is_too_new_for_the_driver_is_an_error() {
    let folder = compilers(&["libnvrtc.so.13"]);
    let old = || gpu().with("VERSION", 12040).variable("NUMFUSE_NVRTC", folder.path().display());
    old().run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(8, &[8]).to_device(&device).unwrap();
        let error = engine(&device).evaluate("a + 1", &vars! { a }).unwrap_err();
        assert_eq!(error.code(), Code::Device);
        let text = error.report(false);
        for words in ["too old", "CUDA 12.4", "NVRTC 13.0", "libnvrtc.so.13", "nvidia-cuda-nvrtc-cu12", "nvidia-smi"] {
            assert!(text.contains(words), "{text}");
        }
    });
}

#[test]
fn the_compiler_that_fits_the_driver_is_taken() {
    let folder = compilers(&["libnvrtc.so.13", "libnvrtc.so.12"]);
    for (driver, compiler) in [(12040, 12), (13000, 13), (13020, 13)] {
        gpu().with("VERSION", driver).variable("NUMFUSE_NVRTC", folder.path().display()).run(|| {
            let device = Device::cuda(0).unwrap();
            let a = floats(8, &[8]).to_device(&device).unwrap();
            let found = engine(&device).evaluate("a + 1", &vars! { a }).unwrap();
            assert_eq!(found, numfuse::evaluate("a + 1", &vars! { a: floats(8, &[8]) }).unwrap());
            assert_eq!(numfuse_cuda::Compiler::load().unwrap().version().major, compiler);
        });
    }
}

#[test]
fn a_kernel_that_does_not_compile_is_saved() {
    gpu().variable("FAKE_NVRTC_REFUSE", 1).run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(8, &[8]).to_device(&device).unwrap();
        let error = engine(&device).evaluate("a + 1", &vars! { a }).unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        let text = error.to_string();
        assert!(text.contains("whose text is in") && text.contains(".cu") && text.contains("refused"), "{text}");
        // The log has the options.
        assert!(text.contains("--fmad=false") && text.contains("sm_90"), "{text}");
        let fast = Engine::builder().device(&device).fast(true).build().unwrap();
        let text = fast.evaluate("a + 1", &vars! { a }).unwrap_err().to_string();
        assert!(text.contains("--use_fast_math") && !text.contains("--fmad=false"), "{text}");
        let strict = Engine::builder().device(fast.device()).build().unwrap();
        let text = strict.evaluate("a + 1", &vars! { a }).unwrap_err().to_string();
        assert!(text.contains("--fmad=false") && !text.contains("--use_fast_math"), "{text}");
    });
}

#[test]
fn code_that_lacks_registers_is_compiled_for_fewer_elements() {
    for (local, modules) in [("0", 1), ("32", 1), ("64,0", 2), ("64,64", 2), ("64,48,0", 3), ("64,48,48", 3)] {
        let outcome = gpu().with("LOCAL", local).run(|| {
            let engine = engine(&Device::cuda(0).unwrap());
            let a = Array::from_vec((0..10_003).map(|i| i as f32 * 0.3).collect(), &[10_003]).unwrap();
            for _ in 0..2 {
                let found = engine.evaluate("2*a + a*a", &vars! { a }).unwrap();
                assert_eq!(found, numfuse::evaluate("2*a + a*a", &vars! { a }).unwrap());
            }
        });
        if outcome.is_known() {
            assert_eq!(outcome.calls("cuModuleLoadData"), modules, "{local}");
        }
    }
    // Rows and columns, whose threads load less ahead, or have fewer columns.
    gpu().with("LOCAL", "64,0,64,0,64,0").run(|| {
        let engine = engine(&Device::cuda(0).unwrap());
        let a = Array::from_vec((0..20_000).map(|i| i as f32 * 0.3).collect(), &[10, 2000]).unwrap();
        for text in ["sum(a, axis=1)", "a - max(a, axis=1, keepdims=True)", "sum(a, axis=0)"] {
            assert_eq!(engine.evaluate(text, &vars! { a }).unwrap(), numfuse::evaluate(text, &vars! { a }).unwrap());
        }
    });
}
