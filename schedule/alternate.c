/* schedule/alternate.c - which chunk and micro-batch comes when.
 *
 * The k-th forward of a rank, with groups of g and v chunks (backward: chunks counted from the last):
 *
 *   k / g mod v        which of its chunks
 *   k / (g v)          which round;   micro-batch  g round + k mod g
 */
#include "schedule/alternate.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

int32_t dml_alternate_group(const dml_schedule_args *args)
{
    const int32_t rounds = args->mbs / args->stages;
    return args->mbs / (rounds > 1 ? rounds : 1);
}

dml_err dml_alternate_check(const dml_schedule_args *args, const char *name)
{
    const int32_t m = args->mbs, g = dml_alternate_group(args);
    if (args->virtual_stages == 1 || m % g == 0) return DML_ERR_OK;
    const int32_t p = args->stages, below = m - m % p;
    DML_FAIL(DML_ERR_SPEC,
             "%s with %d chunks on a rank takes micro-batches in groups of %d, and %d are no "
             "multiple of that; try %d or %d",
             name, args->virtual_stages, g, m, below, below + p);
}

/* The k-th op of a kind on the rank; `up`: forward. */
static void push(const dml_schedule_args *args, dml_program *order, int32_t rank, dml_op_kind kind,
                 int32_t k)
{
    const int32_t v = args->virtual_stages, g = v > 1 ? dml_alternate_group(args) : args->mbs;
    const int32_t nth = k / g % v, turn = kind == DML_OP_FWD ? nth : v - 1 - nth;
    dml_program_push(order, rank, kind, turn * args->stages + rank, k / (g * v) * g + k % g);
}

void dml_alternate_push(const dml_schedule_args *args, dml_program *order, int32_t rank,
                        dml_alternate a)
{
    const int32_t n = args->mbs * args->virtual_stages;
    const dml_op_kind back = a.lag < 0 ? DML_OP_BWD : DML_OP_BWD_INPUT;
    int32_t f = 0, b = 0, w = 0;
    while (f < MIN2(a.warm_up, n))
        push(args, order, rank, DML_OP_FWD, f++);
    while (b < n) {
        if (f < n) push(args, order, rank, DML_OP_FWD, f++);
        push(args, order, rank, back, b++);
        if (a.lag >= 0 && b > a.lag) push(args, order, rank, DML_OP_BWD_WEIGHT, w++);
    }
    while (a.lag >= 0 && w < n)
        push(args, order, rank, DML_OP_BWD_WEIGHT, w++);
}

int32_t dml_alternate_peak(const dml_schedule_args *args, dml_alternate a)
{
    const int32_t held = a.warm_up + 1 + (a.lag > 0 ? a.lag : 0);
    return MIN2(args->mbs * args->virtual_stages, held);
}
