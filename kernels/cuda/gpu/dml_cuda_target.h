/* kernels/cuda/gpu/dml_cuda_target.h - what a .cu file may use, on a real GPU.
 *
 * kernels/cuda/emulation/include has a file of the same name for g++; the include path chooses.  All
 * that the two worlds spell differently is here: dynamic shared memory and inline PTX.
 */
#ifndef DML_CUDA_TARGET_H
#define DML_CUDA_TARGET_H

#include <cuda_runtime.h>

#include <stdint.h>

/* `name` is this block's dynamic shared memory as elements of `type`. */
#define DYN_SHARED(type, name)                                    \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type *name = reinterpret_cast<type *>(name##_bytes)

/* Nanoseconds of the GPU's clock; advances in steps of up to a microsecond. */
static __device__ __forceinline__ int64_t dml_cu_timer_ns(void)
{
    int64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

#endif
