/* engine/spec_complaints.h - complaints about a spec, collected and shown with the line they are about.
 *
 *   net.yaml:31:3: error: unknown key 'pipeline_parralel_size' in 'parallelism'
 *      31 |   pipeline_parralel_size: 4
 *         |   ^~~~~~~~~~~~~~~~~~~~~~
 *     did you mean 'pipeline_parallel_size'?
 */
#ifndef DML_ENGINE_SPEC_COMPLAINTS_H
#define DML_ENGINE_SPEC_COMPLAINTS_H

#include "engine/spec.h"

#include <stdarg.h>

/* The text that places point into; all borrowed. */
typedef struct dml_spec_text {
    const char *file;                  /* as the user gave it */
    const char *text;                  /* the whole file, NUL-terminated */
    const char *plan_file, *plan_text; /* the plan's that the spec is read with; NULL: none */
    const char *const *overrides;
    int32_t n_overrides;
} dml_spec_text;

/* Places of overrides carry this very pointer as their file, and 1 + the override's index as their line. */
extern const char dml_spec_command_line[];

enum { DML_COMPLAINTS_MAX = 20 };

typedef struct dml_complaints {
    dml_arena *arena; /* borrowed; owns the texts */
    const dml_spec_text *source;
    int32_t n; /* complaints made; the first DML_COMPLAINTS_MAX are kept */
    struct {
        dml_place place;
        const char *text;
    } kept[DML_COMPLAINTS_MAX];
} dml_complaints;

/* One more complaint.  A place with line 0 is about the file as a whole. */
void dml_complain_at(dml_complaints *r, dml_place place, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void dml_complain_at_va(dml_complaints *r, dml_place place, const char *fmt, va_list ap);

/* An indented line below the last complaint. */
void dml_complain_note(dml_complaints *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The complaints as this thread's error trail, in the order of the file, and DML_ERR_SPEC; DML_ERR_OK
 * when there are none.  What does not fit the trail is counted. */
dml_err dml_complain_finish(const dml_complaints *r);

/* "line 12", or "the command line": for complaints that name a second place. */
const char *dml_complain_where(dml_complaints *r, dml_place place);

#endif
