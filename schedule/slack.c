/* schedule/slack.c - the graph of an order, and a pass over it each way.
 *
 * Of the span (schedule/span.h): with every op at its earliest, chunk c is reduced at
 *
 *   reduced(c) = max over its holders w of (end of w's last weight gradient of c + tail(c, w))
 *   tail(c, w) = max over buckets k of (reductions of k and later - what follows k of the last backward on w)
 *
 * and w has made its optimizer steps at done(w), each after its reduction and the one before.  With all that kept, a
 * worker's first op can begin as late as the pass back says: span = max over w of (done(w) - latest begin of w).
 */
#include "schedule/slack.h"

#include "schedule/index.h"
#include "schedule/play.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { NONE = DML_SLACK_NONE };

/* ---- the graph ---- */

static void link_lists(dml_slack *s)
{
    const dml_program *p = s->p;
    bool *begun = DML_NEW_N(&s->arena, bool, p->chunks);
    for (int32_t w = 0, k = 0; w < p->workers; w++) {
        s->first[w] = p->list[w].n > 0 ? k : NONE;
        s->last[w] = p->list[w].n > 0 ? k + p->list[w].n - 1 : NONE;
        for (int32_t c = 0; c < p->chunks; c++) {
            begun[c] = false;
            s->last_grad[w * p->chunks + c] = NONE;
        }
        for (int32_t i = 0; i < p->list[w].n; i++, k++) {
            const dml_op *op = &p->list[w].op[i];
            const bool begins = op->kind == DML_OP_FWD && !begun[op->chunk];
            if (begins) begun[op->chunk] = true;
            if (dml_op_is_weight_grad(op)) s->last_grad[w * p->chunks + op->chunk] = k;
            s->op[k] = (dml_slack_op){.op = op,
                                      .worker = w,
                                      .prev = i > 0 ? k - 1 : NONE,
                                      .next = i + 1 < p->list[w].n ? k + 1 : NONE,
                                      .out = NONE,
                                      .in = NONE,
                                      .ns = dml_op_ns(s->cost, w, op) +
                                            (begins ? dml_begin_ns(s->cost, w, op->chunk) : 0)};
        }
    }
}

static void add_edge(dml_slack *s, int32_t from, int32_t to, int64_t lag_ns)
{
    s->edge[s->edges] = (dml_slack_edge){.from = from,
                                         .to = to,
                                         .next_out = s->op[from].out,
                                         .next_in = s->op[to].in,
                                         .lag_ns = lag_ns};
    s->op[from].out = s->op[to].in = s->edges++;
}

/* Values to ops of other workers; those of one worker are in its list's order anyway. */
static void link_values(dml_slack *s)
{
    const dml_program *p = s->p;
    dml_index ix;
    dml_index_build(&ix, p, &s->arena);
    for (int32_t k = 0; k < s->ops; k++) {
        dml_op send[1 + DML_CHUNK_SKIPS];
        const int32_t n = dml_play_values(p, s->op[k].op, send);
        for (int32_t v = 0; v < n; v++) {
            const int32_t c = dml_op_other_end(p, &send[v]).chunk, mb = send[v].mb,
                          to = *dml_program_route(p, c, mb);
            if (to == s->op[k].worker) continue;
            const int32_t at = send[v].kind == DML_OP_SEND_ACT
                                   ? dml_index_at(&ix, DML_OP_FWD, c, mb)
                                   : dml_index_input_grad(&ix, c, mb);
            if (at < 0) continue;
            add_edge(s, k, s->first[to] + dml_first_part(&p->list[to], at),
                     dml_play_lag_ns(p, s->cost, &send[v]));
        }
    }
}

/* Ops whose needs are all sorted, one after another; how many there are in the end. */
static int32_t sort(dml_slack *s)
{
    int32_t *pending = DML_NEW_N(&s->arena, int32_t, s->ops), n = 0;
    for (int32_t k = 0; k < s->ops; k++) {
        pending[k] = s->op[k].prev != NONE;
        for (int32_t e = s->op[k].in; e != NONE; e = s->edge[e].next_in)
            pending[k]++;
        if (pending[k] == 0) s->sorted[n++] = k;
    }
    for (int32_t i = 0; i < n; i++) {
        const dml_slack_op *o = &s->op[s->sorted[i]];
        if (o->next != NONE && --pending[o->next] == 0) s->sorted[n++] = o->next;
        for (int32_t e = o->out; e != NONE; e = s->edge[e].next_out)
            if (--pending[s->edge[e].to] == 0) s->sorted[n++] = s->edge[e].to;
    }
    return n;
}

dml_err dml_slack_open(dml_slack *s, const dml_program *order, const dml_cost *cost)
{
    *s = (dml_slack){.p = order, .cost = cost, .ops = (int32_t)dml_program_ops(order)};
    if (cost->chunks != order->chunks)
        DML_FAIL(DML_ERR_SPEC, "costs of %d chunks for an order of %d", cost->chunks,
                 order->chunks);
    const int64_t workers = order->workers;
    s->op = DML_NEW_N(&s->arena, dml_slack_op, s->ops);
    s->first = DML_NEW_N(&s->arena, int32_t, workers);
    s->last = DML_NEW_N(&s->arena, int32_t, workers);
    s->release_ns = DML_NEW_N(&s->arena, int64_t, workers);
    s->sorted = DML_NEW_N(&s->arena, int32_t, s->ops);
    s->edge =
        DML_NEW_N(&s->arena, dml_slack_edge, s->ops + 2 * (int64_t)order->n_skips * order->mbs);
    s->last_grad = DML_NEW_N(&s->arena, int32_t, workers * order->chunks);
    link_lists(s);
    link_values(s);
    if (sort(s) < s->ops)
        DML_FAIL(DML_ERR_SPEC, "flows: the order cannot be played: some of its ops wait for each "
                               "other");
    return DML_ERR_OK;
}

/* ---- times ---- */

int64_t dml_slack_ready_ns(const dml_slack *s, int32_t op)
{
    const dml_slack_op *o = &s->op[op];
    int64_t ns = o->prev != NONE ? s->op[o->prev].end_ns : s->release_ns[o->worker];
    for (int32_t e = o->in; e != NONE; e = s->edge[e].next_in)
        ns = MAX2(ns, s->op[s->edge[e].from].end_ns + s->edge[e].lag_ns);
    return ns;
}

static void pass_along(dml_slack *s)
{
    for (int32_t i = 0; i < s->ops; i++) {
        dml_slack_op *o = &s->op[s->sorted[i]];
        o->start_ns = dml_slack_ready_ns(s, s->sorted[i]);
        o->end_ns = o->start_ns + o->ns;
    }
}

static void pass_back(dml_slack *s)
{
    for (int32_t i = s->ops - 1; i >= 0; i--) {
        dml_slack_op *o = &s->op[s->sorted[i]];
        o->late_ns = o->due_ns;
        if (o->next != NONE)
            o->late_ns = MIN2(o->late_ns, s->op[o->next].late_ns - s->op[o->next].ns);
        for (int32_t e = o->out; e != NONE; e = s->edge[e].next_out) {
            const dml_slack_op *to = &s->op[s->edge[e].to];
            o->late_ns = MIN2(o->late_ns, to->late_ns - to->ns - s->edge[e].lag_ns);
        }
    }
}

static void set_all_due(dml_slack *s, int64_t ns)
{
    for (int32_t k = 0; k < s->ops; k++)
        s->op[k].due_ns = ns;
}

static int64_t wall(dml_slack *s)
{
    int64_t wall_ns = 0;
    pass_along(s);
    for (int32_t k = 0; k < s->ops; k++)
        wall_ns = MAX2(wall_ns, s->op[k].end_ns);
    set_all_due(s, wall_ns);
    pass_back(s);
    return wall_ns;
}

/* ---- the span ---- */

/* By chunk and by worker, with every op at its earliest. */
typedef struct update {
    int32_t *held;    /* [workers][chunks] as they are reduced */
    int32_t *n_held;  /* [workers] */
    int64_t *red_ns;  /* [chunks] end of its reduction */
    int64_t *done_ns; /* [workers] end of its last optimizer step */
} update;

int64_t dml_reduce_tail_ns(const dml_program *p, const dml_cost *cost, int32_t worker,
                           dml_op_kind kind, int32_t chunk)
{
    dml_op sum = {.kind = DML_OP_REDUCE, .chunk = chunk},
           grad = {.kind = (uint8_t)kind, .chunk = chunk};
    if (p->buckets[chunk] == 1) return dml_op_ns(cost, worker, &sum);
    int64_t sums_ns = 0, grads_ns = 0, tail_ns = 0;
    for (int32_t k = p->buckets[chunk]; k > 0; k--) {
        sum.edge = grad.edge = (uint16_t)k;
        sums_ns += dml_op_ns(cost, worker, &sum);
        tail_ns = MAX2(tail_ns, sums_ns - grads_ns);
        grads_ns += dml_op_ns(cost, worker, &grad);
    }
    return tail_ns;
}

static int64_t tail_ns(const dml_slack *s, int32_t op)
{
    const dml_slack_op *o = &s->op[op];
    return dml_reduce_tail_ns(s->p, s->cost, o->worker, (dml_op_kind)o->op->kind, o->op->chunk);
}

static int64_t step_ns(const dml_slack *s, int32_t w, int32_t chunk)
{
    return dml_op_ns(s->cost, w,
                     &(dml_op){.kind = DML_OP_STEP, .chunk = chunk, .peer = DML_NO_PEER});
}

static void measure_reductions(const dml_slack *s, update *u)
{
    const int32_t n = s->p->chunks;
    for (int32_t w = 0; w < s->p->workers; w++)
        for (int32_t c = 0; c < n; c++) {
            const int32_t op = s->last_grad[w * n + c];
            if (op == NONE) continue;
            u->red_ns[c] = MAX2(u->red_ns[c], s->op[op].end_ns + tail_ns(s, op));
        }
}

static void measure_steps(const dml_slack *s, update *u)
{
    const int32_t n = s->p->chunks;
    for (int32_t w = 0; w < s->p->workers; w++) {
        int32_t *held = &u->held[w * n];
        for (int32_t c = 0; c < n; c++) {
            if (s->last_grad[w * n + c] == NONE) continue;
            int32_t at = u->n_held[w]++;
            for (; at > 0 && u->red_ns[held[at - 1]] > u->red_ns[c]; at--)
                held[at] = held[at - 1];
            held[at] = c;
        }
        if (s->last[w] != NONE) u->done_ns[w] = s->op[s->last[w]].end_ns;
        for (int32_t i = 0; i < u->n_held[w]; i++)
            u->done_ns[w] = MAX2(u->done_ns[w], u->red_ns[held[i]]) + step_ns(s, w, held[i]);
    }
}

/* Reductions stay where they are, and so do the ends of lists. */
static void set_due_by_reductions(dml_slack *s, const update *u)
{
    set_all_due(s, INT64_MAX);
    for (int32_t w = 0; w < s->p->workers; w++) {
        if (s->last[w] != NONE) s->op[s->last[w]].due_ns = s->op[s->last[w]].end_ns;
        for (int32_t i = 0; i < u->n_held[w]; i++) {
            const int32_t c = u->held[w * s->p->chunks + i],
                          op = s->last_grad[w * s->p->chunks + c];
            s->op[op].due_ns = MIN2(s->op[op].due_ns, u->red_ns[c] - tail_ns(s, op));
        }
    }
}

/* Reductions and ends of lists may come as late as the optimizer steps that follow can still end in time, on every
 * holder: chunk c by
 *
 *   min over its holders w of (release(w) + span - steps of c and of w's chunks reduced later) */
static void set_due_by_span(dml_slack *s, const update *u, int64_t span_ns)
{
    const int32_t n = s->p->chunks;
    int64_t *by_ns = DML_NEW_N(&s->arena, int64_t, n),
            *end_ns = DML_NEW_N(&s->arena, int64_t, s->p->workers);
    for (int32_t c = 0; c < n; c++)
        by_ns[c] = INT64_MAX;
    for (int32_t w = 0; w < s->p->workers; w++) {
        end_ns[w] = s->release_ns[w] + span_ns;
        for (int32_t i = u->n_held[w] - 1; i >= 0; i--) {
            const int32_t c = u->held[w * n + i];
            end_ns[w] -= step_ns(s, w, c);
            by_ns[c] = MIN2(by_ns[c], end_ns[w]);
        }
    }
    for (int32_t k = 0; k < s->ops; k++) {
        dml_slack_op *o = &s->op[k];
        o->due_ns = end_ns[o->worker];
        if (dml_op_is_weight_grad(o->op))
            o->due_ns = MIN2(o->due_ns, by_ns[o->op->chunk] - tail_ns(s, k));
    }
}

static int64_t span(dml_slack *s)
{
    const int64_t workers = s->p->workers, chunks = s->p->chunks;
    update u = {.held = DML_NEW_N(&s->arena, int32_t, workers * chunks),
                .n_held = DML_NEW_N(&s->arena, int32_t, workers),
                .red_ns = DML_NEW_N(&s->arena, int64_t, chunks),
                .done_ns = DML_NEW_N(&s->arena, int64_t, workers)};
    pass_along(s);
    measure_reductions(s, &u);
    measure_steps(s, &u);
    set_due_by_reductions(s, &u);
    pass_back(s);
    int64_t span_ns = 0;
    for (int32_t w = 0; w < workers; w++) {
        if (s->first[w] == NONE) continue;
        const dml_slack_op *o = &s->op[s->first[w]];
        s->release_ns[w] = o->late_ns - o->ns;
        span_ns = MAX2(span_ns, u.done_ns[w] - s->release_ns[w]);
    }
    set_due_by_span(s, &u, span_ns);
    pass_along(s);
    pass_back(s);
    return span_ns;
}

int64_t dml_slack_length(dml_slack *s, dml_list_objective objective)
{
    switch (objective) {
    case DML_LIST_WALL: return wall(s);
    case DML_LIST_SPAN: break;
    }
    return span(s);
}
