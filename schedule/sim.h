/* schedule/sim.h - a program on its real lanes, with time.
 *
 * Machine: schedule/play.h, DML_MACHINE_LANES.  Durations: schedule/cost.h.  An order can be
 * simulated too: its transfers are then eager, and its times are what dml_lower sorts by.
 */
#ifndef DML_SCHEDULE_SIM_H
#define DML_SCHEDULE_SIM_H

#include "engine/base/arena.h"
#include "schedule/cost.h"
#include "schedule/program.h"

/* Exposed communication: time in which a worker's compute lane stands still and the lane that its next op waits for
 * has data on the move.
 *
 *   compute   F0 |........ idle .......| F1        F1 waits for its RECV.  While that waits for the peer's compute
 *   recv         |   peer   |== RECV ==|           nothing moves, and under a compute op a transfer is hidden
 *                             exposed
 *
 * Of the waits of a compute op the one that ends last counts, with what its lane does before it.  So a receive that a
 * pipeline waits for is exposed for latency_ns + bytes / bytes_per_s, gradients that are reduced after the last backward
 * for as long as the ring takes, and of a queue of transfers all that compute cannot cover. */

/* When each op of a step began and ended, and what that comes to: simulated, or measured. */
typedef struct dml_sim {
    dml_arena arena; /* owns what follows                                              */
    int32_t workers;
    int32_t *first;      /* [workers + 1] op i of worker w has number first[w] + i         */
    int64_t *start_ns;   /* [ops] by number; the first op of all starts at 0               */
    int64_t *end_ns;     /* [ops]                                                          */
    int64_t makespan_ns; /* end of the last op                                             */
    int64_t *busy_ns;    /* [workers] sum of its compute ops                               */
    int64_t *exposed_ns; /* [workers] exposed communication; 0 of an order, which has none,
                          * and of times by a clock, which show the wait for peers, too    */
    int32_t
        *peak_stash; /* [workers] most (chunk, micro-batch) pairs kept at once, from the start of
                          * F to the end of B (or W); with v chunks on the worker 1/v of its share
                          * of the model each.  Forward-only: 0 */
} dml_sim;

/* `p` has passed dml_check; `out` is uninitialised before and {0} on failure.
 * DML_ERR_SPEC, DML_ERR_BUG  it stalls (an unchecked program): the trail names every lane's head */
dml_err dml_simulate(const dml_program *p, const dml_cost *cost, dml_sim *out);

/* Time from one step to the next when many follow each other: the makespan, but where they are staggered.  There a
 * worker begins the next step once its own ops are over, the vote aside, and an optimizer step waits for the vote on the
 * step before: what remains in the long run is the time of the slowest cycle of waits.
 *
 *   stage 0   F F F F . . B . B . B . B U | F F F F . . B ...
 *   stage 1     F B F B F B F B . . . U |     F B F B ...       it begins later, and so it may end later
 *
 * Errors as dml_simulate. */
dml_err dml_simulate_period(const dml_program *p, const dml_cost *cost, int64_t *out_ns);

/* The same of times from elsewhere, such as a clock.
 *   start_ns, end_ns  [ops] by number, from any origin: here the first compute op of all starts at 0, and what
 *                     began before it as well.  An op that did not run has end_ns 0: it takes no time here */
void dml_sim_of_times(const dml_program *p, const int64_t *start_ns, const int64_t *end_ns,
                      dml_sim *out);

void dml_sim_free(dml_sim *sim);

/* The bubble: the part of the step, from its first op on any worker to its last on any worker, in which this worker's
 * compute lane is idle: 1 - busy / makespan, as GPipe and Zero Bubble report it (Megatron's (p - 1) / m divides by
 * the busy time).  0 when nothing takes time. */
double dml_sim_bubble(const dml_sim *sim, int32_t worker);

/* Most buffers of one pool, all chunks together, that are in use at once on the worker in this
 * timeline of a program (not of an order): from the start of the op that writes one to the end of
 * the last that uses it.  At most the slots the program holds for them. */
int32_t dml_sim_peak_slots(const dml_sim *sim, const dml_program *p, int32_t worker, dml_pool pool);

#endif
