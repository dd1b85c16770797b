/* engine/worker.c - the training loop of one worker: from plan to plan, from step to step.
 *
 *   open -> READY -> steps and evaluations -> END -> dismissed
 *    ^                  | another plan     | others are lost
 *    +--- next tenure --+------------------+      worker_recover.c
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void inspect(const dml_worker *w, bool after)
{
    const dml_worker_config *c = w->config;
    for (int32_t i = 0; c->inspect && i < w->plan->train.chunks; i++)
        if (w->held[i].chunk) c->inspect(c->inspect_context, w->held[i].chunk, after);
}

/* ---- a tenure ---- */

static dml_err make_room(dml_loop *l)
{
    const int32_t n = l->w->plan->updates > 1 ? l->w->plan->updates : 1;
    if (n <= l->most_told) return DML_ERR_OK;
    dml_report_step *told = realloc(l->told, (size_t)n * sizeof *told);
    if (!told) DML_FAIL(DML_ERR_NOMEM, "no memory for the reports of %d steps", n);
    l->told = told;
    l->most_told = n;
    return DML_ERR_OK;
}

/* Everyone is here, and the first step's time starts together.  That of a change counts as the next step's. */
static dml_err begin(dml_loop *l)
{
    dml_worker *w = l->w;
    const uint32_t generation = w->tenure.generation;
    l->total_steps = dml_data_total_steps(w->train.data);
    l->busy_ns = l->wall_ns = l->exposed_ns = l->counted = 0;
    l->change = 0;
    l->unclipped = 0; /* those who come have seen none */
    l->ahead = l->undone = false;
    DML_TRY(make_room(l));
    if (generation == 0) inspect(w, false);
    DML_TRY(DML_FAILPOINT(WORKER_READY));
    DML_TRY(dml_worker_report(w, &(dml_report){.kind = DML_REPORT_READY, .ready = {generation}}));
    memset(w->ballot, 0, sizeof *w->ballot);
    DML_TRY(dml_worker_sum_ballot(w, 1));
    if (l->committed_at_ns == 0) l->committed_at_ns = dml_clock_ns();
    return dml_loop_repeat_step(l);
}

static bool is_to_evaluate(const dml_loop *l)
{
    const int64_t every = l->w->spec->training.eval_interval_steps;
    if (l->evaluated_at == l->step || l->stop) return false;
    return l->step == l->total_steps || (every > 0 && l->step > 0 && l->step % every == 0);
}

static dml_err make_steps(dml_loop *l)
{
    DML_TRY(l->w->segments.steps > 1  ? dml_loop_train_segment(l)
            : dml_loop_may_stagger(l) ? dml_loop_train_ahead(l)
                                      : dml_loop_train_step(l));
    DML_TRY(dml_loop_save_snapshot(l));
    return dml_loop_report_load(l);
}

/* To the end of the run, or to the step after which the plan changes. */
static dml_err train(dml_loop *l)
{
    DML_TRY(begin(l));
    for (;;) {
        if (is_to_evaluate(l)) DML_TRY(dml_loop_evaluate(l));
        if (dml_loop_is_over(l) || l->change > 0) break;
        DML_TRY(make_steps(l));
    }
    if (!dml_loop_is_over(l)) return DML_ERR_OK;
    l->change = 0; /* too late */
    dml_loop_set_phase(l->w, DML_PHASE_END, l->step);
    inspect(l->w, true);
    DML_TRY(dml_loop_report_end(l));
    return dml_loop_await_dismissal(l);
}

/* As far as it goes without a loss; *next is filled where another tenure follows, whose plan is NULL until then. */
static dml_err serve(dml_loop *l, const dml_tenure *tenure, dml_tenure *next)
{
    if (!tenure->plan) return dml_loop_join(l, next);
    if (tenure->generation > 0 || tenure->from)
        dml_loop_resume(l, tenure->from ? tenure->from->run : NULL);
    DML_TRY(train(l));
    return l->change > 0 ? dml_loop_leave(l, next) : DML_ERR_OK;
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

static bool is_dead(const dml_worker_config *c)
{
    return c->dead && atomic_load_explicit(c->dead, memory_order_relaxed);
}

/* Says why, and leaves everything.  Others may wait for this worker: that it goes is no arrival. */
static dml_err fail(dml_worker *w, dml_err err)
{
    const dml_worker_config *c = w->config;
    atomic_store_explicit(&w->abort.raised, 1, memory_order_relaxed);
    name_device(c, err);
    /* Before closing: that may wait for jobs that only the agent's abort ends, and say something of its own. */
    if (!is_dead(c)) dml_report_failure(&c->reporter, c->rank, err);
    const bool lost_device = err == DML_ERR_UNAVAILABLE && w->device && !c->backend->on_host;
    if (lost_device && !c->vote_hub) return err; /* the process ends, without a call to it */
    (void)dml_worker_close(w);
    return err;
}

static dml_err run_tenure(const dml_worker_config *config, dml_loop *l, const dml_tenure *tenure,
                          dml_tenure *next)
{
    dml_worker w;
    l->w = &w;
    dml_err err = dml_worker_open(&w, config, tenure, &l->kept);
    if (err == DML_ERR_OK) err = serve(l, tenure, next);
    while (err != DML_ERR_OK && !is_dead(config) && dml_loop_can_recover(l, err))
        err = dml_loop_recover(l, next);
    if (err == DML_ERR_OK) err = DML_FAILPOINT(WORKER_CLOSE);
    if (err != DML_ERR_OK) return fail(&w, err);
    const dml_err closed = dml_worker_close(&w);
    if (closed != DML_ERR_OK) dml_report_failure(&config->reporter, config->rank, closed);
    return closed;
}

/* The run's first tenure begins with initial weights, or where a checkpoint was loaded to. */
static dml_tenure first_tenure(const dml_worker_config *config)
{
    dml_tenure first = {.plan = config->joins ? NULL : config->plan};
    const dml_move *move = &config->control->move;
    if (config->joins || move->source != DML_SOURCE_BANK) return first;
    first.from = config->bank[move->bank];
    first.first_step = move->step;
    return first;
}

static dml_err run(const dml_worker_config *config, dml_loop *l)
{
    dml_tenure tenure = first_tenure(config);
    for (;;) {
        dml_tenure next = {0};
        DML_TRY(run_tenure(config, l, &tenure, &next));
        if (next.generation == 0 || dml_is_among(next.lost, config->rank)) return DML_ERR_OK;
        const dml_err err = config->next(config->next_context, next.generation, &next.plan);
        if (err != DML_ERR_OK) dml_report_failure(&config->reporter, config->rank, err);
        DML_TRY(err);
        tenure = next;
    }
}

dml_err dml_worker_run(const dml_worker_config *config)
{
    dml_loop l = {.loss_scale = dml_loss_scale_of(config->plan->spec), .evaluated_at = -1};
    const dml_err err = run(config, &l);
    free(l.kept.choices);
    free(l.told);
    return err;
}
