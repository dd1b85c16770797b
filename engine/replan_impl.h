/* engine/replan_impl.h - what engine/replan.c asks for. */
#ifndef DML_ENGINE_REPLAN_IMPL_H
#define DML_ENGINE_REPLAN_IMPL_H

#include "engine/control.h"
#include "engine/plan.h"

enum { DML_RECUT_OVERRIDES = 4 };

/* Stages for all workers that are not lost, and how the model is cut into them, as overrides; the arena's.
 *
 *   frugal  as little memory on the fullest worker as can be, instead of the shortest step
 *
 * DML_ERR_SPEC, DML_ERR_NOMEM  none fits: the trail says what is short */
dml_err dml_recut(const dml_plan *first, uint64_t lost, bool frugal, dml_arena *arena,
                  const char *override[DML_RECUT_OVERRIDES]);

/* "parallelism.lost=[1,3]"; the arena's. */
const char *dml_lost_override(uint64_t lost, dml_arena *arena);

#endif
