/* engine/model_place.c - layers, devices and links of a placement, from a spec. */
#include "engine/model_place.h"

#include "engine/plan.h"
#include "engine/split_stages.h"

static bool ends_stage(const dml_model *model, int32_t i)
{
    return i + 1 == model->n_layers || model->layer[i].may_end_stage;
}

static dml_partition_layer layer_of(const dml_spec *spec, const dml_model *model, int32_t i)
{
    const dml_layer *l = &model->layer[i];
    dml_partition_layer layer = {
        .name = l->spec->name,
        .out_bytes = dml_shape_elems(l->out) * spec->training.micro_batch_size *
                     dml_dtype_bytes(dml_act_type(spec)),
        .may_end_stage = ends_stage(model, i),
    };
    for (dml_pass pass = 0; pass < DML_PASSES; pass++)
        layer.ns[pass] = dml_layer_ns(spec, model, i, pass);
    if (spec->parallelism.recompute != DML_RECOMPUTE_NONE)
        layer.ns[DML_PASS_INPUT] += layer.ns[DML_PASS_FORWARD];
    return layer;
}

typedef struct bytes_of {
    const dml_spec *spec;
    const dml_model *model;
} bytes_of;

/* As 1F1B holds them: an input ahead of those in flight, two gradients from above, one to below. */
static void stage_bytes(void *of, int32_t begin, int32_t end, int64_t *once, int64_t *each)
{
    const bytes_of *b = of;
    dml_stage_need need;
    const dml_err err = dml_stage_need_of(b->spec, b->model, begin, end, false, &need);
    DML_ASSERT_OP(err, ==, DML_ERR_OK); /* each piece was planned before */
    *once = need.once + need.in + 2 * need.dy + need.dx + DML_WORKER_ALIGN;
    *each = need.stash + need.in + need.labels;
}

dml_err dml_model_placement(const dml_spec *spec, const dml_model *model, int32_t workers,
                            dml_arena *arena, dml_placement_problem *out)
{
    const int32_t n = model->n_layers;
    dml_partition_layer *layer = DML_NEW_N(arena, dml_partition_layer, n);
    dml_partition_skip *skip = DML_NEW_N(arena, dml_partition_skip, 2 * (int64_t)n);
    dml_placement_device *device = DML_NEW_N(arena, dml_placement_device, workers);
    int64_t *reduce_bytes = DML_NEW_N(arena, int64_t, n);
    for (int32_t i = 0; i < n; i++)
        layer[i] = layer_of(spec, model, i);
    for (int32_t begin = 0, i = 0; i < n; i++) {
        if (!ends_stage(model, i)) continue;
        dml_stage_need need;
        DML_TRY(dml_stage_need_of(spec, model, begin, i + 1, false, &need));
        reduce_bytes[begin] = need.reduce;
        begin = i + 1;
    }
    bytes_of *bytes = DML_NEW(arena, bytes_of);
    *bytes = (bytes_of){spec, model};
    for (int32_t w = 0; w < workers; w++)
        device[w] = (dml_placement_device){dml_spec_speed(spec, w), dml_spec_memory(spec, w)};
    *out = (dml_placement_problem){.layer = layer,
                                   .reduce_bytes = reduce_bytes,
                                   .step_ns = spec->costs ? spec->costs->step_ns : NULL,
                                   .skip = skip,
                                   .device = device,
                                   .links = dml_spec_known_links(spec),
                                   .n_layers = n,
                                   .n_skips = dml_model_skips(model, skip),
                                   .n_devices = workers,
                                   .mbs = spec->training.num_microbatches,
                                   .objective = spec->planner.objective,
                                   .bytes = stage_bytes,
                                   .of = bytes};
    return DML_ERR_OK;
}
