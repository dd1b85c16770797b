/* schedule/recompute.h - activation recomputation as ops, put into any order.
 *
 *   none        F0 F1 F2 B0     B1     B2
 *   full        F0 F1 F2 RC0 B0 RC1 B1 RC2 B2
 *   except_last F0 F1 F2 RC0 B0 RC1 B1 B2         torchgpipe's: checkpoint stop index m - 1 (Kim et al. 2020)
 *
 * RC stands directly before the op that makes the input gradient (B, else I), and waits for no gradient: while
 * that is under way RC runs, in what was the bubble.  Against a backward that recomputes by itself this takes
 * (p - 1) t_R off the step of 1F1B and GPipe: 44 to 41 units for p = 4, m = 8, F = R = 1, B = 2.
 */
#ifndef DML_SCHEDULE_RECOMPUTE_H
#define DML_SCHEDULE_RECOMPUTE_H

#include "schedule/index.h"

/* Puts the RC ops of the policy into `order`, which has none, and notes the policy in it; a forward-only one only
 * notes it.
 * DML_ERR_SPEC  it has a policy already, or is lowered */
dml_err dml_schedule_recompute(dml_program *order, dml_recompute policy);

/* Whether the forward of (chunk, mb) leaves KEPT and not STASH: its RC makes that, or in a forward-only program
 * nobody. */
static inline bool dml_is_recomputed(const dml_program *p, const dml_index *ix, int32_t chunk,
                                     int32_t mb)
{
    if (p->forward_only) return p->recompute != DML_RECOMPUTE_NONE;
    return dml_index_at(ix, DML_OP_RECOMPUTE, chunk, mb) >= 0;
}

/* Whether RC and backward of the chunk read KEPT, or the loaded batch or labels that come with a slot of it. */
static inline bool dml_keeps_till_end(const dml_program *p, int32_t chunk)
{
    return p->recompute == DML_RECOMPUTE_SELECTIVE || chunk == 0 || chunk == p->chunks - 1;
}

/* Where the output of the chunk's forward lies. */
static inline dml_pool dml_output_pool(const dml_program *p, const dml_index *ix, int32_t chunk,
                                       int32_t mb)
{
    return dml_is_recomputed(p, ix, chunk, mb) ? DML_POOL_KEPT : DML_POOL_STASH;
}

/* The pool that `op` names a slot of: its kind's, and for F and SEND_ACT where the output lies. */
static inline dml_pool dml_op_pool(const dml_program *p, const dml_index *ix, const dml_op *op)
{
    if (op->kind == DML_OP_FWD || op->kind == DML_OP_SEND_ACT)
        return dml_output_pool(p, ix, op->chunk, op->mb);
    return dml_op_info_of((dml_op_kind)op->kind)->pool;
}

#endif
