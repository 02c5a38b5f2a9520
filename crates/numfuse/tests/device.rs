//! Arrays and expressions on a device, as the stand-ins of the driver and of NVRTC have it: results have the bits of the
//! CPU's, mistakes are errors, and nothing is left behind. With `NUMFUSE_TEST_GPU=1` what a real device does as well runs on
//! the first one of this machine.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "common/cuda.rs"]
mod cuda;

#[allow(dead_code, reason = "the corpus test uses all of it")]
mod corpus {
    #[path = "../corpus/format.rs"]
    pub mod format;
    #[path = "../corpus/inputs.rs"]
    pub mod inputs;
}

use cuda::{any_gpu, gpu};
use numfuse::{Array, ArrayMut, ArrayRef, Code, DType, Device, Engine, Env, Error, lazy, vars};
use std::path::Path;
use std::sync::Arc;

#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

fn engine(device: &Device) -> Engine {
    Engine::builder().device(device).build().unwrap()
}

/// As if the folder of the corpus were a place of its own: every behaviour, on a device.
fn corpus_files() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/run");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn floats(count: usize, shape: &[usize]) -> Array {
    Array::from_vec((0..count).map(|i| i as f64 * 0.37 - 5.0).collect(), shape).unwrap()
}

#[test]
fn arrays_go_there_and_back() {
    any_gpu().run(|| {
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
    any_gpu().run(|| {
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
    any_gpu().run(|| {
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

/// The inputs of a corpus file: arrays, row-major, and numbers.
fn inputs(file: &corpus::format::TestFile) -> Vec<(String, Result<Array, ArrayRef<'static>>)> {
    fn array<T: numfuse::Element>(data: &corpus::inputs::Data) -> Array {
        let count: usize = data.shape.iter().product();
        let element = |mut rest: usize| {
            let mut at = data.offset as isize;
            for (size, stride) in data.shape.iter().zip(&data.strides).rev() {
                at += (rest % size) as isize * stride;
                rest /= size;
            }
            T::from_literal(data.elements[at as usize])
        };
        Array::from_vec((0..count).map(element).collect(), &data.shape).unwrap()
    }
    let input = |line: &corpus::inputs::InputLine| {
        let data = line.data.as_ref().expect("values");
        let first = data.elements.first().copied();
        let value = match (line.dtype, line.weak) {
            (DType::Bool, true) => Err(ArrayRef::number(first.unwrap().as_bool())),
            (DType::F64, true) => Err(ArrayRef::number(first.unwrap().as_f64())),
            (_, true) => Err(ArrayRef::number(first.unwrap().as_i64())),
            (DType::Bool, _) => Ok(array::<bool>(data)),
            (DType::I8, _) => Ok(array::<i8>(data)),
            (DType::I16, _) => Ok(array::<i16>(data)),
            (DType::I32, _) => Ok(array::<i32>(data)),
            (DType::I64, _) => Ok(array::<i64>(data)),
            (DType::U8, _) => Ok(array::<u8>(data)),
            (DType::U16, _) => Ok(array::<u16>(data)),
            (DType::U32, _) => Ok(array::<u32>(data)),
            (DType::U64, _) => Ok(array::<u64>(data)),
            (DType::F32, _) => Ok(array::<f32>(data)),
            (DType::F64, _) => Ok(array::<f64>(data)),
        };
        (line.name.clone(), value)
    };
    file.inputs.iter().map(input).collect()
}

/// A quarter of the corpus: the results of the device are those of the CPU, for arrays of the device and of the host.
fn corpus_quarter(quarter: usize) {
    let device = Device::cuda(0).unwrap();
    let (cpu, gpu) = (Engine::default(), engine(&device));
    let mut same = 0;
    for path in corpus_files().iter().skip(quarter).step_by(4) {
        let name = path.file_name().unwrap().to_string_lossy();
        let file =
            corpus::format::read(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let given = inputs(&file);
        let bind = |arrays: &[Option<Array>], engine: &Engine| {
            let mut env = Env::new();
            for ((name, input), copy) in given.iter().zip(arrays) {
                match (copy, input) {
                    (Some(array), _) | (None, Ok(array)) => env.insert(name.as_str(), array),
                    (None, Err(number)) => env.insert(name.as_str(), number),
                }
            }
            engine.evaluate_with(&file.program, &env, None)
        };
        let on_host: Vec<Option<Array>> = given.iter().map(|_| None).collect();
        let there =
            |(_, input): &(String, Result<Array, _>)| input.as_ref().ok().map(|a| a.to_device(&device).unwrap());
        let on_device: Vec<Option<Array>> = given.iter().map(there).collect();
        let want = bind(&on_host, &cpu).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (what, arrays) in [("arrays of the device", &on_device), ("arrays of the host", &on_host)] {
            match bind(arrays, &gpu) {
                Ok(found) => {
                    assert!(found == want, "{name}, {what}:\n{found:?}\ninstead of\n{want:?}");
                    same += 1;
                }
                Err(error) => panic!("{name}, {what}: {error}"),
            }
        }
    }
    println!("{same} evaluations have the bits of the CPU");
}

/// Prints what a quarter has found: what is refused should not look as if it had passed.
fn told(outcome: &cuda::fake::Outcome) {
    if outcome.is_known() {
        let text = outcome.text();
        println!("{}", text.lines().find(|line| line.contains("have the bits of the CPU")).expect("a count"));
    }
}

#[test]
fn corpus_first_quarter() {
    told(&any_gpu().run(|| corpus_quarter(0)));
}

#[test]
fn corpus_second_quarter() {
    told(&any_gpu().run(|| corpus_quarter(1)));
}

#[test]
fn corpus_third_quarter() {
    told(&any_gpu().run(|| corpus_quarter(2)));
}

#[test]
fn corpus_fourth_quarter() {
    told(&any_gpu().run(|| corpus_quarter(3)));
}

#[test]
fn outputs_are_written_there() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = floats(1000, &[1000]);
        let kernel = engine.prepare("2*a + 1", &vars! { a: [1.0] }).unwrap();
        let want = numfuse::evaluate("2*a + 1", &vars! { a }).unwrap();
        let there = a.to_device(&device).unwrap();
        let mut out = floats(1000, &[1000]).to_device(&device).unwrap();
        kernel.run_into(&vars! { a: there }, &mut out).unwrap();
        assert_eq!(out, want);
        // In place, and shifted by an element: as if all was read first.
        let mut memory = a.to_device(&device).unwrap();
        let view = memory.view_mut();
        let alias = aliased(&view);
        engine.evaluate_into("2*a + 1", &Env::new().with("a", &alias), vec![view]).unwrap();
        assert_eq!(memory, want);
        let mut memory = a.to_device(&device).unwrap();
        let mut view = memory.view_mut();
        let alias = aliased(&view).slice(0, 0..999).unwrap();
        let shifted = view.slice(0, 1..1000).unwrap();
        engine.evaluate_into("2*a + 1", &Env::new().with("a", &alias), vec![shifted]).unwrap();
        assert_eq!(memory.to_vec::<f64>().unwrap()[1..], want.as_slice::<f64>().unwrap()[..999]);
        assert_eq!(memory.to_vec::<f64>().unwrap()[0], a.as_slice::<f64>().unwrap()[0]);
        // One result twice, and outputs of other types or on top of each other.
        let mut pair =
            [floats(1000, &[1000]).to_device(&device).unwrap(), floats(1000, &[1000]).to_device(&device).unwrap()];
        let [first, second] = &mut pair;
        engine.evaluate_into("a + a, 2*a", &vars! { a: there }, (first, second)).unwrap();
        assert_eq!(pair[0], pair[1]);
        let mut wrong = floats(999, &[999]).to_device(&device).unwrap();
        let error = engine.evaluate_into("a + 1", &vars! { a: there }, &mut wrong).unwrap_err();
        assert_eq!(error.code(), Code::Output);
        let mut host = floats(1000, &[1000]);
        let error = engine.evaluate_into("a + 1", &vars! { a: there }, &mut host).unwrap_err();
        assert_eq!(error.code(), Code::DeviceMismatch);
    });
}

/// The same memory, to read while it is written: what other languages' arrays may be.
fn aliased(array: &ArrayMut<'_>) -> ArrayRef<'static> {
    // SAFETY: the tests keep the array alive, and evaluations read what they write only as if it had been read first.
    unsafe { std::mem::transmute::<ArrayRef<'_>, ArrayRef<'static>>(array.as_ref()) }
}

#[test]
fn views_at_any_element_are_inputs_and_outputs() {
    fn check<T: numfuse::Element>(engine: &Engine, device: &Device, elements: Vec<T>) {
        let n = elements.len();
        let a = Array::from_vec(elements, &[n]).unwrap();
        let there = a.to_device(device).unwrap();
        for start in [0, 1, 2, 3, 4, 8] {
            let (here, gone) = (a.view().slice(0, start..n - 1).unwrap(), there.view().slice(0, start..n - 1).unwrap());
            let three = "a + a, sum(a), a[::-2]";
            let want = Engine::default().evaluate_with(three, &Env::new().with("a", &here), None).unwrap();
            let found = engine.evaluate_with(three, &Env::new().with("a", &gone), None).unwrap();
            assert_eq!(found, want, "{} from {start}", a.dtype());
            let mut out = there.to_device(device).unwrap();
            let mut all = out.view_mut();
            let part = all.slice(0, start..n - 1).unwrap();
            engine.evaluate_into("a + a", &Env::new().with("a", &gone), vec![part]).unwrap();
            let part = out.view().slice(0, start..n - 1).unwrap();
            assert_eq!(Array::copy_of(&part).unwrap(), want[0]);
            let rest = out.view().slice(0, 0..start).unwrap();
            assert_eq!(Array::copy_of(&rest).unwrap(), Array::copy_of(&a.view().slice(0, 0..start).unwrap()).unwrap());
        }
    }
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        check(&engine, &device, (0..200).map(|i| i as u8).collect());
        check(&engine, &device, (0..200).map(|i| i as i16 - 90).collect());
        check(&engine, &device, (0..200).map(|i| i as f32 * 0.3).collect());
        check(&engine, &device, (0..200).map(f64::from).collect());
    });
}

#[test]
fn guards_are_read_back() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let power = |exponents: &[i64]| {
            let n = Array::from_vec(exponents.to_vec(), &[exponents.len()]).unwrap().to_device(&device).unwrap();
            engine.evaluate("2 ** n", &vars! { n })
        };
        assert_eq!(power(&[0, 3, 5]).unwrap().to_vec::<i64>().unwrap(), [1, 8, 32]);
        assert_eq!(power(&[0, -3, 5]).unwrap_err().code(), Code::NegativeIntPower);
        let host = engine.evaluate("2 ** n", &vars! { n: [1i64, -1] }).unwrap_err();
        assert_eq!(host.code(), Code::NegativeIntPower);
    });
}

#[test]
fn arrays_of_another_device_are_refused() {
    gpu().with("DEVICES", 2).run(|| {
        let (first, second) = (Device::cuda(0).unwrap(), Device::cuda(1).unwrap());
        assert_eq!(Device::all(), [Device::cpu(), first.clone(), second.clone()]);
        assert_eq!("cuda:1".parse::<Device>().unwrap(), second);
        assert!(first != second && first.to_string().starts_with("cuda:0 ("));
        let (a, b) = (floats(8, &[8]), floats(8, &[8]));
        let (on_first, on_second) = (a.to_device(&first).unwrap(), b.to_device(&second).unwrap());
        assert_eq!(on_first.to_device(&second).unwrap().device(), second);
        assert_eq!(on_first.to_device(&second).unwrap(), a);
        let refused = |engine: &Engine, env: &Env<'_>, words: [&str; 2]| {
            let error = engine.evaluate("a + b", env).unwrap_err();
            assert_eq!(error.code(), Code::DeviceMismatch, "{error}");
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        };
        refused(&engine(&first), &vars! { a: on_first, b: on_second }, ["`b` is on cuda:1", "cuda:0"]);
        refused(&engine(&first), &vars! { a, b: on_second }, ["`b` is on cuda:1", "cuda:0"]);
        refused(&engine(&first), &vars! { a: on_first, b }, ["`b` is on cpu", "cuda:0"]);
        refused(&Engine::default(), &vars! { a: on_first, b }, ["`a` is on cuda:0", "cpu"]);
        refused(&Engine::default(), &vars! { a, b: on_second }, ["`b` is on cuda:1", "cpu"]);
        let error = numfuse::eval(lazy(&on_first) * 2).unwrap_err();
        assert!(error.code() == Code::DeviceMismatch && error.to_string().contains("on cuda:0"), "{error}");
        let mut out = floats(8, &[8]).to_device(&first).unwrap();
        let error = Engine::default().evaluate_into("a + b", &vars! { a, b }, &mut out).unwrap_err();
        assert_eq!(error.code(), Code::DeviceMismatch);
        assert_eq!(engine(&second).evaluate("a + b", &vars! { a, b }).unwrap().device(), Device::cpu());
    });
}

#[test]
fn matrices_are_multiplied_there() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        // Small integers, so that any order of the sums has the same bits.
        let ints = |shape: &[usize]| {
            let count: usize = shape.iter().product();
            Array::from_vec((0..count).map(|i| (i * 7 % 11) as f64 - 5.0).collect(), shape).unwrap()
        };
        let (a, b, stack) = (ints(&[17, 33]), ints(&[33, 9]), ints(&[3, 9, 5]));
        let there = [&a, &b, &stack].map(|array| array.to_device(&device).unwrap());
        for text in ["a @ b", "2*(a @ b) + 1", "(a @ b) @ c", "b.T @ a.T", "sum(a @ b)", "(a + 1) @ b[:, ::-1] - k"] {
            let want = numfuse::evaluate(text, &vars! { a, b, c: stack, k: 2 }).unwrap();
            let env = vars! { a: there[0], b: there[1], c: there[2], k: 2 };
            for _ in 0..2 {
                assert_eq!(engine.evaluate(text, &env).unwrap(), want, "{text}");
            }
            assert_eq!(engine.evaluate(text, &vars! { a, b, c: stack, k: 2 }).unwrap(), want, "{text}, of the host");
        }
        fused_products_have_the_bits_of_the_cpu(&engine, &device);
        // In the memory of an input.
        let mut square = ints(&[8, 8]).to_device(&device).unwrap();
        let view = square.view_mut();
        let alias = aliased(&view);
        engine.evaluate_into("s @ s", &Env::new().with("s", &alias), vec![view]).unwrap();
        assert_eq!(square, numfuse::evaluate("s @ s", &vars! { s: ints(&[8, 8]) }).unwrap());
    });
}

/// Whole numbers again; shapes of which each product has stretches, a part of a tile, or a stack. Results are written over
/// operands, too.
fn fused_products_have_the_bits_of_the_cpu(engine: &Engine, device: &Device) {
    let ints = |shape: &[usize], seed: usize| {
        let count: usize = shape.iter().product();
        Array::from_vec((0..count).map(|i| ((i * 7 + seed) % 11) as f64 - 5.0).collect(), shape).unwrap()
    };
    for (stack, [m, k, n]) in [(&[][..], [9, 5, 11]), (&[], [3, 700, 2]), (&[2, 3], [4, 6, 5]), (&[2], [5, 0, 4])] {
        let shape = |rows: usize, columns: usize| [stack, &[rows, columns]].concat();
        let (a, b, c) = (ints(&shape(m, k), 1), ints(&[k, n], 2), ints(&shape(m, n), 3));
        let (row, column, lower) = (ints(&[n], 4), ints(&[m, 1], 5), ints(&[k, m], 6));
        let there = [&a, &b, &c, &row, &column, &lower].map(|array| array.to_device(device).unwrap());
        for text in [
            "maximum(a @ b + row, 0)",
            "(2*a - k) @ b * k + column",
            "where(a @ b > c, c, row)",
            "(f32(a) @ f32(b)) * 2 + f32(k)",
            "p = a @ b; p*p - p, p*k",
            "(lower * 2).T @ (b[:, ::-1] + row) - k",
            "(a[..., ::-1] + 1) @ (b - k)",
            "x = (a - 1) @ b + row; x @ (b.T * 2) - 1",
            "(a @ b).T - c.T",
            "a @ b * 2 + (a - 1) @ b",
            "d = lower - 1; d.T @ d * 2 + k",
        ] {
            let env = vars! { a, b, c, row, column, lower, k: 3 };
            let want = Engine::default().evaluate_with(text, &env, None).unwrap_or_else(|e| panic!("{text}: {e}"));
            let env = vars! {
                a: there[0], b: there[1], c: there[2], row: there[3], column: there[4], lower: there[5], k: 3
            };
            let found = engine.evaluate_with(text, &env, None).unwrap_or_else(|e| panic!("{text}, {stack:?}: {e}"));
            assert_eq!(found, want, "{text}, {stack:?} {m} {k} {n}");
        }
        // One kernel, however many operations: nothing is stored in between.
        let before = engine.stats().kernels_compiled;
        let text = "abs(maximum((a - 1) @ (b + k) + row, column) * 3 - c)";
        let found = engine
            .evaluate(text, &vars! { a: there[0], b: there[1], c: there[2], row: there[3], column: there[4], k: 3 });
        assert_eq!(found.unwrap(), numfuse::evaluate(text, &vars! { a, b, c, row, column, k: 3 }).unwrap());
        assert_eq!(engine.stats().kernels_compiled, before + 1, "{text}, {stack:?}");
        let mut out = c.to_device(device).unwrap();
        let view = out.view_mut();
        let alias = aliased(&view);
        let env = vars! { a: there[0], b: there[1], row: there[3] }.with("c", &alias);
        engine.evaluate_into("c - a @ b * row", &env, vec![view]).unwrap();
        assert_eq!(out, numfuse::evaluate("c - a @ b * row", &vars! { a, b, c, row }).unwrap());
    }
}

#[test]
fn explain_tells_what_kernels_need() {
    let cuda = || {
        let explained = Engine::default().explain_types("2*a", &["a:f64[n]"]).unwrap();
        explained.stage(numfuse::explain::Stage::Cuda).to_owned()
    };
    let log = "ptxas info    : Compiling entry function 'kernel_map' for 'sm_90'\n\
               ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
               ptxas info    : Used 25 registers, used 1 barriers, 132 bytes smem\n";
    gpu().variable("FAKE_NVRTC_LOG", log).run(|| {
        let text = cuda();
        let line = "// k0\n// kernel_map on sm_90: 25 registers, 12 bytes spilled, 16 bytes of stack, 132 bytes of shared memory\n";
        assert!(text.starts_with(line) && text.contains("kernel_map(const"), "{text}");
    });
    gpu().variable("FAKE_NVRTC_REFUSE", 1).run(|| {
        let text = cuda();
        assert!(text.contains("does not compile a kernel, whose text is in"), "{text}");
        assert!(text.lines().all(|line| line.starts_with("//")), "{text}");
    });
    gpu().variable("NUMFUSE_NVRTC", "/nowhere").run(|| assert!(cuda().starts_with("// k0\ntypedef"), "{}", cuda()));
}

#[test]
fn a_lost_device_fails_every_call() {
    gpu().with("FAULT", "1:719").run_leaky(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(8, &[8]).to_device(&device).unwrap();
        let engine = engine(&device);
        // The kernel is only told to run; what goes wrong is seen by whoever waits.
        let result = engine.evaluate("a + 1", &vars! { a }).and_then(|result| result.to_vec::<f64>());
        assert_eq!(result.unwrap_err().code(), Code::DeviceFailed);
        assert_eq!(engine.evaluate("a + 1", &vars! { a }).unwrap_err().code(), Code::DeviceFailed);
        assert_eq!(device.synchronize().unwrap_err().code(), Code::DeviceFailed);
        assert_eq!(numfuse::evaluate("a + 1", &vars! { a: [1.0] }).unwrap().to_vec::<f64>().unwrap(), [2.0]);
    });
}

#[test]
fn a_forked_child_is_told_so() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let a = floats(8, &[8]).to_device(&device).unwrap();
        let engine = engine(&device);
        engine.evaluate("a + 1", &vars! { a }).unwrap();
        // SAFETY: the child only makes calls that have to work in one, and ends without cleaning up.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = |error: Error| error.code() == Code::Device && error.to_string().contains("fork");
            let all = Device::cuda(0).is_err_and(told)
                && engine.evaluate("a + 1", &vars! { a }).is_err_and(told)
                && a.to_host().is_err_and(told)
                && device.synchronize().is_err_and(told)
                && numfuse::evaluate("a + 1", &vars! { a: [1.0] }).is_ok();
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(if all { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: the child is ours, and the status is a local variable.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child was not told");
    });
}

#[test]
fn memory_runs_out_and_comes_back() {
    gpu().with("MEMORY", 1 << 20).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = floats(40_000, &[40_000]).to_device(&device).unwrap();
        {
            let _b = a.to_device(&device).unwrap();
            let error = a.to_device(&device).and_then(|_c| a.to_device(&device)).unwrap_err();
            assert_eq!(error.code(), Code::OutOfMemory);
            let text = error.to_string();
            assert!(text.contains("320000 bytes") && text.contains("of its 1048576 bytes"), "{text}");
        }
        // What was given back is found again, in pieces of other sizes too.
        for text in ["a + 1", "f32(a)", "a * 2"] {
            engine.evaluate(text, &vars! { a }).unwrap().to_host().unwrap();
        }
        let stats = device.memory_stats().unwrap();
        assert_eq!((stats.used, stats.total), (320_000, 1 << 20));
        assert!(stats.peak >= 960_000 && stats.reserved >= stats.used, "{stats:?}");
    });
}

#[test]
fn a_call_that_is_known_allocates_its_result_and_launches() {
    let outcome = gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = floats(1000, &[1000]).to_device(&device).unwrap();
        for _ in 0..100 {
            engine.evaluate("2*a + 1", &vars! { a }).unwrap();
        }
        let stats = engine.stats();
        assert_eq!((stats.texts_parsed, stats.plans_made, stats.kernels_compiled), (1, 1, 1));
    });
    if outcome.is_known() {
        assert_eq!(outcome.calls("cuLaunchKernel"), 100);
        assert_eq!(outcome.calls("cuMemAllocFromPoolAsync"), 101);
        assert_eq!(outcome.calls("cuModuleLoadData"), 1);
        assert_eq!(outcome.calls("cuStreamSynchronize"), 1, "only the upload waits");
    }
}

#[test]
fn many_launches_on_the_same_memory_are_a_graph() {
    let outcome = any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let text = "m = sum(a); s = sum(b*m); sum(a/s, axis=0) + k";
        let (a, b) = (floats(600, &[20, 30]), floats(600, &[20, 30]));
        let (there_a, there_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        let mut out = floats(30, &[30]).to_device(&device).unwrap();
        let mut other = floats(30, &[30]).to_device(&device).unwrap();
        let check = |k: f64, inputs: [(&Array, &Array); 2], out: &mut Array| {
            let [(a, there_a), (b, there_b)] = inputs;
            engine.evaluate_into(text, &vars! { a: there_a, b: there_b, k }, &mut *out).unwrap();
            assert_eq!(*out, numfuse::evaluate(text, &vars! { a, b, k }).unwrap());
        };
        let straight = [(&a, &there_a), (&b, &there_b)];
        for k in [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0] {
            check(k, straight, &mut out);
        }
        // Other memory, and what was there before.
        let c = numfuse::evaluate("a + 1", &vars! { a }).unwrap();
        let there_c = c.to_device(&device).unwrap();
        for _ in 0..3 {
            check(2.0, [(&c, &there_c), (&b, &there_b)], &mut out);
            check(2.0, [(&c, &there_c), (&b, &there_b)], &mut out);
            check(2.0, straight, &mut other);
        }
        // New arrays are where those that went away were, or elsewhere.
        let want = numfuse::evaluate(text, &vars! { a, b, k: 3.0 }).unwrap();
        let all: Vec<Array> =
            (0..6).map(|_| engine.evaluate(text, &vars! { a: there_a, b: there_b, k: 3.0 }).unwrap()).collect();
        assert!(all.iter().all(|found| *found == want));
    });
    if outcome.is_known() && !cuda::is_real() {
        let [graphs, launches] = ["cuGraphInstantiateWithFlags", "cuGraphLaunch"].map(|name| outcome.calls(name));
        assert!(graphs >= 2 && launches >= 7, "{graphs} graphs, {launches} launches");
    }
}

#[test]
fn memory_of_other_libraries_is_not_copied() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = floats(24, &[4, 6]);
        let theirs = Arc::new(a.to_device(&device).unwrap());
        let address = theirs.device_address().unwrap();
        assert_eq!(a.device_address(), None);
        // Rows backwards, every second column; with a stream of theirs (the legacy default stream) and without.
        let want = numfuse::evaluate("2*a[::-1, ::2]", &vars! { a }).unwrap();
        for stream in [None, Some(1), device.stream()] {
            let (first, owner) = (address + 3 * 48, theirs.clone());
            // SAFETY: the elements are those of `theirs`, which the array keeps alive.
            let view = unsafe { Array::from_device(&device, first, DType::F64, &[4, 3], &[-48, 16], stream, owner) };
            let view = view.unwrap();
            assert_eq!((view.strides(), view.device_address()), (&[-48, 16][..], Some(first)));
            assert_eq!(engine.evaluate("2*v", &vars! { v: view }).unwrap(), want);
            assert_eq!(view.to_host().unwrap(), numfuse::evaluate("a[::-1, ::2]", &vars! { a }).unwrap());
        }
        device.synchronize().unwrap();
        assert_eq!(Arc::strong_count(&theirs), 1, "who is done with it lets go of it");
        // Elements at an address that is no multiple of their size.
        let owner = theirs.clone();
        // SAFETY: as above; the last element ends with the array's memory.
        let odd = unsafe { Array::from_device(&device, address + 4, DType::F64, &[3], &[8], None, owner) }.unwrap();
        assert_eq!(engine.evaluate("2*v", &vars! { v: odd }).unwrap_err().code(), Code::DeviceUnsupported);
        drop(odd);
        // SAFETY: nothing is accessed.
        let on_cpu = unsafe { Array::from_device(&Device::cpu(), address, DType::F64, &[3], &[8], None, Arc::new(())) };
        assert_eq!(on_cpu.unwrap_err().code(), Code::DeviceMismatch);
    });
}

#[test]
fn threads_share_a_device() {
    any_gpu().run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        std::thread::scope(|scope| {
            for t in 0..4 {
                let (engine, device) = (&engine, &device);
                scope.spawn(move || {
                    for i in 0..25 {
                        let n = 1 + (t * 37 + i * 11) % 200;
                        let a = floats(n, &[n]);
                        let want = numfuse::evaluate("sum(a*a) + k", &vars! { a, k: t }).unwrap();
                        let there = a.to_device(device).unwrap();
                        assert_eq!(engine.evaluate("sum(a*a) + k", &vars! { a: there, k: t }).unwrap(), want);
                        assert_eq!(engine.evaluate("sum(a*a) + k", &vars! { a, k: t }).unwrap(), want);
                    }
                });
            }
        });
    });
}

/// Some of everything that there is.
fn everything() -> Result<(), Error> {
    let device = Device::cuda(0)?;
    let engine = Engine::builder().device(&device).build()?;
    let (a, b) = (floats(600, &[20, 30]), floats(100_000, &[1000, 100]));
    let there = a.to_device(&device)?;
    let mut out = floats(30, &[30]).to_device(&device)?;
    for _ in 0..3 {
        engine.evaluate_into("m = sum(a); s = sum(a*m); sum(a/s, axis=0)", &vars! { a: there }, &mut out)?;
    }
    assert_eq!(engine.evaluate("2*b", &vars! { b })?, numfuse::evaluate("2*b", &vars! { b })?);
    Array::copy_of(&there.view().transposed())?.to_host()?;
    device.synchronize()
}

#[test]
fn every_call_of_the_driver_may_fail() {
    for call in [
        "cuStreamCreate:1:999",
        "cuStreamCreate:2:999",
        "cuStreamCreate:3:999",
        "cuMemAllocFromPoolAsync:2:999",
        "cuMemAllocFromPoolAsync:9:999",
        "cuMemHostAlloc:4:999",
        "cuMemcpyHtoDAsync_v2:1:999",
        "cuMemcpyHtoDAsync_v2:4:999",
        "cuMemcpyDtoHAsync_v2:2:999",
        "cuModuleLoadData:1:999",
        "cuModuleGetFunction:3:999",
        "cuLaunchKernel:2:999",
        "cuLaunchKernel:9:999",
        "cuGraphInstantiateWithFlags:1:999",
        "cuGraphLaunch:1:999",
        "cuEventRecord:2:999",
        "cuStreamWaitEvent:3:999",
        "cuStreamSynchronize:2:999",
    ] {
        gpu().with("FAIL", call).with("MEMORY", 2 << 20).run(|| {
            // Or nothing, where there is another way: memory that cannot be put in order is waited for.
            if let Err(error) = everything() {
                assert!([Code::DeviceFailed, Code::OutOfMemory].contains(&error.code()), "{error}");
            }
        });
    }
}
