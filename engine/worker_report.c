/* engine/worker_report.c - what a worker tells: of each step, of an evaluation, of the end.  Of what is the same
 * everywhere the leader speaks, the lowest rank that is there. */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"

#include <math.h>
#include <string.h>

void dml_loop_set_phase(dml_worker *w, dml_phase phase, int64_t step)
{
    atomic_store_explicit(&w->page->phase, phase, memory_order_relaxed);
    atomic_store_explicit(&w->page->step, step, memory_order_relaxed);
}

dml_err dml_worker_report(const dml_worker *w, dml_report *r)
{
    r->rank = w->config->rank;
    return w->config->reporter.put(w->config->reporter.context, r);
}

static double per_sample(double loss, int64_t samples)
{
    return isnan(loss) ? (double)NAN : loss / (double)samples; /* not "-nan" */
}

/* ---- steps ---- */

static dml_report_step describe(const dml_loop *l, const dml_loop_step *s)
{
    const dml_worker *w = l->w;
    double loss;
    memcpy(&loss, &s->vote->loss_bits, sizeof loss);
    return (dml_report_step){.step = s->step + 1,
                             .loss = per_sample(loss, s->samples),
                             .grad_norm = s->verdict == DML_SKIP ? (double)NAN : s->norm,
                             .lr = s->lr,
                             .samples = s->samples,
                             .correct = s->vote->correct,
                             .wall_ns = s->wall_ns,
                             .at_ns = l->committed_at_ns,
                             .generation = w->tenure.generation,
                             .verdict = s->verdict,
                             .loss_scale = (double)l->loss_scale.scale,
                             .staggered = s->ahead,
                             .undone = s->undone,
                             .bubble =
                                 1.0 - (double)s->busy_ns / ((double)s->span_ns * w->working)};
}

/* Those of the newest step that were not told from here. */
static dml_err tell(dml_loop *l)
{
    while (l->w->leads && l->n_sent < l->n_told) {
        dml_report r = {.kind = DML_REPORT_STEP, .step = l->told[l->n_sent]};
        DML_TRY(dml_worker_report(l->w, &r));
        l->n_sent++;
    }
    return DML_ERR_OK;
}

void dml_loop_forget_steps(dml_loop *l)
{
    l->n_told = l->n_sent = 0;
}

dml_err dml_loop_report_step(dml_loop *l, const dml_loop_step *s)
{
    DML_ASSERT_OP(l->n_told, <, l->most_told);
    l->told[l->n_told++] = describe(l, s);
    return tell(l);
}

/* By all: whoever leads now may have come later, and know nothing of it. */
dml_err dml_loop_repeat_step(dml_loop *l)
{
    if (l->n_told > 0 && l->told[l->n_told - 1].step != l->step) dml_loop_forget_steps(l);
    for (; l->n_sent < l->n_told; l->n_sent++) {
        dml_report r = {.kind = DML_REPORT_STEP, .step = l->told[l->n_sent]};
        DML_TRY(dml_worker_report(l->w, &r));
    }
    return DML_ERR_OK;
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

dml_err dml_loop_evaluate(dml_loop *l)
{
    dml_worker *w = l->w;
    dml_loop_set_phase(w, DML_PHASE_EVAL, l->step);
    const int64_t begin_ns = dml_clock_ns();
    dml_report r = {.kind = DML_REPORT_EVAL, .eval = {.step = l->step}};
    double loss = 0.0;
    dml_feed_seek(&w->test, 0);
    for (int64_t round = 0; round < dml_data_epoch_steps(w->test.data); round++) {
        r.eval.samples += dml_worker_fill_rows(w, w->test.data, round);
        const dml_step_words words = {
            .step = round, .loss_scale = 1.0f, .pace = dml_loop_pace(w, l->step)};
        DML_TRY(dml_worker_run_exec(w, w->eval_exec, &words));
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
    l->evaluated_at = l->step;
    return w->leads ? dml_worker_report(w, &r) : DML_ERR_OK;
}

/* ---- the end ---- */

/* Mean over the steps counted; -1 where nobody knows when data moved. */
static int64_t exposed_of_a_step(const dml_loop *l)
{
    const bool known = l->w->backend->on_host && l->w->comm->call_met_ns;
    return known && l->counted > 0 ? l->exposed_ns / l->counted : -1;
}

static dml_err describe_chunk(const dml_worker *w, int32_t c, dml_report_chunk *out)
{
    const dml_exec *x = w->train_exec;
    *out = (dml_report_chunk){.chunk = c,
                              .fwd_ns = dml_exec_median_ns(x, DML_OP_FWD, c),
                              .bwd_ns = dml_exec_median_ns(x, DML_OP_BWD, c),
                              .bwd_input_ns = dml_exec_median_ns(x, DML_OP_BWD_INPUT, c),
                              .bwd_weight_ns = dml_exec_median_ns(x, DML_OP_BWD_WEIGHT, c),
                              .recompute_ns = dml_exec_median_ns(x, DML_OP_RECOMPUTE, c),
                              .reduce_ns = dml_exec_median_ns(x, DML_OP_REDUCE, c),
                              .step_ns = dml_exec_median_ns(x, DML_OP_STEP, c)};
    return dml_chunk_weights_hash(w->held[c].chunk, w->backend->device, w->lane[DML_LANE_COMPUTE],
                                  &out->weights_hash);
}

dml_err dml_loop_report_end(dml_loop *l)
{
    dml_worker *w = l->w;
    dml_report r = {.kind = DML_REPORT_END,
                    .end = {.memory_bytes = w->memory_bytes,
                            .busy_ns = l->busy_ns,
                            .wall_ns = l->wall_ns,
                            .exposed_ns = exposed_of_a_step(l),
                            .stash_peak = dml_loop_times(w->train_exec).stash_peak}};
    for (int32_t c = 0; c < w->plan->train.chunks && r.end.n_chunks < DML_MAX_HELD; c++) {
        if (!w->held[c].chunk) continue;
        for (int32_t k = 0; k < 2; k++)
            r.end.stash_bytes += w->held[c].bytes[k ? DML_POOL_KEPT : DML_POOL_STASH] *
                                 *dml_program_slots(&w->plan->train, w->config->rank, c,
                                                    k ? DML_POOL_KEPT : DML_POOL_STASH);
        DML_TRY(describe_chunk(w, c, &r.end.chunk[r.end.n_chunks++]));
    }
    return dml_worker_report(w, &r);
}
