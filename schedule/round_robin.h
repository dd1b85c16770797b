/* schedule/round_robin.h - PipeDream over stages of unequal replica counts: 1F1B-RR.
 *
 * Narayanan et al., PipeDream (SOSP 2019, section 3.2).  With r_s replicas at stage s and R_s workers from stage s on
 * (R_s = r_s + r_(s+1) + ...):
 *
 *   micro-batch k    goes to replica k mod r_s, forward and backward: a backward finds its own stash
 *   warm-up          floor((R_s - 1) / r_s) forwards of a replica before its first backward
 *   versions         ceil(R_s / r_s) = warm-up + 1 of the weights
 *   admitted         ceil(R_0 / r_0) micro-batches for each replica of the first stage (NOAM)
 *   update u         of stage s: micro-batches u r_s .. + r_s - 1, one of each replica
 *   micro-batch k    reads version max(0, floor(k / r_s) - warm-up), forward and backward
 *
 * With equal counts this is the schedule pipedream, expanded.
 */
#ifndef DML_SCHEDULE_ROUND_ROBIN_H
#define DML_SCHEDULE_ROUND_ROBIN_H

#include "schedule/program.h"

/* replicas [stages], each >= 1. */
int32_t dml_round_robin_warm_up(const int32_t *replicas, int32_t stages, int32_t stage);
int32_t dml_round_robin_versions(const int32_t *replicas, int32_t stages, int32_t stage);
int32_t dml_round_robin_admitted(const int32_t *replicas, int32_t stages); /* NOAM */

/* The order of all workers, stage after stage, one chunk a stage, without votes, of `mbs` micro-batches between two drains.
 *   out   uninitialised before; owned by the caller, {0} on failure
 * DML_ERR_SPEC  a count is below 1, or does not divide mbs: the text says what would */
dml_err dml_round_robin_order(const int32_t *replicas, int32_t stages, int32_t mbs,
                              dml_program *out);

#endif
