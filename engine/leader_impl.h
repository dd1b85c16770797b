/* engine/leader_impl.h - what the leader's files share: leader.c, header and reports; leader_recovery.c, what
 * was lost; leader_end.c, the end. */
#ifndef DML_ENGINE_LEADER_IMPL_H
#define DML_ENGINE_LEADER_IMPL_H

#include "engine/leader.h"

/* `err` is of writing a record.  After one that could not be written none is tried again: the file ends there. */
dml_err dml_leader_written(dml_leader *l, dml_err err);

/* What the times that the spec says come to: measured costs, or delays where these are nearly all. */
dml_err dml_leader_plan_ahead(dml_leader *l);

/* Over the workers that the plan has. */
double dml_leader_mean(const dml_plan *p, const double *x);

/* Every worker that is not lost has come to its end. */
bool dml_leader_is_complete(const dml_leader *l);

/* ---- leader_recovery.c ---- */

/* After each step: whether enough of them were measured to say the throughput after the last recovery. */
dml_err dml_leader_pace(dml_leader *l);
/* The same where the plan ends: with what there is, if that is anything. */
dml_err dml_leader_pace_now(dml_leader *l);
/* The summary's part, where there was a loss. */
void dml_leader_sum_up(dml_leader *l, const dml_run_end_record *end);

#endif
