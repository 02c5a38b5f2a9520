//! Runs a kernel on the interpreter and on the CPU back end, and compares every byte of memory.
#![allow(dead_code, reason = "each test file uses a part of it")]

use numfuse_core::dtype::DType;
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::{Kernel, Role, verify};
use numfuse_core::launch::{Launch, for_each_index};
use numfuse_core::literal::Literal;
use numfuse_cpu::{Compiler, Options, RunOptions, Tier};
use std::sync::atomic::AtomicBool;

/// A small generator of random numbers (splitmix64), so that a seed means the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Bits of interesting values of a dtype.
pub fn special_bits(dtype: DType) -> Vec<u64> {
    match dtype {
        DType::Bool => vec![0, 1],
        DType::F64 => [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            0.49999999999999994,
            4503599627370497.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            5e-324,
            -5e-324,
            f64::MAX,
            f64::MIN,
            1e300,
            -1e-300,
            127.0,
            128.0,
            -128.9,
            -129.0,
            255.5,
            256.0,
            32767.9,
            32768.0,
            65535.0,
            65536.0,
            2147483647.0,
            2147483647.5,
            2147483648.0,
            -2147483648.9,
            -2147483649.0,
            4294967295.0,
            4294967295.9,
            4294967296.0,
            9223372036854775807.0,
            -9223372036854775808.0,
            18446744073709551615.0,
            18446744073709549568.0,
            3.0,
            0.1,
        ]
        .map(f64::to_bits)
        .to_vec(),
        DType::F32 => [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            0.49999997,
            8388609.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
            f32::MAX,
            f32::MIN,
            127.5,
            128.0,
            -128.9,
            -129.0,
            255.5,
            256.0,
            32767.9,
            32768.0,
            65535.5,
            65536.0,
            2147483500.0,
            2147483648.0,
            -2147483648.0,
            -2147483904.0,
            4294967040.0,
            4294967296.0,
            9223371500000000000.0,
            9223372036854775807.0,
            -9223372036854775808.0,
            18446743000000000000.0,
            18446744073709551615.0,
            3.0,
            0.1,
        ]
        .map(|x: f32| u64::from(x.to_bits()))
        .to_vec(),
        _ => {
            let bits = dtype.bits();
            let mask = u64::MAX >> (64 - bits);
            let top = 1u64 << (bits - 1);
            let mut values = vec![0, 1, 2, 3, 7, mask, mask - 1, top, top - 1, top + 1, u64::from(bits)];
            values.extend([u64::from(bits) - 1, u64::from(bits) + 1, 100, 0x5555_5555_5555_5555]);
            values.extend([(1 << 24) + 1, (1 << 53) + 1, (1 << 60) + (1 << 36) + 1, u64::MAX - 1023, (1 << 40) + 1]);
            values.iter().map(|v| v & mask).collect()
        }
    }
}

/// The bits of a random value.
pub fn random_bits(rng: &mut Rng, dtype: DType) -> u64 {
    if dtype == DType::Bool {
        // Memory may hold any byte for true.
        return rng.pick(&[0, 1, 0, 1, 0, 1, 2, 255]);
    }
    if rng.one_in(6) {
        let special = special_bits(dtype);
        return rng.pick(&special);
    }
    match dtype {
        DType::F64 => ((rng.next() as i64 >> 40) as f64 / 1024.0).to_bits(),
        DType::F32 => u64::from(((rng.next() as i64 >> 50) as f32 / 64.0).to_bits()),
        _ if rng.one_in(2) => rng.next(),
        _ => rng.below(20) as u64,
    }
}

/// One operand's memory.
#[derive(Clone)]
pub struct Block {
    pub bytes: Vec<u8>,
    /// The element with all indices zero.
    pub offset: usize,
}

/// Everything needed to run a kernel.
pub struct Case {
    pub kernel: Kernel,
    pub launch: Launch,
    pub memory: Vec<Block>,
    pub params: Vec<Literal>,
}

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
    /// Pretend that elements are expensive, so that small work is shared out.
    pub shared: bool,
}

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
    /// Canonicalises the launch and sets the kernel's accesses.
    pub fn prepare(&mut self) {
        verify(&self.kernel).unwrap_or_else(|e| panic!("{e}\n{}", self.kernel));
        self.launch.canonicalize(&self.kernel);
        let accesses: Vec<_> = self.launch.access(&self.kernel).collect();
        for (operand, access) in self.kernel.operands.iter_mut().zip(accesses) {
            operand.access = access;
        }
    }

    /// What the interpreter leaves in memory.
    pub fn interpret(&self) -> Vec<Block> {
        let mut after = self.memory.clone();
        let mut memory: Vec<Memory<'_>> = after
            .iter_mut()
            .zip(&self.kernel.operands)
            .map(|(block, operand)| Memory {
                offset: block.offset,
                bytes: match operand.role {
                    Role::In => Bytes::In(&block.bytes),
                    Role::Out => Bytes::Out(&mut block.bytes),
                },
            })
            .collect();
        interp::run(&self.kernel, &self.launch, &mut memory, &self.params);
        drop(memory);
        after
    }

    /// What the back end leaves in memory.
    pub fn execute(&self, compilers: &Compilers, mode: Mode) -> Vec<Block> {
        let mut after = self.memory.clone();
        let mut compiled = compilers.get(mode).compile(&self.kernel).unwrap_or_else(|e| panic!("{e}"));
        if mode.shared {
            compiled.assume_cost(3000.0);
        }
        let pointers: Vec<*mut u8> =
            after.iter_mut().map(|block| block.bytes.as_mut_ptr().wrapping_add(block.offset)).collect();
        let params: Vec<u64> = self.params.iter().map(|p| p.bits()).collect();
        let cancel = AtomicBool::new(false);
        let options = RunOptions { threads: mode.threads, cancel: &cancel };
        // SAFETY: each block covers what the launch reaches in it; blocks are separate allocations.
        unsafe { compiled.run(&self.launch, &pointers, &params, &options) }.unwrap_or_else(|e| panic!("{e}"));
        after
    }

    /// Compares the back end's memory with the interpreter's.
    pub fn compare(&self, want: &[Block], got: &[Block]) -> Result<(), String> {
        let (mut want, mut got) = (want.to_vec(), got.to_vec());
        for (n, operand) in self.kernel.operands.iter().enumerate() {
            if operand.role == Role::Out {
                let size = operand.dtype.size();
                let layout = &self.launch.layouts[n];
                let sizes: Vec<usize> =
                    self.launch.outer.iter().chain(&self.launch.reduced).chain(&self.launch.inner).copied().collect();
                let strides: Vec<isize> =
                    layout.outer.iter().chain(&layout.reduced).chain(&layout.inner).copied().collect();
                let mut index = 0;
                let mut wrong = None;
                let mut place = |offsets: &[isize]| {
                    let at = self.memory[n].offset.wrapping_add_signed(offsets[0]);
                    let read = |block: &Block| {
                        let mut word = [0; 8];
                        word[..size].copy_from_slice(&block.bytes[at..at + size]);
                        Literal::from_bits(operand.dtype, u64::from_le_bytes(word))
                    };
                    let (a, b) = (read(&want[n]), read(&got[n]));
                    let both_nan = operand.dtype.is_float() && a.as_f64().is_nan() && b.as_f64().is_nan();
                    if a != b && !both_nan && wrong.is_none() {
                        wrong = Some(format!("operand {n}, element {index}: interpreter {a:?}, compiled {b:?}"));
                    }
                    if both_nan {
                        got[n].bytes[at..at + size].fill(0);
                        want[n].bytes[at..at + size].fill(0);
                    }
                    index += 1;
                };
                for_each_index(&sizes, &[&strides], &mut place);
                if let Some(wrong) = wrong {
                    return Err(wrong);
                }
            }
            if let Some(at) = (0..want[n].bytes.len()).find(|at| want[n].bytes[*at] != got[n].bytes[*at]) {
                return Err(format!("operand {n}: byte {at} differs, outside of every element"));
            }
        }
        Ok(())
    }

    /// Runs and compares; panics with the kernel and the launch if they differ.
    pub fn check(&self, compilers: &Compilers, modes: &[Mode], what: &str) {
        let want = self.interpret();
        for mode in modes {
            let got = self.execute(compilers, *mode);
            if let Err(difference) = self.compare(&want, &got) {
                panic!("{what}: {difference}\n{mode:?}\n{}\n{:?}\n{:?}", self.kernel, self.launch, self.params);
            }
        }
    }
}

/// Writes a value at a byte position.
pub fn put(bytes: &mut [u8], at: usize, dtype: DType, bits: u64) {
    bytes[at..at + dtype.size()].copy_from_slice(&bits.to_le_bytes()[..dtype.size()]);
}
