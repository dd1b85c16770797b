/* tests/engine/test_placement.c - placements against all of them, priced here device by device. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/placement.h"

#include <math.h>
#include <stdlib.h>

enum { LAYERS = 12, DEVICES = 5, SKIPS = 3, LINKS = 3, NAME = 12 };

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* ---- one random problem ---- */

typedef struct instance {
    dml_placement_problem p;
    dml_partition_layer layer[LAYERS];
    int64_t reduce_bytes[LAYERS], step_ns[LAYERS];
    dml_partition_skip skip[SKIPS];
    dml_placement_device device[DEVICES];
    dml_link_level link[LINKS];
    char name[LAYERS][NAME];
    uint64_t key, drawn;
} instance;

/* Uniform on [0, n). */
static int32_t draw(instance *x, int32_t n)
{
    uint32_t word[4];
    dml_rng_block(x->key, 0, x->drawn++, word);
    return (int32_t)(word[0] % (uint32_t)n);
}

static void draw_layers(instance *x)
{
    const bool wide = draw(x, 3) == 0; /* transfers bind */
    for (int32_t i = 0; i < x->p.n_layers; i++) {
        snprintf(x->name[i], NAME, "l%d", i);
        dml_partition_layer *l = &x->layer[i];
        l->name = x->name[i];
        for (int k = 0; k < 3; k++)
            l->ns[k] = draw(x, 100);
        l->state_bytes = draw(x, 100);
        l->stash_bytes = draw(x, 30);
        l->out_bytes = draw(x, wide ? 300 : 60);
        l->may_end_stage = draw(x, 4) != 0;
        l->tied = draw(x, 10) == 0 ? 1 + draw(x, 2) : 0;
        x->reduce_bytes[i] = draw(x, draw(x, 3) ? 20 : 400);
        x->step_ns[i] = draw(x, 20);
    }
}

static void draw_cluster(instance *x)
{
    static const double speed[] = {0.25, 0.5, 1.0, 1.0, 2.0};
    const bool tight = draw(x, 2) == 0, alike = draw(x, 3) == 0;
    for (int32_t d = 0; d < x->p.n_devices; d++)
        x->device[d] = (dml_placement_device){alike ? 1.0 : speed[draw(x, 5)],
                                              tight ? 200 + draw(x, alike ? 2 : 700) : 0};
    const int32_t levels = draw(x, LINKS + 1);
    for (int32_t l = 0; l < levels; l++)
        x->link[l] = (dml_link_level){2 + 2 * l, {draw(x, 20 * (l + 1)), draw(x, 4) * 5e8}};
    x->p.links =
        (dml_links){.outer = {draw(x, 60), draw(x, 4) * 5e8}, .levels = levels, .level = x->link};
}

static void make(instance *x, uint32_t number)
{
    *x = (instance){.key = dml_rng_key(9, DML_RNG_TEST, number)};
    dml_placement_problem *p = &x->p;
    *p = (dml_placement_problem){.layer = x->layer,
                                 .reduce_bytes = x->reduce_bytes,
                                 .step_ns = x->step_ns,
                                 .skip = x->skip,
                                 .device = x->device,
                                 .n_layers = 1 + draw(x, LAYERS),
                                 .n_devices = 1 + draw(x, DEVICES),
                                 .mbs = 1 + draw(x, 12),
                                 .objective = (dml_objective)(number % 3),
                                 .reduce_overlaps = draw(x, 2)};
    draw_layers(x);
    draw_cluster(x);
    if (p->n_layers > 1) p->n_skips = draw(x, SKIPS + 1);
    for (int32_t k = 0; k < p->n_skips; k++) {
        x->skip[k].from = draw(x, p->n_layers - 1);
        x->skip[k].to = x->skip[k].from + 1 + draw(x, p->n_layers - 1 - x->skip[k].from);
    }
}

/* ---- the price of one placement, by definition ---- */

typedef struct stage {
    int32_t begin, end, n, device[DEVICES], share[DEVICES];
} stage;

typedef struct cost {
    int64_t step_ns, latency_ns, bytes,
        lacks; /* lacks: beyond the limits, the most of any device */
} cost;

/* Bytes of the values made in layers [a, b) and read in [c, d), each once; the chain reads b - 1 at b. */
static int64_t bytes_between(const dml_placement_problem *p, int32_t a, int32_t b, int32_t c,
                             int32_t d)
{
    int64_t bytes = 0;
    for (int32_t v = a; v < b; v++) {
        bool read = v + 1 >= c && v + 1 < d;
        for (int32_t k = 0; k < p->n_skips; k++)
            read |= p->skip[k].from == v && p->skip[k].to >= c && p->skip[k].to < d;
        if (read) bytes += p->layer[v].out_bytes;
    }
    return bytes;
}

/* 0 the innermost; the outer one last. */
static int32_t level_of(const dml_placement_problem *p, int32_t a, int32_t b)
{
    int32_t l = 0;
    while (l < p->links.levels && a / p->links.level[l].workers != b / p->links.level[l].workers)
        l++;
    return l;
}

/* `steps` latencies and the bytes. */
static int64_t over(const dml_placement_problem *p, int32_t level, int32_t steps, double bytes)
{
    const dml_link *link = level < p->links.levels ? &p->links.level[level].link : &p->links.outer;
    return steps * link->latency_ns +
           (link->bytes_per_s > 0 ? (int64_t)(bytes / link->bytes_per_s * 1e9) : 0);
}

/* One transfer between the stages, over the outermost level that any pair needs. */
static int64_t link_ns(const dml_placement_problem *p, const stage *a, const stage *b,
                       int64_t bytes)
{
    int32_t level = 0;
    for (int32_t i = 0; i < a->n; i++)
        for (int32_t j = 0; j < b->n; j++)
            level = MAX2(level, level_of(p, a->device[i], b->device[j]));
    return over(p, level, 1, (double)bytes);
}

static int64_t ring_ns(const dml_placement_problem *p, const stage *s, int64_t bytes)
{
    int32_t level = 0;
    if (s->n < 2 || bytes == 0) return 0;
    for (int32_t i = 0; i < s->n; i++)
        for (int32_t j = 0; j < i; j++)
            level = MAX2(level, level_of(p, s->device[i], s->device[j]));
    return over(p, level, 2 * (s->n - 1), (double)bytes * (2.0 * (s->n - 1)) / s->n);
}

static double memory_of(const dml_placement_device *d)
{
    return d->memory_bytes ? (double)d->memory_bytes : INFINITY;
}

/* One each, then to whoever is done first with one more. */
static void deal(const dml_placement_problem *p, stage *s)
{
    for (int32_t i = 0; i < s->n; i++)
        s->share[i] = 1;
    for (int32_t given = s->n; given < p->mbs; given++) {
        int32_t to = 0;
        for (int32_t i = 1; i < s->n; i++) {
            const dml_placement_device *a = &p->device[s->device[i]],
                                       *b = &p->device[s->device[to]];
            const double x = (s->share[i] + 1) / a->speed, y = (s->share[to] + 1) / b->speed;
            if (x != y                         ? x < y
                : memory_of(a) != memory_of(b) ? memory_of(a) > memory_of(b)
                                               : a->speed > b->speed)
                to = i;
        }
        s->share[to]++;
    }
}

static cost cost_of(const dml_placement_problem *p, stage *s, int32_t n)
{
    cost c = {0};
    int32_t behind = 0;
    double low = INFINITY, high = 0.0;
    for (int32_t k = n - 1; k >= 0;
         k--) { /* what each stage takes and holds; suffixes of the step */
        stage *here = &s[k];
        const int32_t a = here->begin, b = here->end;
        int64_t ns = 0, state = 0, stash = 0, params = 0, step = 0;
        for (int32_t i = a; i < b; i++) {
            ns += p->layer[i].ns[0] + p->layer[i].ns[1] + p->layer[i].ns[2];
            state += p->layer[i].state_bytes;
            stash += p->layer[i].stash_bytes;
            params += p->reduce_bytes[i];
            step += p->step_ns[i];
        }
        const int64_t in = bytes_between(p, 0, a, a, b),
                      out = bytes_between(p, a, b, b, p->n_layers);
        const int64_t x_in = k > 0 ? link_ns(p, here - 1, here, in) : 0;
        const int64_t x_out = k + 1 < n ? link_ns(p, here, here + 1, out) : 0;
        deal(p, here);
        int64_t work = 0, slowest = 0, update = 0;
        for (int32_t i = 0; i < here->n; i++) {
            const double speed = p->device[here->device[i]].speed;
            const int64_t one = llround((double)ns / speed);
            work = MAX2(work, here->share[i] * one);
            work = MAX2(work, here->share[i] * (x_in + x_out));
            slowest = MAX2(slowest, one);
            update = MAX2(update, llround((double)step / speed));
            low = fmin(low, speed);
            high = fmax(high, speed);
        }
        for (int32_t i = 0; i < here->n; i++) {
            const int64_t limit = p->device[here->device[i]].memory_bytes;
            int32_t held = 1 + (int32_t)ceil((double)behind * here->share[i] / p->mbs - 1e-9);
            if (low != high) held++;
            if (held > here->share[i]) held = here->share[i];
            const int64_t bytes = state + held * (stash + in) + in + out;
            c.bytes = MAX2(c.bytes, bytes);
            if (limit) c.lacks = MAX2(c.lacks, bytes - limit);
        }
        const int64_t reduce = ring_ns(p, here, params);
        work = (p->reduce_overlaps ? MAX2(work, reduce) : work + reduce) + update;
        c.step_ns = 2 * x_in + MAX2(work, k + 1 < n ? slowest + c.step_ns : 0);
        c.latency_ns += 2 * x_in + slowest;
        behind += here->n;
    }
    return c;
}

/* ---- all placements ---- */

typedef struct hunt {
    const dml_placement_problem *p;
    stage s[DEVICES];
    cost best;
    int64_t least_lack;
    bool found, legal[LAYERS + 1]; /* borders */
} hunt;

static void judge(hunt *h, int32_t n)
{
    const cost c = cost_of(h->p, h->s, n);
    if (c.lacks < h->least_lack) h->least_lack = c.lacks;
    if (c.lacks > 0 || (h->p->most_ns > 0 && c.step_ns > h->p->most_ns)) return;
    bool better = !h->found;
    switch (h->p->objective) {
    case DML_OBJECTIVE_THROUGHPUT: better |= c.step_ns < h->best.step_ns; break;
    case DML_OBJECTIVE_LATENCY: better |= c.latency_ns < h->best.latency_ns; break;
    case DML_OBJECTIVE_MEMORY:
        better |=
            c.bytes < h->best.bytes || (c.bytes == h->best.bytes && c.step_ns < h->best.step_ns);
        break;
    }
    if (better) h->best = c;
    h->found = true;
}

static bool legal_border(const dml_placement_problem *p, int32_t at)
{
    if (at == p->n_layers) return true;
    if (!p->layer[at - 1].may_end_stage) return false;
    for (int32_t i = 0; i < at; i++)
        for (int32_t j = at; j < p->n_layers; j++)
            if (p->layer[i].tied > 0 && p->layer[i].tied == p->layer[j].tied) return false;
    return true;
}

/* Stage k and those behind it begin at `begin`, on any of the devices that are left. */
static void try_all(hunt *h, int32_t k, int32_t begin, uint32_t left)
{
    if (begin == h->p->n_layers) {
        judge(h, k);
        return;
    }
    for (int32_t end = begin + 1; end <= h->p->n_layers; end++) {
        if (!h->legal[end]) continue;
        for (uint32_t set = 1; set < 1u << h->p->n_devices; set++) {
            if (set & ~left) continue;
            stage *s = &h->s[k];
            *s = (stage){.begin = begin, .end = end};
            for (int32_t d = 0; d < h->p->n_devices; d++)
                if (set >> d & 1) s->device[s->n++] = d;
            if (s->n <= h->p->mbs) try_all(h, k + 1, end, left & ~set);
        }
    }
}

static hunt hunt_all(const dml_placement_problem *p)
{
    hunt h = {.p = p, .least_lack = INT64_MAX};
    for (int32_t at = 1; at <= p->n_layers; at++)
        h.legal[at] = legal_border(p, at);
    try_all(&h, 0, 0, (1u << p->n_devices) - 1);
    return h;
}

static void check_same(const char *what, uint32_t number, int64_t want, int64_t got)
{
    if (want != got)
        fail_msg("instance %u: %s is %lld, the best of all %lld", number, what, (long long)got,
                 (long long)want);
}

/* The placement is whole and legal, and its figures are those of the definition. */
static void check_placement(const dml_placement_problem *p, const dml_placement *got,
                            uint32_t number)
{
    stage s[DEVICES] = {{0}};
    uint32_t taken = 0;
    int32_t begin = 0;
    for (int32_t k = 0; k < got->n_stages; k++) {
        const dml_placement_stage *g = &got->stage[k];
        s[k] = (stage){.begin = g->begin, .end = g->end, .n = g->replicas};
        DML_CHECK_EQ(begin, g->begin);
        DML_CHECK(g->end > begin && legal_border(p, g->end));
        begin = g->end;
        int32_t all = 0;
        for (int32_t r = 0; r < g->replicas; r++) {
            DML_CHECK(!(taken >> g->device[r] & 1));
            taken |= 1u << g->device[r];
            s[k].device[r] = g->device[r];
            all += g->share[r];
        }
        DML_CHECK_EQ(p->mbs, all);
    }
    DML_CHECK_EQ(p->n_layers, begin);
    const cost c = cost_of(p, s, got->n_stages);
    check_same("its step", number, c.step_ns, got->step_ns);
    check_same("its latency", number, c.latency_ns, got->latency_ns);
    check_same("its fullest device", number, c.bytes, got->bytes);
    DML_CHECK(c.lacks <= 0);
    for (int32_t k = 0; k < got->n_stages; k++)
        for (int32_t r = 0; r < got->stage[k].replicas; r++)
            DML_CHECK_EQ(s[k].share[r], got->stage[k].share[r]);
}

static void two_thousand_random_placements_are_the_best_of_all(void **state)
{
    (void)state;
    int32_t placed = 0, full = 0, replicated = 0, how[3] = {0};
    for (uint32_t number = 0; number < 2000; number++) {
        instance x;
        make(&x, number);
        const hunt h = hunt_all(&x.p);
        dml_arena arena = {0};
        dml_placement got;
        const dml_err err = dml_placement_find(&x.p, &arena, &got);
        if (!h.found) {
            DML_CHECK_EQ(DML_ERR_NOMEM, err);
            full++;
        } else {
            DML_CHECK_OK(err);
            check_placement(&x.p, &got, number);
            switch (x.p.objective) {
            case DML_OBJECTIVE_MEMORY:
                check_same("the fullest device", number, h.best.bytes, got.bytes);
                /* fall through */
            case DML_OBJECTIVE_THROUGHPUT:
                check_same("the step", number, h.best.step_ns, got.step_ns);
                break;
            case DML_OBJECTIVE_LATENCY:
                check_same("the latency", number, h.best.latency_ns, got.latency_ns);
                break;
            }
            placed++;
            how[got.how]++;
            for (int32_t k = 0; k < got.n_stages; k++)
                replicated += got.n_stages > 1 && got.stage[k].replicas > 1;
        }
        dml_arena_free(&arena);
    }
    DML_CHECK(placed > 1000 && full > 100 && replicated > 200);
    DML_CHECK(how[DML_PLACEMENT_SETS] > 300 && how[DML_PLACEMENT_CLASSES] > 300);
}

/* ---- known placements ---- */

enum { MANY = 128, CLUSTER = 64 };

typedef struct large {
    dml_placement_problem p;
    dml_partition_layer layer[MANY];
    int64_t reduce_bytes[MANY];
    dml_placement_device device[CLUSTER];
    dml_link_level node;
    dml_arena arena;
    dml_placement got;
} large;

/* n equal layers of 30 units, on devices of speed 1. */
static void make_large(large *x, int32_t n, int32_t devices, int32_t mbs)
{
    *x = (large){.p = {.n_layers = n, .n_devices = devices, .mbs = mbs}};
    x->p.layer = x->layer;
    x->p.reduce_bytes = x->reduce_bytes;
    x->p.device = x->device;
    for (int32_t i = 0; i < n; i++)
        x->layer[i] = (dml_partition_layer){.name = "l", .ns = {10, 10, 10}, .may_end_stage = true};
    for (int32_t d = 0; d < devices; d++)
        x->device[d].speed = 1.0;
}

/* The stages as "[0,2)x3 [2,6)x1". */
static void expect(large *x, const char *want)
{
    char got[256];
    int n = 0;
    DML_CHECK_OK(dml_placement_find(&x->p, &x->arena, &x->got));
    for (int32_t k = 0; k < x->got.n_stages; k++) {
        const dml_placement_stage *s = &x->got.stage[k];
        n += snprintf(got + n, sizeof got - (size_t)n, "%s[%d,%d)x%d", k ? " " : "", s->begin,
                      s->end, s->replicas);
    }
    if (strcmp(got, want) != 0) fail_msg("%s, not %s", got, want);
    dml_arena_free(&x->arena);
}

static void parameters_that_are_slow_to_reduce_are_not_replicated(void **state)
{
    (void)state;
    large x;
    make_large(&x, 3, 4, 12);
    for (int i = 0; i < 2; i++)
        x.layer[i].ns[0] = 25; /* 45, 45, 30 */
    expect(&x, "[0,3)x4");     /* nothing to reduce: no pipeline, no bubble */
    x.reduce_bytes[2] = 1000000;
    x.p.links.outer.bytes_per_s = 1e9; /* 1 ms, a step of 0.4 us */
    expect(&x, "[0,2)x3 [2,3)x1");
    for (int i = 0; i < 3; i++)
        x.reduce_bytes[i] = 1000000;
    expect(&x, "[0,1)x1 [1,2)x1 [2,3)x1");
}

static void a_device_four_times_as_fast_takes_four_times_as_much(void **state)
{
    (void)state;
    large x;
    make_large(&x, 10, 2, 20);
    x.device[1].speed = 0.25;
    DML_CHECK_OK(dml_placement_find(&x.p, &x.arena, &x.got));
    DML_CHECK_EQ(1, x.got.n_stages); /* 16 and 4 of 20 micro-batches */
    DML_CHECK_EQ(16, x.got.stage[0].share[0]);
    dml_arena_free(&x.arena);
    for (int i = 0; i < 10; i++)
        x.reduce_bytes[i] = 1000000;
    x.p.links.outer.bytes_per_s = 1e9;
    DML_CHECK_OK(dml_placement_find(&x.p, &x.arena, &x.got));
    DML_CHECK_EQ(2, x.got.n_stages);
    DML_CHECK_EQ(0, x.got.stage[0].device[0]);
    DML_CHECK_EQ(8, x.got.stage[0].end);
    dml_arena_free(&x.arena);
}

static void a_layer_too_large_for_every_device_is_named(void **state)
{
    (void)state;
    large x;
    make_large(&x, 3, 3, 6);
    for (int d = 0; d < 3; d++)
        x.device[d].memory_bytes = 100 + 50 * d;
    x.layer[1].state_bytes = 190;
    x.layer[1].stash_bytes = 20;
    DML_CHECK_FAILS(DML_ERR_NOMEM, "layer 'l' alone is too large for every device: 10 bytes short",
                    dml_placement_find(&x.p, &x.arena, &x.got));
    x.layer[1].state_bytes = 180;
    DML_CHECK_OK(dml_placement_find(&x.p, &x.arena, &x.got));
    x.layer[0].state_bytes = x.layer[2].state_bytes = 160; /* only one of them has room */
    DML_CHECK_FAILS(DML_ERR_NOMEM, "no placement fits: the nearest needs 60 bytes more on every",
                    dml_placement_find(&x.p, &x.arena, &x.got));
    dml_arena_free(&x.arena);
}

static void a_limit_on_the_step_holds_or_is_refused(void **state)
{
    (void)state;
    large x;
    make_large(&x, 4, 4, 12);
    for (int i = 0; i < 4; i++)
        x.layer[i].state_bytes = 100;
    x.p.objective = DML_OBJECTIVE_MEMORY;
    expect(&x, "[0,1)x1 [1,2)x1 [2,3)x1 [3,4)x1"); /* 15 x 30 */
    x.p.most_ns = 420;
    expect(&x, "[0,1)x1 [1,2)x1 [2,4)x2"); /* 6 x 60 and a way of 60 */
    x.p.most_ns = 350;
    DML_CHECK_FAILS(DML_ERR_NOMEM, "the fastest placement takes 360 ns a step, the limit is 350",
                    dml_placement_find(&x.p, &x.arena, &x.got));
    dml_arena_free(&x.arena);
}

static void nodes_keep_what_is_reduced_within_them(void **state)
{
    (void)state;
    large x;
    make_large(&x, 8, CLUSTER, 256);
    x.node = (dml_link_level){8, {0, 1e12}};
    x.p.links = (dml_links){.outer = {0, 1e8}, .levels = 1, .level = &x.node};
    for (int i = 0; i < 8; i++)
        x.reduce_bytes[i] = 100000;
    DML_CHECK_OK(dml_placement_find(&x.p, &x.arena, &x.got));
    DML_CHECK_EQ(DML_PLACEMENT_CONTIGUOUS, x.got.how);
    DML_CHECK_EQ(8, x.got.n_stages);
    for (int32_t k = 0; k < 8; k++) {
        const dml_placement_stage *s = &x.got.stage[k];
        DML_CHECK(s->replicas >= 7);
        DML_CHECK_EQ(s->device[0] / 8, s->device[s->replicas - 1] / 8);
    }
    dml_arena_free(&x.arena);
}

static void what_is_no_problem_is_refused(void **state)
{
    (void)state;
    large x;
    make_large(&x, 2, 2, 0);
    DML_CHECK_FAILS(DML_ERR_SPEC, "2 layers on 2 devices in 0 micro-batches",
                    dml_placement_find(&x.p, &x.arena, &x.got));
    x.p.mbs = 1;
    x.device[1].speed = 0.0;
    DML_CHECK_FAILS(DML_ERR_SPEC, "device 1: a speed of 0",
                    dml_placement_find(&x.p, &x.arena, &x.got));
    x.device[1].speed = 1.0;
    x.p.links = (dml_links){.levels = 1, .level = &x.node};
    DML_CHECK_FAILS(DML_ERR_SPEC, "level 0 of links has blocks of 0 devices",
                    dml_placement_find(&x.p, &x.arena, &x.got));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_thousand_random_placements_are_the_best_of_all),
        cmocka_unit_test(parameters_that_are_slow_to_reduce_are_not_replicated),
        cmocka_unit_test(a_device_four_times_as_fast_takes_four_times_as_much),
        cmocka_unit_test(a_layer_too_large_for_every_device_is_named),
        cmocka_unit_test(a_limit_on_the_step_holds_or_is_refused),
        cmocka_unit_test(nodes_keep_what_is_reduced_within_them),
        cmocka_unit_test(what_is_no_problem_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
