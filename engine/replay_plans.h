/* engine/replay_plans.h - the plans of a replay: of a spec, without any of its workers, each made once. */
#ifndef DML_ENGINE_REPLAY_PLANS_H
#define DML_ENGINE_REPLAY_PLANS_H

#include "engine/plan.h"
#include "engine/replay.h"

typedef struct dml_replay_plans dml_replay_plans;

/* The spec's own plan, and a planner for those who are left of it.
 *
 *   spec         borrowed until closed; its plan is not to be chosen any more
 *   state_bytes  of the whole model, dealt to its layers by the time they take; 0: what they have
 *
 * DML_ERR_SPEC  it has no plan, no equal pipelines (parallelism.stages), several optimizer steps at once, or more
 *               workers than a replay knows */
dml_err dml_replay_plans_open(const dml_spec *spec, int64_t state_bytes, dml_replay_plans **out);
void dml_replay_plans_close(dml_replay_plans *plans); /* NULL is fine */

/* Both as long as it is open. */
const dml_replay_planner *dml_replay_plans_planner(const dml_replay_plans *plans);
const dml_plan *dml_replay_plans_first(const dml_replay_plans *plans);

#endif
