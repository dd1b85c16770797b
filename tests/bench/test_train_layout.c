/* tests/bench/test_train_layout.c - the grammar of --layouts and --devices. */
#include "tests/support/test.h"

#include "bench/train.h"

static const int32_t devices[] = {1, 4};

/* The list's layouts as texts, with a space after each. */
static const char *texts(const char *list, int32_t n_devices)
{
    static char all[1024];
    train_layout layout[TRAIN_LAYOUTS];
    dml_arena arena = {0};
    int32_t n;
    DML_CHECK_OK(train_layouts_parse(list, devices, n_devices, layout, &n));
    all[0] = '\0';
    for (int32_t i = 0; i < n; i++) {
        strcat(all, train_layout_text(&layout[i], &arena));
        strcat(all, " ");
    }
    dml_arena_free(&arena);
    return all;
}

static void a_layout_is_pipeline_x_replicas_x_stages_of_a_rank_and_a_schedule(void **state)
{
    (void)state;
    assert_string_equal("1x1 2x2:zb_h1 2x1x2:interleaved_1f1b spec spec:gpipe ",
                        texts("1x1,2x2:zb_h1,2x1x2:interleaved_1f1b,spec,spec:gpipe", 0));
    assert_string_equal("2x1:csv:orders/v.csv ", texts("2x1:csv:orders/v.csv", 0));
    assert_string_equal("2x1 ",
                        texts("2x1x1", 0)); /* one stage on each rank is what there is anyway */
}

static void all_and_auto_go_through_the_devices(void **state)
{
    (void)state;
    assert_string_equal("1x1 1x4 2x2 4x1 ", texts("all", 2));
    assert_string_equal("1x1:gpipe 1x4:gpipe 2x2:gpipe 4x1:gpipe auto@1 auto@4 3x1 ",
                        texts("all:gpipe,auto,3x1", 2));
}

static void what_is_no_layout_is_named_and_the_grammar_said(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",     "2",         "2x",   "x2",   "0x2",   "2x0",  "2x2x0",   "2x2x",   "2x2x2x2",
        "2x2:", "auto:1f1b", "2x2,", ",2x2", "2 x 2", "-1x2", "99999x1", "1024x2", "every"};
    train_layout layout[TRAIN_LAYOUTS];
    int32_t n;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        DML_CHECK_FAILS(DML_ERR_SPEC, "2x1x2:interleaved_1f1b",
                        train_layouts_parse(wrong[i], devices, 2, layout, &n));
    DML_CHECK_FAILS(DML_ERR_SPEC, "'2y2'", train_layouts_parse("1x1,2y2", devices, 2, layout, &n));
    DML_CHECK_FAILS(DML_ERR_SPEC, "add --devices", train_layouts_parse("all", NULL, 0, layout, &n));
    DML_CHECK_FAILS(DML_ERR_SPEC, "add --devices",
                    train_layouts_parse("auto", NULL, 0, layout, &n));
}

static void too_many_layouts_are_refused(void **state)
{
    (void)state;
    char list[4 * (TRAIN_LAYOUTS + 1) + 1] = "";
    train_layout layout[TRAIN_LAYOUTS];
    int32_t n;
    for (int32_t i = 0; i < TRAIN_LAYOUTS; i++)
        strcat(list, i ? ",1x1" : "1x1");
    DML_CHECK_OK(train_layouts_parse(list, NULL, 0, layout, &n));
    DML_CHECK_EQ(TRAIN_LAYOUTS, n);
    strcat(list, ",1x1");
    DML_CHECK_FAILS(DML_ERR_SPEC, "more than", train_layouts_parse(list, NULL, 0, layout, &n));
}

static void devices_ascend(void **state)
{
    (void)state;
    int32_t got[TRAIN_DEVICES], n;
    DML_CHECK_OK(train_devices_parse("1,2,4,8", got, &n));
    DML_CHECK_EQ(4, n);
    DML_CHECK_EQ(8, got[3]);
    static const char *const wrong[] = {"",    "0",    "1,",
                                        "1,1", "2,1",  "1;2",
                                        "one", "1,-2", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        DML_CHECK_FAILS(DML_ERR_SPEC, "ascending", train_devices_parse(wrong[i], got, &n));
}

static void overrides_make_the_layout(void **state)
{
    (void)state;
    train_layout layout[TRAIN_LAYOUTS];
    dml_arena arena = {0};
    const char *argv[16];
    int32_t n, args = 0;
    DML_CHECK_OK(train_layouts_parse("2x3x4:looped_bfs,auto", devices, 2, layout, &n));
    train_layout_overrides(&layout[0], &arena, argv, &args);
    static const char *const want[] = {"parallelism.stages=[]", "parallelism.pp=2",
                                       "parallelism.dp=3", "parallelism.vpp=4",
                                       "parallelism.schedule=looped_bfs"};
    DML_CHECK_EQ(5, args);
    for (int32_t i = 0; i < args; i++)
        assert_string_equal(want[i], argv[i]);
    args = 0;
    train_layout_overrides(&layout[2], &arena, argv, &args);
    DML_CHECK_EQ(2, args);
    assert_string_equal("plan=auto", argv[0]);
    assert_string_equal("parallelism.world_size=4", argv[1]);
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layout_is_pipeline_x_replicas_x_stages_of_a_rank_and_a_schedule),
        cmocka_unit_test(all_and_auto_go_through_the_devices),
        cmocka_unit_test(what_is_no_layout_is_named_and_the_grammar_said),
        cmocka_unit_test(too_many_layouts_are_refused),
        cmocka_unit_test(devices_ascend),
        cmocka_unit_test(overrides_make_the_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
