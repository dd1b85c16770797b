/* Exact mode: one weights hash, one loss, one test result, whatever the layout and the schedule. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include <inttypes.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

typedef struct layout {
    const char *pp, *dp, *schedule;
} layout;

static const layout layouts[] = {
    {"1", "1", "1f1b"},  {"1", "1", "gpipe"},         {"4", "1", "1f1b"},
    {"4", "1", "gpipe"}, {"4", "1", "gpipe_reverse"}, {"4", "1", "sequential"},
    {"2", "2", "1f1b"},  {"2", "2", "gpipe_reverse"}, {"2", "2", "sequential"},
    {"1", "4", "1f1b"},  {"1", "8", "gpipe"},         {"3", "2", "1f1b"},
    {"3", "2", "gpipe"}, {"3", "4", "gpipe_reverse"},
};

static run_result run_layout(const layout *l, const char *const *extra)
{
    char pp[64], dp[64], schedule[64];
    snprintf(pp, sizeof pp, "parallelism.pipeline_parallel_size=%s", l->pp);
    snprintf(dp, sizeof dp, "parallelism.data_parallel_size=%s", l->dp);
    snprintf(schedule, sizeof schedule, "parallelism.schedule=%s", l->schedule);
    const char *overrides[16] = {pp, dp, schedule};
    int n = 3;
    while (extra && *extra && n < 15)
        overrides[n++] = *extra++;
    const run_result r = run_threads(TINY, overrides);
    if (r.err != DML_ERR_OK)
        fail_msg("pp %s dp %s %s: %s: %s", l->pp, l->dp, l->schedule, dml_err_text(r.err), r.trail);
    return r;
}

static void expect_same(const run_result *a, const run_result *b, const layout *l)
{
    DML_CHECK_EQ(a->steps, b->steps);
    for (int64_t i = 0; i < a->steps; i++) {
        DML_CHECK(memcmp(&a->step[i].loss, &b->step[i].loss, sizeof(double)) == 0);
        DML_CHECK(memcmp(&a->step[i].grad_norm, &b->step[i].grad_norm, sizeof(double)) == 0);
        DML_CHECK_EQ(a->step[i].correct, b->step[i].correct);
    }
    DML_CHECK(memcmp(&a->eval.loss, &b->eval.loss, sizeof(double)) == 0);
    DML_CHECK_EQ(a->eval.correct, b->eval.correct);
    if (a->weights_hash != b->weights_hash)
        fail_msg("pp %s dp %s %s: weights %016" PRIx64 ", not %016" PRIx64, l->pp, l->dp,
                 l->schedule, b->weights_hash, a->weights_hash);
}

static void expect_all_same(const char *const *extra)
{
    const run_result one = run_layout(&layouts[0], extra);
    DML_CHECK(one.has_eval);
    DML_CHECK_EQ(37, one.eval.samples);
    for (size_t i = 1; i < sizeof layouts / sizeof *layouts; i++) {
        const run_result r = run_layout(&layouts[i], extra);
        expect_same(&one, &r, &layouts[i]);
    }
}

static void every_layout_ends_with_the_same_bits(void **state)
{
    (void)state;
    expect_all_same(NULL);
}

static void adamw_with_clipping_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"optimizer.name=adamw", "optimizer.lr=0.01",
                                        "training.grad_clip=0.1", "optimizer.weight_decay=0.1",
                                        NULL};
    expect_all_same(extra);
}

static void a_short_last_batch_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"data.last_batch=short", "training.max_steps=11", NULL};
    const run_result one = run_layout(&layouts[0], extra);
    DML_CHECK_EQ(24, one.step[3].samples);
    DML_CHECK_EQ(100 - 4 * 24, one.step[4].samples);
    expect_all_same(extra);
}

static void fast_mode_repeats_on_one_layout(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=fast", NULL};
    const layout l = {"2", "2", "1f1b"};
    const run_result a = run_layout(&l, extra), b = run_layout(&l, extra);
    expect_same(&a, &b, &l);
}

static void another_seed_gives_other_bits(void **state)
{
    (void)state;
    static const char *const extra[] = {"run.seed=8", NULL};
    const run_result a = run_layout(&layouts[0], NULL), b = run_layout(&layouts[0], extra);
    DML_CHECK(a.weights_hash != b.weights_hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_ends_with_the_same_bits),
        cmocka_unit_test(adamw_with_clipping_too),
        cmocka_unit_test(a_short_last_batch_too),
        cmocka_unit_test(fast_mode_repeats_on_one_layout),
        cmocka_unit_test(another_seed_gives_other_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
