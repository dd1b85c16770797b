/* engine/replan_cut.c - a new cut for those who are left: what the placement solver finds, and nobody idle.
 *
 *   lost 1 and 2 of      0 | 1 | 2 | 3          layers 0-2 on worker 0, 3-7 on worker 3
 *
 * The solver knows its devices by number; device i is the i-th worker that is left.  It leaves out whom it has no use
 * for; they become replicas of the stage whose workers have most to do.
 */
#include "engine/base/str.h"
#include "engine/model_place.h"
#include "engine/replan_impl.h"

#include <string.h>

/* The workers that are left, ascending; returns how many. */
static int32_t live_of(const dml_plan *first, const bool *lost, int32_t *live)
{
    int32_t n = 0;
    for (int32_t w = 0; w < first->workers; w++)
        if (!lost[w]) live[n++] = w;
    return n;
}

static void keep_devices(dml_placement_problem *p, const int32_t *live, int32_t n, dml_arena *arena)
{
    dml_placement_device *device = DML_NEW_N(arena, dml_placement_device, n);
    for (int32_t i = 0; i < n; i++)
        device[i] = p->device[live[i]];
    p->device = device;
    p->n_devices = n;
}

/* Most to do for each of its workers, of the stages that can take one more. */
static dml_placement_stage *busiest(const dml_placement_problem *p, const dml_placement *found)
{
    dml_placement_stage *most = NULL;
    for (int32_t s = 0; s < found->n_stages; s++) {
        dml_placement_stage *stage = &found->stage[s];
        if (stage->replicas >= p->mbs) continue;
        if (!most || stage->work_ns > most->work_ns) most = stage;
    }
    return most;
}

static void add_device(dml_placement_stage *stage, int32_t device, dml_arena *arena)
{
    int32_t *all = DML_NEW_N(arena, int32_t, stage->replicas + 1), n = 0;
    while (n < stage->replicas && stage->device[n] < device) {
        all[n] = stage->device[n];
        n++;
    }
    all[n] = device;
    for (; n < stage->replicas; n++)
        all[n + 1] = stage->device[n];
    stage->device = all;
    stage->replicas++;
}

static dml_err use_all(const dml_placement_problem *p, dml_arena *arena, dml_placement *found)
{
    bool *used = DML_NEW_N(arena, bool, p->n_devices);
    for (int32_t s = 0; s < found->n_stages; s++)
        for (int32_t i = 0; i < found->stage[s].replicas; i++)
            used[found->stage[s].device[i]] = true;
    for (int32_t d = 0; d < p->n_devices; d++) {
        dml_placement_stage *stage = used[d] ? NULL : busiest(p, found);
        if (used[d]) continue;
        if (!stage)
            DML_FAIL(DML_ERR_SPEC, "%d workers are too many for %d stages and %d micro-batches",
                     p->n_devices, found->n_stages, p->mbs);
        add_device(stage, d, arena);
        for (int32_t s = 0; s < found->n_stages; s++)
            found->stage[s].share = NULL;
        dml_placement_price_of(p, arena, found);
    }
    return DML_ERR_OK;
}

/* ---- as text ----------------------------------------------------------------------------------------- */

static void print_ints(dml_str *out, const int32_t *v, const int32_t *number, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        dml_str_printf(out, "%s%d", i ? "," : "[", number ? number[v[i]] : v[i]);
    dml_str_printf(out, "]");
}

static const char *finish(dml_str *text, dml_arena *arena)
{
    const char *copy = dml_arena_strdup(arena, dml_str_text(text));
    dml_str_free(text);
    return copy;
}

static const char *stages_override(const dml_placement *found, const int32_t *live,
                                   dml_arena *arena)
{
    dml_str out = {0};
    dml_str_printf(&out, "parallelism.stages=[");
    for (int32_t s = 0; s < found->n_stages; s++) {
        const dml_placement_stage *stage = &found->stage[s];
        dml_str_printf(&out, "%s{workers: ", s ? ", " : "");
        print_ints(&out, stage->device, live, stage->replicas);
        dml_str_printf(&out, ", shares: ");
        print_ints(&out, stage->share, NULL, stage->replicas);
        dml_str_printf(&out, "}");
    }
    dml_str_printf(&out, "]");
    return finish(&out, arena);
}

static const char *split_override(const dml_placement *found, dml_arena *arena)
{
    dml_str out = {0};
    int32_t *layers = DML_NEW_N(arena, int32_t, found->n_stages);
    for (int32_t s = 0; s < found->n_stages; s++)
        layers[s] = found->stage[s].end - found->stage[s].begin;
    dml_str_printf(&out, "parallelism.split=");
    print_ints(&out, layers, NULL, found->n_stages);
    return finish(&out, arena);
}

const char *dml_lost_override(const dml_plan *first, const bool *lost, dml_arena *arena)
{
    dml_str out = {0};
    const char *comma = "[";
    dml_str_printf(&out, "parallelism.lost=");
    for (int32_t w = 0; w < first->workers; w++) {
        if (!lost[w]) continue;
        dml_str_printf(&out, "%s%d", comma, w);
        comma = ",";
    }
    dml_str_printf(&out, "]");
    return finish(&out, arena);
}

/* Whoever has most to do is at work all the time. */
static int64_t work_bound_ns(const dml_placement_problem *p, const dml_placement *found)
{
    double most = 0;
    for (int32_t s = 0; s < found->n_stages; s++) {
        const dml_placement_stage *stage = &found->stage[s];
        double pass_ns = 0;
        for (int32_t l = stage->begin; l < stage->end; l++)
            pass_ns += (double)(p->layer[l].ns[0] + p->layer[l].ns[1] + p->layer[l].ns[2]);
        for (int32_t i = 0; i < stage->replicas; i++) {
            const double ns = stage->share[i] * pass_ns / p->device[stage->device[i]].speed;
            most = ns > most ? ns : most;
        }
    }
    return (int64_t)most;
}

dml_err dml_recut(const dml_plan *first, const bool *lost, bool frugal, dml_arena *arena,
                  const char *override[DML_RECUT_OVERRIDES], int64_t *bound_ns)
{
    int32_t *live = DML_NEW_N(arena, int32_t, first->workers);
    const int32_t n = live_of(first, lost, live);
    dml_placement_problem p;
    dml_placement found;
    DML_TRY(dml_model_placement(first->spec, &first->model, first->workers, arena, &p));
    keep_devices(&p, live, n, arena);
    p.objective = frugal ? DML_OBJECTIVE_MEMORY : DML_OBJECTIVE_THROUGHPUT;
    DML_TRY(dml_placement_find(&p, arena, &found));
    DML_TRY(use_all(&p, arena, &found));
    *bound_ns = work_bound_ns(&p, &found);
    memset(override, 0, DML_RECUT_OVERRIDES * sizeof *override);
    override[0] = dml_lost_override(first, lost, arena);
    override[1] = "parallelism.schedule=" DML_ORDER_AUTO;
    override[2] = stages_override(&found, live, arena);
    override[3] = split_override(&found, arena);
    return DML_ERR_OK;
}
