/* kernels/ref/curves.h - GELU and its slope, both forms, in double. */
#ifndef DML_KERNELS_REF_CURVES_H
#define DML_KERNELS_REF_CURVES_H

#include <math.h>

/* Standard normal distribution and density at x. */
static inline double dml_normal_cdf(double x)
{
    return 0.5 * erfc(-x * 0.70710678118654752440);
}

static inline double dml_normal_pdf(double x)
{
    return 0.39894228040143267794 * exp(-0.5 * x * x);
}

/* x Phi(x) by its tanh form:  0.5 x (1 + tanh u),  u = sqrt(2/pi) (x + 0.044715 x^3). */
static inline double dml_gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

/* 0.5 (1 + t) + 0.5 x (1 - t^2) u',  t = tanh u,  u' = sqrt(2/pi) (1 + 3 0.044715 x^2). */
static inline double dml_gelu_tanh_slope(double x)
{
    const double t = tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
    const double du = 0.79788456080286535588 * (1.0 + 3.0 * 0.044715 * x * x);
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du;
}

#endif
