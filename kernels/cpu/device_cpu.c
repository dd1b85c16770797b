/* kernels/cpu/device_cpu.c - a queue is a thread, a ring of commands and two counters.
 *
 *   submitting thread                              queue thread
 *   ring[submitted % capacity] = command;          wait until posted reaches done + 1
 *   submitted++, advance `posted`           --->   run ring[done % capacity]
 *   (waits while the ring is full)          <---   advance `done`
 *
 * An event needs no thread and no word of its own: recording it notes (queue, commands submitted so
 * far), and waiting for it is waiting until that queue's `done` has reached the note.  As the note is
 * copied into the wait command, a wait means the newest record submitted before it.  When it passed is when
 * the last command before it ended, which the queue thread notes in the ring, or when it was recorded if the
 * queue had nothing left to do.
 *
 * A queue fails at one command, number `failed_at`; it keeps counting the later ones as done without
 * running them, so nobody waits for ever, and who waits for a note at or past failed_at fails too.
 */
#include "kernels/cpu/device_cpu.h"

#include "engine/base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN_BYTES = 64, MAP_FROM_BYTES = 2 << 20, TRAIL_BYTES = 4096 };

typedef enum command_kind { COMMAND_JOB, COMMAND_COPY, COMMAND_WAIT } command_kind;

typedef struct command {
    command_kind kind;
    int64_t ended_ns; /* written by the queue thread before `done` counts it */
    union {
        struct {
            dml_job run;
            void *arg;
        } job;
        struct {
            void *dst;
            const void *src;
            int64_t bytes;
        } copy;
        struct {
            dml_queue *queue;
            uint64_t position; /* commands of `queue` that must be done */
        } wait;
    };
} command;

struct dml_queue {
    dml_device *device;
    const char *name;
    dml_queue *next; /* of the device */
    command *ring;   /* [capacity] owned */
    pthread_t thread;

    uint64_t submitted;       /* the submitting thread's */
    _Atomic uint32_t posted;  /* low half of `submitted`, which the queue thread waits on */
    _Atomic uint32_t done;    /* commands that have run or were skipped */
    _Atomic uint32_t closing; /* skip what is left and end */

    _Atomic uint32_t failed; /* a dml_err; the fields below are constant once it is not OK */
    uint64_t failed_at;      /* number of the command that failed, from 1 */
    char trail[TRAIL_BYTES];
};

struct dml_device {
    _Atomic uint32_t broken; /* by sabotage, for ever */
    uint32_t capacity;
    const dml_abort *abort;
    dml_queue *queues; /* all ever opened: a closed one may still be named by events */
    int32_t open_queues;
};

struct dml_event {
    dml_queue *queue; /* NULL: never recorded */
    uint64_t position;
    int64_t recorded_ns;
};

/* What a real one says of itself once it is lost. */
static dml_err check_device(const dml_device *device)
{
    if (!atomic_load_explicit(&device->broken, memory_order_relaxed)) return DML_ERR_OK;
    DML_FAIL(DML_ERR_UNAVAILABLE, "the device is lost: an error was injected into it");
}

/* ---- the queue thread ---- */

static void fail(dml_queue *q, uint64_t at, dml_err err)
{
    q->failed_at = at;
    snprintf(q->trail, sizeof q->trail, "%s", dml_err_trail());
    atomic_store_explicit(&q->failed, (uint32_t)err, memory_order_release);
}

/* The failure of `q` when it lies in its first `position` commands, its trail put into this thread. */
static dml_err failure(const dml_queue *q, uint64_t position)
{
    const dml_err err = (dml_err)atomic_load_explicit(&q->failed, memory_order_acquire);
    if (err == DML_ERR_OK || q->failed_at > position) return DML_ERR_OK;
    dml_err_trail_put(q->trail);
    return err;
}

static dml_err run_wait(const dml_queue *q, dml_queue *source, uint64_t position)
{
    char what[64];
    snprintf(what, sizeof what, "queue '%s' (in queue '%s')", source->name, q->name);
    DML_TRY(dml_wait_reached(&source->done, (uint32_t)position, INT64_MAX, q->device->abort, what));
    return failure(source, position);
}

static dml_err run(const dml_queue *q, const command *c)
{
    const dml_abort *abort = q->device->abort;
    DML_TRY(check_device(q->device));
    if (dml_abort_raised(abort))
        DML_FAIL(DML_ERR_PEER, "the run is being stopped (in queue '%s')", q->name);
    switch (c->kind) {
    case COMMAND_JOB: return c->job.run(c->job.arg);
    case COMMAND_COPY: memcpy(c->copy.dst, c->copy.src, (size_t)c->copy.bytes); return DML_ERR_OK;
    case COMMAND_WAIT: return run_wait(q, c->wait.queue, c->wait.position);
    }
    DML_FAIL(DML_ERR_BUG, "queue '%s' holds command kind %d", q->name, (int)c->kind);
}

static void *queue_thread(void *arg)
{
    dml_queue *q = arg;
    char name[16];
    snprintf(name, sizeof name, "%s", q->name);
    pthread_setname_np(pthread_self(), name);
    for (uint64_t number = 1;; number++) {
        dml_wait_reached(&q->posted, (uint32_t)number, INT64_MAX, NULL, "work");
        if (atomic_load_explicit(&q->closing, memory_order_acquire)) break;
        command *c = &q->ring[(number - 1) % q->device->capacity];
        if (atomic_load_explicit(&q->failed, memory_order_relaxed) == DML_ERR_OK) {
            const dml_err err = run(q, c);
            if (err != DML_ERR_OK) fail(q, number, err);
        }
        c->ended_ns = dml_clock_ns();
        dml_wait_advance(&q->done);
    }
    return NULL;
}

/* ---- memory ---- */

/* A block's bytes follow a header of ALIGN_BYTES: 0 for the heap, or the length of its mapping. */
static dml_err device_alloc(dml_device *device, int64_t bytes, void **out)
{
    DML_TRY(check_device(device));
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "an allocation of %lld bytes", (long long)bytes);
    const size_t padded = ((size_t)bytes + 2 * ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    const bool mapped = padded >= MAP_FROM_BYTES;
    void *block;
    if (mapped) {
        block = mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED)
            block = NULL;
        else
            madvise(block, padded, MADV_HUGEPAGE); /* a hint: fewer TLB misses in large matrices */
    } else {
        block = aligned_alloc(ALIGN_BYTES, padded);
        if (block) memset(block, 0, padded);
    }
    if (!block)
        DML_FAIL(DML_ERR_NOMEM, "the host has no %lld bytes (%.1f MiB) left", (long long)bytes,
                 (double)bytes / 0x1p20);
    *(size_t *)block = mapped ? padded : 0;
    *out = (char *)block + ALIGN_BYTES;
    return DML_ERR_OK;
}

static void device_free(dml_device *device, void *memory)
{
    (void)device;
    if (!memory) return;
    void *block = (char *)memory - ALIGN_BYTES;
    const size_t mapped = *(const size_t *)block;
    if (mapped)
        munmap(block, mapped);
    else
        free(block);
}

/* ---- device ---- */

static int32_t device_count(char *why, int64_t why_bytes)
{
    if (why_bytes > 0) why[0] = '\0';
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (int32_t)n;
}

static dml_err device_open(const dml_device_config *config, dml_device **out)
{
    if (config->queue_capacity < 1)
        DML_FAIL(DML_ERR_BUG, "a queue for %d commands", config->queue_capacity);
    dml_device *device = calloc(1, sizeof *device);
    if (!device) DML_FAIL(DML_ERR_NOMEM, "no memory for a device");
    device->capacity = (uint32_t)config->queue_capacity;
    device->abort = config->abort;
    *out = device;
    return DML_ERR_OK;
}

static void device_close(dml_device *device)
{
    if (!device) return;
    DML_ASSERT_OP(device->open_queues, ==, 0);
    for (dml_queue *q = device->queues, *next; q; q = next) {
        next = q->next;
        free(q);
    }
    free(device);
}

/* ---- queues ---- */

/* Signals are for the thread that submits. */
static int start_thread(dml_queue *q)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&q->thread, NULL, queue_thread, q);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static dml_err queue_open(dml_device *device, const char *name, dml_queue **out)
{
    dml_err err;
    DML_TRY(check_device(device));
    dml_queue *q = calloc(1, sizeof *q);
    if (!q) DML_FAIL(DML_ERR_NOMEM, "no memory for queue '%s'", name);
    q->device = device;
    q->name = name;
    q->ring = calloc(device->capacity, sizeof *q->ring);
    if (!q->ring) {
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__,
                          "no memory for queue '%s' of %u commands", name, device->capacity);
        goto fail_ring;
    }
    const int rc = start_thread(q);
    if (rc != 0) {
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__,
                          "cannot start a thread for queue '%s': %s", name, strerror(rc));
        goto fail_thread;
    }
    q->next = device->queues;
    device->queues = q;
    device->open_queues++;
    *out = q;
    return DML_ERR_OK;
fail_thread:
    free(q->ring);
fail_ring:
    free(q);
    return err;
}

static void queue_close(dml_queue *q)
{
    if (!q) return;
    atomic_store_explicit(&q->closing, 1, memory_order_release);
    dml_wait_advance(&q->posted);
    pthread_join(q->thread, NULL);

    /* Who waits for what was skipped fails instead of hanging. */
    const uint32_t done = atomic_load(&q->done), skipped = (uint32_t)q->submitted - done;
    if (skipped > 0 && failure(q, UINT64_MAX) == DML_ERR_OK) {
        dml_err_set(DML_ERR_PEER, __FILE__, __LINE__, "queue '%s' was closed with %u commands left",
                    q->name, skipped);
        fail(q, q->submitted - skipped + 1, DML_ERR_PEER);
    }
    dml_wait_set(&q->done, (uint32_t)q->submitted);
    free(q->ring);
    q->ring = NULL;
    q->device->open_queues--;
}

static dml_err post(dml_queue *q, command c)
{
    const uint64_t capacity = q->device->capacity;
    DML_TRY(check_device(q->device));
    if (q->submitted >= capacity) {
        char what[64];
        snprintf(what, sizeof what, "room in queue '%s'", q->name);
        DML_TRY(dml_wait_reached(&q->done, (uint32_t)(q->submitted - capacity + 1), INT64_MAX,
                                 q->device->abort, what));
    }
    q->ring[q->submitted++ % capacity] = c;
    dml_wait_advance(&q->posted);
    return DML_ERR_OK;
}

static dml_err queue_submit(dml_queue *q, dml_job job, void *arg)
{
    return post(q, (command){.kind = COMMAND_JOB, .job = {job, arg}});
}

static dml_err queue_copy(dml_queue *q, void *dst, const void *src, int64_t bytes)
{
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "a copy of %lld bytes", (long long)bytes);
    if (pthread_equal(pthread_self(), q->thread)) { /* inside a job */
        memcpy(dst, src, (size_t)bytes);
        return DML_ERR_OK;
    }
    return post(q, (command){.kind = COMMAND_COPY, .copy = {dst, src, bytes}});
}

/* Not ended by the abort flag: that ends the commands, and their arguments may be the caller's own. */
static dml_err queue_sync(dml_queue *q, int64_t deadline_ns)
{
    char what[64];
    snprintf(what, sizeof what, "queue '%s' to finish", q->name);
    const dml_err waited =
        dml_wait_reached(&q->done, (uint32_t)q->submitted, deadline_ns, NULL, what);
    DML_TRY(failure(q, UINT64_MAX)); /* the queue's own cause says more than the deadline */
    DML_TRY(check_device(q->device));
    return waited;
}

static dml_err queue_renew(dml_queue *q, int64_t deadline_ns)
{
    char what[64];
    snprintf(what, sizeof what, "queue '%s' to come to rest", q->name);
    DML_TRY(dml_wait_reached(&q->done, (uint32_t)q->submitted, deadline_ns, NULL, what));
    DML_TRY(check_device(q->device));
    atomic_store_explicit(&q->failed, DML_ERR_OK, memory_order_release);
    return DML_ERR_OK;
}

static void *queue_native(dml_queue *q)
{
    (void)q;
    return NULL;
}

/* ---- events ---- */

static dml_err event_open(dml_device *device, dml_event **out)
{
    (void)device;
    dml_event *event = calloc(1, sizeof *event);
    if (!event) DML_FAIL(DML_ERR_NOMEM, "no memory for an event");
    *out = event;
    return DML_ERR_OK;
}

static void event_close(dml_event *event)
{
    free(event);
}

static dml_err event_record(dml_queue *q, dml_event *event)
{
    event->queue = q;
    event->position = q->submitted;
    event->recorded_ns = dml_clock_ns();
    return DML_ERR_OK;
}

/* `done` counts modulo 2^32, so an old record is waited for as the youngest that must be done: what no longer
 * fits into the ring. */
static uint64_t wait_position(const dml_event *event)
{
    const uint64_t capacity = event->queue->device->capacity, submitted = event->queue->submitted;
    const uint64_t oldest = submitted > capacity ? submitted - capacity : 0;
    return event->position > oldest ? event->position : oldest;
}

static dml_err event_wait(dml_queue *q, dml_event *event)
{
    dml_queue *source = event->queue;
    if (!source || source == q) return DML_ERR_OK;
    return post(q, (command){.kind = COMMAND_WAIT, .wait = {source, wait_position(event)}});
}

static dml_err event_await(dml_event *event, int64_t deadline_ns)
{
    dml_queue *source = event->queue;
    if (!source) return DML_ERR_OK;
    char what[64];
    snprintf(what, sizeof what, "an event of queue '%s'", source->name);
    const dml_err waited = dml_wait_reached(&source->done, (uint32_t)wait_position(event),
                                            deadline_ns, source->device->abort, what);
    DML_TRY(failure(source, event->position));
    return waited;
}

/* When the newest record passed.  The ring remembers as many commands as it holds. */
static dml_err passed_at(const dml_event *event, int64_t *ns)
{
    const dml_queue *q = event->queue;
    if (!q) DML_FAIL(DML_ERR_BUG, "the time of an event that was never recorded");
    *ns = event->recorded_ns;
    if (event->position == 0) return DML_ERR_OK;
    const uint64_t capacity = q->device->capacity;
    if (!q->ring || q->submitted - event->position >= capacity)
        DML_FAIL(DML_ERR_BUG, "the time of an event of queue '%s' is asked for %llu commands late",
                 q->name, (unsigned long long)(q->submitted - event->position));
    if (!dml_seq_reached(atomic_load_explicit(&q->done, memory_order_acquire),
                         (uint32_t)event->position))
        DML_FAIL(DML_ERR_BUG, "the time of an event of queue '%s' that has not passed", q->name);
    const int64_t ended_ns = q->ring[(event->position - 1) % capacity].ended_ns;
    if (ended_ns > *ns) *ns = ended_ns;
    return DML_ERR_OK;
}

static dml_err event_elapsed(dml_event *begin, dml_event *end, int64_t *ns)
{
    int64_t begin_ns = 0, end_ns = 0;
    DML_TRY(passed_at(begin, &begin_ns));
    DML_TRY(passed_at(end, &end_ns));
    *ns = end_ns - begin_ns;
    return DML_ERR_OK;
}

/* ---- sabotage ---- */

/* Ends with the process alone. */
static dml_err endless_job(void *arg)
{
    (void)arg;
    while (pause() < 0) /* it always is */
        ;
    return DML_ERR_OK;
}

/* From inside a job it takes place there and then, as a copy does. */
static dml_err queue_sabotage(dml_queue *q, dml_sabotage what)
{
    switch (what) {
    case DML_SABOTAGE_ERROR: atomic_store(&q->device->broken, 1); return DML_ERR_OK;
    case DML_SABOTAGE_HANG:
        return pthread_equal(pthread_self(), q->thread) ? endless_job(NULL)
                                                        : queue_submit(q, endless_job, NULL);
    }
    DML_FAIL(DML_ERR_BUG, "sabotage %d", (int)what);
}

const dml_device_api dml_cpu_device = {
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .alloc = device_alloc,
    .free = device_free,
    .host_alloc = device_alloc,
    .host_free = device_free,
    .queue_open = queue_open,
    .queue_close = queue_close,
    .submit = queue_submit,
    .copy = queue_copy,
    .sync = queue_sync,
    .renew = queue_renew,
    .native = queue_native,
    .event_open = event_open,
    .event_close = event_close,
    .record = event_record,
    .wait = event_wait,
    .await = event_await,
    .elapsed = event_elapsed,
    .sabotage = queue_sabotage,
};
