//! Random kernels as machine code, by the real compiler for two architectures: all compile, none needs more of a
//! multiprocessor than it should, and what is written as an access of sixteen bytes is one.

#[path = "../../cpu/tests/common/kernels.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod kernels;
#[path = "common/toolkit.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod toolkit;

use kernels::{Case, Rng, random_aligned_case};
use numfuse_cuda::emit::{Class, Program, Source};
use numfuse_cuda::nvrtc::Arch;
use std::collections::{BTreeMap, BTreeSet};
use toolkit::{Limits, toolkit};

const ARCHS: [Arch; 2] = [Arch::new(8, 0), Arch::new(9, 0)];
/// With so many registers, two blocks of 256 threads stay on a multiprocessor. The compiler itself chooses to park a few
/// values in memory, outside of loops, where that makes room for one more block.
const LIMITS: Limits = Limits { registers: 128, spills: 64, stack: 32, shared: 48 << 10 };

/// The texts of random cases, each once, by name.
fn sources() -> Vec<(String, Source)> {
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    for (columns, count) in [(false, 280), (true, 240)] {
        for seed in 0..count {
            let mut rng = Rng::of_seed(seed, columns);
            let bytes = rng.pick(&[1, 16]);
            let Case { kernel, launch, memory, .. } = random_aligned_case(&mut rng, columns, bytes);
            let addresses: Vec<u64> = memory.iter().map(|block| 256 + block.offset as u64).collect();
            let name = format!("{} seed {seed}", if columns { "columns" } else { "rows" });
            let class = Class::new(&kernel, &launch, &addresses).unwrap_or_else(|e| panic!("{name}: {e}"));
            let program = Program::new(&kernel, &class).unwrap_or_else(|e| panic!("{name}: {e}"));
            if seen.insert(program.source().text.clone()) {
                sources.push((name, program.source().clone()));
            }
        }
    }
    sources
}

/// True if a text reads or writes sixteen bytes of an operand at once: `access` is `const ` or nothing. What lies behind
/// the pointers `q` may be shared memory.
fn is_wide(source: &Source, access: &str) -> bool {
    let cast = format!("*({access}Vector<");
    source.text.split(&cast).skip(1).filter_map(|text| text.split_once(">*)(")).any(|(vector, pointer)| {
        let (dtype, lanes) = vector.split_once(", ").unwrap_or_default();
        let bits: usize = dtype.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0);
        !pointer.starts_with('q') && bits * lanes.parse().unwrap_or(0) == 128
    })
}

#[test]
fn random_kernels_fit_and_move_sixteen_bytes_at_once() {
    let Some(toolkit) = toolkit() else { return };
    let sources = sources();
    let sources: Vec<(String, &Source)> = sources.iter().map(|(name, source)| (name.clone(), source)).collect();
    assert!(sources.len() >= 500, "{} different texts", sources.len());
    for arch in ARCHS {
        let entries = toolkit.check(&sources, arch, LIMITS).unwrap_or_else(|errors| panic!("{errors}"));
        // Loads, those of 16 bytes, and stores of 16 bytes of each text.
        let mut counts = BTreeMap::<&str, [usize; 3]>::new();
        for entry in &entries {
            let counts = counts.entry(&entry.text).or_default();
            for (count, instruction) in counts.iter_mut().zip(["LDG", "LDG.E.128", "STG.E.128"]) {
                *count += entry.count(instruction);
            }
        }
        let (mut whole, mut split) = (0, Vec::new());
        for (name, source) in &sources {
            let [loads, wide_loads, wide_stores] = counts[name.as_str()];
            assert!(wide_stores > 0 || !is_wide(source, ""), "{name}, {arch}: no store of 16 bytes\n{}", source.text);
            // A load whose value nobody needs is not there.
            if is_wide(source, "const ") && loads > 0 {
                if wide_loads > 0 { whole += 1 } else { split.push(name) }
            }
        }
        // Where elements are used under conditions of their own, the compiler may load each where it is used.
        assert!(whole >= 10 && split.len() * 4 <= whole, "{arch}: {whole} texts load 16 bytes at once, not {split:?}");
        let spilled = entries.iter().filter(|entry| entry.usage.spills > 0).count();
        assert!(spilled * 50 <= entries.len(), "{spilled} of {} entries spill", entries.len());
        println!(
            "{arch}: {} entries, {spilled} that spill; {whole} texts load 16 bytes at once, not {split:?}",
            entries.len()
        );
    }
}
