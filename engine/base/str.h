/* base/str.h - a growing string for text output. */
#ifndef DML_BASE_STR_H
#define DML_BASE_STR_H

#include <stddef.h>

typedef struct dml_str {
    char *text; /* owned, NUL-terminated; NULL while empty */
    size_t len, cap;
} dml_str; /* starts as {0} */

void dml_str_free(dml_str *s);
void dml_str_clear(dml_str *s);
void dml_str_printf(dml_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void dml_str_append(dml_str *s, const char *bytes, size_t n);
/* The text so far, "" while empty; borrowed until the next change. */
const char *dml_str_text(const dml_str *s);

/* Edit distance of two short words (optimal string alignment, case-insensitive), for "did you mean". */
int dml_str_distance(const char *a, const char *b);

#endif
