//! Arrays and expressions on a device, as the stand-ins of the driver and of NVRTC have it: results have the bits of the
//! CPU's, mistakes are errors, and nothing is left behind.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "common/cuda.rs"]
mod cuda;

use cuda::fake::Fake;
use cuda::gpu;
use numfuse::{Array, ArrayRef, Code, DType, Device, Engine, Env, MemoryStats, lazy, vars};

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

#[test]
fn arrays_go_there_and_back() {
    gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(12, &[3, 4]);
        let there = a.to_device(&device).unwrap();
        assert_eq!((there.device(), there.shape(), there.dtype()), (device.clone(), vec![3, 4], DType::F64));
        assert_eq!(there, a);
        assert_eq!(there.to_host().unwrap().as_slice::<f64>().unwrap(), a.as_slice::<f64>().unwrap());
        assert_eq!(there.to_string(), a.to_string());
        assert_eq!(there.clone().to_vec::<f64>().unwrap(), a.to_vec::<f64>().unwrap());
        assert_eq!(there.as_slice::<f64>().unwrap_err().code(), Code::DeviceMismatch);
        let scalar = Array::scalar(2.5f32).unwrap().to_device(&device).unwrap();
        assert_eq!(scalar.item::<f64>().unwrap(), 2.5);
        let none = floats(0, &[0, 3]).to_device(&device).unwrap();
        assert!(none.is_empty() && none.to_vec::<f64>().unwrap().is_empty());
    });
}

#[test]
fn views_are_copied_by_a_kernel() {
    gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(60, &[3, 4, 5]);
        let there = a.to_device(&device).unwrap();
        let views = |array: &Array| -> Vec<Array> {
            let v = array.view();
            let all: [ArrayRef<'_>; 5] = [
                v.transposed(),
                v.slice(1, 1..3).unwrap(),
                v.slice(2, 1..4).unwrap().transposed(),
                v.slice(0, 2..2).unwrap(),
                v.slice(0, 1..2).unwrap().broadcast_to(&[2, 3, 4, 5]).unwrap(),
            ];
            all.iter().map(|view| Array::copy_of(view).unwrap()).collect()
        };
        for (on_device, on_host) in views(&there).iter().zip(&views(&a)) {
            assert_eq!(on_device.device(), device);
            assert_eq!(on_device, on_host);
        }
    });
}

#[test]
fn expressions_run_there() {
    gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let (a, b) = (floats(3000, &[3, 1000]), floats(1000, &[1000]));
        let (there_a, there_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        for text in ["2*a + b", "sum(a*b, axis=1)", "sum(a)", "a.T + k", "exp(-a*a)*sin(b) + k", "max(a, axis=0)"] {
            let env = vars! { a: there_a, b: there_b, k: 1.5 };
            let want = numfuse::evaluate(text, &vars! { a, b, k: 1.5 }).unwrap();
            for _ in 0..2 {
                let found = engine.evaluate(text, &env).unwrap();
                assert_eq!(found.device(), device, "{text}");
                assert_eq!(found, want, "{text}");
            }
        }
        // Numbers alone, and scalars of the host.
        assert_eq!(engine.evaluate("1 + 2", &Env::new()).unwrap().item::<i64>().unwrap(), 3);
        let k = Array::scalar(2.0f32).unwrap();
        let found = engine.evaluate("a * k", &vars! { a: there_a, k }).unwrap();
        assert_eq!(found, numfuse::evaluate("a * k", &vars! { a, k }).unwrap());
        // Expressions of operators.
        let both: (Array, Array) = engine.eval((lazy(&there_a).sum(0), lazy(&there_a) * 2)).unwrap();
        assert_eq!(both.0, numfuse::evaluate("sum(a, axis=0)", &vars! { a }).unwrap());
        assert_eq!(both.1, numfuse::evaluate("2*a", &vars! { a }).unwrap());
    });
}
