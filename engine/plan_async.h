/* engine/plan_async.h - asynchronous schedules: what they ask of a spec, and how many steps lie between two drains. */
#ifndef DML_ENGINE_PLAN_ASYNC_H
#define DML_ENGINE_PLAN_ASYNC_H

#include "engine/plan.h"

/* Sets plan->updates; sizes of the pipeline are there.  Asynchronous: parallelism.drain_interval, 0 being as many steps
 * as take 64 micro-batches of a replica, but at least 8; no more than max_steps, or than eval_interval where that is
 * given in steps: evaluation drains, too.
 *
 * DML_ERR_SPEC  what asynchronous updates cannot do: numerics exact and precision fp16, which make a step again or
 *               leave it out after a look at all of its gradients; under pipedream, several micro-batches a replica in
 *               one update, and clipping by the global norm without vertical_sync; under pipedream_2bw, fewer of them
 *               than ranks */
dml_err dml_plan_updates(dml_plan *plan);

/* Whether the spec names an asynchronous schedule; with one step between drains it makes the updates of 1f1b. */
bool dml_plan_is_asynchronous(const dml_spec *spec);

/* Whether the updates of an asynchronous spec wait for a vote of all workers: to clip, or to leave out what is not finite.
 * That must cost no bubble: pipedream_2bw when it clips, pipedream with vertical_sync. */
bool dml_plan_votes(const dml_spec *spec);

#endif
