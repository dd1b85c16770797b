// kernels/cuda/dropout.cu - masks from Philox4x32-10, the bits of base/rng.h.
//
// One thread a block of four numbers, that is four neighbouring elements of one row.  Moves 8 bytes an
// element against about 15 integer operations: near the balance of both.
#include "kernels/cuda/launch.cuh"

struct words {
    uint32_t v[4];
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

static __global__ void dropout(const dml_cu_dropout_args p, float *y, const float *x)
{
    const int64_t groups = (p.row_elems + 3) / 4; /* of a row */
    const int64_t at = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    const int64_t row = at / groups, group = at % groups;
    if (row >= p.rows) return;
    const uint64_t sample = static_cast<uint64_t>(p.first_sample + row);
    const words w =
        philox(p.key, static_cast<uint64_t>(p.step), sample << 32 | static_cast<uint64_t>(group));
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int64_t e = group * 4 + k, i = row * p.row_elems + e;
        const float unit = static_cast<float>(w.v[k] >> 8) * 0x1p-24f;
        if (e < p.row_elems) y[i] = unit >= p.rate ? x[i] * p.scale : 0.0f;
    }
}

cudaError_t dml_cu_dropout(const dml_cu_dropout_args *p, float *y, const float *x,
                           cudaStream_t stream)
{
    const int64_t threads = p->rows * ((p->row_elems + 3) / 4);
    const cudaLaunchConfig_t c = over(tiles(threads, BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, dropout, *p, y, x);
}
