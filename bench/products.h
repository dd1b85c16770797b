/* bench/products.h - products by precision, and a peak where no file says one. */
#ifndef DML_BENCH_PRODUCTS_H
#define DML_BENCH_PRODUCTS_H

#include "bench/ceilings.h"
#include "engine/spec.h"

/* What a 1024 x 1024 x 1024 product reaches on a backend's first device, a host with that many threads; 0: it has no such
 * kernel.
 * DML_ERR_UNAVAILABLE  no such backend here */
dml_err bench_gemm_peak(const char *backend, int32_t threads, dml_precision precision,
                        double *flop_s);

/* Of the factors in that precision. */
dml_dtype bench_type_of(dml_precision precision);

#endif
