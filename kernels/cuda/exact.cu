// kernels/cuda/exact.cu - sums whose bits do not depend on order, and the chunked sum of squares.
//
// accumulate_exact: parallel over elements.  Moves 4 bytes in and 8 in and out an element.  The largest
//   magnitude goes through the warp, then shared memory, then one atomicMax a block: a maximum of
//   integers, so no order shows.
// finish_exact: parallel over elements, 12 bytes each.
// accumulate_wide, finish_wide: the same with two words an element: 36 bytes, or 20 for the first; and 20.
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

// The block's largest goes to max_bits.  All threads of the block call it.
static __device__ inline void raise_max(uint32_t *max_bits, uint32_t bits)
{
    __shared__ uint32_t warp_bits[BLOCK / WARP];
    bits = warp_max(bits);
    if (threadIdx.x % WARP == 0) warp_bits[threadIdx.x / WARP] = bits;
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    bits = warp_max(threadIdx.x < BLOCK / WARP ? warp_bits[threadIdx.x] : 0);
    if (threadIdx.x == 0) atomicMax(max_bits, bits);
}

// q = rint(g 2^scale_log2); the product is exact unless it overflows (the maximum tells) or is subnormal
// (rounds to 0 either way).
static __global__ void accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                        float scale, int first, int64_t n)
{
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
    raise_max(max_bits, bits);
}

static __global__ void finish_exact(float *g, const int64_t *acc, float unit, int64_t n)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i < n) g[i] = __ll2float_rn(acc[i]) * unit;
    }
}

enum { LO_BITS = 56 };
static constexpr uint64_t LO_MASK = (UINT64_C(1) << LO_BITS) - 1;

// rint(g 2^84) = whole 2^56 + rint(part 2^56); lo is carried into hi at once and stays in 0 .. 2^56-1.
static __global__ void accumulate_wide(int64_t *hi, int64_t *lo, uint32_t *max_bits, const float *g,
                                       int first, int64_t n)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    uint32_t bits = 0;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i >= n) continue;
        const float x = g[i];
        const uint32_t magnitude = __float_as_uint(x) & 0x7fffffffu;
        bits = magnitude > bits ? magnitude : bits;
        const float inside = copysignf(fminf(fabsf(x), 0x1.fffffep34f), x);
        const float v = inside * 0x1p28f, whole = truncf(v);
        const int64_t low = (first ? 0 : lo[i]) + __float2ll_rn((v - whole) * 0x1p56f);
        const uint64_t high = (first ? 0 : static_cast<uint64_t>(hi[i])) +
                              static_cast<uint64_t>(__float2ll_rn(whole)) +
                              static_cast<uint64_t>(low >> LO_BITS);
        hi[i] = static_cast<int64_t>(high);
        lo[i] = static_cast<int64_t>(static_cast<uint64_t>(low) & LO_MASK);
    }
    raise_max(max_bits, bits);
}

// A sum of 118 bits to float, rounded once: one of three windows of 64 bits, the last of them set when
// anything below is (round to odd).
static __device__ inline float wide_to_float(uint64_t high, uint64_t low)
{
    const uint64_t top = high + (low >> LO_BITS), lo = low & LO_MASK;
    const int64_t hi = static_cast<int64_t>(top);
    uint64_t window = top | (lo != 0);
    float unit = 0x1p-28f;
    if (hi >= -64 && hi < 64) {
        window = (top << 56) + lo;
        unit = 0x1p-84f;
    } else if (hi >= -(INT64_C(1) << 34) && hi < INT64_C(1) << 34) {
        window = ((top << 28) + (lo >> 28)) | ((lo & ((1u << 28) - 1)) != 0);
        unit = 0x1p-56f;
    }
    return __ll2float_rn(static_cast<int64_t>(window)) * unit;
}

static __global__ void finish_wide(float *g, const int64_t *hi, const int64_t *lo, int64_t n)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i < n) g[i] = wide_to_float(static_cast<uint64_t>(hi[i]), static_cast<uint64_t>(lo[i]));
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

cudaError_t dml_cu_accumulate_wide(int64_t *hi, int64_t *lo, uint32_t *max_bits, const float *g,
                                   bool first, int64_t n, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, TILE), BLOCK, stream);
    return cudaLaunchKernelEx(&c, accumulate_wide, hi, lo, max_bits, g, first ? 1 : 0, n);
}

cudaError_t dml_cu_finish_wide(float *g, const int64_t *hi, const int64_t *lo, int64_t n,
                               cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, TILE), BLOCK, stream);
    return cudaLaunchKernelEx(&c, finish_wide, g, hi, lo, n);
}

cudaError_t dml_cu_sum_squares(double *partial, const float *x, int64_t n, cudaStream_t stream)
{
    const int64_t chunks = tiles(n, DML_CU_NORM_CHUNK);
    const cudaLaunchConfig_t c = over(tiles(chunks, CHUNKS_A_BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, sum_squares, partial, x, n, chunks);
}
