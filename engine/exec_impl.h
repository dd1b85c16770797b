/* engine/exec_impl.h - the executor's inside: ops with their operands found, and what its files share.
 *
 *   exec_resolve.c  op -> pointers         exec_load.c   micro-batches from the loaders' rings
 *   exec_op.c       one op                 exec_times.c  how long ops took, what is done
 *   exec.c          issuing a step        exec_strike.c  faults on purpose
 *
 * The same ops on two kinds of device.  Where jobs run on the queue's thread (the host), a job takes its own
 * time and loads its own batch.  Where a job only enqueues (a GPU), events stamp begin and end of an op, loading
 * has a queue of its own, and compute ops are replays of what was captured once:
 *
 *   load      copy mb 2 | copy mb 3 ...            waits until the slot's last reader is done
 *   compute        begun [F.2 replay] done         waits for `loaded`
 */
#ifndef DML_ENGINE_EXEC_IMPL_H
#define DML_ENGINE_EXEC_IMPL_H

#include "engine/exec.h"
#include "schedule/index.h"

enum { DML_EXEC_SAMPLES = 256 }; /* durations kept per (kind, chunk) for the median */

/* An op with its operands found.  Pointers are NULL where the op has no such operand. */
typedef struct dml_resolved {
    dml_exec *x;
    const dml_op *op;
    dml_held *held;
    dml_chunk
        *chunk; /* held->chunk, or its view of the weights and the update that the op is about */
    int32_t update;     /* of the run, from 0; 0 in a synchronous program */
    dml_chunk_io io;    /* of the chunk's calls; its lists are the arena's */
    void *stash, *kept; /* likewise */
    int32_t *labels;    /* of a forward with the loss, the first or the second time */
    void *wire;         /* what a transfer sends or fills */
    int64_t row_bytes;  /* of a transfer: bytes per sample */
    uint32_t tag;
    bool
        first; /* adds the first weight gradient of its update of the chunk, or part of it, in the list */
    bool loads;      /* a forward that reads a loaded batch */
    bool recomputed; /* the op's micro-batch is */

    int32_t vouched; /* RECV_GRAD: the send that its gradient proves done, DML_NO_WAIT */
    int64_t met_ns,
        moved_ns; /* of a transfer or a collective on the host: since when data moved, 0 not known, and
                                * until when; the lane's own until the op is done */
    dml_event *done;           /* when another lane waits for it, or its time is taken by events */
    dml_event *begun, *loaded; /* NULL on the host */
    int32_t slot_reader;       /* loads: the op that read the slot before, DML_NO_WAIT */
    dml_replay *replay;        /* full micro-batches; NULL: submit the job */
} dml_resolved;

typedef struct dml_durations {
    int64_t ns[DML_EXEC_SAMPLES];
    int64_t count, window; /* so far; when the window began */
    int64_t parts_ns;      /* of the op under way that is in parts: they count as one */
    int64_t limit_ns;      /* an op that takes longer is stuck; 0: too early to say */
} dml_durations;

/* Loaded batches whose copy may still read the loader's ring, oldest first. */
typedef struct dml_flights {
    dml_resolved **op; /* [list->n] those of this step */
    int32_t begin, end;
    int32_t images, labels; /* buffers held of each loader */
} dml_flights;

struct dml_exec {
    dml_exec_config c;
    const dml_op_list *list;
    dml_resolved *op; /* [list->n] */
    int32_t vote;     /* index of VOTE; list->n when there is none */
    int32_t end; /* of the ops of dml_exec_run: from here on vote and steps; list->n likewise */
    dml_durations *took;                /* [DML_OP_KINDS][chunks] */
    dml_event *step_begun, *step_ready; /* around what begins a step; NULL on the host */
    dml_flights flights;

    /* of the step under way; set before its jobs are issued */
    dml_step_words words;
    const int32_t *rows;
    dml_exec_update *update; /* [most updates of a chunk] */
    int32_t updates;         /* of them, those of this run */
    int32_t collected;       /* ops before it are known to be done; not on the host */
    dml_trace_span *span;    /* [list->n + 1] where they are recorded; NULL: nowhere */
    int64_t begun_ns;        /* when step_begun was submitted */

    int64_t
        reduce_met_ns; /* the reduce lane's own: all members had come to its op's first call; 0: not yet */

    /* the compute lane's own */
    int64_t idle_since_ns; /* its newest job ended */
    int64_t step_words;    /* the step that its context has been told */
    int32_t stash_live;
    _Atomic int32_t stash_peak;
    _Atomic int64_t busy_ns, exposed_ns;
};

static inline const dml_device_api *dml_exec_device(const dml_exec *x)
{
    return x->c.backend->device;
}

/* Whether jobs run on their queue's thread, when their turn comes. */
static inline bool dml_exec_on_host(const dml_exec *x)
{
    return x->c.backend->on_host;
}

/* A micro-batch without samples makes no work, and neither does an update that a shorter run leaves out. */
static inline bool dml_exec_has_work(const dml_resolved *r)
{
    const bool has_mb = dml_op_info_of((dml_op_kind)r->op->kind)->has_mb;
    return has_mb ? r->x->rows[r->op->mb] > 0 : r->update < r->x->updates;
}

/* ---- exec_resolve.c ---- */

/* Finds the operands of every op of the list, and what it is about; DML_NEW'd tables come from the arena. */
void dml_exec_resolve(dml_exec *x, dml_arena *arena);

/* ---- exec_op.c ---- */

/* Runs one op inside a job of its lane; errors carry its name. */
dml_err dml_exec_op(const dml_resolved *r);

/* Before a compute op, on its lane: kernels are told the step that it is about. */
dml_err dml_exec_tell_step(const dml_resolved *r);

/* The op on a full micro-batch, as it will be replayed: a dml_job, arg a dml_resolved. */
dml_err dml_exec_capture_job(void *arg);

/* Counts micro-batches between forward and the end of their stash, in the order of the compute lane. */
void dml_exec_count_stash(const dml_resolved *r);

/* ---- exec_strike.c ---- */

/* Before an op, where it is issued or where it runs: faults that are for it. */
dml_err dml_exec_strike_op(dml_resolved *r, dml_queue *queue);
static inline dml_err dml_exec_strike(dml_resolved *r, dml_queue *queue)
{
    return dml_striker_wants(r->x->c.striker) ? dml_exec_strike_op(r, queue) : DML_ERR_OK;
}

/* A compute op that began at begin_ns is over: what a slow worker takes longer.  Where jobs only enqueue, before it,
 * by what it took before. */
void dml_exec_drag(const dml_resolved *r, int64_t begin_ns);

/* ---- exec_load.c ---- */

/* Queues the load of the op's micro-batch and makes the compute lane wait for it. */
dml_err dml_exec_load(dml_resolved *r);

/* Gives back every buffer; all copies have run. */
void dml_exec_land(dml_exec *x);

/* ---- exec_times.c ---- */

/* The op runs since begin_ns, until end_ns if that is not 0: into the trace, if there is one. */
void dml_exec_record(const dml_resolved *r, int64_t begin_ns, int64_t end_ns);

/* The compute op runs from begin_ns on: into the worker's vital signs, until dml_exec_leave. */
void dml_exec_enter(const dml_resolved *r, int64_t begin_ns);
void dml_exec_leave(const dml_resolved *r);

/* The op took `ns`: into durations and progress. */
void dml_exec_took(dml_exec *x, const dml_op *op, int64_t ns);

/* On the host: data of the op has moved until end_ns. */
void dml_exec_moved(dml_resolved *r, int64_t end_ns);
/* Before a compute op on the host, on its lane: what of the lane's idle time was exposed (schedule/sim.h). */
void dml_exec_count_exposed(const dml_resolved *r, int64_t begin_ns);

/* The compute lane worked for `ns`. */
void dml_exec_was_busy(dml_exec *x, int64_t ns);

/* Takes the times of ops that are done, in list order up to `end`; waits for each at most patience_ns, with 0 it
 * only looks.  Errors name the first op not known to be done. */
dml_err dml_exec_collect(dml_exec *x, int32_t end, int64_t patience_ns);

/* The same for what began the step, when all has run. */
dml_err dml_exec_collect_begin(dml_exec *x);

#endif
