//! Random kernels on random launches: compiled code leaves the same bytes in memory as the interpreter, in vector and
//! scalar mode, on one thread and on three. A failure prints its seed, the kernel and the launch.

mod common;

use common::{Code, Compilers, Mode, Rng, random_case};

/// The first [`OFTEN`] for every seed, the others now and then.
const MODES: [Mode; 8] = [
    Mode { code: Code::Avx512, threads: 1, shared: false },
    Mode { code: Code::Avx2, threads: 1, shared: false },
    Mode { code: Code::Avx512, threads: 3, shared: true },
    Mode { code: Code::Cranelift, threads: 1, shared: false },
    Mode { code: Code::Cranelift, threads: 3, shared: true },
    Mode { code: Code::Scalar, threads: 1, shared: false },
    Mode { code: Code::Scalar, threads: 3, shared: true },
    Mode { code: Code::Baseline, threads: 1, shared: true },
];
const OFTEN: usize = 5;

/// Runs the cases of `count` seeds, or of `SEEDS=first..end` from the environment.
fn run(columns: bool, count: u64) {
    let range = std::env::var("SEEDS").ok().and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    let compilers = Compilers::new();
    for seed in range.unwrap_or(0..count) {
        let case = random_case(&mut Rng::of_seed(seed, columns), columns);
        let modes = &MODES[..if seed % 4 == 0 { MODES.len() } else { OFTEN }];
        case.check(&compilers, modes, &format!("seed {seed}"));
    }
}

#[test]
fn random_row_kernels() {
    run(false, 400);
}

#[test]
fn random_column_kernels() {
    run(true, 250);
}
