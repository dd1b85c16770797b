/* engine/layers/pool.c - the largest and the mean of a window.  A kernel of 0 is the whole image. */
#include "engine/layers/layer.h"

static dml_err infer(dml_shaping *m, dml_layer *l)
{
    char text[DML_SHAPE_TEXT];
    if (l->in.rank != 3)
        return dml_layer_fail(m, l, "(pooling) reads an image, not %s",
                              dml_shape_text(l->in, text));
    dml_pool2d *p = &l->pool;
    *p = l->spec->pool;
    l->out = (dml_shape){3, {0, 0, l->in.dim[2]}};
    for (int i = 0; i < 2; i++) {
        if (p->kernel[i] == 0) p->kernel[i] = l->in.dim[i];
        if (p->stride[i] == 0) p->stride[i] = p->kernel[i];
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->pad[i] < 0 || 2 * p->pad[i] > p->kernel[i])
            return dml_layer_fail(
                m, l,
                "(pooling) needs a stride of at least 1 and padding of at most half the "
                "kernel %d, not %d and %d",
                p->kernel[i], p->stride[i], p->pad[i]);
        l->out.dim[i] = dml_window_cells(l->in.dim[i], p->kernel[i], p->stride[i], p->pad[i], 1);
    }
    if (l->out.dim[0] < 1 || l->out.dim[1] < 1)
        return dml_layer_fail(m, l, "(pooling) has a %dx%d window that does not fit into %s",
                              p->kernel[0], p->kernel[1], dml_shape_text(l->in, text));
    l->flops[0] = l->flops[1] = dml_shape_elems(l->out) * p->kernel[0] * p->kernel[1];
    return DML_ERR_OK;
}

/* Keeps which cell of each window was the largest. */
static dml_err max_infer(dml_shaping *m, dml_layer *l)
{
    DML_TRY(infer(m, l));
    l->keep_elems = dml_shape_elems(l->out);
    return DML_ERR_OK;
}

/* `keep` in the output's shape. */
static dml_tensor which(const dml_layer_call *c)
{
    const dml_shape s = c->layer->out;
    return dml_tensor_of(c->keep.data, DML_I32, 4,
                         (const int64_t[]){c->run->rows, s.dim[0], s.dim[1], s.dim[2]});
}

static dml_err max_forward(const dml_layer_call *c)
{
    const dml_tensor w = which(c);
    return c->kt->max_pool_fwd(c->k, &c->layer->pool, &c->y, &w, &c->x);
}

static dml_err max_backward(const dml_layer_call *c)
{
    const dml_tensor w = which(c);
    return c->kt->max_pool_bwd(c->k, &c->layer->pool, &c->dx, &c->dy, &w);
}

static dml_err avg_forward(const dml_layer_call *c)
{
    return c->kt->avg_pool_fwd(c->k, &c->layer->pool, &c->y, &c->x);
}

static dml_err avg_backward(const dml_layer_call *c)
{
    return c->kt->avg_pool_bwd(c->k, &c->layer->pool, &c->dx, &c->dy);
}

const dml_layer_class dml_class_MAX_POOL2D = {
    .kernels = DML_USES(max_pool_fwd) | DML_USES(max_pool_bwd),
    .infer = max_infer,
    .forward = max_forward,
    .backward_input = max_backward,
};

const dml_layer_class dml_class_AVG_POOL2D = {
    .kernels = DML_USES(avg_pool_fwd) | DML_USES(avg_pool_bwd),
    .infer = infer,
    .forward = avg_forward,
    .backward_input = avg_backward,
};
