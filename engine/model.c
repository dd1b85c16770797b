/* engine/model.c - one walk down the layers: shapes, parameters, costs, and where a stage may end. */
#include "engine/model.h"

#include "engine/layers/layer.h"

int64_t dml_shape_elems(dml_shape s)
{
    int64_t n = 1;
    for (int32_t i = 0; i < s.rank; i++)
        n *= s.dim[i];
    return n;
}

/* The spec has PyTorch's order, [channels, height, width]; the engine keeps channels last. */
static dml_err input_shape(const dml_spec *spec, dml_shape *out)
{
    const int32_t *in = spec->model.input;
    if (spec->model.input_rank != 1 && spec->model.input_rank != 3)
        DML_FAIL(DML_ERR_SPEC,
                 "model.input is [features] or [channels, height, width], not %d numbers",
                 spec->model.input_rank);
    *out = (dml_shape){1, {in[0]}};
    if (spec->model.input_rank == 3) *out = (dml_shape){3, {in[1], in[2], in[0]}};
    for (int32_t i = 0; i < out->rank; i++)
        if (out->dim[i] < 1) DML_FAIL(DML_ERR_SPEC, "model.input has a side of %d", out->dim[i]);
    return DML_ERR_OK;
}

/* Output shape of layer `i`, or of the model's input for -1. */
static dml_shape shape_of(const dml_model *model, int32_t i)
{
    return i < 0 ? model->input : model->layer[i].out;
}

/* Whether a parameter lies at or before the output of layer `i`. */
static bool trained(const dml_model *model, int32_t i)
{
    if (i < 0) return false;
    const dml_layer *l = &model->layer[i];
    return l->back || l->param_end > l->param_begin;
}

static int32_t value_of(const dml_model *model, int32_t i)
{
    return i < 0 ? -1 : model->layer[i].value;
}

static dml_err add_layer(dml_shaping *m, int32_t i)
{
    dml_model *model = m->model;
    dml_layer *l = &model->layer[i];
    const dml_layer_spec *s = l->spec = &m->spec->model.layers[i];
    l->cls = dml_layer_class_of(s->kind);
    const bool join = l->cls->traits & DML_JOIN, loss = l->cls->traits & DML_LOSS;
    if (s->input >= i || s->input < -1 || (join && (s->with >= i || s->with < -1)))
        return dml_layer_fail(m, l, "reads a layer that is not before it");
    if (loss != (i == model->n_layers - 1))
        return dml_layer_fail(
            m, l, loss ? "is a loss, and not the last layer" : "is the last layer, and not a loss");

    l->in = shape_of(model, s->input);
    if (join) l->out = shape_of(model, s->with);
    l->param_begin = model->n_params;
    l->state_begin = model->n_states;
    DML_TRY(l->cls->infer(m, l));
    l->param_end = model->n_params;
    l->state_end = model->n_states;
    l->value = l->alias ? value_of(model, s->input) : i;
    l->back = trained(model, s->input) || (join && trained(model, s->with));
    if (!l->back && !(l->cls->traits & DML_TIMED)) l->flops[1] = 0;
    return DML_ERR_OK;
}

static bool reads(const dml_model *model, int32_t layer, int32_t value)
{
    const dml_layer *l = &model->layer[layer];
    return value_of(model, l->spec->input) == value ||
           (l->cls->traits & DML_JOIN && value_of(model, l->spec->with) == value);
}

/* Whether layer `r` reads anything from below layer i + 1 but the value that i leaves. */
static bool reads_past(const dml_model *model, int32_t r, int32_t i)
{
    const dml_layer *l = &model->layer[r];
    const int32_t left = model->layer[i].value, input = l->spec->input, with = l->spec->with;
    return (input <= i && value_of(model, input) != left) ||
           (l->cls->traits & DML_JOIN && with <= i && value_of(model, with) != left);
}

/* A stage may end after layer i when the next layer reads what it leaves, so that something crosses from each stage to
 * the next, and when no layer above reads the loaded batch by another way: only the first stage has it.  The loss
 * stays with the layer it reads. */
static void mark_borders(dml_model *model)
{
    for (int32_t i = 0; i + 2 < model->n_layers; i++) {
        dml_layer *l = &model->layer[i];
        bool others = false, batch = false;
        for (int32_t r = i + 1; r < model->n_layers; r++) {
            batch = batch || (l->value != -1 && reads(model, r, -1));
            others = others || reads_past(model, r, i);
        }
        l->may_end_stage = reads(model, i + 1, l->value) && !batch;
        l->ends_alone = l->may_end_stage && !others;
    }
}

dml_err dml_model_make(const dml_spec *spec, dml_arena *arena, dml_model *out)
{
    const int32_t n = spec->model.n_layers;
    if (n < 1) DML_FAIL(DML_ERR_SPEC, "the model has no layers");
    dml_model model = {
        .layer = DML_NEW_N(arena, dml_layer, n),
        .n_layers = n,
        .param = DML_NEW_N(arena, dml_param, DML_LAYER_PARAMS * (int64_t)n),
        .state = DML_NEW_N(arena, dml_state, 2 * (int64_t)n),
        .classes = spec->model.classes,
    };
    DML_TRY(input_shape(spec, &model.input));
    dml_shaping maker = {.spec = spec, .arena = arena, .model = &model};
    for (int32_t i = 0; i < n; i++)
        DML_TRY(add_layer(&maker, i));
    mark_borders(&model);
    *out = model;
    return DML_ERR_OK;
}

dml_dtype dml_act_type(const dml_spec *spec)
{
    switch (spec->training.precision) {
    case DML_PRECISION_FP32:
    case DML_PRECISION_TF32: return DML_F32;
    case DML_PRECISION_BF16: return DML_BF16;
    case DML_PRECISION_FP16: return DML_F16;
    }
    return DML_F32;
}

const char *dml_precision_name(dml_precision precision)
{
    static const char *const name_of[] = {[DML_PRECISION_FP32] = "fp32",
                                          [DML_PRECISION_TF32] = "tf32",
                                          [DML_PRECISION_BF16] = "bf16",
                                          [DML_PRECISION_FP16] = "fp16"};
    return name_of[precision];
}

static dml_err check_kernels(uint64_t need, const dml_kernel_table *table, const char *backend,
                             const char *who)
{
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        if ((need >> kernel & 1) && !dml_kernel_here(table, kernel))
            DML_FAIL(DML_ERR_UNAVAILABLE, "backend '%s' has no kernel '%s', which %s needs",
                     backend, dml_kernel_name(kernel), who);
    return DML_ERR_OK;
}

dml_err dml_model_check_kernels(const dml_model *model, const dml_kernel_table *table,
                                const char *backend)
{
    for (int32_t i = 0; i < model->n_layers; i++)
        DML_TRY(check_kernels(model->layer[i].cls->kernels, table, backend,
                              model->layer[i].spec->name));
    return check_kernels(DML_USES(add) | DML_USES(fill) | DML_USES(accumulate) | DML_USES(convert),
                         table, backend, "adding up gradients");
}

enum { ASSUMED_FLOPS_PER_NS = 50 };

int64_t dml_layer_ns(const dml_spec *spec, const dml_model *model, int32_t layer, dml_pass pass)
{
    const dml_layer *l = &model->layer[layer];
    const int32_t rows = spec->training.micro_batch_size;
    if (l->spec->kind == DML_LAYER_DELAY) return l->spec->ns[pass];
    if (spec->costs) return dml_costs_ns(spec->costs, layer, rows, pass);
    return l->flops[pass] * rows / ASSUMED_FLOPS_PER_NS;
}
