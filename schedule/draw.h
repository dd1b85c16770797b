/* schedule/draw.h - a simulated or measured step as a picture in text.
 *
 *     0: F0F1F2........B0==F3B1==..B2==..B3==   33.3%   3
 *     1: ..F0F1....B0==F2B1==F3B2==..B3==....   33.3%   2
 *     2: ....F0B0==F1B1==F2B2==F3B3==........   33.3%   1
 *
 *     0: F0====B0==============F2====B2====+===========+=====.........U==   12.5%   1
 *      :                                   R1=         R2=======R3====
 *
 * A row for each worker, a column for each equal part of the makespan, idle dots.  An op shows its
 * letter (F, B, I, W, or U for the optimizer), its micro-batch as far as it fits, the last digits
 * if not all of them do, and a filler.  The letters of a worker's second, fourth, ... chunk are
 * small.  The second, third, ... part of a backward begins with a plus.  Where reductions take time
 * they have a row of their own below: an R and the bucket.  In an asynchronous program U, R and V
 * show the number of their update.  At the right edge: the part of the time the worker computes
 * nothing, and the most activations it keeps.
 */
#ifndef DML_SCHEDULE_DRAW_H
#define DML_SCHEDULE_DRAW_H

#include "engine/base/str.h"
#include "schedule/sim.h"

/* Appends the picture, a time axis and a legend.
 *   sim    of `p`: simulated, or from measured times
 *   width  columns of the timeline at most, >= 10; less is used when that shows all just as well */
void dml_draw_text(const dml_program *p, const dml_sim *sim, int32_t width, dml_str *out);

/* A picture among others of about the same work.  All borrowed. */
typedef struct dml_panel {
    const char *title;
    const dml_program *program;
    const dml_sim *sim; /* of it */
    const bool *lost;   /* [workers] who are not there; NULL: all are */
    const bool *moved;  /* [chunks][mbs] passes that another worker ran before; NULL: none */
} dml_panel;

/* Appends them one below another, a column being the same time in all of them, their titles above them and one legend
 * at the end.  Without rows of reductions; below a worker's row marks where it runs what another ran before.
 *   width  as above, of the longest */
void dml_draw_panels(const dml_panel *panel, int32_t n, int32_t width, dml_str *out);

#endif
