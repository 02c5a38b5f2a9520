//! What the tests of the driver layer do with a device, in short.

#![allow(dead_code, reason = "each test file uses a part of it")]

use super::fake::machine_code;
use numfuse_cuda::driver::{Function, Memory, Module, Stream};
use numfuse_cuda::emit::{Grid, Source};
use numfuse_cuda::{Device, Error};

/// The text of [`text`].
pub const TEXT: &str = r#"
struct Args { const float* m0; float* m1; long long n; };

extern "C" __global__ void __launch_bounds__(256) kernel_scale(const __grid_constant__ Args a) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.n) a.m1[i] = 2.0f * a.m0[i] + 1.0f;
}

extern "C" __global__ void __launch_bounds__(256) kernel_reverse(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    float* row = (float*)shared;
    for (long long i = threadIdx.x; i < a.n; i += blockDim.x) row[i] = a.m0[i];
    __syncthreads();
    for (long long i = threadIdx.x; i < a.n; i += blockDim.x) a.m1[i] = row[a.n - 1 - i];
}
"#;

/// Two kernels, of words for a buffer to read, one to write, and their number of elements.
pub fn text() -> Source {
    Source {
        text: TEXT.to_owned(),
        entries: ["kernel_scale", "kernel_reverse"].map(String::from).into_iter().collect(),
    }
}

/// A grid for so many elements.
pub fn grid(n: usize, shared: u32) -> Grid {
    Grid { entry: 0, blocks: [u32::try_from(n.div_ceil(256)).unwrap(), 1, 1], threads: [256, 1, 1], shared }
}

/// One of the kernels, loaded.
pub fn function(device: &Device, name: &str) -> Function {
    Module::load(device, &machine_code(&text())).unwrap().function(name).unwrap()
}

/// Numbers as bytes.
pub fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// Bytes as numbers.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect()
}

/// So many numbers.
pub fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 3.0).collect()
}

/// What `kernel_scale` makes of numbers.
pub fn scaled(numbers: &[f32]) -> Vec<f32> {
    numbers.iter().map(|x| 2.0 * x + 1.0).collect()
}

/// Numbers on the device.
pub fn uploaded(stream: &Stream, numbers: &[f32]) -> Memory {
    let memory = stream.allocate(numbers.len() * 4).unwrap();
    stream.upload(&memory, 0, &bytes(numbers)).unwrap();
    memory
}

/// Numbers from the device.
pub fn downloaded(stream: &Stream, memory: &Memory) -> Vec<f32> {
    let mut bytes = vec![0; memory.len()];
    stream.download(memory, 0, &mut bytes).unwrap();
    floats(&bytes)
}

/// Submits `to = 2 * from + 1`.
pub fn scale(stream: &Stream, function: &Function, from: &Memory, to: &Memory) -> Result<(), Error> {
    let n = from.len() / 4;
    // SAFETY: both have `n` numbers.
    unsafe { stream.launch(function, &grid(n, 0), &[from.address(), to.address(), n as u64]) }
}
