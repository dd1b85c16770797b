/* engine/replan_view.c - prices in rows, steps in panels. */
#include "engine/replan_view.h"

#include "schedule/draw.h"
#include "schedule/draw_svg.h"

#include <stdio.h>
#include <string.h>

enum { NAME = 30 };

static double ms(int64_t ns)
{
    return (double)ns * 1e-6;
}

dml_err dml_replan_rival_ns(int base_fd, int64_t *out)
{
    char path[64];
    const char *const override[] = {"parallelism.schedule=" DML_REPLAN_RIVAL};
    dml_spec spec = {0};
    dml_plan plan;
    snprintf(path, sizeof path, "/proc/self/fd/%d", base_fd);
    *out = 0;
    dml_err err = dml_spec_load(path, override, 1, &spec);
    if (err == DML_ERR_OK) err = dml_plan_make(&spec, &plan);
    if (err == DML_ERR_OK) {
        err = dml_simulate_period(&plan.train, &plan.cost, out);
        *out /= plan.updates;
        dml_plan_free(&plan);
    }
    dml_spec_free(&spec);
    return err == DML_ERR_SPEC || err == DML_ERR_NOMEM ? DML_ERR_OK : err;
}

/* ---- prices ------------------------------------------------------------------------------------------ */

/* "stage 2, replica 1", or all that the worker holds. */
static void append_place(const dml_plan *p, int32_t w, dml_str *out)
{
    dml_str stages = {0};
    dml_plan_print_stages(p, w, &stages);
    const bool one = strchr(dml_str_text(&stages), ',') == NULL;
    dml_str_printf(out, "worker %d (stage%s %s", w, one ? "" : "s", dml_str_text(&stages));
    if (dml_plan_is_equal(p)) dml_str_printf(out, ", replica %d", dml_plan_replica(p, w));
    dml_str_printf(out, ")");
    dml_str_free(&stages);
}

static void print_head(const dml_replan_view *v, dml_str *out)
{
    const dml_plan *first = v->first;
    uint64_t mask = 0;
    dml_str_printf(out, "%s without", first->spec->run.name);
    bool any = false;
    for (int32_t w = 0; w < first->workers; w++) {
        if (!v->lost[w]) continue;
        dml_str_printf(out, "%s ", any ? "," : "");
        append_place(first, w, out);
        mask |= (uint64_t)1 << w;
        any = true;
    }
    dml_str_printf(out, "\n");
    for (int32_t s = 0; s < first->stages; s++) {
        const dml_bound b = dml_replan_bound(first, mask, s);
        if (b.lost == 0) continue;
        dml_str_printf(out,
                       "stage %d: %d of %d holders lost, x M = %lld, (D - x)(P - 1) = %lld: %s\n",
                       s, b.lost, b.holders, (long long)b.more, (long long)b.idle,
                       b.lost == b.holders   ? "nobody holds it"
                       : dml_bound_holds(&b) ? "the bubble can take it up"
                                             : "the bubble cannot take it all up");
    }
}

/* Throughput, of a step of `of_ns`. */
static void append_share(int64_t of_ns, int64_t step_ns, dml_str *out)
{
    if (of_ns > 0 && step_ns > 0)
        dml_str_printf(out, " %9.1f%%", 100.0 * (double)of_ns / (double)step_ns);
    else
        dml_str_printf(out, " %10s", "-");
}

static void append_ms(int64_t ns, dml_str *out)
{
    if (ns > 0)
        dml_str_printf(out, " %11.3f", ms(ns));
    else
        dml_str_printf(out, " %11s", "-");
}

static void print_option(const dml_replan_view *v, int32_t i, dml_str *out)
{
    const dml_repair_option *o = &v->options->option[i];
    dml_str_printf(out, "%c %-*s", i == v->options->best ? '>' : ' ', NAME,
                   dml_repair_text(o->repair));
    if (o->why || !o->planned) {
        dml_str_printf(out, " %s\n", o->why ? o->why : "not planned");
        return;
    }
    append_ms(o->step_ns, out);
    append_share(v->options->before_ns, o->step_ns, out);
    append_share(v->rival_ns, o->step_ns, out);
    append_ms(o->bound_ns, out);
    dml_str_printf(out, " %11.3f %9.3f %10d %6d", ms(o->transition_ns),
                   (double)o->moved_bytes / 0x1p20, o->migrations, o->stash_peak);
    if (o->expected_ns == INT64_MAX)
        dml_str_printf(out, " %11s\n", "never pays");
    else
        dml_str_printf(out, " %11.3f\n", ms(o->expected_ns));
}

static int32_t stash_peak(const dml_plan *p, const dml_sim *sim)
{
    int32_t most = 0;
    for (int32_t w = 0; w < p->workers; w++)
        most = sim->peak_stash[w] > most ? sim->peak_stash[w] : most;
    return most;
}

static void print_before(const dml_replan_view *v, dml_str *out)
{
    dml_sim sim;
    const int64_t ns = v->options->before_ns;
    const bool played = dml_simulate(&v->first->train, &v->first->cost, &sim) == DML_ERR_OK;
    dml_str_printf(out, "  %-*s", NAME, "before");
    append_ms(ns, out);
    append_share(ns, ns, out);
    append_share(v->rival_ns, ns, out);
    dml_str_printf(out, " %11s %11s %9s %10s %6d\n", "", "", "", "",
                   played ? stash_peak(v->first, &sim) : 0);
    if (played) dml_sim_free(&sim);
}

void dml_replan_print_prices(const dml_replan_view *v, dml_str *out)
{
    print_head(v, out);
    dml_str_printf(out, "\n  %-*s %11s %10s %10s %11s %11s %9s %10s %6s %11s\n", NAME, "",
                   "step ms", "throughput", "of " DML_REPLAN_RIVAL, "bound ms", "move ms",
                   "moved MiB", "migrations", "stash", "expected ms");
    print_before(v, out);
    for (int32_t i = 0; i < v->options->n; i++)
        print_option(v, i, out);
    if (v->options->best >= 0) dml_str_printf(out, "\n>: chosen.  ");
    dml_str_printf(
        out,
        "Throughput: of the plan before; of %s: of its step without a loss%s.  Bound: no "
        "plan of the kind has a shorter step.\nExpected: of a step over "
        "failures.repair_time, with the move there and back\n",
        DML_REPLAN_RIVAL, v->rival_ns > 0 ? "" : " (it does not fit this run)");
}

/* ---- pictures ---------------------------------------------------------------------------------------- */

enum { PANELS = DML_REPAIRS + 1 };

typedef struct gallery {
    dml_panel panel[PANELS];
    dml_sim sim[PANELS];
    int32_t n;
    dml_arena arena;
} gallery;

static void close_gallery(gallery *g)
{
    for (int32_t k = 0; k < g->n; k++)
        dml_sim_free(&g->sim[k]);
    dml_arena_free(&g->arena);
}

/* Who ran the layer on the micro-batch. */
static int32_t runner_of(const dml_plan *p, int32_t layer, int32_t mb)
{
    int32_t s = 0;
    while (p->stage_begin[s + 1] <= layer)
        s++;
    return *dml_program_route(&p->train, s, mb);
}

/* [chunks][mbs] of `next`: whether `first` had another worker for any layer of it. */
static const bool *moved_of(const dml_plan *first, const dml_plan *next, dml_arena *arena)
{
    const dml_program *p = &next->train;
    bool *moved = DML_NEW_N(arena, bool, (int64_t)p->chunks * p->mbs);
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            for (int32_t l = next->stage_begin[c]; l < next->stage_begin[c + 1]; l++)
                if (runner_of(first, l, mb) != *dml_program_route(p, c, mb))
                    moved[c * p->mbs + mb] = true;
    return moved;
}

/* NULL `next`: the first plan. */
static dml_err hang(gallery *g, const dml_replan_view *v, const dml_plan *next, const char *title)
{
    const dml_plan *plan = next ? next : v->first;
    DML_TRY(dml_simulate(&plan->train, &plan->cost, &g->sim[g->n]));
    g->panel[g->n] = (dml_panel){.title = title,
                                 .program = &plan->train,
                                 .sim = &g->sim[g->n],
                                 .lost = next ? v->lost : NULL,
                                 .moved = next ? moved_of(v->first, next, &g->arena) : NULL};
    g->n++;
    return DML_ERR_OK;
}

/* Of the repair: the one that is chosen, else the cheapest; -1: there is none. */
static int32_t example_of(const dml_repair_options *o, dml_repair repair)
{
    int32_t best = -1;
    for (int32_t i = 0; i < o->n; i++) {
        const dml_repair_option *x = &o->option[i];
        if (x->repair != repair || x->why || !x->planned) continue;
        if (i == o->best) return i;
        if (best < 0 || x->expected_ns < o->option[best].expected_ns) best = i;
    }
    return best;
}

static const char *title_of(const dml_replan_view *v, int32_t i, dml_arena *arena)
{
    const dml_repair_option *x = &v->options->option[i];
    return dml_arena_printf(
        arena, "%s: %.3f ms from step to step, %.1f %% of the throughput before%s",
        dml_repair_text(x->repair), ms(x->step_ns),
        x->step_ns > 0 ? 100.0 * (double)v->options->before_ns / (double)x->step_ns : 0.0,
        i == v->options->best ? "; chosen" : "");
}

static dml_err fill(gallery *g, const dml_replan_view *v)
{
    const dml_repair_options *o = v->options;
    DML_TRY(hang(g, v, NULL, dml_arena_printf(&g->arena, "before: %.3f ms", ms(o->before_ns))));
    for (int32_t r = 0; r < DML_REPAIRS; r++) {
        const int32_t i = example_of(o, (dml_repair)r);
        if (i >= 0) DML_TRY(hang(g, v, &o->option[i].planned->plan, title_of(v, i, &g->arena)));
    }
    return DML_ERR_OK;
}

typedef void (*painter)(const dml_panel *panel, int32_t n, int32_t width, dml_str *out);

static dml_err draw(const dml_replan_view *v, painter paint, int32_t width, dml_str *out)
{
    gallery g = {0};
    const dml_err err = fill(&g, v);
    if (err == DML_ERR_OK) paint(g.panel, g.n, width, out);
    close_gallery(&g);
    return err;
}

dml_err dml_replan_draw(const dml_replan_view *v, int32_t width, dml_str *out)
{
    return draw(v, dml_draw_panels, width, out);
}

dml_err dml_replan_draw_svg(const dml_replan_view *v, int32_t width, dml_str *out)
{
    return draw(v, dml_draw_panels_svg, width, out);
}
