/* bench/conform.c - dml-bench conform: the suite of tests/kernels over one device of any backend. */
#include "bench/bench.h"

#include "tests/kernels/conform.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct options {
    const char *backend, *filter;
    int device, rounds;
    unsigned long long seed;
} options;

static const struct argp_option argp_options[] = {
    {"backend", 'b', "NAME", 0, "backend (cuda)", 0},
    {"device", 'd', "N", 0, "which of its devices (0)", 0},
    {"kernel", 'k', "TEXT", 0, "only kernels whose name contains it", 0},
    {"rounds", 'n', "N", 0, "problems for each kernel (20)", 0},
    {"seed", 's', "N", 0, "seed of shapes and values (1)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'b': o->backend = arg; return 0;
    case 'd': o->device = atoi(arg); return 0;
    case 'k': o->filter = arg; return 0;
    case 'n': o->rounds = atoi(arg); return 0;
    case 's': o->seed = strtoull(arg, NULL, 10); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static dml_err conform(const options *o)
{
    const dml_backend *b;
    DML_TRY(dml_backend_find(o->backend, &b));
    int failures = 0;
    for (int deterministic = 0; deterministic < 2; deterministic++) {
        const dml_conform_config config = {.filter = o->filter,
                                           .device = o->device,
                                           .threads = 1,
                                           .deterministic = deterministic,
                                           .rounds = o->rounds,
                                           .seed = o->seed};
        failures += dml_conform_run_with(b, &config);
    }
    if (failures > 0) DML_FAIL(DML_ERR_CHECK, "%d failures on device %d", failures, o->device);
    return DML_ERR_OK;
}

int dml_bench_conform(int argc, char **argv)
{
    options o = {.backend = "cuda", .rounds = 20, .seed = 1};
    const struct argp argp = {.options = argp_options,
                              .parser = parse_option,
                              .doc = "Compares each kernel with the reference, fast and "
                                     "deterministic.  Exit code 7 when one differs."};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = conform(&o);
    if (err != DML_ERR_OK) fprintf(stderr, "%s: %s\n", argv[0], dml_err_trail());
    return dml_err_exit_code(err);
}
