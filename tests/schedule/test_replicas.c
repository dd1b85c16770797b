/* Replicas of a pipeline, and evaluation over its routes. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

static void micro_batch_b_goes_to_replica_b_mod_r(void **state)
{
    (void)state;
    dml_program one = make_order("1f1b", 2, 2), all;
    one.span[1] = (dml_chunk_span){0, 3, 0, 5};
    DML_CHECK_OK(dml_expand_replicas(&one, 3, 6, &all));
    dml_str text = {0};
    dml_text_print(&all, &text);
    assert_string_equal("order workers=6 chunks=2 mbs=6\n"
                        "chunk 0: layers=0-0 params=0-0\n"
                        "chunk 1: layers=0-3 params=0-5\n"
                        "0: F0.0 F0.3 B0.0 B0.3\n"
                        "1: F0.1 F0.4 B0.1 B0.4\n"
                        "2: F0.2 F0.5 B0.2 B0.5\n"
                        "3: F1.0 B1.0 F1.3 B1.3\n"
                        "4: F1.1 B1.1 F1.4 B1.4\n"
                        "5: F1.2 B1.2 F1.5 B1.5\n",
                        dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&one);
    dml_program_free(&all);
}

static void one_replica_changes_nothing(void **state)
{
    (void)state;
    dml_program one = make_order("gpipe", 3, 5), all;
    DML_CHECK_OK(dml_expand_replicas(&one, 1, 5, &all));
    DML_CHECK(dml_program_equal(&one, &all));
    dml_program_free(&one);
    dml_program_free(&all);
}

static void shares_that_do_not_divide_are_refused_with_what_would(void **state)
{
    (void)state;
    dml_program one = make_order("gpipe", 2, 7), all;
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "30 micro-batches of a step do not divide among 4 replicas (30 % 4 = 2); try "
                    "28 or 32",
                    dml_expand_replicas(&one, 4, 30, &all));
    DML_CHECK_FAILS(DML_ERR_SPEC, "3 micro-batches of a step do not divide among 4 replicas; try 4",
                    dml_expand_replicas(&one, 4, 3, &all));
    DML_CHECK_FAILS(DML_ERR_SPEC, "each has 8", dml_expand_replicas(&one, 4, 32, &all));
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one replica", dml_expand_replicas(&one, 0, 7, &all));
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one micro-batch",
                    dml_expand_replicas(&one, 1, 0, &all));
    DML_CHECK_FAILS(DML_ERR_SPEC, "more than 32767 workers",
                    dml_expand_replicas(&one, 20000, 140000, &all));
    dml_program_free(&one);
}

static void replicas_take_the_time_of_one(void **state)
{
    (void)state;
    for (int32_t r = 1; r <= 4; r++) {
        dml_program one = make_order("1f1b", 4, 8), order, p;
        DML_CHECK_OK(dml_expand_replicas(&one, r, 8 * r, &order));
        dml_cost cost = make_cost(4, 10, 10, 10, 0);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        DML_CHECK_OK(dml_check(&p, NULL));
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        DML_CHECK_EQ(330, sim.makespan_ns);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&one);
        dml_program_free(&order);
        dml_program_free(&p);
    }
}

static void evaluation_keeps_routes_and_order_and_drops_backwards(void **state)
{
    (void)state;
    dml_program one = make_order("1f1b", 2, 2), all, eval, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 4, &all));
    DML_CHECK_OK(dml_schedule_forward_only(&all, &eval));
    dml_str text = {0};
    dml_text_print(&eval, &text);
    assert_string_equal("order workers=4 chunks=2 mbs=4 forward_only\n"
                        "0: F0.0 F0.2\n"
                        "1: F0.1 F0.3\n"
                        "2: F1.0 F1.2\n"
                        "3: F1.1 F1.3\n",
                        dml_str_text(&text));
    dml_str_free(&text);
    dml_cost cost = make_cost(2, 10, 10, 10, 3);
    DML_CHECK_OK(dml_lower(&eval, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    for (int32_t w = 0; w < 4; w++) {
        DML_CHECK_EQ(0, count_ops(&p, w, DML_OP_STEP));
        DML_CHECK_EQ(2, count_ops(&p, w, w < 2 ? DML_OP_SEND_ACT : DML_OP_RECV_ACT));
    }
    dml_cost_free(&cost);
    dml_program_free(&one);
    dml_program_free(&all);
    dml_program_free(&eval);
    dml_program_free(&p);
}

/* However slow the second stage: its inputs do not pile up. */
static void evaluation_holds_two_inputs_not_all(void **state)
{
    (void)state;
    dml_program order = make_order("gpipe", 3, 50), eval, p;
    DML_CHECK_OK(dml_schedule_forward_only(&order, &eval));
    dml_cost cost = make_cost(3, 10, 10, 10, 3);
    cost.chunk[1].fwd_ns = 1000;
    DML_CHECK_OK(dml_lower(&eval, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    for (int32_t w = 0; w < 3; w++) {
        DML_CHECK(*dml_program_slots(&p, w, w, DML_POOL_IN) <= 2);
        DML_CHECK(*dml_program_slots(&p, w, w, DML_POOL_STASH) <= 2);
    }
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    DML_CHECK_EQ(10 + 3 + 50 * 1000 + 3 + 10, sim.makespan_ns); /* the slow stage never waits */
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&eval);
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(micro_batch_b_goes_to_replica_b_mod_r),
        cmocka_unit_test(one_replica_changes_nothing),
        cmocka_unit_test(shares_that_do_not_divide_are_refused_with_what_would),
        cmocka_unit_test(replicas_take_the_time_of_one),
        cmocka_unit_test(evaluation_keeps_routes_and_order_and_drops_backwards),
        cmocka_unit_test(evaluation_holds_two_inputs_not_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
