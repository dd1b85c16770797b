/* tests/comm/test_p2p.c - send and receive, over threads and over processes (argument: the transport). */
#include "tests/support/test.h"

#include "tests/comm/world.h"

#include "engine/base/clock.h"

#include <pthread.h>
#include <stdlib.h>

static const char *transport = "local";

/* Bytes that both sides can make: no two messages share a pattern. */
static void pattern(unsigned char *out, int64_t bytes, int32_t from, int32_t to, uint32_t k)
{
    uint32_t x = (uint32_t)(from * 131 + to * 17 + 1) * 2654435761u + k * 40503u;
    for (int64_t i = 0; i < bytes; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (unsigned char)(x >> 24);
    }
}

static dml_err same(const unsigned char *want, const unsigned char *got, int64_t bytes, uint32_t k)
{
    for (int64_t i = 0; i < bytes; i++)
        if (want[i] != got[i])
            DML_FAIL(DML_ERR_CHECK, "message %u: byte %lld is %d, not %d", k, (long long)i, got[i],
                     want[i]);
    return DML_ERR_OK;
}

/* ---- sizes ---- */

static const int64_t sizes[] = {0, 1, 7, 63, 64, 65, 1000, 4096, 65536, 1 << 20, 3000001};
enum { SIZES = sizeof sizes / sizeof *sizes, MAX_BYTES = 3000001 };

static dml_err exchange_sizes(rank *r)
{
    static _Thread_local unsigned char want[MAX_BYTES];
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, MAX_BYTES, &buffer));
    const int32_t me = r->config.rank, other = 1 - me;
    for (uint32_t k = 0; k < SIZES; k++)
        for (int32_t from = 0; from < 2; from++) {
            const int64_t bytes = sizes[k];
            if (from == me) {
                pattern(want, bytes, me, other, k); /* src need not be from alloc */
                DML_TRY(r->api->send(r->transport, NULL, other, want, bytes, k));
            } else {
                DML_TRY(r->api->recv(r->transport, NULL, other, buffer, bytes, k));
                pattern(want, bytes, other, me, k);
                DML_TRY(same(want, buffer, bytes, k));
            }
        }
    return DML_ERR_OK;
}

static void messages_of_all_sizes_arrive_whole(void **state)
{
    (void)state;
    run_world_ok(
        &(world_config){.transport = transport, .world = 2, .memory_bytes = MAX_BYTES + 63},
        exchange_sizes);
}

/* ---- many at once: a sending and a receiving thread per rank, all pairs, random delays ---- */

enum { MESSAGES = 60, STORM_BYTES = 5000 };

static void dawdle(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    if (*x >> 29 == 0) dml_sleep_until_ns(dml_clock_ns() + (*x >> 8) % 200000);
}

static int64_t storm_bytes(int32_t from, int32_t to, uint32_t k)
{
    return (from * 977 + to * 353 + (int64_t)k * 7919) % STORM_BYTES;
}

typedef struct sender {
    rank *r;
    dml_err err;
    char trail[TRAIL];
} sender;

static dml_err send_storm(rank *r)
{
    unsigned char out[STORM_BYTES];
    const int32_t me = r->config.rank, n = r->config.world;
    uint32_t x = (uint32_t)me;
    for (uint32_t k = 0; k < MESSAGES; k++)
        for (int32_t i = 1; i < n; i++) {
            const int32_t to = (me + i) % n;
            const int64_t bytes = storm_bytes(me, to, k);
            pattern(out, bytes, me, to, k);
            dawdle(&x);
            DML_TRY(r->api->send(r->transport, NULL, to, out, bytes, k));
        }
    return DML_ERR_OK;
}

static void *send_storm_thread(void *arg)
{
    sender *s = arg;
    s->err = send_storm(s->r);
    snprintf(s->trail, sizeof s->trail, "%s", dml_err_trail());
    return NULL;
}

static dml_err receive_storm(rank *r, void *buffer)
{
    unsigned char want[STORM_BYTES];
    const int32_t me = r->config.rank, n = r->config.world;
    uint32_t x = 77u * (uint32_t)me;
    for (uint32_t k = 0; k < MESSAGES; k++)
        for (int32_t i = 1; i < n; i++) {
            const int32_t from = (me + n - i) % n;
            const int64_t bytes = storm_bytes(from, me, k);
            dawdle(&x);
            DML_TRY(r->api->recv(r->transport, NULL, from, buffer, bytes, k));
            pattern(want, bytes, from, me, k);
            DML_TRY(same(want, buffer, bytes, k));
        }
    return DML_ERR_OK;
}

static dml_err storm(rank *r)
{
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, STORM_BYTES, &buffer));
    sender s = {.r = r};
    pthread_t thread;
    if (pthread_create(&thread, NULL, send_storm_thread, &s) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "no thread");
    const dml_err err = receive_storm(r, buffer);
    pthread_join(thread, NULL);
    DML_TRY(err);
    dml_err_trail_put(s.trail);
    return s.err;
}

static void many_messages_between_all_pairs_arrive_in_order(void **state)
{
    (void)state;
    for (int32_t n = 2; n <= 5; n++)
        run_world_ok(&(world_config){.transport = transport, .world = n, .memory_bytes = 8192},
                     storm);
}

/* ---- mistakes ---- */

static dml_err send_other_than_expected(rank *r)
{
    const int64_t *spec = r->arg; /* bytes sent, tag sent, bytes received, tag received */
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 256, &buffer));
    if (r->config.rank == 0)
        return r->api->send(r->transport, NULL, 1, buffer, spec[0], (uint32_t)spec[1]);
    return r->api->recv(r->transport, NULL, 0, buffer, spec[2], (uint32_t)spec[3]);
}

static void a_mismatch_is_named_on_both_sides(void **state)
{
    (void)state;
    static const int64_t specs[][4] = {{100, 5, 200, 5}, {100, 5, 100, 6}, {0, 1, 64, 1}};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        outcome out[2];
        run_world(
            &(world_config){
                .transport = transport, .world = 2, .memory_bytes = 256, .arg = specs[i]},
            send_other_than_expected, out);
        char want[160];
        snprintf(want, sizeof want,
                 "transfer 1 from worker 0 to worker 1: it sends %d bytes with tag %d, the receive "
                 "is for %d bytes with tag %d",
                 (int)specs[i][0], (int)specs[i][1], (int)specs[i][2], (int)specs[i][3]);
        for (int r = 0; r < 2; r++) {
            DML_CHECK_EQ(DML_ERR_BUG, out[r].err);
            if (!strstr(out[r].trail, want)) fail_msg("rank %d says: %s", r, out[r].trail);
        }
    }
}

static dml_err use_wrong_memory(rank *r)
{
    char stack[64];
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, &buffer));
    dml_err err = r->api->recv(r->transport, NULL, 1 - r->config.rank, stack, sizeof stack, 0);
    if (err != DML_ERR_BUG || !strstr(dml_err_trail(), "not in memory from the transport's alloc"))
        DML_FAIL(DML_ERR_CHECK, "a receive into the stack: %s", dml_err_trail());
    err = r->api->recv(r->transport, NULL, 1 - r->config.rank, buffer, 65, 0);
    if (err != DML_ERR_BUG) DML_FAIL(DML_ERR_CHECK, "a receive past what was allocated");
    err = r->api->recv(r->transport, NULL, r->config.rank, buffer, 64, 0);
    if (err != DML_ERR_BUG) DML_FAIL(DML_ERR_CHECK, "a receive from oneself");
    err = r->api->send(r->transport, NULL, r->config.world, buffer, 64, 0);
    if (err != DML_ERR_BUG) DML_FAIL(DML_ERR_CHECK, "a send to a worker that is not there");
    err = r->api->alloc(r->transport, 65, &buffer);
    if (err != DML_ERR_NOMEM || !strstr(dml_err_trail(), "65 bytes do not fit into the 64 left"))
        DML_FAIL(DML_ERR_CHECK, "an alloc past memory_bytes: %s", dml_err_trail());
    return DML_ERR_OK;
}

static void memory_and_peers_that_are_not_there_are_refused(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 2, .memory_bytes = 128},
                 use_wrong_memory);
}

/* ---- who may send to whom ---- */

static dml_err meet(rank *r, int32_t low, int32_t high)
{
    const dml_pair pair = {&low, &high, 1, 1};
    return r->api->meet(r->transport, &pair, 1);
}

static dml_err exchange(rank *r, int32_t from, int32_t to)
{
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, &buffer));
    if (r->config.rank == from) return r->api->send(r->transport, NULL, to, buffer, 64, 0);
    return r->config.rank == to ? r->api->recv(r->transport, NULL, from, buffer, 64, 0)
                                : DML_ERR_OK;
}

/* 0 and 1 are a pair, in either direction; 1 and 2 become one later; 0 and 2 never do. */
static dml_err keep_to_pairs(rank *r)
{
    DML_TRY(r->api->open(&r->config, NULL, &r->transport));
    DML_TRY(meet(r, 0, 1));
    DML_TRY(exchange(r, 0, 1));
    DML_TRY(exchange(r, 1, 0));
    const char *const want = "but no pair of `meet` has both";
    if (r->config.rank != 0 && (exchange(r, 1, 2) != DML_ERR_BUG || !strstr(dml_err_trail(), want)))
        DML_FAIL(DML_ERR_CHECK, "1 and 2 exchanged something: %s", dml_err_trail());
    DML_TRY(meet(r, 2, 1));
    DML_TRY(exchange(r, 1, 2));
    if (r->config.rank != 1 && (exchange(r, 2, 0) != DML_ERR_BUG || !strstr(dml_err_trail(), want)))
        DML_FAIL(DML_ERR_CHECK, "2 and 0 exchanged something: %s", dml_err_trail());
    r->api->close(r->transport);
    return DML_ERR_OK;
}

static void only_ranks_of_a_pair_exchange(void **state)
{
    (void)state;
    run_world_ok(
        &(world_config){.transport = transport, .world = 3, .memory_bytes = 512, .closed = true},
        keep_to_pairs);
}

static dml_err meet_wrong_pairs(rank *r)
{
    static const int32_t v[] = {0, 1, 1, 3, -1};
    static const struct {
        dml_pair pair;
        const char *want;
    } wrong[] = {
        {{&v[0], &v[1], 0, 1}, "pair 0 has no lower rank"},
        {{&v[0], &v[1], 1, 0}, "pair 0 has no upper rank"},
        {{&v[0], &v[0], 2, 1}, "pair 0 has rank 0 on both sides"},
        {{&v[0], &v[1], 1, 2}, "pair 0: rank 1 at place 1 of its upper side"},
        {{&v[3], &v[0], 1, 1}, "pair 0: rank 3 at place 0 of its lower side, in a world of 2"},
        {{&v[0], &v[4], 1, 1}, "pair 0: rank -1 at place 0 of its upper side"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (r->api->meet(r->transport, &wrong[i].pair, 1) != DML_ERR_BUG ||
            !strstr(dml_err_trail(), wrong[i].want))
            DML_FAIL(DML_ERR_CHECK, "pairs %zu: %s", i, dml_err_trail());
    return DML_ERR_OK;
}

static void pairs_that_cannot_be_are_our_bug(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 2}, meet_wrong_pairs);
}

/* ---- waits that end ---- */

static dml_err lonely(rank *r)
{
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, &buffer));
    if (r->config.rank == 0) return r->api->recv(r->transport, NULL, 1, buffer, 64, 0);
    if (r->config.rank == 2) return r->api->send(r->transport, NULL, 1, buffer, 64, 0);
    return DML_ERR_OK;
}

static void a_wait_ends_at_the_deadline_and_names_who_and_what(void **state)
{
    (void)state;
    outcome out[3];
    run_world(
        &(world_config){.transport = transport, .world = 3, .memory_bytes = 64, .timeout_ms = 30},
        lonely, out);
    DML_CHECK_EQ(DML_ERR_PEER, out[0].err);
    DML_CHECK(strstr(out[0].trail, "while waiting for worker 1's send 1"));
    DML_CHECK_EQ(DML_ERR_PEER, out[2].err);
    DML_CHECK(strstr(out[2].trail, "while waiting for worker 1's post of receive 1"));
    DML_CHECK_EQ(DML_ERR_OK, out[1].err);
}

static void raise_soon(const int *pid, dml_abort *abort, int64_t *board)
{
    (void)pid, (void)board;
    dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    atomic_store(&abort->raised, 1);
}

static void abort_ends_sends_and_receives(void **state)
{
    (void)state;
    outcome out[3];
    run_world(
        &(world_config){
            .transport = transport, .world = 3, .memory_bytes = 64, .meanwhile = raise_soon},
        lonely, out);
    for (int r = 0; r < 3; r += 2) {
        DML_CHECK_EQ(DML_ERR_PEER, out[r].err);
        DML_CHECK(strstr(out[r].trail, "being stopped"));
    }
}

/* ---- emulated links ---- */

enum { LINK_BYTES = 20000 };

/* Lower bounds only: a transfer begins when both are there and is never faster than its link. */
static dml_err exchange_timed(rank *r)
{
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, LINK_BYTES, &buffer));
    const int32_t me = r->config.rank;
    const int64_t busy_ns = 2 * DML_NS_PER_MS;
    for (int k = 0; k < 2; k++) {
        const int64_t begin_ns = dml_clock_ns();
        if (me == 0)
            DML_TRY(r->api->send(r->transport, NULL, 1, buffer, LINK_BYTES, 0));
        else
            DML_TRY(r->api->recv(r->transport, NULL, 0, buffer, LINK_BYTES, 0));
        const int64_t took_ns = dml_clock_ns() - begin_ns;
        if (took_ns < busy_ns + (me == 1 ? r->config.links.outer.latency_ns : 0))
            DML_FAIL(DML_ERR_CHECK, "rank %d, message %d: %lld ns", me, k, (long long)took_ns);
    }
    return DML_ERR_OK;
}

static void an_emulated_link_takes_its_time(void **state)
{
    (void)state;
    const dml_link link = {.latency_ns = 4 * DML_NS_PER_MS, .bytes_per_s = 1e7};
    run_world_ok(&(world_config){.transport = transport,
                                 .world = 2,
                                 .memory_bytes = LINK_BYTES + 64,
                                 .links = {.outer = link}},
                 exchange_timed);
}

/* Ranks 0 and 1 are one block; whoever is at a slow link needs its 5 ms. */
static dml_err exchange_across(rank *r)
{
    const bool slow_within = *(const bool *)r->arg;
    void *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, &buffer));
    for (int32_t from = 0; from < 2; from++) {
        const int64_t begin_ns = dml_clock_ns();
        if (r->config.rank == from)
            DML_TRY(r->api->send(r->transport, NULL, from + 1, buffer, 64, 0));
        if (r->config.rank != from + 1) continue;
        DML_TRY(r->api->recv(r->transport, NULL, from, buffer, 64, 0));
        const bool slow = slow_within == (from == 0);
        if (dml_clock_ns() - begin_ns < (slow ? 5 : 0) * DML_NS_PER_MS)
            DML_FAIL(DML_ERR_CHECK, "from %d: faster than its link", from);
    }
    return DML_ERR_OK;
}

static void a_transfer_takes_the_link_of_the_level_that_joins_the_two(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const bool slow_within = k;
        const dml_link slow = {.latency_ns = 5 * DML_NS_PER_MS};
        const dml_link_level block = {2, slow_within ? slow : (dml_link){0}};
        const dml_links links = {
            .outer = slow_within ? (dml_link){0} : slow, .levels = 1, .level = &block};
        run_world_ok(&(world_config){.transport = transport,
                                     .world = 3,
                                     .memory_bytes = 128,
                                     .links = links,
                                     .arg = &slow_within},
                     exchange_across);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) transport = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_of_all_sizes_arrive_whole),
        cmocka_unit_test(many_messages_between_all_pairs_arrive_in_order),
        cmocka_unit_test(a_mismatch_is_named_on_both_sides),
        cmocka_unit_test(memory_and_peers_that_are_not_there_are_refused),
        cmocka_unit_test(only_ranks_of_a_pair_exchange),
        cmocka_unit_test(pairs_that_cannot_be_are_our_bug),
        cmocka_unit_test(a_wait_ends_at_the_deadline_and_names_who_and_what),
        cmocka_unit_test(abort_ends_sends_and_receives),
        cmocka_unit_test(an_emulated_link_takes_its_time),
        cmocka_unit_test(a_transfer_takes_the_link_of_the_level_that_joins_the_two),
    };
    return cmocka_run_group_tests_name("p2p", tests, NULL, NULL);
}
