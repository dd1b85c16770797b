/* 1F1B-RR: PipeDream's numbers for unequal replica counts, and orders that keep to them. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/round_robin.h"
#include "schedule/schedule.h"
#include "schedule/text.h"
#include "schedule/versions.h"

typedef struct counts {
    int32_t stages, replicas[4], warm_up[4], versions[4], admitted;
} counts;

static const counts known[] = {
    {4, {1, 1, 1, 1}, {3, 2, 1, 0}, {4, 3, 2, 1}, 4}, {2, {2, 1}, {1, 0}, {2, 1}, 2},
    {3, {2, 1, 1}, {1, 1, 0}, {2, 2, 1}, 2},          {2, {15, 1}, {1, 0}, {2, 1}, 2},
    {4, {9, 5, 1, 1}, {1, 1, 1, 0}, {2, 2, 2, 1}, 2}, {2, {1, 2}, {2, 0}, {3, 1}, 3},
};
enum { KNOWN = sizeof known / sizeof *known };

static void warm_ups_versions_and_admissions_are_the_papers(void **state)
{
    (void)state;
    for (size_t k = 0; k < KNOWN; k++) {
        const counts *c = &known[k];
        for (int32_t s = 0; s < c->stages; s++) {
            DML_CHECK_EQ(c->warm_up[s], dml_round_robin_warm_up(c->replicas, c->stages, s));
            DML_CHECK_EQ(c->versions[s], dml_round_robin_versions(c->replicas, c->stages, s));
        }
        DML_CHECK_EQ(c->admitted, dml_round_robin_admitted(c->replicas, c->stages));
    }
}

static dml_program lowered(const dml_program *order)
{
    dml_program p;
    dml_cost cost = make_cost(order->chunks, 10, 10, 10, 2);
    DML_CHECK_OK(dml_lower(order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_cost_free(&cost);
    return p;
}

/* Replicas that run on while others of their stage are still at work need further sums, and then fewer versions. */
static void check_order(const int32_t *replicas, int32_t stages, int32_t mbs)
{
    dml_program order;
    DML_CHECK_OK(dml_round_robin_order(replicas, stages, mbs, &order));
    DML_CHECK_OK(dml_check(&order, NULL));
    dml_program p = lowered(&order);
    rnd r = rnd_of((uint64_t)mbs);
    char why[MACHINE_WHY_BYTES];
    if (!machine_run(&p, &r, why)) fail_msg("%s", why);
    for (int32_t s = 0; s < stages; s++) {
        const int32_t most = dml_round_robin_versions(replicas, stages, s);
        const int32_t updates = mbs / replicas[s];
        const int32_t want = updates < most ? updates : most;
        DML_CHECK(p.sums[s] == 1 ? p.versions[s] == want : p.versions[s] <= want);
        for (int32_t mb = 0; mb < mbs; mb++) /* forward and backward meet at one replica */
            DML_CHECK_EQ(*dml_program_route(&p, s, mb % replicas[s]),
                         *dml_program_route(&p, s, mb));
    }
    dml_program_free(&p);
    dml_program_free(&order);
}

static void orders_of_known_counts_flow_and_keep_as_many_versions(void **state)
{
    (void)state;
    static const int32_t mbs[KNOWN] = {12, 12, 12, 60, 135, 12};
    for (size_t k = 0; k < KNOWN; k++)
        check_order(known[k].replicas, known[k].stages, mbs[k]);
}

static void so_do_all_small_counts(void **state)
{
    (void)state;
    for (int32_t a = 1; a <= 4; a++)
        for (int32_t b = 1; b <= 4; b++)
            for (int32_t c = 1; c <= 4; c++)
                check_order((const int32_t[]){a, b, c}, 3, 24);
}

static void two_replicas_before_one_take_turns(void **state)
{
    (void)state;
    dml_program order;
    DML_CHECK_OK(dml_round_robin_order((const int32_t[]){2, 1}, 2, 6, &order));
    dml_str text = {0};
    dml_text_print(&order, &text);
    assert_string_equal("order workers=3 chunks=2 mbs=6 unvoted\n"
                        "chunk 0: layers=0-0 params=0-0 update=2\n"
                        "chunk 1: layers=0-0 params=0-0 update=1\n"
                        "0: F0.0 F0.2 B0.0 F0.4 B0.2 version=-1 B0.4 version=-1\n"
                        "1: F0.1 F0.3 B0.1 F0.5 B0.3 version=-1 B0.5 version=-1\n"
                        "2: F1.0 B1.0 F1.1 B1.1 F1.2 B1.2 F1.3 B1.3 F1.4 B1.4 F1.5 B1.5\n",
                        dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&order);
}

static void equal_counts_are_pipedream_expanded(void **state)
{
    (void)state;
    for (int32_t r = 1; r <= 3; r++) {
        const dml_schedule_args args = {
            .stages = 3, .virtual_stages = 1, .mbs = 8, .update_mbs = 1};
        dml_program one, want, got;
        DML_CHECK_OK(dml_schedule_build(&dml_schedule_pipedream, &args, &one));
        DML_CHECK_OK(dml_expand_replicas(&one, r, 8 * r, &want));
        DML_CHECK_OK(dml_round_robin_order((const int32_t[]){r, r, r}, 3, 8 * r, &got));
        DML_CHECK(dml_program_equal(&want, &got));
        dml_program_free(&one);
        dml_program_free(&want);
        dml_program_free(&got);
    }
}

static void counts_that_do_not_finish_together_are_refused(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_FAILS(DML_ERR_SPEC, "a multiple of 12 micro-batches, not 16",
                    dml_round_robin_order((const int32_t[]){4, 3, 2}, 3, 16, &p));
    DML_CHECK_FAILS(DML_ERR_SPEC, "stage 1 has at least one replica, not 0",
                    dml_round_robin_order((const int32_t[]){1, 0}, 2, 4, &p));
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one stage", dml_round_robin_order(NULL, 0, 4, &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_ups_versions_and_admissions_are_the_papers),
        cmocka_unit_test(orders_of_known_counts_flow_and_keep_as_many_versions),
        cmocka_unit_test(so_do_all_small_counts),
        cmocka_unit_test(two_replicas_before_one_take_turns),
        cmocka_unit_test(equal_counts_are_pipedream_expanded),
        cmocka_unit_test(counts_that_do_not_finish_together_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
