/* engine/choose.h - plan: auto: of all layouts, schedules and micro-batch sizes the best that fits.
 *
 *   what the user wrote stays; open keys --> candidates --> a lower bound each --> best first, priced exactly
 *
 * A candidate is the spec with all open keys filled in.  Its price is its plan's: order, lowering, simulation, memory to
 * the byte, of one pipeline where pipelines are equal (dml_plan_make_one).  Candidates are priced in the order of their
 * bounds until no bound beats the best price, so the one chosen is the best of all candidates, as if each had been
 * priced.
 *
 *   objective    chosen
 *   throughput   the shortest step
 *   memory       the fewest bytes on the fullest worker, of those whose step is at most 1 + planner.slack of the shortest
 *   latency      the shortest way of one micro-batch through all stages and back, nothing else running
 *
 * Ties go to the shorter step, then to fewer bytes, then to the one listed first.
 */
#ifndef DML_ENGINE_CHOOSE_H
#define DML_ENGINE_CHOOSE_H

#include "engine/base/str.h"
#include "engine/spec.h"

typedef enum dml_fate {
    DML_FATE_OPEN,   /* not priced: its bound is no better than the best */
    DML_FATE_PRICED, /* fits */
    DML_FATE_MISFIT  /* `why` says what it lacks */
} dml_fate;

/* Where a worker's step goes, mean over all workers: they add up to the step. */
typedef struct dml_shares {
    double work_ns;      /* compute, recomputation aside */
    double recompute_ns; /* forwards run again */
    double exposed_transfer_ns,
        exposed_reduce_ns; /* what the step would be shorter were they free */
    double imbalance_ns;   /* what the busiest worker has more to do than the mean */
    double bubble_ns;      /* what is left: waiting for other stages' compute */
} dml_shares;

typedef struct dml_candidate {
    int32_t ranks, replicas, virtual_stages; /* of equal pipelines; ranks 0: stages are placed */
    const dml_stage_spec *stage;             /* [n_stages] placed, with `split` */
    int32_t n_stages;
    const int32_t *split; /* [n_stages] layers of each; NULL: as the spec says */
    int32_t workers, micro_batch;
    const char *schedule;
    dml_recompute recompute;
    int64_t bound_ns; /* no step of it is shorter */
    int64_t way_ns;   /* objective latency: of one micro-batch */
    dml_fate fate;
    const char *why; /* MISFIT */
    /* PRICED */
    int64_t step_ns, bytes,
        limit_bytes; /* of the worker nearest to its limit, or with most bytes; limit 0: none */
    int32_t fullest; /* that worker, as in its plan: with equal pipelines its rank */
    int32_t busiest, busiest_stage;
    double busy; /* share of the step in which the busiest worker computes */
    dml_shares share;
} dml_candidate;

typedef struct dml_choice {
    dml_candidate *ranked; /* [n] the best first; then those with a bound alone, then misfits */
    int32_t n, n_priced, n_misfit;
    int64_t took_ns;
    const char *text; /* of the plan (engine/plan_file.h) */
    dml_arena arena;  /* owns all */
} dml_choice;

typedef struct dml_choose_options {
    bool all; /* price every candidate */
    /* Called now and then with how many of n are priced; NULL: nobody listens. */
    void (*progress)(void *ctx, int32_t priced, int32_t n);
    void *ctx;
} dml_choose_options;

/* Chooses for a spec with plan: auto.
 *
 *   options  NULL: none
 *   out      dml_choice_free; written only on success
 *
 * DML_ERR_SPEC  no candidate fits: the trail has the reason of the one that would be fastest; or nothing says how many
 *               workers there are */
dml_err dml_choose(const dml_spec *spec, const dml_choose_options *options, dml_choice *out);
void dml_choice_free(dml_choice *choice);

/* Turns a spec with plan: auto into the one it chooses; leaves others alone.  Errors as dml_choose. */
dml_err dml_choose_resolve(dml_spec *spec);

/* The spec of a candidate; borrows from both, never freed. */
dml_spec dml_candidate_spec(const dml_spec *spec, const dml_candidate *c);

/* Appends the ranking, `rows` of it (0: all), those that do not fit, and why the first is first. */
void dml_choice_print(const dml_spec *spec, const dml_choice *choice, int32_t rows, dml_str *out);

#endif
