/* kernels/cuda/emulation/include/cuda_fp16.h - F16 for g++, as cuda_bf16.h beside it. */
#ifndef DML_EMULATED_CUDA_FP16_H
#define DML_EMULATED_CUDA_FP16_H

#include "kernels/half.h"

struct __half {
    uint16_t bits;
};

static inline __half __float2half_rn(float x)
{
    return {x == x ? dml_f16_of_float(x) : static_cast<uint16_t>(0x7fff)};
}

static inline float __half2float(__half x)
{
    return dml_f16_to_float(x.bits);
}

#endif
