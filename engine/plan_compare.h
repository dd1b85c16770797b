/* engine/plan_compare.h - every schedule for one model and layout, side by side. */
#ifndef DML_ENGINE_PLAN_COMPARE_H
#define DML_ENGINE_PLAN_COMPARE_H

#include "engine/base/str.h"
#include "engine/plan.h"

/* Appends a table: for each schedule, and for those that take several stages on a rank also with two (unless the
 * spec says how many), the predicted step and its bubble, the most bytes on a worker, the most micro-batches it
 * keeps, copies of the weights, and what a step sends.  A schedule that does not fit says why.
 *
 * DML_ERR_SPEC  no schedule fits; the table says why of each */
dml_err dml_plan_compare(const dml_spec *spec, dml_str *out);

#endif
