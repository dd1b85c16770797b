/* Single values: what YAML 1.2 calls a number, and quantities with units. */
#include "tests/support/test.h"

#include "engine/spec_value.h"

#include <float.h>
#include <math.h>

static void numbers_are_those_of_yaml_1_2(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},    {"12", 12},        {"-3.5", -3.5},    {"+7", 7},    {".5", 0.5},
                {"5.", 5},   {"3e-4", 3e-4},    {"1E+3", 1e3},     {"0x1f", 31}, {"0o17", 15},
                {"012", 12}, {"12_000", 12000}, {"1_0.2_5", 10.25}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double v = -1;
        if (!dml_value_number(good[i].text, &v) || v != good[i].value)
            fail_msg("'%s' gave %g", good[i].text, v);
    }
    static const char *const bad[] = {"",   "a",  ".",    "-",    "1e",  "e5",    "1 2", "0x",
                                      "_1", "1_", "1__0", ".inf", "nan", "1e999", "0xg", "1.2.3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double v;
        if (dml_value_number(bad[i], &v)) fail_msg("'%s' gave %g", bad[i], v);
    }
}

static void whole_numbers_are_exact_and_may_be_written_with_an_exponent(void **state)
{
    (void)state;
    int64_t v;
    DML_CHECK(dml_value_whole("1e6", &v) && v == 1000000);
    DML_CHECK(dml_value_whole("-12_000", &v) && v == -12000);
    DML_CHECK(dml_value_whole("999999999999999999", &v) && v == INT64_C(999999999999999999));
    DML_CHECK(dml_value_whole("1234567890123456789", &v) && v == INT64_C(1234567890123456789));
    DML_CHECK(!dml_value_whole("2.5", &v));
    DML_CHECK(!dml_value_whole("99999999999999999999", &v));
    DML_CHECK(!dml_value_whole("12 ", &v));
}

static void times_have_units_and_bare_ones_are_seconds(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {{"500ms", 500000000},
                {"30m", INT64_C(1800000000000)},
                {"1.5 s", 1500000000},
                {"7", INT64_C(7000000000)},
                {"10us", 10000},
                {"3ns", 3},
                {"1h", INT64_C(3600000000000)},
                {"2min", INT64_C(120000000000)}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t ns = -1;
        DML_CHECK(dml_value_time(good[i].text, &ns));
        DML_CHECK_EQ(good[i].ns, ns);
    }
    int64_t ns;
    DML_CHECK(!dml_value_time("5 parsecs", &ns));
    DML_CHECK(!dml_value_time("-1s", &ns));
    DML_CHECK(!dml_value_time("1e300h", &ns));
}

static void bandwidths_count_in_thousands_or_in_1024s(void **state)
{
    (void)state;
    double v;
    DML_CHECK(dml_value_rate("1GB/s", &v) && v == 1e9);
    DML_CHECK(dml_value_rate("64 MiB/s", &v) && v == 64 * 1048576.0);
    DML_CHECK(dml_value_rate("64MiB", &v) && v == 64 * 1048576.0);
    DML_CHECK(dml_value_rate("1.25e9", &v) && v == 1.25e9);
    DML_CHECK(!dml_value_rate("10Gb/s", &v)); /* bits or a typo: ask */
    DML_CHECK(!dml_value_rate("10GB/h", &v));
}

static void a_loss_scale_is_dynamic_or_a_power_of_two(void **state)
{
    (void)state;
    float v = -1.0f;
    DML_CHECK(dml_value_scale("Dynamic", &v) && v == 0.0f);
    DML_CHECK(dml_value_scale("1", &v) && v == 1.0f);
    DML_CHECK(dml_value_scale("65_536", &v) && v == 65536.0f);
    DML_CHECK(dml_value_scale("0x1000000", &v) && v == 0x1p24f);
    static const char *const bad[] = {"0", "0.5", "3", "-2", "33554432", "static", "", "1e3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        DML_CHECK(!dml_value_scale(bad[i], &v));
    dml_str s = {0};
    dml_value_print_scale(&s, 0.0f);
    dml_value_print_scale(&s, 1024.0f);
    assert_string_equal("dynamic1024", dml_str_text(&s));
    dml_str_free(&s);
}

static void sizes_are_whole_bytes_and_are_printed_in_1024s(void **state)
{
    (void)state;
    static const struct {
        const char *text, *printed;
        int64_t bytes;
    } good[] = {{"25MiB", "25MiB", 26214400},
                {"1 MB", "1000000B", 1000000},
                {"0", "0B", 0},
                {"1.5KiB", "1536B", 1536},
                {"2048", "2KiB", 2048},
                {"3TiB", "3TiB", INT64_C(3) << 40}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t bytes;
        dml_str s = {0};
        DML_CHECK(dml_value_bytes(good[i].text, &bytes));
        DML_CHECK_EQ(good[i].bytes, bytes);
        dml_value_print_bytes(&s, bytes);
        assert_string_equal(good[i].printed, dml_str_text(&s));
        DML_CHECK(dml_value_bytes(dml_str_text(&s), &bytes) && bytes == good[i].bytes);
        dml_str_free(&s);
    }
    int64_t bytes;
    DML_CHECK(!dml_value_bytes("0.1MiB", &bytes)); /* not a whole number of bytes */
    DML_CHECK(!dml_value_bytes("-1", &bytes));
    DML_CHECK(!dml_value_bytes("1e30", &bytes));
    DML_CHECK(!dml_value_bytes("5 MiB/s", &bytes));
}

static void intervals_are_steps_or_epochs(void **state)
{
    (void)state;
    dml_interval v;
    DML_CHECK(dml_value_interval("250", &v) && v.n == 250 && !v.epochs);
    DML_CHECK(dml_value_interval("250 steps", &v) && v.n == 250 && !v.epochs);
    DML_CHECK(dml_value_interval("1 epoch", &v) && v.n == 1 && v.epochs);
    DML_CHECK(dml_value_interval("0.5epochs", &v) && v.n == 0.5 && v.epochs);
    DML_CHECK(!dml_value_interval("0.5", &v));
    DML_CHECK(!dml_value_interval("-1", &v));
    DML_CHECK(!dml_value_interval("1 hour", &v));
}

static void ranges_know_their_ends(void **state)
{
    (void)state;
    DML_CHECK(dml_value_in_range("", -1e9));
    DML_CHECK(!dml_value_in_range(">0", 0) && dml_value_in_range(">0", 1e-9));
    DML_CHECK(dml_value_in_range(">=1", 1) && !dml_value_in_range(">=1", 0.99));
    DML_CHECK(dml_value_in_range("[0,1)", 0) && !dml_value_in_range("[0,1)", 1));
    DML_CHECK(!dml_value_in_range("(0,1]", 0) && dml_value_in_range("(0,1]", 1));
}

static void words_ignore_case_and_joints(void **state)
{
    (void)state;
    DML_CHECK_EQ(1, dml_value_word("batch_norm max_pool2d", "MaxPool2d"));
    DML_CHECK_EQ(0, dml_value_word("batch_norm max_pool2d", "Batch-Norm"));
    DML_CHECK_EQ(-1, dml_value_word("batch_norm max_pool2d", "batch"));
    DML_CHECK_EQ(-1, dml_value_word("batch_norm max_pool2d", ""));
}

static const char *closest(const char *wanted)
{
    static const char *const words[] = {"sgd", "adamw", "linear", "cuda", "global_batch_size"};
    dml_nearest n = dml_nearest_to(wanted);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        dml_nearest_offer(&n, words[i], words[i]);
    return n.best ? n.best : "nothing";
}

static void the_nearest_word_is_close_or_nothing(void **state)
{
    (void)state;
    assert_string_equal("linear", closest("liner"));
    assert_string_equal("sgd", closest("sdg"));
    assert_string_equal("cuda", closest("gpu"));
    assert_string_equal("linear", closest("Dense"));
    assert_string_equal("global_batch_size", closest("batch_size"));
    assert_string_equal("nothing", closest("transformer"));
    assert_string_equal("nothing", closest("x"));
}

static void printed_floats_read_back_and_are_short(void **state)
{
    (void)state;
    static const float values[] = {0.1f,        0.286f,         1e-5f,    2e-3f, FLT_MIN,
                                   FLT_MAX,     200.0f,         -0.25f,   0.0f,  1e30f,
                                   16777216.0f, 0x1.fffffep-3f, 0x1p-149f};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        dml_str s = {0};
        dml_value_print_float(&s, values[i]);
        double v;
        DML_CHECK(dml_value_number(dml_str_text(&s), &v) && (float)v == values[i]);
        DML_CHECK(s.len <= 15);
        dml_str_free(&s);
    }
    dml_str s = {0};
    dml_value_print_float(&s, 0.1f);
    dml_value_print_double(&s, 200);
    assert_string_equal("0.1200", dml_str_text(&s));
    dml_str_free(&s);
}

static void steps_are_a_range_or_one(void **state)
{
    (void)state;
    dml_step_range v;
    dml_str s = {0};
    DML_CHECK(dml_value_steps("3-5", &v) && v.first == 3 && v.last == 5);
    DML_CHECK(dml_value_steps("7", &v) && v.first == 7 && v.last == 7);
    DML_CHECK(dml_value_steps("Auto", &v) && v.first == 0 && v.last == 0);
    DML_CHECK(dml_value_steps("5-3", &v) && v.first == 5 && v.last == 3);
    static const char *const none[] = {
        "", "-", "3-", "-3", "3-5-7", "3..5", "a-b", "3 - 5", "1-9999999999999999999"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        DML_CHECK(!dml_value_steps(none[i], &v));
    dml_value_print_steps(&s, (dml_step_range){3, 5});
    assert_string_equal("3-5", dml_str_text(&s));
    dml_str_clear(&s);
    dml_value_print_steps(&s, (dml_step_range){0, 0});
    assert_string_equal("auto", dml_str_text(&s));
    dml_str_free(&s);
}

static void printed_times_and_intervals_read_back(void **state)
{
    (void)state;
    static const int64_t times[] = {0, 1, 999, 10000, 1500000, 60 * INT64_C(1000000000), 123456789};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        dml_str s = {0};
        int64_t ns = -1;
        dml_value_print_time(&s, times[i]);
        DML_CHECK(dml_value_time(dml_str_text(&s), &ns));
        DML_CHECK_EQ(times[i], ns);
        dml_str_free(&s);
    }
    static const dml_interval intervals[] = {{250, false}, {1, true}, {0.5, true}, {0, false}};
    for (size_t i = 0; i < sizeof intervals / sizeof *intervals; i++) {
        dml_str s = {0};
        dml_interval v = {0};
        dml_value_print_interval(&s, intervals[i]);
        DML_CHECK(dml_value_interval(dml_str_text(&s), &v));
        DML_CHECK(v.n == intervals[i].n && v.epochs == intervals[i].epochs);
        dml_str_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_yaml_1_2),
        cmocka_unit_test(whole_numbers_are_exact_and_may_be_written_with_an_exponent),
        cmocka_unit_test(times_have_units_and_bare_ones_are_seconds),
        cmocka_unit_test(bandwidths_count_in_thousands_or_in_1024s),
        cmocka_unit_test(a_loss_scale_is_dynamic_or_a_power_of_two),
        cmocka_unit_test(sizes_are_whole_bytes_and_are_printed_in_1024s),
        cmocka_unit_test(intervals_are_steps_or_epochs),
        cmocka_unit_test(steps_are_a_range_or_one),
        cmocka_unit_test(ranges_know_their_ends),
        cmocka_unit_test(words_ignore_case_and_joints),
        cmocka_unit_test(the_nearest_word_is_close_or_nothing),
        cmocka_unit_test(printed_floats_read_back_and_are_short),
        cmocka_unit_test(printed_times_and_intervals_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
