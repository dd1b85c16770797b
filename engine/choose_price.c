/* engine/choose_price.c - what a candidate takes: its plan, played. */
#include "engine/choose_impl.h"

#include "engine/base/str.h"
#include "engine/plan.h"
#include "schedule/sim.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* What follows `mark` and then `colon` in the first line of `text`, if both are there. */
static const char *after(const char *text, const char *mark, const char *colon)
{
    const char *found = strstr(text, mark), *end = found ? strstr(found, colon) : NULL;
    return end && end < text + strcspn(text, "\n") ? end + strlen(colon) : text;
}

const char *dml_reason(dml_arena *arena)
{
    const char *text = after(dml_err_trail(), ".c:", ": ");
    text = after(text, "error", ": ");
    text = after(text, "override '", "': ");
    return dml_arena_printf(arena, "%.*s", (int)strcspn(text, "\n"), text);
}

/* The worker that is nearest to its limit; where there is none, the one that holds most. */
static void find_fullest(const dml_plan *p, dml_candidate *c)
{
    double most = -1.0;
    for (int32_t w = 0; w < p->workers; w++) {
        const int64_t bytes = dml_plan_worker_bytes(p, w), limit = dml_plan_limit(p, w);
        const double full = (double)bytes / (double)(limit > 0 ? limit : INT64_MAX);
        if (full <= most) continue;
        most = full;
        c->fullest = w;
        c->bytes = bytes;
        c->limit_bytes = limit;
    }
}

static void find_busiest(const dml_plan *p, const dml_sim *sim, dml_candidate *c)
{
    for (int32_t w = 0; w < p->workers; w++)
        if (sim->busy_ns[w] > sim->busy_ns[c->busiest]) c->busiest = w;
    c->busiest_stage = 0;
    while (c->busiest_stage + 1 < p->stages && !dml_plan_holds(p, c->busiest, c->busiest_stage))
        c->busiest_stage++;
    c->busy = 1.0 - dml_sim_bubble(sim, c->busiest);
}

/* The slowest way of one micro-batch: every stage at its slowest holder, every border over its slowest link. */
static int64_t way_ns(const dml_plan *p)
{
    int64_t way = 0;
    for (int32_t s = 0; s < p->stages; s++) {
        double speed = 0.0;
        int64_t lag = 0;
        for (int32_t w = 0; w < p->workers; w++) {
            if (!dml_plan_holds(p, w, s)) continue;
            const double its = dml_speed_of(&p->cost, w);
            if (speed == 0.0 || its < speed) speed = its;
            for (int32_t to = 0; s + 1 < p->stages && to < p->workers; to++)
                if (to != w && dml_plan_holds(p, to, s + 1))
                    lag = MAX2(lag, dml_link_ns(dml_links_between(&p->cost.links, w, to),
                                                (double)p->cost.chunk[s].out_bytes));
        }
        const dml_chunk_cost *k = &p->cost.chunk[s];
        way +=
            (int64_t)((double)(k->fwd_ns + k->bwd_input_ns + k->bwd_weight_ns) / speed) + 2 * lag;
    }
    return way;
}

static void free_reductions(dml_cost *cost)
{
    for (int32_t s = 0; s < cost->chunks; s++)
        cost->chunk[s].reduce_ns = 0;
}

static dml_err makespan(const dml_plan *p, const dml_cost *cost, int64_t *out)
{
    dml_sim sim;
    DML_TRY(dml_simulate(&p->train, cost, &sim));
    *out = sim.makespan_ns;
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

/* The program again with free reductions, then with free transfers, too. */
static dml_err find_exposed(const dml_plan *p, int64_t whole_ns, dml_shares *out)
{
    dml_cost cost;
    int64_t no_reduce = whole_ns, no_comm = whole_ns;
    DML_TRY(dml_cost_copy(&p->cost, &cost));
    free_reductions(&cost);
    dml_err err = makespan(p, &cost, &no_reduce);
    if (err == DML_ERR_OK) err = dml_cost_links(&cost, &(dml_links){0});
    if (err == DML_ERR_OK) err = makespan(p, &cost, &no_comm);
    dml_cost_free(&cost);
    out->exposed_reduce_ns = (double)(whole_ns - no_reduce) / p->updates;
    out->exposed_transfer_ns = (double)(no_reduce - no_comm) / p->updates;
    return err;
}

static void find_work(const dml_plan *p, const dml_sim *sim, dml_shares *out)
{
    double busy = 0.0, most = 0.0, again = 0.0;
    for (int32_t w = 0; w < p->workers; w++) {
        busy += (double)sim->busy_ns[w] / p->workers;
        most = MAX2(most, (double)sim->busy_ns[w]);
        for (int32_t i = 0; i < p->train.list[w].n; i++)
            if (p->train.list[w].op[i].kind == DML_OP_RECOMPUTE)
                again += (double)dml_op_ns(&p->cost, w, &p->train.list[w].op[i]) / p->workers;
    }
    out->work_ns = (busy - again) / p->updates;
    out->recompute_ns = again / p->updates;
    out->imbalance_ns = (most - busy) / p->updates;
}

static dml_err measure(const dml_plan *p, dml_candidate *c, bool shares)
{
    dml_sim sim;
    DML_TRY(dml_simulate(&p->train, &p->cost, &sim));
    c->step_ns = sim.makespan_ns / p->updates;
    c->way_ns = way_ns(p);
    find_fullest(p, c);
    find_busiest(p, &sim, c);
    find_work(p, &sim, &c->share);
    const dml_err err = shares ? find_exposed(p, sim.makespan_ns, &c->share) : DML_ERR_OK;
    const dml_shares *s = &c->share;
    c->share.bubble_ns = (double)c->step_ns - s->work_ns - s->recompute_ns - s->imbalance_ns -
                         s->exposed_transfer_ns - s->exposed_reduce_ns;
    dml_sim_free(&sim);
    return err;
}

void dml_candidate_price(const dml_spec *spec, dml_candidate *c, bool shares, dml_arena *arena)
{
    const dml_spec v = dml_candidate_spec(spec, c);
    dml_plan plan;
    dml_err err = dml_plan_make_one(&v, &plan);
    if (err == DML_ERR_OK) {
        err = measure(&plan, c, shares);
        dml_plan_free(&plan);
    }
    c->fate = err == DML_ERR_OK ? DML_FATE_PRICED : DML_FATE_MISFIT;
    c->why = err == DML_ERR_OK ? NULL : dml_reason(arena);
}
