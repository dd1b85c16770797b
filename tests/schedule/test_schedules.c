/* Every schedule: its list, its closed forms, its name. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

#include <stdlib.h>

static void check_list(const char *schedule, const char *want)
{
    dml_program p = make_order(schedule, 4, 8);
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal(want, dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

/* Goldens for p = 4, m = 8: the lists of the papers' figures, as torch, Alpa and Megatron run
 * them. */
static void lists_are_those_of_the_papers(void **state)
{
    (void)state;
    check_list(
        "gpipe",
        "order workers=4 chunks=4 mbs=8\n"
        "0: F0.0 F0.1 F0.2 F0.3 F0.4 F0.5 F0.6 F0.7 B0.0 B0.1 B0.2 B0.3 B0.4 B0.5 B0.6 B0.7\n"
        "1: F1.0 F1.1 F1.2 F1.3 F1.4 F1.5 F1.6 F1.7 B1.0 B1.1 B1.2 B1.3 B1.4 B1.5 B1.6 B1.7\n"
        "2: F2.0 F2.1 F2.2 F2.3 F2.4 F2.5 F2.6 F2.7 B2.0 B2.1 B2.2 B2.3 B2.4 B2.5 B2.6 B2.7\n"
        "3: F3.0 F3.1 F3.2 F3.3 F3.4 F3.5 F3.6 F3.7 B3.0 B3.1 B3.2 B3.3 B3.4 B3.5 B3.6 B3.7\n");
    check_list(
        "gpipe_reverse",
        "order workers=4 chunks=4 mbs=8\n"
        "0: F0.0 F0.1 F0.2 F0.3 F0.4 F0.5 F0.6 F0.7 B0.7 B0.6 B0.5 B0.4 B0.3 B0.2 B0.1 B0.0\n"
        "1: F1.0 F1.1 F1.2 F1.3 F1.4 F1.5 F1.6 F1.7 B1.7 B1.6 B1.5 B1.4 B1.3 B1.2 B1.1 B1.0\n"
        "2: F2.0 F2.1 F2.2 F2.3 F2.4 F2.5 F2.6 F2.7 B2.7 B2.6 B2.5 B2.4 B2.3 B2.2 B2.1 B2.0\n"
        "3: F3.0 F3.1 F3.2 F3.3 F3.4 F3.5 F3.6 F3.7 B3.7 B3.6 B3.5 B3.4 B3.3 B3.2 B3.1 B3.0\n");
    check_list(
        "1f1b",
        "order workers=4 chunks=4 mbs=8\n"
        "0: F0.0 F0.1 F0.2 F0.3 B0.0 F0.4 B0.1 F0.5 B0.2 F0.6 B0.3 F0.7 B0.4 B0.5 B0.6 B0.7\n"
        "1: F1.0 F1.1 F1.2 B1.0 F1.3 B1.1 F1.4 B1.2 F1.5 B1.3 F1.6 B1.4 F1.7 B1.5 B1.6 B1.7\n"
        "2: F2.0 F2.1 B2.0 F2.2 B2.1 F2.3 B2.2 F2.4 B2.3 F2.5 B2.4 F2.6 B2.5 F2.7 B2.6 B2.7\n"
        "3: F3.0 B3.0 F3.1 B3.1 F3.2 B3.2 F3.3 B3.3 F3.4 B3.4 F3.5 B3.5 F3.6 B3.6 F3.7 B3.7\n");
}

static void append_list(dml_str *text, const dml_schedule *s, int32_t virtual_stages)
{
    const dml_schedule_args args = {.stages = 4, .virtual_stages = virtual_stages, .mbs = 8};
    dml_program order;
    DML_CHECK_OK(dml_schedule_build(s, &args, &order));
    dml_str_printf(text, "%s ", s->name);
    dml_text_print(&order, text);
    dml_program_free(&order);
}

/* The same for the others, in a file: p = 4, m = 8, and two chunks on a rank where a schedule takes them.
 * The lists are those that Megatron-LM, torch.distributed.pipelining, Alpa and the zero-bubble paper's code
 * run. */
static void lists_of_the_family_are_golden(void **state)
{
    (void)state;
    dml_str text = {0};
    append_list(&text, &dml_schedule_eager_one_f_one_b, 1);
    append_list(&text, &dml_schedule_interleaved_1f1b, 2);
    append_list(&text, &dml_schedule_looped_bfs, 2);
    append_list(&text, &dml_schedule_zb_h1, 1);
    append_list(&text, &dml_schedule_zb_h2, 1);
    append_list(&text, &dml_schedule_interleaved_zb, 2);
    append_list(&text, &dml_schedule_chimera, 1);
    append_list(&text, &dml_schedule_chimera_doubling, 1);
    check_golden("schedule_lists.txt", dml_str_text(&text));
    dml_str_free(&text);
}

static void sequential_finishes_a_micro_batch_before_the_next(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(
        dml_schedule_build(&dml_schedule_sequential,
                           &(dml_schedule_args){.stages = 2, .virtual_stages = 2, .mbs = 2}, &p));
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal("order workers=2 chunks=4 mbs=2\n"
                        "0: F0.0 F2.0 B2.0 B0.0 F0.1 F2.1 B2.1 B0.1\n"
                        "1: F1.0 F3.0 B3.0 B1.0 F1.1 F3.1 B3.1 B1.1\n",
                        dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

/* What a schedule needs beyond numbers in range, said again independently. */
static bool takes(const dml_schedule *s, const dml_schedule_args *args)
{
    if (s == &dml_schedule_pipedream_2bw) return args->update_mbs >= args->stages;
    if (s == &dml_schedule_zb_h2) return args->mbs >= 2 * args->stages - 1;
    if (s == &dml_schedule_chimera)
        return args->stages % 2 == 0 && args->mbs % 2 == 0 &&
               (args->mbs < args->stages || args->mbs % args->stages == 0);
    if (s == &dml_schedule_chimera_doubling) return args->stages % 2 == 0 && args->mbs % 4 == 0;
    if (s != &dml_schedule_interleaved_1f1b && s != &dml_schedule_interleaved_zb) return true;
    const int32_t whole = args->mbs / args->stages;
    return args->virtual_stages == 1 || whole <= 1 || args->mbs % (args->mbs / whole) == 0;
}

/* Lowered and simulated on the real lanes, transfers free: wall, busy time and stash as the
 * formulas say, in slots too. */
static void check_closed_forms(const dml_schedule *s, const dml_schedule_args *args,
                               const dml_schedule_times *t)
{
    dml_program order, p;
    if (!takes(s, args)) return;
    DML_CHECK_OK(dml_schedule_build(s, args, &order));
    dml_cost cost = make_cost(order.chunks, t->fwd_ns, t->bwd_input_ns, t->bwd_weight_ns, 0);
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_sim sim, ideal;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    DML_CHECK_OK(dml_simulate(&order, &cost, &ideal));
    DML_CHECK_EQ(ideal.makespan_ns, sim.makespan_ns);
    const int64_t wall_ns = s->wall_ns(args, t);
    if (wall_ns != DML_WALL_UNKNOWN) DML_CHECK_EQ(wall_ns, sim.makespan_ns);
    for (int32_t w = 0; w < args->stages; w++) {
        DML_CHECK_EQ(args->mbs * args->virtual_stages *
                         (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns),
                     sim.busy_ns[w]);
        DML_CHECK_EQ(s->peak_stash(args, w), sim.peak_stash[w]);
        int32_t slots = 0;
        for (int32_t c = 0; c < p.chunks; c++)
            slots += *dml_program_slots(&p, w, c, DML_POOL_STASH);
        DML_CHECK_EQ(s->peak_stash(args, w), dml_sim_peak_slots(&sim, &p, w, DML_POOL_STASH));
        if (args->virtual_stages ==
            1) /* chunks have slots of their own, and peaks at their own times */
            DML_CHECK_EQ(s->peak_stash(args, w), slots);
        else
            DML_CHECK(s->peak_stash(args, w) <= slots);
    }
    dml_sim_free(&sim);
    dml_sim_free(&ideal);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void closed_forms_hold_on_the_grid(void **state)
{
    (void)state;
    static const dml_schedule_times times[] = {{10, 10, 10}, {7, 13, 2}, {11, 3, 5}, {10, 7, 3}};
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t k = 0; k < n; k++)
        for (int32_t v = 1; v <= (all[k]->many_chunks ? 2 : 1); v++)
            for (int32_t p = 1; p <= 8; p++)
                for (int32_t m = p; m <= 4 * p; m += p > 4 ? p : 1)
                    for (size_t t = 0; t < sizeof times / sizeof *times; t++) {
                        const dml_schedule_args args = with_updates(
                            all[k],
                            (dml_schedule_args){.stages = p, .virtual_stages = v, .mbs = m});
                        check_closed_forms(all[k], &args, &times[t]);
                    }
}

static void fewer_micro_batches_than_stages_work(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t k = 0; k < n; k++)
        for (int32_t m = 1; m < 5; m++) {
            const dml_schedule_args args = with_updates(
                all[k], (dml_schedule_args){.stages = 5, .virtual_stages = 1, .mbs = m});
            check_closed_forms(all[k], &args, &(dml_schedule_times){10, 10, 10});
        }
}

/* p = 4, m = 8, F = I = W = 10: the table that all schedules are compared by. */
static void golden_numbers_for_four_stages_and_eight_micro_batches(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t wall_ns;
        int32_t stash[4];
    } want[] = {{"gpipe", 330, {8, 8, 8, 8}},
                {"gpipe_reverse", 330, {8, 8, 8, 8}},
                {"1f1b", 330, {4, 3, 2, 1}},
                {"sequential", 960, {1, 1, 1, 1}}};
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        dml_program p = make_program(want[k].name, 4, 8, 10, 10, 10);
        dml_cost cost = make_cost(4, 10, 10, 10, 0);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        DML_CHECK_EQ(want[k].wall_ns, sim.makespan_ns);
        for (int32_t w = 0; w < 4; w++)
            DML_CHECK_EQ(want[k].stash[w], sim.peak_stash[w]);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&p);
    }
}

static int64_t simulate(const dml_schedule *s, int32_t stages, int32_t mbs, int32_t *most_stash)
{
    const dml_schedule_args args = {.stages = stages, .virtual_stages = 1, .mbs = mbs};
    dml_program order;
    dml_sim sim;
    DML_CHECK_OK(dml_schedule_build(s, &args, &order));
    dml_cost cost = make_cost(stages, 10, 10, 10, 0);
    DML_CHECK_OK(dml_simulate(&order, &cost, &sim));
    const int64_t wall_ns = sim.makespan_ns;
    *most_stash = 0;
    for (int32_t w = 0; w < stages; w++)
        if (sim.peak_stash[w] > *most_stash) *most_stash = sim.peak_stash[w];
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    return wall_ns;
}

/* B = 2 F: what doubling is for, and its price.  At m = p there is one short unit, and direct concatenation has no
 * bubble between units either. */
static void doubling_wins_time_for_activations(void **state)
{
    (void)state;
    static const struct {
        int32_t p, m;
        int64_t direct_ns, doubled_ns;
        int32_t direct_stash, doubled_stash;
    } want[] = {{4, 4, 160, 180, 4, 4},   {4, 8, 300, 270, 4, 8},   {4, 12, 440, 420, 4, 8},
                {4, 16, 580, 510, 4, 8},  {4, 32, 1140, 990, 4, 8}, {6, 12, 480, 420, 6, 12},
                {8, 16, 660, 570, 8, 16}, {2, 8, 240, 240, 2, 4}};
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        int32_t stash;
        DML_CHECK_EQ(want[k].direct_ns,
                     simulate(&dml_schedule_chimera, want[k].p, want[k].m, &stash));
        DML_CHECK_EQ(want[k].direct_stash, stash);
        DML_CHECK_EQ(want[k].doubled_ns,
                     simulate(&dml_schedule_chimera_doubling, want[k].p, want[k].m, &stash));
        DML_CHECK_EQ(want[k].doubled_stash, stash);
    }
}

static void names_do_not_care_for_case_dash_and_underscore(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const dml_schedule *s;
    } names[] = {{"gpipe", &dml_schedule_gpipe},
                 {"GPipe", &dml_schedule_gpipe},
                 {"fill-drain", &dml_schedule_gpipe},
                 {"AFAB", &dml_schedule_gpipe},
                 {"gpipe-reverse", &dml_schedule_gpipe_reverse},
                 {"1F1B", &dml_schedule_one_f_one_b},
                 {"PipeDream-Flush", &dml_schedule_one_f_one_b},
                 {"pipedreamflush", &dml_schedule_one_f_one_b},
                 {"dapple", &dml_schedule_one_f_one_b},
                 {"Sequential", &dml_schedule_sequential},
                 {"forward-doubling", &dml_schedule_chimera_doubling},
                 {"ChimeraDoubling", &dml_schedule_chimera_doubling}};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const dml_schedule *s;
        DML_CHECK_OK(dml_schedule_find(names[k].name, &s));
        if (s != names[k].s) fail_msg("'%s' finds %s", names[k].name, s->name);
    }
}

static void an_unknown_name_gives_the_nearest_and_all(void **state)
{
    (void)state;
    const dml_schedule *s;
    DML_CHECK_FAILS(
        DML_ERR_SPEC,
        "unknown schedule '1fb1'; nearest is '1f1b'\n"
        "  allowed: sequential, gpipe, gpipe_reverse, 1f1b, eager_1f1b, interleaved_1f1b, "
        "looped_bfs, zb_h1, zb_h2, interleaved_zb, chimera, chimera_doubling, pipedream, "
        "pipedream_2bw",
        dml_schedule_find("1fb1", &s));
    DML_CHECK_FAILS(DML_ERR_SPEC, "nearest is '1f1b'", dml_schedule_find("dappel", &s));
    DML_CHECK_FAILS(DML_ERR_SPEC, "unknown schedule ''", dml_schedule_find("", &s));
}

static void arguments_out_of_range_are_refused(void **state)
{
    (void)state;
    dml_program p;
    const dml_schedule *s = &dml_schedule_gpipe;
    DML_CHECK_FAILS(DML_ERR_SPEC, "gpipe runs one chunk on each rank, not 2",
                    dml_schedule_build(
                        s, &(dml_schedule_args){.stages = 2, .virtual_stages = 2, .mbs = 2}, &p));
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one chunk",
                    dml_schedule_build(
                        s, &(dml_schedule_args){.stages = 2, .virtual_stages = 0, .mbs = 2}, &p));
    DML_CHECK_FAILS(DML_ERR_SPEC, "workers, not 0",
                    dml_schedule_build(
                        s, &(dml_schedule_args){.stages = 0, .virtual_stages = 1, .mbs = 2}, &p));
    DML_CHECK_FAILS(DML_ERR_SPEC, "micro-batches, not 0",
                    dml_schedule_build(
                        s, &(dml_schedule_args){.stages = 2, .virtual_stages = 1, .mbs = 0}, &p));
    DML_CHECK_FAILS(
        DML_ERR_SPEC, "more than 32767 chunks",
        dml_schedule_build(&dml_schedule_sequential,
                           &(dml_schedule_args){.stages = 2000, .virtual_stages = 2000, .mbs = 1},
                           &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_are_those_of_the_papers),
        cmocka_unit_test(lists_of_the_family_are_golden),
        cmocka_unit_test(sequential_finishes_a_micro_batch_before_the_next),
        cmocka_unit_test(closed_forms_hold_on_the_grid),
        cmocka_unit_test(fewer_micro_batches_than_stages_work),
        cmocka_unit_test(golden_numbers_for_four_stages_and_eight_micro_batches),
        cmocka_unit_test(doubling_wins_time_for_activations),
        cmocka_unit_test(names_do_not_care_for_case_dash_and_underscore),
        cmocka_unit_test(an_unknown_name_gives_the_nearest_and_all),
        cmocka_unit_test(arguments_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
