/* engine/choose_print.c - the ranking, and in words why the first is first. */
#include "engine/choose_impl.h"

#include "engine/base/str.h"

#include <math.h>
#include <string.h>

/* "4x2", pp x dp; "4x2 v2" with two stages on each rank; "3 stages" where they are placed. */
static void append_layout(const dml_candidate *c, dml_str *out)
{
    if (c->ranks == 0)
        dml_str_printf(out, "%d stages", c->n_stages);
    else if (c->virtual_stages > 1)
        dml_str_printf(out, "%dx%d v%d", c->ranks, c->replicas, c->virtual_stages);
    else
        dml_str_printf(out, "%dx%d", c->ranks, c->replicas);
}

static const char *order_name(const dml_candidate *c)
{
    const bool csv = strncmp(c->schedule, DML_ORDER_CSV, strlen(DML_ORDER_CSV)) == 0;
    return csv ? "csv" : c->schedule;
}

static double bubble_of(const dml_candidate *c)
{
    return fmax(1.0 - (c->share.work_ns + c->share.recompute_ns) / (double)c->step_ns, 0.0);
}

/* ---- what binds ---- */

typedef struct term {
    const char *text; /* as a reason to lose */
    double ns;
} term;

enum { TERMS = 6 };

/* The parts of a step, in what they are called where one is longer than another's. */
static void terms_of(const dml_candidate *c, term out[TERMS])
{
    const dml_shares *s = &c->share;
    const term all[TERMS] = {
        {"work shared by fewer workers", s->work_ns},
        {"recomputation", s->recompute_ns},
        {"all-reduce exposed", s->exposed_reduce_ns},
        {"transfers exposed", s->exposed_transfer_ns},
        {"imbalance between stages", s->imbalance_ns},
        {"bubble", s->bubble_ns},
    };
    memcpy(out, all, sizeof all);
}

/* Compute where the busiest worker computes most of the time, else what it waits for most. */
static void append_binding(const dml_candidate *c, dml_str *out)
{
    const dml_shares *s = &c->share;
    const double step = (double)c->step_ns, reduce = s->exposed_reduce_ns,
                 transfer = s->exposed_transfer_ns;
    if (c->busy >= 0.5)
        dml_str_printf(out, "stage %d compute, %.0f%% busy", c->busiest_stage, 100.0 * c->busy);
    else if (reduce >= transfer && reduce >= s->bubble_ns)
        dml_str_printf(out, "all-reduce, %.0f%% exposed", 100.0 * reduce / step);
    else if (transfer >= s->bubble_ns)
        dml_str_printf(out, "transfers, %.0f%% exposed", 100.0 * transfer / step);
    else
        dml_str_printf(out, "bubble, %.0f%%", 100.0 * s->bubble_ns / step);
}

/* ---- the table ---- */

static void append_heading(dml_str *out)
{
    dml_str_printf(out, "%-4s %-10s %-18s %-11s %5s %11s %11s %7s %11s %10s %10s  %s\n", "",
                   "pp x dp", "schedule", "recompute", "micro", "step ms", "samples/s", "bubble",
                   "exposed ms", "MiB", "of", "binds");
}

static void append_choice(const dml_candidate *c, dml_str *out)
{
    dml_str layout = {0};
    append_layout(c, &layout);
    dml_str_printf(out, "%-10s %-18s %-11s %5d ", dml_str_text(&layout), order_name(c),
                   dml_recompute_text(c->recompute), c->micro_batch);
    dml_str_free(&layout);
}

static void append_row(const dml_spec *spec, const dml_candidate *c, int32_t number, dml_str *out)
{
    const dml_shares *s = &c->share;
    char limit[32] = "-";
    if (c->limit_bytes > 0) snprintf(limit, sizeof limit, "%.2f", (double)c->limit_bytes / 0x1p20);
    dml_str_printf(out, "%3d  ", number);
    append_choice(c, out);
    dml_str_printf(out, "%11.3f %11.1f %6.1f%% %11.3f %10.2f %10s  ", (double)c->step_ns * 1e-6,
                   spec->training.global_batch_size / ((double)c->step_ns * 1e-9),
                   100.0 * bubble_of(c), (s->exposed_reduce_ns + s->exposed_transfer_ns) * 1e-6,
                   (double)c->bytes / 0x1p20, limit);
    append_binding(c, out);
    dml_str_printf(out, "\n");
}

static bool same_layout(const dml_candidate *a, const dml_candidate *b)
{
    return a->ranks == b->ranks && a->replicas == b->replicas && a->n_stages == b->n_stages;
}

/* Whether misfit i differs from one listed before it in no more than recomputation. */
static bool is_listed(const dml_choice *choice, int32_t first, int32_t i)
{
    const dml_candidate *c = &choice->ranked[i];
    for (int32_t k = first; k < i; k++) {
        const dml_candidate *o = &choice->ranked[k];
        if (same_layout(c, o) && c->virtual_stages == o->virtual_stages &&
            c->micro_batch == o->micro_batch && strcmp(c->schedule, o->schedule) == 0)
            return true;
    }
    return false;
}

static void append_misfits(const dml_choice *choice, int32_t rows, dml_str *out)
{
    if (choice->n_misfit == 0) return;
    const int32_t first = choice->n - choice->n_misfit;
    int32_t listed = 0, more = 0;
    dml_str_printf(out, "\ndo not fit: %d\n", choice->n_misfit);
    for (int32_t i = first; i < choice->n; i++) {
        if (is_listed(choice, first, i)) continue;
        if (rows > 0 && listed == rows) {
            more++;
            continue;
        }
        listed++;
        dml_str_printf(out, "  -  ");
        append_choice(&choice->ranked[i], out);
        dml_str_printf(out, " %s\n", choice->ranked[i].why);
    }
    if (more > 0) dml_str_printf(out, "  ...  and %d more, recomputation aside\n", more);
}

/* ---- reasons ---- */

static bool other_layout(const dml_candidate *best, const dml_candidate *c)
{
    return !same_layout(best, c);
}

static bool other_schedule(const dml_candidate *best, const dml_candidate *c)
{
    return same_layout(best, c) && strcmp(best->schedule, c->schedule) != 0;
}

static bool data_parallel(const dml_candidate *best, const dml_candidate *c)
{
    return !same_layout(best, c) && c->ranks == 1;
}

static bool straight_pipeline(const dml_candidate *best, const dml_candidate *c)
{
    return !same_layout(best, c) && c->ranks > 1 && c->replicas == 1;
}

/* What makes the other longer: the term that exceeds the best's by most. */
static const char *excess_of(const dml_candidate *best, const dml_candidate *c, double *ns)
{
    term a[TERMS], b[TERMS];
    int32_t most = 0;
    terms_of(best, a);
    terms_of(c, b);
    for (int32_t t = 1; t < TERMS; t++)
        if (b[t].ns - a[t].ns > b[most].ns - a[most].ns) most = t;
    *ns = b[most].ns - a[most].ns;
    return b[most].text;
}

static void append_comparison(const dml_spec *spec, const dml_candidate *best,
                              const dml_candidate *c, dml_str *out)
{
    double ns;
    const char *text = excess_of(best, c, &ns);
    const double by = 100.0 * ((double)c->step_ns / (double)best->step_ns - 1.0);
    dml_str layout = {0};
    append_layout(c, &layout);
    const char *layout_text = dml_str_text(&layout);
    if (spec->planner.objective == DML_OBJECTIVE_MEMORY && c->step_ns <= best->step_ns)
        dml_str_printf(out, "  %s %s is %.1f%% faster and holds %.2f MiB more\n", layout_text,
                       order_name(c), -by, (double)(c->bytes - best->bytes) / 0x1p20);
    else if (spec->planner.objective == DML_OBJECTIVE_LATENCY && c->step_ns <= best->step_ns)
        dml_str_printf(out, "  %s %s has steps %.1f%% shorter; its micro-batches take %.3f ms\n",
                       layout_text, order_name(c), -by, (double)c->way_ns * 1e-6);
    else if (by < 0.05)
        dml_str_printf(out, "  as fast as %s %s, micro-batches of %d, which holds %.2f MiB more\n",
                       layout_text, order_name(c), c->micro_batch,
                       (double)(c->bytes - best->bytes) / 0x1p20);
    else
        dml_str_printf(out,
                       "  beats %s %s, micro-batches of %d, by %.1f%%: there %s, %.3f ms more\n",
                       layout_text, order_name(c), c->micro_batch, by, text, ns * 1e-6);
    dml_str_free(&layout);
}

/* The first of each kind behind the best, each once. */
static void append_reasons(const dml_spec *spec, const dml_choice *choice, dml_str *out)
{
    bool (*const kind[])(const dml_candidate *, const dml_candidate *) = {
        other_schedule, other_layout, data_parallel, straight_pipeline};
    enum { KINDS = sizeof kind / sizeof *kind };
    const dml_candidate *best = &choice->ranked[0];
    int32_t told[KINDS] = {0}, n = 0;
    for (int32_t k = 0; k < KINDS; k++) {
        int32_t i = 1;
        while (i < choice->n_priced && !kind[k](best, &choice->ranked[i]))
            i++;
        bool again = i == choice->n_priced;
        for (int32_t t = 0; t < n; t++)
            again |= told[t] == i;
        if (again) continue;
        told[n++] = i;
        append_comparison(spec, best, &choice->ranked[i], out);
    }
}

static void append_winner(const dml_spec *spec, const dml_choice *choice, dml_str *out)
{
    const dml_candidate *best = &choice->ranked[0];
    dml_str layout = {0};
    append_layout(best, &layout);
    dml_str_printf(out,
                   "\nchosen: %s, %s, recompute %s, micro-batches of %d (%d of them in a step)\n",
                   dml_str_text(&layout), order_name(best), dml_recompute_text(best->recompute),
                   best->micro_batch, spec->training.global_batch_size / best->micro_batch);
    dml_str_free(&layout);
    dml_str_printf(out, "  bottleneck: ");
    append_binding(best, out);
    if (spec->planner.objective == DML_OBJECTIVE_LATENCY)
        dml_str_printf(out, "; a micro-batch takes %.3f ms", (double)best->way_ns * 1e-6);
    dml_str_printf(out, "\n");
    append_reasons(spec, choice, out);
}

void dml_choice_print(const dml_spec *spec, const dml_choice *choice, int32_t rows, dml_str *out)
{
    static const char *const objective[] = {"throughput", "memory", "latency"};
    const int32_t open = choice->n - choice->n_priced - choice->n_misfit;
    dml_str_printf(out, "%s: batch %d, objective %s: %d candidates, %d of them priced, %.3f s\n\n",
                   spec->run.name, spec->training.global_batch_size,
                   objective[spec->planner.objective], choice->n,
                   choice->n_priced + choice->n_misfit, (double)choice->took_ns * 1e-9);
    append_heading(out);
    for (int32_t i = 0; i < choice->n_priced && (rows == 0 || i < rows); i++)
        append_row(spec, &choice->ranked[i], i + 1, out);
    if (open > 0)
        dml_str_printf(out, "not priced: %d, none of which can have a step below %.3f ms\n", open,
                       (double)choice->ranked[choice->n_priced].bound_ns * 1e-6);
    append_misfits(choice, rows, out);
    append_winner(spec, choice, out);
}
