/* bench/train_row.c - the row of a layout, from all of its runs.
 *
 *   step_s       median, quartiles, p95, cv, n of all timed steps of all runs
 *   repeats_s    median step of each run; spread_ratio is their range over their median
 *   samples_per_second   global batch over the median of those medians
 *   overhead_ratio       on one worker, of which no time is waiting for another: 1 - compute time / step time
 */
#include "bench/bench.h"
#include "bench/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading rows ---- */

double train_number(const json_t *row, const char *path)
{
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        char part[TRAIN_WORD];
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        row = json_object_get(row, part);
    }
    const json_t *value = json_object_get(row, path);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

const char *train_text(const json_t *row, const char *field)
{
    const char *text = json_string_value(json_object_get(row, field));
    return text ? text : "";
}

/* ---- making one ---- */

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void set(json_t *row, const char *field, double value)
{
    json_object_set_new(row, field, real(value));
}

static void add_steps(json_t *row, const train_run *runs, int32_t n)
{
    int32_t all = 0;
    double median[TRAIN_REPEATS];
    json_t *repeats = json_array(), *warmups = json_array();
    bool settled = true;
    for (int32_t i = 0; i < n; i++)
        all += runs[i].phase.timed;
    double *step_s = malloc((size_t)all * sizeof *step_s);
    DML_ASSERT(step_s);
    all = 0;
    for (int32_t i = 0; i < n; i++) {
        const train_phase *p = &runs[i].phase;
        memcpy(step_s + all, runs[i].step_s + p->warmup, (size_t)p->timed * sizeof *step_s);
        median[i] = bench_spread_of(step_s + all, p->timed).median;
        all += p->timed;
        json_array_append_new(repeats, json_real(median[i]));
        json_array_append_new(warmups, json_integer(p->warmup));
        settled = settled && p->settled;
    }
    const bench_stats s = bench_stats_of(step_s, all), of_medians = bench_stats_of(median, n);
    free(step_s);
    json_object_set_new(row, "step_s",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "median", s.median, "low",
                                  s.low, "high", s.high, "p95", s.p95, "mean", s.mean, "cv", s.cv,
                                  "n", s.n));
    json_object_set_new(row, "repeats_s", repeats);
    set(row, "spread_ratio", (median[n - 1] - median[0]) / of_medians.median); /* sorted by now */
    json_object_set_new(row, "warmup_steps", warmups);
    json_object_set_new(row, "settled", json_boolean(settled));
    set(row, "samples_per_second", train_number(row, "global_batch") / of_medians.median);
    set(row, "samples_per_second_per_device",
        train_number(row, "samples_per_second") / train_number(row, "devices"));
}

/* The step's loss in full, and whether it was the same in all runs: one plan repeats bit for bit. */
static void add_loss(json_t *row, const train_run *runs, int32_t n, int32_t step)
{
    bool same = true;
    double loss = (double)NAN;
    for (int32_t i = 0; i < n; i++) {
        const double l = step <= runs[i].n ? runs[i].loss[step - 1] : (double)NAN;
        same = same && (i == 0 || l == loss);
        loss = l;
    }
    set(row, "loss", loss);
    json_object_set_new(row, "loss_step", json_integer(step));
    json_object_set_new(row, "loss_repeats", json_boolean(same));
}

static void copy(json_t *row, const char *as, const json_t *records, const char *type,
                 const char *field)
{
    set(row, as, train_number(json_object_get(records, type), field));
}

static void add_plan(json_t *row, const json_t *records)
{
    const json_t *start = json_object_get(records, "run_start"),
                 *plan = json_object_get(records, "plan");
    static const char *const numbers[][2] = {{"devices", "world_size"},
                                             {"pipeline", "pipeline_parallel_size"},
                                             {"replicas", "data_parallel_size"},
                                             {"stages", "stages"}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set(row, numbers[i][0], json_object_get(plan, numbers[i][1]));
    json_object_set(row, "global_batch", json_object_get(start, "global_batch_size"));
    json_object_set(row, "micro_batch", json_object_get(start, "micro_batch_size"));
    json_object_set(row, "backend", json_object_get(start, "backend"));
    json_object_set(row, "schedule", json_object_get(plan, "schedule"));
    json_object_set(row, "split", json_object_get(plan, "split"));
    json_object_set(row, "costs", json_object_get(plan, "costs"));
    json_object_set_new(row, "asynchronous",
                        json_boolean(json_object_get(plan, "versions") != NULL));
}

json_t *train_row_of(const char *layout, const char *scaling, const train_spec *spec,
                     const train_run *runs, int32_t n, int32_t loss_step)
{
    const json_t *records = runs[n - 1].records;
    json_t *row = json_pack("{s:s, s:s}", "layout", layout, "scaling", scaling);
    add_plan(row, records);
    add_steps(row, runs, n);
    copy(row, "planned_step_s", records, "plan", "predicted_step_time_s");
    copy(row, "predicted_step_s", records, "run_end", "predicted_step_time_s");
    copy(row, "planned_bubble_ratio", records, "plan", "predicted_bubble_ratio");
    copy(row, "predicted_bubble_ratio", records, "run_end", "predicted_bubble_ratio");
    copy(row, "bubble_ratio", records, "run_end", "bubble_ratio");
    copy(row, "exposed_comm_s", records, "run_end", "exposed_comm_s");
    copy(row, "predicted_exposed_comm_s", records, "run_end", "predicted_exposed_comm_s");
    copy(row, "memory_peak_bytes", records, "run_end", "memory_peak_bytes");
    set(row, "overhead_ratio",
        train_number(row, "devices") == 1 ? train_number(row, "bubble_ratio") : (double)NAN);
    set(row, "mfu_ratio",
        train_number(row, "samples_per_second") * spec->flops /
            train_peak_flop_s(spec, (int32_t)train_number(row, "devices")));
    add_loss(row, runs, n, loss_step);
    return row;
}
