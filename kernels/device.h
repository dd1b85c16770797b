/* kernels/device.h - memory, queues and events of one device.
 *
 * A queue runs jobs in order.  On CPU it is a thread and a job runs on it; on CUDA it is a stream and a
 * job runs at once on the submitting thread, enqueueing kernels on that stream.  So a job may do only
 * two things: call kernels and transports on its own queue.  One thread submits; kernels never wait on
 * the host for another queue: order between queues comes from events alone.
 *
 * Events: `record` marks a point in a queue; `wait` makes a queue wait for the newest record *submitted
 * before it*.  Waiting on an event never recorded is no wait.
 *
 * The first failure in a queue sticks: later jobs on it are skipped, and queues that wait on its events
 * fail too; `sync` returns that error, with its trail put into the caller's thread.
 */
#ifndef DML_KERNELS_DEVICE_H
#define DML_KERNELS_DEVICE_H

#include "engine/base/err.h"
#include "engine/base/wait.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct dml_device dml_device;
typedef struct dml_queue dml_queue;
typedef struct dml_event dml_event;
typedef struct dml_replay dml_replay; /* what a job enqueued, kept to be enqueued again */

/* A job of a queue.  `arg` is borrowed until the job has run. */
typedef dml_err (*dml_job)(void *arg);

/* Faults on purpose, for tests of recovery. */
typedef enum dml_sabotage {
    DML_SABOTAGE_ERROR, /* the device fails at it: every later call says so, until the process ends */
    DML_SABOTAGE_HANG, /* it never ends, and what comes behind it in the queue never begins */
} dml_sabotage;

/* What a driver says of a device by itself, whoever uses it. */
typedef enum dml_news_kind {
    DML_NEWS_LOST, /* the device is: its worker ends */
    DML_NEWS_LINK, /* the way to another */
} dml_news_kind;

typedef struct dml_news {
    dml_news_kind kind;
    int32_t code;   /* the driver's: NVIDIA's Xid */
    char text[160]; /* "Xid 79 of device 0 (0000:3B:00.0): the GPU has fallen off the bus" */
} dml_news;

typedef struct dml_watch dml_watch;
/* Called on the watch's thread. */
typedef void (*dml_tell)(void *context, const dml_news *news);

typedef struct dml_device_config {
    int32_t index;          /* among the visible devices */
    int32_t threads;        /* host threads a kernel may use, >= 1; CPU only */
    int32_t queue_capacity; /* jobs, records and waits that one queue holds before submit blocks */
    const dml_abort *abort; /* ends every wait; borrowed, may be NULL */
} dml_device_config;

typedef struct dml_device_api {
    /* Devices this process sees.  0: `why` says why in one clause, NUL-terminated. */
    int32_t (*count)(char *why, int64_t why_bytes);

    dml_err (*open)(const dml_device_config *config, dml_device **out);
    void (*close)(dml_device *device); /* queues and events first; NULL is fine */

    /* Device memory, 64-byte aligned, zeroed.  DML_ERR_NOMEM names the bytes. */
    dml_err (*alloc)(dml_device *device, int64_t bytes, void **out);
    void (*free)(dml_device *device, void *memory);
    /* Host memory that copies to and from the device fastest (pinned on CUDA), zeroed. */
    dml_err (*host_alloc)(dml_device *device, int64_t bytes, void **out);
    void (*host_free)(dml_device *device, void *memory);

    /* `name` (static) appears in errors and thread names. */
    dml_err (*queue_open)(dml_device *device, const char *name, dml_queue **out);
    void (*queue_close)(dml_queue *queue); /* skips what has not run; NULL is fine */
    dml_err (*submit)(dml_queue *queue, dml_job job, void *arg);
    /* Copies between host and device memory or within either, in queue order; from inside a job of the
     * queue it takes place there and then. */
    dml_err (*copy)(dml_queue *queue, void *dst, const void *src, int64_t bytes);
    /* Returns when all that was submitted to the queue has run or been skipped, with the queue's first error.
     * Where jobs run on the queue's thread the abort flag ends it through them, and what they borrowed is free again.
     * A device that runs by itself may go on with what it was given, memory of copies too, as after a deadline: until
     * renew has returned DML_ERR_OK, or the process has ended.
     * DML_ERR_PEER         the deadline (dml_clock_ns) passed, or the abort flag was raised
     * DML_ERR_UNAVAILABLE  the device is lost: nothing may be asked of it any more, and this process must end */
    dml_err (*sync)(dml_queue *queue, int64_t deadline_ns);
    /* Forgets a failure and goes on: the queue of a worker that survives the loss of another.  Waits until nothing
     * submitted before runs any more; the abort flag does not end that, and a transfer that waits for a peer is
     * ended by its transport (comm/transport.h, abandon).  Events recorded before it have passed.
     * DML_ERR_PEER         the deadline passed
     * DML_ERR_UNAVAILABLE  the device itself is broken, and so it stays */
    dml_err (*renew)(dml_queue *queue, int64_t deadline_ns);
    /* The library handle kernels of this backend need (cudaStream_t); NULL on CPU. */
    void *(*native)(dml_queue *queue);

    dml_err (*event_open)(dml_device *device, dml_event **out);
    void (*event_close)(dml_event *event); /* NULL is fine */
    dml_err (*record)(dml_queue *queue, dml_event *event);
    dml_err (*wait)(dml_queue *queue, dml_event *event);
    /* The host waits until the event's newest record has passed; never recorded is no wait.  With a deadline
     * in the past it only looks.  DML_ERR_PEER at the deadline or when the abort flag is raised; the queue's
     * error when it failed before. */
    dml_err (*await)(dml_event *event, int64_t deadline_ns);
    /* Device time between the newest records of two events of one device.  DML_ERR_BUG  one was never recorded or
     * has not passed, or, on CPU, its queue has been given queue_capacity commands since. */
    dml_err (*elapsed)(dml_event *begin, dml_event *end, int64_t *ns);

    /* Runs `job` so that what it enqueues on `queue` is kept and not run: CUDA's stream capture.  The job
     * enqueues on no other queue, waits for nothing and records nothing.  NULL entries: not on this device,
     * submit the job each time.  Allocates, so not inside a step; memory named in it must stay. */
    dml_err (*capture)(dml_queue *queue, dml_job job, void *arg, dml_replay **out);
    dml_err (*replay)(dml_queue *queue, dml_replay *replay);
    void (*replay_close)(dml_replay *replay); /* after the queue is idle; NULL is fine */

    /* Goes to the end of the queue; called between jobs, by the thread that submits.  On CPU also from inside a job of
     * the queue: there and then. */
    dml_err (*sabotage)(dml_queue *queue, dml_sabotage what);

    /* Watches device `index`, open or not, on a thread of its own.  NULL entries: nobody would say anything.
     * DML_ERR_UNAVAILABLE  what would is not here: the text says which library or call */
    dml_err (*watch)(int32_t index, dml_tell tell, void *context, dml_watch **out);
    void (*unwatch)(dml_watch *watch); /* NULL is fine */
} dml_device_api;

#endif
