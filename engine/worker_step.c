/* engine/worker_step.c - one synchronous step of one worker.
 *
 *   run the program up to its vote -> judge own chunks -> sum the ballots -> everyone knows the verdict
 *   commit: optimizer steps       redo: new exact scales, same step again       skip: state unchanged
 *
 * What others see of it on this worker's page decides what becomes of the step when someone is lost:
 *
 *   contributed = b | sum | vote, voted = b | carry out | committed
 *
 * Once one worker has voted, all have contributed: each has its share of the reduced gradients, and can carry the step
 * out from that vote alone.
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/lr.h"

#include <math.h>
#include <string.h>

enum {
    MAX_SKIPPED = 5
}; /* steps in a row that may be non-finite before the run counts as diverged */

dml_err dml_worker_sum_ballot(dml_worker *w, int64_t words)
{
    return w->vote_comm->all_reduce(w->world, w->lane[DML_LANE_REDUCE], w->ballot, words, DML_I64,
                                    DML_SUM);
}

int64_t dml_worker_fill_rows(dml_worker *w, dml_data *data, int64_t step)
{
    int64_t samples = 0;
    for (int32_t mb = 0; mb < w->plan->mbs; mb++)
        samples += w->rows[mb] = dml_data_rows(data, step, mb);
    return samples;
}

void dml_feed_seek(const dml_feed *f, int64_t step)
{
    if (f->images) dml_loader_seek(f->images, step);
    if (f->labels) dml_loader_seek(f->labels, step);
}

float dml_loop_pace(const dml_worker *w, int64_t step)
{
    return (float)dml_spec_pace(w->config->plan->spec, w->config->rank, step);
}

dml_err dml_worker_run_exec(dml_worker *w, dml_exec *x, const dml_step_words *words)
{
    return w->idle ? DML_ERR_OK : dml_exec_run(x, words, w->rows);
}

/* ---- the vote ---- */

void dml_loop_contribute(dml_worker *w, int64_t ballot)
{
    atomic_store_explicit(&w->page->contributed, ballot, memory_order_release);
}

/* Who is killed in between has said nothing. */
void dml_loop_publish_vote(dml_worker *w, int64_t ballot, const dml_vote *vote)
{
    atomic_exchange_explicit(&w->page->voted, 0, memory_order_acq_rel);
    w->page->vote = *vote;
    atomic_store_explicit(&w->page->voted, ballot, memory_order_release);
}

/* Only the leader's look at the page of control counts: others may have looked earlier, or later. */
void dml_loop_ask(const dml_loop *l, dml_vote *vote)
{
    const dml_worker *w = l->w;
    const dml_control *control = w->config->control;
    vote->stop = atomic_load_explicit(&control->stop, memory_order_relaxed);
    if (!w->leads || !w->config->bank[0]) return;
    const uint32_t plan = atomic_load_explicit(&control->plan, memory_order_acquire),
                   snapshot = atomic_load_explicit(&control->snapshot, memory_order_acquire);
    vote->plan = plan > w->tenure.generation ? plan : 0;
    vote->snapshot = snapshot != l->snapshot ? snapshot : 0;
}

void dml_loop_heed(dml_loop *l, const dml_vote *vote)
{
    l->stop = vote->stop > 0;
    l->change = (uint32_t)vote->plan;
    l->snaps = vote->snapshot > 0;
    if (l->snaps) l->snapshot = (uint32_t)vote->snapshot;
}

static void judge(dml_loop *l, dml_vote *vote)
{
    dml_worker *w = l->w;
    memset(vote, 0, sizeof *vote);
    const dml_exec_times times = dml_loop_times(w->train_exec);
    l->step_busy_ns += times.busy_ns;
    l->step_exposed_ns += times.exposed_ns;
    vote->busy_ns = l->step_busy_ns + l->commit_busy_ns; /* the step before's: ours is to come */
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) dml_update_judge(w->held[c].update, 0, w->rows, vote);
    dml_loop_ask(l, vote);
}

double dml_loop_norm(const dml_loop *l, const dml_vote *vote, int64_t samples)
{
    return sqrt(dml_superacc_round(&vote->norm)) / (double)samples / (double)l->loss_scale.scale;
}

dml_err dml_loop_cast_vote(dml_loop *l, dml_ballot_kind kind)
{
    dml_worker *w = l->w;
    dml_vote vote;
    judge(l, &vote);
    memcpy(w->ballot, &vote, sizeof vote);
    const dml_strike_at here = {.step = l->step + 1, .phase = DML_FAULT_AT_VOTE, .mb = -1};
    if (dml_striker_wants(w->config->striker)) DML_TRY(dml_strike(w->config->striker, &here));
    DML_TRY(DML_FAILPOINT(WORKER_VOTE_BEFORE));
    dml_loop_contribute(w, dml_ballot_of(l->step, kind));
    return DML_ERR_OK;
}

dml_err dml_loop_take_vote(dml_loop *l, dml_ballot_kind kind, dml_vote *vote, dml_verdict *verdict)
{
    dml_worker *w = l->w;
    const int64_t ballot = dml_ballot_of(l->step, kind);
    const double clip = (double)w->spec->training.grad_clip;
    const int64_t samples = dml_worker_fill_rows(w, w->train.data, l->step);
    memcpy(vote, w->ballot, sizeof *vote);
    vote->clipped = clip > 0.0 && dml_loop_norm(l, vote, samples) > clip;
    dml_loop_publish_vote(w, ballot, vote);
    DML_TRY(DML_FAILPOINT(WORKER_VOTE_AFTER));
    return dml_ballot_verdict(ballot, vote, verdict);
}

static dml_err hold_vote(dml_loop *l, dml_ballot_kind kind, dml_vote *vote, dml_verdict *verdict)
{
    dml_worker *w = l->w;
    DML_TRY(dml_loop_cast_vote(l, kind));
    const int64_t begin_ns = dml_clock_ns();
    if (!w->idle) dml_exec_voted(w->train_exec, begin_ns, 0, 0);
    DML_TRY(dml_worker_sum_ballot(w, DML_VOTE_WORDS));
    if (!w->idle)
        dml_exec_voted(w->train_exec, begin_ns, w->vote_comm->call_met_ns(w->world),
                       dml_clock_ns());
    return dml_loop_take_vote(l, kind, vote, verdict);
}

dml_err dml_loop_run_step(dml_loop *l, int64_t step, float loss_scale)
{
    dml_worker *w = l->w;
    const dml_step_words words = {
        .step = step, .loss_scale = loss_scale, .pace = dml_loop_pace(w, step)};
    dml_loop_set_phase(w, DML_PHASE_TRAIN, step + 1);
    dml_worker_fill_rows(w, w->train.data, step);
    return dml_worker_run_exec(w, w->train_exec, &words);
}

/* Runs the step until it has a verdict that stands: in exact mode scales may have to grow once.  Scales that have grown
 * in a step that is then discarded are right when it is made again: the bits are the same. */
static dml_err attempt(dml_loop *l, dml_vote *vote, dml_verdict *verdict)
{
    dml_worker *w = l->w;
    l->step_busy_ns = l->step_exposed_ns = 0;
    DML_TRY(dml_loop_run_step(l, l->step, l->loss_scale.scale));
    DML_TRY(hold_vote(l, DML_BALLOT_STEP, vote, verdict));
    if (*verdict != DML_REDO) return DML_ERR_OK;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) dml_update_rescale(w->held[c].update);
    dml_feed_seek(&w->train, l->step);
    DML_TRY(dml_loop_run_step(l, l->step, l->loss_scale.scale));
    return hold_vote(l, DML_BALLOT_REDO, vote, verdict);
}

/* ---- its outcome ---- */

/* A step that a smaller loss scale may save is no sign of divergence. */
dml_err dml_loop_count_skips(dml_loop *l, dml_verdict verdict, int64_t step)
{
    if (dml_loss_scale_move(&l->loss_scale, verdict)) return DML_ERR_OK;
    l->skipped = verdict == DML_SKIP ? l->skipped + 1 : 0;
    if (l->skipped > MAX_SKIPPED)
        DML_FAIL(
            DML_ERR_DIVERGED,
            "loss or gradients were not finite in %d steps in a row, up to step %lld; a smaller "
            "optimizer.lr, training.grad_clip or lr_scheduler.warmup_steps may help",
            l->skipped, (long long)step + 1);
    return DML_ERR_OK;
}

int64_t dml_loop_lap(dml_loop *l, int64_t now_ns)
{
    const int64_t wall_ns = now_ns - l->committed_at_ns;
    l->committed_at_ns = now_ns;
    return wall_ns;
}

/* The figures of the step: what it took, in `s` and in the sums of the tenure. */
static void count_times(dml_loop *l, int64_t voted_at_ns, dml_loop_step *s)
{
    dml_worker *w = l->w;
    /* made ahead of its vote, it is counted with what has been run since */
    const dml_exec_times commit = l->ahead ? (dml_exec_times){0} : dml_loop_times(w->train_exec);
    l->commit_busy_ns = commit.busy_ns;
    if (!l->ahead) dml_recorder_end(&w->recorder, s->step + 1, 1, s->verdict);
    s->span_ns = l->commit_ns + voted_at_ns - l->committed_at_ns;
    s->wall_ns = dml_loop_lap(l, l->ahead ? l->ahead_at_ns : dml_clock_ns());
    l->commit_ns = l->committed_at_ns - voted_at_ns;
    /* the first under a plan counts only where it is the only one */
    if (s->step == w->tenure.first_step + 1)
        l->busy_ns = l->wall_ns = l->exposed_ns = l->counted = 0;
    l->busy_ns += l->step_busy_ns + l->commit_busy_ns;
    l->exposed_ns += l->step_exposed_ns + commit.exposed_ns;
    l->wall_ns += s->wall_ns;
    l->counted++;
}

dml_err dml_loop_finish_step(dml_loop *l, const dml_vote *vote, dml_verdict verdict)
{
    dml_worker *w = l->w;
    const int64_t voted_at_ns = l->ahead ? l->ahead_at_ns : dml_clock_ns(),
                  samples = dml_worker_fill_rows(w, w->train.data, l->step);
    dml_loop_step done = {.step = l->step,
                          .vote = vote,
                          .verdict = verdict,
                          .lr = dml_lr_at(w->spec, l->total_steps, l->step),
                          .samples = samples,
                          .ahead = l->ahead,
                          .undone = l->undone,
                          .busy_ns = vote->busy_ns};
    done.norm = dml_loop_norm(l, vote, samples);
    l->unclipped = verdict == DML_COMMIT && !vote->clipped ? l->unclipped + 1 : 0;
    if (verdict == DML_COMMIT && !w->idle && !l->ahead)
        DML_TRY(dml_exec_commit(w->train_exec, done.norm, samples, done.lr));
    DML_TRY(DML_FAILPOINT(WORKER_COMMIT));
    count_times(l, voted_at_ns, &done);
    l->ahead = l->undone = false;
    dml_loop_heed(l, vote);
    l->step++;
    dml_loop_forget_steps(l);
    atomic_store_explicit(&w->page->committed, l->step, memory_order_release);
    DML_TRY(dml_loop_report_step(l, &done));
    return dml_loop_count_skips(l, verdict, done.step);
}

dml_err dml_loop_train_step(dml_loop *l)
{
    dml_vote vote;
    dml_verdict verdict;
    DML_TRY(attempt(l, &vote, &verdict));
    return dml_loop_finish_step(l, &vote, verdict);
}
