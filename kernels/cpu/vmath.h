/* kernels/cpu/vmath.h - exp, tanh and the normal distribution for loops that the compiler vectorises.
 *
 * Branch-free, multiplications and additions only (never fused), so every lane, every tail and every
 * instruction set gives the same bits.  The coefficients are weighted minimax fits of our own; largest
 * errors measured over all floats of the stated range: tests/kernels/test_vmath.c.
 */
#ifndef DML_KERNELS_CPU_VMATH_H
#define DML_KERNELS_CPU_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float dml_vfrom_bits(int32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* e^x: x = n ln2 + r, |r| <= ln2 / 2;  e^r = 1 + r + r^2 P(r).  2^n goes in two factors, so that the
 * result may be subnormal; 0 below e^-104, inf above e^88.7228, NaN for NaN.  1 ulp. */
static inline float dml_vexp(float x)
{
    const float low = x > -104.0f ? x : -104.0f;
    const float in = x == x ? (low < 89.0f ? low : 89.0f) : 0.0f;
    const float n = rintf(in * 0x1.715476p+0f);
    const float r = (in - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f; /* ln 2 in two parts */
    float p = 0x1.6db518p-10f;
    p = p * r + 0x1.123c02p-7f;
    p = p * r + 0x1.55545cp-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0.5f;
    p = 1.0f + (r + r * r * p);
    const int32_t e = (int32_t)n, half = e >> 1;
    const float y = p * dml_vfrom_bits((half + 127) << 23) * dml_vfrom_bits((e - half + 127) << 23);
    return x == x ? y : x;
}

/* tanh x: x + x^3 P(x^2) below 0.55, else 1 - 2 / (e^2|x| + 1).  1.5 ulp. */
static inline float dml_vtanh(float x)
{
    const float a = fabsf(x), z = x * x;
    float p = -0x1.8cf0fcp-8f;
    p = p * z + 0x1.56c1e8p-6f;
    p = p * z - 0x1.b8dd38p-5f;
    p = p * z + 0x1.110b6cp-3f;
    p = p * z - 0x1.555544p-2f;
    const float small = x + x * z * p;
    const float large = 1.0f - 2.0f / (dml_vexp(a + a) + 1.0f);
    return a < 0.55f ? small : copysignf(large, x);
}

/* Phi(x), the standard normal distribution, by erf of t = |x| / sqrt 2: t P(t^2) below 1, else
 * 1 - exp Q(t), exact 1 from 4 on.  Absolute error 1e-7. */
static inline float dml_vnormal_cdf(float x)
{
    const float t = fabsf(x) * 0x1.6a09e6p-1f, z = t * t;
    float p = 0x1.496a16p-14f;
    p = p * z - 0x1.a3f6f4p-11f;
    p = p * z + 0x1.5405b0p-8f;
    p = p * z - 0x1.b7f90cp-6f;
    p = p * z + 0x1.ce2cf8p-4f;
    p = p * z - 0x1.81273ep-2f;
    p = p * z + 0x1.20dd74p+0f;
    const float u = t < 4.0f ? t : 4.0f;
    float q = 0x1.8bfd74p-13f;
    q = q * u - 0x1.859a58p-9f;
    q = q * u + 0x1.6778b6p-6f;
    q = q * u - 0x1.a73a84p-4f;
    q = q * u - 0x1.46989ep-1f;
    q = q * u - 0x1.20938cp+0f;
    q = q * u - 0x1.3b08p-12f;
    const float erf_t = t < 1.0f ? t * p : 1.0f - dml_vexp(q);
    const float phi = 0.5f + 0.5f * copysignf(erf_t, x);
    return x == x ? phi : x;
}

/* exp(-x^2 / 2) / sqrt(2 pi), its density. */
static inline float dml_vnormal_pdf(float x)
{
    return 0x1.988454p-2f * dml_vexp(-0.5f * x * x);
}

#endif
