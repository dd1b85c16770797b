/* bench/train.c - dml-bench train: options, the runs in turn, what is made of them.
 *
 *   repeat 1:  layout 0, layout 1, ...      so that all layouts meet the same hours of a machine;
 *   repeat 2:  layout 0, layout 1, ...      each run is a process tree of its own
 */
#include "bench/train.h"
#include "bench/bench.h"
#include "engine/model.h"

#include <argp.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ARGS = 64, MORE_ARGS = 16, ROWS = 2 * TRAIN_LAYOUTS };

enum {
    OPT_DEVICES = 256,
    OPT_LAYOUTS,
    OPT_WEAK,
    OPT_STRONG,
    OPT_BASELINE,
    OPT_FLOOR,
    OPT_JSON,
    OPT_WARMUP,
    OPT_SECONDS,
    OPT_LOSS_STEP
};

/* ---- options ---- */

typedef struct options {
    const char *spec, *overrides[MAX_ARGS];
    int32_t n_overrides;
    const char *layouts, *baseline, *json;
    int32_t devices[TRAIN_DEVICES], n_devices;
    bool weak, strong;
    int32_t repeat, loss_step;
    double floor; /* nan: none */
    train_rule rule;
} options;

static const struct argp_option argp_options[] = {
    {"devices", OPT_DEVICES, "LIST", 0, "numbers of devices, such as 1,2,4,8, for all and auto", 0},
    {"layouts", OPT_LAYOUTS, "LIST", 0,
     "auto, all, spec, or pipeline x replicas: 1x1,2x2:zb_h1,2x1x2:interleaved_1f1b (auto with "
     "--devices, else spec)",
     0},
    {"strong", OPT_STRONG, NULL, 0, "the same global batch on all (the default)", 0},
    {"weak", OPT_WEAK, NULL, 0, "the spec's global batch times the devices; with --strong: both",
     0},
    {"repeat", 'r', "N", 0, "runs of each, interleaved (3)", 0},
    {"steps", 'n', "N", 0, "timed steps of a run (50)", 0},
    {"warmup", OPT_WARMUP, "N", 0,
     "most steps before them; fewer once three windows of 10 differ by less than 2 % (100)", 0},
    {"seconds", OPT_SECONDS, "S", 0, "most of a run, warm-up at most half of it (60)", 0},
    {"loss-step", OPT_LOSS_STEP, "N", 0, "rows of equal batch must have equal loss there (10)", 0},
    {"baseline", OPT_BASELINE, "FILE", 0, "an earlier JSON: samples/s over its samples/s", 0},
    {"floor", OPT_FLOOR, "X", 0,
     "exit code 7 when a row's ratio to the baseline, or without one its efficiency, is below X",
     0},
    {"json", OPT_JSON, "FILE", 0, "write the rows there", 0},
    {0},
};

static int32_t count(const char *text, struct argp_state *state)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (*end || value < 1 || value > 1000000) argp_error(state, "'%s': a number from 1", text);
    return (int32_t)value;
}

static double positive(const char *text, struct argp_state *state)
{
    char *end;
    const double value = strtod(text, &end);
    if (*end || !(value > 0)) argp_error(state, "'%s': a number above 0", text);
    return value;
}

static void take_argument(options *o, char *arg, struct argp_state *state)
{
    if (!o->spec)
        o->spec = arg;
    else if (o->n_overrides == MAX_ARGS)
        argp_error(state, "more than %d overrides", MAX_ARGS);
    else
        o->overrides[o->n_overrides++] = arg;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case OPT_DEVICES:
        if (train_devices_parse(arg, o->devices, &o->n_devices) != DML_ERR_OK)
            argp_error(state, "%s", dml_err_trail());
        return 0;
    case OPT_LAYOUTS: o->layouts = arg; return 0;
    case OPT_STRONG: o->strong = true; return 0;
    case OPT_WEAK: o->weak = true; return 0;
    case 'r': o->repeat = count(arg, state); break;
    case 'n': o->rule.steps = count(arg, state); return 0;
    case OPT_WARMUP: o->rule.most_warmup = count(arg, state); return 0;
    case OPT_SECONDS: o->rule.seconds = positive(arg, state); return 0;
    case OPT_LOSS_STEP: o->loss_step = count(arg, state); return 0;
    case OPT_BASELINE: o->baseline = arg; return 0;
    case OPT_FLOOR: o->floor = positive(arg, state); return 0;
    case OPT_JSON: o->json = arg; return 0;
    case ARGP_KEY_ARG: take_argument(o, arg, state); return 0;
    case ARGP_KEY_END:
        if (!o->spec) argp_error(state, "SPEC is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
    if (o->repeat > TRAIN_REPEATS) argp_error(state, "at most %d repeats", TRAIN_REPEATS);
    return 0;
}

/* ---- the work ---- */

typedef struct cell { /* a row to be */
    const train_layout *layout;
    const char *text, *scaling;
    train_run *runs; /* [repeat] */
    int32_t n;
    bool failed;
} cell;

typedef struct work {
    const options *o;
    dml_arena arena;
    train_spec spec;
    train_layout layout[TRAIN_LAYOUTS];
    cell cell[ROWS];
    int32_t n_cells;
    char folder[64], train[PATH_MAX];
    json_t *rows, *impossible;
} work;

static void add_cells(work *w, int32_t n_layouts, const char *scaling)
{
    for (int32_t i = 0; i < n_layouts; i++)
        w->cell[w->n_cells++] = (cell){.layout = &w->layout[i],
                                       .text = train_layout_text(&w->layout[i], &w->arena),
                                       .scaling = scaling,
                                       .runs = DML_NEW_N(&w->arena, train_run, w->o->repeat)};
}

static dml_err plan_cells(work *w)
{
    const options *o = w->o;
    int32_t n;
    const char *const list = o->layouts ? o->layouts : o->n_devices ? "auto" : "spec";
    DML_TRY(train_layouts_parse(list, o->devices, o->n_devices, w->layout, &n));
    if (o->strong || !o->weak) add_cells(w, n, "strong");
    if (o->weak) add_cells(w, n, "weak");
    for (int32_t i = 0; i < n && o->weak; i++)
        if (w->layout[i].kind == TRAIN_WRITTEN)
            DML_FAIL(DML_ERR_SPEC, "--weak needs a layout's number of devices: 'spec' says none");
    return DML_ERR_OK;
}

/* The command line of a cell's run. */
static void command(work *w, const cell *c, const char **argv)
{
    int32_t n = 0;
    argv[n++] = w->train;
    argv[n++] = w->o->spec;
    for (int32_t i = 0; i < w->o->n_overrides; i++)
        argv[n++] = w->o->overrides[i];
    train_layout_overrides(c->layout, &w->arena, argv, &n);
    if (strcmp(c->scaling, "weak") == 0)
        argv[n++] = dml_arena_printf(&w->arena, "training.global_batch_size=%lld",
                                     (long long)w->spec.global_batch * c->layout->devices);
    argv[n++] = "training.max_steps=1000000"; /* stopped when enough was seen: train_follow.c */
    argv[n++] = "training.eval_interval=0";
    argv[n++] = "logging.console=quiet";
    argv[n++] = dml_arena_printf(&w->arena, "run.output_dir=%s", w->folder);
    argv[n] = NULL;
}

/* The first line of what a run said that failed. */
static int first_line(const char *why)
{
    return (int)strcspn(why, "\n");
}

static dml_err run_cell(work *w, cell *c, int32_t repeat)
{
    const char *argv[MAX_ARGS + MORE_ARGS];
    train_run *run = &c->runs[repeat];
    command(w, c, argv);
    DML_TRY(train_run_start(argv, w->folder, &w->o->rule, run));
    const train_phase *p = &run->phase;
    if (!run->why[0]) {
        c->n++;
        fprintf(stderr, "%-16s %-6s run %d of %d: %d steps after %d%s\n", c->text, c->scaling,
                repeat + 1, w->o->repeat, p->timed, p->warmup, p->settled ? "" : ", never settled");
        return DML_ERR_OK;
    }
    c->failed = true;
    fprintf(stderr, "%-16s %-6s %.*s\n", c->text, c->scaling, first_line(run->why), run->why);
    json_array_append_new(w->impossible, json_pack("{s:s, s:s, s:s}", "layout", c->text, "scaling",
                                                   c->scaling, "why", run->why));
    if (c->layout->one_of_all && run->code == dml_err_exit_code(DML_ERR_SPEC)) return DML_ERR_OK;
    DML_FAIL(DML_ERR_CHECK, "%s: exit code %d\n%s", c->text, run->code, run->why);
}

static dml_err run_cells(work *w)
{
    for (int32_t r = 0; r < w->o->repeat; r++)
        for (int32_t i = 0; i < w->n_cells; i++)
            if (!w->cell[i].failed) DML_TRY(run_cell(w, &w->cell[i], r));
    for (int32_t i = 0; i < w->n_cells; i++) {
        const cell *c = &w->cell[i];
        if (!c->failed)
            json_array_append_new(w->rows, train_row_of(c->text, c->scaling, &w->spec, c->runs,
                                                        c->n, w->o->loss_step));
    }
    return DML_ERR_OK;
}

/* ---- the verdict ---- */

static dml_err write_result(const work *w)
{
    const options *o = w->o;
    json_t *overrides = json_array();
    for (int32_t i = 0; i < o->n_overrides; i++)
        json_array_append_new(overrides, json_string(o->overrides[i]));
    json_t *root = json_pack(
        "{s:s, s:i, s:o, s:s, s:o, s:s, s:s, s:s, s:b, s:{s:f, s:f, s:b, s:s}, s:{s:i, s:i, s:i, "
        "s:f, s:f}, s:O, s:O}",
        "program", "dml-bench train", "version", 1, "environment", bench_environment(), "spec",
        o->spec, "overrides", overrides, "spec_hash", w->spec.hash, "precision",
        dml_precision_name(w->spec.precision), "numerics", w->spec.exact ? "exact" : "fast",
        "emulated", w->spec.emulated, "mfu", "flops_per_sample", w->spec.flops, "peak_flop_s",
        w->spec.peak_flop_s, "peak_of_a_core", w->spec.on_host, "peak_source", w->spec.peak_source,
        "rule", "repeat", o->repeat, "steps", o->rule.steps, "most_warmup", o->rule.most_warmup,
        "tolerance", o->rule.tolerance, "seconds", o->rule.seconds, "rows", w->rows, "impossible",
        w->impossible);
    const dml_err err = bench_write(root, o->json);
    json_decref(root);
    return err;
}

static dml_err judge(const work *w, int32_t different)
{
    const options *o = w->o;
    int32_t judged;
    const double least = train_least(w->rows, o->baseline != NULL, &judged);
    const char *const what = o->baseline ? "ratio to the baseline" : "efficiency";
    if (judged > 0) printf("\nleast %s of %d rows: %.3f\n", what, judged, least);
    if (different > 0)
        DML_FAIL(DML_ERR_CHECK, "%d rows have another loss at step %d", different, o->loss_step);
    if (!isnan(o->floor) && judged == 0) DML_FAIL(DML_ERR_CHECK, "there is no %s to judge", what);
    if (!isnan(o->floor) && least < o->floor)
        DML_FAIL(DML_ERR_CHECK, "the least %s, %.3f, is below the floor, %g", what, least,
                 o->floor);
    return DML_ERR_OK;
}

static dml_err conclude(work *w)
{
    const options *o = w->o;
    train_compare(w->rows);
    const int32_t different = train_check_losses(w->rows, w->spec.exact);
    if (o->baseline) DML_TRY(train_add_baseline(w->rows, w->spec.hash, o->baseline));
    printf("# dml-bench train: %s, %s %s, %d runs of %d steps%s\n", o->spec,
           dml_precision_name(w->spec.precision), w->spec.exact ? "exact" : "fast", o->repeat,
           o->rule.steps, w->spec.emulated ? "; emulated: delay layers sleep" : "");
    if (w->spec.peak_flop_s > 0)
        printf("# MFU: samples/s x %.6g FLOPs of a sample (products of linear and conv2d, forward "
               "and both "
               "gradients) / peak; peak %.1f GFLOP/s a %s: %s\n",
               w->spec.flops, w->spec.peak_flop_s * 1e-9, w->spec.on_host ? "core" : "device",
               w->spec.peak_source);
    train_print(w->rows);
    if (o->json) DML_TRY(write_result(w));
    return judge(w, different);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static dml_err bench(const options *o)
{
    static work w;
    w = (work){.o = o, .folder = "/tmp/dml-bench-XXXXXX"};
    DML_TRY(train_spec_load(o->spec, o->overrides, o->n_overrides, &w.spec));
    DML_TRY(plan_cells(&w));
    DML_TRY(train_spec_measure_peak(&w.spec));
    if (!mkdtemp(w.folder)) DML_FAIL(DML_ERR_UNAVAILABLE, "no folder in /tmp");
    bench_beside("dml-train", w.train, sizeof w.train);
    w.rows = json_array();
    w.impossible = json_array();
    dml_err err = run_cells(&w);
    if (err == DML_ERR_OK) err = conclude(&w);
    for (int32_t i = 0; i < w.n_cells; i++)
        for (int32_t r = 0; r < o->repeat; r++)
            train_run_free(&w.cell[i].runs[r]);
    nftw(w.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    json_decref(w.rows);
    json_decref(w.impossible);
    dml_arena_free(&w.arena);
    return err;
}

int dml_bench_train(int argc, char **argv)
{
    options o = {
        .repeat = 3,
        .loss_step = 10,
        .floor = (double)NAN,
        .rule = {.window = 10, .most_warmup = 100, .steps = 50, .tolerance = 0.02, .seconds = 60}};
    const struct argp argp = {.options = argp_options,
                              .parser = parse_option,
                              .args_doc = "SPEC [key.path=value ...]",
                              .doc = "Measures training in several layouts."};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = bench(&o);
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-bench train: ", dml_err_trail());
    return dml_err_exit_code(err);
}
