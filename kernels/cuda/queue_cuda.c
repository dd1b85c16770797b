/* kernels/cuda/queue_cuda.c - a queue is a stream, an event an event, a replay a graph.
 *
 * A job runs at once on the submitting thread and enqueues on the stream.  So what fails in a job is known
 * at submit; what fails on the GPU is known when the stream or an event is asked.  Both stick: the queue keeps
 * the first error and its trail, and an event recorded after it leads who waits there, until the queue is renewed.
 *
 * Waiting is polling, never cudaStreamSynchronize: a hung GPU must not take the deadline and the abort flag
 * with it.  The current device is a property of the calling thread, so every entry sets it (tens of ns).
 *
 * Every event keeps the time: one without would pass a little sooner, but the same event ends an op's time and
 * releases who waits for the op.
 */
#include "kernels/cuda/device_impl.h"

#include "engine/base/clock.h"
#include "kernels/cuda/launchers.h"

#include <stdio.h>
#include <stdlib.h>

enum { TRAIL_BYTES = 2048, SPINS = 2000, NAP_NS = 20000 };
/* After so long a wait for one queue, that another of the device has failed is why. */
static const int64_t PATIENCE_NS = DML_NS_PER_S;

typedef struct failure {
    dml_err err;
    char trail[TRAIL_BYTES]; /* when err is not DML_ERR_OK */
} failure;

struct dml_queue {
    dml_device *device;
    dml_queue *next; /* of the device */
    const char *name;
    cudaStream_t stream;
    failure failed;
    uint32_t renewals;
};

struct dml_event {
    dml_device *device;
    cudaEvent_t event;
    dml_queue
        *queue; /* that it was recorded in, borrowed until the device is closed; NULL: never */
    uint32_t renewals; /* of the queue, when it was recorded */
    bool is_void;      /* the queue had failed by then: nothing was recorded */
};

struct dml_replay {
    dml_device *device;
    cudaGraphExec_t exec;
};

cudaStream_t dml_cuda_stream(dml_queue *queue)
{
    return queue->stream;
}

const char *dml_cuda_queue_name(const dml_queue *queue)
{
    return queue->name;
}

/* ---- failures ---- */

/* Keeps `err` and this thread's trail as the first failure. */
static void keep(failure *f, dml_err err)
{
    f->err = err;
    snprintf(f->trail, sizeof f->trail, "%s", dml_err_trail());
}

/* Its error, and its trail in this thread. */
static dml_err said(const failure *f)
{
    if (f->err != DML_ERR_OK) dml_err_trail_put(f->trail);
    return f->err;
}

/* What kept the event from being recorded; NULL: nothing, or its queue has been renewed since. */
static const failure *failure_of(const dml_event *event)
{
    if (!event->is_void || event->renewals != event->queue->renewals) return NULL;
    return &event->queue->failed;
}

static void fail_queue(dml_queue *queue, dml_err err)
{
    keep(&queue->failed, err);
    if (!queue->device->failed) queue->device->failed = queue;
}

/* Runs `expr` on a queue that has not failed; its error becomes the queue's, for sync to return. */
#define ON_QUEUE(queue, expr)                                  \
    do {                                                       \
        if ((queue)->failed.err != DML_ERR_OK) break;          \
        dml_err on_err_ = dml_cuda_use((queue)->device);       \
        if (on_err_ == DML_ERR_OK) on_err_ = (expr);           \
        if (on_err_ != DML_ERR_OK) fail_queue(queue, on_err_); \
    } while (0)

/* ---- waiting ---- */

/* What a wait is for: an event that has passed or, without one, a stream that has run dry. */
typedef struct wanted {
    const dml_device *device;
    const char *queue;
    cudaStream_t stream;
    cudaEvent_t event;
    bool patiently; /* whoever has failed, and whatever is being stopped */
} wanted;

static cudaError_t ask(const wanted *w)
{
    const cudaError_t status = w->event ? cudaEventQuery(w->event) : cudaStreamQuery(w->stream);
    if (status == cudaErrorNotReady)
        cudaGetLastError(); /* an answer, no failure for others to find */
    return status;
}

static dml_err poll(const wanted *w, int64_t deadline_ns)
{
    const dml_abort *abort = w->patiently ? NULL : w->device->abort;
    const char *what = w->event ? "an event of " : "";
    const int64_t begin_ns = dml_clock_ns();
    for (int64_t turn = 0;; turn++) {
        const cudaError_t status = ask(w);
        if (status != cudaErrorNotReady)
            return dml_cuda_status(status, __FILE__, __LINE__,
                                   w->event ? "cudaEventQuery" : "cudaStreamQuery",
                                   "%squeue '%s' of device %d", what, w->queue, w->device->index);
        if (dml_abort_raised(abort))
            DML_FAIL(DML_ERR_PEER, "the run is being stopped (while waiting for %squeue '%s')",
                     what, w->queue);
        const int64_t now_ns = dml_clock_ns();
        const dml_queue *failed = w->device->failed;
        if (failed && !w->patiently && now_ns - begin_ns > PATIENCE_NS) {
            dml_err_trail_put(failed->failed.trail);
            return failed->failed.err;
        }
        if (now_ns >= deadline_ns)
            DML_FAIL(DML_ERR_PEER, "%squeue '%s' of device %d is not done after %.1f s", what,
                     w->queue, w->device->index, (double)(now_ns - begin_ns) * 1e-9);
        if (turn > SPINS) dml_sleep_until_ns(now_ns + NAP_NS);
    }
}

/* ---- queues ---- */

dml_err dml_cuda_queue_open(dml_device *device, const char *name, dml_queue **out)
{
    DML_TRY(dml_cuda_use(device));
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
    queue->next = device->queues;
    device->queues = queue;
    *out = queue;
    return DML_ERR_OK;
}

static void forget_failure(dml_queue *queue)
{
    if (queue->device->failed == queue) queue->device->failed = NULL;
}

void dml_cuda_queue_close(dml_queue *queue)
{
    if (!queue) return;
    cudaSetDevice(queue->device->index);
    forget_failure(queue);
    cudaStreamDestroy(queue->stream);
}

void dml_cuda_queues_free(dml_device *device)
{
    for (dml_queue *q = device->queues, *next; q; q = next) {
        next = q->next;
        free(q);
    }
}

dml_err dml_cuda_queue_submit(dml_queue *queue, dml_job job, void *arg)
{
    ON_QUEUE(queue, job(arg));
    return DML_ERR_OK;
}

dml_err dml_cuda_queue_copy(dml_queue *queue, void *dst, const void *src, int64_t bytes)
{
    ON_QUEUE(queue,
             DML_CUDA(cudaMemcpyAsync, (dst, src, (size_t)bytes, cudaMemcpyDefault, queue->stream),
                      "%lld bytes on queue '%s' of device %d", (long long)bytes, queue->name,
                      queue->device->index));
    return DML_ERR_OK;
}

/* A deadline that passed is the caller's error, not the queue's: what it holds may yet finish. */
dml_err dml_cuda_queue_sync(dml_queue *queue, int64_t deadline_ns)
{
    if (queue->failed.err != DML_ERR_OK) return said(&queue->failed);
    DML_TRY(dml_cuda_use(queue->device));
    const wanted all = {queue->device, queue->name, queue->stream, NULL, false};
    return poll(&all, deadline_ns);
}

/* What is left on the stream runs on what the failed step has left in memory: whoever renews discards both. */
dml_err dml_cuda_queue_renew(dml_queue *queue, int64_t deadline_ns)
{
    DML_TRY(dml_cuda_use(queue->device));
    const wanted rest = {queue->device, queue->name, queue->stream, NULL, true};
    DML_TRY(poll(&rest, deadline_ns));
    forget_failure(queue);
    queue->failed.err = DML_ERR_OK;
    queue->renewals++;
    return DML_ERR_OK;
}

dml_err dml_cuda_queue_sabotage(dml_queue *queue, dml_sabotage what)
{
    DML_TRY(dml_cuda_use(queue->device));
    const int32_t index = queue->device->index;
    switch (what) {
    case DML_SABOTAGE_ERROR:
        return DML_CUDA(dml_cu_trap, (queue->stream), "queue '%s' of device %d", queue->name,
                        index);
    case DML_SABOTAGE_HANG:
        return DML_CUDA(dml_cu_hang, (queue->stream), "queue '%s' of device %d", queue->name,
                        index);
    }
    DML_FAIL(DML_ERR_BUG, "no sabotage has the number %d", (int)what);
}

void *dml_cuda_queue_native(dml_queue *queue)
{
    return queue->stream;
}

/* ---- events ---- */

dml_err dml_cuda_event_open(dml_device *device, dml_event **out)
{
    DML_TRY(dml_cuda_use(device));
    dml_event *event = calloc(1, sizeof *event);
    if (!event) DML_FAIL(DML_ERR_NOMEM, "no memory for an event");
    event->device = device;
    const dml_err err = DML_CUDA(cudaEventCreateWithFlags, (&event->event, cudaEventDefault),
                                 "device %d", device->index);
    if (err != DML_ERR_OK) {
        free(event);
        return err;
    }
    *out = event;
    return DML_ERR_OK;
}

void dml_cuda_event_close(dml_event *event)
{
    if (!event) return;
    cudaSetDevice(event->device->index);
    cudaEventDestroy(event->event);
    free(event);
}

dml_err dml_cuda_event_record(dml_queue *queue, dml_event *event)
{
    ON_QUEUE(queue, DML_CUDA(cudaEventRecord, (event->event, queue->stream),
                             "queue '%s' of device %d", queue->name, queue->device->index));
    event->queue = queue;
    event->renewals = queue->renewals;
    event->is_void = queue->failed.err != DML_ERR_OK;
    return DML_ERR_OK;
}

dml_err dml_cuda_event_wait(dml_queue *queue, dml_event *event)
{
    const failure *failed = failure_of(event);
    if (queue->failed.err == DML_ERR_OK && failed) queue->failed = *failed;
    ON_QUEUE(queue, DML_CUDA(cudaStreamWaitEvent, (queue->stream, event->event, 0),
                             "queue '%s' of device %d", queue->name, queue->device->index));
    return DML_ERR_OK;
}

dml_err dml_cuda_event_await(dml_event *event, int64_t deadline_ns)
{
    if (!event->queue) return DML_ERR_OK;
    const failure *failed = failure_of(event);
    if (failed) return said(failed);
    DML_TRY(dml_cuda_use(event->device));
    const wanted passed = {event->device, event->queue->name, NULL, event->event, false};
    return poll(&passed, deadline_ns);
}

dml_err dml_cuda_event_elapsed(dml_event *begin, dml_event *end, int64_t *ns)
{
    float ms = 0.0f;
    DML_TRY(dml_cuda_use(begin->device));
    DML_TRY(DML_CUDA(cudaEventElapsedTime, (&ms, begin->event, end->event),
                     "events of queues '%s' and '%s' of device %d",
                     begin->queue ? begin->queue->name : "", end->queue ? end->queue->name : "",
                     begin->device->index));
    *ns = (int64_t)((double)ms * 1e6);
    return DML_ERR_OK;
}

/* ---- replays ---- */

/* Runs the job with its stream capturing.  Thread-local: what other threads of the process do meanwhile is
 * theirs, and what this one must not do now (allocate, wait) fails instead of getting lost. */
static dml_err record_graph(dml_queue *queue, dml_job job, void *arg, cudaGraph_t *out)
{
    const int32_t index = queue->device->index;
    DML_TRY(dml_cuda_use(queue->device));
    DML_TRY(DML_CUDA(cudaStreamBeginCapture, (queue->stream, cudaStreamCaptureModeThreadLocal),
                     "queue '%s' of device %d", queue->name, index));
    const dml_err err = job(arg);
    const cudaError_t ended = cudaStreamEndCapture(queue->stream, out);
    if (err != DML_ERR_OK) {
        cudaGetLastError(); /* the capture's end is an echo of the job's error, which stays the trail */
        return err;
    }
    return dml_cuda_status(ended, __FILE__, __LINE__, "cudaStreamEndCapture",
                           "queue '%s' of device %d", queue->name, index);
}

/* Uploaded now: otherwise the first launch brings it to the device, which may allocate and wait, and then other
 * queues may hold transfers that spin until their peers come. */
static dml_err make_ready(dml_queue *queue, cudaGraph_t graph, cudaGraphExec_t *out)
{
    DML_TRY(DML_CUDA(cudaGraphInstantiate, (out, graph, 0), "queue '%s' of device %d", queue->name,
                     queue->device->index));
    return DML_CUDA(cudaGraphUpload, (*out, queue->stream), "queue '%s' of device %d", queue->name,
                    queue->device->index);
}

dml_err dml_cuda_queue_capture(dml_queue *queue, dml_job job, void *arg, dml_replay **out)
{
    if (queue->failed.err != DML_ERR_OK) return said(&queue->failed);
    dml_replay *replay = calloc(1, sizeof *replay);
    if (!replay) DML_FAIL(DML_ERR_NOMEM, "no memory for a replay");
    replay->device = queue->device;
    cudaGraph_t graph = NULL;
    dml_err err = record_graph(queue, job, arg, &graph);
    if (err == DML_ERR_OK) err = make_ready(queue, graph, &replay->exec);
    if (graph) cudaGraphDestroy(graph);
    if (err != DML_ERR_OK) {
        dml_cuda_replay_close(replay);
        return err;
    }
    *out = replay;
    return DML_ERR_OK;
}

dml_err dml_cuda_queue_replay(dml_queue *queue, dml_replay *replay)
{
    ON_QUEUE(queue, DML_CUDA(cudaGraphLaunch, (replay->exec, queue->stream),
                             "queue '%s' of device %d", queue->name, queue->device->index));
    return DML_ERR_OK;
}

void dml_cuda_replay_close(dml_replay *replay)
{
    if (!replay) return;
    cudaSetDevice(replay->device->index);
    if (replay->exec) cudaGraphExecDestroy(replay->exec);
    free(replay);
}
