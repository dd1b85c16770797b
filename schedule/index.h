/* schedule/index.h - finds an op by (kind, port, micro-batch); of an op that is no transfer the port is its chunk.
 *
 * The worker is not part of the key: the route table says which list the index points into.  Of an
 * op in parts the index is that of the last: there its result is.
 */
#ifndef DML_SCHEDULE_INDEX_H
#define DML_SCHEDULE_INDEX_H

#include "engine/base/arena.h"
#include "schedule/program.h"

typedef struct dml_index {
    const dml_program *p; /* borrowed */
    int32_t *at
        [DML_OP_KINDS]; /* [ports][mbs] index in the list of route(op's chunk, mb), -1: none; owned by
                                * the arena, NULL for kinds that come once per step */
} dml_index;

/* No op yet; `p` keeps its skips and its number of micro-batches. */
void dml_index_init(dml_index *ix, const dml_program *p, dml_arena *arena);

/* Enters op i of its list; false when an op of the same kind, chunk and micro-batch is there
 * already, and this is not a further part of it.  The op has a micro-batch, and chunk and
 * micro-batch are in range. */
bool dml_index_add(dml_index *ix, const dml_op *op, int32_t i);

/* init and add of every op with a micro-batch; of duplicates the first stays. */
void dml_index_build(dml_index *ix, const dml_program *p, dml_arena *arena);

static inline int32_t dml_index_at(const dml_index *ix, dml_op_kind kind, int32_t port, int32_t mb)
{
    return ix->at[kind][(int64_t)port * ix->p->mbs + mb];
}

/* The op that makes the input gradient: B, else I. */
static inline int32_t dml_index_input_grad(const dml_index *ix, int32_t chunk, int32_t mb)
{
    const int32_t b = dml_index_at(ix, DML_OP_BWD, chunk, mb);
    return b >= 0 ? b : dml_index_at(ix, DML_OP_BWD_INPUT, chunk, mb);
}

#endif
