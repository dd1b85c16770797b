/* schedule/depend.c - buffers, needs and clocks. */
#include "schedule/depend.h"

#include "schedule/recompute.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

static bool same_worker(const dml_program *p, int32_t chunk_a, int32_t chunk_b, int32_t mb)
{
    return *dml_program_route(p, chunk_a, mb) == *dml_program_route(p, chunk_b, mb);
}

typedef struct touch_list {
    const dml_program *p;
    const dml_index *ix;
    dml_touch *out;
    int32_t n;
} touch_list;

static void add(touch_list *t, dml_pool pool, int32_t port, int32_t mb, bool write)
{
    DML_ASSERT_OP(t->n, <, DML_OP_TOUCHES);
    t->out[t->n++] = (dml_touch){pool, port, mb, write};
}

static void add_output(touch_list *t, int32_t c, int32_t mb)
{
    add(t, dml_output_pool(t->p, t->ix, c, mb), c, mb, true);
}

/* What a chunk left, itself or another; several values may lie in one buffer. */
static void read_once(touch_list *t, dml_pool pool, int32_t port, int32_t mb)
{
    for (int32_t i = 0; i < t->n; i++)
        if (t->out[i].pool == pool && t->out[i].port == port) return;
    add(t, pool, port, mb, false);
}

static void read_output(touch_list *t, int32_t c, int32_t mb)
{
    read_once(t, dml_output_pool(t->p, t->ix, c, mb), c, mb);
}

/* A value that chunk `from` made: with it, or received. */
static void read_value(touch_list *t, int32_t from, int32_t c, int32_t port, int32_t mb)
{
    if (same_worker(t->p, from, c, mb))
        read_output(t, from, mb);
    else
        add(t, DML_POOL_IN, port, mb, false);
}

/* A gradient that chunk `to` hands on to c, likewise. */
static void read_grad(touch_list *t, int32_t to, int32_t c, int32_t port, int32_t mb)
{
    if (same_worker(t->p, to, c, mb))
        read_once(t, DML_POOL_DX, to, mb);
    else
        add(t, DML_POOL_DY, port, mb, false);
}

/* Where the chunk's inputs lie; chunk 0 reads the data set. */
static void read_inputs(touch_list *t, int32_t c, int32_t mb)
{
    const dml_program *p = t->p;
    if (c > 0) read_value(t, c - 1, c, c, mb);
    for (int32_t k = 1; k <= p->n_skips; k++)
        if (p->skip[k - 1].to == c) read_value(t, p->skip[k - 1].from, c, dml_skip_port(p, k), mb);
}

/* Where the gradients of the chunk's outputs lie; the last chunk has its own loss. */
static void read_output_grads(touch_list *t, int32_t c, int32_t mb)
{
    const dml_program *p = t->p;
    if (c < p->chunks - 1) read_grad(t, c + 1, c, c, mb);
    for (int32_t k = 1; k <= p->n_skips; k++)
        if (p->skip[k - 1].back == c) read_grad(t, p->skip[k - 1].to, c, dml_skip_port(p, k), mb);
}

/* What a recomputed forward kept, where its own RC and backward read it. */
static void read_kept(touch_list *t, int32_t c, int32_t mb)
{
    if (dml_keeps_till_end(t->p, c) && dml_is_recomputed(t->p, t->ix, c, mb))
        add(t, DML_POOL_KEPT, c, mb, false);
}

int32_t dml_op_touches(const dml_program *p, const dml_index *ix, const dml_op *op,
                       dml_touch out[DML_OP_TOUCHES])
{
    touch_list t = {.p = p, .ix = ix, .out = out};
    const int32_t c = op->chunk, mb = op->mb, port = dml_op_port(p, op);
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
        read_inputs(&t, c, mb);
        add_output(&t, c, mb);
        break;
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT:
        read_inputs(&t, c, mb);
        read_output_grads(&t, c, mb);
        add(&t, DML_POOL_STASH, c, mb, false);
        read_kept(&t, c, mb);
        if (c > 0 && op->kind != DML_OP_BWD_WEIGHT && dml_op_is_last(p, op))
            add(&t, DML_POOL_DX, c, mb, true);
        break;
    case DML_OP_RECOMPUTE:
        read_inputs(&t, c, mb);
        read_kept(&t, c, mb);
        add(&t, DML_POOL_STASH, c, mb, true);
        break;
    case DML_OP_SEND_ACT: read_output(&t, c, mb); break;
    case DML_OP_RECV_ACT: add(&t, DML_POOL_IN, port, mb, true); break;
    case DML_OP_SEND_GRAD: add(&t, DML_POOL_DX, c, mb, false); break;
    case DML_OP_RECV_GRAD: add(&t, DML_POOL_DY, port, mb, true); break;
    case DML_OP_REDUCE:
    case DML_OP_VOTE:
    case DML_OP_STEP: break;
    }
    return t.n;
}

/* Of the stash: RC, else F. */
static int32_t stash_writer(const dml_index *ix, int32_t chunk, int32_t mb)
{
    const int32_t again = dml_index_at(ix, DML_OP_RECOMPUTE, chunk, mb);
    return again >= 0 ? again : dml_index_at(ix, DML_OP_FWD, chunk, mb);
}

int32_t dml_touch_writer(const dml_index *ix, const dml_touch *touch)
{
    switch (touch->pool) {
    case DML_POOL_IN: return dml_index_at(ix, DML_OP_RECV_ACT, touch->port, touch->mb);
    case DML_POOL_STASH: return stash_writer(ix, touch->port, touch->mb);
    case DML_POOL_KEPT: return dml_index_at(ix, DML_OP_FWD, touch->port, touch->mb);
    case DML_POOL_DY: return dml_index_at(ix, DML_OP_RECV_GRAD, touch->port, touch->mb);
    case DML_POOL_DX: return dml_index_input_grad(ix, touch->port, touch->mb);
    case DML_POOLS: break;
    }
    return -1;
}

static int32_t *none_yet(dml_arena *arena, int32_t n)
{
    int32_t *op = DML_NEW_N(arena, int32_t, n);
    for (int32_t k = 0; k < n; k++)
        op[k] = -1;
    return op;
}

void dml_depend_begin(dml_depend *d, const dml_program *p, const dml_index *ix, int32_t worker,
                      dml_arena *arena)
{
    const int32_t pools = dml_program_ports(p) * DML_POOLS;
    *d = (dml_depend){.p = p, .ix = ix, .list = &p->list[worker], .worker = worker};
    d->after = DML_NEW_N(arena, dml_clock, d->list->n);
    d->slot_base = DML_NEW_N(arena, int32_t, pools);
    d->bucket_base = DML_NEW_N(arena, int32_t, p->chunks + 1);
    dml_program_number_held(p, worker, d->bucket_base);
    const int32_t buckets = d->bucket_base[p->chunks];
    d->last_whole = none_yet(arena, buckets);
    d->last_part = none_yet(arena, buckets);
    d->settled = none_yet(arena, MAX2(buckets, dml_program_updates(p, 0)));
    int32_t slots = 0;
    for (int32_t i = 0; i < pools; i++) {
        d->slot_base[i] = slots;
        slots += dml_program_slots(p, worker, 0, (dml_pool)0)[i];
    }
    d->last_use = DML_NEW_N(arena, dml_clock, slots);
    const dml_clock nothing = {{-1, -1, -1, -1}};
    for (int32_t s = 0; s < slots; s++)
        d->last_use[s] = nothing;
    for (int32_t l = 0; l < DML_LANES; l++)
        d->last_in[l] = -1;
}

static dml_clock *slot_of(const dml_depend *d, const dml_touch *touch)
{
    const int32_t writer = dml_touch_writer(d->ix, touch);
    const int32_t slot = d->list->op[writer].slot;
    return &d->last_use[d->slot_base[touch->port * DML_POOLS + (int32_t)touch->pool] + slot];
}

static void join(dml_clock *into, const dml_clock *other)
{
    for (int32_t l = 0; l < DML_LANES; l++)
        into->done[l] = MAX2(into->done[l], other->done[l]);
}

/* From backward to reduction, vote and step: notes the op for those after it, and what it needs
 * itself. */
static void follow_update(dml_depend *d, int32_t i, dml_clock *all)
{
    const dml_op *op = &d->list->op[i];
    const bool adds = dml_op_is_weight_grad(op);
    if (!adds && dml_op_info_of((dml_op_kind)op->kind)->has_mb) return;
    const int32_t u = dml_op_update(d->p, op), bucket = dml_op_bucket(d->p, d->bucket_base, op);
    const int32_t first = dml_first_bucket(d->p, d->bucket_base, op->chunk, u);
    const bool steps_wait = dml_program_steps_wait(d->p);
    int32_t *settled = &d->settled[steps_wait ? u : first];
    if (adds) *(op->edge > 0 ? &d->last_part[bucket] : &d->last_whole[first]) = i;
    if (op->kind == DML_OP_REDUCE)
        all->done[DML_LANE_COMPUTE] = MAX2(d->last_whole[first], d->last_part[bucket]);
    if (op->kind == (steps_wait ? DML_OP_VOTE : DML_OP_REDUCE)) *settled = i;
    if (op->kind == DML_OP_STEP) all->done[DML_LANE_REDUCE] = *settled;
}

void dml_depend_needs(dml_depend *d, int32_t i, int32_t need[DML_LANES])
{
    const dml_op *op = &d->list->op[i];
    const dml_lane lane = dml_op_lane(op);
    dml_clock all = {{-1, -1, -1, -1}};
    dml_touch touch[DML_OP_TOUCHES];
    const int32_t n = dml_op_touches(d->p, d->ix, op, touch);
    for (int32_t t = 0; t < n; t++) {
        dml_clock *use = slot_of(d, &touch[t]);
        if (touch[t].write) {
            join(&all, use);
            *use = (dml_clock){{-1, -1, -1, -1}};
        } else {
            const int32_t writer = dml_touch_writer(d->ix, &touch[t]);
            int32_t *of_writer = &all.done[dml_op_lane(&d->list->op[writer])];
            *of_writer = MAX2(*of_writer, writer);
        }
        use->done[lane] = i;
    }
    follow_update(d, i, &all);
    all.done[lane] = -1;
    for (int32_t l = 0; l < DML_LANES; l++)
        need[l] = all.done[l];
}

dml_clock dml_depend_before(const dml_depend *d, int32_t i)
{
    const int32_t prev = d->last_in[dml_op_lane(&d->list->op[i])];
    return prev >= 0 ? d->after[prev] : (dml_clock){{-1, -1, -1, -1}};
}

dml_clock dml_depend_start(const dml_depend *d, int32_t i)
{
    dml_clock known = dml_depend_before(d, i);
    for (int32_t k = 0; k < DML_OP_WAITS; k++) {
        const int32_t wait = d->list->op[i].wait[k];
        if (wait != DML_NO_WAIT) join(&known, &d->after[wait]);
    }
    return known;
}

int32_t dml_vouched_send(const dml_program *p, const dml_index *ix, const dml_op *op)
{
    if (op->kind != DML_OP_RECV_GRAD) return -1;
    const bool own = op->edge == 0 || p->skip[op->edge - 1].from == op->chunk;
    return own ? dml_index_at(ix, DML_OP_SEND_ACT, dml_op_port(p, op), op->mb) : -1;
}

void dml_depend_end(dml_depend *d, int32_t i)
{
    const dml_op *op = &d->list->op[i];
    const dml_lane lane = dml_op_lane(op);
    dml_clock known = dml_depend_start(d, i);
    const int32_t sent = dml_vouched_send(d->p, d->ix, op);
    if (sent >= 0 && sent < i) join(&known, &d->after[sent]);
    known.done[lane] = i;
    d->after[i] = known;
    d->last_in[lane] = i;
}
