/* kernels/cpu/curves.h - activations of one float, and what their gradients multiply with. */
#ifndef DML_KERNELS_CPU_CURVES_H
#define DML_KERNELS_CPU_CURVES_H

#include "kernels/cpu/vmath.h"

/* Phi(x) + x phi(x), the slope of x Phi(x). */
static inline float dml_vgelu_slope(float x)
{
    return dml_vnormal_cdf(x) + x * dml_vnormal_pdf(x);
}

/* e^-2u,  u = sqrt(2/pi) (x + 0.044715 x^3), so that 0.5 (1 + tanh u) = 1 / (1 + e^-2u) without cancellation. */
static inline float dml_vgelu_exp(float x)
{
    const float v = -0x1.988454p+0f * (x + 0.044715f * x * x * x);
    return dml_vexp(v > 80.0f ? 80.0f : v);
}

/* 0.5 x (1 + tanh u). */
static inline float dml_vgelu_tanh(float x)
{
    return x / (1.0f + dml_vgelu_exp(x));
}

/* With e = e^-2u and s = 1 / (1 + e):  s + 2 x e s^2 u',  u' = sqrt(2/pi) (1 + 3 0.044715 x^2).  The second
 * term is nothing beyond |x| = 8. */
static inline float dml_vgelu_tanh_slope(float x)
{
    const float e = dml_vgelu_exp(x), s = 1.0f / (1.0f + e);
    const float du = 0x1.988454p-1f * (1.0f + 0.134145f * x * x);
    const float term = 2.0f * x * (e * s) * s * du;
    return s + (fabsf(x) > 8.0f ? 0.0f : term);
}

#endif
