// kernels/cuda/layout.cu - NHWC to NCHW and back: the transpose of [rows, cols] in each of n samples.
//
// A block takes a tile of 32 x 32 through shared memory, so that both the reads and the writes of a warp are
// neighbours.  The tile has a column more than it needs, which puts the elements of a column into different banks.
// Moves twice the element's size an element; bits only, so 2 and 4 bytes are all the types there are.
#include "kernels/cuda/launch.cuh"

enum { LEVELS = 8 };

template <class T>
static __global__ void transpose(T *y, const T *x, int64_t rows, int64_t cols, int64_t row_tiles,
                                 int64_t col_tiles)
{
    DYN_SHARED(T, tile); /* [WARP][WARP + 1] */
    const int lane = static_cast<int>(threadIdx.x), level = static_cast<int>(threadIdx.y);
    const quotient a = divide(blockIdx.x, col_tiles), b = divide(a.of, row_tiles);
    const int64_t row = b.rest * WARP, col = a.rest * WARP, sample = b.of * rows * cols;
    for (int i = level; i < WARP; i += LEVELS)
        if (row + i < rows && col + lane < cols)
            tile[i * (WARP + 1) + lane] = x[sample + (row + i) * cols + col + lane];
    __syncthreads();
    for (int i = level; i < WARP; i += LEVELS)
        if (col + i < cols && row + lane < rows)
            y[sample + (col + i) * rows + row + lane] = tile[lane * (WARP + 1) + i];
}

template <class T>
static cudaError_t run(void *y, const void *x, int64_t n, int64_t rows, int64_t cols,
                       cudaStream_t stream)
{
    const int64_t row_tiles = tiles(rows, WARP), col_tiles = tiles(cols, WARP);
    cudaLaunchConfig_t c = over(n * row_tiles * col_tiles, WARP, stream);
    c.blockDim = dim3(WARP, LEVELS);
    c.dynamicSmemBytes = sizeof(T) * WARP * (WARP + 1);
    return cudaLaunchKernelEx(&c, transpose<T>, static_cast<T *>(y), static_cast<const T *>(x),
                              rows, cols, row_tiles, col_tiles);
}

cudaError_t dml_cu_transpose(void *y, const void *x, int64_t n, int64_t rows, int64_t cols,
                             int64_t elem_bytes, cudaStream_t stream)
{
    return elem_bytes == 2 ? run<uint16_t>(y, x, n, rows, cols, stream)
                           : run<uint32_t>(y, x, n, rows, cols, stream);
}
