/* schedule/pipedream.c - 1F1B without a flush: weights of several ages at work at once.
 *
 * PipeDream (Narayanan et al., SOSP 2019): every micro-batch is an update of its own, and the next one
 * goes on where a flush would wait.  U: optimizer step, in the list of stage s it stands after B.
 *
 *   p = 3, B = 2 F
 *   worker 0:  F0F1F2........B0==F3B1==F4B2==F5B3==F6
 *   worker 1:  ..F0F1....B0==F2B1==F3B2==F4B3==F5B4==
 *   worker 2:  ....F0B0==F1B1==F2B2==F3B3==F4B4==F5B5
 *
 *   in steady state   F + B for each micro-batch, no bubble
 *   between drains    (m + p - 1)(F + B), as 1F1B with a flush after m
 *
 * Micro-batch k reads, in its forward and in its backward, at stage s of p (version n: what n updates
 * have made):
 *
 *   weight stashing   max(0, k - (p - 1 - s))    delay p - 1 - s; p - s versions live
 *   vertical sync     max(0, k - (p - 1))        delay p - 1; the same version at every stage
 *
 * PipeDream-2BW (Narayanan et al., ICML 2021) updates every u >= p micro-batches, and reads one update
 * behind: max(0, k / u - 1).  Delay 1, two versions, at every stage.
 */
#include "schedule/alternate.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

static dml_alternate rule(const dml_schedule_args *args, int32_t rank)
{
    return (dml_alternate){.warm_up = args->stages - 1 - rank, .lag = -1};
}

static dml_err push_all(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, rule(args, r));
    return DML_ERR_OK;
}

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    if (args->update_mbs != 1)
        DML_FAIL(DML_ERR_SPEC,
                 "pipedream updates after every micro-batch of a pipeline, not after %d; "
                 "pipedream_2bw does",
                 args->update_mbs);
    return push_all(args, order);
}

static dml_err build_2bw(const dml_schedule_args *args, dml_program *order)
{
    if (args->vertical_sync)
        DML_FAIL(DML_ERR_SPEC, "pipedream_2bw reads one version at all stages as it is: it takes "
                               "no vertical sync");
    if (args->update_mbs < args->stages)
        DML_FAIL(DML_ERR_SPEC,
                 "pipedream_2bw over %d stages takes at least as many micro-batches in an update, "
                 "not %d",
                 args->stages, args->update_mbs);
    return push_all(args, order);
}

static int32_t version(const dml_schedule_args *args, int32_t stage, int32_t mb)
{
    return MAX2(0, mb - (args->stages - 1 - (args->vertical_sync ? 0 : stage)));
}

static int32_t version_2bw(const dml_schedule_args *args, int32_t stage, int32_t mb)
{
    (void)stage;
    return MAX2(0, mb / args->update_mbs - 1);
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    return (int64_t)(args->mbs + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, rule(args, stage));
}

const dml_schedule dml_schedule_pipedream = {
    .name = "pipedream",
    .aliases = "async_1f1b pipedream_1f1b",
    .doc = "1f1b without a flush, an update per micro-batch; weights and gradients of several ages",
    .needs = "",
    .version = version,
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};

const dml_schedule dml_schedule_pipedream_2bw = {
    .name = "pipedream_2bw",
    .aliases = "2bw",
    .doc = "1f1b without a flush, an update per batch from gradients one update old; two versions",
    .needs = "m >= p",
    .version = version_2bw,
    .build = build_2bw,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
