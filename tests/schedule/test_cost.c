/* The cost rule. */
#include "tests/support/test.h"

#include "schedule/cost.h"

static int64_t ns(const dml_cost *cost, dml_op_kind kind, int32_t chunk)
{
    return dml_op_ns(cost, &(dml_op){.kind = (uint8_t)kind, .chunk = chunk});
}

static void each_kind_costs_what_its_chunk_says(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, 2, 10, 12, 14));
    cost.chunk[1].reduce_ns = 5;
    cost.chunk[1].step_ns = 6;
    cost.vote_ns = 7;
    DML_CHECK_EQ(10, ns(&cost, DML_OP_FWD, 0));
    DML_CHECK_EQ(12, ns(&cost, DML_OP_BWD_INPUT, 1));
    DML_CHECK_EQ(14, ns(&cost, DML_OP_BWD_WEIGHT, 1));
    DML_CHECK_EQ(5, ns(&cost, DML_OP_REDUCE, 1));
    DML_CHECK_EQ(6, ns(&cost, DML_OP_STEP, 1));
    DML_CHECK_EQ(7, ns(&cost, DML_OP_VOTE, 0));
    dml_cost_free(&cost);
}

static void a_whole_backward_costs_its_halves_unless_measured(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, 1, 10, 12, 14));
    DML_CHECK_EQ(26, ns(&cost, DML_OP_BWD, 0));
    cost.chunk[0].bwd_ns = 21;
    DML_CHECK_EQ(21, ns(&cost, DML_OP_BWD, 0));
    dml_cost_free(&cost);
}

static void both_ends_of_a_transfer_pay_for_the_boundary_they_share(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, 3));
    for (int32_t c = 0; c < 3; c++)
        cost.chunk[c].out_bytes = 1000 * (c + 1);
    cost.link_latency_ns = 50;
    DML_CHECK_EQ(50, ns(&cost, DML_OP_SEND_ACT, 1)); /* no bandwidth given: latency alone */
    cost.link_bytes_per_s = 1000000000;
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_SEND_ACT, 1));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_RECV_ACT, 2));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_SEND_GRAD, 2));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_RECV_GRAD, 1));
    cost.chunk[1].out_bytes = INT64_C(1) << 40; /* no overflow on the way */
    cost.link_bytes_per_s = INT64_C(1) << 40;
    DML_CHECK_EQ(1000000050, ns(&cost, DML_OP_SEND_ACT, 1));
    dml_cost_free(&cost);
}

static void a_table_of_no_chunks_is_refused(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one chunk", dml_cost_init(&cost, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_costs_what_its_chunk_says),
        cmocka_unit_test(a_whole_backward_costs_its_halves_unless_measured),
        cmocka_unit_test(both_ends_of_a_transfer_pay_for_the_boundary_they_share),
        cmocka_unit_test(a_table_of_no_chunks_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
