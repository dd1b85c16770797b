// kernels/cuda/exact.cu - sums whose bits do not depend on order, and the chunked sum of squares.
//
// accumulate_exact: parallel over elements.  Moves 4 bytes in and 8 in and out an element.  The largest
//   magnitude goes through the warp, then shared memory, then one atomicMax a block: a maximum of
//   integers, so no order shows.
// finish_exact: parallel over elements, 12 bytes each.
// sum_squares: one thread a (chunk, lane): it adds its DML_CU_NORM_CHUNK / 8 squares in order, as the
//   contract says; then three shuffles add the 8 lanes as a tree.  4 bytes an element; a warp's load
//   is four sectors of 32 bytes, all of them used.
#include "kernels/cuda/launch.cuh"

#include <math.h>

static __device__ inline uint32_t warp_max(uint32_t v)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v ? other : v;
    }
    return v;
}

// rint to even.  Beyond int64 the nearest float inside, NaN as the upper end, as `ref` has it.
static __device__ inline uint64_t rounded(float v)
{
    const float inside = fmaxf(fminf(v, 0x1.fffffep62f), -0x1p63f);
    return static_cast<uint64_t>(__float2ll_rn(inside));
}

// q = rint(g 2^scale_log2); the product is exact unless it overflows (the maximum tells) or is subnormal
// (rounds to 0 either way).
static __global__ void accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                        float scale, int first, int64_t n)
{
    __shared__ uint32_t warp_bits[BLOCK / WARP];
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    uint32_t bits = 0;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i >= n) continue;
        const float x = g[i];
        const uint32_t magnitude = __float_as_uint(x) & 0x7fffffffu;
        bits = magnitude > bits ? magnitude : bits;
        const uint64_t q = rounded(x * scale);
        acc[i] = static_cast<int64_t>(first ? q : static_cast<uint64_t>(acc[i]) + q);
    }
    bits = warp_max(bits);
    if (threadIdx.x % WARP == 0) warp_bits[threadIdx.x / WARP] = bits;
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    bits = warp_max(threadIdx.x < BLOCK / WARP ? warp_bits[threadIdx.x] : 0);
    if (threadIdx.x == 0) atomicMax(max_bits, bits);
}

static __global__ void finish_exact(float *g, const int64_t *acc, float unit, int64_t n)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i < n) g[i] = __ll2float_rn(acc[i]) * unit;
    }
}

enum { LANES = 8, CHUNKS_A_BLOCK = BLOCK / LANES };

static __global__ void sum_squares(double *partial, const float *x, int64_t n, int64_t chunks)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    const int64_t chunk = static_cast<int64_t>(blockIdx.x) * CHUNKS_A_BLOCK + threadIdx.x / LANES;
    const int64_t begin = chunk * DML_CU_NORM_CHUNK;
    const int64_t end = begin + DML_CU_NORM_CHUNK < n ? begin + DML_CU_NORM_CHUNK : n;
    double sum = 0.0;
    for (int64_t i = begin + lane; i < end; i += LANES) {
        const double v = x[i];
        sum += v * v;
    }
    for (int step = 1; step < LANES; step *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0 && chunk < chunks) partial[chunk] = sum;
}

// 2^e for e in -126..126, from its bits.
static float power_of_two(int32_t e)
{
    const uint32_t bits = static_cast<uint32_t>(e + 127) << 23;
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

cudaError_t dml_cu_accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                    int32_t scale_log2, bool first, int64_t n, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, TILE), BLOCK, stream);
    return cudaLaunchKernelEx(&c, accumulate_exact, acc, max_bits, g, power_of_two(scale_log2),
                              first ? 1 : 0, n);
}

cudaError_t dml_cu_finish_exact(float *g, const int64_t *acc, int32_t scale_log2, int64_t n,
                                cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, TILE), BLOCK, stream);
    return cudaLaunchKernelEx(&c, finish_exact, g, acc, power_of_two(-scale_log2), n);
}

cudaError_t dml_cu_sum_squares(double *partial, const float *x, int64_t n, cudaStream_t stream)
{
    const int64_t chunks = tiles(n, DML_CU_NORM_CHUNK);
    const cudaLaunchConfig_t c = over(tiles(chunks, CHUNKS_A_BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, sum_squares, partial, x, n, chunks);
}
