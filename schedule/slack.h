/* schedule/slack.h - how early each op of an order can begin, and how late it may.
 *
 *   earliest   a pass along the order, each op as soon as its worker and its inputs allow
 *   latest     a pass back from the deadlines that the length of the order sets (schedule/span.h)
 *
 * Ops stand in a list for each worker that can be changed; values between workers are edges.  For span.c and fuse.c.
 */
#ifndef DML_SCHEDULE_SLACK_H
#define DML_SCHEDULE_SLACK_H

#include "engine/base/arena.h"
#include "schedule/span.h"

enum { DML_SLACK_NONE = -1 };

typedef struct dml_slack_edge {
    int32_t from, to;          /* ops */
    int32_t next_out, next_in; /* others of `from` and of `to`, DML_SLACK_NONE: none */
    int64_t lag_ns;
} dml_slack_edge;

typedef struct dml_slack_op {
    const dml_op *op; /* of the order, borrowed */
    int32_t worker;
    int32_t prev, next; /* in the worker's list; DML_SLACK_NONE: none */
    int32_t out, in;    /* first edge; DML_SLACK_NONE: none */
    int64_t ns;
    int64_t start_ns; /* earliest */
    int64_t end_ns;   /* its end */
    int64_t late_ns;  /* latest end */
    int64_t due_ns;   /* what alone the end must keep to, whatever follows */
} dml_slack_op;

typedef struct dml_slack {
    dml_arena arena;
    const dml_program *p; /* borrowed */
    const dml_cost *cost; /* borrowed */
    int32_t ops;
    dml_slack_op *op;    /* [ops] worker by worker as listed */
    int32_t *first;      /* [workers] first op of the list; DML_SLACK_NONE: none */
    int32_t *last;       /* [workers] last one */
    int64_t *release_ns; /* [workers] nothing begins before */
    int32_t *sorted;     /* [ops] each after those that it needs */
    dml_slack_edge *edge;
    int32_t edges;
    int32_t *last_grad; /* [workers][chunks] op of the last weight gradient; DML_SLACK_NONE: none */
} dml_slack;

/* `order` is as dml_check passes it.  The caller frees s->arena, whatever the result.
 * DML_ERR_SPEC  costs of other chunks, or an order that cannot be played */
dml_err dml_slack_open(dml_slack *s, const dml_program *order, const dml_cost *cost);

/* The length, and the times of all ops within it: an order keeps it as long as no op ends after its due_ns. */
int64_t dml_slack_length(dml_slack *s, dml_list_objective objective);

/* What the chunk's reduction takes after the worker's last backward of it, a B or W, has ended: all of it, less what its
 * buckets hide. */
int64_t dml_reduce_tail_ns(const dml_program *p, const dml_cost *cost, int32_t worker,
                           dml_op_kind kind, int32_t chunk);

/* When the op can begin, from the ends of those it needs. */
int64_t dml_slack_ready_ns(const dml_slack *s, int32_t op);

#endif
