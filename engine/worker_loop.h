/* engine/worker_loop.h - what the training loop's two kinds of step share: one at a time (worker.c), and the updates
 * of an asynchronous segment (worker_async.c). */
#ifndef DML_ENGINE_WORKER_LOOP_H
#define DML_ENGINE_WORKER_LOOP_H

#include "engine/worker_state.h"

typedef struct dml_loop {
    dml_worker *w;
    int64_t total_steps;
    int64_t committed_at_ns; /* when the step before ended */
    int64_t step_busy_ns, busy_ns, wall_ns;
    int64_t step_exposed_ns, exposed_ns, counted; /* exposed communication; steps in the sums */
    int64_t commit_busy_ns;                       /* of the newest step's optimizer */
    int64_t commit_ns;                            /* from the newest step's vote to its end */
    int32_t skipped; /* in a row, but for those that the loss scale explains */
    dml_loss_scale loss_scale;
    int64_t step,
        evaluated_at; /* steps made; how many were when it was last evaluated, -1: never */
    bool stop;
    uint32_t change; /* generation of the plan to go on with after this step; 0: this one */
} dml_loop;

/* A step that is over. */
typedef struct dml_loop_step {
    int64_t step;         /* from 0 */
    const dml_vote *vote; /* summed over all workers */
    dml_verdict verdict;
    double norm, lr;
    int64_t samples;
    int64_t wall_ns;
    int64_t busy_ns,
        span_ns; /* of all workers together; the time in which: from vote to vote, as ballots tell it */
} dml_loop_step;

void dml_loop_set_phase(dml_worker *w, dml_phase phase, int64_t step);
/* The speed at which this worker is emulated in step `step`: by the spec of the run's first plan, whatever a later one
 * believes. */
float dml_loop_pace(const dml_worker *w, int64_t step);
/* Rank 0 tells the agent; the others do nothing. */
dml_err dml_loop_report_step(dml_loop *l, const dml_loop_step *s);
/* Time since the last call, or since the loop began. */
int64_t dml_loop_lap(dml_loop *l);
/* A step that a smaller loss scale may save is no sign of divergence.
 * DML_ERR_DIVERGED  too many in a row were skipped */
dml_err dml_loop_count_skips(dml_loop *l, dml_verdict verdict, int64_t step);

/* ---- worker_change.c ---- */

/* After a step, l->step being counted: what chunks cost since the last such report, if it is time for one. */
dml_err dml_loop_report_load(dml_loop *l);

/* ---- worker_async.c ---- */

/* Runs the segment of `n` steps that begins at `step`, to its drain.
 * DML_ERR_DIVERGED  as above; or, where nobody votes, a loss or a gradient was not finite */
dml_err dml_loop_train_segment(dml_loop *l, int64_t step, int32_t n);

#endif
