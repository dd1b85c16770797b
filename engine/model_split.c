/* engine/model_split.c - where to cut the layers into stages.
 *
 * Legal borders cut the chain into segments that no stage may split:
 *
 *   conv1 bn1 | relu1 | conv2 bn2 relu2 conv3 add1 | relu3 | fc loss
 *                       (a residual block)            (the loss stays with its input)
 *
 * auto is the exact cut of engine/partition.h with flops for times and no limits.  Flops foretell no time to the
 * percent, so behind the slowest stage only differences of 1/64 of it count; then fewer bytes do.
 *
 * Under parallelism.stages the speed of a stage is 1 / load, load being the most that one of its workers has to run
 * over all the stages it holds: the sum of its shares of them.  If load x flops <= L for every stage, no worker has
 * more than L to do:  sum of share x flops <= sum of share x L / load <= L.
 */
#include "engine/model.h"

#include "engine/layers/layer.h"
#include "engine/partition.h"

#include <math.h>

enum { GRAIN = 64 };

static bool may_end(const dml_model *model, int32_t layer)
{
    return model->layer[layer].may_end_stage || layer + 1 == model->n_layers;
}

/* Fills in the speeds; 1 everywhere for equal pipelines. */
static void set_speeds(const dml_spec *spec, int32_t stages, dml_arena *arena,
                       dml_partition_stage *out)
{
    const dml_stage_spec *stage = spec->parallelism.stage;
    const int32_t placed = spec->parallelism.n_stages;
    double *load = DML_NEW_N(arena, double, dml_spec_workers(spec));
    for (int32_t s = 0; s < placed; s++) {
        double all = 0.0;
        for (int32_t i = 0; i < stage[s].workers.n; i++)
            all += stage[s].shares.v[i];
        for (int32_t i = 0; i < stage[s].workers.n; i++)
            load[stage[s].workers.v[i]] += stage[s].shares.v[i] / all;
    }
    for (int32_t s = 0; s < stages; s++) {
        double most = placed > 0 ? 0.0 : 1.0;
        for (int32_t i = 0; s < placed && i < stage[s].workers.n; i++)
            most = fmax(most, load[stage[s].workers.v[i]]);
        out[s].speed = 1.0 / most;
    }
}

static dml_err split_auto(const dml_spec *spec, const dml_model *model, int32_t stages,
                          dml_arena *arena, int32_t *begin)
{
    dml_partition_layer *layer = DML_NEW_N(arena, dml_partition_layer, model->n_layers);
    dml_partition_stage *stage = DML_NEW_N(arena, dml_partition_stage, stages);
    for (int32_t i = 0; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        layer[i] = (dml_partition_layer){
            .name = l->spec->name,
            .ns = {l->flops[0], l->flops[1], l->flops[2]},
            .out_bytes = dml_shape_elems(l->out) * (int64_t)sizeof(float),
            .may_end_stage = may_end(model, i),
        };
    }
    set_speeds(spec, stages, arena, stage);
    return dml_partition(&(dml_partition_problem){.layer = layer,
                                                  .stage = stage,
                                                  .n_layers = model->n_layers,
                                                  .n_stages = stages,
                                                  .grain = GRAIN},
                         begin);
}

/* Equal counts of the n segments, the longer stages last. */
static void split_uniform(const dml_model *model, int32_t stages, int32_t n, int32_t *begin)
{
    begin[0] = 0;
    int32_t s = 1;
    for (int32_t i = 0, segments = 0; i < model->n_layers; i++)
        if (may_end(model, i) && ++segments == (int32_t)((int64_t)s * n / stages))
            begin[s++] = i + 1;
}

/* The join that a cut before layer `at` would tear from its other branch. */
static const dml_layer *torn_join(const dml_model *model, int32_t at)
{
    for (int32_t i = at; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        const bool body = l->spec->input < at - 1, shortcut = l->spec->with < at - 1;
        if ((l->cls->traits & DML_JOIN) && (body || shortcut)) return l;
    }
    return NULL;
}

static dml_err split_list(const dml_spec *spec, const dml_model *model, int32_t stages,
                          int32_t *begin)
{
    const dml_place place = dml_spec_place(spec, "parallelism.split");
    const char *key = "parallelism.split";
    begin[0] = 0;
    for (int32_t s = 0; s < stages; s++) {
        if (spec->parallelism.split_list[s] < 1)
            return dml_spec_fail(spec, place, key, "stage %d would have no layers", s);
        begin[s + 1] = begin[s] + spec->parallelism.split_list[s];
    }
    const int32_t total = begin[stages], n = model->n_layers;
    if (total != n && total != n - 1)
        return dml_spec_fail(spec, place, key,
                             "the split lists %d layers, but the model has %d before its loss",
                             total, n - 1);
    begin[stages] = n;
    for (int32_t s = 1; s < stages; s++) {
        if (model->layer[begin[s] - 1].may_end_stage) continue;
        const char *first = model->layer[begin[s]].spec->name;
        const dml_layer *torn = torn_join(model, begin[s]);
        if (torn)
            return dml_spec_fail(
                spec, place, key,
                "stage %d would begin at layer '%s', inside the residual block that ends "
                "with '%s'",
                s, first, torn->spec->name);
        return dml_spec_fail(spec, place, key, "stage %d would hold nothing but the loss", s);
    }
    return DML_ERR_OK;
}

dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        int32_t *begin)
{
    if (stages < 1) DML_FAIL(DML_ERR_BUG, "a model in %d stages", stages);
    if (spec->parallelism.split == DML_SPLIT_LIST) return split_list(spec, model, stages, begin);

    int32_t segments = 0;
    for (int32_t i = 0; i < model->n_layers; i++)
        segments += may_end(model, i);
    if (stages > segments) {
        const char *key = spec->parallelism.n_stages > 0 ? "parallelism.stages"
                                                         : "parallelism.pipeline_parallel_size";
        return dml_spec_fail(
            spec, dml_spec_place(spec, key), key,
            "%d stages, but the model can be cut into %d at most (a residual block stays "
            "whole, and the loss with the layer before it)",
            stages, segments);
    }
    if (spec->parallelism.split == DML_SPLIT_UNIFORM) {
        split_uniform(model, stages, segments, begin);
        return DML_ERR_OK;
    }
    dml_arena arena = {0};
    const dml_err err = split_auto(spec, model, stages, &arena, begin);
    dml_arena_free(&arena);
    return err;
}
