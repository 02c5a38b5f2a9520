//! Kernels that run together give the bits that each of them gives alone, and those of the interpreter: for sizes around
//! those of leaves and chunks, on one to three threads, for operands that are packed, strided or broadcast.

use numfuse::explain::Stage;
use numfuse::{Array, Backend, CancelToken, Code, DType, Engine, Env};

/// Numbers whose sums depend on the order.
fn numbers(shape: &[usize], seed: usize) -> Array {
    let count = shape.iter().product::<usize>();
    let numbers = (0..count).map(|i| ((i * 7919 + seed) % 10_007) as f64 / 97.0 - 50.0).collect::<Vec<f64>>();
    Array::from_vec(numbers, shape).unwrap()
}

fn bits(array: &Array) -> Vec<u64> {
    array.to_vec::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
}

fn engine(threads: usize) -> Engine {
    Engine::builder().threads(threads).build().unwrap()
}

/// Holds all texts as results of one evaluation against each alone, and against the interpreter.
fn check(texts: &[&str], env: &Env<'_>, what: &str) {
    let interpreter = Engine::builder().backend(Backend::Interp).build().unwrap();
    let all = texts.join(", ");
    let want: Vec<Vec<u64>> = texts.iter().map(|text| bits(&interpreter.evaluate(text, env).unwrap())).collect();
    for threads in 1..=3 {
        let engine = engine(threads);
        let together = engine.evaluate_with(&all, env, None).unwrap();
        assert_eq!(together.len(), texts.len());
        for ((text, want), got) in texts.iter().zip(&want).zip(&together) {
            assert!(*want == bits(got), "{what}, {threads} threads: `{text}` differs from the interpreter");
            let alone = engine.evaluate(text, env).unwrap();
            assert!(*want == bits(&alone), "{what}, {threads} threads: `{text}` alone differs");
        }
    }
}

const TWO: [&str; 2] = ["sum(a - m)", "max((a - m) * b, axis=1)"];

#[test]
fn two_kernels_give_the_bits_of_each_alone() {
    // From 4 MiB on; the last of them have too few rows to be cut at rows.
    for (rows, columns) in [
        (513, 1024),
        (514, 1023),
        (512, 1025),
        (260, 2048),
        (4100, 129),
        (70_001, 8),
        (524_289, 1),
        (5, 120_000),
        (1, 600_000),
    ] {
        let (a, b) = (numbers(&[rows, columns], 1), numbers(&[rows, columns], 2));
        let m = numbers(&[columns], 3);
        let env = Env::new().with("a", &a).with("b", &b).with("m", &m);
        check(&TWO, &env, &format!("{rows} x {columns}"));
    }
}

#[test]
fn three_kernels_give_the_bits_of_each_alone() {
    for shape in [[130, 65, 64], [33, 17, 1025], [600, 1, 1000]] {
        let a = numbers(&shape, 1);
        let m = numbers(&[shape[2]], 2);
        let env = Env::new().with("a", &a).with("m", &m);
        let texts = ["sum(a * a)", "sum(a - m, axis=(1, 2))", "mean(abs(a), axis=2)"];
        check(&texts, &env, &format!("{shape:?}"));
    }
}

#[test]
fn views_give_the_bits_of_each_alone() {
    let a = numbers(&[1030, 1100], 1);
    let env = Env::new().with("a", &a);
    check(&["sum(a.T)", "sum(a.T, axis=1)"], &env, "transposed");
    check(&["sum(a[::-1, 3:1030])", "max(a[::-1, 3:1030], axis=1)"], &env, "reversed");
}

#[test]
fn outputs_may_lie_on_inputs() {
    let (rows, columns) = (520, 1024);
    let a = numbers(&[rows, columns], 1);
    let env = Env::new().with("a", &a);
    let want = engine(1).evaluate_with("sum(a*a), max(a, axis=1)", &env, None).unwrap();
    let mut memory = a.to_vec::<f64>().unwrap();
    let first = memory.as_mut_ptr();
    // SAFETY: the views are of this memory, which nobody else uses.
    #[allow(unsafe_code, reason = "two views of one memory")]
    let (input, mut total, mut most) = unsafe {
        (
            numfuse::ArrayRef::from_raw(first.cast(), DType::F64, &[rows, columns], &[8 * columns as isize, 8])
                .unwrap(),
            numfuse::ArrayMut::from_raw(first.add(700).cast(), DType::F64, &[], &[]).unwrap(),
            numfuse::ArrayMut::from_raw(first.cast(), DType::F64, &[rows], &[8]).unwrap(),
        )
    };
    let env = Env::of([("a", input)]);
    engine(2).evaluate_into("sum(a*a), max(a, axis=1)", &env, (&mut total, &mut most)).unwrap();
    assert_eq!(memory[700].to_bits(), bits(&want[0])[0]);
    assert!(memory[..rows].iter().map(|x| x.to_bits()).eq(bits(&want[1])));
}

#[test]
fn they_can_be_cancelled() {
    let a = numbers(&[600, 1000], 1);
    let env = Env::new().with("a", &a);
    let token = CancelToken::new();
    token.cancel();
    let error = engine(2).evaluate_with("sum(a*a), max(a, axis=1)", &env, Some(&token)).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
}

#[test]
fn plans_tell_what_runs_together() {
    let plan = |text: &str| {
        let inputs = ["a:f64[n, m]", "b:f64[n, m]"];
        Engine::default().explain_types(text, &inputs).unwrap().stage(Stage::Plan).to_owned()
    };
    let text = plan("sum(a*a), max(a*b, axis=1)");
    assert!(text.contains("together with k0"), "{text}");
    // Other arrays, other loops, and a kernel that waits for another one.
    for text in ["sum(a*a), max(b, axis=1)", "sum(a, axis=0), sum(a, axis=1)", "a - max(a)", "sum(a*a), sum(a + 1)"] {
        let plan = plan(text);
        assert!(!plan.contains("together"), "{plan}");
    }
}
