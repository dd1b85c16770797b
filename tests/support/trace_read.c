/* tests/support/trace_read.c - events into spans, and what must hold of them. */
#include "tests/support/trace_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *said(const char *what, const char *name)
{
    static char text[256];
    snprintf(text, sizeof text, "%s: %s", what, name);
    return text;
}

static const char *text_of(const json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text ? text : "";
}

static int64_t whole_of(const json_t *event, const char *key)
{
    const json_t *v = json_object_get(event, key);
    return json_is_integer(v) ? json_integer_value(v) : -1;
}

static bool is(const json_t *event, const char *ph)
{
    return strcmp(text_of(event, "ph"), ph) == 0;
}

/* Microseconds with fractions. */
static int64_t ns_of(const json_t *event, const char *key)
{
    return llround(json_number_value(json_object_get(event, key)) * 1e3);
}

/* The name that metadata gives the process, or the thread, of the event. */
static const char *named(const json_t *events, const char *what, const char *key,
                         const json_t *event)
{
    const json_t *m;
    size_t i;
    json_array_foreach(events, i,
                       m) if (is(m, "M") && strcmp(text_of(m, "name"), what) == 0 &&
                              whole_of(m, key) ==
                                  whole_of(event, key)) return text_of(json_object_get(m, "args"),
                                                                       "name");
    return "";
}

static const char *add_span(trace_file *f, const json_t *events, const json_t *event)
{
    trace_span *s = &f->span[f->n++];
    const char *process = named(events, "process_name", "pid", event);
    const char *worker = strstr(process, "worker ");
    *s = (trace_span){.predicted = strncmp(process, "predicted: ", 11) == 0,
                      .row = named(events, "thread_name", "tid", event),
                      .name = text_of(event, "name"),
                      .args = json_object_get(event, "args"),
                      .begin_ns = ns_of(event, "ts"),
                      .end_ns = is(event, "X") ? ns_of(event, "ts") + ns_of(event, "dur") : -1};
    s->step = whole_of(s->args, "step");
    if (!worker || sscanf(worker, "worker %d, stage", &s->worker) != 1)
        return said("a process that is no worker", process);
    if (!s->row[0] || !s->name[0]) return said("no name", s->name);
    if (!json_is_number(json_object_get(event, "ts"))) return said("no ts", s->name);
    if (is(event, "X") && !json_is_number(json_object_get(event, "dur")))
        return said("no dur", s->name);
    if (s->step < 1) return said("no step", s->name);
    if (s->end_ns != -1 && s->end_ns < s->begin_ns) return said("ends before it begins", s->name);
    if (s->worker >= f->workers) f->workers = s->worker + 1;
    return NULL;
}

static void count_instant(trace_file *f, const json_t *event)
{
    static const char *const name[] = {"commit", "redo", "skip"};
    for (int i = 0; i < 3; i++)
        if (is(event, "i") && strcmp(text_of(event, "name"), name[i]) == 0) f->instants[i]++;
}

/* The other end of an arrow; NULL: there is none. */
static const json_t *other_end(const json_t *events, const json_t *event)
{
    const json_t *other;
    size_t i;
    json_array_foreach(events, i,
                       other) if (is(other, is(event, "s") ? "f" : "s") &&
                                  whole_of(other, "id") == whole_of(event, "id")) return other;
    return NULL;
}

static void count_arrow(trace_file *f, const json_t *events, const json_t *event)
{
    if (!is(event, "s") && !is(event, "f")) return;
    const json_t *other = other_end(events, event);
    if (!other || (is(event, "s") && ns_of(other, "ts") < ns_of(event, "ts")))
        f->loose++;
    else
        f->arrows += is(event, "s");
}

/* By row, then in time. */
static int in_time(const void *a, const void *b)
{
    const trace_span *x = *(const trace_span *const *)a, *y = *(const trace_span *const *)b;
    if (x->predicted != y->predicted) return x->predicted ? 1 : -1;
    if (x->worker != y->worker) return x->worker - y->worker;
    const int row = strcmp(x->row, y->row);
    if (row) return row;
    if (x->begin_ns != y->begin_ns) return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->end_ns < y->end_ns ? -1 : x->end_ns > y->end_ns;
}

static const char *check_rows(const trace_file *f)
{
    const trace_span **order = calloc((size_t)f->n + 1, sizeof *order);
    const char *wrong = NULL;
    for (int32_t i = 0; i < f->n; i++)
        order[i] = &f->span[i];
    qsort(order, (size_t)f->n, sizeof *order, in_time);
    for (int32_t i = 1; i < f->n && !wrong; i++) {
        const trace_span *a = order[i - 1], *b = order[i];
        const bool same =
            a->predicted == b->predicted && a->worker == b->worker && strcmp(a->row, b->row) == 0;
        if (same && (a->end_ns == -1 || a->end_ns > b->begin_ns))
            wrong = said("overlaps the one before it", b->name);
    }
    free(order);
    return wrong;
}

const char *trace_read(const char *path, trace_file *out)
{
    json_error_t error;
    *out = (trace_file){.root = json_load_file(path, JSON_REJECT_DUPLICATES, &error)};
    if (!out->root) return said("no JSON", error.text);
    const json_t *events = json_object_get(out->root, "traceEvents"), *event;
    if (!json_is_array(events)) return "no traceEvents";
    out->span = calloc(json_array_size(events) + 1, sizeof *out->span);
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *wrong = is(event, "X") || is(event, "B") ? add_span(out, events, event) : NULL;
        if (wrong) return wrong;
        if (whole_of(event, "pid") < 1 || whole_of(event, "tid") < 1) return "an event of nobody";
        count_instant(out, event);
        count_arrow(out, events, event);
    }
    return check_rows(out);
}

void trace_free(trace_file *f)
{
    json_decref(f->root);
    free(f->span);
    *f = (trace_file){0};
}
