/* schedule/program.c - the container. */
#include "schedule/program.h"

#include <stdlib.h>
#include <string.h>

const char *dml_recompute_text(dml_recompute policy)
{
    static const char *const text[] = {
#define X(policy, text) text,
        DML_RECOMPUTE_LIST(X)
#undef X
    };
    DML_ASSERT_OP((int32_t)policy, <, DML_RECOMPUTES);
    return text[policy];
}

static int64_t pool_entries(const dml_program *p)
{
    return (int64_t)p->workers * dml_program_ports(p) * DML_POOLS;
}

static int64_t route_entries(const dml_program *p)
{
    return (int64_t)p->chunks * p->mbs;
}

static dml_err check_counts(int32_t workers, int32_t chunks, int32_t mbs)
{
    const struct {
        const char *what;
        int32_t n, max;
    } count[] = {{"workers", workers, DML_MAX_WORKERS},
                 {"chunks", chunks, DML_MAX_CHUNKS},
                 {"micro-batches", mbs, DML_MAX_MBS}};
    for (size_t i = 0; i < sizeof count / sizeof *count; i++)
        if (count[i].n < 1 || count[i].n > count[i].max)
            DML_FAIL(DML_ERR_SPEC, "a schedule has 1 to %d %s, not %d", count[i].max, count[i].what,
                     count[i].n);
    if ((int64_t)chunks * mbs > DML_MAX_TABLE || (int64_t)workers * chunks > DML_MAX_TABLE)
        DML_FAIL(DML_ERR_SPEC,
                 "%d workers, %d chunks and %d micro-batches are too many together: chunks x "
                 "micro-batches and workers x chunks are each at most %d",
                 workers, chunks, mbs, DML_MAX_TABLE);
    return DML_ERR_OK;
}

dml_err dml_program_init(dml_program *p, int32_t workers, int32_t chunks, int32_t mbs)
{
    *p = (dml_program){0};
    DML_TRY(check_counts(workers, chunks, mbs));
    p->workers = workers;
    p->chunks = chunks;
    p->mbs = mbs;
    p->votes = true;
    p->list = calloc((size_t)workers, sizeof *p->list);
    p->route = malloc((size_t)route_entries(p) * sizeof *p->route);
    p->span = calloc((size_t)chunks, sizeof *p->span);
    p->buckets = malloc((size_t)chunks * sizeof *p->buckets);
    p->pool_slots = calloc((size_t)pool_entries(p), sizeof *p->pool_slots);
    p->update_mbs = malloc((size_t)chunks * sizeof *p->update_mbs);
    p->versions = malloc((size_t)chunks * sizeof *p->versions);
    p->sums = malloc((size_t)chunks * sizeof *p->sums);
    if (!p->list || !p->route || !p->span || !p->buckets || !p->pool_slots || !p->update_mbs ||
        !p->versions || !p->sums) {
        dml_program_free(p);
        DML_FAIL(DML_ERR_NOMEM, "no memory for %d workers, %d chunks, %d micro-batches", workers,
                 chunks, mbs);
    }
    memset(p->route, 0xff, (size_t)route_entries(p) * sizeof *p->route); /* every entry -1 */
    for (int32_t c = 0; c < chunks; c++) {
        p->buckets[c] = p->versions[c] = p->sums[c] = 1;
        p->update_mbs[c] = mbs;
    }
    return DML_ERR_OK;
}

void dml_program_free(dml_program *p)
{
    for (int32_t w = 0; p->list && w < p->workers; w++)
        free(p->list[w].op);
    free(p->list);
    free(p->route);
    free(p->span);
    free(p->skip);
    free(p->buckets);
    free(p->pool_slots);
    free(p->update_mbs);
    free(p->versions);
    free(p->sums);
    *p = (dml_program){0};
}

dml_err dml_program_set_skips(dml_program *p, int32_t n, const dml_skip *skip)
{
    DML_ASSERT_OP(p->n_skips, ==, 0);
    if (n == 0) return DML_ERR_OK;
    const int64_t ports = (int64_t)p->chunks + n;
    if (n > DML_MAX_SKIPS || ports * p->mbs > DML_MAX_TABLE || ports * p->workers > DML_MAX_TABLE)
        DML_FAIL(DML_ERR_SPEC,
                 "%d values that pass stages over are too many for %d workers, %d chunks and %d "
                 "micro-batches",
                 n, p->workers, p->chunks, p->mbs);
    dml_skip *own = malloc((size_t)n * sizeof *own);
    int32_t *slots = calloc((size_t)(ports * p->workers * DML_POOLS), sizeof *slots);
    if (!own || !slots) {
        free(own);
        free(slots);
        DML_FAIL(DML_ERR_NOMEM, "no memory for %d skips", n);
    }
    memcpy(own, skip, (size_t)n * sizeof *own);
    free(p->pool_slots);
    p->skip = own;
    p->n_skips = n;
    p->pool_slots = slots;
    return DML_ERR_OK;
}

dml_op dml_op_other_end(const dml_program *p, const dml_op *op)
{
    static const dml_op_kind meets[DML_OP_KINDS] = {[DML_OP_SEND_ACT] = DML_OP_RECV_ACT,
                                                    [DML_OP_RECV_ACT] = DML_OP_SEND_ACT,
                                                    [DML_OP_SEND_GRAD] = DML_OP_RECV_GRAD,
                                                    [DML_OP_RECV_GRAD] = DML_OP_SEND_GRAD};
    DML_ASSERT(dml_op_info_of((dml_op_kind)op->kind)->has_peer);
    const dml_op_kind kind = meets[op->kind];
    const dml_skip next = {op->chunk, op->chunk + 1, op->chunk},
                   last = {op->chunk - 1, op->chunk, op->chunk - 1};
    const bool from_below = op->kind == DML_OP_RECV_ACT || op->kind == DML_OP_SEND_GRAD;
    const dml_skip *s = op->edge != 0 ? &p->skip[op->edge - 1] : from_below ? &last : &next;
    const int32_t chunk = kind == DML_OP_SEND_ACT    ? s->from
                          : kind == DML_OP_RECV_GRAD ? s->back
                                                     : s->to;
    return (dml_op){.kind = (uint8_t)kind,
                    .edge = op->edge,
                    .peer = DML_NO_PEER,
                    .slot = DML_NO_SLOT,
                    .chunk = chunk,
                    .mb = op->mb,
                    .wait = {DML_NO_WAIT, DML_NO_WAIT}};
}

/* Room for one more op.  As in the arena, running out of memory at build time ends the process. */
static dml_op *push_slot(dml_op_list *list)
{
    if (list->n == list->cap) {
        const int32_t cap = list->cap ? 2 * list->cap : 64;
        dml_op *op = realloc(list->op, (size_t)cap * sizeof *op);
        if (!op) dml_assert_failed("out of memory for a list of ops", cap, 0, __FILE__, __LINE__);
        list->op = op;
        list->cap = cap;
    }
    return &list->op[list->n++];
}

int32_t dml_program_push(dml_program *p, int32_t worker, dml_op_kind kind, int32_t chunk,
                         int32_t mb)
{
    DML_ASSERT_OP(worker, >=, 0);
    DML_ASSERT_OP(worker, <, p->workers);
    dml_op_list *list = &p->list[worker];
    *push_slot(list) = (dml_op){.kind = (uint8_t)kind,
                                .peer = DML_NO_PEER,
                                .slot = DML_NO_SLOT,
                                .chunk = chunk,
                                .mb = mb,
                                .wait = {DML_NO_WAIT, DML_NO_WAIT}};
    return list->n - 1;
}

void dml_program_copy_updates(const dml_program *p, dml_program *out)
{
    const size_t bytes = (size_t)p->chunks * sizeof(int32_t);
    out->votes = p->votes;
    out->staggered = p->staggered;
    memcpy(out->update_mbs, p->update_mbs, bytes);
    memcpy(out->versions, p->versions, bytes);
    memcpy(out->sums, p->sums, bytes);
}

dml_err dml_program_copy(const dml_program *p, dml_program *out)
{
    DML_TRY(dml_program_init(out, p->workers, p->chunks, p->mbs));
    const dml_err err = dml_program_set_skips(out, p->n_skips, p->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    out->forward_only = p->forward_only;
    out->lowered = p->lowered;
    out->recompute = p->recompute;
    memcpy(out->route, p->route, (size_t)route_entries(p) * sizeof *p->route);
    memcpy(out->span, p->span, (size_t)p->chunks * sizeof *p->span);
    memcpy(out->buckets, p->buckets, (size_t)p->chunks * sizeof *p->buckets);
    memcpy(out->pool_slots, p->pool_slots, (size_t)pool_entries(p) * sizeof *p->pool_slots);
    dml_program_copy_updates(p, out);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            *push_slot(&out->list[w]) = p->list[w].op[i];
    return DML_ERR_OK;
}

static bool same_updates(const dml_program *a, const dml_program *b)
{
    const size_t bytes = (size_t)a->chunks * sizeof(int32_t);
    return a->votes == b->votes && a->staggered == b->staggered &&
           memcmp(a->update_mbs, b->update_mbs, bytes) == 0 &&
           memcmp(a->versions, b->versions, bytes) == 0 && memcmp(a->sums, b->sums, bytes) == 0;
}

bool dml_program_equal(const dml_program *a, const dml_program *b)
{
    if (a->workers != b->workers || a->chunks != b->chunks || a->mbs != b->mbs ||
        a->forward_only != b->forward_only || a->lowered != b->lowered ||
        a->recompute != b->recompute || a->n_skips != b->n_skips)
        return false;
    if (a->n_skips && memcmp(a->skip, b->skip, (size_t)a->n_skips * sizeof *a->skip) != 0)
        return false;
    if (memcmp(a->route, b->route, (size_t)route_entries(a) * sizeof *a->route) != 0 ||
        memcmp(a->span, b->span, (size_t)a->chunks * sizeof *a->span) != 0 ||
        memcmp(a->buckets, b->buckets, (size_t)a->chunks * sizeof *a->buckets) != 0 ||
        memcmp(a->pool_slots, b->pool_slots, (size_t)pool_entries(a) * sizeof *a->pool_slots) !=
            0 ||
        !same_updates(a, b))
        return false;
    for (int32_t w = 0; w < a->workers; w++) {
        const dml_op_list *la = &a->list[w], *lb = &b->list[w];
        if (la->n != lb->n) return false;
        if (la->n && memcmp(la->op, lb->op, (size_t)la->n * sizeof *la->op) != 0) return false;
    }
    return true;
}

void dml_program_route_by_ops(dml_program *p)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind == DML_OP_FWD) *dml_program_route(p, op->chunk, op->mb) = w;
        }
}

void dml_program_number_buckets(const dml_program *p, int32_t *in)
{
    in[0] = 0;
    for (int32_t c = 0; c < p->chunks; c++)
        in[c + 1] = in[c] + dml_program_updates(p, c) * p->buckets[c];
}

void dml_program_number_held(const dml_program *p, int32_t worker, int32_t *in)
{
    const dml_op_list *list = &p->list[worker];
    memset(in, 0, ((size_t)p->chunks + 1) * sizeof *in);
    for (int32_t i = 0; i < list->n; i++)
        if (dml_op_is_weight_grad(&list->op[i])) {
            const int32_t c = list->op[i].chunk;
            in[c + 1] = dml_program_updates(p, c) * p->buckets[c];
        }
    for (int32_t c = 0; c < p->chunks; c++)
        in[c + 1] += in[c];
}

int64_t dml_program_ops(const dml_program *p)
{
    int64_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        n += p->list[w].n;
    return n;
}

bool dml_program_is_async(const dml_program *p)
{
    for (int32_t c = 0; c < p->chunks; c++)
        if (p->update_mbs[c] != p->mbs) return true;
    return false;
}

bool dml_program_has(const dml_program *p, dml_op_kind kind)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            if (p->list[w].op[i].kind == kind) return true;
    return false;
}

bool dml_program_splits_backward(const dml_program *p)
{
    return dml_program_has(p, DML_OP_BWD_WEIGHT);
}
