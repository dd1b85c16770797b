// kernels/cuda/gelu.cuh - GELU by tanh and its slope.  Included by .cu files only.
//
//   gelu_tanh(x) = 0.5 x (1 + tanh(u)) = x s,   u = sqrt(2/pi) (x + 0.044715 x^3),   s = 1 / (1 + exp(-2u))
//   gelu_tanh'(x) = s + x s (1 - s) 2u'
//
// rough: the result is rounded to 2 bytes, so the division may be off by its last bits.
//
// s and 1 - s come from exp(-2|u|), so both keep their digits where 1 + tanh(u) or 1 - s would cancel.
#ifndef DML_KERNELS_CUDA_GELU_CUH
#define DML_KERNELS_CUDA_GELU_CUH

#include <dml_cuda_target.h>

#include <math.h>

struct gelu_gate {
    float s, rest; /* rest = 1 - s */
};

static __device__ inline gelu_gate gelu_tanh_gate(float x, bool rough)
{
    const float u2 = 1.5957691216057308f * (x + 0.044715f * x * x * x);
    const float e = expf(-fabsf(u2));
    const float large = rough ? __fdividef(1.0f, 1.0f + e) : 1.0f / (1.0f + e), small = e * large;
    return u2 >= 0.0f ? gelu_gate{large, small} : gelu_gate{small, large};
}

static __device__ inline float gelu_tanh(float x, bool rough)
{
    return x * gelu_tanh_gate(x, rough).s;
}

static __device__ inline float gelu_tanh_slope(float x, bool rough)
{
    const gelu_gate g = gelu_tanh_gate(x, rough);
    return g.s + x * (g.s * g.rest) * 1.5957691216057308f * (1.0f + 0.134145f * x * x);
}

#endif
