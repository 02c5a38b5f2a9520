//! Runs a kernel on the interpreter and on the CPU back end, and compares every byte of memory.
#![allow(dead_code, reason = "each test file uses a part of it")]

mod kernels;

pub use kernels::*;
use numfuse_core::kernel::Kernel;
use numfuse_core::launch::Launch;
use numfuse_cpu::{Compiler, Options, RunOptions, Specialized, Tier, specialize_from};
use std::sync::atomic::AtomicBool;

/// Which code is made for a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The wide tier with AVX-512; Cranelift's if the host has none.
    Avx512,
    /// The wide tier with AVX2.
    Avx2,
    /// Cranelift's, in vectors.
    Cranelift,
    /// Cranelift's, element by element.
    Scalar,
    /// Cranelift's, in vectors, for a host with little.
    Baseline,
}

impl Code {
    const ALL: [Code; 5] = [Code::Avx512, Code::Avx2, Code::Cranelift, Code::Scalar, Code::Baseline];

    fn options(self) -> Options {
        let tier = match self {
            Code::Avx512 => Tier::Avx512,
            Code::Avx2 => Tier::Avx2,
            _ => Tier::Cranelift,
        };
        Options { vectorize: self != Code::Scalar, host_features: self != Code::Baseline, verifier: true, tier }
    }
}

/// How the back end is to run a case.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub code: Code,
    pub threads: usize,
    /// Pretend that elements are expensive and results large, so that small work is shared out, and written past the caches.
    pub shared: bool,
}

/// Every code on one thread.
pub const EACH_CODE: [Mode; 5] = [
    Mode { code: Code::Avx512, threads: 1, shared: false },
    Mode { code: Code::Avx2, threads: 1, shared: false },
    Mode { code: Code::Cranelift, threads: 1, shared: false },
    Mode { code: Code::Scalar, threads: 1, shared: false },
    Mode { code: Code::Baseline, threads: 1, shared: false },
];

/// The compilers of all modes.
pub struct Compilers(Vec<(Code, Compiler)>);

impl Compilers {
    pub fn new() -> Compilers {
        let compiler = |code: Code| Compiler::new(code.options()).expect("this host has a code generator");
        Compilers(Code::ALL.into_iter().map(|code| (code, compiler(code))).collect())
    }

    fn get(&self, mode: Mode) -> &Compiler {
        &self.0.iter().find(|(code, _)| *code == mode.code).expect("a known mode").1
    }
}

impl Case {
    /// What the back end leaves in memory.
    pub fn execute(&self, compilers: &Compilers, mode: Mode) -> Vec<Block> {
        let operands: Vec<(usize, isize)> = (0..self.memory.len()).map(|n| (n, 0)).collect();
        self.execute_as(&self.kernel, &self.launch, &operands, compilers, mode)
    }

    /// The same by another kernel and launch, whose operands are so many bytes after these ones.
    fn execute_as(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        operands: &[(usize, isize)],
        compilers: &Compilers,
        mode: Mode,
    ) -> Vec<Block> {
        let mut after = self.memory.clone();
        let mut compiled = compilers.get(mode).compile(kernel).unwrap_or_else(|e| panic!("{e}"));
        if mode.shared {
            compiled.assume_cost(3000.0);
            compiled.assume_large_results();
        }
        let starts: Vec<*mut u8> =
            after.iter_mut().map(|block| block.bytes.as_mut_ptr().wrapping_add(block.offset)).collect();
        let pointers: Vec<*mut u8> = operands.iter().map(|(n, by)| starts[*n].wrapping_offset(*by)).collect();
        let params: Vec<u64> = self.params.iter().map(|p| p.bits()).collect();
        let cancel = AtomicBool::new(false);
        let options = RunOptions { threads: mode.threads, cancel: &cancel };
        // SAFETY: each block covers what the launch reaches in it; blocks are separate allocations.
        unsafe { compiled.run(launch, &pointers, &params, &options) }.unwrap_or_else(|e| panic!("{e}"));
        after
    }

    /// Runs and compares, also as what is compiled for the launch if that is another kernel; panics with the kernel and the
    /// launch if they differ.
    pub fn check(&self, compilers: &Compilers, modes: &[Mode], what: &str) {
        let want = self.interpret();
        let specialized = specialize_from(1, &self.kernel, &self.launch);
        for mode in modes {
            let same = |got: &[Block], kernel: &Kernel, launch: &Launch| {
                if let Err(difference) = self.compare(&want, got) {
                    panic!("{what}: {difference}\n{mode:?}\n{kernel}\n{launch:?}\n{:?}", self.params);
                }
            };
            same(&self.execute(compilers, *mode), &self.kernel, &self.launch);
            if let Some(Specialized { kernel, launch, operands, .. }) = &specialized {
                same(&self.execute_as(kernel, launch, operands, compilers, *mode), kernel, launch);
            }
        }
    }
}
