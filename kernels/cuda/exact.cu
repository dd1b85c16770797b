// kernels/cuda/exact.cu - sums whose bits do not depend on order, and the chunked sum of squares.
//
// accumulate_exact: parallel over quads of elements, moved in packs of 16 bytes.  4 bytes in and 8 in and out an
//   element.  The largest magnitude goes through the warp, then shared memory, then one atomicMax a block: a
//   maximum of integers, so no order shows.
// finish_exact: parallel over quads, 12 bytes an element.
// accumulate_wide, finish_wide: the same with two words an element: 36 bytes, or 20 for the first; and 20.
// sum_squares: one thread a (chunk, lane): it adds its DML_CU_NORM_CHUNK / 8 squares in order, as the
//   contract says; then three shuffles add the 8 lanes as a tree.  4 bytes an element; a warp's load
//   is four sectors of 32 bytes, all of them used.  An order of additions leaves few threads (8 a chunk), so each has
//   16 loads in flight.
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

// A thread's four neighbours of a tile: one pack of float, two of int64.
enum { QUAD = 4 };

static __device__ inline int64_t own_quad()
{
    return (static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x) * QUAD;
}

static __device__ inline void load_words(int64_t (&out)[QUAD], const int64_t *x, int64_t i,
                                         int64_t n, bool packed)
{
    if (packed) {
        const pack<int64_t, QUAD> p = *reinterpret_cast<const pack<int64_t, QUAD> *>(x + i);
#pragma unroll
        for (int e = 0; e < QUAD; e++)
            out[e] = p.v[e];
        return;
    }
#pragma unroll
    for (int e = 0; e < QUAD; e++)
        out[e] = i + e < n ? x[i + e] : 0;
}

static __device__ inline void store_words(int64_t *y, const int64_t (&in)[QUAD], int64_t i,
                                          int64_t n, bool packed)
{
    if (packed) {
        pack<int64_t, QUAD> p;
#pragma unroll
        for (int e = 0; e < QUAD; e++)
            p.v[e] = in[e];
        *reinterpret_cast<pack<int64_t, QUAD> *>(y + i) = p;
        return;
    }
#pragma unroll
    for (int e = 0; e < QUAD; e++)
        if (i + e < n) y[i + e] = in[e];
}

static __device__ inline uint32_t magnitude(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

// q = rint(g 2^scale_log2); the product is exact unless it overflows (the maximum tells) or is subnormal
// (rounds to 0 either way).
static __global__ void accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                        float scale, bool first, int64_t n, bool aligned)
{
    const int64_t i = own_quad();
    const bool packed = aligned && i + QUAD <= n;
    float x[QUAD];
    int64_t sum[QUAD] = {};
    uint32_t bits = 0;
    load<QUAD>(x, g, i, n, packed);
    if (!first) load_words(sum, acc, i, n, packed);
#pragma unroll
    for (int e = 0; e < QUAD; e++) { /* what lies outside is 0 */
        bits = magnitude(x[e]) > bits ? magnitude(x[e]) : bits;
        sum[e] = static_cast<int64_t>(static_cast<uint64_t>(sum[e]) + rounded(x[e] * scale));
    }
    store_words(acc, sum, i, n, packed);
    raise_max(max_bits, bits);
}

static __global__ void finish_exact(float *g, const int64_t *acc, float unit, int64_t n,
                                    bool aligned)
{
    const int64_t i = own_quad();
    const bool packed = aligned && i + QUAD <= n;
    int64_t sum[QUAD];
    float x[QUAD];
    load_words(sum, acc, i, n, packed);
#pragma unroll
    for (int e = 0; e < QUAD; e++)
        x[e] = __ll2float_rn(sum[e]) * unit;
    store<QUAD>(g, x, i, n, packed);
}

enum { LO_BITS = 56 };
static constexpr uint64_t LO_MASK = (UINT64_C(1) << LO_BITS) - 1;

// rint(g 2^84) = whole 2^56 + rint(part 2^56); lo is carried into hi at once and stays in 0 .. 2^56-1.
static __global__ void accumulate_wide(int64_t *hi, int64_t *lo, uint32_t *max_bits, const float *g,
                                       bool first, int64_t n, bool aligned)
{
    const int64_t i = own_quad();
    const bool packed = aligned && i + QUAD <= n;
    float x[QUAD];
    int64_t high[QUAD] = {}, low[QUAD] = {};
    uint32_t bits = 0;
    load<QUAD>(x, g, i, n, packed);
    if (!first) {
        load_words(high, hi, i, n, packed);
        load_words(low, lo, i, n, packed);
    }
#pragma unroll
    for (int e = 0; e < QUAD; e++) {
        bits = magnitude(x[e]) > bits ? magnitude(x[e]) : bits;
        const float inside = copysignf(fminf(fabsf(x[e]), 0x1.fffffep34f), x[e]);
        const float v = inside * 0x1p28f, whole = truncf(v);
        low[e] += __float2ll_rn((v - whole) * 0x1p56f);
        high[e] = static_cast<int64_t>(static_cast<uint64_t>(high[e]) +
                                       static_cast<uint64_t>(__float2ll_rn(whole)) +
                                       static_cast<uint64_t>(low[e] >> LO_BITS));
        low[e] = static_cast<int64_t>(static_cast<uint64_t>(low[e]) & LO_MASK);
    }
    store_words(hi, high, i, n, packed);
    store_words(lo, low, i, n, packed);
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

static __global__ void finish_wide(float *g, const int64_t *hi, const int64_t *lo, int64_t n,
                                   bool aligned)
{
    const int64_t i = own_quad();
    const bool packed = aligned && i + QUAD <= n;
    int64_t high[QUAD], low[QUAD];
    float x[QUAD];
    load_words(high, hi, i, n, packed);
    load_words(low, lo, i, n, packed);
#pragma unroll
    for (int e = 0; e < QUAD; e++)
        x[e] = wide_to_float(static_cast<uint64_t>(high[e]), static_cast<uint64_t>(low[e]));
    store<QUAD>(g, x, i, n, packed);
}

enum { LANES = 8, CHUNKS_A_BLOCK = BLOCK / LANES, BATCH = 16 };

static __global__ void sum_squares(double *partial, const float *x, int64_t n, int64_t chunks)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    const int64_t chunk = static_cast<int64_t>(blockIdx.x) * CHUNKS_A_BLOCK + threadIdx.x / LANES;
    const int64_t begin = chunk * DML_CU_NORM_CHUNK;
    const int64_t end = begin + DML_CU_NORM_CHUNK < n ? begin + DML_CU_NORM_CHUNK : n;
    double sum = 0.0;
    int64_t i = begin + lane;
    for (; i + (BATCH - 1) * LANES < end; i += BATCH * LANES) {
        float v[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            v[k] = x[i + k * LANES];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            sum += static_cast<double>(v[k]) * static_cast<double>(v[k]);
    }
    for (; i < end; i += LANES)
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
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

static cudaLaunchConfig_t over_quads(int64_t n, cudaStream_t stream)
{
    return over(tiles(n, BLOCK * QUAD), BLOCK, stream);
}

cudaError_t dml_cu_accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                    int32_t scale_log2, bool first, int64_t n, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over_quads(n, stream);
    return cudaLaunchKernelEx(&c, accumulate_exact, acc, max_bits, g, power_of_two(scale_log2),
                              first, n, is_aligned(acc) && is_aligned(g));
}

cudaError_t dml_cu_finish_exact(float *g, const int64_t *acc, int32_t scale_log2, int64_t n,
                                cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over_quads(n, stream);
    return cudaLaunchKernelEx(&c, finish_exact, g, acc, power_of_two(-scale_log2), n,
                              is_aligned(acc) && is_aligned(g));
}

cudaError_t dml_cu_accumulate_wide(int64_t *hi, int64_t *lo, uint32_t *max_bits, const float *g,
                                   bool first, int64_t n, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over_quads(n, stream);
    return cudaLaunchKernelEx(&c, accumulate_wide, hi, lo, max_bits, g, first, n,
                              is_aligned(hi) && is_aligned(lo) && is_aligned(g));
}

cudaError_t dml_cu_finish_wide(float *g, const int64_t *hi, const int64_t *lo, int64_t n,
                               cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over_quads(n, stream);
    return cudaLaunchKernelEx(&c, finish_wide, g, hi, lo, n,
                              is_aligned(hi) && is_aligned(lo) && is_aligned(g));
}

cudaError_t dml_cu_sum_squares(double *partial, const float *x, int64_t n, cudaStream_t stream)
{
    const int64_t chunks = tiles(n, DML_CU_NORM_CHUNK);
    const cudaLaunchConfig_t c = over(tiles(chunks, CHUNKS_A_BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, sum_squares, partial, x, n, chunks);
}
