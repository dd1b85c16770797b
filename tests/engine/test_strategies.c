/* tests/engine/test_strategies.c - the oracle's formulas against sums done by hand, and what must hold among them.
 *
 * Two layers, times in proportion to samples (one size measured), 4 bytes an element, p = 4 unless said:
 *
 *            FW    BW        WU      x    y    w      halo x, dy   filters channels pixels
 *   layer 0  10    6 + 14    400     8    12   1000   3, 5         6       3        16
 *   layer 1  30    20 + 10   200     12   4    500    0, 0         4       12       4
 *
 *   B = 8:  sum FW = 40, sum BW = 50, sum WU = 600, sum (x + y) = 36, sum w = 1500 (6,000 bytes), products' y: 12, 4
 *   links: 100 ns, 1 byte a ns, all alike
 */
#include "tests/support/test.h"

#include "tests/engine/hardware_file.h"
#include "tests/engine/spec_file.h"

#include "engine/plan.h"
#include "engine/strategies.h"
#include "schedule/sim.h"

#include <math.h>

static const dml_strategy_layer layers[] = {
    {8, 12, 1000, 3, 5, 6, 3, 16},
    {12, 4, 500, 0, 0, 4, 12, 4},
};
static const int32_t one_row[] = {1};
static const int64_t times[][DML_PASSES] = {{10, 6, 14}, {30, 20, 10}}, steps[] = {400, 200};
static const dml_costs costs = {.source = "by hand",
                                .n_layers = 2,
                                .n_rows = 1,
                                .rows = one_row,
                                .ns = times,
                                .step_ns = steps};

static dml_strategy_problem problem(void)
{
    return (dml_strategy_problem){.layer = layers,
                                  .n_layers = 2,
                                  .costs = &costs,
                                  .batch = 8,
                                  .act_bytes = 4,
                                  .weight_bytes = 4,
                                  .cuts = 2,
                                  .links = {.outer = {100, 1e9}}};
}

static const int32_t halves[] = {0, 1, 2}, whole[] = {0, 2};

static dml_strategy_price price(dml_strategy s, int32_t devices, int32_t inner, int32_t segments)
{
    const dml_strategy_problem p = problem();
    const dml_strategy_layout at = {devices, inner, segments, devices == 2 ? halves : whole};
    return dml_strategy_of(&p, s, &at);
}

static void check(double compute, double comm, double memory, int64_t most, dml_strategy_price got)
{
    DML_CHECK(fabs(compute - got.compute_ns) < 1e-6);
    DML_CHECK(fabs(comm - got.comm_ns) < 1.0);
    DML_CHECK(fabs(memory - got.memory_bytes) < 1e-6);
    DML_CHECK_EQ(most, got.most_devices);
    DML_CHECK_EQ(comm > compute, got.comm_binds);
}

/* ---- by hand ---- */

static void serial(void **state)
{
    (void)state;
    /* 8 (40 + 50) + 600;  2 x 4 (8 x 36 + 1500) */
    check(1320, 0, 14304, 1, price(DML_STRATEGY_SERIAL, 1, 1, 1));
}

static void data(void **state)
{
    (void)state;
    /* 8/4 x 90 + 600;  2 x 3 (100 + 6000/4);  8 (2 x 36 + 1500) */
    check(780, 9600, 12576, 8, price(DML_STRATEGY_DATA, 4, 1, 1));
}

static void spatial(void **state)
{
    (void)state;
    /* data's + 2 x 100 + 8 (3 + 5) 4, of the one layer with a halo;  the smallest image has 4 pixels */
    check(780, 9600 + 456, 12576, 4, price(DML_STRATEGY_SPATIAL, 4, 1, 1));
}

static void pipeline(void **state)
{
    (void)state;
    /* two stages of a layer each, S = 4:  8 (2 + 4 - 1) / 4 (30 + 30) + 400;
     * 2 (2 + 4 - 2)(100 + 8/4 x 12 x 4);  the first: 8 (8 x 20 + 1000) */
    check(1000, 1568, 9280, 2, price(DML_STRATEGY_PIPELINE, 2, 1, 4));
}

static void filter_and_channel(void **state)
{
    (void)state;
    /* 8/4 x 90 + 600/4;  3 x 3 (100 + 8 x 12 x 4 / 4) + 9 (100 + 8 x 4 x 4 / 4);  8 (8 x 36 + 1500/4) */
    check(330, 9 * (196.0 + 132.0), 5304, 4, price(DML_STRATEGY_FILTER, 4, 1, 1));
    check(330, 9 * (196.0 + 132.0), 5304, 3, price(DML_STRATEGY_CHANNEL, 4, 1, 1));
}

static void data_with_filter(void **state)
{
    (void)state;
    /* p1 = p2 = 2:  8/4 x 90 + 600/2;
     * 3 (100 + 8 x 12 x 4 / 4) + 3 (100 + 8 x 4 x 4 / 4) + 2 (100 + 6000/2);  8 (8/2 x 36 + 1500/2) */
    check(480, 3 * (196.0 + 132.0) + 2 * 3100.0, 7152, 32,
          price(DML_STRATEGY_DATA_FILTER, 4, 2, 1));
}

/* ---- what must hold ---- */

static void one_device_is_serial_whatever_the_strategy(void **state)
{
    (void)state;
    const dml_strategy_price one = price(DML_STRATEGY_SERIAL, 1, 1, 1);
    for (dml_strategy s = 0; s < (dml_strategy)DML_STRATEGIES; s++) {
        const dml_strategy_price p = price(s, 1, 1, 1);
        check(one.compute_ns, s == DML_STRATEGY_SPATIAL ? p.comm_ns : 0.0, one.memory_bytes,
              p.most_devices, p);
    }
    DML_CHECK(price(DML_STRATEGY_SPATIAL, 1, 1, 1).comm_ns == 0.0);
}

static void groups_of_one_are_data_and_one_group_is_filter(void **state)
{
    (void)state;
    for (int32_t p = 2; p <= 8; p *= 2) {
        const dml_strategy_price d = price(DML_STRATEGY_DATA, p, 1, 1),
                                 f = price(DML_STRATEGY_FILTER, p, 1, 1);
        check(d.compute_ns, d.comm_ns, d.memory_bytes, 32,
              price(DML_STRATEGY_DATA_FILTER, p, 1, 1));
        check(f.compute_ns, f.comm_ns, f.memory_bytes, 32,
              price(DML_STRATEGY_DATA_FILTER, p, p, 1));
    }
}

static void memory_falls_with_devices(void **state)
{
    (void)state;
    static const dml_strategy falls[] = {DML_STRATEGY_DATA, DML_STRATEGY_SPATIAL,
                                         DML_STRATEGY_FILTER, DML_STRATEGY_CHANNEL};
    for (size_t i = 0; i < sizeof falls / sizeof *falls; i++)
        for (int32_t p = 1; p < 64; p++)
            DML_CHECK(price(falls[i], p + 1, 1, 1).memory_bytes <
                      price(falls[i], p, 1, 1).memory_bytes);
}

/* Groups of filters sit within a block; the replicas of each reach across. */
static void a_ring_goes_at_the_pace_of_its_slowest_link(void **state)
{
    (void)state;
    static const dml_link_level node[] = {{2, {10, 10e9}}};
    dml_strategy_problem p = problem();
    p.links.levels = 1;
    p.links.level = node;
    const dml_strategy_layout pair = {.devices = 2, .inner = 1}, four = {.devices = 4, .inner = 2};
    DML_CHECK(fabs(dml_strategy_of(&p, DML_STRATEGY_DATA, &pair).comm_ns -
                   2 * (10 + 6000 / 2 / 10.0)) < 1.0);
    DML_CHECK(fabs(dml_strategy_of(&p, DML_STRATEGY_DATA, &four).comm_ns - 9600) < 1.0);
    DML_CHECK(fabs(dml_strategy_of(&p, DML_STRATEGY_DATA_FILTER, &four).comm_ns -
                   (3 * (10 + 9.6) + 3 * (10 + 3.2) + 2 * 3100.0)) < 3.0);
}

/* ---- a model's sizes ---- */

static void sizes_come_from_the_model(void **state)
{
    (void)state;
    dml_spec spec;
    dml_model model;
    dml_arena arena = {0};
    DML_CHECK_OK(spec_of("model: {type: layers, input: [3, 8, 10], classes: 5, layers: [{conv2d: "
                         "{out: 6, kernel: 5, padding: 2}}, relu, flatten, {linear: 5}]}\n"
                         "data: {format: synthetic}\n",
                         NULL, 0, &spec));
    DML_CHECK_OK(dml_model_make(&spec, &arena, &model));
    const dml_strategy_layer *l = dml_strategy_layers(&model, &arena);
    DML_CHECK_EQ(240, l[0].x);
    DML_CHECK_EQ(480, l[0].y);
    DML_CHECK_EQ(6 * 75 + 6, l[0].w);
    DML_CHECK_EQ(2 * 10 * 3, l[0].halo_x);
    DML_CHECK_EQ(2 * 10 * 6, l[0].halo_dy);
    DML_CHECK_EQ(6, l[0].filters);
    DML_CHECK_EQ(3, l[0].channels);
    DML_CHECK_EQ(80, l[0].pixels);
    DML_CHECK_EQ(0, l[1].halo_x);
    DML_CHECK_EQ(0, l[1].filters);
    DML_CHECK_EQ(0, l[3].pixels);
    DML_CHECK_EQ(480, l[3].channels);
    dml_arena_free(&arena);
    dml_spec_free(&spec);
}

/* ---- the table ---- */

static void a_spec_without_costs_is_told_where_to_get_them(void **state)
{
    (void)state;
    dml_spec spec;
    dml_str out = {0};
    DML_CHECK_OK(spec_of("model: {type: mlp}\n", NULL, 0, &spec));
    DML_CHECK_FAILS(DML_ERR_SPEC, "name a hardware file",
                    dml_strategies_print(&spec, 4, false, &out));
    dml_spec_free(&spec);
}

#define NET                                                            \
    "model: {type: mlp, input: [512], hidden: [512, 512, 512, 512]}\n" \
    "data: {format: synthetic, samples: 4096}\n"                       \
    "training: {global_batch_size: 1024, micro_batch_size: 128}\n"     \
    "cluster: {hardware: " DML_SOURCE_DIR "/examples/hardware/h100-sxm.yaml}\n"

static void table_of(const char *const *overrides, int32_t n, int32_t devices, bool all,
                     dml_str *out)
{
    dml_spec spec;
    DML_CHECK_OK(spec_of(NET, overrides, n, &spec));
    DML_CHECK_OK(dml_strategies_print(&spec, devices, all, out));
    dml_spec_free(&spec);
}

static void the_table_ranks_what_fits_and_says_why_the_rest_does_not(void **state)
{
    (void)state;
    dml_str out = {0};
    table_of(NULL, 0, 4, false, &out);
    const char *text = dml_str_text(&out);
    DML_CHECK(strstr(text, "\n   1  "));
    DML_CHECK(strstr(text, "formula only"));
    DML_CHECK(strstr(text, "at most 1: one device"));
    DML_CHECK(strstr(text, "at most 1: pixels of the smallest image"));
    DML_CHECK(strstr(text, "1 x 4 no pipeline"));
    DML_CHECK(strstr(text, "4 x 1 "));
    DML_CHECK(!strstr(text, "short of memory"));
    dml_str_free(&out);
    table_of((const char *const[]){"parallelism.memory=1MB"}, 1, 4, false, &out);
    DML_CHECK(strstr(dml_str_text(&out), "GiB short of memory"));
    DML_CHECK(!strstr(dml_str_text(&out), "\n   1  "));
    dml_str_free(&out);
}

static void all_schedules_of_a_layout_are_there_when_asked_for(void **state)
{
    (void)state;
    dml_str some = {0}, out = {0};
    table_of(NULL, 0, 2, false, &some);
    table_of(NULL, 0, 2, true, &out);
    DML_CHECK(out.len > some.len);
    static const char *const names[] = {"2 x 1 gpipe,", "2 x 1 1f1b,", "2 x 1 zb_h1,",
                                        "2 x 1 interleaved_1f1b x2,"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        DML_CHECK(strstr(dml_str_text(&out), names[i]));
    dml_str_free(&some);
    dml_str_free(&out);
}

/* The step of the row that begins with `name`, and its size of micro-batches. */
static void row_of(const char *text, const char *name, double *ms, int32_t *micro)
{
    const char *at = strstr(text, name);
    DML_CHECK(at);
    DML_CHECK_EQ(2, sscanf(at + strlen(name), " %d %lf", micro, ms));
}

/* Two replicas stand for all: their program is that of a plan with all of them. */
static void a_layout_takes_what_its_plan_takes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *set[3];
        int32_t devices;
    } layout[] = {
        {"2 x 2 1f1b,", {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=1f1b"}, 4},
        {"2 x 4 gpipe,", {"parallelism.pp=2", "parallelism.dp=4", "parallelism.schedule=gpipe"}, 8},
        {"4 x 4 zb_h1,",
         {"parallelism.pp=4", "parallelism.dp=4", "parallelism.schedule=zb_h1"},
         16},
    };
    for (size_t i = 0; i < sizeof layout / sizeof *layout; i++) {
        dml_str out = {0};
        double ms;
        int32_t micro;
        table_of(NULL, 0, layout[i].devices, true, &out);
        row_of(dml_str_text(&out), layout[i].name, &ms, &micro);
        dml_str_free(&out);
        char size[64];
        snprintf(size, sizeof size, "training.micro_batch_size=%d", micro);
        dml_spec spec;
        dml_plan plan;
        dml_sim sim;
        DML_CHECK_OK(spec_of(
            NET, (const char *const[]){layout[i].set[0], layout[i].set[1], layout[i].set[2], size},
            4, &spec));
        DML_CHECK_OK(dml_plan_make(&spec, &plan));
        DML_CHECK_OK(dml_simulate(&plan.train, &plan.cost, &sim));
        const int64_t step_ns = sim.makespan_ns;
        dml_sim_free(&sim);
        printf("%s %d: %.3f ms, its plan %.3f ms\n", layout[i].name, micro, ms,
               (double)step_ns * 1e-6);
        DML_CHECK(fabs(ms * 1e6 / (double)step_ns - 1.0) < 0.02);
        dml_plan_free(&plan);
        dml_spec_free(&spec);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serial),
        cmocka_unit_test(data),
        cmocka_unit_test(spatial),
        cmocka_unit_test(pipeline),
        cmocka_unit_test(filter_and_channel),
        cmocka_unit_test(data_with_filter),
        cmocka_unit_test(one_device_is_serial_whatever_the_strategy),
        cmocka_unit_test(groups_of_one_are_data_and_one_group_is_filter),
        cmocka_unit_test(memory_falls_with_devices),
        cmocka_unit_test(a_ring_goes_at_the_pace_of_its_slowest_link),
        cmocka_unit_test(sizes_come_from_the_model),
        cmocka_unit_test(a_spec_without_costs_is_told_where_to_get_them),
        cmocka_unit_test(the_table_ranks_what_fits_and_says_why_the_rest_does_not),
        cmocka_unit_test(all_schedules_of_a_layout_are_there_when_asked_for),
        cmocka_unit_test(a_layout_takes_what_its_plan_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
