// variances of rows
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
static __device__ __forceinline__ i64 least(i64 x, i64 y) { return x < y ? x : y; }
struct Args {
    i64 n;
    i64 rows;
    const char* m0;
    i64 m0_outer0;
    char* m1;
    i64 m1_outer0;
};
static __device__ __forceinline__ void step_moments_f32(f32 &x0, f32 &x1, f32 x2, f32 x3) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = x2;
    const f32 v3 = x3;
    const f32 v5 = 1.0f / v3;
    const f32 v6 = v2 - v0;
    const f32 v7 = __fmaf_rn(v6, v5, v0);
    const f32 v8 = v2 - v7;
    const f32 v9 = __fmaf_rn(v6, v8, v1);
    x0 = v7;
    x1 = v9;
}
static __device__ __forceinline__ void merge_moments_f32(f32 &x0, f32 &x1, f32 x2, f32 x3, f32 x4, f32 x5) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = x2;
    const f32 v3 = x3;
    const f32 v4 = x4;
    const f32 v5 = x5;
    const f32 v6 = v4 + v5;
    const f32 v7 = v5 / v6;
    const f32 v8 = v2 - v0;
    const f32 v9 = __fmaf_rn(v8, v7, v0);
    const f32 v10 = v1 + v3;
    const f32 v11 = v8 * v8;
    const f32 v12 = v4 * v7;
    const f32 v13 = __fmaf_rn(v11, v12, v10);
    x0 = v9;
    x1 = v13;
}
extern "C" __global__ void __launch_bounds__(64) kernel_rows(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, leaves = (n + 1023) / 1024;
    const int t = threadIdx.x % 16;
    const idx row = (idx)blockIdx.x;
    const int group = threadIdx.x / 16;
    const idx o0 = row;
    const char* const p0 = a.m0 + (o0 * (idx)a.m0_outer0);
    char* const p1 = a.m1 + (o0 * (idx)a.m1_outer0);
    extern __shared__ __align__(16) unsigned char shared[];
    f32 r0 = 0.0f;
    for (idx batch = 0; batch < leaves; batch += 4) {
        const idx begin = (batch + group) * 1024;
        f32 s0_0[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        f32 s0_1[4] = {0.0f, 0.0f, 0.0f, 0.0f};
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
                        step_moments_f32(s0_0[k], s0_1[k], v0, (f32)((step + u) / 1 + 1));
                    }
                }
            }
        }
        const idx size = n - begin < 1024 ? n - begin : 1024;
        idx c0[4];
        #pragma unroll
        for (int q = 0; q < 4; q++) {
            const idx lane = q / 4 * 64 + t * 4 + q % 4;
            c0[q] = size > lane ? (size - lane + 63) / 64 : 0;
        }
        #pragma unroll
        for (int d = 8; d > 0; d /= 2) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0 = __shfl_down_sync(0xffffffffu, s0_0[k], d, 16);
                f32 b1 = __shfl_down_sync(0xffffffffu, s0_1[k], d, 16);
                const idx cb = (idx)__shfl_down_sync(0xffffffffu, c0[k], d, 16);
                if (cb > 0) merge_moments_f32(s0_0[k], s0_1[k], b0, b1, (f32)(c0[k]), (f32)(cb));
                c0[k] += cb;
            }
        }
        if (c0[2] > 0) merge_moments_f32(s0_0[0], s0_1[0], s0_0[2], s0_1[2], (f32)(c0[0]), (f32)(c0[2]));
        c0[0] += c0[2];
        if (c0[3] > 0) merge_moments_f32(s0_0[1], s0_1[1], s0_0[3], s0_1[3], (f32)(c0[1]), (f32)(c0[3]));
        c0[1] += c0[3];
        if (c0[1] > 0) merge_moments_f32(s0_0[0], s0_1[0], s0_0[1], s0_1[1], (f32)(c0[0]), (f32)(c0[1]));
        c0[0] += c0[1];
        if (t == 0 && begin < n) {
            *(f32*)(shared + (0 * leaves + (batch + group)) * 8) = s0_0[0];
            *(f32*)(shared + (1 * leaves + (batch + group)) * 8) = s0_1[0];
        }
    }
    __syncthreads();
    for (i64 d = 1; d < leaves; d *= 2) {
        for (i64 at = (i64)threadIdx.x * 2 * d; at + d < leaves; at += (i64)64 * 2 * d) {
            f32 a0[2];
            f32 a1[2];
            #pragma unroll
            for (int k = 0; k < 2; k++) {
                if (at + k * d >= leaves) break;
                a0[k] = *(f32*)(shared + (0 * leaves + (at + k * d)) * 8);
                a1[k] = *(f32*)(shared + (1 * leaves + (at + k * d)) * 8);
            }
            #pragma unroll
            for (int s = 1; s < 2; s *= 2) {
                #pragma unroll
                for (int k = 0; k + s < 2; k += 2 * s) {
                    if (at + (k + s) * d >= leaves) break;
                    const i64 before = least(0 + (at + k * d) * 1024, n), middle = least(0 + (at + (k + s) * d) * 1024, n);
                    const i64 after = least(0 + (at + (k + 2 * s) * d) * 1024, n);
                    if ((after - middle) > 0) merge_moments_f32(a0[k], a1[k], a0[k + s], a1[k + s], (f32)((middle - before)), (f32)((after - middle)));
                }
            }
            *(f32*)(shared + (0 * leaves + at) * 8) = a0[0];
            *(f32*)(shared + (1 * leaves + at) * 8) = a1[0];
        }
        __syncthreads();
    }
    r0 = *(f32*)(shared + (1 * leaves + 0) * 8);
    __syncthreads();
    const f32 v1 = r0;
    if (threadIdx.x == 0) *(f32*)p1 = v1;
}
