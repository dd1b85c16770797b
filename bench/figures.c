/* bench/figures.c - expressions over results, and where their values go. */
#include "bench/figures.h"
#include "bench/bench.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VALUES = 4096, WORD = 128 };

static const char begin_mark[] =
    "<!-- figures: made of bench/figures.md by dml-bench figures --write -->\n",
                  end_mark[] = "<!-- /figures -->\n";

/* ---- paths ---- */

typedef struct values {
    const json_t *v[MOST_VALUES];
    int n;
} values;

typedef struct reader {
    const char *at;
    const json_t *root;
} reader;

static void skip(reader *r)
{
    while (*r->at == ' ')
        r->at++;
}

static bool took(reader *r, char c)
{
    skip(r);
    if (*r->at != c) return false;
    r->at++;
    return true;
}

/* Letters, digits, _ */
static dml_err word(reader *r, char out[WORD])
{
    int n = 0;
    while ((isalnum((unsigned char)*r->at) || *r->at == '_') && n < WORD - 1)
        out[n++] = *r->at++;
    out[n] = '\0';
    if (n == 0) DML_FAIL(DML_ERR_DATA, "a name is missing before '%.20s'", r->at);
    return DML_ERR_OK;
}

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static void members(values *set, const char *name)
{
    int kept = 0;
    for (int i = 0; i < set->n; i++) {
        const json_t *member = json_object_get(set->v[i], name);
        if (member) set->v[kept++] = member;
    }
    set->n = kept;
}

/* Of each array: the elements whose member `name` is `text`; name NULL: the element `index`, or all where that is -1. */
static dml_err elements(values *set, const char *name, const char *text, long index)
{
    static values arrays;
    arrays = *set;
    set->n = 0;
    for (int a = 0; a < arrays.n; a++)
        for (size_t i = 0; i < json_array_size(arrays.v[a]); i++) {
            const json_t *e = json_array_get(arrays.v[a], i);
            const bool keep =
                name ? is_text(json_object_get(e, name), text) : index < 0 || (size_t)index == i;
            if (!keep) continue;
            if (set->n == MOST_VALUES) DML_FAIL(DML_ERR_DATA, "more than %d values", MOST_VALUES);
            set->v[set->n++] = e;
        }
    return DML_ERR_OK;
}

/* Behind a '[': ], N] or name='text'] */
static dml_err selection(reader *r, values *set)
{
    char name[WORD], text[WORD];
    if (took(r, ']')) return elements(set, NULL, NULL, -1);
    if (isdigit((unsigned char)*r->at)) {
        char *end;
        const long index = strtol(r->at, &end, 10);
        r->at = end;
        if (!took(r, ']')) DML_FAIL(DML_ERR_DATA, "']' is missing before '%.20s'", r->at);
        return elements(set, NULL, NULL, index);
    }
    DML_TRY(word(r, name));
    if (strncmp(r->at, "='", 2) != 0)
        DML_FAIL(DML_ERR_DATA, "%s='text' is meant, not '%.20s'", name, r->at);
    r->at += 2;
    const size_t n = strcspn(r->at, "'");
    snprintf(text, sizeof text, "%.*s", (int)n, r->at);
    r->at += n;
    if (strncmp(r->at, "']", 2) != 0) DML_FAIL(DML_ERR_DATA, "the end of '%s is missing", text);
    r->at += 2;
    return elements(set, name, text, -1);
}

static dml_err path(reader *r, values *set)
{
    char name[WORD];
    const char *const start = r->at;
    set->v[0] = r->root;
    set->n = 1;
    do {
        DML_TRY(word(r, name));
        members(set, name);
        while (*r->at == '[') {
            r->at++;
            DML_TRY(selection(r, set));
        }
    } while (*r->at == '.' && r->at++);
    if (set->n == 1 && json_is_array(set->v[0])) DML_TRY(elements(set, NULL, NULL, -1));
    if (set->n == 0) DML_FAIL(DML_ERR_DATA, "nothing is at %.*s", (int)(r->at - start), start);
    return DML_ERR_OK;
}

/* ---- expressions ---- */

static bool same(const json_t *a, const json_t *b)
{
    return json_equal(a, b) != 0;
}

static double distinct(const values *set)
{
    int n = 0;
    for (int i = 0; i < set->n; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++)
            seen = seen || same(set->v[i], set->v[k]);
        n += !seen;
    }
    return n;
}

static dml_err apply(const char *function, const values *set, double *out)
{
    static double v[MOST_VALUES];
    if (strcmp(function, "count") == 0 || strcmp(function, "distinct") == 0) {
        *out = function[0] == 'c' ? set->n : distinct(set);
        return DML_ERR_OK;
    }
    for (int i = 0; i < set->n; i++) {
        if (!json_is_number(set->v[i])) DML_FAIL(DML_ERR_DATA, "a value is no number");
        v[i] = json_number_value(set->v[i]);
    }
    const double median = bench_spread_of(v, set->n).median; /* which sorts */
    if (strcmp(function, "median") == 0)
        *out = median;
    else if (strcmp(function, "min") == 0)
        *out = v[0];
    else if (strcmp(function, "max") == 0)
        *out = v[set->n - 1];
    else
        DML_FAIL(DML_ERR_DATA, "no function '%s': min, max, median, count, distinct", function);
    return DML_ERR_OK;
}

static dml_err sum(reader *r, double *out);

static dml_err factor(reader *r, double *out)
{
    static values set;
    char function[WORD];
    skip(r);
    if (isdigit((unsigned char)*r->at)) {
        char *end;
        *out = strtod(r->at, &end);
        r->at = end;
        return DML_ERR_OK;
    }
    if (took(r, '(')) {
        DML_TRY(sum(r, out));
        if (!took(r, ')')) DML_FAIL(DML_ERR_DATA, "')' is missing before '%.20s'", r->at);
        return DML_ERR_OK;
    }
    const char *const start = r->at;
    DML_TRY(word(r, function));
    if (*r->at == '(') {
        r->at++;
        DML_TRY(path(r, &set));
        if (!took(r, ')')) DML_FAIL(DML_ERR_DATA, "')' is missing before '%.20s'", r->at);
        return apply(function, &set, out);
    }
    r->at = start;
    DML_TRY(path(r, &set));
    if (set.n != 1 || !json_is_number(set.v[0]))
        DML_FAIL(DML_ERR_DATA, "%.*s is not one number", (int)(r->at - start), start);
    *out = json_number_value(set.v[0]);
    return DML_ERR_OK;
}

static dml_err product(reader *r, double *out)
{
    double next;
    DML_TRY(factor(r, out));
    for (;;) {
        const bool times = took(r, '*');
        if (!times && !took(r, '/')) return DML_ERR_OK;
        DML_TRY(factor(r, &next));
        *out = times ? *out * next : *out / next;
    }
}

static dml_err sum(reader *r, double *out)
{
    double next;
    DML_TRY(product(r, out));
    for (;;) {
        const bool plus = took(r, '+');
        if (!plus && !took(r, '-')) return DML_ERR_OK;
        DML_TRY(product(r, &next));
        *out += plus ? next : -next;
    }
}

/* ---- templates ---- */

static bool is_format(const char *f)
{
    return strcmp(f, "%s") == 0 || (strlen(f) == 4 && strncmp(f, "%.", 2) == 0 &&
                                    isdigit((unsigned char)f[2]) && f[3] == 'f');
}

static dml_err evaluate(reader *r, const char *format, dml_str *out)
{
    static values set;
    double value;
    if (strcmp(format, "%s") == 0) {
        skip(r);
        DML_TRY(path(r, &set));
        if (set.n != 1 || !json_is_string(set.v[0])) DML_FAIL(DML_ERR_DATA, "it is not one text");
        dml_str_printf(out, "%s", json_string_value(set.v[0]));
    } else {
        DML_TRY(sum(r, &value));
        if (!isfinite(value)) DML_FAIL(DML_ERR_DATA, "its value is not finite");
        dml_str_printf(out, "%.*f", format[2] - '0', value);
    }
    skip(r);
    if (*r->at) DML_FAIL(DML_ERR_DATA, "'%.20s' does not belong there", r->at);
    return DML_ERR_OK;
}

/* FILE EXPRESSION FORMAT */
static dml_err figure(char *text, const char *folder, dml_str *out)
{
    char file[PATH_MAX];
    json_error_t why;
    char *expression = strchr(text, ' '), *format = strrchr(text, ' ');
    if (!expression || format == expression || !is_format(format + 1))
        DML_FAIL(DML_ERR_DATA, "FILE EXPRESSION %%.Nf is meant");
    *expression++ = '\0';
    *format++ = '\0';
    snprintf(file, sizeof file, "%s/%s", folder, text);
    json_t *root = json_load_file(file, 0, &why);
    if (!root) DML_FAIL(DML_ERR_DATA, "%s:%d: %s", file, why.line, why.text);
    reader r = {.at = expression, .root = root};
    const dml_err err = evaluate(&r, format, out);
    json_decref(root);
    return err;
}

dml_err bench_figures_fill(const char *text, const char *folder, dml_str *out)
{
    for (const char *open; (open = strstr(text, "{{")) != NULL;) {
        char inside[1024], why[1024];
        const char *close = strstr(open, "}}");
        const int n = close ? (int)(close - open) - 2 : 0;
        if (!close || (size_t)n >= sizeof inside)
            DML_FAIL(DML_ERR_DATA, "no }} after '%.40s'", open);
        dml_str_append(out, text, (size_t)(open - text));
        snprintf(inside, sizeof inside, "%.*s", n, open + 2);
        const dml_err err = figure(inside, folder, out);
        snprintf(why, sizeof why, "%s", dml_err_trail());
        if (err != DML_ERR_OK) DML_FAIL(err, "{{%.*s}}: %s", n, open + 2, why);
        text = close + 2;
    }
    dml_str_printf(out, "%s", text);
    return DML_ERR_OK;
}

dml_err bench_figures_place(const char *page, const char *block, dml_str *out)
{
    const char *begin = strstr(page, begin_mark), *end = begin ? strstr(begin, end_mark) : NULL;
    if (!end)
        DML_FAIL(DML_ERR_DATA, "these two lines are missing: %.*s and %.*s",
                 (int)strlen(begin_mark) - 1, begin_mark, (int)strlen(end_mark) - 1, end_mark);
    begin += strlen(begin_mark);
    dml_str_append(out, page, (size_t)(begin - page));
    dml_str_printf(out, "%s%s", block, end);
    return DML_ERR_OK;
}

/* ---- the command ---- */

static dml_err read_all(const char *path, dml_str *out)
{
    char part[4096];
    size_t n;
    FILE *f = fopen(path, "r");
    if (!f) DML_FAIL(DML_ERR_DATA, "cannot read '%s'", path);
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        dml_str_append(out, part, n);
    fclose(f);
    return DML_ERR_OK;
}

static dml_err write_all(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f) DML_FAIL(DML_ERR_DATA, "cannot write '%s'", path);
    const bool failed = fputs(text, f) < 0;
    if (fclose(f) != 0 || failed) DML_FAIL(DML_ERR_DATA, "cannot write '%s'", path);
    return DML_ERR_OK;
}

/* The first line in which they differ. */
static dml_err complain(const char *path, const char *is, const char *should)
{
    int line = 1;
    while (*is && strcspn(is, "\n") == strcspn(should, "\n") &&
           strncmp(is, should, strcspn(is, "\n") + 1) == 0) {
        is += strcspn(is, "\n") + 1;
        should += strcspn(should, "\n") + 1;
        line++;
    }
    DML_FAIL(DML_ERR_CHECK,
             "%s:%d: differs from the results; `dml-bench figures --write` sets it right\n  is     "
             " %.*s\n"
             "  should  %.*s",
             path, line, (int)strcspn(is, "\n"), is, (int)strcspn(should, "\n"), should);
}

static dml_err figures(const char *root, bool write)
{
    char path[PATH_MAX], results[PATH_MAX];
    dml_str source = {0}, block = {0}, page = {0}, made = {0};
    snprintf(path, sizeof path, "%s/bench/figures.md", root);
    snprintf(results, sizeof results, "%s/bench/results", root);
    dml_err err = read_all(path, &source);
    if (err == DML_ERR_OK) err = bench_figures_fill(dml_str_text(&source), results, &block);
    snprintf(path, sizeof path, "%s/README.md", root);
    if (err == DML_ERR_OK) err = read_all(path, &page);
    if (err == DML_ERR_OK)
        err = bench_figures_place(dml_str_text(&page), dml_str_text(&block), &made);
    const bool differs = err == DML_ERR_OK && strcmp(dml_str_text(&page), dml_str_text(&made)) != 0;
    if (differs)
        err = write ? write_all(path, dml_str_text(&made))
                    : complain(path, dml_str_text(&page), dml_str_text(&made));
    dml_str_free(&source);
    dml_str_free(&block);
    dml_str_free(&page);
    dml_str_free(&made);
    return err;
}

int dml_bench_figures(int argc, char **argv)
{
    const bool write = argc > 1 && strcmp(argv[1], "--write") == 0;
    if (argc - write > 2 || (argc > 1 + write && argv[1 + write][0] == '-')) {
        fprintf(stderr,
                "Usage: %s [--write] [FOLDER]\nFills bench/figures.md with what bench/results/ "
                "has, and compares "
                "README.md in FOLDER (.) with it.\n",
                argv[0]);
        return dml_err_exit_code(DML_ERR_SPEC);
    }
    const dml_err err = figures(argc > 1 + write ? argv[1 + write] : ".", write);
    if (err != DML_ERR_OK) fprintf(stderr, "%s\n", dml_err_trail());
    return dml_err_exit_code(err);
}
