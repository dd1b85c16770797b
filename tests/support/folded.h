/* tests/support/folded.h - a plan with all stages of a pipeline on one worker: every edge is local.
 *
 *   stages on workers of their own      folded, 2 replicas
 *   w0: chunk 0   w2: chunk 1           w0: chunks 0 and 1
 *   w1: chunk 0   w3: chunk 1           w1: chunks 0 and 1
 *
 * No schedule asks for this today; replanning and interleaving will.
 */
#ifndef DML_TEST_FOLDED_H
#define DML_TEST_FOLDED_H

#include "engine/plan.h"

/* Replaces the plan's programs; `split`: input and weight gradients in ops of their own, the weights' last. */
void plan_folded(dml_plan *plan, bool split);

#endif
