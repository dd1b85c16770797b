/* engine/replan_norm.c - re-routes: other holders of their stages run what the lost ran. */
#include "engine/plan_async.h"
#include "engine/replan_impl.h"
#include "schedule/list.h"
#include "schedule/reroute.h"

/* The first plan's routes, and no ops. */
static dml_err routes_of(const dml_plan *first, dml_program *out)
{
    const dml_program *p = &first->train;
    DML_TRY(dml_program_init(out, p->workers, p->chunks, p->mbs));
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            *dml_program_route(out, c, mb) = *dml_program_route(p, c, mb);
    return DML_ERR_OK;
}

/* What a re-route may do beside it. */
static const struct mode {
    dml_repair repair;
    dml_list_objective objective;
    const char *override[2];
    int32_t n;
} modes[] = {
    {DML_REPAIR_REROUTE, DML_LIST_WALL, {NULL}, 0},
    {DML_REPAIR_DECOUPLED, DML_LIST_WALL, {"parallelism.decoupled=true"}, 1},
    {DML_REPAIR_STAGGERED,
     DML_LIST_SPAN,
     {"parallelism.decoupled=true", "parallelism.staggered=true"},
     2},
};

/* No order without the lost is shorter. */
static dml_err bound_without(const dml_plan *first, const bool *lost, bool split,
                             dml_list_objective objective, int64_t *bound_ns)
{
    dml_program whole, now;
    DML_TRY(routes_of(first, &whole));
    const dml_err err = dml_reroute(&whole, lost, &now);
    dml_program_free(&whole);
    DML_TRY(err);
    *bound_ns = dml_list_bound_ns(&(dml_list_args){.routes = &now,
                                                   .cost = &first->cost,
                                                   .split = split,
                                                   .objective = objective,
                                                   .trials = 1}) /
                first->updates;
    dml_program_free(&now);
    return DML_ERR_OK;
}

static dml_err propose(const dml_replan_case *c, const struct mode *m, bool is_split)
{
    int64_t bound_ns = 0;
    const bool staggered = c->first->spec->parallelism.staggered;
    const char *override[] = {dml_lost_override(c->first, c->lost, &c->out->arena), m->override[0],
                              m->override[1]};
    const dml_err err = bound_without(c->first, c->lost, is_split || m->n > 0,
                                      staggered ? DML_LIST_SPAN : m->objective, &bound_ns);
    if (err != DML_ERR_OK && err != DML_ERR_SPEC) return err;
    dml_replan_propose(c, m->repair, 0, override, 1 + m->n, bound_ns,
                       err == DML_ERR_OK ? NULL : dml_replan_reason(&c->out->arena));
    return DML_ERR_OK;
}

dml_err dml_propose_reroutes(const dml_replan_case *c)
{
    const bool late = dml_plan_is_asynchronous(c->first->spec),
               is_split = dml_program_splits_backward(&c->first->train);
    for (size_t k = 0; k < sizeof modes / sizeof *modes && (k == 0 || !late); k++) {
        if (modes[k].repair == DML_REPAIR_DECOUPLED && is_split) continue;
        DML_TRY(propose(c, &modes[k], is_split));
    }
    return DML_ERR_OK;
}
