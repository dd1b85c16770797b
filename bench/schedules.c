/* bench/schedules.c - what making a program costs: lower, check, simulate, on one core.
 *
 * A planner does this once for every plan that it prices, so thousands of workers must take seconds.
 */
#include "bench/bench.h"

#include "engine/base/clock.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct instance {
    const char *schedule;
    int32_t stages, virtual_stages, mbs;
    bool large; /* only with --large: gigabytes */
} instance;

static const instance instances[] = {
    {"1f1b", 64, 1, 512, false},
    {"interleaved_1f1b", 64, 4, 512, false},
    {"interleaved_zb", 64, 4, 512, false},
    {"1f1b", 1024, 1, 4096, true},
};
enum { INSTANCES = sizeof instances / sizeof *instances, MOST_REPEATS = 99 };

typedef struct options {
    int repeats;
    bool large;
    const char *json;
} options;

typedef struct times {
    double lower_s, check_s, simulate_s;
    int64_t ops;
} times;

static dml_err make(const dml_program *order, const dml_cost *cost, times *out)
{
    dml_program program;
    dml_sim sim;
    const int64_t begin_ns = dml_clock_ns();
    DML_TRY(dml_lower(order, cost, &program));
    const int64_t lowered_ns = dml_clock_ns();
    dml_err err = dml_check(&program, NULL);
    const int64_t checked_ns = dml_clock_ns();
    if (err == DML_ERR_OK && (err = dml_simulate(&program, cost, &sim)) == DML_ERR_OK) {
        *out = (times){.lower_s = (double)(lowered_ns - begin_ns) * 1e-9,
                       .check_s = (double)(checked_ns - lowered_ns) * 1e-9,
                       .simulate_s = (double)(dml_clock_ns() - checked_ns) * 1e-9,
                       .ops = dml_program_ops(&program)};
        dml_sim_free(&sim);
    }
    dml_program_free(&program);
    return err;
}

static dml_err repeat(const instance *in, const options *o, bench_spread *all, times *last)
{
    const dml_schedule *schedule;
    const dml_schedule_args args = {
        .stages = in->stages, .virtual_stages = in->virtual_stages, .mbs = in->mbs};
    dml_program order;
    dml_cost cost;
    double total[MOST_REPEATS];
    DML_TRY(dml_schedule_find(in->schedule, &schedule));
    DML_TRY(dml_schedule_build(schedule, &args, &order));
    dml_err err = dml_cost_uniform(&cost, order.chunks, 10000, 10000, 10000);
    cost.links.outer.latency_ns = 1000;
    for (int i = 0; i < o->repeats && err == DML_ERR_OK; i++) {
        err = make(&order, &cost, last);
        total[i] = last->lower_s + last->check_s + last->simulate_s;
    }
    if (err == DML_ERR_OK) *all = bench_spread_of(total, o->repeats);
    dml_cost_free(&cost);
    dml_program_free(&order);
    return err;
}

static dml_err measure(const options *o, json_t *rows)
{
    printf("%-18s %6s %3s %6s %10s %8s %8s %9s %8s\n", "schedule", "stages", "v", "mbs", "ops",
           "lower s", "check s", "simulate", "all s");
    for (int i = 0; i < INSTANCES; i++) {
        const instance *in = &instances[i];
        bench_spread all = {0};
        times t = {0};
        if (in->large && !o->large) continue;
        DML_TRY(repeat(in, o, &all, &t));
        printf("%-18s %6d %3d %6d %10lld %8.2f %8.2f %9.2f %8.2f\n", in->schedule, in->stages,
               in->virtual_stages, in->mbs, (long long)t.ops, t.lower_s, t.check_s, t.simulate_s,
               all.median);
        json_array_append_new(rows, json_pack("{s:s, s:i, s:i, s:i, s:I, s:f, s:f, s:f}",
                                              "schedule", in->schedule, "stages", in->stages,
                                              "virtual_stages", in->virtual_stages, "mbs", in->mbs,
                                              "ops", (json_int_t)t.ops, "median_s", all.median,
                                              "low_s", all.low, "high_s", all.high));
    }
    return DML_ERR_OK;
}

static const struct argp_option argp_options[] = {
    {"repeats", 'n', "N", 0, "of each, 1 to 99 (default 5)", 0},
    {"large", 'l', NULL, 0, "1,024 stages and 4,096 micro-batches too: 12 GB", 0},
    {"json", 'J', "FILE", 0, "write the figures", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'n':
        o->repeats = atoi(arg);
        if (o->repeats < 1 || o->repeats > MOST_REPEATS) argp_error(state, "-n %s: 1 to 99", arg);
        return 0;
    case 'l': o->large = true; return 0;
    case 'J': o->json = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int dml_bench_schedules(int argc, char **argv)
{
    static const struct argp argp = {
        argp_options, parse, NULL, "Times lowering, checking and simulating schedules.",
        NULL,         NULL,  NULL};
    options o = {.repeats = 5};
    if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0) return dml_err_exit_code(DML_ERR_SPEC);
    json_t *rows = json_array();
    dml_err err = measure(&o, rows);
    json_t *root = json_pack("{s:o, s:s, s:i, s:o}", "environment", bench_environment(), "command",
                             "dml-bench schedules", "repeats", o.repeats, "runs", rows);
    if (err == DML_ERR_OK && o.json) err = bench_write(root, o.json);
    json_decref(root);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-bench: %s\n", dml_err_trail());
    return dml_err_exit_code(err);
}
