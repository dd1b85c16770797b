/* engine/replay_plans.c - asks engine/replan for each set of losses once, and keeps what a replay needs of the answer. */
#include "engine/replay_plans.h"

#include "engine/plan_async.h"
#include "engine/replan.h"
#include "engine/replay_impl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct kept {
    uint64_t lost;
    bool reroute_only;
    dml_replay_way way;
    struct kept *next;
} kept;

struct dml_replay_plans {
    int fd; /* the spec's text */
    dml_plan first;
    dml_replay_planner planner;
    kept *known;
    dml_arena arena;
};

/* ---- the run ----------------------------------------------------------------------------------------- */

static int64_t pass_ns(const dml_plan *p, int32_t layer)
{
    int64_t ns = 0;
    for (dml_pass pass = 0; pass < DML_PASSES; pass++)
        ns += dml_plan_layer_ns(p, layer, pass);
    return ns;
}

/* Parameters in fp32 and what the optimizer keeps of each; or `bytes` in proportion to the layers' times. */
static const int64_t *state_of(const dml_plan *p, int64_t bytes, dml_arena *arena)
{
    const dml_spec *spec = p->spec;
    const int64_t copies = spec->optimizer.name == DML_OPT_ADAMW ? 3
                           : spec->optimizer.momentum > 0        ? 2
                                                                 : 1;
    int64_t *of = DML_NEW_N(arena, int64_t, p->model.n_layers);
    double all = 0;
    for (int32_t i = 0; i < p->model.n_params; i++)
        of[p->model.param[i].layer] += p->model.param[i].elems * (int64_t)sizeof(float) * copies;
    for (int32_t l = 0; l < p->model.n_layers; l++)
        all += (double)pass_ns(p, l);
    for (int32_t l = 0; bytes > 0 && l < p->model.n_layers; l++)
        of[l] = all > 0 ? (int64_t)((double)bytes * (double)pass_ns(p, l) / all)
                        : bytes / p->model.n_layers;
    return of;
}

static dml_err check(const dml_plan *p)
{
    if (!dml_plan_is_equal(p))
        DML_FAIL(DML_ERR_SPEC, "a replay compares what becomes of equal pipelines: the run has "
                               "parallelism.stages");
    if (dml_plan_is_asynchronous(p->spec))
        DML_FAIL(DML_ERR_SPEC,
                 "a replay is of synchronous schedules: %s makes its updates late, and none of the "
                 "other systems do",
                 p->spec->parallelism.schedule);
    if (p->workers > DML_OUTAGE_WORKERS)
        DML_FAIL(DML_ERR_SPEC, "a replay knows at most %d workers, not %d", DML_OUTAGE_WORKERS,
                 p->workers);
    return DML_ERR_OK;
}

/* ---- plans ------------------------------------------------------------------------------------------- */

static const bool *holds_of(const dml_plan *p, dml_arena *arena)
{
    const int32_t layers = p->model.n_layers;
    bool *holds = DML_NEW_N(arena, bool, (int64_t)p->workers *layers);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t s = 0; s < p->stages; s++)
            for (int32_t l = p->stage_begin[s];
                 dml_plan_holds(p, w, s) && l < p->stage_begin[s + 1]; l++)
                holds[(int64_t)w * layers + l] = true;
    return holds;
}

/* Rows of `holds` are places: whose is each worker's? */
static const bool *seated(const bool *holds, const int32_t *place, const dml_replay_planner *p,
                          dml_arena *arena)
{
    bool *out = DML_NEW_N(arena, bool, (int64_t)p->workers * p->layers);
    for (int32_t w = 0; w < p->workers; w++)
        memcpy(out + (int64_t)w * p->layers, holds + (int64_t)place[w] * p->layers,
               (size_t)p->layers * sizeof *out);
    return out;
}

static dml_err replanned(dml_replay_plans *s, uint64_t lost, uint32_t repairs, dml_replay_way *out)
{
    const dml_replan_input input = {.repairs = repairs};
    dml_replan r;
    const dml_err err = dml_replan_make(s->fd, &s->first, lost, &input, &r);
    *out = (dml_replay_way){0};
    if (err == DML_ERR_PEER) return DML_ERR_OK; /* they cannot go on */
    if (err != DML_ERR_OK) return dml_err_add(err, __func__, __FILE__, __LINE__);
    const dml_plan *p = r.planned ? &r.planned->plan : &s->first;
    *out = (dml_replay_way){.step_ns = r.after_ns,
                            .staggered = p->train.staggered,
                            .repair = dml_repair_text(r.repair),
                            .holds = holds_of(p, &s->arena)};
    dml_planned_free(r.planned);
    return DML_ERR_OK;
}

/* Re-routes after losses are spread; equal stages and workers, so the plan of the places is that of the workers.  Stages
 * with workers of their own are re-routed as they are. */
static dml_err rerouted(dml_replay_plans *s, uint64_t lost, dml_replay_way *out)
{
    const uint32_t reroutes =
        1u << DML_REPAIR_REROUTE | 1u << DML_REPAIR_DECOUPLED | 1u << DML_REPAIR_STAGGERED;
    int32_t place[DML_OUTAGE_WORKERS];
    if (!dml_plan_is_equal(&s->first)) return replanned(s, lost, reroutes, out);
    const uint64_t places = dml_replay_spread(s->first.ranks, s->first.replicas, lost, place);
    DML_TRY(replanned(s, places, reroutes, out));
    if (out->holds) out->holds = seated(out->holds, place, &s->planner, &s->arena);
    return DML_ERR_OK;
}

static dml_err make(dml_replay_plans *s, uint64_t lost, bool reroute_only, dml_replay_way *out)
{
    if (lost != 0)
        return reroute_only ? rerouted(s, lost, out) : replanned(s, lost, DML_REPAIRS_ALL, out);
    *out = (dml_replay_way){.step_ns = s->planner.step_ns,
                            .staggered = s->first.train.staggered,
                            .repair = dml_repair_text(DML_REPAIR_NONE),
                            .holds = holds_of(&s->first, &s->arena)};
    return DML_ERR_OK;
}

static dml_err plan(void *ctx, uint64_t lost, bool reroute_only, dml_replay_way *out)
{
    dml_replay_plans *s = ctx;
    for (const kept *k = s->known; k; k = k->next)
        if (k->lost == lost && k->reroute_only == reroute_only) {
            *out = k->way;
            return DML_ERR_OK;
        }
    kept *k = DML_NEW(&s->arena, kept);
    DML_TRY(make(s, lost, reroute_only, &k->way));
    k->lost = lost;
    k->reroute_only = reroute_only;
    k->next = s->known;
    s->known = k;
    *out = k->way;
    return DML_ERR_OK;
}

/* ---- open and close ---------------------------------------------------------------------------------- */

static dml_err prepare(dml_replay_plans *s, const dml_spec *spec, int64_t state_bytes)
{
    DML_TRY(check(&s->first));
    DML_TRY(dml_spec_to_memory(spec, &s->fd));
    dml_arena arena = {0};
    const int32_t n = s->first.workers;
    int64_t step_ns = 0;
    const dml_err err =
        dml_plan_predict(&s->first, &s->first.cost, &step_ns, DML_NEW_N(&arena, double, n),
                         DML_NEW_N(&arena, int32_t, n), DML_NEW_N(&arena, int64_t, n));
    dml_arena_free(&arena);
    DML_TRY(err);
    s->planner = (dml_replay_planner){.workers = n,
                                      .layers = s->first.model.n_layers,
                                      .ranks = s->first.ranks,
                                      .replicas = s->first.replicas,
                                      .mbs = s->first.mbs,
                                      .step_ns = step_ns,
                                      .state_bytes = state_of(&s->first, state_bytes, &s->arena),
                                      .ctx = s,
                                      .plan = plan};
    return DML_ERR_OK;
}

dml_err dml_replay_plans_open(const dml_spec *spec, int64_t state_bytes, dml_replay_plans **out)
{
    dml_replay_plans *s = calloc(1, sizeof *s);
    if (!s) DML_FAIL(DML_ERR_NOMEM, "no memory for a replay");
    s->fd = -1;
    dml_err err = dml_plan_make(spec, &s->first);
    if (err == DML_ERR_OK) err = prepare(s, spec, state_bytes);
    if (err == DML_ERR_OK)
        *out = s;
    else
        dml_replay_plans_close(s);
    return err;
}

void dml_replay_plans_close(dml_replay_plans *plans)
{
    if (!plans) return;
    if (plans->fd >= 0) close(plans->fd);
    dml_plan_free(&plans->first);
    dml_arena_free(&plans->arena);
    free(plans);
}

const dml_replay_planner *dml_replay_plans_planner(const dml_replay_plans *plans)
{
    return &plans->planner;
}

const dml_plan *dml_replay_plans_first(const dml_replay_plans *plans)
{
    return &plans->first;
}
