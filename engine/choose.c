/* engine/choose.c - best first: candidates in the order of what they cannot beat, priced until none can win.
 *
 *   bound   24  25  27  27  31  ...
 *   price   26  30  28                 27 < 26 does not hold any more: 26 is the best of all
 *
 * A few more are priced, so that the ranking shows the first ten and the best of each layout beside the winner.
 */
#include "engine/choose.h"

#include "engine/base/clock.h"
#include "engine/choose_impl.h"
#include "engine/plan_file.h"
#include "schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

enum { SHOWN = 10, PROGRESS_NS = 500 * 1000 * 1000 };

typedef struct search {
    dml_space space;
    dml_objective objective;
    double slack;
    const dml_choose_options *options;
    int32_t priced;
    int64_t best_ns;  /* the shortest step so far */
    int64_t best_way; /* objective latency */
    int64_t told_ns;
} search;

/* What a candidate is ordered by before it is priced. */
static int64_t key_of(const search *s, const dml_candidate *c)
{
    return s->objective == DML_OBJECTIVE_LATENCY ? c->way_ns : c->bound_ns;
}

/* Whether a candidate with this key could still be the best. */
static bool may_win(const search *s, int64_t key)
{
    switch (s->objective) {
    case DML_OBJECTIVE_THROUGHPUT: return key < s->best_ns;
    case DML_OBJECTIVE_MEMORY:
        return s->best_ns == INT64_MAX || (double)key <= (double)s->best_ns * (1.0 + s->slack);
    case DML_OBJECTIVE_LATENCY: return key <= s->best_way;
    }
    return true;
}

static int compare(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* Of two priced ones; within: of the shortest step, what objective memory allows. */
static int by_objective(const search *s, const dml_candidate *a, const dml_candidate *b)
{
    const double within = (double)s->best_ns * (1.0 + s->slack);
    int order = 0;
    if (s->objective == DML_OBJECTIVE_MEMORY) {
        const bool in_a = (double)a->step_ns <= within, in_b = (double)b->step_ns <= within;
        order = in_a == in_b ? 0 : in_a ? -1 : 1;
        if (!order && in_a) order = compare(a->bytes, b->bytes);
    }
    if (s->objective == DML_OBJECTIVE_LATENCY) order = compare(a->way_ns, b->way_ns);
    if (!order) order = compare(a->step_ns, b->step_ns);
    return order ? order : compare(a->bytes, b->bytes);
}

/* ---- the queue: a heap of indices by key, then index ---- */

typedef struct queue {
    int64_t *key; /* [n] */
    int32_t *at;  /* [n] */
    int32_t n, room;
} queue;

static bool before(const queue *q, int32_t a, int32_t b)
{
    return q->key[a] != q->key[b] ? q->key[a] < q->key[b] : q->at[a] < q->at[b];
}

static void swap(queue *q, int32_t a, int32_t b)
{
    const int64_t key = q->key[a];
    const int32_t at = q->at[a];
    q->key[a] = q->key[b];
    q->at[a] = q->at[b];
    q->key[b] = key;
    q->at[b] = at;
}

static void push(queue *q, int64_t key, int32_t at, dml_arena *arena)
{
    if (q->n == q->room) {
        q->room = q->room ? 2 * q->room : 256;
        int64_t *keys = DML_NEW_N(arena, int64_t, q->room);
        int32_t *ats = DML_NEW_N(arena, int32_t, q->room);
        if (q->n) memcpy(keys, q->key, (size_t)q->n * sizeof *keys);
        if (q->n) memcpy(ats, q->at, (size_t)q->n * sizeof *ats);
        q->key = keys;
        q->at = ats;
    }
    int32_t i = q->n++;
    q->key[i] = key;
    q->at[i] = at;
    for (; i > 0 && before(q, i, (i - 1) / 2); i = (i - 1) / 2)
        swap(q, i, (i - 1) / 2);
}

static int32_t pop(queue *q)
{
    const int32_t at = q->at[0];
    swap(q, 0, --q->n);
    for (int32_t i = 0, least;; i = least) {
        least = i;
        for (int32_t k = 2 * i + 1; k <= 2 * i + 2 && k < q->n; k++)
            if (before(q, k, least)) least = k;
        if (least == i) return at;
        swap(q, i, least);
    }
}

/* ---- the search ---- */

static void tell(search *s)
{
    const dml_choose_options *o = s->options;
    const int64_t now_ns = dml_clock_ns();
    if (!o || !o->progress || now_ns - s->told_ns < PROGRESS_NS) return;
    s->told_ns = now_ns;
    o->progress(o->ctx, s->priced, s->space.n);
}

/* Whether the schedule makes an order of this size at all. */
static bool has_order(const dml_spec *spec, const dml_candidate *c)
{
    const dml_schedule *schedule;
    if (c->ranks == 0 || strcmp(c->schedule, DML_ORDER_AUTO) == 0) return true;
    if (dml_schedule_find(c->schedule, &schedule) != DML_ERR_OK || schedule->version) return true;
    const dml_schedule_args args = {.stages = c->ranks,
                                    .virtual_stages = c->virtual_stages,
                                    .mbs = spec->training.global_batch_size / c->micro_batch /
                                           c->replicas};
    dml_program order;
    if (dml_schedule_build(schedule, &args, &order) != DML_ERR_OK) return false;
    dml_program_free(&order);
    return true;
}

/* What holds too much may fit when it computes some of it again. */
static void push_recomputed(search *s, queue *q, int32_t i)
{
    const dml_spec *spec = s->space.spec;
    if (!has_order(spec, &s->space.candidate[i])) return;
    if (s->space.candidate[i].recompute != DML_RECOMPUTE_NONE || !dml_spec_has_limits(spec) ||
        s->objective == DML_OBJECTIVE_MEMORY || dml_space_fixed(spec, "parallelism.recompute"))
        return;
    for (int32_t p = DML_RECOMPUTE_NONE + 1; p < DML_RECOMPUTES; p++) {
        dml_candidate c = s->space.candidate[i];
        c.recompute = (dml_recompute)p;
        c.fate = DML_FATE_OPEN;
        c.why = NULL;
        dml_space_push(&s->space, &c);
        push(q, key_of(s, &c), s->space.n - 1, s->space.arena);
    }
}

static void price(search *s, queue *q, int32_t i)
{
    dml_candidate *c = &s->space.candidate[i];
    if (c->fate != DML_FATE_OPEN) return;
    dml_candidate_price(s->space.spec, c, false, s->space.arena);
    s->priced++;
    tell(s);
    if (c->fate == DML_FATE_MISFIT) {
        push_recomputed(s, q, i);
        return;
    }
    s->best_ns = MIN2(s->best_ns, c->step_ns);
    s->best_way = MIN2(s->best_way, c->way_ns);
}

/* Whether the layout of candidate i has a price. */
static bool has_price(const search *s, int32_t i)
{
    const dml_candidate *c = &s->space.candidate[i];
    for (int32_t k = 0; k < s->space.n; k++) {
        const dml_candidate *o = &s->space.candidate[k];
        if (o->fate == DML_FATE_PRICED && o->ranks == c->ranks && o->replicas == c->replicas)
            return true;
    }
    return false;
}

/* Not needed for the choice, but for the ranking: the first ten, and one of each layout.  The list scheduler takes much
 * longer than a schedule by name, so it runs where it may win. */
static bool completes(const search *s, int32_t i, int32_t fit)
{
    const bool list = strcmp(s->space.candidate[i].schedule, DML_ORDER_AUTO) == 0;
    return !list && (fit < SHOWN || !has_price(s, i));
}

static int32_t count(const search *s, dml_fate fate)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->space.n; i++)
        n += s->space.candidate[i].fate == fate;
    return n;
}

static void run(search *s)
{
    queue q = {0};
    for (int32_t i = 0; i < s->space.n; i++)
        push(&q, key_of(s, &s->space.candidate[i]), i, s->space.arena);
    const bool all = s->options && s->options->all;
    int32_t fit = 0;
    while (q.n > 0) {
        const int64_t key = q.key[0];
        const int32_t i = pop(&q);
        const bool wanted = all || may_win(s, key) || completes(s, i, fit);
        if (!wanted) continue;
        price(s, &q, i);
        fit += s->space.candidate[i].fate == DML_FATE_PRICED;
    }
}

/* ---- the ranking ---- */

typedef struct ranking {
    const search *search;
    const dml_candidate *candidate;
} ranking;

static int by_rank(const void *x, const void *y, void *ctx)
{
    const search *s = ctx;
    const int32_t i = *(const int32_t *)x, k = *(const int32_t *)y;
    const dml_candidate *a = &s->space.candidate[i], *b = &s->space.candidate[k];
    static const int order[] = {[DML_FATE_PRICED] = 0, [DML_FATE_OPEN] = 1, [DML_FATE_MISFIT] = 2};
    if (a->fate != b->fate) return order[a->fate] - order[b->fate];
    int by =
        a->fate == DML_FATE_PRICED ? by_objective(s, a, b) : compare(key_of(s, a), key_of(s, b));
    return by ? by : compare(i, k);
}

static void rank(search *s, dml_choice *out)
{
    const int32_t n = s->space.n;
    int32_t *at = DML_NEW_N(&out->arena, int32_t, n);
    for (int32_t i = 0; i < n; i++)
        at[i] = i;
    qsort_r(at, (size_t)n, sizeof *at, by_rank, s);
    out->ranked = DML_NEW_N(&out->arena, dml_candidate, n);
    for (int32_t i = 0; i < n; i++)
        out->ranked[i] = s->space.candidate[at[i]];
    out->n = n;
    out->n_priced = count(s, DML_FATE_PRICED);
    out->n_misfit = count(s, DML_FATE_MISFIT);
}

static dml_err nothing_fits(const dml_spec *spec, const dml_choice *c)
{
    const dml_candidate *first = &c->ranked[0];
    return dml_spec_fail(
        spec, dml_spec_place(spec, "plan"), "plan",
        "none of %d candidates fits; of the one that would be fastest (pp %d x dp %d, %s, "
        "micro_batch_size %d): %s",
        c->n, first->ranks, first->replicas, first->schedule, first->micro_batch, first->why);
}

static dml_err choose(const dml_spec *spec, const dml_choose_options *options, dml_choice *out)
{
    const int64_t begin_ns = dml_clock_ns();
    search s = {.objective = spec->planner.objective,
                .slack = spec->planner.slack,
                .options = options,
                .best_ns = INT64_MAX,
                .best_way = INT64_MAX,
                .told_ns = begin_ns};
    DML_TRY(dml_space_make(spec, s.objective == DML_OBJECTIVE_MEMORY || (options && options->all),
                           &out->arena, &s.space));
    run(&s);
    rank(&s, out);
    if (out->n_priced == 0) return nothing_fits(spec, out);
    for (int32_t i = 0; i < out->n_priced; i++)
        if (i < SHOWN || (options && options->all))
            dml_candidate_price(spec, &out->ranked[i], true, &out->arena);
    dml_str text = {0};
    const dml_err err = dml_plan_file_print(spec, &out->ranked[0], &text);
    out->text = dml_arena_strdup(&out->arena, dml_str_text(&text));
    dml_str_free(&text);
    out->took_ns = dml_clock_ns() - begin_ns;
    return err;
}

dml_err dml_choose(const dml_spec *spec, const dml_choose_options *options, dml_choice *out)
{
    dml_choice made = {0};
    const dml_err err = choose(spec, options, &made);
    if (err == DML_ERR_OK)
        *out = made;
    else
        dml_choice_free(&made);
    return err;
}

void dml_choice_free(dml_choice *choice)
{
    dml_arena_free(&choice->arena);
    *choice = (dml_choice){0};
}

dml_err dml_choose_resolve(dml_spec *spec)
{
    dml_choice choice;
    dml_spec chosen;
    if (strcmp(spec->planner.plan, DML_PLAN_AUTO) != 0) return DML_ERR_OK;
    DML_TRY(dml_choose(spec, NULL, &choice));
    const dml_err err = dml_spec_load_planned(spec, choice.text, &chosen);
    dml_choice_free(&choice);
    DML_TRY(err);
    dml_spec_free(spec);
    *spec = chosen;
    return DML_ERR_OK;
}
