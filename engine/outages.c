/* engine/outages.c - line by line; a line either sets the number of live workers or moves one of them. */
#include "engine/outages.h"

#include "engine/base/rng.h"
#include "engine/spec_value.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIELD = 32, FIELDS = 3, FULL_MOST = 1 << 20, HOUR_S = 3600 };
#define DRAW_ID 1 /* of DML_RNG_FAULTS: a run's own faults are 0 */

typedef enum form { FORM_OPEN, FORM_LIVE, FORM_EVENTS } form;

typedef struct reader {
    const char *name;
    int32_t line;
    form form;
    uint64_t key, drawn; /* draws so far */
    int64_t last_ns;
    bool begun, ended;
    uint64_t lost;
    int32_t room;
    dml_arena *arena;
    dml_outages out;
} reader;

#define MISTAKE(r, ...) return mistake(r, __LINE__, __VA_ARGS__)

static dml_err mistake(const reader *r, int source_line, const char *what, const char *mend)
{
    return dml_err_set(DML_ERR_SPEC, __FILE__, source_line, "%s:%d: %s; %s", r->name, r->line, what,
                       mend);
}

static const char *quoted(const reader *r, const char *format, const char *text)
{
    return dml_arena_printf(r->arena, format, text);
}

/* Splits at commas, without the spaces round them; -1: too many, or one too long. */
static int32_t fields_of(const char *line, size_t n, char field[FIELDS][FIELD])
{
    int32_t k = 0;
    for (size_t at = 0; at <= n; k++) {
        size_t end = at;
        while (end < n && line[end] != ',')
            end++;
        size_t from = at, to = end;
        while (from < to && isspace((unsigned char)line[from]))
            from++;
        while (to > from && isspace((unsigned char)line[to - 1]))
            to--;
        if (k == FIELDS || to - from >= FIELD) return -1;
        memcpy(field[k], line + from, to - from);
        field[k][to - from] = '\0';
        at = end + 1;
    }
    return k;
}

static int32_t count(uint64_t set)
{
    return __builtin_popcountll(set);
}

static uint64_t all_of(int32_t workers)
{
    return workers == DML_OUTAGE_WORKERS ? UINT64_MAX : ((uint64_t)1 << workers) - 1;
}

/* One of the set, which is not empty: word * n / 2^32 is uniform to 2^-26 for so few. */
static uint64_t draw(reader *r, uint64_t set)
{
    uint32_t word[4];
    dml_rng_block(r->key, 0, r->drawn++, word);
    for (uint64_t k = (uint64_t)word[0] * (uint64_t)count(set) >> 32; k > 0; k--)
        set &= set - 1;
    return set & -set;
}

static void note(reader *r, int64_t at_ns)
{
    dml_outages *o = &r->out;
    if (r->lost == (o->n > 0 ? o->at[o->n - 1].lost : 0)) return;
    if (o->n > 0 && o->at[o->n - 1].at_ns == at_ns) { /* several events of one moment */
        o->at[o->n - 1].lost = r->lost;
        if (r->lost == (o->n > 1 ? o->at[o->n - 2].lost : 0)) o->n--;
        return;
    }
    if (o->n == r->room) {
        dml_outage *more = DML_NEW_N(r->arena, dml_outage, r->room > 0 ? 2 * r->room : 64);
        if (o->n > 0) memcpy(more, o->at, (size_t)o->n * sizeof *more);
        o->at = more;
        r->room = r->room > 0 ? 2 * r->room : 64;
    }
    o->at[o->n++] = (dml_outage){at_ns, r->lost};
}

/* ---- a line ------------------------------------------------------------------------------------------ */

static dml_err read_time(reader *r, const char *text, int64_t *at_ns)
{
    double hours;
    if (!dml_value_number(text, &hours) || hours < 0 || hours > 1e5)
        MISTAKE(r, quoted(r, "'%s' is no time", text), "hours since the trace began, such as 0.54");
    *at_ns = (int64_t)(hours * HOUR_S * 1e9 + 0.5);
    if (r->form == FORM_LIVE && !r->begun && *at_ns != 0)
        MISTAKE(r, "the trace does not begin at 0", "first row: 0,...");
    if (*at_ns < r->last_ns) MISTAKE(r, "earlier than the row before", "rows go forward in time");
    return DML_ERR_OK;
}

static dml_err read_live(reader *r, const char *text, int64_t at_ns)
{
    int64_t live;
    if (!dml_value_whole(text, &live) || live < 0 || live > FULL_MOST)
        MISTAKE(r, quoted(r, "'%s' is no number of workers", text), "such as 23");
    if (!r->begun) {
        if (live == 0) MISTAKE(r, "the trace begins with nobody", "the first row is the full set");
        r->out.full = (int32_t)live;
    }
    if (live > r->out.full)
        MISTAKE(r, dml_arena_printf(r->arena, "%lld workers", (long long)live),
                "no more than the first row has");
    const int32_t workers = r->out.workers;
    const int32_t want = (int32_t)((2 * live * workers + r->out.full) / (2 * (int64_t)r->out.full));
    while (workers - count(r->lost) > want)
        r->lost |= draw(r, all_of(workers) & ~r->lost);
    while (workers - count(r->lost) < want)
        r->lost &= ~draw(r, r->lost);
    note(r, at_ns);
    return DML_ERR_OK;
}

static dml_err read_event(reader *r, char field[FIELDS][FIELD], int32_t n, int64_t at_ns)
{
    if (n == 2 && strcmp(field[1], "end") == 0) {
        r->ended = true;
        return DML_ERR_OK;
    }
    const bool fail = strcmp(field[1], "fail") == 0;
    if (n < 3 || (!fail && strcmp(field[1], "return") != 0))
        MISTAKE(r, quoted(r, "'%s'", field[1]),
                "hours,fail,WORKER, hours,return,WORKER or hours,end");
    int64_t worker;
    if (!dml_value_whole(field[2], &worker) || worker < 0 || worker >= r->out.workers)
        MISTAKE(r, quoted(r, "'%s' is no worker of this run", field[2]),
                dml_arena_printf(r->arena, "0 to %d", r->out.workers - 1));
    const uint64_t bit = (uint64_t)1 << worker;
    if (fail == ((r->lost & bit) != 0))
        MISTAKE(r,
                quoted(r, fail ? "worker %s is gone already" : "worker %s is not gone", field[2]),
                "each goes and comes in turn");
    r->lost ^= bit;
    note(r, at_ns);
    return DML_ERR_OK;
}

static dml_err read_head(reader *r, char field[FIELDS][FIELD], int32_t n)
{
    const bool hours = strcmp(field[0], "hours") == 0;
    if (hours && n == 2 && strcmp(field[1], "live") == 0)
        r->form = FORM_LIVE;
    else if (hours && n == 3 && strcmp(field[1], "event") == 0 && strcmp(field[2], "worker") == 0)
        r->form = FORM_EVENTS;
    else
        MISTAKE(r, "a trace begins with a line that names its columns",
                "'hours,live' or 'hours,event,worker'");
    return DML_ERR_OK;
}

static dml_err read_line(reader *r, const char *line, size_t n)
{
    char field[FIELDS][FIELD];
    int64_t at_ns = 0;
    const char *comment = memchr(line, '#', n);
    if (comment) n = (size_t)(comment - line);
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        n--;
    if (n == 0) return DML_ERR_OK;
    const int32_t fields = fields_of(line, n, field);
    if (fields < 2)
        MISTAKE(r, "no row of a trace", "two or three short fields with commas between them");
    if (r->form == FORM_OPEN) return read_head(r, field, fields);
    if (r->ended) MISTAKE(r, "a row behind the end", "'end' is the last one");
    DML_TRY(read_time(r, field[0], &at_ns));
    if (r->form == FORM_LIVE && fields != 2) MISTAKE(r, "three fields", "hours,live has two");
    DML_TRY(r->form == FORM_LIVE ? read_live(r, field[1], at_ns)
                                 : read_event(r, field, fields, at_ns));
    r->begun = true;
    r->last_ns = at_ns;
    return DML_ERR_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

dml_err dml_outages_parse(const char *text, const char *name, int32_t workers, uint64_t seed,
                          dml_arena *arena, dml_outages *out)
{
    reader r = {.name = name,
                .key = dml_rng_key(seed, DML_RNG_FAULTS, DRAW_ID),
                .arena = arena,
                .out.workers = workers};
    DML_ASSERT_OP(workers, >=, 1);
    DML_ASSERT_OP(workers, <=, DML_OUTAGE_WORKERS);
    for (const char *line = text; *line;) {
        const size_t n = strcspn(line, "\n");
        r.line++;
        DML_TRY(read_line(&r, line, n));
        line += n + (line[n] == '\n');
    }
    r.ended = r.ended || r.form == FORM_LIVE;
    if (!r.ended || r.last_ns == 0)
        MISTAKE(&r, "the trace has no end",
                "its last row is the end: hours,live again, or hours,end");
    r.out.end_ns = r.last_ns;
    *out = r.out;
    return DML_ERR_OK;
}

dml_err dml_outages_load(const char *path, int32_t workers, uint64_t seed, dml_arena *arena,
                         dml_outages *out)
{
    FILE *f = fopen(path, "r");
    if (!f) DML_FAIL(DML_ERR_SPEC, "cannot open the trace '%s': %s", path, strerror(errno));
    dml_str text = {0};
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;)
        dml_str_append(&text, part, n);
    dml_err err = ferror(f) ? dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                                          "cannot read the trace '%s': %s", path, strerror(errno))
                            : DML_ERR_OK;
    fclose(f);
    if (err == DML_ERR_OK)
        err = dml_outages_parse(dml_str_text(&text), path, workers, seed, arena, out);
    dml_str_free(&text);
    return err;
}

double dml_outages_mean_live(const dml_outages *o)
{
    double area = 0;
    for (int32_t i = -1; i < o->n; i++) {
        const int64_t from = i < 0 ? 0 : o->at[i].at_ns,
                      to = i + 1 < o->n ? o->at[i + 1].at_ns : o->end_ns;
        area += (double)(to - from) * (o->workers - count(i < 0 ? 0 : o->at[i].lost));
    }
    return area / (double)o->end_ns;
}
