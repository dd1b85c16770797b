/* engine/change_impl.h - what the agent's side of a change of plan shares: change.c, reports and publishing;
 * change_weigh.c, which plan would be faster. */
#ifndef DML_ENGINE_CHANGE_IMPL_H
#define DML_ENGINE_CHANGE_IMPL_H

#include "engine/change.h"

/* Weighs one window of loads.  False: it says nothing (some chunk was not measured).
 *
 *   better  the plan to change to, owned by the caller; NULL: to stay
 *   out     what was weighed; texts are the arena's */
bool dml_changes_weigh(dml_changes *c, dml_arena *arena, dml_planned **better,
                       dml_balance_record *out);

#endif
