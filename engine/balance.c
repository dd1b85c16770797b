/* engine/balance.c - entropy, shares, speeds. */
#include "engine/balance.h"

#include <math.h>

double dml_balance_entropy(const double *load, int32_t n)
{
    double all = 0.0, e = 0.0;
    for (int32_t i = 0; i < n; i++)
        all += load[i];
    if (n < 2 || all <= 0.0) return 1.0;
    for (int32_t i = 0; i < n; i++)
        if (load[i] > 0.0) e -= load[i] / all * log(load[i] / all);
    return e / log(n);
}

void dml_balance_shares(const double *mb_ns, int32_t n, int32_t mbs, int32_t *share)
{
    DML_ASSERT_OP(n, <=, mbs);
    for (int32_t i = 0; i < n; i++)
        share[i] = 1;
    for (int32_t left = mbs - n; left > 0; left--) {
        int32_t best = 0;
        for (int32_t i = 1; i < n; i++)
            if ((share[i] + 1) * mb_ns[i] < (share[best] + 1) * mb_ns[best]) best = i;
        share[best]++;
    }
}

/* ---- what was measured ---- */

static int64_t compute_ns(const dml_report_chunk *c)
{
    return c->fwd_ns + c->bwd_ns + c->bwd_input_ns + c->bwd_weight_ns;
}

static const dml_report_chunk *chunk_of(const dml_report_load *load, int32_t stage)
{
    for (int32_t i = 0; i < load->n_chunks; i++)
        if (load->chunk[i].chunk == stage) return &load->chunk[i];
    return NULL;
}

/* A micro-batch of the stage on a device of speed 1, as the plan has it. */
static double planned_ns(const dml_plan *plan, int32_t stage)
{
    const dml_chunk_cost *c = &plan->cost.chunk[stage];
    return (double)(c->fwd_ns + c->bwd_input_ns + c->bwd_weight_ns);
}

/* The part of it that is delays, which are what they are. */
static double delay_ns(const dml_plan *plan, int32_t stage)
{
    double sum = 0.0;
    for (int32_t i = plan->stage_begin[stage]; i < plan->stage_begin[stage + 1]; i++)
        for (int32_t pass = 0; pass < DML_PASSES; pass++)
            sum += (double)plan->model.layer[i].spec->ns[pass];
    return sum;
}

/* Whether the plan's times were measured, or are what layers sleep: then a worker that takes longer is slow. */
static bool times_are_known(const dml_plan *plan)
{
    return plan->cost_is_exact || plan->spec->costs;
}

/* What the layers of a stage without times of their own take, as multiples of what the plan assumed: by its fastest
 * holder.  0: it was not measured. */
static double factor_of(const dml_plan *plan, const dml_report_load *load, int32_t stage)
{
    double least = INFINITY;
    for (int32_t w = 0; w < plan->workers; w++) {
        const dml_report_chunk *c = chunk_of(&load[w], stage);
        if (c) least = fmin(least, (double)compute_ns(c));
    }
    const double delays = delay_ns(plan, stage), assumed = planned_ns(plan, stage) - delays;
    if (least <= 0.0 || !isfinite(least)) return 0.0;
    if (times_are_known(plan) || assumed <= 0.0) return 1.0;
    return fmax((least - delays) / assumed, 1e-3);
}

static double unit_ns(const dml_plan *plan, int32_t stage, double factor)
{
    const double delays = delay_ns(plan, stage);
    return delays + (planned_ns(plan, stage) - delays) * factor;
}

/* Costs of the layers as measured; the optimizer's time of a stage is dealt out by parameters. */
static const dml_costs *costs_of(const dml_plan *plan, const dml_report_load *load,
                                 const double *factor, dml_arena *arena)
{
    const int32_t n = plan->model.n_layers, rows = plan->spec->training.micro_batch_size;
    int32_t *sizes = DML_NEW_N(arena, int32_t, 1);
    int64_t(*ns)[DML_PASSES] = dml_arena_alloc(arena, (int64_t)sizeof *ns * n);
    int64_t *step_ns = DML_NEW_N(arena, int64_t, n);
    dml_costs *costs = DML_NEW(arena, dml_costs);
    sizes[0] = rows;
    for (int32_t s = 0; s < plan->stages; s++) {
        int64_t elems = 0, took_ns = 0;
        for (int32_t w = 0; w < plan->workers && took_ns == 0; w++)
            if (chunk_of(&load[w], s)) took_ns = chunk_of(&load[w], s)->step_ns;
        const dml_chunk_span *span = &plan->train.span[s];
        for (int32_t p = span->param_begin; p < span->param_end; p++)
            elems += plan->model.param[p].elems;
        for (int32_t i = span->layer_begin; i < span->layer_end; i++) {
            const dml_layer *l = &plan->model.layer[i];
            for (dml_pass pass = 0; pass < DML_PASSES; pass++)
                ns[i][pass] = llround((double)dml_plan_layer_ns(plan, i, pass) * factor[s]);
            for (int32_t p = l->param_begin; p < l->param_end && elems > 0; p++)
                step_ns[i] += took_ns * plan->model.param[p].elems / elems;
        }
    }
    *costs = (dml_costs){.source = "measured while the job ran",
                         .n_layers = n,
                         .n_rows = 1,
                         .rows = sizes,
                         .ns = (const int64_t(*)[DML_PASSES])ns,
                         .step_ns = step_ns};
    return costs;
}

bool dml_balance_measure(const dml_plan *plan, const dml_report_load *load, dml_arena *arena,
                         dml_measured *out)
{
    double *factor = DML_NEW_N(arena, double, plan->stages);
    *out = (dml_measured){.speed = DML_NEW_N(arena, double, plan->workers),
                          .load_ns = DML_NEW_N(arena, double, plan->workers)};
    for (int32_t s = 0; s < plan->stages; s++)
        if ((factor[s] = factor_of(plan, load, s)) == 0.0) return false;
    for (int32_t w = 0; w < plan->workers; w++) {
        double unit = 0.0;
        for (int32_t i = 0; i < load[w].n_chunks; i++) {
            const int32_t s = load[w].chunk[i].chunk, mbs = dml_plan_share(plan, w, s);
            unit += mbs * unit_ns(plan, s, factor[s]);
            out->load_ns[w] += (double)mbs * (double)compute_ns(&load[w].chunk[i]);
        }
        if (unit <= 0.0 || out->load_ns[w] <= 0.0) return false;
        out->speed[w] = unit / out->load_ns[w];
    }
    if (!times_are_known(plan)) out->costs = costs_of(plan, load, factor, arena);
    return true;
}
