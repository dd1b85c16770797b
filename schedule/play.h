/* schedule/play.h - plays an order or a program on a machine of in-order queues.
 *
 * An op starts when it heads its queue, its waits are done, and everyone it meets has come: a send
 * meets its receive (rendezvous), a REDUCE those of the other replicas, a VOTE all workers.  In an
 * order, which has no transfers yet, a value reaches another worker its transfer time after it is
 * made ("eager": links are never busy), and of an asynchronous one the reductions and votes take
 * part though they are no ops of it.  All of it is one acyclic graph, so one pass over it gives the
 * times: O(ops).
 *
 *   DML_MACHINE_LANES    the real one: a queue for each lane
 *   DML_MACHINE_STRICT   the narrowest that must do: one queue for compute, one for all
 *                        communication, as one NCCL communicator on one stream (rule `flows`)
 *   DML_MACHINE_LIST     one queue: the list, an op at a time; what dml_lower makes finishes here
 */
#ifndef DML_SCHEDULE_PLAY_H
#define DML_SCHEDULE_PLAY_H

#include "engine/base/arena.h"
#include "schedule/cost.h"
#include "schedule/program.h"

typedef enum dml_machine { DML_MACHINE_LANES, DML_MACHINE_STRICT, DML_MACHINE_LIST } dml_machine;

typedef struct dml_play {
    int32_t ops;
    int32_t reduce_first; /* asynchronous order: REDUCE of bucket b (dml_program_number_buckets) has
                           * number reduce_first + b                                        */
    int32_t vote_first;   /* likewise, when it votes: VOTE of update u vote_first + u       */
    int32_t *first;       /* [workers + 1] op i of worker w has number first[w] + i        */
    int64_t *start_ns;    /* [numbers]                                                     */
    int64_t *end_ns;      /* [numbers]                                                     */
    int32_t
        *depth; /* [numbers] steps that took no time, from the first op at the same start_ns: with
                        * (start_ns, depth) ascending every op comes after those it needs    */
} dml_play;     /* owned by the arena given to dml_play_run */

/* `p` is well-formed (rules `routed` and `once` of schedule/check.h), or an order whose backwards
 * dml_lower has cut and to which it has added optimizer steps; `cost` NULL: nothing takes time.
 *
 * Fails when nothing can move any more; the text starts with "flows:" and names the head of every
 * queue.
 * DML_ERR_SPEC  of an order; or `cost` has other chunks or buckets
 * DML_ERR_BUG   of a program */
dml_err dml_play_run(const dml_program *p, const dml_cost *cost, dml_machine machine,
                     dml_arena *arena, dml_play *out);

/* The same of a step that workers do not begin together. */
typedef struct dml_play_begin {
    const int64_t *worker_ns; /* [workers] nothing of a worker starts before; NULL: 0 */
    int64_t voted_ns; /* no VOTE and no STEP does before: the vote on the step before is over */
} dml_play_begin;
dml_err dml_play_from(const dml_program *p, const dml_cost *cost, dml_machine machine,
                      const dml_play_begin *begin, dml_arena *arena, dml_play *out);

/* The values that `op` (F, B or I) makes for other chunks, as the sends that would carry them: kind, edge, chunk and
 * micro-batch; returns how many.  Parts before the last make none. */
int32_t dml_play_values(const dml_program *p, const dml_op *op, dml_op out[1 + DML_CHUNK_SKIPS]);

/* Time that a value takes to the chunk that reads it: 0 on the same worker. */
int64_t dml_play_lag_ns(const dml_program *p, const dml_cost *cost, const dml_op *send);

#endif
