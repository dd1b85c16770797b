/* engine/chunk.h - a range of layers ready to run on one device: forward, backward, gradient adding.
 *
 * A chunk owns no memory.  It states how many bytes it needs of four kinds, and is bound to them:
 *
 *   shared    what is reduced among replicas: slots, max_bits, gradient accumulators (peers reach it)
 *   private   weights, their copy in the act type, optimizer state, running moments, scratch
 *   stash     per micro-batch in flight: what backward needs, and the chunk's output
 *   kept      with recomputation (parallelism.recompute): what the forward leaves in the stash's place, the output
 *             among it; the stash is then made by dml_chunk_recompute, right before the backward
 *   in/dy/dx  per micro-batch: input, output gradient, input gradient at the chunk's borders
 *
 * Beside its borders a chunk may have ends of skips (dml_cut in engine/model.h): values of its own that later chunks
 * read lie in the stash like the output, values that it reads are further inputs, whose gradients lie in dx behind
 * that of the main one, and of values that it has the gradients that come back are further output gradients.
 *
 * Slots are where a micro-batch leaves its small results, by its global number: a replica writes its own
 * and leaves zero elsewhere, so an integer sum over replicas gathers them whatever the routing.
 *
 * An asynchronous run makes several updates before the host looks (schedule/program.h), and a micro-batch reads the
 * weights of one version and adds to the sums of one update.  The chunk then has more than one of what these
 * are kept in, and work goes through a *view*: a chunk whose pointers lead to its version and its update.
 *
 *   weights     [versions]   version n in n mod versions; buffer 0 between two runs
 *   sums        [sums]       of update u in u mod sums
 *   slots       [updates]    of update u in u, and so its maxima: the host reads them after the run
 */
#ifndef DML_ENGINE_CHUNK_H
#define DML_ENGINE_CHUNK_H

#include "engine/model.h"
#include "kernels/backend.h"

typedef struct dml_chunk_sizes {
    int64_t shared, private_, stash; /* bytes */
    int64_t kept;                    /* bytes; 0 without recomputation, and where nothing is kept */
    int64_t in;     /* bytes of mb_rows rows; the first chunk's is the loaded batch, F32 */
    int64_t dy, dx; /* bytes of mb_rows rows; 0 where nothing crosses: the last, the first chunk;
                     * dx with the gradients of skips */
    int64_t out_offset;      /* bytes of the output within the stash; not for the last chunk */
    int64_t kept_out_offset; /* within kept */
} dml_chunk_sizes;

/* Which micro-batch a call is about. */
typedef struct dml_run {
    bool train;
    bool first;   /* backward: nothing was added yet in this step here, so store (may be false) */
    int32_t mb;   /* global number in the step: which slot */
    int32_t rows; /* samples in it, 1 .. micro_batch_size */
    int32_t part; /* backward: 0 all of it, k the layers of bucket k; parts in turn, 1 first */
    int64_t first_sample; /* position of row 0 in the step's global batch */
    bool
        recomputed; /* its forward leaves `kept` alone; also in evaluation, where there is a policy */
    void *kept;     /* of this micro-batch, from its forward on; NULL when it is not recomputed */
} dml_run;

/* One end of skip `skip`, from 1, that is at a chunk. */
typedef struct dml_chunk_skip {
    int32_t skip;
    int64_t bytes;   /* of mb_rows rows */
    int64_t at;      /* out: bytes into the stash; in: of its gradient, into dx; back: unused */
    int64_t kept_at; /* out: bytes into kept */
} dml_chunk_skip;

/* What a call reads and writes at the chunk's borders, rows in each.
 *   in       [rows, input...]   IN slot, the lower chunk's output, or the loaded batch; never written
 *   dy       [rows, output...]  gradient of the sum of losses; NULL in the last chunk; never written
 *   dx       [rows, input...]   written, and behind it the gradients of skips; NULL in the first chunk
 *   skip_in  [n_skip_in]        the values of skip_in[], as in;   NULL where there is none
 *   skip_dy  [n_skip_back]      the gradients of skip_back[], as dy */
typedef struct dml_chunk_io {
    const void *in, *dy;
    void *dx;
    const void *const *skip_in, *const *skip_dy;
} dml_chunk_io;

typedef struct dml_bucket dml_bucket;
typedef struct dml_probe dml_probe; /* engine/probe.h */

typedef struct dml_chunk {
    const dml_spec *spec;   /* borrowed */
    const dml_model *model; /* borrowed */
    int32_t layer_begin, layer_end, param_begin, param_end, state_begin, state_end;
    int32_t mb_rows, mbs; /* micro-batch size; micro-batches of a step */
    dml_dtype act;        /* of activations, their gradients and what crosses the borders */
    bool split_backward;  /* I and W apart: what weight gradients read stays in the stash */
    int32_t versions, sums, updates; /* buffers of each: dml_chunk_buffers; 1 */
    dml_chunk_sizes size;
    const dml_chunk_skip *skip_out, *skip_in, *skip_back; /* skips with from, to, back here */
    int32_t n_skip_out, n_skip_in, n_skip_back;

    /* bound memory; offsets of parameter p are elems into these, 16-aligned, padding stays zero */
    int64_t arena_elems; /* of all parameters of the chunk with padding */
    int64_t *param_at;   /* [param_end - param_begin] first element */
    float *w, *m,
        *v;   /* w [versions], and each: [arena_elems]; m, v NULL where the optimizer has none */
    float *g; /* [sums][arena_elems] summed gradient: fast: accumulator (shared); else: finished */
    int64_t
        *acc; /* [sums][acc_elems] integer accumulators (shared, chunk_sum.h); NULL in fast mode */
    int64_t acc_elems;
    uint32_t *max_bits; /* [updates][max_words] of the n params (shared); NULL in fast mode */
    int32_t max_words;
    int32_t *exponent; /* [n params] E of exact's scales: host memory, committed; else NULL */
    float *state;      /* running moments, all states of the chunk one after another */
    int64_t *state_at; /* [state_end - state_begin] */

    /* slots, shared, int32 words, zeroed by dml_chunk_begin_step; what follows is those of update 0 */
    int32_t *slots;     /* [updates][slot_words] */
    int64_t slot_words; /* a multiple of 16 */
    int32_t *ran;       /* [mbs] 1 when this micro-batch's weight gradient was added */
    double *loss;       /* [mbs] sum over rows; last chunk only, else NULL */
    int32_t *correct;   /* [mbs] likewise */
    float *moments; /* batch norm: per layer [mbs][2][c], mean then biased variance; layer order */

    const dml_bucket
        *bucket; /* [n_buckets >= 1] in the order backward finishes them (chunk_bucket.h) */
    int32_t n_buckets;

    void *impl; /* dml_chunk_impl (engine/chunk_impl.h), the arena's */
} dml_chunk;

/* Moments that the optimizer keeps of each parameter: the first, the second. */
bool dml_optimizer_has_m(const dml_spec *spec);
bool dml_optimizer_has_v(const dml_spec *spec);

/* Plans the memory of layers [layer_begin, layer_end); touches no device.  Skips are those of model->cut, where the range
 * is one of its stages.  Exact scales start at E = 16
 * (exact-sums).  Everything *out points to is the arena's.
 *
 * DML_ERR_BUG   a layer reads something from below other than the chunk's input or a skip: not a legal cut
 * DML_ERR_SPEC  more replicas than the numerics can add up
 */
dml_err dml_chunk_plan(const dml_spec *spec, const dml_model *model, int32_t layer_begin,
                       int32_t layer_end, bool split_backward, dml_arena *arena, dml_chunk *out);

/* Says how many buffers the chunk has, as in schedule/program.h: sizes become those of all.  Before it is bound. */
void dml_chunk_buffers(dml_chunk *c, int32_t versions, int32_t sums, int32_t updates);

/* A chunk that reads weights of version `version` and adds to sums and slots of update `update`; its bound memory, running
 * moments and optimizer state are those of `c`, which it lives no longer than.  The arena's. */
dml_chunk *dml_chunk_view(const dml_chunk *c, int32_t version, int32_t update, dml_arena *arena);

/* Gives the chunk its memory (device memory of the sizes stated, 64-byte aligned, zeroed, borrowed for the
 * chunk's life), loads initial weights and states through the queue and waits for it. */
dml_err dml_chunk_bind(dml_chunk *c, const dml_device_api *device, dml_queue *queue, void *shared,
                       void *private_);

/* From now on the chunk and its views take the time of each step of a layer in training; borrowed.  NULL: no more. */
void dml_chunk_set_probe(dml_chunk *c, dml_probe *probe);
/* Steps that one micro-batch runs in training, at most: what a probe must hold. */
int32_t dml_chunk_steps(const dml_chunk *c);

/* The end of skip `skip` among `n` ends, which have it. */
const dml_chunk_skip *dml_chunk_end(const dml_chunk_skip *ends, int32_t n, int32_t skip);

/* Says where the memory is, and loads nothing: for a chunk that only makes plans of kernels. */
void dml_chunk_place(dml_chunk *c, void *shared, void *private_);

/* The rest is called inside jobs of the compute queue; `k` is that queue's kernel context.  Nothing
 * allocates.  Errors are the kernels', with the layer and its place in the spec added to the trail.
 *
 *   io      borders; a call reads of it what it needs: a forward no dy and dx, ...
 *   labels  [rows] I32 device memory, last chunk only
 *   stash   of this micro-batch, from its forward to its backward (or backward_weight)
 *
 * In training, the last chunk's forward leaves the loss gradient, too, in the stash. */

/* Weights were written, by other than dml_update_commit: their copy in the act type is made again at the next
 * begin_step. */
void dml_chunk_weights_written(const dml_chunk *c);

/* Zeroes slots and maxima of all updates.  Weights that changed (buffer 0) are copied to the act type. */
dml_err dml_chunk_begin_step(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k);
/* Zeroes the sums of part `part` of a backward, as run->part: where none with run->first stores them. */
dml_err dml_chunk_zero_sums(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                            int32_t part);

/* Weights of version `from` become those of version `to`, too, if these lie elsewhere. */
dml_err dml_chunk_carry(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t from,
                        int32_t to);
/* The copy in the act type of version `version` is made again. */
dml_err dml_chunk_convert(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                          int32_t version);
dml_err dml_chunk_forward(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, const dml_run *run,
                          const dml_chunk_io *io, const int32_t *labels, void *stash);
/* The stash of a recomputed micro-batch, from its input and `kept`: the same bits.  What its forward left in slots
 * (loss, moments) is written again, the same. */
dml_err dml_chunk_recompute(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                            const dml_run *run, const dml_chunk_io *io, const int32_t *labels,
                            void *stash);
/* Whole backward: input gradient to dx and weight gradients added, in the order of calls (fast mode) or
 * exactly.  In parts: run->part 1 .. n_buckets, the same bits; no other call of this chunk in between, and dx is
 * written by the last part alone (NULL for the others is fine). */
dml_err dml_chunk_backward(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                           const dml_run *run, const dml_chunk_io *io, void *stash);
/* The same in two calls, the same bits; needs split_backward.  Parts are those of the weight gradients. */
dml_err dml_chunk_backward_input(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                                 const dml_run *run, const dml_chunk_io *io, void *stash);
dml_err dml_chunk_backward_weight(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                                  const dml_run *run, const dml_chunk_io *io, void *stash);

/* Moves the running moments of batch norm at the end of a step of `samples`, from the slots of all its
 * micro-batches (summed among replicas before), in micro-batch order whoever ran them: dml_moments.
 * Micro-batches are full up to the last that has samples. */
dml_err dml_chunk_commit_state(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                               int64_t samples);

/* Weights of parameter `p`, running moments of state `s`, both by their number in the model, for loading
 * and saving by name: device memory, [elems]; NULL when the chunk does not hold it. */
float *dml_chunk_param(const dml_chunk *c, int32_t p);
float *dml_chunk_state(const dml_chunk *c, int32_t s);

/* Wrapping sum over parameters and states of dml_hash(bytes, dml_hash_text(name)): the sum over a model's
 * chunks is the same however it is cut.  Brings one tensor at a time to the host through the queue, which it
 * waits for; allocates, so not inside a step.  DML_ERR_NOMEM, or what the device gives. */
dml_err dml_chunk_weights_hash(const dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                               uint64_t *out);

/* Predicted time of a recomputation: that of the layers it runs.
 *   ns  [layers of the chunk][3] forward, input gradient, weight gradient of each layer */
int64_t dml_chunk_recompute_ns(const dml_chunk *c, const int64_t (*ns)[3]);

/* Scale exponent s of parameter p (0 .. n-1 in the chunk): clamp(62 - L - E, -126, 126), L = ceil(log2 mbs). */
int32_t dml_chunk_scale_log2(const dml_chunk *c, int32_t p);

#endif
