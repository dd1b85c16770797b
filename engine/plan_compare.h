/* engine/plan_compare.h - every schedule for one model and layout, side by side. */
#ifndef DML_ENGINE_PLAN_COMPARE_H
#define DML_ENGINE_PLAN_COMPARE_H

#include "engine/base/str.h"
#include "engine/plan.h"

/* Appends a table: a row for each schedule, for those that take several stages on a rank also one with two (unless
 * the spec says how many), and for the spec's own file.
 *
 *   step ms, bubble  predicted, of one step; idle share of the compute lanes, mean over workers
 *   stash            most (stage, micro-batch) whose activations a worker keeps at once
 *   copies           of the weights in one pipeline, by routes
 *   versions, delay  most weight buffers of a stage; most updates that a gradient is late
 *   sent, reduce     MiB through links in one step, all workers: activations and their gradients between stages;
 *                    weight gradients as rings move them, 2 (n - 1) times the bytes of n holders
 *   most MiB         what the fullest worker holds, and the stages that it runs
 *
 * A schedule that does not fit says why, and the nearest setting that would do (engine/plan_nearest.h).  Below the
 * table stands what the schedules require of stages and micro-batches.
 *
 * DML_ERR_SPEC  no schedule fits; the table says why of each */
dml_err dml_plan_compare(const dml_spec *spec, dml_str *out);

#endif
