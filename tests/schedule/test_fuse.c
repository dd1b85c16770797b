/* Lengths of orders, and backwards made whole again where that costs nothing. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/fuse.h"
#include "schedule/reroute.h"
#include "schedule/sim.h"

#include <string.h>

static int64_t length_of(const dml_program *p, const dml_cost *cost, dml_list_objective objective)
{
    int64_t ns;
    DML_CHECK_OK(dml_order_length(p, cost, objective, &ns));
    return ns;
}

static int32_t count_kind(const dml_program *p, dml_op_kind kind)
{
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        n += count_ops(p, w, kind);
    return n;
}

static void the_wall_is_what_the_simulator_says(void **state)
{
    (void)state;
    rnd r = rnd_of(41);
    for (int32_t n = 0; n < 300; n++) {
        dml_program p = random_order(&r);
        dml_cost cost = random_cost(&r, &p);
        if (n % 2) random_cluster(&r, p.workers, &cost);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        DML_CHECK_EQ(sim.makespan_ns, length_of(&p, &cost, DML_LIST_WALL));
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&p);
    }
}

/* Two stages, 1F1B, F = I = W = 10: stage 0 runs 0..90, stage 1 10..70.  Its first forward may be as late as it likes to
 * only where nobody waits for it: not at all here. */
static void the_span_counts_each_worker_from_its_own_first_op(void **state)
{
    (void)state;
    dml_program p = make_order("1f1b", 2, 2);
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    DML_CHECK_EQ(90, length_of(&p, &cost, DML_LIST_WALL));
    DML_CHECK_EQ(90, length_of(&p, &cost, DML_LIST_SPAN));
    cost.chunk[1].step_ns = 25;
    DML_CHECK_EQ(90, length_of(&p, &cost, DML_LIST_SPAN)); /* 60 of stage 1, and its step: 85 */
    cost.chunk[1].reduce_ns = 15;
    DML_CHECK_EQ(100, length_of(&p, &cost, DML_LIST_SPAN));
    cost.chunk[0].step_ns = 7;
    cost.chunk[0].reduce_ns = 5;
    DML_CHECK_EQ(102, length_of(&p, &cost, DML_LIST_SPAN));
    dml_cost_free(&cost);
    dml_program_free(&p);
}

static void fusing_makes_no_order_longer_and_keeps_no_more(void **state)
{
    (void)state;
    int32_t before = 0, after = 0;
    for (int32_t n = 0; n < 3000; n++) {
        rnd r = rnd_of(4200 + (uint64_t)n);
        dml_program p = random_order(&r), was;
        dml_cost cost = random_cost(&r, &p);
        const dml_list_objective objective = n % 2 ? DML_LIST_SPAN : DML_LIST_WALL;
        const int64_t held[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        int32_t left;
        if (p.forward_only) {
            dml_program_free(&p);
            dml_cost_free(&cost);
            continue;
        }
        const int64_t ns = length_of(&p, &cost, objective);
        DML_CHECK_OK(dml_program_copy(&p, &was));
        DML_CHECK_OK(dml_order_fuse(&cost, objective, &p, &left));
        DML_CHECK_OK(dml_check(&p, NULL));
        DML_CHECK(length_of(&p, &cost, objective) <= ns);
        DML_CHECK_EQ(left, count_kind(&p, DML_OP_BWD_WEIGHT));
        DML_CHECK_EQ(left, count_kind(&p, DML_OP_BWD_INPUT));
        for (int32_t w = 0; w < p.workers; w++)
            DML_CHECK(dml_order_peak(&p, w, held) <= dml_order_peak(&was, w, held));
        before += count_kind(&was, DML_OP_BWD_WEIGHT);
        after += left;
        dml_program_free(&was);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
    print_message("of %d cut backwards %d stay\n", before, after);
    DML_CHECK(after < before);
}

/* Where nobody waits all become whole; in zero bubble's order, which is as long as the work, none that fills a bubble. */
static void what_pays_stays_cut(void **state)
{
    (void)state;
    dml_program p = make_order("zb_h2", 1, 4);
    dml_cost cost = make_cost(1, 10, 10, 10, 0), four = make_cost(4, 10, 10, 10, 0);
    int32_t left;
    DML_CHECK_OK(dml_order_fuse(&cost, DML_LIST_WALL, &p, &left));
    DML_CHECK_EQ(0, left);
    dml_program_free(&p);
    p = make_order("zb_h1", 4, 8);
    const int64_t ns = length_of(&p, &four, DML_LIST_WALL);
    DML_CHECK_OK(dml_order_fuse(&four, DML_LIST_WALL, &p, &left));
    DML_CHECK_EQ(ns, length_of(&p, &four, DML_LIST_WALL));
    DML_CHECK(left > 0 && left < 32);
    dml_program_free(&p);
    dml_cost_free(&cost);
    dml_cost_free(&four);
}

static void orders_that_cannot_be_fused_are_named(void **state)
{
    (void)state;
    dml_program p = make_program("zb_h1", 2, 4, 1, 1, 1), order = make_order("zb_h1", 2, 4);
    dml_cost cost = make_cost(2, 1, 1, 1, 0), three = make_cost(3, 1, 1, 1, 0);
    int64_t ns;
    DML_CHECK_FAILS(DML_ERR_SPEC, "in the order of a synchronous step",
                    dml_order_fuse(&cost, DML_LIST_WALL, &p, NULL));
    DML_CHECK_FAILS(DML_ERR_SPEC, "costs of 3 chunks for an order of 2",
                    dml_order_length(&order, &three, DML_LIST_WALL, &ns));
    dml_op *op = order.list[0].op;
    const dml_op first = op[0];
    memmove(op, op + 1, (size_t)(order.list[0].n - 1) * sizeof *op);
    op[order.list[0].n - 1] = first; /* F0 after all that it makes possible */
    DML_CHECK_FAILS(DML_ERR_SPEC, "wait for each other",
                    dml_order_length(&order, &cost, DML_LIST_WALL, &ns));
    dml_program_free(&p);
    dml_program_free(&order);
    dml_cost_free(&cost);
    dml_cost_free(&three);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_wall_is_what_the_simulator_says),
        cmocka_unit_test(the_span_counts_each_worker_from_its_own_first_op),
        cmocka_unit_test(fusing_makes_no_order_longer_and_keeps_no_more),
        cmocka_unit_test(what_pays_stays_cut),
        cmocka_unit_test(orders_that_cannot_be_fused_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
