/* bench/peak.c - what products reach, where nobody has said what a core's or a device's peak is. */
#include "bench/products.h"

#include "bench/bench.h"

enum { SIDE = 1024, ROUNDS = 11 };

dml_dtype bench_type_of(dml_precision p)
{
    return p == DML_PRECISION_BF16 ? DML_BF16 : p == DML_PRECISION_FP16 ? DML_F16 : DML_F32;
}

dml_err bench_gemm_peak(const char *backend, int32_t threads, dml_precision p, double *flop_s)
{
    static bench_device b;
    const bench_device_config config = {
        .backend = backend, .threads = threads, .elems = (int64_t)SIDE * SIDE};
    *flop_s = 0;
    dml_err err = bench_device_open(&config, &b);
    if (err == DML_ERR_OK) {
        bench_gemm_rows(&b, (const int64_t[]){SIDE, SIDE, SIDE}, bench_type_of(p),
                        p == DML_PRECISION_TF32, -1);
        b.n_rows = 1; /* its forward */
        err = bench_rows_measure(&b, ROUNDS, NULL);
    }
    if (err == DML_ERR_OK && bench_row_here(&b, &b.rows[0]))
        *flop_s = bench_spread_of(b.rows[0].rate, ROUNDS).median * 1e12;
    bench_device_close(&b);
    return err;
}
