/* engine/plan_compare.c - plans the spec once for each schedule; a row is read off its program. */
#include "engine/plan_compare.h"

#include "engine/plan_order.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <stdio.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

typedef struct figures {
    int64_t step_ns, worker_bytes, sent_bytes, reduced_bytes;
    double bubble, copies;
    int32_t stash;
} figures;

/* Activations and gradients that cross workers in a step. */
static int64_t sent_bytes(const dml_plan *p)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->train.list[w].n; i++) {
            const dml_op *op = &p->train.list[w].op[i];
            if (op->kind == DML_OP_SEND_ACT) bytes += p->cost.chunk[op->chunk].out_bytes;
            if (op->kind == DML_OP_SEND_GRAD) bytes += p->cost.chunk[op->chunk - 1].out_bytes;
        }
    return bytes;
}

/* Gradients as a ring moves them, over all members: 2 (n - 1) times their bytes. */
static int64_t reduced_bytes(const dml_plan *p, int32_t *holders)
{
    int64_t bytes = 0;
    *holders = 0;
    for (int32_t s = 0; s < p->stages; s++) {
        const int32_t n = dml_plan_holders(p, s, NULL);
        *holders += n;
        for (int32_t i = p->train.span[s].param_begin; i < p->train.span[s].param_end; i++)
            bytes += 2 * (n - 1) * p->model.param[i].elems * (int64_t)sizeof(float);
    }
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

static dml_err measure(const dml_plan *p, figures *out)
{
    dml_sim sim;
    DML_TRY(dml_simulate(&p->train, &p->cost, &sim));
    int32_t holders;
    *out = (figures){.step_ns = sim.makespan_ns,
                     .sent_bytes = sent_bytes(p),
                     .reduced_bytes = reduced_bytes(p, &holders)};
    out->copies = (double)holders / places(p);
    for (int32_t w = 0; w < p->workers; w++) {
        out->bubble += dml_sim_bubble(&sim, w) / p->workers;
        out->stash = MAX2(out->stash, sim.peak_stash[w]);
        out->worker_bytes = MAX2(out->worker_bytes, dml_plan_worker_bytes(p, w));
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
    dml_str_printf(out, "  -  %.*s\n", (int)strcspn(text, "\n"), text);
}

static bool append_row(const dml_spec *spec, const char *schedule, int32_t virtual_stages,
                       dml_str *out)
{
    dml_spec variant = *spec; /* borrows everything; never freed */
    variant.parallelism.schedule = schedule;
    variant.parallelism.virtual_stages = virtual_stages;
    char name[40];
    snprintf(name, sizeof name, virtual_stages > 1 ? "%s x%d" : "%s", schedule, virtual_stages);
    dml_str_printf(out, "%-20s", name);
    dml_plan plan = {0};
    figures f = {0};
    dml_err err = dml_plan_make(&variant, &plan);
    if (err == DML_ERR_OK) err = measure(&plan, &f);
    dml_plan_free(&plan);
    if (err != DML_ERR_OK) {
        append_reason(out);
        return false;
    }
    dml_str_printf(out, " %10.3f %7.1f%% %12.2f %6d %7g %10.2f %10.2f\n", (double)f.step_ns * 1e-6,
                   100.0 * f.bubble, (double)f.worker_bytes / 0x1p20, f.stash, f.copies,
                   (double)f.sent_bytes / 0x1p20, (double)f.reduced_bytes / 0x1p20);
    return true;
}

dml_err dml_plan_compare(const dml_spec *spec, dml_str *out)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    const int32_t asked = spec->parallelism.virtual_stages;
    bool any = false;
    dml_str_printf(out, "%-20s %10s %8s %12s %6s %7s %10s %10s\n", "schedule", "step ms", "bubble",
                   "MiB/worker", "stash", "weights", "sent MiB", "reduce MiB");
    for (int32_t k = 0; k < n; k++) {
        if (asked == 1 || !all[k]->many_chunks) any |= append_row(spec, all[k]->name, 1, out);
        if (all[k]->many_chunks && spec->parallelism.split != DML_SPLIT_LIST)
            any |= append_row(spec, all[k]->name, asked > 1 ? asked : 2, out);
        else if (all[k]->many_chunks && asked > 1)
            any |= append_row(spec, all[k]->name, asked, out);
    }
    any |= append_row(spec, DML_ORDER_AUTO, asked, out);
    if (!any) DML_FAIL(DML_ERR_SPEC, "no schedule fits this model and layout");
    return DML_ERR_OK;
}
