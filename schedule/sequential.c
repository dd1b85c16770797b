/* schedule/sequential.c - one micro-batch at a time, forward then backward: the plain loop, spread
 * over workers.  The oracle of every other schedule, and the slowest of them.
 *
 *   worker 0 of 2:  F0 .. .. B0 F1 .. .. B1        wall    m p (F + B)
 *   worker 1 of 2:  .. F0 B0 .. .. F1 B1 ..        bubble  (p - 1) / p of it
 */
#include "schedule/schedule.h"

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t mb = 0; mb < args->mbs; mb++) {
        for (int32_t c = 0; c < order->chunks; c++)
            dml_program_push(order, c % args->stages, DML_OP_FWD, c, mb);
        for (int32_t c = order->chunks - 1; c >= 0; c--)
            dml_program_push(order, c % args->stages, DML_OP_BWD, c, mb);
    }
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    return (int64_t)args->mbs * args->stages * args->virtual_stages *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    (void)stage;
    return args->virtual_stages;
}

const dml_schedule dml_schedule_sequential = {
    .name = "sequential",
    .aliases = "naive",
    .doc = "one micro-batch after the other, no overlap: the reference",
    .needs = "",
    .many_chunks = true,
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
