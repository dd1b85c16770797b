/* tests/support/delayed.c - one loop over updates, one micro-batch at a time. */
#include "tests/support/test.h"

#include "tests/support/delayed.h"

#include "engine/chunk.h"
#include "engine/chunk_sum.h"
#include "engine/data.h"
#include "engine/data_steps.h"
#include "engine/lr.h"
#include "engine/superacc.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_MEMORY = 8 * DELAYED_STAGES + 2 };

typedef struct stage {
    dml_chunk chunk;
    float *version[DELAYED_UPDATES + 1]; /* [arena_elems] of the segment; NULL: not made yet */
    char *stash;
    void *dx;
    bool added; /* a gradient, in this update */
} stage;

typedef struct training {
    dml_spec spec;
    dml_model model;
    dml_arena arena;
    dml_data *data;
    const dml_backend *backend;
    const dml_kernel_table *kt;
    dml_device *device;
    dml_queue *queue;
    dml_kctx *k;
    void *memory[MOST_MEMORY];
    int32_t n_memory;
    int32_t stages, drain, micro_batches;
    stage stage[DELAYED_STAGES];
    float *images;
    int32_t *labels;
    const void *skip_in[DML_CHUNK_SKIPS], *skip_dy[DML_CHUNK_SKIPS]; /* of the call under way */
} training;

/* The rule. */
static int32_t version_read(delayed_mode mode, int32_t stages, int32_t s, int32_t t)
{
    int32_t late = 0;
    switch (mode) {
    case DELAYED_STASHING:
    case DELAYED_WITHOUT_STASHING: late = stages - 1 - s; break;
    case DELAYED_VERTICAL_SYNC: late = stages - 1; break;
    case DELAYED_2BW: late = 1; break;
    }
    return t > late ? t - late : 0;
}

/* ---- set up ---- */

static void *take(training *r, int64_t bytes)
{
    DML_CHECK(r->n_memory < MOST_MEMORY);
    void **p = &r->memory[r->n_memory++];
    DML_CHECK_OK(r->backend->device->alloc(r->device, bytes, p));
    return *p;
}

static void open_stage(training *r, int32_t s, int32_t begin, int32_t end)
{
    stage *at = &r->stage[s];
    DML_CHECK_OK(dml_chunk_plan(&r->spec, &r->model, begin, end, false, &r->arena, &at->chunk));
    void *shared = take(r, at->chunk.size.shared), *private_ = take(r, at->chunk.size.private_);
    DML_CHECK_OK(dml_chunk_bind(&at->chunk, r->backend->device, r->queue, shared, private_));
    at->stash = take(r, at->chunk.size.stash);
    at->dx = take(r, at->chunk.size.dx);
    for (int32_t n = 0; n <= r->drain; n++)
        at->version[n] = DML_NEW_N(&r->arena, float, at->chunk.arena_elems);
}

static void open_training(training *r, const char *spec_path, const char *const *overrides)
{
    int32_t n = 0, cut[DELAYED_STAGES + 1];
    while (overrides && overrides[n])
        n++;
    DML_CHECK_OK(dml_spec_load(spec_path, overrides, n, &r->spec));
    DML_CHECK_OK(dml_data_resolve_steps(&r->spec));
    r->spec.parallelism.recompute =
        DML_RECOMPUTE_NONE; /* the same bits: nothing is thrown away here */
    DML_CHECK_OK(dml_data_open(&r->spec, false, DML_DATA_ALL, &r->data));
    DML_CHECK_OK(dml_backend_find(r->spec.parallelism.backend, &r->backend));
    DML_CHECK(r->backend->on_host);
    r->kt = r->backend->kernels;
    const dml_device_config device = {.threads = 1, .queue_capacity = 64};
    DML_CHECK_OK(r->backend->device->open(&device, &r->device));
    DML_CHECK_OK(r->backend->device->queue_open(r->device, "delayed", &r->queue));
    const dml_kctx_config kernels = {.threads = 1,
                                     .deterministic = r->spec.training.numerics != DML_FAST};
    DML_CHECK_OK(r->kt->open(r->device, r->queue, &kernels, &r->k));
    DML_CHECK_OK(dml_model_make(&r->spec, &r->arena, &r->model));
    DML_CHECK_OK(dml_model_split(&r->spec, &r->model, r->stages, false, cut));
    DML_CHECK_OK(dml_model_cut(&r->model, r->stages, cut, &r->arena));
    for (int32_t s = 0; s < r->stages; s++)
        open_stage(r, s, cut[s], cut[s + 1]);
    r->micro_batches = r->spec.training.num_microbatches;
    r->images = take(r, r->stage[0].chunk.size.in);
    r->labels = take(r, r->spec.training.micro_batch_size * (int64_t)sizeof(int32_t));
}

static void close_training(training *r)
{
    r->kt->close(r->k);
    r->backend->device->queue_close(r->queue);
    for (int32_t i = 0; i < r->n_memory; i++)
        r->backend->device->free(r->device, r->memory[i]);
    r->backend->device->close(r->device);
    dml_data_close(r->data);
    dml_arena_free(&r->arena);
    dml_spec_free(&r->spec);
}

/* ---- weights ---- */

static int64_t bytes_of(const stage *at)
{
    return at->chunk.arena_elems * (int64_t)sizeof(float);
}

static void load(training *r, stage *at, int32_t version)
{
    memcpy(at->chunk.w, at->version[version], (size_t)bytes_of(at));
    r->kt->weights_changed(r->k);
    DML_CHECK_OK(dml_chunk_convert(&at->chunk, r->kt, r->k, 0));
}

static void keep(stage *at, int32_t version)
{
    memcpy(at->version[version], at->chunk.w, (size_t)bytes_of(at));
}

/* ---- one update ---- */

/* Borders of stage s: what others made lies with them, one micro-batch at a time. */
static dml_chunk_io borders_of(training *r, int32_t s)
{
    const dml_chunk *c = &r->stage[s].chunk;
    const dml_model_skip *skip = r->model.cut->skip;
    for (int32_t i = 0; i < c->n_skip_in; i++) {
        const int32_t k = c->skip_in[i].skip;
        const stage *from = &r->stage[skip[k - 1].from];
        r->skip_in[i] =
            from->stash + dml_chunk_end(from->chunk.skip_out, from->chunk.n_skip_out, k)->at;
    }
    for (int32_t i = 0; i < c->n_skip_back; i++) {
        const int32_t k = c->skip_back[i].skip;
        const stage *to = &r->stage[skip[k - 1].to];
        r->skip_dy[i] =
            (char *)to->dx + dml_chunk_end(to->chunk.skip_in, to->chunk.n_skip_in, k)->at;
    }
    const stage *below = s > 0 ? &r->stage[s - 1] : NULL;
    return (dml_chunk_io){.in = below ? (void *)(below->stash + below->chunk.size.out_offset)
                                      : r->images,
                          .dy = s + 1 < r->stages ? r->stage[s + 1].dx : NULL,
                          .dx = below ? r->stage[s].dx : NULL,
                          .skip_in = r->skip_in,
                          .skip_dy = r->skip_dy};
}

static void forward_and_backward(training *r, delayed_mode mode, int32_t t, dml_run run)
{
    const int32_t last = r->stages - 1;
    for (int32_t s = 0; s <= last; s++) {
        stage *at = &r->stage[s];
        load(r, at, version_read(mode, r->stages, s, t));
        const dml_chunk_io io = borders_of(r, s);
        DML_CHECK_OK(dml_chunk_forward(&at->chunk, r->kt, r->k, &run, &io,
                                       s == last ? r->labels : NULL, at->stash));
    }
    for (int32_t s = last; s >= 0; s--) {
        stage *at = &r->stage[s];
        const int32_t version =
            mode == DELAYED_WITHOUT_STASHING ? t : version_read(mode, r->stages, s, t);
        load(r, at, version);
        run.first = !at->added;
        at->added = true;
        const dml_chunk_io io = borders_of(r, s);
        DML_CHECK_OK(dml_chunk_backward(&at->chunk, r->kt, r->k, &run, &io, at->stash));
    }
}

/* Gradients and loss sum of update t since the last drain, which is step `step` of the run. */
static double add_up(training *r, delayed_mode mode, int64_t step, int32_t t)
{
    const dml_step_words words = {.step = step, .loss_scale = 1.0f};
    const int32_t size = r->spec.training.micro_batch_size;
    DML_CHECK_OK(r->kt->begin_step(r->k, &words));
    for (int32_t s = 0; s < r->stages; s++) {
        r->stage[s].added = false;
        DML_CHECK_OK(dml_chunk_begin_step(&r->stage[s].chunk, r->kt, r->k));
    }
    double loss = 0.0;
    for (int32_t mb = 0; mb < r->micro_batches; mb++) {
        const int32_t rows = dml_data_rows(r->data, step, mb);
        if (rows == 0) continue;
        dml_data_fill_images(r->data, step, mb, r->images);
        dml_data_fill_labels(r->data, step, mb, r->labels);
        const dml_run run = {
            .train = true, .mb = mb, .rows = rows, .first_sample = (int64_t)mb * size};
        forward_and_backward(r, mode, t, run);
        loss += r->stage[r->stages - 1].chunk.loss[mb];
    }
    return loss;
}

/* Sum of squares of the stage's gradients, which become the finished sums. */
static void add_norm(training *r, const dml_chunk *c, dml_superacc *sum)
{
    for (int32_t p = c->param_begin; p < c->param_end; p++) {
        const int32_t i = p - c->param_begin;
        const int64_t elems = c->model->param[p].elems,
                      n = (elems + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
        double *partial = DML_NEW_N(&r->arena, double, n);
        const dml_tensor g = dml_tensor_of(c->g + c->param_at[i], DML_F32, 1, &elems);
        const dml_tensor part = dml_tensor_of(partial, DML_F64, 1, &n);
        DML_CHECK_OK(dml_sum_finish(c, r->kt, r->k, i));
        DML_CHECK_OK(r->kt->sum_squares(r->k, &part, &g));
        for (int64_t k = 0; k < n; k++)
            dml_superacc_add(sum, partial[k]);
    }
}

/* t: steps taken before, of which Adam's bias correction speaks. */
static void step_stage(training *r, const dml_chunk *c, int64_t t, double scale)
{
    const dml_spec *spec = &r->spec;
    const double lr = dml_lr_at(spec, dml_data_total_steps(r->data), t);
    for (int32_t p = c->param_begin; p < c->param_end; p++) {
        const int64_t at = c->param_at[p - c->param_begin];
        const dml_param *param = &c->model->param[p];
        const dml_opt_tensor tensor = {.w = c->w + at,
                                       .g = c->g + at,
                                       .m = c->m ? c->m + at : NULL,
                                       .v = c->v ? c->v + at : NULL,
                                       .n = param->elems,
                                       .weight_decay = spec->optimizer.decay_all || param->decay
                                                           ? spec->optimizer.weight_decay
                                                           : 0.0f};
        const dml_sgd sgd = {.lr = (float)lr,
                             .momentum = spec->optimizer.momentum,
                             .grad_scale = (float)scale,
                             .nesterov = spec->optimizer.nesterov,
                             .first = t == 0};
        double b1 = 1.0, b2 = 1.0;
        for (int64_t k = 0; k <= t; k++) {
            b1 *= (double)spec->optimizer.betas[0];
            b2 *= (double)spec->optimizer.betas[1];
        }
        const dml_adamw adamw = {.lr = (float)lr,
                                 .beta1 = spec->optimizer.betas[0],
                                 .beta2 = spec->optimizer.betas[1],
                                 .eps = spec->optimizer.eps,
                                 .grad_scale = (float)scale,
                                 .bias1 = (float)(1.0 - b1),
                                 .sqrt_bias2 = (float)sqrt(1.0 - b2)};
        if (spec->optimizer.name == DML_OPT_SGD)
            DML_CHECK_OK(r->kt->sgd(r->k, &sgd, &tensor, 1));
        else
            DML_CHECK_OK(r->kt->adamw(r->k, &adamw, &tensor, 1));
    }
}

/* Version t + 1 of every stage from its version t; returns the norm. */
static double update(training *r, int64_t step, int32_t t)
{
    const int64_t samples = dml_data_step_samples(r->data, step);
    dml_superacc sum = {0};
    for (int32_t s = 0; s < r->stages; s++)
        add_norm(r, &r->stage[s].chunk, &sum);
    const double norm = sqrt(dml_superacc_round(&sum)) / (double)samples,
                 clip = (double)r->spec.training.grad_clip;
    double scale = 1.0 / (double)samples;
    if (clip > 0.0 && norm > clip) scale *= clip / (norm + 1e-6);
    for (int32_t s = 0; s < r->stages; s++) {
        stage *at = &r->stage[s];
        load(r, at, t);
        step_stage(r, &at->chunk, step, scale);
        keep(at, t + 1);
        DML_CHECK_OK(dml_chunk_commit_state(&at->chunk, r->kt, r->k, samples));
    }
    return norm;
}

static bool drains_before(const training *r, int64_t step, int64_t drained)
{
    const int64_t every = r->spec.training.eval_interval_steps;
    return step - drained == r->drain || (every > 0 && step % every == 0);
}

delayed_result delayed_train(const char *spec_path, const char *const *overrides, delayed_mode mode,
                             int32_t stages, int32_t drain)
{
    DML_CHECK(stages <= DELAYED_STAGES && drain <= DELAYED_UPDATES);
    training *r = calloc(1, sizeof *r);
    DML_CHECK(r);
    r->stages = stages;
    r->drain = drain;
    open_training(r, spec_path, overrides);
    delayed_result out = {.updates = r->spec.training.max_steps};
    DML_CHECK(out.updates <= DELAYED_UPDATES);
    int64_t drained = 0;
    for (int64_t step = 0; step < out.updates; step++) {
        if (drains_before(r, step, drained)) drained = step;
        const int32_t t = (int32_t)(step - drained);
        for (int32_t s = 0; t == 0 && s < stages; s++)
            keep(&r->stage[s], 0);
        out.loss[step] = add_up(r, mode, step, t) / (double)dml_data_step_samples(r->data, step);
        out.norm[step] = update(r, step, t);
    }
    for (int32_t s = 0; s < stages; s++) {
        uint64_t hash;
        DML_CHECK_OK(
            dml_chunk_weights_hash(&r->stage[s].chunk, r->backend->device, r->queue, &hash));
        out.weights_hash += hash;
    }
    close_training(r);
    free(r);
    return out;
}
