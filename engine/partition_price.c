/* engine/partition_price.c - what a stage costs: sums over its layers, and the bytes that cross its borders.
 *
 * A value `v` made in segment f, read in segments r1 < r2 (the border behind v itself carries it to the stage that
 * begins there, which is why that one is left out):
 *
 *   arrives at [a, b)   a in (f, r1] and b > r1, or a in (r1, r2] and b > r2
 *   leaves [a, b)       a <= f and b in (f, r2]
 *
 * Each range is entered at its corner and spread by running sums, so a value costs O(n) and the tables O(n^2).
 */
#include "engine/partition_impl.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *left, const void *right)
{
    const dml_partition_skip *a = left, *b = right;
    if (a->from != b->from) return a->from < b->from ? -1 : 1;
    return (a->to > b->to) - (a->to < b->to);
}

/* Segment of each layer. */
static int32_t *segments_of(const dml_partition_grid *g, dml_arena *arena)
{
    int32_t *segment = DML_NEW_N(arena, int32_t, g->p->n_layers);
    for (int32_t k = 0; k < g->n; k++)
        for (int32_t i = g->at[k]; i < g->at[k + 1]; i++)
            segment[i] = k;
    return segment;
}

static void spread(dml_partition_grid *g)
{
    const int32_t row = g->n + 1;
    for (int32_t a = 0; a < row; a++)
        for (int32_t b = 1; b < row; b++)
            g->skips_in[a * row + b] += g->skips_in[a * row + b - 1];
    for (int32_t a = g->n - 1; a >= 0; a--)
        for (int32_t b = 0; b < row; b++)
            g->skips_out[a * row + b] += g->skips_out[(a + 1) * row + b];
}

static void add_skips(dml_partition_grid *g, dml_arena *arena)
{
    const dml_partition_problem *p = g->p;
    const int32_t row = g->n + 1, *segment = segments_of(g, arena);
    dml_partition_skip *skip = DML_NEW_N(arena, dml_partition_skip, p->n_skips);
    for (int32_t k = 0; k < p->n_skips; k++)
        skip[k] = p->skip[k];
    qsort(skip, (size_t)p->n_skips, sizeof *skip, by_value);
    g->skips_in = DML_NEW_N(arena, int64_t, (int64_t)row * row);
    g->skips_out = DML_NEW_N(arena, int64_t, (int64_t)row * row);
    for (int32_t k = 0; k < p->n_skips; k++) {
        const int32_t from = skip[k].from, f = segment[from], r = segment[skip[k].to];
        const bool first = k == 0 || skip[k - 1].from != from;
        const bool last = k + 1 == p->n_skips || skip[k + 1].from != from;
        const int32_t behind = from + 1 == g->at[f + 1] ? f + 1 : -1; /* whose border carries it */
        const int64_t bytes = p->layer[from].out_bytes;
        for (int32_t a = (first ? f : segment[skip[k - 1].to]) + 1; a <= r; a++)
            if (a != behind) g->skips_in[a * row + r + 1] += bytes;
        for (int32_t b = f + 1; last && b <= r; b++)
            if (b != behind) g->skips_out[f * row + b] += bytes;
    }
    spread(g);
}

dml_partition_grid dml_partition_grid_of(const dml_partition_problem *p, const int32_t *at,
                                         int32_t n, dml_arena *arena)
{
    dml_partition_grid g = {.p = p,
                            .n = n,
                            .at = at,
                            .ns = DML_NEW_N(arena, int64_t, n + 1),
                            .state = DML_NEW_N(arena, int64_t, n + 1),
                            .stash = DML_NEW_N(arena, int64_t, n + 1),
                            .main = DML_NEW_N(arena, int64_t, n + 1)};
    for (int32_t k = 0; k < n; k++) {
        g.ns[k + 1] = g.ns[k];
        g.state[k + 1] = g.state[k];
        g.stash[k + 1] = g.stash[k];
        for (int32_t i = at[k]; i < at[k + 1]; i++) {
            const dml_partition_layer *l = &p->layer[i];
            g.ns[k + 1] += l->ns[0] + l->ns[1] + l->ns[2];
            g.state[k + 1] += l->state_bytes;
            g.stash[k + 1] += l->stash_bytes;
        }
        if (k > 0) g.main[k] = p->layer[at[k] - 1].out_bytes;
    }
    if (p->n_skips > 0) add_skips(&g, arena);
    return g;
}

int64_t dml_partition_in_bytes(const dml_partition_grid *g, int32_t a, int32_t b)
{
    return g->main[a] + (g->skips_in ? g->skips_in[(int64_t)a * (g->n + 1) + b] : 0);
}

int64_t dml_partition_out_bytes(const dml_partition_grid *g, int32_t a, int32_t b)
{
    return g->main[b] + (g->skips_out ? g->skips_out[(int64_t)a * (g->n + 1) + b] : 0);
}

/* There and back across the link before stage s. */
static int64_t transfer_ns(const dml_partition_stage *s, int64_t bytes)
{
    double ns = 0.0;
    if (s->link_bytes_per_s > 0) ns = (double)bytes / (double)s->link_bytes_per_s * 1e9;
    return 2 * (s->link_latency_ns + llround(ns));
}

dml_partition_price dml_partition_price_at(const dml_partition_grid *g, int32_t s, int32_t a,
                                           int32_t b)
{
    const dml_partition_stage *stage = &g->p->stage[s];
    const int64_t in = dml_partition_in_bytes(g, a, b), out = dml_partition_out_bytes(g, a, b);
    const int64_t state = g->state[b] - g->state[a], stash = g->stash[b] - g->stash[a];
    dml_partition_price price = {
        .compute_ns = llround((double)(g->ns[b] - g->ns[a]) / stage->speed),
        .transfer_ns = a > 0 ? transfer_ns(stage, in) : 0,
        .bytes = state + stage->in_flight * (stash + in) + in + out,
        .in_bytes = in,
    };
    if (g->p->bytes) price.bytes = g->p->bytes(g->p->of, s, g->at[a], g->at[b]);
    switch (g->p->comm) {
    case DML_PARTITION_OVERLAPPED:
        price.ns = price.compute_ns > price.transfer_ns ? price.compute_ns : price.transfer_ns;
        break;
    case DML_PARTITION_BLOCKING:
        price.ns = price.compute_ns + price.transfer_ns;
        if (b < g->n) price.ns += transfer_ns(stage + 1, out);
        break;
    }
    return price;
}

void dml_partition_price_of(const dml_partition_problem *p, const int32_t *begin,
                            dml_partition_price *price)
{
    dml_arena arena = {0};
    const dml_partition_grid g = dml_partition_grid_of(p, begin, p->n_stages, &arena);
    for (int32_t s = 0; s < p->n_stages; s++)
        price[s] = dml_partition_price_at(&g, s, s, s + 1);
    dml_arena_free(&arena);
}
