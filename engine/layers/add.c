/* engine/layers/add.c - joins two values, the branches of a residual block or by name; its gradient is that of both. */
#include "engine/layers/layer.h"

#include <string.h>

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    const dml_shape with = l->out;
    const int32_t other = l->spec->with;
    char x[DML_SHAPE_TEXT], y[DML_SHAPE_TEXT];
    if (memcmp(&l->in, &with, sizeof with) != 0)
        return dml_layer_fail(m, l, "cannot add %s of '%s' to %s of '%s': both must have one shape",
                              dml_shape_text(with, y),
                              other < 0 ? "the input" : m->spec->model.layers[other].name,
                              dml_shape_text(l->in, x), m->spec->model.layers[l->spec->input].name);
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
