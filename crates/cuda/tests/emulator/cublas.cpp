// A stand-in for libcublas.so: products of matrices by the textbook, over the memory of the stand-in for the driver, when the
// stream that it was told gets there. It refuses what the library refuses, and what it leaves undefined ends the process.
//
//   FAKE_CUBLAS_MAJOR=12              the version that it says it is of
//   FAKE_CUBLAS_FAIL=cublasX:7        this function does nothing but return 7
//
// The library is built by tests/cublas.rs.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };

struct Handle {
    void *context;
    void *stream;
};

std::set<Handle *> handles;
int products = 0;

[[noreturn]] void violation(const char *what) {
    fprintf(stderr, "fake cuBLAS: VIOLATION: %s\n", what);
    abort();
}

// A function of the driver, which is there before this is.
template <typename Function> Function driver(const char *name) {
    static void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *found = library ? dlsym(library, name) : nullptr;
    if (!found)
        violation("there is no driver");
    return reinterpret_cast<Function>(found);
}

void *current_context() {
    void *context = nullptr;
    if (driver<int (*)(void **)>("cuCtxGetCurrent")(&context) || !context)
        violation("no context is current");
    return context;
}

Handle *live(void *handle) {
    Handle *found = static_cast<Handle *>(handle);
    if (!handles.count(found))
        violation("a handle that is none");
    if (found->context != current_context())
        violation("a handle of another context");
    return found;
}

int failure(const char *name) {
    const char *wanted = getenv("FAKE_CUBLAS_FAIL");
    size_t length = strlen(name);
    return wanted && !strncmp(wanted, name, length) && wanted[length] == ':' ? atoi(wanted + length + 1) : SUCCESS;
}

template <typename T> struct Product {
    int left_op, right_op, m, n, k;
    T alpha, beta;
    const T *left, *right;
    T *out;
    long long left_leading, right_leading, out_leading, left_stride, right_stride, out_stride;
    int count;

    void run() const {
        for (int matrix = 0; matrix < count; matrix++)
            for (int j = 0; j < n; j++)
                for (int i = 0; i < m; i++) {
                    T sum = 0;
                    for (long long l = 0; l < k; l++) {
                        T x = left[matrix * left_stride + (left_op ? i * left_leading + l : l * left_leading + i)];
                        T y = right[matrix * right_stride + (right_op ? l * right_leading + j : j * right_leading + l)];
                        sum += x * y;
                    }
                    T &to = out[matrix * out_stride + j * out_leading + i];
                    to = beta == 0 ? alpha * sum : alpha * sum + beta * to;
                }
    }
};

template <typename T> int multiply(const char *name, void *raw, std::unique_ptr<Product<T>> product) {
    Handle *handle = live(raw);
    if (int status = failure(name))
        return status;
    const Product<T> &p = *product;
    bool has_sizes = p.m >= 0 && p.n >= 0 && p.k >= 0 && p.count >= 0;
    bool has_rows = p.left_leading >= (p.left_op ? p.k : p.m) && p.right_leading >= (p.right_op ? p.n : p.k) &&
                    p.out_leading >= p.m && p.left_leading > 0 && p.right_leading > 0 && p.out_leading > 0;
    if (!has_sizes || !has_rows || p.left_op < 0 || p.left_op > 1 || p.right_op < 0 || p.right_op > 1)
        return INVALID_VALUE;
    if (p.count > 1 && p.out_stride < p.out_leading * p.n && p.out_leading < p.out_stride * p.count)
        violation("results that overlap");
    products++;
    auto run = [](void *data) { std::unique_ptr<Product<T>>(static_cast<Product<T> *>(data))->run(); };
    using Submit = int (*)(void *, void (*)(void *), void *);
    if (driver<Submit>("fakeSubmit")(handle->stream, run, product.get()))
        return EXECUTION_FAILED;
    product.release();
    return SUCCESS;
}

__attribute__((destructor)) void report() {
    fprintf(stderr, "fake cuBLAS: at exit: handles %zu, after %d products\n", handles.size(), products);
}

} // namespace

#define API extern "C" __attribute__((visibility("default")))

API int cublasGetProperty(int which, int *value) {
    const char *major = getenv("FAKE_CUBLAS_MAJOR");
    *value = which ? 0 : major ? atoi(major) : 12;
    return SUCCESS;
}

API const char *cublasGetStatusString(int status) {
    return status == EXECUTION_FAILED ? "execution failed" : status == NOT_INITIALIZED ? "not initialized" : nullptr;
}

API int cublasCreate_v2(void **handle) {
    void *context = current_context();
    if (int status = failure("cublasCreate_v2"))
        return status;
    Handle *made = new Handle{context, nullptr};
    handles.insert(made);
    *handle = made;
    return SUCCESS;
}

API int cublasDestroy_v2(void *handle) {
    Handle *found = live(handle);
    handles.erase(found);
    delete found;
    return SUCCESS;
}

API int cublasSetMathMode(void *handle, int mode) {
    live(handle);
    return mode ? INVALID_VALUE : failure("cublasSetMathMode");
}

API int cublasSetStream_v2(void *handle, void *stream) {
    live(handle)->stream = stream;
    return failure("cublasSetStream_v2");
}

#define GEMM(name, T)                                                                                                  \
    API int name(void *handle, int left_op, int right_op, int m, int n, int k, const T *alpha, const T *left,          \
                 int left_leading, long long left_stride, const T *right, int right_leading, long long right_stride,   \
                 const T *beta, T *out, int out_leading, long long out_stride, int count) {                            \
        return multiply<T>(#name, handle,                                                                              \
                           std::unique_ptr<Product<T>>(new Product<T>{                                                 \
                               left_op, right_op, m, n, k, *alpha, *beta, left, right, out, left_leading,              \
                               right_leading, out_leading, left_stride, right_stride, out_stride, count}));            \
    }
GEMM(cublasSgemmStridedBatched, float)
GEMM(cublasDgemmStridedBatched, double)
