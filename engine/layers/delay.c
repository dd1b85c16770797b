/* engine/layers/delay.c - takes the time of a layer and computes the identity: the output is the input's
 * bytes.  It makes schedules, overlap and recovery measurable where arithmetic would fight for cores. */
#include "engine/layers/layer.h"

/* So that the cut into stages sees delays beside real layers: 10 Gflop/s, about one core. */
enum { FLOPS_PER_NS = 10 };

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    l->out = l->in;
    l->alias = true;
    for (int i = 0; i < 3; i++) {
        if (l->spec->ns[i] < 0)
            return dml_layer_fail(m, l, "(delay) cannot take %lld ns", (long long)l->spec->ns[i]);
        l->flops[i] = l->spec->ns[i] * FLOPS_PER_NS;
    }
    return DML_ERR_OK;
}

static dml_err wait_for(const dml_layer_call *c, int which)
{
    const int64_t ns = c->layer->spec->ns[which];
    return ns > 0 ? c->kt->delay(c->k, ns) : DML_ERR_OK;
}

static dml_err forward(const dml_layer_call *c)
{
    return wait_for(c, 0);
}

static dml_err backward_input(const dml_layer_call *c)
{
    return wait_for(c, 1);
}

static dml_err backward_weight(const dml_layer_call *c)
{
    return wait_for(c, 2);
}

const dml_layer_class dml_class_DELAY = {
    .traits = DML_TIMED,
    .kernels = DML_USES(delay) | DML_USES(nhwc_to_nchw),
    .infer = infer,
    .forward = forward,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
};
