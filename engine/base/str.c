/* base/str.c - a growing string. */
#include "engine/base/str.h"

#include "engine/base/err.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

void dml_str_free(dml_str *s)
{
    free(s->text);
    *s = (dml_str){0};
}

void dml_str_clear(dml_str *s)
{
    s->len = 0;
    if (s->text) s->text[0] = '\0';
}

static void reserve(dml_str *s, size_t more)
{
    if (s->len + more + 1 <= s->cap) return;
    size_t cap = s->cap ? s->cap * 2 : 256;
    while (cap < s->len + more + 1)
        cap *= 2;
    char *text = realloc(s->text, cap);
    if (!text) dml_assert_failed("out of memory in a string", (int64_t)cap, 0, __FILE__, __LINE__);
    s->text = text;
    s->cap = cap;
}

void dml_str_append(dml_str *s, const char *bytes, size_t n)
{
    reserve(s, n);
    memcpy(s->text + s->len, bytes, n);
    s->len += n;
    s->text[s->len] = '\0';
}

void dml_str_printf(dml_str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    reserve(s, (size_t)n);
    vsnprintf(s->text + s->len, (size_t)n + 1, fmt, again);
    va_end(again);
    s->len += (size_t)n;
}

const char *dml_str_text(const dml_str *s)
{
    return s->text ? s->text : "";
}

int dml_str_distance(const char *a, const char *b)
{
    enum { MAX = 63 };
    int row[3][MAX + 1];
    const int n = (int)MIN2(strlen(a), (size_t)MAX), m = (int)MIN2(strlen(b), (size_t)MAX);
    for (int j = 0; j <= m; j++)
        row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            const int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            now[j] = MIN2(MIN2(now[j - 1] + 1, last[j] + 1), last[j - 1] + (ca != cb));
            const bool swapped = i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                                 cb == tolower((unsigned char)a[i - 2]);
            if (swapped) now[j] = MIN2(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}
