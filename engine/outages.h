/* engine/outages.h - when workers went and came back: a trace, for dml-plan replay.
 *
 *   hours,live        how many workers are there from then on       hours,event,worker    who goes and who comes
 *   0.00,24           the first row says how many a full set is      0.10,fail,7
 *   0.10,23                                                          0.54,return,7
 *   6.32,23           the last one is the end                        6.32,end
 *
 * '#' begins a comment.  Where only a number is known, who goes is drawn among those who are there and who returns among
 * those who are not: each with the same chance, by the seed alone.  A trace of another number of workers than the run's
 * is scaled: live * workers / full, rounded to the nearest.
 */
#ifndef DML_ENGINE_OUTAGES_H
#define DML_ENGINE_OUTAGES_H

#include "engine/base/arena.h"
#include "engine/base/err.h"

#include <stdbool.h>

enum { DML_OUTAGE_WORKERS = 64 }; /* a mask has a bit for each */

typedef struct dml_outage {
    int64_t at_ns; /* since the trace begins; ascending */
    uint64_t lost; /* bit w: from then on worker w is not there */
} dml_outage;

typedef struct dml_outages {
    dml_outage *at; /* [n] the arena's; each differs from the one before, the first from nobody */
    int32_t n;
    int32_t workers, full; /* of the run; of the trace, 0: it names workers */
    int64_t end_ns;
} dml_outages;

/* Reads the text of a trace.
 *
 *   name     for messages
 *   workers  of the run, 1 .. DML_OUTAGE_WORKERS
 *   out      written only on success
 *
 * DML_ERR_SPEC  "NAME:LINE: ...": what is wrong there, and what would do */
dml_err dml_outages_parse(const char *text, const char *name, int32_t workers, uint64_t seed,
                          dml_arena *arena, dml_outages *out);

/* The same of a file.  DML_ERR_SPEC  it cannot be read, too */
dml_err dml_outages_load(const char *path, int32_t workers, uint64_t seed, dml_arena *arena,
                         dml_outages *out);

/* Workers that are there, averaged over the trace. */
double dml_outages_mean_live(const dml_outages *o);

#endif
