/* bench/stats.c - what is said of many times of one thing: where they lie and how far apart. */
#include "bench/bench.h"

#include <math.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double ranked(const double *v, int n, double share)
{
    const int rank = (int)ceil(share * n);
    return v[rank > 0 ? rank - 1 : 0];
}

bench_spread bench_spread_of(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_size);
    return (bench_spread){ranked(v, n, 0.5), ranked(v, n, 0.25), ranked(v, n, 0.75)};
}

bench_stats bench_stats_of(double *v, int n)
{
    double sum = 0, squares = 0;
    const bench_spread s = bench_spread_of(v, n);
    for (int i = 0; i < n; i++)
        sum += v[i];
    for (int i = 0; i < n; i++)
        squares += (v[i] - sum / n) * (v[i] - sum / n);
    return (bench_stats){.n = n,
                         .median = s.median,
                         .low = s.low,
                         .high = s.high,
                         .p95 = ranked(v, n, 0.95),
                         .mean = sum / n,
                         .cv = n > 1 ? sqrt(squares / (n - 1)) / (sum / n) : 0.0};
}
