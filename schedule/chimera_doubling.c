/* schedule/chimera_doubling.c - chimera whose forwards go two by two (Li and Hoefler 2021, section 3.5).
 *
 *   p = 4, m = 8, B = 2 F; d: micro-batches 0 to 3 down, u: 4 to 7 up; a slot is two forwards or a backward
 *   worker 0:  d0d1....d2d3u4u5u4u4u6u7u5u5d0d0u6u6d1d1u7u7d2d2....d3d3
 *   worker 1:  ....d0d1u4u5d2d3u6u7u4u4d0d0u5u5d1d1u6u6d2d2u7u7d3d3....
 *   worker 2:  ....u4u5d0d1u6u7d2d3d0d0u4u4d1d1u5u5d2d2u6u6d3d3u7u7....
 *   worker 3:  u4u5....u6u7d0d1d0d0d2d3d1d1u4u4d2d2u5u5d3d3u6u6....u7u7
 *
 * Direct concatenation (schedule/chimera.c) leaves bubbles between its units where a backward is longer than
 * a forward.  Here slots are equally long when B = 2 F, and between fill and drain none is left empty.  Workers
 * and copies of the weights are as there; what differs is when.  A pass moves by one worker each slot: down
 * forwards and up backwards to the right, up forwards and down backwards to the left.  Tracks of one way start
 * two slots apart, and since p is even those that go left are met in the slots between:
 *
 *   right, at worker r in slot 2 i + r          left, at worker r in slot 2 i + p - 1 - r
 *   i =   0 .. p/2 - 1    down forwards, two a slot        up forwards
 *   i = p/2 .. 3 p/2 - 1  up backwards, in order           down backwards
 *
 * That is all of a unit of 2 p micro-batches, and the next unit's tracks follow: 3 p slots of work in 3 p
 * slots.  An up forward is through the last stage at slot p + 2 i, in time for its backwards from p + 4 i on.
 *
 *   wall              (m + (p - 2) / 2)(F + B) when F <= B <= 2 F and units are whole: the second of two forwards
 *                     need not be awaited, so pipelines fill in steps of F
 *   activations held  3 p / 2 + 1 + min(r, p - 1 - r): up to 2 p, where direct concatenation holds up to p
 */
#include "schedule/schedule.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* What a worker does in one slot. */
typedef struct slot {
    int32_t unit, track; /* of the unit: 0 .. 3 p / 2 - 1 */
    bool right;
} slot;

/* Micro-batches of the unit: only the last one may be short. */
static int32_t size_of(const dml_schedule_args *args, int32_t unit)
{
    return MIN2(2 * args->stages, args->mbs - 2 * args->stages * unit);
}

/* Pushes the micro-batches begin .. end - 1 of those that go up or down in the unit. */
static void push(const dml_schedule_args *args, dml_program *order, int32_t worker,
                 dml_op_kind kind, int32_t unit, bool up, int32_t begin, int32_t end)
{
    const int32_t stage = up ? args->stages - 1 - worker : worker;
    const int32_t first = 2 * args->stages * unit + (up ? size_of(args, unit) / 2 : 0);
    for (int32_t k = begin; k < end; k++)
        dml_program_push(order, worker, kind, stage, first + k);
}

static void push_slot(const dml_schedule_args *args, dml_program *order, int32_t worker, slot at)
{
    const int32_t n = size_of(args, at.unit), back = at.track - args->stages / 2;
    if (at.track < n / 4)
        push(args, order, worker, DML_OP_FWD, at.unit, !at.right, 2 * at.track, 2 * at.track + 2);
    else if (back >= 0 && back < n / 2)
        push(args, order, worker, DML_OP_BWD, at.unit, at.right, back, back + 1);
}

static dml_err check(const dml_schedule_args *args)
{
    if (args->stages % 2 != 0)
        DML_FAIL(DML_ERR_SPEC,
                 "chimera_doubling mirrors the stages on the workers: an even number, not %d",
                 args->stages);
    if (args->mbs % 4 != 0)
        DML_FAIL(DML_ERR_SPEC,
                 "chimera_doubling sends pairs of micro-batches both ways: a multiple of 4, not %d",
                 args->mbs);
    return DML_ERR_OK;
}

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    DML_TRY(check(args));
    const int32_t p = args->stages, length = 3 * p, units = (args->mbs + 2 * p - 1) / (2 * p);
    for (int32_t w = 0; w < p; w++)
        for (int32_t t = 0; t < length * units + p; t++) {
            const bool right = (t - w) % 2 == 0;
            const int32_t since = t - (right ? w : p - 1 - w), unit = since / length;
            if (since < 0 || unit >= units) continue;
            push_slot(args, order, w, (slot){unit, since % length / 2, right});
        }
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    const int64_t f = t->fwd_ns, b = t->bwd_input_ns + t->bwd_weight_ns;
    if (args->mbs % (2 * args->stages) != 0 || b < f || b > 2 * f) return DML_WALL_UNKNOWN;
    return (args->mbs + (args->stages - 2) / 2) * (f + b);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t worker)
{
    const int32_t n = size_of(args, 0);
    return MIN2(n, 3 * n / 4 + 1 + MIN2(worker, args->stages - 1 - worker));
}

const dml_schedule dml_schedule_chimera_doubling = {
    .name = "chimera_doubling",
    .aliases = "chimera_forward_doubling forward_doubling chimera_doubled",
    .doc = "chimera with forwards two by two: no bubble between units when B = 2 F, twice the "
           "activations (the paper recomputes them)",
    .needs = "p even; m a multiple of 4, best of 2 p",
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
