/* kernels/ref/real.h - elements of F32 and F64 tensors as double. */
#ifndef DML_KERNELS_REF_REAL_H
#define DML_KERNELS_REF_REAL_H

#include "kernels/tensor.h"

static inline double dml_real_get(const dml_tensor *t, int64_t i)
{
    return t->dtype == DML_F64 ? ((const double *)t->data)[i] : (double)((const float *)t->data)[i];
}

static inline void dml_real_put(const dml_tensor *t, int64_t i, double value)
{
    if (t->dtype == DML_F64)
        ((double *)t->data)[i] = value;
    else
        ((float *)t->data)[i] = (float)value;
}

/* Offset of [a, b, c, d] in a tensor of rank 4. */
static inline int64_t dml_real_at(const dml_tensor *t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return ((a * t->dim[1] + b) * t->dim[2] + c) * t->dim[3] + d;
}

#endif
