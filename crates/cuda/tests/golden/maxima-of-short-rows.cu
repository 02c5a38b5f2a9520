// maxima of short rows
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
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
extern "C" __global__ void __launch_bounds__(256) kernel_rows(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, leaves = (n + 1023) / 1024;
    const int t = threadIdx.x % 2;
    const i64 at = (i64)blockIdx.x * 128 + threadIdx.x / 2;
    const bool live = at < a.rows;
    const idx row = live ? (idx)at : (idx)(a.rows - 1);
    const idx o0 = row;
    const char* const p0 = a.m0 + (o0 * (idx)a.m0_outer0);
    char* const p1 = a.m1 + (o0 * (idx)a.m1_outer0);
    f32 r0 = __int_as_float(0xff800000);
    for (idx batch = 0; batch < leaves; batch += 1) {
        const idx begin = batch * 1024;
        f32 s0_0[4] = {__int_as_float(0xff800000), __int_as_float(0xff800000), __int_as_float(0xff800000), __int_as_float(0xff800000)};
        if (begin < n) {
            const int step = 0;
            const idx first = begin + t * 4;
            Vector<f32, 4> x0;
            {
                const idx i = first;
                if (i + 4 <= n) {
                    x0 = *(const Vector<f32, 4>*)(p0 + i * 4);
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k < n ? i + k : n - 1;
                        x0.e[k] = *(const f32*)(p0 + j * 4);
                    }
                }
            }
            {
                const idx i = first;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v0 = x0.e[k];
                    if (i + k < n) {
                        step_max_f32(s0_0[k], v0);
                    }
                }
            }
        }
        #pragma unroll
        for (int d = 1; d > 0; d /= 2) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0 = __shfl_down_sync(0xffffffffu, s0_0[k], d, 2);
                merge_max_f32(s0_0[k], b0);
            }
        }
        merge_max_f32(s0_0[0], s0_0[2]);
        merge_max_f32(s0_0[1], s0_0[3]);
        merge_max_f32(s0_0[0], s0_0[1]);
        r0 = s0_0[0];
    }
    r0 = __shfl_sync(0xffffffffu, r0, 0, 2);
    if (n == 0) r0 = 0.0f;
    const f32 v1 = r0;
    if (live && t == 0) *(f32*)p1 = v1;
}
