//! What an evaluation costs besides its arithmetic, and how near a large one comes to a loop written by hand.
//!
//! ```text
//! cargo bench -p numfuse
//! ```

use divan::{Bencher, black_box};
use numfuse::{Array, ArrayRef, DType, Engine, Kernel, vars};
use rayon::prelude::*;

fn main() {
    divan::main();
}

/// Texts that were never seen before, of ten operations with two elementary functions, and of a hundred with ten. Arrays have
/// ten elements: what has one is the same for all elements of a loop, which makes another kernel.
mod fresh {
    use super::*;

    fn text(operations: usize) -> String {
        if operations == 10 {
            return "exp(-(a - b)**2 / 2) * sin(a) + sqrt(abs(b)) * 3 - 1".to_owned();
        }
        let term = |i: usize| {
            let function = ["exp", "sin", "log", "cos", "tanh"][i % 5];
            format!("{function}(a*{}.5 + b) * (c - {i}) + (a*b - c)*(b + {i}.25)", i + 1)
        };
        (0..10).map(term).collect::<Vec<_>>().join(" + ")
    }

    fn engine() -> Engine {
        Engine::builder().threads(1).build().unwrap()
    }

    /// Parse, type, simplify, fuse, lower.
    #[divan::bench(args = [10, 100])]
    fn text_to_plan(bencher: Bencher<'_, '_>, operations: usize) {
        let (engine, text) = (engine(), text(operations));
        let (a, b, c) = ([1.0; 10], [2.0; 10], [3.0; 10]);
        bencher
            .with_inputs(|| engine.clear())
            .bench_local_values(|()| engine.prepare(&text, &vars! { a, b, c }).unwrap());
    }

    /// The same, and machine code, and the sizes of a call: all but the run.
    #[divan::bench(args = [10, 100])]
    fn text_to_callable(bencher: Bencher<'_, '_>, operations: usize) {
        let (engine, text) = (engine(), text(operations));
        let (a, b, c) = ([1.0; 10], [2.0; 10], [3.0; 10]);
        let inputs = [&a, &b, &c].map(|x| Some(ArrayRef::from_slice(x)));
        bencher.with_inputs(|| engine.clear()).bench_local_values(|()| {
            let function = engine.function(&text).unwrap();
            let call = function.bind(&inputs).unwrap();
            black_box(call.estimate())
        });
    }

    /// The same, and a run on ten elements.
    #[divan::bench(args = [10, 100])]
    fn text_to_result(bencher: Bencher<'_, '_>, operations: usize) {
        let (engine, text) = (engine(), text(operations));
        let (a, b, c) = ([1.0; 10], [2.0; 10], [3.0; 10]);
        bencher
            .with_inputs(|| engine.clear())
            .bench_local_values(|()| engine.evaluate(&text, &vars! { a, b, c }).unwrap());
    }
}

mod ten_elements {
    use super::*;

    const TEXT: &str = "2*a + 3*b**2";

    fn inputs() -> (Vec<f64>, Vec<f64>) {
        ((0..10).map(f64::from).collect(), (0..10).map(|i| f64::from(i) * 0.5).collect())
    }

    /// A text that was seen before.
    #[divan::bench]
    fn cached_text(bencher: Bencher<'_, '_>) {
        let (a, b) = inputs();
        bencher.bench_local(|| numfuse::evaluate(black_box(TEXT), &vars! { a, b }).unwrap());
    }

    fn kernel() -> Kernel {
        let (a, b) = inputs();
        Engine::default().prepare(TEXT, &vars! { a, b }).unwrap()
    }

    /// A kernel that is held.
    #[divan::bench]
    fn held_kernel(bencher: Bencher<'_, '_>) {
        let ((a, b), kernel) = (inputs(), kernel());
        bencher.bench_local(|| kernel.run(&vars! { a, b }).unwrap());
    }

    /// A kernel that is held, into an array that is there.
    #[divan::bench]
    fn held_kernel_into(bencher: Bencher<'_, '_>) {
        let ((a, b), kernel) = (inputs(), kernel());
        let mut out = vec![0.0; 10];
        bencher.bench_local(|| kernel.run_into(&vars! { a, b }, &mut out).unwrap());
    }

    /// The same in Rust.
    #[divan::bench]
    fn loop_by_hand(bencher: Bencher<'_, '_>) {
        let (a, b) = inputs();
        bencher.bench_local(|| {
            let (a, b) = (black_box(&a), black_box(&b));
            a.iter().zip(b).map(|(a, b)| 2.0 * a + 3.0 * (b * b)).collect::<Vec<f64>>()
        });
    }
}

mod ten_million_elements {
    use super::*;

    const N: usize = 10_000_000;

    fn inputs() -> (Vec<f64>, Vec<f64>) {
        ((0..N).map(|i| i as f64).collect(), (0..N).map(|i| (i % 1000) as f64).collect())
    }

    fn kernel(engine: &Engine) -> Kernel {
        engine.prepare("2*a + 3*b**2", &vars! { a: [1.0], b: [1.0] }).unwrap()
    }

    /// Into an array that is there.
    #[divan::bench(args = [1, 0], sample_count = 30)]
    fn kernel_into(bencher: Bencher<'_, '_>, threads: usize) {
        let engine = Engine::builder().threads(threads).build().unwrap();
        let ((a, b), kernel) = (inputs(), kernel(&engine));
        let mut out = Array::zeros(DType::F64, &[N]).unwrap();
        bencher.bench_local(|| kernel.run_into(&vars! { a, b }, &mut out).unwrap());
    }

    /// Into a new array, whose memory is reused from the last one.
    #[divan::bench(sample_count = 30)]
    fn kernel_fresh(bencher: Bencher<'_, '_>) {
        let engine = Engine::default();
        let ((a, b), kernel) = (inputs(), kernel(&engine));
        bencher.bench_local(|| kernel.run(&vars! { a, b }).unwrap());
    }

    /// Into new arrays that are all kept, so that each needs new memory: huge pages.
    #[divan::bench(sample_count = 10, sample_size = 1)]
    fn kernel_fresh_kept(bencher: Bencher<'_, '_>) {
        let engine = Engine::default();
        let ((a, b), kernel) = (inputs(), kernel(&engine));
        let mut kept = Vec::new();
        bencher.bench_local(|| kept.push(kernel.run(&vars! { a, b }).unwrap()));
    }

    /// The same in Rust, on one thread.
    #[divan::bench(sample_count = 30)]
    fn loop_by_hand(bencher: Bencher<'_, '_>) {
        let (a, b) = inputs();
        let mut out = vec![0.0; N];
        bencher.bench_local(|| line(&a, &b, &mut out));
    }

    /// The same in Rust, on all threads, in chunks.
    #[divan::bench(sample_count = 30)]
    fn loop_by_hand_on_all_threads(bencher: Bencher<'_, '_>) {
        let (a, b) = inputs();
        let mut out = vec![0.0; N];
        const CHUNK: usize = 1 << 16;
        bencher.bench_local(|| {
            out.par_chunks_mut(CHUNK)
                .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
                .for_each(|(out, (a, b))| line(a, b, out));
        });
    }

    fn line(a: &[f64], b: &[f64], out: &mut [f64]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = 2.0 * a + 3.0 * (b * b);
        }
    }
}

/// Two results of the rows of one array of 64 MB, one of everything and one of each row.
mod eight_million_elements {
    use super::*;

    const TEXTS: [&str; 2] = ["sum(a)", "max(a, axis=1)"];

    fn input() -> Array {
        Array::from_vec((0..8_000_000).map(f64::from).collect::<Vec<f64>>(), &[8000, 1000]).unwrap()
    }

    /// In one evaluation: memory is read once.
    #[divan::bench(args = [1, 0], sample_count = 30)]
    fn two_results_together(bencher: Bencher<'_, '_>, threads: usize) {
        let engine = Engine::builder().threads(threads).build().unwrap();
        let (a, text) = (input(), TEXTS.join(", "));
        bencher.bench_local(|| engine.evaluate_with(&text, &vars! { a: &a }, None).unwrap());
    }

    /// In two evaluations.
    #[divan::bench(args = [1, 0], sample_count = 30)]
    fn two_results_one_by_one(bencher: Bencher<'_, '_>, threads: usize) {
        let engine = Engine::builder().threads(threads).build().unwrap();
        let a = input();
        bencher.bench_local(|| TEXTS.map(|text| engine.evaluate(text, &vars! { a: &a }).unwrap()));
    }
}
