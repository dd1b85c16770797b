/* engine/balance.h - what measured loads say: how fast workers are, how even their work is, which shares would be even.
 *
 * Load balance by entropy (Le et al. 2022, FP-DCNN's DLBPCE, after its abstract; reconstruction): with p_i = t_i / sum t the
 * share of worker i in the work of a step,
 *
 *   E = - sum p_i ln p_i / ln n          0: one does everything      1: all are busy equally long
 *
 * A worker's speed is the time that its chunks take on a device of speed 1 over the time that they took it.  The former
 * is known where the spec says it (delays, costs).  Elsewhere the fastest holder of a stage counts as speed 1, and what
 * it took is what the stage takes: of replicas that differ the devices are to blame, of stages that differ the layers.
 */
#ifndef DML_ENGINE_BALANCE_H
#define DML_ENGINE_BALANCE_H

#include "engine/control.h"
#include "engine/plan.h"

/* E of n >= 1 loads >= 0; 1 where there is nothing to be uneven: one worker, or no load at all. */
double dml_balance_entropy(const double *load, int32_t n);

/* Whole shares of `mbs` micro-batches for workers that take mb_ns[i] > 0 for one: the largest share[i] mb_ns[i] is as
 * small as it can be with one micro-batch for each, so that nobody's speed is lost sight of.  One at a time goes to whom
 * it costs least time in all: for equal jobs on unequal machines that is optimal (an exchange of the last job of the slowest
 * one would have to find a place that greed had not).
 *
 *   share  [n] out, n <= mbs; of equals the first has more */
void dml_balance_shares(const double *mb_ns, int32_t n, int32_t mbs, int32_t *share);

/* What workers measured under a plan. */
typedef struct dml_measured {
    double *speed;          /* [plan->workers], the fastest about 1 */
    double *load_ns;        /* [plan->workers] compute of a step */
    const dml_costs *costs; /* of the layers, as measured; NULL: the spec's own stand */
} dml_measured;

/* Reads the loads of one window.
 *   load   [plan->workers] of worker i at i
 *   arena  owns what *out points to
 * False: some chunk was not measured (all steps of the window were skipped, or had no samples). */
bool dml_balance_measure(const dml_plan *plan, const dml_report_load *load, dml_arena *arena,
                         dml_measured *out);

#endif
