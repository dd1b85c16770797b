/* engine/exec_resolve.c - an op's operands: slots by number become pointers.
 *
 * Where an op's operand lies follows from the route table alone: on this worker it is read in place, from
 * the slot of the chunk that made it; from another worker it was received into a slot of the chunk's own, or of
 * the skip's.
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

/* Where an output of the chunk on this worker lies: the main one, 0, or the value of skip `skip`. */
static char *output_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t skip,
                       int32_t mb)
{
    const dml_chunk *c = x->c.held[chunk].chunk;
    const dml_pool pool = dml_output_pool(x->c.program, ix, chunk, mb);
    dml_chunk_skip at = {.at = c->size.out_offset, .kept_at = c->size.kept_out_offset};
    if (skip > 0) at = *dml_chunk_end(c->skip_out, c->n_skip_out, skip);
    return slot_at(&x->c.held[chunk], pool, forward_of(x, ix, chunk, mb)->slot) +
           (pool == DML_POOL_KEPT ? at.kept_at : at.at);
}

/* Where a gradient lies that it hands on: of its main input, 0, or of the value of skip `skip`. */
static char *input_grad_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t skip,
                           int32_t mb)
{
    const dml_chunk *c = x->c.held[chunk].chunk;
    const dml_op *b = &x->list->op[dml_index_input_grad(ix, chunk, mb)];
    const int64_t at = skip > 0 ? dml_chunk_end(c->skip_in, c->n_skip_in, skip)->at : 0;
    return slot_at(&x->c.held[chunk], DML_POOL_DX, b->slot) + at;
}

/* What came from another worker through `port`. */
static char *received(const dml_exec *x, const dml_index *ix, dml_op_kind recv, int32_t port,
                      int32_t mb)
{
    const dml_op *op = &x->list->op[dml_index_at(ix, recv, port, mb)];
    return slot_at(&x->c.held[port], dml_op_info_of(recv)->pool, op->slot);
}

static bool is_here(const dml_exec *x, int32_t chunk, int32_t mb)
{
    return *dml_program_route(x->c.program, chunk, mb) == x->c.worker;
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
static const void *input_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    const dml_held *h = &x->c.held[chunk];
    if (chunk == 0) return h->input + h->bytes[DML_POOL_IN] * batch_of(x, ix, 0, mb);
    if (is_here(x, chunk - 1, mb)) return output_of(x, ix, chunk - 1, 0, mb);
    return received(x, ix, DML_OP_RECV_ACT, chunk, mb);
}

/* The gradient of the chunk's output: none for the last, from the next chunk here, or received. */
static const void *output_grad_of(const dml_exec *x, const dml_index *ix, int32_t chunk, int32_t mb)
{
    if (chunk == x->c.program->chunks - 1) return NULL;
    if (is_here(x, chunk + 1, mb)) return input_grad_of(x, ix, chunk + 1, 0, mb);
    return received(x, ix, DML_OP_RECV_GRAD, chunk, mb);
}

/* The values that enter the op's chunk by skips, NULL when there are none. */
static const void *const *skip_inputs_of(const dml_exec *x, const dml_index *ix, int32_t chunk,
                                         int32_t mb, dml_arena *arena)
{
    const dml_program *p = x->c.program;
    const dml_chunk *c = x->c.held[chunk].chunk;
    if (c->n_skip_in == 0) return NULL;
    const void **in = DML_NEW_N(arena, const void *, c->n_skip_in);
    for (int32_t i = 0; i < c->n_skip_in; i++) {
        const int32_t k = c->skip_in[i].skip, from = p->skip[k - 1].from;
        in[i] = is_here(x, from, mb) ? output_of(x, ix, from, k, mb)
                                     : received(x, ix, DML_OP_RECV_ACT, dml_skip_port(p, k), mb);
    }
    return in;
}

/* The gradients that come back to it, likewise. */
static const void *const *skip_grads_of(const dml_exec *x, const dml_index *ix, int32_t chunk,
                                        int32_t mb, dml_arena *arena)
{
    const dml_program *p = x->c.program;
    const dml_chunk *c = x->c.held[chunk].chunk;
    if (c->n_skip_back == 0) return NULL;
    const void **dy = DML_NEW_N(arena, const void *, c->n_skip_back);
    for (int32_t i = 0; i < c->n_skip_back; i++) {
        const int32_t k = c->skip_back[i].skip, to = p->skip[k - 1].to;
        dy[i] = is_here(x, to, mb) ? input_grad_of(x, ix, to, k, mb)
                                   : received(x, ix, DML_OP_RECV_GRAD, dml_skip_port(p, k), mb);
    }
    return dy;
}

/* The same number at both ends.  `across`: the boundary it crosses, by the chunk below, or the skip's port. */
static uint32_t tag_of(bool gradient, int32_t across, int32_t mb)
{
    return (uint32_t)gradient << 31 | (uint32_t)(across & 0x7ff) << 20 | (uint32_t)mb;
}

/* Bytes of a sample, and where they are in what the chunk made or hands on. */
static void resolve_transfer(const dml_exec *x, const dml_index *ix, dml_resolved *r)
{
    const dml_op *op = r->op;
    const dml_chunk *c = r->held->chunk;
    const bool gradient = op->kind == DML_OP_SEND_GRAD || op->kind == DML_OP_RECV_GRAD;
    const bool below = op->kind == DML_OP_RECV_ACT || op->kind == DML_OP_SEND_GRAD;
    const int32_t port = dml_op_port(x->c.program, op), skip = op->edge;
    if (skip > 0)
        r->row_bytes = c->model->cut->skip[skip - 1].elems * dml_dtype_bytes(c->act);
    else
        r->row_bytes = (below ? c->size.in : c->size.dy) / c->mb_rows;
    r->tag = tag_of(gradient, skip == 0 && below ? op->chunk - 1 : port, op->mb);
    if (dml_op_lane(op) == DML_LANE_RECV)
        r->wire = received(x, ix, (dml_op_kind)op->kind, port, op->mb);
    else if (gradient)
        r->wire = input_grad_of(x, ix, op->chunk, skip, op->mb);
    else
        r->wire = output_of(x, ix, op->chunk, skip, op->mb);
}

static void resolve(dml_exec *x, const dml_index *ix, dml_resolved *r, dml_arena *arena)
{
    const dml_op *op = r->op;
    dml_held *h = r->held;
    if (!dml_op_info_of((dml_op_kind)op->kind)->has_mb) return;
    const int64_t rows = h->chunk->mb_rows;
    if (dml_op_lane(op) == DML_LANE_COMPUTE) {
        find_memory(x, ix, r);
        r->io.in = input_of(x, ix, op->chunk, op->mb);
        r->io.skip_in = skip_inputs_of(x, ix, op->chunk, op->mb, arena);
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
        r->io.dy = output_grad_of(x, ix, op->chunk, op->mb);
        r->io.skip_dy = skip_grads_of(x, ix, op->chunk, op->mb, arena);
        if (op->chunk > 0 && op->slot != DML_NO_SLOT) r->io.dx = slot_at(h, DML_POOL_DX, op->slot);
        break;
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD:
    case DML_OP_RECV_GRAD: resolve_transfer(x, ix, r); break;
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
        resolve(x, &ix, r, arena);
        r->first = adds_first(x, i);
        r->vouched = dml_vouched_send(x->c.program, &ix, r->op);
        r->slot_reader = r->loads ? slot_reader_of(x, &ix, i) : DML_NO_WAIT;
    }
    if (dml_program_is_async(x->c.program)) find_views(x, arena);
}
