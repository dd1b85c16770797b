/* engine/trace.h - when each op of chosen steps really ran: the memory that workers write and the leader reads.
 *
 * One memfd for a run, so that what a worker had written stays when it is killed.  Each worker has a part of it, sized
 * by its list of the training program; every op has a place of its own there, so the lanes' threads write without
 * locks and nothing allocates inside a step.
 *
 *   worker 0: step step step | F0.0 SEND_F0.0 ... U0 begin | F0.0 ... begin | F0.0 ... begin
 *   worker 1: ...
 *
 * Times are dml_clock_ns, the same in every process of a host.  Where jobs only enqueue (a GPU), they are the device's
 * own, counted from when the step was submitted; the compute lane is idle then, so that the two differ by what a
 * submission takes, some 10 us.
 *
 * What a time says: a compute op is as long as its lane works for it.  A transfer begins when its lane has come to it,
 * and so shows the wait for its peer as well.  A step that was redone shows its last attempt.  Evaluation is not traced.
 *
 * A run of an asynchronous program makes several steps.  It is recorded when one of them is traced, in the place of the
 * first that is.
 */
#ifndef DML_ENGINE_TRACE_H
#define DML_ENGINE_TRACE_H

#include "engine/plan.h"

/* An op, or what begins a step. */
typedef struct dml_trace_span {
    int64_t begin_ns; /* 0: it was not begun, or on a GPU not seen done   */
    int64_t end_ns;   /* 0: it was not done                               */
    int64_t bytes;    /* of a transfer                                    */
} dml_trace_span;

typedef struct dml_trace_step {
    int64_t first, last; /* that the run made: the step itself, but in asynchronous programs   */
    int64_t begin_ns;    /* of its first attempt; 0: it was not begun                          */
    int64_t attempt_ns;  /* of its last one                                                    */
    int64_t end_ns;      /* after the optimizer, or the verdict against it; 0: no such end     */
    int32_t attempts;
    int32_t verdict; /* dml_verdict, once it has ended */
} dml_trace_step;

/* A worker's own part.  {0} records nothing. */
typedef struct dml_recorder {
    dml_trace_step *step; /* [last - first + 1] borrowed from the trace */
    dml_trace_span
        *span; /* [last - first + 1][ops + 1] the ops in list order, then what begins the step */
    int64_t first, last; /* steps, from 1 */
    int32_t ops;
} dml_recorder;

typedef struct dml_trace {
    const dml_plan *plan; /* borrowed; its spec says which steps */
    char *memory;         /* owned mapping; NULL: there is no trace */
    int64_t bytes;
} dml_trace;

/* Whether the spec asks for a trace or a drawing. */
bool dml_trace_wanted(const dml_spec *spec);

/* A memfd for all workers of the plan, mapped, all zero; the caller closes *fd when all have it.
 * logging.trace_steps is chosen (dml_data_resolve_steps).
 *
 * DML_ERR_SPEC   the steps take more than DML_TRACE_BYTES: the text says how many do not */
dml_err dml_trace_create(const dml_plan *plan, dml_trace *out, int *fd);
/* Maps what another process created for the same plan. */
dml_err dml_trace_map(const dml_plan *plan, int fd, dml_trace *out);
void dml_trace_close(dml_trace *trace); /* {0} is fine */

#define DML_TRACE_BYTES (INT64_C(1) << 30)

/* The part of a worker. */
dml_recorder dml_trace_recorder(const dml_trace *trace, int32_t worker);

/* The worker's step, and when the op with this index in its list ran; op = its ops: what began the step. */
const dml_trace_step *dml_recorder_step(const dml_recorder *r, int64_t step);
const dml_trace_span *dml_recorder_span(const dml_recorder *r, int64_t step, int32_t op);

/* "step 3"; of a run that made several "steps 1-8". */
typedef struct dml_trace_name {
    char text[48];
} dml_trace_name;
dml_trace_name dml_trace_step_name(const dml_trace_step *step);

/* ---- the worker's side ---- */

/* An attempt at the run that makes n steps, this one first, begins now.  Returns where its ops are recorded, [ops + 1],
 * all zero; NULL where none of the steps is traced. */
dml_trace_span *dml_recorder_attempt(const dml_recorder *r, int64_t step, int32_t n);
/* It is over: nothing to do where it is not traced. */
void dml_recorder_end(const dml_recorder *r, int64_t step, int32_t n, int32_t verdict);

#endif
