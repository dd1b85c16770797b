/* engine/worker_keep.c - what a worker holds, kept beside it before it moves on from it, until nobody can ask it back.
 *
 *   asynchronous   what the segment under way began with, where losses are survived
 *   staggered      what the step under way began with: its optimizer steps do not wait for the vote
 *
 * The copy is in the host's memory, and whole or not there: its stamp is that of step l->step of this tenure.
 */
#include "engine/worker_loop.h"

#include <unistd.h>

dml_err dml_worker_open_keep(dml_worker *w)
{
    int fd;
    const bool segments = w->segments.steps > 1;
    if (segments ? !w->config->recovers : !w->plan->train.staggered) return DML_ERR_OK;
    DML_TRY(dml_depot_create(w->spec, &w->plan->model, &w->start, &fd));
    close(fd);
    return DML_ERR_OK;
}

static uint64_t stamp_of(const dml_loop *l)
{
    return dml_depot_stamp(l->w->tenure.generation, l->step);
}

dml_err dml_loop_keep(dml_loop *l)
{
    dml_worker *w = l->w;
    if (!w->start.memory) return DML_ERR_OK;
    dml_depot_run run = {.step = l->step};
    dml_depot_put_run(&w->start, 0, &run);
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        const dml_held *h = &w->held[c];
        if (!h->chunk) continue;
        run.commits = h->update->commits;
        DML_TRY(dml_depot_put(&w->start, stamp_of(l), h->chunk, w->backend->device,
                              w->lane[DML_LANE_COMPUTE]));
    }
    dml_depot_put_run(&w->start, stamp_of(l), &run);
    return DML_ERR_OK;
}

dml_err dml_loop_undo(dml_loop *l)
{
    dml_worker *w = l->w;
    l->ahead = false;
    if (!w->start.memory || dml_depot_run_stamp(&w->start) != stamp_of(l)) return DML_ERR_OK;
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        const dml_held *h = &w->held[c];
        if (!h->chunk) continue;
        DML_TRY(dml_depot_get(&w->start, h->chunk, w->backend->device, w->lane[DML_LANE_COMPUTE]));
        w->backend->kernels->weights_changed(w->compute);
        h->update->commits = w->start.run->commits;
        h->update->outcomes = l->step;
    }
    return DML_ERR_OK;
}
