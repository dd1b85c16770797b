/* engine/plan_lost.h - the plan's own cut and micro-batches, with workers in other places, or without some of them.
 *
 * parallelism.seats says whose place each worker takes; parallelism.lost, who is not there.  What the lost ran goes to
 * those who hold the same stages (schedule/reroute.h); nobody's number changes, and the lost have nothing to do.
 * Gradients are summed up micro-batch by micro-batch, so in exact numerics not a bit changes.
 */
#ifndef DML_ENGINE_PLAN_LOST_H
#define DML_ENGINE_PLAN_LOST_H

#include "engine/plan.h"

/* Gives each worker what its place does in `order`, which knows places: lists and routes. */
void dml_plan_seat(const dml_plan *plan, dml_program *order);

/* `order`, that of all workers as if none were lost, becomes that of the others.  A synchronous one is made by the list
 * scheduler with the old as its priority: within the workers' limits and parallelism.stash_limit, or where there are
 * none, with what each kept before in proportion to what it runs now.  Under parallelism.staggered short is what takes
 * little time from step to step (schedule/span.h).  Under parallelism.decoupled backwards are cut in
 * two where that makes it shorter, and without limits anyone keeps what it takes.  An asynchronous order is the old,
 * merged.
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
