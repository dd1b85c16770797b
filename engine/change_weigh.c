/* engine/change_weigh.c - plans that even out what was measured, each simulated with it.
 *
 *   now      the layout of now                                  with measured speeds and costs
 *   shares   its cut, each stage dealt out by speeds                   "
 *   cut      and cut anew, where there are several stages              "
 *
 * All get their orders from the list scheduler.  What a layout gains is counted against now's under its own order and
 * under a new one, so that a better order alone is no reason to change.
 *
 * The emulation must not believe what the planner believes: a worker's delay layers go on at the pace that the first
 * spec gives them, so that is written out as cluster.slow before cluster.speed is replaced.
 */
#include "engine/change_impl.h"

#include "engine/base/log.h"
#include "engine/base/str.h"
#include "schedule/sim.h"

#include <math.h>
#include <string.h>

enum { OVERRIDES = 8, OPTIONS = 3, PATIENCE_MAX = 64 };

/* A layout to be weighed, as overrides of the first spec. */
typedef struct candidate {
    const char *text[OVERRIDES];
    int32_t n;
    dml_planned *plan; /* NULL: it cannot be planned */
    double step_ns;    /* of its plan; INFINITY where there is none */
} candidate;

static void add(candidate *o, const char *text)
{
    o->text[o->n++] = text;
}

/* ---- as overrides ---- */

static const char *speeds_text(const dml_plan *plan, const dml_measured *m, dml_arena *arena)
{
    const char *text = "cluster.speed=[";
    for (int32_t w = 0; w < plan->workers; w++)
        text = dml_arena_printf(arena, "%s%s%.4g", text, w ? ", " : "", m->speed[w]);
    return dml_arena_printf(arena, "%s]", text);
}

static const char *pace_text(const dml_plan *first, dml_arena *arena)
{
    const dml_spec *spec = first->spec;
    const char *text = "cluster.slow=[", *comma = "";
    for (int32_t w = 0; w < first->workers; w++, comma = ", ")
        text = dml_arena_printf(arena, "%s%s{worker: %d, speed: %.17g, step: 0}", text, comma, w,
                                dml_spec_speed(spec, w));
    for (int32_t i = 0; i < spec->cluster.n_slow; i++) {
        const dml_slow_spec *s = &spec->cluster.slow[i];
        text = dml_arena_printf(arena, "%s, {worker: %d, speed: %.17g, step: %lld}", text,
                                s->worker, s->speed, (long long)s->step);
    }
    return dml_arena_printf(arena, "%s]", text);
}

/* Shares of one stage: as they are, or by speed. */
static void shares_of(const dml_plan *plan, int32_t stage, const double *speed,
                      const int32_t *holder, int32_t n, int32_t *share, dml_arena *arena)
{
    double *mb_ns = DML_NEW_N(arena, double, n);
    for (int32_t i = 0; i < n; i++)
        mb_ns[i] = speed ? 1.0 / speed[holder[i]] : 1.0;
    if (speed)
        dml_balance_shares(mb_ns, n, plan->mbs, share);
    else
        for (int32_t i = 0; i < n; i++)
            share[i] = dml_plan_share(plan, holder[i], stage);
}

/* For people: "5:5:5", stages apart by blanks; those that nobody shares are left out. */
static const char *brief_shares(const dml_plan *plan, dml_arena *arena)
{
    int32_t *holder = DML_NEW_N(arena, int32_t, plan->workers);
    const char *text = "";
    for (int32_t s = 0; s < plan->stages; s++) {
        const int32_t n = dml_plan_holders(plan, s, holder);
        for (int32_t i = 0; i < n && n > 1; i++)
            text = dml_arena_printf(arena, "%s%s%d", text,
                                    i         ? ":"
                                    : text[0] ? " "
                                              : "",
                                    dml_plan_share(plan, holder[i], s));
    }
    return text;
}

static const char *ints_text(const int32_t *v, int32_t n, dml_arena *arena)
{
    const char *text = "[";
    for (int32_t i = 0; i < n; i++)
        text = dml_arena_printf(arena, "%s%s%d", text, i ? ", " : "", v[i]);
    return dml_arena_printf(arena, "%s]", text);
}

/* speed NULL: shares stay. */
static const char *stages_text(const dml_plan *plan, const double *speed, dml_arena *arena)
{
    int32_t *holder = DML_NEW_N(arena, int32_t, plan->workers),
            *share = DML_NEW_N(arena, int32_t, plan->workers);
    const char *text = "parallelism.stages=[";
    for (int32_t s = 0; s < plan->stages; s++) {
        const int32_t n = dml_plan_holders(plan, s, holder);
        shares_of(plan, s, speed, holder, n, share, arena);
        text = dml_arena_printf(arena, "%s%s{workers: %s, shares: %s}", text, s ? ", " : "",
                                ints_text(holder, n, arena), ints_text(share, n, arena));
    }
    return dml_arena_printf(arena, "%s]", text);
}

static const char *split_text(const dml_plan *plan, dml_arena *arena)
{
    int32_t *layers = DML_NEW_N(arena, int32_t, plan->stages);
    for (int32_t s = 0; s < plan->stages; s++)
        layers[s] = plan->stage_begin[s + 1] - plan->stage_begin[s];
    return ints_text(layers, plan->stages, arena);
}

/* ---- weighing ---- */

static dml_err simulate(const dml_program *p, const dml_cost *cost, double *step_ns)
{
    dml_sim sim;
    DML_TRY(dml_simulate(p, cost, &sim));
    *step_ns = (double)sim.makespan_ns;
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

/* Plans a layout with what was measured. */
static dml_err make(const dml_changes *c, const dml_measured *m, candidate *o)
{
    DML_TRY(dml_planned_load(c->base_fd, o->text, o->n, &o->plan));
    dml_planned *p = o->plan;
    const dml_costs *costs = m->costs ? m->costs : dml_recovery_plan(c->recovery)->spec->costs;
    if (costs) {
        p->spec.costs = dml_costs_copy(costs, &p->spec.arena);
        dml_plan_free(&p->plan);
        DML_TRY(dml_plan_make(&p->spec, &p->plan));
    }
    return simulate(&p->plan.train, &p->plan.cost, &o->step_ns);
}

static void weigh_candidate(const dml_changes *c, const dml_measured *m, candidate *o)
{
    if (make(c, m, o) == DML_ERR_OK) return;
    dml_log(DML_LOG_INFO, "balance", "passed over: %s", dml_err_trail());
    dml_planned_free(o->plan);
    o->plan = NULL;
    o->step_ns = INFINITY;
}

/* The same workers for the same layers and as many micro-batches: an order made anew is no reason to change. */
static bool is_same_layout(const dml_plan *a, const dml_plan *b)
{
    for (int32_t s = 0; s <= a->stages; s++)
        if (a->stage_begin[s] != b->stage_begin[s]) return false;
    for (int32_t s = 0; s < a->stages; s++)
        for (int32_t w = 0; w < a->workers; w++)
            if (dml_plan_share(a, w, s) != dml_plan_share(b, w, s)) return false;
    return true;
}

/* What evens out: shares alone, and where there are several stages a new cut with them.  Fills option[0 .. n). */
static int32_t layouts(const dml_changes *c, const dml_measured *m, dml_arena *arena,
                       candidate option[OPTIONS])
{
    const dml_plan *now = dml_recovery_plan(c->recovery);
    const char *speeds = speeds_text(now, m, arena), *pace = pace_text(c->first, arena);
    const char *shares = stages_text(now, m->speed, arena);
    const char *split = dml_arena_printf(arena, "parallelism.split=%s", split_text(now, arena));
    const int32_t n = now->stages > 1 ? OPTIONS : OPTIONS - 1;
    for (int32_t i = 0; i < n; i++) {
        option[i] = (candidate){0};
        add(&option[i], speeds);
        add(&option[i], pace);
        add(&option[i], i == 2 ? "parallelism.split=auto" : split);
        add(&option[i], i == 0 ? stages_text(now, NULL, arena) : shares);
        add(&option[i], "parallelism.schedule=auto");
    }
    return n;
}

/* How even the work is under a plan whose costs are what was measured. */
static double entropy_of(const dml_plan *plan)
{
    dml_sim sim;
    if (dml_simulate(&plan->train, &plan->cost, &sim) != DML_ERR_OK) return NAN;
    double load[DML_HOST_WORKERS];
    for (int32_t w = 0; w < plan->workers; w++)
        load[w] = (double)sim.busy_ns[w];
    dml_sim_free(&sim);
    return dml_balance_entropy(load, plan->workers);
}

/* A change that did not bring what it promised makes the next one wait, twice as long each time: where times do not
 * follow the model, plans do not chase each other. */
static bool has_patience(dml_changes *c, double step_ns)
{
    if (c->promised_ns > 0.0) {
        const bool kept = step_ns <= 1.1 * c->promised_ns;
        c->patience = kept ? 0 : c->patience > 0 ? 2 * c->patience : 1;
        if (c->patience > PATIENCE_MAX) c->patience = PATIENCE_MAX;
        c->wait = c->patience;
        c->promised_ns = 0.0;
    }
    return c->wait == 0 || c->wait-- == 0;
}

/* The fastest of the options that differ from now, if it gains enough and it is time; 0: to stay. */
static int32_t choose(dml_changes *c, const candidate *option, int32_t n, double now_ns)
{
    const double least_ns = fmin(now_ns, option[0].step_ns);
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        const bool other = option[i].plan &&
                           !is_same_layout(dml_recovery_plan(c->recovery), &option[i].plan->plan);
        if (other && (best == 0 || option[i].step_ns < option[best].step_ns)) best = i;
    }
    const bool gains = option[best].step_ns * (1.0 + DML_CHANGE_GAIN) < least_ns;
    return has_patience(c, now_ns) && gains ? best : 0;
}

/* next NULL: to stay. */
static dml_balance_record record_of(const dml_changes *c, const dml_measured *m, double now_ns,
                                    const candidate *next, dml_arena *arena)
{
    const dml_plan *from = dml_recovery_plan(c->recovery), *to = next ? &next->plan->plan : from;
    const double entropy = dml_balance_entropy(m->load_ns, from->workers);
    return (dml_balance_record){
        .step = c->load[0].step,
        .changed = next != NULL,
        .entropy = entropy,
        .planned_entropy = next ? entropy_of(to) : entropy,
        .shares = brief_shares(from, arena),
        .planned_shares = brief_shares(to, arena),
        .split = split_text(from, arena),
        .planned_split = split_text(to, arena),
        .speeds = strchr(speeds_text(from, m, arena), '['),
        .step_time_s = now_ns * 1e-9,
        .planned_step_time_s = (next ? next->step_ns : now_ns) * 1e-9,
    };
}

bool dml_changes_weigh(dml_changes *c, dml_arena *arena, dml_planned **better,
                       dml_balance_record *out)
{
    const dml_plan *now = dml_recovery_plan(c->recovery);
    dml_measured m;
    candidate option[OPTIONS];
    double now_ns = 0.0;
    if (!dml_balance_measure(now, c->load, arena, &m)) return false;
    const int32_t n = layouts(c, &m, arena, option);
    for (int32_t i = 0; i < n; i++)
        weigh_candidate(c, &m, &option[i]);
    const bool known =
        option[0].plan && simulate(&now->train, &option[0].plan->plan.cost, &now_ns) == DML_ERR_OK;
    const int32_t best = known ? choose(c, option, n, now_ns) : 0;
    if (known) *out = record_of(c, &m, now_ns, best > 0 ? &option[best] : NULL, arena);
    if (best > 0) {
        c->promised_ns = option[best].step_ns;
        *better = option[best].plan;
        option[best].plan = NULL;
    }
    for (int32_t i = 0; i < n; i++)
        dml_planned_free(option[i].plan);
    return known;
}
