/* engine/worker_stagger.c - steps that do not wait for their vote: no barrier between one step and the next.
 *
 *   run k | post vote k | keep | optimizer steps of k | run k + 1 | collect vote k | post vote k + 1 | keep | ...
 *                                                       ^ stage s begins s forwards after stage 0, as it ended
 *
 * Optimizer steps are made as if the vote said: commit, not clipped.  When it is collected everyone has run the step after it,
 * so nobody waits, and no transfer is under way.  If it says something else, each worker goes back to what it kept, drops
 * the step after it, and makes step k again with its barrier: the same gradients, the same vote, the same bits as if it
 * had not been ahead.  That costs two steps, so it is done only after DML_UNCLIPPED_STEPS that would not have needed it (as
 * sail-sg's zero-bubble Megatron does), and wherever something else comes between two steps the vote is waited for.
 *
 * For who looks at this worker's page nothing is new: a step is committed once its vote is known to someone, and who
 * was ahead of a vote that nobody knows goes back as well.
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/lr.h"

bool dml_loop_may_stagger(const dml_loop *l)
{
    return l->w->plan->train.staggered && (l->ahead || l->unclipped >= DML_UNCLIPPED_STEPS);
}

/* Nothing is to be done between step l->step and the next, as far as one can know before the vote. */
static bool next_follows(const dml_loop *l)
{
    const int64_t every = l->w->spec->training.eval_interval_steps, next = l->step + 1;
    return next < l->total_steps && (every <= 0 || next % every != 0);
}

/* Of the step after l->step, if that is committed. */
static float next_loss_scale(const dml_loop *l)
{
    dml_loss_scale s = l->loss_scale;
    (void)dml_loss_scale_move(&s, DML_COMMIT);
    return s.scale;
}

/* Step l->step has been run: its vote is posted, and it is carried out. */
static dml_err carry_out(dml_loop *l)
{
    dml_worker *w = l->w;
    const int64_t samples = dml_worker_fill_rows(w, w->train.data, l->step);
    l->step_busy_ns = l->step_exposed_ns = 0;
    DML_TRY(dml_loop_cast_vote(l, DML_BALLOT_AHEAD));
    const int64_t begin_ns = dml_clock_ns();
    DML_TRY(w->vote_comm->post(w->world, w->ballot, DML_VOTE_WORDS, DML_I64, DML_SUM));
    if (!w->idle) dml_exec_voted(w->train_exec, begin_ns, 0, dml_clock_ns());
    DML_TRY(dml_loop_keep(l));
    if (!w->idle)
        DML_TRY(dml_exec_commit(w->train_exec, 0.0, samples,
                                dml_lr_at(w->spec, l->total_steps, l->step)));
    l->ahead = true;
    l->ahead_at_ns = dml_clock_ns();
    dml_recorder_end(&w->recorder, l->step + 1, 1, DML_COMMIT);
    return DML_ERR_OK;
}

/* Back to where step l->step began, to make it again. */
static dml_err go_back(dml_loop *l)
{
    DML_TRY(dml_loop_undo(l));
    l->undone = true;
    l->unclipped = 0;
    (void)dml_loop_times(l->w->train_exec); /* of what was dropped */
    dml_feed_seek(&l->w->train, l->step);
    return dml_loop_train_step(l);
}

dml_err dml_loop_train_ahead(dml_loop *l)
{
    dml_worker *w = l->w;
    dml_vote vote;
    dml_verdict verdict;
    if (!l->ahead) {
        DML_TRY(dml_loop_run_step(l, l->step, l->loss_scale.scale));
        DML_TRY(carry_out(l));
    }
    const bool follows = next_follows(l);
    if (follows) DML_TRY(dml_loop_run_step(l, l->step + 1, next_loss_scale(l)));
    DML_TRY(w->vote_comm->collect(w->world, w->ballot, DML_VOTE_WORDS, DML_I64, DML_SUM));
    DML_TRY(dml_loop_take_vote(l, DML_BALLOT_AHEAD, &vote, &verdict));
    if (verdict != DML_COMMIT) return go_back(l);
    DML_TRY(dml_loop_finish_step(l, &vote, verdict));
    if (!follows) return DML_ERR_OK;
    if (!l->stop && l->change == 0 && !l->snaps) return carry_out(l);
    dml_feed_seek(&w->train, l->step);
    return DML_ERR_OK;
}
