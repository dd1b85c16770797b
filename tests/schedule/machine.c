/* tests/schedule/machine.c */
#include "tests/schedule/machine.h"

#include "engine/base/arena.h"
#include "tests/schedule/machine_weights.h"

#include <stdlib.h>

typedef struct slot {
    int32_t label; /* 0 empty */
    int32_t readers;
    bool writing;
} slot;

typedef enum state { WAITING, RUNNING, DONE } state;

enum { READS = 4 + 2 * DML_CHUNK_SKIPS };

typedef struct running_op {
    state state;
    slot *read[READS], *write;
    int32_t want[READS], n_reads;
    bool read_over; /* of a send whose receive has ended: the bytes have been read */
} running_op;

typedef struct machine {
    const dml_program *p;
    dml_arena arena;
    running_op **op;            /* [workers][n] */
    int32_t (*head)[DML_LANES]; /* [workers] first op of the lane that is not done, n: none */
    slot **slots;               /* [workers][ports][DML_POOLS] */
    machine_weights *weights;
    bool ok;
    char *why;
} machine;

static void wrong(machine *m, int32_t w, int32_t i, const char *what)
{
    if (m->ok)
        snprintf(m->why, MACHINE_WHY_BYTES, "worker %d, op %d, %s: %s", w, i,
                 dml_op_name_of(&m->p->list[w].op[i]).text, what);
    m->ok = false;
}

static int32_t ports(const dml_program *p)
{
    return p->chunks + p->n_skips;
}

/* What is received along a skip is told apart from what crosses between neighbours. */
static int32_t port_of(const dml_program *p, dml_op_kind kind, int32_t c, int32_t edge)
{
    return dml_op_info_of(kind)->has_peer && edge > 0 ? p->chunks + edge - 1 : c;
}

static int32_t label_of(const dml_program *p, dml_pool pool, int32_t port, int32_t mb)
{
    return 1 + ((int32_t)pool * ports(p) + port) * p->mbs + mb;
}

/* The op, or its last part: what it makes is there then. */
static int32_t find(const dml_program *p, int32_t w, dml_op_kind kind, int32_t c, int32_t mb)
{
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (op->kind == kind && op->chunk == c && op->mb == mb &&
            (op->edge == 0 || op->edge == p->buckets[c]))
            return i;
    }
    return -1;
}

/* The worker's transfer of a value: along skip k, or between neighbours, 0. */
static int32_t find_transfer(const dml_program *p, int32_t w, dml_op_kind kind, int32_t c,
                             int32_t skip, int32_t mb)
{
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (op->kind == kind && op->chunk == c && op->mb == mb && op->edge == skip) return i;
    }
    return -1;
}

/* The worker's reduction of that bucket. */
static int32_t find_reduce(const dml_program *p, int32_t w, int32_t c, int32_t bucket,
                           int32_t update)
{
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (op->kind == DML_OP_REDUCE && op->chunk == c && op->edge == bucket &&
            machine_update(op) == update)
            return i;
    }
    return -1;
}

static slot *slot_at(machine *m, int32_t w, dml_pool pool, int32_t port, int32_t number)
{
    const int32_t n = *dml_program_slots(m->p, w, port, pool);
    slot *s = m->slots[(w * ports(m->p) + port) * DML_POOLS + (int32_t)pool];
    return number >= 0 && number < n ? &s[number] : NULL;
}

static void want(machine *m, int32_t w, int32_t i, dml_pool pool, int32_t port, int32_t mb,
                 int32_t maker)
{
    running_op *o = &m->op[w][i];
    slot *s = maker < 0 ? NULL : slot_at(m, w, pool, port, m->p->list[w].op[maker].slot);
    if (!s) {
        wrong(m, w, i, "what it reads is nowhere");
        return;
    }
    o->read[o->n_reads] = s;
    o->want[o->n_reads++] = label_of(m->p, pool, port, mb);
}

/* Whether the forward threw away what its backward reads. */
static bool again(const dml_program *p, int32_t w, int32_t c, int32_t mb)
{
    return p->forward_only ? p->recompute != DML_RECOMPUTE_NONE
                           : find(p, w, DML_OP_RECOMPUTE, c, mb) >= 0;
}

static dml_pool output_pool(const dml_program *p, int32_t w, int32_t c, int32_t mb)
{
    return again(p, w, c, mb) ? DML_POOL_KEPT : DML_POOL_STASH;
}

/* What chunk c reads of chunk `from`: received, or that chunk's output here. */
static void want_value(machine *m, int32_t w, int32_t i, int32_t from, int32_t c, int32_t skip,
                       int32_t mb)
{
    const int32_t recv = find_transfer(m->p, w, DML_OP_RECV_ACT, c, skip, mb);
    if (recv >= 0)
        want(m, w, i, DML_POOL_IN, skip ? m->p->chunks + skip - 1 : c, mb, recv);
    else
        want(m, w, i, output_pool(m->p, w, from, mb), from, mb,
             find(m->p, w, DML_OP_FWD, from, mb));
}

static void want_inputs(machine *m, int32_t w, int32_t i, int32_t c, int32_t mb)
{
    if (c > 0) want_value(m, w, i, c - 1, c, 0, mb);
    for (int32_t k = 1; k <= m->p->n_skips; k++)
        if (m->p->skip[k - 1].to == c) want_value(m, w, i, m->p->skip[k - 1].from, c, k, mb);
}

/* What the forward kept for the chunk's own use; with the ends of the model come the loaded batch and labels. */
static void want_kept(machine *m, int32_t w, int32_t i, int32_t c, int32_t mb)
{
    const bool reads =
        m->p->recompute == DML_RECOMPUTE_SELECTIVE || c == 0 || c == m->p->chunks - 1;
    if (reads && again(m->p, w, c, mb))
        want(m, w, i, DML_POOL_KEPT, c, mb, find(m->p, w, DML_OP_FWD, c, mb));
}

static void want_stash(machine *m, int32_t w, int32_t i, int32_t c, int32_t mb)
{
    const dml_op_kind maker = again(m->p, w, c, mb) ? DML_OP_RECOMPUTE : DML_OP_FWD;
    want(m, w, i, DML_POOL_STASH, c, mb, find(m->p, w, maker, c, mb));
    want_kept(m, w, i, c, mb);
}

static int32_t input_grad(const dml_program *p, int32_t w, int32_t c, int32_t mb)
{
    const int32_t b = find(p, w, DML_OP_BWD, c, mb);
    return b >= 0 ? b : find(p, w, DML_OP_BWD_INPUT, c, mb);
}

static void want_gradient(machine *m, int32_t w, int32_t i, int32_t of, int32_t c, int32_t skip,
                          int32_t mb)
{
    const int32_t recv = find_transfer(m->p, w, DML_OP_RECV_GRAD, c, skip, mb);
    if (recv >= 0)
        want(m, w, i, DML_POOL_DY, skip ? m->p->chunks + skip - 1 : c, mb, recv);
    else
        want(m, w, i, DML_POOL_DX, of, mb, input_grad(m->p, w, of, mb));
}

static void want_gradients(machine *m, int32_t w, int32_t i, int32_t c, int32_t mb)
{
    if (c < m->p->chunks - 1) want_gradient(m, w, i, c + 1, c, 0, mb);
    for (int32_t k = 1; k <= m->p->n_skips; k++)
        if (m->p->skip[k - 1].back == c) want_gradient(m, w, i, m->p->skip[k - 1].to, c, k, mb);
}

static void make(machine *m, int32_t w, int32_t i, dml_pool pool)
{
    const dml_op *op = &m->p->list[w].op[i];
    const int32_t port = port_of(m->p, (dml_op_kind)op->kind, op->chunk, op->edge);
    m->op[w][i].write = slot_at(m, w, pool, port, op->slot);
    if (!m->op[w][i].write) wrong(m, w, i, "it has nowhere to write");
}

static void send(machine *m, int32_t w, int32_t i, dml_pool pool, int32_t maker)
{
    const dml_op *op = &m->p->list[w].op[i];
    want(m, w, i, pool, op->chunk, op->mb, maker);
    if (m->ok && slot_at(m, w, pool, op->chunk, op->slot) != m->op[w][i].read[0])
        wrong(m, w, i, "sends another slot");
}

/* All of a bucket's weight gradients in the update on the worker are done. */
static bool gradients_done(const machine *m, int32_t w, int32_t i)
{
    const dml_op *reduce = &m->p->list[w].op[i];
    const int32_t c = reduce->chunk;
    for (int32_t k = 0; k < m->p->list[w].n; k++) {
        const dml_op *op = &m->p->list[w].op[k];
        if ((op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_WEIGHT) && op->chunk == c &&
            op->mb / m->p->update_mbs[c] == machine_update(reduce) &&
            (op->edge == 0 || op->edge == reduce->edge) && m->op[w][k].state != DONE)
            return false;
    }
    return true;
}

/* All ops of the kind in the update on the worker are there and done; chunk -1: of any chunk. */
static bool kind_done(const machine *m, int32_t w, dml_op_kind kind, int32_t chunk, int32_t update)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->p->list[w].n; i++) {
        const dml_op *op = &m->p->list[w].op[i];
        if (op->kind != kind || machine_update(op) != update) continue;
        if (chunk >= 0 && op->chunk != chunk) continue;
        if (m->op[w][i].state != DONE) return false;
        n++;
    }
    return chunk < 0 || n > 0;
}

static void take_operands(machine *m, int32_t w, int32_t i)
{
    const dml_op *op = &m->p->list[w].op[i];
    const int32_t c = op->chunk, mb = op->mb;
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
        want_inputs(m, w, i, c, mb);
        make(m, w, i, output_pool(m->p, w, c, mb));
        break;
    case DML_OP_RECOMPUTE:
        want_inputs(m, w, i, c, mb);
        want_kept(m, w, i, c, mb);
        make(m, w, i, DML_POOL_STASH);
        break;
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
        want_inputs(m, w, i, c, mb);
        want_gradients(m, w, i, c, mb);
        want_stash(m, w, i, c, mb);
        if (c > 0 && (op->edge == 0 || op->edge == m->p->buckets[c])) make(m, w, i, DML_POOL_DX);
        break;
    case DML_OP_BWD_WEIGHT:
        want_inputs(m, w, i, c, mb);
        want_gradients(m, w, i, c, mb);
        want_stash(m, w, i, c, mb);
        break;
    case DML_OP_SEND_ACT:
        send(m, w, i, output_pool(m->p, w, c, mb), find(m->p, w, DML_OP_FWD, c, mb));
        break;
    case DML_OP_SEND_GRAD: send(m, w, i, DML_POOL_DX, input_grad(m->p, w, c, mb)); break;
    case DML_OP_RECV_ACT: make(m, w, i, DML_POOL_IN); break;
    case DML_OP_RECV_GRAD: make(m, w, i, DML_POOL_DY); break;
    case DML_OP_REDUCE:
        if (!gradients_done(m, w, i)) wrong(m, w, i, "reduces unfinished gradients");
        break;
    case DML_OP_VOTE:
        if (!kind_done(m, w, DML_OP_REDUCE, -1, machine_update(op)))
            wrong(m, w, i, "votes on unreduced gradients");
        break;
    case DML_OP_STEP:
        if (dml_program_steps_wait(m->p) ? !kind_done(m, w, DML_OP_VOTE, 0, machine_update(op))
                                         : !kind_done(m, w, DML_OP_REDUCE, c, machine_update(op)))
            wrong(m, w, i, "steps before the vote, or unreduced gradients");
        break;
    }
}

static void start(machine *m, int32_t w, int32_t i)
{
    running_op *o = &m->op[w][i];
    o->state = RUNNING;
    take_operands(m, w, i);
    const char *why = machine_weights_start(m->weights, w, i);
    if (why) wrong(m, w, i, why);
    for (int32_t k = 0; k < o->n_reads && m->ok; k++) {
        if (o->read[k]->label != o->want[k] || o->read[k]->writing)
            wrong(m, w, i, "does not find what it reads");
        o->read[k]->readers++;
    }
    if (!m->ok || !o->write) return;
    if (o->write->readers || o->write->writing) wrong(m, w, i, "writes what is in use");
    const dml_op *op = &m->p->list[w].op[i];
    const dml_op_kind kind = (dml_op_kind)op->kind;
    dml_pool pool = dml_op_info_of(kind)->pool;
    if (op->kind == DML_OP_FWD) pool = output_pool(m->p, w, op->chunk, op->mb);
    o->write->label = label_of(m->p, pool, port_of(m->p, kind, op->chunk, op->edge), op->mb);
    o->write->writing = true;
}

static void end_reads(machine *m, int32_t w, int32_t i)
{
    running_op *o = &m->op[w][i];
    for (int32_t k = 0; k < o->n_reads && !o->read_over; k++) {
        if (o->read[k]->label != o->want[k]) wrong(m, w, i, "was overwritten while it read");
        o->read[k]->readers--;
    }
    o->read_over = true;
}

/* A transfer's other end; -1 when it is not there. */
static int32_t partner(const dml_program *p, const dml_op *op)
{
    static const struct {
        dml_op_kind other;
        int32_t up;
    } of[DML_OP_KINDS] = {[DML_OP_SEND_ACT] = {DML_OP_RECV_ACT, 1},
                          [DML_OP_RECV_ACT] = {DML_OP_SEND_ACT, -1},
                          [DML_OP_SEND_GRAD] = {DML_OP_RECV_GRAD, -1},
                          [DML_OP_RECV_GRAD] = {DML_OP_SEND_GRAD, 1}};
    int32_t c = op->chunk + of[op->kind].up;
    if (op->edge > 0) {
        const dml_skip *s = &p->skip[op->edge - 1];
        const int32_t end[DML_OP_KINDS] = {[DML_OP_SEND_ACT] = s->to,
                                           [DML_OP_RECV_ACT] = s->from,
                                           [DML_OP_SEND_GRAD] = s->back,
                                           [DML_OP_RECV_GRAD] = s->to};
        c = end[op->kind];
    }
    return find_transfer(p, op->peer, of[op->kind].other, c, op->edge, op->mb);
}

static bool is_transfer(const dml_op *op)
{
    return dml_op_info_of((dml_op_kind)op->kind)->has_peer;
}

static void end(machine *m, int32_t w, int32_t i)
{
    const dml_op *op = &m->p->list[w].op[i];
    running_op *o = &m->op[w][i];
    if (is_transfer(op)) { /* whichever end reports first: the value has left the sender's slot */
        const int32_t other = partner(m->p, op);
        if (op->kind == DML_OP_RECV_ACT || op->kind == DML_OP_RECV_GRAD)
            end_reads(m, op->peer, other);
    }
    end_reads(m, w, i);
    if (o->write) o->write->writing = false;
    o->state = DONE;
    int32_t *head = &m->head[w][dml_op_lane(op)];
    while (*head < m->p->list[w].n && (m->op[w][*head].state == DONE ||
                                       dml_op_lane(&m->p->list[w].op[*head]) != dml_op_lane(op)))
        (*head)++;
}

/* Heads its lane and its waits are done. */
static bool may_start(const machine *m, int32_t w, int32_t i)
{
    const dml_op *op = &m->p->list[w].op[i];
    if (m->op[w][i].state != WAITING || m->head[w][dml_op_lane(op)] != i) return false;
    for (int32_t k = 0; k < DML_OP_WAITS; k++)
        if (op->wait[k] >= 0 && m->op[w][op->wait[k]].state != DONE) return false;
    return true;
}

/* Starts the op and whom it meets, if all are there. */
static bool try_start(machine *m, int32_t w, int32_t i)
{
    const dml_op *op = &m->p->list[w].op[i];
    if (!may_start(m, w, i)) return false;
    if (is_transfer(op)) {
        const int32_t other = partner(m->p, op);
        if (other < 0 || m->p->list[op->peer].op[other].peer != w || !may_start(m, op->peer, other))
            return false;
        const bool sends = dml_op_lane(op) == DML_LANE_SEND;
        start(m, sends ? w : op->peer, sends ? i : other);
        start(m, sends ? op->peer : w, sends ? other : i);
        return true;
    }
    if (op->kind == DML_OP_REDUCE || op->kind == DML_OP_VOTE) {
        for (int32_t pass = 0; pass < 2; pass++)
            for (int32_t v = 0; v < m->p->workers; v++) {
                const int32_t j =
                    op->kind == DML_OP_REDUCE
                        ? find_reduce(m->p, v, op->chunk, op->edge, machine_update(op))
                        : find(m->p, v, DML_OP_VOTE, 0, op->mb);
                bool takes_part = op->kind == DML_OP_VOTE && m->p->list[v].n > 0;
                for (int32_t mb = 0; mb < m->p->mbs && !takes_part; mb++)
                    takes_part = *dml_program_route(m->p, op->chunk, mb) == v;
                if (!takes_part) continue;
                if (pass == 0 && (j < 0 || !may_start(m, v, j))) return false;
                if (pass == 1) start(m, v, j);
            }
        return true;
    }
    start(m, w, i);
    return true;
}

static bool all_done(const machine *m)
{
    for (int32_t w = 0; w < m->p->workers; w++)
        for (int32_t i = 0; i < m->p->list[w].n; i++)
            if (m->op[w][i].state != DONE) return false;
    return true;
}

/* How often micro-batch mb adds to a bucket of its chunk. */
static int32_t times_added(const dml_program *p, int32_t c, int32_t mb, int32_t bucket)
{
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            n += (op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_WEIGHT) && op->chunk == c &&
                 op->mb == mb && (op->edge == 0 || op->edge == bucket);
        }
    return n;
}

/* Parts come from the last layers to the first, and scratch lives from one to the next. */
static void check_parts(machine *m, int32_t w)
{
    const dml_program *p = m->p;
    const dml_op *last = NULL;
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (dml_op_lane(op) != DML_LANE_COMPUTE) continue;
        const bool inside = last && last->edge != 0 && last->edge < p->buckets[last->chunk];
        const bool goes_on = inside && op->kind == last->kind && op->chunk == last->chunk &&
                             op->mb == last->mb && op->edge == last->edge + 1;
        if (inside != goes_on || (!inside && op->edge > 1)) wrong(m, w, i, "parts are torn apart");
        last = op;
    }
}

/* Every chunk of every micro-batch went forward and backward once, where the route says, and every
 * holder stepped. */
static void check_work(machine *m)
{
    const dml_program *p = m->p;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            int32_t n[DML_OP_KINDS] = {0};
            const int32_t home = *dml_program_route(p, c, mb);
            for (int32_t w = 0; w < p->workers; w++)
                for (int32_t i = 0; i < p->list[w].n; i++) {
                    const dml_op *op = &p->list[w].op[i];
                    if (!dml_op_info_of((dml_op_kind)op->kind)->has_mb) continue;
                    if (op->chunk != c || op->mb != mb) continue;
                    n[op->kind] += op->edge <= 1;
                    if (w != home) wrong(m, w, i, "is not where the route says");
                }
            const bool backward = p->forward_only ? n[DML_OP_BWD] + n[DML_OP_BWD_INPUT] == 0
                                                  : n[DML_OP_BWD] + n[DML_OP_BWD_WEIGHT] == 1 &&
                                                        n[DML_OP_BWD_INPUT] == n[DML_OP_BWD_WEIGHT];
            const bool all =
                p->recompute == DML_RECOMPUTE_FULL || p->recompute == DML_RECOMPUTE_SELECTIVE;
            if (!p->forward_only && all && n[DML_OP_RECOMPUTE] != 1)
                wrong(m, home, 0, "is not recomputed");
            if (n[DML_OP_FWD] != 1 || !backward) wrong(m, home, 0, "work is missing or doubled");
            for (int32_t k = 1; k <= p->buckets[c] && !p->forward_only; k++)
                if (times_added(p, c, mb, k) != 1)
                    wrong(m, home, 0, "a bucket is not added to once");
        }
    for (int32_t w = 0; w < p->workers && !p->forward_only; w++)
        for (int32_t c = 0; c < p->chunks; c++) {
            int32_t works = 0;
            for (int32_t i = 0; i < p->list[w].n; i++)
                works |= p->list[w].op[i].kind == DML_OP_FWD && p->list[w].op[i].chunk == c;
            for (int32_t u = 0; works && u < p->mbs / p->update_mbs[c]; u++)
                for (int32_t k = 1; k <= p->buckets[c]; k++)
                    if (find_reduce(p, w, c, p->buckets[c] > 1 ? k : 0, u) < 0)
                        wrong(m, w, 0, "a bucket it holds is not reduced");
        }
    for (int32_t w = 0; w < p->workers; w++) {
        const char *why = machine_weights_end(m->weights, w);
        if (why) wrong(m, w, 0, why);
        check_parts(m, w);
    }
}

static void set_up(machine *m)
{
    const dml_program *p = m->p;
    m->weights = machine_weights_new(p, &m->arena);
    m->op = DML_NEW_N(&m->arena, running_op *, p->workers);
    m->head = dml_arena_alloc(&m->arena, (int64_t)sizeof *m->head * p->workers);
    const int32_t pools = ports(p) * DML_POOLS;
    m->slots = DML_NEW_N(&m->arena, slot *, p->workers * pools);
    for (int32_t w = 0; w < p->workers; w++) {
        m->op[w] = DML_NEW_N(&m->arena, running_op, p->list[w].n);
        for (int32_t l = 0; l < DML_LANES; l++) {
            int32_t i = 0;
            while (i < p->list[w].n && (int32_t)dml_op_lane(&p->list[w].op[i]) != l)
                i++;
            m->head[w][l] = i;
        }
        for (int32_t k = 0; k < pools; k++)
            m->slots[w * pools + k] =
                DML_NEW_N(&m->arena, slot, dml_program_slots(p, w, 0, (dml_pool)0)[k]);
    }
}

/* One random thing: mostly starts, so that much runs at once. */
static bool act(machine *m, rnd *r)
{
    const int32_t places = m->p->workers * DML_LANES;
    const int32_t first = rnd_below(r, places), ends_first = rnd_below(r, 3) == 0;
    for (int32_t pass = 0; pass < 2; pass++)
        for (int32_t k = 0; k < places; k++) {
            const int32_t w = (first + k) % places / DML_LANES, l = (first + k) % DML_LANES;
            const int32_t i = m->head[w][l];
            if (i >= m->p->list[w].n) continue;
            if (pass == ends_first) {
                if (try_start(m, w, i)) return true;
            } else if (m->op[w][i].state == RUNNING) {
                end(m, w, i);
                return true;
            }
        }
    return false;
}

bool machine_run(const dml_program *p, rnd *r, char why[MACHINE_WHY_BYTES])
{
    machine m = {.p = p, .ok = true, .why = why};
    set_up(&m);
    while (m.ok && act(&m, r)) {
    }
    if (m.ok && !all_done(&m)) {
        m.ok = false;
        snprintf(why, MACHINE_WHY_BYTES, "it stalls");
    }
    if (m.ok) check_work(&m);
    dml_arena_free(&m.arena);
    return m.ok;
}
