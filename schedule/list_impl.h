/* schedule/list_impl.h - the list scheduler's inside: an instance, the tables that its arguments come to.
 *
 *   list_instance.c  arguments -> tables        list_bound.c  what no order can beat
 *   list_rank.c      ranks of a given order     list.c        playing a step, trial by trial
 *
 * An op is a number: kind * cells + cell, a cell being chunk * mbs + mb.
 */
#ifndef DML_SCHEDULE_LIST_IMPL_H
#define DML_SCHEDULE_LIST_IMPL_H

#include "engine/base/arena.h"
#include "schedule/list.h"
#include "schedule/list_rank.h"

/* Forward; input gradient, or the whole backward where it is not split; weight gradient. */
enum { DML_LIST_F, DML_LIST_I, DML_LIST_W };

typedef struct dml_list_instance {
    const dml_list_args *a;        /* borrowed */
    const dml_program *p;          /* its routes */
    dml_arena arena;               /* of the tables */
    int32_t cells;                 /* chunks x mbs */
    int64_t *ns[DML_LIST_KINDS];   /* [cells] on the worker that it is routed to */
    int64_t *tail[DML_LIST_KINDS]; /* [cells] begin to the end of the micro-batch, without waits */
    int64_t *lag;           /* [cells] of its transfer between chunk c and c + 1; 0 on one worker */
    int64_t *round_trip_ns; /* [cells] begin of F to begin of the input gradient */
    double unit_ns;         /* mean length of an op */
    int64_t period_ns;      /* the busiest worker's work per micro-batch of the step */
    int64_t *load;          /* [workers][mbs] bytes that the micro-batch keeps there in all */
    int32_t *rank;          /* [DML_LIST_KINDS cells] NULL: no priority given */
} dml_list_instance;

/* Errors are those of dml_list_schedule.  The caller frees in->arena, whatever the result. */
dml_err dml_list_open(dml_list_instance *in, const dml_list_args *args);

/* From the end of the micro-batch's op on one chunk to its begin on the next; 0 on the same worker. */
int64_t dml_list_travel_ns(const dml_list_instance *in, int32_t chunk_from, int32_t chunk_to,
                           int32_t mb);

static inline int32_t dml_list_worker_of(const dml_list_instance *in, int32_t op)
{
    const int32_t cell = op % in->cells;
    return *dml_program_route(in->p, cell / in->p->mbs, cell % in->p->mbs);
}

/* Bytes that a micro-batch keeps of the chunk. */
static inline int64_t dml_list_held(const dml_list_args *a, int32_t chunk)
{
    return a->held_bytes ? a->held_bytes[chunk] : 1;
}

/* How many: without weight gradients where the backward is whole. */
static inline int32_t dml_list_ops(const dml_list_instance *in)
{
    return (in->a->split ? DML_LIST_KINDS : DML_LIST_KINDS - 1) * in->cells;
}

#endif
