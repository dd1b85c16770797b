/* Transfers in the lanes' gaps: nobody overlaps, nobody begins early, the urgent go first. */
#include "tests/schedule/support.h"

#include "schedule/links.h"
#include "schedule/lower.h"
#include "schedule/sim.h"

static void the_urgent_goes_first_where_the_other_can_wait(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_crossing c[] = {{.ready_ns = 100, .need_ns = 200, .ns = 50, .from = 1, .to = 2},
                        {.ready_ns = 101, .need_ns = 151, .ns = 50, .from = 1, .to = 0}};
    dml_links_place(c, 2, 3, &arena);
    DML_CHECK_EQ(101, c[1].start_ns);
    DML_CHECK_EQ(151, c[0].start_ns); /* a nanosecond late: both cannot be in time */
    dml_arena_free(&arena);
}

static void one_fits_into_the_gap_of_two_others(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_crossing c[] = {{.ready_ns = 0, .need_ns = 10, .ns = 10, .from = 0, .to = 1},
                        {.ready_ns = 20, .need_ns = 30, .ns = 10, .from = 2, .to = 1},
                        {.ready_ns = 5, .need_ns = 99, .ns = 10, .from = 3, .to = 1},
                        {.ready_ns = 5, .need_ns = 99, .ns = 11, .from = 4, .to = 1}};
    dml_links_place(c, 4, 5, &arena);
    DML_CHECK_EQ(0, c[0].start_ns);
    DML_CHECK_EQ(20, c[1].start_ns);
    DML_CHECK_EQ(30, c[3].start_ns); /* more urgent by its length, but too long for the gap */
    DML_CHECK_EQ(10, c[2].start_ns);
    dml_arena_free(&arena);
}

static void lanes_are_never_shared_at_a_time(void **state)
{
    (void)state;
    rnd r = rnd_of(31);
    for (int32_t n = 0; n < 200; n++) {
        dml_arena arena = {0};
        dml_crossing c[40];
        const int32_t workers = 2 + rnd_below(&r, 4), crossings = 1 + rnd_below(&r, 40);
        for (int32_t i = 0; i < crossings; i++) {
            c[i] = (dml_crossing){.ready_ns = rnd_below(&r, 100), .ns = rnd_below(&r, 20)};
            c[i].need_ns = c[i].ready_ns + c[i].ns + rnd_below(&r, 60);
            c[i].from = rnd_below(&r, workers);
            c[i].to = (c[i].from + 1 + rnd_below(&r, workers - 1)) % workers;
        }
        dml_links_place(c, crossings, workers, &arena);
        for (int32_t i = 0; i < crossings; i++) {
            DML_CHECK(c[i].start_ns >= c[i].ready_ns);
            for (int32_t k = 0; k < i; k++)
                if (c[i].from == c[k].from || c[i].to == c[k].to)
                    DML_CHECK(c[i].ns == 0 || c[k].ns == 0 ||
                              c[i].start_ns >= c[k].start_ns + c[k].ns ||
                              c[k].start_ns >= c[i].start_ns + c[i].ns);
        }
        dml_arena_free(&arena);
    }
}

/* Eager 1F1B hides a latency of half an op, also when stages differ by a hair and transfers no longer tie:
 * (m + p - 1) 3 t + (p - 1) 2 latency. */
static void eager_1f1b_hides_latency_whatever_the_ties(void **state)
{
    (void)state;
    for (int64_t hair = 0; hair < 3; hair++) {
        dml_program order = make_order("eager_1f1b", 4, 16), p;
        dml_cost cost = make_cost(4, 1000000, 1000000, 1000000, 500000);
        cost.chunk[3].fwd_ns += hair;
        cost.chunk[1].bwd_input_ns += 2 * hair;
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        dml_sim sim, ideal;
        DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
        DML_CHECK_OK(dml_simulate(&order, &cost, &ideal));
        DML_CHECK_EQ(ideal.makespan_ns, sim.makespan_ns);
        DML_CHECK(sim.makespan_ns >= 60000000 && sim.makespan_ns < 60001000);
        dml_sim_free(&sim);
        dml_sim_free(&ideal);
        dml_cost_free(&cost);
        dml_program_free(&order);
        dml_program_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_urgent_goes_first_where_the_other_can_wait),
        cmocka_unit_test(one_fits_into_the_gap_of_two_others),
        cmocka_unit_test(lanes_are_never_shared_at_a_time),
        cmocka_unit_test(eager_1f1b_hides_latency_whatever_the_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
