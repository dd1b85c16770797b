/* schedule/cost.h - what an op costs: the one rule that planner, simulator and oracle call.
 *
 * Times are those of a worker of speed 1; a worker of another speed takes ns / speed for every compute op.  What
 * crosses between two workers takes what their link takes (engine/base/link.h).
 */
#ifndef DML_SCHEDULE_COST_H
#define DML_SCHEDULE_COST_H

#include "engine/base/err.h"
#include "engine/base/link.h"
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
    int64_t begin_ns;        /* what its first forward of a step takes more: weights packed again */
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
    dml_links links;       /* its levels: owned */
    int32_t workers;       /* that `speed` is of */
    double *speed;         /* [workers] > 0, owned; NULL: all 1 */
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
/* Workers of these speeds, in the place of those it has; NULL: all of speed 1.  DML_ERR_NOMEM  no room for them */
dml_err dml_cost_speeds(dml_cost *cost, int32_t workers, const double *speed);
/* These links, in the place of those it has; the levels are copied.  DML_ERR_NOMEM  no room for them */
dml_err dml_cost_links(dml_cost *cost, const dml_links *links);
/* A deep copy; `out` is uninitialised before and {0} on failure.  DML_ERR_NOMEM  no room for it */
dml_err dml_cost_copy(const dml_cost *from, dml_cost *out);

/* The costs that one of `replicas` equal pipelines sees: its worker r is worker r * replicas + replica of `cost`.  As
 * dml_cost_copy; all-reduces stay those of all replicas. */
dml_err dml_cost_of_replica(const dml_cost *cost, int32_t replicas, int32_t replica, dml_cost *out);

/* Speed of a worker; 1 of one beyond those named. */
double dml_speed_of(const dml_cost *cost, int32_t worker);

/* An all-reduce among the members, ascending workers, as a ring at the pace of its slowest link takes
 * (dml_links_ring_ns): 2 (n - 1) / n bytes / bytes_per_s + 2 (n - 1) latency_ns. */
int64_t dml_all_reduce_ns(const dml_cost *cost, const int32_t *members, int32_t n, int64_t bytes);

/* What a transfer carries: out_bytes of the boundary it crosses, or its skip's bytes.  Other ops: 0. */
int64_t dml_op_bytes(const dml_cost *cost, const dml_op *op);

/* Time the op holds its lane on `worker`: a compute op its chunk's time or its part's share of that, divided by the
 * worker's speed; a transfer what dml_op_bytes take on the link to op->peer, with DML_NO_PEER on the outermost;
 * a REDUCE and a VOTE what the cost says, wherever they are. */
int64_t dml_op_ns(const dml_cost *cost, int32_t worker, const dml_op *op);

/* What the first forward of a step of this chunk takes more than the others, on `worker`. */
int64_t dml_begin_ns(const dml_cost *cost, int32_t worker, int32_t chunk);

#endif
