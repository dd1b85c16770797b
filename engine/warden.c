/* engine/warden.c - a beacon for as long as the process lives, and a thread that beats.
 *
 * Linux lets an ordinary user do little for one thread: a real-time class only with a limit of rtprio, a better nice
 * only down to 20 - the limit of nice.  What is left is to ask for short slices (from 6.12 on), which the scheduler gives
 * sooner, and to sleep nearly always, which it rewards.
 */
#include "engine/warden.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 256 << 10, SLICE_NS = 100000, DEFAULT_EVERY_MS = 100 };

/* As sched_setattr(2) takes it; libc declares it only from 2.41 on. */
typedef struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
} attributes;

/* As far as this user may; each refusal leaves what there was. */
static void hurry(void)
{
    const struct sched_param first = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1UL);
    if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0) return;
    struct rlimit nice_limit;
    int nice = 0;
    if (getrlimit(RLIMIT_NICE, &nice_limit) == 0 && nice_limit.rlim_cur > 20)
        nice = nice_limit.rlim_cur >= 40 ? -20 : 20 - (int)nice_limit.rlim_cur;
    const attributes a = {
        .size = sizeof a, .policy = SCHED_OTHER, .nice = nice, .runtime = SLICE_NS};
    syscall(SYS_sched_setattr, 0, &a, 0);
}

/* False: the time is over. */
static bool is_told_to_end(dml_warden *w, int64_t until_ns)
{
    const struct timespec until = {.tv_sec = until_ns / DML_NS_PER_S,
                                   .tv_nsec = until_ns % DML_NS_PER_S};
    while (sem_clockwait(&w->end, CLOCK_MONOTONIC, &until) != 0)
        if (errno == ETIMEDOUT) return false; /* else EINTR */
    return true;
}

static void *beat(void *arg)
{
    dml_warden *w = arg;
    int64_t now_ns;
    hurry();
    atomic_store_explicit(&w->page->beat_tid, (int32_t)syscall(SYS_gettid), memory_order_relaxed);
    do {
        now_ns = dml_clock_ns();
        atomic_store_explicit(&w->page->beat_ns, now_ns, memory_order_release);
    } while (!is_told_to_end(w, now_ns + w->every_ns));
    return NULL;
}

static dml_err start(dml_warden *w)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    const int rc = pthread_create(&w->thread, &attr, beat, w);
    pthread_attr_destroy(&attr);
    if (rc != 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no thread for the heartbeat: %s", strerror(rc));
    return DML_ERR_OK;
}

dml_err dml_warden_open(dml_control *control, int32_t rank, dml_warden *out)
{
    dml_warden *w = out;
    *w = (dml_warden){.page = &control->worker[rank], .every_ns = control->heartbeat_ns};
    if (w->every_ns <= 0) w->every_ns = DEFAULT_EVERY_MS * DML_NS_PER_MS;
    dml_err err = dml_beacon_hold(&w->page->beacon);
    if (err != DML_ERR_OK) goto fail_hold;
    sem_init(&w->end, 0, 0);
    err = start(w);
    if (err != DML_ERR_OK) goto fail_start;
    return DML_ERR_OK;
fail_start:
    sem_destroy(&w->end);
    dml_beacon_release(&w->page->beacon);
fail_hold:
    *w = (dml_warden){0};
    return err;
}

void dml_warden_close(dml_warden *w)
{
    if (!w->page) return;
    sem_post(&w->end);
    pthread_join(w->thread, NULL);
    sem_destroy(&w->end);
    atomic_store_explicit(&w->page->beat_ns, 0, memory_order_release);
    dml_beacon_release(&w->page->beacon);
    *w = (dml_warden){0};
}
