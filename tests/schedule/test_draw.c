/* Pictures. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/draw.h"
#include "schedule/draw_svg.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/text.h"

static const char *draw(const dml_program *order, int64_t f, int32_t width)
{
    static dml_str text;
    dml_str_clear(&text);
    dml_cost cost = make_cost(order->chunks, f, f, f, 0);
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(order, &cost, &sim));
    dml_draw_text(order, &sim, width, &text);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    return dml_str_text(&text);
}

static void pictures_are_as_drawn_before(void **state)
{
    (void)state;
    dml_str all = {0};
    static const char *const names[] = {"gpipe", "1f1b"};
    for (size_t k = 0; k < 2; k++) {
        dml_program order = make_order(names[k], 4, 8);
        dml_str_printf(&all, "%s, 80 columns\n%s\n", names[k], draw(&order, 1000000, 80));
        dml_str_printf(&all, "%s, 40 columns\n%s\n", names[k], draw(&order, 1000000, 40));
        dml_program_free(&order);
    }
    dml_program order;
    DML_CHECK_OK(dml_text_parse("v",
                                "order workers=2 chunks=4 mbs=1\n"
                                "0: F0.0 F3.0 I3.0 W3.0 I0.0 W0.0\n"
                                "1: F1.0 F2.0 I2.0 I1.0 W2.0 W1.0\n",
                                &order));
    dml_str_printf(&all, "a V of four chunks\n%s", draw(&order, 1000, 80));
    dml_program_free(&order);
    check_golden("schedule_draw.txt", dml_str_text(&all));
    dml_str_free(&all);
}

/* Two workers, two replicas of one chunk; F = 10, B = 40 in parts of 10, 20 and 10, reductions of 5, 15, 10. */
static void reductions_have_a_row_of_their_own(void **state)
{
    (void)state;
    dml_program one = make_order("1f1b", 1, 2), order, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 4, &order));
    order.buckets[0] = 3;
    dml_cost cost = make_cost(1, 10, 20, 20, 0);
    DML_CHECK_OK(dml_cost_buckets(&cost, 0, 3));
    cost.chunk[0].reduce_ns = 30;
    cost.chunk[0].step_ns = 5;
    static const dml_bucket_cost bucket[] = {
        {0.25, 0.25, 5.0 / 30}, {0.75, 0.75, 20.0 / 30}, {1, 1, 1}};
    memcpy(cost.chunk[0].bucket, bucket, sizeof bucket);
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    dml_str all = {0};
    dml_draw_text(&p, &sim, 80, &all);
    static const char want[] =
        "0: F0====B0======================F2====B2====+===========+=====.........U==   12.5%   1\n"
        " :                                           R1=         R2=======R3====\n"
        "1: F1====B1======================F3====B3====+===========+=====.........U==   12.5%   1\n"
        " :                                           R1=         R2=======R3====\n";
    DML_CHECK(strncmp(want, dml_str_text(&all), strlen(want)) == 0);
    DML_CHECK(strstr(dml_str_text(&all), "\n+ next part of a backward, R reduction"));
    dml_str_free(&all);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&one);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void an_svg_has_a_box_for_every_compute_op(void **state)
{
    (void)state;
    dml_program p = make_program("zb_h1", 2, 3, 4000000, 4000000, 2000000);
    dml_cost cost = make_cost(2, 4000000, 4000000, 2000000, 0);
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    dml_str text = {0};
    dml_draw_svg(&p, &sim, "p < 3 & free links", 300, &text);
    check_golden("schedule_draw.svg", dml_str_text(&text));
    int32_t boxes = 0;
    for (const char *at = dml_str_text(&text); (at = strstr(at, "<g><title>")); at++)
        boxes++;
    DML_CHECK_EQ(2 * 3 * 3, boxes);
    dml_str_free(&text);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&p);
}

/* Two stages of PipeDream, F = 10, B = 20, U = 10: steps stand among the micro-batches. */
static void optimizer_steps_of_an_asynchronous_program_are_numbered(void **state)
{
    (void)state;
    const dml_schedule_args args = {.stages = 2, .virtual_stages = 1, .mbs = 3, .update_mbs = 1};
    dml_program order, p;
    DML_CHECK_OK(dml_schedule_build(&dml_schedule_pipedream, &args, &order));
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    cost.chunk[0].step_ns = cost.chunk[1].step_ns = 10;
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&p, &cost, &sim));
    dml_str text = {0};
    dml_draw_text(&p, &sim, 80, &text);
    static const char want[] = "0: F0=F1=......B0====U0=F2=B1====U1=...B2====U2=   20.0%   2\n"
                               "1: ...F0=B0====U0=F1=B1====U1=F2=B2====U2=......   20.0%   1\n";
    if (strncmp(want, dml_str_text(&text), strlen(want)) != 0)
        fail_msg("drawn otherwise:\n%s", dml_str_text(&text));
    DML_CHECK(strstr(dml_str_text(&text), "\nasynchronous: the number of U, R and V"));
    dml_str_free(&text);
    dml_sim_free(&sim);
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void a_row_is_never_wider_than_asked(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_order(&r);
        dml_cost cost = random_cost(&r, &order);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&order, &cost, &sim));
        const int32_t width = 10 + rnd_below(&r, 100);
        dml_str text = {0};
        dml_draw_text(&order, &sim, width, &text);
        const char *row = dml_str_text(&text);
        for (int32_t w = 0; w < order.workers; w++) {
            const char *end = strchr(row, '\n');
            DML_CHECK(end && end - row <= 3 + width + 1 + 7 + 1 + 3);
            row = end + 1;
        }
        dml_str_free(&text);
        dml_sim_free(&sim);
        dml_cost_free(&cost);
        dml_program_free(&order);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_are_as_drawn_before),
        cmocka_unit_test(reductions_have_a_row_of_their_own),
        cmocka_unit_test(an_svg_has_a_box_for_every_compute_op),
        cmocka_unit_test(optimizer_steps_of_an_asynchronous_program_are_numbered),
        cmocka_unit_test(a_row_is_never_wider_than_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
