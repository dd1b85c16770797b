/* schedule/cost.c - the cost rule. */
#include "schedule/cost.h"

#include <stdlib.h>

dml_err dml_cost_init(dml_cost *cost, int32_t chunks)
{
    *cost = (dml_cost){0};
    if (chunks < 1) DML_FAIL(DML_ERR_SPEC, "a cost table has at least one chunk, not %d", chunks);
    cost->chunk = calloc((size_t)chunks, sizeof *cost->chunk);
    if (!cost->chunk) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of %d chunks", chunks);
    cost->chunks = chunks;
    return DML_ERR_OK;
}

void dml_cost_free(dml_cost *cost)
{
    free(cost->chunk);
    *cost = (dml_cost){0};
}

dml_err dml_cost_uniform(dml_cost *cost, int32_t chunks, int64_t fwd_ns, int64_t bwd_input_ns,
                         int64_t bwd_weight_ns)
{
    DML_TRY(dml_cost_init(cost, chunks));
    for (int32_t c = 0; c < chunks; c++)
        cost->chunk[c] = (dml_chunk_cost){
            .fwd_ns = fwd_ns, .bwd_input_ns = bwd_input_ns, .bwd_weight_ns = bwd_weight_ns};
    return DML_ERR_OK;
}

/* Across the boundary above `chunk`, in either direction. */
static int64_t transfer_ns(const dml_cost *cost, int32_t chunk)
{
    if (cost->link_bytes_per_s == 0) return cost->link_latency_ns;
    const double s = (double)cost->chunk[chunk].out_bytes / (double)cost->link_bytes_per_s;
    return cost->link_latency_ns + (int64_t)(s * 1e9);
}

int64_t dml_op_ns(const dml_cost *cost, const dml_op *op)
{
    DML_ASSERT_OP(op->chunk, <, cost->chunks);
    const dml_chunk_cost *c = &cost->chunk[op->chunk];
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD: return c->fwd_ns;
    case DML_OP_BWD: return c->bwd_ns ? c->bwd_ns : c->bwd_input_ns + c->bwd_weight_ns;
    case DML_OP_BWD_INPUT: return c->bwd_input_ns;
    case DML_OP_BWD_WEIGHT: return c->bwd_weight_ns;
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_GRAD: return transfer_ns(cost, op->chunk);
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD: return transfer_ns(cost, op->chunk - 1);
    case DML_OP_REDUCE: return c->reduce_ns;
    case DML_OP_VOTE: return cost->vote_ns;
    case DML_OP_STEP: return c->step_ns;
    }
    dml_assert_failed("op kind", op->kind, DML_OP_KINDS, __FILE__, __LINE__);
}
