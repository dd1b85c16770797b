/* engine/layers/flatten.c - [height, width, channels] to [features] in PyTorch's order, channels first.
 * One channel or one pixel is in that order already, and the output is the input's bytes. */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    const int64_t elems = dml_shape_elems(l->in);
    if (elems > INT32_MAX)
        return dml_layer_fail(m, l, "(flatten) would give %lld features", (long long)elems);
    l->out = (dml_shape){1, {(int32_t)elems}};
    l->alias = l->in.rank == 1 || l->in.dim[2] == 1 || l->in.dim[0] * l->in.dim[1] == 1;
    return DML_ERR_OK;
}

/* The features as the image [channels, height, width] they are. */
static dml_tensor planes(const dml_layer_call *c, const dml_tensor *features)
{
    const dml_shape s = c->layer->in;
    return dml_tensor_of(features->data, features->dtype, 4,
                         (const int64_t[]){c->run->rows, s.dim[2], s.dim[0], s.dim[1]});
}

static dml_err forward(const dml_layer_call *c)
{
    const dml_tensor y = planes(c, &c->y);
    return c->kt->nhwc_to_nchw(c->k, &y, &c->x);
}

static dml_err backward_input(const dml_layer_call *c)
{
    const dml_tensor dy = planes(c, &c->dy);
    return c->kt->nchw_to_nhwc(c->k, &c->dx, &dy);
}

const dml_layer_class dml_class_FLATTEN = {
    .kernels = DML_USES(nhwc_to_nchw) | DML_USES(nchw_to_nhwc),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
};
