/* schedule/lower_updates.h - a place for every optimizer step (a pass of schedule/lower.c). */
#ifndef DML_SCHEDULE_LOWER_UPDATES_H
#define DML_SCHEDULE_LOWER_UPDATES_H

#include "schedule/play.h"

/* The asynchronous order `order`, whose backwards are cut, with a STEP of every update of every chunk
 * on each of its workers, and its `versions` and `sums` set.
 *   play   of `order`
 *   out    uninitialised before; owned by the caller, {0} on failure
 * DML_ERR_NOMEM  no room for it */
dml_err dml_lower_updates(const dml_program *order, const dml_play *play, dml_arena *arena,
                          dml_program *out);

#endif
