/* engine/lost_place.h - who is lost, as people say it: "stage=2,replica=1", "worker=7" or, the same, "rank=7". */
#ifndef DML_ENGINE_LOST_PLACE_H
#define DML_ENGINE_LOST_PLACE_H

#include "engine/plan.h"

/* Marks the worker in `lost` [plan->workers].  A stage's replicas are its holders, ascending, from 0.
 *
 * DML_ERR_SPEC  the text is none of the forms, or names nobody of the plan: the trail says what there is */
dml_err dml_lost_place(const char *text, const dml_plan *plan, bool *lost);

#endif
