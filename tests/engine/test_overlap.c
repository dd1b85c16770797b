/* tests/engine/test_overlap.c - reducing under backward changes no bit: buckets of several sizes against one
 * reduction after backward, over layouts and schedules, in every mode.
 *
 * Naive kernels, so that sanitizers see everything; test_bits_cpu.c does it with the fast ones. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/plan.h"

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

/* 12 micro-batches divide among 2 and 3 replicas. */
#define BATCH "training.global_batch_size=36"

static const layout layouts[] = {
    {"2", "2", "1f1b", "1"},          {"1", "3", "1f1b", "1"},       {"2", "3", "gpipe", "1"},
    {"2", "2", "gpipe_reverse", "1"}, {"1", "2", "sequential", "1"}, {"1", "2", "gpipe", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const char *const sizes[][2] = {
    {"comm.first_bucket_bytes=1", "comm.bucket_bytes=1"},
    {"comm.first_bucket_bytes=200", "comm.bucket_bytes=2KiB"},
    {"comm.first_bucket_bytes=2KiB", "comm.bucket_bytes=1"},
};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* On the first `n` layouts. */
static void check_mode(const char *numerics, const char *last_batch, int n)
{
    for (int l = 0; l < n; l++) {
        const char *const off[] = {BATCH, numerics, last_batch, "comm.overlap=false", NULL};
        const run_result want = run_layout(TINY, &layouts[l], off);
        for (int s = 0; s < SIZES; s++) {
            const char *const on[] = {BATCH, numerics, last_batch, sizes[s][0], sizes[s][1], NULL};
            const run_result r = run_layout(TINY, &layouts[l], on);
            expect_same(&want, &r, &layouts[l]);
            for (int32_t w = 0; w < r.workers; w++) /* and no more is kept */
                DML_CHECK_EQ(want.end[w].stash_peak, r.end[w].stash_peak);
        }
    }
}

static void sums_in_the_order_of_calls_have_the_same_bits(void **state)
{
    (void)state;
    check_mode("training.numerics=fast", "data.last_batch=wrap", LAYOUTS);
}

/* The last step has fewer micro-batches than are cut: parts of one without samples do nothing. */
static void exact_sums_with_a_short_step_too(void **state)
{
    (void)state;
    check_mode("training.numerics=exact", "data.last_batch=short", 3);
}

static void wide_sums_too(void **state)
{
    (void)state;
    check_mode("training.numerics=exact_wide", "data.last_batch=wrap", 2);
}

static void check_plan(const char *overlap, const char *first, const char *other, int32_t least,
                       int32_t most)
{
    const char *const overrides[] = {BATCH, "parallelism.data_parallel_size=2", overlap, first,
                                     other};
    dml_spec spec;
    dml_plan plan;
    DML_CHECK_OK(dml_spec_load(TINY, overrides, 5, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    const int32_t n = plan.train.buckets[0];
    DML_CHECK(n >= least && n <= most);
    DML_CHECK_EQ(1, plan.eval.buckets[0]);
    int32_t parts = 0, reductions = 0;
    for (int32_t i = 0; i < plan.train.list[0].n; i++) {
        parts += dml_op_is_part(&plan.train.list[0].op[i]);
        reductions += plan.train.list[0].op[i].kind == DML_OP_REDUCE;
    }
    DML_CHECK_EQ(n > 1 ? n : 0, parts);
    DML_CHECK_EQ(n, reductions);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

static void a_plan_has_as_many_parts_and_reductions_as_buckets(void **state)
{
    (void)state;
    check_plan("comm.overlap=true", sizes[0][0], sizes[0][1], 10, 10); /* layers with parameters */
    check_plan("comm.overlap=true", sizes[1][0], sizes[1][1], 2, 5);
    check_plan("comm.overlap=true", "comm.first_bucket_bytes=1MiB", sizes[0][1], 1, 1);
    check_plan("comm.overlap=false", sizes[0][0], sizes[0][1], 1, 1);
}

static double predicted_ms(const char *overlap)
{
    dml_spec spec;
    dml_plan plan;
    DML_CHECK_OK(dml_spec_load(DML_SOURCE_DIR "/tests/specs/overlap.yaml", &overlap, 1, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    int64_t ns;
    double bubble[2];
    int32_t stash[2];
    int64_t exposed_ns[DML_HOST_WORKERS];
    DML_CHECK_OK(dml_plan_predict(&plan, &plan.cost, &ns, bubble, stash, exposed_ns));
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    return (double)ns * 1e-6;
}

/* 40 ms of backward, four reductions of 10 ms: all hide but the last, which begins when backward is over. */
static void the_planner_sees_what_overlap_saves(void **state)
{
    (void)state;
    const double on = predicted_ms("comm.overlap=true"), off = predicted_ms("comm.overlap=false");
    DML_CHECK(on > 50.0 && on < 50.5);
    DML_CHECK(off > 80.0 && off < 80.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_planner_sees_what_overlap_saves),
        cmocka_unit_test(a_plan_has_as_many_parts_and_reductions_as_buckets),
        cmocka_unit_test(sums_in_the_order_of_calls_have_the_same_bits),
        cmocka_unit_test(exact_sums_with_a_short_step_too),
        cmocka_unit_test(wide_sums_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
