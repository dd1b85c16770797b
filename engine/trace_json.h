/* engine/trace_json.h - a trace as trace events, which ui.perfetto.dev and chrome://tracing load.
 *
 *   {"displayTimeUnit":"ms","traceEvents":[
 *    {"ph":"X","pid":0,"tid":1,"name":"F0.3","cat":"F","ts":1203.417,"dur":998.201,"cname":"rail_response",
 *     "args":{"step":3,"chunk":0,"micro_batch":3}}, ...
 *
 * A process for each worker, "worker 3, stage 1", and in it a row for each lane and one for the steps, where the
 * verdict is an instant.  Below them the same rows once more, "predicted: worker 3, stage 1", as the simulator has
 * them, each step from where the measured one began.  An arrow leads from a send to its receive.  ts and dur are
 * microseconds with fractions, from when the first traced step began.  An op that was begun and never done has no
 * length ("ph":"B").
 */
#ifndef DML_ENGINE_TRACE_JSON_H
#define DML_ENGINE_TRACE_JSON_H

#include "engine/trace.h"
#include "schedule/cost.h"

#include <stdio.h>

/* Written as it goes, an event a line.
 *   cost  of the predicted rows, `from` says what it is: "medians of this run"
 *
 * DML_ERR_DATA  the file could not be written
 * and what dml_simulate gives */
dml_err dml_trace_json(const dml_trace *trace, const dml_cost *cost, const char *from, FILE *to);

#endif
