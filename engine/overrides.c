/* engine/overrides.c - text to text: nothing here knows what a key means, but for the four that name workers. */
#include "engine/overrides.h"

#include "schedule/csv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the override that begins there, its end of line included. */
static size_t span(const char *text)
{
    size_t n = 0;
    do {
        n += strcspn(text + n, "\n");
        n += text[n] == '\n';
    } while (text[n] == ' ');
    return n;
}

static bool is_of(const char *override, const char *key)
{
    const size_t n = strlen(key);
    return strncmp(override, key, n) == 0 && override[n] == '=';
}

const char *const *dml_overrides_split(const char *text, dml_arena *arena, int32_t *n)
{
    int32_t count = 0;
    for (const char *at = text; *at; at += span(at))
        count++;
    const char **override = DML_NEW_N(arena, const char *, count + 1);
    *n = 0;
    for (const char *at = text; *at; at += span(at)) {
        const size_t bytes = span(at), ended = at[bytes - 1] == '\n';
        if (bytes > ended) /* an empty line is none */
            override[(*n)++] = dml_arena_printf(arena, "%.*s", (int)(bytes - ended), at);
    }
    return override;
}

bool dml_overrides_have(const char *text, const char *key)
{
    for (; *text; text += span(text))
        if (is_of(text, key)) return true;
    return false;
}

/* ---- other workers ----------------------------------------------------------------------------------- */

typedef struct relabeling {
    const int32_t *to; /* [workers] */
    int32_t workers;
    dml_str *out;
} relabeling;

/* Appends all but the numbers of the list at `text`, a "[1, 2]", which become others; returns what is behind it. */
static const char *rename_list(const relabeling *r, const char *text)
{
    while (*text && *text != ']') {
        if (!isdigit((unsigned char)*text)) {
            dml_str_append(r->out, text++, 1);
            continue;
        }
        char *end;
        const long w = strtol(text, &end, 10);
        dml_str_printf(r->out, "%d", w < r->workers ? r->to[w] : (int32_t)w);
        text = end;
    }
    return text;
}

static void rename_lost(const relabeling *r, const char *text, const char *end)
{
    text = rename_list(r, text);
    dml_str_append(r->out, text, (size_t)(end - text));
}

/* Only what stands behind "workers:" is a list of workers. */
static void rename_stages(const relabeling *r, const char *text, const char *end)
{
    static const char key[] = "workers:";
    for (const char *at; (at = strstr(text, key)) != NULL && at < end;) {
        at += strlen(key);
        dml_str_append(r->out, text, (size_t)(at - text));
        text = rename_list(r, at);
    }
    dml_str_append(r->out, text, (size_t)(end - text));
}

/* Where element i of a list that has one for each worker begins, behind `open`. */
static const char *element(const char *list, const char *end, char separator, int32_t i)
{
    for (; i > 0 && list < end; list++)
        i -= *list == separator;
    return list;
}

/* Worker w's place becomes that of to[w], so that place to[w] of the list holds what place w held. */
static void move_elements(const relabeling *r, const char *list, const char *end, char separator)
{
    for (int32_t i = 0; i < r->workers; i++) {
        int32_t from = 0;
        while (r->to[from] != i)
            from++;
        const char *at = element(list, end, separator, from), *stop = at;
        while (stop < end && *stop != separator)
            stop++;
        if (i > 0) dml_str_append(r->out, &separator, 1);
        dml_str_append(r->out, at, (size_t)(stop - at));
    }
}

static void move_seats(const relabeling *r, const char *text, const char *end)
{
    const char *open = strchr(text, '['), *close = memchr(text, ']', (size_t)(end - text));
    if (!open || !close || open > close) {
        dml_str_append(r->out, text, (size_t)(end - text)); /* none are written */
        return;
    }
    dml_str_append(r->out, text, (size_t)(open + 1 - text));
    move_elements(r, open + 1, close, ',');
    dml_str_append(r->out, close, (size_t)(end - close));
}

/* Rows begin behind the first line, "|". */
static void move_rows(const relabeling *r, const char *text, const char *end)
{
    const char *rows = memchr(text, '\n', (size_t)(end - text));
    if (!rows) {
        dml_str_append(r->out, text, (size_t)(end - text));
        return;
    }
    dml_str_append(r->out, text, (size_t)(rows + 1 - text));
    move_elements(r, rows + 1, end[-1] == '\n' ? end - 1 : end, '\n');
    dml_str_printf(r->out, "\n");
}

static const struct {
    const char *key;
    void (*put)(const relabeling *r, const char *text, const char *end);
} named[] = {
    {"parallelism.lost", rename_lost},
    {"parallelism.seats", move_seats},
    {"parallelism.stages", rename_stages},
    {"parallelism.order", move_rows},
};

void dml_overrides_relabel(const char *text, const int32_t *to, int32_t workers, dml_str *out)
{
    const relabeling r = {to, workers, out};
    for (; *text; text += span(text)) {
        const char *end = text + span(text);
        size_t k = 0;
        while (k < sizeof named / sizeof *named && !is_of(text, named[k].key))
            k++;
        if (k < sizeof named / sizeof *named)
            named[k].put(&r, text, end);
        else
            dml_str_append(out, text, (size_t)(end - text));
    }
}

/* ---- nothing left to choose -------------------------------------------------------------------------- */

static void append_cut(const dml_plan *plan, dml_str *out)
{
    dml_str_printf(out, "parallelism.split=");
    for (int32_t s = 0; s < plan->stages; s++)
        dml_str_printf(out, "%s%d", s ? "," : "[", plan->stage_begin[s + 1] - plan->stage_begin[s]);
    dml_str_printf(out, "]\n");
}

static void append_order(const dml_plan *plan, dml_str *out)
{
    dml_str rows = {0};
    dml_csv_print(&plan->train, &rows);
    dml_str_printf(out, "parallelism.order=|\n");
    for (const char *row = dml_str_text(&rows); *row;) {
        const size_t n = strcspn(row, "\n") + 1;
        dml_str_printf(out, " ");
        dml_str_append(out, row, n);
        row += n;
    }
    dml_str_free(&rows);
}

void dml_overrides_settle(const char *text, const dml_plan *plan, dml_str *out)
{
    const size_t n = strlen(text);
    dml_str_append(out, text, n);
    if (n > 0 && text[n - 1] != '\n') dml_str_printf(out, "\n");
    if (!dml_overrides_have(text, "parallelism.split")) append_cut(plan, out);
    if (plan->updates == 1 && !dml_overrides_have(text, "parallelism.order"))
        append_order(plan, out);
}
