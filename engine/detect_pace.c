/* engine/detect_pace.c - stragglers: compute time of a step and micro-batch, among holders of the same stages. */
#include "engine/detect_impl.h"

#include <inttypes.h>
#include <stdio.h>

enum { LOOK_STEPS = 10, SLOW_STEPS = 20 }; /* between two comparisons; slow for so many: named */
#define SLOW_TIMES 1.5

static bool holds_same(const dml_plan *plan, int32_t a, int32_t b)
{
    for (int32_t s = 0; s < plan->stages; s++)
        if (dml_plan_holds(plan, a, s) != dml_plan_holds(plan, b, s)) return false;
    return true;
}

static int32_t forwards(const dml_plan *plan, int32_t worker)
{
    int32_t n = 0;
    for (int32_t s = 0; s < plan->stages; s++)
        n += dml_plan_share(plan, worker, s);
    return n;
}

void dml_detect_plan(dml_detect *d, const dml_plan *plan)
{
    for (int32_t r = 0; r < d->workers; r++) {
        dml_watched *w = &d->worker[r];
        w->mark = (dml_pace_mark){0};
        w->slow_steps = 0;
        w->is_slow = false;
        w->share = r < plan->workers ? forwards(plan, r) : 0;
        w->group = 0;
        while (w->share > 0 && !holds_same(plan, w->group, r))
            w->group++;
    }
}

/* ns per micro-batch since the mark; 0: not known. */
static double pace_of(const dml_watched *w, const dml_pace_mark *now)
{
    const int64_t steps = now->step - w->mark.step;
    if (w->mark.step == 0 || steps < LOOK_STEPS) return 0.0;
    return (double)(now->worked_ns - w->mark.worked_ns) / (double)steps / w->share;
}

static dml_pace_mark mark_of(const dml_watched *w)
{
    return (dml_pace_mark){atomic_load(&w->page->step), atomic_load(&w->page->worked_ns)};
}

/* Compares the holders of a group when all have made enough steps; false: it is too early. */
static bool compare(dml_detect *d, const int32_t *rank, int32_t n, double *pace, double *median)
{
    dml_pace_mark now[DML_HOST_WORKERS];
    bool all = true;
    for (int32_t i = 0; i < n; i++) {
        dml_watched *w = &d->worker[rank[i]];
        now[i] = mark_of(w);
        if (w->mark.step == 0 || now[i].step < w->mark.step) w->mark = now[i]; /* begins anew */
        pace[i] = pace_of(w, &now[i]);
        all = all && pace[i] > 0.0;
    }
    if (!all) return false;
    for (int32_t i = 0; i < n; i++) {
        int32_t below = 0;
        for (int32_t k = 0; k < n; k++)
            below += pace[k] < pace[i] || (pace[k] == pace[i] && k < i);
        if (below == (n - 1) / 2) *median = pace[i]; /* the lower of two */
    }
    for (int32_t i = 0; i < n; i++) {
        dml_watched *w = &d->worker[rank[i]];
        const int64_t steps = now[i].step - w->mark.step;
        w->slow_steps = pace[i] > SLOW_TIMES * *median ? w->slow_steps + steps : 0;
        w->mark = now[i];
    }
    return true;
}

static bool in_group(dml_detect *d, int32_t group, dml_sign *out)
{
    int32_t rank[DML_HOST_WORKERS], n = 0;
    double pace[DML_HOST_WORKERS], median = 0.0;
    for (int32_t r = group; r < d->workers; r++) {
        const dml_watched *w = &d->worker[r];
        if (w->runs && !w->is_lost && w->share > 0 && w->group == group) rank[n++] = r;
    }
    if (n < 2 || !compare(d, rank, n, pace, &median)) return false;
    for (int32_t i = 0; i < n; i++) {
        dml_watched *w = &d->worker[rank[i]];
        if (w->is_slow || w->slow_steps < SLOW_STEPS) continue;
        w->is_slow = true;
        out->kind = DML_SIGN_SLOW;
        out->rank = rank[i];
        snprintf(out->text, sizeof out->text,
                 "computes %.1f times as long per micro-batch as the other %s of its stages, for "
                 "%" PRId64 " steps",
                 pace[i] / median, n > 2 ? "holders" : "holder", w->slow_steps);
        return true;
    }
    return false;
}

bool dml_detect_straggler(dml_detect *d, dml_sign *out)
{
    for (int32_t g = 0; g < d->workers; g++)
        if (in_group(d, g, out)) return true;
    return false;
}
