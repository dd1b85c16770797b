/* schedule/paint.h - the colours of ops, the same in every picture: F blue, B green, I teal, W pale, RC blue-grey,
 * the rest grey. */
#ifndef DML_SCHEDULE_PAINT_H
#define DML_SCHEDULE_PAINT_H

#include "schedule/program.h"

typedef struct dml_paint {
    const char *fill,
        *fill_odd;          /* "#4c8fd8"; of a worker's 1st, 3rd ... chunk, and of the others */
    const char *fill_moved; /* of what another worker ran before: shades of orange */
    const char *text;       /* what is written on it */
    const char *trace;      /* the nearest of the colour names that trace events know */
} dml_paint;                /* static */

dml_paint dml_paint_of(dml_op_kind kind);

/* Whether the chunk is the 2nd, 4th ... of those whose forwards the worker runs. */
bool dml_paint_is_odd(const dml_program *p, int32_t worker, int32_t chunk);

#endif
