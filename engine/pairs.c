/* engine/pairs.c - chunk boundaries as pairs of workers.
 *
 *   chunk c      0   1        all workers of the chunk below, all of the chunk above: one pair, whatever
 *                | X |        micro-batches the routes send along which line
 *   chunk c + 1  2   3
 *
 * Where a worker holds both chunks beside others that do not, the two sides would overlap; then each sender makes
 * a pair of its own with those it sends to.
 */
#include "engine/pairs.h"

#include <string.h>

typedef struct boundary {
    int32_t workers;
    bool *lower, *upper; /* [workers] has a side of this boundary */
    bool *sends;         /* [workers][workers] lower to upper, two different workers */
} boundary;

static void add_routes(boundary *b, const dml_program *p, int32_t chunk)
{
    for (int32_t mb = 0; mb < p->mbs; mb++) {
        const int32_t from = *dml_program_route(p, chunk, mb);
        const int32_t to = *dml_program_route(p, chunk + 1, mb);
        if (from < 0 || to < 0 || from == to) continue;
        b->lower[from] = b->upper[to] = true;
        b->sends[from * b->workers + to] = true;
    }
}

static int32_t list(const bool *in, int32_t workers, int32_t *out)
{
    int32_t n = 0;
    for (int32_t w = 0; w < workers; w++)
        if (in[w]) out[n++] = w;
    return n;
}

static bool overlaps(const boundary *b)
{
    for (int32_t w = 0; w < b->workers; w++)
        if (b->lower[w] && b->upper[w]) return true;
    return false;
}

static int32_t push(dml_pair *out, int32_t n, const bool *lower, const bool *upper, int32_t workers,
                    dml_arena *arena)
{
    int32_t *low = DML_NEW_N(arena, int32_t, workers), *up = DML_NEW_N(arena, int32_t, workers);
    const dml_pair pair = {.lower = low,
                           .upper = up,
                           .n_lower = list(lower, workers, low),
                           .n_upper = list(upper, workers, up)};
    if (pair.n_lower == 0 || pair.n_upper == 0) return n;
    out[n] = pair;
    return n + 1;
}

static int32_t push_boundary(dml_pair *out, int32_t n, const boundary *b, dml_arena *arena)
{
    if (!overlaps(b)) return push(out, n, b->lower, b->upper, b->workers, arena);
    bool *one = DML_NEW_N(arena, bool, b->workers);
    for (int32_t w = 0; w < b->workers; w++) {
        memset(one, 0, (size_t)b->workers * sizeof *one);
        one[w] = true;
        n = push(out, n, one, &b->sends[w * b->workers], b->workers, arena);
    }
    return n;
}

const dml_pair *dml_pairs_of(const dml_program *const *programs, int32_t n_programs,
                             dml_arena *arena, int32_t *n)
{
    const int32_t workers = programs[0]->workers, chunks = programs[0]->chunks;
    dml_pair *out = DML_NEW_N(arena, dml_pair, (int64_t)chunks * workers);
    *n = 0;
    for (int32_t c = 0; c + 1 < chunks; c++) {
        boundary b = {.workers = workers,
                      .lower = DML_NEW_N(arena, bool, workers),
                      .upper = DML_NEW_N(arena, bool, workers),
                      .sends = DML_NEW_N(arena, bool, (int64_t)workers *workers)};
        for (int32_t i = 0; i < n_programs; i++)
            add_routes(&b, programs[i], c);
        *n = push_boundary(out, *n, &b, arena);
    }
    return out;
}
