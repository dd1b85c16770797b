/* tests/schedule/machine.h - an executor of labels instead of tensors, with the worst of luck.
 *
 * It knows nothing of times, clocks or needs: ops start and end one at a time in random order,
 * whenever their lane, their waits and whom they meet allow it.  Every slot holds the label of the
 * value in it.  An op must find the labels it wants when it starts and when it ends, nobody may
 * write what another reads or writes, and at the end all work of a training step must have been
 * done.  Written apart from the checker, so that each can find the other's mistakes.
 */
#ifndef DML_TESTS_SCHEDULE_MACHINE_H
#define DML_TESTS_SCHEDULE_MACHINE_H

#include "tests/schedule/support.h"

enum { MACHINE_WHY_BYTES = 256 };

/* Runs the lowered program once with the luck of `r`; false with the reason when something is
 * wrong. */
bool machine_run(const dml_program *p, rnd *r, char why[MACHINE_WHY_BYTES]);

#endif
