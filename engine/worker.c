/* engine/worker.c - the training loop of one worker.
 *
 *   run the program up to its vote -> judge own chunks -> sum the ballots -> everyone knows the verdict
 *   commit: optimizer steps       redo: new exact scales, same step again       skip: state unchanged
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/lr.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_SKIPPED = 5
}; /* steps in a row that may be non-finite before the run counts as diverged */

void dml_loop_set_phase(dml_worker *w, dml_phase phase, int64_t step)
{
    atomic_store_explicit(&w->page->phase, phase, memory_order_relaxed);
    atomic_store_explicit(&w->page->step, step, memory_order_relaxed);
}

static dml_err report(const dml_worker *w, dml_report *r)
{
    r->rank = w->config->rank;
    return w->config->reporter.put(w->config->reporter.context, r);
}

dml_err dml_worker_sum_ballot(dml_worker *w, int64_t words)
{
    return w->vote_comm->all_reduce(w->world, w->lane[DML_LANE_REDUCE], w->ballot, words, DML_I64,
                                    DML_SUM);
}

static int64_t fill_rows(dml_worker *w, dml_data *data, int64_t step)
{
    int64_t samples = 0;
    for (int32_t mb = 0; mb < w->plan->mbs; mb++)
        samples += w->rows[mb] = dml_data_rows(data, step, mb);
    return samples;
}

static void seek(const dml_feed *f, int64_t step)
{
    if (f->images) dml_loader_seek(f->images, step);
    if (f->labels) dml_loader_seek(f->labels, step);
}

/* ---- a step ---- */

/* Only rank 0's look counts: the others may have looked earlier, or later. */
static int64_t newer_plan(const dml_worker *w)
{
    if (w->config->rank != 0 || !w->config->depot) return 0;
    const uint32_t newest = atomic_load_explicit(&w->config->control->plan, memory_order_acquire);
    return newest == w->tenure.generation ? 0 : newest;
}

static dml_exec_times take_times(dml_exec *x)
{
    return x ? dml_exec_take_times(x) : (dml_exec_times){0};
}

static dml_err hold_vote(dml_loop *l, bool is_redo, dml_vote *vote, dml_verdict *verdict)
{
    dml_worker *w = l->w;
    memset(vote, 0, sizeof *vote);
    const dml_exec_times times = take_times(w->train_exec);
    l->step_busy_ns += times.busy_ns;
    l->step_exposed_ns += times.exposed_ns;
    vote->busy_ns = l->step_busy_ns + l->commit_busy_ns; /* the step before's: ours is to come */
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) dml_update_judge(w->held[c].update, 0, w->rows, vote);
    vote->stop = atomic_load_explicit(&w->config->control->stop, memory_order_relaxed);
    vote->plan = newer_plan(w);
    memcpy(w->ballot, vote, sizeof *vote);
    const int64_t begin_ns = dml_clock_ns();
    if (!w->idle) dml_exec_voted(w->train_exec, begin_ns, 0, 0);
    DML_TRY(dml_worker_sum_ballot(w, DML_VOTE_WORDS));
    if (!w->idle)
        dml_exec_voted(w->train_exec, begin_ns, w->vote_comm->call_met_ns(w->world),
                       dml_clock_ns());
    memcpy(vote, w->ballot, sizeof *vote);
    return dml_vote_verdict(vote, is_redo, verdict);
}

float dml_loop_pace(const dml_worker *w, int64_t step)
{
    return (float)dml_spec_pace(w->config->plan->spec, w->config->rank, step);
}

static dml_err run(const dml_worker *w, dml_exec *x, const dml_step_words *words)
{
    return w->idle ? DML_ERR_OK : dml_exec_run(x, words, w->rows);
}

/* Runs the step until it has a verdict that stands: in exact mode scales may have to grow once. */
static dml_err attempt(dml_loop *l, int64_t step, dml_vote *vote, dml_verdict *verdict)
{
    dml_worker *w = l->w;
    const dml_step_words words = {
        .step = step, .loss_scale = l->loss_scale.scale, .pace = dml_loop_pace(w, step)};
    l->step_busy_ns = l->step_exposed_ns = 0;
    DML_TRY(run(w, w->train_exec, &words));
    DML_TRY(hold_vote(l, false, vote, verdict));
    if (*verdict != DML_REDO) return DML_ERR_OK;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) dml_update_rescale(w->held[c].update);
    seek(&w->train, step);
    DML_TRY(run(w, w->train_exec, &words));
    return hold_vote(l, true, vote, verdict);
}

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

static double per_sample(double loss, int64_t samples)
{
    return isnan(loss) ? (double)NAN : loss / (double)samples; /* not "-nan" */
}

dml_err dml_loop_report_step(dml_loop *l, const dml_loop_step *s)
{
    dml_worker *w = l->w;
    if (w->config->rank != 0) return DML_ERR_OK;
    double loss;
    memcpy(&loss, &s->vote->loss_bits, sizeof loss);
    dml_report r = {
        .kind = DML_REPORT_STEP,
        .step = {.step = s->step + 1,
                 .loss = per_sample(loss, s->samples),
                 .grad_norm = s->verdict == DML_SKIP ? (double)NAN : s->norm,
                 .lr = s->lr,
                 .samples = s->samples,
                 .correct = s->vote->correct,
                 .wall_ns = s->wall_ns,
                 .verdict = s->verdict,
                 .loss_scale = (double)l->loss_scale.scale,
                 .bubble = 1.0 - (double)s->busy_ns / ((double)s->span_ns * w->plan->workers)}};
    return report(w, &r);
}

int64_t dml_loop_lap(dml_loop *l)
{
    const int64_t now_ns = dml_clock_ns(), wall_ns = now_ns - l->committed_at_ns;
    l->committed_at_ns = now_ns;
    return wall_ns;
}

static dml_err train_step(dml_loop *l, int64_t step)
{
    dml_worker *w = l->w;
    dml_loop_set_phase(w, DML_PHASE_TRAIN, step + 1);
    const int64_t samples = fill_rows(w, w->train.data, step);
    dml_vote vote;
    dml_verdict verdict;
    DML_TRY(attempt(l, step, &vote, &verdict));
    const int64_t voted_at_ns = dml_clock_ns(),
                  span_ns = l->commit_ns + voted_at_ns - l->committed_at_ns;
    const double norm =
        sqrt(dml_superacc_round(&vote.norm)) / (double)samples / (double)l->loss_scale.scale;
    const double lr = dml_lr_at(w->spec, l->total_steps, step);
    if (verdict == DML_COMMIT && !w->idle)
        DML_TRY(dml_exec_commit(w->train_exec, norm, samples, lr));
    const dml_exec_times commit = take_times(w->train_exec);
    l->commit_busy_ns = commit.busy_ns;
    dml_recorder_end(&w->recorder, step + 1, 1, verdict);
    l->stop = vote.stop > 0;
    l->change = (uint32_t)vote.plan;
    const int64_t wall_ns = dml_loop_lap(l);
    l->commit_ns = l->committed_at_ns - voted_at_ns;
    /* the first under a plan counts only where it is the only one */
    if (step == w->tenure.first_step + 1) l->busy_ns = l->wall_ns = l->exposed_ns = l->counted = 0;
    l->busy_ns += l->step_busy_ns + l->commit_busy_ns;
    l->exposed_ns += l->step_exposed_ns + commit.exposed_ns;
    l->wall_ns += wall_ns;
    l->counted++;
    const dml_loop_step done = {.step = step,
                                .vote = &vote,
                                .verdict = verdict,
                                .norm = norm,
                                .lr = lr,
                                .samples = samples,
                                .wall_ns = wall_ns,
                                .busy_ns = vote.busy_ns,
                                .span_ns = span_ns};
    DML_TRY(dml_loop_report_step(l, &done));
    return dml_loop_count_skips(l, verdict, step);
}

/* ---- evaluation ---- */

/* Losses of a round, by micro-batch, from whichever worker ran it: an integer sum over zeros. */
static dml_err gather_round(dml_worker *w)
{
    const int32_t mbs = w->plan->mbs;
    memset(w->ballot, 0, (size_t)mbs * 2 * sizeof *w->ballot);
    const dml_held *last = &w->held[w->plan->train.chunks - 1];
    if (last->chunk) {
        const double *loss = dml_update_loss(last->update);
        const int32_t *correct = dml_update_correct(last->update);
        memcpy(w->ballot, loss, (size_t)mbs * sizeof *loss);
        for (int32_t mb = 0; mb < mbs; mb++)
            w->ballot[mbs + mb] = correct[mb];
    }
    return dml_worker_sum_ballot(w, 2 * (int64_t)mbs);
}

static dml_err evaluate(dml_loop *l, int64_t step)
{
    dml_worker *w = l->w;
    dml_loop_set_phase(w, DML_PHASE_EVAL, step);
    const int64_t begin_ns = dml_clock_ns();
    dml_report r = {.kind = DML_REPORT_EVAL, .eval = {.step = step}};
    double loss = 0.0;
    seek(&w->test, 0);
    for (int64_t round = 0; round < dml_data_epoch_steps(w->test.data); round++) {
        r.eval.samples += fill_rows(w, w->test.data, round);
        const dml_step_words words = {
            .step = round, .loss_scale = 1.0f, .pace = dml_loop_pace(w, step)};
        DML_TRY(run(w, w->eval_exec, &words));
        DML_TRY(gather_round(w));
        for (int32_t mb = 0; mb < w->plan->mbs; mb++) {
            double mb_loss;
            memcpy(&mb_loss, &w->ballot[mb], sizeof mb_loss);
            loss += mb_loss;
            r.eval.correct += w->ballot[w->plan->mbs + mb];
        }
    }
    r.eval.loss = per_sample(loss, r.eval.samples);
    r.eval.wall_ns = dml_clock_ns() - begin_ns;
    l->committed_at_ns = dml_clock_ns(); /* the next step's time starts here */
    return w->config->rank == 0 ? report(w, &r) : DML_ERR_OK;
}

/* ---- the run ---- */

/* Mean over the steps counted; -1 where nobody knows when data moved. */
static int64_t exposed_of_a_step(const dml_loop *l)
{
    const bool known = l->w->backend->on_host && l->w->comm->call_met_ns;
    return known && l->counted > 0 ? l->exposed_ns / l->counted : -1;
}

static dml_err report_end(dml_loop *l)
{
    dml_worker *w = l->w;
    dml_report r = {.kind = DML_REPORT_END,
                    .end = {.memory_bytes = w->memory_bytes,
                            .busy_ns = l->busy_ns,
                            .wall_ns = l->wall_ns,
                            .exposed_ns = exposed_of_a_step(l),
                            .stash_peak = take_times(w->train_exec).stash_peak}};
    for (int32_t c = 0; c < w->plan->train.chunks && r.end.n_chunks < DML_MAX_HELD; c++) {
        if (!w->held[c].chunk) continue;
        const dml_exec *x = w->train_exec;
        for (int32_t k = 0; k < 2; k++)
            r.end.stash_bytes += w->held[c].bytes[k ? DML_POOL_KEPT : DML_POOL_STASH] *
                                 *dml_program_slots(&w->plan->train, w->config->rank, c,
                                                    k ? DML_POOL_KEPT : DML_POOL_STASH);
        uint64_t hash;
        DML_TRY(dml_chunk_weights_hash(w->held[c].chunk, w->backend->device,
                                       w->lane[DML_LANE_COMPUTE], &hash));
        r.end.chunk[r.end.n_chunks++] =
            (dml_report_chunk){.chunk = c,
                               .weights_hash = hash,
                               .fwd_ns = dml_exec_median_ns(x, DML_OP_FWD, c),
                               .bwd_ns = dml_exec_median_ns(x, DML_OP_BWD, c),
                               .bwd_input_ns = dml_exec_median_ns(x, DML_OP_BWD_INPUT, c),
                               .bwd_weight_ns = dml_exec_median_ns(x, DML_OP_BWD_WEIGHT, c),
                               .recompute_ns = dml_exec_median_ns(x, DML_OP_RECOMPUTE, c),
                               .reduce_ns = dml_exec_median_ns(x, DML_OP_REDUCE, c),
                               .step_ns = dml_exec_median_ns(x, DML_OP_STEP, c)};
    }
    return report(w, &r);
}

static void inspect(const dml_worker *w, bool after)
{
    const dml_worker_config *c = w->config;
    for (int32_t i = 0; c->inspect && i < w->plan->train.chunks; i++)
        if (w->held[i].chunk) c->inspect(c->inspect_context, w->held[i].chunk, after);
}

/* The state of the run, as the workers of the next plan will find it. */
static dml_err leave(dml_loop *l)
{
    dml_loop_set_phase(l->w, DML_PHASE_CHANGE, l->step);
    const dml_depot_run now = {.step = l->step,
                               .skipped = l->skipped,
                               .good_steps = l->loss_scale.good_steps,
                               .loss_scale = l->loss_scale.scale};
    return dml_worker_put_state(l->w, l->change, &now);
}

/* Everyone is here, and the first step's time starts together.  That of a change counts as the next step's. */
static dml_err begin(dml_loop *l)
{
    dml_worker *w = l->w;
    const uint32_t generation = w->tenure.generation;
    l->busy_ns = l->wall_ns = l->exposed_ns = l->counted = 0;
    l->change = 0;
    if (generation == 0) inspect(w, false);
    DML_TRY(report(w, &(dml_report){.kind = DML_REPORT_READY, .ready = {generation}}));
    memset(w->ballot, 0, sizeof *w->ballot);
    DML_TRY(dml_worker_sum_ballot(w, 1));
    if (generation == 0) l->committed_at_ns = dml_clock_ns();
    return DML_ERR_OK;
}

static bool is_over(const dml_loop *l)
{
    return l->stop || l->step >= l->total_steps;
}

static dml_err evaluate_at(dml_loop *l)
{
    l->evaluated_at = l->step;
    return evaluate(l, l->step);
}

/* To the end of the run, or to the step after which the plan changes. */
static dml_err train(dml_loop *l)
{
    dml_worker *w = l->w;
    const int64_t every = w->spec->training.eval_interval_steps;
    DML_TRY(begin(l));
    while (!is_over(l) && l->change == 0) {
        const int32_t n = dml_segment_steps(&w->segments, l->step, l->total_steps);
        DML_TRY(w->segments.steps > 1 ? dml_loop_train_segment(l, l->step, n)
                                      : train_step(l, l->step));
        l->step += n;
        DML_TRY(dml_loop_report_load(l));
        if (every > 0 && l->step % every == 0 && !l->stop) DML_TRY(evaluate_at(l));
    }
    if (!is_over(l)) return leave(l);
    l->change = 0; /* too late */
    if (l->evaluated_at != l->step && !l->stop) DML_TRY(evaluate_at(l));
    dml_loop_set_phase(w, DML_PHASE_END, l->step);
    inspect(w, true);
    return report_end(l);
}

/* "in worker 3, cuda device 1": libraries that know no device leave that to us. */
static dml_err name_device(const dml_worker_config *c, dml_err err)
{
    char text[64];
    if (err == DML_ERR_OK || c->backend->on_host) return err;
    snprintf(text, sizeof text, "worker %d, %s device %d", c->rank, c->backend->label,
             c->rank / c->plan->spec->parallelism.workers_per_device);
    return dml_err_add(err, text, __FILE__, __LINE__);
}

/* What the run has come to, from the depot: nothing that a new process would not know. */
static void resume(dml_loop *l, const dml_depot_run *now)
{
    l->step = now->step;
    l->skipped = now->skipped;
    l->loss_scale.good_steps = now->good_steps;
    l->loss_scale.scale = now->loss_scale;
}

static dml_err run_tenure(const dml_worker_config *config, dml_loop *l, const dml_tenure *tenure)
{
    dml_worker w;
    dml_err err = dml_worker_open(&w, config, tenure);
    if (err == DML_ERR_OK) {
        l->w = &w;
        l->total_steps = dml_data_total_steps(w.train.data);
        if (tenure->generation > 0) resume(l, config->depot->run);
        err = train(l);
    }
    name_device(config, err);
    /* Before closing: that may wait for jobs that only the agent's abort ends, and say something of its own. */
    if (err != DML_ERR_OK) dml_report_failure(&config->reporter, config->rank, err);
    const dml_err closed = dml_worker_close(&w);
    if (err != DML_ERR_OK || closed == DML_ERR_OK) return err;
    dml_report_failure(&config->reporter, config->rank, closed);
    return closed;
}

dml_err dml_worker_run(const dml_worker_config *config)
{
    dml_loop l = {.loss_scale = dml_loss_scale_of(config->plan->spec), .evaluated_at = -1};
    dml_tenure tenure = {.plan = config->plan};
    DML_TRY(run_tenure(config, &l, &tenure));
    while (l.change > 0) {
        tenure.generation = l.change;
        tenure.first_step = l.step;
        const dml_err err = config->next(config->next_context, l.change, &tenure.plan);
        if (err != DML_ERR_OK) dml_report_failure(&config->reporter, config->rank, err);
        DML_TRY(err);
        DML_TRY(run_tenure(config, &l, &tenure));
    }
    return DML_ERR_OK;
}
