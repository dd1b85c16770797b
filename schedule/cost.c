/* schedule/cost.c - the cost rule. */
#include "schedule/cost.h"

#include <stdlib.h>
#include <string.h>

dml_err dml_cost_init(dml_cost *cost, int32_t chunks)
{
    *cost = (dml_cost){0};
    if (chunks < 1) DML_FAIL(DML_ERR_SPEC, "a cost table has at least one chunk, not %d", chunks);
    cost->chunk = calloc((size_t)chunks, sizeof *cost->chunk);
    if (!cost->chunk) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of %d chunks", chunks);
    cost->chunks = chunks;
    return DML_ERR_OK;
}

void dml_cost_free(dml_cost *cost)
{
    for (int32_t c = 0; c < cost->chunks; c++)
        free(cost->chunk[c].bucket);
    free(cost->chunk);
    free(cost->skip_bytes);
    free(cost->speed);
    free((void *)cost->links.level);
    *cost = (dml_cost){0};
}

dml_err dml_cost_uniform(dml_cost *cost, int32_t chunks, int64_t fwd_ns, int64_t bwd_input_ns,
                         int64_t bwd_weight_ns)
{
    DML_TRY(dml_cost_init(cost, chunks));
    for (int32_t c = 0; c < chunks; c++)
        cost->chunk[c] = (dml_chunk_cost){
            .fwd_ns = fwd_ns, .bwd_input_ns = bwd_input_ns, .bwd_weight_ns = bwd_weight_ns};
    return DML_ERR_OK;
}

dml_err dml_cost_buckets(dml_cost *cost, int32_t chunk, int32_t n)
{
    dml_chunk_cost *c = &cost->chunk[chunk];
    DML_ASSERT_OP(n, >=, 1);
    dml_bucket_cost *bucket = calloc((size_t)n, sizeof *bucket);
    if (!bucket) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of %d buckets", n);
    for (int32_t k = 0; k < n; k++)
        bucket[k].bwd = bucket[k].bwd_weight = bucket[k].reduce = (double)(k + 1) / n;
    free(c->bucket);
    c->bucket = bucket;
    c->buckets = n;
    return DML_ERR_OK;
}

dml_err dml_cost_skips(dml_cost *cost, int32_t n)
{
    int64_t *bytes = calloc((size_t)n + 1, sizeof *bytes);
    if (!bytes) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of %d skips", n);
    free(cost->skip_bytes);
    cost->skip_bytes = bytes;
    cost->skips = n;
    return DML_ERR_OK;
}

/* A copy of [n] things of `bytes` each into *out, which is freed before; none for n 0. */
static dml_err replace(void **out, const void *from, int32_t n, size_t bytes, const char *what)
{
    void *copy = NULL;
    if (n > 0) {
        copy = malloc((size_t)n * bytes);
        if (!copy) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of %d %s", n, what);
        memcpy(copy, from, (size_t)n * bytes);
    }
    free(*out);
    *out = copy;
    return DML_ERR_OK;
}

dml_err dml_cost_speeds(dml_cost *cost, int32_t workers, const double *speed)
{
    void *own = cost->speed;
    DML_TRY(replace(&own, speed, speed ? workers : 0, sizeof *speed, "workers"));
    cost->speed = own;
    cost->workers = workers;
    return DML_ERR_OK;
}

dml_err dml_cost_links(dml_cost *cost, const dml_links *links)
{
    void *own = (void *)cost->links.level;
    DML_TRY(replace(&own, links->level, links->levels, sizeof *links->level, "levels of links"));
    cost->links = *links;
    cost->links.level = own;
    return DML_ERR_OK;
}

/* What `from` owns, into `out`, which has as many chunks and owns nothing more. */
static dml_err copy_tables(const dml_cost *from, dml_cost *out)
{
    for (int32_t c = 0; c < from->chunks; c++) {
        const dml_chunk_cost *f = &from->chunk[c];
        dml_chunk_cost *o = &out->chunk[c];
        *o = *f;
        o->bucket = NULL;
        if (!f->bucket) continue;
        DML_TRY(dml_cost_buckets(out, c, f->buckets));
        memcpy(o->bucket, f->bucket, (size_t)f->buckets * sizeof *f->bucket);
    }
    DML_TRY(dml_cost_links(out, &from->links));
    DML_TRY(dml_cost_speeds(out, from->workers, from->speed));
    if (!from->skip_bytes) return DML_ERR_OK;
    DML_TRY(dml_cost_skips(out, from->skips));
    memcpy(out->skip_bytes, from->skip_bytes, (size_t)from->skips * sizeof *from->skip_bytes);
    return DML_ERR_OK;
}

dml_err dml_cost_copy(const dml_cost *from, dml_cost *out)
{
    DML_TRY(dml_cost_init(out, from->chunks));
    out->vote_ns = from->vote_ns;
    out->skips = from->skips;
    const dml_err err = copy_tables(from, out);
    if (err != DML_ERR_OK) dml_cost_free(out);
    return err;
}

dml_err dml_cost_of_replica(const dml_cost *cost, int32_t replicas, int32_t replica, dml_cost *out)
{
    DML_TRY(dml_cost_copy(cost, out));
    out->links.first = replica;
    out->links.stride = replicas;
    if (!out->speed) return DML_ERR_OK;
    out->workers = (cost->workers + replicas - 1 - replica) / replicas;
    for (int32_t r = 0; r < out->workers; r++)
        out->speed[r] = cost->speed[r * replicas + replica];
    return DML_ERR_OK;
}

double dml_speed_of(const dml_cost *cost, int32_t worker)
{
    return cost->speed && worker >= 0 && worker < cost->workers ? cost->speed[worker] : 1.0;
}

int64_t dml_all_reduce_ns(const dml_cost *cost, const int32_t *members, int32_t n, int64_t bytes)
{
    return dml_links_ring_ns(&cost->links, members, n, 2 * ((int64_t)n - 1), (double)bytes);
}

int64_t dml_op_bytes(const dml_cost *cost, const dml_op *op)
{
    if (!dml_op_info_of((dml_op_kind)op->kind)->has_peer) return 0;
    DML_ASSERT_OP(op->edge, <=, cost->skips);
    if (op->edge > 0) return cost->skip_bytes[op->edge - 1];
    const bool above = op->kind == DML_OP_SEND_ACT || op->kind == DML_OP_RECV_GRAD;
    return cost->chunk[above ? op->chunk : op->chunk - 1].out_bytes;
}

static int64_t transfer_ns(const dml_cost *cost, int32_t worker, const dml_op *op)
{
    const dml_link *link = op->peer == DML_NO_PEER
                               ? &cost->links.outer
                               : dml_links_between(&cost->links, worker, op->peer);
    return dml_link_ns(link, (double)dml_op_bytes(cost, op));
}

/* What a whole backward takes. */
static int64_t backward_ns(const dml_chunk_cost *c)
{
    return c->bwd_ns ? c->bwd_ns : c->bwd_input_ns + c->bwd_weight_ns;
}

/* The share of a B, W or REDUCE in its chunk's time for all buckets, `of` them, up to bucket k. */
static double share(const dml_bucket_cost *b, dml_op_kind of)
{
    return of == DML_OP_BWD ? b->bwd : of == DML_OP_BWD_WEIGHT ? b->bwd_weight : b->reduce;
}

static int64_t part_ns(const dml_chunk_cost *c, const dml_op *op, int64_t whole_ns)
{
    if (op->edge == 0) return whole_ns;
    DML_ASSERT_OP(op->edge, <=, c->buckets);
    const dml_op_kind kind = (dml_op_kind)op->kind;
    const double ns = (double)whole_ns, end = share(&c->bucket[op->edge - 1], kind),
                 begin = op->edge > 1 ? share(&c->bucket[op->edge - 2], kind) : 0.0;
    return (int64_t)(ns * end + 0.5) - (int64_t)(ns * begin + 0.5);
}

/* What `ns` at speed 1 are on the worker. */
static int64_t paced(const dml_cost *cost, int32_t worker, int64_t ns)
{
    return cost->speed ? (int64_t)((double)ns / dml_speed_of(cost, worker) + 0.5) : ns;
}

int64_t dml_op_ns(const dml_cost *cost, int32_t worker, const dml_op *op)
{
    DML_ASSERT_OP(op->chunk, <, cost->chunks);
    const dml_chunk_cost *c = &cost->chunk[op->chunk];
    switch ((dml_op_kind)op->kind) {
    case DML_OP_FWD: return paced(cost, worker, c->fwd_ns);
    case DML_OP_BWD: return part_ns(c, op, paced(cost, worker, backward_ns(c)));
    case DML_OP_BWD_INPUT: return paced(cost, worker, c->bwd_input_ns);
    case DML_OP_BWD_WEIGHT: return part_ns(c, op, paced(cost, worker, c->bwd_weight_ns));
    case DML_OP_RECOMPUTE: return paced(cost, worker, c->recompute_ns);
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_GRAD:
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD: return transfer_ns(cost, worker, op);
    case DML_OP_REDUCE: return part_ns(c, op, c->reduce_ns);
    case DML_OP_VOTE: return cost->vote_ns;
    case DML_OP_STEP: return paced(cost, worker, c->step_ns);
    }
    dml_assert_failed("op kind", op->kind, DML_OP_KINDS, __FILE__, __LINE__);
}

int64_t dml_begin_ns(const dml_cost *cost, int32_t worker, int32_t chunk)
{
    DML_ASSERT_OP(chunk, <, cost->chunks);
    return paced(cost, worker, cost->chunk[chunk].begin_ns);
}
