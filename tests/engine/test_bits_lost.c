/* Exact modes: whoever is missing from a layout, the bits are those of the layout with everyone.  The lost are threads
 * here that hold nothing and only vote; what becomes of a run that loses them on its way is test_recovery's. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include <stdio.h>

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define U_NET  DML_SOURCE_DIR "/tests/specs/u-net.yaml"
#define FAMILY DML_SOURCE_DIR "/tests/golden/family"

typedef struct loss {
    layout at;
    const char *lost[3]; /* one list after the other; NULL ends */
} loss;

#define PLACED "[{workers: [0, 1]}, {workers: [2, 4]}, {workers: [0, 3], shares: [1, 3]}]"

static const loss synchronous[] = {
    {{"2", "2", "1f1b", "1"}, {"0", "3", "0, 3"}},
    {{"1", "4", "gpipe", "1"}, {"0, 1, 2", "2"}},
    {{"3", "2", "gpipe_reverse", "1"}, {"1, 2, 5"}},
    {{"2", "2", "sequential", "1"}, {"2"}},
    {{"3", "4", "eager_1f1b", "1"}, {"0, 1, 2, 4, 8", "11"}},
    {{"3", "2", "zb_h1", "1"}, {"4", "0, 3, 4"}},
    {{"2", "2", "zb_h2", "1"}, {"1"}},
    {{"2", "2", "interleaved_1f1b x2", "1"}, {"0", "1, 2"}},
    {{"2", "2", "looped_bfs x2", "1"}, {"3"}},
    {{"2", "2", "interleaved_zb x2", "1"}, {"2"}},
    {{"4", "2", "chimera", "1"}, {"0, 3", "0, 1", "2, 5, 7"}},
    {{"4", "1", "chimera", "1"}, {"0", "1, 3"}}, /* the mirrored copy is the other holder */
    {{"4", "1", "chimera_doubling", "1"}, {"2"}},
    {{"4", "1", "csv:" FAMILY "/dualpipe.csv", "1"}, {"0", "1, 3"}},
    {{"2", "2", "auto", "1"}, {"0", "1, 2"}},
    {{PLACED, "-", "auto", "1"}, {"1", "0, 4"}},
};

/* Without a stage's every holder: cut anew by hand, the lost have no stage. */
static const loss recut[] = {
    {{"[{workers: [0, 2]}]", "-", "auto", "1"}, {"1, 3"}},
    {{"[{workers: [3]}, {workers: [1]}]", "-", "auto", "1"}, {"0, 2"}},
};

static const loss asynchronous[] = {
    {{"2", "2", "pipedream_2bw", "1"}, {"0", "3", "0, 3"}},
    {{"3", "2", "pipedream_2bw", "1"}, {"1, 2, 5"}},
};

static run_result run_without(const char *path, const loss *l, const char *lost,
                              const char *const *extra)
{
    enum { MOST = 8 };
    char text[64];
    const char *list[MOST] = {text};
    int32_t n = 1;
    snprintf(text, sizeof text, "parallelism.lost=[%s]", lost);
    for (int32_t i = 0; extra && extra[i]; i++)
        list[n++] = extra[i];
    DML_CHECK(n < MOST);
    return run_layout(path, &l->at, list);
}

static void expect_bits(const char *path, const loss *l, const char *const *extra,
                        const run_result *whole)
{
    for (int32_t i = 0; i < 3 && l->lost[i]; i++) {
        const run_result r = run_without(path, l, l->lost[i], extra);
        expect_same(whole, &r, &l->at);
    }
}

static void every_layout_without_some_has_the_bits_of_all(void **state)
{
    (void)state;
    const layout one = {"1", "1", "1f1b", "1"};
    const run_result whole = run_layout(TINY, &one, NULL);
    for (size_t k = 0; k < sizeof synchronous / sizeof *synchronous; k++)
        expect_bits(TINY, &synchronous[k], NULL, &whole);
    for (size_t k = 0; k < sizeof recut / sizeof *recut; k++)
        expect_bits(TINY, &recut[k], NULL, &whole);
}

static void skips_and_recomputation_too(void **state)
{
    (void)state;
    static const char *const full[] = {"parallelism.recompute=full", NULL};
    const layout one = {"1", "1", "1f1b", "1"};
    const loss skips = {{"4", "2", "1f1b", "1"}, {"0, 3", "7"}};
    const run_result net = run_layout(U_NET, &one, NULL), cnn = run_layout(TINY, &one, NULL);
    expect_bits(U_NET, &skips, NULL, &net);
    expect_bits(TINY, &skips, full, &cnn);
}

static void an_asynchronous_one_has_the_delays_of_all(void **state)
{
    (void)state;
    static const char *const wide[] = {"training.numerics=exact_wide", NULL},
                             *const plain[] = {"training.numerics=exact_wide",
                                               "training.global_batch_size=9", NULL};
    for (size_t k = 0; k < sizeof asynchronous / sizeof *asynchronous; k++) {
        const run_result whole = run_layout(TINY, &asynchronous[k].at, wide);
        expect_bits(TINY, &asynchronous[k], wide, &whole);
    }
    const loss pipedream = {{"2", "3", "pipedream", "1"}, {"0, 4", "1, 2", "5"}};
    const run_result whole = run_layout(TINY, &pipedream.at, plain);
    expect_bits(TINY, &pipedream, plain, &whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_without_some_has_the_bits_of_all),
        cmocka_unit_test(skips_and_recomputation_too),
        cmocka_unit_test(an_asynchronous_one_has_the_delays_of_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
