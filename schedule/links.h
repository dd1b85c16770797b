/* schedule/links.h - when each transfer of a step should cross, so that the lanes hold up nobody who is in a hurry.
 *
 * A transfer holds its sender's send lane and its receiver's receive lane for as long as it takes.  It may begin when
 * its value is ready and should end when the op that reads it is due:
 *
 *   send lane of worker 1     |= F1.4 up =|..|= B1.1 down =|      in the order of readiness B1.1 comes late
 *                             |= B1.1 down =||= F1.4 up =|        F1.4 has time: what is urgent goes first
 */
#ifndef DML_SCHEDULE_LINKS_H
#define DML_SCHEDULE_LINKS_H

#include "engine/base/arena.h"

#include <stdint.h>

typedef struct dml_crossing {
    int64_t ready_ns; /* the value is there                                  */
    int64_t need_ns;  /* who reads it is due                                 */
    int64_t ns;       /* it holds the two lanes for so long, >= 0            */
    int64_t start_ns; /* result: >= ready_ns                                 */
    int32_t from, to; /* workers                                             */
} dml_crossing;

/* Sets start_ns of all `n`: in the order of their latest starts (need - ns) each takes the first gap of both lanes
 * that holds it, from when it is ready on.  A function of the crossings' values and order alone; O(n log n) when
 * they come roughly in order of time. */
void dml_links_place(dml_crossing *crossing, int64_t n, int32_t workers, dml_arena *arena);

#endif
