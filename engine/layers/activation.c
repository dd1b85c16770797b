/* engine/layers/activation.c - element-wise curves.  Relu and tanh go back from their output, so their
 * input may be overwritten; gelu needs its input. */
#include "engine/layers/layer.h"

static dml_err infer_relu(dml_shaping *m, dml_layer *l)
{
    (void)m;
    dml_layer_elementwise(l, 1);
    return DML_ERR_OK;
}

static dml_err infer_curve(dml_shaping *m, dml_layer *l)
{
    (void)m;
    dml_layer_elementwise(l, 10);
    return DML_ERR_OK;
}

static dml_err relu_forward(const dml_layer_call *c)
{
    return c->kt->relu_fwd(c->k, &c->y, &c->x);
}

static dml_err relu_backward(const dml_layer_call *c)
{
    return c->kt->relu_bwd(c->k, &c->dx, &c->dy, &c->y);
}

static dml_err gelu_forward(const dml_layer_call *c)
{
    return c->layer->spec->tanh_form ? c->kt->gelu_tanh_fwd(c->k, &c->y, &c->x)
                                     : c->kt->gelu_fwd(c->k, &c->y, &c->x);
}

static dml_err gelu_backward(const dml_layer_call *c)
{
    return c->layer->spec->tanh_form ? c->kt->gelu_tanh_bwd(c->k, &c->dx, &c->dy, &c->x)
                                     : c->kt->gelu_bwd(c->k, &c->dx, &c->dy, &c->x);
}

static dml_err tanh_forward(const dml_layer_call *c)
{
    return c->kt->tanh_fwd(c->k, &c->y, &c->x);
}

static dml_err tanh_backward(const dml_layer_call *c)
{
    return c->kt->tanh_bwd(c->k, &c->dx, &c->dy, &c->y);
}

const dml_layer_class dml_class_RELU = {
    .traits = DML_DX_READS_Y | DML_Y_MAY_BE_X | DML_DX_MAY_BE_DY,
    .kernels = DML_USES(relu_fwd) | DML_USES(relu_bwd),
    .infer = infer_relu,
    .forward = relu_forward,
    .backward_input = relu_backward,
};

const dml_layer_class dml_class_GELU = {
    .traits = DML_DX_READS_X | DML_DX_MAY_BE_DY,
    .kernels =
        DML_USES(gelu_fwd) | DML_USES(gelu_bwd) | DML_USES(gelu_tanh_fwd) | DML_USES(gelu_tanh_bwd),
    .infer = infer_curve,
    .forward = gelu_forward,
    .backward_input = gelu_backward,
};

const dml_layer_class dml_class_TANH = {
    .traits = DML_DX_READS_Y | DML_Y_MAY_BE_X | DML_DX_MAY_BE_DY,
    .kernels = DML_USES(tanh_fwd) | DML_USES(tanh_bwd),
    .infer = infer_curve,
    .forward = tanh_forward,
    .backward_input = tanh_backward,
};
