/* engine/costs.h - what each layer and each link takes: what a planner knows of a machine, whoever measured it.
 *
 *   dml-plan profile  ->  profile file  --+
 *   a device file     ->  roofline      --+-->  dml_costs  -->  plan->cost (schedule/cost.h), partition, choice, oracle
 *   costs: in a spec, as a plan has it  --+
 *
 * Times are those of one device of speed 1, doing nothing else.  Layers with times of their own (delay) keep those.
 * A micro-batch of any size is priced on the line through the two sizes next to it.
 */
#ifndef DML_ENGINE_COSTS_H
#define DML_ENGINE_COSTS_H

#include "engine/base/arena.h"
#include "engine/base/err.h"

typedef enum dml_pass { DML_PASS_FORWARD, DML_PASS_INPUT, DML_PASS_WEIGHT, DML_PASSES } dml_pass;

/* An all-reduce among `members`, of bytes S:  latency_ns + S / bytes_per_s, S being what each member has. */
typedef struct dml_reduce_cost {
    int32_t members;
    int64_t latency_ns, bytes_per_s;
} dml_reduce_cost;

typedef struct dml_costs {
    const char *source;  /* for people: "profile vgg8.profile.json", "roofline of H100 SXM5" */
    int32_t n_layers;    /* of the model, the loss included */
    int32_t n_rows;      /* sizes of micro-batches, >= 1 */
    const int32_t *rows; /* [n_rows] ascending, >= 1 */
    const int64_t (*ns)[DML_PASSES]; /* [n_rows][n_layers] one micro-batch of rows[i] samples */
    const int64_t *step_ns;          /* [n_layers] optimizer, once a step */
    const int64_t
        *begin_ns; /* [n_layers] what a step does before its first forward; NULL: nothing */
    const int64_t *
        norm_ns; /* [n_layers] squares of its gradients summed up with the reduction; NULL: nothing */
    int64_t link_latency_ns;       /* between two neighbours of a pipeline */
    int64_t link_bytes_per_s;      /* 0: bytes take no time */
    const dml_reduce_cost *reduce; /* [n_reduces] ascending members; what lacks goes by the links */
    int32_t n_reduces;
    int64_t vote_ns;
} dml_costs;

/* Times of layer `layer` for a micro-batch of `rows`.  One size known: in proportion.  Several: on the line through
 * the nearest two, never below 0. */
int64_t dml_costs_ns(const dml_costs *costs, int32_t layer, int32_t rows, dml_pass pass);

/* All-reduce of `bytes` among `members` as measured; -1 where that number of members was not. */
int64_t dml_costs_reduce_ns(const dml_costs *costs, int32_t members, int64_t bytes);

/* What layer `layer` takes at the begin of a step; an asynchronous program begins once for several steps. */
int64_t dml_costs_begin_ns(const dml_costs *costs, int32_t layer);
int64_t dml_costs_norm_ns(const dml_costs *costs, int32_t layer);

/* A deep copy, the arena's. */
const dml_costs *dml_costs_copy(const dml_costs *from, dml_arena *arena);

#endif
