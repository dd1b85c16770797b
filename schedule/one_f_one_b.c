/* schedule/one_f_one_b.c - 1F1B with a flush: warm up, alternate, drain (PipeDream-Flush, DAPPLE).
 *
 *   p = 3, m = 4, B = 2 F
 *   worker 0:  F0F1F2........B0==F3B1==..B2==..B3==
 *   worker 1:  ..F0F1....B0==F2B1==F3B2==..B3==....
 *   worker 2:  ....F0B0==F1B1==F2B2==F3B3==........
 *
 *   wall              (m + p - 1)(F + B), as gpipe
 *   bubble            (p - 1) / (m + p - 1) of the wall
 *   activations held  min(m, p - worker): what it is for
 */
#include "schedule/schedule.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t s = 0; s < args->stages; s++) {
        const int32_t warm_up = MIN2(args->stages - 1 - s, args->mbs);
        int32_t f = 0, b = 0;
        while (f < warm_up)
            dml_program_push(order, s, DML_OP_FWD, s, f++);
        while (f < args->mbs) {
            dml_program_push(order, s, DML_OP_FWD, s, f++);
            dml_program_push(order, s, DML_OP_BWD, s, b++);
        }
        while (b < args->mbs)
            dml_program_push(order, s, DML_OP_BWD, s, b++);
    }
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    return (int64_t)(args->mbs + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    return MIN2(args->mbs, args->stages - stage);
}

const dml_schedule dml_schedule_one_f_one_b = {
    .name = "1f1b",
    .aliases = "pipedream_flush dapple one_f_one_b",
    .doc = "one forward, one backward in turn; holds at most as many micro-batches as stages",
    .needs = "",
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
