/* engine/layers/add.c - joins the two branches of a residual block; its gradient is that of both. */
#include "engine/layers/layer.h"

#include <string.h>

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    const dml_shape with = l->out;
    char body[DML_SHAPE_TEXT], shortcut[DML_SHAPE_TEXT];
    if (memcmp(&l->in, &with, sizeof with) != 0)
        return dml_layer_fail(
            m, l,
            "(residual) cannot add %s of the body to %s of the shortcut: both branches must "
            "end in one shape",
            dml_shape_text(l->in, body), dml_shape_text(with, shortcut));
    l->out = l->in;
    l->flops[0] = dml_shape_elems(l->in);
    return DML_ERR_OK;
}

static dml_err forward(const dml_layer_call *c)
{
    return c->kt->add(c->k, &c->y, &c->x, &c->with);
}

const dml_layer_class dml_class_ADD = {
    .traits = DML_JOIN | DML_Y_MAY_BE_X,
    .kernels = DML_USES(add),
    .infer = infer,
    .forward = forward,
};
