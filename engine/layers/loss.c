/* engine/layers/loss.c - the end of the model: a loss and a count of right answers for the micro-batch's
 * slot, and in training the gradient of the logits, which is this layer's `y`.
 *
 * Both are sums over the rows: the step divides by its samples once (the optimizer's grad_scale), so that
 * a sample weighs the same in a full and in a short micro-batch.
 */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    char text[DML_SHAPE_TEXT];
    if (l->in.rank != 1 || l->in.dim[0] != m->spec->model.classes)
        return dml_layer_fail(m, l, "(loss) compares %d classes, but the layer before it gives %s",
                              m->spec->model.classes, dml_shape_text(l->in, text));
    dml_layer_elementwise(l, 10);
    l->flops[1] = 0;
    return DML_ERR_OK;
}

static const dml_tensor *gradient(const dml_layer_call *c)
{
    return c->run->train ? &c->y : NULL;
}

static dml_err cross_entropy(const dml_layer_call *c)
{
    return c->kt->softmax_xent(c->k, &c->loss, &c->correct, gradient(c), &c->x, &c->labels);
}

static dml_err mse(const dml_layer_call *c)
{
    return c->kt->mse_onehot(c->k, &c->loss, &c->correct, gradient(c), &c->x, &c->labels);
}

const dml_layer_class dml_class_CROSS_ENTROPY = {
    .traits = DML_LOSS | DML_Y_MAY_BE_X,
    .kernels = DML_USES(softmax_xent),
    .infer = infer,
    .forward = cross_entropy,
};

const dml_layer_class dml_class_MSE = {
    .traits = DML_LOSS | DML_Y_MAY_BE_X,
    .kernels = DML_USES(mse_onehot),
    .infer = infer,
    .forward = mse,
};
