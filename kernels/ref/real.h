/* kernels/ref/real.h - elements of F32, BF16, F16 and F64 tensors as double.
 *
 * A stored value is rounded to float first, as the F32 entry would, and from there to the narrower type. */
#ifndef DML_KERNELS_REF_REAL_H
#define DML_KERNELS_REF_REAL_H

#include "kernels/half.h"
#include "kernels/tensor.h"

static inline double dml_real_get(const dml_tensor *t, int64_t i)
{
    if (t->dtype == DML_F64) return ((const double *)t->data)[i];
    if (t->dtype == DML_BF16) return (double)dml_bf16_to_float(((const dml_bf16 *)t->data)[i]);
    if (t->dtype == DML_F16) return (double)dml_f16_to_float(((const dml_f16 *)t->data)[i]);
    return (double)((const float *)t->data)[i];
}

static inline void dml_real_put(const dml_tensor *t, int64_t i, double value)
{
    if (t->dtype == DML_F64)
        ((double *)t->data)[i] = value;
    else if (t->dtype == DML_BF16)
        ((dml_bf16 *)t->data)[i] = dml_bf16_of_float((float)value);
    else if (t->dtype == DML_F16)
        ((dml_f16 *)t->data)[i] = dml_f16_of_float((float)value);
    else
        ((float *)t->data)[i] = (float)value;
}

/* Offset of [a, b, c, d] in a tensor of rank 4. */
static inline int64_t dml_real_at(const dml_tensor *t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return ((a * t->dim[1] + b) * t->dim[2] + c) * t->dim[3] + d;
}

#endif
