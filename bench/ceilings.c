/* bench/ceilings.c - dml-bench ceilings: what the device can move and multiply, and what the kernels reach of it.
 *
 *   ceiling of what moves memory   a copy within device memory: bytes read plus bytes written a second
 *   ceiling of products            linear_fwd of [g, g] x [g, g], for each type; others are shares of it
 *
 * All rows are measured in turn, round after round, each round with a ceiling of its own, so that a row's
 * share compares neighbours in time; median and quartiles over the rounds are shown
 * (in the JSON [lower quartile, median, upper quartile]).  Time is the device's, between
 * two events.
 */
#include "bench/ceilings.h"
#include "bench/bench.h"

#include "engine/base/clock.h"

#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a sample: enough calls to last that long, but no more than that many. */
enum { SAMPLE_US = 5000, MOST_REPEATS = 200 };

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

/* ---- memory ---- */

/* A word whose upper half is a BF16 of -1 .. 1, whose lower half is another, and which so is a float too. */
static uint32_t noise(uint32_t i)
{
    const float value[2] = {(float)(int32_t)(i * UINT32_C(2654435761)) * 0x1p-31f,
                            (float)(int32_t)(i * UINT32_C(2246822519)) * 0x1p-31f};
    uint32_t bits[2];
    memcpy(bits, value, sizeof bits);
    return (bits[0] & UINT32_C(0xffff0000)) | bits[1] >> 16;
}

static dml_err fill_with_noise(const bench_device *b, char *to, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += b->host_bytes)
        DML_TRY(b->backend->device->copy(b->queue, to + at, b->host,
                                         bytes - at < b->host_bytes ? bytes - at : b->host_bytes));
    return DML_ERR_OK;
}

static dml_err wait_for(const bench_device *b)
{
    return b->backend->device->sync(b->queue, dml_clock_ns() + 120 * DML_NS_PER_S);
}

static dml_err open_memory(bench_device *b)
{
    const dml_device_api *d = b->backend->device;
    char **const buffers[] = {&b->a, &b->b, &b->c, &b->wide};
    b->host_bytes = b->elems * 4 < INT64_C(64) << 20 ? b->elems * 4 : INT64_C(64) << 20;
    DML_TRY(d->host_alloc(b->device, b->host_bytes, &b->host));
    for (int64_t i = 0; i < b->host_bytes / 4; i++)
        ((uint32_t *)b->host)[i] = noise((uint32_t)i);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        const int64_t bytes = b->elems * (buffers[i] == &b->wide ? 8 : 4);
        DML_TRY(d->alloc(b->device, bytes, (void **)buffers[i]));
        if (i < 3) DML_TRY(fill_with_noise(b, *buffers[i], bytes));
    }
    for (size_t i = 0; i < sizeof b->small / sizeof *b->small; i++)
        DML_TRY(d->alloc(b->device, BENCH_SMALL_BYTES, (void **)&b->small[i]));
    DML_TRY(wait_for(b));
    for (int i = 0; i < BENCH_CHANNELS; i++)
        ((float *)b->host)[i] = 1.0f;
    DML_TRY(d->copy(b->queue, b->small[0], b->host, BENCH_CHANNELS * (int64_t)sizeof(float)));
    return wait_for(b);
}

static dml_err open_bench(const options *o, bench_device *b)
{
    DML_TRY(dml_backend_find(o->backend, &b->backend));
    const bool host = b->backend->on_host;
    const int64_t mib = o->mib ? o->mib : host ? 16 : 512;
    const int64_t side = o->side ? o->side : host ? 1024 : 8192;
    b->elems = mib << 18;
    if (b->elems < side * side) b->elems = side * side;
    if (b->elems < BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS)
        b->elems = BENCH_SIDE * BENCH_SIDE * BENCH_CHANNELS;
    const dml_device_api *d = b->backend->device;
    const dml_device_config device = {
        .index = o->device, .threads = 1, .queue_capacity = MOST_REPEATS + 8};
    DML_TRY(d->open(&device, &b->device));
    DML_TRY(d->queue_open(b->device, "ceilings", &b->queue));
    DML_TRY(d->event_open(b->device, &b->begin));
    DML_TRY(d->event_open(b->device, &b->end));
    for (int tf32 = 0; tf32 < 2; tf32++) {
        const dml_kctx_config config = {.threads = 1, .tf32 = tf32};
        DML_TRY(b->backend->kernels->open(b->device, b->queue, &config, &b->k[tf32]));
    }
    DML_TRY(open_memory(b));
    bench_ceiling_rows(b, side);
    return DML_ERR_OK;
}

static void close_bench(bench_device *b)
{
    if (!b->device) return;
    const dml_device_api *d = b->backend->device;
    for (int i = 0; i < 2; i++)
        b->backend->kernels->close(b->k[i]);
    d->event_close(b->begin);
    d->event_close(b->end);
    d->queue_close(b->queue);
    void *const memory[] = {b->a, b->b, b->c, b->wide};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i]) d->free(b->device, memory[i]);
    for (size_t i = 0; i < sizeof b->small / sizeof *b->small; i++)
        if (b->small[i]) d->free(b->device, b->small[i]);
    if (b->host) d->host_free(b->device, b->host);
    d->close(b->device);
}

/* ---- measuring ---- */

typedef struct call {
    const bench_device *b;
    const bench_row *r;
    int32_t repeats;
} call;

static dml_err run_job(void *arg)
{
    const call *c = arg;
    for (int32_t i = 0; i < c->repeats; i++)
        DML_TRY(c->r->run(c->b, c->r));
    return DML_ERR_OK;
}

/* Rows without a kernel: within the device, to it, from it. */
static dml_err run_copies(const bench_device *b, const bench_row *r, int32_t repeats)
{
    void *const host = b->host, *const device = b->b;
    for (int32_t i = 0; i < repeats; i++)
        DML_TRY(b->backend->device->copy(b->queue, r == &b->rows[2] ? host : device,
                                         r == &b->rows[0]   ? b->a
                                         : r == &b->rows[1] ? host
                                                            : device,
                                         r == &b->rows[0] ? b->elems * 4 : b->host_bytes));
    return DML_ERR_OK;
}

/* Microseconds of a call, from `repeats` of them. */
static dml_err sample(const bench_device *b, const bench_row *r, int32_t repeats, double *us)
{
    const dml_device_api *d = b->backend->device;
    call c = {b, r, repeats};
    int64_t ns;
    DML_TRY(d->record(b->queue, b->begin));
    if (r->run)
        DML_TRY(d->submit(b->queue, run_job, &c));
    else
        DML_TRY(run_copies(b, r, repeats));
    DML_TRY(d->record(b->queue, b->end));
    DML_TRY(wait_for(b)); /* `c` is borrowed until then */
    DML_TRY(d->elapsed(b->begin, b->end, &ns));
    *us = (double)(ns > 0 ? ns : 1) * 1e-3 / repeats;
    return DML_ERR_OK;
}

/* A row that others are compared with is always measured. */
static bool wanted(const bench_device *b, const bench_row *r, const options *o)
{
    return !o->filter || r == &b->rows[r->ceiling > 0 ? r->ceiling : 0] ||
           strstr(r->name, o->filter);
}

static bool here(const bench_device *b, const bench_row *r)
{
    return r->kernel < 0 || dml_kernel_here(b->backend->kernels, r->kernel);
}

static dml_err measure(bench_device *b, const options *o)
{
    int32_t repeats[BENCH_ROWS];
    for (int32_t i = 0; i < b->n_rows; i++) {
        double us;
        if (!wanted(b, &b->rows[i], o) || !here(b, &b->rows[i])) continue;
        DML_TRY(sample(b, &b->rows[i], 1, &us)); /* makes plans */
        DML_TRY(sample(b, &b->rows[i], 1, &us));
        const double n = SAMPLE_US / us;
        repeats[i] = n < 1 ? 1 : n > MOST_REPEATS ? MOST_REPEATS : (int32_t)n;
    }
    for (int round = 0; round < o->rounds; round++)
        for (int32_t i = 0; i < b->n_rows; i++) {
            bench_row *r = &b->rows[i];
            if (!wanted(b, r, o) || !here(b, r)) continue;
            DML_TRY(sample(b, r, repeats[i], &r->us[round]));
            r->rate[round] = r->work / r->us[round] * (r->product ? 1e-6 : 1e-3);
            if (r->ceiling >= 0) r->share[round] = r->rate[round] / b->rows[r->ceiling].rate[round];
        }
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
        if (!wanted(b, r, o)) continue;
        if (!here(b, r)) {
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
    if (err == DML_ERR_OK) err = measure(&b, o);
    if (err == DML_ERR_OK) {
        json_t *root = json_pack(
            "{s:s, s:o, s:s, s:i, s:i, s:I, s:o}", "program", "dml-bench ceilings", "environment",
            bench_environment(), "backend", b.backend->label, "device", o->device, "rounds",
            o->rounds, "float_tensor_bytes", (json_int_t)b.elems * 4, "results", report(&b, o));
        if (o->json) err = bench_write(root, o->json);
        json_decref(root);
    }
    close_bench(&b);
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
