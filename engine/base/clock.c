/* base/clock.c - monotonic nanoseconds. */
#include "engine/base/clock.h"

#include <errno.h>
#include <time.h>

int64_t dml_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * DML_NS_PER_S + t.tv_nsec;
}

void dml_sleep_until_ns(int64_t until_ns)
{
    const struct timespec t = {.tv_sec = until_ns / DML_NS_PER_S,
                               .tv_nsec = until_ns % DML_NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        continue;
}
