/* engine/partition.c - the exact cut, by dynamic programming over sorted loads.
 *
 *   best[s][j] = min over i of  best[s - 1][i] with the time of stage s on segments [i, j)
 *
 * where a value is the times of all stages so far, largest first, then the bytes over their borders, in
 * lexicographic order.  Adding one time to two such lists keeps their order, so the best of a prefix is a part of
 * the best of the whole: the recurrence is exact, for the maximum and for every tie behind it.
 *
 * Segments are what no legal border divides.  A pair of tied layers forbids the borders between them.
 */
#include "engine/partition.h"

#include "engine/partition_impl.h"

#include <inttypes.h>

/* ---- segments ---- */

int32_t dml_partition_segments(const dml_partition_problem *p, int32_t *at, dml_arena *arena)
{
    bool *torn =
        DML_NEW_N(arena, bool, p->n_layers); /* the border behind layer i parts tied layers */
    for (int32_t i = 0; i < p->n_layers; i++) {
        if (p->layer[i].tied <= 0) continue;
        int32_t last = i;
        for (int32_t j = i + 1; j < p->n_layers; j++)
            if (p->layer[j].tied == p->layer[i].tied) last = j;
        for (int32_t j = i; j < last; j++)
            torn[j] = true;
    }
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_layers; i++)
        if (i + 1 == p->n_layers || (p->layer[i].may_end_stage && !torn[i])) at[++n] = i + 1;
    return n;
}

/* ---- the recurrence ---- */

typedef enum load_kind {
    LOAD_TIME, /* of stages that fit */
    LOAD_SHORT /* bytes beyond the limit */
} load_kind;

typedef struct search {
    const dml_partition_grid *g;
    int32_t stages;
    load_kind kind;
    int64_t most; /* a stage that takes longer is not allowed */
    int64_t unit; /* loads are times in whole units, the nearest */
} search;

/* Best cuts of the first j segments into as many stages as the row is for. */
typedef struct row {
    int64_t *load;  /* [n + 1][stages] largest first */
    int64_t *bytes; /* [n + 1] over all borders; < 0: there is no such cut */
} row;

static row row_new(const search *x, dml_arena *arena)
{
    const int64_t n = x->g->n + 1;
    row r = {DML_NEW_N(arena, int64_t, n * x->stages), DML_NEW_N(arena, int64_t, n)};
    for (int64_t j = 0; j < n; j++)
        r.bytes[j] = -1;
    return r;
}

static int64_t short_bytes(const dml_partition_problem *p, int32_t s, int64_t bytes)
{
    const int64_t limit = p->stage[s].memory_bytes;
    return limit > 0 && bytes > limit ? bytes - limit : 0;
}

/* Puts `load` among the s sorted ones of `first`: s + 1 into `out`. */
static void insert(const int64_t *first, int32_t s, int64_t load, int64_t *out)
{
    int32_t at = 0;
    for (; at < s && first[at] > load; at++)
        out[at] = first[at];
    out[at] = load;
    for (; at < s; at++)
        out[at + 1] = first[at];
}

/* < 0, 0 or > 0: how what insert would give compares with `best`, up to the first difference. */
static int compare(const int64_t *first, int32_t s, int64_t load, const int64_t *best)
{
    int32_t at = 0;
    for (; at < s && first[at] > load; at++)
        if (first[at] != best[at]) return first[at] < best[at] ? -1 : 1;
    if (load != best[at]) return load < best[at] ? -1 : 1;
    for (; at < s; at++)
        if (first[at] != best[at + 1]) return first[at] < best[at + 1] ? -1 : 1;
    return 0;
}

static int64_t in_units(const search *x, int64_t ns)
{
    return (ns + x->unit / 2) / x->unit;
}

/* Cell j of the row for stages 0..s, from the row for 0..s-1; returns where stage s begins. */
static int32_t fill_cell(const search *x, int32_t s, const row *before, int32_t j, row *out)
{
    const int32_t k = x->stages;
    int64_t *best = &out->load[(int64_t)j * k];
    int32_t from = -1;
    for (int32_t i = j - 1; i >= s; i--) {
        if (before->bytes[i] < 0) continue;
        const dml_partition_price price = dml_partition_price_at(x->g, s, i, j);
        const int64_t lacks = short_bytes(x->g->p, s, price.bytes);
        int64_t load = lacks;
        if (x->kind == LOAD_TIME) {
            if (in_units(x, price.compute_ns) > (from < 0 ? INT64_MAX : best[0])) break;
            if (lacks > 0 || price.ns > x->most) continue;
            load = in_units(x, price.ns);
        }
        const int64_t *first = &before->load[(int64_t)i * k];
        const int64_t bytes = before->bytes[i] + price.in_bytes;
        const int order = from < 0 ? -1 : compare(first, s, load, best);
        if (order > 0 || (order == 0 && bytes > out->bytes[j])) continue;
        insert(first, s, load, best);
        out->bytes[j] = bytes;
        from = i;
    }
    return from;
}

/* Writes cut[0..stages], the first segment of each stage, and the largest load; false when no cut fits. */
static bool best_cut(const search *x, int32_t *cut, int64_t *largest)
{
    const int32_t n = x->g->n, k = x->stages;
    dml_arena arena = {0};
    row before = row_new(x, &arena), next = row_new(x, &arena);
    int32_t *from = DML_NEW_N(&arena, int32_t, (int64_t)k * (n + 1));
    before.bytes[0] = 0; /* no stages hold no segments */
    for (int32_t s = 0; s < k; s++) {
        for (int32_t j = 0; j <= n; j++)
            next.bytes[j] = -1;
        for (int32_t j = s + 1; j <= n - (k - 1 - s); j++)
            from[(int64_t)s * (n + 1) + j] = fill_cell(x, s, &before, j, &next);
        const row swap = before;
        before = next;
        next = swap;
    }
    const bool fits = before.bytes[n] >= 0;
    *largest = before.load[(int64_t)n * k];
    cut[k] = n;
    for (int32_t s = k - 1; fits && s >= 0; s--)
        cut[s] = from[(int64_t)s * (n + 1) + cut[s + 1]];
    dml_arena_free(&arena);
    return fits;
}

/* ---- why nothing fits ---- */

/* Bytes that segment g is short wherever it lies, before any border, or as a stage of its own where the bytes are the
 * caller's: 0 when a stage can hold it. */
static int64_t short_everywhere(const dml_partition_grid *g, int32_t k)
{
    int64_t least = INT64_MAX;
    for (int32_t s = 0; s < g->p->n_stages; s++) {
        int64_t bytes = g->state[k + 1] - g->state[k] +
                        g->p->stage[s].in_flight * (g->stash[k + 1] - g->stash[k]);
        if (g->p->bytes) bytes = g->p->bytes(g->p->of, s, g->at[k], g->at[k + 1]);
        const int64_t lacks = short_bytes(g->p, s, bytes);
        if (lacks < least) least = lacks;
    }
    return least;
}

static dml_err fail_segment(const dml_partition_grid *g, int32_t k, int64_t lacks)
{
    const dml_partition_layer *first = &g->p->layer[g->at[k]],
                              *last = &g->p->layer[g->at[k + 1] - 1];
    if (first == last)
        DML_FAIL(DML_ERR_NOMEM,
                 "layer '%s' alone is too large for every stage: %" PRId64 " bytes short",
                 first->name, lacks);
    DML_FAIL(DML_ERR_NOMEM,
             "layers '%s' to '%s', which no cut divides, are too large for every stage: %" PRId64
             " bytes short",
             first->name, last->name, lacks);
}

/* Names the segment that is short most; where all fit somewhere, the stage that the nearest cut leaves short. */
static dml_err fail_memory(const dml_partition_grid *g, int32_t *cut)
{
    const dml_partition_problem *p = g->p;
    int32_t worst = 0;
    for (int32_t k = 1; k < g->n; k++)
        if (short_everywhere(g, k) > short_everywhere(g, worst)) worst = k;
    const int64_t lacks = short_everywhere(g, worst);
    if (lacks > 0) return fail_segment(g, worst, lacks);

    int64_t most;
    best_cut(&(search){g, p->n_stages, LOAD_SHORT, INT64_MAX, 1}, cut, &most);
    for (int32_t s = 0; s < p->n_stages; s++)
        if (short_bytes(p, s, dml_partition_price_at(g, s, cut[s], cut[s + 1]).bytes) == most)
            worst = s;
    DML_FAIL(DML_ERR_NOMEM,
             "no cut into %d stages fits: the nearest leaves stage %d ('%s' to '%s') %" PRId64
             " bytes short",
             p->n_stages, worst, p->layer[g->at[cut[worst]]].name,
             p->layer[g->at[cut[worst + 1]] - 1].name, most);
}

dml_err dml_partition_check_skips(const dml_partition_problem *p)
{
    for (int32_t k = 0; k < p->n_skips; k++)
        if (p->skip[k].from < 0 || p->skip[k].from >= p->skip[k].to || p->skip[k].to >= p->n_layers)
            DML_FAIL(DML_ERR_SPEC, "skip %d leads from layer %d to layer %d of %d", k,
                     p->skip[k].from, p->skip[k].to, p->n_layers);
    return DML_ERR_OK;
}

static dml_err check(const dml_partition_problem *p)
{
    if (p->n_layers < 1 || p->n_stages < 1)
        DML_FAIL(DML_ERR_SPEC, "%d layers in %d stages", p->n_layers, p->n_stages);
    for (int32_t s = 0; s < p->n_stages; s++)
        if (!(p->stage[s].speed > 0.0))
            DML_FAIL(DML_ERR_SPEC, "stage %d: a speed of %g", s, p->stage[s].speed);
    return dml_partition_check_skips(p);
}

dml_err dml_partition(const dml_partition_problem *p, int32_t *begin)
{
    DML_TRY(check(p));
    dml_arena arena = {0};
    dml_err err = DML_ERR_OK;
    int32_t *at = DML_NEW_N(&arena, int32_t, p->n_layers + 1);
    int32_t *cut = DML_NEW_N(&arena, int32_t, p->n_stages + 1);
    const int32_t n = dml_partition_segments(p, at, &arena);
    if (p->n_stages > n) {
        err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                          "%d stages, but the layers can be cut into %d at most", p->n_stages, n);
        goto done;
    }
    const dml_partition_grid g = dml_partition_grid_of(p, at, n, &arena);
    search x = {&g, p->n_stages, LOAD_TIME, INT64_MAX, 1};
    if (!best_cut(&x, cut, &x.most)) {
        err = fail_memory(&g, cut);
        goto done;
    }
    if (p->grain > 0 &&
        x.most > p->grain) { /* the slowest stage is known: weigh the others coarsely */
        int64_t largest;
        x.unit = x.most / p->grain;
        best_cut(&x, cut, &largest);
    }
    for (int32_t s = 0; s <= p->n_stages; s++)
        begin[s] = at[cut[s]];
done:
    dml_arena_free(&arena);
    return err;
}
