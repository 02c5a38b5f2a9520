// A product of matrices, tile by tile through shared memory: what follows the constants that matmul.rs writes above it.
//
// A block computes ROWS x COLUMNS elements of one result. It goes along the depth in steps of DEPTH: while the threads
// multiply what one half of the shared memory holds, what the next step needs is on its way to their registers, and goes
// to the other half. What lies outside of the matrices counts as zero. An element is the sum of its products along one
// stretch of the depth, in order, each added with one rounding; stretches, if there are several, are added afterwards.

typedef long long i64;

constexpr int THREADS_DOWN = ROWS / ROWS_EACH, THREADS_ALONG = COLUMNS / COLUMNS_EACH;
constexpr int THREADS = THREADS_DOWN * THREADS_ALONG;
// Elements of an access of 16 bytes. Rows of shared memory are longer by as many, for the sake of its banks.
constexpr int LANES = 16 / sizeof(T);
// How much of a step's depth is straight-line code: some products of a thread, but no more than it has registers for.
constexpr int UNROLL = ROWS_EACH * COLUMNS_EACH > 4 ? 64 / (ROWS_EACH * COLUMNS_EACH) : 16;
// Neighbours among the rows and the columns of a thread.
constexpr int ROWS_GROUP = ROWS_EACH < LANES ? ROWS_EACH : LANES;
constexpr int COLUMNS_GROUP = COLUMNS_EACH < LANES ? COLUMNS_EACH : LANES;

template <int N> struct alignas(N * sizeof(T)) Vector { T e[N]; };

// Strides are in bytes. `count` is of matrices, each once for every stretch.
struct Args {
    const char* left;
    const char* right;
    char* out;
    char* workspace;
    i64 rows, columns, depth, stretch, stretches, count;
    i64 left_row, left_depth, right_depth, right_column, out_row, out_column;
    i64 size[RANK], left_outer[RANK], right_outer[RANK], out_outer[RANK];
};

static __device__ __forceinline__ float multiply_add(float x, float y, float sum) { return __fmaf_rn(x, y, sum); }
static __device__ __forceinline__ double multiply_add(double x, double y, double sum) { return __fma_rn(x, y, sum); }
static __device__ __forceinline__ i64 least(i64 x, i64 y) { return x < y ? x : y; }

// What a block reads of an operand in a step: SIDE rows or columns, DEPTH deep. Consecutive threads take what is
// consecutive in memory, along the depth or along the side.
template <int SIDE, bool ALONG_DEPTH, bool WIDE> struct Part {
    static constexpr int WIDTH = WIDE ? LANES : 1;
    static constexpr int FAST = (ALONG_DEPTH ? DEPTH : SIDE) / WIDTH, SLOW = ALONG_DEPTH ? SIDE : DEPTH;
    // Threads take so many lines at once, and so often.
    static constexpr int LINES = THREADS / FAST, COUNT = (SLOW + LINES - 1) / LINES;
    static_assert(FAST <= THREADS && THREADS % FAST == 0, "a line is for a part of the threads");

    const char* at;
    i64 next_line, next_step;
    int x, y, side;
    Vector<WIDTH> held[COUNT];

    __device__ __forceinline__ Part(const char* first, i64 side_stride, i64 depth_stride, i64 side_left) {
        x = threadIdx.x % FAST * WIDTH;
        y = threadIdx.x / FAST;
        const i64 along = ALONG_DEPTH ? depth_stride : side_stride, across = ALONG_DEPTH ? side_stride : depth_stride;
        at = first + (x * along + y * across);
        next_line = LINES * across;
        next_step = DEPTH * depth_stride;
        side = (int)least(side_left, SIDE);
    }

    // Goes on to the next step.
    __device__ __forceinline__ void advance() { at += next_step; }

    // Loads, where so much of the depth is left.
    __device__ __forceinline__ void load(i64 depth_left) {
        const int depth = (int)least(depth_left, DEPTH);
        #pragma unroll
        for (int u = 0; u < COUNT; u++) {
            const int line = y + u * LINES;
            const bool inside = ALONG_DEPTH ? line < side && x < depth : line < depth && x < side;
            Vector<WIDTH> loaded = {};
            if (inside) loaded = *(const Vector<WIDTH>*)(at + u * next_line);
            held[u] = loaded;
        }
    }

    // Stores what was loaded.
    __device__ __forceinline__ void store(T (*tile)[SIDE + LANES]) const {
        #pragma unroll
        for (int u = 0; u < COUNT; u++) {
            const int line = y + u * LINES;
            if (SLOW % LINES != 0 && line >= SLOW) continue;
            if (ALONG_DEPTH) {
                #pragma unroll
                for (int k = 0; k < WIDTH; k++) tile[x + k][line] = held[u].e[k];
            } else {
                *(Vector<WIDTH>*)&tile[line][x] = held[u];
            }
        }
    }
};

// The element of a thread's row or column `n`: groups of neighbours, as far apart as all threads' groups take.
template <int GROUP, int ACROSS> static __device__ __forceinline__ int place(int thread, int n) {
    return (n / GROUP * ACROSS + thread) * GROUP + n % GROUP;
}

// What a thread needs of a line of a tile.
template <int EACH, int GROUP, int ACROSS> static __device__ __forceinline__ void read(T* to, const T* line, int thread) {
    #pragma unroll
    for (int n = 0; n < EACH; n += GROUP) {
        const Vector<GROUP> group = *(const Vector<GROUP>*)&line[place<GROUP, ACROSS>(thread, n)];
        #pragma unroll
        for (int k = 0; k < GROUP; k++) to[n + k] = group.e[k];
    }
}

static __device__ __forceinline__ void multiply(const Args& a) {
    __shared__ __align__(16) T left_tile[2][DEPTH][ROWS + LANES];
    __shared__ __align__(16) T right_tile[2][DEPTH][COLUMNS + LANES];
    const i64 number = blockIdx.y + (i64)blockIdx.z * gridDim.y;
    if (number >= a.count) return;
    const i64 across = (a.columns + COLUMNS - 1) / COLUMNS;
    const i64 first_row = blockIdx.x / across * ROWS, first_column = blockIdx.x % across * COLUMNS;
    // A stretch of one matrix after the other.
    const i64 matrix = number / a.stretches, begin = number % a.stretches * a.stretch;
    i64 rest = matrix, left_at = 0, right_at = 0, out_at = 0;
    for (int d = RANK - 1; d >= 0; d--) {
        const i64 index = rest % a.size[d];
        rest /= a.size[d];
        left_at += index * a.left_outer[d];
        right_at += index * a.right_outer[d];
        out_at += index * a.out_outer[d];
    }
    Part<ROWS, LEFT_ALONG_DEPTH, LEFT_WIDE> left(
        a.left + (left_at + first_row * a.left_row + begin * a.left_depth), a.left_row, a.left_depth,
        a.rows - first_row);
    Part<COLUMNS, RIGHT_ALONG_DEPTH, RIGHT_WIDE> right(
        a.right + (right_at + first_column * a.right_column + begin * a.right_depth), a.right_column, a.right_depth,
        a.columns - first_column);
    // Where the block's first element goes.
    const i64 row_stride = SPLIT ? a.columns * (i64)sizeof(T) : a.out_row;
    const i64 column_stride = SPLIT ? (i64)sizeof(T) : a.out_column;
    const i64 before = number % a.stretches * (a.count / a.stretches) + matrix;
    char* to = SPLIT ? a.workspace + before * a.rows * a.columns * (i64)sizeof(T) : a.out + out_at;
    to += first_row * row_stride + first_column * column_stride;
    const int tx = threadIdx.x % THREADS_ALONG, ty = threadIdx.x / THREADS_ALONG;
    T sums[ROWS_EACH][COLUMNS_EACH] = {};
    i64 left_over = least(a.depth - begin, a.stretch);
    if (left_over > 0) {
        left.load(left_over);
        right.load(left_over);
        left.store(left_tile[0]);
        right.store(right_tile[0]);
        __syncthreads();
    }
    for (int half = 0; left_over > 0; half ^= 1) {
        left_over -= DEPTH;
        if (left_over > 0) {
            left.advance();
            right.advance();
            left.load(left_over);
            right.load(left_over);
        }
        #pragma unroll UNROLL
        for (int k = 0; k < DEPTH; k++) {
            T x[ROWS_EACH], y[COLUMNS_EACH];
            read<ROWS_EACH, ROWS_GROUP, THREADS_DOWN>(x, left_tile[half][k], ty);
            read<COLUMNS_EACH, COLUMNS_GROUP, THREADS_ALONG>(y, right_tile[half][k], tx);
            #pragma unroll
            for (int i = 0; i < ROWS_EACH; i++) {
                #pragma unroll
                for (int j = 0; j < COLUMNS_EACH; j++) sums[i][j] = multiply_add(x[i], y[j], sums[i][j]);
            }
        }
        if (left_over > 0) {
            // The other half was read before the last barrier.
            left.store(left_tile[half ^ 1]);
            right.store(right_tile[half ^ 1]);
            __syncthreads();
        }
    }
    #pragma unroll
    for (int i = 0; i < ROWS_EACH; i++) {
        const int row = place<ROWS_GROUP, THREADS_DOWN>(ty, i);
        if (row >= left.side) continue;
        #pragma unroll
        for (int j = 0; j < COLUMNS_EACH; j += OUT_WIDE ? COLUMNS_GROUP : 1) {
            const int column = place<COLUMNS_GROUP, THREADS_ALONG>(tx, j);
            if (column >= right.side) continue;
            char* element = to + (row * row_stride + column * column_stride);
            if (OUT_WIDE) {
                Vector<COLUMNS_GROUP> group;
                #pragma unroll
                for (int k = 0; k < COLUMNS_GROUP; k++) group.e[k] = sums[i][j + k];
                *(Vector<COLUMNS_GROUP>*)element = group;
            } else {
                *(T*)element = sums[i][j];
            }
        }
    }
}

// Adds up the stretches of each element: every eighth by one thread, then those eight sums, each in order.
static __device__ __forceinline__ void add_up(const Args& a) {
    __shared__ T sums[8][32];
    const i64 matrices = a.count / a.stretches, all = matrices * a.rows * a.columns;
    const i64 at = (i64)blockIdx.x * 32 + threadIdx.x;
    T sum = 0;
    if (at < all) {
        #pragma unroll 4
        for (i64 n = threadIdx.y; n < a.stretches; n += 8) sum += ((const T*)a.workspace)[n * all + at];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || at >= all) return;
    for (int n = 1; n < 8; n++) sum += sums[n][threadIdx.x];
    const i64 column = at % a.columns, row = at / a.columns % a.rows;
    i64 rest = at / a.columns / a.rows, out_at = row * a.out_row + column * a.out_column;
    for (int d = RANK - 1; d >= 0; d--) {
        out_at += rest % a.size[d] * a.out_outer[d];
        rest /= a.size[d];
    }
    *(T*)(a.out + out_at) = sum;
}
