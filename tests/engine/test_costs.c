/* tests/engine/test_costs.c - times of layers between the sizes that were measured, and of all-reduces. */
#include "tests/support/test.h"

#include "engine/costs.h"

static const int32_t sizes[] = {8, 16, 64};
static const int64_t three[][DML_PASSES] = {
    {800, 0, 80},   {100, 200, 300}, /* at 8 */
    {1000, 0, 160}, {100, 100, 300}, /* at 16 */
    {5800, 0, 640}, {100, 60, 300},  /* at 64 */
};
static const int64_t step_ns[] = {7, 9};
static const dml_reduce_cost reduces[] = {{2, 1000, 1000000000}, {4, 3000, 0}};
static const dml_costs costs = {.source = "here",
                                .n_layers = 2,
                                .n_rows = 3,
                                .rows = sizes,
                                .ns = three,
                                .step_ns = step_ns,
                                .reduce = reduces,
                                .n_reduces = 2,
                                .vote_ns = 5};

static void a_size_that_was_measured_has_its_times(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 3; i++)
        for (int32_t l = 0; l < 2; l++)
            for (dml_pass p = 0; p < DML_PASSES; p++)
                DML_CHECK_EQ(three[2 * i + l][p], dml_costs_ns(&costs, l, sizes[i], p));
}

static void others_lie_on_the_line_through_their_neighbours(void **state)
{
    (void)state;
    DML_CHECK_EQ(900, dml_costs_ns(&costs, 0, 12, DML_PASS_FORWARD));
    DML_CHECK_EQ(3400, dml_costs_ns(&costs, 0, 40, DML_PASS_FORWARD));
    DML_CHECK_EQ(600, dml_costs_ns(&costs, 0, 0, DML_PASS_FORWARD));
    DML_CHECK_EQ(12200, dml_costs_ns(&costs, 0, 128, DML_PASS_FORWARD));
    DML_CHECK_EQ(0, dml_costs_ns(&costs, 1, 512, DML_PASS_INPUT)); /* the line falls below 0 */
}

static void one_size_is_taken_in_proportion(void **state)
{
    (void)state;
    dml_costs one = costs;
    one.n_rows = 1;
    DML_CHECK_EQ(100, dml_costs_ns(&one, 0, 1, DML_PASS_FORWARD));
    DML_CHECK_EQ(1600, dml_costs_ns(&one, 0, 16, DML_PASS_FORWARD));
}

static void an_all_reduce_is_known_for_the_members_measured(void **state)
{
    (void)state;
    DML_CHECK_EQ(0, dml_costs_reduce_ns(&costs, 1, 1 << 20));
    DML_CHECK_EQ(1000 + 500000, dml_costs_reduce_ns(&costs, 2, 500000));
    DML_CHECK_EQ(3000, dml_costs_reduce_ns(&costs, 4, 500000));
    DML_CHECK_EQ(-1, dml_costs_reduce_ns(&costs, 3, 500000));
}

static void a_copy_outlives_its_original(void **state)
{
    (void)state;
    dml_arena first = {0}, second = {0};
    const dml_costs *a = dml_costs_copy(&costs, &first), *b = dml_costs_copy(a, &second);
    dml_arena_free(&first);
    DML_CHECK_EQ(900, dml_costs_ns(b, 0, 12, DML_PASS_FORWARD));
    DML_CHECK_EQ(9, b->step_ns[1]);
    DML_CHECK_EQ(3000, dml_costs_reduce_ns(b, 4, 1));
    assert_string_equal("here", b->source);
    dml_arena_free(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_that_was_measured_has_its_times),
        cmocka_unit_test(others_lie_on_the_line_through_their_neighbours),
        cmocka_unit_test(one_size_is_taken_in_proportion),
        cmocka_unit_test(an_all_reduce_is_known_for_the_members_measured),
        cmocka_unit_test(a_copy_outlives_its_original),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
