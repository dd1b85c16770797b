/* engine/replan.c - tries one repair after the other; the first that can be planned is taken. */
#include "engine/replan.h"

#include "engine/base/clock.h"
#include "engine/plan_async.h"
#include "engine/replan_impl.h"
#include "schedule/sim.h"

#include <stdlib.h>
#include <string.h>

const char *dml_repair_text(dml_repair repair)
{
    static const char *const text[] = {
#define X(repair, text) text,
        DML_REPAIR_LIST(X)
#undef X
    };
    return text[repair];
}

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

/* ---- the plan ---------------------------------------------------------------------------------------- */

static dml_err plan_of(int fd, const char *const *override, int32_t n, dml_planned **out)
{
    dml_planned *p = calloc(1, sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for another plan");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    dml_err err = dml_spec_load(path, override, n, &p->spec);
    if (err == DML_ERR_OK) err = dml_plan_make(&p->spec, &p->plan);
    if (err == DML_ERR_OK)
        *out = p;
    else
        dml_planned_free(p);
    return err;
}

static dml_err reroute(int fd, const dml_plan *first, uint64_t lost, dml_arena *arena,
                       dml_planned **out)
{
    (void)first;
    const char *const override[] = {dml_lost_override(lost, arena)};
    return plan_of(fd, override, 1, out);
}

static dml_err recut(int fd, const dml_plan *first, uint64_t lost, dml_arena *arena,
                     dml_planned **out)
{
    if (dml_plan_is_asynchronous(first->spec))
        DML_FAIL(
            DML_ERR_SPEC,
            "the model is not cut anew under %s, whose updates are as late as the cut makes them",
            first->spec->parallelism.schedule);
    dml_err err = DML_ERR_SPEC;
    for (int frugal = 0; frugal < 2 && err != DML_ERR_OK; frugal++) {
        const char *override[DML_RECUT_OVERRIDES];
        err = dml_recut(first, lost, frugal, arena, override);
        if (err == DML_ERR_OK) err = plan_of(fd, override, DML_RECUT_OVERRIDES, out);
    }
    return err;
}

/* In the order in which they are tried: what moves least goes first. */
static const struct {
    dml_repair repair;
    dml_err (*plan)(int fd, const dml_plan *first, uint64_t lost, dml_arena *arena,
                    dml_planned **out);
} repairs[] = {{DML_REPAIR_REROUTE, reroute}, {DML_REPAIR_RECUT, recut}};

/* The first line of the trail, without the place in our sources or in the spec: "..., override 'x=y': text". */
static const char *reason(dml_arena *arena)
{
    const char *text = dml_err_trail(), *colon = strstr(text, ": "), *line = strchr(text, '\n');
    text = colon ? colon + strlen(": ") : text;
    const char *quoted = strstr(text, "': ");
    if (quoted && (!line || quoted < line)) text = quoted + strlen("': ");
    return dml_arena_printf(arena, "%.*s", (int)strcspn(text, "\n"), text);
}

static bool is_empty(const dml_plan *first, uint64_t lost)
{
    for (int32_t w = 0; w < first->workers; w++)
        if (!(lost >> w & 1)) return false;
    return true;
}

static dml_err repair(int fd, const dml_plan *first, uint64_t lost, dml_arena *arena,
                      dml_replan *out)
{
    if (is_empty(first, lost)) DML_FAIL(DML_ERR_PEER, "nobody is left to go on with");
    dml_str why = {0};
    for (size_t k = 0; k < sizeof repairs / sizeof *repairs; k++) {
        out->repair = repairs[k].repair;
        const dml_err err = repairs[k].plan(fd, first, lost, arena, &out->planned);
        if (err != DML_ERR_OK)
            dml_str_printf(&why, "%s%s: %s", k ? "; " : "", dml_repair_text(out->repair),
                           reason(arena));
        if (err != DML_ERR_SPEC && err != DML_ERR_NOMEM) {
            dml_str_free(&why);
            return err;
        }
    }
    const dml_err err = dml_err_set(DML_ERR_PEER, __FILE__, __LINE__,
                                    "those who are left cannot go on: %s", dml_str_text(&why));
    dml_str_free(&why);
    return err;
}

static dml_err step_ns(const dml_plan *plan, int64_t *out)
{
    DML_TRY(dml_simulate_period(&plan->train, &plan->cost, out));
    *out /= plan->updates;
    return DML_ERR_OK;
}

dml_err dml_replan_make(int base_fd, const dml_plan *first, uint64_t lost, dml_replan *out)
{
    const int64_t began_ns = dml_clock_ns();
    dml_replan r = {.repair = DML_REPAIR_NONE, .bound_holds = bounds_hold(first, lost)};
    dml_arena arena = {0};
    dml_err err = step_ns(first, &r.before_ns);
    if (err == DML_ERR_OK && lost != 0) err = repair(base_fd, first, lost, &arena, &r);
    r.after_ns = r.before_ns;
    if (err == DML_ERR_OK && r.planned) err = step_ns(&r.planned->plan, &r.after_ns);
    dml_arena_free(&arena);
    if (err != DML_ERR_OK) {
        dml_planned_free(r.planned);
        return err;
    }
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
