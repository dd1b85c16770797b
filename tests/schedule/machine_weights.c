/* tests/schedule/machine_weights.c */
#include "tests/schedule/machine_weights.h"

enum { FREE = -1 };

/* A chunk on a worker. */
typedef struct held {
    int32_t *version, *sum; /* [versions], [sums] */
    int32_t made;
    bool works;
} held;

struct machine_weights {
    const dml_program *p;
    held *held;    /* [workers][chunks] */
    int32_t *read; /* [chunks][mbs] version that F found */
};

int32_t machine_update(const dml_op *op)
{
    return op->mb < 0 ? 0 : op->mb;
}

static held *held_at(const machine_weights *m, int32_t w, int32_t c)
{
    return &m->held[w * m->p->chunks + c];
}

machine_weights *machine_weights_new(const dml_program *p, dml_arena *arena)
{
    machine_weights *m = DML_NEW_N(arena, machine_weights, 1);
    m->p = p;
    m->held = DML_NEW_N(arena, held, p->workers * p->chunks);
    m->read = DML_NEW_N(arena, int32_t, p->chunks * p->mbs);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t c = 0; c < p->chunks; c++) {
            held *h = held_at(m, w, c);
            h->version = DML_NEW_N(arena, int32_t, p->versions[c]);
            h->sum = DML_NEW_N(arena, int32_t, p->sums[c]);
            for (int32_t k = 1; k < p->versions[c]; k++)
                h->version[k] = FREE;
            for (int32_t k = 0; k < p->sums[c]; k++)
                h->sum[k] = FREE;
        }
    return m;
}

static bool adds(const dml_op *op)
{
    return op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_WEIGHT;
}

/* Updates whose backwards on the worker all stand before op i. */
static int32_t updates_before(const dml_program *p, int32_t w, int32_t i)
{
    const int32_t c = p->list[w].op[i].chunk;
    const int32_t all = p->forward_only ? 0 : p->mbs / p->update_mbs[c];
    for (int32_t u = 0; u < all; u++)
        for (int32_t k = i; k < p->list[w].n; k++) {
            const dml_op *op = &p->list[w].op[k];
            if (op->chunk == c && adds(op) && op->mb / p->update_mbs[c] == u) return u;
        }
    return all;
}

static const char *compute(machine_weights *m, int32_t w, int32_t i)
{
    const dml_program *p = m->p;
    const dml_op *op = &p->list[w].op[i];
    const int32_t c = op->chunk, want = updates_before(p, w, i) + op->version;
    held *h = held_at(m, w, c);
    int32_t *read = &m->read[c * p->mbs + op->mb];
    h->works = true;
    if (want < 0 || want > h->made || h->version[want % p->versions[c]] != want)
        return "does not find its weights";
    if (op->kind == DML_OP_FWD) *read = want;
    if (*read != want) return "reads other weights than its forward";
    if (!adds(op)) return NULL;
    const int32_t u = op->mb / p->update_mbs[c];
    int32_t *sum = &h->sum[u % p->sums[c]];
    if (*sum != FREE && *sum != u) return "adds to the sum of another update";
    *sum = u;
    return NULL;
}

static const char *step(machine_weights *m, int32_t w, const dml_op *op)
{
    const int32_t c = op->chunk, u = machine_update(op);
    held *h = held_at(m, w, c);
    if (h->made != u) return "steps out of order";
    if (h->sum[u % m->p->sums[c]] != u) return "steps by another update's sum";
    h->sum[u % m->p->sums[c]] = FREE;
    h->version[u % m->p->versions[c]] = m->p->versions[c] == 1 ? FREE : u;
    h->version[(u + 1) % m->p->versions[c]] = u + 1;
    h->made++;
    return NULL;
}

const char *machine_weights_start(machine_weights *m, int32_t w, int32_t i)
{
    const dml_op *op = &m->p->list[w].op[i];
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
    case DML_OP_RECOMPUTE:
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT: return compute(m, w, i);
    case DML_OP_REDUCE: {
        const held *h = held_at(m, w, op->chunk);
        const bool there = h->sum[machine_update(op) % m->p->sums[op->chunk]] == machine_update(op);
        return there ? NULL : "reduces another update's sum";
    }
    case DML_OP_STEP: return step(m, w, op);
    case DML_OP_VOTE:
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD:
    case DML_OP_RECV_GRAD: break;
    }
    return NULL;
}

const char *machine_weights_end(const machine_weights *m, int32_t w)
{
    for (int32_t c = 0; c < m->p->chunks && !m->p->forward_only; c++) {
        const held *h = held_at(m, w, c);
        if (h->made != (h->works ? m->p->mbs / m->p->update_mbs[c] : 0))
            return "a chunk it holds is not stepped once for each update";
    }
    return NULL;
}
