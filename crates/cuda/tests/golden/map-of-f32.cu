// map of f32
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i32 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
struct Args {
    i64 n;
    const char* m0;
    const char* m1;
    char* m2;
};
extern "C" __global__ void __launch_bounds__(256) kernel_map(const __grid_constant__ Args a) {
    const idx n = (idx)a.n;
    const idx first = ((idx)blockIdx.x * 256 + (idx)threadIdx.x) * 4;
    if (first >= n) return;
    const char* const r0 = a.m0;
    const char* const r1 = a.m1;
    char* const r2 = a.m2;
    Vector<f32, 4> x0;
    Vector<f32, 4> x1;
    {
        const idx i = first;
        if (i + 4 <= n) {
            x0 = *(const Vector<f32, 4>*)(r0 + i * 4);
            x1 = *(const Vector<f32, 4>*)(r1 + i * 4);
        } else {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                const idx j = i + k < n ? i + k : n - 1;
                x0.e[k] = *(const f32*)(r0 + j * 4);
                x1.e[k] = *(const f32*)(r1 + j * 4);
            }
        }
    }
    Vector<f32, 4> y2;
    {
        const idx i = first;
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const f32 v0 = x0.e[k];
            const f32 v1 = x1.e[k];
            const f32 v2 = v1 * v1;
            const f32 v3 = v0 + v2;
            y2.e[k] = v3;
        }
    }
    {
        const idx i = first;
        if (i + 4 <= n) {
            *(Vector<f32, 4>*)(r2 + i * 4) = y2;
        } else {
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                const idx j = i + k;
                if (j < n) {
                    *(f32*)(r2 + j * 4) = y2.e[k];
                }
            }
        }
    }
}
