//! What breaks expression evaluators: texts that explode, that nest, that never end; more inputs, terms and threads than
//! anyone expects; results larger than memory. Everything is answered, with the right value or an error, and quickly.

use numfuse::{Array, CancelToken, Code, DType, Engine, Env, Limits, evaluate, vars};
use std::time::{Duration, Instant};

/// The error of a text without inputs.
fn refused(text: &str) -> Code {
    match evaluate(text, &Env::new()) {
        Err(error) => {
            assert!(!error.report(false).chars().any(|c| c.is_control() && c != '\n'), "{}", error.report(false));
            error.code()
        }
        Ok(result) => panic!("{text:.80} gives {result}"),
    }
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
fn sums_of_many_terms_keep_their_order() {
    let a = [0.1];
    let text = vec!["a"; 10_000].join(" + ");
    let mut want = 0.1;
    for _ in 1..10_000 {
        want += 0.1;
    }
    assert_eq!(evaluate(&text, &vars! { a }).unwrap().as_slice::<f64>().unwrap(), [want]);
}

#[test]
fn hundreds_of_inputs_and_constants_work() {
    let values: Vec<Array> = (0..300).map(|i| Array::from_vec(vec![f64::from(i); 3], &[3]).unwrap()).collect();
    let names: Vec<String> = (0..300).map(|i| format!("x{i}")).collect();
    let mut env = Env::new();
    for (name, value) in names.iter().zip(&values) {
        env.insert(name.as_str(), value);
    }
    let terms: Vec<String> = (0..300).map(|i| format!("x{i} * {i}.5")).collect();
    let want: f64 = (0..300).map(|i| f64::from(i) * (f64::from(i) + 0.5)).sum();
    assert_eq!(evaluate(&terms.join(" + "), &env).unwrap().as_slice::<f64>().unwrap(), [want; 3]);
}

#[test]
fn shared_values_are_computed_once() {
    // As a tree this has 2**64 additions.
    let mut text = String::from("v0 = a\n");
    for i in 1..=64 {
        text += &format!("v{i} = v{} + v{}\n", i - 1, i - 1);
    }
    text += "v64";
    let start = Instant::now();
    let a = [1.0];
    assert_eq!(evaluate(&text, &vars! { a }).unwrap().as_slice::<f64>().unwrap(), [2f64.powi(64)]);
    assert!(start.elapsed() < Duration::from_secs(5));
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
    let long = "a".repeat(1 << 20);
    refused(&long);
    refused(&"1 + ".repeat(1 << 20));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn strange_characters_are_refused_and_do_not_reach_the_terminal() {
    for text in ["a\0b", "\u{feff}a$", "a\u{202e}b +", "a\u{200b} $", "\x1b[31m", "p\u{430}ypal $", "`", "\u{1F600}"] {
        refused(text);
    }
}

#[test]
fn nothing_of_a_host_language_is_there() {
    for text in [
        "a.__class__.__mro__",
        "().__class__",
        "lambda: 0",
        "__import__('os')",
        "f'{a}'",
        "(x := 1)",
        "[i for i in a]",
        "{1: 2}",
        "yield 1",
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
        let code = refused(text);
        assert_ne!(code, Code::Internal, "{text}");
    }
}

#[test]
fn results_larger_than_memory_are_refused_before_they_are_made() {
    let a = vec![0u8; 1 << 20];
    let start = Instant::now();
    let error = evaluate("a[:, None, None] + a[:, None] + a", &vars! { a }).unwrap_err();
    assert!(matches!(error.code(), Code::TooLarge | Code::OutOfMemory), "{error}");
    let error = evaluate("f64(a[:, None, None, None] + a[:, None, None] + a[:, None] + a)", &vars! { a }).unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
    assert!(start.elapsed() < Duration::from_secs(5));
    // More than any machine maps, less than what overflows.
    assert_eq!(Array::zeros(DType::F64, &[1 << 59]).unwrap_err().code(), Code::OutOfMemory);
    let limits = Limits::untrusted();
    let strict = Engine::builder().limits(limits).build().unwrap();
    let error = strict.evaluate("a[:, None] + a", &vars! { a }).unwrap_err();
    assert_eq!(error.code(), Code::TooLarge, "{error}");
}

#[test]
fn limits_of_strangers_hold() {
    let engine = Engine::builder().limits(Limits::untrusted()).build().unwrap();
    let names: Vec<String> = (0..65).map(|i| format!("x{i}")).collect();
    let one = 1.0;
    let mut env = Env::new();
    for name in &names {
        env.insert(name.as_str(), &one);
    }
    assert_eq!(engine.evaluate(&names.join(" + "), &env).unwrap_err().code(), Code::GraphLimit);
    let many: Vec<String> = (0..12_000).map(|i| format!("(x0 + {i})")).collect();
    let code = engine.evaluate(&many.join("*"), &env).unwrap_err().code();
    assert!(matches!(code, Code::GraphLimit | Code::SourceLimit), "{code}");
    assert_eq!(engine.evaluate(&" ".repeat(70_000), &env).unwrap_err().code(), Code::SourceLimit);
}

#[test]
fn a_long_evaluation_ends_when_it_is_cancelled() {
    // Seconds of work, without memory.
    let a: Vec<f64> = (0..60_000).map(f64::from).collect();
    let text = "sum(exp(sin(a[:, None]) * cos(a)))";
    let engine = Engine::builder().threads(2).build().unwrap();
    let token = CancelToken::new();
    let start = Instant::now();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            token.cancel();
        });
        engine.evaluate_with(text, &vars! { a }, Some(&token))
    });
    assert_eq!(result.unwrap_err().code(), Code::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // A token that is cancelled already stops at once; the engine is as good as before.
    assert_eq!(engine.evaluate_with(text, &vars! { a }, Some(&token)).unwrap_err().code(), Code::Cancelled);
    assert_eq!(engine.evaluate("sum(a[:3])", &vars! { a }).unwrap().item::<f64>().unwrap(), 3.0);
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
