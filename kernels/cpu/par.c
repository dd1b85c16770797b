/* kernels/cpu/par.c - OpenMP behind two functions, and no OpenMP at all for one thread. */
#include "kernels/cpu/par.h"

#include <omp.h>

/* Waking a team costs a few microseconds, in which one core moves about this much. */
enum { PART_BYTES = 64 << 10, GRAIN = 16 };

void dml_par_items(int32_t threads, int64_t items, dml_par_item item, void *arg)
{
    if (threads > items) threads = (int32_t)items;
    if (threads <= 1) {
        for (int64_t i = 0; i < items; i++)
            item(arg, i, 0);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < items; i++)
        item(arg, i, omp_get_thread_num());
}

typedef struct parts {
    dml_par_range range;
    void *arg;
    int64_t n, count;
} parts;

static int64_t border(const parts *p, int64_t part)
{
    return part == p->count ? p->n : p->n * part / p->count / GRAIN * GRAIN;
}

static void run_part(void *arg, int64_t part, int32_t thread)
{
    (void)thread;
    const parts *p = arg;
    p->range(p->arg, border(p, part), border(p, part + 1));
}

void dml_par_ranges(int32_t threads, int64_t n, int64_t cost, dml_par_range range, void *arg)
{
    const int64_t worth = n * cost / PART_BYTES;
    parts p = {.range = range, .arg = arg, .n = n, .count = worth < threads ? worth : threads};
    if (p.count < 1) p.count = 1;
    dml_par_items(threads, p.count, run_part, &p);
}
