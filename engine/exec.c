/* engine/exec.c - resolve once, then issue: for each op its waits, its job, its event. */
#include "engine/exec_impl.h"

#include "engine/base/clock.h"

#include <stdlib.h>
#include <string.h>

/* ---- jobs ---- */

/* The op that stores the first gradient of a sum has no samples: others may, so the sum begins at zero. */
static bool clears(const dml_resolved *r)
{
    return r->first && r->update < r->x->updates && !dml_exec_has_work(r);
}

static dml_err clear_job(void *arg)
{
    const dml_resolved *r = arg;
    return dml_chunk_zero_sums(r->chunk, r->x->c.backend->kernels, r->x->c.compute, r->op->edge);
}

static dml_err tell_job(void *arg)
{
    return dml_exec_tell_step(arg);
}

static bool tells(const dml_resolved *r)
{
    return dml_op_lane(r->op) == DML_LANE_COMPUTE &&
           dml_op_info_of((dml_op_kind)r->op->kind)->has_mb;
}

/* Where jobs run on the queue's thread: the op, and how long it took. */
static dml_err timed_job(void *arg)
{
    dml_resolved *r = arg;
    if (clears(r)) return clear_job(r);
    if (!dml_exec_has_work(r)) return DML_ERR_OK;
    const bool computes = dml_op_lane(r->op) == DML_LANE_COMPUTE;
    const int64_t begin_ns = dml_clock_ns();
    if (computes) dml_exec_count_exposed(r, begin_ns);
    if (tells(r)) DML_TRY(dml_exec_tell_step(r));
    dml_exec_record(r, begin_ns, 0); /* if it never ends, that is known */
    if (computes) dml_exec_enter(r, begin_ns);
    dml_err err = dml_exec_strike(r, r->x->c.lane[dml_op_lane(r->op)]);
    if (err == DML_ERR_OK) err = dml_exec_op(r);
    if (computes) dml_exec_drag(r, begin_ns);
    if (computes) dml_exec_leave(r);
    DML_TRY(err);
    const int64_t end_ns = dml_clock_ns();
    dml_exec_record(r, begin_ns, end_ns);
    dml_exec_count_stash(r);
    if (computes)
        r->x->idle_since_ns = end_ns;
    else
        dml_exec_moved(r, end_ns);
    /* Waiting for the other replicas is no part of a reduction. */
    const bool met = r->op->kind == DML_OP_REDUCE && r->met_ns > 0;
    dml_exec_took(r->x, r->op, end_ns - (met ? r->met_ns : begin_ns));
    return DML_ERR_OK;
}

/* Where they only enqueue: events take the time. */
static dml_err plain_job(void *arg)
{
    return dml_exec_op(arg);
}

static dml_err begin_job(void *arg)
{
    dml_exec *x = arg;
    const dml_kernel_table *kt = x->c.backend->kernels;
    x->stash_live = 0;
    x->step_words = x->words.step;
    DML_TRY(kt->begin_step(x->c.compute, &x->words));
    for (int32_t c = 0; c < x->c.program->chunks; c++)
        if (x->c.held[c].chunk) DML_TRY(dml_chunk_begin_step(x->c.held[c].chunk, kt, x->c.compute));
    return DML_ERR_OK;
}

static dml_err drain_job(void *arg)
{
    dml_exec *x = arg;
    for (int32_t c = 0; c < x->c.program->chunks; c++)
        if (x->c.held[c].chunk)
            DML_TRY(dml_update_drain(x->c.held[c].update, x->updates, x->c.backend->kernels,
                                     x->c.compute));
    return DML_ERR_OK;
}

static dml_err timed_begin_job(void *arg)
{
    dml_exec *x = arg;
    const int64_t begin_ns = dml_clock_ns();
    DML_TRY(begin_job(x));
    const int64_t end_ns = dml_clock_ns();
    if (x->span) x->span[x->list->n] = (dml_trace_span){.begin_ns = begin_ns, .end_ns = end_ns};
    dml_exec_was_busy(x, end_ns - begin_ns);
    x->idle_since_ns = end_ns;
    return DML_ERR_OK;
}

/* ---- a step ---- */

static bool is_full(const dml_resolved *r)
{
    return r->x->rows[r->op->mb] == r->chunk->mb_rows;
}

/* The op on a device whose jobs only enqueue, between its two events. */
static dml_err enqueue(dml_resolved *r, dml_queue *q)
{
    const dml_device_api *device = dml_exec_device(r->x);
    if (clears(r)) return device->submit(q, clear_job, r);
    if (!dml_exec_has_work(r)) return DML_ERR_OK;
    dml_exec_drag(r, 0);
    if (tells(r)) DML_TRY(device->submit(q, tell_job, r));
    if (r->begun) DML_TRY(device->record(q, r->begun));
    DML_TRY(
        dml_exec_strike(r, q)); /* a kernel that hangs is part of the op: its deadline notices */
    if (r->replay && is_full(r))
        DML_TRY(device->replay(q, r->replay));
    else
        DML_TRY(device->submit(q, plain_job, r));
    dml_exec_count_stash(r);
    return DML_ERR_OK;
}

static dml_err issue_begin(dml_exec *x)
{
    const dml_device_api *device = dml_exec_device(x);
    dml_queue *q = x->c.lane[DML_LANE_COMPUTE];
    if (dml_exec_on_host(x)) return device->submit(q, timed_begin_job, x);
    x->begun_ns = dml_clock_ns();
    DML_TRY(device->record(q, x->step_begun));
    DML_TRY(device->submit(q, begin_job, x));
    return device->record(q, x->step_ready);
}

static dml_err wait_for(const dml_exec *x, const dml_resolved *r, dml_queue *q)
{
    const dml_device_api *device = dml_exec_device(x);
    for (int32_t w = 0; w < DML_OP_WAITS; w++)
        if (r->op->wait[w] != DML_NO_WAIT && x->op[r->op->wait[w]].done)
            DML_TRY(device->wait(q, x->op[r->op->wait[w]].done));
    /* Without samples no gradient comes that would prove the sends before it done (schedule/depend.h). */
    if (r->vouched == DML_NO_WAIT || dml_exec_has_work(r)) return DML_ERR_OK;
    return device->wait(q, x->op[r->vouched].done);
}

static dml_err issue(dml_exec *x, int32_t begin, int32_t end)
{
    const dml_device_api *device = dml_exec_device(x);
    for (int32_t i = begin; i < end; i++) {
        dml_resolved *r = &x->op[i];
        dml_queue *q = x->c.lane[dml_op_lane(r->op)];
        if (i == x->vote) continue; /* the caller's */
        if (r->loads) DML_TRY(dml_exec_load(r));
        DML_TRY(wait_for(x, r, q));
        DML_TRY(dml_exec_on_host(x) ? device->submit(q, timed_job, r) : enqueue(r, q));
        if (r->done) DML_TRY(device->record(q, r->done));
    }
    return DML_ERR_OK;
}

/* All that was issued up to op `end` is done.  On the host any one wait in the lanes ends by its own deadline, so
 * the sum of those bounds this one.  Streams know no deadlines: here every op has its own, from when the one
 * before it was seen done. */
static dml_err settle(dml_exec *x, int32_t end)
{
    const dml_device_api *device = dml_exec_device(x);
    DML_TRY(dml_exec_collect(x, end, x->c.timeout_ns));
    const int64_t waits = dml_exec_on_host(x) ? x->list->n + 1 : 1;
    const int64_t deadline_ns = dml_clock_ns() + x->c.timeout_ns * waits;
    for (int32_t lane = 0; lane < DML_LANES; lane++)
        DML_TRY(device->sync(x->c.lane[lane], deadline_ns));
    if (dml_exec_on_host(x)) return DML_ERR_OK;
    DML_TRY(device->sync(x->c.load, deadline_ns));
    dml_exec_land(x);
    return DML_ERR_OK;
}

/* What the host reads of the first `n` updates comes to it, after all else on the lane. */
static dml_err fetch(dml_exec *x, dml_lane lane, int32_t n)
{
    for (int32_t c = 0; c < x->c.program->chunks; c++)
        if (x->c.held[c].chunk)
            DML_TRY(
                dml_update_fetch(x->c.held[c].update, 0, n, dml_exec_device(x), x->c.lane[lane]));
    return DML_ERR_OK;
}

static void begin(dml_exec *x, const dml_step_words *words, const int32_t *rows, int32_t updates)
{
    x->words = *words;
    x->rows = rows;
    x->updates = updates;
    x->collected = 0;
    x->span = x->c.recorder ? dml_recorder_attempt(x->c.recorder, words->step + 1, updates) : NULL;
}

dml_err dml_exec_run(dml_exec *x, const dml_step_words *words, const int32_t *rows)
{
    begin(x, words, rows, 1);
    DML_TRY(issue_begin(x));
    DML_TRY(issue(x, 0, x->end));
    DML_TRY(fetch(x, x->c.program->forward_only ? DML_LANE_COMPUTE : DML_LANE_REDUCE, 1));
    DML_TRY(settle(x, x->end));
    return dml_exec_collect_begin(x);
}

dml_err dml_exec_commit(dml_exec *x, double norm, int64_t samples, double lr)
{
    x->update[0] = (dml_exec_update){.norm = norm, .lr = lr, .samples = samples};
    DML_TRY(issue(x, x->end, x->list->n));
    return settle(x, x->list->n);
}

dml_err dml_exec_run_updates(dml_exec *x, const dml_step_words *words, const int32_t *rows,
                             const dml_exec_update *update, int32_t n)
{
    begin(x, words, rows, n);
    memcpy(x->update, update, (size_t)n * sizeof *update);
    DML_TRY(issue_begin(x));
    DML_TRY(issue(x, 0, x->list->n));
    DML_TRY(dml_exec_device(x)->submit(x->c.lane[DML_LANE_COMPUTE], drain_job, x));
    DML_TRY(fetch(x, DML_LANE_REDUCE, n));
    DML_TRY(settle(x, x->list->n));
    return dml_exec_collect_begin(x);
}

/* ---- making ---- */

/* Events that take an op's time, of transfers only for a trace; on the host its job reads the clock. */
static dml_err open_stamps(dml_exec *x, dml_resolved *r)
{
    const dml_device_api *device = dml_exec_device(x);
    const dml_lane lane = dml_op_lane(r->op);
    const bool traced = x->c.recorder && x->c.recorder->step && r->op->kind != DML_OP_VOTE;
    if (lane != DML_LANE_COMPUTE && r->op->kind != DML_OP_REDUCE && !traced) return DML_ERR_OK;
    DML_TRY(device->event_open(x->c.device, &r->begun));
    DML_TRY(device->event_open(x->c.device, &r->done));
    return r->loads ? device->event_open(x->c.device, &r->loaded) : DML_ERR_OK;
}

static dml_err open_all_stamps(dml_exec *x)
{
    if (dml_exec_on_host(x)) return DML_ERR_OK;
    DML_TRY(dml_exec_device(x)->event_open(x->c.device, &x->step_begun));
    DML_TRY(dml_exec_device(x)->event_open(x->c.device, &x->step_ready));
    for (int32_t i = 0; i < x->list->n; i++)
        DML_TRY(open_stamps(x, &x->op[i]));
    return DML_ERR_OK;
}

/* Another lane may wait for op `on`. */
static dml_err open_done(dml_exec *x, int32_t on)
{
    if (on == DML_NO_WAIT || x->op[on].done) return DML_ERR_OK;
    return dml_exec_device(x)->event_open(x->c.device, &x->op[on].done);
}

static dml_err open_events(dml_exec *x)
{
    DML_TRY(open_all_stamps(x));
    /* what comes after the run, of a synchronous step, finds everything done */
    for (int32_t i = 0; i < x->end; i++) {
        for (int32_t w = 0; w < DML_OP_WAITS; w++)
            DML_TRY(open_done(x, x->list->op[i].wait[w]));
        DML_TRY(open_done(x, x->op[i].vouched));
    }
    return DML_ERR_OK;
}

/* A compute op that is the same in every step.  Exact sums are not: their scales, arguments of the kernels that add
 * weight gradients, move with the gradients. */
static bool can_replay(const dml_resolved *r)
{
    if (!tells(r)) return false;
    return !(dml_op_is_weight_grad(r->op) && r->chunk->exponent);
}

/* What each compute op enqueues for a full micro-batch, kept or found. */
static dml_err find_replays(dml_exec *x)
{
    for (int32_t i = 0; i < x->list->n && x->c.graphs; i++) {
        dml_resolved *r = &x->op[i];
        if (!can_replay(r)) continue;
        const dml_graph_key key = {.chunk = r->chunk,
                                   .in = r->io.in,
                                   .labels = r->labels,
                                   .stash = r->stash,
                                   .kept = r->kept,
                                   .dy = r->io.dy,
                                   .dx = r->io.dx,
                                   .skip_in = r->io.skip_in,
                                   .skip_dy = r->io.skip_dy,
                                   .kind = r->op->kind,
                                   .part = r->op->edge,
                                   .mb = r->op->mb,
                                   .mode = x->c.program->forward_only << 1 | r->first};
        DML_TRY(dml_graphs_get(x->c.graphs, &key, dml_exec_capture_job, r, &r->replay));
    }
    return DML_ERR_OK;
}

static dml_err make(dml_exec *x)
{
    DML_TRY(open_events(x));
    return find_replays(x);
}

dml_err dml_exec_new(const dml_exec_config *config, dml_arena *arena, dml_exec **out)
{
    const dml_program *p = config->program;
    dml_exec *x = DML_NEW(arena, dml_exec);
    *x = (dml_exec){.c = *config, .list = &p->list[config->worker]};
    x->op = DML_NEW_N(arena, dml_resolved, x->list->n);
    x->took = DML_NEW_N(arena, dml_durations, (int64_t)DML_OP_KINDS * p->chunks);
    x->flights.op = DML_NEW_N(arena, dml_resolved *, x->list->n);
    x->update = DML_NEW_N(arena, dml_exec_update, p->mbs);
    x->vote = x->end = x->list->n;
    const bool async = dml_program_is_async(p);
    for (int32_t i = 0; i < x->list->n; i++) {
        const dml_op *op = &x->list->op[i];
        x->op[i] = (dml_resolved){.x = x, .op = op, .held = &config->held[op->chunk]};
        if (async) continue;
        if (op->kind == DML_OP_VOTE) x->vote = i;
        if ((op->kind == DML_OP_VOTE || op->kind == DML_OP_STEP) && i < x->end) x->end = i;
    }
    dml_exec_resolve(x, arena);
    const dml_err err = make(x);
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
    const dml_device_api *device = dml_exec_device(x);
    device->event_close(x->step_begun);
    device->event_close(x->step_ready);
    for (int32_t i = 0; i < x->list->n; i++) {
        device->event_close(x->op[i].begun);
        device->event_close(x->op[i].loaded);
        device->event_close(x->op[i].done);
    }
}

int32_t dml_exec_queue_capacity(const dml_program *program, int32_t worker)
{
    /* load, two waits and the job of each op; and the step's own begin and fetches */
    return program->list[worker].n * 4 + 4 * program->chunks + 16;
}
