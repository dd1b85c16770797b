/* schedule/op.h - the instruction.
 *
 * A schedule is plain data: for every worker a list of ops.  Authors write only compute ops (an
 * *order*); `dml_lower` adds the rest (a *program*).  The checker, the simulator, the printer, the
 * drawing and the executor all read these same records.
 *
 * An op runs on a lane, an in-order queue of its worker.  Between lanes there is no order but
 * `wait`. On CUDA a lane is a stream and a wait an event; on CPU a thread and a flag.
 *
 * The chunk of an op is always one that its own worker holds.  So the transfers of one boundary
 * carry two numbers: SEND_ACT of chunk c meets RECV_ACT of chunk c + 1, SEND_GRAD of c meets
 * RECV_GRAD of c - 1.  Those of a skip (schedule/program.h), which passes chunks over, have the
 * skip's number as their edge, and the chunk is the end that they are at.
 *
 * A chunk's gradients are reduced in *buckets*, 1 .. n in the order in which a backward finishes
 * them: its last layers first.  So that bucket k can go while the layers below are still at work,
 * `dml_lower` cuts the worker's last backward of the chunk into n *parts*, ops of their own:
 *
 *     compute   B0.6 | B0.7 part 1 | part 2 | part 3 | U0
 *     reduce                         R0 1     R0 2     R0 3 V
 *
 * An asynchronous program makes many updates of a chunk (schedule/program.h).  `version` says which
 * weights an op reads: 0 those that all updates have made whose backwards on this worker stand
 * before it in the list, -1 those of one update fewer (schedule/versions.h).  In a synchronous
 * program it is 0.
 *
 * Where activations are recomputed (schedule/recompute.h) F leaves only KEPT, and RC, an op of its own, makes the
 * STASH that the backward reads.  It needs no gradient, so it runs in the bubble before one comes.
 *
 * The parts of an op follow each other on the compute lane with nothing between them.  Each reads
 * what the op reads; what the op leaves behind (the input gradient, the freed stash) is there when
 * the last part is done.
 */
#ifndef DML_SCHEDULE_OP_H
#define DML_SCHEDULE_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* clang-format off */
/*    lane     text       what queues on it                                              */
#define DML_LANE_LIST(X)                                                                   \
    X(COMPUTE, "compute") /* forward, backward, optimizer                                */ \
    X(SEND,    "send")    /* outgoing activations and gradients                          */ \
    X(RECV,    "recv")    /* incoming ones                                               */ \
    X(REDUCE,  "reduce")  /* collectives                                                 */

/* Buffers that ops name by number.  Each pool belongs to one (worker, chunk); `dml_lower` says how
 * many slots each holds, by liveness, so memory is known before the first step.  Lives, where "W"
 * also stands for the B that contains it:
 *
 *    pool      what it holds            from        until                                    */
#define DML_POOL_LIST(X)                                                                        \
    X(IN)    /* received input           RECV_ACT    W of the chunk                          */ \
    X(STASH) /* activations and outputs  F, or RC    W of the chunk, and of the chunks       \
              *                                      that read them on the same worker       */ \
    X(DY)    /* received output gradient RECV_GRAD   W of the chunk                          */ \
    X(DX)    /* input gradients          B or I      SEND_GRAD, or W of the chunk below that \
              *                                      wants them, on the same worker          */ \
    X(KEPT)  /* of a recomputed F: the   F           as STASH; no longer than its outputs    \
              * outputs, and what its RC             are wanted where the chunk's own ops    \
              * does not make again                  read nothing of it (dml_keeps_till_end) */
/* Values of a skip that are received have IN and DY slots of their own; what a chunk makes of them lies in its
 * STASH, KEPT and DX slots beside the rest, so an op writes one slot at most.
 * Forward-only: IN until F; STASH or KEPT until SEND_ACT, or the F of those who read it on the same worker. */
/* clang-format on */
typedef enum dml_lane {
#define X(lane, text) DML_LANE_##lane,
    DML_LANE_LIST(X)
#undef X
        DML_LANES
} dml_lane;

typedef enum dml_pool {
#define X(pool) DML_POOL_##pool,
    DML_POOL_LIST(X)
#undef X
        DML_POOLS,
    DML_POOL_NONE = DML_POOLS
} dml_pool;

/* clang-format off */
/*    kind        text      lane     peer?  mb?    pool of `slot`; STASH: but see dml_op_pool          */
#define DML_OP_LIST(X)                                                                                  \
    X(FWD,        "F",      COMPUTE, false, true,  STASH) /* forward; writes the slot                */ \
    X(BWD,        "B",      COMPUTE, false, true,  DX)    /* whole backward; writes it (chunk > 0)   */ \
    X(BWD_INPUT,  "I",      COMPUTE, false, true,  DX)    /* input gradient alone; writes it, as B   */ \
    X(BWD_WEIGHT, "W",      COMPUTE, false, true,  NONE)  /* weight gradient alone                   */ \
    X(RECOMPUTE,  "RC",     COMPUTE, false, true,  STASH) /* forward again; writes what F threw away */ \
    X(SEND_ACT,   "SEND_F", SEND,    true,  true,  STASH) /* output of F to `peer`; reads it         */ \
    X(RECV_ACT,   "RECV_F", RECV,    true,  true,  IN)    /* input of F from `peer`; writes it       */ \
    X(SEND_GRAD,  "SEND_B", SEND,    true,  true,  DX)    /* input gradient to `peer`; reads it      */ \
    X(RECV_GRAD,  "RECV_B", RECV,    true,  true,  DY)    /* output gradient from `peer`; writes it  */ \
    X(REDUCE,     "R",      REDUCE,  false, false, NONE)  /* a bucket's gradients among the replicas */ \
    X(VOTE,       "V",      REDUCE,  false, false, NONE)  /* all workers: norm, non-finite, overflow */ \
    X(STEP,       "U",      COMPUTE, false, false, NONE)  /* optimizer step of the chunk             */
/* clang-format on */
typedef enum dml_op_kind {
#define X(kind, ...) DML_OP_##kind,
    DML_OP_LIST(X)
#undef X
} dml_op_kind;
#define X(...) +1
enum { DML_OP_KINDS = 0 DML_OP_LIST(X) };
#undef X

enum { DML_NO_PEER = -1, DML_NO_SLOT = -1, DML_NO_WAIT = -1, DML_NO_MB = -1, DML_OP_WAITS = 2 };

typedef struct dml_op {
    uint8_t kind;   /* dml_op_kind; decides the lane                                    */
    int8_t version; /* F, B, I, W, RC: weights read, <= 0: see below                    */
    uint16_t edge;  /* B, W, REDUCE: 0 the whole chunk, k its bucket k.  Transfers: 0
                     * what crosses to the next chunk, k the skip k                     */
    int16_t peer;   /* worker at the other end, DML_NO_PEER                             */
    int16_t slot;   /* slot in the pool named above, DML_NO_SLOT                        */
    int32_t chunk;  /* model chunk; 0 for VOTE                                          */
    int32_t mb;     /* global micro-batch of the step; without one: DML_NO_MB, and in an
                     * asynchronous program the number of the update                    */
    int32_t wait[DML_OP_WAITS]; /* earlier ops of this worker's list, on other lanes; DML_NO_WAIT
                                 * fills the rest.  Two are enough: see schedule/depend.h */
} dml_op;
_Static_assert(sizeof(dml_op) == 24, "ops are small plain records");

typedef struct dml_op_info {
    const char *text; /* static */
    dml_lane lane;
    bool has_peer; /* it is a transfer                        */
    bool has_mb;   /* false: once per step, mb is DML_NO_MB   */
    dml_pool pool; /* of `slot`; DML_POOL_NONE: names no slot */
} dml_op_info;

/* Properties of a kind, static; the table is generated from DML_OP_LIST. */
const dml_op_info *dml_op_info_of(dml_op_kind kind);

static inline dml_lane dml_op_lane(const dml_op *op)
{
    return dml_op_info_of((dml_op_kind)op->kind)->lane;
}

/* "IN", "STASH", "DY", "DX"; static. */
const char *dml_pool_text(dml_pool pool);
const char *dml_lane_text(dml_lane lane); /* "compute", ... */

/* The op that adds to weight gradients, all of them or those of bucket `edge`: B, W.  Its last part
 * ends the life of the stash of its (chunk, mb): dml_op_is_last in schedule/program.h. */
static inline bool dml_op_is_weight_grad(const dml_op *op)
{
    return op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_WEIGHT;
}

/* The op computes a micro-batch: F, RC, B, I, W. */
static inline bool dml_op_reads_weights(const dml_op *op)
{
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    return info->lane == DML_LANE_COMPUTE && info->has_mb;
}

/* The op that makes the input gradient of its (chunk, mb): B, I. */
static inline bool dml_op_is_input_grad(const dml_op *op)
{
    return op->kind == DML_OP_BWD || op->kind == DML_OP_BWD_INPUT;
}

/* Kind, chunk, micro-batch and part or skip as text: "SEND_F2.7", "SEND_F2.7/1", "B2.7/3", "R1",
 * "R1/3", "V", and with the number of an update "U1.5", "V.5". */
enum { DML_OP_NAME_BYTES = 40 };
typedef struct dml_op_name {
    char text[DML_OP_NAME_BYTES];
} dml_op_name;
dml_op_name dml_op_name_of(const dml_op *op);

#endif
