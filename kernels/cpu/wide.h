/* kernels/cpu/wide.h - an entry's samples as float, whatever they are stored as.
 *
 *   dml_cpu_wide v;
 *   DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){y, x}, 2));      y is written, x is read
 *   ... v.t[0].data, v.t[1].data are floats ...
 *   return dml_cpu_narrow(&v);                                   y is rounded
 *
 * F32 tensors are passed through as they are.  Others lie in the context's DML_CPU_WIDE buffer meanwhile, so
 * that an entry is the F32 one on widened values, rounded once.
 */
#ifndef DML_KERNELS_CPU_WIDE_H
#define DML_KERNELS_CPU_WIDE_H

#include "kernels/cpu/cpu.h"

enum { DML_CPU_WIDE_ARGS = 3 };

typedef struct dml_cpu_wide {
    dml_kctx *k;
    int32_t outputs, n;
    dml_tensor t[DML_CPU_WIDE_ARGS]; /* data NULL where the argument is absent */
    dml_tensor from[DML_CPU_WIDE_ARGS];
} dml_cpu_wide;

/* The first `outputs` of the n tensors are written.  One that lies where another does shares its floats.
 * DML_ERR_BUG when the buffer would have to grow after seal. */
dml_err dml_cpu_widen(dml_kctx *k, dml_cpu_wide *v, int32_t outputs, const dml_in tensor[],
                      int32_t n);
dml_err dml_cpu_narrow(const dml_cpu_wide *v);

static inline bool dml_cpu_is_half(const dml_tensor *t)
{
    return t->dtype == DML_BF16 || t->dtype == DML_F16;
}

/* n floats from and to elements of `dtype`. */
void dml_cpu_load(float *to, const void *from, dml_dtype dtype, int64_t n);
void dml_cpu_store(void *to, dml_dtype dtype, const float *from, int64_t n);

#endif
