/* engine/exec_resolve.c - an op's operands: slots by number become pointers.
 *
 * Where an op's operand lies follows from the route table alone: on this worker it is read in place, from
 * the neighbour chunk's slot; from another worker it was received into a slot of the chunk's own.
 */
#include "engine/exec_impl.h"

#include "schedule/depend.h"
#include "schedule/recompute.h"
#include "schedule/versions.h"

static char *slot_at(const dml_held *h, dml_pool pool, int32_t slot)
{
    DML_ASSERT_OP(slot, >=, 0);
    return h->pool[pool] + h->bytes[pool] * slot;
}

static const dml_op *forward_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    return &x->list->op[dml_index_at(ix, DML_OP_FWD, chunk, mb)];
}

/* Which of the loaded batches is the micro-batch's. */
static int32_t batch_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    const int32_t slot = forward_of(x, ix, chunk, mb)->slot;
    const bool kept = dml_is_recomputed(x->c.program, ix, chunk, mb);
    return kept ? slot : x->c.held[chunk].kept_slots + slot;
}

/* Where the output of the chunk on this worker lies. */
static void *output_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    const dml_held *h = &x->c.held[chunk];
    const dml_pool pool = dml_output_pool(x->c.program, ix, chunk, mb);
    const dml_chunk_sizes *size = &h->chunk->size;
    return slot_at(h, pool, forward_of(x, ix, chunk, mb)->slot) +
           (pool == DML_POOL_KEPT ? size->kept_out_offset : size->out_offset);
}

/* The stash of the op's micro-batch, and what its forward kept: a compute op's. */
static void find_memory(const dml_exec *x, const dml_index *ix, dml_resolved *r)
{
    const dml_op *maker = forward_of(x, ix, r->op->chunk, r->op->mb);
    r->recomputed = dml_is_recomputed(x->c.program, ix, r->op->chunk, r->op->mb);
    if (r->recomputed) {
        r->kept = slot_at(r->held, DML_POOL_KEPT, maker->slot);
        const int32_t rc = dml_index_at(ix, DML_OP_RECOMPUTE, r->op->chunk, r->op->mb);
        maker = rc >= 0 ? &x->list->op[rc] : NULL; /* an evaluation needs none */
    }
    if (maker) r->stash = slot_at(r->held, DML_POOL_STASH, maker->slot);
}

/* What the op's chunk reads as input: the loaded batch, the lower chunk's output on this worker, or what
 * was received. */
static void *input_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    const dml_held *h = &x->c.held[chunk];
    if (chunk == 0) return h->input + h->bytes[DML_POOL_IN] * batch_of(x, ix, 0, mb);
    if (*dml_program_route(x->c.program, chunk - 1, mb) == x->c.worker)
        return output_of(x, ix, chunk - 1, mb);
    return slot_at(h, DML_POOL_IN, x->list->op[dml_index_at(ix, DML_OP_RECV_ACT, chunk, mb)].slot);
}

/* The gradient of the chunk's output: none for the last, from the next chunk here, or received. */
static void *output_grad_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    if (chunk == x->c.program->chunks - 1) return NULL;
    if (*dml_program_route(x->c.program, chunk + 1, mb) == x->c.worker) {
        const dml_op *b = &x->list->op[dml_index_input_grad(ix, chunk + 1, mb)];
        return slot_at(&x->c.held[chunk + 1], DML_POOL_DX, b->slot);
    }
    return slot_at(&x->c.held[chunk], DML_POOL_DY,
                   x->list->op[dml_index_at(ix, DML_OP_RECV_GRAD, chunk, mb)].slot);
}

static uint32_t tag_of(bool gradient, int32_t boundary, int32_t mb)
{
    return (uint32_t)gradient << 31 | (uint32_t)(boundary & 0x7ff) << 20 | (uint32_t)mb;
}

static void resolve(dml_exec *x, const dml_index *ix, dml_resolved *r)
{
    const dml_op *op = r->op;
    dml_held *h = r->held;
    if (!dml_op_info_of((dml_op_kind)op->kind)->has_mb) return;
    const int64_t rows = h->chunk->mb_rows;
    if (dml_op_lane(op) == DML_LANE_COMPUTE) {
        find_memory(x, ix, r);
        r->in = input_of(x, ix, op->chunk, op->mb);
    }
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
    case DML_OP_RECOMPUTE:
        r->labels = h->labels ? h->labels + rows * batch_of(x, ix, op->chunk, op->mb) : NULL;
        r->loads = op->kind == DML_OP_FWD && (h->input || h->labels);
        break;
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT:
        r->dy = output_grad_of(x, ix, op->chunk, op->mb);
        if (op->chunk > 0 && op->slot != DML_NO_SLOT) r->dx = slot_at(h, DML_POOL_DX, op->slot);
        break;
    case DML_OP_SEND_ACT:
        r->wire = output_of(x, ix, op->chunk, op->mb);
        r->row_bytes = h->chunk->size.dy / rows;
        r->tag = tag_of(false, op->chunk, op->mb);
        break;
    case DML_OP_RECV_ACT:
        r->wire = slot_at(h, DML_POOL_IN, op->slot);
        r->row_bytes = h->chunk->size.in / rows;
        r->tag = tag_of(false, op->chunk - 1, op->mb);
        break;
    case DML_OP_SEND_GRAD:
        r->wire = slot_at(h, DML_POOL_DX, op->slot);
        r->row_bytes = h->chunk->size.dx / rows;
        r->tag = tag_of(true, op->chunk - 1, op->mb);
        break;
    case DML_OP_RECV_GRAD:
        r->wire = slot_at(h, DML_POOL_DY, op->slot);
        r->row_bytes = h->chunk->size.dy / rows;
        r->tag = tag_of(true, op->chunk, op->mb);
        break;
    case DML_OP_REDUCE:
    case DML_OP_VOTE:
    case DML_OP_STEP: break; /* no micro-batch */
    }
}

/* The last compute op before op `i`, a forward, that works on a micro-batch whose batch lay in the same place: until
 * it is done that may be read.  DML_NO_WAIT: none in this step. */
static int32_t slot_reader_of(const dml_exec *x, const dml_index *ix, int32_t i)
{
    const dml_op *f = &x->list->op[i];
    const int32_t batch = batch_of(x, ix, f->chunk, f->mb);
    for (int32_t j = i - 1; j >= 0; j--) {
        const dml_op *op = &x->list->op[j];
        if (dml_op_lane(op) != DML_LANE_COMPUTE || op->kind == DML_OP_STEP || op->chunk != f->chunk)
            continue;
        if (batch_of(x, ix, op->chunk, op->mb) == batch) return j;
    }
    return DML_NO_WAIT;
}

/* Whether no op before `i` adds to the same weight gradients: those of its update of its chunk, or of its part of them.
 * Parts come from cutting the last of several backwards, or the only one. */
static bool adds_first(const dml_exec *x, int32_t i)
{
    const dml_op *op = &x->list->op[i];
    if (!dml_op_is_weight_grad(op)) return false;
    for (int32_t j = 0; j < i; j++) {
        const dml_op *before = &x->list->op[j];
        if (dml_op_is_weight_grad(before) && before->chunk == op->chunk && before->mb != op->mb &&
            x->op[j].update == x->op[i].update)
            return false;
    }
    return true;
}

/* ---- versions ---- */

/* A view for every version and update that meet. */
static dml_chunk *view_of(dml_chunk ***views, const dml_resolved *r, int32_t version,
                          dml_arena *arena)
{
    const dml_chunk *c = r->held->chunk;
    dml_chunk ***all = &views[r->op->chunk];
    if (!*all) *all = DML_NEW_N(arena, dml_chunk *, (int64_t)c->updates * c->versions);
    dml_chunk **view = &(*all)[(int64_t)r->update * c->versions + version % c->versions];
    if (!*view) *view = dml_chunk_view(c, version, r->update, arena);
    return *view;
}

static void find_views(dml_exec *x, dml_arena *arena)
{
    const dml_program *p = x->c.program;
    dml_chunk ***views = DML_NEW_N(arena, dml_chunk **, p->chunks);
    int32_t *version = DML_NEW_N(arena, int32_t, x->list->n);
    dml_versions_read(p, x->c.worker, version);
    for (int32_t i = 0; i < x->list->n; i++) {
        dml_resolved *r = &x->op[i];
        if (version[i] >= 0) r->chunk = view_of(views, r, version[i], arena);
        if (r->op->kind == DML_OP_REDUCE) r->chunk = r->held->update->of[r->update];
    }
}

void dml_exec_resolve(dml_exec *x, dml_arena *arena)
{
    dml_index ix;
    dml_index_build(&ix, x->c.program, arena);
    for (int32_t i = 0; i < x->list->n; i++) {
        dml_resolved *r = &x->op[i];
        r->chunk = r->held->chunk;
        r->update = dml_op_update(x->c.program, r->op);
        resolve(x, &ix, r);
        r->first = adds_first(x, i);
        r->vouched = dml_vouched_send(x->c.program, &ix, r->op);
        r->slot_reader = r->loads ? slot_reader_of(x, &ix, i) : DML_NO_WAIT;
    }
    if (dml_program_is_async(x->c.program)) find_views(x, arena);
}
