/* base/err.c - the per-thread error trail. */
#include "engine/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIL_BYTES = 4096 };
static _Thread_local char trail[TRAIL_BYTES];

const char *dml_err_text(dml_err err)
{
    static const char *const text[] = {
#define X(name, exit, text) text,
        DML_ERR_LIST(X)
#undef X
    };
    return (size_t)err < sizeof text / sizeof *text ? text[err] : "unknown error";
}

int dml_err_exit_code(dml_err err)
{
    static const int code[] = {
#define X(name, exit, text) exit,
        DML_ERR_LIST(X)
#undef X
    };
    return (size_t)err < sizeof code / sizeof *code ? code[err] : 1;
}

/* Source paths are absolute under some generators; people want them from the root of the tree. */
static const char *from_root(const char *file)
{
    static const char *const tops[] = {"/engine/", "/schedule/", "/kernels/",
                                       "/comm/",   "/tests/",    "/bench/"};
    const char *best = file;
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
        const char *at = strstr(file, tops[i]);
        if (at && (best == file || at + 1 < best)) best = at + 1;
    }
    return best;
}

static void append(size_t at, const char *fmt, va_list ap)
{
    if (at < sizeof trail - 1) vsnprintf(trail + at, sizeof trail - at, fmt, ap);
}

static void append_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void append_line(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    append(strlen(trail), fmt, ap);
    va_end(ap);
}

dml_err dml_err_set(dml_err err, const char *file, int line, const char *fmt, ...)
{
    char text[TRAIL_BYTES]; /* apart, since an argument may point into the trail */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    /* A message about the user's own input speaks of that input, not of our source. */
    trail[0] = '\0';
    if (err != DML_ERR_SPEC && err != DML_ERR_DATA) append_line("%s:%d: ", from_root(file), line);
    append_line("%s", text);
    return err;
}

dml_err dml_err_add(dml_err err, const char *func, const char *file, int line)
{
    if (err != DML_ERR_SPEC && err != DML_ERR_DATA)
        append_line("\n  in %s (%s:%d)", func, from_root(file), line);
    return err;
}

const char *dml_err_trail(void)
{
    return trail;
}

void dml_err_trail_put(const char *text)
{
    snprintf(trail, sizeof trail, "%s", text);
}

void dml_assert_failed(const char *expr, int64_t a, int64_t b, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s  (%lld, %lld)\n", from_root(file), line, expr,
            (long long)a, (long long)b);
    abort();
}
