/* engine/plan_memory.c - what a worker will hold, from the sizes of chunks and the slots of programs. */
#include "engine/plan.h"

#include "engine/chunk.h"
#include "engine/update.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

int32_t dml_plan_slots(const dml_plan *plan, int32_t worker, int32_t port, dml_pool pool)
{
    const int32_t train = *dml_program_slots(&plan->train, worker, port, pool),
                  eval = *dml_program_slots(&plan->eval, worker, port, pool);
    return MAX2(train, eval);
}

int32_t dml_plan_batches(const dml_plan *plan, int32_t worker, int32_t stage)
{
    const dml_recompute policy = plan->train.recompute;
    const bool some = policy != DML_RECOMPUTE_NONE,
               all = policy == DML_RECOMPUTE_FULL || policy == DML_RECOMPUTE_SELECTIVE;
    const int32_t kept = some ? dml_plan_slots(plan, worker, stage, DML_POOL_KEPT) : 0;
    return kept + (all ? 0 : dml_plan_slots(plan, worker, stage, DML_POOL_STASH));
}

/* What skips bring to the stage, and the gradients that come back to it. */
static int64_t skip_bytes(const dml_plan *plan, int32_t worker, int32_t stage)
{
    const dml_program *p = &plan->train;
    int64_t sum = 0;
    for (int32_t k = 1; k <= p->n_skips; k++) {
        const int32_t port = dml_skip_port(p, k);
        int32_t slots = 0;
        if (p->skip[k - 1].to == stage) slots += dml_plan_slots(plan, worker, port, DML_POOL_IN);
        if (p->skip[k - 1].back == stage) slots += dml_plan_slots(plan, worker, port, DML_POOL_DY);
        sum += dml_worker_align(dml_plan_skip_bytes(plan, k)) * slots;
    }
    return sum;
}

static int64_t activation_bytes(const dml_plan *plan, int32_t worker, int32_t stage,
                                const dml_chunk *c)
{
    const int64_t bytes[DML_POOLS] = {[DML_POOL_IN] = c->size.in,
                                      [DML_POOL_STASH] = c->size.stash,
                                      [DML_POOL_DY] = c->size.dy,
                                      [DML_POOL_DX] = c->size.dx,
                                      [DML_POOL_KEPT] = c->size.kept};
    const int64_t batches = dml_plan_batches(plan, worker, stage);
    int64_t sum = skip_bytes(plan, worker, stage);
    for (int32_t p = 0; p < DML_POOLS; p++)
        sum += dml_worker_align(bytes[p]) * dml_plan_slots(plan, worker, stage, (dml_pool)p);
    if (stage == 0) sum += dml_worker_align(c->size.in) * batches;
    if (stage == plan->stages - 1)
        sum += dml_worker_align(c->mb_rows * (int64_t)sizeof(int32_t) * batches);
    return sum;
}

dml_err dml_plan_stage_memory(const dml_plan *plan, int32_t worker, int32_t stage,
                              dml_plan_memory *out)
{
    *out = (dml_plan_memory){0};
    if (!dml_plan_holds(plan, worker, stage)) return DML_ERR_OK;
    const dml_chunk_span *span = &plan->train.span[stage];
    dml_arena arena = {0};
    dml_chunk c;
    const dml_err err = dml_chunk_plan(plan->spec, &plan->model, span->layer_begin, span->layer_end,
                                       dml_program_splits_backward(&plan->train), &arena, &c);
    if (err == DML_ERR_OK) dml_plan_buffers(plan, stage, &c);
    if (err == DML_ERR_OK)
        *out = (dml_plan_memory){.state_bytes = dml_worker_align(c.size.shared) +
                                                dml_worker_align(c.size.private_) +
                                                dml_worker_align(dml_update_device_bytes(&c)),
                                 .activation_bytes = activation_bytes(plan, worker, stage, &c)};
    dml_arena_free(&arena);
    return err;
}

dml_err dml_plan_memory_of(const dml_plan *plan, int32_t worker, dml_plan_memory *out)
{
    *out = (dml_plan_memory){0};
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_plan_memory m;
        DML_TRY(dml_plan_stage_memory(plan, worker, s, &m));
        out->state_bytes += m.state_bytes;
        out->activation_bytes += m.activation_bytes;
    }
    return DML_ERR_OK;
}

int64_t dml_plan_worker_bytes(const dml_plan *plan, int32_t worker)
{
    dml_plan_memory m;
    if (dml_plan_memory_of(plan, worker, &m) != DML_ERR_OK) return 0;
    return m.state_bytes + m.activation_bytes;
}
