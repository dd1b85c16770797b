/* engine/model_split.c - where to cut the layers into stages.
 *
 * Legal borders cut the chain into segments that no stage may split.  At most of them one value crosses; at the
 * others (:) a skip leads past, too:
 *
 *   conv1 bn1 | relu1 | conv2 : bn2 : relu2 : conv3 : add1 | relu3 | fc loss
 *                       (a residual block)                          (the loss stays with its input)
 *
 * auto is the exact cut of engine/partition.h with flops for times and no limits.  Flops foretell no time to the
 * percent, so behind the slowest stage only differences of 1/64 of it count; then fewer bytes do.  Skips cost bytes
 * and memory: a cut with them is taken where it makes the slowest stage faster by more than a tenth, or where
 * the others do not suffice.
 *
 * Under parallelism.stages the speed of a stage is 1 / load, load being the most that one of its workers has to run
 * over all the stages it holds: the sum of its shares of them.  If load x flops <= L for every stage, no worker has
 * more than L to do:  sum of share x flops <= sum of share x L / load <= L.
 */
#include "engine/model.h"

#include "engine/layers/layer.h"
#include "engine/partition.h"

#include <math.h>
#include <string.h>

enum { GRAIN = 64 };

/* Which borders a cut may use. */
typedef enum borders { ALONE, ALL } borders;

static bool may_end(const dml_model *model, int32_t layer, borders of)
{
    const dml_layer *l = &model->layer[layer];
    return layer + 1 == model->n_layers || (of == ALL ? l->may_end_stage : l->ends_alone);
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

static int32_t count_segments(const dml_model *model, borders of)
{
    int32_t n = 0;
    for (int32_t i = 0; i < model->n_layers; i++)
        n += may_end(model, i, of);
    return n;
}

/* Layer r reads the output of `layer`, beside the chain if it is not what the layer before leaves. */
static void add_skip(const dml_model *model, int32_t r, int32_t layer, dml_partition_skip *skip,
                     int32_t *n)
{
    if (layer < 0 || model->layer[layer].value < 0) return;
    const int32_t value = model->layer[layer].value;
    if (value != model->layer[r - 1].value) skip[(*n)++] = (dml_partition_skip){value, r};
}

static dml_partition_problem problem_of(const dml_spec *spec, const dml_model *model,
                                        int32_t stages, borders of, dml_arena *arena)
{
    const int32_t n = model->n_layers;
    dml_partition_layer *layer = DML_NEW_N(arena, dml_partition_layer, n);
    dml_partition_stage *stage = DML_NEW_N(arena, dml_partition_stage, stages);
    dml_partition_skip *skip = DML_NEW_N(arena, dml_partition_skip, 2 * (int64_t)n);
    int32_t n_skips = 0;
    for (int32_t i = 0; i < n; i++) {
        const dml_layer *l = &model->layer[i];
        layer[i] = (dml_partition_layer){
            .name = l->spec->name,
            .ns = {l->flops[0], l->flops[1], l->flops[2]},
            .out_bytes = dml_shape_elems(l->out) * (int64_t)sizeof(float),
            .may_end_stage = may_end(model, i, of),
        };
        if (of == ALONE) continue;
        add_skip(model, i, l->spec->input, skip, &n_skips);
        if (l->cls->traits & DML_JOIN) add_skip(model, i, l->spec->with, skip, &n_skips);
    }
    set_speeds(spec, stages, arena, stage);
    return (dml_partition_problem){.layer = layer,
                                   .skip = skip,
                                   .stage = stage,
                                   .n_layers = n,
                                   .n_skips = n_skips,
                                   .n_stages = stages,
                                   .grain = GRAIN};
}

/* The best cut over those borders, and the work of its slowest stage. */
static dml_err cut_over(const dml_spec *spec, const dml_model *model, int32_t stages, borders of,
                        dml_arena *arena, int32_t *begin, int64_t *slowest_ns)
{
    const dml_partition_problem p = problem_of(spec, model, stages, of, arena);
    DML_TRY(dml_partition(&p, begin));
    dml_partition_price *price = DML_NEW_N(arena, dml_partition_price, stages);
    dml_partition_price_of(&p, begin, price);
    *slowest_ns = 0;
    for (int32_t s = 0; s < stages; s++)
        if (price[s].ns > *slowest_ns) *slowest_ns = price[s].ns;
    return DML_ERR_OK;
}

static dml_err split_auto(const dml_spec *spec, const dml_model *model, int32_t stages,
                          dml_arena *arena, int32_t *begin)
{
    const int32_t alone = count_segments(model, ALONE);
    int64_t alone_ns = INT64_MAX, all_ns = INT64_MAX;
    if (stages <= alone) DML_TRY(cut_over(spec, model, stages, ALONE, arena, begin, &alone_ns));
    if (count_segments(model, ALL) == alone) return DML_ERR_OK;
    int32_t *cut = DML_NEW_N(arena, int32_t, stages + 1);
    DML_TRY(cut_over(spec, model, stages, ALL, arena, cut, &all_ns));
    if (all_ns + all_ns / 10 < alone_ns) memcpy(begin, cut, (size_t)(stages + 1) * sizeof *cut);
    return DML_ERR_OK;
}

/* Equal counts of the segments, the longer stages last. */
static void split_uniform(const dml_model *model, int32_t stages, int32_t *begin)
{
    const borders of = stages <= count_segments(model, ALONE) ? ALONE : ALL;
    const int32_t n = count_segments(model, of);
    begin[0] = 0;
    int32_t s = 1;
    for (int32_t i = 0, segments = 0; i < model->n_layers; i++)
        if (may_end(model, i, of) && ++segments == (int32_t)((int64_t)s * n / stages))
            begin[s++] = i + 1;
}

static bool is_batch(const dml_model *model, int32_t layer)
{
    return layer < 0 || model->layer[layer].value < 0;
}

static dml_err refuse_border(const dml_spec *spec, const dml_model *model, int32_t s, int32_t begin)
{
    const dml_place place = dml_spec_place(spec, "parallelism.split");
    const char *key = "parallelism.split", *first = model->layer[begin].spec->name,
               *last = model->layer[begin - 1].spec->name;
    if (begin == model->n_layers - 1)
        return dml_spec_fail(spec, place, key, "stage %d would hold nothing but the loss", s);
    for (int32_t i = begin; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        const bool with = (l->cls->traits & DML_JOIN) && is_batch(model, l->spec->with);
        if ((is_batch(model, l->spec->input) || with) && !is_batch(model, begin - 1))
            return dml_spec_fail(spec, place, key,
                                 "stage %d would begin at layer '%s', but '%s' reads the loaded "
                                 "batch, which only stage 0 has",
                                 s, first, l->spec->name);
    }
    return dml_spec_fail(spec, place, key,
                         "stage %d would begin at layer '%s', which does not read '%s' before it; "
                         "a stage begins with a layer that does",
                         s, first, last);
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
    for (int32_t s = 1; s < stages; s++)
        if (!model->layer[begin[s] - 1].may_end_stage)
            return refuse_border(spec, model, s, begin[s]);
    return DML_ERR_OK;
}

dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        int32_t *begin)
{
    if (stages < 1) DML_FAIL(DML_ERR_BUG, "a model in %d stages", stages);
    if (spec->parallelism.split == DML_SPLIT_LIST) return split_list(spec, model, stages, begin);

    const int32_t segments = count_segments(model, ALL);
    if (stages > segments) {
        const char *key = spec->parallelism.n_stages > 0 ? "parallelism.stages"
                                                         : "parallelism.pipeline_parallel_size";
        return dml_spec_fail(
            spec, dml_spec_place(spec, key), key,
            "%d stages, but the model can be cut into %d at most (a stage begins with a layer "
            "that reads the one before it; the loss stays with its layer)",
            stages, segments);
    }
    if (spec->parallelism.split == DML_SPLIT_UNIFORM) {
        split_uniform(model, stages, begin);
        return DML_ERR_OK;
    }
    dml_arena arena = {0};
    const dml_err err = split_auto(spec, model, stages, &arena, begin);
    dml_arena_free(&arena);
    return err;
}
