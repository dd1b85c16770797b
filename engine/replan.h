/* engine/replan.h - workers are lost: every way to go on without them, with its price, and the best of them.
 *
 *   what becomes of their work
 *     re-route                       other holders of their stages run it          parallelism.lost
 *     .. decoupled                   with backwards cut in two where that helps    parallelism.decoupled
 *     .. staggered                   and steps that do not wait for all            parallelism.staggered
 *   the damaged pipelines re-cut   over their own survivors                        parallelism.stages
 *   all re-cut                     over all survivors                              parallelism.stages
 *   pipelines dropped              the others run their micro-batches              parallelism.stages
 *   restart                        from the newest checkpoint, when the lost are back
 *
 * Micro-batches and their number stay: they are the numerics.  A plan is overrides of the run's first spec, so when all
 * are back it is the first plan again.
 *
 * The price of an option is the time of a step while the lost are away, H = failures.repair_time long, with what getting
 * there and back takes, t = transition_ns each way, spread over the steps:
 *
 *   expected_ns = step_ns H / (H - 2 t)
 *
 * Where every stage had two holders or more, and no state is kept elsewhere (failures.snapshot_interval), a plan that leaves a
 * stage to one is passed over for the cheapest that does not, if that costs at most DML_REPAIR_SAFE_TIMES as much.
 *
 * dml_replan_make plans only what may be the best: options are tried in the order of expected_ns with a bound of the
 * step in its place (schedule/list.h), until no bound is below the best price that was found.
 *
 * What a loss costs: with x of a stage's D holders lost each of the others runs x / (D - x) more.  The pipeline's own
 * idle time, P - 1 micro-batches of every worker, can take that up where
 *
 *   x M <= (D - x) (P - 1)          M: micro-batches of a step on each holder, all stages alike
 *
 * (Gandhi et al., ReCycle, SOSP 2024): no step need then be longer.  Whole backwards and a barrier after each step leave
 * part of that idle time out of reach.
 */
#ifndef DML_ENGINE_REPLAN_H
#define DML_ENGINE_REPLAN_H

#include "engine/recovery.h"
#include "engine/repair.h"

#define DML_REPAIR_SAFE_TIMES 1.1

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

/* How things stand when workers are lost; {0} will do. */
typedef struct dml_replan_input {
    const dml_plan *now; /* whose state is moved; borrowed; NULL: the first plan */
    bool clipping;    /* gradients were clipped lately: steps wait for the norm, staggered or not */
    uint32_t repairs; /* bits of those that may be chosen; 0: all */
} dml_replan_input;

/* One way to go on.  Text and times are the list's. */
typedef struct dml_repair_option {
    dml_repair repair;
    int32_t migrations;          /* workers that change their role, by parallelism.seats */
    const char *const *override; /* [n_overrides] of the first spec */
    int32_t n_overrides;
    const char *why; /* NULL: it can be done; else why not, and only bound_ns is known */
    dml_planned *
        planned; /* owned by the list; NULL: it cannot be done, was not tried, or changes no plan */
    int64_t bound_ns; /* no plan of the kind has a shorter step; 0: not known */
    int64_t step_ns;  /* predicted; 0: not tried, its bound is above another's price */
    int64_t
        transition_ns; /* from the loss to the first step after it, beyond what every option takes */
    int64_t expected_ns; /* of a step over failures.repair_time, see above */
    int64_t moved_bytes; /* state that workers receive */
    int32_t stash_peak;  /* most micro-batches that a worker keeps of F until its whole backward */
} dml_repair_option;

typedef struct dml_repair_options {
    dml_repair_option *option; /* [n] */
    int32_t n;
    int32_t best;      /* of those that can be done and may be chosen; -1: none */
    int64_t before_ns; /* a step of the first plan */
    dml_arena arena;   /* owns the texts */
} dml_repair_options;

/* All ways to go on without the lost, each planned and priced, none left out.
 *
 *   base_fd  text of first->spec as dml_spec_print writes it; stays where it is
 *   lost     [first->workers]
 *   input    NULL: {0}
 *   out      written only on success: dml_repair_options_free
 *
 * DML_ERR_PEER  nobody is left */
dml_err dml_replan_options(int base_fd, const dml_plan *first, const bool *lost,
                           const dml_replan_input *input, dml_repair_options *out);
/* The same, but an option whose bound is above the price of another is not planned: what dml_replan_make does. */
dml_err dml_replan_best(int base_fd, const dml_plan *first, const bool *lost,
                        const dml_replan_input *input, dml_repair_options *out);
void dml_repair_options_free(dml_repair_options *o);

/* The first plan's workers in `mask`, bit r: rank r, as [workers] flags; the arena's. */
bool *dml_lost_flags(const dml_plan *first, uint64_t mask, dml_arena *arena);

typedef struct dml_replan {
    dml_repair repair;
    int32_t migrations;
    dml_planned *
        planned; /* owned: dml_planned_free; NULL: the first plan.  planned->overrides is its text */
    bool bound_holds; /* for every stage of the first plan */
    /* Predicted, of a step, from what the plans assume; ratio: throughput after / before. */
    int64_t before_ns, after_ns;
    double ratio;
    int64_t transition_ns, moved_bytes;
    int64_t took_ns;
} dml_replan;

/* The best plan for the run without `lost`, bit r: rank r.
 *
 *   base_fd, input  as above
 *   out      written only on success.  The new spec's data is not looked at: dml_data_resolve_steps is the caller's
 *
 * DML_ERR_PEER   nobody is left, or they cannot hold the model: the trail says which stage is lost and why no other
 *                layout does */
dml_err dml_replan_make(int base_fd, const dml_plan *first, uint64_t lost,
                        const dml_replan_input *input, dml_replan *out);

/* Appends before and after side by side: step, throughput, bound of each stage, memory of each worker. */
void dml_replan_print(const dml_plan *first, uint64_t lost, const dml_replan *r, dml_str *out);

#endif
