/* The cost rule. */
#include "tests/support/test.h"

#include "schedule/cost.h"

static int64_t ns(const dml_cost *cost, dml_op_kind kind, int32_t chunk)
{
    return dml_op_ns(cost, 0, &(dml_op){.kind = (uint8_t)kind, .chunk = chunk});
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
    cost.links.outer.latency_ns = 50;
    DML_CHECK_EQ(50, ns(&cost, DML_OP_SEND_ACT, 1)); /* no bandwidth given: latency alone */
    cost.links.outer.bytes_per_s = 1000000000;
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_SEND_ACT, 1));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_RECV_ACT, 2));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_SEND_GRAD, 2));
    DML_CHECK_EQ(2050, ns(&cost, DML_OP_RECV_GRAD, 1));
    cost.chunk[1].out_bytes = INT64_C(1) << 40; /* no overflow on the way */
    cost.links.outer.bytes_per_s = INT64_C(1) << 40;
    DML_CHECK_EQ(1000000050, ns(&cost, DML_OP_SEND_ACT, 1));
    dml_cost_free(&cost);
}

static int64_t part_ns(const dml_cost *cost, dml_op_kind kind, int32_t part)
{
    return dml_op_ns(cost, 0, &(dml_op){.kind = (uint8_t)kind, .edge = (uint16_t)part});
}

static void parts_take_their_shares_and_add_up_to_the_whole(void **state)
{
    (void)state;
    static const dml_op_kind kinds[] = {DML_OP_BWD, DML_OP_BWD_WEIGHT, DML_OP_REDUCE};
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, 1, 10, 333, 667));
    cost.chunk[0].reduce_ns = 10007;
    for (int32_t n = 1; n <= 100; n++) {
        DML_CHECK_OK(dml_cost_buckets(&cost, 0, n));
        for (int32_t k = 0; k < 3; k++) {
            int64_t sum = 0;
            const int64_t whole = part_ns(&cost, kinds[k], 0);
            for (int32_t part = 1; part <= n; part++) {
                const int64_t part_of_it = part_ns(&cost, kinds[k], part);
                DML_CHECK(part_of_it >= whole / n && part_of_it <= whole / n + 1); /* equal */
                sum += part_of_it;
            }
            DML_CHECK_EQ(whole, sum);
        }
    }
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 2));
    cost.chunk[0].bucket[0] = (dml_bucket_cost){.bwd = 0.25, .bwd_weight = 0.5, .reduce = 0};
    DML_CHECK_EQ(250, part_ns(&cost, DML_OP_BWD, 1));
    DML_CHECK_EQ(750, part_ns(&cost, DML_OP_BWD, 2));
    DML_CHECK_EQ(334, part_ns(&cost, DML_OP_BWD_WEIGHT, 1));
    DML_CHECK_EQ(0, part_ns(&cost, DML_OP_REDUCE, 1));
    DML_CHECK_EQ(10007, part_ns(&cost, DML_OP_REDUCE, 2));
    dml_cost_free(&cost);
}

static void a_copy_is_one_of_its_own(void **state)
{
    (void)state;
    dml_cost cost, copy;
    DML_CHECK_OK(dml_cost_uniform(&cost, 2, 1, 40, 60));
    DML_CHECK_OK(dml_cost_buckets(&cost, 1, 2));
    DML_CHECK_OK(dml_cost_skips(&cost, 2));
    cost.chunk[1].bucket[0].bwd = 0.25;
    cost.chunk[1].out_bytes = 7;
    cost.skip_bytes[1] = 11;
    static const dml_link_level level[] = {{4, {5, 6}}};
    static const double speed[] = {0.5, 3};
    DML_CHECK_OK(dml_cost_links(&cost, &(dml_links){.outer = {2, 3}, .levels = 1, .level = level}));
    DML_CHECK_OK(dml_cost_speeds(&cost, 2, speed));
    cost.vote_ns = 4;
    DML_CHECK_OK(dml_cost_copy(&cost, &copy));
    dml_cost_free(&cost);
    const dml_op part = {.kind = DML_OP_BWD, .chunk = 1, .edge = 1};
    DML_CHECK_EQ(50, dml_op_ns(&copy, 0, &part));
    DML_CHECK(copy.workers == 2 && copy.speed[1] == 3 && copy.links.levels == 1);
    DML_CHECK(copy.links.level[0].workers == 4 && copy.links.level[0].link.latency_ns == 5);
    DML_CHECK(copy.chunks == 2 && copy.skips == 2 && copy.skip_bytes[1] == 11);
    DML_CHECK(copy.chunk[0].buckets == 0 && copy.chunk[1].out_bytes == 7);
    DML_CHECK(copy.links.outer.latency_ns == 2 && copy.links.outer.bytes_per_s == 3 &&
              copy.vote_ns == 4);
    dml_cost_free(&copy);
}

/* Ring: each of n members sends 2 (n - 1) pieces of bytes / n. */
static void an_all_reduce_takes_what_a_ring_takes(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, 1));
    static const int32_t members[] = {0, 1, 2, 3, 4, 5, 6, 7};
    DML_CHECK_EQ(0, dml_all_reduce_ns(&cost, members, 8, 1 << 20));
    cost.links.outer.latency_ns = 100;
    DML_CHECK_EQ(0, dml_all_reduce_ns(&cost, members, 1, 1 << 20));
    DML_CHECK_EQ(200, dml_all_reduce_ns(&cost, members, 2, 1 << 20));
    DML_CHECK_EQ(600, dml_all_reduce_ns(&cost, members, 4, 1 << 20));
    cost.links.outer.bytes_per_s = 1000000000;
    DML_CHECK_EQ(100000000 + 200, dml_all_reduce_ns(&cost, members, 2, 100000000));
    DML_CHECK_EQ(150000000 + 600, dml_all_reduce_ns(&cost, members, 4, 100000000));
    dml_cost_free(&cost);
}

/* Times of compute ops only: a link does not care who stands at its ends. */
static void a_slow_worker_takes_longer_for_all_that_it_computes(void **state)
{
    (void)state;
    static const double speed[] = {1.0, 0.25, 2.0};
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, 2, 10, 12, 14));
    cost.chunk[0].recompute_ns = 8;
    cost.chunk[0].reduce_ns = 5;
    cost.chunk[0].step_ns = 6;
    cost.vote_ns = 7;
    cost.links.outer.latency_ns = 9;
    DML_CHECK_OK(dml_cost_speeds(&cost, 3, speed));
    const int64_t want[DML_OP_KINDS][4] = {
        [DML_OP_FWD] = {10, 40, 5, 10},       [DML_OP_BWD] = {26, 104, 13, 26},
        [DML_OP_BWD_INPUT] = {12, 48, 6, 12}, [DML_OP_BWD_WEIGHT] = {14, 56, 7, 14},
        [DML_OP_RECOMPUTE] = {8, 32, 4, 8},   [DML_OP_SEND_ACT] = {9, 9, 9, 9},
        [DML_OP_RECV_ACT] = {9, 9, 9, 9},     [DML_OP_SEND_GRAD] = {9, 9, 9, 9},
        [DML_OP_RECV_GRAD] = {9, 9, 9, 9},    [DML_OP_REDUCE] = {5, 5, 5, 5},
        [DML_OP_VOTE] = {7, 7, 7, 7},         [DML_OP_STEP] = {6, 24, 3, 6},
    };
    for (int32_t k = 0; k < DML_OP_KINDS; k++)
        for (int32_t w = 0; w < 4; w++) { /* of worker 3 nothing is said: speed 1 */
            const bool below = k == DML_OP_RECV_ACT || k == DML_OP_SEND_GRAD;
            const dml_op op = {.kind = (uint8_t)k, .chunk = below, .peer = DML_NO_PEER};
            DML_CHECK_EQ(want[k][w], dml_op_ns(&cost, w, &op));
        }
    dml_cost_free(&cost);
}

static void parts_add_up_to_the_whole_at_any_speed(void **state)
{
    (void)state;
    static const double speed[] = {0.7};
    dml_cost cost;
    DML_CHECK_OK(dml_cost_uniform(&cost, 1, 0, 333, 667));
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 7));
    DML_CHECK_OK(dml_cost_speeds(&cost, 1, speed));
    int64_t sum = 0;
    for (int32_t part = 1; part <= 7; part++)
        sum += part_ns(&cost, DML_OP_BWD, part);
    DML_CHECK_EQ(1429, part_ns(&cost, DML_OP_BWD, 0)); /* 1000 / 0.7 */
    DML_CHECK_EQ(1429, sum);
    dml_cost_free(&cost);
}

static const dml_link_level boxes[] = {{2, {10, 1e9}}};
static const dml_links two_levels = {.outer = {100, 1e8}, .levels = 1, .level = boxes};

static void a_transfer_takes_the_link_between_its_two_workers(void **state)
{
    (void)state;
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, 2));
    cost.chunk[0].out_bytes = 1000;
    DML_CHECK_OK(dml_cost_links(&cost, &two_levels));
    const dml_op near = {.kind = DML_OP_SEND_ACT, .peer = 1},
                 far = {.kind = DML_OP_SEND_ACT, .peer = 2},
                 any = {.kind = DML_OP_SEND_ACT, .peer = DML_NO_PEER};
    DML_CHECK_EQ(1010, dml_op_ns(&cost, 0, &near));
    DML_CHECK_EQ(10100, dml_op_ns(&cost, 0, &far));
    DML_CHECK_EQ(10100, dml_op_ns(&cost, 2, &near));
    DML_CHECK_EQ(10100, dml_op_ns(&cost, 0, &any));
    dml_cost_free(&cost);
}

static void an_all_reduce_goes_at_the_pace_of_the_slowest_link_of_its_ring(void **state)
{
    (void)state;
    static const int32_t box[] = {2, 3}, across[] = {0, 1, 2, 3};
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, 1));
    DML_CHECK_OK(dml_cost_links(&cost, &two_levels));
    DML_CHECK_EQ(4000 + 20, dml_all_reduce_ns(&cost, box, 2, 4000));
    DML_CHECK_EQ(60000 + 600, dml_all_reduce_ns(&cost, across, 4, 4000));
    dml_cost_free(&cost);
}

/* Two pipelines of two ranks: workers 0, 2 and 1, 3. */
static void a_replica_sees_its_own_workers_and_links(void **state)
{
    (void)state;
    static const double speed[] = {1.0, 0.5, 2.0, 0.25};
    dml_cost cost, one;
    DML_CHECK_OK(dml_cost_uniform(&cost, 2, 100, 0, 0));
    DML_CHECK_OK(dml_cost_speeds(&cost, 4, speed));
    DML_CHECK_OK(dml_cost_links(&cost, &two_levels));
    const dml_op f = {.kind = DML_OP_FWD}, send = {.kind = DML_OP_SEND_ACT, .peer = 1};
    DML_CHECK_OK(dml_cost_of_replica(&cost, 2, 1, &one));
    DML_CHECK_EQ(200, dml_op_ns(&one, 0, &f));
    DML_CHECK_EQ(400, dml_op_ns(&one, 1, &f));
    DML_CHECK_EQ(100, dml_op_ns(&one, 0, &send)); /* 1 and 3 are in two boxes */
    DML_CHECK_EQ(10, dml_op_ns(&cost, 0, &send));
    dml_cost_free(&one);
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
        cmocka_unit_test(parts_take_their_shares_and_add_up_to_the_whole),
        cmocka_unit_test(a_copy_is_one_of_its_own),
        cmocka_unit_test(an_all_reduce_takes_what_a_ring_takes),
        cmocka_unit_test(a_slow_worker_takes_longer_for_all_that_it_computes),
        cmocka_unit_test(parts_add_up_to_the_whole_at_any_speed),
        cmocka_unit_test(a_transfer_takes_the_link_between_its_two_workers),
        cmocka_unit_test(an_all_reduce_goes_at_the_pace_of_the_slowest_link_of_its_ring),
        cmocka_unit_test(a_replica_sees_its_own_workers_and_links),
        cmocka_unit_test(a_table_of_no_chunks_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
