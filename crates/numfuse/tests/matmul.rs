//! Products of matrices through the facade: within larger expressions, on top of their operands, cancelled, explained.
//! Values are small whole numbers, whose products and sums are exact in any order, so that all back ends have to agree.

use numfuse::{Array, ArrayMut, Axis, Backend, CancelToken, Code, DType, Engine, Expr, Limits, eval, lazy, vars};

fn engine(backend: Backend, threads: usize) -> Engine {
    Engine::builder().backend(backend).threads(threads).build().unwrap()
}

/// Whole numbers from -4 to 4.
fn whole(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 7919 + i / 7 + seed) % 9) as f64 - 4.0).collect()
}

fn matrix(rows: usize, columns: usize, seed: usize) -> ndarray::Array2<f64> {
    ndarray::Array2::from_shape_vec((rows, columns), whole(rows * columns, seed)).unwrap()
}

fn elements(array: &Array) -> Vec<f64> {
    array.view().elements().map(|x| x.as_f64()).collect()
}

#[test]
fn expressions_with_products_agree_on_all_back_ends() {
    let texts = [
        "a @ b",
        "(a + 1) @ (b * 2) - 3",
        "(a * 2).T @ a",
        "sum(a @ b, axis=0), max(a @ b, axis=-1)",
        "x = a @ b; x - x[0], x.T @ a, x[::2, ::-1]",
        "a[::2] @ b[::-1, 1:], b.T[1:] @ a.T",
        "where(a @ b > 0, a @ b, 0)",
        "((a @ b).T @ (a @ b)) @ v",
        "i32(a) @ i32(b) + i32(a @ b)",
        "f32(a) @ b, f32(a) @ f32(b)",
        "(a @ b)[None] @ (v[:, None] + 1)",
        "3.0[None, None] @ v[None]",
        "b.T @ a.T @ (a @ b)",
    ];
    for (m, k, n) in [(3, 4, 5), (1, 1, 1), (17, 33, 2), (130, 20, 140), (0, 3, 2), (4, 0, 3)] {
        let (a, b, v) = (matrix(m, k, 1), matrix(k, n, 2), whole(n, 3));
        for text in texts {
            let env = vars! { a, b, v };
            let want = engine(Backend::Interp, 1).evaluate_with(text, &env, None);
            for threads in [1, 3] {
                let found = engine(Backend::Jit, threads).evaluate_with(text, &env, None);
                match (&found, &want) {
                    (Ok(found), Ok(want)) => {
                        for (found, want) in found.iter().zip(want) {
                            let types = [(found.dtype(), found.shape()), (want.dtype(), want.shape())];
                            assert_eq!(types[0], types[1], "{text}");
                            assert_eq!(elements(found), elements(want), "{text}, {m} {k} {n}, {threads} threads");
                        }
                    }
                    (Err(found), Err(want)) => assert_eq!(found.code(), want.code(), "{text}"),
                    _ => panic!("{text}, {m} {k} {n}: {found:?}, {want:?}"),
                }
            }
        }
    }
}

#[test]
fn a_result_may_lie_on_its_operands() {
    let n = 40;
    let (a, b) = (matrix(n, n, 1), matrix(n, n, 2));
    let want = elements(&numfuse::evaluate("a @ b", &vars! { a, b }).unwrap());
    for own in [Backend::Jit, Backend::Interp] {
        let engine = engine(own, 2);
        let mut memory = a.as_slice().unwrap().to_vec();
        let place: *mut f64 = memory.as_mut_ptr();
        let kernel = engine.prepare("a @ b", &vars! { a, b }).unwrap();
        // SAFETY: the memory holds as many elements, and lives until the end; nothing else uses it meanwhile.
        let (input, mut output) = unsafe {
            let (shape, strides) = ([n, n], [8 * n as isize, 8]);
            (
                numfuse::ArrayRef::from_raw(place.cast(), DType::F64, &shape, &strides).unwrap(),
                ArrayMut::from_raw(place.cast(), DType::F64, &shape, &strides).unwrap(),
            )
        };
        kernel.run_into(&vars! { a: input, b: b }, &mut output).unwrap();
        assert_eq!(memory, want);
    }
}

#[test]
fn operators_of_rust_have_it() {
    let (a, b, v) = (matrix(3, 4, 1), matrix(4, 2, 2), [1.0, -2.0]);
    let (x, y, z) = (lazy(&a), lazy(&b), lazy(&v));
    let (product, vector, sum) = eval((x.matmul(&y), x.matmul(&y).dot(&z), y.dot(2).sum(Axis::All))).unwrap();
    assert_eq!(elements(&product), a.dot(&b).iter().copied().collect::<Vec<_>>());
    assert_eq!(elements(&vector), a.dot(&b).dot(&ndarray::arr1(&v)).to_vec());
    assert_eq!(sum.item::<f64>().unwrap(), 2.0 * b.sum());
    assert_eq!(eval(x.matmul(1)).unwrap_err().code(), Code::MatrixProduct);
    assert_eq!(eval(x.matmul(&x)).unwrap_err().code(), Code::MatrixProduct);
}

#[test]
fn sizes_are_checked_at_each_call() {
    let x = Expr::input("x", DType::F64, [None, None]).unwrap();
    let y = Expr::input("y", DType::F64, [None, None]).unwrap();
    let kernel = Engine::default().compile(x.matmul(&y)).unwrap();
    for (m, k, n) in [(2, 3, 4), (5, 1, 2), (1, 6, 1)] {
        let shape = [m, n];
        assert_eq!(kernel.run(&vars! { x: matrix(m, k, 0), y: matrix(k, n, 0) }).unwrap().shape(), shape);
    }
    for k in [1, 4] {
        let error = kernel.run(&vars! { x: matrix(2, 3, 0), y: matrix(k, 2, 0) }).unwrap_err();
        assert_eq!(error.code(), Code::MatrixProduct, "{error}");
        assert!(error.to_string().contains(&format!("shapes [2, 3] and [{k}, 2] have no matrix product")), "{error}");
    }
}

#[test]
fn products_can_be_cancelled_and_bounded() {
    let a = matrix(300, 300, 1);
    let token = CancelToken::new();
    token.cancel();
    let error = Engine::default().evaluate_with("a @ a", &vars! { a }, Some(&token)).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    let engine = Engine::builder().limits(Limits::untrusted()).build().unwrap();
    let column = matrix(6000, 1, 1);
    let error = engine.evaluate("x @ x.T", &vars! { x: column }).unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
}

#[test]
fn every_stage_says_what_it_is() {
    let all = Engine::default().explain_types("tanh(x @ w + b)", &["x:f32[n, k]", "w:f32[k, 8]", "b:f32[8]"]).unwrap();
    let text = all.to_string();
    for part in [
        "matmul n0, n1: f32[n, 8]",
        "k0: x, w -> b1",
        "the matrix product of [n, k] and [k, 8]",
        "2 operations for each of [n, k, 8]",
        "m2[i, j] = sum over k of m0[i, k] * m1[k, j]",
        "k0: no kernel, but a product of matrices of f32",
        "k1: b1, b -> out\n    output 0: one loop over [n, 8]; may be fused into k0, before its result is stored",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let cuda = all.stage(numfuse::explain::Stage::Cuda);
    for part in [
        "// k0: a product of matrices of f32, with k1 fused into it, where there is no cuBLAS",
        "// k1: where cuBLAS computes k0",
    ] {
        assert!(cuda.contains(part), "{part}\n{cuda}");
    }
}
