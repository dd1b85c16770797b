/* tests/support/history.c - reads metrics.jsonl and holds it to tests/support/history.h. */
#include "tests/support/history.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

typedef struct complaint {
    char *why;
    size_t bytes;
} complaint;

static bool bad(complaint c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool bad(complaint c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c.why, c.bytes, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- reading ---- */

static int64_t whole(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static double real(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static const char *text(const json_t *o, const char *key)
{
    const char *t = json_string_value(json_object_get(o, key));
    return t ? t : "";
}

static void *grown(void *list, int32_t n, size_t each)
{
    void *more = n & (n - 1) ? list : realloc(list, (size_t)(n > 0 ? 2 * n : 1) * each);
    if (!more) abort();
    return more;
}

static int64_t words(const char *t)
{
    int64_t n = t[0] != '\0';
    for (; *t; t++)
        n += *t == ' ';
    return n;
}

static void take(history *h, const json_t *o)
{
    const char *type = text(o, "type");
    if (strcmp(type, "run_start") == 0) {
        history_free(h);
        h->total_steps = whole(o, "total_steps");
        h->batch = whole(o, "global_batch_size");
        h->exact = strncmp(text(o, "numerics"), "exact", 5) == 0;
    } else if (strcmp(type, "step") == 0) {
        h->step = grown(h->step, h->n_steps, sizeof *h->step);
        h->step[h->n_steps++] = (history_step){.step = whole(o, "step"),
                                               .samples = whole(o, "samples"),
                                               .generation = whole(o, "generation"),
                                               .loss = real(o, "loss"),
                                               .grad_norm = real(o, "grad_norm"),
                                               .skipped = strcmp(text(o, "verdict"), "skip") == 0};
    } else if (strcmp(type, "recovery") == 0) {
        const bool lost = strcmp(text(o, "reason"), "rejoin") != 0;
        h->recovery = grown(h->recovery, h->n_recoveries, sizeof *h->recovery);
        h->recovery[h->n_recoveries++] =
            (history_recovery){.generation = whole(o, "generation"),
                               .step = whole(o, "step"),
                               .steps_lost = whole(o, "steps_lost"),
                               .after = h->n_steps,
                               .losses = lost ? words(text(o, "ranks")) : 0};
    } else if (strcmp(type, "failure") == 0) {
        h->failures++;
    } else if (strcmp(type, "run_end") == 0) {
        h->has_end = true;
        h->exit_code = whole(o, "exit_code");
        h->end_steps = whole(o, "steps");
        snprintf(h->status, sizeof h->status, "%s", text(o, "status"));
        snprintf(h->hash, sizeof h->hash, "%s", text(o, "weights_hash"));
    }
}

bool history_read(const char *path, history *h, char *why, size_t bytes)
{
    static char line[1 << 16];
    const complaint c = {why, bytes};
    *h = (history){0};
    FILE *f = fopen(path, "r");
    if (!f) return bad(c, "cannot read '%s'", path);
    bool ok = true;
    for (int64_t n = 1; ok && fgets(line, sizeof line, f); n++) {
        json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        if (json_is_object(o) && line[strlen(line) - 1] == '\n')
            take(h, o);
        else
            ok = bad(c, "line %" PRId64 " of '%s' is torn", n, path);
        json_decref(o);
    }
    fclose(f);
    return ok;
}

void history_free(history *h)
{
    free(h->step);
    free(h->recovery);
    *h = (history){0};
}

/* ---- checking ---- */

static bool same(double a, double b, double tolerance)
{
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return a == b || fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b));
}

/* The recovery of whose plan the record `i` is the first step. */
static const history_recovery *recovery_at(const history *h, int32_t i)
{
    for (int32_t r = 0; r < h->n_recoveries; r++)
        if (h->recovery[r].generation == h->step[i].generation &&
            (i == 0 || h->step[i - 1].generation != h->step[i].generation))
            return &h->recovery[r];
    return NULL;
}

static bool same_outcome(const history_step *a, const history_step *b, double tolerance,
                         const char *what, complaint c)
{
    if (a->samples != b->samples)
        return bad(c, "step %" PRId64 " counts %" PRId64 " samples, %s %" PRId64, a->step,
                   a->samples, what, b->samples);
    if (a->skipped != b->skipped)
        return bad(c, "step %" PRId64 " is %s, unlike %s", a->step,
                   a->skipped ? "skipped" : "committed", what);
    if (!same(a->loss, b->loss, tolerance))
        return bad(c, "step %" PRId64 " has loss %.17g, %s %.17g", a->step, a->loss, what, b->loss);
    if (tolerance == 0.0 && !same(a->grad_norm, b->grad_norm, 0.0))
        return bad(c, "step %" PRId64 " has gradient norm %.17g, %s %.17g", a->step, a->grad_norm,
                   what, b->grad_norm);
    return true;
}

/* The newest record before `i` of the same step. */
static const history_step *earlier(const history *h, int32_t i)
{
    for (int32_t k = i - 1; k >= 0; k--)
        if (h->step[k].step == h->step[i].step) return &h->step[k];
    return NULL;
}

static bool check_order(const history *h, double tolerance, complaint c)
{
    int64_t last = h->n_steps > 0 ? h->step[0].step - 1 : 0; /* a resumed run begins later */
    int64_t generation = 0;
    for (int32_t i = 0; i < h->n_steps; i++) {
        const history_step *s = &h->step[i];
        if (s->generation < generation)
            return bad(c, "step %" PRId64 " is of plan %" PRId64 ", after one of plan %" PRId64,
                       s->step, s->generation, generation);
        const history_recovery *r = recovery_at(h, i);
        if (s->step > last + 1)
            return bad(c, "step %" PRId64 " follows step %" PRId64, s->step, last);
        if (s->step <= last && (!r || r->step + 1 != s->step || r->steps_lost != last - r->step))
            return bad(
                c, "step %" PRId64 " comes again after step %" PRId64 ", and no recovery says why",
                s->step, last);
        if (s->step == last + 1 && r && r->steps_lost != 0)
            return bad(c,
                       "the recovery to plan %" PRId64 " says %" PRId64 " steps are lost: none is",
                       r->generation, r->steps_lost);
        const history_step *before = earlier(h, i);
        if (before && !same_outcome(s, before, tolerance, "the first time", c)) return false;
        last = s->step;
        generation = s->generation;
    }
    return last == h->total_steps ||
           bad(c, "the last step is %" PRId64 " of %" PRId64, last, h->total_steps);
}

static bool check_end(const history *h, const history *oracle, complaint c)
{
    int64_t recovered = 0;
    for (int32_t r = 0; r < h->n_recoveries; r++)
        recovered += h->recovery[r].losses;
    if (!h->has_end) return bad(c, "the run has no end");
    if (strcmp(h->status, "finished") != 0 || h->exit_code != 0)
        return bad(c, "the run %s with code %" PRId64, h->status, h->exit_code);
    if (h->end_steps != h->total_steps)
        return bad(c, "the end says %" PRId64 " steps of %" PRId64, h->end_steps, h->total_steps);
    if (recovered != h->failures)
        return bad(c, "%" PRId64 " workers were lost, recoveries tell of %" PRId64, h->failures,
                   recovered);
    if (h->hash[0] == '\0')
        return bad(c, "replicas ended with different weights, or some did not end");
    if (oracle && h->exact && strcmp(h->hash, oracle->hash) != 0)
        return bad(c, "weights %s are not the undisturbed run's, %s", h->hash, oracle->hash);
    return true;
}

bool history_check(const history *h, const history *oracle, double tolerance, char *why,
                   size_t bytes)
{
    const complaint c = {why, bytes};
    const double within = h->exact ? 0.0 : tolerance;
    if (!check_order(h, within, c)) return false;
    for (int32_t i = 0; oracle && i < h->n_steps; i++) {
        const int64_t at = h->step[i].step - 1;
        if (at < 0 || at >= oracle->n_steps || oracle->step[at].step != at + 1)
            return bad(c, "the undisturbed run has no step %" PRId64, at + 1);
        if (!same_outcome(&h->step[i], &oracle->step[at], within, "the undisturbed run's", c))
            return false;
    }
    return check_end(h, oracle, c);
}
