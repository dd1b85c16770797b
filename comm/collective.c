/* comm/collective.c - all_reduce, all_gather and reduce_scatter on buffers that all members see.
 *
 * Every member owns one part of the elements: block by block it adds that part of all members' buffers up
 * in member 0's buffer, and while the block is in the first-level cache copies it to the others:
 *
 *               part 0   part 1   part 2
 *   member 0  [  sum0  |        |        ]      sum_i = ((m0_i + m1_i) + m2_i) + ...   in group order,
 *   member 1  [  sum0  |        |        ]      so all members hold the same bits, and the bits
 *   member 2  [  sum0  |        |        ]      depend neither on the parts nor on the timing
 *                 ^ written by member 0
 *
 *   call:  publish what and where | barrier | reduce and write own part | barrier
 *
 * Writing results to others instead of fetching theirs saves the barrier between the two, and each block
 * is still in the cache when it is written.  Sums of a few KB skip the second barrier: the members
 * publish copies of their data and each adds up all of them; two copies in turn, since a member that
 * writes its second next copy knows that all others have begun the next call.
 *
 * Emulated links make a call last from the first barrier on as a ring of the members takes, at the pace of its slowest
 * link (engine/base/link.h): 2 (n - 1) steps of bytes / n for all_reduce, n - 1 for the two others.
 */
#include "comm/group.h"
#include "comm/reduce.h"

#include "engine/base/clock.h"

#include <stdio.h>
#include <string.h>

enum { BLOCK_BYTES = 4096, LINE_ELEMS = 32, NAME_BYTES = 80 };

/* clang-format off */
/*    kind             text               */
#define CALL_LIST(X)                          \
    X(ALL_REDUCE,      "all_reduce")          \
    X(ALL_GATHER,      "all_gather")          \
    X(REDUCE_SCATTER,  "reduce_scatter")
/* clang-format on */
typedef enum dml_call_kind {
#define X(kind, text) CALL_##kind,
    CALL_LIST(X)
#undef X
} dml_call_kind;

static const char *const call_text[] = {
#define X(kind, text) text,
    CALL_LIST(X)
#undef X
};

static void describe(const dml_call *c, char *out, size_t bytes)
{
    if (c->kind == CALL_ALL_GATHER)
        snprintf(out, bytes, "%s of %lld bytes", call_text[c->kind], (long long)c->count);
    else
        snprintf(out, bytes, "%s (%s) of %lld %s", call_text[c->kind],
                 dml_reduction_name((dml_reduction)c->reduction), (long long)c->count,
                 dml_dtype_name((dml_dtype)c->dtype));
}

static bool same_call(const dml_call *a, const dml_call *b)
{
    return a->kind == b->kind && a->dtype == b->dtype && a->reduction == b->reduction &&
           a->count == b->count;
}

/* ---- the frame of a call ---- */

static const dml_call *call_of(const dml_group *g, int32_t member)
{
    return &g->member[member].slot->call[g->calls & 1];
}

static void publish(dml_group *g, const dml_call *mine)
{
    g->member[g->me].slot->call[g->calls & 1] = *mine;
    dml_group_arrive(g);
}

/* Meets the others and checks that all mean the same. */
static dml_err meet(dml_group *g, const dml_call *mine, int64_t *begin_ns)
{
    DML_TRY(dml_group_await(g, call_text[mine->kind]));
    *begin_ns = g->met_ns = dml_clock_ns();
    for (int32_t m = 0; m < g->n; m++) {
        const dml_call *theirs = call_of(g, m);
        if (same_call(theirs, mine)) continue;
        char here[NAME_BYTES], there[NAME_BYTES];
        describe(mine, here, sizeof here);
        describe(theirs, there, sizeof there);
        DML_FAIL(DML_ERR_BUG, "call %u of group %u: worker %d makes an %s, worker %d an %s",
                 g->calls, g->id, g->t->config.rank, here, g->member[m].rank, there);
    }
    return DML_ERR_OK;
}

static dml_err enter(dml_group *g, const dml_call *mine, int64_t *begin_ns)
{
    publish(g, mine);
    return meet(g, mine, begin_ns);
}

/* Sleeps off what a ring with `steps` steps of bytes / n each would take. */
static dml_err leave(dml_group *g, const dml_call *mine, int64_t begin_ns, int64_t steps,
                     double bytes)
{
    const dml_transport *t = g->t;
    if (!t->emulates) return DML_ERR_OK;
    const int64_t ring_ns = dml_links_ring_ns(&t->config.links, g->ranks, g->n, steps, bytes);
    return dml_host_sleep(t, begin_ns + ring_ns, call_text[mine->kind]);
}

/* ---- reducing a range of all members' buffers ---- */

/* Elements [from, to); the sums go to members first_dst .. last_dst (both included).  They are made in
 * member 0's buffer, where nobody else touches this range. */
typedef struct range {
    dml_reduce_fn reduce;
    int64_t size, from, to;
    int32_t first_dst, last_dst;
} range;

static char *buffer_of(const dml_group *g, int32_t member)
{
    return dml_group_memory(g, member) + call_of(g, member)->offset;
}

static void reduce_range(const dml_group *g, const range *r)
{
    const int64_t step = BLOCK_BYTES / r->size;
    for (int64_t i = r->from; i < r->to; i += step) {
        const int64_t elems = r->to - i < step ? r->to - i : step, at = i * r->size;
        char *sum = buffer_of(g, 0) + at;
        for (int32_t m = 1; m < g->n; m++)
            r->reduce(sum, buffer_of(g, m) + at, elems);
        for (int32_t m = r->first_dst; m <= r->last_dst; m++)
            if (m > 0) memcpy(buffer_of(g, m) + at, sum, (size_t)(elems * r->size));
    }
}

static dml_err prepare(dml_group *g, const dml_call *c, const void *buffer, int64_t elems,
                       dml_reduce_fn *reduce, int64_t *offset)
{
    *reduce = dml_reduce_find((dml_dtype)c->dtype, (dml_reduction)c->reduction);
    if (!*reduce)
        DML_FAIL(DML_ERR_BUG, "%s has no %s of %s", call_text[c->kind],
                 dml_reduction_name((dml_reduction)c->reduction),
                 dml_dtype_name((dml_dtype)c->dtype));
    const int64_t size = dml_dtype_bytes((dml_dtype)c->dtype);
    if (elems < 0)
        DML_FAIL(DML_ERR_BUG, "%s of %lld elements", call_text[c->kind], (long long)elems);
    return dml_host_offset(g->t, buffer, elems * size, call_text[c->kind], offset);
}

int64_t dml_host_call_met_ns(const dml_group *g)
{
    return g->met_ns;
}

/* ---- the three collectives ---- */

/* A few KB: everybody adds up copies of everybody's data; one barrier. */
static void post_inline(dml_group *g, const dml_call *c, const void *buffer, int64_t size)
{
    memcpy(dml_group_inline(g, g->me, g->calls & 1), buffer, (size_t)(c->count * size));
    publish(g, c);
}

static dml_err collect_inline(dml_group *g, const dml_call *c, dml_reduce_fn reduce, void *buffer,
                              int64_t size, int64_t *begin_ns)
{
    const uint32_t parity = g->calls & 1;
    DML_TRY(meet(g, c, begin_ns));
    memcpy(buffer, dml_group_inline(g, 0, parity), (size_t)(c->count * size));
    for (int32_t m = 1; m < g->n; m++)
        reduce(buffer, dml_group_inline(g, m, parity), c->count);
    return DML_ERR_OK;
}

dml_err dml_host_all_reduce(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                            dml_dtype dtype, dml_reduction reduction)
{
    (void)queue;
    dml_call c = {.kind = CALL_ALL_REDUCE, .dtype = dtype, .reduction = reduction, .count = elems};
    dml_reduce_fn reduce;
    DML_TRY(prepare(g, &c, buffer, elems, &reduce, &c.offset));
    if (g->n == 1) return DML_ERR_OK;
    g->calls++;

    int64_t begin_ns;
    const int64_t size = dml_dtype_bytes(dtype);
    if (elems > 0 && elems * size <= DML_INLINE_BYTES) {
        post_inline(g, &c, buffer, size);
        DML_TRY(collect_inline(g, &c, reduce, buffer, size, &begin_ns));
    } else {
        DML_TRY(enter(g, &c, &begin_ns));
        /* Parts are whole cache lines, so no line has two writers. */
        const int64_t lines = (elems + LINE_ELEMS - 1) / LINE_ELEMS;
        const int64_t from = lines * g->me / g->n * LINE_ELEMS;
        const int64_t to = lines * (g->me + 1) / g->n * LINE_ELEMS;
        const range part = {reduce, size, from, to < elems ? to : elems, 0, g->n - 1};
        reduce_range(g, &part);
        DML_TRY(dml_group_barrier(g, call_text[c.kind]));
    }
    return leave(g, &c, begin_ns, 2 * (g->n - 1), (double)(elems * size));
}

static dml_err posted_call(const dml_group *g, int64_t elems, dml_dtype dtype,
                           dml_reduction reduction, bool posted, dml_call *c, dml_reduce_fn *reduce)
{
    *c =
        (dml_call){.kind = CALL_ALL_REDUCE, .dtype = dtype, .reduction = reduction, .count = elems};
    *reduce = dml_reduce_find(dtype, reduction);
    if (!*reduce || elems < 1 || elems * dml_dtype_bytes(dtype) > DML_POST_BYTES)
        DML_FAIL(DML_ERR_BUG, "a sum of %lld %s is not posted", (long long)elems,
                 dml_dtype_name(dtype));
    if (g->posted != posted)
        DML_FAIL(DML_ERR_BUG, "group %u: %s", g->id,
                 posted ? "nothing was posted" : "what was posted is to be collected first");
    return DML_ERR_OK;
}

dml_err dml_host_post(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                      dml_reduction reduction)
{
    dml_call c;
    dml_reduce_fn reduce;
    DML_TRY(posted_call(g, elems, dtype, reduction, false, &c, &reduce));
    g->posted = true;
    if (g->n == 1) return DML_ERR_OK;
    g->calls++;
    post_inline(g, &c, buffer, dml_dtype_bytes(dtype));
    return DML_ERR_OK;
}

dml_err dml_host_collect(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                         dml_reduction reduction)
{
    dml_call c;
    dml_reduce_fn reduce;
    int64_t begin_ns;
    DML_TRY(posted_call(g, elems, dtype, reduction, true, &c, &reduce));
    if (g->n > 1) DML_TRY(collect_inline(g, &c, reduce, buffer, dml_dtype_bytes(dtype), &begin_ns));
    g->posted = false;
    return DML_ERR_OK;
}

dml_err dml_host_reduce_scatter(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                                dml_dtype dtype, dml_reduction reduction)
{
    (void)queue;
    dml_call c = {
        .kind = CALL_REDUCE_SCATTER, .dtype = dtype, .reduction = reduction, .count = elems};
    dml_reduce_fn reduce;
    DML_TRY(prepare(g, &c, buffer, g->n * elems, &reduce, &c.offset));
    if (g->n == 1) return DML_ERR_OK;
    g->calls++;

    int64_t begin_ns;
    const int64_t size = dml_dtype_bytes(dtype);
    DML_TRY(enter(g, &c, &begin_ns));
    const range part = {reduce, size, g->me * elems, (g->me + 1) * elems, g->me, g->me};
    reduce_range(g, &part);
    DML_TRY(dml_group_barrier(g, call_text[c.kind]));
    return leave(g, &c, begin_ns, g->n - 1, (double)(g->n * elems * size));
}

dml_err dml_host_all_gather(dml_group *g, dml_queue *queue, void *dst, const void *src,
                            int64_t bytes)
{
    (void)queue;
    dml_call c = {.kind = CALL_ALL_GATHER, .count = bytes};
    DML_TRY(dml_host_offset(g->t, dst, g->n * bytes, call_text[c.kind], &c.offset));
    g->calls++;
    int64_t begin_ns;
    DML_TRY(enter(g, &c, &begin_ns));
    for (int32_t i = 0; i < g->n && bytes > 0; i++) {
        const int32_t m = (g->me + i) % g->n; /* not all into the same member at once */
        char *to = buffer_of(g, m) + g->me * bytes;
        if (to != src) memcpy(to, src, (size_t)bytes);
    }
    DML_TRY(dml_group_barrier(g, call_text[c.kind]));
    return leave(g, &c, begin_ns, g->n - 1, (double)(g->n * bytes));
}
