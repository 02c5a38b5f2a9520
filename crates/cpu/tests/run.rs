//! How kernels run, apart from their results: launches that do not fit, cancelling, the host's floating point mode,
//! many threads, long bodies, and memory that is given back.

mod common;

use common::{Block, Case, Code, Compilers, Mode, Rng, put, random_bits};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Access, Builder, Kernel, Level, Nest, Reducer, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::literal::Literal;
use numfuse_cpu::{Compiler, Error, Options, RunOptions};
use std::sync::atomic::{AtomicBool, Ordering};

/// `x * x`, or its sum.
fn square(sum: bool) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let x = b.operand(DType::F64, Role::In, Level::Inner);
    let out = b.operand(DType::F64, Role::Out, if sum { Level::Row } else { Level::Inner });
    b.stage(StageKind::Loop);
    let x = b.load(x);
    let y = b.mul(x, x);
    if sum {
        let r = b.reduce(Reducer::Sum, y);
        b.stage(StageKind::Row);
        let r = b.reduced(r);
        b.store(out, r);
    } else {
        b.store(out, y);
    }
    b.finish()
}

fn line(n: usize, strides: &[isize]) -> Launch {
    let layouts = strides.iter().map(|s| Layout { inner: [*s].into_iter().collect(), ..Layout::default() }).collect();
    Launch { inner: [n].into_iter().collect(), layouts, ..Launch::default() }
}

fn run(kernel: &Kernel, launch: &Launch, arrays: &mut [Vec<f64>], options: &RunOptions<'_>) -> Result<(), Error> {
    let compiled = Compiler::new(Options::default())?.compile(kernel)?;
    let pointers: Vec<*mut u8> = arrays.iter_mut().map(|a| a.as_mut_ptr().cast()).collect();
    // SAFETY: the tests give arrays that cover their launches, or launches that are refused.
    unsafe { compiled.run(launch, &pointers, &[], options) }
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let kernel = square(false);
    let mut arrays = [vec![1.0; 8], vec![0.0; 8]];
    let options = RunOptions::default();
    let refused = |launch: Launch, arrays: &mut [Vec<f64>]| {
        let error = run(&kernel, &launch, arrays, &options).unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error}");
    };
    // Another access than the kernel was compiled for: strided, broadcast.
    refused(line(4, &[16, 8]), &mut arrays);
    refused(line(4, &[0, 8]), &mut arrays);
    refused(line(4, &[8]), &mut arrays);
    refused(line(4, &[8, 8, 8]), &mut arrays);
    let mut launch = line(4, &[8, 8]);
    launch.outer.push(2);
    refused(launch, &mut arrays);
    run(&kernel, &line(4, &[8, 8]), &mut arrays, &options).unwrap();
    assert_eq!(arrays[1], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn kernels_that_do_not_verify_are_refused() {
    let mut kernel = square(false);
    kernel.insts.swap(0, 1);
    let error = Compiler::new(Options::default()).unwrap().compile(&kernel).unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error}");
}

#[test]
fn a_run_can_be_cancelled() {
    let n = 4_000_000;
    let cancel = AtomicBool::new(true);
    for (sum, threads) in [(false, 1), (false, 3), (true, 1), (true, 3)] {
        cancel.store(true, Ordering::Relaxed);
        let mut arrays = [vec![1.0; n], vec![0.0; if sum { 1 } else { n }]];
        let launch = line(n, if sum { &[8, 0] } else { &[8, 8] });
        let options = RunOptions { threads, cancel: &cancel };
        assert_eq!(run(&square(sum), &launch, &mut arrays, &options), Err(Error::Cancelled));
        cancel.store(false, Ordering::Relaxed);
        assert_eq!(run(&square(sum), &launch, &mut arrays, &options), Ok(()));
        assert_eq!(arrays[1][0], if sum { n as f64 } else { 1.0 });
    }
}

#[test]
fn an_output_may_be_an_input_of_the_same_layout() {
    for (n, threads) in [(1, 1), (37, 1), (5000, 1), (1_000_000, 3)] {
        let mut x: Vec<f64> = (0..n).map(f64::from).collect();
        let pointer: *mut u8 = x.as_mut_ptr().cast();
        let compiled = Compiler::new(Options::default()).unwrap().compile(&square(false)).unwrap();
        let options = RunOptions { threads, ..RunOptions::default() };
        // SAFETY: the array covers the launch, and both operands have the same layout and pointer.
        unsafe { compiled.run(&line(n as usize, &[8, 8]), &[pointer, pointer], &[], &options) }.unwrap();
        assert!(x.iter().enumerate().all(|(i, x)| *x == (i * i) as f64));
    }
}

#[test]
fn an_empty_sum_is_zero() {
    let mut arrays = [vec![], vec![7.0]];
    let mut kernel = square(true);
    let launch = line(0, &[8, 0]);
    kernel.operands[0].access = Access::Unit;
    run(&kernel, &launch, &mut arrays, &RunOptions::default()).unwrap();
    assert_eq!(arrays[1], [0.0]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_hosts_floating_point_mode_does_not_matter() {
    fn control() -> u32 {
        let mut word = 0u32;
        // SAFETY: stores the control word to a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word) };
        word
    }
    fn set(word: u32) {
        // SAFETY: loads a valid control word.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word) };
    }
    // The least normal number squared with another gives subnormals, which flush-to-zero would lose.
    let n = 100_000;
    let tiny = 1.5e-160;
    let usual = control();
    // Flush to zero, subnormals are zero, round up.
    let odd = 0x1f80 | 0x8000 | 0x0040 | 0x4000;
    for threads in [1, 3] {
        let mut arrays = [vec![tiny; n], vec![0.0; n]];
        let options = RunOptions { threads, ..RunOptions::default() };
        set(odd);
        let result = run(&square(false), &line(n, &[8, 8]), &mut arrays, &options);
        let after = control();
        set(usual);
        result.unwrap();
        assert_eq!(after & 0xffc0, odd & 0xffc0);
        let want = std::hint::black_box(tiny) * std::hint::black_box(tiny);
        assert!(want.is_subnormal() && arrays[1].iter().all(|x| *x == want));
    }
}

#[test]
fn one_kernel_serves_many_threads() {
    let kernel = square(true);
    let compiled = Compiler::new(Options::default()).unwrap().compile(&kernel).unwrap();
    let launch = line(300_000, &[8, 0]);
    std::thread::scope(|scope| {
        for t in 0..8u32 {
            let (compiled, launch) = (&compiled, &launch);
            scope.spawn(move || {
                let x = vec![f64::from(t); 300_000];
                for round in 0..20 {
                    let mut out = [0.0];
                    let pointers = [x.as_ptr().cast_mut().cast(), out.as_mut_ptr().cast()];
                    let options = RunOptions { threads: 1 + round % 3, ..RunOptions::default() };
                    // SAFETY: both arrays cover the launch, and `x` is only read.
                    unsafe { compiled.run(launch, &pointers, &[], &options) }.unwrap();
                    assert_eq!(out[0], f64::from(t * t) * 300_000.0);
                }
            });
        }
    });
}

/// A chain of `n` values, all of which live to the end.
fn long(n: u32) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let x = b.operand(DType::F64, Role::In, Level::Inner);
    let out = b.operand(DType::F64, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let x = b.load(x);
    let mut all = vec![x];
    for i in 0..n {
        let last = all[all.len() - 1];
        let c = b.float(DType::F64, 1.0 + f64::from(i) * 1e-3);
        let next = if i % 3 == 0 { b.add(last, c) } else { b.mul(last, c) };
        let next = if i % 7 == 0 { b.sqrt(next) } else { next };
        all.push(next);
    }
    let mut sum = all[0];
    for v in all.iter().rev() {
        sum = b.sub(*v, sum);
    }
    b.store(out, sum);
    b.finish()
}

#[test]
fn more_operands_than_registers() {
    // Addresses that do not fit the integer registers, all of them operands of fused multiply-adds.
    let count = 21;
    let mut b = Builder::kernel(Nest::Rows);
    let inputs: Vec<u32> = (0..count).map(|_| b.operand(DType::F64, Role::In, Level::Inner)).collect();
    let out = b.operand(DType::F64, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let values: Vec<Value> = inputs.iter().map(|n| b.load(*n)).collect();
    let terms: Vec<Value> = values.chunks(3).map(|v| b.fma(v[0], v[1], v[2])).collect();
    let sum = terms.into_iter().reduce(|x, y| b.sub(x, y)).expect("some");
    b.store(out, sum);
    let n = 70;
    let block = |k: usize| {
        let mut bytes = vec![0; 8 * n];
        for i in 0..n {
            put(&mut bytes, 8 * i, DType::F64, ((i * count + k) as f64 * 0.3).to_bits());
        }
        Block { bytes, offset: 0 }
    };
    let memory = (0..=count).map(block).collect();
    let mut case = Case { kernel: b.finish(), launch: line(n, &vec![8; count + 1]), memory, params: vec![] };
    case.prepare();
    let modes = [Code::Avx512, Code::Avx2, Code::Cranelift].map(|code| Mode { code, threads: 1, shared: false });
    case.check(&Compilers::new(), &modes, "many operands");
}

#[test]
fn states_that_leave_few_registers() {
    // Twenty-four registers carry states, so the merging of a leaf's lanes has operands in memory.
    for n in [9, 56, 65, 952, 1024, 3000] {
        let mut b = Builder::kernel(Nest::Rows);
        let (x, out) = (b.operand(DType::U16, Role::In, Level::Inner), b.operand(DType::F32, Role::Out, Level::Row));
        b.stage(StageKind::Loop);
        let value = b.load(x);
        let value = b.cast(value, DType::F32);
        let constant = b.float(DType::F64, 1.5);
        let slot = b.scratch(DType::F64);
        b.scratch_store(slot, constant);
        let moments = b.reduce(Reducer::Moments, value);
        let param = b.param(DType::U8);
        b.reduce(Reducer::Sum, param);
        b.stage(StageKind::Row);
        let result = b.reduced(moments);
        b.store(out, result);
        let mut bytes = vec![0; 2 * n];
        for i in 0..n {
            put(&mut bytes, 2 * i, DType::U16, (i * i * 7919) as u64);
        }
        let memory = vec![Block { bytes, offset: 0 }, Block { bytes: vec![0; 4], offset: 0 }];
        let params = vec![Literal::from_i64(DType::U8, 3)];
        let mut case = Case { kernel: b.finish(), launch: line(n, &[2, 0]), memory, params };
        case.prepare();
        let modes = [Code::Avx512, Code::Avx2, Code::Cranelift].map(|code| Mode { code, threads: 1, shared: false });
        case.check(&Compilers::new(), &modes, "few registers");
    }
}

#[test]
fn long_bodies_compile_and_run() {
    // More values than registers, and a frame beyond a page.
    let kernel = long(3000);
    let n = 11;
    let mut bytes = vec![0; 8 * n];
    for i in 0..n {
        put(&mut bytes, 8 * i, DType::F64, (i as f64 * 0.3).to_bits());
    }
    let memory = vec![Block { bytes, offset: 0 }, Block { bytes: vec![0; 8 * n], offset: 0 }];
    let mut case = Case { kernel, launch: line(n, &[8, 8]), memory, params: vec![] };
    case.prepare();
    let mode = Mode { code: Code::Cranelift, threads: 1, shared: false };
    case.check(
        &Compilers::new(),
        &[
            mode,
            Mode { code: Code::Scalar, ..mode },
            Mode { code: Code::Avx512, ..mode },
            Mode { code: Code::Avx2, ..mode },
        ],
        "a long body",
    );
}

#[test]
fn long_bodies_touch_what_exists_and_nothing_else() {
    // An element of the row, flags that are apart, bytes backwards, and numbers; results of two widths.
    let mut b = Builder::kernel(Nest::Rows);
    let row = b.operand(DType::F64, Role::In, Level::Row);
    let [flag, byte, x] = [DType::Bool, DType::I8, DType::F64].map(|dtype| b.operand(dtype, Role::In, Level::Inner));
    let [y, positive] = [DType::F64, DType::Bool].map(|dtype| b.operand(dtype, Role::Out, Level::Inner));
    b.stage(StageKind::Row);
    let row = b.load(row);
    b.stage(StageKind::Loop);
    let (flag, byte, x) = (b.load(flag), b.load(byte), b.load(x));
    let byte = b.cast(byte, DType::F64);
    let mut all = vec![x, row, byte];
    for i in 0..40 {
        let [u, v] = [all[all.len() - 1], all[i]];
        let next = if i % 3 == 0 { b.mul(u, v) } else { b.add(u, v) };
        all.push(b.select(flag, next, u));
    }
    let sum = all.into_iter().reduce(|sum, v| b.sub(v, sum)).unwrap();
    let zero = b.float(DType::F64, 0.0);
    let is_positive = b.lt(zero, sum);
    b.store(y, sum);
    b.store(positive, is_positive);
    let kernel = b.finish();

    let compilers = Compilers::new();
    let mode = |code| Mode { code, threads: 1, shared: false };
    let modes = [Code::Avx512, Code::Avx2, Code::Cranelift].map(mode);
    const ROWS: usize = 3;
    for n in 1..=19 {
        for apart in [1, 2] {
            // For each operand the bytes from element to element; between rows some that belong to none.
            let strides = [0_isize, 3, -1, 8, 8 * apart, 1];
            let mut rng = Rng::of_seed(n as u64, false);
            let (mut memory, mut layouts) = (Vec::new(), Vec::new());
            for (operand, stride) in kernel.operands.iter().zip(strides) {
                let size = operand.dtype.size();
                let pitch = (n - 1) * stride.unsigned_abs() + size + 16;
                let offset = if stride < 0 { (n - 1) * stride.unsigned_abs() } else { 0 };
                let mut bytes = vec![0xa5; ROWS * pitch];
                for row in 0..ROWS {
                    for i in 0..n {
                        let at = (row * pitch + offset).wrapping_add_signed(i as isize * stride);
                        put(&mut bytes, at, operand.dtype, random_bits(&mut rng, operand.dtype));
                    }
                }
                memory.push(Block { bytes, offset });
                layouts.push(Layout {
                    outer: [pitch as isize].into_iter().collect(),
                    reduced: Default::default(),
                    inner: [stride].into_iter().collect(),
                });
            }
            let launch = Launch {
                outer: [ROWS].into_iter().collect(),
                reduced: Default::default(),
                inner: [n].into_iter().collect(),
                layouts,
            };
            let mut case = Case { kernel: kernel.clone(), launch, memory, params: vec![] };
            case.prepare();
            case.check(&compilers, &modes, &format!("rows of {n}, {apart} apart"));
        }
    }
}

#[test]
fn a_body_that_needs_too_much_stack_is_refused() {
    let compiler = Compiler::new(Options { verifier: false, ..Options::default() }).unwrap();
    let error = compiler.compile(&long(20_000)).unwrap_err();
    assert!(matches!(error, Error::Host(_)), "{error}");
}

#[test]
fn dropped_kernels_give_their_memory_back() {
    let compiler = Compiler::new(Options { verifier: false, ..Options::default() }).unwrap();
    let kernel = square(true);
    drop(compiler.compile(&kernel).unwrap());
    let before = compiler.code_memory();
    for _ in 0..1000 {
        assert!(compiler.compile(&kernel).unwrap().code_bytes() > 0);
    }
    let after = compiler.code_memory();
    // Other tests compile at the same time.
    assert!(after.mapped <= before.mapped + (4 << 20), "{before:?} {after:?}");
    assert!(after.blocks < before.blocks + 100, "{before:?} {after:?}");
}

#[test]
fn text_forms_are_available() {
    let compiler = Compiler::new(Options::default()).unwrap();
    let kernel = square(false);
    assert!(compiler.clif(&kernel).unwrap().contains("fmul"));
    assert!(compiler.disassemble(&kernel).unwrap().contains("mul"));
}
