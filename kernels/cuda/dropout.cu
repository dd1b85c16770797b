// kernels/cuda/dropout.cu - masks from Philox4x32-10, the bits of base/rng.h.
//
// One thread a block of four numbers, that is four neighbouring elements of one row, which it moves as one pack
// where rows are multiples of four.  Moves twice the element's size against about 25 integer operations an element:
// in F32 near the balance of both, in BF16 and F16 limited by arithmetic.  The step is read from device memory, so
// that a captured launch is right in every step.
#include "kernels/cuda/launch.cuh"

enum { WORDS = 4 };

struct words {
    uint32_t v[WORDS];
};

// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11), section 4.3; Random123's constants.
static __device__ inline words philox(uint64_t key, uint64_t hi, uint64_t lo)
{
    words c = {{static_cast<uint32_t>(lo), static_cast<uint32_t>(lo >> 32),
                static_cast<uint32_t>(hi), static_cast<uint32_t>(hi >> 32)}};
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = static_cast<uint64_t>(0xd2511f53u) * c.v[0];
        const uint64_t p1 = static_cast<uint64_t>(0xcd9e8d57u) * c.v[2];
        c = {{static_cast<uint32_t>(p1 >> 32) ^ c.v[1] ^ k0, static_cast<uint32_t>(p1),
              static_cast<uint32_t>(p0 >> 32) ^ c.v[3] ^ k1, static_cast<uint32_t>(p0)}};
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c;
}

template <class T>
static __global__ void dropout(const dml_cu_dropout_args p, const dml_cu_step *step, T *y,
                               const T *x, bool packed)
{
    const int64_t groups = (p.row_elems + WORDS - 1) / WORDS; /* of a row */
    const quotient q = divide(static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x, groups);
    const int64_t row = q.of, begin = row * p.row_elems, first = q.rest * WORDS;
    if (row >= p.rows) return;
    float v[WORDS];
    load<WORDS>(v, x + begin, first, p.row_elems, packed);
    const uint64_t sample = static_cast<uint64_t>(p.first_sample + row);
    const words w = philox(p.key, static_cast<uint64_t>(step->step),
                           sample << 32 | static_cast<uint64_t>(q.rest));
#pragma unroll
    for (int k = 0; k < WORDS; k++) {
        const float unit = static_cast<float>(w.v[k] >> 8) * 0x1p-24f;
        v[k] = unit >= p.rate ? v[k] * p.scale : 0.0f;
    }
    store<WORDS>(y + begin, v, first, p.row_elems, packed);
}

template <class T>
static cudaError_t run(const dml_cu_dropout_args *p, const dml_cu_step *step, void *y,
                       const void *x, cudaStream_t stream)
{
    const int64_t threads = p->rows * tiles(p->row_elems, WORDS);
    const cudaLaunchConfig_t c = over(tiles(threads, BLOCK), BLOCK, stream);
    const bool packed = is_aligned(x) && is_aligned(y) && p->row_elems % WORDS == 0;
    return cudaLaunchKernelEx(&c, dropout<T>, *p, step, static_cast<T *>(y),
                              static_cast<const T *>(x), packed);
}

cudaError_t dml_cu_dropout(const dml_cu_dropout_args *p, const dml_cu_step *step, void *y,
                           const void *x, dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run, p, step, y, x, stream);
}
