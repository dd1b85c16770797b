/* bench/train_follow.c - one run of dml-train, watched through its metrics.jsonl and stopped when enough was seen.
 *
 *   steps   0 ............ warmup ............ warmup + timed
 *           | windows differ | the last three agree: these count | SIGTERM: it ends after its step
 *
 * The run is asked for more steps than it will make, so nothing of it (learning rate, evaluation) depends on when it is
 * stopped.
 */
#include "bench/bench.h"
#include "bench/train.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOWS = 3, START_S = 120, END_S = 60 };

/* ---- the rule ---- */

static double median_of(const double *v, int32_t n)
{
    double copy[64];
    DML_ASSERT_OP(n, <=, 64);
    memcpy(copy, v, (size_t)n * sizeof *v);
    return bench_spread_of(copy, n).median;
}

/* The windows that end before step n. */
static bool agree(const train_rule *rule, const double *step_s, int32_t n)
{
    double least = INFINITY, most = 0;
    if (n < WINDOWS * rule->window) return false;
    for (int32_t w = 1; w <= WINDOWS; w++) {
        const double m = median_of(step_s + n - w * rule->window, rule->window);
        least = m < least ? m : least;
        most = m > most ? m : most;
    }
    return most - least < rule->tolerance * least;
}

train_phase train_phase_of(const train_rule *rule, const double *step_s, int32_t n)
{
    train_phase p = {.warmup = -1};
    double now_s = 0;
    for (int32_t i = 0; i < n && !p.done; i++) {
        now_s += step_s[i];
        if (p.warmup < 0) {
            p.settled = agree(rule, step_s, i + 1);
            if (p.settled || i + 1 >= rule->most_warmup || now_s >= rule->seconds / 2)
                p.warmup = i + 1;
            continue;
        }
        p.timed++;
        p.done = p.timed == rule->steps || now_s >= rule->seconds;
    }
    return p;
}

/* ---- reading ---- */

static void add_step(train_run *r, const json_t *record)
{
    if (r->n == r->room) {
        r->room = r->room ? 2 * r->room : 256;
        r->step_s = realloc(r->step_s, (size_t)r->room * sizeof *r->step_s);
        r->loss = realloc(r->loss, (size_t)r->room * sizeof *r->loss);
        DML_ASSERT(r->step_s && r->loss);
    }
    r->step_s[r->n] = train_number(record, "step_time_s");
    r->loss[r->n++] = train_number(record, "loss");
}

/* Of each type the newest, but of recoveries the first: the others may be returns, which nobody's death began. */
static void keep_record(train_run *out, const char *type, json_t *record)
{
    const bool first_only = strcmp(type, "recovery") == 0;
    if (type[0] == '\0' || (first_only && json_object_get(out->records, type))) return;
    json_object_set(out->records, type, record);
}

void train_run_read(const char *file, long *at, train_run *out)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    FILE *f = fopen(file, "r");
    if (!f) return;
    fseek(f, *at, SEEK_SET);
    if (!out->records) out->records = json_object();
    while ((length = getline(&line, &room, f)) > 0 && line[length - 1] == '\n') {
        *at += length;
        json_t *record = json_loads(line, 0, NULL);
        const char *type = train_text(record, "type");
        if (strcmp(type, "step") == 0) add_step(out, record);
        keep_record(out, type, record);
        json_decref(record);
    }
    free(line);
    fclose(f);
}

/* ---- running ---- */

typedef struct watch {
    const train_rule *rule;
    train_run *run;
    char metrics[PATH_MAX];
    long at;
} watch;

static bool seen_enough(void *context)
{
    watch *w = context;
    const int32_t before = w->run->n;
    train_run_read(w->metrics, &w->at, w->run);
    return w->run->n > before && train_phase_of(w->rule, w->run->step_s, w->run->n).done;
}

dml_err train_run_start(const char *const argv[], const char *folder, const train_rule *rule,
                        train_run *out)
{
    char log[PATH_MAX];
    watch w = {.rule = rule, .run = out};
    *out = (train_run){0};
    snprintf(w.metrics, sizeof w.metrics, "%s/metrics.jsonl", folder);
    snprintf(log, sizeof log, "%s/log", folder);
    remove(w.metrics);
    const dml_err err =
        bench_run_until(argv, log, rule->seconds + START_S + END_S, seen_enough, &w, &out->code);
    if (err != DML_ERR_OK) return err;
    train_run_read(w.metrics, &w.at, out);
    out->phase = train_phase_of(rule, out->step_s, out->n);
    if (out->code != 128 + SIGTERM && out->code != 0) {
        bench_tail(log, out->why, sizeof out->why);
        if (!out->why[0]) snprintf(out->why, sizeof out->why, "exit code %d\n", out->code);
    } else if (out->phase.timed == 0) {
        snprintf(out->why, sizeof out->why,
                 "its %d steps of training.max_steps ended before the warm-up did\n", out->n);
    }
    return DML_ERR_OK;
}

void train_run_free(train_run *run)
{
    free(run->step_s);
    free(run->loss);
    json_decref(run->records);
    *run = (train_run){0};
}
