/* engine/exec_op.c - the executor's switch: one case per op kind, each a call of a chunk, a transport or an
 * update.  Runs inside a job of the op's lane. */
#include "engine/exec_impl.h"

#include "engine/base/failpoint.h"
#include "engine/chunk_bucket.h"

#include <stdio.h>

static dml_run run_of(const dml_resolved *r, int32_t rows)
{
    const int32_t mb = r->op->mb % r->x->c.program->update_mbs[r->op->chunk];
    return (dml_run){.train = !r->x->c.program->forward_only,
                     .mb = mb,
                     .rows = rows,
                     .first = r->first,
                     .recomputed = r->recomputed,
                     .kept = r->kept,
                     .part = r->op->edge,
                     .first_sample = (int64_t)mb * r->chunk->mb_rows};
}

dml_err dml_exec_tell_step(const dml_resolved *r)
{
    dml_exec *x = r->x;
    dml_step_words words = x->words;
    words.step += r->update;
    if (words.step == x->step_words) return DML_ERR_OK;
    if (r->update > 0) words.pace = x->update[r->update].pace;
    x->step_words = words.step;
    return x->c.backend->kernels->begin_step(x->c.compute, &words);
}

static dml_err compute(const dml_resolved *r, int32_t rows)
{
    const dml_exec_config *c = &r->x->c;
    dml_chunk *chunk = r->chunk;
    const dml_kernel_table *kt = c->backend->kernels;
    const dml_run run = run_of(r, rows);
    switch ((dml_op_kind)r->op->kind) {
    case DML_OP_FWD:
        return dml_chunk_forward(chunk, kt, c->compute, &run, &r->io, r->labels, r->stash);
    case DML_OP_BWD: return dml_chunk_backward(chunk, kt, c->compute, &run, &r->io, r->stash);
    case DML_OP_BWD_INPUT:
        return dml_chunk_backward_input(chunk, kt, c->compute, &run, &r->io, r->stash);
    case DML_OP_BWD_WEIGHT:
        return dml_chunk_backward_weight(chunk, kt, c->compute, &run, &r->io, r->stash);
    case DML_OP_RECOMPUTE:
        return dml_chunk_recompute(chunk, kt, c->compute, &run, &r->io, r->labels, r->stash);
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD:
    case DML_OP_RECV_GRAD:
    case DML_OP_REDUCE:
    case DML_OP_VOTE:
    case DML_OP_STEP: break; /* not a chunk's */
    }
    DML_FAIL(DML_ERR_BUG, "op kind %d computes nothing", r->op->kind);
}

static dml_err all_reduce(const dml_resolved *r, void *buffer, int64_t elems, dml_dtype dtype,
                          dml_reduction reduction)
{
    dml_exec *x = r->x;
    const dml_transport_api *comm = x->c.comm;
    DML_TRY(comm->all_reduce(r->held->replicas, x->c.lane[DML_LANE_REDUCE], buffer, elems, dtype,
                             reduction));
    if (x->reduce_met_ns == 0 && comm->call_met_ns)
        x->reduce_met_ns = comm->call_met_ns(r->held->replicas);
    return DML_ERR_OK;
}

/* Sums of the bucket's range, and with the last bucket, when every micro-batch has run, the slots. */
static dml_err sum_bucket(const dml_resolved *r, const dml_bucket *b, bool last)
{
    const dml_chunk *c = r->chunk;
    if (last) DML_TRY(all_reduce(r, c->slots, c->slot_words, DML_I32, DML_SUM));
    if (b->elems == 0) return DML_ERR_OK;
    if (!c->acc) return all_reduce(r, c->g + b->at, b->elems, DML_F32, DML_SUM);
    DML_TRY(all_reduce(r, c->max_bits + b->param_begin, b->param_end - b->param_begin, DML_U32,
                       DML_MAX));
    for (int64_t plane = 0; plane < c->acc_elems; plane += c->arena_elems)
        DML_TRY(all_reduce(r, c->acc + plane + b->at, b->elems, DML_I64, DML_SUM));
    return DML_ERR_OK;
}

static dml_err reduce(const dml_resolved *r)
{
    const dml_chunk *c = r->chunk;
    const int32_t bucket = r->op->edge > 0 ? r->op->edge - 1 : 0;
    DML_ASSERT_OP(r->x->c.program->buckets[r->op->chunk], ==, c->n_buckets);
    if (r->held->n_replicas > 1)
        DML_TRY(sum_bucket(r, &c->bucket[bucket], dml_op_is_last(r->x->c.program, r->op)));
    return dml_update_measure(r->held->update, r->update, r->x->c.backend->kernels, r->x->c.reduce,
                              bucket);
}

/* Of a synchronous step it is the worker's, between run and commit. */
static dml_err vote(const dml_resolved *r)
{
    const dml_exec_config *c = &r->x->c;
    if (!dml_program_is_async(c->program)) return DML_ERR_OK;
    return c->vote(c->vote_context, r->update, &r->x->update[r->update]);
}

static dml_err carry_out(const dml_resolved *r)
{
    const dml_exec_config *c = &r->x->c;
    const dml_kernel_table *kt = c->backend->kernels;
    const dml_exec_update *u = &r->x->update[r->update];
    if (u->skip) return dml_update_skip(r->held->update, r->update, kt, c->compute);
    return dml_update_commit(r->held->update, r->update, kt, c->compute, u->norm, u->samples, u->lr,
                             r->x->words.loss_scale);
}

/* Once, however often a step is brought to its end: a loss in between lets some chunks have moved on. */
static dml_err step(const dml_resolved *r)
{
    dml_update *update = r->held->update;
    const int64_t outcomes = r->x->words.step + r->update + 1;
    if (update->outcomes >= outcomes) return DML_ERR_OK;
    dml_failpoints_be(r->x->c.worker); /* this thread is the queue's */
    DML_TRY(DML_FAILPOINT(WORKER_COMMIT));
    DML_TRY(carry_out(r));
    update->outcomes = outcomes;
    return DML_ERR_OK;
}

static dml_err run(const dml_resolved *r)
{
    const dml_exec *x = r->x;
    const dml_exec_config *c = &x->c;
    const dml_op *op = r->op;
    const int64_t bytes = r->row_bytes > 0 ? r->row_bytes * x->rows[op->mb] : 0;
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD:
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT:
    case DML_OP_RECOMPUTE: return compute(r, x->rows[op->mb]);
    case DML_OP_SEND_ACT:
    case DML_OP_SEND_GRAD:
        return c->comm->send(c->transport, c->lane[DML_LANE_SEND], op->peer, r->wire, bytes,
                             r->tag);
    case DML_OP_RECV_ACT:
    case DML_OP_RECV_GRAD:
        return c->comm->recv(c->transport, c->lane[DML_LANE_RECV], op->peer, r->wire, bytes,
                             r->tag);
    case DML_OP_REDUCE: return reduce(r);
    case DML_OP_VOTE: return vote(r);
    case DML_OP_STEP: return step(r);
    }
    DML_FAIL(DML_ERR_BUG, "op kind %d", op->kind);
}

/* "in F2.7 of step 12 (engine/exec_op.c:...)" */
static dml_err name_op(const dml_resolved *r, dml_err err)
{
    char text[DML_OP_NAME_BYTES + 32];
    snprintf(text, sizeof text, "%s of step %lld", dml_op_name_of(r->op).text,
             (long long)r->x->words.step + r->update + 1);
    return dml_err_add(err, text, __FILE__, __LINE__);
}

dml_err dml_exec_op(const dml_resolved *r)
{
    const dml_err err = run(r);
    return err == DML_ERR_OK ? err : name_op(r, err);
}

dml_err dml_exec_capture_job(void *arg)
{
    const dml_resolved *r = arg;
    const dml_err err = compute(r, r->chunk->mb_rows);
    return err == DML_ERR_OK ? err : name_op(r, err);
}

void dml_exec_count_stash(const dml_resolved *r)
{
    dml_exec *x = r->x;
    if (dml_op_lane(r->op) != DML_LANE_COMPUTE) return; /* what follows is that lane's own */
    if (r->op->kind == DML_OP_FWD) x->stash_live++;
    if (dml_op_is_weight_grad(r->op) && dml_op_is_last(x->c.program, r->op)) x->stash_live--;
    if (x->stash_live > atomic_load_explicit(&x->stash_peak, memory_order_relaxed))
        atomic_store_explicit(&x->stash_peak, x->stash_live, memory_order_relaxed);
}
