/* engine/spec_complaints.c - complaints with their source line and a caret. */
#include "engine/spec_complaints.h"

#include "engine/base/str.h"

#include <string.h>

const char dml_spec_command_line[] = "command line";

enum {
    SHOWN_COLUMNS = 100, /* of a source line; a longer one is shown around the caret */
    TRAIL_ROOM = 3900,   /* base/err.h keeps 4096 bytes */
};

static bool continues_character(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Columns count characters; the bytes of UTF-8 that continue one do not. */
static const char *skip_characters(const char *s, const char *end, int32_t n)
{
    while (n > 0 && s < end) {
        s++;
        while (s < end && continues_character(*s))
            s++;
        n--;
    }
    return s;
}

static int32_t count_characters(const char *s, const char *end)
{
    int32_t n = 0;
    for (; s < end; s++)
        n += !continues_character(*s);
    return n;
}

static bool find_line(const char *text, int32_t line, const char **begin, const char **end)
{
    for (int32_t i = 1; i < line; i++) {
        text = strchr(text, '\n');
        if (!text) return false;
        text++;
    }
    *begin = text;
    *end = text + strcspn(text, "\r\n");
    return true;
}

/* Where the word that starts at `s` ends: a quoted text to its quote, a plain one to a delimiter. */
static const char *word_end(const char *s, const char *end)
{
    if (s >= end) return s;
    if (*s == '"' || *s == '\'') {
        const char *close = memchr(s + 1, *s, (size_t)(end - s - 1));
        return close ? close + 1 : end;
    }
    const char *e = s + 1;
    if (!strchr("[]{} \t", *s))
        while (e < end && !strchr(" \t,]}", *e) && !(*e == ':' && (e + 1 == end || e[1] == ' ')))
            e++;
    return e;
}

/* The line with a caret under `column`, through the end of the word there. */
static void show_line(dml_str *s, const char *text, dml_place place)
{
    const char *begin, *end;
    if (!text || !find_line(text, place.line, &begin, &end) || begin == end) return;
    const char *at = skip_characters(begin, end, place.column - 1);
    const char *stop = word_end(at, end);
    const char *from = begin;
    if (count_characters(begin, stop) > SHOWN_COLUMNS)
        from = skip_characters(begin, end, count_characters(begin, at) - SHOWN_COLUMNS / 2);
    end = skip_characters(from, end, SHOWN_COLUMNS);
    if (stop > end) stop = end;
    dml_str_printf(s, "\n%5d | %.*s\n      | ", place.line, (int)(end - from), from);
    for (const char *c = from; c < at; c++)
        if (!continues_character(*c)) dml_str_append(s, *c == '\t' ? "\t" : " ", 1);
    dml_str_append(s, "^", 1);
    for (int32_t i = count_characters(at, stop); i > 1; i--)
        dml_str_append(s, "~", 1);
}

void dml_complain_at_va(dml_complaints *r, dml_place place, const char *fmt, va_list ap)
{
    if (r->n++ >= DML_COMPLAINTS_MAX) return;
    char what[1024];
    vsnprintf(what, sizeof what, fmt, ap);
    dml_str s = {0};
    const bool overridden = place.file == dml_spec_command_line,
               plan = place.file && place.file == r->source->plan_file;
    const char *file = plan ? place.file : r->source->file;
    if (overridden && place.line >= 1 && place.line <= r->source->n_overrides) {
        const char *override = r->source->overrides[place.line - 1];
        const size_t line = strcspn(override, "\n");
        dml_str_printf(&s, "%s: error: override '%.*s': %s", place.file,
                       line < 200 ? (int)line : 200, override, what);
    } else if (place.line < 1) {
        dml_str_printf(&s, "%s: error: %s", file, what);
    } else {
        dml_str_printf(&s, "%s:%d:%d: error: %s", file, place.line, place.column, what);
        show_line(&s, plan ? r->source->plan_text : r->source->text, place);
    }
    r->kept[r->n - 1].place = place;
    r->kept[r->n - 1].text = dml_arena_strdup(r->arena, dml_str_text(&s));
    dml_str_free(&s);
}

void dml_complain_at(dml_complaints *r, dml_place place, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    dml_complain_at_va(r, place, fmt, ap);
    va_end(ap);
}

void dml_complain_note(dml_complaints *r, const char *fmt, ...)
{
    if (r->n < 1 || r->n > DML_COMPLAINTS_MAX) return;
    char note[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(note, sizeof note, fmt, ap);
    va_end(ap);
    r->kept[r->n - 1].text = dml_arena_printf(r->arena, "%s\n  %s", r->kept[r->n - 1].text, note);
}

const char *dml_complain_where(dml_complaints *r, dml_place place)
{
    if (place.file == dml_spec_command_line) return "the command line";
    if (place.file && place.file == r->source->plan_file)
        return dml_arena_printf(r->arena, "line %d of the plan", place.line);
    return dml_arena_printf(r->arena, "line %d", place.line);
}

/* File first, then command line; a complaint without a place comes last of the file's. */
static bool comes_before(dml_place a, dml_place b)
{
    const bool a_cmd = a.file == dml_spec_command_line, b_cmd = b.file == dml_spec_command_line;
    if (a_cmd != b_cmd) return b_cmd;
    const int32_t a_line = a.line ? a.line : INT32_MAX, b_line = b.line ? b.line : INT32_MAX;
    return a_line != b_line ? a_line < b_line : a.column < b.column;
}

dml_err dml_complain_finish(const dml_complaints *r)
{
    if (r->n == 0) return DML_ERR_OK;
    const int32_t kept = r->n < DML_COMPLAINTS_MAX ? r->n : DML_COMPLAINTS_MAX;
    int32_t order[DML_COMPLAINTS_MAX];
    for (int32_t i = 0; i < kept; i++) {
        int32_t j = i;
        for (; j > 0 && comes_before(r->kept[i].place, r->kept[order[j - 1]].place); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    dml_str s = {0};
    int32_t shown = 0;
    for (; shown < kept; shown++) {
        const char *text = r->kept[order[shown]].text;
        if (shown > 0 && s.len + strlen(text) > TRAIL_ROOM) break;
        dml_str_printf(&s, "%s%s", shown ? "\n" : "", text);
    }
    if (shown < r->n) dml_str_printf(&s, "\n... and %d more", r->n - shown);
    const dml_err err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__, "%s", dml_str_text(&s));
    dml_str_free(&s);
    return err;
}
