/* No named schedule can stall, whatever it is asked for and however wrong the times are that it was lowered with:
 *
 *   test_schedule_deadlock [RUNS]      default 300
 *
 * draws a schedule, stages, stages of a rank, micro-batches, replicas, buckets and durations; the program passes every
 * rule of the checker, the strictest machine among them, and runs on the real lanes with other durations too. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <stdlib.h>

static int32_t runs = 300;

static void draw_times(rnd *r, dml_cost *cost)
{
    cost->links.outer.latency_ns = rnd_below(r, 3) ? rnd_below(r, 2000) : 0;
    for (int32_t c = 0; c < cost->chunks; c++) {
        dml_chunk_cost *k = &cost->chunk[c];
        k->fwd_ns = 1 + rnd_below(r, 1000);
        k->bwd_input_ns = rnd_below(r, 1000);
        k->bwd_weight_ns = rnd_below(r, 1000);
        k->bwd_ns = rnd_below(r, 2) ? 0 : 1 + rnd_below(r, 2000);
        k->reduce_ns = rnd_below(r, 500);
    }
}

static dml_cost draw_cost(rnd *r, const dml_program *p)
{
    dml_cost cost;
    DML_CHECK_OK(dml_cost_init(&cost, p->chunks));
    for (int32_t c = 0; c < p->chunks; c++)
        DML_CHECK_OK(dml_cost_buckets(&cost, c, p->buckets[c]));
    draw_times(r, &cost);
    return cost;
}

static void draw_updates(rnd *r, const dml_schedule *s, dml_schedule_args *args)
{
    args->update_mbs = 1;
    args->vertical_sync = s == &dml_schedule_pipedream && rnd_below(r, 2);
    if (s == &dml_schedule_pipedream) return;
    args->update_mbs = args->stages + rnd_below(r, 4);
    args->mbs = args->update_mbs * (1 + rnd_below(r, 4));
}

/* False: the schedule refuses what was drawn, in words. */
static bool draw_order(rnd *r, dml_program *out)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    const dml_schedule *s = all[rnd_below(r, n)];
    dml_schedule_args args = {.stages = 1 + rnd_below(r, 9),
                              .virtual_stages = s->many_chunks ? 1 + rnd_below(r, 4) : 1,
                              .mbs = 1 + rnd_below(r, 24)};
    if (s->version) draw_updates(r, s, &args);
    const int32_t replicas = 1 + rnd_below(r, 3);
    dml_program one;
    if (dml_schedule_build(s, &args, &one) != DML_ERR_OK) return false;
    DML_CHECK_OK(dml_expand_replicas(&one, replicas, replicas * args.mbs, out));
    for (int32_t c = 0; c < out->chunks; c++)
        out->buckets[c] = 1 + (rnd_below(r, 2) ? rnd_below(r, 4) : 0);
    if (dml_program_is_async(out)) out->votes = rnd_below(r, 2);
    dml_program_free(&one);
    return true;
}

static void every_schedule_flows_under_any_durations(void **state)
{
    (void)state;
    rnd r = rnd_of(29);
    int32_t refused = 0;
    for (int32_t done = 0; done < runs;) {
        dml_program order, program;
        if (!draw_order(&r, &order)) {
            DML_CHECK(++refused < 2 * runs + 100); /* most draws are schedules */
            continue;
        }
        dml_cost cost = draw_cost(&r, &order);
        DML_CHECK_OK(dml_lower(&order, &cost, &program));
        DML_CHECK_OK(dml_check(&program, NULL));
        draw_times(&r, &cost); /* reality is something else */
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&program, &cost, &sim));
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&program);
        dml_program_free(&order);
        done++;
    }
    print_message("%d programs, %d draws refused\n", runs, refused);
}

int main(int argc, char **argv)
{
    if (argc > 1) runs = atoi(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_flows_under_any_durations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
