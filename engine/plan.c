/* engine/plan.c - spec -> model -> cut -> order -> program, each step a pure function. */
#include "engine/plan.h"

#include "engine/chunk.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <string.h>

/* Until there is a profile, a layer is assumed to run at this rate; it decides the order of transfers, never
 * whether a program is right. */
enum { ASSUMED_FLOPS_PER_NS = 50 };

/* Time of pass `pass` (forward, input gradient, weight gradient) of one micro-batch; adds to the share that
 * is only assumed. */
static int64_t layer_ns(const dml_layer *l, int64_t rows, int pass, int64_t *assumed_ns)
{
    if (l->spec->kind == DML_LAYER_DELAY) return l->spec->ns[pass];
    const int64_t ns = l->flops[pass] * rows / ASSUMED_FLOPS_PER_NS;
    *assumed_ns += ns;
    return ns;
}

static dml_err make_cost(dml_plan *plan)
{
    const int64_t rows = plan->spec->training.micro_batch_size;
    DML_TRY(dml_cost_init(&plan->cost, plan->stages));
    plan->cost.link_latency_ns = plan->spec->parallelism.link_latency_ns;
    plan->cost.link_bytes_per_s = (int64_t)plan->spec->parallelism.link_bytes_per_s;
    int64_t all_ns = 0, assumed_ns = 0;
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_chunk_cost *c = &plan->cost.chunk[s];
        for (int32_t i = plan->stage_begin[s]; i < plan->stage_begin[s + 1]; i++) {
            const dml_layer *l = &plan->model.layer[i];
            c->fwd_ns += layer_ns(l, rows, 0, &assumed_ns);
            c->bwd_input_ns += layer_ns(l, rows, 1, &assumed_ns);
            c->bwd_weight_ns += layer_ns(l, rows, 2, &assumed_ns);
        }
        all_ns += c->fwd_ns + c->bwd_input_ns + c->bwd_weight_ns;
        const dml_layer *last = &plan->model.layer[plan->stage_begin[s + 1] - 1];
        if (s + 1 < plan->stages)
            c->out_bytes = dml_shape_elems(last->out) * rows * (int64_t)sizeof(float);
    }
    plan->cost_is_exact = assumed_ns * 100 <= all_ns;
    return DML_ERR_OK;
}

/* Stage s holds chunk s: its layers, and the parameters of these. */
static void fill_spans(const dml_plan *plan, dml_program *p)
{
    for (int32_t s = 0; s < plan->stages; s++) {
        const dml_layer *first = &plan->model.layer[plan->stage_begin[s]];
        const dml_layer *last = &plan->model.layer[plan->stage_begin[s + 1] - 1];
        p->span[s] = (dml_chunk_span){plan->stage_begin[s], plan->stage_begin[s + 1],
                                      first->param_begin, last->param_end};
    }
}

/* The checker sees that spans follow each other; only the model knows where they must end. */
static dml_err check_coverage(const dml_plan *plan, const dml_program *p)
{
    const dml_chunk_span *last = &p->span[p->chunks - 1];
    if (last->layer_end != plan->model.n_layers || last->param_end != plan->model.n_params)
        DML_FAIL(DML_ERR_BUG, "placed: the stages end at layer %d and parameter %d of %d and %d",
                 last->layer_end, last->param_end, plan->model.n_layers, plan->model.n_params);
    return DML_ERR_OK;
}

static dml_err lower_checked(const dml_program *order, const dml_cost *cost, dml_program *out)
{
    DML_TRY(dml_check(order, NULL));
    DML_TRY(dml_lower(order, cost, out));
    return dml_check(out, NULL);
}

static dml_err make_programs(dml_plan *plan)
{
    const dml_schedule *schedule;
    DML_TRY(dml_schedule_find(plan->spec->parallelism.schedule, &schedule));
    const dml_schedule_args args = {
        .stages = plan->stages, .virtual_stages = 1, .mbs = plan->mbs / plan->replicas};
    dml_program one = {0}, order = {0}, forward = {0};
    dml_err err = dml_schedule_build(schedule, &args, &one);
    if (err == DML_ERR_OK) err = dml_expand_replicas(&one, plan->replicas, plan->mbs, &order);
    if (err == DML_ERR_OK) {
        fill_spans(plan, &order);
        err = check_coverage(plan, &order);
    }
    if (err == DML_ERR_OK) err = lower_checked(&order, &plan->cost, &plan->train);
    if (err == DML_ERR_OK) err = dml_schedule_forward_only(&order, &forward);
    if (err == DML_ERR_OK) err = lower_checked(&forward, &plan->cost, &plan->eval);
    dml_program_free(&one);
    dml_program_free(&order);
    dml_program_free(&forward);
    return err;
}

static dml_err make(dml_plan *plan)
{
    const dml_spec *spec = plan->spec;
    plan->stages = spec->parallelism.pipeline_parallel_size;
    plan->replicas = spec->parallelism.data_parallel_size;
    plan->workers = plan->stages * plan->replicas;
    plan->mbs = spec->training.num_microbatches;
    if (plan->mbs % plan->replicas != 0)
        return dml_spec_fail(spec, dml_spec_place(spec, "parallelism.data_parallel_size"),
                             "parallelism.data_parallel_size",
                             "%d micro-batches of a step do not divide among %d replicas",
                             plan->mbs, plan->replicas);
    DML_TRY(dml_model_make(spec, &plan->arena, &plan->model));
    plan->stage_begin = DML_NEW_N(&plan->arena, int32_t, plan->stages + 1);
    DML_TRY(dml_model_split(spec, &plan->model, plan->stages, plan->stage_begin));
    DML_TRY(make_cost(plan));
    return make_programs(plan);
}

dml_err dml_plan_make(const dml_spec *spec, dml_plan *out)
{
    *out = (dml_plan){.spec = spec};
    const dml_err err = make(out);
    if (err != DML_ERR_OK) dml_plan_free(out);
    return err;
}

void dml_plan_free(dml_plan *plan)
{
    dml_program_free(&plan->train);
    dml_program_free(&plan->eval);
    dml_cost_free(&plan->cost);
    dml_arena_free(&plan->arena);
    *plan = (dml_plan){0};
}

dml_err dml_plan_predict(const dml_plan *plan, const dml_cost *cost, int64_t *step_ns,
                         double *bubble, int32_t *stash_peak)
{
    dml_sim sim;
    DML_TRY(dml_simulate(&plan->train, cost, &sim));
    *step_ns = sim.makespan_ns;
    for (int32_t w = 0; w < plan->workers; w++) {
        bubble[w] = dml_sim_bubble(&sim, w);
        stash_peak[w] = sim.peak_stash[w];
    }
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

int64_t dml_plan_worker_bytes(const dml_plan *plan, int32_t worker)
{
    const int32_t c = dml_plan_stage(plan, worker);
    const dml_chunk_span *span = &plan->train.span[c];
    dml_arena arena = {0};
    dml_chunk chunk;
    int64_t bytes = 0;
    if (dml_chunk_plan(plan->spec, &plan->model, span->layer_begin, span->layer_end, false, &arena,
                       &chunk) == DML_ERR_OK) {
        const int64_t pool[DML_POOLS] = {chunk.size.in, chunk.size.stash, chunk.size.dy,
                                         chunk.size.dx};
        bytes = chunk.size.shared + chunk.size.private_;
        for (int32_t p = 0; p < DML_POOLS; p++)
            bytes += pool[p] * *dml_program_slots(&plan->train, worker, c, (dml_pool)p);
        if (c == 0) /* the loaded batches */
            bytes += chunk.size.in * *dml_program_slots(&plan->train, worker, c, DML_POOL_STASH);
    }
    dml_arena_free(&arena);
    return bytes;
}
