/* Asynchronous orders and programs: which weights are read, how many there are, where steps stand. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"
#include "schedule/versions.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

typedef struct kind {
    const dml_schedule *schedule;
    int32_t update_mbs;
    bool vertical_sync, votes;
} kind;

static dml_program order_of(const kind *k, int32_t stages, int32_t mbs)
{
    const dml_schedule_args args = {.stages = stages,
                                    .virtual_stages = 1,
                                    .mbs = mbs,
                                    .update_mbs = k->update_mbs,
                                    .vertical_sync = k->vertical_sync};
    dml_program order;
    DML_CHECK_OK(dml_schedule_build(k->schedule, &args, &order));
    if (dml_program_is_async(&order)) order.votes = k->votes;
    DML_CHECK_OK(dml_check(&order, NULL));
    return order;
}

static dml_program program_of(const kind *k, int32_t stages, int32_t mbs)
{
    dml_program order = order_of(k, stages, mbs), p;
    dml_cost cost = make_cost(stages, 10, 10, 10, 0);
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_cost_free(&cost);
    dml_program_free(&order);
    return p;
}

static const kind stashing = {&dml_schedule_pipedream, 1, false, false};
static const kind vertical = {&dml_schedule_pipedream, 1, true, false};
static const kind voted = {&dml_schedule_pipedream, 1, true, true};

static int32_t version_read(const dml_program *p, int32_t w, dml_op_kind what, int32_t mb)
{
    int32_t reads[512];
    DML_CHECK(p->list[w].n <= 512);
    dml_versions_read(p, w, reads);
    for (int32_t i = 0; i < p->list[w].n; i++)
        if (p->list[w].op[i].kind == what && p->list[w].op[i].mb == mb) return reads[i];
    fail_msg("worker %d has no such op of micro-batch %d", w, mb);
    return -1;
}

/* The table of the paper for four stages. */
static void weight_stashing_reads_the_versions_of_the_paper(void **state)
{
    (void)state;
    static const int32_t want[4][8] = {{0, 0, 0, 0, 1, 2, 3, 4},
                                       {0, 0, 0, 1, 2, 3, 4, 5},
                                       {0, 0, 1, 2, 3, 4, 5, 6},
                                       {0, 1, 2, 3, 4, 5, 6, 7}};
    dml_program order = order_of(&stashing, 4, 8), p = program_of(&stashing, 4, 8);
    for (int32_t s = 0; s < 4; s++) {
        for (int32_t mb = 0; mb < 8; mb++) {
            DML_CHECK_EQ(want[s][mb], version_read(&order, s, DML_OP_FWD, mb));
            DML_CHECK_EQ(want[s][mb], version_read(&order, s, DML_OP_BWD, mb));
            DML_CHECK_EQ(want[s][mb], version_read(&p, s, DML_OP_FWD, mb));
            DML_CHECK_EQ(want[s][mb], version_read(&p, s, DML_OP_BWD, mb));
        }
        DML_CHECK_EQ(4 - s, p.versions[s]);
        DML_CHECK_EQ(1, p.sums[s]);
        DML_CHECK_EQ(3 - s, dml_program_staleness(&order, s));
        DML_CHECK_EQ(3 - s, dml_program_staleness(&p, s));
    }
    dml_program_free(&order);
    dml_program_free(&p);
}

/* Version max(0, k - (p - 1)) everywhere: every stage keeps p copies of something. */
static void vertical_sync_reads_one_version_at_all_stages(void **state)
{
    (void)state;
    for (int32_t stages = 2; stages <= 6; stages++)
        for (int32_t votes = 0; votes < 2; votes++) {
            dml_program p = program_of(votes ? &voted : &vertical, stages, 3 * stages);
            for (int32_t s = 0; s < stages; s++) {
                for (int32_t mb = 0; mb < p.mbs; mb++) {
                    DML_CHECK_EQ(MAX2(0, mb - (stages - 1)), version_read(&p, s, DML_OP_FWD, mb));
                    DML_CHECK_EQ(MAX2(0, mb - (stages - 1)), version_read(&p, s, DML_OP_BWD, mb));
                }
                DML_CHECK_EQ(votes ? stages - s : stages, p.versions[s]);
                DML_CHECK_EQ(votes ? s + 1 : 1, p.sums[s]);
                DML_CHECK_EQ(stages - 1, dml_program_staleness(&p, s));
            }
            dml_program_free(&p);
        }
}

static void two_buffered_weights_are_one_update_old_and_two(void **state)
{
    (void)state;
    for (int32_t stages = 1; stages <= 6; stages++)
        for (int32_t m = stages; m <= 2 * stages; m++) {
            const kind k = {&dml_schedule_pipedream_2bw, m, false, false};
            dml_program p = program_of(&k, stages, 4 * m);
            for (int32_t s = 0; s < stages; s++) {
                for (int32_t mb = 0; mb < p.mbs; mb++) {
                    DML_CHECK_EQ(MAX2(0, mb / m - 1), version_read(&p, s, DML_OP_FWD, mb));
                    DML_CHECK_EQ(MAX2(0, mb / m - 1), version_read(&p, s, DML_OP_BWD, mb));
                }
                DML_CHECK_EQ(2, p.versions[s]);
                DML_CHECK_EQ(1, p.sums[s]);
                DML_CHECK_EQ(1, dml_program_staleness(&p, s));
            }
            dml_program_free(&p);
        }
}

/* Lists of compute ops, steps among them, for p = 4. */
static void append_lists(dml_str *out, const char *title, const kind *k, int32_t mbs)
{
    dml_program p = program_of(k, 4, mbs);
    dml_str_printf(out, "%s\n", title);
    for (int32_t w = 0; w < 4; w++) {
        dml_str_printf(out, "%d, versions %d, sums %d:", w, p.versions[w], p.sums[w]);
        for (int32_t i = 0; i < p.list[w].n; i++) {
            const dml_op *op = &p.list[w].op[i];
            if (dml_op_lane(op) == DML_LANE_COMPUTE)
                dml_str_printf(out, " %s%d", dml_op_info_of((dml_op_kind)op->kind)->text, op->mb);
        }
        dml_str_printf(out, "\n");
    }
    dml_program_free(&p);
}

static void lists_with_their_steps_are_golden(void **state)
{
    (void)state;
    const kind two = {&dml_schedule_pipedream_2bw, 4, false, false},
               two_voted = {&dml_schedule_pipedream_2bw, 4, false, true};
    dml_str text = {0};
    append_lists(&text, "pipedream", &stashing, 8);
    append_lists(&text, "pipedream, vertical sync", &vertical, 8);
    append_lists(&text, "pipedream, vertical sync, votes", &voted, 8);
    append_lists(&text, "pipedream_2bw", &two, 8);
    append_lists(&text, "pipedream_2bw, three updates", &two, 12);
    append_lists(&text, "pipedream_2bw, three updates, votes", &two_voted, 12);
    check_golden("schedule_async_lists.txt", dml_str_text(&text));
    dml_str_free(&text);
}

static void two_buffered_weights_run_the_list_of_1f1b(void **state)
{
    (void)state;
    const kind k = {&dml_schedule_pipedream_2bw, 4, false, false};
    dml_program two = order_of(&k, 4, 8), flushed = make_order("1f1b", 4, 8);
    for (int32_t w = 0; w < 4; w++) {
        DML_CHECK_EQ(flushed.list[w].n, two.list[w].n);
        for (int32_t i = 0; i < two.list[w].n; i++) {
            const dml_op *a = &two.list[w].op[i], *b = &flushed.list[w].op[i];
            DML_CHECK(a->kind == b->kind && a->chunk == b->chunk && a->mb == b->mb);
        }
    }
    dml_program_free(&two);
    dml_program_free(&flushed);
}

/* m + p - 1 times F + B between drains: votes, as late as they come, cost nothing. */
static void no_bubble_between_drains(void **state)
{
    (void)state;
    for (int32_t stages = 1; stages <= 6; stages++)
        for (int32_t way = 0; way < 5; way++) {
            const kind two = {&dml_schedule_pipedream_2bw, MAX2(stages, 2), false, way == 4};
            const kind k[] = {stashing, vertical, voted, two, two};
            const int32_t mbs = 4 * MAX2(stages, 2);
            dml_program p = program_of(&k[way], stages, mbs);
            dml_cost cost = make_cost(stages, 10, 10, 10, 0);
            dml_sim sim;
            DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
            DML_CHECK_EQ((mbs + stages - 1) * 30, sim.makespan_ns);
            for (int32_t w = 0; w < stages; w++)
                DML_CHECK_EQ(stages - w, sim.peak_stash[w]);
            dml_sim_free(&sim);
            dml_cost_free(&cost);
            dml_program_free(&p);
        }
}

/* Two pipelines: an update takes a micro-batch of each, versions are those of one. */
static void an_update_of_replicas_has_a_micro_batch_of_each(void **state)
{
    (void)state;
    dml_program one = order_of(&stashing, 3, 6), order, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 12, &order));
    dml_cost cost = make_cost(3, 10, 10, 10, 3);
    cost.chunk[0].reduce_ns = cost.chunk[1].reduce_ns = cost.chunk[2].reduce_ns = 4;
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    for (int32_t s = 0; s < 3; s++) {
        DML_CHECK_EQ(2, p.update_mbs[s]);
        DML_CHECK_EQ(3 - s, p.versions[s]);
        for (int32_t mb = 0; mb < 12; mb++)
            DML_CHECK_EQ(MAX2(0, mb / 2 - (2 - s)),
                         version_read(&p, 2 * s + mb % 2, DML_OP_FWD, mb));
        DML_CHECK_EQ(6, count_ops(&p, 2 * s, DML_OP_REDUCE));
        DML_CHECK_EQ(6, count_ops(&p, 2 * s + 1, DML_OP_STEP));
        DML_CHECK_EQ(0, count_ops(&p, 2 * s, DML_OP_VOTE));
    }
    dml_cost_free(&cost);
    dml_program_free(&one);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void the_last_backward_of_each_update_is_cut(void **state)
{
    (void)state;
    const kind k = {&dml_schedule_pipedream_2bw, 2, false, false};
    dml_program order = order_of(&k, 2, 6), p;
    order.buckets[0] = 3;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 3));
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    for (int32_t i = 0; i < p.list[0].n; i++) {
        const dml_op *op = &p.list[0].op[i];
        if (op->kind == DML_OP_BWD) DML_CHECK_EQ(op->mb % 2 == 1, dml_op_is_part(op));
    }
    DML_CHECK_EQ(3 + 3 * 3, count_ops(&p, 0, DML_OP_BWD));
    DML_CHECK_EQ(3 * 3, count_ops(&p, 0, DML_OP_REDUCE));
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void a_segment_of_one_update_is_a_synchronous_step(void **state)
{
    (void)state;
    const kind k = {&dml_schedule_pipedream_2bw, 4, false, false};
    dml_program one = order_of(&k, 4, 4), flushed = make_order("1f1b", 4, 4);
    DML_CHECK(dml_program_equal(&one, &flushed));
    dml_program_free(&one);
    dml_program_free(&flushed);
}

static void what_cannot_be_is_refused_with_what_could(void **state)
{
    (void)state;
    static const struct {
        dml_schedule_args args;
        const dml_schedule *schedule;
        const char *says;
    } bad[] = {
        {{4, 1, 8, 0, false}, &dml_schedule_pipedream, "divides the 8 between two drains"},
        {{4, 1, 8, 3, false}, &dml_schedule_pipedream_2bw, "divides the 8 between two drains"},
        {{4, 1, 8, 2, false}, &dml_schedule_pipedream, "after every micro-batch of a pipeline"},
        {{4, 1, 8, 2, false}, &dml_schedule_pipedream_2bw, "at least as many micro-batches"},
        {{4, 1, 8, 4, true}, &dml_schedule_pipedream_2bw, "no vertical sync"},
        {{200, 1, 400, 1, false}, &dml_schedule_pipedream, "updates old, and 128 is the most"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        dml_program p;
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[k].says,
                        dml_schedule_build(bad[k].schedule, &bad[k].args, &p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weight_stashing_reads_the_versions_of_the_paper),
        cmocka_unit_test(vertical_sync_reads_one_version_at_all_stages),
        cmocka_unit_test(two_buffered_weights_are_one_update_old_and_two),
        cmocka_unit_test(lists_with_their_steps_are_golden),
        cmocka_unit_test(two_buffered_weights_run_the_list_of_1f1b),
        cmocka_unit_test(no_bubble_between_drains),
        cmocka_unit_test(an_update_of_replicas_has_a_micro_batch_of_each),
        cmocka_unit_test(the_last_backward_of_each_update_is_cut),
        cmocka_unit_test(a_segment_of_one_update_is_a_synchronous_step),
        cmocka_unit_test(what_cannot_be_is_refused_with_what_could),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
