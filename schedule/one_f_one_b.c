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
 *
 * Eager (Zhuang et al., "On optimizing the communication of model parallelism", 2023: Alpa's
 * 1f1b_overlap_friendly) warms up twice as far: wherever a value must travel there is an op to run
 * meanwhile, so a link's latency costs nothing as long as it is below F and below B.
 *
 *   activations held  min(m, 2 (p - 1 - worker) + 1)
 */
#include "schedule/alternate.h"

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    return (int64_t)(args->mbs + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static dml_alternate lazy_rule(const dml_schedule_args *args, int32_t rank)
{
    return (dml_alternate){.warm_up = args->stages - 1 - rank, .lag = -1};
}

static dml_alternate eager_rule(const dml_schedule_args *args, int32_t rank)
{
    return (dml_alternate){.warm_up = 2 * (args->stages - 1 - rank), .lag = -1};
}

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, lazy_rule(args, r));
    return DML_ERR_OK;
}

static dml_err build_eager(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, eager_rule(args, r));
    return DML_ERR_OK;
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, lazy_rule(args, stage));
}

static int32_t peak_stash_eager(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, eager_rule(args, stage));
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

const dml_schedule dml_schedule_eager_one_f_one_b = {
    .name = "eager_1f1b",
    .aliases = "1f1b_overlap_friendly overlap_friendly_1f1b",
    .doc = "1f1b with twice the warm-up, which hides the links' latency; holds twice as much",
    .needs = "",
    .build = build_eager,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash_eager,
};
