/* bench/ceilings_products.c - the rows that multiply: a layer's three passes, as its own kernels run them.
 *
 *   linear   forward y[m, n] = x[m, k] w[n, k]^T      input dx[m, k] = dy[m, n] w      weight dw[n, k] = dy^T x
 *   conv     the same, m being the cells of the output and k those of the window: 2 m n k flops each
 */
#include "bench/ceilings.h"

typedef enum kernel_id {
#define X(name, args) K_##name,
    DML_KERNEL_LIST(X)
#undef X
} kernel_id;

#define CALL(name, ...)                                               \
    static dml_err name(const bench_device *b, const bench_row *r)    \
    {                                                                 \
        return b->backend->kernels->name(b->k[r->tf32], __VA_ARGS__); \
    }

CALL(linear_fwd, &r->y, &r->x, &r->z, NULL)
CALL(linear_bwd_input, &r->y, &r->x, &r->z)
CALL(linear_bwd_weight, &r->w, NULL, &r->x, &r->z)
CALL(conv2d_fwd, &r->conv, &r->y, &r->x, &r->z, NULL)
CALL(conv2d_bwd_input, &r->conv, &r->y, &r->x, &r->z)
CALL(conv2d_bwd_weight, &r->conv, &r->w, NULL, &r->x, &r->z)

typedef struct product { /* what the three rows share */
    dml_dtype dtype;
    bool tf32;
    double flops;
    int32_t ceiling;
    dml_conv2d conv;
    dml_tensor in, out, weight; /* of the forward pass */
} product;

static void push(bench_device *b, const product *p, const char *name,
                 dml_err (*run)(const bench_device *, const bench_row *), kernel_id kernel,
                 const dml_tensor *y, const dml_tensor *x, const dml_tensor *z)
{
    bench_row *r = &b->rows[b->n_rows++];
    DML_ASSERT_OP(b->n_rows, <=, BENCH_ROWS);
    *r = (bench_row){.name = name,
                     .run = run,
                     .kernel = (int32_t)kernel,
                     .dtype = p->dtype,
                     .tf32 = p->tf32,
                     .product = true,
                     .work = p->flops,
                     .ceiling = p->ceiling,
                     .conv = p->conv,
                     .x = *x,
                     .y = *y,
                     .z = *z,
                     .w = *y};
    r->x.data = b->a;
    r->y.data = b->b;
    r->z.data = b->c;
    r->w.data = b->wide;
    r->w.dtype = DML_F32; /* gradients of weights are in all types */
}

#define PUSH(b, p, run, y, x, z) push((b), (p), #run, run, K_##run, (y), (x), (z))

void bench_gemm_rows(bench_device *b, const int64_t mnk[3], dml_dtype dtype, bool tf32,
                     int32_t ceiling)
{
    const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
    const product p = {.dtype = dtype,
                       .tf32 = tf32,
                       .flops = 2.0 * (double)m * (double)n * (double)k,
                       .ceiling = ceiling < 0 ? b->n_rows : ceiling,
                       .in = dml_tensor_of(NULL, dtype, 2, (const int64_t[]){m, k}),
                       .out = dml_tensor_of(NULL, dtype, 2, (const int64_t[]){m, n}),
                       .weight = dml_tensor_of(NULL, dtype, 2, (const int64_t[]){n, k})};
    PUSH(b, &p, linear_fwd, &p.out, &p.in, &p.weight);
    PUSH(b, &p, linear_bwd_input, &p.in, &p.out, &p.weight);
    PUSH(b, &p, linear_bwd_weight, &p.weight, &p.out, &p.in);
}

void bench_conv_rows(bench_device *b, const bench_conv *s, dml_dtype dtype, bool tf32,
                     int32_t ceiling)
{
    const dml_conv2d *c = &s->conv;
    const int64_t weight[] = {s->y[3], s->x[3] / c->groups, c->kernel[0], c->kernel[1]};
    const double window = (double)(weight[1] * weight[2] * weight[3]);
    const product p = {.dtype = dtype,
                       .tf32 = tf32,
                       .flops = 2.0 * (double)(s->y[0] * s->y[1] * s->y[2] * s->y[3]) * window,
                       .ceiling = ceiling,
                       .conv = *c,
                       .in = dml_tensor_of(NULL, dtype, 4, s->x),
                       .out = dml_tensor_of(NULL, dtype, 4, s->y),
                       .weight = dml_tensor_of(NULL, dtype, 4, weight)};
    PUSH(b, &p, conv2d_fwd, &p.out, &p.in, &p.weight);
    if (s->x[3] > 1) PUSH(b, &p, conv2d_bwd_input, &p.in, &p.out, &p.weight);
    PUSH(b, &p, conv2d_bwd_weight, &p.weight, &p.out, &p.in);
}
