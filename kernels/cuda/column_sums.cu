// kernels/cuda/column_sums.cu - the bias gradient: sums over samples (columns.cuh).
//
// Parallel over packs of columns and chunks of rows, then over columns.  Reads the element's size an element, four
// packs in flight a thread; the sums of chunks are at most 512 KiB and stay in L2.  In F32 inside a chunk, in double
// over chunks.  Up to 56 registers: four blocks a multiprocessor.
#include "kernels/cuda/columns.cuh"

template <class T, int N>
static __global__ void sum_chunks(float *part, const T *x, const column_grid g)
{
    DYN_SHARED(float, level_sum); /* [levels][lanes * N] */
    const column_place p = own_columns<N>(g);
    float sum[N] = {};
    for (int64_t r = p.row; r < p.end && p.inside; r += AHEAD * p.step) {
        float v[AHEAD][N];
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            load<N>(v[u], x + or_last(p, r + u * p.step) * g.cols, p.col, g.cols, true);
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
#pragma unroll
            for (int e = 0; e < N; e++)
                if (r + u * p.step < p.end) sum[e] += v[u][e];
    }
    const int width = g.lanes * N;
#pragma unroll
    for (int e = 0; e < N; e++)
        level_sum[p.level * width + p.lane * N + e] = sum[e];
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    const int64_t col = p.col - p.lane * N + own;
    if (own >= width || col >= g.cols) return;
    float all = 0.0f;
    for (int level = 0; level < p.step; level++)
        all += level_sum[level * width + own];
    part[p.chunk * g.cols + col] = all;
}

static __global__ void finish(float *sums, const float *part, int64_t chunks, int64_t cols,
                              bool add)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * FINISH_COLS + threadIdx.x;
    const double sum = add_chunks(part, chunks, 1, 0, cols, col);
    if (threadIdx.y > 0 || col >= cols) return;
    sums[col] = add ? sums[col] + static_cast<float>(sum) : static_cast<float>(sum);
}

template <class T, int N>
static cudaError_t start(float *part, const void *x, const column_grid &g, cudaStream_t stream)
{
    cudaLaunchConfig_t c = over_columns<N>(g, stream);
    c.dynamicSmemBytes = sizeof(float) * BLOCK * N;
    return cudaLaunchKernelEx(&c, sum_chunks<T, N>, part, static_cast<const T *>(x), g);
}

template <class T>
static cudaError_t run(float *part, const void *x, int64_t rows, int64_t cols, int64_t chunk_rows,
                       cudaStream_t stream)
{
    const int N = pack_elems<T>;
    if (cols % N == 0 && is_aligned(x))
        return start<T, N>(part, x, columns_of<N>(rows, cols, chunk_rows), stream);
    return start<T, 1>(part, x, columns_of<1>(rows, cols, chunk_rows), stream);
}

int64_t dml_cu_column_sums_bytes(int64_t rows, int64_t cols)
{
    return tiles(rows, rows_of_chunk(rows, cols)) * cols * static_cast<int64_t>(sizeof(float));
}

cudaError_t dml_cu_column_sums(float *sums, const void *x, void *part, int64_t rows, int64_t cols,
                               bool add, dml_dtype dtype, cudaStream_t stream)
{
    const int64_t chunk_rows = rows_of_chunk(rows, cols), chunks = tiles(rows, chunk_rows);
    float *chunk_sum = static_cast<float *>(part);
    const cudaError_t status = OF_TYPE(dtype, run, chunk_sum, x, rows, cols, chunk_rows, stream);
    if (status != cudaSuccess) return status;
    const cudaLaunchConfig_t c = over_finish(cols, stream);
    const float *from = chunk_sum;
    return cudaLaunchKernelEx(&c, finish, sums, from, chunks, cols, add);
}
