/* engine/ctl_status.h - how a run stands, as JSON: what `dml-ctl RUN status` is answered. */
#ifndef DML_ENGINE_CTL_STATUS_H
#define DML_ENGINE_CTL_STATUS_H

#include "engine/control.h"
#include "engine/injector.h"
#include "engine/leader.h"

typedef struct dml_ctl_view {
    const dml_leader *leader;
    const dml_control *control;
    const dml_injector *injector; /* NULL: none */
    const char *state;            /* static: "training", "recovering", "stopping" ... */
    uint32_t generation;          /* of the plan */
    const int32_t *pid;           /* [leader->processes] 0: there is none */
} dml_ctl_view;

/* Appends one object on one line:
 *   run, backend, state, step, steps, loss, samples_per_s, eta_s (null: not known), generation, recoveries, failures
 *   lost     [ranks]
 *   faults   texts of those that have not struck
 *   workers  [{rank, pid, stages, state, step, ops, last_op, beat_ms}]  last_op null: none yet */
void dml_ctl_print_status(const dml_ctl_view *view, dml_str *out);

#endif
