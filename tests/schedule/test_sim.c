/* Times by hand, and lists of other schedules whose numbers are known. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

/* Two workers, two micro-batches, F = 10, B = 20, transfers 5, reduction 7, step 3.
 *
 *   0: F0 F1 ............ B0.0 [40..]        SEND_F 10-15, 20-25
 *   1: ... F0 15-25 B0 25-45 F1 45-55 B1 55-75   SEND_B 45-50, 75-80
 */
static void a_small_timeline_is_as_computed_by_hand(void **state)
{
    (void)state;
    dml_program order = make_order("1f1b", 2, 2), p;
    dml_cost cost = make_cost(2, 10, 10, 10, 5);
    for (int32_t c = 0; c < 2; c++) {
        cost.chunk[c].reduce_ns = 7;
        cost.chunk[c].step_ns = 3;
    }
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    static const struct {
        const char *op;
        int64_t start_ns, end_ns;
    } want[2][11] = {
        {{"F0.0", 0, 10},
         {"SEND_F0.0", 10, 15},
         {"F0.1", 10, 20},
         {"SEND_F0.1", 20, 25},
         {"RECV_B0.0", 45, 50},
         {"B0.0", 50, 70},
         {"RECV_B0.1", 75, 80},
         {"B0.1", 80, 100},
         {"R0", 100, 107},
         {"V", 107, 107},
         {"U0", 107, 110}},
        {{"RECV_F1.0", 10, 15},
         {"F1.0", 15, 25},
         {"RECV_F1.1", 20, 25},
         {"B1.0", 25, 45},
         {"SEND_B1.0", 45, 50},
         {"F1.1", 45, 55},
         {"B1.1", 55, 75},
         {"R1", 75, 82},
         {"SEND_B1.1", 75, 80},
         {"V", 107, 107},
         {"U1", 107, 110}},
    };
    for (int32_t w = 0; w < 2; w++) {
        DML_CHECK_EQ(11, p.list[w].n);
        for (int32_t i = 0; i < 11; i++)
            for (int32_t k = 0; k < 11; k++) {
                if (strcmp(want[w][k].op, dml_op_name_of(&p.list[w].op[i]).text) != 0) continue;
                DML_CHECK_EQ(want[w][k].start_ns, sim.start_ns[sim.first[w] + i]);
                DML_CHECK_EQ(want[w][k].end_ns, sim.end_ns[sim.first[w] + i]);
            }
    }
    DML_CHECK_EQ(110, sim.makespan_ns);
    DML_CHECK_EQ(63, sim.busy_ns[0]);
    DML_CHECK_EQ(5 + 5 + 7, sim.exposed_ns[0]); /* before B0.0, B0.1 and U0 */
    DML_CHECK_EQ(5 + 7, sim.exposed_ns[1]); /* before F1.0 and U1; the rest is worker 0's work */
    DML_CHECK((int32_t)(dml_sim_bubble(&sim, 0) * 1e6) == (int32_t)((1 - 63.0 / 110) * 1e6));
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

/* Two stages, M micro-batches, gpipe, F = f, B = 2 f, transfers of t.  Worker 1 waits for the first value, then, once t is
 * over f, for each further one t - f more; worker 0 likewise for the gradients, against 2 f. */
static void a_pipeline_of_two_exposes_what_alpha_and_beta_say(void **state)
{
    (void)state;
    enum { M = 6, F_NS = 100 };
    for (int64_t t = 0; t <= 300; t += 50) {
        dml_program order = make_order("gpipe", 2, M), p;
        dml_cost cost = make_cost(2, F_NS, F_NS, F_NS, t / 2);
        cost.links.outer.bytes_per_s = 1e9;
        cost.chunk[0].out_bytes = t - t / 2; /* half latency, half bytes */
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        const int64_t more = t > F_NS ? t - F_NS : 0, back = t > 2 * F_NS ? t - 2 * F_NS : 0;
        DML_CHECK_EQ(t + (M - 1) * more, sim.exposed_ns[1]);
        DML_CHECK_EQ(t + (M - 1) * back, sim.exposed_ns[0]);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&order);
        dml_program_free(&p);
    }
}

/* Data parallel without buckets: the ring, 2 (n - 1) / n bytes / bandwidth + 2 (n - 1) latency, all of it. */
static void data_parallel_without_overlap_exposes_its_ring(void **state)
{
    (void)state;
    static const int32_t members[] = {0, 1, 2, 3};
    for (int32_t n = 2; n <= 4; n++) {
        dml_program one = make_order("gpipe", 1, 2), order, p;
        DML_CHECK_OK(dml_expand_replicas(&one, n, 2 * n, &order));
        dml_cost cost = make_cost(1, 100, 100, 100, 30);
        cost.links.outer.bytes_per_s = 1e9;
        cost.chunk[0].reduce_ns = dml_all_reduce_ns(&cost, members, n, 12000);
        DML_CHECK_EQ(2 * (n - 1) * (12000 / n + 30), cost.chunk[0].reduce_ns);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        for (int32_t w = 0; w < n; w++)
            DML_CHECK_EQ(cost.chunk[0].reduce_ns, sim.exposed_ns[w]);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&one);
        dml_program_free(&order);
        dml_program_free(&p);
    }
}

/* Two buckets, each half of the backward and of the reduction: the first goes under the second half. */
static void overlap_hides_what_goes_under_the_backward(void **state)
{
    (void)state;
    for (int64_t reduce_ns = 0; reduce_ns <= 400; reduce_ns += 50) {
        dml_program one = make_order("gpipe", 1, 1), order, p;
        DML_CHECK_OK(dml_expand_replicas(&one, 2, 2, &order));
        order.buckets[0] = 2;
        dml_cost cost = make_cost(1, 50, 50, 50, 0);
        DML_CHECK_OK(dml_cost_buckets(&cost, 0, 2));
        cost.chunk[0].reduce_ns = reduce_ns;
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        const int64_t half = reduce_ns / 2, over = half > 50 ? half - 50 : 0;
        DML_CHECK_EQ(half + over, sim.exposed_ns[0]);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&one);
        dml_program_free(&order);
        dml_program_free(&p);
    }
}

/* A receive whose slot is taken keeps its sender waiting: rendezvous. */
static void a_send_waits_for_its_receive(void **state)
{
    (void)state;
    dml_program order = make_order("gpipe", 2, 2), eval, p;
    DML_CHECK_OK(dml_schedule_forward_only(&order, &eval));
    dml_cost cost = make_cost(2, 1, 0, 0, 1);
    DML_CHECK_OK(dml_lower(&eval, &cost, &p));
    for (int32_t i = 0; i < p.list[1].n; i++)
        if (p.list[1].op[i].kind == DML_OP_RECV_ACT && p.list[1].op[i].mb == 1) {
            /* One slot instead of two, and the wait that this needs. */
            p.list[1].op[i].slot = 0;
            p.list[1].op[i].wait[0] = 1;
        }
    *dml_program_slots(&p, 1, 1, DML_POOL_IN) = 1;
    DML_CHECK_OK(dml_check(&p, NULL));
    cost.chunk[1].fwd_ns = 100;
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    DML_CHECK_EQ(1 + 1 + 100 + 1 + 100, sim.makespan_ns);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&eval);
    dml_program_free(&p);
}

/* ZB-H1 (Qi et al., 2023), p = 4, m = 8. */
static const char zb_h1[] =
    "order workers=4 chunks=4 mbs=8\n"
    "0: F0.0 F0.1 F0.2 F0.3 I0.0 W0.0 F0.4 I0.1 W0.1 F0.5 I0.2 W0.2 F0.6 I0.3 W0.3 F0.7 I0.4 W0.4 "
    "I0.5 W0.5 I0.6 W0.6 I0.7 W0.7\n"
    "1: F1.0 F1.1 F1.2 I1.0 F1.3 I1.1 W1.0 F1.4 I1.2 W1.1 F1.5 I1.3 W1.2 F1.6 I1.4 W1.3 F1.7 I1.5 "
    "W1.4 I1.6 W1.5 I1.7 W1.6 W1.7\n"
    "2: F2.0 F2.1 I2.0 F2.2 I2.1 F2.3 I2.2 W2.0 F2.4 I2.3 W2.1 F2.5 I2.4 W2.2 F2.6 I2.5 W2.3 F2.7 "
    "I2.6 W2.4 I2.7 W2.5 W2.6 W2.7\n"
    "3: F3.0 I3.0 F3.1 I3.1 F3.2 I3.2 F3.3 I3.3 W3.0 F3.4 I3.4 W3.1 F3.5 I3.5 W3.2 F3.6 I3.6 W3.3 "
    "F3.7 I3.7 W3.4 W3.5 W3.6 W3.7\n";

/* Interleaved 1F1B (Narayanan et al., 2021), p = 4, v = 2, m = 8. */
static const char interleaved[] =
    "order workers=4 chunks=8 mbs=8\n"
    "0: F0.0 F0.1 F0.2 F0.3 F4.0 F4.1 F4.2 F4.3 F0.4 F0.5 F0.6 B4.0 F0.7 B4.1 F4.4 B4.2 F4.5 B4.3 "
    "F4.6 B0.0 F4.7 B0.1 B0.2 B0.3 B4.4 B4.5 B4.6 B4.7 B0.4 B0.5 B0.6 B0.7\n"
    "1: F1.0 F1.1 F1.2 F1.3 F5.0 F5.1 F5.2 F5.3 F1.4 B5.0 F1.5 B5.1 F1.6 B5.2 F1.7 B5.3 F5.4 B1.0 "
    "F5.5 B1.1 F5.6 B1.2 F5.7 B1.3 B5.4 B5.5 B5.6 B5.7 B1.4 B1.5 B1.6 B1.7\n"
    "2: F2.0 F2.1 F2.2 F2.3 F6.0 F6.1 F6.2 B6.0 F6.3 B6.1 F2.4 B6.2 F2.5 B6.3 F2.6 B2.0 F2.7 B2.1 "
    "F6.4 B2.2 F6.5 B2.3 F6.6 B6.4 F6.7 B6.5 B6.6 B6.7 B2.4 B2.5 B2.6 B2.7\n"
    "3: F3.0 F3.1 F3.2 F3.3 F7.0 B7.0 F7.1 B7.1 F7.2 B7.2 F7.3 B7.3 F3.4 B3.0 F3.5 B3.1 F3.6 B3.2 "
    "F3.7 B3.3 F7.4 B7.4 F7.5 B7.5 F7.6 B7.6 F7.7 B7.7 B3.4 B3.5 B3.6 B3.7\n";

/* The order on F = I = W = f. */
static void check_known(dml_program order, int64_t f, int64_t latency_ns, int64_t wall_ns,
                        const int32_t stash[4])
{
    dml_program p;
    dml_cost cost = make_cost(order.chunks, f, f, f, latency_ns);
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    DML_CHECK_EQ(wall_ns, sim.makespan_ns);
    for (int32_t w = 0; w < 4; w++)
        DML_CHECK_EQ(stash[w], sim.peak_stash[w]);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static dml_program parsed(const char *list)
{
    dml_program order;
    DML_CHECK_OK(dml_text_parse("list", list, &order));
    return order;
}

/* Bubbles (p - 1)(F + I - W), and half of 1F1B's; the latter keeps 5.5, 4.5, 3.5, 2.5 whole
 * micro-batches in chunks of half a worker's share. */
static void split_backwards_and_several_chunks_take_their_published_time(void **state)
{
    (void)state;
    check_known(parsed(zb_h1), 10, 0, 270, (const int32_t[]){4, 4, 4, 4});
    check_known(parsed(interleaved), 5, 0, 285, (const int32_t[]){11, 9, 7, 5});
}

/* A prototype, written apart from this, with a queue each for sends and receives. */
static void transfers_that_take_time_give_what_another_simulator_gave(void **state)
{
    (void)state;
    check_known(make_order("gpipe", 4, 8), 10, 5, 360, (const int32_t[]){8, 8, 8, 8});
    check_known(make_order("1f1b", 4, 8), 10, 5, 410, (const int32_t[]){4, 3, 2, 1});
    check_known(parsed(zb_h1), 10, 5, 330, (const int32_t[]){4, 4, 4, 4});
    check_known(parsed(interleaved), 10, 5, 640, (const int32_t[]){11, 9, 7, 5});
}

static void a_program_in_a_circle_is_reported_not_run_for_ever(void **state)
{
    (void)state;
    dml_program p = make_program("1f1b", 2, 2, 1, 1, 1);
    dml_cost cost = make_cost(2, 1, 1, 1, 0);
    for (int32_t i = 0; i < p.list[0].n; i++)
        if (p.list[0].op[i].kind == DML_OP_RECV_GRAD) drop_op(&p, 0, i--);
    dml_sim sim;
    DML_CHECK_FAILS(DML_ERR_BUG, "worker 1, send: at op", dml_simulate(&p, &cost, &sim));
    DML_CHECK(sim.first == NULL);
    dml_cost_free(&cost);
    dml_program_free(&p);
}

/* One chunk on two replicas, one micro-batch each, n equal buckets, all reductions together n * reduce_ns. */
static int64_t overlapped_ns(const char *order_text, int32_t n, int64_t reduce_ns)
{
    dml_program one = parsed(order_text), order, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 2, &order));
    order.buckets[0] = n;
    dml_cost cost = make_cost(1, 50, 60, 60, 0);
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, n));
    cost.chunk[0].reduce_ns = n * reduce_ns;
    cost.chunk[0].step_ns = 5;
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    const int64_t ns = sim.makespan_ns;
    DML_CHECK_EQ(50 + 120 + 5, sim.busy_ns[0]);
    DML_CHECK_EQ(1, sim.peak_stash[0]);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&one);
    dml_program_free(&order);
    dml_program_free(&p);
    return ns;
}

/* F = 50, B = 120 in n parts of 120 / n, reductions R each, U = 5.  While R <= 120 / n only the last one shows,
 * F + B + R + U; longer ones queue up behind the first part, F + B / n + n R + U. */
static void reductions_hide_under_backward_but_for_the_last(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 6; n++) {
        const int64_t part = 120 / n;
        for (int64_t r = 0; r <= part; r += 5)
            DML_CHECK_EQ(50 + 120 + r + 5,
                         overlapped_ns("order workers=1 chunks=1 mbs=1\n0: F0.0 B0.0\n", n, r));
        for (int64_t r = part; r <= 2 * part; r += 5)
            DML_CHECK_EQ(50 + part + n * r + 5,
                         overlapped_ns("order workers=1 chunks=1 mbs=1\n0: F0.0 B0.0\n", n, r));
    }
}

/* Split backward: only W is cut, of 60. */
static void reductions_hide_under_the_weight_gradient_where_that_is_apart(void **state)
{
    (void)state;
    static const char text[] = "order workers=1 chunks=1 mbs=1\n0: F0.0 I0.0 W0.0\n";
    for (int32_t n = 1; n <= 6; n++) {
        DML_CHECK_EQ(50 + 60 + 60 + 60 / n + 5, overlapped_ns(text, n, 60 / n));
        DML_CHECK_EQ(50 + 60 + 60 / n + n * 70 + 5, overlapped_ns(text, n, 70));
    }
}

/* Chunk 0 of micro-batch 0 is done, in three parts, before chunk 1 of two others comes: they make the peak. */
static void parts_of_a_backward_end_one_stash_together(void **state)
{
    (void)state;
    dml_program order = parsed("order workers=2 chunks=2 mbs=3\n"
                               "0: F0.0 B0.0 F1.1 F1.2 B1.1 B1.2\n"
                               "1: F1.0 B1.0 F0.1 F0.2 B0.1 B0.2\n"),
                p;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    for (int32_t c = 0; c < 2; c++) {
        order.buckets[c] = 3;
        DML_CHECK_OK(dml_cost_buckets(&cost, c, 3));
    }
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    DML_CHECK_EQ(2, sim.peak_stash[0]);
    DML_CHECK_EQ(2, sim.peak_stash[1]);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void costs_of_other_buckets_are_refused(void **state)
{
    (void)state;
    dml_program order = make_order("1f1b", 1, 1), p;
    order.buckets[0] = 3;
    dml_cost cost = make_cost(1, 1, 1, 1, 0);
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 2));
    DML_CHECK_FAILS(DML_ERR_SPEC, "costs of 2 buckets of chunk 0 for a program of 3",
                    dml_lower(&order, &cost, &p));
    dml_cost_free(&cost);
    dml_program_free(&order);
}

static void live_slots_never_pass_the_pools(void **state)
{
    (void)state;
    dml_program order = make_order("1f1b", 4, 8), p;
    dml_cost cost = make_cost(4, 10, 10, 10, 5);
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    for (int32_t w = 0; w < 4; w++)
        for (int32_t pool = 0; pool < DML_POOLS; pool++)
            DML_CHECK_EQ(*dml_program_slots(&p, w, w, (dml_pool)pool),
                         dml_sim_peak_slots(&sim, &p, w, (dml_pool)pool));
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

/* The simulator's own times, moved to a clock's origin, give the simulator's figures. */
static void times_of_a_clock_give_the_same_figures(void **state)
{
    (void)state;
    dml_program p = make_program("1f1b", 4, 8, 10, 10, 10);
    dml_cost cost = make_cost(4, 10, 10, 10, 5);
    dml_sim sim, again;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    int64_t start_ns[512], end_ns[512];
    const int64_t ops = dml_program_ops(&p), origin = INT64_C(1000000007);
    DML_CHECK(ops <= 512);
    for (int64_t k = 0; k < ops; k++) {
        start_ns[k] = sim.start_ns[k] + origin;
        end_ns[k] = sim.end_ns[k] + origin;
    }
    const int32_t receive = sim.first[1]; /* it may begin to wait before the first forward */
    DML_CHECK_EQ(DML_OP_RECV_ACT, p.list[1].op[0].kind);
    start_ns[receive] = origin - 100;
    dml_sim_of_times(&p, start_ns, end_ns, &again);
    DML_CHECK_EQ(0, again.start_ns[receive]);
    again.start_ns[receive] = sim.start_ns[receive];
    assert_memory_equal(sim.start_ns, again.start_ns, (size_t)ops * sizeof *start_ns);
    assert_memory_equal(sim.end_ns, again.end_ns, (size_t)ops * sizeof *end_ns);
    DML_CHECK_EQ(sim.makespan_ns, again.makespan_ns);
    for (int32_t w = 0; w < 4; w++) {
        DML_CHECK_EQ(sim.busy_ns[w], again.busy_ns[w]);
        DML_CHECK_EQ(sim.peak_stash[w], again.peak_stash[w]);
    }
    dml_sim_free(&again);
    end_ns[0] = 0; /* the first forward did not run */
    dml_sim_of_times(&p, start_ns, end_ns, &again);
    DML_CHECK_EQ(0, again.start_ns[0]);
    DML_CHECK_EQ(sim.busy_ns[0] - 10, again.busy_ns[0]);
    DML_CHECK_EQ(sim.makespan_ns - 10, again.makespan_ns); /* the second is the first of all */
    dml_sim_free(&again);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_timeline_is_as_computed_by_hand),
        cmocka_unit_test(a_pipeline_of_two_exposes_what_alpha_and_beta_say),
        cmocka_unit_test(data_parallel_without_overlap_exposes_its_ring),
        cmocka_unit_test(overlap_hides_what_goes_under_the_backward),
        cmocka_unit_test(a_send_waits_for_its_receive),
        cmocka_unit_test(split_backwards_and_several_chunks_take_their_published_time),
        cmocka_unit_test(transfers_that_take_time_give_what_another_simulator_gave),
        cmocka_unit_test(a_program_in_a_circle_is_reported_not_run_for_ever),
        cmocka_unit_test(reductions_hide_under_backward_but_for_the_last),
        cmocka_unit_test(reductions_hide_under_the_weight_gradient_where_that_is_apart),
        cmocka_unit_test(parts_of_a_backward_end_one_stash_together),
        cmocka_unit_test(costs_of_other_buckets_are_refused),
        cmocka_unit_test(live_slots_never_pass_the_pools),
        cmocka_unit_test(times_of_a_clock_give_the_same_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
