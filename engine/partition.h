/* engine/partition.h - where to cut a chain of layers: the exact min-max cut under memory limits.
 *
 *   layers   0 1 2 | 3 | 4 5 6 7 | 8 9        begin = {0, 3, 4, 8, 10}
 *   stages     0     1      2       3
 *
 * A pure function of figures that the caller has from a profile, from delays or from flops.  Stage s holding layers
 * [i, j) of a cut takes, for one micro-batch,
 *
 *   compute   (sum of F + I + W) / speed of s
 *   transfer  2 (latency + in / bandwidth) of the link before s: the input, and its gradient back
 *   time      the larger of the two (transfers overlap; PipeDream's paper, SOSP 2019, 3.1), or their sum with the
 *             transfer behind the stage (they block, as in its released code)
 *   bytes     state + in-flight (stash + in) + in + out: inputs stay with the stash until the backward; one gradient
 *             of the input and one of the output
 *
 * where `in` is what arrives: the border before i, and every value made before it and read by a layer of the stage,
 * once (a skip goes straight from its producer's stage to its reader's); `out` the border before j and every value
 * made in the stage and read behind it, once.
 */
#ifndef DML_ENGINE_PARTITION_H
#define DML_ENGINE_PARTITION_H

#include "engine/base/err.h"

#include <stdbool.h>

/* One layer and one micro-batch.  Times in ns, or any unit that all times share. */
typedef struct dml_partition_layer {
    const char *name;    /* for complaints; borrowed */
    int64_t ns[3];       /* forward, input gradient, weight gradient, on a device of speed 1 */
    int64_t state_bytes; /* parameters, gradients, optimizer state, versions */
    int64_t stash_bytes; /* from forward to backward; with the output, and the batch for layer 0 */
    int64_t out_bytes;   /* its output: what the border behind it sends on */
    bool may_end_stage;  /* a border behind it is legal; the last layer's needs no leave */
    int32_t tied;        /* > 0: layers of one number share a stage (tied weights) */
} dml_partition_layer;

/* The output of layer `from` is read by layer `to` > from, beside the chain.  One entry per reader. */
typedef struct dml_partition_skip {
    int32_t from, to;
} dml_partition_skip;

/* What stage s runs on.  r equal replicas are one device of r times the speed. */
typedef struct dml_partition_stage {
    double speed;         /* > 0; 2 takes half the times */
    int64_t memory_bytes; /* limit; 0: none */
    int32_t in_flight;    /* micro-batches between F and B at once, as the schedule holds them */
    int64_t link_latency_ns;
    int64_t link_bytes_per_s; /* of the link before the stage; 0: bytes take no time */
} dml_partition_stage;

typedef enum dml_partition_comm {
    DML_PARTITION_OVERLAPPED, /* time = max(compute, transfer before it) */
    DML_PARTITION_BLOCKING    /* time = compute + transfers before and behind it */
} dml_partition_comm;

typedef struct dml_partition_problem {
    const dml_partition_layer *layer; /* [n_layers] borrowed, as all arrays here */
    const dml_partition_skip *skip;   /* [n_skips] */
    const dml_partition_stage *stage; /* [n_stages] in the order of the chain */
    int32_t n_layers, n_skips, n_stages;
    dml_partition_comm comm;
    int32_t grain; /* 0: times are as they are; > 0: guesses */
    /* Bytes of layers [begin, end) as stage s, in the place of the formula; NULL: that. */
    int64_t (*bytes)(void *of, int32_t s, int32_t begin, int32_t end);
    void *of; /* its first argument */
} dml_partition_problem;

/* Finds the cut into exactly n_stages stages that fits and whose slowest stage is the fastest; among those the one
 * whose next slowest is, and so on (so no stage is empty of work when it need not be); among those the one with the
 * fewest bytes over its borders; then the earliest cuts, the last border first.  Where times are guesses, a grain
 * leaves more to the bytes: behind the slowest stage, times count in units of slowest / grain, the nearest.
 *
 * O(n_stages n^2) stage prices for n legal segments, and n_stages times that when very many cuts tie.
 *
 *   begin   [n_stages + 1] stage s holds layers [begin[s], begin[s + 1]); written only on success
 *
 * DML_ERR_SPEC   more stages than legal segments (says how many there are), no layers, a speed that is not above 0
 * DML_ERR_NOMEM  nothing fits: names the layer that no stage can hold (or the layers that no cut divides) and the
 *                bytes it is short; where each fits somewhere, the stage and the bytes that the nearest cut is short */
dml_err dml_partition(const dml_partition_problem *p, int32_t *begin);

typedef struct dml_partition_price {
    int64_t compute_ns, transfer_ns; /* transfer: before the stage alone */
    int64_t ns;                      /* by the problem's rule */
    int64_t bytes;
    int64_t in_bytes; /* arriving, one way */
} dml_partition_price;

/* Prices any cut, legal or not: price[n_stages]. */
void dml_partition_price_of(const dml_partition_problem *p, const int32_t *begin,
                            dml_partition_price *price);

#endif
