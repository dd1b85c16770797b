/* engine/change.h - changing the plan of a run: the agent decides and publishes, every worker reads.
 *
 *   loads of all workers -> what would be faster? -> its spec into a memfd -> control->plan = g
 *                                                     workers, after one and the same step: load, plan, open, READY g
 *
 * A changed plan is the run's spec with other parallelism.stages and split, and what was measured of the machine as
 * cluster.speed and costs; like the first plan it is a pure function of that text.  One change at a time: the next is
 * weighed when all workers have measured the last.
 */
#ifndef DML_ENGINE_CHANGE_H
#define DML_ENGINE_CHANGE_H

#include "engine/balance.h"
#include "engine/metrics.h"
#include "engine/recovery.h"

typedef struct dml_changes {
    const dml_plan *first;   /* borrowed */
    dml_control *control;    /* borrowed */
    int base_fd;             /* borrowed: the first spec's text, resolved */
    int fd;                  /* borrowed: that of the newest plan; workers have it */
    dml_planned *now, *next; /* owned; NULL: the first plan, none */
    uint32_t generation;     /* of what rank 0 runs */
    int32_t saved;           /* workers whose state for the next plan lies in the bank */
    dml_report_load load[DML_HOST_WORKERS];
    double promised_ns;     /* of a step under the plan of now; 0: seen whether it came true */
    int32_t patience, wait; /* windows that the next change waits, and has still to wait */
} dml_changes;

/* What became of a report. */
typedef struct dml_changes_event {
    bool changed;               /* rank 0 goes on under another plan: dml_changes_plan */
    bool decided;               /* loads were weighed: `balance` is filled */
    dml_balance_record balance; /* texts are the arena's */
} dml_changes_event;

/* base_fd: text of first->spec as workers load it; fd: where that of the newest plan goes. */
void dml_changes_open(dml_changes *c, const dml_plan *first, int base_fd, int fd,
                      dml_control *control);
void dml_changes_close(dml_changes *c); /* {0} is fine */

/* The plan that rank 0 runs. */
const dml_plan *dml_changes_plan(const dml_changes *c);

/* Takes READY, SAVED and LOAD reports; looks at no others.  A plan announced is one that is predicted to be faster by more than
 * DML_CHANGE_GAIN: so loads that differ by noise change nothing.  After `changed` the plan before it is gone.
 *
 *   arena  owns texts of the event
 *
 * Candidates that cannot be planned (memory, schedules) are passed over.  DML_ERR_UNAVAILABLE  publishing failed */
dml_err dml_changes_take(dml_changes *c, const dml_report *report, dml_arena *arena,
                         dml_changes_event *out);

#define DML_CHANGE_GAIN 0.03

#endif
