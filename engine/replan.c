/* engine/replan.c - what could be done, in the order of what it can be at best, until nothing can be better. */
#include "engine/replan.h"

#include "engine/base/clock.h"
#include "engine/plan_async.h"
#include "engine/replan_impl.h"
#include "schedule/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the bound --------------------------------------------------------------------------------------- */

/* All that lost holders of the stage ran: with several stages on each, the others take those over as well. */
dml_bound dml_replan_bound(const dml_plan *first, uint64_t lost, int32_t stage)
{
    dml_bound b = {0};
    for (int32_t w = 0; w < first->workers; w++) {
        if (!dml_plan_holds(first, w, stage)) continue;
        b.holders++;
        if (!(lost >> w & 1)) continue;
        b.lost++;
        for (int32_t s = 0; s < first->stages; s++)
            b.more += dml_plan_share(first, w, s);
    }
    const int32_t ranks = dml_plan_is_equal(first) ? first->ranks : first->stages;
    b.idle = (int64_t)(b.holders - b.lost) * (ranks - 1);
    return b;
}

static bool bounds_hold(const dml_plan *first, uint64_t lost)
{
    for (int32_t s = 0; s < first->stages; s++) {
        const dml_bound b = dml_replan_bound(first, lost, s);
        if (!dml_bound_holds(&b)) return false;
    }
    return true;
}

/* ---- proposals --------------------------------------------------------------------------------------- */

bool *dml_lost_flags(const dml_plan *first, uint64_t mask, dml_arena *arena)
{
    bool *lost = DML_NEW_N(arena, bool, first->workers);
    for (int32_t w = 0; w < first->workers && w < DML_HOST_WORKERS; w++)
        lost[w] = mask >> w & 1;
    return lost;
}

void dml_replan_propose(const dml_replan_case *c, dml_repair repair, int32_t migrations,
                        const char *const *override, int32_t n, int64_t bound_ns, const char *why)
{
    dml_repair_options *o = c->out;
    const char **copy = DML_NEW_N(&o->arena, const char *, n + 1);
    for (int32_t i = 0; i < n; i++)
        copy[i] = override[i];
    /* what was written for all of them is no order of those who are left */
    const bool ordered = n > 0 && dml_spec_has_order(c->first->spec);
    if (ordered) copy[n] = "parallelism.order=";
    DML_ASSERT_OP(o->n, <, DML_REPAIR_OPTIONS);
    o->option[o->n++] = (dml_repair_option){.repair = repair,
                                            .migrations = migrations,
                                            .override = copy,
                                            .n_overrides = n + ordered,
                                            .bound_ns = bound_ns,
                                            .why = why};
}

/* "spec.yaml:3:4: error: override 'x=y': text", "engine/file.c:17: text" or, of the spec, "text". */
const char *dml_replan_reason(dml_arena *arena)
{
    static const char error[] = ": error: ", quoted[] = "': ", source[] = ".c:";
    const char *text = dml_err_trail(), *at = strstr(text, error), *from = strstr(text, source);
    const char *const end = text + strcspn(text, "\n");
    if (at && at < end) {
        const char *q = strstr(at, quoted);
        text = q && q < end ? q + strlen(quoted) : at + strlen(error);
    } else if (from && from < end) {
        const char *colon = strstr(from, ": ");
        text = colon && colon < end ? colon + strlen(": ") : text;
    }
    return dml_arena_printf(arena, "%.*s", (int)(end - text), text);
}

static bool is_about_layout(dml_err err)
{
    return err == DML_ERR_SPEC || err == DML_ERR_NOMEM;
}

static bool is_allowed(const dml_replan_case *c, dml_repair repair)
{
    const uint32_t may = c->input.repairs ? c->input.repairs : DML_REPAIRS_ALL;
    return may >> repair & 1;
}

/* The second is frugal: for when the first does not fit the workers' memory. */
static dml_err propose_cuts(const dml_replan_case *c)
{
    const dml_plan *first = c->first;
    const bool limited = dml_spec_has_limits(first->spec);
    if (dml_plan_is_asynchronous(first->spec)) {
        dml_replan_propose(c, DML_REPAIR_RECUT, 0, NULL, 0, 0,
                           dml_arena_printf(&c->out->arena,
                                            "the model is not cut anew under %s, whose updates are "
                                            "as late as the cut makes them",
                                            first->spec->parallelism.schedule));
        return DML_ERR_OK;
    }
    for (int frugal = 0; frugal <= limited; frugal++) {
        const char *override[DML_RECUT_OVERRIDES];
        int32_t n = 0;
        int64_t bound_ns = 0;
        const dml_err err = dml_recut(first, c->lost, frugal, &c->out->arena, override, &bound_ns);
        if (err != DML_ERR_OK && !is_about_layout(err)) return err;
        while (err == DML_ERR_OK && n < DML_RECUT_OVERRIDES && override[n])
            n++;
        dml_replan_propose(c, DML_REPAIR_RECUT, 0, override, n, bound_ns,
                           err == DML_ERR_OK ? NULL : dml_replan_reason(&c->out->arena));
    }
    return DML_ERR_OK;
}

static dml_err propose_restart(const dml_replan_case *c)
{
    dml_replan_propose(c, DML_REPAIR_RESTART, 0, NULL, 0, 0,
                       "nothing runs until the lost are back (failures.policy: restart)");
    return DML_ERR_OK;
}

/* In the order in which they are told; of equal prices the first counts. */
static dml_err (*const proposers[])(const dml_replan_case *c) = {
    dml_propose_reroutes, dml_propose_helped, propose_cuts, propose_restart};

/* ---- plans and prices -------------------------------------------------------------------------------- */

static dml_err step_ns(const dml_plan *plan, bool waits, int64_t *out, int32_t *stash_peak)
{
    dml_sim sim;
    DML_TRY(dml_simulate_period(&plan->train, &plan->cost, out));
    DML_TRY(dml_simulate(&plan->train, &plan->cost, &sim));
    *out = (waits ? sim.makespan_ns : *out) / plan->updates;
    *stash_peak = 0;
    for (int32_t w = 0; w < plan->workers; w++)
        *stash_peak = sim.peak_stash[w] > *stash_peak ? sim.peak_stash[w] : *stash_peak;
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

/* A step over the time H that the lost are away, there and back being paid from it; INT64_MAX: it does not pay. */
static int64_t expected_ns(int64_t step_ns, int64_t transition_ns, int64_t horizon_ns)
{
    const double left = (double)horizon_ns - 2.0 * (double)transition_ns;
    if (horizon_ns == 0 || transition_ns == 0) return step_ns;
    if (left <= 0) return INT64_MAX;
    return (int64_t)((double)step_ns * (double)horizon_ns / left);
}

static dml_err load(int fd, const dml_repair_option *o, dml_planned *p)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DML_TRY(dml_planned_note(p, o->override, o->n_overrides));
    DML_TRY(dml_spec_load(path, o->override, o->n_overrides, &p->spec));
    return dml_plan_make(&p->spec, &p->plan);
}

static dml_err plan_of(int fd, const dml_repair_option *o, dml_planned **out)
{
    dml_planned *p = calloc(1, sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for another plan");
    const dml_err err = load(fd, o, p);
    if (err == DML_ERR_OK)
        *out = p;
    else
        dml_planned_free(p);
    return err;
}

/* Plans it and fills in its price, or why there is none. */
static dml_err price(const dml_replan_case *c, int fd, dml_repair_option *o)
{
    const dml_err err = plan_of(fd, o, &o->planned);
    if (is_about_layout(err)) o->why = dml_replan_reason(&c->out->arena);
    if (err != DML_ERR_OK) return is_about_layout(err) ? DML_ERR_OK : err;
    DML_TRY(step_ns(&o->planned->plan, c->input.clipping, &o->step_ns, &o->stash_peak));
    const dml_plan *now = c->input.now ? c->input.now : c->first;
    o->moved_bytes = dml_replan_moved_bytes(now, &o->planned->plan, c->lost);
    o->transition_ns = dml_replan_transition_ns(&o->planned->plan, o->moved_bytes);
    o->expected_ns =
        expected_ns(o->step_ns, o->transition_ns, c->first->spec->failures.repair_time_ns);
    return DML_ERR_OK;
}

/* ---- the best ---------------------------------------------------------------------------------------- */

/* The fewest holders of a stage. */
static int32_t fewest_holders(const dml_plan *plan)
{
    int32_t fewest = plan->workers;
    for (int32_t s = 0; s < plan->stages; s++) {
        int32_t n = 0;
        for (int32_t w = 0; w < plan->workers; w++)
            n += dml_plan_holds(plan, w, s) && !dml_plan_lost(plan, w);
        fewest = n < fewest ? n : fewest;
    }
    return fewest;
}

/* Whether another loss, of the wrong worker, would take the newest state with it, where it could not before. */
static bool is_lonely(const dml_replan_case *c, const dml_repair_option *x)
{
    return c->first->spec->failures.snapshot_interval == 0 && fewest_holders(c->first) > 1 &&
           fewest_holders(&x->planned->plan) == 1;
}

/* Up to which price an option is of interest, by what was found so far. */
static int64_t interesting_ns(const dml_replan_case *c)
{
    const dml_repair_options *o = c->out;
    if (o->best < 0) return INT64_MAX;
    const dml_repair_option *best = &o->option[o->best];
    return is_lonely(c, best) ? (int64_t)((double)best->expected_ns * DML_REPAIR_SAFE_TIMES)
                              : best->expected_ns;
}

/* The next to look at: not priced yet, and by its bound the cheapest; NULL: none can be better than the best. */
static dml_repair_option *next_of(const dml_replan_case *c, bool all)
{
    dml_repair_options *o = c->out;
    dml_repair_option *next = NULL;
    const int64_t below_ns = interesting_ns(c);
    for (int32_t i = 0; i < o->n; i++) {
        dml_repair_option *x = &o->option[i];
        if (x->why || x->planned) continue;
        if (!all && !is_allowed(c, x->repair)) continue;
        if (!all && x->bound_ns >= below_ns) continue;
        if (!next || x->bound_ns < next->bound_ns) next = x;
    }
    return next;
}

/* Of those priced and allowed, the cheapest: of all, or of those that are not lonely; -1: none. */
static int32_t cheapest(const dml_replan_case *c, bool safe)
{
    const dml_repair_options *o = c->out;
    int32_t best = -1;
    for (int32_t i = 0; i < o->n; i++) {
        const dml_repair_option *x = &o->option[i];
        if (x->why || !x->planned || !is_allowed(c, x->repair) || (safe && is_lonely(c, x)))
            continue;
        if (best < 0 || x->expected_ns < o->option[best].expected_ns) best = i;
    }
    return best;
}

static int32_t best_of(const dml_replan_case *c)
{
    const dml_repair_option *option = c->out->option;
    const int32_t best = cheapest(c, false), safe = cheapest(c, true);
    if (best < 0 || safe < 0 || best == safe) return best;
    const double most = (double)option[best].expected_ns * DML_REPAIR_SAFE_TIMES;
    return (double)option[safe].expected_ns <= most ? safe : best;
}

static bool is_empty(const dml_plan *first, const bool *lost)
{
    for (int32_t w = 0; w < first->workers; w++)
        if (!lost[w]) return false;
    return true;
}

static dml_err find(const dml_replan_case *c, int fd, bool all)
{
    int32_t stash_peak;
    if (is_empty(c->first, c->lost)) DML_FAIL(DML_ERR_PEER, "nobody is left to go on with");
    DML_TRY(step_ns(c->first, c->input.clipping, &c->out->before_ns, &stash_peak));
    for (size_t k = 0; k < sizeof proposers / sizeof *proposers; k++)
        DML_TRY(proposers[k](c));
    for (dml_repair_option *o = next_of(c, all); o; o = next_of(c, all)) {
        DML_TRY(price(c, fd, o));
        c->out->best = best_of(c);
    }
    return DML_ERR_OK;
}

static dml_err options(int fd, const dml_plan *first, const bool *lost,
                       const dml_replan_input *input, bool all, dml_repair_options *out)
{
    dml_repair_options o = {.best = -1};
    o.option = DML_NEW_N(&o.arena, dml_repair_option, DML_REPAIR_OPTIONS);
    const dml_replan_case c = {
        .first = first, .lost = lost, .input = input ? *input : (dml_replan_input){0}, .out = &o};
    const dml_err err = find(&c, fd, all);
    if (err == DML_ERR_OK)
        *out = o;
    else
        dml_repair_options_free(&o);
    return err;
}

dml_err dml_replan_options(int base_fd, const dml_plan *first, const bool *lost,
                           const dml_replan_input *input, dml_repair_options *out)
{
    return options(base_fd, first, lost, input, true, out);
}

dml_err dml_replan_best(int base_fd, const dml_plan *first, const bool *lost,
                        const dml_replan_input *input, dml_repair_options *out)
{
    return options(base_fd, first, lost, input, false, out);
}

void dml_repair_options_free(dml_repair_options *o)
{
    for (int32_t i = 0; i < o->n; i++)
        dml_planned_free(o->option[i].planned);
    dml_arena_free(&o->arena);
    *o = (dml_repair_options){0};
}

/* ---- taken ------------------------------------------------------------------------------------------- */

static dml_err none_can(const dml_repair_options *o)
{
    dml_str why = {0};
    for (int32_t i = 0; i < o->n; i++)
        if (o->option[i].why && o->option[i].repair != DML_REPAIR_RESTART)
            dml_str_printf(&why, "%s%s: %s", why.len > 0 ? "; " : "",
                           dml_repair_text(o->option[i].repair), o->option[i].why);
    const dml_err err = dml_err_set(DML_ERR_PEER, __FILE__, __LINE__,
                                    "those who are left cannot go on: %s", dml_str_text(&why));
    dml_str_free(&why);
    return err;
}

static dml_err take(dml_repair_options *o, dml_replan *r)
{
    if (o->best < 0) return none_can(o);
    dml_repair_option *x = &o->option[o->best];
    r->repair = x->repair;
    r->migrations = x->migrations;
    r->planned = x->planned;
    r->before_ns = o->before_ns;
    r->after_ns = x->step_ns;
    r->transition_ns = x->transition_ns;
    r->moved_bytes = x->moved_bytes;
    x->planned = NULL;
    return DML_ERR_OK;
}

static dml_err repair(int fd, const dml_plan *first, uint64_t lost, const dml_replan_input *input,
                      dml_replan *r)
{
    dml_arena arena = {0};
    dml_repair_options o;
    dml_err err = dml_replan_best(fd, first, dml_lost_flags(first, lost, &arena), input, &o);
    if (err == DML_ERR_OK) {
        err = take(&o, r);
        dml_repair_options_free(&o);
    }
    dml_arena_free(&arena);
    return err;
}

static dml_err keep_first(const dml_plan *first, dml_replan *r)
{
    int32_t stash_peak;
    DML_TRY(step_ns(first, false, &r->before_ns, &stash_peak));
    r->after_ns = r->before_ns;
    return DML_ERR_OK;
}

dml_err dml_replan_make(int base_fd, const dml_plan *first, uint64_t lost,
                        const dml_replan_input *input, dml_replan *out)
{
    const int64_t began_ns = dml_clock_ns();
    dml_replan r = {.repair = DML_REPAIR_NONE, .bound_holds = bounds_hold(first, lost)};
    DML_TRY(lost == 0 ? keep_first(first, &r) : repair(base_fd, first, lost, input, &r));
    r.ratio = r.after_ns > 0 ? (double)r.before_ns / (double)r.after_ns : 1.0;
    r.took_ns = dml_clock_ns() - began_ns;
    *out = r;
    return DML_ERR_OK;
}

/* ---- for people -------------------------------------------------------------------------------------- */

static void print_step(const dml_plan *first, const dml_replan *r, dml_str *out)
{
    const dml_plan *after = r->planned ? &r->planned->plan : first;
    dml_str_printf(out, "%-24s %12s %12s\n", "", "before", "after");
    dml_str_printf(out, "%-24s %12.3f %12.3f\n", "step ms", (double)r->before_ns * 1e-6,
                   (double)r->after_ns * 1e-6);
    dml_str_printf(out, "%-24s %11.1f%% %11.1f%%\n", "throughput", 100.0, 100.0 * r->ratio);
    if (after->bound_ns > 0)
        dml_str_printf(out, "%-24s %12s %12.3f\n", "no order is below, ms", "",
                       (double)after->bound_ns * 1e-6);
}

static void print_bounds(const dml_plan *first, uint64_t lost, dml_str *out)
{
    dml_str_printf(out, "\n%-8s %8s %6s %10s %14s   %s\n", "stage", "holders", "lost", "x M",
                   "(D - x)(P - 1)", "the bubble takes it up");
    for (int32_t s = 0; s < first->stages; s++) {
        const dml_bound b = dml_replan_bound(first, lost, s);
        dml_str_printf(out, "%-8d %8d %6d %10lld %14lld   %s\n", s, b.holders, b.lost,
                       (long long)b.more, (long long)b.idle,
                       b.lost == 0           ? ""
                       : dml_bound_holds(&b) ? "yes"
                                             : "no");
    }
}

static void print_workers(const dml_plan *first, const dml_plan *after, dml_str *out)
{
    dml_str_printf(out, "\n%-8s %15s %12s %15s %12s\n", "worker", "stages before", "MiB",
                   "stages after", "MiB");
    for (int32_t w = 0; w < first->workers; w++) {
        dml_str had = {0}, has = {0};
        dml_plan_print_stages(first, w, &had);
        dml_plan_print_stages(after, w, &has);
        dml_str_printf(out, "%-8d %15s %12.3f", w, dml_str_text(&had),
                       (double)dml_plan_worker_bytes(first, w) / 0x1p20);
        if (dml_plan_lost(after, w))
            dml_str_printf(out, " %15s\n", "lost");
        else
            dml_str_printf(out, " %15s %12.3f\n", dml_str_text(&has),
                           (double)dml_plan_worker_bytes(after, w) / 0x1p20);
        dml_str_free(&had);
        dml_str_free(&has);
    }
}

void dml_replan_print(const dml_plan *first, uint64_t lost, const dml_replan *r, dml_str *out)
{
    dml_str_printf(out, "repair: %s\n\n", dml_repair_text(r->repair));
    print_step(first, r, out);
    print_bounds(first, lost, out);
    print_workers(first, r->planned ? &r->planned->plan : first, out);
}
