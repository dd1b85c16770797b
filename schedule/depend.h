/* schedule/depend.h - which buffers an op touches, and on which earlier ops it depends.
 *
 * Everything about data is said once, in `dml_op_touches`: each op reads and writes whole buffers
 * named (pool, port, micro-batch).  Two ops of one worker depend on each other when
 *     one reads what the other wrote,                                (data)
 *     one writes a slot that the other's buffer held before,         (hazard)
 * or by the end of an update: REDUCE after the last op of the update that adds to its bucket, STEP
 * after VOTE, or where it does not wait for one after the REDUCEs of its chunk.
 * Of an op in parts each reads what the op reads, and the last writes what it writes.
 *
 * Ops of one lane follow each other anyway; across lanes a dependency needs a `wait`.  Two suffice, with skips,
 * too, since they add ops to the same lanes:
 *     F, B, I        at most one on RECV (their inputs) and one on SEND (who sent from the slot);
 *     W              none: its I waited for the same gradient
 *     RC             at most one on SEND: its F waited for the same input
 *     a part of B    as B, the RECV with the first and the SEND with the last
 *     every transfer one on COMPUTE (who makes the value, or who used the slot last)
 *     REDUCE         one on COMPUTE;   VOTE none (REDUCE is on its lane);   STEP one on REDUCE
 * and since lanes are in order, of several on one lane the latest stands for all.
 *
 * What is known to be done follows from lanes, from waits, and from one fact about peers: the
 * gradient of an output cannot come back before the output was sent, so RECV_GRAD vouches for
 * SEND_ACT of its (chunk, micro-batch).  A clock holds, for each lane, the latest op known to be
 * done.  The gradient of a skip does so when it comes back to the sender.
 */
#ifndef DML_SCHEDULE_DEPEND_H
#define DML_SCHEDULE_DEPEND_H

#include "schedule/index.h"

typedef struct dml_touch {
    dml_pool pool;
    int32_t port, mb;
    bool write; /* else read */
} dml_touch;

enum { DML_OP_TOUCHES = 5 + 2 * DML_CHUNK_SKIPS };

/* The buffers of its own worker that `op` reads and writes, each once, at most one of them written; returns how
 * many.  VOTE, REDUCE and STEP touch none.  Chunk and micro-batch are in range and routed; `ix` says which forwards
 * have an RC. */
int32_t dml_op_touches(const dml_program *p, const dml_index *ix, const dml_op *op,
                       dml_touch out[DML_OP_TOUCHES]);

/* Index of the op that writes the buffer, in the list of the buffer's worker; -1 when there is
 * none. */
int32_t dml_touch_writer(const dml_index *ix, const dml_touch *touch);

typedef struct dml_clock {
    int32_t done[DML_LANES]; /* latest op of the lane known to be done, -1 none */
} dml_clock;

/* A walk along the list of one worker, in list order. */
typedef struct dml_depend {
    const dml_program *p; /* borrowed, as ix, until the walk ends */
    const dml_index *ix;
    const dml_op_list *list;
    int32_t worker;
    dml_clock *after;           /* [n] known once op i is done                           */
    dml_clock *last_use;        /* [slots of the worker] last op of each lane that used the slot
                                 * since its buffer was written                          */
    int32_t *slot_base;         /* [ports][DML_POOLS] into last_use                      */
    int32_t *bucket_base;       /* [chunks + 1] dml_program_number_held                  */
    int32_t *last_whole;        /* [buckets] last whole weight gradient of the update whose first
                                 * bucket this is, -1 none yet                           */
    int32_t *last_part;         /* [buckets] last part that adds to the bucket, likewise */
    int32_t *settled;           /* what STEP of an update waits for, likewise: its VOTE, by number,
                                 * or its last REDUCE, by its first bucket               */
    int32_t last_in[DML_LANES]; /* op before this one on the lane, -1 none               */
} dml_depend;

/* Starts the walk at op 0.  Slots and pool sizes are assigned; the arena owns the tables. */
void dml_depend_begin(dml_depend *d, const dml_program *p, const dml_index *ix, int32_t worker,
                      dml_arena *arena);

/* For each lane the latest op that must be done before op i starts, -1 none; its own lane is
 * always -1.  Call once for each op, in list order. */
void dml_depend_needs(dml_depend *d, int32_t i, int32_t need[DML_LANES]);

/* What is known when op i starts: by its lane alone, and with its waits. */
dml_clock dml_depend_before(const dml_depend *d, int32_t i);
dml_clock dml_depend_start(const dml_depend *d, int32_t i);

/* The SEND_ACT of the same list that `op` vouches for, a RECV_GRAD; -1: none.  Only a gradient that really comes
 * proves anything: who runs a RECV_GRAD without transferring must wait for the send itself. */
int32_t dml_vouched_send(const dml_program *p, const dml_index *ix, const dml_op *op);

/* Ends op i: its waits are final. */
void dml_depend_end(dml_depend *d, int32_t i);

#endif
