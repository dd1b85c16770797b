// kernels/cuda/launch.cuh - the shape of our launches.  Included by .cu files only.
//
// A streaming kernel gives each thread PER_THREAD elements, BLOCK apart, all loaded before the first is
// used: four loads in flight a thread keep the memory busy, and every load of a warp is one 128-byte line.
#ifndef DML_KERNELS_CUDA_LAUNCH_CUH
#define DML_KERNELS_CUDA_LAUNCH_CUH

#include <dml_cuda_target.h>

#include <stdbool.h>

extern "C" {
#include "kernels/cuda/launchers.h"
}

enum { WARP = 32, BLOCK = 256, PER_THREAD = 4, TILE = BLOCK * PER_THREAD };

static inline int64_t tiles(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile;
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

#endif
