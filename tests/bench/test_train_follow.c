/* tests/bench/test_train_follow.c - when a warm-up is over, and what is read of a run while it goes on. */
#include "tests/support/test.h"

#include "bench/train.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const train_rule rule = {
    .window = 10, .most_warmup = 100, .steps = 50, .tolerance = 0.02, .seconds = 1000};

enum { MOST = 300 };

/* Steps of `value` seconds from `from` on. */
static void fill(double *step_s, int from, double value)
{
    for (int i = from; i < MOST; i++)
        step_s[i] = value;
}

static void steady_steps_settle_after_three_windows(void **state)
{
    (void)state;
    double s[MOST];
    fill(s, 0, 1.0);
    DML_CHECK_EQ(-1, train_phase_of(&rule, s, 29).warmup);
    train_phase p = train_phase_of(&rule, s, 30);
    DML_CHECK(p.warmup == 30 && p.settled && !p.done && p.timed == 0);
    p = train_phase_of(&rule, s, 79);
    DML_CHECK(p.warmup == 30 && p.timed == 49 && !p.done);
    p = train_phase_of(&rule, s, 80);
    DML_CHECK(p.timed == 50 && p.done);
}

static void steps_after_the_last_that_counts_do_not(void **state)
{
    (void)state;
    double s[MOST];
    fill(s, 0, 1.0);
    const train_phase p = train_phase_of(&rule, s, 200);
    DML_CHECK(p.warmup == 30 && p.timed == 50 && p.done);
}

/* A window's median is its fifth smallest: six slow steps make it slow. */
static void slow_windows_put_the_end_of_the_warm_up_off(void **state)
{
    (void)state;
    double s[MOST];
    fill(s, 0, 1.5);
    fill(s, 15, 1.0); /* the oldest window must hold five or more of the fast ones */
    const train_phase p = train_phase_of(&rule, s, 100);
    DML_CHECK_EQ(40, p.warmup);
    DML_CHECK(p.settled);
}

static void windows_that_differ_by_two_per_cent_do_not_agree(void **state)
{
    (void)state;
    double s[MOST];
    fill(s, 0, 1.0);
    fill(s, 20, 1.0201);
    DML_CHECK_EQ(46, train_phase_of(&rule, s, 100).warmup); /* 16 .. 25 has four fast ones */
    fill(s, 20, 1.0199);
    DML_CHECK_EQ(30, train_phase_of(&rule, s, 100).warmup);
}

static void a_run_that_never_settles_is_timed_after_the_longest_warm_up_and_says_so(void **state)
{
    (void)state;
    double s[MOST];
    for (int i = 0; i < MOST; i++)
        s[i] = pow(1.003, i); /* 3 % a window */
    DML_CHECK_EQ(-1, train_phase_of(&rule, s, 99).warmup);
    const train_phase p = train_phase_of(&rule, s, 150);
    DML_CHECK(p.warmup == 100 && !p.settled && p.timed == 50 && p.done);
}

static void time_ends_the_warm_up_at_half_and_the_run_at_its_end(void **state)
{
    (void)state;
    double s[MOST];
    fill(s, 0, 1.0);
    const train_rule hasty = {
        .window = 10, .most_warmup = 100, .steps = 50, .tolerance = 0.02, .seconds = 20};
    train_phase p = train_phase_of(&hasty, s, 100);
    DML_CHECK(p.warmup == 10 && !p.settled && p.timed == 10 && p.done);
    fill(s, 0, 30.0); /* one step is more than all of the time */
    p = train_phase_of(&hasty, s, 2);
    DML_CHECK(p.warmup == 1 && p.timed == 1 && p.done);
}

static void a_growing_file_is_read_on_from_where_it_was_left_in_whole_lines(void **state)
{
    (void)state;
    char path[] = "/tmp/dml-test-follow-XXXXXX";
    const int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    DML_CHECK(f);
    train_run run = {0};
    long at = 0;
    train_run_read(path, &at, &run);
    DML_CHECK_EQ(0, run.n);
    fputs("{\"type\":\"plan\",\"stages\":2}\n{\"type\":\"step\",\"step_time_s\":0.5,\"loss\":3.0}\n"
          "{\"type\":\"step\",\"step_time_s\":",
          f);
    fflush(f);
    train_run_read(path, &at, &run);
    train_run_read(path, &at, &run);
    DML_CHECK_EQ(1, run.n);
    fputs("0.25,\"loss\":null,\"loss_nonfinite\":\"nan\"}\n", f);
    fclose(f);
    train_run_read(path, &at, &run);
    DML_CHECK_EQ(2, run.n);
    DML_CHECK(run.step_s[0] == 0.5 && run.step_s[1] == 0.25 && run.loss[0] == 3.0);
    DML_CHECK(isnan(run.loss[1]));
    DML_CHECK_EQ(2, json_object_size(run.records));
    train_run_free(&run);
    unlink(path);
}

static void a_recorded_run_has_all_its_steps_and_its_end(void **state)
{
    (void)state;
    train_run run = {0};
    long at = 0;
    train_run_read(DML_SOURCE_DIR "/tests/bench/recorded.jsonl", &at, &run);
    DML_CHECK_EQ(45, run.n);
    DML_CHECK(train_number(json_object_get(run.records, "run_end"), "steps") == 45);
    const train_phase p = train_phase_of(&rule, run.step_s, run.n);
    DML_CHECK(p.warmup >= 30 && !p.done);
    train_run_free(&run);
}

/* Shell scripts stand in for dml-train: $0 is the folder it is to write to. */
static void run_script(const char *script, const char *folder, train_run *run)
{
    const train_rule quick = {
        .window = 1, .most_warmup = 5, .steps = 4, .tolerance = 0.02, .seconds = 10};
    const char *const argv[] = {"/bin/sh", "-c", script, folder, NULL};
    DML_CHECK_OK(train_run_start(argv, folder, &quick, run));
}

static void a_run_is_stopped_when_enough_was_seen_and_failures_are_told(void **state)
{
    (void)state;
    char folder[] = "/tmp/dml-test-follow-XXXXXX", path[64];
    DML_CHECK(mkdtemp(folder));
    train_run run;
    run_script(
        "for i in 1 2 3 4 5 6 7; do echo '{\"type\":\"step\",\"step_time_s\":0.1,\"loss\":1}';"
        " done >$0/metrics.jsonl; exec sleep 100",
        folder, &run);
    DML_CHECK_EQ(128 + 15, run.code);
    DML_CHECK(!run.why[0] && run.phase.warmup == 3 && run.phase.timed == 4);
    train_run_free(&run);
    run_script("echo no such key; exit 2", folder, &run);
    DML_CHECK_EQ(2, run.code);
    assert_string_equal("no such key\n", run.why);
    train_run_free(&run);
    run_script("exit 0", folder, &run); /* and the metrics of the run before are not its own */
    DML_CHECK(strstr(run.why, "its 0 steps"));
    train_run_free(&run);
    snprintf(path, sizeof path, "%s/log", folder);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steady_steps_settle_after_three_windows),
        cmocka_unit_test(steps_after_the_last_that_counts_do_not),
        cmocka_unit_test(slow_windows_put_the_end_of_the_warm_up_off),
        cmocka_unit_test(windows_that_differ_by_two_per_cent_do_not_agree),
        cmocka_unit_test(a_run_that_never_settles_is_timed_after_the_longest_warm_up_and_says_so),
        cmocka_unit_test(time_ends_the_warm_up_at_half_and_the_run_at_its_end),
        cmocka_unit_test(a_growing_file_is_read_on_from_where_it_was_left_in_whole_lines),
        cmocka_unit_test(a_recorded_run_has_all_its_steps_and_its_end),
        cmocka_unit_test(a_run_is_stopped_when_enough_was_seen_and_failures_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
