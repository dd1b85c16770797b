/* schedule/lower.h - turns an order into a program. */
#ifndef DML_SCHEDULE_LOWER_H
#define DML_SCHEDULE_LOWER_H

#include "schedule/cost.h"
#include "schedule/program.h"

/* Adds to the compute ops of `order`, which stay in their order:
 *   - a SEND and a RECV wherever the route changes between neighbouring chunks, and between the ends of a skip;
 *   - parts: each worker's last weight gradient of a chunk with n > 1 buckets, in each update,
 *     becomes n ops;
 *   - REDUCE of each bucket on each worker that holds its chunk, after the last op that adds to it
 *     on any of them, so that replicas reduce in one order; one VOTE per worker, then STEP of each
 *     of its chunks, ascending, or first the STEPs where they are staggered (none of these when
 *     forward_only);
 *   - in an asynchronous order all that once per update: REDUCEs, if the order votes one VOTE per
 *     worker, and STEP of each chunk right before the first op that needs it done; `versions` and
 *     `sums`, the fewest together (schedule/lower_updates.c);
 *   - slots: the fewest with which no op waits for a slot in the predicted timeline;
 *   - waits: exactly those that lanes and other waits do not imply (schedule/depend.h).
 *
 * One global order of all events is the spine: every worker's list is its part of it, so every
 * data, slot and meeting dependency points backward in every list, and no machine of in-order
 * queues can stall, however wrong the predicted times are; a worker may even run its list one op
 * at a time.
 *
 *   order  passes dml_check; routes, spans, buckets, skips, ops
 *   cost   of the chunks, buckets and skips of `order`; decides the order of transfers and the slots,
 *          never correctness.  A forward-only order is timed by balanced costs instead: with the
 *          real ones a slow chunk's inputs would pile up before it, in slots that win no time
 *   out    uninitialised before; owned by the caller, {0} on failure
 *
 * DML_ERR_SPEC  `order` breaks a rule of the checker, or it is a program already, `cost` is not for
 *               it, or it needs more than 32767 slots in one pool */
dml_err dml_lower(const dml_program *order, const dml_cost *cost, dml_program *out);

#endif
