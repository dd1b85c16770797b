/* engine/split_stages.h - what each stage will run on, as far as a cut needs it before there is a plan.
 *
 * A named schedule writes its order whatever the costs: who runs a stage and how many micro-batches it holds at once are
 * read from that.  Under `auto` and parallelism.stages the routes are known, and in flight is what 1F1B would hold
 * (engine/placement.h).
 */
#ifndef DML_ENGINE_SPLIT_STAGES_H
#define DML_ENGINE_SPLIT_STAGES_H

#include "engine/base/arena.h"
#include "engine/chunk.h"
#include "engine/partition.h"

typedef struct dml_split_stage {
    double
        speed; /* of all its workers together, seen as equal pipelines see it: 1 where nothing is said; less
                       * where a worker has other stages, too, or is slow */
    dml_link link;        /* slowest latency and bandwidth to it from the stage before */
    int64_t memory_bytes; /* least limit of its workers; 0: none */
    int32_t in_flight;    /* most micro-batches that a worker holds of it */
    int32_t held_with;    /* most stages that one of its workers has, this one included */
} dml_split_stage;

typedef struct dml_split_stages {
    int32_t stages;
    const dml_split_stage *stage; /* [stages] the arena's */
    bool splits_backward,
        ordered; /* ordered: in flight is what it says, not what 1F1B would hold */
} dml_split_stages;

/* Of a layout with other than `stages` stages, as of one worker each.
 * DML_ERR_SPEC, DML_ERR_NOMEM  too many stages or micro-batches: their tables do not fit */
dml_err dml_split_stages_of(const dml_spec *spec, int32_t stages, dml_arena *arena,
                            dml_split_stages *out);

/* Bytes that layers [begin, end) take of a worker as a stage of its own, as far as they are known before an order is. */
typedef struct dml_stage_need {
    int64_t
        once; /* parameters, what is reduced, optimizer state, one call's scratch, and what recomputation needs of one
                     * micro-batch */
    int64_t stash; /* of a micro-batch, from its forward to its weight gradient */
    int64_t in; /* of a micro-batch, from its arrival to its weight gradient: inputs, with skips */
    int64_t dy, dx; /* of a gradient at the borders, with skips, while it is there */
    int64_t labels; /* of a micro-batch; those of all lie together */
    int64_t reduce; /* gradients that replicas sum up, once a step */
} dml_stage_need;

/* Values read beside the chain, as engine/partition.h has them: room for two of each layer; returns how many. */
int32_t dml_model_skips(const dml_model *model, dml_partition_skip *skip);

dml_stage_need dml_chunk_need(const dml_spec *spec, const dml_model *model, const dml_chunk *c);

/* Errors are those of dml_chunk_plan. */
dml_err dml_stage_need_of(const dml_spec *spec, const dml_model *model, int32_t begin, int32_t end,
                          bool splits_backward, dml_stage_need *out);

#endif
