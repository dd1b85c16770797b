/* bench/recovery.c - dml-bench recovery: what a loss costs, part by part, over many of each kind.
 *
 *   one run undisturbed                          losses of its steps, weights hash
 *   types x trials runs, a fault in each, or several, at a step, a phase and a rank drawn from the seed
 *        recovery record of metrics.jsonl   ->   detect | park | plan | move | rebuild | first step | all
 *        losses and hash                    ->   those of the undisturbed run?
 *
 * The runs are whole ones, start to end: processes die as they would, and what is measured is what the run itself writes
 * into its report.  A fault that ends the run, or one that no recovery followed, counts against it and the exit code is 7.
 */
#include "bench/bench.h"
#include "bench/train.h"

#include "engine/base/rng.h"
#include "engine/base/str.h"

#include <argp.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TYPES = 16, TRIALS = 1000, OVERRIDES = 64, WRONG = 7, NEXT_LOSSES = 10, FAULTS = 3 };

/* clang-format off */
/*    part      begins with          ends with           of the record                                       */
#define PART_LIST(X)                                                                                             \
    X(detect,   "t_fault_s",         "t_detect_s")       /* someone notices                                   */ \
    X(park,     "t_detect_s",        "t_park_s")         /* all who live have left the step                   */ \
    X(plan,     "t_park_s",          "t_plan_s")         /* the next plan is published                        */ \
    X(move,     "t_plan_s",          "t_move_state_s")   /* the state lies where the next plan finds it       */ \
    X(rebuild,  "t_move_state_s",    "t_rebuild_comm_s") /* transports are open, memory is filled             */ \
    X(first_step, "t_rebuild_comm_s", "t_first_step_s")  /* a step is committed                               */ \
    X(all,      "t_fault_s",         "t_first_step_s")
/* clang-format on */
static const struct {
    const char *name, *from, *to;
} parts[] = {
#define X(name, from, to) {#name, from, to},
    PART_LIST(X)
#undef X
};
enum { PARTS = sizeof parts / sizeof *parts };

/* Of a step: where a worker may be when it strikes. */
static const char *const phases[] = {"any", "forward", "backward", "reduce", "vote", "commit"};
enum { PHASES = sizeof phases / sizeof *phases };

typedef struct options {
    const char *spec, *json;
    const char *types[TYPES];
    const char *override[OVERRIDES];
    int32_t n_types, n_overrides, trials;
    int32_t faults; /* in one run, each of another rank */
    uint64_t seed;
    double limit_s;
} options;

typedef struct tally {
    int32_t trials, recovered, same_hash, same_losses;
    int64_t steps_lost;
    double s[PARTS][TRIALS];
    double worst; /* relative difference of the losses after the fault */
} tally;

typedef struct bench {
    const options *o;
    char folder[PATH_MAX], program[PATH_MAX];
    train_run undisturbed;
    int64_t steps, workers;
    bool exact;
    json_t *rows, *wrong;
} bench;

/* ---- running ---- */

static dml_err run(bench *b, const char *fault, train_run *out)
{
    const char *argv[OVERRIDES + 8];
    char log[PATH_MAX + 8], metrics[PATH_MAX + 16];
    dml_arena arena = {0};
    int n = 0;
    long at = 0;
    argv[n++] = b->program;
    argv[n++] = b->o->spec;
    for (int32_t i = 0; i < b->o->n_overrides; i++)
        argv[n++] = b->o->override[i];
    argv[n++] = dml_arena_printf(&arena, "run.output_dir=%s", b->folder);
    argv[n++] = "failures.policy=replan";
    argv[n++] = "logging.jsonl=true";
    if (fault) argv[n++] = dml_arena_printf(&arena, "failures.inject=[%s]", fault);
    argv[n] = NULL;
    snprintf(log, sizeof log, "%s/log", b->folder);
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", b->folder);
    remove(metrics);
    *out = (train_run){0};
    const dml_err err = bench_run(argv, log, b->o->limit_s, &out->code);
    if (err == DML_ERR_OK) train_run_read(metrics, &at, out);
    if (err == DML_ERR_OK && out->code != 0) bench_tail(log, out->why, sizeof out->why);
    dml_arena_free(&arena);
    return err;
}

static const json_t *record(const train_run *r, const char *type)
{
    return json_object_get(r->records, type);
}

static dml_err run_undisturbed(bench *b)
{
    DML_TRY(run(b, NULL, &b->undisturbed));
    const train_run *r = &b->undisturbed;
    if (r->code != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "the undisturbed run ended with code %d:\n%s", r->code,
                 r->why);
    b->steps = (int64_t)train_number(record(r, "run_start"), "total_steps");
    b->workers = (int64_t)train_number(record(r, "plan"), "world_size");
    b->exact = strncmp(train_text(record(r, "run_start"), "numerics"), "exact", 5) == 0;
    if (b->steps < 4 || r->n != b->steps)
        DML_FAIL(DML_ERR_SPEC, "%lld steps: there must be at least 4", (long long)b->steps);
    return DML_ERR_OK;
}

/* ---- one fault ---- */

/* Neither the first step nor the last two: one is to follow.  In quotes, for failures.inject. */
static void draw(const bench *b, int32_t type, int32_t trial, char *text, size_t bytes)
{
    uint32_t word[4];
    size_t at = 0;
    int64_t rank = 0;
    for (int32_t k = 0; k < b->o->faults && at < bytes; k++) {
        const uint64_t n = (uint64_t)trial * FAULTS + (uint64_t)k;
        dml_rng_block(dml_rng_key(b->o->seed, DML_RNG_TEST, (uint64_t)type), 0, n, word);
        rank = k == 0 ? (int64_t)(word[1] % (uint64_t)b->workers) : (rank + 1) % b->workers;
        at += (size_t)snprintf(text + at, bytes - at, "%s\"%s@step=%lld,rank=%lld,phase=%s\"",
                               k ? ", " : "", b->o->types[type],
                               2 + (long long)(word[0] % (uint64_t)(b->steps - 3)), (long long)rank,
                               phases[word[2] % PHASES]);
    }
}

/* Exact: the bits of all steps; else the next ones within rounding, the most relative difference of which is *worst.
 *   from  committed steps in the state that it went on with: those beyond come twice */
static bool same_losses(const bench *b, const train_run *r, int64_t from, double *worst)
{
    const int64_t again = r->n - b->undisturbed.n;
    if (again < 0) return false;
    for (int64_t i = 0; i < r->n; i++) {
        const double a = r->loss[i], u = b->undisturbed.loss[i < from + again ? i : i - again];
        if (b->exact && !(a == u || (isnan(a) && isnan(u)))) return false;
        const double off = a == u ? 0.0 : fabs(a - u) / fmax(fabs(a), fabs(u));
        if (i >= from + again && i < from + again + NEXT_LOSSES) *worst = fmax(*worst, off);
    }
    return *worst <= 1e-5;
}

static void complain(bench *b, const char *fault, const char *what, const char *why)
{
    printf("  %s: %s%s%s\n", fault, what, why[0] ? "\n" : "", why);
    json_array_append_new(b->wrong, json_pack("{s:s,s:s}", "fault", fault, "what", what));
}

static void judge(bench *b, const train_run *r, const char *fault, tally *t)
{
    const json_t *got = record(r, "recovery"), *end = record(r, "run_end");
    const char *hash = train_text(record(&b->undisturbed, "run_end"), "weights_hash");
    double worst = 0.0;
    t->trials++;
    if (r->code != 0 || !got) {
        complain(b, fault, r->code ? "the run did not go on" : "there was no recovery", r->why);
        return;
    }
    for (int p = 0; p < PARTS; p++)
        t->s[p][t->recovered] = train_number(got, parts[p].to) - train_number(got, parts[p].from);
    t->recovered++;
    t->steps_lost += (int64_t)train_number(end, "steps_lost");
    const bool losses = same_losses(b, r, (int64_t)train_number(got, "step"), &worst);
    t->same_losses += losses;
    t->worst = fmax(t->worst, worst);
    const bool same = strcmp(hash, train_text(end, "weights_hash")) == 0;
    t->same_hash += same;
    if (!losses) complain(b, fault, "losses are not the undisturbed run's", "");
    if (b->exact && !same) complain(b, fault, "weights are not the undisturbed run's", "");
}

/* ---- tables ---- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double rank_of(const double *sorted, int32_t n, double share)
{
    const int32_t at = (int32_t)ceil(share * n);
    return n > 0 ? sorted[at > 0 ? at - 1 : 0] : (double)NAN;
}

/* Counts by doubling milliseconds: < 1, < 2, < 4, ... */
static json_t *histogram(const double *s, int32_t n)
{
    json_t *h = json_object();
    int32_t at = 0;
    for (double below = 1.0; at < n && isfinite(s[at]); below *= 2.0) {
        char name[32];
        const int32_t begin = at;
        while (at < n && s[at] * 1e3 < below)
            at++;
        snprintf(name, sizeof name, "< %.0f ms", below);
        if (at > begin) json_object_set_new(h, name, json_integer(at - begin));
    }
    return h;
}

static void report(bench *b, const char *type, tally *t)
{
    json_t *row =
        json_pack("{s:s,s:i,s:i,s:i,s:i,s:I,s:f}", "type", type, "trials", t->trials, "recovered",
                  t->recovered, "same_weights", t->same_hash, "same_losses", t->same_losses,
                  "steps_lost", (json_int_t)t->steps_lost, "worst_loss_difference", t->worst);
    printf("%s: %d of %d recovered, %lld steps lost, %d with the undisturbed run's losses, %d with "
           "its weights\n",
           type, t->recovered, t->trials, (long long)t->steps_lost, t->same_losses, t->same_hash);
    printf("  %-12s %10s %10s %10s  ms\n", "", "p50", "p99", "max");
    for (int p = 0; p < PARTS; p++) {
        double *s = t->s[p];
        const int32_t n = t->recovered;
        qsort(s, (size_t)n, sizeof *s, ascending);
        printf("  %-12s %10.1f %10.1f %10.1f\n", parts[p].name, rank_of(s, n, 0.5) * 1e3,
               rank_of(s, n, 0.99) * 1e3, rank_of(s, n, 1.0) * 1e3);
        if (n == 0) continue;
        json_t *times = json_pack("{s:f,s:f,s:f,s:o}", "p50_s", rank_of(s, n, 0.5), "p99_s",
                                  rank_of(s, n, 0.99), "max_s", rank_of(s, n, 1.0), "histogram",
                                  histogram(s, n));
        json_object_set_new(row, parts[p].name, times);
    }
    fflush(stdout);
    json_array_append_new(b->rows, row);
}

static dml_err measure(bench *b)
{
    static tally t;
    DML_TRY(run_undisturbed(b));
    printf("undisturbed: %lld steps, %lld workers, weights %s\n", (long long)b->steps,
           (long long)b->workers, train_text(record(&b->undisturbed, "run_end"), "weights_hash"));
    for (int32_t i = 0; i < b->o->n_types; i++) {
        t = (tally){0};
        for (int32_t k = 0; k < b->o->trials; k++) {
            char fault[128 * FAULTS];
            train_run r;
            draw(b, i, k, fault, sizeof fault);
            const dml_err err = run(b, fault, &r);
            if (err == DML_ERR_OK) judge(b, &r, fault, &t);
            train_run_free(&r);
            DML_TRY(err);
        }
        report(b, b->o->types[i], &t);
    }
    return DML_ERR_OK;
}

/* ---- the command ---- */

static const struct argp_option argp_options[] = {
    {"types", 't', "A,B,...", 0, "faults, as docs/failures.md names them (default: kill)", 0},
    {"trials", 'n', "N", 0, "runs for each type (default: 20)", 0},
    {"faults", 'k', "N", 0, "in one run, each of the next rank, from 1 to 3 (default: 1)", 0},
    {"seed", 's', "N", 0, "of steps, phases and ranks (default: 1)", 0},
    {"limit", 'l', "SECONDS", 0, "a run that takes longer is killed and counts as lost (120)", 0},
    {"json", 'J', "FILE", 0, "results with environment", 0},
    {0}};

static void split(char *list, options *o)
{
    o->n_types = 0;
    for (char *word = strtok(list, ","); word && o->n_types < TYPES; word = strtok(NULL, ","))
        o->types[o->n_types++] = word;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 't': split(arg, o); return 0;
    case 'n': o->trials = atoi(arg); return 0;
    case 'k': o->faults = atoi(arg); return 0;
    case 's': o->seed = strtoull(arg, NULL, 10); return 0;
    case 'l': o->limit_s = atof(arg); return 0;
    case 'J': o->json = arg; return 0;
    case ARGP_KEY_ARG:
        if (!o->spec)
            o->spec = arg;
        else if (o->n_overrides < OVERRIDES)
            o->override[o->n_overrides++] = arg;
        else
            argp_error(state, "more than %d overrides", OVERRIDES);
        return 0;
    case ARGP_KEY_END:
        if (!o->spec) argp_error(state, "no spec");
        if (o->trials < 1 || o->trials > TRIALS)
            argp_error(state, "--trials is from 1 to %d", TRIALS);
        if (o->faults < 1 || o->faults > FAULTS)
            argp_error(state, "--faults is from 1 to %d", FAULTS);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static dml_err save(const bench *b, int argc, char **argv)
{
    dml_str command = {0};
    for (int i = 0; i < argc; i++)
        dml_str_printf(&command, "%s%s", i ? " " : "", argv[i]);
    json_t *root = json_pack("{s:s,s:o,s:s,s:b,s:O,s:O}", "command", dml_str_text(&command),
                             "environment", bench_environment(), "weights",
                             train_text(record(&b->undisturbed, "run_end"), "weights_hash"),
                             "exact", b->exact, "rows", b->rows, "wrong", b->wrong);
    dml_str_free(&command);
    const dml_err err = bench_write(root, b->o->json);
    json_decref(root);
    return err;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static dml_err open_folder(bench *b)
{
    char name[] = "/tmp/dml-recovery-XXXXXX";
    if (!mkdtemp(name)) DML_FAIL(DML_ERR_UNAVAILABLE, "no folder in /tmp");
    snprintf(b->folder, sizeof b->folder, "%s", name);
    return DML_ERR_OK;
}

int dml_bench_recovery(int argc, char **argv)
{
    static const struct argp argp = {argp_options,
                                     parse,
                                     "SPEC [KEY=VALUE...]",
                                     "Injects faults of each type at random places of a run, and "
                                     "says what it cost to go on.",
                                     NULL,
                                     NULL,
                                     NULL};
    options o = {
        .types = {"kill"}, .n_types = 1, .trials = 20, .faults = 1, .seed = 1, .limit_s = 120};
    bench b = {.o = &o, .rows = json_array(), .wrong = json_array()};
    (void)argp_parse(&argp, argc, argv, 0, NULL, &o);
    bench_beside("dml-train", b.program, sizeof b.program);
    dml_err err = open_folder(&b);
    if (err == DML_ERR_OK) err = measure(&b);
    if (b.folder[0]) nftw(b.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (err == DML_ERR_OK && o.json) err = save(&b, argc, argv);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-bench: %s\n", dml_err_trail());
    const bool wrong = json_array_size(b.wrong) > 0;
    train_run_free(&b.undisturbed);
    json_decref(b.rows);
    json_decref(b.wrong);
    return err != DML_ERR_OK ? dml_err_exit_code(err) : wrong ? WRONG : 0;
}
