// sums of f32 columns
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
struct Args {
    i64 n;
    i64 reduced;
    char* workspace;
    const char* m0;
    char* m1;
    i64 m0_reduced0;
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
extern "C" __global__ void __launch_bounds__(256) kernel_columns(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, reduced = (idx)a.reduced;
    const idx leaves = (reduced + 127) / 128;
    const u32 tiles = (u32)((n + 127) / 128);
    const idx row = (idx)(blockIdx.x / tiles);
    const idx first = ((idx)(blockIdx.x % tiles) * 32 + (idx)threadIdx.x) * 4;
    const i64 chunks = leaves > 8 ? (leaves + 7) / 8 : 1;
    char* const partials = a.workspace + (i64)row * 8 * chunks * n;
    const char* const p0 = a.m0;
    char* const p1 = a.m1;
    const idx chunk = (idx)blockIdx.y * 8, begin = (chunk + (idx)threadIdx.y) * 128;
    const idx end = begin + 128 < reduced ? begin + 128 : reduced;
    f32 s0_0[4] = {(-0.0f), (-0.0f), (-0.0f), (-0.0f)};
    for (idx at = begin; at < end; at += 4) {
        #pragma unroll
        for (int u = 0; u < 4; u++) {
            const idx r = at + u < end ? at + u : end - 1;
            const idx d0 = r;
            const char* const w0 = p0 + (d0 * (idx)a.m0_reduced0);
            Vector<f32, 4> x0;
            {
                const idx i = first;
                if (i + 4 <= n) {
                    x0 = *(const Vector<f32, 4>*)(w0 + i * 4);
                } else {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const idx j = i + k < n ? i + k : n - 1;
                        x0.e[k] = *(const f32*)(w0 + j * 4);
                    }
                }
            }
            {
                const idx i = first;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const f32 v0 = x0.e[k];
                    if (at + u < end) {
                        step_sum_f32(s0_0[k], v0);
                    }
                }
            }
        }
    }
    extern __shared__ __align__(16) unsigned char shared[];
    const int count = (int)(leaves - chunk < 8 ? leaves - chunk : 8), own = threadIdx.y;
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        *(f32*)(shared + (0 * 1024 + (threadIdx.y) * 128 + threadIdx.x * 4 + k) * 8) = s0_0[k];
    }
    __syncthreads();
    for (int d = 1; d < count; d *= 2) {
        if (own % (2 * d) == 0 && own + d < count) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                f32 b0_0 = *(f32*)(shared + (0 * 1024 + (own + d) * 128 + threadIdx.x * 4 + k) * 8);
                merge_sum_f32(s0_0[k], b0_0);
            }
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                *(f32*)(shared + (0 * 1024 + (threadIdx.y) * 128 + threadIdx.x * 4 + k) * 8) = s0_0[k];
            }
        }
        __syncthreads();
    }
    if (threadIdx.y != 0) return;
    if (chunks > 1) {
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            if (first + k < n) {
                *(f32*)(partials + (0 * chunks * n + (i64)(blockIdx.y) * n + first + k) * 8) = s0_0[k];
            }
        }
        return;
    }
    Vector<f32, 4> y1;
    {
        const idx i = first;
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const f32 v1 = reduced == 0 ? 0.0f : s0_0[k];
            y1.e[k] = v1;
        }
    }
    {
        const idx i = first;
        if (i + 4 <= n) {
            *(Vector<f32, 4>*)(p1 + i * 4) = y1;
        } else {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                const idx j = i + k;
                if (j < n) {
                    *(f32*)(p1 + j * 4) = y1.e[k];
                }
            }
        }
    }
}
extern "C" __global__ void __launch_bounds__(256) kernel_join(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, reduced = (idx)a.reduced;
    const idx leaves = (reduced + 127) / 128;
    const u32 tiles = (u32)((n + 127) / 128);
    const idx row = (idx)(blockIdx.x / tiles);
    const idx first = ((idx)(blockIdx.x % tiles) * 32 + (idx)threadIdx.x) * 4;
    const i64 chunks = leaves > 8 ? (leaves + 7) / 8 : 1;
    char* const partials = a.workspace + (i64)row * 8 * chunks * n;
    const char* const p0 = a.m0;
    char* const p1 = a.m1;
    for (i64 d = 1; d < chunks; d *= 2) {
        for (i64 at = (i64)threadIdx.y * 2 * d; at + d < chunks; at += 16 * d) {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                if (first + k < n) {
                    f32 a0_0 = *(f32*)(partials + (0 * chunks * n + (i64)(at) * n + first + k) * 8);
                    f32 b0_0 = *(f32*)(partials + (0 * chunks * n + (i64)(at + d) * n + first + k) * 8);
                    merge_sum_f32(a0_0, b0_0);
                    *(f32*)(partials + (0 * chunks * n + (i64)(at) * n + first + k) * 8) = a0_0;
                }
            }
        }
        __syncthreads();
    }
    if (threadIdx.y != 0) return;
    f32 s0_0[4] = {(-0.0f), (-0.0f), (-0.0f), (-0.0f)};
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        if (first + k < n) {
            s0_0[k] = *(f32*)(partials + (0 * chunks * n + (i64)(0) * n + first + k) * 8);
        }
    }
    Vector<f32, 4> y1;
    {
        const idx i = first;
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const f32 v1 = reduced == 0 ? 0.0f : s0_0[k];
            y1.e[k] = v1;
        }
    }
    {
        const idx i = first;
        if (i + 4 <= n) {
            *(Vector<f32, 4>*)(p1 + i * 4) = y1;
        } else {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                const idx j = i + k;
                if (j < n) {
                    *(f32*)(p1 + j * 4) = y1.e[k];
                }
            }
        }
    }
}
