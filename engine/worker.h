/* engine/worker.h - one device's part of a run: open, train, evaluate, report.
 *
 * Workers hold their stage, meet each other through transports, and need nobody to tell them what comes
 * next: the program says it.  They agree on each step's outcome by the vote.
 *
 * The plan may change at a step's end: the vote tells everyone at once, so all leave after the same step.  It changes in
 * the midst of one when others are lost; then the step ends the same way for all (docs/recovery.md).
 *
 *   step k | put state | all have: moved = g | close | make plan g | open at epoch g | get state | step k + 1
 *   ... fence | parked | settle step k | put state | ... the same
 */
#ifndef DML_ENGINE_WORKER_H
#define DML_ENGINE_WORKER_H

#include "comm/transport.h"
#include "engine/chunk.h"
#include "engine/control.h"
#include "engine/depot.h"
#include "engine/inject_strike.h"
#include "engine/plan.h"
#include "engine/trace.h"
#include "kernels/backend.h"

typedef struct dml_worker_config {
    const dml_plan *plan; /* the first; borrowed, as everything here, until run returns */
    int32_t rank;
    const dml_backend *backend;
    int32_t first_device; /* the run's devices count from this one */
    int32_t threads;      /* host threads for kernels, >= 1 */
    dml_control *control;
    dml_reporter reporter;
    /* what transports meet through: descriptors when workers are processes, hubs when they are threads */
    const int *data_fds, *vote_fds;
    void *data_hub, *vote_hub;
    const dml_trace
        *trace; /* of the first plan: where this worker records its part; NULL: nothing is traced */
    /* What changes of plan need, planned ones and recoveries: the two banks; all workers of the run that are there take
     * part in each plan, and those whom a plan gives nothing hold nothing and vote.  NULLs: the plan never changes. */
    dml_depot *bank[2];
    /* The loss of others is survived (failures.policy is not abort): a fence parks this worker, and it stays until it is
     * dismissed. */
    bool recovers;
    bool joins; /* the run is under way: it waits to be admitted to a plan */
    /* Where workers are threads: raised when this one is killed.  Its waits end, and it unwinds without a word to anybody.
     * NULL: a process, for which SIGKILL does that. */
    const _Atomic uint32_t *dead;
    /* Plan `generation`, which control->plan or control->move has announced; borrowed until the next call. */
    dml_err (*next)(void *context, uint32_t generation, const dml_plan **out);
    void *next_context;
    /* Looks at a chunk held, on this worker's thread and with its queues idle, before the first step and
     * after the last: for tests and tools.  NULL: nobody looks. */
    void (*inspect)(void *context, const dml_chunk *chunk, bool after);
    void *inspect_context;
    dml_striker *striker; /* faults that are asked for strike through it; NULL: none do */
    /* Takes the times of layers, of this worker's alone, which then runs its ops as single kernels, never as a graph.
     * For profiles, of plans with one version of the weights.  NULL: none are taken. */
    dml_probe *probe;
} dml_worker_config;

/* Runs the whole training; returns when it is over.  On failure a FAIL report has been sent.
 *
 * DML_ERR_PEER      another worker is gone and that is not survived, or the run was stopped
 * DML_ERR_DIVERGED  too many steps in a row were not finite
 * and whatever opening the device, the data or memory gave */
dml_err dml_worker_run(const dml_worker_config *config);

/* Descriptors a worker process is given after its report socket: control page, resolved spec, the two
 * banks, the newest plan's spec, then one data and one vote segment per rank, then the trace if there is one. */
enum { DML_WORKER_FD_CONTROL, DML_WORKER_FD_SPEC, DML_WORKER_FD_MORE };

/* main() of a worker process: `rank` and the supervisor's pid from the command line. */
int dml_worker_main(int32_t rank, int32_t supervisor_pid);

#endif
