/* schedule/check.c - runs the rules in order; those about orders are here. */
#include "schedule/check.h"

#include "schedule/check_rules.h"
#include "schedule/versions.h"

#include <stdarg.h>
#include <stdio.h>

enum { ORDER, PROGRAM };

const char *dml_rule_text(dml_rule rule)
{
    static const char *const text[] = {
#define X(rule, level) #rule,
        DML_RULE_LIST(X)
#undef X
            "none"};
    return text[rule];
}

dml_err dml_check_fail(dml_checking *k, int32_t w, int32_t i, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    k->report.worker = w;
    k->report.op = i;
    const dml_err err = k->p->lowered ? DML_ERR_BUG : DML_ERR_SPEC;
    const char *rule = dml_rule_text(k->report.rule);
    if (w < 0) return dml_err_set(err, __FILE__, __LINE__, "%s: %s", rule, what);
    if (i < 0) return dml_err_set(err, __FILE__, __LINE__, "%s: worker %d: %s", rule, w, what);
    return dml_err_set(err, __FILE__, __LINE__, "%s: worker %d, op %d, %s: %s", rule, w, i,
                       dml_op_name_of(&k->p->list[w].op[i]).text, what);
}

dml_err dml_check(const dml_program *p, dml_check_report *report)
{
    static const struct {
        int level;
        dml_err (*holds)(dml_checking *);
    } rules[DML_RULES] = {
#define X(rule, level) {level, dml_rule_##rule},
        DML_RULE_LIST(X)
#undef X
    };
    dml_checking k = {.p = p, .report = {.worker = -1, .op = -1}};
    dml_err err = DML_ERR_OK;
    for (int32_t r = 0; r < DML_RULES && err == DML_ERR_OK; r++) {
        if (rules[r].level == PROGRAM && !p->lowered) continue;
        k.report.rule = (dml_rule)r;
        err = rules[r].holds(&k);
    }
    if (err == DML_ERR_OK) k.report.rule = (dml_rule)DML_RULES;
    if (report) *report = k.report;
    dml_arena_free(&k.arena);
    return err;
}

/* Ranges [begin, end) of the chunks follow each other from 0. */
static dml_err tiles(dml_checking *k, const char *what, bool may_be_empty, size_t begin_at,
                     size_t end_at)
{
    int32_t next = 0;
    for (int32_t c = 0; c < k->p->chunks; c++) {
        const char *span = (const char *)&k->p->span[c];
        const int32_t begin = *(const int32_t *)(span + begin_at);
        const int32_t end = *(const int32_t *)(span + end_at);
        if (begin != next)
            return dml_check_fail(k, -1, -1,
                                  "chunk %d starts at %s %d, but the chunks before it "
                                  "end at %d",
                                  c, what, begin, next);
        if (end < begin || (end == begin && !may_be_empty))
            return dml_check_fail(k, -1, -1, "chunk %d has no %s (%d to %d)", c, what, begin, end);
        next = end;
    }
    return DML_ERR_OK;
}

dml_err dml_rule_placed(dml_checking *k)
{
    /* A schedule on its own, drawn or compared, has no layers at all. */
    bool any = false;
    for (int32_t c = 0; c < k->p->chunks; c++)
        any = any || k->p->span[c].layer_begin != 0 || k->p->span[c].layer_end != 0;
    if (!any) return DML_ERR_OK;
    return tiles(k, "layer", false, offsetof(dml_chunk_span, layer_begin),
                 offsetof(dml_chunk_span, layer_end));
}

dml_err dml_rule_owned(dml_checking *k)
{
    return tiles(k, "parameter", true, offsetof(dml_chunk_span, param_begin),
                 offsetof(dml_chunk_span, param_end));
}

/* What is counted of the skips at one chunk. */
typedef struct skip_ends {
    int32_t out, in, back;
} skip_ends;

static dml_err check_skip_ends(dml_checking *k, const skip_ends *end)
{
    for (int32_t c = 0; c < k->p->chunks; c++) {
        const struct {
            int32_t n;
            const char *what;
        } count[] = {{end[c].out, "leave"}, {end[c].in, "enter"}, {end[c].back, "come back to"}};
        for (size_t i = 0; i < sizeof count / sizeof *count; i++)
            if (count[i].n > DML_CHUNK_SKIPS)
                return dml_check_fail(k, -1, -1, "%d skips %s chunk %d, more than %d", count[i].n,
                                      count[i].what, c, DML_CHUNK_SKIPS);
    }
    return DML_ERR_OK;
}

dml_err dml_rule_skips(dml_checking *k)
{
    const dml_program *p = k->p;
    skip_ends *end = DML_NEW_N(&k->arena, skip_ends, p->chunks);
    for (int32_t i = 0; i < p->n_skips; i++) {
        const dml_skip *s = &p->skip[i];
        if (s->from < 0 || s->to <= s->from || s->to >= p->chunks)
            return dml_check_fail(k, -1, -1, "skip %d goes from chunk %d to chunk %d of %d", i + 1,
                                  s->from, s->to, p->chunks);
        if (s->back < s->from || s->back >= s->to)
            return dml_check_fail(
                k, -1, -1, "the gradient of skip %d, from chunk %d to %d, goes back to chunk %d",
                i + 1, s->from, s->to, s->back);
        end[s->from].out++;
        end[s->to].in++;
        end[s->back].back++;
    }
    return check_skip_ends(k, end);
}

static dml_err check_buckets(dml_checking *k)
{
    int64_t all = 0;
    for (int32_t c = 0; c < k->p->chunks; c++) {
        const int32_t n = k->p->buckets[c];
        if (n < 1 || n > DML_MAX_BUCKETS)
            return dml_check_fail(k, -1, -1, "chunk %d has %d buckets, not 1 to %d", c, n,
                                  DML_MAX_BUCKETS);
        if (n > 1 && k->p->forward_only)
            return dml_check_fail(k, -1, -1, "chunk %d has %d buckets and nothing to reduce", c, n);
        all += (int64_t)n * dml_program_updates(k->p, c);
    }
    if (all > DML_MAX_TABLE)
        return dml_check_fail(k, -1, -1, "%lld buckets are more than %d", (long long)all,
                              DML_MAX_TABLE);
    return DML_ERR_OK;
}

static dml_err check_buffers(dml_checking *k, int32_t c, int32_t updates)
{
    const int32_t versions = k->p->versions[c], sums = k->p->sums[c];
    const bool one = !k->p->lowered || updates == 1;
    if (versions < 1 || versions > (one ? 1 : updates + 1))
        return dml_check_fail(k, -1, -1, "chunk %d has %d buffers of weights for %d updates", c,
                              versions, updates);
    if (sums < 1 || sums > (one ? 1 : updates))
        return dml_check_fail(k, -1, -1, "chunk %d has %d buffers of gradients for %d updates", c,
                              sums, updates);
    return DML_ERR_OK;
}

static dml_err check_updates(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t c = 0; c < p->chunks; c++) {
        const int32_t n = p->update_mbs[c];
        if (n < 1 || n > p->mbs || p->mbs % n != 0)
            return dml_check_fail(k, -1, -1,
                                  "an update of chunk %d has %d micro-batches, which do not divide "
                                  "the %d there are",
                                  c, n, p->mbs);
        if (p->forward_only && n < p->mbs)
            return dml_check_fail(k, -1, -1, "chunk %d has %d updates and nothing to update", c,
                                  dml_program_updates(p, c));
        if (p->votes && n != p->update_mbs[0])
            return dml_check_fail(k, -1, -1,
                                  "all vote on an update, but those of chunk %d are of %d "
                                  "micro-batches and those of chunk 0 of %d",
                                  c, n, p->update_mbs[0]);
        DML_TRY(check_buffers(k, c, dml_program_updates(p, c)));
    }
    if (!p->votes && !dml_program_is_async(p))
        return dml_check_fail(k, -1, -1, "with a flush all workers vote on the step");
    if (p->staggered && (dml_program_is_async(p) || p->forward_only))
        return dml_check_fail(k, -1, -1, "only steps with a flush are staggered");
    return DML_ERR_OK;
}

static dml_err check_routes(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            const int32_t w = *dml_program_route(p, c, mb);
            if (w < 0 || w >= p->workers)
                return dml_check_fail(k, -1, -1,
                                      "micro-batch %d of chunk %d goes to worker %d of "
                                      "%d",
                                      mb, c, w, p->workers);
        }
    return DML_ERR_OK;
}

static bool belongs(const dml_program *p, const dml_op *op)
{
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    const bool forward =
        op->kind == DML_OP_FWD || op->kind == DML_OP_SEND_ACT || op->kind == DML_OP_RECV_ACT;
    if (p->forward_only && !forward) return false;
    return p->lowered || (info->lane == DML_LANE_COMPUTE && info->has_mb);
}

/* A weight gradient may be whole or a part; a reduction is of one bucket, if there are several; a transfer may be a
 * skip's, at its end. */
static dml_err check_edge(dml_checking *k, int32_t w, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    const int32_t n = p->buckets[op->chunk];
    const bool reduces = op->kind == DML_OP_REDUCE;
    if (n > 1 && reduces && op->edge == 0)
        return dml_check_fail(k, w, i, "does not say which of %d buckets", n);
    if (op->edge == 0) return DML_ERR_OK;
    if (dml_op_info_of((dml_op_kind)op->kind)->has_peer) {
        if (op->edge > p->n_skips)
            return dml_check_fail(k, w, i, "skip %d of %d", op->edge, p->n_skips);
        const dml_op there = dml_op_other_end(p, op);
        const int32_t here = dml_op_other_end(p, &there).chunk;
        return op->chunk == here
                   ? DML_ERR_OK
                   : dml_check_fail(k, w, i, "this end of the skip is at chunk %d", here);
    }
    if (!p->lowered || !(reduces || dml_op_is_weight_grad(op)))
        return dml_check_fail(k, w, i, "unknown edge %d", op->edge);
    if (n == 1 || op->edge > n) return dml_check_fail(k, w, i, "part %d of %d", op->edge, n);
    return DML_ERR_OK;
}

/* An op that comes once per update says of which, unless there is only one. */
static dml_err check_update(dml_checking *k, int32_t w, int32_t i)
{
    const dml_op *op = &k->p->list[w].op[i];
    const int32_t updates = dml_program_updates(k->p, op->chunk);
    const bool async = dml_program_is_async(k->p);
    if (async ? op->mb < 0 || op->mb >= updates : op->mb != DML_NO_MB)
        return dml_check_fail(k, w, i, "update %d of %d", op->mb, updates);
    return DML_ERR_OK;
}

static dml_err check_fields(dml_checking *k, int32_t w, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    if (op->kind >= DML_OP_KINDS) return dml_check_fail(k, w, i, "unknown kind %d", op->kind);
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    if (!belongs(p, op))
        return dml_check_fail(k, w, i, "has no place in %s",
                              p->forward_only ? "a forward-only one" : "an order");
    if (op->chunk < 0 || op->chunk >= p->chunks)
        return dml_check_fail(k, w, i, "there are %d chunks", p->chunks);
    if (info->has_mb && (op->mb < 0 || op->mb >= p->mbs))
        return dml_check_fail(k, w, i, "micro-batch %d of %d", op->mb, p->mbs);
    if (!info->has_mb) DML_TRY(check_update(k, w, i));
    if (op->kind == DML_OP_VOTE && op->chunk != 0)
        return dml_check_fail(k, w, i, "a vote is not about a chunk");
    DML_TRY(check_edge(k, w, i));
    if (!p->lowered &&
        (op->slot != DML_NO_SLOT || op->wait[0] != DML_NO_WAIT || op->wait[1] != DML_NO_WAIT))
        return dml_check_fail(k, w, i, "an order has no slots and no waits");
    return DML_ERR_OK;
}

static dml_err check_place(dml_checking *k, int32_t w, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    if (info->has_mb && *dml_program_route(p, op->chunk, op->mb) != w)
        return dml_check_fail(k, w, i, "the route says worker %d",
                              *dml_program_route(p, op->chunk, op->mb));
    if (!info->has_peer)
        return op->peer == DML_NO_PEER ? DML_ERR_OK
                                       : dml_check_fail(k, w, i, "has a peer, %d", op->peer);
    const int32_t c = dml_op_other_end(p, op).chunk;
    if (c < 0 || c >= p->chunks)
        return dml_check_fail(k, w, i, "there is no chunk on the other side");
    const int32_t peer = *dml_program_route(p, c, op->mb);
    if (peer == w) return dml_check_fail(k, w, i, "chunk %d is on the same worker", c);
    if (peer != op->peer)
        return dml_check_fail(k, w, i, "its peer is %d, the route says %d", op->peer, peer);
    return DML_ERR_OK;
}

dml_err dml_rule_routed(dml_checking *k)
{
    DML_TRY(check_updates(k));
    DML_TRY(check_buckets(k));
    DML_TRY(check_routes(k));
    for (int32_t w = 0; w < k->p->workers; w++)
        for (int32_t i = 0; i < k->p->list[w].n; i++) {
            DML_TRY(check_fields(k, w, i));
            DML_TRY(check_place(k, w, i));
        }
    return DML_ERR_OK;
}

static dml_err check_complete(dml_checking *k, int32_t c, int32_t mb)
{
    const bool f = dml_index_at(&k->ix, DML_OP_FWD, c, mb) >= 0;
    const bool b = dml_index_at(&k->ix, DML_OP_BWD, c, mb) >= 0;
    const bool i = dml_index_at(&k->ix, DML_OP_BWD_INPUT, c, mb) >= 0;
    const bool w = dml_index_at(&k->ix, DML_OP_BWD_WEIGHT, c, mb) >= 0;
    const int32_t worker = *dml_program_route(k->p, c, mb);
    if (!f) return dml_check_fail(k, worker, -1, "F%d.%d is missing", c, mb);
    if (k->p->forward_only || (b && !i && !w) || (!b && i && w)) return DML_ERR_OK;
    return dml_check_fail(
        k, worker, -1, "micro-batch %d of chunk %d has%s%s%s%s, not one B or one I and one W", mb,
        c, b ? " B" : "", i ? " I" : "", w ? " W" : "", b || i || w ? "" : " no backward");
}

/* Part k follows part k - 1 of the same op, the last thing computed; `before` -1: nothing was. */
static dml_err check_part(dml_checking *k, int32_t w, int32_t i, int32_t before)
{
    const dml_op *op = &k->p->list[w].op[i];
    const dml_op *prev = before >= 0 ? &k->p->list[w].op[before] : NULL;
    if (op->edge > 1 && (!prev || prev->kind != op->kind || prev->chunk != op->chunk ||
                         prev->mb != op->mb || prev->edge != op->edge - 1))
        return dml_check_fail(k, w, i, "does not follow the part before it");
    return DML_ERR_OK;
}

/* What is cut is all there. */
static dml_err check_last_part(dml_checking *k, int32_t w, int32_t i)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    if (!dml_op_is_part(op)) return DML_ERR_OK;
    const int32_t at = dml_index_at(&k->ix, (dml_op_kind)op->kind, op->chunk, op->mb);
    if (!dml_op_is_last(p, &p->list[w].op[at]))
        return dml_check_fail(k, w, i, "is cut into %d parts, of which only %d are there",
                              p->buckets[op->chunk], p->list[w].op[at].edge);
    return DML_ERR_OK;
}

/* RC ops are those of the policy. */
static dml_err check_recomputed(dml_checking *k, int32_t w, int32_t *spared)
{
    const dml_program *p = k->p;
    for (int32_t c = 0; c < p->chunks; c++)
        spared[c] = 0;
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (op->kind == DML_OP_RECOMPUTE && p->recompute == DML_RECOMPUTE_NONE)
            return dml_check_fail(k, w, i, "nothing is recomputed here");
        if (op->kind != DML_OP_FWD || p->recompute == DML_RECOMPUTE_NONE) continue;
        if (dml_index_at(&k->ix, DML_OP_RECOMPUTE, op->chunk, op->mb) >= 0) continue;
        const int32_t most = p->recompute == DML_RECOMPUTE_EXCEPT_LAST ? 1 : 0;
        if (++spared[op->chunk] > most)
            return dml_check_fail(k, w, i, "is not recomputed, under policy %s",
                                  dml_recompute_text(p->recompute));
    }
    return DML_ERR_OK;
}

dml_err dml_rule_once(dml_checking *k)
{
    const dml_program *p = k->p;
    dml_index_init(&k->ix, p, &k->arena);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0, before = -1; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (dml_op_is_part(op)) DML_TRY(check_part(k, w, i, before));
            if (dml_op_lane(op) == DML_LANE_COMPUTE) before = i;
            if (!dml_op_info_of((dml_op_kind)op->kind)->has_mb || dml_index_add(&k->ix, op, i))
                continue;
            return dml_check_fail(
                k, w, i, "is there already, as op %d",
                dml_index_at(&k->ix, (dml_op_kind)op->kind, dml_op_port(p, op), op->mb));
        }
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            DML_TRY(check_last_part(k, w, i));
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            DML_TRY(check_complete(k, c, mb));
    int32_t *spared = DML_NEW_N(&k->arena, int32_t, p->chunks);
    for (int32_t w = 0; w < p->workers && !p->forward_only; w++)
        DML_TRY(check_recomputed(k, w, spared));
    return DML_ERR_OK;
}

static dml_err check_before(dml_checking *k, int32_t w, int32_t i, dml_op_kind before)
{
    const dml_op *op = &k->p->list[w].op[i];
    const int32_t at = dml_index_at(&k->ix, before, op->chunk, op->mb);
    if (at <= i) return DML_ERR_OK;
    return dml_check_fail(k, w, i, "comes before its %s, op %d", dml_op_info_of(before)->text, at);
}

dml_err dml_rule_order(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind == DML_OP_BWD_WEIGHT) DML_TRY(check_before(k, w, i, DML_OP_BWD_INPUT));
            if (op->kind == DML_OP_RECOMPUTE || dml_op_is_input_grad(op))
                DML_TRY(check_before(k, w, i, DML_OP_FWD));
            if (dml_op_is_input_grad(op)) DML_TRY(check_before(k, w, i, DML_OP_RECOMPUTE));
        }
    return DML_ERR_OK;
}

static dml_err check_version(dml_checking *k, int32_t w, int32_t i, const int32_t *reads)
{
    const dml_program *p = k->p;
    const dml_op *op = &p->list[w].op[i];
    if (op->kind != DML_OP_FWD) {
        const int32_t f = dml_index_at(&k->ix, DML_OP_FWD, op->chunk, op->mb);
        if (reads[f] != reads[i])
            return dml_check_fail(k, w, i, "reads version %d, its F read %d", reads[i], reads[f]);
    }
    if (op->version == 0) return DML_ERR_OK;
    if (!dml_program_is_async(p))
        return dml_check_fail(k, w, i, "reads version %d; with a flush there is only 0",
                              op->version);
    if (op->version > 0 || reads[i] < 0)
        return dml_check_fail(k, w, i, "reads version %d of the weights, and %d are made", reads[i],
                              reads[i] - op->version);
    return DML_ERR_OK;
}

/* A worker that holds a chunk has some of every update: nobody reduces what was never written. */
static dml_err check_shares(dml_checking *k, int32_t w)
{
    const dml_program *p = k->p;
    int32_t *in = DML_NEW_N(&k->arena, int32_t, p->chunks + 1);
    dml_program_number_held(p, w, in);
    bool *adds = DML_NEW_N(&k->arena, bool, in[p->chunks]);
    for (int32_t i = 0; i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        if (dml_op_is_weight_grad(op))
            adds[dml_first_bucket(p, in, op->chunk, dml_op_update(p, op))] = true;
    }
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t b = in[c]; b < in[c + 1]; b += p->buckets[c])
            if (!adds[b])
                return dml_check_fail(k, w, -1, "holds chunk %d but adds nothing to update %d", c,
                                      (b - in[c]) / p->buckets[c]);
    return DML_ERR_OK;
}

dml_err dml_rule_versions(dml_checking *k)
{
    const dml_program *p = k->p;
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t *reads = DML_NEW_N(&k->arena, int32_t, p->list[w].n);
        dml_versions_read(p, w, reads);
        for (int32_t i = 0; i < p->list[w].n; i++)
            if (dml_op_reads_weights(&p->list[w].op[i])) DML_TRY(check_version(k, w, i, reads));
        DML_TRY(check_shares(k, w));
    }
    return DML_ERR_OK;
}
