// kernels/cuda/launch.cuh - the shape of our launches and the element types.  Included by .cu files only.
//
// Kernels compute in float and store F32, BF16 or F16: `widen` and `narrow` are the only conversions.  A
// streaming kernel gives each thread PACKS packs of 16 bytes, all loaded before the first is used: with the
// 2,048 threads of a multiprocessor that is 64 KiB in flight, twice what a H200 needs to keep its memory busy
// (4.8 TB/s times 0.7 us over 132 multiprocessors is 25 KiB each).
#ifndef DML_KERNELS_CUDA_LAUNCH_CUH
#define DML_KERNELS_CUDA_LAUNCH_CUH

#include <dml_cuda_target.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdbool.h>

extern "C" {
#include "kernels/cuda/launchers.h"
}

enum {
    WARP = 32,
    BLOCK = 256,
    PER_THREAD = 4,
    TILE = BLOCK * PER_THREAD,
    PACK_BYTES = 16,
    PACKS = 2
};

static __device__ inline float widen(float x)
{
    return x;
}

static __device__ inline float widen(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

static __device__ inline float widen(__half x)
{
    return __half2float(x);
}

static __device__ inline void narrow(float x, float *out)
{
    *out = x;
}

static __device__ inline void narrow(float x, __nv_bfloat16 *out)
{
    *out = __float2bfloat16_rn(x);
}

static __device__ inline void narrow(float x, __half *out)
{
    *out = __float2half_rn(x);
}

// N neighbouring elements, moved in loads of up to 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) pack {
    T v[N];
};

// Results of 2 bytes: what they round away need not be computed.
template <class T> static constexpr bool is_half = sizeof(T) == 2;

template <class T> static constexpr int pack_elems = PACK_BYTES / static_cast<int>(sizeof(T));

// N elements from x[i] on.  As one pack where `packed`, which the caller knows: x is aligned and all N are inside
// n; else one by one, and what lies outside n is 0.
template <int N, class T>
static __device__ inline void load(float (&out)[N], const T *x, int64_t i, int64_t n, bool packed)
{
    if (packed) {
        const pack<T, N> p = *reinterpret_cast<const pack<T, N> *>(x + i);
#pragma unroll
        for (int e = 0; e < N; e++)
            out[e] = widen(p.v[e]);
        return;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        out[e] = i + e < n ? widen(x[i + e]) : 0.0f;
}

template <int N, class T>
static __device__ inline void store(T *y, const float (&in)[N], int64_t i, int64_t n, bool packed)
{
    pack<T, N> p;
#pragma unroll
    for (int e = 0; e < N; e++)
        narrow(in[e], &p.v[e]);
    if (packed) {
        *reinterpret_cast<pack<T, N> *>(y + i) = p;
        return;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        if (i + e < n) y[i + e] = p.v[e];
}

// a / b and a % b of numbers >= 0; 64-bit division takes a hundred instructions, most numbers are short.
struct quotient {
    int64_t of, rest;
};

static __device__ inline quotient divide(int64_t a, int64_t b)
{
    if (((a | b) >> 32) == 0) {
        const uint32_t x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);
        return {x / y, x % y};
    }
    return {a / b, a % b};
}

static inline int64_t tiles(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile;
}

static inline bool is_aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % PACK_BYTES == 0;
}

// A one-dimensional launch of `blocks` blocks.
static inline cudaLaunchConfig_t over(int64_t blocks, int threads, cudaStream_t stream)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(static_cast<unsigned>(blocks));
    c.blockDim = dim3(static_cast<unsigned>(threads));
    c.stream = stream;
    return c;
}

// run<element type>(args...) for one of the three types of a sample.
#define OF_TYPE(dtype, run, ...)                            \
    ((dtype) == DML_BF16  ? run<__nv_bfloat16>(__VA_ARGS__) \
     : (dtype) == DML_F16 ? run<__half>(__VA_ARGS__)        \
                          : run<float>(__VA_ARGS__))

#endif
