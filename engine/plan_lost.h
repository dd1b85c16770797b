/* engine/plan_lost.h - parallelism.lost: the plan's own cut and micro-batches, without some of its workers.
 *
 * What the lost ran goes to those who hold the same stages (schedule/reroute.h); nobody's number changes, and the lost
 * have nothing to do.  Gradients are summed up micro-batch by micro-batch, so in exact numerics not a bit changes.
 */
#ifndef DML_ENGINE_PLAN_LOST_H
#define DML_ENGINE_PLAN_LOST_H

#include "engine/plan.h"

/* `order`, that of all workers as if none were lost, becomes that of the others.  A synchronous one is made by the list
 * scheduler with the old as its priority: within the workers' limits, or where there are none, with what each kept
 * before in proportion to what it runs now.  An asynchronous one is the old, merged.
 *
 *   less_bytes  [workers] of each limit, to be left free: what an attempt before was over it by
 *   bound_ns    of a synchronous one: no order over the same routes is shorter; else 0
 *
 * DML_ERR_SPEC  a stage has no worker left, or no order fits their memory: the text starts with the place in the spec */
dml_err dml_plan_lose(const dml_plan *plan, const int64_t *less_bytes, dml_program *order,
                      int64_t *bound_ns);

/* Takes out of a lowered program what workers do that hold nothing: the votes of the lost. */
void dml_plan_drop_lost(const dml_plan *plan, dml_program *program);

#endif
