/* base/clock.h - monotonic nanoseconds. */
#ifndef DML_BASE_CLOCK_H
#define DML_BASE_CLOCK_H

#include <stdint.h>

#define DML_NS_PER_S  INT64_C(1000000000)
#define DML_NS_PER_MS INT64_C(1000000)

/* CLOCK_MONOTONIC in ns; the same clock in every process of one host. */
int64_t dml_clock_ns(void);

/* Sleeps until the monotonic clock reads at least `until_ns`; returns at once when it already does. */
void dml_sleep_until_ns(int64_t until_ns);

#endif
