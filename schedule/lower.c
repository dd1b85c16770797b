/* schedule/lower.c - order to program, in five passes.
 *
 *   1. parts    cut the last backward of each worker, chunk and update at the borders of buckets;
 *               an asynchronous order gets its optimizer steps (schedule/lower_updates.c)
 *   2. time     play the order with eager transfers: when each op runs, when each value is ready
 *   3. events   every compute op at its start, every transfer when its value is ready, every
 *               reduction when its last replica is; sorted into one list, dealt out to the workers
 *   4. slots    per pool, an interval from the write to the predicted end of the last use
 *   5. waits    what depend.h asks for and the clocks do not already know
 *
 * 1F1B, worker 1 of 2, as (time: event), F = 10, B = 20, transfer 5:
 *
 *   10: RECV_F1.0   15: F1.0   20: RECV_F1.1   25: B1.0   45: SEND_B1.0   45: F1.1 ...
 *
 * An event's key is (time, depth, phase, need).  Depth counts the steps that took no time since
 * the first at that time, a transfer standing between its two ops, so along every dependency
 * (time, depth) grows: the list is a topological order of everything.  Transfers come before
 * compute, so that a slot that is free now is free for the next op; of transfers that are ready
 * together the one that is needed first goes first: a worker in the middle of a pipeline often
 * gets an activation and a gradient at once.
 */
#include "schedule/lower.h"

#include "schedule/check.h"
#include "schedule/depend.h"
#include "schedule/links.h"
#include "schedule/lower_slots.h"
#include "schedule/lower_updates.h"
#include "schedule/play.h"

#include <stdlib.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

typedef enum phase { PHASE_TRANSFER, PHASE_COMPUTE, PHASE_REDUCE } phase;

typedef struct event {
    int64_t ns, end_ns;
    int64_t need_ns; /* of a transfer: predicted start of the op that reads the value */
    int32_t depth;
    int32_t worker, peer; /* peer: of a transfer, who receives */
    phase phase;
    dml_op op; /* a transfer: its send */
} event;

typedef struct lowering {
    const dml_program *order; /* cut */
    const dml_cost *cost;
    dml_program *out;
    dml_arena arena;
    event *event;
    int64_t n_events;
    dml_lower_times *times; /* [workers] */
} lowering;

static int by_key(const void *a, const void *b)
{
    const event *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    if (x->depth != y->depth) return x->depth < y->depth ? -1 : 1;
    if (x->phase != y->phase) return x->phase < y->phase ? -1 : 1;
    if (x->need_ns != y->need_ns) return x->need_ns < y->need_ns ? -1 : 1;
    if (x->op.chunk != y->op.chunk) return x->op.chunk < y->op.chunk ? -1 : 1;
    if (x->op.mb != y->op.mb) return x->op.mb < y->op.mb ? -1 : 1;
    if (x->op.kind != y->op.kind) return x->op.kind < y->op.kind ? -1 : 1;
    return (x->op.edge > y->op.edge) - (x->op.edge < y->op.edge);
}

/* ---- parts ---- */

/* For each op of the worker's list whether it is there the last weight gradient of its chunk in an
 * update. */
static void find_last(const dml_program *p, int32_t w, const int32_t *base, int32_t *seen_by,
                      bool *last)
{
    for (int32_t i = p->list[w].n - 1; i >= 0; i--) {
        const dml_op *op = &p->list[w].op[i];
        int32_t *seen = &seen_by[dml_first_bucket(p, base, op->chunk, dml_op_update(p, op))];
        last[i] = dml_op_is_weight_grad(op) && *seen != w + 1;
        if (last[i]) *seen = w + 1;
    }
}

/* The order with its last backwards in parts. */
static dml_err cut_last(const dml_program *order, dml_arena *arena, dml_program *out)
{
    DML_TRY(dml_program_copy(order, out));
    int32_t *base = DML_NEW_N(arena, int32_t, order->chunks + 1);
    dml_program_number_buckets(order, base);
    int32_t *seen_by = DML_NEW_N(arena, int32_t, base[order->chunks]); /* worker + 1 */
    for (int32_t w = 0; w < order->workers; w++) {
        const dml_op_list *list = &order->list[w];
        bool *last = DML_NEW_N(arena, bool, list->n);
        find_last(order, w, base, seen_by, last);
        out->list[w].n = 0;
        for (int32_t i = 0; i < list->n; i++) {
            const dml_op *op = &list->op[i];
            const int32_t parts = last[i] ? order->buckets[op->chunk] : 1;
            for (int32_t k = 1; k <= parts; k++) {
                const int32_t at =
                    dml_program_push(out, w, (dml_op_kind)op->kind, op->chunk, op->mb);
                out->list[w].op[at].version = op->version;
                out->list[w].op[at].edge = (uint16_t)(parts > 1 ? k : 0);
            }
        }
    }
    return DML_ERR_OK;
}

/* ---- events ---- */

/* The transfer `send` of a value that compute event `e` makes, if it leaves the worker. */
static void add_transfer(lowering *lw, const dml_play *play, const dml_index *ix, const event *e,
                         const dml_op *send)
{
    const int32_t next = dml_op_other_end(lw->order, send).chunk,
                  to = *dml_program_route(lw->order, next, send->mb);
    if (to == e->worker) return;
    const int32_t reader =
        send->kind == DML_OP_SEND_ACT
            ? dml_index_at(ix, DML_OP_FWD, next, send->mb)
            : dml_first_part(&lw->order->list[to], dml_index_input_grad(ix, next, send->mb));
    event *t = &lw->event[lw->n_events++];
    *t = *e;
    t->phase = PHASE_TRANSFER;
    t->peer = to;
    t->op = *send;
    t->ns = e->end_ns;
    t->end_ns = e->end_ns + dml_play_lag_ns(lw->order, lw->cost, send);
    t->need_ns = play->start_ns[play->first[to] + reader];
    t->depth = e->end_ns > e->ns ? 0 : e->depth + 1;
}

static void add_transfers(lowering *lw, const dml_play *play, const dml_index *ix, const event *e)
{
    dml_op send[1 + DML_CHUNK_SKIPS];
    const int32_t n = dml_play_values(lw->order, &e->op, send);
    for (int32_t v = 0; v < n; v++)
        add_transfer(lw, play, ix, e, &send[v]);
}

static void add_computes_and_transfers(lowering *lw, const dml_play *play)
{
    dml_index ix;
    dml_index_build(&ix, lw->order, &lw->arena);
    for (int32_t w = 0; w < lw->order->workers; w++)
        for (int32_t i = 0; i < lw->order->list[w].n; i++) {
            const int32_t number = play->first[w] + i;
            event *e = &lw->event[lw->n_events++];
            *e = (event){.ns = play->start_ns[number],
                         .end_ns = play->end_ns[number],
                         .depth = play->depth[number],
                         .worker = w,
                         .phase = PHASE_COMPUTE,
                         .op = lw->order->list[w].op[i]};
            add_transfers(lw, play, &ix, e);
        }
}

/* When the last op that adds to it has ended on every worker, for each bucket of each chunk: those
 * of chunk c from base[c] on. */
static int64_t *ready_times(lowering *lw, const dml_play *play, int32_t *base)
{
    const dml_program *p = lw->order;
    dml_program_number_buckets(p, base);
    int64_t *ready_ns = DML_NEW_N(&lw->arena, int64_t, base[p->chunks]);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (!dml_op_is_weight_grad(op)) continue;
            int64_t *ready = &ready_ns[dml_op_bucket(p, base, op)];
            *ready = MAX2(*ready, play->end_ns[play->first[w] + i]);
        }
    return ready_ns;
}

/* Moves transfers that take time to where the lanes have room for them.  None goes behind its reader, so the list
 * stays a topological order even where the links are too slow for the predicted times. */
static void place_transfers(lowering *lw)
{
    dml_crossing *crossing = DML_NEW_N(&lw->arena, dml_crossing, lw->n_events);
    int64_t n = 0;
    for (int64_t k = 0; k < lw->n_events; k++) {
        const event *e = &lw->event[k];
        if (e->phase == PHASE_TRANSFER)
            crossing[n++] = (dml_crossing){.ready_ns = e->ns,
                                           .need_ns = e->need_ns,
                                           .ns = e->end_ns - e->ns,
                                           .from = e->worker,
                                           .to = e->peer};
    }
    dml_links_place(crossing, n, lw->order->workers, &lw->arena);
    n = 0;
    for (int64_t k = 0; k < lw->n_events; k++) {
        event *e = &lw->event[k];
        if (e->phase != PHASE_TRANSFER) continue;
        const dml_crossing *c = &crossing[n++];
        const int64_t ns = MIN2(c->start_ns, e->need_ns);
        if (ns > e->ns) e->depth = 0;
        e->end_ns = c->start_ns + c->ns;
        e->ns = ns;
    }
}

/* Reduction of bucket b, from 0, of the chunk's, update by update.  When its last replica is ready: in a synchronous
 * order after everything else of that time; in an asynchronous one when it was played, steps need it. */
static event reduction(const lowering *lw, const dml_play *play, const int32_t *base,
                       const int64_t *ready_ns, int32_t chunk, int32_t b)
{
    const int32_t n = lw->order->buckets[chunk], number = play->reduce_first + base[chunk] + b;
    const bool async = play->reduce_first > 0;
    return (event){.ns = async ? play->start_ns[number] : ready_ns[base[chunk] + b],
                   .end_ns = async ? play->end_ns[number] : ready_ns[base[chunk] + b],
                   .depth = async ? play->depth[number] : INT32_MAX,
                   .phase = PHASE_REDUCE,
                   .op = {.kind = DML_OP_REDUCE,
                          .edge = (uint16_t)(n > 1 ? b % n + 1 : 0),
                          .chunk = chunk,
                          .mb = async ? b / n : DML_NO_MB}};
}

/* One event per worker, chunk held and bucket; all of a bucket at once. */
static void add_reductions(lowering *lw, const dml_play *play)
{
    const dml_program *p = lw->order;
    int32_t *base = DML_NEW_N(&lw->arena, int32_t, p->chunks + 1);
    const int64_t *ready_ns = ready_times(lw, play, base);
    int32_t *seen_by = DML_NEW_N(&lw->arena, int32_t, p->chunks); /* worker + 1 */
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t c = p->list[w].op[i].chunk;
            if (seen_by[c] == w + 1) continue;
            seen_by[c] = w + 1;
            for (int32_t b = 0; b < base[c + 1] - base[c]; b++) {
                event *e = &lw->event[lw->n_events++];
                *e = reduction(lw, play, base, ready_ns, c, b);
                e->worker = w;
            }
        }
}

/* The votes of an asynchronous order, one per worker and update. */
static void add_votes(lowering *lw, const dml_play *play)
{
    for (int32_t w = 0; w < lw->order->workers; w++)
        for (int32_t u = 0; u < dml_program_updates(lw->order, 0); u++)
            lw->event[lw->n_events++] = (event){.ns = play->start_ns[play->vote_first + u],
                                                .end_ns = play->end_ns[play->vote_first + u],
                                                .depth = play->depth[play->vote_first + u],
                                                .worker = w,
                                                .phase = PHASE_REDUCE,
                                                .op = {.kind = DML_OP_VOTE, .mb = u}};
}

/* Room for the predicted times of every list; a transfer is in two. */
static void make_times(lowering *lw)
{
    int32_t *n = DML_NEW_N(&lw->arena, int32_t, lw->out->workers);
    for (int64_t k = 0; k < lw->n_events; k++) {
        n[lw->event[k].worker]++;
        if (lw->event[k].phase == PHASE_TRANSFER) n[lw->event[k].peer]++;
    }
    lw->times = DML_NEW_N(&lw->arena, dml_lower_times, lw->out->workers);
    for (int32_t w = 0; w < lw->out->workers; w++)
        lw->times[w] = (dml_lower_times){.start_ns = DML_NEW_N(&lw->arena, int64_t, n[w]),
                                         .end_ns = DML_NEW_N(&lw->arena, int64_t, n[w])};
}

static void push(lowering *lw, int32_t w, const event *e, dml_op_kind kind, int32_t chunk,
                 int32_t peer)
{
    const int32_t i = dml_program_push(lw->out, w, kind, chunk, e->op.mb);
    dml_op *op = &lw->out->list[w].op[i];
    if (e->phase == PHASE_COMPUTE) op->version = e->op.version;
    op->edge = e->op.edge;
    op->peer = (int16_t)peer;
    lw->times[w].start_ns[i] = e->ns;
    lw->times[w].end_ns[i] = e->end_ns;
}

static void deal_out(lowering *lw)
{
    for (int64_t k = 0; k < lw->n_events; k++) {
        const event *e = &lw->event[k];
        const dml_op_kind kind = (dml_op_kind)e->op.kind;
        const bool moves = e->phase == PHASE_TRANSFER;
        push(lw, e->worker, e, kind, e->op.chunk, moves ? e->peer : DML_NO_PEER);
        if (!moves) continue;
        const dml_op recv = dml_op_other_end(lw->order, &e->op);
        push(lw, e->peer, e, (dml_op_kind)recv.kind, recv.chunk, e->worker);
    }
}

/* VOTE when all gradients are there, then the optimizer; the other way round where it does not wait. */
static void end_step(lowering *lw)
{
    dml_program *out = lw->out;
    for (int32_t w = 0; w < out->workers; w++) {
        bool *held = DML_NEW_N(&lw->arena, bool, out->chunks);
        for (int32_t i = 0; i < out->list[w].n; i++)
            if (out->list[w].op[i].kind == DML_OP_REDUCE) held[out->list[w].op[i].chunk] = true;
        if (!out->staggered) dml_program_push(out, w, DML_OP_VOTE, 0, DML_NO_MB);
        for (int32_t c = 0; c < out->chunks; c++)
            if (held[c]) dml_program_push(out, w, DML_OP_STEP, c, DML_NO_MB);
        if (out->staggered) dml_program_push(out, w, DML_OP_VOTE, 0, DML_NO_MB);
    }
}

static void set_waits(lowering *lw, const dml_index *ix)
{
    for (int32_t w = 0; w < lw->out->workers; w++) {
        dml_depend d;
        dml_depend_begin(&d, lw->out, ix, w, &lw->arena);
        for (int32_t i = 0; i < lw->out->list[w].n; i++) {
            int32_t need[DML_LANES];
            dml_depend_needs(&d, i, need);
            const dml_clock known = dml_depend_before(&d, i);
            int32_t n = 0;
            for (int32_t l = 0; l < DML_LANES; l++) {
                bool implied = need[l] <= known.done[l];
                for (int32_t o = 0; o < DML_LANES && !implied; o++)
                    implied =
                        o != l && need[o] > known.done[o] && d.after[need[o]].done[l] >= need[l];
                if (implied) continue;
                DML_ASSERT_OP(n, <, DML_OP_WAITS);
                lw->out->list[w].op[i].wait[n++] = need[l];
            }
            dml_depend_end(&d, i);
        }
    }
}

/* Every chunk as fast as the others, transfers an eighth of an op: queues stay one or two long.  A
 * chunk that has more replicas gives each the time for it. */
static dml_err balanced_cost(const dml_program *p, dml_arena *arena, dml_cost *out)
{
    enum { FWD_NS = 8000, LATENCY_NS = 1000 };
    DML_TRY(dml_cost_uniform(out, p->chunks, 0, 0, 0));
    int32_t *seen_by = DML_NEW_N(arena, int32_t, p->chunks);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t c = p->list[w].op[i].chunk;
            if (seen_by[c] != w + 1) out->chunk[c].fwd_ns += FWD_NS;
            seen_by[c] = w + 1;
        }
    out->links.outer.latency_ns = LATENCY_NS;
    return dml_cost_skips(out, p->n_skips);
}

/* The optimizer's steps of an asynchronous order in their places, and the times with them. */
static dml_err place_updates(lowering *lw, dml_program *stepped, dml_play *play)
{
    DML_TRY(dml_lower_updates(lw->order, play, &lw->arena, stepped));
    lw->order = stepped;
    dml_program_copy_updates(stepped, lw->out);
    return dml_play_run(stepped, lw->cost, DML_MACHINE_LANES, &lw->arena, play);
}

static dml_err run_passes(lowering *lw, dml_program *stepped)
{
    dml_program *out = lw->out;
    dml_play play;
    DML_TRY(dml_play_run(lw->order, lw->cost, DML_MACHINE_LANES, &lw->arena, &play));
    const bool async = dml_program_is_async(lw->order);
    if (async) DML_TRY(place_updates(lw, stepped, &play));
    const dml_program *order = lw->order;

    /* A compute op makes at most one transfer beside those of skips, and is the first of its chunk or of a bucket. */
    const int64_t skips = 2 * (int64_t)order->n_skips * order->mbs;
    const int64_t votes = async && order->votes ? dml_program_updates(order, 0) : 0;
    lw->event =
        DML_NEW_N(&lw->arena, event, 3 * (int64_t)play.ops + skips + votes * order->workers);
    add_computes_and_transfers(lw, &play);
    place_transfers(lw);
    if (!order->forward_only) add_reductions(lw, &play);
    if (votes) add_votes(lw, &play);
    qsort(lw->event, (size_t)lw->n_events, sizeof *lw->event, by_key);

    make_times(lw);
    deal_out(lw);
    dml_index ix;
    dml_index_build(&ix, out, &lw->arena);
    DML_TRY(dml_lower_slots(out, &ix, lw->times, &lw->arena));
    if (!order->forward_only && !async) end_step(lw);
    set_waits(lw, &ix);
    return DML_ERR_OK;
}

dml_err dml_lower(const dml_program *order, const dml_cost *cost, dml_program *out)
{
    *out = (dml_program){0};
    if (order->lowered) DML_FAIL(DML_ERR_SPEC, "this program is lowered already");
    DML_TRY(dml_check(order, NULL));
    DML_TRY(dml_program_init(out, order->workers, order->chunks, order->mbs));
    dml_err err = dml_program_set_skips(out, order->n_skips, order->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    out->lowered = true;
    out->forward_only = order->forward_only;
    out->recompute = order->recompute;
    memcpy(out->span, order->span, (size_t)order->chunks * sizeof *order->span);
    memcpy(out->buckets, order->buckets, (size_t)order->chunks * sizeof *order->buckets);
    memcpy(out->route, order->route,
           (size_t)order->chunks * (size_t)order->mbs * sizeof *order->route);
    dml_program_copy_updates(order, out);

    dml_program cut = {0}, stepped = {0};
    dml_cost balanced = {0};
    lowering lw = {.order = &cut, .cost = cost, .out = out};
    err = cut_last(order, &lw.arena, &cut);
    if (err == DML_ERR_OK && order->forward_only) {
        err = balanced_cost(order, &lw.arena, &balanced);
        lw.cost = &balanced;
    }
    if (err == DML_ERR_OK) err = run_passes(&lw, &stepped);
    if (err != DML_ERR_OK) {
        dml_err_add(err, __func__, __FILE__, __LINE__);
        dml_program_free(out);
    }
    dml_cost_free(&balanced);
    dml_program_free(&stepped);
    dml_program_free(&cut);
    dml_arena_free(&lw.arena);
    return err;
}
