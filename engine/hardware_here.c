/* engine/hardware_here.c - hardware from a calibration on the spot: a few kernels of the host's backend, timed. */
#include "engine/hardware.h"

#include "engine/base/clock.h"
#include "kernels/backend.h"

#include <math.h>
#include <unistd.h>

enum {
    SIDE = 768, /* of the product's matrices */
    ROWS = 32,
    IMAGE = 32,
    CHANNELS = 64,          /* of the convolution, 3 x 3 */
    STREAM_ELEMS = 1 << 22, /* of each side of the copy: past the caches */
    PRODUCTS = STREAM_ELEMS / (SIDE * SIDE),
    TINY_ELEMS = 64,
    REPEATS = 3,
    MANY = 200,
    CPU_TILE = 32,
};

typedef struct bench {
    const dml_kernel_table *kt;
    dml_kctx *k;
    float *a, *b, *c;
    double product_s, conv_s, stream_s, call_s; /* least seen */
} bench;

static dml_tensor matrix(float *data)
{
    return dml_tensor_of(data, DML_F32, 2, (const int64_t[]){SIDE, SIDE});
}

static dml_tensor image(float *data)
{
    return dml_tensor_of(data, DML_F32, 4, (const int64_t[]){ROWS, IMAGE, IMAGE, CHANNELS});
}

static dml_tensor vector(float *data, int64_t elems)
{
    return dml_tensor_of(data, DML_F32, 1, &elems);
}

/* One after another over all the memory, as a model's layers: none finds its matrices in a cache. */
static dml_err products(const bench *x)
{
    for (int i = 0; i < PRODUCTS; i++) {
        const int64_t at = (int64_t)i * SIDE * SIDE;
        const dml_tensor y = matrix(x->c + at), a = matrix(x->a + at), w = matrix(x->b + at);
        DML_TRY(x->kt->linear_fwd(x->k, &y, &a, &w, NULL));
    }
    return DML_ERR_OK;
}

static dml_err convolution(const bench *x)
{
    const dml_conv2d p = {
        .kernel = {3, 3}, .stride = {1, 1}, .pad = {1, 1}, .dilation = {1, 1}, .groups = 1};
    const dml_tensor y = image(x->c), a = image(x->a),
                     w = dml_tensor_of(x->b, DML_F32, 4,
                                       (const int64_t[]){CHANNELS, CHANNELS, 3, 3});
    return x->kt->conv2d_fwd(x->k, &p, &y, &a, &w, NULL);
}

static dml_err stream(const bench *x)
{
    const dml_tensor y = vector(x->c, STREAM_ELEMS), a = vector(x->a, STREAM_ELEMS);
    return x->kt->relu_fwd(x->k, &y, &a);
}

static dml_err tiny(const bench *x)
{
    const dml_tensor y = vector(x->c, TINY_ELEMS), a = vector(x->a, TINY_ELEMS);
    for (int i = 0; i < MANY; i++)
        DML_TRY(x->kt->relu_fwd(x->k, &y, &a));
    return DML_ERR_OK;
}

/* The fastest of some calls, after one that makes plans. */
static dml_err least(const bench *x, dml_err (*call)(const bench *), double *s)
{
    DML_TRY(call(x));
    *s = INFINITY;
    for (int i = 0; i < REPEATS; i++) {
        const int64_t begin_ns = dml_clock_ns();
        DML_TRY(call(x));
        *s = fmin(*s, (double)(dml_clock_ns() - begin_ns) * 1e-9);
    }
    return DML_ERR_OK;
}

static dml_err measure(void *arg)
{
    bench *x = arg;
    DML_TRY(least(x, products, &x->product_s));
    x->product_s /= PRODUCTS;
    DML_TRY(least(x, convolution, &x->conv_s));
    DML_TRY(least(x, stream, &x->stream_s));
    DML_TRY(least(x, tiny, &x->call_s));
    x->call_s /= MANY;
    return DML_ERR_OK;
}

/* Runs `measure` on a device of the backend. */
static dml_err run(const dml_backend *backend, int32_t threads, bench *x)
{
    const dml_device_api *d = backend->device;
    const dml_device_config at = {.threads = threads, .queue_capacity = 4};
    const dml_kctx_config config = {.threads = threads};
    dml_device *device;
    dml_queue *queue;
    DML_TRY(d->open(&at, &device));
    dml_err err = d->queue_open(device, "calibration", &queue);
    if (err != DML_ERR_OK) goto fail_queue;
    err = backend->kernels->open(device, queue, &config, &x->k);
    if (err != DML_ERR_OK) goto fail_kernels;
    float **const memory[] = {&x->a, &x->b, &x->c};
    for (int i = 0; i < 3 && err == DML_ERR_OK; i++)
        err = d->alloc(device, STREAM_ELEMS * (int64_t)sizeof(float), (void **)memory[i]);
    if (err == DML_ERR_OK) err = d->submit(queue, measure, x);
    if (err == DML_ERR_OK) err = d->sync(queue, dml_clock_ns() + 60 * DML_NS_PER_S);
    for (int i = 0; i < 3; i++)
        if (*memory[i]) d->free(device, *memory[i]);
    backend->kernels->close(x->k);
fail_kernels:
    d->queue_close(queue);
fail_queue:
    d->close(device);
    return err;
}

static dml_figure found(double value, const char *source)
{
    return (dml_figure){value, source};
}

dml_err dml_hardware_here(int32_t threads, dml_hardware *out)
{
    int32_t n;
    const char *const *names = dml_backend_auto(&n); /* the last is on every machine */
    const dml_backend *backend;
    DML_TRY(dml_backend_find(names[n - 1], &backend));
    bench x = {.kt = backend->kernels};
    DML_TRY(run(backend, threads, &x));
    const double conv_flops = 2.0 * ROWS * IMAGE * IMAGE * CHANNELS * CHANNELS * 9,
                 flops_per_s = 2.0 * SIDE * SIDE * SIDE / x.product_s,
                 conv_share = conv_flops / x.conv_s / flops_per_s;
    *out = (dml_hardware){0};
    const char *const how = dml_arena_printf(&out->arena, "measured here with %d thread%s", threads,
                                             threads == 1 ? "" : "s");
    dml_figure *f = out->figure;
    out->name = dml_arena_printf(&out->arena, "this host's %s backend, %d thread%s", backend->name,
                                 threads, threads == 1 ? "" : "s");
    f[DML_HW_PEAK_FP32] = f[DML_HW_PEAK_TF32] = found(flops_per_s, how);
    f[DML_HW_PEAK_BF16] = f[DML_HW_PEAK_FP16] =
        found(flops_per_s, "assumed: fp32's, as where the processor has no products of halves");
    f[DML_HW_MEMORY] = found((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE),
                             "what the system says it has, for all workers");
    f[DML_HW_BANDWIDTH] = found(2.0 * 4.0 * STREAM_ELEMS / x.stream_s, how);
    f[DML_HW_LAUNCH] = found(round(x.call_s * 1e9), how);
    f[DML_HW_UNITS] = found(threads, "the threads of a worker");
    f[DML_HW_TILE] = found(CPU_TILE, "assumed: blocks of a product that a thread takes at a time");
    f[DML_HW_MATMUL] = found(1.0, "the peak is that of a product");
    /* above 1 where a kernel saves products (Winograd's) */
    f[DML_HW_CONV] = found(conv_share, how);
    f[DML_HW_STREAM] = found(1.0, "the bandwidth is that of a kernel");
    return DML_ERR_OK;
}
