//! The CPU back end: a [`numfuse_core::kernel::Kernel`] becomes machine code, which runs on all cores. There are two
//! code generators: the wide tier for x86-64 hosts with AVX-512 or AVX2, and Cranelift for everything. The results have
//! the bits of [`numfuse_core::interp::run`], whatever the code generator, the host, and the number of threads.
//!
//! In reading order: `clif` (kernel to Cranelift IR), `wide` (kernel to wide vector code) and `disassemble` (its text),
//! [`jit`](MemoryStats) (code memory), [`specialize`] (which kernel is compiled for a launch), [`launch`](Compiled::run)
//! (threads and buffers).
//!
//! ```
//! use numfuse_core::dtype::DType;
//! use numfuse_core::kernel::{Builder, Level, Nest, Role, StageKind};
//! use numfuse_cpu::{Compiler, Options};
//!
//! let mut b = Builder::kernel(Nest::Rows);
//! let (a, out) = (b.operand(DType::F64, Role::In, Level::Inner), b.operand(DType::F64, Role::Out, Level::Inner));
//! b.stage(StageKind::Loop);
//! let x = b.load(a);
//! let y = b.mul(x, x);
//! b.store(out, y);
//! let compiled = Compiler::new(Options::default())?.compile(&b.finish())?;
//! assert!(compiled.code_bytes() > 0);
//! # Ok::<(), numfuse_cpu::Error>(())
//! ```
#![deny(unsafe_code)]

mod clif;
mod disassemble;
#[allow(unsafe_code, reason = "code memory is mapped, written and unmapped here")]
mod jit;
#[allow(unsafe_code, reason = "compiled code is called and memory is allocated here")]
mod launch;
mod specialize;
mod wide;

pub use jit::MemoryStats;
pub use launch::{AlignedBuffer, BufferPool, Compiled, Matmul, Prepared, RunOptions, forks};
pub use specialize::{Specialized, specialize, specialize_from};

use clif::{Analysis, Target};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use numfuse_core::kernel::{self, Kernel};
use std::cell::Cell;
use std::sync::Arc;

/// Why a kernel could not be compiled or run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no code generator for this host, or the kernel is too much for it. The interpreter still works.
    #[error("no native code: {0}")]
    Host(String),
    /// The system does not let this process execute memory. The interpreter still works.
    #[error("executable memory is refused: {0}")]
    CodeMemory(String),
    /// The system has no memory left.
    #[error("out of memory: {bytes} bytes")]
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
    /// The cancel flag was set while the kernel ran.
    #[error("cancelled")]
    Cancelled,
    /// A bug in numfuse: the kernel does not verify, or the launch does not fit it.
    #[error("internal error in the CPU back end: {0}")]
    Internal(String),
}

/// How kernels are compiled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// Use 128-bit vectors; otherwise one element at a time (the same bits, slower).
    pub vectorize: bool,
    /// Use all that this host has, beyond the baseline of its architecture (on x86-64: SSE4.2, if the host has it).
    pub host_features: bool,
    /// Let Cranelift verify the IR that it is given.
    pub verifier: bool,
    /// Which code generator makes the code.
    pub tier: Tier,
}

/// A code generator. All of them give the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Tier {
    /// The widest vectors that the host has; Cranelift where there are none, or a kernel is not for them.
    #[default]
    Widest,
    /// AVX-512, else Cranelift.
    Avx512,
    /// AVX2, else Cranelift.
    Avx2,
    /// Cranelift, with 128-bit vectors, on every host.
    Cranelift,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Tier; 4] = [Tier::Widest, Tier::Avx512, Tier::Avx2, Tier::Cranelift];

    /// The tier of this name.
    pub fn named(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// True if this host can run its code.
    pub fn is_on_host(self) -> bool {
        matches!(self, Tier::Widest | Tier::Cranelift) || self.isa().is_some()
    }

    /// The name in `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Widest => "widest",
            Tier::Avx512 => "avx512",
            Tier::Avx2 => "avx2",
            Tier::Cranelift => "cranelift",
        }
    }

    /// The instruction set of the wide tier that code of this tier uses.
    fn code_isa(self) -> Option<wide::Isa> {
        match self {
            Tier::Avx512 => Some(wide::Isa::Avx512),
            Tier::Avx2 => Some(wide::Isa::Avx2),
            Tier::Widest | Tier::Cranelift => None,
        }
    }

    /// The instruction set of the wide tier that this asks for, if the host has it.
    fn isa(self) -> Option<wide::Isa> {
        let host = wide::Isa::host()?;
        match self {
            Tier::Widest => Some(host),
            Tier::Avx512 => Some(wide::Isa::Avx512).filter(|_| host == wide::Isa::Avx512),
            Tier::Avx2 => Some(wide::Isa::Avx2),
            Tier::Cranelift => None,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options { vectorize: true, host_features: true, verifier: cfg!(debug_assertions), tier: Tier::Widest }
    }
}

/// Compiles kernels for this host. Cheap to clone.
#[derive(Clone)]
pub struct Compiler {
    shared: Arc<Shared>,
}

struct Shared {
    isa: OwnedTargetIsa,
    /// For long bodies: compiles in half the time, to code that is somewhat slower.
    quick: OwnedTargetIsa,
    target: Target,
    /// The wide tier's instruction set, if it is used.
    wide: Option<wide::Isa>,
    /// Why it is not used, unless nobody asked for it.
    not_wide: Option<&'static str>,
}

/// A kernel with more instructions than this is compiled by the single-pass register allocator.
const QUICK_INSTS: usize = 1000;

/// A kernel may take so many bytes of its thread's stack: there are threads with little.
const FRAME_LIMIT: u32 = 256 << 10;

thread_local! {
    /// Cranelift's working memory, kept from one kernel to the next. A panic in Cranelift drops it.
    static WORK: Cell<Option<Box<(Context, FunctionBuilderContext)>>> = const { Cell::new(None) };
}

impl Compiler {
    /// A compiler for this host.
    pub fn new(options: Options) -> Result<Compiler, Error> {
        let isa = isa_for(options, "backtracking")?;
        let quick = isa_for(options, "single_pass")?;
        let target = Target::new(&*isa, options.vectorize);
        let asked = options.vectorize && options.host_features && options.tier != Tier::Cranelift;
        let wide = options.tier.isa().filter(|_| asked);
        let not_wide = match options.tier {
            _ if !asked => None,
            Tier::Avx512 => Some("this host has no AVX-512"),
            _ => Some("this host has no AVX2"),
        };
        Ok(Compiler { shared: Arc::new(Shared { isa, quick, target, wide, not_wide }) })
    }

    /// Compiles a kernel. Its operands' accesses must be those of the launches it will run, or those that [`specialize`] gave it.
    pub fn compile(&self, kernel: &Kernel) -> Result<Compiled, Error> {
        check(kernel)?;
        let analysis = Analysis::new(kernel);
        let mut streams = false;
        let (tier, block) = match self.wide_code(kernel, &analysis) {
            Ok((tier, code)) => {
                streams = code.streams;
                code.routines.provide()?;
                (tier, jit::CodeBlock::publish(&code.bytes)?)
            }
            Err(_) => {
                let block = self.generate(kernel, &analysis, false, |code, _| jit::CodeBlock::publish(code))?;
                (Tier::Cranelift, block)
            }
        };
        Ok(Compiled::new(kernel, analysis, block, tier, streams))
    }

    /// The Cranelift IR of a kernel, as text.
    pub fn clif(&self, kernel: &Kernel) -> Result<String, Error> {
        check(kernel)?;
        let mut func = cranelift_codegen::ir::Function::new();
        let mut context = FunctionBuilderContext::new();
        let analysis = Analysis::new(kernel);
        let isa = self.isa_for(kernel);
        clif::build(kernel, &analysis, self.shared.target, &mut func, &mut context, &**isa)?;
        Ok(func.display().to_string())
    }

    /// Which code generator makes the code of a kernel; for [`Tier::Cranelift`] also why it is not a wider one, unless
    /// that was asked for.
    pub fn tier(&self, kernel: &Kernel) -> Result<(Tier, Option<&'static str>), Error> {
        check(kernel)?;
        Ok(match self.wide_code(kernel, &Analysis::new(kernel)) {
            Ok((tier, _)) => (tier, None),
            Err(reason) => (Tier::Cranelift, reason),
        })
    }

    /// The machine code of a kernel, as text.
    pub fn disassemble(&self, kernel: &Kernel) -> Result<String, Error> {
        check(kernel)?;
        let analysis = Analysis::new(kernel);
        if let Ok((_, code)) = self.wide_code(kernel, &analysis) {
            return Ok(disassemble::listing(&code));
        }
        self.generate(kernel, &analysis, true, |_, text| Ok(text.to_owned()))
    }

    /// The code of the wide tier for a kernel, which verifies; or why there is none, unless nobody asked for it.
    fn wide_code(&self, kernel: &Kernel, analysis: &Analysis) -> Result<(Tier, wide::Code), Option<&'static str>> {
        let Some(isa) = self.shared.wide else { return Err(self.shared.not_wide) };
        let tier = if isa == wide::Isa::Avx512 { Tier::Avx512 } else { Tier::Avx2 };
        Ok((tier, wide::compile(kernel, analysis, isa)?))
    }

    /// The code memory of this process.
    pub fn code_memory(&self) -> MemoryStats {
        jit::stats()
    }

    fn isa_for(&self, kernel: &Kernel) -> &OwnedTargetIsa {
        if kernel.insts.len() > QUICK_INSTS { &self.shared.quick } else { &self.shared.isa }
    }

    /// Cranelift's code of a kernel, which verifies.
    fn generate<T>(
        &self,
        kernel: &Kernel,
        analysis: &Analysis,
        disassemble: bool,
        take: impl FnOnce(&[u8], &str) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let isa = self.isa_for(kernel);
        let mut work = WORK.take().unwrap_or_else(|| Box::new((Context::new(), FunctionBuilderContext::new())));
        let (context, builder) = &mut *work;
        context.clear();
        context.set_disasm(disassemble);
        let taken =
            clif::build(kernel, analysis, self.shared.target, &mut context.func, builder, &**isa).and_then(|()| {
                let compiled = context
                    .compile(&**isa, &mut ControlPlane::default())
                    .map_err(|e| Error::Internal(format!("{:?}\n{}\n{kernel}", e.inner, e.func)))?;
                if !compiled.buffer.relocs().is_empty() {
                    return Err(Error::Internal(format!("the code has relocations\n{kernel}")));
                }
                let frame = compiled.buffer.frame_layout().map_or(0, |layout| layout.frame_to_fp_offset);
                if frame > FRAME_LIMIT {
                    return Err(Error::Host(format!("a kernel would take {frame} bytes of stack")));
                }
                take(compiled.code_buffer(), compiled.vcode.as_deref().unwrap_or_default())
            });
        WORK.set(Some(work));
        taken
    }
}

/// A kernel that does not verify may not be compiled: its code could reach any memory.
fn check(kernel: &Kernel) -> Result<(), Error> {
    kernel::verify(kernel).map_err(|reason| Error::Internal(format!("{reason}\n{kernel}")))
}

fn isa_for(options: Options, regalloc: &str) -> Result<OwnedTargetIsa, Error> {
    let host = |reason: String| Error::Host(reason);
    let mut flags = settings::builder();
    // Bodies come numbered and folded, and the optimiser would only spread constants over the loop again.
    for (name, value) in [
        ("opt_level", "none"),
        ("regalloc_algorithm", regalloc),
        ("enable_verifier", if options.verifier { "true" } else { "false" }),
        ("is_pic", "false"),
        ("unwind_info", "false"),
        // Frames of long bodies may be larger than a guard page.
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
    ] {
        flags.set(name, value).map_err(|e| host(e.to_string()))?;
    }
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut, reason = "only x86 has more to enable"))]
    let mut builder = cranelift_native::builder_with_options(options.host_features).map_err(|e| host(e.to_owned()))?;
    #[cfg(target_arch = "x86_64")]
    if !options.host_features && std::arch::is_x86_feature_detected!("sse4.2") {
        for flag in ["has_sse3", "has_ssse3", "has_sse41", "has_sse42"] {
            builder.enable(flag).map_err(|e| host(e.to_string()))?;
        }
    }
    builder.finish(settings::Flags::new(flags)).map_err(|e| host(e.to_string()))
}
