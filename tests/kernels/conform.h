/* tests/kernels/conform.h - the conformance suite: a backend is done when it passes.
 *
 * For each kernel, problems of random shapes are run on the backend's device, by its own queue and
 * copies, and compared with the reference on the host: outputs to the tolerance of the case, guard
 * bytes around every tensor and all inputs unchanged, a second run and a run in place with the same
 * bits.  Backward kernels are also compared with a central difference of the reference's forward in
 * double, along a random direction.  Entries that are NULL are named as skipped.
 */
#ifndef DML_TESTS_KERNELS_CONFORM_H
#define DML_TESTS_KERNELS_CONFORM_H

#include "kernels/backend.h"
#include "tests/kernels/problem.h"

typedef struct dml_conform_config {
    const char *filter; /* kernels whose name contains it; NULL: all */
    int32_t device;     /* among the backend's */
    int32_t threads;
    bool deterministic;
    int32_t rounds; /* problems for each kernel */
    uint64_t seed;
} dml_conform_config;

/* Prints a line for each failure and a summary; returns the number of failures. */
int dml_conform_run_with(const dml_backend *b, const dml_conform_config *config);

/* One thread, deterministic, a few rounds. */
int dml_conform_run(const dml_backend *b, const char *filter);

/* An open backend, for tests that run problems on it. */
typedef struct dml_conform_env {
    const dml_backend *backend;
    dml_device *device;
    dml_queue *queue;
    dml_kctx *k;
    int failures;
} dml_conform_env;

dml_err dml_conform_open(dml_conform_env *env, const dml_backend *b, int32_t threads,
                         bool deterministic);
/* The same on device `index`. */
dml_err dml_conform_open_at(dml_conform_env *env, const dml_backend *b, int32_t index,
                            int32_t threads, bool deterministic);
void dml_conform_close(dml_conform_env *env);

/* Runs `p` on the device, with guards; outputs come back into the host memory of p's arguments.
 *
 *   in_place  outputs share memory with the input they may be
 *
 * DML_ERR_CHECK  a guard or an input was written */
dml_err dml_conform_execute(dml_conform_env *env, dml_problem *p, bool in_place);

/* Counts and prints a failure. */
void dml_conform_fail(dml_conform_env *env, const dml_problem *p, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* gradient.c: backward kernels against differences; `rounds` problems for each pair. */
void dml_conform_gradients(dml_conform_env *env, const dml_conform_config *config);

#endif
