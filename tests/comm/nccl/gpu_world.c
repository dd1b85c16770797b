/* tests/comm/nccl/gpu_world.c - threads as ranks, emulated GPUs as devices. */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct start {
    gpu_rank *r;
    gpu_body body;
    dml_abort *stop;
} start;

static dml_err open_rank(gpu_rank *r)
{
    const dml_device_config device = {
        .index = r->rank, .threads = 1, .queue_capacity = 8, .abort = r->abort};
    DML_TRY(dml_cuda_device.open(&device, &r->device));
    DML_TRY(dml_cuda_device.queue_open(r->device, "send", &r->send));
    DML_TRY(dml_cuda_device.queue_open(r->device, "recv", &r->recv));
    return dml_nccl_transport.open(&r->config, r->device, &r->transport);
}

static void close_rank(gpu_rank *r)
{
    dml_cuda_device.queue_close(r->send);
    dml_cuda_device.queue_close(r->recv);
    r->closed = dml_nccl_transport.close(r->transport);
    if (r->closed != DML_ERR_OK) snprintf(r->closing, sizeof r->closing, "%s", dml_err_trail());
    if (r->device) dml_cuda_device.close(r->device);
}

static void *run_rank(void *arg)
{
    const start *s = arg;
    gpu_rank *r = s->r;
    r->err = open_rank(r);
    if (r->err == DML_ERR_OK) r->err = s->body(r);
    snprintf(r->trail, sizeof r->trail, "%s", r->err == DML_ERR_OK ? "" : dml_err_trail());
    if (r->err != DML_ERR_OK && s->stop) atomic_store(&s->stop->raised, 1);
    close_rank(r);
    return NULL;
}

static bool is_absent(const gpu_world *w, int32_t rank)
{
    return w->absent && w->absent[rank];
}

void gpu_run(const gpu_world *w, gpu_body body, gpu_rank *ranks)
{
    dml_emu_setup(DML_EMU_FORWARD, w->seed ? DML_EMU_LOTTERY : DML_EMU_LAZY, w->seed);
    const int32_t present = w->present ? w->present : w->world;
    int fds[GPU_RANKS];
    pthread_t threads[GPU_RANKS];
    start starts[GPU_RANKS];
    for (int32_t i = 0; i < w->world; i++)
        fds[i] = is_absent(w, i) ? -1 : memfd_create("rank", MFD_CLOEXEC);
    for (int32_t i = 0; i < present; i++) {
        const int64_t ms = w->timeout_ms ? w->timeout_ms : GPU_PATIENCE_MS;
        ranks[i] = (gpu_rank){.rank = i,
                              .world = w->world,
                              .abort = w->abort,
                              .arg = w->arg,
                              .config = {.rank = i,
                                         .world = w->world,
                                         .epoch = w->epoch[i],
                                         .memory_bytes = GPU_BYTES,
                                         .timeout_ns = ms * DML_NS_PER_MS,
                                         .abort = w->abort,
                                         .ranks_per_device = w->per_device,
                                         .absent = w->absent,
                                         .fds = fds}};
        starts[i] = (start){&ranks[i], body, w->stop};
    }
    for (int32_t i = 1; i < present; i++)
        if (!is_absent(w, i))
            assert_int_equal(pthread_create(&threads[i], NULL, run_rank, &starts[i]), 0);
    run_rank(&starts[0]);
    for (int32_t i = 1; i < present; i++)
        if (!is_absent(w, i)) pthread_join(threads[i], NULL);
    for (int32_t i = 0; i < w->world; i++)
        if (!is_absent(w, i)) close(fds[i]);
}

void gpu_run_ok(const gpu_world *w, gpu_body body)
{
    gpu_rank ranks[GPU_RANKS];
    gpu_run(w, body, ranks);
    for (int32_t i = 0; i < w->world; i++)
        if (ranks[i].err != DML_ERR_OK || ranks[i].closed != DML_ERR_OK)
            fail_msg("rank %d: %s%s", i, ranks[i].trail, ranks[i].closing);
    if (dml_emu_faults() > 0) fail_msg("%s", dml_emu_fault(0));
}

dml_err gpu_wait(dml_queue *queue, int64_t ms)
{
    return dml_cuda_device.sync(queue, dml_clock_ns() + ms * DML_NS_PER_MS);
}

dml_err gpu_settle(gpu_rank *r)
{
    DML_TRY(gpu_wait(r->send, GPU_PATIENCE_MS));
    return gpu_wait(r->recv, GPU_PATIENCE_MS);
}

dml_err gpu_meet_ring(gpu_rank *r)
{
    static const int32_t v[GPU_RANKS] = {0, 1, 2, 3, 4, 5, 6, 7};
    dml_pair ring[GPU_RANKS];
    for (int32_t i = 0; i < r->world; i++)
        ring[i] = (dml_pair){&v[i], &v[(i + 1) % r->world], 1, 1};
    return dml_nccl_transport.meet(r->transport, ring, r->world);
}
