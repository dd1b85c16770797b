/* schedule/play.c - one pass over the graph of queues, waits and meetings. */
#include "schedule/play.h"

#include "engine/base/str.h"
#include "schedule/index.h"
#include "schedule/versions.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

typedef struct edge {
    int32_t to, next; /* next: another edge from the same op, -1 none */
    int64_t lag_ns;
} edge;

typedef struct node {
    const dml_op *op;
    int32_t worker;   /* 0 of what an asynchronous order only stands for                */
    int32_t pending;  /* predecessors not done yet                                      */
    int32_t succ;     /* next op of the queue, -1 none                                  */
    int32_t edges;    /* first edge, -1 none                                            */
    int32_t leader;   /* of the meeting; an op that meets nobody leads itself           */
    int32_t member;   /* next of the meeting, in a ring                                 */
    int32_t missing;  /* in the leader: who has not come yet                            */
    int64_t ready_ns; /* in the leader: when all have come                              */
    int32_t depth;    /* with ready_ns, see dml_play                                    */
    bool begins;      /* the first forward of its chunk here in a step                  */
    bool done;
} node;

typedef struct graph {
    const dml_program *p;
    const dml_cost *cost;
    dml_machine machine;
    dml_play_begin begin;
    dml_play *play;
    node *node;
    int32_t nodes; /* ops, and of an asynchronous order its reductions and votes */
    edge *edge;
    int32_t n_edges;
} graph;

static void add_edge(graph *g, int32_t from, int32_t to, int64_t lag_ns)
{
    g->edge[g->n_edges] = (edge){.to = to, .next = g->node[from].edges, .lag_ns = lag_ns};
    g->node[from].edges = g->n_edges++;
    g->node[to].pending++;
}

/* Which of at most DML_LANES queues the op stands in. */
static int32_t queue_of(dml_machine machine, const dml_op *op)
{
    const dml_lane lane = dml_op_lane(op);
    switch (machine) {
    case DML_MACHINE_LANES: return (int32_t)lane;
    case DML_MACHINE_STRICT: return lane == DML_LANE_COMPUTE ? 0 : 1;
    case DML_MACHINE_LIST: break;
    }
    return 0;
}

static const char *queue_text(dml_machine machine, const dml_op *op)
{
    const dml_lane lane = dml_op_lane(op);
    switch (machine) {
    case DML_MACHINE_LANES: return dml_lane_text(lane);
    case DML_MACHINE_STRICT: return lane == DML_LANE_COMPUTE ? dml_lane_text(lane) : "comm";
    case DML_MACHINE_LIST: break;
    }
    return "list";
}

/* Whether op i of the list is the first forward of its chunk, or the first after an optimizer step of it. */
static bool begins(const dml_op *op, bool *begun)
{
    bool *is = &begun[op->chunk];
    if (op->kind == DML_OP_STEP) *is = false;
    if (op->kind != DML_OP_FWD || *is) return false;
    *is = true;
    return true;
}

/* The earliest that the op could start. */
static int64_t begin_of(const graph *g, int32_t w, const dml_op *op)
{
    const int64_t worker_ns = g->begin.worker_ns ? g->begin.worker_ns[w] : 0;
    const bool ends = op->kind == DML_OP_STEP || op->kind == DML_OP_VOTE;
    return ends ? MAX2(worker_ns, g->begin.voted_ns) : worker_ns;
}

static void link_queues_and_waits(graph *g, dml_arena *arena)
{
    bool *begun = DML_NEW_N(arena, bool, g->p->chunks);
    for (int32_t w = 0; w < g->p->workers; w++) {
        memset(begun, 0, (size_t)g->p->chunks * sizeof *begun);
        int32_t last[DML_LANES] = {-1, -1, -1, -1};
        const int32_t first = g->play->first[w];
        for (int32_t i = 0; i < g->p->list[w].n; i++) {
            const dml_op *op = &g->p->list[w].op[i];
            node *nd = &g->node[first + i];
            *nd = (node){.op = op,
                         .worker = w,
                         .succ = -1,
                         .edges = -1,
                         .leader = first + i,
                         .member = first + i,
                         .missing = 1,
                         .ready_ns = begin_of(g, w, op),
                         .begins = begins(op, begun)};
            int32_t *prev = &last[queue_of(g->machine, op)];
            if (*prev >= 0) {
                g->node[*prev].succ = first + i;
                nd->pending = 1;
            }
            *prev = first + i;
            for (int32_t k = 0; k < DML_OP_WAITS; k++)
                if (op->wait[k] >= 0 && op->wait[k] < i)
                    add_edge(g, first + op->wait[k], first + i, 0);
        }
    }
}

/* `number` joins the ring of the meeting that `leader` leads. */
static void join_ring(graph *g, int32_t leader, int32_t number)
{
    node *l = &g->node[leader], *nd = &g->node[number];
    nd->leader = leader;
    nd->member = l->member;
    l->member = number;
}

/* Every transfer is a meeting of two, led by the send; whose other end is not there waits for
 * ever. */
static void link_transfers(graph *g, const dml_index *ix)
{
    for (int32_t w = 0; w < g->p->workers; w++)
        for (int32_t i = 0; i < g->p->list[w].n; i++) {
            const dml_op *op = &g->p->list[w].op[i];
            if (!dml_op_info_of((dml_op_kind)op->kind)->has_peer) continue;
            const int32_t number = g->play->first[w] + i;
            g->node[number].missing = 2;
            if (dml_op_lane(op) != DML_LANE_SEND) continue;
            const dml_op recv = dml_op_other_end(g->p, op);
            const int32_t at =
                dml_index_at(ix, (dml_op_kind)recv.kind, dml_op_port(g->p, &recv), recv.mb);
            const int32_t to = *dml_program_route(g->p, recv.chunk, recv.mb);
            if (at >= 0) join_ring(g, number, g->play->first[to] + at);
        }
}

static int32_t *no_leaders(dml_arena *arena, int32_t n)
{
    int32_t *leader = DML_NEW_N(arena, int32_t, n);
    for (int32_t k = 0; k < n; k++)
        leader[k] = -1;
    return leader;
}

static void link_collectives(graph *g, dml_arena *arena)
{
    const dml_program *p = g->p;
    int32_t *base = DML_NEW_N(arena, int32_t, p->chunks + 1);
    dml_program_number_buckets(p, base);
    int32_t *reduce = no_leaders(arena, base[p->chunks]);
    int32_t *vote = no_leaders(arena, dml_program_updates(p, 0));
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind != DML_OP_REDUCE && op->kind != DML_OP_VOTE) continue;
            int32_t *leader = op->kind == DML_OP_VOTE ? &vote[dml_op_update(p, op)]
                                                      : &reduce[dml_op_bucket(p, base, op)];
            const int32_t number = g->play->first[w] + i;
            if (*leader < 0) {
                *leader = number;
                continue;
            }
            join_ring(g, *leader, number);
            g->node[*leader].missing++;
        }
}

int32_t dml_play_values(const dml_program *p, const dml_op *op, dml_op out[1 + DML_CHUNK_SKIPS])
{
    const bool up = op->kind == DML_OP_FWD;
    if (!up && !(dml_op_is_input_grad(op) && dml_op_is_last(p, op))) return 0;
    const dml_op send = {.kind = up ? DML_OP_SEND_ACT : DML_OP_SEND_GRAD,
                         .peer = DML_NO_PEER,
                         .slot = DML_NO_SLOT,
                         .chunk = op->chunk,
                         .mb = op->mb,
                         .wait = {DML_NO_WAIT, DML_NO_WAIT}};
    int32_t n = 0;
    if (up ? op->chunk + 1 < p->chunks : op->chunk > 0) out[n++] = send;
    for (int32_t k = 1; k <= p->n_skips; k++) {
        if ((up ? p->skip[k - 1].from : p->skip[k - 1].to) != op->chunk) continue;
        out[n] = send;
        out[n++].edge = (uint16_t)k;
    }
    return n;
}

int64_t dml_play_lag_ns(const dml_program *p, const dml_cost *cost, const dml_op *send)
{
    const int32_t from = *dml_program_route(p, send->chunk, send->mb),
                  to = *dml_program_route(p, dml_op_other_end(p, send).chunk, send->mb);
    if (!cost || from == to) return 0;
    dml_op routed = *send;
    routed.peer = (int16_t)to;
    return dml_op_ns(cost, from, &routed);
}

/* The number of the first op that reads the value of `send`; -1: there is none. */
static int32_t reader_of(const graph *g, const dml_index *ix, const dml_op *send)
{
    const dml_program *p = g->p;
    const int32_t c = dml_op_other_end(p, send).chunk, home = *dml_program_route(p, c, send->mb);
    const int32_t at = send->kind == DML_OP_SEND_ACT ? dml_index_at(ix, DML_OP_FWD, c, send->mb)
                                                     : dml_index_input_grad(ix, c, send->mb);
    return at < 0 ? -1 : g->play->first[home] + dml_first_part(&p->list[home], at);
}

/* In an order the values travel along edges instead, from a last part to a first one. */
static void link_values(graph *g, const dml_index *ix)
{
    const dml_program *p = g->p;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            dml_op send[1 + DML_CHUNK_SKIPS];
            const int32_t n = dml_play_values(p, &p->list[w].op[i], send);
            for (int32_t v = 0; v < n; v++) {
                const int32_t to = reader_of(g, ix, &send[v]);
                if (to >= 0)
                    add_edge(g, g->play->first[w] + i, to, dml_play_lag_ns(p, g->cost, &send[v]));
            }
        }
}

/* The reductions and votes that an asynchronous order stands for: nodes behind those of its ops. */
static void add_gates(graph *g, const int32_t *base, dml_arena *arena)
{
    const dml_program *p = g->p;
    const int32_t first = g->play->ops, gates = g->nodes - first;
    dml_op *op = DML_NEW_N(arena, dml_op, gates);
    for (int32_t k = 0; k < gates; k++)
        g->node[first + k] = (node){.op = &op[k],
                                    .succ = -1,
                                    .edges = -1,
                                    .leader = first + k,
                                    .member = first + k,
                                    .missing = 1};
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t b = base[c]; b < base[c + 1]; b++) {
            const int32_t n = p->buckets[c], k = b - base[c];
            op[b] = (dml_op){.kind = DML_OP_REDUCE,
                             .edge = (uint16_t)(n > 1 ? k % n + 1 : 0),
                             .chunk = c,
                             .mb = k / n};
            if (b + 1 < base[c + 1]) add_edge(g, first + b, first + b + 1, 0);
            if (p->votes && k % n == n - 1)
                add_edge(g, first + b, first + base[p->chunks] + k / n, 0);
        }
    for (int32_t u = 0; u < gates - base[p->chunks]; u++)
        op[base[p->chunks] + u] = (dml_op){.kind = DML_OP_VOTE, .mb = u};
}

/* What must be over before a worker makes update u of the chunk: its last reduction, or the vote. */
static int32_t gate_of(const graph *g, const int32_t *base, int32_t c, int32_t u)
{
    if (g->p->votes) return g->play->vote_first + u;
    return g->play->reduce_first + dml_first_bucket(g->p, base, c, u + 1) - 1;
}

/* Backwards go to the reductions they add to.  From there on to the optimizer's step, or while it has no place
 * yet, to whoever reads what it makes. */
static void link_updates(graph *g, dml_arena *arena)
{
    const dml_program *p = g->p;
    int32_t *base = DML_NEW_N(arena, int32_t, p->chunks + 1);
    dml_program_number_buckets(p, base);
    add_gates(g, base, arena);
    const bool placed = dml_program_has(p, DML_OP_STEP);
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t *reads = DML_NEW_N(arena, int32_t, p->list[w].n);
        dml_versions_read(p, w, reads);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            const int32_t number = g->play->first[w] + i;
            if (dml_op_is_weight_grad(op))
                add_edge(g, number, g->play->reduce_first + dml_op_bucket(p, base, op), 0);
            if (op->kind == DML_OP_STEP)
                add_edge(g, gate_of(g, base, op->chunk, op->mb), number, 0);
            else if (!placed && reads[i] > 0)
                add_edge(g, gate_of(g, base, op->chunk, reads[i] - 1), number, 0);
        }
    }
}

/* `n` can start at `ns` at the earliest, `depth` steps after the first there. */
static void delay(node *n, int64_t ns, int32_t depth)
{
    if (ns > n->ready_ns) n->depth = 0;
    if (ns >= n->ready_ns) n->depth = MAX2(n->depth, depth);
    n->ready_ns = MAX2(n->ready_ns, ns);
}

typedef struct todo_list {
    int32_t *number; /* [nodes] */
    int32_t n;
} todo_list;

static void arrive(graph *g, int32_t number, int64_t ns, int32_t depth, todo_list *todo)
{
    delay(&g->node[number], ns, depth);
    if (--g->node[number].pending == 0) todo->number[todo->n++] = number;
}

static int64_t op_ns(const graph *g, const node *n)
{
    if (!g->cost) return 0;
    const int64_t begin_ns = n->begins ? dml_begin_ns(g->cost, n->worker, n->op->chunk) : 0;
    return begin_ns + dml_op_ns(g->cost, n->worker, n->op);
}

/* Runs everyone of a complete meeting, and tells those who wait for them. */
static void run_meeting(graph *g, int32_t leader, todo_list *todo)
{
    const node *l = &g->node[leader];
    const int64_t ns = op_ns(g, l), end_ns = l->ready_ns + ns;
    const int32_t depth = l->depth, after = ns > 0 ? -1 : depth;
    int32_t m = leader;
    do {
        node *nd = &g->node[m];
        nd->done = true;
        g->play->start_ns[m] = l->ready_ns;
        g->play->end_ns[m] = end_ns;
        g->play->depth[m] = depth;
        if (nd->succ >= 0) arrive(g, nd->succ, end_ns, after + 1, todo);
        for (int32_t e = nd->edges; e >= 0; e = g->edge[e].next) {
            const edge *ed = &g->edge[e]; /* a transfer of an order is a step of its own */
            arrive(g, ed->to, end_ns + ed->lag_ns, ed->lag_ns > 0 ? 0 : after + 2, todo);
        }
        m = nd->member;
    } while (m != leader);
}

/* How many nodes were run. */
static int32_t run_all(graph *g, dml_arena *arena)
{
    todo_list todo = {.number = DML_NEW_N(arena, int32_t, g->nodes)};
    int32_t ran = 0;
    for (int32_t k = 0; k < g->nodes; k++)
        if (g->node[k].pending == 0) todo.number[todo.n++] = k;
    for (int32_t k = 0; k < todo.n; k++) {
        const node *nd = &g->node[todo.number[k]];
        node *leader = &g->node[nd->leader];
        delay(leader, nd->ready_ns, nd->depth);
        if (--leader->missing == 0) run_meeting(g, nd->leader, &todo);
    }
    for (int32_t k = 0; k < g->nodes; k++)
        ran += g->node[k].done;
    return ran;
}

/* The head of every queue that still holds something. */
static dml_err report_stall(const graph *g)
{
    dml_str heads = {0};
    for (int32_t w = 0; w < g->p->workers; w++) {
        bool seen[DML_LANES] = {false};
        for (int32_t i = 0; i < g->p->list[w].n; i++) {
            const dml_op *op = &g->p->list[w].op[i];
            const int32_t q = queue_of(g->machine, op);
            if (g->node[g->play->first[w] + i].done || seen[q]) continue;
            seen[q] = true;
            dml_str_printf(&heads, "\n  worker %d, %s: at op %d, %s", w, queue_text(g->machine, op),
                           i, dml_op_name_of(op).text);
            if (op->peer != DML_NO_PEER) dml_str_printf(&heads, " (peer %d)", op->peer);
        }
    }
    const dml_err err = dml_err_set(g->p->lowered ? DML_ERR_BUG : DML_ERR_SPEC, __FILE__, __LINE__,
                                    "flows: nothing can move any more%s", dml_str_text(&heads));
    dml_str_free(&heads);
    return err;
}

/* Waits of a program; of an order the values of F and of B or I, and of an asynchronous one to its gates and from
 * them. */
static int64_t most_edges(const dml_program *p, int64_t ops, int64_t gates)
{
    return DML_OP_WAITS * ops + 2 * (int64_t)p->n_skips * p->mbs + (gates ? ops + 2 * gates : 0);
}

static dml_err check_cost(const dml_program *p, const dml_cost *cost)
{
    if (cost->chunks != p->chunks)
        DML_FAIL(DML_ERR_SPEC, "costs of %d chunks for a program of %d", cost->chunks, p->chunks);
    for (int32_t c = 0; c < p->chunks; c++)
        if (p->buckets[c] > 1 && cost->chunk[c].buckets != p->buckets[c])
            DML_FAIL(DML_ERR_SPEC, "costs of %d buckets of chunk %d for a program of %d",
                     cost->chunk[c].buckets, c, p->buckets[c]);
    if (cost->skips < p->n_skips)
        DML_FAIL(DML_ERR_SPEC, "costs of %d skips for a program of %d", cost->skips, p->n_skips);
    return DML_ERR_OK;
}

/* Reductions and votes of an asynchronous order; no other needs any. */
static int64_t count_gates(const dml_program *p, dml_play *out)
{
    if (p->lowered || !dml_program_is_async(p)) return 0;
    int64_t reductions = 0;
    for (int32_t c = 0; c < p->chunks; c++)
        reductions += (int64_t)dml_program_updates(p, c) * p->buckets[c];
    out->reduce_first = out->ops;
    out->vote_first = out->ops + (int32_t)reductions;
    return reductions + (p->votes ? dml_program_updates(p, 0) : 0);
}

dml_err dml_play_from(const dml_program *p, const dml_cost *cost, dml_machine machine,
                      const dml_play_begin *begin, dml_arena *arena, dml_play *out)
{
    const int64_t ops = dml_program_ops(p);
    if (ops > INT32_MAX / 4) DML_FAIL(DML_ERR_SPEC, "%lld ops are too many", (long long)ops);
    if (cost) DML_TRY(check_cost(p, cost));
    *out = (dml_play){.ops = (int32_t)ops};
    const int64_t gates = count_gates(p, out), nodes = ops + gates;
    out->first = DML_NEW_N(arena, int32_t, p->workers + 1);
    out->start_ns = DML_NEW_N(arena, int64_t, nodes);
    out->end_ns = DML_NEW_N(arena, int64_t, nodes);
    out->depth = DML_NEW_N(arena, int32_t, nodes);
    for (int32_t w = 0; w < p->workers; w++)
        out->first[w + 1] = out->first[w] + p->list[w].n;
    graph g = {.p = p,
               .cost = cost,
               .machine = machine,
               .begin = *begin,
               .play = out,
               .node = DML_NEW_N(arena, node, nodes),
               .nodes = (int32_t)nodes,
               .edge = DML_NEW_N(arena, edge, most_edges(p, ops, gates))};
    dml_index ix;
    dml_index_build(&ix, p, arena);
    link_queues_and_waits(&g, arena);
    if (p->lowered) {
        link_transfers(&g, &ix);
        link_collectives(&g, arena);
    } else {
        link_values(&g, &ix);
        if (gates) link_updates(&g, arena);
    }
    if (run_all(&g, arena) < g.nodes) return report_stall(&g);
    return DML_ERR_OK;
}

dml_err dml_play_run(const dml_program *p, const dml_cost *cost, dml_machine machine,
                     dml_arena *arena, dml_play *out)
{
    return dml_play_from(p, cost, machine, &(dml_play_begin){0}, arena, out);
}
