/* engine/leader.h - what is done with the workers' reports: console, metrics, summary, verdict of the run.
 *
 * The agent feeds it, and so do tests that run workers as threads.
 */
#ifndef DML_ENGINE_LEADER_H
#define DML_ENGINE_LEADER_H

#include "engine/console.h"
#include "engine/control.h"
#include "engine/data.h"
#include "engine/logbook.h"
#include "engine/metrics.h"
#include "engine/trace.h"
#include "kernels/backend.h"

enum { DML_LEADER_RECOVERIES = 16 }; /* rows of the table at the end: the newest */

/* What was lost, and how the run went on: engine/leader_recovery.c. */
typedef struct dml_leader_mended {
    const dml_plan *first; /* borrowed: with nobody lost */
    uint64_t lost;         /* bit r: rank r is not there now */
    int64_t n, failures;   /* recoveries; workers lost, each time they were */
    int64_t steps_lost;
    double time_max_s;                               /* of a recovery; nan: none */
    dml_recovery_figures row[DML_LEADER_RECOVERIES]; /* n modulo that */
    double before;  /* samples/s under the plan before; nan: no step */
    bool is_pacing; /* throughput after recovery n is still to be said */
} dml_leader_mended;

typedef struct dml_leader {
    const dml_plan *plan; /* of now; borrowed */
    int32_t processes;    /* workers of the run, whatever the plan */
    dml_console_view view;
    dml_metrics metrics;
    bool has_metrics;
    const dml_trace *trace;   /* borrowed; NULL: none */
    FILE *trace_to, *draw_to; /* owned; NULL: not wanted */
    int64_t total_steps, train_samples, epoch_steps, begin_ns;
    dml_data *counts; /* owned: how many samples each step has */

    double planned_step_s; /* from the spec's costs or delays; nan: unknown, as the bubbles */
    double planned_bubble[DML_HOST_WORKERS];
    dml_stats
        step_times; /* seconds, all steps under this plan but its first, unless that is the only one */
    int64_t first_step; /* under this plan, from 0 */
    int32_t changes;    /* of plan */
    double entropy[2];  /* of the load, in the first window and the last; nan: not measured */
    double train_time_s, step_time_s; /* so far; a running mean for the eta */
    int64_t steps, samples;
    int64_t resumed_samples; /* of them those that were trained on before this run */
    double bubble_sum;
    double loss, test_loss, test_accuracy;
    dml_report_end end[DML_HOST_WORKERS];
    bool ended[DML_HOST_WORKERS];
    uint64_t weights_hash; /* of the whole model; once all who are there have ended */
    dml_leader_mended mended;
    int64_t metrics_bytes; /* written when this was noted */
} dml_leader;

typedef struct dml_leader_config {
    const dml_plan *plan;
    const dml_backend *backend;
    const char *why; /* why this backend, from dml_backend_find */
    const char *spec_path;
    int32_t threads;        /* per worker */
    const dml_trace *trace; /* written by finish; borrowed until then; NULL: none */
    FILE *console;          /* stderr; NULL: silent */
} dml_leader_config;

/* Opens metrics and the files of a trace, prints the header.
 *
 * DML_ERR_DATA         no data, or the output folder or a trace's file cannot be written
 * DML_ERR_UNAVAILABLE  another run is writing to it */
dml_err dml_leader_open(dml_leader *l, const dml_leader_config *config);

/* ---- leader_again.c ---- */

enum { DML_LEADER_PARTS = 6 };

/* What of it goes into the logbook; call it before each note. */
void dml_leader_parts(dml_leader *l, dml_logbook_part part[DML_LEADER_PARTS]);
void dml_leader_before_note(dml_leader *l);
/* In the place of open, for an agent that was started again: nothing is printed or written anew.  Then the logbook is read,
 * and then: records that were written since the last note are gone, and reports are taken under `plan`.
 * DML_ERR_DATA, DML_ERR_UNAVAILABLE  as open */
dml_err dml_leader_reopen(dml_leader *l, const dml_leader_config *config);
dml_err dml_leader_again(dml_leader *l, const dml_plan *plan, const dml_logbook *book);

/* READY and FAIL reports are the caller's; the rest is taken here.  A step that it knows is passed over: who goes on in
 * place of a lost worker says again what that may not have said.
 * DML_ERR_BUG  replicas of a stage ended with different weights */
dml_err dml_leader_take(dml_leader *l, const dml_report *report);

/* The whole model's weights hash from what its workers reported at their ends.
 *   end  [plan->workers]
 * DML_ERR_BUG  two that hold a stage differ */
dml_err dml_leader_hash(const dml_plan *plan, const dml_report_end *end, uint64_t *out);

/* What was made of a window of loads: into the metrics, and where the plan is to change, to people. */
dml_err dml_leader_balance(dml_leader *l, const dml_balance_record *b);

/* The reports that follow are of `plan`, which is borrowed from here on. */
/* The run begins after `step` steps of an earlier one.  Before any report. */
void dml_leader_resume(dml_leader *l, int64_t step);

/* Something else that people should know: on the console, and as a message in metrics.jsonl.
 *   level  "info", "warn", "error" */
void dml_leader_message(dml_leader *l, const char *level, const char *text);

dml_err dml_leader_change(dml_leader *l, const dml_plan *plan);

/* A worker is lost, and the run may go on: into the metrics, and to people, at once. */
dml_err dml_leader_lost(dml_leader *l, const dml_failure_record *failure);

/* What the agent's machine notes.  PLAN, in the place of dml_leader_change and before the first step under that plan is
 * taken: a state older than the last step means that steps will be taken again.  DONE: the recovery's record and lines.
 * LOST is passed over (dml_leader_lost says more), as are snapshots. */
struct dml_recovery_event; /* engine/recovery.h */
dml_err dml_leader_recovery(dml_leader *l, const struct dml_recovery_event *event);

/* Prints the failures that end the run, root cause first. */
void dml_leader_failures(dml_leader *l, dml_failure_record *failures, int32_t n);

/* Summary (of a run that has made a step), last records, and what was traced, whatever the status: of a worker that
 * was lost all that it had written.
 *   status    "finished", "stopped", "failed"
 *   failures  of dml_leader_failures; those of dml_leader_lost are counted already
 *
 * DML_ERR_DATA  a file of the trace could not be written: exit_code, if 0, is recorded as that error's */
dml_err dml_leader_finish(dml_leader *l, const char *status, int exit_code, int32_t failures);
void dml_leader_close(dml_leader *l);

#endif
