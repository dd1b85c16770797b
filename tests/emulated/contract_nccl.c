/* tests/emulated/contract_nccl.c - what we count on of each NCCL call, between processes.
 *
 * Built twice, as contract_runtime.c.  Every case is played by RANKS children, each with a GPU of its own or,
 * where there are fewer, a host id of its own; the parent never touches the library.
 */
#include "tests/support/test.h"

#include "engine/base/clock.h"

#include <nccl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 3, ELEMS = 300000, WAIT_S = 60 };

/* In a child: a failure is its exit. */
#define CHECK(cond)                                                                   \
    do {                                                                              \
        if (!(cond)) {                                                                \
            fprintf(stderr, "%s:%d: rank %d: %s\n", __FILE__, __LINE__, rank, #cond); \
            _exit(1);                                                                 \
        }                                                                             \
    } while (0)

static int rank, devices;
static ncclComm_t comm;
static cudaStream_t stream;
static float *on_device, *on_host;

static bool settled(ncclComm_t c, ncclResult_t status, double seconds)
{
    const int64_t deadline_ns = dml_clock_ns() + (int64_t)(seconds * 1e9);
    while (status == ncclInProgress && dml_clock_ns() < deadline_ns)
        CHECK(ncclCommGetAsyncError(c, &status) == ncclSuccess);
    CHECK(status == ncclSuccess || status == ncclInProgress);
    return status == ncclSuccess;
}

#define SETTLE(call) CHECK(settled(comm, call, WAIT_S))

static bool dry(double seconds)
{
    const int64_t deadline_ns = dml_clock_ns() + (int64_t)(seconds * 1e9);
    cudaError_t status = cudaErrorNotReady;
    while (status == cudaErrorNotReady && dml_clock_ns() < deadline_ns)
        status = cudaStreamQuery(stream);
    CHECK(status == cudaSuccess || status == cudaErrorNotReady);
    return status == cudaSuccess;
}

static void put(float first)
{
    for (int i = 0; i < ELEMS; i++)
        on_host[i] = first + (float)(i % 1000);
    CHECK(cudaMemcpyAsync(on_device, on_host, ELEMS * sizeof(float), cudaMemcpyDefault, stream) ==
          cudaSuccess);
    CHECK(dry(WAIT_S));
}

static const float *get(void)
{
    CHECK(cudaMemcpyAsync(on_host, on_device, ELEMS * sizeof(float), cudaMemcpyDefault, stream) ==
          cudaSuccess);
    CHECK(dry(WAIT_S));
    return on_host;
}

static void join_all(const ncclUniqueId *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    SETTLE(ncclCommInitRankConfig(&comm, RANKS, *id, rank, &config));
    int n = 0;
    CHECK(ncclCommCount(comm, &n) == ncclSuccess && n == RANKS);
}

static void leave_all(void)
{
    SETTLE(ncclCommFinalize(comm));
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
}

static void sums_are_the_same_for_all(void)
{
    put((float)rank);
    SETTLE(ncclAllReduce(on_device, on_device, ELEMS, ncclFloat, ncclSum, comm, stream));
    const float *sum = get();
    for (int i = 0; i < ELEMS; i++)
        CHECK(sum[i] == RANKS * (RANKS - 1) / 2 + RANKS * (float)(i % 1000));
    put((float)rank);
    SETTLE(ncclAllReduce(on_device, on_device, ELEMS, ncclFloat, ncclMax, comm, stream));
    CHECK(get()[7] == RANKS - 1 + 7);
    leave_all();
}

static void gathers_and_scatters_in_place(void)
{
    const size_t part = ELEMS / RANKS;
    put((float)rank * 2000);
    SETTLE(
        ncclAllGather(on_device + (size_t)rank * part, on_device, part, ncclFloat, comm, stream));
    const float *all = get();
    for (int r = 0; r < RANKS; r++)
        CHECK(all[(size_t)r * part] == (float)r * 2000 + (float)((size_t)r * part % 1000));
    put((float)rank);
    SETTLE(ncclReduceScatter(on_device, on_device + (size_t)rank * part, part, ncclFloat, ncclSum,
                             comm, stream));
    CHECK(get()[(size_t)rank * part] == 3 + RANKS * (float)((size_t)rank * part % 1000));
    leave_all();
}

/* Round the ring: each sends to the next and receives from the one before, in one group. */
static void a_group_of_send_and_receive_moves_both(void)
{
    float *got = NULL;
    CHECK(cudaMalloc((void **)&got, ELEMS * sizeof(float)) == cudaSuccess);
    put((float)rank);
    CHECK(ncclGroupStart() == ncclSuccess);
    const ncclResult_t s = ncclSend(on_device, ELEMS, ncclFloat, (rank + 1) % RANKS, comm, stream);
    const ncclResult_t r =
        ncclRecv(got, ELEMS, ncclFloat, (rank + RANKS - 1) % RANKS, comm, stream);
    CHECK((s == ncclSuccess || s == ncclInProgress) && (r == ncclSuccess || r == ncclInProgress));
    SETTLE(ncclGroupEnd());
    CHECK(cudaMemcpyAsync(on_device, got, ELEMS * sizeof(float), cudaMemcpyDefault, stream) ==
          cudaSuccess);
    CHECK(get()[5] == (float)((rank + RANKS - 1) % RANKS) + 5);
    leave_all();
    CHECK(cudaFree(got) == cudaSuccess);
}

/* Rank 0 sends twice to rank 1, which takes them in that order. */
static void what_is_sent_first_arrives_first(void)
{
    for (int turn = 0; turn < 2; turn++) {
        if (rank == 0) put((float)(10 + turn));
        if (rank == 0) SETTLE(ncclSend(on_device, ELEMS, ncclFloat, 1, comm, stream));
        if (rank == 1) SETTLE(ncclRecv(on_device, ELEMS, ncclFloat, 0, comm, stream));
        if (rank == 1) CHECK(get()[0] == (float)(10 + turn));
        CHECK(dry(WAIT_S));
    }
    leave_all();
}

/* Since 2.22 NCCL connects a communicator at its first sum, and that takes all ranks: one sum of all, then
 * rank 2 is silent for as long as the others need to enqueue theirs. */
static void connect_all(void)
{
    put(0);
    SETTLE(ncclAllReduce(on_device, on_device, ELEMS, ncclFloat, ncclSum, comm, stream));
    CHECK(dry(WAIT_S));
    if (rank == 2) sleep(1);
}

/* Rank 2 never posts: the others see nothing but an operation that is not done, and can abort. */
static void a_silent_peer_is_not_noticed_and_abort_frees_the_stream(void)
{
    connect_all();
    if (rank < 2) {
        SETTLE(ncclAllReduce(on_device, on_device, ELEMS, ncclFloat, ncclSum, comm, stream));
        CHECK(!dry(0.3));
        ncclResult_t status;
        CHECK(ncclCommGetAsyncError(comm, &status) == ncclSuccess && status == ncclSuccess);
    }
    CHECK(ncclCommAbort(comm) == ncclSuccess);
    CHECK(dry(WAIT_S));
}

static void revoke_stops_what_is_under_way(void)
{
    connect_all();
    if (rank < 2)
        SETTLE(ncclAllReduce(on_device, on_device, ELEMS, ncclFloat, ncclSum, comm, stream));
    SETTLE(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    CHECK(dry(WAIT_S));
    CHECK(ncclCommAbort(comm) == ncclSuccess);
}

/* ---- the parent ---- */

typedef struct contract {
    const char *name;
    void (*play)(void);
} contract;

static const contract contracts[] = {
    {"sums are the same for all", sums_are_the_same_for_all},
    {"gathers and scatters in place", gathers_and_scatters_in_place},
    {"a group of send and receive moves both", a_group_of_send_and_receive_moves_both},
    {"what is sent first arrives first", what_is_sent_first_arrives_first},
    {"a silent peer is not noticed, and abort frees the stream",
     a_silent_peer_is_not_noticed_and_abort_frees_the_stream},
    {"revoke stops what is under way", revoke_stops_what_is_under_way},
};
enum { CONTRACTS = sizeof contracts / sizeof *contracts };

/* Rank 0 makes the id and hands it to the others through pipes. */
static void child(const contract *c, int r, int (*pipes)[2])
{
    rank = r;
    char host[32];
    snprintf(host, sizeof host, "host%d", r);
    if (devices < RANKS) setenv("NCCL_HOSTID", host, 1);
    CHECK(cudaSetDevice(r % devices) == cudaSuccess);
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaMalloc((void **)&on_device, ELEMS * sizeof(float)) == cudaSuccess);
    CHECK(cudaHostAlloc((void **)&on_host, ELEMS * sizeof(float), cudaHostAllocDefault) ==
          cudaSuccess);
    ncclUniqueId id;
    if (rank == 0) CHECK(ncclGetUniqueId(&id) == ncclSuccess);
    for (int to = 1; rank == 0 && to < RANKS; to++)
        CHECK(write(pipes[to][1], &id, sizeof id) == sizeof id);
    if (rank > 0) CHECK(read(pipes[rank][0], &id, sizeof id) == sizeof id);
    join_all(&id);
    c->play();
    _exit(0);
}

static void holds(void **state)
{
    const contract *c = *state;
    int pipes[RANKS][2];
    pid_t pid[RANKS];
    fflush(NULL);
    for (int r = 0; r < RANKS; r++)
        DML_CHECK_EQ(0, pipe(pipes[r]));
    for (int r = 0; r < RANKS; r++)
        if ((pid[r] = fork()) == 0) child(c, r, pipes);
    for (int r = 0; r < RANKS; r++) {
        int status = -1;
        DML_CHECK_EQ(pid[r], waitpid(pid[r], &status, 0));
        DML_CHECK_EQ(0, status);
        close(pipes[r][0]);
        close(pipes[r][1]);
    }
}

/* In a child, so that the parent never initialises CUDA. */
static int count_devices(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        int n = 0;
        _exit(cudaGetDeviceCount(&n) == cudaSuccess ? n : 0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

int main(void)
{
    devices = count_devices();
    if (devices == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    struct CMUnitTest tests[CONTRACTS];
    for (int i = 0; i < CONTRACTS; i++)
        tests[i] = (struct CMUnitTest){contracts[i].name, holds, NULL, NULL, (void *)&contracts[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
