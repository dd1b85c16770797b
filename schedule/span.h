/* schedule/span.h - how long an order is: one step alone, or one of many whose optimizer steps are staggered.
 *
 *   wall                                     span
 *   worker 0  F . . B F . B   |              worker 0  F . . B F . B R U F . . B F . B R U
 *   worker 1    F B . F B     |              worker 1    F B . F B R U . . F B . F B R U
 *             |<--- wall --->|                         |<----- span ---->|
 *
 * The wall is the time from the first op to the last on any worker; reductions and optimizer steps are left out, since
 * no order changes them.  Where a chunk's optimizer step waits for its own reduction alone (staggered), a worker begins
 * the next step as soon as it has made its own: with every step like the one before, so much later, a step takes the
 * longest time between a worker's first op and its last optimizer step.  Its first op counts as late as all reductions
 * allow.  A reduction begins when the last holder's last weight gradient of the chunk has ended, less what buckets hide.
 */
#ifndef DML_SCHEDULE_SPAN_H
#define DML_SCHEDULE_SPAN_H

#include "schedule/cost.h"
#include "schedule/program.h"

typedef enum dml_list_objective { DML_LIST_WALL, DML_LIST_SPAN } dml_list_objective;

/* The length of an order that dml_check passes; transfers without queues.
 * DML_ERR_SPEC  costs of other chunks, or an order that cannot be played */
dml_err dml_order_length(const dml_program *order, const dml_cost *cost,
                         dml_list_objective objective, int64_t *length_ns);

#endif
