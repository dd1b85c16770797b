/* engine/model_place.h - a spec's model and cluster as engine/placement.h wants them. */
#ifndef DML_ENGINE_MODEL_PLACE_H
#define DML_ENGINE_MODEL_PLACE_H

#include "engine/model.h"
#include "engine/placement.h"

/* For workers 0 .. workers - 1 of the spec's cluster, at its micro-batch size, recomputation and objective: times as the
 * plan has them (dml_layer_ns), bytes those of the engine but for how many values lie at the borders at a time.  What a
 * recomputed forward takes again counts with the input gradient.  Everything is the arena's or borrowed: spec and model
 * stay where they are as long as the problem is used.
 *
 * Errors are those of dml_chunk_plan. */
dml_err dml_model_placement(const dml_spec *spec, const dml_model *model, int32_t workers,
                            dml_arena *arena, dml_placement_problem *out);

#endif
