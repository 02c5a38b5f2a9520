// sum with a transposed one
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
static __device__ __forceinline__ i64 least(i64 x, i64 y) { return x < y ? x : y; }
struct Args {
    i64 n;
    i64 outer0;
    const char* m0;
    const char* m1;
    char* m2;
    i64 m1_outer0;
    i64 m1_inner0;
    i64 m0_outer0;
    i64 m0_inner0;
    i64 m2_outer0;
    i64 m2_inner0;
};
extern "C" __global__ void __launch_bounds__(256) kernel_transposed(const __grid_constant__ Args a) {
    const idx n = (idx)a.n, rows = (idx)a.outer0;
    const idx left = (idx)blockIdx.x * 32, top = (idx)blockIdx.y * 32;
    const idx x = (idx)threadIdx.x, y = (idx)threadIdx.y;
    const char* const p0 = a.m0;
    const char* const p1 = a.m1;
    char* const p2 = a.m2;
    __shared__ f32 t1[32][33];
    #pragma unroll
    for (int u = 0; u < 4; u++) {
        const idx i = (idx)least(left + y + u * 8, n - 1), o = (idx)least(top + x, rows - 1);
        t1[y + u * 8][x] = *(const f32*)(p1 + (o * (idx)a.m1_outer0 + i * (idx)a.m1_inner0));
    }
    f32 x0[4];
    #pragma unroll
    for (int u = 0; u < 4; u++) {
        const idx i = (idx)least(left + x, n - 1), o = (idx)least(top + y + u * 8, rows - 1);
        x0[u] = *(const f32*)(p0 + (o * (idx)a.m0_outer0 + i * (idx)a.m0_inner0));
    }
    __syncthreads();
    f32 y2[4];
    #pragma unroll
    for (int u = 0; u < 4; u++) {
        const f32 v0 = x0[u];
        const f32 v1 = t1[x][y + u * 8];
        const f32 v2 = v1 * v1;
        const f32 v3 = v0 + v2;
        y2[u] = v3;
    }
    #pragma unroll
    for (int u = 0; u < 4; u++) {
        const idx i = left + x, o = top + y + u * 8;
        if (i >= n || o >= rows) continue;
        *(f32*)(p2 + (o * (idx)a.m2_outer0 + i * (idx)a.m2_inner0)) = y2[u];
    }
}
