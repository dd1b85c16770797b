/* kernels/cpu/winograd_none.c - without registers of 64 bytes the library's direct convolutions are faster. */
#include "kernels/cpu/winograd.h"

bool dml_cpu_winograd_takes(const dml_kctx *k, const dml_dnn_shape *shape)
{
    (void)k;
    (void)shape;
    return false;
}

dml_err dml_cpu_winograd_run(dml_kctx *k, const dml_dnn_shape *shape, dml_in x, dml_in w, dml_in b,
                             dml_in y)
{
    (void)k;
    (void)x;
    (void)w;
    (void)b;
    (void)y;
    DML_FAIL(DML_ERR_BUG, "a convolution of %lld samples by an algorithm that is not here",
             (long long)shape->n);
}
