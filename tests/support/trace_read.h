/* tests/support/trace_read.h - a file of trace events, read back with a JSON parser. */
#ifndef DML_TEST_TRACE_READ_H
#define DML_TEST_TRACE_READ_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

/* An event with a begin: ph "X", or "B" where it was never done. */
typedef struct trace_span {
    int32_t worker; /* of the process's name */
    bool predicted;
    const char *row;  /* "steps", "compute", ... */
    const char *name; /* "F0.3", as all texts borrowed from `root` */
    int64_t step;
    int64_t begin_ns, end_ns; /* of ts and dur; end -1: never done */
    const json_t *args;
} trace_span;

typedef struct trace_file {
    json_t *root;     /* owned */
    trace_span *span; /* [n] owned, in the order of the file */
    int32_t n, workers;
    int32_t instants[3]; /* named commit, redo, skip */
    int32_t arrows;      /* "s" that meet an "f" of the same number, not before it */
    int32_t loose;       /* the others of both kinds */
} trace_file;

/* NULL, or what is wrong with the file: no JSON, a duplicate key, an event without what its kind must have, a row
 * without a name, two spans of a row that overlap.  Free *out whatever the result. */
const char *trace_read(const char *path, trace_file *out);
void trace_free(trace_file *f);

#endif
