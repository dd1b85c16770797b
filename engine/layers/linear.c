/* engine/layers/linear.c - y = x W^T + b; weight [out, in], bias [out]. */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    char text[DML_SHAPE_TEXT];
    const int64_t in = l->in.dim[0], out = l->spec->out;
    if (l->in.rank != 1)
        return dml_layer_fail(m, l, "(linear) reads features, not %s: put a flatten before it",
                              dml_shape_text(l->in, text));
    if (out < 1)
        return dml_layer_fail(m, l, "(linear) needs at least one feature, not %d", (int)out);
    l->out = (dml_shape){1, {(int32_t)out}};
    for (int i = 0; i < 3; i++)
        l->flops[i] = 2 * in * out;
    dml_layer_param(m, l, "weight", DML_PARAM_WEIGHT, 2, (const int64_t[]){out, in}, in, out);
    if (l->spec->bias) dml_layer_param(m, l, "bias", DML_PARAM_BIAS, 1, &out, in, out);
    return DML_ERR_OK;
}

static dml_err forward(const dml_layer_call *c)
{
    return c->kt->linear_fwd(c->k, &c->y, &c->x, &c->param[0], dml_present(&c->param[1]));
}

static dml_err backward_input(const dml_layer_call *c)
{
    return c->kt->linear_bwd_input(c->k, &c->dx, &c->dy, &c->param[0]);
}

static dml_err backward_weight(const dml_layer_call *c)
{
    return c->kt->linear_bwd_weight(c->k, &c->dparam[0], dml_present(&c->dparam[1]), &c->dy, &c->x);
}

const dml_layer_class dml_class_LINEAR = {
    .traits = DML_DW_READS_X | DML_W_LIKE_X,
    .kernels = DML_USES(linear_fwd) | DML_USES(linear_bwd_input) | DML_USES(linear_bwd_weight),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
};
