/* engine/control.h - the page all processes of a run share, and what a worker tells the agent.
 *
 * The page is a memfd passed by descriptor, so nothing is left behind when anyone dies.  Reports are
 * fixed-size records over one SOCK_SEQPACKET pair per worker: a record is whole or absent.
 *
 * A worker is lost (docs/recovery.md):
 *
 *   agent    fence = g ......... all parked: who had voted? ... move g ... all saved ... moved = g ... all ready
 *   worker   every wait ends, PARKED .......................... settle, put, SAVED ..... close, open plan g, READY
 *
 * A plan changes because someone asked for it: the same from `move` on, and the vote says after which step.
 */
#ifndef DML_ENGINE_CONTROL_H
#define DML_ENGINE_CONTROL_H

#include "comm/beacon.h"
#include "engine/base/wait.h"
#include "engine/inject.h"
#include "engine/update.h"
#include "schedule/op.h"

enum { DML_HOST_WORKERS = 64, DML_MAX_HELD = 64, DML_TRAIL_BYTES = 2048 };

typedef enum dml_phase {
    DML_PHASE_START,
    DML_PHASE_TRAIN,
    DML_PHASE_EVAL,
    DML_PHASE_CHANGE,
    DML_PHASE_PARKED, /* the fence ended its step: it waits to be told how to go on */
    DML_PHASE_JOIN,   /* started while the run was under way: it waits for a plan that knows it */
    DML_PHASE_END,
} dml_phase;

/* Steps in a row, under one plan, neither clipped nor skipped, before staggered optimizer steps are made ahead of their vote. */
enum { DML_UNCLIPPED_STEPS = 10 };

/* The vote on a step, for the words below.  A step may take one of each, in this order. */
typedef enum dml_ballot_kind {
    DML_BALLOT_AHEAD, /* staggered: optimizer steps were made before it, and are undone unless it says commit, unclipped */
    DML_BALLOT_STEP,  /* optimizer steps wait for it */
    DML_BALLOT_REDO,  /* exact numerics: the same step again, with other scales */
    DML_BALLOT_KINDS,
} dml_ballot_kind;

static inline int64_t dml_ballot_of(int64_t step, dml_ballot_kind kind)
{
    return DML_BALLOT_KINDS * step + kind + 1;
}
static inline int64_t dml_ballot_step(int64_t ballot)
{
    return (ballot - 1) / DML_BALLOT_KINDS;
}
static inline dml_ballot_kind dml_ballot_kind_of(int64_t ballot)
{
    return (dml_ballot_kind)((ballot - 1) % DML_BALLOT_KINDS);
}

/* What the vote on `ballot` comes to, for everyone alike: as dml_vote_verdict, and DML_REDO where steps made ahead of it are
 * undone. */
static inline dml_err dml_ballot_verdict(int64_t ballot, const dml_vote *sum, dml_verdict *out)
{
    const dml_ballot_kind kind = dml_ballot_kind_of(ballot);
    DML_TRY(dml_vote_verdict(sum, kind == DML_BALLOT_REDO, out));
    if (kind == DML_BALLOT_AHEAD && (sum->clipped || *out != DML_COMMIT)) *out = DML_REDO;
    return DML_ERR_OK;
}

/* What one worker is doing; written by it alone, read by the agent, also when it is lost. */
typedef struct dml_worker_page {
    dml_beacon beacon;
    /* Vital signs, for engine/detect.h. */
    _Atomic int64_t beat_ns;  /* dml_clock_ns of its newest heartbeat; 0: none is to be expected */
    _Atomic int32_t beat_tid; /* of the thread that beats */
    _Atomic int32_t op_kind, op_chunk, op_mb; /* the compute op under way */
    _Atomic int64_t op_limit_ns; /* it is stuck when it takes longer; 0: nobody can say yet */
    _Atomic int64_t op_begin_ns; /* set last (release); 0: no op is under way */
    _Atomic int64_t worked_ns;   /* of the compute lane, in training steps so far */
    /* What becomes of the step under way.  Whoever contributed has its share of the reduced gradients; once one has
     * voted, all have contributed, and the step is committed whoever dies. */
    _Atomic int64_t
        contributed; /* ballot of the newest vote it took part in, set before the sum; 0: none */
    _Atomic int64_t voted; /* ballot of which `vote` is the sum; 0: none, or it is being written */
    dml_vote vote;
    _Atomic int64_t committed; /* steps whose outcome it has carried out */
    _Atomic uint32_t phase;    /* dml_phase */
    _Atomic int64_t step;      /* from 1; 0 before the first */
    _Atomic int64_t ops;       /* ops finished since the start: progress */
    _Atomic uint32_t last;     /* last compute op finished: dml_op_kind */
    _Atomic int32_t last_chunk, last_mb;
} dml_worker_page;

/* Where the state of a new plan comes from. */
typedef enum dml_source {
    DML_SOURCE_PEERS, /* every chunk's first live holder, which settles the step first, puts it into the bank */
    DML_SOURCE_BANK,  /* it lies there: a snapshot, what a broken move had put, or a checkpoint */
    DML_SOURCE_START, /* nothing was committed: initial weights */
} dml_source;

/* How everyone goes on: the agent's order.  Written while nobody reads it: all live workers are parked, or have never
 * heard of it; what announces it (generation, control->plan) is set after it. */
typedef struct dml_move {
    _Atomic uint32_t generation; /* of the plan to go on with, and the epoch it runs at */
    int32_t source;              /* dml_source */
    int32_t bank;                /* of the two depots */
    uint64_t stamp;              /* of what is put, or lies, there: engine/depot.h */
    uint64_t lost;               /* bit r: rank r is not there */
    int64_t step;                /* steps committed when it is carried out */
    int64_t
        ballot; /* PEERS: of `vote`, for those that lack it; 0: the step under way is discarded */
    dml_vote vote;
} dml_move;

/* control->fence when the run ends: every wait of everyone does. */
#define DML_FENCE_END UINT32_MAX

/* control->dismissed when all have ended: everyone puts the last state where control->snapshot says, and stays; nobody is
 * needed any more. */
enum { DML_DISMISS_SAVING = 1, DML_DISMISSED };

typedef struct dml_control {
    int64_t heartbeat_ns; /* between two of a worker; set before the first is started */
    _Atomic uint32_t
        fence; /* what works at an epoch below it ends, and is refused by transports; it only grows */
    _Atomic uint32_t stop; /* raised by the agent: stop after the current step */
    _Atomic uint32_t
        plan; /* generation of the newest plan there is; go on with it after the current step */
    _Atomic uint32_t
        snapshot; /* 2 n + bank, n from 1: put the state after the current step there; 0: none wanted */
    _Atomic uint32_t
        moved; /* generation up to which state is safe in a bank: workers may close what held it */
    _Atomic uint32_t dismissed; /* 0 while not all have ended */
    /* Who reported JOIN waits for its own: the first move that knows it, 0 until then.  From there on it is parked by a
     * fence like all others. */
    _Atomic uint32_t admitted[DML_HOST_WORKERS];
    dml_move move;
    dml_fault_board faults; /* asked for */
    dml_worker_page worker[DML_HOST_WORKERS];
} dml_control;

/* A memfd of the page, mapped; the caller closes *fd when all have it. */
dml_err dml_control_create(dml_control **out, int *fd);
dml_err dml_control_map(int fd, dml_control **out);
void dml_control_unmap(dml_control *control); /* NULL is fine */

const char *dml_phase_name(dml_phase phase);

typedef enum dml_report_kind {
    DML_REPORT_READY, /* transports are open, memory is there, shapes are prepared; again after a change of plan */
    DML_REPORT_STEP, /* rank 0, after each committed, skipped or redone step */
    DML_REPORT_LOAD, /* under balance: dynamic every worker, after every balance_interval steps */
    DML_REPORT_EVAL, /* rank 0 */
    DML_REPORT_END,  /* every worker, after the last step */
    DML_REPORT_FAIL, /* every worker that gives up */
    DML_REPORT_PARKED, /* every live worker after the fence was raised: nothing of its epoch runs here any more */
    DML_REPORT_SAVED, /* its part of a move, or of a snapshot, lies in the bank */
    DML_REPORT_JOIN, /* a worker started while the run is under way: it is ready for a plan that knows it */
    DML_REPORT_SUSPECT, /* a wait passed its deadline: who may be to blame; it goes on waiting for the fence */
    DML_REPORT_FAULT, /* a fault is injected here, now: sent before it strikes */
} dml_report_kind;

typedef struct dml_report_parked {
    uint32_t fence; /* that it has seen */
} dml_report_parked;

typedef struct dml_report_saved {
    uint32_t generation; /* of the move; 0: a snapshot */
    uint32_t snapshot;   /* control->snapshot that it answers */
    int64_t step;        /* steps committed in what was put */
    int64_t bytes;       /* put by this worker */
} dml_report_saved;

typedef struct dml_report_suspect {
    int32_t rank; /* -1: it cannot say */
    char why[256];
} dml_report_suspect;

typedef struct dml_report_fault {
    int32_t type; /* dml_fault_type of engine/inject.h */
    int64_t step; /* from 1 */
    int64_t at_ns;
    char text[128]; /* as it was asked for: "kill@step=20,rank=1" */
} dml_report_fault;

typedef struct dml_report_ready {
    uint32_t generation; /* of the plan that is run from here on; 0: the first */
} dml_report_ready;

typedef struct dml_report_step {
    int64_t step; /* from 1 */
    double loss;  /* mean over the step's samples */
    double grad_norm, lr;
    int64_t samples, correct;
    int64_t wall_ns;     /* from the end of the step before */
    int64_t at_ns;       /* dml_clock_ns of its end */
    uint32_t generation; /* of the plan under which it was committed */
    int32_t verdict;     /* dml_verdict */
    int32_t staggered;   /* 1: its optimizer steps did not wait for its vote */
    int32_t undone;      /* 1: they had not, were undone and made again */
    double loss_scale;
    double bubble; /* mean of the workers in this step: dml_sim_bubble of schedule/sim.h */
} dml_report_step;

typedef struct dml_report_eval {
    int64_t step;
    double loss;
    int64_t samples, correct;
    int64_t wall_ns;
} dml_report_eval;

/* What a chunk cost here: medians over the run's last steps. */
typedef struct dml_report_chunk {
    int32_t chunk;
    uint64_t weights_hash; /* engine/chunk.h; chunks add up to the model */
    int64_t fwd_ns, bwd_ns, bwd_input_ns, bwd_weight_ns, recompute_ns, reduce_ns, step_ns;
} dml_report_chunk;

/* What its chunks cost a worker: medians over the steps since its last such report. */
typedef struct dml_report_load {
    int64_t step; /* from 1 */
    uint32_t generation;
    int32_t n_chunks;
    dml_report_chunk chunk[DML_MAX_HELD]; /* no hashes */
} dml_report_load;

typedef struct dml_report_end {
    int64_t memory_bytes; /* what was allocated before step 0 */
    int64_t stash_bytes;  /* of all STASH and KEPT slots */
    int64_t busy_ns,
        wall_ns;        /* compute lane, over all training steps but the first, or the only one */
    int64_t exposed_ns; /* of one of them: exposed communication (schedule/sim.h); -1: not known */
    int32_t stash_peak; /* most micro-batches between F and B at once, counted while running */
    int32_t n_chunks;
    dml_report_chunk chunk[DML_MAX_HELD];
} dml_report_end;

typedef struct dml_report_fail {
    int32_t err; /* dml_err */
    char trail[DML_TRAIL_BYTES];
} dml_report_fail;

typedef struct dml_report {
    int32_t kind, rank;
    union {
        dml_report_ready ready;
        dml_report_step step;
        dml_report_load load;
        dml_report_eval eval;
        dml_report_end end;
        dml_report_fail fail;
        dml_report_parked parked;
        dml_report_saved saved;
        dml_report_suspect suspect;
        dml_report_fault fault;
    };
} dml_report;

/* How a worker reports: over its socket, or straight into the agent's state when workers are threads. */
typedef struct dml_reporter {
    dml_err (*put)(void *context, const dml_report *report);
    void *context;
} dml_reporter;

/* Sends a FAIL report of `err` with this thread's trail; there is nobody to tell when that fails. */
void dml_report_failure(const dml_reporter *to, int32_t rank, dml_err err);

/* Socket side.  DML_ERR_PEER  the other end is gone. */
dml_err dml_report_send(int fd, const dml_report *report);
/* The next report, which stays there; *got false: there is none yet, or the other end closed. */
dml_err dml_report_look(int fd, dml_report *out, bool *got);
/* *got false: the other end closed. */
dml_err dml_report_receive(int fd, dml_report *out, bool *got);

#endif
