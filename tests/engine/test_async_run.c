/* Asynchronous runs: where they must equal each other, or the sequential loop, bit for bit; what they keep; how they end.
 * test_async.c compares every update with a reference of the recurrence. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/update.h"

#include <math.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

#define WIDE "training.numerics=exact_wide"
#define ONE  "training.global_batch_size=3" /* one micro-batch */

static const char *const eight_steps[] = {WIDE, "training.max_steps=8", NULL};

/* ---- against the sequential loop ---- */

static void one_stage_is_never_late(void **state)
{
    (void)state;
    static const layout sync = {"1", "1", "1f1b", "1"}, async = {"1", "1", "pipedream", "1"};
    static const char *const extra[] = {WIDE, ONE, "training.max_steps=13",
                                        "parallelism.drain_interval=5", NULL};
    const run_result a = run_layout(TINY, &sync, extra), b = run_layout(TINY, &async, extra);
    expect_same(&a, &b, &async);
}

static void a_drain_after_every_step_makes_it_synchronous(void **state)
{
    (void)state;
    static const layout layouts[] = {
        {"1", "1", "1f1b", "1"}, {"4", "1", "pipedream", "1"}, {"3", "1", "2bw", "1"}};
    static const char *const extra[] = {WIDE, ONE, "training.max_steps=7",
                                        "parallelism.drain_interval=1", NULL};
    static const char *const batch[] = {WIDE, "training.max_steps=4",
                                        "parallelism.drain_interval=1", NULL};
    expect_all_same(TINY, layouts, 2, extra);
    const run_result a = run_layout(TINY, &layouts[0], batch),
                     b = run_layout(TINY, &layouts[2], batch);
    expect_same(&a, &b, &layouts[2]);
}

static void stages_that_are_late_end_elsewhere(void **state)
{
    (void)state;
    static const layout one = {"1", "1", "1f1b", "1"}, four = {"4", "1", "pipedream", "1"};
    static const char *const extra[] = {WIDE, ONE, "training.max_steps=13", NULL};
    const run_result a = run_layout(TINY, &one, extra), b = run_layout(TINY, &four, extra);
    DML_CHECK(a.weights_hash != b.weights_hash);
    DML_CHECK(memcmp(&a.step[0].loss, &b.step[0].loss, sizeof(double)) ==
              0); /* nothing was late yet */
}

/* ---- against each other ---- */

/* Every stage is one update late, however many there are. */
static const layout batches[] = {
    {"1", "1", "2bw", "1"}, {"2", "1", "2bw", "1"}, {"4", "1", "2bw", "1"}, {"6", "1", "2bw", "1"},
    {"1", "2", "2bw", "1"}, {"2", "2", "2bw", "1"}, {"4", "2", "2bw", "1"},
};
enum { BATCHES = sizeof batches / sizeof *batches };

static void batches_read_one_version_on_any_layout(void **state)
{
    (void)state;
    expect_all_same(TINY, batches, BATCHES, eight_steps);
}

static void clipping_them_too(void **state)
{
    (void)state;
    static const char *const extra[] = {WIDE,
                                        "training.max_steps=8",
                                        "training.grad_clip=0.5",
                                        "optimizer.name=adamw",
                                        "optimizer.lr=0.01",
                                        NULL};
    const run_result r = expect_all_same(TINY, batches, BATCHES, extra);
    const run_result free = run_layout(TINY, &batches[1], eight_steps);
    DML_CHECK(r.weights_hash != free.weights_hash);
    DML_CHECK(r.step[0].grad_norm > 0.5); /* so it was clipped */
}

/* The last step of an epoch has one micro-batch: the second replica adds nothing, not what it added before. */
static void short_last_batches_too(void **state)
{
    (void)state;
    static const char *const extra[] = {WIDE,
                                        "training.max_steps=11",
                                        "data.samples=99",
                                        "data.last_batch=short",
                                        "parallelism.drain_interval=3",
                                        NULL};
    const run_result r = expect_all_same(TINY, batches, BATCHES, extra);
    DML_CHECK_EQ(3, r.step[4].samples);
}

static void buckets_of_a_layer_too(void **state)
{
    (void)state;
    static const char *const extra[] = {WIDE,
                                        "training.max_steps=5",
                                        "data.samples=99",
                                        "data.last_batch=short",
                                        "comm.first_bucket_bytes=1",
                                        "comm.bucket_bytes=1",
                                        NULL};
    expect_all_same(TINY, batches, BATCHES, extra);
}

/* Skips carry values and gradients of the version that their micro-batch reads. */
static void stages_cut_inside_a_block_too(void **state)
{
    (void)state;
    static const layout one = {"1", "1", "2bw", "1"}, four = {"4", "1", "2bw", "1"};
    const char *extra[] = {WIDE, "training.max_steps=8", NULL, NULL};
    const run_result a = run_layout(TINY, &one, extra);
    extra[2] = "parallelism.split=[3, 4, 4, 8]";
    const run_result b = run_layout(TINY, &four, extra);
    expect_same(&a, &b, &four);
}

static void activations_of_two_bytes_too(void **state)
{
    (void)state;
    static const char *const extra[] = {WIDE, "training.max_steps=6", "training.precision=bf16",
                                        NULL};
    expect_all_same(TINY, batches, BATCHES, extra);
}

/* With vertical sync the delay is that of the number of stages, wherever they are cut. */
static void vertical_sync_does_not_see_the_cut(void **state)
{
    (void)state;
    static const layout four = {"4", "1", "pipedream", "1"};
    const char *extra[] = {WIDE,
                           ONE,
                           "training.max_steps=12",
                           "parallelism.vertical_sync=true",
                           "parallelism.split=[3, 8, 5, 3]",
                           NULL};
    const run_result a = run_layout(TINY, &four, extra);
    extra[4] = "parallelism.split=[2, 1, 8, 8]";
    const run_result b = run_layout(TINY, &four, extra);
    expect_same(&a, &b, &four);
    extra[3] = "parallelism.vertical_sync=false";
    const run_result c = run_layout(TINY, &four, extra);
    DML_CHECK(a.weights_hash != c.weights_hash);
}

/* What is made again is made from the weights that it was made from. */
static void recomputed_activations_read_the_version_of_their_forward(void **state)
{
    (void)state;
    static const layout four = {"4", "1", "pipedream", "1"};
    const char *extra[] = {WIDE, ONE, "training.max_steps=12", NULL, NULL};
    const run_result kept = run_layout(TINY, &four, extra);
    static const char *const policies[] = {"full", "selective", "except_last"};
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        char policy[64];
        snprintf(policy, sizeof policy, "parallelism.recompute=%s", policies[k]);
        extra[3] = policy;
        const run_result r = run_layout(TINY, &four, extra);
        expect_same(&kept, &r, &four);
    }
}

/* An evaluation drains: as if segments were that short. */
static void a_segment_ends_where_evaluation_is(void **state)
{
    (void)state;
    static const layout three = {"3", "1", "pipedream", "1"};
    const char *extra[] = {WIDE,
                           ONE,
                           "training.max_steps=15",
                           "data.samples=15",
                           "training.eval_interval=1 epoch",
                           "parallelism.drain_interval=64",
                           NULL};
    const run_result a = run_layout(TINY, &three, extra);
    extra[5] = "parallelism.drain_interval=5";
    const run_result b = run_layout(TINY, &three, extra);
    expect_same(&a, &b, &three);
    extra[4] = "training.eval_interval=0";
    extra[5] = "parallelism.drain_interval=64";
    const run_result c = run_layout(TINY, &three, extra);
    DML_CHECK(a.weights_hash != c.weights_hash);
}

/* Rank 0 reports the steps of a segment after its drain, so the first that a test sees is followed by the rest. */
static void stop_soon(void *context, int64_t step, dml_control *control)
{
    (void)context;
    (void)step;
    atomic_store(&control->stop, 1);
}

static void a_run_that_is_asked_to_stop_ends_at_a_drain(void **state)
{
    (void)state;
    static const char *const extra[] = {"parallelism.pp=3",
                                        "parallelism.schedule=pipedream",
                                        WIDE,
                                        ONE,
                                        "training.max_steps=40",
                                        "training.eval_interval=0",
                                        "parallelism.drain_interval=4",
                                        NULL};
    const run_result r = run_threads_hooked(TINY, extra, (run_hooks){.step = stop_soon});
    DML_CHECK_OK(r.err);
    DML_CHECK_EQ(8,
                 r.steps); /* asked in the report of segment one, heard at the end of segment two */
    DML_CHECK(!r.has_eval);
}

/* ---- memory ---- */

typedef struct buffers {
    int32_t versions[4], sums[4];
    int64_t bytes[4]; /* device memory of weights alone */
} buffers;

static void count_buffers(void *context, const dml_chunk *c, bool after)
{
    buffers *b = context;
    if (after) return;
    int32_t s = 0; /* stages begin at these layers */
    static const int32_t begin[] = {0, 3, 11, 16};
    while (begin[s] != c->layer_begin)
        s++;
    b->versions[s] = c->versions;
    b->sums[s] = c->sums;
    b->bytes[s] = (const char *)(c->m ? c->m : c->v) - (const char *)c->w;
    DML_CHECK_EQ(c->versions * c->arena_elems * (int64_t)sizeof(float), b->bytes[s]);
}

static buffers buffers_of(const char *schedule, const char *batch, const char *sync)
{
    char name[64];
    snprintf(name, sizeof name, "parallelism.schedule=%s", schedule);
    const char *const extra[] = {name,
                                 batch,
                                 sync,
                                 "parallelism.pp=4",
                                 "parallelism.split=[3, 8, 5, 3]",
                                 WIDE,
                                 "training.max_steps=10",
                                 NULL};
    buffers b = {0};
    const run_result r =
        run_threads_hooked(TINY, extra, (run_hooks){.inspect = count_buffers, .context = &b});
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    return b;
}

static void a_stage_keeps_as_many_versions_as_it_needs(void **state)
{
    (void)state;
    const buffers plain = buffers_of("pipedream", ONE, "parallelism.vertical_sync=false"),
                  sync = buffers_of("pipedream", ONE, "parallelism.vertical_sync=true"),
                  batch = buffers_of("2bw", "training.global_batch_size=12",
                                     "parallelism.vertical_sync=false"),
                  flushed = buffers_of("1f1b", "training.global_batch_size=12",
                                       "parallelism.vertical_sync=false");
    for (int32_t s = 0; s < 4; s++) {
        DML_CHECK_EQ(4 - s, plain.versions[s]);
        DML_CHECK_EQ(1, plain.sums[s]);
        DML_CHECK(sync.versions[s] + sync.sums[s] >= 4 + 1);
        DML_CHECK_EQ(2, batch.versions[s]);
        DML_CHECK_EQ(1, flushed.versions[s]);
        DML_CHECK_EQ((4 - s) * flushed.bytes[s], plain.bytes[s]);
        DML_CHECK_EQ(2 * flushed.bytes[s], batch.bytes[s]);
    }
}

static int64_t planned[DML_HOST_WORKERS];

static void note_memory(void *context, dml_plan *plan)
{
    (void)context;
    for (int32_t w = 0; w < plan->workers; w++)
        planned[w] = dml_plan_worker_bytes(plan, w);
}

static void memory_is_planned_to_the_byte(void **state)
{
    (void)state;
    static const char *const numerics[] = {WIDE, "training.numerics=fast"},
                             *const precision[] = {"training.precision=fp32",
                                                   "training.precision=bf16"},
                             *const recompute[] = {"parallelism.recompute=none",
                                                   "parallelism.recompute=full"};
    for (int32_t k = 0; k < 8; k++) {
        const char *const extra[] = {numerics[k & 1],
                                     precision[k >> 1 & 1],
                                     recompute[k >> 2],
                                     ONE,
                                     "parallelism.schedule=pipedream",
                                     "parallelism.pp=4",
                                     "training.max_steps=9",
                                     NULL};
        const run_result r = run_threads_hooked(TINY, extra, (run_hooks){.plan = note_memory});
        if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
        for (int32_t w = 0; w < r.workers; w++)
            DML_CHECK_EQ(planned[w], r.end[w].memory_bytes);
    }
}

/* ---- what is not finite ---- */

static void poison(void *context, const dml_chunk *chunk, bool after)
{
    (void)context;
    if (!after && chunk->param_begin == 0) chunk->w[0] = NAN;
}

static void without_votes_a_loss_that_is_not_finite_ends_the_run(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.pp=3",
                                            "parallelism.schedule=pipedream",
                                            WIDE,
                                            ONE,
                                            "training.max_steps=30",
                                            NULL};
    const run_result r = run_threads_hooked(TINY, overrides, (run_hooks){.inspect = poison});
    DML_CHECK_EQ(DML_ERR_DIVERGED, r.err);
    DML_CHECK(strstr(r.trail, "loss or gradients of step 1 were not finite"));
    DML_CHECK(strstr(r.trail, "parallelism.vertical_sync"));
    DML_CHECK_EQ(0, r.steps);
}

static void with_votes_such_steps_are_left_out(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.pp=3",
                                            "parallelism.schedule=pipedream",
                                            "parallelism.vertical_sync=true",
                                            WIDE,
                                            ONE,
                                            "training.max_steps=30",
                                            NULL};
    const run_result r = run_threads_hooked(TINY, overrides, (run_hooks){.inspect = poison});
    DML_CHECK_EQ(DML_ERR_DIVERGED, r.err);
    DML_CHECK(strstr(r.trail, "steps in a row"));
    DML_CHECK_EQ(6, r.steps);
    for (int64_t s = 0; s < r.steps; s++)
        DML_CHECK_EQ(DML_SKIP, r.step[s].verdict);
}

/* ---- what is refused ---- */

static void refused(const char *text, const char *a, const char *b, const char *c)
{
    const char *const overrides[] = {"parallelism.pp=4", "training.numerics=fast", a, b, c};
    int32_t n = 2;
    while (n < 5 && overrides[n])
        n++;
    dml_spec spec;
    dml_plan plan;
    DML_CHECK_OK(dml_spec_load(TINY, overrides, n, &spec));
    DML_CHECK_FAILS(DML_ERR_SPEC, text, dml_plan_make(&spec, &plan));
    dml_spec_free(&spec);
}

static void what_cannot_be_late_is_refused_with_what_can(void **state)
{
    (void)state;
    static const char pipedream[] = "parallelism.schedule=pipedream",
                      two[] = "parallelism.schedule=2bw";
    refused("exact_wide needs no second run", two, "training.numerics=exact", NULL);
    refused("bf16 needs no loss scale", two, "training.precision=fp16", NULL);
    refused("micro_batch_size x data_parallel_size = 3, or micro_batch_size 24", pipedream, NULL,
            NULL);
    refused("parallelism.vertical_sync: true makes one", pipedream, ONE, "training.grad_clip=1");
    refused("global_batch_size 12 would do", two, "training.global_batch_size=9", NULL);
    refused("all stages read one version anyway", two, "parallelism.vertical_sync=true", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_stage_is_never_late),
        cmocka_unit_test(a_drain_after_every_step_makes_it_synchronous),
        cmocka_unit_test(stages_that_are_late_end_elsewhere),
        cmocka_unit_test(batches_read_one_version_on_any_layout),
        cmocka_unit_test(clipping_them_too),
        cmocka_unit_test(short_last_batches_too),
        cmocka_unit_test(buckets_of_a_layer_too),
        cmocka_unit_test(stages_cut_inside_a_block_too),
        cmocka_unit_test(activations_of_two_bytes_too),
        cmocka_unit_test(vertical_sync_does_not_see_the_cut),
        cmocka_unit_test(a_segment_ends_where_evaluation_is),
        cmocka_unit_test(a_run_that_is_asked_to_stop_ends_at_a_drain),
        cmocka_unit_test(a_stage_keeps_as_many_versions_as_it_needs),
        cmocka_unit_test(memory_is_planned_to_the_byte),
        cmocka_unit_test(recomputed_activations_read_the_version_of_their_forward),
        cmocka_unit_test(without_votes_a_loss_that_is_not_finite_ends_the_run),
        cmocka_unit_test(with_votes_such_steps_are_left_out),
        cmocka_unit_test(what_cannot_be_late_is_refused_with_what_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
