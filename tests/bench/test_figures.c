/* tests/bench/test_figures.c - figures of a known file, texts that are none, and a page whose figure is wrong. */
#include "tests/support/test.h"

#include "bench/bench.h"
#include "bench/figures.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/dml-test-figures-XXXXXX";
static char root[64], file[128];

static const char begin[] =
    "<!-- figures: made of bench/figures.md by dml-bench figures --write -->\n";

static void put(const char *name, const char *text)
{
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *f = fopen(file, "w");
    DML_CHECK(f && fputs(text, f) >= 0);
    fclose(f);
}

static int set_up(void **state)
{
    (void)state;
    DML_CHECK(mkdtemp(folder));
    snprintf(root, sizeof root, "%s/bench/results", folder);
    char command[128];
    snprintf(command, sizeof command, "mkdir -p %s", root);
    DML_CHECK_EQ(0, system(command));
    put("bench/results/r.json",
        "{\"date\": \"today\", \"n\": 7, \"list\": [3, 1, 2.5], \"runs\": ["
        "{\"run\": \"1f1b, far\", \"s\": 0.25, \"hash\": \"a\"}, {\"run\": \"gpipe\", \"s\": 0.5, "
        "\"hash\": "
        "\"a\"}, {\"run\": \"gpipe\", \"s\": 1, \"hash\": \"b\", \"deep\": {\"x\": [4, 5]}}]}");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *filled(const char *text)
{
    static dml_str out;
    dml_str_clear(&out);
    DML_CHECK_OK(bench_figures_fill(text, root, &out));
    return dml_str_text(&out);
}

static void values_are_found_by_name_by_number_and_by_what_they_have(void **state)
{
    (void)state;
    assert_string_equal("plain", filled("plain"));
    assert_string_equal(
        "25.0 and 7 today",
        filled("{{r.json runs[run='1f1b, far'].s * 100 %.1f}} and {{r.json n %.0f}} "
               "{{r.json date %s}}"));
    assert_string_equal("5 2.50",
                        filled("{{r.json runs[2].deep.x[1] %.0f}} {{r.json list[2] %.2f}}"));
}

static void expressions_have_the_usual_order(void **state)
{
    (void)state;
    assert_string_equal("13", filled("{{r.json 1 + 2 * 6 %.0f}}"));
    assert_string_equal("18", filled("{{r.json (1 + 2) * 6 %.0f}}"));
    assert_string_equal("1.0", filled("{{r.json 8 / 2 / 4 %.1f}}"));
    assert_string_equal("2", filled("{{r.json n - 3 - 2 %.0f}}"));
    assert_string_equal("0.750", filled("{{r.json (runs[1].s + runs[2].s) / 2 %.3f}}"));
}

static void functions_take_all_that_a_path_finds(void **state)
{
    (void)state;
    assert_string_equal("1 3 2.5 3",
                        filled("{{r.json min(list) %.0f}} {{r.json max(list) %.0f}} "
                               "{{r.json median(list) %.1f}} {{r.json count(runs) %.0f}}"));
    assert_string_equal("2 1", filled("{{r.json distinct(runs[].hash) %.0f}} "
                                      "{{r.json distinct(runs[run='1f1b, far'].hash) %.0f}}"));
    assert_string_equal("0.5", filled("{{r.json min(runs[run='gpipe'].s) %.1f}}"));
}

static void what_has_no_value_is_quoted(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"{{r.json n", "no }}"},
        {"{{r.json n %d}}", "FILE EXPRESSION"},
        {"{{r.json n}}", "FILE EXPRESSION"},
        {"{{none.json n %.1f}}", "none.json"},
        {"{{r.json m %.1f}}", "nothing is at m"},
        {"{{r.json runs[run='zb'].s %.1f}}", "nothing is at"},
        {"{{r.json runs[run='gpipe'].s %.1f}}", "not one number"},
        {"{{r.json date %.1f}}", "not one number"},
        {"{{r.json n %s}}", "not one text"},
        {"{{r.json n / 0 %.1f}}", "not finite"},
        {"{{r.json (n %.1f}}", "')' is missing"},
        {"{{r.json n n %.1f}}", "does not belong"},
        {"{{r.json mean(list) %.1f}}", "no function 'mean'"},
        {"{{r.json max(runs[].hash) %.1f}}", "no number"},
        {"{{r.json runs[run=gpipe].s %.1f}}", "is meant"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        dml_str out = {0};
        DML_CHECK_FAILS(DML_ERR_DATA, wrong[i][1], bench_figures_fill(wrong[i][0], root, &out));
        if (i > 0 && strstr(wrong[i][0], "}}")) DML_CHECK(strstr(dml_err_trail(), wrong[i][0]));
        dml_str_free(&out);
    }
}

static int command(const char *option)
{
    char *argv[] = {(char *)(uintptr_t) "dml-bench figures", (char *)(uintptr_t)option, folder,
                    NULL};
    char *plain[] = {argv[0], folder, NULL};
    return option ? dml_bench_figures(3, argv) : dml_bench_figures(2, plain);
}

static void a_page_that_differs_is_an_error_until_it_is_written(void **state)
{
    (void)state;
    char page[256];
    put("bench/figures.md", "| n | {{r.json n %.0f}} |\n");
    snprintf(page, sizeof page, "# page\n%s| n | 8 |\n<!-- /figures -->\nend\n", begin);
    put("README.md", page);
    DML_CHECK_EQ(7, command(NULL));
    DML_CHECK(strstr(dml_err_trail(), "README.md:3"));
    DML_CHECK(strstr(dml_err_trail(), "is      | n | 8 |"));
    DML_CHECK_EQ(0, command("--write"));
    DML_CHECK_EQ(0, command(NULL));
    put("bench/figures.md", "| n | {{r.json n + 1 %.0f}} |\n"); /* as after another result */
    DML_CHECK_EQ(7, command(NULL));
    put("README.md", "# page\n");
    DML_CHECK_EQ(4, command(NULL)); /* no place for them */
    DML_CHECK_EQ(2, command("--right"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_found_by_name_by_number_and_by_what_they_have),
        cmocka_unit_test(expressions_have_the_usual_order),
        cmocka_unit_test(functions_take_all_that_a_path_finds),
        cmocka_unit_test(what_has_no_value_is_quoted),
        cmocka_unit_test(a_page_that_differs_is_an_error_until_it_is_written),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
