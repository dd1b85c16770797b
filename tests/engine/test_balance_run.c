/* tests/engine/test_balance_run.c - whole runs whose workers slow down: plans follow, bits do not change.
 *
 * Speeds are emulated by delays.  How long anything takes is not looked at, only what was decided. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#define SPEC DML_SOURCE_DIR "/tests/specs/changes.yaml"

/* What was decided in a run. */
typedef struct decisions {
    int32_t windows, changes;
    int32_t share[3]; /* of three replicas, after the first window that ended at or after `from` */
    int64_t from, step;
    bool recut;
} decisions;

static void take(void *context, const dml_balance_record *b)
{
    decisions *d = context;
    d->windows++;
    d->changes += (int32_t)b->changed;
    DML_CHECK(b->entropy > 0.0 && b->entropy <= 1.0 + 1e-9);
    DML_CHECK(!b->changed || b->planned_step_time_s < b->step_time_s);
    d->recut |= strcmp(b->split, b->planned_split) != 0;
    if (d->step > 0 || b->step < d->from) return;
    d->step = b->step;
    sscanf(b->planned_shares, "%d:%d:%d", &d->share[0], &d->share[1], &d->share[2]);
}

static run_result run(const char *const *overrides, decisions *d)
{
    const run_hooks hooks = {.balance = take, .context = d};
    const run_result r = run_threads_hooked(SPEC, overrides, hooks);
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    return r;
}

static void shares_follow_speeds_and_bits_stay(void **state)
{
    (void)state;
    static const layout l = {"1", "3", "1f1b", "1"};
    static const char *const dynamic[] = {"training.max_steps=32", NULL},
                             *const still[] = {"training.max_steps=32",
                                               "parallelism.balance=static", NULL};
    decisions d = {0}, none = {0};
    const run_result expected = run(still, &none), r = run(dynamic, &d);
    DML_CHECK_EQ(0, none.windows);
    DML_CHECK(d.changes >= 2);
    /* one that was decided in the last steps comes too late */
    DML_CHECK(r.changes == d.changes || r.changes == d.changes - 1);
    expect_same(&expected, &r, &l);
}

/* Worker 2 falls to half its speed at step 10: within ten steps it has half of the others' share. */
static void a_worker_that_slows_down_is_relieved_within_ten_steps(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "training.max_steps=24",
        "cluster.slow=[{worker: 2, speed: 0.5, step: 10}]",
        "parallelism.balance_interval=5",
        "training.global_batch_size=30",
        "model.layers=[{delay: {forward: 2ms, input: 2ms, weight: 2ms}}, {linear: 4}]",
        NULL};
    decisions d = {.from = 15}; /* whose window saw nothing but the slow worker */
    run(overrides, &d);
    DML_CHECK(d.step > 0 && d.step < 20);
    DML_CHECK(d.share[2] <= 4 && d.share[2] < d.share[0] && d.share[2] < d.share[1]); /* 6:6:3 */
}

static void stages_are_cut_anew_where_a_stage_is_slow(void **state)
{
    (void)state;
    static const char layer[] = "{delay: {forward: 1ms, input: 1ms, weight: 1ms}}";
    char layers[512];
    snprintf(layers, sizeof layers, "model.layers=[%s, %s, %s, %s, %s, %s, {linear: 4}]", layer,
             layer, layer, layer, layer, layer);
    const char *const overrides[] = {"training.max_steps=16",
                                     "cluster.slow=[{worker: 1, speed: 0.5, step: 0}]",
                                     "parallelism.dp=1",
                                     "parallelism.pp=2",
                                     "parallelism.split=[3, 4]",
                                     layers,
                                     NULL};
    decisions d = {0};
    const run_result r = run(overrides, &d);
    DML_CHECK(d.changes >= 1);
    DML_CHECK(d.recut);
    DML_CHECK(r.has_eval);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_follow_speeds_and_bits_stay),
        cmocka_unit_test(a_worker_that_slows_down_is_relieved_within_ten_steps),
        cmocka_unit_test(stages_are_cut_anew_where_a_stage_is_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
