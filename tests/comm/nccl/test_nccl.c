/* tests/comm/nccl/test_nccl.c - the NCCL transport among threads, on emulated GPUs and an emulated NCCL. */
#include "tests/support/test.h"

#include "comm/nccl/nccl.h"
#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANKS = 3, BYTES = 1 << 16, PATIENCE_MS = 20000 };

static const dml_transport_api *const api = &dml_nccl_transport;

/* One rank: a thread with a device, a queue and the transport. */
typedef struct rank {
    int32_t rank, world;
    int *fds;
    const dml_abort *abort;
    int64_t timeout_ns;
    dml_err (*body)(struct rank *);
    dml_device *device;
    dml_queue *queue;
    dml_transport *transport;
    dml_err err;
    char trail[512];
} rank;

static dml_err open_rank(rank *r)
{
    const dml_device_config device = {.threads = 1, .queue_capacity = 8, .abort = r->abort};
    const dml_transport_config config = {.rank = r->rank,
                                         .world = r->world,
                                         .epoch = 4,
                                         .memory_bytes = BYTES,
                                         .timeout_ns = r->timeout_ns,
                                         .abort = r->abort,
                                         .fds = r->fds};
    DML_TRY(dml_cuda_device.open(&device, &r->device));
    DML_TRY(dml_cuda_device.queue_open(r->device, "comm", &r->queue));
    return api->open(&config, r->device, &r->transport);
}

static void *run_rank(void *arg)
{
    rank *r = arg;
    r->err = open_rank(r);
    if (r->err == DML_ERR_OK) r->err = r->body(r);
    snprintf(r->trail, sizeof r->trail, "%s", dml_err_trail());
    api->close(r->transport);
    dml_cuda_device.queue_close(r->queue);
    dml_cuda_device.close(r->device);
    return NULL;
}

/* Runs `body` on the first `present` of RANKS ranks, each in its thread. */
static void run(rank ranks[RANKS], int32_t present, int64_t timeout_ms, const dml_abort *abort,
                dml_err (*body)(rank *))
{
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    int fds[RANKS];
    pthread_t threads[RANKS];
    for (int i = 0; i < RANKS; i++)
        fds[i] = memfd_create("rank", MFD_CLOEXEC);
    for (int32_t i = 0; i < present; i++) {
        ranks[i] = (rank){.rank = i,
                          .world = RANKS,
                          .fds = fds,
                          .abort = abort,
                          .timeout_ns = timeout_ms * DML_NS_PER_MS,
                          .body = body};
        assert_int_equal(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < present; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < RANKS; i++)
        close(fds[i]);
}

static void run_all(dml_err (*body)(rank *))
{
    rank ranks[RANKS];
    run(ranks, RANKS, PATIENCE_MS, NULL, body);
    for (int i = 0; i < RANKS; i++)
        if (ranks[i].err != DML_ERR_OK) fail_msg("rank %d: %s", i, ranks[i].trail);
}

static dml_err settle(rank *r)
{
    return dml_cuda_device.sync(r->queue, dml_clock_ns() + PATIENCE_MS * DML_NS_PER_MS);
}

#define EXPECT(cond)                                                                       \
    do {                                                                                   \
        if (!(cond)) DML_FAIL(DML_ERR_CHECK, "rank %d: %s does not hold", r->rank, #cond); \
    } while (0)

/* Emulated device memory can be read from here. */
static dml_err pass_round(rank *r)
{
    enum { N = 500, TURNS = 3 };
    const int32_t next = (r->rank + 1) % RANKS, before = (r->rank + RANKS - 1) % RANKS;
    int32_t *out, *in;
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&out));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&in));
    for (int32_t turn = 0; turn < TURNS; turn++) {
        for (int32_t i = 0; i < N; i++)
            out[i] = 1000 * r->rank + i + turn;
        if (r->rank == 0) DML_TRY(api->send(r->transport, r->queue, next, out, N * 4, 1));
        DML_TRY(api->recv(r->transport, r->queue, before, in, N * 4, 1));
        if (r->rank != 0) DML_TRY(api->send(r->transport, r->queue, next, out, N * 4, 1));
        DML_TRY(settle(r));
        for (int32_t i = 0; i < N; i++)
            EXPECT(in[i] == 1000 * before + i + turn);
    }
    return DML_ERR_OK;
}

static void tensors_go_round_a_ring(void **state)
{
    (void)state;
    run_all(pass_round);
}

static dml_err reduce_in(rank *r, dml_group *g, int32_t n, int32_t member)
{
    enum { N = 6 }; /* divisible by every group size */
    float *f;
    int64_t *sum;
    uint32_t *max;
    int32_t *part, *parts;
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&f));
    DML_TRY(api->alloc(r->transport, N * 8, (void **)&sum));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&max));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&part));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&parts));
    for (int32_t i = 0; i < N; i++) {
        f[i] = (float)(member + i);
        sum[i] = (INT64_C(1) << 40) + member;
        max[i] = 0x80000000u + (uint32_t)member;
        part[i] = member * N + i;
    }
    DML_TRY(api->all_reduce(g, r->queue, f, N, DML_F32, DML_SUM));
    DML_TRY(api->reduce_scatter(g, r->queue, sum, N / n, DML_I64, DML_SUM));
    DML_TRY(api->all_reduce(g, r->queue, max, N, DML_U32, DML_MAX));
    DML_TRY(api->all_gather(g, r->queue, parts, part, N / n * 4));
    DML_TRY(settle(r));
    const int32_t ranks_sum = n * (n - 1) / 2;
    for (int32_t i = 0; i < N; i++) {
        EXPECT(f[i] == (float)(n * i + ranks_sum));
        EXPECT(max[i] == 0x80000000u + (uint32_t)(n - 1));
        EXPECT(parts[i] == i / (N / n) * N + i % (N / n));
    }
    for (int32_t i = 0; i < N / n; i++)
        EXPECT(sum[member * (N / n) + i] == (int64_t)n * (INT64_C(1) << 40) + ranks_sum);
    return DML_ERR_OK;
}

static dml_err reduce_in_groups(rank *r)
{
    static const int32_t members[][RANKS] = {{0, 1, 2}, {0, 2}, {1, 2}, {0, 1, 2}};
    static const int32_t sizes[] = {3, 2, 2, 3};
    for (uint32_t id = 0; id < 4; id++)
        for (int32_t m = 0; m < sizes[id]; m++)
            if (members[id][m] == r->rank) {
                dml_group *g = NULL;
                DML_TRY(api->group_open(r->transport, members[id], sizes[id], id % 3, &g));
                const dml_err err = reduce_in(r, g, sizes[id], m);
                api->group_close(g);
                DML_TRY(err);
            }
    return DML_ERR_OK;
}

static void groups_reduce_gather_and_scatter(void **state)
{
    (void)state;
    run_all(reduce_in_groups);
}

static dml_err mismatched_sum(rank *r)
{
    static const int32_t all[] = {0, 1, 2};
    dml_group *g = NULL;
    float *f;
    DML_TRY(api->alloc(r->transport, 64, (void **)&f));
    DML_TRY(api->group_open(r->transport, all, RANKS, 0, &g));
    dml_err err = api->all_reduce(g, r->queue, f, 4 + r->rank, DML_F32, DML_SUM);
    if (err == DML_ERR_OK) err = settle(r);
    if (err == DML_ERR_OK) err = api->all_reduce(g, r->queue, f, 4, DML_F32, DML_SUM);
    api->group_close(g);
    return err;
}

static void what_nccl_finds_wrong_is_told_with_its_words(void **state)
{
    (void)state;
    rank ranks[RANKS];
    run(ranks, RANKS, PATIENCE_MS, NULL, mismatched_sum);
    for (int i = 0; i < RANKS; i++) {
        DML_CHECK_EQ(DML_ERR_BUG, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "ncclAllReduce: invalid usage"));
    }
}

static dml_err nothing(rank *r)
{
    (void)r;
    return DML_ERR_OK;
}

static void opening_ends_when_a_rank_does_not_come(void **state)
{
    (void)state;
    rank ranks[RANKS];
    run(ranks, RANKS - 1, 50, NULL, nothing);
    for (int i = 0; i < RANKS - 1; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "not all peers came in time"));
    }
}

static void opening_ends_at_the_abort_flag(void **state)
{
    (void)state;
    rank ranks[RANKS];
    dml_abort abort = {.raised = 1};
    run(ranks, RANKS - 1, PATIENCE_MS, &abort, nothing);
    for (int i = 0; i < RANKS - 1; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "being stopped"));
    }
}

/* Rank 2 sends nothing.  Who notices raises the abort flag, and then closing waits for nobody. */
static dml_abort stop;

static dml_err wait_in_vain(rank *r)
{
    if (r->rank == 2) return DML_ERR_OK;
    void *in;
    DML_TRY(api->alloc(r->transport, 64, &in));
    DML_TRY(api->recv(r->transport, r->queue, 2, in, 64, 0));
    const dml_err err = dml_cuda_device.sync(r->queue, dml_clock_ns() + 20 * DML_NS_PER_MS);
    atomic_store(&stop.raised, 1);
    return err;
}

static void a_receive_without_its_send_ends_at_the_deadline_and_closes_at_once(void **state)
{
    (void)state;
    rank ranks[RANKS];
    run(ranks, RANKS, INT64_C(1000) * PATIENCE_MS, &stop, wait_in_vain); /* else CTest ends it */
    for (int i = 0; i < 2; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "queue 'comm'"));
    }
    DML_CHECK_EQ(DML_ERR_OK, ranks[2].err);
}

static void one_rank_needs_nobody(void **state)
{
    (void)state;
    rank one = {.world = 1, .timeout_ns = DML_NS_PER_MS};
    DML_CHECK_OK(open_rank(&one));
    void *a, *b;
    DML_CHECK_OK(api->alloc(one.transport, BYTES - 256, &a));
    DML_CHECK_FAILS(DML_ERR_NOMEM, "257 bytes do not fit: 65280 of 65536 are taken",
                    api->alloc(one.transport, 257, &b));
    DML_CHECK_OK(api->alloc(one.transport, 256, &b));
    const int32_t self = 0, other = 1;
    dml_group *g = NULL;
    DML_CHECK_FAILS(DML_ERR_BUG, "worker 0 is not in group 7",
                    api->group_open(one.transport, &other, 1, 7, &g));
    DML_CHECK_OK(api->group_open(one.transport, &self, 1, 7, &g));
    memset(a, 3, 64);
    DML_CHECK_OK(api->all_reduce(g, one.queue, a, 16, DML_F32, DML_SUM));
    DML_CHECK_OK(api->all_gather(g, one.queue, b, a, 64));
    DML_CHECK_OK(settle(&one));
    assert_memory_equal(a, b, 64);
    DML_CHECK_FAILS(DML_ERR_BUG, "element type",
                    api->all_reduce(g, one.queue, a, 1, DML_U8, DML_SUM));
    api->group_close(g);
    api->close(one.transport);
    dml_cuda_device.queue_close(one.queue);
    dml_cuda_device.close(one.device);
    DML_CHECK_EQ(0, dml_emu_faults());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_go_round_a_ring),
        cmocka_unit_test(groups_reduce_gather_and_scatter),
        cmocka_unit_test(what_nccl_finds_wrong_is_told_with_its_words),
        cmocka_unit_test(opening_ends_when_a_rank_does_not_come),
        cmocka_unit_test(opening_ends_at_the_abort_flag),
        cmocka_unit_test(a_receive_without_its_send_ends_at_the_deadline_and_closes_at_once),
        cmocka_unit_test(one_rank_needs_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
