/* engine/plan_print.c - what dml-plan writes to standard output: tables read off the plan, pictures of its program. */
#include "engine/plan_print.h"

#include "engine/plan_async.h"
#include "engine/plan_order.h"
#include "schedule/csv.h"
#include "schedule/draw.h"
#include "schedule/draw_svg.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"
#include "schedule/versions.h"

#include <inttypes.h>
#include <stdio.h>

enum { SVG_PIXELS = 1100 };

/* "0-3,8": who holds the stage. */
static void append_holders(const dml_plan *p, int32_t stage, dml_str *out)
{
    int32_t begin = -1;
    for (int32_t w = 0; w <= p->workers; w++) {
        const bool holds = w < p->workers && dml_plan_holds(p, w, stage);
        if (holds && begin < 0) begin = w;
        if (holds || begin < 0) continue;
        dml_str_printf(out, begin < w - 1 ? "%s%d-%d" : "%s%d", out->len ? "," : "", begin, w - 1);
        begin = -1;
    }
}

/* Under parallelism.stages, a column: micro-batches of a step on each holder, "2,6". */
static void append_shares(const dml_plan *p, int32_t stage, dml_str *out)
{
    dml_str shares = {0};
    for (int32_t w = 0; w < p->workers; w++)
        if (dml_plan_holds(p, w, stage))
            dml_str_printf(&shares, "%s%d", shares.len ? "," : "", dml_plan_share(p, w, stage));
    if (!dml_plan_is_equal(p)) dml_str_printf(out, " %-13s", dml_str_text(&shares));
    dml_str_free(&shares);
}

static int64_t most_bytes(const dml_plan *p, int32_t stage)
{
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        const int64_t bytes = dml_plan_holds(p, w, stage) ? dml_plan_worker_bytes(p, w) : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}

static void print_stages(const dml_plan *p)
{
    printf("%-6s %-28s %-10s%s %12s %8s %12s %12s\n", "stage", "layers", "workers",
           dml_plan_is_equal(p) ? "" : " micro-batches", "parameters", "buckets", "MFLOP/sample",
           "MiB/worker");
    for (int32_t s = 0; s < p->stages; s++) {
        const int32_t begin = p->stage_begin[s], end = p->stage_begin[s + 1];
        int64_t parameters = 0;
        double flops = 0.0;
        for (int32_t i = p->train.span[s].param_begin; i < p->train.span[s].param_end; i++)
            parameters += p->model.param[i].elems;
        for (int32_t i = begin; i < end; i++)
            for (int pass = 0; pass < 3; pass++)
                flops += (double)p->model.layer[i].flops[pass];
        char layers[64];
        dml_str workers = {0}, shares = {0};
        snprintf(layers, sizeof layers, "%s .. %s", p->model.layer[begin].spec->name,
                 p->model.layer[end - 1].spec->name);
        append_holders(p, s, &workers);
        append_shares(p, s, &shares);
        printf("%-6d %-28s %-10s%s %12" PRId64 " %8d %12.2f %12.2f\n", s, layers,
               dml_str_text(&workers), dml_str_text(&shares), parameters, p->train.buckets[s],
               flops * 1e-6, (double)most_bytes(p, s) / 0x1p20);
        dml_str_free(&workers);
        dml_str_free(&shares);
    }
}

/* Values that pass stages over: from whom to whom, and whom the gradient goes back to. */
static void print_skips(const dml_plan *p)
{
    const dml_cut *cut = p->model.cut;
    if (cut->n_skips == 0) return;
    printf("\n%-6s %-28s %6s %6s %14s %18s\n", "skip", "output of", "from", "to", "gradient to",
           "KiB/micro-batch");
    for (int32_t k = 1; k <= cut->n_skips; k++) {
        const dml_model_skip *s = &cut->skip[k - 1];
        printf("%-6d %-28s %6d %6d %14d %18.2f\n", k, p->model.layer[s->value].spec->name, s->from,
               s->to, s->back, (double)dml_plan_skip_bytes(p, k) / 0x1p10);
    }
}

/* "2      1       ": rank and replica; under parallelism.stages the stages it holds. */
static void append_place(const dml_plan *p, int32_t worker, dml_str *out)
{
    dml_str stages = {0};
    dml_plan_print_stages(p, worker, &stages);
    if (dml_plan_is_equal(p))
        dml_str_printf(out, "%-6d %-8d", dml_plan_rank(p, worker), dml_plan_replica(p, worker));
    else
        dml_str_printf(out, "%-15s", dml_str_text(&stages));
    dml_str_free(&stages);
}

/* Times are of one step, of a program that makes `steps`. */
static void print_workers(const dml_plan *p, const dml_sim *sim, int32_t steps)
{
    printf("\n%-8s %-15s %10s %8s %12s\n", "worker",
           dml_plan_is_equal(p) ? "rank   replica " : "stages", "busy ms", "bubble", "stash peak");
    for (int32_t w = 0; w < p->workers; w++) {
        dml_str place = {0};
        append_place(p, w, &place);
        if (dml_plan_lost(p, w)) {
            printf("%-8d %s %10s\n", w, dml_str_text(&place), "lost");
            dml_str_free(&place);
            continue;
        }
        printf("%-8d %s %10.3f %7.1f%% %12d\n", w, dml_str_text(&place),
               (double)sim->busy_ns[w] * 1e-6 / steps, 100.0 * dml_sim_bubble(sim, w),
               sim->peak_stash[w]);
        dml_str_free(&place);
    }
}

static int64_t most_activation_bytes(const dml_plan *p, int32_t stage)
{
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        dml_plan_memory m;
        if (dml_plan_stage_memory(p, w, stage, &m) == DML_ERR_OK && m.activation_bytes > most)
            most = m.activation_bytes;
    }
    return most;
}

/* What recomputation takes off each stage, beside the same plan without. */
static dml_err print_recomputed(const dml_plan *p)
{
    if (p->train.recompute == DML_RECOMPUTE_NONE) return DML_ERR_OK;
    dml_spec plain = *p->spec; /* borrows everything; never freed */
    plain.parallelism.recompute = DML_RECOMPUTE_NONE;
    dml_spec_drop_limits(&plain);
    dml_plan without;
    DML_TRY(dml_plan_make(&plain, &without));
    printf("\nrecompute %s\n%-8s %18s %16s %14s\n", dml_recompute_text(p->train.recompute), "stage",
           "activations MiB", "without MiB", "again ms");
    for (int32_t s = 0; s < p->stages; s++)
        printf("%-8d %18.3f %16.3f %14.3f\n", s, (double)most_activation_bytes(p, s) / 0x1p20,
               (double)most_activation_bytes(&without, s) / 0x1p20,
               (double)p->cost.chunk[s].recompute_ns * 1e-6);
    dml_plan_free(&without);
    return DML_ERR_OK;
}

static void print(dml_str *text)
{
    fputs(dml_str_text(text), stdout);
    dml_str_free(text);
}

/* How the updates of an asynchronous plan differ from a synchronous one's. */
static void print_updates(const dml_plan *p)
{
    if (!dml_plan_is_asynchronous(p->spec)) return;
    if (p->updates == 1) {
        printf("\na drain after each step: the updates are those of 1f1b\n");
        return;
    }
    printf("\nasynchronous, not gradient-equivalent; drains after at most %d steps\n", p->updates);
    printf("%-6s %14s %24s\n", "stage", "updates late", "versions of the weights");
    for (int32_t s = 0; s < p->stages; s++)
        printf("%-6d %14d %24d\n", s, dml_program_staleness(&p->train, s), p->train.versions[s]);
}

static void print_time(const dml_plan *p, bool eval, int64_t makespan_ns)
{
    const double ms = (double)makespan_ns * 1e-6;
    if (eval)
        printf("\nevaluation round: %.3f ms", ms);
    else if (p->updates > 1)
        printf("\nstep: %.3f ms, of a segment of %d: %.3f ms", ms / p->updates, p->updates, ms);
    else
        printf("\nstep: %.3f ms", ms);
    if (p->cost_is_exact || !p->spec->costs)
        printf("%s\n\n", p->cost_is_exact ? " (delay layers: exact)"
                                          : " at an assumed 50 GFLOP/s; not measured");
    else
        printf(" by %s\n\n", p->spec->costs->source);
}

/* ", worker 4 at place 2, worker 2 at place 4, without 2, 5" */
static void append_lost(const dml_plan *p, dml_str *out)
{
    const dml_int_list *seats = &p->spec->parallelism.seats;
    for (int32_t w = 0; w < seats->n; w++)
        if (seats->v[w] != w) dml_str_printf(out, ", worker %d at place %d", w, seats->v[w]);
    const dml_int_list *lost = &p->spec->parallelism.lost;
    for (int32_t i = 0; i < lost->n; i++)
        dml_str_printf(out, "%s%d", i ? ", " : ", without ", lost->v[i]);
}

static dml_err print_summary(const dml_plan_view *view, const dml_plan *p, const dml_sim *sim)
{
    const dml_spec *spec = p->spec;
    dml_arena arena = {0};
    char layout[96], each[48] = "";
    if (p->stages > p->ranks && dml_plan_is_equal(p))
        snprintf(each, sizeof each, ", %d stages on each rank", p->stages / p->ranks);
    if (dml_plan_is_equal(p))
        snprintf(layout, sizeof layout, "pp %d x dp %d = %d workers%s", p->ranks, p->replicas,
                 p->workers, each);
    else
        snprintf(layout, sizeof layout, "%d stages on %d workers", p->stages, p->workers);
    dml_str without = {0};
    append_lost(p, &without);
    printf("%s: %s%s, schedule %s (%s)\n", spec->run.name, layout, dml_str_text(&without),
           spec->parallelism.schedule, dml_plan_order_doc(spec, &arena));
    dml_str_free(&without);
    dml_arena_free(&arena);
    printf("batch %d = %d samples x %d micro-batches", spec->training.global_batch_size,
           spec->training.micro_batch_size, p->mbs);
    if (dml_plan_is_equal(p)) printf(", %d on each replica", p->mbs / p->replicas);
    printf("\n\n");
    print_stages(p);
    print_skips(p);
    print_updates(p);
    print_workers(p, sim, view->eval ? 1 : p->updates);
    DML_TRY(print_recomputed(p));
    int64_t ns = sim->makespan_ns;
    if (!view->eval) DML_TRY(dml_simulate_period(&p->train, &p->cost, &ns));
    print_time(p, view->eval, ns);
    if (p->bound_ns > 0 && !view->eval)
        printf("lower bound of the compute part: %.3f ms\n\n", (double)p->bound_ns * 1e-6);
    return DML_ERR_OK;
}

static dml_err print_simulated(const dml_plan_view *view, const dml_plan *p,
                               const dml_program *program)
{
    dml_sim sim;
    dml_str out = {0};
    DML_TRY(dml_simulate(program, &p->cost, &sim));
    const dml_err err = view->form == DML_FORM_SUMMARY ? print_summary(view, p, &sim) : DML_ERR_OK;
    if (view->form == DML_FORM_SVG)
        dml_draw_svg(program, &sim, p->spec->run.name, SVG_PIXELS, &out);
    else
        dml_draw_text(program, &sim, view->width, &out);
    print(&out);
    dml_sim_free(&sim);
    return err;
}

/* Of equal pipelines one, which is what csv:FILE reads; else, and where some are lost or in other places, all workers. */
static dml_err append_csv(const dml_plan_view *view, const dml_plan *p, dml_str *out)
{
    const dml_program *all = view->eval ? &p->eval : &p->train;
    if (!dml_plan_is_equal(p) || p->replicas == 1 || p->spec->parallelism.lost.n > 0 ||
        p->spec->parallelism.seats.n > 0) {
        dml_csv_print(all, out);
        return DML_ERR_OK;
    }
    dml_program one, forward = {0};
    int64_t bound_ns;
    DML_TRY(dml_plan_order(p, &one, &bound_ns));
    const dml_err err = view->eval ? dml_schedule_forward_only(&one, &forward) : DML_ERR_OK;
    if (err == DML_ERR_OK) dml_csv_print(view->eval ? &forward : &one, out);
    dml_program_free(&forward);
    dml_program_free(&one);
    return err;
}

dml_err dml_plan_print(const dml_spec *spec, const dml_plan_view *view)
{
    dml_plan plan;
    dml_str out = {0};
    DML_TRY(dml_plan_make(spec, &plan));
    const dml_program *program = view->eval ? &plan.eval : &plan.train;
    dml_err err = DML_ERR_OK;
    switch (view->form) {
    case DML_FORM_TEXT: dml_text_print(program, &out); break;
    case DML_FORM_CSV: err = append_csv(view, &plan, &out); break;
    case DML_FORM_SUMMARY:
    case DML_FORM_PICTURE:
    case DML_FORM_SVG: err = print_simulated(view, &plan, program); break;
    }
    print(&out);
    dml_plan_free(&plan);
    return err;
}
