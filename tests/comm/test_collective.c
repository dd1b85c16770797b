/* tests/comm/test_collective.c - all_reduce, all_gather, reduce_scatter against plain loops, bit for bit
 * (argument: the transport). */
#include "tests/support/test.h"

#include "tests/comm/world.h"

#include "comm/group.h"
#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kernels/half.h"

#include <stdlib.h>

static const char *transport = "local";

enum { MAX_ELEMS = 40000, MAX_BYTES = MAX_ELEMS * 8 };

static const struct {
    dml_dtype dtype;
    dml_reduction reduction;
} kinds[] = {
    {DML_F32, DML_SUM},  {DML_F64, DML_SUM}, {DML_I64, DML_SUM}, {DML_I32, DML_SUM},
    {DML_U32, DML_SUM},  {DML_I64, DML_MAX}, {DML_I32, DML_MAX}, {DML_U32, DML_MAX},
    {DML_BF16, DML_SUM}, {DML_F16, DML_SUM},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static uint32_t next(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

/* Member m's data of call k: floats of many magnitudes, so that another order of adding shows. */
static void fill(void *out, dml_dtype dtype, int64_t elems, int32_t m, uint32_t k)
{
    uint32_t x = k * 2654435761u + (uint32_t)m * 40503u + 12345u;
    for (int64_t i = 0; i < elems; i++) {
        const uint32_t a = next(&x), b = next(&x);
        const double value = ((double)a - 0x1p23) * (1 << (b & 15));
        switch (dtype) {
        case DML_F32: ((float *)out)[i] = (float)value * 1.1f; break;
        case DML_F64: ((double *)out)[i] = value * 1.1e-9; break;
        case DML_I64: ((uint64_t *)out)[i] = ((uint64_t)a << 40) ^ ((uint64_t)b << 17); break;
        case DML_I32:
        case DML_U32: ((uint32_t *)out)[i] = a << 8 ^ b; break;
        case DML_BF16: ((dml_bf16 *)out)[i] = dml_bf16_of_float((float)value); break;
        case DML_F16: ((dml_f16 *)out)[i] = dml_f16_of_float((float)value * 0x1p-28f); break;
        case DML_U8: break;
        }
    }
}

/* The specification: one element after the other, member 0 first. */
static void plain(void *acc, const void *x, dml_dtype dtype, dml_reduction reduction, int64_t i)
{
    if (dtype == DML_F32) {
        float *y = acc;
        y[i] = y[i] + ((const float *)x)[i];
    } else if (dtype == DML_F64) {
        double *y = acc;
        y[i] = y[i] + ((const double *)x)[i];
    } else if (dtype == DML_I64) {
        int64_t *y = acc;
        const int64_t v = ((const int64_t *)x)[i];
        if (reduction == DML_MAX)
            y[i] = v > y[i] ? v : y[i];
        else
            y[i] = (int64_t)((uint64_t)y[i] + (uint64_t)v);
    } else if (dtype == DML_BF16) {
        dml_bf16 *y = acc;
        const float v = dml_bf16_to_float(((const dml_bf16 *)x)[i]);
        y[i] = dml_bf16_of_float(dml_bf16_to_float(y[i]) + v);
    } else if (dtype == DML_F16) {
        dml_f16 *y = acc;
        const float v = dml_f16_to_float(((const dml_f16 *)x)[i]);
        y[i] = dml_f16_of_float(dml_f16_to_float(y[i]) + v);
    } else if (dtype == DML_I32 && reduction == DML_MAX) {
        int32_t *y = acc;
        const int32_t v = ((const int32_t *)x)[i];
        y[i] = v > y[i] ? v : y[i];
    } else {
        uint32_t *y = acc;
        const uint32_t v = ((const uint32_t *)x)[i];
        if (reduction == DML_MAX)
            y[i] = v > y[i] ? v : y[i];
        else
            y[i] += v;
    }
}

/* What one rank works with. */
typedef struct desk {
    rank *r;
    char *buffer;  /* [MAX_BYTES] from alloc */
    char *want;    /* [MAX_BYTES] */
    char *operand; /* [MAX_BYTES] */
} desk;

static dml_err desk_open(desk *d, rank *r)
{
    d->r = r;
    d->want = malloc(MAX_BYTES);
    d->operand = malloc(MAX_BYTES);
    return r->api->alloc(r->transport, MAX_BYTES, (void **)&d->buffer);
}

static void desk_close(desk *d)
{
    free(d->want);
    free(d->operand);
}

static void expect_reduced(desk *d, int32_t n, int kind, int64_t elems, uint32_t k)
{
    const dml_dtype dtype = kinds[kind].dtype;
    fill(d->want, dtype, elems, 0, k);
    for (int32_t m = 1; m < n; m++) {
        fill(d->operand, dtype, elems, m, k);
        for (int64_t i = 0; i < elems; i++)
            plain(d->want, d->operand, dtype, kinds[kind].reduction, i);
    }
}

static dml_err same(const desk *d, int64_t from, int64_t to, const char *what, uint32_t k)
{
    for (int64_t i = from; i < to; i++)
        if (d->want[i] != d->buffer[i])
            DML_FAIL(DML_ERR_CHECK, "%s %u of worker %d: byte %lld of %lld differs", what, k,
                     d->r->config.rank, (long long)i, (long long)to);
    return DML_ERR_OK;
}

static dml_err one_all_reduce(desk *d, dml_group *g, int32_t n, int32_t me, int kind, int64_t elems,
                              uint32_t k)
{
    const dml_dtype dtype = kinds[kind].dtype;
    fill(d->buffer, dtype, elems, me, k);
    DML_TRY(d->r->api->all_reduce(g, NULL, d->buffer, elems, dtype, kinds[kind].reduction));
    expect_reduced(d, n, kind, elems, k);
    return same(d, 0, elems * dml_dtype_bytes(dtype), "all_reduce", k);
}

static dml_err one_reduce_scatter(desk *d, dml_group *g, int32_t n, int32_t me, int kind,
                                  int64_t elems, uint32_t k)
{
    const dml_dtype dtype = kinds[kind].dtype;
    const int64_t part = elems / n, bytes = part * dml_dtype_bytes(dtype);
    fill(d->buffer, dtype, n * part, me, k);
    DML_TRY(d->r->api->reduce_scatter(g, NULL, d->buffer, part, dtype, kinds[kind].reduction));
    expect_reduced(d, n, kind, n * part, k);
    return same(d, me * bytes, (me + 1) * bytes, "reduce_scatter", k);
}

static dml_err one_all_gather(desk *d, dml_group *g, int32_t n, int32_t me, int64_t elems,
                              uint32_t k)
{
    const int64_t bytes = elems / n * 4;
    char *place = d->buffer + me * bytes;
    memset(d->buffer, 0, (size_t)(n * bytes));
    fill(d->operand, DML_U32, elems / n, me, k);
    const bool in_place = k & 1;
    if (in_place && bytes > 0) memcpy(place, d->operand, (size_t)bytes);
    DML_TRY(d->r->api->all_gather(g, NULL, d->buffer, in_place ? place : d->operand, bytes));
    for (int32_t m = 0; m < n; m++)
        fill(d->want + m * bytes, DML_U32, elems / n, m, k);
    return same(d, 0, n * bytes, "all_gather", k);
}

/* Sizes around the borders: nothing, fewer elements than members, cache lines, the inline limit, blocks. */
static const int64_t border[] = {0, 1, 2, 3, 15, 16, 17, 255, 512, 1023, 1024, 1025, 4096, 4097};
enum { BORDERS = sizeof border / sizeof *border };

static int64_t some_elems(uint32_t *x)
{
    const uint32_t pick = next(x);
    return pick % 3 ? border[pick / 3 % BORDERS] : next(x) % (pick % 2 ? MAX_ELEMS : 3000);
}

static dml_err mix(desk *d, dml_group *g, int32_t n, int32_t me, uint32_t calls)
{
    uint32_t shared = 4711, own = (uint32_t)me;
    for (uint32_t k = 0; k < calls; k++) {
        const int kind = (int)(next(&shared) % KINDS);
        const uint32_t which = next(&shared) % 4;
        const int64_t elems = some_elems(&shared);
        if (next(&own) % 8 == 0) dml_sleep_until_ns(dml_clock_ns() + next(&own) % 300000);
        if (which < 2)
            DML_TRY(one_all_reduce(d, g, n, me, kind, elems, k));
        else if (which == 2)
            DML_TRY(one_reduce_scatter(d, g, n, me, kind, elems, k));
        else
            DML_TRY(one_all_gather(d, g, n, me, elems, k));
    }
    return DML_ERR_OK;
}

static dml_err mix_in_one_group(rank *r)
{
    desk d;
    DML_TRY(desk_open(&d, r));
    int32_t ranks[MAX_WORLD];
    for (int32_t i = 0; i < r->config.world; i++)
        ranks[i] = i;
    dml_group *g;
    DML_TRY(r->api->group_open(r->transport, ranks, r->config.world, 3, &g));
    DML_TRY(mix(&d, g, r->config.world, r->config.rank, 60));
    r->api->group_close(g);
    desk_close(&d);
    return DML_ERR_OK;
}

static void mixed_calls_equal_plain_loops_bit_for_bit(void **state)
{
    (void)state;
    static const int32_t worlds[] = {1, 2, 3, 4, 5, 8};
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        run_world_ok(
            &(world_config){.transport = transport, .world = worlds[i], .memory_bytes = MAX_BYTES},
            mix_in_one_group);
}

/* ---- all borders of every kind ---- */

static dml_err all_borders(rank *r)
{
    desk d;
    DML_TRY(desk_open(&d, r));
    static const int32_t ranks[] = {0, 1, 2};
    dml_group *g;
    DML_TRY(r->api->group_open(r->transport, ranks, 3, 0, &g));
    for (int kind = 0; kind < KINDS; kind++)
        for (uint32_t k = 0; k < BORDERS; k++) {
            DML_TRY(one_all_reduce(&d, g, 3, r->config.rank, kind, border[k], k));
            DML_TRY(one_reduce_scatter(&d, g, 3, r->config.rank, kind, border[k], k));
        }
    desk_close(&d);
    return DML_ERR_OK;
}

static void every_dtype_and_border_size_is_right(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 3, .memory_bytes = MAX_BYTES},
                 all_borders);
}

/* ---- several groups, opened and closed over and over ---- */

/* Rank sets of groups, by bits; every rank opens those it is in, in this order. */
static const unsigned sets[] = {0x7, 0x3, 0x5, 0x6, 0xf, 0x9, 0x1, 0xa, 0xe, 0xc};
enum { SETS = sizeof sets / sizeof *sets, ROUNDS = 20 };

static dml_err open_set(rank *r, unsigned set, uint32_t id, int32_t *n, int32_t *me, dml_group **g)
{
    int32_t ranks[MAX_WORLD];
    *n = 0;
    *me = -1;
    for (int32_t i = 0; i < r->config.world; i++)
        if (set >> i & 1) {
            if (i == r->config.rank) *me = *n;
            ranks[(*n)++] = i;
        }
    return *me < 0 ? DML_ERR_OK : r->api->group_open(r->transport, ranks, *n, id, g);
}

static dml_err regroup(rank *r)
{
    desk d;
    DML_TRY(desk_open(&d, r));
    uint32_t x = (uint32_t)r->config.rank;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        dml_group *g[SETS] = {NULL};
        int32_t n[SETS], me[SETS];
        for (uint32_t s = 0; s < SETS; s++)
            DML_TRY(open_set(r, sets[s], s % 3, &n[s], &me[s], &g[s]));
        for (uint32_t k = 0; k < 12; k++)
            for (uint32_t s = 0; s < SETS; s++) {
                if (!g[s]) continue;
                if (next(&x) % 64 == 0) dml_sleep_until_ns(dml_clock_ns() + next(&x) % 100000);
                /* inline and large sums in turn */
                DML_TRY(one_all_reduce(&d, g[s], n[s], me[s], 0, k % 3 ? 8 : 1500, round + k));
            }
        for (uint32_t s = 0; s < SETS; s++)
            r->api->group_close(g[s]);
    }
    desk_close(&d);
    return DML_ERR_OK;
}

static void groups_that_overlap_and_come_again_do_not_mix(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 4, .memory_bytes = MAX_BYTES},
                 regroup);
}

static uint32_t slot_of(const dml_group *g)
{
    return g->member[g->me].index;
}

/* Rank 1 may still read rank 0's slot until it closes too; messages put the two in step. */
static dml_err close_one_after_the_other(rank *r)
{
    static const int32_t both[] = {0, 1}, self[] = {0};
    dml_group *g, *alone;
    DML_TRY(r->api->group_open(r->transport, both, 2, 1, &g));
    if (r->config.rank == 1) {
        DML_TRY(r->api->recv(r->transport, NULL, 0, NULL, 0, 0));
        r->api->group_close(g);
        return r->api->send(r->transport, NULL, 0, NULL, 0, 0);
    }
    const uint32_t first = slot_of(g);
    r->api->group_close(g);
    DML_TRY(r->api->group_open(r->transport, self, 1, 2, &alone));
    if (slot_of(alone) == first) DML_FAIL(DML_ERR_CHECK, "slot %u is used too early", first);
    DML_TRY(r->api->send(r->transport, NULL, 1, NULL, 0, 0));
    DML_TRY(r->api->recv(r->transport, NULL, 1, NULL, 0, 0));
    DML_TRY(r->api->group_open(r->transport, self, 1, 3, &alone));
    if (slot_of(alone) != first) DML_FAIL(DML_ERR_CHECK, "slot %u was not freed", first);
    return DML_ERR_OK;
}

static void a_slot_is_free_once_all_members_have_closed(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 2}, close_one_after_the_other);
}

/* ---- in halves ---- */

enum { POSTED_ROUNDS = 60, POSTED_MOST = 9 };

/* Whole sums among the posted ones; the last rank is late every third time, the others are at work meanwhile. */
static dml_err post_and_collect(rank *r)
{
    static const int32_t ranks[] = {0, 1, 2};
    const int32_t n = r->config.world, me = r->config.rank;
    int64_t *sum;
    dml_group *g;
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 4096, &buffer));
    DML_TRY(r->api->group_open(r->transport, ranks, n, 4, &g));
    sum = buffer;
    for (int64_t k = 0; k < POSTED_ROUNDS; k++) {
        const int64_t elems = 1 + k % POSTED_MOST;
        for (int64_t i = 0; i < elems; i++)
            sum[i] = 1000 * k + 10 * i + me;
        if (me == n - 1 && k % 3 == 0) dml_sleep_until_ns(dml_clock_ns() + 200000);
        if (k % 4 == 3) {
            DML_TRY(r->api->all_reduce(g, NULL, sum, elems, DML_I64, DML_SUM));
        } else {
            DML_TRY(r->api->post(g, sum, elems, DML_I64, DML_SUM));
            if (me == 0 && k % 5 == 0) dml_sleep_until_ns(dml_clock_ns() + 100000);
            DML_TRY(r->api->collect(g, sum, elems, DML_I64, DML_SUM));
        }
        for (int64_t i = 0; i < elems; i++)
            if (sum[i] != n * (1000 * k + 10 * i) + n * (n - 1) / 2)
                DML_FAIL(DML_ERR_CHECK, "round %lld: element %lld is %lld", (long long)k,
                         (long long)i, (long long)sum[i]);
    }
    r->api->group_close(g);
    return DML_ERR_OK;
}

static dml_err post_wrongly(rank *r)
{
    static const int32_t self[] = {0};
    dml_group *g;
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 8192, &buffer));
    DML_TRY(r->api->group_open(r->transport, self, 1, 4, &g));
    if (r->api->collect(g, buffer, 8, DML_I64, DML_SUM) != DML_ERR_BUG ||
        r->api->post(g, buffer, DML_POST_BYTES / 8 + 1, DML_I64, DML_SUM) != DML_ERR_BUG)
        DML_FAIL(DML_ERR_CHECK, "a bad half went through");
    DML_TRY(r->api->post(g, buffer, 8, DML_I64, DML_SUM));
    if (r->api->post(g, buffer, 8, DML_I64, DML_SUM) != DML_ERR_BUG)
        DML_FAIL(DML_ERR_CHECK, "a second post went through");
    return r->api->collect(g, buffer, 8, DML_I64, DML_SUM);
}

static void a_sum_in_two_halves_is_the_sum(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 3; n++)
        run_world_ok(&(world_config){.transport = transport, .world = n, .memory_bytes = 4096},
                     post_and_collect);
    run_world_ok(&(world_config){.transport = transport, .world = 1, .memory_bytes = 8192},
                 post_wrongly);
}

/* ---- mistakes ---- */

static dml_err disagree(rank *r)
{
    const int which = *(const int *)r->arg, me = r->config.rank;
    void *buffer;
    static const int32_t ranks[] = {0, 1, 2};
    dml_group *g;
    DML_TRY(r->api->alloc(r->transport, 65536, &buffer));
    DML_TRY(r->api->group_open(r->transport, ranks, 3, 5, &g));
    switch (which) {
    case 0: return r->api->all_reduce(g, NULL, buffer, me == 1 ? 100 : 4000, DML_F32, DML_SUM);
    case 1: return r->api->all_reduce(g, NULL, buffer, 8, me == 1 ? DML_I32 : DML_U32, DML_SUM);
    case 2: return r->api->all_reduce(g, NULL, buffer, 8, DML_U32, me == 1 ? DML_MAX : DML_SUM);
    case 3:
        return me == 1 ? r->api->all_gather(g, NULL, buffer, buffer, 32)
                       : r->api->all_reduce(g, NULL, buffer, 32, DML_U32, DML_SUM);
    }
    return r->api->all_reduce(g, NULL, (char *)buffer + 65536, 8, DML_F32, DML_SUM);
}

static void members_that_disagree_are_named_with_what_they_called(void **state)
{
    (void)state;
    static const char *const want[][2] = {
        {"worker 1 makes an all_reduce (sum) of 100 F32, worker 0 an all_reduce (sum) of 4000 F32",
         "makes an all_reduce (sum) of 4000 F32, worker 1 an all_reduce (sum) of 100 F32"},
        {"an all_reduce (sum) of 8 I32", "an all_reduce (sum) of 8 I32"},
        {"an all_reduce (max) of 8 U32", "an all_reduce (max) of 8 U32"},
        {"an all_gather of 32 bytes", "an all_gather of 32 bytes"},
        {"the 32 bytes of all_reduce are not in memory", "are not in memory"},
    };
    for (int which = 0; which < 5; which++) {
        outcome out[3];
        run_world(
            &(world_config){
                .transport = transport, .world = 3, .memory_bytes = 65536, .arg = &which},
            disagree, out);
        for (int r = 0; r < 3; r++) {
            DML_CHECK_EQ(DML_ERR_BUG, out[r].err);
            if (!strstr(out[r].trail, want[which][r != 1]))
                fail_msg("case %d, rank %d says: %s", which, r, out[r].trail);
        }
    }
}

static dml_err open_different_groups(rank *r)
{
    static const int32_t ranks[] = {0, 1};
    dml_group *g;
    return r->api->group_open(r->transport, ranks, 2, 10 + (uint32_t)r->config.rank, &g);
}

static dml_err open_bad_groups(rank *r)
{
    static const int32_t twice[] = {0, 0}, beyond[] = {0, 1}, without[] = {1};
    dml_group *g;
    if (r->api->group_open(r->transport, twice, 2, 1, &g) != DML_ERR_BUG ||
        r->api->group_open(r->transport, beyond, 2, 1, &g) != DML_ERR_BUG ||
        r->api->group_open(r->transport, without, 1, 1, &g) != DML_ERR_BUG)
        DML_FAIL(DML_ERR_CHECK, "a bad rank list went through");
    static const int32_t self[] = {0};
    dml_group *many[DML_GROUP_SLOTS];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < DML_GROUP_SLOTS; i++)
            DML_TRY(r->api->group_open(r->transport, self, 1, 1, &many[i]));
        if (r->api->group_open(r->transport, self, 1, 1, &g) != DML_ERR_NOMEM)
            DML_FAIL(DML_ERR_CHECK, "one group too many went through");
        for (int i = 0; i < DML_GROUP_SLOTS; i++)
            r->api->group_close(many[i]);
    }
    r->api->group_close(NULL);
    return DML_ERR_OK;
}

static void groups_that_cannot_be_are_refused(void **state)
{
    (void)state;
    outcome out[2];
    run_world(&(world_config){.transport = transport, .world = 2}, open_different_groups, out);
    for (int r = 0; r < 2; r++) {
        DML_CHECK_EQ(DML_ERR_BUG, out[r].err);
        DML_CHECK(strstr(out[r].trail, "opens group 10") ||
                  strstr(out[r].trail, "worker 0 group 10"));
        DML_CHECK(strstr(out[r].trail, "group 11 of 2 ranks"));
    }
    run_world_ok(&(world_config){.transport = transport, .world = 1}, open_bad_groups);
}

/* ---- waits that end ---- */

/* Rank 1 stays away at the step named by arg: opening, a small sum, a large one, a gather, a scatter. */
static dml_err one_stays_away(rank *r)
{
    const int which = *(const int *)r->arg;
    static const int32_t ranks[] = {0, 1, 2};
    const bool away = r->config.rank == 1;
    void *buffer;
    dml_group *g;
    DML_TRY(r->api->alloc(r->transport, 65536, &buffer));
    if (which == 0 && away) return DML_ERR_OK;
    DML_TRY(r->api->group_open(r->transport, ranks, 3, 9, &g));
    if (away) return DML_ERR_OK;
    switch (which) {
    case 1: return r->api->all_reduce(g, NULL, buffer, 8, DML_F32, DML_SUM);
    case 2: return r->api->all_reduce(g, NULL, buffer, 9000, DML_F32, DML_SUM);
    case 3: return r->api->all_gather(g, NULL, buffer, buffer, 64);
    }
    return r->api->reduce_scatter(g, NULL, buffer, 64, DML_F64, DML_SUM);
}

static const char *const away_text[] = {
    "worker 1 to open group 9 of 3",
    "worker 1 in all_reduce (call 1 of group 9)",
    "worker 1 in all_reduce (call 1 of group 9)",
    "worker 1 in all_gather (call 1 of group 9)",
    "worker 1 in reduce_scatter (call 1 of group 9)",
};

/* Rank 1 does its part within the deadline, which a busy machine may not allow: then again with twice the time. */
static void run_with_one_away(int which, outcome out[3])
{
    for (int timeout_ms = 30; timeout_ms <= 2000; timeout_ms *= 2) {
        run_world(&(world_config){.transport = transport,
                                  .world = 3,
                                  .memory_bytes = 65536,
                                  .timeout_ms = timeout_ms,
                                  .arg = &which},
                  one_stays_away, out);
        if (out[1].err == DML_ERR_OK) return;
    }
    fail_msg("%d: %s", which, out[1].trail);
}

static void the_deadline_ends_every_kind_of_wait_and_names_the_peer(void **state)
{
    (void)state;
    for (int which = 0; which < 5; which++) {
        outcome out[3];
        run_with_one_away(which, out);
        DML_CHECK_EQ(DML_ERR_PEER, out[0].err);
        if (!strstr(out[0].trail, away_text[which])) fail_msg("%d: %s", which, out[0].trail);
        DML_CHECK_EQ(DML_ERR_PEER, out[2].err);
    }
}

static void raise_soon(const int *pid, dml_abort *abort, int64_t *board)
{
    (void)pid, (void)board;
    dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    atomic_store(&abort->raised, 1);
}

static void abort_ends_every_kind_of_wait(void **state)
{
    (void)state;
    for (int which = 0; which < 5; which++) {
        outcome out[3];
        run_world(&(world_config){.transport = transport,
                                  .world = 3,
                                  .memory_bytes = 65536,
                                  .arg = &which,
                                  .meanwhile = raise_soon},
                  one_stays_away, out);
        for (int r = 0; r < 3; r += 2) {
            DML_CHECK_EQ(DML_ERR_PEER, out[r].err);
            DML_CHECK(strstr(out[r].trail, "being stopped"));
        }
    }
}

/* ---- emulated links ---- */

/* Lower bounds only; 3 members, 1 ms latency, 30000 bytes at 1e7/s are 3 ms. */
static dml_err timed(rank *r)
{
    static const int32_t ranks[] = {0, 1, 2};
    void *buffer;
    dml_group *g;
    DML_TRY(r->api->alloc(r->transport, 30000, &buffer));
    DML_TRY(r->api->group_open(r->transport, ranks, 3, 1, &g));
    const int64_t t0 = dml_clock_ns();
    DML_TRY(r->api->all_reduce(g, NULL, buffer, 7500, DML_F32, DML_SUM));
    const int64_t t1 = dml_clock_ns();
    DML_TRY(r->api->all_gather(g, NULL, buffer, (char *)buffer + r->config.rank * 10000, 10000));
    const int64_t t2 = dml_clock_ns();
    DML_TRY(r->api->reduce_scatter(g, NULL, buffer, 2500, DML_F32, DML_SUM));
    const int64_t t3 = dml_clock_ns();
    if (t1 - t0 < 8 * DML_NS_PER_MS || t2 - t1 < 4 * DML_NS_PER_MS || t3 - t2 < 4 * DML_NS_PER_MS)
        DML_FAIL(DML_ERR_CHECK, "%lld, %lld, %lld ns", (long long)(t1 - t0), (long long)(t2 - t1),
                 (long long)(t3 - t2));
    return DML_ERR_OK;
}

static void an_emulated_link_costs_what_a_ring_costs(void **state)
{
    (void)state;
    const dml_link link = {.latency_ns = DML_NS_PER_MS, .bytes_per_s = 1e7};
    run_world_ok(
        &(world_config){
            .transport = transport, .world = 3, .memory_bytes = 30016, .links = {.outer = link}},
        timed);
}

/* One block of two and a third rank: a slow link anywhere in the ring slows it, 2 (n - 1) latencies in all. */
static dml_err reduce_across(rank *r)
{
    static const int32_t ranks[] = {0, 1, 2};
    const bool slow_within = *(const bool *)r->arg;
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, &buffer));
    for (int32_t n = 2; n <= 3; n++) {
        if (r->config.rank >= n) continue;
        dml_group *g;
        DML_TRY(r->api->group_open(r->transport, ranks, n, (uint32_t)n, &g));
        const int64_t begin_ns = dml_clock_ns();
        DML_TRY(r->api->all_reduce(g, NULL, buffer, 16, DML_F32, DML_SUM));
        const int64_t slow_ms = slow_within || n == 3 ? 2 * (n - 1) * 3 : 0;
        if (dml_clock_ns() - begin_ns < slow_ms * DML_NS_PER_MS)
            DML_FAIL(DML_ERR_CHECK, "%d members: faster than their ring", n);
    }
    return DML_ERR_OK;
}

static void a_ring_goes_at_the_pace_of_its_slowest_link(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const bool slow_within = k;
        const dml_link slow = {.latency_ns = 3 * DML_NS_PER_MS};
        const dml_link_level block = {2, slow_within ? slow : (dml_link){0}};
        const dml_links links = {
            .outer = slow_within ? (dml_link){0} : slow, .levels = 1, .level = &block};
        run_world_ok(&(world_config){.transport = transport,
                                     .world = 3,
                                     .memory_bytes = 128,
                                     .links = links,
                                     .arg = &slow_within},
                     reduce_across);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) transport = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_calls_equal_plain_loops_bit_for_bit),
        cmocka_unit_test(every_dtype_and_border_size_is_right),
        cmocka_unit_test(groups_that_overlap_and_come_again_do_not_mix),
        cmocka_unit_test(a_slot_is_free_once_all_members_have_closed),
        cmocka_unit_test(a_sum_in_two_halves_is_the_sum),
        cmocka_unit_test(members_that_disagree_are_named_with_what_they_called),
        cmocka_unit_test(groups_that_cannot_be_are_refused),
        cmocka_unit_test(the_deadline_ends_every_kind_of_wait_and_names_the_peer),
        cmocka_unit_test(abort_ends_every_kind_of_wait),
        cmocka_unit_test(an_emulated_link_costs_what_a_ring_costs),
        cmocka_unit_test(a_ring_goes_at_the_pace_of_its_slowest_link),
    };
    return cmocka_run_group_tests_name("collective", tests, NULL, NULL);
}
