/* schedule/interleaved.c - several chunks on each rank (Narayanan et al. 2021, section 2.2), and the same
 * with weight gradients put into the bubble (torch.distributed.pipelining's ScheduleInterleavedZeroBubble).
 *
 *   p = 2, v = 2, m = 2, B = 2 F; rank 0 holds chunks 0 and 2, rank 1 chunks 1 and 3; a letter is a chunk's op
 *   worker 0:  F0.0F0.1F2.0F2.1....B2.0====B2.1====B0.0====B0.1====
 *   worker 1:  ....F1.0F1.1F3.0B3.0====F3.1B3.1====B1.0====B1.1====
 *
 * Filling and draining go chunk by chunk, so the bubble shrinks by v while transfers grow by v.  With times
 * of a chunk:
 *
 *   interleaved_1f1b   wall  (m v + p - 1)(F + B)              held  (v - 1) p + 2 (p - 1 - r) + 1 chunks
 *   interleaved_zb     wall  m v (F + I + W) + (p - 1)(F + I - W)  held  v p chunks, the last r for W alone
 *
 * both for m a multiple of p; the second needs W <= min(F, I).
 */
#include "schedule/alternate.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

static dml_alternate rule(const dml_schedule_args *args, int32_t rank)
{
    const int32_t chunks = (args->virtual_stages - 1) * dml_alternate_group(args);
    return (dml_alternate){.warm_up = chunks + 2 * (args->stages - 1 - rank), .lag = -1};
}

static dml_alternate zb_rule(const dml_schedule_args *args, int32_t rank)
{
    const int32_t chunks = (args->virtual_stages - 1) * dml_alternate_group(args);
    return (dml_alternate){.warm_up = chunks + args->stages - 1 - rank, .lag = rank};
}

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    DML_TRY(dml_alternate_check(args, "interleaved_1f1b"));
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, rule(args, r));
    return DML_ERR_OK;
}

static dml_err build_zb(const dml_schedule_args *args, dml_program *order)
{
    DML_TRY(dml_alternate_check(args, "interleaved_zb"));
    for (int32_t r = 0; r < args->stages; r++)
        dml_alternate_push(args, order, r, zb_rule(args, r));
    return DML_ERR_OK;
}

static bool whole_rounds(const dml_schedule_args *args)
{
    return args->mbs % args->stages == 0;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    if (!whole_rounds(args)) return DML_WALL_UNKNOWN;
    return ((int64_t)args->mbs * args->virtual_stages + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int64_t wall_ns_zb(const dml_schedule_args *args, const dml_schedule_times *t)
{
    if (!whole_rounds(args) || t->bwd_weight_ns > MIN2(t->fwd_ns, t->bwd_input_ns))
        return DML_WALL_UNKNOWN;
    const int64_t ops = (int64_t)args->mbs * args->virtual_stages;
    return ops * (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns) +
           (args->stages - 1) * (t->fwd_ns + t->bwd_input_ns - t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, rule(args, stage));
}

static int32_t peak_stash_zb(const dml_schedule_args *args, int32_t stage)
{
    return dml_alternate_peak(args, zb_rule(args, stage));
}

#define NEEDS "with several stages on a rank: m a multiple of m / p rounded down, as any m < 2 p is"

const dml_schedule dml_schedule_interleaved_1f1b = {
    .name = "interleaved_1f1b",
    .aliases = "interleaved interleaved1f1b vpp",
    .doc = "1f1b over several chunks on each rank: the bubble shrinks by their number",
    .needs = NEEDS,
    .many_chunks = true,
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};

const dml_schedule dml_schedule_interleaved_zb = {
    .name = "interleaved_zb",
    .aliases = "interleaved_zero_bubble zb1p",
    .doc = "interleaved, with weight gradients apart and run where the bubble was",
    .needs = NEEDS,
    .many_chunks = true,
    .build = build_zb,
    .wall_ns = wall_ns_zb,
    .peak_stash = peak_stash_zb,
};
