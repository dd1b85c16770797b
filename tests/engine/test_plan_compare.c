/* The table of all schedules: what it says of eight delay layers, and of what does not fit. */
#include "tests/support/test.h"

#include "tests/schedule/support.h"

#include "engine/plan_compare.h"

#include <stdlib.h>

#define DELAYS DML_SOURCE_DIR "/tests/specs/delay8.yaml"
#define PLACED DML_SOURCE_DIR "/examples/placed-delay.yaml"
#define VGG8   DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml"

enum { MOST = 4 };

/* Appends the table for the spec under overrides, up to MOST of them. */
static void compare(const char *path, const char *const override[MOST], dml_str *out)
{
    dml_spec spec;
    int32_t n = 0;
    while (n < MOST && override[n])
        n++;
    DML_CHECK_OK(dml_spec_load(path, override, n, &spec));
    DML_CHECK_OK(dml_plan_compare(&spec, out));
    dml_spec_free(&spec);
}

/* The row of `name` contains `says`. */
static void expect_line(const char *table, const char *name, const char *says)
{
    char begin[64];
    snprintf(begin, sizeof begin, "\n%-20s", name);
    const char *line = strstr(table, begin);
    if (!line) fail_msg("no row of %s in\n%s", name, table);
    const size_t n = strcspn(line + 1, "\n");
    char *copy = strndup(line + 1, n);
    if (!strstr(copy, says)) fail_msg("'%s' does not say '%s'", copy, says);
    free(copy);
}

/* Walls are those that theory has for p = 4, m = 8 and F = I = W = 10 ms. */
static void the_table_is_golden(void **state)
{
    (void)state;
    static const char *const settings[][MOST] = {{NULL},
                                                 {"training.global_batch_size=20"},
                                                 {"parallelism.pp=3", "parallelism.dp=2"},
                                                 {"parallelism.virtual_pipeline_stages=2"}};
    dml_str text = {0};
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        dml_str_printf(&text, "%s====", k ? "\n" : "");
        for (int32_t i = 0; i < MOST && settings[k][i]; i++)
            dml_str_printf(&text, " %s", settings[k][i]);
        dml_str_printf(&text, "\n");
        compare(DELAYS, settings[k], &text);
    }
    check_golden("compare_delay8.txt", dml_str_text(&text));
    dml_str_free(&text);
}

static void a_second_time_it_is_the_same(void **state)
{
    (void)state;
    static const char *const overrides[MOST] = {"parallelism.pp=2", "parallelism.dp=2"};
    dml_str once = {0}, twice = {0};
    compare(VGG8, overrides, &once);
    compare(VGG8, overrides, &twice);
    assert_string_equal(dml_str_text(&once), dml_str_text(&twice));
    dml_str_free(&once);
    dml_str_free(&twice);
}

/* Of n holders a ring moves 2 (n - 1) times what is summed: two replicas, and with two copies of the weights four. */
static void bytes_through_links_are_counted(void **state)
{
    (void)state;
    static const char *const one[MOST] = {"parallelism.pp=2"}, *const two[MOST] = {
                                                                   "parallelism.pp=2",
                                                                   "parallelism.dp=2"};
    dml_spec spec;
    dml_plan plan;
    DML_CHECK_OK(dml_spec_load(DELAYS, two, 2, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    const double reduced = (double)(plan.reduce_bytes[0] + plan.reduce_bytes[1]) / 0x1p20;
    DML_CHECK(plan.reduce_bytes[1] >= 170 * 4); /* the linear layer's gradients, and slots */
    DML_CHECK(plan.reduce_bytes[1] < 170 * 4 + 1024);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    /* One boundary, forward and back, 8 micro-batches of 4 x 16 floats */
    char sent[64], ring[64], copies[64];
    snprintf(sent, sizeof sent, "%10.3f", 2 * 8 * 4 * 16 * 4.0 / 0x1p20);
    snprintf(ring, sizeof ring, "%10.3f", 2 * reduced);
    snprintf(copies, sizeof copies, "%10.3f", 6 * reduced);
    dml_str text = {0};
    compare(DELAYS, one, &text);
    expect_line(dml_str_text(&text), "1f1b", sent);
    expect_line(dml_str_text(&text), "1f1b", "     0.000"); /* nothing to reduce */
    dml_str_clear(&text);
    compare(DELAYS, two, &text);
    expect_line(dml_str_text(&text), "1f1b", ring);
    expect_line(dml_str_text(&text), "chimera", copies);
    dml_str_free(&text);
}

static void the_spec_s_own_file_has_a_row(void **state)
{
    (void)state;
    static const char *const overrides[MOST] = {"parallelism.schedule=csv:" DML_SOURCE_DIR
                                                "/tests/golden/family/zb_v.csv",
                                                "parallelism.virtual_pipeline_stages=2"};
    dml_str text = {0};
    compare(DELAYS, overrides, &text);
    expect_line(dml_str_text(&text), "csv x2", "   255.000 ");
    expect_line(dml_str_text(&text), "csv x2", "  0,7");
    dml_str_free(&text);
}

static void what_does_not_fit_says_what_would(void **state)
{
    (void)state;
    dml_str text = {0};
    static const char *const few[MOST] = {"training.global_batch_size=20"};
    compare(DELAYS, few, &text);
    expect_line(dml_str_text(&text), "zb_h2",
                "needs at least 7 micro-batches, not 5; would do: training.global_batch_size 28");
    expect_line(dml_str_text(&text), "chimera", "; would do: training.global_batch_size 16");
    dml_str_clear(&text);

    static const char *const replicas[MOST] = {"training.global_batch_size=48",
                                               "parallelism.dp=2"}; /* 6 on each */
    compare(DELAYS, replicas, &text);
    expect_line(dml_str_text(&text), "chimera", "; would do: training.global_batch_size 32 or 64");
    dml_str_clear(&text);

    static const char *const odd[MOST] = {"parallelism.pp=3"};
    compare(DELAYS, odd, &text);
    expect_line(dml_str_text(&text), "chimera", "; would do: parallelism.pipeline_parallel_size 2");
    dml_str_clear(&text);

    static const char *const listed[MOST] = {"parallelism.split=[2, 2, 2, 3]"};
    compare(DELAYS, listed, &text);
    expect_line(dml_str_text(&text), "looped_bfs x2",
                "lists 4 stages, not 8; would do: parallelism.split auto");
    dml_str_free(&text);
}

/* On four stages: PipeDream, an update for each micro-batch, keeps 4 versions and is 3 late; 2BW keeps 2 and is 1 late. */
static void asynchronous_rows_say_versions_and_delay(void **state)
{
    (void)state;
    static const char *const one[MOST] = {"training.global_batch_size=4", "training.max_steps=64"},
                             *const none[MOST] = {NULL};
    dml_str text = {0};
    compare(DELAYS, one, &text);
    expect_line(dml_str_text(&text), "pipedream", "  4      1        4     3 ");
    dml_str_clear(&text);
    compare(DELAYS, none, &text);
    expect_line(dml_str_text(&text), "1f1b", "  4      1        1     0 ");
    expect_line(dml_str_text(&text), "pipedream_2bw", "  4      1        2     1 ");
    dml_str_free(&text);
}

/* At 50 MiB gpipe, best with 56, is cut elsewhere. */
static void memory_that_is_short_moves_the_cut_or_says_how_much_it_takes(void **state)
{
    (void)state;
    dml_str text = {0};
    static const char *const tight[MOST] = {"parallelism.pp=2", "parallelism.memory=50MiB"},
                             *const tighter[MOST] = {"parallelism.pp=2",
                                                     "parallelism.memory=40MiB"};
    compare(VGG8, tight, &text);
    expect_line(dml_str_text(&text), "gpipe", " 45.964  0");
    expect_line(dml_str_text(&text), "1f1b", " 46.348  1");
    dml_str_clear(&text);
    compare(VGG8, tighter, &text);
    expect_line(dml_str_text(&text), "gpipe", "bytes short; would do: parallelism.memory 56MiB");
    dml_str_free(&text);
}

static void named_schedules_do_not_take_stages_placed_by_hand(void **state)
{
    (void)state;
    static const char *const none[MOST] = {NULL};
    dml_str text = {0};
    compare(PLACED, none, &text);
    expect_line(dml_str_text(&text), "all but auto", "  -  schedule 1f1b places the stages");
    expect_line(dml_str_text(&text), "auto", "   385.000 ");
    dml_str_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_golden),
        cmocka_unit_test(a_second_time_it_is_the_same),
        cmocka_unit_test(bytes_through_links_are_counted),
        cmocka_unit_test(the_spec_s_own_file_has_a_row),
        cmocka_unit_test(what_does_not_fit_says_what_would),
        cmocka_unit_test(asynchronous_rows_say_versions_and_delay),
        cmocka_unit_test(memory_that_is_short_moves_the_cut_or_says_how_much_it_takes),
        cmocka_unit_test(named_schedules_do_not_take_stages_placed_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
