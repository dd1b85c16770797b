/* engine/replan.h - workers are lost: the plan of those who are left, and what it costs.
 *
 *   every stage has a holder left, and memory for it    its micro-batches go there (parallelism.lost)
 *   else                                                the model is cut anew over all who are left (parallelism.stages)
 *
 * Micro-batches and their number stay: they are the numerics.  A plan is overrides of the run's first spec, so when all
 * are back it is the first plan again.
 *
 * What a loss costs: with x of a stage's D holders lost each of the others runs x / (D - x) more.  The pipeline's own
 * idle time, P - 1 micro-batches of every worker, can take that up where
 *
 *   x M <= (D - x) (P - 1)          M: micro-batches of a step on each holder, all stages alike
 *
 * (Gandhi et al., ReCycle, SOSP 2024): no step need then be longer.  Whole backwards and a barrier after each step leave
 * part of that idle time out of reach, so a re-routed plan is slower by what its order shows.
 */
#ifndef DML_ENGINE_REPLAN_H
#define DML_ENGINE_REPLAN_H

#include "engine/recovery.h"

/* clang-format off */
/*    repair   text         what becomes of the work of the lost                                       */
#define DML_REPAIR_LIST(X)                                                                               \
    X(NONE,    "none")     /* nobody is lost                                                          */ \
    X(REROUTE, "re-route") /* other holders of their stages run it                                    */ \
    X(RECUT,   "re-cut")   /* the model has other stages                                              */
/* clang-format on */
typedef enum dml_repair {
#define X(repair, text) DML_REPAIR_##repair,
    DML_REPAIR_LIST(X)
#undef X
} dml_repair;
#define X(...) +1
enum { DML_REPAIRS = 0 DML_REPAIR_LIST(X) };
#undef X
const char *dml_repair_text(dml_repair repair); /* static */

/* Of one stage of the first plan. */
typedef struct dml_bound {
    int32_t holders, lost; /* D, x */
    int64_t more,
        idle; /* x M and (D - x) (P - 1), in passes of a stage: with several on a worker M for each */
} dml_bound;

dml_bound dml_replan_bound(const dml_plan *first, uint64_t lost, int32_t stage);
static inline bool dml_bound_holds(const dml_bound *b)
{
    return b->lost < b->holders && b->more <= b->idle;
}

typedef struct dml_replan {
    dml_repair repair;
    dml_planned *planned; /* owned: dml_planned_free; NULL: the first plan */
    bool bound_holds;     /* for every stage of the first plan */
    /* Predicted, of a step, from what the plans assume; ratio: throughput after / before. */
    int64_t before_ns, after_ns;
    double ratio;
    int64_t took_ns;
} dml_replan;

/* Plans for the run without `lost`, bit r: rank r.
 *
 *   base_fd  text of first->spec as dml_spec_print writes it; stays where it is
 *   out      written only on success.  The new spec's data is not looked at: dml_data_resolve_steps is the caller's
 *
 * DML_ERR_PEER   nobody is left, or they cannot hold the model: the trail says which stage is lost and why no other
 *                layout does */
dml_err dml_replan_make(int base_fd, const dml_plan *first, uint64_t lost, dml_replan *out);

/* Appends before and after side by side: step, throughput, bound of each stage, memory of each worker. */
void dml_replan_print(const dml_plan *first, uint64_t lost, const dml_replan *r, dml_str *out);

#endif
