/* engine/overrides.h - a plan as text: what is added to a run's first spec.
 *
 *     parallelism.lost=[5]
 *     parallelism.split=[2,2]
 *     parallelism.order=|
 *      0F0,0F1,0B0,0B1
 *      1F0,1B0,1F1,1B1
 *
 * A line is an override, and one that begins with a blank goes on with the one before it.  With the cut and the order
 * written out nothing is left to choose: whoever loads the text makes the same plan, and schedules nothing.
 */
#ifndef DML_ENGINE_OVERRIDES_H
#define DML_ENGINE_OVERRIDES_H

#include "engine/plan.h"

/* The overrides of the text, for dml_spec_load: [*n], the arena's. */
const char *const *dml_overrides_split(const char *text, dml_arena *arena, int32_t *n);

/* Whether the text has an override of that key. */
bool dml_overrides_have(const char *text, const char *key);

/* Appends the text with worker to[w] in the place of worker w, for all of to[0 .. workers), a permutation: in
 * parallelism.lost, .seats, .stages and .order. */
void dml_overrides_relabel(const char *text, const int32_t *to, int32_t workers, dml_str *out);

/* Appends the text, and the cut and the order of `plan`, which was made with it, where it has none: an asynchronous plan
 * has only a cut. */
void dml_overrides_settle(const char *text, const dml_plan *plan, dml_str *out);

#endif
