/* tests/support/chunk_rig.h - a model cut into chunks, run by hand on one thread.
 *
 *   images --> chunk 0 --> chunk 1 --> ... --> loss        a chunk's output is read where it lies, in the
 *              <-- dx ---- <-- dx ----                     stash; each micro-batch has its own stash and dx
 *
 * Scratch is filled with NaN before every call, and the stash before every forward: what is read without
 * having been written shows.
 */
#ifndef DML_TEST_CHUNK_RIG_H
#define DML_TEST_CHUNK_RIG_H

#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/chunk_impl.h"
#include "engine/chunk_sum.h"
#include "kernels/backend.h"
#include "kernels/half.h"

#include <math.h>
#include <stdlib.h>

enum { RIG_CHUNKS = 8, RIG_MBS = 8, RIG_SPLIT = 1, RIG_ENDS = 32 };

typedef struct rig {
    const dml_backend *backend;
    const dml_kernel_table *kt;
    dml_device *device;
    dml_queue *queue;
    dml_kctx *k;
    const dml_spec *spec;
    dml_arena arena;
    dml_model model;
    int32_t n, mbs;
    dml_chunk chunk[RIG_CHUNKS];
    void *memory[RIG_CHUNKS * (2 + 2 * RIG_MBS) + 2];
    int32_t n_memory;
    char *stash[RIG_CHUNKS][RIG_MBS];
    float *dx[RIG_CHUNKS][RIG_MBS];
    const void *skip_in[RIG_ENDS], *skip_dy[RIG_ENDS]; /* of the call under way */
    float *images;                                     /* [mbs * mb_rows][input...] */
    int32_t *labels;
    int32_t rows[RIG_MBS];
    int32_t added[RIG_CHUNKS]; /* micro-batches whose weight gradients were added in this step */
    int64_t step;
    float loss_scale; /* 0: 1 */
    bool evaluate;
} rig;

static inline void *rig_alloc(rig *r, int64_t bytes)
{
    void *p;
    DML_CHECK_OK(r->backend->device->alloc(r->device, bytes, &p));
    r->memory[r->n_memory++] = p;
    return p;
}

/* Standard normals, and uniform labels. */
static inline void rig_fill_batch(rig *r)
{
    const int64_t samples = (int64_t)r->mbs * r->spec->training.micro_batch_size;
    const int64_t elems = samples * dml_shape_elems(r->model.input);
    const uint64_t key = dml_rng_key(5, DML_RNG_TEST, 0);
    uint32_t word[4];
    for (int64_t i = 0; i < elems; i++) {
        dml_rng_block(key, 0, (uint64_t)i, word);
        r->images[i] =
            sqrtf(-2 * logf(1 - dml_rng_unit(word[0]))) * cosf(6.2831853f * dml_rng_unit(word[1]));
    }
    for (int64_t i = 0; i < samples; i++) {
        dml_rng_block(key, 1, (uint64_t)i, word);
        r->labels[i] = (int32_t)(word[0] % (uint32_t)r->model.classes);
    }
}

/* begin [n + 1]; NULL: the engine's own cut into n. */
static inline void rig_open(rig *r, const char *backend, const dml_spec *spec, int32_t n,
                            const int32_t *begin, int32_t split)
{
    int32_t cut[RIG_CHUNKS + 1];
    *r = (rig){.spec = spec, .n = n, .mbs = spec->training.num_microbatches, .step = 3};
    DML_CHECK_OK(dml_backend_find(backend, &r->backend));
    r->kt = r->backend->kernels;
    const dml_device_config device = {.threads = 1, .queue_capacity = 64};
    DML_CHECK_OK(r->backend->device->open(&device, &r->device));
    DML_CHECK_OK(r->backend->device->queue_open(r->device, "rig", &r->queue));
    const dml_kctx_config config = {.threads = 1, .deterministic = true};
    DML_CHECK_OK(r->kt->open(r->device, r->queue, &config, &r->k));
    DML_CHECK_OK(dml_model_make(spec, &r->arena, &r->model));
    if (!begin) {
        DML_CHECK_OK(dml_model_split(spec, &r->model, n, false, cut));
        begin = cut;
    }
    DML_CHECK_OK(dml_model_cut(&r->model, n, begin, &r->arena));
    for (int32_t c = 0; c < n; c++) {
        dml_chunk *chunk = &r->chunk[c];
        DML_CHECK_OK(dml_chunk_plan(spec, &r->model, begin[c], begin[c + 1], split == RIG_SPLIT,
                                    &r->arena, chunk));
        void *shared = rig_alloc(r, chunk->size.shared),
             *private_ = rig_alloc(r, chunk->size.private_);
        DML_CHECK_OK(dml_chunk_bind(chunk, r->backend->device, r->queue, shared, private_));
        for (int32_t mb = 0; mb < r->mbs; mb++) {
            r->stash[c][mb] = rig_alloc(r, chunk->size.stash);
            r->dx[c][mb] = rig_alloc(r, chunk->size.dx);
        }
    }
    r->images = rig_alloc(r, r->chunk[0].size.in * r->mbs);
    r->labels = rig_alloc(r, r->mbs * r->chunk[0].mb_rows * (int64_t)sizeof(int32_t));
    for (int32_t mb = 0; mb < r->mbs; mb++)
        r->rows[mb] = r->chunk[0].mb_rows;
    rig_fill_batch(r);
}

static inline void rig_close(rig *r)
{
    r->kt->close(r->k);
    r->backend->device->queue_close(r->queue);
    for (int32_t i = 0; i < r->n_memory; i++)
        r->backend->device->free(r->device, r->memory[i]);
    r->backend->device->close(r->device);
    dml_arena_free(&r->arena);
}

static inline dml_run rig_run(const rig *r, int32_t mb)
{
    const int32_t size = r->spec->training.micro_batch_size;
    return (dml_run){
        .train = !r->evaluate, .mb = mb, .rows = r->rows[mb], .first_sample = (int64_t)mb * size};
}

static inline const void *rig_in(const rig *r, int32_t c, int32_t mb)
{
    if (c > 0) return r->stash[c - 1][mb] + r->chunk[c - 1].size.out_offset;
    return r->images + mb * (r->chunk[0].size.in / (int64_t)sizeof(float));
}

static inline const float *rig_dy(const rig *r, int32_t c, int32_t mb)
{
    return c == r->n - 1 ? NULL : r->dx[c + 1][mb];
}

/* Borders of chunk c, for one call. */
static inline dml_chunk_io rig_io(rig *r, int32_t c, int32_t mb)
{
    const dml_chunk *chunk = &r->chunk[c];
    for (int32_t i = 0; i < chunk->n_skip_in; i++) {
        const int32_t k = chunk->skip_in[i].skip, from = r->model.cut->skip[k - 1].from;
        r->skip_in[i] = r->stash[from][mb] +
                        dml_chunk_end(r->chunk[from].skip_out, r->chunk[from].n_skip_out, k)->at;
    }
    for (int32_t i = 0; i < chunk->n_skip_back; i++) {
        const int32_t k = chunk->skip_back[i].skip, to = r->model.cut->skip[k - 1].to;
        r->skip_dy[i] = (const char *)r->dx[to][mb] +
                        dml_chunk_end(r->chunk[to].skip_in, r->chunk[to].n_skip_in, k)->at;
    }
    return (dml_chunk_io){.in = rig_in(r, c, mb),
                          .dy = rig_dy(r, c, mb),
                          .dx = c > 0 ? r->dx[c][mb] : NULL,
                          .skip_in = r->skip_in,
                          .skip_dy = r->skip_dy};
}

static inline void rig_poison(rig *r, int32_t c)
{
    const dml_chunk_impl *impl = r->chunk[c].impl;
    memset(impl->panel, 0xff, (size_t)impl->panel_elems * sizeof(float));
    memset(impl->work, 0xff, (size_t)impl->work_bytes);
}

static inline void rig_begin(rig *r)
{
    const dml_step_words words = {.step = r->step,
                                  .loss_scale = r->loss_scale > 0.0f ? r->loss_scale : 1.0f};
    DML_CHECK_OK(r->kt->begin_step(r->k, &words));
    memset(r->added, 0, sizeof r->added);
    for (int32_t c = 0; c < r->n; c++) {
        DML_CHECK_OK(dml_chunk_begin_step(&r->chunk[c], r->kt, r->k));
        DML_CHECK_OK(dml_chunk_zero_sums(&r->chunk[c], r->kt, r->k, 0));
    }
}

static inline void rig_forward(rig *r, int32_t mb)
{
    const dml_run run = rig_run(r, mb);
    const int32_t *labels = r->labels + mb * r->spec->training.micro_batch_size;
    for (int32_t c = 0; c < r->n; c++) {
        rig_poison(r, c);
        memset(r->stash[c][mb], 0xff, (size_t)r->chunk[c].size.stash);
        const dml_chunk_io io = rig_io(r, c, mb);
        DML_CHECK_OK(dml_chunk_forward(&r->chunk[c], r->kt, r->k, &run, &io,
                                       c == r->n - 1 ? labels : NULL, r->stash[c][mb]));
    }
}

static inline void rig_backward(rig *r, int32_t mb)
{
    dml_run run = rig_run(r, mb);
    for (int32_t c = r->n - 1; c >= 0; c--) {
        rig_poison(r, c);
        run.first = r->added[c]++ == 0;
        const dml_chunk_io io = rig_io(r, c, mb);
        DML_CHECK_OK(dml_chunk_backward(&r->chunk[c], r->kt, r->k, &run, &io, r->stash[c][mb]));
    }
}

static inline void rig_backward_input(rig *r, int32_t mb)
{
    const dml_run run = rig_run(r, mb);
    for (int32_t c = r->n - 1; c >= 0; c--) {
        rig_poison(r, c);
        const dml_chunk_io io = rig_io(r, c, mb);
        DML_CHECK_OK(
            dml_chunk_backward_input(&r->chunk[c], r->kt, r->k, &run, &io, r->stash[c][mb]));
    }
}

static inline void rig_backward_weight(rig *r, int32_t mb)
{
    dml_run run = rig_run(r, mb);
    for (int32_t c = 0; c < r->n; c++) {
        rig_poison(r, c);
        run.first = r->added[c]++ == 0;
        const dml_chunk_io io = rig_io(r, c, mb);
        DML_CHECK_OK(
            dml_chunk_backward_weight(&r->chunk[c], r->kt, r->k, &run, &io, r->stash[c][mb]));
    }
}

/* A whole step, micro-batch after micro-batch. */
static inline void rig_step(rig *r)
{
    rig_begin(r);
    for (int32_t mb = 0; mb < r->mbs; mb++) {
        rig_forward(r, mb);
        rig_backward(r, mb);
    }
}

static inline dml_chunk *rig_holder(rig *r, int32_t p)
{
    for (int32_t c = 0; c < r->n; c++)
        if (dml_chunk_param(&r->chunk[c], p)) return &r->chunk[c];
    fail_msg("nobody holds parameter %d", p);
    return NULL;
}

static inline float *rig_weight(rig *r, int32_t p)
{
    return dml_chunk_param(rig_holder(r, p), p);
}

/* Summed gradient of parameter `p` of the model; finished first, unless fast. */
static inline const float *rig_grad(rig *r, int32_t p)
{
    const dml_chunk *c = rig_holder(r, p);
    const int32_t i = p - c->param_begin;
    DML_CHECK_OK(dml_sum_finish(c, r->kt, r->k, i));
    return c->g + c->param_at[i];
}

/* Moves the running moments of chunk `c` by the samples of r->rows. */
static inline void rig_commit_state(rig *r, int32_t c)
{
    int64_t samples = 0;
    for (int32_t mb = 0; mb < r->mbs; mb++)
        samples += r->rows[mb];
    DML_CHECK_OK(dml_chunk_commit_state(&r->chunk[c], r->kt, r->k, samples));
}

static inline double rig_loss(const rig *r)
{
    double sum = 0;
    for (int32_t mb = 0; mb < r->mbs; mb++)
        sum += r->chunk[r->n - 1].loss[mb];
    return sum;
}

#endif
