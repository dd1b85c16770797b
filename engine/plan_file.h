/* engine/plan_file.h - a plan as a file: JSON that `plan: FILE` reads (engine/spec_plan.c).
 *
 *   {
 *     "dml_plan": 1,
 *     "for": {"model": "5d1c3c2f...", "global_batch_size": 64, "name": "vgg8"},
 *     "set": {
 *       "training": {"global_batch_size": 64, "micro_batch_size": 8},
 *       "parallelism": {"pipeline_parallel_size": 2, "data_parallel_size": 2, "virtual_pipeline_stages": 1,
 *                       "schedule": "zb_h1", "recompute": "none", "split": [7, 14]},
 *       "costs": {...}
 *     },
 *     "predicted": {"step_ms": 12.5, "samples_per_s": 5120.0, "bubble": 0.08, "most_bytes": 1048576},
 *     "made": {"by": "dml-plan 0.3.0", "at": "2026-01-31T12:00:00Z", "objective": "throughput"}
 *   }
 *
 * What is set are keys of a spec, and may be edited by hand: they are checked like a spec's, and the plan is made anew
 * from them.  What is predicted and who made it is for people; nobody reads it back.
 */
#ifndef DML_ENGINE_PLAN_FILE_H
#define DML_ENGINE_PLAN_FILE_H

#include "engine/choose.h"

/* Appends the plan that is `c` for the spec, without who made it.  Costs are in it unless the spec itself writes them.
 * DML_ERR_SPEC  the model cannot be cut so */
dml_err dml_plan_file_print(const dml_spec *spec, const dml_candidate *c, dml_str *out);

/* Writes that plan to a file, with who made it, and when.
 * DML_ERR_UNAVAILABLE  it cannot be written */
dml_err dml_plan_file_save(const dml_choice *choice, const dml_spec *spec, const char *path);

#endif
