/* tests/comm/test_host.c - opening and closing: all or none, epochs, memory (argument: the transport). */
#include "tests/support/test.h"

#include "tests/comm/world.h"

#include "comm/host.h"
#include "engine/base/clock.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *transport = "local";

static dml_err open_here(rank *r)
{
    DML_TRY(r->api->open(&r->config, NULL, &r->transport));
    r->api->close(r->transport);
    return DML_ERR_OK;
}

/* ---- who is not there ---- */

static dml_err all_but_rank_1_open(rank *r)
{
    return r->config.rank == 1 ? DML_ERR_OK : open_here(r);
}

static void open_names_who_did_not_come(void **state)
{
    (void)state;
    outcome out[3];
    run_world(&(world_config){.transport = transport, .world = 3, .timeout_ms = 30, .closed = true},
              all_but_rank_1_open, out);
    for (int r = 0; r < 3; r += 2) {
        DML_CHECK_EQ(DML_ERR_PEER, out[r].err);
        DML_CHECK(strstr(out[r].trail, "while waiting for worker 1 to join epoch 0"));
    }
}

static void raise_soon(const int *pid, dml_abort *abort, int64_t *board)
{
    (void)pid, (void)board;
    dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    atomic_store(&abort->raised, 1);
}

static void abort_ends_open(void **state)
{
    (void)state;
    outcome out[2];
    run_world(
        &(world_config){
            .transport = transport, .world = 2, .closed = true, .meanwhile = raise_soon},
        all_but_rank_1_open, out);
    DML_CHECK_EQ(DML_ERR_PEER, out[0].err);
    DML_CHECK(strstr(out[0].trail, "being stopped"));
}

/* ---- epochs ---- */

static void a_stale_epoch_is_refused(void **state)
{
    (void)state;
    outcome out[3];
    run_world(&(world_config){.transport = transport,
                              .world = 3,
                              .timeout_ms = 50,
                              .epoch = {7, 6, 7},
                              .closed = true},
              open_here, out);
    DML_CHECK_EQ(DML_ERR_PEER, out[1].err);
    if (!strstr(out[1].trail, "is at epoch 7, worker 1 still at 6")) fail_msg("%s", out[1].trail);
    DML_CHECK_EQ(DML_ERR_PEER, out[0].err);
    if (!strstr(out[0].trail, "worker 1 to join epoch 7")) fail_msg("%s", out[0].trail);
}

/* A sender of another epoch meets a post: it must not write a word. */
static dml_err send_across_epochs(rank *r)
{
    unsigned char *buffer;
    DML_TRY(r->api->alloc(r->transport, 64, (void **)&buffer));
    memset(buffer, 1 + r->config.rank, 64);
    if (r->config.rank == 0) {
        r->transport->config.epoch++; /* as if this rank had missed a change of membership */
        return r->api->send(r->transport, NULL, 1, buffer, 64, 0);
    }
    const dml_err err = r->api->recv(r->transport, NULL, 0, buffer, 64, 0);
    for (int i = 0; i < 64; i++)
        if (buffer[i] != 2) DML_FAIL(DML_ERR_CHECK, "byte %d was written", i);
    return err;
}

static void a_post_of_another_epoch_is_refused(void **state)
{
    (void)state;
    outcome out[2];
    run_world(
        &(world_config){.transport = transport, .world = 2, .memory_bytes = 64, .timeout_ms = 50},
        send_across_epochs, out);
    DML_CHECK_EQ(DML_ERR_PEER, out[0].err);
    if (!strstr(out[0].trail, "refused: worker 1 posts at epoch 0, worker 0 sends at 1"))
        fail_msg("%s", out[0].trail);
    DML_CHECK_EQ(DML_ERR_PEER, out[1].err);
    DML_CHECK(strstr(out[1].trail, "worker 0's send 1"));
}

/* The same segments again and again, with other sizes, old contents and half-done operations. */
static dml_err reopen(rank *r)
{
    const int32_t me = r->config.rank, n = r->config.world;
    for (uint32_t epoch = 1; epoch <= 12; epoch++) {
        r->config.epoch = epoch;
        r->config.memory_bytes = 64 + (int64_t)(epoch * 977 % 5) * 4096;
        DML_TRY(r->api->open(&r->config, NULL, &r->transport));
        DML_TRY(meet_everyone(r->api, r->transport, n));
        unsigned char *buffer;
        DML_TRY(r->api->alloc(r->transport, 64, (void **)&buffer));
        for (int i = 0; i < 64; i++)
            if (buffer[i] != 0) DML_FAIL(DML_ERR_CHECK, "epoch %u: memory is not zeroed", epoch);
        memset(buffer, 0xee, 64);
        const int32_t to = (me + 1) % n, from = (me + n - 1) % n;
        if (me % 2 == 0) DML_TRY(r->api->send(r->transport, NULL, to, buffer, 64, epoch));
        DML_TRY(r->api->recv(r->transport, NULL, from, buffer, 64, epoch));
        if (me % 2 == 1) DML_TRY(r->api->send(r->transport, NULL, to, buffer, 64, epoch));
        if (epoch % 3 == 0) { /* leave a post behind that nobody answers */
            r->transport->config.timeout_ns = DML_NS_PER_MS;
            if (r->api->recv(r->transport, NULL, from, buffer, 64, 1) != DML_ERR_PEER)
                DML_FAIL(DML_ERR_CHECK, "a receive without a send ended");
        }
        r->api->close(r->transport);
    }
    return DML_ERR_OK;
}

static void segments_serve_one_epoch_after_another(void **state)
{
    (void)state;
    for (int32_t n = 2; n <= 4; n += 2)
        run_world_ok(&(world_config){.transport = transport, .world = n, .closed = true}, reopen);
}

/* ---- memory ---- */

static dml_err use_memory(rank *r)
{
    void *last = NULL;
    for (int i = 0; i < 10; i++) {
        void *buffer;
        DML_TRY(r->api->alloc(r->transport, 1 + i, &buffer));
        if ((uintptr_t)buffer % 64 != 0) DML_FAIL(DML_ERR_CHECK, "not aligned");
        if (last && (char *)buffer - (char *)last != 64) DML_FAIL(DML_ERR_CHECK, "holes");
        last = buffer;
    }
    return DML_ERR_OK;
}

static void memory_is_aligned_and_dense(void **state)
{
    (void)state;
    run_world_ok(&(world_config){.transport = transport, .world = 2, .memory_bytes = 640},
                 use_memory);
}

static dml_err reserve_much(rank *r)
{
    char *buffer;
    DML_TRY(r->api->alloc(r->transport, INT64_C(1) << 36, (void **)&buffer));
    buffer[(INT64_C(1) << 36) - 1] = 1;
    return DML_ERR_OK;
}

/* 64 GiB on each of 4 ranks: more than the machine has. */
static void memory_that_nobody_touches_costs_nothing(void **state)
{
    (void)state;
    run_world_ok(
        &(world_config){.transport = transport, .world = 4, .memory_bytes = INT64_C(1) << 36},
        reserve_much);
}

/* ---- after close nothing is left ---- */

static int count_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int count_maps(const char *needle)
{
    char line[512];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, f))
        n += strstr(line, needle) != NULL;
    fclose(f);
    return n;
}

static dml_err open_and_look(rank *r)
{
    const int fds = count_fds(), maps = count_maps("memfd:dml-test");
    DML_TRY(r->api->open(&r->config, NULL, &r->transport));
    if (count_fds() != fds) DML_FAIL(DML_ERR_CHECK, "open keeps descriptors");
    r->api->close(r->transport);
    if (count_maps("memfd:dml-test") != maps) DML_FAIL(DML_ERR_CHECK, "close leaves mappings");
    return DML_ERR_OK;
}

static void close_leaves_no_descriptor_and_no_mapping(void **state)
{
    (void)state;
    if (strcmp(transport, "shm") != 0) return; /* threads share one table of descriptors */
    run_world_ok(
        &(world_config){.transport = transport, .world = 3, .memory_bytes = 100, .closed = true},
        open_and_look);
}

static void a_config_that_cannot_be_is_our_bug(void **state)
{
    (void)state;
    const dml_transport_api *api;
    DML_CHECK_OK(dml_transport_find(transport, &api));
    dml_transport *t;
    DML_CHECK_FAILS(DML_ERR_BUG, "a memfd per rank",
                    dml_shm_transport.open(&(dml_transport_config){.world = 1}, NULL, &t));
    DML_CHECK_FAILS(DML_ERR_BUG, "a hub of 2 ranks",
                    dml_local_transport.open(&(dml_transport_config){.world = 2}, NULL, &t));
    dml_local_hub *hub;
    DML_CHECK_FAILS(DML_ERR_BUG, "a hub for 0", dml_local_hub_new(0, &hub));
    DML_CHECK_OK(dml_local_hub_new(2, &hub));
    DML_CHECK_FAILS(DML_ERR_BUG, "rank 2 of 2",
                    dml_local_transport.open(
                        &(dml_transport_config){.rank = 2, .world = 2, .hub = hub}, NULL, &t));
    dml_local_hub_free(hub);
    dml_local_hub_free(NULL);
    api->close(NULL);
}

int main(int argc, char **argv)
{
    if (argc > 1) transport = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_names_who_did_not_come),
        cmocka_unit_test(abort_ends_open),
        cmocka_unit_test(a_stale_epoch_is_refused),
        cmocka_unit_test(a_post_of_another_epoch_is_refused),
        cmocka_unit_test(segments_serve_one_epoch_after_another),
        cmocka_unit_test(memory_is_aligned_and_dense),
        cmocka_unit_test(memory_that_nobody_touches_costs_nothing),
        cmocka_unit_test(close_leaves_no_descriptor_and_no_mapping),
        cmocka_unit_test(a_config_that_cannot_be_is_our_bug),
    };
    return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
