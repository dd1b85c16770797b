/* engine/pairs.c - chunk boundaries, and the links of skips, as pairs of workers.
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

static void add_routes(boundary *b, const dml_program *p, int32_t below, int32_t above)
{
    for (int32_t mb = 0; mb < p->mbs; mb++) {
        const int32_t from = *dml_program_route(p, below, mb);
        const int32_t to = *dml_program_route(p, above, mb);
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

/* Two chunks between whose workers values go. */
typedef struct link {
    int32_t below, above;
} link;

static int32_t add_link(link *out, int32_t n, int32_t below, int32_t above)
{
    for (int32_t i = 0; i < n; i++)
        if (out[i].below == below && out[i].above == above) return n;
    out[n] = (link){below, above};
    return n + 1;
}

/* Neighbours, then the ends of skips: a value goes from `from` to `to`, its gradient from `to` to `back`. */
static link *find_links(const dml_program *p, dml_arena *arena, int32_t *n)
{
    link *out = DML_NEW_N(arena, link, p->chunks + 2 * p->n_skips);
    *n = 0;
    for (int32_t c = 0; c + 1 < p->chunks; c++)
        *n = add_link(out, *n, c, c + 1);
    for (int32_t k = 0; k < p->n_skips; k++) {
        *n = add_link(out, *n, p->skip[k].from, p->skip[k].to);
        *n = add_link(out, *n, p->skip[k].back, p->skip[k].to);
    }
    return out;
}

const dml_pair *dml_pairs_of(const dml_program *const *programs, int32_t n_programs,
                             dml_arena *arena, int32_t *n)
{
    const int32_t workers = programs[0]->workers;
    int32_t n_links;
    const link *links = find_links(programs[0], arena, &n_links);
    dml_pair *out = DML_NEW_N(arena, dml_pair, (int64_t)n_links * workers);
    *n = 0;
    for (int32_t l = 0; l < n_links; l++) {
        boundary b = {.workers = workers,
                      .lower = DML_NEW_N(arena, bool, workers),
                      .upper = DML_NEW_N(arena, bool, workers),
                      .sends = DML_NEW_N(arena, bool, (int64_t)workers *workers)};
        for (int32_t i = 0; i < n_programs; i++)
            add_routes(&b, programs[i], links[l].below, links[l].above);
        *n = push_boundary(out, *n, &b, arena);
    }
    return out;
}
