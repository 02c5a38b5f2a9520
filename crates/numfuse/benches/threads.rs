//! How many times quicker all threads are than one where arithmetic is what takes the time, and how many times threads are that
//! share nothing, each with a part of the arrays and a kernel of one thread: what the machine has to give. The three take turns.
//!
//! ```text
//! cargo bench -p numfuse --bench threads
//! ```
//!
//! Rows are the least times, and those that a quarter and half of the runs took at most.

use numfuse::{Engine, Kernel, vars};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SIZES: [usize; 2] = [100_000, 1_000_000];
const TEXTS: [&str; 5] = [
    "sin(a)",
    "exp(-a*a)*sin(b) + 1",
    "log(1 + exp(a))",
    "tanh(a)*log(b)*exp(a)*sin(b)",
    "((((((a*b + 1)*a + b)*a + 1)*b + 2)*a + 3)*b + 4)*a",
];

/// A turn is so many runs, and each has so many turns.
const RUNS: usize = 10;
const TURNS: usize = 30;

fn main() {
    // Cargo says `--bench`; as a test this only has to compile.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("| `f64`, one thread to {threads} | times quicker | threads that share nothing |\n|---|---|---|");
    for size in SIZES {
        for text in TEXTS {
            row(size, text, threads);
        }
    }
}

fn row(size: usize, text: &str, threads: usize) {
    let a: Vec<f64> = (0..size).map(|i| 0.1 + (i % 1000) as f64 * 0.004).collect();
    let b: Vec<f64> = (0..size).map(|i| 0.2 + (i % 777) as f64 * 0.003).collect();
    let mut out = vec![0.0; size];
    let kernel = |threads| {
        let engine = Engine::builder().threads(threads).build().unwrap();
        engine.prepare(text, &vars! { a, b }).unwrap()
    };
    let (on_one, on_all) = (kernel(1), kernel(threads));
    let [mut one, mut all, mut apart] = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (kernel, times) in [(&on_one, &mut one), (&on_all, &mut all)] {
            times.extend((0..RUNS).map(|_| time(|| kernel.run_into(&vars! { a, b }, &mut out).unwrap())));
        }
        apart.extend(share_nothing(&on_one, threads, &a, &b, &mut out));
    }
    for times in [&mut one, &mut all, &mut apart] {
        times.sort_unstable();
    }
    let quicker = |times: &[Duration]| {
        let ratio = |part: usize| one[one.len() / 4 * part].as_secs_f64() / times[times.len() / 4 * part].as_secs_f64();
        format!("{:.2}, {:.2}, {:.2}", ratio(0), ratio(1), ratio(2))
    };
    println!("| `{text}`, {size} elements, {} us | {} | {} |", one[0].as_micros(), quicker(&all), quicker(&apart));
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// A turn of threads that are there and wait, each for its part.
fn share_nothing(kernel: &Kernel, threads: usize, a: &[f64], b: &[f64], out: &mut [f64]) -> Vec<Duration> {
    let part = out.len().div_ceil(threads);
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (begun, ended) = (&begun, &ended);
    std::thread::scope(|scope| {
        let mut parts = a.chunks(part).zip(b.chunks(part)).zip(out.chunks_mut(part));
        let Some(((a, b), out)) = parts.next() else { return Vec::new() };
        let mut helpers = 0;
        for ((a, b), out) in parts {
            helpers += 1;
            scope.spawn(move || {
                for run in 1..=RUNS {
                    ended.fetch_add(1, Ordering::Release);
                    wait(begun, run);
                    kernel.run_into(&vars! { a, b }, &mut *out).unwrap();
                }
                ended.fetch_add(1, Ordering::Release);
            });
        }
        wait(ended, helpers);
        let run = |run: usize| {
            time(|| {
                begun.store(run, Ordering::Release);
                kernel.run_into(&vars! { a, b }, &mut *out).unwrap();
                wait(ended, (run + 1) * helpers);
            })
        };
        (1..=RUNS).map(run).collect()
    })
}

/// Until so many have come.
fn wait(counter: &AtomicUsize, many: usize) {
    while counter.load(Ordering::Acquire) < many {
        std::hint::spin_loop();
    }
}
