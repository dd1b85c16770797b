/* engine/plan_lost.c - re-routes an order and asks the list scheduler for one over the new routes.
 *
 * Without limits a worker may keep at once what it kept before, times what it runs now over what it ran then: the lost
 * worker's share comes with the lost worker's memory, and no machine is asked for more than it was built for by much.
 */
#include "engine/plan_lost.h"

#include "engine/plan_order.h"
#include "schedule/list.h"
#include "schedule/reroute.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* Priorities tried: the old order comes first, and what matters after a loss is time.  Playing one takes about half a
 * microsecond for each op. */
enum { TRIALS = 64, LEAST_TRIALS = 6, OPS_PLAYED = 80000 };

static const char key[] = "parallelism.lost";

static bool *lost_of(const dml_plan *plan, dml_arena *arena)
{
    const dml_int_list *list = &plan->spec->parallelism.lost;
    bool *lost = DML_NEW_N(arena, bool, plan->workers);
    for (int32_t i = 0; i < list->n; i++)
        lost[list->v[i]] = true;
    return lost;
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

/* The old order as it stands, everyone running what is routed to it now: what a worker keeps at once is what it and the
 * lost kept of those micro-batches, so the limit holds without being asked for, if any order of the old kind can. */
static dml_err make_merged(const dml_list_args *args, dml_program *out, int64_t *wall_ns)
{
    dml_list_args merge = *args;
    merge.limit_bytes = NULL;
    merge.trials = 1;
    return dml_list_schedule(&merge, out, wall_ns);
}

static bool is_within(const dml_program *order, const dml_list_args *args)
{
    for (int32_t w = 0; w < order->workers; w++)
        if (dml_order_peak(order, w, args->held_bytes) > args->limit_bytes[w]) return false;
    return true;
}

/* The better of the old order, merged, and of what the list scheduler finds; `given`: the limits are the spec's. */
static dml_err make_best(const dml_list_args *args, bool given, dml_program *out, int64_t *bound_ns)
{
    dml_program other;
    int64_t merged_ns, wall_ns;
    DML_TRY(make_merged(args, out, &merged_ns));
    *bound_ns = dml_list_bound_ns(args);
    const bool fits = !given || is_within(out, args);
    if (fits && merged_ns <= *bound_ns) return DML_ERR_OK;
    const dml_err err = dml_list_schedule(args, &other, &wall_ns);
    if (fits && (err != DML_ERR_OK || wall_ns >= merged_ns)) {
        if (err == DML_ERR_OK) dml_program_free(&other);
        return DML_ERR_OK;
    }
    dml_program_free(out);
    *out = other;
    return err;
}

static dml_err make_sync(const dml_plan *plan, const dml_program *order, const int64_t *less_bytes,
                         dml_arena *arena, dml_program *routes, int64_t *bound_ns)
{
    const bool split = dml_program_splits_backward(order);
    dml_order_memory m;
    DML_TRY(dml_plan_order_memory(plan, routes, split, arena, &m));
    const bool given = m.limit_bytes;
    if (!given) limit_by_share(order, routes, arena, &m);
    for (int32_t w = 0; w < routes->workers; w++)
        m.limit_bytes[w] = MAX2(m.limit_bytes[w] - less_bytes[w], 0);
    const int64_t ops = 3 * (int64_t)routes->chunks * routes->mbs,
                  trials = MIN2(MAX2(OPS_PLAYED / ops, LEAST_TRIALS), TRIALS);
    const dml_list_args args = {.routes = routes,
                                .cost = &plan->cost,
                                .split = split,
                                .held_bytes = m.held_bytes,
                                .limit_bytes = m.limit_bytes,
                                .priority = order,
                                .trials = (int32_t)trials};
    dml_program made;
    DML_TRY(dml_plan_at_memory(plan->spec, make_best(&args, given, &made, bound_ns)));
    dml_program_free(routes);
    *routes = made;
    return DML_ERR_OK;
}

static dml_err lose(const dml_plan *plan, const int64_t *less_bytes, dml_arena *arena,
                    dml_program *order, int64_t *bound_ns)
{
    *bound_ns = 0;
    dml_program now;
    dml_err err = dml_reroute(order, lost_of(plan, arena), &now);
    if (err == DML_ERR_SPEC)
        return dml_spec_fail(plan->spec, dml_spec_place(plan->spec, key), key, "%s",
                             dml_err_trail());
    DML_TRY(err);
    err = dml_program_is_async(order) ? dml_reroute_ops(order, &plan->cost, &now)
                                      : make_sync(plan, order, less_bytes, arena, &now, bound_ns);
    dml_program_free(err == DML_ERR_OK ? order : &now);
    if (err == DML_ERR_OK) *order = now;
    return err;
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
