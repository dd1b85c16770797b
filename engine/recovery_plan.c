/* engine/recovery_plan.c - plans as text: made of the first spec, kept while somebody runs them, written for workers. */
#include "engine/recovery_impl.h"

#include "engine/data_steps.h"
#include "engine/overrides.h"
#include "engine/replan.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- from text ---- */

dml_err dml_planned_note(dml_planned *p, const char *const *overrides, int32_t n)
{
    dml_str text = {0};
    for (int32_t i = 0; i < n; i++)
        dml_str_printf(&text, "%s%s", i > 0 ? "\n" : "", overrides[i]);
    p->overrides = strdup(dml_str_text(&text));
    dml_str_free(&text);
    if (!p->overrides) DML_FAIL(DML_ERR_NOMEM, "no memory for another plan");
    return DML_ERR_OK;
}

static dml_err load(int fd, const char *const *overrides, int32_t n, dml_planned *p)
{
    char path[64];
    DML_TRY(dml_planned_note(p, overrides, n));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DML_TRY(dml_spec_load(path, overrides, n, &p->spec));
    DML_TRY(dml_data_resolve_steps(&p->spec));
    return dml_plan_make(&p->spec, &p->plan);
}

dml_err dml_planned_load(int fd, const char *const *overrides, int32_t n, dml_planned **out)
{
    dml_planned *p = calloc(1, sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for another plan");
    const dml_err err = load(fd, overrides, n, p);
    if (err == DML_ERR_OK)
        *out = p;
    else
        dml_planned_free(p);
    return err;
}

void dml_planned_free(dml_planned *p)
{
    if (!p) return;
    dml_plan_free(&p->plan);
    dml_spec_free(&p->spec);
    free(p->overrides);
    free(p);
}

/* ---- kept ---- */

static const dml_kept_plan *find(const dml_recovery *r, uint32_t generation)
{
    for (int32_t i = 0; i < r->n_kept; i++)
        if (r->kept[i].generation == generation) return &r->kept[i];
    return NULL;
}

const dml_plan *dml_recovery_plan_of(const dml_recovery *r, uint32_t generation)
{
    const dml_kept_plan *k = find(r, generation);
    return k && k->planned ? &k->planned->plan : r->c.first;
}

dml_err dml_recovery_keep(dml_recovery *r, uint32_t generation, dml_planned *planned)
{
    dml_kept_plan *kept = realloc(r->kept, (size_t)(r->n_kept + 1) * sizeof *kept);
    if (!kept) {
        dml_planned_free(planned);
        DML_FAIL(DML_ERR_NOMEM, "no memory for another plan");
    }
    r->kept = kept;
    r->kept[r->n_kept++] = (dml_kept_plan){generation, planned};
    return DML_ERR_OK;
}

void dml_recovery_prune(dml_recovery *r)
{
    int32_t n = 0;
    for (int32_t i = 0; i < r->n_kept; i++) {
        const uint32_t g = r->kept[i].generation;
        if (r->c.shares_plans || g == r->now || g == r->told)
            r->kept[n++] = r->kept[i];
        else
            dml_planned_free(r->kept[i].planned);
    }
    r->n_kept = n;
}

/* ---- written ---- */

static dml_err print(const dml_spec *spec, int fd)
{
    const int copy = dup(fd);
    FILE *f = copy < 0 ? NULL : fdopen(copy, "w");
    if (!f || ftruncate(fd, 0) != 0 || fseek(f, 0, SEEK_SET) != 0) {
        const int why = errno;
        if (f) fclose(f);
        DML_FAIL(DML_ERR_UNAVAILABLE, "another plan for the workers: %s", strerror(why));
    }
    const dml_err err = dml_spec_print(spec, f);
    if (fclose(f) != 0 && err == DML_ERR_OK)
        DML_FAIL(DML_ERR_UNAVAILABLE, "another plan for the workers: %s", strerror(errno));
    return err;
}

dml_err dml_recovery_publish(dml_recovery *r, uint32_t generation, dml_planned *planned)
{
    DML_TRY(dml_recovery_keep(r, generation, planned));
    return print(planned ? &planned->spec : r->spec, r->c.plan_fd);
}

dml_err dml_recovery_withdraw(dml_recovery *r)
{
    return print(dml_recovery_plan(r)->spec, r->c.plan_fd);
}

/* ---- without those that are lost ---- */

static double seconds(int64_t ns)
{
    return ns > 0 ? (double)ns * 1e-9 : (double)NAN;
}

/* With its cut and its order written out: workers make it from its text, and have nothing to search for. */
static dml_err settle(const dml_recovery *r, dml_planned **planned)
{
    dml_arena arena = {0};
    dml_str text = {0};
    dml_planned *settled = NULL;
    int32_t n;
    dml_overrides_settle((*planned)->overrides, &(*planned)->plan, &text);
    const char *const *overrides = dml_overrides_split(dml_str_text(&text), &arena, &n);
    const dml_err err = dml_planned_load(r->c.base_fd, overrides, n, &settled);
    dml_planned_free(*planned);
    *planned = settled;
    dml_str_free(&text);
    dml_arena_free(&arena);
    return err;
}

dml_err dml_recovery_replan(dml_recovery *r, uint64_t lost, dml_planned **out)
{
    dml_replan plan;
    const dml_replan_input input = {
        .now = dml_recovery_plan(r),
        .repairs = r->spec->failures.repairs << DML_REPAIR_REROUTE,
        .clipping = r->clipped_step > 0 && r->committed - r->clipped_step < DML_UNCLIPPED_STEPS};
    DML_TRY(dml_replan_make(r->c.base_fd, r->c.first, lost, &input, &plan));
    if (plan.planned) DML_TRY(settle(r, &plan.planned));
    *out = plan.planned;
    r->figures = (dml_plan_figures){.repair = plan.repair,
                                    .before_s = seconds(plan.before_ns),
                                    .after_s = seconds(plan.after_ns),
                                    .bound_holds = plan.bound_holds};
    return DML_ERR_OK;
}

void dml_recovery_tell_figures(dml_recovery *r)
{
    r->event.repair = r->figures.repair;
    r->event.bound_holds = r->figures.bound_holds;
    r->event.predicted_before_s = r->figures.before_s;
    r->event.predicted_after_s = r->figures.after_s;
}
