//! Hostile and awkward texts and calls, what breaks expression evaluators: texts that explode, that nest, that never end;
//! more inputs, terms and threads than anyone expects; results larger than memory. Nothing panics, hangs, leaks, or gives
//! a wrong answer.

use ndarray::Array2;
use numfuse::{
    Array, ArrayRef, Axis, Backend, CancelToken, Code, DType, Engine, Env, Expr, Limits, Tier, evaluate, lazy, vars,
};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn three_hundred_inputs_and_constants_work() {
    let names: Vec<String> = (0..300).map(|i| format!("x{i}")).collect();
    let arrays: Vec<[f64; 3]> = (0..300).map(|i| [f64::from(i), 1.0, -0.5]).collect();
    let mut env = Env::new();
    let mut text = String::from("0");
    for (i, (name, array)) in names.iter().zip(&arrays).enumerate() {
        env.insert(name.as_str(), array);
        write!(text, " + {i}.5*{name}").unwrap();
    }
    let want: Vec<f64> = (0..3).map(|j| (0..300).fold(0.0, |sum, i| sum + (i as f64 + 0.5) * arrays[i][j])).collect();
    assert_eq!(evaluate(&text, &env).unwrap().as_slice::<f64>().unwrap(), want);
}

#[test]
fn hundreds_of_elementary_functions_become_machine_code() {
    let text = |function: &str| (0..300).map(|i| format!("{function}(x*{i}.5)")).collect::<Vec<_>>().join(" + ");
    let x = [0.1, 1e15, -2.5];
    let interp = Engine::builder().backend(Backend::Interp).build().unwrap();
    let tiers = [Tier::Avx512, Tier::Avx2].into_iter().filter(|tier| tier.is_on_host());
    for (tier, function) in tiers.flat_map(|tier| ["sin", "exp"].map(|function| (tier, function))) {
        let jit = Engine::builder().backend(Backend::Jit).tier(tier).build().unwrap();
        let [compiled, interpreted] =
            [jit, interp.clone()].map(|engine| engine.evaluate(&text(function), &vars! { x }).unwrap());
        let bits = |array: &Array| array.as_slice::<f64>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
        assert_eq!(bits(&compiled), bits(&interpreted), "{tier:?} {function}");
    }
}

#[test]
fn long_sums_keep_their_order() {
    let x = [0.1];
    let text = vec!["x"; 10_000].join(" + ");
    let want = (1..10_000).fold(0.1, |sum, _| sum + 0.1);
    assert_eq!(evaluate(&text, &vars! { x }).unwrap().as_slice::<f64>().unwrap(), [want]);
    let x = [1.0, 2.0];
    let y = lazy(&x);
    let sum: Expr<'_> = (0..10_000).map(|k| &y + k).sum();
    assert_eq!(numfuse::eval(sum).unwrap().as_slice::<f64>().unwrap(), [50_005_000.0, 50_015_000.0]);
}

#[test]
fn shared_sub_expressions_are_never_expanded() {
    let a = [1.0];
    let mut b = lazy(&a);
    let mut text = String::from("b0 = a\n");
    for i in 0..64 {
        b = &b + &b;
        writeln!(text, "b{} = b{i} + b{i}", i + 1).unwrap();
    }
    text.push_str("b64");
    let start = Instant::now();
    assert_eq!(numfuse::eval(b).unwrap().item::<f64>().unwrap(), 2f64.powi(64));
    assert_eq!(evaluate(&text, &vars! { a }).unwrap().item::<f64>().unwrap(), 2f64.powi(64));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn ranks_up_to_32_work() {
    let x = Array::from_vec(vec![1.0, 2.0], &[[1; 31].as_slice(), &[2]].concat()).unwrap();
    let y = evaluate("x * 3 + sum(x, axis=-1, keepdims=True)", &vars! { x }).unwrap();
    assert_eq!(y.rank(), 32);
    assert_eq!(y.as_slice::<f64>().unwrap(), [6.0, 9.0]);
    assert_eq!(evaluate("x[None]", &vars! { x }).unwrap_err().code(), Code::Rank);
    let deep = ndarray::ArrayD::<f64>::zeros(vec![1; 33]);
    assert_eq!(evaluate("deep + 1", &vars! { deep }).unwrap_err().code(), Code::Rank);
    assert_eq!(numfuse::eval(lazy(&deep) + 1).unwrap_err().code(), Code::Rank);
}

#[test]
fn sizes_that_overflow_are_refused_before_memory_is_asked_for() {
    let one = [1.0];
    // SAFETY: the strides are zero, so only the one element is reached.
    let wide = unsafe { ArrayRef::from_raw(one.as_ptr().cast(), DType::F64, &[1 << 30, 1 << 30], &[0, 0]).unwrap() };
    assert_eq!(evaluate("wide + 1", &vars! { wide }).unwrap_err().code(), Code::TooLarge);
    // SAFETY: as above.
    let long = unsafe { ArrayRef::from_raw(one.as_ptr().cast(), DType::F64, &[1 << 40], &[0]).unwrap() };
    let error = evaluate("long[:, None] * long", &vars! { long }).unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
    // 64 TiB: no overflow, and no such memory.
    // SAFETY: as above.
    let huge = unsafe { ArrayRef::from_raw(one.as_ptr().cast(), DType::F64, &[1 << 43], &[0]).unwrap() };
    let error = evaluate("huge + 1", &vars! { huge }).unwrap_err();
    assert!(matches!(error.code(), Code::OutOfMemory | Code::TooLarge), "{error}");
    let bytes = vec![0u8; 1 << 20];
    let code = |text: &str| evaluate(text, &vars! { a: bytes }).unwrap_err().code();
    assert!(matches!(code("a[:, None, None] + a[:, None] + a"), Code::TooLarge | Code::OutOfMemory));
    assert_eq!(code("f64(a[:, None, None, None] + a[:, None, None] + a[:, None] + a)"), Code::TooLarge);
    // More than any machine maps, less than what overflows.
    assert_eq!(Array::zeros(DType::F64, &[1 << 59]).unwrap_err().code(), Code::OutOfMemory);
    assert_eq!(evaluate("1 + 1", &vars! {}).unwrap().item::<i64>().unwrap(), 2);
}

#[test]
fn towers_of_powers_take_no_time() {
    let start = Instant::now();
    assert!(evaluate("9**9**9", &Env::new()).is_ok());
    assert!(evaluate("2**(2**40)", &Env::new()).is_ok());
    assert_eq!(evaluate("2.0**(2**40)", &Env::new()).unwrap().item::<f64>().unwrap(), f64::INFINITY);
    assert_eq!(evaluate("1 << (1 << 62)", &Env::new()).unwrap().item::<i64>().unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn limits_are_kept() {
    let engine = Engine::builder().limits(Limits::untrusted()).build().unwrap();
    let x = vec![1.0; 10_000];
    let code = |text: &str, env: &Env<'_>| engine.evaluate(text, env).unwrap_err().code();
    assert_eq!(code(&format!("1 +{}1", " ".repeat(70_000)), &vars! {}), Code::SourceLimit);
    assert_eq!(code(&"(".repeat(1000), &vars! {}), Code::SourceLimit);
    assert_eq!(code("x[:, None] + x", &vars! { x }), Code::TooLarge);
    let names: Vec<String> = (0..65).map(|i| format!("x{i}")).collect();
    assert_eq!(code(&names.join(" + "), &vars! {}), Code::GraphLimit);
    let one = 1.0;
    let bound = names.iter().fold(Env::new(), |env, name| env.with(name.as_str(), &one));
    assert_eq!(code(&names.join(" + "), &bound), Code::GraphLimit);
    let many: Vec<String> = (0..12_000).map(|i| format!("(x + {i})")).collect();
    let refused = code(&many.join("*"), &vars! { x });
    assert!(matches!(refused, Code::GraphLimit | Code::SourceLimit), "{refused}");
    let bytes = vec![0u8; 1 << 20];
    assert_eq!(code("x[:, None] + x", &vars! { x: bytes }), Code::TooLarge);
    let long: Expr<'_> = (0..20_000).map(|k| lazy(&x) + k).sum();
    assert_eq!(engine.eval(long).unwrap_err().code(), Code::GraphLimit);
    assert_eq!(engine.evaluate("sum(x[:, None] * x)", &vars! { x }).unwrap().item::<f64>().unwrap(), 1e8);
}

/// An expression that runs for a minute or more, without memory.
fn endless<'a>(cell: &'a [f64; 1]) -> ArrayRef<'a> {
    // SAFETY: the strides are zero, so only the one element is reached.
    unsafe { ArrayRef::from_raw(cell.as_ptr().cast(), DType::F64, &[1 << 20, 1 << 17], &[0, 0]).unwrap() }
}

#[test]
fn long_evaluations_stop_at_the_deadline_and_when_cancelled() {
    let cell = [0.5];
    let x = endless(&cell);
    let mut limits = Limits::default();
    limits.time = Some(Duration::from_millis(100));
    let engine = Engine::builder().limits(limits).build().unwrap();
    for text in ["sum(exp(x))", "sum(exp(x), axis=0)", "max(sum(sin(x), axis=1))"] {
        let start = Instant::now();
        let error = engine.evaluate(text, &vars! { x }).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled, "{text}");
        assert!(start.elapsed() < Duration::from_secs(5), "{text}: {:?}", start.elapsed());
    }
    let token = CancelToken::new();
    let start = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            token.cancel();
        });
        Engine::default().evaluate_with("sum(exp(x))", &vars! { x }, Some(&token)).unwrap_err()
    });
    assert_eq!(error.code(), Code::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(5));
    // A token that is cancelled already stops at once; the engine is as good as before.
    let engine = Engine::default();
    assert_eq!(engine.evaluate_with("sum(exp(x))", &vars! { x }, Some(&token)).unwrap_err().code(), Code::Cancelled);
    assert_eq!(engine.evaluate("sum(x[0, :4])", &vars! { x }).unwrap().item::<f64>().unwrap(), 2.0);
}

#[test]
fn sixty_four_threads_run_one_kernel() {
    for threads in [1, 3] {
        let engine = Engine::builder().threads(threads).build().unwrap();
        let x = Expr::input("x", DType::F64, [None, None]).unwrap();
        let kernel = engine.compile((x.sum(1), (&x * 2 + 1).sqrt())).unwrap();
        std::thread::scope(|scope| {
            for t in 0..64 {
                let kernel = &kernel;
                scope.spawn(move || {
                    let x = Array2::from_shape_fn((t + 1, 100 + t), |(i, j)| (i + j) as f64);
                    for _ in 0..20 {
                        let (sums, roots) = kernel.run(&vars! { x }).unwrap();
                        let want: Vec<f64> = x.outer_iter().map(|row| row.sum()).collect();
                        assert_eq!(sums.as_slice::<f64>().unwrap(), want);
                        assert_eq!(roots.as_slice::<f64>().unwrap()[t], (x[(0, t)] * 2.0 + 1.0).sqrt());
                    }
                });
            }
        });
        assert_eq!(engine.stats().kernels_compiled, engine.stats().kernels_cached as u64, "compiled once each");
    }
}

#[test]
fn one_engine_serves_many_threads() {
    let engine = Engine::builder().threads(2).build().unwrap();
    let a: Vec<f64> = (0..10_000).map(f64::from).collect();
    let want: f64 = a.iter().map(|x| 2.0 * x).sum();
    std::thread::scope(|scope| {
        for t in 0..32 {
            let (engine, a) = (engine.clone(), &a);
            scope.spawn(move || {
                for i in 0..20 {
                    // Some texts are shared by all threads, some are of one thread alone.
                    let text = if i % 2 == 0 { "sum(a + a)".to_owned() } else { format!("sum(a + a) + {t} - {t}") };
                    let got = engine.evaluate(&text, &Env::new().with("a", a)).unwrap().item::<f64>().unwrap();
                    assert_eq!(got, want);
                }
            });
        }
    });
}

#[test]
fn threads_that_want_the_same_code_compile_it_once() {
    let engine = Engine::builder().build().unwrap();
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                let x = vec![2.0; 100];
                assert_eq!(engine.evaluate("x * x - 1", &vars! { x }).unwrap().as_slice::<f64>().unwrap()[99], 3.0);
            });
        }
    });
    assert_eq!(engine.stats().kernels_compiled, 1);
}

/// A text whose kernel is unlike that of any other number.
fn distinct(n: u64) -> String {
    let mut text = String::from("x");
    for bit in 0..20 {
        text = format!("({text} {} y)", if n >> bit & 1 == 0 { '+' } else { '*' });
    }
    text
}

#[test]
fn code_that_runs_outlives_its_place_in_the_cache() {
    // Room for a handful of kernels.
    let engine = Engine::builder().cache_bytes(20_000).build().unwrap();
    let (x, y) = (vec![1.0; 1000], vec![1.0; 1000]);
    let held = engine.prepare("x - y * 3", &vars! { x, y }).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(held.run(&vars! { x, y }).unwrap().as_slice::<f64>().unwrap()[500], -2.0);
                }
            });
        }
        for n in 0..500 {
            engine.evaluate(&distinct(n), &vars! { x, y }).unwrap();
        }
        engine.clear();
        done.store(true, Ordering::Relaxed);
    });
    assert!(engine.stats().code_bytes <= 20_000);
}

#[test]
fn many_distinct_kernels_come_and_go() {
    let engine = Engine::builder().cache_bytes(1 << 16).build().unwrap();
    let a = [3i64, 4];
    for i in 0..200u32 {
        // Bits of `i` choose the operations, so that each text is a kernel of its own.
        let ops: String = (0..8).map(|bit| if i >> bit & 1 == 0 { " + a" } else { " * a" }).collect();
        let want = (0..8).fold(3i64, |x, bit| if i >> bit & 1 == 0 { x + 3 } else { x * 3 });
        let text = format!("({}a{}", "(".repeat(7), ops.replace(" a", " a)"));
        assert_eq!(engine.evaluate(&text, &vars! { a }).unwrap().as_slice::<i64>().unwrap()[0], want, "{text}");
    }
    assert!(engine.stats().code_bytes <= 1 << 17, "{:?}", engine.stats());
}

#[test]
fn small_stacks_suffice() {
    let work = || {
        let x = vec![1.0; 100];
        let y = evaluate("sum(exp(x) * sin(x[:, None]), axis=0) / mean(x)", &vars! { x }).unwrap();
        assert_eq!(y.len(), 100);
    };
    // Building machine code takes more, so that is done before.
    work();
    let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(work).unwrap();
    assert!(thread.join().is_ok());
}

/// The error of a text; what is drawn of it reaches a terminal without control characters.
fn refused(text: &str) -> Code {
    let a = [1.0];
    match evaluate(text, &vars! { a }) {
        Err(error) => {
            let drawn = error.report(false);
            assert!(!drawn.chars().any(|c| c.is_control() && c != '\n'), "{drawn}");
            assert!(!error.to_string().lines().any(|line| line.contains(char::is_control)), "{text:?}: {error:?}");
            error.code()
        }
        Ok(result) => panic!("{text:.80} gives {result}"),
    }
}

#[test]
fn nothing_of_a_host_language_is_there() {
    for text in [
        "a.__class__",
        "a.__class__.__mro__",
        "().__class__",
        "(lambda: 1)()",
        "lambda: 0",
        "__import__('os')",
        "__import__('os').system('id')",
        "f'{a}'",
        "a := 1",
        "(x := 1)",
        "[i for i in a]",
        "{1: 2}",
        "yield 1",
        "yield a",
        "import os",
        "a; import os",
        "eval(\"1\")",
        "exec(a)",
        "open(a)",
        "print(1)",
        "a.tofile(1)",
        "async def f(): pass",
        "@a",
        "1 is 1",
        "a.real.imag.__init__",
    ] {
        assert_ne!(refused(text), Code::Internal, "{text}");
    }
}

#[test]
fn strange_characters_are_refused_and_do_not_reach_the_terminal() {
    for text in [
        "",
        "\0",
        "a\0b",
        "\u{feff}a$",
        "a\u{202e}b",
        "a\u{202e}b +",
        "a\u{200b} $",
        "\x1b[31m",
        "p\u{430}ypal $",
        "`",
        "\u{1F600}",
    ] {
        refused(text);
    }
    for text in ["1e", "0x", ".5."] {
        refused(text);
    }
}

#[test]
fn deep_and_long_texts_are_refused_quickly() {
    let start = Instant::now();
    for depth in [300, 100_000] {
        for (open, close) in
            [("(", ")"), ("-", ""), ("not ", ""), ("a[", "]"), ("sqrt(", ")"), ("2**", ""), ("1 if 1 else ", "")]
        {
            let text = open.repeat(depth) + "1" + &close.repeat(depth);
            assert!(matches!(refused(&text), Code::SourceLimit | Code::NotConstant | Code::UnknownName), "{open}");
        }
    }
    for (part, times) in
        [("(", 1 << 20), ("-", 1 << 20), ("a", 1 << 20), ("1 + ", 1 << 20), ("a**", 100_000), ("1,", 200_000)]
    {
        refused(&part.repeat(times));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn unaligned_memory_is_read_and_written() {
    let mut bytes = vec![0u8; 8 * 100 + 3];
    let (input, output) = bytes.split_at_mut(3 + 8 * 50);
    for (i, element) in input[3..].chunks_exact_mut(8).enumerate() {
        element.copy_from_slice(&(i as f64).to_le_bytes());
    }
    for backend in [Backend::Jit, Backend::Interp] {
        let engine = Engine::builder().backend(backend).build().unwrap();
        // SAFETY: both lie inside of the bytes.
        let x = unsafe { ArrayRef::from_raw(input[3..].as_ptr(), DType::F64, &[50], &[8]).unwrap() };
        // SAFETY: as above.
        let mut out = unsafe { numfuse::ArrayMut::from_raw(output.as_mut_ptr(), DType::F64, &[50], &[8]).unwrap() };
        engine.evaluate_into("x * 2 + 1", &vars! { x }, &mut out).unwrap();
        for (i, element) in output.chunks_exact(8).enumerate() {
            assert_eq!(f64::from_le_bytes(element.try_into().unwrap()), 2.0 * i as f64 + 1.0);
        }
    }
}

#[test]
fn single_precision_sums_are_accurate() {
    let x = vec![0.1f32; 20_000_000];
    let sum = numfuse::eval(lazy(&x).sum(Axis::All)).unwrap().item::<f64>().unwrap();
    let want = 20_000_000.0 * f64::from(0.1f32);
    // Two units in the last place; adding one by one is off by 5 %.
    assert!((sum - want).abs() / want < 2e-7, "{sum}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_evaluates() {
    let x = vec![1.0; 1_000_000];
    let sum = || evaluate("sum(sin(x)**2 + cos(x)**2)", &vars! { x }).map(|a| a.item::<f64>());
    assert!((sum().unwrap().unwrap() - 1e6).abs() < 1e-3);
    for _ in 0..3 {
        // SAFETY: the child calls nothing but the engine, and leaves without running destructors of the harness.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let ok = sum().is_ok_and(|s| s.is_ok_and(|s| (s - 1e6).abs() < 1e-3));
            let new = evaluate("x[::2] * 3 - 1", &vars! { x }).is_ok_and(|a| a.len() == 500_000);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!(ok && new))) };
        }
        let (mut status, end) = (0, Instant::now() + Duration::from_secs(60));
        loop {
            // SAFETY: waits for our own child.
            let done = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
            if done == child {
                break;
            }
            if Instant::now() > end {
                // SAFETY: ends our own child.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child hangs");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status}");
    }
}
