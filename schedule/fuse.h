/* schedule/fuse.h - makes cut backwards whole again where that costs nothing.
 *
 *   split   I0 I1 F5 W0 W1 I2 W2        fused   I0 I1 F5 W0 W1 B2       3 of 3 cut -> 2
 *
 * A cut backward costs a launch more and keeps its stash longer; it pays only where somebody waits for the input
 * gradient, or where a worker would stand still while its weight gradient is put off.
 */
#ifndef DML_SCHEDULE_FUSE_H
#define DML_SCHEDULE_FUSE_H

#include "schedule/span.h"

/* Fuses I and W of a chunk and micro-batch of a synchronous order into B, at the place of I, wherever the order gets no
 * longer; those side by side first, then those that other ops lie between.  No worker keeps more at once than before.
 *
 *   order  as dml_check passes it; changed in place
 *   left   out: backwards that stay cut; may be NULL
 *
 * DML_ERR_SPEC  costs of other chunks, or an order that cannot be played */
dml_err dml_order_fuse(const dml_cost *cost, dml_list_objective objective, dml_program *order,
                       int32_t *left);

#endif
