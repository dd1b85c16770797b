/* engine/exec_times.c - how long ops took and how far a step has come. */
#include "engine/exec_impl.h"

#include "engine/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STUCK_TIMES = 20, LIMIT_EVERY = 64 };
#define STUCK_LEAST_NS (2 * DML_NS_PER_S)

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

static dml_durations *durations_of(const dml_exec *x, dml_op_kind kind, int32_t chunk)
{
    return &x->took[(int64_t)kind * x->c.program->chunks + chunk];
}

void dml_exec_was_busy(dml_exec *x, int64_t ns)
{
    atomic_fetch_add_explicit(&x->busy_ns, ns, memory_order_relaxed);
    if (!x->c.program->forward_only)
        atomic_fetch_add_explicit(&x->c.page->worked_ns, ns, memory_order_relaxed);
}

void dml_exec_record(const dml_resolved *r, int64_t begin_ns, int64_t end_ns)
{
    const dml_exec *x = r->x;
    if (!x->span) return;
    const bool transfer = dml_op_info_of((dml_op_kind)r->op->kind)->has_peer;
    x->span[r - x->op] =
        (dml_trace_span){.begin_ns = begin_ns,
                         .end_ns = end_ns,
                         .bytes = transfer ? r->row_bytes * x->rows[r->op->mb] : 0};
}

void dml_exec_voted(dml_exec *x, int64_t begin_ns, int64_t met_ns, int64_t end_ns)
{
    if (x->vote == x->list->n) return;
    dml_exec_record(&x->op[x->vote], begin_ns, end_ns);
    x->op[x->vote].met_ns = met_ns;
    x->op[x->vote].moved_ns = end_ns;
}

/* ---- exposed communication ---- */

/* Since when data has moved of the op that has just run on its lane; 0: not known, or none did. */
static int64_t met_ns(const dml_resolved *r)
{
    const dml_exec_config *c = &r->x->c;
    switch (dml_op_lane(r->op)) {
    case DML_LANE_SEND:
        return c->comm->send_met_ns ? c->comm->send_met_ns(c->transport, r->op->peer) : 0;
    case DML_LANE_RECV:
        return c->comm->recv_met_ns ? c->comm->recv_met_ns(c->transport, r->op->peer) : 0;
    case DML_LANE_REDUCE: return r->x->reduce_met_ns;
    case DML_LANE_COMPUTE:
    case DML_LANES: break;
    }
    return 0;
}

void dml_exec_moved(dml_resolved *r, int64_t end_ns)
{
    r->met_ns = met_ns(r);
    r->moved_ns = end_ns;
    if (dml_op_lane(r->op) == DML_LANE_REDUCE) r->x->reduce_met_ns = 0;
}

/* Of an op that this step left out the times are those of a step before, which are over. */
void dml_exec_count_exposed(const dml_resolved *r, int64_t begin_ns)
{
    dml_exec *x = r->x;
    const dml_resolved *last = NULL;
    for (int32_t k = 0; k < DML_OP_WAITS; k++) {
        const int32_t wait = r->op->wait[k];
        if (wait == DML_NO_WAIT) continue;
        if (!last || x->op[wait].moved_ns > last->moved_ns) last = &x->op[wait];
    }
    if (!last) return;
    int64_t sum_ns = 0;
    for (const dml_resolved *i = last; i >= x->op; i--) {
        if (dml_op_lane(i->op) != dml_op_lane(last->op)) continue;
        const int64_t to_ns = MIN2(i->moved_ns, begin_ns);
        if (to_ns <= x->idle_since_ns) break;
        if (i->met_ns > 0) sum_ns += MAX2(to_ns - MAX2(i->met_ns, x->idle_since_ns), 0);
    }
    atomic_fetch_add_explicit(&x->exposed_ns, sum_ns, memory_order_relaxed);
}

/* ---- vital signs ---- */

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Of the newest `most` durations, or of all that are kept. */
static int64_t median(const dml_durations *d, int64_t most)
{
    const int64_t n = most < DML_EXEC_SAMPLES ? most : DML_EXEC_SAMPLES;
    int64_t sorted[DML_EXEC_SAMPLES];
    if (n == 0) return 0;
    for (int64_t i = 0; i < n; i++)
        sorted[i] = d->ns[(d->count - n + i) % DML_EXEC_SAMPLES];
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return sorted[n / 2];
}

void dml_exec_enter(const dml_resolved *r, int64_t begin_ns)
{
    dml_worker_page *page = r->x->c.page;
    const int64_t limit_ns = durations_of(r->x, (dml_op_kind)r->op->kind, r->op->chunk)->limit_ns;
    atomic_store_explicit(&page->op_kind, r->op->kind, memory_order_relaxed);
    atomic_store_explicit(&page->op_chunk, r->op->chunk, memory_order_relaxed);
    atomic_store_explicit(&page->op_mb, r->op->mb, memory_order_relaxed);
    atomic_store_explicit(&page->op_limit_ns, limit_ns, memory_order_relaxed);
    atomic_store_explicit(&page->op_begin_ns, begin_ns, memory_order_release);
}

void dml_exec_leave(const dml_resolved *r)
{
    atomic_store_explicit(&r->x->c.page->op_begin_ns, 0, memory_order_release);
}

/* Now and then, at first with each doubling: a median costs a sort. */
static void set_limit(dml_durations *d)
{
    const bool is_time =
        d->count < LIMIT_EVERY ? (d->count & (d->count - 1)) == 0 : d->count % LIMIT_EVERY == 0;
    if (!is_time) return;
    d->limit_ns = MAX2(STUCK_LEAST_NS, STUCK_TIMES * median(d, d->count));
}

void dml_exec_took(dml_exec *x, const dml_op *op, int64_t ns)
{
    dml_durations *d = durations_of(x, (dml_op_kind)op->kind, op->chunk);
    d->parts_ns += ns;
    if (dml_op_is_last(x->c.program, op)) {
        d->ns[d->count++ % DML_EXEC_SAMPLES] = d->parts_ns;
        d->parts_ns = 0;
        set_limit(d);
    }
    dml_worker_page *page = x->c.page;
    if (dml_op_lane(op) == DML_LANE_COMPUTE) dml_exec_was_busy(x, ns);
    if (dml_op_lane(op) == DML_LANE_COMPUTE && op->kind != DML_OP_STEP) {
        atomic_store_explicit(&page->last, op->kind, memory_order_relaxed);
        atomic_store_explicit(&page->last_chunk, op->chunk, memory_order_relaxed);
        atomic_store_explicit(&page->last_mb, op->mb, memory_order_relaxed);
        /* a segment's steps go by without the worker's loop */
        if (!x->c.program->forward_only)
            atomic_store_explicit(&page->step, x->words.step + dml_op_update(x->c.program, op) + 1,
                                  memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&page->ops, 1, memory_order_relaxed);
}

static int64_t in(int64_t patience_ns)
{
    return patience_ns > 0 ? dml_clock_ns() + patience_ns : 0;
}

static dml_err collect(dml_exec *x, const dml_resolved *r, int64_t patience_ns)
{
    const dml_device_api *device = dml_exec_device(x);
    const bool computes = dml_op_lane(r->op) == DML_LANE_COMPUTE;
    int64_t ns = 0;
    /* What it waits for is no part of an op: it has begun when its first event is there. */
    DML_TRY(device->await(r->begun, in(patience_ns)));
    if (computes) dml_exec_enter(r, dml_clock_ns());
    const dml_err err = device->await(r->done, in(patience_ns));
    if (computes) dml_exec_leave(r);
    DML_TRY(err);
    DML_TRY(device->elapsed(r->begun, r->done, &ns));
    dml_exec_took(x, r->op, ns);
    if (!x->span) return DML_ERR_OK;
    int64_t begin_ns = 0,
            end_ns = 0; /* from one origin, so that rounding puts nothing out of order */
    DML_TRY(device->elapsed(x->step_begun, r->begun, &begin_ns));
    DML_TRY(device->elapsed(x->step_begun, r->done, &end_ns));
    dml_exec_record(r, x->begun_ns + begin_ns, x->begun_ns + end_ns);
    return DML_ERR_OK;
}

dml_err dml_exec_collect(dml_exec *x, int32_t end, int64_t patience_ns)
{
    for (; x->collected < end; x->collected++) {
        const dml_resolved *r = &x->op[x->collected];
        if (!r->begun || !dml_exec_has_work(r)) continue;
        const dml_err err = collect(x, r, patience_ns);
        if (err == DML_ERR_OK) continue;
        char text[DML_OP_NAME_BYTES + 64];
        snprintf(text, sizeof text, "%s of step %lld, the first op not known to be done",
                 dml_op_name_of(r->op).text, (long long)x->words.step + r->update + 1);
        return dml_err_add(err, text, __FILE__, __LINE__);
    }
    return DML_ERR_OK;
}

dml_err dml_exec_collect_begin(dml_exec *x)
{
    if (!x->step_begun) return DML_ERR_OK;
    int64_t ns = 0;
    DML_TRY(dml_exec_device(x)->elapsed(x->step_begun, x->step_ready, &ns));
    dml_exec_was_busy(x, ns);
    if (x->span)
        x->span[x->list->n] = (dml_trace_span){.begin_ns = x->begun_ns, .end_ns = x->begun_ns + ns};
    return DML_ERR_OK;
}

/* ---- figures ---- */

dml_exec_times dml_exec_take_times(dml_exec *x)
{
    return (dml_exec_times){
        .busy_ns = atomic_exchange_explicit(&x->busy_ns, 0, memory_order_relaxed),
        .exposed_ns = atomic_exchange_explicit(&x->exposed_ns, 0, memory_order_relaxed),
        .stash_peak = atomic_load_explicit(&x->stash_peak, memory_order_relaxed)};
}

int64_t dml_exec_median_ns(const dml_exec *x, dml_op_kind kind, int32_t chunk)
{
    const dml_durations *d = durations_of(x, kind, chunk);
    return median(d, d->count);
}

int64_t dml_exec_window_ns(const dml_exec *x, dml_op_kind kind, int32_t chunk)
{
    const dml_durations *d = durations_of(x, kind, chunk);
    return median(d, d->count - d->window);
}

void dml_exec_begin_window(dml_exec *x)
{
    for (int64_t i = 0; i < (int64_t)DML_OP_KINDS * x->c.program->chunks; i++)
        x->took[i].window = x->took[i].count;
}
