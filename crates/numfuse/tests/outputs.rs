//! Results written into arrays of the caller, which may lie anywhere, also on top of inputs. Safe Rust cannot make such
//! overlaps, but front ends for other languages can; here raw parts do.

use numfuse::{Array, ArrayMut, ArrayRef, Backend, Code, DType, Engine, Env, vars};

/// A view into memory by element offsets: shape, strides in elements, first element.
#[derive(Clone, Debug)]
struct View {
    first: usize,
    shape: Vec<usize>,
    strides: Vec<isize>,
}

impl View {
    fn new(first: usize, shape: &[usize], strides: &[isize]) -> View {
        View { first, shape: shape.into(), strides: strides.into() }
    }

    fn bytes(&self) -> Vec<isize> {
        self.strides.iter().map(|s| s * 8).collect()
    }

    fn input<'a>(&self, memory: *mut f64) -> ArrayRef<'a> {
        // SAFETY: the tests keep views inside of the memory, which outlives them.
        unsafe { ArrayRef::from_raw(memory.add(self.first).cast(), DType::F64, &self.shape, &self.bytes()).unwrap() }
    }

    fn output<'a>(&self, memory: *mut f64) -> ArrayMut<'a> {
        // SAFETY: as above.
        unsafe { ArrayMut::from_raw(memory.add(self.first).cast(), DType::F64, &self.shape, &self.bytes()).unwrap() }
    }
}

/// Evaluates `text` of `x` (one view of the memory) into another view of it, and holds the result against the one with
/// memory of its own, and everything that is not output against what it was.
fn check(engine: &Engine, text: &str, len: usize, x: &View, out: &View) {
    let original: Vec<f64> = (0..len).map(|i| (i * i % 97) as f64 + 0.25).collect();
    let mut copy = original.clone();
    let want = engine.evaluate(text, &Env::new().with("x", &x.input(copy.as_mut_ptr()))).unwrap();

    let mut memory = original.clone();
    let pointer = memory.as_mut_ptr();
    let mut output = out.output(pointer);
    engine.evaluate_into(text, &Env::new().with("x", &x.input(pointer)), &mut output).unwrap();
    assert_eq!(Array::copy_of(&output).unwrap(), want, "{text} from {x:?} into {out:?}");
    // Nothing else was written.
    let mut rest = original;
    let mut touched = out.output(rest.as_mut_ptr());
    engine.evaluate_into("w * 1", &Env::new().with("w", &want), &mut touched).unwrap();
    assert_eq!(memory, rest, "{text} from {x:?} into {out:?}");
}

#[test]
fn outputs_may_overlap_inputs_in_any_way() {
    let n = 5000;
    let whole = View::new(0, &[n], &[1]);
    let shifted = View::new(1, &[n], &[1]);
    let reversed = View::new(n - 1, &[n], &[-1]);
    let every_other = View::new(0, &[n / 2], &[2]);
    let square = View::new(0, &[70, 70], &[70, 1]);
    let transposed = View::new(0, &[70, 70], &[1, 70]);
    let upside_down = View::new(69 * 70, &[70, 70], &[-70, 1]);
    for backend in [Backend::Jit, Backend::Interp] {
        let engine = Engine::builder().backend(backend).build().unwrap();
        for text in
            ["x + 1", "3*x - x**2", "x[::-1] + x", "x - mean(x)", "exp(-x) / sum(exp(-x))", "cast = x * 2; cast - x"]
        {
            let views = [&whole, &shifted, &reversed];
            for (x, out) in views.iter().flat_map(|x| views.iter().map(move |out| (x, out))) {
                check(&engine, text, n + 1, x, out);
            }
            check(&engine, text, n + 1, &every_other, &View::new(0, &[n / 2], &[1]));
            check(&engine, text, n + 1, &View::new(0, &[n / 2], &[1]), &every_other);
            check(&engine, text, n + 1, &every_other, &View::new(1, &[n / 2], &[2]));
        }
        for text in ["x + 1", "x - mean(x, axis=0)", "x - x[:, :1]", "x.T * 2", "x / sum(x, axis=1, keepdims=True)"] {
            let views = [&square, &transposed, &upside_down];
            for (x, out) in views.iter().flat_map(|x| views.iter().map(move |out| (x, out))) {
                check(&engine, text, 4900, x, out);
            }
        }
        // Rows of three elements, which have no loop.
        let narrow = View::new(0, &[500, 3], &[3, 1]);
        let turned = View::new(0, &[500, 3], &[1, 500]);
        let backwards = View::new(1499, &[500, 3], &[-3, -1]);
        for text in ["x / sum(x, axis=1, keepdims=True)", "(x - mean(x, axis=1, keepdims=True)) * x[:, :1]"] {
            let views = [&narrow, &turned, &backwards];
            for (x, out) in views.iter().flat_map(|x| views.iter().map(move |out| (x, out))) {
                check(&engine, text, 1500, x, out);
            }
        }
        for first in 0..4 {
            check(&engine, "sum(x**2, axis=1)", 1501, &narrow, &View::new(first, &[500], &[3]));
            check(&engine, "max(x, axis=1)", 1501, &narrow, &View::new(first, &[500], &[1]));
        }
        // A scalar result on top of the array that it is made from.
        for text in ["sum(x)", "max(x) - x[0]", "x[17]"] {
            check(&engine, text, n + 1, &whole, &View::new(17, &[], &[]));
        }
    }
}

#[test]
fn several_outputs_may_overlap_inputs() {
    let n = 1000;
    let mut memory: Vec<f64> = (0..2 * n).map(|i| i as f64).collect();
    let pointer = memory.as_mut_ptr();
    let (low, high) = (View::new(0, &[n], &[1]), View::new(n, &[n], &[1]));
    let (a, b) = (low.input(pointer), high.input(pointer));
    // Each result goes to where the other operand is.
    let engine = Engine::default();
    engine.evaluate_into("a - 2*b, a + b", &vars! { a, b }, vec![high.output(pointer), low.output(pointer)]).unwrap();
    let want: Vec<f64> = (0..2 * n)
        .map(|i| {
            let (a, b) = ((i % n) as f64, (i % n + n) as f64);
            if i < n { a + b } else { a - 2.0 * b }
        })
        .collect();
    assert_eq!(memory, want);
}

#[test]
fn strided_outputs_are_written_through_their_strides() {
    let base = ndarray::Array2::from_shape_fn((6, 8), |(i, j)| (10 * i + j) as f64);
    let mut out = ndarray::Array2::from_elem((20, 8), -1.0);
    let engine = Engine::default();
    engine.evaluate_into("x * 2", &vars! { x: base }, &mut out.slice_mut(ndarray::s![1..19;3, ..;-1])).unwrap();
    for ((i, j), value) in out.indexed_iter() {
        let inside = (1..19).contains(&i) && (i - 1) % 3 == 0;
        assert_eq!(*value, if inside { 2.0 * base[((i - 1) / 3, 7 - j)] } else { -1.0 });
    }
    let mut sums = [0.0; 12];
    // SAFETY: six elements of the list, every other one.
    let mut every_other = unsafe { ArrayMut::from_raw(sums.as_mut_ptr().cast(), DType::F64, &[6], &[16]).unwrap() };
    engine.evaluate_into("sum(x, axis=1)", &vars! { x: base }, &mut every_other).unwrap();
    assert_eq!(sums[2], base.row(1).sum());
    assert_eq!(sums[3], 0.0);
}

#[test]
fn wrong_outputs_are_refused_untouched() {
    let engine = Engine::default();
    let x = [1.0, 2.0, 3.0];
    let refused = |text: &str, out: &mut dyn FnMut(&str) -> numfuse::Result<()>| {
        let error = out(text).unwrap_err();
        assert_eq!(error.code(), Code::Output, "{error}");
    };
    let mut short = [7.0; 2];
    refused("x + 1", &mut |text| engine.evaluate_into(text, &vars! { x }, &mut short));
    assert_eq!(short, [7.0; 2]);
    let mut narrow = [7f32; 3];
    refused("x + 1", &mut |text| engine.evaluate_into(text, &vars! { x }, &mut narrow));
    let mut matrix = ndarray::Array2::from_elem((1, 3), 7.0);
    refused("x + 1", &mut |text| engine.evaluate_into(text, &vars! { x }, &mut matrix));
    let mut memory = [7.0; 8];
    let pointer = memory.as_mut_ptr();
    for strides in [[0], [4], [-4]] {
        // SAFETY: the elements lie inside of the memory.
        let mut out = unsafe { ArrayMut::from_raw(pointer.add(4).cast(), DType::F64, &[3], &strides).unwrap() };
        refused("x + 1", &mut |text| engine.evaluate_into(text, &vars! { x }, &mut out));
    }
    let (low, high) = (View::new(0, &[3], &[1]), View::new(2, &[3], &[1]));
    refused("x + 1, x + 2", &mut |text| {
        engine.evaluate_into(text, &vars! { x }, vec![low.output(pointer), high.output(pointer)])
    });
    refused("x + 1, x + 2", &mut |text| engine.evaluate_into(text, &vars! { x }, &mut [0.0; 3]));
    assert_eq!(memory, [7.0; 8]);
}

#[test]
fn kernels_reuse_outputs() {
    let engine = Engine::default();
    let kernel = engine.prepare("2*a + b", &vars! { a: [1.0], b: [1.0] }).unwrap();
    let mut out = Array::zeros(DType::F64, &[4]).unwrap();
    for k in 0..10 {
        let (a, b) = ([f64::from(k); 4], [1.0, 2.0, 3.0, 4.0]);
        kernel.run_into(&vars! { a, b }, &mut out).unwrap();
        assert_eq!(out.as_slice::<f64>().unwrap()[2], 2.0 * f64::from(k) + 3.0);
    }
    let mut two = ([0.0; 4], vec![0.0; 4]);
    engine.evaluate_into("a, a + 1", &vars! { a: [5.0; 4] }, (&mut two.0, &mut two.1)).unwrap();
    assert_eq!(two, ([5.0; 4], vec![6.0; 4]));
    engine.evaluate_into("a * 3, a * 3", &vars! { a: [5.0; 4] }, (&mut two.0, &mut two.1)).unwrap();
    assert_eq!(two, ([15.0; 4], vec![15.0; 4]));
}
