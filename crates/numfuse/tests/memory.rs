//! Memory over very many kernels, in a process of its own.

use numfuse::{Engine, vars};

/// A text whose kernel is unlike that of any other number.
fn distinct(n: u64) -> String {
    let mut text = String::from("x");
    for bit in 0..20 {
        text = format!("({text} {} y)", if n >> bit & 1 == 0 { '+' } else { '*' });
    }
    text
}

/// Resident kilobytes and memory mappings of this process.
fn memory() -> (u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    let resident = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    (resident, std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().count())
}

/// Compiles `count` distinct kernels; memory and mappings stay what they were after the first few.
fn compile_many(count: u64) {
    let engine = Engine::builder().threads(1).cache_bytes(1 << 20).build().unwrap();
    let (x, y) = ([1.0; 4], [1.0; 4]);
    let compile = |from: u64, to: u64| {
        for n in from..to {
            engine.evaluate(&distinct(n), &vars! { x, y }).unwrap();
        }
    };
    let warm = 2000.min(count / 2);
    compile(0, warm);
    let (resident, maps) = memory();
    compile(warm, count);
    let (resident_after, maps_after) = memory();
    assert_eq!(engine.stats().kernels_compiled, count);
    let grown = resident_after.saturating_sub(resident);
    assert!(grown < 8 << 10, "{grown} KiB more after {count} kernels");
    assert!(maps_after < maps + 100, "{maps} mappings became {maps_after}");
}

#[test]
fn memory_stays_flat_over_many_kernels() {
    // The full run is opt-in, `NUMFUSE_KERNELS=1000000`: 20 operators make a million distinct kernels.
    let count = std::env::var("NUMFUSE_KERNELS").ok().and_then(|n| n.parse().ok());
    compile_many(count.unwrap_or(100_000));
}
