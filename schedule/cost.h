/* schedule/cost.h - what an op costs: the one rule that planner, simulator and oracle call. */
#ifndef DML_SCHEDULE_COST_H
#define DML_SCHEDULE_COST_H

#include "engine/base/err.h"
#include "schedule/op.h"

/* One chunk, one micro-batch where that applies. */
typedef struct dml_chunk_cost {
    int64_t fwd_ns;
    int64_t bwd_ns; /* whole backward; 0: bwd_input_ns + bwd_weight_ns */
    int64_t bwd_input_ns, bwd_weight_ns;
    int64_t reduce_ns; /* all-reduce of the chunk's gradients, once per step */
    int64_t step_ns;   /* optimizer, once per step                           */
    int64_t out_bytes; /* the chunk's output: crosses to the next chunk, its gradient back */
} dml_chunk_cost;

typedef struct dml_cost {
    int32_t chunks;
    dml_chunk_cost *chunk; /* [chunks] owned */
    int64_t link_latency_ns;
    int64_t link_bytes_per_s; /* 0: bytes take no time */
    int64_t vote_ns;
} dml_cost;

/* Everything costs nothing.  DML_ERR_SPEC: chunks below 1. */
dml_err dml_cost_init(dml_cost *cost, int32_t chunks);
void dml_cost_free(dml_cost *cost); /* back to {0} */

/* All chunks alike: F, I and W as given, B = I + W, the rest 0. */
dml_err dml_cost_uniform(dml_cost *cost, int32_t chunks, int64_t fwd_ns, int64_t bwd_input_ns,
                         int64_t bwd_weight_ns);

/* Time the op holds its lane: a compute op its chunk's time, a transfer
 * link_latency_ns + out_bytes / link_bytes_per_s of the boundary it crosses. */
int64_t dml_op_ns(const dml_cost *cost, const dml_op *op);

#endif
