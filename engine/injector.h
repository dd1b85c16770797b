/* engine/injector.h - the agent's side of faults on purpose: which there are, and those whose time comes.
 *
 *   spec ------> board, as the run begins          at its step a worker strikes itself (engine/inject_strike.h)
 *   dml-ctl ---> board, while it runs
 *   random ----> drawn, exponential pauses         their time comes here: a signal to the process, where kill, segfault and
 *                                                  hang are meant; else the worker's next op
 *
 * Who a fault is for is settled when it is put on the board: stage and replica under the plan of then.
 */
#ifndef DML_ENGINE_INJECTOR_H
#define DML_ENGINE_INJECTOR_H

#include "engine/control.h"
#include "engine/plan.h"

typedef struct dml_injector_config {
    const dml_plan *plan; /* the first; borrowed while the injector is */
    dml_control *control; /* borrowed */
    /* A real signal to the rank's process; false: it has none.  NULL: workers are threads, and strike themselves. */
    bool (*signal)(void *context, int32_t rank, int number);
    /* Before a signal is sent: what a FAULT report of the worker itself would say. */
    void (*note)(void *context, int32_t rank, const dml_report_fault *fault);
    void *context;
} dml_injector_config;

typedef struct dml_injector {
    dml_injector_config c;
    dml_fault_board *board; /* control's */
    int64_t begin_ns;       /* the clock of faults by time; 0: it has not begun */
    int64_t next_random_ns;
    int32_t drawn;
    uint64_t draws;                      /* of the generator */
    int64_t resume_ns[DML_HOST_WORKERS]; /* SIGCONT to a rank that hangs; 0: none */
} dml_injector;

/* Puts the faults of plan->spec on the board.
 * DML_ERR_SPEC  one is for a rank, a stage, a replica or a tensor that there is not */
dml_err dml_injector_open(const dml_injector_config *config, dml_injector *out);

/* The first step begins: from here on time counts.  Again: nothing. */
void dml_injector_begin(dml_injector *in, int64_t now_ns);

/* One more, under `plan`; with neither step nor time it strikes at once.  `lost`: ranks that are not there, as bits.
 * DML_ERR_SPEC  it is for nobody, or the board is full */
dml_err dml_injector_add(dml_injector *in, const dml_fault *fault, const dml_plan *plan,
                         uint64_t lost, int64_t now_ns);

/* A FAULT report has come: of a hang, how long it lasts. */
void dml_injector_take(dml_injector *in, int32_t rank, const dml_report_fault *fault);

/* Strikes what is due; returns when it wants to be called next, INT64_MAX: not for its own sake. */
int64_t dml_injector_tick(dml_injector *in, int64_t now_ns, uint64_t lost);

/* Faults of the board that nobody has struck, for the summary: their texts, separated by "; ".  Returns how many. */
int32_t dml_injector_left(const dml_injector *in, dml_str *out);

#endif
