// of another dtype: T(a) @ b, and what is stored is a bool
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef float f32; typedef double f64;
typedef i64 idx;
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };
typedef f32 T;
struct Parameters {
    i64 none;
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
    static constexpr int OPERANDS = 1, WIDTH = 1;
    static constexpr bool PLAIN = false;
    i16 x0 = 0;
    __device__ __forceinline__ void load(char* const* at) {
        x0 = *(const i16*)at[0];
    }
    __device__ __forceinline__ T element(const Parameters& a, int) const {
        T result;
        const i16 v0 = x0;
        const f32 v1 = (f32)v0;
        result = v1;
        return result;
    }
};
struct Right {
    static constexpr int OPERANDS = 1, WIDTH = 4;
    static constexpr bool PLAIN = true;
    Vector<T, WIDTH> elements = {};
    __device__ __forceinline__ void load(char* const* at) { elements = *(const Vector<T, WIDTH>*)at[0]; }
    __device__ __forceinline__ T element(const Parameters&, int k) const { return elements.e[k]; }
};
struct Out {
    static constexpr int OPERANDS = 2, BATCH = 4;
    static constexpr bool PLAIN = false;
    f32 x0 = 0;
    __device__ __forceinline__ void load(char* const* at) {
        x0 = *(const f32*)at[0];
    }
    __device__ __forceinline__ void store(const Parameters& a, char* const* at, T sum) const {
        const f32 v0 = sum;
        const f32 v1 = x0;
        const bool v2 = v0 < v1;
        *(u8*)at[1] = v2;
    }
};
