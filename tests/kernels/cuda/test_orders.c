/* tests/kernels/cuda/test_orders.c - one training step on the emulated GPU has the same bits whatever the
 * order of threads, blocks and streams, and they are the reference's up to rounding.
 */
#include "tests/support/test.h"

#include "engine/base/hash.h"
#include "engine/base/rng.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* Neither a multiple of a warp nor of a tile; classes over HELD would take the wide softmax. */
enum { ROWS = 9, IN = 37, MIDDLE = 70, CLASSES = 300, WEIGHTS = MIDDLE * IN, SLOTS = 26 };

/* Device memory of one step, by name. */
typedef struct memory {
    float *x, *w1, *b1, *h, *mask, *w2, *b2, *y, *dy, *dh, *dw2, *db2, *dw1, *db1, *m, *v, *g;
    int64_t *acc, *hi, *lo;
    double *loss, *norm;
    int32_t *correct, *labels;
    uint32_t *max_bits;
} memory;

typedef struct step {
    const dml_kernel_table *k;
    dml_kctx *context;
    memory at;
} step;

static dml_tensor matrix(float *data, int64_t rows, int64_t cols)
{
    return dml_tensor_of(data, DML_F32, 2, (int64_t[]){rows, cols});
}

static dml_tensor vector(void *data, dml_dtype dtype, int64_t n)
{
    return dml_tensor_of(data, dtype, 1, &n);
}

static dml_err forward(step *s)
{
    memory *a = &s->at;
    const dml_tensor x = matrix(a->x, ROWS, IN), w1 = matrix(a->w1, MIDDLE, IN),
                     b1 = vector(a->b1, DML_F32, MIDDLE), h = matrix(a->h, ROWS, MIDDLE),
                     mask = matrix(a->mask, ROWS, MIDDLE), w2 = matrix(a->w2, CLASSES, MIDDLE),
                     b2 = vector(a->b2, DML_F32, CLASSES), y = matrix(a->y, ROWS, CLASSES),
                     dy = matrix(a->dy, ROWS, CLASSES), loss = vector(a->loss, DML_F64, 1),
                     correct = vector(a->correct, DML_I32, 1),
                     labels = vector(a->labels, DML_I32, ROWS);
    const dml_dropout drop = {.rate = 0.25f, .key = 99, .first_sample = 40};
    DML_TRY(s->k->linear_fwd(s->context, &h, &x, &w1, &b1));
    DML_TRY(s->k->relu_fwd(s->context, &h, &h));
    DML_TRY(s->k->dropout(s->context, &drop, &mask, &h));
    DML_TRY(s->k->linear_fwd(s->context, &y, &mask, &w2, &b2));
    return s->k->softmax_xent(s->context, &loss, &correct, &dy, &y, &labels);
}

static dml_err backward(step *s)
{
    memory *a = &s->at;
    const dml_tensor x = matrix(a->x, ROWS, IN), h = matrix(a->h, ROWS, MIDDLE),
                     mask = matrix(a->mask, ROWS, MIDDLE), w2 = matrix(a->w2, CLASSES, MIDDLE),
                     dy = matrix(a->dy, ROWS, CLASSES), dh = matrix(a->dh, ROWS, MIDDLE),
                     dw1 = matrix(a->dw1, MIDDLE, IN), db1 = vector(a->db1, DML_F32, MIDDLE),
                     dw2 = matrix(a->dw2, CLASSES, MIDDLE), db2 = vector(a->db2, DML_F32, CLASSES);
    const dml_dropout drop = {.rate = 0.25f, .key = 99, .first_sample = 40};
    DML_TRY(s->k->linear_bwd_weight(s->context, &dw2, &db2, &dy, &mask));
    DML_TRY(s->k->linear_bwd_input(s->context, &dh, &dy, &w2));
    DML_TRY(s->k->dropout(s->context, &drop, &dh, &dh));
    DML_TRY(s->k->relu_bwd(s->context, &dh, &dh, &h));
    return s->k->linear_bwd_weight(s->context, &dw1, &db1, &dh, &x);
}

static dml_err update(step *s)
{
    memory *a = &s->at;
    const dml_tensor dw1 = matrix(a->dw1, MIDDLE, IN), acc = vector(a->acc, DML_I64, WEIGHTS),
                     flat = vector(a->dw1, DML_F32, WEIGHTS), g = vector(a->g, DML_F32, WEIGHTS),
                     hi = vector(a->hi, DML_I64, WEIGHTS), lo = vector(a->lo, DML_I64, WEIGHTS),
                     max_bits = vector(a->max_bits, DML_U32, 1), norm = vector(a->norm, DML_F64, 1);
    const dml_sgd sgd = {.lr = 0.1f, .momentum = 0.9f, .grad_scale = 0.5f};
    const dml_adamw adamw = {0.01f, 0.9f, 0.99f, 1e-8f, 1.0f, 0.1f, 0.1f};
    const dml_opt_tensor first = {a->w1, a->g, a->m, a->v, WEIGHTS, 0.01f};
    const dml_opt_tensor second[] = {{a->w2, a->dw2, NULL, NULL, CLASSES * MIDDLE, 0.0f},
                                     {a->b2, a->db2, NULL, NULL, CLASSES, 0.1f}};
    DML_TRY(s->k->sum_squares(s->context, &norm, &dw1));
    DML_TRY(s->k->accumulate_exact(s->context, &acc, &max_bits, &flat, 40, true));
    DML_TRY(s->k->accumulate_exact(s->context, &acc, &max_bits, &flat, 40, false));
    DML_TRY(s->k->finish_exact(s->context, &g, &acc, 40));
    DML_TRY(s->k->accumulate_wide(s->context, &hi, &lo, &max_bits, &flat, true));
    DML_TRY(s->k->accumulate_wide(s->context, &hi, &lo, &max_bits, &g, false));
    DML_TRY(s->k->finish_wide(s->context, &g, &hi, &lo));
    DML_TRY(s->k->adamw(s->context, &adamw, &first, 1));
    return s->k->sgd(s->context, &sgd, second, 2);
}

static dml_err run(void *arg)
{
    const step *s = arg;
    DML_TRY(s->k->begin_step(s->context, &(dml_step_words){.step = 3, .loss_scale = 1.0f}));
    DML_TRY(forward(arg));
    DML_TRY(backward(arg));
    return update(arg);
}

/* Allocates by `alloc`, counts of elements; fills inputs from one stream of numbers. */
typedef void *(*allocate)(void *owner, int64_t bytes);

static float *numbers(allocate alloc, void *owner, int64_t n, uint64_t key)
{
    float *at = alloc(owner, n * (int64_t)sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        uint32_t word[4];
        dml_rng_block(key, 0, (uint64_t)i, word);
        at[i] = dml_rng_unit(word[0]) - 0.5f;
    }
    return at;
}

static memory make_memory(allocate alloc, void *owner)
{
    memory a = {.x = numbers(alloc, owner, ROWS * IN, 1),
                .w1 = numbers(alloc, owner, WEIGHTS, 2),
                .b1 = numbers(alloc, owner, MIDDLE, 3),
                .w2 = numbers(alloc, owner, CLASSES * MIDDLE, 4),
                .b2 = numbers(alloc, owner, CLASSES, 5)};
    float **rest[] = {&a.h,   &a.mask, &a.y,   &a.dy, &a.dh, &a.dw2,
                      &a.db2, &a.dw1,  &a.db1, &a.m,  &a.v,  &a.g};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        *rest[i] = alloc(owner, CLASSES * MIDDLE * (int64_t)sizeof(float));
    a.acc = alloc(owner, WEIGHTS * (int64_t)sizeof(int64_t));
    a.hi = alloc(owner, WEIGHTS * (int64_t)sizeof(int64_t));
    a.lo = alloc(owner, WEIGHTS * (int64_t)sizeof(int64_t));
    a.loss = alloc(owner, sizeof(double));
    a.norm = alloc(owner, sizeof(double));
    a.correct = alloc(owner, sizeof(int32_t));
    a.max_bits = alloc(owner, sizeof(uint32_t));
    a.labels = alloc(owner, ROWS * (int64_t)sizeof(int32_t));
    for (int32_t r = 0; r < ROWS; r++)
        a.labels[r] = r * 31 % CLASSES;
    return a;
}

/* ---- the emulated GPU; its memory can be read and written from here ---- */

typedef struct gpu {
    const dml_backend *backend;
    dml_device *device;
    dml_queue *queue;
    dml_kctx *context;
    void *owned[SLOTS];
    int n;
} gpu;

static void *gpu_alloc(void *owner, int64_t bytes)
{
    gpu *g = owner;
    assert_true(g->n < SLOTS);
    DML_CHECK_OK(g->backend->device->alloc(g->device, bytes, &g->owned[g->n]));
    return g->owned[g->n++];
}

static void gpu_open(gpu *g)
{
    *g = (gpu){.backend = dml_cuda_backend()};
    const dml_device_config config = {.threads = 1, .queue_capacity = 16};
    const dml_kctx_config kernels = {.threads = 1, .deterministic = true};
    DML_CHECK_OK(g->backend->device->open(&config, &g->device));
    DML_CHECK_OK(g->backend->device->queue_open(g->device, "compute", &g->queue));
    DML_CHECK_OK(g->backend->kernels->open(g->device, g->queue, &kernels, &g->context));
}

static void gpu_close(gpu *g)
{
    for (int i = 0; i < g->n; i++)
        g->backend->device->free(g->device, g->owned[i]);
    g->backend->kernels->close(g->context);
    g->backend->device->queue_close(g->queue);
    g->backend->device->close(g->device);
}

static uint64_t hash_of(const memory *a)
{
    const struct {
        const void *at;
        int64_t bytes;
    } part[] = {{a->w1, WEIGHTS * 4},  {a->w2, CLASSES * MIDDLE * 4},
                {a->b2, CLASSES * 4},  {a->db1, MIDDLE * 4},
                {a->acc, WEIGHTS * 8}, {a->hi, WEIGHTS * 8},
                {a->lo, WEIGHTS * 8},  {a->loss, 8},
                {a->norm, 8},          {a->correct, 4},
                {a->max_bits, 4},      {a->m, WEIGHTS * 4},
                {a->v, WEIGHTS * 4},   {a->dy, ROWS * CLASSES * 4}};
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        hash = dml_hash(part[i].at, part[i].bytes, hash);
    return hash;
}

static void the_bits_do_not_depend_on_any_order(void **state)
{
    (void)state;
    uint64_t first = 0;
    for (int order = DML_EMU_FORWARD; order <= DML_EMU_RANDOM; order++)
        for (int streams = DML_EMU_EAGER; streams <= DML_EMU_LOTTERY; streams++) {
            dml_emu_setup((dml_emu_order)order, (dml_emu_streams)streams, 11);
            gpu g;
            gpu_open(&g);
            step s = {g.backend->kernels, g.context, make_memory(gpu_alloc, &g)};
            DML_CHECK_OK(g.backend->device->submit(g.queue, run, &s));
            DML_CHECK_OK(g.backend->device->sync(g.queue, INT64_MAX));
            const uint64_t hash = hash_of(&s.at);
            if (first == 0) first = hash;
            if (hash != first) fail_msg("order %d, streams %d: other bits", order, streams);
            gpu_close(&g);
            DML_CHECK_EQ(0, dml_emu_faults());
        }
}

/* ---- against the reference ---- */

static void *host_alloc(void *owner, int64_t bytes)
{
    (void)owner;
    return test_calloc(1, (size_t)bytes);
}

static void free_host(memory *a)
{
    void *all[] = {a->x,  a->w1,  a->b1,   a->h,    a->mask,    a->w2,     a->b2,      a->y, a->dy,
                   a->dh, a->dw2, a->db2,  a->dw1,  a->db1,     a->m,      a->v,       a->g, a->acc,
                   a->hi, a->lo,  a->loss, a->norm, a->correct, a->labels, a->max_bits};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_free(all[i]);
}

static void check_close(const char *what, const float *want, const float *got, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(want[i] - got[i]) <= 2e-5f * (1.0f + fabsf(want[i]))))
            fail_msg("%s[%lld] is %.9g, not %.9g", what, (long long)i, (double)got[i],
                     (double)want[i]);
}

static void a_step_is_the_references_up_to_rounding(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_RANDOM, DML_EMU_EAGER, 5);
    gpu g;
    gpu_open(&g);
    step s = {g.backend->kernels, g.context, make_memory(gpu_alloc, &g)};
    DML_CHECK_OK(g.backend->device->submit(g.queue, run, &s));
    DML_CHECK_OK(g.backend->device->sync(g.queue, INT64_MAX));
    step r = {&dml_ref_kernels, NULL, make_memory(host_alloc, NULL)};
    DML_CHECK_OK(r.k->open(NULL, NULL, &(dml_kctx_config){.threads = 1}, &r.context));
    DML_CHECK_OK(run(&r));
    check_close("dy", r.at.dy, s.at.dy, ROWS * CLASSES);
    check_close("db1", r.at.db1, s.at.db1, MIDDLE);
    check_close("w1", r.at.w1, s.at.w1, WEIGHTS);
    check_close("w2", r.at.w2, s.at.w2, CLASSES * MIDDLE);
    check_close("b2", r.at.b2, s.at.b2, CLASSES);
    DML_CHECK(fabs(*r.at.loss - *s.at.loss) < 1e-4);
    DML_CHECK_EQ(*r.at.correct, *s.at.correct);
    r.k->close(r.context);
    free_host(&r.at);
    gpu_close(&g);
}

static void sealed_contexts_refuse_new_shapes(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    gpu g;
    gpu_open(&g);
    const dml_kernel_table *k = g.backend->kernels;
    step s = {k, g.context, make_memory(gpu_alloc, &g)};
    DML_CHECK_OK(run(&s));
    k->seal(g.context);
    DML_CHECK_OK(run(&s));
    const dml_tensor y = matrix(s.at.y, 4, MIDDLE), x = matrix(s.at.x, 4, IN),
                     w = matrix(s.at.w1, MIDDLE, IN);
    DML_CHECK_FAILS(DML_ERR_BUG, "was not planned", k->linear_fwd(g.context, &y, &x, &w, NULL));
    gpu_close(&g);
}

static void a_label_outside_the_row_makes_the_loss_nan(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    gpu g;
    gpu_open(&g);
    step s = {g.backend->kernels, g.context, make_memory(gpu_alloc, &g)};
    s.at.labels[4] = CLASSES;
    DML_CHECK_OK(forward(&s));
    DML_CHECK(isnan(*s.at.loss));
    DML_CHECK_EQ(0, dml_emu_faults());
    gpu_close(&g);
}

static void wrong_shapes_name_the_kernel(void **state)
{
    (void)state;
    gpu g;
    gpu_open(&g);
    float *at = gpu_alloc(&g, 4096);
    const dml_tensor y = matrix(at, 2, 3), x = matrix(at, 3, 3);
    DML_CHECK_FAILS(DML_ERR_BUG, "relu_fwd", g.backend->kernels->relu_fwd(g.context, &y, &x));
    gpu_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_do_not_depend_on_any_order),
        cmocka_unit_test(a_step_is_the_references_up_to_rounding),
        cmocka_unit_test(sealed_contexts_refuse_new_shapes),
        cmocka_unit_test(a_label_outside_the_row_makes_the_loss_nan),
        cmocka_unit_test(wrong_shapes_name_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
