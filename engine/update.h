/* engine/update.h - from summed gradients to new weights: judge, vote, commit.
 *
 *   REDUCE  gradients, slots, maxima are summed among the replicas of a chunk
 *   judge   each worker looks at its own chunks: finite? sums in range, scales right? norm of its part
 *   vote    one int64 sum over all workers: everyone knows the global norm, loss and verdict
 *   commit  weights, moments, running moments and scales move together, or not at all
 *
 * An asynchronous run makes several updates; calls say which, from 0, and `dml_update_of` is the chunk whose sums and
 * slots are its.  A synchronous step is update 0.
 *
 * The vote is an integer sum, so its result does not depend on who adds first.  It is read back by the
 * host: one synchronisation a step, where a synchronous schedule has its barrier anyway.
 */
#ifndef DML_ENGINE_UPDATE_H
#define DML_ENGINE_UPDATE_H

#include "engine/chunk.h"
#include "engine/superacc.h"

typedef enum dml_verdict {
    DML_COMMIT,
    DML_REDO, /* exact scales were wrong: run the step again with the new ones (at most once) */
    DML_SKIP, /* a gradient or the loss is not finite: state unchanged, step counted */
} dml_verdict;

/* Summed over workers as int64 words.  Every count is contributed once per chunk, by replica 0. */
typedef struct dml_vote {
    dml_superacc norm; /* sum of squares of the unscaled gradients */
    int64_t nonfinite; /* chunks with a non-finite gradient or loss */
    int64_t redo;      /* tensors whose exact scale was wrong */
    int64_t too_large; /* tensors with a gradient beyond the bound of exact_wide */
    int64_t stop;      /* workers that were asked to stop after this step */
    int64_t snapshot;  /* control->snapshot, as rank 0 sees it, when it is a new one; else 0 */
    int64_t plan;      /* generation of the plan to go on with, as rank 0 sees it; 0: this one */
    int64_t not_once;  /* micro-batches that did not run exactly once in some chunk */
    int64_t loss_bits; /* the double's bits: sum over the samples, from the last chunk */
    int64_t correct;   /* samples classified right */
    int64_t busy_ns;   /* compute lanes busy in this step, all workers together */
    int64_t clipped; /* 0; set in the sum, by each who has it, where the norm is beyond grad_clip */
} dml_vote;
enum { DML_VOTE_WORDS = sizeof(dml_vote) / sizeof(int64_t) };

/* What an update needs beside the chunk: small host-side state, one per chunk of a worker. */
typedef struct dml_update {
    dml_chunk *chunk; /* borrowed */
    bool counts;      /* this worker is replica 0 of the chunk */
    dml_chunk **of;   /* [updates] its views; the chunk itself where there is one */
    /* device-side results and where the host reads them; for each update one of each */
    double *partial, *partial_host; /* [updates][partials] sums of squares */
    int64_t partials;
    int64_t *partial_at;    /* [n params] first partial of each */
    uint32_t *max_host;     /* [updates][max_words] unless fast */
    int32_t *slots_host;    /* [updates][slot_words] */
    int32_t *new_exponent;  /* [n params] exact: proposed by judge */
    dml_opt_tensor *tensor; /* [versions][sums][n params] */
    int64_t commits;        /* optimizer steps taken: t of AdamW's bias correction */
    int64_t outcomes;       /* steps of the run whose outcome this chunk has carried out */
} dml_update;

/* Bytes of device memory (for `partial`) and of host memory the update needs. */
int64_t dml_update_device_bytes(const dml_chunk *c);
int64_t dml_update_host_bytes(const dml_chunk *c);

/* device_memory, host_memory: zeroed, of the sizes above; tables come from the arena. */
void dml_update_init(dml_update *u, dml_chunk *c, bool counts, void *device_memory,
                     void *host_memory, dml_arena *arena);

/* The chunk whose sums and slots are those of update `n`. */
static inline const dml_chunk *dml_update_of(const dml_update *u, int32_t n)
{
    return u->of[n];
}

/* On the reduce queue, after the sums of bucket `bucket` (from 0, of c->n_buckets) of update `n`: finishes its integer
 * sums and takes the norm's partials. */
dml_err dml_update_measure(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k,
                           int32_t bucket);

/* Queues the copies that judge reads, of updates [begin, end). */
dml_err dml_update_fetch(dml_update *u, int32_t begin, int32_t end, const dml_device_api *device,
                         dml_queue *queue);

/* Host, after the queue has been synchronised: adds this chunk's part to the vote on update `n`.  rows [mbs]: samples
 * of each of its micro-batches, 0 for those that do not exist in a short step. */
void dml_update_judge(dml_update *u, int32_t n, const int32_t *rows, dml_vote *vote);

/* The last chunk's fetched slots of update 0, by micro-batch: [mbs] loss sums and right answers of those run here. */
const double *dml_update_loss(const dml_update *u);
const int32_t *dml_update_correct(const dml_update *u);

/* The verdict of a summed vote; the same on every worker.
 * DML_ERR_BUG       a micro-batch was not counted exactly once, or scales are wrong a second time
 * DML_ERR_DIVERGED  gradients are finite, but too large for exact_wide */
dml_err dml_vote_verdict(const dml_vote *sum, bool is_redo, dml_verdict *out);

/* The factor on the gradient of the loss, which keeps fp16's gradients above its smallest numbers: PyTorch's
 * GradScaler, in powers of two so that dividing by it later is exact.  A function of the verdicts alone, so the
 * same on every worker.
 *
 *   dynamic  begins at 65536; twice as large after 2000 steps in a row that commit, half after one that is
 *            skipped, never below 1 or above 2^24 */
typedef struct dml_loss_scale {
    bool dynamic;
    float scale; /* 1 in every precision but fp16 */
    int32_t good_steps;
} dml_loss_scale;

dml_loss_scale dml_loss_scale_of(const dml_spec *spec);
/* After a step.  True when it was skipped and the scale may be what was wrong: it has become smaller. */
bool dml_loss_scale_move(dml_loss_scale *s, dml_verdict verdict);

/* Takes the new exact scales of the tensors that asked for it.  Host. */
void dml_update_rescale(dml_update *u);

/* On the compute queue: optimizer step, exact scales, running moments.  Update `n` makes version n + 1 of the weights.
 *   norm        global gradient norm after the normaliser and the loss scale; clip 0: no clipping
 *   samples     of the step, as lr
 *   loss_scale  that gradients of this step have been multiplied by */
dml_err dml_update_commit(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k,
                          double norm, int64_t samples, double lr, float loss_scale);

/* The same where the verdict was to skip update `n`: version n + 1 is version n. */
dml_err dml_update_skip(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k);

/* On the compute queue, after the last of `n` updates: the weights they made are those that the next run begins with. */
dml_err dml_update_drain(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k);

#endif
