/* tests/bench/test_child.c - programs that bench/child.c runs, and what it reads of them. */
#include "tests/support/test.h"

#include "bench/bench.h"
#include "engine/base/clock.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/dml-test-child-XXXXXX";
static char log_file[64], metrics[64];

static int set_up(void **state)
{
    (void)state;
    DML_CHECK(mkdtemp(folder));
    snprintf(log_file, sizeof log_file, "%s/log", folder);
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(log_file);
    unlink(metrics);
    return rmdir(folder);
}

static int code_of(const char *script, double limit_s)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    int code = -1;
    DML_CHECK_OK(bench_run(argv, log_file, limit_s, &code));
    return code;
}

static void a_child_gives_its_exit_code_or_128_and_its_signal(void **state)
{
    (void)state;
    DML_CHECK_EQ(0, code_of("exit 0", 60));
    DML_CHECK_EQ(7, code_of("exit 7", 60));
    DML_CHECK_EQ(128 + 15, code_of("kill -TERM $$", 60));
}

static void a_child_that_overruns_is_killed(void **state)
{
    (void)state;
    const int64_t begin_ns = dml_clock_ns();
    DML_CHECK_EQ(128 + 9, code_of("exec sleep 100", 0.05));
    DML_CHECK(dml_clock_ns() - begin_ns < 50 * DML_NS_PER_S); /* not the hundred */
}

static void a_program_that_is_not_there_is_named(void **state)
{
    (void)state;
    const char *const argv[] = {"/no/such/program", NULL};
    int code;
    DML_CHECK_EQ(DML_ERR_UNAVAILABLE, bench_run(argv, log_file, 60, &code));
    DML_CHECK(strstr(dml_err_trail(), "/no/such/program"));
}

static void the_tail_of_a_log_is_whole_lines(void **state)
{
    (void)state;
    char text[12];
    code_of("printf 'first line\\nsecond\\nend\\n'; echo error >&2", 60);
    bench_tail(log_file, text, sizeof text);
    assert_string_equal("end\nerror\n", text);
    bench_tail("/no/such/file", text, sizeof text);
    assert_string_equal("", text);
}

static void records_are_the_newest_of_each_type(void **state)
{
    (void)state;
    FILE *f = fopen(metrics, "w");
    DML_CHECK(f);
    fputs("{\"type\":\"step\",\"loss\":2.5}\nnot json\n{\"type\":\"run_end\",\"steps\":2}\n"
          "{\"type\":\"step\",\"loss\":1.5}\n{\"type\":\"eval\",\"lo",
          f);
    fclose(f);
    json_t *records = bench_records(folder);
    DML_CHECK_EQ(2, json_object_size(records));
    const json_t *step = json_object_get(records, "step");
    DML_CHECK(json_real_value(json_object_get(step, "loss")) == 1.5);
    json_decref(records);
    records = bench_records("/no/such/folder");
    DML_CHECK_EQ(0, json_object_size(records));
    json_decref(records);
}

static bool at_once(void *context)
{
    ++*(int *)context;
    return true;
}

static void a_child_that_did_enough_gets_one_term(void **state)
{
    (void)state;
    int asked = 0, code;
    const char *const argv[] = {"/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.01; done",
                                NULL};
    DML_CHECK_OK(bench_run_until(argv, log_file, 60, at_once, &asked, &code));
    DML_CHECK(code == 5 || code == 128 + 15); /* the shell may not have come to its trap */
    DML_CHECK_EQ(1, asked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_gives_its_exit_code_or_128_and_its_signal),
        cmocka_unit_test(a_child_that_overruns_is_killed),
        cmocka_unit_test(a_program_that_is_not_there_is_named),
        cmocka_unit_test(the_tail_of_a_log_is_whole_lines),
        cmocka_unit_test(records_are_the_newest_of_each_type),
        cmocka_unit_test(a_child_that_did_enough_gets_one_term),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
