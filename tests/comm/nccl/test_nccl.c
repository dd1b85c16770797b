/* tests/comm/nccl/test_nccl.c - the NCCL transport among threads: transfers, groups, waits that end. */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/half.h"

enum { RANKS = 3 };

static const dml_transport_api *const api = &dml_nccl_transport;

/* Emulated device memory may be read by the host once the queues are idle. */
static dml_err pass_round(gpu_rank *r)
{
    enum { N = 500, TURNS = 3 };
    const int32_t next = (r->rank + 1) % RANKS, before = (r->rank + RANKS - 1) % RANKS;
    int32_t *out, *in;
    DML_TRY(gpu_meet_ring(r));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&out));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&in));
    for (int32_t turn = 0; turn < TURNS; turn++) {
        for (int32_t i = 0; i < N; i++)
            out[i] = 1000 * r->rank + i + turn;
        DML_TRY(api->send(r->transport, r->send, next, out, N * 4, 1));
        DML_TRY(api->recv(r->transport, r->recv, before, in, N * 4, 1));
        DML_TRY(gpu_settle(r));
        for (int32_t i = 0; i < N; i++)
            GPU_EXPECT(in[i] == 1000 * before + i + turn);
    }
    return DML_ERR_OK;
}

static void tensors_go_round_a_ring(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++)
        gpu_run_ok(&(gpu_world){.world = RANKS, .seed = seed}, pass_round);
}

static dml_err reduce_in(gpu_rank *r, dml_group *g, int32_t n, int32_t member)
{
    enum { N = 6 }; /* divisible by every group size */
    float *f;
    int64_t *sum;
    uint32_t *max;
    int32_t *part, *parts;
    uint16_t *bf16, *f16;
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&f));
    DML_TRY(api->alloc(r->transport, N * 8, (void **)&sum));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&max));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&part));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&parts));
    DML_TRY(api->alloc(r->transport, N * 2, (void **)&bf16));
    DML_TRY(api->alloc(r->transport, N * 2, (void **)&f16));
    for (int32_t i = 0; i < N; i++) {
        f[i] = (float)(member + i);
        sum[i] = (INT64_C(1) << 40) + member;
        max[i] = 0x80000000u + (uint32_t)member;
        part[i] = member * N + i;
        bf16[i] = dml_bf16_of_float((float)(member + i));
        f16[i] = dml_f16_of_float((float)(member + i));
    }
    DML_TRY(api->all_reduce(g, r->send, f, N, DML_F32, DML_SUM));
    DML_TRY(api->reduce_scatter(g, r->send, sum, N / n, DML_I64, DML_SUM));
    DML_TRY(api->all_reduce(g, r->send, max, N, DML_U32, DML_MAX));
    DML_TRY(api->all_gather(g, r->send, parts, part, N / n * 4));
    DML_TRY(api->all_reduce(g, r->send, bf16, N, DML_BF16, DML_SUM));
    DML_TRY(api->all_reduce(g, r->send, f16, N, DML_F16, DML_SUM));
    DML_TRY(gpu_settle(r));
    const int32_t ranks_sum = n * (n - 1) / 2;
    for (int32_t i = 0; i < N; i++) {
        GPU_EXPECT(f[i] == (float)(n * i + ranks_sum));
        GPU_EXPECT(max[i] == 0x80000000u + (uint32_t)(n - 1));
        GPU_EXPECT(parts[i] == i / (N / n) * N + i % (N / n));
        GPU_EXPECT(dml_bf16_to_float(bf16[i]) == f[i]);
        GPU_EXPECT(dml_f16_to_float(f16[i]) == f[i]);
    }
    for (int32_t i = 0; i < N / n; i++)
        GPU_EXPECT(sum[member * (N / n) + i] == (int64_t)n * (INT64_C(1) << 40) + ranks_sum);
    return DML_ERR_OK;
}

static dml_err reduce_in_groups(gpu_rank *r)
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
    for (uint64_t seed = 0; seed < 3; seed++)
        gpu_run_ok(&(gpu_world){.world = RANKS, .seed = seed}, reduce_in_groups);
}

/* ---- waits that end ---- */

static dml_err nothing(gpu_rank *r)
{
    (void)r;
    return DML_ERR_OK;
}

static void opening_ends_when_a_rank_does_not_come(void **state)
{
    (void)state;
    gpu_rank ranks[RANKS];
    gpu_run(&(gpu_world){.world = RANKS, .present = 2, .timeout_ms = 50}, nothing, ranks);
    for (int i = 0; i < 2; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "worker 2 to open epoch 0"));
    }
}

static void opening_ends_at_the_abort_flag(void **state)
{
    (void)state;
    gpu_rank ranks[RANKS];
    const dml_abort abort = {.raised = 1};
    gpu_run(&(gpu_world){.world = RANKS, .present = 2, .abort = &abort}, nothing, ranks);
    for (int i = 0; i < 2; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "being stopped"));
    }
}

static void a_rank_of_another_epoch_is_refused(void **state)
{
    (void)state;
    gpu_rank ranks[RANKS];
    gpu_run(&(gpu_world){.world = RANKS, .epoch = {7, 6, 7}, .timeout_ms = 100}, nothing, ranks);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[1].err);
    if (!strstr(ranks[1].trail, "refused: worker 0 is at epoch 7, worker 1 still at 6"))
        fail_msg("%s", ranks[1].trail);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[0].err);
    DML_CHECK(strstr(ranks[0].trail, "worker 1 to open epoch 7"));
}

/* Rank 2 sends nothing.  Who notices raises the abort flag, and then closing waits for nobody. */
static dml_err wait_in_vain(gpu_rank *r)
{
    DML_TRY(gpu_meet_ring(r));
    if (r->rank == 2) return DML_ERR_OK;
    void *in;
    DML_TRY(api->alloc(r->transport, 64, &in));
    DML_TRY(api->recv(r->transport, r->recv, 2, in, 64, 0));
    return gpu_wait(r->recv, 20);
}

static void a_receive_without_its_send_ends_at_the_deadline_and_closes_at_once(void **state)
{
    (void)state;
    gpu_rank ranks[RANKS];
    dml_abort stop = {0};
    gpu_run(&(gpu_world){.world = RANKS, .timeout_ms = 1000000, .abort = &stop, .stop = &stop},
            wait_in_vain, ranks); /* else CTest ends it */
    for (int i = 0; i < 2; i++) {
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "queue 'recv'"));
        DML_CHECK_EQ(DML_ERR_OK, ranks[i].closed);
    }
    DML_CHECK_EQ(DML_ERR_OK, ranks[2].err);
}

/* ---- one rank, and what cannot be ---- */

static dml_err be_alone(gpu_rank *r)
{
    void *a, *b;
    DML_TRY(api->meet(r->transport, NULL, 0));
    DML_CHECK_OK(api->alloc(r->transport, GPU_BYTES - 256, &a));
    DML_CHECK_FAILS(DML_ERR_NOMEM, "257 bytes do not fit: 65280 of 65536 are taken",
                    api->alloc(r->transport, 257, &b));
    DML_CHECK_OK(api->alloc(r->transport, 256, &b));
    const int32_t self = 0, other = 1;
    dml_group *g = NULL;
    DML_CHECK_FAILS(DML_ERR_BUG, "worker 0 is not in group 7",
                    api->group_open(r->transport, &other, 1, 7, &g));
    DML_CHECK_OK(api->group_open(r->transport, &self, 1, 7, &g));
    memset(a, 3, 64);
    DML_CHECK_OK(api->all_reduce(g, r->send, a, 16, DML_F32, DML_SUM));
    DML_CHECK_OK(api->reduce_scatter(g, r->send, a, 16, DML_F32, DML_SUM));
    DML_CHECK_OK(api->all_gather(g, r->send, b, a, 64));
    DML_CHECK_OK(api->all_gather(g, r->send, b, b, 64));
    DML_CHECK_OK(gpu_settle(r));
    assert_memory_equal(a, b, 64);
    DML_CHECK_FAILS(DML_ERR_BUG, "no reduction of element type U8",
                    api->all_reduce(g, r->send, a, 1, DML_U8, DML_SUM));
    DML_CHECK_FAILS(DML_ERR_BUG, "worker 0 of 1 exchanges 64 bytes with worker 1",
                    api->send(r->transport, r->send, 1, a, 64, 0));
    api->group_close(g);
    api->group_close(NULL);
    return DML_ERR_OK;
}

static void one_rank_needs_nobody(void **state)
{
    (void)state;
    gpu_run_ok(&(gpu_world){.world = 1}, be_alone);
    DML_CHECK_OK(api->close(NULL));
}

static void a_config_that_cannot_be_is_our_bug(void **state)
{
    (void)state;
    dml_device *device;
    dml_transport *t;
    DML_CHECK_OK(dml_cuda_device.open(&(dml_device_config){.threads = 1}, &device));
    DML_CHECK_FAILS(DML_ERR_BUG, "rank 2 of 2",
                    api->open(&(dml_transport_config){.rank = 2, .world = 2}, device, &t));
    DML_CHECK_FAILS(DML_ERR_BUG, "a memfd per rank",
                    api->open(&(dml_transport_config){.world = 2}, device, &t));
    DML_CHECK_FAILS(
        DML_ERR_UNAVAILABLE, "descriptor -1 is no memory file",
        api->open(&(dml_transport_config){.world = 2, .fds = (int[]){-1, -1}}, device, &t));
    dml_cuda_device.close(device);
}

/* ---- absent ranks ---- */

static dml_err work_without_the_absent(gpu_rank *r)
{
    static const int32_t some[] = {0, 2, 3}, all[] = {0, 1, 2, 3}, low[] = {0}, gone[] = {1},
                         high[] = {2, 3};
    dml_group *g = NULL;
    int32_t *word;
    const dml_pair pairs[] = {{low, high, 1, 2}}, bad = {low, gone, 1, 1};
    DML_TRY(api->meet(r->transport, pairs, 1));
    DML_TRY(api->group_open(r->transport, some, 3, 0, &g));
    DML_TRY(api->alloc(r->transport, 64, (void **)&word));
    *word = r->rank;
    DML_TRY(api->all_reduce(g, r->send, word, 1, DML_I32, DML_SUM));
    DML_TRY(gpu_settle(r));
    GPU_EXPECT(*word == 5);
    if (r->rank == 0) {
        DML_TRY(api->send(r->transport, r->send, 3, word, 4, 0));
    } else if (r->rank == 3) {
        *word = 0;
        DML_TRY(api->recv(r->transport, r->recv, 0, word, 4, 0));
    }
    DML_TRY(gpu_settle(r));
    GPU_EXPECT(*word == 5);
    api->group_close(g);
    GPU_EXPECT(api->meet(r->transport, &bad, 1) == DML_ERR_BUG);
    GPU_EXPECT(strstr(dml_err_trail(), "worker 1 is in a pair, but absent at epoch 6"));
    dml_err_trail_put("");
    GPU_EXPECT(api->group_open(r->transport, all, 4, 1, &g) == DML_ERR_BUG);
    GPU_EXPECT(strstr(dml_err_trail(), "worker 1 of group 1 is absent"));
    return DML_ERR_OK;
}

static void who_is_absent_is_met_by_nobody(void **state)
{
    (void)state;
    static const bool absent[4] = {[1] = true};
    gpu_rank ranks[GPU_RANKS];
    gpu_run(&(gpu_world){.world = 4, .absent = absent, .epoch = {6, 6, 6, 6}, .seed = 3},
            work_without_the_absent, ranks);
    for (int32_t r = 0; r < 4; r++) {
        if (absent[r]) continue;
        if (ranks[r].err != DML_ERR_OK || ranks[r].closed != DML_ERR_OK)
            fail_msg("rank %d: %s%s", r, ranks[r].trail, ranks[r].closing);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_go_round_a_ring),
        cmocka_unit_test(groups_reduce_gather_and_scatter),
        cmocka_unit_test(opening_ends_when_a_rank_does_not_come),
        cmocka_unit_test(opening_ends_at_the_abort_flag),
        cmocka_unit_test(a_rank_of_another_epoch_is_refused),
        cmocka_unit_test(a_receive_without_its_send_ends_at_the_deadline_and_closes_at_once),
        cmocka_unit_test(one_rank_needs_nobody),
        cmocka_unit_test(a_config_that_cannot_be_is_our_bug),
        cmocka_unit_test(who_is_absent_is_met_by_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
