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

    /* The same with buckets: W3 and W0 in two parts, W2 in three. */
    static const int32_t buckets[] = {2, 1, 3, 2};
    for (int32_t c = 0; c < 4; c++) {
        order.buckets[c] = buckets[c];
        DML_CHECK_OK(dml_cost_buckets(&cost, c, buckets[c]));
    }
    check_lowered("schedule_v_2x1_buckets.txt", &order, &cost);
    dml_program_free(&order);
    dml_cost_free(&cost);
}

/* Two replicas of one chunk: a reduction stands behind the part it waits for, on both alike. */
static void reductions_follow_the_parts_of_the_last_backward(void **state)
{
    (void)state;
    dml_program one = make_order("1f1b", 1, 2), order, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 4, &order));
    order.buckets[0] = 3;
    dml_cost cost = make_cost(1, 10, 10, 10, 0);
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 3));
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal("program workers=2 chunks=1 mbs=4\n"
                        "chunk 0: layers=0-0 params=0-0 buckets=3\n"
                        "route 0: 0 1 0 1\n"
                        "pools 0.0: IN=0 STASH=1 DY=0 DX=0\n"
                        "pools 1.0: IN=0 STASH=1 DY=0 DX=0\n"
                        "0:\n"
                        "     0 F0.0 slot=0\n"
                        "     1 B0.0\n"
                        "     2 F0.2 slot=0\n"
                        "     3 B0.2/1\n"
                        "     4 B0.2/2\n"
                        "     5 R0/1 wait=3\n"
                        "     6 B0.2/3\n"
                        "     7 R0/2 wait=4\n"
                        "     8 R0/3 wait=6\n"
                        "     9 V\n"
                        "    10 U0 wait=9\n"
                        "1:\n"
                        "     0 F0.1 slot=0\n"
                        "     1 B0.1\n"
                        "     2 F0.3 slot=0\n"
                        "     3 B0.3/1\n"
                        "     4 B0.3/2\n"
                        "     5 R0/1 wait=3\n"
                        "     6 B0.3/3\n"
                        "     7 R0/2 wait=4\n"
                        "     8 R0/3 wait=6\n"
                        "     9 V\n"
                        "    10 U0 wait=9\n",
                        dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&one);
    dml_program_free(&order);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

static void compute_ops_keep_their_order(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_order(&r), p;
        dml_cost cost = random_cost(&r, &order);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        for (int32_t w = 0; w < p.workers; w++) {
            int32_t k = 0;
            for (int32_t i = 0; i < p.list[w].n; i++) {
                const dml_op *op = &p.list[w].op[i];
                if (dml_op_lane(op) != DML_LANE_COMPUTE || op->mb == DML_NO_MB) continue;
                const dml_op *want = &order.list[w].op[k];
                DML_CHECK(op->kind == want->kind && op->chunk == want->chunk && op->mb == want->mb);
                k += dml_op_is_last(&p, op);
            }
            DML_CHECK_EQ(order.list[w].n, k);
        }
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

/* Reductions of a chunk on worker w go from its first bucket to its last, times equal or not. */
static void check_ascending(const dml_program *p, int32_t w)
{
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t i = 0, before = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind != DML_OP_REDUCE || op->chunk != c || p->buckets[c] == 1) continue;
            DML_CHECK_EQ(before + 1, op->edge);
            before = op->edge;
        }
}

/* The last weight gradient of each chunk on each worker, and no other, is cut. */
static void only_last_backwards_are_cut_and_buckets_go_in_order(void **state)
{
    (void)state;
    int32_t cut = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_order(&r), p;
        dml_cost cost = random_cost(&r, &order);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        for (int32_t w = 0; w < p.workers; w++) {
            check_ascending(&p, w);
            for (int32_t i = 0; i < p.list[w].n; i++) {
                const dml_op *op = &p.list[w].op[i];
                if (!dml_op_is_weight_grad(op)) continue;
                bool last = true;
                for (int32_t j = i + 1; j < p.list[w].n; j++) {
                    const dml_op *later = &p.list[w].op[j];
                    last = last && !(dml_op_is_weight_grad(later) && later->chunk == op->chunk &&
                                     later->mb != op->mb);
                }
                DML_CHECK_EQ(last && p.buckets[op->chunk] > 1, dml_op_is_part(op));
                cut += dml_op_is_part(op) && dml_op_is_last(&p, op);
            }
        }
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
    DML_CHECK(cut > 100);
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
        cmocka_unit_test(reductions_follow_the_parts_of_the_last_backward),
        cmocka_unit_test(compute_ops_keep_their_order),
        cmocka_unit_test(only_last_backwards_are_cut_and_buckets_go_in_order),
        cmocka_unit_test(neighbours_on_one_worker_pass_tensors_directly),
        cmocka_unit_test(one_f_one_b_holds_p_minus_worker_stashes_whatever_transfers_take),
        cmocka_unit_test(buffers_double_when_transfers_take_time),
        cmocka_unit_test(slots_and_lanes_cost_no_time_in_the_predicted_timeline),
        cmocka_unit_test(what_cannot_be_lowered_is_said),
        cmocka_unit_test(more_in_flight_than_slots_have_numbers_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
