//! Random graphs through the whole back end: machine code gives the interpreter's bits, of every tier, scalar and vector,
//! on one thread and on three, whatever the strides of the inputs.

use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use numfuse_core::literal::Literal;
use numfuse_cpu::{Compiler, Options, RunOptions, Tier};
use std::sync::atomic::AtomicBool;

#[path = "../../../tests/support/random_call.rs"]
mod random_call;
#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;
#[path = "../../../tests/support/run_plan.rs"]
mod run_plan;

use random_call::{Announce, RandomCall, planned, random_call, seeds};
use run_plan::{run_plan, same};

#[test]
fn machine_code_gives_the_interpreters_bits() {
    let compiler = |tier, vectorize| {
        let options = Options { verifier: true, vectorize, tier, ..Options::default() };
        Compiler::new(options).expect("this host has a back end")
    };
    let [avx512, avx2] = [Tier::Avx512, Tier::Avx2].map(|tier| tier.is_on_host().then(|| compiler(tier, true)));
    println!("AVX-512: {}, AVX2: {}", avx512.is_some(), avx2.is_some());
    let (vector, scalar) = (compiler(Tier::Cranelift, true), compiler(Tier::Cranelift, false));
    for seed in seeds(200) {
        let Some(RandomCall { graph, symbols, packed, strided }) = random_call(seed, 12) else { continue };
        let _announce = Announce(seed, &graph);
        let want = run_plan(&planned(&graph, false, false), &symbols, &packed, interp::run);
        let plan = planned(&graph, true, true);
        let always = [(&vector, 3, &strided), (&scalar, 1, &strided), (&vector, 1, &packed)];
        let wide = avx512.iter().chain(&avx2).flat_map(|wide| [(wide, 3, &strided), (wide, 1, &packed)]);
        for (compiler, threads, inputs) in wide.chain(always) {
            let got = run_plan(&plan, &symbols, inputs, |kernel, launch, memory, params| {
                run(compiler, threads, kernel, launch, memory, params);
            });
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                let kernels = || plan.steps.iter().map(|s| format!("{}\n{}\n", s.reason, s.work)).collect::<String>();
                assert!(
                    same(want, got),
                    "{threads} threads, sizes {symbols:?}, output {i}\nwant {want:?}\ngot {got:?}\n{}",
                    kernels()
                );
            }
        }
    }
}

fn run(
    compiler: &Compiler,
    threads: usize,
    kernel: &Kernel,
    launch: &Launch,
    memory: &mut [Memory<'_>],
    params: &[Literal],
) {
    let compiled = compiler.compile(kernel).unwrap_or_else(|e| panic!("{e}"));
    let pointers: Vec<*mut u8> = memory
        .iter_mut()
        .map(|m| match &mut m.bytes {
            Bytes::In(bytes) => bytes.as_ptr().wrapping_add(m.offset).cast_mut(),
            Bytes::Out(bytes) => bytes.as_mut_ptr().wrapping_add(m.offset),
        })
        .collect();
    let params: Vec<u64> = params.iter().map(|p| p.bits()).collect();
    let cancel = AtomicBool::new(false);
    let options = RunOptions { threads, cancel: &cancel };
    // SAFETY: the memory covers the launch, as the interpreter's bounds checks have shown for the same plan.
    #[allow(unsafe_code, reason = "the back end's entry point is unsafe")]
    unsafe { compiled.run(launch, &pointers, &params, &options) }.unwrap_or_else(|e| panic!("{e}"));
}
