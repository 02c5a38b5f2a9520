//! The emulator is right, and finds bugs: kernels written by hand give the results that they should, at boundary sizes and
//! odd alignments, without a complaint of any build; and each planted bug, a change of a few characters, is found.

#[path = "common/emulator.rs"]
mod emulator;

use emulator::{Buffer, Build, Emulator, Failure, Job, JobResult, Launch, Relocation};
use numfuse_cuda::emit::{Grid, Source};

#[test]
fn kernels_are_right_and_clean() {
    clean(Build::Plain);
}

#[test]
fn kernels_are_right_and_clean_under_address_sanitizer() {
    clean(Build::Address);
}

#[test]
fn kernels_are_right_and_clean_under_the_race_detector() {
    clean(Build::Race);
}

#[test]
fn planted_bugs_are_found() {
    planted(Build::Plain);
}

#[test]
fn planted_bugs_are_found_by_sanitizers() {
    planted(Build::Address);
}

#[test]
fn planted_races_are_found() {
    planted(Build::Race);
}

#[test]
fn orders_repeat_with_the_seed() {
    // Every thread writes one element: the last one to run wins.
    let text = "struct Args { char* m0; };
extern \"C\" __global__ void kernel_last(const __grid_constant__ Args a) {
    *(unsigned*)a.m0 = threadIdx.x;
}";
    let source = source(text, &["kernel_last"]);
    let emulator = Emulator::build(&[("last".to_owned(), &source)], Build::Plain);
    let job = |seed| {
        let launch = launch("last", 0, 1, 64, 0, &[(0, 0)], &[]);
        Job { seed, buffers: vec![buffer(&[0u32], 0)], launches: vec![launch] }
    };
    let last = |seed| words::<u32>(&emulator.run(&[job(1), job(seed)]).unwrap()[1].buffers[0])[0];
    let winners: Vec<u32> = (0..20).map(last).collect();
    assert_eq!(winners, (0..20).map(last).collect::<Vec<_>>());
    assert!(winners.iter().any(|winner| *winner != winners[0]), "{winners:?}");
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    let source = source(MAP, &["kernel_map", "kernel_elements"]);
    let emulator = Emulator::build(&[("map".to_owned(), &source)], Build::Plain);
    let refusal = |change: fn(&mut Launch)| {
        let mut job = map(5, [0, 0]).job;
        change(&mut job.launches[0]);
        emulator.run(&[job]).unwrap_err().report
    };
    assert!(refusal(|l| l.grid.threads = [1025, 1, 1]).contains("no device runs a block of (1025, 1, 1) threads"));
    assert!(refusal(|l| l.grid.blocks = [1, 65536, 1]).contains("no device runs a grid of (1, 65536, 1) blocks"));
    assert!(refusal(|l| l.grid.shared = 300_000).contains("no device has 0 + 300000 bytes"));
    assert!(refusal(|l| l.words.push(0)).contains("passes 5 words of arguments, the kernel takes 32 bytes"));
}

/// `out = fma(x, y, 1)`: four elements a thread where addresses allow it, and a tail; and one element a thread.
const MAP: &str = r#"struct Args { const char* m0; const char* m1; char* m2; long long s0; };
struct alignas(16) Vector { float e[4]; };
extern "C" __global__ void __launch_bounds__(64) kernel_map(const __grid_constant__ Args a) {
    const long long vectors = a.s0 / 4;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < vectors) {
        const Vector x = ((const Vector*)a.m0)[i];
        const Vector y = ((const Vector*)a.m1)[i];
        Vector r;
        for (int k = 0; k < 4; k++) r.e[k] = __fmaf_rn(x.e[k], y.e[k], 1.0f);
        ((Vector*)a.m2)[i] = r;
    }
    const long long t = vectors * 4 + i;
    if (t < a.s0) {
        ((float*)a.m2)[t] = __fmaf_rn(__ldg((const float*)a.m0 + t), __ldg((const float*)a.m1 + t), 1.0f);
    }
}
extern "C" __global__ void __launch_bounds__(64) kernel_elements(const __grid_constant__ Args a) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.s0) {
        ((float*)a.m2)[i] = __fmaf_rn(((const float*)a.m0)[i], ((const float*)a.m1)[i], 1.0f);
    }
}
"#;

/// The sum of integers: one partial sum for each block, and a second launch for the sum of these.
const SUM: &str = r#"struct Args { const char* m0; char* m1; long long s0; };
typedef unsigned long long u64;
template <class T> __device__ __forceinline__ T warp_sum(T v) {
    #pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_down_sync(0xffffffffu, v, o);
    return v;
}
static __device__ __forceinline__ u64 block_sum(u64 v, u64* part) {
    const unsigned lane = threadIdx.x & 31u, warp = threadIdx.x >> 5;
    v = warp_sum(v);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    const unsigned warps = blockDim.x >> 5;
    v = threadIdx.x < warps ? part[threadIdx.x] : 0;
    if (warp == 0) v = warp_sum(v);
    return v;
}
extern "C" __global__ void __launch_bounds__(96) kernel_partial(const __grid_constant__ Args a) {
    __shared__ u64 part[3];
    u64 v = 0;
    for (long long i = blockIdx.x * 96u + threadIdx.x; i < a.s0; i += gridDim.x * 96u) v += (u64)((const int*)a.m0)[i];
    v = block_sum(v, part);
    if (threadIdx.x == 0) ((u64*)a.m1)[blockIdx.x] = v;
}
extern "C" __global__ void __launch_bounds__(96) kernel_finish(const __grid_constant__ Args a) {
    __shared__ u64 part[3];
    u64 v = 0;
    for (long long i = threadIdx.x; i < a.s0; i += 96) v += ((const u64*)a.m0)[i];
    v = block_sum(v, part);
    if (threadIdx.x == 0) *(u64*)a.m1 = v;
}
"#;

/// Each row less its greatest element: a block for a row, a tree in dynamic shared memory, and a `__syncwarp`.
const ROWS: &str = r#"struct Args { const char* m0; char* m1; long long s0; };
extern "C" __global__ void __launch_bounds__(64) kernel_rows(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    double* const tree = (double*)shared;
    const double* const x = (const double*)a.m0 + blockIdx.x * a.s0;
    double* const out = (double*)a.m1 + blockIdx.x * a.s0;
    double v = __longlong_as_double(0xfff0000000000000ll);
    for (long long j = threadIdx.x; j < a.s0; j += blockDim.x) v = x[j] > v ? x[j] : v;
    tree[threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        const double w = tree[threadIdx.x + 32];
        tree[threadIdx.x] = w > v ? w : v;
        __syncwarp();
        v = tree[threadIdx.x ^ 1];
        v = v > tree[threadIdx.x] ? v : tree[threadIdx.x];
        for (int o = 2; o < 32; o *= 2) {
            const double u = __shfl_xor_sync(0xffffffffu, v, o);
            v = u > v ? u : v;
        }
        __syncwarp();
        if (threadIdx.x == 0) tree[0] = v;
    }
    __syncthreads();
    for (long long j = threadIdx.x; j < a.s0; j += blockDim.x) out[j] = x[j] - tree[0];
}
"#;

/// A change of a text that makes it wrong.
struct Bug {
    /// Which of `map`, `sum` and `rows`.
    text: &'static str,
    from: &'static str,
    to: &'static str,
    /// What each build says of it.
    plain: Says,
    address: Says,
    race: Says,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Says {
    /// The job fails, with this in the report.
    Report(&'static str),
    /// A result is wrong.
    WrongResult,
    /// One of both: the host may trap, or not.
    Found,
    /// This build does not see it.
    Nothing,
    /// Where things lie in memory decides.
    Unsure,
}

use Says::{Found, Nothing, Report, Unsure, WrongResult};

const BUGS: &[Bug] = &[
    // No barrier after shared memory is written.
    Bug {
        text: "sum",
        from: "    if (lane == 0) part[warp] = v;\n    __syncthreads();",
        to: "    if (lane == 0) part[warp] = v;",
        plain: WrongResult,
        address: WrongResult,
        race: Report("data race: the "),
    },
    // No barrier before the tree is used for something else: the threads that are late read what has been written since.
    Bug {
        text: "rows",
        from: "tree[threadIdx.x ^ 1];\n",
        to: "tree[threadIdx.x ^ 1];\n        if (threadIdx.x == 31) tree[30] = 1e300;\n",
        plain: WrongResult,
        address: WrongResult,
        race: Report("data race: the "),
    },
    // No __syncwarp between lanes that use each other's elements.
    Bug {
        text: "rows",
        from: "        __syncwarp();\n        v = tree",
        to: "        v = tree",
        plain: WrongResult,
        address: WrongResult,
        race: Report("data race: the "),
    },
    // The result is stored while others still read.
    Bug {
        text: "rows",
        from: "        }\n        __syncwarp();\n        if (threadIdx.x == 0) tree[0] = v;",
        to: "        }\n        if (threadIdx.x == 0) tree[0] = v;",
        plain: Nothing,
        address: Nothing,
        race: Report("data race: the write at rows"),
    },
    // No guard of the tail.
    Bug {
        text: "map",
        from: "if (t < a.s0)",
        to: "if (t < a.s0 + 1)",
        plain: Report("the launch wrote outside of buffer 2"),
        address: Report("heap-buffer-overflow"),
        race: Report("the launch wrote outside of buffer 2"),
    },
    // Vectors beyond the end are read.
    Bug {
        text: "map",
        from: "if (i < vectors) {",
        to: "if (i < vectors + 1) { if (i == vectors) { Vector x = ((const Vector*)a.m0)[i]; if (x.e[3] == 7.25f) *(float*)a.m2 = 1; return; }",
        plain: WrongResult,
        address: Report("heap-buffer-overflow"),
        race: WrongResult,
    },
    // Vectors at addresses that are not multiples of 16.
    Bug {
        text: "map",
        from: "((const Vector*)a.m0)[i]",
        to: "((const Vector*)(a.m0 - (i > 0 ? 4 : 0)))[i]",
        plain: Found,
        address: Report("misaligned address"),
        race: Found,
    },
    // A static shared array that is too short.
    Bug {
        text: "sum",
        from: "kernel_partial(const __grid_constant__ Args a) {\n    __shared__ u64 part[3];",
        to: "kernel_partial(const __grid_constant__ Args a) {\n    __shared__ u64 part[2];",
        plain: Unsure,
        address: Report("global-buffer-overflow"),
        race: Unsure,
    },
    // Dynamic shared memory that is too short.
    Bug {
        text: "rows",
        from: "tree[threadIdx.x] = v;\n    __syncthreads();",
        to: "tree[threadIdx.x] = v;\n    if (threadIdx.x == 63) tree[64] = v;\n    __syncthreads();",
        plain: Report("beyond its dynamic shared memory of 512 bytes"),
        address: Report("use-after-poison"),
        race: Report("is beyond dynamic shared memory"),
    },
    // A lane leaves before a shuffle of all lanes.
    Bug {
        text: "sum",
        from: "    v = block_sum(v, part);\n    if (threadIdx.x == 0) ((u64",
        to: "    if (threadIdx.x == 5) return;\n    v = block_sum(v, part);\n    if (threadIdx.x == 0) ((u64",
        plain: Report("a shuffle at line 5 has a lane that has exited: thread (5, 0, 0) (lane 5)"),
        address: Report("has a lane that has exited"),
        race: Report("has a lane that has exited"),
    },
    // A warp leaves before a barrier.
    Bug {
        text: "rows",
        from: "    __syncthreads();\n    if (threadIdx.x < 32) {",
        to: "    if (threadIdx.x >= 32) return;\n    __syncthreads();\n    {",
        plain: Report("not all threads of a block are at a barrier"),
        address: Report("not all threads of a block are at a barrier"),
        race: Report("not all threads of a block are at a barrier"),
    },
    // A barrier in a branch that not all threads take.
    Bug {
        text: "sum",
        from: "    if (lane == 0) part[warp] = v;\n    __syncthreads();",
        to: "    if (lane == 0) { part[warp] = v; __syncthreads(); }\n    else __syncthreads();",
        plain: Report("threads of a block are at different barriers"),
        address: Report("threads of a block are at different barriers"),
        race: Report("threads of a block are at different barriers"),
    },
    // Half of the lanes of a shuffle wait at another one.
    Bug {
        text: "rows",
        from: "            const double u = __shfl_xor_sync(0xffffffffu, v, o);",
        to: "            double u;\n            if (threadIdx.x & 1) u = __shfl_xor_sync(0xffffffffu, v, o);\n            else u = __shfl_xor_sync(0xffffffffu, v, o);",
        plain: Report("lanes of a warp are at different warp operations"),
        address: Report("lanes of a warp are at different warp operations"),
        race: Report("lanes of a warp are at different warp operations"),
    },
    // Some lanes of a shuffle wait at a barrier.
    Bug {
        text: "rows",
        from: "        __syncwarp();\n        if (threadIdx.x == 0) tree[0] = v;",
        to: "        if (threadIdx.x < 16) __syncwarp();\n        if (threadIdx.x == 0) tree[0] = v;",
        plain: Report("deadlock: thread ("),
        address: Report("deadlock: thread ("),
        race: Report("deadlock: thread ("),
    },
    // A shuffle by lanes that the mask does not name.
    Bug {
        text: "sum",
        from: "0xffffffffu, v, o",
        to: "0x7fffffffu, v, o",
        plain: Report("does not have the lane that calls it"),
        address: Report("does not have the lane that calls it"),
        race: Report("does not have the lane that calls it"),
    },
    // A shuffle that starts too late.
    Bug {
        text: "sum",
        from: "int o = 16;",
        to: "int o = 8;",
        plain: WrongResult,
        address: WrongResult,
        race: WrongResult,
    },
    // Two blocks write one element, and it happens to be the same value.
    Bug {
        text: "map",
        from: "i = (long long)blockIdx.x * blockDim.x + threadIdx.x;\n    if (i < vectors)",
        to: "i = (long long)(blockIdx.x > 0 ? blockIdx.x - 1 : 0) * blockDim.x + threadIdx.x;\n    if (i < vectors)",
        plain: WrongResult,
        address: WrongResult,
        race: Report("by another block"),
    },
    // Shared memory is read that nobody has written.
    Bug {
        text: "sum",
        from: "if (lane == 0) part",
        to: "if (lane == 0 && warp != 1) part",
        plain: WrongResult,
        address: WrongResult,
        race: Report("shared memory that its block has not written"),
    },
    // A signed integer overflows.
    Bug {
        text: "sum",
        from: "    u64 v = 0;\n    for (long long i = blockIdx.x",
        to: "    int w = (int)blockDim.x << 20;\n    for (int k = 0; k < 40; k++) w += w / 2;\n    u64 v = w == 77;\n    for (long long i = blockIdx.x",
        plain: Nothing,
        address: Report("signed integer overflow"),
        race: Nothing,
    },
];

/// A job and what its last buffer has to hold.
struct Case {
    job: Job,
    expected: Vec<u8>,
}

fn clean(build: Build) {
    let texts = texts();
    let texts: Vec<(String, &Source)> = texts.iter().map(|(name, source)| ((*name).to_owned(), source)).collect();
    let emulator = Emulator::build(&texts, build);
    let cases: Vec<Case> = texts.iter().flat_map(|(name, _)| cases(name)).collect();
    let jobs: Vec<Job> = cases.iter().map(|case| case.job.clone()).collect();
    let results = emulator.run(&jobs).unwrap_or_else(|failure| panic!("{failure:?}"));
    for (i, (case, result)) in cases.iter().zip(&results).enumerate() {
        assert!(is_right(case, result), "job {i}, {}", case.job.launches[0].text);
    }
}

fn planted(build: Build) {
    let sources: Vec<Source> = BUGS
        .iter()
        .map(|bug| {
            let (_, correct) = texts().into_iter().find(|(name, _)| *name == bug.text).expect("a text");
            assert_eq!(correct.text.matches(bug.from).count(), 1, "{} has this once: {}", bug.text, bug.from);
            Source { text: correct.text.replace(bug.from, bug.to), ..correct }
        })
        .collect();
    let name = |i: usize| format!("{}-{i}", BUGS[i].text);
    let texts: Vec<(String, &Source)> = sources.iter().enumerate().map(|(i, source)| (name(i), source)).collect();
    let emulator = Emulator::build(&texts, build);
    let mut wrong = Vec::new();
    for (i, bug) in BUGS.iter().enumerate() {
        let expected = match build {
            Build::Plain => bug.plain,
            Build::Address => bug.address,
            Build::Race => bug.race,
        };
        let mut cases = cases(bug.text);
        cases.iter_mut().flat_map(|case| &mut case.job.launches).for_each(|launch| launch.text = name(i));
        let jobs: Vec<Job> = cases.iter().map(|case| case.job.clone()).collect();
        let found = emulator.run(&jobs);
        let is_found = match (&found, expected) {
            (Err(Failure { text, report, .. }), Report(part)) => *text == name(i) && report.contains(part),
            (Ok(results), WrongResult | Found) => {
                cases.iter().zip(results).any(|(case, result)| !is_right(case, result))
            }
            (Err(_), Found) | (_, Unsure) => true,
            (Ok(results), Nothing) => cases.iter().zip(results).all(|(case, result)| is_right(case, result)),
            _ => false,
        };
        if !is_found {
            let report = found.err().map(|failure| failure.report);
            wrong.push(format!("bug {i}: {} becomes\n{}\n{expected:?} expected: {report:?}", bug.from, bug.to));
        }
    }
    assert!(wrong.is_empty(), "{build:?}:\n{}", wrong.join("\n\n"));
}

fn texts() -> Vec<(&'static str, Source)> {
    vec![
        ("map", source(MAP, &["kernel_map", "kernel_elements"])),
        ("sum", source(SUM, &["kernel_partial", "kernel_finish"])),
        ("rows", source(ROWS, &["kernel_rows"])),
    ]
}

fn cases(text: &str) -> Vec<Case> {
    match text {
        "map" => {
            let sizes = [1, 3, 4, 5, 31, 63, 64, 65, 255, 256, 257, 259, 1023, 1031];
            let offsets = [[0, 0], [16, 240], [4, 0], [0, 36], [12, 252]];
            sizes.iter().flat_map(|n| offsets.iter().map(|o| map(*n, *o))).collect()
        }
        "sum" => [1, 2, 31, 32, 95, 96, 97, 1000].iter().flat_map(|n| [1, 3].map(|blocks| sum(*n, blocks))).collect(),
        _ => [(1, 1), (2, 31), (3, 64), (2, 65), (5, 200)].iter().map(|(r, c)| rows(*r, *c)).collect(),
    }
}

fn map(n: usize, offsets: [usize; 2]) -> Case {
    let x: Vec<f32> = (0..n).map(|i| 0.1 + i as f32).collect();
    let y: Vec<f32> = (0..n).map(|i| 1.0 / (3.0 + i as f32)).collect();
    let out: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x.mul_add(*y, 1.0)).collect();
    let [input, output] = offsets;
    let buffers = vec![buffer(&x, input), buffer(&y, input), buffer(&vec![f32::NAN; n], output)];
    let aligned = offsets.iter().all(|offset| offset % 16 == 0);
    let blocks = if aligned { n.div_ceil(4).div_ceil(64) } else { n.div_ceil(64) };
    let launch = launch("map", usize::from(!aligned), blocks, 64, 0, &[(0, 0), (1, 0), (2, 0)], &[n as u64]);
    Case { expected: bytes(&out), job: Job { seed: n as u64, buffers, launches: vec![launch] } }
}

fn sum(n: usize, blocks: usize) -> Case {
    let x: Vec<i32> = (0..n).map(|i| i32::MAX - 7 * i as i32).collect();
    let total: i64 = x.iter().map(|x| i64::from(*x)).sum();
    let buffers = vec![buffer(&x, 4), buffer(&vec![-1i64; blocks], 8), buffer(&[-1i64], 0)];
    let launches = vec![
        launch("sum", 0, blocks, 96, 0, &[(0, 0), (1, 0)], &[n as u64]),
        launch("sum", 1, 1, 96, 0, &[(1, 0), (2, 0)], &[blocks as u64]),
    ];
    Case { expected: bytes(&[total]), job: Job { seed: n as u64, buffers, launches } }
}

fn rows(rows: usize, columns: usize) -> Case {
    let x: Vec<f64> = (0..rows * columns).map(|i| ((i * 7919) % 1009) as f64 - 2000.0).collect();
    let relative = |row: &[f64]| {
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().map(|x| x - greatest).collect::<Vec<_>>()
    };
    let out: Vec<f64> = x.chunks(columns).flat_map(relative).collect();
    let buffers = vec![buffer(&x, 8), buffer(&vec![f64::NAN; x.len()], 248)];
    let launch = launch("rows", 0, rows, 64, 64 * 8, &[(0, 0), (1, 0)], &[columns as u64]);
    Case { expected: bytes(&out), job: Job { seed: columns as u64, buffers, launches: vec![launch] } }
}

fn source(text: &str, entries: &[&str]) -> Source {
    Source { text: text.to_owned(), entries: entries.iter().map(|entry| (*entry).to_owned()).collect() }
}

/// A launch whose arguments are addresses in buffers (which one, and how many bytes from its beginning), then numbers.
fn launch(
    text: &str,
    entry: usize,
    blocks: usize,
    threads: u32,
    shared: u32,
    addresses: &[(usize, i64)],
    numbers: &[u64],
) -> Launch {
    let blocks = u32::try_from(blocks).expect("few blocks");
    let grid = Grid { entry, blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared };
    let relocations = addresses.iter().enumerate();
    let relocations = relocations.map(|(word, (buffer, offset))| Relocation { word, buffer: *buffer, offset: *offset });
    let words = vec![0; addresses.len()].into_iter().chain(numbers.iter().copied()).collect();
    Launch { text: text.to_owned(), grid, words, relocations: relocations.collect() }
}

trait Element: Copy {
    fn to_bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($t:ty)*) => {$(
        impl Element for $t {
            fn to_bytes(self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> $t {
                <$t>::from_ne_bytes(bytes.try_into().expect("the bytes of one element"))
            }
        }
    )*};
}
elements!(u32 i32 i64 f32 f64);

fn bytes<T: Element>(elements: &[T]) -> Vec<u8> {
    elements.iter().flat_map(|element| element.to_bytes()).collect()
}

fn words<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
}

fn buffer<T: Element>(elements: &[T], offset: usize) -> Buffer {
    Buffer { bytes: bytes(elements), offset }
}

/// The last buffer is as it should be, and the first one as it was.
fn is_right(case: &Case, result: &JobResult) -> bool {
    result.buffers.last() == Some(&case.expected) && result.buffers[0] == case.job.buffers[0].bytes
}
