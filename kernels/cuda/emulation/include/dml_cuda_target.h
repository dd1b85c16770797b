/* kernels/cuda/emulation/include/dml_cuda_target.h - CUDA C++ for g++, as far as our kernels use it.
 *
 * A kernel is an ordinary function; threadIdx and its kin are variables that the emulator sets before it
 * resumes a thread.  Shared memory is static data in a section of its own: one block runs at a time.
 * The conventions this asks of a .cu file are those of kernels/cuda/README.md.
 */
#ifndef DML_EMULATED_CUDA_TARGET_H
#define DML_EMULATED_CUDA_TARGET_H

#include "kernels/cuda/emulation/block.h"

#include <cuda_runtime_api.h>

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __shared__             static __attribute__((section("emu_shared")))
#define DYN_SHARED(type, name) type *name = static_cast<type *>(emu::dynamic_shared())

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

/* Arguments are copied at the call, as on a GPU. */
template <class... Wanted, class... Given>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(Wanted...),
                                             Given &&...given)
{
    std::tuple<std::remove_const_t<Wanted>...> args(std::forward<Given>(given)...);
    return emu::launch({c->gridDim, c->blockDim, c->dynamicSmemBytes,
                        [kernel, args] { std::apply(kernel, args); }},
                       c->stream);
}

static inline void __syncthreads(void)
{
    emu::sync_block();
}

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    emu::sync_warp(mask);
}

static inline void __trap(void)
{
    emu::trap();
}

static inline void __nanosleep(unsigned)
{
    emu::sleep();
}

/* Lane `from(lane)`'s value; a lane outside the warp gives the caller's own. */
template <class T> static inline T emu_shuffle(unsigned mask, T value, int from)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = emu::exchange(mask, word, from);
    memcpy(&value, &word, sizeof value);
    return value;
}

template <class T> static inline T __shfl_sync(unsigned mask, T value, int lane)
{
    return emu_shuffle(mask, value, lane % 32);
}

template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits)
{
    return emu_shuffle(mask, value, emu::lane() ^ bits);
}

template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta)
{
    return emu_shuffle(mask, value, emu::lane() + static_cast<int>(delta));
}

template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta)
{
    return emu_shuffle(mask, value, emu::lane() - static_cast<int>(delta));
}

/* Threads are fibers of one thread, so a plain update is atomic; the race finder is told. */
template <class T> static inline T atomicAdd(T *at, T value)
{
    return static_cast<T>(emu::atomic(at, [value](T old) { return static_cast<T>(old + value); }));
}

template <class T> static inline T atomicMax(T *at, T value)
{
    return static_cast<T>(emu::atomic(at, [value](T old) { return old > value ? old : value; }));
}

/* On a GPU off by up to 2 units in the last place. */
static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* PTX cvt.rni.s64.f32: saturates, NaN gives the smallest integer. */
static inline long long __float2ll_rn(float x)
{
    if (x >= 0x1p63f) return INT64_MAX;
    if (!(x >= -0x1p63f)) return INT64_MIN;
    return llrintf(x);
}

static inline float __ll2float_rn(long long x)
{
    return static_cast<float>(x);
}

static inline int64_t dml_cu_timer_ns(void)
{
    return emu::timer_ns();
}

#endif
