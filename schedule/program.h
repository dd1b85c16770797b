/* schedule/program.h - the ops of every worker, and where work runs.
 *
 * One type at two levels.  An *order* holds compute ops only; a *program* is what dml_lower makes
 * of it. The route table (chunk, micro-batch -> worker) is the only authority for where work runs.
 */
#ifndef DML_SCHEDULE_PROGRAM_H
#define DML_SCHEDULE_PROGRAM_H

#include "engine/base/err.h"
#include "schedule/op.h"

typedef struct dml_op_list {
    dml_op *op; /* owned by the program */
    int32_t n, cap;
} dml_op_list;

/* What the checker needs to know of a chunk: which layers and parameters it holds.  Layers are
 * numbered along the model, parameters along the layers; a chunk holds contiguous ranges, ends
 * exclusive. */
typedef struct dml_chunk_span {
    int32_t layer_begin, layer_end;
    int32_t param_begin, param_end;
} dml_chunk_span;

/* clang-format off */
/*    policy       text           which forwards are run again for the backward; what is thrown away until then */
#define DML_RECOMPUTE_LIST(X)                                                                                      \
    X(NONE,        "none")        /* none                                                                       */ \
    X(SELECTIVE,   "selective")   /* every one; what cheap layers make of what is kept anyway                   */ \
    X(FULL,        "full")        /* every one; all but the output                                              */ \
    X(EXCEPT_LAST, "except_last") /* of each worker's chunk all but the last micro-batch; as full               */
/* clang-format on */
typedef enum dml_recompute {
#define X(policy, text) DML_RECOMPUTE_##policy,
    DML_RECOMPUTE_LIST(X)
#undef X
} dml_recompute;
#define X(...) +1
enum { DML_RECOMPUTES = 0 DML_RECOMPUTE_LIST(X) };
#undef X
const char *dml_recompute_text(dml_recompute policy); /* static */

/* A value that a chunk beyond the next reads, or one that crosses to the next beside the main one.  Forward it
 * goes straight from its maker to the reader; with several readers each has its own skip.  Its gradient is
 * summed along a chain, so that every cut adds in the same order:
 *
 *     chunk      0 -------------> 3 ------> 5          value of 0, read by 3 and 5: two skips
 *     gradient   0 <--(g5 + g3)-- 3 <-(g5)- 5          {0, 3, back 0}, {0, 5, back 3}
 *
 * A chunk that does not read it sees nothing of it. */
typedef struct dml_skip {
    int32_t from, to; /* chunks, from < to                                                  */
    int32_t back;     /* whom `to` gives its gradient: the next lower chunk that uses it,
                       * in the end `from`; from <= back < to                               */
} dml_skip;

typedef struct dml_program {
    int32_t workers;
    int32_t chunks;
    int32_t mbs;       /* global micro-batches of a step                              */
    bool forward_only; /* evaluation: no backward, no reduction, no step              */
    bool lowered;      /* false: an order                                             */
    dml_recompute recompute;
    dml_op_list *list;    /* [workers] owned                                             */
    int32_t *route;       /* [chunks][mbs] worker, -1 unset; owned                       */
    dml_chunk_span *span; /* [chunks] owned                                              */
    int32_t *buckets;     /* [chunks] parts in which the chunk's gradients are reduced, 1
                           * where they go at once; owned                                */
    int32_t n_skips;
    dml_skip *skip;      /* [n_skips] skip k, from 1, is skip[k - 1]; owned                 */
    int32_t *pool_slots; /* [workers][ports][DML_POOLS] slots, set by dml_lower; owned      */

    /* Asynchronous: the program is a segment between two drains and makes several optimizer steps.
     * Update u of chunk c, from 0, is of micro-batches u * update_mbs[c] .. + update_mbs[c] - 1.
     * Version n of its weights is what n updates of this segment have made. */
    bool votes; /* an update needs the vote of all workers; a synchronous program's does */
    bool
        staggered; /* synchronous: a worker makes its steps without waiting for the vote, which comes after them,
                          * and goes on; others know of it when they come to their own next one   */
    int32_t *update_mbs; /* [chunks] micro-batches of an update of the chunk; mbs: synchronous;
                          * owned                                                                 */
    int32_t *versions;   /* [chunks] weight buffers: version n lies in n mod versions; set by
                          * dml_lower, else 1; owned                                              */
    int32_t *sums;       /* [chunks] gradient buffers: update u adds to u mod sums; likewise      */
} dml_program;

enum {
    DML_MAX_WORKERS = 32767, /* a peer is an int16_t                                              */
    DML_MAX_CHUNKS = 32767,
    DML_MAX_MBS = 1 << 20,
    DML_MAX_BUCKETS =
        UINT16_MAX,          /* of a chunk: an edge is a uint16_t                              */
    DML_MAX_TABLE = 1 << 26, /* entries of ports x mbs and of workers x ports: 1 GiB at the worst */
    DML_MAX_SKIPS = UINT16_MAX, /* an edge, too                                               */
    DML_CHUNK_SKIPS = 32,       /* that may leave a chunk, enter it, and give it gradients: each  */
};

/* An empty synchronous order with every route unset (-1), every span and pool empty, one bucket a
 * chunk.
 * DML_ERR_SPEC   a count is below 1 or above its limit
 * DML_ERR_NOMEM  the tables do not fit */
dml_err dml_program_init(dml_program *p, int32_t workers, int32_t chunks, int32_t mbs);
void dml_program_free(dml_program *p); /* back to {0} */

/* Gives `p`, which has none, n skips; its pools are empty again.
 * DML_ERR_SPEC   more than DML_MAX_SKIPS, or the tables would be too large
 * DML_ERR_NOMEM  they do not fit */
dml_err dml_program_set_skips(dml_program *p, int32_t n, const dml_skip *skip);

/* A deep copy; `out` is uninitialised before and {0} on failure. */
dml_err dml_program_copy(const dml_program *p, dml_program *out);

/* How often, how and into how many buffers the chunks of `p` update, for `out`, which has as many
 * chunks. */
void dml_program_copy_updates(const dml_program *p, dml_program *out);

/* The same in every field. */
bool dml_program_equal(const dml_program *a, const dml_program *b);

/* Appends an op with no peer, slot or waits; returns its index in the worker's list. */
int32_t dml_program_push(dml_program *p, int32_t worker, dml_op_kind kind, int32_t chunk,
                         int32_t mb);

/* Routes every (chunk, micro-batch) to the worker that runs its F, the last one listed. */
void dml_program_route_by_ops(dml_program *p);

static inline int32_t *dml_program_route(const dml_program *p, int32_t chunk, int32_t mb)
{
    return &p->route[(int64_t)chunk * p->mbs + mb];
}

/* Updates of the chunk in one run of the program: 1 when it is synchronous. */
static inline int32_t dml_program_updates(const dml_program *p, int32_t chunk)
{
    return p->mbs / p->update_mbs[chunk];
}

/* Whether any chunk makes more than one update. */
bool dml_program_is_async(const dml_program *p);

/* Whether an optimizer step waits for the vote on its update; else for the reductions of its chunk alone. */
static inline bool dml_program_steps_wait(const dml_program *p)
{
    return p->votes && !p->staggered;
}

/* A *port* is what received values are told apart by: port c < chunks is chunk c's own, port chunks + k - 1 is
 * skip k.  What a chunk makes lies in its own port's slots. */
static inline int32_t dml_program_ports(const dml_program *p)
{
    return p->chunks + p->n_skips;
}

static inline int32_t dml_skip_port(const dml_program *p, int32_t skip)
{
    return p->chunks + skip - 1;
}

/* The port of a transfer; of another op its chunk. */
static inline int32_t dml_op_port(const dml_program *p, const dml_op *op)
{
    const bool skips = op->edge != 0 && dml_op_info_of((dml_op_kind)op->kind)->has_peer;
    return skips ? dml_skip_port(p, op->edge) : op->chunk;
}

/* What meets the transfer `op`: kind, edge, chunk (which may not exist) and micro-batch; the rest is unset. */
dml_op dml_op_other_end(const dml_program *p, const dml_op *op);

static inline int32_t *dml_program_slots(const dml_program *p, int32_t worker, int32_t port,
                                         dml_pool pool)
{
    return &p->pool_slots[((int64_t)worker * dml_program_ports(p) + port) * DML_POOLS +
                          (int32_t)pool];
}

/* Whether the op is whole, or the last part of one that is cut: what it makes is there after it. */
static inline bool dml_op_is_last(const dml_program *p, const dml_op *op)
{
    return op->edge == 0 || op->edge == p->buckets[op->chunk] ||
           dml_op_info_of((dml_op_kind)op->kind)->has_peer;
}

/* Whether the op is a part of a cut backward. */
static inline bool dml_op_is_part(const dml_op *op)
{
    return op->edge != 0 && dml_op_is_weight_grad(op);
}

/* Index of the first part of the op at i.  The list is an order's: parts stand side by side. */
static inline int32_t dml_first_part(const dml_op_list *list, int32_t i)
{
    return list->op[i].edge > 1 ? i - (list->op[i].edge - 1) : i;
}

/* The update that a backward adds to, or that a REDUCE, VOTE or STEP is of. */
static inline int32_t dml_op_update(const dml_program *p, const dml_op *op)
{
    if (op->mb == DML_NO_MB) return 0;
    return dml_op_info_of((dml_op_kind)op->kind)->has_mb ? op->mb / p->update_mbs[op->chunk]
                                                         : op->mb;
}

/* Buckets of chunk c, update by update, are numbered in[c] .. in[c + 1] - 1 among those of all
 * chunks: where tables that have a row for each find theirs.  `in` has room for chunks + 1
 * entries. */
void dml_program_number_buckets(const dml_program *p, int32_t *in);

/* The same for the chunks that a worker adds gradients to, so that a table for one worker is small:
 * the others have none. */
void dml_program_number_held(const dml_program *p, int32_t worker, int32_t *in);

/* The first of those of an update of the chunk. */
static inline int32_t dml_first_bucket(const dml_program *p, const int32_t *in, int32_t chunk,
                                       int32_t update)
{
    return in[chunk] + update * p->buckets[chunk];
}

/* The one that the op is about; of a whole op the first of its update. */
static inline int32_t dml_op_bucket(const dml_program *p, const int32_t *in, const dml_op *op)
{
    return dml_first_bucket(p, in, op->chunk, dml_op_update(p, op)) +
           (op->edge > 0 ? op->edge - 1 : 0);
}

/* Whether any worker has an op of the kind. */
bool dml_program_has(const dml_program *p, dml_op_kind kind);

/* Whether backwards are cut into input and weight gradient anywhere: there are W ops. */
bool dml_program_splits_backward(const dml_program *p);

/* Ops of all workers together. */
int64_t dml_program_ops(const dml_program *p);

#endif
