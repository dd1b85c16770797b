/* engine/worker_change.c - a worker's state goes to the depot and comes back: between two plans nothing else stays.
 *
 * What is not there is made again from the spec and the step: learning rates, dropout, batches, scratch.
 */
#include "engine/worker_state.h"

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
