
// A product of matrices, tile by tile through shared memory: what follows the constants and types that matmul.rs and
// emit/element.rs write above it.
//
// A block computes ROWS x COLUMNS elements of one result. It goes along the depth in steps of DEPTH: while the threads
// multiply what one half of the shared memory holds, what the next step needs is on its way to their registers, and goes
// to the other half. What lies outside of the matrices counts as zero. An element is the sum of its products along one
// stretch of the depth, in order, each added with one rounding; stretches, if there are several, are added afterwards.
//
// Left, Right and Out are what is fused: an element of an operand is computed from what was loaded for it when it goes to
// shared memory, and a sum becomes what is stored.

constexpr int THREADS_DOWN = ROWS / ROWS_EACH, THREADS_ALONG = COLUMNS / COLUMNS_EACH;
constexpr int THREADS = THREADS_DOWN * THREADS_ALONG;
// Elements of an access of 16 bytes. Rows of shared memory are longer by as many, for the sake of its banks.
constexpr int LANES = 16 / sizeof(T);
// How much of a step's depth is straight-line code: some products of a thread, but no more than it has registers for, of
// which operands of what is fused take some.
constexpr int PRODUCTS = ROWS_EACH * COLUMNS_EACH, SOME = PRODUCTS > 8 ? 64 / PRODUCTS : PRODUCTS > 1 ? 8 : 16;
constexpr int UNROLL = SOME > 1 && !(Left::PLAIN && Right::PLAIN) ? SOME / 2 : SOME;
// Neighbours among the rows and the columns of a thread.
constexpr int ROWS_GROUP = ROWS_EACH < LANES ? ROWS_EACH : LANES;
constexpr int COLUMNS_GROUP = COLUMNS_EACH < LANES ? COLUMNS_EACH : LANES;

// The N operands of a side: strides are in bytes.
template <int N> struct Memory {
    char* first[N];
    // Of an input across the depth and along it; of what is written, from row to row and from column to column.
    i64 strides[2][N];
    i64 outer[RANK][N];
};

struct Args {
    char* workspace;
    i64 rows, columns, depth, stretch, stretches, matrices;
    i64 size[RANK];
    Memory<Left::OPERANDS> left;
    Memory<Right::OPERANDS> right;
    Memory<Out::OPERANDS> out;
    Parameters parameters;
};

static __device__ __forceinline__ float multiply_add(float x, float y, float sum) { return __fmaf_rn(x, y, sum); }
static __device__ __forceinline__ double multiply_add(double x, double y, double sum) { return __fma_rn(x, y, sum); }
static __device__ __forceinline__ i64 least(i64 x, i64 y) { return x < y ? x : y; }

// Where the operands of a side have an element of one matrix of the stack.
template <int N> struct Place {
    char* at[N];

    __device__ __forceinline__ Place() {}

    __device__ __forceinline__ Place(const Args& a, const Memory<N>& memory, u32 matrix) {
        #pragma unroll
        for (int n = 0; n < N; n++) at[n] = memory.first[n];
        #pragma unroll
        for (int d = RANK - 1; d >= 0; d--) {
            const u32 size = (u32)a.size[d], index = d == 0 ? matrix : matrix % size;
            if (d > 0) matrix /= size;
            #pragma unroll
            for (int n = 0; n < N; n++) at[n] += index * memory.outer[d][n];
        }
    }

    __device__ __forceinline__ Place moved(const Memory<N>& memory, i64 x, i64 y) const {
        Place to;
        #pragma unroll
        for (int n = 0; n < N; n++) to.at[n] = at[n] + (x * memory.strides[0][n] + y * memory.strides[1][n]);
        return to;
    }
};

// What a block reads of an input in a step: SIDE rows or columns, DEPTH deep. Consecutive threads take what is
// consecutive in memory, along the depth or along the side.
template <class Input, int SIDE, bool ALONG_DEPTH> struct Part {
    static constexpr int WIDTH = Input::WIDTH;
    static constexpr int FAST = (ALONG_DEPTH ? DEPTH : SIDE) / WIDTH, SLOW = ALONG_DEPTH ? SIDE : DEPTH;
    // Threads take so many lines at once, and so often.
    static constexpr int LINES = THREADS / FAST, COUNT = (SLOW + LINES - 1) / LINES;
    static_assert(FAST <= THREADS && THREADS % FAST == 0, "a line is for a part of the threads");

    const Memory<Input::OPERANDS>& memory;
    Place<Input::OPERANDS> place;
    int x, y, side, depth;
    Input held[COUNT];

    // `first` is the first row or column of the block, `begin` where it starts in the depth.
    __device__ __forceinline__ Part(const Args& a, const Memory<Input::OPERANDS>& memory, u32 matrix, i64 first,
                                    i64 begin, i64 sides)
        : memory(memory), place(a, memory, matrix) {
        x = threadIdx.x % FAST * WIDTH;
        y = threadIdx.x / FAST;
        place = place.moved(memory, first + (ALONG_DEPTH ? y : x), begin + (ALONG_DEPTH ? x : y));
        side = (int)least(sides - first, SIDE);
    }

    __device__ __forceinline__ bool is_inside(int line) const {
        return ALONG_DEPTH ? line < side && x < depth : line < depth && x < side;
    }

    // Loads what a step needs, where so much of the depth is left, and goes on to the next step.
    __device__ __forceinline__ void load(i64 depth_left) {
        depth = (int)least(depth_left, DEPTH);
        #pragma unroll
        for (int u = 0; u < COUNT; u++) {
            const int ahead = u * LINES;
            held[u] = Input();
            if (is_inside(y + ahead)) {
                held[u].load(place.moved(memory, ALONG_DEPTH ? ahead : 0, ALONG_DEPTH ? 0 : ahead).at);
            }
        }
        place = place.moved(memory, 0, DEPTH);
    }

    // Stores what was loaded.
    __device__ __forceinline__ void store(const Parameters& parameters, T (*tile)[SIDE + LANES]) const {
        #pragma unroll
        for (int u = 0; u < COUNT; u++) {
            const int line = y + u * LINES;
            if (SLOW % LINES != 0 && line >= SLOW) continue;
            // Zero is loaded as zero, but what is computed from it may be anything.
            const bool counts = Input::PLAIN || is_inside(line);
            Vector<T, WIDTH> elements;
            #pragma unroll
            for (int k = 0; k < WIDTH; k++) elements.e[k] = counts ? held[u].element(parameters, k) : 0;
            if (ALONG_DEPTH) {
                #pragma unroll
                for (int k = 0; k < WIDTH; k++) tile[x + k][line] = elements.e[k];
            } else {
                *(Vector<T, WIDTH>*)&tile[line][x] = elements;
            }
        }
    }
};

// The element of a thread's row or column `n`: groups of neighbours, as far apart as all threads' groups take.
template <int GROUP, int ACROSS> static __device__ __forceinline__ int element_of(int thread, int n) {
    return (n / GROUP * ACROSS + thread) * GROUP + n % GROUP;
}

// What a thread needs of a line of a tile.
template <int EACH, int GROUP, int ACROSS> static __device__ __forceinline__ void read(T* to, const T* line, int thread) {
    #pragma unroll
    for (int n = 0; n < EACH; n += GROUP) {
        const auto group = *(const Vector<T, GROUP>*)&line[element_of<GROUP, ACROSS>(thread, n)];
        #pragma unroll
        for (int k = 0; k < GROUP; k++) to[n + k] = group.e[k];
    }
}

static __device__ __forceinline__ void multiply(const Args& a) {
    __shared__ __align__(16) T left_tile[2][DEPTH][ROWS + LANES];
    __shared__ __align__(16) T right_tile[2][DEPTH][COLUMNS + LANES];
    const i64 number = blockIdx.y + (i64)blockIdx.z * gridDim.y;
    if (number >= a.matrices * (SPLIT ? a.stretches : 1)) return;
    const u32 across = (u32)((a.columns + COLUMNS - 1) / COLUMNS);
    const i64 first_row = (i64)(blockIdx.x / across) * ROWS, first_column = (i64)(blockIdx.x % across) * COLUMNS;
    // A stretch of one matrix after the other.
    const u32 stretches = SPLIT ? (u32)a.stretches : 1, matrix = (u32)number / stretches;
    const u32 stretch = (u32)number % stretches;
    const i64 begin = stretch * a.stretch, depth = least(a.depth - begin, a.stretch);
    Part<Left, ROWS, LEFT_ALONG_DEPTH> left(a, a.left, matrix, first_row, begin, a.rows);
    Part<Right, COLUMNS, RIGHT_ALONG_DEPTH> right(a, a.right, matrix, first_column, begin, a.columns);
    const int tx = threadIdx.x % THREADS_ALONG, ty = threadIdx.x / THREADS_ALONG;
    T sums[ROWS_EACH][COLUMNS_EACH] = {};
    // Each turn loads one step, and multiplies what the turn before has loaded.
    #pragma unroll 1
    for (i64 left_over = depth, half = 0;; left_over -= DEPTH, half ^= 1) {
        if (left_over > 0) {
            left.load(left_over);
            right.load(left_over);
        }
        if (left_over < depth) {
            #pragma unroll UNROLL
            for (int k = 0; k < DEPTH; k++) {
                T x[ROWS_EACH], y[COLUMNS_EACH];
                read<ROWS_EACH, ROWS_GROUP, THREADS_DOWN>(x, left_tile[half ^ 1][k], ty);
                read<COLUMNS_EACH, COLUMNS_GROUP, THREADS_ALONG>(y, right_tile[half ^ 1][k], tx);
                #pragma unroll
                for (int i = 0; i < ROWS_EACH; i++) {
                    #pragma unroll
                    for (int j = 0; j < COLUMNS_EACH; j++) sums[i][j] = multiply_add(x[i], y[j], sums[i][j]);
                }
            }
        }
        if (left_over <= 0) break;
        // This half was read before the last barrier.
        left.store(a.parameters, left_tile[half]);
        right.store(a.parameters, right_tile[half]);
        __syncthreads();
    }
    // Stretches are stored one after the other, each as all of its matrices.
    const i64 before = (stretch * a.matrices + matrix) * a.rows * a.columns;
    char* const workspace = a.workspace + (before + first_row * a.columns + first_column) * (i64)sizeof(T);
    const Place<Out::OPERANDS> out = Place<Out::OPERANDS>(a, a.out, matrix).moved(a.out, first_row, first_column);
    if (OUT_WIDE) {
        const i64 down = SPLIT ? a.columns * (i64)sizeof(T) : a.out.strides[0][0];
        const int first = ty * ROWS_GROUP, first_of_row = tx * COLUMNS_GROUP;
        char* const to = (SPLIT ? workspace : out.at[0]) + first * down + first_of_row * (int)sizeof(T);
        #pragma unroll
        for (int i = 0; i < ROWS_EACH; i++) {
            const int row = element_of<ROWS_GROUP, THREADS_DOWN>(0, i);
            #pragma unroll
            for (int j = 0; j < COLUMNS_EACH; j += COLUMNS_GROUP) {
                const int column = element_of<COLUMNS_GROUP, THREADS_ALONG>(0, j);
                if (first + row >= left.side || first_of_row + column >= right.side) continue;
                Vector<T, COLUMNS_GROUP> group;
                #pragma unroll
                for (int k = 0; k < COLUMNS_GROUP; k++) group.e[k] = sums[i][j + k];
                *(Vector<T, COLUMNS_GROUP>*)(to + row * down + column * (int)sizeof(T)) = group;
            }
        }
        return;
    }
    // Some rows at a time through shared memory, so that neighbouring threads store neighbours, and what becomes of an
    // element is there once: each thread has one column of them.
    T(*const some)[COLUMNS + LANES] = (T(*)[COLUMNS + LANES]) left_tile;
    static_assert(THREADS_DOWN * (COLUMNS + LANES) <= 2 * DEPTH * (ROWS + LANES), "some rows fit");
    static_assert(THREADS % COLUMNS == 0, "threads take whole rows");
    constexpr int LINES = THREADS / COLUMNS, BATCH = Out::BATCH < COLUMNS_EACH ? Out::BATCH : COLUMNS_EACH;
    const int column = threadIdx.x % COLUMNS;
    #pragma unroll 1
    for (int i = 0; i < ROWS_EACH; i++) {
        __syncthreads();
        // The sums move up, so that those of this turn come first.
        #pragma unroll
        for (int j = 0; j < COLUMNS_EACH; j++) {
            some[ty][element_of<COLUMNS_GROUP, THREADS_ALONG>(tx, j)] = sums[0][j];
            #pragma unroll
            for (int n = 1; n < ROWS_EACH; n++) sums[n - 1][j] = sums[n][j];
        }
        __syncthreads();
        #pragma unroll 1
        for (int line = threadIdx.x / COLUMNS; line < THREADS_DOWN; line += LINES * (SPLIT ? 1 : BATCH)) {
            const int row = element_of<ROWS_GROUP, THREADS_DOWN>(line, i);
            if (SPLIT) {
                T* const to = (T*)workspace + (row * a.columns + column);
                if (row < left.side && column < right.side) *to = some[line][column];
                continue;
            }
            Place<Out::OPERANDS> to[BATCH];
            Out elements[BATCH];
            bool inside[BATCH];
            // All of them are loaded before any is stored.
            #pragma unroll
            for (int u = 0; u < BATCH; u++) {
                to[u] = u == 0 ? out.moved(a.out, row, column) : to[u - 1].moved(a.out, LINES * ROWS_GROUP, 0);
                inside[u] = row + u * LINES * ROWS_GROUP < left.side && column < right.side;
                if (inside[u]) elements[u].load(to[u].at);
            }
            #pragma unroll
            for (int u = 0; u < BATCH; u++) {
                if (inside[u]) elements[u].store(a.parameters, to[u].at, some[line + u * LINES][column]);
            }
        }
    }
}

// Adds up the stretches of each element: every eighth by one thread, then those eight sums, each in order.
static __device__ __forceinline__ void add_up(const Args& a) {
    __shared__ T sums[8][32];
    const u32 stretches = (u32)a.stretches, rows = (u32)a.rows, columns = (u32)a.columns;
    const u32 all = (u32)a.matrices * rows * columns, at = blockIdx.x * 32 + threadIdx.x;
    T sum = 0;
    if (at < all) {
        const T* from = (const T*)a.workspace + ((i64)threadIdx.y * all + at);
        #pragma unroll 2
        for (u32 n = threadIdx.y; n < stretches; n += 8, from += 8 * (i64)all) sum += *from;
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || at >= all) return;
    #pragma unroll 1
    for (int n = 1; n < 8; n++) sum += sums[n][threadIdx.x];
    const u32 row = at / columns;
    const auto to = Place<Out::OPERANDS>(a, a.out, row / rows).moved(a.out, row % rows, at % columns);
    Out element;
    element.load(to.at);
    element.store(a.parameters, to.at, sum);
}
