/* schedule/check_program.c - the rules about values, transfers, slots and waits. */
#include "schedule/check_rules.h"

#include "schedule/depend.h"
#include "schedule/play.h"
#include "schedule/recompute.h"

#include <stdlib.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* Who makes what the op reads: here an F, B or I; over there a transfer, which an order has not
 * yet. */
dml_err dml_rule_fed(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            dml_touch touch[DML_OP_TOUCHES];
            const int32_t n = dml_op_touches(p, &k->ix, &p->list[w].op[i], touch);
            for (int32_t t = 0; t < n; t++) {
                const bool received = touch[t].pool == DML_POOL_IN || touch[t].pool == DML_POOL_DY;
                if (received && !p->lowered) continue;
                const int32_t writer = dml_touch_writer(&k->ix, &touch[t]);
                if (writer >= 0 && writer <= i) continue;
                return dml_check_fail(k, w, i, "its %s is %s",
                                      touch[t].pool == DML_POOL_DY || touch[t].pool == DML_POOL_DX
                                          ? "gradient"
                                          : "input",
                                      writer < 0 ? "never received" : "made or received later");
            }
        }
    return DML_ERR_OK;
}

/* A transfer as both ends see it. */
typedef struct transfer {
    int32_t from, to;
    int32_t at; /* index in the list of the end that entered it, by which sequences are sorted */
    int32_t chunk, edge, mb; /* of the send */
    dml_op_kind kind;
} transfer;

static int by_pair(const void *a, const void *b)
{
    const transfer *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    if (x->to != y->to) return x->to < y->to ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* All sends, or all receives, of the program as one sequence per ordered pair. */
static int64_t sequences(const dml_program *p, dml_lane lane, transfer *out)
{
    int64_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (dml_op_lane(op) != lane) continue;
            const bool sends = lane == DML_LANE_SEND;
            const dml_op sent = sends ? *op : dml_op_other_end(p, op);
            out[n++] = (transfer){.from = sends ? w : op->peer,
                                  .to = sends ? op->peer : w,
                                  .at = i,
                                  .chunk = sent.chunk,
                                  .edge = op->edge,
                                  .mb = op->mb,
                                  .kind = (dml_op_kind)sent.kind};
        }
    qsort(out, (size_t)n, sizeof *out, by_pair);
    return n;
}

dml_err dml_rule_paired(dml_checking *k)
{
    const int64_t ops = dml_program_ops(k->p);
    transfer *send = DML_NEW_N(&k->arena, transfer, ops);
    transfer *recv = DML_NEW_N(&k->arena, transfer, ops);
    const int64_t n_send = sequences(k->p, DML_LANE_SEND, send);
    const int64_t n_recv = sequences(k->p, DML_LANE_RECV, recv);
    for (int64_t i = 0; i < MAX2(n_send, n_recv); i++) {
        const transfer *s = i < n_send ? &send[i] : NULL, *r = i < n_recv ? &recv[i] : NULL;
        if (s && r && s->from == r->from && s->to == r->to && s->chunk == r->chunk &&
            s->edge == r->edge && s->mb == r->mb && s->kind == r->kind)
            continue;
        const bool pair_differs = s && r && (s->from != r->from || s->to != r->to);
        if (!r || (pair_differs && by_pair(s, r) < 0))
            return dml_check_fail(k, s->from, s->at, "worker %d never receives it", s->to);
        if (!s || pair_differs)
            return dml_check_fail(k, r->to, r->at, "worker %d never sends it", r->from);
        return dml_check_fail(k, r->to, r->at, "is received at this place, but worker %d sends %s",
                              s->from, dml_op_name_of(&k->p->list[s->from].op[s->at]).text);
    }
    return DML_ERR_OK;
}

/* The op's own slot: present when its kind names one, inside the pool, and what its buffer has. */
static dml_err check_slot_field(dml_checking *k, int32_t w, int32_t i)
{
    const dml_op *op = &k->p->list[w].op[i];
    const dml_pool pool = dml_op_pool(k->p, &k->ix, op);
    const bool none_made = pool == DML_POOL_DX && (op->chunk == 0 || !dml_op_is_last(k->p, op));
    if (pool == DML_POOL_NONE || none_made)
        return op->slot == DML_NO_SLOT ? DML_ERR_OK
                                       : dml_check_fail(k, w, i, "names slot %d", op->slot);
    const int32_t port = dml_op_lane(op) == DML_LANE_RECV ? dml_op_port(k->p, op) : op->chunk;
    const int32_t slots = *dml_program_slots(k->p, w, port, pool);
    if (op->slot < 0 || op->slot >= slots)
        return dml_check_fail(k, w, i, "slot %d of pool %s, which has %d", op->slot,
                              dml_pool_text(pool), slots);
    return DML_ERR_OK;
}

/* Replays one list: `holds` says for every slot of the worker who wrote it last. */
static dml_err replay_slots(dml_checking *k, int32_t w, const int32_t *base, int32_t *holds)
{
    const dml_program *p = k->p;
    const dml_op *op = p->list[w].op;
    for (int32_t i = 0; i < p->list[w].n; i++) {
        DML_TRY(check_slot_field(k, w, i));
        dml_touch touch[DML_OP_TOUCHES];
        const int32_t n = dml_op_touches(p, &k->ix, &op[i], touch);
        for (int32_t t = 0; t < n; t++) {
            const int32_t pool = touch[t].port * DML_POOLS + (int32_t)touch[t].pool;
            const int32_t writer = dml_touch_writer(&k->ix, &touch[t]);
            int32_t *slot = &holds[base[pool] + op[writer].slot];
            if (touch[t].write) *slot = i;
            if (*slot != writer)
                return dml_check_fail(k, w, i, "slot %d of pool %s was overwritten by op %d, %s",
                                      op[writer].slot, dml_pool_text(touch[t].pool), *slot,
                                      dml_op_name_of(&op[*slot]).text);
            const bool sends = dml_op_lane(&op[i]) == DML_LANE_SEND;
            if (sends && op[i].slot != op[writer].slot)
                return dml_check_fail(k, w, i, "sends slot %d, its value is in %d", op[i].slot,
                                      op[writer].slot);
        }
    }
    return DML_ERR_OK;
}

dml_err dml_rule_slots(dml_checking *k)
{
    const dml_program *p = k->p;
    const int32_t pools = dml_program_ports(p) * DML_POOLS;
    int32_t *base = DML_NEW_N(&k->arena, int32_t, pools);
    for (int32_t w = 0; w < p->workers; w++) {
        int64_t slots = 0; /* an op writes at most one, so a list of n ops needs at most n */
        for (int32_t i = 0; i < pools; i++) {
            const int32_t n = dml_program_slots(p, w, 0, (dml_pool)0)[i];
            if (n < 0)
                return dml_check_fail(k, w, -1, "pool %s of port %d has %d slots",
                                      dml_pool_text((dml_pool)(i % DML_POOLS)), i / DML_POOLS, n);
            base[i] = (int32_t)slots;
            slots += n;
        }
        if (slots > p->list[w].n)
            return dml_check_fail(k, w, -1, "has %lld slots, more than its ops could write",
                                  (long long)slots);
        DML_TRY(replay_slots(k, w, base, DML_NEW_N(&k->arena, int32_t, slots)));
    }
    return DML_ERR_OK;
}

static dml_err check_wait_fields(dml_checking *k, int32_t w, int32_t i)
{
    const dml_op *op = &k->p->list[w].op[i];
    for (int32_t a = 0; a < DML_OP_WAITS; a++) {
        if (op->wait[a] == DML_NO_WAIT) continue;
        if (op->wait[a] < 0 || op->wait[a] >= i)
            return dml_check_fail(k, w, i, "waits for op %d, which is not before it", op->wait[a]);
        if (dml_op_lane(&k->p->list[w].op[op->wait[a]]) == dml_op_lane(op))
            return dml_check_fail(k, w, i, "waits for op %d of its own lane", op->wait[a]);
    }
    return DML_ERR_OK;
}

dml_err dml_rule_waits(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t w = 0; w < p->workers; w++) {
        dml_depend d;
        dml_depend_begin(&d, p, &k->ix, w, &k->arena);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            DML_TRY(check_wait_fields(k, w, i));
            int32_t need[DML_LANES];
            dml_depend_needs(&d, i, need);
            const dml_clock known = dml_depend_start(&d, i);
            for (int32_t l = 0; l < DML_LANES; l++)
                if (need[l] > known.done[l])
                    return dml_check_fail(k, w, i, "may start before op %d, %s, is done", need[l],
                                          dml_op_name_of(&p->list[w].op[need[l]]).text);
            dml_depend_end(&d, i);
        }
    }
    return DML_ERR_OK;
}

dml_err dml_rule_flows(dml_checking *k)
{
    dml_play play;
    return dml_play_run(k->p, NULL, DML_MACHINE_STRICT, &k->arena, &play);
}
