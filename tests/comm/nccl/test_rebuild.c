/* tests/comm/nccl/test_rebuild.c - ranks are processes; some are killed, the others go on at the next epoch.
 *
 *   epoch 0   workers 0 1 2 3   traffic; 3 is killed in the middle of it; the others abandon it and use its memory
 *   epoch 1   workers 0 1 2     the same pages and numbers, 3 being absent; traffic, an orderly end
 *   epoch 2   workers 0 1 2     2 dies while they meet: the others' deadline
 *   epoch 3   workers 0 1       traffic
 *
 * To a transport this is nothing but close and open: what died is another epoch's.
 */
#include "tests/support/test.h"

#include "comm/nccl/nccl.h"
#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/launchers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, EPOCHS = 4, ELEMS = 20000, STEPS = 8, BYTES = ELEMS * 4 * 3 };

static const int32_t worlds[EPOCHS] = {4, 3, 3, 2}; /* who is there, the first so many */
static const bool absent[WORKERS] = {[3] = true};   /* at epoch 1 */
static const dml_transport_api *const api = &dml_nccl_transport;

/* What the test and the workers share. */
typedef struct board {
    _Atomic uint32_t fence;
    _Atomic int parked;        /* at epoch 0 */
    _Atomic int steps[EPOCHS]; /* of worker 0 */
    dml_err err[WORKERS][EPOCHS], closed[WORKERS][EPOCHS];
    char trail[WORKERS][EPOCHS][2048];
} board;

typedef struct worker {
    board *b;
    int32_t me, epoch, world;
    const int *fds;
    dml_abort abort;
    dml_device *device;
    dml_queue *send, *recv, *reduce;
    dml_transport *t;
    dml_group *g;
    int32_t *out, *in, *sum;
} worker;

static dml_err wait_for(dml_queue *q)
{
    return dml_cuda_device.sync(q, dml_clock_ns() + 20 * DML_NS_PER_S);
}

/* Each sends to the next of the ring and all add up; three lanes at once. */
static dml_err step(worker *w, int32_t k)
{
    const int32_t next = (w->me + 1) % w->world, before = (w->me + w->world - 1) % w->world;
    for (int32_t i = 0; i < ELEMS; i++) {
        w->out[i] = w->me * 100 + k + i;
        w->sum[i] = w->me + k + i;
    }
    DML_TRY(api->all_reduce(w->g, w->reduce, w->sum, ELEMS, DML_I32, DML_SUM));
    DML_TRY(api->send(w->t, w->send, next, w->out, ELEMS * 4, 0));
    DML_TRY(api->recv(w->t, w->recv, before, w->in, ELEMS * 4, 0));
    DML_TRY(wait_for(w->send));
    DML_TRY(wait_for(w->recv));
    DML_TRY(wait_for(w->reduce));
    const int32_t n = w->world, ranks = n * (n - 1) / 2;
    for (int32_t i = 0; i < ELEMS; i++)
        if (w->in[i] != before * 100 + k + i || w->sum[i] != ranks + n * (k + i))
            DML_FAIL(DML_ERR_CHECK, "epoch %d, step %d, worker %d: element %d is wrong", w->epoch,
                     k, w->me, i);
    return DML_ERR_OK;
}

static dml_err meet(worker *w)
{
    static const int32_t v[WORKERS] = {0, 1, 2, 3};
    dml_pair ring[WORKERS];
    for (int32_t i = 0; i < w->world; i++)
        ring[i] = (dml_pair){&v[i], &v[(i + 1) % w->world], 1, 1};
    if (w->epoch == 2 && w->me == 2) kill(getpid(), SIGKILL);
    DML_TRY(api->meet(w->t, ring, w->world));
    return api->group_open(w->t, v, w->world, 0, &w->g);
}

static dml_err work(worker *w)
{
    DML_TRY(meet(w));
    DML_TRY(api->alloc(w->t, ELEMS * 4, (void **)&w->out));
    DML_TRY(api->alloc(w->t, ELEMS * 4, (void **)&w->in));
    DML_TRY(api->alloc(w->t, ELEMS * 4, (void **)&w->sum));
    for (int32_t k = 0; k < STEPS || w->epoch == 0; k++) { /* epoch 0 ends by its failure */
        DML_TRY(step(w, k));
        if (w->me == 0) atomic_fetch_add(&w->b->steps[w->epoch], 1);
    }
    return DML_ERR_OK;
}

/* As a worker that parks: what waited has ended, and the optimizer runs on memory of the transport. */
static dml_err park(worker *w)
{
    enum { FLOATS = 1000 };
    const dml_device_api *device = &dml_cuda_device;
    float *x = (float *)(void *)w->in, *y = (float *)(void *)w->out, *z = (float *)(void *)w->sum;
    atomic_store(&w->abort.epoch, atomic_load(&w->b->fence));
    dml_queue *const lanes[] = {w->send, w->recv, w->reduce};
    DML_TRY(api->abandon(w->t));
    for (int i = 0; i < 3; i++)
        DML_TRY(device->renew(lanes[i], dml_clock_ns() + 20 * DML_NS_PER_S));
    const cudaStream_t stream = dml_cuda_stream(w->reduce);
    DML_TRY(DML_CUDA(dml_cu_fill, (x, 1.5f, FLOATS, DML_F32, stream), "x"));
    DML_TRY(DML_CUDA(dml_cu_fill, (y, 2.0f, FLOATS, DML_F32, stream), "y"));
    DML_TRY(DML_CUDA(dml_cu_add, (z, x, y, FLOATS, DML_F32, stream), "z"));
    DML_TRY(wait_for(w->reduce));
    for (int32_t i = 0; i < FLOATS; i++)
        if (z[i] != 3.5f) DML_FAIL(DML_ERR_CHECK, "worker %d: element %d is wrong", w->me, i);
    atomic_fetch_add(&w->b->parked, 1);
    while (atomic_load(&w->b->parked) < WORKERS - 1) /* the run says when all have */
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
    return DML_ERR_OK;
}

static dml_err run_epoch(worker *w)
{
    const dml_transport_config config = {
        .rank = w->me,
        .world = w->epoch == 1 ? WORKERS : w->world,
        .absent = w->epoch == 1 ? absent : NULL,
        .epoch = (uint32_t)w->epoch,
        .memory_bytes = BYTES + 1024,
        .timeout_ns = w->epoch == 2 ? 100 * DML_NS_PER_MS : 20 * DML_NS_PER_S,
        .abort = &w->abort,
        .fds = w->fds,
    };
    DML_TRY(api->open(&config, w->device, &w->t));
    dml_err err = work(w);
    if (err == DML_ERR_PEER && w->epoch == 0) {
        const dml_err parked = park(w);
        if (parked != DML_ERR_OK) err = parked;
    }
    char *trail = w->b->trail[w->me][w->epoch];
    snprintf(trail, sizeof w->b->trail[0][0], "%s", err == DML_ERR_OK ? "" : dml_err_trail());
    api->group_close(w->g);
    w->b->closed[w->me][w->epoch] = api->close(w->t);
    return err;
}

static void run_worker(board *b, int32_t me, int fds[EPOCHS][WORKERS])
{
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LOTTERY, 7);
    worker w = {.b = b, .me = me};
    for (int32_t e = 0; e < EPOCHS && me < worlds[e]; e++) {
        w.abort = (dml_abort){.epoch = (uint32_t)e, .fence = &b->fence};
        const dml_device_config device = {.index = me, .threads = 1, .abort = &w.abort};
        dml_err err = dml_cuda_device.open(&device, &w.device);
        if (err == DML_ERR_OK) err = dml_cuda_device.queue_open(w.device, "send", &w.send);
        if (err == DML_ERR_OK) err = dml_cuda_device.queue_open(w.device, "recv", &w.recv);
        if (err == DML_ERR_OK) err = dml_cuda_device.queue_open(w.device, "reduce", &w.reduce);
        w.epoch = e;
        w.world = worlds[e];
        w.fds = fds[e == 1 ? 0 : e];
        w.g = NULL;
        b->err[me][e] = err == DML_ERR_OK ? run_epoch(&w) : err;
        dml_cuda_device.queue_close(w.send);
        dml_cuda_device.queue_close(w.recv);
        dml_cuda_device.queue_close(w.reduce);
        dml_cuda_device.close(w.device);
    }
    _exit(dml_emu_faults());
}

static void start(board *b, int fds[EPOCHS][WORKERS], pid_t pid[WORKERS])
{
    for (int e = 0; e < EPOCHS; e++)
        for (int32_t r = 0; r < worlds[e]; r++)
            DML_CHECK((fds[e][r] = memfd_create("pages", MFD_CLOEXEC)) >= 0);
    for (int32_t r = 0; r < WORKERS; r++) {
        DML_CHECK((pid[r] = fork()) >= 0);
        if (pid[r] == 0) run_worker(b, r, fds);
    }
}

static int end_of(pid_t pid)
{
    int status;
    DML_CHECK_EQ(pid, waitpid(pid, &status, 0));
    return status;
}

static void the_living_go_on_at_the_next_epoch(void **state)
{
    (void)state;
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    DML_CHECK(b != MAP_FAILED);
    int fds[EPOCHS][WORKERS];
    pid_t pid[WORKERS];
    start(b, fds, pid);
    while (atomic_load(&b->steps[0]) < 5)
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
    kill(pid[3], SIGKILL);
    atomic_store(&b->fence, 1); /* as the agent does: NCCL says nothing */

    for (int32_t r = 0; r < WORKERS; r++) {
        const int status = end_of(pid[r]);
        if (r < 2)
            DML_CHECK_EQ(0, status);
        else
            DML_CHECK_EQ(SIGKILL, WTERMSIG(status));
    }
    static const dml_err want[EPOCHS] = {DML_ERR_PEER, DML_ERR_OK, DML_ERR_PEER, DML_ERR_OK};
    for (int32_t r = 0; r < 2; r++)
        for (int e = 0; e < EPOCHS; e++) {
            if (b->err[r][e] != want[e]) fail_msg("worker %d, epoch %d: %s", r, e, b->trail[r][e]);
            DML_CHECK_EQ(DML_ERR_OK, b->closed[r][e]);
        }
    DML_CHECK_EQ(WORKERS - 1, b->parked);
    DML_CHECK(strstr(b->trail[1][2], "not all peers came in 0.1 s"));
    DML_CHECK_EQ(STEPS, atomic_load(&b->steps[1]));
    DML_CHECK_EQ(STEPS, atomic_load(&b->steps[3]));
    for (int e = 0; e < EPOCHS; e++)
        for (int32_t r = 0; r < worlds[e]; r++)
            close(fds[e][r]);
    munmap(b, sizeof *b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_living_go_on_at_the_next_epoch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
