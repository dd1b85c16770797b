/* Exact modes: one weights hash, one loss, one test result, whatever the layout and the schedule.  Naive
 * kernels, so that sanitizers see everything; test_bits_cpu.c does the same with the fast ones. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define FAMILY DML_SOURCE_DIR "/tests/golden/family"

static const layout layouts[] = {
    {"1", "1", "1f1b", "1"},
    {"1", "1", "gpipe", "1"},
    {"4", "1", "1f1b", "1"},
    {"4", "1", "gpipe", "1"},
    {"4", "1", "gpipe_reverse", "1"},
    {"4", "1", "sequential", "1"},
    {"2", "2", "1f1b", "1"},
    {"2", "2", "sequential", "1"},
    {"2", "2", "gpipe_reverse", "1"},
    {"1", "4", "1f1b", "1"},
    {"1", "8", "gpipe", "1"},
    {"3", "2", "1f1b", "1"},
    {"3", "4", "gpipe_reverse", "1"},
    {"3", "2", "eager_1f1b", "1"},
    {"3", "2", "zb_h1", "1"},
    {"2", "2", "zb_h2", "1"},
    {"2", "1", "interleaved_1f1b x2", "1"},
    {"2", "2", "looped_bfs x2", "1"},
    {"2", "1", "interleaved_zb x2", "1"},
    {"4", "2", "chimera", "1"},
    {"2", "2", "chimera", "1"},
    {"4", "1", "chimera_doubling", "1"},
    {"2", "1", "chimera_doubling", "1"},
    {"2", "1", "sequential x2", "1"},
    {"4", "1", "csv:" FAMILY "/zb_v.csv x2", "1"}, /* rank r runs stages r and 7 - r */
    {"4", "1", "csv:" FAMILY "/dualpipe_v.csv x2", "1"},
    {"4", "1", "csv:" FAMILY "/dualpipe.csv", "1"}, /* ranks r and 3 - r run stage r */
    {"[{workers: [0, 1]}, {workers: [2]}]", "-", "auto", "1"},
    {"[{workers: [1]}, {workers: [0, 2, 3]}, {workers: [4]}]", "-", "auto", "1"},
    {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]", "-", "auto", "1"},
    {"[{workers: [0]}, {workers: [1]}, {workers: [0]}, {workers: [1]}]", "-", "auto", "1"},
    {"[{workers: [2, 0, 1], shares: [5, 1, 2]}]", "-", "auto", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void every_layout_ends_with_the_same_bits(void **state)
{
    (void)state;
    const run_result r = expect_all_same(TINY, layouts, LAYOUTS, NULL);
    DML_CHECK(r.has_eval);
    DML_CHECK_EQ(37, r.eval.samples);
}

static void adamw_with_clipping_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"optimizer.name=adamw", "optimizer.lr=0.01",
                                        "training.grad_clip=0.1", "optimizer.weight_decay=0.1",
                                        NULL};
    expect_all_same(TINY, layouts, LAYOUTS, extra);
}

static void a_short_last_batch_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"data.last_batch=short", "training.max_steps=11", NULL};
    const run_result r = expect_all_same(TINY, layouts, LAYOUTS, extra);
    DML_CHECK_EQ(24, r.step[3].samples);
    DML_CHECK_EQ(100 - 4 * 24, r.step[4].samples);
}

static void dropping_the_last_batch_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"data.last_batch=drop", "training.max_steps=9", NULL};
    const run_result r = expect_all_same(TINY, layouts, LAYOUTS, extra);
    for (int64_t i = 0; i < r.steps; i++)
        DML_CHECK_EQ(24, r.step[i].samples);
}

static void wide_sums_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide", "data.last_batch=short",
                                        "training.max_steps=5", NULL};
    expect_all_same(TINY, layouts, LAYOUTS, extra);
}

static void fast_mode_repeats_on_one_layout(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=fast", NULL};
    const layout twice[] = {{"2", "2", "1f1b", "1"}, {"2", "2", "1f1b", "1"}};
    expect_all_same(TINY, twice, 2, extra);
    const char *const stages =
        "[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]";
    const layout placed[] = {{stages, "-", "auto", "1"}, {stages, "-", "auto", "1"}};
    expect_all_same(TINY, placed, 2, extra);
}

static void another_seed_gives_other_bits(void **state)
{
    (void)state;
    static const char *const extra[] = {"run.seed=8", NULL};
    const run_result a = run_layout(TINY, &layouts[0], NULL);
    const run_result b = run_layout(TINY, &layouts[0], extra);
    DML_CHECK(a.weights_hash != b.weights_hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_ends_with_the_same_bits),
        cmocka_unit_test(adamw_with_clipping_too),
        cmocka_unit_test(a_short_last_batch_too),
        cmocka_unit_test(dropping_the_last_batch_too),
        cmocka_unit_test(wide_sums_too),
        cmocka_unit_test(fast_mode_repeats_on_one_layout),
        cmocka_unit_test(another_seed_gives_other_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
