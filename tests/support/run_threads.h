/* tests/support/run_threads.h - a whole training run inside this process, one thread per worker.
 *
 * The same worker code as in real runs, over the `local` transport or, on a GPU, the backend's own: what TSan
 * can look at, and what tests of bits can call thousands of times.
 */
#ifndef DML_TEST_RUN_THREADS_H
#define DML_TEST_RUN_THREADS_H

#include "engine/chunk.h"
#include "engine/control.h"
#include "engine/metrics.h"
#include "engine/plan.h"
#include "engine/trace.h"

enum { RUN_STEPS = 256, RUN_PLANS = 64 };

typedef struct run_result {
    dml_err err;
    char trail[DML_TRAIL_BYTES]; /* of the first worker that failed */
    int32_t workers;
    int32_t changes; /* of plan */
    int64_t steps;
    dml_report_step step[RUN_STEPS]; /* the first RUN_STEPS, redone and skipped ones included */
    bool has_eval;
    dml_report_eval eval; /* the last */
    dml_report_end end[DML_HOST_WORKERS];
    uint64_t weights_hash; /* stages summed; replicas were found equal */
} run_result;

/* Loads the spec with overrides (NULL-terminated list) and runs it.  Fails the test when the spec or the plan
 * is refused; a failure of the run itself is in the result. */
run_result run_threads(const char *spec_path, const char *const *overrides);

/* What a test wants to see of the run; members may be NULL. */
typedef struct run_hooks {
    void (*plan)(void *context, dml_plan *plan); /* before the workers begin: may change it */
    void (*begin)(void *context,
                  dml_control *control); /* as the workers begin, in a thread of its own */
    /* what runs in the place of the spec's backend, such as the same with an entry wrapped */
    const dml_backend *(*backend)(void *context, const dml_backend *backend);
    void (*step)(void *context, int64_t step,
                 dml_control *control); /* after each step, rank 0's thread */
    void (*failed)(void *context, int32_t rank, const char *trail); /* each worker that does */
    void (*inspect)(void *context, const dml_chunk *chunk,
                    bool after); /* engine/worker.h; serialised */
    /* The plan of `generation` (from 1), that control->plan has announced: overrides of the first one's spec, NULL-terminated;
     * NULL entry: the plan never changes. */
    const char *const *(*change)(void *context, uint32_t generation);
    /* balance: dynamic: each window weighed; serialised */
    void (*balance)(void *context, const dml_balance_record *b);
    /* what was traced, where the spec asks for it; when all workers have ended */
    void (*trace)(void *context, const dml_trace *trace, const run_result *result);
    void *context;
} run_hooks;
run_result run_threads_hooked(const char *spec_path, const char *const *overrides, run_hooks hooks);

#endif
