/* comm/beacon.c - a robust mutex as a sign of life. */
#include "comm/beacon.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { HELD = 1, RELEASED, SLICE_MS = 100 };

dml_err dml_beacon_init(dml_beacon *beacon)
{
    memset(beacon, 0, sizeof *beacon);
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    const int rc = pthread_mutex_init(&beacon->alive, &attr);
    pthread_mutexattr_destroy(&attr);
    if (rc != 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no robust mutexes here: %s", strerror(rc));
    return DML_ERR_OK;
}

dml_err dml_beacon_hold(dml_beacon *beacon)
{
    const int rc = pthread_mutex_trylock(&beacon->alive);
    if (rc != 0) DML_FAIL(DML_ERR_BUG, "the beacon cannot be held: %s", strerror(rc));
    dml_wait_set(&beacon->held, HELD);
    return DML_ERR_OK;
}

void dml_beacon_release(dml_beacon *beacon)
{
    dml_wait_set(&beacon->held, RELEASED);
    pthread_mutex_unlock(&beacon->alive);
}

/* In slices: when three or more threads wait, glibc (2.36) loses the wake-up of the third. */
static int lock_until(dml_beacon *beacon, int64_t deadline_ns)
{
    for (;;) {
        const int64_t now_ns = dml_clock_ns(), slice_ns = SLICE_MS * DML_NS_PER_MS;
        const int64_t until_ns = deadline_ns - now_ns < slice_ns ? deadline_ns : now_ns + slice_ns;
        const struct timespec until = {.tv_sec = until_ns / DML_NS_PER_S,
                                       .tv_nsec = until_ns % DML_NS_PER_S};
        const int rc = pthread_mutex_clocklock(&beacon->alive, CLOCK_MONOTONIC, &until);
        if (rc != ETIMEDOUT || until_ns == deadline_ns) return rc;
    }
}

dml_err dml_beacon_watch(dml_beacon *beacon, int64_t deadline_ns, dml_life *out)
{
    *out = DML_LIFE_ON;
    /* Locking before the worker does would keep it from holding. */
    if (dml_wait_reached(&beacon->held, HELD, deadline_ns, NULL, "a beacon to be held") !=
        DML_ERR_OK)
        return DML_ERR_OK;
    const int rc = lock_until(beacon, deadline_ns);
    switch (rc) {
    case ETIMEDOUT: return DML_ERR_OK;
    case EOWNERDEAD: /* the first watcher; unlocking it unrepaired tells all others */
        pthread_mutex_unlock(&beacon->alive);
        *out = DML_LIFE_LOST;
        return DML_ERR_OK;
    case ENOTRECOVERABLE: *out = DML_LIFE_LOST; return DML_ERR_OK;
    case 0:
        pthread_mutex_unlock(&beacon->alive);
        *out = DML_LIFE_LEFT;
        if (atomic_load(&beacon->held) == RELEASED) return DML_ERR_OK;
    }
    DML_FAIL(DML_ERR_BUG, "the beacon's holder let it go: %s", strerror(rc));
}
