/* schedule/fuse.c - a pair is fused, and what that delays is followed until nothing moves; too late anywhere, and it is
 * taken back.
 *
 *   I . . W      ->   B . .       B ends where I and W together do; what lay between them comes later, what came after
 *   |     |           |           W may come earlier
 *   |     +- next     +- who waits for the input gradient waits for B
 *
 * What may not be late is the ends that make the order's length (schedule/slack.h).  A pair is followed for VISITS ops at
 * most, so all of it is O(ops); of pairs side by side, which only delay, no op may come later than its latest either.
 */
#include "schedule/fuse.h"

#include "schedule/slack.h"

#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

enum { NONE = DML_SLACK_NONE, VISITS = 400 };

typedef struct fusing {
    dml_slack s;
    int32_t *weight_of; /* [ops] of an I its W, where it is still apart; NONE: nothing to fuse */
    bool *fused;        /* [ops] I: is B now; W: is gone */
    int32_t todo[VISITS + 1], n_todo; /* ops whose time may have changed */
    struct {
        int32_t op;
        int64_t end_ns;
    } was[VISITS];
    int32_t n_was;
} fusing;

static void pair_up(fusing *f, const dml_program *order)
{
    dml_slack *s = &f->s;
    f->weight_of = DML_NEW_N(&s->arena, int32_t, s->ops);
    f->fused = DML_NEW_N(&s->arena, bool, s->ops);
    int32_t *input = DML_NEW_N(&s->arena, int32_t, (int64_t)order->chunks * order->mbs);
    for (int32_t k = 0; k < s->ops; k++) {
        const dml_op *op = s->op[k].op;
        const int64_t cell = (int64_t)op->chunk * order->mbs + op->mb;
        f->weight_of[k] = NONE;
        if (op->kind == DML_OP_BWD_INPUT) input[cell] = k;
        if (op->kind == DML_OP_BWD_WEIGHT) f->weight_of[input[cell]] = k;
    }
}

static void put_todo(fusing *f, int32_t op)
{
    if (op != NONE && f->n_todo <= VISITS) f->todo[f->n_todo++] = op;
}

/* Follows the change; false: something would be too late, or it goes too far. */
static bool follow(fusing *f, bool to_latest)
{
    dml_slack *s = &f->s;
    for (int32_t i = 0; i < f->n_todo; i++) {
        dml_slack_op *o = &s->op[f->todo[i]];
        const int64_t end_ns = dml_slack_ready_ns(s, f->todo[i]) + o->ns;
        if (end_ns == o->end_ns) continue;
        if (i == VISITS || end_ns > o->due_ns || (to_latest && end_ns > o->late_ns)) return false;
        f->was[f->n_was].op = f->todo[i];
        f->was[f->n_was++].end_ns = o->end_ns;
        o->end_ns = end_ns;
        put_todo(f, o->next);
        for (int32_t e = o->out; e != NONE; e = s->edge[e].next_out)
            put_todo(f, s->edge[e].to);
    }
    return f->n_todo <= VISITS;
}

static void unlink_op(dml_slack *s, int32_t op)
{
    const dml_slack_op *o = &s->op[op];
    if (o->prev != NONE) s->op[o->prev].next = o->next;
    if (o->next != NONE) s->op[o->next].prev = o->prev;
}

static void link_again(dml_slack *s, int32_t op)
{
    const dml_slack_op *o = &s->op[op];
    if (o->prev != NONE) s->op[o->prev].next = op;
    if (o->next != NONE) s->op[o->next].prev = op;
}

/* Makes the pair of I at `input` one, if nothing is too late for it. */
static void fuse(fusing *f, int32_t input, bool to_latest)
{
    dml_slack *s = &f->s;
    const int32_t weight = f->weight_of[input];
    dml_slack_op *o = &s->op[input];
    const dml_slack_op before = *o;
    const int32_t after = s->op[weight].next;
    const dml_op whole = {.kind = DML_OP_BWD, .chunk = o->op->chunk, .peer = DML_NO_PEER};
    unlink_op(s, weight);
    o->ns = dml_op_ns(s->cost, o->worker, &whole);
    o->due_ns = MIN2(o->due_ns, s->op[weight].due_ns);
    o->late_ns = INT64_MAX; /* due_ns and who follows say how late */
    f->n_todo = f->n_was = 0;
    put_todo(f, input);
    put_todo(f, after);
    if (follow(f, to_latest)) {
        f->fused[input] = f->fused[weight] = true;
        f->weight_of[input] = NONE;
        return;
    }
    while (f->n_was-- > 0)
        s->op[f->was[f->n_was].op].end_ns = f->was[f->n_was].end_ns;
    o->ns = before.ns;
    o->due_ns = before.due_ns;
    o->late_ns = before.late_ns;
    link_again(s, weight);
}

static void fuse_all(fusing *f)
{
    const dml_slack *s = &f->s;
    for (int pass = 0; pass < 2; pass++)
        for (int32_t i = s->ops - 1; i >= 0; i--) {
            const int32_t k = s->sorted[i];
            if (f->weight_of[k] == NONE) continue;
            const bool side_by_side = s->op[k].next == f->weight_of[k];
            if (side_by_side || pass == 1) fuse(f, k, side_by_side && pass == 0);
        }
}

/* Back into the lists; returns how many backwards are still cut. */
static int32_t write_back(fusing *f, dml_program *order)
{
    int32_t cut = 0;
    for (int32_t w = 0, k = 0; w < order->workers; w++) {
        dml_op_list *list = &order->list[w];
        const int32_t n = list->n;
        list->n = 0;
        for (int32_t i = 0; i < n; i++, k++) {
            dml_op op = list->op[i];
            if (f->fused[k] && op.kind == DML_OP_BWD_WEIGHT) continue;
            if (f->fused[k]) op.kind = DML_OP_BWD;
            cut += op.kind == DML_OP_BWD_WEIGHT;
            list->op[list->n++] = op;
        }
    }
    return cut;
}

/* Fuses what it can; *longer: the result measures longer all the same, which the span can, since its first ops are placed
 * anew for each order. */
static dml_err fuse_once(const dml_cost *cost, dml_list_objective objective, dml_program *order,
                         int32_t *cut, bool *longer)
{
    fusing f;
    int64_t before_ns = 0, after_ns = 0;
    dml_err err = dml_slack_open(&f.s, order, cost);
    if (err == DML_ERR_OK) {
        before_ns = dml_slack_length(&f.s, objective);
        pair_up(&f, order);
        fuse_all(&f);
        *cut = write_back(&f, order);
    }
    dml_arena_free(&f.s.arena);
    DML_TRY(err);
    DML_TRY(dml_order_length(order, cost, objective, &after_ns));
    *longer = after_ns > before_ns;
    return DML_ERR_OK;
}

static int32_t count_cut(const dml_program *order)
{
    int32_t cut = 0;
    for (int32_t w = 0; w < order->workers; w++)
        for (int32_t i = 0; i < order->list[w].n; i++)
            cut += order->list[w].op[i].kind == DML_OP_BWD_WEIGHT;
    return cut;
}

dml_err dml_order_fuse(const dml_cost *cost, dml_list_objective objective, dml_program *order,
                       int32_t *left)
{
    if (order->lowered || dml_program_is_async(order))
        DML_FAIL(DML_ERR_SPEC, "backwards are fused in the order of a synchronous step");
    dml_program was;
    int32_t cut = 0;
    bool longer = false;
    DML_TRY(dml_program_copy(order, &was));
    const dml_err err = fuse_once(cost, objective, order, &cut, &longer);
    if (longer) {
        dml_program_free(order);
        *order = was;
        cut = count_cut(order);
    } else {
        dml_program_free(&was);
    }
    if (left && err == DML_ERR_OK) *left = cut;
    return err == DML_ERR_OK ? err : dml_err_add(err, __func__, __FILE__, __LINE__);
}
