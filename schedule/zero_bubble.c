/* schedule/zero_bubble.c - weight gradients apart, run where 1F1B waits (Qi et al. 2024, sections 2 and 3).
 *
 *   p = 3, m = 4, F = I = W, zb_h1
 *   worker 0:  F0F1F2....I0W0F3I1W1..I2W2I3W3
 *   worker 1:  ..F0F1..I0F2I1W0F3I2W1I3W2W3..
 *   worker 2:  ....F0I0F1I1F2I2W0F3I3W1W2W3..
 *
 * Nobody waits for a weight gradient but the step, so rank r lets it trail by r backwards: what is left at
 * the end fills the drain.
 *
 *              wall                                   held (F to W)   needs
 *   zb_h1      m (F + I + W) + (p - 1)(F + I - W)     p               W <= min(F, I) for this wall
 *   zb_h2      3 m F + (p - 1) F  when F = I = W      2 p - 1         m >= 2 p - 1
 *
 * zb_h2 warms up twice as far, so that a rank, once it works, never stops when F = I = W.  The last rank still
 * starts p - 1 forwards later, which is the wall's only bubble as long as the optimizer step is a barrier.
 */
#include "schedule/alternate.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

static dml_alternate h1_rule(const dml_schedule_args *args, int32_t rank)
{
    return (dml_alternate){.warm_up = args->stages - 1 - rank, .lag = rank};
}

static dml_alternate h2_rule(const dml_schedule_args *args, int32_t rank)
{
    return (dml_alternate){.warm_up = 2 * (args->stages - 1 - rank), .lag = 2 * rank};
}

static dml_err build_h1(const dml_schedule_args *args, dml_program *order)
{
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, h1_rule(args, r));
    return DML_ERR_OK;
}

static dml_err build_h2(const dml_schedule_args *args, dml_program *order)
{
    const int32_t least = 2 * args->stages - 1;
    if (args->mbs < least)
        DML_FAIL(DML_ERR_SPEC, "zb_h2 over %d stages needs at least %d micro-batches, not %d",
                 args->stages, least, args->mbs);
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, h2_rule(args, r));
    return DML_ERR_OK;
}

static int64_t wall_ns_h1(const dml_schedule_args *args, const dml_schedule_times *t)
{
    if (args->mbs < args->stages || t->bwd_weight_ns > MIN2(t->fwd_ns, t->bwd_input_ns))
        return DML_WALL_UNKNOWN;
    return args->mbs * (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns) +
           (args->stages - 1) * (t->fwd_ns + t->bwd_input_ns - t->bwd_weight_ns);
}

static int64_t wall_ns_h2(const dml_schedule_args *args, const dml_schedule_times *t)
{
    if (t->fwd_ns != t->bwd_input_ns || t->fwd_ns != t->bwd_weight_ns) return DML_WALL_UNKNOWN;
    return (3 * (int64_t)args->mbs + args->stages - 1) * t->fwd_ns;
}

static int32_t peak_stash_h1(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, h1_rule(args, stage));
}

static int32_t peak_stash_h2(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, h2_rule(args, stage));
}

const dml_schedule dml_schedule_zb_h1 = {
    .name = "zb_h1",
    .aliases = "zero_bubble",
    .doc =
        "1f1b with weight gradients apart and run in the bubble; the memory of 1f1b's first rank",
    .needs = "",
    .build = build_h1,
    .wall_ns = wall_ns_h1,
    .peak_stash = peak_stash_h1,
};

const dml_schedule dml_schedule_zb_h2 = {
    .name = "zb_h2",
    .aliases = "zb2p",
    .doc = "zb_h1 with twice the warm-up and memory: no bubble between two steps' barriers",
    .needs = "m >= 2 p - 1",
    .build = build_h2,
    .wall_ns = wall_ns_h2,
    .peak_stash = peak_stash_h2,
};
