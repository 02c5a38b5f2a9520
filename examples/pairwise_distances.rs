//! Distances between all pairs of points, without the array of all differences: 3,000 by 3,000 points in 64 dimensions
//! make 4.6 GB of differences and 72 MB of distances. The peak memory of the process shows which of them was built.
//!
//! ```text
//! cargo run --release --example pairwise_distances
//! ```

use ndarray::Array2;
use numfuse::{evaluate, vars};
use std::time::Instant;

/// The most memory that this process has had resident, in bytes; none where the system does not tell.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}

/// Runs the example.
pub fn main() -> Result<(), numfuse::Error> {
    let (n, dimensions) = (if cfg!(debug_assertions) { 1500 } else { 3000 }, 64);
    let point = |i: usize, j: usize| ((i * 31 + j * 17) % 101) as f64 / 101.0;
    let x = Array2::from_shape_fn((n, dimensions), |(i, j)| point(i, j));
    let y = Array2::from_shape_fn((n, dimensions), |(i, j)| point(i + n, j * 3));

    let before = peak();
    let start = Instant::now();
    let d = evaluate("sqrt(sum((x[:, None, :] - y[None, :, :])**2, axis=-1))", &vars! { x, y })?;
    println!("{d}");
    println!("{n} x {n} distances in {:.0?}", start.elapsed());

    let (differences, distances) = (n * n * dimensions * 8, n * n * 8);
    println!("the differences would take {} MB, the distances take {} MB", differences >> 20, distances >> 20);
    if let (Some(before), Some(after)) = (before, peak()) {
        println!("peak memory grew by {} MB", (after - before) >> 20);
        assert!(after - before < distances + (48 << 20), "the differences were built, at least in part");
    }
    let (i, j) = (7, n - 3);
    let want = x.row(i).iter().zip(y.row(j)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let got = d.as_ndarray::<f64>()?[[i, j]];
    assert!((got - want).abs() < 1e-12, "{got} {want}");
    Ok(())
}
