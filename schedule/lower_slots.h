/* schedule/lower_slots.h - a slot for every buffer (a pass of schedule/lower.c). */
#ifndef DML_SCHEDULE_LOWER_SLOTS_H
#define DML_SCHEDULE_LOWER_SLOTS_H

#include "schedule/index.h"

/* Predicted times of the ops of one worker's list; starts never decrease along it. */
typedef struct dml_lower_times {
    int64_t *start_ns, *end_ns; /* [n] */
} dml_lower_times;

/* Sets `slot` of every op that names one, and pool_slots.
 * DML_ERR_SPEC  a pool needs more than 32767 slots */
dml_err dml_lower_slots(dml_program *p, const dml_index *ix, const dml_lower_times *times,
                        dml_arena *arena);

#endif
