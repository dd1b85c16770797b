/* tests/schedule/support.c */
#include "tests/schedule/support.h"

#include "engine/base/arena.h"
#include "engine/base/rng.h"
#include "schedule/lower.h"
#include "schedule/recompute.h"
#include "schedule/schedule.h"
#include "schedule/versions.h"

#include <stdlib.h>

rnd rnd_of(uint64_t seed)
{
    return (rnd){.key = dml_rng_key(seed, DML_RNG_TEST, 0)};
}

int32_t rnd_below(rnd *r, int32_t n)
{
    uint32_t word[4];
    dml_rng_block(r->key, 0, r->count++, word);
    return (int32_t)(word[0] % (uint32_t)n);
}

dml_program make_order(const char *schedule, int32_t stages, int32_t mbs)
{
    const dml_schedule *s;
    dml_program order;
    DML_CHECK_OK(dml_schedule_find(schedule, &s));
    DML_CHECK_OK(dml_schedule_build(
        s, &(dml_schedule_args){.stages = stages, .virtual_stages = 1, .mbs = mbs}, &order));
    return order;
}

dml_schedule_args with_updates(const dml_schedule *s, dml_schedule_args args)
{
    const bool two = args.mbs % 2 == 0 && args.mbs / 2 >= args.stages;
    if (s == &dml_schedule_pipedream) args.update_mbs = 1;
    if (s == &dml_schedule_pipedream_2bw) args.update_mbs = two ? args.mbs / 2 : args.mbs;
    return args;
}

dml_cost make_cost(int32_t chunks, int64_t f, int64_t i, int64_t w, int64_t latency_ns)
{
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, chunks, f, i, w));
    cost.links.outer.latency_ns = latency_ns;
    return cost;
}

dml_program make_program(const char *schedule, int32_t stages, int32_t mbs, int64_t f, int64_t i,
                         int64_t w)
{
    dml_program order = make_order(schedule, stages, mbs), program;
    dml_cost cost = make_cost(stages, f, i, w, 0);
    DML_CHECK_OK(dml_lower(&order, &cost, &program));
    dml_cost_free(&cost);
    dml_program_free(&order);
    return program;
}

static void random_routes(rnd *r, dml_program *p)
{
    const int32_t mode = rnd_below(r, 3);
    const int32_t replicas = 1 + rnd_below(r, p->workers);
    for (int32_t c = 0; c < p->chunks; c++) {
        const int32_t base = rnd_below(r, p->workers);
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            const int32_t way[] = {base, base + mb % replicas, rnd_below(r, p->workers)};
            *dml_program_route(p, c, mb) = way[mode] % p->workers;
        }
    }
}

void random_skips(rnd *r, dml_program *p)
{
    enum { VALUES = 3 };
    dml_skip skip[VALUES * 8];
    int32_t n = 0;
    for (int32_t v = rnd_below(r, VALUES + 1); v > 0 && p->chunks > 1; v--) {
        const int32_t from = rnd_below(r, p->chunks - 1);
        int32_t back = from;
        for (int32_t to = from + 1; to < p->chunks; to++) {
            const int32_t way =
                rnd_below(r, 3); /* not read, read past others, or as what crosses */
            if (way == 1) skip[n++] = (dml_skip){from, to, back};
            if (way > 0) back = to;
        }
    }
    DML_CHECK_OK(dml_program_set_skips(p, n, skip));
}

/* What is emitted already, and what may come next. */
typedef struct emission {
    dml_program *p;
    bool *fwd, *input, *weight, *split; /* [chunks][mbs] */
    int32_t *reads;                     /* [chunks][mbs] version */
} emission;

static int32_t cell(const emission *e, int32_t c, int32_t mb)
{
    return c * e->p->mbs + mb;
}

static bool ready(const emission *e, dml_op_kind kind, int32_t c, int32_t mb)
{
    const int32_t k = cell(e, c, mb);
    if (kind == DML_OP_FWD) return !e->fwd[k] && (c == 0 || e->fwd[cell(e, c - 1, mb)]);
    if (e->p->forward_only) return false;
    if (kind == DML_OP_BWD_WEIGHT) return e->split[k] && e->input[k] && !e->weight[k];
    if (e->split[k] != (kind == DML_OP_BWD_INPUT)) return false;
    return e->fwd[k] && !e->input[k] && (c == e->p->chunks - 1 || e->input[cell(e, c + 1, mb)]);
}

/* The first update of the chunk that is not emitted whole. */
static int32_t updates_emitted(const emission *e, int32_t c)
{
    for (int32_t mb = 0; mb < e->p->mbs; mb++)
        if (!e->weight[cell(e, c, mb)]) return mb / e->p->update_mbs[c];
    return e->p->mbs / e->p->update_mbs[c];
}

/* One that all workers that hold the chunk, or with votes all workers, have done their part for. */
static int32_t any_version(rnd *r, const emission *e, int32_t c)
{
    int32_t made = updates_emitted(e, c);
    for (int32_t k = 0; k < e->p->chunks && e->p->votes; k++)
        if (updates_emitted(e, k) < made) made = updates_emitted(e, k);
    const int32_t back = rnd_below(r, 3);
    return made > back ? made - back : 0;
}

static int32_t version_read(const void *ctx, int32_t chunk, int32_t mb)
{
    const emission *e = ctx;
    return e->reads[cell(e, chunk, mb)];
}

static void emit(emission *e, dml_op_kind kind, int32_t c, int32_t mb)
{
    const int32_t k = cell(e, c, mb);
    dml_program_push(e->p, *dml_program_route(e->p, c, mb), kind, c, mb);
    if (kind == DML_OP_FWD) e->fwd[k] = true;
    if (kind == DML_OP_BWD || kind == DML_OP_BWD_INPUT) e->input[k] = true;
    if (kind == DML_OP_BWD || kind == DML_OP_BWD_WEIGHT) e->weight[k] = true;
}

/* Emits everything, in any order that respects the dependencies. */
static void emit_all(rnd *r, emission *e)
{
    static const dml_op_kind kinds[] = {DML_OP_FWD, DML_OP_BWD, DML_OP_BWD_INPUT,
                                        DML_OP_BWD_WEIGHT};
    const int32_t eager = rnd_below(r, 4); /* of 4: prefers what is deepest in the model */
    for (;;) {
        int32_t n = 0, pick_c = 0, pick_mb = 0;
        dml_op_kind pick = DML_OP_FWD;
        for (int32_t c = 0; c < e->p->chunks; c++)
            for (int32_t mb = 0; mb < e->p->mbs; mb++)
                for (int32_t k = 0; k < 4; k++)
                    if (ready(e, kinds[k], c, mb) &&
                        (rnd_below(r, ++n) == 0 || rnd_below(r, 4) < eager)) {
                        pick = kinds[k];
                        pick_c = c;
                        pick_mb = mb;
                    }
        if (n == 0) break;
        if (pick == DML_OP_FWD) e->reads[cell(e, pick_c, pick_mb)] = any_version(r, e, pick_c);
        emit(e, pick, pick_c, pick_mb);
    }
}

/* Ops for the routes of `p`, in buckets or not, whole or split, recomputed or not. */
static void fill_order(rnd *r, dml_program *p)
{
    const bool buckets = !p->forward_only && rnd_below(r, 2);
    for (int32_t c = 0; c < p->chunks && buckets; c++)
        p->buckets[c] = 1 + rnd_below(r, 4);
    dml_arena arena = {0};
    const int32_t cells = p->chunks * p->mbs;
    emission e = {.p = p,
                  .fwd = DML_NEW_N(&arena, bool, cells),
                  .input = DML_NEW_N(&arena, bool, cells),
                  .weight = DML_NEW_N(&arena, bool, cells),
                  .split = DML_NEW_N(&arena, bool, cells),
                  .reads = DML_NEW_N(&arena, int32_t, cells)};
    const int32_t split = rnd_below(r, 3);
    for (int32_t k = 0; k < cells; k++)
        e.split[k] = split == 0 || (split == 1 && rnd_below(r, 2));
    emit_all(r, &e);
    if (dml_program_is_async(p)) DML_CHECK_OK(dml_versions_set(p, version_read, &e));
    dml_arena_free(&arena);
    if (rnd_below(r, 2))
        DML_CHECK_OK(dml_schedule_recompute(p, (dml_recompute)rnd_below(r, DML_RECOMPUTES)));
}

dml_program random_order(rnd *r)
{
    dml_program p;
    DML_CHECK_OK(
        dml_program_init(&p, 1 + rnd_below(r, 5), 1 + rnd_below(r, 6), 1 + rnd_below(r, 6)));
    p.forward_only = rnd_below(r, 7) == 0;
    p.staggered = !p.forward_only && p.mbs % 3 == 0;
    random_routes(r, &p);
    if (rnd_below(r, 2)) random_skips(r, &p);
    fill_order(r, &p);
    return p;
}

/* A chunk is held by as many workers as divide its updates; each takes its share of each of them. */
dml_program random_async_order(rnd *r)
{
    const int32_t update_mbs = 1 + rnd_below(r, 4), updates = 2 + rnd_below(r, 2);
    dml_program p;
    DML_CHECK_OK(
        dml_program_init(&p, 1 + rnd_below(r, 4), 1 + rnd_below(r, 4), update_mbs * updates));
    p.votes = rnd_below(r, 2);
    for (int32_t c = 0; c < p.chunks; c++) {
        p.update_mbs[c] = update_mbs;
        int32_t holders = 1 + rnd_below(r, p.workers);
        while (update_mbs % holders != 0)
            holders--;
        const int32_t base = rnd_below(r, p.workers);
        for (int32_t mb = 0; mb < p.mbs; mb++)
            *dml_program_route(&p, c, mb) = (base + mb % holders) % p.workers;
    }
    if (rnd_below(r, 2)) random_skips(r, &p);
    fill_order(r, &p);
    return p;
}

dml_program random_any_order(rnd *r)
{
    return rnd_below(r, 3) ? random_order(r) : random_async_order(r);
}

static void random_shares(rnd *r, dml_cost *cost, int32_t chunk, int32_t n)
{
    DML_CHECK_OK(dml_cost_buckets(cost, chunk, n));
    for (int32_t k = 0; k + 1 < n; k++) {
        dml_bucket_cost *b = &cost->chunk[chunk].bucket[k];
        const double before[3] = {k ? b[-1].bwd : 0, k ? b[-1].bwd_weight : 0,
                                  k ? b[-1].reduce : 0};
        double *share[3] = {&b->bwd, &b->bwd_weight, &b->reduce};
        for (int32_t i = 0; i < 3; i++)
            *share[i] = before[i] + (1 - before[i]) * rnd_below(r, 3) / 2; /* 0 or all of it, too */
    }
}

dml_cost random_cost(rnd *r, const dml_program *p)
{
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, p->chunks));
    const int32_t scale = rnd_below(r, 4) ? 20 : 1; /* sometimes most of it is 0 */
    for (int32_t c = 0; c < p->chunks; c++)
        cost.chunk[c] = (dml_chunk_cost){.fwd_ns = rnd_below(r, scale),
                                         .bwd_input_ns = rnd_below(r, scale),
                                         .bwd_weight_ns = rnd_below(r, scale),
                                         .recompute_ns = rnd_below(r, scale),
                                         .reduce_ns = rnd_below(r, scale),
                                         .step_ns = rnd_below(r, scale),
                                         .out_bytes = rnd_below(r, 100)};
    for (int32_t c = 0; c < p->chunks; c++)
        random_shares(r, &cost, c, p->buckets[c]);
    DML_CHECK_OK(dml_cost_skips(&cost, p->n_skips));
    for (int32_t k = 0; k < p->n_skips; k++)
        cost.skip_bytes[k] = rnd_below(r, 100);
    cost.links.outer.latency_ns = rnd_below(r, 2) ? 0 : rnd_below(r, 30);
    cost.links.outer.bytes_per_s = rnd_below(r, 2) ? 0 : 10000000000;
    return cost;
}

void random_cluster(rnd *r, int32_t workers, dml_cost *cost)
{
    static const double pace[] = {1.0, 0.5, 0.25, 2.0, 0.7};
    double speed[64];
    DML_CHECK(workers <= 64);
    for (int32_t w = 0; w < workers; w++)
        speed[w] = pace[rnd_below(r, 5)];
    DML_CHECK_OK(dml_cost_speeds(cost, workers, rnd_below(r, 3) ? speed : NULL));
    const dml_link_level level[] = {{1 + rnd_below(r, 2), {rnd_below(r, 10), 2e10}},
                                    {3, {rnd_below(r, 20), rnd_below(r, 2) ? 1e10 : 0}}};
    const dml_links links = {
        .outer = {rnd_below(r, 40), 5e9}, .levels = rnd_below(r, 3), .level = level};
    DML_CHECK_OK(dml_cost_links(cost, &links));
}

int32_t count_ops(const dml_program *p, int32_t worker, dml_op_kind kind)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->list[worker].n; i++)
        n += p->list[worker].op[i].kind == kind;
    return n;
}

void drop_op(dml_program *p, int32_t worker, int32_t i)
{
    dml_op_list *list = &p->list[worker];
    list->n--;
    memmove(&list->op[i], &list->op[i + 1], (size_t)(list->n - i) * sizeof *list->op);
    for (int32_t k = i; k < list->n; k++)
        for (int32_t a = 0; a < DML_OP_WAITS; a++) {
            int32_t *wait = &list->op[k].wait[a];
            *wait = *wait == i ? DML_NO_WAIT : *wait - (*wait > i);
        }
}

void check_golden(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/%s", DML_SOURCE_DIR, name);
    if (getenv("DML_BLESS")) {
        FILE *f = fopen(path, "wb");
        DML_CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
        return;
    }
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("no golden %s; DML_BLESS=1 writes it", path);
    static char want[1 << 20];
    want[fread(want, 1, sizeof want - 1, f)] = '\0';
    fclose(f);
    if (strcmp(want, text) == 0) return;
    int32_t line = 1;
    for (size_t i = 0; want[i] && want[i] == text[i]; i++)
        line += want[i] == '\n';
    fail_msg("differs from %s at line %d; this is what it is now:\n%s", path, line, text);
}
