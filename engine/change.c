/* engine/change.c - loads in, a plan out; which plan is engine/change_weigh.c's to say. */
#include "engine/change_impl.h"

#include "engine/data_steps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- plans from text ---- */

static dml_err load(int fd, const char *const *overrides, int32_t n, dml_planned *p)
{
    char path[64];
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
    free(p);
}

/* ---- the agent's side ---- */

void dml_changes_open(dml_changes *c, const dml_plan *first, int base_fd, int fd,
                      dml_control *control)
{
    *c = (dml_changes){.first = first, .base_fd = base_fd, .fd = fd, .control = control};
}

void dml_changes_close(dml_changes *c)
{
    if (!c->first) return;
    dml_planned_free(c->now);
    dml_planned_free(c->next);
    *c = (dml_changes){0};
}

const dml_plan *dml_changes_plan(const dml_changes *c)
{
    return c->now ? &c->now->plan : c->first;
}

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

/* All workers run plan `generation`, so nobody reads the text any more. */
static dml_err announce(dml_changes *c, dml_planned *next)
{
    const dml_err err = print(&next->spec, c->fd);
    if (err != DML_ERR_OK) {
        dml_planned_free(next);
        return err;
    }
    c->next = next;
    atomic_store_explicit(&c->control->plan, c->generation + 1, memory_order_release);
    return DML_ERR_OK;
}

/* Rank 0's reports are in order: what it says from here on is of this plan. */
static void adopt(dml_changes *c, dml_changes_event *out)
{
    dml_planned_free(c->now);
    c->now = c->next;
    c->next = NULL;
    c->generation++;
    out->changed = true;
}

/* Once all have left what they hold, they may close it. */
static void count_saved(dml_changes *c)
{
    if (++c->saved < c->first->workers) return;
    c->saved = 0;
    dml_wait_set(&c->control->moved, c->generation + 1);
}

/* Whether all of the plan's workers have spoken of the same window. */
static bool is_complete(const dml_changes *c)
{
    const dml_report_load *one = &c->load[0];
    for (int32_t w = 0; w < dml_changes_plan(c)->workers; w++)
        if (c->load[w].step != one->step || c->load[w].generation != c->generation) return false;
    return one->step > 0;
}

static dml_err weigh(dml_changes *c, dml_arena *arena, dml_changes_event *out)
{
    dml_planned *better = NULL;
    out->decided = dml_changes_weigh(c, arena, &better, &out->balance);
    return better ? announce(c, better) : DML_ERR_OK;
}

dml_err dml_changes_take(dml_changes *c, const dml_report *r, dml_arena *arena,
                         dml_changes_event *out)
{
    *out = (dml_changes_event){0};
    if (r->kind == DML_REPORT_READY && r->rank == 0 && r->ready.generation > c->generation)
        adopt(c, out);
    if (r->kind == DML_REPORT_SAVED && r->saved.generation > c->generation) count_saved(c);
    if (r->kind != DML_REPORT_LOAD) return DML_ERR_OK;
    c->load[r->rank] = r->load;
    return c->next || !is_complete(c) ? DML_ERR_OK : weigh(c, arena, out);
}
