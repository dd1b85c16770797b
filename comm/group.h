/* comm/group.h - groups of ranks: who is in, and the barrier that collectives are made of. */
#ifndef DML_COMM_GROUP_H
#define DML_COMM_GROUP_H

#include "comm/host.h"

typedef struct dml_member {
    int32_t rank;
    dml_slot *slot; /* in that rank's segment */
    uint32_t base;  /* its `arrived` when the group began */
    uint32_t index; /* of the slot in its segment */
} dml_member;

struct dml_group {
    dml_transport *t;
    dml_group *next; /* in t->groups */
    uint32_t id;
    int32_t n, me;     /* members, and which of them this rank is */
    uint32_t barriers; /* reached so far */
    uint32_t calls;    /* collectives begun so far */
    int64_t met_ns;    /* when all had come to the newest */
    bool closed;
    bool posted;         /* a sum was posted and is to be collected */
    int32_t *ranks;      /* [n] behind the members */
    dml_member member[]; /* [n] in group order */
};

/* Returns when all members have called it as often as this one.  `what` names the operation. */
dml_err dml_group_barrier(dml_group *g, const char *what);
/* Its two halves: nothing else of the group comes between them. */
void dml_group_arrive(dml_group *g);
dml_err dml_group_await(dml_group *g, const char *what);

/* A member's memory, where offsets of its calls point into. */
static inline char *dml_group_memory(const dml_group *g, int32_t member)
{
    return g->t->peer[g->member[member].rank].memory;
}

/* A member's area for sums that travel inside the segment. */
static inline char *dml_group_inline(const dml_group *g, int32_t member, uint32_t parity)
{
    const int64_t area = (int64_t)g->member[member].index * 2 + parity;
    return dml_group_memory(g, member) + area * DML_INLINE_BYTES;
}

#endif
