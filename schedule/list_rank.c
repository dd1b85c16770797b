/* schedule/list_rank.c - plays the order and sorts its ops by when they begin. */
#include "schedule/list_rank.h"

#include "schedule/play.h"

#include <stdlib.h>

enum { NONE = -1 };

typedef struct begin {
    int64_t ns;
    int32_t depth; /* schedule/play.h: orders what begins at the same time */
    int32_t op;    /* as list_impl.h numbers it: kind, chunk, micro-batch */
    bool whole;    /* a backward not cut in two */
} begin;

static int by_begin(const void *a, const void *b)
{
    const begin *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    return x->depth != y->depth ? (x->depth < y->depth ? -1 : 1)
                                : (x->op > y->op) - (x->op < y->op);
}

static int32_t kind_of(const dml_op *op)
{
    if (op->kind == DML_OP_FWD) return 0;
    if (op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_INPUT) return 1;
    return op->kind == DML_OP_BWD_WEIGHT ? 2 : NONE;
}

/* The compute ops with their times; returns how many. */
static int32_t collect(const dml_program *p, const dml_play *play, begin *out)
{
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            const int32_t kind = kind_of(op), k = play->first[w] + i;
            if (kind == NONE) continue;
            out[n++] = (begin){.ns = play->start_ns[k],
                               .depth = play->depth[k],
                               .op = (kind * p->chunks + op->chunk) * p->mbs + op->mb,
                               .whole = op->kind == DML_OP_BWD};
        }
    return n;
}

static void number(const begin *at, int32_t n, int32_t cells, int32_t *rank)
{
    for (int32_t i = 0; i < DML_LIST_KINDS * cells; i++)
        rank[i] = NONE;
    for (int32_t i = 0; i < n; i++) {
        if (rank[at[i].op] == NONE) rank[at[i].op] = 2 * i; /* of parts the first */
        if (at[i].whole && rank[at[i].op + cells] == NONE) rank[at[i].op + cells] = 2 * i + 1;
    }
}

static dml_err check_complete(const dml_program *p, const int32_t *rank, bool split)
{
    static const char *const name[] = {"forward", "input gradient", "weight gradient"};
    for (int32_t k = 0; k < DML_LIST_KINDS - !split; k++)
        for (int32_t c = 0; c < p->chunks; c++)
            for (int32_t mb = 0; mb < p->mbs; mb++)
                if (rank[(k * p->chunks + c) * p->mbs + mb] == NONE)
                    DML_FAIL(DML_ERR_SPEC,
                             "the order that gives the priority has no %s of chunk %d, "
                             "micro-batch %d",
                             name[k], c, mb);
    return DML_ERR_OK;
}

dml_err dml_list_ranks(const dml_list_args *args, dml_arena *arena, int32_t **rank)
{
    const dml_program *p = args->priority;
    if (p->chunks != args->routes->chunks || p->mbs != args->routes->mbs)
        DML_FAIL(DML_ERR_SPEC,
                 "the order that gives the priority is of %d chunks and %d micro-batches, the "
                 "routes of %d and %d",
                 p->chunks, p->mbs, args->routes->chunks, args->routes->mbs);
    dml_play play;
    DML_TRY(dml_play_run(p, args->cost, DML_MACHINE_LANES, arena, &play));
    begin *at = DML_NEW_N(arena, begin, play.ops);
    const int32_t n = collect(p, &play, at);
    qsort(at, (size_t)n, sizeof *at, by_begin);
    *rank = DML_NEW_N(arena, int32_t, (int64_t)DML_LIST_KINDS * p->chunks * p->mbs);
    number(at, n, p->chunks * p->mbs, *rank);
    return check_complete(p, *rank, args->split);
}
