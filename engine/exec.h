/* engine/exec.h - runs a program on one worker.
 *
 * The executor is one switch with one case per op kind.  It issues the ops of its worker in list order from
 * one thread: each op is a job on its lane's queue, waits are events.  All waits point backward in the
 * list (rule `waits` of the checker), so issuing never deadlocks whatever the real timings.
 *
 * Everything is resolved to pointers when the executor is made; a step allocates nothing.
 */
#ifndef DML_ENGINE_EXEC_H
#define DML_ENGINE_EXEC_H

#include "comm/transport.h"
#include "engine/chunk.h"
#include "engine/control.h"
#include "engine/data_loader.h"
#include "engine/graphs.h"
#include "engine/inject_strike.h"
#include "engine/trace.h"
#include "engine/update.h"
#include "schedule/program.h"

/* One chunk that this worker holds, or one skip that it receives from, with its slots: pool p has as many buffers as the
 * programs say, of bytes[p] each. */
typedef struct dml_held {
    dml_chunk *chunk;
    dml_update *update;
    dml_group *replicas; /* of the data transport */
    int32_t n_replicas;
    char *pool[DML_POOLS];
    int64_t bytes[DML_POOLS];
    /* Loaded batches go with the slots that forwards write: first those of KEPT, then, where some forward writes
     * one, those of STASH.  Both programs count kept_slots. */
    int32_t kept_slots;
    char *input;     /* first chunk: bytes[IN] each; else NULL */
    int32_t *labels; /* last chunk: [micro_batch_size] each; else NULL */
} dml_held;

/* What an optimizer step is told. */
typedef struct dml_exec_update {
    double norm, lr; /* as dml_update_commit */
    int64_t samples;
    bool skip;  /* the verdict was not to make it */
    float pace; /* dml_step_words, for micro-batches that are its */
} dml_exec_update;

typedef struct dml_exec_config {
    const dml_program *program; /* lowered and checked; borrowed, as everything here */
    int32_t worker;
    const dml_backend *backend;
    dml_device *device;
    dml_queue *const *lane; /* [DML_LANES] */
    dml_queue *load; /* batches are copied on it: the compute lane when the device is the host's
                                 * memory, else one of its own */
    dml_kctx *compute, *reduce; /* contexts of the compute and reduce lanes */
    const dml_transport_api *comm;
    dml_transport *transport;
    dml_held *held; /* [ports] chunk NULL where not held; of a skip's only pools IN and DY */
    dml_loader *images, *labels; /* NULL where not needed */
    dml_worker_page *page;       /* progress is published here */
    dml_graphs
        *graphs; /* compute ops are captured into it and replayed; NULL: submitted each time */
    const dml_recorder *recorder; /* of the program; NULL: no step is traced */
    dml_striker *striker;         /* faults strike before ops; NULL: none do */
    int64_t timeout_ns;           /* for one wait */
    /* Asynchronous programs that vote: the job of V, on the reduce lane, for one update; fills norm and skip. */
    dml_err (*vote)(void *context, int32_t update, dml_exec_update *out);
    void *vote_context;
} dml_exec_config;

typedef struct dml_exec dml_exec;

/* Sums of what the compute lane did, since the last reset. */
typedef struct dml_exec_times {
    int64_t busy_ns;    /* compute ops, optimizer steps, too, and what begins each step */
    int64_t exposed_ns; /* exposed communication (schedule/sim.h); 0 where jobs only enqueue, and
                         * with transports that do not know when peers have met */
    int32_t stash_peak; /* most micro-batches between F and B (or W) at once */
} dml_exec_times;

dml_err dml_exec_new(const dml_exec_config *config, dml_arena *arena, dml_exec **out);
void dml_exec_close(dml_exec *x); /* releases events; NULL is fine */

/* Issues every op up to VOTE or the first optimizer step (all of them in a forward-only program, which computes in
 * evaluation mode) and waits until they have run.
 *
 *   words  what kernels read of the step
 *   rows   [mbs] samples of each micro-batch: ops of a micro-batch without samples and their transfers do nothing,
 *          on both sides; borrowed until the step's commit
 *
 * Errors name the op: the one whose call failed or, when the device says it later, the first not known to be done. */
dml_err dml_exec_run(dml_exec *x, const dml_step_words *words, const int32_t *rows);

/* Issues the ops after those: the optimizer steps.  Again, after an error and a renewal of the queues: those that have
 * not been made. */
dml_err dml_exec_commit(dml_exec *x, double norm, int64_t samples, double lr);

/* The vote, which is the caller's, began then, all had come at met_ns, and it is over since end_ns if that is not 0. */
void dml_exec_voted(dml_exec *x, int64_t begin_ns, int64_t met_ns, int64_t end_ns);

/* An asynchronous program from drain to drain: all of its ops, of `n` of its updates, which are those of steps
 * words->step, + 1, ...; then the newest weights are in buffer 0, and what judges read of each update has been fetched.
 *   rows    [mbs] none from micro-batch n update_mbs on
 *   update  [n] lr and samples of each; copied
 * Errors as dml_exec_run. */
dml_err dml_exec_run_updates(dml_exec *x, const dml_step_words *words, const int32_t *rows,
                             const dml_exec_update *update, int32_t n);

dml_exec_times dml_exec_take_times(dml_exec *x);

/* Median time of an op kind of a chunk over the last steps, 0 when it did not run.  The parts of an op count as
 * one, and so do the reductions of a step. */
int64_t dml_exec_median_ns(const dml_exec *x, dml_op_kind kind, int32_t chunk);

/* The same over what ran since the window began: when the executor was made, or the newest call of begin_window. */
int64_t dml_exec_window_ns(const dml_exec *x, dml_op_kind kind, int32_t chunk);
void dml_exec_begin_window(dml_exec *x);

/* Jobs, waits and copies a queue must hold for one step of the program. */
int32_t dml_exec_queue_capacity(const dml_program *program, int32_t worker);

#endif
