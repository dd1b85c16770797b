/* bench/node.c - dml-bench node: the proof that a machine computes right, and what it reaches, in one JSON.
 *
 *   kernels      the conformance suite on each device                     dml-bench conform
 *   links        collectives and transfers among all devices, checked     dml-bench comm
 *   bits         exact mode: one weights hash over every layout           dml-train
 *   throughput   samples a second of every layout                         dml-train
 *
 * Each part is a process of its own, so that a crash or a hang in one is a line in the report.  A machine with
 * one GPU runs its layouts as several workers on it; one without runs them as four workers on its cores.
 */
#include "bench/bench.h"

#include "engine/base/clock.h"
#include "kernels/backend.h"

#include <argp.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOST_WORKERS = 4, MOST_DEVICES = 16, MAX_ARGS = 24, TAIL_BYTES = 1500, TEXT_BYTES = 256 };

/* ---- options ---- */

typedef struct options {
    const char *backend, *json;
    int devices; /* 0: all */
    double minutes;
    bool quick;
} options;

static const struct argp_option argp_options[] = {
    {"backend", 'b', "NAME", 0, "cuda, cpu or auto (auto)", 0},
    {"devices", 'n', "N", 0, "use the first N devices (all); workers, on a host", 0},
    {"minutes", 't', "T", 0, "stop after T minutes with what there is (10)", 0},
    {"quick", 'q', NULL, 0, "tiny sizes: shows that the parts run, and measures nothing", 0},
    {"json", 'J', "FILE", 0, "the report (dml-node.json)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'b': o->backend = arg; return 0;
    case 'n': o->devices = atoi(arg); break;
    case 't': o->minutes = atof(arg); break;
    case 'q': o->quick = true; return 0;
    case 'J': o->json = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
    if (o->devices < 0 || o->devices > MOST_DEVICES || !(o->minutes > 0))
        argp_error(state, "'%s' is out of range; devices are 1 .. %d", arg, MOST_DEVICES);
    return 0;
}

/* ---- the work ---- */

typedef struct node {
    const options *o;
    const dml_backend *backend;
    int32_t devices; /* used; 0 on a host, whose workers share its cores */
    int32_t workers; /* of the largest layout */
    char folder[64], log[128], program[PATH_MAX], train[PATH_MAX];
    int64_t end_ns;
    json_t *report, *failures;
} node;

static void fail(node *n, const char *part, const char *what)
{
    char tail[TAIL_BYTES];
    bench_tail(n->log, tail, sizeof tail);
    json_array_append_new(n->failures,
                          json_pack("{s:s, s:s, s:s}", "part", part, "what", what, "output", tail));
    printf("  FAILED  %s: %s\n%s", part, what, tail);
}

/* Runs it within what is left of the time; true when it ended with 0.  Else the failure is in the report. */
static bool run(node *n, const char *const argv[], double limit_s, const char *part)
{
    const double left_s = (double)(n->end_ns - dml_clock_ns()) * 1e-9;
    char what[TEXT_BYTES];
    int code;
    if (left_s < 1) {
        unlink(n->log);
        fail(n, part, "no time left");
        return false;
    }
    if (bench_run(argv, n->log, left_s < limit_s ? left_s : limit_s, &code) != DML_ERR_OK)
        snprintf(what, sizeof what, "%s", dml_err_trail());
    else if (code != 0)
        snprintf(what, sizeof what, "exit code %d%s", code, code == 137 ? " (out of time?)" : "");
    else
        return true;
    fail(n, part, what);
    return false;
}

/* ---- kernels and links ---- */

static void check_kernels(node *n)
{
    json_t *rows = json_array();
    for (int32_t d = 0; d < (n->devices ? n->devices : 1); d++) {
        char device[16], part[32];
        snprintf(device, sizeof device, "%d", d);
        snprintf(part, sizeof part, "kernels of device %d", d);
        const char *const argv[] = {n->program, "conform", "-b", n->backend->name,
                                    "-d",       device,    "-n", n->o->quick ? "1" : "12",
                                    NULL};
        const int64_t begin_ns = dml_clock_ns();
        const bool passed = run(n, argv, 120, part);
        const double time_s = (double)(dml_clock_ns() - begin_ns) * 1e-9;
        char tail[TAIL_BYTES];
        bench_tail(n->log, tail, sizeof tail);
        json_array_append_new(rows, json_pack("{s:i, s:b, s:f, s:s}", "device", d, "passed", passed,
                                              "time_s", time_s, "summary", tail));
        if (passed) printf("  device %d conforms (%.1f s)\n", d, time_s);
    }
    json_object_set_new(n->report, "kernels", rows);
}

static void check_links(node *n)
{
    char ranks[16], file[128];
    if (n->devices == 1) {
        printf("  one device: no link\n");
        json_object_set_new(n->report, "links", json_null());
        return;
    }
    snprintf(ranks, sizeof ranks, "%d", n->workers);
    snprintf(file, sizeof file, "%s/comm.json", n->folder);
    const char *argv[MAX_ARGS] = {n->program, "comm", "-r", ranks, "-J", file, "-e"};
    argv[7] = n->o->quick ? "64K" : n->devices ? "256M" : "8M";
    if (n->devices) {
        argv[8] = "--backend";
        argv[9] = n->backend->name;
    }
    if (!run(n, argv, 150, "links")) return;
    json_t *root = json_load_file(file, 0, NULL);
    double best = 0;
    json_t *row;
    size_t i;
    json_array_foreach(json_object_get(root, "results"), i, row)
    {
        const double busbw = json_real_value(json_object_get(row, "busbw_gb_s"));
        const char *op = json_string_value(json_object_get(row, "op"));
        if (op && strcmp(op, "all_reduce") == 0 && busbw > best) best = busbw;
    }
    printf("  %s workers exchange, no element wrong; all_reduce reaches %.2f GB/s busbw\n", ranks,
           best);
    json_object_set_new(n->report, "links", root ? root : json_null());
}

/* ---- training ---- */

static dml_err write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f) DML_FAIL(DML_ERR_DATA, "cannot write '%s'", path);
    fputs(text, f);
    fclose(f);
    return DML_ERR_OK;
}

static const char tiny_model[] =
    "model:\n"
    "  input: [1, 8, 8]\n"
    "  layers: [conv2d: {out: 8, kernel: 3, padding: 1}, batch_norm, relu, max_pool2d: 2, "
    "flatten, linear: 32, relu, dropout: 0.2, linear: 10]\n";
static const char small_model[] = "model: {type: vgg, depth: 8, input: [3, 16, 16]}\n";
static const char large_model[] = "model: {type: resnet, depth: 50, input: [3, 224, 224], "
                                  "classes: 1000}\n";

/* The spec of both measurements; layouts differ in overrides alone. */
static dml_err write_spec(const node *n, const char *path, bool exact)
{
    const bool gpu = n->devices > 0, quick = n->o->quick;
    const char *model = quick ? tiny_model : exact || !gpu ? small_model : large_model;
    const int32_t least = exact ? 8 : 4;
    const int32_t mbs = n->workers * ((least + n->workers - 1) / n->workers) * (exact ? 1 : 4);
    const int32_t rows = quick ? 2 : exact || !gpu ? 8 : 32;
    char text[2048];
    snprintf(text, sizeof text,
             "version: 1\n"
             "run: {name: node, seed: 1}\n%s"
             "data: {format: synthetic, samples: 4096, test_samples: 32, pool: %d}\n"
             "training: {max_steps: %d, micro_batch_size: %d, global_batch_size: %d, "
             "eval_interval: 0, numerics: %s%s}\n"
             "optimizer: {name: sgd, lr: 0.01, momentum: 0.9}\n"
             "parallelism: {backend: %s}\n"
             "logging: {console: line}\n",
             model, quick ? 16 : 256,
             quick   ? 3
             : exact ? 20
             : gpu   ? 60
                     : 6,
             rows, rows * mbs, exact ? "exact" : "fast",
             !exact && gpu && !quick ? ", precision: bf16" : "", n->backend->name);
    return write_text(path, text);
}

/* One run; its records, or NULL after a failure.  `per_device` workers share a device. */
static json_t *train(node *n, const char *spec, int32_t pp, int32_t dp, int32_t per_device,
                     const char *part)
{
    char set_pp[64], set_dp[64], set_folder[128], folder[96], sharing[64];
    snprintf(folder, sizeof folder, "%s/run", n->folder);
    snprintf(set_pp, sizeof set_pp, "parallelism.pipeline_parallel_size=%d", pp);
    snprintf(set_dp, sizeof set_dp, "parallelism.data_parallel_size=%d", dp);
    snprintf(set_folder, sizeof set_folder, "run.output_dir=%s", folder);
    snprintf(sharing, sizeof sharing, "parallelism.workers_per_device=%d", per_device);
    char metrics[128];
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", folder);
    unlink(metrics);
    const char *const argv[] = {n->train, spec, set_pp, set_dp, set_folder, sharing, NULL};
    return run(n, argv, 180, part) ? bench_records(folder) : NULL;
}

typedef struct layout {
    int32_t pp, dp;
} layout;

/* 1 x 1, then every pipeline x replicas with `workers` workers. */
static int32_t layouts_of(int32_t workers, layout *out)
{
    int32_t n = 0;
    out[n++] = (layout){1, 1};
    for (int32_t pp = workers; pp >= 1 && workers > 1; pp--)
        if (workers % pp == 0) out[n++] = (layout){pp, workers / pp};
    return n;
}

static double number(const json_t *records, const char *type, const char *field)
{
    return json_number_value(json_object_get(json_object_get(records, type), field));
}

static const char *text_of(const json_t *records, const char *type, const char *field)
{
    const char *text = json_string_value(json_object_get(json_object_get(records, type), field));
    return text ? text : "";
}

static dml_err check_bits(node *n)
{
    char spec[128], first[32] = "";
    layout list[MOST_DEVICES + 1];
    snprintf(spec, sizeof spec, "%s/exact.yaml", n->folder);
    DML_TRY(write_spec(n, spec, true));
    json_t *runs = json_array();
    bool same = true;
    const int32_t layouts = layouts_of(n->workers, list);
    for (int32_t i = 0; i < layouts; i++) {
        char part[64];
        const layout l = list[i];
        const int32_t sharing = n->devices == 1 ? l.pp * l.dp : 1;
        snprintf(part, sizeof part, "exact mode at %d x %d", l.pp, l.dp);
        json_t *records = train(n, spec, l.pp, l.dp, sharing, part);
        if (!records) {
            same = false;
            continue;
        }
        const char *hash = text_of(records, "run_end", "weights_hash");
        if (!first[0]) snprintf(first, sizeof first, "%s", hash);
        if (strcmp(first, hash) != 0) {
            same = false;
            fail(n, part, "other weights than at 1 x 1");
        }
        printf("  %d x %d  weights %s\n", l.pp, l.dp, hash);
        json_array_append_new(runs,
                              json_pack("{s:i, s:i, s:i, s:o}", "pipeline", l.pp, "replicas", l.dp,
                                        "workers_per_device", sharing, "records", records));
    }
    json_object_set_new(n->report, "bits", json_pack("{s:b, s:o}", "same", same, "runs", runs));
    return DML_ERR_OK;
}

static dml_err measure_throughput(node *n)
{
    char spec[128];
    layout list[MOST_DEVICES + 1];
    snprintf(spec, sizeof spec, "%s/fast.yaml", n->folder);
    DML_TRY(write_spec(n, spec, false));
    json_t *runs = json_array();
    /* several workers on one GPU show their right results above; their speed says nothing */
    const int32_t layouts = layouts_of(n->devices == 1 ? 1 : n->workers, list);
    for (int32_t i = 0; i < layouts; i++) {
        char part[64];
        const layout l = list[i];
        snprintf(part, sizeof part, "throughput at %d x %d", l.pp, l.dp);
        json_t *records = train(n, spec, l.pp, l.dp, 1, part);
        if (!records) continue;
        const double workers = number(records, "plan", "world_size");
        printf("  %d x %d  %.1f samples/s, step %.1f ms (predicted %.1f), bubble %.0f %%, %.0f "
               "worker%s\n",
               l.pp, l.dp, number(records, "run_end", "samples_per_second"),
               number(records, "run_end", "step_time_median_s") * 1e3,
               number(records, "run_end", "predicted_step_time_s") * 1e3,
               number(records, "run_end", "bubble_ratio") * 100, workers, workers > 1 ? "s" : "");
        json_array_append_new(runs, json_pack("{s:i, s:i, s:o}", "pipeline", l.pp, "replicas", l.dp,
                                              "records", records));
    }
    json_object_set_new(n->report, "throughput", runs);
    return DML_ERR_OK;
}

/* ---- all of it ---- */

static dml_err find_backend(node *n)
{
    if (strcmp(n->o->backend, "auto") != 0) {
        DML_TRY(dml_backend_find(n->o->backend, &n->backend));
    } else {
        int32_t names;
        const char *const *name = dml_backend_auto(&names);
        for (int32_t i = 0; i < names && !n->backend; i++)
            if (dml_backend_find(name[i], &n->backend) != DML_ERR_OK)
                printf("%s: %s\n", name[i], dml_err_trail());
        if (!n->backend) DML_FAIL(DML_ERR_UNAVAILABLE, "no backend has a device");
    }
    char why[TEXT_BYTES];
    const int32_t devices = n->backend->device->count(why, sizeof why);
    const int32_t asked = n->o->devices;
    n->devices = n->backend->on_host ? 0 : asked && asked < devices ? asked : devices;
    if (n->devices > MOST_DEVICES) n->devices = MOST_DEVICES;
    n->workers = n->devices > 1 ? n->devices : asked > 1 ? asked : HOST_WORKERS;
    return DML_ERR_OK;
}

static dml_err run_parts(node *n)
{
    printf("kernels\n");
    check_kernels(n);
    printf("links\n");
    check_links(n);
    printf("bits: exact mode, pipeline x replicas\n");
    DML_TRY(check_bits(n));
    printf("throughput, pipeline x replicas\n");
    return measure_throughput(n);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static dml_err node_of(const options *o)
{
    node n = {.o = o, .folder = "/tmp/dml-node-XXXXXX"};
    const int64_t begin_ns = dml_clock_ns();
    n.end_ns = begin_ns + (int64_t)(o->minutes * 60e9);
    DML_TRY(find_backend(&n));
    if (!mkdtemp(n.folder)) DML_FAIL(DML_ERR_UNAVAILABLE, "no folder in /tmp");
    snprintf(n.log, sizeof n.log, "%s/log", n.folder);
    bench_beside("dml-bench", n.program, sizeof n.program);
    bench_beside("dml-train", n.train, sizeof n.train);
    n.failures = json_array();
    n.report = json_pack("{s:s, s:i, s:b, s:o, s:s, s:i, s:i}", "program", "dml-bench node",
                         "version", 1, "quick", o->quick, "environment", bench_environment(),
                         "backend", n.backend->label, "devices", n.devices, "workers", n.workers);
    printf("dml-bench node: %s, %d device%s, up to %d workers%s\n", n.backend->label,
           n.devices ? n.devices : 1, n.devices > 1 ? "s" : "", n.workers,
           o->quick ? ", quick: the figures mean nothing" : "");
    dml_err err = run_parts(&n);
    nftw(n.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    const double time_s = (double)(dml_clock_ns() - begin_ns) * 1e-9;
    const size_t failures = json_array_size(n.failures);
    json_object_set_new(n.report, "failures", n.failures);
    json_object_set_new(n.report, "passed", json_boolean(err == DML_ERR_OK && failures == 0));
    json_object_set_new(n.report, "time_s", json_real(time_s));
    if (err == DML_ERR_OK) err = bench_write(n.report, o->json);
    json_decref(n.report);
    DML_TRY(err);
    printf("%s in %.0f s; report: %s\n", failures ? "FAILED" : "passed", time_s, o->json);
    if (failures) DML_FAIL(DML_ERR_CHECK, "%zu part%s failed", failures, failures > 1 ? "s" : "");
    return DML_ERR_OK;
}

int dml_bench_node(int argc, char **argv)
{
    options o = {.backend = "auto", .json = "dml-node.json", .minutes = 10};
    const struct argp argp = {.options = argp_options,
                              .parser = parse_option,
                              .doc = "Proves this machine: kernels, links, bits, throughput.  The "
                                     "JSON is what to send with a question or a result."};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    setvbuf(stdout, NULL, _IOLBF, 0);
    const dml_err err = node_of(&o);
    if (err != DML_ERR_OK) fprintf(stderr, "%s: %s\n", argv[0], dml_err_trail());
    return dml_err_exit_code(err);
}
