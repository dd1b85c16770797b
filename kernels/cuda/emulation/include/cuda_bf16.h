/* kernels/cuda/emulation/include/cuda_bf16.h - BF16 for g++: a plain struct and the two conversions we use.
 *
 * Plain, so that arrays of it in shared memory need no constructor.  The bits are the toolkit's: rounded to
 * nearest even, any NaN becomes 0x7fff.
 */
#ifndef DML_EMULATED_CUDA_BF16_H
#define DML_EMULATED_CUDA_BF16_H

#include "kernels/half.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    return {x == x ? dml_bf16_of_float(x) : static_cast<uint16_t>(0x7fff)};
}

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return dml_bf16_to_float(x.bits);
}

#endif
