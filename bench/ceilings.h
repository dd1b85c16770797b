/* bench/ceilings.h - rows of dml-bench ceilings, gemm and conv: kernels on tensors that lie on the device. */
#ifndef DML_BENCH_CEILINGS_H
#define DML_BENCH_CEILINGS_H

#include "kernels/backend.h"

enum { BENCH_ROUNDS = 101, BENCH_ROWS = 256, BENCH_SMALL_BYTES = 4 << 20 };

typedef struct bench_device bench_device;
typedef struct bench_row bench_row;

struct bench_row {
    const char *name;
    dml_err (*run)(const bench_device *b, const bench_row *r); /* one call; NULL: a copy */
    int32_t kernel;     /* that the backend must have; -1: none */
    dml_dtype dtype;    /* of the samples */
    bool tf32, product; /* product: `work` is flops, else bytes */
    double work;        /* of a call */
    int32_t
        ceiling; /* the row whose rate is 100 %; -1: not compared; 0, the copy, for what moves memory */
    dml_conv2d conv;
    dml_tensor x, y, z, w; /* what `run` is called with */
    dml_tensor gamma, beta, mean, var, loss, correct, labels, max_bits;
    double us[BENCH_ROUNDS], rate[BENCH_ROUNDS], share[BENCH_ROUNDS];
};

struct bench_device {
    const dml_backend *backend;
    dml_device *device;
    dml_queue *queue;
    dml_event *begin, *end;
    dml_kctx *k[2]; /* without TF32 and with it */
    void *host;     /* [host_bytes] random floats, pinned */
    int64_t host_bytes, elems;
    char *a, *b, *c; /* device: [elems] random floats each */
    char *wide;      /* device: [elems] of 8 bytes, zeroed */
    char *small[6];  /* device: [BENCH_SMALL_BYTES] each, zeroed; the first begins with ones */
    bench_row rows[BENCH_ROWS];
    int32_t n_rows;
};

/* ---- device.c ---- */

typedef struct bench_device_config {
    const char *backend;
    int32_t index, threads; /* which device; that a kernel may use on a host */
    int64_t elems;          /* >= BENCH_CHANNELS; of the largest tensor */
} bench_device_config;

/* No rows yet.  bench_device_close, also after a failure. */
dml_err bench_device_open(const bench_device_config *config, bench_device *out);
void bench_device_close(bench_device *b);

/* Measures the rows that are wanted and here: us, rate and share of each round. */
dml_err bench_rows_measure(bench_device *b, int32_t rounds, const char *filter);
/* The filter (NULL: none) is in its name, or another row is compared with it. */
bool bench_row_wanted(const bench_device *b, const bench_row *r, const char *filter);
/* The backend has its kernel. */
bool bench_row_here(const bench_device *b, const bench_row *r);

/* ---- ceilings_products.c ---- */

/* linear_fwd, linear_bwd_input and linear_bwd_weight of [m, k] x [k, n], 2 m n k flops each.  ceiling: the row whose rate
 * is 100 %; -1: the first of these. */
void bench_gemm_rows(bench_device *b, const int64_t mnk[3], dml_dtype dtype, bool tf32,
                     int32_t ceiling);

/* A convolution of x [n, h, w, ci] to y [n, oh, ow, co]. */
typedef struct bench_conv {
    dml_conv2d conv;
    int64_t x[4], y[4];
} bench_conv;

/* conv2d_fwd, conv2d_bwd_input (not where ci is 1: a first layer needs none) and conv2d_bwd_weight. */
void bench_conv_rows(bench_device *b, const bench_conv *shape, dml_dtype dtype, bool tf32,
                     int32_t ceiling);

/* ---- ceilings_rows.c ---- */

/* Fills in the rows: a copy first, then copies from and to the host, matrices of side x side, and what moves
 * memory.  elems >= side * side, and room for one image of ResNet-50's first group. */
void bench_ceiling_rows(bench_device *b, int64_t side);

/* Images of that group: side and channels. */
enum { BENCH_SIDE = 56, BENCH_CHANNELS = 64 };

#endif
