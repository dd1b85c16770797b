/* engine/exec.c - resolve once, then issue: for each op its waits, its job, its event. */
#include "engine/exec.h"

#include "engine/base/clock.h"
#include "schedule/index.h"

#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 256 }; /* durations kept per (kind, chunk) for the median */

/* An op with its operands found.  Pointers are NULL where the op has no such operand. */
typedef struct resolved {
    dml_exec *x;
    const dml_op *op;
    dml_held *held;
    void *in, *stash, *dy, *dx; /* of the chunk's calls */
    void *wire;                 /* what a transfer sends or fills */
    int64_t row_bytes;          /* of a transfer: bytes per sample */
    uint32_t tag;
    dml_event *event; /* recorded after the op when another lane waits for it */
} resolved;

typedef struct durations {
    int64_t ns[SAMPLES];
    int64_t count;
} durations;

struct dml_exec {
    dml_exec_config c;
    const dml_op_list *list;
    resolved *op;    /* [list->n] */
    int32_t vote;    /* index of VOTE; list->n when there is none */
    durations *took; /* [DML_OP_KINDS][chunks] */

    /* of the step under way; set before its jobs are issued */
    int64_t step;
    const int32_t *rows;
    bool learn;
    double norm, lr;
    int64_t samples;

    /* the compute lane's own */
    int32_t stash_live;
    _Atomic int32_t stash_peak;
    _Atomic int64_t busy_ns;
};

/* ---- one op ---- */

static dml_run run_of(const resolved *r)
{
    const dml_exec *x = r->x;
    return (dml_run){.train = x->learn,
                     .step = x->step,
                     .mb = r->op->mb,
                     .rows = x->rows[r->op->mb],
                     .first_sample = (int64_t)r->op->mb * r->held->chunk->mb_rows};
}

/* The micro-batch from the loader's ring to the device: images, or labels when `labels`. */
static dml_err load(const resolved *r, bool labels, void *to, int64_t row_bytes)
{
    const dml_exec *x = r->x;
    dml_loader *loader = labels ? x->c.labels : x->c.images;
    dml_batch batch;
    const int64_t deadline_ns = dml_clock_ns() + x->c.timeout_ns;
    DML_TRY(dml_loader_get(loader, x->step, r->op->mb, deadline_ns, &batch));
    DML_ASSERT_OP(batch.rows, ==, x->rows[r->op->mb]);
    const void *from = labels ? (const void *)batch.labels : (const void *)batch.images;
    dml_queue *q = x->c.lane[DML_LANE_COMPUTE];
    const dml_device_api *device = x->c.backend->device;
    dml_err err = device->copy(q, to, from, row_bytes * batch.rows);
    /* A host's copy is done; a device's may still read the loader's buffer, which must not be refilled. */
    if (err == DML_ERR_OK && !x->c.backend->on_host) err = device->sync(q, deadline_ns);
    dml_loader_release(loader);
    return err;
}

static dml_err forward(const resolved *r)
{
    const dml_exec *x = r->x;
    const dml_held *h = r->held;
    const dml_run run = run_of(r);
    if (h->input) DML_TRY(load(r, false, r->in, h->chunk->size.in / h->chunk->mb_rows));
    if (h->labels) DML_TRY(load(r, true, h->labels, (int64_t)sizeof(int32_t)));
    return dml_chunk_forward(h->chunk, x->c.backend->kernels, x->c.compute, &run, r->in,
                             (const int32_t *)(const void *)h->labels, r->stash);
}

static dml_err reduce(const resolved *r)
{
    const dml_transport_api *comm = r->x->c.comm;
    dml_queue *q = r->x->c.lane[DML_LANE_REDUCE];
    const dml_held *h = r->held;
    const dml_chunk *c = h->chunk;
    if (h->n_replicas > 1) {
        DML_TRY(comm->all_reduce(h->replicas, q, c->slots, c->slot_words, DML_I32, DML_SUM));
        if (c->arena_elems > 0) {
            if (c->acc) {
                const int32_t n = c->param_end - c->param_begin;
                DML_TRY(comm->all_reduce(h->replicas, q, c->max_bits, n, DML_U32, DML_MAX));
                DML_TRY(comm->all_reduce(h->replicas, q, c->acc, c->acc_elems, DML_I64, DML_SUM));
            } else {
                DML_TRY(comm->all_reduce(h->replicas, q, c->g, c->arena_elems, DML_F32, DML_SUM));
            }
        }
    }
    return dml_update_measure(h->update, r->x->c.backend->kernels, r->x->c.reduce);
}

static void live(dml_exec *x, int32_t change)
{
    x->stash_live += change;
    if (x->stash_live > atomic_load_explicit(&x->stash_peak, memory_order_relaxed))
        atomic_store_explicit(&x->stash_peak, x->stash_live, memory_order_relaxed);
}

static dml_err run_op(const resolved *r)
{
    dml_exec *x = r->x;
    const dml_exec_config *c = &x->c;
    dml_held *h = r->held;
    const dml_op *op = r->op;
    const int64_t bytes = op->mb >= 0 ? r->row_bytes * x->rows[op->mb] : 0;
    const dml_kernel_table *kt = c->backend->kernels;
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD: live(x, 1); return forward(r);
    case DML_OP_BWD: {
        const dml_run run = run_of(r);
        DML_TRY(dml_chunk_backward(h->chunk, kt, c->compute, &run, r->in, r->stash, r->dy, r->dx));
        live(x, -1);
        return DML_ERR_OK;
    }
    case DML_OP_BWD_INPUT: {
        const dml_run run = run_of(r);
        return dml_chunk_backward_input(h->chunk, kt, c->compute, &run, r->in, r->stash, r->dy,
                                        r->dx);
    }
    case DML_OP_BWD_WEIGHT: {
        const dml_run run = run_of(r);
        DML_TRY(dml_chunk_backward_weight(h->chunk, kt, c->compute, &run, r->in, r->stash, r->dy));
        live(x, -1);
        return DML_ERR_OK;
    }
    case DML_OP_SEND_ACT:
    case DML_OP_SEND_GRAD:
        return c->comm->send(c->transport, c->lane[DML_LANE_SEND], op->peer, r->wire, bytes,
                             r->tag);
    case DML_OP_RECV_ACT:
    case DML_OP_RECV_GRAD:
        return c->comm->recv(c->transport, c->lane[DML_LANE_RECV], op->peer, r->wire, bytes,
                             r->tag);
    case DML_OP_REDUCE: return reduce(r);
    case DML_OP_VOTE: return DML_ERR_OK; /* the worker's, between run and commit */
    case DML_OP_STEP:
        return dml_update_commit(h->update, kt, c->compute, x->norm, x->samples, x->lr, x->rows);
    }
    DML_FAIL(DML_ERR_BUG, "op kind %d", op->kind);
}

static dml_err job(void *arg)
{
    const resolved *r = arg;
    dml_exec *x = r->x;
    const dml_op *op = r->op;
    if (op->mb >= 0 && x->rows[op->mb] == 0) return DML_ERR_OK;
    const int64_t begin_ns = dml_clock_ns();
    const dml_err err = run_op(r);
    if (err != DML_ERR_OK)
        return dml_err_add(err, dml_op_info_of(op->kind)->text, __FILE__, __LINE__);
    const int64_t ns = dml_clock_ns() - begin_ns;
    durations *d = &x->took[(int64_t)op->kind * x->c.program->chunks + op->chunk];
    d->ns[d->count++ % SAMPLES] = ns;
    if (dml_op_info_of(op->kind)->lane == DML_LANE_COMPUTE && op->kind != DML_OP_STEP) {
        atomic_fetch_add_explicit(&x->busy_ns, ns, memory_order_relaxed);
        atomic_store_explicit(&x->c.page->last, op->kind, memory_order_relaxed);
        atomic_store_explicit(&x->c.page->last_chunk, op->chunk, memory_order_relaxed);
        atomic_store_explicit(&x->c.page->last_mb, op->mb, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&x->c.page->ops, 1, memory_order_relaxed);
    return DML_ERR_OK;
}

static dml_err begin_job(void *arg)
{
    dml_exec *x = arg;
    x->stash_live = 0;
    for (int32_t c = 0; c < x->c.program->chunks; c++)
        if (x->c.held[c].chunk)
            DML_TRY(dml_chunk_begin_step(x->c.held[c].chunk, x->c.backend->kernels, x->c.compute));
    return DML_ERR_OK;
}

/* ---- a step ---- */

static dml_err issue(dml_exec *x, int32_t begin, int32_t end)
{
    const dml_device_api *device = x->c.backend->device;
    for (int32_t i = begin; i < end; i++) {
        resolved *r = &x->op[i];
        dml_queue *q = x->c.lane[dml_op_info_of(r->op->kind)->lane];
        for (int32_t w = 0; w < DML_OP_WAITS; w++)
            if (r->op->wait[w] != DML_NO_WAIT && x->op[r->op->wait[w]].event)
                DML_TRY(device->wait(q, x->op[r->op->wait[w]].event));
        DML_TRY(device->submit(q, job, r));
        if (r->event) DML_TRY(device->record(q, r->event));
    }
    return DML_ERR_OK;
}

/* All lanes idle.  Any one wait in them ends by its own deadline, so the sum of those bounds this one. */
static dml_err settle(const dml_exec *x)
{
    dml_err first = DML_ERR_OK;
    const int64_t deadline_ns = dml_clock_ns() + x->c.timeout_ns * (x->list->n + 1);
    for (int32_t lane = 0; lane < DML_LANES && first == DML_ERR_OK; lane++)
        first = x->c.backend->device->sync(x->c.lane[lane], deadline_ns);
    return first;
}

dml_err dml_exec_run(dml_exec *x, int64_t step, const int32_t *rows, bool learn)
{
    x->step = step;
    x->rows = rows;
    x->learn = learn;
    const dml_lane last = x->c.program->forward_only ? DML_LANE_COMPUTE : DML_LANE_REDUCE;
    DML_TRY(x->c.backend->device->submit(x->c.lane[DML_LANE_COMPUTE], begin_job, x));
    DML_TRY(issue(x, 0, x->vote));
    for (int32_t c = 0; c < x->c.program->chunks; c++)
        if (x->c.held[c].chunk)
            DML_TRY(dml_update_fetch(x->c.held[c].update, x->c.backend->device, x->c.lane[last]));
    return settle(x);
}

dml_err dml_exec_commit(dml_exec *x, double norm, int64_t samples, double lr)
{
    x->norm = norm;
    x->samples = samples;
    x->lr = lr;
    DML_TRY(issue(x, x->vote + 1, x->list->n));
    return x->c.backend->device->sync(x->c.lane[DML_LANE_COMPUTE],
                                      dml_clock_ns() + x->c.timeout_ns);
}

/* ---- resolving ---- */

static char *slot_at(const dml_held *h, dml_pool pool, int32_t slot)
{
    DML_ASSERT_OP(slot, >=, 0);
    return h->pool[pool] + h->bytes[pool] * slot;
}

/* What the op's chunk reads as input: the loaded batch, the lower chunk's output on this worker, or what
 * was received. */
static void *input_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    const dml_held *h = &x->c.held[chunk];
    if (chunk == 0) {
        const dml_op *f = &x->list->op[dml_index_at(ix, DML_OP_FWD, 0, mb)];
        return h->input + h->bytes[DML_POOL_IN] * f->slot;
    }
    if (*dml_program_route(x->c.program, chunk - 1, mb) == x->c.worker) {
        const dml_op *f = &x->list->op[dml_index_at(ix, DML_OP_FWD, chunk - 1, mb)];
        const dml_held *below = &x->c.held[chunk - 1];
        return slot_at(below, DML_POOL_STASH, f->slot) + below->chunk->size.out_offset;
    }
    return slot_at(h, DML_POOL_IN, x->list->op[dml_index_at(ix, DML_OP_RECV_ACT, chunk, mb)].slot);
}

/* The gradient of the chunk's output: none for the last, from the next chunk here, or received. */
static void *output_grad_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    if (chunk == x->c.program->chunks - 1) return NULL;
    if (*dml_program_route(x->c.program, chunk + 1, mb) == x->c.worker) {
        const dml_op *b = &x->list->op[dml_index_input_grad(ix, chunk + 1, mb)];
        return slot_at(&x->c.held[chunk + 1], DML_POOL_DX, b->slot);
    }
    return slot_at(&x->c.held[chunk], DML_POOL_DY,
                   x->list->op[dml_index_at(ix, DML_OP_RECV_GRAD, chunk, mb)].slot);
}

static uint32_t tag_of(bool gradient, int32_t boundary, int32_t mb)
{
    return (uint32_t)gradient << 31 | (uint32_t)(boundary & 0x7ff) << 20 | (uint32_t)mb;
}

static void resolve(dml_exec *x, const dml_index *ix, resolved *r)
{
    const dml_op *op = r->op;
    dml_held *h = r->held;
    if (op->mb < 0) return;
    const int64_t rows = h->chunk->mb_rows;
    char *stash = slot_at(h, DML_POOL_STASH,
                          x->list->op[dml_index_at(ix, DML_OP_FWD, op->chunk, op->mb)].slot);
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT:
        r->in = input_of(x, ix, op->chunk, op->mb);
        r->stash = stash;
        if (op->kind != DML_OP_FWD) r->dy = output_grad_of(x, ix, op->chunk, op->mb);
        if (op->chunk > 0 && op->slot != DML_NO_SLOT) r->dx = slot_at(h, DML_POOL_DX, op->slot);
        if (op->kind == DML_OP_FWD) r->dx = NULL;
        break;
    case DML_OP_SEND_ACT:
        r->wire = stash + h->chunk->size.out_offset;
        r->row_bytes = h->chunk->size.dy / rows;
        r->tag = tag_of(false, op->chunk, op->mb);
        break;
    case DML_OP_RECV_ACT:
        r->wire = slot_at(h, DML_POOL_IN, op->slot);
        r->row_bytes = h->chunk->size.in / rows;
        r->tag = tag_of(false, op->chunk - 1, op->mb);
        break;
    case DML_OP_SEND_GRAD:
        r->wire = slot_at(h, DML_POOL_DX, op->slot);
        r->row_bytes = h->chunk->size.dx / rows;
        r->tag = tag_of(true, op->chunk - 1, op->mb);
        break;
    case DML_OP_RECV_GRAD:
        r->wire = slot_at(h, DML_POOL_DY, op->slot);
        r->row_bytes = h->chunk->size.dy / rows;
        r->tag = tag_of(true, op->chunk, op->mb);
        break;
    case DML_OP_REDUCE:
    case DML_OP_VOTE:
    case DML_OP_STEP: break; /* no micro-batch */
    }
}

static dml_err open_events(dml_exec *x)
{
    for (int32_t i = 0; i < x->list->n; i++)
        for (int32_t w = 0; w < DML_OP_WAITS; w++) {
            const int32_t on = x->list->op[i].wait[w];
            /* VOTE synchronises everything by itself */
            if (on == DML_NO_WAIT || on >= x->vote || x->op[on].event) continue;
            DML_TRY(x->c.backend->device->event_open(x->c.device, &x->op[on].event));
        }
    return DML_ERR_OK;
}

dml_err dml_exec_new(const dml_exec_config *config, dml_arena *arena, dml_exec **out)
{
    const dml_program *p = config->program;
    dml_exec *x = DML_NEW(arena, dml_exec);
    *x = (dml_exec){.c = *config, .list = &p->list[config->worker]};
    x->op = DML_NEW_N(arena, resolved, x->list->n);
    x->took = DML_NEW_N(arena, durations, (int64_t)DML_OP_KINDS * p->chunks);
    x->vote = x->list->n;
    dml_index ix;
    dml_index_build(&ix, p, arena);
    for (int32_t i = 0; i < x->list->n; i++) {
        const dml_op *op = &x->list->op[i];
        x->op[i] = (resolved){.x = x, .op = op, .held = &config->held[op->chunk]};
        resolve(x, &ix, &x->op[i]);
        if (op->kind == DML_OP_VOTE) x->vote = i;
    }
    const dml_err err = open_events(x);
    if (err != DML_ERR_OK) {
        dml_exec_close(x);
        return err;
    }
    *out = x;
    return DML_ERR_OK;
}

void dml_exec_close(dml_exec *x)
{
    if (!x) return;
    for (int32_t i = 0; i < x->list->n; i++)
        if (x->op[i].event) x->c.backend->device->event_close(x->op[i].event);
}

int32_t dml_exec_queue_capacity(const dml_program *program, int32_t worker)
{
    /* job, record, two waits; and the step's own begin and fetches */
    return program->list[worker].n * 4 + 4 * program->chunks + 16;
}

/* ---- figures ---- */

dml_exec_times dml_exec_take_times(dml_exec *x)
{
    return (dml_exec_times){
        .busy_ns = atomic_exchange_explicit(&x->busy_ns, 0, memory_order_relaxed),
        .stash_peak = atomic_load_explicit(&x->stash_peak, memory_order_relaxed)};
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t dml_exec_median_ns(const dml_exec *x, dml_op_kind kind, int32_t chunk)
{
    const durations *d = &x->took[(int64_t)kind * x->c.program->chunks + chunk];
    const int64_t n = d->count < SAMPLES ? d->count : SAMPLES;
    if (n == 0) return 0;
    int64_t sorted[SAMPLES];
    memcpy(sorted, d->ns, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return sorted[n / 2];
}
