/* schedule/gpipe.c - fill and drain: all forwards, then all backwards (Huang et al., 2019).
 *
 *   p = 3, m = 4, B = 2 F
 *   worker 0:  F0F1F2F3............B0==B1==B2==B3==
 *   worker 1:  ..F0F1F2F3......B0==B1==B2==B3==....
 *   worker 2:  ....F0F1F2F3B0==B1==B2==B3==........
 *
 *   wall              (m + p - 1)(F + B)
 *   bubble            (p - 1) / (m + p - 1) of the wall
 *   activations held  m, on every worker
 *
 * The backward order is free.  Ascending adds gradients as the plain loop does; descending
 * (gpipe_reverse, what torchgpipe runs) frees first what was computed last.
 */
#include "schedule/schedule.h"

static void push_all(dml_program *order, int32_t s, bool descending)
{
    const int32_t m = order->mbs;
    for (int32_t mb = 0; mb < m; mb++)
        dml_program_push(order, s, DML_OP_FWD, s, mb);
    for (int32_t k = 0; k < m; k++)
        dml_program_push(order, s, DML_OP_BWD, s, descending ? m - 1 - k : k);
}

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t s = 0; s < args->stages; s++)
        push_all(order, s, false);
    return DML_ERR_OK;
}

static dml_err build_reverse(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t s = 0; s < args->stages; s++)
        push_all(order, s, true);
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    return (int64_t)(args->mbs + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    (void)stage;
    return args->mbs;
}

const dml_schedule dml_schedule_gpipe = {
    .name = "gpipe",
    .aliases = "afab fill_drain",
    .doc = "all forwards, then all backwards; holds every micro-batch",
    .needs = "",
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};

const dml_schedule dml_schedule_gpipe_reverse = {
    .name = "gpipe_reverse",
    .aliases = "",
    .doc = "gpipe with backwards from the last micro-batch to the first, as torchgpipe",
    .needs = "",
    .build = build_reverse,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
