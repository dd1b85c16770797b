/* kernels/cuda/device_cuda.c - a device on the CUDA runtime: a queue is a stream, an event an event.
 *
 * A job runs at once on the submitting thread and enqueues on the stream.  So what fails in a job is known
 * at submit; what fails on the GPU is known when the stream is asked.  Both stick: the queue keeps the
 * first error and its trail, an event recorded after it carries it to the queues that wait.
 *
 * Waiting is polling, never cudaStreamSynchronize: a hung GPU must not take the deadline and the abort flag
 * with it.  The current device is a property of the calling thread, so every entry sets it (tens of ns).
 */
#include "kernels/cuda/device_cuda.h"

#include "engine/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIL_BYTES = 2048, SPINS = 2000, NAP_NS = 20000 };

struct dml_device {
    int32_t index;
    const dml_abort *abort;
};

typedef struct failure {
    dml_err err;
    char trail[TRAIL_BYTES];
} failure;

struct dml_queue {
    dml_device *device;
    const char *name;
    cudaStream_t stream;
    failure failed;
};

struct dml_event {
    dml_device *device;
    cudaEvent_t event;
    failure failed; /* of the queue, when it was recorded */
};

int32_t dml_cuda_index(const dml_device *device)
{
    return device->index;
}

const dml_abort *dml_cuda_abort(const dml_device *device)
{
    return device->abort;
}

cudaStream_t dml_cuda_stream(dml_queue *queue)
{
    return queue->stream;
}

const char *dml_cuda_queue_name(const dml_queue *queue)
{
    return queue->name;
}

static dml_err use(const dml_device *device)
{
    return DML_CUDA(cudaSetDevice, (device->index), "device %d", device->index);
}

static int32_t device_count(char *why, int64_t why_bytes)
{
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
    const dml_err err = use(device);
    if (err != DML_ERR_OK) {
        free(device);
        return err;
    }
    *out = device;
    return DML_ERR_OK;
}

static void device_close(dml_device *device)
{
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
    DML_TRY(use(device));
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
    DML_TRY(use(device));
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

/* ---- queues ---- */

static dml_err queue_open(dml_device *device, const char *name, dml_queue **out)
{
    DML_TRY(use(device));
    dml_queue *queue = calloc(1, sizeof *queue);
    if (!queue) DML_FAIL(DML_ERR_NOMEM, "no memory for queue '%s'", name);
    queue->device = device;
    queue->name = name;
    const dml_err err = DML_CUDA(cudaStreamCreateWithFlags, (&queue->stream, cudaStreamNonBlocking),
                                 "queue '%s' of device %d", name, device->index);
    if (err != DML_ERR_OK) {
        free(queue);
        return err;
    }
    *out = queue;
    return DML_ERR_OK;
}

static void queue_close(dml_queue *queue)
{
    if (!queue) return;
    cudaSetDevice(queue->device->index);
    cudaStreamDestroy(queue->stream);
    free(queue);
}

/* Keeps `err` and this thread's trail as the first failure. */
static void keep(failure *f, dml_err err)
{
    f->err = err;
    snprintf(f->trail, sizeof f->trail, "%s", dml_err_trail());
}

/* Runs `expr` on a queue that has not failed; its error becomes the queue's, for sync to return. */
#define ON_QUEUE(queue, expr)                                       \
    do {                                                            \
        if ((queue)->failed.err != DML_ERR_OK) break;               \
        dml_err on_err_ = use((queue)->device);                     \
        if (on_err_ == DML_ERR_OK) on_err_ = (expr);                \
        if (on_err_ != DML_ERR_OK) keep(&(queue)->failed, on_err_); \
    } while (0)

static dml_err queue_submit(dml_queue *queue, dml_job job, void *arg)
{
    ON_QUEUE(queue, job(arg));
    return DML_ERR_OK;
}

static dml_err queue_copy(dml_queue *queue, void *dst, const void *src, int64_t bytes)
{
    ON_QUEUE(queue,
             DML_CUDA(cudaMemcpyAsync, (dst, src, (size_t)bytes, cudaMemcpyDefault, queue->stream),
                      "%lld bytes on queue '%s' of device %d", (long long)bytes, queue->name,
                      queue->device->index));
    return DML_ERR_OK;
}

/* DML_ERR_OK when the stream has run dry. */
static dml_err poll(dml_queue *queue, int64_t deadline_ns)
{
    const dml_abort *abort = queue->device->abort;
    const int64_t begin_ns = dml_clock_ns();
    for (int64_t turn = 0;; turn++) {
        const cudaError_t status = cudaStreamQuery(queue->stream);
        if (status != cudaErrorNotReady)
            return dml_cuda_status(status, __FILE__, __LINE__, "cudaStreamQuery",
                                   "queue '%s' of device %d", queue->name, queue->device->index);
        if (abort && atomic_load_explicit(&abort->raised, memory_order_relaxed))
            DML_FAIL(DML_ERR_PEER, "the run is being stopped (while waiting for queue '%s')",
                     queue->name);
        const int64_t now_ns = dml_clock_ns();
        if (now_ns >= deadline_ns)
            DML_FAIL(DML_ERR_PEER, "queue '%s' of device %d is not done after %.1f s", queue->name,
                     queue->device->index, (double)(now_ns - begin_ns) * 1e-9);
        if (turn > SPINS) dml_sleep_until_ns(now_ns + NAP_NS);
    }
}

/* A deadline that passed is the caller's error, not the queue's: what it holds may yet finish. */
static dml_err queue_sync(dml_queue *queue, int64_t deadline_ns)
{
    if (queue->failed.err == DML_ERR_OK) {
        DML_TRY(use(queue->device));
        return poll(queue, deadline_ns);
    }
    dml_err_trail_put(queue->failed.trail);
    return queue->failed.err;
}

static void *queue_native(dml_queue *queue)
{
    return queue->stream;
}

/* ---- events ---- */

static dml_err event_open(dml_device *device, dml_event **out)
{
    DML_TRY(use(device));
    dml_event *event = calloc(1, sizeof *event);
    if (!event) DML_FAIL(DML_ERR_NOMEM, "no memory for an event");
    event->device = device;
    const dml_err err = DML_CUDA(cudaEventCreateWithFlags, (&event->event, cudaEventDisableTiming),
                                 "device %d", device->index);
    if (err != DML_ERR_OK) {
        free(event);
        return err;
    }
    *out = event;
    return DML_ERR_OK;
}

static void event_close(dml_event *event)
{
    if (!event) return;
    cudaSetDevice(event->device->index);
    cudaEventDestroy(event->event);
    free(event);
}

static dml_err event_record(dml_queue *queue, dml_event *event)
{
    ON_QUEUE(queue, DML_CUDA(cudaEventRecord, (event->event, queue->stream),
                             "queue '%s' of device %d", queue->name, queue->device->index));
    event->failed = queue->failed;
    return DML_ERR_OK;
}

static dml_err event_wait(dml_queue *queue, dml_event *event)
{
    if (queue->failed.err == DML_ERR_OK && event->failed.err != DML_ERR_OK)
        queue->failed = event->failed;
    ON_QUEUE(queue, DML_CUDA(cudaStreamWaitEvent, (queue->stream, event->event, 0),
                             "queue '%s' of device %d", queue->name, queue->device->index));
    return DML_ERR_OK;
}

const dml_device_api dml_cuda_device = {
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .alloc = device_alloc,
    .free = device_free,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .queue_open = queue_open,
    .queue_close = queue_close,
    .submit = queue_submit,
    .copy = queue_copy,
    .sync = queue_sync,
    .native = queue_native,
    .event_open = event_open,
    .event_close = event_close,
    .record = event_record,
    .wait = event_wait,
};
