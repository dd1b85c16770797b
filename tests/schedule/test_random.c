/* Random orders, lowered, checked, simulated, and run by the machine with bad luck.
 *
 *   test_random [programs]     default 2000
 */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/play.h"
#include "schedule/sim.h"
#include "schedule/text.h"

#include <stdlib.h>

static int32_t programs = 2000;

/* Fails with the order as text: what is needed to see it again. */
static void fail_with(const dml_program *p, int32_t seed, const char *what)
{
    dml_str text = {0};
    dml_text_print(p, &text);
    fail_msg("seed %d: %s\n%s", seed, what, dml_str_text(&text));
}

static void a_random_order_lowers_to_a_program_that_holds_every_rule(void **state)
{
    (void)state;
    for (int32_t seed = 0; seed < programs; seed++) {
        rnd r = rnd_of((uint64_t)seed);
        dml_program order = random_any_order(&r), program;
        dml_cost cost = random_cost(&r, &order), other = random_cost(&r, &order);
        if (dml_lower(&order, &cost, &program) != DML_ERR_OK)
            fail_with(&order, seed, dml_err_trail());
        if (dml_check(&program, NULL) != DML_ERR_OK) fail_with(&program, seed, dml_err_trail());

        /* It finishes with the times it was made for and with any others. */
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&program, &cost, &sim));
        dml_sim_free(&sim);
        DML_CHECK_OK(dml_simulate(&program, &other, &sim));
        for (int32_t w = 0; w < program.workers; w++)
            for (int32_t pool = 0; pool < DML_POOLS; pool++) {
                int32_t slots = 0;
                for (int32_t c = 0; c < dml_program_ports(&program); c++)
                    slots += *dml_program_slots(&program, w, c, (dml_pool)pool);
                DML_CHECK(dml_sim_peak_slots(&sim, &program, w, (dml_pool)pool) <= slots);
            }
        dml_sim_free(&sim);

        /* Even when every worker runs its list one op at a time. */
        dml_arena arena = {0};
        dml_play play;
        DML_CHECK_OK(dml_play_run(&program, &cost, DML_MACHINE_LIST, &arena, &play));
        dml_arena_free(&arena);

        char why[MACHINE_WHY_BYTES];
        for (int32_t run = 0; run < 2; run++)
            if (!machine_run(&program, &r, why)) fail_with(&program, seed, why);
        dml_cost_free(&cost);
        dml_cost_free(&other);
        dml_program_free(&order);
        dml_program_free(&program);
    }
}

static void text_gives_back_the_same_program_and_the_same_bytes(void **state)
{
    (void)state;
    for (int32_t seed = 0; seed < programs / 4; seed++) {
        rnd r = rnd_of((uint64_t)seed);
        dml_program p = random_any_order(&r), q;
        if (seed % 2) {
            dml_cost cost = random_cost(&r, &p);
            dml_program order = p;
            DML_CHECK_OK(dml_lower(&order, &cost, &p));
            dml_program_free(&order);
            dml_cost_free(&cost);
        }
        dml_str once = {0}, twice = {0};
        dml_text_print(&p, &once);
        DML_CHECK_OK(dml_text_parse("once", dml_str_text(&once), &q));
        dml_text_print(&q, &twice);
        assert_string_equal(dml_str_text(&once), dml_str_text(&twice));
        DML_CHECK(dml_program_equal(&p, &q));
        dml_str_free(&once);
        dml_str_free(&twice);
        dml_program_free(&p);
        dml_program_free(&q);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) programs = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_order_lowers_to_a_program_that_holds_every_rule),
        cmocka_unit_test(text_gives_back_the_same_program_and_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
