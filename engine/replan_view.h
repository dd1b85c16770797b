/* engine/replan_view.h - what could become of a plan without some of its workers, for people.
 *
 *   prices     a row for each way to go on, the one chosen marked, those that cannot be taken with the reason
 *   pictures   a step before, and under the cheapest plan of each kind, below one another at one scale
 */
#ifndef DML_ENGINE_REPLAN_VIEW_H
#define DML_ENGINE_REPLAN_VIEW_H

#include "engine/replan.h"

/* All borrowed. */
typedef struct dml_replan_view {
    const dml_plan *first;
    const bool *lost;                  /* [first->workers] */
    const dml_repair_options *options; /* all of them: dml_replan_options */
    int64_t
        rival_ns; /* a step of the same run without a loss under DML_REPLAN_RIVAL; 0: it has none */
} dml_replan_view;

#define DML_REPLAN_RIVAL "zb_h1"

/* A step without a loss under DML_REPLAN_RIVAL, which leaves less idle time to losses than 1F1B; 0: it does not fit the
 * run, or its memory.
 *
 *   base_fd  text of the run's spec, which stays where it is */
dml_err dml_replan_rival_ns(int base_fd, int64_t *out);

/* Appends who is lost, whether the bubble takes that up, and the prices. */
void dml_replan_print_prices(const dml_replan_view *v, dml_str *out);

/* Appends the pictures: characters, `width` columns at most, or an SVG document. */
dml_err dml_replan_draw(const dml_replan_view *v, int32_t width, dml_str *out);
dml_err dml_replan_draw_svg(const dml_replan_view *v, int32_t width, dml_str *out);

#endif
