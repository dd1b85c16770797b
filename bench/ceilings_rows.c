/* bench/ceilings_rows.c - which kernels, at which shapes, and the work of a call.
 *
 * `bytes` is what a kernel has to move when tensors are larger than the caches: batch norm reduces before it
 * normalises, so it reads its inputs twice; a pool of 3 x 3 with stride 2 reads each cell once.
 */
#include "bench/ceilings.h"

typedef enum kernel_id {
#define X(name, args) K_##name,
    DML_KERNEL_LIST(X)
#undef X
} kernel_id;

enum { CLASSES = 1000 };

static dml_tensor vector(char *memory, dml_dtype dtype, int64_t n)
{
    return dml_tensor_of(memory, dtype, 1, &n);
}

#define CALL(name, entry, ...)                                         \
    static dml_err name(const bench_device *b, const bench_row *r)     \
    {                                                                  \
        return b->backend->kernels->entry(b->k[r->tf32], __VA_ARGS__); \
    }

static const dml_pool2d pool = {{3, 3}, {2, 2}, {1, 1}, true};
static const dml_dropout drop = {.rate = 0.5f, .key = 1};

CALL(relu_fwd, relu_fwd, &r->y, &r->x)
CALL(relu_bwd, relu_bwd, &r->y, &r->x, &r->z)
CALL(gelu_fwd, gelu_fwd, &r->y, &r->x)
CALL(gelu_bwd, gelu_bwd, &r->y, &r->x, &r->z)
CALL(gelu_tanh_fwd, gelu_tanh_fwd, &r->y, &r->x)
CALL(add, add, &r->y, &r->x, &r->z)
CALL(dropout, dropout, &drop, &r->y, &r->x)
CALL(norm_fwd, batch_norm_fwd, 1e-5f, &r->y, &r->mean, &r->var, &r->x, &r->gamma, &r->beta)
CALL(norm_eval, batch_norm_eval, 1e-5f, &r->y, &r->x, &r->beta, &r->gamma, &r->gamma, &r->beta)
CALL(norm_bwd, batch_norm_bwd, 1e-5f, &r->y, &r->mean, &r->var, &r->z, &r->x, &r->beta, &r->gamma,
     &r->gamma)
CALL(max_pool_fwd, max_pool_fwd, &pool, &r->y, &r->w, &r->x)
CALL(max_pool_bwd, max_pool_bwd, &pool, &r->y, &r->z, &r->w)
CALL(xent, softmax_xent, &r->loss, &r->correct, &r->y, &r->x, &r->labels)
CALL(convert, convert, &r->y, &r->x)
CALL(to_nchw, nhwc_to_nchw, &r->y, &r->x)
CALL(accumulate, accumulate, &r->y, &r->x, false)
CALL(accumulate_exact, accumulate_exact, &r->w, &r->max_bits, &r->x, 20, false)
CALL(finish_exact, finish_exact, &r->y, &r->w, 20)
CALL(sum_squares, sum_squares, &r->w, &r->x)
CALL(fill, fill, &r->y, 1.0f)

static dml_err sgd(const bench_device *b, const bench_row *r)
{
    const dml_sgd p = {.lr = 1e-6f, .momentum = 0.9f, .grad_scale = 1.0f};
    const dml_opt_tensor t = {
        .w = r->y.data, .g = r->x.data, .m = r->z.data, .n = dml_tensor_elems(&r->x)};
    return b->backend->kernels->sgd(b->k[0], &p, &t, 1);
}

static dml_err adamw(const bench_device *b, const bench_row *r)
{
    const dml_adamw p = {.lr = 1e-6f,
                         .beta1 = 0.9f,
                         .beta2 = 0.99f,
                         .eps = 1.0f,
                         .grad_scale = 1.0f,
                         .bias1 = 1.0f,
                         .sqrt_bias2 = 1.0f};
    const dml_opt_tensor t = {.w = r->y.data,
                              .g = r->x.data,
                              .m = r->z.data,
                              .v = r->w.data,
                              .n = dml_tensor_elems(&r->x)};
    return b->backend->kernels->adamw(b->k[0], &p, &t, 1);
}

/* ---- the rows ---- */

static bench_row *push(bench_device *b, const char *name,
                       dml_err (*run)(const bench_device *, const bench_row *), int32_t kernel,
                       dml_dtype dtype, double work)
{
    bench_row *r = &b->rows[b->n_rows++];
    *r = (bench_row){.name = name, .run = run, .kernel = kernel, .dtype = dtype, .work = work};
    return r;
}

#define PUSH(b, run, kernel, dtype, work) push((b), #run, run, K_##kernel, (dtype), (work))

static void shape(const bench_device *b, bench_row *r, int32_t rank, const int64_t dim[])
{
    r->x = dml_tensor_of(b->a, r->dtype, rank, dim);
    r->y = dml_tensor_of(b->b, r->dtype, rank, dim);
    r->z = dml_tensor_of(b->c, r->dtype, rank, dim);
    r->w = dml_tensor_of(b->wide, r->dtype, rank, dim);
    r->gamma = vector(b->small[0], DML_F32, dim[rank - 1]);
    r->beta = vector(b->small[1], DML_F32, dim[rank - 1]);
    r->mean = vector(b->small[2], DML_F32, dim[rank - 1]);
    r->var = vector(b->small[3], DML_F32, dim[rank - 1]);
    r->loss = vector(b->small[4], DML_F64, 1);
    r->correct = vector(b->small[4] + 64, DML_I32, 1);
    r->labels = vector(b->small[5], DML_I32, dim[0]);
}

/* Kernels over images [n, 56, 56, 64], ResNet-50's first group. */
static void add_images(bench_device *b, dml_dtype t)
{
    const int64_t n = b->elems / (BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS), half = BENCH_SIDE / 2;
    const int64_t dim[] = {n, BENCH_SIDE, BENCH_SIDE, BENCH_CHANNELS},
                  halved[] = {n, half, half, BENCH_CHANNELS};
    const double size = (double)(n * BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS),
                 bytes = size * (double)dml_dtype_bytes(t);
    shape(b, PUSH(b, relu_fwd, relu_fwd, t, 2 * bytes), 4, dim);
    shape(b, PUSH(b, relu_bwd, relu_bwd, t, 3 * bytes), 4, dim);
    shape(b, PUSH(b, add, add, t, 3 * bytes), 4, dim);
    shape(b, PUSH(b, norm_fwd, batch_norm_fwd, t, 3 * bytes), 4, dim);
    shape(b, PUSH(b, norm_eval, batch_norm_eval, t, 2 * bytes), 4, dim);
    shape(b, PUSH(b, norm_bwd, batch_norm_bwd, t, 5 * bytes), 4, dim);
    for (int back = 0; back < 2; back++) {
        const double work = 1.25 * bytes + size; /* `which`: 4 bytes for a quarter of the cells */
        bench_row *p = back ? PUSH(b, max_pool_bwd, max_pool_bwd, t, work)
                            : PUSH(b, max_pool_fwd, max_pool_fwd, t, work);
        shape(b, p, 4, dim);
        dml_tensor *pooled = back ? &p->z : &p->y;
        *pooled = dml_tensor_of(pooled->data, t, 4, halved);
        p->w = dml_tensor_of(b->wide, DML_I32, 4, halved);
    }
    bench_row *r = PUSH(b, to_nchw, nhwc_to_nchw, t, 2 * bytes);
    shape(b, r, 4, dim);
    r->y = dml_tensor_of(b->b, t, 4, (const int64_t[]){n, BENCH_CHANNELS, BENCH_SIDE, BENCH_SIDE});
}

/* Kernels over rows of features. */
static void add_features(bench_device *b, dml_dtype t)
{
    const int64_t dim[] = {b->elems / CLASSES, CLASSES};
    const double bytes = (double)(dim[0] * dim[1] * dml_dtype_bytes(t));
    shape(b, PUSH(b, gelu_fwd, gelu_fwd, t, 2 * bytes), 2, dim);
    shape(b, PUSH(b, gelu_bwd, gelu_bwd, t, 3 * bytes), 2, dim);
    shape(b, PUSH(b, gelu_tanh_fwd, gelu_tanh_fwd, t, 2 * bytes), 2, dim);
    shape(b, PUSH(b, dropout, dropout, t, 2 * bytes), 2, dim);
    shape(b, PUSH(b, xent, softmax_xent, t, 2 * bytes), 2, dim);
}

/* Kernels over parameters. */
static void add_flat(bench_device *b)
{
    const int64_t n = b->elems, partials = (n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
    const double e = (double)n;
    bench_row *r = PUSH(b, convert, convert, DML_F32, 6 * e);
    shape(b, r, 1, &n);
    r->y.dtype = DML_BF16;
    shape(b, PUSH(b, fill, fill, DML_F32, 4 * e), 1, &n);
    shape(b, PUSH(b, accumulate, accumulate, DML_F32, 12 * e), 1, &n);
    r = PUSH(b, accumulate_exact, accumulate_exact, DML_F32, 20 * e);
    shape(b, r, 1, &n);
    r->w.dtype = DML_I64;
    r->max_bits = vector(b->small[4] + 128, DML_U32, 1);
    r = PUSH(b, finish_exact, finish_exact, DML_F32, 12 * e);
    shape(b, r, 1, &n);
    r->w.dtype = DML_I64;
    r = PUSH(b, sum_squares, sum_squares, DML_F32, 4 * e);
    shape(b, r, 1, &n);
    r->w = vector(b->wide, DML_F64, partials);
    shape(b, PUSH(b, sgd, sgd, DML_F32, 20 * e), 1, &n);
    shape(b, PUSH(b, adamw, adamw, DML_F32, 28 * e), 1, &n);
}

static void add_products(bench_device *b, int64_t side, dml_dtype t, bool tf32)
{
    bench_gemm_rows(b, (const int64_t[]){side, side, side}, t, tf32, -1);
}

/* Row 0 is the copy, which all but products are compared with. */
void bench_ceiling_rows(bench_device *b, int64_t side)
{
    push(b, "copy", NULL, -1, DML_F32, 8.0 * (double)b->elems);
    push(b, "host to device", NULL, -1, DML_F32, (double)b->host_bytes)->ceiling = -1;
    push(b, "device to host", NULL, -1, DML_F32, (double)b->host_bytes)->ceiling = -1;
    add_products(b, side, DML_BF16, false);
    add_products(b, side, DML_F32, true);
    add_products(b, side, DML_F32, false);
    add_images(b, DML_BF16);
    add_images(b, DML_F32);
    add_features(b, DML_BF16);
    add_features(b, DML_F32);
    add_flat(b);
}
