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

/* The whole order of all workers as parallelism.order has it, checked; `out` as above.
 * DML_ERR_SPEC  it is no schedule, or one for another layout, the schedule is an asynchronous one, or the lost have work
 *               in it: the text starts with the place in the spec */
dml_err dml_plan_read_order(const dml_plan *plan, dml_program *out);

/* What each stage keeps per micro-batch, and what of its limit each worker of the routes has left for that.  Where
 * parallelism.stash_limit is the only limit, both count micro-batches. */
typedef struct dml_order_memory {
    int64_t *held_bytes;  /* [stages] */
    int64_t *limit_bytes; /* [workers] NULL: no limit */
} dml_order_memory;

/* Of routes over the plan's workers, or over those of one of equal pipelines; the arena's. */
dml_err dml_plan_order_memory(const dml_plan *plan, const dml_program *routes, bool split,
                              dml_arena *arena, dml_order_memory *out);

/* The same failure with the place of the limit in the spec, where it is one of memory. */
dml_err dml_plan_at_memory(const dml_spec *spec, dml_err err);

/* One line on what the spec asks for; the arena's. */
const char *dml_plan_order_doc(const dml_spec *spec, dml_arena *arena);

#endif
