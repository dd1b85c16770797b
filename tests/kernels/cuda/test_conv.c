/* tests/kernels/cuda/test_conv.c - what a context does by dnn.h: plans, seal, choices, room for everything.
 *
 * What they compute is the conformance suite's; here are filters past the tile of a transposition, and what happens
 * around the numbers.
 */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/half.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

enum { ARGS = 5, CHOICES = 1 << 16 };

static const dml_kernel_table *const cuda = &dml_cuda_kernels;
static dml_device *device;
static dml_queue *queue;
static const dml_device_api *api;

static int set_up(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LOTTERY, 1);
    api = dml_cuda_backend()->device;
    const dml_device_config config = {.threads = 1, .queue_capacity = 8};
    if (api->open(&config, &device) != DML_ERR_OK) return 1;
    return api->queue_open(device, "compute", &queue) != DML_ERR_OK;
}

static int take_down(void **state)
{
    (void)state;
    api->queue_close(queue);
    api->close(device);
    return dml_emu_faults() != 0;
}

static void wait_for_queue(void)
{
    DML_CHECK_OK(api->sync(queue, dml_clock_ns() + 60 * DML_NS_PER_S));
}

static dml_kctx *opened(bool plan_only)
{
    const dml_kctx_config config = {.threads = 1, .deterministic = true, .plan_only = plan_only};
    dml_kctx *k;
    DML_CHECK_OK(cuda->open(device, queue, &config, &k));
    return k;
}

/* ---- a convolution on both sides ---- */

static const dml_conv2d window = {
    .kernel = {3, 3}, .stride = {1, 1}, .pad = {1, 1}, .dilation = {1, 1}, .groups = 1};

typedef struct layer {
    dml_tensor host[ARGS], device[ARGS]; /* y, x, w, b; dw is F32 */
} layer;
enum { Y, X, W, B, DW };

static dml_tensor tensor(dml_dtype dtype, int32_t rank, const int64_t dim[])
{
    dml_tensor t = dml_tensor_of(NULL, dtype, rank, dim);
    t.data = calloc(1, (size_t)dml_tensor_bytes(&t));
    return t;
}

static void copy(layer *l, int arg, bool in)
{
    const dml_tensor *h = &l->host[arg], *d = &l->device[arg];
    DML_CHECK_OK(
        api->copy(queue, in ? d->data : h->data, in ? h->data : d->data, dml_tensor_bytes(h)));
    wait_for_queue();
}

static layer make(dml_dtype dtype, int64_t n, int64_t size, int64_t in, int64_t out)
{
    layer l;
    l.host[Y] = tensor(dtype, 4, (int64_t[]){n, size, size, out});
    l.host[X] = tensor(dtype, 4, (int64_t[]){n, size, size, in});
    l.host[W] = tensor(dtype, 4, (int64_t[]){out, in, 3, 3});
    l.host[B] = tensor(DML_F32, 1, (int64_t[]){out});
    l.host[DW] = tensor(DML_F32, 4, (int64_t[]){out, in, 3, 3});
    uint32_t word = 7;
    for (int arg = 0; arg < ARGS; arg++) {
        dml_tensor *h = &l.host[arg];
        for (int64_t i = 0; i < dml_tensor_elems(h); i++) {
            word = word * 1664525u + 1013904223u;
            const float value = (float)(int32_t)(word >> 26) / 32.0f - 1.0f;
            if (h->dtype == DML_F32)
                ((float *)h->data)[i] = value;
            else
                ((uint16_t *)h->data)[i] = dml_bf16_of_float(value);
        }
        l.device[arg] = *h;
        DML_CHECK_OK(api->alloc(device, dml_tensor_bytes(h), &l.device[arg].data));
        copy(&l, arg, true);
    }
    return l;
}

static void unmake(layer *l)
{
    for (int arg = 0; arg < ARGS; arg++) {
        api->free(device, l->device[arg].data);
        free(l->host[arg].data);
    }
}

static dml_err grads(dml_kctx *k, const layer *l)
{
    return cuda->conv2d_bwd_weight(k, &window, &l->device[DW], &l->device[B], &l->device[Y],
                                   &l->device[X]);
}

static dml_err forward(dml_kctx *k, const layer *l)
{
    return cuda->conv2d_fwd(k, &window, &l->device[Y], &l->device[X], &l->device[W], NULL);
}

/* ---- tests ---- */

/* 40 channels do not fit in one tile of 32; a context that has computed nothing else has no room to spare. */
static void gradients_of_many_channels_and_rows_are_the_reference_s(void **state)
{
    (void)state;
    static const dml_dtype types[] = {DML_F32, DML_BF16};
    for (int t = 0; t < 2; t++) {
        layer l = make(types[t], 3, 40, 40, 6);
        dml_kctx *k = opened(false);
        DML_CHECK_OK(grads(k, &l));
        layer want = l;
        want.host[DW] = tensor(DML_F32, 4, (int64_t[]){6, 40, 3, 3});
        want.host[B] = tensor(DML_F32, 1, (int64_t[]){6});
        DML_CHECK_OK(dml_ref_conv2d_bwd_weight(NULL, &window, &want.host[DW], &want.host[B],
                                               &l.host[Y], &l.host[X]));
        copy(&l, DW, false);
        copy(&l, B, false);
        for (int arg = B; arg <= DW; arg++)
            for (int64_t i = 0; i < dml_tensor_elems(&l.host[arg]); i++) {
                const double got = (double)((float *)l.host[arg].data)[i];
                const double truth = (double)((float *)want.host[arg].data)[i];
                const double rounding = arg == DW && types[t] == DML_BF16 ? 0x1p-8 : 0.0;
                if (!(fabs(got - truth) <= 0x1p-8 + rounding * fabs(truth)))
                    fail_msg("%s: %d[%lld] is %g, not %g", dml_dtype_name(types[t]), arg,
                             (long long)i, got, truth);
            }
        free(want.host[DW].data);
        free(want.host[B].data);
        cuda->close(k);
        unmake(&l);
    }
}

static void once_sealed_known_shapes_run_and_new_ones_are_our_bug(void **state)
{
    (void)state;
    layer known = make(DML_F32, 2, 5, 8, 4), other = make(DML_F32, 2, 6, 8, 4);
    dml_kctx *k = opened(false), *unused = opened(false);
    DML_CHECK_OK(forward(k, &known));
    cuda->seal(k);
    DML_CHECK_OK(forward(k, &known));
    DML_CHECK_FAILS(DML_ERR_BUG, "the convolution of F32 [2, 6, 6, 8] by [4, 3, 3, 8]",
                    forward(k, &other));
    cuda->seal(unused); /* before its first convolution */
    DML_CHECK_FAILS(DML_ERR_BUG, "was not planned", forward(unused, &known));
    wait_for_queue();
    cuda->close(unused);
    cuda->close(k);
    unmake(&other);
    unmake(&known);
}

static void a_context_that_only_plans_touches_nothing(void **state)
{
    (void)state;
    layer l = make(DML_BF16, 2, 5, 8, 4), nowhere = l;
    for (int arg = 0; arg < ARGS; arg++)
        nowhere.device[arg].data = (void *)(uintptr_t)4096; /* an address that means nothing */
    dml_kctx *k = opened(true);
    DML_CHECK_OK(forward(k, &nowhere));
    DML_CHECK_OK(grads(k, &nowhere));
    DML_CHECK_OK(cuda->conv2d_bwd_input(k, &window, &nowhere.device[X], &nowhere.device[Y],
                                        &nowhere.device[W]));
    wait_for_queue();
    DML_CHECK_EQ(0, dml_emu_faults());
    cuda->close(k);
    unmake(&l);
}

static void what_a_leader_planned_is_chosen_by_a_worker(void **state)
{
    (void)state;
    static char choices[CHOICES], again[CHOICES];
    layer l = make(DML_F32, 2, 5, 8, 4);
    dml_kctx *leader = opened(true), *worker = opened(false);
    int64_t without = 0, bytes = 0, bytes_again = CHOICES;
    DML_CHECK_OK(cuda->choices(leader, NULL, &without));
    DML_CHECK_OK(forward(leader, &l));
    DML_CHECK_OK(cuda->choices(leader, NULL, &bytes));
    DML_CHECK(bytes > without && bytes <= CHOICES);
    DML_CHECK_OK(cuda->choices(leader, choices, &bytes));
    DML_CHECK_OK(cuda->choose(worker, choices, bytes));
    DML_CHECK_OK(forward(worker, &l));
    DML_CHECK_OK(cuda->choices(worker, again, &bytes_again));
    DML_CHECK_EQ(bytes, bytes_again);
    DML_CHECK(memcmp(choices, again, (size_t)bytes) == 0);
    DML_CHECK(cuda->choose(worker, choices, bytes - 1) != DML_ERR_OK);
    wait_for_queue();
    cuda->close(worker);
    cuda->close(leader);
    unmake(&l);
}

static void a_misaligned_tensor_is_our_bug(void **state)
{
    (void)state;
    layer l = make(DML_F32, 2, 5, 8, 4), off = l;
    off.device[X].data = (char *)l.device[X].data + sizeof(float);
    dml_kctx *k = opened(false);
    DML_CHECK_FAILS(DML_ERR_BUG, "conv2d_fwd: a tensor is not aligned to 16 bytes",
                    forward(k, &off));
    DML_CHECK_FAILS(DML_ERR_BUG, "conv2d_bwd_weight: a tensor is not aligned", grads(k, &off));
    cuda->close(k);
    unmake(&l);
}

/* ---- batch norm ---- */

enum { ROWS = 37, CHANNELS = 12, NORM = ROWS * CHANNELS };

/* y, mean, var, then dx, dgamma, dbeta of one batch norm over x, one after another. */
typedef struct normed {
    float y[NORM], mean[CHANNELS], var[CHANNELS], dx[NORM], dgamma[CHANNELS], dbeta[CHANNELS];
} normed;

static dml_tensor part(void *base, size_t offset, int64_t rows, int64_t channels)
{
    const int64_t dim[] = {rows, channels};
    void *at = (char *)base + offset;
    return rows > 0 ? dml_tensor_of(at, DML_F32, 2, dim) : dml_tensor_of(at, DML_F32, 1, dim + 1);
}

#define PART(base, type, field, rows) part((base), offsetof(type, field), (rows), channels)

typedef struct norm_inputs {
    float x[NORM], dy[NORM], gamma[CHANNELS], beta[CHANNELS];
} norm_inputs;

/* Forward, and backward from its moments, on the device. */
static void normalise(bool by_library, int64_t channels, const norm_inputs *in, normed *out)
{
    DML_CHECK_EQ(0, by_library ? setenv("DML_CUDA_NORM", "library", 1) : unsetenv("DML_CUDA_NORM"));
    dml_kctx *k = opened(false);
    void *a, *b;
    DML_CHECK_OK(api->alloc(device, sizeof *in, &a));
    DML_CHECK_OK(api->alloc(device, sizeof *out, &b));
    DML_CHECK_OK(api->copy(queue, a, in, sizeof *in));
    wait_for_queue();
    const int64_t rows = NORM / channels;
    const dml_tensor x = PART(a, norm_inputs, x, rows), dy = PART(a, norm_inputs, dy, rows);
    const dml_tensor gamma = PART(a, norm_inputs, gamma, 0), beta = PART(a, norm_inputs, beta, 0);
    const dml_tensor y = PART(b, normed, y, rows), dx = PART(b, normed, dx, rows);
    const dml_tensor mean = PART(b, normed, mean, 0), var = PART(b, normed, var, 0);
    const dml_tensor dgamma = PART(b, normed, dgamma, 0), dbeta = PART(b, normed, dbeta, 0);
    DML_CHECK_OK(cuda->batch_norm_fwd(k, 1e-5f, &y, &mean, &var, &x, &gamma, &beta));
    DML_CHECK_OK(
        cuda->batch_norm_bwd(k, 1e-5f, &dx, &dgamma, &dbeta, &dy, &x, &mean, &var, &gamma));
    DML_CHECK_OK(api->copy(queue, out, b, sizeof *out));
    wait_for_queue();
    int64_t choices = 0, none = 0;
    DML_CHECK_OK(cuda->choices(k, NULL, &choices));
    dml_kctx *fresh = opened(false);
    DML_CHECK_OK(cuda->choices(fresh, NULL, &none));
    DML_CHECK_EQ(by_library && channels % 4 == 0, choices > none + 256); /* two plans, or none */
    cuda->close(fresh);
    api->free(device, b);
    api->free(device, a);
    cuda->close(k);
    unsetenv("DML_CUDA_NORM");
}

static void the_library_s_batch_norm_agrees_with_ours_or_is_not_used(void **state)
{
    (void)state;
    static norm_inputs in;
    static normed ours, library;
    float *at = (float *)&in;
    for (size_t i = 0; i < sizeof in / sizeof(float); i++)
        at[i] = (float)((i * 7919) % 997) / 300.0f - 1.0f;
    for (int64_t channels = CHANNELS; channels >= 3; channels /= 4) { /* 12, which it has, and 3 */
        normalise(false, channels, &in, &ours);
        normalise(true, channels, &in, &library);
        const float *a = (const float *)&ours, *b = (const float *)&library;
        for (size_t i = 0; i < sizeof ours / sizeof(float); i++)
            if (!(fabsf(a[i] - b[i]) <= 1e-5f * (1.0f + fabsf(a[i]))))
                fail_msg("%lld channels: value %zu is %g, ours %g", (long long)channels, i,
                         (double)b[i], (double)a[i]);
    }
}

static void batch_norm_by_the_library_is_planned_without_data(void **state)
{
    (void)state;
    DML_CHECK_EQ(0, setenv("DML_CUDA_NORM", "library", 1));
    dml_kctx *k = opened(true);
    void *const nowhere = (void *)(uintptr_t)4096;
    const int64_t channels = CHANNELS;
    const dml_tensor x = part(nowhere, 0, ROWS, channels), c = part(nowhere, 0, 0, channels);
    DML_CHECK_OK(cuda->batch_norm_fwd(k, 1e-5f, &x, &c, &c, &x, &c, &c));
    DML_CHECK_OK(cuda->batch_norm_bwd(k, 1e-5f, &x, &c, &c, &x, &x, &c, &c, &c));
    wait_for_queue();
    cuda->close(k);
    unsetenv("DML_CUDA_NORM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_many_channels_and_rows_are_the_reference_s),
        cmocka_unit_test(once_sealed_known_shapes_run_and_new_ones_are_our_bug),
        cmocka_unit_test(a_context_that_only_plans_touches_nothing),
        cmocka_unit_test(what_a_leader_planned_is_chosen_by_a_worker),
        cmocka_unit_test(a_misaligned_tensor_is_our_bug),
        cmocka_unit_test(the_library_s_batch_norm_agrees_with_ours_or_is_not_used),
        cmocka_unit_test(batch_norm_by_the_library_is_planned_without_data),
    };
    return cmocka_run_group_tests(tests, set_up, take_down);
}
