/* bench/train.h - dml-bench train: a spec run in many layouts, one row each.
 *
 *   layout list --> runs of dml-train, repeats interleaved --> rows (JSON) --> speed-ups, checks, tables
 *
 * A row is a JSON object from the start (its fields: train_row.c), so that rows of this run and of an earlier
 * one are read by the same code.  What is not known is null.
 */
#ifndef DML_BENCH_TRAIN_H
#define DML_BENCH_TRAIN_H

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/spec.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { TRAIN_DEVICES = 16, TRAIN_LAYOUTS = 128, TRAIN_REPEATS = 99, TRAIN_WORD = 96 };

/* ---- train_layout.c: what to run ---- */

typedef enum train_kind {
    TRAIN_WRITTEN, /* as the spec says */
    TRAIN_EQUAL,   /* equal pipelines */
    TRAIN_AUTO,    /* chosen by the planner for a number of devices */
} train_kind;

typedef struct train_layout {
    train_kind kind;
    int32_t pipeline, replicas, virtual_stages; /* EQUAL */
    int32_t devices;                            /* EQUAL, AUTO */
    char schedule[TRAIN_WORD];                  /* ""; the spec's */
    bool one_of_all;                            /* from `all`: may turn out impossible */
} train_layout;

/* "1,2,4,8" into devices[TRAIN_DEVICES].
 * DML_ERR_SPEC  no such list */
dml_err train_devices_parse(const char *text, int32_t *devices, int32_t *n);

/* Layouts of a list of items between commas, into out[TRAIN_LAYOUTS]:
 *
 *   2x1, 2x2:zb_h1, 2x1x2:interleaved_1f1b   pipeline x replicas (x stages of each rank) : schedule
 *   all, all:gpipe                            every pipeline x replicas of each of the devices
 *   auto                                      the planner's choice for each of the devices
 *   spec                                      as the spec says
 *
 * DML_ERR_SPEC  names the item, and what would do */
dml_err train_layouts_parse(const char *list, const int32_t *devices, int32_t n_devices,
                            train_layout *out, int32_t *n);

/* "2x1x2:interleaved_1f1b", "auto@4", "spec"; the arena's. */
const char *train_layout_text(const train_layout *layout, dml_arena *arena);

/* Overrides of the spec that make it so, appended to argv[*n]; the arena's. */
void train_layout_overrides(const train_layout *layout, dml_arena *arena, const char **argv,
                            int32_t *n);

/* ---- train_spec.c: what the layouts have in common ---- */

typedef struct train_spec {
    int32_t global_batch;
    bool exact;    /* numerics */
    bool emulated; /* has delay layers: MFU would mean nothing */
    char hash[17]; /* of the resolved spec, but for where it writes */
    dml_precision precision;
    char backend[16]; /* that runs it: "auto" is resolved */
    bool on_host;
    int32_t threads, cores; /* of a worker, 0: cores / workers; of the host */
    double flops;           /* of a sample's training step: dml_model_flops */
    double peak_flop_s;     /* of a device, or of one core of a host; 0: unknown */
    char peak_source[192];
} train_spec;

/* Loads the spec with overrides[n].  DML_ERR_SPEC as dml_spec_load */
dml_err train_spec_load(const char *path, const char *const *overrides, int32_t n, train_spec *out);

/* Where no hardware file has said the peak of a host's core, measures what products reach on one. */
dml_err train_spec_measure_peak(train_spec *spec);

/* Of so many devices, or workers on the host's cores; nan: unknown. */
double train_peak_flop_s(const train_spec *spec, int32_t devices);

/* ---- train_follow.c: one run ---- */

/* Warm-up ends after the first step at which the medians of the last three windows lie within `tolerance` of the least;
 * else after most_warmup steps, or half of the seconds.  Then `steps` are timed, as far as the seconds reach. */
typedef struct train_rule {
    int32_t window, most_warmup, steps;
    double tolerance, seconds;
} train_rule;

typedef struct train_phase {
    int32_t warmup; /* steps; -1: not over */
    int32_t timed;  /* steps that count, after those */
    bool settled;   /* the windows agreed */
    bool done;
} train_phase;

/* After n steps of step_s[n] seconds each. */
train_phase train_phase_of(const train_rule *rule, const double *step_s, int32_t n);

typedef struct train_run {
    double *step_s, *loss; /* [n] owned */
    int32_t n, room;
    train_phase phase;
    int code;        /* exit code: 0, or 128 + SIGTERM when we stopped it */
    json_t *records; /* of each type the newest, of recoveries the first; owned */
    char why[2048];  /* it failed: the end of its log; else "" */
} train_run;

/* Runs argv, a dml-train that writes its metrics to `folder`, until the rule is met.
 * DML_ERR_UNAVAILABLE  it cannot be started.  What else went wrong stands in out->why. */
dml_err train_run_start(const char *const argv[], const char *folder, const train_rule *rule,
                        train_run *out);
/* Steps so far of a metrics.jsonl, which may grow; *at is where to go on, 0 at first. */
void train_run_read(const char *file, long *at, train_run *out);
void train_run_free(train_run *run);

/* ---- train_row.c ---- */

/* What all runs of one layout came to.
 *   runs       [n] n >= 1, all of them finished
 *   loss_step  from 1: whose loss is compared; a run with fewer steps has none */
json_t *train_row_of(const char *layout, const char *scaling, const train_spec *spec,
                     const train_run *runs, int32_t n, int32_t loss_step);

/* A number of the row or of the object `path` leads to ("step_s.median"); nan: null or not there. */
double train_number(const json_t *row, const char *path);
const char *train_text(const json_t *row, const char *field); /* "" likewise */

/* ---- train_judge.c: rows against each other ---- */

/* Adds speed_up and efficiency to each row: Ts is the row on one device of the same scaling. */
void train_compare(json_t *rows);

/* Rows of equal batch must have equal losses: to 1e-3 of the first, or in exact mode to the bit.  Sets loss_agrees of
 * each; returns how many do not. */
int32_t train_check_losses(json_t *rows, bool exact);

/* Adds `baseline_ratio`, samples a second over those of the same row of an earlier result (null: it has none).
 * DML_ERR_DATA  the file is no result of dml-bench train */
dml_err train_add_baseline(json_t *rows, const char *hash, const char *file);

/* The smallest of what `floor` is about: ratios to the baseline if there is one, else efficiencies.  *judged: rows that
 * have it. */
double train_least(const json_t *rows, bool baseline, int32_t *judged);

/* ---- train_table.c ---- */

void train_print(const json_t *rows);

#endif
