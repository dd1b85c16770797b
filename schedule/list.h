/* schedule/list.h - makes an order for any routes: the list scheduler, and the bound it is measured by.
 *
 * Where named schedules assume equal stages, this one looks at the costs: it plays the step forward in time and,
 * whenever a worker is free, gives it the op of the highest priority among those whose inputs are there.  A
 * priority is a few numbers (schedule/list.c); it tries a grid of them, then changes the best at random for the
 * trials that are left, and keeps the shortest order.  Same arguments, same order.
 *
 * An order for the same work on other workers, such as that before a worker was lost, can be given as priority:
 * tried first is its own line of ops, each worker taking those routed to it as they come.
 *
 * Memory is a hard limit: an F runs only while its worker can keep what it leaves and the oldest micro-batch
 * could still go through, so no order is ever stuck.
 */
#ifndef DML_SCHEDULE_LIST_H
#define DML_SCHEDULE_LIST_H

#include "schedule/cost.h"
#include "schedule/program.h"
#include "schedule/span.h"

/* Pointers are borrowed.
 *
 *   routes       workers, chunks, mbs, route table, spans, buckets, skips; ops are ignored.  Skips are handed on to the
 *                order; their own transfers are taken to arrive before the chain's
 *   cost         of as many chunks
 *   split        input and weight gradients are ops of their own
 *   held_bytes   [chunks] kept from F to B (or W) by a micro-batch; NULL: 1 each
 *   limit_bytes  [workers] most that may be kept at once; NULL: no limit
 *   priority     a complete order (or program) of as many chunks and mbs, on any workers; NULL: none.  Over its own
 *                routes, and within the limit, the result is that order or a shorter one
 *   trials       priorities tried, >= 1
 *   objective    what is short (schedule/span.h); 0 is the wall
 *   most_ops     ends the trials when they have played as many ops together, after the first that came to an end; 0: no
 *                limit.  A trial plays 2 or, split, 3 ops for each chunk and micro-batch */
typedef struct dml_list_args {
    const dml_program *routes;
    const dml_cost *cost;
    bool split;
    const int64_t *held_bytes;
    const int64_t *limit_bytes;
    const dml_program *priority;
    int32_t trials;
    dml_list_objective objective;
    int64_t most_ops;
} dml_list_args;

/* The best order found; `out` is uninitialised before, {0} on failure.  *length_ns: how long it is by the objective
 * (what dml_order_length gives for it), transfers without queues.
 *
 * DML_ERR_SPEC   a micro-batch has no worker for a chunk, costs are of another number of chunks, the priority is of
 *                another size, not complete, or cannot be played
 * DML_ERR_NOMEM  one micro-batch alone does not fit a worker: the text names it and the bytes */
dml_err dml_list_schedule(const dml_list_args *args, dml_program *out, int64_t *length_ns);

/* No order over these routes is shorter.  Of the wall the largest, over micro-batches and workers, of
 *
 *   a micro-batch's own way      all F, transfers and gradients, one after another
 *   first F + work + way out     a worker's work between the first moment it can begin and what must
 *                                still happen elsewhere after its last backward
 *   first backward + backwards + way out
 *
 * and of the span, of what lies between a worker's first op and its next step's:
 *
 *   work + reduction + step      all its ops, and of the chunk that ends last its reduction and optimizer step
 *   a round trip + them          a micro-batch from its F on the worker to its weight gradient there */
int64_t dml_list_bound_ns(const dml_list_args *args);

#endif
