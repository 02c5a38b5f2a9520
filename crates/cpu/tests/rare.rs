//! Work that few elements need is jumped over: the results are the interpreter's, whichever elements need it.

mod common;

use common::{Block, Case, Compilers, EACH_CODE, put};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::rare::rare;
use numfuse_core::kernel::{Builder, Level, Nest, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::literal::Literal;
use numfuse_core::math;

/// Two functions of one angle, which may be huge, and a function of `f32` under a condition.
fn body(b: &mut Builder, x: Value) -> Value {
    let dtype = b.dtype(x);
    let (s, t) = (math::sin(b, &[x]), math::tan(b, &[x]));
    let sum = b.add(s, t);
    let small = b.float(dtype, 1e-3);
    let rare = b.lt(x, small);
    let e = math::erfc(b, &[x]);
    let narrow = b.cast(e, DType::F32);
    let narrow = math::log1p(b, &[narrow]);
    let wide = b.cast(narrow, dtype);
    b.select(rare, wide, sum)
}

/// The same work for several values, which shares code.
fn repeated(b: &mut Builder, x: Value) -> Value {
    let mut sum = x;
    for k in 1..5 {
        let factor = b.float(b.dtype(x), f64::from(k) * 0.75);
        let angle = b.mul(x, factor);
        let y = if k % 2 == 0 { math::cos(b, &[angle]) } else { math::sin(b, &[angle]) };
        sum = b.add(sum, y);
    }
    sum
}

/// A body that is short enough for several copies.
fn short(b: &mut Builder, x: Value) -> Value {
    math::sin(b, &[x])
}

/// A second selection by the same condition, of a value that others use as well.
fn selected_along(b: &mut Builder, x: Value) -> Value {
    let dtype = b.dtype(x);
    let (small, three) = (b.float(dtype, 1e-3), b.float(dtype, 3.0));
    let rare = b.lt(x, small);
    let e = math::erfc(b, &[x]);
    let e = b.select(rare, e, x);
    let triple = b.mul(x, three);
    let y = b.select(rare, triple, x);
    let sum = b.add(e, y);
    b.mul(sum, triple)
}

#[test]
fn any_elements_may_need_it() {
    check(body, 3);
}

#[test]
fn code_for_it_is_shared() {
    check(repeated, 4);
    check(short, 1);
}

#[test]
fn a_selection_may_go_along() {
    check(selected_along, 1);
}

/// Holds the code of a body with so much rare work against the interpreter, whichever elements need it.
fn check(body: fn(&mut Builder, Value) -> Value, parts: usize) {
    let compilers = Compilers::new();
    for dtype in [DType::F32, DType::F64] {
        let mut b = Builder::kernel(Nest::Rows);
        let (input, output) = (b.operand(dtype, Role::In, Level::Inner), b.operand(dtype, Role::Out, Level::Inner));
        b.stage(StageKind::Loop);
        let x = b.load(input);
        let y = body(&mut b, x);
        b.store(output, y);
        let kernel = b.finish();
        assert_eq!(rare(&kernel, 1).len(), parts, "{kernel}");
        let n = 19;
        let layout = || Layout { inner: [dtype.size() as isize].into_iter().collect(), ..Layout::default() };
        // None, all, each one alone of either kind.
        for which in 0..2 * n + 2 {
            let mut bytes = vec![0; n * dtype.size()];
            for i in 0..n {
                let x = match which {
                    w if w == 2 * n => 0.5 + i as f64,
                    w if w == 2 * n + 1 => 1e20 * (i as f64 + 1.5),
                    w if w % n == i => [1e22, -0.25][w / n],
                    _ => 1.0 + i as f64 / 8.0,
                };
                put(&mut bytes, i * dtype.size(), dtype, Literal::from_f64(dtype, x).bits());
            }
            let blank = vec![0; n * dtype.size()];
            let memory = vec![Block { bytes, offset: 0 }, Block { bytes: blank, offset: 0 }];
            let launch = Launch {
                inner: [n].into_iter().collect(),
                layouts: vec![layout(), layout()].into_iter().collect(),
                ..Launch::default()
            };
            let mut case = Case { kernel: kernel.clone(), launch, memory, params: Vec::new() };
            case.prepare();
            case.check(&compilers, &EACH_CODE, &format!("{dtype}, {which}"));
        }
    }
}
