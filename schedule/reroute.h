/* schedule/reroute.h - the same step without some of its workers.
 *
 *   3 replicas of a stage, worker 1 is lost    micro-batch  0 1 2 3 4 5 6 7 8
 *                                              worker       0 0 2 0 2 2 0 0 2
 *
 * Of each chunk the micro-batches of the lost go round robin to those who hold it, too: the k-th of them to holder
 * k mod n.  All others stay, and nobody gets a chunk that it did not hold.
 */
#ifndef DML_SCHEDULE_REROUTE_H
#define DML_SCHEDULE_REROUTE_H

#include "schedule/cost.h"
#include "schedule/program.h"

/* The routes of `order` without the lost: an order with no ops, and everything else as in `order`.
 *
 *   lost  [order->workers]
 *   out   uninitialised before, {0} on failure
 *
 * DML_ERR_SPEC  a chunk has lost all its holders: the text names them */
dml_err dml_reroute(const dml_program *order, const bool *lost, dml_program *out);

/* Fills `out`, which dml_reroute made from `order`: every op goes to the worker that its micro-batch is routed to, and
 * begins there in the order in which `order` begins them.  Each reads the version of the weights that it reads there.
 *
 * DML_ERR_SPEC  `order` cannot be played, or a version would not be made in time */
dml_err dml_reroute_ops(const dml_program *order, const dml_cost *cost, dml_program *out);

/* Most that a worker keeps at once between F and B (or W), along its list: held_bytes [chunks] of a micro-batch. */
int64_t dml_order_peak(const dml_program *order, int32_t worker, const int64_t *held_bytes);

#endif
