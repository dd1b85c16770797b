/* tests/bench/test_train_judge.c - a row from recorded runs, and rows against each other and an earlier result. */
#include "tests/support/test.h"

#include "bench/bench.h"
#include "bench/train.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- a row ---- */

static void read_recorded(train_run *run)
{
    static const train_rule rule = {
        .window = 10, .most_warmup = 30, .steps = 10, .tolerance = 0.5, .seconds = 1000};
    long at = 0;
    *run = (train_run){0};
    train_run_read(DML_SOURCE_DIR "/tests/bench/recorded.jsonl", &at, run);
    run->phase = train_phase_of(&rule, run->step_s, run->n);
    DML_CHECK_EQ(30, run->phase.warmup);
}

static void a_row_is_the_timed_steps_of_all_runs_and_the_records_of_the_last(void **state)
{
    (void)state;
    train_run run[2];
    for (int i = 0; i < 2; i++)
        read_recorded(&run[i]);
    for (int i = 0; i < 45; i++) {
        run[0].step_s[i] = i < 30 ? 9.0 : i < 40 ? 0.5 : 7.0; /* only 30 .. 39 count */
        run[1].step_s[i] = i < 30 ? 9.0 : i < 40 ? 0.4 : 7.0;
    }
    const train_spec spec = {.flops = 1e9, .peak_flop_s = 1e11, .on_host = true, .cores = 2};
    json_t *row = train_row_of("1x2", "weak", &spec, run, 2, 20);
    DML_CHECK_EQ(20, train_number(row, "step_s.n"));
    DML_CHECK(train_number(row, "step_s.median") == 0.4 && train_number(row, "step_s.p95") == 0.5);
    DML_CHECK(fabs(train_number(row, "spread_ratio") - 0.25) < 1e-12);
    DML_CHECK(train_number(row, "global_batch") == 32 && train_number(row, "devices") == 2);
    DML_CHECK(train_number(row, "samples_per_second") == 32 / 0.4);
    DML_CHECK(train_number(row, "samples_per_second_per_device") == 16 / 0.4);
    DML_CHECK(train_number(row, "planned_step_s") == 0.288000232);
    DML_CHECK(train_number(row, "predicted_step_s") == 0.29785670000000003);
    DML_CHECK(fabs(train_number(row, "mfu_ratio") - 32 / 0.4 * 1e9 / 2e11) < 1e-12); /* two cores */
    DML_CHECK(isnan(train_number(row, "overhead_ratio"))); /* two workers wait for each other */
    DML_CHECK(train_number(row, "loss") == run[0].loss[19]);
    DML_CHECK(json_is_true(json_object_get(row, "loss_repeats")));
    assert_string_equal("1f1b", train_text(row, "schedule"));
    json_decref(row);
    run[1].loss[19] += 1e-15;
    row = train_row_of("1x2", "weak", &spec, run, 2, 20);
    DML_CHECK(json_is_false(json_object_get(row, "loss_repeats")));
    json_decref(row);
    row = train_row_of("1x2", "weak", &spec, run, 2, 46); /* a step that it never made */
    DML_CHECK(isnan(train_number(row, "loss")));
    json_decref(row);
    for (int i = 0; i < 2; i++)
        train_run_free(&run[i]);
}

static void the_peak_is_of_the_cores_that_work_or_of_the_devices(void **state)
{
    (void)state;
    train_spec spec = {.peak_flop_s = 100, .on_host = true, .cores = 8};
    DML_CHECK(train_peak_flop_s(&spec, 1) == 800 && train_peak_flop_s(&spec, 3) == 600);
    DML_CHECK(train_peak_flop_s(&spec, 16) == 800); /* workers share cores */
    spec.threads = 2;
    DML_CHECK(train_peak_flop_s(&spec, 1) == 200 && train_peak_flop_s(&spec, 3) == 600);
    spec.on_host = false;
    DML_CHECK(train_peak_flop_s(&spec, 16) == 1600);
    spec.emulated = true;
    DML_CHECK(isnan(train_peak_flop_s(&spec, 1))); /* sleep is no work */
    DML_CHECK(isnan(train_peak_flop_s(&(train_spec){0}, 1)));
}

/* ---- rows ---- */

static json_t *row_of(const char *layout, int devices, int batch, double rate, double loss)
{
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:b, s:b}", "layout", layout,
                     "scaling", "strong", "schedule", "1f1b", "devices", devices, "global_batch",
                     batch, "micro_batch", 4, "samples_per_second", rate, "loss", loss,
                     "loss_repeats", 1, "asynchronous", 0);
}

static json_t *three_rows(void)
{
    json_t *rows = json_array();
    json_array_append_new(rows, row_of("1x2", 2, 32, 180, 2.0));
    json_array_append_new(rows, row_of("1x1", 1, 32, 100, 2.0));
    json_array_append_new(rows, row_of("4x1", 4, 32, 300, 2.001));
    return rows;
}

static double at(const json_t *rows, size_t i, const char *field)
{
    return train_number(json_array_get(rows, i), field);
}

static void speed_up_and_efficiency_are_against_one_device_of_the_same_scaling(void **state)
{
    (void)state;
    json_t *rows = three_rows(), *weak = row_of("1x8", 8, 256, 700, 1.0);
    json_object_set_new(weak, "scaling", json_string("weak"));
    json_array_append_new(rows, weak);
    train_compare(rows);
    DML_CHECK(at(rows, 0, "speed_up") == 1.8 && at(rows, 0, "efficiency") == 0.9);
    DML_CHECK(at(rows, 1, "speed_up") == 1.0 && at(rows, 2, "efficiency") == 0.75);
    DML_CHECK(isnan(at(rows, 3, "speed_up"))); /* no weak row of one device */
    int32_t judged;
    DML_CHECK(train_least(rows, false, &judged) == 0.75);
    DML_CHECK_EQ(3, judged);
    train_least(rows, true, &judged);
    DML_CHECK_EQ(0, judged);
    json_decref(rows);
}

static bool agrees(const json_t *rows, size_t i)
{
    return json_is_true(json_object_get(json_array_get(rows, i), "loss_agrees"));
}

static void losses_of_equal_batch_agree_to_a_thousandth_or_to_the_bit(void **state)
{
    (void)state;
    json_t *rows = three_rows();
    json_array_append_new(rows, row_of("1x4", 4, 64, 300, 1.0)); /* another batch */
    DML_CHECK_EQ(0, train_check_losses(rows, false));
    DML_CHECK_EQ(1, train_check_losses(rows, true));
    DML_CHECK(agrees(rows, 1) && !agrees(rows, 2) && agrees(rows, 3));
    json_object_set_new(json_array_get(rows, 2), "loss", json_real(2.0021));
    DML_CHECK_EQ(1, train_check_losses(rows, false));
    json_object_set_new(json_array_get(rows, 2), "loss", json_null()); /* nan */
    DML_CHECK_EQ(1, train_check_losses(rows, false));
    json_object_set_new(json_array_get(rows, 2), "asynchronous", json_true());
    DML_CHECK_EQ(0, train_check_losses(rows, false));
    json_object_set_new(json_array_get(rows, 1), "loss_repeats", json_false());
    DML_CHECK_EQ(1, train_check_losses(rows, false));
    json_decref(rows);
}

/* ---- an earlier result ---- */

static const char *write_earlier(const char *hash)
{
    static char path[] = "/tmp/dml-test-judge.json";
    json_t *rows = three_rows();
    json_object_set_new(json_array_get(rows, 0), "samples_per_second", json_real(200));
    json_object_set_new(json_array_get(rows, 2), "schedule", json_string("gpipe"));
    json_t *root = json_pack("{s:s, s:o}", "spec_hash", hash, "rows", rows);
    DML_CHECK_OK(bench_write(root, path));
    json_decref(root);
    return path;
}

static void rows_are_compared_with_the_same_rows_of_an_earlier_result(void **state)
{
    (void)state;
    const char *file = write_earlier("abc");
    json_t *rows = three_rows();
    int32_t judged;
    DML_CHECK_OK(train_add_baseline(rows, "abc", file));
    DML_CHECK(at(rows, 0, "baseline_ratio") == 0.9 && at(rows, 1, "baseline_ratio") == 1.0);
    DML_CHECK(isnan(at(rows, 2, "baseline_ratio"))); /* it had another schedule then */
    DML_CHECK(train_least(rows, true, &judged) == 0.9);
    DML_CHECK_EQ(2, judged);
    DML_CHECK_FAILS(DML_ERR_DATA, "another spec", train_add_baseline(rows, "abd", file));
    DML_CHECK_FAILS(DML_ERR_DATA, "/no/such.json",
                    train_add_baseline(rows, "abc", "/no/such.json"));
    FILE *f = fopen(file, "w");
    fputs("[]", f);
    fclose(f);
    DML_CHECK_FAILS(DML_ERR_DATA, "no result of dml-bench train",
                    train_add_baseline(rows, "abc", file));
    unlink(file);
    json_decref(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_the_timed_steps_of_all_runs_and_the_records_of_the_last),
        cmocka_unit_test(the_peak_is_of_the_cores_that_work_or_of_the_devices),
        cmocka_unit_test(speed_up_and_efficiency_are_against_one_device_of_the_same_scaling),
        cmocka_unit_test(losses_of_equal_batch_agree_to_a_thousandth_or_to_the_bit),
        cmocka_unit_test(rows_are_compared_with_the_same_rows_of_an_earlier_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
