/* A step without some of its workers: who runs what, and that it still is the same step. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/list.h"
#include "schedule/lower.h"
#include "schedule/reroute.h"
#include "schedule/sim.h"
#include "schedule/text.h"
#include "schedule/versions.h"

#include <string.h>

enum { MOST = 64 };

/* `replicas` pipelines of the schedule; {0} where it does not take these numbers. */
static dml_program pipelines(const dml_schedule *s, int32_t stages, int32_t mbs, int32_t replicas)
{
    dml_program one, all = {0};
    const dml_schedule_args args =
        with_updates(s, (dml_schedule_args){.stages = stages, .virtual_stages = 1, .mbs = mbs});
    if (dml_schedule_build(s, &args, &one) != DML_ERR_OK) return all;
    DML_CHECK_OK(dml_expand_replicas(&one, replicas, replicas * mbs, &all));
    dml_program_free(&one);
    return all;
}

static dml_program of_1f1b(int32_t stages, int32_t mbs, int32_t replicas)
{
    const dml_schedule *s;
    DML_CHECK_OK(dml_schedule_find("1f1b", &s));
    return pipelines(s, stages, mbs, replicas);
}

static void the_micro_batches_of_the_lost_go_round_robin_to_the_others(void **state)
{
    (void)state;
    dml_program all = of_1f1b(2, 3, 3), routes;
    const bool lost[6] = {[4] = true};
    static const int32_t second[9] = {3, 3, 5, 3, 5, 5, 3, 3, 5};
    DML_CHECK_OK(dml_reroute(&all, lost, &routes));
    for (int32_t mb = 0; mb < 9; mb++) {
        DML_CHECK_EQ(mb % 3, *dml_program_route(&routes, 0, mb));
        DML_CHECK_EQ(second[mb], *dml_program_route(&routes, 1, mb));
    }
    dml_program_free(&routes);
    dml_program_free(&all);
}

static void ops_keep_the_order_in_which_they_began(void **state)
{
    (void)state;
    dml_program all = of_1f1b(2, 2, 2), routes;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    const bool lost[4] = {[3] = true};
    DML_CHECK_OK(dml_reroute(&all, lost, &routes));
    DML_CHECK_OK(dml_reroute_ops(&all, &cost, &routes));
    dml_str text = {0};
    dml_text_print(&routes, &text);
    assert_string_equal("order workers=4 chunks=2 mbs=4\n"
                        "0: F0.0 F0.2 B0.0 B0.2\n"
                        "1: F0.1 F0.3 B0.1 B0.3\n"
                        "2: F1.0 F1.1 B1.0 B1.1 F1.2 F1.3 B1.2 B1.3\n"
                        "3:\n",
                        strstr(dml_str_text(&text), "order"));
    dml_str_free(&text);
    dml_cost_free(&cost);
    dml_program_free(&routes);
    dml_program_free(&all);
}

static void a_stage_without_a_worker_is_named(void **state)
{
    (void)state;
    dml_program all = of_1f1b(3, 2, 2), routes;
    const bool lost[6] = {[2] = true, [3] = true};
    DML_CHECK_FAILS(DML_ERR_SPEC, "stage 1 has no worker left: workers 2, 3 held it",
                    dml_reroute(&all, lost, &routes));
    dml_program_free(&all);
}

/* Which version the op reads: of its chunk and micro-batch. */
static int32_t version_read(const dml_program *p, int32_t chunk, int32_t mb)
{
    const int32_t w = *dml_program_route(p, chunk, mb);
    int32_t reads[1024];
    DML_CHECK(p->list[w].n < 1024);
    dml_versions_read(p, w, reads);
    for (int32_t i = 0; i < p->list[w].n; i++)
        if (p->list[w].op[i].kind == DML_OP_FWD && p->list[w].op[i].chunk == chunk &&
            p->list[w].op[i].mb == mb)
            return reads[i];
    return -1;
}

/* As a plan does with it: lowered, the votes of the lost taken out, checked, and run with bad luck. */
static void expect_runs(const dml_program *order, const dml_cost *cost, const bool *lost, rnd *r)
{
    char why[MACHINE_WHY_BYTES];
    dml_program program;
    DML_CHECK_OK(dml_check(order, NULL));
    DML_CHECK_OK(dml_lower(order, cost, &program));
    for (int32_t w = 0; w < program.workers; w++)
        if (lost[w]) program.list[w].n = 0;
    DML_CHECK_OK(dml_check(&program, NULL));
    if (!machine_run(&program, r, why)) fail_msg("%s", why);
    dml_program_free(&program);
}

static void lose_at_random(const dml_program *all, rnd *r, bool *lost)
{
    for (int32_t w = 0; w < all->workers; w++)
        lost[w] = rnd_below(r, 3) == 0;
}

static void every_schedule_runs_without_any_of_its_workers(void **state)
{
    (void)state;
    int32_t n, ran = 0;
    rnd r = rnd_of(11);
    const dml_schedule *const *all_of = dml_schedules(&n);
    for (int32_t k = 0; k < 20 * n; k++) {
        const dml_schedule *s = all_of[k % n];
        dml_program all = pipelines(s, 1 + rnd_below(&r, 4), 2 * (1 + rnd_below(&r, 4)),
                                    1 + rnd_below(&r, 4)),
                    now;
        if (all.workers == 0) continue;
        bool lost[MOST];
        lose_at_random(&all, &r, lost);
        dml_cost cost = make_cost(all.chunks, 1 + rnd_below(&r, 9), 1 + rnd_below(&r, 9),
                                  1 + rnd_below(&r, 9), rnd_below(&r, 5));
        if (dml_reroute(&all, lost, &now) == DML_ERR_OK) {
            DML_CHECK_OK(dml_reroute_ops(&all, &cost, &now));
            expect_runs(&now, &cost, lost, &r);
            for (int32_t c = 0; c < all.chunks && dml_program_is_async(&all); c++)
                for (int32_t mb = 0; mb < all.mbs; mb++)
                    DML_CHECK_EQ(version_read(&all, c, mb), version_read(&now, c, mb));
            dml_program_free(&now);
            ran++;
        }
        dml_cost_free(&cost);
        dml_program_free(&all);
    }
    DML_CHECK(ran > 50);
}

/* ReCycle's example (Gandhi et al., SOSP 2024): three pipelines of four stages, six micro-batches each, F = I = W = 1. */
static int64_t slots_without(const bool *lost, bool split, int64_t *bound)
{
    dml_program all = of_1f1b(4, 6, 3), routes, made;
    if (split) {
        const dml_schedule *s;
        dml_program_free(&all);
        DML_CHECK_OK(dml_schedule_find("zb_h1", &s));
        all = pipelines(s, 4, 6, 3);
    }
    dml_cost cost = make_cost(4, 1, 1, 1, 0);
    int64_t wall;
    DML_CHECK_OK(dml_reroute(&all, lost, &routes));
    const dml_list_args args = {
        .routes = &routes, .cost = &cost, .split = split, .priority = &all, .trials = 200};
    DML_CHECK_OK(dml_list_schedule(&args, &made, &wall));
    *bound = dml_list_bound_ns(&args);
    dml_program_free(&made);
    dml_program_free(&routes);
    dml_program_free(&all);
    dml_cost_free(&cost);
    return wall;
}

static void losses_cost_the_slots_that_are_known_for_them(void **state)
{
    (void)state;
    static const struct {
        int32_t lost[4], n, whole, split,
            above; /* above: slots over the bound, at most, where it is split */
    } rows[] = {{{1}, 1, 29, 27, 0},           {{4}, 1, 30, 28, 0},    {{7}, 1, 33, 29, 0},
                {{10}, 1, 36, 30, 0},          {{7, 3}, 2, 34, 29, 1}, {{0, 4, 8, 9}, 4, 38, 30, 1},
                {{1, 4, 7, 10}, 4, 36, 30, 0}, {{7, 6}, 2, 60, 56, 0}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        bool lost[12] = {false};
        int64_t bound;
        for (int32_t i = 0; i < rows[k].n; i++)
            lost[rows[k].lost[i]] = true;
        DML_CHECK_EQ(rows[k].split + rows[k].above, slots_without(lost, true, &bound));
        DML_CHECK_EQ(rows[k].split, bound);
        DML_CHECK_EQ(rows[k].whole, slots_without(lost, false, &bound));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_micro_batches_of_the_lost_go_round_robin_to_the_others),
        cmocka_unit_test(ops_keep_the_order_in_which_they_began),
        cmocka_unit_test(a_stage_without_a_worker_is_named),
        cmocka_unit_test(every_schedule_runs_without_any_of_its_workers),
        cmocka_unit_test(losses_cost_the_slots_that_are_known_for_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
