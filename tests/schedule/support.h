/* tests/schedule/support.h - programs to test with, and goldens. */
#ifndef DML_TESTS_SCHEDULE_SUPPORT_H
#define DML_TESTS_SCHEDULE_SUPPORT_H

#include "tests/support/test.h"

#include "schedule/cost.h"
#include "schedule/program.h"
#include "schedule/schedule.h"

/* A stream of random numbers. */
typedef struct rnd {
    uint64_t key, count;
} rnd;

rnd rnd_of(uint64_t seed);
int32_t rnd_below(rnd *r, int32_t n); /* uniform on 0 .. n - 1 */

/* The order of one pipeline of a named schedule, one chunk per stage. */
dml_program make_order(const char *schedule, int32_t stages, int32_t mbs);

/* `args` with the updates that the schedule takes, if it is asynchronous: two or more where it can. */
dml_schedule_args with_updates(const dml_schedule *s, dml_schedule_args args);

/* The same, lowered with F = f, I = i, W = w and free transfers. */
dml_program make_program(const char *schedule, int32_t stages, int32_t mbs, int64_t f, int64_t i,
                         int64_t w);

/* All chunks alike; transfers take latency_ns. */
dml_cost make_cost(int32_t chunks, int64_t f, int64_t i, int64_t w, int64_t latency_ns);

/* A random order that respects the dependencies: up to 5 workers, 6 chunks, 6 micro-batches;
 * chunks on one worker each, replicated, or routed at random; B, or I and W, or both; one to four
 * buckets a chunk; often with skips; sometimes forward-only, sometimes staggered. */
dml_program random_order(rnd *r);

/* Up to three values that up to three later chunks each read past their neighbours, for a program without. */
void random_skips(rnd *r, dml_program *p);

/* The same for an asynchronous order of two or three updates, whose ops read any version that is there when they are
 * emitted; with votes or without. */
dml_program random_async_order(rnd *r);

/* One or the other. */
dml_program random_any_order(rnd *r);

dml_cost random_cost(rnd *r, const dml_program *p); /* for its chunks, buckets and skips */
void random_cluster(rnd *r, int32_t workers, dml_cost *cost); /* speeds and levels of links, too */

/* How many ops of the kind the worker has. */
int32_t count_ops(const dml_program *p, int32_t worker, dml_op_kind kind);

/* Takes op i out of the worker's list; waits for later ops follow, waits for it go. */
void drop_op(dml_program *p, int32_t worker, int32_t i);

/* `text` is what tests/golden/NAME holds; with DML_BLESS=1 in the environment writes the file. */
void check_golden(const char *name, const char *text);

#endif
