/* tests/kernels/cuda/test_context.c - contexts of the CUDA backend on the emulated GPU: plans without launches,
 * choices that travel, what is fixed once sealed, and values of a step under captured kernels.
 */
#include "tests/support/test.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/kernels_cuda.h"

#include <stdlib.h>

enum { ROWS = 40, IN = 24, OUT = 136, ELEMS = 8192, BLOB = 1 << 16 };

/* One context with a few tensors, all of 8,192 floats or less. */
typedef struct rig {
    const dml_backend *b;
    dml_device *device;
    dml_queue *queue;
    dml_kctx *k;
    char *memory; /* 8 tensors' worth; fake under plan_only */
} rig;

static const dml_kernel_table *table(void)
{
    return dml_cuda_backend()->kernels;
}

static void rig_open(rig *r, const dml_kctx_config *config)
{
    const dml_device_config device = {.threads = 1, .queue_capacity = 16};
    *r = (rig){.b = dml_cuda_backend()};
    DML_CHECK_OK(r->b->device->open(&device, &r->device));
    DML_CHECK_OK(r->b->device->queue_open(r->device, "compute", &r->queue));
    DML_CHECK_OK(r->b->kernels->open(r->device, r->queue, config, &r->k));
    r->memory = (char *)(uintptr_t)4096;
    if (!config->plan_only)
        DML_CHECK_OK(r->b->device->alloc(r->device, 8 * ELEMS * 4, (void **)&r->memory));
    for (int i = 0; i < 8 * ELEMS && !config->plan_only; i++)
        ((float *)(void *)r->memory)[i] = (float)((i * 37 + i / 19) % 41 - 20) / 16.0f;
}

static void rig_close(rig *r)
{
    if (r->memory != (char *)(uintptr_t)4096) r->b->device->free(r->device, r->memory);
    r->b->kernels->close(r->k);
    r->b->device->queue_close(r->queue);
    r->b->device->close(r->device);
    DML_CHECK_EQ(0, dml_emu_faults());
}

static dml_tensor tensor(const rig *r, int slot, dml_dtype dtype, int64_t rows, int64_t cols)
{
    return dml_tensor_of(r->memory + (int64_t)slot * ELEMS * 4, dtype, 2, (int64_t[]){rows, cols});
}

static dml_tensor vector(const rig *r, int slot, dml_dtype dtype, int64_t n)
{
    return dml_tensor_of(r->memory + (int64_t)slot * ELEMS * 4, dtype, 1, &n);
}

/* A layer forward and back, in BF16: plain, fused and with a bias gradient. */
static dml_err layer(void *arg)
{
    const rig *r = arg;
    const dml_kernel_table *t = r->b->kernels;
    const dml_tensor x = tensor(r, 0, DML_BF16, ROWS, IN), w = tensor(r, 1, DML_BF16, OUT, IN);
    const dml_tensor b = vector(r, 2, DML_BF16, OUT), y = tensor(r, 3, DML_BF16, ROWS, OUT);
    const dml_tensor aux =
        tensor(r, 4, DML_U8, ROWS, dml_act_aux_bytes(DML_ACT_RELU, DML_BF16, OUT));
    const dml_tensor dw = tensor(r, 5, DML_F32, OUT, IN), db = vector(r, 6, DML_F32, OUT);
    const dml_tensor dx = tensor(r, 7, DML_BF16, ROWS, IN);
    DML_TRY(t->linear_act_fwd(r->k, DML_ACT_RELU, &y, &aux, &x, &w, &b));
    DML_TRY(t->linear_bwd_weight(r->k, &dw, &db, &y, &x));
    return t->linear_bwd_input(r->k, &dx, &y, &w);
}

static dml_err run(rig *r, dml_job job)
{
    DML_TRY(r->b->device->submit(r->queue, job, r));
    return r->b->device->sync(r->queue, INT64_MAX);
}

/* What a planning context chose; the bytes are the caller's to free. */
static void *plans_of(const dml_kctx_config *config, int64_t *bytes)
{
    dml_kctx_config planning = *config;
    planning.plan_only = true;
    rig r;
    rig_open(&r, &planning);
    DML_CHECK_OK(layer(&r)); /* on memory that is not there */
    *bytes = 0;
    DML_CHECK_OK(table()->choices(r.k, NULL, bytes));
    void *blob = test_malloc((size_t)*bytes);
    DML_CHECK_OK(table()->choices(r.k, blob, bytes));
    rig_close(&r);
    return blob;
}

static const dml_kctx_config fast = {.threads = 1};
static const dml_kctx_config exact = {.threads = 1, .deterministic = true};

static void a_planning_context_launches_nothing_and_others_compute_with_its_plans(void **state)
{
    (void)state;
    int64_t bytes = 0, again = 0;
    void *blob = plans_of(&fast, &bytes);
    rig r;
    rig_open(&r, &fast);
    DML_CHECK_OK(table()->choose(r.k, blob, bytes));
    DML_CHECK_OK(run(&r, layer));
    DML_CHECK_OK(table()->choices(r.k, NULL, &again));
    DML_CHECK_EQ(bytes, again);
    void *same = test_malloc((size_t)again);
    DML_CHECK_OK(table()->choices(r.k, same, &again));
    assert_memory_equal(blob, same, (size_t)bytes);
    rig_close(&r);
    test_free(same);
    test_free(blob);
}

static void choices_need_room(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, &fast);
    DML_CHECK_OK(run(&r, layer));
    char little[16] = "untouched";
    int64_t bytes = sizeof little;
    DML_CHECK_OK(table()->choices(r.k, little, &bytes));
    DML_CHECK(bytes > (int64_t)sizeof little);
    assert_string_equal("untouched", little);
    rig_close(&r);
}

/* The bytes behind the two sizes: version, compute capability, multiprocessors. */
static void choices_of_another_library_gpu_or_mode_are_refused(void **state)
{
    (void)state;
    int64_t bytes = 0;
    char *blob = plans_of(&fast, &bytes);
    rig r;
    rig_open(&r, &fast);
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "not a list", table()->choose(r.k, blob, 3));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "not a list", table()->choose(r.k, blob, bytes - 8));
    blob[16]++;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "cuBLASLt", table()->choose(r.k, blob, bytes));
    blob[16]--;
    blob[16 + 8 + 8]++;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "multiprocessors", table()->choose(r.k, blob, bytes));
    blob[16 + 8 + 8]--;
    DML_CHECK_OK(table()->choose(r.k, blob, bytes));
    rig_close(&r);
    rig_open(&r, &exact);
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "mode", table()->choose(r.k, blob, bytes));
    rig_close(&r);
    test_free(blob);
}

static void an_algorithm_that_does_not_fit_its_shape_is_refused(void **state)
{
    (void)state;
    int64_t bytes = 0;
    char *blob = plans_of(&fast, &bytes);
    rig r;
    rig_open(&r, &fast);
    blob[bytes - 56]++; /* in the algorithm of the last choice */
    DML_CHECK_OK(table()->choose(r.k, blob, bytes));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "cublasLtMatmulAlgoCheck", layer(&r));
    rig_close(&r);
    test_free(blob);
}

static void a_sealed_context_takes_no_new_shape(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, &exact);
    DML_CHECK_OK(run(&r, layer));
    table()->seal(r.k);
    DML_CHECK_OK(run(&r, layer));
    const dml_tensor x = tensor(&r, 0, DML_F32, 2, IN), w = tensor(&r, 1, DML_F32, 8, IN);
    const dml_tensor y = tensor(&r, 2, DML_F32, 2, 8), wide = tensor(&r, 3, DML_F32, 1, ELEMS);
    const dml_tensor sums = vector(&r, 4, DML_F32, ELEMS), gamma = vector(&r, 5, DML_F32, ELEMS);
    DML_CHECK_FAILS(DML_ERR_BUG, "F32 [2, 24] by [24, 8] was not planned",
                    table()->linear_fwd(r.k, &y, &x, &w, NULL));
    DML_CHECK_FAILS(
        DML_ERR_BUG, "batch_norm_fwd: 65536 bytes of scratch were not planned",
        table()->batch_norm_fwd(r.k, 1e-5f, &wide, &sums, &sums, &wide, &gamma, &gamma));
    rig_close(&r);
}

static void a_tensor_off_its_border_is_our_bug(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, &exact);
    const dml_tensor x = tensor(&r, 0, DML_F32, 2, IN), y = tensor(&r, 2, DML_F32, 2, 8);
    dml_tensor w = tensor(&r, 1, DML_F32, 8, IN);
    w.data = (float *)w.data + 1;
    DML_CHECK_FAILS(DML_ERR_BUG, "not aligned to 16 bytes",
                    table()->linear_fwd(r.k, &y, &x, &w, NULL));
    rig_close(&r);
}

static dml_err product(void *arg)
{
    const rig *r = arg;
    const dml_tensor x = tensor(r, 0, DML_F32, 1, 8), w = tensor(r, 1, DML_F32, 8, 8);
    const dml_tensor y = tensor(r, 2, DML_F32, 1, 8);
    return r->b->kernels->linear_fwd(r->k, &y, &x, &w, NULL);
}

/* 1 + 2^-12 is 1 with 10 bits behind the point. */
static void tf32_rounds_factors_to_10_bits(void **state)
{
    (void)state;
    for (int tf32 = 0; tf32 < 2; tf32++) {
        const dml_kctx_config config = {.threads = 1, .deterministic = true, .tf32 = tf32};
        rig r;
        rig_open(&r, &config);
        float *x = tensor(&r, 0, DML_F32, 1, 8).data, *w = tensor(&r, 1, DML_F32, 8, 8).data;
        for (int i = 0; i < 8; i++)
            x[i] = i == 0 ? 0x1.001p0f : 0.0f;
        for (int i = 0; i < 64; i++)
            w[i] = 1.0f;
        DML_CHECK_OK(run(&r, product));
        const float y = *(float *)tensor(&r, 2, DML_F32, 1, 8).data;
        DML_CHECK(y == (tf32 ? 1.0f : 0x1.001p0f));
        rig_close(&r);
    }
}

/* ---- a captured kernel reads the step when it runs ---- */

static dml_err dropped(void *arg)
{
    const rig *r = arg;
    const dml_dropout p = {.rate = 0.5f, .key = 7, .first_sample = 0};
    const dml_tensor x = tensor(r, 0, DML_F32, 8, 100), y = tensor(r, 1, DML_F32, 8, 100);
    return r->b->kernels->dropout(r->k, &p, &y, &x);
}

static dml_err begin(const rig *r, int64_t step)
{
    return r->b->kernels->begin_step(r->k, &(dml_step_words){.step = step, .loss_scale = 1.0f});
}

static void a_replay_has_the_masks_of_its_own_step(void **state)
{
    (void)state;
    enum { BYTES = 800 * sizeof(float) };
    char first[BYTES], second[BYTES];
    rig r;
    dml_replay *replay = NULL;
    rig_open(&r, &exact);
    const dml_device_api *d = r.b->device;
    char *y = tensor(&r, 1, DML_F32, 8, 100).data;
    DML_CHECK_OK(begin(&r, 3));
    DML_CHECK_OK(run(&r, dropped));
    memcpy(first, y, BYTES);
    DML_CHECK_OK(d->capture(r.queue, dropped, &r, &replay));
    DML_CHECK_OK(begin(&r, 4));
    DML_CHECK_OK(d->replay(r.queue, replay));
    DML_CHECK_OK(d->sync(r.queue, INT64_MAX));
    memcpy(second, y, BYTES);
    DML_CHECK(memcmp(first, second, BYTES) != 0);
    DML_CHECK_OK(begin(&r, 3));
    DML_CHECK_OK(d->replay(r.queue, replay));
    DML_CHECK_OK(d->sync(r.queue, INT64_MAX));
    assert_memory_equal(first, y, BYTES);
    d->replay_close(replay);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_planning_context_launches_nothing_and_others_compute_with_its_plans),
        cmocka_unit_test(choices_need_room),
        cmocka_unit_test(choices_of_another_library_gpu_or_mode_are_refused),
        cmocka_unit_test(an_algorithm_that_does_not_fit_its_shape_is_refused),
        cmocka_unit_test(a_sealed_context_takes_no_new_shape),
        cmocka_unit_test(a_tensor_off_its_border_is_our_bug),
        cmocka_unit_test(tf32_rounds_factors_to_10_bits),
        cmocka_unit_test(a_replay_has_the_masks_of_its_own_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
