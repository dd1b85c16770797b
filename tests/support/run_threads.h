/* tests/support/run_threads.h - a whole training run inside this process, one thread per worker.
 *
 * The same worker code as in real runs, over the `local` transport or, on a GPU, the backend's own: what TSan
 * can look at, and what tests of bits can call thousands of times.  The agent's machine (engine/recovery.h) is the same,
 * too: a worker that is killed is a thread that ends without a word, one that is started again is another thread.
 * Where the machine runs, failpoints count as the agent's.
 */
#ifndef DML_TEST_RUN_THREADS_H
#define DML_TEST_RUN_THREADS_H

#include "engine/chunk.h"
#include "engine/control.h"
#include "engine/metrics.h"
#include "engine/plan.h"
#include "engine/recovery.h"
#include "engine/trace.h"

enum { RUN_STEPS = 256, RUN_THREADS = 256 };

typedef struct run_result {
    dml_err err;
    char trail[DML_TRAIL_BYTES]; /* of the first worker that failed */
    int32_t workers;
    int32_t changes;    /* of plan, recoveries among them */
    int32_t losses;     /* of workers */
    int32_t recoveries; /* after which the run went on */
    int32_t joined;     /* workers that came back */
    int64_t steps;
    int64_t begins_after; /* steps of the checkpoint that it went on from: they are not in step[] */
    int32_t saves;        /* checkpoints that were published */
    dml_report_step step
        [RUN_STEPS]; /* the first RUN_STEPS, skipped ones included; of those told twice the last */
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
    void (*control)(void *context,
                    dml_control *control); /* before they begin: faults onto its board */
    void (*begin)(void *context,
                  dml_control *control); /* as the workers begin, in a thread of its own */
    /* what runs in the place of the spec's backend, such as the same with an entry wrapped */
    const dml_backend *(*backend)(void *context, const dml_backend *backend);
    void (*step)(void *context, int64_t step,
                 dml_control *control); /* after each step, rank 0's thread */
    void (*failed)(void *context, int32_t rank, const char *trail); /* each worker that does */
    void (*inspect)(void *context, const dml_chunk *chunk,
                    bool after); /* engine/worker.h; serialised */
    /* After each step, unless a change is under way: overrides of the first plan's spec, NULL-terminated, for the plan to
     * change to; NULL: to stay. */
    const char *const *(*change)(void *context, int64_t step);
    /* What the recovery has to say; serialised. */
    void (*recovery)(void *context, const dml_recovery_event *event);
    /* balance: dynamic: each window weighed; serialised */
    void (*balance)(void *context, const dml_balance_record *b);
    /* what was traced, where the spec asks for it; when all workers have ended */
    void (*trace)(void *context, const dml_trace *trace, const run_result *result);
    void (*saved)(void *context, bool failed, const char *text); /* engine/keeper.h */
    void *context;
} run_hooks;
run_result run_threads_hooked(const char *spec_path, const char *const *overrides, run_hooks hooks);

#endif
