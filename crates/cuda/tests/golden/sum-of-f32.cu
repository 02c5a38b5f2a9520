// sum of f32
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
struct Args {
    i64 n;
    const char* m0;
    char* m1;
    char* workspace;
    i64 rows;
};
static __device__ __forceinline__ void step_sum_f32(f32 &x0, f32 x1) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = v0 + v1;
    x0 = v2;
}
static __device__ __forceinline__ void merge_sum_f32(f32 &x0, f32 x1) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = v0 + v1;
    x0 = v2;
}
extern "C" __global__ void __launch_bounds__(256) kernel_loop0(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, leaves = (n + 1023) / 1024;
    const i64 chunks = (leaves + 63) / 64;
    const idx row = (idx)(blockIdx.x / (u32)chunks);
    const idx chunk = (idx)(blockIdx.x % (u32)chunks) * 64;
    const idx end = chunk + 64 < leaves ? chunk + 64 : leaves;
    const int t = threadIdx.x % 16, group = threadIdx.x / 16;
    const char* const p0 = a.m0;
    char* const p1 = a.m1;
    char* const frame = a.workspace + (i64)row * 8;
    char* const partials = a.workspace + a.rows * 8 + (i64)row * 8 * chunks;
    extern __shared__ __align__(16) unsigned char shared[];
    const idx count = end - chunk;
    for (idx batch = chunk; batch < end; batch += 16) {
        const idx begin = (batch + group) * 1024;
        f32 s0_0[4] = {(-0.0f), (-0.0f), (-0.0f), (-0.0f)};
        for (int step = 0; step < 16; step += 4) {
            if (begin + step * 64 >= n) break;
            const idx first = begin + step * 64 + t * 4;
            Vector<f32, 4> x0[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                if (i + 4 <= n) {
                    x0[u] = *(const Vector<f32, 4>*)(p0 + i * 4);
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k < n ? i + k : n - 1;
                        x0[u].e[k] = *(const f32*)(p0 + j * 4);
                    }
                }
            }
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v0 = x0[u].e[k];
                    if (i + k < n) {
                        step_sum_f32(s0_0[k], v0);
                    }
                }
            }
        }
        #pragma unroll
        for (int d = 8; d > 0; d /= 2) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0 = __shfl_down_sync(0xffffffffu, s0_0[k], d, 16);
                merge_sum_f32(s0_0[k], b0);
            }
        }
        merge_sum_f32(s0_0[0], s0_0[2]);
        merge_sum_f32(s0_0[1], s0_0[3]);
        merge_sum_f32(s0_0[0], s0_0[1]);
        if (t == 0 && begin < n) {
            *(f32*)(shared + (0 * count + (batch + group - chunk)) * 8) = s0_0[0];
        }
    }
    __syncthreads();
    for (i64 d = 1; d < count; d *= 2) {
        for (i64 at = (i64)threadIdx.x * 2 * d; at + d < count; at += (i64)256 * 2 * d) {
            f32 a0[2];
            #pragma unroll
            for (int k = 0; k < 2; k++) {
                if (at + k * d >= count) break;
                a0[k] = *(f32*)(shared + (0 * count + (at + k * d)) * 8);
            }
            #pragma unroll
            for (int s = 1; s < 2; s *= 2) {
                #pragma unroll
                for (int k = 0; k + s < 2; k += 2 * s) {
                    if (at + (k + s) * d >= count) break;
                    merge_sum_f32(a0[k], a0[k + s]);
                }
            }
            *(f32*)(shared + (0 * count + at) * 8) = a0[0];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *(f32*)(partials + (0 * chunks + (chunk / 64)) * 8) = *(f32*)(shared + (0 * count + 0) * 8);
    }
}
extern "C" __global__ void __launch_bounds__(1024) kernel_join0(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, leaves = (n + 1023) / 1024;
    const i64 chunks = (leaves + 63) / 64;
    const idx row = (idx)blockIdx.x;
    const char* const p0 = a.m0;
    char* const p1 = a.m1;
    char* const frame = a.workspace + (i64)row * 8;
    char* const partials = a.workspace + a.rows * 8 + (i64)row * 8 * chunks;
    __syncthreads();
    for (i64 d = 1; d < chunks; d *= 8) {
        for (i64 at = (i64)threadIdx.x * 8 * d; at + d < chunks; at += (i64)1024 * 8 * d) {
            f32 a0[8];
            #pragma unroll
            for (int k = 0; k < 8; k++) {
                if (at + k * d >= chunks) break;
                a0[k] = *(f32*)(partials + (0 * chunks + (at + k * d)) * 8);
            }
            #pragma unroll
            for (int s = 1; s < 8; s *= 2) {
                #pragma unroll
                for (int k = 0; k + s < 8; k += 2 * s) {
                    if (at + (k + s) * d >= chunks) break;
                    merge_sum_f32(a0[k], a0[k + s]);
                }
            }
            *(f32*)(partials + (0 * chunks + at) * 8) = a0[0];
        }
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    *(f32*)(frame + 0) = *(f32*)(partials + (0 * chunks + 0) * 8);
    const f32 v1 = *(const f32*)(frame + 0);
    *(f32*)p1 = v1;
}
