/* schedule/check_updates.c - the rules about reductions, votes and optimizer steps.
 *
 * Each walks the list of a worker with what it has seen of every update: of update u of chunk c in the
 * row of its first bucket.
 */
#include "schedule/check_rules.h"

#include "schedule/versions.h"

/* Kahn's algorithm over "some worker reduces bucket a before b": a cycle means two workers that wait
 * for each other, directly or through more.  `base` numbers the buckets of all updates. */
static dml_err reductions_agree(dml_checking *k, const int32_t *base)
{
    const dml_program *p = k->p;
    const int64_t ops = dml_program_ops(p);
    const int32_t buckets = base[p->chunks];
    struct {
        int32_t to, next;
    } *edge = dml_arena_alloc(&k->arena, (int64_t)sizeof *edge * ops);
    int32_t *edges = DML_NEW_N(&k->arena, int32_t, buckets), n_edges = 0;
    int32_t *pending = DML_NEW_N(&k->arena, int32_t, buckets);
    int32_t *todo = DML_NEW_N(&k->arena, int32_t, buckets), n_todo = 0;
    for (int32_t b = 0; b < buckets; b++)
        edges[b] = -1;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0, last = -1; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind != DML_OP_REDUCE) continue;
            const int32_t b = dml_op_bucket(p, base, op);
            if (last >= 0) {
                edge[n_edges].to = b;
                edge[n_edges].next = edges[last];
                edges[last] = n_edges++;
                pending[b]++;
            }
            last = b;
        }
    for (int32_t b = 0; b < buckets; b++)
        if (pending[b] == 0) todo[n_todo++] = b;
    for (int32_t t = 0; t < n_todo; t++)
        for (int32_t e = edges[todo[t]]; e >= 0; e = edge[e].next)
            if (--pending[edge[e].to] == 0) todo[n_todo++] = edge[e].to;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t b = base[c]; b < base[c + 1]; b++)
            if (pending[b] > 0)
                return dml_check_fail(k, -1, -1,
                                      "the workers do not agree when to reduce chunk %d, bucket %d",
                                      c, (b - base[c]) % p->buckets[c] + 1);
    return DML_ERR_OK;
}

/* What a worker did for an update of a chunk: where in its list, -1 not (yet). */
typedef struct progress {
    int32_t reduce, step; /* reduce: the last one */
    int32_t reduced;      /* buckets that are */
    bool added;
} progress;

/* The tables of one worker. */
typedef struct walk {
    int32_t w;
    int32_t *in;      /* [chunks + 1] dml_program_number_held */
    progress *update; /* [buckets] of the update whose first bucket this is */
    int32_t *reduce;  /* [buckets] */
    int32_t *vote;    /* [updates] */
} walk;

static walk begin(dml_checking *k, int32_t w)
{
    const dml_program *p = k->p;
    walk at = {.w = w, .in = DML_NEW_N(&k->arena, int32_t, p->chunks + 1)};
    dml_program_number_held(p, w, at.in);
    const int32_t buckets = at.in[p->chunks], votes = dml_program_updates(p, 0);
    at.update = DML_NEW_N(&k->arena, progress, buckets);
    at.reduce = DML_NEW_N(&k->arena, int32_t, buckets);
    at.vote = DML_NEW_N(&k->arena, int32_t, votes);
    for (int32_t b = 0; b < buckets; b++) {
        at.update[b] = (progress){-1, -1, 0, false};
        at.reduce[b] = -1;
    }
    for (int32_t u = 0; u < votes; u++)
        at.vote[u] = -1;
    return at;
}

static bool holds(const walk *at, int32_t chunk)
{
    return at->in[chunk] < at->in[chunk + 1];
}

static progress *progress_of(const dml_program *p, const walk *at, int32_t chunk, int32_t update)
{
    return &at->update[dml_first_bucket(p, at->in, chunk, update)];
}

static dml_err check_reduce(dml_checking *k, const walk *at, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[at->w].op[i];
    const bool adds = dml_op_is_weight_grad(op);
    if (!adds && op->kind != DML_OP_REDUCE) return DML_ERR_OK;
    progress *update =
        holds(at, op->chunk) ? progress_of(p, at, op->chunk, dml_op_update(p, op)) : NULL;
    if (!update || (!adds && !update->added))
        return dml_check_fail(k, at->w, i, "no gradient of the chunk before it");
    int32_t *own = &at->reduce[dml_op_bucket(p, at->in, op)];
    if (adds) {
        /* A whole one adds to every bucket. */
        const int32_t early = op->edge == 0 ? update->reduce : *own;
        if (early >= 0)
            return dml_check_fail(k, at->w, i,
                                  "comes after the reduction of what it adds to, op %d", early);
        update->added = true;
        return DML_ERR_OK;
    }
    if (*own >= 0) return dml_check_fail(k, at->w, i, "is there already, as op %d", *own);
    *own = update->reduce = i;
    update->reduced++;
    return DML_ERR_OK;
}

static dml_err all_reduced(dml_checking *k, const walk *at)
{
    const dml_program *p = k->p;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t u = 0; holds(at, c) && u < dml_program_updates(p, c); u++)
            if (progress_of(p, at, c, u)->reduced < p->buckets[c])
                return dml_check_fail(
                    k, at->w, -1, "holds chunk %d but reduces %d of its %d buckets of update %d", c,
                    progress_of(p, at, c, u)->reduced, p->buckets[c], u);
    return DML_ERR_OK;
}

dml_err dml_rule_replicas(dml_checking *k)
{
    const dml_program *p = k->p;
    if (p->forward_only) return DML_ERR_OK;
    for (int32_t w = 0; w < p->workers; w++) {
        const walk at = begin(k, w);
        for (int32_t i = 0; i < p->list[w].n; i++)
            DML_TRY(check_reduce(k, &at, i));
        DML_TRY(all_reduced(k, &at));
    }
    int32_t *base = DML_NEW_N(&k->arena, int32_t, p->chunks + 1);
    dml_program_number_buckets(p, base);
    return reductions_agree(k, base);
}

static dml_err check_vote(dml_checking *k, const walk *at, int32_t i)
{
    const dml_op *op = &k->p->list[at->w].op[i];
    int32_t *vote = &at->vote[dml_op_update(k->p, op)];
    if (!k->p->votes) return dml_check_fail(k, at->w, i, "nobody votes in this program");
    if (*vote >= 0) return dml_check_fail(k, at->w, i, "is there already, as op %d", *vote);
    *vote = i;
    return DML_ERR_OK;
}

static dml_err check_step(dml_checking *k, const walk *at, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[at->w].op[i];
    const int32_t u = dml_op_update(p, op);
    if (dml_program_steps_wait(p) && at->vote[u] < 0)
        return dml_check_fail(k, at->w, i, "comes before the vote");
    if (p->staggered && at->vote[u] >= 0)
        return dml_check_fail(k, at->w, i,
                              "comes after the vote, which is the last of a staggered step");
    if (!holds(at, op->chunk))
        return dml_check_fail(k, at->w, i, "the worker does not hold the chunk");
    progress *update = progress_of(p, at, op->chunk, u);
    if (update->reduced < p->buckets[op->chunk])
        return dml_check_fail(k, at->w, i, "comes before its gradients are reduced");
    if (update->step >= 0)
        return dml_check_fail(k, at->w, i, "is there already, as op %d", update->step);
    if (u > 0 && progress_of(p, at, op->chunk, u - 1)->step < 0)
        return dml_check_fail(k, at->w, i, "comes before that of update %d", u - 1);
    update->step = i;
    return DML_ERR_OK;
}

static dml_err all_stepped(dml_checking *k, const walk *at)
{
    const dml_program *p = k->p;
    const bool there = p->list[at->w].n > 0; /* else it has no part in the step at all */
    for (int32_t u = 0; p->votes && there && u < dml_program_updates(p, 0); u++)
        if (at->vote[u] < 0) return dml_check_fail(k, at->w, -1, "does not vote on update %d", u);
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t u = 0; holds(at, c) && u < dml_program_updates(p, c); u++)
            if (progress_of(p, at, c, u)->step < 0)
                return dml_check_fail(
                    k, at->w, -1, "reduces update %d of chunk %d but makes no step of it", u, c);
    return DML_ERR_OK;
}

dml_err dml_rule_stepped(dml_checking *k)
{
    const dml_program *p = k->p;
    if (p->forward_only) return DML_ERR_OK;
    for (int32_t w = 0; w < p->workers; w++) {
        const walk at = begin(k, w);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind == DML_OP_REDUCE) {
                if (p->votes && at.vote[dml_op_update(p, op)] >= 0)
                    return dml_check_fail(k, w, i, "comes after the vote");
                progress_of(p, &at, op->chunk, dml_op_update(p, op))->reduced++;
            }
            if (op->kind == DML_OP_VOTE) DML_TRY(check_vote(k, &at, i));
            if (op->kind == DML_OP_STEP) DML_TRY(check_step(k, &at, i));
        }
        DML_TRY(all_stepped(k, &at));
    }
    return DML_ERR_OK;
}

/* The op with `made` steps of its chunk before it: what it reads is there and not yet overwritten, and
 * the sum that it adds to is free. */
static dml_err check_intact(dml_checking *k, int32_t w, int32_t i, int32_t made, int32_t reads)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    if (reads > made)
        return dml_check_fail(k, w, i, "reads version %d of the weights, of which %d are made",
                              reads, made);
    if (reads <= made - p->versions[op->chunk])
        return dml_check_fail(k, w, i,
                              "reads version %d of the weights, overwritten by version %d of %d",
                              reads, reads + p->versions[op->chunk], p->versions[op->chunk]);
    if (!dml_op_is_weight_grad(op)) return DML_ERR_OK;
    const int32_t before = dml_op_update(p, op) - p->sums[op->chunk];
    if (before >= made)
        return dml_check_fail(k, w, i, "adds to the sum of update %d, whose step comes later",
                              before);
    return DML_ERR_OK;
}

dml_err dml_rule_intact(dml_checking *k)
{
    const dml_program *p = k->p;
    if (p->forward_only) return DML_ERR_OK;
    int32_t *made = DML_NEW_N(&k->arena, int32_t, p->chunks);
    for (int32_t w = 0; w < p->workers; w++) {
        for (int32_t i = 0; i < p->list[w].n; i++)
            made[p->list[w].op[i].chunk] = 0;
        int32_t *reads = DML_NEW_N(&k->arena, int32_t, p->list[w].n);
        dml_versions_read(p, w, reads);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t c = p->list[w].op[i].chunk;
            if (p->list[w].op[i].kind == DML_OP_STEP) made[c]++;
            if (dml_op_reads_weights(&p->list[w].op[i]))
                DML_TRY(check_intact(k, w, i, made[c], reads[i]));
        }
    }
    return DML_ERR_OK;
}
