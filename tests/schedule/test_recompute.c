/* Recomputation as ops: where they stand, what they cost, what they save, and what the checker says of wrong ones. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/csv.h"
#include "schedule/lower.h"
#include "schedule/recompute.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

enum { STAGES = 4, MBS = 8 };

static dml_program order_of(const char *schedule, int32_t stages, int32_t mbs, dml_recompute policy)
{
    dml_program p = make_order(schedule, stages, mbs);
    DML_CHECK_OK(dml_schedule_recompute(&p, policy));
    return p;
}

/* F = R = f, B = 2 f. */
static dml_cost cost_of(const dml_program *p, int64_t f)
{
    dml_cost cost = make_cost(p->chunks, f, f, f, 0);
    for (int32_t c = 0; c < p->chunks; c++)
        cost.chunk[c].recompute_ns = f;
    return cost;
}

static dml_program lowered(const dml_program *order)
{
    dml_cost cost = cost_of(order, 10);
    dml_program p;
    DML_CHECK_OK(dml_lower(order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_cost_free(&cost);
    return p;
}

static int64_t wall_of(const dml_program *order, const dml_cost *cost)
{
    dml_sim sim;
    DML_CHECK_OK(dml_check(order, NULL));
    DML_CHECK_OK(dml_simulate(order, cost, &sim));
    const int64_t ns = sim.makespan_ns;
    dml_sim_free(&sim);
    return ns;
}

static void a_forward_is_run_again_right_before_the_input_gradient(void **state)
{
    (void)state;
    static const char *const want[][2] = {
        {"none", "order workers=1 chunks=1 mbs=3\n0: F0.0 F0.1 F0.2 B0.0 I0.1 W0.1 B0.2\n"},
        {"full", "order workers=1 chunks=1 mbs=3 recompute=full\n"
                 "0: F0.0 F0.1 F0.2 RC0.0 B0.0 RC0.1 I0.1 W0.1 RC0.2 B0.2\n"},
        {"selective", "order workers=1 chunks=1 mbs=3 recompute=selective\n"
                      "0: F0.0 F0.1 F0.2 RC0.0 B0.0 RC0.1 I0.1 W0.1 RC0.2 B0.2\n"},
        {"except_last", "order workers=1 chunks=1 mbs=3 recompute=except_last\n"
                        "0: F0.0 F0.1 F0.2 RC0.0 B0.0 RC0.1 I0.1 W0.1 B0.2\n"},
    };
    for (int32_t k = 0; k < DML_RECOMPUTES; k++) {
        dml_program p, again;
        DML_CHECK_OK(dml_text_parse("three", want[0][1], &p));
        dml_recompute policy = DML_RECOMPUTE_NONE;
        while (strcmp(want[k][0], dml_recompute_text(policy)) != 0)
            policy++;
        DML_CHECK_OK(dml_schedule_recompute(&p, policy));
        DML_CHECK_OK(dml_check(&p, NULL));
        dml_str text = {0};
        dml_text_print(&p, &text);
        assert_string_equal(want[k][1], dml_str_text(&text));
        DML_CHECK_OK(dml_text_parse("again", dml_str_text(&text), &again));
        DML_CHECK(dml_program_equal(&p, &again));
        if (policy != DML_RECOMPUTE_NONE)
            DML_CHECK_FAILS(DML_ERR_SPEC, "once", dml_schedule_recompute(&p, policy));
        dml_str_free(&text);
        dml_program_free(&p);
        dml_program_free(&again);
    }
}

/* torchgpipe's checkpoint stop index for always, except_last, never with two micro-batches: 2, 1, 0. */
static void of_two_micro_batches_two_one_or_none_are_recomputed(void **state)
{
    (void)state;
    static const int32_t want[DML_RECOMPUTES] = {[DML_RECOMPUTE_NONE] = 0,
                                                 [DML_RECOMPUTE_SELECTIVE] = 2,
                                                 [DML_RECOMPUTE_FULL] = 2,
                                                 [DML_RECOMPUTE_EXCEPT_LAST] = 1};
    for (int32_t k = 0; k < DML_RECOMPUTES; k++) {
        dml_program p = order_of("gpipe", 3, 2, (dml_recompute)k);
        for (int32_t w = 0; w < 3; w++)
            DML_CHECK_EQ(want[k], count_ops(&p, w, DML_OP_RECOMPUTE));
        dml_program_free(&p);
    }
}

/* p = 4, m = 8, F = R = 1, B = 2: 44 with R inside of B, 41 as an op of its own, 40 when the last is spared. */
static void an_early_recomputation_takes_three_units_off_the_step(void **state)
{
    (void)state;
    static const char *const schedules[] = {"gpipe", "gpipe_reverse", "1f1b"};
    for (int32_t k = 0; k < 3; k++) {
        dml_program none = order_of(schedules[k], STAGES, MBS, DML_RECOMPUTE_NONE),
                    full = order_of(schedules[k], STAGES, MBS, DML_RECOMPUTE_FULL),
                    spared = order_of(schedules[k], STAGES, MBS, DML_RECOMPUTE_EXCEPT_LAST);
        dml_cost cost = cost_of(&full, 1), fused = make_cost(STAGES, 1, 2, 1, 0);
        DML_CHECK_EQ(33, wall_of(&none, &cost));
        DML_CHECK_EQ(44, wall_of(&none, &fused));
        DML_CHECK_EQ(41, wall_of(&full, &cost));
        DML_CHECK_EQ(40, wall_of(&spared, &cost));
        dml_cost_free(&cost);
        dml_cost_free(&fused);
        dml_program_free(&none);
        dml_program_free(&full);
        dml_program_free(&spared);
    }
}

/* (m + p - 1)(F + R + B) with R inside, and (p - 1) R less as an op, whatever the durations. */
static void early_recomputation_saves_p_minus_1_of_them(void **state)
{
    (void)state;
    static const int64_t times[3][3] = {{1, 1, 2}, {3, 2, 7}, {2, 5, 4}}; /* F, R, B */
    for (int32_t p = 2; p <= 8; p++)
        for (int32_t m = p; m <= 4 * p; m += p)
            for (int32_t k = 0; k < 3; k++) {
                const int64_t f = times[k][0], rc = times[k][1], b = times[k][2];
                dml_program full = order_of("1f1b", p, m, DML_RECOMPUTE_FULL);
                dml_cost cost = make_cost(p, f, b - 1, 1, 0);
                for (int32_t c = 0; c < p; c++)
                    cost.chunk[c].recompute_ns = rc;
                DML_CHECK_EQ((m + p - 1) * (f + rc + b) - (p - 1) * rc, wall_of(&full, &cost));
                dml_cost_free(&cost);
                dml_program_free(&full);
            }
}

static int32_t slots_of(const dml_program *p, int32_t w, dml_pool pool)
{
    int32_t n = 0;
    for (int32_t c = 0; c < p->chunks; c++)
        n += *dml_program_slots(p, w, c, pool);
    return n;
}

/* m (or p - s) boundaries and one micro-batch in full; two where the last one is spared. */
static void boundaries_are_kept_and_one_micro_batch_in_full(void **state)
{
    (void)state;
    dml_program order = order_of("1f1b", STAGES, MBS, DML_RECOMPUTE_FULL), p = lowered(&order);
    for (int32_t w = 0; w < STAGES; w++) {
        DML_CHECK_EQ(1, slots_of(&p, w, DML_POOL_STASH));
        /* Between the ends an output is kept until it is sent, which takes no time here; an input as long as the
         * backward is to come. */
        const bool end = w == 0 || w == STAGES - 1;
        DML_CHECK_EQ(end ? STAGES - w : 1, slots_of(&p, w, DML_POOL_KEPT));
        DML_CHECK(w == 0 || slots_of(&p, w, DML_POOL_IN) >= STAGES - w);
    }
    dml_program_free(&p);
    dml_program_free(&order);
    order = order_of("gpipe", STAGES, MBS, DML_RECOMPUTE_SELECTIVE);
    p = lowered(&order);
    for (int32_t w = 0; w < STAGES; w++) {
        DML_CHECK_EQ(1, slots_of(&p, w, DML_POOL_STASH));
        DML_CHECK_EQ(MBS, slots_of(&p, w, DML_POOL_KEPT));
    }
    dml_program_free(&p);
    dml_program_free(&order);
    order = order_of("gpipe", STAGES, MBS, DML_RECOMPUTE_EXCEPT_LAST);
    p = lowered(&order);
    for (int32_t w = 0; w < STAGES; w++)
        DML_CHECK_EQ(2, slots_of(&p, w, DML_POOL_STASH));
    dml_program_free(&p);
    dml_program_free(&order);
}

static dml_program any_order(const dml_schedule *s, dml_recompute policy)
{
    dml_program one, all;
    const dml_schedule_args args = with_updates(
        s, (dml_schedule_args){
               .stages = STAGES, .virtual_stages = s->many_chunks ? 2 : 1, .mbs = MBS});
    DML_CHECK_OK(dml_schedule_build(s, &args, &one));
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 2 * MBS, &all));
    DML_CHECK_OK(dml_schedule_recompute(&all, policy));
    dml_program_free(&one);
    return all;
}

static void every_schedule_runs_with_every_policy(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t s = 0; s < n; s++)
        for (int32_t k = 0; k < DML_RECOMPUTES; k++) {
            dml_program order = any_order(all[s], (dml_recompute)k), forward;
            dml_program p = lowered(&order);
            rnd r = rnd_of((uint64_t)(s * DML_RECOMPUTES + k));
            char why[MACHINE_WHY_BYTES];
            if (!machine_run(&p, &r, why)) fail_msg("%s: %s", all[s]->name, why);
            dml_program_free(&p);
            DML_CHECK_OK(dml_schedule_forward_only(&order, &forward));
            p = lowered(&forward);
            if (!machine_run(&p, &r, why)) fail_msg("%s: %s", all[s]->name, why);
            for (int32_t w = 0; w < p.workers; w++)
                DML_CHECK_EQ(0, slots_of(&p, w, k ? DML_POOL_STASH : DML_POOL_KEPT));
            dml_program_free(&p);
            dml_program_free(&forward);
            dml_program_free(&order);
        }
}

static void csv_has_no_word_for_it(void **state)
{
    (void)state;
    dml_program none = make_order("1f1b", 2, 2), full = order_of("1f1b", 2, 2, DML_RECOMPUTE_FULL);
    dml_str a = {0}, b = {0};
    dml_csv_print(&none, &a);
    dml_csv_print(&full, &b);
    assert_string_equal(dml_str_text(&a), dml_str_text(&b));
    dml_str_free(&a);
    dml_str_free(&b);
    dml_program_free(&none);
    dml_program_free(&full);
}

/* ---- mistakes ---- */

static void expect_broken(const char *text, const char *rule)
{
    dml_program p;
    DML_CHECK_OK(dml_text_parse("broken", text, &p));
    dml_check_report report;
    DML_CHECK_FAILS(DML_ERR_SPEC, rule, dml_check(&p, &report));
    assert_string_equal(rule, dml_rule_text(report.rule));
    dml_program_free(&p);
}

#define ONE(policy, ops) "order workers=1 chunks=1 mbs=2 recompute=" policy "\n0: " ops "\n"

static void wrong_recomputations_are_named(void **state)
{
    (void)state;
    expect_broken(ONE("none", "F0.0 F0.1 RC0.0 B0.0 B0.1"), "once");
    expect_broken(ONE("full", "F0.0 F0.1 RC0.0 B0.0 B0.1"), "once");
    expect_broken(ONE("except_last", "F0.0 F0.1 B0.0 B0.1"), "once");
    expect_broken(ONE("full", "F0.0 F0.1 RC0.0 RC0.0 B0.0 RC0.1 B0.1"), "once");
    expect_broken(ONE("full", "F0.0 RC0.1 F0.1 RC0.0 B0.0 B0.1"), "order");
    expect_broken(ONE("full", "F0.0 F0.1 B0.0 RC0.0 RC0.1 B0.1"), "order");
    expect_broken(ONE("full", "F0.0 F0.1 RC0.0 I0.0 RC0.1 B0.1 W0.0 RC0.0"), "once");
    expect_broken(ONE("full", "F0.0 F0.1 RC0.0 version=-1 B0.0 RC0.1 B0.1"), "versions");
    expect_broken("order workers=1 chunks=1 mbs=1 forward_only recompute=full\n0: F0.0 RC0.0\n",
                  "routed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_forward_is_run_again_right_before_the_input_gradient),
        cmocka_unit_test(of_two_micro_batches_two_one_or_none_are_recomputed),
        cmocka_unit_test(an_early_recomputation_takes_three_units_off_the_step),
        cmocka_unit_test(early_recomputation_saves_p_minus_1_of_them),
        cmocka_unit_test(boundaries_are_kept_and_one_micro_batch_in_full),
        cmocka_unit_test(every_schedule_runs_with_every_policy),
        cmocka_unit_test(csv_has_no_word_for_it),
        cmocka_unit_test(wrong_recomputations_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
