/* bench/planner.c - what finding a placement costs on one core, up to 4,096 devices and 128 layers.
 *
 * Layers as a large network has them: times, outputs and parameters drawn around those of a transformer's block; nodes of
 * eight devices with fast links within.  Two solvers: engine/placement.h with memory limits and every device alike or of
 * two speeds, and PipeDream's recurrence (engine/partition_replicas.h) as it is published.
 */
#include "bench/bench.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/partition_replicas.h"
#include "engine/placement.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct instance {
    const char *name;
    int32_t layers, devices, node; /* node 0: all links alike */
    int32_t speeds;                /* 1 or 2 */
    dml_objective objective;
    bool recurrence;
} instance;

static const instance instances[] = {
    {"placement", 32, 8, 0, 2, DML_OBJECTIVE_THROUGHPUT, false},
    {"placement", 32, 8, 4, 2, DML_OBJECTIVE_THROUGHPUT, false},
    {"placement", 64, 64, 0, 1, DML_OBJECTIVE_THROUGHPUT, false},
    {"placement", 64, 64, 8, 1, DML_OBJECTIVE_THROUGHPUT, false},
    {"placement", 64, 64, 0, 2, DML_OBJECTIVE_THROUGHPUT, false},
    {"placement, memory", 64, 64, 8, 1, DML_OBJECTIVE_MEMORY, false},
    {"placement", 128, 4096, 8, 1, DML_OBJECTIVE_THROUGHPUT, false},
    {"recurrence", 64, 64, 8, 1, DML_OBJECTIVE_THROUGHPUT, true},
    {"recurrence", 128, 4096, 8, 1, DML_OBJECTIVE_THROUGHPUT, true},
};
enum { INSTANCES = sizeof instances / sizeof *instances, LAYERS = 128, DEVICES = 4096 };

typedef struct problem {
    dml_partition_layer layer[LAYERS];
    int64_t reduce_bytes[LAYERS];
    dml_placement_device device[DEVICES];
    dml_link_level level;
    dml_placement_problem p;
    dml_replica_layer simple[LAYERS];
} problem;

/* A third of a spread around `middle`. */
static int64_t around(int64_t middle, uint32_t word)
{
    return middle - middle / 6 + word % (middle / 3);
}

static void make(const instance *in, problem *x)
{
    const uint64_t key = dml_rng_key(1, DML_RNG_TEST, 1);
    uint32_t word[4];
    for (int32_t i = 0; i < in->layers; i++) {
        dml_rng_block(key, 0, (uint64_t)i, word);
        const int64_t ns = around(1000000, word[0]), params = around(400000000, word[1]);
        x->layer[i] = (dml_partition_layer){.name = "layer",
                                            .ns = {ns, ns, ns},
                                            .state_bytes = 4 * params,
                                            .stash_bytes = around(200000000, word[2]),
                                            .out_bytes = around(20000000, word[3]),
                                            .may_end_stage = true};
        x->reduce_bytes[i] = params;
        x->simple[i] =
            (dml_replica_layer){(double)(3 * ns), (double)x->layer[i].out_bytes, (double)params};
    }
    for (int32_t d = 0; d < in->devices; d++)
        x->device[d] = (dml_placement_device){in->speeds > 1 && d % 2 ? 0.5 : 1.0, (int64_t)80e9};
    x->level = (dml_link_level){in->node, {5000, 300e9}};
    x->p = (dml_placement_problem){
        .layer = x->layer,
        .reduce_bytes = x->reduce_bytes,
        .device = x->device,
        .links = {.outer = {10000, 40e9}, .levels = in->node > 0, .level = &x->level},
        .n_layers = in->layers,
        .n_devices = in->devices,
        .mbs = 4 * in->devices,
        .objective = in->objective};
}

typedef struct outcome {
    double s, mb_ns;
    int32_t stages;
    const char *how;
} outcome;

static dml_err solve(const instance *in, const problem *x, outcome *out)
{
    dml_arena arena = {0};
    const int64_t begin_ns = dml_clock_ns();
    dml_err err;
    if (in->recurrence) {
        const dml_replica_level level[] = {{in->node, 300.0}, {in->devices / in->node, 40.0}};
        dml_replica_plan plan = {0};
        err = dml_partition_replicas(x->simple, in->layers, level, 2, &arena, &plan);
        *out = (outcome){0, plan.time, plan.n_stages, "levels"};
    } else {
        dml_placement got = {0};
        err = dml_placement_find(&x->p, &arena, &got);
        *out = (outcome){0, (double)got.mb_ns, got.n_stages, dml_placement_how_text(got.how)};
    }
    out->s = (double)(dml_clock_ns() - begin_ns) * 1e-9;
    dml_arena_free(&arena);
    return err;
}

static dml_err measure(int repeats, json_t *rows)
{
    problem *x = calloc(1, sizeof *x);
    if (!x) DML_FAIL(DML_ERR_NOMEM, "no memory for %d layers", LAYERS);
    dml_err err = DML_ERR_OK;
    printf("%-18s %6s %7s %4s %6s %-10s %6s %12s %9s\n", "solver", "layers", "devices", "node",
           "speeds", "sets", "stages", "us a mb", "seconds");
    for (int i = 0; i < INSTANCES && err == DML_ERR_OK; i++) {
        const instance *in = &instances[i];
        double s[9];
        outcome o = {0};
        make(in, x);
        for (int k = 0; k < repeats && err == DML_ERR_OK; k++) {
            err = solve(in, x, &o);
            s[k] = o.s;
        }
        if (err != DML_ERR_OK) break;
        const bench_spread all = bench_spread_of(s, repeats);
        printf("%-18s %6d %7d %4d %6d %-10s %6d %12.3f %9.3f\n", in->name, in->layers, in->devices,
               in->node, in->speeds, o.how, o.stages, o.mb_ns * 1e-3, all.median);
        json_array_append_new(rows, json_pack("{s:s, s:i, s:i, s:i, s:i, s:s, s:i, s:f, s:f}",
                                              "solver", in->name, "layers", in->layers, "devices",
                                              in->devices, "node", in->node, "speeds", in->speeds,
                                              "sets", o.how, "stages", o.stages, "mb_us",
                                              o.mb_ns * 1e-3, "median_s", all.median));
    }
    free(x);
    return err;
}

typedef struct options {
    int repeats;
    const char *json;
} options;

static const struct argp_option argp_options[] = {
    {"repeats", 'n', "N", 0, "of each, 1 to 9 (default 3)", 0},
    {"json", 'J', "FILE", 0, "write the figures", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'n':
        o->repeats = atoi(arg);
        if (o->repeats < 1 || o->repeats > 9) argp_error(state, "-n %s: 1 to 9", arg);
        return 0;
    case 'J': o->json = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int dml_bench_planner(int argc, char **argv)
{
    static const struct argp argp = {argp_options, parse, NULL, "Times finding placements.",
                                     NULL,         NULL,  NULL};
    options o = {.repeats = 3};
    if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0) return dml_err_exit_code(DML_ERR_SPEC);
    json_t *rows = json_array();
    dml_err err = measure(o.repeats, rows);
    json_t *root = json_pack("{s:o, s:s, s:i, s:o}", "environment", bench_environment(), "command",
                             "dml-bench planner", "repeats", o.repeats, "runs", rows);
    if (err == DML_ERR_OK && o.json) err = bench_write(root, o.json);
    json_decref(root);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-bench: %s\n", dml_err_trail());
    return dml_err_exit_code(err);
}
