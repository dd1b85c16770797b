/* engine/chunk_run.c - runs a chunk's steps on one micro-batch. */
#include "engine/chunk_impl.h"

#include "engine/chunk_bucket.h"
#include "engine/chunk_sum.h"

#include <stdio.h>

/* One call: who computes, on which micro-batch, and where each region begins. */
typedef struct frame {
    const dml_chunk *c;
    const dml_kernel_table *kt;
    dml_kctx *k;
    const dml_run *run;
    const dml_chunk_io *io;
    char *base[DML_REGIONS];  /* not of SKIPS and BACKS, which are in io */
    const dml_buffer *buffer; /* their places in this call */
    const int32_t *labels;
} frame;

/* The const of inputs, output gradients and `labels` is kept by the graph: no step writes those regions. */
static char *begin_of(const void *region)
{
    return (char *)(uintptr_t)region;
}

static void *at(const frame *f, int32_t buffer)
{
    if (buffer == DML_NO_BUFFER) return NULL;
    const dml_buffer *b = &f->buffer[buffer];
    if (b->where == DML_AT_SKIPS) return begin_of(f->io->skip_in[b->at]);
    if (b->where == DML_AT_BACKS) return f->io->skip_dy ? begin_of(f->io->skip_dy[b->at]) : NULL;
    return f->base[b->where] ? f->base[b->where] + b->at : NULL;
}

static dml_tensor vector(void *data, dml_dtype dtype, int64_t elems)
{
    return dml_tensor_of(data, dtype, 1, &elems);
}

/* [rows, shape...] */
static dml_tensor batch(const frame *f, int32_t buffer, dml_shape s)
{
    dml_tensor t = {
        .data = at(f, buffer), .dtype = f->c->act, .rank = s.rank + 1, .dim = {1, 1, 1, 1}};
    t.dim[0] = f->run->rows;
    for (int32_t i = 0; i < s.rank; i++)
        t.dim[i + 1] = s.dim[i];
    return t;
}

static dml_tensor flat_batch(const frame *f, int32_t buffer, int64_t row_elems)
{
    return dml_tensor_of(at(f, buffer), f->c->act, 2, (const int64_t[]){f->run->rows, row_elems});
}

/* Parameter `p` of the model, or its gradient, at `data`. */
static dml_tensor param_tensor(const frame *f, int32_t p, void *data, dml_dtype dtype)
{
    const dml_param *param = &f->c->model->param[p];
    return dml_tensor_of(data, dtype, param->rank, param->dim);
}

/* What the layer reads of it: the master, or the copy in the act type. */
static dml_tensor weight_tensor(const frame *f, const dml_layer *l, int32_t p)
{
    char *copy = ((const dml_chunk_impl *)f->c->impl)->w_act;
    if (!copy || !(l->cls->traits & DML_W_LIKE_X))
        return param_tensor(f, p, dml_chunk_param(f->c, p), DML_F32);
    const int64_t at = f->c->param_at[p - f->c->param_begin];
    return param_tensor(f, p, copy + at * dml_dtype_bytes(f->c->act), f->c->act);
}

/* ---- one layer ---- */

static void set_params(const frame *f, const dml_layer *l, float *grads, dml_layer_call *call)
{
    for (int32_t p = l->param_begin; p < l->param_end; p++) {
        const int32_t i = p - l->param_begin;
        call->param[i] = weight_tensor(f, l, p);
        if (!grads) continue;
        call->dparam[i] = param_tensor(f, p, grads, DML_F32);
        grads += dml_padded_elems(f->c->model->param[p].elems);
    }
}

/* Training: this micro-batch's slot, [2][c]; evaluation: the running moments. */
static void set_moments(const frame *f, const dml_layer *l, int64_t moments_at,
                        dml_layer_call *call)
{
    if (l->state_begin == l->state_end) return;
    const int64_t c = f->c->model->state[l->state_begin].elems;
    float *mean = dml_chunk_state(f->c, l->state_begin);
    float *var = dml_chunk_state(f->c, l->state_begin + 1);
    if (f->run->train) {
        mean = f->c->moments + moments_at + 2 * c * f->run->mb;
        var = mean + c;
    }
    call->mean = vector(mean, DML_F32, c);
    call->var = vector(var, DML_F32, c);
}

static void set_loss(const frame *f, dml_layer_call *call)
{
    call->loss = vector(f->c->loss + f->run->mb, DML_F64, 1);
    call->correct = vector(f->c->correct + f->run->mb, DML_I32, 1);
    call->labels = vector(begin_of(f->labels), DML_I32, f->run->rows);
}

static dml_layer_call call_of(const frame *f, int32_t i, float *grads)
{
    const dml_chunk_impl *impl = f->c->impl;
    const dml_layer *l = &f->c->model->layer[f->c->layer_begin + i];
    const dml_layer_plan *p = &impl->layer[i];
    dml_layer_call call = {
        .kt = f->kt,
        .k = f->k,
        .layer = l,
        .run = f->run,
        .dropout_key = impl->dropout_key[i],
        .x = batch(f, p->x, l->in),
        .with = batch(f, p->with, l->out),
        .y = batch(f, p->y, l->out),
        .keep = flat_batch(f, p->keep, l->keep_elems),
        .dy = batch(f, p->dy, l->out),
        .dx = batch(f, p->dx, l->in),
    };
    call.keep.dtype = DML_I32;
    set_params(f, l, grads, &call);
    set_moments(f, l, p->moments_at, &call);
    if (l->cls->traits & DML_LOSS) set_loss(f, &call);
    return call;
}

static dml_err forward_step(const frame *f, int32_t i)
{
    const dml_layer_plan *p = &((const dml_chunk_impl *)f->c->impl)->layer[i];
    const dml_layer_call call = call_of(f, i, NULL);
    return p->acts ? dml_fused_forward(&call, at(f, p->keep)) : call.layer->cls->forward(&call);
}

static dml_err input_step(const frame *f, int32_t i)
{
    const dml_chunk_impl *impl = f->c->impl;
    const dml_layer_call call = call_of(f, i, at(f, impl->layer[i].early));
    if (!impl->layer[i].unacts) return call.layer->cls->backward_input(&call);
    const int32_t acted = call.layer->spec->input; /* and the layer that acts stands before it */
    return dml_fused_backward(&call, &f->c->model->layer[acted],
                              at(f, impl->layer[acted - 1 - f->c->layer_begin].keep));
}

/* ---- weight gradients ---- */

/* Float sums that a kernel can make in their place: the first by storing, the rest where it has an entry that
 * adds.  *done: nothing is left to add. */
static dml_err sum_in_place(const frame *f, int32_t i, bool *done)
{
    const dml_layer *l = &f->c->model->layer[f->c->layer_begin + i];
    const bool first = f->run->first;
    *done = false;
    if (f->c->acc || !l->cls->backward_weight || l->param_begin == l->param_end) return DML_ERR_OK;
    if (!first && (l->spec->kind != DML_LAYER_LINEAR || !f->kt->linear_add_weight))
        return DML_ERR_OK;
    *done = true;
    float *sums = f->c->g + f->c->param_at[l->param_begin - f->c->param_begin];
    const dml_layer_call call = call_of(f, i, sums);
    if (first) return l->cls->backward_weight(&call);
    return f->kt->linear_add_weight(f->k, &call.dparam[0], dml_present(&call.dparam[1]), &call.dy,
                                    &call.x);
}

static dml_err weight_step(const frame *f, int32_t i)
{
    const dml_chunk_impl *impl = f->c->impl;
    bool done;
    DML_TRY(sum_in_place(f, i, &done));
    if (done) return DML_ERR_OK;
    float *grads =
        impl->layer[i].early == DML_NO_BUFFER ? impl->panel : at(f, impl->layer[i].early);
    const dml_layer_call call = call_of(f, i, grads);
    const dml_layer *l = call.layer;
    if (l->cls->backward_weight) DML_TRY(l->cls->backward_weight(&call));
    for (int32_t p = l->param_begin; p < l->param_end; p++) {
        const int64_t elems = f->c->model->param[p].elems;
        const dml_tensor g = vector(grads, DML_F32, elems);
        DML_TRY(dml_sum_add(f->c, f->kt, f->k, p - f->c->param_begin, &g, f->run->first));
        grads += dml_padded_elems(elems);
    }
    return DML_ERR_OK;
}

/* ran[mb] = 1.  `fill` writes floats, and 2^-149 is the float whose bits are the integer 1. */
static dml_err mark_ran(const frame *f)
{
    const dml_tensor ran = vector(f->c->ran + f->run->mb, DML_F32, 1);
    return f->kt->fill(f->k, &ran, 0x1p-149f);
}

/* ---- lists ---- */

static dml_err run_step(const frame *f, const dml_step *s)
{
    const dml_tensor to = flat_batch(f, s->to, s->row_elems), a = flat_batch(f, s->a, s->row_elems),
                     b = flat_batch(f, s->b, s->row_elems);
    switch (s->kind) {
    case DML_STEP_FORWARD: return forward_step(f, s->layer);
    case DML_STEP_INPUT_GRAD: return input_step(f, s->layer);
    case DML_STEP_WEIGHT_GRAD: return weight_step(f, s->layer);
    case DML_STEP_ADD: return f->kt->add(f->k, &to, &a, &b);
    case DML_STEP_COPY: return dml_layer_copy(f->kt, f->k, &to, &a);
    case DML_STEP_CONVERT: {
        dml_tensor loaded = a;
        loaded.dtype = DML_F32;
        return f->kt->convert(f->k, &to, &loaded);
    }
    }
    DML_FAIL(DML_ERR_BUG, "step kind %d", (int)s->kind);
}

/* Adds the layer to the trail of an error, and where the spec has it. */
static dml_err name_layer(const frame *f, const dml_step *s, dml_err err)
{
    static const char *const doing[] = {
        [DML_STEP_FORWARD] = "forward",
        [DML_STEP_INPUT_GRAD] = "input gradient",
        [DML_STEP_WEIGHT_GRAD] = "weight gradient",
        [DML_STEP_ADD] = "sum of gradients",
        [DML_STEP_COPY] = "copy",
        [DML_STEP_CONVERT] = "conversion of the batch",
    };
    const dml_layer_spec *layer = f->c->model->layer[f->c->layer_begin + s->layer].spec;
    char text[160];
    snprintf(text, sizeof text, "%s of layer '%s', micro-batch %d", doing[s->kind], layer->name,
             f->run->mb);
    const bool written = layer->place.line > 0;
    return dml_err_add(err, text, written ? layer->place.file : __FILE__,
                       written ? layer->place.line : __LINE__);
}

/* What the time of a step counts as.  Sums of gradients and copies are their layer's backward. */
static dml_pass pass_of(const frame *f, const dml_steps *list, const dml_step *s)
{
    const dml_chunk_impl *impl = f->c->impl;
    if (list == &impl->forward || list == &impl->again) return DML_PASS_FORWARD;
    return s->kind == DML_STEP_WEIGHT_GRAD ? DML_PASS_WEIGHT : DML_PASS_INPUT;
}

static dml_err probed_step(const frame *f, dml_probe *probe, const dml_steps *list,
                           const dml_step *s)
{
    DML_TRY(dml_probe_begin(probe));
    DML_TRY(run_step(f, s));
    return dml_probe_end(probe, f->c->layer_begin + s->layer, pass_of(f, list, s), f->run->mb);
}

static dml_err run_steps(const frame *f, const dml_steps *list, int32_t begin, int32_t end)
{
    dml_probe *probe = f->run->train ? ((const dml_chunk_impl *)f->c->impl)->probe : NULL;
    for (int32_t i = begin; i < end; i++) {
        const dml_step *s = &list->step[i];
        const dml_err err = probe ? probed_step(f, probe, list, s) : run_step(f, s);
        if (err != DML_ERR_OK) return name_layer(f, s, err);
    }
    return DML_ERR_OK;
}

static frame frame_of(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                      const dml_run *run, const dml_chunk_io *io, void *stash)
{
    DML_ASSERT_OP(run->rows, >=, 1);
    DML_ASSERT_OP(run->rows, <=, c->mb_rows);
    DML_ASSERT_OP(run->mb, >=, 0);
    DML_ASSERT_OP(run->mb, <, c->mbs);
    const dml_chunk_impl *impl = c->impl;
    frame f = {.c = c, .kt = kt, .k = k, .run = run, .io = io, .buffer = impl->buffer};
    f.base[DML_AT_IN] = begin_of(io->in);
    f.base[DML_AT_DY] = begin_of(io->dy);
    f.base[DML_AT_DX] = io->dx;
    f.base[DML_AT_STASH] = stash;
    f.base[DML_AT_KEPT] = run->kept;
    f.base[DML_AT_WORK] = impl->work;
    return f;
}

/* ---- entries ---- */

void dml_chunk_set_probe(dml_chunk *c, dml_probe *probe)
{
    ((dml_chunk_impl *)c->impl)->probe = probe;
}

int32_t dml_chunk_steps(const dml_chunk *c)
{
    const dml_chunk_impl *impl = c->impl;
    return impl->forward.n + impl->again.n + impl->input.n + impl->weight.n;
}

dml_err dml_chunk_begin_step(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k)
{
    dml_chunk_impl *impl = c->impl;
    if (!impl->copied) DML_TRY(dml_chunk_convert(c, kt, k, 0));
    impl->copied = true;
    const dml_tensor slots = vector(c->slots, DML_I32, c->updates * c->slot_words);
    DML_TRY(kt->fill(k, &slots, 0));
    if (!c->acc || c->arena_elems == 0) return DML_ERR_OK;
    const dml_tensor max_bits = vector(c->max_bits, DML_U32, (int64_t)c->updates * c->max_words);
    return kt->fill(k, &max_bits, 0);
}

dml_err dml_chunk_zero_sums(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                            int32_t part)
{
    const int64_t at = part > 0 ? c->bucket[part - 1].at : 0,
                  elems = part > 0 ? c->bucket[part - 1].elems : c->arena_elems;
    if (elems == 0) return DML_ERR_OK;
    if (!c->acc) {
        const dml_tensor sums = vector(c->g + at, DML_F32, elems);
        return kt->fill(k, &sums, 0);
    }
    /* The words' planes lie one after another: all of them are one range. */
    const int64_t n = part > 0 ? elems : c->acc_elems;
    for (int64_t plane = 0; plane<c->acc_elems; plane += part> 0 ? c->arena_elems : n) {
        const dml_tensor sums = vector(c->acc + plane + at, DML_I64, n);
        DML_TRY(kt->fill(k, &sums, 0));
    }
    return DML_ERR_OK;
}

dml_err dml_chunk_forward(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, const dml_run *run,
                          const dml_chunk_io *io, const int32_t *labels, void *stash)
{
    const dml_chunk_impl *impl = c->impl;
    frame f = frame_of(c, kt, k, run, io, stash);
    f.labels = labels;
    DML_ASSERT(!run->recomputed || impl->lean);
    if (run->recomputed) f.buffer = impl->lean;
    return run_steps(&f, &impl->forward, 0, impl->forward.n);
}

dml_err dml_chunk_recompute(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                            const dml_run *run, const dml_chunk_io *io, const int32_t *labels,
                            void *stash)
{
    const dml_chunk_impl *impl = c->impl;
    DML_ASSERT(run->train && run->recomputed);
    frame f = frame_of(c, kt, k, run, io, stash);
    f.labels = labels;
    return run_steps(&f, &impl->again, 0, impl->again.n);
}

dml_err dml_chunk_backward(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                           const dml_run *run, const dml_chunk_io *io, void *stash)
{
    const dml_chunk_impl *impl = c->impl;
    frame f = frame_of(c, kt, k, run, io, stash);
    const dml_part part = dml_chunk_part(c, run->part);
    DML_TRY(run_steps(&f, &impl->input, part.input_begin, part.input_end));
    DML_TRY(run_steps(&f, &impl->weight, part.weight_begin, part.weight_end));
    return part.last ? mark_ran(&f) : DML_ERR_OK;
}

dml_err dml_chunk_backward_input(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                                 const dml_run *run, const dml_chunk_io *io, void *stash)
{
    const dml_chunk_impl *impl = c->impl;
    DML_ASSERT(c->split_backward);
    frame f = frame_of(c, kt, k, run, io, stash);
    return run_steps(&f, &impl->input, 0, impl->input.n);
}

dml_err dml_chunk_backward_weight(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                                  const dml_run *run, const dml_chunk_io *io, void *stash)
{
    const dml_chunk_impl *impl = c->impl;
    DML_ASSERT(c->split_backward);
    frame f = frame_of(c, kt, k, run, io, stash);
    const dml_part part = dml_chunk_part(c, run->part);
    DML_TRY(run_steps(&f, &impl->weight, part.weight_begin, part.weight_end));
    return part.last ? mark_ran(&f) : DML_ERR_OK;
}
