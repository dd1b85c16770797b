/* engine/change.h - when another plan would be faster: the agent weighs what workers measured.
 *
 *   loads of all workers -> what would be faster? -> dml_recovery_change: after the step under way everyone goes on with it
 *
 * A changed plan is the run's spec with other parallelism.stages and split, and what was measured of the machine as
 * cluster.speed and costs; like the first plan it is a pure function of that text.  The next change is weighed when all
 * workers have measured the last; while one is lost, none is.
 */
#ifndef DML_ENGINE_CHANGE_H
#define DML_ENGINE_CHANGE_H

#include "engine/balance.h"
#include "engine/metrics.h"
#include "engine/recovery.h"

typedef struct dml_changes {
    const dml_plan *first;  /* borrowed */
    dml_recovery *recovery; /* borrowed: whose plan is run, and who changes it */
    int base_fd;            /* borrowed: the first spec's text, resolved */
    dml_report_load load[DML_HOST_WORKERS];
    double promised_ns;     /* of a step under the plan of now; 0: seen whether it came true */
    int32_t patience, wait; /* windows that the next change waits, and has still to wait */
} dml_changes;

/* base_fd: text of first->spec as workers load it. */
void dml_changes_open(dml_changes *c, const dml_plan *first, int base_fd, dml_recovery *recovery);

/* Takes LOAD reports; looks at no others.  A plan asked for is one that is predicted to be faster by more than
 * DML_CHANGE_GAIN: so loads that differ by noise change nothing.  Candidates that cannot be planned (memory, schedules) are
 * passed over.
 *
 *   arena  owns texts of *out
 *
 * True: a window was weighed, `out` is filled. */
bool dml_changes_take(dml_changes *c, const dml_report *report, dml_arena *arena,
                      dml_balance_record *out);

#define DML_CHANGE_GAIN 0.03

#endif
