/* engine/chunk.c - what a chunk holds and where: sizes, binding, slots, access by name.
 *
 *   shared    (ran | loss | correct | moments) x updates | max_bits x updates | accumulators (chunk_sum.h) x sums
 *   private   w x versions | m | v | g (unless shared) x sums | w in the act type x versions | running moments
 *             | panel | scratch
 */
#include "engine/chunk_impl.h"

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/rng.h"
#include "engine/chunk_bucket.h"
#include "engine/chunk_sum.h"

#include <stdlib.h>

enum { FIRST_EXPONENT = 16 }; /* E before anything is known (exact-sums) */

static int32_t n_params(const dml_chunk *c)
{
    return c->param_end - c->param_begin;
}

static int32_t n_states(const dml_chunk *c)
{
    return c->state_end - c->state_begin;
}

static const dml_sum_info *sum_info(const dml_chunk *c)
{
    return dml_sum_info_of(c->spec->training.numerics);
}

bool dml_optimizer_has_m(const dml_spec *spec)
{
    return spec->optimizer.name == DML_OPT_ADAMW || spec->optimizer.momentum != 0.0f;
}

bool dml_optimizer_has_v(const dml_spec *spec)
{
    return spec->optimizer.name == DML_OPT_ADAMW;
}

static bool has_loss(const dml_chunk *c)
{
    return c->layer_end == c->model->n_layers;
}

static int64_t state_elems(const dml_chunk *c)
{
    int64_t n = 0;
    for (int32_t s = c->state_begin; s < c->state_end; s++)
        n += c->model->state[s].elems;
    return n;
}

/* ---- layout: walked once without memory to know the size, once with it ---- */

typedef struct cursor {
    char *base; /* NULL: only count */
    int64_t at;
} cursor;

static void *take(cursor *p, int64_t count, int64_t each)
{
    void *here = p->base ? p->base + p->at : NULL;
    p->at += dml_align_bytes(count * each);
    return here;
}

static int64_t lay_out_shared(dml_chunk *c, void *memory)
{
    cursor p = {.base = memory};
    c->slots = memory;
    c->ran = take(&p, c->mbs, sizeof(int32_t));
    c->loss = take(&p, has_loss(c) ? c->mbs : 0, sizeof(double));
    c->correct = take(&p, has_loss(c) ? c->mbs : 0, sizeof(int32_t));
    if (!has_loss(c)) {
        c->loss = NULL;
        c->correct = NULL;
    }
    c->moments = take(&p, c->mbs * state_elems(c), sizeof(float)); /* mean and var: two states */
    c->slot_words = p.at / (int64_t)sizeof(int32_t);
    p.at *= c->updates;
    if (sum_info(c)->words > 0) {
        c->acc_elems = sum_info(c)->words * c->arena_elems;
        c->max_words = (int32_t)dml_padded_elems(n_params(c));
        c->max_bits = take(&p, (int64_t)c->updates * c->max_words, sizeof(uint32_t));
        c->acc = take(&p, c->sums * c->acc_elems, sizeof(int64_t));
    } else {
        c->g = take(&p, c->sums * c->arena_elems, sizeof(float));
    }
    return p.at;
}

static int64_t lay_out_private(dml_chunk *c, void *memory)
{
    dml_chunk_impl *impl = c->impl;
    cursor p = {.base = memory};
    c->w = take(&p, c->versions * c->arena_elems, sizeof(float));
    if (dml_optimizer_has_m(c->spec)) c->m = take(&p, c->arena_elems, sizeof(float));
    if (dml_optimizer_has_v(c->spec)) c->v = take(&p, c->arena_elems, sizeof(float));
    if (sum_info(c)->words > 0) c->g = take(&p, c->sums * c->arena_elems, sizeof(float));
    impl->w_act = NULL;
    if (c->act != DML_F32) impl->w_act = take(&p, c->versions, dml_w_act_bytes(c));
    c->state = take(&p, state_elems(c), sizeof(float));
    impl->panel = take(&p, impl->panel_elems, sizeof(float));
    impl->work = take(&p, impl->work_bytes, 1);
    return p.at;
}

/* ---- plan ---- */

static void plan_params(dml_chunk *c, dml_arena *arena)
{
    c->param_begin = c->model->layer[c->layer_begin].param_begin;
    c->param_end = c->model->layer[c->layer_end - 1].param_end;
    c->param_at = DML_NEW_N(arena, int64_t, n_params(c));
    for (int32_t i = 0; i < n_params(c); i++) {
        c->param_at[i] = c->arena_elems;
        c->arena_elems += dml_padded_elems(c->model->param[c->param_begin + i].elems);
    }
    if (!sum_info(c)->scaled) return;
    c->exponent = DML_NEW_N(arena, int32_t, n_params(c));
    for (int32_t i = 0; i < n_params(c); i++)
        c->exponent[i] = FIRST_EXPONENT;
}

static void plan_states(dml_chunk *c, dml_arena *arena)
{
    c->state_begin = c->model->layer[c->layer_begin].state_begin;
    c->state_end = c->model->layer[c->layer_end - 1].state_end;
    c->state_at = DML_NEW_N(arena, int64_t, n_states(c));
    for (int32_t i = 1; i < n_states(c); i++)
        c->state_at[i] = c->state_at[i - 1] + c->model->state[c->state_begin + i - 1].elems;
}

static void plan_borders(dml_chunk *c)
{
    const int64_t row = c->mb_rows * dml_dtype_bytes(c->act);
    const int64_t in = dml_chunk_in_elems(c);
    c->size.in = c->layer_begin > 0 ? in * row : in * c->mb_rows * (int64_t)sizeof(float);
    c->size.dx = c->layer_begin > 0 ? c->size.in : 0;
    c->size.dy = has_loss(c) ? 0 : dml_shape_elems(c->model->layer[c->layer_end - 1].out) * row;
}

dml_err dml_chunk_plan(const dml_spec *spec, const dml_model *model, int32_t layer_begin,
                       int32_t layer_end, bool split_backward, dml_arena *arena, dml_chunk *out)
{
    if (layer_begin < 0 || layer_begin >= layer_end || layer_end > model->n_layers)
        DML_FAIL(DML_ERR_BUG, "a chunk of layers %d to %d of %d", layer_begin, layer_end,
                 model->n_layers);
    DML_TRY(dml_sum_check(spec));
    dml_chunk_impl *impl = DML_NEW(arena, dml_chunk_impl);
    dml_chunk c = {
        .spec = spec,
        .model = model,
        .layer_begin = layer_begin,
        .layer_end = layer_end,
        .mb_rows = spec->training.micro_batch_size,
        .mbs = spec->training.num_microbatches,
        .act = dml_act_type(spec),
        .split_backward = split_backward,
        .versions = 1,
        .sums = 1,
        .updates = 1,
        .impl = impl,
    };
    plan_params(&c, arena);
    plan_states(&c, arena);
    plan_borders(&c);
    DML_TRY(dml_chunk_graph(&c, impl, dml_chunk_plan_skips(&c, arena), arena));
    impl->dropout_key = DML_NEW_N(arena, uint64_t, layer_end - layer_begin);
    for (int32_t i = layer_begin; i < layer_end; i++)
        impl->dropout_key[i - layer_begin] =
            dml_rng_key(spec->run.seed, DML_RNG_DROPOUT, (uint64_t)i);
    c.size.shared = lay_out_shared(&c, NULL);
    c.size.private_ = lay_out_private(&c, NULL);
    dml_chunk_bucket(&c, arena);
    *out = c;
    return DML_ERR_OK;
}

void dml_chunk_buffers(dml_chunk *c, int32_t versions, int32_t sums, int32_t updates)
{
    c->versions = versions;
    c->sums = sums;
    c->updates = updates;
    c->size.shared = lay_out_shared(c, NULL);
    c->size.private_ = lay_out_private(c, NULL);
}

/* ---- bind ---- */

/* Initial weights and states, laid out as in the chunk. */
static void fill_initial(const dml_chunk *c, float *w, float *state)
{
    for (int32_t i = 0; i < n_params(c); i++)
        dml_param_init(c->spec, &c->model->param[c->param_begin + i], w + c->param_at[i]);
    for (int32_t i = 0; i < n_states(c); i++) {
        const dml_state *s = &c->model->state[c->state_begin + i];
        for (int64_t j = 0; j < s->elems; j++)
            state[c->state_at[i] + j] = s->start;
    }
}

static dml_err load_initial(dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                            float *staging)
{
    float *state = staging + c->arena_elems;
    fill_initial(c, staging, state);
    if (c->arena_elems > 0)
        DML_TRY(device->copy(queue, c->w, staging, c->arena_elems * (int64_t)sizeof(float)));
    if (state_elems(c) > 0)
        DML_TRY(device->copy(queue, c->state, state, state_elems(c) * (int64_t)sizeof(float)));
    return device->sync(queue, dml_clock_ns() + c->spec->parallelism.timeout_ns);
}

void dml_chunk_place(dml_chunk *c, void *shared, void *private_)
{
    lay_out_shared(c, shared);
    lay_out_private(c, private_);
    dml_chunk_weights_written(c);
}

void dml_chunk_weights_written(const dml_chunk *c)
{
    ((dml_chunk_impl *)c->impl)->copied = false;
}

/* Frees what copies of `queue` use.  One that may still be under way keeps it: then the queue does not come to rest, and
 * the process ends. */
static void free_staging(const dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                         void *memory, dml_err err)
{
    const int64_t deadline_ns = dml_clock_ns() + c->spec->parallelism.timeout_ns;
    if (err == DML_ERR_OK || device->renew(queue, deadline_ns) == DML_ERR_OK) free(memory);
}

dml_err dml_chunk_bind(dml_chunk *c, const dml_device_api *device, dml_queue *queue, void *shared,
                       void *private_)
{
    dml_chunk_place(c, shared, private_);
    const int64_t elems = c->arena_elems + state_elems(c);
    float *staging = calloc((size_t)elems + 1, sizeof(float));
    if (!staging) DML_FAIL(DML_ERR_NOMEM, "no memory for %lld initial weights", (long long)elems);
    const dml_err err = load_initial(c, device, queue, staging);
    free_staging(c, device, queue, staging, err);
    return err;
}

/* ---- access ---- */

float *dml_chunk_param(const dml_chunk *c, int32_t p)
{
    if (p < c->param_begin || p >= c->param_end) return NULL;
    return c->w + c->param_at[p - c->param_begin];
}

float *dml_chunk_state(const dml_chunk *c, int32_t s)
{
    if (s < c->state_begin || s >= c->state_end) return NULL;
    return c->state + c->state_at[s - c->state_begin];
}

/* Adds the hash of a named tensor, brought to the host first. */
static dml_err add_hash(const dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                        const char *name, const float *values, int64_t elems, void *host,
                        uint64_t *sum)
{
    const int64_t bytes = elems * (int64_t)sizeof(float);
    DML_TRY(device->copy(queue, host, values, bytes));
    DML_TRY(device->sync(queue, dml_clock_ns() + c->spec->parallelism.timeout_ns));
    *sum += dml_hash(host, bytes, dml_hash_text(name));
    return DML_ERR_OK;
}

static dml_err add_hashes(const dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                          void *host, uint64_t *sum)
{
    for (int32_t p = c->param_begin; p < c->param_end; p++) {
        const dml_param *param = &c->model->param[p];
        DML_TRY(add_hash(c, device, queue, param->name, dml_chunk_param(c, p), param->elems, host,
                         sum));
    }
    for (int32_t s = c->state_begin; s < c->state_end; s++) {
        const dml_state *state = &c->model->state[s];
        DML_TRY(add_hash(c, device, queue, state->name, dml_chunk_state(c, s), state->elems, host,
                         sum));
    }
    return DML_ERR_OK;
}

dml_err dml_chunk_weights_hash(const dml_chunk *c, const dml_device_api *device, dml_queue *queue,
                               uint64_t *out)
{
    int64_t most = 1;
    for (int32_t p = c->param_begin; p < c->param_end; p++)
        if (c->model->param[p].elems > most) most = c->model->param[p].elems;
    for (int32_t s = c->state_begin; s < c->state_end; s++)
        if (c->model->state[s].elems > most) most = c->model->state[s].elems;
    void *host = malloc((size_t)most * sizeof(float));
    if (!host) DML_FAIL(DML_ERR_NOMEM, "no memory to hash %lld weights", (long long)most);
    *out = 0;
    const dml_err err = add_hashes(c, device, queue, host, out);
    free_staging(c, device, queue, host, err);
    return err;
}
