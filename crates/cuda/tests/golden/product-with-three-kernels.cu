// (a - c + 1.5) @ (b + 2.5) * column + s
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i64 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
typedef f32 T;
struct Parameters {
    i64 p0;
    i64 p1;
};
constexpr int ROWS = 32;
constexpr int COLUMNS = 32;
constexpr int DEPTH = 32;
constexpr int ROWS_EACH = 2;
constexpr int COLUMNS_EACH = 2;
constexpr int RANK = 1;
constexpr bool LEFT_ALONG_DEPTH = true;
constexpr bool RIGHT_ALONG_DEPTH = false;
constexpr bool OUT_WIDE = false;
constexpr bool SPLIT = false;
struct Left {
    static constexpr int OPERANDS = 2, WIDTH = 1;
    static constexpr bool PLAIN = false;
    f32 x0 = 0;
    f32 x1 = 0;
    __device__ __forceinline__ void load(char* const* at) {
        x0 = *(const f32*)at[0];
        x1 = *(const f32*)at[1];
    }
    __device__ __forceinline__ T element(const Parameters& a, int) const {
        T result;
        const f32 v0 = __int_as_float((i32)a.p0);
        const f32 v1 = x0;
        const f32 v2 = x1;
        const f32 v3 = v1 - v2;
        const f32 v4 = v3 + v0;
        result = v4;
        return result;
    }
};
struct Right {
    static constexpr int OPERANDS = 1, WIDTH = 1;
    static constexpr bool PLAIN = false;
    f32 x0 = 0;
    __device__ __forceinline__ void load(char* const* at) {
        x0 = *(const f32*)at[0];
    }
    __device__ __forceinline__ T element(const Parameters& a, int) const {
        T result;
        const f32 v0 = __int_as_float((i32)a.p1);
        const f32 v1 = x0;
        const f32 v2 = v1 + v0;
        result = v2;
        return result;
    }
};
struct Out {
    static constexpr int OPERANDS = 3, BATCH = 4;
    static constexpr bool PLAIN = false;
    f32 x0 = 0;
    f32 x1 = 0;
    __device__ __forceinline__ void load(char* const* at) {
        x0 = *(const f32*)at[0];
        x1 = *(const f32*)at[1];
    }
    __device__ __forceinline__ void store(const Parameters& a, char* const* at, T sum) const {
        const f32 v0 = x0;
        const f32 v1 = sum;
        const f32 v2 = v1 * v0;
        const f32 v3 = x1;
        const f32 v4 = v2 + v3;
        *(f32*)at[2] = v4;
    }
};
