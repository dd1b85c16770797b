/* Throwing activations away and making them again changes no bit, and takes the memory that the plan says. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include <stdatomic.h>
#include <stdlib.h>

#define U_NET DML_SOURCE_DIR "/tests/specs/u-net.yaml"
#define TINY  DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static const char *const policies[] = {"none", "full", "selective", "except_last"};
enum { POLICIES = sizeof policies / sizeof *policies };

static const layout layouts[] = {
    {"1", "1", "sequential", "1"},
    {"4", "1", "gpipe", "1"},
    {"2", "2", "1f1b", "1"},
    {"2", "1", "interleaved_1f1b x2", "1"},
    {"3", "1", "zb_h1", "1"},
    {"2", "1", "interleaved_zb x2", "1"},
    {"2", "2", "chimera", "1"},
    {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]", "-", "auto", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static run_result run_policy(const layout *l, const char *policy, const char *const *more)
{
    char recompute[64];
    snprintf(recompute, sizeof recompute, "parallelism.recompute=%s", policy);
    const char *extra[8] = {recompute};
    for (int n = 1; more && *more; n++)
        extra[n] = *more++;
    return run_layout(TINY, l, extra);
}

static void every_policy_has_the_same_bits_under_every_schedule(void **state)
{
    (void)state;
    static const char *const more[] = {"training.max_steps=2", NULL};
    const run_result want = run_policy(&layouts[0], "none", more);
    for (int32_t k = 1; k < POLICIES; k++)
        for (int32_t l = 0; l < LAYOUTS; l++) {
            const run_result r = run_policy(&layouts[l], policies[k], more);
            expect_same(&want, &r, &layouts[l]);
        }
}

static void a_short_last_batch_too(void **state)
{
    (void)state;
    static const char *const more[] = {"data.last_batch=short", "training.max_steps=5", NULL};
    const run_result want = run_policy(&layouts[0], "none", more);
    for (int32_t k = 1; k < POLICIES; k++) {
        const run_result r = run_policy(&layouts[2], policies[k], more);
        expect_same(&want, &r, &layouts[2]);
    }
}

/* Fused activations, buckets, a batch that is converted: the bits of that layout without recomputation. */
static void fast_mode_too(void **state)
{
    (void)state;
    static const char *const precision[] = {"training.precision=fp32", "training.precision=bf16"};
    for (int32_t k = 1; k < POLICIES; k++) {
        const char *const more[] = {"training.numerics=fast", precision[k % 2],
                                    "comm.first_bucket_bytes=1", "training.max_steps=2", NULL};
        const layout *l = &layouts[k % 2 ? 2 : 3];
        const run_result want = run_policy(l, "none", more), r = run_policy(l, policies[k], more);
        expect_same(&want, &r, l);
    }
}

/* Asynchronous: RC reads the weights that its forward read. */
static void late_weights_are_those_of_the_forward(void **state)
{
    (void)state;
    static const layout late[] = {{"4", "1", "pipedream", "1"}, {"3", "1", "2bw", "1"}};
    static const char *const more[2][5] = {
        {"training.numerics=exact_wide", "training.global_batch_size=3", "training.max_steps=7"},
        {"training.numerics=exact_wide", "training.max_steps=4"}};
    for (int32_t l = 0; l < 2; l++) {
        const run_result want = run_policy(&late[l], "none", more[l]);
        for (int32_t k = 1; k < POLICIES; k++) {
            const run_result r = run_policy(&late[l], policies[k], more[l]);
            expect_same(&want, &r, &late[l]);
        }
    }
}

/* ---- memory, by the allocators' own count ---- */

enum { MOST_BLOCKS = 64 };

/* What one thread, a worker, allocated: device memory, and in each transport. */
typedef struct taken {
    int64_t device[MOST_BLOCKS], shared[MOST_BLOCKS];
    const dml_transport *transport[MOST_BLOCKS];
    int32_t n_device, n_shared;
} taken;

static taken all_taken[DML_HOST_WORKERS];
static atomic_int n_taken;
static _Thread_local taken *own;
static const dml_backend *real; /* not NULL: counting */

static taken *taken_here(void)
{
    if (!own) own = &all_taken[atomic_fetch_add(&n_taken, 1)];
    return own;
}

dml_err __real_dml_host_alloc(dml_transport *t, int64_t bytes, void **out);
dml_err __wrap_dml_host_alloc(dml_transport *t, int64_t bytes, void **out);

dml_err __wrap_dml_host_alloc(dml_transport *t, int64_t bytes, void **out)
{
    if (!real) return __real_dml_host_alloc(t, bytes, out);
    taken *k = taken_here();
    DML_CHECK(k->n_shared < MOST_BLOCKS);
    k->transport[k->n_shared] = t;
    k->shared[k->n_shared++] = bytes;
    return __real_dml_host_alloc(t, bytes, out);
}

static dml_err count_alloc(dml_device *device, int64_t bytes, void **out)
{
    taken *k = taken_here();
    DML_CHECK(k->n_device < MOST_BLOCKS);
    k->device[k->n_device++] = bytes;
    return real->device->alloc(device, bytes, out);
}

static const dml_backend *counted(void *context, const dml_backend *backend)
{
    (void)context;
    static dml_device_api device;
    static dml_backend b;
    real = backend;
    device = *backend->device;
    device.alloc = count_alloc;
    b = *backend;
    b.device = &device;
    return &b;
}

/* Of each worker, in the order of their activations. */
typedef struct figures {
    int64_t activations, all;
} figures;

static figures planned[DML_HOST_WORKERS];
static int32_t chunks_held[DML_HOST_WORKERS], workers;

static void note_plan(void *context, dml_plan *plan)
{
    (void)context;
    workers = plan->workers;
    for (int32_t w = 0; w < workers; w++) {
        dml_plan_memory m;
        DML_CHECK_OK(dml_plan_memory_of(plan, w, &m));
        planned[w] = (figures){m.activation_bytes, m.activation_bytes + m.state_bytes};
        chunks_held[w] = 0;
        for (int32_t s = 0; s < plan->stages; s++)
            chunks_held[w] += dml_plan_holds(plan, w, s);
        DML_CHECK_EQ(chunks_held[0], chunks_held[w]);
    }
}

static int by_figures(const void *a, const void *b)
{
    const figures *x = a, *y = b;
    if (x->activations != y->activations) return x->activations < y->activations ? -1 : 1;
    return (x->all > y->all) - (x->all < y->all);
}

/* A worker's first slab is state and its second activations; of what it takes from the transport of tensors the first
 * block of each chunk is state, the rest slots. */
static figures measured(const taken *k)
{
    DML_CHECK_EQ(2, k->n_device);
    figures f = {.activations = k->device[1], .all = k->device[0] + k->device[1]};
    int32_t seen = 0;
    for (int32_t i = 0; i < k->n_shared; i++) {
        if (k->transport[i] != k->transport[k->n_shared - 1]) continue; /* votes */
        f.all += k->shared[i];
        if (seen++ >= chunks_held[0]) f.activations += k->shared[i];
    }
    return f;
}

static int64_t expect_planned(const char *spec, const char *split, const char *schedule,
                              const char *policy)
{
    char s[64], r[64];
    snprintf(s, sizeof s, "parallelism.schedule=%s", schedule);
    snprintf(r, sizeof r, "parallelism.recompute=%s", policy);
    const char *const overrides[] = {s,
                                     r,
                                     "training.numerics=exact_wide",
                                     "parallelism.pipeline_parallel_size=4",
                                     split,
                                     "training.max_steps=1",
                                     NULL};
    memset(all_taken, 0, sizeof all_taken);
    atomic_store(&n_taken, 0);
    const run_result run =
        run_threads_hooked(spec, overrides, (run_hooks){.plan = note_plan, .backend = counted});
    if (run.err != DML_ERR_OK) fail_msg("%s, %s: %s", schedule, policy, run.trail);
    DML_CHECK_EQ(workers, atomic_load(&n_taken));
    figures got[DML_HOST_WORKERS];
    int64_t sum = 0;
    for (int32_t w = 0; w < workers; w++) {
        got[w] = measured(&all_taken[w]);
        sum += got[w].activations;
    }
    qsort(got, (size_t)workers, sizeof *got, by_figures);
    qsort(planned, (size_t)workers, sizeof *planned, by_figures);
    for (int32_t w = 0; w < workers; w++) {
        DML_CHECK_EQ(planned[w].activations, got[w].activations);
        DML_CHECK_EQ(planned[w].all, got[w].all);
    }
    return sum;
}

static void workers_allocate_what_the_plan_says_to_the_byte(void **state)
{
    (void)state;
    static const char *const schedules[] = {"gpipe", "1f1b", "zb_h1", "chimera", "2bw"};
    for (size_t s = 0; s < sizeof schedules / sizeof *schedules; s++) {
        int64_t bytes[POLICIES];
        for (int32_t k = 0; k < POLICIES; k++)
            bytes[k] = expect_planned(TINY, "parallelism.split=uniform", schedules[s], policies[k]);
        DML_CHECK(bytes[1] < bytes[2] && bytes[2] < bytes[0]); /* full, selective, none */
        /* Where few are in flight, the one micro-batch that is spared is most of them. */
        if (s == 0) DML_CHECK(bytes[1] < bytes[3] && bytes[3] < bytes[0]);
        for (int32_t k = 0; k < POLICIES; k++) /* values that pass stages over */
            expect_planned(U_NET, "parallelism.split=[4, 4, 6, 10]", schedules[s], policies[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_has_the_same_bits_under_every_schedule),
        cmocka_unit_test(a_short_last_batch_too),
        cmocka_unit_test(fast_mode_too),
        cmocka_unit_test(late_weights_are_those_of_the_forward),
        cmocka_unit_test(workers_allocate_what_the_plan_says_to_the_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
