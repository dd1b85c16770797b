/* schedule/versions.h - which weights an op reads, counted from the start of the segment.
 *
 * In the list of a worker an op says how far behind the newest weights it reads (schedule/op.h); here
 * is the number of the version.  PipeDream, stage 2 of 4, an update per micro-batch:
 *
 *   list       F0  F1  B0  F2  B1  F3  B2  F4  B3
 *   made by    0   0   0   1   1   2   2   3   3     updates whose backwards stand before
 *   version    0   0   0   0  -1   0  -1   0  -1     of the op
 *   reads      0   0   0   1   0   2   1   3   2
 */
#ifndef DML_SCHEDULE_VERSIONS_H
#define DML_SCHEDULE_VERSIONS_H

#include "schedule/program.h"

/* The version that each op of the worker's list reads, for ops that compute a micro-batch: in a
 * forward-only one 0; -1 for the others.  `out` has room for all; chunks and micro-batches are in range. */
void dml_versions_read(const dml_program *p, int32_t worker, int32_t *out);

/* Sets the `version` of every op so that it reads what `reads` gives for it, as one micro-batch does
 * at one chunk.
 * DML_ERR_SPEC  an op would read weights that do not exist yet, or more than 128 updates behind */
dml_err dml_versions_set(dml_program *order,
                         int32_t (*reads)(const void *ctx, int32_t chunk, int32_t mb),
                         const void *ctx);

/* Updates that are made between the weights that a gradient of the chunk is taken at and those that
 * it is applied to, at most: 0 in a synchronous program, p - 1 - s at stage s of PipeDream. */
int32_t dml_program_staleness(const dml_program *p, int32_t chunk);

#endif
