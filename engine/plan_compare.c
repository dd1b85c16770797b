/* engine/plan_compare.c - plans the spec once for each schedule; a row is read off its program. */
#include "engine/plan_compare.h"

#include "engine/plan_nearest.h"
#include "engine/plan_order.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/versions.h"

#include <stdio.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

static const char would_do[] = "; would do: ";

typedef struct figures {
    double step_ns, sent_bytes, reduced_bytes, bubble, copies;
    int64_t worker_bytes;
    int32_t fullest; /* the worker that holds them */
    int32_t stash, versions, delay;
} figures;

/* A program of several steps counts for one. */
static double per_step(const dml_plan *p, int64_t n)
{
    return (double)n * p->mbs / p->train.mbs;
}

/* Activations and gradients that cross workers. */
static int64_t sent_bytes(const dml_plan *p)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->train.list[w].n; i++) {
            const dml_op *op = &p->train.list[w].op[i];
            if (dml_op_lane(op) == DML_LANE_SEND) bytes += dml_op_bytes(&p->cost, op);
        }
    return bytes;
}

/* As a ring moves them, over all members: 2 (n - 1) times what is summed. */
static int64_t reduced_bytes(const dml_plan *p)
{
    int64_t bytes = 0;
    for (int32_t s = 0; s < p->stages; s++)
        bytes += 2 * (dml_plan_holders(p, s, NULL) - 1) * p->reduce_bytes[s] *
                 dml_program_updates(&p->train, s);
    return bytes;
}

/* Copies of stages that the layout itself asks for. */
static int32_t places(const dml_plan *p)
{
    int32_t n = p->stages * p->replicas;
    for (int32_t s = 0; s < p->spec->parallelism.n_stages; s++)
        n += p->spec->parallelism.stage[s].workers.n;
    return n;
}

static double weight_copies(const dml_plan *p)
{
    int32_t holders = 0;
    for (int32_t s = 0; s < p->stages; s++)
        holders += dml_plan_holders(p, s, NULL);
    return (double)holders / places(p);
}

static dml_err measure(const dml_plan *p, figures *out)
{
    dml_sim sim;
    DML_TRY(dml_simulate(&p->train, &p->cost, &sim));
    *out = (figures){.step_ns = per_step(p, sim.makespan_ns),
                     .sent_bytes = per_step(p, sent_bytes(p)),
                     .reduced_bytes = per_step(p, reduced_bytes(p)),
                     .copies = weight_copies(p)};
    for (int32_t s = 0; s < p->stages; s++) {
        out->versions = MAX2(out->versions, p->train.versions[s]);
        out->delay = MAX2(out->delay, dml_program_staleness(&p->train, s));
    }
    for (int32_t w = 0; w < p->workers; w++) {
        out->bubble += dml_sim_bubble(&sim, w) / p->workers;
        out->stash = MAX2(out->stash, sim.peak_stash[w]);
        const int64_t bytes = dml_plan_worker_bytes(p, w);
        if (bytes <= out->worker_bytes) continue;
        out->worker_bytes = bytes;
        out->fullest = w;
    }
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

/* What follows `mark` and then `colon` in the first line of `text`, if both are there. */
static const char *after(const char *text, const char *mark, const char *colon)
{
    const char *found = strstr(text, mark), *end = found ? strstr(found, colon) : NULL;
    return end && end < text + strcspn(text, "\n") ? end + strlen(colon) : text;
}

/* The first line of the trail, without where in our sources or in the spec it was found. */
static void append_reason(dml_str *out)
{
    const char *text = after(dml_err_trail(), ".c:", ": ");
    text = after(text, "error", ": ");
    text = after(text, "override '", "': ");
    dml_str_printf(out, "  -  %.*s", (int)strcspn(text, "\n"), text);
}

static void append_figures(const dml_plan *p, const figures *f, dml_str *out)
{
    dml_str_printf(out, " %10.3f %6.1f%% %5d %6g %8d %5d %10.3f %10.3f %10.3f  ", f->step_ns * 1e-6,
                   100.0 * f->bubble, f->stash, f->copies, f->versions, f->delay,
                   f->sent_bytes / 0x1p20, f->reduced_bytes / 0x1p20,
                   (double)f->worker_bytes / 0x1p20);
    dml_plan_print_stages(p, f->fullest, out);
    dml_str_printf(out, "\n");
}

static void append_name(const char *schedule, int32_t virtual_stages, dml_str *out)
{
    char name[48];
    const int n = (int)strcspn(schedule, ":"); /* csv:FILE is a csv */
    snprintf(name, sizeof name, virtual_stages > 1 ? "%.*s x%d" : "%.*s", n, schedule,
             virtual_stages);
    dml_str_printf(out, "%-20s", name);
}

static bool append_row(const dml_spec *spec, const char *schedule, int32_t virtual_stages,
                       dml_str *out)
{
    dml_spec variant = *spec; /* borrows everything; never freed */
    variant.parallelism.schedule = schedule;
    variant.parallelism.virtual_stages = virtual_stages;
    variant.parallelism.order = NULL;
    append_name(schedule, virtual_stages, out);
    dml_plan plan = {0};
    figures f = {0};
    dml_err err = dml_plan_make(&variant, &plan);
    if (err == DML_ERR_OK) err = measure(&plan, &f);
    if (err == DML_ERR_OK) {
        append_figures(&plan, &f, out);
    } else {
        append_reason(out);
        dml_plan_nearest(&variant, would_do, out);
        dml_str_printf(out, "\n");
    }
    dml_plan_free(&plan);
    return err == DML_ERR_OK;
}

/* Stages that the spec lists by hand are not those of several on each rank. */
static void append_unlisted(const dml_spec *spec, const char *schedule, int32_t virtual_stages,
                            dml_str *out)
{
    const int32_t ranks = spec->parallelism.pipeline_parallel_size,
                  listed = ranks * spec->parallelism.virtual_stages;
    dml_spec variant = *spec;
    variant.parallelism.schedule = schedule;
    variant.parallelism.virtual_stages = virtual_stages;
    variant.parallelism.order = NULL;
    variant.parallelism.split = DML_SPLIT_AUTO;
    append_name(schedule, virtual_stages, out);
    dml_str_printf(out, "  -  parallelism.split lists %d stages, not %d", listed,
                   ranks * virtual_stages);
    dml_plan plan;
    if (dml_plan_make(&variant, &plan) == DML_ERR_OK)
        dml_str_printf(out, "%sparallelism.split auto", would_do);
    else
        dml_plan_nearest(&variant, "; would do: parallelism.split auto, ", out);
    dml_plan_free(&plan);
    dml_str_printf(out, "\n");
}

static bool append_any(const dml_spec *spec, const char *schedule, int32_t virtual_stages,
                       dml_str *out)
{
    const bool listed = spec->parallelism.split == DML_SPLIT_LIST;
    if (!listed || virtual_stages == spec->parallelism.virtual_stages)
        return append_row(spec, schedule, virtual_stages, out);
    append_unlisted(spec, schedule, virtual_stages, out);
    return false;
}

/* One stage on each rank and two; or as many as the spec asks for. */
static bool append_rows(const dml_spec *spec, const dml_schedule *s, dml_str *out)
{
    const int32_t asked = spec->parallelism.virtual_stages;
    bool any = append_any(spec, s->name, s->many_chunks ? asked : 1, out);
    if (s->many_chunks && asked == 1) any |= append_any(spec, s->name, 2, out);
    return any;
}

/* Where stages name their workers one reason holds for all that place them themselves. */
static void append_named(const dml_spec *spec, dml_str *out)
{
    dml_spec variant = *spec;
    variant.parallelism.schedule = dml_schedule_one_f_one_b.name;
    variant.parallelism.order = NULL;
    dml_plan plan;
    dml_str_printf(out, "%-20s", "all but auto");
    if (dml_plan_make(&variant, &plan) != DML_ERR_OK) append_reason(out);
    dml_str_printf(out, "\n");
    dml_plan_free(&plan);
}

static void append_needs(dml_str *out)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    dml_str_printf(out, "\nneeds, of stages p and micro-batches m on each replica\n");
    for (int32_t k = 0; k < n; k++)
        if (all[k]->needs[0]) dml_str_printf(out, "%-20s %s\n", all[k]->name, all[k]->needs);
}

dml_err dml_plan_compare(const dml_spec *spec, dml_str *out)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    const int32_t asked = spec->parallelism.virtual_stages;
    bool any = false;
    dml_str_printf(out, "%-20s %10s %7s %5s %6s %8s %5s %10s %10s %10s  %s\n", "schedule",
                   "step ms", "bubble", "stash", "copies", "versions", "delay", "sent MiB",
                   "reduce MiB", "most MiB", "on stages");
    const bool placed = spec->parallelism.n_stages > 0;
    if (placed) append_named(spec, out);
    for (int32_t k = 0; k < n && !placed; k++)
        any |= append_rows(spec, all[k], out);
    any |= append_row(spec, DML_ORDER_AUTO, asked, out);
    if (strncmp(spec->parallelism.schedule, DML_ORDER_CSV, strlen(DML_ORDER_CSV)) == 0)
        any |= append_row(spec, spec->parallelism.schedule, asked, out);
    if (!placed) append_needs(out);
    if (!any) DML_FAIL(DML_ERR_SPEC, "no schedule fits this model and layout");
    return DML_ERR_OK;
}
