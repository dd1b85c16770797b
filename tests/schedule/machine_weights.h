/* tests/schedule/machine_weights.h - the labels of weights and gradients on the machine of machine.h.
 *
 * A buffer of weights holds the number of its version, a buffer of gradients the update that is summed in
 * it.  Which version an op must find is counted here in the plainest way.
 */
#ifndef DML_TESTS_SCHEDULE_MACHINE_WEIGHTS_H
#define DML_TESTS_SCHEDULE_MACHINE_WEIGHTS_H

#include "engine/base/arena.h"
#include "schedule/program.h"

typedef struct machine_weights machine_weights; /* owned by the arena */

machine_weights *machine_weights_new(const dml_program *p, dml_arena *arena);

/* The update that an op without a micro-batch is of. */
int32_t machine_update(const dml_op *op);

/* Op i of worker w starts: NULL, or what is wrong. */
const char *machine_weights_start(machine_weights *m, int32_t w, int32_t i);

/* At the end: every chunk held was stepped once for each update; NULL, or what is wrong. */
const char *machine_weights_end(const machine_weights *m, int32_t w);

#endif
