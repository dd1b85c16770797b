/* engine/layers/batch_norm.c - y = (x - mean) / sqrt(var + eps) * weight + bias over the last dim.
 *
 * Training uses the moments of the micro-batch and leaves them in its slot, where backward finds them;
 * evaluation uses the running moments, which move when a step commits (engine/chunk_state.c).
 */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    const int64_t c = l->in.dim[l->in.rank - 1];
    if (!(l->spec->eps > 0))
        return dml_layer_fail(m, l, "(batch_norm) needs eps above 0, not %g", (double)l->spec->eps);
    if (!(l->spec->momentum >= 0 && l->spec->momentum <= 1))
        return dml_layer_fail(m, l, "(batch_norm) needs a momentum of 0 to 1, not %g",
                              (double)l->spec->momentum);
    dml_layer_elementwise(l, 6);
    l->flops[2] = 4 * dml_shape_elems(l->in);
    dml_layer_param(m, l, "weight", DML_PARAM_SCALE, 1, &c, 0, 0);
    dml_layer_param(m, l, "bias", DML_PARAM_BIAS, 1, &c, 0, 0);
    dml_layer_state(m, l, "running_mean", c, 0);
    dml_layer_state(m, l, "running_var", c, 1);
    return DML_ERR_OK;
}

static dml_err forward(const dml_layer_call *c)
{
    const float eps = c->layer->spec->eps;
    if (c->run->train)
        return c->kt->batch_norm_fwd(c->k, eps, &c->y, &c->mean, &c->var, &c->x, &c->param[0],
                                     &c->param[1]);
    return c->kt->batch_norm_eval(c->k, eps, &c->y, &c->x, &c->mean, &c->var, &c->param[0],
                                  &c->param[1]);
}

static dml_err backward_input(const dml_layer_call *c)
{
    return c->kt->batch_norm_bwd(c->k, c->layer->spec->eps, &c->dx, &c->dparam[0], &c->dparam[1],
                                 &c->dy, &c->x, &c->mean, &c->var, &c->param[0]);
}

const dml_layer_class dml_class_BATCH_NORM = {
    .traits = DML_DX_READS_X | DML_JOINT,
    .kernels = DML_USES(batch_norm_fwd) | DML_USES(batch_norm_eval) | DML_USES(batch_norm_bwd) |
               DML_USES(move_moments),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
};
