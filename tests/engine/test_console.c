/* tests/engine/test_console.c - the leader's output, character by character. */
#include "tests/support/test.h"

#include "engine/console.h"

#include <math.h>
#include <stdlib.h>

#define UNKNOWN ((double)NAN)

static const dml_console_env file_env = {.dumb = true};
static const dml_console_env tty_env = {.tty = true, .columns = 200};

/* A console that writes into memory. */
typedef struct rig {
    dml_console_view view;
    FILE *file;
    char *text;
    size_t size;
} rig;

static void rig_open(rig *r, dml_console mode, int64_t interval, dml_console_env env)
{
    *r = (rig){0};
    r->file = open_memstream(&r->text, &r->size);
    DML_CHECK(r->file != NULL);
    r->view = dml_console_open(r->file, mode, interval, env);
    r->view.redraw_ns = 0;
}

static void rig_close(rig *r)
{
    fclose(r->file);
    free(r->text);
}

static void check_text(rig *r, const char *want)
{
    fflush(r->file);
    assert_string_equal(r->text, want);
    rig_close(r);
}

static dml_step_record step_of(int64_t step)
{
    return (dml_step_record){.step = step,
                             .total_steps = 18865,
                             .loss = 5.12345,
                             .grad_norm = 0.8123,
                             .lr = 6e-4,
                             .step_time_s = 0.2874,
                             .samples = 524,
                             .samples_per_second = 1824.4,
                             .bubble_ratio = 0.091,
                             .eta_s = 5387};
}

static void a_step_is_one_line_in_fixed_order(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 1, file_env);
    const dml_step_record s = step_of(120);
    dml_console_step(&r.view, &s);
    check_text(&r, "step 120/18865 | loss 5.12345 | gnorm 0.8123 | lr 6.00e-04 | 287.4 ms | "
                   "1824 samples/s | bubble 9.1% | eta 1h29m\n");
}

static void unknown_figures_are_left_out_and_odd_ones_are_printed(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 1, file_env);
    dml_step_record s = step_of(2);
    s.bubble_ratio = s.eta_s = UNKNOWN;
    s.loss = UNKNOWN;
    s.grad_norm = (double)INFINITY;
    dml_console_step(&r.view, &s);
    s.loss = s.grad_norm = 1e300;
    s.samples_per_second = (double)INFINITY;
    dml_console_step(&r.view, &s);
    check_text(&r, "step 2/18865 | loss nan | gnorm inf | lr 6.00e-04 | 287.4 ms | 1824 samples/s\n"
                   "step 2/18865 | loss 1.00000e+300 | gnorm 1.0000e+300 | lr 6.00e-04 | 287.4 ms "
                   "| ? samples/s\n");
}

static int lines_in(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void lines_come_at_the_interval_the_first_and_the_last_step(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_LINE, 10, file_env);
    for (int64_t step = 1; step <= 35; step++) {
        dml_step_record s = step_of(step);
        s.total_steps = 35;
        dml_console_step(&r.view, &s);
    }
    fflush(r.file);
    DML_CHECK_EQ(5, lines_in(r.text));
    DML_CHECK(strstr(r.text, "step 1/35") && strstr(r.text, "step 30/35"));
    DML_CHECK(strstr(r.text, "step 35/35"));
    rig_close(&r);
}

/* Everything there is, in every mode that is not a terminal's. */
static void print_all(dml_console_view *v)
{
    const dml_run_start_record run = {.run = "x",
                                      .output_dir = "runs/x",
                                      .model = "mlp",
                                      .data = "synthetic",
                                      .parameters = 11173962,
                                      .backend = "cpu",
                                      .numerics = "fast",
                                      .global_batch_size = 256,
                                      .micro_batch_size = 32,
                                      .num_microbatches = 8};
    const dml_plan_record plan = {.schedule = "1f1b", .predicted_step_time_s = 1};
    const dml_stage_figures stage = {.workers = "0,1", .parameters = 5000000};
    const dml_step_record step = step_of(1);
    const dml_eval_record eval = {.samples = 10000};
    const dml_failure_record failure = {.cause = "one\ntwo"};
    const dml_run_end_record end = {.status = "finished", .weights_hash = "00"};
    const dml_worker_figures worker = {.place = ""};
    dml_console_header(v, &run, &plan, &stage, 1);
    dml_console_step(v, &step);
    dml_console_eval(v, &eval);
    dml_console_note(v, "note %d", 1);
    dml_console_failures(v, &failure, 1);
    dml_console_summary(v, &end, &worker, 1);
}

static void away_from_a_terminal_there_are_plain_lines_only(void **state)
{
    (void)state;
    const dml_console mode[] = {DML_CONSOLE_AUTO, DML_CONSOLE_LINE, DML_CONSOLE_BAR};
    for (size_t i = 0; i < sizeof mode / sizeof *mode; i++) {
        rig r;
        rig_open(&r, mode[i], 1, file_env);
        print_all(&r.view);
        fflush(r.file);
        DML_CHECK(strpbrk(r.text, "\r\x1b") == NULL);
        DML_CHECK(strstr(r.text, "11173962") && strstr(r.text, "0/10000"));
        DML_CHECK(r.text[r.size - 1] == '\n');
        rig_close(&r);
    }
}

static void the_bar_is_for_terminals_that_somebody_watches(void **state)
{
    (void)state;
    static const struct {
        dml_console mode;
        dml_console_env env;
        bool bar, color;
    } known[] = {
        {DML_CONSOLE_AUTO, {.tty = true}, true, true},
        {DML_CONSOLE_AUTO, {.tty = true, .no_color = true}, true, false},
        {DML_CONSOLE_AUTO, {.tty = true, .ci = true}, false, true},
        {DML_CONSOLE_AUTO, {.tty = true, .dumb = true}, false, false},
        {DML_CONSOLE_AUTO, {.tty = false}, false, false},
        {DML_CONSOLE_LINE, {.tty = true}, false, true},
        {DML_CONSOLE_BAR, {.tty = true, .ci = true}, true, true},
        {DML_CONSOLE_BAR, {.tty = false}, false, false},
        {DML_CONSOLE_BAR, {.tty = true, .dumb = true}, false, false},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const dml_console_view v = dml_console_open(stderr, known[i].mode, 1, known[i].env);
        DML_CHECK_EQ(known[i].bar, v.bar);
        DML_CHECK_EQ(known[i].color, v.color);
    }
}

static void the_environment_is_read_from_the_usual_variables(void **state)
{
    (void)state;
    setenv("TERM", "dumb", 1);
    setenv("CI", "true", 1);
    setenv("NO_COLOR", "", 1);
    FILE *f = tmpfile();
    dml_console_env env = dml_console_env_of(f);
    DML_CHECK(!env.tty && env.dumb && env.ci && !env.no_color);
    setenv("TERM", "xterm", 1);
    unsetenv("CI");
    setenv("NO_COLOR", "1", 1);
    env = dml_console_env_of(f);
    DML_CHECK(!env.tty && !env.dumb && !env.ci && env.no_color);
    fclose(f);
}

static void the_bar_is_redrawn_in_place_and_gives_way_to_lines(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 50, tty_env);
    dml_step_record s = step_of(5);
    s.total_steps = 10;
    s.bubble_ratio = s.eta_s = UNKNOWN;
    dml_console_step(&r.view, &s);
    dml_console_note(&r.view, "hello");
    s.step = 10;
    dml_console_step(&r.view, &s);
    check_text(&r, "\r\x1b[K[##########..........]  50% step 5/10 | loss 5.12345 | gnorm 0.8123 | "
                   "lr 6.00e-04 | 287.4 ms | 1,824 samples/s"
                   "\r\x1b[Khello\n"
                   "\r\x1b[K[####################] 100% step 10/10 | loss 5.12345 | gnorm 0.8123 | "
                   "lr 6.00e-04 | 287.4 ms | 1,824 samples/s\n");
}

static void the_bar_fits_the_terminal_and_is_not_drawn_too_often(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 1, (dml_console_env){.tty = true, .columns = 30});
    r.view.redraw_ns = INT64_C(3600000000000);
    r.view.drawn_ns = -r.view.redraw_ns;
    for (int64_t step = 1; step < 100; step++) {
        const dml_step_record s = step_of(step);
        dml_console_step(&r.view, &s);
    }
    check_text(&r, "\r\x1b[K[....................]   0% s");
}

static void quiet_leaves_failures_only(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_QUIET, 1, tty_env);
    print_all(&r.view);
    fflush(r.file);
    DML_CHECK(strstr(r.text, "FAILED: rank 0") && !strstr(r.text, "step 1/"));
    DML_CHECK(!strstr(r.text, "hello") && !strstr(r.text, "finished"));
    rig_close(&r);
}

static void an_evaluation_is_a_line(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_LINE, 1, (dml_console_env){.tty = true});
    const dml_eval_record e = {.step = 234,
                               .loss = 0.34567,
                               .accuracy_ratio = 0.8812,
                               .correct = 8812,
                               .samples = 10000,
                               .eval_time_s = 1.24};
    dml_console_eval(&r.view, &e);
    check_text(&r, "eval after step 234 | test loss 0.34567 | test accuracy 88.12% (8,812/10,000) "
                   "| 1.2s\n");
}

static void the_header_says_what_runs_and_how_it_is_laid_out(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_LINE, 1, file_env);
    dml_run_start_record run = {.run = "mlp",
                                .output_dir = "runs/mlp",
                                .backend = "cpu",
                                .numerics = "exact",
                                .model = "mlp",
                                .layers = 8,
                                .parameters = 2913290,
                                .data = "idx fashion-mnist",
                                .train_samples = 60000,
                                .test_samples = 10000,
                                .global_batch_size = 250,
                                .micro_batch_size = 32,
                                .num_microbatches = 8,
                                .total_steps = 2400,
                                .epochs = 10};
    const dml_plan_record plan = {.schedule = "1f1b",
                                  .pipeline_parallel_size = 2,
                                  .data_parallel_size = 2,
                                  .predicted_step_time_s = 0.0791,
                                  .predicted_bubble_ratio = 0.111,
                                  .costs = "profile net.json of 2026-01-02"};
    const dml_stage_figures stages[] = {{.stage = 0,
                                         .first_layer = 0,
                                         .last_layer = 3,
                                         .workers = "0,2",
                                         .parameters = 803840,
                                         .flops_share = 0.4,
                                         .memory_bytes = 13 << 20},
                                        {.stage = 1,
                                         .first_layer = 4,
                                         .last_layer = 7,
                                         .workers = "1,3",
                                         .parameters = 2109450,
                                         .flops_share = 0.6,
                                         .memory_bytes = INT64_C(5) << 30}};
    dml_console_header(&r.view, &run, &plan, stages, 2);
    run.global_batch_size = 256;
    dml_console_header(&r.view, &run, &plan, NULL, 0);
    fflush(r.file);
    char *second = strstr(r.text + 1, "  run ");
    DML_CHECK(strstr(second, "batch        256 samples = 8 micro-batches x 32\n"));
    *second = '\0';
    assert_string_equal(r.text,
                        "  run          mlp -> runs/mlp\n"
                        "  model        mlp, 8 layers, 2913290 parameters\n"
                        "  data         idx fashion-mnist, 60000 training and 10000 test samples\n"
                        "  layout       pp 2 x dp 2, schedule 1f1b, backend cpu, numerics exact\n"
                        "  batch        250 samples = 8 micro-batches, 7 x 32 + 26\n"
                        "  length       2400 steps, 10 epochs\n"
                        "  stage  layers     workers          parameters   work      memory\n"
                        "      0  0-3        0,2                  803840    40%    13.0 MiB\n"
                        "      1  4-7        1,3                 2109450    60%     5.0 GiB\n"
                        "  planned      79.1 ms a step, bubble 11.1%, by profile net.json of "
                        "2026-01-02\n");
    rig_close(&r);
}

static void the_root_cause_comes_first_whatever_the_order_of_the_reports(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 1, file_env);
    const dml_failure_record failures[] = {
        {.t_fault_s = 12.5,
         .t_detect_s = 12.6,
         .rank = 1,
         .stage = 1,
         .pid = 41,
         .exit_code = 6,
         .cause = "nothing for 1.0 s while waiting for the activations of micro-batch 3\n  in x"},
        {.t_fault_s = 12.25,
         .t_detect_s = 12.375,
         .detected_by = "exit status",
         .rank = 3,
         .stage = 2,
         .replica = 1,
         .pid = 43,
         .host = "node7",
         .signal = 9,
         .exit_code = -1,
         .step = 120,
         .last_action = "F chunk 2 micro-batch 5",
         .cause = "first\nsecond"},
        {.t_fault_s = 12.5, .rank = 2, .stage = 2, .pid = 42, .exit_code = -1},
    };
    dml_console_failures(&r.view, failures, 3);
    check_text(&r, "FAILED: rank 3 was killed by signal 9 (SIGKILL)\n"
                   "  time         12.250 s into the run, noticed after 0.125 s by exit status\n"
                   "  worker       rank 3, pid 43 on node7\n"
                   "  place        stage 2, replica 1, step 120\n"
                   "  last done    F chunk 2 micro-batch 5\n"
                   "  cause        first\n"
                   "               second\n"
                   "  then at 12.500 s rank 1 (stage 1, pid 41) exited with code 6: nothing for "
                   "1.0 s while waiting for the activations of micro-batch 3\n"
                   "  then at 12.500 s rank 2 (stage 2, pid 42) stopped answering\n");
}

static void the_summary_shows_predicted_beside_measured(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, DML_CONSOLE_AUTO, 1, file_env);
    const dml_run_end_record end = {.status = "finished",
                                    .steps = 2344,
                                    .samples = 600064,
                                    .train_time_s = 192,
                                    .samples_per_second = 3125.3,
                                    .step_time_median_s = 0.0812,
                                    .step_time_p95_s = 0.0901,
                                    .planned_step_time_s = 0.0775,
                                    .predicted_step_time_s = 0.0798,
                                    .bubble_ratio = 0.103,
                                    .predicted_bubble_ratio = 0.091,
                                    .loss = 0.21,
                                    .test_loss = 0.2412,
                                    .test_accuracy_ratio = 0.9123,
                                    .weights_hash = "0123456789abcdef",
                                    .memory_peak_bytes = 21 << 20,
                                    .failures = 1};
    const dml_worker_figures workers[] = {{.worker = 0,
                                           .place = " 0.0",
                                           .planned_step_s = 0.078,
                                           .planned_bubble_ratio = 0.0875,
                                           .predicted_step_s = 0.0798,
                                           .measured_step_s = 0.0812,
                                           .predicted_bubble_ratio = 0.091,
                                           .measured_bubble_ratio = 0.103,
                                           .predicted_stash = 4,
                                           .measured_stash = 4,
                                           .predicted_exposed_s = 0.0025,
                                           .measured_exposed_s = 0.0031,
                                           .stash_bytes = 5 << 20},
                                          {.worker = 1,
                                           .place = " 1.0",
                                           .planned_step_s = UNKNOWN,
                                           .planned_bubble_ratio = UNKNOWN,
                                           .predicted_step_s = UNKNOWN,
                                           .measured_step_s = 0.0811,
                                           .predicted_bubble_ratio = UNKNOWN,
                                           .measured_bubble_ratio = 0.1,
                                           .predicted_exposed_s = UNKNOWN,
                                           .measured_exposed_s = UNKNOWN,
                                           .stash_bytes = 900}};
    dml_console_summary(&r.view, &end, workers, 2);
    check_text(
        &r,
        "  finished     2344 steps, 600064 samples in 3m12s, 3125 samples/s\n"
        "  step time    median 81.2 ms, p95 90.1 ms, planned 77.5 ms, predicted 79.8 ms\n"
        "  bubble       10.3%, predicted 9.1%\n"
        "                        planned           predicted                    measured\n"
        "  worker  stage    step ms  bubble    step ms  bubble  stash    step ms  bubble  stash   "
        "stash memory   exposed ms  predicted\n"
        "       0   0.0        78.0    8.8%       79.8    9.1%      4       81.2   10.3%      4   "
        "     5.0 MiB          3.1        2.5\n"
        "       1   1.0           -       -          -       -      0       81.1   10.0%      0   "
        "       900 B            -          -\n"
        "  last loss    0.21000\n"
        "  test         accuracy 91.23%, loss 0.24120\n"
        "  memory peak  21.0 MiB\n"
        "  weights      0123456789abcdef\n"
        "  failures     1\n");
}

static void durations_have_two_units_at_most(void **state)
{
    (void)state;
    static const struct {
        double s;
        const char *text;
    } known[] = {{0.04, "eta 0.0s\n"},    {9.94, "eta 9.9s\n"}, {9.96, "eta 10s\n"},
                 {59.6, "eta 1m00s\n"},   {192, "eta 3m12s\n"}, {5387, "eta 1h29m\n"},
                 {183600, "eta 2d03h\n"}, {-1, "eta ?\n"},      {(double)INFINITY, "eta ?\n"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        rig r;
        rig_open(&r, DML_CONSOLE_LINE, 1, file_env);
        dml_step_record s = step_of(1);
        s.eta_s = known[i].s;
        dml_console_step(&r.view, &s);
        fflush(r.file);
        assert_string_equal(strstr(r.text, "eta"), known[i].text);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_one_line_in_fixed_order),
        cmocka_unit_test(unknown_figures_are_left_out_and_odd_ones_are_printed),
        cmocka_unit_test(lines_come_at_the_interval_the_first_and_the_last_step),
        cmocka_unit_test(away_from_a_terminal_there_are_plain_lines_only),
        cmocka_unit_test(the_bar_is_for_terminals_that_somebody_watches),
        cmocka_unit_test(the_environment_is_read_from_the_usual_variables),
        cmocka_unit_test(the_bar_is_redrawn_in_place_and_gives_way_to_lines),
        cmocka_unit_test(the_bar_fits_the_terminal_and_is_not_drawn_too_often),
        cmocka_unit_test(quiet_leaves_failures_only),
        cmocka_unit_test(an_evaluation_is_a_line),
        cmocka_unit_test(the_header_says_what_runs_and_how_it_is_laid_out),
        cmocka_unit_test(the_root_cause_comes_first_whatever_the_order_of_the_reports),
        cmocka_unit_test(the_summary_shows_predicted_beside_measured),
        cmocka_unit_test(durations_have_two_units_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
