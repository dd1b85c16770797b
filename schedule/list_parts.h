/* schedule/list_parts.h - the list scheduler over pipelines that share no worker: each by itself.
 *
 *   micro-batches 0 1 3 4 6 on workers 0 1 2 3      one part
 *   micro-batches 2 5       on workers 4 5          another
 *
 * A part is a set of micro-batches whose ways have no worker in common with those of the others, so no op of one
 * waits for an op of another, and a part's best order is best whatever the others do.  A trial costs what the parts'
 * trials cost together, and parts that are alike need only one.
 */
#ifndef DML_SCHEDULE_LIST_PARTS_H
#define DML_SCHEDULE_LIST_PARTS_H

#include "schedule/list.h"

/* As dml_list_schedule; *wall_ns is that of the longest part.  With args->priority: as one part. */
dml_err dml_list_schedule_parts(const dml_list_args *args, dml_program *out, int64_t *wall_ns);

#endif
