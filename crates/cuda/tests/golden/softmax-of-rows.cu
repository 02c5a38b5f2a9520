// softmax of rows
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
static __device__ __forceinline__ f32 scale_f32(f32 x0, f32 x1) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v3 = v1 + 12583166.0f;
    const u32 v4 = (u32)__float_as_int(v3);
    const u32 v6 = (u32)(u32)22u < 32 ? (u32)((u32)v4 << (u32)(u32)22u) : (u32)0;
    const u32 v8 = (u32)(v6 & (u32)2139095040u);
    const u32 v10 = (u32)(u32)23u < 32 ? (u32)((u32)v4 << (u32)(u32)23u) : (u32)0;
    const u32 v11 = (u32)((u32)v10 - (u32)v8);
    const f32 v12 = __int_as_float((i32)v8);
    const f32 v13 = __int_as_float((i32)v11);
    const f32 v14 = v0 * v12;
    const f32 v15 = v14 * v13;
    return v15;
}
struct Args {
    i64 n;
    i64 rows;
    const char* m0;
    i64 m0_outer0;
    char* m1;
    i64 m1_outer0;
};
static __device__ __forceinline__ void step_max_f32(f32 &x0, f32 x1) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = -v0;
    const f32 v3 = -v1;
    const f32 v4 = v2 < v3 ? v2 : v3;
    const f32 v5 = v3 < v2 ? v3 : v2;
    const u32 v6 = (u32)__float_as_int(v4);
    const u32 v7 = (u32)__float_as_int(v5);
    const u32 v8 = (u32)(v6 | v7);
    const f32 v9 = __int_as_float((i32)v8);
    const f32 v10 = -v9;
    x0 = v10;
}
static __device__ __forceinline__ void merge_max_f32(f32 &x0, f32 x1) {
    const f32 v0 = x0;
    const f32 v1 = x1;
    const f32 v2 = -v0;
    const f32 v3 = -v1;
    const f32 v4 = v2 < v3 ? v2 : v3;
    const f32 v5 = v3 < v2 ? v3 : v2;
    const u32 v6 = (u32)__float_as_int(v4);
    const u32 v7 = (u32)__float_as_int(v5);
    const u32 v8 = (u32)(v6 | v7);
    const f32 v9 = __int_as_float((i32)v8);
    const f32 v10 = -v9;
    x0 = v10;
}
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
extern "C" __global__ void __launch_bounds__(64) kernel_rows(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, leaves = (n + 1023) / 1024;
    const int t = threadIdx.x % 16;
    const i64 at = (i64)blockIdx.x * 4 + threadIdx.x / 16;
    const bool live = at < a.rows;
    const idx row = live ? (idx)at : (idx)(a.rows - 1);
    const idx o0 = row;
    const char* const p0 = a.m0 + (o0 * (idx)a.m0_outer0);
    char* const p1 = a.m1 + (o0 * (idx)a.m1_outer0);
    extern __shared__ __align__(16) unsigned char shared[];
    auto const q0 = shared + threadIdx.x / 16 * (((n * 4 + 15) & ~15));
    auto const q1 = q0;
    f32 r0 = __int_as_float(0xff800000);
    for (idx batch = 0; batch < leaves; batch += 1) {
        const idx begin = batch * 1024;
        f32 s0_0[4] = {__int_as_float(0xff800000), __int_as_float(0xff800000), __int_as_float(0xff800000), __int_as_float(0xff800000)};
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
            Vector<f32, 4> w0[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v12 = x0[u].e[k];
                    w0[u].e[k] = v12;
                    if (i + k < n) {
                        step_max_f32(s0_0[k], v12);
                    }
                }
            }
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                if (i + 4 <= n) {
                    *(Vector<f32, 4>*)(q0 + i * 4) = w0[u];
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k;
                        if (j < n) {
                            *(f32*)(q0 + j * 4) = w0[u].e[k];
                        }
                    }
                }
            }
        }
        #pragma unroll
        for (int d = 8; d > 0; d /= 2) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0 = __shfl_down_sync(0xffffffffu, s0_0[k], d, 16);
                merge_max_f32(s0_0[k], b0);
            }
        }
        merge_max_f32(s0_0[0], s0_0[2]);
        merge_max_f32(s0_0[1], s0_0[3]);
        merge_max_f32(s0_0[0], s0_0[1]);
        r0 = s0_0[0];
    }
    r0 = __shfl_sync(0xffffffffu, r0, 0, 16);
    if (n == 0) r0 = 0.0f;
    const f32 v14 = r0;
    f32 r1 = (-0.0f);
    for (idx batch = 0; batch < leaves; batch += 1) {
        const idx begin = batch * 1024;
        f32 s1_0[4] = {(-0.0f), (-0.0f), (-0.0f), (-0.0f)};
        for (int step = 0; step < 16; step += 4) {
            if (begin + step * 64 >= n) break;
            const idx first = begin + step * 64 + t * 4;
            Vector<f32, 4> z0[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                if (i + 4 <= n) {
                    z0[u] = *(const Vector<f32, 4>*)(q0 + i * 4);
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k < n ? i + k : n - 1;
                        z0[u].e[k] = i + k < n ? *(const f32*)(q0 + (i + k) * 4) : (f32)0;
                    }
                }
            }
            Vector<f32, 4> w1[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v15 = z0[u].e[k];
                    const f32 v16 = v15 - v14;
                    const f32 v17 = (-104.5f) > v16 ? (-104.5f) : v16;
                    const f32 v18 = 89.0f < v17 ? 89.0f : v17;
                    const f32 v19 = __fmaf_rn(v18, 1.442695f, 12582912.0f);
                    const f32 v20 = v19 - 12582912.0f;
                    const f32 v21 = __fmaf_rn(v20, (-0.6931472f), v18);
                    const f32 v22 = __fmaf_rn(v20, 1.9046542e-9f, v21);
                    const f32 v23 = __fmaf_rn(0.0013821648f, v22, 0.008368973f);
                    const f32 v24 = __fmaf_rn(v23, v22, 0.04166826f);
                    const f32 v25 = __fmaf_rn(v24, v22, 0.16666518f);
                    const f32 v26 = __fmaf_rn(v25, v22, 0.49999994f);
                    const f32 v27 = __fmaf_rn(v26, v22, 1.0f);
                    const f32 v28 = __fmaf_rn(v27, v22, 1.0f);
                    const f32 v29 = scale_f32(v28, v20);
                    w1[u].e[k] = v29;
                    if (i + k < n) {
                        step_sum_f32(s1_0[k], v29);
                    }
                }
            }
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                if (i + 4 <= n) {
                    *(Vector<f32, 4>*)(q1 + i * 4) = w1[u];
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k;
                        if (j < n) {
                            *(f32*)(q1 + j * 4) = w1[u].e[k];
                        }
                    }
                }
            }
        }
        #pragma unroll
        for (int d = 8; d > 0; d /= 2) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0 = __shfl_down_sync(0xffffffffu, s1_0[k], d, 16);
                merge_sum_f32(s1_0[k], b0);
            }
        }
        merge_sum_f32(s1_0[0], s1_0[2]);
        merge_sum_f32(s1_0[1], s1_0[3]);
        merge_sum_f32(s1_0[0], s1_0[1]);
        r1 = s1_0[0];
    }
    r1 = __shfl_sync(0xffffffffu, r1, 0, 16);
    if (n == 0) r1 = 0.0f;
    const f32 v31 = r1;
    for (idx batch = 0; batch < leaves; batch += 1) {
        const idx begin = batch * 1024;
        for (int step = 0; step < 16; step += 4) {
            if (begin + step * 64 >= n) break;
            const idx first = begin + step * 64 + t * 4;
            Vector<f32, 4> z1[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                if (i + 4 <= n) {
                    z1[u] = *(const Vector<f32, 4>*)(q1 + i * 4);
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k < n ? i + k : n - 1;
                        z1[u].e[k] = i + k < n ? *(const f32*)(q1 + (i + k) * 4) : (f32)0;
                    }
                }
            }
            Vector<f32, 4> y1[4];
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                const idx i = first + u * 64;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v32 = z1[u].e[k];
                    const f32 v33 = v32 / v31;
                    y1[u].e[k] = v33;
                }
            }
            if (live) {
                #pragma unroll
                for (int u = 0; u < 4; u++) {
                    const idx i = first + u * 64;
                    if (i + 4 <= n) {
                        *(Vector<f32, 4>*)(p1 + i * 4) = y1[u];
                    } else {
                        #pragma unroll
                        for (int k = 0; k < 4; k++) {
                            const idx j = i + k;
                            if (j < n) {
                                *(f32*)(p1 + j * 4) = y1[u].e[k];
                            }
                        }
                    }
                }
            }
        }
    }
}
