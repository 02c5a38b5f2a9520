//! The emulator is right, and finds bugs: kernels written by hand give the results that they should, at boundary sizes and
//! odd alignments, without a complaint of any build; and each planted bug, a change of a few characters, is found.

// Where the emulator can switch stacks.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

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
    assert!(refusal(|l| l.grid.threads = [32, 3, 1]).contains("__launch_bounds__ are 64 threads, not 96"));
    assert!(refusal(|l| l.grid.blocks = [1, 65536, 1]).contains("no device runs a grid of (1, 65536, 1) blocks"));
    assert!(refusal(|l| l.grid.shared = 300_000).contains("no device has 0 + 300000 bytes"));
    assert!(refusal(|l| l.words.push(0)).contains("passes 5 words of arguments, the kernel takes 32 bytes"));
}

#[test]
fn a_kernel_that_does_not_end_is_ended() {
    let text = "struct Args { char* m0; };
extern \"C\" __global__ void kernel_loop(const __grid_constant__ Args a) {
    while (*(volatile unsigned*)a.m0 == 0) {}
}";
    let source = source(text, &["kernel_loop"]);
    let mut emulator = Emulator::build(&[("loop".to_owned(), &source)], Build::Plain);
    emulator.limit = 1;
    let launches = vec![launch("loop", 0, 1, 32, 0, &[(0, 0)], &[])];
    let failure = emulator.run(&[Job { seed: 0, buffers: vec![buffer(&[0u32], 0)], launches }]).unwrap_err();
    assert!(failure.report.contains("did not end within 1 s"), "{failure:?}");
}

#[test]
fn shuffles_and_intrinsics_are_those_of_the_manual() {
    let source = source(MANUAL, &["kernel_shuffles", "kernel_intrinsics"]);
    let emulator = Emulator::build(&[("manual".to_owned(), &source)], Build::Address);
    let widths = [1, 2, 4, 8, 16, 32];
    let amounts = [0, 1, 2, 3, 5, 8, 16, 31];
    let mut parameters = Vec::new();
    let mut expected = Vec::new();
    for (width, amount) in widths.iter().flat_map(|w| amounts.iter().map(|a| (*w, *a))) {
        parameters.extend([width, amount]);
        for thread in 0..64u32 {
            let (lane, segment, index) = (thread % 32, thread % 32 / width * width, thread % width);
            let xor = lane ^ amount;
            let sources = [
                segment + amount % width,
                if index + amount < width { lane + amount } else { lane },
                if index >= amount { lane - amount } else { lane },
                if xor / width <= lane / width { xor } else { lane },
            ];
            expected.extend(sources.map(|source| f64::from(thread / 32 * 32 + source) * 1.5));
        }
    }
    let count = parameters.len() as u64 / 2;
    let buffers = vec![buffer(&parameters, 0), buffer(&vec![f64::NAN; expected.len()], 0)];
    let launches = vec![launch("manual", 0, 1, 64, 0, &[(0, 0), (1, 0)], &[count])];
    let shuffles = Job { seed: 3, buffers, launches };

    let edges =
        [0u64, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1234_5678_9abc_def0, u64::MAX / 2, 1 << 63, u64::MAX];
    let pairs: Vec<u64> = edges.iter().flat_map(|x| edges.iter().flat_map(|y| [*x, *y])).collect();
    let results: Vec<u64> = pairs
        .chunks(2)
        .flat_map(|pair| {
            let (x, y) = (pair[0], pair[1]);
            let (a, b) = (x as u32, y as u32);
            let half = f64::from(a as i32) / 2.0;
            [
                (u64::from(a) * u64::from(b)) >> 32,
                ((u128::from(x) * u128::from(y)) >> 64) as u64,
                ((i128::from(x.cast_signed()) * i128::from(y.cast_signed())) >> 64) as u64,
                u64::from(a.leading_zeros() + x.leading_zeros() * 100 + x.count_ones() * 10_000),
                half.round_ties_even().to_bits(),
                (half as f32).floor().to_bits().into(),
                (f64::from(a) % 7.5).to_bits(),
                f64::from(a).mul_add(f64::from(b), -1.0).to_bits(),
            ]
        })
        .collect();
    let buffers = vec![buffer(&pairs, 0), buffer(&vec![0u64; results.len()], 0)];
    let count = pairs.len() as u64 / 2;
    let launches = vec![launch("manual", 1, 2, 64, 0, &[(0, 0), (1, 0)], &[count])];
    let intrinsics = Job { seed: 4, buffers, launches };

    let left = emulator.run(&[shuffles, intrinsics]).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert_eq!(words::<f64>(&left[0].buffers[1]), expected);
    assert_eq!(words::<u64>(&left[1].buffers[1]), results);
}

/// Random accesses and barriers: the detector complains if and only if two accesses are unordered, which a model finds out
/// that knows, for each thread, all accesses before the present.
#[test]
fn the_race_detector_finds_all_races_and_no_others() {
    let source = source(SCRIPT, &["kernel_script"]);
    let emulator = Emulator::build(&[("script".to_owned(), &source)], Build::Race);
    let job = |seed: u64, script: &[Step]| {
        let steps: Vec<u32> = script.iter().flat_map(|s| [s.kind, s.block, s.thread, s.address]).collect();
        let buffers = vec![buffer(&steps, 0), buffer(&[0u32; 48], 0)];
        let launches = vec![launch("script", 0, 2, 64, 16, &[(0, 0), (1, 0)], &[script.len() as u64])];
        Job { seed, buffers, launches }
    };
    let scripts: Vec<Vec<Step>> = (0..200).map(random_script).collect();
    let (racy, clean): (Vec<_>, Vec<_>) = scripts.iter().zip(0..).partition(|(script, _)| has_race(script));
    assert!(racy.len() > 40 && clean.len() > 40, "{} and {} scripts", racy.len(), clean.len());
    let jobs: Vec<Job> = clean.iter().map(|(script, seed)| job(*seed, script)).collect();
    if let Err(failure) = emulator.run(&jobs) {
        panic!("no race: {:?}\n{}", clean[failure.job].0, failure.report);
    }
    for (script, seed) in racy {
        match emulator.run(&[job(seed, script)]) {
            Ok(_) => panic!("a race is not found, seed {seed}: {script:?}"),
            Err(failure) => assert!(failure.report.contains("data race"), "{script:?}\n{failure:?}"),
        }
    }
}

/// What a thread of a block does in a script, or all of them.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// 0: a barrier. 1: a `__syncwarp` of warp `thread` with mask `address`. 2 and 3: a read and a write of global memory,
    /// 4 and 5: of shared memory.
    kind: u32,
    block: u32,
    thread: u32,
    address: u32,
}

fn random_script(seed: u64) -> Vec<Step> {
    // splitmix64
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n) as u32
    };
    // Few threads and addresses, so that there is something between them.
    let count = 2 + below(15);
    let step = |_| match below(8) {
        0 => Step { kind: 0, block: 0, thread: 0, address: 0 },
        1..4 => Step { kind: 1, block: 0, thread: below(2), address: below(16) | (0xffff_0000 * below(2)) },
        _ => {
            let kind = [2, 3, 4, 4, 4, 5][below(6) as usize];
            let block = if below(8) == 0 { 1 } else { 0 };
            Step { kind, block, thread: below(4) + 32 * below(2) * below(2), address: below(2) }
        }
    };
    (0..count).map(step).collect()
}

fn has_race(script: &[Step]) -> bool {
    // For each thread of two blocks, which steps happened before what it does next.
    let mut before = [[0u64; 64]; 2];
    for (i, step) in script.iter().enumerate() {
        let Step { kind, block, thread, address } = *step;
        match kind {
            0 => {
                for threads in &mut before {
                    *threads = [threads.iter().fold(0, |all, one| all | one); 64];
                }
            }
            1 => {
                for threads in &mut before {
                    let lanes = &mut threads[thread as usize * 32..][..32];
                    let all = (0..32).filter(|k| address >> k & 1 != 0).fold(0, |all, k| all | lanes[k]);
                    (0..32).filter(|k| address >> k & 1 != 0).for_each(|k| lanes[k] = all);
                }
            }
            _ => {
                let known = &mut before[block as usize][thread as usize];
                let conflicts = |(k, other): (usize, &Step)| {
                    let same_place = other.kind / 2 == kind / 2 && other.kind > 1 && other.address == address;
                    let one_writes = other.kind % 2 == 1 || kind % 2 == 1;
                    let apart = if other.block == block { *known >> k & 1 == 0 } else { kind < 4 };
                    same_place && one_writes && apart
                };
                if script[..i].iter().enumerate().any(conflicts) {
                    return true;
                }
                *known |= 1 << i;
            }
        }
    }
    false
}

/// Runs a list of steps.
const SCRIPT: &str = r#"struct Args { const char* m0; char* m1; long long s0; };
struct Step { unsigned kind, block, thread, address; };
extern "C" __global__ void __launch_bounds__(64) kernel_script(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    if (threadIdx.x < 16) shared[threadIdx.x] = 0;
    __syncthreads();
    unsigned sum = 0;
    for (long long i = 0; i < a.s0; i++) {
        const Step p = ((const Step*)a.m0)[i];
        if (p.kind == 0) __syncthreads();
        else if (p.kind == 1) {
            if (threadIdx.x / 32 == p.thread && (p.address >> threadIdx.x % 32 & 1)) __syncwarp(p.address);
        }
        else if (p.block == blockIdx.x && p.thread == threadIdx.x) {
            if (p.kind == 2) sum += a.m1[p.address];
            if (p.kind == 3) a.m1[p.address] = 1;
            if (p.kind == 4) sum += shared[p.address];
            if (p.kind == 5) shared[p.address] = 1;
        }
    }
    a.m1[64 + blockIdx.x * 64 + threadIdx.x] = sum;
}
"#;

/// Shuffles with every width, and intrinsics.
const MANUAL: &str = r#"typedef unsigned long long u64;
struct Args { const char* m0; char* m1; long long s0; };
extern "C" __global__ void kernel_shuffles(const __grid_constant__ Args a) {
    const unsigned all = 0xffffffffu;
    const double x = threadIdx.x * 1.5;
    const float y = threadIdx.x * 1.5f;
    for (long long i = 0; i < a.s0; i++) {
        const unsigned width = ((const unsigned*)a.m0)[2 * i], amount = ((const unsigned*)a.m0)[2 * i + 1];
        double* const out = (double*)a.m1 + (i * 64 + threadIdx.x) * 4;
        out[0] = __shfl_sync(all, x, amount, width);
        out[1] = __shfl_down_sync(all, y, amount, width);
        out[2] = __shfl_up_sync(all, x, amount, width);
        out[3] = __shfl_xor_sync(all, y, amount, width);
    }
}
extern "C" __global__ void kernel_intrinsics(const __grid_constant__ Args a) {
    const long long i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.s0) return;
    const u64 x = ((const u64*)a.m0)[2 * i], y = ((const u64*)a.m0)[2 * i + 1];
    u64* const out = (u64*)a.m1 + i * 8;
    const double half = (double)(int)(unsigned)x / 2.0;
    out[0] = __umulhi((unsigned)x, (unsigned)y);
    out[1] = __umul64hi(x, y);
    out[2] = (u64)__mul64hi((long long)x, (long long)y);
    out[3] = (u64)(__clz((int)(unsigned)x) + __clzll((long long)x) * 100 + __popcll(x) * 10000);
    out[4] = (u64)__double_as_longlong(rint(half));
    out[5] = __float_as_uint(floor((float)half));
    out[6] = (u64)__double_as_longlong(fmod((double)(unsigned)x, 7.5));
    out[7] = (u64)__double_as_longlong(__fma_rn((double)(unsigned)x, (double)(unsigned)y, -1.0));
}
"#;

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
        plain: Report("a lane of a warp operation is at a barrier"),
        address: Report("a lane of a warp operation is at a barrier"),
        race: Report("a lane of a warp operation is at a barrier"),
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
elements!(u32 i32 u64 i64 f32 f64);

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
