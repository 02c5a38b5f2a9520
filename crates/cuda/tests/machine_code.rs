//! Random kernels as machine code, by the real compiler for two architectures: all compile, none needs more of a
//! multiprocessor than it should, and what is written as an access of sixteen bytes is one.

#[path = "../../cpu/tests/common/kernels.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod kernels;
#[path = "common/toolkit.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod toolkit;

use kernels::{Case, Rng, random_aligned_case};
use numfuse_core::kernel::{Inst, Kernel, Prim};
use numfuse_cuda::emit::{Class, Program, Source};
use numfuse_cuda::nvrtc::Arch;
use std::collections::{BTreeMap, BTreeSet};
use toolkit::{Limits, toolkit};

const ARCHS: [Arch; 2] = [Arch::new(8, 0), Arch::new(9, 0)];
/// Kernels that fold several variances at once need most registers; two blocks of 192 threads stay on a multiprocessor with so
/// many. The compiler itself chooses to park a few values in memory, outside of loops, where that makes room for one more.
const LIMITS: Limits = Limits { registers: 168, spills: 64, stack: 32, shared: 48 << 10 };

/// A text, and the operands that something which is stored depends on: of others the compiler loads nothing.
struct Text {
    name: String,
    source: Source,
    needed: BTreeSet<u32>,
}

/// The texts of random cases, each once.
fn sources() -> Vec<Text> {
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
                sources.push(Text { name, source: program.source().clone(), needed: needed(&kernel) });
            }
        }
    }
    sources
}

/// The operands whose elements decide about something that is stored.
fn needed(kernel: &Kernel) -> BTreeSet<u32> {
    let mut live = vec![false; kernel.insts.len()];
    let (mut slots, mut operands) = (BTreeSet::new(), BTreeSet::new());
    // What a value depends on comes before it, by way of scratch and of reductions, too.
    for at in (0..kernel.insts.len()).rev() {
        match kernel.insts[at].inst {
            Inst::Store(..) => live[at] = true,
            Inst::ScratchStore(slot, _) => live[at] = slots.contains(&slot),
            _ => {}
        }
        if !live[at] {
            continue;
        }
        match kernel.insts[at].inst {
            Inst::Load(n) => drop(operands.insert(n)),
            Inst::ScratchLoad(slot) => drop(slots.insert(slot)),
            Inst::Reduced(r) => live[kernel.reductions[r as usize].input.index()] = true,
            _ => {}
        }
        if !is_known(kernel, &kernel.insts[at].inst) {
            kernel.insts[at].inst.operands().iter().for_each(|v| live[v.index()] = true);
        }
    }
    operands
}

/// True for what does not depend on its operand, as compilers know: `x ^ x`, and `x - x` or a comparison of integers.
fn is_known(kernel: &Kernel, inst: &Inst) -> bool {
    match inst {
        Inst::Prim(Prim::Xor, args) => args[0] == args[1],
        Inst::Prim(Prim::Sub | Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le, args) => {
            args[0] == args[1] && !kernel.dtype(args[0]).is_float()
        }
        _ => false,
    }
}

/// The operands of which a text reads or writes sixteen bytes at once, where `access` is `const ` or nothing. What lies
/// behind the pointers `q` may be shared memory.
fn wide(source: &Source, access: &str) -> BTreeSet<u32> {
    let cast = format!("*({access}Vector<");
    let pointers = source.text.split(&cast).skip(1).filter_map(|text| text.split_once(">*)("));
    let wide = pointers.filter(|(vector, pointer)| {
        let (dtype, lanes) = vector.split_once(", ").unwrap_or_default();
        let bits: usize = dtype.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0);
        !pointer.starts_with('q') && bits * lanes.parse().unwrap_or(0) == 128
    });
    let number = |pointer: &str| pointer[1..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    wide.filter_map(|(_, pointer)| number(pointer)).collect()
}

#[test]
fn random_kernels_fit_and_move_sixteen_bytes_at_once() {
    let Some(toolkit) = toolkit() else { return };
    let texts = sources();
    let sources: Vec<(String, &Source)> = texts.iter().map(|text| (text.name.clone(), &text.source)).collect();
    assert!(sources.len() >= 500, "{} different texts", sources.len());
    for arch in ARCHS {
        let entries = toolkit.check(&sources, arch, LIMITS).unwrap_or_else(|errors| panic!("{errors}"));
        // Loads and stores of 16 bytes of each text.
        let mut counts = BTreeMap::<&str, [usize; 2]>::new();
        for entry in &entries {
            let counts = counts.entry(&entry.text).or_default();
            for (count, instruction) in counts.iter_mut().zip(["LDG.E.128", "STG.E.128"]) {
                *count += entry.count(instruction);
            }
        }
        let mut whole = 0;
        for Text { name, source, needed } in &texts {
            let [loads, stores] = counts[name.as_str()];
            assert!(stores > 0 || wide(source, "").is_empty(), "{name}, {arch}: no store of 16 bytes\n{}", source.text);
            let is_needed = |operand: &&u32| needed.contains(operand);
            let read = wide(source, "const ").iter().filter(is_needed).count();
            assert!(loads >= read, "{name}, {arch}: {read} operands, {loads} loads of 16 bytes\n{}", source.text);
            whole += usize::from(read > 0);
        }
        assert!(whole >= 10, "{arch}: only {whole} texts load 16 bytes at once");
        let spilled = entries.iter().filter(|entry| entry.usage.spills > 0).count();
        assert!(spilled * 50 <= entries.len(), "{spilled} of {} entries spill", entries.len());
        println!("{arch}: {} entries, {spilled} that spill; {whole} texts load 16 bytes at once", entries.len());
    }
}
