/* engine/chunk_graph.c - from layers to steps over buffers.
 *
 * A *value* is an output: 0 is the chunk's input, i + 1 that of layer i, n + 1 + k what enters by skip_in[k].
 *
 * Forward: a layer gets a new buffer, its input's (an alias), or overwrites its input's: when it may, when
 * nobody else reads it and when no backward needs it.  What some backward needs is kept in the stash, or made
 * again there (chunk_recompute.c); the rest is scratch.
 *
 * Backward walks the layers down and hands gradients to the values they read.  Layers whose output is
 * their input's bytes are invisible: gradients belong to *roots*.  A value that is read twice (a residual
 * block's input) gets the sum in the order of the walk:
 *
 *        x ---conv1--relu1--conv2--+            dy --> grad[conv2] = grad[x] = dy      nothing moves
 *        |                         |            dX conv2, dX relu1 in place,
 *        +------------------------add--> y      dX conv1 to t, t = t + grad[x], grad[x] = t
 *
 * Values have the act type (training.precision), but for the loaded batch, which is float: the first chunk's
 * first step converts it.
 *
 * A buffer that two roots own, or that a weight gradient still reads (split backward), is never
 * overwritten.
 *
 * A value that a skip takes elsewhere is kept in the stash as it is; the sum of its gradient begins with what comes
 * back.  The sum of a value that a skip brought goes to its place in dx: right away, or, where the backward may be cut
 * into parts, whose last alone has dx, at the end.
 */
#include "engine/chunk_impl.h"

#include "engine/chunk_bucket.h"

typedef struct graph {
    dml_chunk *c;
    dml_chunk_impl *impl;
    const dml_layer *layer; /* of the chunk's first layer */
    int32_t n;
    bool has_loss;

    int32_t values;   /* n + 1 and one for each skip that enters */
    int32_t *x;       /* [n] value that the layer reads */
    int32_t *with;    /* [n] JOIN: the other */
    int32_t *store;   /* [values] buffer of each value */
    int32_t *readers; /* [values] layers that read it */
    int32_t *root;    /* [values] value whose gradient it shares */
    bool *wanted;     /* [values] a gradient is needed */
    int32_t *grad;    /* [values] of a root: buffer of the sum so far, or DML_NO_BUFFER */
    int32_t *dx; /* [values] of one that comes from below: its place in dx, else DML_NO_BUFFER */
    int32_t *pending; /* [values] contributions to its gradient still to come */

    bool *frozen;    /* [buffers] forward may not overwrite it */
    bool *kept;      /* [buffers] read by a later call of this chunk */
    bool *leaves;    /* [buffers] read by other chunks */
    int32_t *owners; /* [buffers] roots whose gradient it is */
    int32_t clock;   /* steps emitted, over all lists */
} graph;

static bool has(const graph *g, int32_t i, dml_trait trait)
{
    return g->layer[i].cls->traits & trait;
}

static bool has_params(const graph *g, int32_t i)
{
    return g->layer[i].param_end > g->layer[i].param_begin;
}

static int32_t input_of(const graph *g, int32_t i)
{
    return g->x[i];
}

static int32_t with_of(const graph *g, int32_t i)
{
    return g->with[i];
}

/* Value `v`, for batches of the full size. */
static int64_t value_elems(const graph *g, int32_t v)
{
    if (v > g->n) return dml_chunk_skip_of(g->c, &g->c->skip_in[v - g->n - 1])->elems;
    return v == 0 ? dml_chunk_in_elems(g->c) : dml_shape_elems(g->layer[v - 1].out);
}

static int64_t value_bytes(const graph *g, int32_t v)
{
    return value_elems(g, v) * g->c->mb_rows * dml_dtype_bytes(g->c->act);
}

static int32_t new_buffer(graph *g, dml_region where, int64_t bytes)
{
    const int32_t b = g->impl->n_buffers++;
    g->impl->buffer[b] = (dml_buffer){.where = where, .bytes = bytes, .from = -1, .to = -1};
    return b;
}

static void touch(graph *g, int32_t b)
{
    if (b == DML_NO_BUFFER) return;
    dml_buffer *buffer = &g->impl->buffer[b];
    if (buffer->from < 0) buffer->from = g->clock;
    buffer->to = g->clock;
}

/* ---- what there is ---- */

/* The value of the chunk that the output of model layer `layer` is, -1 when it is not here. */
static int32_t find_value(const graph *g, int32_t layer)
{
    const dml_layer *all = g->c->model->layer;
    const int32_t begin = g->c->layer_begin;
    if (layer >= begin) return layer - begin + 1;
    const int32_t value = layer < 0 ? -1 : all[layer].value;
    if (value == (begin == 0 ? -1 : all[begin - 1].value)) return 0;
    for (int32_t k = 0; k < g->c->n_skip_in; k++)
        if (dml_chunk_skip_of(g->c, &g->c->skip_in[k])->value == value) return g->n + 1 + k;
    return -1;
}

static dml_err count_readers(graph *g)
{
    for (int32_t i = 0; i < g->n; i++) {
        const bool join = has(g, i, DML_JOIN);
        g->x[i] = find_value(g, g->layer[i].spec->input);
        g->with[i] = join ? find_value(g, g->layer[i].spec->with) : 0;
        if (g->x[i] < 0 || g->with[i] < 0)
            DML_FAIL(DML_ERR_BUG,
                     "layer '%s' reads from below its chunk, and neither the chunk's input nor a "
                     "skip",
                     g->layer[i].spec->name);
        g->readers[g->x[i]]++;
        if (join) g->readers[g->with[i]]++;
    }
    return DML_ERR_OK;
}

static void find_roots(graph *g)
{
    g->wanted[0] = g->c->layer_begin > 0;
    for (int32_t v = g->n + 1; v < g->values; v++) {
        g->root[v] = v;
        g->wanted[v] = true;
    }
    for (int32_t i = 0; i < g->n; i++) {
        const int32_t x = input_of(g, i);
        g->root[i + 1] = g->layer[i].alias ? g->root[x] : i + 1;
        g->wanted[i + 1] =
            g->wanted[x] || has_params(g, i) || (has(g, i, DML_JOIN) && g->wanted[with_of(g, i)]);
    }
}

/* Whether backward_input runs: a gradient is wanted below, or parameter gradients come with it. */
static bool runs_backward(const graph *g, int32_t i)
{
    return g->wanted[input_of(g, i)] || (has(g, i, DML_JOIN) && g->wanted[with_of(g, i)]) ||
           (has(g, i, DML_JOINT) && has_params(g, i));
}

/* ---- forward ---- */

static int32_t output_buffer(graph *g, int32_t i, int32_t x)
{
    if (g->layer[i].alias || (has(g, i, DML_Y_MAY_BE_X) && !g->frozen[x])) return x;
    return new_buffer(g, DML_AT_WORK, value_bytes(g, i + 1));
}

static void keep_for_backward(graph *g, int32_t i)
{
    const dml_layer_plan *p = &g->impl->layer[i];
    const bool back = runs_backward(g, i);
    if (back && has(g, i, DML_DX_READS_X)) g->kept[p->x] = true;
    if (back && (has(g, i, DML_DX_READS_Y) || has(g, i, DML_LOSS))) g->kept[p->y] = true;
    if (back && p->keep != DML_NO_BUFFER) g->kept[p->keep] = true;
    if (has_params(g, i) && has(g, i, DML_DW_READS_X)) g->kept[p->x] = true;
}

static void emit(graph *g, dml_steps *list, dml_step step)
{
    touch(g, step.to);
    touch(g, step.a);
    touch(g, step.b);
    list->step[list->n++] = step;
    g->clock++;
}

static void emit_layer(graph *g, dml_steps *list, dml_step_kind kind, int32_t i)
{
    const dml_layer_plan *p = &g->impl->layer[i];
    const int32_t forward[] = {p->x, p->with, p->y, p->keep}, back[] = {p->dy, p->dx, p->early};
    for (int32_t b = 0; b < 4 && kind == DML_STEP_FORWARD; b++)
        touch(g, forward[b]);
    for (int32_t b = 0; b < 3 && kind != DML_STEP_FORWARD; b++)
        touch(g, back[b]);
    emit(g, list, (dml_step){kind, i, DML_NO_BUFFER, DML_NO_BUFFER, DML_NO_BUFFER, 0});
}

/* With the activation after it (chunk_fuse.c), whose output is the only one there is. */
static void forward_fused(graph *g, int32_t i)
{
    dml_layer_plan *p = &g->impl->layer[i];
    p->y = new_buffer(g, DML_AT_WORK, value_bytes(g, i + 1));
    p->keep = new_buffer(g, DML_AT_WORK, dml_fused_aux_bytes(g->c, &g->layer[i]) * g->c->mb_rows);
    g->store[i + 2] = p->y;
    g->kept[p->keep] = true;
    keep_for_backward(g, i);
    emit_layer(g, &g->impl->forward, DML_STEP_FORWARD, i);
}

static void forward_layer(graph *g, int32_t i)
{
    dml_layer_plan *p = &g->impl->layer[i];
    if (p->acted) {
        p->x = p->with = p->y = p->keep = p->dy = p->dx = p->early = DML_NO_BUFFER;
        return;
    }
    p->x = g->store[input_of(g, i)];
    p->with = has(g, i, DML_JOIN) ? g->store[with_of(g, i)] : DML_NO_BUFFER;
    p->dy = p->dx = p->early = DML_NO_BUFFER;
    if (p->acts) {
        forward_fused(g, i);
        return;
    }
    p->y = output_buffer(g, i, p->x);
    const int64_t keep_bytes = g->layer[i].keep_elems * g->c->mb_rows * (int64_t)sizeof(int32_t);
    p->keep = keep_bytes > 0 ? new_buffer(g, DML_AT_WORK, keep_bytes) : DML_NO_BUFFER;
    g->store[i + 1] = p->y;
    const bool leaves = dml_chunk_sends(g->c, i);
    if (g->readers[i + 1] != 1 || has(g, i, DML_DX_READS_Y) || leaves) g->frozen[p->y] = true;
    if (leaves) g->leaves[p->y] = true;
    keep_for_backward(g, i);
    if (!g->layer[i].alias || has(g, i, DML_TIMED))
        emit_layer(g, &g->impl->forward, DML_STEP_FORWARD, i);
}

/* The chunk's input, in the act type. */
static int32_t input_buffer(graph *g)
{
    const int32_t in = new_buffer(g, DML_AT_IN, g->c->size.in);
    g->frozen[in] = true;
    if (g->c->layer_begin > 0 || g->c->act == DML_F32) return in;
    const int32_t x = new_buffer(g, DML_AT_WORK, value_bytes(g, 0));
    g->frozen[x] = g->readers[0] != 1;
    emit(g, &g->impl->forward,
         (dml_step){DML_STEP_CONVERT, 0, x, in, DML_NO_BUFFER, value_elems(g, 0)});
    return x;
}

/* Returns the buffer of the output, which is none of the caller's: the last chunk has a loss instead. */
static int32_t forward(graph *g)
{
    g->store[0] = input_buffer(g);
    for (int32_t k = 0; k < g->c->n_skip_in; k++) {
        const int32_t b = new_buffer(g, DML_AT_SKIPS, g->c->skip_in[k].bytes);
        g->impl->buffer[b].at = k;
        g->frozen[b] = true;
        g->store[g->n + 1 + k] = b;
    }
    for (int32_t i = 0; i < g->n; i++)
        forward_layer(g, i);
    int32_t out = g->store[g->n];
    if (g->has_loss) return DML_NO_BUFFER;
    const dml_region lies = g->impl->buffer[out].where;
    if (lies == DML_AT_IN || lies == DML_AT_SKIPS) {
        const int32_t in = out;
        out = new_buffer(g, DML_AT_WORK, value_bytes(g, g->n));
        emit(g, &g->impl->forward,
             (dml_step){DML_STEP_COPY, g->n - 1, out, in, DML_NO_BUFFER, value_elems(g, g->n)});
    }
    g->leaves[out] = true;
    return out;
}

/* ---- backward ---- */

static void set_grad(graph *g, int32_t root, int32_t b)
{
    g->grad[root] = b;
    g->owners[b]++;
}

static int32_t take_grad(graph *g, int32_t root)
{
    const int32_t b = g->grad[root];
    g->grad[root] = DML_NO_BUFFER;
    if (b != DML_NO_BUFFER) g->owners[b]--;
    return b;
}

/* The chunk's input is read by its first layer, which belongs to the last part. */
static bool goes_right(const graph *g, int32_t root)
{
    return root == 0 || !dml_chunk_overlaps(g->c);
}

/* Where a contribution to `root` is written: the last one to what comes from below goes right to its place. */
static int32_t new_grad(graph *g, int32_t root, int32_t spare)
{
    if (g->dx[root] != DML_NO_BUFFER && g->pending[root] == 0 && goes_right(g, root))
        return g->dx[root];
    return spare != DML_NO_BUFFER ? spare : new_buffer(g, DML_AT_WORK, value_bytes(g, root));
}

/* `b`, just written for layer i, is a contribution to the gradient of `root`. */
static void give_grad(graph *g, int32_t i, int32_t root, int32_t b)
{
    const int32_t before = take_grad(g, root);
    if (before != DML_NO_BUFFER)
        emit(g, &g->impl->input, (dml_step){DML_STEP_ADD, i, b, b, before, value_elems(g, root)});
    set_grad(g, root, b);
}

/* The gradient in `b`, which others may own too, is a contribution to that of value `v`. */
static void pass_grad(graph *g, int32_t i, int32_t v, int32_t b)
{
    const int32_t root = g->root[v];
    if (!g->wanted[root]) return;
    g->pending[root]--;
    const int32_t before = take_grad(g, root);
    if (before == DML_NO_BUFFER) {
        set_grad(g, root, b);
        return;
    }
    const int32_t sum = new_grad(g, root, DML_NO_BUFFER);
    emit(g, &g->impl->input, (dml_step){DML_STEP_ADD, i, sum, before, b, value_elems(g, root)});
    set_grad(g, root, sum);
}

static void weight_step(graph *g, int32_t i)
{
    const dml_layer_plan *p = &g->impl->layer[i];
    if (!g->c->split_backward) {
        emit_layer(g, &g->impl->input, DML_STEP_WEIGHT_GRAD, i);
        return;
    }
    const int32_t later = has(g, i, DML_JOINT) ? p->early : p->dy;
    if (later != DML_NO_BUFFER) g->kept[later] = true;
    emit_layer(g, &g->impl->weight, DML_STEP_WEIGHT_GRAD, i);
}

static int64_t panel_elems(const graph *g, int32_t i)
{
    int64_t elems = 0;
    for (int32_t p = g->layer[i].param_begin; p < g->layer[i].param_end; p++)
        elems += dml_padded_elems(g->c->model->param[p].elems);
    return elems;
}

static void input_step(graph *g, int32_t i)
{
    dml_layer_plan *p = &g->impl->layer[i];
    const int32_t below = input_of(g, i), root = g->root[p->unacts ? below - 1 : below];
    const bool in_place = has(g, i, DML_DX_MAY_BE_DY) && g->owners[p->dy] == 0 && !g->kept[p->dy] &&
                          g->impl->buffer[p->dy].where == DML_AT_WORK;
    if (g->wanted[root]) {
        g->pending[root]--;
        p->dx = new_grad(g, root, in_place ? p->dy : DML_NO_BUFFER);
    } else {
        p->dx = new_buffer(g, DML_AT_WORK, value_bytes(g, root));
    }
    const int64_t panel_bytes = panel_elems(g, i) * (int64_t)sizeof(float);
    if (has(g, i, DML_JOINT)) p->early = new_buffer(g, DML_AT_WORK, panel_bytes);
    emit_layer(g, &g->impl->input, DML_STEP_INPUT_GRAD, i);
    if (g->wanted[root]) give_grad(g, i, root, p->dx);
}

static dml_err backward_layer(graph *g, int32_t i)
{
    dml_layer_plan *p = &g->impl->layer[i];
    if (p->acted) return DML_ERR_OK;
    if (g->layer[i].alias) {
        if (has(g, i, DML_TIMED)) {
            emit_layer(g, &g->impl->input, DML_STEP_INPUT_GRAD, i);
            weight_step(g, i);
        }
        return DML_ERR_OK;
    }
    if (has(g, i, DML_LOSS)) {
        pass_grad(g, i, input_of(g, i), p->y);
        return DML_ERR_OK;
    }
    if (!runs_backward(g, i) && !has_params(g, i)) return DML_ERR_OK;
    p->dy = take_grad(g, i + 1);
    if (p->dy == DML_NO_BUFFER)
        DML_FAIL(DML_ERR_BUG, "nobody reads the output of layer '%s'", g->layer[i].spec->name);
    if (has(g, i, DML_JOIN)) {
        pass_grad(g, i, input_of(g, i), p->dy);
        pass_grad(g, i, with_of(g, i), p->dy);
        return DML_ERR_OK;
    }
    if (has_params(g, i) && !has(g, i, DML_JOINT)) weight_step(g, i);
    if (runs_backward(g, i)) input_step(g, i);
    if (has_params(g, i) && has(g, i, DML_JOINT)) weight_step(g, i);
    return DML_ERR_OK;
}

static void count_pending(graph *g)
{
    for (int32_t i = 0; i < g->n; i++) {
        if (g->layer[i].alias) continue;
        g->pending[g->root[input_of(g, i)]]++;
        if (has(g, i, DML_JOIN)) g->pending[g->root[with_of(g, i)]]++;
    }
}

/* Sums begin with what comes from above.  Of each value only one: a chain leads down through those who have it. */
static dml_err begin_grads(graph *g)
{
    if (!g->has_loss) set_grad(g, g->root[g->n], new_buffer(g, DML_AT_DY, value_bytes(g, g->n)));
    for (int32_t k = 0; k < g->c->n_skip_back; k++) {
        const int32_t v = find_value(g, dml_chunk_skip_of(g->c, &g->c->skip_back[k])->value);
        if (v < 0 || g->grad[g->root[v]] != DML_NO_BUFFER)
            DML_FAIL(DML_ERR_BUG, "the gradient of skip %d comes back where %s",
                     g->c->skip_back[k].skip, v < 0 ? "its value is not" : "another has");
        const int32_t b = new_buffer(g, DML_AT_BACKS, g->c->skip_back[k].bytes);
        g->impl->buffer[b].at = k;
        set_grad(g, g->root[v], b);
    }
    return DML_ERR_OK;
}

/* The gradient of a value from below, if it is not there yet, goes to its place. */
static dml_err hand_on(graph *g, int32_t v)
{
    if (!g->wanted[v]) return DML_ERR_OK;
    const int32_t b = take_grad(g, v);
    if (b == DML_NO_BUFFER)
        DML_FAIL(DML_ERR_BUG, "nobody reads %s", v == 0 ? "the chunk's input" : "a skip's value");
    if (b != g->dx[v])
        emit(g, &g->impl->input,
             (dml_step){DML_STEP_COPY, 0, g->dx[v], b, DML_NO_BUFFER, value_elems(g, v)});
    return DML_ERR_OK;
}

static dml_err backward(graph *g)
{
    g->dx[0] = new_buffer(g, DML_AT_DX, value_bytes(g, 0));
    for (int32_t k = 0; k < g->c->n_skip_in; k++) {
        const int32_t b = new_buffer(g, DML_AT_DX, g->c->skip_in[k].bytes);
        g->impl->buffer[b].at = g->c->skip_in[k].at;
        g->dx[g->n + 1 + k] = b;
    }
    count_pending(g);
    DML_TRY(begin_grads(g));
    for (int32_t i = g->n - 1; i >= 0; i--)
        DML_TRY(backward_layer(g, i));
    DML_TRY(hand_on(g, 0));
    for (int32_t v = g->n + 1; v < g->values; v++)
        DML_TRY(hand_on(g, v));
    return DML_ERR_OK;
}

/* ---- memory ---- */

static void place_moments(graph *g)
{
    int64_t at = 0;
    for (int32_t i = 0; i < g->n; i++) {
        const dml_layer *l = &g->layer[i];
        g->impl->layer[i].moments_at = at;
        if (l->state_end > l->state_begin)
            at += 2 * (int64_t)g->c->mbs * g->c->model->state[l->state_begin].elems;
        const int64_t panel = panel_elems(g, i);
        if (panel > g->impl->panel_elems) g->impl->panel_elems = panel;
    }
}

static void init_graph(graph *g, dml_chunk *c, dml_chunk_impl *impl, dml_arena *arena)
{
    const int32_t n = c->layer_end - c->layer_begin, in = c->n_skip_in, values = n + 1 + in;
    /* Per layer at most: output and keep; dx, one sum per input, early.  And IN, converted, DY, DX, a copy; the
     * ends of skips: a value and its gradient, or a gradient that comes back. */
    const int32_t buffers = 6 * n + 5 + 2 * in + c->n_skip_back;
    *g = (graph){
        .c = c,
        .impl = impl,
        .layer = &c->model->layer[c->layer_begin],
        .n = n,
        .has_loss = c->layer_end == c->model->n_layers,
        .values = values,
        .x = DML_NEW_N(arena, int32_t, n),
        .with = DML_NEW_N(arena, int32_t, n),
        .store = DML_NEW_N(arena, int32_t, values),
        .readers = DML_NEW_N(arena, int32_t, values),
        .root = DML_NEW_N(arena, int32_t, values),
        .wanted = DML_NEW_N(arena, bool, values),
        .grad = DML_NEW_N(arena, int32_t, values),
        .dx = DML_NEW_N(arena, int32_t, values),
        .pending = DML_NEW_N(arena, int32_t, values),
        .frozen = DML_NEW_N(arena, bool, buffers),
        .kept = DML_NEW_N(arena, bool, buffers),
        .leaves = DML_NEW_N(arena, bool, buffers),
        .owners = DML_NEW_N(arena, int32_t, buffers),
    };
    for (int32_t v = 0; v < values; v++)
        g->grad[v] = g->dx[v] = DML_NO_BUFFER;
    impl->layer = DML_NEW_N(arena, dml_layer_plan, n);
    impl->buffer = DML_NEW_N(arena, dml_buffer, buffers);
    impl->forward.step = DML_NEW_N(arena, dml_step, n + 2);
    impl->input.step = DML_NEW_N(arena, dml_step, 4 * n + 1 + in);
    impl->weight.step = DML_NEW_N(arena, dml_step, n);
}

dml_err dml_chunk_graph(dml_chunk *c, dml_chunk_impl *impl, dml_chunk_skip *skip_out,
                        dml_arena *arena)
{
    graph g;
    init_graph(&g, c, impl, arena);
    DML_TRY(count_readers(&g));
    find_roots(&g);
    dml_chunk_fuse(c, impl->layer);
    const int32_t out = forward(&g);
    DML_TRY(backward(&g));
    place_moments(&g);
    dml_chunk_place_buffers(c, impl, g.kept, g.leaves, arena);
    const dml_buffer *lean = impl->lean ? impl->lean : impl->buffer;
    for (int32_t k = 0; k < c->n_skip_out; k++) {
        const int32_t v = dml_chunk_skip_of(c, &skip_out[k])->value - c->layer_begin + 1;
        skip_out[k].at = impl->buffer[g.store[v]].at;
        skip_out[k].kept_at = lean[g.store[v]].at;
    }
    if (out == DML_NO_BUFFER) return DML_ERR_OK;
    c->size.out_offset = impl->buffer[out].at;
    c->size.kept_out_offset = lean[out].at;
    return DML_ERR_OK;
}
