//! Arrays of the host that are larger than the memory of a device go through it in parts, by the stand-ins of the driver and of
//! NVRTC: results have the bits of the CPU's, whatever is reduced, and the device never holds more than a few parts.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "common/cuda.rs"]
mod cuda;

use cuda::gpu;
use numfuse::{Array, ArrayMut, ArrayRef, CancelToken, Code, DType, Device, Element, Engine, Env, vars};

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

/// Numbers of mixed signs and sizes, so that sums round and every order of them has other bits.
fn mixed<T: Element>(shape: &[usize], seed: u64, of: impl Fn(f64) -> T) -> Array {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut number = || (next() - 0.4) * 10f64.powi((next() * 5.0) as i32);
    Array::from_vec((0..shape.iter().product()).map(|_| of(number())).collect(), shape).unwrap()
}

/// The same memory, to read while it is written: what other languages' arrays may be.
fn aliased(array: &ArrayMut<'_>) -> ArrayRef<'static> {
    // SAFETY: the tests keep the array alive, and evaluations read what they write only as if it had been read first.
    unsafe { std::mem::transmute::<ArrayRef<'_>, ArrayRef<'static>>(array.as_ref()) }
}

/// Holds an engine of a device against one of the CPU.
fn check(engine: &Engine, text: &str, env: &Env<'_>) {
    let want = Engine::default().evaluate_with(text, env, None).unwrap_or_else(|e| panic!("{text}: {e}"));
    let found = engine.evaluate_with(text, env, None).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(found.iter().all(|array| array.device() == Device::cpu()), "{text}");
    assert!(found == want, "{text}:\n{found:?}\ninstead of\n{want:?}");
}

/// Bytes of a device that is smaller than the arrays here.
const MEMORY: u64 = 1 << 20;

#[test]
fn arrays_of_the_host_go_through_in_parts() {
    let outcome = gpu().with("MEMORY", 2 << 20).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        // 8 MB, through 2.
        let a = floats(1_000_000, &[10_000, 100]);
        let (b, row) = (floats(10_000, &[10_000, 1]), floats(100, &[100]));
        for text in ["2*a + row", "a*b + k", "sum(a*row, axis=1)", "a - max(a, axis=1, keepdims=True), b + 1"] {
            let env = vars! { a, b, row, k: 0.5 };
            let want = Engine::default().evaluate_with(text, &env, None).unwrap();
            for _ in 0..2 {
                let found = engine.evaluate_with(text, &env, None).unwrap();
                assert_eq!(found, want, "{text}");
                assert!(found.iter().all(|array| array.device() == Device::cpu()));
            }
        }
        // Views, outputs of any strides, and outputs on top of inputs.
        let transposed = a.view().transposed();
        let want = numfuse::evaluate("2*t", &Env::new().with("t", &transposed)).unwrap();
        assert_eq!(engine.evaluate("2*t", &Env::new().with("t", &transposed)).unwrap(), want);
        let mut out = Array::zeros(DType::F64, &[10_000, 100]).unwrap();
        engine.evaluate_into("2*a + row", &vars! { a, row }, &mut out).unwrap();
        assert_eq!(out, numfuse::evaluate("2*a + row", &vars! { a, row }).unwrap());
        let mut memory = a.clone();
        let mut view = memory.view_mut();
        let alias = aliased(&view).slice(0, 0..9_999).unwrap();
        let shifted = view.slice(0, 1..10_000).unwrap();
        engine.evaluate_into("2*a", &Env::new().with("a", &alias), vec![shifted]).unwrap();
        let doubled = numfuse::evaluate("2*a", &vars! { a }).unwrap();
        assert_eq!(memory.as_slice::<f64>().unwrap()[100..], doubled.as_slice::<f64>().unwrap()[..999_900]);
    });
    if outcome.is_known() {
        assert!(outcome.calls("cuMemcpyHtoDAsync_v2") > 500, "arrays did not go in parts");
    }
}

#[test]
fn the_last_part_may_be_of_any_size() {
    gpu().with("MEMORY", 2 << 20).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let text = "a*row + b, max(a, axis=1)";
        // A part has some eighty rows, so that this many sizes leave every number of rows for the last one, one row too.
        for rows in 700..790 {
            let (a, b, row) = (floats(rows * 100, &[rows, 100]), floats(rows, &[rows, 1]), floats(100, &[100]));
            let env = vars! { a, b, row };
            let want = Engine::default().evaluate_with(text, &env, None).unwrap();
            assert_eq!(engine.evaluate_with(text, &env, None).unwrap(), want, "{rows} rows");
        }
    });
}

#[test]
fn what_mixes_rows_goes_through_in_passes() {
    let outcome = gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        // 1.6 MB each; leaves of a reduction end inside of rows.
        let (a, b) = (mixed(&[2000, 100], 1, |x| x), mixed(&[2000, 100], 2, |x| x));
        let (row, column) = (mixed(&[100], 3, |x| x), mixed(&[2000, 1], 4, |x| x));
        let env = vars! { a, b, row, column, k: 0.5 };
        for text in [
            "sum(a)",
            "sum((a - b)**2)",
            "max(a)",
            "mean(a)",
            "sum(a, axis=0)",
            "(a - mean(a)) / std(a)",
            "(a - mean(a, axis=0)) / std(a, axis=0)",
            "var(a*k, axis=0), min(b, axis=0)",
            "a.T + b.T*k",
            "a[::-1] - a",
            "a[1:] - a[:-1]",
            "sum(a*row + column)",
            "sum(a), sum(a), a + 1, max(b, axis=0)",
            "any(a > 1e4), all(a > -1e5), mean(a > k)",
            "sum(exp(a*1e-5 - max(a)*1e-5), axis=0)",
            "sum(a / sum(a, axis=1, keepdims=True))",
            "sum(a*b)/sqrt(sum(a*a)*sum(b*b)) + row",
            "sum(a, axis=0)[::-1] * row",
            "(exp(a*k/1e5) * sin(a) + exp(a[::-1]/1e5 * sin(a)))[::-1]",
        ] {
            check(&engine, text, &env);
        }
        let stats = device.memory_stats().unwrap();
        assert!(stats.peak < MEMORY / 4 * 3, "{stats:?}");
    });
    if outcome.is_known() {
        assert!(outcome.calls("cuMemcpyHtoDAsync_v2") > 500, "arrays did not go in parts");
    }
}

#[test]
fn every_dtype_and_rank_is_reduced_in_parts() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let single = mixed(&[301_007], 5, |x| x as f32);
        let env = vars! { x: single };
        for text in ["sum(x)", "mean(x), var(x)", "prod(1 + x*f32(1e-9))", "min(x), max(x)", "x[::-1] * 2", "cast(x)"] {
            check(&engine, &text.replace("cast", "f64"), &env);
        }
        let (small, words) = (mixed(&[1_200_001], 6, |x| x as i8), mixed(&[700, 501], 7, |x| x as i32));
        let env = vars! { s: small, w: words };
        for text in
            ["sum(s), max(s)", "sum(w), min(w, axis=0)", "any(s == 3)", "prod(w | 1, axis=0)", "mean(w, axis=0)"]
        {
            check(&engine, text, &env);
        }
        // Three dimensions, reduced along each set of them.
        let cube = mixed(&[40, 51, 100], 8, |x| x);
        for axes in ["0", "1", "2", "(0, 1)", "(0, 2)", "(1, 2)", "(0, 1, 2)"] {
            for function in ["sum", "std", "max"] {
                check(&engine, &format!("{function}(c, axis={axes})"), &vars! { c: cube });
            }
            check(&engine, &format!("c - mean(c*c, axis={axes}, keepdims=True)"), &vars! { c: cube });
        }
        // Rows that are longer than a part, and columns that are wider.
        let (long, wide) = (mixed(&[3, 70_001], 9, |x| x), mixed(&[300, 777], 10, |x| x));
        check(&engine, "sum(l, axis=1), max(l, axis=1)", &vars! { l: long });
        check(&engine, "exp(l*1e-6 - max(l, axis=1, keepdims=True)*1e-6)", &vars! { l: long });
        check(&engine, "std(w, axis=0), sum(w.T, axis=0)", &vars! { w: wide });
        let flat = mixed(&[2, 3, 40_000], 11, |x| x);
        check(&engine, "sum(f, axis=(0, 1))", &vars! { f: flat });
        check(&engine, "f[:, ::-1] + f[::-1]", &vars! { f: flat });
    });
}

#[test]
fn the_tree_of_a_reduction_is_the_same_for_every_number_of_elements() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let x = mixed(&[200_000], 12, |x| x);
        // Around one leaf more or less, and around parts.
        for n in [131_072, 131_073, 140_287, 140_288, 140_289, 141_000, 196_607, 196_608, 199_999] {
            let part = x.view().slice(0, 0..n).unwrap();
            check(&engine, "sum(x), var(x)", &Env::new().with("x", &part));
        }
    });
}

#[test]
fn views_of_the_host_are_read_where_they_are() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = mixed(&[400, 500], 13, |x| x);
        let turned = a.view().transposed();
        let part = a.view().slice(1, 3..493).unwrap();
        let repeated = a.view().slice(0, 7..8).unwrap().broadcast_to(&[400, 500]).unwrap();
        for view in [&turned, &part, &repeated] {
            let env = Env::new().with("v", view);
            check(&engine, "sum(v), std(v, axis=0), v.T*2", &env);
        }
        // Outputs of any strides, and on top of what is read.
        let mut out = Array::zeros(DType::F64, &[500, 400]).unwrap();
        engine.evaluate_into("a.T - mean(a)", &vars! { a }, &mut out).unwrap();
        assert_eq!(out, numfuse::evaluate("a.T - mean(a)", &vars! { a }).unwrap());
        let mut memory = a.clone();
        let view = memory.view_mut();
        let alias = aliased(&view);
        engine.evaluate_into("a - mean(a, axis=0)", &Env::new().with("a", &alias), vec![view]).unwrap();
        assert_eq!(memory, numfuse::evaluate("a - mean(a, axis=0)", &vars! { a }).unwrap());
    });
}

#[test]
fn elements_of_the_host_lie_at_any_address() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        // Records of a byte and a number, as in a packed structured array; of few and of many records.
        for n in [50, 150_000] {
            let mut bytes: Vec<u8> =
                (0..n).flat_map(|i| [&[i as u8][..], &(i as f64 * 0.7 - 3.0).to_ne_bytes()].concat()).collect();
            let first = bytes.as_mut_ptr();
            // SAFETY: each element lies in the bytes, which outlive the array.
            let x = unsafe { ArrayRef::from_raw(first.add(1), DType::F64, &[n], &[9]) }.unwrap();
            for text in ["2*x + 1", "sum(x), x - mean(x)", "x[::-1] - x"] {
                check(&engine, text, &Env::new().with("x", &x));
            }
            // Consecutive, but at an odd address; and written to one.
            let odd = vec![0u8; 8 * n + 1];
            // SAFETY: as above.
            let y = unsafe { ArrayRef::from_raw(odd.as_ptr().add(1), DType::F64, &[n], &[8]) }.unwrap();
            check(&engine, "y + 1, max(y)", &Env::new().with("y", &y));
            let copy = Array::copy_of(&x).unwrap();
            // SAFETY: as above, and nobody reads `x` while this is written.
            let out = unsafe { ArrayMut::from_raw(first.add(1), DType::F64, &[n], &[9]) }.unwrap();
            engine.evaluate_into("3*c", &vars! { c: copy }, vec![out]).unwrap();
            assert_eq!(Array::copy_of(&x).unwrap(), numfuse::evaluate("3*c", &vars! { c: copy }).unwrap());
            assert!((0..n).all(|i| bytes[9 * i] == i as u8), "bytes between the elements were written");
        }
    });
}

#[test]
fn guards_are_looked_at_in_parts() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let mut exponents: Vec<i64> = (0..200_000).map(|i| i % 7).collect();
        let power = |exponents: &[i64]| engine.evaluate("3 ** n", &vars! { n: exponents });
        let want = numfuse::evaluate("3 ** n", &vars! { n: exponents }).unwrap();
        assert_eq!(power(&exponents).unwrap(), want);
        exponents[199_999] = -1;
        assert_eq!(power(&exponents).unwrap_err().code(), Code::NegativeIntPower);
    });
}

#[test]
fn special_values_go_through_parts() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let zeros = Array::from_vec(vec![-0.0; 150_000], &[150_000]).unwrap();
        check(&engine, "sum(z), max(z), min(z), prod(z), var(z)", &vars! { z: zeros });
        let mut values = mixed(&[150_000], 16, |x| x).to_vec::<f64>().unwrap();
        (values[70_000], values[149_999]) = (f64::INFINITY, 0.0);
        check(&engine, "max(v), min(v), mean(v), var(v), v / max(v)", &vars! { v: values });
        values[90_000] = f64::NAN;
        check(&engine, "max(v), min(v), sum(v), std(v), v - min(v)", &vars! { v: values });
    });
}

#[test]
fn passes_can_be_cancelled() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let engine = engine(&Device::cuda(0).unwrap());
        let a = mixed(&[2000, 100], 17, |x| x);
        let token = CancelToken::new();
        assert!(engine.evaluate_with("a - mean(a)", &vars! { a }, Some(&token)).is_ok());
        token.cancel();
        let error = engine.evaluate_with("a - mean(a)", &vars! { a }, Some(&token)).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    });
}

/// Small odd integers, of which products are exact in any order, and none is a zero, whose sign is not promised.
fn integers(shape: &[usize], seed: u64) -> Array {
    mixed(shape, seed, |x| (x.abs() * 1000.0 % 8.0).floor() * 2.0 - 7.0)
}

#[test]
fn products_go_through_in_rows_and_columns() {
    let outcome = gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        // 1.1 MB each: no operand fits.
        let (a, b) = (integers(&[450, 300], 21), integers(&[300, 440], 22));
        let (row, column) = (integers(&[300], 23), integers(&[450, 1], 24));
        let env = vars! { a, b, row, column };
        for text in [
            "a @ b",
            "a @ a.T",
            "a.T @ a",
            "(a @ b).T",
            "maximum((a - row) @ b + column, 0)",
            "sum(a @ b, axis=0), max(a @ b)",
            "a @ b, a @ b, b.T @ a.T + 1",
            "a[::-1, ::2] @ b[::-2]",
            "a @ b @ a[:440, ::3]",
            "a[None] @ b[None, :, ::5], row[None] @ b",
        ] {
            check(&engine, text, &env);
        }
        // One of them fits, or both and the result does not: also in single precision, with rows and columns of any number.
        for (n, k, m) in [(3000, 50, 40), (40, 50, 3000), (600, 7, 599), (3, 20_000, 4), (257, 2, 1001), (70_000, 1, 3)]
        {
            let (x, y) = (integers(&[n, k], 25), integers(&[k, m], 26));
            check(&engine, "x @ y, (x * 2) @ y + 1, y.T @ x.T", &vars! { x, y });
            check(&engine, "f32(x) @ f32(y)", &vars! { x, y });
        }
        let stats = device.memory_stats().unwrap();
        assert!(stats.peak < MEMORY / 8 * 7, "{stats:?}");
        // Into memory of any strides, also that of an operand.
        let mut out = Array::zeros(DType::F64, &[450, 450]).unwrap();
        engine.evaluate_into("a @ a.T", &vars! { a }, &mut out).unwrap();
        assert_eq!(out, numfuse::evaluate("a @ a.T", &vars! { a }).unwrap());
        let mut memory = integers(&[400, 400], 27);
        let want = numfuse::evaluate("m @ m", &vars! { m: memory }).unwrap();
        let view = memory.view_mut();
        let alias = aliased(&view);
        engine.evaluate_into("m @ m", &Env::new().with("m", &alias), vec![view]).unwrap();
        assert_eq!(memory, want);
    });
    if outcome.is_known() {
        assert!(outcome.calls("cuMemcpyHtoDAsync_v2") > 500, "arrays did not go in parts");
    }
}

#[test]
fn stacks_of_matrices_go_through_in_parts() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let engine = engine(&Device::cuda(0).unwrap());
        // Many small matrices, a few that are parts of their own, and those of which none fits.
        for (stack, n, k, m) in [(2000, 5, 7, 6), (30, 60, 50, 61), (3, 300, 250, 310)] {
            let (s, t) = (integers(&[stack, n, k], 31), integers(&[stack, k, m], 32));
            let (one, row) = (integers(&[k, m], 33), integers(&[k], 34));
            let env = vars! { s, t, one, row };
            check(&engine, "s @ t", &env);
            check(&engine, "maximum((s - row) @ one, 0)", &env);
            // What mixes matrices of the stack cannot go through by its first dimension.
            check(&engine, "sum(s @ t, axis=0)", &env);
            check(&engine, "s[::-1] @ t, s[0] @ t", &env);
        }
        let (s, t) = (integers(&[40, 1, 30, 20], 35), integers(&[50, 20, 9], 36));
        check(&engine, "s @ t", &vars! { s, t });
    });
}

#[test]
fn a_depth_that_does_not_fit_is_told() {
    gpu().with("MEMORY", MEMORY).run(|| {
        let device = Device::cuda(0).unwrap();
        let engine = engine(&device);
        let a = mixed(&[3, 200_000], 14, |x| x);
        let error = engine.evaluate("a @ a.T", &vars! { a }).unwrap_err();
        assert_eq!(error.code(), Code::OutOfMemory);
        let text = error.report(false);
        for words in ["4800072 bytes of inputs and results", "cuda:0", "1048576 bytes", "rows and columns", "CPU"] {
            assert!(text.contains(words), "{text}");
        }
    });
}

#[test]
fn a_pass_may_fail_at_any_allocation() {
    for call in ["cuMemAllocFromPoolAsync:3:2", "cuMemAllocFromPoolAsync:20:2", "cuMemHostAlloc:2:999"] {
        gpu().with("MEMORY", MEMORY).with("FAIL", call).run(|| {
            let engine = engine(&Device::cuda(0).unwrap());
            let a = mixed(&[2000, 100], 15, |x| x);
            // Or there is another way.
            match engine.evaluate("(a - mean(a)) / std(a)", &vars! { a }) {
                Ok(found) => assert_eq!(found, numfuse::evaluate("(a - mean(a)) / std(a)", &vars! { a }).unwrap()),
                Err(error) => assert!([Code::DeviceFailed, Code::OutOfMemory].contains(&error.code()), "{error}"),
            }
        });
    }
}

#[test]
fn arrays_go_through_memory_that_cannot_be_pinned() {
    // None of it, or some.
    let none: Vec<String> = (1..=8).map(|n| format!("cuMemHostAlloc:{n}:2")).collect();
    for fail in [none.join(","), "cuMemHostAlloc:3:2".to_owned()] {
        let outcome = gpu().with("MEMORY", MEMORY).with("FAIL", fail).run(|| {
            let engine = engine(&Device::cuda(0).unwrap());
            let a = mixed(&[2000, 100], 18, |x| x);
            for _ in 0..3 {
                check(&engine, "2*a + 1, sum(a, axis=1)", &vars! { a });
            }
        });
        if outcome.is_known() {
            assert_eq!(
                outcome.calls("cuMemHostAlloc"),
                16,
                "what could not be pinned is tried once more, and then kept"
            );
        }
    }
}
