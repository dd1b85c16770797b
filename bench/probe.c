/* bench/probe.c - dml-bench probe: how much faster two threads are than one, now.
 *
 * Virtual processors sometimes share a physical core, for seconds.  A measurement on two of them is clean when this
 * is near 2 both before and after it.  The best of three: a thread that had to be woken is not what is asked.
 */
#include "bench/bench.h"

#include "engine/base/clock.h"

#include <omp.h>
#include <stdio.h>

enum { SPINS = 600000, TRIES = 3 };

/* A fixed amount of arithmetic on each of `threads`; ns. */
static int64_t spin(int threads)
{
    float sink = 0.0f;
    const int64_t start = dml_clock_ns();
#pragma omp parallel num_threads(threads) reduction(+ : sink)
    {
        float v[8] = {0, 1, 2, 3, 4, 5, 6, 7};
        for (int i = 0; i < SPINS; i++)
            for (int j = 0; j < 8; j++)
                v[j] = v[j] * 0.999f + 0.5f;
        for (int j = 0; j < 8; j++)
            sink += v[j];
    }
    const int64_t ns = dml_clock_ns() - start;
    return sink == 12345.0f ? ns + 1 : ns; /* keeps the loop */
}

double bench_two_thread_speed_up(void)
{
    double best = 0.0;
    for (int i = 0; i < TRIES; i++) {
        spin(2);
        const double now = 2.0 * (double)spin(1) / (double)spin(2);
        if (now > best) best = now;
    }
    return best;
}

int dml_bench_probe(int argc, char **argv)
{
    if (argc > 1) {
        fprintf(stderr, "%s takes no arguments, not '%s'\n", argv[0], argv[1]);
        return dml_err_exit_code(DML_ERR_SPEC);
    }
    printf("%.2f\n", bench_two_thread_speed_up());
    return 0;
}
