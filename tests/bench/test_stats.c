/* tests/bench/test_stats.c - what bench/stats.c says of lists whose figures are known. */
#include "tests/support/test.h"

#include "bench/bench.h"

#include <math.h>

static void spread_is_median_and_quartiles(void **state)
{
    (void)state;
    double v[] = {5, 1, 4, 2, 3, 8, 7, 6}, one[] = {3};
    const bench_spread s = bench_spread_of(v, 8), alone = bench_spread_of(one, 1);
    DML_CHECK(s.low == 2 && s.median == 4 && s.high == 6);
    DML_CHECK(alone.low == 3 && alone.median == 3 && alone.high == 3);
}

static void stats_have_quantiles_by_nearest_rank_and_the_samples_deviation(void **state)
{
    (void)state;
    double v[100];
    for (int i = 0; i < 100; i++)
        v[i] = (double)((i * 37) % 100 + 1); /* 1 .. 100, shuffled */
    const bench_stats s = bench_stats_of(v, 100);
    DML_CHECK_EQ(100, s.n);
    DML_CHECK(s.median == 50 && s.low == 25 && s.high == 75 && s.p95 == 95 && s.mean == 50.5);
    DML_CHECK(fabs(s.cv - sqrt(100.0 * 101.0 / 12.0) / 50.5) < 1e-12); /* n (n + 1) / 12 */
}

static void one_value_has_no_deviation(void **state)
{
    (void)state;
    double v[] = {4};
    const bench_stats s = bench_stats_of(v, 1);
    DML_CHECK(s.median == 4 && s.p95 == 4 && s.mean == 4 && s.cv == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spread_is_median_and_quartiles),
        cmocka_unit_test(stats_have_quantiles_by_nearest_rank_and_the_samples_deviation),
        cmocka_unit_test(one_value_has_no_deviation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
