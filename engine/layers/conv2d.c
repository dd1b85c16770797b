/* engine/layers/conv2d.c - convolution; weight [out, in / groups, kernel_h, kernel_w], bias [out]. */
#include "engine/layers/layer.h"

static dml_err check(dml_shaping *m, const dml_layer *l)
{
    const dml_conv2d *p = &l->spec->conv;
    char text[DML_SHAPE_TEXT];
    if (l->in.rank != 3)
        return dml_layer_fail(m, l, "(conv2d) reads an image, not %s", dml_shape_text(l->in, text));
    if (l->spec->out < 1)
        return dml_layer_fail(m, l, "(conv2d) needs at least one channel, not %d", l->spec->out);
    if (p->groups < 1 || l->in.dim[2] % p->groups != 0 || l->spec->out % p->groups != 0)
        return dml_layer_fail(m, l,
                              "(conv2d) cannot cut %d input and %d output channels into %d groups",
                              l->in.dim[2], l->spec->out, p->groups);
    for (int i = 0; i < 2; i++)
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->pad[i] < 0 || p->dilation[i] < 1)
            return dml_layer_fail(
                m, l,
                "(conv2d) needs kernel, stride and dilation of at least 1 and padding of "
                "at least 0, not %d, %d, %d and %d",
                p->kernel[i], p->stride[i], p->dilation[i], p->pad[i]);
    return DML_ERR_OK;
}

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    DML_TRY(check(m, l));
    const dml_conv2d *p = &l->spec->conv;
    char text[DML_SHAPE_TEXT];
    l->out = (dml_shape){3, {0, 0, l->spec->out}};
    for (int i = 0; i < 2; i++)
        l->out.dim[i] =
            dml_window_cells(l->in.dim[i], p->kernel[i], p->stride[i], p->pad[i], p->dilation[i]);
    if (l->out.dim[0] < 1 || l->out.dim[1] < 1)
        return dml_layer_fail(m, l, "(conv2d) has a %dx%d kernel that does not fit into %s",
                              p->kernel[0], p->kernel[1], dml_shape_text(l->in, text));

    const int64_t window = (int64_t)p->kernel[0] * p->kernel[1], out = l->spec->out,
                  in = l->in.dim[2] / p->groups;
    for (int i = 0; i < 3; i++)
        l->flops[i] = 2 * window * in * dml_shape_elems(l->out);
    dml_layer_param(m, l, "weight", DML_PARAM_WEIGHT, 4,
                    (const int64_t[]){out, in, p->kernel[0], p->kernel[1]}, in * window,
                    out * window);
    if (l->spec->bias)
        dml_layer_param(m, l, "bias", DML_PARAM_BIAS, 1, &out, in * window, out * window);
    return DML_ERR_OK;
}

static dml_err forward(const dml_layer_call *c)
{
    return c->kt->conv2d_fwd(c->k, &c->layer->spec->conv, &c->y, &c->x, &c->param[0],
                             dml_present(&c->param[1]));
}

static dml_err backward_input(const dml_layer_call *c)
{
    return c->kt->conv2d_bwd_input(c->k, &c->layer->spec->conv, &c->dx, &c->dy, &c->param[0]);
}

static dml_err backward_weight(const dml_layer_call *c)
{
    return c->kt->conv2d_bwd_weight(c->k, &c->layer->spec->conv, &c->dparam[0],
                                    dml_present(&c->dparam[1]), &c->dy, &c->x);
}

const dml_layer_class dml_class_CONV2D = {
    .traits = DML_DW_READS_X | DML_W_LIKE_X,
    .kernels = DML_USES(conv2d_fwd) | DML_USES(conv2d_bwd_input) | DML_USES(conv2d_bwd_weight),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
};
