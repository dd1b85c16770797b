// kernels/cuda/activation.cu - bias, activation and what its backward needs, where a product cannot fuse them.
//
// Parallel over groups of 8 neighbouring elements of a row: one byte of the relu's bit mask.  Bytes moved: relu
// twice the element's size and a bit, gelu three times it; limited by memory.  These are the kernels of shapes for
// which the library has no fused epilogue, so they are plain: one group a thread.
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/launch.cuh"

enum { GROUP = 8 };

// Where this thread's group is.
struct group {
    int64_t row, col;
    bool inside;
};

static __device__ inline group own_group(int64_t rows, int64_t cols)
{
    const int64_t at = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    const quotient q = divide(at, (cols + GROUP - 1) / GROUP);
    return {q.of, q.rest * GROUP, q.of < rows};
}

// The tensors' rows begin on borders of a pack when cols is a multiple of GROUP and the base is aligned.
template <class T>
static __global__ void relu_aux(T *y, uint8_t *aux, int64_t aux_row, int64_t rows, int64_t cols,
                                bool packed)
{
    const group g = own_group(rows, cols);
    if (!g.inside) return;
    float v[GROUP];
    unsigned bits = 0;
    load<GROUP>(v, y + g.row * cols, g.col, cols, packed);
#pragma unroll
    for (int e = 0; e < GROUP; e++) {
        bits |= (v[e] > 0.0f ? 1u : 0u) << e;
        v[e] = v[e] <= 0.0f ? 0.0f : v[e]; /* a NaN stays */
    }
    store<GROUP>(y + g.row * cols, v, g.col, cols, packed);
    aux[g.row * aux_row + g.col / GROUP] = static_cast<uint8_t>(bits);
}

template <class T>
static __global__ void drelu_aux(T *dx, const uint8_t *aux, int64_t aux_row, int64_t rows,
                                 int64_t cols, bool packed)
{
    const group g = own_group(rows, cols);
    if (!g.inside) return;
    float v[GROUP];
    const unsigned bits = aux[g.row * aux_row + g.col / GROUP];
    load<GROUP>(v, dx + g.row * cols, g.col, cols, packed);
#pragma unroll
    for (int e = 0; e < GROUP; e++)
        v[e] = bits >> e & 1 ? v[e] : 0.0f;
    store<GROUP>(dx + g.row * cols, v, g.col, cols, packed);
}

template <class T>
static __global__ void gelu_tanh_aux(T *y, uint8_t *aux, int64_t aux_row, int64_t rows,
                                     int64_t cols, bool packed)
{
    const group g = own_group(rows, cols);
    if (!g.inside) return;
    float v[GROUP];
    T *before = reinterpret_cast<T *>(aux + g.row * aux_row);
    load<GROUP>(v, y + g.row * cols, g.col, cols, packed);
    store<GROUP>(before, v, g.col, cols, packed);
#pragma unroll
    for (int e = 0; e < GROUP; e++)
        v[e] = gelu_tanh(v[e], is_half<T>);
    store<GROUP>(y + g.row * cols, v, g.col, cols, packed);
}

template <class T>
static __global__ void dgelu_tanh_aux(T *dx, const uint8_t *aux, int64_t aux_row, int64_t rows,
                                      int64_t cols, bool packed)
{
    const group g = own_group(rows, cols);
    if (!g.inside) return;
    float v[GROUP], x[GROUP];
    const T *before = reinterpret_cast<const T *>(aux + g.row * aux_row);
    load<GROUP>(v, dx + g.row * cols, g.col, cols, packed);
    load<GROUP>(x, before, g.col, cols, packed);
#pragma unroll
    for (int e = 0; e < GROUP; e++)
        v[e] *= gelu_tanh_slope(x[e], is_half<T>);
    store<GROUP>(dx + g.row * cols, v, g.col, cols, packed);
}

template <class T>
static __global__ void repeat_row(T *y, const T *row, int64_t rows, int64_t cols, bool packed)
{
    const group g = own_group(rows, cols);
    if (!g.inside) return;
    float v[GROUP];
    load<GROUP>(v, row, g.col, cols, packed);
    store<GROUP>(y + g.row * cols, v, g.col, cols, packed);
}

static cudaLaunchConfig_t over_groups(int64_t rows, int64_t cols, cudaStream_t stream)
{
    return over(tiles(rows * tiles(cols, GROUP), BLOCK), BLOCK, stream);
}

#define LAUNCHER(name, aux_type)                                                                   \
    template <class T>                                                                             \
    static cudaError_t run_##name(void *y, aux_type *aux, int64_t aux_row, int64_t rows,           \
                                  int64_t cols, cudaStream_t stream)                               \
    {                                                                                              \
        const cudaLaunchConfig_t c = over_groups(rows, cols, stream);                              \
        const bool packed = is_aligned(y) && is_aligned(aux) && cols % GROUP == 0;                 \
        return cudaLaunchKernelEx(&c, name<T>, static_cast<T *>(y), aux, aux_row, rows, cols,      \
                                  packed);                                                         \
    }                                                                                              \
    cudaError_t dml_cu_##name(void *y, aux_type *aux, int64_t aux_row, int64_t rows, int64_t cols, \
                              dml_dtype dtype, cudaStream_t stream)                                \
    {                                                                                              \
        return OF_TYPE(dtype, run_##name, y, aux, aux_row, rows, cols, stream);                    \
    }
LAUNCHER(relu_aux, uint8_t)
LAUNCHER(drelu_aux, const uint8_t)
LAUNCHER(gelu_tanh_aux, uint8_t)
LAUNCHER(dgelu_tanh_aux, const uint8_t)

template <class T>
static cudaError_t run_repeat_row(void *y, const void *row, int64_t rows, int64_t cols,
                                  cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over_groups(rows, cols, stream);
    const bool packed = is_aligned(y) && is_aligned(row) && cols % GROUP == 0;
    return cudaLaunchKernelEx(&c, repeat_row<T>, static_cast<T *>(y), static_cast<const T *>(row),
                              rows, cols, packed);
}

cudaError_t dml_cu_repeat_row(void *y, const void *row, int64_t rows, int64_t cols, dml_dtype dtype,
                              cudaStream_t stream)
{
    return OF_TYPE(dtype, run_repeat_row, y, row, rows, cols, stream);
}
