/* engine/leader_impl.h - what the leader's files share: leader.c, header and reports; leader_end.c, the end. */
#ifndef DML_ENGINE_LEADER_IMPL_H
#define DML_ENGINE_LEADER_IMPL_H

#include "engine/leader.h"

/* `err` is of writing a record.  After one that could not be written none is tried again: the file ends there. */
dml_err dml_leader_written(dml_leader *l, dml_err err);

/* Over the workers. */
double dml_leader_mean(const double *x, int32_t n);

#endif
