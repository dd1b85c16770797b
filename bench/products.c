/* bench/products.c - dml-bench gemm and conv: products at the shapes of a spec's layers, or at given ones.
 *
 *   peak     what a large square product reaches in the same rounds, of the same type and with as many threads
 *   GFLOP/s  2 for each product and sum; medians over the rounds
 */
#include "bench/products.h"
#include "bench/bench.h"

#include "engine/model.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SHAPES = 40, MOST_CHOICES = 8, NUMBERS = 8 };

typedef struct shape {
    char text[64];
    int32_t layers; /* of the spec that have it; 0: given */
    int64_t mnk[3]; /* gemm */
    bench_conv conv;
} shape;

typedef struct options {
    bool conv;
    const char *backend, *spec, *json;
    int device, rounds;
    int64_t side;
    int32_t threads[MOST_CHOICES], n_threads;
    dml_precision precision[MOST_CHOICES];
    int32_t n_precisions;
    shape shape[MOST_SHAPES];
    int32_t n_shapes;
} options;

/* ---- options ---- */

static const struct argp_option argp_options[] = {
    {"shape", 'x', "SHAPE", 0,
     "gemm M,N,K; conv N,H,W,IN,OUT,KERNEL[,STRIDE[,PADDING]]; again for more", 0},
    {"precision", 'p', "LIST", 0, "of fp32,tf32,bf16,fp16 (fp32)", 0},
    {"threads", 't', "LIST", 0, "a host's threads, such as 1,2 (1)", 0},
    {"backend", 'b', "NAME", 0, "backend (cpu)", 0},
    {"device", 'd', "N", 0, "which of its devices (0)", 0},
    {"rounds", 'n', "N", 0, "rounds over all rows (11)", 0},
    {"side", 'g', "N", 0, "of the square product that is the peak (8192; on a host 1024)", 0},
    {"json", 'J', "FILE", 0, "write the results there too", 0},
    {0},
};

/* Numbers from 1, or from 0 where zero_from says, between commas; returns how many, 0 when it is none such. */
static int32_t numbers(const char *text, int64_t *out, int32_t most, int32_t zero_from)
{
    int32_t n = 0;
    for (const char *at = text; n < most; at++) {
        char *end;
        out[n] = strtol(at, &end, 10);
        if (end == at || out[n] < (n < zero_from ? 1 : 0) || out[n] > 1 << 24) return 0;
        n++;
        at = end;
        if (*at == '\0') return n;
        if (*at != ',') return 0;
    }
    return 0;
}

static shape gemm_of(int64_t m, int64_t n, int64_t k)
{
    shape s = {.mnk = {m, n, k}};
    snprintf(s.text, sizeof s.text, "%lld x %lld x %lld", (long long)m, (long long)n, (long long)k);
    return s;
}

/* x [n, h, w, ci] */
static shape conv_of(const int64_t x[4], int64_t out, const dml_conv2d *c)
{
    shape s = {.conv = {.conv = *c, .x = {x[0], x[1], x[2], x[3]}, .y = {x[0], 0, 0, out}}};
    for (int i = 0; i < 2; i++)
        s.conv.y[1 + i] =
            (x[1 + i] + 2 * c->pad[i] - c->dilation[i] * (c->kernel[i] - 1) - 1) / c->stride[i] + 1;
    snprintf(s.text, sizeof s.text, "%lld x %lldx%lld %lld -> %lld, %dx%d%s", (long long)x[0],
             (long long)x[1], (long long)x[2], (long long)x[3], (long long)out, c->kernel[0],
             c->kernel[1], c->stride[0] > 1 ? " /2" : "");
    if (c->stride[0] > 2) snprintf(strrchr(s.text, '/'), 12, "/%d", c->stride[0]);
    return s;
}

static bool add_shape(options *o, const shape *s)
{
    for (int32_t i = 0; i < o->n_shapes; i++)
        if (memcmp(o->shape[i].mnk, s->mnk, sizeof s->mnk) == 0 &&
            memcmp(&o->shape[i].conv, &s->conv, sizeof s->conv) == 0) {
            o->shape[i].layers += s->layers;
            return true;
        }
    if (o->n_shapes == MOST_SHAPES) return false;
    o->shape[o->n_shapes++] = *s;
    return true;
}

static void parse_shape(options *o, const char *text, struct argp_state *state)
{
    int64_t v[NUMBERS] = {0};
    const int32_t n = numbers(text, v, NUMBERS, o->conv ? 7 : 3);
    shape s;
    if (o->conv && n >= 6) {
        const int32_t kernel = (int32_t)v[5], stride = n > 6 ? (int32_t)v[6] : 1,
                      pad = n > 7 ? (int32_t)v[7] : kernel / 2;
        const dml_conv2d c = {{kernel, kernel}, {stride, stride}, {pad, pad}, {1, 1}, 1};
        s = conv_of(v, v[4], &c);
        if (s.conv.y[1] < 1 || s.conv.y[2] < 1) argp_error(state, "'%s': no output", text);
    } else if (!o->conv && n == 3) {
        s = gemm_of(v[0], v[1], v[2]);
    } else {
        argp_error(state, "'%s' is no shape: %s", text,
                   o->conv ? "N,H,W,IN,OUT,KERNEL[,STRIDE[,PADDING]]" : "M,N,K");
        return;
    }
    if (!add_shape(o, &s)) argp_error(state, "more than %d shapes", MOST_SHAPES);
}

static void parse_precisions(options *o, const char *text, struct argp_state *state)
{
    for (o->n_precisions = 0; *text; text += strcspn(text, ","), text += *text == ',') {
        dml_precision p = DML_PRECISION_FP32;
        while (p <= DML_PRECISION_FP16 &&
               (strlen(dml_precision_name(p)) != strcspn(text, ",") ||
                strncmp(dml_precision_name(p), text, strcspn(text, ",")) != 0))
            p++;
        if (p > DML_PRECISION_FP16 || o->n_precisions == MOST_CHOICES)
            argp_error(state, "'%s': of fp32,tf32,bf16,fp16", text);
        o->precision[o->n_precisions++] = p;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    int64_t threads[MOST_CHOICES];
    switch (key) {
    case 'x': parse_shape(o, arg, state); return 0;
    case 'p': parse_precisions(o, arg, state); return 0;
    case 't':
        o->n_threads = numbers(arg, threads, MOST_CHOICES, MOST_CHOICES);
        if (o->n_threads == 0) argp_error(state, "'%s': numbers such as 1,2", arg);
        for (int32_t i = 0; i < o->n_threads; i++)
            o->threads[i] = (int32_t)threads[i];
        return 0;
    case 'b': o->backend = arg; return 0;
    case 'd': o->device = atoi(arg); return 0;
    case 'n': o->rounds = atoi(arg); break;
    case 'g': o->side = atoi(arg); break;
    case 'J': o->json = arg; return 0;
    case ARGP_KEY_ARG:
        if (o->spec) argp_error(state, "one SPEC, not '%s' too", arg);
        o->spec = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o->spec && o->n_shapes == 0) argp_error(state, "SPEC or --shape is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
    if (o->rounds < 1 || o->rounds > BENCH_ROUNDS || o->side < 0 || o->side > 30000)
        argp_error(state, "'%s' is out of range", arg);
    return 0;
}

/* ---- shapes of a spec ---- */

static dml_err take_layers(options *o, const dml_spec *spec, const dml_model *m)
{
    const int64_t rows = spec->training.micro_batch_size;
    for (int32_t i = 0; i < m->n_layers; i++) {
        const dml_layer *l = &m->layer[i];
        shape s = {0};
        if (l->spec->kind == DML_LAYER_LINEAR && !o->conv)
            s = gemm_of(rows, l->spec->out, dml_shape_elems(l->in));
        else if (l->spec->kind == DML_LAYER_CONV2D && o->conv)
            s = conv_of((const int64_t[]){rows, l->in.dim[0], l->in.dim[1], l->in.dim[2]},
                        l->spec->out, &l->spec->conv);
        else
            continue;
        s.layers = 1;
        if (!add_shape(o, &s)) DML_FAIL(DML_ERR_SPEC, "more than %d shapes", MOST_SHAPES);
    }
    if (o->n_shapes == 0)
        DML_FAIL(DML_ERR_SPEC, "%s has no %s layer", o->spec, o->conv ? "conv2d" : "linear");
    return DML_ERR_OK;
}

static dml_err take_spec(options *o)
{
    dml_spec spec;
    dml_arena arena = {0};
    dml_model model;
    DML_TRY(dml_spec_load(o->spec, NULL, 0, &spec));
    dml_err err = dml_model_make(&spec, &arena, &model);
    if (err == DML_ERR_OK) err = take_layers(o, &spec, &model);
    dml_arena_free(&arena);
    dml_spec_free(&spec);
    return err;
}

/* ---- measuring ---- */

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t elems_of(const options *o, int64_t side)
{
    int64_t elems = most(side * side, BENCH_CHANNELS);
    for (int32_t i = 0; i < o->n_shapes; i++) {
        const int64_t *g = o->shape[i].mnk, *x = o->shape[i].conv.x, *y = o->shape[i].conv.y;
        const int32_t *k = o->shape[i].conv.conv.kernel;
        elems = most(elems, most(most(g[0] * g[1], g[0] * g[2]), g[1] * g[2]));
        elems = most(elems, most(x[0] * x[1] * x[2] * x[3], y[0] * y[1] * y[2] * y[3]));
        elems = most(elems, x[3] * y[3] * k[0] * k[1]);
    }
    return elems;
}

static void report(const options *o, bench_device *b, dml_precision p, int32_t threads,
                   int32_t first_row[], json_t *results)
{
    for (int32_t s = -1; s < o->n_shapes; s++)
        for (int32_t i = s < 0 ? 0 : first_row[s]; i < (s < 0 ? 1 : first_row[s + 1]); i++) {
            bench_row *r = &b->rows[i];
            const char *text = s < 0 ? "the peak" : o->shape[s].text;
            if (!bench_row_here(b, r)) continue;
            const bench_spread us = bench_spread_of(r->us, o->rounds),
                               rate = bench_spread_of(r->rate, o->rounds),
                               share = bench_spread_of(r->share, o->rounds);
            printf("%-18s %-30s %6d  %-4s %7d %11.1f %9.1f %7.1f  %.1f .. %.1f\n", r->name, text,
                   s < 0 ? 0 : o->shape[s].layers, dml_precision_name(p), threads, us.median,
                   rate.median * 1e3, share.median * 100, share.low * 100, share.high * 100);
            json_array_append_new(
                results,
                json_pack("{s:s, s:s, s:s, s:i, s:f, s:[f, f, f], s:[f, f, f]}", "kernel", r->name,
                          "shape", text, "precision", dml_precision_name(p), "threads", threads,
                          "us", us.median, "gflop_s", rate.low * 1e3, rate.median * 1e3,
                          rate.high * 1e3, "share_of_peak", share.low, share.median, share.high));
        }
}

static dml_err measure(const options *o, dml_precision p, int32_t threads, json_t *results)
{
    static bench_device b;
    int32_t first_row[MOST_SHAPES + 1] = {0};
    const dml_backend *backend;
    DML_TRY(dml_backend_find(o->backend, &backend));
    const int64_t side = o->side ? o->side : backend->on_host ? 1024 : 8192;
    const bench_device_config config = {
        .backend = o->backend, .index = o->device, .threads = threads, .elems = elems_of(o, side)};
    const bool tf32 = p == DML_PRECISION_TF32;
    dml_err err = bench_device_open(&config, &b);
    if (err == DML_ERR_OK) {
        bench_gemm_rows(&b, (const int64_t[]){side, side, side}, bench_type_of(p), tf32, -1);
        b.n_rows = 1; /* its forward is the peak */
        for (int32_t s = 0; s < o->n_shapes; s++) {
            first_row[s] = b.n_rows;
            if (o->conv)
                bench_conv_rows(&b, &o->shape[s].conv, bench_type_of(p), tf32, 0);
            else
                bench_gemm_rows(&b, o->shape[s].mnk, bench_type_of(p), tf32, 0);
            first_row[s + 1] = b.n_rows;
        }
        err = bench_rows_measure(&b, o->rounds, NULL);
    }
    if (err == DML_ERR_OK) report(o, &b, p, threads, first_row, results);
    bench_device_close(&b);
    return err;
}

static dml_err products(options *o, const char *program)
{
    if (o->spec) DML_TRY(take_spec(o));
    json_t *results = json_array();
    dml_err err = DML_ERR_OK;
    printf("# %s: %s, medians of %d rounds\n", program, o->backend, o->rounds);
    printf("%-18s %-30s %6s  %-4s %7s %11s %9s %7s  %s\n", "", o->conv ? "" : "m x n x k", "layers",
           "type", "threads", "us", "GFLOP/s", "peak %", "quartiles");
    for (int32_t p = 0; p < o->n_precisions; p++)
        for (int32_t t = 0; t < o->n_threads && err == DML_ERR_OK; t++)
            err = measure(o, o->precision[p], o->threads[t], results);
    json_t *root =
        json_pack("{s:s, s:o, s:s, s:s, s:i, s:i, s:o}", "program", program, "environment",
                  bench_environment(), "spec", o->spec ? o->spec : "", "backend", o->backend,
                  "device", o->device, "rounds", o->rounds, "results", results);
    if (err == DML_ERR_OK && o->json) err = bench_write(root, o->json);
    json_decref(root);
    return err;
}

static int run(int argc, char **argv, bool conv, const char *doc)
{
    options o = {.conv = conv,
                 .backend = "cpu",
                 .rounds = 11,
                 .threads = {1},
                 .n_threads = 1,
                 .precision = {DML_PRECISION_FP32},
                 .n_precisions = 1};
    const struct argp argp = {
        .options = argp_options, .parser = parse_option, .args_doc = "[SPEC]", .doc = doc};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = products(&o, argv[0]);
    if (err != DML_ERR_OK) fprintf(stderr, "%s: %s\n", argv[0], dml_err_trail());
    return dml_err_exit_code(err);
}

int dml_bench_gemm(int argc, char **argv)
{
    return run(
        argc, argv, false,
        "Measures matrix products at the shapes of a spec's linear layers, or at given ones.");
}

int dml_bench_conv(int argc, char **argv)
{
    return run(argc, argv, true,
               "Measures convolutions at the shapes of a spec's layers, or at given ones.");
}
