// CUDA's names as C++ for the host: what goes before the text of a kernel, which is compiled as it is emitted.
//
// It offers what the emitted texts use and no more, so that a name which the device's compiler does not know without
// headers (INFINITY, uint32_t, ...) is not known here either. It includes no C++ header: hundreds of texts are compiled
// for a test run. To add an intrinsic, add a line that has its exact result on a device, or leave it out.
//
// The one form that no macro can turn into C++ is `extern __shared__ T name[];`, which whoever compiles a text rewrites
// as `EMULATOR_DYNAMIC_SHARED(T, name);`.
#pragma once

#include "emulator.h"

// ---- what the run time offers to kernels ----

extern "C" {
// Which thread this is. It never changes for a thread, so the compiler may ask once.
EmulatorIndex emulator_thread_index() __attribute__((const));
EmulatorIndex emulator_block_index() __attribute__((const));
EmulatorIndex emulator_block_size() __attribute__((const));
EmulatorIndex emulator_grid_size() __attribute__((const));
unsigned emulator_lane() __attribute__((const));

void emulator_sync_block(int line);
enum EmulatorWarpOperation { EMULATOR_SHUFFLE, EMULATOR_SYNC_WARP };
// Waits for the lanes of `mask`; a shuffle returns what lane `source` has passed as `value`.
unsigned long long emulator_warp(EmulatorWarpOperation operation, unsigned mask, unsigned long long value,
                                 unsigned source, int line);

// Dynamic shared memory, as much as the launch asks for.
extern unsigned char emulator_dynamic_shared[];
}

// ---- declarations ----

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __restrict__ __restrict

// `__shared__` is defined for each text: static, in a section of the text's own, which the run time poisons before each
// block. `used` stops the compiler from reasoning that what is never written is still zero.
#define EMULATOR_SHARED(section_name) static __attribute__((section(section_name), used))

struct EmulatorDynamicShared {
    template <typename T> operator T *() const { return reinterpret_cast<T *>(emulator_dynamic_shared); }
};
#define EMULATOR_DYNAMIC_SHARED(type, name) [[maybe_unused]] type *const name = EmulatorDynamicShared()

#define threadIdx (emulator_thread_index())
#define blockIdx (emulator_block_index())
#define blockDim (emulator_block_size())
#define gridDim (emulator_grid_size())
constexpr int warpSize = 32;

// ---- barriers and shuffles ----

static inline void __syncthreads(int line = __builtin_LINE()) {
    emulator_sync_block(line);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    emulator_warp(EMULATOR_SYNC_WARP, mask, 0, 0, line);
}

template <unsigned long Size> struct EmulatorWord;
template <> struct EmulatorWord<4> {
    using Type = unsigned;
};
template <> struct EmulatorWord<8> {
    using Type = unsigned long long;
};

template <typename T> static inline T emulator_shuffle(unsigned mask, T value, unsigned source, int line) {
    using Word = typename EmulatorWord<sizeof(T)>::Type;
    auto word = __builtin_bit_cast(Word, value);
    return __builtin_bit_cast(T, static_cast<Word>(emulator_warp(EMULATOR_SHUFFLE, mask, word, source, line)));
}

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
    unsigned segment = emulator_lane() & ~(width - 1u);
    return emulator_shuffle(mask, value, segment | (static_cast<unsigned>(source) & (width - 1u)), line);
}

template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 int line = __builtin_LINE()) {
    unsigned lane = emulator_lane();
    bool leaves = (lane & (width - 1u)) + delta >= static_cast<unsigned>(width);
    return emulator_shuffle(mask, value, leaves ? lane : lane + delta, line);
}

template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    unsigned lane = emulator_lane();
    bool leaves = (lane & (width - 1u)) < delta;
    return emulator_shuffle(mask, value, leaves ? lane : lane - delta, line);
}

template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, int line = __builtin_LINE()) {
    unsigned lane = emulator_lane();
    unsigned source = lane ^ static_cast<unsigned>(with);
    // A lane of a later segment cannot be read; one of an earlier segment can.
    bool leaves = (source & ~(width - 1u)) > (lane & ~(width - 1u));
    return emulator_shuffle(mask, value, leaves ? lane : source, line);
}

// ---- arithmetic ----

extern "C" {
float sqrtf(float) noexcept;
double sqrt(double) noexcept;
float floorf(float) noexcept;
double floor(double) noexcept;
float ceilf(float) noexcept;
double ceil(double) noexcept;
float truncf(float) noexcept;
double trunc(double) noexcept;
float rintf(float) noexcept;
double rint(double) noexcept;
float fmodf(float, float) noexcept;
double fmod(double, double) noexcept;
float fabsf(float) noexcept;
double fabs(double) noexcept;
float copysignf(float, float) noexcept;
double copysign(double, double) noexcept;
}

// C++'s overloads for float, which CUDA has too: without them `floor` of a float would be that of a double.
static inline float sqrt(float x) { return sqrtf(x); }
static inline float floor(float x) { return floorf(x); }
static inline float ceil(float x) { return ceilf(x); }
static inline float trunc(float x) { return truncf(x); }
static inline float rint(float x) { return rintf(x); }
static inline float fmod(float x, float y) { return fmodf(x, y); }
static inline float fabs(float x) { return fabsf(x); }
static inline float copysign(float x, float y) { return copysignf(x, y); }

// GCC makes one instruction of a negated product-sum, which has the other zero where the sum is exactly zero: it must not
// see that both belong together.
template <typename T> static inline T emulator_opaque(T x) {
    __asm__("" : "+x"(x));
    return x;
}
static inline float __fmaf_rn(float a, float b, float c) { return emulator_opaque(__builtin_fmaf(a, b, c)); }
static inline double __fma_rn(double a, double b, double c) { return emulator_opaque(__builtin_fma(a, b, c)); }
static inline float fmaf(float a, float b, float c) { return __fmaf_rn(a, b, c); }
static inline double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }

static inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
static inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
static inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
static inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
static inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

static inline int __mulhi(int a, int b) { return static_cast<int>((static_cast<long long>(a) * b) >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
static inline long long __mul64hi(long long a, long long b) {
    return static_cast<long long>((static_cast<__int128>(a) * b) >> 64);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }

template <typename T> static inline T __ldg(const T *address) {
    return *address;
}

// ---- entries ----

template <auto Entry> struct EmulatorBody;
template <typename Arguments, void (*Entry)(Arguments)> struct EmulatorBody<Entry> {
    static_assert(sizeof(Arguments) % 8 == 0, "arguments are 8-byte words");
    static constexpr unsigned long bytes = sizeof(Arguments);
    static void run(const void *arguments) { Entry(*static_cast<const Arguments *>(arguments)); }
};

// Exports the function `entry`, with its __launch_bounds__, of the text whose shared memory is in the section `shared`.
#define EMULATOR_ENTRY(symbol, entry, bounds, shared)                                                                          \
    extern "C" {                                                                                                       \
    extern char __start_##shared[] __attribute__((weak, visibility("hidden")));                                        \
    extern char __stop_##shared[] __attribute__((weak, visibility("hidden")));                                         \
    extern const EmulatorEntry symbol __attribute__((visibility("default")));                                          \
    const EmulatorEntry symbol = {EmulatorBody<entry>::run, EmulatorBody<entry>::bytes, __start_##shared,              \
                                  __stop_##shared, bounds};                                                            \
    }
