/* Order to program. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

static void check_lowered(const char *golden, const dml_program *order, const dml_cost *cost)
{
    dml_program p;
    DML_CHECK_OK(dml_lower(order, cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_str text = {0};
    dml_text_print(&p, &text);
    check_golden(golden, dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void small_programs_are_as_written_down(void **state)
{
    (void)state;
    dml_cost cost = make_cost(2, 10, 10, 10, 5);
    dml_program order = make_order("1f1b", 2, 3), eval;
    check_lowered("schedule_1f1b_2x3.txt", &order, &cost);
    DML_CHECK_OK(dml_schedule_forward_only(&order, &eval));
    check_lowered("schedule_eval_2x3.txt", &eval, &cost);
    dml_program_free(&order);
    dml_program_free(&eval);

    dml_program one = make_order("gpipe", 2, 2);
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 4, &order));
    check_lowered("schedule_gpipe_2x2_replicated.txt", &order, &cost);
    dml_program_free(&one);
    dml_program_free(&order);

    /* Two workers in a V: chunks 0 and 3 on one, 1 and 2 on the other; backward split. */
    dml_cost_free(&cost);
    cost = make_cost(4, 10, 10, 10, 5);
    DML_CHECK_OK(dml_text_parse("v",
                                "order workers=2 chunks=4 mbs=1\n"
                                "0: F0.0 F3.0 I3.0 W3.0 I0.0 W0.0\n"
                                "1: F1.0 F2.0 I2.0 I1.0 W2.0 W1.0\n",
                                &order));
    check_lowered("schedule_v_2x1.txt", &order, &cost);
    dml_program_free(&order);
    dml_cost_free(&cost);
}

static void compute_ops_keep_their_order(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_order(&r), p;
        dml_cost cost = random_cost(&r, order.chunks);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        for (int32_t w = 0; w < p.workers; w++) {
            int32_t k = 0;
            for (int32_t i = 0; i < p.list[w].n; i++) {
                const dml_op *op = &p.list[w].op[i];
                if (dml_op_lane(op) != DML_LANE_COMPUTE || op->mb == DML_NO_MB) continue;
                const dml_op *want = &order.list[w].op[k++];
                DML_CHECK(op->kind == want->kind && op->chunk == want->chunk && op->mb == want->mb);
            }
            DML_CHECK_EQ(order.list[w].n, k);
        }
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

static void neighbours_on_one_worker_pass_tensors_directly(void **state)
{
    (void)state;
    dml_program one, p;
    DML_CHECK_OK(
        dml_schedule_build(&dml_schedule_sequential,
                           &(dml_schedule_args){.stages = 1, .virtual_stages = 3, .mbs = 4}, &one));
    dml_cost cost = make_cost(3, 10, 10, 10, 5);
    DML_CHECK_OK(dml_lower(&one, &cost, &p));
    DML_CHECK_EQ(4 * 6 + 3 + 1 + 3, p.list[0].n); /* F and B, reductions, vote, steps */
    DML_CHECK_EQ(0, *dml_program_slots(&p, 0, 1, DML_POOL_IN));
    DML_CHECK_EQ(1, *dml_program_slots(&p, 0, 1, DML_POOL_STASH));
    DML_CHECK_EQ(1, *dml_program_slots(&p, 0, 1, DML_POOL_DX));
    dml_program_free(&one);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

static void one_f_one_b_holds_p_minus_worker_stashes_whatever_transfers_take(void **state)
{
    (void)state;
    for (int64_t latency_ns = 0; latency_ns <= 30; latency_ns += 15) {
        dml_program order = make_order("1f1b", 4, 8), p;
        dml_cost cost = make_cost(4, 10, 10, 10, latency_ns);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        for (int32_t w = 0; w < 4; w++) {
            DML_CHECK_EQ(4 - w, *dml_program_slots(&p, w, w, DML_POOL_STASH));
            DML_CHECK(*dml_program_slots(&p, w, w, DML_POOL_IN) <= (w ? 5 - w : 0));
            DML_CHECK(*dml_program_slots(&p, w, w, DML_POOL_DY) <= 2);
        }
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

/* A gradient still being sent when the next backward starts: only then is there a second buffer. */
static void buffers_double_when_transfers_take_time(void **state)
{
    (void)state;
    for (int64_t latency_ns = 0; latency_ns <= 5; latency_ns += 5) {
        dml_program order = make_order("gpipe", 4, 8), p;
        dml_cost cost = make_cost(4, 10, 10, 10, latency_ns);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        for (int32_t w = 0; w < 4; w++) {
            const int32_t want = latency_ns ? 2 : 1;
            DML_CHECK_EQ(w > 0 ? want : 0, *dml_program_slots(&p, w, w, DML_POOL_DX));
            DML_CHECK_EQ(w < 3 ? want : 0, *dml_program_slots(&p, w, w, DML_POOL_DY));
        }
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

/* The lanes of the program lose nothing against links that are never busy. */
static void slots_and_lanes_cost_no_time_in_the_predicted_timeline(void **state)
{
    (void)state;
    static const char *const names[] = {"gpipe", "1f1b", "sequential"};
    for (size_t k = 0; k < 3; k++)
        for (int32_t stages = 2; stages <= 8; stages += 2) {
            dml_program order = make_order(names[k], stages, 3 * stages), p;
            dml_cost cost = make_cost(stages, 10, 10, 10, 5);
            dml_sim eager, real;
            DML_CHECK_OK(dml_lower(&order, &cost, &p));
            DML_CHECK_OK(dml_simulate(&order, &cost, &eager));
            DML_CHECK_OK(dml_simulate(&p, &cost, &real));
            DML_CHECK_EQ(eager.makespan_ns, real.makespan_ns);
            dml_sim_free(&eager);
            dml_sim_free(&real);
            dml_program_free(&order);
            dml_program_free(&p);
            dml_cost_free(&cost);
        }
}

static void what_cannot_be_lowered_is_said(void **state)
{
    (void)state;
    dml_program p = make_program("1f1b", 2, 2, 10, 10, 10), order = make_order("gpipe", 2, 2), q;
    dml_cost cost = make_cost(2, 10, 10, 10, 0), other = make_cost(3, 10, 10, 10, 0);
    DML_CHECK_FAILS(DML_ERR_SPEC, "lowered already", dml_lower(&p, &cost, &q));
    DML_CHECK_FAILS(DML_ERR_SPEC, "costs of 3 chunks for a program of 2",
                    dml_lower(&order, &other, &q));
    DML_CHECK(q.list == NULL);
    drop_op(&order, 0, 1);
    DML_CHECK_FAILS(DML_ERR_SPEC, "once: worker 0: F0.1 is missing", dml_lower(&order, &cost, &q));
    dml_program_free(&p);
    dml_program_free(&order);
    dml_cost_free(&cost);
    dml_cost_free(&other);
}

static void more_in_flight_than_slots_have_numbers_is_refused(void **state)
{
    (void)state;
    dml_program order = make_order("gpipe", 1, 40000), p;
    dml_cost cost = make_cost(1, 10, 10, 10, 0);
    DML_CHECK_FAILS(DML_ERR_SPEC, "worker 0 keeps more than 32767 micro-batches of chunk 0 at once",
                    dml_lower(&order, &cost, &p));
    dml_program_free(&order);
    dml_cost_free(&cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_programs_are_as_written_down),
        cmocka_unit_test(compute_ops_keep_their_order),
        cmocka_unit_test(neighbours_on_one_worker_pass_tensors_directly),
        cmocka_unit_test(one_f_one_b_holds_p_minus_worker_stashes_whatever_transfers_take),
        cmocka_unit_test(buffers_double_when_transfers_take_time),
        cmocka_unit_test(slots_and_lanes_cost_no_time_in_the_predicted_timeline),
        cmocka_unit_test(what_cannot_be_lowered_is_said),
        cmocka_unit_test(more_in_flight_than_slots_have_numbers_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
