/* engine/worker_loop.h - what the files of the training loop share.
 *
 *   worker.c          from plan to plan, from step to step        worker_step.c     one step and its vote
 *   worker_recover.c  parked, settled, saved, moved               worker_stagger.c  steps that do not wait for their vote
 *   worker_keep.c     what is kept to go back to                  worker_async.c    the updates of an asynchronous segment
 *   worker_change.c   state to and from a bank; loads             worker_report.c   steps, evaluations, the end
 */
#ifndef DML_ENGINE_WORKER_LOOP_H
#define DML_ENGINE_WORKER_LOOP_H

#include "engine/worker_state.h"

typedef struct dml_loop {
    dml_worker *w; /* of the tenure */
    dml_kept kept;
    int64_t total_steps;
    int64_t committed_at_ns; /* when the step before ended */
    int64_t step_busy_ns, busy_ns, wall_ns;
    int64_t step_exposed_ns, exposed_ns, counted; /* exposed communication; steps in the sums */
    int64_t commit_busy_ns;                       /* of the newest step's optimizer */
    int64_t commit_ns;                            /* from the newest step's vote to its end */
    int32_t skipped; /* in a row, but for those that the loss scale explains */
    int32_t
        unclipped; /* steps of this tenure, in a row, that were committed as they were, the newest ones */
    bool ahead;          /* staggered: step l->step is carried out here, its vote not known yet */
    bool undone;         /* it was, and had to be made again */
    int64_t ahead_at_ns; /* since when it is */
    dml_loss_scale loss_scale;
    int64_t step,
        evaluated_at; /* steps made; how many were when it was last evaluated, -1: never */
    bool stop;
    uint32_t change;   /* generation of the plan to go on with after this step; 0: this one */
    uint32_t snapshot; /* newest control->snapshot that the vote has spread */
    bool snaps;        /* it was with the newest step: to be answered */
    /* Reports of the newest step, or segment: who leads after a loss sends them again. */
    dml_report_step *told; /* [most_told] owned */
    int32_t n_told, n_sent, most_told;
} dml_loop;

/* A step that is over. */
typedef struct dml_loop_step {
    int64_t step;         /* from 0 */
    const dml_vote *vote; /* summed over all workers */
    dml_verdict verdict;
    double norm, lr;
    int64_t samples;
    bool ahead, undone; /* as of the loop */
    int64_t wall_ns;
    int64_t busy_ns,
        span_ns; /* of all workers together; the time in which: from vote to vote, as ballots tell it */
} dml_loop_step;

static inline bool dml_loop_is_over(const dml_loop *l)
{
    return l->stop || l->step >= l->total_steps;
}

void dml_loop_set_phase(dml_worker *w, dml_phase phase, int64_t step);
/* The speed at which this worker is emulated in step `step`: by the spec of the run's first plan, whatever a later one
 * believes. */
float dml_loop_pace(const dml_worker *w, int64_t step);

/* ---- worker_step.c ---- */

/* Makes step l->step, and redoes it where exact scales were wrong. */
dml_err dml_loop_train_step(dml_loop *l);
/* Runs step `step` up to its vote. */
dml_err dml_loop_run_step(dml_loop *l, int64_t step, float loss_scale);
/* This worker's part of the vote on step l->step, which has been run, into w->ballot; and the vote, when that is the sum. */
dml_err dml_loop_cast_vote(dml_loop *l, dml_ballot_kind kind);
dml_err dml_loop_take_vote(dml_loop *l, dml_ballot_kind kind, dml_vote *vote, dml_verdict *verdict);
/* The gradients' norm, from a summed vote on a step of so many samples. */
double dml_loop_norm(const dml_loop *l, const dml_vote *vote, int64_t samples);
/* Carries out what the vote said of step l->step, which was run up to it, and counts the step.  Where that was ended
 * halfway it may be called again: each chunk commits once. */
dml_err dml_loop_finish_step(dml_loop *l, const dml_vote *vote, dml_verdict verdict);
/* For those who look at this worker's page: it contributes to the vote `ballot`; it knows its sum. */
void dml_loop_contribute(dml_worker *w, int64_t ballot);
void dml_loop_publish_vote(dml_worker *w, int64_t ballot, const dml_vote *vote);
/* What everyone is to know after this step, into a vote that is to be summed; and from one that was. */
void dml_loop_ask(const dml_loop *l, dml_vote *vote);
void dml_loop_heed(dml_loop *l, const dml_vote *vote);

/* Samples of each micro-batch of a step into w->rows; returns their sum. */
int64_t dml_worker_fill_rows(dml_worker *w, dml_data *data, int64_t step);
/* The feed's next batch is the first of `step`. */
void dml_feed_seek(const dml_feed *f, int64_t step);
dml_err dml_worker_run_exec(dml_worker *w, dml_exec *x, const dml_step_words *words);
static inline dml_exec_times dml_loop_times(dml_exec *x)
{
    return x ? dml_exec_take_times(x) : (dml_exec_times){0};
}

/* Time from the last lap, or the loop's begin, to now. */
int64_t dml_loop_lap(dml_loop *l, int64_t now_ns);
/* A step that a smaller loss scale may save is no sign of divergence.
 * DML_ERR_DIVERGED  too many in a row were skipped */
dml_err dml_loop_count_skips(dml_loop *l, dml_verdict verdict, int64_t step);

/* ---- worker_stagger.c ---- */

/* Makes step l->step, and begins the next before it knows what becomes of this one, unless something is to happen in between. */
dml_err dml_loop_train_ahead(dml_loop *l);
/* Whether step l->step may be made so: the plan is staggered, and the newest steps were neither clipped nor skipped. */
bool dml_loop_may_stagger(const dml_loop *l);

/* ---- worker_keep.c ---- */

/* Keeps what is held, as of l->step steps, where the plan asks for it. */
dml_err dml_loop_keep(dml_loop *l);
/* What is held is again that of l->step steps, if it was kept and moved on from. */
dml_err dml_loop_undo(dml_loop *l);

/* ---- worker_report.c ---- */

dml_err dml_worker_report(const dml_worker *w, dml_report *r);
/* The leader tells the agent; everyone keeps it, until another step begins to be told. */
dml_err dml_loop_report_step(dml_loop *l, const dml_loop_step *s);
void dml_loop_forget_steps(dml_loop *l);
/* Who leads now tells what it has not told of the newest step: who led then may have died before. */
dml_err dml_loop_repeat_step(dml_loop *l);
/* Evaluates what l->step steps have made. */
dml_err dml_loop_evaluate(dml_loop *l);
dml_err dml_loop_report_end(dml_loop *l);

/* ---- worker_change.c ---- */

/* What the run has come to, as the workers of the next plan will find it; and the other way round, `run` NULL where it
 * begins anew. */
dml_depot_run dml_loop_now(const dml_loop *l);
void dml_loop_resume(dml_loop *l, const dml_depot_run *run);
/* Answers control->snapshot, after the step whose vote spread it. */
dml_err dml_loop_save_snapshot(dml_loop *l);
/* After a step, l->step being counted: what chunks cost since the last such report, if it is time for one. */
dml_err dml_loop_report_load(dml_loop *l);

/* ---- worker_recover.c ---- */

/* Waits for the plan that knows this worker, which has joined a run under way; *next is filled. */
dml_err dml_loop_join(dml_loop *l, dml_tenure *next);
/* After the step whose vote said so: leaves the state for plan l->change; *next is filled. */
dml_err dml_loop_leave(dml_loop *l, dml_tenure *next);
/* Until nobody needs this worker any more, all having ended. */
dml_err dml_loop_await_dismissal(dml_loop *l);
/* Whether `err` is the loss of others, which the run survives: the fence was raised, or is after this worker has said
 * whom it waited for. */
bool dml_loop_can_recover(dml_loop *l, dml_err err);
/* Parks, settles the step under way, leaves the state for the next plan; *next is filled.  An error for which
 * can_recover is true: once more, from the start. */
dml_err dml_loop_recover(dml_loop *l, dml_tenure *next);

/* ---- worker_async.c ---- */

/* Runs the segment that begins at l->step, to its drain.
 * DML_ERR_DIVERGED  as above; or, where nobody votes, a loss or a gradient was not finite */
dml_err dml_loop_train_segment(dml_loop *l);
/* As dml_loop_finish_step, of a segment: `vote` is that on all of it. */
dml_err dml_loop_finish_segment(dml_loop *l, const dml_vote *vote);
#endif
