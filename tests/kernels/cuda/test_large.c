/* tests/kernels/cuda/test_large.c - what the small shapes of the conformance suite do not reach: whole tiles,
 * several chunks of a column, tensors off a 16-byte border, tables of hundreds of tensors, on the emulated GPU.
 *
 * A case takes its tensors from an area, in the same order on the host, where the reference computes, and on the
 * device, which starts as a copy of the host's.  Then both areas are compared tensor by tensor.
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/half.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

enum { AREA = 24 << 20, BORDER = 64, TAKEN = 2200 };

typedef struct taken {
    const char *name;
    dml_dtype dtype;
    int64_t at, n;
    double tolerance; /* of 1 + |want|; below 0: an input, unchanged; 0: the same bits */
} taken;

typedef struct area {
    unsigned char *base; /* host or device */
    bool fill;           /* numbers are drawn: the host's first turn */
    int64_t used;
    taken taken[TAKEN];
    int32_t n;
} area;

static void put(dml_dtype dtype, unsigned char *at, int64_t i, float v)
{
    if (dtype == DML_BF16) ((dml_bf16 *)(void *)at)[i] = dml_bf16_of_float(v);
    if (dtype == DML_F16) ((dml_f16 *)(void *)at)[i] = dml_f16_of_float(v);
    if (dtype == DML_F32) ((float *)(void *)at)[i] = v;
}

static double get(dml_dtype dtype, const unsigned char *at, int64_t i)
{
    switch (dtype) {
    case DML_BF16: return (double)dml_bf16_to_float(((const dml_bf16 *)(const void *)at)[i]);
    case DML_F16: return (double)dml_f16_to_float(((const dml_f16 *)(const void *)at)[i]);
    case DML_F32: return (double)((const float *)(const void *)at)[i];
    case DML_F64: return ((const double *)(const void *)at)[i];
    case DML_I64: return (double)((const int64_t *)(const void *)at)[i];
    case DML_I32: return (double)((const int32_t *)(const void *)at)[i];
    case DML_U32: return (double)((const uint32_t *)(const void *)at)[i];
    case DML_U8: return (double)at[i];
    }
    return 0.0;
}

/* A tensor that begins `off` elements behind a border, of numbers on [-1, 1) or zeros. */
static dml_tensor take(area *a, const char *name, dml_dtype dtype, int64_t off, double tolerance,
                       int32_t rank, const int64_t dim[])
{
    dml_tensor t = dml_tensor_of(NULL, dtype, rank, dim);
    const int64_t n = dml_tensor_elems(&t), at = a->used + off * dml_dtype_bytes(dtype);
    a->used = (at + n * dml_dtype_bytes(dtype) + 2 * BORDER - 1) / BORDER * BORDER;
    assert_true(a->used <= AREA && a->n < TAKEN);
    t.data = a->base + at;
    for (int64_t i = 0; i < n && a->fill; i++) {
        uint32_t word[4];
        dml_rng_block(7, (uint64_t)a->n, (uint64_t)i, word);
        put(dtype, t.data, i, 2.0f * dml_rng_unit(word[0]) - 1.0f);
    }
    a->taken[a->n++] = (taken){name, dtype, at, n, tolerance};
    return t;
}

#define DIMS(...)                                                              \
    (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) \
    {                                                                          \
        __VA_ARGS__                                                            \
    }
#define IN(name, dtype, off, ...)       take(a, name, dtype, off, -1.0, DIMS(__VA_ARGS__))
#define OUT(name, dtype, off, tol, ...) take(a, name, dtype, off, tol, DIMS(__VA_ARGS__))

/* What one rounding to the type costs, of values up to about 1. */
static double unit_of(dml_dtype dtype)
{
    return dtype == DML_BF16 ? 0x1p-8 : dtype == DML_F16 ? 0x1p-11 : 0x1p-20;
}

static const dml_dtype samples[] = {DML_F32, DML_BF16, DML_F16};

typedef dml_err (*test_case)(const dml_kernel_table *t, dml_kctx *k, area *a);

/* ---- the two sides ---- */

typedef struct work {
    test_case run;
    const dml_kernel_table *table;
    dml_kctx *k;
    area *area;
} work;

static dml_err do_work(void *arg)
{
    const work *w = arg;
    return w->run(w->table, w->k, w->area);
}

static void compare(const char *name, const area *want, const unsigned char *got)
{
    for (int32_t t = 0; t < want->n; t++) {
        const taken *x = &want->taken[t];
        for (int64_t i = 0; i < x->n; i++) {
            const double w = get(x->dtype, want->base + x->at, i),
                         g = get(x->dtype, got + x->at, i);
            const double allowed = x->tolerance > 0.0 ? x->tolerance * (1.0 + fabs(w)) : 0.0;
            if (!(fabs(w - g) <= allowed) && !(isnan(w) && isnan(g)))
                fail_msg("%s: %s %s[%lld] of %lld is %.9g, not %.9g", name,
                         dml_dtype_name(x->dtype), x->name, (long long)i, (long long)x->n, g, w);
        }
    }
}

/* On the host by the reference, on the emulated GPU by its kernels. */
static void check(const char *name, test_case run, bool deterministic)
{
    const dml_backend *cuda = dml_cuda_backend();
    const dml_device_config device = {.threads = 1, .queue_capacity = 16};
    const dml_kctx_config config = {.threads = 1, .deterministic = deterministic};
    dml_emu_setup(DML_EMU_RANDOM, DML_EMU_LAZY, 4);
    dml_device *d = NULL;
    dml_queue *q = NULL;
    work ref = {.run = run, .table = &dml_ref_kernels, .area = test_calloc(1, sizeof(area))};
    work gpu = {.run = run, .table = cuda->kernels, .area = test_calloc(1, sizeof(area))};
    ref.area->base = aligned_alloc(BORDER, AREA);
    ref.area->fill = true;
    memset(ref.area->base, 0, AREA);
    DML_CHECK_OK(cuda->device->open(&device, &d));
    DML_CHECK_OK(cuda->device->queue_open(d, "large", &q));
    DML_CHECK_OK(cuda->device->alloc(d, AREA, (void **)&gpu.area->base));
    DML_CHECK_OK(cuda->kernels->open(d, q, &config, &gpu.k));
    DML_CHECK_OK(dml_ref_kernels.open(NULL, NULL, &config, &ref.k));
    DML_CHECK_OK(run(NULL, NULL, ref.area)); /* draws the numbers */
    DML_CHECK_OK(cuda->device->copy(q, gpu.area->base, ref.area->base, ref.area->used));
    DML_CHECK_OK(cuda->device->sync(q, INT64_MAX));
    ref.area->fill = false;
    ref.area->used = ref.area->n = 0;
    DML_CHECK_OK(do_work(&ref));
    DML_CHECK_OK(cuda->device->submit(q, do_work, &gpu));
    unsigned char *back = test_malloc(AREA);
    DML_CHECK_OK(cuda->device->copy(q, back, gpu.area->base, gpu.area->used));
    DML_CHECK_OK(cuda->device->sync(q, INT64_MAX));
    DML_CHECK_EQ(0, dml_emu_faults());
    compare(name, ref.area, back);
    test_free(back);
    dml_ref_kernels.close(ref.k);
    cuda->kernels->close(gpu.k);
    cuda->device->free(d, gpu.area->base);
    cuda->device->queue_close(q);
    cuda->device->close(d);
    free(ref.area->base);
    test_free(ref.area);
    test_free(gpu.area);
}

/* The calls of a case, left out in the turn that draws numbers. */
#define CALL(entry, ...)                          \
    do {                                          \
        if (t) DML_TRY(t->entry(k, __VA_ARGS__)); \
    } while (0)

/* ---- cases ---- */

enum { MANY = 2 * 4096 + 4099 }; /* three tiles of halves, more of floats; the last one is ragged */

static dml_err maps(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int i = 0; i < 3; i++)
        for (int64_t off = 0; off < 2; off++) {
            const dml_dtype type = samples[i];
            const dml_tensor x = IN("x", type, off, MANY), b = IN("b", type, 0, MANY);
            const dml_tensor y = OUT("relu", type, 0, 0.0, MANY);
            const dml_tensor z = OUT("add", type, off, unit_of(type), MANY);
            const dml_tensor g = OUT("gelu_tanh", type, 0, unit_of(type), MANY);
            const dml_tensor s = OUT("gelu_tanh_bwd", type, 0, unit_of(type), MANY);
            CALL(relu_fwd, &y, &x);
            CALL(add, &z, &x, &b);
            CALL(gelu_tanh_fwd, &g, &x);
            CALL(gelu_tanh_bwd, &s, &x, &b);
        }
    return DML_ERR_OK;
}

static dml_err conversions(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            for (int64_t off = 0; off < 2; off++) {
                const dml_tensor x = IN("x", samples[from], off, MANY);
                const dml_tensor y = OUT("y", samples[to], 0, 0.0, MANY);
                CALL(convert, &y, &x);
            }
    return DML_ERR_OK;
}

static dml_err dropouts(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    static const int64_t cols[] = {1024, 1001};
    const dml_dropout p = {.rate = 0.375f, .key = 12345, .first_sample = 70};
    for (int i = 0; i < 3; i++)
        for (int c = 0; c < 2; c++)
            for (int64_t step = 5; step < 7; step++) {
                const dml_tensor x = IN("x", samples[i], 0, 4, cols[c]);
                const dml_tensor y = OUT("y", samples[i], 0, 0.0, 4, cols[c]);
                if (t)
                    DML_TRY(t->begin_step(k, &(dml_step_words){.step = step, .loss_scale = 1.0f}));
                CALL(dropout, &p, &y, &x);
            }
    return DML_ERR_OK;
}

/* Softmax: a warp a row, in packs, of odd length, off the border; a block a row.  Nine rows are more than the warps
 * of a block. */
static dml_err losses(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    static const int64_t cols[] = {1000, 1001, 1024, 1100};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            const dml_dtype type = samples[i];
            const int64_t c = cols[j];
            const dml_tensor x = IN("x", type, j == 2, 9, c), labels = IN("labels", DML_I32, 0, 9);
            for (int64_t r = 0; r < 9 && a->fill; r++) {
                const int64_t label = r < 5 ? r * (c - 1) / 4 : 7 * r; /* both ends, too */
                ((int32_t *)labels.data)[r] = (int32_t)label;
                if (r < 5) continue;
                put(type, x.data, r * c + label, 1.5f); /* a peak, and again: the first counts */
                put(type, x.data, r * c + (r % 2 ? c - 1 : 2), 1.5f);
            }
            const dml_tensor loss = OUT("loss", DML_F64, 0, 1e-5, 1),
                             hits = OUT("hits", DML_I32, 0, 0.0, 1);
            const dml_tensor dx = OUT("dx", type, 0, unit_of(type), 9, c);
            const dml_tensor mse = OUT("mse", DML_F64, 0, 1e-5, 1),
                             mhits = OUT("mhits", DML_I32, 0, 0.0, 1);
            const dml_tensor mdx = OUT("mdx", type, 0, unit_of(type), 9, c);
            if (t) DML_TRY(t->begin_step(k, &(dml_step_words){.step = 1, .loss_scale = 1024.0f}));
            CALL(softmax_xent, &loss, &hits, &dx, &x, &labels);
            CALL(mse_onehot, &mse, &mhits, &mdx, &x, &labels);
        }
    return DML_ERR_OK;
}

/* 1,300 rows are several chunks; 72 columns are packs, 67 are not. */
static dml_err norms(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    static const int64_t channels[] = {72, 67, 3};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            const dml_dtype type = samples[i];
            const int64_t c = channels[j];
            const double sums = type == DML_F32 ? 1e-4 : 4e-3;
            const dml_tensor x = IN("x", type, 0, 1300, c), dy = IN("dy", type, 0, 1300, c);
            const dml_tensor gamma = IN("gamma", DML_F32, 0, c), beta = IN("beta", DML_F32, 0, c);
            const dml_tensor y = OUT("y", type, 0, 4 * unit_of(type), 1300, c);
            const dml_tensor mean = OUT("mean", DML_F32, 0, 1e-6, c),
                             var = OUT("var", DML_F32, 0, 1e-6, c);
            const dml_tensor dx = OUT("dx", type, 0, 4 * unit_of(type), 1300, c);
            const dml_tensor dgamma = OUT("dgamma", DML_F32, 0, sums, c);
            const dml_tensor dbeta = OUT("dbeta", DML_F32, 0, sums, c);
            CALL(batch_norm_fwd, 1e-5f, &y, &mean, &var, &x, &gamma, &beta);
            CALL(batch_norm_bwd, 1e-5f, &dx, &dgamma, &dbeta, &dy, &x, &mean, &var, &gamma);
            CALL(batch_norm_eval, 1e-5f, &y, &x, &mean, &var, &gamma, &beta);
        }
    return DML_ERR_OK;
}

static dml_err weight_gradients(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int i = 0; i < 3; i++)
        for (int64_t out = 64; out <= 65; out++) {
            const dml_tensor dy = IN("dy", samples[i], 0, 700, out),
                             x = IN("x", samples[i], 0, 700, 3);
            const dml_tensor dw = OUT("dw", DML_F32, 0, 1e-4, out, 3),
                             db = OUT("db", DML_F32, 0, 1e-4, out);
            CALL(linear_bwd_weight, &dw, &db, &dy, &x);
            CALL(linear_add_weight, &dw, &db, &dy, &x);
        }
    return DML_ERR_OK;
}

static dml_err activations(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int i = 0; i < 3; i++)
        for (int act = DML_ACT_RELU; act <= DML_ACT_GELU_TANH; act++)
            for (int64_t out = 136; out <= 137; out++) {
                const dml_dtype type = samples[i];
                const int64_t row = dml_act_aux_bytes((dml_act)act, type, out);
                const double tol = 8 * unit_of(type);
                const dml_tensor x = IN("x", type, 0, 30, 9), w = IN("w", type, 0, out, 9);
                const dml_tensor b = IN("b", type, 0, out), dy = IN("dy", type, 0, 30, 11);
                const dml_tensor v = IN("v", type, 0, 11, out);
                const dml_tensor y = OUT("y", type, 0, tol, 30, out),
                                 dx = OUT("dx", type, 0, tol, 30, out);
                const dml_tensor aux = IN("aux", DML_U8, 0, 30, row); /* padding is anything */
                a->taken[a->n - 1].n = 0;
                for (int64_t e = 0; e < 9 && a->fill; e++) /* y[:, 0] is 0: neither side of relu */
                    put(type, w.data, e, 0.0f);
                if (a->fill) put(type, b.data, 0, 0.0f);
                CALL(linear_act_fwd, (dml_act)act, &y, &aux, &x, &w, &b);
                CALL(linear_act_bwd, (dml_act)act, &dx, &dy, &v, &aux);
            }
    return DML_ERR_OK;
}

static dml_err pools(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    static const int64_t channels[] = {16, 5};
    const dml_pool2d p = {.kernel = {3, 2}, .stride = {2, 1}, .pad = {1, 1}};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++) {
            const dml_dtype type = samples[i];
            const int64_t c = channels[j];
            const dml_tensor x = IN("x", type, 0, 3, 20, 21, c),
                             dy = IN("dy", type, 0, 3, 10, 22, c);
            const dml_tensor y = OUT("max", type, 0, 0.0, 3, 10, 22, c);
            const dml_tensor which = OUT("which", DML_I32, 0, 0.0, 3, 10, 22, c);
            const dml_tensor dx = OUT("max dx", type, 0, unit_of(type), 3, 20, 21, c);
            const dml_tensor ay = OUT("avg", type, 0, unit_of(type), 3, 10, 22, c);
            const dml_tensor adx = OUT("avg dx", type, 0, unit_of(type), 3, 20, 21, c);
            CALL(max_pool_fwd, &p, &y, &which, &x);
            CALL(max_pool_bwd, &p, &dx, &dy, &which);
            CALL(avg_pool_fwd, &p, &ay, &x);
            CALL(avg_pool_bwd, &p, &adx, &dy);
        }
    return DML_ERR_OK;
}

/* 72 and 135 pixels, 70 and 131 channels: one tile and several, with and without pairs of 2-byte elements; pairs off
 * the border. */
static dml_err layouts(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 5; j++) {
            const int64_t w = j % 2 ? 15 : 8, c = j / 2 % 2 ? 131 : 70, off = j == 4;
            const dml_tensor x = IN("x", samples[i], off, 2, 9, w, c);
            const dml_tensor y = OUT("nchw", samples[i], 0, 0.0, 2, c, 9, w);
            const dml_tensor z = OUT("nhwc", samples[i], off, 0.0, 2, 9, w, c);
            CALL(nhwc_to_nchw, &y, &x);
            CALL(nchw_to_nhwc, &z, &y);
        }
    return DML_ERR_OK;
}

static dml_err exact_sums(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    for (int64_t off = 0; off < 2; off++) {
        const dml_tensor g = IN("g", DML_F32, off, MANY), acc = OUT("acc", DML_I64, off, 0.0, MANY);
        const dml_tensor hi = OUT("hi", DML_I64, 0, 0.0, MANY),
                         lo = OUT("lo", DML_I64, off, 0.0, MANY);
        const dml_tensor max = OUT("max", DML_U32, 0, 0.0, 1),
                         norm = OUT("norm", DML_F64, 0, 0.0, 4);
        const dml_tensor back = OUT("back", DML_F32, 0, 0.0, MANY);
        const dml_tensor wide = OUT("wide", DML_F32, 0, 0.0, MANY);
        const dml_tensor ragged =
            IN("ragged", DML_F32, 0, 4096 + 124); /* within a batch of loads */
        const dml_tensor rest = OUT("rest", DML_F64, 0, 0.0, 2);
        for (int turn = 0; turn < 2; turn++) {
            CALL(accumulate_exact, &acc, &max, &g, 40, turn == 0);
            CALL(accumulate_wide, &hi, &lo, &max, &g, turn == 0);
        }
        CALL(finish_exact, &back, &acc, 40);
        CALL(finish_wide, &wide, &hi, &lo);
        CALL(sum_squares, &norm, &g);
        CALL(sum_squares, &rest, &ragged);
    }
    return DML_ERR_OK;
}

/* 515 tensors take two launches, one of them with the long table. */
static dml_err optimizers(const dml_kernel_table *t, dml_kctx *k, area *a)
{
    static const int32_t counts[] = {3, 515};
    const dml_sgd sgd = {.lr = 0.1f, .momentum = 0.9f, .grad_scale = 0.5f, .nesterov = true};
    const dml_adamw adamw = {0.01f, 0.9f, 0.99f, 1e-3f, 1.0f, 0.1f, 0.1f};
    for (int c = 0; c < 2; c++) {
        static dml_opt_tensor list[515];
        for (int32_t i = 0; i < counts[c]; i++) {
            const int64_t n = i == 1 ? 2 * 2048 + 5 : 1 + i % 9, off = i % 2;
            const dml_tensor w = OUT("w", DML_F32, off, 1e-6, n), g = IN("g", DML_F32, 0, n);
            const dml_tensor m = OUT("m", DML_F32, 0, 1e-6, n), v = OUT("v", DML_F32, 0, 1e-6, n);
            for (int64_t e = 0; e < n && a->fill; e++)
                ((float *)v.data)[e] = fabsf(((float *)v.data)[e]);
            list[i] = (dml_opt_tensor){w.data, g.data, m.data, v.data, n, 0.01f};
        }
        CALL(adamw, &adamw, list, counts[c]);
        CALL(sgd, &sgd, list, counts[c]);
    }
    return DML_ERR_OK;
}

/* ---- tests ---- */

#define TEST(name)                         \
    static void name##_agree(void **state) \
    {                                      \
        (void)state;                       \
        check(#name, name, true);          \
    }
TEST(maps)
TEST(conversions)
TEST(dropouts)
TEST(losses)
TEST(norms)
TEST(weight_gradients)
TEST(activations)
TEST(pools)
TEST(layouts)
TEST(exact_sums)
TEST(optimizers)

/* Fast mode: split k, the bias gradient and the activations in the product's epilogue. */
static void fused_products_agree(void **state)
{
    (void)state;
    check("fused weight gradients", weight_gradients, false);
    check("fused activations", activations, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_agree),        cmocka_unit_test(conversions_agree),
        cmocka_unit_test(dropouts_agree),    cmocka_unit_test(losses_agree),
        cmocka_unit_test(norms_agree),       cmocka_unit_test(weight_gradients_agree),
        cmocka_unit_test(activations_agree), cmocka_unit_test(pools_agree),
        cmocka_unit_test(layouts_agree),     cmocka_unit_test(exact_sums_agree),
        cmocka_unit_test(optimizers_agree),  cmocka_unit_test(fused_products_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
