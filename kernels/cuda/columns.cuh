// kernels/cuda/columns.cuh - walking down the columns of x[rows, cols].  Included by .cu files only.
//
// A block takes a tile of columns and a chunk of rows: `lanes` threads side by side, each with a pack of N
// columns, and BLOCK / lanes such rows of threads below each other, which walk down the chunk.
//
//              lanes x N columns            sums of a chunk: thread by thread, then over the rows of threads in
//      row 0   t0   t1   t2   t3            shared memory; sums of all chunks: a second launch.  The order of
//      row 1   t4   t5   t6   t7            every addition follows from (rows, cols, N) alone, so the bits are
//      row 2   t0   ...                     the same in every run.
//
// Narrow matrices are cut into many chunks, wide ones into few: CHUNK_BLOCKS blocks of 64 columns, half or a quarter of
// them where one takes 128 or 256: 8, 4 or 2 for each of an H200's 132 multiprocessors, the same share for all.
#ifndef DML_KERNELS_CUDA_COLUMNS_CUH
#define DML_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/launch.cuh"

enum { AHEAD = 4, CHUNK_BLOCKS = 1056, CHUNK_LEAST_ROWS = 256, FINISH_COLS = 8, FINISH_ROWS = 64 };

struct column_grid {
    int64_t rows, cols, chunk_rows;
    int lanes;
};

static inline int64_t rows_of_chunk(int64_t rows, int64_t cols)
{
    const int64_t most = tiles(rows, CHUNK_LEAST_ROWS), wanted = CHUNK_BLOCKS / tiles(cols, 64);
    const int64_t chunks = wanted < 1 ? 1 : wanted < most ? wanted : most;
    return tiles(rows, chunks);
}

template <int N>
static inline column_grid columns_of(int64_t rows, int64_t cols, int64_t chunk_rows)
{
    int lanes = 1;
    while (lanes < WARP && lanes * N < cols)
        lanes *= 2;
    return {rows, cols, chunk_rows, lanes};
}

template <int N>
static inline cudaLaunchConfig_t over_columns(const column_grid &g, cudaStream_t stream)
{
    return over(tiles(g.cols, g.lanes * N) * tiles(g.rows, g.chunk_rows), BLOCK, stream);
}

// Of one thread: its first column, its rows [row, end) by steps of `step`, its chunk.
struct column_place {
    int64_t col, row, end, chunk;
    int lane, level, step; /* level: which row of threads; step: how many there are */
    bool inside;
};

template <int N> static __device__ inline column_place own_columns(const column_grid &g)
{
    column_place p;
    const int64_t col_tiles = (g.cols + g.lanes * N - 1) / (g.lanes * N);
    const quotient q = divide(blockIdx.x, col_tiles);
    const int64_t end = (q.of + 1) * g.chunk_rows;
    p.lane = static_cast<int>(threadIdx.x) % g.lanes;
    p.level = static_cast<int>(threadIdx.x) / g.lanes;
    p.step = BLOCK / g.lanes;
    p.chunk = q.of;
    p.col = (q.rest * g.lanes + p.lane) * N;
    p.row = q.of * g.chunk_rows + p.level;
    p.end = end < g.rows ? end : g.rows;
    p.inside = p.col < g.cols;
    return p;
}

// Row r, or the chunk's last one in the place of those behind it: loads without a test can all be in flight at once.
static __device__ inline int64_t or_last(const column_place &p, int64_t r)
{
    return r < p.end ? r : p.end - 1;
}

// What `value` of each thread of a column adds up to, given to all of them.  For blocks of
// (FINISH_COLS, FINISH_ROWS); every thread calls it.
static __device__ inline double add_over_rows(double value)
{
    __shared__ double part[FINISH_ROWS][FINISH_COLS];
    const unsigned col = threadIdx.x, row = threadIdx.y;
    part[row][col] = value;
    __syncthreads();
    for (unsigned half = FINISH_ROWS / 2; half > 0; half /= 2) {
        if (row < half) part[row][col] += part[row + half][col];
        __syncthreads();
    }
    const double sum = part[0][col];
    __syncthreads();
    return sum;
}

static inline cudaLaunchConfig_t over_finish(int64_t cols, cudaStream_t stream)
{
    cudaLaunchConfig_t c = over(tiles(cols, FINISH_COLS), FINISH_COLS, stream);
    c.blockDim = dim3(FINISH_COLS, FINISH_ROWS);
    return c;
}

// Sum over chunks of part[chunk][which of q][col], in this thread's column.
static __device__ inline double add_chunks(const float *part, int64_t chunks, int q, int which,
                                           int64_t cols, int64_t col)
{
    double sum = 0.0;
    for (int64_t i = threadIdx.y; i < chunks && col < cols; i += FINISH_ROWS)
        sum += part[(i * q + which) * cols + col];
    return add_over_rows(sum);
}

#endif
