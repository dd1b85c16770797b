/* engine/trace_draw.h - a step as it ran, drawn as schedules are drawn (schedule/draw.h, schedule/draw_svg.h). */
#ifndef DML_ENGINE_TRACE_DRAW_H
#define DML_ENGINE_TRACE_DRAW_H

#include "engine/trace.h"
#include "schedule/sim.h"

#include <stdio.h>

/* When the ops of the step ran, all workers together, and what that adds up to.  False, and *out untouched, when not
 * every worker came to the step's end. */
bool dml_trace_timeline(const dml_trace *trace, int64_t step, dml_sim *out);

/* Draws the step of median length among those that were traced to their end: an SVG where the spec's logging.draw ends
 * in .svg, else text.
 *   step  that was drawn; 0: none came to its end, and nothing was written
 *
 * DML_ERR_DATA  the file could not be written */
dml_err dml_trace_draw(const dml_trace *trace, FILE *to, int64_t *step);

#endif
