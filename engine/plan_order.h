/* engine/plan_order.h - the order that a spec asks for: by name, made for it, or from a file. */
#ifndef DML_ENGINE_PLAN_ORDER_H
#define DML_ENGINE_PLAN_ORDER_H

#include "engine/plan.h"

/* Equal pipelines: the order of one, plan->ranks workers, plan->stages chunks, mbs / replicas micro-batches.  Under
 * parallelism.stages: the whole order of all workers and micro-batches.
 *
 *   out       uninitialised before; owned by the caller, {0} on failure
 *   bound_ns  of `auto`: no order over the same placement is shorter; else 0
 *
 * DML_ERR_SPEC  no such schedule, or not for this layout; a file that cannot be read, is no schedule, or is of another
 *               size; parallelism.memory has no room for one micro-batch: the text starts with the place in the spec or the
 *               file */
dml_err dml_plan_order(const dml_plan *plan, dml_program *out, int64_t *bound_ns);

/* One line on what the spec asks for; the arena's. */
const char *dml_plan_order_doc(const dml_spec *spec, dml_arena *arena);

#endif
