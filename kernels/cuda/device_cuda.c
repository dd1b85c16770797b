/* kernels/cuda/device_cuda.c - a device on the CUDA runtime: which there are, their memory, and the table of
 * entries.  Queues, events and replays: queue_cuda.c. */
#include "kernels/cuda/device_impl.h"

#include "kernels/cuda/numa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t dml_cuda_index(const dml_device *device)
{
    return device->index;
}

const dml_abort *dml_cuda_abort(const dml_device *device)
{
    return device->abort;
}

dml_err dml_cuda_use(const dml_device *device)
{
    return DML_CUDA(cudaSetDevice, (device->index), "device %d", device->index);
}

/* A device deals its streams out to 8 hardware queues unless the environment asks for up to 32 before the first call.
 * A worker has 6 streams and each NCCL communicator 2 more: two that share a queue run in the order in which they
 * were given their work, and compute would stand behind a transfer that waits for its peer. */
static void ask_for_queues(void)
{
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

static int32_t device_count(char *why, int64_t why_bytes)
{
    ask_for_queues();
    if (why_bytes > 0) why[0] = '\0';
    int n = 0;
    const cudaError_t status = cudaGetDeviceCount(&n);
    if (status == cudaSuccess && n > 0) return n;
    cudaGetLastError(); /* it is only news, not a failure to carry on */
    if (why_bytes > 0)
        snprintf(why, (size_t)why_bytes, "%s",
                 cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status));
    return 0;
}

static dml_err device_open(const dml_device_config *config, dml_device **out)
{
    char why[128];
    const int32_t n = device_count(why, sizeof why);
    if (config->index < 0 || config->index >= n)
        DML_FAIL(DML_ERR_UNAVAILABLE, "CUDA device %d of %d%s%s", config->index, n,
                 n == 0 ? ": " : "", why);
    dml_device *device = calloc(1, sizeof *device);
    if (!device) DML_FAIL(DML_ERR_NOMEM, "no memory for a device");
    device->index = config->index;
    device->abort = config->abort;
    const dml_err err = dml_cuda_use(device);
    if (err != DML_ERR_OK) {
        free(device);
        return err;
    }
    dml_cuda_bind_near(device->index);
    *out = device;
    return DML_ERR_OK;
}

static void device_close(dml_device *device)
{
    if (!device) return;
    dml_cuda_queues_free(device);
    free(device);
}

/* ---- memory ---- */

/* cudaMemset of device memory returns before it has run, and our streams do not wait for it. */
static dml_err clear(void *memory, int64_t bytes)
{
    DML_TRY(DML_CUDA(cudaMemset, (memory, 0, (size_t)bytes), "%lld bytes", (long long)bytes));
    return DML_CUDA(cudaDeviceSynchronize, (), "after clearing %lld bytes", (long long)bytes);
}

static dml_err device_alloc(dml_device *device, int64_t bytes, void **out)
{
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "an allocation of %lld bytes", (long long)bytes);
    DML_TRY(dml_cuda_use(device));
    void *memory = NULL;
    if (bytes == 0) bytes = 1; /* a block of its own all the same */
    const dml_err err =
        DML_CUDA(cudaMalloc, (&memory, (size_t)bytes), "%lld bytes (%.1f MiB) on device %d",
                 (long long)bytes, (double)bytes / 0x1p20, device->index);
    if (err != DML_ERR_OK) {
        cudaGetLastError(); /* out of memory is for the planner; later calls must not see it */
        return err;
    }
    const dml_err cleared = clear(memory, bytes);
    if (cleared != DML_ERR_OK) {
        cudaFree(memory);
        return cleared;
    }
    *out = memory;
    return DML_ERR_OK;
}

static void device_free(dml_device *device, void *memory)
{
    cudaSetDevice(device->index);
    cudaFree(memory);
}

static dml_err host_alloc(dml_device *device, int64_t bytes, void **out)
{
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "an allocation of %lld bytes", (long long)bytes);
    DML_TRY(dml_cuda_use(device));
    if (bytes == 0) bytes = 1;
    void *memory = NULL;
    const dml_err err = DML_CUDA(cudaHostAlloc, (&memory, (size_t)bytes, cudaHostAllocDefault),
                                 "%lld pinned bytes", (long long)bytes);
    if (err != DML_ERR_OK) {
        cudaGetLastError();
        return err;
    }
    memset(memory, 0, (size_t)bytes);
    *out = memory;
    return DML_ERR_OK;
}

static void host_free(dml_device *device, void *memory)
{
    cudaSetDevice(device->index);
    cudaFreeHost(memory);
}

const dml_device_api dml_cuda_device = {
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .alloc = device_alloc,
    .free = device_free,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .queue_open = dml_cuda_queue_open,
    .queue_close = dml_cuda_queue_close,
    .submit = dml_cuda_queue_submit,
    .copy = dml_cuda_queue_copy,
    .sync = dml_cuda_queue_sync,
    .renew = dml_cuda_queue_renew,
    .native = dml_cuda_queue_native,
    .event_open = dml_cuda_event_open,
    .event_close = dml_cuda_event_close,
    .record = dml_cuda_event_record,
    .wait = dml_cuda_event_wait,
    .await = dml_cuda_event_await,
    .elapsed = dml_cuda_event_elapsed,
    .capture = dml_cuda_queue_capture,
    .replay = dml_cuda_queue_replay,
    .replay_close = dml_cuda_replay_close,
    .sabotage = dml_cuda_queue_sabotage,
    .watch = dml_cuda_watch,
    .unwatch = dml_cuda_unwatch,
};
