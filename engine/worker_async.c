/* engine/worker_async.c - a segment of an asynchronous run: many optimizer steps between two drains.
 *
 *   issue everything | F0 F1 .. B0 U0 F4 B1 U1 ... U_n | newest weights to buffer 0 | judge every step | report
 *
 * With votes each step is judged when its gradients are there, by a job of the reduce lane, and its optimizer step waits
 * for the verdict.  Without, nothing waits: the ballots of all steps are summed at the drain, and a loss that was
 * not finite ends the run there, because later steps were made from it.
 *
 * Ballots lie in a row, one for each step and one more of the segment: who was asked to stop, and how long lanes were
 * busy.  That one is summed last, when everyone has those of the steps: so once a worker knows it, all can report them.
 *
 * When others are lost a segment stands or falls as a whole.  Falls: what it began with is put back, and it is run again
 * from there, after the drain that its begin is.
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"

#include "engine/lr.h"

#include <math.h>
#include <string.h>

static int64_t *ballot_of(const dml_worker *w, int32_t n)
{
    return w->ballot + (int64_t)n * DML_BALLOT_WORDS;
}

/* Sums ballots begin .. end - 1 over all workers. */
static dml_err sum_ballots(dml_worker *w, int32_t begin, int32_t end)
{
    return w->vote_comm->all_reduce(w->world, w->lane[DML_LANE_REDUCE], ballot_of(w, begin),
                                    (int64_t)(end - begin) * DML_BALLOT_WORDS, DML_I64, DML_SUM);
}

/* Where the step's micro-batches stand among those of the segment. */
static const int32_t *rows_of(const dml_worker *w, int32_t n)
{
    return w->rows + (int64_t)n * w->plan->mbs;
}

static int64_t samples_of(const dml_worker *w, int32_t n)
{
    int64_t samples = 0;
    for (int32_t mb = 0; mb < w->plan->mbs; mb++)
        samples += rows_of(w, n)[mb];
    return samples;
}

static void judge(dml_worker *w, int32_t n)
{
    dml_vote vote = {0};
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) dml_update_judge(w->held[c].update, n, rows_of(w, n), &vote);
    memcpy(ballot_of(w, n), &vote, sizeof vote);
}

static double norm_of(const dml_vote *vote, int64_t samples)
{
    return sqrt(dml_superacc_round(&vote->norm)) / (double)samples;
}

dml_err dml_worker_vote(void *context, int32_t update, dml_exec_update *out)
{
    dml_worker *w = context;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk)
            DML_TRY(dml_update_fetch(w->held[c].update, update, update + 1, w->backend->device,
                                     w->lane[DML_LANE_REDUCE]));
    judge(w, update);
    DML_TRY(sum_ballots(w, update, update + 1));
    dml_vote vote;
    dml_verdict verdict;
    memcpy(&vote, ballot_of(w, update), sizeof vote);
    DML_TRY(dml_vote_verdict(&vote, false, &verdict));
    out->norm = norm_of(&vote, out->samples);
    out->skip = verdict == DML_SKIP;
    return DML_ERR_OK;
}

/* ---- a segment ---- */

static void plan_updates(dml_loop *l, int64_t step, int32_t n)
{
    dml_worker *w = l->w;
    for (int32_t j = 0; j < w->plan->train.mbs; j++)
        w->rows[j] = dml_segment_rows(&w->segments, w->train.data, step, n, j);
    for (int32_t k = 0; k < n; k++)
        w->updates[k] = (dml_exec_update){.lr = dml_lr_at(w->spec, l->total_steps, step + k),
                                          .samples = samples_of(w, k),
                                          .pace = dml_loop_pace(w, step + k)};
}

/* Everyone knows the ballots of all `n` steps. */
static dml_err close_ballots(dml_worker *w, int32_t n)
{
    const bool voted =
        w->plan->train.votes; /* step by step, by jobs that who is idle does not have */
    if (voted && !w->idle) return DML_ERR_OK;
    for (int32_t k = 0; k < n; k++) {
        judge(w, k);
        if (voted) DML_TRY(sum_ballots(w, k, k + 1));
    }
    return voted ? DML_ERR_OK : sum_ballots(w, 0, n);
}

/* The vote is on all of its steps: a fault at that of any of them strikes here. */
static dml_err strike(const dml_loop *l, int32_t n)
{
    dml_striker *striker = l->w->config->striker;
    dml_strike_at here = {.phase = DML_FAULT_AT_VOTE, .mb = -1};
    for (int32_t k = 0; k < n && dml_striker_wants(striker); k++) {
        here.step = l->step + 1 + k;
        DML_TRY(dml_strike(striker, &here));
    }
    return DML_ERR_OK;
}

/* Everyone knows that everyone has come to the segment's end, and with what in mind. */
static dml_err hold_vote(dml_loop *l, int32_t n, dml_vote *segment)
{
    dml_worker *w = l->w;
    const int64_t ballot = dml_ballot_of(l->step + n - 1, DML_BALLOT_STEP);
    *segment = (dml_vote){.busy_ns = l->step_busy_ns};
    dml_loop_ask(l, segment);
    memcpy(ballot_of(w, n), segment, sizeof *segment);
    DML_TRY(strike(l, n));
    DML_TRY(DML_FAILPOINT(WORKER_VOTE_BEFORE));
    dml_loop_contribute(w, ballot);
    DML_TRY(sum_ballots(w, n, n + 1));
    memcpy(segment, ballot_of(w, n), sizeof *segment);
    dml_loop_publish_vote(w, ballot, segment);
    return DML_FAILPOINT(WORKER_VOTE_AFTER);
}

/* What became of step `k` of the segment. */
static dml_err read_ballot(dml_loop *l, int64_t step, int32_t k, dml_vote *vote, dml_loop_step *out)
{
    const dml_worker *w = l->w;
    memcpy(vote, ballot_of(w, k), sizeof *vote);
    DML_TRY(dml_vote_verdict(vote, false, &out->verdict));
    if (out->verdict != DML_COMMIT && !w->plan->train.votes)
        DML_FAIL(DML_ERR_DIVERGED,
                 "loss or gradients of step %lld were not finite, and parallelism.schedule %s has "
                 "made the steps after it from them; a smaller optimizer.lr or "
                 "lr_scheduler.warmup_steps may help, or a vote, which leaves such a step out: "
                 "parallelism.vertical_sync under pipedream, training.grad_clip under "
                 "pipedream_2bw",
                 (long long)(step + k) + 1, w->spec->parallelism.schedule);
    out->step = step + k;
    out->vote = vote;
    out->samples = w->updates[k].samples;
    out->lr = w->updates[k].lr;
    out->norm = norm_of(vote, out->samples);
    return DML_ERR_OK;
}

static int32_t steps_of_segment(const dml_loop *l)
{
    return dml_segment_steps(&l->w->segments, l->step, l->total_steps);
}

/* ---- its outcome ---- */

/* The figures of the segment, and what it comes to in those of its steps. */
static dml_loop_step count_times(dml_loop *l, int32_t n, const dml_vote *segment)
{
    dml_worker *w = l->w;
    const int64_t wall_ns = dml_loop_lap(l, dml_clock_ns());
    dml_recorder_end(&w->recorder, l->step + 1, n, DML_COMMIT);
    l->busy_ns += l->step_busy_ns;
    l->exposed_ns += l->step_exposed_ns;
    l->wall_ns += wall_ns;
    l->counted += n;
    return (dml_loop_step){
        .wall_ns = wall_ns / n, .busy_ns = segment->busy_ns / n, .span_ns = wall_ns / n};
}

dml_err dml_loop_finish_segment(dml_loop *l, const dml_vote *segment)
{
    dml_worker *w = l->w;
    const int64_t step = l->step;
    const int32_t n = steps_of_segment(l);
    dml_loop_step done = count_times(l, n, segment);
    dml_loop_heed(l, segment);
    l->step += n;
    dml_loop_forget_steps(l);
    atomic_store_explicit(&w->page->committed, l->step, memory_order_release);
    for (int32_t k = 0; k < n; k++) {
        dml_vote vote;
        DML_TRY(read_ballot(l, step, k, &vote, &done));
        DML_TRY(dml_loop_report_step(l, &done));
        DML_TRY(dml_loop_count_skips(l, done.verdict, step + k));
    }
    return DML_ERR_OK;
}

dml_err dml_loop_train_segment(dml_loop *l)
{
    dml_worker *w = l->w;
    const int64_t step = l->step;
    const int32_t n = steps_of_segment(l);
    dml_loop_set_phase(w, DML_PHASE_TRAIN, step + 1);
    plan_updates(l, step, n);
    DML_TRY(dml_loop_keep(l));
    const dml_step_words words = {.step = step, .loss_scale = 1.0f, .pace = dml_loop_pace(w, step)};
    l->step_busy_ns = l->step_exposed_ns = 0;
    if (!w->idle) DML_TRY(dml_exec_run_updates(w->train_exec, &words, w->rows, w->updates, n));
    const dml_exec_times times = dml_loop_times(w->train_exec);
    l->step_busy_ns = times.busy_ns;
    l->step_exposed_ns = times.exposed_ns;
    dml_vote segment;
    DML_TRY(close_ballots(w, n));
    DML_TRY(hold_vote(l, n, &segment));
    return dml_loop_finish_segment(l, &segment);
}
