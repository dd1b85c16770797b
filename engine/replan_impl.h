/* engine/replan_impl.h - what the parts of engine/replan.c say to each other.
 *
 *   replan.c            proposals -> bounds -> plans -> prices -> the best
 *   replan_norm.c       which places should bear the losses: re-routes, as they are and normalised
 *   replan_help.c       copies of damaged stages on workers of others
 *   replan_cut.c        another cut over all who are left
 *   replan_pipeline.c   damaged pipelines cut anew, or dropped
 *   replan_price.c      what moves, and how long that takes
 */
#ifndef DML_ENGINE_REPLAN_IMPL_H
#define DML_ENGINE_REPLAN_IMPL_H

#include "engine/control.h"
#include "engine/plan.h"
#include "engine/replan.h"

enum { DML_REPAIR_OPTIONS = 32 }; /* proposals at most */

typedef struct dml_replan_case {
    const dml_plan *first; /* borrowed */
    const bool *lost;      /* [first->workers] borrowed */
    dml_replan_input input;
    dml_repair_options *out;
} dml_replan_case;

/* Proposes a way to go on: `override` [n], texts of the arena out->arena, with "parallelism.lost=.." among them.
 * bound_ns: no plan made of them has a shorter step, 0 when nothing is known: the closer, the fewer plans are made.
 * `why` NULL, or why there is none of the kind (then n is 0). */
void dml_replan_propose(const dml_replan_case *c, dml_repair repair, int32_t migrations,
                        const char *const *override, int32_t n, int64_t bound_ns, const char *why);

/* Proposes what there is of its kind, or says why there is nothing.  Failures that another layout may not have
 * (DML_ERR_SPEC, DML_ERR_NOMEM) become proposals with `why`: only others are returned. */
dml_err dml_propose_reroutes(const dml_replan_case *c);
dml_err dml_propose_helped(const dml_replan_case *c);

/* Bytes of state that workers of `next` hold and did not hold under `now`, or have lost; and how long that takes. */
int64_t dml_replan_moved_bytes(const dml_plan *now, const dml_plan *next, const bool *lost);
int64_t dml_replan_transition_ns(const dml_plan *next, int64_t moved_bytes);

/* ---- other cuts: replan_cut.c, replan_pipeline.c ---- */

enum { DML_RECUT_OVERRIDES = 8 };

/* Stages for all workers that are not lost, and how the model is cut into them, as overrides; the arena's, the rest NULL.
 *
 *   lost    [first->workers]
 *   frugal  as little memory on the fullest worker as can be, instead of the shortest step
 *   bound_ns  out: what whoever has most to do takes for it; no step of this cut is shorter
 *
 * DML_ERR_SPEC, DML_ERR_NOMEM  none fits: the trail says what is short */
dml_err dml_recut(const dml_plan *first, const bool *lost, bool frugal, dml_arena *arena,
                  const char *override[DML_RECUT_OVERRIDES], int64_t *bound_ns);

/* "parallelism.lost=[1,3]"; the arena's. */
const char *dml_lost_override(const dml_plan *first, const bool *lost, dml_arena *arena);

/* The first line of the trail, without the place in our sources or in the spec: for `why`. */
const char *dml_replan_reason(dml_arena *arena);

#endif
