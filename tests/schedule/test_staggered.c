/* Steps whose optimizer does not wait for the vote: their lists, the rules about them, and how fast they follow each
 * other. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/sim.h"
#include "schedule/text.h"

enum { F_NS = 10 };

/* F = I = W = 10, optimizer step 30: of the schedule. */
static void make(const char *name, int32_t ranks, int32_t mbs, bool staggered, dml_program *out,
                 dml_cost *cost)
{
    dml_program order = make_order(name, ranks, mbs);
    order.staggered = staggered;
    *cost = make_cost(order.chunks, F_NS, F_NS, F_NS, 0);
    for (int32_t c = 0; c < order.chunks; c++)
        cost->chunk[c].step_ns = 30;
    DML_CHECK_OK(dml_lower(&order, cost, out));
    DML_CHECK_OK(dml_check(out, NULL));
    dml_program_free(&order);
}

static int64_t period_of(const char *name, int32_t ranks, int32_t mbs, bool staggered)
{
    dml_program p;
    dml_cost cost;
    int64_t ns;
    make(name, ranks, mbs, staggered, &p, &cost);
    DML_CHECK_OK(dml_simulate_period(&p, &cost, &ns));
    dml_program_free(&p);
    dml_cost_free(&cost);
    return ns;
}

static void the_vote_is_the_last_of_a_list_and_steps_wait_for_reductions(void **state)
{
    (void)state;
    dml_program p;
    dml_cost cost;
    make("1f1b", 2, 2, true, &p, &cost);
    for (int32_t w = 0; w < 2; w++) {
        const dml_op *op = p.list[w].op;
        const int32_t n = p.list[w].n;
        DML_CHECK_EQ(DML_OP_VOTE, op[n - 1].kind);
        DML_CHECK_EQ(DML_OP_STEP, op[n - 2].kind);
        DML_CHECK_EQ(DML_OP_REDUCE, op[op[n - 2].wait[0]].kind);
    }
    dml_program_free(&p);
    dml_cost_free(&cost);
}

static void every_synchronous_schedule_lowers_to_a_program_that_passes(void **state)
{
    (void)state;
    int32_t made = 0, n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t k = 0; k < n; k++) {
        const dml_schedule *s = all[k];
        dml_program p;
        dml_cost cost;
        if (s->version) continue; /* asynchronous */
        make(s->name, 4, 8, true, &p, &cost);
        made++;
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
    DML_CHECK(made >= 10);
}

static void the_text_says_that_steps_are_staggered(void **state)
{
    (void)state;
    dml_program p, back;
    dml_cost cost;
    dml_str text = {0};
    make("zb_h1", 2, 2, true, &p, &cost);
    dml_text_print(&p, &text);
    assert_non_null(strstr(dml_str_text(&text), "mbs=2 staggered\n"));
    DML_CHECK_OK(dml_text_parse("text", dml_str_text(&text), &back));
    DML_CHECK(dml_program_equal(&p, &back));
    back.staggered = false;
    DML_CHECK(!dml_program_equal(&p, &back));
    dml_str_free(&text);
    dml_program_free(&p);
    dml_program_free(&back);
    dml_cost_free(&cost);
}

static void a_vote_before_a_staggered_step_is_refused_and_so_is_the_other_order(void **state)
{
    (void)state;
    dml_program p;
    dml_cost cost;
    dml_check_report report;
    for (int staggered = 0; staggered < 2; staggered++) {
        make("1f1b", 2, 2, staggered, &p, &cost);
        p.staggered = !staggered;
        DML_CHECK_FAILS(DML_ERR_BUG, "the vote", dml_check(&p, &report));
        DML_CHECK_EQ(DML_RULE_stepped, report.rule);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

static void steps_without_a_flush_are_not_staggered(void **state)
{
    (void)state;
    dml_check_report report;
    dml_program order = make_order("1f1b", 2, 4);
    order.update_mbs[0] = order.update_mbs[1] = 2;
    order.staggered = true;
    DML_CHECK_FAILS(DML_ERR_SPEC, "with a flush", dml_check(&order, &report));
    DML_CHECK_EQ(DML_RULE_routed, report.rule);
    dml_program_free(&order);
}

/* ZB-H2 was made for this: its stages never stand still.  ZB-H1 ends as it began, in a parallelogram but for the
 * warm-up of what the last stage waits for; 1F1B's first stage begins first and ends last, nothing is won. */
static void steps_follow_each_other_as_the_spans_of_stages_allow(void **state)
{
    (void)state;
    enum { P = 4, M = 8, WORK_NS = 3 * M * F_NS, STEP_NS = 30 };
    DML_CHECK_EQ(WORK_NS + STEP_NS, period_of("zb_h2", P, M, true));
    DML_CHECK(period_of("zb_h2", P, M, false) >= WORK_NS + STEP_NS + (P - 1) * F_NS);
    DML_CHECK_EQ(3 * (M + P - 1) * F_NS + STEP_NS, period_of("1f1b", P, M, true));
    DML_CHECK_EQ(3 * (M + P - 1) * F_NS + STEP_NS, period_of("1f1b", P, M, false));
    DML_CHECK(period_of("zb_h1", P, M, true) <= period_of("zb_h1", P, M, false));
}

/* A vote that takes longer than a step holds the next step's optimizer up. */
static void a_step_waits_for_the_vote_on_the_one_before(void **state)
{
    (void)state;
    dml_program p;
    dml_cost cost;
    int64_t ns;
    make("zb_h2", 4, 8, true, &p, &cost);
    cost.vote_ns = 1000;
    DML_CHECK_OK(dml_simulate_period(&p, &cost, &ns));
    DML_CHECK(ns >= 1000);
    cost.vote_ns = 100;
    DML_CHECK_OK(dml_simulate_period(&p, &cost, &ns));
    DML_CHECK_EQ(3 * 8 * F_NS + 30, ns);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vote_is_the_last_of_a_list_and_steps_wait_for_reductions),
        cmocka_unit_test(every_synchronous_schedule_lowers_to_a_program_that_passes),
        cmocka_unit_test(the_text_says_that_steps_are_staggered),
        cmocka_unit_test(a_vote_before_a_staggered_step_is_refused_and_so_is_the_other_order),
        cmocka_unit_test(steps_without_a_flush_are_not_staggered),
        cmocka_unit_test(steps_follow_each_other_as_the_spans_of_stages_allow),
        cmocka_unit_test(a_step_waits_for_the_vote_on_the_one_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
