/* schedule/alternate.h - the family of 1F1B: warm up, alternate, drain.
 *
 *   rank 1 of 4, warm-up 2, weight gradients 1 behind:
 *
 *   F0 F1 | F2 I0   F3 I1 W0   F4 I2 W1  ... F7 I5 W4 | I6 W5   I7 W6   W7
 *   warm-up   alternate                                 drain
 *
 * A rank runs `warm_up` forwards, then a forward and a backward in turn, then the backwards that are left.
 * With several chunks on a rank, rank r holds chunks r, p + r, 2 p + r ..., and micro-batches go through
 * them in groups of g: g forwards of its first chunk, g of its second ...; backward the other way round
 * (Narayanan et al. 2021, section 2.2).
 */
#ifndef DML_SCHEDULE_ALTERNATE_H
#define DML_SCHEDULE_ALTERNATE_H

#include "schedule/schedule.h"

typedef struct dml_alternate {
    int32_t warm_up; /* forwards before the first backward's forward; more than there are is all  */
    int32_t lag;     /* weight gradients run this many backwards later; -1: B is one op           */
} dml_alternate;

/* Micro-batches of a group: all that there are when they are fewer than two rounds of the pipeline, else
 * as many as stages (what torch.distributed.pipelining takes; with m a multiple of p also Megatron-LM). */
int32_t dml_alternate_group(const dml_schedule_args *args);

/* DML_ERR_SPEC  several chunks on a rank, and the groups do not divide the micro-batches */
dml_err dml_alternate_check(const dml_schedule_args *args, const char *name);

/* Pushes the ops of `rank`. */
void dml_alternate_push(const dml_schedule_args *args, dml_program *order, int32_t rank,
                        dml_alternate a);

/* Most activations between F and B (or W) at once on a rank: min(m v, warm_up + 1 + lag). */
int32_t dml_alternate_peak(const dml_schedule_args *args, dml_alternate a);

#endif
