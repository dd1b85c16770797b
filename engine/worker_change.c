/* engine/worker_change.c - a worker's state goes to the depot and comes back: between two plans nothing else stays.
 *
 * Why a plan changes begins here as well: every worker tells the agent what its chunks cost.
 *
 * What is not there is made again from the spec and the step: learning rates, dropout, batches, scratch.
 */
#include "engine/worker_loop.h"

dml_err dml_worker_put_state(dml_worker *w, uint32_t generation, const dml_depot_run *run)
{
    dml_depot_run now = *run;
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        const dml_held *h = &w->held[c];
        if (!h->chunk || !h->update->counts) continue;
        DML_TRY(dml_depot_put(w->config->depot, generation, h->chunk, w->backend->device,
                              w->lane[DML_LANE_COMPUTE]));
        now.commits = h->update->commits;
        if (c == 0) dml_depot_put_run(w->config->depot, generation, &now);
    }
    return DML_ERR_OK;
}

dml_err dml_worker_get_state(dml_worker *w, int32_t chunk)
{
    const dml_held *h = &w->held[chunk];
    h->update->commits = w->config->depot->run->commits;
    return dml_depot_get(w->config->depot, h->chunk, w->backend->device, w->lane[DML_LANE_COMPUTE]);
}

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
