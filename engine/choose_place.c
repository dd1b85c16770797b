/* engine/choose_place.c - unequal stages among the candidates: what the placement solver finds for each micro-batch size.
 *
 *   convolutions  | dense          workers 0 1 2 | 3, shares 5 5 2 | 12
 *
 * The solver works with formulas (engine/placement.h); its best is one candidate, priced like all others: by its plan
 * under schedule auto, to the byte.
 */
#include "engine/choose_impl.h"

#include "engine/model_place.h"

#include <string.h>

enum { MOST_WORKERS = 64, MOST_CELLS = 512 /* stages x micro-batches for the list scheduler */ };

/* Workers are numbered without gaps: only the last may be left out, and only where fewer are allowed. */
static int32_t workers_of(const dml_space *s, const dml_placement *p)
{
    int32_t n = 0, last = -1;
    for (int32_t k = 0; k < p->n_stages; k++) {
        n += p->stage[k].replicas;
        for (int32_t i = 0; i < p->stage[k].replicas; i++)
            if (p->stage[k].device[i] > last) last = p->stage[k].device[i];
    }
    return last + 1 == n && (n == s->world || s->spec->planner.fewer) ? n : 0;
}

static void push_found(dml_space *s, const dml_placement *p, int32_t rows)
{
    dml_stage_spec *stage = DML_NEW_N(s->arena, dml_stage_spec, p->n_stages);
    int32_t *split = DML_NEW_N(s->arena, int32_t, p->n_stages);
    for (int32_t k = 0; k < p->n_stages; k++) {
        const dml_placement_stage *from = &p->stage[k];
        stage[k] = (dml_stage_spec){{from->device, from->replicas}, {from->share, from->replicas}};
        split[k] = from->end - from->begin;
    }
    const bool open = !dml_space_fixed(s->spec, "parallelism.recompute");
    const dml_candidate c = {.stage = stage,
                             .n_stages = p->n_stages,
                             .split = split,
                             .workers = workers_of(s, p),
                             .micro_batch = rows,
                             .schedule = DML_ORDER_AUTO,
                             .recompute =
                                 open ? DML_RECOMPUTE_NONE : s->spec->parallelism.recompute};
    dml_space_push(s, &c);
}

/* What is written of a layout is about equal pipelines, or is a placement already. */
static bool is_open(const dml_spec *spec)
{
    static const char *const key[] = {"parallelism.pipeline_parallel_size",
                                      "parallelism.data_parallel_size",
                                      "parallelism.virtual_pipeline_stages",
                                      "parallelism.stages",
                                      "parallelism.schedule",
                                      "parallelism.split"};
    for (size_t k = 0; k < sizeof key / sizeof *key; k++)
        if (dml_space_fixed(spec, key[k])) return false;
    return true;
}

void dml_space_place(dml_space *s, int32_t rows)
{
    if (!is_open(s->spec) || s->world < 2 || s->world > MOST_WORKERS) return;
    const dml_candidate shape = {.ranks = 1,
                                 .replicas = 1,
                                 .virtual_stages = 1,
                                 .micro_batch = rows,
                                 .schedule = DML_ORDER_AUTO};
    const dml_spec v = dml_candidate_spec(s->spec, &shape);
    dml_placement_problem p;
    dml_placement found;
    if (dml_model_placement(&v, &s->model, s->world, s->arena, &p) != DML_ERR_OK) return;
    if (dml_placement_find(&p, s->arena, &found) != DML_ERR_OK) return;
    if (found.n_stages < 2 || found.n_stages * (int64_t)p.mbs > MOST_CELLS) return;
    if (workers_of(s, &found) > 0) push_found(s, &found, rows);
}
