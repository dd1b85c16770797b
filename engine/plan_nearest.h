/* engine/plan_nearest.h - what would have to change for a schedule that does not fit. */
#ifndef DML_ENGINE_PLAN_NEAREST_H
#define DML_ENGINE_PLAN_NEAREST_H

#include "engine/base/str.h"
#include "engine/spec.h"

/* Appends the nearest setting under which the spec, which dml_plan_make has refused, can be planned: of these the
 * first that there is,
 *
 *   parallelism.memory                    as much as it takes, when that is all that is wrong
 *   training.global_batch_size            the closest number of micro-batches that the schedule takes
 *   parallelism.split, pipeline_parallel_size    cut by the planner; the closest number of ranks
 *
 * with `before` in front; nothing when none of them is enough.  Overwrites the error trail. */
void dml_plan_nearest(const dml_spec *spec, const char *before, dml_str *out);

#endif
