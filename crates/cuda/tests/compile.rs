//! The compiler on texts that are written by hand: what it reports, and that the instructions are those that the back end
//! counts on. Runs where NVRTC's wheel can be had; see `common/toolkit.rs`.

#[path = "common/toolkit.rs"]
mod toolkit;

use numfuse_cuda::Error;
use numfuse_cuda::emit::Source;
use numfuse_cuda::nvrtc::{Arch, Compiler, Options, Version};
use std::process::Command;
use toolkit::{Limits, Toolkit, count, toolkit};

const ARCHS: [Arch; 2] = [Arch::new(8, 0), Arch::new(9, 0)];
const STRICT: Options = Options { fast: false };
const FAST: Options = Options { fast: true };
const LIMITS: Limits = Limits { registers: 64, spills: 0, stack: 0, shared: 1024 };

/// A text with one entry, which computes `r` from `x`, `y` and `z` of a type.
fn elementwise(dtype: &str, statement: &str) -> String {
    format!(
        "struct Args {{ const char* m0; const char* m1; const char* m2; char* m3; }};
extern \"C\" __global__ void __launch_bounds__(256) kernel_map(const __grid_constant__ Args a) {{
    unsigned i = blockIdx.x * 256 + threadIdx.x;
    {dtype} x = (({dtype} const*)a.m0)[i], y = (({dtype} const*)a.m1)[i], z = (({dtype} const*)a.m2)[i], r;
    {statement}
    (({dtype}*)a.m3)[i] = r;
}}
"
    )
}

fn source(text: String) -> Source {
    Source { text, entries: ["kernel_map".to_owned()].into_iter().collect() }
}

/// The instructions of texts with one entry each.
fn sass<const N: usize>(toolkit: &Toolkit, texts: [String; N], arch: Arch, options: Options) -> [String; N] {
    let sources = texts.map(source);
    let named: Vec<_> = sources.iter().map(|source| (source.text.clone(), source)).collect();
    let entries = toolkit.compile(&named, arch, options).unwrap_or_else(|error| panic!("{error}"));
    let code: Vec<String> = entries.into_iter().map(|entry| entry.sass).collect();
    code.try_into().expect("one entry of each text")
}

#[test]
fn machine_code_is_for_the_device_and_always_the_same() {
    let Some(toolkit) = toolkit() else { return };
    let text = elementwise("float", "r = x * y + z;");
    for arch in ARCHS {
        let one = toolkit.compiler.compile(&text, arch, STRICT).unwrap().cubin;
        // An ELF file for machine 190, which is CUDA.
        assert_eq!(one[..4], *b"\x7fELF");
        assert_eq!(one[18..20], 190_u16.to_le_bytes());
        assert_eq!(one, toolkit.compiler.compile(&text, arch, STRICT).unwrap().cubin, "the same bytes");
    }
    assert_eq!(toolkit.compiler.version(), Version { major: 13, minor: 0 });
    // A device that is newer than the compiler, of a generation that it knows.
    let newer = toolkit.compiler.compile(&text, Arch::new(9, 1), STRICT).unwrap().cubin;
    assert_eq!(newer, toolkit.compiler.compile(&text, Arch::new(9, 0), STRICT).unwrap().cubin);
}

#[test]
fn usage_tells_registers_stack_spills_and_shared_memory() {
    let Some(toolkit) = toolkit() else { return };
    let text = "struct Args { const char* m0; char* m1; };
extern \"C\" __global__ void __launch_bounds__(256) kernel_shared(const __grid_constant__ Args a) {
    __shared__ float row[33];
    row[threadIdx.x % 33] = ((const float*)a.m0)[threadIdx.x];
    __syncthreads();
    ((float*)a.m1)[threadIdx.x] = row[(threadIdx.x + 1) % 33];
}
// An array that is indexed by what only the run tells has to lie in memory.
extern \"C\" __global__ void __launch_bounds__(256) kernel_stack(const __grid_constant__ Args a) {
    int values[64];
    for (int i = 0; i < 64; i++) values[((const int*)a.m0)[i] & 63] = i;
    ((int*)a.m1)[threadIdx.x] = values[threadIdx.x & 63];
}
// 2048 threads on a multiprocessor leave 32 registers for each, and 64 values have to be there at the barrier.
extern \"C\" __global__ void __launch_bounds__(1024, 2) kernel_spills(const __grid_constant__ Args a) {
    double values[64];
    #pragma unroll
    for (int i = 0; i < 64; i++) values[i] = ((const volatile double*)a.m0)[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; i++) ((double*)a.m1)[i * 1024 + threadIdx.x] = values[i] * values[63 - i];
}
";
    for arch in ARCHS {
        let compiled = toolkit.compiler.compile(text, arch, STRICT).unwrap();
        let usage = compiled.usage();
        let of = |entry: &str| usage.iter().find(|usage| usage.entry == entry).expect("every entry is told");
        assert_eq!(usage.len(), 3, "{}", compiled.log);
        let shared = of("kernel_shared");
        assert_eq!((shared.shared, shared.stack, shared.spills), (132, 0, 0), "{}", compiled.log);
        assert!((4..=64).contains(&shared.registers), "{}", compiled.log);
        let stack = of("kernel_stack");
        assert_eq!((stack.shared, stack.stack, stack.spills), (0, 256, 0), "{}", compiled.log);
        let spills = of("kernel_spills");
        assert!(spills.spills > 0 && spills.stack > 0 && spills.registers == 32, "{}", compiled.log);
    }
}

#[test]
fn strict_arithmetic_is_ieee_754s() {
    let Some(toolkit) = toolkit() else { return };
    for arch in ARCHS {
        let texts = || {
            [
                elementwise("float", "r = x * y + z;"),
                elementwise("double", "r = x * y + z;"),
                elementwise("float", "r = __fmaf_rn(x, y, z);"),
                elementwise("double", "r = __fma_rn(x, y, z);"),
                elementwise("float", "r = x / y;"),
                elementwise("float", "r = sqrtf(x);"),
            ]
        };
        let [two_single, two_double, one_single, one_double, quotient, root] = sass(toolkit, texts(), arch, STRICT);
        let counts = |code: &str, names: [&str; 3]| names.map(|name| count(code, name));
        // What is written as two operations stays two, and as one, one.
        let (single, double) = (["FMUL", "FADD", "FFMA"], ["DMUL", "DADD", "DFMA"]);
        assert_eq!(counts(&two_single, single), [1, 1, 0], "{arch}\n{two_single}");
        assert_eq!(counts(&two_double, double), [1, 1, 0], "{arch}\n{two_double}");
        assert_eq!(counts(&one_single, single), [0, 0, 1], "{arch}\n{one_single}");
        assert_eq!(counts(&one_double, double), [0, 0, 1], "{arch}\n{one_double}");
        // Subnormals are not flushed.
        assert_eq!(counts(&two_single, ["FMUL.FTZ", "FADD.FTZ", "FFMA.FTZ"]), [0; 3], "{arch}\n{two_single}");
        // Approximations are refined, and arguments for which that fails are seen to.
        for (code, check) in [(&quotient, "FCHK"), (&root, "ISETP")] {
            assert!(count(code, "FFMA") >= 3 && count(code, check) == 1, "{arch}\n{code}");
            assert!(count(code, "CALL") > 0, "{arch}\n{code}");
        }

        let [fast_single, fast_double, _, _, quotient, root] = sass(toolkit, texts(), arch, FAST);
        assert_eq!(counts(&fast_single, ["FMUL", "FADD", "FFMA.FTZ"]), [0, 0, 1], "{arch}\n{fast_single}");
        assert_eq!(counts(&fast_double, double), [0, 0, 1], "{arch}\n{fast_double}");
        for code in [quotient, root] {
            assert_eq!(counts(&code, ["FFMA", "FCHK", "CALL"]), [0; 3], "{arch}\n{code}");
        }
    }
}

#[test]
fn aligned_structures_move_at_once() {
    let Some(toolkit) = toolkit() else { return };
    let text = |dtype: &str, lanes: u32, align: u32| {
        format!(
            "struct Args {{ const char* m0; char* m1; }};
template <typename T, int N, int A> struct alignas(A) Vector {{ T lane[N]; }};
extern \"C\" __global__ void __launch_bounds__(256) kernel_map(const __grid_constant__ Args a) {{
    using V = Vector<{dtype}, {lanes}, {align}>;
    unsigned i = blockIdx.x * 256 + threadIdx.x;
    V x = ((V const*)a.m0)[i], r;
    for (int j = 0; j < {lanes}; j++) r.lane[j] = x.lane[j] + x.lane[j];
    ((V*)a.m1)[i] = r;
}}
"
        )
    };
    const VECTORS: [(&str, u32); 5] =
        [("float", 4), ("double", 2), ("signed char", 16), ("unsigned short", 8), ("long long", 2)];
    for arch in ARCHS {
        let counts = |code: &str| ["LDG.E.128", "LDG", "STG.E.128", "STG"].map(|name| count(code, name));
        for code in sass(toolkit, VECTORS.map(|(dtype, lanes)| text(dtype, lanes, 16)), arch, STRICT) {
            assert_eq!(counts(&code), [1, 1, 1, 1], "{arch}\n{code}");
        }
        // The alignment is what makes the difference.
        for code in sass(toolkit, VECTORS.map(|(dtype, lanes)| text(dtype, lanes, 8)), arch, STRICT) {
            assert_eq!(counts(&code), [0, 2, 0, 2], "{arch}\n{code}");
        }
    }
}

#[test]
fn what_emitted_texts_use_needs_no_headers() {
    let Some(toolkit) = toolkit() else { return };
    let text = "struct Args { const char* m0; char* m1; };
extern __shared__ __align__(16) unsigned char shared[];
extern \"C\" __global__ void __launch_bounds__(256) kernel_words(const __grid_constant__ Args a) {
    unsigned i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x * blockDim.x + threadIdx.x;
    float f = __ldg((const float*)a.m0 + i);
    double d = __ldg((const double*)a.m0 + i);
    f = __fmaf_rn(f, sqrtf(f), floorf(f)) + ceilf(f) + rintf(f) + truncf(f) + fmodf(f, 3.0f) + fabsf(f);
    d = __fma_rn(d, sqrt(d), floor(d)) + ceil(d) + rint(d) + trunc(d) + fmod(d, 3.0) + fabs(d);
    f += __int_as_float(__float_as_int(f) ^ 1) + __uint_as_float(__float_as_uint(f) + 1u);
    d += __longlong_as_double(__double_as_longlong(d) ^ 1);
    unsigned long long u = __umul64hi(__double_as_longlong(d), 5) + __umulhi(__float_as_uint(f), 7u);
    ((float*)shared)[threadIdx.x] = f;
    __syncthreads();
    f = ((float*)shared)[threadIdx.x ^ 1];
    __syncwarp();
    f += __shfl_sync(0xffffffffu, f, 0) + __shfl_down_sync(0xffffffffu, f, 1) + __shfl_xor_sync(0xffffffffu, f, 16);
    d += __shfl_sync(0xffffffffu, d, 0) + __shfl_down_sync(0xffffffffu, d, 1) + __shfl_xor_sync(0xffffffffu, d, 16);
    u += __shfl_sync(0xffffffffu, u, 0) + __shfl_down_sync(0xffffffffu, u, 1) + __shfl_xor_sync(0xffffffffu, u, 16);
    ((double*)a.m1)[i] = f + d + (double)u;
}
";
    for arch in ARCHS {
        let compiled = toolkit.compiler.compile(text, arch, STRICT).unwrap_or_else(|error| panic!("{error}"));
        assert!(!compiled.log.contains("warning"), "{}", compiled.log);
    }
}

#[test]
fn several_threads_compile_at_once() {
    let Some(toolkit) = toolkit() else { return };
    let texts: Vec<String> = (0..4).map(|i| elementwise("float", &format!("r = x * {i}.5f + y + z;"))).collect();
    let compile = |text: &String| toolkit.compiler.compile(text, ARCHS[1], STRICT).map(|compiled| compiled.cubin);
    let alone: Vec<_> = texts.iter().map(compile).collect();
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = texts.iter().map(|text| scope.spawn(move || compile(text))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(alone, together);
    assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "different texts, different code");
}

#[test]
fn a_text_that_does_not_compile_is_saved_and_named() {
    let Some(toolkit) = toolkit() else { return };
    let text = elementwise("float", "r = x * nonsense;");
    let error = toolkit.compiler.compile(&text, ARCHS[0], STRICT).unwrap_err();
    let Error::Compile { file, log } = &error else { panic!("{error:?}") };
    assert!(log.contains("kernel.cu(5): error: identifier \"nonsense\" is undefined"), "{log}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    assert!(error.to_string().contains(file), "{error}");
    std::fs::remove_file(file).unwrap();

    let error = toolkit.compiler.compile("\0", ARCHS[0], STRICT).unwrap_err();
    assert!(matches!(&error, Error::Internal(reason) if reason.contains("zero byte")), "{error:?}");
}

#[test]
fn a_device_that_the_compiler_does_not_know_is_told() {
    let Some(toolkit) = toolkit() else { return };
    for arch in [Arch::new(6, 1), Arch::new(99, 0)] {
        let error = toolkit.compiler.compile("", arch, STRICT).unwrap_err();
        let Error::NoCompiler(reason) = &error else { panic!("{error:?}") };
        assert!(reason.starts_with("NVRTC 13.0 (") && reason.contains("sm_80"), "{reason}");
        assert!(reason.contains(&format!("makes no code for {arch}; it knows sm_75, ")), "{reason}");
    }
}

/// In the process that [`the_environment_names_the_library`] starts.
#[test]
fn child_that_loads() {
    if std::env::var_os("NUMFUSE_TEST_CHILD").is_none() {
        return;
    }
    let loaded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(Compiler::load)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for result in &loaded {
        match result {
            Ok(compiler) => println!("loaded {compiler:?}"),
            Err(error) => println!("failed {error}"),
        }
    }
}

#[test]
fn the_environment_names_the_library() {
    // Loading is once per process, so each case has its own.
    let load = |path: &std::path::Path| {
        let program = std::env::current_exe().expect("a test is a program");
        let mut child = Command::new(program);
        child.args(["--exact", "child_that_loads", "--nocapture"]);
        let output = child.env("NUMFUSE_TEST_CHILD", "1").env("NUMFUSE_NVRTC", path).output().expect("it runs again");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let missing = load(std::path::Path::new("/nowhere/libnvrtc.so"));
    assert_eq!(missing.matches("failed no CUDA compiler: NVRTC cannot be loaded.").count(), 8, "{missing}");
    assert_eq!(missing.matches("\n  /nowhere/libnvrtc.so: ").count(), 8, "{missing}");
    let Some(toolkit) = toolkit() else { return };
    let debug = format!("{:?}", toolkit.compiler);
    let file = debug.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).expect("the path is told");
    for path in [file.as_ref(), std::path::Path::new(file).parent().expect("a file is in a folder")] {
        let found = load(path);
        assert_eq!(found.matches(&format!("loaded {debug}")).count(), 8, "{found}");
    }
}

#[test]
fn a_gate_compiles_many_texts_and_names_what_is_wrong() {
    let Some(toolkit) = toolkit() else { return };
    // More than a batch, all with the same names in them; one mentions a name that only begins like the entry's.
    let sources: Vec<(String, Source)> = (0..60)
        .map(|i| {
            (
                format!("text {i}"),
                source(elementwise("float", &format!("int kernel_map2 = {i}; r = x * (kernel_map2 * 4 + 3);"))),
            )
        })
        .collect();
    let with = |changed: &[(usize, &Source)]| {
        let mut all: Vec<(String, &Source)> = sources.iter().map(|(name, source)| (name.clone(), source)).collect();
        for (index, source) in changed {
            all[*index].1 = source;
        }
        toolkit.check(&all, ARCHS[1], LIMITS)
    };
    let entries = with(&[]).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = entries.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!(names, sources.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    for entry in &entries {
        assert_eq!(entry.usage.entry, "kernel_map");
        assert_eq!([entry.count("FMUL"), entry.count("STG"), entry.count("EXIT")], [1, 1, 1], "{}", entry.sass);
    }

    let wrong = source(elementwise("float", "r = nonsense;"));
    let errors = with(&[(7, &wrong), (55, &wrong)]).unwrap_err();
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("text ")).collect();
    assert!(lines[0].starts_with("text 7, sm_90: ") && lines[1].starts_with("text 55, sm_90: "), "{errors}");
    assert_eq!((lines.len(), errors.matches("\"nonsense\" is undefined").count()), (2, 2), "{errors}");

    let large = source(elementwise("float", "__shared__ float row[300]; row[i] = x; __syncthreads(); r = row[i ^ 1];"));
    let errors = with(&[(55, &large)]).unwrap_err();
    assert!(errors.starts_with("text 55, sm_90: Usage { entry: \"kernel_map\""), "{errors}");
    assert!(errors.contains("shared: 1200 } exceeds") && errors.lines().count() == 1, "{errors}");
}
