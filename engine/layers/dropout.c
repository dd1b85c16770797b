/* engine/layers/dropout.c - y = x mask / (1 - rate) in training, the identity in evaluation.
 *
 * The mask is a pure function of (seed, step, position of the sample in the step's batch, layer), so
 * nothing is kept and backward draws it again, wherever it runs.
 */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    if (!(l->spec->rate >= 0 && l->spec->rate < 1))
        return dml_layer_fail(m, l, "(dropout) needs a rate of at least 0 and below 1, not %g",
                              (double)l->spec->rate);
    dml_layer_elementwise(l, 10);
    return DML_ERR_OK;
}

static dml_err mask(const dml_layer_call *c, const dml_tensor *to, const dml_tensor *from)
{
    const dml_dropout p = {
        .rate = c->layer->spec->rate,
        .key = c->dropout_key,
        .first_sample = c->run->first_sample,
    };
    return c->kt->dropout(c->k, &p, to, from);
}

static dml_err forward(const dml_layer_call *c)
{
    if (c->run->train) return mask(c, &c->y, &c->x);
    if (c->y.data == c->x.data) return DML_ERR_OK;
    return dml_layer_copy(c->kt, c->k, &c->y, &c->x);
}

static dml_err backward_input(const dml_layer_call *c)
{
    return mask(c, &c->dx, &c->dy);
}

const dml_layer_class dml_class_DROPOUT = {
    .traits = DML_Y_MAY_BE_X | DML_DX_MAY_BE_DY,
    .kernels = DML_USES(dropout) | DML_USES(nhwc_to_nchw),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
};
