/* schedule/cost.h - what an op costs: the one rule that planner, simulator and oracle call. */
#ifndef DML_SCHEDULE_COST_H
#define DML_SCHEDULE_COST_H

#include "engine/base/err.h"
#include "schedule/op.h"

/* What one bucket of a chunk takes of three times, as the share of it and all buckets before it:
 * ascending, 1 for the last.  Part k of a time ns is round(ns share[k]) - round(ns share[k - 1]):
 * parts add up to the whole exactly. */
typedef struct dml_bucket_cost {
    double bwd, bwd_weight; /* of a whole backward, of the weight gradient alone */
    double reduce;          /* of reduce_ns */
} dml_bucket_cost;

/* One chunk, one micro-batch where that applies. */
typedef struct dml_chunk_cost {
    int64_t fwd_ns;
    int64_t bwd_ns; /* whole backward; 0: bwd_input_ns + bwd_weight_ns */
    int64_t bwd_input_ns, bwd_weight_ns;
    int64_t recompute_ns;    /* forward again, of what the backward wants */
    int64_t reduce_ns;       /* all-reduces of the chunk's gradients, once per step */
    int64_t step_ns;         /* optimizer, once per step                            */
    int64_t out_bytes;       /* the chunk's output: crosses to the next chunk, its gradient back */
    int32_t buckets;         /* of the program it is for; 0 as 1 */
    dml_bucket_cost *bucket; /* [buckets] owned; NULL: one */
} dml_chunk_cost;

typedef struct dml_cost {
    int32_t chunks;
    dml_chunk_cost *chunk; /* [chunks] owned */
    int64_t link_latency_ns;
    int64_t link_bytes_per_s; /* 0: bytes take no time */
    int64_t vote_ns;
    int32_t skips;       /* of the program it is for */
    int64_t *skip_bytes; /* [skips] of the value of skip k, from 1, at k - 1; owned, NULL: none */
} dml_cost;

/* Everything costs nothing.  DML_ERR_SPEC: chunks below 1. */
dml_err dml_cost_init(dml_cost *cost, int32_t chunks);
void dml_cost_free(dml_cost *cost); /* back to {0} */

/* All chunks alike: F, I and W as given, B = I + W, the rest 0. */
dml_err dml_cost_uniform(dml_cost *cost, int32_t chunks, int64_t fwd_ns, int64_t bwd_input_ns,
                         int64_t bwd_weight_ns);

/* Gives the chunk n >= 1 buckets with equal shares, to be overwritten where they are not.
 * DML_ERR_NOMEM  no room for them */
dml_err dml_cost_buckets(dml_cost *cost, int32_t chunk, int32_t n);
/* Gives it n skips of no bytes, in the place of those it has.  DML_ERR_NOMEM  no room for them */
dml_err dml_cost_skips(dml_cost *cost, int32_t n);
/* A deep copy; `out` is uninitialised before and {0} on failure.  DML_ERR_NOMEM  no room for it */
dml_err dml_cost_copy(const dml_cost *from, dml_cost *out);

/* An all-reduce of n members over the links of `cost`, as a ring takes (Patarasuk and Yuan 2009):
 * 2 (n - 1) / n bytes / link_bytes_per_s + 2 (n - 1) link_latency_ns. */
int64_t dml_all_reduce_ns(const dml_cost *cost, int32_t n, int64_t bytes);

/* What a transfer carries: out_bytes of the boundary it crosses, or its skip's bytes.  Other ops: 0. */
int64_t dml_op_bytes(const dml_cost *cost, const dml_op *op);

/* Time the op holds its lane: a compute op its chunk's time or its part's share of that, a transfer
 * link_latency_ns + dml_op_bytes / link_bytes_per_s. */
int64_t dml_op_ns(const dml_cost *cost, const dml_op *op);

#endif
