/* tests/comm/nccl/test_meet.c - pairs of neighbours: who uses which communicator, and what meeting refuses. */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include "comm/nccl/clique.h"
#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"

static const dml_transport_api *const api = &dml_nccl_transport;

/* ---- between the transport and NCCL: what it asks for ---- */

static _Atomic int32_t few_blocks,
    free_blocks;                   /* communicators asked for with 8, with NCCL's choice */
static _Atomic size_t most_floats; /* summed at once */

ncclResult_t __real_ncclCommInitRankConfig(ncclComm_t *comm, int n, ncclUniqueId id, int rank,
                                           ncclConfig_t *config);
ncclResult_t __wrap_ncclCommInitRankConfig(ncclComm_t *comm, int n, ncclUniqueId id, int rank,
                                           ncclConfig_t *config);
ncclResult_t __wrap_ncclCommInitRankConfig(ncclComm_t *comm, int n, ncclUniqueId id, int rank,
                                           ncclConfig_t *config)
{
    if (config->maxCTAs == 8) few_blocks++;
    if (config->maxCTAs == NCCL_CONFIG_UNDEF_INT) free_blocks++;
    return __real_ncclCommInitRankConfig(comm, n, id, rank, config);
}

ncclResult_t __real_ncclAllReduce(const void *src, void *dst, size_t n, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t __wrap_ncclAllReduce(const void *src, void *dst, size_t n, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t __wrap_ncclAllReduce(const void *src, void *dst, size_t n, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    if (type == ncclFloat && n > most_floats) most_floats = n;
    return __real_ncclAllReduce(src, dst, n, type, op, comm, stream);
}

static int32_t cliques(const dml_transport *t)
{
    int32_t n = 0;
    for (const dml_clique *c = t->cliques; c; c = c->next)
        n++;
    return n;
}

/* ---- a pipeline of three stages with two replicas, everything under way at once ---- */

enum { STAGES = 3, REPLICAS = 2, WORKERS = STAGES * REPLICAS, TRANSFERS = 40, ELEMS = 64 };

static int32_t value(int32_t from, int32_t to, int32_t k)
{
    return from * 10000 + to * 1000 + k;
}

/* The k-th transfer of the one list that all ranks follow. */
static void transfer(int32_t k, int32_t *from, int32_t *to)
{
    const int32_t stage = k % (STAGES - 1), a = k / 2 % REPLICAS, b = k / 3 % REPLICAS;
    *from = stage * REPLICAS + a;
    *to = (stage + 1) * REPLICAS + b;
    if (k / 4 % 2) {
        const int32_t swap = *from;
        *from = *to;
        *to = swap;
    }
}

static dml_err meet_stages(gpu_rank *r)
{
    static const int32_t v[WORKERS] = {0, 1, 2, 3, 4, 5};
    const dml_pair pairs[] = {{&v[0], &v[2], REPLICAS, REPLICAS},
                              {&v[2], &v[4], REPLICAS, REPLICAS},
                              {&v[2], &v[0], REPLICAS, REPLICAS}}; /* as the first, reversed */
    return api->meet(r->transport, pairs, 3);
}

static dml_err run_pipeline(gpu_rank *r)
{
    int32_t *out, *in;
    DML_TRY(meet_stages(r));
    const int32_t stage = r->rank / REPLICAS;
    GPU_EXPECT(cliques(r->transport) == (stage == 1 ? 4 : 2)); /* nothing for the reversed one */
    DML_TRY(api->alloc(r->transport, TRANSFERS * ELEMS * 4, (void **)&out));
    DML_TRY(api->alloc(r->transport, TRANSFERS * ELEMS * 4, (void **)&in));
    for (int32_t k = 0; k < TRANSFERS; k++) {
        int32_t from, to;
        transfer(k, &from, &to);
        for (int32_t i = 0; i < ELEMS; i++)
            out[k * ELEMS + i] = value(from, to, k);
        if (from == r->rank)
            DML_TRY(api->send(r->transport, r->send, to, &out[k * ELEMS], ELEMS * 4, 0));
        if (to == r->rank)
            DML_TRY(api->recv(r->transport, r->recv, from, &in[k * ELEMS], ELEMS * 4, 0));
    }
    DML_TRY(gpu_settle(r));
    for (int32_t k = 0; k < TRANSFERS; k++) {
        int32_t from, to;
        transfer(k, &from, &to);
        for (int32_t i = 0; i < ELEMS && to == r->rank; i++)
            GPU_EXPECT(in[k * ELEMS + i] == value(from, to, k));
    }
    return DML_ERR_OK;
}

static void neighbours_exchange_both_ways_at_once(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++)
        gpu_run_ok(&(gpu_world){.world = WORKERS, .seed = seed}, run_pipeline);
}

/* ---- who may send to whom ---- */

static dml_err stray(gpu_rank *r)
{
    void *buffer;
    DML_TRY(meet_stages(r));
    DML_TRY(api->alloc(r->transport, 64, &buffer));
    const int32_t far = WORKERS - 1 - r->rank, beside = r->rank ^ 1; /* of stages 0 and 2 */
    if (r->rank / REPLICAS != 1)
        GPU_EXPECT(api->send(r->transport, r->send, far, buffer, 64, 0) == DML_ERR_BUG &&
                   strstr(dml_err_trail(), "but no pair of `meet` has both"));
    GPU_EXPECT(api->recv(r->transport, r->recv, beside, buffer, 64, 0) == DML_ERR_BUG);
    GPU_EXPECT(api->recv(r->transport, r->recv, r->rank, buffer, 64, 0) == DML_ERR_BUG);
    GPU_EXPECT(api->send(r->transport, r->send, WORKERS, buffer, 64, 0) == DML_ERR_BUG);
    const dml_pair both = {&r->rank, &r->rank, 1, 1};
    GPU_EXPECT(api->meet(r->transport, &both, 1) == DML_ERR_BUG);
    return DML_ERR_OK;
}

static void only_ranks_of_a_pair_exchange(void **state)
{
    (void)state;
    gpu_run_ok(&(gpu_world){.world = WORKERS}, stray);
}

/* New neighbours later: 0 and 2, who were none. */
static dml_err meet_again(gpu_rank *r)
{
    static const int32_t v[] = {0, 1, 2};
    const dml_pair first = {&v[0], &v[1], 1, 1},
                   later[] = {{&v[1], &v[2], 1, 1}, {&v[0], &v[2], 1, 1}};
    int32_t *word;
    DML_TRY(api->meet(r->transport, &first, 1));
    DML_TRY(api->meet(r->transport, later, 2));
    DML_TRY(api->alloc(r->transport, 64, (void **)&word));
    *word = 5 + r->rank;
    if (r->rank == 0) DML_TRY(api->send(r->transport, r->send, 2, word, 4, 0));
    if (r->rank == 2) DML_TRY(api->recv(r->transport, r->recv, 0, word, 4, 0));
    DML_TRY(gpu_settle(r));
    GPU_EXPECT(*word == (r->rank == 2 ? 5 : 5 + r->rank));
    return DML_ERR_OK;
}

static void a_second_meeting_adds_pairs(void **state)
{
    (void)state;
    gpu_run_ok(&(gpu_world){.world = 3}, meet_again);
}

/* ---- what a meeting takes of the GPU ---- */

static dml_err meet_and_group(gpu_rank *r)
{
    static const int32_t both[] = {0, 1};
    dml_group *g = NULL;
    DML_TRY(gpu_meet_ring(r));
    DML_TRY(api->group_open(r->transport, both, 2, 0, &g));
    api->group_close(g);
    return DML_ERR_OK;
}

static void pairs_take_few_thread_blocks_and_groups_what_nccl_chooses(void **state)
{
    (void)state;
    few_blocks = free_blocks = 0;
    gpu_run_ok(&(gpu_world){.world = 2}, meet_and_group);
    DML_CHECK_EQ(4, few_blocks); /* up and down, of two ranks */
    DML_CHECK_EQ(2, free_blocks);
}

enum { TAKEN = 4096 }; /* by rank 1 before the group opens */

static dml_err open_with_less(gpu_rank *r)
{
    static const int32_t both[] = {0, 1};
    dml_group *g = NULL;
    char *rest;
    if (r->rank == 1) DML_TRY(api->alloc(r->transport, TAKEN, (void **)&rest));
    DML_TRY(api->group_open(r->transport, both, 2, 0, &g));
    api->group_close(g);
    const int64_t bytes = GPU_BYTES - (r->rank == 1 ? TAKEN : 0);
    DML_TRY(api->alloc(r->transport, bytes, (void **)&rest));
    for (int64_t i = 0; i < bytes; i++)
        GPU_EXPECT(rest[i] == 0);
    return DML_ERR_OK;
}

static void a_new_group_sums_as_much_as_all_its_members_have_left(void **state)
{
    (void)state;
    most_floats = 0;
    gpu_run_ok(&(gpu_world){.world = 2}, open_with_less);
    DML_CHECK_EQ((GPU_BYTES - TAKEN) / 4, most_floats);
}

/* ---- meetings that fail ---- */

static dml_err meet_unless_last(gpu_rank *r)
{
    return r->rank == r->world - 1 ? DML_ERR_OK : gpu_meet_ring(r);
}

static void a_meeting_ends_when_a_rank_does_not_come(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    gpu_run(&(gpu_world){.world = 2, .epoch = {9, 9}, .timeout_ms = 50}, meet_unless_last, ranks);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[0].err);
    const char *const want =
        "ncclCommInitRankConfig, call 1 (after 0 bytes) of pair 0 up (1 and 1 workers), epoch "
        "9, device 0: not all peers came in 0.1 s";
    if (!strstr(ranks[0].trail, want)) fail_msg("%s", ranks[0].trail);
    DML_CHECK_EQ(DML_ERR_OK, ranks[0].closed);
}

/* Not through the transport: joins a communicator of rank 0's as its second member. */
typedef struct impostor {
    ncclComm_t comm;
    dml_queue *queue;
} impostor;

static dml_err ready(ncclComm_t comm, ncclResult_t status)
{
    while (status == ncclInProgress)
        if (ncclCommGetAsyncError(comm, &status) != ncclSuccess) break;
    if (status != ncclSuccess) DML_FAIL(DML_ERR_CHECK, "%s", ncclGetErrorString(status));
    return DML_ERR_OK;
}

static dml_err join_as(gpu_rank *r, uint64_t key, ncclComm_t *out)
{
    dml_id_page *page;
    ncclUniqueId id;
    DML_TRY(dml_id_page_open(r->config.fds[0], &page));
    DML_TRY(dml_id_await(page, 0, r->config.epoch, key, dml_clock_ns() + DML_NS_PER_S * 20, NULL,
                         id.internal));
    dml_id_page_close(page);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return ready(*out, ncclCommInitRankConfig(out, 2, id, 1, &config));
}

/* What the impostor says of itself. */
typedef struct lie {
    uint32_t epoch;
    int32_t from;
    const char *want; /* in the error of rank 0 */
    dml_err err;
} lie;

static dml_err lie_in_a_pair(gpu_rank *r)
{
    static const int32_t v[] = {0, 1};
    const dml_pair pair = {&v[0], &v[1], 1, 1};
    if (r->rank == 0) return api->meet(r->transport, &pair, 1);
    const lie *told = r->arg;
    const cudaStream_t stream = dml_cuda_stream(r->send);
    const uint64_t key = UINT64_C(1) << 32;
    dml_note *note;
    ncclComm_t up = NULL, down = NULL;
    DML_TRY(api->alloc(r->transport, 2 * sizeof *note, (void **)&note));
    note[1] = (dml_note){.key = key + 1, .epoch = told->epoch, .from = told->from, .to = 0};
    DML_TRY(join_as(r, key, &up));
    DML_TRY(join_as(r, key + 1, &down));
    DML_TRY(ready(up, ncclRecv(&note[0], sizeof *note, ncclUint8, 0, up, stream)));
    DML_TRY(ready(down, ncclSend(&note[1], sizeof *note, ncclUint8, 0, down, stream)));
    DML_TRY(gpu_settle(r));
    ncclCommAbort(up);
    ncclCommAbort(down);
    return DML_ERR_OK;
}

static dml_err lie_in_a_group(gpu_rank *r)
{
    static const int32_t both[] = {0, 1};
    dml_group *g;
    if (r->rank == 0) return api->group_open(r->transport, both, 2, 3, &g);
    const lie *told = r->arg;
    const cudaStream_t stream = dml_cuda_stream(r->send);
    const int64_t epoch = told->epoch, id = 3 + told->from,
                  says[] = {epoch, -epoch, id, -id, 2, -2, 0};
    ncclComm_t comm = NULL;
    void *room;
    DML_TRY(dml_cuda_device.alloc(r->device, sizeof says, &room));
    DML_TRY(join_as(r, 3, &comm));
    memcpy(room, says, sizeof says);
    DML_TRY(ready(comm, ncclAllReduce(room, room, sizeof says / sizeof *says, ncclInt64, ncclMax,
                                      comm, stream)));
    DML_TRY(gpu_settle(r));
    ncclCommAbort(comm);
    dml_cuda_device.free(r->device, room);
    return DML_ERR_OK;
}

static void refuses(gpu_body body, const lie *told)
{
    gpu_rank ranks[2];
    gpu_run(&(gpu_world){.world = 2, .epoch = {4, 4}, .timeout_ms = 2000, .arg = told}, body,
            ranks);
    if (ranks[1].err != DML_ERR_OK) fail_msg("the impostor: %s", ranks[1].trail);
    DML_CHECK_EQ(told->err, ranks[0].err);
    if (!strstr(ranks[0].trail, told->want)) fail_msg("%s", ranks[0].trail);
}

static void a_member_of_another_epoch_is_refused(void **state)
{
    (void)state;
    refuses(lie_in_a_pair,
            &(lie){3, 1, "refused: worker 1 is at epoch 3, worker 0 at 4", DML_ERR_PEER});
    refuses(lie_in_a_pair, &(lie){4, 5, "worker 0 hears from worker 5 to worker 0", DML_ERR_BUG});
    refuses(
        lie_in_a_group,
        &(lie){3, 0, "group 3 of 2 has members at epochs 3 to 4, worker 0 is at 4", DML_ERR_PEER});
    refuses(lie_in_a_group,
            &(lie){4, 2, "worker 0 opens group 3 of 2, another member group 5 of 2", DML_ERR_BUG});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_exchange_both_ways_at_once),
        cmocka_unit_test(only_ranks_of_a_pair_exchange),
        cmocka_unit_test(a_second_meeting_adds_pairs),
        cmocka_unit_test(pairs_take_few_thread_blocks_and_groups_what_nccl_chooses),
        cmocka_unit_test(a_new_group_sums_as_much_as_all_its_members_have_left),
        cmocka_unit_test(a_meeting_ends_when_a_rank_does_not_come),
        cmocka_unit_test(a_member_of_another_epoch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
