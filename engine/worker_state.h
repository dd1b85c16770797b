/* engine/worker_state.h - what a worker holds between its two halves: setting up, and running. */
#ifndef DML_ENGINE_WORKER_STATE_H
#define DML_ENGINE_WORKER_STATE_H

#include "engine/exec.h"
#include "engine/worker.h"

/* One allocation, handed out in parts. */
typedef struct dml_slab {
    char *base;    /* owned by the worker; NULL while only counting */
    int64_t bytes; /* handed out so far; in the end its size */
} dml_slab;

/* A data split and its loaders; a loader is NULL where this worker does not need that part. */
typedef struct dml_feed {
    dml_data *data;
    void *images_ring, *labels_ring; /* of the host slab */
    dml_loader *images, *labels;
} dml_feed;

/* What a chunk and its update are bound to. */
typedef struct dml_chunk_memory {
    void *shared;             /* the transport's */
    void *private_, *partial; /* of the state slab */
    void *readback;           /* of the host slab */
} dml_chunk_memory;

/* What a worker runs between two changes of plan. */
typedef struct dml_tenure {
    const dml_plan *plan;  /* borrowed; NULL: none yet, it has joined a run that is under way */
    uint32_t generation;   /* of the plan; 0: the first */
    uint64_t lost;         /* bit r: rank r is not there */
    const dml_depot *from; /* where state lies; NULL: it begins with initial weights */
    int64_t first_step;    /* from 0 */
} dml_tenure;

/* What outlives a tenure. */
typedef struct dml_kept {
    void *
        choices; /* [choices_bytes] of kernel algorithms, made once for the run; owned; NULL: none */
    int64_t choices_bytes;
    uint64_t cut; /* for which they were made: a hash of the plan's chunks; 0: they are not whole */
} dml_kept;

typedef struct dml_worker {
    const dml_worker_config *config; /* borrowed */
    dml_tenure tenure;
    const dml_plan *plan; /* the tenure's */
    int32_t processes;    /* workers of the run, whatever the plan */
    int32_t present;      /* of them, those that are there */
    int32_t working;      /* of those, the ones that the plan gives something to hold */
    bool *absent;         /* [processes] those that are not there */
    bool idle;            /* it holds nothing in this plan, has no executors, and votes */
    bool leads;     /* the lowest rank that is there: it speaks for all, and what it sees counts */
    bool holds;     /* what the tenure begins with is in its memory */
    dml_kept *kept; /* borrowed */
    const dml_spec *spec;
    const dml_backend *backend;
    dml_worker_page *page;
    dml_abort abort;       /* of this tenure: raised when the run's fence is beyond it */
    dml_recorder recorder; /* {0}: nothing is traced */

    dml_device *device;
    dml_queue *lane[DML_LANES], *load; /* load: the compute lane on the host */
    dml_kctx *compute, *reduce;

    const dml_transport_api *comm, *vote_comm;
    dml_transport *transport, *vote_transport; /* tensors; votes between hosts' memories */
    dml_group *world;                          /* of vote_transport */
    int64_t *ballot;                           /* [ballot_words] in vote_transport's memory */
    int64_t ballot_words;

    dml_chunk *chunk;   /* [chunks] */
    dml_update *update; /* [chunks] */
    dml_held *held;     /* [chunks] */
    dml_feed train, test;
    dml_graphs *graphs; /* of both executors; NULL where the device captures nothing */
    dml_exec *train_exec, *eval_exec;
    int32_t
        *rows; /* [mbs of the training program] samples of each micro-batch of what is under way */
    dml_segments segments;
    dml_depot
        start; /* what is held, as the segment or the staggered step under way began: worker_keep.c */
    dml_exec_update
        *updates; /* [segments.steps] those of the segment under way; NULL: steps are single */

    dml_chunk_memory *chunk_memory; /* [chunks] */
    dml_slab state_slab, activation_slab, host_slab;
    int64_t memory_bytes; /* device memory: both slabs and what peers reach */
    int64_t taken_bytes;  /* of it so far */
    dml_arena arena;
} dml_worker;

/* Words from one ballot of a segment to the next: sums begin at multiples of 64 bytes. */
enum { DML_BALLOT_WORDS = (DML_VOTE_WORDS + 7) / 8 * 8 };

/* ---- worker_memory.c ---- */

/* Sizes of slabs, pools and memory_bytes: chunks are planned and data sets open. */
void dml_worker_plan_memory(dml_worker *w);
/* What the worker will take from its transport, in parts of multiples of DML_WORKER_ALIGN. */
int64_t dml_worker_shared_bytes(const dml_worker *w);
/* Takes it and hands it out.  DML_ERR_NOMEM names the bytes: the device, or the worker's limit, has no room for them. */
dml_err dml_worker_take_memory(dml_worker *w);
void dml_worker_free_memory(dml_worker *w);

/* ---- worker_comm.c ---- */

/* Opens both transports and introduces the neighbours of the plan to each other.
 *   memory_bytes  what the worker will take from the data transport
 *   ballot_bytes  room of `ballot`, a multiple of 64 */
dml_err dml_worker_meet(dml_worker *w, int64_t memory_bytes, int64_t ballot_bytes);
dml_err dml_worker_meet_replicas(dml_worker *w, int32_t chunk);

/* ---- worker_change.c ---- */

/* Leaves what the chunks of which this worker is the first holder that is there (`lost`: bit r, rank r is not) have come
 * to in a bank; `run` too where it holds the first chunk so.  *bytes: that it copied. */
dml_err dml_worker_put_state(dml_worker *w, dml_depot *bank, uint64_t stamp, uint64_t lost,
                             const dml_depot_run *run, int64_t *bytes);
/* Fills a chunk held, and counts its updates on, from where the tenure's state lies.  Its memory is placed. */
dml_err dml_worker_get_state(dml_worker *w, int32_t chunk);

/* ---- worker_rehearse.c ---- */

/* Collective.  The leader chooses kernel algorithms for the whole model, once for the run, and everyone's compute
 * context gets them; who came later, from the lowest rank that knows them.  Before its first kernel. */
dml_err dml_worker_choose(dml_worker *w);

/* Runs every shape that occurs, on zeros; then seals the kernel contexts. */
dml_err dml_worker_rehearse(dml_worker *w);

/* ---- worker_step.c ---- */

/* Sums `words` of the ballot over all workers; every worker has the result. */
dml_err dml_worker_sum_ballot(dml_worker *w, int64_t words);

/* ---- worker_keep.c ---- */

/* Room for what is kept, where the plan keeps anything. */
dml_err dml_worker_open_keep(dml_worker *w);

/* ---- worker_async.c ---- */

/* The job of V in an asynchronous program, `context` being the dml_worker: dml_exec_config. */
dml_err dml_worker_vote(void *context, int32_t update, dml_exec_update *out);

/* ---- worker_open.c ---- */

dml_kctx_config dml_worker_kernels(const dml_worker *w);
bool dml_worker_splits_backward(const dml_worker *w); /* the program has W ops */

/* Bit r: rank r. */
static inline bool dml_is_among(uint64_t ranks, int32_t rank)
{
    return ranks >> rank & 1;
}

/* Opens everything, prepares every shape, and meets the other workers; without a plan, nothing.  Close `w` whatever the
 * result. */
dml_err dml_worker_open(dml_worker *w, const dml_worker_config *config, const dml_tenure *tenure,
                        dml_kept *kept);
/* What was raised of its abort flag stays so: others who still wait for it are not to take its leaving for an arrival.
 * DML_ERR_PEER  as the transport's close: the process must end without another call to its device */
dml_err dml_worker_close(dml_worker *w);

#endif
