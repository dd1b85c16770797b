/* engine/worker_change.c - a worker's state goes to a bank and comes back: between two plans nothing else stays.
 *
 * Why a plan changes begins here as well: every worker tells the agent what its chunks cost.
 *
 * What is not there is made again from the spec and the step: learning rates, dropout, batches, scratch.
 */
#include "engine/worker_loop.h"

#include "engine/base/failpoint.h"
#include "engine/migration.h"

dml_err dml_worker_put_state(dml_worker *w, dml_depot *bank, uint64_t stamp, uint64_t lost,
                             const dml_depot_run *run, int64_t *bytes)
{
    dml_depot_run now = *run;
    bool gone[DML_HOST_WORKERS];
    for (int32_t r = 0; r < DML_HOST_WORKERS; r++)
        gone[r] = dml_is_among(lost, r);
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        const dml_held *h = &w->held[c];
        if (!h->chunk || dml_state_source(&w->plan->train, c, gone) != w->config->rank) continue;
        DML_TRY(DML_FAILPOINT(WORKER_PUT));
        DML_TRY(
            dml_depot_put(bank, stamp, h->chunk, w->backend->device, w->lane[DML_LANE_COMPUTE]));
        *bytes +=
            dml_state_bytes(w->spec, &w->plan->model, h->chunk->layer_begin, h->chunk->layer_end);
        now.commits = h->update->commits;
        if (c == 0) dml_depot_put_run(bank, stamp, &now);
    }
    return DML_ERR_OK;
}

dml_err dml_worker_get_state(dml_worker *w, int32_t chunk)
{
    const dml_held *h = &w->held[chunk];
    DML_TRY(DML_FAILPOINT(WORKER_GET));
    h->update->commits = w->tenure.from->run->commits;
    return dml_depot_get(w->tenure.from, h->chunk, w->backend->device, w->lane[DML_LANE_COMPUTE]);
}

/* ---- the run itself ---- */

dml_depot_run dml_loop_now(const dml_loop *l)
{
    return (dml_depot_run){.step = l->step,
                           .skipped = l->skipped,
                           .good_steps = l->loss_scale.good_steps,
                           .loss_scale = l->loss_scale.scale,
                           .evaluated_at = l->evaluated_at,
                           .snapshot = l->snapshot};
}

void dml_loop_resume(dml_loop *l, const dml_depot_run *run)
{
    l->loss_scale = dml_loss_scale_of(l->w->config->plan->spec);
    if (!run) {
        l->step = 0;
        l->skipped = 0;
        l->evaluated_at = -1;
        return;
    }
    l->step = run->step;
    l->skipped = run->skipped;
    l->loss_scale.good_steps = run->good_steps;
    l->loss_scale.scale = run->loss_scale;
    l->evaluated_at = run->evaluated_at;
    if (run->snapshot > l->snapshot) l->snapshot = run->snapshot;
}

dml_err dml_loop_save_snapshot(dml_loop *l)
{
    dml_worker *w = l->w;
    if (!l->snaps) return DML_ERR_OK;
    const dml_depot_run now = dml_loop_now(l);
    dml_report r = {.kind = DML_REPORT_SAVED, .saved = {.snapshot = l->snapshot, .step = l->step}};
    l->snaps = false;
    DML_TRY(DML_FAILPOINT(WORKER_SNAPSHOT));
    DML_TRY(dml_worker_put_state(w, w->config->bank[l->snapshot & 1],
                                 dml_depot_stamp(w->tenure.generation, l->step), w->tenure.lost,
                                 &now, &r.saved.bytes));
    DML_TRY(DML_FAILPOINT(WORKER_SAVED));
    return dml_worker_report(w, &r);
}

/* ---- loads ---- */

/* Worth a report: the agent weighs loads, and this was the last step of a window. */
static bool window_ends(const dml_loop *l)
{
    const int64_t every = l->w->spec->parallelism.balance_interval;
    return l->w->spec->parallelism.balance == DML_BALANCE_DYNAMIC && !l->w->idle &&
           (l->step - l->w->tenure.first_step) % every == 0;
}

dml_err dml_loop_report_load(dml_loop *l)
{
    const dml_worker *w = l->w;
    if (!window_ends(l)) return DML_ERR_OK;
    dml_exec *x = w->train_exec;
    dml_report r = {.kind = DML_REPORT_LOAD,
                    .rank = w->config->rank,
                    .load = {.step = l->step, .generation = w->tenure.generation}};
    for (int32_t c = 0; c < w->plan->train.chunks && r.load.n_chunks < DML_MAX_HELD; c++) {
        if (!w->held[c].chunk) continue;
        r.load.chunk[r.load.n_chunks++] =
            (dml_report_chunk){.chunk = c,
                               .fwd_ns = dml_exec_window_ns(x, DML_OP_FWD, c),
                               .bwd_ns = dml_exec_window_ns(x, DML_OP_BWD, c),
                               .bwd_input_ns = dml_exec_window_ns(x, DML_OP_BWD_INPUT, c),
                               .bwd_weight_ns = dml_exec_window_ns(x, DML_OP_BWD_WEIGHT, c),
                               .recompute_ns = dml_exec_window_ns(x, DML_OP_RECOMPUTE, c),
                               .reduce_ns = dml_exec_window_ns(x, DML_OP_REDUCE, c),
                               .step_ns = dml_exec_window_ns(x, DML_OP_STEP, c)};
    }
    dml_exec_begin_window(x);
    return w->config->reporter.put(w->config->reporter.context, &r);
}
