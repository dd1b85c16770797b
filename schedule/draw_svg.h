/* schedule/draw_svg.h - a simulated or measured step as an SVG picture, for documents and browsers.
 *
 * A row for each worker, a box for each compute op: colours of schedule/paint.h; the boxes of a worker's second, fourth, ... chunk are darker.  Micro-batch numbers where they fit; every box has a title
 * (kind, chunk, micro-batch, begin, length).  Below, the axis; at the right, idle share and activations held.
 */
#ifndef DML_SCHEDULE_DRAW_SVG_H
#define DML_SCHEDULE_DRAW_SVG_H

#include "engine/base/str.h"
#include "schedule/draw.h"
#include "schedule/sim.h"

/* Appends a complete SVG document.
 *   sim    of `p`: simulated, or from measured times
 *   title  stands above the picture; escaped here
 *   width  of the timeline in pixels, >= 100 */
void dml_draw_svg(const dml_program *p, const dml_sim *sim, const char *title, int32_t width,
                  dml_str *out);

/* The same of several, one below another, a pixel being the same time in all of them.  Rows of the lost are red, passes
 * that another worker ran before orange.
 *   width  of the longest */
void dml_draw_panels_svg(const dml_panel *panel, int32_t n, int32_t width, dml_str *out);

#endif
