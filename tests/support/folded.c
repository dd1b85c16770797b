/* tests/support/folded.c - the orders by hand, the rest by the planner's own steps. */
#include "tests/support/test.h"

#include "tests/support/folded.h"

#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"

/* F0 F1 B1 B0, or F0 F1 I1 I0 W0 W1, of one micro-batch. */
static void push_micro_batch(dml_program *order, int32_t worker, int32_t mb, bool split)
{
    for (int32_t c = 0; c < order->chunks; c++)
        dml_program_push(order, worker, DML_OP_FWD, c, mb);
    for (int32_t c = order->chunks - 1; c >= 0; c--)
        dml_program_push(order, worker, split ? DML_OP_BWD_INPUT : DML_OP_BWD, c, mb);
    for (int32_t c = 0; c < order->chunks && split; c++)
        dml_program_push(order, worker, DML_OP_BWD_WEIGHT, c, mb);
}

static void lower(const dml_program *order, const dml_cost *cost, dml_program *out)
{
    dml_program_free(out);
    DML_CHECK_OK(dml_check(order, NULL));
    DML_CHECK_OK(dml_lower(order, cost, out));
    DML_CHECK_OK(dml_check(out, NULL));
}

void plan_folded(dml_plan *plan, bool split)
{
    dml_program order, forward;
    DML_CHECK_OK(dml_program_init(&order, plan->replicas, plan->stages, plan->mbs));
    for (int32_t c = 0; c < plan->stages; c++) {
        order.span[c] = plan->train.span[c];
        order.buckets[c] = plan->train.buckets[c];
    }
    DML_CHECK_OK(dml_program_set_skips(&order, plan->train.n_skips, plan->train.skip));
    for (int32_t mb = 0; mb < plan->mbs; mb++)
        push_micro_batch(&order, mb % plan->replicas, mb, split);
    dml_program_route_by_ops(&order);
    DML_CHECK_OK(dml_schedule_forward_only(&order, &forward));
    lower(&order, &plan->cost, &plan->train);
    lower(&forward, &plan->cost, &plan->eval);
    dml_program_free(&order);
    dml_program_free(&forward);
    plan->workers = plan->replicas;
}
