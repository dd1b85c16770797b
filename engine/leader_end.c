/* engine/leader_end.c - what a run came to: predicted beside measured, last records, what was traced.
 *
 *   plan's costs, with the times of ops  <-  each chunk's medians, mean over its workers
 *        -> simulator -> step, bubble, stash of each worker   beside   what it measured
 *
 * So both columns rest on the same op times, and what differs is what the simulator leaves out.
 */
#include "engine/leader.h"

#include "engine/leader_impl.h"
#include "engine/trace_draw.h"
#include "engine/trace_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* This run's own op times, of which the simulator makes the prediction: chunk by chunk the mean of its workers'
 * medians, as at speed 1.  Freed by the caller, whatever the result. */
static dml_err measured_cost(const dml_leader *l, dml_cost *cost)
{
    const dml_plan *p = l->plan;
    DML_TRY(dml_cost_copy(&p->cost, cost)); /* links, sizes, and the buckets' shares */
    for (int32_t s = 0; s < p->stages; s++) {
        dml_chunk_cost *c = &cost->chunk[s];
        c->fwd_ns = c->bwd_ns = c->bwd_input_ns = c->bwd_weight_ns = c->recompute_ns = 0;
        c->reduce_ns = c->step_ns = 0;
    }
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < l->end[w].n_chunks; i++) {
            const dml_report_chunk *m = &l->end[w].chunk[i];
            dml_chunk_cost *c = &cost->chunk[m->chunk];
            const int32_t holders = dml_plan_holders(p, m->chunk, NULL);
            const double share = dml_speed_of(&p->cost, w) / holders; /* at speed 1 */
            c->fwd_ns += llround((double)m->fwd_ns * share);
            c->bwd_ns += llround((double)m->bwd_ns * share);
            c->bwd_input_ns += llround((double)m->bwd_input_ns * share);
            c->bwd_weight_ns += llround((double)m->bwd_weight_ns * share);
            c->recompute_ns += llround((double)m->recompute_ns * share);
            c->reduce_ns += m->reduce_ns / holders;
            c->step_ns += llround((double)m->step_ns * share);
        }
    return DML_ERR_OK;
}

/* What the simulator says of them. */
static dml_err predict(const dml_leader *l, int64_t *step_ns, double *bubble, int32_t *stash,
                       int64_t *exposed_ns)
{
    dml_cost cost;
    dml_err err = measured_cost(l, &cost);
    if (err == DML_ERR_OK)
        err = dml_plan_predict(l->plan, &cost, step_ns, bubble, stash, exposed_ns);
    dml_cost_free(&cost);
    return err;
}

static const char *place_of(const dml_plan *p, int32_t worker, dml_arena *arena)
{
    if (dml_plan_is_equal(p))
        return dml_arena_printf(arena, "%2d.%d", dml_plan_rank(p, worker),
                                dml_plan_replica(p, worker));
    dml_str s = {0};
    dml_plan_print_stages(p, worker, &s);
    const char *place = dml_arena_printf(arena, " %s", dml_str_text(&s));
    dml_str_free(&s);
    return place;
}

static int32_t compare_workers(const dml_leader *l, dml_worker_figures *out,
                               dml_run_end_record *end, dml_arena *arena)
{
    const dml_plan *p = l->plan;
    double bubble[DML_HOST_WORKERS];
    int32_t stash[DML_HOST_WORKERS];
    int64_t exposed_ns[DML_HOST_WORKERS], step_ns;
    if (!dml_leader_is_complete(l) || l->step_times.count == 0) return 0;
    if (predict(l, &step_ns, bubble, stash, exposed_ns) != DML_ERR_OK) return 0;
    end->predicted_step_time_s = (double)step_ns * 1e-9;
    end->predicted_bubble_ratio = dml_leader_mean(p, bubble);
    int32_t n = 0;
    double predicted_s[DML_HOST_WORKERS], measured_s[DML_HOST_WORKERS];
    for (int32_t w = 0; w < p->workers; w++) {
        const dml_report_end *e = &l->end[w];
        if (dml_plan_lost(p, w)) continue;
        predicted_s[w] = (double)exposed_ns[w] * 1e-9;
        measured_s[w] = e->exposed_ns < 0 ? NAN : (double)e->exposed_ns * 1e-9;
        out[n++] = (dml_worker_figures){
            .worker = w,
            .place = place_of(p, w, arena),
            .planned_step_s = l->planned_step_s,
            .predicted_step_s = end->predicted_step_time_s,
            .measured_step_s = end->step_time_median_s,
            .planned_bubble_ratio = l->planned_bubble[w],
            .predicted_bubble_ratio = bubble[w],
            .measured_bubble_ratio =
                e->wall_ns > 0 ? 1.0 - (double)e->busy_ns / (double)e->wall_ns : NAN,
            .predicted_exposed_s = predicted_s[w],
            .measured_exposed_s = measured_s[w],
            .predicted_stash = stash[w],
            .measured_stash = e->stash_peak,
            .stash_bytes = e->stash_bytes,
        };
    }
    end->predicted_exposed_comm_s = dml_leader_mean(p, predicted_s);
    end->exposed_comm_s = dml_leader_mean(p, measured_s);
    return n;
}

static dml_err record_workers(dml_leader *l, const dml_worker_figures *workers, int32_t n)
{
    for (int32_t i = 0; i < n && l->has_metrics; i++) {
        const dml_worker_figures *f = &workers[i];
        dml_str stages = {0};
        dml_plan_print_stages(l->plan, f->worker, &stages);
        const dml_worker_record r = {.worker = f->worker,
                                     .stages = dml_str_text(&stages),
                                     .planned_step_time_s = f->planned_step_s,
                                     .planned_bubble_ratio = f->planned_bubble_ratio,
                                     .predicted_step_time_s = f->predicted_step_s,
                                     .predicted_bubble_ratio = f->predicted_bubble_ratio,
                                     .step_time_median_s = f->measured_step_s,
                                     .bubble_ratio = f->measured_bubble_ratio,
                                     .predicted_exposed_comm_s = f->predicted_exposed_s,
                                     .exposed_comm_s = f->measured_exposed_s,
                                     .predicted_stash = f->predicted_stash,
                                     .stash = f->measured_stash,
                                     .stash_bytes = f->stash_bytes};
        const dml_err err = dml_leader_written(l, dml_metrics_worker(&l->metrics, &r));
        dml_str_free(&stages);
        DML_TRY(err);
    }
    return DML_ERR_OK;
}

static int64_t memory_peak(const dml_leader *l)
{
    int64_t peak = 0;
    for (int32_t w = 0; w < l->processes; w++)
        if (l->end[w].memory_bytes > peak) peak = l->end[w].memory_bytes;
    return peak;
}

/* Predicted from the run's own op times where every worker came to its end and said them. */
static dml_err write_events(const dml_leader *l)
{
    if (!l->trace_to) return DML_ERR_OK;
    if (!dml_leader_is_complete(l) || l->changes > 0) /* traced: the first plan */
        return dml_trace_json(l->trace, &l->trace->plan->cost, "the plan's costs", l->trace_to);
    dml_cost cost;
    dml_err err = measured_cost(l, &cost);
    if (err == DML_ERR_OK)
        err = dml_trace_json(l->trace, &cost, "medians of this run", l->trace_to);
    dml_cost_free(&cost);
    return err;
}

/* *drawn: the step in the drawing, 0 none. */
static dml_err write_trace(const dml_leader *l, int64_t *drawn)
{
    *drawn = 0;
    if (!l->trace) return DML_ERR_OK;
    DML_TRY(write_events(l));
    return l->draw_to ? dml_trace_draw(l->trace, l->draw_to, drawn) : DML_ERR_OK;
}

static void note_trace(dml_leader *l, int64_t drawn)
{
    const dml_spec *spec = l->plan->spec;
    const dml_step_range steps = spec->logging.trace_steps;
    if (l->trace_to)
        dml_console_note(&l->view, "  trace        steps %" PRId64 "-%" PRId64 " in %s",
                         steps.first, steps.last, spec->logging.trace);
    if (l->draw_to && drawn > 0)
        dml_console_note(&l->view, "  drawing      step %" PRId64 " in %s", drawn,
                         spec->logging.draw);
    else if (l->draw_to)
        dml_console_note(&l->view,
                         "  drawing      none: no step of %" PRId64 "-%" PRId64 " came to its end",
                         steps.first, steps.last);
}

static void note_balance(dml_leader *l)
{
    if (isnan(l->entropy[0])) return;
    dml_console_note(&l->view, "  balance      entropy %.3f -> %.3f, %d change%s of plan",
                     l->entropy[0], l->entropy[1], l->changes, l->changes == 1 ? "" : "s");
}

dml_err dml_leader_finish(dml_leader *l, const char *status, int exit_code, int32_t failures)
{
    char hash[17] = "";
    const bool complete = dml_leader_is_complete(l);
    int64_t drawn;
    const dml_err traced = write_trace(l, &drawn);
    const dml_err paced = dml_leader_pace_now(l);
    if (complete) snprintf(hash, sizeof hash, "%016" PRIx64, l->weights_hash);
    dml_run_end_record end = {
        .status = status,
        .exit_code = exit_code ? exit_code : dml_err_exit_code(traced),
        .steps = l->steps,
        .samples = l->samples,
        .train_time_s = l->train_time_s,
        .samples_per_second = l->train_time_s > 0.0
                                  ? (double)(l->samples - l->resumed_samples) / l->train_time_s
                                  : NAN,
        .step_time_median_s = dml_stats_quantile(&l->step_times, 0.5),
        .step_time_p95_s = dml_stats_quantile(&l->step_times, 0.95),
        .planned_step_time_s = l->planned_step_s,
        .predicted_step_time_s = NAN,
        .bubble_ratio = l->step_times.count > 0 ? l->bubble_sum / (double)l->step_times.count : NAN,
        .predicted_bubble_ratio = NAN,
        .exposed_comm_s = NAN,
        .predicted_exposed_comm_s = NAN,
        .loss = l->loss,
        .test_loss = l->test_loss,
        .test_accuracy_ratio = l->test_accuracy,
        .weights_hash = complete ? hash : NULL,
        .memory_peak_bytes = memory_peak(l),
        .failures = l->mended.failures + failures,
        .recoveries = l->mended.n,
        .steps_lost = l->mended.steps_lost,
        .recovery_time_max_s = l->mended.time_max_s,
    };
    dml_worker_figures workers[DML_HOST_WORKERS];
    dml_arena arena = {0};
    const int32_t n = compare_workers(l, workers, &end, &arena);
    if (l->steps > 0) dml_console_summary(&l->view, &end, workers, n);
    dml_arena_free(&arena);
    dml_leader_sum_up(l, &end);
    note_balance(l);
    dml_err err = paced == DML_ERR_OK ? record_workers(l, workers, n) : paced;
    if (err == DML_ERR_OK && l->has_metrics) err = dml_metrics_run_end(&l->metrics, &end);
    if (err != DML_ERR_OK) dml_console_note(&l->view, "%s", dml_err_trail());
    if (traced == DML_ERR_OK) note_trace(l, drawn);
    return traced;
}
