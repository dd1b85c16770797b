/* schedule/chimera.c - two pipelines through the same workers, one down and one up (Li and Hoefler 2021).
 *
 *   p = 4, m = 4, F = B; d: micro-batches 0 and 1 down, u: 2 and 3 up
 *   worker 0:  d0..d1u2u2u3u3d0..d1
 *   worker 1:  ..d0u2d1u3u2d0u3d1..
 *   worker 2:  ..u2d0u3d1d0u2d1u3..
 *   worker 3:  u2..u3d0d0d1d1u2..u3
 *
 * Worker r holds stage r for the micro-batches that go down and stage p - 1 - r for those that go up, so
 * every stage has two holders, which sum their gradients as replicas do.  One pipeline works where the
 * other waits.  With F = B the ops of a unit of p micro-batches lie in slots of their own:
 *
 *   F of the k-th micro-batch of its direction at its stage s   slot  s + 2 k
 *   B                                                           slot  2 p - 1 - s + 2 k
 *
 * (from the paper's figure 3), and the next unit begins 2 p slots later: direct concatenation.
 *
 *   wall              (2 m + p - 2) F when F = B
 *   activations held  min(p/2, p - r) + min(p/2, r + 1): between p/2 + 1 and p
 */
#include "schedule/schedule.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* What a worker does in one slot of a unit; the slots of the two pipelines never meet. */
typedef struct pass {
    bool up, backward;
    int32_t k; /* -1: nothing */
} pass;

static int32_t unit_of(const dml_schedule_args *args)
{
    return MIN2(args->mbs, args->stages);
}

static int32_t stage_of(const dml_schedule_args *args, int32_t worker, bool up)
{
    return up ? args->stages - 1 - worker : worker;
}

/* The k whose pass begins in `slot`, or -1. */
static int32_t turn(const dml_schedule_args *args, int32_t slot, int32_t begin)
{
    const int32_t since = slot - begin;
    return since >= 0 && since % 2 == 0 && since / 2 < unit_of(args) / 2 ? since / 2 : -1;
}

static pass pass_in(const dml_schedule_args *args, int32_t worker, int32_t slot)
{
    for (int32_t way = 0; way < 4; way++) {
        pass at = {.up = way & 1, .backward = way & 2};
        const int32_t s = stage_of(args, worker, at.up);
        at.k = turn(args, slot, at.backward ? 2 * args->stages - 1 - s : s);
        if (at.k >= 0) return at;
    }
    return (pass){.k = -1};
}

static void push(const dml_schedule_args *args, dml_program *order, int32_t worker, int32_t unit,
                 pass at)
{
    const int32_t first = unit * unit_of(args) + (at.up ? unit_of(args) / 2 : 0);
    dml_program_push(order, worker, at.backward ? DML_OP_BWD : DML_OP_FWD,
                     stage_of(args, worker, at.up), first + at.k);
}

static dml_err check(const dml_schedule_args *args)
{
    if (args->stages % 2 != 0)
        DML_FAIL(DML_ERR_SPEC, "chimera mirrors the stages on the workers: an even number, not %d",
                 args->stages);
    if (args->mbs % unit_of(args) != 0 || args->mbs % 2 != 0)
        DML_FAIL(DML_ERR_SPEC,
                 "chimera over %d stages takes an even number of micro-batches, up to %d or a "
                 "multiple of it, not %d",
                 args->stages, args->stages, args->mbs);
    return DML_ERR_OK;
}

/* A unit lasts 3 p - 2 slots and the next begins after 2 p: the tail of one lies between the ops of the
 * next. */
static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    DML_TRY(check(args));
    const int32_t apart = 2 * args->stages, units = args->mbs / unit_of(args);
    for (int32_t w = 0; w < args->stages; w++)
        for (int32_t slot = 0; slot < (units + 1) * apart; slot++)
            for (int32_t back = 1; back >= 0; back--) {
                const int32_t unit = slot / apart - back;
                if (unit < 0 || unit >= units) continue;
                const pass at = pass_in(args, w, slot - unit * apart);
                if (at.k >= 0) push(args, order, w, unit, at);
            }
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    const int64_t bwd_ns = t->bwd_input_ns + t->bwd_weight_ns;
    if (t->fwd_ns != bwd_ns || args->mbs < args->stages) return DML_WALL_UNKNOWN;
    return (2 * (int64_t)args->mbs + args->stages - 2) * t->fwd_ns;
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t worker)
{
    const int32_t half = unit_of(args) / 2;
    return MIN2(half, args->stages - worker) + MIN2(half, worker + 1);
}

const dml_schedule dml_schedule_chimera = {
    .name = "chimera",
    .aliases = "chimera_direct bidirectional",
    .doc = "two pipelines in opposite directions over two copies of the weights",
    .needs = "p even; m even, and up to p or a multiple of it",
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
