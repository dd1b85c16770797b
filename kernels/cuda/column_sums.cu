// kernels/cuda/column_sums.cu - the bias gradient.
//
// A block takes 32 columns; 8 rows of threads walk down them, 8 rows apart, and their sums meet in shared
// memory in a fixed order.  Reads 4 bytes an element, a warp one 128-byte line; with few columns few
// blocks run, which is the limit for narrow layers.
#include "kernels/cuda/launch.cuh"

enum { ROWS = 8 };

static __global__ void column_sums(float *sums, const float *x, int64_t rows, int64_t cols)
{
    __shared__ float part[ROWS][WARP];
    const int64_t col = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x;
    float sum = 0.0f;
    if (col < cols)
        for (int64_t r = threadIdx.y; r < rows; r += ROWS)
            sum += x[r * cols + col];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || col >= cols) return;
    for (int r = 1; r < ROWS; r++)
        sum += part[r][threadIdx.x];
    sums[col] = sum;
}

cudaError_t dml_cu_column_sums(float *sums, const float *x, int64_t rows, int64_t cols,
                               cudaStream_t stream)
{
    cudaLaunchConfig_t c = over(tiles(cols, WARP), WARP, stream);
    c.blockDim = dim3(WARP, ROWS);
    return cudaLaunchKernelEx(&c, column_sums, sums, x, rows, cols);
}
