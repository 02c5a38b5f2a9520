//! What a user does with texts, expressions and kernels, held against plain Rust loops.

use ndarray::{Array1, Array2, Axis as NdAxis, s};
use numfuse::{Array, Axis, Backend, Code, DType, Engine, Env, Expr, Index, Kernel, eval, evaluate, lazy, vars};
use std::cmp::Ordering;

/// Numbers that are no multiples of each other, exact in `f64`.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f64 / 65536.0 - 100.0
        })
        .collect()
}

#[test]
fn the_first_example_has_the_bits_of_a_loop() {
    let (a, b) = (numbers(1003, 1), numbers(1003, 2));
    let y = evaluate("2*a + 3*b**2", &vars! { a, b }).unwrap();
    let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 2.0 * a + 3.0 * (b * b)).collect();
    assert_eq!(y.as_slice::<f64>().unwrap(), want);
}

/// A bound that a loop does not change is looked at once, before it. That gives what a bound of each element's own gives, and
/// what the definition does: NaN if either is, `-0.0` below `0.0`.
#[test]
fn bounds_are_what_arrays_of_them_are() {
    let special = [f64::NAN, 0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -1e308];
    // The sign of a NaN is nobody's.
    let bits_of =
        |elements: &[f64]| -> Vec<u64> { elements.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }).collect() };
    let bits = |array: &Array| {
        let elements = evaluate("float64(array)", &vars! { array }).unwrap();
        bits_of(elements.as_slice::<f64>().unwrap())
    };
    let greater = |x: f64, y: f64| match x.total_cmp(&y) {
        _ if x.is_nan() || y.is_nan() => f64::NAN,
        Ordering::Less => y,
        _ => x,
    };
    let less = |x: f64, y: f64| -greater(-x, -y);
    for bound in special {
        let x: Vec<f64> = special.into_iter().chain(numbers(90, 5)).collect();
        let each = vec![bound; x.len()];
        for text in
            ["maximum(x, b)", "maximum(b, x)", "minimum(x, b)", "minimum(b, x)", "clip(x, b, 2)", "clip(x, -2, b)"]
        {
            let of_all = evaluate(text, &vars! { x, b: bound }).unwrap();
            let of_each = evaluate(text, &vars! { x, b: each }).unwrap();
            assert_eq!(bits(&of_all), bits(&of_each), "{text} with {bound}");
            let want = |x: &f64| match text {
                "maximum(x, b)" | "maximum(b, x)" => greater(*x, bound),
                "minimum(x, b)" | "minimum(b, x)" => less(*x, bound),
                "clip(x, b, 2)" => less(greater(*x, bound), 2.0),
                _ => less(greater(*x, -2.0), bound),
            };
            assert_eq!(bits(&of_all), bits_of(&x.iter().map(want).collect::<Vec<f64>>()), "{text} with {bound}");
            let [x, each] = [&x, &each].map(|v| v.iter().map(|x| *x as f32).collect::<Vec<f32>>());
            let of_all = evaluate(text, &vars! { x, b: bound as f32 }).unwrap();
            let of_each = evaluate(text, &vars! { x, b: each }).unwrap();
            assert_eq!(bits(&of_all), bits(&of_each), "{text} of float32 with {bound}");
        }
    }
}

#[test]
fn reductions_follow_ndarray() {
    let x = Array2::from_shape_vec((50, 21), numbers(1050, 3)).unwrap();
    let z = evaluate("sqrt(sum((x - mean(x, axis=0))**2, axis=-1))", &vars! { x }).unwrap();
    let centred = &x - &x.mean_axis(NdAxis(0)).unwrap();
    let want = centred.mapv(|v| v * v).sum_axis(NdAxis(1)).mapv(f64::sqrt);
    for (got, want) in z.as_slice::<f64>().unwrap().iter().zip(&want) {
        assert!((got - want).abs() <= 1e-12 * want.abs(), "{got} {want}");
    }
}

#[test]
fn views_of_any_strides_are_read_in_place() {
    let base = Array2::from_shape_vec((40, 30), numbers(1200, 4)).unwrap();
    let row = Array1::from(numbers(30, 5));
    let one_row = base.row(3);
    let views = [
        base.view(),
        base.slice(s![..;-1, ..]),
        base.slice(s![..;2, ..]),
        base.slice(s![.., ..;-1]),
        base.slice(s![..30, ..30]).reversed_axes(),
        base.broadcast((40, 30)).unwrap(),
        one_row.broadcast((7, 30)).unwrap(),
    ];
    for x in views {
        let y = evaluate("3*x - row", &vars! { x, row }).unwrap();
        let want = x.mapv(|v| 3.0 * v) - &row;
        assert_eq!(y.as_ndarray::<f64>().unwrap(), want.into_dyn(), "strides {:?}", x.strides());
        let sums = evaluate("sum(x, axis=0), max(x, axis=1)", &vars! { x });
        assert_eq!(sums.unwrap_err().code(), Code::Arguments);
        let most = evaluate("max(x, axis=1)", &vars! { x }).unwrap();
        let want: Vec<f64> = x.outer_iter().map(|r| r.fold(f64::NEG_INFINITY, |a, b| a.max(*b))).collect();
        assert_eq!(most.as_slice::<f64>().unwrap(), want);
    }
}

#[test]
fn a_kernel_takes_any_sizes_and_compiles_once() {
    let engine = Engine::builder().build().unwrap();
    let x = Expr::input("x", DType::F32, [None, None]).unwrap();
    let y = Expr::input("y", DType::F32, [None]).unwrap();
    let kernel = engine.compile((2.0 * &x * &y + 3.0 * &y + 1.0).sum(Axis::Last)).unwrap();
    for (n, m) in [(3, 4), (1000, 33), (2, 70_000), (5, 2)] {
        let x = Array2::from_shape_fn((n, m), |(i, j)| ((i * 7 + j) % 13) as f32);
        let y = Array1::from_shape_fn(m, |j| (j % 5) as f32);
        let out = kernel.run(&vars! { x, y }).unwrap();
        let want: Vec<f32> =
            x.outer_iter().map(|row| row.iter().zip(&y).map(|(x, y)| 2.0 * x * y + 3.0 * y + 1.0).sum()).collect();
        assert_eq!(out.as_slice::<f32>().unwrap(), want, "{n} {m}");
    }
    assert_eq!(engine.stats().kernels_compiled, 1);
    assert_eq!(engine.stats().plans_made, 1);
}

#[test]
fn a_size_of_one_that_broadcasts_makes_a_second_plan() {
    let engine = Engine::builder().build().unwrap();
    let (a, b) = (Array2::from_elem((3, 4), 2.0), Array2::from_elem((3, 1), 10.0));
    let sum = |a: &Array2<f64>, b: &Array2<f64>| {
        engine.evaluate("a + b", &vars! { a, b }).unwrap().to_ndarray::<f64>().unwrap()
    };
    assert_eq!(sum(&a, &a), (&a + &a).into_dyn());
    assert_eq!(sum(&a, &b), (&a + &b).into_dyn());
    assert_eq!(sum(&b, &a), (&b + &a).into_dyn());
    assert_eq!(sum(&a, &a), (&a + &a).into_dyn());
    let plans = engine.stats().plans_made;
    sum(&Array2::zeros((9, 2)), &Array2::zeros((9, 1)));
    assert_eq!(engine.stats().plans_made, plans);
}

#[test]
fn new_constants_compile_nothing() {
    let engine = Engine::builder().build().unwrap();
    let a = numbers(100, 6);
    for k in 100..150 {
        let y = engine.evaluate(&format!("a * {k}.5 + {k}"), &vars! { a }).unwrap();
        assert_eq!(y.as_slice::<f64>().unwrap()[7], a[7] * (f64::from(k) + 0.5) + f64::from(k));
    }
    assert_eq!(engine.stats().kernels_compiled, 1);
    let b = [1.0];
    for k in 100..150 {
        engine.eval(lazy(&b) * k + 0.5).unwrap();
    }
    assert_eq!(engine.stats().kernels_compiled, 2, "a row of one element and a loop at most");
}

#[test]
fn lazy_arrays_compute_what_is_asked_for() {
    let a = Array2::from_shape_vec((6, 5), numbers(30, 7)).unwrap();
    let b = Array2::from_shape_vec((6, 5), numbers(30, 8)).unwrap();
    let (view_a, view_b) = (a.view(), b.slice(s![.., ..]));
    let (a, b) = (lazy(&view_a), lazy(&view_b));
    let d = (&a - a.mean(0)) / a.std(0);
    let (n, m) = eval((d.pow(2).sum(Axis::All), (d * b).max(1))).unwrap();
    // The squares of standardised values add up to their number.
    assert!((n.item::<f64>().unwrap() - 30.0).abs() < 1e-12);
    assert_eq!(m.shape(), [6]);
}

#[test]
fn all_forms_of_operators_mean_the_same() {
    let a = [1.0, -2.0, 3.5];
    let x = lazy(&a);
    let value = |e: Expr<'_>| eval(e).unwrap().to_vec::<f64>().unwrap();
    assert_eq!(value(&x + 1), value(1 + &x));
    assert_eq!(value(x.clone() - &x), [0.0; 3]);
    assert_eq!(value(2.0 / &x), [2.0, -1.0, 2.0 / 3.5]);
    assert_eq!(value(-&x), [-1.0, 2.0, -3.5]);
    assert_eq!(value(&x % 2), [1.0, 0.0, 1.5]);
    assert_eq!(value(x.less(0).select(0, &x)), [1.0, 0.0, 3.5]);
    assert_eq!(value(x.clip(0, 2)), [1.0, 0.0, 2.0]);
    assert_eq!(value((1..=3).map(|k| k * &x).sum::<Expr<'_>>()), [6.0, -12.0, 21.0]);
    let i = [5i32, -6, 7];
    let i = lazy(&i);
    let value = |e: Expr<'_>| eval(e).unwrap().to_vec::<i32>().unwrap();
    assert_eq!(value(&i & 3), [1, 2, 3]);
    assert_eq!(value((&i | 8) ^ 1), [12, -5, 14]);
    assert_eq!(value(&i << 2 >> 1), [10, -12, 14]);
    assert_eq!(value(!&i), [-6, 5, -8]);
    assert_eq!(value(i.index(1..)), [-6, 7]);
    assert_eq!(value(i.index(Index::Slice { start: None, stop: None, step: -1 })), [7, -6, 5]);
    assert_eq!(value(i.floor_divide(2).cast(DType::I32)), [2, -3, 3]);
    assert_eq!(value(Expr::call("maximum", [i.clone(), 6.into()]).unwrap()), [6, 6, 7]);
}

#[test]
fn plain_numbers_are_weak_and_arrays_are_not() {
    let a = [1f32, 2.0];
    let dtype = |text: &str, env: &Env<'_>| evaluate(text, env).unwrap().dtype();
    let strong = Array::scalar(2.0f64).unwrap();
    assert_eq!(dtype("a * 2.5", &vars! { a }), DType::F32);
    assert_eq!(dtype("a * k", &vars! { a, k: 2.5 }), DType::F32);
    assert_eq!(dtype("a * k", &vars! { a, k: strong }), DType::F64);
    assert_eq!(dtype("a * k", &vars! { a: [1i8], k: 2 }), DType::I8);
    assert_eq!(dtype("a * k", &vars! { a: [1i8], k: 2.0 }), DType::F64);
}

#[test]
fn plain_numbers_have_to_fit_the_integers_they_meet() {
    let a = [1u8, 200];
    let y = evaluate("a + n", &vars! { a: &a, n: 3 }).unwrap();
    assert_eq!(y.as_slice::<u8>().unwrap(), [4, 203]);
    for n in [300, -1] {
        let error = evaluate("a + n", &vars! { a: &a, n: n }).unwrap_err();
        assert_eq!(error.code(), Code::LiteralRange, "{error}");
    }
    let wide = evaluate("i64(a) + n", &vars! { a: &a, n: 300 }).unwrap();
    assert_eq!(wide.as_slice::<i64>().unwrap(), [301, 500]);
}

#[test]
fn several_results_share_their_work() {
    let engine = Engine::builder().build().unwrap();
    let x = Expr::input("x", DType::F64, [None]).unwrap();
    let kernel: Kernel<(Array, Array, Array)> = engine.compile((x.sum(0), &x * &x, x.sum(0))).unwrap();
    let (sum, squares, again) = kernel.run(&vars! { x: [1.0, 2.0, 3.0] }).unwrap();
    assert_eq!(sum.item::<f64>().unwrap(), 6.0);
    assert_eq!(again, sum);
    assert_eq!(squares.as_slice::<f64>().unwrap(), [1.0, 4.0, 9.0]);
    let many: Vec<Expr<'_>> = (0..20).map(|k| &x + k).collect();
    let many = engine.compile(many).unwrap().run(&vars! { x: [1.0] }).unwrap();
    assert_eq!(many.iter().map(|a| a.item::<f64>().unwrap()).sum::<f64>(), 210.0);
    let three = engine.evaluate_with("s = sum(x); s, x / s, s", &vars! { x: [1.0, 3.0] }, None).unwrap();
    assert_eq!(three[1].as_slice::<f64>().unwrap(), [0.25, 0.75]);
}

#[test]
fn the_interpreter_returns_the_same_bits() {
    let interpreted = Engine::builder().backend(Backend::Interp).build().unwrap();
    let compiled = Engine::builder().backend(Backend::Jit).build().unwrap();
    let x = Array2::from_shape_vec((13, 17), numbers(221, 9)).unwrap();
    let (k, i) = ([3i32, -7, 0], Array1::from_shape_fn(17, |i| i as i64 - 8));
    for text in [
        "exp(x / 100) + sin(x) * log(abs(x) + 1)",
        "sum(x, axis=0)",
        "(x - mean(x, axis=1, keepdims=True)) / std(x, axis=1, keepdims=True)",
        "x[::-1, 1:] - x[:, :-1]",
        "k // 2 * k[:, None] % 5",
        "x > 0 and i < 3",
        "where(i >= 0, x, -x).T",
        "var(x), min(x), any(x > 99), prod(i[9:])",
        "i ** 2 + i",
    ] {
        let env = vars! { x, k, i };
        let results = |engine: &Engine| engine.evaluate_with(text, &env, None).unwrap();
        assert_eq!(results(&interpreted).as_slice(), results(&compiled).as_slice(), "{text}");
    }
    assert_eq!(interpreted.stats().kernels_compiled, 0);
    assert!(compiled.stats().kernels_compiled > 0);
}

#[test]
fn scalars_and_empty_arrays_work() {
    let empty: [f64; 0] = [];
    let e = Array::zeros(DType::F32, &[3, 0, 2]).unwrap();
    let item = |text: &str, env: &Env<'_>| evaluate(text, env).unwrap().item::<f64>().unwrap();
    assert_eq!(item("1 + 2", &vars! {}), 3.0);
    assert_eq!(item("x * 2", &vars! { x: 21 }), 42.0);
    assert_eq!(item("sum(empty)", &vars! { empty }), 0.0);
    assert_eq!(item("prod(empty)", &vars! { empty }), 1.0);
    assert_eq!(evaluate("empty + 1", &vars! { empty }).unwrap().shape(), [0]);
    assert_eq!(evaluate("sum(e, axis=1)", &vars! { e }).unwrap().to_vec::<f32>().unwrap(), [0.0; 6]);
    assert_eq!(evaluate("sum(e, axis=2)", &vars! { e }).unwrap().shape(), [3, 0]);
    assert_eq!(evaluate("sum(e, axis=0)", &vars! { e }).unwrap().shape(), [0, 2]);
    assert_eq!(evaluate("e + e[:, :, :1]", &vars! { e }).unwrap().shape(), [3, 0, 2]);
    assert_eq!(evaluate("max(empty)", &vars! { empty }).unwrap_err().code(), Code::EmptyReduction);
    assert!(evaluate("mean(empty)", &vars! { empty }).unwrap().item::<f64>().unwrap().is_nan());
}

#[test]
fn mistakes_have_codes_and_places() {
    let (a, b, f) = ([1.0, 2.0], [1.0, 2.0, 3.0], [1f32]);
    let fails = |text: &str, env: &Env<'_>, code: Code| {
        let error = evaluate(text, env).unwrap_err();
        assert_eq!(error.code(), code, "{text}: {error}");
        error
    };
    let error = fails("a + b", &vars! { a, b }, Code::Broadcast);
    assert!(error.report(false).contains("a + b"), "{}", error.report(false));
    fails("a + c", &vars! { a }, Code::UnknownName);
    fails("sqtr(a)", &vars! { a }, Code::UnknownFunction);
    fails("a +", &vars! { a }, Code::Syntax);
    fails("a[2]", &vars! { a }, Code::Index);
    fails("sum(a, axis=1)", &vars! { a }, Code::Axis);
    fails("a & 1", &vars! { a }, Code::DTypeMismatch);
    // Sizes that come after the plan was made are checked as well, with a place in the text.
    let engine = Engine::builder().build().unwrap();
    engine.evaluate("a + b", &vars! { a, b: a }).unwrap();
    let error = engine.evaluate("a + b", &vars! { a, b }).unwrap_err();
    assert_eq!(error.code(), Code::Broadcast);
    assert!(error.source_text().is_some() && error.diagnostics()[0].span.is_some());

    let x = Expr::input("x", DType::F64, [None, Some(3)]).unwrap();
    let kernel = engine.compile(&x + 1).unwrap();
    let fails = |env: &Env<'_>, code: Code| assert_eq!(kernel.run(env).unwrap_err().code(), code);
    fails(&vars! { y: a }, Code::MissingInput);
    fails(&vars! { x: f }, Code::InputMismatch);
    fails(&vars! { x: a }, Code::InputMismatch);
    fails(&vars! { x: Array2::<f64>::zeros((3, 2)) }, Code::InputMismatch);
    fails(&vars! { x: Array2::<f32>::zeros((3, 3)) }, Code::InputMismatch);
    assert_eq!(engine.eval(&x + lazy(&a)).unwrap_err().code(), Code::MissingInput);
    assert_eq!(engine.compile(lazy(&a)).unwrap_err().code(), Code::Arguments);
}

#[test]
fn negative_integer_powers_hand_out_nothing() {
    let i = [2i64, 3, 4];
    assert_eq!(evaluate("i ** k", &vars! { i, k: [2i64, 1, 0] }).unwrap().as_slice::<i64>().unwrap(), [4, 3, 1]);
    let error = evaluate("i ** k", &vars! { i, k: [2i64, -1, 0] }).unwrap_err();
    assert_eq!(error.code(), Code::NegativeIntPower);
    assert!(error.source_text().is_some());
    assert_eq!(evaluate("i ** -1", &vars! { i }).unwrap_err().code(), Code::NegativeIntPower);
    // No bigints, no hang: 64-bit integers wrap.
    assert!(evaluate("9**9**9", &vars! {}).is_ok());
    assert!(evaluate("2**(2**40)", &vars! {}).is_ok());
}
