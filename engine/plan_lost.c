/* engine/plan_lost.c - seats workers, re-routes an order, and asks the list scheduler for one over the new routes.
 *
 *   place    0 1 | 2 3 | 4 5      seats [0, 1, 4, 3, 2, 5]: worker 4 takes place 2, and worker 2, which is lost, place 4;
 *   worker   0 1 | 4 3 | 2 5      so stage 1 has both workers again, and stage 2 one
 *
 * Without limits a worker may keep at once what it kept before, times what it runs now over what it ran then: the lost
 * worker's share comes with the lost worker's memory, and no machine is asked for more than it was built for by much.
 * An order that may cut backwards fills idle time by keeping more, so there only memory that the spec names is a limit.
 */
#include "engine/plan_lost.h"

#include "engine/plan_order.h"
#include "schedule/fuse.h"
#include "schedule/list.h"
#include "schedule/reroute.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* What the search may cost: the old order comes first, and what matters after a loss is time.  An op played takes about
 * half a microsecond. */
enum { TRIALS = 2000, OPS_PLAYED = 80000 };

static const char key[] = "parallelism.lost";

static bool *lost_of(const dml_plan *plan, dml_arena *arena)
{
    const dml_int_list *list = &plan->spec->parallelism.lost;
    bool *lost = DML_NEW_N(arena, bool, plan->workers);
    for (int32_t i = 0; i < list->n; i++)
        lost[list->v[i]] = true;
    return lost;
}

/* ---- seats ---- */

void dml_plan_seat(const dml_plan *plan, dml_program *order)
{
    const dml_int_list *seats = &plan->spec->parallelism.seats;
    if (seats->n == 0) return;
    dml_arena arena = {0};
    int32_t *worker = DML_NEW_N(&arena, int32_t, order->workers); /* [place] who takes it */
    dml_op_list *list = DML_NEW_N(&arena, dml_op_list, order->workers);
    memcpy(list, order->list, (size_t)order->workers * sizeof *list);
    for (int32_t w = 0; w < order->workers; w++) {
        worker[seats->v[w]] = w;
        order->list[w] = list[seats->v[w]];
    }
    for (int32_t c = 0; c < order->chunks; c++)
        for (int32_t mb = 0; mb < order->mbs; mb++) {
            int32_t *route = dml_program_route(order, c, mb);
            *route = worker[*route];
        }
    dml_arena_free(&arena);
}

/* ---- memory ---- */

/* Bytes of all micro-batches that pass through the worker. */
static int64_t load_of(const dml_program *routes, int32_t worker, const int64_t *held_bytes)
{
    int64_t sum = 0;
    for (int32_t c = 0; c < routes->chunks; c++)
        for (int32_t mb = 0; mb < routes->mbs; mb++)
            if (*dml_program_route(routes, c, mb) == worker) sum += held_bytes[c];
    return sum;
}

/* Most that one micro-batch keeps there: no limit may be below. */
static int64_t largest_of(const dml_program *routes, int32_t worker, const int64_t *held_bytes)
{
    int64_t most = 0;
    for (int32_t mb = 0; mb < routes->mbs; mb++) {
        int64_t sum = 0;
        for (int32_t c = 0; c < routes->chunks; c++)
            if (*dml_program_route(routes, c, mb) == worker) sum += held_bytes[c];
        most = MAX2(most, sum);
    }
    return most;
}

static void limit_by_share(const dml_program *order, const dml_program *routes, dml_arena *arena,
                           dml_order_memory *m)
{
    m->limit_bytes = DML_NEW_N(arena, int64_t, routes->workers);
    for (int32_t w = 0; w < routes->workers; w++) {
        const int64_t before = load_of(order, w, m->held_bytes),
                      now = load_of(routes, w, m->held_bytes);
        if (before == 0) continue; /* it runs nothing now either */
        const double kept = (double)dml_order_peak(order, w, m->held_bytes);
        m->limit_bytes[w] = MAX2((int64_t)(kept * (double)now / (double)before + 0.999999),
                                 largest_of(routes, w, m->held_bytes));
    }
}

/* ---- the order ---- */

/* Where optimizer steps do not wait for each other a step takes what lies between two of the same worker. */
static dml_list_objective objective_of(const dml_plan *plan)
{
    return plan->spec->parallelism.staggered ? DML_LIST_SPAN : DML_LIST_WALL;
}

/* The old order as it stands, everyone running what is routed to it now: what a worker keeps at once is what it and the
 * lost kept of those micro-batches, so the limit holds without being asked for, if any order of the old kind can. */
static dml_err make_merged(const dml_list_args *args, dml_program *out, int64_t *wall_ns)
{
    dml_list_args merge = *args;
    merge.limit_bytes = NULL;
    merge.trials = 1;
    merge.most_ops = 0;
    return dml_list_schedule(&merge, out, wall_ns);
}

static bool is_within(const dml_program *order, const dml_list_args *args)
{
    for (int32_t w = 0; w < order->workers; w++)
        if (dml_order_peak(order, w, args->held_bytes) > args->limit_bytes[w]) return false;
    return true;
}

/* Makes an order for the routes, not longer than the old one merged where that is within the limits; `given`: those are
 * the spec's. */
static dml_err make_best(const dml_list_args *args, bool given, dml_program *out,
                         int64_t *length_ns, int64_t *bound_ns)
{
    dml_program other;
    int64_t other_ns;
    DML_TRY(make_merged(args, out, length_ns));
    *bound_ns = dml_list_bound_ns(args);
    const bool fits = !given || is_within(out, args);
    if (fits && *length_ns <= *bound_ns) return DML_ERR_OK;
    const dml_err err = dml_list_schedule(args, &other, &other_ns);
    if (fits && (err != DML_ERR_OK || other_ns >= *length_ns)) {
        if (err == DML_ERR_OK) dml_program_free(&other);
        return DML_ERR_OK;
    }
    dml_program_free(out);
    *out = other;
    *length_ns = other_ns;
    return err;
}

/* What an order is made from. */
typedef struct source {
    const dml_program *order, *routes; /* that of all, relabelled; who runs what now */
    const int64_t *less_bytes;
    dml_arena *arena;
} source;

typedef struct result {
    dml_program order;
    int64_t length_ns, bound_ns;
} result;

/* With backwards cut in two, or whole. */
static dml_err make_cut(const dml_plan *plan, const source *s, bool split, result *out)
{
    *out = (result){0};
    const int32_t workers = s->routes->workers;
    dml_order_memory m;
    DML_TRY(dml_plan_order_memory(plan, s->routes, split, s->arena, &m));
    const bool given = m.limit_bytes;
    if (!given && !plan->spec->parallelism.decoupled && !plan->spec->parallelism.staggered)
        limit_by_share(s->order, s->routes, s->arena, &m);
    for (int32_t w = 0; w < workers && given; w++)
        m.limit_bytes[w] = MAX2(m.limit_bytes[w] - s->less_bytes[w], 0);
    const dml_list_args args = {.routes = s->routes,
                                .cost = &plan->cost,
                                .split = split,
                                .held_bytes = m.held_bytes,
                                .limit_bytes = m.limit_bytes,
                                .priority = s->order,
                                .trials = TRIALS,
                                .objective = objective_of(plan),
                                .most_ops = OPS_PLAYED};
    return make_best(&args, given, &out->order, &out->length_ns, &out->bound_ns);
}

/* Backwards as the schedule has them; where that makes the step shorter, or alone fits, cut in two.  Those that need not
 * be cut are whole in the end. */
static dml_err make_decoupled(const dml_plan *plan, const source *s, result *out)
{
    result cut;
    const bool split = dml_program_splits_backward(s->order);
    dml_err err = make_cut(plan, s, split, out);
    if (!plan->spec->parallelism.decoupled || (err != DML_ERR_OK && err != DML_ERR_NOMEM))
        return err;
    if (!split && make_cut(plan, s, true, &cut) == DML_ERR_OK) {
        const bool better = err != DML_ERR_OK || cut.length_ns < out->length_ns;
        out->bound_ns = cut.bound_ns; /* of any order, however it cuts */
        dml_program_free(better ? &out->order : &cut.order);
        if (better) *out = cut;
        err = DML_ERR_OK;
    }
    DML_TRY(err);
    err = dml_order_fuse(&plan->cost, objective_of(plan), &out->order, NULL);
    if (err != DML_ERR_OK) dml_program_free(&out->order);
    return err;
}

static dml_err make_sync(const dml_plan *plan, const source *s, dml_program *out, int64_t *bound_ns)
{
    result made;
    DML_TRY(dml_plan_at_memory(plan->spec, make_decoupled(plan, s, &made)));
    *out = made.order;
    *bound_ns = made.bound_ns;
    return DML_ERR_OK;
}

static dml_err lose(const dml_plan *plan, const int64_t *less_bytes, dml_arena *arena,
                    dml_program *order, int64_t *bound_ns)
{
    *bound_ns = 0;
    dml_program routes, now;
    dml_err err = dml_reroute(order, lost_of(plan, arena), &routes);
    if (err == DML_ERR_SPEC)
        return dml_spec_fail(plan->spec, dml_spec_place(plan->spec, key), key, "%s",
                             dml_err_trail());
    DML_TRY(err);
    if (dml_program_is_async(order)) {
        err = dml_reroute_ops(order, &plan->cost, &routes);
        now = routes;
    } else {
        const source s = {order, &routes, less_bytes, arena};
        err = make_sync(plan, &s, &now, bound_ns);
        dml_program_free(&routes);
    }
    if (err != DML_ERR_OK) return err;
    dml_program_free(order);
    *order = now;
    return DML_ERR_OK;
}

dml_err dml_plan_lose(const dml_plan *plan, const int64_t *less_bytes, dml_program *order,
                      int64_t *bound_ns)
{
    dml_arena arena = {0};
    const dml_err err = lose(plan, less_bytes, &arena, order, bound_ns);
    dml_arena_free(&arena);
    return err;
}

void dml_plan_drop_lost(const dml_plan *plan, dml_program *program)
{
    const dml_int_list *list = &plan->spec->parallelism.lost;
    for (int32_t i = 0; i < list->n; i++)
        program->list[list->v[i]].n = 0;
}
