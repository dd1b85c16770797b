/* schedule/list_rank.h - the ops of an order in one line, as the list scheduler numbers them.  For list*.c only. */
#ifndef DML_SCHEDULE_LIST_RANK_H
#define DML_SCHEDULE_LIST_RANK_H

#include "engine/base/arena.h"
#include "schedule/list.h"

enum { DML_LIST_KINDS = 3 }; /* F, input gradient, weight gradient */

/* The ops of args->priority as they begin when it is played with args->cost: every op comes after those it needs.
 *
 *   rank  [DML_LIST_KINDS][chunks][mbs] out, the arena's: ascending along that line, no two alike.  A whole backward
 *         stands for input and weight gradient, in this order
 *
 * DML_ERR_SPEC  of other chunks or micro-batches; an op is missing; or it is no order that can be played */
dml_err dml_list_ranks(const dml_list_args *args, dml_arena *arena, int32_t **rank);

#endif
