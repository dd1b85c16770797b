/* engine/worker_rehearse.c - before the first step: algorithms chosen once for all, every shape prepared.
 *
 *   leader    plans every chunk of the model in a context that launches nothing, on addresses that mean nothing
 *   everyone  gets its choices, so that the same layer runs the same algorithm wherever it is placed
 *   each      runs its own chunks on zeros in every way a step will; then kernels make nothing new
 */
#include "engine/worker_state.h"

#include "engine/base/clock.h"
#include "engine/base/hash.h"

#include <stdlib.h>
#include <string.h>

enum { ROW_COUNTS = 3 }; /* whole micro-batches, the tail of a short step, the test split's */

/* One chunk, and where the regions of its calls begin. */
typedef struct exercise {
    const dml_worker *w;
    dml_kctx *k;
    dml_chunk *whole, *chunk; /* the chunk, and its view that is run */
    int32_t *labels;
    dml_chunk_io io;
    void *stash, *kept;
    int32_t rows;
} exercise;

/* Sizes of micro-batches that occur; returns how many. */
static int32_t row_counts(const dml_worker *w, int32_t rows[ROW_COUNTS])
{
    const int32_t whole = w->spec->training.micro_batch_size;
    const dml_feed *feeds[] = {&w->train, &w->test};
    int32_t n = 0;
    rows[n++] = whole;
    for (size_t i = 0; i < sizeof feeds / sizeof *feeds; i++) {
        const int64_t last = dml_data_epoch_steps(feeds[i]->data) - 1;
        const int32_t tail = (int32_t)(dml_data_step_samples(feeds[i]->data, last) % whole);
        if (tail > 0 && tail != rows[n - 1]) rows[n++] = tail;
    }
    return n;
}

/* Evaluation, and training's forward, as the policy has them. */
static dml_err forward(const exercise *e, dml_run *run)
{
    const dml_kernel_table *kt = e->w->backend->kernels;
    const dml_recompute policy = e->w->plan->train.recompute;
    run->kept = e->kept;
    run->recomputed = policy != DML_RECOMPUTE_NONE;
    run->train = false;
    DML_TRY(dml_chunk_forward(e->chunk, kt, e->k, run, &e->io, e->labels, e->stash));
    run->train = true;
    DML_TRY(dml_chunk_forward(e->chunk, kt, e->k, run, &e->io, e->labels, e->stash));
    if (policy == DML_RECOMPUTE_NONE) return DML_ERR_OK;
    DML_TRY(dml_chunk_recompute(e->chunk, kt, e->k, run, &e->io, e->labels, e->stash));
    if (policy != DML_RECOMPUTE_EXCEPT_LAST) return DML_ERR_OK;
    run->recomputed = false;
    return dml_chunk_forward(e->chunk, kt, e->k, run, &e->io, e->labels, e->stash);
}

static dml_err backward(const exercise *e, const dml_run *run)
{
    const dml_kernel_table *kt = e->w->backend->kernels;
    if (!e->chunk->split_backward)
        return dml_chunk_backward(e->chunk, kt, e->k, run, &e->io, e->stash);
    DML_TRY(dml_chunk_backward_input(e->chunk, kt, e->k, run, &e->io, e->stash));
    return dml_chunk_backward_weight(e->chunk, kt, e->k, run, &e->io, e->stash);
}

/* A delay is none here: what is prepared for it needs no time. */
static const dml_step_words at_once = {.loss_scale = 1.0f, .pace = 1e9f};

/* Every call of a step.  What it leaves in sums and slots is stored over or cleared by the first step. */
static dml_err exercise_chunk(void *arg)
{
    const exercise *e = arg;
    const dml_kernel_table *kt = e->w->backend->kernels;
    dml_run run = {.rows = e->rows};
    DML_TRY(kt->begin_step(e->k, &at_once));
    DML_TRY(dml_chunk_begin_step(e->whole, kt, e->k));
    DML_TRY(dml_chunk_zero_sums(e->chunk, kt, e->k, 0));
    DML_TRY(forward(e, &run));
    run.first = true;
    DML_TRY(backward(e, &run));
    run.first = false;
    DML_TRY(backward(e, &run));
    return dml_chunk_begin_step(e->whole, kt, e->k);
}

static dml_err on_compute(const dml_worker *w, dml_job job, void *arg)
{
    const dml_device_api *device = w->backend->device;
    dml_queue *queue = w->lane[DML_LANE_COMPUTE];
    DML_TRY(device->submit(queue, job, arg));
    return device->sync(queue, dml_clock_ns() + w->spec->parallelism.timeout_ns);
}

/* ---- the leader's choices ---- */

/* An address that nobody follows, aligned as real ones are. */
static void *nowhere(int32_t region)
{
    return (void *)(((uintptr_t)region + 1) << 44);
}

/* n pointers to nowhere. */
static const void *const *nowheres(int32_t region, int32_t n, dml_arena *arena)
{
    const void **list = DML_NEW_N(arena, const void *, n);
    for (int32_t i = 0; i < n; i++)
        list[i] = nowhere(region);
    return list;
}

/* The kernels of layers [begin, end), planned in `k`. */
static dml_err choose_for(const dml_worker *w, dml_kctx *k, const dml_chunk_span *span,
                          dml_arena *arena)
{
    dml_chunk chunk;
    DML_TRY(dml_chunk_plan(w->spec, &w->plan->model, span->layer_begin, span->layer_end,
                           dml_worker_splits_backward(w), arena, &chunk));
    dml_chunk_place(&chunk, nowhere(0), nowhere(1));
    exercise e = {.w = w,
                  .k = k,
                  .whole = &chunk,
                  .chunk = &chunk,
                  .labels = nowhere(2),
                  .io = {.in = nowhere(3),
                         .dy = nowhere(5),
                         .dx = nowhere(6),
                         .skip_in = nowheres(8, chunk.n_skip_in, arena),
                         .skip_dy = nowheres(9, chunk.n_skip_back, arena)},
                  .stash = nowhere(4),
                  .kept = nowhere(7)};
    int32_t rows[ROW_COUNTS];
    const int32_t n = row_counts(w, rows);
    for (int32_t i = 0; i < n; i++) {
        e.rows = rows[i];
        DML_TRY(on_compute(w, exercise_chunk, &e));
    }
    return DML_ERR_OK;
}

/* Room for choices of w->kept->choices_bytes. */
static dml_err make_room(dml_worker *w)
{
    dml_kept *kept = w->kept;
    free(kept->choices);
    kept->choices = malloc((size_t)kept->choices_bytes + 1);
    if (!kept->choices)
        DML_FAIL(DML_ERR_NOMEM, "no memory for %lld bytes of kernel choices",
                 (long long)kept->choices_bytes);
    return DML_ERR_OK;
}

static dml_err choose_for_all(dml_worker *w, dml_kctx *k)
{
    const dml_kernel_table *kt = w->backend->kernels;
    const dml_program *p = &w->plan->train;
    dml_arena arena = {0};
    dml_err err = DML_ERR_OK;
    for (int32_t c = 0; c < p->chunks && err == DML_ERR_OK; c++)
        err = choose_for(w, k, &p->span[c], &arena);
    dml_arena_free(&arena);
    DML_TRY(err);
    w->kept->choices_bytes = 0; /* of another cut */
    DML_TRY(kt->choices(k, NULL, &w->kept->choices_bytes));
    DML_TRY(make_room(w));
    return kt->choices(k, w->kept->choices, &w->kept->choices_bytes);
}

static dml_err lead(dml_worker *w)
{
    const dml_kernel_table *kt = w->backend->kernels;
    dml_kctx_config config = dml_worker_kernels(w);
    config.plan_only = true;
    dml_kctx *k = NULL;
    DML_TRY(kt->open(w->device, w->lane[DML_LANE_COMPUTE], &config, &k));
    const dml_err err = choose_for_all(w, k);
    kt->close(k);
    return err;
}

/* From one to all: a sum in which the others add nothing, as much at a time as the ballot holds. */
static dml_err spread(dml_worker *w, bool from_here, void *data, int64_t bytes)
{
    const int64_t room = w->ballot_words * (int64_t)sizeof *w->ballot;
    for (int64_t at = 0; at < bytes; at += room) {
        const int64_t n = bytes - at < room ? bytes - at : room;
        memset(w->ballot, 0, (size_t)room);
        if (from_here) memcpy(w->ballot, (char *)data + at, (size_t)n);
        DML_TRY(dml_worker_sum_ballot(w, w->ballot_words));
        memcpy((char *)data + at, w->ballot, (size_t)n);
    }
    return DML_ERR_OK;
}

/* What choices are made for: the model, cut as in this plan. */
static uint64_t cut_of(const dml_worker *w)
{
    const dml_program *p = &w->plan->train;
    return dml_hash(p->span, p->chunks * (int64_t)sizeof *p->span, 1);
}

/* The lowest rank that knows the run's choices for this cut; -1: nobody does. */
static dml_err find_source(dml_worker *w, int32_t *out)
{
    const bool knows = w->kept->choices && w->kept->cut == cut_of(w);
    memset(w->ballot, 0, sizeof *w->ballot);
    if (knows) w->ballot[0] = (int64_t)(UINT64_C(1) << w->config->rank);
    DML_TRY(dml_worker_sum_ballot(w, 1));
    const uint64_t know = (uint64_t)w->ballot[0];
    *out = know ? __builtin_ctzll(know) : -1;
    return DML_ERR_OK;
}

/* Everyone gets the choices of `from_here`'s worker. */
static dml_err share(dml_worker *w, bool from_here)
{
    dml_kept *kept = w->kept;
    kept->cut = 0; /* not known until all of it is there */
    DML_TRY(spread(w, from_here, &kept->choices_bytes, sizeof kept->choices_bytes));
    if (!from_here) DML_TRY(make_room(w));
    DML_TRY(spread(w, from_here, kept->choices, kept->choices_bytes));
    kept->cut = cut_of(w);
    return DML_ERR_OK;
}

dml_err dml_worker_choose(dml_worker *w)
{
    const dml_kernel_table *kt = w->backend->kernels;
    int32_t source = -1;
    if (!kt->choices) return DML_ERR_OK;
    DML_TRY(find_source(w, &source));
    if (source < 0 && w->leads) DML_TRY(lead(w));
    DML_TRY(share(w, source < 0 ? w->leads : source == w->config->rank));
    return kt->choose(w->compute, w->kept->choices, w->kept->choices_bytes);
}

/* ---- rehearsal ---- */

/* Where a chunk's input, or the gradient of its output, lies when no slot of its own holds it: with the
 * neighbour chunk on this worker. */
static void *input_of(const dml_worker *w, int32_t c)
{
    const dml_held *h = &w->held[c];
    if (h->input) return h->input;
    if (h->pool[DML_POOL_IN]) return h->pool[DML_POOL_IN];
    const dml_held *below = &w->held[c - 1];
    if (w->plan->train.recompute != DML_RECOMPUTE_NONE)
        return below->pool[DML_POOL_KEPT] + below->chunk->size.kept_out_offset;
    return below->pool[DML_POOL_STASH] + below->chunk->size.out_offset;
}

static void *output_grad_of(const dml_worker *w, int32_t c)
{
    if (c == w->plan->train.chunks - 1 || w->held[c].pool[DML_POOL_DY])
        return w->held[c].pool[DML_POOL_DY];
    return w->held[c + 1].pool[DML_POOL_DX];
}

/* The same for the ends of skips. */
static const void *skip_input_of(const dml_worker *w, int32_t skip)
{
    const dml_held *h = &w->held[dml_skip_port(&w->plan->train, skip)];
    if (h->pool[DML_POOL_IN]) return h->pool[DML_POOL_IN];
    const int32_t from = w->plan->train.skip[skip - 1].from;
    const dml_held *maker = &w->held[from];
    const dml_chunk_skip *end =
        dml_chunk_end(w->chunk[from].skip_out, w->chunk[from].n_skip_out, skip);
    if (w->plan->train.recompute != DML_RECOMPUTE_NONE)
        return maker->pool[DML_POOL_KEPT] + end->kept_at;
    return maker->pool[DML_POOL_STASH] + end->at;
}

static const void *skip_grad_of(const dml_worker *w, int32_t skip)
{
    const dml_held *h = &w->held[dml_skip_port(&w->plan->train, skip)];
    if (h->pool[DML_POOL_DY]) return h->pool[DML_POOL_DY];
    const int32_t to = w->plan->train.skip[skip - 1].to;
    return w->held[to].pool[DML_POOL_DX] +
           dml_chunk_end(w->chunk[to].skip_in, w->chunk[to].n_skip_in, skip)->at;
}

static dml_chunk_io borders_of(dml_worker *w, int32_t c)
{
    const dml_chunk *chunk = &w->chunk[c];
    const void **in = DML_NEW_N(&w->arena, const void *, chunk->n_skip_in),
               **dy = DML_NEW_N(&w->arena, const void *, chunk->n_skip_back);
    for (int32_t i = 0; i < chunk->n_skip_in; i++)
        in[i] = skip_input_of(w, chunk->skip_in[i].skip);
    for (int32_t i = 0; i < chunk->n_skip_back; i++)
        dy[i] = skip_grad_of(w, chunk->skip_back[i].skip);
    return (dml_chunk_io){.in = input_of(w, c),
                          .dy = output_grad_of(w, c),
                          .dx = w->held[c].pool[DML_POOL_DX],
                          .skip_in = in,
                          .skip_dy = dy};
}

static dml_err measure(void *arg)
{
    const exercise *e = arg;
    const dml_worker *w = e->w;
    dml_update *update = w->held[e->whole - w->chunk].update;
    for (int32_t b = 0; b < e->whole->n_buckets; b++)
        DML_TRY(dml_update_measure(update, 0, w->backend->kernels, w->reduce, b));
    return DML_ERR_OK;
}

static dml_err rehearse_chunk(dml_worker *w, int32_t c)
{
    const dml_held *h = &w->held[c];
    exercise e = {.w = w,
                  .k = w->compute,
                  .whole = h->chunk,
                  .labels = h->labels,
                  .io = borders_of(w, c),
                  .stash = h->pool[DML_POOL_STASH],
                  .kept = h->pool[DML_POOL_KEPT]};
    int32_t rows[ROW_COUNTS];
    const int32_t n = row_counts(w, rows);
    for (int32_t v = 0; v < h->chunk->versions; v++) {
        e.chunk = dml_chunk_view(h->chunk, v, 0, &w->arena);
        for (int32_t i = 0; i < n; i++) {
            e.rows = rows[i];
            DML_TRY(on_compute(w, exercise_chunk, &e));
        }
    }
    dml_queue *reduce = w->lane[DML_LANE_REDUCE];
    DML_TRY(w->backend->device->submit(reduce, measure, &e));
    return w->backend->device->sync(reduce, dml_clock_ns() + w->spec->parallelism.timeout_ns);
}

dml_err dml_worker_rehearse(dml_worker *w)
{
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) DML_TRY(rehearse_chunk(w, c));
    w->backend->kernels->seal(w->compute);
    w->backend->kernels->seal(w->reduce);
    return DML_ERR_OK;
}
