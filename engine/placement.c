/* engine/placement.c - free placement, by dynamic programming from the last stage to the first.
 *
 *   best[u][i][x] = min over edges (u -> v, devices D, level y) and j > i of
 *
 *       throughput   2 x_in + max( work of [i, j) on D,  slowest c + best[v][j][y] )
 *       latency      2 x_in + slowest c + best[v][j][y]
 *
 * for the stages from segment i to the end, standing on state u, behind a link of level x.  Both grow with the rest, and
 * what a stage holds in flight depends on the devices behind it alone, which u says: the recurrence is exact over the
 * space's sets.  Work grows with j, so a row ends where the compute alone exceeds the best.
 *
 * MEMORY is the least cap on every device under which a throughput solution exists, by bisection.
 */
#include "engine/placement.h"

#include "engine/placement_impl.h"

#include <inttypes.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { NOTHING = -1 };

typedef struct choice {
    int64_t edge; /* NOTHING */
    int32_t end;  /* segment behind the stage */
} choice;

typedef struct search {
    const dml_placement_problem *p;
    dml_placement_table table;
    dml_placement_space space;
    bool latency;
    int64_t *best; /* [n_states][n + 1][n_links]; INT64_MAX: does not fit */
    choice *from;
    int32_t whole; /* the state on which the best placement stands */
    int64_t best_ns;
    dml_arena arena;
} search;

static int64_t at(const search *x, int32_t state, int32_t i, int32_t level)
{
    return ((int64_t)state * (x->table.n + 1) + i) * x->table.n_links + level;
}

/* Tries the edge for stages that begin at i, behind a link of level `in`. */
static void try_edge(search *x, int64_t number, int32_t i, int32_t in, int64_t cell)
{
    const dml_placement_edge *e = &x->space.edge[number];
    const dml_placement_set *set = &x->space.set[e->set];
    const int32_t n = x->table.n, behind = x->space.used[e->next];
    int64_t best = x->best[cell];
    for (int32_t j = e->next == 0 ? n : i + 1; j <= n; j++) {
        const int64_t rest = x->best[at(x, e->next, j, e->level)];
        const int64_t least = x->latency ? dml_placement_slowest(&x->table, set, i, j)
                                         : dml_placement_compute(&x->table, set, i, j);
        if (least >= best) break;
        if (rest >= best || !dml_placement_fits(&x->table, set, i, j, behind, e->mixed)) continue;
        const dml_placement_price price =
            dml_placement_price_at(&x->table, set, i, j, in, e->level);
        const int64_t way = price.slowest_ns + rest;
        const int64_t ns = 2 * price.x_in_ns + (x->latency ? way : MAX2(way, price.work_ns));
        if (ns >= best) continue;
        x->best[cell] = best = ns;
        x->from[cell] = (choice){number, j};
    }
}

/* Fills the tables; false when nothing fits. */
static bool solve(search *x)
{
    const dml_placement_space *space = &x->space;
    const int32_t n = x->table.n, links = x->table.n_links;
    for (int64_t k = 0; k < (int64_t)space->n_states * (n + 1) * links; k++) {
        x->best[k] = INT64_MAX;
        x->from[k] = (choice){NOTHING, 0};
    }
    for (int32_t l = 0; l < links; l++)
        x->best[at(x, 0, n, l)] = 0;
    for (int32_t u = 1; u < space->n_states; u++)
        for (int32_t i = n - 1; i >= 0; i--)
            for (int32_t l = 0; l < (i > 0 ? links : 1); l++)
                for (int64_t e = space->first[u]; e < space->first[u + 1]; e++)
                    try_edge(x, e, i, l, at(x, u, i, l));
    x->best_ns = INT64_MAX;
    for (int32_t u = 1; u < space->n_states; u++) {
        const int64_t ns = x->best[at(x, u, 0, 0)];
        if (ns >= x->best_ns) continue;
        x->best_ns = ns;
        x->whole = u;
    }
    return x->best_ns < INT64_MAX;
}

/* ---- results ---- */

static void price_devices(const dml_placement_table *t, dml_placement_stage *s, int32_t a,
                          int32_t b, int32_t behind, bool mixed, dml_arena *arena)
{
    s->in_flight = DML_NEW_N(arena, int32_t, s->replicas);
    s->bytes = DML_NEW_N(arena, int64_t, s->replicas);
    for (int32_t r = 0; r < s->replicas; r++) {
        s->in_flight[r] = dml_placement_in_flight(s->share[r], behind, mixed, t->p->mbs);
        s->bytes[r] = dml_placement_bytes(t, a, b, s->in_flight[r]);
    }
}

static const int32_t *shares_of(const dml_placement_problem *p, const dml_placement_stage *s,
                                dml_arena *arena)
{
    dml_arena scratch = {0};
    dml_placement_device *device = DML_NEW_N(&scratch, dml_placement_device, s->replicas);
    int32_t *share = DML_NEW_N(arena, int32_t, s->replicas);
    for (int32_t r = 0; r < s->replicas; r++)
        device[r] = p->device[s->device[r]];
    dml_placement_shares(device, s->replicas, p->mbs, share);
    dml_arena_free(&scratch);
    return share;
}

/* The outermost level among the devices of both stages. */
static int32_t level_between(const dml_placement_problem *p, const dml_placement_stage *a,
                             const dml_placement_stage *b)
{
    int32_t level = 0;
    for (int32_t i = 0; i < a->replicas; i++)
        level = MAX2(level, dml_placement_level(p, a->device[i], b->device[0]));
    for (int32_t i = 0; i < b->replicas; i++)
        level = MAX2(level, dml_placement_level(p, a->device[0], b->device[i]));
    return level;
}

static bool all_of_speed(const dml_placement_problem *p, const dml_placement_stage *s, double speed)
{
    for (int32_t r = 0; r < s->replicas; r++)
        if (p->device[s->device[r]].speed != speed) return false;
    return true;
}

/* A set with the stage's own shares. */
static dml_placement_set set_of(const dml_placement_table *t, const dml_placement_stage *s,
                                dml_arena *arena)
{
    dml_placement_set set = dml_placement_set_of(t, s->device, s->replicas, arena);
    dml_placement_kind *kind = DML_NEW_N(arena, dml_placement_kind, s->replicas);
    for (int32_t r = 0; r < s->replicas; r++)
        kind[r] = (dml_placement_kind){t->speed_of[s->device[r]], s->share[r],
                                       t->p->device[s->device[r]].memory_bytes};
    set.kind = kind;
    set.n_kinds = s->replicas;
    return set;
}

/* The figures of the whole, from those of the stages. */
static void sum_up(const dml_placement_problem *p, dml_placement *out)
{
    int64_t fill_ns = 0;
    out->step_ns = out->latency_ns = out->bytes = 0;
    out->slowest = 0;
    for (int32_t k = 0; k < out->n_stages; k++) {
        const dml_placement_stage *s = &out->stage[k];
        if (s->work_ns > out->stage[out->slowest].work_ns) out->slowest = k;
        out->step_ns = MAX2(out->step_ns, fill_ns + 2 * s->x_in_ns + s->work_ns);
        fill_ns += s->way_ns;
        for (int32_t r = 0; r < s->replicas; r++)
            out->bytes = MAX2(out->bytes, s->bytes[r]);
    }
    const dml_placement_stage *slowest = &out->stage[out->slowest];
    out->latency_ns = fill_ns;
    out->mb_ns = slowest->work_ns / p->mbs;
    out->binds =
        slowest->transfer_ns > slowest->compute_ns ? DML_PLACEMENT_TRANSFER : DML_PLACEMENT_COMPUTE;
    if (slowest->reduce_ns > MAX2(slowest->compute_ns, slowest->transfer_ns))
        out->binds = DML_PLACEMENT_REDUCE;
}

/* A table whose segments are the placement's stages, and the prices of them. */
void dml_placement_price_of(const dml_placement_problem *p, dml_arena *arena, dml_placement *out)
{
    dml_arena scratch = {0};
    dml_placement_table t;
    int32_t *border = DML_NEW_N(&scratch, int32_t, out->n_stages + 1);
    for (int32_t k = 0; k < out->n_stages; k++)
        border[k + 1] = out->stage[k].end;
    dml_placement_table_of(p, border, out->n_stages, &scratch, &t);
    int32_t behind = 0;
    bool mixed = false;
    const dml_placement_stage *last = &out->stage[out->n_stages - 1];
    for (int32_t k = out->n_stages - 1; k >= 0; k--) {
        dml_placement_stage *s = &out->stage[k];
        mixed = mixed || !all_of_speed(p, s, p->device[last->device[0]].speed);
        if (!s->share) s->share = shares_of(p, s, arena);
        const dml_placement_set set = set_of(&t, s, &scratch);
        const int32_t in = k > 0 ? level_between(p, s - 1, s) : 0,
                      below = k + 1 < out->n_stages ? level_between(p, s, s + 1) : 0;
        const dml_placement_price price = dml_placement_price_at(&t, &set, k, k + 1, in, below);
        s->compute_ns = price.compute_ns;
        s->transfer_ns = price.transfer_ns;
        s->reduce_ns = price.reduce_ns;
        s->step_ns = price.step_ns;
        s->work_ns = price.work_ns;
        s->x_in_ns = price.x_in_ns;
        s->way_ns = 2 * price.x_in_ns + price.slowest_ns;
        price_devices(&t, s, k, k + 1, behind, mixed, arena);
        behind += s->replicas;
    }
    sum_up(p, out);
    dml_arena_free(&scratch);
}

/* Follows the choices from the first stage on. */
static void unfold(const search *x, dml_arena *arena, dml_placement *out)
{
    const dml_placement_table *t = &x->table;
    dml_arena scratch = {0};
    bool *taken = DML_NEW_N(&scratch, bool, x->p->n_devices);
    *out =
        (dml_placement){.how = x->space.how, .stage = DML_NEW_N(arena, dml_placement_stage, t->n)};
    for (int32_t u = x->whole, i = 0, level = 0; u != 0;) {
        const choice c = x->from[at(x, u, i, level)];
        const dml_placement_edge *e = &x->space.edge[c.edge];
        const dml_placement_set *set = &x->space.set[e->set];
        int32_t *device = DML_NEW_N(arena, int32_t, set->n);
        dml_placement_devices(t, &x->space, set, taken, device);
        out->stage[out->n_stages++] = (dml_placement_stage){
            .begin = t->at[i], .end = t->at[c.end], .replicas = set->n, .device = device};
        u = e->next;
        i = c.end;
        level = e->level;
    }
    dml_arena_free(&scratch);
    dml_placement_price_of(x->p, arena, out);
}

/* ---- limits ---- */

/* The least *limit up to `most` under which there is a solution within most_ns, where `most` has one; left in place, and
 * solved. */
static void bisect(search *x, int64_t *limit, int64_t most, int64_t most_ns)
{
    int64_t low = -1;
    while (most - low > 1) {
        *limit = low + (most - low) / 2;
        if (solve(x) && x->best_ns <= most_ns)
            most = *limit;
        else
            low = *limit;
    }
    *limit = most;
    solve(x);
}

/* Bytes that segment k is short on every device, before any border, or as a stage where the bytes are the caller's. */
static int64_t short_everywhere(const search *x, int32_t k)
{
    const dml_partition_grid *g = &x->table.grid;
    const int64_t alone = g->state[k + 1] - g->state[k] + g->stash[k + 1] - g->stash[k];
    const int64_t bytes = x->p->bytes ? dml_placement_bytes(&x->table, k, k + 1, 1) : alone;
    int64_t least = INT64_MAX;
    for (int32_t d = 0; d < x->p->n_devices; d++) {
        const int64_t limit = x->p->device[d].memory_bytes;
        const int64_t lacks = limit > 0 && bytes > limit ? bytes - limit : 0;
        if (lacks < least) least = lacks;
    }
    return least;
}

static dml_err fail_memory(search *x)
{
    const dml_placement_table *t = &x->table;
    int32_t worst = 0;
    for (int32_t k = 1; k < t->n; k++)
        if (short_everywhere(x, k) > short_everywhere(x, worst)) worst = k;
    const int64_t lacks = short_everywhere(x, worst);
    const char *first = x->p->layer[t->at[worst]].name,
               *last = x->p->layer[t->at[worst + 1] - 1].name;
    if (lacks > 0 && first == last)
        DML_FAIL(DML_ERR_NOMEM,
                 "layer '%s' alone is too large for every device: %" PRId64 " bytes short", first,
                 lacks);
    if (lacks > 0)
        DML_FAIL(DML_ERR_NOMEM,
                 "layers '%s' to '%s', which no cut divides, are too large for every device: "
                 "%" PRId64 " bytes short",
                 first, last, lacks);
    x->table.spare_bytes = 1;
    while (!solve(x)) /* one device with enough memory could run everything */
        x->table.spare_bytes *= 2;
    bisect(x, &x->table.spare_bytes, x->table.spare_bytes, INT64_MAX);
    DML_FAIL(DML_ERR_NOMEM,
             "no placement fits: the nearest needs %" PRId64 " bytes more on every device",
             x->table.spare_bytes);
}

static dml_err check(const dml_placement_problem *p)
{
    if (p->n_layers < 1 || p->n_devices < 1 || p->mbs < 1)
        DML_FAIL(DML_ERR_SPEC, "%d layers on %d devices in %d micro-batches", p->n_layers,
                 p->n_devices, p->mbs);
    for (int32_t d = 0; d < p->n_devices; d++)
        if (!(p->device[d].speed > 0.0))
            DML_FAIL(DML_ERR_SPEC, "device %d: a speed of %g", d, p->device[d].speed);
    for (int32_t l = 0; l < p->links.levels; l++)
        if (p->links.level[l].workers <= (l > 0 ? p->links.level[l - 1].workers : 0))
            DML_FAIL(DML_ERR_SPEC, "level %d of links has blocks of %d devices", l,
                     p->links.level[l].workers);
    return dml_partition_check_skips(
        &(dml_partition_problem){.skip = p->skip, .n_skips = p->n_skips, .n_layers = p->n_layers});
}

static dml_err search_best(search *x, dml_arena *arena, dml_placement *out)
{
    const dml_placement_problem *p = x->p;
    const int64_t most_ns =
        p->most_ns > 0 && p->objective != DML_OBJECTIVE_LATENCY ? p->most_ns : INT64_MAX;
    x->latency = p->objective == DML_OBJECTIVE_LATENCY;
    if (!solve(x)) return fail_memory(x);
    if (x->best_ns > most_ns)
        DML_FAIL(DML_ERR_NOMEM,
                 "the fastest placement takes %" PRId64 " ns a step, the limit is %" PRId64,
                 x->best_ns, most_ns);
    unfold(x, arena, out);
    if (p->objective == DML_OBJECTIVE_MEMORY) {
        bisect(x, &x->table.cap_bytes, out->bytes, most_ns);
        unfold(x, arena, out);
    }
    return DML_ERR_OK;
}

dml_err dml_placement_find(const dml_placement_problem *p, dml_arena *arena, dml_placement *out)
{
    DML_TRY(check(p));
    search x = {.p = p};
    dml_placement_table_of(p, NULL, 0, &x.arena, &x.table);
    x.space = dml_placement_space_of(&x.table, &x.arena);
    const int64_t cells = at(&x, x.space.n_states, 0, 0);
    x.best = DML_NEW_N(&x.arena, int64_t, cells);
    x.from = DML_NEW_N(&x.arena, choice, cells);
    const dml_err err = search_best(&x, arena, out);
    dml_arena_free(&x.arena);
    return err;
}

const char *dml_placement_how_text(dml_placement_how how)
{
    static const char *const text[] = {
#define X(name, said) [DML_PLACEMENT_##name] = said,
        DML_PLACEMENT_LIST(X)
#undef X
    };
    return text[how];
}
