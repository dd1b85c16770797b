/* kernels/cuda/device_impl.h - what the files of the CUDA device share. */
#ifndef DML_KERNELS_CUDA_DEVICE_IMPL_H
#define DML_KERNELS_CUDA_DEVICE_IMPL_H

#include "kernels/cuda/device_cuda.h"

struct dml_device {
    int32_t index;
    const dml_abort *abort;
    dml_queue *queues; /* all ever opened, owned: a closed one may still be named by events */
    const dml_queue
        *failed; /* the first of its queues that did, NULL: none; borrowed until that is closed */
};

/* Makes it the calling thread's current device. */
dml_err dml_cuda_use(const dml_device *device);

/* ---- queue_cuda.c: the entries of dml_device_api ---- */

dml_err dml_cuda_queue_open(dml_device *device, const char *name, dml_queue **out);
void dml_cuda_queue_close(dml_queue *queue);
void dml_cuda_queues_free(dml_device *device); /* closed ones, when the device is */
dml_err dml_cuda_queue_submit(dml_queue *queue, dml_job job, void *arg);
dml_err dml_cuda_queue_copy(dml_queue *queue, void *dst, const void *src, int64_t bytes);
dml_err dml_cuda_queue_sync(dml_queue *queue, int64_t deadline_ns);
dml_err dml_cuda_queue_renew(dml_queue *queue, int64_t deadline_ns);
dml_err dml_cuda_queue_sabotage(dml_queue *queue, dml_sabotage what);
void *dml_cuda_queue_native(dml_queue *queue);
dml_err dml_cuda_event_open(dml_device *device, dml_event **out);
void dml_cuda_event_close(dml_event *event);
dml_err dml_cuda_event_record(dml_queue *queue, dml_event *event);
dml_err dml_cuda_event_wait(dml_queue *queue, dml_event *event);
dml_err dml_cuda_event_await(dml_event *event, int64_t deadline_ns);
dml_err dml_cuda_event_elapsed(dml_event *begin, dml_event *end, int64_t *ns);
dml_err dml_cuda_queue_capture(dml_queue *queue, dml_job job, void *arg, dml_replay **out);
dml_err dml_cuda_queue_replay(dml_queue *queue, dml_replay *replay);
void dml_cuda_replay_close(dml_replay *replay);

#endif
