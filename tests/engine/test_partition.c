/* tests/engine/test_partition.c - the exact cut against all cuts, priced here by walking layers. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/partition.h"

#include <math.h>
#include <stdlib.h>

enum { LAYERS = 12, STAGES = 5, SKIPS = 4, NAME = 12 };

/* ---- one random problem, and what a cut of it costs by definition ---- */

typedef struct instance {
    dml_partition_problem p;
    dml_partition_layer layer[LAYERS];
    dml_partition_skip skip[SKIPS];
    dml_partition_stage stage[STAGES];
    char name[LAYERS][NAME];
    uint64_t key;
    uint64_t drawn;
} instance;

/* Uniform on [0, n). */
static int32_t draw(instance *x, int32_t n)
{
    uint32_t word[4];
    dml_rng_block(x->key, 0, x->drawn++, word);
    return (int32_t)(word[0] % (uint32_t)n);
}

static void make(instance *x, uint32_t number)
{
    *x = (instance){.key = dml_rng_key(5, DML_RNG_TEST, number)};
    dml_partition_problem *p = &x->p;
    *p = (dml_partition_problem){.layer = x->layer, .skip = x->skip, .stage = x->stage};
    p->n_layers = 1 + draw(x, LAYERS);
    p->n_stages = 1 + draw(x, STAGES);
    p->comm = draw(x, 2) ? DML_PARTITION_BLOCKING : DML_PARTITION_OVERLAPPED;
    p->grain = draw(x, 3) ? 0 : 8;
    const bool ties = draw(x, 3) == 0, tight = draw(x, 2) == 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        snprintf(x->name[i], NAME, "l%d", i);
        dml_partition_layer *l = &x->layer[i];
        l->name = x->name[i];
        for (int k = 0; k < 3; k++)
            l->ns[k] = draw(x, ties ? 2 : 100);
        l->state_bytes = draw(x, 100);
        l->stash_bytes = draw(x, 30);
        l->out_bytes = draw(x, ties ? 3 : 60);
        l->may_end_stage = draw(x, 7) != 0;
        l->tied = draw(x, 12) == 0 ? 1 + draw(x, 2) : 0;
    }
    for (int32_t s = 0; s < p->n_stages; s++) {
        static const double speed[] = {0.5, 1.0, 1.0, 1.5, 4.0};
        x->stage[s] = (dml_partition_stage){.speed = ties ? 1.0 : speed[draw(x, 5)],
                                            .memory_bytes = tight ? 150 + draw(x, 500) : 0,
                                            .in_flight = p->n_stages - s,
                                            .link_latency_ns = draw(x, 5),
                                            .link_bytes_per_s = draw(x, 4) * 500000000LL};
    }
    if (p->n_layers > 1) p->n_skips = draw(x, SKIPS + 1);
    for (int32_t k = 0; k < p->n_skips; k++) {
        x->skip[k].from = k > 0 && draw(x, 2) ? x->skip[0].from : draw(x, p->n_layers - 1);
        x->skip[k].to = x->skip[k].from + 1 + draw(x, p->n_layers - 1 - x->skip[k].from);
    }
}

/* Bytes of the values made in layers [a, b) and read in [c, d), each once; the chain reads b - 1 at b. */
static int64_t bytes_between(const dml_partition_problem *p, int32_t a, int32_t b, int32_t c,
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

static int64_t link_ns(const dml_partition_stage *s, int64_t bytes)
{
    const int64_t rate = s->link_bytes_per_s;
    return 2 * (s->link_latency_ns + (rate ? llround((double)bytes * 1e9 / (double)rate) : 0));
}

typedef struct cost {
    int64_t ns[STAGES];    /* as the stages come */
    int64_t lacks[STAGES]; /* bytes beyond each limit */
    int64_t bytes;         /* over all borders */
} cost;

static cost cost_of(const dml_partition_problem *p, const int32_t *begin)
{
    cost c = {.bytes = 0};
    for (int32_t s = 0; s < p->n_stages; s++) {
        const dml_partition_stage *stage = &p->stage[s];
        const int32_t a = begin[s], b = begin[s + 1], n = p->n_layers;
        const int64_t in = bytes_between(p, 0, a, a, b), out = bytes_between(p, a, b, b, n);
        int64_t compute = 0, state = 0, stash = 0;
        for (int32_t i = a; i < b; i++) {
            compute += p->layer[i].ns[0] + p->layer[i].ns[1] + p->layer[i].ns[2];
            state += p->layer[i].state_bytes;
            stash += p->layer[i].stash_bytes;
        }
        compute = llround((double)compute / stage->speed);
        const int64_t before = s > 0 ? link_ns(stage, in) : 0;
        const int64_t behind = b < n ? link_ns(stage + 1, out) : 0;
        c.ns[s] = compute > before ? compute : before;
        if (p->comm == DML_PARTITION_BLOCKING) c.ns[s] = compute + before + behind;
        const int64_t held = state + stage->in_flight * (stash + in) + in + out;
        if (stage->memory_bytes > 0 && held > stage->memory_bytes)
            c.lacks[s] = held - stage->memory_bytes;
        c.bytes += in;
    }
    return c;
}

/* ---- all cuts ---- */

static int falling(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a < b) - (a > b);
}

static int compare_loads(const int64_t *left, const int64_t *right, int32_t n, int64_t unit)
{
    int64_t a[STAGES], b[STAGES];
    for (int32_t s = 0; s < n; s++) {
        a[s] = (left[s] + unit / 2) / unit;
        b[s] = (right[s] + unit / 2) / unit;
    }
    qsort(a, (size_t)n, sizeof *a, falling);
    qsort(b, (size_t)n, sizeof *b, falling);
    for (int32_t s = 0; s < n; s++)
        if (a[s] != b[s]) return a[s] < b[s] ? -1 : 1;
    return 0;
}

static int64_t largest(const int64_t *x, int32_t n)
{
    int64_t most = 0;
    for (int32_t s = 0; s < n; s++)
        if (x[s] > most) most = x[s];
    return most;
}

typedef struct hunt {
    const dml_partition_problem *p;
    int64_t most, unit;
    int32_t begin[STAGES + 1], best[STAGES + 1];
    cost price;
    bool found, legal;
    int64_t least_lack; /* of the largest lack of a stage */
} hunt;

static void judge(hunt *h)
{
    const int32_t k = h->p->n_stages;
    const cost c = cost_of(h->p, h->begin);
    const int64_t lack = largest(c.lacks, k);
    if (!h->legal || lack < h->least_lack) h->least_lack = lack;
    h->legal = true;
    if (lack > 0 || largest(c.ns, k) > h->most) return;
    int order = h->found ? compare_loads(c.ns, h->price.ns, k, h->unit) : -1;
    if (order == 0) order = (c.bytes > h->price.bytes) - (c.bytes < h->price.bytes);
    for (int32_t s = k - 1; order == 0 && s > 0; s--)
        order = h->begin[s] - h->best[s];
    if (order > 0) return;
    h->found = true;
    h->price = c;
    memcpy(h->best, h->begin, sizeof h->best);
}

static bool legal_border(const dml_partition_problem *p, int32_t at)
{
    if (!p->layer[at - 1].may_end_stage) return false;
    for (int32_t i = 0; i < at; i++)
        for (int32_t j = at; j < p->n_layers; j++)
            if (p->layer[i].tied > 0 && p->layer[i].tied == p->layer[j].tied) return false;
    return true;
}

static void try_all(hunt *h, int32_t s)
{
    if (s == h->p->n_stages) {
        h->begin[s] = h->p->n_layers;
        judge(h);
        return;
    }
    for (int32_t at = h->begin[s - 1] + 1; at < h->p->n_layers; at++) {
        if (!legal_border(h->p, at)) continue;
        h->begin[s] = at;
        try_all(h, s + 1);
    }
}

static hunt hunt_all(const dml_partition_problem *p)
{
    hunt h = {.p = p, .most = INT64_MAX, .unit = 1};
    try_all(&h, 1);
    if (!h.found || p->grain == 0) return h;
    const int64_t most = largest(h.price.ns, p->n_stages);
    hunt coarse = {.p = p, .most = most, .unit = most > p->grain ? most / p->grain : 1};
    try_all(&coarse, 1);
    return coarse;
}

/* The complaint names the segment that is short most, or else what the nearest cut is short. */
static void check_complaint(const instance *x, const hunt *h)
{
    const dml_partition_problem *p = &x->p;
    int64_t worst = 0;
    char want[96];
    snprintf(want, sizeof want, " %lld bytes short", (long long)h->least_lack);
    for (int32_t a = 0, b; a < p->n_layers; a = b) {
        for (b = a + 1; b < p->n_layers && !legal_border(p, b);)
            b++;
        int64_t least = INT64_MAX;
        for (int32_t s = 0; s < p->n_stages; s++) {
            int64_t held = 0;
            for (int32_t i = a; i < b; i++)
                held += p->layer[i].state_bytes + x->stage[s].in_flight * p->layer[i].stash_bytes;
            if (held - x->stage[s].memory_bytes < least) least = held - x->stage[s].memory_bytes;
        }
        if (least <= worst) continue;
        worst = least;
        if (b == a + 1)
            snprintf(want, sizeof want,
                     "layer 'l%d' alone is too large for every stage: %lld bytes", a,
                     (long long)least);
        else
            snprintf(want, sizeof want, "layers 'l%d' to 'l%d', which", a, b - 1);
    }
    if (!strstr(dml_err_trail(), want)) fail_msg("%s lacks %s", dml_err_trail(), want);
}

static void two_thousand_random_cuts_are_the_best_of_all(void **state)
{
    (void)state;
    int32_t cut = 0, short_of_memory = 0, indivisible = 0;
    for (uint32_t number = 0; number < 2000; number++) {
        instance x;
        make(&x, number);
        const dml_partition_problem *p = &x.p;
        const hunt h = hunt_all(p);
        int32_t begin[STAGES + 1];
        const dml_err err = dml_partition(p, begin);
        if (!h.legal) {
            DML_CHECK_EQ(DML_ERR_SPEC, err);
            indivisible++;
        } else if (!h.found) {
            DML_CHECK_EQ(DML_ERR_NOMEM, err);
            check_complaint(&x, &h);
            short_of_memory++;
        } else {
            DML_CHECK_OK(err);
            dml_partition_price price[STAGES];
            dml_partition_price_of(p, begin, price);
            for (int32_t s = 0; s < p->n_stages; s++) {
                DML_CHECK_EQ(h.best[s], begin[s]);
                DML_CHECK_EQ(h.price.ns[s], price[s].ns);
                if (p->stage[s].memory_bytes > 0)
                    DML_CHECK(price[s].bytes <= p->stage[s].memory_bytes);
            }
            DML_CHECK_EQ(p->n_layers, begin[p->n_stages]);
            cut++;
        }
    }
    DML_CHECK(cut > 800 && short_of_memory > 100 && indivisible > 100);
}

/* ---- known cuts ---- */

enum { MANY = 128 };

/* Layers of these times, nothing else: the stages' times, slowest first, in `load`. */
static void cut_times(const int64_t *ns, int32_t n, int32_t k, int64_t *load)
{
    dml_partition_layer layer[MANY];
    dml_partition_stage stage[MANY];
    dml_partition_price price[MANY];
    int32_t begin[MANY + 1];
    for (int32_t i = 0; i < n; i++)
        layer[i] = (dml_partition_layer){.name = "l", .ns = {ns[i]}, .may_end_stage = true};
    for (int32_t s = 0; s < k; s++)
        stage[s] = (dml_partition_stage){.speed = 1.0};
    const dml_partition_problem p = {.layer = layer, .stage = stage, .n_layers = n, .n_stages = k};
    DML_CHECK_OK(dml_partition(&p, begin));
    dml_partition_price_of(&p, begin, price);
    for (int32_t s = 0; s < k; s++)
        load[s] = price[s].ns;
    qsort(load, (size_t)k, sizeof *load, falling);
}

/* Where torchgpipe's block partitions give 11, 9, 4, 6, 12, 11 and 16. */
static void maxima_are_the_least_possible(void **state)
{
    (void)state;
    static const struct {
        int64_t ns[10];
        int32_t n, k;
        int64_t most;
    } known[] = {
        {{1, 2, 3, 4, 5, 6}, 6, 2, 11},
        {{1, 2, 3, 4, 5, 6}, 6, 3, 9},
        {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 10, 4, 3},
        {{5, 1, 1, 1, 1, 1, 1, 5}, 8, 4, 5},
        {{9, 1, 1, 1, 1, 1, 1, 1}, 8, 2, 9},
        {{1, 1, 1, 1, 8, 1, 1, 1}, 8, 3, 8},
        {{3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, 10, 4, 14},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int64_t load[MANY];
        cut_times(known[i].ns, known[i].n, known[i].k, load);
        DML_CHECK_EQ(known[i].most, load[0]);
    }
}

static void stages_behind_the_slowest_are_level_too(void **state)
{
    (void)state;
    static const int64_t ns[] = {20, 0, 6, 1, 6, 1, 6};
    static const int64_t want[] = {20, 7, 7, 6}; /* not 20, 20, 0, 0 */
    int64_t load[MANY];
    cut_times(ns, 7, 4, load);
    for (int s = 0; s < 4; s++)
        DML_CHECK_EQ(want[s], load[s]);
}

/* The fewest stages that keep every one at `most` or below, filled one by one. */
static int32_t stages_needed(const int64_t *ns, int32_t n, int64_t most)
{
    int32_t stages = 1;
    int64_t load = 0;
    for (int32_t i = 0; i < n; i++) {
        if (ns[i] > most) return n + 1;
        if (load + ns[i] > most) {
            stages++;
            load = 0;
        }
        load += ns[i];
    }
    return stages;
}

static void long_chains_reach_the_maximum_that_bisection_finds(void **state)
{
    (void)state;
    for (int32_t k = 1; k <= 64; k += 9) {
        instance x = {.key = dml_rng_key(6, DML_RNG_TEST, (uint64_t)k)};
        int64_t ns[MANY], load[MANY], low = 0, high = MANY * 1000;
        for (int32_t i = 0; i < MANY; i++)
            ns[i] = k % 2 ? 1 + draw(&x, 999) : 7; /* equal layers: the most ties */
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            if (stages_needed(ns, MANY, middle) <= k)
                high = middle;
            else
                low = middle;
        }
        cut_times(ns, MANY, k, load);
        DML_CHECK_EQ(high, load[0]);
    }
}

/* ---- what a caller relies on ---- */

static void a_faster_device_takes_more_layers(void **state)
{
    (void)state;
    dml_partition_layer layer[10];
    for (int i = 0; i < 10; i++)
        layer[i] = (dml_partition_layer){.name = "l", .ns = {100, 100, 100}, .may_end_stage = true};
    const dml_partition_stage stage[] = {{.speed = 4.0}, {.speed = 1.0}};
    int32_t begin[3];
    DML_CHECK_OK(dml_partition(
        &(dml_partition_problem){.layer = layer, .stage = stage, .n_layers = 10, .n_stages = 2},
        begin));
    DML_CHECK_EQ(8, begin[1]);
}

/* A U of five layers, 0 and 1 read again by 4 and 3; borders of 10, 20, 30 and 40 bytes. */
static void skips_weigh_where_they_are_made_and_read(void **state)
{
    (void)state;
    dml_partition_layer layer[5] = {{0}};
    for (int i = 0; i < 5; i++)
        layer[i] = (dml_partition_layer){.name = "l", .out_bytes = 10 * (i + 1)};
    const dml_partition_skip skip[] = {{0, 4}, {1, 3}, {2, 3}};
    const dml_partition_stage stage[] = {{1.0, 0, 3, 0, 0}, {1.0, 0, 2, 0, 0}, {1.0, 0, 1, 0, 0}};
    const dml_partition_problem p = {
        .layer = layer, .skip = skip, .stage = stage, .n_layers = 5, .n_skips = 3, .n_stages = 3};
    dml_partition_price price[3];
    dml_partition_price_of(&p, (const int32_t[]){0, 2, 3, 5}, price);
    DML_CHECK_EQ(0, price[0].in_bytes);
    DML_CHECK_EQ(20, price[1].in_bytes);           /* nothing of the skip passes stage 1 */
    DML_CHECK_EQ(30 + 20 + 10, price[2].in_bytes); /* 2's output serves the chain and the skip */
    DML_CHECK_EQ(20 + 10, price[0].bytes);         /* gradients of what leaves */
    DML_CHECK_EQ(2 * 20 + 20 + 30, price[1].bytes);
    DML_CHECK_EQ(60 + 60, price[2].bytes);
}

static void a_layer_too_large_is_named_with_the_bytes_it_is_short(void **state)
{
    (void)state;
    dml_partition_layer layer[] = {
        {.name = "fc1", .state_bytes = 100, .may_end_stage = true},
        {.name = "fc2", .state_bytes = 900, .stash_bytes = 60, .may_end_stage = true},
        {.name = "fc3", .state_bytes = 100},
    };
    dml_partition_stage stage[] = {{1.0, 800, 2, 0, 0}, {1.0, 950, 1, 0, 0}};
    const dml_partition_problem p = {.layer = layer, .stage = stage, .n_layers = 3, .n_stages = 2};
    int32_t begin[3] = {-1, -1, -1};
    DML_CHECK_FAILS(DML_ERR_NOMEM, "layer 'fc2' alone is too large for every stage: 10 bytes short",
                    dml_partition(&p, begin));
    DML_CHECK_EQ(-1, begin[0]);
    layer[1].state_bytes = 850; /* fits stage 1, but not with a neighbour */
    DML_CHECK_FAILS(
        DML_ERR_NOMEM,
        "no cut into 2 stages fits: the nearest leaves stage 1 ('fc2' to 'fc3') 60 bytes short",
        dml_partition(&p, begin));
    layer[0].tied = layer[1].tied = 1;
    DML_CHECK_FAILS(
        DML_ERR_NOMEM,
        "layers 'fc1' to 'fc2', which no cut divides, are too large for every stage: 60 "
        "bytes short",
        dml_partition(&p, begin));
    layer[2].tied = 1;
    DML_CHECK_FAILS(DML_ERR_SPEC, "2 stages, but the layers can be cut into 1 at most",
                    dml_partition(&p, begin));
}

static void what_is_no_problem_is_refused(void **state)
{
    (void)state;
    const dml_partition_layer layer[2] = {{.name = "a"}, {.name = "b"}};
    dml_partition_stage stage = {.speed = 0.0};
    dml_partition_skip skip = {1, 1};
    dml_partition_problem p = {.layer = layer, .stage = &stage, .skip = &skip, .n_layers = 2};
    int32_t begin[2];
    DML_CHECK_FAILS(DML_ERR_SPEC, "2 layers in 0 stages", dml_partition(&p, begin));
    p.n_stages = 1;
    DML_CHECK_FAILS(DML_ERR_SPEC, "stage 0: a speed of 0", dml_partition(&p, begin));
    stage.speed = 1.0;
    p.n_skips = 1;
    DML_CHECK_FAILS(DML_ERR_SPEC, "skip 0 leads from layer 1 to layer 1 of 2",
                    dml_partition(&p, begin));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_thousand_random_cuts_are_the_best_of_all),
        cmocka_unit_test(maxima_are_the_least_possible),
        cmocka_unit_test(stages_behind_the_slowest_are_level_too),
        cmocka_unit_test(long_chains_reach_the_maximum_that_bisection_finds),
        cmocka_unit_test(a_faster_device_takes_more_layers),
        cmocka_unit_test(skips_weigh_where_they_are_made_and_read),
        cmocka_unit_test(a_layer_too_large_is_named_with_the_bytes_it_is_short),
        cmocka_unit_test(what_is_no_problem_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
