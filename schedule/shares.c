/* schedule/shares.c - a smooth weighted round robin; behind[i] is share[i] (b + 1) - all given[i].
 *
 *   shares 1 3    b          0       1       2       3
 *                 behind    1 3     2 2    -1 5     0 4     of the one who takes it: less 4 afterwards
 *                 taker      1       0       1       1
 */
#include "schedule/shares.h"

#include "engine/base/arena.h"

/* Who is furthest behind after one more micro-batch for all. */
static int32_t next(int64_t *behind, const int32_t *share, int32_t n, int64_t all)
{
    int32_t best = 0;
    for (int32_t i = 0; i < n; i++) {
        behind[i] += share[i];
        if (behind[i] > behind[best]) best = i;
    }
    behind[best] -= all;
    return best;
}

void dml_deal(const int32_t *share, int32_t n, int32_t mbs, int32_t *taker)
{
    dml_arena arena = {0};
    int64_t *behind = DML_NEW_N(&arena, int64_t, n), all = 0;
    for (int32_t i = 0; i < n; i++)
        all += share[i];
    for (int32_t mb = 0; mb < mbs; mb++)
        taker[mb] = next(behind, share, n, all);
    dml_arena_free(&arena);
}

void dml_route_by_shares(dml_program *p, int32_t chunk, const int32_t *worker, const int32_t *share,
                         int32_t n)
{
    int32_t *route = dml_program_route(p, chunk, 0);
    dml_deal(share, n, p->mbs, route);
    for (int32_t mb = 0; mb < p->mbs; mb++)
        route[mb] = worker[route[mb]];
}
