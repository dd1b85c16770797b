// kernels/cuda/layout.cu - NHWC to NCHW and back: the transpose of [rows, cols] in each of n samples.
//
// A block takes a tile through shared memory, so that both the reads and the writes of a warp are neighbours.  The
// tile has a column more than it needs, which puts the elements of a column into different banks.  Moves twice the
// element's size an element; bits only, so 2 and 4 bytes are all the types there are.
//
// 4 bytes: a tile of 32 x 32.  2 bytes: one of 64 x 64, in words of two neighbours of a row, so that a warp moves 128
// bytes here too.  Two words below each other make two words of y:
//
//      a = x[r][c], x[r][c + 1]               y[c][r],     y[c][r + 1]     = a low,  b low
//      b = x[r + 1][c], x[r + 1][c + 1]       y[c + 1][r], y[c + 1][r + 1] = a high, b high
#include "kernels/cuda/launch.cuh"

enum { LEVELS = 8, PAIRS = 2 * WARP };

// Where a block's tile of `side` begins.
struct corner {
    int64_t row, col, sample;
};

static __device__ inline corner own_corner(int64_t rows, int64_t cols, int side)
{
    const quotient a = divide(blockIdx.x, (cols + side - 1) / side),
                   b = divide(a.of, (rows + side - 1) / side);
    return {b.rest * side, a.rest * side, b.of * rows * cols};
}

static __global__ void transpose_words(uint32_t *y, const uint32_t *x, int64_t rows, int64_t cols)
{
    __shared__ uint32_t tile[WARP][WARP + 1];
    const int lane = static_cast<int>(threadIdx.x), level = static_cast<int>(threadIdx.y);
    const corner at = own_corner(rows, cols, WARP);
    uint32_t v[WARP / LEVELS]; /* all loads in flight at once */
#pragma unroll
    for (int k = 0; k < WARP / LEVELS; k++) {
        const int64_t row = at.row + k * LEVELS + level, col = at.col + lane;
        v[k] = row < rows && col < cols ? x[at.sample + row * cols + col] : 0;
    }
#pragma unroll
    for (int k = 0; k < WARP / LEVELS; k++)
        tile[k * LEVELS + level][lane] = v[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < WARP / LEVELS; k++) {
        const int64_t col = at.col + k * LEVELS + level, row = at.row + lane;
        if (col < cols && row < rows)
            y[at.sample + col * rows + row] = tile[lane][k * LEVELS + level];
    }
}

// Elements i and i + 1 of a row of n.  paired: every row begins on a border of two elements and has an even number.
static __device__ inline uint32_t read_two(const uint16_t *row, int64_t i, int64_t n, bool paired)
{
    if (i >= n) return 0;
    if (paired) {
        const pack<uint16_t, 2> p = *reinterpret_cast<const pack<uint16_t, 2> *>(row + i);
        return p.v[0] | static_cast<uint32_t>(p.v[1]) << 16;
    }
    return row[i] | (i + 1 < n ? static_cast<uint32_t>(row[i + 1]) << 16 : 0);
}

static __device__ inline void write_two(uint16_t *row, int64_t i, int64_t n, bool paired,
                                        uint32_t word)
{
    const pack<uint16_t, 2> p = {
        {static_cast<uint16_t>(word & 0xffffu), static_cast<uint16_t>(word >> 16)}};
    if (paired) {
        *reinterpret_cast<pack<uint16_t, 2> *>(row + i) = p;
        return;
    }
    row[i] = p.v[0];
    if (i + 1 < n) row[i + 1] = p.v[1];
}

static __global__ void transpose_halves(uint16_t *y, const uint16_t *x, int64_t rows, int64_t cols,
                                        bool x_paired, bool y_paired)
{
    __shared__ uint32_t tile[PAIRS][WARP + 1];
    const int lane = static_cast<int>(threadIdx.x), level = static_cast<int>(threadIdx.y);
    const corner at = own_corner(rows, cols, PAIRS);
    uint32_t v[PAIRS / LEVELS];
#pragma unroll
    for (int k = 0; k < PAIRS / LEVELS; k++) {
        const int64_t row = at.row + k * LEVELS + level;
        v[k] = row < rows ? read_two(x + at.sample + row * cols, at.col + 2 * lane, cols, x_paired)
                          : 0;
    }
#pragma unroll
    for (int k = 0; k < PAIRS / LEVELS; k++)
        tile[k * LEVELS + level][lane] = v[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < WARP / LEVELS; k++) {
        const int i = k * LEVELS + level;
        const int64_t col = at.col + 2 * i, row = at.row + 2 * lane;
        const uint32_t a = tile[2 * lane][i], b = tile[2 * lane + 1][i];
        uint16_t *out = y + at.sample + col * rows;
        if (row < rows && col < cols) write_two(out, row, rows, y_paired, (a & 0xffffu) | b << 16);
        if (row < rows && col + 1 < cols)
            write_two(out + rows, row, rows, y_paired, a >> 16 | (b & 0xffff0000u));
    }
}

static cudaLaunchConfig_t over_tiles(int64_t n, int64_t rows, int64_t cols, int side,
                                     cudaStream_t stream)
{
    cudaLaunchConfig_t c = over(n * tiles(rows, side) * tiles(cols, side), WARP, stream);
    c.blockDim = dim3(WARP, LEVELS);
    return c;
}

cudaError_t dml_cu_transpose(void *y, const void *x, int64_t n, int64_t rows, int64_t cols,
                             int64_t elem_bytes, cudaStream_t stream)
{
    if (elem_bytes == 2) {
        const cudaLaunchConfig_t c = over_tiles(n, rows, cols, PAIRS, stream);
        const bool x_paired = is_aligned(x) && cols % 2 == 0;
        const bool y_paired = is_aligned(y) && rows % 2 == 0;
        return cudaLaunchKernelEx(&c, transpose_halves, static_cast<uint16_t *>(y),
                                  static_cast<const uint16_t *>(x), rows, cols, x_paired, y_paired);
    }
    const cudaLaunchConfig_t c = over_tiles(n, rows, cols, WARP, stream);
    return cudaLaunchKernelEx(&c, transpose_words, static_cast<uint32_t *>(y),
                              static_cast<const uint32_t *>(x), rows, cols);
}
