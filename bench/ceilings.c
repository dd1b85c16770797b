/* bench/ceilings.c - dml-bench ceilings: what the device can move and multiply, and what the kernels reach of it.
 *
 *   ceiling of what moves memory   a copy within device memory: bytes read plus bytes written a second
 *   ceiling of products            linear_fwd of [g, g] x [g, g], for each type; others are shares of it
 *
 * Median and quartiles over the rounds are shown (in the JSON [lower quartile, median, upper quartile]).
 */
#include "bench/ceilings.h"
#include "bench/bench.h"

#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_MIB = 2048,
    MOST_SIDE = 30000
}; /* with which a label for each row fits a small buffer */

/* ---- options ---- */

typedef struct options {
    const char *backend, *filter, *json; /* filter NULL: all; json NULL: none */
    int device, rounds, mib, side;       /* mib, side 0: by the kind of device */
} options;

static const struct argp_option argp_options[] = {
    {"backend", 'b', "NAME", 0, "backend (cuda)", 0},
    {"device", 'd', "N", 0, "which of its devices (0)", 0},
    {"kernel", 'k', "TEXT", 0, "only kernels whose name contains it, and their ceilings", 0},
    {"rounds", 'n', "N", 0, "rounds over all rows (11)", 0},
    {"mebibytes", 'm', "MIB", 0, "of a float tensor: several times the caches (512; on a host 16)",
     0},
    {"side", 'g', "N", 0, "of the matrices (8192; on a host 1024)", 0},
    {"json", 'J', "FILE", 0, "write the results there too", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'b': o->backend = arg; return 0;
    case 'd': o->device = atoi(arg); return 0;
    case 'k': o->filter = arg; return 0;
    case 'n': o->rounds = atoi(arg); break;
    case 'm': o->mib = atoi(arg); break;
    case 'g': o->side = atoi(arg); break;
    case 'J': o->json = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
    if (o->rounds < 1 || o->rounds > BENCH_ROUNDS || o->mib < 0 || o->mib > MOST_MIB ||
        o->side < 0 || o->side > MOST_SIDE)
        argp_error(state, "'%s' is out of range; rounds 1 .. %d, mebibytes to %d, sides to %d", arg,
                   BENCH_ROUNDS, MOST_MIB, MOST_SIDE);
    return 0;
}

static dml_err open_bench(const options *o, bench_device *b)
{
    const dml_backend *backend;
    DML_TRY(dml_backend_find(o->backend, &backend));
    const bool host = backend->on_host;
    const int64_t mib = o->mib ? o->mib : host ? 16 : 512;
    const int64_t side = o->side ? o->side : host ? 1024 : 8192;
    int64_t elems = mib << 18;
    if (elems < side * side) elems = side * side;
    if (elems < BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS)
        elems = BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS;
    const bench_device_config config = {
        .backend = o->backend, .index = o->device, .threads = 1, .elems = elems};
    DML_TRY(bench_device_open(&config, b));
    bench_ceiling_rows(b, side);
    return DML_ERR_OK;
}

/* ---- telling ---- */

static json_t *spread(bench_spread s)
{
    return json_pack("[f, f, f]", s.low, s.median, s.high);
}

static json_t *report(bench_device *b, const options *o)
{
    const int rounds = o->rounds;
    json_t *results = json_array();
    printf("# dml-bench ceilings: %s, %" PRId64 " MiB a float tensor, medians of %d rounds\n",
           b->backend->label, b->elems >> 18, rounds);
    printf("%-18s %-5s %12s %12s %-7s %9s  %s\n", "", "type", "us", "rate", "", "of ceiling",
           "quartiles");
    for (int32_t i = 0; i < b->n_rows; i++) {
        bench_row *r = &b->rows[i];
        if (!bench_row_wanted(b, r, o->filter)) continue;
        if (!bench_row_here(b, r)) {
            printf("%-18s %-5s not here\n", r->name, dml_dtype_name(r->dtype));
            continue;
        }
        const char *type = r->tf32 ? "TF32" : dml_dtype_name(r->dtype);
        const bench_spread us = bench_spread_of(r->us, rounds),
                           rate = bench_spread_of(r->rate, rounds);
        const bench_spread share = bench_spread_of(r->share, rounds);
        printf("%-18s %-5s %12.1f %12.1f %-7s", r->name, type, us.median, rate.median,
               r->product ? "TFLOP/s" : "GB/s");
        if (r->ceiling >= 0)
            printf(" %8.1f %%  %.1f .. %.1f", share.median * 100, share.low * 100,
                   share.high * 100);
        printf("\n");
        json_array_append_new(results,
                              json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "kernel", r->name, "type",
                                        type, "unit", r->product ? "TFLOP/s" : "GB/s", "us",
                                        spread(us), "rate", spread(rate), "share_of_ceiling",
                                        r->ceiling >= 0 ? spread(share) : json_null()));
    }
    return results;
}

static dml_err ceilings(const options *o)
{
    static bench_device b;
    dml_err err = open_bench(o, &b);
    if (err == DML_ERR_OK) err = bench_rows_measure(&b, o->rounds, o->filter);
    if (err == DML_ERR_OK) {
        json_t *root = json_pack(
            "{s:s, s:o, s:s, s:i, s:i, s:I, s:o}", "program", "dml-bench ceilings", "environment",
            bench_environment(), "backend", b.backend->label, "device", o->device, "rounds",
            o->rounds, "float_tensor_bytes", (json_int_t)b.elems * 4, "results", report(&b, o));
        if (o->json) err = bench_write(root, o->json);
        json_decref(root);
    }
    bench_device_close(&b);
    return err;
}

int dml_bench_ceilings(int argc, char **argv)
{
    options o = {.backend = "cuda", .rounds = 11};
    const struct argp argp = {.options = argp_options,
                              .parser = parse_option,
                              .doc = "Measures the device's memory and matrix units, and the share "
                                     "of them that each kernel reaches."};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = ceilings(&o);
    if (err != DML_ERR_OK) fprintf(stderr, "%s: %s\n", argv[0], dml_err_trail());
    return dml_err_exit_code(err);
}
